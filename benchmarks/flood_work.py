"""The work of a flood: what a crowd that is refused at the door does to those who are inside."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.bench import DRAIN_SECONDS, Bench, Case, Column, Sample, Sizes, Work
from benchmarks.deliveries import Publishing, deliver, delivering, delivery_faults
from benchmarks.peers import Peer
from benchmarks.peers.adapter import websocket
from benchmarks.peers.ours import Ours
from benchmarks.processes import Server

SECRET = "a secret of at least thirty-two bytes"
FORGED = (
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJtYWxsb3J5IiwiZXhwIjo0MTAyNDQ0ODAwfQ."
    "uwgbDlSpA8iLbFZl8IrtT-zqbNS3xFRIoSN3xAZlxFo"
)
"""Well formed, and signed with another secret: refused for its signature and for nothing before that."""
ADDRESSES = (1, 250)
MOST_UNDER_WAY = 500
HEAD = websocket("/ws").head.removesuffix("\r\n") + f"Authorization: Bearer {FORGED}\r\n\r\n"
TIMEOUT_SECONDS = 5


class OursGuarded(Ours):
    """The server with a secret for tokens; anonymous peers are served as ever."""

    def environment(self) -> dict[str, str]:
        return super().environment() | {"REALTIME_JWT_ALGORITHMS": "HS256", "REALTIME_JWT_SECRET": SECRET}


@dataclass(frozen=True)
class FloodCase(Case):
    """A case with the number of addresses that the flood comes from."""

    addresses: int = 1


class Flood(Work):
    """Paced publishing in peace, and the same under a flood of handshakes with a forged token."""

    name = "flood"
    title = "Paced publishing under a flood of refused handshakes"
    columns = (
        Column("ratio", "p99 under the flood x in peace", 2, main=True),
        Column("quiet", "p99 ms in peace", 2),
        Column("flooded", "p99 ms under the flood", 2),
        Column("sent", "handshakes/s"),
        Column("unanswered", "of them unanswered %", 1),
        Column("counted", "server counted/s"),
        Column("cpu", "server CPU % more"),
    )
    ours_only = True

    def offers(self, peer: Peer) -> bool:
        return peer.name == "ours"

    def cases(self, peers: Sequence[Peer], sizes: Sizes) -> list[Case]:
        return [
            FloodCase(f"{peer.title}, {count} address{'es' if count > 1 else ''}", OursGuarded(), addresses=count)
            for peer in peers
            if self.wants(peer)
            for count in ADDRESSES
        ]

    def measure(self, bench: Bench, case: Case) -> Sample:
        assert isinstance(case, FloodCase)
        sizes = bench.sizes
        publishing = Publishing(sizes.flood_subscribers, inflight=8, rate=sizes.flood_pace)
        quiet, quiet_window = deliver(bench, case.peer, publishing)
        with (
            bench.serving(case.peer) as server,
            delivering(bench, server, case.peer.dialect, publishing) as load,
            bench.loading(server, "flood", [f"--sub-head={HEAD}"], **flood_numbers(sizes, case.addresses)) as flood,
        ):
            before = turned_away(server)
            window = bench.watch_window(server, load)
            counted = turned_away(server) - before
            flooded = load.wait_event("result", 2 * DRAIN_SECONDS)
            flood.wait_event("start", 0)
            flood.wait_event("end", DRAIN_SECONDS)
            sent = flood.wait_event("result", DRAIN_SECONDS)
            server.check_alive()
        answered, unanswered = sent["refused"], sent["unanswered"]
        values = {
            "ratio": flooded["p99_ms"] / quiet["p99_ms"],
            "quiet": quiet["p99_ms"],
            "flooded": flooded["p99_ms"],
            "sent": (answered + unanswered) / sent["seconds"],
            "unanswered": 100 * unanswered / max(answered + unanswered, 1),
            "counted": counted / (sizes.warmup_seconds + flooded["seconds"]),
            "cpu": 100 * (window.server_cpu / flooded["seconds"] - quiet_window.server_cpu / quiet["seconds"]),
        }
        faults = delivery_faults(quiet) + delivery_faults(flooded)
        if sent["let_in"]:
            faults.append(f"{sent['let_in']:,} let in with a forged token")
        notes = [*quiet_window.notes(quiet["seconds"]), *window.notes(flooded["seconds"])]
        return Sample(values, faults, notes)


def flood_numbers(sizes: Sizes, addresses: int) -> dict[str, float]:
    """The generator's options; the flood begins before what is measured and ends behind it."""
    return {
        "rate": sizes.flood_rate,
        "parallel": MOST_UNDER_WAY,
        "sources": addresses,
        "warmup": sizes.warmup_seconds / 2,
        "duration": sizes.warmup_seconds + sizes.window_seconds,
    }


def turned_away(server: Server) -> int:
    """How many the server has refused since its start, for whatever reason."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/api/v1/stats", timeout=TIMEOUT_SECONDS) as answer:
        refused: dict[str, int] = json.load(answer)["refused"]
    return sum(refused.values())
