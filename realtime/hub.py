"""Who hears what: routes every publication to the outboxes of its topic's subscribers.

::

    run
    |- the hub's one task: receive from the ingress, route, flush, again
    |- the pacer          lets go, in time, what rate-limited subscribers wait for
    '- one task for each topic that is held back by a full subscriber under policy ``block``

A turn takes all that the ingress holds (up to `TURN_MESSAGES`), routes it synchronously, then writes the
outboxes that became dirty, with a checkpoint every few writes. While it writes, publishers go on filling
the ingress, so under load the turns grow and each subscriber gets many messages in one write, and
without load a message leaves in the turn that brought it. There is no timer in this.

A little long for this house: joining, routing and holding back each rely on the others having no checkpoint.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import trio
from attrs import frozen

from realtime.audience import Audience, TopicStatistics, Totals
from realtime.broker import Broker
from realtime.closing import CloseReason
from realtime.group import Group
from realtime.history import Page, Position, Publication, Since, Why
from realtime.holding import Holder, room_signal
from realtime.ingress import Ingress
from realtime.messages import encode
from realtime.outbox import Outbox
from realtime.pacing import Pacer
from realtime.subscription import Loss, Subscription
from realtime.topics import Mode, Overflow
from realtime.views import Run, View, encode_run
from realtime.wire import Framing, Wire

__all__ = ["Hub", "HubStatistics", "Joined"]

TURN_MESSAGES = 64
#: A turn's worth of bytes of one topic; a run larger than this would be a write that nobody can interrupt.
RUN_BYTES = 64 * 1024
#: Writes between two checkpoints: 64 are half a millisecond.
FLUSH_SLICE = 64
#: Live messages kept for a subscriber that still reads history.
MAX_WAITING = 10_000


@frozen
class Joined:
    """How a subscription began: where the topic stood, and what was replayed."""

    position: Position
    recovered: str | None = None
    why: Why | None = None
    replayed: int = 0


@frozen
class HubStatistics:
    """Counters of the whole hub since it started."""

    topics: int
    subscriptions: int
    published: int
    delivered: int
    dropped: dict[str, int]
    #: How often a subscriber was told that messages are missing: in the stream, or when it resumed.
    gaps: dict[str, int]
    conflated: int
    filtered: int
    ingress_messages: int
    ingress_bytes: int
    ingress_waits: int
    held_topics: int


class Hub:
    """See the module. One for each server; given a broker, owns the ingress."""

    def __init__(self, broker: Broker, ingress: Ingress) -> None:
        self.broker = broker
        self.ingress = ingress
        self._audiences: dict[str, Audience] = {}
        self._dirty: list[Outbox] = []
        self._published = 0
        self._gone = Totals()
        self._nursery: trio.Nursery | None = None
        self._pacer = Pacer(self._release, self._flush)
        self._holder = Holder(self._deliver, self._flush, self._drop_if_empty)
        #: Told when a topic gets its first subscriber on this node (true), and when it has lost its last (false).
        self.on_audience: Callable[[str, bool], None] | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Route and flush until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._pacer.run)
            task_status.started()
            while True:
                batch = await self.ingress.receive(TURN_MESSAGES)
                self._published += len(batch)
                by_topic: dict[str, list[Publication]] = {}
                for publication in batch:
                    by_topic.setdefault(publication.topic, []).append(publication)
                for topic, publications in by_topic.items():
                    audience = self._audiences.get(topic)
                    if audience is not None:
                        self._route(audience, publications)
                await self._flush()

    # -- subscribing -----------------------------------------------------------------------------------------

    def outbox(
        self,
        wire: Wire,
        *,
        max_messages: int,
        max_bytes: int,
        owner: str = "",
        on_backlog: Callable[[], None],
        on_failure: Callable[[CloseReason], None],
    ) -> Outbox:
        """An outbox for one peer, ready to be subscribed."""
        return Outbox(
            wire,
            max_messages=max_messages,
            max_bytes=max_bytes,
            owner=owner,
            on_backlog=on_backlog,
            on_failure=on_failure,
            recoverable=self.broker.recoverable,
        )

    async def subscribe(self, subscription: Subscription, since: Since | None, limit: int) -> Joined:
        """Join the topic: history after ``since`` first, then live, with no gap and no duplicate between.

        The caller announces the join and flushes; nothing of the topic leaves before this returns, as
        there is no checkpoint after the replay has been queued. Cancelled or failed, nothing is left behind.
        """
        topic = subscription.topic
        audience = self._audiences.get(topic)
        if audience is None:
            audience = self._audiences[topic] = Audience(topic, subscription.kind)
        audience.joining.add(subscription)
        subscription.waiting = deque()
        counted = False
        try:
            await self.broker.subscribe(topic)
            counted = True
            page = await self.broker.read(topic, since or Since(), limit)
        except BaseException:  # also when cancelled: nothing is left behind, and it goes on up
            subscription.waiting = None
            audience.joining.discard(subscription)
            if counted:
                self.broker.unsubscribe(topic)
            self._drop_if_empty(audience)
            raise
        return self._join(audience, subscription, page, since)

    def _join(self, audience: Audience, subscription: Subscription, page: Page, since: Since | None) -> Joined:
        """Queue the replay and what came live meanwhile; from here on the subscription is like any other."""
        outbox = subscription.outbox
        epoch = page.top.epoch
        waiting, subscription.waiting = subscription.waiting, None
        assert waiting is not None
        live = [publication for publication in waiting if publication.epoch == epoch]
        if audience.epoch != epoch:
            # The first to join, or the topic was removed and has come back: its count starts anew.
            audience.epoch = epoch
            audience.routed = live[-1].offset if live else 0
        subscription.epoch = epoch
        subscription.after = page.top.offset
        if since is not None and since.after is not None and page.why is None:
            start = since.after.offset
        elif page.publications:
            start = page.publications[0].offset - 1
        else:
            start = page.top.offset
        outbox.start(subscription, Position(subscription.epoch, start))
        outbox.offer_replay(subscription, page.publications)
        self._offer_news(subscription, live, {})
        if audience.routed >= subscription.after:
            audience.joining.discard(subscription)
            audience.admit(subscription)
        # else some of what the page held has still to come out of the ingress: `_route` admits it then
        audience.size += 1
        if audience.size == 1 and self.on_audience is not None:
            self.on_audience(audience.topic, True)  # noqa: FBT003 - it is the name of the argument that counts there
        if subscription.overflow is Overflow.BLOCK:
            audience.blocking += 1
            outbox.on_room[subscription] = room_signal(audience, subscription)
        if page.why is not None:
            subscription.count_gap(page.why)
        recovered = None
        if since is not None:
            recovered = "none" if page.why else "latest" if subscription.mode is Mode.LATEST else "full"
        return Joined(page.top, recovered, page.why, len(page.publications))

    def _offer_news(
        self,
        subscription: Subscription,
        publications: list[Publication],
        encoded: dict[tuple[View, Framing | None, int], Run | None],
    ) -> None:
        """Offer those messages that come after the subscription's place, and tell what is missing before them."""
        news = [publication for publication in publications if publication.offset > subscription.after]
        for stretch in _stretches(news):
            self._offer_stretch(subscription, stretch, encoded)

    def _offer_stretch(
        self,
        subscription: Subscription,
        news: list[Publication],
        encoded: dict[tuple[View, Framing | None, int], Run | None],
    ) -> None:
        outbox = subscription.outbox
        first = news[0].offset
        dirty = False
        its_own = [publication for publication in news if _is_echo(publication, outbox)]
        if first > subscription.after + 1:
            dirty = outbox.lose_range(subscription, subscription.after + 1, first - 1, Loss.UPSTREAM)
        subscription.after = news[-1].offset
        view, framing = subscription.view, outbox.wire.framing
        if its_own:
            others = [publication for publication in news if publication not in its_own]
            run = encode_run(view, framing, subscription.epoch, others)
        else:
            # A crowd that joins together sees the same first messages: encode them once for all of it.
            shared = (view, framing, first)
            if shared not in encoded:
                encoded[shared] = encode_run(view, framing, subscription.epoch, news)
            run = encoded[shared]
        subscription.own_filtered += len(news) - (0 if run is None else run.count)
        if (run is not None and outbox.offer(subscription, run)) or dirty:
            self._dirty.append(outbox)

    def update(self, subscription: Subscription, view: View, mode: Mode, max_rate: float | None) -> None:
        """Change what a live subscription sees, from the next message on, without losing its place."""
        audience = self._audiences[subscription.topic]
        admitted = subscription not in audience.joining
        if admitted:
            self._offer_held(audience, subscription)
        subscription.view = view
        subscription.max_rate = max_rate
        if mode is not subscription.mode:
            subscription.change_mode(mode)
        if admitted:
            audience.admit(subscription)
        audience.room.set()  # in mode ``latest`` nobody waits for it

    def unsubscribe(self, subscription: Subscription, *, keep_queue: bool = False) -> None:
        """Leave the topic. What still waits is thrown away, or left in the outbox for a connection's last writes."""
        audience = self._audiences[subscription.topic]
        if subscription in audience.joining:
            audience.joining.discard(subscription)
        elif keep_queue:
            self._offer_held(audience, subscription)
        else:
            audience.expel(subscription)
        audience.size -= 1
        if not audience.size and self.on_audience is not None:
            self.on_audience(audience.topic, False)  # noqa: FBT003
        if subscription.overflow is Overflow.BLOCK:
            audience.blocking -= 1
            del subscription.outbox.on_room[subscription]
        if not keep_queue:
            subscription.outbox.forget(subscription)
        audience.gone.add(subscription)
        audience.room.set()
        self.broker.unsubscribe(subscription.topic)
        self._drop_if_empty(audience)

    def subscriptions(self, topic: str) -> list[Subscription]:
        """All subscriptions to the topic on this node."""
        audience = self._audiences.get(topic)
        return [] if audience is None else audience.subscriptions()

    async def wait_routed(self, topic: str, offset: int) -> None:
        """Wait until everything up to ``offset`` is in the outboxes of the topic's subscribers, if it has any."""
        audience = self._audiences.get(topic)
        if audience is None:
            return
        # Who has read that far in history need not wait for it to come by: it may have done so before.
        if any(
            member.waiting is None and max(audience.routed, member.after) < offset
            for member in audience.subscriptions()
        ):
            event = trio.Event()
            audience.waiters.append((offset, event))
            await event.wait()

    def let_go(self, topic: str) -> None:
        """Have rate-limited subscribers of the topic given what is held for them: nothing newer will come."""
        audience = self._audiences.get(topic)
        if audience is not None:
            for group in audience.groups.values():
                while group.held:
                    self._release(audience, group, group.release(trio.current_time()))
            self._pacer.wake()

    def tell(self, topic: str, kind: str, push: dict[str, Any], *, but: str | None = None) -> None:
        """Tell the subscribers of a topic, apart from the connection ``but``, who is there."""
        audience = self._audiences.get(topic)
        if audience is None:
            return
        text = encode(push)
        frames: dict[Framing, bytes] = {}
        for member in audience.subscriptions():
            outbox = member.outbox
            framing = outbox.wire.framing
            if framing is None or outbox.owner == but or member.waiting is not None or not member.sees_members:
                continue
            if framing not in frames:
                frames[framing] = framing.push(kind, text)
            outbox.offer_control(frames[framing])
            self.flush_soon(outbox)

    def flush_soon(self, outbox: Outbox) -> None:
        """Have an outbox written, together with whatever else comes to it before the loop's next turn."""
        if not (outbox.dirty or outbox.backlogged):
            outbox.dirty = True
            self._dirty.append(outbox)
            self._pacer.wake()

    def place_of(self, subscription: Subscription) -> Position:
        """How far its subscriber has been handed the topic, so that it may go on from there."""
        routed = self._audiences[subscription.topic].routed
        return Position(subscription.epoch, subscription.waiting_after(routed))

    def reframe(self, outbox: Outbox, subscriptions: Iterable[Subscription], framing: Framing) -> None:
        """Frame everything that an outbox sends in another way, without losing a subscription's place."""
        admitted = []
        for subscription in subscriptions:
            outbox.start(subscription, self.place_of(subscription))
            if subscription.group is not None:
                audience = self._audiences[subscription.topic]
                self._offer_held(audience, subscription)
                admitted.append((audience, subscription))
        outbox.reframe(framing)
        for audience, subscription in admitted:
            audience.admit(subscription)

    def _offer_held(self, audience: Audience, subscription: Subscription) -> None:
        """Take a subscription out of its group, and give it what was held for it there."""
        self._offer_all(audience, subscription, audience.expel(subscription))

    def _offer_all(self, audience: Audience, subscription: Subscription, publications: list[Publication]) -> None:
        for publication in publications:
            run = None
            if not _is_echo(publication, subscription.outbox):
                run = encode_run(subscription.view, subscription.outbox.wire.framing, audience.epoch, [publication])
            if run is None:
                subscription.own_filtered += 1
            elif subscription.outbox.offer(subscription, run):
                self._dirty.append(subscription.outbox)
                self._pacer.wake()

    def _drop_if_empty(self, audience: Audience) -> None:
        if not audience.size and not audience.joining and audience.held is None:
            self._gone.add(audience.gone)
            self._audiences.pop(audience.topic, None)
            for _, event in audience.waiters:
                event.set()

    # -- routing ---------------------------------------------------------------------------------------------

    def _route(self, audience: Audience, publications: list[Publication]) -> None:
        """Offer publications of one topic, in order, to all its subscribers; hold them back if one must not lose."""
        epoch = audience.epoch
        if epoch and not (publications[0].epoch == publications[-1].epoch == epoch):
            # The topic was removed and has come back: what was still under way belongs to its earlier life.
            publications = [publication for publication in publications if publication.epoch == epoch]
        if audience.held is not None:
            audience.held.extend(publications)
            return
        if audience.blocking:
            assert self._nursery is not None  # routing is done within
            self._holder.route(audience, publications, self._nursery)
            return
        for stretch in _stretches(publications):
            size = sum([len(publication.data) for publication in stretch])
            if size <= RUN_BYTES:
                self._deliver(audience, stretch)
            else:
                for publication in stretch:
                    self._deliver(audience, [publication])

    def _deliver(self, audience: Audience, publications: list[Publication]) -> None:
        if publications[0].offset > audience.routed + 1:
            self._tell_jump(audience, audience.routed + 1, publications[0].offset - 1)
        audience.reached(publications[-1].offset)
        if any([publication.origin for publication in publications]):  # noqa: C419 - a generator costs more than the list
            for publication in publications:
                self._deliver_run(audience, [publication])
        else:
            self._deliver_run(audience, publications)
        if audience.joining:
            self._deliver_to_joining(audience, publications)

    def _deliver_run(self, audience: Audience, publications: list[Publication]) -> None:
        """Offer messages, all without an origin or only one, to all groups."""
        dirty = self._dirty
        origin = publications[0].origin
        for group in audience.groups.values():
            if group.max_rate is not None:
                group.hold(publications)
                self._pacer.put(audience, group)
                continue
            run = encode_run(group.view, group.framing, audience.epoch, publications)
            group.hidden += len(publications) - (0 if run is None else run.count)
            if run is None:
                continue
            for member in group.members:
                if origin is not None and member.outbox.owner == origin:
                    member.own_filtered += 1
                elif member.outbox.offer(member, run):
                    dirty.append(member.outbox)

    def _release(self, audience: Audience, group: Group, publication: Publication) -> None:
        """Offer a message that a paced group lets go."""
        run = encode_run(group.view, group.framing, audience.epoch, [publication])
        for member in group.members:
            if not member.paced(publication):
                continue
            if run is None or _is_echo(publication, member.outbox):
                member.own_filtered += 1
            elif member.outbox.offer(member, run):
                self._dirty.append(member.outbox)

    def _deliver_to_joining(self, audience: Audience, publications: list[Publication]) -> None:
        encoded: dict[tuple[View, Framing | None, int], Run | None] = {}
        for member in list(audience.joining):
            if member.waiting is not None:  # its page is still being read
                member.waiting.extend(publications)
                while len(member.waiting) > MAX_WAITING:
                    member.waiting.popleft()  # `_offer_news` finds the jump and tells it
                continue
            self._offer_news(member, publications, encoded)
            if audience.routed >= member.after:
                audience.joining.discard(member)
                audience.admit(member)

    def _tell_jump(self, audience: Audience, first: int, last: int) -> None:
        """The broker could not deliver a range: every subscriber hears of it in its place."""
        for group in audience.groups.values():
            while group.held:  # which comes before the range
                self._release(audience, group, group.release(trio.current_time()))
            for member in group.members:
                if member.outbox.lose_range(member, first, last, Loss.UPSTREAM):
                    self._dirty.append(member.outbox)

    async def _flush(self) -> None:
        """Write the outboxes that became dirty, letting others run in between."""
        dirty, self._dirty = self._dirty, []
        for start in range(0, len(dirty), FLUSH_SLICE):
            for outbox in dirty[start : start + FLUSH_SLICE]:
                outbox.flush()
            await trio.lowlevel.checkpoint()

    async def wait_unheld(self, topic: str, timeout: float) -> None:
        """Wait while the topic is held back. Raises `CommandError` (``TIMEOUT``) after ``timeout`` seconds."""
        audience = self._audiences.get(topic)
        if audience is not None:
            await self._holder.wait(audience, timeout)

    def is_held(self, topic: str) -> bool:
        """Whether publishers to the topic have to wait for a full subscriber."""
        audience = self._audiences.get(topic)
        return audience is not None and audience.held is not None

    # -- counters --------------------------------------------------------------------------------------------

    def statistics(self) -> HubStatistics:
        """The counters, summed over all subscriptions, present and past."""
        totals = Totals()
        totals.add(self._gone)
        subscriptions = 0
        for audience in self._audiences.values():
            totals.add(audience.totals())
            subscriptions += audience.size
        return HubStatistics(
            topics=len(self._audiences),
            subscriptions=subscriptions,
            published=self._published,
            delivered=totals.delivered,
            dropped=totals.dropped,
            gaps=totals.gaps,
            conflated=totals.conflated,
            filtered=totals.filtered,
            ingress_messages=self.ingress.messages,
            ingress_bytes=self.ingress.bytes,
            ingress_waits=self.ingress.waits,
            held_topics=sum(audience.held is not None for audience in self._audiences.values()),
        )

    def audiences(self) -> list[Audience]:
        """Of every topic that somebody has subscribed to."""
        return list(self._audiences.values())

    def topic_statistics(self, topic: str) -> TopicStatistics | None:
        """The counters of one topic; None where nobody subscribes to it."""
        audience = self._audiences.get(topic)
        return None if audience is None else audience.statistics()


def _is_echo(publication: Publication, outbox: Outbox) -> bool:
    """Whether the owner of the outbox published this and asked not to hear it."""
    return publication.origin is not None and publication.origin == outbox.owner


def _stretches(publications: list[Publication]) -> list[list[Publication]]:
    """The publications of one topic, cut where the broker left out a range."""
    if not publications or publications[-1].offset - publications[0].offset < len(publications):
        return [publications] if publications else []
    stretches = [[publications[0]]]
    for publication in publications[1:]:
        if publication.offset == stretches[-1][-1].offset + 1:
            stretches[-1].append(publication)
        else:
            stretches.append([publication])
    return stretches
