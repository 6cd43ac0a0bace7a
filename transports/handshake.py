"""The opening handshake of a WebSocket (RFC 6455, section 4). Pure.

A request that is in order in every point is answered by us. Any other is for trio-websocket to refuse.
"""

from __future__ import annotations

import base64
import binascii
import hashlib

from transports.head import Request

__all__ = ["accept_response", "is_regular", "offered_subprotocols"]

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY_BYTES = 16
_ONCE = (b"sec-websocket-key", b"sec-websocket-version", b"upgrade")


def is_regular(request: Request) -> bool:
    """Whether there is nothing to object to. No extension is ever agreed on, so none is looked at."""
    names = [name for name, _ in request.headers]
    if any(names.count(name) != 1 for name in _ONCE):
        return False
    key = request.header(b"sec-websocket-key") or ""
    try:
        nonce = base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError):
        return False
    return (
        len(nonce) == _KEY_BYTES
        and request.method == "GET"
        and request.version == b"1.1"
        and request.length == 0
        and request.header(b"sec-websocket-version") == "13"
    )


def offered_subprotocols(request: Request) -> list[str]:
    """What the client offers, best first."""
    return [
        part.strip()
        for name, value in request.headers
        if name == b"sec-websocket-protocol"
        for part in value.decode("latin-1").split(",")
    ]


def accept_response(request: Request, subprotocol: str | None) -> bytes:
    """The bytes that accept a regular request."""
    key = (request.header(b"sec-websocket-key") or "").encode()
    # Not a matter of secrecy: the protocol's own way to tell that this is no cached answer.
    digest = base64.b64encode(hashlib.sha1(key + _GUID).digest())  # noqa: S324
    chosen = b"" if subprotocol is None else b"Sec-WebSocket-Protocol: %b\r\n" % subprotocol.encode()
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %b\r\n%b\r\n" % (digest, chosen)
    )
