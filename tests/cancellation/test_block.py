"""Policy ``block``: publishers wait for a full subscriber, as long as they may."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from realtime import CommandError, Draft, Settings, open_engine
from realtime.testing import connect
from tests.tools import brief

TOPIC = "room:a"
SETTINGS = Settings(
    dev=True,
    outbox_messages=3,
    write_stall_timeout_seconds=1000,
    kinds={"room": {"overflow": "block", "block_timeout_seconds": 5.0, "history_messages": 100}},
)
settle = trio.testing.wait_all_tasks_blocked


async def fill(engine, peer, *, count: int = 20) -> int:
    """Publish until the topic is held back; how many were published."""
    await peer.command("subscribe", topic=TOPIC)
    peer.stall()
    for number in range(count):
        if engine.hub.is_held(TOPIC):
            return number
        await engine.publish(TOPIC, number)
        await settle()
    raise AssertionError("the topic was never held back")


def told(peer):
    """Messages and gaps that came."""
    return [brief(push) for push in peer.received if push["type"] in ("message", "gap")]


async def test_publisher_waits_and_is_released_by_a_drain(autojump_clock):
    """Nothing is lost, nobody is late for more than the wait."""
    async with open_engine(SETTINGS) as engine, connect(engine, buffer_bytes=100) as peer:
        count = await fill(engine, peer)
        positions = []

        async def publish() -> None:
            positions.append((trio.current_time(), await engine.publish(TOPIC, "waited"), trio.current_time()))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish)
            await trio.sleep(3)
            assert positions == []
            assert engine.statistics().hub.held_topics == 1
            peer.resume()
        began, position, ended = positions[0]
        assert (position.offset, ended - began) == (count + 1, pytest.approx(3))
        await settle()
        assert told(peer) == list(range(1, count + 2))
        assert engine.statistics().hub.held_topics == 0


async def test_publisher_is_released_by_a_leave(autojump_clock):
    """A full subscriber that goes holds up nobody."""
    async with open_engine(SETTINGS) as engine, connect(engine, buffer_bytes=100) as peer:
        await fill(engine, peer)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.publish, TOPIC, "waited")
            await trio.sleep(1)
            peer.hang_up()
        assert trio.current_time() - began == pytest.approx(1)
        await settle()
        assert engine.hub.topic_statistics(TOPIC) is None


async def test_publisher_is_released_by_a_change_to_mode_latest(autojump_clock):
    """Who takes only the newest values loses none by being full."""
    async with open_engine(SETTINGS) as engine, connect(engine, buffer_bytes=100) as peer:
        await fill(engine, peer)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.publish, TOPIC, "waited")
            await trio.sleep(1)
            peer.send("update", topic=TOPIC, mode="latest")
        assert trio.current_time() - began == pytest.approx(1)


async def test_publisher_is_released_by_the_timeout_and_the_subscriber_is_told(autojump_clock):
    """A subscriber that is full for too long is given up: it loses what follows, in an exact gap."""
    async with open_engine(SETTINGS) as engine, connect(engine, buffer_bytes=100) as peer:
        count = await fill(engine, peer)
        began = trio.current_time()
        with pytest.raises(CommandError, match="TIMEOUT"):
            for _ in range(10):
                await engine.publish(TOPIC, "waited")
        assert trio.current_time() - began == pytest.approx(5)
        await trio.sleep(20)
        assert not engine.hub.is_held(TOPIC)
        peer.resume()
        await settle()
        last = (await engine.publish(TOPIC, "last")).offset
        await settle()
        found = told(peer)
        assert found[-1] == last
        gaps = [entry for entry in found if isinstance(entry, tuple)]
        assert len(gaps) == 1
        covered = sorted({entry for entry in found if isinstance(entry, int)} | set(range(gaps[0][0], gaps[0][1] + 1)))
        assert covered == list(range(1, last + 1))
        assert gaps[0][2] == gaps[0][1] - gaps[0][0] + 1
        assert last > count
        assert engine.statistics().hub.dropped == {"block_timeout": gaps[0][2]}


async def test_wait_of_a_publisher_can_be_cancelled(autojump_clock):
    """Nothing was published, and the others go on."""
    async with open_engine(SETTINGS) as engine, connect(engine, buffer_bytes=100) as peer:
        count = await fill(engine, peer)
        with trio.move_on_after(1) as scope:
            await engine.publish(TOPIC, "cancelled")
        assert scope.cancelled_caught
        peer.resume()
        await settle()
        assert (await engine.publish(TOPIC, "next")).offset == count + 1


async def test_other_topics_are_not_disturbed(autojump_clock):
    """A topic that is held back holds back only itself, also for the same peer."""
    async with (
        open_engine(SETTINGS) as engine,
        connect(engine, buffer_bytes=100) as peer,
        connect(engine) as other,
    ):
        await other.command("subscribe", topic="room:b")
        await fill(engine, peer)
        began = trio.current_time()
        for number in range(50):
            await engine.publish("room:b", number)
            await settle()
        assert trio.current_time() == began
        assert told(other) == list(range(1, 51))


async def test_healthy_subscribers_of_a_held_topic_lose_nothing(autojump_clock):
    """They wait with the publisher, and then get everything."""
    async with (
        open_engine(SETTINGS) as engine,
        connect(engine, buffer_bytes=100) as peer,
        connect(engine) as healthy,
    ):
        await healthy.command("subscribe", topic=TOPIC)
        count = await fill(engine, peer)
        assert len(told(healthy)) < count
        peer.resume()
        await settle()
        assert told(healthy) == told(peer) == list(range(1, count + 1))


async def test_subscriber_that_joins_a_held_topic_starts_behind_what_is_held(autojump_clock):
    """What waits to be routed is before its position, so it does not get it."""
    async with (
        open_engine(SETTINGS) as engine,
        connect(engine, buffer_bytes=100) as peer,
        connect(engine) as late,
    ):
        count = await fill(engine, peer)
        assert (await late.command("subscribe", topic=TOPIC))["offset"] == count
        peer.resume()
        await settle()
        assert told(late) == []
        await engine.publish(TOPIC, "new")
        await settle()
        assert told(late) == [count + 1]


async def test_engine_cancelled_with_a_held_topic_ends(autojump_clock):
    """The task that holds a topic ends with the hub."""
    async with open_engine(SETTINGS) as engine, connect(engine, buffer_bytes=100) as peer:
        await fill(engine, peer)
        began = trio.current_time()
    assert trio.current_time() - began < 5


async def test_messages_that_were_on_their_way_wait_in_their_order(autojump_clock):
    """What is in the ingress already when a topic is held back comes behind what is held."""
    async with open_engine(SETTINGS) as engine, connect(engine, buffer_bytes=100) as peer:
        count = await fill(engine, peer)
        for number in range(5):
            await engine.broker.publish(TOPIC, Draft(b"%d" % number))
            await settle()
        assert engine.statistics().hub.held_topics == 1
        peer.resume()
        await settle()
        assert told(peer) == list(range(1, count + 6))
