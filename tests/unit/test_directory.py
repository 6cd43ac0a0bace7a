"""Who is connected."""

from __future__ import annotations

import pytest

from realtime.auth import ANONYMOUS, Identity
from realtime.directory import Directory
from realtime.errors import CommandError


class FakeConnection:
    """What the directory looks at."""

    def __init__(self, name: str, user: str | None = None) -> None:
        self.id = name
        self.session = self
        self.identity = Identity(user) if user else ANONYMOUS


def directory(*connections: FakeConnection) -> Directory:
    """A directory of these."""
    made = Directory()
    for connection in connections:
        made.add(connection)
    return made


def test_connection_is_found_by_its_id_as_long_as_it_lives():
    """Of one that is gone nobody learns that it was there."""
    connection = FakeConnection("c_1")
    made = directory(connection)
    assert made.get("c_1") is made.find("c_1") is connection
    made.remove(connection)
    assert made.get("c_1") is None
    with pytest.raises(CommandError, match="CONNECTION_NOT_FOUND"):
        made.find("c_1")
    assert len(made) == 0


def test_user_is_found_on_all_its_connections():
    """A user without one is no user."""
    first, second, other = FakeConnection("c_1", "7"), FakeConnection("c_2", "7"), FakeConnection("c_3", "8")
    made = directory(first, second, other, FakeConnection("c_4"))
    assert made.of_user("7") == [first, second]
    assert (made.of_user("9"), made.users, len(made)) == ([], 2, 4)
    made.remove(first)
    assert made.of_user("7") == [second]
    made.remove(second)
    assert (made.of_user("7"), made.users) == ([], 1)


def test_connection_that_logs_in_is_found_by_its_user():
    """However often it does."""
    connection = FakeConnection("c_1")
    made = directory(connection)
    connection.identity = Identity("7")
    made.log_in(connection)
    made.log_in(connection)
    assert (made.of_user("7"), made.users) == ([connection], 1)
    made.remove(connection)
    assert made.users == 0


def test_pages_are_sorted_and_follow_what_comes_and_goes():
    """Also between one page and the next."""
    connections = {number: FakeConnection(f"c_{number}") for number in (5, 1, 3)}
    made = directory(*connections.values())
    assert [one.id for one in made.page("", 2)] == ["c_1", "c_3"]
    made.add(FakeConnection("c_4"))
    made.remove(connections[3])
    assert [one.id for one in made.page("c_3", 9)] == ["c_4", "c_5"]
    assert [one.id for one in made.page("", 1)] == ["c_1"]


def test_those_who_go_while_all_are_looked_at_do_no_harm():
    """Closing everybody removes them one after the other."""
    made = directory(*(FakeConnection(f"c_{number}") for number in range(5)))
    for connection in made:
        made.remove(connection)
    assert len(made) == 0
