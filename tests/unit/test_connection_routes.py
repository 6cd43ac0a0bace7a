"""A connection that came by a path of one's own: one topic, its own timers, refusals on the open wire."""

from __future__ import annotations

import pytest
import trio
from attrs import field, frozen

from realtime import CommandError, Identity, Position, Settings, Since, closing, open_engine
from realtime.closing import NORMAL, CloseReason
from realtime.progress_state import TaskCompleted
from realtime.routes import Binding, Route
from realtime.wishes import Subscribe
from tests.contract.slow_broker import SlowBroker
from tests.tools import attached, settle

TOPIC = "session:a"
SETTINGS = Settings(dev=True)
DONE = CloseReason(1000, "done")


def binding(topic: str = TOPIC, **options) -> Binding:
    """A route to the topic, in the protocol's own words."""
    return Binding(Route(path="/x", topic=topic, transport="websocket", **options), topic)


def arrival(topic: str = TOPIC, **options):
    """How a transport brings such a peer."""
    return {
        "subscribe": [Subscribe(topic)],
        "refuse_in_band": True,
        "binding": binding(topic, **options),
        "identity": Identity("7"),
    }


async def test_peer_has_the_topic_that_its_path_led_to_and_no_other(autojump_clock):
    """Whatever its login would bring elsewhere."""
    async with open_engine(SETTINGS) as engine:
        engine.create_topic(TOPIC)
        async with attached(engine, **arrival()) as (connection, peer):
            assert [standing["topic"] for standing in peer.received[0]["topics"]] == [TOPIC]
            assert (await peer.command("subscribe", topic="room:a"))["code"] == "PERMISSION_DENIED"
            assert (await peer.command("history", topic=TOPIC))["type"] == "history"
            await engine.send_to_user("7", "not here")
            await engine.publish(TOPIC, 1)
            await settle()
            assert [push["topic"] for push in peer.pending() if push["type"] == "message"] == [TOPIC]
            assert list(connection.session.subscriptions) == [TOPIC]


@pytest.mark.parametrize(
    ("topic", "options", "error", "code"),
    [
        (TOPIC, {}, "SESSION_NOT_FOUND", 4004),
        ("session:a b", {}, "INVALID_TOPIC", 4000),
        ("user:8", {}, "PERMISSION_DENIED", 4003),
        ("room:full", {"max_server_topics": 1}, "LIMIT_EXCEEDED", 4103),
    ],
)
async def test_refusal_is_told_on_the_open_wire(topic, options, error, code, autojump_clock):
    """A browser cannot read the status of a handshake. There is no welcome, and nothing is left."""
    async with open_engine(Settings(dev=True, **options)) as engine:
        await engine.publish("room:other", 1)
        async with attached(engine, **arrival(topic)) as (_, peer):
            assert (await peer.wait_closed()).code == code
            await settle()
            told, goodbye = peer.received
            assert (told["type"], told["code"]) == ("error", error)
            assert (goodbye["type"], goodbye["code"]) == ("disconnect", code)
        assert engine.hub._audiences == {}
        assert len(engine.connections) == 0


async def test_messages_keep_a_peer_that_only_listens_awake(autojump_clock):
    """It is idle once nothing has come for the time of its route; pings do not count."""
    async with open_engine(SETTINGS) as engine:
        engine.create_topic(TOPIC)
        async with attached(engine, **arrival(idle_timeout_seconds=60.0)) as (_, peer):
            for _ in range(5):
                await trio.sleep(50)
                await engine.publish(TOPIC, 1)
            last = trio.current_time()
            assert await peer.wait_closed() is closing.IDLE
            assert 60 <= trio.current_time() - last <= 64


async def test_messages_keep_nobody_awake_elsewhere(autojump_clock):
    """There a peer that does nothing is idle."""
    async with open_engine(Settings(dev=True, idle_timeout_seconds=60.0)) as engine:
        began = trio.current_time()
        async with attached(engine, subscribe=[Subscribe("room:a")]) as (_, peer):
            for _ in range(5):
                await trio.sleep(11)
                await engine.publish("room:a", 1)
            assert await peer.wait_closed() is closing.IDLE
            assert trio.current_time() - began == pytest.approx(60)


async def test_route_pings_at_its_own_interval(autojump_clock):
    """The welcome says so."""
    async with open_engine(SETTINGS) as engine:
        engine.create_topic(TOPIC)
        async with attached(engine, **arrival(ping_interval_seconds=7.0)) as (_, peer):
            assert peer.received[0]["ping_interval"] == 7
            await peer.receive_type("ping")
            first = trio.current_time()
            await peer.receive_type("ping")
            assert trio.current_time() - first == pytest.approx(7)


@frozen
class Echo:
    """A dialect that answers each word with itself, and notes it."""

    heard: list = field(factory=list, eq=False)

    @property
    def envelope(self):
        """See `Dialect`."""
        return lambda event, data, time, topic: data

    def push(self, kind, push, topic, now_ms):
        """See `Dialect`."""
        return b'{"type":"%b"}' % kind.encode()

    def hear(self, text):
        """See `Dialect`."""
        self.heard.append(bytes(text))
        return b'{"type":"echo"}'


async def test_peer_of_a_dialect_that_talks_too_fast_is_not_heard(autojump_clock):
    """What is over its rate is not even looked at."""
    dialect = Echo()
    async with open_engine(Settings(dev=True, command_rate=1, command_burst=3)) as engine:
        engine.create_topic(TOPIC)
        async with attached(engine, **arrival(dialect=dialect)) as (connection, peer):
            for _ in range(10):
                peer.send_raw(b"a word")
            await settle()
            assert (len(dialect.heard), connection.commands) == (3, 10)
            assert [push["type"] for push in peer.received].count("echo") == 3
            await trio.sleep(1)
            peer.send_raw(b"another")
            await settle()
            assert dialect.heard[3:] == [b"another"]
            assert engine.refused == {"ping_rate": 7}


async def test_peer_of_a_dialect_that_does_not_slow_down_is_sent_away(autojump_clock):
    """Like any other."""
    dialect = Echo()
    async with open_engine(Settings(dev=True, command_rate=1, command_burst=3)) as engine:
        engine.create_topic(TOPIC)
        async with attached(engine, **arrival(dialect=dialect)) as (_, peer):
            for _ in range(1000):
                peer.send_raw(b"a word")
            reason = await peer.wait_closed()
            assert (reason.code, reason.reconnect) == (4029, True)
            assert reason.retry_after > 0
            assert len(dialect.heard) == 3


async def test_end_of_a_topic_closes_who_came_for_it_behind_its_last_message(autojump_clock):
    """And nobody else who has it."""
    async with open_engine(SETTINGS) as engine:
        engine.create_topic(TOPIC)
        async with (
            attached(engine, **arrival()) as (_, bound),
            attached(engine, subscribe=[Subscribe(TOPIC)], identity=Identity("8")) as (_, other),
        ):
            began = trio.current_time()
            for number in range(100):
                await engine.publish(TOPIC, number)
            await engine.end(TOPIC, DONE)
            assert await bound.wait_closed() is DONE
            await settle()
            assert [push["type"] for push in bound.received] == ["welcome", *["message"] * 100, "disconnect"]
            assert trio.current_time() == began
            assert other.close_reason is None
        await engine.end("session:nobody", DONE)


async def test_end_of_a_topic_does_not_wait_for_what_its_peers_have_read_in_history(autojump_clock):
    """Nothing has come by since they are there, and nothing will."""
    async with open_engine(SETTINGS) as engine:
        engine.create_topic(TOPIC)
        for number in range(3):
            await engine.publish(TOPIC, number)
        await settle()
        options = arrival() | {"subscribe": [Subscribe(TOPIC, since=Since(last=3))]}
        async with attached(engine, **options) as (_, peer):
            began = trio.current_time()
            await engine.end(TOPIC, DONE)
            assert await peer.wait_closed() is DONE
            await settle()
            assert [push["type"] for push in peer.received] == ["welcome", *["message"] * 3, "disconnect"]
            assert trio.current_time() == began


async def test_bound_connection_is_placed_nowhere_else(autojump_clock):
    """Other connections of its user are."""
    async with open_engine(SETTINGS) as engine:
        engine.create_topic(TOPIC)
        async with (
            attached(engine, **arrival()) as (bound, peer),
            attached(engine, identity=Identity("7")) as (free, _),
        ):
            assert await engine.place_user("7", "role:vip") == 1
            assert "role:vip" in free.session.subscriptions
            with pytest.raises(CommandError, match="PERMISSION_DENIED"):
                await engine.send_to_connection(bound.id, 1)
            await settle()
            assert list(bound.session.subscriptions) == [TOPIC]
            assert [push["type"] for push in peer.received] == ["welcome"]


# -- sessions that are over --------------------------------------------------------------------------------------


def told_end(peer) -> list:
    """The first words, the events and the last words."""
    return [
        (push["type"], push.get("event") if push["type"] == "message" else push.get("code")) for push in peer.received
    ]


THE_END = [("welcome", None), ("message", "session_completed"), ("disconnect", 1000)]


@pytest.mark.parametrize("epoch", ["same", "other"])
async def test_peer_that_cannot_go_on_where_it_was_is_told_how_the_session_ended(epoch, autojump_clock):
    """Its position is too old, or of another life of the topic."""
    async with open_engine(Settings(dev=True, kinds={"session": {"history_messages": 3}})) as engine:
        engine.progress.create("a")
        for node in "abcdef":
            receipt = await engine.progress.notify_progress("a", TaskCompleted(node_id=node))
        await engine.progress.complete("a")
        after = Position(receipt.epoch if epoch == "same" else "other", 1)
        options = arrival() | {"subscribe": [Subscribe(TOPIC, since=Since(after=after))]}
        async with attached(engine, **options) as (_, peer):
            assert await peer.wait_closed() is NORMAL
            await settle()
            assert told_end(peer) == THE_END


@pytest.mark.parametrize("resuming", [False, True])
async def test_peer_that_is_joining_while_the_session_ends_is_told_how(resuming, autojump_clock):
    """Once, and is closed: who ends the session does not know of it yet."""
    broker = SlowBroker(SETTINGS.all_kinds(), now_ms=lambda: 42)
    async with open_engine(SETTINGS, broker=broker) as engine, trio.open_nursery() as nursery:
        engine.progress.create("a")
        receipt = await engine.progress.notify_progress("a", TaskCompleted(node_id="n"))
        await trio.sleep(1)
        broker.reading = trio.Event()
        since = Since(after=receipt.position) if resuming else None
        async with attached(engine, **arrival() | {"subscribe": [Subscribe(TOPIC, since=since)]}) as (_, peer):
            await trio.sleep(1)
            nursery.start_soon(engine.progress.complete, "a")
            await trio.sleep(10)
            assert peer.received == []
            broker.reading.set()
            with trio.fail_after(10):
                assert await peer.wait_closed() is NORMAL
            await settle()
            assert told_end(peer) == THE_END
