"""The public test kit: peers in memory, in virtual time.

A `MemoryWire` behaves like a socket whose other end is in your hands: it takes bytes while its buffer has room and is
busy when it has not, it stalls, it breaks. A `Peer` is a scripted client on such a wire. With
pytest-trio's ``autojump_clock``, minutes of heartbeats and timeouts pass in milliseconds::

    async def test_silent_peer_is_dropped(autojump_clock):
        async with open_engine(Settings(dev=True)) as engine, connect(engine) as peer:
            peer.answers_pings = False
            assert (await peer.wait_closed()).code == 4108

A little long for this house: a kit that is imported from one place, and its parts are each other's other end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio

from realtime import closing
from realtime.auth import ANONYMOUS, Carrier, Identity
from realtime.closing import CloseReason
from realtime.connection import Connection
from realtime.engine import Engine, lone_exceptions_bare
from realtime.errors import CommandError, ErrorCode, WireBroken, WireClosed
from realtime.link import Credentials, LinkEnded, LinkRefused, Said
from realtime.wire import Framing, LineFraming, Receiver
from realtime.wishes import Subscribe

__all__ = ["MemoryDialer", "MemoryLink", "MemoryWire", "Peer", "connect"]

_FRAMING = LineFraming()


class MemoryWire:
    """A `realtime.wire.Wire` in memory; the other end is read with `take` and written with `say`."""

    heartbeat_interval: float | None = None

    def __init__(self, *, buffer_bytes: int = 1 << 16, peer_answers: bool = True) -> None:
        self.framing: Framing | None = _FRAMING
        self.peer_answers = peer_answers
        self.refused_in_band = False
        #: What fits into the "kernel" before the wire is busy.
        self.buffer_bytes = buffer_bytes
        #: While true, the other end reads nothing.
        self.stalled = False
        self.opened = False
        self.close_reason: CloseReason | None = None
        self.progress = 0
        self.heard_at = trio.current_time()
        self._buffer: deque[bytes] = deque()
        self._buffered = 0
        self._tail = b""
        self._broken = False
        self._closed = False
        self._incoming: deque[bytes] = deque()
        self._changed = trio.lowlevel.ParkingLot()

    # -- the server's end ------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """See `realtime.wire.Wire`."""
        return bool(self._tail)

    async def open(self) -> bytes:
        """See `realtime.wire.Wire`."""
        await trio.lowlevel.checkpoint()
        self.opened = True
        return b""

    def write_nowait(self, data: bytes) -> bool:
        """See `realtime.wire.Wire`."""
        if self._tail:
            raise AssertionError("write_nowait on a busy wire")
        self._tail = data
        self._move()
        return not self._tail

    async def drain(self) -> None:
        """See `realtime.wire.Wire`."""
        await trio.lowlevel.checkpoint()
        while self._tail:
            self._check()
            await self._changed.park()
        self._check()

    async def write(self, data: bytes) -> None:
        """See `realtime.wire.Wire`."""
        await self.drain()
        self._tail = data
        self._move()
        await self.drain()

    def heartbeat(self, ping: bytes) -> bytes:
        """See `realtime.wire.Wire`."""
        return ping

    async def read(self, receiver: Receiver) -> CloseReason:
        """See `realtime.wire.Wire`."""
        while True:
            while self._incoming:
                await receiver.receive(self._incoming.popleft())
            receiver.quiet()
            if self._broken or self._closed:
                return closing.GONE
            await self._changed.park()

    async def close(self, reason: CloseReason) -> None:
        """See `realtime.wire.Wire`."""
        await trio.lowlevel.checkpoint()
        self.close_reason = reason

    def abort(self) -> None:
        """See `realtime.wire.Wire`."""
        self._closed = True
        self._changed.unpark_all()

    def _check(self) -> None:
        if self._broken:
            raise WireBroken
        if self._closed:
            raise WireClosed

    def _move(self) -> None:
        """Let bytes pass from the tail into the buffer, as far as there is room."""
        room = self.buffer_bytes - self._buffered
        if self._broken or self._closed:
            self._tail = b""
        elif self._tail and room > 0:
            taken, self._tail = self._tail[:room], self._tail[room:]
            self._buffer.append(taken)
            self._buffered += len(taken)
            self.progress += len(taken)
        self._changed.unpark_all()

    # -- the other end ---------------------------------------------------------------------------------------

    def say(self, text: bytes) -> None:
        """Send one message to the server."""
        self.heard_at = trio.current_time()
        self._incoming.append(text)
        self._changed.unpark_all()

    def hear_from(self) -> None:
        """Prove the peer alive without a message, as a pong frame does."""
        self.heard_at = trio.current_time()

    def hang_up(self) -> None:
        """Break the wire: what was not read is lost."""
        self._broken = True
        self._move()

    @property
    def broken(self) -> bool:
        """Whether the other end has hung up."""
        return self._broken

    @property
    def ended(self) -> bool:
        """Whether the server has let go of the wire."""
        return self._closed

    async def take(self) -> bytes:
        """All bytes that have arrived, at least one; empty when the server has closed and nothing is left."""
        while self.stalled or not self._buffer:
            if self._closed and not self.stalled:
                return b""
            await self._changed.park()
        data = b"".join(self._buffer)
        self._buffer.clear()
        self._buffered = 0
        self._move()
        return data

    def resume(self) -> None:
        """End a stall."""
        self.stalled = False
        self._changed.unpark_all()


class Peer:
    """A scripted client. Pushes are decoded; pings are answered unless you say otherwise."""

    def __init__(self, wire: MemoryWire) -> None:
        self.wire = wire
        #: Whether incoming pings prove this peer alive, as a browser's pong frames do by themselves.
        self.answers_pings = True
        #: Everything that came, in order.
        self.received: list[dict[str, Any]] = []
        self.close_reason: CloseReason | None = None
        self._fresh: deque[dict[str, Any]] = deque()
        self._changed = trio.lowlevel.ParkingLot()
        self._ended = trio.Event()
        self._next_id = 0

    def send(self, kind: str, **members: Any) -> int:
        """Send a command and return its id, without waiting for the reply."""
        self._next_id += 1
        self.send_raw(msgspec.json.encode({"type": kind, "id": self._next_id, **members}))
        return self._next_id

    def send_raw(self, text: bytes) -> None:
        """Send any text."""
        self.wire.say(text)

    async def command(self, kind: str, **members: Any) -> dict[str, Any]:
        """Send a command and wait for its reply; pushes that come before it stay to be received."""
        identity = self.send(kind, **members)
        return await self.receive_where(lambda push: push.get("id") == identity)

    async def receive(self) -> dict[str, Any]:
        """The next push. Raises `trio.EndOfChannel` after the last."""
        return await self.receive_where(lambda _push: True)

    async def receive_type(self, kind: str) -> dict[str, Any]:
        """The next push of this type; others stay to be received."""
        return await self.receive_where(lambda push: push["type"] == kind)

    async def receive_where(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The next push that is wanted; others stay to be received."""
        while True:
            for push in self._fresh:
                if wanted(push):
                    self._fresh.remove(push)
                    return push
            if self._ended.is_set():
                raise trio.EndOfChannel
            await self._changed.park()

    def pending(self) -> list[dict[str, Any]]:
        """What has come and was not received yet; receives it."""
        pushes = list(self._fresh)
        self._fresh.clear()
        return pushes

    def stall(self) -> None:
        """Stop reading."""
        self.wire.stalled = True

    def resume(self) -> None:
        """Read again."""
        self.wire.resume()

    def hang_up(self) -> None:
        """Vanish."""
        self.wire.hang_up()

    async def wait_closed(self) -> CloseReason:
        """Wait until the server has ended the connection; why it did."""
        await self._ended.wait()
        assert self.close_reason is not None
        return self.close_reason

    async def _read(self) -> None:
        left = b""
        while data := await self.wire.take():
            *lines, left = (left + data).split(b"\n")
            for line in lines:
                push = msgspec.json.decode(line)
                if push["type"] == "ping" and self.answers_pings:
                    self.wire.hear_from()
                self.received.append(push)
                self._fresh.append(push)
            self._changed.unpark_all()


@asynccontextmanager
async def connect(
    engine: Engine,
    *,
    subscribe: list[Subscribe] | None = None,
    identity: Identity = ANONYMOUS,
    authenticated: bool = True,
    buffer_bytes: int = 1 << 16,
    peer_answers: bool = True,
) -> AsyncIterator[Peer]:
    """A peer connected to ``engine`` for the length of a block; its `welcome` has been received."""
    wire = MemoryWire(buffer_bytes=buffer_bytes, peer_answers=peer_answers)
    peer = Peer(wire)
    connection = Connection(engine, wire, identity=identity, authenticated=authenticated, transport="memory")

    async def serve() -> None:
        try:
            peer.close_reason = await connection.run(subscribe)
        finally:
            peer._ended.set()  # noqa: SLF001
            peer._changed.unpark_all()  # noqa: SLF001

    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer._read)  # noqa: SLF001
        nursery.start_soon(serve)  # noqa: ASYNC113 - the welcome, right below, tells that it runs
        await peer.receive_type("welcome")
        yield peer
        peer.hang_up()
        connection.close(closing.GONE)
        await peer._ended.wait()  # noqa: SLF001
        nursery.cancel_scope.cancel()


class MemoryLink:
    """A `realtime.link.Link` to an engine in this process; made by `MemoryDialer`."""

    ordered = True

    def __init__(self, wire: MemoryWire, connection: Connection) -> None:
        self.wire = wire
        self.connection = connection
        self._lines: deque[bytes] = deque()
        self._rest = b""

    async def receive(self) -> Said:
        """See `realtime.link.Link`."""
        while not self._lines:
            data = b"" if self.wire.broken else await self.wire.take()
            if not data or self.wire.broken:
                reason = self.wire.close_reason
                raise LinkEnded(reason.text, code=reason.code) if reason else LinkEnded("the connection was lost")
            *lines, self._rest = (self._rest + data).split(b"\n")
            self._lines.extend(lines)
            self.wire.hear_from()  # what came proves this end alive, as the pongs of a real one do
        return Said(self._lines.popleft())

    async def send(self, text: bytes) -> bytes | None:
        """See `realtime.link.Link`."""
        await trio.lowlevel.checkpoint()
        if self.wire.broken or self.wire.ended:
            raise LinkEnded("the connection was lost")
        self.wire.say(text)
        return None


class MemoryDialer:
    """A `realtime.link.Dialer` that leads to an engine in this process: test your own client code in virtual time.

    ::

        way = MemoryDialer(engine)
        async with open_client([way]) as client:
            ...
            way.cut()  # and see what your code makes of it
    """

    name = "memory"

    def __init__(self, engine: Engine) -> None:
        #: Where it leads; another one is a server that was replaced.
        self.engine = engine
        #: What the next attempts fail with, as `realtime.link` says: ``LinkEnded("nobody there", connected=False)`` if
        #: there is nobody. None: they succeed.
        self.failure: Exception | None = None
        #: The links that there are.
        self.links: list[MemoryLink] = []
        #: How often a link was asked for.
        self.attempts = 0

    def cut(self) -> None:
        """Break all links, as a network does: what is under way is lost."""
        for link in self.links:
            link.wire.hang_up()
            link.wire.resume()

    @asynccontextmanager
    async def open(self, credentials: Credentials) -> AsyncIterator[MemoryLink]:
        """See `realtime.link.Dialer`."""
        self.attempts += 1
        await trio.lowlevel.checkpoint()
        if self.failure is not None:
            raise self.failure
        engine = self.engine
        identity: Identity | None = ANONYMOUS if engine.settings.anonymous else None
        if credentials.token is not None:
            try:
                identity = await engine.log_in(credentials.token, Carrier.HEADER)
            except CommandError as error:
                raise LinkRefused(error, login=error.code in _LOGIN_CODES) from None
        wire = MemoryWire()
        wire.refused_in_band = True
        connection = Connection(
            engine,
            wire,
            identity=identity or ANONYMOUS,
            authenticated=identity is not None,
            transport=self.name,
            cursor=credentials.cursor,
        )
        link = MemoryLink(wire, connection)
        self.links.append(link)
        ended = trio.Event()

        async def serve() -> None:
            try:
                await connection.run()
            finally:
                ended.set()

        with lone_exceptions_bare():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve)  # noqa: ASYNC113 - what waits for the welcome waits for this
                try:
                    yield link
                finally:
                    self.links.remove(link)
                    wire.hang_up()
                    connection.close(closing.left(closing.NORMAL.code))
                    with trio.CancelScope(shield=True):  # it does not wait: its peer is gone
                        await ended.wait()


_LOGIN_CODES = {ErrorCode.AUTH_FAILED, ErrorCode.AUTH_REQUIRED, ErrorCode.TOKEN_EXPIRED}
