"""The front door: one port, where every connection is looked at and led to its room.

::

    serve_connection                      one task for each accepted connection, in the server's nursery
    '- for each request on it:
        GET /ws, with an upgrade     ->   websocket, until the connection ends
        GET /sse                     ->   sse, until the connection ends
        GET on a route of one's own  ->   websocket or sse, or answered here
        GET /poll, POST /sse/..      ->   answered here
        POST /api/v1/publish         ->   answered here
        everything else              ->   the web application on hypercorn, one request at a time

Requests are taken off the connection one by one, also those for the application, so an upgrade that comes second on
a connection that a browser kept alive is as good as one that comes first.
"""

from __future__ import annotations

import secrets
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import structlog
import trio

from realtime.auth import ANONYMOUS
from realtime.connection import Connection
from realtime.engine import Engine
from realtime.errors import CommandError, ErrorCode, WireError
from realtime.routes import Binding, Transport
from transports.credentials import SUBPROTOCOL, allowed_origin, cors_headers, identify
from transports.events import first_wishes, wishes_of
from transports.exchanges import command_request, poll_request, preflight_request, state_request
from transports.handshake import is_regular, offered_subprotocols
from transports.head import BadHead, HeadReader, Request
from transports.http.mount import OUR_PATHS
from transports.publish import publish_request
from transports.responses import error_response
from transports.sse import SseWire
from transports.stream import Stream, TlsStream
from transports.websocket import WebSocketWire, refuse_handshake

__all__ = ["Front"]

log = structlog.get_logger("realtime")

#: Serves one request that is not for the front door; returns whether the connection can be used for another.
Forward = Callable[[Stream, Request], Awaitable[bool]]


#: What is left to do with a connection after its last request.
Rest = Callable[[], Awaitable[object]]


async def _done() -> None:
    """Nothing is left to do."""


class Front:
    """Looks at connections; holds no state of them but whether they idle."""

    def __init__(self, engine: Engine, forward: Forward, *, tls: ssl.SSLContext | None = None) -> None:
        self._engine = engine
        self._forward = forward
        self._tls = tls
        self._streams: set[Stream] = set()
        self._idle: set[trio.CancelScope] = set()
        self._draining = False

    @property
    def open_connections(self) -> int:
        """How many connections are being served."""
        return len(self._streams)

    def drain(self) -> None:
        """Take no more requests; connections between two requests are closed now."""
        self._draining = True
        for scope in self._idle:
            scope.cancel()

    def abort_all(self) -> None:
        """Close every connection at once, whatever it is doing; also wakes code that is shielded from cancellation."""
        for stream in list(self._streams):
            stream.reset()

    async def serve_connection(self, accepted: trio.SocketStream) -> None:
        """Serve one accepted connection to its end. Never raises but when cancelled: see the log."""
        engine = self._engine
        stream: Stream | None = None
        try:
            stream = Stream(accepted) if self._tls is None else TlsStream(accepted, self._tls)
            self._streams.add(stream)
            if len(self._streams) > engine.settings.max_connections:
                engine.refuse("too_many_connections")
                if self._tls is None:
                    error = CommandError(ErrorCode.UNAVAILABLE, "too many connections", retry_after=5)
                    stream.write_nowait(error_response(error))
                return
            if isinstance(stream, TlsStream):
                with trio.move_on_after(engine.settings.request_timeout_seconds) as scope:
                    await stream.handshake()
                if scope.cancelled_caught:
                    return
            rest = await self._serve_requests(stream)
            await rest()
        except WireError:
            pass  # the peer went away
        except Exception:
            # Whatever one connection runs into, the others must not hear of it.
            log.exception("connection failed", trace_id=secrets.token_hex(8))
        finally:
            if stream is not None:
                self._streams.discard(stream)
                stream.abort()

    async def _serve_requests(self, stream: Stream) -> Rest:
        """Serve one request after the other; what becomes of the connection in the end.

        A connection that becomes a WebSocket or an event stream lives for hours. It is run by the caller, so that
        this frame goes, and with it the request that brought it: a third of an idle connection's memory.
        """
        settings = self._engine.settings
        reader = HeadReader(stream, settings.max_head_bytes)
        idle_seconds = settings.request_timeout_seconds
        while not self._draining:
            try:
                request = None
                with trio.CancelScope(deadline=trio.current_time() + idle_seconds) as scope:
                    self._idle.add(scope)
                    try:
                        request = await reader.read(scope, head_seconds=settings.request_timeout_seconds)
                    finally:
                        self._idle.discard(scope)
                if scope.cancelled_caught and reader.begun and not self._draining:
                    raise BadHead(408, "the request did not come in time")
                if request is None:
                    break
                rest = await self._serve(stream, request)
            except BadHead as bad:
                self._engine.refuse("bad_request")
                await self._refuse(stream, CommandError(ErrorCode.BAD_REQUEST, bad.message), status=bad.status)
                return _done
            if not isinstance(rest, bool):
                return rest
            if not rest:
                break
            idle_seconds = settings.keep_alive_seconds
        return stream.finish

    async def _serve(self, stream: Stream, request: Request) -> bool | Rest:
        """Serve one request: whether the connection can be used for another, or what becomes of it instead."""
        path = request.path
        if request.wants_websocket:
            if path == "/ws":
                return await self._admit_websocket(stream, request)
            if binding := self._route(path, Transport.WEBSOCKET):
                return await self._admit_websocket(stream, request, binding)
        elif request.method == "GET":
            if path == "/sse":
                return await self._admit_sse(stream, request)
            if path == "/poll":
                return await poll_request(self._engine, stream, request)
            if binding := self._route(path, Transport.SSE):
                return await self._admit_sse(stream, request, binding)
            if binding := self._route(path, Transport.STATE):
                return await state_request(self._engine, stream, request, binding)
        elif request.method == "POST":
            if path == "/api/v1/publish":
                return await publish_request(self._engine, stream, request)
            if path.startswith("/sse/"):
                return await command_request(self._engine, stream, request)
        elif request.method == "OPTIONS" and self._serves_pages(path):
            return await preflight_request(self._engine, stream, request)
        return await self._forward(stream, request)

    def _serves_pages(self, path: str) -> bool:
        """Whether a page of another origin may want something of us here."""
        return (
            path in ("/sse", "/poll")
            or path.startswith("/sse/")
            or self._route(path, Transport.SSE) is not None
            or self._route(path, Transport.STATE) is not None
        )

    def _route(self, path: str, transport: Transport) -> Binding | None:
        """Where a path of the user's own leads."""
        return None if path in OUR_PATHS else self._engine.routes.find(path, transport)

    async def _admit_websocket(self, stream: Stream, request: Request, binding: Binding | None = None) -> Rest:
        """Look at an upgrade request; what there is to run if it is let in."""
        engine, settings = self._engine, self._engine.settings
        try:
            allowed_origin(engine, request, tls=stream.is_tls)
        except CommandError as error:
            engine.refuse("origin")
            await self._refuse(stream, error)
            return _done
        if not is_regular(request):
            engine.refuse("bad_handshake")
            await refuse_handshake(stream, request, timeout=settings.request_timeout_seconds)
            await stream.finish()
            return _done
        offered = offered_subprotocols(request)
        try:
            identity = await identify(engine, request, offered)
            wishes, cursor = first_wishes(request.query(), identity, binding)
        except CommandError as error:
            engine.refuse("credentials")
            await self._refuse(stream, error)
            return _done
        wire = WebSocketWire(
            stream,
            request,
            max_message_bytes=settings.max_message_bytes,
            subprotocol=SUBPROTOCOL if SUBPROTOCOL in offered else None,
        )
        connection = Connection(
            engine,
            wire,
            identity=identity or ANONYMOUS,
            authenticated=identity is not None,
            transport="websocket",
            binding=binding,
            cursor=cursor,
        )
        if not (wishes or cursor):
            return connection.run
        # A script in a browser sees no status of a handshake, but it does see a close code.
        return partial(connection.run, wishes, refuse_in_band=True)

    async def _admit_sse(self, stream: Stream, request: Request, binding: Binding | None = None) -> Rest:
        """Look at a request for an event stream; what there is to run if it is let in."""
        engine = self._engine
        origin = None
        try:
            origin = allowed_origin(engine, request, tls=stream.is_tls)
            identity = await identify(engine, request)
            if identity is None:
                raise CommandError(ErrorCode.AUTH_REQUIRED, "log in first")
            wishes, cursor = wishes_of(request, request.query(), identity, binding)
            if binding is not None and await engine.is_exhausted(binding.topic, wishes[0].since):
                # An EventSource comes back for ever, unless it is told this.
                await stream.send_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
                return stream.finish
        except CommandError as error:
            engine.refuse("sse")
            await self._refuse(stream, error, cors_headers(origin))
            return _done
        wire = SseWire(stream, topics=len(wishes), headers=cors_headers(origin), jitter=engine.random())
        connection = Connection(
            engine,
            wire,
            identity=identity,
            transport="sse",
            secret=secrets.token_urlsafe(18) if binding is None else None,
            binding=binding,
            cursor=cursor,
        )

        async def run() -> None:
            try:
                await connection.run(wishes)
            except CommandError as error:
                engine.refuse("sse")
                await self._refuse(stream, error, cors_headers(origin))

        return run

    async def _refuse(
        self, stream: Stream, error: CommandError, headers: dict[str, str] | None = None, *, status: int | None = None
    ) -> None:
        """Answer with an error and close; a peer that does not read the answer is not waited for."""
        with trio.move_on_after(self._engine.settings.request_timeout_seconds), suppress(WireError):
            await stream.send_all(error_response(error, status=status, headers=headers))
            await stream.finish()
