"""Hostile heads, bodies and peers: each ends its own connection at the most.

After each of them the server is asked by a connection that was open all the time and by a new one, and as many
tasks and descriptors are left as before.
"""

from __future__ import annotations

import struct

import pytest
import trio

from realtime.server import Server
from tests.peers import (
    TEXT,
    WebSocketPeer,
    connect,
    eventually,
    frame,
    open_events,
    open_websocket,
    request_bytes,
    undisturbed,
    upgrade_bytes,
)
from tests.transports.conftest import running

GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"

REFUSED = {
    "head_too_large": (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 40_000 + b"\r\n\r\n", 431),
    "head_too_large_without_end": (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 40_000, 431),
    "target_too_long": (b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
    "many_headers": (GET + b"".join(b"X-%d: y\r\n" % i for i in range(4000)) + b"\r\n", 431),
    "bare_line_feeds": (b"GET /healthz HTTP/1.1\nHost: x\n\n", 400),
    "one_bare_line_feed": (b"GET /healthz HTTP/1.1\r\nHost: x\nX: y\r\n\r\n", 400),
    "length_and_chunked": (GET + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "two_hosts": (GET + b"Host: y\r\n\r\n", 400),
    "no_host": (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
    "two_lengths": (GET + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
    # one meaning, if said twice: RFC 9110, section 8.6
    "two_equal_lengths": (GET + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\n", {200, 400}),
    "negative_length": (GET + b"Content-Length: -5\r\n\r\n", 400),
    "length_with_sign": (GET + b"Content-Length: +5\r\n\r\n", 400),
    "length_of_many_digits": (GET + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", 400),
    "unknown_transfer_coding": (GET + b"Transfer-Encoding: gzip, chunked\r\n\r\n", {400, 501}),
    "absolute_form": (b"GET http://x/healthz HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "connect": (b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "asterisk": (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "http_2_preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", 505),
    "http_3": (b"GET / HTTP/3.0\r\nHost: x\r\n\r\n", {400, 505}),
    "no_version": (b"GET /\r\n\r\n", 400),
    "tls_hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500, 400),
    "lower_case_method": (b"get / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "zero_in_target": (b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "zero_in_header": (GET + b"X: a\x00b\r\n\r\n", 400),
    "high_bytes_in_target": (b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "high_bytes_in_name": (GET + b"X\xff: y\r\n\r\n", 400),
    "folded_header": (GET + b"X: a\r\n b\r\n\r\n", {200, 400}),
    "space_before_colon": (GET + b"X : y\r\n\r\n", 400),
    "no_colon": (GET + b"nonsense\r\n\r\n", 400),
    "empty_line_first": (b"\r\n" + GET + b"\r\n", {200, 400}),
    "garbage": (b"\x00\x01\x02\x03" * 250_000, 400),
    "capital_garbage": (b"A" * 1_000_000, 431),
    "websocket_frame": (frame(TEXT, b'{"type":"ping","id":1}'), 400),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_head_that_is_no_request_is_refused_and_the_connection_ends(port: int, name: str) -> None:
    """A status that says why, one response, the end. Never a second meaning, never a request smuggled behind."""
    sent, wanted = REFUSED[name]
    statuses = wanted if isinstance(wanted, set) else {wanted}
    async with undisturbed(port), connect(port) as raw:
        # What follows must not be taken for a request of its own.
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                try:
                    await raw.send(sent + b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")
                except trio.BrokenResourceError:
                    pass  # it has heard enough

            nursery.start_soon(send)
            response = await raw.read_response()
        assert response.status in statuses
        if response.status != 200:
            assert await raw.read_to_end() == b""


WHOLE = {
    "page": request_bytes("GET", "/healthz"),
    "stream": request_bytes("GET", "/sse?topic=room:cut"),
    "upgrade": upgrade_bytes(),
    "publish": request_bytes(
        "POST", "/api/v1/publish", headers={"X-Api-Key": "key"}, body=b'{"topic":"room:cut","data":1}'
    ),
}


@pytest.mark.parametrize("how", ["close", "reset", "half_close"])
@pytest.mark.parametrize("name", WHOLE)
async def test_request_cut_off_at_any_byte_leaves_nothing(server: Server, port: int, name: str, how: str) -> None:
    """At each byte of each kind of request, and however the peer goes."""
    whole = WHOLE[name]
    async with undisturbed(port):
        for cut in range(1, len(whole) + 1):
            async with connect(port) as raw:
                await raw.send(whole[:cut])
                if how == "reset":
                    raw.reset()
                elif how == "half_close":
                    await raw.end_sending()
                    if cut < len(whole):
                        assert b"101 " not in await raw.read_to_end()
        await eventually(lambda: len(server.connections) == 1)


async def test_request_in_single_bytes_is_served(port: int) -> None:
    """Slow is not hostile, as long as it is in time."""
    async with connect(port) as raw:
        for byte in WHOLE["publish"]:
            await raw.send(bytes([byte]))
        assert (await raw.read_response()).status == 200


@pytest.mark.parametrize("beginning", [b"", b"G", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nX-"], ids=len)
async def test_head_that_does_not_come_is_ended_in_time(beginning: bytes) -> None:
    """Slow-loris: whatever it has sent, it holds its place only for the request timeout."""
    async with running(request_timeout_seconds=0.1) as server, undisturbed(server.address[1]):
        async with connect(server.address[1]) as raw:
            if beginning:
                await raw.send(beginning)
            answer = await raw.read_to_end()
            assert answer == b"" if not beginning else answer.startswith(b"HTTP/1.1 408 ")


async def test_head_that_drips_is_ended_in_time() -> None:
    """A byte now and then does not begin the time anew."""
    async with running(request_timeout_seconds=0.2) as server, undisturbed(server.address[1]):
        async with connect(server.address[1]) as raw, trio.open_nursery() as nursery:

            async def drip() -> None:
                await raw.send(b"GET / HTTP/1.1\r\nX: ")
                while True:
                    await raw.send(b"x")
                    await trio.sleep(0.01)

            nursery.start_soon(drip)
            assert (await raw.read_response()).status == 408
            nursery.cancel_scope.cancel()


async def test_h2c_upgrade_is_ignored(port: int) -> None:
    """An offer to change to HTTP/2 is answered in HTTP/1.1, and the connection goes on."""
    headers = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAAQAoAAAAAIAAAAA"}
    async with undisturbed(port), connect(port) as raw:
        for target, status, offered in (("/healthz", 200, None), ("/ws", 426, "websocket"), ("/healthz", 200, None)):
            response = await raw.request("GET", target, headers=headers)
            assert (response.status, response.header("upgrade")) == (status, offered)


async def test_upgrade_of_an_unknown_protocol_is_ignored(port: int) -> None:
    """Upgrade is an offer; a page is a page."""
    async with connect(port) as raw:
        response = await raw.request("GET", "/healthz", headers={"Connection": "Upgrade", "Upgrade": "foo"})
        assert response.status == 200


@pytest.mark.parametrize(
    "trailing", [b"x", b"\r\n", b"\x00" * 10, b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 70_000], ids=len
)
async def test_upgrade_with_trailing_garbage_ends_that_connection_only(port: int, trailing: bytes) -> None:
    """The case that can end a whole hypercorn process: bytes behind an upgrade request."""
    async with undisturbed(port), connect(port) as raw:
        peer = WebSocketPeer(raw)
        try:
            await peer.upgrade(upgrade_bytes(), trailing=trailing)
            await raw.end_sending()
        except trio.BrokenResourceError:
            pass
        await raw.read_to_end()


@pytest.mark.parametrize("target", ["/", "/ws", "/other"])
async def test_upgrade_for_a_page_with_trailing_bytes_ends_that_connection_only(port: int, target: str) -> None:
    """The same on paths that hypercorn sees."""
    request = upgrade_bytes(target, without=["Sec-WebSocket-Key"])
    async with undisturbed(port), connect(port) as raw:
        await raw.send(request + b"\x81\x80mask" + b"garbage")
        await raw.end_sending()
        assert (await raw.read_to_end()).startswith(b"HTTP/1.1 4")


@pytest.mark.parametrize(
    "body",
    [b"zz\r\n", b"5\r\nabc", b"5\r\nabcdefgh\r\n", b"-1\r\n", b"f" * 100 + b"\r\n", b"5;" + b"x" * 70_000],
    ids=["no_number", "short", "long", "negative", "huge", "endless_extension"],
)
async def test_bad_chunks_for_the_application_end_that_connection_only(port: int, body: bytes) -> None:
    """A body that breaks off or is no chunks."""
    async with undisturbed(port), connect(port) as raw:
        try:
            await raw.send(b"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
            await raw.end_sending()
        except trio.BrokenResourceError:
            pass
        answer = await raw.read_to_end()
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4")


async def test_reset_while_a_page_is_sent_leaves_nothing(port: int) -> None:
    """Peers that ask and vanish."""
    async with undisturbed(port):
        for _ in range(20):
            async with connect(port) as raw:
                await raw.send(request_bytes("GET", "/") * 5)
                await raw.read_until(b"HTTP/1.1 200")
                raw.reset()


@pytest.mark.parametrize("target", ["/realtime/live.js", "/healthz"])
async def test_peer_that_asks_without_end_and_never_reads_is_ended(target: str) -> None:
    """Its answers are not kept for it: it is read no further, and after the stall timeout it is gone."""
    async with running(write_stall_timeout_seconds=0.2, send_buffer_bytes=4096) as server:
        port = server.address[1]
        async with undisturbed(port), connect(port, receive_buffer=4096) as raw:
            with pytest.raises(trio.BrokenResourceError):
                while True:
                    await raw.send(request_bytes("GET", target) * 200)


async def test_publisher_that_never_reads_its_answers_is_read_no_further() -> None:
    """Pipelined publishes whose answers pile up: the publisher waits, the memory does not grow."""
    async with running(send_buffer_bytes=4096, write_stall_timeout_seconds=0.2) as server:
        port = server.address[1]
        async with undisturbed(port), connect(port, receive_buffer=4096) as raw:
            with trio.move_on_after(0.5), pytest.raises(trio.BrokenResourceError):
                while True:
                    await raw.send(WHOLE["publish"] * 200)


async def test_stream_that_is_never_read_is_let_go_within_the_stall_timeout() -> None:
    """An event stream whose client does not read is ended once its backlog stands still."""
    async with running(send_buffer_bytes=4096, write_stall_timeout_seconds=0.2) as server:
        port = server.address[1]
        async with undisturbed(port), open_events(port, "topic=room:a", receive_buffer=4096):
            for _ in range(100):
                await server.publish("room:a", "x" * 5000)
            await eventually(lambda: len(server.connections) == 1)


async def test_commands_without_reading_replies_are_bounded() -> None:
    """A peer that asks and asks and never reads is ended, at the bound or for its standstill."""
    async with running(send_buffer_bytes=4096, write_stall_timeout_seconds=0.3) as server:
        port = server.address[1]
        async with undisturbed(port), open_websocket(port, receive_buffer=4096) as peer:
            with pytest.raises(trio.BrokenResourceError):
                while True:
                    await peer.raw.send(frame(TEXT, b'{"type":"stats","id":1}') * 500)


@pytest.mark.parametrize("opcode", [TEXT, 2, 0, 9, 8])
async def test_frame_that_announces_more_than_it_brings_is_no_burden(port: int, opcode: int) -> None:
    """Huge lengths make room for nothing."""
    async with undisturbed(port):
        for _ in range(20):
            async with connect(port) as raw:
                peer = WebSocketPeer(raw)
                await peer.upgrade(upgrade_bytes())
                await raw.send(bytes([0x80 | opcode, 0xFF]) + struct.pack("!Q", (1 << 62)) + b"mask" + b"x" * 10)
                await raw.end_sending()
                await raw.read_to_end()


async def test_crowd_that_connects_and_says_nothing_is_no_burden(port: int) -> None:
    """A few hundred silent connections, then a reset of all."""
    async with undisturbed(port):
        async with trio.open_nursery() as nursery:
            ready = 0

            async def stay() -> None:
                nonlocal ready
                async with connect(port) as raw:
                    ready += 1
                    await trio.sleep_forever()
                    raw.reset()

            for _ in range(200):
                nursery.start_soon(stay)
            await eventually(lambda: ready == 200)
            async with open_websocket(port) as peer:
                await peer.barrier()
            nursery.cancel_scope.cancel()
