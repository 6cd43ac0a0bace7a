"""What the tests of the client share: an engine, a way to it, and a client whose waits are known."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from realtime import Engine, Settings, open_engine
from realtime.client import Client, Lost, Message, Messages, open_client
from realtime.testing import MemoryDialer


@asynccontextmanager
async def engine_and_client(
    *, settings: Settings | None = None, authenticate: Any = None, actions: Any = None, **options: Any
) -> AsyncIterator[tuple[Engine, MemoryDialer, Client]]:
    """A client that is connected to an engine, and the way between the two."""
    options = {"random": lambda: 1.0, **options}
    async with open_engine(settings or Settings(dev=True), authenticate=authenticate, actions=actions) as engine:
        way = MemoryDialer(engine)
        async with open_client([way], **options) as client:
            with trio.fail_after(60):
                await client.wait_connected()
            yield engine, way, client


async def take(messages: Messages, count: int) -> list[Message | Lost]:
    """The next items."""
    with trio.fail_after(600):
        return [await anext(messages) for _ in range(count)]


def brief(items: list[Message | Lost]) -> list[Any]:
    """The payload of a message; (first, last, count, reason) of what was lost."""
    return [
        item.data if isinstance(item, Message) else (item.first, item.last, item.count, item.reason) for item in items
    ]
