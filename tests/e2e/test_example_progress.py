"""The batch of the examples, from outside: section B of the requirements."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import time
from collections import Counter
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx
import httpx_sse
import pytest
import websockets

from tests.e2e.foreign import browsing, in_asyncio, talking, until
from tests.e2e.processes import ServerProcess, example

PATH = "intelligent-parallel"
#: What takes an agent three seconds: time for a page to come, also where the machine pauses.
LONG = "x" * 3000
#: Every message of the existing front ends, byte by byte: these members, in this order, without white space.
SHAPE = re.compile(
    r'\{"type":"(\w+)","task_id":"([^"]+)","timestamp":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)","data":(.*)\}'
)


def fast_example(*arguments: str) -> AbstractAsyncContextManager[ServerProcess]:
    """The program, with agents that write a thousand characters in a second."""
    return example("progress", "--speed", "1000", *arguments)


def node(name: str, group: str = "explain", *, text: str = "x" * 20) -> dict[str, str]:
    """A node that takes a fiftieth of a second, unless its text is longer or there is none."""
    return {"id": name, "group": group, "text": text}


async def start(web: httpx.AsyncClient, session_id: str, nodes: list[dict[str, str]]) -> None:
    """Start a batch."""
    answer = await web.post("/batches", json={"session_id": session_id, "nodes": nodes})
    assert (answer.status_code, answer.json()) == (201, {"session_id": session_id})


async def follow(
    server: ServerProcess, session_id: str, path: str = PATH, *, connected: asyncio.Event | None = None
) -> tuple[list[str], int | None]:
    """Everything that a page is sent by WebSocket until it is closed, and the close code."""
    url = f"ws://127.0.0.1:{server.port}/ws/{path}/{session_id}"
    texts: list[str] = []
    async with websockets.connect(url, proxy=None) as socket:
        try:
            while True:
                text = await socket.recv()
                assert isinstance(text, str)
                texts.append(text)
                if connected is not None:
                    connected.set()
        except websockets.ConnectionClosed:
            return texts, socket.close_code


def parsed(texts: list[str], session_id: str) -> list[tuple[str, dict[str, Any]]]:
    """The type and the data of each message, which must have the shape of the front end."""
    found = []
    for text in texts:
        match = SHAPE.fullmatch(text)
        assert match is not None, text
        assert match[2] == session_id
        found.append((match[1], json.loads(match[4])))
    return found


async def test_page_follows_a_batch_to_its_end_in_the_old_words() -> None:
    """Each event has exactly its members; the last is the end, then the connection is closed with 1000."""
    async with fast_example() as server:

        async def talk() -> None:
            async with browsing(server) as web:
                # Those that tell of themselves wait until a first dozen is done, and the page is there.
                first = [node(f"n{number:02}", text=LONG) for number in range(12)]
                await start(web, "algebra", [*first, node("good"), node("bad", text=""), node("other", "quiz")])
                texts, code = await follow(server, "algebra")
            assert code == 1000
            heard = parsed(texts, "algebra")
            names = [name for name, _ in heard if name != "ping"]
            assert names[0] == "connected"
            assert names[-1] == "session_completed"
            assert all(data == {} for name, data in heard if name == "ping")
            members = {name: list(data) for name, data in heard}
            assert members["progress_update"] == ["progress_percent", "completed_nodes", "total_nodes"]
            assert members["task_completed"] == ["node_id", "file_path", "file_size", "group_id"]
            assert members["task_failed"] == ["node_id", "error_message", "group_id"]
            assert members["group_complete"] == ["agent_type", "results"]
            assert members["session_completed"] == ["status", "total_duration", "success_count", "failure_count"]
            text = next(text for text in texts if '"node_id":"good"' in text)
            assert text.endswith('"data":{"node_id":"good","file_path":"good.md","file_size":60,"group_id":"explain"}}')
            groups = {data["agent_type"]: data["results"] for name, data in heard if name == "group_complete"}
            assert groups == {
                "explain": ["good.md", *(f"n{number:02}.md" for number in range(12))],
                "quiz": ["other.md"],
            }
            final = heard[-1][1]
            assert (final["status"], final["success_count"], final["failure_count"]) == ("completed", 16, 1)
            percents = [data["progress_percent"] for name, data in heard if name == "progress_update"]
            assert percents == sorted(percents)
            assert percents[-1] == 100

        await in_asyncio(talk)


async def test_older_page_gets_the_same_events_by_its_own_names() -> None:
    """The second naming: progress, node_complete, group_complete, complete."""
    async with fast_example() as server:

        async def talk() -> None:
            async with browsing(server) as web:
                await start(web, "s", [node("n1", text=LONG)])
                (texts, code), (modern, _) = await asyncio.gather(
                    follow(server, "s", "canvas-progress"), follow(server, "s")
                )
            assert code == 1000
            names = [name for name, _ in parsed(texts, "s") if name != "ping"]
            assert names == [
                *("connected", "node_complete", "progress", "group_complete", "node_complete", "progress", "complete")
            ]
            # But for the names, the id of the connection in the first, and pings, they are the same bytes.
            told, again = (
                [SHAPE.sub(r"\3\4", text) for text in heard[1:] if '"type":"ping"' not in text]
                for heard in (texts, modern)
            )
            assert told == again

        await in_asyncio(talk)


async def test_unknown_session_is_closed_with_4004_or_answered_with_404() -> None:
    """A WebSocket is told on the open connection, as a page cannot see the status of a handshake."""
    async with fast_example() as server:

        async def talk() -> None:
            texts, code = await follow(server, "nothing")
            assert code == 4004
            ((name, data), *_) = parsed(texts, "nothing")
            assert (name, data["error_type"]) == ("error", "SESSION_NOT_FOUND")
            assert list(data) == ["error_type", "message", "recoverable", "retry_after"]
            async with browsing(server) as web:
                for path in (f"/sse/{PATH}/nothing", f"/api/v1/canvas/{PATH}/nothing"):
                    answer = await web.get(path)
                    assert (answer.status_code, answer.json()["code"]) == (404, "SESSION_NOT_FOUND")

        await in_asyncio(talk)


async def test_page_that_polls_sees_the_latest_state() -> None:
    """Pending or running, then completed, with what became of each node."""
    async with fast_example() as server:

        async def talk() -> None:
            async with browsing(server) as web:

                async def state(session_id: str = "s") -> dict[str, Any]:
                    answer = await web.get(f"/api/v1/canvas/{PATH}/{session_id}")
                    assert answer.headers["Cache-Control"] == "no-store"
                    found: dict[str, Any] = answer.json()
                    return found

                async def ended() -> bool:
                    return (await state())["status"] == "completed"

                await start(web, "long", [node("endless", text="x" * 1_000_000)])
                assert (await state("long"))["status"] in ("pending", "running")
                await start(web, "s", [node("n1", text="x" * 200), node("n2", text="")])
                await until(ended)
                last = await state()
                assert (last["progress_percent"], last["completed_nodes"], last["total_nodes"]) == (100, 3, 3)
                assert (last["success_count"], last["failure_count"]) == (2, 1)
                assert {one["data"]["node_id"] for one in last["results"]} == {"n1", "n2", "index:explain"}
                assert (await web.get("/api/v1/canvas/canvas-progress/s")).json() == last

        await in_asyncio(talk)


async def test_at_most_twelve_agents_work_at_once() -> None:
    """Thirty nodes of 300 ms take three turns of twelve."""
    async with fast_example() as server:

        async def talk() -> None:
            async with browsing(server) as web:
                await start(web, "s", [node(f"n{number}", text="x" * 300) for number in range(30)])
                texts, _ = await follow(server, "s")
            final = parsed(texts, "s")[-1][1]
            assert final["success_count"] == 31
            assert 0.9 <= final["total_duration"] < 8.5, "one after the other they would take 9 seconds"

        await in_asyncio(talk)


async def test_cancelled_session_stops_its_workers_and_tells_its_followers() -> None:
    """A button on the page; what comes after the end changes nothing."""
    async with fast_example() as server:

        async def talk() -> None:
            async with browsing(server) as web:
                await start(web, "s", [node("endless", text="x" * 1_000_000)])
                connected = asyncio.Event()
                following = asyncio.create_task(follow(server, "s", connected=connected))
                await connected.wait()
                assert (await web.post("/batches/s/cancel")).json() == {"status": "cancelled"}
                texts, code = await following
                assert code == 1000
                name, data = parsed(texts, "s")[-1]
                assert (name, data["status"]) == ("session_completed", "cancelled")
                assert (await web.post("/batches/s/cancel")).json() == {"status": "cancelled"}
                assert (await web.post("/batches/none/cancel")).json()["code"] == "SESSION_NOT_FOUND"
                again = await web.post("/batches", json={"session_id": "s", "nodes": []})
                assert (again.status_code, again.json()["code"]) == (400, "BAD_REQUEST")
                wrong = await web.post("/batches", json={"nodes": [{"id": ""}]})
                assert (wrong.status_code, wrong.json()["code"]) == (400, "BAD_REQUEST")

        await in_asyncio(talk)


async def test_batch_that_cannot_report_breaks_off_and_ends_no_program() -> None:
    """The server has no topic left for it: that is in the log, with the id of the session."""
    async with fast_example("--max-topics", "1") as server:

        async def talk() -> None:
            async with browsing(server) as web, talking(server) as peer:
                assert [topic["topic"] for topic in (await peer.receive(type="welcome"))["topics"]] == ["global"]
                await start(web, "unheard", [node(f"n{number}", text="") for number in range(30)])

                async def broke_off() -> bool:
                    return b"LIMIT_EXCEEDED" in b"".join(server.log)

                await until(broke_off)
                assert (await peer.command("ping"))["type"] == "pong"
                assert (await web.get(f"/api/v1/canvas/{PATH}/unheard")).status_code == 200

        await in_asyncio(talk)
        log = b"".join(server.log)
        assert b"batch broke off" in log
        assert b"unheard" in log
        server.signal(signal.SIGTERM)
        assert await server.wait() == 0


async def test_stranger_may_follow_sessions_and_nothing_else() -> None:
    """Nobody logs in here, so nobody may fill the server with topics of other kinds, or speak."""
    async with fast_example() as server:

        async def talk() -> None:
            async with browsing(server) as web, talking(server) as peer:
                await start(web, "s", [node("endless", text="x" * 1_000_000)])
                assert (await peer.command("subscribe", topic="session:s"))["type"] == "subscribed"
                for topic in ("symbol:600519", "room:lobby", "user:ada"):
                    assert (await peer.command("subscribe", topic=topic))["code"] == "PERMISSION_DENIED"
                    assert (await web.get(f"/sse?topic={topic}")).json()["code"] == "PERMISSION_DENIED"
                for topic in ("session:s", "room:lobby"):
                    assert (await peer.command("publish", topic=topic, data=1))["code"] == "PERMISSION_DENIED"

        await in_asyncio(talk)


async def test_page_that_comes_after_the_end_is_told_it_and_closed() -> None:
    """As one does that was reconnecting while the session completed."""
    async with fast_example() as server:

        async def talk() -> None:
            async with browsing(server) as web:
                await start(web, "s", [node("n1")])
                await follow(server, "s")
                texts, code = await follow(server, "s")
                names = [name for name, _ in parsed(texts, "s")]
                assert (names, code) == (["connected", "session_completed"], 1000)
                async with httpx_sse.aconnect_sse(web, "GET", f"/sse/{PATH}/s") as source:
                    told = [json.loads(event.data)["type"] async for event in source.aiter_sse()]
                assert told == ["connected", "session_completed"]

        await in_asyncio(talk)


async def test_event_stream_that_broke_off_resumes_behind_its_last_event() -> None:
    """With Last-Event-ID nothing is missing and nothing comes twice, though it is in the words of the front end."""
    async with fast_example() as server:

        async def read(web: httpx.AsyncClient, most: int, **headers: str) -> tuple[list[str], str]:
            texts, last_id = [], ""
            async with httpx_sse.aconnect_sse(web, "GET", f"/sse/{PATH}/s", headers=headers) as source:
                async for event in source.aiter_sse():
                    name = json.loads(event.data)["type"]
                    if name in ("connected", "ping"):
                        continue
                    texts.append(event.data)
                    last_id = event.id
                    if len(texts) == most:
                        break
            return texts, last_id

        async def talk() -> None:
            async with browsing(server) as web:
                slow = node("last", text=LONG + "x" * 300)
                await start(web, "s", [*(node(f"n{number}", text=LONG) for number in range(6)), slow])
                (whole, _), (first, last_id) = await asyncio.gather(read(web, 1000), read(web, 4))
                rest, _ = await read(web, 1000, **{"Last-Event-ID": last_id})
            assert whole == first + rest
            assert parsed(whole, "s")[-1][0] == "session_completed"

        await in_asyncio(talk)


async def test_program_follows_in_the_words_of_the_protocol_and_recovers() -> None:
    """A session is a topic like any other at ``/ws``: after a break, exactly what was missed."""
    async with fast_example() as server:

        async def talk() -> None:
            async with browsing(server) as web:
                await start(web, "s", [node(f"n{number}") for number in range(5)])
                async with talking(server) as peer:
                    place = await peer.command("subscribe", topic="session:s", recover={"last": 100})
                    first = await peer.receive(type="message")
                at = {"epoch": place["epoch"], "offset": first["offset"]}
                async with talking(server) as peer:
                    assert (await peer.command("subscribe", topic="session:s", recover=at))["recovered"] == "full"
                    await peer.receive(type="message", event="session_completed")
                    offsets = [push["offset"] for push in peer.heard if push["type"] == "message"]
                assert offsets == list(range(2, 2 + len(offsets)))

        await in_asyncio(talk)


async def test_heartbeat_comes_and_a_silent_session_is_left_after_the_idle_time() -> None:
    """A pong is not activity: who only answers pings is sent away all the same, with 4008."""
    async with fast_example("--heartbeat-seconds", "0.2", "--idle-seconds", "4") as server:

        async def talk() -> None:
            async with browsing(server) as web:
                await start(web, "s", [node("endless", text="x" * 1_000_000)])
                began = time.monotonic()
                url = f"ws://127.0.0.1:{server.port}/ws/{PATH}/s"
                texts: list[str] = []
                async with websockets.connect(url, proxy=None) as socket:
                    with pytest.raises(websockets.ConnectionClosed):
                        while True:
                            text = await socket.recv()
                            assert isinstance(text, str)
                            texts.append(text)
                            if '"type":"ping"' in text:
                                await socket.send('{"type":"pong"}')
                assert socket.close_code == 4008
                assert time.monotonic() - began > 3.5
                names = Counter(name for name, _ in parsed(texts, "s"))
                assert names["ping"] >= 3
                assert names["error"] == 1

        await in_asyncio(talk)


async def test_fifty_connections_follow_one_session() -> None:
    """All see the same, to the end; those that vanish in the middle hold nobody up."""
    async with fast_example() as server:

        async def vanish() -> None:
            url = f"ws://127.0.0.1:{server.port}/ws/{PATH}/s"
            socket = await websockets.connect(url, proxy=None)
            await socket.recv()
            socket.transport.abort()

        async def talk() -> None:
            async with browsing(server) as web:
                await start(web, "s", [node("first", text="x" * 1200), *(node(f"n{number}") for number in range(40))])
                following = [asyncio.create_task(follow(server, "s")) for _ in range(50)]
                await asyncio.gather(*(vanish() for _ in range(10)))
                ended = await asyncio.gather(*following)
            assert [code for _, code in ended] == [1000] * 50
            finals = {texts[-1] for texts, _ in ended}
            assert len(finals) == 1
            assert parsed(list(finals), "s")[0][1]["success_count"] == 42

        await in_asyncio(talk)


async def test_twenty_sessions_run_at_once() -> None:
    """Each with two followers, who hear of their own session only."""
    async with fast_example() as server:

        async def talk() -> None:
            names = [f"s{number}" for number in range(20)]
            async with browsing(server) as web:
                for name in names:
                    await start(web, name, [node(f"n{number}", text="x" * 300) for number in range(20)])
                ended = await asyncio.gather(*(follow(server, name) for name in names for _ in range(2)))
            for number, (texts, code) in enumerate(ended):
                heard = parsed(texts, names[number // 2])
                assert code == 1000
                assert heard[-1][1]["success_count"] == 21

        await in_asyncio(talk)


async def test_sigterm_tells_the_end_before_the_close() -> None:
    """Whoever follows a session that runs gets its final event, on either transport; then the process ends with 0."""
    async with fast_example() as server:

        async def talk() -> None:
            async with browsing(server) as web:
                await start(web, "s", [node("endless", text="x" * 1_000_000)])
                connected = asyncio.Event()
                following = asyncio.create_task(follow(server, "s", connected=connected))
                async with httpx_sse.aconnect_sse(web, "GET", f"/sse/{PATH}/s") as source:
                    told = []
                    async for event in source.aiter_sse():
                        told.append(json.loads(event.data)["type"])
                        if len(told) == 1:
                            await connected.wait()
                            server.signal(signal.SIGTERM)
                texts, code = await following
            assert told == ["connected", "session_completed"]
            heard = parsed(texts, "s")
            assert [name for name, _ in heard] == ["connected", "session_completed"]
            assert (heard[-1][1]["status"], code) == ("cancelled", 1000)

        await in_asyncio(talk)
        assert await server.wait() == 0
