"""The blueprint: the same protocol for an application under plain hypercorn."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import httpx
import hypercorn.trio
import pytest
import trio
from hypercorn.config import Config
from quart_trio import QuartTrio

from realtime import CommandError, ErrorCode, Identity, Settings
from realtime.engine import Engine
from realtime.envelopes import ProgressDialect
from realtime.progress_state import TaskCompleted
from realtime.routes import Route
from tests.peers import Peer, connect, eventually, open_websocket, request_bytes, upgrade_bytes, upgraded
from transports.blueprint import make_blueprint
from transports.http.app import make_api


@asynccontextmanager
async def serving(settings: Settings, **options) -> AsyncIterator[tuple[int, Engine]]:
    """An application of somebody's own with our blueprints, under hypercorn's own server."""
    engine = Engine(settings, **options)
    app = QuartTrio("theirs")
    app.register_blueprint(make_blueprint(engine))
    app.register_blueprint(make_api(engine))

    @app.get("/")
    async def page() -> str:
        return "theirs"

    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.graceful_timeout = 1
    config.errorlog = None
    stop = trio.Event()
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:

            async def serve(task_status: trio.TaskStatus[list[str]]) -> None:
                await hypercorn.trio.serve(app, config, shutdown_trigger=stop.wait, task_status=task_status)

            (url,) = await nursery.start(serve)
            yield int(url.rpartition(":")[2]), engine
            stop.set()


async def test_websocket_speaks_the_protocol() -> None:
    """Welcome, subscribe, publish, message, errors and closes, as at the front door."""
    async with serving(Settings(dev=True)) as (port, engine):
        async with open_websocket(port) as peer:
            assert (await peer.command("subscribe", topic="room:a"))["type"] == "subscribed"
            assert (await peer.command("publish", topic="room:a", data={"n": 1}))["offset"] == 1
            assert (await peer.receive_type("message"))["data"] == {"n": 1}
            assert (await peer.command("what"))["code"] == "UNKNOWN_TYPE"
            await peer.send_frame(2, b"binary")
            pushes, closed = await peer.receive_to_close()
            assert ([push["type"] for push in pushes], closed.code) == (["error", "disconnect"], 1003)
        await eventually(lambda: not engine.connections)


async def test_too_big_message_closes_with_1009() -> None:
    """The bound on messages is the same."""
    async with (
        serving(Settings(dev=True, max_message_bytes=100)) as (port, _),
        open_websocket(port) as peer,
    ):
        await peer.send_frame(1, b"x" * 101)
        _, closed = await peer.receive_to_close()
        assert closed.code == 1009


async def test_event_stream_tells_and_resumes() -> None:
    """Events carry cursors; a stream that comes back with one gets what it missed; leaving frees the subscription."""
    async with serving(Settings(dev=True)) as (port, engine):
        async with connect(port) as raw:
            await raw.send(request_bytes("GET", "/sse?topic=room:a"))
            head = await raw.read_until(b"event: subscribed")
            assert b"content-type: text/event-stream" in head
            await engine.publish("room:a", 1)
            events = await raw.read_until(b'"data":1')
            (cursor,) = re.findall(rb"id: (\S+)", events)
        await eventually(lambda: not engine.connections)
        await engine.publish("room:a", 2)
        async with connect(port) as raw:
            await raw.send(request_bytes("GET", "/sse?topic=room:a", headers={"Last-Event-ID": cursor.decode()}))
            replayed = await raw.read_until(b'"data":2')
            assert b'"recovered":"full","replayed":1' in replayed


async def test_refusals_are_http_errors_with_our_codes() -> None:
    """Nobody is let in who would not be let in at the front door."""

    async def authenticate(token: str) -> Identity:
        if token != "good":
            raise CommandError(ErrorCode.AUTH_FAILED, "no")
        return Identity("7")

    async with serving(Settings(), authenticate=authenticate) as (port, _), httpx.AsyncClient() as client:
        base = f"http://127.0.0.1:{port}"
        nobody = await client.get(f"{base}/sse?topic=room:a")
        assert (nobody.status_code, nobody.json()["code"]) == (401, "AUTH_REQUIRED")
        wrong = await client.get(f"{base}/sse?topic=room:a", headers={"Authorization": "Bearer bad"})
        assert (wrong.status_code, wrong.json()["code"]) == (401, "AUTH_FAILED")
        good = {"Authorization": "Bearer good"}
        denied = await client.get(f"{base}/sse?topic=user:8", headers=good)
        assert (denied.status_code, denied.json()["code"]) == (403, "PERMISSION_DENIED")
        elsewhere = await client.get(f"{base}/sse?topic=room:a", headers={**good, "Origin": "http://evil.test"})
        assert elsewhere.status_code == 403
        upgrade = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        }
        async with httpx.AsyncClient() as fresh:  # hypercorn takes an upgrade on a new connection only
            refused = await fresh.get(f"{base}/ws", headers={**upgrade, "Authorization": "Bearer bad"})
        assert (refused.status_code, refused.json()["code"]) == (401, "AUTH_FAILED")
        assert (await client.get(base)).text == "theirs"


# -- long polling ----------------------------------------------------------------------------------------------


async def test_poll_is_answered_at_once_later_or_empty() -> None:
    """From a cursor, when something comes, when the time is up."""
    async with serving(Settings(dev=True)) as (port, engine), httpx.AsyncClient() as client:
        url = f"http://127.0.0.1:{port}/poll?topic=room:a"
        first = (await client.get(f"{url}&timeout=0")).json()
        assert first["messages"] == []
        await engine.publish("room:a", 1)
        second = (await client.get(f"{url}&cursor={quote(first['cursor'])}")).json()
        assert [message["data"] for message in second["messages"]] == [1]
        async with trio.open_nursery() as nursery:
            answers: list[Any] = []

            async def wait() -> None:
                answers.append((await client.get(f"{url}&timeout=60")).json())

            nursery.start_soon(wait)
            await eventually(lambda: engine.statistics().hub.subscriptions == 1)
            await engine.publish("room:a", 2)
        assert [message["data"] for message in answers[0]["messages"]] == [2]
        garbage = await client.get(f"{url}&limit=0")
        assert (garbage.status_code, garbage.json()["code"]) == (400, "BAD_REQUEST")
        assert garbage.headers["cache-control"] == "no-store"


async def test_poller_that_hangs_up_leaves_no_subscription() -> None:
    """Hypercorn tells of it, and the poll ends."""
    async with serving(Settings(dev=True)) as (port, engine):
        async with connect(port) as raw:
            await raw.send(request_bytes("GET", "/poll?topic=room:a&timeout=60"))
            await eventually(lambda: engine.statistics().hub.subscriptions == 1)
        await eventually(lambda: engine.statistics().hub.subscriptions == 0)
        assert not engine.polls


# -- commands --------------------------------------------------------------------------------------------------


@asynccontextmanager
async def streaming(port: int, target: str = "/sse?topic=room:a") -> AsyncIterator[tuple[Peer, dict[str, Any]]]:
    """An event stream, and the data of its first event. Hypercorn's is chunked, so it is not read as a whole."""
    async with connect(port) as raw:
        await raw.send(request_bytes("GET", target))
        await raw.read_until(b"data: ")
        first: dict[str, Any] = json.loads(await raw.read_until(b"\n\n"))
        yield raw, first


async def test_command_beside_a_stream_is_answered() -> None:
    """The reply comes at once, what it brought on the stream."""
    async with serving(Settings(dev=True)) as (port, engine), httpx.AsyncClient() as client:
        async with streaming(port) as (raw, welcome):
            url = f"http://127.0.0.1:{port}/sse/{welcome['connection']}"
            secret = {"X-Connection-Secret": welcome["secret"]}
            reply = await client.post(url, headers=secret, json={"type": "subscribe", "id": 1, "topic": "room:b"})
            assert (reply.status_code, reply.json()["type"]) == (200, "subscribed")
            await engine.publish("room:b", "hello")
            assert b'"topic":"room:b"' in await raw.read_until(b'"data":"hello"')
            again = await client.post(url, headers=secret, json={"type": "subscribe", "id": 1, "topic": "room:b"})
            assert (again.status_code, again.json()["code"]) == (409, "ALREADY_SUBSCRIBED")
            stranger = await client.post(url, headers={"X-Connection-Secret": "x"}, json={"type": "ping", "id": 1})
            assert (stranger.status_code, stranger.json()["code"]) == (404, "CONNECTION_NOT_FOUND")
        await eventually(lambda: not engine.connections)
        gone = await client.post(url, headers=secret, json={"type": "ping", "id": 1})
        assert (gone.status_code, gone.json()["code"]) == (404, "CONNECTION_NOT_FOUND")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"not json", 400, "BAD_REQUEST"),
        (b"\xff", 400, "BAD_REQUEST"),
        (b"x" * 1001, 413, "PAYLOAD_TOO_LARGE"),
        (None, 400, "BAD_REQUEST"),
    ],
)
async def test_faulty_command_is_an_http_error_of_ours(body: bytes | None, status: int, code: str) -> None:
    """With the codes of the front door, not with Quart's pages. None: no length is told."""
    async with serving(Settings(dev=True, max_message_bytes=1000)) as (port, _):
        async with streaming(port) as (_raw, welcome), connect(port) as raw:
            secret = {"X-Connection-Secret": welcome["secret"]}
            target = f"/sse/{welcome['connection']}"
            if body is None:
                head = request_bytes("POST", target, headers={**secret, "Transfer-Encoding": "chunked"})
                await raw.send(head + b"2\r\n{}\r\n0\r\n\r\n")
                response = await raw.read_response()
            else:
                response = await raw.request("POST", target, headers=secret, body=body)
            assert (response.status, response.json()["code"]) == (status, code)


async def test_slow_command_is_answered_in_time() -> None:
    """It is not waited for longer than for any other."""
    async with serving(Settings(dev=True, request_timeout_seconds=0.1)) as (port, _):
        async with streaming(port) as (_raw, welcome), connect(port) as raw:
            secret = {"X-Connection-Secret": welcome["secret"]}
            whole = request_bytes("POST", f"/sse/{welcome['connection']}", headers=secret, body=b"x" * 20)
            await raw.send(whole[:-5])
            response = await raw.read_response()
            assert (response.status, response.json()["message"]) == (400, "the body did not come in time")


async def test_preflight_tells_what_a_page_may_send() -> None:
    """On every path that pages use; not to pages from elsewhere."""
    settings = Settings(dev=True, origins=("https://app.example",))
    async with serving(settings, routes=progress_routes()) as (port, _), httpx.AsyncClient() as client:
        for path in ("/sse", "/sse/c_1", "/poll", "/events/s1", "/state/s1"):
            url = f"http://127.0.0.1:{port}{path}"
            allowed = await client.options(url, headers={"Origin": "https://app.example"})
            assert allowed.headers["access-control-allow-origin"] == "https://app.example"
            assert "X-Connection-Secret" in allowed.headers["access-control-allow-headers"]
            refused = await client.options(url, headers={"Origin": "https://evil.example"})
            assert refused.status_code == 403
            assert "access-control-allow-origin" not in refused.headers


# -- topics from the start -------------------------------------------------------------------------------------


async def test_websocket_starts_with_topics_and_cursor_of_its_url() -> None:
    """What was missed comes first; a refusal is told on the open socket."""
    async with serving(Settings(dev=True)) as (port, engine):
        await engine.publish("room:a", 1)
        async with open_websocket(port, "/ws?topic=room:a") as peer:
            (topic,) = peer.welcome["topics"]
        await engine.publish("room:a", 2)
        cursor = quote(f"room:a!{topic['epoch']}!{topic['offset']}")
        async with open_websocket(port, f"/ws?topic=room:a&cursor={cursor}") as peer:
            assert (await peer.receive_type("message"))["data"] == 2
        async with upgraded(port, "/ws?topic=user:7") as peer:
            pushes, closed = await peer.receive_to_close()
            assert (pushes[0]["code"], closed.code) == ("PERMISSION_DENIED", 4003)


async def test_login_brings_its_topics() -> None:
    """On a WebSocket and an event stream that names none."""

    async def authenticate(_token: str) -> Identity:
        return Identity("7")

    async with serving(Settings(), authenticate=authenticate) as (port, engine):
        async with open_websocket(port, headers=["Authorization: Bearer x"]) as peer:
            await engine.send_to_user("7", "hello")
            assert (await peer.receive_type("message"))["data"] == "hello"
        async with connect(port) as raw:
            await raw.send(request_bytes("GET", "/sse", headers={"Authorization": "Bearer x"}))
            await raw.read_until(b'"topic":"user:7"')


# -- routes of one's own ---------------------------------------------------------------------------------------


def progress_routes(state: Any = lambda topic: {"topic": topic}) -> list[Route]:
    topic = "session:{session_id}"
    return [
        Route(path="/ws/parallel/{session_id}", topic=topic, transport="websocket", dialect=ProgressDialect()),
        Route(path="/events/{session_id}", topic=topic, transport="sse", dialect=ProgressDialect()),
        Route(path="/state/{session_id}", topic=topic, transport="state", state=state),
    ]


SESSIONS = Settings(dev=True, kinds={"session": {"join": "anyone"}})


async def test_routes_lead_to_their_topic_in_words_of_their_own() -> None:
    """On every transport; the end of the session is the end of them."""
    async with serving(SESSIONS, routes=progress_routes()) as (port, engine), httpx.AsyncClient() as client:
        engine.progress.create("s1")
        async with upgraded(port, "/ws/parallel/s1") as peer, streaming(port, "/events/s1") as (raw, first):
            assert (await peer.receive())["type"] == first["type"] == "connected"
            await peer.send_frame(1, b"ping")
            assert (await peer.next_frame()).payload == b"pong"
            await engine.progress.notify_progress("s1", TaskCompleted(node_id="n"))
            message = await peer.receive()
            assert (list(message), message["task_id"]) == (["type", "task_id", "timestamp", "data"], "s1")
            await raw.read_until(b'"type":"task_completed"')
            await engine.progress.complete("s1")
            pushes, closed = await peer.receive_to_close()
            assert ([push["type"] for push in pushes], closed.code) == (["session_completed"], 1000)
            ended = await raw.read_until(b"0\r\n\r\n")
            assert b'"type":"session_completed"' in ended
            (cursor,) = re.findall(rb"id: (\S+)", ended)
        over = await client.get(f"http://127.0.0.1:{port}/events/s1", headers={"Last-Event-ID": cursor.decode()})
        assert over.status_code == 204
        state = await client.get(f"http://127.0.0.1:{port}/state/s1")
        assert (state.status_code, state.json()) == (200, {"topic": "session:s1"})


async def test_route_to_what_is_not_there_says_so() -> None:
    """4004 on the open socket, 404 elsewhere."""
    async with serving(SESSIONS, routes=progress_routes()) as (port, engine), httpx.AsyncClient() as client:
        async with upgraded(port, "/ws/parallel/none") as peer:
            _, closed = await peer.receive_to_close()
            assert closed.code == 4004
        for path in ("events", "state"):
            response = await client.get(f"http://127.0.0.1:{port}/{path}/none")
            assert (response.status_code, response.json()["code"]) == (404, "SESSION_NOT_FOUND")
        assert not engine.connections


async def test_state_needs_the_login_that_the_topic_does() -> None:
    """As everything else."""
    async with serving(Settings(), routes=progress_routes()) as (port, _), httpx.AsyncClient() as client:
        response = await client.get(f"http://127.0.0.1:{port}/state/s1")
        assert (response.status_code, response.json()["code"]) == (401, "AUTH_REQUIRED")


async def test_head_of_a_stream_opens_none() -> None:
    """Quart answers HEAD wherever it answers GET."""
    async with serving(Settings(dev=True)) as (port, engine), httpx.AsyncClient() as client:
        response = await client.head(f"http://127.0.0.1:{port}/sse?topic=room:a")
        assert response.headers["content-type"].startswith("text/event-stream")
        assert not engine.connections


async def test_drain_answers_polls_and_ends_streams() -> None:
    """Everybody is told, and nobody waits for the time to be up."""
    async with serving(Settings(dev=True)) as (port, engine):
        async with connect(port) as poller, streaming(port) as (raw, _), open_websocket(port) as peer:
            await poller.send(request_bytes("GET", "/poll?topic=room:a&timeout=60"))
            await eventually(lambda: engine.statistics().hub.subscriptions == 2)
            await engine.drain()
            assert (await poller.read_response()).json()["messages"] == []
            await raw.read_until(b'"code":4100')
            _, closed = await peer.receive_to_close()
            assert closed.code == 4100


async def test_application_that_ends_ends_its_connections() -> None:
    """Also those that nobody has told of it."""
    async with trio.open_nursery() as nursery:
        async with serving(Settings(dev=True, grace_seconds=1.0)) as (port, engine):

            async def follow() -> None:
                async with streaming(port) as (raw, _):
                    await raw.read_to_end()

            nursery.start_soon(follow)
            await eventually(lambda: len(engine.connections) == 1)
    assert not engine.connections


async def test_connections_of_one_address_are_limited() -> None:
    """On both transports together; one that ends makes room."""
    settings = Settings(dev=True, max_connections_per_address=2)
    async with serving(settings) as (port, engine), httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        async with open_websocket(port), client.stream("GET", "/sse?topic=room:a") as stream:
            assert stream.status_code == 200
            refused = await client.get("/sse?topic=room:a")
            assert (refused.status_code, refused.json()["code"]) == (429, "LIMIT_EXCEEDED")
            async with connect(port) as raw:
                await raw.send(upgrade_bytes())
                assert (await raw.read_response()).status == 429
            assert engine.refused == {"too_many_of_address": 2}
        await eventually(lambda: not engine.connections)
        async with open_websocket(port) as peer:
            await peer.barrier()


async def test_address_that_goes_on_guessing_is_not_listened_to() -> None:
    """Hypercorn has read the request; that is all that is done for it."""

    async def authenticate(token: str) -> Identity:
        if token != "right":
            raise CommandError(ErrorCode.AUTH_FAILED, "no such token")
        return Identity("7")

    settings = Settings(refusal_rate=0.01, refusal_burst=3)
    async with serving(settings, authenticate=authenticate) as (port, engine):
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            wrong = {"Authorization": "Bearer wrong"}
            statuses = [(await client.get("/poll?topic=room:a", headers=wrong)).status_code for _ in range(5)]
            right = await client.get("/poll?topic=room:a", headers={"Authorization": "Bearer right"})
            assert (statuses, right.status_code) == ([401, 401, 401, 429, 429], 429)
            assert engine.refused == {"request": 3, "shut_out": 3}


async def test_address_that_goes_on_guessing_keys_is_not_listened_to() -> None:
    """Nor does the right key help it then; who is at another address behind a proxy is served, and so is health."""
    settings = Settings(refusal_rate=0.01, refusal_burst=3, api_keys=("key",), trusted_proxies=("127.0.0.1",))
    async with serving(settings) as (port, engine), httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:

        async def ask(key: str, address: str = "203.0.113.7", path: str = "/api/v1/stats") -> int:
            headers = {"X-Api-Key": key, "X-Forwarded-For": address}
            return (await client.get(path, headers=headers)).status_code

        assert [await ask(f"guess {number}") for number in range(5)] == [401, 401, 401, 429, 429]
        response = await client.get("/api/v1/stats", headers={"X-Api-Key": "key", "X-Forwarded-For": "203.0.113.7"})
        assert (response.status_code, response.json()["code"]) == (429, "RATE_LIMIT_EXCEEDED")
        assert int(response.headers["Retry-After"]) >= 1
        assert await ask("key", address="203.0.113.8") == 200
        assert await ask("", path="/healthz") == 200
        assert engine.refused == {"api": 3, "shut_out": 3}


async def test_foreign_page_does_not_have_its_visitor_shut_out() -> None:
    """On no path, however often it tries."""
    settings = Settings(dev=True, refusal_rate=0.01, refusal_burst=3, api_keys=("key",))
    async with serving(settings) as (port, engine), httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        for path in ("/poll?topic=room:a", "/sse?topic=room:a", "/api/v1/stats"):
            for origin in ("https://evil.example", f"http://evil@127.0.0.1:{port}", f"http://127.0.0.1:{port}/path"):
                refused = [(await client.get(path, headers={"Origin": origin})).status_code for _ in range(5)]
                assert refused == [403] * 5
        own = {"Origin": f"http://127.0.0.1:{port}", "X-Api-Key": "key"}
        assert (await client.get("/poll?topic=room:a&timeout=0", headers=own)).status_code == 200
        assert (await client.get("/api/v1/stats", headers=own)).status_code == 200
        assert engine.refused == {"request": 15, "sse": 15, "origin": 15}


async def test_polls_over_the_rate_are_told_when_to_come_back() -> None:
    """And who does not mind is not listened to."""
    settings = Settings(dev=True, command_rate=0.1, command_burst=3, refusal_rate=0.01, refusal_burst=2)
    async with serving(settings) as (port, engine), httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        answers = [await client.get("/poll?topic=room:a&timeout=0") for _ in range(7)]
        assert [answer.status_code for answer in answers] == [200] * 3 + [429] * 4
        assert all(int(answer.headers["Retry-After"]) >= answer.json()["retry_after"] > 1 for answer in answers[3:])
        assert engine.refused == {"poll_rate": 2, "shut_out": 2}


async def test_polls_that_wait_are_counted_by_address() -> None:
    """As streams are: nobody else counts them there."""
    settings = Settings(dev=True, max_connections_per_address=1)
    async with serving(settings) as (port, engine), httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.get, "/poll?topic=room:a&timeout=8")
            await eventually(lambda: len(engine.polls) == 1)
            refused = await client.get("/poll?topic=room:a&timeout=0")
            assert (refused.status_code, refused.json()["code"]) == (429, "LIMIT_EXCEEDED")
            await engine.publish("room:a", "come back")
        assert (await client.get("/poll?topic=room:a&timeout=0")).status_code == 200
        assert engine.refused == {"too_many_of_address": 1}


async def test_forwarded_address_is_believed_of_a_trusted_proxy_only() -> None:
    """It is whose connections are counted."""
    headers = {"X-Forwarded-For": "203.0.113.9"}
    for trusted, expected in ((["127.0.0.1"], "203.0.113.9"), ([], "127.0.0.1")):
        async with serving(Settings(dev=True, trusted_proxies=tuple(trusted))) as (port, engine):
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
                async with client.stream("GET", "/sse?topic=room:a", headers=headers):
                    (connection,) = engine.connections
                    assert connection.statistics().address == expected


async def test_plain_get_of_a_websocket_path_says_what_it_lacks_under_a_prefix_too() -> None:
    """Unless something else is served there."""
    app = QuartTrio("theirs")
    engine = Engine(Settings(dev=True))
    for path, transport in (("/a/{id}", "websocket"), ("/b/{id}", "websocket"), ("/b/{id}", "state")):
        state = {"state": lambda topic: {"of": topic}} if transport == "state" else {}
        engine.routes.add(Route(path=path, topic="room:{id}", transport=transport, **state))
    app.register_blueprint(make_blueprint(engine, url_prefix="/live"))
    async with app.test_app() as running:
        client = running.test_client()
        for path in ("/live/ws", "/live/a/1"):
            response = await client.get(path)
            assert (response.status_code, response.headers["Upgrade"]) == (426, "websocket")
            assert "no `Upgrade`" in (await response.get_json())["message"]
        assert (await (await client.get("/live/b/1")).get_json()) == {"of": "room:1"}
        assert (await client.get("/ws")).status_code == 404
