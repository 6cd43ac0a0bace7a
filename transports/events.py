"""What Server-Sent Events look like: events, cursors, the words of a request. Pure; serves every way of carrying them.

With one topic even the ``id:`` line is shared by all who see an event, as the cursor then is that topic's position;
with several, each connection has a cursor of its own, and the outbox writes it in front.
"""

from __future__ import annotations

import msgspec
from attrs import evolve

from realtime.auth import Identity
from realtime.errors import CommandError, ErrorCode
from realtime.filters import parse_filter
from realtime.history import Since, cursor_part, decode_cursor
from realtime.messages import Fields, MaxRate, decode_wish
from realtime.routes import Binding
from realtime.topics import Mode
from realtime.views import View
from realtime.wire import Framing
from realtime.wishes import Subscribe
from transports.credentials import Head

__all__ = [
    "EVENT_STREAM_HEADERS",
    "KEEP_ALIVE_SECONDS",
    "Query",
    "SseFraming",
    "first_retry",
    "first_wishes",
    "framing_for",
    "keep_alive",
    "parse_wishes",
    "retry_line",
    "wishes_of",
]

Query = list[tuple[str, str]]

#: Proxies drop what is silent; a comment every 15 s is the common practice.
KEEP_ALIVE_SECONDS = 15.0
#: The wait before an EventSource reconnects; each client gets its own between this and twice this.
RETRY_SECONDS = 3.0
EVENT_STREAM_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store, no-transform",
    "X-Accel-Buffering": "no",
}


class SseFraming:
    """A push is one event; its type is the push's, so a plain ``onmessage`` gets the messages."""

    cursors = True

    def __init__(self, *, stamped: bool) -> None:
        self.stamped = stamped

    @property
    def several(self) -> Framing:
        """See `realtime.wire.Framing`."""
        return _SEVERAL_TOPICS

    def message(self, text: bytes, topic: str, epoch: str, offset: int) -> bytes:
        """See `realtime.wire.Framing`."""
        if self.stamped:
            return b"event: message\ndata: %b\n\n" % text
        return b"id: %b%d\nevent: message\ndata: %b\n\n" % (cursor_part(topic, epoch).encode(), offset, text)

    def push(self, kind: str, text: bytes, cursor: str | None = None) -> bytes:
        """See `realtime.wire.Framing`."""
        identity = b"" if cursor is None else b"id: %b\n" % cursor.encode()
        return b"%bevent: %b\ndata: %b\n\n" % (identity, kind.encode(), text)

    def stamp(self, cursor: str) -> bytes:
        """See `realtime.wire.Framing`."""
        return b"id: %b\n" % cursor.encode()


_ONE_TOPIC = SseFraming(stamped=False)
_SEVERAL_TOPICS = SseFraming(stamped=True)


def framing_for(topics: int) -> Framing:
    """The framing of a stream of so many topics."""
    return _ONE_TOPIC if topics == 1 else _SEVERAL_TOPICS


def retry_line(seconds: float) -> bytes:
    """What tells an EventSource when to come back.

    A line and not a block of its own: some clients hand on a block without data as an empty message.
    """
    return b"retry: %d\n" % round(1000 * seconds)


def first_retry(jitter: float) -> bytes:
    """The beginning of a stream: each client's own wait before a reconnect."""
    return retry_line(RETRY_SECONDS * (1 + jitter))


def keep_alive(ping: bytes) -> bytes:
    """A comment, for proxies, and a ping event, for clients that want to know the server alive.

    No empty line between the two: some clients hand on a block without data as an empty message.
    """
    return b": keep-alive\n" + ping


def parse_wishes(query: Query, last_event_id: str | None = None) -> tuple[list[Subscribe], str]:
    """The subscriptions that a request's parameters ask for, and its cursor; raises `CommandError`."""
    if not query and not last_event_id:
        return [], ""
    cursor = last_event_id or _first(query, "cursor") or ""
    positions = decode_cursor(cursor)
    condition = _first(query, "filter")
    mode = _first(query, "mode")
    if mode is not None and mode not in tuple(Mode):
        raise CommandError(ErrorCode.BAD_REQUEST, f"`mode` is one of {', '.join(Mode)}")
    model = Subscribe(
        "",
        View.of(_fields(_first(query, "fields")), parse_filter(condition.encode()) if condition else None),
        None if mode is None else Mode(mode),
        None,
        _rate(_first(query, "max_rate")),
    )
    wishes: dict[str, Subscribe] = {}
    for name, value in query:
        if name == "topic":
            wish = evolve(model, topic=value)
        elif name == "sub":
            wish = Subscribe.of(decode_wish(value.encode()))
        else:
            continue
        if wish.topic in wishes:
            raise CommandError(ErrorCode.ALREADY_SUBSCRIBED, "the same topic twice")
        # A stream that resumes goes before what its URL says.
        position = positions.get(wish.topic)
        wishes[wish.topic] = wish if position is None else evolve(wish, since=Since(after=position))
    return list(wishes.values()), cursor


def wishes_of(head: Head, query: Query, binding: Binding | None) -> tuple[list[Subscribe], str]:
    """What a request for an event stream asks for; raises `CommandError`."""
    last_event_id = head.header(b"last-event-id")
    if binding is not None:
        wish = _bound_wish(binding)
        position = decode_cursor(last_event_id or "").get(wish.topic)
        return [wish if position is None else evolve(wish, since=Since(after=position))], ""
    # Without a topic too: commands beside the stream may bring some.
    return parse_wishes(query, last_event_id)


def first_wishes(query: Query, identity: Identity | None, binding: Binding | None) -> tuple[list[Subscribe], str]:
    """What a request for a WebSocket asks for, by a peer that may have no login yet; raises `CommandError`."""
    wishes, cursor = parse_wishes(query) if binding is None else ([_bound_wish(binding)], "")
    if identity is None and wishes:
        raise CommandError(ErrorCode.AUTH_REQUIRED, "log in first")
    return wishes, cursor


def _bound_wish(binding: Binding) -> Subscribe:
    """What a route asks for."""
    dialect = binding.route.dialect
    return Subscribe(binding.topic, View.of(envelope=None if dialect is None else dialect.envelope))


def _first(query: Query, wanted: str) -> str | None:
    return next((value for name, value in query if name == wanted), None)


def _fields(text: str | None) -> list[str] | None:
    """The ``fields`` in a URL, with the bounds that they have in a command."""
    if not text:
        return None
    try:
        return msgspec.convert(text.split(","), Fields)
    except msgspec.ValidationError:
        raise CommandError(ErrorCode.BAD_REQUEST, "`fields` is too long") from None


def _rate(text: str | None) -> float | None:
    """A ``max_rate`` in a URL."""
    if text is None:
        return None
    try:
        return msgspec.convert(text, MaxRate, strict=False)
    except msgspec.ValidationError:
        raise CommandError(ErrorCode.BAD_REQUEST, "`max_rate` is a number of messages a second") from None
