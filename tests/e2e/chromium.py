"""Chromium for the tests, driven through its DevTools protocol."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import trio
import trio_websocket
from attrs import frozen

from tests.e2e.processes import running_program
from tests.peers import connect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

_DEVTOOLS = re.compile(rb"DevTools listening on ws://127\.0\.0\.1:(\d+)/")
_OPTIONS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --no-proxy-server"
    " --disable-component-update --disable-sync --disable-dev-shm-usage --remote-debugging-port=0"
)


class Page:
    """One page of the browser."""

    #: What runs in each document before its own scripts.
    script = ""

    def __init__(self, socket: trio_websocket.WebSocketConnection) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        #: What the page complained of: exceptions and errors on its console.
        self.complaints: list[str] = []

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol and wait for its result."""
        identity = next(self._ids)
        with trio.fail_after(20):
            await self._socket.send_message(json.dumps({"id": identity, "method": method, "params": parameters}))
            while True:
                answer = json.loads(await self._socket.get_message())
                if answer.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                    self.complaints.append(json.dumps(answer["params"]))
                if answer.get("id") == identity:
                    assert "error" not in answer, answer
                    result: dict[str, Any] = answer["result"]
                    return result

    async def evaluate(self, expression: str) -> Any:
        """The value of an expression, awaited if it is a promise."""
        found = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def open(self, url: str) -> None:
        """Go to an address."""
        if self.script:
            await self.call("Page.addScriptToEvaluateOnNewDocument", source=self.script)
        await self.call("Page.navigate", url=url)
        await self.wait_for(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    async def wait_for(self, condition: str) -> None:
        """Wait until a condition holds on the page; about an element that is not there yet it does not."""
        await self.evaluate(
            "new Promise((resolve) => {"
            f" const holds = () => {{ try {{ return {condition}; }} catch {{ return false; }} }};"
            " const look = () => holds() ? resolve(true) : setTimeout(look, 20); look(); })"
        )


_P = TypeVar("_P", bound=Page)


@frozen
class Browser:
    """A browser; its pages share what pages share."""

    port: int
    _nursery: trio.Nursery

    async def targets(self, kind: str) -> list[str]:
        """The ids of its pages, or of its workers."""
        async with connect(self.port) as raw:
            found = (await raw.request("GET", "/json/list")).json()
        return [target["id"] for target in found if target["type"] == kind]

    async def open(self, url: str, kind: type[_P] = Page) -> _P:  # type: ignore[assignment]
        """Go to an address in a new page."""
        async with connect(self.port) as raw:
            target = (await raw.request("PUT", "/json/new?about:blank")).json()["id"]
        page = kind(await self._nursery.start(_hold, self.port, f"/devtools/page/{target}"))
        for domain in ("Runtime", "Log", "Page"):
            await page.call(f"{domain}.enable")
        await page.open(url)
        return page

    async def close(self, target: str) -> None:
        """End a page or a worker."""
        async with connect(self.port) as raw:
            await raw.request("GET", f"/json/close/{target}")


async def _hold(port: int, path: str, task_status: trio.TaskStatus[trio_websocket.WebSocketConnection]) -> None:
    # trio_websocket leaves a stream open that the other side has ended.
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream, trio.open_nursery() as nursery:
        socket = await trio_websocket.wrap_client_stream(nursery, stream, "127.0.0.1", path, max_message_size=1 << 24)
        task_status.started(socket)
        await trio.sleep_forever()


@asynccontextmanager
async def browsing(profile: Path) -> AsyncIterator[Browser]:
    """A browser that keeps its things in this folder."""
    assert CHROMIUM is not None
    command = (CHROMIUM, *_OPTIONS.split(), f"--user-data-dir={profile}", "about:blank")
    async with running_program(*command) as process, trio.open_nursery() as nursery:
        assert process.stderr is not None
        said = b""
        with trio.fail_after(30):
            while (found := _DEVTOOLS.search(said)) is None:
                data = await process.stderr.receive_some()
                assert data, said
                said += data
        yield Browser(int(found[1]), nursery)
        process.send_signal(signal.SIGTERM)
        nursery.cancel_scope.cancel()
