"""Where a server is, and how its refusals are read: what all links over the network share."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from http import HTTPStatus
from urllib.parse import quote, urlsplit

import msgspec
from attrs import frozen

from realtime.errors import CommandError, ConfigurationError, ErrorCode
from realtime.link import Credentials, LinkBlocked, LinkRefused, retry_seconds
from transports.retrying import retry_after

__all__ = ["MAX_MESSAGE_BYTES", "Address", "authorization", "refusal"]

#: Far above any page of history or batch of replies.
MAX_MESSAGE_BYTES = 16 << 20
#: What a proxy answers whose server is not there: the way is right.
_OUTAGES = {
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
}
#: What may stand in a path as it is; what is quoted already stays so.
_PATH_SIGNS = "/%:@!$&'()*+,;=~"
_HOST = re.compile(r"[A-Za-z0-9._~%:-]+")


class _Told(msgspec.Struct, tag_field="type", tag="error"):
    """An error, as the server writes it."""

    code: ErrorCode
    message: str = ""
    retry_after: float | None = None
    trace_id: str | None = None


@frozen
class Address:
    """A server, as its URL says."""

    host: str
    port: int
    #: What stands before all paths, as it is written in a request; without a slash at its end.
    prefix: str
    #: None: without TLS.
    tls: ssl.SSLContext | None

    @classmethod
    def of(cls, url: str, ssl_context: ssl.SSLContext | None) -> Address:
        """Raises `ConfigurationError`."""
        try:
            parts = urlsplit(url)
            host, port = _ascii_host(parts.hostname or ""), parts.port
            prefix = quote(parts.path.rstrip("/"), safe=_PATH_SIGNS)
        except ValueError:  # also that of a name which has no ASCII form, or of half a surrogate pair
            parts, host, port, prefix = urlsplit(""), "", None, ""
        if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment or parts.username:
            raise ConfigurationError(
                "url must be that of a server, as in https://rt.example.com or http://127.0.0.1:8000"
            )
        tls = None
        if parts.scheme == "https":
            tls = ssl_context or ssl.create_default_context()
        return cls(host, port or (443 if tls else 80), prefix, tls)

    @property
    def authority(self) -> str:
        """Host and port, as in a URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    def target(self, path: str, credentials: Credentials) -> str:
        """A path on the server, with the cursor."""
        query = f"?cursor={quote(credentials.cursor, safe='')}" if credentials.cursor else ""
        return f"{self.prefix}{path}{query}"


def _ascii_host(name: str) -> str:
    """A host as it is looked up and written in a request. Raises `ValueError`."""
    host = name if ":" in name else name.encode("idna").decode()
    if not _HOST.fullmatch(host):
        raise ValueError("no name of a host")
    return host


def authorization(credentials: Credentials) -> dict[str, str]:
    """The header that shows the token. Raises `LinkRefused` for one that fits in none."""
    token = credentials.token
    if token is None:
        return {}
    # Looked at before a library does, whose complaint would show it.
    if not (token.isascii() and token.isprintable() and token.strip() == token != ""):
        error = CommandError(ErrorCode.AUTH_FAILED, "a token is printable ASCII text with no blanks around it")
        raise LinkRefused(error, login=True)
    return {"Authorization": f"Bearer {token}"}


def refusal(status: int, headers: Mapping[str, str], body: bytes) -> LinkBlocked | LinkRefused:
    """What an answer means that is not the one which was hoped for; ``headers`` with names in lower case."""
    wait = retry_seconds(retry_after(headers))
    try:
        told = msgspec.json.decode(body, type=_Told)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        if status in _OUTAGES:
            return LinkRefused(CommandError(ErrorCode.UNAVAILABLE, f"answered with status {status}", retry_after=wait))
        return LinkBlocked(f"answered with status {status}")
    if told.retry_after is not None:
        wait = retry_seconds(told.retry_after)
    error = CommandError(told.code, told.message, retry_after=wait)
    error.trace_id = told.trace_id
    return LinkRefused(error, login=status == HTTPStatus.UNAUTHORIZED)
