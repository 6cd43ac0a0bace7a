"""How often, and how many at once: what is counted for a user, an address or a connection. Time is an argument.

Keys are chosen by peers, so every table is bounded.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network, ip_address

__all__ = ["Bucket", "Buckets", "Counts", "network"]

#: More than the rounding of a clock that counts from 1970.
_ROUNDING_SECONDS = 1e-6
#: At how many buckets a full table looks for room, so that no flood makes it slow.
_LOOKS = 8
_PREFIX_BITS = 64


class Bucket:
    """A token bucket: ``burst`` at once, and ``rate`` a second in the long run. It starts full."""

    __slots__ = ("_at", "_burst", "_had", "_rate")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._had = burst
        self._at = 0.0

    def take(self, now: float, count: float = 1.0) -> float:
        """Take ``count``, and give 0.0; or take nothing, and give the seconds after which it could be taken.

        The seconds are infinite where ``count`` is more than the bucket ever holds.
        """
        left = self._left(now)
        if left < count:
            return self._wait(now, count)
        self._had = left - count
        self._at = now
        return 0.0

    def peek(self, now: float, count: float = 1.0) -> float:
        """What `take` would give; nothing is taken."""
        return self._wait(now, count) if self._left(now) < count else 0.0

    def is_full(self, now: float) -> bool:
        """Whether it is as good as a new one."""
        return self._left(now) >= self._burst

    def _left(self, now: float) -> float:
        return min(self._burst, self._had + (now - self._at) * self._rate)

    def _wait(self, now: float, count: float) -> float:
        if count > self._burst:
            return float("inf")
        wait = (count - self._left(now)) / self._rate
        return wait if self._left(now + wait) >= count else wait + _ROUNDING_SECONDS


class Buckets:
    """A bucket for each key; at most ``most`` are kept.

    Where there are too many, one that is full again is forgotten, which makes no difference to its key. It is looked
    for among those that were used least lately; where none of them is full, the first of them goes.
    """

    def __init__(self, rate: float, burst: float, most: int) -> None:
        self._rate = rate
        self._burst = burst
        self._most = most
        #: The one used least lately stands first.
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: str, now: float, count: float = 1.0) -> float:
        """`Bucket.take` of the key's own bucket."""
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= self._most:
                self._make_room(now)
            bucket = self._buckets[key] = Bucket(self._rate, self._burst)
        else:
            self._buckets.move_to_end(key)
        return bucket.take(now, count)

    def peek(self, key: str, now: float) -> float:
        """`Bucket.peek` of the key's own bucket; a key that is asked for is not kept for that."""
        bucket = self._buckets.get(key)
        return 0.0 if bucket is None else bucket.peek(now)

    def _make_room(self, now: float) -> None:
        oldest = next(iter(self._buckets))
        for _ in range(min(_LOOKS, len(self._buckets))):
            key, bucket = self._buckets.popitem(last=False)
            if bucket.is_full(now):
                return
            # To the end, or a few that stay empty for long would hide the full ones behind them.
            self._buckets[key] = bucket
        del self._buckets[oldest]


class Counts:
    """How many there are at once for each key; ``most`` of None: as many as come."""

    def __init__(self, most: int | None) -> None:
        self._most = most
        #: Only keys that have any.
        self._counts: dict[str, int] = {}

    def __getitem__(self, key: str) -> int:
        return self._counts.get(key, 0)

    def enter(self, key: str) -> bool:
        """Count one more; False, and nothing is counted, where that would be too many."""
        count = self[key]
        if self._most is not None and count >= self._most:
            return False
        self._counts[key] = count + 1
        return True

    def leave(self, key: str) -> None:
        """Count one less, for one that entered."""
        count = self._counts[key] - 1
        if count:
            self._counts[key] = count
        else:
            del self._counts[key]


@lru_cache(maxsize=4096)
def network(address: str) -> str:
    """Under which key a peer's address is counted; what is no address of IP, as that of a Unix socket, is its own key.

    IPv6 is counted by its /64, which is the least that one customer gets: each has more addresses than any table.
    """
    try:
        # Without its zone, which is a name for an interface of this host.
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if not isinstance(parsed, IPv6Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(IPv6Network((int(parsed), _PREFIX_BITS), strict=False))
