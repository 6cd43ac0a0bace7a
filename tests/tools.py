"""Small things that the tests of several modules need: publications, outboxes, wires without a clock."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio
from trio.testing import wait_all_tasks_blocked

from realtime import closing
from realtime.closing import CloseReason
from realtime.connection import Connection
from realtime.engine import Engine
from realtime.history import Position, Publication, encode_cursor
from realtime.outbox import Outbox
from realtime.subscription import Subscription
from realtime.testing import MemoryWire, Peer
from realtime.topics import Kind, Mode, Overflow
from realtime.views import EVERYTHING, Run, View, encode_run
from realtime.wire import Framing, LineFraming
from realtime.wishes import Subscribe

LINES = LineFraming()


def settle():
    """Wait until nothing moves any more."""
    return wait_all_tasks_blocked()


class CursorFraming(LineFraming):
    """Lines with the cursor of the whole connection in front of each message, as on an event stream."""

    cursors = True
    stamped = True

    def stamp(self, cursor: str) -> bytes:
        """The cursor on a line of its own."""
        return cursor_line(cursor)


def cursor_line(cursor: str | None) -> bytes:
    """A line that tells a cursor."""
    return b"" if cursor is None else msgspec.json.encode({"type": "cursor", "cursor": cursor}) + b"\n"


class OneTopicFraming(LineFraming):
    """Lines with the cursor of their only topic behind each message, as on an event stream of one topic."""

    cursors = True

    @property
    def several(self) -> Framing:
        """Another framing."""
        return SEVERAL

    def message(self, text: bytes, topic: str, epoch: str, offset: int) -> bytes:
        """The text, then the cursor."""
        return text + b"\n" + cursor_line(encode_cursor({topic: Position(epoch, offset)}))

    def push(self, kind: str, text: bytes, cursor: str | None = None) -> bytes:
        """The text, then the cursor if it moves."""
        return text + b"\n" + cursor_line(cursor)


SEVERAL = CursorFraming()
ONE_TOPIC = OneTopicFraming()


def publication(
    offset: int, *, topic: str = "room:a", key: str | None = None, data: bytes | None = None
) -> Publication:
    """A publication whose payload tells its offset, unless it is given."""
    return Publication(topic, offset, 1000 + offset, b'{"n":%d}' % offset if data is None else data, None, key)


def run_of(*publications: Publication, view: View = EVERYTHING, framing: Framing | None = LINES) -> Run:
    """The run of these publications."""
    run = encode_run(view, framing, "e1", publications)
    assert run is not None
    return run


def pushes(data: bytes) -> list[dict[str, Any]]:
    """The pushes in bytes from a wire with line framing."""
    return [msgspec.json.decode(line) for line in data.splitlines()]


def brief(push: dict[str, Any]) -> Any:
    """The offset of a message; (from, to, count) of a gap; the type of anything else."""
    if push["type"] == "message":
        return push["offset"]
    if push["type"] == "gap":
        return (push["from"], push["to"], push["count"])
    return push["type"]


class Taker:
    """A wire that takes everything at once, or nothing while it is `busy`."""

    heartbeat_interval: float | None = None
    peer_answers = True
    refused_in_band = False
    progress = 0
    heard_at = 0.0

    def __init__(self, framing: Framing | None = LINES) -> None:
        self.framing = framing
        self.busy = False
        #: How many more writes are taken before it is busy; None: all.
        self.writes_left: int | None = None
        self.written: list[bytes] = []

    def write_nowait(self, data: bytes) -> bool:
        """Take the data."""
        assert not self.busy
        self.written.append(data)
        if self.writes_left is not None:
            self.writes_left -= 1
            self.busy = self.writes_left <= 0
        return not self.busy

    @property
    def briefs(self) -> list[Any]:
        """What came, in brief."""
        return [brief(push) for push in pushes(b"".join(self.written))]


class OutboxKit:
    """An outbox, its wire, and what it called."""

    def __init__(
        self,
        *,
        max_messages: int = 10,
        max_bytes: int = 1 << 20,
        framing: Framing | None = LINES,
        backlogged: bool = True,
    ) -> None:
        self.wire = Taker(framing)
        self.backlogs = 0
        self.failures: list[CloseReason] = []
        self.outbox = Outbox(
            self.wire,  # type: ignore[arg-type]
            max_messages=max_messages,
            max_bytes=max_bytes,
            on_backlog=self._on_backlog,
            on_failure=self.failures.append,
            recoverable=lambda _topic, _epoch, offset: offset > 2,
        )
        if backlogged:
            self.outbox.backlogged = True

    def _on_backlog(self) -> None:
        self.backlogs += 1

    def subscription(
        self,
        topic: str = "room:a",
        *,
        overflow: Overflow = Overflow.DROP_OLDEST,
        mode: Mode = Mode.ALL,
        view: View = EVERYTHING,
    ) -> Subscription:
        """A subscription of this outbox."""
        return Subscription(topic, Kind(name="room"), self.outbox, view=view, mode=mode, overflow=overflow, epoch="e1")

    def offer(self, subscription: Subscription, *publications: Publication) -> bool:
        """Offer one run."""
        return self.outbox.offer(subscription, run_of(*publications, framing=self.wire.framing))

    def offer_each(self, subscription: Subscription, *offsets: int, key: str | None = None) -> None:
        """Offer runs of one message."""
        for offset in offsets:
            self.offer(subscription, publication(offset, topic=subscription.topic, key=key))

    def drain(self) -> list[Any]:
        """Take all that waits; in brief."""
        taken: deque[bytes] = deque()
        while not self.outbox.empty:
            taken.append(self.outbox.take())
        return [brief(push) for push in pushes(b"".join(taken))]


def total(subscription: Subscription) -> int:
    """The sum that must be the number of messages published since the subscription joined."""
    return (
        subscription.delivered
        + subscription.dropped_total
        + subscription.conflated
        + subscription.filtered
        + subscription.queued
        + subscription.held
        + len(subscription.replay)
    )


@asynccontextmanager
async def attached(
    engine: Engine,
    *,
    framing: Framing | None = LINES,
    buffer_bytes: int = 1 << 16,
    subscribe: list[Subscribe] | None = None,
    refuse_in_band: bool = False,
    **options: Any,
) -> AsyncIterator[tuple[Connection, Peer]]:
    """A connection and its peer, for the length of a block; ``options`` are those of `Connection`."""
    wire = MemoryWire(buffer_bytes=buffer_bytes)
    wire.framing = framing
    wire.refused_in_band = refuse_in_band
    peer = Peer(wire)
    connection = Connection(engine, wire, **options)

    async def serve() -> None:
        peer.close_reason = await connection.run(subscribe)
        peer._ended.set()
        peer._changed.unpark_all()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer._read)
        nursery.start_soon(serve)
        await settle()
        yield connection, peer
        connection.close(closing.GONE)
        await peer._ended.wait()
        nursery.cancel_scope.cancel()


async def follow(peer: Peer, seen: list[tuple[float, dict[str, Any]]]) -> None:
    """Note every message of a peer, and when it came."""
    while True:
        push = await peer.receive_type("message")
        seen.append((trio.current_time(), push))
