"""Subscribers in this process: ``async for message in messages``.

The same outbox with the same bounds, policies and counters as a socket's, only that its sender is the
caller's own loop: between two messages the subscriber is as slow as the code that handles them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from realtime.closing import GONE, CloseReason
from realtime.errors import CommandError, RealtimeError, WireClosed
from realtime.history import Position, Since
from realtime.subscription import Gap, Subscription
from realtime.topics import Kind, Mode, Overflow
from realtime.wire import Framing, Receiver

if TYPE_CHECKING:
    from realtime.hub import Hub

__all__ = ["LocalSubscription", "Lost", "Message", "NoWire", "subscribe_locally"]


class Message(msgspec.Struct, frozen=True):
    """One message of a topic, decoded."""

    topic: str
    offset: int
    time: int
    data: Any
    event: str | None = None
    key: str | None = None


class Lost(msgspec.Struct, frozen=True):
    """A run of messages that this subscriber was too slow for, in its place in the order."""

    topic: str
    first: int
    last: int
    count: int
    reason: str


class NoWire:
    """The wire of a subscriber that takes messages as they are: always busy, so the reader takes them."""

    framing: Framing | None = None
    heartbeat_interval: float | None = None
    peer_answers = False
    refused_in_band = False
    busy = True
    progress = 0
    heard_at = 0.0

    async def open(self) -> bytes:
        """Nobody to tell."""
        return b""

    def write_nowait(self, data: bytes) -> bool:  # noqa: ARG002
        """Never called: a busy wire is not written to."""
        raise AssertionError

    async def drain(self) -> None:
        """Nothing is ever under way."""

    async def write(self, data: bytes) -> None:  # noqa: ARG002
        """Nobody to write to."""
        raise WireClosed

    def heartbeat(self, ping: bytes) -> bytes:
        """Nobody to keep awake."""
        return ping

    async def read(self, receiver: Receiver) -> CloseReason:  # noqa: ARG002
        """Nobody says anything."""
        return GONE

    async def close(self, reason: CloseReason) -> None:
        """Nothing to release."""

    def abort(self) -> None:
        """Nothing to release."""


class LocalSubscription:
    """An async iterator over `Message` and `Lost`; made by `subscribe_locally`."""

    def __init__(self, hub: Hub, topic: str, kind: Kind, *, mode: Mode, overflow: Overflow, max_messages: int) -> None:
        self._hub = hub
        self._left = False
        self._wakeup = trio.Event()
        self._ended: CloseReason | None = None
        #: Why the topic was taken away; what had come before is read first.
        self._expelled: RealtimeError | None = None
        outbox = hub.outbox(
            NoWire(),
            max_messages=max_messages,
            max_bytes=1 << 62,
            on_backlog=self._wake,
            on_failure=self._end,
        )
        self._outbox = outbox
        self.subscription = Subscription(topic, kind, outbox, mode=mode, overflow=overflow, on_end=self._expel)
        self.position = Position("", 0)

    def __aiter__(self) -> LocalSubscription:
        return self

    async def __anext__(self) -> Message | Lost:
        await trio.lowlevel.checkpoint()
        while True:
            if self._ended is not None:
                raise WireClosed(self._ended.text)
            taken = self._outbox.take_one()
            if taken is not None:
                break
            if self._expelled is not None:
                raise self._expelled
            self._outbox.backlogged = False
            self._wakeup = trio.Event()
            await self._wakeup.wait()
        subscription, entry = taken
        if isinstance(entry, Gap):
            return Lost(subscription.topic, entry.first, entry.last, entry.count, entry.reason)
        data = msgspec.json.decode(entry.data)
        return Message(entry.topic, entry.offset, entry.time, data, entry.event, entry.key)

    def close(self) -> None:
        """Leave the topic, and throw away what was not read."""
        self._leave()
        self._outbox.close()

    def _leave(self) -> None:
        if not self._left:
            self._left = True
            self._hub.unsubscribe(self.subscription, keep_queue=True)

    def _wake(self) -> None:
        self._wakeup.set()

    def _expel(self, subscription: Subscription, error: CommandError | None) -> None:
        self._expelled = error or WireClosed("the subscription was ended")
        if subscription.waiting is None:  # else it has not joined yet, and leaves when it has
            self._leave()
        self._wakeup.set()

    def _end(self, reason: CloseReason) -> None:
        self._ended = reason
        self._wakeup.set()


@asynccontextmanager
async def subscribe_locally(
    hub: Hub,
    topic: str,
    kind: Kind,
    *,
    mode: Mode | None,
    overflow: Overflow | None,
    since: Since | None,
    max_messages: int,
) -> AsyncIterator[LocalSubscription]:
    """Subscribe for the length of a block."""
    local = LocalSubscription(
        hub, topic, kind, mode=mode or kind.mode, overflow=overflow or kind.overflow, max_messages=max_messages
    )
    joined = await hub.subscribe(local.subscription, since, max_messages)
    local.position = joined.position
    try:
        yield local
    finally:
        local.close()
