"""When rate-limited groups let go of what they hold.

::

    run
    '- one task: sleeps until the nearest group is due, releases, flushes

One clock for all groups: their times are rounded up to a common grid, so that a thousand groups that are due within
the same two milliseconds wake the process once.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Awaitable, Callable
from itertools import count

import trio

from realtime.audience import Audience
from realtime.group import Group
from realtime.history import Publication

__all__ = ["Pacer"]

_GRID_SECONDS = 0.002


class Pacer:
    """See the module."""

    def __init__(
        self, release: Callable[[Audience, Group, Publication], None], flush: Callable[[], Awaitable[None]]
    ) -> None:
        """``release`` offers a message to the members of a group; ``flush`` has what was offered written."""
        self._release = release
        self._flush = flush
        self._due: list[tuple[float, int, Audience, Group]] = []
        self._ties = count()
        self._wakeup = trio.Event()

    def put(self, audience: Audience, group: Group) -> None:
        """See to it that what the group holds goes when it may: at once, if it has been quiet. The caller flushes."""
        if group.scheduled or not group.held:
            return
        now = trio.current_time()
        if now >= group.free_at:
            self._release(audience, group, group.release(now))
        if group.held:
            self._schedule(audience, group)

    def wake(self) -> None:
        """Have the task flush: something was offered by one who cannot wait."""
        self._wakeup.set()

    async def run(self) -> None:
        """Release until cancelled."""
        while True:
            with trio.move_on_at(self._due[0][0] if self._due else math.inf):
                await self._wakeup.wait()
            self._wakeup = trio.Event()
            now = trio.current_time()
            while self._due and self._due[0][0] <= now:
                _, _, audience, group = heapq.heappop(self._due)
                group.scheduled = False
                if group.held:
                    self._release(audience, group, group.release(now))
                if group.held:
                    self._schedule(audience, group)
            await self._flush()

    def _schedule(self, audience: Audience, group: Group) -> None:
        group.scheduled = True
        due = math.ceil(group.free_at / _GRID_SECONDS) * _GRID_SECONDS
        first = not self._due or due < self._due[0][0]
        heapq.heappush(self._due, (due, next(self._ties), audience, group))
        if first:
            self._wakeup.set()
