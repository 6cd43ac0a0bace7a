"""Peers on libraries that are not ours, under asyncio, in a thread: `websockets` and httpx."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import httpx
import trio
import websockets

from tests.e2e.processes import ServerProcess

#: Far above what any conversation takes; only a failing test waits that long.
TALK_SECONDS = 12.0


async def in_asyncio(talk: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run a conversation under asyncio, in a thread."""
    with trio.fail_after(TALK_SECONDS + 5):
        return await trio.to_thread.run_sync(lambda: asyncio.run(asyncio.wait_for(talk(), TALK_SECONDS)))


class Talker:
    """A peer that speaks the protocol."""

    def __init__(self, socket: websockets.ClientConnection) -> None:
        self.socket = socket
        self._ids = itertools.count(1)
        #: What came and was not asked for yet.
        self.inbox: list[dict[str, Any]] = []
        #: Everything that came, in its order.
        self.heard: list[dict[str, Any]] = []

    async def receive(self, **members: Any) -> dict[str, Any]:
        """The first push that has these members; what comes before it stays in the inbox."""
        return await self.receive_where(lambda push: all(push.get(name) == value for name, value in members.items()))

    async def receive_where(self, fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first push that fits; what comes before it stays in the inbox."""
        for number, push in enumerate(self.inbox):
            if fits(push):
                return self.inbox.pop(number)
        while True:
            push = json.loads(await self.socket.recv())
            self.heard.append(push)
            if fits(push):
                return push
            self.inbox.append(push)

    async def command(self, kind: str, **members: Any) -> dict[str, Any]:
        """Send a command and wait for its reply."""
        number = next(self._ids)
        await self.socket.send(json.dumps({"type": kind, "id": number, **members}))
        return await self.receive(id=number)

    async def request(self, action: str, payload: Any = None, **members: Any) -> dict[str, Any]:
        """Send a request and wait for its response."""
        return await self.command("request", action=action, payload=payload, **members)

    async def closed(self) -> int | None:
        """Read to the end: the close code."""
        try:
            while True:
                push = json.loads(await self.socket.recv())
                self.heard.append(push)
                self.inbox.append(push)
        except websockets.ConnectionClosed:
            return self.socket.close_code


@asynccontextmanager
async def talking(server: ServerProcess, token: str | None = None, path: str = "/ws") -> AsyncIterator[Talker]:
    """A WebSocket connection, logged in with a token if one is given."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    url = f"ws://127.0.0.1:{server.port}{path}"
    async with websockets.connect(url, proxy=None, additional_headers=headers) as socket:
        yield Talker(socket)


def browsing(server: ServerProcess, **options: Any) -> httpx.AsyncClient:
    """An HTTP client for the server."""
    return httpx.AsyncClient(base_url=server.url, timeout=10, trust_env=False, **options)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask again until it is so."""
    while not await condition():
        await asyncio.sleep(0.02)
