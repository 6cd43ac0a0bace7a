"""Progress sessions, for back ends that report from elsewhere and for pages that can only poll.

A session is ended by a request of its own and not by an event: an event says what happened, an end is a decision.
"""

from __future__ import annotations

from typing import Annotated, Any, Union

import msgspec
from msgspec import Meta, Struct

from realtime.engine import Engine
from realtime.errors import ErrorCode
from realtime.idempotency import Receipt
from realtime.progress import SessionPage
from realtime.progress_state import EVENTS, SessionCompleted, SessionError, SessionState, SessionSummary
from transports.http.api.topics import Limit
from transports.http.endpoints import Endpoints

__all__ = ["sessions"]

sessions = Endpoints()
_FOUND = (ErrorCode.SESSION_NOT_FOUND,)
_PUBLISHED = (*_FOUND, ErrorCode.LIMIT_EXCEEDED, ErrorCode.UNAVAILABLE)


def _tagged(name: str, *members: tuple[str, Any], without: tuple[type, ...] = ()) -> Any:
    """One struct for each event, told apart by ``type``: what `Report` is, for those who read schemas."""
    shapes = [
        msgspec.defstruct(f"{kind.__name__}{name}", [*members, ("data", kind)], tag_field="type", tag=word, frozen=True)
        for word, kind in EVENTS.items()
        if kind not in without
    ]
    return Union[tuple(shapes)]  # noqa: UP007 - there is no other way to write one of a length that is not known


#: What a worker may report.
Reported: Any = _tagged("Event", without=(SessionCompleted,))
#: What it is told as.
Told: Any = _tagged("Report", ("time", int))


class NewSession(Struct, frozen=True):
    """A session to start."""

    #: One is made where none is given.
    session_id: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    #: With it, progress is counted; without, it is what the workers say.
    total_nodes: Annotated[int, Meta(ge=0)] = 0
    #: What the session is about, for its page.
    info: dict[str, Any] = {}


class SessionsQuery(Struct, frozen=True):
    """A page of sessions: those after the ``next`` of the page before."""

    after: Annotated[int, Meta(ge=0)] = 0
    limit: Limit = 50


class Failure(Struct, frozen=True):
    """Why a session could not go on; told before its end."""

    error: SessionError | None = None


class SessionDetails(SessionSummary, frozen=True, kw_only=True):
    """All that a page needs that was not there from the beginning: `SessionState`, as a schema can say it."""

    info: dict[str, Any]
    results: list[Told]
    events: list[Told]


@sessions.post(
    "/api/v1/sessions",
    statuses=(201,),
    answer=SessionDetails,
    errors=(ErrorCode.INVALID_TOPIC, ErrorCode.PAYLOAD_TOO_LARGE, ErrorCode.LIMIT_EXCEEDED, ErrorCode.UNAVAILABLE),
)
async def create_session(engine: Engine, body: NewSession) -> SessionState:
    """Start a progress session; from now on its topic, `session:` and its id, may be joined."""
    return engine.progress.create(body.session_id, total_nodes=body.total_nodes, info=body.info)


@sessions.get("/api/v1/sessions")
async def list_sessions(engine: Engine, query: SessionsQuery) -> SessionPage:
    """List the sessions in the order in which they were started, also those that ended not long ago."""
    return engine.progress.page(query.after, query.limit)


@sessions.get("/api/v1/sessions/{session}", answer=SessionDetails, errors=_FOUND)
async def read_session(engine: Engine, session: str) -> SessionState:
    """Read how far a session is."""
    return engine.progress.state(session)


@sessions.post("/api/v1/sessions/{session}/events", errors=_PUBLISHED)
async def report_event(engine: Engine, session: str, body: Reported) -> Receipt:
    """Report an event of a session that has not ended."""
    return await engine.progress.notify_progress(session, body.data)


@sessions.post("/api/v1/sessions/{session}/complete", errors=_PUBLISHED)
async def complete_session(engine: Engine, session: str) -> SessionCompleted:
    """End a session: the work is done. The first to end it decides; who comes later is told that end."""
    return await engine.progress.complete(session)


@sessions.post("/api/v1/sessions/{session}/fail", errors=_PUBLISHED)
async def fail_session(engine: Engine, session: str, body: Failure) -> SessionCompleted:
    """End a session: the work could not go on."""
    return await engine.progress.fail(session, body.error)


@sessions.post("/api/v1/sessions/{session}/cancel", errors=_PUBLISHED)
async def cancel_session(engine: Engine, session: str) -> SessionCompleted:
    """End a session: somebody did not want it any more."""
    return await engine.progress.cancel(session)
