"""What all tests over real sockets share."""

from __future__ import annotations

import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import structlog
import trio
import trio.testing

from realtime.server import Server, open_server
from tests.echo import serve_echo


def _with_traceback(_logger: Any, _method: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Keep the traceback with a captured entry, while it is there to be had."""
    if entry.pop("exc_info", None):
        entry["exception"] = traceback.format_exc()
    return entry


@pytest.fixture(autouse=True)
def log_entries() -> Iterator[list[dict[str, Any]]]:
    """What the server logged; a test that expects errors takes them out, any that is left fails it."""
    with structlog.testing.capture_logs(processors=[_with_traceback]) as entries:
        yield entries
    for entry in entries:
        if entry["log_level"] in ("error", "critical"):
            pytest.fail(f"the server logged {entry.pop('event')!r}\n{entry.pop('exception', '')}")


@pytest.fixture
def clock() -> trio.testing.MockClock:
    """The clock of a test that asks for it: it goes as any other, and can be put forward with `jump`.

    What is to run out gets a long time, so that it does not run out by itself on a machine that pauses. A jump is of
    a few seconds where a peer waits for something: the deadline of that comes nearer too.
    """
    return trio.testing.MockClock(rate=1.0)


@pytest.fixture
async def echo_port() -> AsyncIterator[int]:
    """The port of an echo server on our WebSocket code."""
    async with trio.open_nursery() as nursery:
        yield await nursery.start(serve_echo)
        nursery.cancel_scope.cancel()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A server on which anonymous peers may use every room and symbol."""
    async with running() as started:
        yield started


@pytest.fixture
def port(server: Server) -> int:
    """The port of `server`."""
    return server.address[1]


#: A time-out that a machine that pauses does not run into; it is jumped over.
PATIENCE_SECONDS = 4.0


async def jump(clock: trio.testing.MockClock, seconds: float = PATIENCE_SECONDS) -> None:
    """Put the clock forward, once everybody has taken in what was sent to him."""
    await trio.testing.wait_all_tasks_blocked()
    clock.jump(seconds)


#: What is given to a server beside its settings.
_PARTS = ("actions", "app", "authenticate", "authorize", "broker", "catalogue", "feeds", "routes")


def running(**options: Any) -> AbstractAsyncContextManager[Server]:
    """A server for the length of a block; by default one for development, that ends without much ado."""
    parts = {name: options.pop(name) for name in _PARTS if name in options}
    return open_server(**parts, **{"port": 0, "dev": True, "api_keys": ["key"], "grace_seconds": 1.0, **options})
