"""The bodies of those requests that the front door answers itself."""

from __future__ import annotations

import trio

from realtime.errors import CommandError, ErrorCode
from realtime.json_depth import exceeds_depth
from transports.head import Request
from transports.stream import Stream

__all__ = ["check_depth", "check_length", "receive_body"]


def check_length(length: int | None, most: int) -> None:
    """Raise `CommandError` for a body whose length is not told, or too big; before any of it is read."""
    if length is None:
        raise CommandError(ErrorCode.BAD_REQUEST, "the request needs a Content-Length")
    if length > most:
        raise CommandError(ErrorCode.PAYLOAD_TOO_LARGE, f"a body has at most {most} bytes here")


def check_depth(text: bytes, most: int) -> None:
    """Raise `CommandError` for JSON that is nested too deeply for those who will read it."""
    if exceeds_depth(text, most):
        raise CommandError(ErrorCode.BAD_REQUEST, f"at most {most} levels are nested")


async def receive_body(stream: Stream, request: Request, *, most: int, seconds: float) -> bytes:
    """The body of a request. Raises `CommandError`, and `WireError`.

    Where it raises, the body was not read to its end: where the next request starts is not known.
    """
    check_length(request.length, most)
    assert request.length is not None  # just checked
    if request.has_token(b"expect", "100-continue"):
        await stream.send_all(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = b""
    with trio.move_on_after(seconds):
        while len(body) < request.length:
            data = await stream.receive_some()
            if not data:
                break
            body += data
    if len(body) < request.length:
        raise CommandError(ErrorCode.BAD_REQUEST, "the body did not come in time")
    if len(body) > request.length:
        stream.unread(body[request.length :])
    return body[: request.length]
