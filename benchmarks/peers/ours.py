"""This project's server, started as its users start it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import sys
from pathlib import Path

from benchmarks.peers.adapter import (
    JSON_PING,
    JSON_PONG,
    JSON_PUBLISH,
    Dialect,
    Peer,
    event_stream,
    expect,
    send,
    websocket,
)

#: What the server is told to accept, for publishing over HTTP.
API_KEY = "bench"


class Ours(Peer):
    name = "ours"
    title = "trio-realtime"
    ready_path = "/healthz"
    dialect = Dialect(
        websocket=websocket(
            "/ws",
            expect('"welcome"'),
            send('{"type":"subscribe","id":1,"topic":"room:bench-%ROOM%"}'),
            expect('"subscribed"'),
        ),
        sse=event_stream("/sse?topic=room:bench-%ROOM%", expect("event: welcome")),
        publisher=websocket("/ws", expect('"welcome"')),
        publish=JSON_PUBLISH,
        request=JSON_PING,
        reply=JSON_PONG,
    )

    def absent(self) -> str | None:
        try:
            found = importlib.util.find_spec("realtime.__main__")
        except ModuleNotFoundError:
            found = None
        return None if found else "`python -m realtime` cannot be imported"

    def version(self) -> str:
        try:
            own = importlib.metadata.version("trio-realtime")
        except importlib.metadata.PackageNotFoundError:
            own = "from the source tree"
        return f"trio-realtime {own}, trio {importlib.metadata.version('trio')}, Python {platform.python_version()}"

    def command(self, port: int, folder: Path) -> list[str]:
        return [
            sys.executable,
            "-m",
            "realtime",
            "serve",
            "--dev",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
        ]

    def environment(self) -> dict[str, str]:
        return {"REALTIME_API_KEYS": API_KEY}
