"""Which topics are the busiest, and which connections the slowest: for people who look.

Nothing is counted for this on the way of a message. Who looks compares where the topics stand with where they stood at
the look before, so it costs one walk a second, and only while somebody looks.
"""

from __future__ import annotations

from heapq import nlargest

import trio
from attrs import frozen

from realtime.audience import Audience
from realtime.directory import Directory
from realtime.hub import Hub
from realtime.statistics import ConnectionStatistics

__all__ = ["Activity", "Lookout", "TopicActivity"]

#: Whoever looks sooner sees the same again.
LEAST_SECONDS = 1.0
#: What lies further back says nothing of now.
MOST_SECONDS = 60.0
#: Topics that are ranked.
MOST = 100
_SLICE = 1000


@frozen
class TopicActivity:
    """A topic that somebody listens to."""

    topic: str
    subscribers: int
    messages_per_second: float
    #: Messages times subscribers, before filters and rates.
    deliveries_per_second: float


@frozen
class Activity:
    """What was going on."""

    #: Over which time the rates were measured; 0 at the first look, which has none.
    seconds: float
    topics: list[TopicActivity]
    #: Those whose queue has waited longest first, then those with the longest.
    connections: list[ConnectionStatistics]


class Lookout:
    """See the module. One for each engine; all who look share the walk."""

    def __init__(self, hub: Hub, connections: Directory) -> None:
        self._hub = hub
        self._connections = connections
        self._looked_at = -MOST_SECONDS
        self._seconds = 0.0
        #: Where each topic stood: its epoch and offset.
        self._stood: dict[str, tuple[str, int]] = {}
        self._busiest: list[TopicActivity] = []
        self._one_at_a_time = trio.Lock()

    async def look(self, topics: int, connections: int) -> Activity:
        """So many of the busiest topics and of the slowest connections."""
        async with self._one_at_a_time:
            await self._walk()
        slowest = nlargest(connections, self._connections, key=lambda each: (each.queue_age, each.outbox.bytes))
        return Activity(self._seconds, self._busiest[:topics], [each.statistics() for each in slowest])

    async def _walk(self) -> None:
        now = trio.current_time()
        seconds = now - self._looked_at
        if seconds < LEAST_SECONDS:
            return
        before = self._stood if seconds < MOST_SECONDS else {}
        stood: dict[str, tuple[str, int]] = {}
        found: list[tuple[float, Audience]] = []
        for count, audience in enumerate(self._hub.audiences(), 1):
            epoch, routed = before.get(audience.topic, ("", 0))
            if epoch == audience.epoch and audience.routed > routed:
                found.append(((audience.routed - routed) / seconds, audience))
            stood[audience.topic] = (audience.epoch, audience.routed)
            if not count % _SLICE:
                await trio.lowlevel.checkpoint()  # a hundred thousand of them must not hold up a tick
        # All at once: a look that is cancelled on the way leaves things as they were.
        self._looked_at, self._stood = now, stood
        self._seconds = round(seconds, 3) if seconds < MOST_SECONDS else 0.0
        busiest = nlargest(MOST, found, key=lambda each: each[0] * each[1].size)
        self._busiest = [
            TopicActivity(audience.topic, audience.size, round(rate, 3), round(rate * audience.size, 3))
            for rate, audience in busiest
        ]
