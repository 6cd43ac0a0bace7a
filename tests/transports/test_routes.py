"""Paths of one's own, with the words of a front end that was there before: progress of a session, over sockets."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from realtime.envelopes import Envelope, Naming, ProgressDialect, Timestamps
from realtime.progress_state import ProgressUpdate, TaskCompleted
from realtime.routes import Route
from realtime.server import Server
from tests.peers import (
    CLOSE,
    PING,
    PONG,
    TEXT,
    EventPeer,
    Frame,
    WebSocketPeer,
    connect,
    eventually,
    leaving_nothing_behind,
    upgraded,
)
from tests.transports.conftest import running

ISO = re.compile(rb'"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"')


@asynccontextmanager
async def serving(*, route_options: dict[str, Any] | None = None, **options: Any) -> AsyncIterator[Server]:
    """A server with a front end's WebSocket, event stream and polling paths to a session, and its sister's."""
    async with running(kinds={"session": {"join": "anyone"}}, **options) as server:

        def state(topic: str) -> Any:
            return server.progress.state(topic.partition(":")[2])

        more = route_options or {}
        old = ProgressDialect(Envelope(Naming.ALIASES, Timestamps.EPOCH))
        topic = "session:{session_id}"
        for route in (
            Route(
                path="/ws/parallel/{session_id}", topic=topic, transport="websocket", dialect=ProgressDialect(), **more
            ),
            Route(path="/ws/old/{session_id}", topic=topic, transport="websocket", dialect=old, **more),
            Route(path="/ws/plain/{session_id}", topic=topic, transport="websocket", **more),
            Route(path="/events/{session_id}", topic=topic, transport="sse", dialect=ProgressDialect(), **more),
            Route(path="/state/{session_id}", topic=topic, transport="state", state=state),
        ):
            server.routes.add(route)
        yield server


async def next_text(peer: WebSocketPeer) -> bytes:
    """The bytes of the next text frame."""
    while (found := await peer.next_frame()).opcode == PING:
        await peer.send_frame(PONG, found.payload)
    assert found.opcode == TEXT, found
    return found.payload


@asynccontextmanager
async def following(port: int, path: str) -> AsyncIterator[EventPeer]:
    """An event stream on a path of one's own, of which nothing has been read yet."""
    async with connect(port) as raw:
        peer = EventPeer(raw)
        await peer.open(path)
        assert peer.status == 200
        yield peer


def without_time(text: bytes) -> bytes:
    return ISO.sub(b"NOW", text)


async def test_messages_have_the_shape_of_the_front_end() -> None:
    """Byte for byte: four members in their order, the session's id as the task's."""
    async with serving() as server:
        server.progress.create("s1", total_nodes=2)
        async with upgraded(server.address[1], "/ws/parallel/s1") as peer:
            connected = without_time(await next_text(peer))
            (connection,) = server.connections
            assert connected == (
                b'{"type":"connected","task_id":"s1","timestamp":NOW,"data":{"connection":"%b"}}'
                % connection.id.encode()
            )
            await server.progress.notify_progress("s1", TaskCompleted(node_id="n1", file_path="/a.txt", file_size=7))
            assert without_time(await next_text(peer)) == (
                b'{"type":"task_completed","task_id":"s1","timestamp":NOW,'
                b'"data":{"node_id":"n1","file_path":"/a.txt","file_size":7,"group_id":null}}'
            )
            assert without_time(await next_text(peer)) == (
                b'{"type":"progress_update","task_id":"s1","timestamp":NOW,'
                b'"data":{"progress_percent":50.0,"completed_nodes":1,"total_nodes":2}}'
            )


async def test_sister_front_end_has_its_own_names_and_times() -> None:
    """The same session at once, in other words."""
    async with serving() as server:
        server.progress.create("s1")
        async with upgraded(server.address[1], "/ws/old/s1") as peer:
            assert json.loads(await next_text(peer))["type"] == "connected"
            await server.progress.notify_progress(
                "s1", ProgressUpdate(progress_percent=10, completed_nodes=1, total_nodes=10)
            )
            text = await next_text(peer)
            assert re.sub(rb'"timestamp":\d{13},', b"", text) == (
                b'{"type":"progress","task_id":"s1",'
                b'"data":{"progress_percent":10.0,"completed_nodes":1,"total_nodes":10}}'
            )


async def test_final_event_comes_before_the_regular_close() -> None:
    """Everybody who follows hears the end, then 1000; the event stream ends, the state stays to be asked for."""
    async with serving() as server:
        port = server.address[1]
        server.progress.create("s1")
        async with (
            upgraded(port, "/ws/parallel/s1") as one,
            upgraded(port, "/ws/parallel/s1") as two,
            following(port, "/events/s1") as stream,
            connect(port) as raw,
        ):
            await eventually(lambda: len(server.connections) == 3)
            await server.progress.complete("s1")
            for peer in (one, two):
                assert json.loads(await next_text(peer))["type"] == "connected"
                final = json.loads(await next_text(peer))
                assert (final["type"], final["data"]["status"]) == ("session_completed", "completed")
                closing = await peer.next_frame()
                assert (closing.opcode, closing.payload[:2]) == (CLOSE, b"\x03\xe8")
            assert (await stream.receive()).data["type"] == "connected"
            final_event = await stream.receive()
            assert (final_event.type, final_event.data["type"]) == ("message", "session_completed")
            assert not await stream.raw.more()
            response = await raw.request("GET", "/state/s1")
            assert (response.status, response.json()["status"]) == (200, "completed")


async def test_shutdown_tells_the_final_event_first() -> None:
    """A session that still runs is cancelled, and its followers hear so before the connection closes."""
    async with trio.open_nursery() as nursery:
        heard: list[str] = []
        async with serving() as server:
            server.progress.create("s1")

            async def follow(port: int) -> None:
                async with upgraded(port, "/ws/parallel/s1") as peer:
                    heard.append(json.loads(await next_text(peer))["type"])
                    final = json.loads(await next_text(peer))
                    heard.append(final["data"]["status"])
                    assert (await peer.next_frame()).opcode == CLOSE

            nursery.start_soon(follow, server.address[1])
            await eventually(lambda: heard == ["connected"])
    assert heard == ["connected", "cancelled"]


async def test_follower_who_comes_after_the_end_is_told_how_it_ended() -> None:
    """A page that is loaded too late is not left waiting: the final event, then the regular close."""
    async with serving() as server:
        server.progress.create("s1")
        await server.progress.complete("s1")
        with trio.fail_after(5):
            async with upgraded(server.address[1], "/ws/parallel/s1") as peer:
                kinds = [json.loads(await next_text(peer))["type"] for _ in range(2)]
                assert kinds == ["connected", "session_completed"]
                closing = await peer.next_frame()
                assert (closing.opcode, closing.payload[:2]) == (CLOSE, b"\x03\xe8")


async def test_unknown_session_is_told_as_each_transport_can() -> None:
    """An error in the front end's words and 4004 on the open WebSocket; 404 everywhere else."""
    async with serving() as server, connect(server.address[1]) as raw:
        port = server.address[1]
        async with upgraded(port, "/ws/parallel/none") as peer:
            error = json.loads(await next_text(peer))
            assert (error["type"], error["task_id"], error["data"]["error_type"]) == (
                "error",
                "none",
                "SESSION_NOT_FOUND",
            )
            while (found := await peer.next_frame()).opcode == TEXT:
                assert json.loads(found.payload)["type"] == "error"
            assert found == Frame(CLOSE, b"\x0f\xa4no such session")
        state = await raw.request("GET", "/state/none")
        assert (state.status, state.json()["code"]) == (404, "SESSION_NOT_FOUND")
        events = await raw.request("GET", "/events/none")
        assert (events.status, events.json()["code"]) == (404, "SESSION_NOT_FOUND")
        assert server.statistics().hub.subscriptions == 0


@pytest.mark.parametrize("path", ["/ws/parallel/", "/ws/parallel", "/ws/parallel/a/b", "/ws/other/a"])
async def test_path_that_is_no_route_is_404(path: str) -> None:
    """A member of the path is one part of it, and not empty."""
    async with serving() as server, connect(server.address[1]) as raw:
        response = await raw.request("GET", path, headers={"Upgrade": "websocket", "Connection": "upgrade"})
        assert response.status in (400, 404)


@pytest.mark.parametrize("name", ["a%20b", "%2e%2e%2f", "a%00b", "%F0%9F%98%80", "x" * 300])
async def test_member_that_is_no_name_is_refused(name: str) -> None:
    """What a path brings is checked like any topic."""
    async with serving() as server:
        async with connect(server.address[1]) as raw:
            assert (await raw.request("GET", f"/state/{name}")).status in (400, 404)
        assert server.statistics().hub.topics == 0


async def test_front_ends_words_are_heard_and_nothing_else() -> None:
    """Plain and JSON pings are answered in kind; commands of ours, garbage and noise have no effect."""
    async with serving() as server:
        server.progress.create("s1")
        async with upgraded(server.address[1], "/ws/parallel/s1") as peer:
            await next_text(peer)
            for said in (
                b'{"type":"publish","id":1,"topic":"session:s1","data":1}',
                b'{"type":"subscribe","id":1,"topic":"room:a"}',
                b"not json",
                b"[" * 10_000,
                b"",
            ):
                await peer.send_frame(TEXT, said)
            await peer.send_frame(TEXT, b"ping")
            assert await next_text(peer) == b"pong"
            await peer.send_frame(TEXT, b'{"type":"ping","id":5}')
            assert await next_text(peer) == b'{"type":"pong"}'
        assert server.statistics().hub.published == 0


async def test_route_without_a_dialect_speaks_the_protocol_on_one_topic() -> None:
    """The topic is there from the welcome on; every other one is refused."""
    async with serving() as server:
        server.progress.create("s1")
        async with upgraded(server.address[1], "/ws/plain/s1") as peer:
            welcome = await peer.receive()
            assert [topic["topic"] for topic in welcome["topics"]] == ["session:s1"]
            assert (await peer.command("subscribe", topic="room:a"))["code"] == "PERMISSION_DENIED"
            assert (await peer.command("publish", topic="room:a", data=1))["code"] == "PERMISSION_DENIED"
            assert (await peer.command("history", topic="session:s1"))["type"] == "history"
            await server.progress.notify_progress("s1", TaskCompleted(node_id="n"))
            assert (await peer.receive_type("message"))["event"] == "task_completed"
            await server.progress.complete("s1")
            pushes, closed = await peer.receive_to_close()
            assert [push.get("event", push["type"]) for push in pushes][-2:] == ["session_completed", "disconnect"]
            assert closed.code == 1000


async def test_server_pings_in_the_front_ends_words() -> None:
    """A frame for machines, a message for scripts."""
    async with serving(route_options={"ping_interval_seconds": 0.05}) as server:
        server.progress.create("s1")
        async with upgraded(server.address[1], "/ws/parallel/s1") as peer:
            await next_text(peer)
            found = await peer.next_frame()
            assert found.opcode == PING
            await peer.send_frame(PONG, found.payload)
            assert without_time(await next_text(peer)) == (b'{"type":"ping","task_id":"s1","timestamp":NOW,"data":{}}')


async def test_idle_follower_is_closed_and_a_busy_session_keeps_it() -> None:
    """Messages count as activity where the peer only listens; when they end, so does the connection."""
    async with serving(route_options={"idle_timeout_seconds": 0.3}) as server:
        server.progress.create("s1")
        async with upgraded(server.address[1], "/ws/parallel/s1") as peer:
            await next_text(peer)
            began = trio.current_time()
            while trio.current_time() - began < 0.6:
                await server.progress.notify_progress("s1", TaskCompleted(node_id="n"))
                assert json.loads(await next_text(peer))["type"] == "task_completed"
            error = json.loads(await next_text(peer))
            assert (error["type"], error["data"]["error_type"]) == ("error", "disconnect")
            assert (await peer.next_frame()).payload[:2] == b"\x0f\xa8"  # 4008


async def test_event_stream_resumes_with_its_last_id() -> None:
    """In the front end's words too, no event is lost or told twice."""
    async with serving() as server:
        port = server.address[1]
        server.progress.create("s1")

        async def report(number: int) -> None:
            await server.progress.notify_progress("s1", TaskCompleted(node_id=f"n{number}"))

        async with following(port, "/events/s1") as stream:
            assert (await stream.receive()).data["type"] == "connected"
            await report(0)
            assert (await stream.receive()).data["data"]["node_id"] == "n0"
            cursor = stream.last_id
        assert cursor is not None
        await report(1)
        async with connect(port) as raw:
            again = EventPeer(raw)
            await again.open("/events/s1", headers={"Last-Event-ID": cursor})
            assert (await again.receive()).data["type"] == "connected"
            await report(2)
            assert [(await again.receive()).data["data"]["node_id"] for _ in range(2)] == ["n1", "n2"]


async def test_event_stream_that_comes_back_after_the_end_is_told_to_stay_away() -> None:
    """204 to one who has had everything; one who missed the end is told it first."""
    async with serving() as server:
        port = server.address[1]
        server.progress.create("s1")
        cursors = []
        async with following(port, "/events/s1") as stream:
            await stream.receive()
            cursors.append(stream.last_id)
            await server.progress.complete("s1")
            assert (await stream.receive()).data["type"] == "session_completed"
            cursors.append(stream.last_id)
        async with connect(port) as raw:
            again = EventPeer(raw)
            await again.open("/events/s1", headers={"Last-Event-ID": cursors[0]})
            await again.receive()
            assert (await again.receive()).data["type"] == "session_completed"
        async with connect(port) as raw:
            assert (await raw.request("GET", "/events/s1", headers={"Last-Event-ID": cursors[1]})).status == 204


async def test_stream_of_a_route_takes_no_commands() -> None:
    """It has no secret that anybody could know."""
    async with serving() as server:
        server.progress.create("s1")
        async with following(server.address[1], "/events/s1"), connect(server.address[1]) as raw:
            await eventually(lambda: len(server.connections) == 1)
            (connection,) = server.connections
            for secret in ("", "None", "null"):
                response = await raw.request(
                    "POST",
                    f"/sse/{connection.id}",
                    headers={"X-Connection-Secret": secret},
                    body=b'{"type":"ping","id":1}',
                )
                assert response.status == 404


async def test_followers_of_one_route_share_what_is_encoded() -> None:
    """Fifty pages on one session are one group; two dialects are two."""
    async with leaving_nothing_behind(), serving() as server, trio.open_nursery() as nursery:
        port = server.address[1]
        server.progress.create("s1")
        heard: list[bytes] = []

        async def follow(path: str) -> None:
            async with upgraded(port, path) as peer:
                await next_text(peer)
                heard.append(await next_text(peer))
                await next_text(peer)

        for _ in range(50):
            nursery.start_soon(follow, "/ws/parallel/s1")
        nursery.start_soon(follow, "/ws/old/s1")
        await eventually(lambda: len(server.hub.subscriptions("session:s1")) == 51)
        assert len({subscription.group for subscription in server.hub.subscriptions("session:s1")}) == 2
        await server.progress.notify_progress("s1", TaskCompleted(node_id="n"))
        await eventually(lambda: len(heard) == 51)
        assert len(set(heard)) == 2
        await server.progress.complete("s1")


async def test_page_of_another_origin_may_ask_for_state_and_events() -> None:
    """Where it is allowed to: the browser asks first."""
    async with serving(origins=["https://app.example"]) as server, connect(server.address[1]) as raw:
        server.progress.create("s1")
        for path in ("/state/s1", "/events/s1"):
            response = await raw.request("OPTIONS", path, headers={"Origin": "https://app.example"})
            assert response.header("access-control-allow-origin") == "https://app.example"
            assert "Authorization" in (response.header("access-control-allow-headers") or "")
        state = await raw.request("GET", "/state/s1", headers={"Origin": "https://app.example"})
        assert state.header("access-control-allow-origin") == "https://app.example"


async def test_bug_in_a_state_is_500_and_shows_nothing_of_itself(log_entries: list[dict[str, Any]]) -> None:
    """The trace id leads to the log; the connection serves the next request."""
    async with running() as server, connect(server.address[1]) as raw:

        def fail(_topic: str) -> None:
            raise ZeroDivisionError("internal name")

        server.routes.add(Route(path="/state/{name}", topic="room:{name}", transport="state", state=fail))
        response = await raw.request("GET", "/state/a")
        assert (response.status, response.json()["code"]) == (500, "INTERNAL_ERROR")
        assert b"internal name" not in response.body
        (entry,) = [entry for entry in log_entries if entry["event"] == "request failed"]
        assert entry["trace_id"] == response.json()["trace_id"]
        assert (await raw.request("GET", "/healthz")).status == 200
    log_entries.clear()


async def test_route_asks_for_a_login_where_its_topics_do() -> None:
    """Without one, the WebSocket is refused in its handshake or on the open socket, the others by status."""
    async with running(dev=False) as server, connect(server.address[1]) as raw:
        server.routes.add(Route(path="/ws/s/{name}", topic="session:{name}", transport="websocket"))
        server.routes.add(Route(path="/ev/s/{name}", topic="session:{name}", transport="sse"))
        server.routes.add(Route(path="/st/s/{name}", topic="session:{name}", transport="state", state=lambda _: {}))
        assert (await raw.request("GET", "/st/s/a")).status == 401
        assert (await raw.request("GET", "/ev/s/a")).status == 401
    async with serving_closed() as server, connect(server.address[1]) as raw:
        assert (await raw.request("GET", "/st/s/a")).json()["code"] == "PERMISSION_DENIED"
        async with upgraded(server.address[1], "/ws/s/a") as peer:
            _, closed = await peer.receive_to_close()
            assert closed.code == 4003


@asynccontextmanager
async def serving_closed() -> AsyncIterator[Server]:
    """A server that serves anonymous peers, but gives them no sessions."""
    async with running() as server:
        server.routes.add(Route(path="/ws/s/{name}", topic="session:{name}", transport="websocket"))
        server.routes.add(Route(path="/st/s/{name}", topic="session:{name}", transport="state", state=lambda _: {}))
        yield server


@pytest.mark.parametrize("path", ["/ws", "/ws/parallel/s-1", "/ws?topic=room:a"])
async def test_plain_get_of_a_websocket_path_says_what_it_lacks(path: str) -> None:
    """As where a proxy leaves the upgrade out: 426, and not that there is nothing."""
    async with serving() as server, connect(server.address[1]) as raw:
        response = await raw.request("GET", path)
        assert (response.status, response.header("upgrade")) == (426, "websocket")
        assert "no `Upgrade`: does a proxy" in response.json()["message"]
        assert (await raw.request("GET", "/ws/nothing/here/at/all")).status == 404
        assert (await raw.request("POST", "/ws", body=b"{}")).status == 404
