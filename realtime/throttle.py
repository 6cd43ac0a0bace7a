"""How fast one peer may talk: so many commands a second, and how often it may be told that this was too many."""

from __future__ import annotations

import math

from realtime.errors import CommandError, ErrorCode
from realtime.limits import Bucket

__all__ = ["Throttle", "too_fast"]

#: A client that is refused this often, and then more than once a second, does not listen.
STRIKES = 100.0
STRIKES_FORGIVEN_A_SECOND = 1.0


class Throttle:
    """See the module. Without a rate nothing is ever refused."""

    __slots__ = ("_bucket", "_strikes")

    def __init__(self, rate: float | None, burst: float) -> None:
        self._bucket = None if rate is None else Bucket(rate, burst)
        self._strikes: Bucket | None = None

    def take(self, now: float) -> float:
        """Take note of a command: 0, or how many seconds it comes too soon."""
        return 0.0 if self._bucket is None else self._bucket.take(now)

    def strike(self, now: float) -> bool:
        """The peer was told to slow down; whether that was once too often."""
        if self._strikes is None:  # most peers never see one
            self._strikes = Bucket(STRIKES_FORGIVEN_A_SECOND, STRIKES)
        return self._strikes.take(now) > 0


def too_fast(wait: float) -> CommandError:
    """What is told of a command that comes too soon by so many seconds."""
    # Rounded up: who comes back then is not refused.
    return CommandError(
        ErrorCode.RATE_LIMIT_EXCEEDED, "too many at once, slow down", retry_after=math.ceil(wait * 1000) / 1000
    )
