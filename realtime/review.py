"""Whether peers may still have what they have, after the rules or what is behind them have changed.

::

    review
    '- one task for each connection and poll that a function of the user's own must be asked about, a few at a time

What a rule takes away is gone before the first of them is asked. All of them together have a deadline: whoever was not
decided about by then loses what would have had to be asked, and may come back and ask again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

import trio

__all__ = ["Reviewed", "review"]

#: Questions that are asked at once: a database is behind them.
AT_ONCE = 50
#: After this nobody keeps a right that could not be confirmed.
SECONDS = 30.0
#: Peers that are looked at between two checkpoints.
_SLICE = 100


class Reviewed(Protocol):
    """Somebody who has topics: a connection's membership, or a poll."""

    def withdraw(self, *, unknown: bool) -> None:
        """End what is denied by now; with ``unknown`` also what would have to be asked about."""
        ...

    async def review(self) -> None:
        """Ask, and end what is denied."""
        ...


async def review(peers: Iterable[Reviewed], *, asks: bool) -> None:
    """Look at all of these; ``asks``: there is a function that has to be waited for."""
    everybody = list(peers)
    await _each(everybody, lambda peer: peer.withdraw(unknown=False))
    if not asks:
        return
    with trio.move_on_after(SECONDS) as scope:
        await _ask(everybody)
    if scope.cancelled_caught:
        await _each(everybody, lambda peer: peer.withdraw(unknown=True))


async def _each(peers: list[Reviewed], act: Callable[[Reviewed], None]) -> None:
    for count, peer in enumerate(peers, 1):
        act(peer)
        if not count % _SLICE:
            await trio.lowlevel.checkpoint()  # ten thousand of them must not hold up a tick


async def _ask(peers: list[Reviewed]) -> None:
    limit = trio.CapacityLimiter(AT_ONCE)

    async def ask(work: Callable[[], Awaitable[None]]) -> None:
        async with limit:
            await work()

    async with trio.open_nursery() as nursery:
        for peer in peers:
            nursery.start_soon(ask, peer.review)
