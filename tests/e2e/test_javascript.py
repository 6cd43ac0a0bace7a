"""The browser client's own tests, which run in Node, with a server of their own, and some in Chromium."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NODE = shutil.which("node")


def options() -> list[str] | None:
    """What gives Node a WebSocket; None where it cannot have one."""
    version = subprocess.run([NODE or "node", "--version"], capture_output=True, text=True, check=True).stdout
    major = int(version.removeprefix("v").partition(".")[0])
    return None if major < 20 else ["--experimental-websocket"] * (major < 22)


@pytest.mark.node
@pytest.mark.skipif(NODE is None or options() is None, reason="needs Node 20 or a newer one")
def test_browser_client_passes_its_tests() -> None:
    """As ``npm test`` does."""
    files = sorted((ROOT / "clients" / "js" / "test").glob("*.test.js"))
    ran = subprocess.run(
        [NODE or "", *(options() or ()), "--no-warnings", "--test", *files],
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "REALTIME_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-8000:]
    assert "# fail 0" in ran.stdout
