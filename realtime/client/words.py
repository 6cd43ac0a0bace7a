"""What a client says and hears, as text. One loose struct for all that is heard: a newer server may say more."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import msgspec
from msgspec import Raw, Struct

from realtime.history import Position
from realtime.link import retry_seconds
from realtime.presence import Member

__all__ = ["Heard", "Last", "Presence", "View", "encode_command", "hear"]


class Heard(Struct, frozen=True, rename={"first": "from", "last": "to", "told_retry_after": "retry_after"}):
    """A push or a reply. Which members there are depends on ``type``; see the page of the protocol."""

    #: Empty in the parts of others, as in ``topics`` and ``positions``.
    type: str = ""
    id: int | str | None = None
    topic: str = ""
    epoch: str = ""
    offset: int = 0
    time: int = 0
    data: Raw = Raw(b"null")
    event: str | None = None
    key: str | None = None
    first: int = 0
    last: int = 0
    count: int = 0
    reason: str = ""
    recovered: str | None = None
    why: str | None = None
    replayed: int = 0
    code: str | int | None = None
    message: str = ""
    told_retry_after: float | None = None
    trace_id: str | None = None
    reconnect: bool = True
    resubscribe: bool = False
    duplicate: bool = False
    connection: str = ""
    user: str | None = None
    ping_interval: float = 25.0
    limits: dict[str, int] = {}
    members: list[Any] = []
    member: Member | None = None
    joined: int = 0
    left: int = 0
    next: str | None = None
    topics: list[Heard] = []
    positions: list[Heard] = []
    messages: list[Heard] = []
    replies: list[Heard] = []

    @property
    def position(self) -> Position:
        """The place that is told."""
        return Position(self.epoch, self.offset)

    @property
    def retry_after(self) -> float | None:
        """When to try again, in seconds."""
        return retry_seconds(self.told_retry_after)


class Presence(Struct, frozen=True):
    """Somebody has come to a topic or gone; or, where there is no ``member``, several have."""

    topic: str
    joined: int
    left: int
    member: Member | None = None
    #: How many are there now, where the server has told that.
    count: int | None = None
    #: Whether the reader was too slow for news before this: ask for ``members`` to have them all.
    missed: bool = False


class Last(Struct, frozen=True):
    """Where a subscription is to start: with the newest ``count`` messages that are kept."""

    count: int


class View(Struct, frozen=True):
    """What of a topic is wanted: the options of a ``subscribe``."""

    fields: tuple[str, ...] | None = None
    #: As JSON text, so that two of them compare.
    filter: bytes | None = None
    mode: str | None = None
    max_rate: float | None = None

    def members(self) -> dict[str, Any]:
        """The members of the command; those without a value are left out."""
        condition = None if self.filter is None else Raw(self.filter)
        every = {"fields": self.fields, "filter": condition, "mode": self.mode, "max_rate": self.max_rate}
        return {name: value for name, value in every.items() if value is not None}

    @classmethod
    def of(
        cls,
        *,
        fields: Iterable[str] | None,
        filter: Any,  # noqa: A002 - its name in the protocol
        mode: str | None,
        max_rate: float | None,
    ) -> Self:
        """From the options of a program."""
        condition = None if filter is None else msgspec.json.encode(filter)
        return cls(None if fields is None else tuple(fields), condition, mode, max_rate)

    def changes(self) -> dict[str, Any]:
        """The members of an ``update`` to this, from whatever it was: null takes an option away."""
        nothing = Raw(b"null")
        condition = nothing if self.filter is None else Raw(self.filter)
        return {
            "fields": self.fields or nothing,
            "filter": condition,
            "mode": self.mode,
            "max_rate": nothing if self.max_rate is None else self.max_rate,
        }


_decoder = msgspec.json.Decoder(Heard)


def hear(text: bytes | bytearray | memoryview | str) -> Heard:
    """What was said. Raises `ValueError` for what no server of ours says."""
    try:
        return _decoder.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def encode_command(kind: str, command_id: int, members: dict[str, Any]) -> bytes:
    """A command as JSON text; members that are None are left out. Raises `TypeError` for data without a JSON form."""
    given = {name: value for name, value in members.items() if value is not None}
    return msgspec.json.encode({"type": kind, "id": command_id, **given})
