"""How a client stands, in values: its state, its counters, a page of what is behind."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

import msgspec
from attrs import frozen

from realtime.history import Position
from realtime.local import Message

__all__ = ["ENDED", "Change", "Changes", "ClientState", "ClientStatistics", "HistoryPage", "TopicProgress"]


class ClientState(StrEnum):
    """Where a client stands."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    RECONNECTING = "reconnecting"
    FAILED = "failed"
    CLOSED = "closed"


ENDED = frozenset({ClientState.CLOSED, ClientState.FAILED})


@frozen
class Change:
    """A state, and what there is to say of it."""

    state: ClientState
    #: The way that was taken: ``websocket`` or ``sse``.
    transport: str
    #: Why the connection was lost, or could not be had.
    why: str = ""
    #: After how many seconds the next one is tried.
    retry_seconds: float | None = None


class HistoryPage(msgspec.Struct, frozen=True):
    """A look at what is kept of a topic, oldest first."""

    messages: list[Message]
    #: Where the topic stands.
    position: Position
    #: ``epoch_changed`` or ``too_old``, where the page is not what lies behind the position that was asked for.
    why: str | None = None


@frozen
class TopicProgress:
    """One topic of a client."""

    topic: str
    #: Whether the server has placed the client there.
    placed: bool
    position: Position | None
    received: int
    #: Messages that came a second time, and were thrown away.
    duplicates: int
    #: Messages that were told as lost, those that readers were too slow for not counted.
    lost: int


@frozen
class ClientStatistics:
    """A snapshot of a client."""

    state: ClientState
    transport: str
    #: Connections that came about so far.
    connections: int
    #: Tries since the last of them that failed.
    failures: int
    #: Calls that wait for their answer.
    calls: int
    topics: tuple[TopicProgress, ...]


class Changing(Protocol):
    """What has changes."""

    async def wait_change(self, seen: Change | None) -> Change:
        """Wait until the newest change is another one than this."""
        ...


class Changes:
    """An async iterator over the states of a client; who is slow sees the newest. It ends with the client."""

    def __init__(self, client: Changing) -> None:
        self._client = client
        self._seen: Change | None = None

    def __aiter__(self) -> Changes:
        return self

    async def __anext__(self) -> Change:
        if self._seen is not None and self._seen.state in ENDED:
            raise StopAsyncIteration
        self._seen = await self._client.wait_change(self._seen)
        return self._seen
