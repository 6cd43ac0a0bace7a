"""This project's server, started as its users start it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import sys
from pathlib import Path

from benchmarks.peers.adapter import (
    JSON_PING,
    JSON_WORK,
    PAYLOAD,
    Dialect,
    Peer,
    event_stream,
    expect,
    send,
    websocket,
)

#: What the server is told to accept, for publishing over HTTP.
API_KEY = "bench"
ROOM = "room:bench-%ROOM%"


def speak(topic: str = ROOM, data: str = PAYLOAD, wish: str = "") -> Dialect:
    """The protocol: `data` is published to `topic`; `wish` is what else a WebSocket subscriber asks of it."""
    subscribe = '{"type":"subscribe","id":1,"topic":"' + topic + '"' + wish + "}"
    return Dialect(
        websocket=websocket("/ws", expect('"welcome"'), send(subscribe), expect('"subscribed"')),
        sse=event_stream(f"/sse?topic={topic}", expect("event: welcome")),
        publisher=websocket("/ws", expect('"welcome"')),
        publish='{"type":"publish","id":%ID%,"topic":"' + topic + '","data":' + data + "}",
        ping=JSON_PING,
        work=JSON_WORK,
    )


class Ours(Peer):
    name = "ours"
    title = "trio-realtime"
    ready_path = "/healthz"
    dialect = speak()

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
        # One connection speaks for many users here, and all come from one address: what keeps such a peer from a public
        # server is switched off.
        limits = ("COMMAND_RATE", "PUBLISH_RATE", "MAX_CONNECTIONS_PER_ADDRESS")
        return {"REALTIME_API_KEYS": API_KEY, **{f"REALTIME_{limit}": "off" for limit in limits}}

    def working(self) -> Peer:
        return OursWorking()


class OursWorking(Ours):
    """The server with a handler, started as an application starts it."""

    def command(self, port: int, folder: Path) -> list[str]:
        return [sys.executable, "-m", "benchmarks.peers.servers.ours_app", str(port)]
