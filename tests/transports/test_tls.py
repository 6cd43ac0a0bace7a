"""TLS on the one port: everything that works without it."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
import websockets
from trio.testing import MockClock

from realtime.server import Server
from tests.peers import connect, eventually, leaving_nothing_behind, open_events, open_websocket, request_bytes
from tests.transports.conftest import PATIENCE_SECONDS, jump, running


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Who signs the server's certificate."""
    return trustme.CA()


@pytest.fixture(scope="module")
def files(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The settings that turn TLS on."""
    folder: Path = tmp_path_factory.mktemp("tls")
    issued = authority.issue_cert("localhost", "127.0.0.1")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    for blob in issued.cert_chain_pems:
        blob.write_to_path(folder / "certificate.pem", append=True)
    return {"tls_certificate": str(folder / "certificate.pem"), "tls_key": str(folder / "key.pem")}


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """A client that knows the authority."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
async def secure(files: dict[str, str]) -> AsyncIterator[Server]:
    """A server that speaks TLS and is not patient."""
    async with running(**files, request_timeout_seconds=PATIENCE_SECONDS, keep_alive_seconds=5.0) as server:
        yield server


async def test_page_publish_and_upgrade_share_one_secure_connection(secure: Server, trusting: ssl.SSLContext) -> None:
    """The same connection serves a page, a publish and an event stream, one after the other."""
    assert secure.url.startswith("https://")
    port = secure.address[1]
    async with open_websocket(port, tls=trusting) as peer, connect(port, tls=trusting) as raw:
        await peer.command("subscribe", topic="room:a")
        assert (await raw.request("GET", "/healthz")).json() == {"status": "ok"}
        body = b'{"topic":"room:a","data":"sealed"}'
        assert (await raw.request("POST", "/api/v1/publish", headers={"X-Api-Key": "key"}, body=body)).status == 200
        assert (await peer.receive_type("message"))["data"] == "sealed"
        await raw.send(request_bytes("GET", "/sse?topic=room:a"))
        await raw.read_until(b"event: subscribed")
        await secure.publish("room:a", "streamed")
        assert b"streamed" in await raw.read_until(b'"data":"streamed"')


async def test_large_messages_pass_whole_in_both_directions(secure: Server, trusting: ssl.SSLContext) -> None:
    """Messages of many TLS records, more than the kernel's buffers hold."""
    async with open_websocket(secure.address[1], tls=trusting) as peer:
        await peer.command("subscribe", topic="room:a")
        for number in range(30):
            await peer.command("publish", topic="room:a", data=f"{number}" + "x" * 60_000)
        for number in range(30):
            assert (await peer.receive_type("message"))["data"] == f"{number}" + "x" * 60_000


async def test_peer_that_sends_much_and_hangs_up_over_tls_leaves_nothing(
    secure: Server, trusting: ssl.SSLContext
) -> None:
    """A poll notices it as it does without; and one that stays is answered, and its connection ends there."""
    port = secure.address[1]
    async with open_websocket(port, tls=trusting):
        for stays in (False, True):
            async with leaving_nothing_behind(), connect(port, tls=trusting) as raw:
                await raw.send(request_bytes("GET", "/poll?topic=room:a&timeout=60"))
                await eventually(lambda: secure.statistics().hub.subscriptions == 1)
                await raw.send(request_bytes("GET", "/healthz") * 20_000)
                if stays:
                    await secure.publish("room:a", 1)
                    assert (await raw.read_response()).json()["messages"][0]["data"] == 1
                    assert (await raw.read_response()).json() == {"status": "ok"}
                else:
                    await raw.aclose()
                    await eventually(lambda: secure.statistics().hub.subscriptions == 0, seconds=5)


async def test_event_stream_over_tls_ends_when_its_client_leaves(secure: Server, trusting: ssl.SSLContext) -> None:
    """A hang-up is seen through TLS too, and everything is given back."""
    async with leaving_nothing_behind():
        async with open_events(secure.address[1], "topic=room:a", tls=trusting) as peer:
            await secure.publish("room:a", 1)
            assert (await peer.receive_type("message")).data["data"] == 1
        await eventually(lambda: not secure.connections)


async def test_websockets_client_talks_over_tls(secure: Server, trusting: ssl.SSLContext) -> None:
    """A client that others wrote, with its own TLS."""
    port = secure.address[1]

    def talk() -> list[Any]:
        async def talk() -> list[Any]:
            async with websockets.connect(f"wss://localhost:{port}/ws", ssl=trusting, proxy=None) as socket:
                welcome = json.loads(await socket.recv())
                await socket.send(json.dumps({"type": "ping", "id": 1}))
                return [welcome["type"], json.loads(await socket.recv())["type"]]

        return asyncio.run(talk())

    with trio.fail_after(10):
        assert await trio.to_thread.run_sync(talk) == ["welcome", "pong"]


async def test_page_of_a_secure_server_is_same_origin_only_by_https(secure: Server, trusting: ssl.SSLContext) -> None:
    """The scheme belongs to an origin."""
    port = secure.address[1]
    async with open_websocket(port, tls=trusting, headers=["Origin: https://localhost"]):
        pass
    async with connect(port, tls=trusting) as raw:
        response = await raw.request("GET", "/sse?topic=room:a", headers={"Origin": "http://localhost"})
        assert response.status == 403


async def test_http_2_is_not_offered(secure: Server, trusting: ssl.SSLContext) -> None:
    """Whatever a client would like, HTTP/1.1 is what it gets."""
    trusting.set_alpn_protocols(["h2", "http/1.1"])
    async with connect(secure.address[1], tls=trusting) as raw:
        assert (await raw.request("GET", "/healthz")).status == 200
        assert raw._stream.selected_alpn_protocol() == "http/1.1"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x00\x05hello",
        b"\x00" * 100,
        b"\x16\x03\x01\xff\xff" + b"x" * 70000,
    ],
    ids=["plain_http", "bad_hello", "zeros", "endless_hello"],
)
async def test_what_is_not_tls_is_ended_and_nobody_else_notices(
    secure: Server, trusting: ssl.SSLContext, sent: bytes
) -> None:
    """Plain text or garbage on the secure port ends that connection only."""
    async with open_websocket(secure.address[1], tls=trusting) as witness:
        async with leaving_nothing_behind(), connect(secure.address[1]) as raw:
            await raw.send(sent)
            assert b"HTTP/1.1 200" not in await raw.read_to_end()
        await witness.barrier()


@pytest.mark.parametrize(
    "sent", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01"], ids=["nothing", "byte", "half_hello"]
)
async def test_stalled_tls_handshake_is_ended_in_time(
    secure: Server, trusting: ssl.SSLContext, sent: bytes, clock: MockClock
) -> None:
    """A peer that begins a handshake and goes silent holds its place only for the request timeout."""
    async with open_websocket(secure.address[1], tls=trusting) as witness:
        async with leaving_nothing_behind(), connect(secure.address[1]) as raw:
            if sent:
                await raw.send(sent)
            await jump(clock)
            assert await raw.read_to_end() == b""
        await witness.barrier()


async def test_reset_in_the_middle_of_a_secure_conversation_leaves_nothing(
    secure: Server, trusting: ssl.SSLContext
) -> None:
    """Without a TLS goodbye, while messages are on their way."""
    async with leaving_nothing_behind():
        async with open_websocket(secure.address[1], tls=trusting) as peer:
            await peer.command("subscribe", topic="room:a")
            for number in range(50):
                await secure.publish("room:a", f"{number}" + "x" * 10_000)
            peer.raw.reset()
        await eventually(lambda: not secure.connections)


async def test_stopped_reader_over_tls_gets_what_its_gaps_leave(
    files: dict[str, str], trusting: ssl.SSLContext
) -> None:
    """Back-pressure and its accounts are the same behind TLS."""
    async with (
        running(**files, outbox_messages=20, send_buffer_bytes=8192) as server,
        open_websocket(server.address[1], tls=trusting, receive_buffer=8192) as peer,
    ):
        await peer.command("subscribe", topic="room:a")
        for number in range(1, 301):
            await server.publish("room:a", {"number": number, "padding": "x" * 2000})
        expected = 1
        gaps = 0
        while expected <= 300:
            push = await peer.receive()
            if push["type"] == "gap":
                assert push["from"] == expected
                assert push["count"] == push["to"] - push["from"] + 1
                expected, gaps = push["to"] + 1, gaps + 1
            else:
                assert push["offset"] == expected == push["data"]["number"]
                expected += 1
        assert gaps >= 1
