"""WebSocket on our stream, with trio-websocket for everything that is out of the ordinary.

::

    WebSocketWire.read           in the reader's task of a connection
    '- trio-websocket's reader   started by the first irregular frame, fed by us; cancelled when `read` returns

The ordinary, done here at a tenth of the cost: an opening handshake that is in order, whole text messages, pings,
pongs and closes. The rest is trio-websocket's: it refuses bad handshakes, puts fragments together, judges all
that is malformed. It is fed the irregular frames one at a time, as they came, and what it makes of each is
taken up in its place in the order. Most connections never need it, and have neither its task nor its memory.

Its answers (close frames) pass through our stream, which never lets two frames mix.

A little long for this house: what is ordinary and what is handed over is decided frame by frame, on one buffer.
"""

from __future__ import annotations

import logging
from contextlib import suppress

import trio
import trio_websocket

from realtime import closing
from realtime.closing import CloseReason
from realtime.errors import WireError
from realtime.wire import Framing, Receiver
from transports.frames import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    Header,
    close_frame,
    close_frame_of,
    is_regular_close,
    ping_frame,
    pong_frame,
    read_header,
    text_frame,
    unmask,
)
from transports.handshake import accept_response
from transports.head import Request
from transports.stream import Stream

__all__ = ["WebSocketFraming", "WebSocketWire", "refuse_handshake"]

#: What trio-websocket closes with when the peer broke RFC 6455; it sends no close frame for them.
_VIOLATIONS = {1002: closing.PROTOCOL_ERROR, 1007: closing.INVALID_TEXT}
_CLOSE_FRAME_FIRST_BYTE = 0x88
#: What a close without a code is called (RFC 6455, section 7.1.5).
_NO_CODE = 1005
#: How long a peer may take to answer our close frame.
_CLOSE_ANSWER_SECONDS = 1.0
#: Fragments of one message. They may be empty, and each is kept until the last has come.
_MOST_PIECES = 1024
#: Not an end: reading goes on with trio-websocket at hand.
_IRREGULAR = CloseReason(0, "irregular")

# trio-websocket logs each event of each connection at debug level, and pays for finding out that nobody listens.
logging.getLogger("trio-websocket").setLevel(logging.WARNING)


class WebSocketFraming:
    """A push is one text frame."""

    cursors = False
    stamped = False

    @property
    def several(self) -> Framing:
        """See `realtime.wire.Framing`: the same, as cursors are not told."""
        return self

    def message(self, text: bytes, topic: str, epoch: str, offset: int) -> bytes:  # noqa: ARG002
        """See `realtime.wire.Framing`."""
        return text_frame(text)

    def push(self, kind: str, text: bytes, cursor: str | None = None) -> bytes:  # noqa: ARG002
        """See `realtime.wire.Framing`."""
        return text_frame(text)

    def stamp(self, cursor: str) -> bytes:  # noqa: ARG002
        """See `realtime.wire.Framing`; a WebSocket client knows its positions from the messages."""
        return b""


_FRAMING = WebSocketFraming()


class _Feed(trio.abc.Stream):
    """The stream that trio-websocket sees: reading gives it what we hand over, writing goes to the real one."""

    def __init__(self, stream: Stream, head: bytes, *, mute: bool) -> None:
        self._stream = stream
        self._data = head
        #: While true, what it sends goes nowhere: its answer to a handshake that has been answered.
        self.mute = mute
        self._fed = trio.Event()
        self._eaten = trio.Event()
        #: Set when trio-websocket has closed or sent a close frame: it will read no more.
        self.ended = trio.Event()
        #: Whether a close frame has gone out.
        self.said_close = False

    async def feed(self, data: bytes) -> None:
        """Hand over ``data`` and wait until it has been dealt with."""
        self._data += data
        self._eaten = trio.Event()
        self._fed.set()
        if not self.ended.is_set():
            await self._eaten.wait()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:  # noqa: ARG002
        """Called by trio-websocket's reader."""
        while not self._data:
            if self.ended.is_set():
                raise trio.ClosedResourceError
            self._eaten.set()
            self._fed = trio.Event()
            await self._fed.wait()
        data, self._data = self._data, b""
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Called by trio-websocket for refusals and for control frames."""
        if self.mute:
            await trio.lowlevel.checkpoint()
            return
        try:
            await self._stream.send_all(bytes(data))
        except WireError as error:
            self._end()
            raise trio.BrokenResourceError from error
        if data and data[0] == _CLOSE_FRAME_FIRST_BYTE:
            self.said_close = True
            self._end()

    async def wait_send_all_might_not_block(self) -> None:
        """Not needed by trio-websocket."""
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Called by trio-websocket when it is done; the real stream stays with its owner."""
        self._end()
        await trio.lowlevel.checkpoint()

    def _end(self) -> None:
        self.ended.set()
        self._eaten.set()
        self._fed.set()


async def refuse_handshake(stream: Stream, request: Request, *, timeout: float) -> None:
    """Have trio-websocket refuse an upgrade request that is not in order. Raises `WireError`."""
    feed = _Feed(stream, request.raw, mute=False)
    with trio.move_on_after(timeout):
        async with trio.open_nursery() as nursery:

            async def judge() -> None:
                proposal = await trio_websocket.wrap_server_stream(nursery, feed)
                # It has no objection of its own. We had one.
                await proposal.reject(400, body=b"not a valid WebSocket handshake")
                await feed.aclose()

            nursery.start_soon(judge)
            # From a handshake that it refuses, `wrap_server_stream` never returns: its closing is the only sign.
            await feed.ended.wait()
            nursery.cancel_scope.cancel()


class WebSocketWire:
    """See the module and `realtime.wire.Wire`."""

    heartbeat_interval: float | None = None
    peer_answers = True
    #: A script in a browser sees no status of a handshake, but it does see a close code.
    refused_in_band = True

    def __init__(
        self,
        stream: Stream,
        request: Request,
        *,
        max_message_bytes: int,
        subprotocol: str | None = None,
        binary: bool = False,
    ) -> None:
        """``binary``: hand on binary messages (as `memoryview`) instead of closing with 1003."""
        self.framing: Framing | None = _FRAMING
        self._nursery: trio.Nursery | None = None
        self._stream = stream
        # Of the request only its bytes are kept, for trio-websocket: the headers as objects are two kilobytes.
        self._head = request.raw
        self._acceptance = accept_response(request, subprotocol)
        self._subprotocol = subprotocol
        self._max = max_message_bytes
        self._binary = binary
        self._buffer = bytearray()
        self._feed: _Feed | None = None
        self._websocket: trio_websocket.WebSocketConnection | None = None
        # Bytes of a message in fragments that trio-websocket holds so far; None outside of one. And how many they are.
        self._fragments: int | None = None
        self._pieces = 0
        # The hub calls this for every delivery.
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
        """The answer that accepts the upgrade."""
        acceptance, self._acceptance = self._acceptance, b""
        return acceptance

    async def drain(self) -> None:
        """See `realtime.wire.Wire`."""
        await self._stream.drain()

    async def write(self, data: bytes) -> None:
        """See `realtime.wire.Wire`."""
        await self._stream.send_all(data)

    def heartbeat(self, ping: bytes) -> bytes:
        """A ping frame, for machines, and a ping push, for scripts in browsers, which never see the frame."""
        return ping_frame(b"") + ping

    # -- reading ---------------------------------------------------------------------------------------------

    async def read(self, receiver: Receiver) -> CloseReason:
        """See `realtime.wire.Wire`."""
        reason = await self._read(receiver)
        if reason is _IRREGULAR:
            async with trio.open_nursery() as self._nursery:
                reason = await self._read(receiver)
                self._nursery.cancel_scope.cancel()
        return reason

    async def _read(self, receiver: Receiver) -> CloseReason:
        try:
            while True:
                reason = await self._take_frames(receiver)
                receiver.quiet()
                if reason is not None:
                    return reason
                await self._receive()
        except WireError:  # here, as it would leave a nursery in a group
            return closing.GONE

    async def _receive(self) -> None:
        data = await self._stream.receive_some()
        if not data:
            raise WireError("the peer hung up")
        self._buffer += data

    async def _take_frames(self, receiver: Receiver) -> CloseReason | None:
        """Deal with all frames in the buffer; a reason when one of them ends the connection."""
        buffer = self._buffer
        at = 0
        while (header := read_header(buffer, at)) is not None:
            if not self._is_ordinary(header):
                del buffer[:at]
                at = 0
                if (reason := self._refusal(header)) is not None:
                    return reason
                if self._nursery is None:
                    return _IRREGULAR
                if (reason := await self._hand_over(header, receiver)) is not None:
                    return reason
                continue
            if header.length > self._max:
                return closing.TOO_BIG
            end = at + header.size + header.length
            if end > len(buffer):
                break
            payload = unmask(buffer, at + header.size - 4, header.length)
            if header.opcode == CLOSE and not is_regular_close(payload):
                del buffer[:at]
                return await self._hand_over(header, receiver) if self._nursery is not None else _IRREGULAR
            at = end
            if header.opcode == TEXT:
                if not payload.isascii():
                    try:
                        payload.decode()
                    except UnicodeDecodeError:
                        return closing.INVALID_TEXT
                await receiver.receive(payload)
            elif header.opcode == PING:
                if receiver.pinged():
                    await self._answer(pong_frame(payload))
            elif header.opcode == CLOSE:
                # Answered with the same code, and then the server is the first to close TCP (section 7.1.1).
                await self._answer(close_frame_of(payload))
                return closing.left(int.from_bytes(payload[:2]) or _NO_CODE)
        del buffer[:at]
        return None

    def _is_ordinary(self, header: Header) -> bool:
        """Whether the frame is dealt with here: a whole text message or a control frame, with nothing odd about it."""
        if not (header.regular and header.fin):
            return False
        if header.opcode == TEXT:
            return self._fragments is None
        return header.opcode in (PING, PONG, CLOSE) and header.length < 126  # noqa: PLR2004

    async def _answer(self, frame: bytes) -> None:
        # A peer that pings without end and does not read the answers is not read any further.
        if self._stream.busy:
            await self._stream.send_all(frame)
        elif not self._stream.write_nowait(frame):
            await self._stream.drain()

    def _refusal(self, header: Header) -> CloseReason | None:
        """Why a data frame is refused before its payload is read."""
        if not header.regular or header.control:
            return None
        if header.opcode == BINARY and not self._binary:
            return closing.UNSUPPORTED_DATA
        if header.length + (self._fragments or 0) > self._max:
            return closing.TOO_BIG
        return None

    async def _hand_over(self, header: Header, receiver: Receiver) -> CloseReason | None:
        """Give one frame to trio-websocket, piece by piece as it comes in, and take up what it makes of it."""
        feed, websocket = await self._judge()
        buffer = self._buffer
        missing = header.size + header.length
        while missing:
            if not buffer:
                await self._receive()
            piece = bytes(buffer[:missing])
            del buffer[: len(piece)]
            missing -= len(piece)
            await feed.feed(piece)
            if feed.ended.is_set():
                return self._ended_reason()
        if header.control:
            return None
        if not header.fin:
            self._fragments = (self._fragments or 0) + header.length
            self._pieces += 1
            receiver.pinged()  # one counts like a ping: it need not hold a byte
            return closing.TOO_BIG if self._pieces > _MOST_PIECES else None
        self._fragments = None
        self._pieces = 0
        try:
            message = await websocket.get_message()
        except trio_websocket.ConnectionClosed:
            return self._ended_reason()
        await receiver.receive(message.encode() if isinstance(message, str) else memoryview(message))
        return None

    async def _judge(self) -> tuple[_Feed, trio_websocket.WebSocketConnection]:
        """Trio-websocket, brought to where this connection is: it is shown the handshake that we have answered."""
        if self._feed is None or self._websocket is None:
            assert self._nursery is not None
            self._feed = _Feed(self._stream, self._head, mute=True)
            proposal = await trio_websocket.wrap_server_stream(self._nursery, self._feed, max_message_size=self._max)
            self._websocket = await proposal.accept(subprotocol=self._subprotocol)
            self._feed.mute = False
        return self._feed, self._websocket

    def _ended_reason(self) -> CloseReason:
        """Why trio-websocket has ended: a violation, or the peer's own close."""
        assert self._websocket is not None
        assert self._feed is not None
        closed = self._websocket.closed
        if closed is None:
            return closing.GONE
        if self._feed.said_close:
            return closing.left(closed.code or _NO_CODE)
        return _VIOLATIONS.get(closed.code, closing.GONE)

    # -- closing ---------------------------------------------------------------------------------------------

    async def close(self, reason: CloseReason) -> None:
        """Send our close frame and wait a little for the peer's."""
        stream = self._stream
        await stream.send_all(close_frame(reason.code, reason.text))
        with trio.move_on_after(_CLOSE_ANSWER_SECONDS):
            await self._wait_close_frame()
        await stream.finish()

    async def _wait_close_frame(self) -> None:
        """Read until the peer's close frame, throwing everything else away."""
        buffer = self._buffer
        with suppress(WireError):
            while True:
                header = read_header(buffer, 0)
                if header is None:
                    await self._receive()
                    continue
                if header.opcode == CLOSE:
                    return
                missing = header.size + header.length
                while missing:
                    if not buffer:
                        await self._receive()
                    taken = min(missing, len(buffer))
                    del buffer[:taken]
                    missing -= taken

    def abort(self) -> None:
        """See `realtime.wire.Wire`."""
        if self._stream.busy:
            self._stream.reset()
        else:
            self._stream.abort()
