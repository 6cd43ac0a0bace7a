"""Other words for the same pushes: what a front end that was there before this server understands.

A `Dialect` belongs to a route (see `realtime.routes`). Its `Dialect.envelope` writes the messages, which are encoded
once for all who see them like any others; `DialectFraming` has it write all other pushes, on whatever wire there is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec
import structlog
from attrs import field, frozen

from realtime.views import Envelope
from realtime.wire import Framing

__all__ = ["Dialect", "DialectFraming"]

log = structlog.get_logger("realtime")


class Dialect(Protocol):
    """The words of one front end. Hashable: connections of equal dialect share what is encoded."""

    @property
    def envelope(self) -> Envelope:
        """What writes the messages."""
        ...

    def push(self, kind: str, push: dict[str, Any], topic: str, now_ms: int) -> bytes | None:
        """A push that is no message, given its type, in these words; None: it is not sent."""
        ...

    def hear(self, text: bytes | memoryview) -> bytes | None:
        """The answer to what the peer says, which need not be JSON; None: there is none. Never raises."""
        ...


@frozen
class DialectFraming:
    """A wire's own framing, with the pushes in other words."""

    inner: Framing
    dialect: Dialect
    topic: str
    now_ms: Callable[[], int] = field(eq=False)

    @property
    def cursors(self) -> bool:
        """See `realtime.wire.Framing`."""
        return self.inner.cursors

    @property
    def stamped(self) -> bool:
        """See `realtime.wire.Framing`."""
        return self.inner.stamped

    @property
    def several(self) -> Framing:
        """See `realtime.wire.Framing`; a route has one topic."""
        return self

    def message(self, text: bytes, topic: str, epoch: str, offset: int) -> bytes:
        """See `realtime.wire.Framing`; the view has written the text already."""
        return self.inner.message(text, topic, epoch, offset)

    def push(self, kind: str, text: bytes, cursor: str | None = None) -> bytes:
        """See `realtime.wire.Framing`; no bytes for a push that this dialect has no word for.

        All go as messages: an event stream that names them would name them in our words.
        """
        try:
            said = self.dialect.push(kind, msgspec.json.decode(text), self.topic, self.now_ms())
        except Exception:  # code of a front end's own, which the hub and the heartbeat must outlive
            log.exception("a dialect failed, the push is left out", kind=kind, topic=self.topic)
            said = None
        return b"" if said is None else self.inner.push("message", said, cursor)

    def stamp(self, cursor: str) -> bytes:
        """See `realtime.wire.Framing`."""
        return self.inner.stamp(cursor)
