"""Publishing, for everybody who has something to say: handlers, feeds, other threads, the transports.

All ways end in `Publisher.publish_json`: check the topic, wait where a topic is held back by a subscriber
that must not lose anything, hand the message to the broker.
"""

from __future__ import annotations

from typing import Any

import msgspec
import trio

from realtime.broker import Broker, Draft
from realtime.errors import CommandError, ErrorCode
from realtime.history import Position
from realtime.hub import Hub
from realtime.messages import compact
from realtime.topics import Kinds, Overflow

__all__ = ["Publisher"]

_json = msgspec.json.Encoder()


class Publisher:
    """See the module. Asks no permissions: whoever holds one may publish anywhere."""

    def __init__(self, kinds: Kinds, broker: Broker, hub: Hub, max_message_bytes: int) -> None:
        self._kinds = kinds
        self._broker = broker
        self._hub = hub
        self._max_message_bytes = max_message_bytes
        self._at_once = getattr(broker, "publish_nowait", None)

    async def publish(self, topic: str, data: Any, *, event: str | None = None, key: str | None = None) -> Position:
        """Publish anything that has a JSON form (also structs, attrs classes, dates).

        Waits while the hub is full, or while a subscriber of a topic of policy ``block`` is. Always a checkpoint.
        Raises `CommandError`: ``INVALID_TOPIC``, ``PAYLOAD_TOO_LARGE``, ``TIMEOUT``, ``UNAVAILABLE``. Cancelled,
        it has published nothing.
        """
        await trio.lowlevel.checkpoint()
        return await self.publish_json(topic, _json.encode(data), event, key)

    async def publish_json(self, topic: str, data: bytes | msgspec.Raw, event: str | None, key: str | None) -> Position:
        """Publish JSON text, which the caller has checked to be that. No checkpoint if nothing is in the way."""
        kind, _ = self._kinds.split(topic)
        if kind.overflow is Overflow.BLOCK and self._hub.is_held(topic):
            await self._hub.wait_unheld(topic, kind.block_timeout_seconds)
        return await self._broker.publish(topic, self._draft(data, event, key))

    def publish_json_nowait(
        self, topic: str, data: bytes | msgspec.Raw, event: str | None, key: str | None
    ) -> Position | None:
        """The same if it need not wait; None if it must."""
        kind, _ = self._kinds.split(topic)
        if self._at_once is None or (kind.overflow is Overflow.BLOCK and self._hub.is_held(topic)):
            return None
        position: Position | None = self._at_once(topic, self._draft(data, event, key))
        return position

    def publish_from_thread(
        self, topic: str, data: Any, *, event: str | None = None, key: str | None = None, token: trio.lowlevel.TrioToken
    ) -> Position:
        """Publish from a thread that is not Trio's; blocks that thread until the message has its position.

        ``token`` is `trio.lowlevel.current_trio_token` of the thread that runs the server. Raises what `publish`
        raises, and `trio.RunFinishedError` once the server has ended.
        """

        async def publish() -> Position:
            return await self.publish(topic, data, event=event, key=key)

        return trio.from_thread.run(publish, trio_token=token)

    def _draft(self, data: bytes | msgspec.Raw, event: str | None, key: str | None) -> Draft:
        text = bytes(data)
        if len(text) > self._max_message_bytes:
            raise CommandError(ErrorCode.PAYLOAD_TOO_LARGE, f"a message has at most {self._max_message_bytes} bytes")
        if not (_is_text(event) and _is_text(key)):
            raise CommandError(ErrorCode.BAD_REQUEST, "event and key are text that UTF-8 can write")
        return Draft(compact(text), event, key)


def _is_text(word: str | None) -> bool:
    """Whether the hub can encode the word: half a surrogate pair, as `json.loads` lets it pass, it cannot."""
    try:
        return word is None or word.isascii() or bool(word.encode())
    except UnicodeEncodeError:
        return False
