"""A circuit breaker: stops calling what keeps failing, and tries again after a while.

::

    CLOSED --LIMIT--> OPEN --PROBE--> HALF_OPEN --SUCCESS--> CLOSED
                       ^                  |
                       '-----FAILURE------|
                       '----ABANDONED-----'

CLOSED: every call passes; ``failures`` in a row open it. OPEN: calls are refused until ``retry_seconds`` are over;
then the next one passes as the probe. HALF_OPEN: the probe is out and all others are refused. A probe that was
abandoned (cancelled) has told nothing, so the next call may probe at once.

A call that began before the breaker opened and ends after it has old news: its outcome changes nothing, also when the
breaker has closed again meanwhile.
"""

from __future__ import annotations

from collections import defaultdict
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
    ``INTERNAL_ERROR``. A block that is cancelled counts neither way. The task that enters it is the one that leaves it.

    A call that goes on, like a stream, tells by `succeeded` that it works; else it is the probe until it ends.
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
    #: Raised when it opens: what is noted with another number is old news. The probe is the first with its number.
    _generation: int = field(default=0, init=False)
    #: For each task its blocks, one inside the other: the generation in which each was entered.
    _entries: defaultdict[trio.lowlevel.Task, list[int]] = field(factory=lambda: defaultdict(list), init=False)

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

    def succeeded(self) -> None:
        """Count the call that is under way as a success, before its end: its stream has brought the first item, say.

        To be called in the block, or in a task of a nursery that was opened there; elsewhere it does nothing. Once is
        enough: like any success it starts the count of failures anew. How the block ends counts as well.
        """
        task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
        while task is not None and task not in self._entries:
            task = task.parent_nursery.parent_task if task.parent_nursery else None
        if task is not None and self._entries[task][-1] == self._generation:
            self._count(_Event.SUCCESS)

    def __enter__(self) -> None:
        self.check()
        if self.state is State.OPEN:
            self._move(_Event.PROBE)
        self._entries[trio.lowlevel.current_task()].append(self._generation)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        task = trio.lowlevel.current_task()
        generation = self._entries[task].pop()
        if not self._entries[task]:
            del self._entries[task]
        if generation == self._generation:
            self._count(_outcome(error))

    def _count(self, outcome: _Event) -> None:
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
        if state is not State.OPEN:
            return
        self._generation += 1
        if event is not _Event.ABANDONED:
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
