"""WebSocket on our stream.

::

    serve_websocket
    |- trio-websocket's reader   fed by us, frame by frame; ended when this returns
    '- Connection.run            whose reader is `WebSocketWire.read`

The work is shared with trio-websocket. Whole text messages, which are nearly all that ever comes, are taken off
the stream here, at a tenth of the cost; everything else (fragments, pings, closes and all that is malformed) goes to
trio-websocket as it came, one frame at a time, and what it makes of it is taken up in its place in the order.
Sending is ours alone but for the control frames that trio-websocket answers with, and those pass through
the same stream, which never lets two frames mix.
"""

from __future__ import annotations

import contextlib
import logging

import trio
import trio_websocket

from realtime import closing
from realtime.closing import CloseReason
from realtime.errors import WireBroken, WireClosed, WireError
from realtime.wire import Framing, Receiver
from transports.frames import (
    BINARY,
    CONTINUATION,
    PONG,
    TEXT,
    Header,
    close_frame,
    ping_frame,
    read_header,
    text_frame,
    unmask,
)
from transports.stream import Stream

__all__ = ["Handshake", "WebSocketFraming", "WebSocketWire", "receive_handshake"]

#: What trio-websocket closes with when the peer broke RFC 6455; it sends no close frame for them.
_VIOLATIONS = {1002: closing.PROTOCOL_ERROR, 1007: closing.INVALID_TEXT}
_CLOSE_FRAME_FIRST_BYTE = 0x88

# trio-websocket logs each event of each connection at debug level, and pays for finding out that nobody listens.
logging.getLogger("trio-websocket").setLevel(logging.WARNING)


class WebSocketFraming:
    """A push is one text frame."""

    cursors = False
    stamped = False

    def message(self, text: bytes, topic: str, epoch: str, offset: int) -> bytes:  # noqa: ARG002
        """See `realtime.wire.Framing`."""
        return text_frame(text)

    def push(self, kind: str, text: bytes, cursor: str | None = None) -> bytes:  # noqa: ARG002
        """See `realtime.wire.Framing`."""
        return text_frame(text)

    def stamp(self, cursor: str) -> bytes:  # noqa: ARG002
        """See `realtime.wire.Framing`; a WebSocket client knows its positions from the messages."""
        return b""


FRAMING = WebSocketFraming()


class Feed(trio.abc.Stream):
    """The stream that trio-websocket sees: reading gives it what we hand over, writing goes to the real one."""

    def __init__(self, stream: Stream, head: bytes) -> None:
        self._stream = stream
        self._data = head
        self._wakeup: trio.Event | None = None
        self._waiter: trio.Event | None = None
        self._direct = False
        #: Whether trio-websocket has closed, or has sent a close frame: it will read no more.
        self.ended = False
        #: Whether a close frame has gone out.
        self.said_close = False
        self._scope: trio.CancelScope | None = None

    async def feed(self, data: bytes) -> None:
        """Hand over ``data`` and wait until it has been dealt with."""
        self._data += data
        self._waiter = waiter = trio.Event()
        if self._wakeup is not None:
            self._wakeup.set()
        if not self.ended:
            await waiter.wait()

    def go_direct(self, left: bytes) -> None:
        """From now on trio-websocket reads by itself, after what is ``left``: for the closing handshake."""
        self._data += left
        self._direct = True
        if self._wakeup is not None:
            self._wakeup.set()

    def end_with(self, scope: trio.CancelScope) -> None:
        """Cancel ``scope`` should trio-websocket close this stream: it wakes nobody who waits for a handshake."""
        self._scope = scope

    def _end(self) -> None:
        self.ended = True
        if self._waiter is not None:
            self._waiter.set()
        if self._scope is not None:
            self._scope.cancel()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:  # noqa: ARG002
        """Called by trio-websocket's reader."""
        while not self._data:
            if self.ended:
                raise trio.ClosedResourceError
            if self._direct:
                try:
                    return await self._stream.receive_some()
                except WireError as error:
                    raise trio.BrokenResourceError from error
            if self._waiter is not None:
                self._waiter.set()
                self._waiter = None
            self._wakeup = trio.Event()
            await self._wakeup.wait()
            self._wakeup = None
        data, self._data = self._data, b""
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Called by trio-websocket for the handshake and for control frames."""
        try:
            await self._stream.send_all(bytes(data))
        except WireError as error:
            raise trio.BrokenResourceError from error
        if data and data[0] == _CLOSE_FRAME_FIRST_BYTE:
            self.said_close = True

    async def wait_send_all_might_not_block(self) -> None:
        """Not needed by trio-websocket."""
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Called by trio-websocket when it is done; the real stream stays with its owner."""
        self._end()
        await trio.lowlevel.checkpoint()


class Handshake:
    """An upgrade request that trio-websocket has found to be in order."""

    def __init__(self, feed: Feed, stream: Stream, request: trio_websocket.WebSocketRequest) -> None:
        self.feed = feed
        self.stream = stream
        self.request = request

    @property
    def subprotocols(self) -> tuple[str, ...]:
        """What the client offered."""
        return self.request.proposed_subprotocols


async def receive_handshake(
    nursery: trio.Nursery, stream: Stream, head: bytes, *, max_message_bytes: int, timeout: float
) -> Handshake | None:
    """Have trio-websocket look at an upgrade request; None when it refused it, which it has then told the peer.

    Its reader runs in ``nursery`` until that is cancelled.
    """
    feed = Feed(stream, head)
    with trio.move_on_after(timeout) as scope:
        # It never returns from a handshake that it refuses: its closing of the stream is the only sign.
        feed.end_with(scope)
        request = await trio_websocket.wrap_server_stream(nursery, feed, max_message_size=max_message_bytes)
        feed.end_with(trio.CancelScope())
        return Handshake(feed, stream, request)
    return None


class WebSocketWire:
    """See the module and `realtime.wire.Wire`."""

    heartbeat_interval: float | None = None
    peer_answers = True

    def __init__(
        self,
        handshake: Handshake,
        *,
        max_message_bytes: int,
        subprotocol: str | None = None,
        headers: list[tuple[bytes, bytes]] | None = None,
        framing: WebSocketFraming = FRAMING,
        binary: bool = False,
    ) -> None:
        self.framing: Framing | None = framing
        self._handshake = handshake
        self._feed = handshake.feed
        self._stream = handshake.stream
        self._subprotocol = subprotocol
        self._headers = headers or []
        self._max = max_message_bytes
        self._binary = binary
        self._websocket: trio_websocket.WebSocketConnection | None = None
        self._buffer = bytearray()
        # Bytes of a message in fragments that trio-websocket holds so far; None outside of one.
        self._fragments: int | None = None
        # The hub calls this for every delivery.
        self.write_nowait = handshake.stream.write_nowait

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
        """Accept the upgrade."""
        try:
            self._websocket = await self._handshake.request.accept(
                subprotocol=self._subprotocol, extra_headers=self._headers
            )
        except trio_websocket.ConnectionClosed as error:
            raise WireBroken from error

    async def drain(self) -> None:
        """See `realtime.wire.Wire`."""
        await self._stream.drain()

    async def write(self, data: bytes) -> None:
        """See `realtime.wire.Wire`."""
        await self._stream.send_all(data)

    def heartbeat(self, text: bytes) -> bytes:
        """A ping frame, for machines, and a ping push, for scripts in browsers, which never see the frame."""
        return ping_frame(b"") + text_frame(text)

    # -- reading ---------------------------------------------------------------------------------------------

    async def read(self, receiver: Receiver) -> CloseReason:
        """See `realtime.wire.Wire`."""
        buffer, stream = self._buffer, self._stream
        while True:
            reason = await self._take_frames(receiver)
            receiver.quiet()
            if reason is not None:
                return reason
            try:
                data = await stream.receive_some()
            except WireError:
                return closing.GONE
            if not data:
                return closing.GONE
            buffer += data

    async def _take_frames(self, receiver: Receiver) -> CloseReason | None:
        """Deal with all frames in the buffer; a reason when one of them ends the connection."""
        buffer = self._buffer
        at = 0
        while True:
            header = read_header(buffer, at)
            if header is None:
                break
            if header.regular and not header.control and (reason := self._refusal(header)):
                return reason
            whole = len(buffer) - at >= header.size + header.length
            plain = (
                header.regular
                and header.fin
                and (
                    (header.opcode == TEXT and self._fragments is None)
                    or (header.opcode == PONG and header.length < 126)  # noqa: PLR2004
                )
            )
            if not plain:
                del buffer[:at]
                at = 0
                reason = await self._hand_over(header, receiver)
                if reason is not None:
                    return reason
                continue
            if not whole:
                break
            if header.opcode == TEXT:
                text = unmask(buffer, at + header.size - 4, header.length)
                if not text.isascii():
                    try:
                        text.decode()
                    except UnicodeDecodeError:
                        return closing.INVALID_TEXT
                await receiver.receive(text)
            at += header.size + header.length
        del buffer[:at]
        return None

    def _refusal(self, header: Header) -> CloseReason | None:
        """Why a regular data frame is refused before its payload is read."""
        if header.opcode == BINARY and not self._binary:
            return closing.UNSUPPORTED_DATA
        if header.length + (self._fragments or 0) > self._max:
            return closing.TOO_BIG
        return None

    async def _hand_over(self, header: Header, receiver: Receiver) -> CloseReason | None:
        """Give one frame to trio-websocket, piece by piece as it comes in, and take up what it makes of it."""
        buffer = self._buffer
        missing = header.size + header.length
        while missing:
            if not buffer:
                try:
                    data = await self._stream.receive_some()
                except WireError:
                    return closing.GONE
                if not data:
                    return closing.GONE
                buffer += data
            piece = bytes(buffer[:missing])
            del buffer[: len(piece)]
            missing -= len(piece)
            await self._feed.feed(piece)
            if self._feed.ended or self._feed.said_close:
                return self._ended_reason()
        if header.control:
            return None
        if header.opcode in (TEXT, BINARY, CONTINUATION) and not header.fin:
            self._fragments = (self._fragments or 0) + header.length
            return None
        self._fragments = None
        assert self._websocket is not None
        try:
            message = await self._websocket.get_message()
        except trio_websocket.ConnectionClosed:
            return self._ended_reason()
        await receiver.receive(message.encode() if isinstance(message, str) else memoryview(message))
        return None

    def _ended_reason(self) -> CloseReason:
        """Why trio-websocket has ended: a violation, or the peer's own close."""
        closed = self._websocket.closed if self._websocket is not None else None
        if closed is not None and not self._feed.said_close:
            return _VIOLATIONS.get(closed.code, closing.GONE)
        return closing.GONE

    # -- closing ---------------------------------------------------------------------------------------------

    async def close(self, reason: CloseReason) -> None:
        """The closing handshake, or only its last word where the peer has broken the protocol."""
        websocket, stream = self._websocket, self._stream
        if websocket is None or stream.closed:
            return
        if not reason.peer_listens:
            if self._feed.said_close:
                await stream.finish()
            return
        if self._feed.ended or reason.code in (1002, 1007):
            with contextlib.suppress(WireClosed, WireBroken):
                await stream.send_all(close_frame(reason.code, reason.text))
        else:
            self._feed.go_direct(bytes(self._buffer))
            self._buffer.clear()
            await websocket.aclose(reason.code, reason.text)
        await stream.finish()

    def abort(self) -> None:
        """See `realtime.wire.Wire`."""
        if not self._stream.closed:
            self._stream.reset() if self._stream.busy else self._stream.abort()
