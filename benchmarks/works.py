"""The works: what each one has a server do, and what it reads off."""

from __future__ import annotations

import contextlib
import json
import signal
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks.bench import (
    DRAIN_SECONDS,
    OPEN_SECONDS,
    Bench,
    Case,
    Column,
    Sample,
    Sizes,
    Work,
    throughput,
    throughput_columns,
)
from benchmarks.deliveries import (
    STOP_LIMIT_SECONDS,
    Publishing,
    check_descriptors,
    deliver,
    delivering,
    delivery_faults,
    sources_for,
)
from benchmarks.flood_work import Flood
from benchmarks.http_work import HttpRequests
from benchmarks.load import visitor_texts
from benchmarks.peers import Peer
from benchmarks.processes import Server
from benchmarks.request_works import InFlight, Requests
from benchmarks.view_works import Ticks, Views

STORM_SOURCES = 50
"""A closed connection keeps its local port for a minute, and a storm closes 100,000 of them and more."""
LARGE_PAYLOAD_CHARACTERS = 2000
"""Enough in a few seconds to fill what kernel buffers would hide of a stalled reader."""


class FanOut(Work):
    """Publishes in flight to subscribers of one topic; one is done when all of them have it."""

    name = "fanout-ws"
    title = "Fan-out over WebSocket, one topic"
    columns = throughput_columns("deliveries/s")
    transport = "websocket"

    def offers(self, peer: Peer) -> bool:
        return getattr(peer.dialect, self.transport) is not None

    def publishing(self, sizes: Sizes) -> Publishing:
        return Publishing(sizes.subscribers, sizes.inflight)

    def measure(self, bench: Bench, case: Case) -> Sample:
        result, window = deliver(bench, case.peer, self.publishing(bench.sizes), transport=self.transport)
        return throughput(result, window, "deliveries", delivery_faults(result))


class FanOutSSE(FanOut):
    """The same to event streams."""

    name = "fanout-sse"
    title = "Fan-out over Server-Sent Events, one topic"
    transport = "sse"
    baseline = "sse-starlette"


class Rooms(FanOut):
    """The same spread over many small topics, where little can be shared."""

    name = "rooms"
    title = "Fan-out over WebSocket, rooms of 10"

    def publishing(self, sizes: Sizes) -> Publishing:
        return Publishing(10 * sizes.rooms, sizes.rooms_inflight, rooms=sizes.rooms)


class OneInFlight(FanOut):
    """One message at a time: nothing waits that could be joined."""

    name = "one"
    title = "Fan-out over WebSocket, 1 in flight"
    in_smoke = False  # at toy sizes it is `fanout-ws` once more

    def publishing(self, sizes: Sizes) -> Publishing:
        return Publishing(sizes.subscribers, 1)


class Paced(Work):
    """A calm, steady rate: how long a message takes to its readers, from the moment it was due."""

    name = "paced"
    title = "Paced publishing: latency of delivery"
    columns = (
        Column("p99", "p99 ms", 1, main=True, ratio=True),
        Column("p50", "p50 ms", 1),
        Column("delivered", "delivered in time %", 1),
        Column("cpu", "server CPU %"),
    )

    def offers(self, peer: Peer) -> bool:
        return peer.dialect.websocket is not None

    def measure(self, bench: Bench, case: Case) -> Sample:
        sizes = bench.sizes
        # An HTTP publisher needs a connection for each publish that is still under way.
        publishing = Publishing(sizes.subscribers, inflight=8, rate=sizes.rate)
        result, window = deliver(bench, case.peer, publishing)
        delivered = result["deliveries"] / (sizes.rate * result["seconds"] * sizes.subscribers)
        values = {
            "p99": result["p99_ms"],
            "p50": result["p50_ms"],
            "delivered": 100 * min(delivered, 1),
            "cpu": 100 * window.server_cpu / result["seconds"],
        }
        notes = ["cannot keep up"] if delivered < 0.95 else []
        return Sample(values, delivery_faults(result), notes)


class Idle(Work):
    """Connections that only stay: memory of each, and CPU for their heartbeats."""

    name = "idle"
    title = "Idle connections"
    columns = (
        Column("memory", "KB each", 1, main=True, ratio=True),
        Column("cpu", "CPU % per 1,000", 2),
    )
    repeats = False

    def offers(self, peer: Peer) -> bool:
        return peer.dialect.websocket is not None

    def measure(self, bench: Bench, case: Case) -> Sample:
        sizes, dialect = bench.sizes, case.peer.dialect
        assert dialect.websocket is not None
        numbers = {
            "connections": sizes.idle_connections,
            "sources": sources_for(sizes.idle_connections),
            "open_timeout": OPEN_SECONDS - 5,
            "hold_timeout": sizes.idle_seconds + 30,
        }
        with bench.serving(case.peer) as server:
            empty = server.resident_bytes()
            with bench.loading(server, "idle", visitor_texts(dialect, dialect.websocket), **numbers) as load:
                load.wait_event("ready", OPEN_SECONDS)
                time.sleep(min(2, sizes.idle_seconds))  # what the connecting left to do is not idling
                memory = server.resident_bytes() - empty
                before = server.cpu_seconds()
                time.sleep(sizes.idle_seconds)
                cpu = server.cpu_seconds() - before
                load.release()
                result = load.wait_event("result", DRAIN_SECONDS)
        values = {
            "memory": memory / sizes.idle_connections / 1024,
            "cpu": 100 * cpu / sizes.idle_seconds / (sizes.idle_connections / 1000),
        }
        lost = result["lost_connections"]
        return Sample(values, [f"{lost} connections lost"] if lost else [])


class Connects(Work):
    """A reconnect storm: connect, shake hands, subscribe, wait for the confirmation, leave."""

    name = "connects"
    title = "Connects over WebSocket"
    columns = throughput_columns("connects/s")

    def offers(self, peer: Peer) -> bool:
        return peer.dialect.websocket is not None

    def measure(self, bench: Bench, case: Case) -> Sample:
        dialect = case.peer.dialect
        assert dialect.websocket is not None
        texts = visitor_texts(dialect, dialect.websocket)
        numbers = {"parallel": bench.sizes.storm_parallel, "sources": STORM_SOURCES}
        with (
            bench.serving(case.peer) as server,
            bench.loading(server, "storm", texts, **numbers) as load,
        ):
            window = bench.watch_window(server, load)
            result = load.wait_event("result", DRAIN_SECONDS)
            server.check_alive()
        faults = [f"{result['failed']} connects failed"] if result["failed"] else []
        return throughput(result, window, "completed", faults)


class Stalled(Work):
    """One subscriber stops reading: what that does to the others, to the memory, and whether it is told."""

    name = "stalled"
    title = "One stalled subscriber among many"
    columns = (
        Column("slowdown", "others slow down %", 1, main=True),
        Column("slowdown_cpu", "by CPU-second %", 1),
        Column("lost", "others lost"),
        Column("memory", "server memory grew MB", 1),
        Column("missed", "stalled one missed"),
        Column("told", "told in gaps"),
        Column("counter", "server's drop counter"),
    )

    def offers(self, peer: Peer) -> bool:
        return peer.dialect.websocket is not None

    def measure(self, bench: Bench, case: Case) -> Sample:
        sizes, peer = bench.sizes, case.peer
        reading = Publishing(sizes.subscribers - 1, sizes.inflight, payload=LARGE_PAYLOAD_CHARACTERS)
        publishing = replace(reading, connections=sizes.subscribers, stalled=1)
        alone, window_alone = deliver(bench, peer, reading)
        gaps = ('--gap-marker="type":"gap"', '--gap-count="count":')
        with bench.serving(peer) as server, delivering(bench, server, peer.dialect, publishing, *gaps) as load:
            memory = server.resident_bytes()
            window = bench.watch_window(server, load)
            memory = server.resident_bytes() - memory
            load.wait_event("settled", 2 * DRAIN_SECONDS)
            load.release()
            load.wait_event("resumed", 2 * DRAIN_SECONDS)
            counter = drop_counter(server) if peer.name == "ours" else None
            load.release()
            result = load.wait_event("result", DRAIN_SECONDS)
        rates = [run["deliveries"] / run["seconds"] for run in (alone, result)]
        costs = [window_alone.per_cpu(alone["deliveries"]), window.per_cpu(result["deliveries"])]
        missed = result["stalled_expected"] - result["stalled_received"]
        values = {
            "slowdown": 100 * (1 - rates[1] / rates[0]),
            "slowdown_cpu": 100 * (1 - costs[1] / costs[0]),
            "lost": result["lost"],
            "memory": memory / 1e6,
            "missed": missed,
            "told": result["gap_total"],
        }
        faults = delivery_faults(result)
        if counter is not None:
            values["counter"] = counter
            if counter != missed:
                faults.append(f"the drop counter says {counter:,}, the subscriber missed {missed:,}")
        notes = [*window_alone.notes(alone["seconds"]), *window.notes(result["seconds"])]
        return Sample(values, faults, notes)


def drop_counter(server: Server) -> int | None:
    """Messages dropped since the start, from the server's own statistics; None where it offers none."""
    with contextlib.suppress(OSError, ValueError):
        url = f"http://127.0.0.1:{server.port}/api/v1/stats"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return find_dropped(json.load(answer))
    return None


def find_dropped(stats: Any) -> int | None:
    """The outermost "dropped": a number, or numbers by reason."""
    level = [stats]
    while level:
        tables = [table for table in level if isinstance(table, dict)]
        for table in tables:
            dropped = table.get("dropped")
            if isinstance(dropped, int):
                return dropped
            if isinstance(dropped, dict):
                return sum(value for value in dropped.values() if isinstance(value, int))
        level = [value for table in tables for value in table.values()]
    return None


class Scale(Work):
    """What one delivery costs as the number of subscribers grows."""

    name = "scale"
    title = "Cost of a delivery by number of subscribers"
    columns = (Column("cost", "CPU µs per delivery", 2, main=True), Column("figure", "deliveries/s"))
    ours_only = True
    in_smoke = False  # as above

    def offers(self, peer: Peer) -> bool:
        return peer.dialect.websocket is not None

    def cases(self, peers: Sequence[Peer], sizes: Sizes) -> list[Case]:
        return [
            Case(f"{peer.title}, {count:,} subscribers", peer, count)
            for peer in peers
            if self.wants(peer)
            for count in sizes.scale
        ]

    def measure(self, bench: Bench, case: Case) -> Sample:
        check_descriptors(case.connections)
        result, window = deliver(bench, case.peer, Publishing(case.connections, bench.sizes.inflight))
        values = {
            "cost": 1e6 / window.per_cpu(max(result["deliveries"], 1)),
            "figure": result["deliveries"] / result["seconds"],
        }
        return Sample(values, delivery_faults(result), window.notes(result["seconds"]))


class Stop(Work):
    """SIGTERM under load, with one connection stuck: is everyone told, and is the process gone in time?"""

    name = "stop"
    title = "SIGTERM with one connection stuck"
    columns = (
        Column("seconds", "seconds to exit", 2, main=True),
        Column("told", "told why %", 1),
        Column("coded", "closed with 4100 %", 1),
        Column("closed", "closed %", 1),
        Column("exit", "exit code"),
    )
    ours_only = True
    in_smoke = False  # the stuck connection has the whole grace time

    def offers(self, peer: Peer) -> bool:
        return peer.dialect.websocket is not None

    def measure(self, bench: Bench, case: Case) -> Sample:
        publishing = Publishing(
            bench.sizes.subscribers,
            bench.sizes.inflight,
            stalled=1,
            watch_close=1,
            payload=LARGE_PAYLOAD_CHARACTERS,
        )
        texts = ('--disconnect-marker="type":"disconnect"', "--close-code=4100")
        with (
            bench.serving(case.peer) as server,
            delivering(bench, server, case.peer.dialect, publishing, *texts) as load,
        ):
            bench.watch_window(server, load)
            load.wait_event("closing", 2 * DRAIN_SECONDS)
            begin = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            load.release()
            code = server.process.wait(STOP_LIMIT_SECONDS)
            seconds = time.monotonic() - begin
            closed = load.wait_event("closed", STOP_LIMIT_SECONDS)
            result = load.wait_event("result", DRAIN_SECONDS)
        shares = {key: 100 * closed[key] / closed["reading"] for key in ("told", "coded", "closed")}
        faults = delivery_faults(result)
        if min(shares.values()) < 100:
            faults.append("not everyone was told and closed")
        if code != 0:
            faults.append(f"exit code {code}")
        return Sample({"seconds": seconds, "exit": code} | shares, faults)


ALL: tuple[Work, ...] = (
    FanOut(),
    FanOutSSE(),
    Rooms(),
    OneInFlight(),
    Paced(),
    Idle(),
    Connects(),
    Requests(),
    InFlight(),
    HttpRequests(),
    Stalled(),
    Scale(),
    Views(),
    Ticks(),
    Flood(),
    Stop(),
)
