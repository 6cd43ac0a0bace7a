"""Node's socket.io. Its package is installed once, into the user's cache folder, never into the source tree."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

from benchmarks.peers.adapter import SERVERS, Peer, event_stream, expect
from benchmarks.peers.python_socketio import SOCKET_IO

INSTALL_SECONDS = 120


def cache_folder() -> Path:
    """Where the npm package lives."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "trio-realtime-benchmarks"


class NodeSocketIO(Peer):
    name = "node-socketio"
    title = "Node socket.io"
    dialect = replace(SOCKET_IO, sse=event_stream("/sse?topic=room:bench-%ROOM%", expect("event: welcome")))

    def _package(self) -> Path:
        return cache_folder() / "node_modules" / "socket.io" / "package.json"

    def install(self) -> None:
        """Have npm fetch the package if it can; `absent` tells whether that worked."""
        npm = shutil.which("npm")
        if npm is None or self._package().exists():
            return
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(__file__).parent / "package.json", folder / "package.json")
        try:
            subprocess.run(
                [npm, "install", "--no-audit", "--no-fund", "--loglevel=error"],
                cwd=folder,
                timeout=INSTALL_SECONDS,
                check=False,
                stdout=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            return

    def absent(self) -> str | None:
        if shutil.which("node") is None:
            return "node is not installed"
        return None if self._package().exists() else "the npm package socket.io is not installed"

    def version(self) -> str:
        node = subprocess.run(["node", "--version"], capture_output=True, text=True, timeout=10, check=True)
        return f"socket.io {json.loads(self._package().read_text())['version']}, Node {node.stdout.strip()}"

    def environment(self) -> dict[str, str]:
        return {"NODE_PATH": str(cache_folder() / "node_modules")}

    def command(self, port: int, folder: Path) -> list[str]:
        return ["node", str(SERVERS / "node_socketio.js"), str(port)]
