"""The port between the house and the street: what a transport implements.

A `Framing` turns one push into bytes that are ready for the network. It is shared by all connections
of its kind and holds no state, so what it makes for one subscriber of a view serves them all.

A `Wire` carries bytes of one connection. Its sending half is built for a hub that writes to thousands
of wires in one turn of the loop: `Wire.write_nowait` never waits, and a wire that cannot take more
says so with `Wire.busy`.
"""

from __future__ import annotations

from typing import Protocol

from realtime.closing import CloseReason

__all__ = ["Framing", "LineFraming", "Receiver", "Wire"]


class Framing(Protocol):
    """How pushes become bytes on one kind of wire."""

    @property
    def cursors(self) -> bool:
        """Whether the peer is told cursors, because it cannot remember positions by itself."""
        ...

    @property
    def stamped(self) -> bool:
        """Whether every message must carry the cursor of all topics of its connection.

        Where that is so, the outbox writes `stamp` in front of each message; where not, messages go out as framed.
        """
        ...

    @property
    def several(self) -> Framing:
        """The framing for a connection that has more than one topic."""
        ...

    def message(self, text: bytes, topic: str, epoch: str, offset: int) -> bytes:
        """The bytes of a message push, given its JSON text."""
        ...

    def push(self, kind: str, text: bytes, cursor: str | None = None) -> bytes:
        """The bytes of any other push, given its type and JSON text; ``cursor`` where it moves the peer's."""
        ...

    def stamp(self, cursor: str) -> bytes:
        """The bytes that go in front of a message to tell ``cursor``."""
        ...


class LineFraming:
    """One JSON text on a line: for wires that hand whole messages on, as in memory."""

    cursors = False
    stamped = False

    @property
    def several(self) -> Framing:
        """The same."""
        return self

    def message(self, text: bytes, topic: str, epoch: str, offset: int) -> bytes:  # noqa: ARG002
        """The text and a line feed, which no text on one line contains."""
        return text + b"\n"

    def push(self, kind: str, text: bytes, cursor: str | None = None) -> bytes:  # noqa: ARG002
        """The text and a line feed."""
        return text + b"\n"

    def stamp(self, cursor: str) -> bytes:  # noqa: ARG002
        """Nothing: the peer knows its positions from the messages."""
        return b""


class Receiver(Protocol):
    """What a wire hands its incoming messages to."""

    async def receive(self, text: bytes | memoryview) -> None:
        """Take one text message; the wire reads no further until this returns."""
        ...

    def quiet(self) -> None:
        """All messages that had arrived have been handed over."""
        ...

    def pinged(self) -> bool:
        """A ping of the wire's own has come; whether it is to be answered."""
        ...


class Wire(Protocol):
    """The bytes of one connection, both ways.

    Sending is done by one owner at a time: whoever finds ``busy`` false may call `write_nowait`; once it is
    true, only the connection's sender touches the wire, until it has drained it.
    """

    #: None: the reader is in this process and takes messages as they are.
    framing: Framing | None
    #: Seconds between two calls of `heartbeat`; None: the connection's own ping interval.
    heartbeat_interval: float | None
    #: Whether silence of the peer means that it is dead.
    peer_answers: bool
    #: Whether a peer whose first topics are refused is told so on the open wire. Else the wire is not opened.
    refused_in_band: bool

    @property
    def busy(self) -> bool:
        """Whether `write_nowait` must not be called now."""
        ...

    @property
    def progress(self) -> int:
        """Bytes that have left so far; a stall is seen as this standing still."""
        ...

    @property
    def heard_at(self) -> float:
        """When bytes last came in from the peer, by Trio's clock."""
        ...

    async def open(self) -> bytes:
        """The peer is admitted: what it is to be sent before everything else, so that it leaves in the same write.

        Called once, before any byte is written. Raises `WireError`.
        """
        ...

    def write_nowait(self, data: bytes) -> bool:
        """Take all of ``data`` without waiting; False when this left the wire busy.

        Never raises: a wire that finds itself broken drops the bytes, and `read` tells the connection.
        """
        ...

    async def drain(self) -> None:
        """Wait until what `write_nowait` took has left. Raises `WireError`."""
        ...

    async def write(self, data: bytes) -> None:
        """Wait until ``data`` has left. Raises `WireError`; cancelled, part of the data may have left."""
        ...

    def heartbeat(self, ping: bytes) -> bytes:
        """The bytes that keep the path open and make the peer answer; ``ping`` is a push as this wire frames it."""
        ...

    async def read(self, receiver: Receiver) -> CloseReason:
        """Hand over every message until the peer is done; returns why it ended."""
        ...

    async def close(self, reason: CloseReason) -> None:
        """Say goodbye in the wire's own way and release it; not called for a peer that does not listen.

        The caller sets the deadline. Raises `WireError`.
        """
        ...

    def abort(self) -> None:
        """Release the wire at once, saying nothing. Idempotent, also after `close`."""
        ...
