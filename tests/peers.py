"""Clients for the tests that speak over real sockets, byte by byte where a test wants that.

They share no code with the server, so a mistake cannot cancel itself out. Each wait has a deadline: a test that
goes wrong fails by itself.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import socket
import ssl
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

import h11
import trio
from attrs import field, frozen

#: Far above what anything here takes; only a failing test waits that long.
DEADLINE_SECONDS = 10.0

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


async def eventually(condition: Callable[[], bool], *, seconds: float = DEADLINE_SECONDS) -> None:
    """Wait until ``condition`` holds, where no event tells of it."""
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.005)


# -- bytes ---------------------------------------------------------------------------------------------------


class Peer:
    """The client's end of one connection."""

    def __init__(self, stream: trio.abc.Stream, tcp: trio.SocketStream) -> None:
        self._stream = stream
        self._tcp = tcp
        self.buffer = b""
        #: Whether the server ended the connection by a reset and not in order.
        self.was_reset = False

    async def send(self, data: bytes) -> None:
        """Send ``data``; raises `trio.BrokenResourceError` where the server is gone."""
        with trio.fail_after(DEADLINE_SECONDS):
            await self._stream.send_all(data)

    async def more(self) -> bool:
        """Wait for bytes and put them in the buffer; False at the end."""
        with trio.fail_after(DEADLINE_SECONDS):
            try:
                data = await self._stream.receive_some(65536)
            except trio.BrokenResourceError:
                self.was_reset = True
                return False
        self.buffer += data
        return bool(data)

    async def read_exactly(self, count: int) -> bytes:
        """The next ``count`` bytes; raises `EOFError` where they do not come."""
        parts, have = [self.buffer], len(self.buffer)
        while have < count:
            self.buffer = b""
            if not await self.more():
                self.buffer = b"".join(parts)
                raise EOFError
            parts.append(self.buffer)
            have += len(self.buffer)
        data = b"".join(parts)
        self.buffer = data[count:]
        return data[:count]

    async def read_until(self, mark: bytes) -> bytes:
        """Everything up to and with ``mark``; raises `EOFError` where it does not come."""
        while mark not in self.buffer:
            if not await self.more():
                raise EOFError
        end = self.buffer.index(mark) + len(mark)
        data, self.buffer = self.buffer[:end], self.buffer[end:]
        return data

    async def read_to_end(self) -> bytes:
        """Everything until the server ends the connection."""
        while await self.more():
            pass
        data, self.buffer = self.buffer, b""
        return data

    async def read_response(self) -> Response:
        """The next HTTP response; raises `EOFError` where there is none."""
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method="GET", target="/", headers=[("host", "-")]))
        parser.send(h11.EndOfMessage())
        head: h11.Response | None = None
        interim: list[int] = []
        body = b""
        while True:
            parser.receive_data(self.buffer) if self.buffer else None
            self.buffer = b""
            event = parser.next_event()
            while event is not h11.NEED_DATA:
                if isinstance(event, h11.InformationalResponse):
                    interim.append(event.status_code)
                elif isinstance(event, h11.Response):
                    head = event
                elif isinstance(event, h11.Data):
                    body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    self.buffer = parser.trailing_data[0]
                    assert head is not None
                    return Response(head.status_code, list(head.headers), body, interim)
                event = parser.next_event()
            if not await self.more():
                if head is None:
                    raise EOFError
                parser.receive_data(b"")

    async def request(
        self, method: str, target: str, *, headers: dict[str, str] | None = None, body: bytes | None = None
    ) -> Response:
        """Send one request and read its response."""
        await self.send(request_bytes(method, target, headers=headers, body=body))
        return await self.read_response()

    async def end_sending(self) -> None:
        """Close our half."""
        await self._tcp.send_eof()

    def reset(self) -> None:
        """End the connection as a crash does."""
        self._tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._tcp.socket.close()

    async def aclose(self) -> None:
        """Hang up."""
        await trio.aclose_forcefully(self._tcp)


@frozen
class Response:
    """One HTTP response."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    #: The statuses of responses that came before it: ``100``.
    interim: list[int] = field(factory=list)

    def header(self, name: str) -> str | None:
        """The value of a header; None where it is not there."""
        return next((value.decode() for key, value in self.headers if key == name.lower().encode()), None)

    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)


def request_bytes(
    method: str, target: str, *, headers: dict[str, str] | None = None, body: bytes | None = None
) -> bytes:
    """One HTTP request."""
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


@asynccontextmanager
async def connect(
    port: int, *, tls: ssl.SSLContext | None = None, receive_buffer: int | None = None
) -> AsyncIterator[Peer]:
    """A connection to a server on this machine. ``receive_buffer``: a small one, so that a server soon notices."""
    with trio.fail_after(DEADLINE_SECONDS):
        raw = trio.socket.socket()
        if receive_buffer is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            await raw.connect(("127.0.0.1", port))
        except BaseException:
            raw.close()
            raise
        tcp = trio.SocketStream(raw)
        stream: trio.abc.Stream = tcp
        if tls is not None:
            stream = trio.SSLStream(tcp, tls, server_hostname="localhost", https_compatible=True)
    peer = Peer(stream, tcp)
    try:
        yield peer
    finally:
        await peer.aclose()


# -- WebSocket -----------------------------------------------------------------------------------------------


@frozen
class Frame:
    """One frame that the server sent."""

    opcode: int
    payload: bytes
    fin: bool = True


class Closed(Exception):
    """The server closed: with a close frame of this code, or None without one."""

    def __init__(self, code: int | None, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    masked: bool = True,
    length_form: int | None = None,
) -> bytes:
    """One frame as a client sends it, or as it must not: ``length_form`` 126 or 127 forces a longer length field."""
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    size = len(payload)
    form = length_form or (size if size < 126 else 126 if size < 65536 else 127)
    head = bytes([first, (0x80 if masked else 0) | form])
    head += {126: struct.pack("!H", size & 0xFFFF), 127: struct.pack("!Q", size)}.get(form, b"")
    if not masked:
        return head + payload
    mask = b"\x37\xfa\x21\x3d"
    repeated = (mask * (size // 4 + 1))[:size]
    sealed = (int.from_bytes(payload) ^ int.from_bytes(repeated)).to_bytes(size)
    return head + mask + sealed


def close_payload(code: int, reason: bytes = b"") -> bytes:
    """What a close frame holds."""
    return struct.pack("!H", code) + reason


def upgrade_bytes(target: str = "/ws", *, headers: Iterable[str] = (), without: Iterable[str] = ()) -> bytes:
    """An upgrade request with more header lines, or ``without`` some of those that it needs."""
    lines = {
        "Host": "localhost",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        "Sec-WebSocket-Version": "13",
    }
    kept = [f"{name}: {value}" for name, value in lines.items() if name not in without]
    return "\r\n".join([f"GET {target} HTTP/1.1", *kept, *headers, "", ""]).encode()


class WebSocketPeer:
    """A WebSocket client that hides nothing."""

    def __init__(self, raw: Peer) -> None:
        self.raw = raw
        #: The head of the server's answer to the upgrade.
        self.answer = b""
        self.welcome: dict[str, Any] = {}
        self.pings: list[bytes] = []
        self._fresh: deque[dict[str, Any]] = deque()
        self._next_id = 0

    async def upgrade(self, request: bytes, *, trailing: bytes = b"") -> None:
        """Send an upgrade request, and ``trailing`` in the same segment; raises `AssertionError` if refused."""
        await self.raw.send(request + trailing)
        self.answer = await self.raw.read_until(b"\r\n\r\n")
        assert self.answer.startswith(b"HTTP/1.1 101 "), self.answer

    async def send_frame(self, opcode: int, payload: bytes = b"", **options: Any) -> None:
        """Send one frame; see `frame`."""
        await self.raw.send(frame(opcode, payload, **options))

    async def next_frame(self) -> Frame:
        """The next frame; raises `EOFError` at the end."""
        first, second = await self.raw.read_exactly(2)
        assert not second & 0x80, "a server's frames are not masked"
        assert not first & 0x70, "no extension was agreed on"
        size = second & 0x7F
        if size == 126:
            (size,) = struct.unpack("!H", await self.raw.read_exactly(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", await self.raw.read_exactly(8))
        return Frame(first & 0x0F, await self.raw.read_exactly(size), bool(first & 0x80))

    async def receive(self) -> dict[str, Any]:
        """The next push or reply. Raises `Closed`."""
        return self._fresh.popleft() if self._fresh else await self._receive()

    async def _receive(self) -> dict[str, Any]:
        while True:
            try:
                found = await self.next_frame()
            except EOFError:
                raise Closed(None) from None
            if found.opcode == CLOSE:
                code = struct.unpack("!H", found.payload[:2])[0] if found.payload else None
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self.send_frame(CLOSE, found.payload[:2])
                    await self.raw.end_sending()
                raise Closed(code, found.payload[2:].decode())
            if found.opcode == PING:
                self.pings.append(found.payload)
                await self.send_frame(PONG, found.payload)
            elif found.opcode == TEXT:
                push: dict[str, Any] = json.loads(found.payload)
                return push

    async def receive_where(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The next push that is wanted; others stay to be received."""
        for push in self._fresh:
            if wanted(push):
                self._fresh.remove(push)
                return push
        while not wanted(push := await self._receive()):
            self._fresh.append(push)
        return push

    async def receive_type(self, kind: str) -> dict[str, Any]:
        """The next push of this type; others stay to be received."""
        return await self.receive_where(lambda push: push["type"] == kind)

    async def send_json(self, value: Any) -> None:
        """Send one message."""
        await self.send_frame(TEXT, json.dumps(value).encode())

    async def command(self, kind: str, **members: Any) -> dict[str, Any]:
        """Send a command and wait for its reply; pushes that come before it stay to be received."""
        self._next_id += 1
        identity = self._next_id
        await self.send_json({"type": kind, "id": identity, **members})
        return await self.receive_where(lambda push: push.get("id") == identity)

    async def receive_to_close(self) -> tuple[list[dict[str, Any]], Closed]:
        """Everything that still comes, and how it ended."""
        pushes: list[dict[str, Any]] = []
        try:
            while True:
                pushes.append(await self.receive())
        except Closed as closed:
            return pushes, closed

    async def barrier(self) -> None:
        """Wait until the server has handled what was sent before."""
        assert (await self.command("ping"))["type"] == "pong"


@asynccontextmanager
async def open_websocket(
    port: int,
    target: str = "/ws",
    *,
    headers: Iterable[str] = (),
    tls: ssl.SSLContext | None = None,
    receive_buffer: int | None = None,
) -> AsyncIterator[WebSocketPeer]:
    """A WebSocket that the server has welcomed."""
    async with upgraded(port, target, headers=headers, tls=tls, receive_buffer=receive_buffer) as peer:
        peer.welcome = await peer.receive()
        assert peer.welcome["type"] == "welcome"
        yield peer


@asynccontextmanager
async def upgraded(
    port: int,
    target: str,
    *,
    headers: Iterable[str] = (),
    tls: ssl.SSLContext | None = None,
    receive_buffer: int | None = None,
) -> AsyncIterator[WebSocketPeer]:
    """A WebSocket of which nothing has been read yet."""
    async with connect(port, tls=tls, receive_buffer=receive_buffer) as raw:
        peer = WebSocketPeer(raw)
        await peer.upgrade(upgrade_bytes(target, headers=headers))
        yield peer


# -- Server-Sent Events --------------------------------------------------------------------------------------


@frozen
class Event:
    """One event of a stream."""

    type: str
    data: Any
    id: str | None = None


class EventPeer:
    """A client of an event stream."""

    def __init__(self, raw: Peer) -> None:
        self.raw = raw
        self.status = 0
        self.headers: dict[str, str] = {}
        self.welcome: dict[str, Any] = {}
        #: The last ``id`` seen, as an EventSource keeps it.
        self.last_id: str | None = None
        #: The last ``retry`` seen.
        self.retry: int | None = None
        self.comments: list[str] = []

    async def open(self, target: str, *, headers: dict[str, str] | None = None) -> None:
        """Send the request and read the head of the response."""
        await self.raw.send(request_bytes("GET", target, headers={"Accept": "text/event-stream", **(headers or {})}))
        head = (await self.raw.read_until(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}

    async def receive(self) -> Event:
        """The next event. Raises `EOFError` at the end of the stream."""
        while True:
            block = (await self.raw.read_until(b"\n\n")).decode()
            kind, data, identity = "message", None, None
            for line in block.strip("\n").split("\n"):
                name, _, value = line.partition(":")
                value = value.removeprefix(" ")
                if name == "":
                    self.comments.append(value)
                elif name == "event":
                    kind = value
                elif name == "data":
                    data = value
                elif name == "id":
                    identity = value
                elif name == "retry":
                    self.retry = int(value)
            if identity is not None:
                self.last_id = identity
            if data is not None:
                return Event(kind, json.loads(data), identity)

    async def receive_type(self, kind: str) -> Event:
        """The next event of this type; those before it are thrown away."""
        while (event := await self.receive()).type != kind:
            pass
        return event


@asynccontextmanager
async def open_events(
    port: int,
    query: str,
    *,
    headers: dict[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
    receive_buffer: int | None = None,
) -> AsyncIterator[EventPeer]:
    """An event stream that the server has welcomed."""
    async with connect(port, tls=tls, receive_buffer=receive_buffer) as raw:
        peer = EventPeer(raw)
        await peer.open(f"/sse?{query}", headers=headers)
        assert peer.status == 200, (peer.status, raw.buffer)
        welcome = await peer.receive()
        assert welcome.type == "welcome"
        peer.welcome = welcome.data
        yield peer


async def post_command(port: int, peer: EventPeer, kind: str, **members: Any) -> Response:
    """Send a command for the client of an event stream, beside the stream; the response to it."""
    body = json.dumps({"type": kind, "id": 1, **members}).encode()
    async with connect(port) as raw:
        return await raw.request("POST", f"/sse/{peer.welcome['connection']}", headers=secret_of(peer), body=body)


def secret_of(peer: EventPeer) -> dict[str, str]:
    """The header that proves a command to be the client's own."""
    return {"X-Connection-Secret": peer.welcome["secret"]}


# -- what must not grow --------------------------------------------------------------------------------------


def open_descriptors() -> int:
    """How many file descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


@asynccontextmanager
async def leaving_nothing_behind() -> AsyncIterator[None]:
    """Checks that a block ends with as many tasks and open descriptors as it began with."""
    tasks, descriptors = trio.lowlevel.current_statistics().tasks_living, open_descriptors()
    yield
    with suppress(trio.TooSlowError):
        await eventually(
            lambda: trio.lowlevel.current_statistics().tasks_living <= tasks and open_descriptors() <= descriptors
        )
    assert trio.lowlevel.current_statistics().tasks_living <= tasks
    assert open_descriptors() <= descriptors


def unique_room() -> str:
    """A room that no other test uses."""
    return f"room:{secrets.token_hex(6)}"


@asynccontextmanager
async def undisturbed(port: int) -> AsyncIterator[None]:
    """Checks that others go on and that nothing is left behind, whatever the block does."""
    async with open_websocket(port) as witness:
        room = unique_room()
        await witness.command("subscribe", topic=room)
        # The first page costs things that stay: a worker thread, caches.
        async with connect(port) as raw:
            assert (await raw.request("GET", "/")).status == 200
        async with leaving_nothing_behind():
            yield
        await witness.command("publish", topic=room, data="still here")
        assert (await witness.receive_type("message"))["data"] == "still here"
    async with connect(port) as raw:
        assert (await raw.request("GET", "/healthz")).status == 200
