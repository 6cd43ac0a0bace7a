"""Requests over a WebSocket: many at once, none in another's way, none that outlives its peer."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio
import websockets.sync.client
from msgspec import Struct

from realtime import CommandError, ErrorCode, Identity
from realtime.breaker import CircuitBreaker
from realtime.requests import Caller
from realtime.server import Server
from realtime.topics import Access
from tests.peers import TEXT, eventually, frame, leaving_nothing_behind, open_websocket
from tests.transports.conftest import running


class Order(Struct):
    symbol: str
    amount: int


async def know_ann(token: str) -> Identity:
    if token != "ann":
        raise CommandError(ErrorCode.AUTH_FAILED, "no such token")
    return Identity("7", roles=frozenset({"dev"}))


async def test_response_carries_result_action_and_trace_id(server: Server, port: int) -> None:
    """The trace id is the client's own, or one that was made for it."""

    @server.handler("buy")
    async def buy(order: Order, caller: Caller) -> dict[str, Any]:
        return {"order": order, "trace": caller.trace_id, "transport": caller.transport}

    async with open_websocket(port) as peer:
        payload = {"symbol": "600519", "amount": 3}
        reply = await peer.command("request", action="buy", payload=payload, trace_id="trace-1")
        assert reply == {
            "type": "response",
            "id": 1,
            "action": "buy",
            "data": {"order": payload, "trace": "trace-1", "transport": "websocket"},
            "trace_id": "trace-1",
        }
        made = await peer.command("request", action="buy", payload=payload)
        assert made["trace_id"] == made["data"]["trace"]


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"action": "none"}, "UNKNOWN_ACTION"),
        ({"action": "buy"}, "BAD_REQUEST"),
        ({"action": "buy", "payload": {"symbol": 5, "amount": 3}}, "BAD_REQUEST"),
        ({"action": "buy", "payload": [1]}, "BAD_REQUEST"),
        ({"action": "buy", "trace_id": "a b"}, "BAD_REQUEST"),
        ({"action": "buy", "trace_id": "a\n"}, "BAD_REQUEST"),
        ({"action": "buy", "timeout": 0}, "BAD_REQUEST"),
        ({"action": "buy", "timeout": 1e9}, "BAD_REQUEST"),
        ({"action": "x" * 129}, "BAD_REQUEST"),
        ({"action": 5}, "BAD_REQUEST"),
        ({}, "BAD_REQUEST"),
    ],
    ids=str,
)
async def test_faulty_request_is_refused_and_the_connection_lives(
    server: Server, port: int, members: dict[str, Any], code: str
) -> None:
    """The handler is not called."""

    @server.handler("buy")
    async def buy(order: Order) -> None:
        raise AssertionError

    async with open_websocket(port) as peer:
        reply = await peer.command("request", **members)
        assert (reply["type"], reply["code"]) == ("error", code)
        await peer.barrier()


async def test_requests_are_answered_as_they_are_done(server: Server, port: int) -> None:
    """A slow one holds up neither a fast one, nor other commands, nor messages."""
    doors = {number: trio.Event() for number in range(3)}

    @server.handler("wait")
    async def wait(number: int) -> int:
        await doors[number].wait()
        return number

    async with open_websocket(port, "/ws?topic=room:a") as peer:
        for number in doors:
            await peer.send_json({"type": "request", "id": f"r{number}", "action": "wait", "payload": number})
        await peer.barrier()
        await server.publish("room:a", "meanwhile")
        assert (await peer.receive_type("message"))["data"] == "meanwhile"
        for number in (2, 0, 1):
            doors[number].set()
            reply = await peer.receive_type("response")
            assert (reply["id"], reply["data"]) == (f"r{number}", number)


async def test_too_slow_handler_is_a_timeout(server: Server, port: int) -> None:
    """By the action's own limit, or the caller's shorter one; the handler is cancelled."""
    cancelled = 0

    @server.handler("sleep", timeout_seconds=0.05)
    async def sleep() -> None:
        nonlocal cancelled
        try:
            await trio.sleep_forever()
        finally:
            cancelled += 1

    @server.handler("patient")
    async def patient() -> None:
        await trio.sleep_forever()

    async with open_websocket(port) as peer:
        reply = await peer.command("request", action="sleep", timeout=60, trace_id="t")
        assert (reply["code"], reply["trace_id"]) == ("TIMEOUT", "t")
        assert cancelled == 1
        assert (await peer.command("request", action="patient", timeout=0.02))["code"] == "TIMEOUT"


async def test_peer_that_leaves_takes_its_requests_with_it(server: Server, port: int) -> None:
    """Every handler is cancelled; nothing of them is left."""
    cancelled = 0

    @server.handler("wait")
    async def wait() -> None:
        nonlocal cancelled
        try:
            await trio.sleep_forever()
        finally:
            cancelled += 1

    async with leaving_nothing_behind():
        async with open_websocket(port) as peer:
            for number in range(10):
                await peer.send_json({"type": "request", "id": number, "action": "wait"})
            await eventually(lambda: server.actions.statistics()[0].in_flight == 10)
            peer.raw.reset()
        await eventually(lambda: cancelled == 10)
    assert server.actions.statistics()[0].in_flight == 0


async def test_thousand_in_flight_over_a_hundred_connections(server: Server, port: int) -> None:
    """Each is answered, to the one who asked, with what it asked for."""
    go = trio.Event()

    @server.handler("echo", timeout_seconds=60)
    async def echo(value: list[int]) -> list[int]:
        await go.wait()
        return value

    async with AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(open_websocket(port)) for _ in range(100)]
        for number, peer in enumerate(peers):
            texts = [
                json.dumps({"type": "request", "id": call, "action": "echo", "payload": [number, call]}).encode()
                for call in range(10)
            ]
            await peer.raw.send(b"".join(frame(TEXT, text) for text in texts))
        await eventually(lambda: server.actions.statistics()[0].in_flight == 1000)
        go.set()
        for number, peer in enumerate(peers):
            replies = [await peer.receive_type("response") for _ in range(10)]
            assert sorted(reply["id"] for reply in replies) == list(range(10))
            assert all(reply["data"] == [number, reply["id"]] for reply in replies)
    assert server.actions.statistics()[0].in_flight == 0


async def test_more_than_the_bound_is_refused_for_this_peer_only() -> None:
    """Its earlier ones go on; others may ask."""
    async with running(max_requests=3) as server:
        port = server.address[1]
        go = trio.Event()

        @server.handler("wait")
        async def wait() -> None:
            await go.wait()

        async with open_websocket(port) as peer, open_websocket(port) as other:
            for number in range(5):
                await peer.send_json({"type": "request", "id": f"r{number}", "action": "wait"})
            refused = [await peer.receive_type("error") for _ in range(2)]
            assert [(reply["id"], reply["code"]) for reply in refused] == [
                ("r3", "LIMIT_EXCEEDED"),
                ("r4", "LIMIT_EXCEEDED"),
            ]
            await other.send_json({"type": "request", "id": "o", "action": "wait"})
            await eventually(lambda: server.actions.statistics()[0].in_flight == 4)
            go.set()
            assert {(await peer.receive_type("response"))["id"] for _ in range(3)} == {"r0", "r1", "r2"}
            assert (await other.receive_type("response"))["id"] == "o"
            assert (await peer.command("request", action="wait"))["type"] == "response"


async def test_concurrency_of_an_action_is_bounded_over_all_peers(server: Server, port: int) -> None:
    """Beyond its slots calls wait, beyond the waiting they are told to come back."""
    running_now = most = 0
    go = trio.Event()

    @server.handler("work", concurrency=2, waiting=2)
    async def work() -> None:
        nonlocal running_now, most
        running_now += 1
        most = max(most, running_now)
        await go.wait()
        running_now -= 1

    async with AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(open_websocket(port)) for _ in range(5)]
        for peer in peers[:4]:
            await peer.send_json({"type": "request", "id": 1, "action": "work"})
            await peer.barrier()
        refused = await peers[4].command("request", action="work")
        assert (refused["code"], refused["retry_after"]) == ("UNAVAILABLE", 1.0)
        go.set()
        for peer in peers[:4]:
            await peer.receive_type("response")
    assert most == 2


async def test_open_breaker_refuses_with_the_time_to_come_back(
    server: Server, port: int, log_entries: list[dict[str, Any]]
) -> None:
    """What keeps failing is not called any more; the peer learns when to try again."""
    calls = 0

    @server.handler("flaky", breaker=CircuitBreaker("flaky", failures=2, retry_seconds=30.0))
    async def flaky() -> None:
        nonlocal calls
        calls += 1
        raise OSError("down")

    async with open_websocket(port) as peer, open_websocket(port) as other:
        for _ in range(2):
            assert (await peer.command("request", action="flaky"))["code"] == "INTERNAL_ERROR"
        refused = await other.command("request", action="flaky")
        assert refused["code"] == "UNAVAILABLE"
        assert 0 < refused["retry_after"] <= 30
    assert calls == 2
    log_entries.clear()


async def test_bug_of_a_handler_shows_nothing_of_itself(
    server: Server, port: int, log_entries: list[dict[str, Any]]
) -> None:
    """The peer gets a code and a trace id, the log the rest; the connection lives."""

    @server.handler("fail")
    async def fail() -> None:
        raise KeyError("internal name")

    async with open_websocket(port) as peer:
        reply = await peer.command("request", action="fail", trace_id="t-9")
        assert (reply["code"], reply["trace_id"]) == ("INTERNAL_ERROR", "t-9")
        assert "internal name" not in json.dumps(reply)
        await peer.barrier()
    (entry,) = log_entries
    assert entry["trace_id"] == "t-9"
    log_entries.clear()


async def test_action_for_users_refuses_an_anonymous_peer() -> None:
    """And knows who asks once it has logged in."""
    async with running(authenticate=know_ann) as server:

        @server.handler("whoami", allow=Access.AUTHENTICATED)
        async def whoami(caller: Caller) -> list[Any]:
            return [caller.user, sorted(caller.roles)]

        async with open_websocket(server.address[1]) as peer:
            assert (await peer.command("request", action="whoami"))["code"] == "AUTH_REQUIRED"
            await peer.command("auth", token="ann")
            assert (await peer.command("request", action="whoami"))["data"] == ["7", ["dev"]]


async def test_request_within_a_batch_is_refused(server: Server, port: int) -> None:
    """A request takes its time, and the replies of a batch come together."""

    @server.handler("any")
    async def anything() -> None:
        raise AssertionError

    async with open_websocket(port) as peer:
        reply = await peer.command("batch", commands=[{"type": "request", "id": 1, "action": "any"}])
        assert [found["code"] for found in reply["replies"]] == ["BAD_REQUEST"]


async def test_foreign_client_asks(server: Server, port: int) -> None:
    """With other people's WebSocket code, from a thread."""

    @server.handler("upper")
    def upper(text: str) -> str:
        return text.upper()

    def ask() -> dict[str, Any]:
        with websockets.sync.client.connect(f"ws://127.0.0.1:{port}/ws", compression=None) as client:
            assert json.loads(client.recv(5))["type"] == "welcome"
            client.send('{"type":"request","id":"q","action":"upper","payload":"straße"}')
            reply: dict[str, Any] = json.loads(client.recv(5))
            return reply

    reply = await trio.to_thread.run_sync(ask)
    assert (reply["id"], reply["data"]) == ("q", "STRASSE")
