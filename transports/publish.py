"""``POST /api/v1/publish``: a back end's hot path, answered by the front door itself.

A request through the web framework costs about a millisecond, most of it in objects that a publish never looks
at. Here it is a head that was parsed before, one JSON decoding and a call of the publisher.
"""

from __future__ import annotations

import msgspec

from realtime.engine import Engine
from realtime.errors import CommandError, ErrorCode
from realtime.messages import EventName, MessageKey, TopicName
from transports.credentials import has_api_key
from transports.head import Request, read_body
from transports.responses import error_response, json_response
from transports.stream import Stream

__all__ = ["publish_request"]

#: Room for the names around the payload.
_ENVELOPE_BYTES = 4096


class _Body(msgspec.Struct, frozen=True):
    topic: TopicName
    data: msgspec.Raw
    event: EventName | None = None
    key: MessageKey | None = None


_decoder = msgspec.json.Decoder(_Body)


async def publish_request(engine: Engine, stream: Stream, request: Request) -> bool:
    """Serve one request; whether the connection can be used for another."""
    try:
        body = await _read(engine, stream, request)
    except CommandError as error:
        # The body was not read, so where the next request starts is not known.
        await stream.send_all(error_response(error))
        return False
    try:
        position = engine.publisher.publish_json_nowait(body.topic, body.data, body.event, body.key)
        if position is None:
            position = await engine.publisher.publish_json(body.topic, body.data, body.event, body.key)
        answer = json_response(200, {"epoch": position.epoch, "offset": position.offset}, keep_alive=request.keep_alive)
    except CommandError as error:
        answer = error_response(error, keep_alive=request.keep_alive)
    if stream.busy:
        await stream.send_all(answer)
    elif not stream.write_nowait(answer):
        await stream.drain()
    return request.keep_alive


async def _read(engine: Engine, stream: Stream, request: Request) -> _Body:
    if not has_api_key(engine, request):
        raise CommandError(ErrorCode.AUTH_REQUIRED, "publishing over HTTP needs an API key")
    if request.length is None:
        raise CommandError(ErrorCode.BAD_REQUEST, "a publish has a Content-Length")
    if request.length > engine.settings.max_message_bytes + _ENVELOPE_BYTES:
        most = engine.settings.max_message_bytes
        raise CommandError(ErrorCode.PAYLOAD_TOO_LARGE, f"a message has at most {most} bytes")
    if request.has_token(b"expect", "100-continue"):
        await stream.send_all(b"HTTP/1.1 100 Continue\r\n\r\n")
    text = await read_body(stream, request.length, timeout=engine.settings.request_timeout_seconds)
    if text is None:
        raise CommandError(ErrorCode.BAD_REQUEST, "the body did not come in time")
    try:
        text.decode()
        return _decoder.decode(text)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError) as error:
        raise CommandError(ErrorCode.BAD_REQUEST, f"the body is not a publish: {error}") from None
