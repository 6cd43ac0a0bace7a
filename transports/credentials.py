"""Who sends a request: the credentials in its head, and the web page behind it."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from typing import Protocol
from urllib.parse import urlsplit

from realtime.auth import ANONYMOUS, Identity
from realtime.engine import Engine
from realtime.errors import CommandError, ErrorCode

__all__ = ["SUBPROTOCOL", "Head", "HeaderMap", "allowed_origin", "cors_headers", "has_api_key", "identify"]

SUBPROTOCOL = "realtime.v1"
_BEARER_SUBPROTOCOL = "bearer."


class Head(Protocol):
    """A request's head, as far as it is looked at here."""

    def header(self, name: bytes) -> str | None:
        """The value of a header by its name in lower case."""
        ...


class Gettable(Protocol):
    """Headers as web frameworks hold them: looked up without regard to case."""

    def get(self, key: str, /) -> str | None:
        """The value of a header."""
        ...


class HeaderMap:
    """The headers of a request that a web framework holds, as a `Head`."""

    def __init__(self, headers: Gettable) -> None:
        self._headers = headers

    def header(self, name: bytes) -> str | None:
        """See `Head`."""
        return self._headers.get(name.decode())


def _bearer(request: Head) -> str | None:
    value = request.header(b"authorization")
    if value is None:
        return None
    scheme, _, token = value.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


async def identify(engine: Engine, request: Head, subprotocols: Iterable[str] = ()) -> Identity | None:
    """The user behind a request; None where it brings no credentials and anonymous peers are not served.

    Raises `CommandError` for credentials that are no good: they are never taken for none.
    """
    token = _bearer(request)
    if token is None:
        offered = [name for name in subprotocols if name.startswith(_BEARER_SUBPROTOCOL)]
        token = offered[0].removeprefix(_BEARER_SUBPROTOCOL) if offered else None
    if token is not None:
        return await engine.authenticate(token)
    return ANONYMOUS if engine.settings.anonymous else None


def has_api_key(engine: Engine, request: Head) -> bool:
    """Whether the request carries one of the configured keys."""
    key = request.header(b"x-api-key") or _bearer(request) or ""
    given = key.encode()
    found = False
    for known in engine.settings.api_keys:
        # All are compared, each in constant time: the answer's delay tells nothing of a key.
        found |= hmac.compare_digest(given, known.encode())
    return found


def allowed_origin(engine: Engine, request: Head, *, tls: bool) -> str | None:
    """The origin of the page behind the request, if it may be here; None for a request that is not from a page.

    Raises `CommandError` for a page from elsewhere: its user's cookies must not open anything for it.
    """
    origin = request.header(b"origin")
    if origin is None:
        return None
    allowed = engine.settings.origins
    if "*" in allowed or origin in allowed:
        return origin
    own = f"{'https' if tls else 'http'}://{request.header(b'host') or ''}"
    if _normal(origin) == _normal(own):
        return origin
    raise CommandError(ErrorCode.PERMISSION_DENIED, "this origin is not allowed")


def _normal(origin: str) -> tuple[str, str | None, int | None]:
    try:
        parts = urlsplit(origin)
        return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return "", None, None


def cors_headers(origin: str | None) -> dict[str, str]:
    """What lets a page of this origin read a response."""
    if origin is None:
        return {}
    return {"Access-Control-Allow-Origin": origin, "Access-Control-Allow-Credentials": "true", "Vary": "Origin"}
