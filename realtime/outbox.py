r"""Everything that waits to go to one peer: bounded, with a policy, counted.

::

    hub ---- offer ----> [subscription queues, control queue] ---- flush ----> wire
                                                             \--- take  ----> sender ----> wire

Two hands empty it. While the wire keeps up, `flush` writes all that waits in one go, called by the hub at
the end of its turn, and the sender task sleeps. Once the wire is busy the outbox is *backlogged*: the
sender owns the wire, takes chunk by chunk and waits for each, until nothing is left.

The round of subscriptions is served one chunk's share at a time, so a burst on one topic does not
hold up the others of the same peer. Order is kept within a topic; control messages go first.

A little long for this house: putting in and taking out keep the same sums, and are only right together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from realtime.closing import OVERLOADED, TOO_SLOW, CloseReason
from realtime.history import Position, Publication, cursor_part, encode_cursor
from realtime.messages import encode
from realtime.subscription import Gap, Loss, Subscription
from realtime.topics import Mode, Overflow
from realtime.views import Frame, Run, encode_run, single
from realtime.wire import Framing, Wire

__all__ = ["CHUNK_BYTES", "Outbox"]

#: What one write takes at the most, unless a single run is larger. What a write took is no longer ours to drop
#: or to conflate, so this also bounds how stale a slow reader's next bytes can be.
CHUNK_BYTES = 64 * 1024
#: Messages of history that are encoded at a time, unless a quarter of a chunk is reached before.
REPLAY_SLICE = 32
#: Replies and notices that may wait. A peer that sends commands and never reads the answers reaches it.
MAX_CONTROL_MESSAGES = 2000
MAX_CONTROL_BYTES = 1 << 20


class Outbox:
    """See the module. Owned by one connection or one in-process subscriber; never waits."""

    __slots__ = (
        "_control",
        "_control_bytes",
        "_cursor",
        "_on_backlog",
        "_on_failure",
        "_recoverable",
        "_round",
        "_stamp_head",
        "_stamped",
        "_stamping",
        "backlogged",
        "bytes",
        "closed",
        "corks",
        "dirty",
        "failed",
        "max_bytes",
        "max_messages",
        "messages",
        "on_room",
        "owner",
        "wire",
    )

    def __init__(
        self,
        wire: Wire,
        *,
        max_messages: int,
        max_bytes: int,
        owner: str = "",
        on_backlog: Callable[[], None],
        on_failure: Callable[[CloseReason], None],
        recoverable: Callable[[str, str, int], bool],
    ) -> None:
        """Wire it up.

        ``owner`` is the id of the connection; ``on_backlog`` wakes the sender; ``on_failure`` ends the peer;
        ``recoverable`` knows whether history still has the message of (topic, epoch, offset).
        """
        self.wire = wire
        self.owner = owner
        self.max_messages = max_messages
        self.max_bytes = max_bytes
        self.messages = 0
        self.bytes = 0
        #: Whether the hub has this outbox on its list of those to flush.
        self.dirty = False
        #: Whether the sender owns the wire.
        self.backlogged = False
        self.closed = False
        #: Whether the peer is being ended because this overflowed: nothing more is queued.
        self.failed = False
        #: Above 0 nothing leaves: the confirmation of a subscription has still to be put before its messages.
        self.corks = 0
        #: Called when a full outbox has room again, for publishers that wait for it.
        self.on_room: dict[Subscription, Callable[[], None]] = {}
        self._on_backlog = on_backlog
        self._on_failure = on_failure
        self._recoverable = recoverable
        self._control: list[bytes] = []
        self._control_bytes = 0
        # Short lists: a deque is 600 bytes when it is empty, and most of them always are.
        self._round: list[Subscription] = []
        framing = wire.framing
        self._stamped = framing is not None and framing.stamped
        #: Whose messages were stamped last, and what their stamps begin with.
        self._stamping: Subscription | None = None
        self._stamp_head = ""
        self._cursor: dict[str, Position] | None = {} if framing is not None and framing.cursors else None

    # -- putting in ------------------------------------------------------------------------------------------

    def offer(self, subscription: Subscription, run: Run) -> bool:
        """Queue ``run``; True when this made the outbox dirty, so that the caller must see it flushed.

        The path of every delivery: each line here is paid a few hundred thousand times a second.
        """
        messages = self.messages + run.count
        size = self.bytes + run.size
        if messages > self.max_messages or size > self.max_bytes or subscription.mode is Mode.LATEST:
            for frame in run.frames:
                self._offer_one(subscription, frame)
        else:
            self.messages = messages
            self.bytes = size
            subscription.queued += run.count
            subscription.queue.append(run)
        if not subscription.listed:
            subscription.listed = True
            self._round.append(subscription)
        if self.dirty or self.backlogged:
            return False
        self.dirty = True
        return True

    def offer_replay(self, subscription: Subscription, publications: list[Publication]) -> None:
        """Queue history; the caller sees it flushed."""
        if publications and not self.closed:
            subscription.start_replay(publications)
            self._list(subscription)

    def offer_control(self, frame: bytes) -> None:
        """Queue a reply or notice, which goes out before all messages; the caller sees it flushed."""
        if self.closed or not frame:
            return
        # What waits already tells a peer that does not read; one reply may be as long as it is.
        if len(self._control) >= MAX_CONTROL_MESSAGES or self._control_bytes >= MAX_CONTROL_BYTES:
            self._on_failure(OVERLOADED)
        self._control.append(frame)
        self._control_bytes += len(frame)

    def lose_range(self, subscription: Subscription, first: int, last: int, reason: Loss) -> bool:
        """Tell the subscriber that a range never came; True when this made the outbox dirty."""
        if self.failed:
            subscription.count_loss(reason, last - first + 1)
            return False
        subscription.lose_range(first, last, reason)
        self._list(subscription)
        if self.dirty or self.backlogged:
            return False
        self.dirty = True
        return True

    def start(self, subscription: Subscription, position: Position) -> None:
        """Note where a subscription starts, for wires that tell cursors."""
        self._stamping = None
        if self._cursor is not None:
            self._cursor[subscription.topic] = position

    def reframe(self, framing: Framing) -> None:
        """Frame everything in another way from now on, also what waits."""
        self.wire.framing = framing
        self._stamped = framing.stamped
        for subscription in self._round:
            self._account(subscription.encode_anew(framing))

    def forget(self, subscription: Subscription) -> None:
        """Throw away what waits for an ended subscription."""
        self._stamping = None
        self._account(subscription.discard())
        if subscription.listed:
            subscription.listed = False
            self._round.remove(subscription)
        if self._cursor is not None:
            self._cursor.pop(subscription.topic, None)

    def has_room(self) -> bool:
        """Whether one more message would be taken without a loss; what publishers under ``block`` wait for."""
        return self.closed or self.failed or (self.messages < self.max_messages and self.bytes < self.max_bytes)

    @property
    def cursor(self) -> str | None:
        """The cursor of everything delivered so far; on a wire that is not stamped, of where it started."""
        return None if self._cursor is None else encode_cursor(self._cursor)

    # -- taking out ------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write all that waits as long as the wire takes it at once; leave the rest to the sender."""
        self.dirty = False
        if self.backlogged or self.closed or self.corks:
            return
        wire = self.wire
        takes_more = not wire.busy
        while takes_more and (self._round or self._control):
            takes_more = wire.write_nowait(self.take())
        if not takes_more:
            self.backlogged = True
            self._on_backlog()

    def take(self) -> bytes:
        """The next chunk; from here on its messages count as delivered. Empty when nothing waits."""
        waiting = self._round
        if len(waiting) == 1 and not self._control and not self._stamped:
            # The common case by far: one topic, one run, nothing else.
            subscription = waiting[0]
            queue = subscription.queue
            if len(queue) == 1 and not subscription.replay:
                run = queue[0]
                if type(run) is Run and subscription.queued == run.count:
                    queue.clear()
                    waiting.clear()
                    subscription.listed = False
                    subscription.queued = 0
                    subscription.delivered += run.count
                    self.messages = 0
                    self.bytes = 0
                    if self.on_room:
                        self._made_room()
                    return run.data
        return self._gather()

    def take_one(self) -> tuple[Subscription, Publication | Gap] | None:
        """The next thing that waits, as it is: for a subscriber in this process."""
        while self._round:
            subscription = self._round[0]
            entry = self._next(subscription, split=True)
            if entry is None:
                self._unlist(subscription)
                continue
            if isinstance(entry, Gap):
                return subscription, entry
            self._next_turn()
            self._made_room()
            return subscription, entry.frames[0].publication
        return None

    def close(self) -> None:
        """Throw everything away; nothing is taken any more."""
        self.closed = True
        for subscription in self._round:
            subscription.listed = False
            subscription.discard()
        self._round.clear()
        self._control.clear()
        self._control_bytes = 0
        self.messages = 0
        self.bytes = 0
        self._made_room()

    @property
    def empty(self) -> bool:
        """Whether nothing waits."""
        return not (self._round or self._control)

    # -- inside ----------------------------------------------------------------------------------------------

    def _list(self, subscription: Subscription) -> None:
        if not subscription.listed:
            subscription.listed = True
            self._round.append(subscription)

    def _unlist(self, subscription: Subscription) -> None:
        subscription.listed = False
        del self._round[0]

    def _next_turn(self) -> None:
        """The subscription that was just served goes to the end of the round."""
        self._round.append(self._round.pop(0))

    def _account(self, change: tuple[int, int]) -> None:
        self.messages += change[0]
        self.bytes += change[1]

    def _fits(self, frame: Frame) -> bool:
        return self.messages < self.max_messages and self.bytes + len(frame.data) <= self.max_bytes

    def _offer_one(self, subscription: Subscription, frame: Frame) -> None:
        """Queue one frame by the rules of its mode and, if the outbox is full, of its policy."""
        if self.closed or self.failed:
            subscription.count_loss(Loss.SLOW_CONSUMER, 1)
            return
        if subscription.mode is Mode.LATEST:
            self._offer_latest(subscription, frame)
            return
        if not self._fits(frame) and not self._make_room(subscription, frame):
            return
        subscription.queue.append(single(frame))
        subscription.queued += 1
        self._account((1, len(frame.data)))

    def _offer_latest(self, subscription: Subscription, frame: Frame) -> None:
        if len(frame.data) > self.max_bytes:
            subscription.lose(frame, Loss.SLOW_CONSUMER)
            return
        self._account(subscription.put_latest(frame))
        while self.messages > self.max_messages or self.bytes > self.max_bytes:
            victim = self._victim(subscription, spare=1)
            if not victim.queued:
                break
            self._account(victim.drop_oldest(Loss.SLOW_CONSUMER))

    def _make_room(self, subscription: Subscription, frame: Frame) -> bool:
        """Whether ``frame`` may now be queued; where not, it has been dealt with."""
        policy = subscription.overflow
        if policy is Overflow.DISCONNECT:
            self._fail()
            subscription.count_loss(Loss.SLOW_CONSUMER, 1)
            return False
        if policy is Overflow.BLOCK and self.has_room():
            return True  # publishers wait for room and not for so many bytes: the last message may stand out
        if policy is Overflow.LATEST:
            self._account(subscription.collapse())
        if policy in (Overflow.DROP_OLDEST, Overflow.LATEST) and len(frame.data) <= self.max_bytes:
            while not self._fits(frame):
                victim = self._victim(subscription)
                if not victim.queued:
                    break
                self._account(victim.drop_oldest(Loss.SLOW_CONSUMER))
            if self._fits(frame):
                return True
        subscription.lose(frame, Loss.BLOCK_TIMEOUT if policy is Overflow.BLOCK else Loss.SLOW_CONSUMER)
        return False

    def _fail(self) -> None:
        """End a peer that is too slow, and queue nothing more of any topic.

        The peer comes back and recovers from the last message that it got. A message after a hole, or a gap, would
        take it past what it is to recover.
        """
        self.failed = True
        self.max_messages = 0  # so that every offer comes to the slow path, which looks at `failed`
        self._on_failure(TOO_SLOW)

    def _victim(self, subscription: Subscription, *, spare: int = 0) -> Subscription:
        """Whose oldest message goes: the subscription's own, else of the longest queue that may lose its head.

        ``spare``: so many of its own are the message that wants in, which is the last to go.
        """
        if subscription.queued > spare:
            return subscription
        may_lose = (Overflow.DROP_OLDEST, Overflow.LATEST)
        others = [
            other
            for other in self._round
            if other is not subscription and other.queued and (other.overflow in may_lose or other.mode is Mode.LATEST)
        ]
        return max(others, key=lambda other: other.queued, default=subscription)

    def _next(self, subscription: Subscription, *, split: bool) -> Run | Gap | None:
        """Take the next entry out of one subscription's queue and count it."""
        if subscription.replay:
            return self._next_replay(subscription, 1 if split else REPLAY_SLICE)
        if subscription.queue:
            entry = subscription.queue.popleft()
            if isinstance(entry, Gap):
                subscription.count_gap(entry.reason)
                return entry
            if split and entry.count > 1:
                subscription.queue.extendleft(single(frame) for frame in reversed(entry.frames))
                entry = subscription.queue.popleft()
                assert not isinstance(entry, Gap)
        elif subscription.newest:
            entry = single(subscription.newest.pop(next(iter(subscription.newest))))
        else:
            return None
        subscription.queued -= entry.count
        subscription.delivered += entry.count
        self._account((-entry.count, -entry.size))
        return entry

    def _next_replay(self, subscription: Subscription, most: int) -> Run | Gap | None:
        """Encode the next slice of history of which this view shows anything, else go on to the queue."""
        replay = subscription.replay
        while replay:
            count = size = 0
            while count < min(most, len(replay)) and size < CHUNK_BYTES // 4:
                size += len(replay[count].data)
                count += 1
            slice_ = replay[:count]
            del replay[:count]
            run = encode_run(subscription.view, self.wire.framing, subscription.epoch, slice_)
            seen = 0 if run is None else run.count
            subscription.own_filtered += len(slice_) - seen
            subscription.delivered += seen
            if run is not None:
                return run
        return self._next(subscription, split=most == 1)

    def _gather(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        for frame in self._control:
            if size >= CHUNK_BYTES:
                break
            size += len(frame)
            parts.append(frame)
        del self._control[: len(parts)]
        self._control_bytes -= size
        while self._round and size < CHUNK_BYTES:
            subscription = self._round[0]
            # A quarter of a chunk for each topic in turn.
            share = size + CHUNK_BYTES // 4
            while size < share:
                entry = self._next(subscription, split=False)
                if entry is None:
                    self._unlist(subscription)
                    break
                data = self._gap(subscription, entry) if isinstance(entry, Gap) else self._stamp(subscription, entry)
                parts.append(data)
                size += len(data)
            else:
                self._next_turn()
        self._made_room()
        return b"".join(parts)

    def _made_room(self) -> None:
        for signal in self.on_room.values():
            signal()

    def _stamp(self, subscription: Subscription, run: Run) -> bytes:
        """The run's bytes, each message behind the cursor of this connection where the wire wants that."""
        if not self._stamped:
            return run.data
        framing = self.wire.framing
        assert framing is not None
        assert self._cursor is not None
        topic, epoch = subscription.topic, subscription.epoch
        # Only one part of the cursor changes from message to message of one topic: it is put last, and the others are
        # written once until another topic's turn comes. That halves what a delivery costs on a stream of several.
        if self._stamping is not subscription:
            self._cursor.pop(topic, None)
            others = encode_cursor(self._cursor)
            self._stamp_head = f"{others}~{cursor_part(topic, epoch)}" if others else cursor_part(topic, epoch)
            self._stamping = subscription
        head = self._stamp_head
        parts = [framing.stamp(f"{head}{frame.offset}") + frame.data for frame in run.frames]
        self._cursor[topic] = Position(epoch, run.frames[-1].offset)
        return b"".join(parts)

    def _gap(self, subscription: Subscription, gap: Gap) -> bytes:
        framing = self.wire.framing
        assert framing is not None  # a subscriber in this process takes gaps as they are
        return framing.push("gap", encode(self.describe(subscription, gap)))

    def describe(self, subscription: Subscription, gap: Gap) -> dict[str, Any]:
        """The push that tells a gap."""
        return {
            "type": "gap",
            "topic": subscription.topic,
            "epoch": subscription.epoch,
            "from": gap.first,
            "to": gap.last,
            "count": gap.count,
            "reason": gap.reason,
            "recoverable": self._recoverable(subscription.topic, subscription.epoch, gap.first),
        }
