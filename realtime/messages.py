"""What crosses the wire: commands that clients send, and everything that they are sent.

Commands are decoded once, by type, into frozen structs. Payloads stay `msgspec.Raw`: JSON text that
is checked to be JSON and then carried as it is, from the publisher's bytes to the subscribers'.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from realtime import closing
from realtime.errors import CommandError, ErrorCode, ProtocolViolation
from realtime.history import Position, Since

__all__ = [
    "Auth",
    "Batch",
    "Command",
    "History",
    "Ping",
    "Publish",
    "Recover",
    "Stats",
    "Subscribe",
    "Unsubscribe",
    "Update",
    "compact",
    "decode_command",
    "decode_subscribe",
    "encode",
    "refuse_unknown_options",
]

CommandId = int | Annotated[str, Meta(max_length=128)]
TopicName = Annotated[str, Meta(max_length=1024)]
#: More members than any screen shows; the bound keeps a view's key small.
Fields = Annotated[list[Annotated[str, Meta(max_length=128)]], Meta(min_length=1, max_length=100)]
EventName = Annotated[str, Meta(max_length=128)]
MessageKey = Annotated[str, Meta(max_length=256)]
Offset = Annotated[int, Meta(ge=0, le=2**53)]


class _Command(Struct, tag_field="type", tag=str.lower, frozen=True, kw_only=True):
    id: CommandId


class At(Struct, frozen=True):
    """A position, as a client writes it."""

    epoch: Annotated[str, Meta(max_length=64)]
    offset: Offset

    def position(self) -> Position:
        """The same, as the rest of the house knows it."""
        return Position(self.epoch, self.offset)


class Recover(Struct, frozen=True):
    """Where to start a subscription: after a position, or with the newest ``last``."""

    epoch: Annotated[str, Meta(max_length=64)] | None = None
    offset: Offset | None = None
    last: Annotated[int, Meta(ge=1, le=10_000)] | None = None


class Auth(_Command, frozen=True, kw_only=True):
    """First login on this connection, or a fresh token for the same user."""

    token: Annotated[str, Meta(max_length=16_384)]


class Subscribe(_Command, frozen=True, kw_only=True):
    """Ask for the messages of a topic."""

    topic: TopicName
    fields: Fields | None = None
    mode: Literal["all", "latest"] | None = None
    recover: Recover | None = None
    #: Known to the protocol; answered with an error until the server can honour them, as a
    #: filter that is silently ignored delivers what its owner must not see.
    filter: Raw | UnsetType = UNSET
    max_rate: Raw | UnsetType = UNSET

    def since(self) -> Since | None:
        """What history is asked for. Raises `CommandError`."""
        recover = self.recover
        if recover is None:
            return None
        if recover.last is not None:
            return Since(last=recover.last)
        if recover.epoch is None or recover.offset is None:
            raise CommandError(ErrorCode.BAD_REQUEST, "recover needs `epoch` and `offset`, or `last`")
        return Since(after=Position(recover.epoch, recover.offset))


class Update(_Command, frozen=True, kw_only=True):
    """Change the view of a live subscription; what is left out stays as it is."""

    topic: TopicName
    fields: Fields | UnsetType | None = UNSET
    mode: Literal["all", "latest"] | UnsetType = UNSET
    filter: Raw | UnsetType = UNSET
    max_rate: Raw | UnsetType = UNSET


class Unsubscribe(_Command, frozen=True, kw_only=True):
    """Ask for no more messages of a topic."""

    topic: TopicName


class Publish(_Command, frozen=True, kw_only=True):
    """Send a message to a topic."""

    topic: TopicName
    data: Raw
    event: EventName | None = None
    key: MessageKey | None = None
    idempotency_key: Raw | UnsetType = UNSET
    echo: Raw | UnsetType = UNSET


class History(_Command, frozen=True, kw_only=True):
    """Look at what is kept of a topic, without subscribing."""

    topic: TopicName
    after: At | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 50


class Stats(_Command, frozen=True, kw_only=True):
    """Ask for the counters of this connection."""


class Ping(_Command, frozen=True, kw_only=True):
    """Ask for the server's time; also proves this peer alive."""


class Batch(_Command, frozen=True, kw_only=True):
    """Several commands in one message, answered in one."""

    commands: Annotated[list[Raw], Meta(max_length=1000)]


class _Wish(Struct, frozen=True):
    """A subscribe object in a URL."""

    topic: TopicName
    fields: Fields | None = None
    mode: Literal["all", "latest"] | None = None
    recover: Recover | None = None
    filter: Raw | UnsetType = UNSET
    max_rate: Raw | UnsetType = UNSET

    def command(self) -> Subscribe:
        """The same as a command."""
        return Subscribe(
            id=0,
            topic=self.topic,
            fields=self.fields,
            mode=self.mode,
            recover=self.recover,
            filter=self.filter,
            max_rate=self.max_rate,
        )


Command = Auth | Subscribe | Update | Unsubscribe | Publish | History | Stats | Ping | Batch

_decoder: msgspec.json.Decoder[Command] = msgspec.json.Decoder(Command)
_encoder = msgspec.json.Encoder()
_loose_decoder = msgspec.json.Decoder(dict[str, Raw])
_known_types = frozenset(command.__struct_config__.tag for command in Command.__args__)


def decode_command(text: bytes | memoryview) -> Command:
    """One command from its JSON text.

    ``text`` is UTF-8; the wire has seen to that. Raises `CommandError` (its ``command_id`` set where the text has a
    usable one) for a command that is wrong in itself, and `ProtocolViolation` for text that is not one JSON object.
    """
    try:
        try:
            return _decoder.decode(text)
        except msgspec.ValidationError as error:
            # The decoder stops at the first wrong member; what comes behind it need not even be JSON.
            raise _explain(text, str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ProtocolViolation(closing.BAD_REQUEST, "not a JSON object") from None


_subscribe_decoder = msgspec.json.Decoder(_Wish)


def decode_subscribe(text: bytes) -> Subscribe:
    """A subscribe object that comes without ``type`` and ``id``, as in a URL. Raises `CommandError`."""
    try:
        return _subscribe_decoder.decode(text).command()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CommandError(ErrorCode.BAD_REQUEST, f"not a subscribe object: {error}") from None


def _explain(text: bytes | memoryview, fault: str) -> CommandError | ProtocolViolation:
    """Why a well-formed JSON text is no command. Only misuse comes here, so it may cost a second decoding."""
    try:
        loose = _loose_decoder.decode(text)
    except msgspec.ValidationError:
        return ProtocolViolation(closing.BAD_REQUEST, "not a JSON object")
    kind = _decoded(loose, "type", str)
    if kind is not None and kind not in _known_types:
        error = CommandError(ErrorCode.UNKNOWN_TYPE, "no such type of command")
    else:
        error = CommandError(ErrorCode.BAD_REQUEST, fault)
    error.command_id = _decoded(loose, "id", CommandId)
    return error


def _decoded(members: dict[str, Raw], name: str, kind: Any) -> Any:
    """One member as ``kind``; None where it is missing or something else."""
    try:
        return msgspec.json.decode(members[name], type=kind)
    except (KeyError, msgspec.ValidationError):
        return None


def refuse_unknown_options(command: Subscribe | Update | Publish) -> None:
    """Raise `CommandError` for an option that this server does not offer.

    To ignore it would deliver what the peer asked not to get, or twice what it asked to get once.
    """
    names = ("idempotency_key", "echo") if isinstance(command, Publish) else ("filter", "max_rate")
    for name in names:
        if getattr(command, name) is not UNSET:
            raise CommandError(ErrorCode.BAD_REQUEST, f"this server does not offer `{name}`")


def compact(data: bytes) -> bytes:
    """The same JSON on one line.

    A line feed is legal between JSON tokens but ends a line of an event stream; only text that
    has one is written anew. Raises `CommandError` for text that is not JSON, or too deep to be looked at.
    """
    if b"\n" in data or b"\r" in data:
        try:
            return msgspec.json.format(data, indent=-1)
        except (msgspec.DecodeError, RecursionError):
            raise CommandError(ErrorCode.BAD_REQUEST, "the data is not JSON, or nested too deeply") from None
    return data


def encode(push: dict[str, Any]) -> bytes:
    """A push or reply as JSON text on one line; members that are None are left out."""
    return _encoder.encode({name: value for name, value in push.items() if value is not None})
