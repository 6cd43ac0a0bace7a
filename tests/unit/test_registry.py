"""Topics that must be created."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from realtime import CommandError, Identity, Settings, open_engine
from realtime.engine import HANDING_OUT_SECONDS
from realtime.progress_state import TaskCompleted
from realtime.registry import Registry
from realtime.testing import connect
from realtime.topics import Kinds
from realtime.wishes import Subscribe
from tests.tools import brief, settle

KINDS = Kinds().with_options("hall", must_exist=True)


def kind(name: str):
    """One of the kinds."""
    return next(one for one in KINDS if one.name == name)


def test_topic_is_created_and_removed_once():
    """A second creation brings nothing, a second removal is refused."""
    registry = Registry(KINDS, 10)
    assert registry.create("hall:a")
    assert not registry.create("hall:a")
    assert "hall:a" in registry
    registry.remove("hall:a")
    assert "hall:a" not in registry
    with pytest.raises(CommandError, match="ROOM_NOT_FOUND"):
        registry.remove("hall:a")
    assert registry.create("hall:a")
    assert (registry.created, registry.removed, len(registry)) == (2, 1, 1)


@pytest.mark.parametrize(
    ("topic", "code"), [("room:a", "BAD_REQUEST"), ("nosuch:a", "INVALID_TOPIC"), ("hall:a b", "INVALID_TOPIC")]
)
def test_topic_that_cannot_be_created_is_refused(topic, code):
    """Those of other kinds come into being by themselves."""
    with pytest.raises(CommandError, match=code):
        Registry(KINDS, 10).create(topic)


def test_topic_of_a_kind_that_comes_by_itself_can_be_removed():
    """There is nothing to forget here, but history may be gone through."""
    registry = Registry(KINDS, 10)
    registry.remove("room:a")
    assert registry.removed == 0


def test_topics_over_the_limit_are_refused():
    """Until one has been removed."""
    registry = Registry(KINDS, 2)
    registry.create("hall:a")
    registry.create("hall:b")
    with pytest.raises(CommandError, match="LIMIT_EXCEEDED"):
        registry.create("hall:c")
    assert not registry.create("hall:a")
    registry.remove("hall:a")
    assert registry.create("hall:c")


def test_missing_topic_is_refused_with_the_code_of_its_kind():
    """Others are not looked at."""
    registry = Registry(KINDS, 10)
    for name, code in (("hall", "ROOM_NOT_FOUND"), ("session", "SESSION_NOT_FOUND")):
        with pytest.raises(CommandError, match=code):
            registry.check(kind(name), f"{name}:a")
    registry.check(kind("room"), "room:a")
    registry.create("hall:a")
    registry.check(kind("hall"), "hall:a")


def test_names_come_in_pages():
    """Sorted, also after some were removed."""
    registry = Registry(KINDS, 100)
    for number in (3, 1, 2, 0, 4):
        registry.create(f"hall:{number}")
    registry.remove("hall:2")
    assert registry.names("", 2) == ["hall:0", "hall:1"]
    assert registry.names("hall:1", 2) == ["hall:3", "hall:4"]
    assert registry.names("hall:2", 1) == ["hall:3"]
    assert registry.names("hall:4", 2) == []


async def test_topic_that_must_exist_is_refused_everywhere_until_it_does(autojump_clock):
    """Publishing and joining alike; and again once it is gone, when its history is gone, too."""
    async with open_engine(Settings(dev=True)) as engine:
        with pytest.raises(CommandError, match="SESSION_NOT_FOUND"):
            await engine.publish("session:a", 1)
        assert engine.create_topic("session:a")
        assert not engine.create_topic("session:a")
        old = await engine.publish("session:a", 1)
        await engine.remove_topic("session:a")
        with pytest.raises(CommandError, match="SESSION_NOT_FOUND"):
            await engine.publish("session:a", 1)
        engine.create_topic("session:a")
        new = await engine.publish("session:a", 1)
        assert (new.epoch != old.epoch, new.offset) == (True, 1)
        statistics = engine.statistics()
        assert (statistics.created_topics, statistics.removed_topics) == (2, 1)


# -- the last words before a topic goes --------------------------------------------------------------------------

SESSION = "session:a"


@asynccontextmanager
async def followers(count: int, *, buffer_bytes: int = 1 << 16, max_rate: float | None = None):
    """An engine with a topic that can be removed, and so many peers that have it."""
    wish = Subscribe(SESSION, max_rate=max_rate)
    async with open_engine(Settings(auto_subscribe=())) as engine, AsyncExitStack() as stack:
        engine.create_topic(SESSION)
        peers = [
            await stack.enter_async_context(
                connect(engine, subscribe=[wish], identity=Identity(str(number)), buffer_bytes=buffer_bytes)
            )
            for number in range(count)
        ]
        yield engine, peers


async def test_message_before_the_removal_of_its_topic_reaches_all_who_read(autojump_clock):
    """However many they are: they are not all written to in one turn."""
    async with followers(300) as (engine, peers):
        began = trio.current_time()
        await engine.publish(SESSION, "last words")
        await engine.remove_topic(SESSION)
        await settle()
        assert trio.current_time() - began < 1
        assert {tuple(brief(push) for push in peer.pending()) for peer in peers} == {(1, "unsubscribed")}


async def test_removal_lets_go_of_what_is_held_for_those_who_asked_for_few(autojump_clock):
    """At once: there will be nothing newer that it could wait for."""
    async with followers(1, max_rate=1.0) as (engine, (peer,)):
        began = trio.current_time()
        for key in "abcd":
            await engine.publish(SESSION, 1, key=key)
        await engine.remove_topic(SESSION)
        await settle()
        assert trio.current_time() - began < 1
        assert [brief(push) for push in peer.pending()] == [1, 2, 3, 4, "unsubscribed"]


async def test_removal_tells_who_does_not_read_what_was_lost(autojump_clock):
    """A gap from the first message that did not leave to the last, after the time that one may hold up the rest."""
    async with followers(1, buffer_bytes=1000) as (engine, (peer,)):
        peer.stall()
        for _ in range(200):
            await engine.publish(SESSION, "x" * 1000)
        await settle()
        began = trio.current_time()
        await engine.remove_topic(SESSION)
        assert trio.current_time() - began == pytest.approx(HANDING_OUT_SECONDS, abs=0.1)
        peer.resume()
        await peer.receive_type("unsubscribed")
        *messages, gap, told = [brief(push) for push in peer.received[1:]]
        assert messages == list(range(1, len(messages) + 1))
        assert gap == (len(messages) + 1, 200, 200 - len(messages))
        assert (0 < len(messages) < 200, told) == (True, "unsubscribed")
        (lost,) = [push for push in peer.received if push["type"] == "gap"]
        assert lost["reason"] == "slow_consumer"
        hub = engine.statistics().hub
        assert (hub.delivered, hub.dropped) == (len(messages), {"slow_consumer": 200 - len(messages)})


async def test_topic_of_a_progress_session_goes_with_its_session_only(autojump_clock):
    """Else its workers would report to nobody."""
    async with open_engine() as engine:
        engine.progress.create("a")
        with pytest.raises(CommandError, match="BAD_REQUEST"):
            await engine.remove_topic(SESSION)
        await engine.progress.notify_progress("a", TaskCompleted(node_id="n"))
        await engine.progress.complete("a")
        with pytest.raises(CommandError, match="BAD_REQUEST"):
            await engine.remove_topic(SESSION)
