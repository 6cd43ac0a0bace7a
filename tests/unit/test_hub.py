"""Routing: groups, large turns, slices."""

from __future__ import annotations

import trio
import trio.testing

from realtime import Settings, open_engine
from realtime.hub import FLUSH_SLICE, RUN_BYTES, TURN_MESSAGES, _stretches
from realtime.testing import connect
from tests.tools import brief, publication

SETTINGS = Settings(dev=True, outbox_messages=10_000, outbox_bytes=1 << 24)
settle = trio.testing.wait_all_tasks_blocked


def test_stretches_are_cut_at_holes():
    """Each stretch is consecutive, and nothing is lost."""
    offsets = [1, 2, 5, 7, 8, 9]
    stretches = _stretches([publication(offset) for offset in offsets])
    assert [[one.offset for one in stretch] for stretch in stretches] == [[1, 2], [5], [7, 8, 9]]
    assert _stretches([]) == []


async def test_subscribers_of_equal_view_share_the_bytes(autojump_clock):
    """Each view is encoded once, and each subscriber sees its own."""
    async with (
        open_engine(SETTINGS) as engine,
        connect(engine) as first,
        connect(engine) as second,
        connect(engine) as third,
    ):
        await first.command("subscribe", topic="room:a", fields=["x"])
        await second.command("subscribe", topic="room:a", fields=["x"])
        await third.command("subscribe", topic="room:a")
        assert len(engine.hub._audiences["room:a"].groups) == 2
        await engine.publish("room:a", {"x": 1, "y": 2})
        seen = [(await peer.receive_type("message"))["data"] for peer in (first, second, third)]
        assert seen == [{"x": 1}, {"x": 1}, {"x": 1, "y": 2}]


async def test_more_than_a_turn_of_messages_arrives_whole(autojump_clock):
    """Turns are bounded in messages and runs in bytes; nobody notices."""
    async with open_engine(SETTINGS) as engine, connect(engine) as peer:
        await peer.command("subscribe", topic="room:a")
        count = 3 * TURN_MESSAGES + 5
        for number in range(count):
            engine.publisher.publish_json_nowait("room:a", b'"%b"' % (b"x" * (RUN_BYTES // 10)), None, str(number))
        await settle()
        assert [brief(push) for push in peer.pending()] == list(range(1, count + 1))


async def test_more_outboxes_than_a_slice_are_all_flushed(autojump_clock):
    """Flushing a crowd is interrupted and goes on."""
    async with open_engine(SETTINGS) as engine, trio.open_nursery() as nursery:
        peers = []

        async def member(task_status) -> None:
            async with connect(engine) as peer:
                await peer.command("subscribe", topic="room:a")
                peers.append(peer)
                task_status.started()
                await trio.sleep_forever()

        for _ in range(FLUSH_SLICE + 5):
            await nursery.start(member)
        await engine.publish("room:a", 1)
        await settle()
        assert [[brief(push) for push in peer.pending()] for peer in peers] == [[1]] * (FLUSH_SLICE + 5)
        nursery.cancel_scope.cancel()
