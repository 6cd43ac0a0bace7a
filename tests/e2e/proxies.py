"""What stands between a browser and a server, and fails it in the ways that networks have."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import trio

__all__ = ["Proxy", "proxy_to"]

_REQUEST = re.compile(rb"(?:GET|POST) (/[^ ?/]*)")
_REFUSAL = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_HEAD_END = b"\r\n\r\n"
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError)


class Proxy:
    """Passes bytes on, until it is told otherwise."""

    #: Whether an upgrade to a WebSocket is refused.
    refuses_upgrades = False
    #: Whether an event stream is held back until it is complete, which is never.
    buffers_streams = False

    def __init__(self, port: int, to: int) -> None:
        self.port = port
        #: How many requests of each first part of a path came by.
        self.requests: Counter[str] = Counter()
        self._to = to
        self._ways: set[_Way] = set()
        self._is_silent = False

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Drop every connection."""
        for way in self._ways:
            way.scope.cancel()

    def swallow(self) -> None:
        """Close nothing, and let nothing through any more on any connection, those that are yet to come included."""
        self._is_silent = True
        for way in self._ways:
            way.is_silent = True

    def recover(self) -> None:
        """Let new connections through; the old ones stay silent for good, as behind a router that forgot them."""
        self._is_silent = False

    def count(self, data: bytes | bytearray) -> str:
        """The first part of the path of a request; nothing where none begins."""
        found = _REQUEST.match(data)
        path = found[1].decode() if found else ""
        self.requests[path] += bool(path)
        return path

    async def pass_on(self, near: trio.SocketStream) -> None:
        """Serve one connection."""
        with suppress(OSError):
            far = await trio.open_tcp_stream("127.0.0.1", self._to)
            way = _Way(self, near, far, is_silent=self._is_silent)
            self._ways.add(way)
            try:
                await way.run()
            finally:
                self._ways.discard(way)


class _Way:
    """One connection."""

    def __init__(self, proxy: Proxy, near: trio.SocketStream, far: trio.SocketStream, *, is_silent: bool) -> None:
        self.scope = trio.CancelScope()
        self.is_silent = is_silent
        self._proxy = proxy
        self._near = near
        self._far = far
        self._is_upgraded = False
        self._is_buffered = False

    async def run(self) -> None:
        """Until one of both ends hangs up, or somebody cuts it."""
        with self.scope:
            async with self._near, self._far, trio.open_nursery() as nursery:
                nursery.start_soon(self._until_end, self._copy_up)
                nursery.start_soon(self._until_end, self._copy_down)

    async def _until_end(self, copy: Callable[[], Awaitable[None]]) -> None:
        with suppress(*_GONE):
            await copy()
        self.scope.cancel()

    async def _copy_up(self) -> None:
        async for data in self._near:
            if self.is_silent:
                continue
            # Browsers send a request when the last one is answered, in one piece.
            path = "" if self._is_upgraded else self._proxy.count(data)
            self._is_upgraded |= path == "/ws"
            if path == "/ws" and self._proxy.refuses_upgrades:
                await self._near.send_all(_REFUSAL)
                return
            self._is_buffered |= path == "/sse" and data.startswith(b"GET") and self._proxy.buffers_streams
            await self._far.send_all(data)

    async def _copy_down(self) -> None:
        head = b""
        async for data in self._far:
            if self.is_silent:
                continue
            if not self._is_buffered:
                await self._near.send_all(data)
            elif _HEAD_END not in head:
                head += data
                if _HEAD_END in head:
                    await self._near.send_all(head[: head.index(_HEAD_END) + len(_HEAD_END)])


@asynccontextmanager
async def proxy_to(port: int) -> AsyncIterator[Proxy]:
    """A proxy to this port for the length of a block."""
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        proxy = Proxy(listener.socket.getsockname()[1], port)
        await nursery.start(partial(trio.serve_listeners, proxy.pass_on, [listener]))
        yield proxy
        nursery.cancel_scope.cancel()
