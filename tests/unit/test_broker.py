"""What the broker in memory does besides what every broker does."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from realtime import MemoryBroker, Since
from realtime.broker import Draft
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
