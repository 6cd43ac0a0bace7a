"""The HTTP API, as a back end uses it: over a real socket, with an API key."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import trio
import trio.testing
from quart_trio import QuartTrio

from realtime import Identity, Settings
from realtime.closing import GONE
from realtime.engine import open_engine
from realtime.server import Server
from tests.peers import WebSocketPeer, connect, eventually, open_websocket, request_bytes
from tests.transports.conftest import running
from transports.http.app import make_api, make_app
from transports.http.dispatch import MAX_BODY_BYTES

KEY = {"X-API-Key": "key"}


async def authenticate(token: str) -> Identity:
    """The token is the user's name."""
    return Identity(user=token, roles=frozenset({"staff"}))


class Api:
    """A back end: a client with the key."""

    def __init__(self, server: Server, client: httpx.AsyncClient) -> None:
        self.server = server
        self.port = server.address[1]
        self.client = client

    async def __call__(self, method: str, path: str, body: Any = None, *, status: int = 200, **options: Any) -> Any:
        """The JSON of an answer that has this status."""
        if body is not None:
            options["content"] = json.dumps(body)
        response = await self.client.request(method, path, **options)
        assert response.status_code == status, response.text
        return response.json() if response.content else None

    def user(self, name: str) -> Any:
        """A WebSocket of this user's."""
        return open_websocket(self.port, headers=[f"Authorization: Bearer {name}"])


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[Api]:
    async with (
        running(**{"dev": False, "authenticate": authenticate, "auto_subscribe": [], **options}) as server,
        httpx.AsyncClient(base_url=server.url, headers=KEY) as client,
    ):
        yield Api(server, client)


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving() as started:
        yield started


def code_of(error: dict[str, Any]) -> str:
    assert error["type"] == "error"
    assert error["message"]
    return error["code"]


# -- publishing ----------------------------------------------------------------------------------------------


async def test_batch_publishes_in_order_and_tells_of_each(api: Api) -> None:
    """One that is refused holds up no other; a repeated one is told apart."""
    once = {"topic": "room:a", "data": {"n": 1}, "idempotency_key": "k"}
    async with api.user("7") as peer:
        await peer.command("subscribe", topic="room:a")
        body = [once, {"topic": "nokind:a", "data": 1}, {"topic": "room:a", "data": 2, "event": "e"}, once]
        first, refused, second, repeated = (await api("POST", "/api/v1/batch", body))["results"]
        assert (first["topic"], first["offset"], second["offset"]) == ("room:a", 1, 2)
        assert (code_of(refused), refused["topic"]) == ("INVALID_TOPIC", "nokind:a")
        assert repeated == {**first, "duplicate": True}
        assert [(await peer.receive_type("message"))["data"] for _ in range(2)] == [{"n": 1}, 2]


async def test_batch_with_a_malformed_message_publishes_nothing(api: Api) -> None:
    """The error names the message and the member."""
    body = [{"topic": "room:a", "data": 1}, {"topic": "room:a", "data": 1, "key": 5}]
    error = await api("POST", "/api/v1/batch", body, status=400)
    assert code_of(error) == "BAD_REQUEST"
    assert "$[1].key" in error["message"]
    assert not api.server.statistics().hub.published


async def test_batch_of_a_thousand_lets_others_run(api: Api) -> None:
    """A long list is many turns, not one; more than a thousand are refused."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    message = {"topic": "room:a", "data": 1}
    app = make_app(api.server).test_client()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        results = await (await app.post("/api/v1/batch", json=[message] * 1000, headers=KEY)).get_json()
        nursery.cancel_scope.cancel()
    assert [result["offset"] for result in results["results"]] == list(range(1, 1001))
    assert turns > 25
    assert code_of(await api("POST", "/api/v1/batch", [message] * 1001, status=400)) == "BAD_REQUEST"


async def test_broadcast_reaches_topics_and_roles(api: Api) -> None:
    """Each topic has its own result; a role is one topic."""
    body = {"topics": ["room:a", "room:b", "x"], "data": 1, "event": "e"}
    results = (await api("POST", "/api/v1/broadcast", body))["results"]
    assert [(result["topic"], result["type"]) for result in results] == [
        ("room:a", "published"),
        ("room:b", "published"),
        ("x", "error"),
    ]
    (result,) = (await api("POST", "/api/v1/broadcast", {"role": "staff", "data": 1}))["results"]
    assert result["topic"] == "role:staff"


@pytest.mark.parametrize("whom", [{}, {"topics": ["room:a"], "role": "staff"}], ids=["neither", "both"])
async def test_broadcast_to_nobody_or_both_is_refused(api: Api, whom: dict[str, Any]) -> None:
    """Topics or a role: one of them."""
    assert code_of(await api("POST", "/api/v1/broadcast", {"data": 1, **whom}, status=400)) == "BAD_REQUEST"


async def test_send_to_user_and_connection_arrives(api: Api) -> None:
    """A user by its own topic, one connection by one that it is placed in."""
    async with api.user("7") as peer:
        await api("POST", "/api/v1/users/7/subscribe", {"topic": "user:7"})
        sent = await api("POST", "/api/v1/users/7/send", {"data": 1, "key": "k"})
        assert (sent["topic"], sent["offset"]) == ("user:7", 1)
        sent = await api("POST", f"/api/v1/connections/{peer.welcome['connection']}/send", {"data": 2})
        assert sent["topic"] == f"connection:{peer.welcome['connection']}"
        assert [(await peer.receive_type("message"))["data"] for _ in range(2)] == [1, 2]
    error = await api("POST", "/api/v1/connections/c_none/send", {"data": 2}, status=404)
    assert code_of(error) == "CONNECTION_NOT_FOUND"


async def test_publish_behind_another_door_is_the_same() -> None:
    """Without the front door, as in an application of somebody's own, the endpoint is there all the same."""
    async with open_engine(Settings(api_keys=("key",))) as engine:
        client = make_app(engine).test_client()
        response = await client.post("/api/v1/publish", data=b'{"topic":"room:a","data":1}', headers=KEY)
        assert response.status_code == 200
        assert (await response.get_json())["offset"] == 1


async def test_publish_that_cannot_be_done_has_its_status(autojump_clock: trio.testing.MockClock) -> None:
    """Too many topics, a topic that is held back, a server that does not run."""
    kinds = {"room": {"overflow": "block", "block_timeout_seconds": 1.0}}
    settings = Settings(api_keys=("key",), kinds=kinds, max_server_topics=1)

    async def publish(client: Any, topic: str) -> tuple[int, str]:
        response = await client.post("/api/v1/publish", json={"topic": topic, "data": 1}, headers=KEY)
        return response.status_code, (await response.get_json()).get("code")

    async with open_engine(settings) as engine:
        client = make_app(engine).test_client()
        async with engine.subscribe("room:a", max_messages=1):
            assert (await publish(client, "room:b")) == (429, "LIMIT_EXCEEDED")
            while (outcome := await publish(client, "room:a"))[0] == 200:
                await trio.testing.wait_all_tasks_blocked()
            assert outcome == (504, "TIMEOUT")
    assert await publish(client, "room:a") == (503, "UNAVAILABLE")


# -- topics --------------------------------------------------------------------------------------------------


async def test_topics_are_listed_by_page(api: Api) -> None:
    """In the order of their names, used and created ones, each once."""
    for name in ("b", "a", "c"):
        await api.server.publish(f"room:{name}", 1)
    for name in ("x", "y"):
        await api("POST", "/api/v1/topics", {"topic": f"session:{name}"}, status=201)
    await api.server.publish("session:x", 1)
    names, after = [], ""
    while True:
        page = await api("GET", "/api/v1/topics", params={"after": after, "limit": 2})
        names += [topic["topic"] for topic in page["topics"]]
        if "next" not in page:
            break
        after = page["next"]
    assert names == ["room:a", "room:b", "room:c", "session:x", "session:y"]


async def test_topic_tells_its_counters_and_position(api: Api) -> None:
    """Subscribers, members where the kind has them, deliveries, and where it stands."""
    async with api.user("7") as peer:
        joined = await peer.command("subscribe", topic="room:a")
        await api.server.publish("room:a", 1)
        await peer.receive_type("message")
        assert await api("GET", "/api/v1/topics/room:a") == {
            "topic": "room:a",
            "subscribers": 1,
            "members": 1,
            "delivered": 1,
            "dropped": {},
            "conflated": 0,
            "filtered": 0,
            "epoch": joined["epoch"],
            "offset": 1,
        }
        await api.server.publish("symbol:600519", 1)
        assert "members" not in await api("GET", "/api/v1/topics/symbol:600519")


@pytest.mark.parametrize("rest", ["", "/history"])
async def test_topic_that_nobody_used_is_not_found_and_not_made(api: Api, rest: str) -> None:
    """Looking at a topic does not bring it into being."""
    assert code_of(await api("GET", f"/api/v1/topics/room:a{rest}", status=404)) == "ROOM_NOT_FOUND"
    assert (await api("GET", "/api/v1/topics"))["topics"] == []


async def test_topic_is_created_once_and_removed_once(api: Api) -> None:
    """201 and 200; 204 and 404. Its subscribers are told."""
    created = await api("POST", "/api/v1/topics", {"topic": "session:x"}, status=201)
    assert created == {"topic": "session:x", "created": True}
    assert not (await api("POST", "/api/v1/topics", {"topic": "session:x"}))["created"]
    assert (await api("GET", "/api/v1/topics/session:x"))["offset"] == 0
    async with api.user("7") as peer:
        assert (await peer.command("subscribe", topic="session:x"))["type"] == "subscribed"
        assert await api("DELETE", "/api/v1/topics/session:x", status=204) is None
        assert (await peer.receive_type("unsubscribed"))["code"] == "SESSION_NOT_FOUND"
    assert code_of(await api("DELETE", "/api/v1/topics/session:x", status=404)) == "SESSION_NOT_FOUND"
    assert code_of(await api("POST", "/api/v1/topics", {"topic": "room:x"}, status=400)) == "BAD_REQUEST"


async def test_topic_of_a_session_goes_only_with_the_session(api: Api) -> None:
    """Removed alone it would leave a session that nobody can end."""
    await api("POST", "/api/v1/sessions", {"session_id": "s"}, status=201)
    assert code_of(await api("DELETE", "/api/v1/topics/session:s", status=400)) == "BAD_REQUEST"
    await api("POST", "/api/v1/sessions/s/complete")


async def test_members_are_listed_by_page(api: Api) -> None:
    """In the order in which they came; a kind without presence has no list."""
    async with api.user("1") as one, api.user("2") as two, api.user("3") as three:
        for peer in (one, two, three):
            await peer.command("subscribe", topic="room:a")
        page = await api("GET", "/api/v1/topics/room:a/members", params={"limit": 2})
        assert ([member["user"] for member in page["members"]], page["count"]) == (["1", "2"], 3)
        page = await api("GET", "/api/v1/topics/room:a/members", params={"after": page["next"], "limit": 2})
        assert ([member["user"] for member in page["members"]], page["next"]) == (["3"], None)
    error = await api("GET", "/api/v1/topics/symbol:600519/members", status=400)
    assert code_of(error) == "BAD_REQUEST"


async def test_history_is_read_by_page(api: Api) -> None:
    """Each page begins behind the one before, up to where the topic stands."""
    for number in range(1, 6):
        await api.server.publish("room:a", number, event="e", key=f"k{number}")
    seen: list[int] = []
    position: dict[str, Any] = {}
    while True:
        page = await api("GET", "/api/v1/topics/room:a/history", params={**position, "limit": 2})
        seen += [message["data"] for message in page["messages"]]
        assert page["offset"] == 5
        if "next" not in page:
            break
        position = {"epoch": page["epoch"], "offset": page["next"]}
    assert seen == [1, 2, 3, 4, 5]
    assert (page["messages"][0]["event"], page["messages"][0]["key"]) == ("e", "k5")
    params = {"epoch": "other", "offset": 1}
    page = await api("GET", "/api/v1/topics/room:a/history", params=params)
    assert (page["messages"], page["why"], "next" in page) == ([], "epoch_changed", False)
    params = {"epoch": page["epoch"], "offset": 5}
    page = await api("GET", "/api/v1/topics/room:a/history", params=params)
    assert (page["messages"], "next" in page) == ([], False)


@pytest.mark.parametrize("params", [{"epoch": "e"}, {"offset": 1}], ids=["no_offset", "no_epoch"])
async def test_half_a_position_is_refused(api: Api, params: dict[str, Any]) -> None:
    """An offset says nothing without its epoch."""
    await api.server.publish("room:a", 1)
    error = await api("GET", "/api/v1/topics/room:a/history", params=params, status=400)
    assert "epoch" in error["message"]


# -- peers ---------------------------------------------------------------------------------------------------


async def test_connections_are_listed_by_page_and_described(api: Api) -> None:
    """Everything that is known: the queue, each subscription with its view, the last activity."""
    async with api.user("1") as one, api.user("2"), api.user("3"):
        ids, after = [], ""
        while True:
            page = await api("GET", "/api/v1/connections", params={"after": after, "limit": 2})
            ids += [connection["id"] for connection in page["connections"]]
            if "next" not in page:
                break
            after = page["next"]
        assert ids == sorted(connection.id for connection in api.server.connections)
        await one.command("subscribe", topic="room:a", fields=["x"], filter={">": ["x", 1]}, max_rate=5)
        await one.command("subscribe", topic="room:b")
        await api.server.publish("room:b", 1)
        await one.receive_type("message")
        found = await api("GET", f"/api/v1/connections/{one.welcome['connection']}")
        assert (found["connection"]["user"], found["connection"]["commands"]) == ("1", 2)
        assert found["connection"]["idle_seconds"] >= 0
        viewed, plain = found["subscriptions"]
        assert (viewed["fields"], viewed["filter"], viewed["max_rate"]) == (["x"], {">": [["x"], 1.0]}, 5)
        assert (plain["topic"], plain["delivered"], plain["queued"]) == ("room:b", 1, 0)
        assert "filter" not in plain
    assert code_of(await api("GET", "/api/v1/connections/c_none", status=404)) == "CONNECTION_NOT_FOUND"


async def test_user_is_subscribed_and_unsubscribed_on_all_connections(api: Api) -> None:
    """Also where it may not join by itself; the connections are told."""

    async def told(peer: WebSocketPeer, kind: str) -> None:
        assert (await peer.receive_type(kind))["topic"] == "role:x"

    async with api.user("7") as one, api.user("7") as two, api.user("8"):
        body = {"topic": "role:x"}
        assert await api("POST", "/api/v1/users/7/subscribe", body) == {"connections": 2}
        for peer in (one, two):
            await told(peer, "subscribed")
        assert await api("POST", "/api/v1/users/7/subscribe", body) == {"connections": 2}
        assert await api("POST", "/api/v1/users/7/unsubscribe", body) == {"connections": 2}
        for peer in (one, two):
            await told(peer, "unsubscribed")
        assert await api("POST", "/api/v1/users/7/unsubscribe", body) == {"connections": 0}
    error = await api("POST", "/api/v1/users/nobody/subscribe", {"topic": "session:x"}, status=404)
    assert code_of(error) == "SESSION_NOT_FOUND"


async def test_connection_that_ends_does_not_keep_the_others_from_a_topic(api: Api) -> None:
    """It is not counted, and nobody is told an error."""
    async with api.user("7"), api.user("7"):
        first, _ = api.server.connections.of_user("7")
        first.close(GONE)
        assert await api.server.place_user("7", "room:a") == 1


@pytest.mark.parametrize("user", ["7", "a/b", "/", "ü \n?", "x/disconnect"])
async def test_user_is_disconnected_whatever_its_name_is(user: str) -> None:
    """All connections close with 4003; a name may hold slashes and line feeds."""

    async def login(token: str) -> Identity:
        return Identity(user=user if token == "them" else token)

    async with serving(authenticate=login) as api, api.user("them") as one, api.user("them") as two, api.user("8"):
        path = f"/api/v1/users/{httpx.QueryParams({'': user})}/disconnect".replace("/=", "/").replace("+", "%20")
        assert await api("POST", path) == {"disconnected": 2}
        for peer in (one, two):
            _, closed = await peer.receive_to_close()
            assert closed.code == 4003
        await eventually(lambda: len(api.server.connections) == 1)
        assert await api("POST", path) == {"disconnected": 0}


# -- sessions ------------------------------------------------------------------------------------------------


async def test_session_runs_from_start_to_end(api: Api) -> None:
    """Started, followed, reported to, polled, listed, completed: what is pushed and what is polled agree."""
    state = await api("POST", "/api/v1/sessions", {"session_id": "s", "total_nodes": 2, "info": {"a": 1}}, status=201)
    assert (state["status"], state["info"]) == ("pending", {"a": 1})
    async with api.user("7") as peer:
        await peer.command("subscribe", topic="session:s")
        event = {"type": "task_completed", "data": {"node_id": "n1", "file_size": 3}}
        assert (await api("POST", "/api/v1/sessions/s/events", event))["offset"] == 1
        assert (await peer.receive_type("message"))["event"] == "task_completed"
        assert (await peer.receive_type("message"))["data"]["progress_percent"] == 50.0
        state = await api("GET", "/api/v1/sessions/s")
        assert (state["status"], state["progress_percent"], state["results"][0]["data"]["node_id"]) == (
            "running",
            50.0,
            "n1",
        )
        assert (await api("POST", "/api/v1/sessions/s/complete"))["status"] == "completed"
        assert (await peer.receive_type("message"))["event"] == "session_completed"
    assert (await api("POST", "/api/v1/sessions/s/cancel"))["status"] == "completed", "the first end counts"
    assert code_of(await api("POST", "/api/v1/sessions/s/events", event, status=400)) == "BAD_REQUEST"


async def test_session_fails_with_its_error_or_without(api: Api) -> None:
    """The body is optional; what it says is told before the end."""
    one = (await api("POST", "/api/v1/sessions", status=201))["session_id"]
    assert (await api("POST", f"/api/v1/sessions/{one}/fail"))["status"] == "failed"
    two = (await api("POST", "/api/v1/sessions", {}, status=201))["session_id"]
    error = {"error_type": "oom", "message": "no memory"}
    assert (await api("POST", f"/api/v1/sessions/{two}/fail", {"error": error}))["status"] == "failed"
    (report,) = (await api("GET", f"/api/v1/sessions/{two}"))["events"][:1]
    assert (report["type"], report["data"]["error_type"]) == ("error", "oom")


async def test_sessions_are_listed_by_page(api: Api) -> None:
    """In the order in which they were started."""
    for name in "cab":
        await api("POST", "/api/v1/sessions", {"session_id": name}, status=201)
    page = await api("GET", "/api/v1/sessions", params={"limit": 2})
    assert [session["session_id"] for session in page["sessions"]] == ["c", "a"]
    page = await api("GET", "/api/v1/sessions", params={"after": page["next"]})
    assert ([session["session_id"] for session in page["sessions"]], page["next"]) == (["b"], None)


@pytest.mark.parametrize(
    "event",
    [
        {"type": "what", "data": {}},
        {"type": "session_completed", "data": {}},
        {"type": "task_completed", "data": {}},
        {"type": "progress_update", "data": {"progress_percent": 101, "completed_nodes": 1, "total_nodes": 1}},
        {"data": {}},
        [],
    ],
    ids=str,
)
async def test_event_that_is_none_is_refused(api: Api, event: Any) -> None:
    """With the member that is wrong; nothing has happened."""
    await api("POST", "/api/v1/sessions", {"session_id": "s"}, status=201)
    assert code_of(await api("POST", "/api/v1/sessions/s/events", event, status=400)) == "BAD_REQUEST"
    assert (await api("GET", "/api/v1/sessions/s"))["status"] == "pending"


# -- health --------------------------------------------------------------------------------------------------


async def test_readiness_ends_with_the_shutdown(api: Api) -> None:
    """A balancer sends no more; the process lives on."""
    assert await api("GET", "/readyz") == {"status": "ready"}
    api.server.draining = True
    assert await api("GET", "/readyz", status=503) == {"status": "draining"}
    assert await api("GET", "/healthz") == {"status": "ok"}


# -- whatever the endpoint -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/api/v1/stats", "/api/v1/topics", "/metrics", "/api/v1/connections"])
async def test_reading_is_open_in_development_only(path: str) -> None:
    """What does something needs the key there too."""
    async with running(api_keys=["key"]) as server, httpx.AsyncClient(base_url=server.url) as client:
        assert (await client.get(path)).status_code == 200
        assert (await client.post("/api/v1/users/7/disconnect")).status_code == 401
    async with running(api_keys=["key"], dev=False) as server, httpx.AsyncClient(base_url=server.url) as client:
        for headers, code in (
            ({}, "AUTH_REQUIRED"),
            ({"Authorization": "Basic key"}, "AUTH_REQUIRED"),
            ({"X-API-Key": "no"}, "AUTH_FAILED"),
            ({"Authorization": "Bearer no"}, "AUTH_FAILED"),
        ):
            response = await client.get(path, headers=headers)
            assert (response.status_code, code_of(response.json())) == (401, code)
            assert response.headers["WWW-Authenticate"] == "Bearer"
        for headers in (KEY, {"Authorization": "Bearer key"}):
            assert (await client.get(path, headers=headers)).status_code == 200


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=x", "limit"),
        ("limit=1e400", "limit"),
        ("limit=", "limit"),
        ("limit=1&limit=2", "twice"),
        ("after=" + "x" * 1025, "after"),
    ],
)
async def test_wrong_parameter_is_named(api: Api, query: str, named: str) -> None:
    """Also one that is there twice; one that nobody knows is ignored."""
    error = await api("GET", f"/api/v1/topics?{query}", status=400)
    assert code_of(error) == "BAD_REQUEST"
    assert named in error["message"]
    await api("GET", "/api/v1/topics?unknown=1")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"null", b"[]", b"\xff", b'{"topic":"room:a","data":"\xff"}', b"[" * 100_000, b'{"topic":5}'],
    ids=["empty", "cut", "null", "list", "no_utf8", "no_utf8_in_data", "deep", "wrong_type"],
)
async def test_wrong_body_is_refused_as_json(api: Api, body: bytes) -> None:
    """Whatever its type is said to be; the connection is used again."""
    async with connect(api.port) as raw:
        for _ in range(2):
            headers = {**KEY, "Content-Type": "text/plain"}
            response = await raw.request("POST", "/api/v1/topics", headers=headers, body=body)
            assert (response.status, code_of(response.json())) == (400, "BAD_REQUEST")


async def test_deep_data_is_carried_or_refused_but_breaks_nothing(api: Api) -> None:
    """A nesting that no decoder looks into is a payload like any other, or a bad request."""
    data = b"[" * 30_000 + b"]" * 30_000
    response = await api.client.post("/api/v1/batch", content=b'[{"topic":"room:a","data":' + data + b"}]")
    assert response.status_code in (200, 400)
    assert await api("GET", "/healthz") == {"status": "ok"}


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_too_large_body_is_refused_and_the_connection_ends(api: Api, chunked: bool) -> None:
    """Nobody knows where the next request would start."""
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % (MAX_BODY_BYTES + 1)
    head = b"POST /api/v1/batch HTTP/1.1\r\nHost: x\r\nX-API-Key: key\r\n" + framing + b"\r\n\r\n"
    async with connect(api.port) as raw, trio.open_nursery() as nursery:

        async def send() -> None:
            try:
                await raw.send(head)
                for _ in range(MAX_BODY_BYTES // 65536 + 2):
                    await raw.send(b"10000\r\n" + b" " * 65536 + b"\r\n" if chunked else b" " * 65536)
            except trio.BrokenResourceError:
                pass

        nursery.start_soon(send)
        response = await raw.read_response()
        assert (response.status, code_of(response.json())) == (413, "PAYLOAD_TOO_LARGE")
        assert response.header("connection") == "close"
        nursery.cancel_scope.cancel()


async def test_refused_request_with_a_body_ends_its_connection(api: Api) -> None:
    """Who has no key gets an answer without its body having been read."""
    async with connect(api.port) as raw:
        response = await raw.request("POST", "/api/v1/batch", body=b"[]")
        assert (response.status, response.header("connection")) == (401, "close")


async def test_slow_body_is_not_waited_for() -> None:
    """The same time as for every other part of a request."""
    async with serving(request_timeout_seconds=0.2) as api, connect(api.port) as raw:
        await raw.send(request_bytes("POST", "/api/v1/batch", headers={**KEY, "Content-Length": "10"}))
        response = await raw.read_response()
        assert (response.status, code_of(response.json())) == (400, "BAD_REQUEST")


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/nothing", 404, None),
        ("GET", "/api/v1", 404, None),
        ("GET", "/api/v1/topics/", 404, None),
        ("GET", "/api/v1//topics", 404, None),
        ("GET", "/api/v1/topics/a%2Fb", 404, None),
        ("POST", "/api/v1/users//send", 404, None),
        ("GET", "/api/v1/publish", 405, "OPTIONS, POST"),
        ("DELETE", "/api/v1/topics/room:a/members", 405, "GET, HEAD, OPTIONS"),
        ("PATCH", "/api/v1/topics/room:a", 405, "DELETE, GET, HEAD, OPTIONS"),
        ("POST", "/healthz", 405, "GET, HEAD, OPTIONS"),
        ("HEAD", "/poll", 405, "GET"),
    ],
)
async def test_unknown_path_or_method_is_an_error_like_others(
    api: Api, method: str, path: str, status: int, allow: str | None
) -> None:
    """JSON with a code; what is allowed stands in the header."""
    response = await api.client.request(method, path)
    assert response.status_code == status
    assert response.headers.get("Allow") == allow
    if method != "HEAD":
        assert code_of(response.json()) == "BAD_REQUEST"


async def test_head_and_options_are_answered(api: Api) -> None:
    """What GET would say, without its body; and which methods there are."""
    response = await api.client.head("/api/v1/topics")
    assert (response.status_code, response.content) == (200, b"")
    response = await api.client.options("/api/v1/topics")
    assert set(response.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS", "POST"}


async def test_answers_are_not_stored(api: Api) -> None:
    """Neither what is nor what went wrong."""
    for path in ("/api/v1/topics", "/api/v1/topics/room:none"):
        assert (await api.client.get(path)).headers["Cache-Control"] == "no-store"


async def test_bug_is_told_by_its_trace_id_only(
    api: Api, log_entries: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text of the exception is for the log."""
    monkeypatch.setattr(api.server.progress, "page", lambda *_arguments: 1 / 0)
    error = await api("GET", "/api/v1/sessions", status=500)
    (entry,) = log_entries
    log_entries.clear()
    assert (code_of(error), error["trace_id"]) == ("INTERNAL_ERROR", entry["trace_id"])
    assert "division" not in json.dumps(error)


async def test_error_that_names_a_time_sends_it_in_the_header() -> None:
    """For clients that know HTTP and not us."""
    async with serving(max_sessions=1) as api:
        await api("POST", "/api/v1/sessions", status=201)
        response = await api.client.post("/api/v1/sessions")
        assert (response.status_code, code_of(response.json())) == (429, "LIMIT_EXCEEDED")
        assert int(response.headers["Retry-After"]) == round(response.json()["retry_after"])


# -- in an application of one's own --------------------------------------------------------------------------


async def test_blueprint_serves_below_its_prefix() -> None:
    """The same API in somebody's application; its document names the prefix and nothing of the front door."""
    async with open_engine(Settings(api_keys=("key",))) as engine:
        app = QuartTrio("theirs")
        app.register_blueprint(make_api(engine, url_prefix="/live"))
        client = app.test_client()
        response = await client.post("/live/api/v1/users/a%2Fb/disconnect", headers=KEY)
        assert await response.get_json() == {"disconnected": 0}
        document = await (await client.get("/live/openapi.json")).get_json()
        assert document["servers"] == [{"url": "/live"}]
        assert "/api/v1/topics" in document["paths"]
        assert "/poll" not in document["paths"]
        response = await client.post("/live/api/v1/batch", data=b" " * (MAX_BODY_BYTES + 1), headers=KEY)
        assert (response.status_code, code_of(await response.get_json())) == (413, "PAYLOAD_TOO_LARGE")


async def test_paths_of_the_api_stay_ours_beside_another_application() -> None:
    """All others are theirs."""
    theirs = QuartTrio("theirs")

    @theirs.get("/<path:path>")
    async def answer(path: str) -> str:
        return f"theirs: {path}"

    async with running(app=theirs) as server, httpx.AsyncClient(base_url=server.url) as client:
        for path in ("/healthz", "/readyz", "/metrics", "/openapi.json", "/asyncapi.json", "/api/v1/topics"):
            response = await client.get(path)
            assert response.status_code == 200
            assert not response.text.startswith("theirs")
        assert (await client.get("/other")).text == "theirs: other"


async def test_session_outlives_a_topic_that_a_program_has_removed(autojump_clock: trio.testing.MockClock) -> None:
    """What is forgotten in the end has been taken away before; the server goes on."""
    async with open_engine(Settings(session_keep_seconds=60)) as engine:
        engine.progress.create("s")
        await engine.progress.complete("s")
        engine.drop_topic("session:s")
        await trio.sleep(200)
        assert engine.statistics().progress.kept == 0


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/healthz"),
        ("GET", "/api/v1/stats"),
        ("GET", "/nowhere"),
        ("GET", "/api/v1/topics/room:nobody"),
        ("DELETE", "/healthz"),
        ("GET", "/poll?topic=room:a&timeout=0"),
        ("GET", "/poll?topic=bad"),
        ("GET", "/sse?topic=bad"),
        ("POST", "/sse/nobody"),
        ("POST", "/api/v1/publish"),
        ("POST", "/api/v1/publish/batch"),
        ("OPTIONS", "/poll"),
    ],
)
async def test_json_of_an_answer_ends_with_a_newline(method: str, target: str) -> None:
    """So that no prompt sticks to it in a terminal, whoever has answered: one line, and its whole length told."""
    async with running(dev=True) as server, connect(server.address[1]) as raw:
        body = b'{"topic":"room:a","data":1}' if method == "POST" else b""
        response = await raw.request(method, target, body=body)
        assert response.header("content-type") == "application/json"
        assert response.body.endswith(b"}\n")
        assert response.body.count(b"\n") == 1
