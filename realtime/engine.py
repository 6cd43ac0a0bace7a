"""The house without the street: broker, hub and connections, before any socket is opened.

::

    open_engine
    |- broker     cancelled last
    '- hub        cancelled last

For a program that wants the hub in its own Trio nursery. `realtime.server` adds the transports.
"""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import trio
from attrs import frozen

from realtime.auth import Authenticate, Identity
from realtime.broker import Broker, MemoryBroker
from realtime.closing import SHUTTING_DOWN, with_jitter
from realtime.config import Settings
from realtime.errors import CommandError, ErrorCode
from realtime.history import Position, Since
from realtime.hub import Hub, HubStatistics
from realtime.ingress import Ingress
from realtime.local import LocalSubscription, subscribe_locally
from realtime.publishing import Publisher
from realtime.topics import Mode, Overflow

if TYPE_CHECKING:
    from realtime.connection import Connection

__all__ = ["Engine", "EngineStatistics", "lone_exceptions_bare", "open_engine"]


@frozen
class EngineStatistics:
    """A snapshot of everything that is counted."""

    uptime_seconds: float
    connections: int
    transports: dict[str, int]
    refused: dict[str, int]
    hub: HubStatistics


async def _refuse_tokens(token: str) -> Identity:  # noqa: ARG001
    raise CommandError(ErrorCode.AUTH_FAILED, "this server knows no tokens")


class Engine:
    """Holds the parts together; running them is `open_engine`'s work."""

    def __init__(
        self,
        settings: Settings,
        *,
        broker: Broker | None = None,
        authenticate: Authenticate | None = None,
        now_ms: Callable[[], int] | None = None,
    ) -> None:
        self.settings = settings
        self.kinds = settings.all_kinds()
        self.now_ms = now_ms or (lambda: time.time_ns() // 1_000_000)
        if broker is None:  # one that knows no topics yet is empty, which is not the same
            broker = MemoryBroker(self.kinds, max_topics=settings.max_server_topics, now_ms=self.now_ms)
        self.broker: Broker = broker
        self.authenticate: Authenticate = authenticate or _refuse_tokens
        self.ingress = Ingress(settings.ingress_messages, settings.ingress_bytes)
        self.hub = Hub(self.broker, self.ingress)
        self.publisher = Publisher(self.kinds, self.broker, self.hub, settings.max_message_bytes)
        self.connections: dict[str, Connection] = {}
        #: Requests and peers that were turned away, by reason.
        self.refused: dict[str, int] = {}
        #: Where jitter comes from; tests put a constant here.
        self.random: Callable[[], float] = random.random
        #: Whether a shutdown has begun: no new work is to be sent here.
        self.draining = False
        self._started_at = 0.0
        self._token: trio.lowlevel.TrioToken | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run broker and hub until cancelled."""
        self._started_at = trio.current_time()
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            await nursery.start(self.broker.run, self.ingress)
            await nursery.start(self.hub.run)
            task_status.started()

    async def publish(self, topic: str, data: Any, *, event: str | None = None, key: str | None = None) -> Position:
        """Publish to a topic; see `Publisher.publish`."""
        return await self.publisher.publish(topic, data, event=event, key=key)

    def publish_from_thread(
        self, topic: str, data: Any, *, event: str | None = None, key: str | None = None
    ) -> Position:
        """Publish from a thread that is not Trio's; blocks it until the message has its position.

        Raises what `publish` raises, and `trio.RunFinishedError` once the server's run has ended.
        """
        if self._token is None:
            raise CommandError(ErrorCode.UNAVAILABLE, "the server is not running")
        return self.publisher.publish_from_thread(topic, data, event=event, key=key, token=self._token)

    def subscribe(
        self,
        topic: str,
        *,
        mode: Mode | None = None,
        overflow: Overflow | None = None,
        since: Since | None = None,
        max_messages: int | None = None,
    ) -> AbstractAsyncContextManager[LocalSubscription]:
        """Subscribe in this process: ``async with engine.subscribe(t) as messages: async for m in messages``."""
        kind, _ = self.kinds.split(topic)
        return subscribe_locally(
            self.hub,
            topic,
            kind,
            mode=mode,
            overflow=overflow,
            since=since,
            max_messages=max_messages or self.settings.outbox_messages,
        )

    async def drain(self) -> None:
        """Tell every peer to come back later; their connections then say goodbye by themselves."""
        self.draining = True
        for count, connection in enumerate(list(self.connections.values()), 1):
            connection.close(with_jitter(SHUTTING_DOWN, self.settings.reconnect_spread_seconds))
            if not count % 100:
                await trio.lowlevel.checkpoint()  # let the first ones go while the last are told

    def refuse(self, reason: str) -> None:
        """Count a peer that was turned away."""
        self.refused[reason] = self.refused.get(reason, 0) + 1

    def statistics(self) -> EngineStatistics:
        """A snapshot; costs one walk over all subscriptions."""
        transports: dict[str, int] = {}
        for connection in self.connections.values():
            transports[connection.transport] = transports.get(connection.transport, 0) + 1
        return EngineStatistics(
            uptime_seconds=round(trio.current_time() - self._started_at, 3),
            connections=len(self.connections),
            transports=transports,
            refused=dict(self.refused),
            hub=self.hub.statistics(),
        )


@asynccontextmanager
async def open_engine(
    settings: Settings | None = None, *, broker: Broker | None = None, authenticate: Authenticate | None = None
) -> AsyncIterator[Engine]:
    """Run an engine for the length of a block."""
    engine = Engine(settings or Settings(), broker=broker, authenticate=authenticate)
    with lone_exceptions_bare():
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            yield engine
            nursery.cancel_scope.cancel()


@contextmanager
def lone_exceptions_bare() -> Iterator[None]:
    """Let a single exception out as it is, not as a group of one.

    The nurseries behind `open_engine` and `open_server` are not their user's business: a ``ValueError`` in the block is
    caught with ``except ValueError``. Several at once stay a group.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        lone: BaseException = group
        while isinstance(lone, BaseExceptionGroup) and len(lone.exceptions) == 1:
            lone = lone.exceptions[0]
        if isinstance(lone, BaseExceptionGroup):
            raise
        # From itself: keeps its own cause and traceback, without the group as a context.
        raise lone from lone.__cause__  # noqa: ASYNC123
