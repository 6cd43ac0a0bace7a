"""The public test kit behaves as it says."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from realtime import Settings, closing, open_engine
from realtime.errors import WireBroken, WireClosed
from realtime.testing import MemoryWire, connect

settle = trio.testing.wait_all_tasks_blocked


async def test_wire_takes_what_its_buffer_holds_and_is_busy_with_the_rest(nursery):
    """As a socket does."""
    wire = MemoryWire(buffer_bytes=4)
    assert wire.write_nowait(b"abc")
    assert not wire.write_nowait(b"defg")
    assert (wire.busy, wire.progress) == (True, 4)
    with pytest.raises(AssertionError, match="busy"):
        wire.write_nowait(b"x")
    assert await wire.take() == b"abcd"
    assert not wire.busy
    assert await wire.take() == b"efg"


async def test_write_waits_until_the_other_end_reads(nursery):
    """A stalled reader holds it up."""
    wire = MemoryWire(buffer_bytes=2)
    wire.stalled = True
    nursery.start_soon(wire.write, b"abcd")
    await settle()
    assert wire.busy
    wire.resume()
    assert await wire.take() + await wire.take() == b"abcd"


@pytest.mark.parametrize(("end", "error"), [("hang_up", WireBroken), ("abort", WireClosed)])
async def test_ended_wire_drops_what_is_written_and_says_so_to_those_who_wait(end, error):
    """Closed is ours, broken is the world's."""
    wire = MemoryWire()
    getattr(wire, end)()
    assert wire.write_nowait(b"x")
    with pytest.raises(error):
        await wire.drain()
    assert wire.ended is (end == "abort")


async def test_read_ends_when_the_peer_hangs_up():
    """What had come is handed over first."""
    heard = []

    class Receiver:
        async def receive(self, text):
            heard.append(text)

        def quiet(self):
            heard.append("quiet")

    wire = MemoryWire()
    wire.say(b"a")
    wire.hang_up()
    assert await wire.read(Receiver()) is closing.GONE
    assert heard == [b"a", "quiet"]


async def test_peer_receives_what_it_asks_for_and_keeps_the_rest(autojump_clock):
    """Pushes that nobody asked for yet stay in order."""
    async with open_engine(Settings(dev=True)) as engine, connect(engine) as peer:
        await peer.command("subscribe", topic="room:a")
        for number in range(3):
            await engine.publish("room:a", number)
        await settle()
        assert (await peer.receive_where(lambda push: push.get("data") == 1))["offset"] == 2
        assert (await peer.receive())["offset"] == 1
        assert [push["offset"] for push in peer.pending()] == [3]
        assert peer.pending() == []


async def test_peer_of_a_closed_connection_has_an_end(autojump_clock):
    """After the last push."""
    async with open_engine(Settings(dev=True)) as engine, connect(engine) as peer:
        peer.send_raw(b"nonsense")
        assert await peer.wait_closed() is closing.BAD_REQUEST
        await settle()
        assert (await peer.receive())["type"] == "error"
        assert (await peer.receive())["type"] == "disconnect"
        with pytest.raises(trio.EndOfChannel):
            await peer.receive()
