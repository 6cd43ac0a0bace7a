"""Which topics have been created, for the kinds whose topics must be.

A topic of any other kind comes into being by itself, with its first message or subscriber.
"""

from __future__ import annotations

from bisect import bisect_right, insort

from realtime.errors import CommandError, ErrorCode
from realtime.topics import Kind, Kinds

__all__ = ["Registry"]


class Registry:
    """The created topics of one server."""

    def __init__(self, kinds: Kinds, most: int) -> None:
        self._kinds = kinds
        self._most = most
        self._created: set[str] = set()
        #: Those of them that are being taken away.
        self._closing: set[str] = set()
        self._sorted: list[str] = []
        #: How many were created and removed so far.
        self.created = 0
        self.removed = 0

    def __len__(self) -> int:
        return len(self._created)

    def __contains__(self, topic: str) -> bool:
        return topic in self._created

    def create(self, topic: str) -> bool:
        """Create a topic; False where it is there already. Raises `CommandError`."""
        kind, _ = self._kinds.split(topic)
        if not kind.must_exist:
            raise CommandError(ErrorCode.BAD_REQUEST, f"{kind.name} topics come into being by themselves")
        if topic in self._closing:
            raise CommandError(ErrorCode.UNAVAILABLE, "this topic is being removed", retry_after=1)
        if topic in self._created:
            return False
        if len(self._created) >= self._most:
            raise CommandError(ErrorCode.LIMIT_EXCEEDED, "the server has as many topics as it may")
        self._created.add(topic)
        insort(self._sorted, topic)
        self.created += 1
        return True

    def close(self, topic: str) -> None:
        """Begin to take a topic away: nobody joins it any more. Raises `CommandError` where it is not there."""
        self.check(self._kinds.split(topic)[0], topic)
        if topic in self._created:
            self._closing.add(topic)

    def remove(self, topic: str) -> None:
        """Take a topic away, whether `close` was called or not. Raises `CommandError` where it is not there."""
        if topic not in self._created:
            self.check(self._kinds.split(topic)[0], topic)
            return
        self._created.discard(topic)
        self._closing.discard(topic)
        self._sorted.pop(bisect_right(self._sorted, topic) - 1)
        self.removed += 1

    def check(self, kind: Kind, topic: str) -> None:
        """Raise `CommandError` where the topic must exist and does not, or not for long."""
        if kind.must_exist and (topic not in self._created or topic in self._closing):
            raise CommandError(kind.missing_code, f"there is no such {kind.name}")

    def names(self, after: str, limit: int) -> list[str]:
        """A page of the created topics, sorted."""
        start = bisect_right(self._sorted, after)
        return self._sorted[start : start + limit]
