"""What the hub relies on, of every broker."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from realtime.broker import Draft
from realtime.errors import CommandError
from realtime.history import Position, Since, Why
from realtime.idempotency import Receipt
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
        positions: list[Receipt] = []

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
    """Payload, event, key and origin are carried, live and in history; the broker adds offset, epoch and time."""
    async with running(broker) as ingress:
        await broker.subscribe(TOPIC)
        receipt = await broker.publish(TOPIC, Draft(b'{"a":1.10}', "event", "key", "c_1"))
        (found,) = await delivered(ingress, 1)
        page = await broker.read(TOPIC, Since(last=1), 1)
    assert (found.topic, found.offset, found.data, found.event, found.key) == (TOPIC, 1, b'{"a":1.10}', "event", "key")
    assert (found.origin, found.epoch) == ("c_1", receipt.epoch)
    assert found.time >= 1000
    assert page.publications == [found]


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
        assert page.top == position.position
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
    assert position == Receipt(page.top.epoch, 1)


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
        assert (await broker.publish(TOPIC, DRAFT)) == Receipt(epoch, 2)
        broker.unsubscribe(TOPIC)


async def test_topic_that_comes_back_goes_on_where_it_was(broker, autojump_clock):
    """Who was there at its end has lost nothing; who was behind is told how much, though the history has gone."""
    async with running(broker):
        for _ in range(3):
            old = await broker.publish(TOPIC, DRAFT)
        await broker.read("room:quiet", Since(), 1)
        quiet = (await broker.read("room:quiet", Since(), 1)).top
        await trio.sleep(1000)
        assert await broker.topics("", 10) == []
        assert await broker.position(TOPIC) is None
        assert (await broker.browse(TOPIC, old.position, 100)).why is None
        page = await broker.read(TOPIC, Since(old.position), 100)
        assert (page.why, page.top, page.publications) == (None, old.position, [])
        page = await broker.read(TOPIC, Since(Position(old.epoch, 1)), 100)
        assert (page.why, page.top.offset) == (Why.TOO_OLD, 3)
        assert (await broker.read("room:quiet", Since(quiet), 100)).why is None
        assert await broker.publish(TOPIC, DRAFT) == Receipt(old.epoch, 4)


async def test_topic_that_was_removed_comes_back_in_a_new_epoch(broker, autojump_clock):
    """Its old positions mean nothing then, and readers are told so; be it removed while it was forgotten."""
    async with running(broker):
        for pause in (0, 1000):
            old = await broker.publish(TOPIC, DRAFT)
            await trio.sleep(pause)
            broker.forget(TOPIC)
            page = await broker.read(TOPIC, Since(old.position), 100)
            assert (page.why, page.top.offset) == (Why.EPOCH_CHANGED, 0)
            new = await broker.publish(TOPIC, DRAFT)
            assert new.epoch != old.epoch
            assert new.offset == 1


async def test_topic_with_history_is_not_forgotten(broker, autojump_clock):
    """As long as there is something to recover, the epoch stays."""
    async with running(broker):
        old = await broker.publish(TOPIC, DRAFT)
        await trio.sleep(50)
        assert (await broker.publish(TOPIC, DRAFT)) == Receipt(old.epoch, 2)


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


# -- a message is published once ---------------------------------------------------------------------------------


def keyed(key: str, data: bytes = b"1") -> Draft:
    """A draft with an idempotency key."""
    return Draft(data, idempotency_key=key)


async def history(broker, topic: str = TOPIC) -> list[bytes]:
    """What is kept of a topic."""
    return [one.data for one in (await broker.browse(topic, None, 1000)).publications]


async def test_message_published_again_with_its_key_gets_its_first_receipt(broker, autojump_clock):
    """Whatever it says the second time; another topic and another key are another message."""
    async with running(broker):
        first = await broker.publish(TOPIC, keyed("a"))
        between = await broker.publish(TOPIC, keyed("b"))
        again = await broker.publish(TOPIC, keyed("a", b"2"))
        elsewhere = await broker.publish("room:b", keyed("a"))
        assert again == Receipt(first.epoch, 1, duplicate=True)
        assert (between.offset, between.duplicate) == (2, False)
        assert (elsewhere.offset, elsewhere.duplicate) == (1, False)
        assert await history(broker) == [b"1", b"1"]


async def test_message_published_twice_at_once_is_published_once(broker, autojump_clock):
    """Also where both wait for room, and those behind them go on."""
    receipts: list[Receipt] = []

    async def publish(draft: Draft) -> None:
        receipts.append(await broker.publish(TOPIC, draft))

    async with running(broker, most=1) as ingress:
        await broker.subscribe(TOPIC)
        async with trio.open_nursery() as nursery:
            for draft in (DRAFT, DRAFT, *[keyed("a")] * 5, DRAFT):
                nursery.start_soon(publish, draft)
                await trio.sleep(1)
            found = await delivered(ingress, 4)
        with trio.move_on_after(10):
            found += await ingress.receive(1)
    assert [one.offset for one in found] == [1, 2, 3, 4]
    assert sorted(receipt.duplicate for receipt in receipts) == [False] * 4 + [True] * 4


async def test_key_is_forgotten_after_its_time(broker, autojump_clock):
    """Then the same key is another message. Being repeated does not make it live longer."""
    async with running(broker):
        await broker.publish(TOPIC, keyed("a"))
        await trio.sleep(20)
        assert (await broker.publish(TOPIC, keyed("a"))).duplicate
        await trio.sleep(15)
        assert (await broker.publish(TOPIC, keyed("a"))).offset == 2


async def test_oldest_key_goes_where_there_are_too_many(broker, autojump_clock):
    """Keys are chosen by peers, so there is a bound to them: five, here."""
    async with running(broker):
        for key in "abcdef":
            await broker.publish(TOPIC, keyed(key))
        assert (await broker.publish(TOPIC, keyed("b"))).duplicate
        assert not (await broker.publish(TOPIC, keyed("a"))).duplicate
        assert not (await broker.publish(TOPIC, keyed("b"))).duplicate


async def test_cancelled_publish_with_a_key_is_done_once_by_the_next_try(broker, autojump_clock):
    """Whether the first one was published or not, the answer to the second is right."""
    async with running(broker):
        for milliseconds in range(0, 100, 5):
            draft = keyed(f"k{milliseconds}", b"%d" % milliseconds)
            with trio.move_on_after(milliseconds / 1000):
                await broker.publish(TOPIC, draft)
            receipt = await broker.publish(TOPIC, draft)
            assert receipt.offset == milliseconds / 5 + 1
        assert await history(broker) == [b"%d" % milliseconds for milliseconds in range(0, 100, 5)]


async def test_message_that_says_what_the_last_one_said_is_dropped(broker, autojump_clock):
    """A A B A are three messages, of a kind that drops duplicates; of any other kind they are four."""
    async with running(broker):
        receipts = [await broker.publish("tick:a", Draft(data)) for data in (b"1", b"1", b"2", b"1")]
        assert [(receipt.offset, receipt.duplicate) for receipt in receipts] == [
            (1, False),
            (1, True),
            (2, False),
            (3, False),
        ]
        assert await history(broker, "tick:a") == [b"1", b"2", b"1"]
        assert [(await broker.publish(TOPIC, DRAFT)).duplicate for _ in range(2)] == [False, False]


@pytest.mark.parametrize(
    "other",
    [Draft(b"1", event="other", key="k"), Draft(b"1", event="e", key="other"), Draft(b"1", event="e"), Draft(b"2")],
)
async def test_message_with_another_event_key_or_data_is_no_duplicate(other, broker, autojump_clock):
    """Each key has a last message of its own."""
    draft = Draft(b"1", "e", "k")
    async with running(broker):
        receipts = [await broker.publish("tick:a", one) for one in (draft, other, draft, other)]
    duplicates = [False, False, other.key != draft.key, other.key != draft.key]
    assert [receipt.duplicate for receipt in receipts] == duplicates


async def test_dropped_duplicate_is_the_answer_to_its_key_as_well(broker, autojump_clock):
    """A publisher that tries again after another message gets the same receipt."""
    async with running(broker):
        await broker.publish("tick:a", DRAFT)
        dropped = await broker.publish("tick:a", keyed("a"))
        await broker.publish("tick:a", Draft(b"2"))
        again = await broker.publish("tick:a", keyed("a"))
    assert dropped == again == Receipt(dropped.epoch, 1, duplicate=True)


async def test_duplicate_is_recognised_while_its_twin_waits_for_room(broker, autojump_clock):
    """Those behind it do not wait for ever."""
    receipts: list[Receipt] = []

    async def publish(data: bytes) -> None:
        receipts.append(await broker.publish("tick:a", Draft(data)))

    async with running(broker, most=1) as ingress:
        await broker.subscribe("tick:a")
        async with trio.open_nursery() as nursery:
            for data in (b"1", b"2", b"3", b"3", b"3", b"4"):
                nursery.start_soon(publish, data)
                await trio.sleep(1)
            found = await delivered(ingress, 4)
    assert [one.data for one in found] == [b"1", b"2", b"3", b"4"]
    assert sum(receipt.duplicate for receipt in receipts) == 2


async def test_value_that_history_has_no_more_is_no_duplicate(broker, autojump_clock):
    """Else who comes late would never learn a value that does not change."""
    async with running(broker):
        await broker.subscribe("tick:a")
        first = await broker.publish("tick:a", DRAFT)
        await trio.sleep(290)
        assert (await broker.publish("tick:a", DRAFT)).duplicate
        await trio.sleep(20)
        again = await broker.publish("tick:a", DRAFT)
        assert again == Receipt(first.epoch, 2)
        assert await history(broker, "tick:a") == [b"1"]


# -- topics ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subscribed", [False, True])
async def test_topic_that_is_to_be_forgotten_starts_anew(subscribed, broker, autojump_clock):
    """With nothing in its history, in a new epoch, and with no memory of what was said last."""
    async with running(broker):
        if subscribed:
            await broker.subscribe("tick:a")
        old = await broker.publish("tick:a", DRAFT)
        broker.forget("tick:a")
        page = await broker.read("tick:a", Since(old.position), 10)
        assert (page.why, page.publications, page.top.offset) == (Why.EPOCH_CHANGED, [], 0)
        assert not broker.recoverable("tick:a", old.epoch, 1)
        new = await broker.publish("tick:a", DRAFT)
        assert (new.epoch != old.epoch, new.offset, new.duplicate) == (True, 1, False)
        broker.forget("tick:never")
        if subscribed:
            broker.unsubscribe("tick:a")


async def test_topics_are_listed_in_pages(broker, autojump_clock):
    """Sorted, each once, going on behind the last of the page before."""
    names = sorted(f"room:{number}" for number in range(25))
    async with running(broker):
        for name in reversed(names):
            await broker.publish(name, DRAFT)
        pages: list[list[str]] = [[""]]
        while pages[-1]:
            pages.append(await broker.topics(pages[-1][-1], 10))
        assert [len(page) for page in pages] == [1, 10, 10, 5, 0]
        assert [name for page in pages[1:] for name in page] == names


async def test_position_of_a_topic_is_where_it_stands(broker, autojump_clock):
    """Of one that there is not, there is none, and asking does not bring it about."""
    async with running(broker):
        assert await broker.position(TOPIC) is None
        assert await broker.topics("", 10) == []
        receipt = await broker.publish(TOPIC, DRAFT)
        assert await broker.position(TOPIC) == receipt.position
