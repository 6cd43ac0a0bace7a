"""What the hub relies on, of every broker."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from realtime.broker import Draft
from realtime.errors import CommandError
from realtime.history import Position, Since, Why
from realtime.ingress import Ingress

TOPIC = "room:a"
DRAFT = Draft(b"1")


@asynccontextmanager
async def running(broker, *, most: int = 1000):
    """The broker's ingress, while it runs."""
    ingress = Ingress(most, 1 << 20)
    async with trio.open_nursery() as nursery:
        await nursery.start(broker.run, ingress)
        yield ingress
        nursery.cancel_scope.cancel()


async def delivered(ingress: Ingress, count: int) -> list:
    """The next so many publications."""
    found: list = []
    with trio.fail_after(1000):
        while len(found) < count:
            found += await ingress.receive(1)
    return found


async def test_offsets_count_from_one_without_holes_and_arrive_in_order(broker, autojump_clock):
    """Also where many publish at once; topics count by themselves."""
    async with running(broker) as ingress:
        await broker.subscribe(TOPIC)
        await broker.subscribe("room:b")
        positions: list[Position] = []

        async def publish(topic: str) -> None:
            for _ in range(10):
                positions.append(await broker.publish(topic, DRAFT))

        async with trio.open_nursery() as nursery:
            for topic in (TOPIC, TOPIC, TOPIC, "room:b"):
                nursery.start_soon(publish, topic)
        found = await delivered(ingress, 40)
    assert [one.offset for one in found if one.topic == TOPIC] == list(range(1, 31))
    assert [one.offset for one in found if one.topic == "room:b"] == list(range(1, 11))
    assert sorted(position.offset for position in positions) == sorted([*range(1, 31), *range(1, 11)])
    assert len({position.epoch for position in positions}) == 2


async def test_message_arrives_as_it_was_published(broker, autojump_clock):
    """Payload, event and key are carried; the broker adds offset and time."""
    async with running(broker) as ingress:
        await broker.subscribe(TOPIC)
        await broker.publish(TOPIC, Draft(b'{"a":1.10}', "event", "key"))
        (found,) = await delivered(ingress, 1)
    assert (found.topic, found.offset, found.data, found.event, found.key) == (TOPIC, 1, b'{"a":1.10}', "event", "key")
    assert found.time >= 1000


async def test_page_and_what_comes_live_join_without_hole(broker, autojump_clock):
    """Whatever moment a page is read at, what it lacks reaches the ingress of one who had subscribed before."""
    async with running(broker) as ingress:

        async def publish() -> None:
            for _ in range(50):
                await broker.publish(TOPIC, DRAFT)
                await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish)
            await trio.sleep(0.2)
            await broker.subscribe(TOPIC)
            page = await broker.read(TOPIC, Since(last=1000), 1000)
        top = page.top.offset
        assert [one.offset for one in page.publications] == list(range(1, top + 1))
        live: list[int] = []
        while 50 not in live:
            live += [one.offset for one in await delivered(ingress, 1)]
    assert set(range(top + 1, 51)) <= set(live)
    assert live == sorted(set(live))


async def test_published_message_is_in_history(broker, autojump_clock):
    """What has a position can be read, and is known to be there."""
    async with running(broker):
        position = await broker.publish(TOPIC, DRAFT)
        page = await broker.read(TOPIC, Since(last=10), 10)
        assert page.top == position
        assert [one.offset for one in page.publications] == [1]
        assert broker.recoverable(TOPIC, position.epoch, 1)
        assert not broker.recoverable(TOPIC, "other", 1)
        assert not broker.recoverable("room:b", position.epoch, 1)


async def test_read_gives_all_that_was_asked_for_or_nothing(broker, autojump_clock):
    """A page with a reason has no publications."""
    async with running(broker):
        for _ in range(5):
            position = await broker.publish(TOPIC, DRAFT)
        full = await broker.read(TOPIC, Since(Position(position.epoch, 2)), 10)
        over = await broker.read(TOPIC, Since(Position(position.epoch, 2)), 2)
        other = await broker.read(TOPIC, Since(Position("other", 2)), 10)
    assert ([one.offset for one in full.publications], full.why) == ([3, 4, 5], None)
    assert (over.publications, over.why) == ([], Why.LIMIT)
    assert (other.publications, other.why) == ([], Why.EPOCH_CHANGED)


async def test_read_of_an_unknown_topic_gives_a_position_that_holds(broker, autojump_clock):
    """An empty topic has an epoch, and the first message is in it."""
    async with running(broker):
        page = await broker.read(TOPIC, Since(), 10)
        position = await broker.publish(TOPIC, DRAFT)
    assert page.top.offset == 0
    assert position == Position(page.top.epoch, 1)


async def test_browse_gives_pages(broker, autojump_clock):
    """Looking around is cut at the limit and goes on where it stopped."""
    async with running(broker):
        for _ in range(5):
            position = await broker.publish(TOPIC, DRAFT)
        first = await broker.browse(TOPIC, None, 3)
        second = await broker.browse(TOPIC, Position(position.epoch, 3), 3)
    assert [one.offset for one in first.publications] == [1, 2, 3]
    assert [one.offset for one in second.publications] == [4, 5]


async def test_cancelled_publish_has_published_all_or_nothing(broker, autojump_clock):
    """Whenever it is cancelled, history has the message whole or not at all, and the count has no hole."""
    async with running(broker) as ingress:
        await broker.subscribe(TOPIC)
        for milliseconds in range(0, 100, 5):
            with trio.move_on_after(milliseconds / 1000):
                await broker.publish(TOPIC, DRAFT)
        top = (await broker.publish(TOPIC, DRAFT)).offset
        page = await broker.read(TOPIC, Since(last=100), 100)
        live = await delivered(ingress, top)
    assert [one.offset for one in page.publications] == list(range(1, top + 1))
    assert [one.offset for one in live] == list(range(1, top + 1))


async def test_publish_into_a_full_ingress_waits(broker, autojump_clock):
    """Publishers feel the back-pressure of the hub: what is not taken does not grow without end."""
    async with running(broker, most=2) as ingress:
        await broker.subscribe(TOPIC)
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(broker.publish, TOPIC, DRAFT)
            await trio.sleep(10)
            assert ingress.messages == 2
            found = await delivered(ingress, 20)
    assert [one.offset for one in found] == list(range(1, 21))


async def test_subscriptions_are_counted(broker, autojump_clock):
    """A topic lives as long as anybody wants it."""
    async with running(broker):
        await broker.subscribe(TOPIC)
        await broker.subscribe(TOPIC)
        epoch = (await broker.publish(TOPIC, DRAFT)).epoch
        broker.unsubscribe(TOPIC)
        await trio.sleep(1000)
        assert (await broker.publish(TOPIC, DRAFT)) == Position(epoch, 2)
        broker.unsubscribe(TOPIC)


async def test_forgotten_topic_comes_back_in_a_new_epoch(broker, autojump_clock):
    """Its old positions mean nothing then, and readers are told so."""
    async with running(broker):
        old = await broker.publish(TOPIC, DRAFT)
        await trio.sleep(1000)
        page = await broker.read(TOPIC, Since(old), 100)
        assert (page.why, page.top.offset) == (Why.EPOCH_CHANGED, 0)
        new = await broker.publish(TOPIC, DRAFT)
    assert new.epoch != old.epoch
    assert new.offset == 1


async def test_topic_with_history_is_not_forgotten(broker, autojump_clock):
    """As long as there is something to recover, the epoch stays."""
    async with running(broker):
        old = await broker.publish(TOPIC, DRAFT)
        await trio.sleep(50)
        assert (await broker.publish(TOPIC, DRAFT)) == Position(old.epoch, 2)


async def test_publish_after_the_end_is_refused(broker, autojump_clock):
    """A broker that does not run is unavailable, also to those who were waiting for room."""
    waiting: list[str] = []

    async def publish() -> None:
        try:
            await broker.publish(TOPIC, DRAFT)
        except CommandError as error:
            waiting.append(error.code)

    async with trio.open_nursery() as nursery:
        async with running(broker, most=1):
            await broker.subscribe(TOPIC)
            for _ in range(2000):
                nursery.start_soon(publish)
            await trio.sleep(1)
    assert set(waiting) == {"UNAVAILABLE"}
    with pytest.raises(CommandError, match="UNAVAILABLE"):
        await broker.publish(TOPIC, DRAFT)
