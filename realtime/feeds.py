"""Feeds: tasks that push into topics, for as long as the server lives or as somebody listens.

::

    run                          cancelled by the engine, at its end
    |- one task for each eager feed
    '- one task for each topic with subscribers that a lazy feed matches; cancelled some time after the last has left
           the function, again and again: after a failure it is called anew, with a growing pause
           '- behind a breaker, one that waits for the function to have proven itself; cancelled when this has ended

A feed's failure is logged and ends no other task. Nobody waits for a feed, except the nursery for its end.

Lingering has no task and no timer of its own: it is the deadline of the topic's cancel scope.
"""

from __future__ import annotations

import inspect
import math
import random
import secrets
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import structlog
import trio
from attrs import define, field, frozen, validators

from realtime.breaker import CircuitBreaker
from realtime.errors import CommandError, lone

__all__ = ["FeedState", "FeedStatistics", "Feeds"]

log = structlog.get_logger("realtime")

_Function = TypeVar("_Function", bound=Callable[..., Awaitable[None]])


class FeedState(StrEnum):
    """What a feed does."""

    #: For the server to run, or for a subscriber.
    WAITING = "waiting"
    RUNNING = "running"
    BACKING_OFF = "backing_off"
    #: By its breaker: it waits until that may let it through.
    REFUSED = "refused"
    #: It has returned.
    DONE = "done"


@frozen
class FeedStatistics:
    """A snapshot of one feed, or of a lazy one's work for one topic."""

    name: str
    #: None for an eager feed, and for a lazy one that has no topic to feed.
    topic: str | None
    state: FeedState
    restarts: int
    #: The class of the last failure, and the trace id of its log entry.
    last_error: str | None
    last_trace_id: str | None
    #: How long the present call of the function has been running.
    running_seconds: float


def _is_backoff(_feed: object, _attribute: object, value: tuple[float, float]) -> None:
    first, longest = value
    if not 0 < first <= longest:
        raise ValueError(f"backoff_seconds = {value!r}: the first pause, then one that is as long or longer")


@frozen(kw_only=True)
class _Feed:
    name: str
    function: Callable[..., Awaitable[None]]
    topics: str | None
    linger_seconds: float = field(validator=validators.ge(0))
    backoff_seconds: tuple[float, float] = field(validator=_is_backoff)
    healthy_seconds: float = field(validator=validators.ge(0))
    breaker: CircuitBreaker | None


@define(eq=False)
class _Run:
    """A feed's work, for one topic if it is a lazy one."""

    feed: _Feed
    topic: str | None
    #: False while a lazy feed lingers.
    wanted: bool = True
    scope: trio.CancelScope = field(factory=trio.CancelScope)
    state: FeedState = FeedState.WAITING
    restarts: int = 0
    last_error: str | None = None
    last_trace_id: str | None = None
    began_at: float = 0.0


class Feeds:
    """The feeds of one engine. ``jitter`` gives numbers from 0 to 1."""

    def __init__(self, *, jitter: Callable[[], float] = random.random) -> None:
        self._jitter = jitter
        self._feeds: dict[str, _Feed] = {}
        self._runs: dict[tuple[str, str | None], _Run] = {}
        #: The topics that have subscribers, in the order they came.
        self._present: dict[str, None] = {}
        self._server: Any = None
        self._nursery: trio.Nursery | None = None

    def feed(
        self,
        *,
        topics: str | None = None,
        linger_seconds: float = 5.0,
        name: str | None = None,
        backoff_seconds: tuple[float, float] = (1.0, 30.0),
        healthy_seconds: float = 60.0,
        breaker: CircuitBreaker | None = None,
    ) -> Callable[[_Function], _Function]:
        """Register the decorated async function, which stays as it is.

        Without ``topics`` it is called as ``f(server)`` once the server runs. With ``topics``, a pattern like
        ``symbol:*``, it is called as ``f(server, topic)`` for each topic that matches when its first subscriber
        comes, and cancelled ``linger_seconds`` after the last one has left.

        When it raises, it is called again after a pause between 0 and the first of ``backoff_seconds``. The longest
        pause doubles with each failure up to the second, and starts anew once the function has run for
        ``healthy_seconds``. When it returns, it is done: for good without ``topics``, else until its topic has had
        no subscriber and gets one again.

        It is not called while its ``breaker`` refuses; it waits for as long as that says and a little longer, which
        then replaces the pause. Its failures count for the breaker. Its success counts when it returns, when it has
        run for ``healthy_seconds``, or when it calls `CircuitBreaker.succeeded`.

        Raises `TypeError` for a function that cannot be called so, `ValueError` for a name that is taken.
        """

        def decorate(function: _Function) -> _Function:
            feed = _Feed(
                name=name or function.__name__,
                function=function,
                topics=topics,
                linger_seconds=linger_seconds,
                backoff_seconds=backoff_seconds,
                healthy_seconds=healthy_seconds,
                breaker=breaker,
            )
            self._register(feed)
            return function

        return decorate

    def _register(self, feed: _Feed) -> None:
        if feed.name in self._feeds:
            raise ValueError(f"feed {feed.name!r}: registered already")
        if not inspect.iscoroutinefunction(feed.function):
            raise TypeError(f"feed {feed.name!r}: a feed is an async function")
        needed = ("server",) if feed.topics is None else ("server", "topic")
        try:
            inspect.signature(feed.function).bind(*needed)
        except TypeError as error:
            raise TypeError(f"feed {feed.name!r} is called with ({', '.join(needed)}): {error}") from None
        self._feeds[feed.name] = feed
        if feed.topics is None:
            self._want(feed, None)
        for topic in self._present:
            if feed.topics is not None and fnmatchcase(topic, feed.topics):
                self._want(feed, topic)

    async def run(self, server: Any, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the feeds until cancelled; ``server`` is what they are given."""
        self._server = server
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                for run in self._runs.values():
                    self._start(run)
                task_status.started()
                await trio.sleep_forever()
            finally:
                # Before the nursery is closed to new tasks, and not after.
                self._nursery = None

    def audience(self, topic: str, present: bool) -> None:  # noqa: FBT001
        """Take note that a topic has got its first subscriber, or lost its last one. Never waits."""
        if present:
            self._present[topic] = None
        else:
            self._present.pop(topic, None)
        for feed in self._feeds.values():
            if feed.topics is not None and fnmatchcase(topic, feed.topics):
                if present:
                    self._want(feed, topic)
                else:
                    self._leave(feed, topic)

    def _want(self, feed: _Feed, topic: str | None) -> None:
        run = self._runs.get((feed.name, topic))
        if run is None:
            run = self._runs[feed.name, topic] = _Run(feed, topic)
            self._start(run)
        else:
            run.wanted = True
            # If it has expired already this comes too late, and `_work` begins again after the end.
            run.scope.deadline = math.inf

    def _leave(self, feed: _Feed, topic: str) -> None:
        run = self._runs.get((feed.name, topic))
        if run is None:
            return
        run.wanted = False
        if self._nursery is None or run.state is FeedState.DONE:
            del self._runs[feed.name, topic]
        else:
            run.scope.deadline = trio.current_time() + feed.linger_seconds

    def _start(self, run: _Run) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(self._work, run, name=f"feed {run.feed.name} {run.topic or ''}".rstrip())

    async def _work(self, run: _Run) -> None:
        """The task of one run."""
        while run.wanted:
            run.scope = trio.CancelScope()
            with run.scope:
                await self._repeat(run)
            if run.wanted and not run.scope.cancel_called:
                run.state = FeedState.DONE
                return
        self._runs.pop((run.feed.name, run.topic), None)  # gone already if it was left during the shutdown

    async def _repeat(self, run: _Run) -> None:
        """Call the function until it returns."""
        first, longest = run.feed.backoff_seconds
        pause = first
        await self._wait_admitted(run)
        while not await self._attempt(run):
            if trio.current_time() - run.began_at >= run.feed.healthy_seconds:
                pause = first
            if not await self._wait_admitted(run):
                run.state = FeedState.BACKING_OFF
                await trio.sleep(self._jitter() * pause)
                pause = min(2 * pause, longest)
                await self._wait_admitted(run)  # others may have opened the breaker meanwhile
            run.restarts += 1

    async def _wait_admitted(self, run: _Run) -> bool:
        """Wait for as long as the breaker refuses; whether it did. No checkpoint after its consent."""
        refused = False
        while (seconds := _refusal(run.feed.breaker)) is not None:
            refused = True
            run.state = FeedState.REFUSED
            # Sooner would be in vain. The spread lets one of many be the probe while the others still wait.
            await trio.sleep(seconds + self._jitter() * run.feed.backoff_seconds[0])
        return refused

    async def _attempt(self, run: _Run) -> bool:
        """Call the function once; whether it returned."""
        run.state = FeedState.RUNNING
        run.began_at = trio.current_time()
        if run.feed.breaker is None:
            return await self._call(run)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_prove, run.feed.breaker, run.feed.healthy_seconds)
            returned = await self._call(run)
            nursery.cancel_scope.cancel()
        return returned

    async def _call(self, run: _Run) -> bool:
        arguments = (self._server,) if run.topic is None else (self._server, run.topic)
        try:
            with run.feed.breaker or nullcontext():
                await run.feed.function(*arguments)
        except Exception as error:  # noqa: BLE001 - a bug in a feed: the log has it, the server lives on
            self._note(run, error)
            return False
        except BaseExceptionGroup as group:
            failed, rest = group.split(Exception)
            if failed is not None:
                self._note(run, failed)
            assert rest is not None
            raise rest from None
        return True

    def _note(self, run: _Run, error: Exception) -> None:
        run.last_error = type(lone(error)).__name__
        run.last_trace_id = secrets.token_hex(8)
        log.error("feed failed", feed=run.feed.name, topic=run.topic, trace_id=run.last_trace_id, exc_info=error)

    def statistics(self) -> list[FeedStatistics]:
        """A snapshot of each run, and of each lazy feed that has none."""
        working = {run.feed.name for run in self._runs.values()}
        idle = [_Run(feed, None) for feed in self._feeds.values() if feed.name not in working]
        return [
            FeedStatistics(
                name=run.feed.name,
                topic=run.topic,
                state=run.state,
                restarts=run.restarts,
                last_error=run.last_error,
                last_trace_id=run.last_trace_id,
                running_seconds=trio.current_time() - run.began_at if run.state is FeedState.RUNNING else 0.0,
            )
            for run in [*self._runs.values(), *idle]
        ]


def _refusal(breaker: CircuitBreaker | None) -> float | None:
    """For how many seconds; None: it lets a call through."""
    if breaker is not None:
        try:
            breaker.check()
        except CommandError as error:
            return error.retry_after
    return None


async def _prove(breaker: CircuitBreaker, healthy_seconds: float) -> None:
    await trio.sleep(healthy_seconds)
    breaker.succeeded()
