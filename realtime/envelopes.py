"""The message shape of front ends that were there before us: ``{"type", "task_id", "timestamp", "data"}``. Pure.

Members stand in this order and are always there. ``task_id`` is the name of the topic, which for ``session:`` is the id
of the session. A front end that speaks a `ProgressDialect` subscribes to nothing and sends nothing but pings: its
route says what it follows.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import msgspec
from attrs import frozen

from realtime import closing
from realtime.progress_state import SessionError

__all__ = ["Envelope", "Naming", "ProgressDialect", "Timestamps"]

_json = msgspec.json.Encoder()


class Naming(StrEnum):
    """What the events are called."""

    #: As they are published: ``progress_update``, ``task_completed``, ``session_completed``.
    MODERN = "modern"
    #: ``progress``, ``node_complete``, ``complete``. There ``task_failed`` has no name of its own and keeps ours: a
    #: page that does not know it skips it, while one that was told ``node_complete`` would take it for done.
    ALIASES = "aliases"


class Timestamps(StrEnum):
    """How times are written."""

    #: ``"2026-01-31T12:00:00.123Z"``
    ISO = "iso"
    #: Milliseconds since 1970, a number.
    EPOCH = "epoch"


_NAMES = {
    Naming.MODERN: {},
    Naming.ALIASES: {
        "progress_update": "progress",
        "task_completed": "node_complete",
        "session_completed": "complete",
    },
}


@frozen
class Envelope:
    """Puts messages into the shape; equal ones make equal bytes, so that what they make can be shared."""

    naming: Naming = Naming.MODERN
    timestamps: Timestamps = Timestamps.ISO

    def __call__(self, event: str | None, data: bytes, time_ms: int, topic: str) -> bytes:
        """The message as JSON text. ``data`` is JSON text; a message without ``event`` is called ``message``."""
        name = event or "message"
        return b'{"type":%b,"task_id":%b,"timestamp":%b,"data":%b}' % (
            _json.encode(_NAMES[self.naming].get(name, name)),
            _json.encode(topic.partition(":")[2] or topic),
            b"%d" % time_ms if self.timestamps is Timestamps.EPOCH else _iso(time_ms),
            data,
        )


@frozen
class ProgressDialect:
    """How the server and such a front end talk: the envelope, and what becomes of everything that is no message."""

    envelope: Envelope = Envelope()

    def push(self, kind: str, push: dict[str, Any], topic: str, now_ms: int) -> bytes | None:
        """A push of ours in its words; None for one that it has no word for.

        ``welcome`` becomes ``connected``; ``error``, ``gap`` and a ``disconnect`` that is not the regular end become
        ``error``.
        """
        data: object
        match kind:
            case "welcome":
                kind, data = "connected", {"connection": push["connection"]}
            case "ping":
                data = {}
            case "error":
                retry_after = push.get("retry_after")
                data = SessionError(
                    error_type=push["code"],
                    message=push["message"],
                    recoverable=retry_after is not None,
                    retry_after=retry_after,
                )
            case "gap":
                # It cannot ask for history, but polling tells it the state, which is what the messages led to.
                message = f"messages lost: {push['count']}"
                kind, data = "error", SessionError(error_type="gap", message=message, recoverable=True)
            case "disconnect" if push["code"] != closing.NORMAL.code:
                kind = "error"
                data = SessionError(
                    error_type="disconnect",
                    message=push["reason"],
                    recoverable=push["reconnect"],
                    retry_after=push.get("retry_after"),
                )
            case _:
                return None
        return self.envelope(kind, _json.encode(data), now_ms, topic)

    def hear(self, text: bytes | memoryview) -> bytes | None:
        """The answer to what it sent: a pong to a ping, plain or JSON, each in kind. None: there is nothing to say."""
        plain = bytes(text).strip()
        if plain == b"ping":
            return b"pong"
        try:
            heard = _heard_decoder.decode(plain)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        return b'{"type":"pong"}' if heard.type == "ping" else None


class _Heard(msgspec.Struct):
    type: str


_heard_decoder = msgspec.json.Decoder(_Heard)


def _iso(time_ms: int) -> bytes:
    """Whole seconds and milliseconds apart: a float of their sum would not round the same everywhere."""
    seconds, milliseconds = divmod(time_ms, 1000)
    return b'"%b.%03dZ"' % (datetime.fromtimestamp(seconds, UTC).isoformat()[:19].encode(), milliseconds)
