"""Publishing from everywhere."""

from __future__ import annotations

import attrs
import pytest
import trio

from realtime import CommandError, Settings, open_engine
from realtime.broker import Draft

SETTINGS = Settings(dev=True, max_message_bytes=100)


async def data_of(engine, topic="room:a") -> list[bytes]:
    """What history holds."""
    return [one.data for one in (await engine.broker.browse(topic, None, 100)).publications]


async def test_anything_with_a_json_form_can_be_published(autojump_clock):
    """Also classes of attrs."""

    @attrs.frozen
    class Tick:
        price: float

    async with open_engine(SETTINGS) as engine:
        for thing in (1, "é", None, [1], {"a": 1.1}, Tick(1.5)):
            await engine.publish("room:a", thing)
        assert await data_of(engine) == [b"1", '"é"'.encode(), b"null", b"[1]", b'{"a":1.1}', b'{"price":1.5}']


async def test_thing_without_a_json_form_is_refused_before_it_has_a_place(autojump_clock):
    """Nothing was published."""
    async with open_engine(SETTINGS) as engine:
        with pytest.raises(TypeError):
            await engine.publish("room:a", object())
        assert await data_of(engine) == []


@pytest.mark.parametrize(
    ("topic", "options", "code"),
    [
        ("nosuch:a", {}, "INVALID_TOPIC"),
        ("room:a", {"data": "x" * 99}, "PAYLOAD_TOO_LARGE"),
        ("room:a", {"key": "\ud800"}, "BAD_REQUEST"),
        ("room:a", {"event": "\ud800"}, "BAD_REQUEST"),
    ],
)
async def test_message_that_the_hub_could_not_carry_is_refused(topic, options, code, autojump_clock):
    """The publisher is told, and not the hub's log."""
    async with open_engine(SETTINGS) as engine:
        with pytest.raises(CommandError) as caught:
            await engine.publish(topic, **{"data": 1, **options})
        assert caught.value.code == code
        assert (await engine.publish("room:a", "x" * 98, event="é", key="é")).offset == 1


async def test_json_text_is_put_on_one_line(autojump_clock):
    """Its numbers stay as they are."""
    async with open_engine(SETTINGS) as engine:
        await engine.publisher.publish_json("room:a", Draft(b'{"a":\n1.10}'))
        assert await data_of(engine) == [b'{"a":1.10}']


async def test_publish_always_is_a_checkpoint(autojump_clock):
    """A loop that only publishes lets others run."""
    async with open_engine(SETTINGS) as engine:
        with trio.testing.assert_checkpoints():
            await engine.publish("room:a", 1)


async def test_publish_at_once_needs_a_broker_that_can(autojump_clock):
    """For others the answer is to wait."""
    async with open_engine(SETTINGS) as engine:
        assert engine.publisher.publish_json_nowait("room:a", Draft(b"1")).offset == 1
        engine.publisher._at_once = None
        assert engine.publisher.publish_json_nowait("room:a", Draft(b"1")) is None


async def test_thread_publishes_and_gets_its_position():
    """Blocking the thread and not the loop; errors come back to it."""
    async with open_engine(SETTINGS) as engine:

        def feed() -> list:
            found = [engine.publish_from_thread("room:a", n, key="k").offset for n in range(5)]
            with pytest.raises(CommandError, match="INVALID_TOPIC"):
                engine.publish_from_thread("nosuch:a", 1)
            return found

        assert await trio.to_thread.run_sync(feed) == [1, 2, 3, 4, 5]
        assert await data_of(engine) == [b"0", b"1", b"2", b"3", b"4"]


async def test_server_with_too_many_topics_refuses_new_ones(autojump_clock):
    """Until old ones have been forgotten."""
    options = Settings(dev=True, max_server_topics=2, kinds={"room": {"history_age_seconds": 10.0}})
    async with open_engine(options) as engine:
        await engine.publish("room:a", 1)
        await engine.publish("room:b", 1)
        with pytest.raises(CommandError, match="LIMIT_EXCEEDED"):
            await engine.publish("room:c", 1)
        await trio.sleep(60)
        assert (await engine.publish("room:c", 1)).offset == 1
        assert len(engine.broker) == 1
