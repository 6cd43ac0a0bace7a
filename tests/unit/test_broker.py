"""What the broker in memory does besides what every broker does."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from realtime import MemoryBroker, Since
from realtime.broker import FULL_SECONDS, Draft
from realtime.errors import CommandError
from realtime.history import Why
from realtime.ingress import Ingress
from realtime.topics import Kinds

DRAFT = Draft(b"1")


@pytest.fixture
async def broker(nursery):
    """A broker that runs, and whose ingress has room for two."""
    made = MemoryBroker(Kinds(), now_ms=lambda: 42)
    made.ingress = Ingress(2, 1 << 20)
    await nursery.start(made.run, made.ingress)
    return made


async def test_publishing_at_once_gives_a_position_or_none(broker, autojump_clock):
    """None where it would have to wait; then nothing was published."""
    assert [broker.publish_nowait("room:a", DRAFT).offset for _ in range(2)] == [1, 2]
    assert broker.publish_nowait("room:a", DRAFT) is None
    await broker.ingress.receive(1)
    assert broker.publish_nowait("room:a", DRAFT).offset == 3


async def test_publisher_whose_room_was_taken_waits_again(broker, autojump_clock):
    """Between being woken and publishing another may have come."""
    broker.publish_nowait("room:a", DRAFT)
    broker.publish_nowait("room:a", DRAFT)
    positions = []

    async def publish() -> None:
        positions.append(await broker.publish("room:a", DRAFT))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(publish)
        await trio.testing.wait_all_tasks_blocked()
        await broker.ingress.receive(1)  # wakes it
        assert broker.publish_nowait("room:a", DRAFT).offset == 3  # was faster
        await trio.testing.wait_all_tasks_blocked()
        assert positions == []
        await broker.ingress.receive(1)
    assert positions[0].offset == 4


async def test_many_forgotten_topics_free_their_memory(broker, autojump_clock):
    """A sweep that takes long lets others run, and leaves what is in use."""
    for number in range(2500):
        await broker.read(f"room:{number}", Since(), 1)
    await broker.subscribe("room:7")
    assert len(broker) == 2500
    await trio.sleep(60)
    assert len(broker) == 1


async def test_keys_whose_last_message_is_remembered_are_bounded(nursery, autojump_clock, monkeypatch):
    """The one that was quiet for longest is forgotten first: keys are chosen by publishers."""
    monkeypatch.setattr("realtime.broker._MAX_LAST_KEYS", 2)
    broker = MemoryBroker(Kinds(), now_ms=lambda: 42)
    await nursery.start(broker.run, Ingress(100, 1 << 20))

    def duplicate(key: str, data: bytes = b"1") -> bool:
        return broker.publish_nowait("symbol:600519", Draft(data, key=key)).duplicate

    assert [duplicate(key) for key in "ab"] == [False, False]
    assert not duplicate("a", b"2")
    assert not duplicate("c")
    assert [duplicate("a", b"2"), duplicate("c"), duplicate("b")] == [True, True, False]


async def running(nursery, **options) -> MemoryBroker:
    """A broker with room for everything."""
    broker = MemoryBroker(Kinds(), now_ms=lambda: 42, **options)
    await nursery.start(broker.run, Ingress(1000, 1 << 20))
    return broker


async def test_peer_that_comes_and_goes_does_not_use_up_the_topics(nursery, autojump_clock):
    """Those that nobody has and that hold nothing make room, before any sweep; those in use do not."""
    broker = await running(nursery, max_topics=3)
    await broker.subscribe("room:used")
    for number in range(10):
        await broker.subscribe(f"room:{number}")
        broker.unsubscribe(f"room:{number}")
    for name in ("room:a", "room:b"):
        broker.publish_nowait(name, DRAFT)
    with pytest.raises(CommandError, match="LIMIT_EXCEEDED"):
        broker.publish_nowait("room:c", DRAFT)
    assert await broker.topics("", 10) == ["room:a", "room:b", "room:used"]


async def test_places_of_forgotten_topics_are_bounded(nursery, autojump_clock):
    """The one that has been gone for longest begins anew; a kind that keeps nothing takes nobody's place."""
    kinds = Kinds().with_options("agent", history_messages=0)
    broker = MemoryBroker(kinds, max_topics=2, now_ms=lambda: 42)
    await nursery.start(broker.run, Ingress(1000, 1 << 20))
    places = {}
    for name in ("room:a", "room:b", "room:c", "agent:x"):
        places[name] = (await broker.publish(name, DRAFT)).position
        await trio.sleep(1000)
    whys = {name: (await broker.read(name, Since(place), 10)).why for name, place in places.items()}
    assert whys == {"room:a": Why.EPOCH_CHANGED, "room:b": None, "room:c": None, "agent:x": Why.EPOCH_CHANGED}


async def kept(broker: MemoryBroker, topic: str) -> list[int]:
    """The offsets that a topic still has."""
    return [one.offset for one in (await broker.browse(topic, None, 100)).publications]


async def test_histories_over_their_common_bound_forget_what_was_used_least_lately(nursery, autojump_clock):
    """Down to nine tenths, so that not every message costs a walk."""
    broker = await running(nursery, max_history_bytes=1000)
    draft = Draft(b"1" * 100)
    for topic in ("room:a", "room:b", "room:a", "room:b", "room:c"):
        for _ in range(2):
            broker.publish_nowait(topic, draft)
        await trio.sleep(1)
    assert [await kept(broker, f"room:{name}") for name in "abc"] == [[1, 2, 3, 4], [1, 2, 3, 4], [1, 2]]
    broker.publish_nowait("room:c", draft)
    assert [await kept(broker, f"room:{name}") for name in "abc"] == [[3, 4], [1, 2, 3, 4], [1, 2, 3]]
    for _ in range(20):
        broker.publish_nowait("room:c", draft)
    assert [await kept(broker, f"room:{name}") for name in "ab"] == [[], []]
    assert 8 <= len(await kept(broker, "room:c")) <= 10


async def test_bytes_that_histories_forgot_by_themselves_do_not_count(nursery, autojump_clock):
    """What expired makes nobody else forget."""
    broker = await running(nursery, max_history_bytes=1000)
    draft = Draft(b"1" * 100)
    for _ in range(9):
        broker.publish_nowait("room:a", draft)
    await trio.sleep(400)
    for _ in range(9):
        broker.publish_nowait("room:b", draft)
    assert (await kept(broker, "room:a"), len(await kept(broker, "room:b"))) == ([], 9)


async def test_duplicate_of_a_message_that_made_room_for_others_is_published(nursery, autojump_clock):
    """Who comes late would not learn the value; of a kind that keeps no history nobody could, and it is left out."""
    kinds = Kinds().with_options("tick", drop_duplicates=True, history_messages=2)
    kinds = kinds.with_options("flash", drop_duplicates=True, history_messages=0)
    broker = MemoryBroker(kinds, now_ms=lambda: 42)
    await nursery.start(broker.run, Ingress(1000, 1 << 20))

    def duplicate(topic: str, key: str) -> bool:
        return broker.publish_nowait(topic, Draft(b"1", key=key)).duplicate

    assert [duplicate("tick:a", key) for key in "aabca"] == [False, True, False, False, False]
    assert [duplicate("flash:a", key) for key in "aabca"] == [False, True, False, False, True]


async def test_full_table_is_not_looked_through_for_everyone_who_asks(nursery, autojump_clock):
    """Where nothing could be dropped it is looked at again after a second, and then has room."""
    broker = await running(nursery, max_topics=2)
    for name in ("room:a", "room:b"):
        await broker.subscribe(name)
    with pytest.raises(CommandError, match="LIMIT_EXCEEDED"):
        await broker.subscribe("room:c")
    broker.unsubscribe("room:a")
    for _ in range(3):
        with pytest.raises(CommandError, match="LIMIT_EXCEEDED"):
            await broker.subscribe("room:c")
        await trio.sleep(FULL_SECONDS / 4)
    await trio.sleep(FULL_SECONDS / 4)
    await broker.subscribe("room:c")
    assert await broker.topics("", 10) == ["room:b", "room:c"]


async def test_full_table_that_had_room_is_looked_through_at_once(nursery, autojump_clock):
    """Who comes and goes is never put off."""
    broker = await running(nursery, max_topics=2)
    await broker.subscribe("room:a")
    for number in range(10):
        await broker.subscribe(f"room:{number}")
        broker.unsubscribe(f"room:{number}")
