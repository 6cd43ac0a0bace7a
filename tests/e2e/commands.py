"""Running the command line: with pipes, and in a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from attrs import define, field

from tests.e2e.processes import clean_environment
from tests.peers import DEADLINE_SECONDS

__all__ = ["Ended", "Terminal", "in_terminal", "realtime", "running"]


@define
class Ended:
    """What a command has left behind."""

    code: int
    out: str
    err: str

    @property
    def faults(self) -> str:
        """What it told on standard error, but for a bench's words about a machine that was too busy for it."""
        return re.sub("realtime: the bench (itself was|fell behind) .*\n", "", self.err)


async def realtime(*arguments: str, stdin: bytes = b"", seconds: float = 20.0, **environment: str) -> Ended:
    """Run ``realtime`` to its end."""
    with trio.fail_after(seconds):
        ended = await trio.run_process(
            [sys.executable, "-m", "realtime", *arguments],
            stdin=stdin,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=clean_environment(**environment),
        )
    return Ended(ended.returncode, ended.stdout.decode(), ended.stderr.decode())


@define
class Terminal:
    """A command with something that it has printed so far."""

    process: trio.Process
    text: str = ""
    errors: str = ""
    changed: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot)
    _keyboard: int = -1

    def press(self, keys: bytes) -> None:
        """Type."""
        os.write(self._keyboard, keys)

    async def wait_text(self, wanted: str, *, errors: bool = False, after: int = 0) -> None:
        """Wait until this has been printed, behind so many characters."""
        with trio.move_on_after(DEADLINE_SECONDS):
            while wanted not in (self.errors if errors else self.text)[after:]:
                await self.changed.park()
            return
        raise AssertionError(f"no {wanted!r} in {self.text!r}, {self.errors!r}")

    async def wait(self) -> int:
        """Wait for the end; the exit code."""
        with trio.fail_after(DEADLINE_SECONDS):
            return await self.process.wait()


@asynccontextmanager
async def running(*arguments: str, **environment: str) -> AsyncIterator[Terminal]:
    """``realtime`` with pipes, ended by force if the block leaves it running."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "realtime", *arguments],
        stdin=-3,
        stdout=-1,
        stderr=-1,
        env=clean_environment(**environment),
    )
    terminal = Terminal(process)

    async def collect(stream: trio.abc.ReceiveStream, name: str) -> None:
        async for data in stream:
            setattr(terminal, name, getattr(terminal, name) + data.decode())
            terminal.changed.unpark_all()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(collect, process.stdout, "text")
        nursery.start_soon(collect, process.stderr, "errors")
        try:
            yield terminal
        finally:
            await _end(process)
            nursery.cancel_scope.deadline = trio.current_time() + DEADLINE_SECONDS  # its last words may be on the way


@asynccontextmanager
async def in_terminal(*arguments: str, **environment: str) -> AsyncIterator[Terminal]:
    """The same in a terminal of its own, 120 columns wide."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "realtime", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        env=clean_environment(TERM="xterm-256color", **environment),
    )
    os.close(theirs)
    terminal = Terminal(process, keyboard=ours)

    async def collect() -> None:
        while True:
            await trio.lowlevel.wait_readable(ours)
            try:
                data = os.read(ours, 65536)
            except OSError:  # Linux says so where the last other end is closed
                return
            terminal.text += data.decode(errors="replace")
            terminal.changed.unpark_all()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(collect)
        try:
            yield terminal
        finally:
            await _end(process)
            nursery.cancel_scope.deadline = trio.current_time() + DEADLINE_SECONDS  # its last words may be on the way
    os.close(ours)


async def _end(process: trio.Process) -> None:
    with trio.CancelScope(shield=True):
        if process.returncode is None:
            process.kill()
        await process.wait()
