"""The server as its users run it: a process."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.e2e.processes import ServerProcess, serving


@pytest.fixture
async def server() -> AsyncIterator[ServerProcess]:
    """``realtime serve --dev`` on a free port."""
    async with serving("serve", "--dev", "--port", "0") as started:
        yield started


@pytest.fixture
async def demo() -> AsyncIterator[ServerProcess]:
    """``realtime demo`` on a free port: three symbols tick."""
    async with serving("demo", "--port", "0") as started:
        yield started
