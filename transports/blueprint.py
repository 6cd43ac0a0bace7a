"""The same endpoints for an application that runs under plain hypercorn, as a Quart blueprint.

``/ws``, ``/sse`` with its commands, ``/poll``, and the routes that the engine has when the blueprint is made. The
protocol, the hub, the outboxes are the same; only the wires differ. Here the sockets are hypercorn's, so nothing
can be written without waiting: every connection's sender task does the writing, at a tenth of the front door's speed.

A little long for this house: each transport is one wire and one view here, and all share what Quart needs around them.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterable, Awaitable, Callable
from functools import partial
from typing import Any

import trio
from quart import Blueprint, Request, Response, Websocket, current_app, request, websocket
from quart.wrappers.response import ResponseBody
from quart_trio import QuartTrio

from realtime import closing
from realtime.auth import ANONYMOUS
from realtime.closing import CloseReason
from realtime.connection import Connection
from realtime.engine import Engine
from realtime.errors import CommandError, ErrorCode, WireBroken
from realtime.routes import Binding, Route, Transport
from realtime.wire import Framing, LineFraming, Receiver
from realtime.wishes import Subscribe
from transports.body import check_length
from transports.credentials import SUBPROTOCOL, HeaderMap, allowed_origin, cors_headers, identify, preflight_headers
from transports.events import (
    EVENT_STREAM_HEADERS,
    KEEP_ALIVE_SECONDS,
    first_retry,
    first_wishes,
    framing_for,
    keep_alive,
    retry_line,
    wishes_of,
)
from transports.exchanges import answer_command, answer_poll, answer_state, answer_to
from transports.proxies import Peer, TrustedProxies
from transports.responses import (
    UPGRADE_HEADERS,
    UPGRADE_STATUS,
    as_line,
    error_body,
    error_headers,
    status_of,
    upgrade_required,
)

__all__ = ["make_blueprint"]

_LINES = LineFraming()


def make_blueprint(engine: Engine, *, url_prefix: str | None = None) -> Blueprint:
    """The endpoints of ``engine``, which starts and ends with the application.

    Hypercorn tells an application of its end only after the connections have ended. Call `Engine.drain` from what
    triggers hypercorn's shutdown, and the peers are told first.
    """
    blueprint = Blueprint("realtime", __name__, url_prefix=url_prefix)
    serve = _Endpoints(engine)
    blueprint.before_app_serving(serve.start)
    blueprint.after_app_serving(serve.stop)

    def add(rule: str, endpoint: str, view: Callable[..., Awaitable[Response]], method: str = "GET") -> None:
        blueprint.add_url_rule(rule, endpoint, view, methods=[method], provide_automatic_options=False)
        asking = f"{endpoint}_preflight"
        blueprint.add_url_rule(rule, asking, serve.preflight, methods=["OPTIONS"], provide_automatic_options=False)

    others = {_rule(route) for route in engine.routes if route.transport is not Transport.WEBSOCKET}

    def add_websocket(rule: str, endpoint: str, view: Callable[..., Awaitable[Response | None]]) -> None:
        blueprint.add_websocket(rule, endpoint, view)
        if rule not in others:
            asked = f"{endpoint}_without_upgrade"
            blueprint.add_url_rule(rule, asked, _upgrade_required, methods=["GET"], provide_automatic_options=False)

    add_websocket("/ws", "websocket", serve.websocket)
    add("/sse", "sse", serve.sse)
    add("/sse/<connection_id>", "command", serve.command, "POST")
    add("/poll", "poll", serve.poll)
    for number, route in enumerate(engine.routes):
        rule = _rule(route)
        match route.transport:
            case Transport.WEBSOCKET:
                add_websocket(rule, f"route_{number}", partial(serve.websocket, route))
            case Transport.SSE:
                add(rule, f"route_{number}", partial(serve.sse, route))
            case Transport.STATE:
                add(rule, f"route_{number}", partial(serve.state, route))
    return blueprint


class _Endpoints:
    """What is served at each path. ``route``: the path is one of ours, and ``members`` stand in it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        settings = engine.settings
        self._proxies = TrustedProxies(settings.trusted_proxies, header=settings.forwarded_header)

    def _see(self, asked: Request | Websocket) -> Peer:
        """Who asks. Raises `CommandError` where nobody at that address is listened to."""
        secure = asked.scheme in ("wss", "https")
        peer = self._proxies.see(asked.remote_addr or "", HeaderMap(asked.headers), secure=secure)
        if error := self._engine.admission.shut_out(peer.address):
            raise error
        return peer

    async def start(self) -> None:
        await _nursery().start(self._engine.run)

    async def stop(self) -> None:
        await self._engine.drain()
        _nursery().cancel_scope.deadline = trio.current_time() + self._engine.settings.grace_seconds

    async def websocket(self, route: Route | None = None, /, **members: str) -> Response | None:
        # The object behind the proxy: the connection's tasks use it, and they have no request context.
        asked: Websocket = websocket._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001
        engine, head = self._engine, HeaderMap(asked.headers)
        binding = _binding(route, members)
        seen = None
        try:
            seen = self._see(asked)
            allowed_origin(engine, head, seen)
            query = list(asked.args.items(multi=True))
            identity = await identify(engine, head, seen, subprotocols=asked.requested_subprotocols, query=query)
            wishes, cursor = first_wishes(query, identity, binding)
        except CommandError as error:
            return self._refused("websocket", seen, error)
        chosen = SUBPROTOCOL if SUBPROTOCOL in asked.requested_subprotocols else None
        connection = Connection(
            engine,
            _WebsocketWire(asked, chosen, engine.settings.max_message_bytes),
            identity=identity or ANONYMOUS,
            authenticated=identity is not None,
            transport="websocket",
            binding=binding,
            cursor=cursor,
            address=seen.address,
        )
        try:
            with engine.admission.counted(seen.address):
                await connection.run(wishes)
        except CommandError as error:
            return self._refused("websocket", seen, error)
        return None

    async def sse(self, route: Route | None = None, /, **members: str) -> Response:
        engine, head = self._engine, HeaderMap(request.headers)
        binding = _binding(route, members)
        origin = seen = None
        try:
            seen = self._see(request)
            origin = allowed_origin(engine, head, seen)
            identity = await identify(engine, head, seen, query=_query())
            if identity is None:
                raise CommandError(ErrorCode.AUTH_REQUIRED, "log in first")
            wishes, cursor = wishes_of(head, _query(), binding)
            if binding is not None and await engine.is_exhausted(binding.topic, wishes[0].since):
                # An EventSource comes back for ever, unless it is told this.
                return Response(status=204, headers={"Connection": "close"})
        except CommandError as error:
            return self._refused("sse", seen, error, cors_headers(origin))
        if request.method == "HEAD":
            return Response(headers=EVENT_STREAM_HEADERS)
        wire = _EventStreamWire(len(wishes), engine.random())
        connection = Connection(
            engine,
            wire,
            identity=identity,
            transport="sse",
            secret=secrets.token_urlsafe(18) if binding is None else None,
            binding=binding,
            cursor=cursor,
            address=seen.address,
        )
        # The connection outlives this function, so it is the application's task, and the response only reads from it.
        refusal = await _nursery().start(_run_event_stream, connection, wishes, wire)
        if refusal is not None:
            return self._refused("sse", seen, refusal, cors_headers(origin))
        response = Response(wire.body(), headers={**EVENT_STREAM_HEADERS, **cors_headers(origin)})
        response.timeout = None  # Quart ends a response after a minute otherwise
        return response

    def _refused(
        self, transport: str, seen: Peer | None, error: CommandError, headers: dict[str, str] | None = None
    ) -> Response:
        """The response to a peer that is turned away."""
        if seen is not None:  # one that was not even looked at is counted already
            self._engine.turn_away(transport, seen.address, error, transport=transport)
        return _error(error, headers)

    async def _respond(self, work: Callable[[Peer], Awaitable[Any]]) -> Response:
        try:
            seen = self._see(request)
        except CommandError as error:
            return _error(error)
        head = HeaderMap(request.headers)
        answer = await answer_to(self._engine, head, seen, request.path, lambda: work(seen))
        return Response(answer.body, answer.status, content_type="application/json", headers=answer.headers)

    async def command(self, connection_id: str) -> Response:
        async def work(_seen: Peer) -> Any:
            settings = self._engine.settings
            text = await _body(settings.max_message_bytes, settings.request_timeout_seconds)
            return await answer_command(self._engine, connection_id, HeaderMap(request.headers), text)

        return await self._respond(work)

    async def poll(self) -> Response:
        async def work(seen: Peer) -> Any:
            with self._engine.admission.counted(seen.address):
                return await answer_poll(self._engine, HeaderMap(request.headers), seen, _query())

        return await self._respond(work)

    async def state(self, route: Route, /, **members: str) -> Response:
        binding = Binding(route, route.topic.format_map(members))

        async def work(seen: Peer) -> Any:
            with self._engine.admission.counted(seen.address):
                return await answer_state(self._engine, HeaderMap(request.headers), seen, _query(), binding)

        return await self._respond(work)

    async def preflight(self, **_members: str) -> Response:
        seen = None
        try:
            seen = self._see(request)
            origin = allowed_origin(self._engine, HeaderMap(request.headers), seen)
        except CommandError as error:
            return self._refused("origin", seen, error)
        return Response(as_line(b"{}"), content_type="application/json", headers=preflight_headers(origin))


def _rule(route: Route) -> str:
    """A path as Quart writes it."""
    return route.path.replace("{", "<").replace("}", ">")


def _binding(route: Route | None, members: dict[str, str]) -> Binding | None:
    return None if route is None else Binding(route, route.topic.format_map(members))


def _query() -> list[tuple[str, str]]:
    return list(request.args.items(multi=True))


async def _body(most: int, seconds: float) -> bytes:
    """The body of the request. Raises `CommandError`."""
    check_length(request.content_length, most)
    with trio.move_on_after(seconds):
        body: bytes = await request.get_data(as_text=False)  # type: ignore[assignment]
        return body
    raise CommandError(ErrorCode.BAD_REQUEST, "the body did not come in time")


def _nursery() -> trio.Nursery:
    """The nursery that lives as long as the application."""
    app: QuartTrio = current_app  # type: ignore[assignment]
    return app.nursery


async def _run_event_stream(
    connection: Connection,
    wishes: list[Subscribe],
    wire: _EventStreamWire,
    *,
    task_status: trio.TaskStatus[CommandError | None] = trio.TASK_STATUS_IGNORED,
) -> None:
    wire.opened = task_status.started
    try:
        with connection.engine.admission.counted(connection.conduct.address):
            await connection.run(wishes)
    except CommandError as error:
        task_status.started(error)


async def _upgrade_required(**_members: str) -> Response:
    return Response(
        error_body(upgrade_required()), UPGRADE_STATUS, content_type="application/json", headers=UPGRADE_HEADERS
    )


def _error(error: CommandError, headers: dict[str, str] | None = None) -> Response:
    return Response(
        error_body(error),
        status_of(error),
        content_type="application/json",
        headers={**error_headers(error), **(headers or {})},
    )


class _PatientWire:
    """What both wires have in common: what they take waits for the connection's sender to carry it off."""

    heartbeat_interval: float | None = None
    #: Hypercorn answers and eats the pongs, so silence says nothing; its own `websocket_ping_interval` does.
    peer_answers = False
    refused_in_band = False

    def __init__(self, framing: Framing) -> None:
        self.framing: Framing | None = framing
        self.progress = 0
        self.heard_at = trio.current_time()
        self._tail = b""

    @property
    def busy(self) -> bool:
        return bool(self._tail)

    def write_nowait(self, data: bytes) -> bool:
        self._tail = data
        return False

    async def drain(self) -> None:
        while self._tail:
            piece, rest = self._cut(self._tail)
            await self._send(piece)  # cancelled, it has not begun to leave and is still the tail
            self._tail = rest
            self.progress += len(piece)
        await trio.lowlevel.checkpoint()

    async def write(self, data: bytes) -> None:
        await self.drain()
        self._tail = data
        await self.drain()

    @staticmethod
    def _cut(data: bytes) -> tuple[bytes, bytes]:
        """What is sent at once, and the rest."""
        return data, b""

    async def _send(self, piece: bytes) -> None:
        raise NotImplementedError


class _WebsocketWire(_PatientWire):
    """A WebSocket of hypercorn's; see `realtime.wire.Wire`."""

    refused_in_band = True

    def __init__(self, peer: Websocket, subprotocol: str | None, max_message_bytes: int) -> None:
        super().__init__(_LINES)
        self._peer = peer
        self._subprotocol = subprotocol
        self._max_message_bytes = max_message_bytes

    async def open(self) -> bytes:
        await self._peer.accept(subprotocol=self._subprotocol)
        return b""

    @staticmethod
    def _cut(data: bytes) -> tuple[bytes, bytes]:
        line, _, rest = data.partition(b"\n")
        return line, rest

    async def _send(self, piece: bytes) -> None:
        await self._peer.send(piece.decode())

    def heartbeat(self, ping: bytes) -> bytes:
        return ping

    async def read(self, receiver: Receiver) -> CloseReason:
        """See `realtime.wire.Wire`. When the peer hangs up, Quart cancels us."""
        while True:
            message = await self._peer.receive()
            self.heard_at = trio.current_time()
            if isinstance(message, bytes):
                return closing.UNSUPPORTED_DATA
            text = message.encode()
            if len(text) > self._max_message_bytes:
                return closing.TOO_BIG
            await receiver.receive(text)
            receiver.quiet()

    async def close(self, reason: CloseReason) -> None:
        await self._peer.close(reason.code, reason.text)

    def abort(self) -> None:
        """Nothing to release: the socket is hypercorn's."""


class _EventStreamWire(_PatientWire):
    """A response of Quart's that reads from a channel; see `realtime.wire.Wire`."""

    heartbeat_interval: float | None = KEEP_ALIVE_SECONDS

    def __init__(self, topics: int, jitter: float) -> None:
        super().__init__(framing_for(topics))
        self._retry = first_retry(jitter)
        self._channel, self._receive = trio.open_memory_channel[bytes](1)
        self._gone = trio.Event()
        #: Tells the request's handler that the peer is admitted.
        self.opened: object = None

    async def open(self) -> bytes:
        assert callable(self.opened)
        self.opened(None)
        return self._retry

    async def _send(self, piece: bytes) -> None:
        try:
            await self._channel.send(piece)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise WireBroken from None

    def heartbeat(self, ping: bytes) -> bytes:
        return keep_alive(ping)

    async def read(self, receiver: Receiver) -> CloseReason:  # noqa: ARG002
        await self._gone.wait()
        return closing.GONE

    async def close(self, reason: CloseReason) -> None:
        if reason.retry_after is not None:
            await self.write(retry_line(reason.retry_after))

    def abort(self) -> None:
        self._channel.close()

    def body(self) -> ResponseBody:
        """The body of the response."""
        return _Body(self._receive, self._gone)


class _Body(ResponseBody):
    """Reads from the wire; when Quart lets go of it, because the client has, the wire hears of it at once."""

    def __init__(self, receive: trio.MemoryReceiveChannel[bytes], gone: trio.Event) -> None:
        self._receive = receive
        self._gone = gone

    async def __aenter__(self) -> AsyncIterable[bytes]:
        return self._receive

    async def __aexit__(self, *_exception: object) -> None:
        self._receive.close()
        self._gone.set()
