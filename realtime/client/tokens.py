"""Where a client gets the token from that it shows: a text, or a function that is asked whenever one is needed."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from enum import StrEnum

from realtime.client.failures import TokenUnavailable

__all__ = ["Token", "TokenReason", "TokenSource"]


class TokenReason(StrEnum):
    """Why a token function is asked."""

    #: A connection is to be made.
    CONNECT = "connect"
    #: The login of a live connection is about to expire.
    EXPIRING = "expiring"
    #: The last one has expired.
    EXPIRED = "expired"
    #: The last one was refused.
    REFUSED = "refused"


Token = str | Callable[[TokenReason], str | Awaitable[str | None] | None] | None


class TokenSource:
    """See the module."""

    def __init__(self, token: Token) -> None:
        self._token = token

    @property
    def has_others(self) -> bool:
        """Whether there may be another one."""
        return callable(self._token)

    async def ask(self, reason: TokenReason) -> str | None:
        """A token. Raises `TokenUnavailable`, and whatever else the function raises."""
        if not callable(self._token):
            return self._token
        try:
            given = self._token(reason)
            return await given if inspect.isawaitable(given) else given
        except OSError as error:
            raise TokenUnavailable(f"no token: {error}") from error
