"""What a subscription is asked to be: by a command, by a URL, by a route, by the server itself."""

from __future__ import annotations

from typing import TypeGuard

from attrs import frozen
from msgspec import Raw, UnsetType

from realtime.filters import parse_filter
from realtime.history import Since
from realtime.messages import Wish
from realtime.topics import Kind, Mode
from realtime.views import EVERYTHING, View

__all__ = ["Subscribe", "is_given"]


@frozen
class Subscribe:
    """A subscription that is asked for, in words of the house."""

    topic: str
    view: View = EVERYTHING
    mode: Mode | None = None
    since: Since | None = None
    max_rate: float | None = None

    @classmethod
    def of(cls, wish: Wish) -> Subscribe:
        """What a wish in words of the wire asks for. Raises `CommandError`."""
        return cls(
            wish.topic,
            View.of(wish.fields, parse_filter(wish.filter) if is_given(wish.filter) else None),
            None if wish.mode is None else Mode(wish.mode),
            wish.since(),
            wish.max_rate,
        )

    def effective_mode(self, kind: Kind) -> Mode:
        """How it is delivered: with a ``max_rate`` the newest value wins, whatever was asked for."""
        return Mode.LATEST if self.max_rate is not None else self.mode or kind.mode


def is_given(condition: Raw | UnsetType) -> TypeGuard[Raw]:
    """Whether this is a filter, and not the word for none."""
    return isinstance(condition, Raw) and bytes(condition) != b"null"
