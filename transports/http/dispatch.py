"""From a request of Quart's to an endpoint's function, and back.

Whatever goes wrong is answered as the error JSON of every other transport.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from urllib.parse import quote

import msgspec
import structlog
from quart import Blueprint, Response, g, request
from werkzeug.exceptions import MethodNotAllowed, RequestEntityTooLarge, RequestTimeout
from werkzeug.routing import BaseConverter

from realtime.audit import AuditEvent
from realtime.auth import Right
from realtime.engine import Engine
from realtime.errors import CommandError, ErrorCode
from transports.body import check_depth
from transports.credentials import HeaderMap, allowed_origin, check_right, cors_headers, preflight_headers
from transports.http.endpoints import JSON, Access, Answer, Endpoint
from transports.proxies import Peer, TrustedProxies
from transports.responses import as_line, error_body, error_headers, status_of

__all__ = ["MAX_BODY_BYTES", "add_endpoints", "end_if_unread", "error_answer", "failure_answer"]

log = structlog.get_logger("realtime")

#: A thousand messages of a usual size; more of them are more requests.
MAX_BODY_BYTES = 8 << 20

#: What is asked of a caller, by how far an endpoint is open.
_RIGHTS = {
    Access.READER: Right.READ,
    Access.PUBLISHER: Right.PUBLISH,
    Access.ISSUER: Right.TICKETS,
    Access.ADMIN: Right.ADMIN,
}
#: The codes of a caller whose credentials, if it shows any, are good.
_NO_RIGHT = frozenset({ErrorCode.AUTH_REQUIRED, ErrorCode.PERMISSION_DENIED})
#: Rare enough, and grave enough, to be written down one by one.
_RECORDED = frozenset({Access.ISSUER, Access.ADMIN})

View = Callable[..., Awaitable[Response]]


class _User(BaseConverter):
    """A user's name in a path: whoever issues tokens may give it slashes, and whatever else."""

    regex = "(?s:.+?)"
    part_isolating = False


def add_endpoints(engine: Engine, blueprint: Blueprint, endpoints: Iterable[Endpoint]) -> None:
    """Have the blueprint serve these endpoints."""
    blueprint.record(lambda state: state.app.url_map.converters.update(realtime_user=_User))
    blueprint.after_request(end_if_unread)
    proxies = TrustedProxies(engine.settings.trusted_proxies, header=engine.settings.forwarded_header)
    every = list(endpoints)
    for endpoint in every:
        blueprint.add_url_rule(
            re.sub(r"{(\w+)}", _rule, endpoint.path),
            endpoint.name,
            _view(engine, proxies, endpoint),
            methods=[endpoint.method],
            merge_slashes=False,
            provide_automatic_options=False,
        )
    for number, path in enumerate(sorted({endpoint.path for endpoint in every if endpoint.function is not None})):
        methods = sorted({endpoint.method for endpoint in every if endpoint.path == path})
        blueprint.add_url_rule(
            re.sub(r"{(\w+)}", _rule, path),
            f"preflight_{number}",
            _preflight(engine, proxies, methods),
            methods=["OPTIONS"],
            merge_slashes=False,
            provide_automatic_options=False,
        )


def _rule(parameter: re.Match[str]) -> str:
    name = parameter[1]
    return "<realtime_user:user>" if name == "user" else f"<{name}>"


def error_answer(error: CommandError, *, status: int | None = None, trace_id: str | None = None) -> Response:
    """The response that tells an error."""
    return Response(
        error_body(error, trace_id),
        status or status_of(error),
        content_type=JSON,
        headers={**error_headers(error), "Cache-Control": "no-store"},
    )


def failure_answer(path: str, error: Exception) -> Response:
    """The response to a request that ran into a bug: its sender is told, the log has the rest."""
    trace_id = secrets.token_hex(8)
    log.error("request failed", path=quote(path), trace_id=trace_id, exc_info=error)
    return error_answer(CommandError(ErrorCode.INTERNAL_ERROR, "the server failed to do this"), trace_id=trace_id)


def _view(engine: Engine, proxies: TrustedProxies, endpoint: Endpoint) -> View:
    function = endpoint.function
    if function is None:
        return _elsewhere(endpoint)
    decoder = None if endpoint.body is None else msgspec.json.Decoder(endpoint.body)

    async def work(arguments: dict[str, Any]) -> Response:
        try:
            caller = await _check_access(engine, proxies, endpoint.access)
            if endpoint.query is not None:
                arguments["query"] = _read_query(endpoint.query)
            if decoder is not None:
                text = await _read_body()
                arguments["body"] = _decode(decoder, text)
                check_depth(text, engine.settings.max_json_depth)
            answer = await function(engine, **arguments)
            if endpoint.access in _RECORDED:
                _record(engine, endpoint, caller, arguments)
            return _respond(endpoint, answer)
        except CommandError as error:
            return error_answer(error)
        except Exception as error:  # noqa: BLE001 - told and logged
            return failure_answer(request.path, error)

    async def serve(**arguments: Any) -> Response:
        if endpoint.access is Access.ANYONE:
            return await work(arguments)
        head = HeaderMap(request.headers)
        peer = _peer(proxies)
        if "realtime.peer" not in request.scope and (error := engine.admission.shut_out(peer.address)):
            return error_answer(error)
        try:
            headers = cors_headers(allowed_origin(engine, head, peer))
        except CommandError as error:
            engine.turn_away("origin", peer.address, error, transport="http")
            return error_answer(error)
        response = await work(arguments)
        response.headers.update(headers)
        if engine.admission.is_shut_out(peer.address):
            response.headers["Connection"] = "close"  # the next attempt needs another one, and does not get it
        return response

    return serve


def _preflight(engine: Engine, proxies: TrustedProxies, methods: list[str]) -> View:
    """What a browser is told before it lets a page of another origin call an endpoint."""

    async def preflight(**_arguments: object) -> Response:
        peer = _peer(proxies)
        try:
            origin = allowed_origin(engine, HeaderMap(request.headers), peer)
        except CommandError as error:
            engine.turn_away("origin", peer.address, error, transport="http")
            return error_answer(error)
        allowed = {"Allow": ", ".join(["HEAD", "OPTIONS", *methods] if "GET" in methods else ["OPTIONS", *methods])}
        return Response(b"", headers={**allowed, **preflight_headers(origin, methods=", ".join(methods))})

    return preflight


def _peer(proxies: TrustedProxies) -> Peer:
    """Who asks, as the front door has seen it, or where there is none as it looks from here."""
    seen = request.scope.get("realtime.peer")
    if isinstance(seen, Peer):
        return seen
    return proxies.see(request.remote_addr or "", HeaderMap(request.headers), secure=request.scheme == "https")


def _elsewhere(endpoint: Endpoint) -> View:
    """For what the front door has not taken because it is no such request: ``HEAD``, for one."""

    async def refuse(**_arguments: object) -> Response:
        raise MethodNotAllowed([endpoint.method])

    return refuse


async def _check_access(engine: Engine, proxies: TrustedProxies, access: Access) -> str:
    """Who asks, if it has the right to. Raises `CommandError`."""
    right = _RIGHTS.get(access)
    if right is None:
        return "anybody"
    head = HeaderMap(request.headers)
    try:
        return await check_right(engine, head, right)
    except CommandError as error:
        # In development everybody may read; yet who shows a wrong key is told that it is wrong.
        if access is Access.READER and engine.settings.dev and error.code in _NO_RIGHT:
            return "anybody"
        engine.turn_away("api", _peer(proxies).address, error, transport="http")
        raise


def _record(engine: Engine, endpoint: Endpoint, caller: str, arguments: dict[str, Any]) -> None:
    """Have the audit log know who did what, to whom."""
    body = arguments.get("body")
    engine.audit.record(
        AuditEvent.OPERATOR,
        key=caller,
        reason=endpoint.name,
        user=arguments.get("user") or getattr(body, "user", None),
        topic=arguments.get("topic") or getattr(body, "topic", None),
    )


def _read_query(model: Any) -> Any:
    given = list(request.args.items(multi=True))
    members = dict(given)
    if len(members) < len(given):
        raise CommandError(ErrorCode.BAD_REQUEST, "the query has a parameter twice")
    try:
        return msgspec.convert(members, model, strict=False)
    except msgspec.ValidationError as error:
        raise CommandError(ErrorCode.BAD_REQUEST, f"the query is not valid: {error}") from None


async def _read_body() -> bytes:
    """The body, whatever its type is said to be: no browser sends an API key of its own accord."""
    try:
        text = await request.get_data(cache=False)
    except RequestEntityTooLarge:
        raise CommandError(ErrorCode.PAYLOAD_TOO_LARGE, f"a body has at most {MAX_BODY_BYTES} bytes here") from None
    except RequestTimeout:
        raise CommandError(ErrorCode.BAD_REQUEST, "the body did not come in time") from None
    assert isinstance(text, bytes)
    g.body_read = True
    if len(text) > MAX_BODY_BYTES:
        raise CommandError(ErrorCode.PAYLOAD_TOO_LARGE, f"a body has at most {MAX_BODY_BYTES} bytes here")
    return text


def _decode(decoder: msgspec.json.Decoder[Any], text: bytes) -> Any:
    try:
        text.decode()  # what becomes `msgspec.Raw` is not looked at more closely than JSON demands
        return decoder.decode(text or b"{}")
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError) as error:
        raise CommandError(ErrorCode.BAD_REQUEST, f"the body is not valid: {error}") from None


async def end_if_unread(response: Response) -> Response:
    """Let no other request follow a body that nobody has read: where it would start is not known."""
    if "body_read" not in g and (request.content_length or "Transfer-Encoding" in request.headers):
        response.headers["Connection"] = "close"
    return response


def _respond(endpoint: Endpoint, answer: object) -> Response:
    status = endpoint.statuses[0]
    if isinstance(answer, Answer):
        status, answer = answer.status, answer.body
    headers = {"Cache-Control": "no-store"}
    if answer is None:
        response = Response(b"", status, headers=headers)
        del response.headers["Content-Type"]
        return response
    body = answer if isinstance(answer, bytes) else as_line(msgspec.json.encode(answer))
    return Response(body, status, content_type=endpoint.media, headers=headers)
