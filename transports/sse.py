"""Server-Sent Events on our stream: a response that never ends, written by the hub like any other wire.

The body has no length and is not chunked; it ends with the connection. So an event's bytes are the same for
everybody who sees it. With one topic even the ``id:`` line is shared, as the cursor then is that topic's
position; with several, each connection has a cursor of its own, and the outbox writes it in front.
"""

from __future__ import annotations

from realtime import closing
from realtime.closing import CloseReason
from realtime.commands import Subscribe
from realtime.errors import CommandError, ErrorCode, WireError
from realtime.history import Position, Since, cursor_part, decode_cursor
from realtime.messages import decode_subscribe, refuse_unknown_options
from realtime.topics import Mode
from realtime.views import View
from realtime.wire import Framing, Receiver
from transports.stream import Stream

__all__ = [
    "KEEP_ALIVE_SECONDS",
    "SSE_HEADERS",
    "SseFraming",
    "SseWire",
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
_MAX_INPUT = 64 * 1024
SSE_HEADERS = {
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


class SseWire:
    """See the module and `realtime.wire.Wire`."""

    heartbeat_interval: float | None = KEEP_ALIVE_SECONDS
    peer_answers = False

    def __init__(self, stream: Stream, *, topics: int, headers: dict[str, str], jitter: float) -> None:
        self.framing: Framing | None = framing_for(topics)
        self._stream = stream
        self._headers = headers
        self._jitter = jitter
        self.write_nowait = stream.write_nowait

    @property
    def busy(self) -> bool:
        """See `realtime.wire.Wire`."""
        return self._stream.busy

    @property
    def progress(self) -> int:
        """See `realtime.wire.Wire`."""
        return self._stream.sent

    @property
    def heard_at(self) -> float:
        """See `realtime.wire.Wire`."""
        return self._stream.heard_at

    async def open(self) -> None:
        """Send the response head, and how long to wait before a reconnect."""
        headers = {**SSE_HEADERS, "Connection": "close", **self._headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        await self._stream.send_all(f"HTTP/1.1 200 OK\r\n{lines}\r\n".encode("latin-1") + first_retry(self._jitter))

    async def drain(self) -> None:
        """See `realtime.wire.Wire`."""
        await self._stream.drain()

    async def write(self, data: bytes) -> None:
        """See `realtime.wire.Wire`."""
        await self._stream.send_all(data)

    def heartbeat(self, text: bytes) -> bytes:
        """See `keep_alive`."""
        return keep_alive(text)

    async def read(self, receiver: Receiver) -> CloseReason:  # noqa: ARG002
        """Wait for the end: a client of this transport has nothing more to say on this connection."""
        received = 0
        try:
            while received < _MAX_INPUT:
                data = await self._stream.receive_some()
                if not data:
                    return closing.GONE
                received += len(data)
        except WireError:
            return closing.GONE
        return closing.BAD_REQUEST

    async def close(self, reason: CloseReason) -> None:
        """End the response; an EventSource comes back by itself, so it is told when."""
        if reason.retry_after is not None:
            await self._stream.send_all(retry_line(reason.retry_after))
        await self._stream.finish()

    def abort(self) -> None:
        """See `realtime.wire.Wire`."""
        if not self._stream.closed:
            self._stream.reset() if self._stream.busy else self._stream.abort()


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
