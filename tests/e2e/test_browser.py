"""A real browser: the page of the demo, and what a script on it can do. Driven through the DevTools protocol."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio_websocket

from tests.e2e.processes import ServerProcess, running_program
from tests.peers import connect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")]

_DEVTOOLS = re.compile(rb"DevTools listening on ws://127\.0\.0\.1:(\d+)/")


class Page:
    """One page of the browser."""

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
        await self.call("Page.navigate", url=url)
        await self.wait_for(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    async def wait_for(self, condition: str) -> None:
        """Wait until a condition holds on the page."""
        await self.evaluate(
            f"new Promise((resolve) => {{ const look = () => ({condition}) ? resolve(true) : setTimeout(look, 20);"
            " look(); })"
        )


@pytest.fixture
async def page(demo: ServerProcess, tmp_path: Path) -> AsyncIterator[Page]:
    """The page of the demo in a browser of its own."""
    assert CHROMIUM is not None
    options = (
        "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --no-proxy-server"
        " --disable-component-update --disable-sync --disable-dev-shm-usage --remote-debugging-port=0"
    )
    command = (CHROMIUM, *options.split(), f"--user-data-dir={tmp_path}", "about:blank")
    async with running_program(*command) as browser:
        assert browser.stderr is not None
        said = b""
        with trio.fail_after(30):
            while (found := _DEVTOOLS.search(said)) is None:
                data = await browser.stderr.receive_some()
                assert data, said
                said += data
        port = int(found[1])
        async with connect(port) as raw:
            targets = (await raw.request("GET", "/json/list")).json()
        target = next(target["id"] for target in targets if target["type"] == "page")
        url = f"ws://127.0.0.1:{port}/devtools/page/{target}"
        async with trio_websocket.open_websocket_url(url, max_message_size=1 << 24) as socket:
            opened = Page(socket)
            await opened.call("Runtime.enable")
            await opened.call("Log.enable")
            await opened.call("Page.enable")
            await opened.open(demo.url + "/")
            yield opened
            browser.send_signal(signal.SIGTERM)


async def test_page_of_the_demo_shows_ticks_and_chat(page: Page) -> None:
    """Connected, a row for each symbol whose offset moves, and what is said in the room appears."""
    await page.wait_for("document.querySelector('#status').dataset.state === 'connected'")
    await page.wait_for("document.querySelectorAll('#ticks tr').length === 3")
    before = await page.evaluate("Number(document.querySelector('#tick-600519').cells[3].textContent)")
    await page.wait_for(f"Number(document.querySelector('#tick-600519').cells[3].textContent) > {before}")
    assert re.fullmatch(
        r"\d+\.\d\d", await page.evaluate("document.querySelector('#tick-600519').cells[1].textContent")
    )
    await page.evaluate(
        "(() => { const form = document.querySelector('#say');"
        " form.text.value = 'hello <b>room</b>'; form.requestSubmit(); })()"
    )
    await page.wait_for(
        "[...document.querySelectorAll('#chat li')].some((line) => line.textContent === 'hello <b>room</b>')"
    )
    complaints = [complaint for complaint in page.complaints if "favicon" not in complaint]
    assert complaints == []


async def test_script_on_the_page_gets_ticks_by_both_transports(page: Page) -> None:
    """`EventSource` and `WebSocket` of the browser hear the same feed."""
    ticks = await page.evaluate(
        """
        Promise.all([
          new Promise((resolve) => {
            const events = new EventSource("/sse?topic=symbol:600519");
            const heard = [];
            events.onmessage = ({ data, lastEventId }) => {
              heard.push([JSON.parse(data).offset, lastEventId]);
              if (heard.length === 3) { events.close(); resolve(heard); }
            };
          }),
          new Promise((resolve) => {
            const socket = new WebSocket(`ws://${location.host}/ws`);
            const heard = [];
            socket.onopen = () => socket.send(JSON.stringify({ type: "subscribe", id: 1, topic: "symbol:600519" }));
            socket.onmessage = ({ data }) => {
              const push = JSON.parse(data);
              if (push.type === "message") heard.push(push.offset);
              if (heard.length === 3) socket.close(1000);
            };
            socket.onclose = ({ code, wasClean }) => resolve([heard, code, wasClean]);
          }),
        ])
        """
    )
    events, (socket, code, clean) = ticks
    offsets = [offset for offset, _ in events]
    assert offsets == list(range(offsets[0], offsets[0] + 3))
    assert all(identity.endswith(f"!{offset}") for offset, identity in events)
    assert socket == list(range(socket[0], socket[0] + 3))
    assert (code, clean) == (1000, True)


class Proxy:
    """A proxy that drops its connections on demand, as they do after a deployment of theirs."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._scopes: set[trio.CancelScope] = set()

    async def serve(self, task_status: trio.TaskStatus[int]) -> None:
        """Serve until cancelled; started with its port."""
        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(partial(trio.serve_tcp, self._pass_on, 0, host="127.0.0.1"))
            task_status.started(listener.socket.getsockname()[1])

    async def _pass_on(self, here: trio.SocketStream) -> None:
        there = await trio.open_tcp_stream("127.0.0.1", self._to)
        with trio.CancelScope() as scope, suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            self._scopes.add(scope)
            async with there, trio.open_nursery() as nursery:
                for source, sink in ((here, there), (there, here)):
                    nursery.start_soon(_copy, source, sink, scope)
        self._scopes.discard(scope)

    def cut(self) -> None:
        """Drop every connection."""
        for scope in self._scopes:
            scope.cancel()


async def _copy(source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async for data in source:
            await sink.send_all(data)
    scope.cancel()


async def test_event_source_of_the_browser_resumes_by_itself(page: Page, demo: ServerProcess) -> None:
    """After a stream broke off, the browser comes back with the last id: no message is lost or repeated."""
    proxy = Proxy(demo.port)
    async with trio.open_nursery() as nursery:
        await page.open(f"http://127.0.0.1:{await nursery.start(proxy.serve)}/")
        await page.evaluate(
            """
            globalThis.heard = [];
            globalThis.opens = 0;
            globalThis.source = new EventSource("/sse?topic=room:resumed");
            source.onopen = () => { opens += 1; };
            source.onmessage = ({ data }) => heard.push(JSON.parse(data).data);
            """
        )
        await page.wait_for("opens === 1")
        await demo.publish("room:resumed", "1")
        await page.wait_for("heard.length === 1")
        proxy.cut()
        await demo.publish("room:resumed", "2")
        await page.wait_for("opens === 2")
        await demo.publish("room:resumed", "3")
        await page.wait_for("heard.length >= 3")
        assert await page.evaluate("heard") == [1, 2, 3]
        nursery.cancel_scope.cancel()


async def test_page_survives_a_restart_of_its_server(page: Page, demo: ServerProcess) -> None:
    """Told that the server goes, the page waits for it; it shows that, and complains of nothing else."""
    await page.wait_for("document.querySelector('#status').dataset.state === 'connected'")
    demo.signal(signal.SIGTERM)
    assert await demo.wait() == 0
    await page.wait_for("document.querySelector('#status').dataset.state !== 'connected'")
    assert (await page.evaluate("document.querySelector('#status').dataset.state")) in ("waiting", "connecting")
