"""Subscribers in this process."""

from __future__ import annotations

import itertools

import pytest
import trio
import trio.testing

from realtime import Lost, Message, Mode, Overflow, Position, Settings, Since, open_engine
from realtime.errors import CommandError, WireClosed
from realtime.topics import Kinds
from tests.contract.slow_broker import SlowBroker

SETTINGS = Settings(dev=True)
settle = trio.testing.wait_all_tasks_blocked


async def test_messages_come_decoded_and_in_order(autojump_clock):
    """With everything that their publisher gave them."""
    async with open_engine(SETTINGS) as engine, engine.subscribe("room:a") as messages:
        await engine.publish("room:a", {"n": 1}, event="e", key="k")
        message = await anext(messages)
        assert isinstance(message, Message)
        assert (message.topic, message.offset, message.data, message.event, message.key) == (
            "room:a",
            1,
            {"n": 1},
            "e",
            "k",
        )


async def test_position_tells_where_the_subscription_started(autojump_clock):
    """It is what a later subscription continues from."""
    async with open_engine(SETTINGS) as engine:
        first = await engine.publish("room:a", 1)
        async with engine.subscribe("room:a") as messages:
            assert messages.position == first.position
        await engine.publish("room:a", 2)
        async with engine.subscribe("room:a", since=Since(Position(first.epoch, 1))) as messages:
            assert (await anext(messages)).data == 2


@pytest.mark.parametrize(
    ("overflow", "expected"),
    [(Overflow.DROP_OLDEST, [(1, 7, 7), 8, 9, 10]), (Overflow.DROP_NEWEST, [1, 2, 3, (4, 10, 7)])],
)
async def test_slow_reader_is_told_what_it_lost(overflow, expected, autojump_clock):
    """In the place where it lost it."""
    async with open_engine(SETTINGS) as engine:
        async with engine.subscribe("room:a", overflow=overflow, max_messages=3) as messages:
            for number in range(10):
                await engine.publish("room:a", number)
            await settle()
            found = []
            for _ in expected:
                one = await anext(messages)
                found.append((one.first, one.last, one.count) if isinstance(one, Lost) else one.offset)
        assert found == expected


async def test_slow_reader_of_newest_values_gets_one_of_each_key(autojump_clock):
    """And never a backlog."""
    async with open_engine(SETTINGS) as engine, engine.subscribe("room:a", mode=Mode.LATEST) as messages:
        for number in range(10):
            await engine.publish("room:a", number, key=str(number % 2))
        await settle()
        assert [(await anext(messages)).data for _ in range(2)] == [8, 9]


async def test_reader_too_slow_for_policy_disconnect_is_ended(autojump_clock):
    """Its loop ends with an error that says why."""
    async with open_engine(SETTINGS) as engine:
        async with engine.subscribe("room:a", overflow=Overflow.DISCONNECT, max_messages=2) as messages:
            for number in range(5):
                await engine.publish("room:a", number)
            await settle()
            with pytest.raises(WireClosed, match="too slow"):
                await anext(messages)


async def test_waiting_reader_is_woken(autojump_clock, nursery):
    """As often as something comes."""
    async with open_engine(SETTINGS) as engine, engine.subscribe("room:a") as messages:
        found = []

        async def read() -> None:
            async for message in messages:
                found.append(message.data)

        with trio.CancelScope() as scope:
            async with trio.open_nursery() as readers:
                readers.start_soon(read)
                for number in range(5):
                    await settle()
                    await engine.publish("room:a", number)
                await settle()
                scope.cancel()
        assert found == [0, 1, 2, 3, 4]


async def test_left_block_leaves_nothing(autojump_clock):
    """Also when it is left with messages unread."""
    async with open_engine(SETTINGS) as engine:
        async with engine.subscribe("room:a"):
            await engine.publish("room:a", 1)
            await settle()
            assert engine.statistics().hub.subscriptions == 1
        assert engine.hub._audiences == {}


async def test_wire_of_a_local_subscriber_carries_nothing():
    """It stands where a wire is asked for, and is always busy."""
    from realtime import closing
    from realtime.local import NoWire

    wire = NoWire()
    await wire.open()
    await wire.drain()
    await wire.close(closing.NORMAL)
    wire.abort()
    assert wire.busy
    assert wire.heartbeat(b"x") == b"x"
    assert await wire.read(None) is closing.GONE
    with pytest.raises(WireClosed):
        await wire.write(b"x")
    with pytest.raises(AssertionError):
        wire.write_nowait(b"x")


async def test_reader_of_a_topic_that_is_removed_gets_the_rest_and_then_the_reason(autojump_clock):
    """Whether it waits or is behind."""
    async with open_engine(SETTINGS) as engine:
        engine.create_topic("session:a")
        reached: list = []

        async def read(messages) -> None:
            with pytest.raises(CommandError) as caught:
                async for message in messages:
                    reached.append(message.data)
            reached.append(caught.value.code)

        async with engine.subscribe("session:a") as waiting, engine.subscribe("session:a") as behind:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read, waiting)
                for number in range(2):
                    await engine.publish("session:a", number)
                await settle()
                assert reached == [0, 1]
                await engine.remove_topic("session:a")
                assert engine.hub._audiences == {}
            await read(behind)
        assert reached == [0, 1, "SESSION_NOT_FOUND"] * 2
        assert engine.statistics().hub.subscriptions == 0


async def test_reader_that_is_ended_without_a_reason_is_closed(autojump_clock):
    """By whoever ends subscriptions of others."""
    async with open_engine(SETTINGS) as engine, engine.subscribe("room:a") as messages:
        messages.subscription.on_end(messages.subscription, None)
        with pytest.raises(WireClosed, match="ended"):
            await anext(messages)


async def test_reader_whose_topic_goes_while_it_joins_leaves_nothing(autojump_clock):
    """It finds out when it has joined."""
    clock = itertools.count(1)
    broker = SlowBroker(Kinds(), now_ms=lambda: next(clock))
    async with open_engine(SETTINGS, broker=broker) as engine:
        engine.create_topic("session:a")
        broker.reading = trio.Event()
        codes = []

        async def read() -> None:
            async with engine.subscribe("session:a") as messages:
                with pytest.raises(CommandError) as caught:
                    await anext(messages)
                codes.append(caught.value.code)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.sleep(1)
            await engine.remove_topic("session:a")
            broker.reading.set()
        assert codes == ["SESSION_NOT_FOUND"]
        assert engine.hub._audiences == {}
