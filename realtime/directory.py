"""Who is connected: every live connection, by its id and by its user."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterator
from typing import TYPE_CHECKING

from realtime.errors import CommandError, ErrorCode

if TYPE_CHECKING:
    from realtime.connection import Connection

__all__ = ["Directory", "no_such_connection"]


class Directory:
    """The connections of one server."""

    def __init__(self) -> None:
        self._by_id: dict[str, Connection] = {}
        self._by_user: dict[str, dict[Connection, None]] = {}
        self._ids: list[str] | None = None

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._by_id.values()))

    @property
    def users(self) -> int:
        """How many users have at least one connection."""
        return len(self._by_user)

    def get(self, connection_id: str) -> Connection | None:
        """The connection of this id, if it lives."""
        return self._by_id.get(connection_id)

    def find(self, connection_id: str) -> Connection:
        """The connection of this id. Raises `CommandError`."""
        connection = self._by_id.get(connection_id)
        if connection is None:
            raise no_such_connection()
        return connection

    def of_user(self, user: str) -> list[Connection]:
        """All connections of a user."""
        return list(self._by_user.get(user, ()))

    def count_of_user(self, user: str) -> int:
        """How many connections a user has."""
        return len(self._by_user.get(user, ()))

    def page(self, after: str, limit: int) -> list[Connection]:
        """A page of all connections, in the order of their ids."""
        if self._ids is None:  # sorted when somebody looks, and kept in order from then on
            self._ids = sorted(self._by_id)
        start = bisect_right(self._ids, after)
        return [self._by_id[name] for name in self._ids[start : start + limit]]

    def add(self, connection: Connection) -> None:
        """A connection begins."""
        self._by_id[connection.id] = connection
        if self._ids is not None:
            insort(self._ids, connection.id)
        self.log_in(connection)

    def log_in(self, connection: Connection) -> None:
        """A connection has a user now."""
        user = connection.session.identity.user
        if user is not None:
            self._by_user.setdefault(user, {})[connection] = None

    def remove(self, connection: Connection) -> None:
        """A connection has ended."""
        del self._by_id[connection.id]
        if self._ids is not None:
            self._ids.pop(bisect_right(self._ids, connection.id) - 1)
        user = connection.session.identity.user
        if user is not None:
            theirs = self._by_user[user]
            del theirs[connection]
            if not theirs:
                del self._by_user[user]


def no_such_connection() -> CommandError:
    """What is told of a connection that has ended, or that never was: nobody is to learn which."""
    return CommandError(ErrorCode.CONNECTION_NOT_FOUND, "there is no such connection, or no longer")
