"""Cancelled anywhere, nothing leaks: audiences, broker counts, connections, wires, and publishing goes on."""

from __future__ import annotations

import itertools

import pytest
import structlog
import trio
import trio.testing

from realtime import Actions, CommandError, Mode, Settings, Since, closing, open_engine
from realtime.auth import ANONYMOUS
from realtime.broker import Draft, MemoryBroker
from realtime.connection import GOODBYE_SECONDS, Connection
from realtime.errors import WireBroken
from realtime.history import decode_cursor
from realtime.polling import Poll, poll
from realtime.testing import MemoryWire, Peer, connect
from realtime.topics import Kinds
from realtime.wishes import Subscribe
from tests.contract.slow_broker import SlowBroker

TOPIC = "room:a"
WISH = Subscribe(TOPIC)
SETTINGS = Settings(dev=True)
settle = trio.testing.wait_all_tasks_blocked


def slow_broker(seed: int = 0) -> SlowBroker:
    """A broker whose every call waits."""
    clock = itertools.count(1)
    return SlowBroker(Kinds(), now_ms=lambda: next(clock), seed=seed)


def nothing_left(engine) -> bool:
    """Whether nobody is connected or subscribed any more, in the hub and in the broker."""
    broker = engine.broker.inner if isinstance(engine.broker, SlowBroker) else engine.broker
    assert isinstance(broker, MemoryBroker)
    statistics = engine.statistics()
    return (
        (statistics.connections, statistics.hub.subscriptions, statistics.hub.topics) == (0, 0, 0)
        and all(topic.subscribers == 0 for topic in broker._topics.values())
        and engine.hub._audiences == {}
    )


async def works(engine) -> bool:
    """Whether a fresh subscriber gets a fresh message."""
    async with engine.subscribe(TOPIC) as messages:
        position = await engine.publish(TOPIC, "fresh")
        with trio.move_on_after(100):
            return (await anext(messages)).offset == position.offset
    return False


class Client:
    """A connection whose task is in our hands."""

    def __init__(self, engine, *, buffer_bytes: int = 1 << 16, wire: MemoryWire | None = None) -> None:
        self.wire = wire or MemoryWire(buffer_bytes=buffer_bytes)
        self.peer = Peer(self.wire)
        self.connection = Connection(engine, self.wire)
        self.scope = trio.CancelScope()

    async def run(self, subscribe=None) -> None:
        """Serve until it ends or is cancelled."""
        with self.scope:
            await self.connection.run(subscribe)


# -- publishing --------------------------------------------------------------------------------------------------


async def test_publish_cancelled_while_it_waits_for_room_has_published_nothing(autojump_clock):
    """Its place in the line is free, those behind it go on, offsets have no hole."""
    async with open_engine(SETTINGS) as engine, trio.open_nursery() as nursery:
        engine.ingress.messages += 10_000
        scopes = [trio.CancelScope() for _ in range(6)]

        async def publish(number: int) -> None:
            with scopes[number]:
                await engine.publish(TOPIC, number)

        for number in range(6):
            nursery.start_soon(publish, number)
            await settle()
        for number in (0, 2, 5):
            scopes[number].cancel()
        await settle()
        engine.ingress.messages -= 10_000
        engine.ingress.pass_on()
        for _ in range(3):
            await trio.sleep(1)
            engine.ingress.pass_on()
        page = await engine.broker.browse(TOPIC, None, 100)
        assert [one.offset for one in page.publications] == [1, 2, 3]
        assert {one.data for one in page.publications} == {b"1", b"3", b"4"}
        assert await works(engine)


async def test_publisher_that_fails_after_its_wait_lets_the_next_one_go(autojump_clock):
    """Room that one has no use for is the next one's."""
    async with open_engine(Settings(dev=True, ingress_messages=1, max_server_topics=1)) as engine:
        await engine.publish(TOPIC, 0)
        await settle()
        codes = []

        async def publish(topic: str) -> None:
            try:
                await engine.broker.publish(topic, Draft(b"1"))
            except Exception as error:
                codes.append(str(error.code))

        async with trio.open_nursery() as nursery:
            engine.ingress.messages += 1
            for topic in ("room:b", "room:c", TOPIC, "room:d", TOPIC):
                nursery.start_soon(publish, topic)
                await settle()
            engine.ingress.messages -= 1
            engine.ingress.pass_on()
        assert codes == ["LIMIT_EXCEEDED"] * 3
        assert (await engine.publish(TOPIC, 0)).offset == 4


@pytest.mark.parametrize("seed", range(5))
async def test_publish_cancelled_at_any_moment_leaves_an_order_without_holes(seed, autojump_clock):
    """On a broker that waits everywhere."""
    async with open_engine(SETTINGS, broker=slow_broker(seed)) as engine:
        async with engine.subscribe(TOPIC) as messages:
            for step in range(20):
                with trio.move_on_after(step * 0.006):
                    await engine.publish(TOPIC, step)
            last = await engine.publish(TOPIC, "last")
            found = []
            async for message in messages:
                found.append(message.offset)
                if message.offset == last.offset:
                    break
        assert found == list(range(1, last.offset + 1))
        assert nothing_left(engine)


# -- subscribing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("milliseconds", range(0, 120, 10))
async def test_subscribe_cancelled_at_any_moment_leaves_nothing(milliseconds, autojump_clock):
    """Before it was counted, while history is read, after it."""
    async with open_engine(SETTINGS, broker=slow_broker(milliseconds)) as engine:
        await engine.publish(TOPIC, 1)
        with trio.move_on_after(milliseconds / 1000):
            async with engine.subscribe(TOPIC, since=Since(last=5), mode=Mode.ALL) as messages:
                async for _ in messages:
                    pass
        assert nothing_left(engine)
        assert await works(engine)


async def test_read_that_fails_leaves_nothing(autojump_clock):
    """A broker may refuse."""
    broker = slow_broker()

    async def fail(topic, since, limit):
        raise OSError("the broker is away")

    async with open_engine(SETTINGS, broker=broker) as engine:
        works_as_before, broker.read = broker.read, fail
        with pytest.raises(OSError, match="away"):
            async with engine.subscribe(TOPIC):
                pass
        broker.read = works_as_before
        assert nothing_left(engine)
        assert await works(engine)


# -- connections -------------------------------------------------------------------------------------------------


async def test_connection_cancelled_while_it_joins_leaves_nothing(autojump_clock):
    """Before it is known to the engine."""
    broker = slow_broker()
    broker.reading = trio.Event()
    async with open_engine(SETTINGS, broker=broker) as engine, trio.open_nursery() as nursery:
        client = Client(engine)
        nursery.start_soon(client.run, [Subscribe(TOPIC), Subscribe("room:b")])
        await trio.sleep(5)
        client.scope.cancel()
        await settle()
        assert (client.wire.opened, nothing_left(engine)) == (False, True)


class SlowToOpen(MemoryWire):
    """A wire whose peer never finishes the handshake."""

    async def open(self) -> bytes:
        await trio.sleep_forever()
        return b""


class SlowToClose(MemoryWire):
    """A wire whose peer never answers a close."""

    async def close(self, reason) -> None:
        self.close_reason = reason
        await trio.sleep_forever()


async def test_connection_cancelled_during_its_welcome_leaves_nothing(autojump_clock):
    """The wire is not open yet."""
    async with open_engine(SETTINGS) as engine, trio.open_nursery() as nursery:
        client = Client(engine, wire=SlowToOpen())
        nursery.start_soon(client.run, [Subscribe(TOPIC)])
        await settle()
        assert engine.statistics().connections == 1
        client.scope.cancel()
        await settle()
        assert client.wire.ended
        assert client.connection.reason is closing.GONE
        assert nothing_left(engine)


async def test_connection_cancelled_while_it_subscribes_leaves_nothing(autojump_clock):
    """The command is given up with the connection."""
    broker = slow_broker()
    broker.reading = trio.Event()
    async with open_engine(SETTINGS, broker=broker) as engine, trio.open_nursery() as nursery:
        client = Client(engine)
        nursery.start_soon(client.run)
        await settle()
        client.peer.send("batch", commands=[{"type": "subscribe", "id": 1, "topic": TOPIC}])
        await trio.sleep(5)
        client.scope.cancel()
        await settle()
        assert client.wire.ended
        assert nothing_left(engine)
        broker.reading.set()
        assert await works(engine)


async def test_connection_closed_while_it_subscribes_says_goodbye(autojump_clock):
    """A reason found meanwhile does not wait for the broker."""
    broker = slow_broker()
    broker.reading = trio.Event()
    async with open_engine(SETTINGS, broker=broker) as engine, connect(engine) as peer:
        peer.send("subscribe", topic=TOPIC)
        await trio.sleep(5)
        (connection,) = engine.connections
        connection.close(closing.SHUTTING_DOWN)
        assert await peer.wait_closed() is closing.SHUTTING_DOWN
        await settle()
        assert peer.received[-1]["type"] == "disconnect"
        assert nothing_left(engine)


async def test_connection_cancelled_with_a_backlog_leaves_nothing(autojump_clock):
    """The sender is in the middle of a write; its queue is thrown away."""
    async with open_engine(SETTINGS) as engine, trio.open_nursery() as nursery:
        client = Client(engine, buffer_bytes=100)
        nursery.start_soon(client.run, [Subscribe(TOPIC)])
        client.peer.stall()
        for number in range(50):
            await engine.publish(TOPIC, number)
        await settle()
        assert client.connection.outbox.backlogged
        client.scope.cancel()
        await settle()
        assert client.wire.ended
        assert (client.connection.outbox.messages, client.connection.outbox.empty) == (0, True)
        assert nothing_left(engine)
        assert await works(engine)


@pytest.mark.parametrize("turns", range(8))
async def test_connection_closed_with_a_backlog_delivers_a_prefix_without_a_hole(turns, autojump_clock):
    """Whatever the sender is doing when the reason is found, what it has taken is not lost."""
    async with open_engine(SETTINGS) as engine, connect(engine, buffer_bytes=100) as peer:
        await peer.command("subscribe", topic=TOPIC)
        peer.stall()
        for number in range(300):
            await engine.publish(TOPIC, "x" * 1000 + str(number))
        await settle()
        (connection,) = engine.connections
        peer.resume()
        for _ in range(turns):
            await trio.lowlevel.checkpoint()
        connection.close(closing.SHUTTING_DOWN)
        await peer.wait_closed()
        await settle()
        offsets = [push["offset"] for push in peer.received if push["type"] == "message"]
        assert offsets == list(range(1, 301))
        assert peer.received[-1]["type"] == "disconnect"


async def test_connection_cancelled_in_its_goodbye_ends_within_the_deadline(autojump_clock):
    """The shield holds for a bounded time, and the wire is let go after it."""
    async with open_engine(SETTINGS) as engine, trio.open_nursery() as nursery:
        client = Client(engine, wire=SlowToClose())
        nursery.start_soon(client.run, [Subscribe(TOPIC)])
        await settle()
        client.connection.close(closing.FORBIDDEN)
        await trio.sleep(0.5)
        client.scope.cancel()
        await trio.sleep(GOODBYE_SECONDS - 1)
        assert not client.wire.ended
        await trio.sleep(1)
        assert client.wire.ended
        assert client.connection.reason is closing.FORBIDDEN
        assert nothing_left(engine)


async def test_engine_cancelled_with_live_connections_lets_all_wires_go(autojump_clock):
    """Whatever phase each of them is in."""
    broker = slow_broker()
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()
        clients: list[Client] = []
        engines = []

        async def serve() -> None:
            with scope:
                async with open_engine(SETTINGS, broker=broker) as engine, trio.open_nursery() as connections:
                    engines.append(engine)
                    for wire in (MemoryWire(), MemoryWire(buffer_bytes=100), SlowToOpen(), SlowToClose()):
                        client = Client(engine, wire=wire)
                        clients.append(client)
                        connections.start_soon(client.run, [Subscribe(TOPIC)])
                    await trio.sleep_forever()

        nursery.start_soon(serve)
        await trio.sleep(5)
        clients[1].peer.stall()
        for number in range(50):
            await engines[0].publish(TOPIC, number)
        clients[0].peer.send("publish", topic=TOPIC, data=1)
        await settle()
        scope.cancel()
        await trio.sleep(10)
        assert [client.wire.ended for client in clients] == [True] * 4
        assert nothing_left(engines[0])


# -- in this process ---------------------------------------------------------------------------------------------


async def test_local_subscriber_cancelled_between_messages_loses_none(autojump_clock):
    """Waiting for a message can be cancelled and taken up again."""
    async with open_engine(SETTINGS) as engine, engine.subscribe(TOPIC) as messages, trio.open_nursery() as nursery:

        async def publish() -> None:
            for number in range(50):
                await engine.publish(TOPIC, number)
                await trio.sleep(0.01)

        nursery.start_soon(publish)
        found = []
        while len(found) < 50:
            with trio.move_on_after(0.003):
                async for message in messages:
                    found.append(message.offset)
        assert found == list(range(1, 51))


@pytest.mark.parametrize("end", ["cancel", "close", "hang up", "bug"])
async def test_hub_outlives_connections_that_end_while_it_writes(end, autojump_clock):
    """Between the end of a connection's tasks and its leaving, messages for it go nowhere and break nothing."""
    failing = trio.Event()

    class Faulty(MemoryWire):
        async def read(self, receiver):
            await failing.wait()
            raise trio.BrokenResourceError

    with structlog.testing.capture_logs():
        await _end_many(end, Faulty, failing)


async def _end_many(end: str, faulty: type[MemoryWire], failing: trio.Event) -> None:
    async with open_engine(SETTINGS) as engine, trio.open_nursery() as nursery:
        clients = [
            Client(engine, wire=faulty(buffer_bytes=60) if end == "bug" else MemoryWire(buffer_bytes=60))
            for _ in range(5)
        ]
        for client in clients:
            client.peer.stall()
            nursery.start_soon(client.run, [Subscribe(TOPIC)])
        await settle()
        for number, client in enumerate(clients):
            client.wire._tail = b""  # not busy: the next write makes it so
            client.connection.outbox.backlogged = False
            if end == "cancel":
                client.scope.cancel()
            elif end == "close":
                client.connection.close(closing.SHUTTING_DOWN)
            elif end == "hang up":
                client.peer.hang_up()
            else:
                failing.set()
            for _ in range(number + 1):
                engine.broker.publish_nowait(TOPIC, Draft(b"1"))
                await trio.lowlevel.checkpoint()
        await trio.sleep(60)
        assert [client.wire.ended for client in clients] == [True] * 5
        assert nothing_left(engine)
        assert await works(engine)


@pytest.mark.parametrize("how", ["closed", "broken"])
async def test_connection_that_ends_during_its_welcome_leaves_nothing(how, autojump_clock):
    """Closed by us, or its peer gone, before the conversation has begun."""
    opening = trio.Event()

    class Opening(MemoryWire):
        async def open(self):
            await opening.wait()
            if how == "broken":
                raise WireBroken
            return b""

    async with open_engine(SETTINGS) as engine, trio.open_nursery() as nursery:
        client = Client(engine, wire=Opening())
        nursery.start_soon(client.run, [Subscribe(TOPIC)])
        await settle()
        if how == "closed":
            client.connection.close(closing.SHUTTING_DOWN)
        opening.set()
        await settle()
        assert client.wire.ended
        assert client.connection.reason is (closing.SHUTTING_DOWN if how == "closed" else closing.GONE)
        assert nothing_left(engine)


# -- by other ways than the wire ---------------------------------------------------------------------------------


@pytest.mark.parametrize("milliseconds", range(0, 200, 25))
async def test_poll_cancelled_at_any_moment_leaves_nothing(milliseconds, autojump_clock):
    """While it joins, while it waits; what it would have told comes with the next."""
    async with open_engine(SETTINGS, broker=slow_broker()) as engine:
        first = await poll(engine, ANONYMOUS, Poll([WISH], seconds=0))
        await engine.publish(TOPIC, 1)
        with trio.move_on_after(milliseconds / 1000):
            await poll(engine, ANONYMOUS, Poll([WISH, Subscribe("room:b")], seconds=0.1))
        assert nothing_left(engine)
        assert engine.polls == set()
        place = decode_cursor(first["cursor"])[TOPIC]
        answer = await poll(engine, ANONYMOUS, Poll([Subscribe(TOPIC, since=Since(place))]))
        assert len(answer["messages"]) == 1


async def test_answer_that_nobody_waits_for_any_more_is_still_carried_out(autojump_clock):
    """The client of an event stream hung up on its command, not on its stream."""
    async with open_engine(SETTINGS, broker=slow_broker()) as engine, trio.open_nursery() as nursery:
        client = Client(engine)
        nursery.start_soon(client.run)
        await trio.sleep(1)
        with trio.move_on_after(0.001) as scope:
            await client.connection.answer(b'{"type":"subscribe","id":1,"topic":"room:a"}')
        assert scope.cancelled_caught
        await trio.sleep(1)
        assert list(client.connection.session.subscriptions) == [TOPIC]
        client.scope.cancel()
        await trio.sleep(10)
        assert nothing_left(engine)


@pytest.mark.parametrize("milliseconds", range(0, 150, 10))
async def test_connection_that_ends_while_the_server_places_it_is_left_out(milliseconds, autojump_clock):
    """Whoever places it is told; no subscription and no member stays."""
    async with open_engine(SETTINGS, broker=slow_broker(milliseconds)) as engine, trio.open_nursery() as nursery:
        client = Client(engine)
        nursery.start_soon(client.run)
        await trio.sleep(1)
        codes: list[str] = []

        async def place() -> None:
            try:
                await client.connection.membership.place(Subscribe(TOPIC))
            except CommandError as error:
                codes.append(error.code)

        nursery.start_soon(place)
        await trio.sleep(milliseconds / 1000)
        joined = TOPIC in client.connection.session.subscriptions
        client.connection.close(closing.GONE)
        await trio.sleep(10)
        assert codes == ([] if joined else ["CONNECTION_NOT_FOUND"])
        assert nothing_left(engine)
        assert engine.members(TOPIC).count == 0
        assert await works(engine)


@pytest.mark.parametrize("milliseconds", range(0, 150, 25))
async def test_placing_that_is_cancelled_at_any_moment_is_done_or_not(milliseconds, autojump_clock):
    """The connection does not notice, and can be placed again."""
    async with open_engine(SETTINGS, broker=slow_broker(milliseconds)) as engine, trio.open_nursery() as nursery:
        client = Client(engine)
        nursery.start_soon(client.run)
        await trio.sleep(1)
        with trio.move_on_after(milliseconds / 1000):
            await client.connection.membership.place(Subscribe(TOPIC))
        session = client.connection.session
        assert session.joining == set()
        if TOPIC not in session.subscriptions:
            assert engine.hub._audiences == {}
            await client.connection.membership.place(Subscribe(TOPIC))
        assert engine.members(TOPIC).count == 1
        client.scope.cancel()
        await trio.sleep(10)
        assert nothing_left(engine)


async def test_request_cancelled_with_its_connection_frees_its_place(autojump_clock):
    """The action serves the next one."""
    actions = Actions()
    running = []

    async def wait() -> None:
        running.append(1)
        await trio.sleep(5)

    actions.register("wait", wait, concurrency=1)
    async with open_engine(SETTINGS, actions=actions) as engine, trio.open_nursery() as nursery:
        client = Client(engine)
        nursery.start_soon(client.run)
        for _ in range(2):
            client.peer.send("request", action="wait")
        await settle()
        assert len(running) == 1
        client.scope.cancel()
        await settle()
        assert engine.statistics().actions[0].in_flight == 0
        async with connect(engine) as peer:
            assert (await peer.command("request", action="wait"))["type"] == "response"
