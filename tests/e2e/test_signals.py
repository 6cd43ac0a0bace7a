"""How the process ends."""

from __future__ import annotations

import signal

import pytest
import trio

from tests.e2e.processes import ServerProcess, serving
from tests.peers import (
    CLOSE,
    DEADLINE_SECONDS,
    TEXT,
    Closed,
    WebSocketPeer,
    connect,
    eventually,
    frame,
    open_events,
    open_websocket,
)

GRACE_SECONDS = 1.0


async def fill(server: ServerProcess, peer: WebSocketPeer, topic: str) -> None:
    """Publish until a peer that does not read has a backlog."""
    assert (await peer.command("subscribe", topic=topic))["type"] == "subscribed"
    for _ in range(40):
        await server.publish(topic, '"' + "x" * 60_000 + '"')


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_tells_everybody_and_ends_within_the_grace(number: signal.Signals) -> None:
    """Of 100 connections one reads nothing: 99 are told and closed, it is left behind, the exit code is 0."""
    for _ in range(3):  # a machine that pauses may take longer, but not each time
        if await seconds_to_end(number) < GRACE_SECONDS + 1:
            return
    pytest.fail("the grace time was over three times, and the process was still there")


async def seconds_to_end(number: signal.Signals) -> float:
    """How long a server lives on after a signal, with 100 connections of which one reads nothing."""
    told: list[int | None] = []
    waits: set[float] = set()
    async with serving("serve", "--dev", "--port", "0", REALTIME_GRACE_SECONDS=str(GRACE_SECONDS)) as server:

        async def live(task_status: trio.TaskStatus[None]) -> None:
            async with open_websocket(server.port) as peer:
                task_status.started()
                pushes, closed = await peer.receive_to_close()
                assert pushes[-1]["type"] == "disconnect"
                assert pushes[-1]["code"] == 4100
                assert pushes[-1]["reconnect"] is True
                waits.add(pushes[-1]["retry_after"])
                told.append(closed.code)

        async def listen(task_status: trio.TaskStatus[None]) -> None:
            async with open_events(server.port, "topic=room:quiet") as peer:
                task_status.started()
                event = await peer.receive_type("disconnect")
                told.append(event.data["code"])
                await peer.raw.read_to_end()

        async with open_websocket(server.port, receive_buffer=4096) as stuck, trio.open_nursery() as nursery:
            await fill(server, stuck, "room:stuck")
            for index in range(99):
                await nursery.start(listen if index % 10 == 0 else live)
            started = trio.current_time()
            server.signal(number)
            assert await server.wait(GRACE_SECONDS + DEADLINE_SECONDS) == 0
            took = trio.current_time() - started
        assert told == [4100] * 99
        assert len(waits) > 10
    return took


async def test_signal_without_connections_ends_at_once() -> None:
    """Nobody to wait for: the grace time is not spent."""
    async with serving("serve", "--dev", "--port", "0", REALTIME_GRACE_SECONDS="30") as server:
        async with connect(server.port) as raw:
            assert (await raw.request("GET", "/healthz")).status == 200
            server.signal(signal.SIGTERM)
            assert await server.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_second_signal_ends_at_once(number: signal.Signals) -> None:
    """Who asks twice does not want to wait."""
    async with serving("serve", "--dev", "--port", "0", REALTIME_GRACE_SECONDS="30") as server:
        async with open_websocket(server.port, receive_buffer=4096) as stuck:
            await fill(server, stuck, "room:stuck")
            server.signal(number)
            await eventually(lambda: b"shutting down" in b"".join(server.log))
            server.signal(number)
            assert await server.wait() == -number


async def test_new_connections_are_refused_while_shutting_down() -> None:
    """The door closes first."""
    async with serving("serve", "--dev", "--port", "0", REALTIME_GRACE_SECONDS="3") as server:
        async with open_websocket(server.port, receive_buffer=4096) as stuck, open_websocket(server.port) as witness:
            await fill(server, stuck, "room:stuck")
            server.signal(signal.SIGTERM)
            _, closed = await witness.receive_to_close()
            assert closed.code == 4100
            with pytest.raises(OSError):
                async with connect(server.port):
                    pass


async def test_killed_server_is_seen_by_its_clients_at_once(server: ServerProcess) -> None:
    """No goodbye: the clients see the end of the connection and no close frame."""
    async with open_websocket(server.port) as peer, open_events(server.port, "topic=room:a") as events:
        await events.receive_type("subscribed")
        server.signal(signal.SIGKILL)
        with pytest.raises(Closed) as ended:
            await peer.receive()
        assert ended.value.code is None
        with pytest.raises(EOFError):
            await events.receive()
    assert await server.wait() == -signal.SIGKILL


async def test_hostile_peers_do_not_end_the_process(server: ServerProcess) -> None:
    """A handful of what can end a process that runs hypercorn alone, then an orderly exit without a logged failure."""
    upgrade = b"GET %b HTTP/1.1\r\nHost: x\r\nUpgrade: %b\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\r\n"
    for sent in (
        upgrade % (b"/", b"websocket") + b"x",
        upgrade % (b"/ws", b"websocket") + b"x",
        upgrade % (b"/nothing", b"h2c") + b"x",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00" * 50,
        b"\x16\x03\x01\x02\x00" + b"\x00" * 500,
        b"\x00" * 100_000,
        frame(TEXT, b"x" * 1000),
        frame(CLOSE),
    ):
        async with connect(server.port) as raw:
            await raw.send(sent)
            await raw.read_to_end()
    async with open_websocket(server.port) as peer:
        await peer.barrier()
        server.signal(signal.SIGTERM)
        _, closed = await peer.receive_to_close()
        assert closed.code == 4100
    assert await server.wait() == 0
    assert b"error" not in b"".join(server.log)
