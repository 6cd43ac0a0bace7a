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
from transports.proxies import Peer, TrustedProxies
from transports.publish import publish_request
from transports.responses import error_response
from transports.sse import SseWire
from transports.stream import Stream, TlsStream
from transports.websocket import WebSocketWire, refuse_handshake

__all__ = ["Front"]

log = structlog.get_logger("realtime")

#: Serves one request that is not for the front door; returns whether the connection can be used for another.
Forward = Callable[[Stream, Request, Peer], Awaitable[bool]]


#: What is left to do with a connection after its last request.
Rest = Callable[[], Awaitable[object]]


async def _done() -> None:
    """Nothing is left to do."""


class Front:
    """Looks at connections; holds no state of them but whether they idle, or have not said a word yet."""

    def __init__(self, engine: Engine, forward: Forward, *, tls: ssl.SSLContext | None = None) -> None:
        self._engine = engine
        self._forward = forward
        self._tls = tls
        self.is_tls = tls is not None
        settings = engine.settings
        self.proxies = TrustedProxies(settings.trusted_proxies, header=settings.forwarded_header)
        #: Connections that have not sent a whole request head yet, and whether they are counted by address.
        self._strangers: dict[Stream, bool] = {}
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

    async def serve_connection(self, accepted: trio.socket.SocketType, address: str, *, counted: bool) -> None:
        """Serve one accepted connection to its end. Never raises but when cancelled: see the log.

        ``counted``: it was entered as one of its address, and leaves in the end.
        """
        stream: Stream | None = None
        try:
            stream = self._open(trio.SocketStream(accepted), address)
            self._streams.add(stream)
            self._strangers[stream] = counted
            rest = await self._serve_requests(stream)
            await rest()
        except WireError:
            pass  # the peer went away
        except Exception:
            # Whatever one connection runs into, the others must not hear of it.
            log.exception("connection failed", trace_id=secrets.token_hex(8))
        finally:
            if stream is None:
                accepted.close()
            else:
                self._streams.discard(stream)
                self._greeted(stream)
                stream.abort()
            if counted:
                self._engine.admission.leave(address)

    @property
    def strangers(self) -> int:
        """How many connections have not said yet what they want."""
        return len(self._strangers)

    def _greeted(self, stream: Stream) -> None:
        """A connection has said what it wants, or never will."""
        if self._strangers.pop(stream, False):
            self._engine.admission.greeted(stream.address)

    def _open(self, accepted: trio.SocketStream, address: str) -> Stream:
        return Stream(accepted, address) if self._tls is None else TlsStream(accepted, self._tls, address)

    async def _serve_requests(self, stream: Stream) -> Rest:
        """Serve one request after the other; what becomes of the connection in the end.

        A connection that becomes a WebSocket or an event stream lives for hours. It is run by the caller, so that
        this frame goes, and with it the request that brought it: a third of an idle connection's memory.
        """
        settings = self._engine.settings
        reader = HeadReader(stream, settings.max_head_bytes)
        idle_seconds = settings.request_timeout_seconds
        address = stream.address
        if not await self._agree_on_keys(stream):
            self._engine.refuse("silent")
            return _done
        while not self._draining:
            try:
                request = await self._next_request(reader, idle_seconds)
                if request is None:
                    break
                self._greeted(stream)
                peer = self.proxies.see(stream.address, request, secure=stream.is_tls)
                address = peer.address
                rest = await self._serve(stream, request, peer)
            except BadHead as bad:
                error = CommandError(ErrorCode.BAD_REQUEST, bad.message)
                self._engine.turn_away("bad_request", address, error)
                await self._refuse(stream, error, status=bad.status)
                return _done
            if not isinstance(rest, bool):
                return rest
            if not rest:
                break
            idle_seconds = settings.keep_alive_seconds
        return stream.finish

    async def _agree_on_keys(self, stream: Stream) -> bool:
        """Do what TLS has to do first; whether it was done in time. Raises `WireError`."""
        if not isinstance(stream, TlsStream):
            return True
        with trio.move_on_after(self._engine.settings.request_timeout_seconds):
            await stream.handshake()
            return True
        return False

    async def _next_request(self, reader: HeadReader, idle_seconds: float) -> Request | None:
        """The next request's head; None where none comes. Raises `BadHead` and `WireError`."""
        request = None
        with trio.CancelScope(deadline=trio.current_time() + idle_seconds) as scope:
            self._idle.add(scope)
            try:
                request = await reader.read(scope, head_seconds=self._engine.settings.request_timeout_seconds)
            finally:
                self._idle.discard(scope)
        if scope.cancelled_caught and not self._draining:
            if reader.begun:
                raise BadHead(408, "the request did not come in time")
            if reader.heads == 0:
                self._engine.refuse("silent")
        return request

    async def _serve(self, stream: Stream, request: Request, peer: Peer) -> bool | Rest:
        """Serve one request: whether the connection can be used for another, or what becomes of it instead."""
        engine, path = self._engine, request.path
        if peer.address != stream.address and (error := engine.admission.shut_out(peer.address)):
            await self._refuse(stream, error)  # by way of a proxy, which was let in
            return False
        if request.wants_websocket:
            if path == "/ws":
                return await self._admit_websocket(stream, request, peer)
            if binding := self._route(path, Transport.WEBSOCKET):
                return await self._admit_websocket(stream, request, peer, binding)
        elif request.method == "GET":
            if path == "/sse":
                return await self._admit_sse(stream, request, peer)
            if path == "/poll":
                return await poll_request(engine, stream, request, peer)
            if binding := self._route(path, Transport.SSE):
                return await self._admit_sse(stream, request, peer, binding)
            if binding := self._route(path, Transport.STATE):
                return await state_request(engine, stream, request, peer, binding)
        elif request.method == "POST":
            if path == "/api/v1/publish":
                return await publish_request(engine, stream, request, peer)
            if path.startswith("/sse/"):
                return await command_request(engine, stream, request, peer)
        elif request.method == "OPTIONS" and self._serves_pages(path):
            return await preflight_request(engine, stream, request, peer)
        # Who has gone too far there needs another connection for the next attempt, and does not get it.
        return await self._forward(stream, request, peer) and not engine.admission.is_shut_out(peer.address)

    def _counted(self, stream: Stream, peer: Peer, run: Rest) -> Rest:
        """What is left to do, counted for who is behind a proxy. Raises `CommandError` where there are too many."""
        if not self.proxies.trusts(stream.address):
            return run
        admission = self._engine.admission
        if error := admission.enter(peer.address):
            raise error

        async def run_counted() -> None:
            try:
                await run()
            finally:
                admission.leave(peer.address)

        return run_counted

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

    async def _admit_websocket(
        self, stream: Stream, request: Request, peer: Peer, binding: Binding | None = None
    ) -> Rest:
        """Look at an upgrade request; what there is to run if it is let in."""
        engine, settings = self._engine, self._engine.settings
        try:
            allowed_origin(engine, request, peer)
        except CommandError as error:
            return await self._turn_away(stream, "origin", peer, error, transport="websocket")
        if not is_regular(request):
            objection = CommandError(ErrorCode.BAD_REQUEST, "not a WebSocket handshake")
            engine.turn_away("bad_handshake", peer.address, objection, transport="websocket")
            await refuse_handshake(stream, request, timeout=settings.request_timeout_seconds)
            await stream.finish()
            return _done
        offered = offered_subprotocols(request)
        query = request.query()
        try:
            identity = await identify(engine, request, peer, subprotocols=offered, query=query)
            wishes, cursor = first_wishes(query, identity, binding)
        except CommandError as error:
            return await self._turn_away(stream, "credentials", peer, error, transport="websocket")
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
            address=peer.address,
        )
        run = partial(connection.run, wishes) if wishes else connection.run
        try:
            return self._counted(stream, peer, run)
        except CommandError as error:
            return await self._turn_away(stream, "too_many_of_address", peer, error, transport="websocket")

    async def _admit_sse(self, stream: Stream, request: Request, peer: Peer, binding: Binding | None = None) -> Rest:
        """Look at a request for an event stream; what there is to run if it is let in."""
        engine = self._engine
        origin = None
        try:
            origin = allowed_origin(engine, request, peer)
            query = request.query()
            identity = await identify(engine, request, peer, query=query)
            if identity is None:
                raise CommandError(ErrorCode.AUTH_REQUIRED, "log in first")
            wishes, cursor = wishes_of(request, query, binding)
            if binding is not None and await engine.is_exhausted(binding.topic, wishes[0].since):
                # An EventSource comes back for ever, unless it is told this.
                await stream.send_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
                return stream.finish
        except CommandError as error:
            return await self._turn_away(stream, "sse", peer, error, cors_headers(origin), transport="sse")
        wire = SseWire(stream, topics=len(wishes), headers=cors_headers(origin), jitter=engine.random())
        connection = Connection(
            engine,
            wire,
            identity=identity,
            transport="sse",
            secret=secrets.token_urlsafe(18) if binding is None else None,
            binding=binding,
            cursor=cursor,
            address=peer.address,
        )

        async def run() -> None:
            try:
                await connection.run(wishes)
            except CommandError as error:
                await self._turn_away(stream, "sse", peer, error, cors_headers(origin), transport="sse")

        try:
            return self._counted(stream, peer, run)
        except CommandError as error:
            return await self._turn_away(
                stream, "too_many_of_address", peer, error, cors_headers(origin), transport="sse"
            )

    async def _turn_away(
        self,
        stream: Stream,
        reason: str,
        peer: Peer,
        error: CommandError,
        headers: dict[str, str] | None = None,
        *,
        transport: str,
    ) -> Rest:
        """Refuse a peer, and take note of it; nothing is left to do then."""
        self._engine.turn_away(reason, peer.address, error, transport=transport)
        await self._refuse(stream, error, headers)
        return _done

    async def _refuse(
        self, stream: Stream, error: CommandError, headers: dict[str, str] | None = None, *, status: int | None = None
    ) -> None:
        """Answer with an error and close; a peer that does not read the answer is not waited for."""
        with trio.move_on_after(self._engine.settings.request_timeout_seconds), suppress(WireError):
            await stream.send_all(error_response(error, status=status, headers=headers))
            await stream.finish()
