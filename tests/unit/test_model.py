"""A generated program of publishers, peers that flap and stall, and time that passes, against what must always hold."""

from __future__ import annotations

import trio
import trio.testing
from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st

from realtime import Settings, open_engine
from realtime.testing import Peer, connect

TOPICS = ("room:a", "room:b", "symbol:600519")
FIELDS = (None, ["a"], ["b"], ["a", "b"])
settle = trio.testing.wait_all_tasks_blocked


@define
class Seen:
    """What one subscription was sent, from its confirmation on."""

    start: int
    epoch: str
    latest: bool
    recovered: str | None
    #: What it was shown of, by the offset from which on it was.
    views: list[tuple[int, list[str] | None]]
    #: (first, last, count): count is 0 for a message.
    entries: list[tuple[int, int, int]] = field(factory=list)

    @property
    def place(self) -> int:
        """Up to where it has been told."""
        return self.entries[-1][1] if self.entries else self.start

    def shows(self, offset: int, members: set[str]) -> bool:
        """Whether its view at that time leaves anything of a message."""
        fields = next(fields for first, fields in reversed(self.views) if offset >= first)
        return fields is None or bool(members & set(fields))


@define
class Member:
    """One peer of the model, connected or not."""

    number: int
    peer: Peer | None = None
    leave: trio.Event | None = None
    seen: dict[str, Seen] = field(factory=dict)
    #: (epoch, offset) of topics that it has been subscribed to.
    places: dict[str, tuple[str, int]] = field(factory=dict)
    stalled: bool = False


class Model:
    """Runs the steps; keeps what was published."""

    def __init__(self, engine, nursery) -> None:
        self.engine = engine
        self.nursery = nursery
        self.published: dict[tuple[str, str], list[set[str]]] = {}
        self.members = [Member(number) for number in range(3)]

    async def connect(self, member: Member) -> None:
        """Bring a peer up."""
        left = member.leave = trio.Event()

        async def live(task_status) -> None:
            async with connect(self.engine, buffer_bytes=400) as peer:
                task_status.started(peer)
                await left.wait()

        member.peer = await self.nursery.start(live)

    async def step(self, step: tuple) -> None:
        """One step of the program."""
        kind = step[0]
        if kind == "publish":
            _, topic, count, members, key, size = step
            for _ in range(count):
                data = dict.fromkeys(members, "x" * size)
                position = await self.engine.publish(topic, data, key=key)
                self.published.setdefault((topic, position.epoch), []).append(set(members))
                assert position.offset == len(self.published[topic, position.epoch])
            return
        if kind == "time":
            await trio.sleep(step[1])
            return
        member = self.members[step[1]]
        if kind == "flap":
            if member.peer is None:
                await self.connect(member)
            else:
                self.read(member)
                for topic, seen in member.seen.items():
                    member.places[topic] = (seen.epoch, seen.place)
                member.leave.set()
                await settle()
                member.peer, member.seen, member.stalled = None, {}, False
            return
        if member.peer is None:
            return
        if kind == "stall":
            member.stalled = not member.stalled
            if member.stalled:
                member.peer.stall()
            else:
                member.peer.resume()
        elif not member.stalled:
            await self.command(member, *step)

    async def command(self, member: Member, kind: str, _number: int, topic: str, fields, mode, recover) -> None:
        """A command of a peer that reads."""
        seen = member.seen.get(topic)
        await settle()
        self.read(member)
        if kind == "subscribe" and seen is None:
            options = {"mode": mode} | ({} if fields is None else {"fields": fields})
            if recover and topic in member.places:
                epoch, offset = member.places[topic]
                options["recover"] = {"epoch": epoch, "offset": offset}
            reply = await member.peer.command("subscribe", topic=topic, **options)
            assert reply["type"] == "subscribed"
            start = reply["offset"]
            if reply.get("recovered") in ("full", "latest"):
                assert reply["epoch"] == member.places[topic][0]
                start = member.places[topic][1]
            seen = Seen(start, reply["epoch"], mode == "latest", reply.get("recovered"), [(0, fields)])
            member.seen[topic] = seen
        elif kind == "update" and seen is not None:
            await member.peer.command("update", topic=topic, fields=fields, mode=mode)
            await settle()
            self.read(member)
            seen.views.append((len(self.published.get((topic, seen.epoch), ())) + 1, fields))
            seen.latest = seen.latest or mode == "latest"
        elif kind == "unsubscribe" and seen is not None:
            await member.peer.command("unsubscribe", topic=topic)
            self.read(member)
            del member.seen[topic]
            member.places[topic] = (seen.epoch, seen.place)
        self.read(member)

    def read(self, member: Member) -> None:
        """Take in what came."""
        for push in member.peer.pending():
            if push["type"] == "message":
                seen = member.seen[push["topic"]]
                entry = (push["offset"], push["offset"], 0)
            elif push["type"] == "gap":
                seen = member.seen[push["topic"]]
                entry = (push["from"], push["to"], push["count"])
                assert push["epoch"] == seen.epoch
            else:
                continue
            assert entry[0] > seen.place, "offsets only grow"
            seen.entries.append(entry)

    async def check(self) -> None:
        """What must hold at a quiet moment."""
        await settle()
        hub = self.engine.statistics().hub
        subscriptions = 0
        for member in self.members:
            if member.peer is None:
                continue
            self.read(member)
            session = next(
                connection.session
                for connection in self.engine.connections.values()
                if connection._wire is member.peer.wire
            )
            assert set(session.subscriptions) == set(member.seen)
            subscriptions += len(member.seen)
            for topic, seen in member.seen.items():
                self.check_sum(session.subscriptions[topic], seen, topic)
            if not member.stalled:
                stats = await member.peer.command("stats")
                assert stats["queue"] == {"messages": 0, "bytes": 0, "age": 0.0}
                for counters in stats["subscriptions"]:
                    self.check_view(member.seen[counters["topic"]], counters)
        assert hub.subscriptions == subscriptions
        assert hub.published == sum(map(len, self.published.values()))
        broker = self.engine.broker
        for topic in TOPICS:
            here = sum(topic in member.seen for member in self.members)
            state = broker._topics.get(topic)
            assert (0 if state is None else state.subscribers) == here

    def check_sum(self, subscription, seen: Seen, topic: str) -> None:
        """Every message is accounted for."""
        total = (
            subscription.delivered
            + subscription.dropped_total
            + subscription.conflated
            + subscription.filtered
            + subscription.queued
            + len(subscription.replay)
        )
        assert total == len(self.published.get((topic, seen.epoch), ())) - seen.start

    def check_view(self, seen: Seen, counters: dict) -> None:
        """Every message that the view shows came, or a gap covers it, or a newer value replaced it."""
        messages = {first for first, _, count in seen.entries if not count}
        covered = {
            offset for first, last, count in seen.entries if count for offset in range(first, last + 1)
        } - messages
        told = sum(count for _, _, count in seen.entries)
        published = self.published.get((counters["topic"], seen.epoch), [])
        assert counters["delivered"] == len(messages)
        assert counters["dropped"] <= told <= counters["dropped"] + counters["conflated"]
        missing = [
            offset
            for offset in range(seen.start + 1, len(published) + 1)
            if offset not in messages and offset not in covered and seen.shows(offset, published[offset - 1])
        ]
        if not seen.latest:
            assert missing == []
            assert counters["conflated"] == 0 or told
            shown = [offset for offset in covered if seen.shows(offset, published[offset - 1])]
            assert told == len(shown)
        assert len(missing) <= counters["conflated"]


member = st.integers(0, 2)
topic = st.sampled_from(TOPICS)
command = st.tuples(
    st.sampled_from(["subscribe", "subscribe", "update", "unsubscribe"]),
    member,
    topic,
    st.sampled_from(FIELDS),
    st.sampled_from(["all", "all", "latest"]),
    st.booleans(),
)
publish = st.tuples(
    st.just("publish"),
    topic,
    st.sampled_from([1, 3, 15, 30]),
    st.sampled_from([["a"], ["b"], ["a", "b"], ["c"]]),
    st.sampled_from([None, "k", "l"]),
    st.sampled_from([1, 20, 300]),
)
#: Without these most programs would have nobody to publish to.
beginning = st.lists(
    st.tuples(
        st.just("subscribe"),
        member,
        st.sampled_from(["room:a", "room:a", "room:b"]),
        st.sampled_from(FIELDS),
        st.sampled_from(["all", "all", "latest"]),
        st.just(value=False),
    ),
    min_size=4,
    max_size=6,
)
steps = st.lists(
    st.one_of(
        publish,
        publish,
        publish,
        command,
        command,
        st.tuples(st.just("stall"), member),
        st.tuples(st.just("flap"), member),
        st.tuples(st.just("time"), st.sampled_from([0.1, 3.0, 12.0])),
    ),
    min_size=5,
    max_size=50,
)


@given(
    start=beginning,
    program=steps,
    overflow=st.sampled_from(["drop_oldest", "drop_newest", "latest"]),
    history=st.integers(0, 40),
)
def test_any_program_keeps_order_and_accounts_for_every_message(start, program, overflow, history):
    """At every quiet moment: order, no duplicates, exact gaps, agreeing counters, nothing leaked."""

    async def main() -> None:
        options = {"overflow": overflow, "history_messages": history, "history_age_seconds": 8.0}
        limits = Settings(
            dev=True,
            outbox_messages=12,
            outbox_bytes=3000,
            # The model's stalled peers are to live.
            write_stall_timeout_seconds=1e6,
            ping_interval_seconds=1e6,
            kinds={"room": options},
        )
        async with open_engine(limits) as engine, trio.open_nursery() as nursery:
            engine.random = lambda: 0.5
            model = Model(engine, nursery)
            for one in model.members:
                await model.connect(one)
            for step in [*start, *program]:
                await model.step(step)
                await model.check()
            for one in model.members:
                if one.stalled:
                    await model.step(("stall", one.number))
            await model.check()
            for one in model.members:
                if one.peer is not None:
                    await model.step(("flap", one.number))
            await model.check()
            assert engine.hub._audiences == {}

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_ten_thousand_messages_reach_healthy_flapping_and_stalled_subscribers(autojump_clock):
    """One gets all; one that reconnects with its position gets all, once; one that stops gets what its gaps leave."""
    count = 10_000
    options = Settings(dev=True, write_stall_timeout_seconds=1e6, outbox_messages=500)
    async with open_engine(options) as engine, trio.open_nursery() as nursery:
        got: dict[str, list] = {"healthy": [], "flapping": [], "stalled": []}
        done = trio.Event()

        async def healthy() -> None:
            async with connect(engine) as peer:
                await peer.command("subscribe", topic="room:a")
                while len(got["healthy"]) < count:
                    got["healthy"].append((await peer.receive_type("message"))["offset"])

        async def flapping() -> None:
            place = None
            while len(got["flapping"]) < count:
                async with connect(engine) as peer:
                    recover = {} if place is None else {"recover": place}
                    reply = await peer.command("subscribe", topic="room:a", **recover)
                    assert reply.get("recovered") in (None, "full")
                    place = place or {"epoch": reply["epoch"], "offset": reply["offset"]}
                    with trio.move_on_after(0.37):
                        while len(got["flapping"]) < count:
                            push = await peer.receive_type("message")
                            got["flapping"].append(push["offset"])
                            place["offset"] = push["offset"]

        async def stalled() -> None:
            async with connect(engine, buffer_bytes=2000) as peer:
                await peer.command("subscribe", topic="room:a")
                await trio.sleep(2)
                peer.stall()
                await trio.sleep(3)
                peer.resume()
                await done.wait()
                await settle()
                got["stalled"] = [push for push in peer.received if push["type"] in ("message", "gap")]

        async with trio.open_nursery() as peers:
            for task in (healthy, flapping, stalled):
                peers.start_soon(task)
            await settle()
            for number in range(count):
                await engine.publish("room:a", number)
                if not number % 10:
                    await trio.sleep(0.01)
            await settle()
            done.set()
        nursery.cancel_scope.cancel()
    everything = list(range(1, count + 1))
    assert got["healthy"] == everything
    assert got["flapping"] == everything
    gaps = [push for push in got["stalled"] if push["type"] == "gap"]
    assert len(gaps) == 1
    assert gaps[0]["count"] == gaps[0]["to"] - gaps[0]["from"] + 1 > 2000
    order: list[int] = []
    for push in got["stalled"]:
        order += [push["offset"]] if push["type"] == "message" else range(push["from"], push["to"] + 1)
    assert order == everything
