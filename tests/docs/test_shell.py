"""The pages for users of curl and of the Python client, walked from their first command to their last."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from tests.docs.walking import Walk


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
    walk.instead |= {"4c388pzv": epoch, "THE-ID-YOU-SAW": f"room:lobby!{epoch}!1"}
    while walk.more():
        await walk.run()
    await server.end()
    walk.done()


async def test_first_program_of_the_python_client_prints_prices(walk: Walk) -> None:
    """Against the demo, as the page says; it ends without a word."""
    walk.open("howto/python-client")
    server = await walk.start()
    program = await walk.start()
    assert await program.end() == (0, "")
    await server.end()
    walk.done()
