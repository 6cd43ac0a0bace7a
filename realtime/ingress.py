"""The hub's front step: a bounded memory channel that makes publishers wait.

A broker first waits for room, then, with no checkpoint between, gives the message its offset and puts
it on the channel. So a publisher that is cancelled while it waits has published nothing, and the
order on the channel is the order of the offsets.
"""

from __future__ import annotations

import math

import trio

from realtime.history import Publication

__all__ = ["Ingress"]


class Ingress:
    """Publications on their way from the broker to the hub; bounded in messages and bytes."""

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self.max_messages = max_messages
        self.max_bytes = max_bytes
        self.messages = 0
        self.bytes = 0
        #: How many times a publisher had to wait.
        self.waits = 0
        # The bounds are kept here, in messages and in bytes, so the channel itself need not count again.
        self._send, self._receive = trio.open_memory_channel[Publication](math.inf)
        self._room = trio.lowlevel.ParkingLot()
        self._closed = False

    def has_room(self) -> bool:
        """Whether a publication may be put now. Those who already wait go first."""
        return self.messages < self.max_messages and self.bytes < self.max_bytes and not self._room

    def has_space(self) -> bool:
        """The same for one who has waited."""
        return self.messages < self.max_messages and self.bytes < self.max_bytes

    async def wait_room(self) -> None:
        """Wait until there is room, or until it is closed; a checkpoint only if it has to wait.

        Who returns from this puts a publication, waits again, or calls `pass_on`.
        """
        if self._closed or self.has_room():
            return
        self.waits += 1
        await self._room.park()
        while not (self._closed or self.has_space()):
            await self._room.park()

    def pass_on(self) -> None:
        """Let the next go who waits for room: this one has no use for it."""
        self._room.unpark()

    def close(self) -> None:
        """Wake all who wait for room: nobody takes from this any more."""
        self._closed = True
        self._room.unpark_all()

    def put_nowait(self, publication: Publication) -> None:
        """Put a publication; the caller has just seen that there is room."""
        self.messages += 1
        self.bytes += len(publication.data)
        self._send.send_nowait(publication)

    async def receive(self, most: int) -> list[Publication]:
        """Wait for at least one publication and take up to ``most``, in order."""
        batch = [await self._receive.receive()]
        try:
            while len(batch) < most:
                batch.append(self._receive.receive_nowait())
        except trio.WouldBlock:
            pass
        self.messages -= len(batch)
        self.bytes -= sum([len(publication.data) for publication in batch])
        if self._room:
            self._room.unpark(count=max(1, self.max_messages - self.messages))
        return batch
