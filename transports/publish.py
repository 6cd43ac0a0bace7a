"""``POST /api/v1/publish``: a back end's hot path, answered by the front door itself.

A request through the web framework costs about a millisecond, most of it in objects that a publish never looks
at. Here it is a head that was parsed before, one JSON decoding and a call of the publisher.
"""

from __future__ import annotations

import msgspec

from realtime.auth import Right
from realtime.engine import Engine
from realtime.errors import CommandError, ErrorCode
from realtime.messages import PublishBody
from realtime.publishing import draft_of
from transports.body import check_depth, receive_body
from transports.credentials import allowed_origin, check_right, cors_headers
from transports.head import Request
from transports.proxies import Peer
from transports.responses import error_response, json_response
from transports.stream import Stream

__all__ = ["publish_request"]

#: Room for the names around the payload.
_ENVELOPE_BYTES = 4096


_decoder = msgspec.json.Decoder(PublishBody)


async def publish_request(engine: Engine, stream: Stream, request: Request, peer: Peer) -> bool:
    """Serve one request; whether the connection can be used for another."""
    origin, reason = None, "origin"
    try:
        if request.header(b"origin") is not None:  # a page; no back end says so
            origin = allowed_origin(engine, request, peer)
        reason = "api"
        await check_right(engine, request, Right.PUBLISH)
        reason = ""
        body = await _read(engine, stream, request)
    except CommandError as error:
        if reason:  # what a back end does wrong that has the right to be here is held against nobody
            engine.turn_away(reason, peer.address, error)
        # The body was not read, so where the next request starts is not known.
        await stream.send_all(error_response(error, headers=cors_headers(origin)))
        return False
    try:
        draft = draft_of(body)
        receipt = engine.publisher.publish_json_nowait(body.topic, draft)
        if receipt is None:
            receipt = await engine.publisher.publish_json(body.topic, draft)
        answer = json_response(200, receipt, keep_alive=request.keep_alive, headers=cors_headers(origin))
    except CommandError as error:
        answer = error_response(error, keep_alive=request.keep_alive, headers=cors_headers(origin))
    await stream.send(answer)
    return request.keep_alive


async def _read(engine: Engine, stream: Stream, request: Request) -> PublishBody:
    text = await receive_body(
        stream,
        request,
        most=engine.settings.max_message_bytes + _ENVELOPE_BYTES,
        seconds=engine.settings.request_timeout_seconds,
    )
    try:
        text.decode()
        body = _decoder.decode(text)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError) as error:
        raise CommandError(ErrorCode.BAD_REQUEST, f"the body is not a publish: {error}") from None
    check_depth(text, engine.settings.max_json_depth)
    return body
