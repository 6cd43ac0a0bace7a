"""What the front door answers itself, in the words of the API: for the document, and for a wrong method."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from realtime.errors import ErrorCode
from realtime.messages import CursorText
from realtime.pushes import Gap, Message, Placed
from realtime.topics import Mode
from transports.http.endpoints import Access, Endpoint

__all__ = ["FRONT_DOOR"]


class StreamQuery(Struct, frozen=True):
    """What is subscribed to. The view is that of each ``topic``; a ``sub`` has its own."""

    topic: list[str] = []
    sub: list[str] = []
    cursor: CursorText = ""
    fields: str = ""
    filter: str = ""
    mode: Mode = Mode.ALL
    max_rate: Annotated[float, Meta(ge=1 / 60, le=1000)] = 1000


class PollQuery(StreamQuery, frozen=True):
    """The same, and how long to wait, for how much."""

    timeout: Annotated[float, Meta(ge=0)] = 25
    limit: Annotated[int, Meta(ge=1)] = 100


class Polled(Struct, frozen=True):
    """What came after the cursor, and the cursor for the next poll."""

    messages: list[Message]
    gaps: list[Gap]
    cursor: str
    topics: list[Placed]


_SUBSCRIBING = (
    ErrorCode.BAD_REQUEST,
    ErrorCode.INVALID_TOPIC,
    ErrorCode.INVALID_SYMBOL,
    ErrorCode.ALREADY_SUBSCRIBED,
    ErrorCode.AUTH_FAILED,
    ErrorCode.TOKEN_EXPIRED,
    ErrorCode.PERMISSION_DENIED,
    ErrorCode.ROOM_NOT_FOUND,
    ErrorCode.SESSION_NOT_FOUND,
    ErrorCode.LIMIT_EXCEEDED,
)

FRONT_DOOR = (
    Endpoint(
        method="GET",
        path="/sse",
        name="open_event_stream",
        doc="Follow topics as an event stream. What it says is in the AsyncAPI document.",
        access=Access.PEER,
        query=StreamQuery,
        answer=str,
        media="text/event-stream",
        errors=_SUBSCRIBING,
    ),
    Endpoint(
        method="POST",
        path="/sse/{connection}",
        name="command_event_stream",
        doc="Give a command beside an event stream: one of those in the AsyncAPI document. The answer is its reply.",
        access=Access.SECRET,
        body=dict[str, Any],
        answer=dict[str, Any],
        errors=tuple(code for code in ErrorCode if code is not ErrorCode.INTERNAL_ERROR),
    ),
    Endpoint(
        method="GET",
        path="/poll",
        name="poll",
        doc="Read what came after a cursor: at once if there is anything, else as soon as something comes.",
        access=Access.PEER,
        query=PollQuery,
        answer=Polled,
        errors=_SUBSCRIBING,
    ),
)
