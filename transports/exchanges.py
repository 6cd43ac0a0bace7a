"""Requests that the front door answers itself, apart from the publish, which has its own reasons.

::

    GET /poll            what came after a cursor: `realtime.polling`
    POST /sse/{id}       one command of the client of an event stream
    GET on a route       the state of what the route leads to
    OPTIONS              what a browser asks before it lets a page do one of these
"""

from __future__ import annotations

import hmac
import inspect
import secrets
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from urllib.parse import quote

import msgspec
import structlog
import trio
from attrs import frozen

from realtime.admission import OFFENCES
from realtime.auth import Identity, Verb
from realtime.commands import Reply
from realtime.directory import no_such_connection
from realtime.engine import Engine
from realtime.errors import CommandError, ErrorCode
from realtime.gate import Permits
from realtime.messages import encode
from realtime.polling import pace, poll
from realtime.routes import Binding
from transports.body import receive_body
from transports.credentials import Head, allowed_origin, cors_headers, identify, preflight_headers
from transports.events import Query
from transports.head import Request
from transports.polling import parse_poll
from transports.proxies import Peer
from transports.responses import (
    STATUS,
    as_line,
    error_body,
    error_headers,
    error_response,
    json_response,
    retry_header,
    status_of,
)
from transports.stream import Stream

__all__ = [
    "Answer",
    "answer_command",
    "answer_poll",
    "answer_state",
    "answer_to",
    "command_request",
    "poll_request",
    "preflight_request",
    "state_request",
]

log = structlog.get_logger("realtime")

Work = Callable[[], Awaitable[Any]]


@frozen
class Answer:
    """A whole response, for whoever sends it."""

    status: int
    body: bytes
    headers: dict[str, str]


# -- what is answered, whoever serves HTTP -------------------------------------------------------------------


async def answer_to(engine: Engine, head: Head, peer: Peer, path: str, work: Work) -> Answer:
    """What a request is answered, whatever becomes of ``work``."""
    headers = {"Cache-Control": "no-store"}
    try:
        headers.update(cors_headers(allowed_origin(engine, head, peer)))
        body = await work()
        status = 200
        if isinstance(body, dict) and body.get("type") == "error":
            status = STATUS[body["code"]]
            if body.get("retry_after") is not None:
                headers.update(retry_header(body["retry_after"]))
        text = encode(body) if isinstance(body, dict) else msgspec.json.encode(body)
        return Answer(status, as_line(text), headers)
    except CommandError as error:
        if error.code in OFFENCES:
            engine.turn_away("sse_command" if path.startswith("/sse/") else "request", peer.address, error)
        return Answer(status_of(error), error_body(error), {**error_headers(error), **headers})
    except Exception:  # a bug in one request: its sender is told, the log has the rest
        trace_id = secrets.token_hex(8)
        log.exception("request failed", path=quote(path), trace_id=trace_id)
        failure = CommandError(ErrorCode.INTERNAL_ERROR, "the server failed to do this")
        return Answer(status_of(failure), error_body(failure, trace_id), headers)


async def answer_poll(engine: Engine, head: Head, peer: Peer, query: Query) -> dict[str, Any]:
    """The answer to ``GET /poll``. Raises `CommandError`."""
    identity = await _identified(engine, head, peer, query)
    return await poll(engine, identity, parse_poll(query), peer.address)


async def answer_state(engine: Engine, head: Head, peer: Peer, query: Query, binding: Binding) -> Any:
    """The answer on a route of the transport ``state``. Raises `CommandError`."""
    identity = await _identified(engine, head, peer, query)
    pace(engine, identity, peer.address)
    await Permits(engine.gate, identity).check(Verb.JOIN, binding.topic)
    engine.registry.check(engine.kinds.split(binding.topic)[0], binding.topic)
    assert binding.route.state is not None  # what this transport is
    state = binding.route.state(binding.topic)
    return await state if inspect.isawaitable(state) else state


async def answer_command(engine: Engine, connection_id: str, head: Head, text: bytes) -> Reply:
    """The reply to a command that came beside the event stream of a connection. Raises `CommandError`."""
    connection = engine.connections.get(connection_id)
    known = "" if connection is None else connection.secret or ""
    given = head.header(b"x-connection-secret") or ""
    # Compared also where there is nothing to compare with: the delay of the answer tells no one what exists.
    if not (hmac.compare_digest(given.encode(), known.encode()) and known) or connection is None:
        raise no_such_connection()
    try:
        text.decode()
    except UnicodeDecodeError:
        raise CommandError(ErrorCode.BAD_REQUEST, "the command is not UTF-8") from None
    return await connection.answer(text)


async def _identified(engine: Engine, head: Head, peer: Peer, query: Query) -> Identity:
    identity = await identify(engine, head, peer, query=query)
    if identity is None:
        raise CommandError(ErrorCode.AUTH_REQUIRED, "log in first")
    return identity


# -- at the front door ---------------------------------------------------------------------------------------


async def poll_request(engine: Engine, stream: Stream, request: Request, peer: Peer) -> bool:
    """Serve ``GET /poll``; whether the connection can be used for another request."""
    query = request.query()

    async def work() -> Any:
        with _counted(engine, stream, peer):
            return await answer_poll(engine, request, peer, query)

    return await _respond(engine, stream, request, peer, work)


async def state_request(engine: Engine, stream: Stream, request: Request, peer: Peer, binding: Binding) -> bool:
    """Serve a route of the transport ``state``; whether the connection can be used for another request."""
    query = request.query()

    async def work() -> Any:
        with _counted(engine, stream, peer):
            return await answer_state(engine, request, peer, query, binding)

    return await _respond(engine, stream, request, peer, work)


def _counted(engine: Engine, stream: Stream, peer: Peer) -> AbstractContextManager[None]:
    """Counts what waits by its address, where the connection is a proxy's, which is not counted."""
    return nullcontext() if peer.address == stream.address else engine.admission.counted(peer.address)


async def command_request(engine: Engine, stream: Stream, request: Request, peer: Peer) -> bool:
    """Serve ``POST /sse/{connection}``; whether the connection can be used for another request."""
    try:
        allowed_origin(engine, request, peer)
        text = await receive_body(
            stream,
            request,
            most=engine.settings.max_message_bytes,
            seconds=engine.settings.request_timeout_seconds,
        )
    except CommandError as error:
        # The body was not read, so where the next request starts is not known.
        engine.turn_away("sse_command", peer.address, error)
        await stream.send_all(error_response(error))
        return False
    name = request.path.removeprefix("/sse/")
    return await _respond(engine, stream, request, peer, lambda: answer_command(engine, name, request, text))


async def preflight_request(engine: Engine, stream: Stream, request: Request, peer: Peer) -> bool:
    """Tell a browser what a page may send; whether the connection can be used for another request."""
    try:
        origin = allowed_origin(engine, request, peer)
    except CommandError as error:
        engine.turn_away("origin", peer.address, error)
        await stream.send_all(error_response(error))
        return False
    keep_alive = request.keep_alive and request.length == 0
    await stream.send(json_response(200, {}, keep_alive=keep_alive, headers=preflight_headers(origin)))
    return keep_alive


async def _respond(engine: Engine, stream: Stream, request: Request, peer: Peer, work: Work) -> bool:
    """Answer with what comes of ``work``, unless the peer hangs up first; whether another request may follow."""
    answer: Answer | None = None

    async def do_work() -> None:
        nonlocal answer
        answer = await answer_to(engine, request, peer, request.path, work)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(do_work)
        await stream.wait_hang_up()
        nursery.cancel_scope.cancel()
    if answer is None:
        return False
    keep_alive = request.keep_alive and (request.method == "POST" or request.length == 0)
    if engine.admission.is_shut_out(peer.address):
        keep_alive = False  # the next attempt needs another connection, and does not get it
    await stream.send(json_response(answer.status, answer.body, keep_alive=keep_alive, headers=answer.headers))
    return keep_alive
