"""The head of one HTTP/1.1 request: read within bounds, parsed by h11, refused where two readers could differ.

A head that a proxy and we would understand differently is how requests are smuggled: bare line feeds, both
``Content-Length`` and ``Transfer-Encoding``, doubled ``Host`` are refused and not repaired.
"""

from __future__ import annotations

from urllib.parse import parse_qsl, unquote

import h11
import trio
from attrs import field, frozen

from transports.stream import Stream

__all__ = ["BadHead", "HeadReader", "Request"]

_END = b"\r\n\r\n"
_MAX_QUERY_FIELDS = 500


class BadHead(Exception):
    """A head that is not served; ``status`` tells the peer why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@frozen
class Request:
    """What a request asks for, before its body."""

    method: str
    target: str
    path: str
    version: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    #: The bytes of the head as they came.
    raw: bytes = field(repr=False)
    #: Bytes of the body; None: chunked.
    length: int | None
    keep_alive: bool
    _by_name: dict[bytes, bytes] = field(repr=False)

    def header(self, name: bytes) -> str | None:
        """The value of a header by its name in lower case; the first, where there are several."""
        value = self._by_name.get(name)
        return None if value is None else value.decode("latin-1")

    def values(self, name: bytes) -> list[str]:
        """All values of a header by its name in lower case, in their order."""
        return [value.decode("latin-1") for key, value in self.headers if key == name]

    def has_token(self, name: bytes, token: str) -> bool:
        """Whether a header that holds a comma-separated list names ``token``."""
        return any(
            token == part.strip().lower()
            for key, value in self.headers
            if key == name
            for part in value.decode("latin-1").split(",")
        )

    @property
    def wants_websocket(self) -> bool:
        """Whether this asks for an upgrade to WebSocket."""
        return self.has_token(b"upgrade", "websocket") and self.has_token(b"connection", "upgrade")

    def query(self) -> list[tuple[str, str]]:
        """The parameters of the target; raises `BadHead` for a query that has far too many."""
        _, _, text = self.target.partition("?")
        try:
            return parse_qsl(text, keep_blank_values=True, max_num_fields=_MAX_QUERY_FIELDS, errors="strict")
        except (ValueError, UnicodeDecodeError):
            raise BadHead(400, "the query is not valid") from None


class HeadReader:
    """Reads the heads of one connection, one after the other."""

    def __init__(self, stream: Stream, max_bytes: int) -> None:
        self._stream = stream
        self._max_bytes = max_bytes
        self._last: Request | None = None
        #: Whether any byte of the head that is being read has come.
        self.begun = False
        #: How many have been read.
        self.heads = 0

    async def read(self, scope: trio.CancelScope, *, head_seconds: float) -> Request | None:
        """The next request's head; None when there is none: the peer left, or kept silent.

        ``scope`` is the caller's, around this call, with its deadline for the first byte; from there on it is set to
        ``head_seconds``, and `begun` is true. What came behind the head is put back for whoever reads the body.
        Raises `BadHead` and `WireError`.
        """
        self.begun = False
        buffer = await self._stream.receive_some()
        if not buffer:
            return None
        self.begun = True
        scope.deadline = trio.current_time() + head_seconds
        while (end := buffer.find(_END)) < 0:
            self._check_beginning(buffer)
            data = await self._stream.receive_some()
            if not data:
                return None
            buffer += data
        end += len(_END)
        if end > self._max_bytes:
            raise BadHead(431, f"a request head has at most {self._max_bytes} bytes")
        if end < len(buffer):
            self._stream.unread(buffer[end:])
        head = buffer[:end]
        # A back end that keeps its connection sends the same head again and again. Parsing is a pure function of
        # the bytes and costs 60 microseconds, comparing them one.
        if self._last is None or self._last.raw != head:
            self._last = parse_head(head)
        self.heads += 1
        return self._last

    def _check_beginning(self, buffer: bytes) -> None:
        if len(buffer) > self._max_bytes:
            raise BadHead(431, f"a request head has at most {self._max_bytes} bytes")
        if not 65 <= buffer[0] <= 90:  # noqa: PLR2004 - a method starts with A to Z; a TLS hello does not
            raise BadHead(400, "this is not HTTP/1.1")
        if b"\n\n" in buffer:
            raise BadHead(400, "lines end with carriage return and line feed")


def parse_head(head: bytes) -> Request:
    """The request in a complete head; raises `BadHead`."""
    if head.count(b"\n") != head.count(b"\r\n"):
        raise BadHead(400, "lines end with carriage return and line feed")
    if not 65 <= head[0] <= 90:  # noqa: PLR2004
        raise BadHead(400, "this is not HTTP/1.1")
    if b"\r\n " in head or b"\r\n\t" in head:
        raise BadHead(400, "a header stands on one line")
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=len(head) + 1)
    parser.receive_data(head)
    try:
        event = parser.next_event()
    except h11.RemoteProtocolError as error:
        raise BadHead(error.error_status_hint, "this is not a valid request") from None
    if not isinstance(event, h11.Request):
        raise BadHead(400, "this is not a valid request")
    if event.http_version not in (b"1.0", b"1.1"):  # also the preface of HTTP/2, which looks like a request
        raise BadHead(505, "this port speaks HTTP/1.1")
    return _understand(event, head)


def _understand(event: h11.Request, raw: bytes) -> Request:
    headers = tuple(event.headers)
    names = [name for name, _ in headers]
    for name in (b"content-length", b"transfer-encoding", b"host", b"origin", b"authorization"):
        if names.count(name) > 1:
            raise BadHead(400, f"more than one {name.decode()} header")
    by_name = dict(reversed(headers))
    chunked = b"transfer-encoding" in by_name
    if chunked and b"content-length" in by_name:
        raise BadHead(400, "a body has one length only")
    target = event.target.decode("ascii")
    if not target.startswith("/"):
        raise BadHead(400, "the target is not a path")
    connection = by_name.get(b"connection", b"").lower()
    length = None if chunked else int(by_name.get(b"content-length", b"0"))
    return Request(
        method=event.method.decode("ascii"),
        target=target,
        path=unquote(target.partition("?")[0]),
        version=event.http_version,
        headers=headers,
        raw=raw,
        length=length,
        keep_alive=event.http_version == b"1.1" and b"close" not in connection,
        by_name=by_name,
    )
