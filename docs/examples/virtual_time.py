"""Tests of one's own, in virtual time: minutes pass in milliseconds."""

import pytest
import trio
import trio.testing

from realtime import Settings, open_engine
from realtime.testing import connect


async def countdown(engine, topic):
    """What we want to test: a feed that counts down, one step a minute."""
    for left in (3, 2, 1, 0):
        await engine.publish(topic, {"left": left})
        await trio.sleep(60)


async def test_countdown_takes_three_minutes(autojump_clock):
    async with open_engine(Settings(dev=True)) as engine, connect(engine) as peer, trio.open_nursery() as nursery:
        reply = await peer.command("subscribe", topic="room:countdown")
        assert reply["type"] == "subscribed"
        nursery.start_soon(countdown, engine, "room:countdown")
        began = trio.current_time()
        seen = [(await peer.receive_type("message"))["data"]["left"] for _ in range(4)]
        assert seen == [3, 2, 1, 0]
        assert trio.current_time() - began == pytest.approx(180)


async def test_peer_that_answers_no_ping_is_closed(autojump_clock):
    async with open_engine(Settings(dev=True)) as engine, connect(engine) as peer:
        peer.answers_pings = False
        reason = await peer.wait_closed()
        assert (reason.code, reason.reconnect) == (4108, True)


async def test_peer_that_stops_reading_is_told_what_it_lost(autojump_clock):
    settings = Settings(dev=True, outbox_messages=10)
    async with open_engine(settings) as engine, connect(engine, buffer_bytes=500) as peer:
        await peer.command("subscribe", topic="room:busy")
        peer.stall()
        for number in range(100):
            await engine.publish("room:busy", number)
        await trio.testing.wait_all_tasks_blocked()
        peer.resume()
        gap = await peer.receive_type("gap")
        await trio.testing.wait_all_tasks_blocked()
        received = [push for push in peer.received if push["type"] == "message"]
        assert gap["count"] == gap["to"] - gap["from"] + 1
        assert len(received) + gap["count"] == 100
