"""A link by Server-Sent Events: what the server says comes as one long response, each command is a POST beside it."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx
import msgspec
import trio

from realtime.errors import ErrorCode
from realtime.link import Credentials, LinkBlocked, LinkEnded, Said
from transports.links.address import MAX_MESSAGE_BYTES, Address, authorization, refusal
from transports.links.event_stream import EventStream

__all__ = ["SseDialer"]

#: What of a refusal is read.
MAX_REFUSAL_BYTES = 64 * 1024


class _Welcome(msgspec.Struct):
    connection: str
    secret: str


class _Reply(msgspec.Struct):
    type: str
    code: str | None = None


class SseLink:
    """See `realtime.link.Link`."""

    ordered = False

    def __init__(self, http: httpx.AsyncClient, chunks: AsyncIterator[bytes], path: str) -> None:
        self._http = http
        self._chunks = chunks
        self._path = path
        self._stream = EventStream(MAX_MESSAGE_BYTES)
        self._events: deque[Said] = deque()
        self._target = ""
        self._secret = ""

    async def receive(self) -> Said:
        """See `realtime.link.Link`."""
        if self._events:
            await trio.lowlevel.checkpoint()  # a chunk has many, and who reads them is to have a turn between two
        while not self._events:
            try:
                chunk = await anext(self._chunks)
                for event in self._stream.feed(chunk):
                    if event.type == "welcome":
                        self._be_welcome(event.data)
                    # The cursor of a message is that message's own position, which is known.
                    cursor = event.id if event.type == "ping" else ""
                    self._events.append(Said(event.data, cursor))
            except (StopAsyncIteration, httpx.HTTPError):
                raise LinkEnded("the stream has ended") from None
            except (msgspec.DecodeError, RecursionError, ValueError) as error:
                raise LinkEnded(f"what came is no stream of ours: {error}") from None
        return self._events.popleft()

    def _be_welcome(self, data: bytes) -> None:
        welcome = msgspec.json.decode(data, type=_Welcome)
        self._target, self._secret = f"{self._path}/{welcome.connection}", welcome.secret

    async def send(self, text: bytes) -> bytes | None:
        """See `realtime.link.Link`."""
        headers = {"X-Connection-Secret": self._secret, "Content-Type": "application/json"}
        request = self._http.build_request("POST", self._target, content=text, headers=headers)
        try:
            async with _answer(self._http, request) as (response, chunks):
                body = await _beginning(chunks, MAX_MESSAGE_BYTES)
        except httpx.HTTPError as error:
            raise LinkEnded(f"a command was not answered: {type(error).__name__}") from None
        try:
            reply = msgspec.json.decode(body, type=_Reply)
        except (msgspec.DecodeError, RecursionError, ValueError):  # somebody on the way has answered, or without an end
            raise LinkEnded(f"a command was answered with status {response.status_code}") from None
        if reply.code == ErrorCode.CONNECTION_NOT_FOUND:
            raise LinkEnded("the server does not know the connection any more")
        return body


class SseDialer:
    """See `realtime.link.Dialer`."""

    name = "sse"

    def __init__(self, address: Address) -> None:
        self._address = address

    @asynccontextmanager
    async def open(self, credentials: Credentials) -> AsyncIterator[SseLink]:
        """See `realtime.link.Dialer`."""
        address = self._address
        # The stream and a refusal are read as they come, and somebody on the way might compress what may be compressed.
        headers = {**authorization(credentials), "Accept-Encoding": "identity"}
        base = f"{'https' if address.tls else 'http'}://{address.authority}"
        # No timeouts of httpx's: who uses the link has some of its own. Nothing of the environment: its proxies would
        # be taken here and not by WebSocket, and its .netrc might show a password in place of the token.
        async with httpx.AsyncClient(
            base_url=base,
            headers=headers,
            verify=address.tls or True,
            timeout=None,  # noqa: S113
            trust_env=False,
        ) as http:
            request = http.build_request("GET", address.target("/sse", credentials))
            try:
                async with _answer(http, request) as (response, chunks):
                    if response.status_code != httpx.codes.OK:
                        body = await _beginning(chunks, MAX_REFUSAL_BYTES)
                        raise refusal(response.status_code, response.headers, body)
                    if not response.headers.get("content-type", "").startswith("text/event-stream"):
                        raise LinkBlocked("what answers is no event stream")
                    yield SseLink(http, chunks, f"{address.prefix}/sse")
            except httpx.ConnectError as error:
                raise LinkEnded(f"no connection: {error}", connected=False) from error
            except httpx.HTTPError as error:
                raise LinkEnded(f"no answer: {type(error).__name__}") from None


@asynccontextmanager
async def _answer(
    http: httpx.AsyncClient, request: httpx.Request
) -> AsyncIterator[tuple[httpx.Response, AsyncIterator[bytes]]]:
    """The answer and its body, as that comes. Raises ``httpx.HTTPError``."""
    response = await http.send(request, stream=True)
    chunks = response.aiter_raw()
    try:
        yield response, chunks
    finally:
        await _finish(chunks)  # noqa: ASYNC102 - shields itself
        with trio.CancelScope(shield=True):  # closes a socket, which does not wait
            await response.aclose()


async def _finish(chunks: AsyncIterator[bytes]) -> None:
    """Have httpx's generators, each within the other, end: left to the collector they would complain."""
    with trio.CancelScope(shield=True) as scope, suppress(httpx.HTTPError):
        scope.cancel()
        async for _ in chunks:
            pass  # it was here already; the next one is waited for, and that is cancelled


async def _beginning(chunks: AsyncIterator[bytes], most: int) -> bytes:
    """A body, as much of it as there is a use for."""
    body = bytearray()
    with suppress(httpx.HTTPError):  # of a refusal it does not matter what is missing; of a reply it shows
        async for chunk in chunks:
            body += chunk
            if len(body) > most:
                break
    return bytes(body)
