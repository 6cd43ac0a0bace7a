"""The same two endpoints for an application that runs under plain hypercorn: ``/ws`` and ``/sse`` as a Quart blueprint.

The protocol, the hub, the outboxes are the same; only the wires differ. Here the sockets are hypercorn's, so nothing
can be written without waiting: every connection's sender task does the writing, at a tenth of the front door's speed.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterable

import trio
from quart import Blueprint, Response, Websocket, current_app, request, websocket
from quart.wrappers.response import ResponseBody
from quart_trio import QuartTrio

from realtime import closing
from realtime.auth import ANONYMOUS
from realtime.closing import CloseReason
from realtime.commands import Subscribe
from realtime.connection import Connection
from realtime.engine import Engine
from realtime.errors import CommandError, ErrorCode, WireBroken
from realtime.wire import Framing, LineFraming, Receiver
from transports.credentials import SUBPROTOCOL, HeaderMap, allowed_origin, cors_headers, identify
from transports.events import (
    EVENT_STREAM_HEADERS,
    KEEP_ALIVE_SECONDS,
    first_retry,
    framing_for,
    keep_alive,
    parse_wishes,
    retry_line,
)
from transports.responses import error_body, error_headers, status_of

__all__ = ["make_blueprint"]

_LINES = LineFraming()


def make_blueprint(engine: Engine, *, url_prefix: str | None = None) -> Blueprint:
    """The endpoints of ``engine``, which starts and ends with the application."""
    blueprint = Blueprint("realtime", __name__, url_prefix=url_prefix)

    @blueprint.before_app_serving
    async def start() -> None:
        await _nursery().start(engine.run)

    @blueprint.after_app_serving
    async def stop() -> None:
        await engine.drain()
        _nursery().cancel_scope.deadline = trio.current_time() + engine.settings.grace_seconds

    @blueprint.websocket("/ws")
    async def serve_websocket() -> Response | None:
        # The object behind the proxy: the connection's tasks use it, and they have no request context.
        peer: Websocket = websocket._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001
        head = HeaderMap(peer.headers)
        try:
            allowed_origin(engine, head, tls=peer.scheme in ("wss", "https"))
            identity = await identify(engine, head, peer.requested_subprotocols)
        except CommandError as error:
            engine.refuse("websocket")
            return _error(error)
        chosen = SUBPROTOCOL if SUBPROTOCOL in peer.requested_subprotocols else None
        connection = Connection(
            engine,
            _WebsocketWire(peer, chosen, engine.settings.max_message_bytes),
            identity=identity or ANONYMOUS,
            authenticated=identity is not None,
            transport="websocket",
        )
        await connection.run()
        return None

    @blueprint.get("/sse")
    async def serve_sse() -> Response:
        head = HeaderMap(request.headers)
        origin = None
        try:
            origin = allowed_origin(engine, head, tls=request.scheme == "https")
            identity = await identify(engine, head)
            if identity is None:
                raise CommandError(ErrorCode.AUTH_REQUIRED, "log in first")
            wishes = parse_wishes(list(request.args.items(multi=True)), head.header(b"last-event-id"))
        except CommandError as error:
            engine.refuse("sse")
            return _error(error, cors_headers(origin))
        if request.method == "HEAD":
            return Response(headers=EVENT_STREAM_HEADERS)
        wire = _EventStreamWire(len(wishes), engine.random())
        connection = Connection(engine, wire, identity=identity, transport="sse", secret=secrets.token_urlsafe(18))
        # The connection outlives this function, so it is the application's task, and the response only reads from it.
        refusal = await _nursery().start(_run_event_stream, connection, wishes, wire)
        if refusal is not None:
            engine.refuse("sse")
            return _error(refusal, cors_headers(origin))
        response = Response(wire.body(), headers={**EVENT_STREAM_HEADERS, **cors_headers(origin)})
        response.timeout = None  # Quart ends a response after a minute otherwise
        return response

    return blueprint


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
        await connection.run(wishes)
    except CommandError as error:
        task_status.started(error)


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
            piece, self._tail = self._cut(self._tail)
            await self._send(piece)
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

    def heartbeat(self, text: bytes) -> bytes:
        return _LINES.push("ping", text)

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

    def heartbeat(self, text: bytes) -> bytes:
        return keep_alive(text)

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
