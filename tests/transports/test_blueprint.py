"""The blueprint: the same protocol for an application under plain hypercorn."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import hypercorn.trio
import trio
from hypercorn.config import Config
from quart_trio import QuartTrio

from realtime import CommandError, ErrorCode, Identity, Settings
from realtime.engine import Engine
from tests.peers import connect, eventually, open_websocket, request_bytes
from transports.blueprint import make_blueprint


@asynccontextmanager
async def serving(settings: Settings, **options) -> AsyncIterator[tuple[int, Engine]]:
    """An application of somebody's own with our blueprint, under hypercorn's own server."""
    engine = Engine(settings, **options)
    app = QuartTrio("theirs")
    app.register_blueprint(make_blueprint(engine))

    @app.get("/")
    async def page() -> str:
        return "theirs"

    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.graceful_timeout = 1
    config.errorlog = None
    stop = trio.Event()
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:

            async def serve(task_status: trio.TaskStatus[list[str]]) -> None:
                await hypercorn.trio.serve(app, config, shutdown_trigger=stop.wait, task_status=task_status)

            (url,) = await nursery.start(serve)
            yield int(url.rpartition(":")[2]), engine
            stop.set()


async def test_websocket_speaks_the_protocol() -> None:
    """Welcome, subscribe, publish, message, errors and closes, as at the front door."""
    async with serving(Settings(dev=True)) as (port, engine):
        async with open_websocket(port) as peer:
            assert (await peer.command("subscribe", topic="room:a"))["type"] == "subscribed"
            assert (await peer.command("publish", topic="room:a", data={"n": 1}))["offset"] == 1
            assert (await peer.receive_type("message"))["data"] == {"n": 1}
            assert (await peer.command("what"))["code"] == "UNKNOWN_TYPE"
            await peer.send_frame(2, b"binary")
            pushes, closed = await peer.receive_to_close()
            assert ([push["type"] for push in pushes], closed.code) == (["error", "disconnect"], 1003)
        await eventually(lambda: not engine.connections)


async def test_too_big_message_closes_with_1009() -> None:
    """The bound on messages is the same."""
    async with (
        serving(Settings(dev=True, max_message_bytes=100)) as (port, _),
        open_websocket(port) as peer,
    ):
        await peer.send_frame(1, b"x" * 101)
        _, closed = await peer.receive_to_close()
        assert closed.code == 1009


async def test_event_stream_tells_and_resumes() -> None:
    """Events carry cursors; a stream that comes back with one gets what it missed; leaving frees the subscription."""
    async with serving(Settings(dev=True)) as (port, engine):
        async with connect(port) as raw:
            await raw.send(request_bytes("GET", "/sse?topic=room:a"))
            head = await raw.read_until(b"event: subscribed")
            assert b"content-type: text/event-stream" in head
            await engine.publish("room:a", 1)
            events = await raw.read_until(b'"data":1')
            (cursor,) = re.findall(rb"id: (\S+)", events)
        await eventually(lambda: not engine.connections)
        await engine.publish("room:a", 2)
        async with connect(port) as raw:
            await raw.send(request_bytes("GET", "/sse?topic=room:a", headers={"Last-Event-ID": cursor.decode()}))
            replayed = await raw.read_until(b'"data":2')
            assert b'"recovered":"full","replayed":1' in replayed


async def test_refusals_are_http_errors_with_our_codes() -> None:
    """Nobody is let in who would not be let in at the front door."""

    async def authenticate(token: str) -> Identity:
        if token != "good":
            raise CommandError(ErrorCode.AUTH_FAILED, "no")
        return Identity("7")

    async with serving(Settings(), authenticate=authenticate) as (port, _), httpx.AsyncClient() as client:
        base = f"http://127.0.0.1:{port}"
        nobody = await client.get(f"{base}/sse?topic=room:a")
        assert (nobody.status_code, nobody.json()["code"]) == (401, "AUTH_REQUIRED")
        wrong = await client.get(f"{base}/sse?topic=room:a", headers={"Authorization": "Bearer bad"})
        assert (wrong.status_code, wrong.json()["code"]) == (401, "AUTH_FAILED")
        good = {"Authorization": "Bearer good"}
        denied = await client.get(f"{base}/sse?topic=user:8", headers=good)
        assert (denied.status_code, denied.json()["code"]) == (403, "PERMISSION_DENIED")
        elsewhere = await client.get(f"{base}/sse?topic=room:a", headers={**good, "Origin": "http://evil.test"})
        assert elsewhere.status_code == 403
        upgrade = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        }
        async with httpx.AsyncClient() as fresh:  # hypercorn takes an upgrade on a new connection only
            refused = await fresh.get(f"{base}/ws", headers={**upgrade, "Authorization": "Bearer bad"})
        assert (refused.status_code, refused.json()["code"]) == (401, "AUTH_FAILED")
        assert (await client.get(base)).text == "theirs"
