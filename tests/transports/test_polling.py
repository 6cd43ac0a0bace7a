"""Long polling over real sockets: at once, later, and in turn with the other transports."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import trio
import trio.testing

from realtime import CommandError, ErrorCode, Identity
from realtime.broker import Draft
from realtime.server import Server
from tests.peers import connect, eventually, leaving_nothing_behind, open_events, open_websocket, request_bytes
from tests.transports.conftest import running


async def know_ann(token: str) -> Identity:
    if token != "ann":
        raise CommandError(ErrorCode.AUTH_FAILED, "no such token")
    return Identity("7", roles=frozenset({"dev"}))


async def poll(port: int, query: str, *, headers: dict[str, str] | None = None, status: int = 200) -> dict[str, Any]:
    """The body of one poll's answer."""
    async with httpx.AsyncClient() as client:
        response = await client.get(f"http://127.0.0.1:{port}/poll?{query}", headers=headers)
    assert response.status_code == status, response.text
    body: dict[str, Any] = response.json()
    return body


def data_of(answer: dict[str, Any]) -> list[Any]:
    return [message["data"] for message in answer["messages"]]


async def test_poll_without_cursor_starts_now_and_tells_where(server: Server, port: int) -> None:
    """With no time to wait it is answered at once; its cursor is where the next one goes on."""
    await server.publish("room:a", "before")
    first = await poll(port, "topic=room:a&timeout=0")
    assert (first["messages"], first["gaps"]) == ([], [])
    assert [(topic["topic"], topic["offset"]) for topic in first["topics"]] == [("room:a", 1)]
    await server.publish("room:a", {"n": 1}, event="e", key="k")
    second = await poll(port, f"topic=room:a&cursor={quote(first['cursor'])}")
    (message,) = second["messages"]
    assert {**message, "time": 0} == {
        "type": "message",
        "topic": "room:a",
        "offset": 2,
        "event": "e",
        "key": "k",
        "time": 0,
        "data": {"n": 1},
    }
    assert second["topics"][0]["recovered"] == "full"


async def test_waiting_poll_is_answered_when_something_comes(server: Server, port: int) -> None:
    """It does not wait for its time to be up."""
    answers: list[dict[str, Any]] = []
    async with trio.open_nursery() as nursery:

        async def ask() -> None:
            answers.append(await poll(port, "topic=room:a&timeout=60"))

        nursery.start_soon(ask)
        await eventually(lambda: server.statistics().hub.subscriptions == 1)
        await server.publish("room:a", 1)
    assert data_of(answers[0]) == [1]
    assert server.statistics().hub.subscriptions == 0


async def test_waiting_poll_is_answered_with_nothing_when_its_time_is_up(port: int) -> None:
    """An empty answer, whose cursor is as good as any."""
    with trio.fail_after(5):
        answer = await poll(port, "topic=room:a&timeout=0.05")
    assert answer["messages"] == []
    assert answer["cursor"].startswith("room:a!")


async def test_limit_cuts_an_answer_and_the_cursor_brings_the_rest(server: Server, port: int) -> None:
    """Page by page, of several topics, without loss or repetition."""
    cursor = (await poll(port, "topic=room:a&topic=room:b&timeout=0"))["cursor"]
    for number in range(10):
        await server.publish("room:a" if number % 2 else "room:b", number)
    seen: list[int] = []
    while len(seen) < 10:
        answer = await poll(port, f"topic=room:a&topic=room:b&limit=3&cursor={quote(cursor)}&timeout=5")
        assert 1 <= len(answer["messages"]) <= 3
        seen += data_of(answer)
        cursor = answer["cursor"]
    assert sorted(seen) == list(range(10))
    assert (await poll(port, f"topic=room:a&topic=room:b&cursor={quote(cursor)}&timeout=0"))["messages"] == []


async def test_cursor_goes_from_websocket_to_events_to_poll_and_back(server: Server, port: int) -> None:
    """One reader changes its transport between any two messages and gets each message once."""
    seen: list[int] = []
    count = 0

    async def say(more: int) -> None:
        nonlocal count
        for _ in range(more):
            await server.publish("room:a", count)
            count += 1

    async with open_websocket(port) as socket:
        epoch = (await socket.command("subscribe", topic="room:a"))["epoch"]
        await say(3)
        for _ in range(2):  # the third is left on the wire
            message = await socket.receive_type("message")
            seen.append(message["data"])
    cursor = f"room:a!{epoch}!{message['offset']}"
    for _ in range(3):
        await say(2)
        async with open_events(port, "topic=room:a", headers={"Last-Event-ID": cursor}) as stream:
            seen += [(await stream.receive_type("message")).data["data"] for _ in range(2)]
            assert stream.last_id is not None
            cursor = stream.last_id
        await say(2)
        answer = await poll(port, f"topic=room:a&limit=2&cursor={quote(cursor)}")
        seen += data_of(answer)
        cursor = answer["cursor"]
        await say(1)
        async with open_websocket(port, f"/ws?topic=room:a&cursor={quote(cursor)}") as socket:
            message = await socket.receive_type("message")
            seen.append(message["data"])
        cursor = f"room:a!{epoch}!{message['offset']}"
    rest = await poll(port, f"topic=room:a&cursor={quote(cursor)}")
    assert seen + data_of(rest) == list(range(count))


async def test_what_history_has_lost_is_told(port: int) -> None:
    """A cursor that is too old gets the newest that there are, and why that is not all."""
    async with running(kinds={"room": {"history_messages": 3, "join": "anyone"}}) as server:
        port = server.address[1]
        cursor = (await poll(port, "topic=room:a&timeout=0"))["cursor"]
        for number in range(10):
            await server.publish("room:a", number)
        answer = await poll(port, f"topic=room:a&cursor={quote(cursor)}")
        assert answer["topics"][0]["why"] == "too_old"
        after = await poll(port, f"topic=room:a&cursor={quote(answer['cursor'])}&timeout=0")
        assert (after["messages"], after["topics"][0]["recovered"]) == ([], "full")


async def test_poll_that_cannot_hold_a_burst_tells_a_gap() -> None:
    """What did not fit between two looks is lost to nobody unnoticed: a gap says how much, and offsets add up."""
    async with running(outbox_messages=5) as server:
        port = server.address[1]
        answers: list[dict[str, Any]] = []
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                answers.append(await poll(port, "topic=room:a&timeout=30"))

            nursery.start_soon(ask)
            await eventually(lambda: server.statistics().hub.subscriptions == 1)
            for number in range(100):  # no checkpoint between them but what publishing needs
                server.publisher.publish_json_nowait("room:a", Draft(b"%d" % number))
        told = [(message["offset"], message["offset"]) for message in answers[0]["messages"]]
        told += [(gap["from"], gap["to"]) for gap in answers[0]["gaps"]]
        told.sort()
        assert answers[0]["gaps"]
        assert all(before[1] + 1 == after[0] for before, after in pairwise(told))
        assert told[0][0] == 1


async def test_cursor_of_another_life_is_answered_at_once_with_why(port: int) -> None:
    """A client is told that its place is gone, and does not wait for it."""
    with trio.fail_after(5):
        answer = await poll(port, "topic=room:a&cursor=room:a!other!5&timeout=60")
    assert (answer["topics"][0]["recovered"], answer["topics"][0]["why"]) == ("none", "epoch_changed")


async def test_view_of_the_url_applies(server: Server, port: int) -> None:
    """Fields and filters, plain and as a subscribe object, are those of the other transports."""
    cursor = quote((await poll(port, "topic=room:a&timeout=0"))["cursor"])
    for price in (5, 15):
        await server.publish("room:a", {"price": price, "volume": 1})
    condition = quote('{">":["price",10]}')
    plain = await poll(port, f"topic=room:a&fields=price&filter={condition}&cursor={cursor}")
    assert data_of(plain) == [{"price": 15}]
    wish = quote('{"topic":"room:a","fields":["volume"],"recover":{"last":1}}')
    assert data_of(await poll(port, f"sub={wish}&timeout=5")) == [{"volume": 1}]


async def test_topic_that_is_removed_ends_the_poll_with_why() -> None:
    """Nobody waits for what will not come."""
    async with running(kinds={"session": {"join": "anyone"}}) as server:
        server.create_topic("session:s1")
        answers: list[dict[str, Any]] = []
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:

                async def ask() -> None:
                    answers.append(await poll(server.address[1], "topic=session:s1&timeout=60", status=404))

                nursery.start_soon(ask)
                await eventually(lambda: server.statistics().hub.subscriptions == 1)
                await server.remove_topic("session:s1")
        assert answers[0]["code"] == "SESSION_NOT_FOUND"


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_peer_that_hangs_up_while_it_waits_leaves_nothing(server: Server, port: int, how: str) -> None:
    """Its subscription goes with it, at once."""
    async with leaving_nothing_behind(), connect(port) as raw:
        await raw.send(request_bytes("GET", "/poll?topic=room:a&timeout=60"))
        await eventually(lambda: server.statistics().hub.subscriptions == 1)
        raw.reset() if how == "reset" else await raw.aclose()
        await eventually(lambda: server.statistics().hub.subscriptions == 0)


async def test_kept_alive_connection_polls_again(server: Server, port: int) -> None:
    """Also when the next request came while the first one waited."""
    async with connect(port) as raw:
        await raw.send(request_bytes("GET", "/poll?topic=room:a&timeout=30"))
        await eventually(lambda: server.statistics().hub.subscriptions == 1)
        await raw.send(request_bytes("GET", "/poll?topic=room:b&timeout=0"))
        await server.publish("room:a", 1)
        assert data_of((await raw.read_response()).json()) == [1]
        assert (await raw.read_response()).json()["topics"][0]["topic"] == "room:b"
        assert (await raw.request("GET", "/healthz")).status == 200


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("size", [1 << 17, 16 << 20])
async def test_peer_that_sends_much_and_hangs_up_while_it_waits_leaves_nothing(
    server: Server, port: int, size: int, how: str
) -> None:
    """However much is in front of the hang-up."""
    async with leaving_nothing_behind(), connect(port) as raw:
        await raw.send(request_bytes("GET", "/poll?topic=room:a&timeout=60"))
        await eventually(lambda: server.statistics().hub.subscriptions == 1)
        await raw.send(b"x" * size)
        raw.reset() if how == "reset" else await raw.aclose()
        await eventually(lambda: server.statistics().hub.subscriptions == 0, seconds=5)


async def test_requests_ahead_are_kept_up_to_a_bound(server: Server, port: int) -> None:
    """What is thrown away is behind a whole beginning, and the connection ends in order where it starts."""
    request = request_bytes("GET", "/healthz", headers={"X": "x" * 1000})
    async with connect(port) as raw:
        await raw.send(request_bytes("GET", "/poll?topic=room:a&timeout=30"))
        await eventually(lambda: server.statistics().hub.subscriptions == 1)
        await raw.send(request * 2000)
        await trio.sleep(0.1)
        await server.publish("room:a", 1)
        assert data_of((await raw.read_response()).json()) == [1]
        for _ in range(50):
            assert (await raw.read_response()).json() == {"status": "ok"}
        await raw.read_to_end()
        assert not raw.was_reset


async def test_peer_that_sends_megabytes_while_it_waits_is_answered_first(server: Server, port: int) -> None:
    """It is kept no further than a bound; the answer is not lost for it."""
    async with connect(port) as raw, trio.open_nursery() as nursery:
        await raw.send(request_bytes("GET", "/poll?topic=room:a&timeout=30"))
        await eventually(lambda: server.statistics().hub.subscriptions == 1)

        async def flood() -> None:
            with suppress(trio.BrokenResourceError):  # it has been answered
                while True:
                    await raw.send(b"x" * (1 << 20))

        nursery.start_soon(flood)
        await trio.sleep(0.1)
        await server.publish("room:a", 1)
        assert data_of((await raw.read_response()).json()) == [1]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("", 400, "BAD_REQUEST"),
        ("topic=nokind:a", 400, "INVALID_TOPIC"),
        ("topic=symbol:1", 400, "INVALID_SYMBOL"),
        ("topic=user:7", 403, "PERMISSION_DENIED"),
        ("topic=session:none", 403, "PERMISSION_DENIED"),
        ("topic=room:a&topic=room:a", 409, "ALREADY_SUBSCRIBED"),
        ("topic=room:a&timeout=soon", 400, "BAD_REQUEST"),
        ("topic=room:a&timeout=-1", 400, "BAD_REQUEST"),
        ("topic=room:a&timeout=nan", 400, "BAD_REQUEST"),
        ("topic=room:a&limit=0", 400, "BAD_REQUEST"),
        ("topic=room:a&limit=-5", 400, "BAD_REQUEST"),
        ("topic=room:a&limit=many", 400, "BAD_REQUEST"),
        ("topic=room:a&limit=nan", 400, "BAD_REQUEST"),
        ("topic=room:a&cursor=nonsense", 400, "BAD_REQUEST"),
        ("topic=room:a&cursor=a!b!" + "9" * 30, 400, "BAD_REQUEST"),
        ("topic=room:a&cursor=" + "~".join(["a!b!1"] * 201), 400, "BAD_REQUEST"),
        ("topic=room:a&max_rate=often", 400, "BAD_REQUEST"),
        ("topic=room:a&max_rate=nan", 400, "BAD_REQUEST"),
        ("topic=room:a&filter=nonsense", 400, "BAD_REQUEST"),
        ("topic=room:a&mode=none", 400, "BAD_REQUEST"),
        ("topic=room:a&fields=" + "x" * 129, 400, "BAD_REQUEST"),
        ("topic=room:a&fields=" + ",".join(["x"] * 101), 400, "BAD_REQUEST"),
        ("topic=%FF", 400, "BAD_REQUEST"),
        ("sub=%7B", 400, "BAD_REQUEST"),
        ("&".join(f"topic=room:{number}" for number in range(201)), 429, "LIMIT_EXCEEDED"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_garbage_is_refused_and_leaves_nothing(
    server: Server, port: int, query: str, status: int, code: str
) -> None:
    """A clear error in JSON, at once."""
    with trio.fail_after(5):
        answer = await poll(port, query, status=status)
    assert (answer["type"], answer["code"]) == ("error", code)
    assert server.statistics().hub.subscriptions == 0


@pytest.mark.parametrize("parameter", ["timeout=inf", "timeout=1e400", "limit=1e9", "limit=inf"])
async def test_more_than_the_most_is_the_most(server: Server, port: int, parameter: str) -> None:
    """Numbers beyond the bounds are no fault."""
    cursor = (await poll(port, "topic=room:a&timeout=0"))["cursor"]
    await server.publish("room:a", 1)
    assert data_of(await poll(port, f"topic=room:a&cursor={quote(cursor)}&{parameter}")) == [1]


async def test_login_is_asked_for_and_brings_its_topics() -> None:
    """No token: 401. A good one: the topics of the user and its roles too, which its cursor resumes."""
    async with running(dev=False, authenticate=know_ann) as server:
        port = server.address[1]
        assert (await poll(port, "topic=room:a", status=401))["code"] == "AUTH_REQUIRED"
        wrong = {"Authorization": "Bearer wrong"}
        assert (await poll(port, "topic=room:a", headers=wrong, status=401))["code"] == "AUTH_FAILED"
        good = {"Authorization": "Bearer ann"}
        first = await poll(port, "timeout=0", headers=good)
        assert [topic["topic"] for topic in first["topics"]] == ["user:7", "role:dev", "global"]
        await server.send_to_user("7", "hello")
        await server.send_to_role("dev", "all")
        second = await poll(port, f"cursor={quote(first['cursor'])}", headers=good)
        assert sorted(data_of(second)) == ["all", "hello"]


async def test_page_of_an_allowed_origin_may_read_the_answer() -> None:
    """CORS on answer, refusal and preflight; a page from elsewhere gets none of them."""
    async with running(origins=["https://app.example"]) as server, httpx.AsyncClient() as client:
        url = f"{server.url}/poll?topic=room:a&timeout=0"
        nothing = f"{server.url}/poll"
        for target, status in ((url, 200), (f"{nothing}?timeout=0", 200), (nothing, 400)):
            response = await client.get(target, headers={"Origin": "https://app.example"})
            assert response.status_code == status
            assert response.headers["access-control-allow-origin"] == "https://app.example"
            assert response.headers["cache-control"] == "no-store"
        asked = await client.options(url, headers={"Origin": "https://app.example"})
        assert asked.status_code == 200
        assert "X-Connection-Secret" in asked.headers["access-control-allow-headers"]
        for method in ("GET", "OPTIONS"):
            refused = await client.request(method, url, headers={"Origin": "https://evil.example"})
            assert refused.status_code == 403
            assert "access-control-allow-origin" not in refused.headers


async def test_shutdown_answers_a_waiting_poll_at_once() -> None:
    """With what there is and a cursor for the next server."""
    answers: list[dict[str, Any]] = []
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            async with running(grace_seconds=5.0) as server:

                async def ask(port: int) -> None:
                    answers.append(await poll(port, "topic=room:a&timeout=60"))

                nursery.start_soon(ask, server.address[1])
                await eventually(lambda: server.statistics().hub.subscriptions == 1)
                began = trio.current_time()
            assert trio.current_time() - began < 3
    assert answers[0]["messages"] == []
    assert answers[0]["cursor"].startswith("room:a!")
