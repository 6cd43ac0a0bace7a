"""The policy ``block``: a topic is held back while one of its subscribers must not lose what it has no room for.

::

    hold    one task for each topic that is held back, in the hub's nursery

Publishers to such a topic wait, up to a deadline. What was published before they had to is held here, and delivered
message by message as there is room for each, or as its deadline passes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

import trio

from realtime.audience import Audience
from realtime.errors import CommandError, ErrorCode
from realtime.history import Publication
from realtime.subscription import Subscription

__all__ = ["Holder", "room_signal"]


class Holder:
    """See the module. The hub's own steps are given to it."""

    def __init__(
        self,
        deliver: Callable[[Audience, list[Publication]], None],
        flush: Callable[[], Awaitable[None]],
        release: Callable[[Audience], None],
    ) -> None:
        """``release`` is told of a topic that is held back no longer."""
        self._deliver = deliver
        self._flush = flush
        self._release = release

    def route(self, audience: Audience, publications: list[Publication], nursery: trio.Nursery) -> None:
        """Deliver one by one until a subscriber under ``block`` is full; then a task holds the rest."""
        for index, publication in enumerate(publications):
            if audience.full():
                audience.held = deque(publications[index:])
                audience.room = trio.Event()
                audience.released = trio.Event()
                nursery.start_soon(self._hold, audience)
                return
            self._deliver(audience, [publication])

    async def wait(self, audience: Audience, timeout: float) -> None:
        """Wait while a topic is held back. Raises `CommandError` (``TIMEOUT``) after ``timeout`` seconds."""
        with trio.move_on_after(timeout) as scope:
            while audience.held is not None:
                await audience.released.wait()
        if scope.cancelled_caught:
            raise CommandError(ErrorCode.TIMEOUT, "a subscriber of the topic is full", retry_after=timeout)

    async def _hold(self, audience: Audience) -> None:
        """Wait for room, up to the kind's deadline for each message, and deliver what was held."""
        held = audience.held
        assert held is not None
        given_up: set[Subscription] = set()
        while held:
            with trio.move_on_after(audience.kind.block_timeout_seconds) as scope:
                while any(member not in given_up for member in audience.full()):
                    await audience.room.wait()
                    audience.room = trio.Event()
            if scope.cancelled_caught:
                # These lose what follows until they have room again; the loss is told to them as a gap.
                given_up.update(audience.full())
            publication = held.popleft()
            if publication.epoch == audience.epoch:  # else the topic was removed meanwhile, and has come back
                self._deliver(audience, [publication])
            await self._flush()
            given_up.intersection_update(audience.full())
        audience.held = None
        audience.released.set()
        self._release(audience)


def room_signal(audience: Audience, subscription: Subscription) -> Callable[[], None]:
    """What a subscriber's outbox calls when it has room again."""

    def signal() -> None:
        if audience.held is not None and subscription.outbox.has_room():
            audience.room.set()

    return signal
