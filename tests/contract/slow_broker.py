"""A broker that behaves as if it were another process.

Every call waits, delivery has a task of its own, ranges get lost.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import trio

from realtime.broker import Draft, MemoryBroker
from realtime.history import Page, Position, Since
from realtime.idempotency import Receipt, Receipts
from realtime.ingress import Ingress
from realtime.topics import Kinds


class SlowBroker:
    """Wraps a `MemoryBroker`. Waits are random but the same for the same seed, and pass in virtual time."""

    def __init__(
        self,
        kinds: Kinds,
        *,
        receipts: Receipts | None = None,
        now_ms: Callable[[], int],
        seed: int = 0,
        longest: float = 0.05,
    ) -> None:
        self.inner = MemoryBroker(kinds, receipts=receipts, now_ms=now_ms)
        #: Set to hold up every `read` until it is set again to a set event.
        self.reading = trio.Event()
        self.reading.set()
        #: How many reads have begun.
        self.reads = 0
        self._behind = Ingress(1000, 1 << 20)
        self._chance = random.Random(seed)
        self._longest = longest
        self._lost: dict[str, set[int]] = {}

    def lose(self, topic: str, first: int, last: int) -> None:
        """Never deliver these offsets; history has them all the same."""
        self._lost.setdefault(topic, set()).update(range(first, last + 1))

    async def _wait(self) -> None:
        await trio.sleep(self._chance.random() * self._longest)

    async def run(self, ingress: Ingress, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """See `realtime.broker.Broker`."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.inner.run, self._behind)
            task_status.started()
            while True:
                for publication in await self._behind.receive(7):
                    await self._wait()
                    if publication.offset in self._lost.get(publication.topic, ()):
                        continue
                    while not ingress.has_room():
                        await ingress.wait_room()
                    ingress.put_nowait(publication)

    async def publish(self, topic: str, draft: Draft) -> Receipt:
        """See `realtime.broker.Broker`. The answer may come after the message itself."""
        await self._wait()
        receipt = await self.inner.publish(topic, draft)
        with trio.CancelScope(shield=True):
            await self._wait()
        return receipt

    async def subscribe(self, topic: str) -> None:
        """See `realtime.broker.Broker`."""
        await self._wait()
        await self.inner.subscribe(topic)

    def unsubscribe(self, topic: str) -> None:
        """See `realtime.broker.Broker`."""
        self.inner.unsubscribe(topic)

    async def read(self, topic: str, since: Since, limit: int) -> Page:
        """See `realtime.broker.Broker`. The page is as old as its way back is long."""
        self.reads += 1
        await self._wait()
        page = await self.inner.read(topic, since, limit)
        await self._wait()
        await self.reading.wait()
        return page

    async def browse(self, topic: str, after: Position | None, limit: int) -> Page:
        """See `realtime.broker.Broker`."""
        await self._wait()
        return await self.inner.browse(topic, after, limit)

    async def position(self, topic: str) -> Position | None:
        """See `realtime.broker.Broker`."""
        await self._wait()
        return await self.inner.position(topic)

    def recoverable(self, topic: str, epoch: str, offset: int) -> bool:
        """See `realtime.broker.Broker`."""
        return self.inner.recoverable(topic, epoch, offset)

    def forget(self, topic: str) -> None:
        """See `realtime.broker.Broker`."""
        self.inner.forget(topic)

    async def topics(self, after: str, limit: int) -> list[str]:
        """See `realtime.broker.Broker`."""
        await self._wait()
        return await self.inner.topics(after, limit)
