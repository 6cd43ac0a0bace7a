"""Server-Sent Events over real sockets, as `docs/reference/protocol.md` has them."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
import trio

from realtime import CommandError, ErrorCode, Identity
from realtime.server import Server
from tests.peers import EventPeer, Response, connect, eventually, leaving_nothing_behind, open_events
from tests.transports.conftest import running


async def know_ann(token: str) -> Identity:
    if token != "ann":
        raise CommandError(ErrorCode.AUTH_FAILED, "no such token")
    return Identity("7")


async def refusal_of(port: int, query: str, **headers: str) -> Response:
    """The response that refuses a stream."""
    async with connect(port) as raw:
        response = await raw.request("GET", f"/sse?{query}", headers=headers)
        assert response.header("content-type") == "application/json"
        assert not await raw.more()
        return response


# -- the stream ------------------------------------------------------------------------------------------------


async def test_stream_begins_with_head_retry_welcome_and_confirmation(server: Server, port: int) -> None:
    """What proxies and an EventSource need, then who the client is, then where the topic stands."""
    await server.publish("room:a", 0)
    async with open_events(port, "topic=room:a") as peer:
        assert peer.headers["content-type"].startswith("text/event-stream")
        assert peer.headers["cache-control"] == "no-store, no-transform"
        assert peer.headers["x-accel-buffering"] == "no"
        assert "transfer-encoding" not in peer.headers
        assert peer.retry is not None
        assert 3000 <= peer.retry <= 6000
        assert server.connections.get(peer.welcome["connection"]) is not None
        assert len(peer.welcome["secret"]) >= 16
        assert [found["offset"] for found in peer.welcome["topics"]] == [1]
        subscribed = await peer.receive()
        assert (subscribed.type, subscribed.data["topic"], subscribed.data["offset"]) == ("subscribed", "room:a", 1)
        assert peer.last_id is not None


async def test_clients_are_given_different_times_to_come_back(server: Server, port: int) -> None:
    """The retry of a crowd is spread, from the shortest wait to twice that."""
    retries = []
    for chance in (0.0, 0.5, 1.0):
        server.random = lambda: chance  # noqa: B023 - asked while the loop stands here
        async with open_events(port, "topic=room:a") as peer:
            retries.append(peer.retry)
    assert retries == [3000, 4500, 6000]


async def test_message_is_an_event_on_one_line_with_an_id(server: Server, port: int) -> None:
    """Line feeds in a payload's layout do not break the stream; text keeps its own."""
    async with open_events(port, "topic=room:a") as peer, connect(port) as back_end:
        body = b'{"topic": "room:a",\n "data": {\r\n"text": "one\\ntwo"\n}}'
        assert (
            await back_end.request("POST", "/api/v1/publish", headers={"X-Api-Key": "key"}, body=body)
        ).status == 200
        event = await peer.receive_type("message")
        assert event.data["data"] == {"text": "one\ntwo"}
        assert event.id is not None
        assert event.id.endswith("!1")


async def test_several_topics_each_move_the_cursor(server: Server, port: int) -> None:
    """Every id holds the place in all topics."""
    async with open_events(port, "topic=room:a&topic=room:b") as peer:
        await server.publish("room:a", 1)
        first = await peer.receive_type("message")
        await server.publish("room:b", 2)
        second = await peer.receive_type("message")
        assert first.id is not None
        assert second.id is not None
        assert first.id.count("~") == second.id.count("~") == 1
        assert first.id != second.id


@pytest.mark.parametrize("topics", [["room:a"], ["room:a", "room:b", "symbol:600519"]])
@pytest.mark.parametrize("by", ["header", "parameter"])
async def test_last_event_id_resumes_without_loss_or_repetition(
    server: Server, port: int, topics: list[str], by: str
) -> None:
    """From wherever a stream broke off, the next one brings exactly the rest of every topic."""
    query = "&".join(f"topic={topic}" for topic in topics)
    async with open_events(port, query) as peer:
        for number in range(6):
            await server.publish(topics[number % len(topics)], number)
        seen = [(await peer.receive_type("message")).data["data"] for _ in range(4)]
        cursor = peer.last_id
    assert cursor is not None
    for number in range(6, 9):
        await server.publish(topics[number % len(topics)], number)
    headers = {"Last-Event-ID": cursor} if by == "header" else {}
    more = "" if by == "header" else f"&cursor={quote(cursor)}"
    async with open_events(port, query + more, headers=headers) as peer:
        for _ in topics:
            assert (await peer.receive_type("subscribed")).data["recovered"] == "full"
        seen += [(await peer.receive_type("message")).data["data"] for _ in range(5)]
        await server.publish(topics[0], "live")
        assert (await peer.receive_type("message")).data["data"] == "live"
    assert sorted(seen) == list(range(9))


async def test_stream_that_broke_before_its_first_message_resumes_from_its_start(server: Server, port: int) -> None:
    """The id of the confirmation is a cursor too."""
    await server.publish("room:a", "before")
    async with open_events(port, "topic=room:a") as peer:
        await peer.receive_type("subscribed")
        cursor = peer.last_id
    await server.publish("room:a", "meanwhile")
    assert cursor is not None
    async with open_events(port, "topic=room:a", headers={"Last-Event-ID": cursor}) as peer:
        assert (await peer.receive_type("message")).data["data"] == "meanwhile"


async def test_cursor_of_another_life_says_epoch_changed(server: Server, port: int) -> None:
    """A place in a history that is gone is answered with why."""
    async with open_events(port, "topic=room:a", headers={"Last-Event-ID": "room:a!other!5"}) as peer:
        subscribed = await peer.receive_type("subscribed")
        assert (subscribed.data["recovered"], subscribed.data["why"]) == ("none", "epoch_changed")


async def test_fields_and_mode_apply_to_every_topic(server: Server, port: int) -> None:
    """Plain parameters are for all ``topic=`` of the request."""
    async with open_events(port, "topic=room:a&topic=room:b&fields=x,y&mode=latest") as peer:
        await server.publish("room:a", {"x": 1, "z": 2})
        assert (await peer.receive_type("message")).data["data"] == {"x": 1}
        await server.publish("room:b", {"z": 2})
        await server.publish("room:b", {"y": 3})
        assert (await peer.receive_type("message")).data["data"] == {"y": 3}


async def test_sub_is_a_subscribe_object_of_its_own(server: Server, port: int) -> None:
    """``sub=`` has its own fields and its own start, beside a ``topic=`` that has none."""
    for number in range(3):
        await server.publish("room:a", {"x": number, "z": 0})
    wish = quote(json.dumps({"topic": "room:a", "fields": ["x"], "recover": {"last": 2}}))
    async with open_events(port, f"sub={wish}&topic=room:b") as peer:
        assert [(await peer.receive_type("message")).data["data"] for _ in range(2)] == [{"x": 1}, {"x": 2}]
        await server.publish("room:b", {"z": 1})
        assert (await peer.receive_type("message")).data["data"] == {"z": 1}


async def test_gap_is_an_event_in_its_place() -> None:
    """A stopped reader is told what it lost between the messages around it."""
    async with running(outbox_messages=5, send_buffer_bytes=4096) as server:
        async with open_events(server.address[1], "topic=room:a", receive_buffer=4096) as peer:
            for number in range(60):
                await server.publish("room:a", {"number": number, "padding": "x" * 2000})
            offsets, events = 0, []
            while offsets < 60:
                event = await peer.receive()
                if event.type in ("message", "gap"):
                    events.append(event)
                    offsets += 1 if event.type == "message" else event.data["count"]
            next_offset = 1
            for event in events:
                first = event.data["offset"] if event.type == "message" else event.data["from"]
                assert first == next_offset
                next_offset = first + 1 if event.type == "message" else event.data["to"] + 1
            assert [event.type for event in events].count("gap") >= 1


async def test_shutdown_is_told_with_the_time_to_come_back() -> None:
    """The goodbye carries the advice twice: for scripts, and as the retry that an EventSource obeys."""
    async with trio.open_nursery() as nursery:
        told: list[EventPeer] = []
        async with running(reconnect_spread_seconds=2.0) as server:

            async def live() -> None:
                async with open_events(server.address[1], "topic=room:a") as peer:
                    told.append(peer)
                    event = await peer.receive_type("disconnect")
                    assert event.data["code"] == 4100
                    rest = await peer.raw.read_to_end()
                    assert rest == b"retry: %d\n" % round(1000 * event.data["retry_after"])
                    assert not peer.raw.was_reset

            nursery.start_soon(live)
            await eventually(lambda: len(told) == 1)


# -- refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("topic=nokind:a", 400, "INVALID_TOPIC"),
        ("topic=symbol:12", 400, "INVALID_SYMBOL"),
        ("topic=user:7", 403, "PERMISSION_DENIED"),
        ("topic=room:a&topic=room:a", 409, "ALREADY_SUBSCRIBED"),
        ("topic=room:a&mode=some", 400, "BAD_REQUEST"),
        ("topic=room:a&max_rate=0", 400, "BAD_REQUEST"),
        ("topic=room:a&cursor=nonsense", 400, "BAD_REQUEST"),
        ("sub=nonsense", 400, "BAD_REQUEST"),
        ("sub=%7B%22topic%22%3A5%7D", 400, "BAD_REQUEST"),
        ("topic=%FF", 400, "BAD_REQUEST"),
        ("&".join(f"topic=room:{number}" for number in range(201)), 429, "LIMIT_EXCEEDED"),
        ("&".join(f"x={number}" for number in range(1000)), 400, "BAD_REQUEST"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_stream_that_cannot_be_is_refused_by_http(
    server: Server, port: int, query: str, status: int, code: str
) -> None:
    """An error with the same JSON as everywhere, nothing of a stream, and no subscription left behind."""
    response = await refusal_of(port, query)
    assert (response.status, response.json()["code"]) == (status, code)
    assert server.statistics().hub.subscriptions == 0
    assert not server.connections


async def test_stream_without_credentials_is_401_where_anonymous_peers_are_not_served() -> None:
    """Also with wrong ones; the right ones open it."""
    async with running(dev=False, authenticate=know_ann) as server:
        port = server.address[1]
        missing = await refusal_of(port, "topic=room:a")
        assert (missing.status, missing.json()["code"]) == (401, "AUTH_REQUIRED")
        assert missing.header("www-authenticate") == "Bearer"
        wrong = await refusal_of(port, "topic=room:a", Authorization="Bearer wrong")
        assert (wrong.status, wrong.json()["code"]) == (401, "AUTH_FAILED")
        async with open_events(port, "topic=user:7", headers={"Authorization": "Bearer ann"}) as peer:
            assert peer.welcome["user"] == "7"


async def test_page_from_elsewhere_is_403_without_cors(port: int) -> None:
    """A foreign page must neither open a stream nor read why not."""
    response = await refusal_of(port, "topic=room:a", Origin="http://evil.example")
    assert response.status == 403
    assert response.header("access-control-allow-origin") is None


async def test_allowed_page_may_read_stream_and_refusal() -> None:
    """CORS headers name that origin on both, and tell caches that they differ by it."""
    async with running(origins=["https://app.example"]) as server:
        origin = {"Origin": "https://app.example"}
        async with open_events(server.address[1], "topic=room:a", headers=origin) as peer:
            assert peer.headers["access-control-allow-origin"] == "https://app.example"
            assert peer.headers["access-control-allow-credentials"] == "true"
            assert peer.headers["vary"] == "Origin"
        refused = await refusal_of(server.address[1], "topic=user:7", **origin)
        assert refused.header("access-control-allow-origin") == "https://app.example"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_other_method_is_an_http_error_and_no_stream(server: Server, port: int, method: str) -> None:
    """Only GET opens a stream."""
    async with connect(port) as raw:
        assert (await raw.request(method, "/sse?topic=room:a", body=b"")).status in (404, 405)
    assert server.statistics().hub.subscriptions == 0


# -- endings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "reset", "half_close"])
async def test_client_that_leaves_frees_its_subscriptions(server: Server, port: int, how: str) -> None:
    """However it leaves, with no message to find it out by."""
    async with leaving_nothing_behind():
        async with open_events(port, "topic=room:a&topic=room:b") as peer:
            assert server.statistics().hub.subscriptions == 2
            if how == "reset":
                peer.raw.reset()
            elif how == "half_close":
                await peer.raw.end_sending()
                await peer.raw.read_to_end()
            else:
                await peer.raw.aclose()
            await eventually(lambda: not server.connections)
            assert server.statistics().hub.subscriptions == 0


async def test_client_that_talks_on_a_stream_is_ended(server: Server, port: int) -> None:
    """A stream takes no input; a few stray bytes are let pass, a flood is not."""
    async with open_events(port, "topic=room:a") as peer:
        await peer.raw.send(b"stray")
        await server.publish("room:a", 1)
        await peer.receive_type("message")
        await peer.raw.send(b"x" * 100_000)
        assert (await peer.receive_type("disconnect")).data["code"] == 4000
