"""Those who have nothing to do with an attack, and must not notice it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from realtime.server import Server
from tests.peers import eventually, open_websocket, unique_room

#: Far above what a message takes, and a pause of the machine; where it takes that, somebody was in the way.
WORST_SECONDS = 5.0
_EVERY_SECONDS = 0.02


@asynccontextmanager
async def bystander(server: Server) -> AsyncIterator[None]:
    """A subscriber that gets fifty numbered messages a second during the block: each of them, once, and soon."""
    room, delays = unique_room(), list[float]()
    async with open_websocket(server.address[1], f"/ws?topic={room}") as peer, trio.open_nursery() as nursery:

        async def publish(*, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
            with trio.CancelScope() as scope:
                task_status.started(scope)
                while True:
                    # Not the clock of Trio, which a test may put forward.
                    await server.publish(room, [len(sent), time.monotonic()])
                    sent.append(None)
                    await trio.sleep(_EVERY_SECONDS)

        async def listen() -> None:
            while True:
                number, at = (await peer.receive_type("message"))["data"]
                assert number == len(delays)
                delays.append(time.monotonic() - at)

        sent: list[None] = []
        publishing = await nursery.start(publish)
        nursery.start_soon(listen)
        yield
        publishing.cancel()
        await eventually(lambda: len(delays) == len(sent) > 0)
        assert max(delays) < WORST_SECONDS
        nursery.cancel_scope.cancel()


def audited(entries: list[dict[str, Any]], event: str) -> list[dict[str, Any]]:
    """The lines of the audit log about events of one kind."""
    return [entry for entry in entries if entry.get("audit") == event]
