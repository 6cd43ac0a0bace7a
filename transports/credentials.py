"""Who sends a request: the credentials in its head, and the web page behind it.

Credentials are looked for in this order, and the first found counts, good or bad: ``Authorization``, the cookie, the
subprotocol of a WebSocket, a ticket in the query, a token in the query.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Protocol
from urllib.parse import urlsplit

from realtime.admission import Foreign
from realtime.auth import ANONYMOUS, Carrier, Identity, Right
from realtime.engine import Engine
from realtime.errors import CommandError, ErrorCode
from transports.cookies import cookie_value, from_own_page
from transports.proxies import Peer

__all__ = [
    "SUBPROTOCOL",
    "Head",
    "HeaderMap",
    "allowed_origin",
    "check_right",
    "cors_headers",
    "identify",
    "preflight_headers",
]

SUBPROTOCOL = "realtime.v1"
_BEARER_SUBPROTOCOL = "bearer."
#: A scheme and a host, maybe with a port, and nothing more.
_ORIGIN = re.compile(r"[a-z]+://[^/?#@\s]+")
#: What is answered to a page of any origin, where every origin may come.
_EVERY_ORIGIN = "*"


class Head(Protocol):
    """A request's head, as far as it is looked at here."""

    def header(self, name: bytes) -> str | None:
        """The value of a header by its name in lower case."""
        ...

    def values(self, name: bytes) -> list[str]:
        """All values of a header, in their order."""
        ...


class Gettable(Protocol):
    """Headers as web frameworks hold them: looked up without regard to case."""

    def get(self, key: str, /) -> str | None:
        """The value of a header."""
        ...

    def getlist(self, key: str, /) -> list[str]:
        """All values of a header."""
        ...


class HeaderMap:
    """The headers of a request that a web framework holds, as a `Head`."""

    def __init__(self, headers: Gettable) -> None:
        self._headers = headers

    def header(self, name: bytes) -> str | None:
        """See `Head`."""
        return self._headers.get(name.decode())

    def values(self, name: bytes) -> list[str]:
        """See `Head`."""
        return self._headers.getlist(name.decode())


async def identify(
    engine: Engine,
    head: Head,
    peer: Peer,
    *,
    subprotocols: Iterable[str] = (),
    query: Iterable[tuple[str, str]] = (),
) -> Identity | None:
    """The user behind a request; None where it brings no credentials and anonymous peers are not served.

    Raises `CommandError` for credentials that are no good: they are never taken for none.
    """
    found = _credential(engine, head, peer, subprotocols, query)
    if found is not None:
        return await engine.log_in(*found)
    return ANONYMOUS if engine.settings.anonymous else None


def _credential(
    engine: Engine, head: Head, peer: Peer, subprotocols: Iterable[str], query: Iterable[tuple[str, str]]
) -> tuple[str, Carrier] | None:
    token = _bearer(head)
    if token is not None:
        return token, Carrier.HEADER
    cookie_name = engine.settings.cookie_name
    if cookie_name is not None and _comes_from_us(engine, head, peer):
        cookie = cookie_value(head.values(b"cookie"), cookie_name)
        if cookie is not None:
            return cookie, Carrier.COOKIE
    for name in subprotocols:
        if name.startswith(_BEARER_SUBPROTOCOL):
            return name.removeprefix(_BEARER_SUBPROTOCOL), Carrier.SUBPROTOCOL
    given = dict(query)
    if "ticket" in given:
        if not engine.tickets.is_ticket(given["ticket"]):
            raise CommandError(ErrorCode.AUTH_FAILED, "this is not a ticket")
        return given["ticket"], Carrier.QUERY
    if "token" in given:
        if not engine.settings.query_tokens:
            raise CommandError(ErrorCode.AUTH_FAILED, "a token in the URL is not taken here; use a ticket")
        return given["token"], Carrier.QUERY
    return None


def _bearer(head: Head) -> str | None:
    value = head.header(b"authorization")
    if value is None:
        return None
    scheme, _, token = value.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _comes_from_us(engine: Engine, head: Head, peer: Peer) -> bool:
    """Whether the page behind the request is one that may use its user's cookies here. Raises `CommandError`.

    A browser sends cookies along whoever asks. So it must say that the page is ours, or one that was named: that
    every origin may come is not enough.
    """
    origin = allowed_origin(engine, head, peer)
    return from_own_page(head) if origin is None else origin != _EVERY_ORIGIN


async def check_right(engine: Engine, head: Head, right: Right) -> str:
    """Who calls the HTTP API, for the log: an API key or a token with this right. Raises `CommandError`."""
    bearer = _bearer(head)
    given = head.header(b"x-api-key") or bearer
    if given is None:
        raise CommandError(ErrorCode.AUTH_REQUIRED, "this needs an API key")
    key = engine.api_keys.find(given)
    if key is not None:
        if not key.may(right):
            raise CommandError(ErrorCode.PERMISSION_DENIED, f"this API key has no right to {right.value}")
        return f"key {key.name}"
    if bearer is None or engine.tickets.is_ticket(bearer):
        raise CommandError(ErrorCode.AUTH_FAILED, "this is not an API key")
    identity = await engine.log_in(bearer, Carrier.HEADER)
    if not identity.rights & {right, Right.ADMIN}:
        raise CommandError(ErrorCode.PERMISSION_DENIED, f"this token has no right to {right.value}")
    return f"user {identity.user}"


def allowed_origin(engine: Engine, head: Head, peer: Peer) -> str | None:
    """The origin of the page behind the request, if it may be here; None for a request that is not from a page.

    A star for one that may be here only because every origin may. Raises `CommandError` for a page from elsewhere:
    its user's cookies must not open anything for it.
    """
    origin = head.header(b"origin")
    if origin is None:
        return None
    allowed = engine.settings.origins
    own = _normal(f"{'https' if peer.secure else 'http'}://{peer.host}")
    if origin in allowed or (own is not None and _normal(origin) == own):
        return origin
    if _EVERY_ORIGIN in allowed:
        return _EVERY_ORIGIN
    raise Foreign(ErrorCode.PERMISSION_DENIED, "this origin is not allowed", detail=origin)


def _normal(origin: str) -> tuple[str, str, int] | None:
    """An origin as it can be compared; None for what is none, which equals nothing."""
    if not _ORIGIN.fullmatch(origin):
        return None
    try:
        parts = urlsplit(origin)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return None
    if not parts.hostname or port is None:
        return None
    return parts.scheme, parts.hostname, port


def cors_headers(origin: str | None) -> dict[str, str]:
    """What lets a page of this origin read a response; cookies only where the origin itself is known."""
    if origin is None:
        return {}
    headers = {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}
    if origin != _EVERY_ORIGIN:
        headers["Access-Control-Allow-Credentials"] = "true"
    return headers


def preflight_headers(origin: str | None, *, methods: str = "GET, POST") -> dict[str, str]:
    """What tells a browser which requests a page of this origin may send."""
    return {
        **cors_headers(origin),
        "Access-Control-Allow-Methods": methods,
        "Access-Control-Allow-Headers": "Authorization, Content-Type, Last-Event-ID, X-API-Key, X-Connection-Secret",
        "Access-Control-Max-Age": "600",
    }
