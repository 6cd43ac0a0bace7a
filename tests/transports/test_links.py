"""The client over real sockets: by WebSocket and by events, through networks that cut, refuse and encrypt."""

from __future__ import annotations

import gzip
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from realtime import CommandError, ConfigurationError, ErrorCode, Identity, Lost
from realtime.client import Client, Last, LoginRefused, SentAway, Unreachable, connect
from realtime.link import LinkRefused
from realtime.server import Server
from tests.peers import DEADLINE_SECONDS, eventually
from tests.transports.conftest import running
from transports.links.address import Address, refusal

BOTH = pytest.mark.parametrize("way", ["websocket", "sse"])
HASTY: dict[str, Any] = {"min_delay_seconds": 0.02, "max_delay_seconds": 0.1}


class Network:
    """A way to a server that can be cut, and that can answer upgrades by itself."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.port = 0
        #: What is answered to an upgrade; None: it passes. Empty: the connection just ends.
        self.blocks: bytes | None = None
        self._streams: list[trio.SocketStream] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cut(self) -> None:
        for stream in self._streams:
            stream.socket.close()
        self._streams.clear()

    async def serve(self, near: trio.SocketStream) -> None:
        async with near:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                head = await near.receive_some()
                if self.blocks is not None and b"upgrade: websocket" in head.lower():
                    await near.send_all(self.blocks)
                    return
                async with await trio.open_tcp_stream(*self._server.address) as far:
                    self._streams += [near, far]
                    await far.send_all(head)
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(_pump, near, far, nursery.cancel_scope)
                        nursery.start_soon(_pump, far, near, nursery.cancel_scope)


async def _pump(source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async for data in source:
            await sink.send_all(data)
    scope.cancel()


@asynccontextmanager
async def network(server: Server) -> AsyncIterator[Network]:
    """A network before ``server``."""
    between = Network(server)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, between.serve, 0, host="127.0.0.1"))
        between.port = listeners[0].socket.getsockname()[1]
        yield between
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def client_of(url: str, **options: Any) -> AsyncIterator[Client]:
    """A client that is connected."""
    async with connect(url, **{**HASTY, **options}) as client:
        with trio.fail_after(DEADLINE_SECONDS):
            await client.wait_connected()
        yield client


async def take(messages: Any, count: int) -> list[Any]:
    with trio.fail_after(DEADLINE_SECONDS):
        items = [await anext(messages) for _ in range(count)]
    return [(item.first, item.last, item.reason) if isinstance(item, Lost) else item.data for item in items]


@BOTH
async def test_everything_works_by_each_way(server: Server, way: str) -> None:
    """Without a login, and for events without a topic to begin with."""
    async with client_of(server.url, transports=[way]) as client:
        assert client.transport == way
        await server.publish("room:a", 1)
        async with client.subscribe("room:a", recover=Last(5)) as messages:
            receipt = await client.publish("room:a", {"text": "é"}, key="k")
            assert await take(messages, 2) == [1, {"text": "é"}]
            assert messages.position == receipt.position
            assert (await client.members("room:a")).count == 1
            assert [each.data for each in (await client.history("room:a")).messages] == [1, {"text": "é"}]
            with pytest.raises(CommandError, match="UNKNOWN_ACTION"):
                await client.request("nothing")
            with pytest.raises(CommandError, match="INVALID_TOPIC"):
                async with client.subscribe("nothing:here"):
                    pass
        await eventually(lambda: server.statistics().hub.subscriptions == 0)
    await eventually(lambda: not server.connections)


async def test_thousand_messages_survive_cuts_and_a_change_of_way() -> None:
    """First by WebSocket, then upgrades are refused: none is lost, none comes twice."""
    async with (
        running(kinds={"room": {"history_messages": 1000}}) as server,
        network(server) as between,
        client_of(between.url) as client,
        trio.open_nursery() as nursery,
    ):
        ways = set()

        async def produce() -> None:
            for number in range(1, 1001):
                await server.publish("room:a", number)
                if not number % 10:
                    await trio.sleep(0.002)
                if not number % 190:
                    between.cut()
                if number == 400:
                    between.blocks = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"

        async with client.subscribe("room:a") as messages:
            nursery.start_soon(produce)
            seen: list[Any] = []
            while len(seen) < 1000:
                seen += await take(messages, 1)
                ways.add(client.transport)
        assert seen == list(range(1, 1001))
        assert ways == {"websocket", "sse"}
        assert client.transport == "sse"


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", b"", b"what?\r\n\r\n"],
    ids=["forbidden", "hung_up", "not_http"],
)
async def test_refused_upgrades_lead_to_events(server: Server, answer: bytes) -> None:
    async with network(server) as between:
        between.blocks = answer
        async with client_of(between.url) as client:
            assert client.transport == "sse"


@BOTH
async def test_login_travels_in_a_header_and_is_renewed_on_the_way(way: str) -> None:
    """A login of a second is renewed by a command; the reader does not notice."""
    reasons = []

    async def authenticate(token: str) -> Identity:
        if not token.startswith("7-"):
            raise CommandError(ErrorCode.AUTH_FAILED, "no such token")
        return Identity("7", expires_in=1.0)

    def token(reason: str) -> str:
        reasons.append(str(reason))
        return f"7-{len(reasons)}"

    async with running(authenticate=authenticate, token_warning_seconds=0.8) as server:
        async with client_of(server.url, transports=[way], token=token) as client:
            assert client.user == "7"
            async with client.placed() as messages:
                await trio.sleep(1.5)
                await server.send_to_user("7", "still here")
                assert await take(messages, 1) == ["still here"]
                assert client.statistics().connections == 1
        assert reasons[0] == "connect"
        assert set(reasons[1:]) == {"expiring"}
        with pytest.raises(LoginRefused, match="AUTH_FAILED: no such token"):
            async with client_of(server.url, transports=[way], token="wrong"):
                pass
        with pytest.raises(LoginRefused, match="printable"):
            async with client_of(server.url, transports=[way], token="a\nb"):
                pass


@BOTH
async def test_topics_of_the_login_are_resumed(way: str) -> None:
    async def authenticate(_token: str) -> Identity:
        return Identity("7")

    async with running(authenticate=authenticate) as server, network(server) as between:
        async with client_of(between.url, transports=[way], token="t") as client, client.placed() as messages:
            await server.send_to_user("7", 1)
            assert await take(messages, 1) == [1]
            between.cut()
            await server.send_to_user("7", 2)
            assert await take(messages, 1) == [2]
            assert client.statistics().connections == 2


@BOTH
async def test_quiet_view_moves_with_pings(way: str) -> None:
    """Both ways tell how far a filtered topic has come."""
    async with running(ping_interval_seconds=0.1) as server, client_of(server.url, transports=[way]) as client:
        async with client.subscribe("room:a", filter={"=": ["x", 1]}):
            for _ in range(5):
                await server.publish("room:a", {"x": 2})
            await eventually(lambda: client.statistics().topics[0].position.offset == 5)  # type: ignore[union-attr]


@BOTH
async def test_server_without_anonymous_peers_refuses_in_time(way: str) -> None:
    async with running(dev=False, auth_timeout_seconds=0.1) as server:
        with pytest.raises(LoginRefused):
            async with connect(server.url, transports=[way], **HASTY):
                await trio.sleep(DEADLINE_SECONDS)


@BOTH
async def test_secure_server_is_reached_by_who_trusts_it(way: str, tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    for blob in issued.cert_chain_pems:
        blob.write_to_path(tmp_path / "certificate.pem", append=True)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    files = {"tls_certificate": str(tmp_path / "certificate.pem"), "tls_key": str(tmp_path / "key.pem")}
    async with running(**files) as server:
        url = f"https://localhost:{server.address[1]}"
        async with client_of(url, transports=[way], ssl_context=trusting) as client:
            assert (await client.publish("room:a", 1)).offset == 1
        with pytest.raises(Unreachable):
            async with connect(url, transports=[way], tries=1, **HASTY):
                await trio.sleep(DEADLINE_SECONDS)


@BOTH
async def test_server_at_an_ipv6_address_is_reached(way: str) -> None:
    try:
        async with running(host="::1") as server, client_of(server.url, transports=[way]) as client:
            assert (await client.publish("room:a", 1)).offset == 1
    except ConfigurationError:
        pytest.skip("no IPv6 here")


@BOTH
async def test_nobody_there_is_no_reason_to_change_the_way(way: str) -> None:
    with pytest.raises(Unreachable, match="no connection"):
        async with connect("http://127.0.0.1:9", transports=[way, "sse"], tries=3, **HASTY) as client:
            async for change in client.changes():
                assert change.transport == way


@BOTH
async def test_command_that_closes_the_connection_is_not_sent(server: Server, way: str) -> None:
    async with client_of(server.url, transports=[way]) as client:
        with pytest.raises(CommandError, match="PAYLOAD_TOO_LARGE"):
            await client.publish("room:a", "x" * 100_000)
        assert (await client.publish("room:a", 1)).offset == 1


@BOTH
async def test_operator_who_disconnects_ends_the_block(server: Server, way: str) -> None:
    async with running(authenticate=lambda _token: Identity("7")) as other:
        with pytest.raises(SentAway) as raised:
            async with client_of(other.url, transports=[way], token="t"):
                other.disconnect_user("7")
                await trio.sleep(DEADLINE_SECONDS)
        assert raised.value.close_code == 4003


@pytest.mark.parametrize(
    "url",
    [
        "ws://x",
        "x",
        "http://",
        "http://x:y",
        "http://x/?q=1",
        "http://u:p@x",
        "http://[x",
        "http://a..b",
        "http://a b",
        "http://" + "a" * 64 + ".example",
        "http://x/\ud800",
    ],
)
def test_url_that_cannot_be_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="url must be"):
        connect(url)


@pytest.mark.parametrize(
    ("url", "host", "prefix"),
    [
        ("http://bücher.example/é/%C3%A9 x/", "xn--bcher-kva.example", "/%C3%A9/%C3%A9%20x"),
        ("http://my_host-1.example.", "my_host-1.example.", ""),
        ("http://[::1]/a:b@c", "::1", "/a:b@c"),
    ],
)
def test_url_is_written_as_requests_have_it(url: str, host: str, prefix: str) -> None:
    address = Address.of(url, None)
    assert (address.host, address.prefix) == (host, prefix)


@BOTH
async def test_path_of_other_than_ascii_is_asked_for(server: Server, way: str) -> None:
    with pytest.raises(SentAway, match="nothing at this path"):
        async with client_of(f"{server.url}/é", transports=[way]):
            pass


@pytest.mark.parametrize(
    ("headers", "told", "seconds"),
    [
        ({"retry-after": "9" * 400}, "", 86_400),
        ({}, ',"retry_after":-5', 0),
        ({"retry-after": "9"}, ',"retry_after":1e300', 86_400),
        ({"retry-after": "9"}, "", 9),
    ],
)
def test_refusal_names_a_time_that_can_be_waited_for(headers: dict[str, str], told: str, seconds: float) -> None:
    refused = refusal(503, headers, f'{{"type":"error","code":"UNAVAILABLE"{told}}}'.encode())
    assert isinstance(refused, LinkRefused)
    assert refused.error.retry_after == seconds


@pytest.mark.parametrize("transports", [[], ["poll"]])
def test_way_that_is_not_known_is_refused(transports: list[str]) -> None:
    with pytest.raises(ConfigurationError, match="transports is"):
        connect("http://x", transports=transports)


async def _answer(near: trio.SocketStream, reply: Callable[[bytes], bytes]) -> None:
    head = b""
    while b"\r\n\r\n" not in head:
        head += await near.receive_some()
    await near.send_all(reply(head))
    await near.aclose()


@asynccontextmanager
async def answering(handler: Callable[[trio.SocketStream], Awaitable[None]]) -> AsyncIterator[str]:
    """The URL of a server that is none of ours."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, handler, 0, host="127.0.0.1"))
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi", "no event stream"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}", "status 404"),
        (b"HTTP/1.1 502 Bad Gateway\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n", "status 502"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 200000\r\n\r\n" + b"x" * 100_000, "status 404"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\n", "status 404"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nevent: welcome\ndata: {}\n\n",
            "no stream of ours",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: hello\n\n", "the stream has ended"),
        (b"", "no answer"),
    ],
)
async def test_answer_that_is_none_of_ours_is_told(answer: bytes, why: str) -> None:
    async with answering(lambda near: _answer(near, lambda _head: answer)) as url:
        with pytest.raises(Unreachable, match=why):
            async with connect(url, transports=["sse"], tries=1, **HASTY):
                await trio.sleep(DEADLINE_SECONDS)


async def test_nobody_on_the_way_is_invited_to_compress_events() -> None:
    """They are read as they come, and so is a refusal."""

    def reply(head: bytes) -> bytes:
        body, encoding = b'{"type":"error","code":"AUTH_FAILED","message":"not you"}', b""
        if b"gzip" in head:
            body, encoding = gzip.compress(body), b"Content-Encoding: gzip\r\n"
        return b"HTTP/1.1 401 Unauthorized\r\n%sContent-Length: %d\r\n\r\n%s" % (encoding, len(body), body)

    async with answering(lambda near: _answer(near, reply)) as url:
        with pytest.raises(LoginRefused, match="not you"):
            async with connect(url, transports=["sse"], tries=1, **HASTY):
                await trio.sleep(DEADLINE_SECONDS)


_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nevent: welcome\ndata: "
_DEEP = b"[" * 5000 + b"]" * 5000


@pytest.mark.parametrize(
    ("welcome", "why"),
    [
        (
            b'{"type":"welcome","connection":"c","secret":"s","limits":{"max_message_bytes":999}}',
            "answered with status",
        ),
        (b'{"type":"welcome","connection":"c","secret":"s","more":%s}' % _DEEP, "no stream of ours"),
    ],
)
async def test_json_without_a_bottom_ends_the_link_and_not_the_block(welcome: bytes, why: str) -> None:
    async def handle(near: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            if (await near.receive_some()).startswith(b"POST"):
                body = b'{"type":"published","id":1,"data":%s}' % _DEEP
                await near.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            else:
                await near.send_all(_STREAM + welcome + b"\n\n")
                await trio.sleep_forever()

    async with answering(handle) as url, connect(url, transports=["sse"], **HASTY) as client:
        with trio.fail_after(DEADLINE_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.publish, "room:a", 1)
                async for change in client.changes():
                    if change.why:
                        assert why in change.why
                        break
                nursery.cancel_scope.cancel()


async def test_reply_that_has_no_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor waited for until the command has its time-out."""
    monkeypatch.setattr("transports.links.sse.MAX_MESSAGE_BYTES", 1 << 20)
    welcome = b'{"type":"welcome","connection":"c","secret":"s","limits":{"max_message_bytes":999}}'

    async def handle(near: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            if (await near.receive_some()).startswith(b"POST"):
                await near.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                while True:
                    await near.send_all(b"ffff\r\n%s\r\n" % (b" " * 0xFFFF))
            await near.send_all(_STREAM + welcome + b"\n\n")
            await trio.sleep_forever()

    async with answering(handle) as url, connect(url, transports=["sse"], **HASTY) as client:
        with trio.fail_after(DEADLINE_SECONDS), pytest.raises(CommandError, match="the connection was lost"):
            await client.request("add", {}, timeout_seconds=3600)


async def test_refusal_of_an_upgrade_that_has_no_end_is_not_kept() -> None:
    async def handle(near: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            await near.receive_some()
            await near.send_all(b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                await near.send_all(b"ffff\r\n%s\r\n" % (b"x" * 0xFFFF))

    async with answering(handle) as url:
        with pytest.raises(Unreachable, match="does not come to an end"), trio.fail_after(DEADLINE_SECONDS):
            async with connect(url, transports=["websocket"], tries=1, **HASTY):
                await trio.sleep_forever()


@BOTH
async def test_prompt_reader_has_all_that_is_recovered(way: str) -> None:
    """Far more than may wait to be read, and in few pieces."""
    async with running(recover_limit=3000, kinds={"room": {"history_messages": 3000}}) as server:
        for number in range(3000):
            await server.publish("room:a", number)
        async with client_of(server.url, transports=[way]) as client:
            async with client.subscribe("room:a", recover=Last(3000)) as messages:
                assert await take(messages, 3000) == list(range(3000))
