"""The receiving half of ``bench``: a process that has connections, and counts what comes on them.

It does as little as it can for each message, so that it is the server that is measured: one loop over raw sockets,
which cuts what comes into messages and looks for a number in each. It is told what to do on standard input and tells
what happens on standard output, one JSON object a line; see `Orders` and `Event`. When its input ends, so does it.
"""

from __future__ import annotations

import os
import resource
import selectors
import signal
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed

import msgspec
from attrs import define, field

from realtime.cli.bench.figures import Tally
from realtime.cli.bench.splitting import CLOSE, PING, EventSplitter, FrameSplitter, pong
from realtime.cli.given import decode

__all__ = ["Connected", "Failed", "Orders", "Published", "Ready", "Result", "main"]

_AT_ONCE = 32
_RECEIVE_BYTES = 1 << 16
_MAX_HEAD_BYTES = 1 << 16
_TELL_SECONDS = 0.2
#: How soon it is seen that nothing more comes.
_LOOK_SECONDS = 0.1
#: How long the last messages may take.
_DRAIN_SECONDS = 5.0
_SPARE_DESCRIPTORS = 64
_STATUS = {"websocket": b"101", "sse": b"200"}


class Orders(msgspec.Struct):
    """The first line of input: what to connect to, and how often."""

    host: str
    port: int
    tls: bool
    transport: str
    #: The request that opens a connection; its answer is a welcome.
    head: str
    connections: int
    connect_timeout_seconds: float
    #: What is in each message that is to be counted, and the number of the first whose latency counts.
    marker: str
    first: int


class Published(msgspec.Struct):
    """The second line: all is published, the numbers up to this one; but for those that were not accepted, in order."""

    total: int
    refused: list[int]


class Connected(msgspec.Struct, tag=True):
    """So many connections are there by now."""

    count: int


class Failed(msgspec.Struct, tag=True):
    """A connection could not be had. It is the last line."""

    message: str
    code: str | None = None
    #: Whether there was no connection, or one that was refused.
    unreachable: bool = False


class Ready(msgspec.Struct, tag=True):
    """All connections are there, after so many seconds."""

    seconds: float


class Result(msgspec.Struct, tag=True):
    """What there was. It is the last line."""

    latencies: list[tuple[int, int]]
    longest: int
    #: When the last one came, in nanoseconds of the monotonic clock.
    last_at: int
    #: Also of messages that were not accepted; and what is lost of those that were.
    delivered: int
    lost: int
    duplicates: int
    lost_connections: int
    #: The share of one core that this process has used while messages came.
    cpu: float


class _Told(msgspec.Struct):
    """An error, as the server writes it."""

    message: str
    code: str | None = None


class _Refused(Exception):
    def __init__(self, told: _Told) -> None:
        super().__init__(told.message)
        self.told = told


@define
class _Connection:
    """One that has been welcomed."""

    number: int
    socket: socket.socket
    splitter: FrameSplitter | EventSplitter
    #: What came together with the welcome.
    early: list[tuple[int, bytes]] = field(factory=list)


def _say(event: msgspec.Struct) -> None:
    os.write(1, msgspec.json.encode(event) + b"\n")


def _open(orders: Orders, number: int, tls: ssl.SSLContext | None) -> _Connection:
    """Connect and wait for the welcome. Raises ``OSError``, or `_Refused`."""
    opened = socket.create_connection((orders.host, orders.port), timeout=orders.connect_timeout_seconds)
    try:
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            opened = tls.wrap_socket(opened, server_hostname=orders.host)
        opened.sendall(orders.head.encode())
        head, rest = _read_head(opened)
        if head.split(b" ", 2)[1:2] != [_STATUS[orders.transport]]:
            raise _Refused(_told(head, rest))
        splitter = FrameSplitter() if orders.transport == "websocket" else EventSplitter(chunked=_is_chunked(head))
        early: list[tuple[int, bytes]] = []
        welcomed = False
        while not welcomed:
            for opcode, text in splitter.feed(rest):
                if b'"type":"error"' in text:
                    raise _Refused(_told(head, text[text.find(b"{") :]))
                if opcode == CLOSE:
                    raise ConnectionError("closed in place of a welcome")
                welcomed = welcomed or b'"type":"welcome"' in text
                early.append((opcode, text))
            if not welcomed:
                rest = _receive(opened)
        opened.settimeout(0)
    except BaseException:  # whatever it is, it goes on up, and the socket is not left open
        opened.close()
        raise
    return _Connection(number, opened, splitter, early)


def _receive(opened: socket.socket) -> bytes:
    data = opened.recv(_RECEIVE_BYTES)
    if not data:
        raise ConnectionError("the connection ended before a welcome")
    return data


def _read_head(opened: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        data += _receive(opened)
        if len(data) > _MAX_HEAD_BYTES:
            raise ConnectionError("what answers does not speak HTTP")
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def _is_chunked(head: bytes) -> bool:
    fields = (line.lower().partition(b":") for line in head.splitlines()[1:])
    return any(name == b"transfer-encoding" and b"chunked" in value for name, _, value in fields)


def _told(head: bytes, body: bytes) -> _Told:
    try:
        return msgspec.convert(decode(body), _Told)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _Told(f"answered with {head.splitlines()[0].decode(errors='replace')}")


def _connect(orders: Orders) -> list[_Connection]:
    """All connections, some at a time; the first alone, as what it is refused would be refused to all."""
    tls = ssl.create_default_context() if orders.tls else None
    connections = [_open(orders, number, tls) for number in range(min(1, orders.connections))]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        waiting = [pool.submit(_open, orders, number, tls) for number in range(1, orders.connections)]
        try:
            told = time.monotonic()
            for done in as_completed(waiting):
                connections.append(done.result())
                if time.monotonic() - told >= _TELL_SECONDS:
                    told = time.monotonic()
                    _say(Connected(len(connections)))
        except BaseException:  # the first refusal ends all: those that wait are not tried, and it goes on up
            pool.shutdown(cancel_futures=True)
            raise
    return connections


class _Receiver:
    """The loop."""

    def __init__(self, orders: Orders, connections: list[_Connection]) -> None:
        self._tally = Tally(orders.marker, len(connections), orders.first)
        self._open = len(connections)
        self._connections = len(connections)
        self._selector = selectors.DefaultSelector()
        now = time.monotonic_ns()
        for connection in connections:
            self._handle(connection, iter(connection.early), now)
            self._selector.register(connection.socket, selectors.EVENT_READ, connection)

    def run(self) -> Result | None:
        """Count until all is there that was accepted, or does not come; None where nobody wants to know any more."""
        self._selector.register(0, selectors.EVENT_READ)
        began, used = time.monotonic(), time.process_time()
        cpu = 0.0
        told = b""
        published: Published | None = None
        lost, look_at, deadline = 0, 0.0, 0.0
        while published is None or (lost and self._open and look_at < deadline):
            for key, _ in self._selector.select(_LOOK_SECONDS):
                if key.data is not None:
                    self._read(key.data)
                    continue
                piece = os.read(0, _RECEIVE_BYTES)
                if not piece:
                    return None
                told += piece
                if published is None and told.endswith(b"\n"):
                    published = msgspec.json.decode(told, type=Published)
                    deadline = time.monotonic() + _DRAIN_SECONDS
                    cpu = (time.process_time() - used) / (time.monotonic() - began)
            # A look at each of many connections takes its time, so not for each message.
            if published is not None and time.monotonic() >= look_at:
                lost = self._tally.lost(published.total, published.refused)
                look_at = time.monotonic() + _LOOK_SECONDS
        tally = self._tally
        return Result(
            latencies=list(tally.latencies.counts.items()),
            longest=tally.longest,
            last_at=tally.last_at,
            delivered=tally.delivered,
            lost=tally.lost(published.total, published.refused),
            duplicates=tally.duplicates,
            lost_connections=self._connections - self._open,
            cpu=cpu,
        )

    def _read(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(_RECEIVE_BYTES)
            self._handle(connection, connection.splitter.feed(data), time.monotonic_ns())
            # What TLS has decrypted already no selector tells of.
            while isinstance(connection.socket, ssl.SSLSocket) and connection.socket.pending():
                more = connection.socket.recv(_RECEIVE_BYTES)
                self._handle(connection, connection.splitter.feed(more), time.monotonic_ns())
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(connection.socket)
            connection.socket.close()
            self._open -= 1

    def _handle(self, connection: _Connection, messages: Iterator[tuple[int, bytes]], now: int) -> None:
        take, number = self._tally.take, connection.number
        for opcode, text in messages:
            if not take(number, text, now) and opcode == PING:
                connection.socket.send(pong(text))


def _raise_limit(connections: int) -> None:
    """As many descriptors as are needed, if this process may have them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + _SPARE_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < needed:
        wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def main() -> None:
    """Do what the first line of input says."""
    _obey()
    # The last line has been read by now, or nobody reads: who ends us would only disturb what Python does at its end.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _obey() -> None:
    orders = msgspec.json.decode(sys.stdin.buffer.readline(), type=Orders)
    _raise_limit(orders.connections)
    began = time.monotonic()
    try:
        connections = _connect(orders)
    except _Refused as refused:
        _say(Failed(refused.told.message, refused.told.code))
        return
    except OSError as error:
        _say(Failed(str(error) or type(error).__name__, unreachable=True))
        return
    _say(Ready(time.monotonic() - began))
    result = _Receiver(orders, connections).run()
    if result is not None:
        _say(result)
