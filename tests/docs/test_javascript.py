"""The JavaScript of the guides, run by Node against a server: what they show is what is run here."""

from __future__ import annotations

import json
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import define, field

from tests.docs.walking import DOCS, ROOT
from tests.e2e.chromium import CHROMIUM, browsing
from tests.e2e.processes import output_of, running_program
from tests.peers import connect, eventually

NODE = shutil.which("node")
pytestmark = [pytest.mark.node, pytest.mark.skipif(NODE is None, reason="needs Node")]

SCRIPTS = DOCS / "examples" / "javascript"
#: Node 20 has no WebSocket by itself; later ones have, and do not know the flag any more.
WAYS = {"websocket": ["--experimental-websocket"], "sse": ["--no-experimental-websocket"]}

PRINTED = {
    "guide": (SCRIPTS / "guide.out").read_text().splitlines(),
    "react/store-check": [
        "line 1,line 2,line 3 renders: 3",
        "same object: true",
        "line 2,line 3,line 4",
        "subscriptions to it: 0",
        "refused: INVALID_TOPIC",
    ],
    "socketio-after": [
        "state connected",
        "chat line 1",
        "chat line 2",
        "chat line 3",
        "hello Ada",
        "state closed",
    ],
}


@asynccontextmanager
async def serving(name: str, *arguments: object) -> AsyncIterator[tuple[trio.Process, str]]:
    """One of the guides' servers, and its address."""
    command = [sys.executable, str(SCRIPTS / name), *map(str, arguments)]
    async with running_program(*command, PYTHONPATH=str(ROOT)) as process:
        assert process.stdout is not None
        printed = b""
        with trio.fail_after(20):
            while not printed.endswith(b"\n"):
                printed += await process.stdout.receive_some()
        yield process, printed.decode().strip()


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """A server with what the guides ask for."""
    async with serving("server.py") as (_, url):
        yield url


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The scripts, with our package where npm would have put it."""
    for path in [*SCRIPTS.glob("*.js"), *SCRIPTS.glob("react/*.js")]:
        copy = tmp_path / path.relative_to(SCRIPTS)
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(path, copy)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "trio-realtime").symlink_to(ROOT / "clients" / "js")
    return tmp_path


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", PRINTED)
async def test_script_prints_what_the_page_says(name: str, way: str, url: str, folder: Path) -> None:
    """By WebSocket and by Server-Sent Events alike; replies and messages may change places."""
    assert NODE is not None
    code, printed, errors = await output_of(NODE, "--no-warnings", *WAYS[way], str(folder / f"{name}.js"), url)
    assert (code, errors) == (0, "")
    assert sorted(printed.splitlines()) == sorted(PRINTED[name])


@define
class Page:
    """A page of the guide "Move from polling to a stream", and the shop that it asks."""

    process: trio.Process
    port: int
    #: How many orders were open each time that the page has shown it.
    shown: list[int] = field(factory=list)

    async def listen(self) -> None:
        """Note what it shows."""
        assert self.process.stdout is not None
        text = b""
        async for data in self.process.stdout:
            *lines, text = (text + data).split(b"\n")
            self.shown += [json.loads(line)["open"] for line in lines]

    async def shows(self, *counts: int) -> None:
        """Wait until it has shown just these."""
        with trio.move_on_after(15):
            await eventually(lambda: len(self.shown) >= len(counts), seconds=20)
        assert self.shown == list(counts)

    async def ask(self, path: str) -> dict[str, Any]:
        """What the shop answers."""
        async with connect(self.port) as raw:
            response = await raw.request("GET", path, headers={"X-Api-Key": "a-key"})
            return json.loads(response.body)

    async def listens(self) -> None:
        """Wait until its question, or its subscription, has reached the shop."""
        with trio.fail_after(15):
            while not (await self.ask("/api/v1/topics/room:bakery")).get("subscribers"):
                await trio.sleep(0.01)

    async def take_order(self) -> None:
        """Once the page is there to hear of it."""
        await self.listens()
        await self.ask("/take/bakery")


@asynccontextmanager
async def page(name: str, folder: Path, port: int, flags: list[str]) -> AsyncIterator[Page]:
    """The page, open."""
    assert NODE is not None
    command = [NODE, "--no-warnings", *flags, str(folder / f"orders-{name}.js"), f"http://127.0.0.1:{port}"]
    async with running_program(*command) as process, trio.open_nursery() as nursery:
        opened = Page(process, port)
        nursery.start_soon(opened.listen)
        yield opened
        assert process.returncode is None
        nursery.cancel_scope.cancel()


#: The ways of step 2 and 3, and what Node needs for them.
PAGES: dict[str, list[str]] = {"poll": [], "stream": [], "client": WAYS["websocket"]}


@pytest.mark.parametrize("name", PAGES)
async def test_order_between_the_two_questions_is_shown(name: str, folder: Path) -> None:
    """The state that the page gets does not know of it: the message does."""
    async with serving("orders.py") as (_, url):
        port = int(url.rpartition(":")[2])
        await Page(None, port).ask("/take-soon/bakery")
        async with page(name, folder, port, PAGES[name]) as opened:
            await eventually(lambda: 3 in opened.shown)
            await opened.take_order()
            await eventually(lambda: 4 in opened.shown)
            # The client is subscribed when it asks. If the message comes before the answer, that is not shown.
            assert opened.shown == [2, 3, 4] or (name, opened.shown) == ("client", [3, 4])


@pytest.mark.parametrize("name", PAGES)
async def test_server_that_was_killed_and_came_back_is_asked_for_the_state(name: str, folder: Path) -> None:
    """Its messages are gone, and what it counts is another number; then the next order comes as before."""
    async with serving("orders.py") as (first, url):
        port = int(url.rpartition(":")[2])
        async with page(name, folder, port, PAGES[name]) as opened:
            await opened.shows(2)
            await opened.take_order()
            await opened.shows(2, 3)
            first.send_signal(signal.SIGKILL)
            await first.wait()
            async with serving("orders.py", port, 50):
                await opened.shows(2, 3, 50)
                await opened.take_order()
                await opened.shows(2, 3, 50, 51)


async def test_page_that_slept_for_longer_than_the_history_asks_for_the_state(folder: Path) -> None:
    """The poll that was open brings the first order; the next finds a gap, and what is shown is the state."""
    async with serving("orders.py") as (_, url):
        port = int(url.rpartition(":")[2])
        async with page("poll", folder, port, []) as opened:
            await opened.shows(2)
            await opened.listens()
            opened.process.send_signal(signal.SIGSTOP)
            for _ in range(10):
                await opened.ask("/take/bakery")
            opened.process.send_signal(signal.SIGCONT)
            await opened.shows(2, 3, 12)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
async def test_stream_of_a_real_browser_comes_back_to_a_server_that_was_killed(tmp_path: Path) -> None:
    """The parts of the stream as the guide shows them, with the browser's own EventSource and its own waits."""
    marked = [
        re.findall(r"^// \[\w+\n(.*?)^// \]", (SCRIPTS / f"orders-{name}.js").read_text(), re.MULTILINE | re.DOTALL)
        for name in ("load", "stream")
    ]
    script = "".join(part for parts in marked for part in parts)
    async with browsing(tmp_path) as browser, serving("orders.py") as (first, url):
        page = await browser.open(f"{url}/orders/bakery")
        await page.evaluate(
            f"window.shown = []; const show = ({{ open }}) => shown.push(open); (async () => {{ {script} }})()"
        )
        await page.wait_for("shown.join() === '2'")
        port = int(url.rpartition(":")[2])
        shop = Page(first, port)
        await shop.take_order()
        await page.wait_for("shown.join() === '2,3'")
        first.send_signal(signal.SIGKILL)
        await first.wait()
        async with serving("orders.py", port, 50):
            await page.wait_for("shown.join() === '2,3,50'")
            await shop.take_order()
            await page.wait_for("shown.join() === '2,3,50,51'")


def test_every_part_of_the_scripts_is_shown() -> None:
    """No marked part is left out by the pages, nor do they show one that there is not."""
    shown = set()
    for page in DOCS.rglob("*.rst"):
        text = page.read_text()
        for found in re.finditer(r"javascript/(\S+\.jsx?)\n((?:   :.*\n)*)", text):
            marker = re.search(r":start-after: // \[(\w+)", found[2])
            shown.add((found[1], marker[1] if marker else ""))
    marked = {
        (path.name, part)
        for path in SCRIPTS.glob("*.js")
        for part in re.findall(r"^// \[(\w+)", path.read_text(), re.MULTILINE)
    }
    # React runs these four: react/react.test.js, in the nox session "clients".
    whole = {(f"react/{name}", "") for name in ("topic-store.js", "use-topic.js", "room.jsx", "main.jsx")}
    assert shown == marked | whole
