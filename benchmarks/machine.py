"""Where the figures were obtained: the machine and the versions, without which they say nothing."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.peers import Peer
from benchmarks.processes import Cores


def processor() -> str:
    """The processor's name as the kernel gives it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def describe(cores: Cores, peers: Iterable[Peer]) -> list[str]:
    """A Markdown list for the head of the page."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    pinning = f"server on core {cores.server}, load on core {cores.load}"
    if not cores.apart:
        pinning = "server and load share the only core: the rates say little"
    kernel = ".".join(platform.release().split(".")[:2])
    return [
        f"- {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {platform.system()} {kernel}",
        f"- {processor()}, {os.cpu_count()} cores, {memory:.0f} GiB; {pinning}",
        *(f"- {peer.title}: {peer.version()}" for peer in peers),
    ]
