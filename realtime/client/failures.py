"""What a client tells its program of things that go wrong.

::

    RealtimeError
     +- CommandError          one call or one topic is refused; the client lives on
     +- TokenUnavailable      raised by a token function: there is none now, ask again later
     +- ClientFailed          the client has given up: its block ends with this
         +- LoginRefused      the token is no good
         +- SentAway          the server does not want this client back
         +- Unreachable       as many tries as were allowed have failed
"""

from __future__ import annotations

from realtime.client.words import Heard
from realtime.errors import CommandError, ErrorCode, RealtimeError

__all__ = [
    "PASSING",
    "ClientFailed",
    "LoginRefused",
    "SentAway",
    "TokenUnavailable",
    "Unreachable",
    "command_error",
    "no_connection",
]

#: What is refused with one of these may be granted later.
PASSING = frozenset(
    {
        ErrorCode.LIMIT_EXCEEDED,
        ErrorCode.RATE_LIMIT_EXCEEDED,
        ErrorCode.SUBSCRIPTION_FAILED,
        ErrorCode.TIMEOUT,
        ErrorCode.UNAVAILABLE,
    }
)


class TokenUnavailable(RealtimeError):
    """There is no token to be had now. Raised by a token function, to be asked again after a while."""


class ClientFailed(RealtimeError):
    """A client has given up."""

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        close_code: int | None = None,
        retry_after: float | None = None,
        trace_id: str | None = None,
    ) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        #: The close code of the connection that was the last, where it had one.
        self.close_code = close_code
        self.retry_after = retry_after
        self.trace_id = trace_id

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class LoginRefused(ClientFailed):
    """The token is no good, and there is no better one."""


class SentAway(ClientFailed):
    """The server has closed the connection, or refused it, for a reason that does not pass."""


class Unreachable(ClientFailed):
    """No connection came about in as many tries as were allowed."""


def command_error(heard: Heard) -> CommandError:
    """The error that the server tells."""
    message = heard.message
    try:
        code = ErrorCode(str(heard.code))
    except ValueError:  # of a newer server
        code, message = ErrorCode.INTERNAL_ERROR, f"{heard.code}: {message}"
    error = CommandError(code, message, retry_after=heard.retry_after)
    error.trace_id = heard.trace_id
    return error


def no_connection(why: str) -> CommandError:
    """What a call is told that cannot be made, or whose answer will not come."""
    return CommandError(ErrorCode.UNAVAILABLE, why)
