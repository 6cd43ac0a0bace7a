"""Topics that must be created."""

from __future__ import annotations

import pytest

from realtime import Settings, open_engine
from realtime.errors import CommandError
from realtime.registry import Registry
from realtime.topics import Kinds

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
