"""Links over the network for `realtime.client`: by WebSocket, and by Server-Sent Events where that cannot be had."""

from __future__ import annotations

import ssl
from collections.abc import Sequence

from realtime.errors import ConfigurationError
from realtime.link import Dialer
from transports.links.address import Address
from transports.links.sse import SseDialer
from transports.links.websocket import WebSocketDialer

__all__ = ["SseDialer", "WebSocketDialer", "dialers_to"]

_DIALERS: dict[str, type[WebSocketDialer | SseDialer]] = {"websocket": WebSocketDialer, "sse": SseDialer}


def dialers_to(url: str, transports: Sequence[str], *, ssl_context: ssl.SSLContext | None = None) -> list[Dialer]:
    """The ways to a server, in this order. Raises `ConfigurationError`."""
    unknown = [name for name in transports if name not in _DIALERS]
    if unknown or not transports:
        raise ConfigurationError(f"transports is one or more of {', '.join(_DIALERS)}")
    address = Address.of(url, ssl_context)
    return [_DIALERS[name](address) for name in transports]
