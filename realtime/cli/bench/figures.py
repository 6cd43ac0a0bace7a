"""What is counted of a load, and what it comes to. No I/O, no clock."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

__all__ = ["Histogram", "Tally", "make_payload"]

_NUMBER_DIGITS = 10
_TIME_DIGITS = 20
#: A bucket is at most 1/64 of its values wide: finer than two runs agree.
_BITS = 7


def make_payload(marker: str, number: int, due: int, size: int) -> dict[str, str]:
    """A payload of about ``size`` bytes of JSON that tells its number, and when it was due, in nanoseconds."""
    told = f"{marker}{number:0{_NUMBER_DIGITS}}{due:0{_TIME_DIGITS}}"
    return {"bench": told.ljust(size - len('{"bench":""}'), ".")}


class Histogram:
    """How often which value came, to about 1 %."""

    def __init__(self, counts: Mapping[int, int] | Iterable[tuple[int, int]] = ()) -> None:
        self.counts: Counter[int] = Counter(dict(counts))

    def add(self, value: int) -> None:
        """Count a value, of 0 or more."""
        shift = max(0, value.bit_length() - _BITS)
        self.counts[value >> shift << shift] += 1

    def merge(self, other: Histogram) -> None:
        """Take in what another one has counted."""
        self.counts.update(other.counts)

    @property
    def total(self) -> int:
        """How many values there were."""
        return self.counts.total()

    def percentile(self, share: float) -> int:
        """The value that this share of all does not exceed; 0 where there are none."""
        rank, seen = share * self.total, 0
        for value in sorted(self.counts):
            seen += self.counts[value]
            if seen >= rank:
                return value
        return 0


class Tally:
    """What each of many subscribers of one topic has been sent."""

    def __init__(self, marker: str, subscribers: int, first: int) -> None:
        """Latencies are counted from the message with the number ``first`` on; what is before it warms up."""
        self._marker = marker.encode()
        self._first = first
        #: Of each subscriber the number that comes next, and those before it that have not come.
        self._next = [0] * subscribers
        self._missing: dict[int, set[int]] = {}
        self.latencies = Histogram()
        #: Deliveries, each message once for each subscriber.
        self.delivered = 0
        self.duplicates = 0
        #: The largest latency, and when the last delivery was.
        self.longest = 0
        self.last_at = 0

    def take(self, subscriber: int, text: bytes, now: int) -> bool:
        """Count a message; whether it is one of ours."""
        at = text.find(self._marker)
        if at < 0:
            return False
        start = at + len(self._marker)
        end = start + _NUMBER_DIGITS
        number = int(text[start:end])
        expected = self._next[subscriber]
        if number == expected:
            self._next[subscriber] = number + 1
        elif not self._take_out_of_turn(subscriber, number, expected):
            self.duplicates += 1
            return True
        self.delivered += 1
        if number >= self._first:
            latency = max(0, now - int(text[end : end + _TIME_DIGITS]))
            self.latencies.add(latency)
            self.longest = max(self.longest, latency)
            self.last_at = now
        return True

    def lost(self, total: int, refused: Sequence[int]) -> int:
        """How many of the numbers up to ``total`` have not come by now, but for the ``refused``, which are in order.

        Those may come, or not: where a publish had no answer, nobody knows whether it was done.
        """
        excused = set(refused)
        behind = sum((total - number) - (len(refused) - bisect_left(refused, number)) for number in self._next)
        return behind + sum(len(missing - excused) for missing in self._missing.values())

    def _take_out_of_turn(self, subscriber: int, number: int, expected: int) -> bool:
        missing = self._missing.setdefault(subscriber, set())
        if number > expected:
            missing.update(range(expected, number))
            self._next[subscriber] = number + 1
            return True
        if number in missing:
            missing.remove(number)
            return True
        return False
