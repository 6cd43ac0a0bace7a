"""A client over the network: the only module of `realtime.client` that knows `transports`."""

from __future__ import annotations

import random as chance
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from realtime.client.client import Client, open_client
from realtime.client.tokens import Token
from transports.links import dialers_to

if TYPE_CHECKING:
    import ssl

__all__ = ["connect"]


def connect(
    url: str,
    *,
    token: Token = None,
    transports: Sequence[str] = ("websocket", "sse"),
    min_delay_seconds: float = 3.0,
    max_delay_seconds: float = 30.0,
    tries: int | None = None,
    connect_timeout_seconds: float = 10.0,
    ssl_context: ssl.SSLContext | None = None,
    random: Callable[[], float] = chance.random,
) -> AbstractAsyncContextManager[Client]:
    """A client of the server at ``url``, for the length of a block.

    The block begins at once. The client connects by itself, and again whenever it has to: after a random time, at most
    ``min_delay_seconds`` at first and doubled with each failure up to ``max_delay_seconds``; later where the server
    says so. ``tries`` failures in a row end it; without that it goes on for ever. It takes the first of ``transports``
    that leads to the server, and keeps it.

    ``token`` is a token or a ticket; or a function, plain or async, that takes a `TokenReason` and gives one. The
    function is asked for each connection, and before the login of a live one expires. It may raise `TokenUnavailable`
    or ``OSError`` to be asked again later; all else that it raises ends the block.

    The block ends with `ClientFailed` when the server does not want this client, its token is no good, or ``tries``
    are used up. Its end closes the connection. Raises `ConfigurationError` for a URL or ways that cannot be taken.
    """
    return open_client(
        dialers_to(url, transports, ssl_context=ssl_context),
        token=token,
        min_delay_seconds=min_delay_seconds,
        max_delay_seconds=max_delay_seconds,
        tries=tries,
        connect_timeout_seconds=connect_timeout_seconds,
        random=random,
    )
