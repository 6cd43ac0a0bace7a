"""Why a connection ends: the close code, the words, and whether to come back.

The rule of the codes: 40xx stay away (4029 apart), 41xx come back.
"""

from __future__ import annotations

import random

from attrs import evolve, frozen

__all__ = [
    "BAD_REQUEST",
    "FORBIDDEN",
    "GONE",
    "IDLE",
    "INTERNAL",
    "INVALID_TEXT",
    "NORMAL",
    "NOT_AUTHENTICATED",
    "NO_PONG",
    "NO_SUCH_SESSION",
    "OVERLOADED",
    "PROTOCOL_ERROR",
    "SHUTTING_DOWN",
    "TOKEN_EXPIRED",
    "TOO_BIG",
    "TOO_FAST",
    "TOO_SLOW",
    "UNSUPPORTED_DATA",
    "CloseReason",
    "left",
    "with_jitter",
]


@frozen
class CloseReason:
    """One way for a connection to end."""

    code: int
    text: str
    reconnect: bool = False
    #: Seconds that the peer is asked to stay away before it comes back.
    retry_after: float | None = None
    #: False where the peer cannot hear a goodbye any more, so that none is tried.
    peer_listens: bool = True


NORMAL = CloseReason(1000, "normal")
PROTOCOL_ERROR = CloseReason(1002, "protocol error")
UNSUPPORTED_DATA = CloseReason(1003, "unsupported data")
#: Never sent: the peer closed, hung up, or its network went away.
GONE = CloseReason(1006, "peer went away", peer_listens=False)
INVALID_TEXT = CloseReason(1007, "text is not UTF-8")
TOO_BIG = CloseReason(1009, "message too big")
#: A fault of ours that one connection ran into; its trace id stands in the log.
INTERNAL = CloseReason(1011, "internal error", reconnect=True)
BAD_REQUEST = CloseReason(4000, "bad request")
NOT_AUTHENTICATED = CloseReason(4001, "not authenticated")
FORBIDDEN = CloseReason(4003, "forbidden")
NO_SUCH_SESSION = CloseReason(4004, "no such session")
IDLE = CloseReason(4008, "idle too long")
TOO_FAST = CloseReason(4029, "over the rate limit again and again", reconnect=True)
SHUTTING_DOWN = CloseReason(4100, "shutting down", reconnect=True)
TOO_SLOW = CloseReason(4101, "too slow", reconnect=True)
TOKEN_EXPIRED = CloseReason(4102, "token expired", reconnect=True)
OVERLOADED = CloseReason(4103, "overloaded", reconnect=True)
NO_PONG = CloseReason(4108, "no answer to ping", reconnect=True)


def left(code: int) -> CloseReason:
    """The peer has closed, with a code of its own choice."""
    return CloseReason(code, "the peer closed", peer_listens=False)


def with_jitter(reason: CloseReason, longest: float) -> CloseReason:
    """The same reason with a ``retry_after`` of this peer's own.

    A thousand clients that are all told "now" come back as one wave; spread evenly over
    ``longest`` seconds they come back as a trickle.
    """
    # Not a secret: this only spreads a crowd.
    return evolve(reason, retry_after=round(random.uniform(0.1, 1.0) * longest, 1))  # noqa: S311
