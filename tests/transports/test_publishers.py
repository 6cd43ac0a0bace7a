"""The publishers over real sockets: against the real server, and one that behaves as badly as it is told to."""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import trio
from attrs import Factory, define

from realtime.errors import ConfigurationError
from realtime.server import Server
from tests.peers import Peer, eventually, leaving_nothing_behind, open_websocket
from transports.publishers import AsyncHttpPublisher, HttpPublisher, Outgoing, PublishError, Receipt
from transports.responses import json_response

#: Waits that tests over real sockets can afford.
QUICK = {"backoff_seconds": (0.0, 0.0)}
DONE = json_response(200, {"epoch": "e", "offset": 1}, keep_alive=True)
HANG = None


def refusal(status: int, *, retry_after: int | None = None, **members: Any) -> bytes:
    """An error of the API, as bytes."""
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return json_response(status, {"type": "error", "message": "no", **members}, keep_alive=True, headers=headers)


BUSY = refusal(503, code="UNAVAILABLE")


@define
class Scripted:
    """An HTTP server that gives the answers of its script, one to each request, and remembers the requests.

    ``HANG`` is no answer at all; after an answer that does not end in the way HTTP says, the connection is closed.
    """

    port: int
    script: list[bytes | None]
    paths: list[str] = Factory(list)
    keys: list[str] = Factory(list)
    bodies: list[Any] = Factory(list)
    connections: int = 0
    open: int = 0

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serve one connection."""
        peer = Peer(stream, stream)
        self.connections += 1
        self.open += 1
        try:
            while await self._serve_request(peer):
                pass
        except (EOFError, trio.BrokenResourceError):
            pass  # a publisher that had no more time
        finally:
            self.open -= 1
            await peer.aclose()

    async def _serve_request(self, peer: Peer) -> bool:
        if not await peer.more():
            return False
        head = (await peer.read_until(b"\r\n\r\n")).decode()
        first, *lines = head.split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines if line)
        self.paths.append(first.split(" ")[1])
        self.keys.append(headers["x-api-key"])
        self.bodies.append(json.loads(await peer.read_exactly(int(headers["content-length"]))))
        answer = self.script.pop(0)
        if answer is HANG:
            assert not await peer.more()
            return False
        await peer.send(answer)
        return b"Connection: keep-alive" in answer


@asynccontextmanager
async def scripted(*script: bytes | None) -> AsyncIterator[Scripted]:
    """A `Scripted` server for the length of a block; all that it had to answer, it was asked."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server = Scripted(listener.socket.getsockname()[1], list(script))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, server.serve, [listener])
        yield server
        nursery.cancel_scope.cancel()
    assert not [answer for answer in server.script if answer is not HANG]


async def in_thread(url: str, work: Callable[[HttpPublisher], Any], *, api_key: str = "key", **options: Any) -> Any:
    """What ``work`` makes of a blocking publisher, in a thread."""

    def run() -> Any:
        with HttpPublisher(url, api_key, **{**QUICK, **options}) as publisher:
            return work(publisher)

    return await trio.to_thread.run_sync(run)


async def on_trio(url: str, work: Callable[[AsyncHttpPublisher], Any], *, api_key: str = "key", **options: Any) -> Any:
    """The same of one that does not block."""
    async with AsyncHttpPublisher(url, api_key, **{**QUICK, **options}) as publisher:
        return await work(publisher)


async def on_asyncio(url: str, work: Callable[[AsyncHttpPublisher], Any], **options: Any) -> Any:
    """The same, in a thread that runs asyncio."""
    return await trio.to_thread.run_sync(lambda: asyncio.run(on_trio(url, work, **options)))


WAYS = pytest.mark.parametrize("way", [in_thread, on_trio, on_asyncio])
Way = Callable[..., Any]


# -- the real server ------------------------------------------------------------------------------------------


@WAYS
async def test_publish_is_delivered_and_has_its_receipt(way: Way, server: Server, port: int) -> None:
    """Position, data, event and key are those that a subscriber sees."""
    async with open_websocket(port) as peer:
        joined = await peer.command("subscribe", topic="room:a")
        receipt = await way(server.url, lambda publisher: publisher.publish("room:a", {"x": "ü"}, event="e", key="k"))
        assert receipt == Receipt(joined["epoch"], 1)
        message = await peer.receive_type("message")
        assert (message["data"], message["event"], message["key"]) == ({"x": "ü"}, "e", "k")


@WAYS
async def test_refused_publish_is_not_repeated(way: Way, server: Server) -> None:
    """The error has the server's code and status."""
    for topic, data, code, status in (("nokind:a", 1, "INVALID_TOPIC", 400), ("room:a", "x" * 70_000, None, 413)):
        with pytest.raises(PublishError) as caught:
            await way(server.url, lambda publisher, topic=topic, data=data: publisher.publish(topic, data))
        error = caught.value
        assert (error.code, error.status, error.attempts) == (code or "PAYLOAD_TOO_LARGE", status, 1)
    assert server.statistics().hub.published == 0


async def test_publisher_with_a_wrong_key_is_refused(server: Server) -> None:
    """Once, and without showing the key."""
    async with AsyncHttpPublisher(server.url, "a-wrong-key") as publisher:
        with pytest.raises(PublishError) as caught:
            await publisher.publish("room:a", 1)
    assert (caught.value.code, caught.value.attempts) == ("AUTH_FAILED", 1)


async def test_threads_share_one_publisher(server: Server) -> None:
    """Every message of every thread is there once."""
    with HttpPublisher(server.url, "key") as publisher:

        def work() -> None:
            for number in range(20):
                publisher.publish("room:a", number)

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(trio.to_thread.run_sync, work)
    assert server.statistics().hub.published == 100


async def test_tasks_share_one_publisher_and_its_connections(server: Server) -> None:
    """Nothing is left behind when it closes."""
    async with leaving_nothing_behind(), AsyncHttpPublisher(server.url, "key") as publisher:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(publisher.publish, "room:a", number)
    assert server.statistics().hub.published == 20


# -- a server that fails --------------------------------------------------------------------------------------


@WAYS
async def test_requests_share_a_connection_and_name_their_targets(way: Way) -> None:
    """Each method has its path; the key is in each head."""
    error = {"type": "error", "code": "INVALID_TOPIC", "message": "no", "topic": "b"}
    results = json_response(200, {"results": [{"topic": "a", "epoch": "e", "offset": 2}, error]}, keep_alive=True)
    one = json_response(200, {"topic": "user:7", "epoch": "e", "offset": 3, "duplicate": True}, keep_alive=True)
    async with scripted(results, results, one, one, one) as server:

        def calls(publisher: Any) -> list[Callable[[], Any]]:
            return [
                lambda: publisher.publish_many(Outgoing(topic, 1, event="e") for topic in "ab"),
                lambda: publisher.broadcast(["a", "b"], 1, key="k"),
                lambda: publisher.send_to_role("admin", 1),
                lambda: publisher.send_to_user("a/b", 1),
                lambda: publisher.send_to_connection("c_1", 1, idempotency_key="i"),
            ]

        async def all_async(publisher: AsyncHttpPublisher) -> list[Any]:
            return [await call() for call in calls(publisher)]

        def all_sync(publisher: HttpPublisher) -> list[Any]:
            return [call() for call in calls(publisher)]

        *lists, to_role, to_user, to_connection = await way(server.url, all_sync if way is in_thread else all_async)
    for receipt, refused in lists:
        assert receipt == Receipt("e", 2, topic="a")
        assert (refused.code, refused.topic) == ("INVALID_TOPIC", "b")
    assert to_role == to_user == to_connection == Receipt("e", 3, duplicate=True, topic="user:7")
    assert server.connections == 1
    assert server.keys == ["key"] * 5
    assert server.paths == [
        "/api/v1/batch",
        "/api/v1/broadcast",
        "/api/v1/publish",
        "/api/v1/users/a%2Fb/send",
        "/api/v1/connections/c_1/send",
    ]
    assert server.bodies[4] == {"data": 1, "idempotency_key": "i"}


@WAYS
async def test_call_is_repeated_with_one_idempotency_key_until_it_is_answered(way: Way) -> None:
    """Through refusals that pass, a lost answer, half an answer, a head and a body that are none."""
    script = [BUSY, refusal(429, code="X"), refusal(502), refusal(504), b"", b"\x00\x01\r\n\r\n"]
    script.append(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}")
    async with scripted(*script, DONE) as server:
        receipt = await way(server.url, lambda publisher: publisher.publish("room:a", 1), attempts=8)
    assert receipt == Receipt("e", 1)
    assert len({body["idempotency_key"] for body in server.bodies}) == 1
    assert len(server.bodies) == 8


async def test_answer_that_cannot_be_unpacked_is_asked_for_again() -> None:
    """Not under Trio, which warns of what httpx leaves behind then."""
    packed = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnone"
    for way in (in_thread, on_asyncio):
        async with scripted(packed, DONE) as server:
            assert await way(server.url, lambda publisher: publisher.publish("room:a", 1)) == Receipt("e", 1)


@WAYS
async def test_server_that_never_answers_is_given_up(way: Way) -> None:
    """Each attempt has its time, and the last failure is raised without what httpx raised."""
    async with scripted(HANG, HANG) as server:
        with pytest.raises(PublishError) as caught:
            await way(server.url, lambda publisher: publisher.publish("room:a", 1), attempts=2, timeout_seconds=0.05)
    error = caught.value
    assert (error.code, error.message) == ("TIMEOUT", "no answer within 0.05 seconds")
    assert (error.status, error.attempts) == (None, 2)
    assert error.__context__ is None


@WAYS
async def test_server_that_is_not_there_is_unavailable(way: Way) -> None:
    """With the reason, after all attempts."""
    async with scripted() as server:
        url = server.url
    with pytest.raises(PublishError) as caught:
        await way(url, lambda publisher: publisher.publish("room:a", 1), attempts=3)
    assert (caught.value.code, caught.value.status, caught.value.attempts) == ("UNAVAILABLE", None, 3)
    assert "ConnectError" in caught.value.message
    assert caught.value.__context__ is None


@WAYS
async def test_answer_of_another_server_is_not_repeated(way: Way) -> None:
    """A page in the place of a receipt is most likely a wrong URL."""
    async with scripted(json_response(200, b"<html>")) as server:
        with pytest.raises(PublishError, match="is the URL right"):
            await way(server.url, lambda publisher: publisher.publish("room:a", 1))


async def test_blocking_publisher_waits_as_long_as_it_is_asked_to() -> None:
    """The exact seconds of the body before the rounded ones of the header; then its own."""
    waits: list[float] = []
    script = (refusal(503, code="UNAVAILABLE", retry_after=2), json_response(503, {"code": "X", "retry_after": 2.5}))
    async with scripted(*script, BUSY, DONE) as server:
        await in_thread(
            server.url,
            lambda publisher: publisher.publish("room:a", 1),
            backoff_seconds=(1.0, 10.0),
            now=lambda: 0.0,
            sleep=waits.append,
            random=lambda: 0.5,
        )
    assert waits == [2.5, 3.5, 2.0]


@WAYS
async def test_many_messages_that_fail_midway_keep_the_results_so_far(way: Way) -> None:
    """The error stands for the rest, of which nothing more is sent."""
    first = json_response(200, {"results": [{"epoch": "e", "offset": n} for n in range(1000)]}, keep_alive=True)
    async with scripted(first, refusal(500, code="INTERNAL_ERROR")) as server:
        results = await way(
            server.url, lambda publisher: publisher.publish_many([Outgoing("room:a", 1)] * 2500), attempts=2
        )
    assert [result.offset for result in results[:1000]] == list(range(1000))
    assert {result.code for result in results[1000:]} == {"INTERNAL_ERROR"}
    assert len(results) == 2500


@WAYS
async def test_many_messages_of_which_none_was_taken_raise(way: Way) -> None:
    """There is nothing else to tell; and no messages need no request."""
    async with scripted(refusal(401, code="AUTH_REQUIRED")) as server:
        assert await way(server.url, lambda publisher: publisher.publish_many([])) == []
        with pytest.raises(PublishError) as caught:
            await way(server.url, lambda publisher: publisher.publish_many([Outgoing("room:a", 1)]))
    assert caught.value.code == "AUTH_REQUIRED"


async def test_cancelled_publish_leaves_a_publisher_that_works() -> None:
    """The connection in use is closed, the next call opens another."""
    async with scripted(HANG, DONE) as server, AsyncHttpPublisher(server.url, "key") as publisher:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publisher.publish, "room:a", 1)
            await eventually(lambda: len(server.bodies) == 1)
            nursery.cancel_scope.cancel()
        await eventually(lambda: server.open == 0)
        assert await publisher.publish("room:a", 2) == Receipt("e", 1)
        assert server.connections == 2


async def test_publish_cancelled_by_asyncio_leaves_a_publisher_that_works() -> None:
    """The same there."""
    async with scripted(HANG, DONE) as server:

        async def work(publisher: AsyncHttpPublisher) -> Receipt:
            task = asyncio.create_task(publisher.publish("room:a", 1))
            while not server.bodies:
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return await publisher.publish("room:a", 2)

        assert await on_asyncio(server.url, work) == Receipt("e", 1)
        assert server.connections == 2


@pytest.mark.parametrize("kind", [HttpPublisher, AsyncHttpPublisher])
@pytest.mark.parametrize("key", ["", " s3cret", "s3cret\n", "s3cr\x00et", "s3crét"])
def test_key_that_no_header_can_carry_is_refused_unseen(kind: Any, key: str) -> None:
    """By this class, as httpx would tell the key in its error."""
    with pytest.raises(ConfigurationError, match="api_key") as caught:
        kind("http://127.0.0.1", key)
    # The frame of this test knows the key; what is told does not.
    assert "s3cr" not in "".join(traceback.format_exception_only(caught.value))
    assert caught.value.__context__ is None


@pytest.mark.parametrize("kind", [HttpPublisher, AsyncHttpPublisher])
@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://127.0.0.1", "http://", "http://[::1"])
def test_url_that_is_no_servers_is_refused(kind: Any, url: str) -> None:
    """When the publisher is made, not after five attempts."""
    with pytest.raises(ConfigurationError, match="url"):
        kind(url, "key")


@WAYS
async def test_key_is_in_no_log_and_no_error(way: Way, caplog: pytest.LogCaptureFixture) -> None:
    """Neither of ours nor of httpx's, down to its details."""
    caplog.set_level(logging.DEBUG)
    shown: list[str] = []

    def publish(publisher: Any) -> Any:
        shown.append(repr(publisher))
        return publisher.publish("room:a", 1)

    async with scripted(b"", json_response(401, b"x-api-key: s3cret")) as server:
        with pytest.raises(PublishError) as caught:
            await way(server.url, publish, api_key="s3cret")
    assert server.keys == ["s3cret"] * 2
    assert shown
    assert "connect_tcp.started" in caplog.text
    assert "s3cret" not in caplog.text + shown[0] + "".join(traceback.format_exception_only(caught.value))


# -- virtual time, no sockets ---------------------------------------------------------------------------------


def virtual(answer: Callable[[], Any], **options: Any) -> AsyncHttpPublisher:
    """A publisher whose requests are answered by a function."""

    async def handle(_request: httpx.Request) -> httpx.Response:
        return await answer()

    options = {"random": lambda: 1.0, "backoff_seconds": (1.0, 4.0), **options}
    return AsyncHttpPublisher("http://server", "key", transport=httpx.MockTransport(handle), **options)


async def test_retries_wait_for_their_times(autojump_clock: trio.testing.MockClock) -> None:
    """Its own waits double; a server's ``Retry-After`` comes on top; then the message is there."""
    times: list[float] = []

    async def answer() -> httpx.Response:
        times.append(trio.current_time())
        headers = {"Retry-After": "5"} if len(times) == 3 else {}
        if len(times) < 5:
            return httpx.Response(503, headers=headers)
        return httpx.Response(200, json={"epoch": "e", "offset": 1})

    async with virtual(answer) as publisher:
        start = trio.current_time()
        assert await publisher.publish("room:a", 1) == Receipt("e", 1)
    assert [time - start for time in times] == pytest.approx([0, 1, 3, 12, 16])


async def test_deadline_ends_the_last_attempt_early(autojump_clock: trio.testing.MockClock) -> None:
    """An attempt of ten seconds, a wait, what is left of thirty."""
    start = trio.current_time()
    async with virtual(trio.sleep_forever, deadline_seconds=18.0) as publisher:
        with pytest.raises(PublishError) as caught:
            await publisher.publish("room:a", 1)
    assert trio.current_time() - start == pytest.approx(18.0)
    assert (caught.value.code, caught.value.attempts) == ("TIMEOUT", 2)


async def test_server_away_past_the_deadline_is_told_at_once(autojump_clock: trio.testing.MockClock) -> None:
    """With its ``Retry-After``, for the caller to use."""

    async def answer() -> httpx.Response:
        return httpx.Response(503, headers={"Retry-After": "60"})

    start = trio.current_time()
    async with virtual(answer) as publisher:
        with pytest.raises(PublishError) as caught:
            await publisher.publish("room:a", 1)
    assert trio.current_time() == start
    assert (caught.value.retry_after, caught.value.attempts) == (60.0, 1)


async def test_call_is_cancelled_while_it_waits_to_retry(autojump_clock: trio.testing.MockClock) -> None:
    """It does not hold its canceller up, and asks no more."""
    asked = 0

    async def answer() -> httpx.Response:
        nonlocal asked
        asked += 1
        return httpx.Response(503)

    start = trio.current_time()
    async with virtual(answer) as publisher:
        with trio.move_on_after(0.5) as scope:
            await publisher.publish("room:a", 1)
    assert scope.cancelled_caught
    assert trio.current_time() - start == pytest.approx(0.5)
    assert asked == 1
