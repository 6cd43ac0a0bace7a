"""Commands of an event stream's client, each by a POST beside the stream and answered in its response."""

from __future__ import annotations

import json
from typing import Any

import httpx
import httpx_sse
import pytest
import trio

from realtime import CommandError, ErrorCode, Identity, closing
from realtime.server import Server
from tests.peers import (
    EventPeer,
    Response,
    connect,
    eventually,
    leaving_nothing_behind,
    open_events,
    open_websocket,
    post_command,
    request_bytes,
    secret_of,
)
from tests.transports.conftest import running


async def know_ann(token: str) -> Identity:
    if token != "ann":
        raise CommandError(ErrorCode.AUTH_FAILED, "no such token")
    return Identity("7")


async def reply_to(port: int, peer: EventPeer, kind: str, **members: Any) -> dict[str, Any]:
    response = await post_command(port, peer, kind, **members)
    assert response.status == 200, response.body
    reply: dict[str, Any] = response.json()
    return reply


async def post(port: int, peer: EventPeer, body: bytes, *, more: dict[str, str] | None = None) -> Response:
    async with connect(port) as raw:
        headers = {**secret_of(peer), **(more or {})}
        return await raw.request("POST", f"/sse/{peer.welcome['connection']}", headers=headers, body=body)


async def test_each_command_is_answered_in_its_response(server: Server, port: int) -> None:
    """The same commands and replies as on a WebSocket; messages stay on the stream."""

    @server.handler("double")
    async def double(number: int) -> int:
        return 2 * number

    async with open_events(port, "topic=room:a") as peer:
        subscribed = await reply_to(port, peer, "subscribe", topic="room:b")
        assert subscribed == {
            "type": "subscribed",
            "id": 1,
            "topic": "room:b",
            "epoch": subscribed["epoch"],
            "offset": 0,
        }
        assert (await reply_to(port, peer, "update", topic="room:b", fields=["x"]))["type"] == "updated"
        published = await reply_to(port, peer, "publish", topic="room:b", data={"x": 1, "y": 2})
        assert (published["type"], published["offset"]) == ("published", 1)
        assert (await peer.receive_type("message")).data["data"] == {"x": 1}
        members = await reply_to(port, peer, "members", topic="room:b")
        assert [member["connection"] for member in members["members"]] == [peer.welcome["connection"]]
        history = await reply_to(port, peer, "history", topic="room:b")
        assert [message["data"] for message in history["messages"]] == [{"x": 1, "y": 2}]
        stats = await reply_to(port, peer, "stats")
        assert [found["topic"] for found in stats["subscriptions"]] == ["room:a", "room:b"]
        assert (await reply_to(port, peer, "ping"))["type"] == "pong"
        request = await reply_to(port, peer, "request", action="double", payload=21, trace_id="t-1")
        assert (request["data"], request["trace_id"]) == (42, "t-1")
        batch = await reply_to(
            port,
            peer,
            "batch",
            commands=[{"type": "ping", "id": 5}, {"type": "unsubscribe", "id": 6, "topic": "room:b"}],
        )
        assert [found["type"] for found in batch["replies"]] == ["pong", "unsubscribed"]
        assert (await post_command(port, peer, "unsubscribe", topic="room:b")).status == 409


async def test_login_by_command_brings_the_users_topics() -> None:
    """An anonymous stream becomes a user's; its topics are in the reply and on the stream."""
    async with running(authenticate=know_ann) as server:
        port = server.address[1]
        async with open_events(port, "topic=room:a") as peer:
            reply = await reply_to(port, peer, "auth", token="ann")
            assert reply["user"] == "7"
            assert [topic["topic"] for topic in reply["topics"]] == ["user:7", "global"]
            await server.send_to_user("7", "hello")
            assert (await peer.receive_type("message")).data["data"] == "hello"
            assert (await post_command(port, peer, "auth", token="wrong")).status == 401


async def test_second_topic_is_in_the_cursor_from_then_on(server: Server, port: int) -> None:
    """A stream that breaks after a topic was added resumes both, without loss or repetition."""
    async with open_events(port, "topic=room:a") as peer:
        await server.publish("room:a", 1)
        alone = await peer.receive_type("message")
        assert alone.id is not None
        assert "~" not in alone.id
        await reply_to(port, peer, "subscribe", topic="room:b")
        await server.publish("room:b", 2)
        both = await peer.receive_type("message")
        assert both.id is not None
        assert both.id.count("~") == 1
        cursor = peer.last_id
    assert cursor is not None
    await server.publish("room:a", 3)
    await server.publish("room:b", 4)
    async with open_events(port, "topic=room:a&topic=room:b", headers={"Last-Event-ID": cursor}) as peer:
        assert sorted([(await peer.receive_type("message")).data["data"] for _ in range(2)]) == [3, 4]


async def test_second_topic_with_no_message_yet_loses_nothing_of_it(server: Server, port: int) -> None:
    """Also where the stream breaks before anything came of the new topic, but something of the old one."""
    async with open_events(port, "topic=room:a") as peer:
        await reply_to(port, peer, "subscribe", topic="room:b")
        await server.publish("room:a", 1)
        cursor = (await peer.receive_type("message")).id
    assert cursor is not None
    await server.publish("room:b", 2)
    async with open_events(port, "topic=room:a&topic=room:b", headers={"Last-Event-ID": cursor}) as peer:
        assert (await peer.receive_type("message")).data["data"] == 2


@pytest.mark.parametrize("how", ["wrong", "none", "empty", "other", "unknown", "odd_characters", "websocket"])
async def test_who_has_not_the_secret_learns_nothing(server: Server, port: int, how: str) -> None:
    """A wrong secret, another stream's, an unknown connection and one that takes no commands: the same answer."""
    async with open_events(port, "topic=room:a") as peer, open_events(port, "topic=room:a") as other:
        async with open_websocket(port) as socket, connect(port) as raw:
            name = {"unknown": "c_none", "websocket": socket.welcome["connection"]}.get(how, peer.welcome["connection"])
            secret = {
                "wrong": {"X-Connection-Secret": peer.welcome["secret"][:-1]},
                "none": {},
                "empty": {"X-Connection-Secret": ""},
                "other": secret_of(other),
                "unknown": secret_of(peer),
                "websocket": {"X-Connection-Secret": ""},
                "odd_characters": {},
            }[how]
            body = b'{"type":"ping","id":1}'
            head = request_bytes("POST", f"/sse/{name}", headers=secret, body=body)
            if how == "odd_characters":
                head = head.replace(b"\r\n\r\n", b"\r\nX-Connection-Secret: \xe9\xff\r\n\r\n", 1)
            await raw.send(head)
            response = await raw.read_response()
            assert response.status == 404
            assert response.json() == {
                "type": "error",
                "code": "CONNECTION_NOT_FOUND",
                "message": "there is no such connection, or no longer",
            }
            assert (await raw.request("GET", "/healthz")).status == 200
        assert server.statistics().refused == {"sse_command": 1}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"not json", 400, "BAD_REQUEST"),
        (b"", 400, "BAD_REQUEST"),
        (b"[]", 400, "BAD_REQUEST"),
        (b'"text"', 400, "BAD_REQUEST"),
        (b'{"type":"ping","id":1}x', 400, "BAD_REQUEST"),
        (b'{"type":"ping","id":"\xff"}', 400, "BAD_REQUEST"),
        (b"[" * 60_000, 400, "BAD_REQUEST"),
        (b'{"type":"what","id":1}', 400, "UNKNOWN_TYPE"),
        (b'{"type":"ping"}', 400, "BAD_REQUEST"),
        (b'{"type":"subscribe","id":1,"topic":"nokind:a"}', 400, "INVALID_TOPIC"),
        (b'{"type":"subscribe","id":1,"topic":"room:a"}', 409, "ALREADY_SUBSCRIBED"),
        (b'{"type":"subscribe","id":1,"topic":"user:7"}', 403, "PERMISSION_DENIED"),
        (b'{"type":"request","id":1,"action":"none"}', 404, "UNKNOWN_ACTION"),
        (b"x" * 65_537, 413, "PAYLOAD_TOO_LARGE"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_command_that_cannot_be_is_an_http_error_and_the_stream_lives(
    server: Server, port: int, body: bytes, status: int, code: str
) -> None:
    """What would end a WebSocket is only an answer here: the stream has done nothing wrong."""
    async with open_events(port, "topic=room:a") as peer:
        response = await post(port, peer, body)
        assert (response.status, response.json()["code"]) == (status, code)
        await server.publish("room:a", 1)
        assert (await peer.receive_type("message")).data["data"] == 1


async def test_chunked_command_is_refused(port: int) -> None:
    """A body of unknown length is not read."""
    async with open_events(port, "topic=room:a") as peer, connect(port) as raw:
        head = {**secret_of(peer), "Transfer-Encoding": "chunked"}
        await raw.send(
            request_bytes("POST", f"/sse/{peer.welcome['connection']}", headers=head) + b"2\r\n{}\r\n0\r\n\r\n"
        )
        response = await raw.read_response()
        assert (response.status, response.json()["code"]) == (400, "BAD_REQUEST")
        assert "Content-Length" in response.json()["message"]
        assert not await raw.more()


async def test_slow_command_is_ended_in_time() -> None:
    """A body that does not come in time is answered and its connection closed; the stream is not touched."""
    async with running(request_timeout_seconds=0.1) as server:
        port = server.address[1]
        async with open_events(port, "topic=room:a") as peer, connect(port) as raw:
            whole = request_bytes(
                "POST", f"/sse/{peer.welcome['connection']}", headers=secret_of(peer), body=b'{"type":"ping","id":1}'
            )
            await raw.send(whole[:-5])
            response = await raw.read_response()
            assert (response.status, response.json()["message"]) == (400, "the body did not come in time")
            assert not await raw.more()
            assert (await reply_to(port, peer, "ping"))["type"] == "pong"


async def test_commands_share_a_kept_alive_connection(server: Server, port: int) -> None:
    """Many commands one after the other, also sent without waiting, are answered in their order."""
    async with open_events(port, "topic=room:a") as peer, connect(port) as raw:
        target = f"/sse/{peer.welcome['connection']}"
        requests = [
            request_bytes(
                "POST", target, headers=secret_of(peer), body=json.dumps({"type": "ping", "id": number}).encode()
            )
            for number in range(50)
        ]
        await raw.send(b"".join(requests))
        assert [(await raw.read_response()).json()["id"] for _ in range(50)] == list(range(50))
        assert server.statistics().refused == {}


async def test_request_handler_takes_its_time_beside_others(server: Server, port: int) -> None:
    """A response waits for its handler; commands that come meanwhile do not."""
    go = trio.Event()

    @server.handler("wait")
    async def wait() -> str:
        await go.wait()
        return "done"

    async with open_events(port, "topic=room:a") as peer, trio.open_nursery() as nursery:
        answers: list[Any] = []

        async def ask() -> None:
            answers.append((await reply_to(port, peer, "request", action="wait"))["data"])

        nursery.start_soon(ask)
        await eventually(lambda: server.actions.statistics()[0].in_flight == 1)
        assert (await reply_to(port, peer, "ping"))["type"] == "pong"
        assert answers == []
        go.set()
        await eventually(lambda: answers == ["done"])


async def test_stream_that_ends_while_a_request_runs_ends_the_request(server: Server, port: int) -> None:
    """The handler is cancelled, the POST answered as for any connection that is gone; nothing is left."""
    ended = trio.Event()

    @server.handler("wait")
    async def wait() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with leaving_nothing_behind(), trio.open_nursery() as nursery:
        async with open_events(port, "topic=room:a") as peer:
            responses: list[Response] = []

            async def ask() -> None:
                responses.append(await post_command(port, peer, "request", action="wait"))

            nursery.start_soon(ask)
            await eventually(lambda: server.actions.statistics()[0].in_flight == 1)
        with trio.fail_after(5):
            await ended.wait()
            await eventually(lambda: len(responses) == 1)
        assert (responses[0].status, responses[0].json()["code"]) == (404, "CONNECTION_NOT_FOUND")
    assert server.actions.statistics()[0].in_flight == 0


async def test_poster_that_hangs_up_leaves_its_stream_alone(server: Server, port: int) -> None:
    """The command goes on, as the connection that it belongs to is there; only its reply has nobody to read it."""
    go = trio.Event()

    @server.handler("wait")
    async def wait() -> None:
        await go.wait()

    async with open_events(port, "topic=room:a") as peer:
        async with connect(port) as raw:
            body = b'{"type":"request","id":1,"action":"wait"}'
            await raw.send(
                request_bytes("POST", f"/sse/{peer.welcome['connection']}", headers=secret_of(peer), body=body)
            )
            await eventually(lambda: server.actions.statistics()[0].in_flight == 1)
        go.set()
        await eventually(lambda: server.actions.statistics()[0].in_flight == 0)
        assert (await reply_to(port, peer, "ping"))["type"] == "pong"


async def test_too_many_commands_at_once_are_refused() -> None:
    """The bound is that of requests under way; what runs goes on."""
    async with running(max_requests=2) as server:
        port = server.address[1]

        @server.handler("wait")
        async def wait() -> None:
            await trio.sleep_forever()

        async with open_events(port, "topic=room:a") as peer, trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(lambda: post_command(port, peer, "request", action="wait"))
            await eventually(lambda: server.actions.statistics()[0].in_flight == 2)
            response = await post_command(port, peer, "ping")
            assert (response.status, response.json()["code"]) == (429, "LIMIT_EXCEEDED")
            nursery.cancel_scope.cancel()


async def test_bug_of_a_handler_is_500_with_a_trace_id(
    server: Server, port: int, log_entries: list[dict[str, Any]]
) -> None:
    """What went wrong stands in the log under the same id, and nowhere else."""

    @server.handler("fail")
    async def fail() -> None:
        raise ZeroDivisionError("secret")

    async with open_events(port, "topic=room:a") as peer:
        response = await post_command(port, peer, "request", action="fail")
    assert response.status == 500
    assert b"secret" not in response.body
    (entry,) = [entry for entry in log_entries if entry["event"] == "action failed"]
    assert entry["trace_id"] == response.json()["trace_id"]
    log_entries.clear()


async def test_page_from_elsewhere_may_not_command(port: int) -> None:
    """Also with the secret: its own origin gives it away."""
    async with open_events(port, "topic=room:a") as peer:
        response = await post(port, peer, b'{"type":"ping","id":1}', more={"Origin": "https://evil.example"})
        assert (response.status, response.json()["code"]) == (403, "PERMISSION_DENIED")


async def test_foreign_client_reads_events_and_sends_commands(server: Server, port: int) -> None:
    """With other people's HTTP and event stream parsers."""
    url = f"http://127.0.0.1:{port}"
    async with (
        httpx.AsyncClient() as client,
        httpx_sse.aconnect_sse(client, "GET", f"{url}/sse?topic=room:a") as source,
    ):
        events = source.aiter_sse()
        welcome = (await anext(events)).json()
        assert (await anext(events)).event == "subscribed"
        response = await client.post(
            f"{url}/sse/{welcome['connection']}",
            headers={"X-Connection-Secret": welcome["secret"]},
            json={"type": "publish", "id": "p", "topic": "room:a", "data": "你好"},
        )
        assert response.json()["offset"] == 1
        message = await anext(events)
        assert (message.event, message.json()["data"]) == ("message", "你好")
        assert message.id
        server.connections.find(welcome["connection"]).close(closing.NORMAL)
        assert [event.event async for event in events] == ["disconnect"]
