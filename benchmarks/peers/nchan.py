"""nginx with the nchan module, one worker, published to by HTTP POST."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from benchmarks.peers.adapter import PAYLOAD, SERVERS, Dialect, Exchange, Peer, event_stream, post, websocket

MODULE = "ngx_nchan_module.so"


def describe_nginx() -> str:
    """What `nginx -V` says, or nothing."""
    nginx = shutil.which("nginx")
    if nginx is None:
        return ""
    return subprocess.run([nginx, "-V"], capture_output=True, text=True, timeout=10, check=False).stderr


def find_module() -> Path | None:
    """The nchan module where this nginx keeps its modules."""
    path = re.search(r"--modules-path=(\S+)", describe_nginx())
    if path is None:
        return None
    module = Path(path[1]) / MODULE
    return module if module.exists() else None


class Nchan(Peer):
    name = "nchan"
    title = "nginx nchan"
    dialect = Dialect(
        websocket=websocket("/subscribe/bench-%ROOM%"),
        sse=event_stream("/subscribe/bench-%ROOM%"),
        publisher=post("/publish/bench-%ROOM%"),
        publish=PAYLOAD,
        requester=websocket("/echo/%CONN%"),
        ping=Exchange('{"reply":%ID%}', '"reply"', '"reply":'),
    )

    def absent(self) -> str | None:
        if shutil.which("nginx") is None:
            return "nginx is not installed"
        return None if find_module() else "nginx has no nchan module (package libnginx-mod-nchan)"

    def version(self) -> str:
        nginx = re.search(r"nginx version: nginx/(\S+)", describe_nginx())
        return f"nginx {nginx[1] if nginx else 'of unknown version'} with its packaged nchan"

    def command(self, port: int, folder: Path) -> list[str]:
        text = (SERVERS / "nchan.conf").read_text()
        text = text.replace("%MODULE%", str(find_module())).replace("%PORT%", str(port))
        # A worker of another user could not enter the scratch folder.
        text = text.replace("%USER%", "user root;" if os.geteuid() == 0 else "")
        configuration = folder / "nchan.conf"
        configuration.write_text(text)
        return ["nginx", "-p", str(folder), "-c", str(configuration)]
