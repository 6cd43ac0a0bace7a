"""A link by WebSocket: the frames are trio-websocket's work."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import h11
import trio
import trio_websocket
from wsproto.utilities import ProtocolError

from realtime.errors import lone
from realtime.link import Credentials, LinkBlocked, LinkEnded, Said
from transports.links.address import MAX_MESSAGE_BYTES, Address, authorization, refusal

__all__ = ["WebSocketDialer"]

#: How long the goodbye may take.
CLOSE_SECONDS = 1.0
#: More than any headers, and whatever may be read together with them.
MAX_HANDSHAKE_BYTES = 256 * 1024
_CLOSE_FRAME_FIRST_BYTE = 0x88

# It logs each event of each connection at debug level, and pays for finding out that nobody listens.
logging.getLogger("trio-websocket").setLevel(logging.WARNING)


class _Watched(trio.abc.Stream):
    """A stream that tells of its end: during a handshake trio-websocket does not, and waits for ever.

    And of a handshake without an end, as of a refusal whose body goes on and on: trio-websocket would keep all of it.
    And of the close frame: once cancelled, trio-websocket does not hear the answer to that, and waits for it. The
    stream itself stays open, for its owner to close.
    """

    def __init__(self, stream: trio.abc.Stream, on_end: Callable[[], None]) -> None:
        self._stream = stream
        self._on_end = on_end
        self.on_goodbye = on_end
        #: What may still come of the handshake; None once it is over.
        self.handshake_bytes: int | None = MAX_HANDSHAKE_BYTES

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        try:
            data = await self._stream.receive_some(max_bytes)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._on_end()
            raise
        if self.handshake_bytes is not None:
            self.handshake_bytes -= len(data)
        if not data or self.endless:
            self._on_end()
        return data

    @property
    def endless(self) -> bool:
        """Whether the handshake was longer than any."""
        return self.handshake_bytes is not None and self.handshake_bytes < 0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)
        if data and data[0] == _CLOSE_FRAME_FIRST_BYTE:
            self.on_goodbye()

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        self._on_end()
        await trio.lowlevel.checkpoint()


class WebSocketLink:
    """See `realtime.link.Link`."""

    ordered = True

    def __init__(self, connection: trio_websocket.WebSocketConnection) -> None:
        self._connection = connection

    async def receive(self) -> Said:
        """See `realtime.link.Link`."""
        try:
            return Said(await self._connection.get_message())
        except trio_websocket.ConnectionClosed as closed:
            raise _ended(closed) from None

    async def send(self, text: bytes) -> bytes | None:
        """See `realtime.link.Link`."""
        try:
            await self._connection.send_message(text.decode())
        except trio_websocket.ConnectionClosed as closed:
            raise _ended(closed) from None
        return None


class WebSocketDialer:
    """See `realtime.link.Dialer`."""

    name = "websocket"

    def __init__(self, address: Address) -> None:
        self._address = address

    @asynccontextmanager
    async def open(self, credentials: Credentials) -> AsyncIterator[WebSocketLink]:
        """See `realtime.link.Dialer`."""
        headers = authorization(credentials)
        stream = await self._connect()
        try:
            async with trio.open_nursery() as nursery:
                watched, connection = await self._shake_hands(nursery, stream, credentials, headers)
                try:
                    yield WebSocketLink(connection)
                finally:
                    with trio.move_on_after(CLOSE_SECONDS, shield=True) as goodbye:
                        watched.on_goodbye = goodbye.cancel
                        await connection.aclose()
                    nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            error = lone(group)
            if isinstance(error, trio_websocket.ConnectionRejected):
                names = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in error.headers}
                raise refusal(error.status_code, names, error.body or b"") from None
            if isinstance(error, h11.ProtocolError | ProtocolError):
                # It would tell the other end so in a way that is a server's, and fails at that.
                raise LinkBlocked("what answers is no WebSocket server") from None
            raise error from error.__cause__
        finally:
            # Closed with something unread, a socket is reset, and the goodbye might be lost with that.
            with trio.move_on_after(CLOSE_SECONDS, shield=True), suppress(trio.BrokenResourceError):
                while await stream.receive_some():
                    pass
            await trio.aclose_forcefully(stream)

    async def _connect(self) -> trio.abc.Stream:
        host, port, tls = self._address.host, self._address.port, self._address.tls
        try:
            if tls is None:
                return await trio.open_tcp_stream(host, port)
            secure = await trio.open_ssl_over_tcp_stream(host, port, ssl_context=tls, https_compatible=True)
        except OSError as error:
            raise LinkEnded(f"no connection: {error}", connected=False) from error
        try:
            await secure.do_handshake()
        except trio.BrokenResourceError as error:
            await trio.aclose_forcefully(secure)
            raise LinkEnded(f"no TLS: {error.__cause__ or error}", connected=False) from error
        except BaseException:
            await trio.aclose_forcefully(secure)
            raise
        return secure

    async def _shake_hands(
        self, nursery: trio.Nursery, stream: trio.abc.Stream, credentials: Credentials, headers: dict[str, str]
    ) -> tuple[_Watched, trio_websocket.WebSocketConnection]:
        address = self._address
        with trio.CancelScope() as handshake:
            watched = _Watched(stream, handshake.cancel)
            connection = await trio_websocket.wrap_client_stream(
                nursery,
                watched,  # type: ignore[arg-type]  # any stream will do
                address.authority,
                address.target("/ws", credentials),
                subprotocols=["realtime.v1"],
                extra_headers=[(name.encode(), value.encode()) for name, value in headers.items()],
                message_queue_size=64,
                max_message_size=MAX_MESSAGE_BYTES,
                receive_buffer_size=1 << 16,
            )
            watched.handshake_bytes = None
            return watched, connection
        if watched.endless:
            raise LinkBlocked("what answers does not come to an end")
        raise LinkEnded("the connection ended during the handshake")


def _ended(closed: trio_websocket.ConnectionClosed) -> LinkEnded:
    reason = closed.reason
    if reason is None or reason.code == 1006:  # noqa: PLR2004 - no close frame
        return LinkEnded("the connection was lost")
    return LinkEnded(reason.reason or f"closed with {reason.code}", code=reason.code)
