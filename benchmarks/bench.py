"""The words of the benchmarks: sizes, cases, samples, columns, and what a work is.

A work is measured on cases, mostly one a peer. One measurement starts a fresh server, runs the generator
against it once and gives a `Sample`; the command line repeats that in rounds, interleaved between the
cases, so that a slow minute of the machine falls on all of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.load import Event, Load, loading
from benchmarks.peers import Peer
from benchmarks.processes import Cores, Server, core_seconds, serving

OPEN_SECONDS = 90
DRAIN_SECONDS = 20


@dataclass(frozen=True)
class Sizes:
    """How much of each thing; the defaults are those of the published figures."""

    subscribers: int = 1000
    inflight: int = 8
    publishers: int = 1
    """Connections that share the publishes in flight."""
    rooms: int = 100
    rooms_inflight: int = 64
    idle_connections: int = 5000
    idle_seconds: float = 30
    storm_parallel: int = 50
    requesters: int = 100
    requests_inflight: int = 10
    """Of each requester."""
    http_requests: int = 3000
    view_subscribers: int = 10_000
    tick_rate: float = 1000
    flood_subscribers: int = 200
    flood_pace: float = 50
    """Publishes a second that the flood is to leave alone."""
    flood_rate: float = 2000
    scale: tuple[int, ...] = (100, 1000, 5000, 10_000)
    rate: float = 20
    warmup_seconds: float = 1
    window_seconds: float = 4


SMOKE = Sizes(
    subscribers=20,
    inflight=4,
    rooms=5,
    rooms_inflight=8,
    idle_connections=20,
    idle_seconds=0.2,
    storm_parallel=4,
    requesters=5,
    requests_inflight=4,
    http_requests=200,
    view_subscribers=20,
    tick_rate=200,
    flood_subscribers=20,
    flood_rate=200,
    rate=50,
    warmup_seconds=0.1,
    window_seconds=0.2,
)


@dataclass(frozen=True)
class Case:
    """One row of a table: a peer, at one size where the work compares sizes."""

    label: str
    peer: Peer
    connections: int = 0


@dataclass(frozen=True)
class Sample:
    """What one measurement gave: values by column, what went wrong in it, what has to be said about it."""

    values: dict[str, float]
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Column:
    """A figure of a work. The main column also shows its spread."""

    key: str
    title: str
    digits: int = 0
    main: bool = False
    ratio: bool = False
    """Whether a further column compares it with the baseline's."""


class Work(ABC):
    """One kind of work and its table."""

    name: str
    """What `--only` calls it."""
    title: str
    columns: tuple[Column, ...]
    baseline = "python-socketio"
    """The peer that the ratios refer to."""
    repeats = True
    """Whether rounds make sense; a long and steady work is measured once."""
    ours_only = False
    in_smoke = True
    """Whether a smoke run does it too."""

    @abstractmethod
    def offers(self, peer: Peer) -> bool:
        """Whether the peer does this kind of work at all."""

    @abstractmethod
    def measure(self, bench: Bench, case: Case) -> Sample:
        """Do the work once."""

    def wants(self, peer: Peer) -> bool:
        """Whether the peer has a row in this table."""
        return self.offers(peer) and (peer.name == "ours" or not self.ours_only)

    def cases(self, peers: Sequence[Peer], sizes: Sizes) -> list[Case]:
        """The rows of the table."""
        return [Case(peer.title, peer) for peer in peers if self.wants(peer)]


@dataclass(frozen=True)
class Window:
    """CPU seconds spent between the start and the end of what is measured."""

    server_cpu: float
    generator_cpu: float
    core_cpu: float
    """What the server's core worked for anybody."""

    def per_cpu(self, count: float) -> float:
        """So many of them for one CPU-second; the clock of /proc cannot tell less than a tick of 10 ms."""
        return count / max(self.server_cpu, 0.01)

    def notes(self, seconds: float) -> list[str]:
        """Say so if something other than the server was the limit: compare such figures by CPU-second."""
        if self.core_cpu - self.server_cpu > 0.1 * seconds:
            return ["others used its core too"]
        if self.generator_cpu > 0.95 * seconds and self.server_cpu < 0.9 * seconds:
            return ["the generator was the limit"]
        return []


@dataclass(frozen=True)
class Bench:
    """What every measurement needs."""

    program: Path
    folder: Path
    cores: Cores
    sizes: Sizes

    @contextmanager
    def serving(self, peer: Peer) -> Iterator[Server]:
        """A fresh server of the peer, on its core."""
        with serving(peer, self.cores.server, self.folder / peer.name) as server:
            yield server

    @contextmanager
    def loading(self, server: Server, mode: str, texts: list[str], **numbers: float) -> Iterator[Load]:
        """The generator, on its core."""
        timed = {"warmup": self.sizes.warmup_seconds, "duration": self.sizes.window_seconds}
        with loading(self.program, self.cores.load, server.port, mode, texts, **(timed | numbers)) as load:
            yield load

    def watch_window(self, server: Server, load: Load) -> Window:
        """Wait for the start and the end of the generator's window, and take the server's CPU time between."""
        load.wait_event("start", self.sizes.warmup_seconds + OPEN_SECONDS)
        before, core = server.cpu_seconds(), core_seconds(self.cores.server)
        end = load.wait_event("end", self.sizes.window_seconds + DRAIN_SECONDS)
        core_cpu = core_seconds(self.cores.server) - core
        return Window(server.cpu_seconds() - before, end["generator_cpu"], core_cpu)


def throughput_columns(unit: str) -> tuple[Column, ...]:
    """The rate and what one CPU-second of the server gives, both with a ratio."""
    return (
        Column("figure", unit, main=True, ratio=True),
        Column("per_cpu", f"{unit.removesuffix('/s')} per CPU-second", ratio=True),
    )


def throughput(result: Event, window: Window, count: str, faults: list[str]) -> Sample:
    """The sample of a work that only counts."""
    rate = result[count] / result["seconds"]
    values = {"figure": rate, "per_cpu": window.per_cpu(result[count])}
    return Sample(values, faults, window.notes(result["seconds"]))
