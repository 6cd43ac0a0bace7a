"""Requests for a web application, on hypercorn, one at a time.

Hypercorn would keep a connection for itself, and with it any upgrade or event stream that comes later on it. So it is
given a stream that holds exactly one request, and gets its end when the response is complete. Two parsers
of h11 look on: one finds where the request ends, one where the response does. A WebSocket of the application
(status 101) turns the stream into a plain passage.

Hypercorn shields its sending without a deadline, and waits for a body without one: `_Exchange` ends a connection
that makes no progress, and does not wait for the rest of a request that has been answered. Hypercorn's queue to the
application has no bound here: where it is full, an application that never reads its body would hang in its last
`send`, which adds the news of the end to it. Instead no more is read while what was read waits to be taken.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import h11
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ASGIReceiveCallable, ASGIReceiveEvent, ASGISendCallable, Scope

from realtime.errors import WireBroken, WireError
from transports.head import BadHead, Request
from transports.proxies import Peer
from transports.stream import Stream

__all__ = ["Application"]

#: Hypercorn on HTTP/1.1 only: its HTTP/2 has no back-pressure. So an offer to change to it is not passed on.
_NOT_FORWARDED = frozenset({b"http2-settings"})
#: What an application's own shutdown may take.
_SHUTDOWN_SECONDS = 5.0
#: How many messages may wait for the application before no more is read for it.
_MAX_WAITING = 10


class _Exchange(trio.abc.HalfCloseableStream):
    """One request and its response, as the stream that hypercorn sees."""

    def __init__(self, stream: Stream, request: Request, peer: Peer, stall_seconds: float) -> None:
        self._stream = stream
        self._peer = peer
        self._stall_seconds = stall_seconds
        self._request = request
        self._reply = h11.Connection(h11.CLIENT)
        # A 101 is a fault to h11 unless it was asked for.
        asked = [("connection", "upgrade"), ("upgrade", "websocket")] if request.wants_websocket else []
        self._reply.send(h11.Request(method=request.method, target="/", headers=[("host", "-"), *asked]))
        self._reply.send(h11.EndOfMessage())
        self._body = h11.Connection(h11.SERVER)
        head = self._head()
        self._body.receive_data(head)
        self._pending = [head]
        self._trailed = False
        self._body_done = self._next_body_event()
        #: Whether the response was complete and leaves the connection usable.
        self.reusable = False
        self._tunnel = False
        self._ended = False
        #: Around whatever hypercorn's reader waits for.
        self._reading = trio.CancelScope()
        #: How many messages wait for the application, and what is set when it takes one.
        self._waiting: Callable[[], int] = lambda: 0
        self._taken = trio.Event()

    # hypercorn finds the addresses here, and by the name `do_handshake` whether this is TLS
    @property
    def socket(self) -> trio.socket.SocketType:
        return self._stream.socket

    def _head(self) -> bytes:
        """The request's head, written anew from what was understood of it."""
        request = self._request
        websocket = request.wants_websocket
        lines = [f"{request.method} {request.target} HTTP/{request.version.decode()}".encode()]
        for name, value in request.headers:
            if name in _NOT_FORWARDED or (name == b"upgrade" and not websocket):
                continue
            if name == b"connection" and not websocket:
                value = b"keep-alive" if request.keep_alive else b"close"  # noqa: PLW2901
            lines.append(name + b": " + value)
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _next_body_event(self) -> bool:
        """Let the shadow parser eat; whether the request is complete."""
        while True:
            event = self._body.next_event()
            if event is h11.NEED_DATA or event is h11.PAUSED:
                return event is h11.PAUSED
            if isinstance(event, h11.EndOfMessage):
                # Where trailers end, h11 is lenient: what it takes for the next request may be none to a proxy.
                self._trailed = bool(event.headers)
                return True

    def _end(self) -> None:
        """The response is complete, or it has come to an end otherwise: no more of the request is wanted."""
        self._ended = True
        self._reading.cancel()

    async def run_app(
        self, app: ASGIWrapper, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable, *calls: Any
    ) -> None:
        """Called by hypercorn: run the application, and see how far it is with what was read for it."""
        channel: trio.MemoryReceiveChannel[ASGIReceiveEvent] = receive.__self__  # type: ignore[attr-defined]
        self._waiting = lambda: channel.statistics().current_buffer_used

        async def take() -> ASGIReceiveEvent:
            event = await receive()
            self._taken.set()
            return event

        # Hypercorn knows the connection only; the front door has heard what a trusted proxy says of it.
        if scope["type"] != "lifespan":
            scope["realtime.peer"] = self._peer  # type: ignore[typeddict-unknown-key]
            scope["client"] = (self._peer.address, (scope["client"] or ("", 0))[1])
            if self._peer.secure:
                scope["scheme"] = "https" if scope["type"] == "http" else "wss"
        await app(scope, take, send, *calls)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:  # noqa: ARG002
        """Called by hypercorn: the request, then silence until the response is complete."""
        if self._pending:
            await trio.lowlevel.checkpoint()
            return self._pending.pop(0)
        try:
            while not self._ended:
                with trio.CancelScope() as self._reading:
                    if self._tunnel:
                        await self._wait_for_room()
                        return await self._stream.receive_some()
                    if not self._body_done:
                        return await self._receive_body()
                    await self._stream.wait_hang_up()
                if not self._tunnel:  # it may just have become one
                    self._end()
        except WireError as error:
            raise trio.BrokenResourceError from error
        return b""

    async def _wait_for_room(self) -> None:
        while self._waiting() >= _MAX_WAITING:
            self._taken = trio.Event()
            await self._taken.wait()

    async def _receive_body(self) -> bytes:
        """More of the body, in time."""
        await self._wait_for_room()
        self._reading.deadline = trio.current_time() + self._stall_seconds
        data = await self._stream.receive_some()
        if not data:
            return b""
        self._body.receive_data(data)
        try:
            self._body_done = self._next_body_event()
        except h11.RemoteProtocolError:
            return data  # hypercorn finds the same fault and answers it
        if self._body_done:
            ahead, _ = self._body.trailing_data
            if ahead:
                self._stream.unread(ahead)
                data = data[: len(data) - len(ahead)]
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Called by hypercorn for the response."""
        try:
            await self._send(bytes(data))
        except WireError as error:
            self._end()
            raise trio.BrokenResourceError from error
        if not self._tunnel and not self._ended:
            self._follow_response(bytes(data))

    async def _send(self, data: bytes) -> None:
        """Send within a deadline that only a standstill reaches: hypercorn shields us from cancellation."""
        while True:
            sent = self._stream.sent
            with trio.move_on_after(self._stall_seconds):
                await self._stream.send_all(data)
                return
            data = b""  # what had begun is the stream's tail now
            if self._stream.sent == sent:
                self._stream.reset()
                raise WireBroken("the peer does not read")

    def _follow_response(self, data: bytes) -> None:
        try:
            self._reply.receive_data(data)
            while True:
                event = self._reply.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    return
                if isinstance(event, h11.InformationalResponse) and event.status_code == 101:  # noqa: PLR2004
                    self._tunnel = True
                    self._reading.cancel()
                    return
                if isinstance(event, h11.EndOfMessage):
                    self.reusable = (
                        self._body_done
                        and not self._trailed
                        and self._request.keep_alive
                        and self._reply.their_state is h11.DONE
                    )
                    self._end()
                    return
        except h11.RemoteProtocolError:
            self._end()  # not ours to judge; the connection ends with it

    async def wait_send_all_might_not_block(self) -> None:
        """Not needed by hypercorn."""
        await trio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        """Called by hypercorn when it is done; the connection is the front door's to close."""
        self._end()
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """See `send_eof`."""
        self._end()
        await trio.lowlevel.checkpoint()


class _TlsExchange(_Exchange):
    """The same behind TLS, which has been dealt with: only the names that hypercorn looks for."""

    @property
    def transport_stream(self) -> _TlsExchange:
        return self

    async def do_handshake(self) -> None:
        """Done before the request came."""
        await trio.lowlevel.checkpoint()

    def selected_alpn_protocol(self) -> str:
        """The only one that is offered."""
        return "http/1.1"


class _NoTimer:
    """Hypercorn's timer for idle connections, out of service: it never sees one between two requests.

    Started by the end of a response, it would keep the exchange from ending until its own timeout.
    """

    async def restart(self, _group: object, _action: object) -> None:
        """Called by hypercorn when a connection begins to idle."""
        await trio.lowlevel.checkpoint()

    async def stop(self) -> None:
        """Called by hypercorn when a request has come."""
        await trio.lowlevel.checkpoint()


class Application:
    """An ASGI application, run by hypercorn's own parts within our nursery."""

    def __init__(self, app: ASGIFramework, *, stall_seconds: float) -> None:
        self._app = ASGIWrapper(app)
        self._config = Config()
        self._config.alpn_protocols = ["http/1.1"]
        self._config.accesslog = None
        self._config.errorlog = None
        self._config.include_server_header = False
        self._config.max_app_queue_size = sys.maxsize
        self._context = WorkerContext(None)
        self._stall_seconds = stall_seconds
        self._state: dict[str, object] = {}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the application's lifespan: start it, wait to be cancelled, shut it down."""
        lifespan = Lifespan(self._app, self._config, self._state)
        # The application learns of the end from its own protocol, and is given time for it: cancelling the rest of the
        # server must not reach it first.
        guard = trio.CancelScope(shield=True)

        async def live() -> None:
            with guard:
                await lifespan.handle_lifespan()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(live)
            try:
                await lifespan.wait_for_startup()
                task_status.started()
                await trio.sleep_forever()
            finally:
                with trio.move_on_after(_SHUTDOWN_SECONDS, shield=True):
                    await self._context.terminated.set()
                    await lifespan.wait_for_shutdown()
                guard.cancel()

    async def serve(self, stream: Stream, request: Request, peer: Peer) -> bool:
        """Serve one request; whether the connection can be used for another. Raises `BadHead`."""
        try:
            exchange = (_TlsExchange if stream.is_tls else _Exchange)(stream, request, peer, self._stall_seconds)
        except h11.RemoteProtocolError:
            raise BadHead(400, "this is not a valid request") from None
        app = partial(exchange.run_app, self._app)
        server = TCPServer(app, self._config, self._context, self._state, exchange)  # type: ignore[arg-type]
        server.idle_task = _NoTimer()  # type: ignore[assignment]
        await server.run()
        return exchange.reusable and not stream.closed
