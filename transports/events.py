"""What Server-Sent Events look like: events, cursors, the words of a request. Pure; serves every way of carrying them.

With one topic even the ``id:`` line is shared by all who see an event, as the cursor then is that topic's position;
with several, each connection has a cursor of its own, and the outbox writes it in front.
"""

from __future__ import annotations

from realtime.commands import Subscribe
from realtime.errors import CommandError, ErrorCode
from realtime.history import Position, Since, cursor_part, decode_cursor
from realtime.messages import decode_subscribe, refuse_unknown_options
from realtime.topics import Mode
from realtime.views import View
from realtime.wire import Framing

__all__ = [
    "EVENT_STREAM_HEADERS",
    "KEEP_ALIVE_SECONDS",
    "SseFraming",
    "first_retry",
    "framing_for",
    "keep_alive",
    "parse_wishes",
    "retry_line",
]

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


def keep_alive(text: bytes) -> bytes:
    """A comment, for proxies, and a ping event, for clients that want to know the server alive."""
    return b": keep-alive\n\nevent: ping\ndata: %b\n\n" % text


def parse_wishes(query: list[tuple[str, str]], last_event_id: str | None) -> list[Subscribe]:
    """The subscriptions that a request's parameters ask for; raises `CommandError`."""
    cursor = last_event_id or next((value for name, value in query if name == "cursor"), "")
    positions = decode_cursor(cursor)
    fields = next((value for name, value in query if name == "fields"), None)
    mode = next((value for name, value in query if name == "mode"), None)
    if mode is not None and mode not in tuple(Mode):
        raise CommandError(ErrorCode.BAD_REQUEST, f"`mode` is one of {', '.join(Mode)}")
    for name, _ in query:
        if name in ("filter", "max_rate"):
            raise CommandError(ErrorCode.BAD_REQUEST, f"this server does not offer `{name}`")
    view = View.of(fields.split(",") if fields else None)
    wishes: dict[str, Subscribe] = {}
    for name, value in query:
        if name == "topic":
            wish = Subscribe(value, view, None if mode is None else Mode(mode), None)
        elif name == "sub":
            wish = _parse_sub(value)
        else:
            continue
        if wish.topic in wishes:
            raise CommandError(ErrorCode.ALREADY_SUBSCRIBED, "the same topic twice")
        wishes[wish.topic] = _since(wish, positions.get(wish.topic))
    if not wishes:
        raise CommandError(ErrorCode.BAD_REQUEST, "name at least one `topic`")
    return list(wishes.values())


def _since(wish: Subscribe, position: Position | None) -> Subscribe:
    """The wish, from the cursor's position where that has one: a stream that resumes goes before what its URL says."""
    if position is None:
        return wish
    return Subscribe(wish.topic, wish.view, wish.mode, Since(after=position))


def _parse_sub(text: str) -> Subscribe:
    command = decode_subscribe(text.encode())
    refuse_unknown_options(command)
    return Subscribe(
        command.topic,
        View.of(command.fields),
        None if command.mode is None else Mode(command.mode),
        command.since(),
    )
