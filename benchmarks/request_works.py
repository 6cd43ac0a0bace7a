"""The works of requests: a question at a time, and many whose handler takes its time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.bench import (
    DRAIN_SECONDS,
    OPEN_SECONDS,
    Bench,
    Case,
    Column,
    Sample,
    Sizes,
    Window,
    Work,
    throughput,
    throughput_columns,
)
from benchmarks.load import Event, requester_texts
from benchmarks.peers import Peer
from benchmarks.peers.adapter import Exchange


def reply_faults(result: Event) -> list[str]:
    """What no server may do to those who ask: leave them waiting, answer twice, hang up."""
    kinds = {
        "unanswered": "requests not answered",
        "stray": "replies to no open request",
        "lost_connections": "connections lost",
    }
    return [f"{result[key]:,} {text}" for key, text in kinds.items() if result[key]]


def exchange_with(bench: Bench, peer: Peer, exchange: Exchange, inflight: int) -> tuple[Event, Window]:
    """So many requests under way on each connection, against a fresh server."""
    texts = requester_texts(peer.dialect, exchange)
    numbers = {
        "connections": bench.sizes.requesters,
        "request_inflight": inflight,
        "drain_timeout": DRAIN_SECONDS - 2,
    }
    with (
        bench.serving(peer) as server,
        bench.loading(server, "request", texts, **numbers) as load,
    ):
        load.wait_event("ready", OPEN_SECONDS)
        window = bench.watch_window(server, load)
        result = load.wait_event("result", DRAIN_SECONDS)
        server.check_alive()
    return result, window


class Requests(Work):
    """One request and its reply at a time on each of many connections."""

    name = "request"
    title = "Request and reply over WebSocket"
    columns = throughput_columns("replies/s")

    def offers(self, peer: Peer) -> bool:
        return peer.dialect.ping is not None

    def measure(self, bench: Bench, case: Case) -> Sample:
        assert case.peer.dialect.ping is not None
        result, window = exchange_with(bench, case.peer, case.peer.dialect.ping, 1)
        return throughput(result, window, "completed", reply_faults(result))


class InFlight(Work):
    """Many requests under way on each connection; the handler of each waits before it answers."""

    name = "inflight"
    title = "Requests in flight, with a handler that waits 10 ms"
    columns = (
        *throughput_columns("replies/s"),
        Column("p50", "p50 ms", 1),
        Column("p99", "p99 ms", 1),
    )

    def offers(self, peer: Peer) -> bool:
        return peer.dialect.work is not None

    def cases(self, peers: Sequence[Peer], sizes: Sizes) -> list[Case]:
        return [replace(case, peer=case.peer.working()) for case in super().cases(peers, sizes)]

    def measure(self, bench: Bench, case: Case) -> Sample:
        assert case.peer.dialect.work is not None
        result, window = exchange_with(bench, case.peer, case.peer.dialect.work, bench.sizes.requests_inflight)
        sample = throughput(result, window, "completed", reply_faults(result))
        return replace(sample, values=sample.values | {"p50": result["p50_ms"], "p99": result["p99_ms"]})
