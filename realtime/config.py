"""Settings: what can be set, what it may be, and where it is read from.

Three sources, the later wins: a TOML file, environment variables ``REALTIME_<NAME>``, keyword arguments. This is the
only module that reads files or the environment. A wrong value is refused with the key, the value and what is
allowed.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from attrs import evolve, field, fields, frozen, validators

from realtime.errors import CommandError, ConfigurationError, ErrorCode
from realtime.topics import DEFAULT_KINDS, Access, Kind, Kinds, Mode, Overflow, PresenceBy, PresenceMode

__all__ = ["Settings", "load_settings"]

_positive: Any = validators.gt(0)
_not_negative: Any = validators.ge(0)
_optional_positive: Any = validators.optional(_positive)


@frozen(kw_only=True)
class Settings:
    """Everything about a server that can be set."""

    #: Loopback unless told otherwise: a server that nobody secured must not be on the network by accident.
    host: str = "127.0.0.1"
    port: int = field(default=8000, validator=[validators.ge(0), validators.le(65535)])
    #: PEM files; both or none. With them the port speaks TLS.
    tls_certificate: str | None = None
    tls_key: str | None = None
    #: For trying things out: anonymous peers may subscribe to and publish on ``room:`` and ``symbol:`` topics.
    dev: bool = False
    #: Whether a peer may connect without saying who it is.
    allow_anonymous: bool = False
    #: Origins of web pages that may connect besides the server's own; ``*`` is every origin.
    origins: tuple[str, ...] = ()
    #: Keys that back ends present to publish over HTTP.
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    #: Options for kinds of topics, by name: a table per kind in the file.
    kinds: Mapping[str, Mapping[str, Any]] = field(factory=dict)

    #: 64 KiB hold every tick and chat line; a file belongs in an object store.
    max_message_bytes: int = field(default=64 * 1024, validator=_positive)
    max_topics: int = field(default=200, validator=_positive)
    #: Requests of one connection that may be under way at once.
    max_requests: int = field(default=64, validator=_positive)
    #: Where a peer is placed when it logs in: ``{user}`` is its user, ``{role}`` each of its roles.
    auto_subscribe: tuple[str, ...] = ("user:{user}", "role:{role}", "global")
    #: Topics that may exist at once in the whole server; each costs about a kilobyte and its history.
    max_server_topics: int = field(default=100_000, validator=_positive)
    #: What the histories of all topics may hold together. Over it, topics that were used least lately forget first.
    max_history_bytes: int = field(default=1 << 30, validator=_positive)
    max_connections: int = field(default=50_000, validator=_positive)
    #: Messages of history that one subscription may ask for.
    recover_limit: int = field(default=1000, validator=_positive)
    #: Idempotency keys that are remembered at once; the oldest goes first.
    idempotency_keys: int = field(default=100_000, validator=_positive)
    #: How long an idempotency key is remembered: longer than any publisher goes on trying.
    idempotency_seconds: float = field(default=300.0, validator=_positive)
    #: Progress sessions that may run at once.
    max_sessions: int = field(default=1000, validator=_positive)
    #: Nodes that one session may report; each is remembered, so that it counts once.
    max_session_nodes: int = field(default=10_000, validator=_positive)
    #: A page that polls, or comes back, still finds out how a session ended.
    session_keep_seconds: float = field(default=600.0, validator=_positive)
    #: A worker that has said nothing for so long has died.
    session_abandoned_seconds: float = field(default=3600.0, validator=_positive)
    #: What may wait for one peer. At 1,000 ticks a second this is one second behind.
    outbox_messages: int = field(default=1000, validator=_positive)
    outbox_bytes: int = field(default=1 << 20, validator=_positive)
    #: The kernel's own buffer for one peer; without a bound a slow reader hides behind megabytes of stale data.
    send_buffer_bytes: int = field(default=64 * 1024, validator=_positive)
    #: What may wait in front of the hub before publishers have to.
    ingress_messages: int = field(default=1024, validator=_positive)
    ingress_bytes: int = field(default=16 << 20, validator=_positive)

    #: Below the 30 to 60 seconds after which common proxies drop a silent connection.
    ping_interval_seconds: float = field(default=25.0, validator=_positive)
    pong_timeout_seconds: float = field(default=10.0, validator=_positive)
    idle_timeout_seconds: float | None = field(default=None, validator=_optional_positive)
    auth_timeout_seconds: float = field(default=5.0, validator=_positive)
    token_warning_seconds: float = field(default=30.0, validator=_not_negative)
    #: A backlog that moves no byte for this long belongs to a dead peer.
    write_stall_timeout_seconds: float = field(default=20.0, validator=_positive)
    #: For the request head, and for the body of a publish.
    request_timeout_seconds: float = field(default=10.0, validator=_positive)
    keep_alive_seconds: float = field(default=60.0, validator=_positive)
    max_head_bytes: int = field(default=32 * 1024, validator=_positive)
    #: How long a shutdown waits for peers that take their time.
    grace_seconds: float = field(default=10.0, validator=_not_negative)
    #: Reconnects after a shutdown are spread over this time.
    reconnect_spread_seconds: float = field(default=10.0, validator=_not_negative)

    def __attrs_post_init__(self) -> None:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ConfigurationError("tls_certificate and tls_key are given together or not at all")
        kinds = self.all_kinds()
        for template in self.auto_subscribe:
            try:
                kinds.split(template.replace("{user}", "1").replace("{role}", "1"))
            except CommandError as error:
                raise ConfigurationError(f"auto_subscribe: {template!r} is not a topic: {error.message}") from None

    @property
    def anonymous(self) -> bool:
        """Whether anonymous peers are served."""
        return self.dev or self.allow_anonymous

    def all_kinds(self) -> Kinds:
        """The kinds: the built-in ones, with the options given here."""
        kinds = Kinds(DEFAULT_KINDS)
        if self.dev:
            for name in ("room", "symbol"):
                kinds = kinds.with_options(name, join=Access.ANYONE, publish=Access.ANYONE)
        for name, options in self.kinds.items():
            kinds = kinds.with_options(name, **_kind_options(name, options))
        return kinds


_KIND_ENUMS: dict[str, type[StrEnum]] = {
    "invalid_code": ErrorCode,
    "join": Access,
    "missing_code": ErrorCode,
    "mode": Mode,
    "overflow": Overflow,
    "presence": PresenceMode,
    "presence_by": PresenceBy,
    "publish": Access,
}


def _kind_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(options, Mapping):
        raise ConfigurationError(f"kinds.{name} = {options!r}: must be a table of options")
    known = {option.name for option in fields(Kind) if option.init and option.name != "name"}
    checked: dict[str, Any] = {}
    for key, value in options.items():
        if key not in known:
            raise ConfigurationError(f"kinds.{name}.{key}: no such option; there are {', '.join(sorted(known))}")
        enum = _KIND_ENUMS.get(key)
        if enum is None:
            checked[key] = value
            continue
        try:
            checked[key] = enum(value)
        except ValueError:
            allowed = ", ".join(enum)
            raise ConfigurationError(f"kinds.{name}.{key} = {value!r}: must be one of {allowed}") from None
    try:
        Kind(name=name, **checked)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"kinds.{name}: {error.args[0]}") from None
    return checked


def load_settings(
    path: str | Path | None = None, *, environ: Mapping[str, str] | None = None, **overrides: Any
) -> Settings:
    """Settings from a file, the environment and keyword arguments; raises `ConfigurationError`."""
    values: dict[str, Any] = {}
    if path is not None:
        values.update(_checked(_read_file(Path(path)), where=str(path)))
    values.update(_from_environment(os.environ if environ is None else environ))
    values.update(_checked(overrides, where="arguments"))
    return Settings(**values)


def _read_file(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: not TOML: {error}") from None


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    known = {attribute.name for attribute in fields(Settings)}
    raw: dict[str, Any] = {}
    for variable, text in environ.items():
        if not variable.startswith("REALTIME_"):
            continue
        name = variable.removeprefix("REALTIME_").lower()
        if name not in known or name == "kinds":
            raise ConfigurationError(f"{variable}: no such setting")
        raw[name] = text
    return _checked(raw, where="environment")


def _checked(values: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """The values in the types of their settings, each checked by itself so that a message can name it."""
    by_name = {attribute.name: attribute for attribute in fields(Settings)}
    checked: dict[str, Any] = {}
    for name, value in values.items():
        attribute = by_name.get(name)
        if attribute is None:
            raise ConfigurationError(f"{name} ({where}): no such setting")
        wanted = str(attribute.type)
        try:
            converted = _convert(value, wanted)
            if attribute.validator is not None:
                attribute.validator(_BLANK, attribute, converted)
        except (ValueError, TypeError) as error:
            shown = "***" if not attribute.repr else repr(value)
            raise ConfigurationError(f"{name} = {shown} ({where}): {error.args[0]}") from None
        checked[name] = converted
    return checked


#: The validators want an instance to speak of.
_BLANK = object()
_WORDS = {"true": True, "yes": True, "1": True, "on": True, "false": False, "no": False, "0": False, "off": False}


def _convert(value: Any, wanted: str) -> Any:
    """A value from TOML, the environment or a caller as ``wanted``: a setting's type as it is written."""
    if "Mapping" in wanted:
        if not isinstance(value, Mapping):
            raise TypeError("must be a table")
        return value
    if value is None and "None" in wanted:
        return None
    if wanted.startswith("tuple"):
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
            raise TypeError("must be a list of texts")
        return tuple(item.strip() for item in items if item.strip())
    if wanted == "bool":
        flag = value if isinstance(value, bool) else _WORDS.get(str(value).lower())
        if flag is None:
            raise TypeError("must be true or false")
        return flag
    if wanted.startswith("int"):
        return _number(value, int, "must be a whole number")
    if wanted.startswith("float"):
        return _number(value, float, "must be a number")
    if not isinstance(value, str):
        raise TypeError("must be a text")
    return value


def _number(value: Any, number: type[int | float], fault: str) -> int | float:
    if isinstance(value, bool) or not isinstance(value, (str, int) if number is int else (str, int, float)):
        raise TypeError(fault)
    try:
        return number(value)
    except ValueError:
        raise TypeError(fault) from None


def with_overrides(settings: Settings, **overrides: Any) -> Settings:
    """A copy with some settings changed, checked like the rest."""
    return evolve(settings, **_checked(overrides, where="arguments"))
