"""The JavaScript of the guides, run by Node against a server: what they show is what is run here."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from tests.docs.walking import DOCS, ROOT
from tests.e2e.processes import output_of, running_program

NODE = shutil.which("node")
pytestmark = [pytest.mark.node, pytest.mark.skipif(NODE is None, reason="needs Node")]

SCRIPTS = DOCS / "examples" / "javascript"
#: Node 20 has no WebSocket by itself; later ones have, and do not know the flag any more.
WAYS = {"websocket": ["--experimental-websocket"], "sse": ["--no-experimental-websocket"]}

PRINTED = {
    "guide": (SCRIPTS / "guide.out").read_text().splitlines(),
    "store-check": [
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


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """A server with what the guides ask for."""
    async with running_program(sys.executable, str(SCRIPTS / "server.py"), PYTHONPATH=str(ROOT)) as process:
        assert process.stdout is not None
        printed = b""
        with trio.fail_after(20):
            while not printed.endswith(b"\n"):
                printed += await process.stdout.receive_some()
        yield printed.decode().strip()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The scripts, with our package where npm would have put it."""
    for path in SCRIPTS.glob("*.js"):
        shutil.copy(path, tmp_path)
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


def test_every_part_of_the_scripts_is_shown() -> None:
    """No marked part is left out by the pages, nor do they show one that there is not."""
    shown = set()
    for page in DOCS.rglob("*.rst"):
        text = page.read_text()
        for found in re.finditer(r"javascript/(\S+\.js)\n((?:   :.*\n)*)", text):
            marker = re.search(r":start-after: // \[(\w+)", found[2])
            shown.add((found[1], marker[1] if marker else ""))
    marked = {
        (path.name, part)
        for path in SCRIPTS.glob("*.js")
        for part in re.findall(r"^// \[(\w+)", path.read_text(), re.MULTILINE)
    }
    assert shown == marked | {("topic-store.js", ""), ("use-topic.js", "")}
