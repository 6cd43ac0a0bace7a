"""One send() each in C, compiled by the run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from benchmarks.compiling import compile_c
from benchmarks.peers.adapter import (
    JSON_PING,
    JSON_PUBLISH,
    JSON_WEBSOCKET,
    SERVERS,
    Dialect,
    Peer,
    event_stream,
    expect,
    websocket,
)


class OneSendEach(Peer):
    name = "c"
    title = "C, one send() each"
    dialect = Dialect(
        websocket=JSON_WEBSOCKET,
        sse=event_stream("/sse?topic=room:bench-%ROOM%", expect("event: welcome")),
        publisher=websocket("/ws"),
        publish=JSON_PUBLISH,
        ping=JSON_PING,
    )

    def absent(self) -> str | None:
        return None if shutil.which("cc") else "no C compiler"

    def version(self) -> str:
        compiler = subprocess.run(["cc", "--version"], capture_output=True, text=True, timeout=10, check=True)
        return f"{compiler.stdout.splitlines()[0]}, -O2"

    def command(self, port: int, folder: Path) -> list[str]:
        return [str(compile_c(SERVERS / "one_send_each.c", folder)), str(port)]
