"""Server-Sent Events as a client reads them, by the rules of the HTML standard: bytes in, events out."""

from __future__ import annotations

import re
from collections.abc import Iterator

from attrs import frozen

__all__ = ["EventStream", "ServerEvent"]

_LINE_END = re.compile(rb"\r\n|\n|\r(?!\Z)")


@frozen
class ServerEvent:
    """One event."""

    type: str
    data: bytes
    #: The ``id:`` of this event or, where it has none, of the last that had one.
    id: str


class EventStream:
    """See the module. ``max_bytes`` bounds what is kept of an event that is not complete."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        self._type = ""
        #: Each line with its end: so an empty one takes its place as well.
        self._data = bytearray()
        self._id = ""

    def feed(self, chunk: bytes) -> Iterator[ServerEvent]:
        """The events that are complete now. Raises `ValueError` for one that is too long."""
        self._buffer += chunk
        start = 0
        for end in _LINE_END.finditer(self._buffer):
            line = bytes(self._buffer[start : end.start()])
            start = end.end()
            if line:
                self._take(line)
            elif self._data:
                yield ServerEvent(self._type or "message", bytes(self._data[:-1]), self._id)
            if not line:
                self._type, self._data = "", bytearray()
        del self._buffer[:start]
        if len(self._buffer) + len(self._data) > self._max_bytes:
            raise ValueError("an event that is too long")

    def _take(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data += value + b"\n"
        elif name == b"event":
            self._type = value.decode(errors="replace")
        elif name == b"id" and b"\0" not in value:
            self._id = value.decode(errors="replace")
