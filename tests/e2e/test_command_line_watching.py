"""``stats``, ``top`` and ``bench``: what they show in a terminal, and what they print elsewhere."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from functools import partial

import pytest
import trio

from realtime.api_keys import new_key
from realtime.auth import Right
from realtime.server import Server, open_server
from tests.e2e.commands import in_terminal, realtime, running
from tests.e2e.processes import serving

KEY = "key-of-the-tests"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A server in this process that somebody publishes to."""
    async with open_server(dev=True, port=0, api_keys=(KEY,)) as opened, trio.open_nursery() as nursery:

        async def tick() -> None:
            while True:
                await opened.publish("room:busy", 1)
                await trio.sleep(0.02)

        nursery.start_soon(tick)
        yield opened
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("command", ["stats", "top"])
async def test_table_in_a_terminal_is_live_until_ctrl_c(server: Server, command: str) -> None:
    """It is drawn again each second, and the cursor is there again at the end."""
    shown = "published" if command == "stats" else "room:busy"
    async with (
        in_terminal(command, "--url", server.url) as terminal,
        running("tail", "room:busy", "--url", server.url),
    ):
        await terminal.wait_text(shown)
        await terminal.wait_text("\x1b[1A", after=len(terminal.text))  # up again, to draw over it
        terminal.press(b"\x03")
        assert await terminal.wait() == 130
    assert terminal.text.rstrip().endswith("\x1b[?25h")
    assert "Traceback" not in terminal.text


async def test_stats_on_a_pipe_are_printed_once_as_plain_text(server: Server) -> None:
    """With rates, and without lines, colours or dots where a line is long."""
    ended = await realtime("stats", "--url", server.url)
    assert (ended.code, ended.err) == (0, "")
    rows = {line.split("  ")[0]: line.split() for line in ended.out.splitlines()}
    assert float(rows["published"][-1]) > 0
    assert ended.out.isascii()


async def test_top_on_a_pipe_names_topics_and_connections(server: Server) -> None:
    """With rates, though it is the first look of all."""
    async with running("tail", "room:busy", "--url", server.url) as tail:
        await tail.wait_text("room:busy")
        ended = await realtime("top", "--url", server.url)
    (topic,) = [line.split() for line in ended.out.splitlines() if line.startswith("room:busy")]
    assert topic[1] == "1"
    assert float(topic[2]) > 0
    assert "websocket" in ended.out


@pytest.mark.parametrize(("command", "member"), [("stats", "hub"), ("top", "topics")])
async def test_json_is_an_object_a_line(server: Server, command: str, member: str) -> None:
    """``--once``: one; without it, one each second until somebody has enough."""
    once = await realtime(command, "--json", "--once", "--url", server.url)
    (line,) = once.out.splitlines()
    assert member in json.loads(line)
    async with running(command, "--json", "--url", server.url) as terminal:
        while terminal.text.count("\n") < 2:
            await terminal.changed.park()
        assert all(member in json.loads(line) for line in terminal.text.splitlines())


async def test_key_without_the_right_is_told_which_it_lacks() -> None:
    """Outside development reading needs it."""
    async with open_server(port=0) as server:
        ended = await realtime("stats", "--url", server.url)
    assert ended.code == 1
    assert ended.err.startswith("realtime: AUTH_REQUIRED: ")
    assert "REALTIME_KEY" in ended.err


async def test_key_that_lacks_the_right_is_named() -> None:
    """Not another login, of which there is none."""
    key, line = new_key("ticker", [Right.PUBLISH])
    async with open_server(port=0, api_keys=(line,)) as server:
        ended = await realtime("stats", "--url", server.url, REALTIME_KEY=key)
    assert re.fullmatch(r"realtime: PERMISSION_DENIED: .*\(REALTIME_KEY needs the right `read`\)\n", ended.err)


async def test_stats_go_on_when_the_server_is_back() -> None:
    """A restart is told, on standard error, and is not the end."""
    async with serving("serve", "--dev", "--port", "0") as server:
        port = str(server.port)
        async with running("stats", "--json", "--url", server.url) as stats:
            await stats.wait_text("\n")
            server.process.kill()
            await server.wait()
            await stats.wait_text("trying again", errors=True)
            async with serving("serve", "--dev", "--port", port):
                await stats.wait_text("answers again", errors=True)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b'{"ok":true}', "missing required field .*realtime server"),
        (b'{"hub":[]}', ".*realtime server"),
        (b"[]", "got `array`.*realtime server"),
        (b"null", "got `null`.*realtime server"),
        (b"<html>", "not answered with JSON.*realtime server"),
        (b"[" * 5000, "not answered with JSON.*realtime server"),
        (b'"\xff"', "not answered with JSON.*realtime server"),
    ],
)
@pytest.mark.parametrize("command", [["stats"], ["top"], ["stats", "--json", "--once"]])
async def test_answer_of_another_server_is_told(command: list[str], answer: bytes, said: str) -> None:
    """In one line, whatever it is."""
    await told_of(command, b"200 OK\r\nContent-Type: application/json", answer, said)


@pytest.mark.parametrize(
    ("head", "answer", "said"),
    [
        (b"200 OK\r\nContent-Encoding: gzip", b"xx", "decompressing.*realtime server"),
        (b"500 Oh\r\nContent-Type: application/json", b'{"code":"\xff","message":"x"}', "with status 500"),
        (b"302 Found\r\nLocation: /", b"", "with status 302"),
    ],
)
async def test_answer_that_cannot_be_read_is_told(head: bytes, answer: bytes, said: str) -> None:
    """Packed wrongly, not in UTF-8, from elsewhere."""
    await told_of(["stats"], head, answer, said)


async def test_bench_is_told_of_a_refusal_that_cannot_be_read() -> None:
    """By its status."""
    await told_of(["bench"], b"403 No", b'{"code":"\xff","message":"x"}', "HTTP/1.1 403 No", key="key")


async def told_of(command: list[str], head: bytes, answer: bytes, said: str, *, key: str = "") -> None:
    """Run a command against somebody who answers this to whatever he is asked, and see that it is told."""
    length = f"\r\nContent-Length: {len(answer)}\r\nConnection: close\r\n\r\n".encode()

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 " + head + length + answer)
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        listener, *_ = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        ended = await realtime(*command, "--url", url, REALTIME_KEY=key)
        nursery.cancel_scope.cancel()
    assert (ended.code, ended.out) == (1, "")
    assert re.fullmatch(f"realtime: .*{said}.*\n", ended.err)


# -- bench -----------------------------------------------------------------------------------------------------------

QUICK = ["--connections", "10", "--rate", "40", "--seconds", "0.5"]


@pytest.mark.parametrize("transport", ["websocket", "sse"])
@pytest.mark.parametrize("key", ["", KEY])
async def test_bench_counts_each_delivery(transport: str, key: str) -> None:
    """Nothing is lost and nothing doubled by a server that carries the load; published as a peer, and with a key."""
    async with open_server(dev=True, port=0, api_keys=(KEY,)) as server:
        ended = await realtime(
            "bench", server.url, *QUICK, "--transport", transport, "--processes", "2", "--json", REALTIME_KEY=key
        )
    assert ended.code == 0, ended.err
    report = json.loads(ended.out)
    # A second of warming up, and half a second that counts.
    assert (report["published"], report["delivered"]) == (60, 600)
    assert (report["lost"], report["duplicated"], report["lost_connections"], report["refused"]) == (0, 0, 0, 0)
    assert 0 < report["deliveries_per_second"] <= 400  # fewer where the machine pauses
    assert list(report["latency_ms"]) == ["p50", "p90", "p99", "p99.9", "max"]
    assert 0 < report["latency_ms"]["p50"] <= report["latency_ms"]["max"]


async def test_bench_in_a_terminal_shows_its_progress() -> None:
    """A bar while it connects, and one while it publishes; then the figures."""
    async with open_server(dev=True, port=0) as server, in_terminal("bench", server.url, *QUICK) as terminal:
        await terminal.wait_text("connecting")
        await terminal.wait_text("publishing")
        await terminal.wait_text("latency, ms")
        assert await terminal.wait() == 0
    assert "60/60" in terminal.text
    assert "delivered      600, " in terminal.text


async def test_bench_on_a_pipe_prints_figures_alone() -> None:
    """No bar on standard error; which process was how busy is told, too."""
    async with open_server(dev=True, port=0) as server:
        ended = await realtime("bench", *QUICK, "--url", server.url)
    assert ended.faults == ""
    assert [line.split("  ")[0] for line in ended.out.splitlines()] == [
        "connections",
        "published",
        "delivered",
        "latency, ms",
        "own CPU",
    ]


async def test_bench_tells_what_the_server_refuses() -> None:
    """A rate that a peer may not publish at: exit code 1, and the reason."""
    async with open_server(dev=True, port=0, publish_rate=1.0, publish_burst=1.0) as server:
        ended = await realtime("bench", server.url, *QUICK, "--json", seconds=40.0)
    report = json.loads(ended.out)
    assert ended.code == 1
    assert report["refused"] > 0
    assert "publishes were refused or had no answer: " in ended.err
    assert "publish_rate" in ended.err
    assert report["lost"] == 0


async def test_bench_of_a_topic_that_is_refused_fails() -> None:
    """As the server tells it, without figures."""
    async with open_server(dev=True, port=0) as server:
        for transport in ("websocket", "sse"):
            ended = await realtime("bench", server.url, "--topic", "user:7", "--transport", transport)
            assert (ended.code, ended.out) == (1, "")
            assert ended.err.startswith("realtime: PERMISSION_DENIED: ")


async def test_bench_that_is_refused_in_many_places_fails_once() -> None:
    """Each process is refused, and one line says so."""
    async with open_server(dev=True, port=0) as server:
        ended = await realtime("bench", server.url, "--processes", "6", "--topic", "user:7")
    assert (ended.code, ended.out) == (1, "")
    assert re.fullmatch(r"realtime: PERMISSION_DENIED: .*\n", ended.err)


async def test_ctrl_c_ends_bench_and_its_processes() -> None:
    """With 130; no connection is left at the server."""
    async with open_server(dev=True, port=0) as server:
        async with in_terminal("bench", server.url, "--connections", "10", "--seconds", "60") as terminal:
            await terminal.wait_text("publishing")
            terminal.press(b"\x03")
            assert await terminal.wait() == 130
        with trio.fail_after(5):
            while server.statistics().connections:
                await trio.sleep(0.01)
    assert "Traceback" not in terminal.text
