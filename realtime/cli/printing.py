"""Printing to standard output, which may be a pipe that is full or closed, or a disk that is full."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
import msgspec
import trio

from realtime.cli.ending import Failure, silence_stdout
from realtime.cli.output import seen_json

__all__ = ["or_failure", "put", "put_json", "say"]

#: As much as a pipe takes for certain that can be written to at all (POSIX).
_PIPE_BYTES = select.PIPE_BUF


@contextmanager
def or_failure() -> Iterator[None]:
    """Around what prints to standard output: where that takes nothing, as on a full disk, it is a `Failure`."""
    try:
        yield
    except BrokenPipeError:
        raise  # whoever read us has had enough, which is no failure
    except OSError as error:
        silence_stdout()
        raise Failure(f"standard output: {error.strerror or error}") from None


def say(line: str) -> None:
    """Print a line. Raises `Failure`."""
    with or_failure():
        click.echo(line.encode())


def put_json(value: Any) -> None:
    """Print a value as one line of JSON. Raises `Failure`."""
    say(seen_json(msgspec.json.encode(value).decode()))


async def put(line: str) -> None:
    """Print a line to standard output, and let others run while whoever reads it takes his time.

    Raises `BrokenPipeError` and `Failure`. Cancelled, a part of the line may be printed.
    """
    data = f"{line}\n".encode()
    descriptor = sys.stdout.fileno()
    while data:
        await _wait_taken(descriptor)
        with or_failure():
            data = data[os.write(descriptor, data[:_PIPE_BYTES]) :]


async def _wait_taken(descriptor: int) -> None:
    try:
        await trio.lowlevel.wait_writable(descriptor)
    except PermissionError:  # a file, which takes everything
        await trio.lowlevel.checkpoint()
