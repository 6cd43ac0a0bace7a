"""What a program reads messages from: ``async for item in messages``."""

from __future__ import annotations

from typing import Any

import msgspec
import trio

from realtime.client.inbox import Inbox, Unread
from realtime.history import Position
from realtime.local import Lost, Message

__all__ = ["Messages"]


class Messages:
    """An async iterator over `Message` and `Lost`, in order.

    It ends when the server has ended the subscription, with `CommandError` where the server says why. Lost is what
    the server told as lost; what was missed while there was no connection and is not to be had any more; and, with
    the reason ``slow_reader``, what this reader was too slow for. A payload that is not of the ``type`` which was
    asked for raises `msgspec.ValidationError`; the next one can be read all the same.
    """

    def __init__(self, inbox: Inbox, decoder: msgspec.json.Decoder[Any], position: Position | None = None) -> None:
        self._inbox = inbox
        self._decoder = decoder
        #: That of the newest item that was read: give it as ``recover`` to go on from there another time.
        self.position = position

    def __aiter__(self) -> Messages:
        return self

    async def __anext__(self) -> Message | Lost:
        try:
            item = await self._inbox.take()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None
        if not isinstance(item, Unread):
            lost, epoch = item
            self.position = Position(epoch, lost.last)
            return lost
        self.position = Position(item.epoch, item.offset)
        data = self._decoder.decode(item.data)
        return Message(item.topic, item.offset, item.time, data, item.event, item.key)
