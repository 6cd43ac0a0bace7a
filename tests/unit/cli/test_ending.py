"""How a command ends that has failed in more than one place."""

from __future__ import annotations

import pytest
import trio

from realtime.cli.ending import Failure, NoConnection, run


async def fail(*errors: Exception) -> None:
    """All at once, as tasks that a cancellation does not reach any more."""

    async def raise_it(error: Exception) -> None:
        raise error

    async with trio.open_nursery() as outer, trio.open_nursery() as inner:
        for number, error in enumerate(errors):
            (inner if number % 2 else outer).start_soon(raise_it, error)


@pytest.mark.parametrize("_again", range(5))
def test_of_several_failures_the_first_on_the_command_line_is_told(_again: int) -> None:
    """One, whatever the order in which they came about."""
    with pytest.raises(Failure, match="the first"):
        run(lambda: fail(Failure("a third", place=2), Failure("the first", place=0), Failure("b", place=1)))


def test_refusal_is_told_rather_than_that_the_server_was_lost() -> None:
    """As the one came of the other."""
    with pytest.raises(Failure, match="NO: you"):
        run(lambda: fail(NoConnection("away"), Failure("you", code="NO", place=3)))


def test_bug_among_failures_is_not_hidden() -> None:
    """Its traceback is wanted."""
    with pytest.RaisesGroup(Failure, ValueError, flatten_subgroups=True):
        run(lambda: fail(Failure("a"), ValueError("a bug")))
