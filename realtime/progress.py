"""Sessions of work that pages follow live: who may report, in which order it is told, when a session is over.

::

    run        one task: fails sessions that were abandoned, forgets those that ended long ago
    shutdown   one task for each running session, which tells its end; cancelled by the caller's deadline

Any number of tasks report to one session at once. They take turns: within a turn an event is checked, published, and
only then taken up, so that the state which is polled and the events which are pushed have the same order, and an event
that could not be published has not happened. The turn is a fair lock; it is never held while connections are closed.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any, Protocol

import msgspec
import structlog
import trio
from attrs import define, field, frozen

from realtime import closing
from realtime.closing import CloseReason
from realtime.errors import CommandError, ErrorCode
from realtime.idempotency import Receipt
from realtime.progress_state import (
    Event,
    ProgressSession,
    SessionCompleted,
    SessionError,
    SessionState,
    SessionSummary,
    Status,
    TaskCompleted,
    TaskFailed,
    check_event,
    event_key,
    event_name,
)

__all__ = ["ProgressPort", "ProgressSessions", "ProgressStatistics", "SessionPage"]

log = structlog.get_logger("realtime")

#: What a session is about, not what it works on: ids and a title.
MAX_INFO_BYTES = 4096
#: When to try again to start a session where too many run; nobody knows when one of them will end.
RETRY_SECONDS = 10.0


class ProgressPort(Protocol):
    """What the sessions need of the engine."""

    async def publish_event(self, topic: str, data: Any, *, event: str, key: str | None = None) -> Receipt:
        """Publish to the topic. Cancelled or failed, it has published nothing. Raises `CommandError`."""
        ...

    def create_topic(self, topic: str) -> bool:
        """From now on the topic may be joined. Raises `CommandError`."""
        ...

    def drop_topic(self, topic: str) -> None:
        """From now on it may not, and its history is gone: a session of the same id is another one."""
        ...

    async def end(self, topic: str, reason: CloseReason) -> None:
        """Close the connections that a route has bound to the topic, once they were handed all that was published.

        May be called again after it was cancelled, by several tasks at once, and for a topic that was removed.
        """
        ...


class SessionPage(msgspec.Struct, frozen=True):
    """A part of the list of sessions."""

    sessions: list[SessionSummary]
    #: Where the next page starts; None after the last.
    next: int | None


@frozen
class ProgressStatistics:
    """Counters since the start."""

    running: int
    #: Ended, and still there to be asked about.
    kept: int
    created: int
    events: int
    #: How many ended as what.
    ended: dict[Status, int]


@define(eq=False)
class _Entry:
    session: ProgressSession
    turn: trio.Lock = field(init=False, factory=trio.Lock)
    ended: trio.Event = field(init=False, factory=trio.Event)
    #: Whether the connections that follow it were closed after its end.
    released: bool = field(init=False, default=False)


class ProgressSessions:
    """See the module. ``info`` of a session and its reports are kept until `keep_seconds` after its end."""

    def __init__(
        self,
        port: ProgressPort,
        *,
        max_running: int = 1000,
        #: Of those that have ended; the oldest goes before its time when there are more.
        max_kept: int = 1000,
        max_nodes: int = 10_000,
        #: A page that polls, or reconnects, still finds out how it ended.
        keep_seconds: float = 600.0,
        #: A worker that says nothing for so long has died.
        abandoned_seconds: float = 3600.0,
        sweep_seconds: float = 30.0,
        now: Callable[[], float] = trio.current_time,
        now_ms: Callable[[], int],
    ) -> None:
        self._port = port
        self._max_running = max_running
        self._max_kept = max_kept
        self._max_nodes = max_nodes
        self._keep_seconds = keep_seconds
        self._abandoned_seconds = abandoned_seconds
        self._sweep_seconds = sweep_seconds
        self._now = now
        self._now_ms = now_ms
        self._entries: dict[str, _Entry] = {}
        #: Those that have ended, in the order in which they did.
        self._kept: dict[str, _Entry] = {}
        self._created = 0
        self._events = 0
        self._ended = dict.fromkeys((Status.COMPLETED, Status.FAILED, Status.CANCELLED), 0)
        self._closing = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look after the sessions until cancelled."""
        task_status.started()
        while True:
            await trio.sleep(self._sweep_seconds)
            await self._sweep()

    async def shutdown(self) -> None:
        """Cancel every session that runs, telling its followers, and start no more. The caller sets the deadline."""
        self._closing = True
        async with trio.open_nursery() as nursery:
            for entry in self._entries.values():  # also those that ended whose followers are not yet gone
                nursery.start_soon(self._try_finish, entry, Status.CANCELLED)

    # -- starting and asking ---------------------------------------------------------------------------------

    def create(
        self, session_id: str | None = None, *, total_nodes: int = 0, info: Mapping[str, Any] | None = None
    ) -> SessionState:
        """Start a session; from now on its topic may be joined.

        With ``total_nodes`` each report of a node is followed by a ``progress_update``; without, progress is what the
        workers say it is. Raises `CommandError`: ``LIMIT_EXCEEDED``, ``BAD_REQUEST`` for an id that is in use,
        ``PAYLOAD_TOO_LARGE``, ``UNAVAILABLE`` during a shutdown, and what `ProgressPort.create_topic` raises.
        """
        if self._closing:
            raise CommandError(ErrorCode.UNAVAILABLE, "the server is shutting down")
        if session_id is None:
            session_id = secrets.token_urlsafe(12)
        if session_id in self._entries:
            raise CommandError(ErrorCode.BAD_REQUEST, "there is a session of this id already")
        if not 0 <= total_nodes <= self._max_nodes:
            raise CommandError(ErrorCode.LIMIT_EXCEEDED, f"a session has at most {self._max_nodes} nodes")
        if len(self._entries) - len(self._kept) >= self._max_running:
            raise CommandError(
                ErrorCode.LIMIT_EXCEEDED, "as many sessions run as may at once", retry_after=RETRY_SECONDS
            )
        session = ProgressSession(
            id=session_id,
            serial=self._created + 1,
            max_nodes=self._max_nodes,
            total_nodes=total_nodes,
            info=_checked_info(info or {}),
            started_at=self._now(),
            created_ms=self._now_ms(),
        )
        self._port.create_topic(session.topic)
        self._created += 1
        self._entries[session_id] = _Entry(session)
        return session.state()

    def state(self, session_id: str) -> SessionState:
        """What is known now. Raises `CommandError`: ``SESSION_NOT_FOUND``, as everything that takes an id."""
        return self._entry(session_id).session.state()

    def state_of(self, topic: str) -> SessionState:
        """The same by the session's topic: what a route of the transport ``state`` asks for."""
        return self.state(topic.removeprefix("session:"))

    def page(self, after: int = 0, limit: int = 50) -> SessionPage:
        """At most ``limit`` sessions in the order in which they were created, from where a page before ended."""
        later = (entry.session for entry in self._entries.values() if entry.session.serial > after)
        found = list(islice(later, limit))
        more = next(later, None) is not None
        return SessionPage([session.summary() for session in found], found[-1].serial if found and more else None)

    def is_over(self, topic: str) -> bool:
        """Whether this is the topic of a session that has ended: nothing more will come."""
        entry = self._entries.get(topic.partition(":")[2])
        return entry is not None and entry.session.topic == topic and entry.ended.is_set()

    def __contains__(self, topic: object) -> bool:
        """Whether this is the topic of a session that runs, or is kept."""
        return any(entry.session.topic == topic for entry in self._entries.values())

    async def wait_ended(self, session_id: str) -> None:
        """Wait until the final event was published."""
        await self._entry(session_id).ended.wait()

    def statistics(self) -> ProgressStatistics:
        """A snapshot."""
        return ProgressStatistics(
            running=len(self._entries) - len(self._kept),
            kept=len(self._kept),
            created=self._created,
            events=self._events,
            ended=dict(self._ended),
        )

    # -- reporting -------------------------------------------------------------------------------------------

    async def notify_progress(self, session_id: str, event: Event | Mapping[str, Any]) -> Receipt:
        """Report an event: one of the structs, or ``{"type": .., "data": {..}}``. From any number of tasks at once.

        Waits for its turn, and while the hub is full. Raises `CommandError`: ``BAD_REQUEST``, as `SessionEnded` where
        the session has; ``LIMIT_EXCEEDED``; what publishing raises. Then, or when cancelled, the event has not
        happened, or only the ``progress_update`` that follows it is missing; to report a node again does no harm.
        """
        entry = self._entry(session_id)
        session = entry.session
        checked = check_event(event)
        async with entry.turn:
            session.admit(checked)
            position = await self._publish(session, checked)
            session.apply(checked, self._now(), self._now_ms())
            if session.counts and isinstance(checked, TaskCompleted | TaskFailed):
                await self._publish(session, session.progress())
        return position

    async def complete(self, session_id: str) -> SessionCompleted:
        """End the session: the work is done, whatever became of its nodes.

        Publishes the final event, then closes the connections that follow only this. The first to end a session
        decides what it ended as; whoever comes later gets the same final event. Cancelled, `run` does what is left.
        """
        return await self._finish(self._entry(session_id), Status.COMPLETED)

    async def fail(self, session_id: str, error: SessionError | None = None) -> SessionCompleted:
        """End the session: the work could not go on. ``error`` is told first. Otherwise like `complete`."""
        if error is not None:
            check_event(error)
        return await self._finish(self._entry(session_id), Status.FAILED, error)

    async def cancel(self, session_id: str) -> SessionCompleted:
        """End the session: somebody did not want it any more. Otherwise like `complete`."""
        return await self._finish(self._entry(session_id), Status.CANCELLED)

    # -- inside ----------------------------------------------------------------------------------------------

    def _entry(self, session_id: str) -> _Entry:
        entry = self._entries.get(session_id)
        if entry is None:
            raise CommandError(ErrorCode.SESSION_NOT_FOUND, "there is no such session")
        return entry

    async def _publish(self, session: ProgressSession, event: Event) -> Receipt:
        position = await self._port.publish_event(session.topic, event, event=event_name(event), key=event_key(event))
        self._events += 1
        return position

    async def _finish(self, entry: _Entry, status: Status, error: SessionError | None = None) -> SessionCompleted:
        session = entry.session
        async with entry.turn:
            final = session.final
            if final is None:
                final = session.end_as(status, self._now())
                if error is not None:
                    await self._publish(session, error)
                await self._publish(session, final)
                if error is not None:
                    session.apply(error, self._now(), self._now_ms())
                session.apply(final, self._now(), self._now_ms())
                self._keep(entry)
        await self._release(entry)
        return final

    async def _release(self, entry: _Entry) -> None:
        if not entry.released:
            await self._port.end(entry.session.topic, closing.NORMAL)
            entry.released = True

    async def _try_finish(self, entry: _Entry, status: Status, error: SessionError | None = None) -> None:
        """The same for whoever looks after many: what one session meets must not keep the others from their end."""
        try:
            await self._finish(entry, status, error)
        except CommandError as failure:
            log.warning("session could not be ended", session=entry.session.id, error=str(failure))

    def _keep(self, entry: _Entry) -> None:
        session = entry.session
        self._ended[session.status] += 1
        self._kept[session.id] = entry
        entry.ended.set()
        while len(self._kept) > self._max_kept:
            self._forget(next(iter(self._kept)))

    def _forget(self, session_id: str) -> None:
        del self._kept[session_id]
        topic = self._entries.pop(session_id).session.topic
        with suppress(CommandError):  # somebody else has removed it
            self._port.drop_topic(topic)

    async def _sweep(self) -> None:
        now = self._now()
        for session_id, entry in list(self._kept.items()):
            if now - entry.session.heard_at < self._keep_seconds:
                break
            if session_id in self._kept:  # it may have made room for another meanwhile
                self._forget(session_id)
            await trio.lowlevel.checkpoint()  # each tells those who still have its topic
        for entry in list(self._entries.values()):
            session = entry.session
            if session.final is not None:
                if not entry.released:  # who ended it was cancelled meanwhile
                    await self._try_finish(entry, session.status)
            elif now - session.heard_at >= self._abandoned_seconds:
                await self._try_finish(entry, Status.FAILED, _abandoned(self._abandoned_seconds))


def _abandoned(seconds: float) -> SessionError:
    return SessionError(error_type="abandoned", message=f"no event for {seconds:g} seconds")


def _checked_info(info: Mapping[str, Any]) -> dict[str, Any]:
    """A copy that nobody else holds."""
    text = msgspec.json.encode(info)
    if len(text) > MAX_INFO_BYTES:
        raise CommandError(ErrorCode.PAYLOAD_TOO_LARGE, f"`info` of a session has at most {MAX_INFO_BYTES} bytes")
    return msgspec.json.decode(text, type=dict[str, Any])
