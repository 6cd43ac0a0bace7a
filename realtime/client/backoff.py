"""When to try again, and by which way. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from attrs import field, frozen, validators

__all__ = ["Backoff", "Choice"]

T = TypeVar("T")

#: A way that fails so often before the server has said a word is left for the next one.
STRIKES = 2


def _check_ceiling(backoff: Backoff, _attribute: object, value: float) -> None:
    if value < backoff.first_seconds:
        raise ValueError("max_delay_seconds is not less than min_delay_seconds")


@frozen(kw_only=True)
class Backoff:
    """Waits with full jitter: clients that lost their server together do not come back together."""

    first_seconds: float = field(validator=validators.gt(0))
    most_seconds: float = field(validator=_check_ceiling)
    #: Failures in a row after which there is no other try; None: it never ends.
    tries: int | None = field(validator=validators.optional(validators.ge(1)))
    #: Gives a number from 0 to 1.
    random: Callable[[], float]

    def seconds(self, failures: int, retry_after: float | None = None) -> float:
        """How long to wait after so many failures in a row; a server that says when is not asked before."""
        # Bounded before the power is: it overflows after a night of failures.
        ceiling = min(self.most_seconds, self.first_seconds * 2.0 ** min(failures - 1, 32))
        return (retry_after or 0.0) + self.random() * ceiling

    def exhausted(self, failures: int) -> bool:
        """Whether that was the last try."""
        return self.tries is not None and failures >= self.tries


class Choice(Generic[T]):
    """Which of several ways is taken: the first, until it does not lead there; then the next, and round again."""

    def __init__(self, ways: Sequence[T]) -> None:
        self._ways = ways
        self._number = 0
        self._strikes = 0

    @property
    def way(self) -> T:
        """The one to take now."""
        return self._ways[self._number]

    def worked(self) -> None:
        """The server was heard: this way is kept."""
        self._strikes = 0

    def failed(self) -> None:
        """The other end was reached, but not a word came from the server. Once may be an accident."""
        self._strikes += 1
        if self._strikes >= STRIKES:
            self.blocked()

    def blocked(self) -> None:
        """Somebody on the way does not let it pass."""
        self._strikes = 0
        self._number = (self._number + 1) % len(self._ways)
