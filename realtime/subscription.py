"""One subscriber's part in one topic: its view, its queue, its counters.

The queue holds what waits for the wire: runs of messages and, in the place where something was lost,
gaps. A gap is a fact about the order, so it stands in the queue and not beside it, and it is itself
never dropped. There is at most one gap between two messages.

For every subscription, at every moment:
``delivered + dropped + conflated + filtered + queued + held == published since it joined``, where what it
asked history for counts as published.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING

from attrs import define, field

from realtime.errors import CommandError
from realtime.group import Group
from realtime.topics import Kind, Mode, Overflow
from realtime.views import EVERYTHING, Frame, Run, View, encode_run, single
from realtime.wire import Framing

if TYPE_CHECKING:
    from realtime.history import Publication
    from realtime.outbox import Outbox

__all__ = ["Gap", "Loss", "Subscription"]


class Loss(StrEnum):
    """Why messages did not reach a subscriber."""

    SLOW_CONSUMER = "slow_consumer"
    #: A newer message of the same key was kept instead (policy ``latest``); counted as conflated, not as dropped.
    CONFLATED = "conflated"
    #: The broker could not hand on a range of offsets.
    UPSTREAM = "upstream"
    #: A publisher waited for this subscriber as long as it may.
    BLOCK_TIMEOUT = "block_timeout"


@define
class Gap:
    """A run of losses, exact."""

    first: int
    last: int
    count: int
    reason: Loss

    def absorb(self, other: Gap) -> None:
        """Become the one run of both; they must be neighbours in the queue."""
        self.first = min(self.first, other.first)
        self.last = max(self.last, other.last)
        self.count += other.count


@define(eq=False)
class Subscription:
    """See the module. ``outbox`` bounds the queue together with those of the peer's other topics."""

    topic: str
    kind: Kind
    outbox: Outbox
    view: View = EVERYTHING
    mode: Mode = Mode.ALL
    overflow: Overflow = Overflow.DROP_OLDEST
    epoch: str = ""
    #: Messages up to here are not for this subscription: it joined after them, or has been given them.
    after: int = 0
    #: While history is being read: the live messages that came meanwhile.
    waiting: deque[Publication] | None = None
    #: Whether the outbox has this subscription in its round.
    listed: bool = False
    queue: deque[Run | Gap] = field(factory=deque)
    #: History that was asked for; goes out before the queue. It is encoded only when the wire wants it, so it
    #: costs references and not bytes, and stands outside the bounds of the outbox.
    replay: list[Publication] = field(factory=list)
    #: In mode ``latest``, behind the queue: the newest frame of each key, oldest first.
    newest: dict[str | None, Frame] = field(factory=dict)
    #: At most so many messages a second. With it the mode is `Mode.LATEST`: what is left out is the older value.
    max_rate: float | None = None
    #: The mode that was asked for, for when the rate is no longer limited.
    asked_mode: Mode = Mode.ALL
    #: Whether the peer has it by the server's will: then no rule takes it away.
    placed: bool = False
    #: The user on whose account it counts.
    account: str | None = None
    #: Whether the peer is told who comes and who goes.
    sees_members: bool = True
    #: Called when the subscription is ended from this side: by the operator, or because its topic goes.
    on_end: Callable[[Subscription, CommandError | None], None] | None = None
    #: Messages in ``queue`` and ``newest``.
    queued: int = 0
    delivered: int = 0
    #: What was conflated and what was left out by the view, without the part that its group counts.
    own_conflated: int = 0
    own_filtered: int = 0
    dropped: dict[Loss, int] = field(factory=dict)
    #: Gaps that the peer was told, by reason; most never are.
    gaps: dict[str, int] | None = None
    _group: Group | None = None
    #: The group's counters when this joined it.
    _hidden_before: int = 0
    _shown_before: int = 0
    #: Where the topic stood when this joined its group: what a paced group held then is no news.
    _joined_at: int = 0
    #: Messages that a paced group has let go to this one.
    _paced: int = 0

    def enter(self, group: Group, routed: int) -> None:
        """Become a member of a group of the topic, which has been routed up to ``routed``."""
        group.members[self] = None
        self._group = group
        self._hidden_before = group.hidden
        self._shown_before = group.shown
        self._joined_at = routed
        self._paced = 0

    def exit(self) -> list[Publication]:
        """Leave the group; what it still held for this one."""
        group = self._group
        assert group is not None
        held = group.held_after(self._joined_at)
        self.own_filtered += group.hidden - self._hidden_before
        self.own_conflated += group.shown - self._shown_before - self._paced - len(held)
        del group.members[self]
        self._group = None
        return held

    @property
    def group(self) -> Group | None:
        """Those who see the same; None while this is still joining."""
        return self._group

    def paced(self, publication: Publication) -> bool:
        """Take note of a message that the group lets go; whether it is one for this member."""
        if publication.offset <= self._joined_at:
            return False
        self._paced += 1
        return True

    @property
    def held(self) -> int:
        """Messages that wait in a paced group."""
        return 0 if self._group is None else len(self._group.held_after(self._joined_at))

    @property
    def is_partial(self) -> bool:
        """Whether messages may pass that the peer is not shown, so that it cannot tell how far the topic has come."""
        return self.mode is Mode.LATEST or self.view.filter is not None or self.view.fields is not None

    @property
    def waits(self) -> bool:
        """Whether anything waits for the wire, or for its time."""
        return bool(self.queued or self.replay or self.held)

    def left_behind(self) -> Gap | None:
        """What still waits, as the loss that it becomes when the subscription is ended."""
        offsets = [publication.offset for publication in self.replay]
        count = 0
        for entry in self.queue:
            if isinstance(entry, Gap):
                offsets += [entry.first, entry.last]
                count += entry.count - 2
            else:
                offsets += [frame.offset for frame in entry.frames]
        offsets += [frame.offset for frame in self.newest.values()]
        if self._group is not None:
            offsets += [publication.offset for publication in self._group.held_after(self._joined_at)]
        if not offsets:
            return None
        return Gap(min(offsets), max(offsets), len(offsets) + count, Loss.SLOW_CONSUMER)

    @property
    def filtered(self) -> int:
        """Messages that the view left nothing of."""
        group = self._group
        return self.own_filtered + (0 if group is None else group.hidden - self._hidden_before)

    @property
    def conflated(self) -> int:
        """Messages in whose place a newer one of the same key was kept."""
        group = self._group
        if group is None or group.max_rate is None:
            return self.own_conflated
        return self.own_conflated + group.shown - self._shown_before - self._paced - self.held

    @property
    def dropped_total(self) -> int:
        """Messages lost, for whatever reason."""
        return sum(self.dropped.values())

    def start_replay(self, publications: list[Publication]) -> None:
        """Queue history; in mode ``latest`` only the newest message of each key."""
        if self.mode is Mode.LATEST:
            # Only what the view shows can be the newest of its key.
            seen = [publication for publication in publications if self.view.shows(publication)]
            newest = {publication.key: publication for publication in seen}
            self.own_filtered += len(publications) - len(seen)
            self.own_conflated += len(seen) - len(newest)
            publications = sorted(newest.values(), key=lambda publication: publication.offset)
        self.replay.extend(publications)

    def change_mode(self, mode: Mode) -> None:
        """Deliver differently from now on; what is queued keeps its place before what comes."""
        self._settle_newest()
        self.mode = mode

    # Each of the following returns what it did to (messages, bytes) of the queue: the outbox keeps the sums.

    def put_latest(self, frame: Frame) -> tuple[int, int]:
        """Queue ``frame`` as the newest value of its key."""
        old = self.newest.pop(frame.key, None)
        self.newest[frame.key] = frame  # at the end: offsets only grow
        if old is None:
            self.queued += 1
            return 1, len(frame.data)
        self.own_conflated += 1
        return 0, len(frame.data) - len(old.data)

    def lose(self, frame: Frame, reason: Loss) -> None:
        """Note the loss of a frame that never came into the queue; its place is the end."""
        self.lose_range(frame.offset, frame.offset, reason)

    def lose_range(self, first: int, last: int, reason: Loss) -> None:
        """Note the loss of a range of offsets that never came into the queue; its place is the end."""
        count = last - first + 1
        self.count_loss(reason, count)
        self._settle_newest()
        self._append_gap(Gap(first, last, count, reason))

    def drop_oldest(self, reason: Loss) -> tuple[int, int]:
        """Lose the oldest message of the queue, of which there must be one."""
        if len(self.queue) > 1 or (self.queue and not isinstance(self.queue[0], Gap)):
            frame = self._pop_frame(reason)
        else:
            frame = self.newest.pop(next(iter(self.newest)))
            self._append_gap(Gap(frame.offset, frame.offset, 1, reason))
        self.count_loss(reason, 1)
        self.queued -= 1
        return -1, -len(frame.data)

    def collapse(self) -> tuple[int, int]:
        """Keep only the newest message of each key; what goes is counted as conflated and told as gaps."""
        entries: list[Frame | Gap] = []
        for queued in self.queue:
            if isinstance(queued, Gap):
                entries.append(queued)
            else:
                entries.extend(queued.frames)
        keep = {entry.key: entry.offset for entry in entries if isinstance(entry, Frame)}
        messages = size = 0
        self.queue.clear()
        for entry in entries:
            if isinstance(entry, Gap):
                self._append_gap(entry)
            elif keep[entry.key] == entry.offset:
                self.queue.append(single(entry))
            else:
                messages -= 1
                size -= len(entry.data)
                self._append_gap(Gap(entry.offset, entry.offset, 1, Loss.CONFLATED))
        self.own_conflated -= messages
        self.queued += messages
        return messages, size

    def discard(self) -> tuple[int, int]:
        """Empty the queue without a word: the subscription ends or starts anew."""
        messages = size = 0
        for entry in self.queue:
            if not isinstance(entry, Gap):
                messages -= entry.count
                size -= entry.size
        for frame in self.newest.values():
            messages -= 1
            size -= len(frame.data)
        self.queue.clear()
        self.newest.clear()
        self.replay.clear()
        self.queued = 0
        return messages, size

    def waiting_after(self, routed: int) -> int:
        """The offset behind which everything still waits, given that all up to ``routed`` has come here."""
        firsts = [publication.offset for publication in self.replay[:1]]
        firsts += [entry.first if isinstance(entry, Gap) else entry.frames[0].offset for entry in list(self.queue)[:1]]
        firsts += [frame.offset for frame in list(self.newest.values())[:1]]
        if self._group is not None:
            firsts += [publication.offset for publication in self._group.held_after(self._joined_at)[:1]]
        return firsts[0] - 1 if firsts else max(routed, self.after)

    def encode_anew(self, framing: Framing) -> tuple[int, int]:
        """Have what waits framed in another way; what a view that was changed meanwhile shows no more is left out."""
        queue, newest, queued = self.queue, self.newest, self.queued
        size = 0
        self.queue, self.newest, self.queued = deque(), {}, 0
        for entry in queue:
            if isinstance(entry, Gap):
                self._append_gap(entry)
                continue
            size -= entry.size
            if run := self._again(entry, framing):
                self.queue.append(run)
                self.queued += run.count
                size += run.size
        for key, frame in newest.items():
            size -= len(frame.data)
            if run := self._again(single(frame), framing):
                self.newest[key] = run.frames[0]
                self.queued += 1
                size += run.size
        self.own_filtered += queued - self.queued
        return self.queued - queued, size

    def _again(self, run: Run, framing: Framing) -> Run | None:
        return encode_run(self.view, framing, self.epoch, [frame.publication for frame in run.frames])

    def count_loss(self, reason: Loss, count: int) -> None:
        """Count messages as lost; who calls it sees to it that the peer learns of them."""
        self.dropped[reason] = self.dropped.get(reason, 0) + count

    def count_gap(self, reason: str) -> None:
        """Count a gap that the peer is told, be it in the stream or when it resumes."""
        if self.gaps is None:
            self.gaps = {}
        self.gaps[reason] = self.gaps.get(reason, 0) + 1

    def _settle_newest(self) -> None:
        """Give the newest values their places in the queue, because what comes now must stand behind them."""
        self.queue.extend(single(frame) for frame in self.newest.values())
        self.newest.clear()

    def _append_gap(self, gap: Gap) -> None:
        last = self.queue[-1] if self.queue else None
        if isinstance(last, Gap):
            last.absorb(gap)
        else:
            self.queue.append(gap)

    def _pop_frame(self, reason: Loss) -> Frame:
        """Take the oldest frame out of the queue and leave a gap in its place."""
        queue = self.queue
        before = queue[0]
        if isinstance(before, Gap):
            queue.popleft()
        run = queue.popleft()
        assert isinstance(run, Run)  # two gaps are never neighbours
        frame, *rest = run.frames
        queue.extendleft(single(other) for other in reversed(rest))
        gap = Gap(frame.offset, frame.offset, 1, reason)
        if isinstance(before, Gap):
            gap.absorb(before)
        after = queue[0] if queue else None
        if isinstance(after, Gap):
            gap.absorb(after)
            queue.popleft()
        queue.appendleft(gap)
        return frame
