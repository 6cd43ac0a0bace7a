"""What was answered to a publish, for the publisher that asks again because the answer did not reach it.

Bounded twice: in time, because a publisher gives up some day, and in number, because keys are chosen by peers.
"""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from realtime.history import Position

__all__ = ["Receipt", "Receipts"]


class Receipt(msgspec.Struct, frozen=True):
    """Where a message stands in its topic."""

    epoch: str
    offset: int
    #: Whether nothing was published: the message was there already.
    duplicate: bool = False

    @property
    def position(self) -> Position:
        """The same as a place in history."""
        return Position(self.epoch, self.offset)


class Receipts:
    """The receipts of the last while, by topic and key."""

    def __init__(self, most: int, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        self._kept: OrderedDict[tuple[str, str], tuple[float, Receipt]] = OrderedDict()
        self._of_topic: dict[str, set[str]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, key: tuple[str, str], now: float) -> Receipt | None:
        """The receipt that was given for this key, if it is still known."""
        self._expire(now)
        kept = self._kept.get(key)
        return None if kept is None else msgspec.structs.replace(kept[1], duplicate=True)

    def keep(self, key: tuple[str, str], receipt: Receipt, now: float) -> None:
        """Remember a receipt; the oldest goes where there are too many."""
        self._kept[key] = (now + self._seconds, receipt)
        self._of_topic.setdefault(key[0], set()).add(key[1])
        if len(self._kept) > self._most:
            self._drop_oldest()

    def forget(self, topic: str) -> None:
        """Forget what was answered for a topic that is gone."""
        for key in self._of_topic.pop(topic, ()):
            del self._kept[topic, key]

    def _drop_oldest(self) -> None:
        (topic, key), _ = self._kept.popitem(last=False)
        keys = self._of_topic[topic]
        keys.discard(key)
        if not keys:
            del self._of_topic[topic]

    def _expire(self, now: float) -> None:
        """Forget what is too old: all were kept for the same time, so the oldest stands first."""
        while self._kept and next(iter(self._kept.values()))[0] <= now:
            self._drop_oldest()
