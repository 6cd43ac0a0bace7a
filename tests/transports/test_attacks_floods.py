"""Attacks by mere quantity: of silence, of connections, of commands, of frames, of brackets.

Each is refused with its code and counted, and a bystander gets each of its messages, in time. Elsewhere stand: heads
that drip (`test_hostile`), TLS that does not come (`test_tls`), those who never read (`test_hostile`,
`test_backpressure`), the bound of all connections (`test_websocket`), floods that end at the bounds of tables and
single hostile members (`test_attacks`), tricks with close frames and single fragments (`test_rfc6455`).
"""

from __future__ import annotations

import math
import socket
import struct
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from realtime.auth import Identity
from realtime.routes import Route, Transport
from realtime.server import Server
from tests.bystanders import audited, bystander
from tests.peers import (
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Closed,
    EventPeer,
    Peer,
    Response,
    WebSocketPeer,
    connect,
    eventually,
    frame,
    open_events,
    open_websocket,
    post_command,
    request_bytes,
    upgrade_bytes,
    upgraded,
)
from tests.transports.conftest import PATIENCE_SECONDS, jump, running
from tests.transports.test_attacks import check, consequences, text_of

JWT = {"jwt_algorithms": ["HS256"], "jwt_secret": "a secret of at least thirty-two bytes"}


def authenticate(token: str) -> Identity:
    """Everybody is who he says he is."""
    return Identity(token)


def bearer(user: str) -> str:
    """The header line of a login."""
    return f"Authorization: Bearer {user}"


@asynccontextmanager
async def attacked(**options: Any) -> AsyncIterator[Server]:
    """A server with an audit log and a bystander."""
    async with running(audit=True, **options) as server, bystander(server):
        yield server


async def answer_to(port: int, request: bytes) -> Response:
    """The response to a request on a connection of its own; there may be one without a request."""
    async with connect(port) as raw:
        try:
            await raw.send(request)
        except trio.BrokenResourceError:
            pass  # it is answered all the same
        return await raw.read_response()


@asynccontextmanager
async def connect_from(address: str, port: int) -> AsyncIterator[Peer]:
    """A connection of somebody who is at another address."""
    with trio.socket.socket() as raw:
        await raw.bind((address, 0))
        await raw.connect(("127.0.0.1", port))
        tcp = trio.SocketStream(raw)
        yield Peer(tcp, tcp)


ELSEWHERE = "127.0.0.2"
two_addresses = pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 needs to be set up")


# -- slowness ----------------------------------------------------------------------------------------------------

API_KEY = {"X-Api-Key": "key"}
SLOW = {
    "nothing": b"",
    "half_a_method": b"GE",
    "half_a_head": b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-",
    "half_an_upgrade": upgrade_bytes()[:-2],
    "half_a_publish": request_bytes("POST", "/api/v1/publish", headers=API_KEY, body=b'{"topic":"room:a","data":1}')[
        :-1
    ],
    "half_a_command": request_bytes("POST", "/sse/c_x", body=b'{"type":"ping","id":1}')[:-1],
    "half_a_body_for_the_application": request_bytes("POST", "/api/v1/batch", headers=API_KEY, body=b"[]")[:-1],
    "half_a_chunk_for_the_application": b"POST /api/v1/batch HTTP/1.1\r\nHost: x\r\nX-Api-Key: key\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n10\r\n[",
}
#: What a machine may add to that which has much else to do.
SLACK_SECONDS = 5.0


@pytest.mark.parametrize("phase", SLOW)
async def test_slow_loris(phase: str, clock: MockClock) -> None:
    """Whatever is left out of a request, its connection ends in time, and nothing but a refusal was said."""
    async with attacked(
        request_timeout_seconds=PATIENCE_SECONDS, write_stall_timeout_seconds=PATIENCE_SECONDS
    ) as server:
        async with connect(server.address[1]) as raw:
            await raw.send(SLOW[phase])
            began = trio.current_time()
            await jump(clock)
            answer = await raw.read_to_end()
            assert trio.current_time() - began < PATIENCE_SECONDS + SLACK_SECONDS
        assert answer == b"" or answer.startswith((b"HTTP/1.1 408 ", b"HTTP/1.1 400 "))


async def test_slow_loris_of_two_hundred(clock: MockClock) -> None:
    """They hold a place until their deadline; whoever comes meanwhile is served at once."""
    async with attacked(
        request_timeout_seconds=PATIENCE_SECONDS, write_stall_timeout_seconds=PATIENCE_SECONDS, refusal_rate=None
    ) as server:
        port, ended = server.address[1], 0

        async def dawdle(text: bytes) -> None:
            nonlocal ended
            async with connect(port) as raw:
                await raw.send(text)
                await raw.read_to_end()
                ended += 1

        async with trio.open_nursery() as nursery:
            for _ in range(200 // len(SLOW)):
                for text in SLOW.values():
                    nursery.start_soon(dawdle, text)
            await trio.testing.wait_all_tasks_blocked()
            began = trio.current_time()
            assert (await answer_to(port, request_bytes("GET", "/healthz"))).status == 200
            async with open_websocket(port) as peer:
                await peer.barrier()
            assert trio.current_time() - began < SLACK_SECONDS
            clock.jump(PATIENCE_SECONDS)
            await eventually(lambda: ended == 200)


async def test_slow_loris_again_and_again() -> None:
    """Who is refused for it too often is listened to no more."""
    async with attacked(request_timeout_seconds=0.05, refusal_rate=0.01, refusal_burst=3) as server:
        statuses = [(await answer_to(server.address[1], b"GET / HT")).status for _ in range(5)]
        assert statuses == [408, 408, 408, 429, 429]
        assert server.statistics().refused == {"bad_request": 3, "shut_out": 2}


async def test_slow_loris_of_half_a_frame() -> None:
    """A frame of which the rest does not come: its peer answers no ping either."""
    # Without a bystander, whose pong could be late too.
    async with running(ping_interval_seconds=0.2, pong_timeout_seconds=0.2) as server:
        for half in (frame(TEXT, b'{"type":"ping","id":1}')[:-1], frame(TEXT, b"{", fin=False)[:3], b"\x81"):
            async with upgraded(server.address[1], "/ws") as peer:
                await peer.raw.send(half)
                began = trio.current_time()
                assert await close_code(peer) == 4108
                assert trio.current_time() - began < 0.4 + SLACK_SECONDS


async def test_slow_loris_of_a_frame_byte_by_byte() -> None:
    """Each byte is a sign of life, but none is a command: who may not be idle may not do this."""
    # Without a bystander, who would be idle too.
    async with running(idle_timeout_seconds=0.4) as server, open_websocket(server.address[1]) as peer:
        began = trio.current_time()
        with pytest.raises(trio.BrokenResourceError):
            for byte in frame(TEXT, b" " * 60_000):
                await peer.raw.send(bytes([byte]))
                await trio.sleep(0.02)
        assert trio.current_time() - began < 2 * SLACK_SECONDS


async def close_code(peer: WebSocketPeer) -> int:
    """The code of the close frame; what comes before it is thrown away, and no ping is answered."""
    while (found := await peer.next_frame()).opcode != CLOSE:
        pass
    code: int = struct.unpack("!H", found.payload[:2])[0]
    return code


# -- connections -------------------------------------------------------------------------------------------------


@two_addresses
async def test_flood_of_silent_connections() -> None:
    """An address may have so many; the next one is told to come back, and when one goes it may. Others may come."""
    # Twenty of one address; those who are too many do not count as its connections.
    async with attacked(max_handshakes=160, max_connections_per_address=25) as server:
        port = server.address[1]
        async with AsyncExitStack() as crowd:
            for _ in range(20):
                last = await crowd.enter_async_context(connect(port))
            # Not one byte is read of those who are too many.
            for request in (b"", upgrade_bytes()) * 5:
                await check_refusal(await answer_to(port, request), 503, "UNAVAILABLE")
            async with connect_from(ELSEWHERE, port) as neighbour:
                assert (await neighbour.request("GET", "/healthz")).status == 200
            assert server.statistics().refused == {"too_many_handshakes": 10}
            await last.aclose()
            await until_served(port)


@two_addresses
async def test_flood_of_silent_connections_from_many_addresses() -> None:
    """However few each of them has, all together are no more than there may be."""
    async with attacked(max_handshakes=2) as server:  # one of each address
        port = server.address[1]
        async with connect(port) as one, connect_from(ELSEWHERE, port), connect_from("127.0.0.3", port) as third:
            await check_refusal(await third.read_response(), 503, "UNAVAILABLE")
            assert server.statistics().refused == {"too_many_handshakes": 1}
            assert (await one.request("GET", "/healthz")).status == 200
            async with connect_from("127.0.0.3", port) as third:
                assert (await third.request("GET", "/healthz")).status == 200


async def test_silent_connections_whose_time_is_up(clock: MockClock) -> None:
    """They are counted, and when they are gone their address has room for as many as before."""
    # Three of one address. Those who speak up later are in time, though the machine pauses.
    async with attacked(max_handshakes=24, request_timeout_seconds=PATIENCE_SECONDS) as server:
        port = server.address[1]
        async with AsyncExitStack() as crowd:
            crowd_of_three = [await crowd.enter_async_context(connect(port)) for _ in range(3)]
            await jump(clock)
            for silent in crowd_of_three:
                assert await silent.read_to_end() == b""
            assert server.statistics().refused == {"silent": 3}
        with trio.fail_after(5):
            while await served_at_once(port, 3) < 3:
                pass
        assert await served_at_once(port, 4) == 3
        assert server.statistics().refused["silent"] == 3


async def served_at_once(port: int, count: int) -> int:
    """How many are served of so many that are there before any of them says a word."""
    async with AsyncExitStack() as crowd:
        peers = [await crowd.enter_async_context(connect(port)) for _ in range(count)]
        served = 0
        for peer in peers:
            with suppress(trio.BrokenResourceError):  # it is answered all the same
                await peer.send(request_bytes("GET", "/healthz"))
            served += (await peer.read_response()).status == 200
        return served


@two_addresses
@pytest.mark.parametrize(
    ("limit", "status", "code", "reason"),
    [
        ({"max_connections_per_address": 3}, 429, "LIMIT_EXCEEDED", "too_many_of_address"),
        ({"max_handshakes": 16}, 503, "UNAVAILABLE", "too_many_handshakes"),
    ],
    ids=["connections", "silence"],
)
async def test_flood_over_an_addresss_own_limit_uses_up_nothing_of_others(
    limit: dict[str, int], status: int, code: str, reason: str
) -> None:
    """The rate at which all are let in is for those who may be."""
    # Three are the bystander's and those that are silent, so three are left.
    async with attacked(admission_rate=0.001, admission_burst=6, **limit) as server:
        port = server.address[1]
        async with connect(port), connect(port):
            for _ in range(20):
                await check_refusal(await answer_to(port, b""), status, code)
            assert server.statistics().refused == {reason: 20}
            for _ in range(3):
                async with connect_from(ELSEWHERE, port) as neighbour:
                    assert (await neighbour.request("GET", "/healthz")).status == 200
            async with connect_from(ELSEWHERE, port) as neighbour:
                await check_refusal(await neighbour.read_response(), 503, "UNAVAILABLE")
            assert server.statistics().refused == {reason: 20, "admission_rate": 1}


async def test_flood_of_connections_from_one_address() -> None:
    """Over its number an address is refused, whatever its connections do; one that ends makes room."""
    async with attacked(max_connections_per_address=5) as server:  # one of them is the bystander's
        port = server.address[1]
        async with AsyncExitStack() as crowd:
            for _ in range(2):
                await crowd.enter_async_context(open_events(port, "topic=room:a"))
            await crowd.enter_async_context(connect(port))
            last = await crowd.enter_async_context(open_websocket(port))
            for request in (upgrade_bytes(), request_bytes("GET", "/sse?topic=room:a"), b""):
                await check_refusal(await answer_to(port, request), 429, "LIMIT_EXCEEDED")
            assert server.statistics().refused == {"too_many_of_address": 3}
            await last.raw.aclose()
            await until_served(port)


async def test_flood_of_connections_from_one_network_of_ipv6() -> None:
    """A customer's 64 bits are one address, of however many he makes use."""
    async with attacked(max_connections_per_address=2, trusted_proxies=["127.0.0.1"]) as server:
        port = server.address[1]
        async with AsyncExitStack() as crowd:
            for last in ("1", "ffff:1:2:3"):
                headers = [f"X-Forwarded-For: 2001:db8:0:1:{last if ':' in last else '0:0:0:' + last}"]
                await crowd.enter_async_context(open_websocket(port, headers=headers))
            headers = ["X-Forwarded-For: 2001:db8:0:1:a:b:c:d"]
            await check_refusal(await answer_to(port, upgrade_bytes(headers=headers)), 429, "LIMIT_EXCEEDED")
            async with open_websocket(port, headers=["X-Forwarded-For: 2001:db8:0:2::1"]) as neighbour:
                await neighbour.barrier()
            assert server.statistics().refused == {"too_many_of_address": 1}


async def test_flood_of_connections_over_ipv6() -> None:
    """The same without a proxy, as far as one machine can show it."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    async with running(host="::1", max_connections_per_address=3) as server:
        async with AsyncExitStack() as crowd:
            for number in range(5):
                tcp = await crowd.enter_async_context(await trio.open_tcp_stream("::1", server.address[1]))
                raw = Peer(tcp, tcp)
                if number < 3:
                    await raw.send(request_bytes("GET", "/healthz"))
                response = await raw.read_response()
                assert response.status == (200 if number < 3 else 429)
        assert server.statistics().refused == {"too_many_of_address": 2}


async def test_flood_of_connections_of_one_user() -> None:
    """On every transport and by both ways of logging in; another user is not concerned."""
    async with attacked(max_connections_per_user=2, authenticate=authenticate) as server:
        port = server.address[1]
        async with AsyncExitStack() as crowd:
            mine = [await crowd.enter_async_context(open_websocket(port, headers=[bearer("7")])) for _ in range(2)]
            async with upgraded(port, "/ws", headers=[bearer("7")]) as peer:
                pushes, closed = await peer.receive_to_close()
                assert (pushes[0]["code"], pushes[0]["retry_after"]) == ("LIMIT_EXCEEDED", 60)
                assert closed.code == 4103
            request = request_bytes("GET", "/sse?topic=room:a", headers={"Authorization": "Bearer 7"})
            await check_refusal(await answer_to(port, request), 429, "LIMIT_EXCEEDED")
            async with open_websocket(port) as peer:
                assert (await peer.command("auth", token="7"))["code"] == "LIMIT_EXCEEDED"
                assert (await peer.command("auth", token="8"))["type"] == "authenticated"
            assert server.statistics().refused["too_many_of_user"] == 3
            await mine[0].barrier()
            await mine[1].raw.aclose()
            await eventually(lambda: server.connections.count_of_user("7") == 1)
            async with open_websocket(port, headers=[bearer("7")]) as peer:
                await peer.barrier()


async def test_flood_of_connects() -> None:
    """Over the rate of admission nobody is let in, and who waits for as long as he is told to is."""
    # Who is not let in counts neither as silent nor as a connection: ten of each there may be.
    limits = {"max_handshakes": 80, "max_connections_per_address": 10}
    async with attacked(admission_rate=1, admission_burst=10, **limits) as server:
        port = server.address[1]
        answers = [await answer_to(port, request_bytes("GET", "/healthz")) for _ in range(40)]
        refused = [answer for answer in answers if answer.status != 200]
        assert 40 - len(refused) >= 9  # the bystander was the first of ten
        assert len(refused) > 10
        for answer in refused:
            await check_refusal(answer, 503, "UNAVAILABLE")
        assert server.statistics().refused == {"admission_rate": len(refused)}
        await trio.sleep(int(refused[-1].header("retry-after") or 0))
        assert (await answer_to(port, request_bytes("GET", "/healthz"))).status == 200


async def test_flood_of_refused_handshakes(log_entries: list[dict[str, Any]]) -> None:
    """After so many the address is answered unread; those of its connections that are open notice nothing."""
    async with attacked(refusal_rate=1, refusal_burst=20, **JWT) as server:
        port = server.address[1]
        upgrade = upgrade_bytes(headers=[bearer("no.such.token")])
        events = request_bytes("GET", "/sse?topic=room:a", headers={"Authorization": "Bearer no.such.token"})
        statuses = Counter([(await answer_to(port, request)).status for request in (upgrade, events) * 150])
        assert set(statuses) == {401, 429}
        assert 20 <= statuses[401] < 60
        refused = server.statistics().refused
        assert refused["credentials"] + refused["sse"] == statuses[401] == len(audited(log_entries, "refused"))
        assert refused["shut_out"] == statuses[429]
        answer = await unread_answer_to(port, upgrade)
        await check_refusal(answer, 429, "RATE_LIMIT_EXCEEDED")
        await trio.sleep(int(answer.header("retry-after") or 0))
        assert (await answer_to(port, upgrade)).status == 401


async def unread_answer_to(port: int, offence: bytes) -> Response:
    """What is answered to an offender of whom not one byte is read."""
    while True:
        # What time has forgiven, be it in a pause of the machine, is used up; now and then it forgives in between.
        while (await answer_to(port, offence)).status != 429:
            pass
        async with connect(port) as raw:
            with trio.move_on_after(1):
                return await raw.read_response()


@pytest.mark.parametrize("target", ["/poll?topic=room:a", "/api/v1/topics", "/sse/c_guessed"])
async def test_flood_of_guesses_on_one_connection(target: str) -> None:
    """A connection that was let in before is shut out like a new one."""
    async with running(dev=False, refusal_rate=1, refusal_burst=5, **JWT) as server, connect(server.address[1]) as raw:
        headers = {"Authorization": "Bearer no.such.token", "X-Connection-Secret": "guessed"}
        method = "POST" if target.startswith("/sse/") else "GET"
        statuses = []
        try:
            for _ in range(20):
                statuses.append((await raw.request(method, target, headers=headers, body=b"")).status)
        except (EOFError, trio.BrokenResourceError):
            pass
        assert statuses.count(401) + statuses.count(404) <= 6


async def ask_denied(port: int, path: str, headers: dict[str, str]) -> int | str:
    """What somebody is answered who asks for the topic of another: a status, or on a WebSocket a code."""
    target = f"{path}?topic=user:8&timeout=0"
    if path != "/ws":
        return (await answer_to(port, request_bytes("GET", target, headers=headers))).status
    async with upgraded(port, target, headers=[f"{name}: {value}" for name, value in headers.items()]) as peer:
        pushes, _ = await peer.receive_to_close()
        return str(pushes[0]["code"])


@pytest.mark.parametrize(("path", "answer"), [("/poll", 403), ("/sse", 403), ("/ws", "PERMISSION_DENIED")])
async def test_flood_of_denied_requests_of_one_user(path: str, answer: int | str) -> None:
    """Who has logged in answers for himself: a neighbour behind the same address is served."""
    async with attacked(refusal_rate=0.01, refusal_burst=3, authenticate=authenticate) as server:
        port = server.address[1]
        answers = [await ask_denied(port, path, {"Authorization": "Bearer 7"}) for _ in range(150)]
        assert set(answers) == {answer}
        assert server.statistics().audit["refused"] == 150
        assert "shut_out" not in server.statistics().refused
        assert (await answer_to(port, request_bytes("GET", "/poll?topic=room:a&timeout=0"))).status == 200


async def test_flood_of_denied_requests_of_nobody_in_particular() -> None:
    """Who has no name answers for his address."""
    async with attacked(refusal_rate=0.01, refusal_burst=3) as server:
        statuses = [await ask_denied(server.address[1], "/poll", {}) for _ in range(5)]
        assert statuses == [403, 403, 403, 429, 429]
        assert server.statistics().refused == {"request": 3, "shut_out": 2}


async def test_flood_of_the_log(log_entries: list[dict[str, Any]]) -> None:
    """What is refused is written down up to a rate; of the rest the number is."""
    async with attacked(refusal_rate=None, **JWT) as server:
        for _ in range(400):
            await answer_to(server.address[1], upgrade_bytes(headers=[bearer("no.such.token")]))
        assert server.statistics().refused == {"credentials": 400}
        assert server.statistics().audit["refused"] == 400
    told = audited(log_entries, "refused")
    lines = [entry for entry in told if entry["event"] == "audit"]
    left_out = sum(entry["count"] for entry in told if entry["event"] == "audit events left out")
    assert len(lines) < 300
    assert len(lines) + left_out == 400


async def check_refusal(response: Response, status: int, code: str) -> None:
    """An error that says when to come back, in its head and in its body."""
    assert response.status == status
    told = response.json()
    assert (told["type"], told["code"]) == ("error", code)
    assert int(response.header("retry-after") or 0) >= told["retry_after"] >= 1


async def until_served(port: int) -> None:
    """Wait until a connection is let in again."""
    with trio.fail_after(SLACK_SECONDS):
        while (await answer_to(port, request_bytes("GET", "/healthz"))).status != 200:
            await trio.sleep(0.01)


# -- commands ----------------------------------------------------------------------------------------------------


async def test_flood_of_subscriptions(log_entries: list[dict[str, Any]], clock: MockClock) -> None:
    """Over the rate they are refused; one that waits as long as it is told to is not."""
    async with attacked(command_rate=0.2, command_burst=10) as server, open_websocket(server.address[1]) as peer:
        for number in range(10):
            assert (await peer.command("subscribe", topic=f"room:{number}"))["type"] == "subscribed"
        refused = 0
        while (reply := await peer.command("subscribe", topic="room:more"))["type"] == "error":
            assert reply["code"] == "RATE_LIMIT_EXCEEDED"
            assert 0 < reply["retry_after"] <= 5
            refused += 1
            if refused > 5:
                clock.jump(reply["retry_after"])
        assert refused == 6
        assert server.statistics().refused == {"command_rate": 6}
        assert len(audited(log_entries, "rate_limited")) == 6
        await peer.command("ping")  # and this connection is as good as any other
        assert server.statistics().hub.subscriptions == 12


@pytest.mark.parametrize("kind", ["subscribe", "ping", "history", "nonsense"])
async def test_flood_of_commands_without_end(kind: str) -> None:
    """Who goes on and on after a hundred refusals is sent away, for a time that he is told."""
    async with attacked(command_rate=10, command_burst=20) as server, open_websocket(server.address[1]) as peer:
        text = text_of(kind, {"topic": b'"room:a"'})
        await peer.raw.send(frame(TEXT, text) * 300)
        pushes, closed = await peer.receive_to_close()
        assert closed.code == 4029
        told = pushes.pop()
        assert (told["type"], told["code"], told["reconnect"]) == ("disconnect", 4029, True)
        assert told["retry_after"] > 0
        codes = Counter(push.get("code") for push in pushes)
        assert 100 <= codes["RATE_LIMIT_EXCEEDED"] <= 110
        assert server.statistics().refused["command_rate"] == codes["RATE_LIMIT_EXCEEDED"]
        async with open_websocket(server.address[1]) as other:
            await other.barrier()


async def test_flood_of_commands_in_one_batch() -> None:
    """A thousand commands are a thousand, however they are wrapped."""
    async with attacked(command_rate=0.1, command_burst=951) as server, open_websocket(server.address[1]) as peer:
        reply = await peer.command("batch", commands=[{"type": "ping", "id": number} for number in range(1_000)])
        codes = Counter(part.get("code") for part in reply["replies"])
        assert codes[None] + codes["RATE_LIMIT_EXCEEDED"] == 1_000
        assert 950 <= codes[None] < 955
        assert (await peer.command("ping"))["code"] == "RATE_LIMIT_EXCEEDED"
        async with open_websocket(server.address[1]) as other:
            await other.raw.send(frame(TEXT, text_of("batch", {"commands": pings(100)})) * 200)
            _, closed = await other.receive_to_close()
            assert closed.code == 4029


def pings(count: int) -> bytes:
    """A list of so many commands."""
    return b"[" + b",".join([b'{"type":"ping","id":1}'] * count) + b"]"


async def test_flood_of_posted_commands(clock: MockClock) -> None:
    """Beside an event stream a command is a command; over the rate it is answered 429, and at last the stream ends."""
    async with attacked(command_rate=0.2, command_burst=10) as server:
        port = server.address[1]
        async with open_events(port, "topic=room:a") as stream:
            answers = [await post_command(port, stream, "ping") for _ in range(12)]
            refused = [answer for answer in answers if answer.status != 200]
            assert refused
            for answer in refused:
                assert answer.status == 429
                assert answer.json()["code"] == "RATE_LIMIT_EXCEEDED"
                assert int(answer.header("retry-after") or 0) >= answer.json()["retry_after"] > 0
            clock.jump(refused[-1].json()["retry_after"])
            assert (await post_command(port, stream, "ping")).status == 200
            async with trio.open_nursery() as nursery:
                nursery.start_soon(post_without_end, port, stream)
                told = await stream.receive_type("disconnect")
                nursery.cancel_scope.cancel()
            assert told.data["code"] == 4029
            assert stream.retry is not None or (await stream.raw.read_to_end()).startswith(b"retry:")


async def post_without_end(port: int, stream: EventPeer) -> None:
    """Send commands as fast as they are answered."""
    while True:
        await post_command(port, stream, "ping")


async def test_flood_of_publishes_by_one_user_over_two_connections(clock: MockClock) -> None:
    """What a user publishes is counted together, so that more connections are no more messages."""
    async with attacked(publish_rate=0.2, publish_burst=10, authenticate=authenticate) as server:
        port = server.address[1]
        async with (
            open_websocket(port, headers=[bearer("7")]) as one,
            open_websocket(port, headers=[bearer("7")]) as two,
            open_websocket(port, headers=[bearer("8")]) as neighbour,
        ):
            replies = [await peer.command("publish", topic="room:a", data=1) for peer in (one, two) * 15]
            refused = [reply for reply in replies if reply["type"] == "error"]
            assert 10 <= 30 - len(refused) <= 15
            assert {reply["code"] for reply in refused} == {"RATE_LIMIT_EXCEEDED"}
            assert server.statistics().refused == {"publish_rate": len(refused)}
            assert (await neighbour.command("publish", topic="room:a", data=1))["type"] == "published"
            clock.jump(refused[-1]["retry_after"])
            assert (await one.command("publish", topic="room:a", data=1))["type"] == "published"


async def test_flood_of_polls() -> None:
    """Polls are the commands of those who have no connection."""
    async with attacked(command_rate=1, command_burst=10, authenticate=authenticate) as server:
        port = server.address[1]
        poll = request_bytes("GET", "/poll?topic=room:a&timeout=0", headers={"Authorization": "Bearer 7"})
        answers = [await answer_to(port, poll) for _ in range(30)]
        refused = [answer for answer in answers if answer.status != 200]
        assert 10 <= 30 - len(refused) <= 15
        for answer in refused:
            assert (answer.status, answer.json()["code"]) == (429, "RATE_LIMIT_EXCEEDED")
            assert answer.header("retry-after") == "1"
        assert server.statistics().refused == {"poll_rate": len(refused)}
        assert (await answer_to(port, poll.replace(b"Bearer 7", b"Bearer 8"))).status == 200


FORWARDED = {"X-Forwarded-For": "203.0.113.7"}
NEIGHBOUR = {"X-Forwarded-For": "203.0.113.8"}


@pytest.mark.parametrize("headers", [{}, FORWARDED], ids=["direct", "behind_a_proxy"])
async def test_flood_of_polls_that_does_not_end(headers: dict[str, str], log_entries: list[dict[str, Any]]) -> None:
    """Over the rate polls go to the log, and in the end the address, which may be behind a proxy, is shut out."""
    options = {"command_rate": 0.01, "command_burst": 5, "refusal_rate": 0.01, "refusal_burst": 3}
    async with attacked(trusted_proxies=["127.0.0.1"] if headers else [], **options) as server:
        port = server.address[1]
        poll = request_bytes("GET", "/poll?topic=room:a&timeout=0", headers=headers)
        statuses = []
        with pytest.raises(EOFError):
            async with connect(port) as raw:
                for _ in range(20):
                    await raw.send(poll)
                    statuses.append((await raw.read_response()).status)
        assert statuses == [200] * 5 + [429] * 3
        address = headers.get("X-Forwarded-For", "127.0.0.1")
        told = audited(log_entries, "rate_limited")
        assert [(line["address"], line["code"]) for line in told] == [(address, "RATE_LIMIT_EXCEEDED")] * 3
        assert server.statistics().audit["rate_limited"] == 3
        await check_refusal(await answer_to(port, poll), 429, "RATE_LIMIT_EXCEEDED")
        assert server.statistics().refused == {"poll_rate": 3, "shut_out": 1}
        if headers:
            neighbours = request_bytes("GET", "/poll?topic=room:a&timeout=0", headers=NEIGHBOUR)
            assert (await answer_to(port, neighbours)).status == 200


async def test_flood_of_polls_of_a_user_with_neighbours(log_entries: list[dict[str, Any]]) -> None:
    """A user answers for himself: others at the address are served, and the log says who it was."""
    options = {"command_rate": 0.01, "command_burst": 5, "refusal_rate": 0.01, "refusal_burst": 3}
    async with attacked(authenticate=authenticate, **options) as server:
        port = server.address[1]
        poll = request_bytes("GET", "/poll?topic=room:a&timeout=0", headers={"Authorization": "Bearer 7"})
        assert [(await answer_to(port, poll)).status for _ in range(12)] == [200] * 5 + [429] * 7
        assert {line["user"] for line in audited(log_entries, "rate_limited")} == {"7"}
        assert (await answer_to(port, poll.replace(b"Bearer 7", b"Bearer 8"))).status == 200
        assert server.statistics().refused == {"poll_rate": 7}


async def test_flood_of_states_that_wait_behind_a_proxy() -> None:
    """A route that is asked for a state may wait too: it is counted like a poll."""
    asked = trio.Event()

    async def slow(_topic: str) -> dict[str, Any]:
        asked.set()
        await trio.sleep_forever()
        raise AssertionError

    route = Route(path="/state/{name}", topic="room:{name}", transport=Transport.STATE, state=slow)
    options = {"trusted_proxies": ["127.0.0.1"], "max_connections_per_address": 1}
    async with attacked(routes=[route], **options) as server:
        ask = request_bytes("GET", "/state/a", headers=FORWARDED)
        async with connect(server.address[1]) as raw:
            await raw.send(ask)
            await asked.wait()
            await check_refusal(await answer_to(server.address[1], ask), 429, "LIMIT_EXCEEDED")


async def test_flood_of_polls_that_wait_behind_a_proxy() -> None:
    """They count with the streams of the address that the proxy names, until they are answered."""
    async with attacked(trusted_proxies=["127.0.0.1"], max_connections_per_address=2) as server:
        port = server.address[1]
        waiting = request_bytes("GET", "/poll?topic=room:a&timeout=8", headers=FORWARDED)
        at_once = request_bytes("GET", "/poll?topic=room:a&timeout=0", headers=FORWARDED)
        async with open_events(port, "topic=room:b", headers=FORWARDED), connect(port) as raw:
            await raw.send(waiting)
            await eventually(lambda: len(server.polls) == 1)
            await check_refusal(await answer_to(port, at_once), 429, "LIMIT_EXCEEDED")
            assert (await answer_to(port, at_once.replace(b"113.7", b"113.8"))).status == 200
            await server.publish("room:a", "come back")
            assert (await raw.read_response()).status == 200
            assert (await answer_to(port, at_once)).status == 200
            await raw.send(waiting)
            await eventually(lambda: len(server.polls) == 1)
            await check_refusal(await answer_to(port, at_once), 429, "LIMIT_EXCEEDED")
            await raw.aclose()
            await eventually(lambda: len(server.polls) == 0)
            assert (await answer_to(port, at_once)).status == 200
            assert server.statistics().refused == {"too_many_of_address": 2}


async def test_flood_of_polls_that_wait_of_one_user() -> None:
    """A user has as many of them as connections, from wherever they come; another is served."""
    async with attacked(max_connections_per_user=2, authenticate=authenticate) as server:
        port = server.address[1]
        at_once = request_bytes("GET", "/poll?topic=room:a&timeout=0", headers={"Authorization": "Bearer 7"})
        async with connect(port) as one, connect(port) as two:
            for raw in (one, two):
                await raw.send(at_once.replace(b"timeout=0", b"timeout=8"))
            await eventually(lambda: len(server.polls) == 2)
            await check_refusal(await answer_to(port, at_once), 429, "LIMIT_EXCEEDED")
            assert (await answer_to(port, at_once.replace(b"Bearer 7", b"Bearer 8"))).status == 200
            await one.aclose()
            await eventually(lambda: len(server.polls) == 1)
            assert (await answer_to(port, at_once)).status == 200
            assert server.statistics().refused == {"too_many_of_user": 1}


async def test_flooder_is_told_no_shorter_time_by_the_head_than_by_the_body() -> None:
    """``Retry-After`` has whole seconds: rounded up, or who honours it is refused again."""
    async with attacked(command_rate=0.15, command_burst=1) as server:
        poll = request_bytes("GET", "/poll?topic=room:a&timeout=0")
        await answer_to(server.address[1], poll)
        answers = [await answer_to(server.address[1], poll)]
        async with open_events(server.address[1], "topic=room:a") as stream:
            await post_command(server.address[1], stream, "ping")
            answers.append(await post_command(server.address[1], stream, "ping"))
        for answer in answers:
            assert answer.status == 429
            assert int(answer.header("retry-after") or 0) == math.ceil(answer.json()["retry_after"]) > 1


# -- frames ------------------------------------------------------------------------------------------------------


async def test_flood_of_ping_frames() -> None:
    """Over the rate they are not answered, and who goes on is sent away."""
    async with attacked(command_rate=1, command_burst=20) as server, open_websocket(server.address[1]) as peer:
        await peer.raw.send(frame(PING, b"x") * 300)
        pongs = 0
        while (found := await peer.next_frame()).opcode != CLOSE:
            pongs += found.opcode == PONG
        assert found.payload[:2] == struct.pack("!H", 4029)
        assert 20 <= pongs <= 25
        assert server.statistics().refused["ping_rate"] >= 100
        assert server.statistics().audit["rate_limited"] >= 100


async def test_flood_of_pong_frames_nobody_asked_for() -> None:
    """They are thrown away; whatever else that connection says is heard."""
    async with attacked() as server, open_websocket(server.address[1]) as peer:
        for _ in range(20):
            await peer.raw.send(frame(PONG, b"x" * 100) * 1_000)
        await peer.barrier()


async def test_flood_of_empty_fragments() -> None:
    """A message that never ends, of pieces that weigh nothing: they are not collected without end."""
    async with attacked() as server, open_websocket(server.address[1]) as peer:
        with pytest.raises((Closed, trio.BrokenResourceError)):
            await peer.send_frame(TEXT, fin=False)
            for _ in range(20):
                await peer.raw.send(frame(CONTINUATION, fin=False) * 1_000)
            await peer.send_frame(CONTINUATION, b'{"type":"ping","id":1}')
            while (await peer.receive())["type"] != "pong":
                pass


async def test_flood_of_empty_messages() -> None:
    """The first of them is one too many."""
    async with attacked() as server, open_websocket(server.address[1]) as peer:
        await peer.raw.send(frame(TEXT) * 5_000)
        pushes, closed = await peer.receive_to_close()
        assert [push["type"] for push in pushes] == ["error", "disconnect"]
        assert closed.code == 4000


async def test_flood_of_messages_in_fragments() -> None:
    """In however many pieces they come, commands are counted, and the pieces before the last like pings."""
    pieces = (
        frame(TEXT, b'{"type":"pi', fin=False) + frame(CONTINUATION, fin=False) + frame(CONTINUATION, b'ng","id":1}')
    )
    async with attacked(command_rate=1, command_burst=20) as server, open_websocket(server.address[1]) as peer:
        await peer.raw.send(pieces * 300)
        pushes, closed = await peer.receive_to_close()
        assert Counter(push["type"] for push in pushes)["pong"] in range(6, 10)
        assert closed.code == 4029


# -- JSON --------------------------------------------------------------------------------------------------------

BOMBS = {
    "brackets": b"[" * 65_000,
    "braces": b'{"":' * 16_000,
    "one_level_too_many": b"[" * 65 + b"]" * 65,
    "brackets_in_a_text": b'"' + b"[" * 65_000 + b'"',
    "brackets_behind_escapes": b'["' + b'\\"[' * 20_000 + b'"]',
    "backslashes": b'"' + b"\\\\" * 32_000 + b'"',
    "empty_arrays": b"[" + b"[]," * 21_000 + b"[]]",
    "many_keys": b"{" + b",".join(b'"%d":1' % number for number in range(30_000)) + b"}",
    "same_key": b"{" + b'"a":1,' * 10_000 + b'"a":2}',
    "same_type": b'{"type":"publish",' + b'"type":"ping",' * 4_000 + b'"id":1}',
    "huge_exponents": b"[" + b"1e999999," * 7_000 + b"0]",
    "huge_number": b"9" * 65_000,
    "long_exponent": b"1e" + b"9" * 60_000,
    "zeros": b"0." + b"0" * 60_000 + b"1",
    "escapes": b'"' + b"\\u0041" * 10_000 + b'"',
    "surrogates": b'"' + b"\\ud800" * 10_000 + b'"',
    "half_a_pair": b'"' + b"\\ud83d\\u0041" * 5_000 + b'"',
    "overlong_utf8": b'"\xc0\xaf"',
    "surrogate_in_utf8": b'"\xed\xa0\x80"',
    "beyond_unicode": b'"\xf4\x90\x80\x80"',
    "blanks": b" " * 65_000,
}
PLACES = {
    "text": b"%b",
    "data": b'{"type":"publish","id":"attack","topic":"room:a","data":%b}',
    "payload": b'{"type":"request","id":"attack","action":"echo","payload":%b}',
    "filter": b'{"type":"subscribe","id":"attack","topic":"room:a","filter":%b}',
    "unknown_member": b'{"type":"ping","id":"attack","more":%b}',
    "command_of_a_batch": b'{"type":"batch","id":"attack","commands":[%b]}',
}


@pytest.mark.parametrize("place", PLACES)
async def test_json_bomb(place: str) -> None:
    """In each place where JSON is read: one answer or a documented close, and soon; nobody else waits for that."""
    async with attacked(command_rate=None, max_message_bytes=1 << 20, max_topics=1_000) as server:

        @server.handler("echo")
        def echo(value: Any) -> Any:
            return value

        for bomb in BOMBS.values():
            async with open_websocket(server.address[1]) as peer:
                began = trio.current_time()
                await peer.send_frame(TEXT, PLACES[place] % bomb)
                check(*await consequences(peer), repr(bomb[:40]))
                assert trio.current_time() - began < SLACK_SECONDS


@pytest.mark.parametrize("target", ["/api/v1/publish", "/api/v1/batch", "/api/v1/broadcast", "/api/v1/tickets"])
async def test_json_bomb_of_a_back_end(target: str) -> None:
    """Who holds a key is refused in the same words, and does not hold up others either."""
    async with attacked() as server:
        for name, bomb in BOMBS.items():
            for body in (bomb, b'{"topic":"room:a","data":%b}' % bomb, b'[{"topic":"room:a","data":%b}]' % bomb):
                began = trio.current_time()
                answer = await answer_to(server.address[1], request_bytes("POST", target, headers=API_KEY, body=body))
                assert answer.status in (200, 400, 413), (name, answer)
                assert trio.current_time() - began < SLACK_SECONDS
