"""What a subscription may ask for beyond "everything": filters, fields, newest values, rates, over real sockets."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
import trio

from realtime.server import Server
from tests.peers import connect, open_events, open_websocket, request_bytes
from tests.transports.conftest import running

TOPIC = "symbol:600519"


async def test_filter_chooses_messages_by_their_members(server: Server, port: int) -> None:
    """On WebSocket and event stream alike; what it hides is counted and leaves no gap."""
    condition = {"and": [{">=": ["price", 10]}, {"in": ["side", ["buy", "sell"]]}]}
    async with (
        open_websocket(port) as peer,
        open_events(port, f"topic={TOPIC}&filter={quote(json.dumps(condition))}") as stream,
    ):
        await peer.command("subscribe", topic=TOPIC, filter=condition)
        for price, side in ((5, "buy"), (10, "buy"), (20, "none"), (30, "sell")):
            await server.publish(TOPIC, {"price": price, "side": side})
        assert [(await peer.receive_type("message"))["offset"] for _ in range(2)] == [2, 4]
        assert [(await stream.receive_type("message")).data["data"]["price"] for _ in range(2)] == [10, 30]
        (stats,) = (await peer.command("stats"))["subscriptions"]
        assert (stats["delivered"], stats["filtered"], stats["dropped"]) == (2, 2, 0)


async def test_filter_and_fields_together(server: Server, port: int) -> None:
    """The filter looks at the whole payload, also at members that are not shown."""
    async with open_websocket(port) as peer:
        await peer.command("subscribe", topic=TOPIC, fields=["price"], filter={"=": ["side", "buy"]})
        await server.publish(TOPIC, {"price": 1, "side": "sell"})
        await server.publish(TOPIC, {"price": 2, "side": "buy"})
        assert (await peer.receive_type("message"))["data"] == {"price": 2}


async def test_filter_applies_to_what_is_recovered(server: Server, port: int) -> None:
    """History is looked at with the same eyes."""
    for price in range(10):
        await server.publish(TOPIC, {"price": price})
    async with open_websocket(port) as peer:
        await peer.command("subscribe", topic=TOPIC, filter={">": ["price", 6]}, recover={"last": 10})
        assert [(await peer.receive_type("message"))["data"]["price"] for _ in range(3)] == [7, 8, 9]


async def test_update_changes_filter_fields_and_back(server: Server, port: int) -> None:
    """From the next message on; what is not named stays as it is."""
    async with open_websocket(port) as peer:
        await peer.command("subscribe", topic=TOPIC, fields=["price", "side"])
        steps: list[tuple[dict[str, Any], Any]] = [
            ({"filter": {"=": ["side", "buy"]}}, {"price": 1, "side": "buy"}),
            ({"fields": ["price"]}, {"price": 1}),
            ({"fields": None}, {"price": 1, "side": "buy", "volume": 9}),
        ]
        for change, seen in steps:
            assert (await peer.command("update", topic=TOPIC, **change))["type"] == "updated"
            await server.publish(TOPIC, {"price": 0, "side": "sell", "volume": 9})
            await server.publish(TOPIC, {"price": 1, "side": "buy", "volume": 9})
            assert (await peer.receive_type("message"))["data"] == seen
        await peer.command("update", topic=TOPIC, filter=None)
        await server.publish(TOPIC, {"price": 0, "side": "sell"})
        assert (await peer.receive_type("message"))["data"] == {"price": 0, "side": "sell"}


async def test_refused_update_changes_nothing(server: Server, port: int) -> None:
    """The subscription goes on as it was."""
    async with open_websocket(port) as peer:
        await peer.command("subscribe", topic=TOPIC, filter={">": ["price", 5]})
        refused = await peer.command("update", topic=TOPIC, fields=["price"], filter={"what": 1})
        assert refused["code"] == "BAD_REQUEST"
        for price in (1, 9):
            await server.publish(TOPIC, {"price": price, "volume": 2})
        assert (await peer.receive_type("message"))["data"] == {"price": 9, "volume": 2}


async def test_max_rate_lets_the_newest_through_in_time(server: Server, port: int) -> None:
    """A burst becomes a few values and the last one; a second subscriber without a limit gets all."""
    async with open_websocket(port) as slow, open_websocket(port) as fast:
        began = trio.current_time()
        await slow.command("subscribe", topic=TOPIC, max_rate=20)
        await fast.command("subscribe", topic=TOPIC)
        for price in range(100):
            await server.publish(TOPIC, {"price": price})
        assert [(await fast.receive_type("message"))["data"]["price"] for _ in range(100)] == list(range(100))
        seen = []
        while not seen or seen[-1] != 99:
            seen.append((await slow.receive_type("message"))["data"]["price"])
        assert seen == sorted(set(seen))
        assert len(seen) <= 2 + 20 * (trio.current_time() - began)
        (stats,) = (await slow.command("stats"))["subscriptions"]
        assert stats["delivered"] + stats["conflated"] == 100
        assert stats["dropped"] == 0


async def test_max_rate_keeps_the_newest_of_each_key(server: Server, port: int) -> None:
    """One value for each key survives, however many came."""
    async with open_websocket(port) as peer:
        await peer.command("subscribe", topic="room:a", max_rate=50)
        for number in range(30):
            for key in ("x", "y", "z"):
                await server.publish("room:a", number, key=key)
        last: dict[str, int] = {}
        while last != {"x": 29, "y": 29, "z": 29}:
            message = await peer.receive_type("message")
            last[message["key"]] = message["data"]


async def test_max_rate_can_be_changed_and_lifted(server: Server, port: int) -> None:
    """Lifted, what was held comes at once and every message after it."""
    async with open_websocket(port) as peer:
        await peer.command("subscribe", topic=TOPIC, max_rate=1 / 60)
        await server.publish(TOPIC, {"price": 1})
        assert (await peer.receive_type("message"))["data"] == {"price": 1}
        for price in range(2, 6):
            await server.publish(TOPIC, {"price": price})
        await peer.barrier()
        assert (await peer.command("stats"))["subscriptions"][0]["queued"] == 1
        with trio.fail_after(5):
            await peer.command("update", topic=TOPIC, max_rate=None)
            assert (await peer.receive_type("message"))["data"] == {"price": 5}
            for price in range(6, 9):
                await server.publish(TOPIC, {"price": price})
            assert [(await peer.receive_type("message"))["data"]["price"] for _ in range(3)] == [6, 7, 8]


@pytest.mark.parametrize("rate", [0, -1, 1e9, "fast", 1e-9, True])
async def test_rate_out_of_range_is_refused(port: int, rate: Any) -> None:
    """With a code, and no subscription."""
    async with open_websocket(port) as peer:
        assert (await peer.command("subscribe", topic=TOPIC, max_rate=rate))["code"] == "BAD_REQUEST"
        assert (await peer.command("stats"))["subscriptions"] == []


async def test_latest_skips_for_a_reader_that_stops_and_all_does_not() -> None:
    """The newest of each key, no gap; its neighbour in mode ``all`` is told what it lost."""
    async with running(outbox_messages=20, send_buffer_bytes=4096) as server:
        port = server.address[1]
        async with (
            open_websocket(port, receive_buffer=4096) as latest,
            open_websocket(port, receive_buffer=4096) as every,
        ):
            await latest.command("subscribe", topic=TOPIC, mode="latest")
            await every.command("subscribe", topic=TOPIC, mode="all")
            for price in range(200):
                await server.publish(TOPIC, {"price": price, "padding": "x" * 1000})
            seen = []
            while not seen or seen[-1] != 199:
                push = await latest.receive()
                assert push["type"] == "message"
                seen.append(push["data"]["price"])
            assert seen == sorted(set(seen))
            assert len(seen) < 200
            assert (await every.receive_type("gap"))["reason"] == "slow_consumer"


async def test_value_said_twice_is_sent_once(server: Server, port: int) -> None:
    """A symbol's tick that repeats the one before it costs nobody anything, and its publisher is told."""
    async with open_websocket(port) as peer, connect(port) as back_end:
        await peer.command("subscribe", topic=TOPIC)
        receipts = []
        for price in (1, 1, 2, 2, 1):
            body = json.dumps({"topic": TOPIC, "data": {"price": price}}).encode()
            receipts.append(
                (await back_end.request("POST", "/api/v1/publish", headers={"X-Api-Key": "key"}, body=body)).json()
            )
        assert [(receipt["offset"], receipt["duplicate"]) for receipt in receipts] == [
            (1, False),
            (1, True),
            (2, False),
            (2, True),
            (3, False),
        ]
        assert [(await peer.receive_type("message"))["data"]["price"] for _ in range(3)] == [1, 2, 1]
    assert server.statistics().duplicates == 2


async def test_idempotency_key_publishes_once(port: int) -> None:
    """However often a peer repeats it; another key is another message."""
    async with open_websocket(port, "/ws?topic=room:a") as peer:
        first = await peer.command("publish", topic="room:a", data=1, idempotency_key="k")
        again = await peer.command("publish", topic="room:a", data=1, idempotency_key="k")
        assert (again["offset"], again["duplicate"]) == (first["offset"], True)
        assert "duplicate" not in first
        other = await peer.command("publish", topic="room:a", data=1, idempotency_key="other")
        assert other["offset"] == 2
        assert [(await peer.receive_type("message"))["offset"] for _ in range(2)] == [1, 2]


async def test_publisher_may_ask_not_to_hear_itself(server: Server, port: int) -> None:
    """Others do; and it hears what others say."""
    async with open_websocket(port, "/ws?topic=room:a") as one, open_websocket(port, "/ws?topic=room:a") as two:
        await one.command("publish", topic="room:a", data="mine", echo=False)
        await two.command("publish", topic="room:a", data="yours")
        assert (await one.receive_type("message"))["data"] == "yours"
        assert [(await two.receive_type("message"))["data"] for _ in range(2)] == ["mine", "yours"]


async def test_equal_views_share_their_bytes_whatever_the_spelling(server: Server, port: int) -> None:
    """Subscribers with one filter in several spellings are one group to the hub."""
    spellings = ['{">":["price",10]}', '{">": ["price", 1e1]}', '{ ">" : [ ["price"] , 10.0 ] }']
    async with open_websocket(port) as one, open_websocket(port) as two, open_websocket(port) as three:
        for peer, spelling in zip((one, two, three), spellings, strict=True):
            await peer.send_frame(1, f'{{"type":"subscribe","id":1,"topic":"{TOPIC}","filter":{spelling}}}'.encode())
            assert (await peer.receive_type("subscribed"))["topic"] == TOPIC
        groups = {subscription.group for subscription in server.hub.subscriptions(TOPIC)}
        assert len(groups) == 1
        await server.publish(TOPIC, {"price": 11})
        for peer in (one, two, three):
            assert (await peer.receive_type("message"))["data"] == {"price": 11}


async def test_rate_on_an_event_stream_resumes_behind_what_was_shown(server: Server, port: int) -> None:
    """A cursor of a rate-limited stream never repeats what was seen."""
    async with open_events(port, f"topic={TOPIC}&max_rate=100") as stream:
        for price in range(20):
            await server.publish(TOPIC, {"price": price})
        seen = []
        while not seen or seen[-1] != 19:
            seen.append((await stream.receive_type("message")).data["data"]["price"])
        cursor = stream.last_id
    assert cursor is not None
    await server.publish(TOPIC, {"price": 20})
    async with open_events(port, f"topic={TOPIC}&max_rate=100", headers={"Last-Event-ID": cursor}) as stream:
        assert (await stream.receive_type("message")).data["data"] == {"price": 20}


async def test_poll_sees_the_same_view(server: Server, port: int) -> None:
    """One filter, one set of fields, on every transport."""
    condition = quote('{">":["price",10]}')
    async with connect(port) as raw:
        target = f"/poll?topic={TOPIC}&filter={condition}&fields=price&timeout=0"
        cursor = (await raw.request("GET", target)).json()["cursor"]
        for price in (5, 15, 25):
            await server.publish(TOPIC, {"price": price, "volume": 1})
        await raw.send(request_bytes("GET", f"{target}&cursor={quote(cursor)}"))
        messages = (await raw.read_response()).json()["messages"]
        assert [message["data"] for message in messages] == [{"price": 15}, {"price": 25}]
