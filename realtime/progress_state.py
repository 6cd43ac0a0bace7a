r"""What is known of one session of work: its events, its status, its counts. No I/O; time is an argument.

The status::

    PENDING --first event--> RUNNING --> COMPLETED, FAILED, CANCELLED
          \_____________________________/

What has ended stays as it ended. `TRANSITIONS` is the table.

A node that has been reported, well or badly, is *completed*; it counts once, as it was last reported, so that a node
that failed and was tried again moves from the failures to the successes, and a report that was sent twice does no harm.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

import msgspec
from attrs import define, field
from msgspec import Meta, Struct

from realtime.errors import CommandError, ErrorCode

__all__ = [
    "EVENTS",
    "TRANSITIONS",
    "Event",
    "GroupComplete",
    "ProgressSession",
    "ProgressUpdate",
    "Report",
    "SessionCompleted",
    "SessionEnded",
    "SessionError",
    "SessionState",
    "SessionSummary",
    "Status",
    "TaskCompleted",
    "TaskFailed",
    "check_event",
    "event_key",
    "event_name",
]

#: What a page that polls is shown of the past; the topic's history has more.
RECENT_EVENTS = 20
RECENT_RESULTS = 100

MAX_NAME = 200
MAX_TEXT = 4096
Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
Text = Annotated[str, Meta(max_length=MAX_TEXT)]
Count = Annotated[int, Meta(ge=0, le=2**53)]


class Status(StrEnum):
    """Where a session stands."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


_ENDS = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})
#: A session may end before it has begun: there was nothing to do, or nobody did it.
TRANSITIONS: dict[Status, frozenset[Status]] = {
    Status.PENDING: _ENDS | {Status.RUNNING},
    Status.RUNNING: _ENDS,
    Status.COMPLETED: frozenset(),
    Status.FAILED: frozenset(),
    Status.CANCELLED: frozenset(),
}


class ProgressUpdate(Struct, frozen=True, kw_only=True):
    """How far the session is."""

    progress_percent: Annotated[float, Meta(ge=0, le=100)]
    completed_nodes: Count
    total_nodes: Count


class TaskCompleted(Struct, frozen=True, kw_only=True):
    """A node was done."""

    node_id: Name
    file_path: Text | None = None
    #: In bytes, or as the page is to show it.
    file_size: Count | Annotated[str, Meta(max_length=40)] | None = None
    group_id: Name | None = None


class TaskFailed(Struct, frozen=True, kw_only=True):
    """A node could not be done."""

    node_id: Name
    error_message: Text
    group_id: Name | None = None


class GroupComplete(Struct, frozen=True, kw_only=True):
    """All nodes of one group were done."""

    agent_type: Name
    results: Any


class SessionCompleted(Struct, frozen=True, kw_only=True):
    """The last event of a session, whatever it ended as."""

    status: Status
    #: Seconds since the session was created.
    total_duration: float
    success_count: int
    failure_count: int


class SessionError(Struct, frozen=True, kw_only=True):
    """Something went wrong that is not the fault of one node. Does not end the session."""

    error_type: Name
    message: Text
    recoverable: bool = False
    retry_after: Annotated[float, Meta(ge=0)] | None = None


Event = ProgressUpdate | TaskCompleted | TaskFailed | GroupComplete | SessionCompleted | SessionError

EVENTS: dict[str, type[Event]] = {
    "progress_update": ProgressUpdate,
    "task_completed": TaskCompleted,
    "task_failed": TaskFailed,
    "group_complete": GroupComplete,
    "session_completed": SessionCompleted,
    "error": SessionError,
}
_names = {kind: name for name, kind in EVENTS.items()}
_decoders: dict[str, msgspec.json.Decoder[Event]] = {name: msgspec.json.Decoder(kind) for name, kind in EVENTS.items()}
_json = msgspec.json.Encoder()


class SessionEnded(CommandError):
    """The session has ended and takes no more events."""

    def __init__(self, status: Status) -> None:
        super().__init__(ErrorCode.BAD_REQUEST, f"the session has ended as {status} and takes no more events")


class Report(Struct, frozen=True):
    """An event and when it came."""

    type: str
    #: Milliseconds since 1970.
    time: int
    data: Event


class SessionSummary(Struct, frozen=True, kw_only=True):
    """A session in a list. Times are milliseconds since 1970."""

    session_id: str
    status: Status
    progress_percent: float
    completed_nodes: int
    #: 0 where nobody has said it.
    total_nodes: int
    success_count: int
    failure_count: int
    created_at: int
    updated_at: int
    ended_at: int | None
    #: None until the session has ended.
    total_duration: float | None


class SessionState(SessionSummary, frozen=True, kw_only=True):
    """All that a page needs that was not there from the beginning."""

    info: dict[str, Any]
    #: The newest report of each of the newest nodes, oldest first.
    results: list[Report]
    #: The newest events without the progress updates, oldest first.
    events: list[Report]


def event_name(event: Event) -> str:
    """What the event is called on the wire."""
    return _names[type(event)]


def event_key(event: Event) -> str:
    """What a subscriber in mode ``latest`` gets the newest of: each node, each group, the progress, the end."""
    if isinstance(event, TaskCompleted | TaskFailed):
        return f"node:{event.node_id}"
    if isinstance(event, GroupComplete):
        return f"group:{event.agent_type}"
    return event_name(event)


def check_event(event: Event | Mapping[str, Any]) -> Event:
    """The event, found valid: a struct, or ``{"type": .., "data": {..}}``. Raises `CommandError`.

    By way of JSON, so that what is kept and what is sent cannot change any more in the hands of whoever made it.
    """
    name: object
    data: object
    if isinstance(event, Mapping):
        name, data = event.get("type"), event.get("data")
    else:
        name, data = _names.get(type(event)), event
    if not isinstance(name, str) or name not in EVENTS:
        raise CommandError(ErrorCode.BAD_REQUEST, f"an event has a `type`, one of {', '.join(EVENTS)}, and `data`")
    try:
        return _decoders[name].decode(_json.encode(data))
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError) as error:
        raise CommandError(ErrorCode.BAD_REQUEST, f"event {name}: {error}") from None


@define(eq=False, kw_only=True)
class ProgressSession:
    """See the module. `admit` before an event is published, `apply` once it is."""

    id: str
    #: Grows with the listing's order.
    serial: int
    max_nodes: int
    total_nodes: int
    info: dict[str, Any]
    #: By the monotonic clock, as `heard_at` and `ended_at`.
    started_at: float
    created_ms: int
    status: Status = Status.PENDING
    progress_percent: float = 0.0
    completed_nodes: int = 0
    success_count: int = 0
    failure_count: int = 0
    final: SessionCompleted | None = None
    heard_at: float = field(init=False)
    updated_ms: int = field(init=False)
    #: Whether progress follows from the reports of the nodes, or is what the workers say.
    counts: bool = field(init=False)
    _outcomes: dict[str, bool] = field(init=False, factory=dict)
    _results: dict[str, Report] = field(init=False, factory=dict)
    _events: deque[Report] = field(init=False, factory=lambda: deque(maxlen=RECENT_EVENTS))

    def __attrs_post_init__(self) -> None:
        self.heard_at, self.updated_ms = self.started_at, self.created_ms
        self.counts = self.total_nodes > 0

    @property
    def topic(self) -> str:
        """Where its events are published."""
        return f"session:{self.id}"

    def admit(self, event: Event) -> None:
        """Raise `CommandError` unless a worker may report this now."""
        if self.final is not None:
            raise SessionEnded(self.status)
        if isinstance(event, SessionCompleted):
            raise CommandError(ErrorCode.BAD_REQUEST, "a session is ended by complete, fail or cancel, not by an event")
        if (
            isinstance(event, TaskCompleted | TaskFailed)
            and event.node_id not in self._outcomes
            and len(self._outcomes) >= self.max_nodes
        ):
            raise CommandError(ErrorCode.LIMIT_EXCEEDED, f"a session has at most {self.max_nodes} nodes")

    def apply(self, event: Event, now: float, now_ms: int) -> None:
        """Take up an event that was admitted."""
        self.heard_at, self.updated_ms = now, now_ms
        if isinstance(event, SessionCompleted):
            self._move(event.status)
            self.final = event
        elif self.status is Status.PENDING:
            self._move(Status.RUNNING)
        if isinstance(event, ProgressUpdate):
            self.progress_percent = event.progress_percent
            self.completed_nodes, self.total_nodes = event.completed_nodes, event.total_nodes
            return
        report = Report(event_name(event), now_ms, event)
        self._events.append(report)
        if isinstance(event, TaskCompleted | TaskFailed):
            self._count(event.node_id, report)

    def _move(self, status: Status) -> None:
        assert status in TRANSITIONS[self.status]
        self.status = status

    def _count(self, node_id: str, report: Report) -> None:
        succeeded = isinstance(report.data, TaskCompleted)
        before = self._outcomes.get(node_id)
        self._outcomes[node_id] = succeeded
        self.success_count += succeeded - (before is True)
        self.failure_count += (not succeeded) - (before is False)
        self.completed_nodes += before is None
        self._results.pop(node_id, None)
        self._results[node_id] = report
        if len(self._results) > RECENT_RESULTS:
            del self._results[next(iter(self._results))]
        if self.total_nodes:
            # More than was announced is done: then that many there are.
            self.total_nodes = max(self.total_nodes, self.completed_nodes)
            self.progress_percent = round(100 * self.completed_nodes / self.total_nodes, 1)

    def progress(self) -> ProgressUpdate:
        """How far it is, as an event."""
        return ProgressUpdate(
            progress_percent=self.progress_percent,
            completed_nodes=self.completed_nodes,
            total_nodes=self.total_nodes,
        )

    def end_as(self, status: Status, now: float) -> SessionCompleted:
        """The final event, if the session ended now; apply it to end it."""
        return SessionCompleted(
            status=status,
            total_duration=round(now - self.started_at, 3),
            success_count=self.success_count,
            failure_count=self.failure_count,
        )

    def summary(self) -> SessionSummary:
        """For a list."""
        return SessionSummary(**self._facts())

    def state(self) -> SessionState:
        """For a page that polls, or comes late."""
        return SessionState(
            **self._facts(), info=self.info, results=list(self._results.values()), events=list(self._events)
        )

    def _facts(self) -> dict[str, Any]:
        final = self.final
        return {
            "session_id": self.id,
            "status": self.status,
            "progress_percent": self.progress_percent,
            "completed_nodes": self.completed_nodes,
            "total_nodes": self.total_nodes,
            "success_count": self.success_count,
            "failure_count": self.failure_count,
            "created_at": self.created_ms,
            "updated_at": self.updated_ms,
            "ended_at": None if final is None else self.updated_ms,
            "total_duration": None if final is None else final.total_duration,
        }
