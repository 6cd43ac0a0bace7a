"""Small things that the tests of several modules need: publications, outboxes, wires without a clock."""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

from realtime.closing import CloseReason
from realtime.history import Publication
from realtime.outbox import Outbox
from realtime.subscription import Subscription
from realtime.topics import Kind, Mode, Overflow
from realtime.views import EVERYTHING, Run, View, encode_run
from realtime.wire import Framing, LineFraming

LINES = LineFraming()


class CursorFraming(LineFraming):
    """Lines with the cursor of the whole connection in front of each message, as on an event stream."""

    cursors = True
    stamped = True

    def stamp(self, cursor: str) -> bytes:
        """The cursor on a line of its own."""
        return msgspec.json.encode({"type": "cursor", "cursor": cursor}) + b"\n"


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
        + len(subscription.replay)
    )
