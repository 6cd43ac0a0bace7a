"""Who decides the order: the port of brokers, and the one that lives in memory.

The port is written for a broker that is another process, reached over a network: publishing and reading
history wait, live messages arrive by themselves. What the hub and the tests rely on stands in `Broker`;
every implementation passes the same contract suite.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable
from typing import Protocol

import msgspec
import trio
from attrs import define, field

from realtime.errors import CommandError, ErrorCode
from realtime.history import History, Page, Position, Publication, Since
from realtime.idempotency import Receipt, Receipts
from realtime.ingress import Ingress
from realtime.topics import Kind, Kinds

__all__ = ["Broker", "Draft", "MemoryBroker", "PublishesAtOnce"]

#: Keys of one topic whose last message is kept to recognise a duplicate.
_MAX_LAST_KEYS = 10_000


class Draft(msgspec.Struct, frozen=True, gc=False):
    """A message that has no position yet. ``data`` is JSON text on one line."""

    data: bytes
    event: str | None = None
    key: str | None = None
    #: See `Publication.origin`.
    origin: str | None = None
    #: A second message to the topic with this key is not published, and gets the first one's receipt.
    idempotency_key: str | None = None


class Broker(Protocol):
    """Gives messages their positions, keeps the recent past, hands every message to the ingress.

    *Order*: offsets of one topic and epoch are 1, 2, 3 ... without holes, and messages reach the ingress in
    that order. There is no order between topics.

    *Join*: a `read` that returns a page with top ``t`` was consistent at one instant: the page holds what was
    asked for up to ``t``, and every message after ``t`` reaches the ingress of a node that had subscribed
    before it called `read`, also while `read` is still waiting.

    *Loss*: a message that `publish` returned a position for is in the history (as long as its bounds allow) and
    reaches each subscribed node. A broker that finds it could not deliver a range says so by delivering
    the next message with a jump in its offsets; the hub turns a jump into a gap.

    *Cancellation*: a `publish` that was cancelled has published either nothing or everything.
    """

    async def run(self, ingress: Ingress, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Deliver to ``ingress`` until cancelled."""
        ...

    async def publish(self, topic: str, draft: Draft) -> Receipt:
        """Append to the topic; waits while the ingress is full.

        Nothing is published, and the receipt says so, where the draft's idempotency key is known, or where the kind
        drops duplicates and the topic's last message of the same key has the same event and data.

        Raises `CommandError`: ``UNAVAILABLE``, ``LIMIT_EXCEEDED``.
        """
        ...

    async def subscribe(self, topic: str) -> None:
        """From now on this node wants the topic's messages. Counted: one `unsubscribe` for each."""
        ...

    def unsubscribe(self, topic: str) -> None:
        """One subscriber less. Synchronous, so that clean-up under cancellation cannot be cut short."""
        ...

    async def read(self, topic: str, since: Since, limit: int) -> Page:
        """The history after a position, all of it or none (see `Page.why`)."""
        ...

    async def browse(self, topic: str, after: Position | None, limit: int) -> Page:
        """A page of history for looking around."""
        ...

    async def position(self, topic: str) -> Position | None:
        """Where the topic stands; None where there is no such topic. Asking does not bring it into being."""
        ...

    def recoverable(self, topic: str, epoch: str, offset: int) -> bool:
        """Whether, as far as this node knows, history still has this message."""
        ...

    def forget(self, topic: str) -> None:
        """Drop the topic's history: should it come back, it does so in a new epoch. Synchronous, like `unsubscribe`."""
        ...

    async def topics(self, after: str, limit: int) -> list[str]:
        """The names of those topics that exist and come after ``after``, sorted."""
        ...


class PublishesAtOnce(Protocol):
    """An ability that a broker may have besides: publishing without waiting, if nothing is in the way."""

    def publish_nowait(self, topic: str, draft: Draft) -> Receipt | None:
        """Like `Broker.publish`; None where it would have to wait."""
        ...


@define(eq=False)
class _Topic:
    kind: Kind
    history: History
    subscribers: int = 0
    used_at: float = field(default=0.0)
    #: Where duplicates are dropped: offset and digest of the last message of each key, oldest first.
    last: dict[str | None, tuple[int, bytes]] = field(factory=dict)

    def duplicate_of(self, draft: Draft, now: float) -> int | None:
        """The offset of the message that already says what ``draft`` says, if the kind leaves such out.

        Only while who comes late can still read it: else a value that does not change would be known to nobody new.
        """
        if not self.kind.drop_duplicates:
            return None
        offset, digest = self.last.get(draft.key, (0, b""))
        if digest != _digest(draft):
            return None
        self.history.expire(now)
        return offset if offset >= self.history.oldest or not self.kind.history_messages else None

    def remember(self, draft: Draft, offset: int) -> None:
        """Note a message for `duplicate_of`."""
        if self.kind.drop_duplicates:
            self.last.pop(draft.key, None)
            self.last[draft.key] = (offset, _digest(draft))
            if len(self.last) > _MAX_LAST_KEYS:
                del self.last[next(iter(self.last))]


def _digest(draft: Draft) -> bytes:
    """What tells a message from another of its key, and is not as long."""
    event = b"" if draft.event is None else draft.event.encode()
    return hashlib.blake2b(b"%b\0%b" % (event, draft.data), digest_size=16).digest()


#: How soon a table that was found full is looked through again.
FULL_SECONDS = 1.0


class MemoryBroker:
    """The broker of a single node: history in memory, gone with the process.

    A topic comes into being with its first publication or subscriber and is forgotten once nobody subscribes and its
    history has expired. Only where it stood is kept, as long as there is room for that: should it come back, it goes on
    counting from there, so that who was away for a while is not told of losses that there were none.
    """

    #: How often topics that expired are looked for. Reading expires too; this only frees memory.
    SWEEP_SECONDS = 5.0

    def __init__(
        self,
        kinds: Kinds,
        *,
        max_topics: int = 100_000,
        max_history_bytes: int = 1 << 30,
        receipts: Receipts | None = None,
        now: Callable[[], float] = trio.current_time,
        now_ms: Callable[[], int],
    ) -> None:
        self._kinds = kinds
        #: Until then no topic is looked for that could make room.
        self._full_until = 0.0
        self._max_topics = max_topics
        self._max_history_bytes = max_history_bytes
        #: What all histories hold, or more: what they have forgotten is taken off when this is over its bound.
        self._history_bytes = 0
        self._now = now
        self._now_ms = now_ms
        self._topics: dict[str, _Topic] = {}
        #: Where forgotten topics stood, as many as there may be topics; longest gone first.
        self._places: dict[str, Position] = {}
        self._receipts = Receipts(100_000, 300.0) if receipts is None else receipts
        self._ingress: Ingress | None = None

    def __len__(self) -> int:
        return len(self._topics)

    async def run(self, ingress: Ingress, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """See `Broker.run`: delivering is done by whoever publishes, this task forgets what expired."""
        self._ingress = ingress
        task_status.started()
        try:
            while True:
                await trio.sleep(self.SWEEP_SECONDS)
                await self._sweep()
        finally:
            self._ingress = None
            ingress.close()

    async def publish(self, topic: str, draft: Draft) -> Receipt:
        """See `Broker.publish`."""
        receipt = self.publish_nowait(topic, draft)
        while receipt is None:
            ingress = self._running()
            await ingress.wait_room()
            try:
                receipt = self.publish_nowait(topic, draft, waited=True)
            except CommandError:
                ingress.pass_on()
                raise
            if receipt is not None and receipt.duplicate:
                ingress.pass_on()  # its twin was published while this one waited
        return receipt

    def publish_nowait(self, topic: str, draft: Draft, *, waited: bool = False) -> Receipt | None:
        """See `PublishesAtOnce`. ``waited``: the caller has stood in the queue and goes before it."""
        ingress = self._running()
        now = self._now()
        if draft.idempotency_key is not None:
            known = self._receipts.find((topic, draft.idempotency_key), now)
            if known is not None:
                return known
        state = self._topics.get(topic) or self._create(topic)
        history = state.history
        twin = state.duplicate_of(draft, now)
        if twin is not None:
            receipt = Receipt(history.epoch, twin, duplicate=True)
        elif not (ingress.has_space() if waited else ingress.has_room()):
            return None
        else:
            publication = Publication(
                topic, history.top + 1, self._now_ms(), draft.data, draft.event, draft.key, draft.origin, history.epoch
            )
            state.used_at = now
            state.remember(draft, publication.offset)
            history.append(publication, now)
            self._history_bytes += len(draft.data)
            if self._history_bytes > self._max_history_bytes:
                self._trim()
            ingress.put_nowait(publication)
            receipt = Receipt(history.epoch, publication.offset)
        if draft.idempotency_key is not None:
            self._receipts.keep((topic, draft.idempotency_key), receipt, now)
        return receipt

    async def subscribe(self, topic: str) -> None:
        """See `Broker.subscribe`."""
        state = self._topics.get(topic) or self._create(topic)
        state.subscribers += 1

    def unsubscribe(self, topic: str) -> None:
        """See `Broker.unsubscribe`."""
        state = self._topics[topic]
        state.subscribers -= 1
        state.used_at = self._now()

    async def read(self, topic: str, since: Since, limit: int) -> Page:
        """See `Broker.read`."""
        return self._fresh(topic).history.read(since, limit)

    async def browse(self, topic: str, after: Position | None, limit: int) -> Page:
        """See `Broker.browse`. Looking at a topic that is not there does not make it."""
        if topic not in self._topics:
            kind, _ = self._kinds.split(topic)
            return self._new_history(kind, self._places.get(topic)).browse(after, limit)
        return self._fresh(topic).history.browse(after, limit)

    async def position(self, topic: str) -> Position | None:
        """See `Broker.position`."""
        state = self._topics.get(topic)
        return None if state is None else state.history.position

    def recoverable(self, topic: str, epoch: str, offset: int) -> bool:
        """See `Broker.recoverable`."""
        state = self._topics.get(topic)
        return state is not None and state.history.epoch == epoch and state.history.oldest <= offset

    def forget(self, topic: str) -> None:
        """See `Broker.forget`."""
        self._receipts.forget(topic)
        self._places.pop(topic, None)
        state = self._topics.get(topic)
        if state is not None and state.subscribers:
            state.history = self._new_history(state.kind)
            state.last.clear()
        elif state is not None:
            del self._topics[topic]

    async def topics(self, after: str, limit: int) -> list[str]:
        """See `Broker.topics`."""
        return heapq.nsmallest(limit, (name for name in self._topics if name > after))

    def _running(self) -> Ingress:
        if self._ingress is None:
            raise CommandError(ErrorCode.UNAVAILABLE, "the server is not running")
        return self._ingress

    def _create(self, topic: str) -> _Topic:
        place = self._places.get(topic)  # before others that go may take its place
        if len(self._topics) >= self._max_topics and self._now() >= self._full_until:
            self._drop_idle()
        if len(self._topics) >= self._max_topics:
            raise CommandError(ErrorCode.LIMIT_EXCEEDED, "the server has as many topics as it may")
        kind, _ = self._kinds.split(topic)
        self._places.pop(topic, None)
        history = self._new_history(kind, place)
        state = self._topics[topic] = _Topic(kind, history, used_at=self._now())
        return state

    @staticmethod
    def _new_history(kind: Kind, start: Position | None = None) -> History:
        return History(kind.history_messages, kind.history_bytes, kind.history_age_seconds, start=start)

    def _put_away(self, topic: str) -> None:
        """Forget all of a topic but where it stood; of a kind that keeps nothing, nobody comes back for that either."""
        state = self._topics.pop(topic)
        if state.kind.history_messages:
            self._places[topic] = state.history.position
            if len(self._places) > self._max_topics:
                del self._places[next(iter(self._places))]

    def _drop_idle(self) -> None:
        """Forget topics that nobody has and that hold nothing: who comes and goes must not use up what there is."""
        idle = [name for name, state in self._topics.items() if not (state.subscribers or len(state.history))]
        for name in idle:
            self._put_away(name)
        if not idle:  # the walk was in vain, and who asks again and again must not have it repeated
            self._full_until = self._now() + FULL_SECONDS

    def _trim(self) -> None:
        """Have the topics that were used least lately forget their oldest messages, down to nine tenths of the bound.

        Costs a walk over all topics, after a tenth of the bound was published at the least.
        """
        total = sum(state.history.size for state in self._topics.values())
        goal = self._max_history_bytes * 9 // 10
        if total > goal:
            for state in sorted(self._topics.values(), key=lambda state: state.used_at):
                total -= state.history.forget(total - goal)
                if total <= goal:
                    break
        self._history_bytes = total

    def _fresh(self, topic: str) -> _Topic:
        state = self._topics.get(topic) or self._create(topic)
        state.history.expire(self._now())
        return state

    async def _sweep(self) -> None:
        now = self._now()
        for count, (name, state) in enumerate(list(self._topics.items()), 1):
            state.history.expire(now)
            if not state.subscribers and not len(state.history) and now - state.used_at > self.SWEEP_SECONDS:
                self._put_away(name)
            if not count % 1000:
                await trio.lowlevel.checkpoint()  # a hundred thousand topics must not hold up a tick
