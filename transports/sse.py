"""Server-Sent Events on our stream: a response that never ends, written by the hub like any other wire.

The body has no length and is not chunked; it ends with the connection. So an event's bytes are the same for
everybody who sees it.
"""

from __future__ import annotations

from realtime import closing
from realtime.closing import CloseReason
from realtime.errors import WireError
from realtime.wire import Framing, Receiver
from transports.events import EVENT_STREAM_HEADERS, KEEP_ALIVE_SECONDS, first_retry, framing_for, keep_alive, retry_line
from transports.stream import Stream

__all__ = ["SseWire"]

_MAX_INPUT = 64 * 1024


class SseWire:
    """See the module and `realtime.wire.Wire`."""

    heartbeat_interval: float | None = KEEP_ALIVE_SECONDS
    peer_answers = False
    refused_in_band = False

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

    async def open(self) -> bytes:
        """The response head, and how long to wait before a reconnect."""
        headers = {**EVENT_STREAM_HEADERS, "Connection": "close", **self._headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"HTTP/1.1 200 OK\r\n{lines}\r\n".encode("latin-1") + first_retry(self._jitter)

    async def drain(self) -> None:
        """See `realtime.wire.Wire`."""
        await self._stream.drain()

    async def write(self, data: bytes) -> None:
        """See `realtime.wire.Wire`."""
        await self._stream.send_all(data)

    def heartbeat(self, ping: bytes) -> bytes:
        """See `keep_alive`."""
        return keep_alive(ping)

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
