"""A table whose entries each end at a time of their own. It knows no clock: the time is told."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

__all__ = ["Expiring"]

K = TypeVar("K")
V = TypeVar("V")

#: Ends that may be left over from entries that went early, beyond as many as there are entries.
_SLACK = 100


class Expiring(Generic[K, V]):
    """Entries by key, until their ends; keys can be compared with each other.

    `get` and `pop` give what the last `sweep` left, so a caller sweeps first. All take logarithmic time, a sweep for
    each entry that it drops.
    """

    def __init__(self) -> None:
        self._kept: dict[K, tuple[float, V]] = {}
        #: A heap. An end whose entry is gone, or has got another end, means nothing.
        self._ends: list[tuple[float, K]] = []

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, key: K) -> bool:
        return key in self._kept

    def get(self, key: K) -> V | None:
        """The entry, if there is one."""
        kept = self._kept.get(key)
        return None if kept is None else kept[1]

    def put(self, key: K, value: V, end: float) -> None:
        """Keep an entry until its end; one with the same key gives way, but is not cut short: the later end counts."""
        kept = self._kept.get(key)
        if kept is None or kept[0] < end:
            heappush(self._ends, (end, key))
        else:
            end = kept[0]
        self._kept[key] = (end, value)
        self._tidy()

    def pop(self, key: K) -> V | None:
        """Take an entry out, if there is one."""
        kept = self._kept.pop(key, None)
        self._tidy()
        return None if kept is None else kept[1]

    def sweep(self, now: float) -> list[tuple[K, V]]:
        """Drop, and return, the entries that have ended."""
        ended = []
        while self._ends and self._ends[0][0] <= now:
            end, key = heappop(self._ends)
            kept = self._kept.get(key)
            if kept is not None and kept[0] == end:
                ended.append((key, kept[1]))
                del self._kept[key]
        return ended

    def _tidy(self) -> None:
        """Rid the heap of left-overs once they are the most of it: rarely enough to cost each entry next to nothing."""
        if len(self._ends) > 2 * len(self._kept) + _SLACK:
            self._ends = [(end, key) for key, (end, _) in self._kept.items()]
            heapify(self._ends)
