"""Starts and ends servers, pinned to one core, and reads what they cost from /proc.

A server may be a tree (nginx has a master and a worker), so every figure is the sum over the tree. Whatever
happens, a server is ended by its own process ids; nothing is ever ended by name.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers import Peer

START_SECONDS = 20
STOP_SECONDS = 0.4
"""All is measured by then; how a server leaves is a work of its own, which does not end it like this."""
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)
TICKS = os.sysconf("SC_CLK_TCK")


class ServerError(Exception):
    """A server did not start, or ended while it was needed."""


@dataclass(frozen=True)
class Cores:
    """Which core serves and which one makes the load; the same where the machine has only one."""

    server: int
    load: int

    @classmethod
    def pick(cls) -> Cores:
        usable = sorted(os.sched_getaffinity(0))
        return cls(server=usable[0], load=usable[-1])

    @property
    def apart(self) -> bool:
        return self.server != self.load


def pinned(core: int) -> Callable[[], None]:
    """What a child does before it runs its command: move to its core, allow itself enough descriptors.

    It also asks the kernel to be told if this process dies, even by a kill that runs no clean-up here.
    """

    def prepare() -> None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        os.sched_setaffinity(0, {core})
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    return prepare


def descriptor_limit() -> int:
    """How many descriptors one process of the run can have."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def process_tree(pid: int) -> list[int]:
    """The process and all its living descendants."""
    pids = [pid]
    for known in pids:
        with contextlib.suppress(OSError):
            pids += map(int, Path(f"/proc/{known}/task/{known}/children").read_text().split())
    return pids


def cpu_seconds(pid: int) -> float:
    """User and system time of the tree so far, children that have ended included."""
    ticks = 0
    for known in process_tree(pid):
        with contextlib.suppress(OSError):
            # The command name may hold spaces; the numbers begin after its closing parenthesis, at field 3.
            fields = Path(f"/proc/{known}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
    return ticks / TICKS


def core_seconds(core: int) -> float:
    """Time the core has worked for anybody so far, the hypervisor's share of other machines included."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _wait, _irq, _softirq, steal = map(int, ticks[:8])
            return (user + nice + system + steal) / TICKS
    return 0.0


def resident_bytes(pid: int) -> int:
    """Resident memory of the tree."""
    pages = 0
    for known in process_tree(pid):
        with contextlib.suppress(OSError):
            pages += int(Path(f"/proc/{known}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def end_process(process: subprocess.Popen[bytes]) -> None:
    """Ask the tree to end, then make it; returns when the process itself is gone."""
    tree = process_tree(process.pid)
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pid in tree[1:]:
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(pid) == process.pid:  # still the one we started: the server leads its own group
                os.kill(pid, signal.SIGKILL)


@dataclass(frozen=True)
class Server:
    """A running server."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.pid)

    def resident_bytes(self) -> int:
        return resident_bytes(self.pid)

    def check_alive(self) -> None:
        """Raise if the server ended by itself."""
        if self.process.poll() is not None:
            raise ServerError(f"ended with {self.process.returncode}: {self.last_words()}")

    def last_words(self) -> str:
        """The last line it wrote, for the error message."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "(it wrote nothing)"


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_ready(peer: Peer, port: int) -> bool:
    """Whether the server answers."""
    try:
        if peer.ready_path is None:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return True
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{peer.ready_path}", timeout=1) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


@contextmanager
def serving(peer: Peer, core: int, folder: Path) -> Iterator[Server]:
    """Run the peer's server on `core`; it has ended when the block is left."""
    port = free_port()
    folder.mkdir(exist_ok=True)
    log = folder / "output.log"
    command = peer.command(port, folder)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=os.environ | peer.environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=pinned(core),
            start_new_session=True,
        )
    server = Server(process, port, log)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not is_ready(peer, port):
            server.check_alive()
            if time.monotonic() > deadline:
                raise ServerError(f"not ready after {START_SECONDS} s: {server.last_words()}")
            time.sleep(0.02)
        yield server
    finally:
        end_process(process)
