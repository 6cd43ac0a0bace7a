"""Subscribers of one topic who see the same, so that what one of them gets is made once for all.

Also what is counted is counted once for all, as far as it can be: a message that the view does not show costs a group
of ten thousand one addition. A member notes where the counters stood when it came.

A group with a ``max_rate`` holds messages back and lets one go each ``1 / max_rate`` seconds; of those that it holds,
the newest of each key stays. So a thousand ticks a second cost a thousand subscribers at five a second no more than
five deliveries each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attrs import define, field

from realtime.history import Publication
from realtime.views import View
from realtime.wire import Framing

if TYPE_CHECKING:
    from realtime.subscription import Subscription

__all__ = ["Group", "GroupKey"]

GroupKey = tuple[View, "Framing | None", "float | None"]


@define(eq=False)
class Group:
    """See the module."""

    view: View
    framing: Framing | None
    max_rate: float | None = None
    members: dict[Subscription, None] = field(factory=dict)
    #: Messages that the view did not show.
    hidden: int = 0
    #: Messages that were held, however long.
    shown: int = 0
    #: Those that are held now: the newest of each key, oldest first.
    held: dict[str | None, Publication] = field(factory=dict)
    #: When the next message may go.
    free_at: float = 0.0
    #: Whether the pacer will come for the next message.
    scheduled: bool = False

    def hold(self, publications: Sequence[Publication]) -> None:
        """Take messages in; of each key only the newest stays."""
        for publication in publications:
            if self.view.shows(publication):
                self.shown += 1
                self.held.pop(publication.key, None)
                self.held[publication.key] = publication  # at the end: offsets only grow
            else:
                self.hidden += 1

    def release(self, now: float) -> Publication:
        """The message that goes now; there must be one."""
        assert self.max_rate is not None
        self.free_at = now + 1 / self.max_rate
        return self.held.pop(next(iter(self.held)))

    def held_after(self, offset: int) -> list[Publication]:
        """The held messages that are news to a member who came at ``offset``."""
        return [publication for publication in self.held.values() if publication.offset > offset]
