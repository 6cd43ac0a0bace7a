"""Clients that others wrote, against the running process."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import httpx_sse
import pytest
import trio
import trio_websocket
import websockets
import websockets.sync.client

from tests.e2e.foreign import in_asyncio
from tests.e2e.processes import ServerProcess, output_of, running_program

NODE = shutil.which("node")
CURL = shutil.which("curl")


async def test_websockets_client_subscribes_and_publishes(server: ServerProcess) -> None:
    """With its default options: compression is offered, and not taken."""

    async def talk() -> list[Any]:
        async with websockets.connect(f"ws://127.0.0.1:{server.port}/ws", proxy=None) as socket:
            heard = [json.loads(await socket.recv())["type"]]
            for command in (
                {"type": "subscribe", "id": 1, "topic": "room:a"},
                {"type": "publish", "id": 2, "topic": "room:a", "data": "grüezi"},
            ):
                await socket.send(json.dumps(command))
            pushes = [json.loads(await socket.recv()) for _ in range(3)]
            heard += sorted(push["type"] for push in pushes)
            await (await socket.ping())
            await socket.close()
            return [heard, socket.close_code]

    heard, code = await in_asyncio(talk)
    assert heard == ["welcome", "message", "published", "subscribed"]
    assert code == 1000


async def test_websockets_client_sends_fragments_and_large_messages(server: ServerProcess) -> None:
    """A message in pieces is one command; one over the limit is closed with 1009."""

    async def talk() -> list[Any]:
        async with websockets.connect(f"ws://127.0.0.1:{server.port}/ws", proxy=None, compression=None) as socket:
            await socket.recv()
            await socket.send(['{"type":', '"ping",', '"id":5}'])
            answer = json.loads(await socket.recv())
            await socket.send("x" * 70_000)
            try:
                while True:
                    await socket.recv()
            except websockets.ConnectionClosed as closed:
                assert closed.rcvd is not None
                return [answer["id"], closed.rcvd.code]

    assert await in_asyncio(talk) == [5, 1009]


async def test_websockets_client_in_threads_hears_what_a_back_end_publishes(server: ServerProcess) -> None:
    """The blocking client of a script."""

    def listen(subscribed: Callable[[], None]) -> Any:
        with websockets.sync.client.connect(f"ws://127.0.0.1:{server.port}/ws", proxy=None) as socket:
            socket.recv(5)
            socket.send(json.dumps({"type": "subscribe", "id": 1, "topic": "symbol:600519"}))
            socket.recv(5)
            subscribed()
            return json.loads(socket.recv(5))["data"]

    heard: list[Any] = []
    ready = trio.Event()

    async def run() -> None:
        heard.append(await trio.to_thread.run_sync(lambda: listen(lambda: trio.from_thread.run_sync(ready.set))))

    with trio.fail_after(15):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await ready.wait()
            await server.publish("symbol:600519", '{"price":1480.5}')
    assert heard == [{"price": 1480.5}]


async def test_trio_websocket_client_talks(server: ServerProcess) -> None:
    """The client of a Trio program."""
    with trio.fail_after(10):
        async with trio_websocket.open_websocket_url(f"ws://127.0.0.1:{server.port}/ws") as socket:
            assert json.loads(await socket.get_message())["type"] == "welcome"
            await socket.send_message('{"type":"ping","id":1}')
            assert json.loads(await socket.get_message())["type"] == "pong"
            await socket.ping(b"there")


async def test_httpx_sse_client_resumes_where_it_was(server: ServerProcess) -> None:
    """An event stream read by httpx; with the last id a second one brings the rest."""

    def read(count: int, **headers: str) -> tuple[list[Any], str]:
        heard: list[Any] = []
        with (
            httpx.Client(base_url=server.url, timeout=10, trust_env=False) as client,
            httpx_sse.connect_sse(client, "GET", "/sse?topic=room:a", headers=headers) as source,
        ):
            for event in source.iter_sse():
                if event.event == "subscribed" and event.id.endswith("!0"):
                    for number in range(3):
                        message = {"topic": "room:a", "data": number}
                        client.post("/api/v1/publish", json=message, headers={"X-Api-Key": server.api_key})
                if event.event == "message":
                    heard.append(event.json()["data"])
                    if len(heard) == count:
                        return heard, event.id
        raise AssertionError

    with trio.fail_after(15):
        heard, last_id = await trio.to_thread.run_sync(lambda: read(2))
        assert heard == [0, 1]
        heard, _ = await trio.to_thread.run_sync(lambda: read(1, **{"Last-Event-ID": last_id}))
        assert heard == [2]


async def test_httpx_reads_pages_and_publishes_on_one_connection(server: ServerProcess) -> None:
    """The pool of a common client keeps its connection over pages, publishes and refusals."""
    async with httpx.AsyncClient(
        base_url=server.url, trust_env=False, limits=httpx.Limits(max_connections=1)
    ) as client:
        with trio.fail_after(10):
            for number in range(1, 4):
                assert (await client.get("/healthz")).json() == {"status": "ok"}
                answer = await client.post(
                    "/api/v1/publish", json={"topic": "room:a", "data": 1}, headers={"X-Api-Key": server.api_key}
                )
                assert answer.json()["offset"] == number
                assert (await client.get("/nothing")).status_code == 404
                assert (await client.post("/api/v1/publish", json={})).status_code == 401


async def test_websockets_client_gets_back_what_it_sends_to_the_echo_program() -> None:
    """The program for conformance suites, as such a suite runs it."""
    program = Path(__file__).parent.parent / "echo.py"
    async with running_program(sys.executable, str(program), "--port", "0") as process:
        assert process.stdout is not None
        with trio.fail_after(10):
            port = int(await process.stdout.receive_some())

        async def talk() -> list[Any]:
            async with websockets.connect(f"ws://127.0.0.1:{port}", proxy=None, max_size=None) as socket:
                echoes = []
                for message in ("ü" * 1000, b"\xff" * 2_000_000, ["in ", "pieces"]):
                    await socket.send(message)
                    echoes.append(await socket.recv())
                return echoes

        assert await in_asyncio(talk) == ["ü" * 1000, b"\xff" * 2_000_000, "in pieces"]


@pytest.mark.skipif(CURL is None, reason="needs curl")
async def test_curl_shows_the_stream_as_it_comes(demo: ServerProcess) -> None:
    """The line that `realtime demo` prints works as it stands."""
    command = ("curl", "-sN", "--noproxy", "*", f"{demo.url}/sse?topic=symbol:600519")
    async with running_program(*command) as process:
        assert process.stdout is not None
        shown = b""
        with trio.fail_after(15):
            while shown.count(b"event: message\n") < 2:
                data = await process.stdout.receive_some()
                assert data, shown
                shown += data
    assert b"retry: " in shown
    assert b'"event":"tick"' in shown


@pytest.mark.skipif(CURL is None, reason="needs curl")
async def test_curl_publishes_a_file_with_expect(server: ServerProcess) -> None:
    """Curl asks before it sends a larger body, and gets its answer."""
    body = json.dumps({"topic": "room:a", "data": "x" * 60_000})
    code, shown, _ = await output_of(
        *("curl", "-sS", "--noproxy", "*", "-H", "Expect: 100-continue", "-H", f"X-Api-Key: {server.api_key}"),
        *("--data-binary", body, f"{server.url}/api/v1/publish"),
    )
    assert code == 0
    assert json.loads(shown)["offset"] == 1


def _node_options() -> list[str] | None:
    """What Node needs to have `WebSocket`; None where it has none."""
    if NODE is None:
        return None
    shown = subprocess.run([NODE, "--version"], capture_output=True, text=True, check=True).stdout
    major = int(re.match(r"v(\d+)", shown)[1])  # type: ignore[index]
    return [] if major >= 22 else ["--experimental-websocket"] if major >= 20 else None


_NODE_SCRIPT = """
const socket = new WebSocket(process.argv[1], ["realtime.v1"]);
const heard = [];
socket.onmessage = ({ data }) => {
  const push = JSON.parse(data);
  heard.push(push.type);
  if (push.type === "welcome") {
    socket.send(JSON.stringify({ type: "subscribe", id: 1, topic: "room:node" }));
    socket.send(JSON.stringify({ type: "publish", id: 2, topic: "room:node", data: "é".repeat(30000) }));
  }
  if (push.type === "message") socket.send("not JSON");
};
socket.onclose = ({ code, wasClean }) => {
  console.log(JSON.stringify({ heard, code, wasClean, protocol: socket.protocol }));
};
socket.onerror = () => {};
"""


@pytest.mark.node
@pytest.mark.skipif(_node_options() is None, reason="needs Node 20 or a newer one")
async def test_websocket_of_node_talks_and_sees_the_close(server: ServerProcess) -> None:
    """Node's own client: subprotocol, a large message in UTF-8, the close with its code."""
    assert NODE is not None
    options = [*(_node_options() or ()), "--no-warnings"]
    url = f"ws://127.0.0.1:{server.port}/ws"
    code, shown, complaint = await output_of(NODE, *options, "-e", _NODE_SCRIPT, url)
    assert code == 0, complaint
    found = json.loads(shown)
    assert found["heard"][0] == "welcome"
    assert sorted(found["heard"][1:4]) == ["message", "published", "subscribed"]
    assert found["heard"][4:] == ["error", "disconnect"]
    assert (found["code"], found["wasClean"], found["protocol"]) == (4000, True, "realtime.v1")
