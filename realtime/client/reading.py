"""What a program reads messages from: ``async for item in messages``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec
import trio

from realtime.client.inbox import Inbox, Unread
from realtime.client.words import Presence, View
from realtime.errors import CommandError, ErrorCode
from realtime.history import Position
from realtime.local import Lost, Message

__all__ = ["Messages"]


class Messages:
    """An async iterator over `Message` and `Lost`, in order.

    It ends when the server has ended the subscription, with `CommandError` where the server says why. Lost is what
    the server told as lost; what was missed while there was no connection and is not to be had any more; and, with
    the reason ``slow_reader``, what this reader was too slow for. A payload that is not of the ``type`` which was
    asked for raises `msgspec.ValidationError`; the next one can be read all the same. `Presence` comes where the
    reader has asked for it.
    """

    def __init__(
        self,
        inbox: Inbox,
        decoder: msgspec.json.Decoder[Any],
        position: Position | None = None,
        update: Callable[[View, float], Awaitable[None]] | None = None,
    ) -> None:
        self._inbox = inbox
        self._decoder = decoder
        self._update = update
        #: That of the newest item that was read: give it as ``recover`` to go on from there another time.
        self.position = position

    async def update(
        self,
        *,
        fields: Iterable[str] | None = None,
        filter: Any = None,  # noqa: A002 - its name in the protocol
        mode: str | None = None,
        max_rate: float | None = None,
        timeout_seconds: float = 10.0,
    ) -> None:
        """See the topic in another way from the next message on, without losing the place.

        What is left out is taken away, but for ``mode``, which stays. All who read this topic of this client see it so.
        Raises `CommandError`, also for the topics that the server has placed us in, which cannot be told apart here.
        """
        if self._update is None:
            raise CommandError(ErrorCode.BAD_REQUEST, "topics of the server's choice have no view together")
        await self._update(View.of(fields=fields, filter=filter, mode=mode, max_rate=max_rate), timeout_seconds)

    def __aiter__(self) -> Messages:
        return self

    async def __anext__(self) -> Message | Lost | Presence:
        try:
            item = await self._inbox.take()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None
        if isinstance(item, Presence):
            return item
        if not isinstance(item, Unread):
            lost, epoch = item
            self.position = Position(epoch, lost.last)
            return lost
        self.position = Position(item.epoch, item.offset)
        data = self._decoder.decode(item.data)
        return Message(item.topic, item.offset, item.time, data, item.event, item.key)
