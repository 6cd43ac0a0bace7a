"""The recent past of one topic, and the words for a place in it.

An *offset* counts the publications of a topic: 1, 2, 3 ... An *epoch* is the random name of one life
of that count; after a restart without durable storage, or once a topic has been forgotten, a new
epoch tells a client that its old offsets mean nothing here. ``(epoch, offset)`` is a `Position`;
the positions of several topics, written as opaque text, are a *cursor*.

Nothing here knows what time it is: ``now`` is an argument.
"""

from __future__ import annotations

import secrets
from collections import deque
from enum import StrEnum
from itertools import islice
from urllib.parse import quote, unquote

import msgspec

from realtime.errors import CommandError, ErrorCode

__all__ = ["History", "Page", "Position", "Publication", "Since", "Why", "decode_cursor", "encode_cursor"]

_EPOCH_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"
#: A cursor comes back in a header or a URL; this many topics still fit in one.
MAX_CURSOR_TOPICS = 200


class Position(msgspec.Struct, frozen=True):
    """A place in the history of one topic: everything up to and including ``offset``."""

    epoch: str
    offset: int


class Publication(msgspec.Struct, frozen=True, gc=False):
    """One message of one topic, as it is kept and routed. ``data`` is the publisher's own JSON text."""

    topic: str
    offset: int
    #: Milliseconds since 1970, by the clock of the broker.
    time: int
    data: bytes
    event: str | None = None
    key: str | None = None
    #: The connection that published it and asked not to hear it.
    origin: str | None = None
    #: The life of the topic that it belongs to.
    epoch: str = ""


class Why(StrEnum):
    """Why a recovery could not be full."""

    EPOCH_CHANGED = "epoch_changed"
    TOO_OLD = "too_old"
    LIMIT = "limit"
    NO_HISTORY = "no_history"


class Since(msgspec.Struct, frozen=True):
    """What a reader of history asks for: all after a position, or the newest ``last``."""

    after: Position | None = None
    last: int = 0


class Page(msgspec.Struct, frozen=True):
    """An answer from history, consistent at one instant."""

    #: Where the topic stood when the page was read.
    top: Position
    publications: list[Publication] = []
    #: None: the page holds everything that was asked for.
    why: Why | None = None


def new_epoch() -> str:
    """A name that no other life of the topic has had; short, as it travels in every cursor."""
    return "".join(secrets.choice(_EPOCH_ALPHABET) for _ in range(8))


class History:
    """A bounded ring of the newest publications of one topic.

    Bounded three ways: messages, bytes, age. Appending and reading are synchronous.
    """

    __slots__ = ("_ages", "_bytes", "_max_age", "_max_bytes", "_max_messages", "_ring", "epoch", "top")

    def __init__(self, max_messages: int, max_bytes: int, max_age: float, *, start: Position | None = None) -> None:
        """Begin behind ``start``, or with the first message of a new epoch."""
        self.epoch, self.top = (new_epoch(), 0) if start is None else (start.epoch, start.offset)
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._ring: deque[Publication] = deque()
        self._ages: deque[float] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._ring)

    @property
    def position(self) -> Position:
        """Where the topic stands now."""
        return Position(self.epoch, self.top)

    @property
    def oldest(self) -> int:
        """The smallest offset that can still be read; ``top + 1`` when none can."""
        return self._ring[0].offset if self._ring else self.top + 1

    def append(self, publication: Publication, now: float) -> None:
        """Add the next publication; its offset must be ``top + 1``."""
        self.top = publication.offset
        if not self._max_messages:
            return
        self._ring.append(publication)
        self._ages.append(now)
        self._bytes += len(publication.data)
        if len(self._ring) > self._max_messages or self._bytes > self._max_bytes:
            self._shrink()

    @property
    def size(self) -> int:
        """Bytes of payload that are kept."""
        return self._bytes

    def forget(self, size: int) -> int:
        """Forget the oldest, so many bytes at the least, as far as there are so many; how many it were."""
        before = self._bytes
        while self._ring and before - self._bytes < size:
            self._forget_oldest()
        return before - self._bytes

    def expire(self, now: float) -> None:
        """Forget what is older than the allowed age."""
        limit = now - self._max_age
        while self._ages and self._ages[0] < limit:
            self._forget_oldest()

    def read(self, since: Since, limit: int) -> Page:
        """The publications asked for, at most ``limit``, oldest first."""
        if since.last:
            return Page(self.position, list(self._ring)[-min(since.last, limit) :])
        after = since.after
        if after is None:
            return Page(self.position)
        if after.epoch != self.epoch or after.offset > self.top:
            return Page(self.position, why=Why.EPOCH_CHANGED)
        missed = self.top - after.offset
        if not missed:
            return Page(self.position)
        if not self._ring:
            return Page(self.position, why=Why.TOO_OLD if self._max_messages else Why.NO_HISTORY)
        if after.offset + 1 < self._ring[0].offset:
            return Page(self.position, why=Why.TOO_OLD)
        if missed > limit:
            return Page(self.position, why=Why.LIMIT)
        start = len(self._ring) - missed
        return Page(self.position, list(islice(self._ring, start, None)))

    def browse(self, after: Position | None, limit: int) -> Page:
        """A page for looking around: what is kept after ``after``, oldest first, cut at ``limit``."""
        if after is not None and (after.epoch != self.epoch or after.offset > self.top):
            return Page(self.position, why=Why.EPOCH_CHANGED)
        start = 0 if after is None else max(0, after.offset + 1 - self.oldest)
        why = Why.TOO_OLD if after is not None and after.offset + 1 < self.oldest else None
        return Page(self.position, list(islice(self._ring, start, start + limit)), why)

    def _shrink(self) -> None:
        while self._ring and (len(self._ring) > self._max_messages or self._bytes > self._max_bytes):
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        self._bytes -= len(self._ring.popleft().data)
        self._ages.popleft()


def cursor_part(topic: str, epoch: str) -> str:
    """The part of a cursor that stays the same from message to message of one topic."""
    quoted = quote(topic, safe=":@").replace("~", "%7E")  # which `quote` takes for safe, and we use between topics
    return f"{quoted}!{epoch}!"


def encode_cursor(positions: dict[str, Position]) -> str:
    """The positions of several topics as text that is safe in a header, a URL and an event stream."""
    return "~".join(f"{cursor_part(topic, at.epoch)}{at.offset}" for topic, at in positions.items())


def decode_cursor(text: str) -> dict[str, Position]:
    """The positions in a cursor; raises `CommandError` for text that no server of ours wrote."""
    positions: dict[str, Position] = {}
    if not text:
        return positions
    parts = text.split("~")
    if len(parts) > MAX_CURSOR_TOPICS:
        raise CommandError(ErrorCode.BAD_REQUEST, f"a cursor names at most {MAX_CURSOR_TOPICS} topics")
    for part in parts:
        fields = part.split("!")
        if len(fields) != 3 or not (fields[2].isascii() and fields[2].isdigit() and len(fields[2]) < 20):  # noqa: PLR2004
            raise CommandError(ErrorCode.BAD_REQUEST, "not a cursor")
        positions[unquote(fields[0])] = Position(fields[1], int(fields[2]))
    return positions
