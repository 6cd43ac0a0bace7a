"""The subscribers of one topic, as the hub sees them, and what they add up to."""

from __future__ import annotations

from collections import deque

import trio
from attrs import define, field, frozen

from realtime.group import Group, GroupKey
from realtime.history import Publication
from realtime.subscription import Subscription
from realtime.topics import Kind, Mode, Overflow

__all__ = ["Audience", "TopicStatistics", "Totals"]


@frozen
class TopicStatistics:
    """Counters of one topic's subscribers, present and past."""

    topic: str
    subscribers: int
    delivered: int
    dropped: dict[str, int]
    conflated: int
    filtered: int


@define
class Totals:
    """Counters of subscriptions that have ended."""

    delivered: int = 0
    conflated: int = 0
    filtered: int = 0
    dropped: dict[str, int] = field(factory=dict)
    gaps: dict[str, int] = field(factory=dict)

    def add(self, other: Subscription | Totals) -> None:
        """Count in what another has counted."""
        self.delivered += other.delivered
        self.conflated += other.conflated
        self.filtered += other.filtered
        for reason, count in other.dropped.items():
            self.dropped[reason] = self.dropped.get(reason, 0) + count
        for reason, count in (other.gaps or {}).items():
            self.gaps[reason] = self.gaps.get(reason, 0) + count


@define(eq=False)
class Audience:
    """The subscribers of one topic, those of equal view and framing side by side."""

    topic: str
    kind: Kind
    epoch: str = ""
    #: The last offset that was routed here; 0 before the first.
    routed: int = 0
    groups: dict[GroupKey, Group] = field(factory=dict)
    #: Subscriptions whose history is being read.
    joining: set[Subscription] = field(factory=set)
    size: int = 0
    #: How many subscriptions have the policy ``block``.
    blocking: int = 0
    #: While the topic is held back: what waits to be routed.
    held: deque[Publication] | None = None
    #: Set when a full subscriber may have room again, or has left.
    room: trio.Event = field(factory=trio.Event)
    #: Set when the topic is no longer held back.
    released: trio.Event = field(factory=trio.Event)
    gone: Totals = field(factory=Totals)
    #: Who waits until an offset has been routed.
    waiters: list[tuple[int, trio.Event]] = field(factory=list)

    def subscriptions(self) -> list[Subscription]:
        """All of them, those that are still joining last."""
        return [*(member for group in self.groups.values() for member in group.members), *self.joining]

    def admit(self, subscription: Subscription) -> None:
        """Put a subscription to those who see the same."""
        key = (subscription.view, subscription.outbox.wire.framing, subscription.max_rate)
        group = self.groups.get(key)
        if group is None:
            group = self.groups[key] = Group(*key)
        subscription.enter(group, self.routed)

    def expel(self, subscription: Subscription) -> list[Publication]:
        """Take a subscription out of its group; what was held for it there."""
        group = subscription.group
        assert group is not None
        held = subscription.exit()
        if not group.members:
            group.held.clear()  # the pacer may still have it on its list
            del self.groups[group.view, group.framing, group.max_rate]
        return held

    def reached(self, offset: int) -> None:
        """Messages have been routed up to here: wake who waited for that."""
        self.routed = offset
        if self.waiters:
            for wanted, event in self.waiters:
                if wanted <= offset:
                    event.set()
            self.waiters = [waiter for waiter in self.waiters if waiter[0] > offset]

    def full(self) -> list[Subscription]:
        """Those under ``block`` that would lose the next message."""
        return [
            member
            for group in self.groups.values()
            for member in group.members
            if member.overflow is Overflow.BLOCK and member.mode is Mode.ALL and not member.outbox.has_room()
        ]

    def totals(self) -> Totals:
        """What all of them, present and past, have counted."""
        totals = Totals()
        totals.add(self.gone)
        for member in self.subscriptions():
            totals.add(member)
        return totals

    def statistics(self) -> TopicStatistics:
        """A snapshot."""
        totals = self.totals()
        return TopicStatistics(
            self.topic, self.size, totals.delivered, dict(totals.dropped), totals.conflated, totals.filtered
        )
