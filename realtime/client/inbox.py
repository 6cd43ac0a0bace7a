"""What a reader has not read yet: bounded, and what does not fit is told in its place.

The oldest gives way: who is behind wants to be told of it now, and to go on with what is new. So the gap of a
slow reader is always at the head, one for each topic. It takes in whatever gives way after it, also what the server
has told as lost. News of who comes and goes just gives way, and the next says that some are missed.
"""

from __future__ import annotations

from collections import deque

import trio
from attrs import frozen
from msgspec import Raw, structs

from realtime.client.words import Presence
from realtime.local import Lost

__all__ = ["EPOCH_CHANGED", "SLOW_READER", "Inbox", "Unread"]

SLOW_READER = "slow_reader"
#: The reason of a gap behind which offsets begin anew.
EPOCH_CHANGED = "epoch_changed"


@frozen
class Unread:
    """A message, its payload not decoded yet."""

    topic: str
    epoch: str
    offset: int
    time: int
    data: Raw
    event: str | None
    key: str | None


class Inbox:
    """See the module. ``put`` never waits, and never raises."""

    def __init__(self, max_messages: int, max_bytes: int, *, presence: bool = False) -> None:
        #: Whether its reader wants to know who comes and who goes.
        self.presence = presence
        self._uninformed: set[str] = set()
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._items: deque[Unread | Presence | tuple[Lost, str]] = deque()
        #: For each topic the gap at the head, and the epoch of its last message.
        self._missed: dict[str, tuple[Lost, str]] = {}
        self._bytes = 0
        self._changed = trio.lowlevel.ParkingLot()
        self._ended = False
        self._error: Exception | None = None
        #: Messages that gave way, those within gaps that gave way not counted.
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._items) + len(self._missed)

    def put(self, item: Unread | Presence | Lost, epoch: str = "") -> None:
        """Add what has come; ``epoch`` is that of a gap."""
        self._items.append((item, epoch) if isinstance(item, Lost) else item)
        self._bytes += _size(self._items[-1])
        while len(self._items) > self._max_messages or (self._bytes > self._max_bytes and len(self._items) > 1):
            self._give_way()
        self._changed.unpark_all()

    def end(self, error: Exception | None = None) -> None:
        """Nothing more comes; what is there can still be read, then comes the error, or just the end."""
        if not self._ended:
            self._ended, self._error = True, error
            self._changed.unpark_all()

    async def take(self) -> Unread | Presence | tuple[Lost, str]:
        """The next; raises what `end` was given, or `trio.EndOfChannel`. Cancelled, nothing is taken."""
        await trio.lowlevel.checkpoint()
        while True:
            if self._missed:
                return self._missed.pop(next(iter(self._missed)))
            if self._items:
                item = self._items.popleft()
                self._bytes -= _size(item)
                if isinstance(item, Presence) and item.topic in self._uninformed:
                    self._uninformed.discard(item.topic)
                    return structs.replace(item, missed=True)
                return item
            if self._ended:
                raise self._error or trio.EndOfChannel
            await self._changed.park()

    def _give_way(self) -> None:
        item = self._items.popleft()
        self._bytes -= _size(item)
        if isinstance(item, Presence):
            self._uninformed.add(item.topic)
            return
        if isinstance(item, Unread):
            self.dropped += 1
            lost, epoch = Lost(item.topic, item.offset, item.offset, 1, SLOW_READER), item.epoch
        else:
            lost, epoch = item
        missed = self._missed.get(lost.topic)
        if lost.reason != EPOCH_CHANGED:
            # What is before a gap of that reason is of another life: there is nothing in it to go back for.
            reason, first, count = SLOW_READER, lost.first, lost.count
            if missed is not None:
                before, _ = missed
                reason, first, count = before.reason, before.first, before.count + lost.count
            lost = Lost(lost.topic, first, lost.last, count, reason)
        self._missed[lost.topic] = lost, epoch


def _size(item: Unread | Presence | tuple[Lost, str]) -> int:
    return len(item.data) if isinstance(item, Unread) else 0
