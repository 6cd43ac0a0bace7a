"""A circuit breaker: stops calling what keeps failing, and tries again after a while.

::

    CLOSED --LIMIT--> OPEN --PROBE--> HALF_OPEN --SUCCESS--> CLOSED
                       ^                  |
                       '-----FAILURE------|
                       '----ABANDONED-----'

CLOSED: every call passes; ``failures`` in a row open it. OPEN: calls are refused until ``retry_seconds`` are over;
then the next one passes as the probe. HALF_OPEN: the probe is out and all others are refused. A probe that was
abandoned (cancelled) has told nothing, so the next call may probe at once.

A call that began before the breaker opened and ends after it has old news: its outcome changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum, StrEnum, auto
from types import TracebackType

import trio
from attrs import define, field, frozen, validators

from realtime.errors import CommandError, ErrorCode

__all__ = ["BreakerStatistics", "CircuitBreaker", "State"]


class State(StrEnum):
    """Whether calls pass; see the module."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class _Event(IntEnum):
    """What moves a breaker. Of several outcomes in one exception group the greatest counts."""

    ABANDONED = auto()
    SUCCESS = auto()
    FAILURE = auto()
    LIMIT = auto()
    PROBE = auto()


#: Where an event leads; one that is not here leads nowhere.
_NEXT: dict[State, dict[_Event, State]] = {
    State.CLOSED: {_Event.LIMIT: State.OPEN},
    State.OPEN: {_Event.PROBE: State.HALF_OPEN},
    State.HALF_OPEN: {
        _Event.SUCCESS: State.CLOSED,
        _Event.FAILURE: State.OPEN,
        _Event.ABANDONED: State.OPEN,
    },
}

#: Any other code says that the caller was wrong, and so that what is guarded works.
_FAILURES = frozenset({ErrorCode.UNAVAILABLE, ErrorCode.TIMEOUT, ErrorCode.INTERNAL_ERROR})


@frozen
class BreakerStatistics:
    """A snapshot."""

    name: str
    state: State
    #: Failures in a row until now.
    failures: int
    opened: int
    refused: int


@define(eq=False)
class CircuitBreaker:
    """Guards the calls of one thing that may fail: ``with breaker: ...``, in as many tasks as there are.

    An exception in the block is a failure, a `CommandError` only with ``UNAVAILABLE``, ``TIMEOUT`` or
    ``INTERNAL_ERROR``. A block that is cancelled counts neither way.
    """

    name: str
    #: Failures in a row that open it. One or two happen to anything that is reached over a network.
    failures: int = field(default=5, kw_only=True, validator=validators.ge(1))
    retry_seconds: float = field(default=30.0, kw_only=True, validator=validators.gt(0))
    _now: Callable[[], float] = field(default=trio.current_time, kw_only=True)
    state: State = field(default=State.CLOSED, init=False)
    _in_a_row: int = field(default=0, init=False)
    _opened: int = field(default=0, init=False)
    _refused: int = field(default=0, init=False)
    _retry_at: float = field(default=0.0, init=False)
    #: The task whose call is the probe: only its outcome is news in HALF_OPEN.
    _prober: trio.lowlevel.Task | None = field(default=None, init=False)

    def check(self) -> None:
        """Raise `CommandError` (``UNAVAILABLE``) if a call would be refused now; let nothing pass by itself.

        ``retry_after`` is exact while the breaker is open. While the probe is out it is what a probe that fails
        would make of it.
        """
        if self.state is State.CLOSED:
            return
        left = self.retry_seconds if self.state is State.HALF_OPEN else self._retry_at - self._now()
        if left > 0:
            self._refused += 1
            raise CommandError(ErrorCode.UNAVAILABLE, "something that this needs is out of order", retry_after=left)

    def __enter__(self) -> None:
        self.check()
        if self.state is State.OPEN:
            self._prober = trio.lowlevel.current_task()
            self._move(_Event.PROBE)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        outcome = _outcome(error)
        if self.state is State.HALF_OPEN:
            if self._prober is not trio.lowlevel.current_task():
                return
            self._prober = None
        elif self.state is State.OPEN:
            return
        if outcome is _Event.SUCCESS:
            self._in_a_row = 0
        elif outcome is _Event.FAILURE:
            self._in_a_row += 1
        self._move(outcome)
        if self._in_a_row >= self.failures:
            self._move(_Event.LIMIT)

    def _move(self, event: _Event) -> None:
        state = _NEXT[self.state].get(event)
        if state is None:
            return
        self.state = state
        if state is State.OPEN and event is not _Event.ABANDONED:
            self._opened += 1
            self._retry_at = self._now() + self.retry_seconds

    def statistics(self) -> BreakerStatistics:
        """A snapshot."""
        return BreakerStatistics(self.name, self.state, self._in_a_row, self._opened, self._refused)


def _outcome(error: BaseException | None) -> _Event:
    if error is None:
        return _Event.SUCCESS
    if isinstance(error, BaseExceptionGroup):
        return max(_outcome(each) for each in error.exceptions)
    if isinstance(error, CommandError) and error.code not in _FAILURES:
        return _Event.SUCCESS
    return _Event.FAILURE if isinstance(error, Exception) else _Event.ABANDONED
