"""Publishing over HTTP, as a back end does it."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from realtime.server import Server
from tests.peers import Peer, Response, connect, leaving_nothing_behind, open_websocket, request_bytes
from tests.transports.conftest import running

KEY = {"X-Api-Key": "key"}


def publish_bytes(data: Any, *, topic: str = "room:a", headers: dict[str, str] | None = None, **members: Any) -> bytes:
    body = json.dumps({"topic": topic, "data": data, **members}).encode()
    return request_bytes("POST", "/api/v1/publish", headers=KEY if headers is None else headers, body=body)


async def publish(raw: Peer, data: Any, **options: Any) -> Response:
    await raw.send(publish_bytes(data, **options))
    return await raw.read_response()


async def test_publish_is_answered_with_its_position_and_delivered(port: int) -> None:
    """Epoch and offset are those that the subscribers see."""
    async with open_websocket(port) as peer, connect(port) as raw:
        joined = await peer.command("subscribe", topic="room:a")
        response = await publish(raw, {"x": "ü"}, event="e", key="k")
        assert (response.status, response.json()) == (
            200,
            {"epoch": joined["epoch"], "offset": 1, "duplicate": False},
        )
        message = await peer.receive_type("message")
        assert (message["data"], message["event"], message["key"]) == ({"x": "ü"}, "e", "k")


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"X-Api-Key": "key"}, None),
        ({"Authorization": "Bearer key"}, None),
        ({"authorization": "bearer key"}, None),
        ({"X-Api-Key": "wrong"}, "AUTH_FAILED"),
        ({"X-Api-Key": ""}, "AUTH_REQUIRED"),
        ({"X-Api-Key": "key2"}, "AUTH_FAILED"),
        ({"X-Api-Key": "ke"}, "AUTH_FAILED"),
        ({"X-Api-Key": "k\xe9y"}, "AUTH_FAILED"),
        ({"Authorization": "Basic key"}, "AUTH_REQUIRED"),
        ({"Authorization": "Bearer wrong"}, "AUTH_FAILED"),
        ({}, "AUTH_REQUIRED"),
    ],
    ids=str,
)
async def test_api_key_decides(server: Server, port: int, headers: dict[str, str], code: str | None) -> None:
    """One of the keys, in one of two headers; without it nothing is published."""
    async with connect(port) as raw:
        await raw.send(
            publish_bytes(1, headers={}).replace(
                b"\r\n\r\n",
                b"\r\n"
                + b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in headers.items())
                + b"\r\n",
                1,
            )
        )
        response = await raw.read_response()
        assert response.status == (401 if code else 200)
        if code:
            assert response.json()["code"] == code
            assert not await raw.more()
    assert server.statistics().hub.published == (0 if code else 1)


async def test_kept_alive_connection_serves_many_requests(port: int) -> None:
    """One connection, hundreds of publishes, each with its own offset, faults between them."""
    async with leaving_nothing_behind(), connect(port) as raw:
        for number in range(1, 301):
            assert (await publish(raw, number)).json()["offset"] == number
            if not number % 100:
                assert (await publish(raw, 0, topic="nokind:a")).status == 400


async def test_pipelined_requests_are_answered_in_order(port: int) -> None:
    """Requests sent without waiting, cut at any place, are answered one by one."""
    pipeline = b"".join(publish_bytes(number) for number in range(50))
    async with connect(port) as raw:
        for start in range(0, len(pipeline), 333):
            await raw.send(pipeline[start : start + 333])
        assert [(await raw.read_response()).json()["offset"] for _ in range(50)] == list(range(1, 51))


async def test_publish_pipelined_with_pages_keeps_the_order(port: int) -> None:
    """Requests for the front door and for the web application share a connection."""
    async with connect(port) as raw:
        await raw.send((publish_bytes(1) + request_bytes("GET", "/healthz")) * 5)
        for number in range(1, 6):
            assert (await raw.read_response()).json()["offset"] == number
            assert (await raw.read_response()).json() == {"status": "ok"}


async def test_expect_continue_is_answered_before_the_body(port: int) -> None:
    """A client that asks first is told to go on; one that has no key is refused without its body."""
    whole = publish_bytes(1, headers={**KEY, "Expect": "100-continue"})
    head, _, body = whole.partition(b"\r\n\r\n")
    async with connect(port) as raw:
        await raw.send(head + b"\r\n\r\n")
        assert await raw.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await raw.send(body)
        assert (await raw.read_response()).status == 200
    async with connect(port) as raw:
        await raw.send(head.replace(b"X-Api-Key: key", b"X-Api-Key: no") + b"\r\n\r\n")
        response = await raw.read_response()
        assert (response.status, response.interim) == (401, [])


@pytest.mark.parametrize(
    ("request_bytes", "status", "named"),
    [
        pytest.param(
            request_bytes("POST", "/api/v1/publish", headers={**KEY, "Transfer-Encoding": "chunked"})
            + b"5\r\n{}   \r\n0\r\n\r\n",
            400,
            "Content-Length",
            id="chunked",
        ),
        pytest.param(publish_bytes("x" * 70_000), 413, "69632", id="oversize_body"),
        pytest.param(publish_bytes("x" * 65_535), 413, "65536", id="oversize_data"),
        pytest.param(request_bytes("POST", "/api/v1/publish", headers=KEY, body=b"{"), 400, "body", id="bad_json"),
        pytest.param(request_bytes("POST", "/api/v1/publish", headers=KEY, body=b""), 400, "body", id="empty"),
        pytest.param(request_bytes("POST", "/api/v1/publish", headers=KEY), 400, "body", id="no_body"),
        pytest.param(request_bytes("POST", "/api/v1/publish", headers=KEY, body=b"[" * 60_000), 400, "", id="deep"),
        pytest.param(
            request_bytes("POST", "/api/v1/publish", headers=KEY, body=b'{"topic":"room:a","data":"\xff"}'),
            400,
            "body",
            id="bad_utf8",
        ),
        pytest.param(
            request_bytes("POST", "/api/v1/publish", headers=KEY, body=b'{"topic":"room:a"}'), 400, "data", id="no_data"
        ),
        pytest.param(publish_bytes(1, topic="room:a b"), 400, "room", id="bad_name"),
        pytest.param(publish_bytes(1, event=5), 400, "event", id="bad_event"),
        pytest.param(publish_bytes(1, key="x" * 300), 400, "key", id="long_key"),
    ],
)
async def test_faulty_publish_is_refused_and_nothing_is_published(
    server: Server, port: int, request_bytes: bytes, status: int, named: str
) -> None:
    """A clear error in JSON; the server has published nothing and goes on."""
    async with connect(port) as raw:
        await raw.send(request_bytes)
        response = await raw.read_response()
        assert response.status == status
        assert response.json()["type"] == "error"
        assert named in response.json()["message"]
    assert server.statistics().hub.published == 0
    async with connect(port) as raw:
        assert (await publish(raw, 1)).status == 200


async def test_largest_message_is_taken(port: int) -> None:
    """Exactly ``max_message_bytes`` of payload pass and arrive."""
    async with open_websocket(port) as peer, connect(port) as raw:
        await peer.command("subscribe", topic="room:a")
        assert (await publish(raw, "x" * 65_534)).status == 200
        assert len((await peer.receive_type("message"))["data"]) == 65_534


@pytest.mark.parametrize(
    "text", ["a\r\nevent: forged\r\ndata: 1\r\n\r\n", "a\nid: 1\n\n", "a\u2028b\x00c", '"}{"', "\\"]
)
async def test_line_feeds_in_key_event_and_data_forge_nothing(port: int, text: str) -> None:
    """Whatever a publisher puts into names, an event stream stays one event on one line."""
    async with connect(port) as back_end, connect(port) as raw:
        await raw.send(request_bytes("GET", "/sse?topic=room:a"))
        await raw.read_until(b"event: subscribed")
        await raw.read_until(b"\n\n")
        response = await publish(back_end, {text: text}, key=text, event=text)
        assert response.status == 200
        await publish(back_end, "end")
        block = await raw.read_until(b"\n\n")
        lines = block.decode().rstrip("\n").split("\n")
        assert [line.split(":")[0] for line in lines] == ["id", "event", "data"]
        assert "\r" not in block.decode()
        message = json.loads(lines[2].removeprefix("data: "))
        assert (message["key"], message["event"], message["data"]) == (text, text, {text: text})
        assert b'"end"' in await raw.read_until(b"\n\n")


async def test_body_that_does_not_come_is_refused_in_time() -> None:
    """A publisher that announces a body and goes silent does not hold its connection for ever."""
    async with running(request_timeout_seconds=0.1) as quick, connect(quick.address[1]) as raw:
        await raw.send(publish_bytes(1)[:-5])
        response = await raw.read_response()
        assert response.status in (400, 408)
        assert not await raw.more()


async def test_publisher_that_hangs_up_in_its_body_leaves_nothing(server: Server, port: int) -> None:
    """Half a body publishes nothing."""
    async with leaving_nothing_behind():
        for cut in range(1, 30):
            async with connect(port) as raw:
                await raw.send(publish_bytes("some data")[:-cut])
    assert server.statistics().hub.published == 0


async def test_client_that_asks_to_close_is_closed_after_its_answer(port: int) -> None:
    """``Connection: close`` and HTTP/1.0 end the connection in order."""
    async with connect(port) as raw:
        response = await publish(raw, 1, headers={**KEY, "Connection": "close"})
        assert (response.status, response.header("connection")) == (200, "close")
        assert not await raw.more()
        assert not raw.was_reset


async def test_faulty_bodies_of_a_back_end_are_held_against_nobody() -> None:
    """It has the right to be there: its next request is as good as the first."""
    async with running(refusal_rate=0.01, refusal_burst=2) as server, httpx.AsyncClient(base_url=server.url) as client:
        headers = {"X-API-Key": "key"}
        for _ in range(5):
            assert (await client.post("/api/v1/publish", content=b"{", headers=headers)).status_code == 400
        body = {"topic": "room:a", "data": 1}
        assert (await client.post("/api/v1/publish", json=body, headers=headers)).status_code == 200
        assert server.statistics().refused == {}
