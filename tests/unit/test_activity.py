"""Which topics are the busiest, and which connections the slowest."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from realtime import Settings, activity
from realtime.engine import open_engine
from realtime.testing import connect


@pytest.fixture
async def engine():
    async with open_engine(Settings(dev=True)) as engine:
        yield engine


async def said(engine, topic: str, count: int) -> None:
    for number in range(count):
        await engine.publish(topic, number)
    await trio.testing.wait_all_tasks_blocked()


async def test_first_look_has_no_rates_and_the_next_those_since_then(autojump_clock, engine):
    async with connect(engine) as ann, connect(engine) as bob:
        for peer, topics in ((ann, ("room:a", "room:b")), (bob, ("room:b",))):
            for topic in topics:
                await peer.command("subscribe", topic=topic)
        await said(engine, "room:a", 5)
        first = await engine.activity.look(10, 0)
        assert (first.seconds, first.topics) == (0, [])
        await trio.sleep(2)
        await said(engine, "room:a", 30)
        await said(engine, "room:b", 20)
        await said(engine, "room:nobody-listens", 500)
        found = await engine.activity.look(10, 0)
        assert found.seconds == 2
        assert [(each.topic, each.subscribers, each.messages_per_second) for each in found.topics] == [
            ("room:b", 2, 10),
            ("room:a", 1, 15),
        ]
        assert [each.deliveries_per_second for each in found.topics] == [20, 15]
        assert [each.topic for each in (await engine.activity.look(1, 0)).topics] == ["room:b"]


async def test_those_who_look_within_a_second_see_the_same(autojump_clock, engine):
    """Two screens halve nobody's rates."""
    async with connect(engine) as ann:
        await ann.command("subscribe", topic="room:a")
        await engine.activity.look(1, 0)
        await trio.sleep(1)
        await said(engine, "room:a", 10)
        first = await engine.activity.look(1, 0)
        await trio.sleep(0.5)
        assert await engine.activity.look(1, 0) == first
        await trio.sleep(1)
        assert (await engine.activity.look(1, 0)).topics == []


async def test_what_lies_a_minute_back_is_no_rate(autojump_clock, engine):
    async with connect(engine) as ann:
        await ann.command("subscribe", topic="room:a")
        await engine.activity.look(1, 0)
        await said(engine, "room:a", 10)
        await trio.sleep(61)
        found = await engine.activity.look(1, 0)
        assert (found.seconds, found.topics) == (0, [])


async def test_topic_that_has_begun_anew_has_no_rate_yet(autojump_clock, engine):
    """Its offsets say nothing of those before."""
    async with connect(engine) as ann:
        await ann.command("subscribe", topic="room:a")
        await said(engine, "room:a", 3)
        await engine.activity.look(1, 0)
        await trio.sleep(1)
        await engine.remove_topic("room:a")
        await ann.command("subscribe", topic="room:a")
        await said(engine, "room:a", 10)
        assert (await engine.activity.look(1, 0)).topics == []


async def test_connection_whose_queue_waits_longest_comes_first(autojump_clock, engine):
    async with connect(engine) as ann, connect(engine) as bob, connect(engine):
        for peer in (ann, bob):
            await peer.command("subscribe", topic="room:a")
        for peer in (bob, ann):
            peer.stall()
            await engine.publish("room:a", "x" * 60_000)
            await engine.publish("room:a", "x" * 60_000)
            await trio.sleep(2)
        found = (await engine.activity.look(0, 2)).connections
        assert [each.id for each in found] == [peer.received[0]["connection"] for peer in (bob, ann)]
        assert found[0].queue_age == found[1].queue_age + 2 > 2


async def test_look_that_is_cancelled_leaves_the_next_one_whole(autojump_clock, engine, monkeypatch):
    monkeypatch.setattr(activity, "_SLICE", 1)
    async with connect(engine) as ann:
        for topic in ("room:a", "room:b", "room:c"):
            await ann.command("subscribe", topic=topic)
        await engine.activity.look(3, 0)
        await trio.sleep(1)
        for topic in ("room:a", "room:b", "room:c"):
            await said(engine, topic, 10)
        with trio.move_on_after(0) as scope:
            await engine.activity.look(3, 0)
        assert scope.cancelled_caught
        found = await engine.activity.look(3, 0)
        assert [(each.topic, each.messages_per_second) for each in found.topics] == [
            (topic, 10) for topic in ("room:a", "room:b", "room:c")
        ]
