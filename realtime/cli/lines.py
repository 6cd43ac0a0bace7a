"""Messages out of lines of text, as they come."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import msgspec
import trio
from attrs import define, field

from realtime.cli.ending import Failure
from realtime.cli.given import decode

__all__ = ["JsonLines", "read_stdin"]

#: Far above what any server takes as one message.
_MAX_LINE_BYTES = 16 << 20
_READ_BYTES = 1 << 16

#: The next piece of a text; empty at its end.
Read = Callable[[], Awaitable[bytes]]


async def read_stdin() -> bytes:
    """What has come on standard input; waits for it in a thread, as a terminal or a file cannot be waited for."""
    return await trio.to_thread.run_sync(os.read, sys.stdin.fileno(), _READ_BYTES, abandon_on_cancel=True)


@define
class JsonLines:
    """Numbers lines and decodes each, as JSON or plain text; empty ones are left out. Raises `Failure` for others."""

    _text: bool = field(kw_only=True)
    _number: int = 0
    _rest: bytes = b""

    async def all(self, read: Read) -> AsyncIterator[tuple[int, Any]]:
        """Each line's number and payload."""
        async for batch in self.batches(read):
            for line in batch:
                yield line

    async def batches(self, read: Read) -> AsyncIterator[list[tuple[int, Any]]]:
        """The same, as many at once as there are. Before one that is no good come those before it."""
        while piece := await read():
            *complete, self._rest = (self._rest + piece).split(b"\n")
            if len(self._rest) > _MAX_LINE_BYTES:
                raise Failure(f"line {self._number + len(complete) + 1} has more than {_MAX_LINE_BYTES} bytes")
            for batch in self._decoded(complete):
                yield batch
        for batch in self._decoded([self._rest]):
            yield batch

    def _decoded(self, lines: list[bytes]) -> Iterator[list[tuple[int, Any]]]:
        batch: list[tuple[int, Any]] = []
        fault: Failure | None = None
        for line in lines:
            self._number += 1
            if not line.strip():
                continue
            try:
                batch.append((self._number, line.decode().rstrip("\r") if self._text else decode(line)))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                fault = Failure(f"line {self._number} is not {'UTF-8' if self._text else 'JSON'}: {error}")
                break
        if batch:
            yield batch
        if fault is not None:
            raise fault
