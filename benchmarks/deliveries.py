"""Runs of deliveries: subscribers, what is published to them, and what no server may do to them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.bench import DRAIN_SECONDS, OPEN_SECONDS, Bench, Window
from benchmarks.load import Event, Load, subscriber_texts
from benchmarks.peers import Peer
from benchmarks.peers.adapter import Dialect
from benchmarks.processes import Server, ServerError, descriptor_limit

SPARE_DESCRIPTORS = 200
PORTS_PER_SOURCE = 20_000
"""Connections from one source address; the kernel's usual range of local ports holds 28,000."""
STOP_LIMIT_SECONDS = 60
PAYLOAD_CHARACTERS = 117
"""128 bytes of JSON."""


def sources_for(connections: int) -> int:
    """How many source addresses 127.0.0.x so many connections need."""
    return -(-connections // PORTS_PER_SOURCE)


def check_descriptors(connections: int) -> None:
    """Raise if server or generator could not have so many connections."""
    limit = descriptor_limit()
    if connections + SPARE_DESCRIPTORS > limit:
        raise ServerError(f"this machine allows a process {limit:,} descriptors")


def delivery_faults(result: Event) -> list[str]:
    """What no server may do to those who read: lose, double, mix up, hang up."""
    kinds = {
        "lost": "deliveries lost",
        "duplicates": "deliveries doubled",
        "stray": "deliveries of another topic",
        "lost_connections": "connections lost",
    }
    return [f"{result[key]:,} {text}" for key, text in kinds.items() if result[key]]


@dataclass(frozen=True)
class Publishing:
    """The numbers of one run of deliveries."""

    connections: int
    inflight: int
    rooms: int = 1
    stalled: int = 0
    rate: float = 0
    watch_close: int = 0
    latest: int = 0
    """1: subscribers may miss what is not the newest."""
    payload: int = PAYLOAD_CHARACTERS


@contextmanager
def delivering(
    bench: Bench,
    server: Server,
    dialect: Dialect,
    publishing: Publishing,
    *texts: str,
    transport: str = "websocket",
) -> Iterator[Load]:
    """Run the generator with subscribers over `transport`; it is ready when the block is entered."""
    script = getattr(dialect, transport)
    numbers = {
        **vars(publishing),
        "sources": sources_for(publishing.connections),
        "open_timeout": OPEN_SECONDS - 5,
        "drain_timeout": DRAIN_SECONDS - 2,
        "hold_timeout": STOP_LIMIT_SECONDS,
    }
    publishers = subscriber_texts(dialect, script, publishing.inflight, bench.sizes.publishers)
    arguments = [*publishers, *texts]
    with bench.loading(server, "deliver", arguments, **numbers) as load:
        load.wait_event("ready", OPEN_SECONDS)
        yield load


def deliver(
    bench: Bench,
    peer: Peer,
    publishing: Publishing,
    *texts: str,
    dialect: Dialect | None = None,
    transport: str = "websocket",
) -> tuple[Event, Window]:
    """One run of deliveries against a fresh server, in the peer's own dialect unless another is given."""
    with (
        bench.serving(peer) as server,
        delivering(bench, server, dialect or peer.dialect, publishing, *texts, transport=transport) as load,
    ):
        window = bench.watch_window(server, load)
        result = load.wait_event("result", 2 * DRAIN_SECONDS)
        server.check_alive()
    return result, window
