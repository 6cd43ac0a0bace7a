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
from realtime.events import EventCatalogue
from realtime.hub import Hub
from realtime.idempotency import Receipt
from realtime.messages import MessageBody, compact
from realtime.registry import Registry
from realtime.topics import Kind, Kinds, Overflow

__all__ = ["Publisher", "draft_of"]

_json = msgspec.json.Encoder()


class Publisher:
    """See the module. Asks no permissions: whoever holds one may publish anywhere."""

    def __init__(
        self,
        kinds: Kinds,
        broker: Broker,
        hub: Hub,
        registry: Registry,
        *,
        max_message_bytes: int,
        catalogue: EventCatalogue,
    ) -> None:
        self._kinds = kinds
        self._broker = broker
        self._hub = hub
        self._registry = registry
        self._max_message_bytes = max_message_bytes
        self._catalogue = catalogue
        self._at_once = getattr(broker, "publish_nowait", None)
        #: Publishes that brought nothing new: repeated by their publisher, or saying what was said before.
        self.duplicates = 0

    async def publish(
        self,
        topic: str,
        data: Any,
        *,
        event: str | None = None,
        key: str | None = None,
        idempotency_key: str | None = None,
        checked: bool = False,
    ) -> Receipt:
        """Publish anything that has a JSON form (also structs, attrs classes, dates).

        Waits while the hub is full, or while a subscriber of a topic of policy ``block`` is. Always a checkpoint.
        Raises `CommandError`: ``INVALID_TOPIC``, ``ROOM_NOT_FOUND``, ``PAYLOAD_TOO_LARGE``, ``TIMEOUT``,
        ``UNAVAILABLE``, and ``BAD_REQUEST`` for data that its event does not allow. Cancelled, it has published
        nothing. ``checked``: the data is known to be what its event says.
        """
        await trio.lowlevel.checkpoint()
        return await self.publish_json(
            topic, Draft(_json.encode(data), event, key, None, idempotency_key), checked=checked
        )

    async def publish_json(self, topic: str, draft: Draft, *, checked: bool = False) -> Receipt:
        """Publish JSON text, which the caller has checked to be that. No checkpoint if nothing is in the way."""
        kind, draft = self._prepare(topic, draft, checked=checked)
        if kind.overflow is Overflow.BLOCK and self._hub.is_held(topic):
            await self._hub.wait_unheld(topic, kind.block_timeout_seconds)
        return self._counted(await self._broker.publish(topic, draft))

    def publish_json_nowait(self, topic: str, draft: Draft) -> Receipt | None:
        """The same if it need not wait; None if it must."""
        kind, draft = self._prepare(topic, draft)
        if self._at_once is None or (kind.overflow is Overflow.BLOCK and self._hub.is_held(topic)):
            return None
        receipt: Receipt | None = self._at_once(topic, draft)
        return None if receipt is None else self._counted(receipt)

    def _prepare(self, topic: str, draft: Draft, *, checked: bool = False) -> tuple[Kind, Draft]:
        """The kind of the topic, and the draft as it is published. Raises `CommandError`."""
        kind, _ = self._kinds.split(topic)
        self._registry.check(kind, topic)
        if len(draft.data) > self._max_message_bytes:
            raise CommandError(ErrorCode.PAYLOAD_TOO_LARGE, f"a message has at most {self._max_message_bytes} bytes")
        if not (_is_text(draft.event) and _is_text(draft.key) and _is_text(draft.idempotency_key)):
            raise CommandError(ErrorCode.BAD_REQUEST, "event and keys are text that UTF-8 can write")
        data = compact(draft.data)
        if not checked:
            self._catalogue.check(draft.event, data)
        return kind, draft if data is draft.data else msgspec.structs.replace(draft, data=data)

    def _counted(self, receipt: Receipt) -> Receipt:
        self.duplicates += receipt.duplicate
        return receipt


def draft_of(message: MessageBody) -> Draft:
    """The draft of a message that came over HTTP."""
    return Draft(bytes(message.data), message.event, message.key, None, message.idempotency_key)


def _is_text(word: str | None) -> bool:
    """Whether the hub can encode the word: half a surrogate pair, as `json.loads` lets it pass, it cannot."""
    try:
        return word is None or word.isascii() or bool(word.encode())
    except UnicodeEncodeError:
        return False
