"""A generated program of publishers, peers that flap and stall, and time that passes, against what must always hold."""

from __future__ import annotations

from typing import Any

import msgspec
import trio
import trio.testing
from attrs import define, field, frozen
from hypothesis import given
from hypothesis import strategies as st

from realtime import Settings, open_engine
from realtime.auth import ANONYMOUS
from realtime.history import Position, Since, decode_cursor
from realtime.idempotency import Receipt
from realtime.polling import Poll, poll
from realtime.subscription import Loss
from realtime.testing import Peer, connect
from realtime.wishes import Subscribe
from tests.tools import settle, total

ROOMS = ("room:a", "room:b")
TOPICS = (*ROOMS, "symbol:600519")
FIELDS = (None, None, ["a"], ["b"], ["a", "b"])
#: None, or the member that must be there.
FILTERS = (None, None, "a", "b")
RATES = (None, None, None, 0.5, 20.0)


@frozen
class Message:
    """What was published."""

    members: frozenset[str]
    key: str | None
    #: The peer that published it and wants no echo.
    origin: Peer | None


@frozen
class Look:
    """What a subscription asks for."""

    fields: list[str] | None
    filter: str | None
    mode: str
    max_rate: float | None

    def shown(self, message: Message) -> frozenset[str]:
        """What is left of a message; nothing where it is not sent."""
        if self.filter is not None and self.filter not in message.members:
            return frozenset()
        return message.members if self.fields is None else message.members & set(self.fields)

    def options(self) -> dict[str, Any]:
        """The members of a command."""
        condition = None if self.filter is None else {"exists": self.filter}
        return {"fields": self.fields, "filter": condition, "mode": self.mode, "max_rate": self.max_rate}

    @property
    def leaves_out(self) -> bool:
        """Whether the newest value is enough."""
        return self.mode == "latest" or self.max_rate is not None


@define
class Seen:
    """What one subscription was sent, from its confirmation on."""

    peer: Peer
    start: int
    #: Where the topic stood: what came before is history, and no echo.
    top: int
    epoch: str
    #: What it asked for, by the offset from which on it did.
    looks: list[tuple[int, Look]]
    #: (first, last, count): count is 0 for a message.
    entries: list[tuple[int, int, int]] = field(factory=list)

    @property
    def place(self) -> int:
        """Up to where it has been told."""
        return self.entries[-1][1] if self.entries else self.start

    @property
    def left_out(self) -> bool:
        """Whether it was at any time content with the newest values."""
        return any(look.leaves_out for _, look in self.looks)

    def look_at(self, offset: int) -> Look:
        """What it asked for then."""
        return next(look for first, look in reversed(self.looks) if offset >= first)

    def is_echo(self, offset: int, message: Message) -> bool:
        """Whether it is not sent this because it has said it itself."""
        return offset > self.top and message.origin is self.peer

    def shows(self, offset: int, message: Message) -> bool:
        """Whether it is to be sent anything of a message."""
        return bool(self.look_at(offset).shown(message)) and not self.is_echo(offset, message)


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


class Witness:
    """Follows who is in the rooms, from their lists and from what it is told."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.rooms: dict[str, set[str]] = {}

    async def start(self) -> None:
        """Join the rooms, without looking at their messages."""
        for topic in ROOMS:
            await self.peer.command("subscribe", topic=topic, filter={"exists": "nothing"})
            await self.look(topic)

    async def look(self, topic: str) -> None:
        """Read the list."""
        page = await self.peer.command("members", topic=topic)
        self.rooms[topic] = {member["connection"] for member in page["members"]}
        assert len(self.rooms[topic]) == page["count"]

    async def follow(self) -> None:
        """Take in what came."""
        for push in self.peer.pending():
            if push["type"] == "join":
                self.rooms[push["topic"]].add(push["member"]["connection"])
            elif push["type"] == "leave":
                self.rooms[push["topic"]].discard(push["member"]["connection"])
            elif push["type"] == "presence":
                await self.look(push["topic"])


class Model:
    """Runs the steps; keeps what was published."""

    def __init__(self, engine, nursery, witness: Peer) -> None:
        self.engine = engine
        self.nursery = nursery
        self.published: dict[tuple[str, str], list[Message]] = {}
        #: What each key said last.
        self.said: dict[tuple[str, str, str | None], bytes] = {}
        self.receipts: dict[tuple[str, str], Receipt] = {}
        self.members = [Member(number) for number in range(3)]
        self.witness = Witness(witness)

    async def connect(self, member: Member) -> None:
        """Bring a peer up."""
        left = member.leave = trio.Event()

        async def live(task_status) -> None:
            async with connect(self.engine, buffer_bytes=400) as peer:
                task_status.started(peer)
                await left.wait()

        member.peer = await self.nursery.start(live)

    async def step(self, kind: str, *details) -> None:
        """One step of the program."""
        if kind == "publish":
            await self.publish(*details)
        elif kind == "time":
            await trio.sleep(*details)
            await self.check_rooms()
        else:
            number, *rest = details
            member = self.members[number]
            if kind == "poll":
                await self.poll(member, *rest)
            elif kind == "flap":
                await self.flap(member)
            elif member.peer is not None and kind == "stall":
                member.stalled = not member.stalled
                (member.peer.stall if member.stalled else member.peer.resume)()
            elif member.peer is not None and not member.stalled:
                await settle()
                self.read(member)
                await getattr(self, kind)(member, *rest)
                self.read(member)

    # -- publishing ----------------------------------------------------------------------------------------------

    async def publish(self, topic: str, count: int, members, key, size: int, idempotency_key) -> None:
        """The server publishes, so many times."""
        for _ in range(count):
            data = dict.fromkeys(members, "x" * size)
            receipt = await self.engine.publish(topic, data, key=key, idempotency_key=idempotency_key)
            self.note(topic, data, key, None, idempotency_key, receipt)

    async def speak(self, member: Member, topic: str, members, key, echo) -> None:
        """A peer publishes."""
        if topic not in ROOMS:
            return
        data = dict.fromkeys(members, "y")
        reply = await member.peer.command("publish", topic=topic, data=data, key=key, echo=echo)
        await settle()
        receipt = Receipt(reply["epoch"], reply["offset"], reply.get("duplicate", False))
        self.note(topic, data, key, None if echo else member.peer, None, receipt)

    def note(self, topic: str, data, key, origin, idempotency_key, receipt: Receipt) -> None:
        """Hold a receipt against what is known, and keep it."""
        text = msgspec.json.encode(data)
        known = self.receipts.get((topic, idempotency_key))
        if known is not None:
            assert receipt == msgspec.structs.replace(known, duplicate=True)
            return
        published = self.published.setdefault((topic, receipt.epoch), [])
        said = self.said.get((topic, receipt.epoch, key))
        assert receipt.duplicate == (topic not in ROOMS and said == text)
        if not receipt.duplicate:
            published.append(Message(frozenset(data), key, origin))
            assert receipt.offset == len(published)
            self.said[topic, receipt.epoch, key] = text
        if idempotency_key is not None:
            self.receipts[topic, idempotency_key] = receipt

    # -- what a peer does ----------------------------------------------------------------------------------------

    async def subscribe(self, member: Member, topic: str, look: Look, recover: bool) -> None:
        """Ask for a topic, from where this peer was or from now on."""
        if topic in member.seen:
            return
        options = look.options()
        if recover and topic in member.places:
            epoch, offset = member.places[topic]
            options["recover"] = {"epoch": epoch, "offset": offset}
        reply = await member.peer.command("subscribe", topic=topic, **options)
        assert reply["type"] == "subscribed"
        start = reply["offset"]
        if reply.get("recovered") in ("full", "latest"):
            assert reply["epoch"] == member.places[topic][0]
            start = member.places[topic][1]
        member.seen[topic] = Seen(member.peer, start, reply["offset"], reply["epoch"], [(0, look)])

    async def update(self, member: Member, topic: str, look: Look, changed: list[str]) -> None:
        """Ask for something else, in some respects."""
        seen = member.seen.get(topic)
        if seen is None:
            return
        old = seen.looks[-1][1]
        wanted = {name: getattr(look if name in changed else old, name) for name in old.__slots__ if name[0] != "_"}
        new = Look(**wanted)
        await member.peer.command("update", topic=topic, **{name: new.options()[name] for name in changed})
        await settle()
        self.read(member)
        seen.looks.append((len(self.published.get((topic, seen.epoch), ())) + 1, new))

    async def unsubscribe(self, member: Member, topic: str) -> None:
        """Ask for no more."""
        if topic in member.seen:
            await member.peer.command("unsubscribe", topic=topic)
            self.read(member)
            seen = member.seen.pop(topic)
            member.places[topic] = (seen.epoch, seen.place)

    async def flap(self, member: Member) -> None:
        """Go, or come back on another connection."""
        if member.peer is None:
            await self.connect(member)
            return
        self.read(member)
        for topic, seen in member.seen.items():
            member.places[topic] = (seen.epoch, seen.place)
        member.leave.set()
        await settle()
        member.peer, member.seen, member.stalled = None, {}, False

    async def poll(self, member: Member, topic: str, limit: int) -> None:
        """Recover a topic piece by piece: everything is there, or the answer says that it is not."""
        if topic not in member.places:
            return
        epoch, offset = member.places[topic]
        await settle()
        why = None
        while not why:
            wish = Subscribe(topic, since=Since(after=Position(epoch, offset)))
            answer = await poll(self.engine, ANONYMOUS, Poll([wish], seconds=0, limit=limit))
            (standing,) = answer["topics"]
            why = standing.get("why")
            found = [msgspec.json.decode(text)["offset"] for text in answer["messages"]]
            place = decode_cursor(answer["cursor"])[topic]
            if why:
                assert found == []
                assert place == Position(standing["epoch"], standing["offset"])
            else:
                assert found == list(range(offset + 1, place.offset + 1))
            epoch, offset = place.epoch, place.offset
            if not found:
                break
        assert offset == len(self.published.get((topic, epoch), ()))
        member.places[topic] = (epoch, offset)

    def read(self, member: Member) -> None:
        """Take in what came."""
        for push in member.peer.pending():
            if push["type"] not in ("message", "gap"):
                continue
            topic = push["topic"]
            seen = member.seen[topic]
            if push["type"] == "message":
                offset = push["offset"]
                entry = (offset, offset, 0)
                message = self.published[topic, seen.epoch][offset - 1]
                assert (set(push["data"]), push.get("key")) == (seen.look_at(offset).shown(message), message.key)
                assert not seen.is_echo(offset, message)
            else:
                entry = (push["from"], push["to"], push["count"])
                assert push["epoch"] == seen.epoch
            assert entry[0] > seen.place, "offsets only grow"
            seen.entries.append(entry)

    # -- what must hold ------------------------------------------------------------------------------------------

    async def check(self) -> None:
        """At a quiet moment."""
        await settle()
        hub = self.engine.statistics().hub
        subscriptions = len(ROOMS)
        for member in self.members:
            if member.peer is None:
                continue
            self.read(member)
            session = self.session(member)
            assert set(session.subscriptions) == set(member.seen)
            subscriptions += len(member.seen)
            for topic, seen in member.seen.items():
                published = self.published.get((topic, seen.epoch), ())
                assert total(session.subscriptions[topic]) == len(published) - seen.start
            if not member.stalled:
                stats = await member.peer.command("stats")
                assert stats["queue"] == {"messages": 0, "bytes": 0, "age": 0.0}
                for counters in stats["subscriptions"]:
                    seen = member.seen[counters["topic"]]
                    self.check_view(seen, counters)
                    told = session.subscriptions[counters["topic"]].gaps or {}
                    in_stream = sum(told.get(loss, 0) for loss in Loss)
                    assert in_stream == sum(count > 0 for _, _, count in seen.entries)
        assert hub.subscriptions == subscriptions
        assert hub.published == sum(map(len, self.published.values()))
        for topic in TOPICS:
            here = sum(topic in member.seen for member in self.members) + (topic in ROOMS)
            state = self.engine.broker._topics.get(topic)
            assert (0 if state is None else state.subscribers) == here

    def session(self, member: Member):
        """The server's side of a member."""
        return next(
            connection.session for connection in self.engine.connections if connection._wire is member.peer.wire
        )

    def check_view(self, seen: Seen, counters: dict[str, Any]) -> None:
        """Every message that the view shows came, or a gap covers it, or a newer value replaced it."""
        messages = {first for first, _, count in seen.entries if not count}
        covered = {
            offset for first, last, count in seen.entries if count for offset in range(first, last + 1)
        } - messages
        told = sum(count for _, _, count in seen.entries)
        published = self.published.get((counters["topic"], seen.epoch), [])
        assert counters["delivered"] == len(messages)
        assert counters["dropped"] <= told <= counters["dropped"] + counters["conflated"]
        due = {
            offset: message
            for offset, message in enumerate(published, 1)
            if offset > seen.start and seen.shows(offset, message)
        }
        missing = due.keys() - messages - covered
        assert len(missing) <= counters["conflated"] + counters["queued"]
        if not seen.left_out:
            assert missing == set()
            assert counters["queued"] == 0
            assert counters["conflated"] == 0 or told
            assert told == len(covered & due.keys())
        if not counters["queued"]:
            newest = {message.key: offset for offset, message in due.items()}
            # One's own message, which one is not sent, may have taken the place of an older one.
            own = {
                message.key: offset
                for offset, message in enumerate(published, 1)
                if seen.is_echo(offset, message) and seen.look_at(offset).shown(message)
            }
            assert {offset for key, offset in newest.items() if own.get(key, 0) < offset} <= messages | covered

    async def check_rooms(self) -> None:
        """Once the news is out, it has led the witness to what the list says."""
        await trio.sleep(2)
        await settle()
        await self.witness.follow()
        for topic, members in self.witness.rooms.items():
            here = [
                self.session(member).id
                for member in self.members
                if member.peer is not None and topic in self.session(member).subscriptions
            ]
            assert len(members) == len(here) + 1
            assert set(here) < members
            assert members == {member.connection for member in self.engine.members(topic).members}


member = st.integers(0, 2)
topic = st.sampled_from(TOPICS)
payload = st.sampled_from([["a"], ["b"], ["a", "b"], ["c"]])
key = st.sampled_from([None, "k", "l"])
look = st.builds(
    Look,
    st.sampled_from(FIELDS),
    st.sampled_from(FILTERS),
    st.sampled_from(["all", "all", "latest"]),
    st.sampled_from(RATES),
)
#: Without these most programs would have nobody to publish to.
beginning = st.lists(
    st.tuples(
        st.just("subscribe"), member, st.sampled_from(["room:a", "room:a", "room:b"]), look, st.just(value=False)
    ),
    min_size=4,
    max_size=6,
)
publish = st.tuples(
    st.just("publish"),
    topic,
    st.sampled_from([1, 3, 15, 30]),
    payload,
    key,
    st.sampled_from([1, 20, 300]),
    st.sampled_from([None, None, None, "i", "j"]),
)
changed = st.lists(st.sampled_from(["fields", "filter", "mode", "max_rate"]), unique=True)
steps = st.lists(
    st.one_of(
        publish,
        publish,
        publish,
        st.tuples(st.just("speak"), member, topic, payload, key, st.booleans()),
        st.tuples(st.just("subscribe"), member, topic, look, st.booleans()),
        st.tuples(st.just("subscribe"), member, topic, look, st.booleans()),
        st.tuples(st.just("update"), member, topic, look, changed),
        st.tuples(st.just("unsubscribe"), member, topic),
        st.tuples(st.just("poll"), member, topic, st.sampled_from([1, 7, 100])),
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
    told_members=st.sampled_from([1, 100]),
)
def test_any_program_keeps_order_and_accounts_for_every_message(start, program, overflow, history, told_members):
    """At every quiet moment: order, no duplicates, exact gaps, agreeing counters, nothing leaked, nobody forgotten."""

    async def main() -> None:
        options = {
            "overflow": overflow,
            "history_messages": history,
            "history_age_seconds": 8.0,
            "presence_linger_seconds": 0.0,
            "presence_told_members": told_members,
        }
        limits = Settings(
            dev=True,
            outbox_messages=12,
            outbox_bytes=3000,
            idempotency_seconds=1e6,
            # The model's stalled peers are to live.
            write_stall_timeout_seconds=1e6,
            ping_interval_seconds=1e6,
            kinds={"room": options},
        )
        async with open_engine(limits) as engine, trio.open_nursery() as nursery:
            engine.random = lambda: 0.5
            async with connect(engine) as witness:
                model = Model(engine, nursery, witness)
                await model.witness.start()
                for one in model.members:
                    await model.connect(one)
                for step in [*start, *program]:
                    await model.step(*step)
                    await model.check()
                for one in model.members:
                    if one.stalled:
                        await model.step("stall", one.number)
                await model.step("time", 10.0)
                await model.check()
                for one in model.members:
                    for topic in list(one.seen):
                        assert model.session(one).subscriptions[topic].held == 0
                    if one.peer is not None:
                        await model.step("flap", one.number)
                await model.check()
                await model.check_rooms()
            assert engine.hub._audiences == {}
            assert engine.presence.statistics().members == 0

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
