"""The bytes of one accepted connection: a stream that a hub can write to without waiting.

Three writers share it: the hub (`Stream.write_nowait`, never waits), the connection's sender and whoever answers
control frames or requests (`Stream.send_all`). What the kernel did not take at once is the *tail*. A frame is never
cut into by another: whoever writes next finishes the tail first, also when the writer that left it
was cancelled. So bytes that were handed over leave whole and in order, or the stream is broken.
"""

from __future__ import annotations

import os
import socket
import ssl
import struct
from contextlib import suppress

import trio

from realtime.errors import WireBroken, WireClosed, WireError

__all__ = ["Stream", "TlsStream", "tune_listener"]

RECEIVE_BYTES = 16 * 1024
#: How long a closing connection waits for the peer to read the last words.
LINGER_SECONDS = 1.0
#: Discarded from a peer that goes on talking after it was refused.
LINGER_BYTES = 1 << 20
#: What is kept of that which a peer sends while its answer is still being made.
MAX_AHEAD = 64 * 1024


def tune_listener(listener: socket.socket, *, send_buffer_bytes: int, user_timeout_seconds: float) -> None:
    """Set on the listening socket what every accepted one inherits (Linux), to save three calls for each."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # A peer whose machine vanished: the kernel gives up instead of retransmitting for a quarter of an hour.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(user_timeout_seconds * 1000))


class Stream:
    """A connection in plain TCP. Closed by `abort` alone, so that no other code can close it under a writer."""

    __slots__ = ("_fd", "_lock", "_overrun", "_senders", "_socket", "_tail", "_unread", "address", "heard_at", "sent")

    is_tls = False

    def __init__(self, accepted: trio.SocketStream, address: str = "") -> None:
        """``address`` is the other end's."""
        self._socket = accepted.socket
        self.address = address
        self._fd = self._socket.fileno()
        self._lock = trio.StrictFIFOLock()
        self._senders = 0
        self._tail: memoryview | None = None
        self._unread = b""
        #: Whether bytes behind `_unread` were thrown away.
        self._overrun = False
        #: When bytes last came in.
        self.heard_at = trio.current_time()
        #: Bytes that the kernel has taken.
        self.sent = 0

    @property
    def socket(self) -> trio.socket.SocketType:
        """The socket, for its addresses."""
        return self._socket

    # -- reading ---------------------------------------------------------------------------------------------

    def unread(self, data: bytes) -> None:
        """Put back bytes that the next reader is to get first."""
        self._unread = bytes(data) + self._unread

    async def receive_some(self, max_bytes: int = RECEIVE_BYTES) -> bytes:
        """The next bytes; empty at the end. Raises `WireError`."""
        if self._unread:
            await trio.lowlevel.checkpoint()
            data, self._unread = self._unread, b""
            return data
        if self._overrun:
            await trio.lowlevel.checkpoint()
            return b""
        return await self._more(max_bytes)

    async def _more(self, max_bytes: int) -> bytes:
        """What comes from the peer next."""
        return await self._receive(max_bytes)

    async def _receive(self, max_bytes: int) -> bytes:
        while True:
            # Waiting first: mostly nothing is there yet, and a read that fails costs as much as one that works.
            if self._fd < 0:
                raise WireClosed
            try:
                await trio.lowlevel.wait_readable(self._fd)
                data = os.read(self._fd, max_bytes)
            except BlockingIOError:
                continue
            except trio.ClosedResourceError:
                raise WireClosed from None
            except OSError as error:
                raise WireBroken(str(error)) from None
            self.heard_at = trio.current_time()
            return data

    # -- writing ---------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether somebody is writing, or a write has not left completely."""
        return self._tail is not None or self._senders > 0

    def write_nowait(self, data: bytes) -> bool:
        """See `realtime.wire.Wire.write_nowait`."""
        try:
            written = os.write(self._fd, data)
        except BlockingIOError:
            written = 0
        except OSError:
            # The peer is gone, or we closed. Whoever reads finds out for itself; a writer has nobody to tell.
            self.abort()
            return True
        self.sent += written
        if written == len(data):
            return True
        self._tail = memoryview(data)[written:]
        return False

    async def send(self, data: bytes) -> None:
        """Like `send_all`, with no lock and no checkpoint where nothing is in the way. Raises `WireError`."""
        if self.busy:
            await self.send_all(data)
        elif not self.write_nowait(data):
            await self.drain()

    async def wait_hang_up(self) -> None:
        """Wait until the peer hangs up; what it sends meanwhile is kept for the next reader.

        A hang-up comes behind everything that was sent before it, so reading never pauses: of a peer that sends very
        much the rest is thrown away, and to the next reader the stream ends there.
        """
        with suppress(WireError):
            while data := await self._more(RECEIVE_BYTES):
                if self._overrun or len(self._unread) >= MAX_AHEAD:
                    self._overrun = True
                else:
                    self._unread += data

    async def drain(self) -> None:
        """Wait until the tail has left. Raises `WireError`."""
        await self.send_all(b"")

    async def send_all(self, data: bytes) -> None:
        """Wait until ``data`` has left. Raises `WireError`. Cancelled, the rest of what has begun stays the tail."""
        self._senders += 1
        try:
            async with self._lock:
                await self._finish_tail()
                if data:
                    self._tail = self._sealed(data)
                    await self._finish_tail()
        finally:
            self._senders -= 1

    def _sealed(self, data: bytes) -> memoryview:
        """What goes to the kernel for ``data``."""
        return memoryview(data)

    async def _finish_tail(self) -> None:
        while self._tail is not None:
            if self._fd < 0:
                raise WireClosed
            try:
                written = os.write(self._fd, self._tail)
            except BlockingIOError:
                written = 0
            except OSError as error:
                self.abort()
                raise WireBroken(str(error)) from None
            self.sent += written
            self._tail = self._tail[written:] if written < len(self._tail) else None
            if self._tail is not None:
                try:
                    await trio.lowlevel.wait_writable(self._fd)
                except (trio.ClosedResourceError, OSError, ValueError):
                    raise WireClosed from None

    # -- closing ---------------------------------------------------------------------------------------------

    async def finish(self) -> None:
        """Close so that the peer can read the last words.

        A socket closed with unread input resets the connection, and the reset overtakes what was just written; so
        first only our half is closed, and for a short while what still comes in is thrown away.
        """
        received = 0
        with trio.move_on_after(LINGER_SECONDS), suppress(OSError, WireBroken, WireClosed):
            self._end_sending()
            while received < LINGER_BYTES and (data := await self._receive(RECEIVE_BYTES)):
                received += len(data)
        self.abort()

    def _end_sending(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close at once and have the kernel forget what it still holds: for a peer that does not read."""
        with suppress(OSError, ValueError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.abort()

    def abort(self) -> None:
        """Close at once; wakes whoever waits to read or write. Idempotent."""
        if self._fd >= 0:
            # The number is not ours any more after close, and the next connection may get it.
            self._fd = -1
            self._tail = None
            self._socket.close()

    @property
    def closed(self) -> bool:
        """Whether it has been closed on this side."""
        return self._fd < 0


class TlsStream(Stream):
    """The same under TLS.

    Encryption is done in memory (`ssl.SSLObject`), not by a stream that waits: so the hub writes to these
    connections as it does to plain ones, only that each costs its own encryption.
    """

    __slots__ = ("_incoming", "_outgoing", "_tls")

    is_tls = True

    def __init__(self, accepted: trio.SocketStream, context: ssl.SSLContext, address: str = "") -> None:
        super().__init__(accepted, address)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    async def handshake(self) -> None:
        """Agree on keys; the caller sets the deadline. Raises `WireError`."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            except ssl.SSLError as error:
                with suppress(WireBroken, WireClosed):
                    await self._flush()  # noqa: ASYNC120 - the alert that says why; cancelled, it is not missed
                raise WireBroken(str(error)) from None
            else:
                await self._flush()
                return

    async def _more(self, max_bytes: int) -> bytes:
        while True:
            try:
                data = self._tls.read(max_bytes)
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""
            except ssl.SSLError as error:
                raise WireBroken(str(error)) from None
            else:
                await trio.lowlevel.checkpoint()
                return data

    def write_nowait(self, data: bytes) -> bool:
        """See `Stream.write_nowait`."""
        try:
            sealed = bytes(self._sealed(data))
        except WireBroken:
            return True
        return super().write_nowait(sealed)

    def _sealed(self, data: bytes) -> memoryview:
        try:
            self._tls.write(data)
        except ssl.SSLError as error:
            self.abort()
            raise WireBroken(str(error)) from None
        return memoryview(self._outgoing.read())

    async def _fill(self) -> None:
        data = await self._receive(RECEIVE_BYTES)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def _flush(self) -> None:
        """Send what TLS itself has to say: handshake, key updates, alerts."""
        self._senders += 1
        try:
            async with self._lock:
                await self._finish_tail()
                if self._outgoing.pending:
                    self._tail = memoryview(self._outgoing.read())
                    await self._finish_tail()
        finally:
            self._senders -= 1

    def _end_sending(self) -> None:
        with suppress(ssl.SSLError):
            self._tls.unwrap()
        if self._outgoing.pending:
            with suppress(OSError):
                os.write(self._fd, self._outgoing.read())
        super()._end_sending()
