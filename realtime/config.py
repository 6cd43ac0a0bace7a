"""Settings: what can be set, what it may be, and where it is read from.

Three sources, the later wins: a TOML file, environment variables ``REALTIME_<NAME>``, keyword arguments. This is the
only module that reads settings from files or the environment. A wrong value is refused with the key, the value and
what is allowed.
"""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from attrs import evolve, field, fields, frozen, validators

from realtime.api_keys import ApiKeys
from realtime.conversion import check_cookie_name, check_origin, convert
from realtime.errors import CommandError, ConfigurationError, ErrorCode
from realtime.keyring import SUPPORTED, StaticKeys
from realtime.permissions import Policy, Rule
from realtime.tokens import TokenRules
from realtime.topics import DEFAULT_KINDS, Access, Kind, Kinds, Mode, Overflow, PresenceBy, PresenceMode

__all__ = ["Settings", "load_settings"]

#: What the command line reads where it talks to a server (see `realtime.cli.remote`); no settings.
_OF_CLIENTS = frozenset({"REALTIME_URL", "REALTIME_TOKEN", "REALTIME_KEY"})

_positive: Any = validators.gt(0)
_not_negative: Any = validators.ge(0)
_optional_positive: Any = validators.optional(_positive)
_rate: Any = validators.optional(validators.and_(validators.gt(0), validators.lt(math.inf)))
_burst: Any = [validators.ge(1), validators.lt(math.inf)]


def _origins(_settings: object, _attribute: object, origins: tuple[str, ...]) -> None:
    for origin in origins:
        check_origin(origin)


def _cookie_name(_settings: object, _attribute: object, name: str | None) -> None:
    if name is not None:
        check_cookie_name(name)


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
    #: Origins of web pages that may connect besides the server's own; ``*`` is every origin, without its cookies.
    origins: tuple[str, ...] = field(default=(), validator=_origins)
    #: Proxies in front, as addresses or networks, that are believed when they say who asks and how.
    trusted_proxies: tuple[str, ...] = ()
    #: Which headers they say it in. Those of the other sort may come from anybody.
    forwarded_header: Literal["x-forwarded", "forwarded"] = field(
        default="x-forwarded", validator=validators.in_(("x-forwarded", "forwarded"))
    )
    #: Whether the page for operators is served, at ``/admin``. It shows nothing without a key.
    admin_page: bool = True
    #: Keys that back ends present, one line each as ``realtime new-key`` prints it.
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    #: Options for kinds of topics, by name: a table per kind in the file.
    kinds: Mapping[str, Mapping[str, Any]] = field(factory=dict)
    #: Who may do what, a table per rule in the file. With rules, what none of them allows is denied.
    rules: tuple[Mapping[str, Any], ...] = ()
    #: How long a function of one's own may take to say who a peer is, or what it may do.
    authorize_timeout_seconds: float = field(default=5.0, validator=_positive)

    #: How tokens may be signed; none: tokens are left to a function of one's own.
    jwt_algorithms: tuple[str, ...] = ()
    #: The shared secret of HS256, at least 32 bytes.
    jwt_secret: str | None = field(default=None, repr=False)
    #: Files with public keys, PEM or JWK sets.
    jwt_key_files: tuple[str, ...] = ()
    #: Where an identity provider publishes its keys.
    jwt_jwks_url: str | None = None
    jwt_issuer: str | None = None
    jwt_audience: str | None = None
    #: How far the clocks of issuer and server may be apart.
    jwt_leeway_seconds: float = field(default=30.0, validator=[validators.ge(0), validators.le(600)])
    #: A token that is good for ever cannot be taken back by waiting.
    jwt_require_expiry: bool = True
    jwt_user_claim: str = "sub"
    jwt_roles_claim: str = "roles"
    jwt_info_claim: str = "info"
    jwt_topics_claim: str = "topics"
    jwt_rights_claim: str = "rights"
    #: A key that was withdrawn is good for so long at the most.
    jwks_refresh_seconds: float = field(default=300.0, validator=_positive)
    #: Tokens with key ids of their own making must not make us ask the provider for each.
    jwks_retry_seconds: float = field(default=30.0, validator=_positive)
    jwks_timeout_seconds: float = field(default=3.0, validator=_positive)
    #: The cookie that holds a token or the id of a session; None: cookies are not looked at.
    cookie_name: str | None = field(default=None, validator=_cookie_name)
    #: Whether ``?token=`` is taken. URLs end in logs and histories, so tickets are the better way.
    query_tokens: bool = False
    #: Long enough for a page to connect, too short for anything else.
    ticket_seconds: float = field(default=30.0, validator=[validators.gt(0), validators.le(3600)])
    max_tickets: int = field(default=100_000, validator=_positive)
    #: How long a revoked login is remembered: longer than any token is good for.
    revocation_seconds: float = field(default=86_400.0, validator=_positive)
    #: Whether who came, went and was refused is logged. None: by ``realtime serve``, and nowhere else.
    audit: bool | None = None

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
    #: Devices and tabs of one person.
    max_connections_per_user: int | None = field(default=100, validator=_optional_positive)
    #: On all connections together: a few users must not use up what the whole server may have.
    max_topics_per_user: int | None = field(default=2000, validator=_optional_positive)
    #: An office behind one address, and of IPv6 a network of 64 bits. A proxy in front is to be named in
    #: `trusted_proxies`, so that it is not taken for its users.
    max_connections_per_address: int | None = field(default=1000, validator=_optional_positive)
    #: Connections that have not sent their first request: each may take `request_timeout_seconds` for it.
    max_handshakes: int = field(default=2000, validator=_positive)
    #: Connections a second that are let in; about what one core can greet.
    admission_rate: float | None = field(default=2000.0, validator=_rate)
    admission_burst: float = field(default=5000.0, validator=_burst)
    #: Refused attempts a second of one address, in the long run. Over it, its connections are closed unread.
    refusal_rate: float | None = field(default=5.0, validator=_rate)
    refusal_burst: float = field(default=100.0, validator=_burst)
    #: Commands and pings a second of one connection, in the long run.
    command_rate: float | None = field(default=100.0, validator=_rate)
    #: A page that comes back subscribes to all that it had.
    command_burst: float = field(default=500.0, validator=_burst)
    #: Messages a second that one user may publish, on all connections together.
    publish_rate: float | None = field(default=50.0, validator=_rate)
    publish_burst: float = field(default=200.0, validator=_burst)
    #: Arrays and objects within each other, in anything that a peer sends. What reads it after us may be recursive.
    max_json_depth: int = field(default=64, validator=[validators.gt(0), validators.le(500)])
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
        self._check_tokens()
        kinds = self.all_kinds()
        self.policy(kinds)
        ApiKeys(self.api_keys)
        for template in self.auto_subscribe:
            try:
                kinds.split(template.replace("{user}", "1").replace("{role}", "1"))
            except CommandError as error:
                raise ConfigurationError(f"auto_subscribe: {template!r} is not a topic: {error.message}") from None

    def _check_tokens(self) -> None:
        """Keys and algorithms that go together, or not at all."""
        unknown = set(self.jwt_algorithms) - set(SUPPORTED)
        if unknown:
            raise ConfigurationError(
                f"jwt_algorithms: {min(unknown)!r} is not supported; there are {', '.join(SUPPORTED)}"
            )
        if not self.jwt_algorithms:
            self._refuse_idle_tokens()
        elif self.jwt_secret is None and "HS256" in self.jwt_algorithms:
            raise ConfigurationError("jwt_secret: is missing, and jwt_algorithms has HS256; set REALTIME_JWT_SECRET")
        elif self.jwt_secret is not None and "HS256" not in self.jwt_algorithms:
            raise ConfigurationError("jwt_secret needs HS256 in jwt_algorithms")
        public = [name for name in SUPPORTED if name != "HS256"]
        wanted = [name for name in self.jwt_algorithms if name in public]
        sources = [name for name in ("jwt_jwks_url", "jwt_key_files") if getattr(self, name)]
        if wanted and not sources:
            raise ConfigurationError(f"jwt_algorithms: {wanted[0]} needs jwt_jwks_url or jwt_key_files")
        if sources and not wanted:
            raise ConfigurationError(f"{sources[0]} needs one of {', '.join(public)} in jwt_algorithms")
        if self.jwt_jwks_url and (self.jwt_key_files or self.jwt_secret):
            raise ConfigurationError("jwt_jwks_url: the keys come from there alone, or not from there")
        if self.jwt_jwks_url and self.jwks_timeout_seconds >= self.authorize_timeout_seconds:
            # Or a fetch that takes too long would never be told from a login that does.
            raise ConfigurationError(
                f"jwks_timeout_seconds = {self.jwks_timeout_seconds}: must be less than authorize_timeout_seconds"
            )
        if self.jwt_secret is not None:
            StaticKeys.of(secret=self.jwt_secret)

    def _refuse_idle_tokens(self) -> None:
        """Raise `ConfigurationError` for settings of tokens where none are taken: somebody thinks otherwise."""
        for attribute in fields(Settings):
            name = attribute.name
            if name.startswith(("jwt_", "jwks_")) and getattr(self, name) != attribute.default:
                example = "HS256" if name == "jwt_secret" else "RS256"
                raise ConfigurationError(f'{name} needs jwt_algorithms, such as ["{example}"]')

    def policy(self, kinds: Kinds) -> Policy:
        """Who may do what; raises `ConfigurationError`."""
        explicit = {
            (name, verb) for name, options in self.kinds.items() for verb in ("join", "publish") if verb in options
        }
        if self.dev:
            explicit |= {(name, verb) for name in ("room", "symbol") for verb in ("join", "publish")}
        return Policy(kinds, [Rule.of(table, number) for number, table in enumerate(self.rules, 1)], explicit)

    def token_rules(self) -> TokenRules:
        """What a token must be."""
        return TokenRules(
            algorithms=self.jwt_algorithms,
            issuer=self.jwt_issuer,
            audience=self.jwt_audience,
            leeway_seconds=self.jwt_leeway_seconds,
            require_expiry=self.jwt_require_expiry,
            user_claim=self.jwt_user_claim,
            roles_claim=self.jwt_roles_claim,
            info_claim=self.jwt_info_claim,
            topics_claim=self.jwt_topics_claim,
            rights_claim=self.jwt_rights_claim,
        )

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
    return Settings(**{**_collect(path, environ), **_checked(overrides, where="arguments")})


def load_policy(path: str | Path | None = None, *, environ: Mapping[str, str] | None = None) -> Policy:
    """Who may do what; raises `ConfigurationError`. No secret has to be there for it."""
    values = _collect(path, environ)
    decisive = {name: values[name] for name in ("dev", "kinds", "rules") if name in values}
    settings = Settings(auto_subscribe=(), **decisive)
    return settings.policy(settings.all_kinds())


def _collect(path: str | Path | None, environ: Mapping[str, str] | None) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if path is not None:
        values.update(_checked(_read_file(Path(path)), where=str(path)))
        if ApiKeys(values.get("api_keys", ())).has_plain:
            raise ConfigurationError(f"api_keys ({path}): no plain key belongs in a file; see `realtime new-key`")
    values.update(_from_environment(os.environ if environ is None else environ))
    return values


def read_key_files(settings: Settings) -> list[bytes]:
    """What stands in the files with keys; raises `ConfigurationError`."""
    contents = []
    for name in settings.jwt_key_files:
        try:
            content = Path(name).read_bytes()
            # Each by itself, so that a message can name it.
            StaticKeys.of(files=[content])
        except OSError as error:
            raise ConfigurationError(f"jwt_key_files: {name}: {error.strerror}") from None
        except ConfigurationError as error:
            raise ConfigurationError(f"jwt_key_files: {name}: {error}") from None
        contents.append(content)
    return contents


def _read_file(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # also for what is not UTF-8
        raise ConfigurationError(f"{path}: not TOML: {error}") from None


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    known = {attribute.name for attribute in fields(Settings)}
    raw: dict[str, Any] = {}
    for variable, text in environ.items():
        if not variable.startswith("REALTIME_") or variable in _OF_CLIENTS:
            continue
        name = variable.removeprefix("REALTIME_").lower()
        if name not in known or name in ("kinds", "rules"):
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
            converted = convert(value, wanted)
            if attribute.validator is not None:
                attribute.validator(_BLANK, attribute, converted)
        except (ValueError, TypeError) as error:
            shown = "***" if not attribute.repr else repr(value)
            raise ConfigurationError(f"{name} = {shown} ({where}): {error.args[0]}") from None
        checked[name] = converted
    return checked


#: The validators want an instance to speak of.
_BLANK = object()


def with_overrides(settings: Settings, **overrides: Any) -> Settings:
    """A copy with some settings changed, checked like the rest."""
    return evolve(settings, **_checked(overrides, where="arguments"))
