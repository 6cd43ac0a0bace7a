"""The subscribers of one topic, as the hub sees them, and what they add up to."""

from __future__ import annotations

from collections import deque

import trio
from attrs import define, field, frozen

from realtime.history import Publication
from realtime.subscription import Subscription
from realtime.topics import Kind, Mode, Overflow
from realtime.views import View
from realtime.wire import Framing

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

    def add(self, other: Subscription | Totals) -> None:
        """Count in what another has counted."""
        self.delivered += other.delivered
        self.conflated += other.conflated
        self.filtered += other.filtered
        for reason, count in other.dropped.items():
            self.dropped[reason] = self.dropped.get(reason, 0) + count


@define(eq=False)
class Audience:
    """The subscribers of one topic, those of equal view and framing side by side."""

    topic: str
    kind: Kind
    epoch: str = ""
    #: The last offset that was routed here; 0 before the first.
    routed: int = 0
    groups: dict[tuple[View, Framing | None], dict[Subscription, None]] = field(factory=dict)
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

    def subscriptions(self) -> list[Subscription]:
        """All of them, those that are still joining last."""
        return [*(member for group in self.groups.values() for member in group), *self.joining]

    def full(self) -> list[Subscription]:
        """Those under ``block`` that would lose the next message."""
        return [
            member
            for group in self.groups.values()
            for member in group
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
