"""One port, one connection, several kinds of requests; and an application of the user's own beside ours."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
import trio
from quart import Response as QuartResponse
from quart import abort, request, websocket
from quart_trio import QuartTrio
from trio.testing import MockClock

from realtime.errors import ConfigurationError
from realtime.server import Server
from tests.peers import (
    TEXT,
    EventPeer,
    Peer,
    Response,
    WebSocketPeer,
    connect,
    eventually,
    frame,
    leaving_nothing_behind,
    open_events,
    open_websocket,
    request_bytes,
    upgrade_bytes,
)
from tests.transports.conftest import PATIENCE_SECONDS, jump, running
from transports.http.app import make_app

# -- one after the other on a connection that is kept alive --------------------------------------------------------


async def visit_page(raw: Peer) -> None:
    assert (await raw.request("GET", "/")).status == 200


async def visit_missing(raw: Peer) -> None:
    assert (await raw.request("GET", "/nothing/here")).status == 404


async def publish_once(raw: Peer) -> None:
    body = b'{"topic":"room:other","data":1}'
    assert (await raw.request("POST", "/api/v1/publish", headers={"X-Api-Key": "key"}, body=body)).status == 200


BEFORE = pytest.mark.parametrize(
    "before",
    [[visit_page], [visit_missing], [publish_once], [visit_page, publish_once, visit_page]],
    ids=["page", "missing", "publish", "several"],
)


@BEFORE
async def test_upgrade_later_on_a_connection_is_as_good_as_first(port: int, before: list[Any]) -> None:
    """Browsers and proxies reuse connections; the conversation after such an upgrade is a whole one."""
    async with connect(port) as raw:
        for visit in before:
            await visit(raw)
        peer = WebSocketPeer(raw)
        await peer.upgrade(upgrade_bytes(), trailing=frame(TEXT, b'{"type":"ping","id":"early"}'))
        assert (await peer.receive())["type"] == "welcome"
        assert (await peer.receive())["id"] == "early"
        await peer.command("subscribe", topic="room:a")
        await peer.command("publish", topic="room:a", data=1)
        assert (await peer.receive_type("message"))["data"] == 1


@BEFORE
async def test_event_stream_later_on_a_connection_is_as_good_as_first(
    server: Server, port: int, before: list[Any]
) -> None:
    """The same for an event stream."""
    async with connect(port) as raw:
        for visit in before:
            await visit(raw)
        peer = EventPeer(raw)
        await peer.open("/sse?topic=room:a")
        await peer.receive_type("subscribed")
        await server.publish("room:a", 1)
        assert (await peer.receive_type("message")).data["data"] == 1


async def test_pages_pipelined_before_an_upgrade_are_served_in_order(port: int) -> None:
    """An upgrade that arrives while a page is still being made waits for its turn and loses no byte."""
    async with connect(port) as raw:
        await raw.send(request_bytes("GET", "/healthz") * 3 + upgrade_bytes() + frame(TEXT, b'{"type":"ping","id":7}'))
        for _ in range(3):
            assert (await raw.read_response()).json() == {"status": "ok"}
        peer = WebSocketPeer(raw)
        assert (await raw.read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        assert (await peer.receive())["type"] == "welcome"
        assert (await peer.receive())["id"] == 7


async def test_kept_alive_connection_that_idles_is_closed() -> None:
    """After the keep-alive time the server ends the connection in order."""
    async with running(keep_alive_seconds=0.05) as server, connect(server.address[1]) as raw:
        await visit_page(raw)
        assert not await raw.more()
        assert not raw.was_reset


# -- what looks after a server ----------------------------------------------------------------------------------------


async def test_health_readiness_and_counters_are_served(port: int) -> None:
    """What an operator's probe asks for."""
    async with open_websocket(port), connect(port) as raw:
        assert (await raw.request("GET", "/healthz")).json() == {"status": "ok"}
        assert (await raw.request("GET", "/readyz")).json() == {"status": "ready"}
        stats = (await raw.request("GET", "/api/v1/stats")).json()
        assert stats["transports"] == {"websocket": 1}


async def test_readiness_says_draining_during_shutdown(server: Server, port: int) -> None:
    """A balancer takes a server that is going out of its rotation."""
    server.draining = True
    async with connect(port) as raw:
        response = await raw.request("GET", "/readyz")
        assert (response.status, response.json()) == (503, {"status": "draining"})


@pytest.mark.parametrize(
    "target",
    [
        "/nothing",
        "/realtime/",
        "/realtime/../app.py",
        "/realtime/%2e%2e/http/app.py",
        "/realtime/%2e%2e%2flive.html",
        "/realtime/%00",
        "/realtime/" + "x" * 30_000,
        "//evil.example/",
    ],
    ids=lambda target: target[:30],
)
async def test_path_that_is_not_there_is_404_in_json(port: int, target: str) -> None:
    """Nothing but the files that were found at the start can be had."""
    async with connect(port) as raw:
        response = await raw.request("GET", target)
        assert response.status == 404
        assert response.json()["type"] == "error"


async def test_fault_of_ours_is_told_in_json_and_its_trace_id_finds_the_log(
    server: Server, log_entries: list[dict[str, Any]]
) -> None:
    """Also outside of the endpoints, which look after themselves."""
    ours = make_app(server)

    @ours.get("/fails")
    async def fails() -> str:
        raise RuntimeError("a fault of ours")

    @ours.get("/gone")
    async def gone() -> str:
        abort(410)

    async with running(app=ours) as other, connect(other.address[1]) as raw:
        response = await raw.request("GET", "/fails")
        assert response.status == 500
        assert response.json()["code"] == "INTERNAL_ERROR"
        assert b"a fault of ours" not in response.body
        # An error of HTTP stays what it is.
        assert (await raw.request("GET", "/gone")).status == 410
    (entry,) = [entry for entry in log_entries if entry["log_level"] == "error"]
    log_entries.remove(entry)
    assert (entry["path"], entry["trace_id"]) == ("/fails", response.json()["trace_id"])


async def test_head_request_gets_no_body_and_keeps_the_connection(port: int) -> None:
    """A length is told, nothing follows it, and the next response is found where it begins."""
    async with connect(port) as raw:
        await raw.send(request_bytes("HEAD", "/healthz") + request_bytes("GET", "/readyz"))
        head = await raw.read_until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert b"content-length: 16" in head.lower()
        assert (await raw.read_response()).json() == {"status": "ready"}


# -- the user's application ----------------------------------------------------------------------------------------


class Mounted:
    """A Quart-Trio application with a page, a stream, an upload and a WebSocket of its own."""

    def __init__(self) -> None:
        self.life: list[str] = []
        self.stream_ended = trio.Event()
        self.tick = trio.Event()
        self.app = app = QuartTrio(__name__)

        @app.before_serving
        async def start() -> None:
            self.life.append("started")

        @app.after_serving
        async def stop() -> None:
            self.life.append("stopped")

        @app.get("/")
        async def page() -> str:
            return "the user's page"

        @app.get("/large")
        async def large() -> bytes:
            return b"x" * 5_000_000

        @app.post("/upload")
        async def upload() -> dict[str, int]:
            return {"size": len(await request.get_data())}

        @app.get("/stream")
        async def stream() -> QuartResponse:
            async def parts() -> AsyncIterator[bytes]:
                try:
                    for number in range(3):
                        yield b"part %d\n" % number
                    await self.tick.wait()
                    yield b"last\n"
                finally:
                    self.stream_ended.set()

            return QuartResponse(parts(), content_type="text/plain")

        @app.get("/fails")
        async def fails() -> str:
            raise RuntimeError("a fault of the application")

        @app.websocket("/own")
        async def own() -> None:
            while True:
                await websocket.send("you said " + await websocket.receive())


@pytest.fixture
def mounted() -> Mounted:
    """The application, not yet running."""
    return Mounted()


@pytest.fixture
async def beside(mounted: Mounted) -> AsyncIterator[int]:
    """The port of a server that has `mounted` beside it."""
    async with running(app=mounted.app) as server:
        yield server.address[1]


async def test_lifespan_of_the_mounted_application_is_run(mounted: Mounted) -> None:
    """Started before the first request can come, stopped at the end, each once."""
    async with running(app=mounted.app) as server:
        assert mounted.life == ["started"]
        async with connect(server.address[1]) as raw:
            assert (await raw.request("GET", "/")).body == b"the user's page"
    assert mounted.life == ["started", "stopped"]


async def test_mounted_application_that_cannot_start_stops_the_server() -> None:
    """A server whose application is not there must not look well."""
    app = QuartTrio(__name__)

    @app.before_serving
    async def start() -> None:
        raise RuntimeError("no database")

    with pytest.raises(BaseExceptionGroup) as caught:
        async with running(app=app):
            pytest.fail("it listens")  # pragma: no cover
    assert not caught.group_contains(ConfigurationError)


async def test_application_without_a_lifespan_is_served() -> None:
    """A plain ASGI function that knows requests only."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})

    async with running(app=app) as server, connect(server.address[1]) as raw:
        assert (await raw.request("GET", "/anything")).body == b"/anything"
        assert (await raw.request("GET", "/healthz")).json() == {"status": "ok"}


async def test_our_paths_stay_ours_beside_an_application(beside: int) -> None:
    """Realtime endpoints, API and health are not the application's to take."""
    async with connect(beside) as raw:
        assert (await raw.request("GET", "/healthz")).json() == {"status": "ok"}
        await publish_once(raw)
        assert (await raw.request("GET", "/")).body == b"the user's page"
        peer = WebSocketPeer(raw)
        await peer.upgrade(upgrade_bytes())
        assert (await peer.receive())["type"] == "welcome"
    async with open_events(beside, "topic=room:a"):
        pass


async def test_websocket_of_the_application_is_passed_through(beside: int) -> None:
    """Also with a first frame in the segment of the upgrade, and later on a kept-alive connection."""
    async with leaving_nothing_behind(), connect(beside) as raw:
        assert (await raw.request("GET", "/")).status == 200
        peer = WebSocketPeer(raw)
        await peer.upgrade(upgrade_bytes("/own"), trailing=frame(TEXT, b"early"))
        assert (await peer.next_frame()).payload == b"you said early"
        for text in (b"one", b"two", b"x" * 70_000):
            await peer.send_frame(TEXT, text)
            assert (await peer.next_frame()).payload == b"you said " + text


async def test_stream_of_the_application_arrives_part_by_part(mounted: Mounted, beside: int) -> None:
    """What the application yields is not held back for the rest, and the connection can be used again."""
    async with connect(beside) as raw:
        await raw.send(request_bytes("GET", "/stream"))
        await raw.read_until(b"part 2\n")
        mounted.tick.set()
        await raw.read_until(b"last\n")
        await raw.read_until(b"0\r\n\r\n")
        assert (await raw.request("GET", "/")).body == b"the user's page"


async def test_client_that_leaves_a_stream_of_the_application_ends_it(mounted: Mounted, beside: int) -> None:
    """The application's generator is closed, and nothing of the connection stays."""
    async with leaving_nothing_behind():
        async with connect(beside) as raw:
            await raw.send(request_bytes("GET", "/stream"))
            await raw.read_until(b"part 0\n")
        with trio.fail_after(5):
            await mounted.stream_ended.wait()


@pytest.mark.parametrize("chunked", [False, True])
async def test_upload_reaches_the_application_whole_and_keeps_the_connection(beside: int, chunked: bool) -> None:
    """A body with a length or in chunks; what follows it is the next request."""
    body = b"u" * 300_000
    if chunked:
        sent = (
            b"POST /upload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            + b"".join(
                b"%x\r\n%b\r\n" % (len(body[at : at + 7000]), body[at : at + 7000]) for at in range(0, len(body), 7000)
            )
            + b"0\r\n\r\n"
        )
    else:
        sent = request_bytes("POST", "/upload", body=body)
    async with connect(beside) as raw:
        await raw.send(sent + request_bytes("GET", "/healthz"))
        assert (await raw.read_response()).json() == {"size": 300_000}
        assert (await raw.read_response()).json() == {"status": "ok"}


UNFINISHED = {
    "length": b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n",
    "begun": b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nx",
    "chunks": b"GET /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nx",
}


@pytest.mark.parametrize("name", UNFINISHED)
async def test_answered_request_is_not_waited_for_to_its_end(port: int, name: str) -> None:
    """Nobody wants the rest of its body: the connection ends in order, at once."""
    async with leaving_nothing_behind(), connect(port) as raw:
        await raw.send(UNFINISHED[name])
        assert (await raw.read_response()).json() == {"status": "ok"}
        with trio.fail_after(5):
            assert await raw.read_to_end() == b""
        assert not raw.was_reset


@pytest.mark.parametrize("sent", [0, 5, 200_000])
async def test_body_that_stalls_ends_its_request(mounted: Mounted, sent: int) -> None:
    """The application waits for it no longer than for a reader that has stopped."""
    async with running(app=mounted.app, write_stall_timeout_seconds=0.2) as server, connect(server.address[1]) as raw:
        await raw.send(request_bytes("POST", "/upload", body=b"u" * 300_000)[: sent - 300_000])
        assert (await raw.read_response()).status == 400
        assert await raw.read_to_end() == b""


async def test_body_that_trickles_is_awaited(mounted: Mounted, clock: MockClock) -> None:
    """Slow is not stalled."""
    stall = {"write_stall_timeout_seconds": PATIENCE_SECONDS}
    async with running(app=mounted.app, **stall) as server, connect(server.address[1]) as raw:
        for byte in request_bytes("POST", "/upload", body=b"u" * 6):
            await raw.send(bytes([byte]))
            if byte == ord("u"):
                await jump(clock, PATIENCE_SECONDS / 3)
        assert (await raw.read_response()).json() == {"size": 6}


class Slow:
    """An ASGI application that does nothing until it is let go, and then reads the body or does not."""

    def __init__(self, *, reads: bool) -> None:
        self.reads = reads
        self.go = trio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await self.go.wait()
        size = 0
        more = self.reads
        while more:
            event = await receive()
            size += len(event["body"])
            more = event["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"%d" % size})


async def test_upload_to_a_slow_handler_waits_and_arrives_whole() -> None:
    """It is not read ahead of the handler, and for how long that thinks is not the peer's stall."""
    slow = Slow(reads=True)
    async with running(app=slow, write_stall_timeout_seconds=0.2) as server, connect(server.address[1]) as raw:
        async with trio.open_nursery() as nursery:
            sent = trio.Event()

            async def upload() -> None:
                await raw.send(request_bytes("POST", "/", body=b"u" * (32 << 20)))
                sent.set()

            nursery.start_soon(upload)
            await trio.sleep(0.5)
            assert not sent.is_set()
            slow.go.set()
        assert (await raw.read_response()).body == b"%d" % (32 << 20)
        assert (await raw.request("GET", "/healthz")).status == 200


@pytest.mark.parametrize("size", [10, 100_000, 150_000, 165_000, 3_000_000])
async def test_body_that_its_handler_never_reads_leaves_nothing(size: int) -> None:
    """The answer comes, and the connection is free or ended: also where all queues to the application are full."""
    slow = Slow(reads=False)
    async with running(app=slow) as server, leaving_nothing_behind(), connect(server.address[1]) as raw:
        async with trio.open_nursery() as nursery:

            async def upload() -> None:
                with suppress(trio.BrokenResourceError):  # nobody wants it
                    await raw.send(request_bytes("POST", "/", body=b"u" * size))

            nursery.start_soon(upload)
            await trio.sleep(0.2)
            slow.go.set()
            assert (await raw.read_response()).body == b"0"
        with suppress(trio.BrokenResourceError):
            await raw.end_sending()
        with trio.fail_after(5):
            assert await raw.read_to_end() == b""


async def test_websocket_that_its_handler_does_not_read_is_read_no_further() -> None:
    """What a client sends ahead of the application waits with the client, and is lost neither."""
    go = trio.Event()
    app = QuartTrio(__name__)

    @app.websocket("/own")
    async def own() -> None:
        await websocket.accept()
        await go.wait()
        for number in range(300):
            assert await websocket.receive() == f"{number}".ljust(100_000)
        await websocket.send("all")

    async with running(app=app) as server, connect(server.address[1]) as raw:
        peer = WebSocketPeer(raw)
        await peer.upgrade(upgrade_bytes("/own"))
        async with trio.open_nursery() as nursery:
            sent = trio.Event()

            async def flood() -> None:
                for number in range(300):
                    await peer.send_frame(TEXT, b"%d" % number + b" " * (100_000 - len(str(number))))
                sent.set()

            nursery.start_soon(flood)
            await trio.sleep(0.3)
            assert not sent.is_set()
            go.set()
        assert (await peer.next_frame()).payload == b"all"


async def test_large_page_arrives_whole(beside: int) -> None:
    """More than any buffer holds."""
    async with connect(beside) as raw:
        assert len((await raw.request("GET", "/large")).body) == 5_000_000
        assert (await raw.request("GET", "/")).status == 200


async def test_client_that_never_reads_a_large_page_is_ended(mounted: Mounted) -> None:
    """What hypercorn shields from cancellation ends by the stall timeout, and gives back its task and descriptor."""
    async with running(app=mounted.app, write_stall_timeout_seconds=0.2, send_buffer_bytes=8192) as server:
        port = server.address[1]
        async with connect(port) as raw:
            assert (await raw.request("GET", "/")).status == 200
        tasks = trio.lowlevel.current_statistics().tasks_living
        async with leaving_nothing_behind():
            async with connect(port, receive_buffer=8192) as raw:
                await raw.send(request_bytes("GET", "/large"))
                assert (await raw.read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
                await eventually(lambda: trio.lowlevel.current_statistics().tasks_living <= tasks)
                assert len(await raw.read_to_end()) < 5_000_000
                assert raw.was_reset


async def test_fault_of_the_application_is_a_500_and_nothing_else(beside: int) -> None:
    """The error tells nothing of its inside, and the server goes on."""
    async with connect(beside) as raw:
        response: Response = await raw.request("GET", "/fails")
        assert response.status == 500
        assert b"a fault of the application" not in response.body
    async with connect(beside) as raw:
        assert (await raw.request("GET", "/")).status == 200


async def test_shutdown_ends_streams_of_the_application_within_the_grace(mounted: Mounted) -> None:
    """A response that never ends does not hold the server for longer than the grace time."""
    async with trio.open_nursery() as nursery:
        reading: list[Peer] = []
        async with running(app=mounted.app, grace_seconds=0.2) as server:

            async def read() -> None:
                async with connect(server.address[1]) as raw:
                    await raw.send(request_bytes("GET", "/stream"))
                    await raw.read_until(b"part 2\n")
                    reading.append(raw)
                    await raw.read_to_end()

            nursery.start_soon(read)
            await eventually(lambda: len(reading) == 1)
            ending = trio.current_time()
        assert trio.current_time() - ending < 5
    assert mounted.life == ["started", "stopped"]
