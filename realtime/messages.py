"""What crosses the wire: commands that clients send, and everything that they are sent.

Commands are decoded once, by type, into frozen structs. Payloads stay `msgspec.Raw`: JSON text that
is checked to be JSON and then carried as it is, from the publisher's bytes to the subscribers'.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from realtime import closing
from realtime.errors import CommandError, ErrorCode, ProtocolViolation
from realtime.history import Position, Since, decode_cursor

__all__ = [
    "Auth",
    "Batch",
    "Command",
    "History",
    "Members",
    "MessageBody",
    "Ping",
    "Publish",
    "PublishBody",
    "Recover",
    "Request",
    "Stats",
    "Subscribe",
    "Unsubscribe",
    "Update",
    "Wish",
    "compact",
    "decode_command",
    "decode_wish",
    "encode",
    "shortened",
]

#: Characters of an error's message that come from a decoder.
MAX_FAULT = 300

CommandId = int | Annotated[str, Meta(max_length=128)]
TopicName = Annotated[str, Meta(max_length=1024, examples=["room:lobby"])]
#: More members than any screen shows; the bound keeps a view's key small.
Fields = Annotated[list[Annotated[str, Meta(max_length=128)]], Meta(min_length=1, max_length=100)]
EventName = Annotated[str, Meta(max_length=128)]
MessageKey = Annotated[str, Meta(max_length=256)]
IdempotencyKey = Annotated[str, Meta(min_length=1, max_length=128)]
Offset = Annotated[int, Meta(ge=0, le=2**53)]
#: Faster than this nobody reads, and slower than once a minute nobody waits.
MaxRate = Annotated[float, Meta(ge=1 / 60, le=1000)]


class _Command(Struct, tag_field="type", tag=str.lower, frozen=True, kw_only=True):
    id: CommandId


#: What a head of the default size has room for.
CursorText = Annotated[str, Meta(max_length=32_768)]


class At(Struct, frozen=True):
    """A position, as a client writes it."""

    epoch: Annotated[str, Meta(max_length=64)]
    offset: Offset

    def position(self) -> Position:
        """The same, as the rest of the house knows it."""
        return Position(self.epoch, self.offset)


class Recover(Struct, frozen=True):
    """Where to start a subscription: after a position, where a cursor stands, or with the newest ``last``."""

    epoch: Annotated[str, Meta(max_length=64)] | None = None
    offset: Offset | None = None
    last: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    cursor: CursorText | None = None


class Auth(_Command, frozen=True, kw_only=True):
    """First login on this connection, or a fresh token for the same user."""

    token: Annotated[str, Meta(max_length=16_384)]
    #: Where the topics that a login brings are resumed.
    cursor: CursorText | None = None


class Wish(Struct, frozen=True, kw_only=True):
    """What a subscription is asked to be: the members of `Subscribe`, as they also stand in a URL."""

    topic: TopicName
    fields: Fields | None = None
    filter: Raw | UnsetType = UNSET
    mode: Literal["all", "latest"] | None = None
    max_rate: MaxRate | None = None
    recover: Recover | None = None

    def since(self) -> Since | None:
        """What history is asked for. Raises `CommandError`."""
        recover = self.recover
        if recover is None:
            return None
        if recover.last is not None:
            return Since(last=recover.last)
        if recover.cursor is not None:
            after = decode_cursor(recover.cursor).get(self.topic)
            return None if after is None else Since(after=after)
        if recover.epoch is None or recover.offset is None:
            raise CommandError(ErrorCode.BAD_REQUEST, "recover needs `epoch` and `offset`, `cursor`, or `last`")
        return Since(after=Position(recover.epoch, recover.offset))


class Subscribe(Wish, tag_field="type", tag=str.lower, frozen=True, kw_only=True):
    """Ask for the messages of a topic."""

    id: CommandId


class Update(_Command, frozen=True, kw_only=True):
    """Change the view of a live subscription; what is left out stays as it is."""

    topic: TopicName
    fields: Fields | UnsetType | None = UNSET
    filter: Raw | UnsetType = UNSET
    mode: Literal["all", "latest"] | UnsetType = UNSET
    max_rate: MaxRate | UnsetType | None = UNSET


class MessageBody(Struct, frozen=True, kw_only=True):
    """A message as a back end sends it over HTTP, where the path says where to."""

    data: Raw
    event: EventName | None = None
    key: MessageKey | None = None
    idempotency_key: IdempotencyKey | None = None


class PublishBody(MessageBody, frozen=True, kw_only=True):
    """A message to a topic."""

    topic: TopicName


class Unsubscribe(_Command, frozen=True, kw_only=True):
    """Ask for no more messages of a topic."""

    topic: TopicName


class Publish(_Command, frozen=True, kw_only=True):
    """Send a message to a topic."""

    topic: TopicName
    data: Raw
    event: EventName | None = None
    key: MessageKey | None = None
    idempotency_key: IdempotencyKey | None = None
    #: False: the publisher itself is not sent the message.
    echo: bool = True


class Request(_Command, frozen=True, kw_only=True):
    """Have a handler of the server do something, and answer."""

    action: Annotated[str, Meta(max_length=128)]
    # By a factory: a default that is JSON already is nothing that a schema can show.
    payload: Raw = field(default_factory=partial(Raw, b"null"))
    #: Stands in the reply and in the server's log; one is made where none is given.
    trace_id: Annotated[str, Meta(max_length=128, pattern=r"^[A-Za-z0-9_.:\-]+$(?!\n)")] | None = None
    #: Seconds; the handler's own timeout is the longest.
    timeout: Annotated[float, Meta(gt=0, le=86_400)] | None = None


class Members(_Command, frozen=True, kw_only=True):
    """Ask who is in a topic."""

    topic: TopicName
    #: The ``next`` of the page before.
    after: Annotated[str, Meta(max_length=512)] | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 1000


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


Command = Auth | Subscribe | Update | Unsubscribe | Publish | Request | Members | History | Stats | Ping | Batch

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
            raise _explain(text, shortened(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ProtocolViolation(closing.BAD_REQUEST, "not a JSON object") from None


_wish_decoder = msgspec.json.Decoder(Wish)


def decode_wish(text: bytes) -> Wish:
    """A subscribe object that comes without ``type`` and ``id``, as in a URL. Raises `CommandError`."""
    try:
        return _wish_decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CommandError(ErrorCode.BAD_REQUEST, f"not a subscribe object: {shortened(str(error))}") from None


def shortened(words: str) -> str:
    """The words of a fault, which may repeat what the peer said: as much of them as anybody reads."""
    return words if len(words) <= MAX_FAULT else f"{words[:MAX_FAULT]} .."


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
