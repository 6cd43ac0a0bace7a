"""Whole HTTP responses that we write ourselves, and the statuses of the error codes."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import Any

import msgspec

from realtime.errors import CommandError, ErrorCode
from realtime.messages import encode

__all__ = [
    "STATUS",
    "UPGRADE_HEADERS",
    "UPGRADE_STATUS",
    "as_line",
    "error_body",
    "error_headers",
    "error_response",
    "json_response",
    "retry_header",
    "status_of",
    "upgrade_required",
]

#: The HTTP status for each error code.
STATUS = {
    ErrorCode.BAD_REQUEST: 400,
    ErrorCode.UNKNOWN_TYPE: 400,
    ErrorCode.INVALID_TOPIC: 400,
    ErrorCode.INVALID_SYMBOL: 400,
    ErrorCode.AUTH_REQUIRED: 401,
    ErrorCode.AUTH_FAILED: 401,
    ErrorCode.TOKEN_EXPIRED: 401,
    ErrorCode.PERMISSION_DENIED: 403,
    ErrorCode.ROOM_NOT_FOUND: 404,
    ErrorCode.SESSION_NOT_FOUND: 404,
    ErrorCode.CONNECTION_NOT_FOUND: 404,
    ErrorCode.UNKNOWN_ACTION: 404,
    ErrorCode.ALREADY_SUBSCRIBED: 409,
    ErrorCode.NOT_SUBSCRIBED: 409,
    ErrorCode.SUBSCRIPTION_FAILED: 409,
    ErrorCode.PAYLOAD_TOO_LARGE: 413,
    ErrorCode.LIMIT_EXCEEDED: 429,
    ErrorCode.RATE_LIMIT_EXCEEDED: 429,
    ErrorCode.INTERNAL_ERROR: 500,
    ErrorCode.UNAVAILABLE: 503,
    ErrorCode.TIMEOUT: 504,
}
UPGRADE_STATUS = HTTPStatus.UPGRADE_REQUIRED
UPGRADE_HEADERS = {"Upgrade": "websocket", "Connection": "Upgrade"}


def as_line(text: bytes) -> bytes:
    """JSON text as a whole body: it ends as a line does, so that no prompt sticks to what curl has printed."""
    return text + b"\n"


def json_response(status: int, body: Any, *, keep_alive: bool = False, headers: dict[str, str] | None = None) -> bytes:
    """The bytes of a response with a JSON body; bytes are one already."""
    text = body if isinstance(body, bytes) else as_line(msgspec.json.encode(body))
    extra = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
        "X-Content-Type-Options: nosniff\r\n"
        f"Content-Length: {len(text)}\r\nConnection: {'keep-alive' if keep_alive else 'close'}\r\n{extra}\r\n"
    )
    return head.encode("latin-1") + text


def status_of(error: CommandError) -> int:
    """The HTTP status for an error."""
    return STATUS[error.code]


def error_body(error: CommandError, trace_id: str | None = None) -> bytes:
    """The JSON text that tells an error, in the same shape as on every other transport."""
    told = {
        "type": "error",
        "code": error.code,
        "message": error.message,
        "retry_after": error.retry_after,
        "trace_id": trace_id,
    }
    return as_line(encode(told))


def upgrade_required() -> CommandError:
    """What who does not ask for a WebSocket is told where there is one; with `UPGRADE_STATUS` and `UPGRADE_HEADERS`."""
    missing = "this path is for WebSocket, and the request has no `Upgrade`: does a proxy in between leave it out?"
    return CommandError(ErrorCode.BAD_REQUEST, missing)


def retry_header(seconds: float) -> dict[str, str]:
    """What tells when to come back; rounded up, so that who obeys is not refused."""
    return {"Retry-After": str(max(1, math.ceil(seconds)))}


def error_headers(error: CommandError) -> dict[str, str]:
    """The headers that go with an error."""
    headers = {}
    if error.retry_after is not None:
        headers.update(retry_header(error.retry_after))
    if status_of(error) == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return headers


def error_response(
    error: CommandError,
    *,
    status: int | None = None,
    keep_alive: bool = False,
    headers: dict[str, str] | None = None,
    trace_id: str | None = None,
) -> bytes:
    """The bytes of a response that tells an error."""
    every = {**error_headers(error), **(headers or {})}
    return json_response(status or status_of(error), error_body(error, trace_id), keep_alive=keep_alive, headers=every)
