"""The works of what a subscriber may ask for: a part of each message, or the newest now and then."""

from __future__ import annotations

from benchmarks.bench import Bench, Case, Column, Sample, Work
from benchmarks.deliveries import Publishing, check_descriptors, deliver, delivery_faults
from benchmarks.load import Event
from benchmarks.peers import Peer
from benchmarks.peers.ours import speak

MARK_CHARACTERS = 34
"""A payload that is the generator's mark and no more."""
QUOTE = (
    '{"text":"%PAYLOAD%","side":"buy","price":1688.5,"volume":12800,"bid":1688.4,"ask":1688.6,'
    '"open":1671.2,"high":1690.1,"low":1668.8,"close":1670.0}'
)
VIEWS = (
    ',"fields":["text","price","volume"]',
    ',"fields":["text","bid","ask"]',
    ',"fields":["text","open","high"]',
    ',"fields":["text","low","close"],"filter":{">":["price",1000]}',
    ',"fields":["text","side","price"],"filter":{"and":[{"=":["side","buy"]},{">=":["volume",100]}]}',
)
"""Each shows about as many bytes of every message, so that only their number makes a difference."""
TICK = '{"text":"%PAYLOAD%","price":1688.5,"volume":12800}'
MAX_RATE = 5
MOST_BEYOND = 2
"""The window may begin just before one delivery and end just behind another."""


class Views(Work):
    """Many subscribers of one topic in five views, and as many in one: what the encodings cost."""

    name = "views"
    title = "Fan-out over WebSocket, five views of one topic"
    columns = (
        Column("ratio", "cost of five views x one", 2, main=True),
        Column("five", "CPU µs per delivery, five views", 2),
        Column("one", "CPU µs per delivery, one view", 2),
    )
    ours_only = True

    def offers(self, peer: Peer) -> bool:
        return peer.dialect.websocket is not None

    def measure(self, bench: Bench, case: Case) -> Sample:
        sizes = bench.sizes
        check_descriptors(sizes.view_subscribers)
        publishing = Publishing(sizes.view_subscribers, sizes.inflight, payload=MARK_CHARACTERS)
        dialect = speak(data=QUOTE, wish="%VIEW%")
        values: dict[str, float] = {}
        faults: list[str] = []
        notes: list[str] = []
        for name, views in {"one": VIEWS[:1], "five": VIEWS}.items():
            texts = [f"--view={view}" for view in views]
            result, window = deliver(bench, case.peer, publishing, *texts, dialect=dialect)
            values[name] = 1e6 / window.per_cpu(max(result["deliveries"], 1))
            faults += delivery_faults(result)
            notes += window.notes(result["seconds"])
        return Sample(values | {"ratio": values["five"] / values["one"]}, faults, notes)


class Ticks(Work):
    """A fast symbol to subscribers who want the newest a few times a second."""

    name = "ticks"
    title = "A symbol's ticks to subscribers with a rate limit"
    columns = (
        Column("cpu", "server CPU %", 1, main=True),
        Column("ticks", "ticks/s"),
        Column("figure", "deliveries/s"),
        Column("most", "most to one subscriber, each s", 1),
        Column("p99", "p99 ms, age when delivered", 1),
    )
    ours_only = True

    def offers(self, peer: Peer) -> bool:
        return peer.dialect.websocket is not None

    def measure(self, bench: Bench, case: Case) -> Sample:
        sizes = bench.sizes
        # One connection publishes, so that the order of the numbers is that of the server.
        publishing = Publishing(sizes.subscribers, inflight=1, rate=sizes.tick_rate, latest=1, payload=MARK_CHARACTERS)
        dialect = speak("symbol:600519", TICK, f',"mode":"latest","max_rate":{MAX_RATE}')
        result, window = deliver(bench, case.peer, publishing, dialect=dialect)
        seconds = result["seconds"]
        values = {
            "cpu": 100 * window.server_cpu / seconds,
            "ticks": result["publishes"] / seconds,
            "figure": result["deliveries"] / seconds,
            "most": result["most"] / seconds,
            "p99": result["p99_ms"],
        }
        notes = ["the ticks came late"] if values["ticks"] < 0.95 * sizes.tick_rate else []
        return Sample(values, tick_faults(result), notes)


def tick_faults(result: Event) -> list[str]:
    """Older values may be left out; the newest may not, and nothing goes faster than it was asked for."""
    faults = delivery_faults(result | {"lost": 0})
    if result["behind"]:
        faults.append(f"{result['behind']:,} subscribers do not have the newest value")
    if result["most"] > MAX_RATE * result["seconds"] + MOST_BEYOND:
        faults.append(f"{result['most']:,} deliveries to one subscriber in {result['seconds']:.1f} s")
    return faults
