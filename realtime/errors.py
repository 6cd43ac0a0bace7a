"""What can go wrong, told apart by whose fault it is.

::

    RealtimeError
     +- ConfigurationError     the operator's: a setting has a value that it must not have
     +- CommandError           the peer's: one command or request is refused, the connection lives on
     +- ProtocolViolation      the peer's: the connection ends, ``reason`` says how
     +- WireError
         +- WireClosed         ours: somebody here closed it
         +- WireBroken         the world's: the peer or the network went away
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from realtime.closing import CloseReason

__all__ = [
    "CommandError",
    "ConfigurationError",
    "ErrorCode",
    "ProtocolViolation",
    "RealtimeError",
    "WireBroken",
    "WireClosed",
    "WireError",
    "lone",
]


class ErrorCode(StrEnum):
    """The codes of the wire protocol; the reference page gives a remedy for each."""

    BAD_REQUEST = "BAD_REQUEST"
    UNKNOWN_TYPE = "UNKNOWN_TYPE"
    AUTH_REQUIRED = "AUTH_REQUIRED"
    AUTH_FAILED = "AUTH_FAILED"
    TOKEN_EXPIRED = "TOKEN_EXPIRED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    INVALID_TOPIC = "INVALID_TOPIC"
    INVALID_SYMBOL = "INVALID_SYMBOL"
    ROOM_NOT_FOUND = "ROOM_NOT_FOUND"
    SESSION_NOT_FOUND = "SESSION_NOT_FOUND"
    CONNECTION_NOT_FOUND = "CONNECTION_NOT_FOUND"
    ALREADY_SUBSCRIBED = "ALREADY_SUBSCRIBED"
    NOT_SUBSCRIBED = "NOT_SUBSCRIBED"
    SUBSCRIPTION_FAILED = "SUBSCRIPTION_FAILED"
    LIMIT_EXCEEDED = "LIMIT_EXCEEDED"
    RATE_LIMIT_EXCEEDED = "RATE_LIMIT_EXCEEDED"
    PAYLOAD_TOO_LARGE = "PAYLOAD_TOO_LARGE"
    UNKNOWN_ACTION = "UNKNOWN_ACTION"
    TIMEOUT = "TIMEOUT"
    UNAVAILABLE = "UNAVAILABLE"
    INTERNAL_ERROR = "INTERNAL_ERROR"


class RealtimeError(Exception):
    """The root of every exception that this project raises on purpose."""


class ConfigurationError(RealtimeError):
    """A setting has a value that it must not have; the text names key, value and what is allowed."""


class CommandError(RealtimeError):
    """One command is refused with a code; its sender is told, its connection lives on."""

    def __init__(
        self, code: ErrorCode, message: str, *, retry_after: float | None = None, detail: str | None = None
    ) -> None:
        super().__init__(code, message)
        #: For the log alone.
        self.detail = detail
        self.code = code
        self.message = message
        self.retry_after = retry_after
        #: The ``id`` of the refused command, where its text had a usable one.
        self.command_id: int | str | None = None
        #: What ties the refusal of a request to the log.
        self.trace_id: str | None = None

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class ProtocolViolation(RealtimeError):
    """The peer broke the protocol in a way that ends its connection."""

    def __init__(self, reason: CloseReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class WireError(RealtimeError):
    """A wire cannot carry any more bytes."""


class WireClosed(WireError):
    """The wire was closed on this side."""


class WireBroken(WireError):
    """The peer, or the network between, went away."""


def lone(error: BaseException) -> BaseException:
    """The exception inside a group of one, however deep; any other as it is.

    A nursery wraps also a single exception, which is not its user's business.
    """
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
