"""The page for users of curl, walked from its first command to its last."""

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
    walk.instead["4c388pzv"] = json.loads(await walk.run())["epoch"]
    while walk.more():
        await walk.run()
    await server.end()
    walk.done()
