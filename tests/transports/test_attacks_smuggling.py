"""Attacks by what is written between the lines: requests inside of requests, headers of values, lines of names.

Heads that are no requests at all stand in `test_hostile`, chunks that break off there too; line feeds in what is
published stand in `test_publish`.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import quote

import pytest
import structlog
import trio

from realtime.auth import Carrier, Identity
from realtime.routes import Route, Transport
from realtime.server import Server
from tests.bystanders import audited, bystander
from tests.peers import TEXT, Closed, Peer, connect, open_events, open_websocket, request_bytes, upgrade_bytes
from tests.transports.conftest import running

#: Nobody may get this carried out: it is never sent as a request, only inside of one.
HIDDEN = request_bytes(
    "POST", "/api/v1/publish", headers={"X-Api-Key": "key"}, body=b'{"topic":"room:hidden","data":"smuggled"}'
)


@asynccontextmanager
async def attacked(**options: Any) -> AsyncIterator[Server]:
    """A server with an audit log and a bystander."""
    async with running(audit=True, **options) as server, bystander(server):
        yield server


async def statuses_of(raw: Peer) -> list[int]:
    """The statuses of all responses until the server ends the connection."""
    found = []
    try:
        while True:
            found.append((await raw.read_response()).status)
    except EOFError:
        return found


async def is_published(server: Server) -> bool:
    """Whether what was hidden was carried out."""
    return await server.broker.position("room:hidden") is not None


# -- a request inside of another ---------------------------------------------------------------------------------

#: Lines that say how long a body is, in ways that a reader in front of us might understand otherwise.
AMBIGUOUS = {
    "length_and_chunked": b"Content-Length: 4\r\nTransfer-Encoding: chunked",
    "chunked_and_length": b"Transfer-Encoding: chunked\r\nContent-Length: 4",
    "two_lengths": b"Content-Length: 4\r\nContent-Length: 0",
    "list_of_lengths": b"Content-Length: 4, 0",
    "length_with_plus": b"Content-Length: +4",
    "length_with_underscore": b"Content-Length: 0_4",
    "length_in_hex": b"Content-Length: 0x4",
    "length_with_vertical_tab": b"Content-Length:\x0b4",
    "length_of_two_words": b"Content-Length: 4 0",
    "length_in_unicode": b"Content-Length: \xb2",
    "no_length": b"Content-Length:",
    "chunked_then_identity": b"Transfer-Encoding: chunked, identity",
    "identity_then_chunked": b"Transfer-Encoding: identity, chunked",
    "two_encodings": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    "chunked_twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "vertical_tab": b"Transfer-Encoding: \x0bchunked",
    "no_break_space": b"Transfer-Encoding: \xa0chunked",
    "quoted": b'Transfer-Encoding: "chunked"',
    "with_parameter": b"Transfer-Encoding: chunked;a=b",
    "another_coding": b"Transfer-Encoding: xchunked",
    "no_coding": b"Transfer-Encoding:",
    "nul_behind": b"Transfer-Encoding: chunked\x00",
    "space_before_the_colon": b"Transfer-Encoding : chunked",
    "bare_carriage_return_in_name": b"Transfer-Encoding\r: chunked",
    "bare_carriage_return_in_value": b"X: y\rTransfer-Encoding: chunked",
    "bare_line_feed": b"X: y\nTransfer-Encoding: chunked",
}


@pytest.mark.parametrize("path", [b"/healthz", b"/api/v1/publish", b"/sse/c_x"], ids=["app", "publish", "command"])
@pytest.mark.parametrize("name", AMBIGUOUS)
async def test_request_smuggled_behind_an_ambiguous_length(
    name: str, path: bytes, log_entries: list[dict[str, Any]]
) -> None:
    """Refused for its head, and nothing behind it is read."""
    async with attacked() as server, connect(server.address[1]) as raw:
        await raw.send(
            b"POST %b HTTP/1.1\r\nHost: x\r\nX-Api-Key: key\r\n%b\r\n\r\n0\r\n\r\n" % (path, AMBIGUOUS[name]) + HIDDEN
        )
        (status,) = await statuses_of(raw)
        assert status in (400, 501)
        assert not await is_published(server)
        assert server.statistics().refused == {"bad_request": 1}
        (told,) = audited(log_entries, "refused")
        assert (told["code"], told["address"]) == ("BAD_REQUEST", "127.0.0.1")


@pytest.mark.parametrize(
    "target", ["/poll?topic=room:a&timeout=0", "/poll", "/state/a", "/sse?topic=room:a", "/healthz", "/none"]
)
@pytest.mark.parametrize("form", ["length", "chunked"])
async def test_request_smuggled_in_the_body_of_a_get(target: str, form: str) -> None:
    """A GET has no use for a body, and nobody looks for requests in one."""
    state = Route(path="/state/{name}", topic="room:{name}", transport=Transport.STATE, state=lambda _topic: {})
    async with attacked(routes=[state]) as server, connect(server.address[1]) as raw:
        await raw.send(with_body("GET", target, form))
        (await raw.read_until(b"\r\n\r\n")).index(b"HTTP/1.1 ")
        if target.startswith("/sse"):
            await raw.end_sending()
        assert b"HTTP/1.1" not in await raw.read_to_end()
        assert not await is_published(server)


@pytest.mark.parametrize("target", ["/api/v1/publish", "/sse/c_x", "/sse/known", "/api/v1/batch", "/healthz", "/none"])
@pytest.mark.parametrize("form", ["length", "chunked"])
async def test_request_smuggled_in_the_body_of_a_post(target: str, form: str) -> None:
    """Refused, whether the body was read or not."""
    async with attacked() as server:
        port = server.address[1]
        async with open_events(port, "topic=room:a") as events, connect(port) as raw:
            if target == "/sse/known":
                target = f"/sse/{events.welcome['connection']}"
            await raw.send(with_body("POST", target, form, b"X-Connection-Secret: guessed"))
            response = await raw.read_response()
            assert 400 <= response.status < 500
            await raw.end_sending()
            assert await raw.read_to_end() == b""
            assert not await is_published(server)


@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize("form", ["length", "chunked"])
async def test_request_smuggled_in_the_body_of_an_applications_request(form: str, reads: bool) -> None:
    """An application that does not read a body leaves no request behind."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for step in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{step}.complete"})
            return
        while reads and (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async with attacked(app=app) as server, connect(server.address[1]) as raw:
        await raw.send(with_body("POST", "/theirs", form))
        assert (await raw.read_response()).body == b"ok"
        await raw.end_sending()
        assert await raw.read_to_end() == b""
        assert not await is_published(server)


@pytest.mark.parametrize(
    "body",
    [
        b"0x2\r\nab\r\n0\r\n\r\n",
        b"+2\r\nab\r\n0\r\n\r\n",
        b"2 \x0b\r\nab\r\n0\r\n\r\n",
        b"2\nab\r\n0\r\n\r\n",
        b"2\rab\r\n0\r\n\r\n",
        b"2\r\nabX\r\n0\r\n\r\n",
        b"0\r\nX : y\r\n\r\n",
        b"10000000000000002\r\nab\r\n0\r\n\r\n",
        b"2;a=b\nc\r\nab\r\n0\r\n\r\n",
    ],
    ids=repr,
)
async def test_request_smuggled_behind_an_ambiguous_chunk(body: bytes) -> None:
    """Where two readers could differ on the end of a chunk, the connection ends."""
    async with attacked(request_timeout_seconds=0.2) as server, connect(server.address[1]) as raw:
        await raw.send(b"POST /api/v1/batch HTTP/1.1\r\nHost: x\r\nX-Api-Key: key\r\n")
        await raw.send(b"Transfer-Encoding: chunked\r\n\r\n" + body + HIDDEN)
        statuses = await statuses_of(raw)
        assert len(statuses) <= 1
        assert not set(statuses) - {400}
        assert not await is_published(server)


async def test_request_smuggled_behind_an_upgrade(log_entries: list[dict[str, Any]]) -> None:
    """What follows an upgrade is frames and no request, whether it was granted or refused."""
    async with attacked() as server:
        for request, status in ((upgrade_bytes(), b"101"), (upgrade_bytes(without=["Sec-WebSocket-Key"]), b"400")):
            async with connect(server.address[1]) as raw:
                await raw.send(request + HIDDEN)
                answer = await raw.read_to_end()
                assert answer.startswith(b"HTTP/1.1 " + status)
                assert answer.count(b"HTTP/1.1") == 1
        assert not await is_published(server)
        assert server.statistics().refused == {"bad_handshake": 1}
        assert len(audited(log_entries, "refused")) == 1


def with_body(method: str, target: str, form: str, *lines: bytes) -> bytes:
    """A request whose body is the hidden one."""
    head = b"".join(line + b"\r\n" for line in (f"{method} {target} HTTP/1.1".encode(), b"Host: x", *lines))
    if form == "length":
        return head + b"Content-Length: %d\r\n\r\n%b" % (len(HIDDEN), HIDDEN)
    return head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)


# -- a header inside of a value ----------------------------------------------------------------------------------

INJECTED = "\r\nX-Injected: 1\r\n\r\nHTTP/1.1 200 OK\r\nX-Injected: 2\r\n\r\n"
PLACES = {
    "query": ("/sse?topic=room:a&x={}", {}),
    "topic": ("/sse?topic=room:{}", {}),
    "topic_of_a_poll": ("/poll?timeout=0&topic=room:{}", {}),
    "cursor": ("/sse?topic=room:a&cursor={}", {}),
    "fields": ("/sse?topic=room:a&fields={}", {}),
    "ticket": ("/sse?topic=room:a&ticket={}", {}),
    "path": ("/{}", {}),
    "path_of_a_route": ("/state/{}", {}),
    "path_of_the_api": ("/api/v1//topics/{}/", {}),
    "path_of_a_file": ("/realtime/{}", {}),
    "path_of_an_events_command": ("/sse/{}", {}),
    "another_host": ("//{}", {}),
    "last_event_id": ("/sse?topic=room:a", {"Last-Event-ID": "{}"}),
    "origin": ("/sse?topic=room:a", {"Origin": "http://localhost/{}"}),
    "host": ("/healthz", {"X-Forwarded-Host": "{}"}),
}


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize("place", PLACES)
async def test_header_injected_by_a_value(place: str, method: str) -> None:
    """However it is answered, what was said stands in no header and begins no second response."""
    target, headers = PLACES[place]
    said = quote(INJECTED, safe="")
    state = Route(
        path="/state/{name}", topic="room:{name}", transport=Transport.STATE, state=lambda topic: {"of": topic}
    )
    async with attacked(routes=[state]) as server, connect(server.address[1]) as raw:
        whole = {name: value.format(said) for name, value in headers.items()}
        await raw.send(request_bytes(method, target.format(said), headers={**whole, "Connection": "close"}, body=b""))
        head = await raw.read_until(b"\r\n\r\n")
        assert re.match(rb"HTTP/1\.1 (200|204|400|401|403|404|405) ", head)
        check_lines(head)
        await raw.end_sending()
        assert b"HTTP/1.1" not in await raw.read_to_end()


@pytest.mark.parametrize("mark", [b"\r\n", b"\n", b"\r", b"\0", b"\x0b", b"\x0c", b"\x85"], ids=repr)
@pytest.mark.parametrize(
    "name", [b"Origin: http://x", b"Last-Event-ID: e", b"Sec-WebSocket-Protocol: realtime.v1,bearer."]
)
async def test_header_injected_by_a_line_feed_of_a_sort(name: bytes, mark: bytes) -> None:
    """Raw, in headers of which answers speak: refused, or a header of the request and of nothing else."""
    line = name + mark + b"X-Injected: 1"
    async with attacked() as server:
        for request in (request_bytes("GET", "/sse?topic=room:a"), upgrade_bytes()):
            async with connect(server.address[1]) as raw:
                await raw.send(request.replace(b"Host: localhost", b"Host: x\r\n" + line))
                check_lines(await raw.read_until(b"\r\n\r\n"))


@pytest.mark.parametrize(
    "origin", ["http://localhost/\tX-Injected: 1", "http://localhost\t:80", "http://localhost:80/a b"]
)
async def test_origin_with_more_in_it_than_an_origin_is_echoed_on_one_line(origin: str) -> None:
    """Whatever is made of it, the answer has the lines that it always has."""
    async with attacked() as server, connect(server.address[1]) as raw:
        response = await raw.request("GET", "/poll?topic=room:a&timeout=0", headers={"Origin": origin})
        assert response.status in (200, 400, 403)
        assert response.header("x-injected") is None


def check_lines(head: bytes) -> None:
    """A response's head has whole lines, each with a name that we write, and no character that ends a line early."""
    first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    assert re.fullmatch(rb"HTTP/1\.1 [0-9]{3}[ A-Za-z-]*", first)
    for line in lines:
        assert re.fullmatch(rb"[A-Za-z-]+: [\x20-\x7e\xa1-\xff]*", line), line
        assert not line.lower().startswith(b"x-injected"), line


# -- a line inside of the log ------------------------------------------------------------------------------------

FORGERIES = {
    "line": 'x\n{"audit":"login","user":"admin"}',
    "line_of_a_terminal": "x\r\x1b[2K2026-01-01 [info] audit audit=login user=admin",
    "colours": "\x1b[31m\x1b[2J\x1b]0;title\x07",
    "colours_of_one_byte": "\x9b31m\x9d0;title\x9c",
    "json": 'x","user":"admin',
    "console": "x user=admin",
    "unicode_lines": "x\x85y\u2028z\u2029w\x0bv\x0cu",
    "turned_around": "\u202eadmin\u2066\u200b",
    "nul": "x\0y",
    "endless": "x" * 5_000,
}


@contextmanager
def logging_to(renderer: Any) -> Iterator[io.StringIO]:
    """The log as the command line writes it."""
    written = io.StringIO()
    kept = structlog.get_config()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        logger_factory=structlog.PrintLoggerFactory(written),
    )
    try:
        yield written
    finally:
        structlog.configure(**kept)


RENDERERS = {
    "json": structlog.processors.JSONRenderer(),
    "console": structlog.dev.ConsoleRenderer(colors=False),
}


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize("name", FORGERIES)
async def test_log_forged_by_what_a_peer_says(name: str, renderer: str) -> None:
    """As user, topic, origin, path, action, trace id and token: each event stays on its line, and moves no cursor."""
    text = FORGERIES[name]
    token = text.encode().hex()

    def authenticate(token: str, carrier: Carrier) -> Identity:
        return Identity(bytes.fromhex(token).decode())

    with logging_to(RENDERERS[renderer]) as written:
        async with running(audit=True, authenticate=authenticate) as server:
            port = server.address[1]
            bearer = {"Authorization": f"Bearer {token}"}
            said = quote(text.encode(), safe="")
            for target in (f"/sse?topic=room:{said}", f"/poll?topic=user:{said}", f"/api/v1/users/{said}/disconnect"):
                for headers in ({}, bearer, {"X-Api-Key": "key"}, {"Origin": f"https://{said}"}):
                    for method in ("GET", "POST"):
                        async with connect(port) as raw:
                            await raw.send(request_bytes(method, target, headers=headers, body=b""))
                            await raw.read_until(b"\r\n")
            async with open_websocket(port) as peer:
                for command in (
                    {"type": "auth", "token": token},
                    {"type": "auth", "token": "no hex"},
                    {"type": "subscribe", "topic": "room:" + text},
                    {"type": "subscribe", "topic": "user:" + text},
                    {"type": "publish", "topic": "room:a", "event": text, "key": text, "data": 1},
                    {"type": "request", "action": text, "trace_id": text},
                    {"type": text},
                ):
                    try:
                        await peer.command(**command)
                    except (Closed, trio.BrokenResourceError):
                        break
                    except TypeError:  # `command` has a parameter of this name
                        await peer.send_frame(TEXT, json.dumps({"id": 1, **command}).encode())
    lines = written.getvalue().removesuffix("\n").split("\n")
    assert len(lines) > 10
    for line in lines:
        assert line.isprintable(), line
        if renderer == "json":
            told = json.loads(line)
            assert told["event"] in ("audit", "audit events left out", "authenticate failed")
            assert told.get("user") != "admin"
        else:
            assert re.match(r"\S+ \[\w+ *\] (audit|authenticate failed)", line), line
            assert " user=admin" not in re.sub(r"'[^']*'|\"[^\"]*\"", "", line), line
        assert len(line) < 1_500
