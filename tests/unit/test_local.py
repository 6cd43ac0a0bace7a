"""Subscribers in this process."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from realtime import Lost, Message, Mode, Overflow, Position, Settings, Since, open_engine
from realtime.errors import WireClosed

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
            assert messages.position == first
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
    from realtime.local import _NoWire

    wire = _NoWire()
    await wire.open()
    await wire.drain()
    await wire.close(closing.NORMAL)
    wire.abort()
    assert wire.busy
    assert wire.heartbeat(b"x") == b"x"
    assert await wire.read(None) is closing.GONE
    with pytest.raises(WireClosed):
        await wire.write(b"x")
    with pytest.raises(AssertionError, match="busy"):
        wire.write_nowait(b"x")
