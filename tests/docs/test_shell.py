"""The pages for users of curl and of the Python client, walked from their first command to their last."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from tests.docs.walking import ROOT, Walk


@pytest.fixture
async def walk(tmp_path: Path) -> AsyncIterator[Walk]:
    """A reader with an empty folder."""
    async with trio.open_nursery() as nursery:
        yield Walk(tmp_path, nursery)
        nursery.cancel_scope.cancel()


async def test_commands_of_curl_print_what_the_page_says(walk: Walk) -> None:
    """Publishing, streams, polls and commands, in their order; the cursor is the one that was printed."""
    walk.open("howto/curl")
    server = await walk.start()
    epoch = json.loads(await walk.run())["epoch"]
    walk.instead["4c388pzv"] = epoch
    while walk.more():
        await walk.run()
    await server.end()
    walk.done()


async def test_commands_of_the_command_line_print_what_the_page_says(walk: Walk) -> None:
    """With a server in one shell and commands in another; left out is what needs a busy server, or one elsewhere."""
    walk.open("howto/command-line")
    walk.environment["REALTIME_URL"] = walk.url
    server = await walk.start()
    await walk.run()
    await walk.run()
    walk.skip("realtime top", "generate-ticks")
    await server.end()
    await walk.run()
    of_the_walk = {name: walk.environment.pop(name) for name in [*walk.environment] if name.startswith("REALTIME_")}
    await walk.run()  # prints all settings: those of the page, and no others
    walk.environment |= of_the_walk
    server = await walk.start()
    await walk.run()
    await walk.run()
    await walk.run()
    await server.end()
    walk.skip("REALTIME_MAX_CONNECTIONS_PER_ADDRESS", "realtime bench")
    walk.done()


async def test_client_of_the_readme_prints_prices(walk: Walk) -> None:
    """Against the demo; Ctrl-C ends it without a word."""
    _, program = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (walk.folder / "readme.py").write_text(program.replace("http://127.0.0.1:8000", walk.url))
    server = await walk.start_again("realtime demo")
    client = await walk.start_again("python readme.py", "Message(")
    assert await client.end() == (0, "")
    await server.end()


async def test_first_program_of_the_python_client_prints_prices(walk: Walk) -> None:
    """Against the demo, as the page says; it ends without a word."""
    walk.open("howto/python-client")
    server = await walk.start()
    program = await walk.start()
    assert await program.end() == (0, "")
    await server.end()
    walk.done()
