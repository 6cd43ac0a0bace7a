"""Slow readers over real sockets: they hold up nobody, and what they lost is told exactly."""

from __future__ import annotations

import random
from typing import Any

import pytest
import trio

from realtime.history import Position, decode_cursor, encode_cursor
from realtime.server import Server
from tests.peers import EventPeer, WebSocketPeer, eventually, open_events, open_websocket
from tests.transports.conftest import running

PADDING = "x" * 1000
TOPIC = "room:crowd"


class Ledger:
    """What one subscriber was given: every offset once, as a message or within a gap."""

    def __init__(self) -> None:
        self.messages = 0
        self.lost = 0
        self.offset = 0

    def enter(self, push: dict[str, Any]) -> None:
        """Take the next push; fails for anything out of order, twice or missing without a word."""
        if push["type"] == "message":
            assert push["offset"] == self.offset + 1
            assert push["data"]["number"] == push["offset"]
            self.offset += 1
            self.messages += 1
        elif push["type"] == "gap":
            assert push["from"] == self.offset + 1
            assert push["count"] == push["to"] - push["from"] + 1
            assert push["reason"] == "slow_consumer"
            self.offset = push["to"]
            self.lost += push["count"]

    async def keep(self, peer: WebSocketPeer, until: int) -> None:
        """Enter what a WebSocket brings, up to an offset."""
        while self.offset < until:
            self.enter(await peer.receive())

    async def keep_events(self, peer: EventPeer, until: int) -> None:
        """The same for an event stream."""
        while self.offset < until:
            self.enter((await peer.receive()).data)


async def test_reader_that_stops_among_others_costs_them_nothing() -> None:
    """The others get everything while it stands still; it gets exactly what its gaps leave; the accounts add up."""
    count = 600
    async with (
        running(outbox_messages=50, send_buffer_bytes=8192) as server,
        open_websocket(server.address[1]) as one,
        open_websocket(server.address[1]) as two,
        open_events(server.address[1], f"topic={TOPIC}") as three,
        open_websocket(server.address[1], receive_buffer=8192) as stopped,
    ):
        port = server.address[1]
        for peer in (one, two, stopped):
            await peer.command("subscribe", topic=TOPIC)
        ledgers = [Ledger() for _ in range(4)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ledgers[0].keep, one, count)
            nursery.start_soon(ledgers[1].keep, two, count)
            nursery.start_soon(ledgers[2].keep_events, three, count)
            for number in range(1, count + 1):
                await server.publish(TOPIC, {"number": number, "padding": PADDING})
                # No faster than those who read: what they lose would be this machine's doing.
                await eventually(lambda number=number: min(ledger.offset for ledger in ledgers[:3]) > number - 20)
        assert [ledger.messages for ledger in ledgers[:3]] == [count] * 3

        await ledgers[3].keep(stopped, count)
        assert ledgers[3].lost > 0
        assert ledgers[3].messages + ledgers[3].lost == count
        stats = await stopped.command("stats")
        assert stats["subscriptions"] == [
            {
                "topic": TOPIC,
                "delivered": ledgers[3].messages,
                "dropped": ledgers[3].lost,
                "conflated": 0,
                "filtered": 0,
                "queued": 0,
            }
        ]
        assert stats["queue"]["messages"] == 0
        async with open_websocket(port) as late:
            await late.barrier()


async def test_reader_that_stops_in_mode_latest_gets_the_newest_of_each_key() -> None:
    """No backlog and no gap: what it skipped is counted as conflated, what it gets is the end of the story."""
    async with (
        running(send_buffer_bytes=8192) as server,
        open_websocket(server.address[1], receive_buffer=8192) as peer,
    ):
        await peer.command("subscribe", topic=TOPIC, mode="latest")
        for number in range(900):
            await server.publish(TOPIC, {"number": number, "padding": PADDING}, key=str(number % 3))
        newest: dict[str, int] = {}
        delivered = 0
        while set(newest.values()) != {897, 898, 899}:
            push = await peer.receive_type("message")
            assert push["data"]["number"] > newest.get(push["key"], -1)
            newest[push["key"]] = push["data"]["number"]
            delivered += 1
        (account,) = (await peer.command("stats"))["subscriptions"]
        assert account["delivered"] == delivered < 900
        assert account["dropped"] == 0
        assert account["delivered"] + account["conflated"] == 900


async def test_reader_that_stops_under_policy_disconnect_is_closed_with_4101() -> None:
    """Where loss is worse than a reconnect, it is told to come back, and finds everything in the history."""
    kinds = {"room": {"overflow": "disconnect", "history_messages": 1000, "history_bytes": 1 << 24}}
    async with running(outbox_messages=20, send_buffer_bytes=8192, kinds=kinds) as server:
        ledger = Ledger()
        async with open_websocket(server.address[1], receive_buffer=8192) as peer:
            joined = await peer.command("subscribe", topic=TOPIC)
            for number in range(1, 201):
                await server.publish(TOPIC, {"number": number, "padding": PADDING})
            await eventually(lambda: server.statistics().hub.subscriptions == 0)
            pushes, closed = await peer.receive_to_close()
            for push in pushes:
                ledger.enter(push)
            assert (pushes[-1]["type"], closed.code) == ("disconnect", 4101)
        async with open_websocket(server.address[1]) as peer:
            position = {"epoch": joined["epoch"], "offset": ledger.offset}
            assert (await peer.command("subscribe", topic=TOPIC, recover=position))["recovered"] == "full"
            await ledger.keep(peer, 200)
        assert (ledger.messages, ledger.lost) == (200, 0)


async def test_publisher_under_policy_block_waits_for_the_reader() -> None:
    """Nothing is lost: the publisher stands still as long as the reader does, and goes on with it."""
    kinds = {"room": {"overflow": "block", "block_timeout_seconds": 30.0}}
    async with (
        running(outbox_messages=20, send_buffer_bytes=8192, ingress_messages=16, kinds=kinds) as server,
        open_websocket(server.address[1], receive_buffer=8192) as peer,
    ):
        await peer.command("subscribe", topic=TOPIC)
        published = 0

        async def publish() -> None:
            nonlocal published
            for number in range(1, 501):
                await server.publish(TOPIC, {"number": number, "padding": PADDING})
                published = number

        ledger = Ledger()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish)
            await eventually(lambda: server.statistics().hub.held_topics == 1)
            assert published < 500
            await ledger.keep(peer, 500)
        assert (ledger.messages, ledger.lost, published) == (500, 0, 500)


class Flapping:
    """A subscriber that hangs up again and again and comes back on the other transport with its place."""

    def __init__(self, port: int, ledger: Ledger) -> None:
        self._port = port
        self._ledger = ledger
        self._chance = random.Random(6455)
        self.returns = 0

    async def run(self, place: Position, until: int) -> None:
        """Begin after ``place`` and go on to an offset."""
        while self._ledger.offset < until:
            stay = min(until, self._ledger.offset + self._chance.randrange(1, 700))
            place = await (self._by_events if self.returns % 2 else self._by_websocket)(place, stay)
            self.returns += 1

    async def _by_websocket(self, place: Position, until: int) -> Position:
        async with open_websocket(self._port) as peer:
            recover = {"epoch": place.epoch, "offset": place.offset}
            reply = await peer.command("subscribe", topic=TOPIC, recover=recover)
            assert reply["recovered"] == "full"
            await self._ledger.keep(peer, until)
            if self.returns % 4:
                peer.raw.reset()
            return Position(reply["epoch"], self._ledger.offset)

    async def _by_events(self, place: Position, until: int) -> Position:
        cursor = encode_cursor({TOPIC: place})
        async with open_events(self._port, f"topic={TOPIC}", headers={"Last-Event-ID": cursor}) as peer:
            await self._ledger.keep_events(peer, until)
            assert peer.last_id is not None
            return decode_cursor(peer.last_id)[TOPIC]


@pytest.fixture
async def roomy() -> Any:
    """A server that remembers all of the long test below and lets nobody queue much."""
    kinds = {"room": {"history_messages": 20_000, "history_bytes": 1 << 26}}
    async with running(kinds=kinds, recover_limit=20_000, outbox_messages=500, send_buffer_bytes=16_384) as server:
        yield server


async def test_ten_thousand_messages_reach_the_steady_the_flapping_and_the_slow(roomy: Server) -> None:
    """In order and once: on a WebSocket, an event stream, both in turn; and less its gaps to the one that stops."""
    total, port = 10_000, roomy.address[1]
    steady, streamed, flapped, slow = (Ledger() for _ in range(4))
    go_on = trio.Event()
    async with (
        open_websocket(port) as one,
        open_events(port, f"topic={TOPIC}") as two,
        open_websocket(port, receive_buffer=8192) as four,
    ):
        joined = await one.command("subscribe", topic=TOPIC)
        await four.command("subscribe", topic=TOPIC)
        three = Flapping(port, flapped)

        async def read_with_a_pause() -> None:
            await slow.keep(four, 500)
            await go_on.wait()
            await slow.keep(four, total)

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(steady.keep, one, total)
                nursery.start_soon(streamed.keep_events, two, total)
                nursery.start_soon(three.run, Position(joined["epoch"], 0), total)
                nursery.start_soon(read_with_a_pause)
                for number in range(1, total + 1):
                    await roomy.publish(TOPIC, {"number": number, "text": "some words of a line in a room" * 3})
                    if not number % 100:
                        await eventually(lambda n=number: min(steady.offset, streamed.offset, flapped.offset) > n - 300)
                    if number == 7000:
                        go_on.set()
        for ledger in (steady, streamed, flapped):
            assert (ledger.messages, ledger.lost) == (total, 0)
        assert three.returns > 10
        assert slow.lost > 0
        assert slow.messages + slow.lost == total
        (account,) = (await four.command("stats"))["subscriptions"]
        assert (account["delivered"], account["dropped"]) == (slow.messages, slow.lost)
        hub = roomy.statistics().hub
        assert hub.published == total
        assert hub.dropped == {"slow_consumer": slow.lost}
