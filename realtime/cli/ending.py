"""How a command ends: its exit code, one line that says why, and signals."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from enum import IntEnum
from typing import ClassVar

import click
import trio

from realtime.engine import lone_exceptions_bare
from realtime.errors import ErrorCode

__all__ = ["Exit", "Failure", "NoConnection", "first_of", "leaves", "run", "silence_stdout", "tell"]

_LOG_IN = "set REALTIME_TOKEN or REALTIME_KEY"
#: What to do about a refusal, where there is something that can be done here.
_HINTS: dict[str, str] = {
    ErrorCode.AUTH_REQUIRED: _LOG_IN,
    ErrorCode.TOKEN_EXPIRED: "get a new one; `realtime token` makes one for development",
    ErrorCode.PERMISSION_DENIED: "`realtime check-access` shows which rule decides, given the server's configuration",
    ErrorCode.INVALID_TOPIC: "a topic is kind:name, as room:lobby",
}


class Exit(IntEnum):
    """The exit codes of every command; 2 for a wrong command line is click's."""

    DONE = 0
    FAILED = 1
    NO_CONNECTION = 3
    INTERRUPTED = 130
    TERMINATED = 143


class Failure(click.ClickException):
    """A command has failed, and says so in one line: ``realtime: CODE: message (hint)``."""

    exit_code: ClassVar[int] = Exit.FAILED

    def __init__(self, message: str, *, code: str | None = None, hint: str | None = None, place: int = 0) -> None:
        #: Of failures that come at once the one with the lowest place is told.
        self.place = place
        hint = hint or _HINTS.get(code or "")
        super().__init__("".join((f"{code}: " if code else "", message, f" ({hint})" if hint else "")))

    def show(self, file: object = None) -> None:  # noqa: ARG002
        """Print it, as click wants it done."""
        tell(self.message)


class NoConnection(Failure):
    """The server could not be reached, or was lost."""

    exit_code: ClassVar[int] = Exit.NO_CONNECTION

    def __init__(self, message: str, *, code: str = ErrorCode.UNAVAILABLE) -> None:
        super().__init__(message, code=code, hint="is the server running there? see --url and REALTIME_URL")


def tell(text: str) -> None:
    """A line for people, beside what the command prints."""
    # Some of it comes over the network, and must not steer a terminal.
    line = " ".join(text.split())
    click.echo(f"realtime: {''.join(char if char.isprintable() else '?' for char in line)}", err=True)


def run(work: Callable[[], Awaitable[None]]) -> None:
    """Do it in a loop of its own. At SIGINT or SIGTERM it is cancelled, and the process ends with the code for that.

    Raises `Failure`; of several at once one, as there is one line to say why.
    """
    try:
        received = trio.run(_until_signalled, work)
    except BaseExceptionGroup as group:
        failures = [leaf for leaf in leaves(group) if isinstance(leaf, Failure)]
        if len(failures) < len(list(leaves(group))):
            raise  # a bug, which is not to be hidden by what else went wrong
        raise first_of(failures) from None
    if received is not None:
        sys.exit(128 + received)


async def _until_signalled(work: Callable[[], Awaitable[None]]) -> signal.Signals | None:
    received = None

    async def watch(scope: trio.CancelScope, task_status: trio.TaskStatus[None]) -> None:
        nonlocal received
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for number in signals:
                received = signal.Signals(number)
                scope.cancel()

    with lone_exceptions_bare():
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: watch(nursery.cancel_scope, task_status))
            await work()
            nursery.cancel_scope.cancel()
    return received


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The exceptions in a group, however deep; another one by itself."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from leaves(each)
    else:
        yield error


def first_of(failures: Iterable[Failure]) -> Failure:
    """The one to tell, whatever the order in which they came about."""
    # What the server refuses says more than that it was lost then.
    return min(failures, key=lambda failure: (isinstance(failure, NoConnection), failure.place, failure.message))


def silence_stdout() -> None:
    """What is still to be flushed goes nowhere: else Python complains of a closed pipe or a full disk at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
