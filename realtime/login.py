"""From a token to an identity, whatever the token is and whichever way it came.

An API key is taken in a header and in a message, so that back ends and operators may be peers too. Not from a cookie, a
subprotocol or a URL: those are for pages, and a page should have a ticket.
"""

from __future__ import annotations

import inspect
import secrets
import traceback
from collections.abc import Callable
from typing import Any

import structlog
import trio

from realtime.api_keys import ApiKey
from realtime.auth import Authenticate, Carrier, Identity
from realtime.errors import CommandError, ErrorCode
from realtime.revocation import Revocations
from realtime.tickets import Tickets

__all__ = ["Login"]

log = structlog.get_logger("realtime")

#: No token that is in use is longer; a cookie cannot be.
MAX_TOKEN_CHARACTERS = 8192
_TWO = 2
_OF_KEYS = (Carrier.HEADER, Carrier.MESSAGE)


class Login:
    """Tickets and API keys are looked up here; everything else is for the function that the server was given."""

    def __init__(
        self,
        authenticate: Authenticate | None,
        tickets: Tickets,
        revocations: Revocations,
        *,
        find_key: Callable[[str], ApiKey | None],
        timeout_seconds: float,
    ) -> None:
        self._authenticate = authenticate
        self._find_key = find_key
        self._takes_carrier = authenticate is not None and _takes_two(authenticate)
        self._tickets = tickets
        self._revocations = revocations
        self._timeout = timeout_seconds

    async def __call__(self, token: str, carrier: Carrier) -> Identity:
        """Who the bearer is. Raises `CommandError`, the words of which say nothing of the token."""
        if not token or len(token) > MAX_TOKEN_CHARACTERS:
            raise CommandError(ErrorCode.AUTH_FAILED, "this is not a token")
        key = self._find_key(token) if carrier in _OF_KEYS else None
        if key is not None:
            return key.identity
        identity = self._tickets.redeem(token) if self._tickets.is_ticket(token) else await self._ask(token, carrier)
        self._revocations.check(identity)
        return identity

    async def _ask(self, token: str, carrier: Carrier) -> Identity:
        authenticate: Callable[..., Any] | None = self._authenticate
        if authenticate is None:
            no_key = "this is no API key of this server, and it" if carrier in _OF_KEYS else "this server"
            raise CommandError(ErrorCode.AUTH_FAILED, f"{no_key} takes no tokens")
        identity: Identity | None = None
        try:
            with trio.move_on_after(self._timeout) as scope:
                answer = authenticate(token, carrier) if self._takes_carrier else authenticate(token)
                identity = await answer if inspect.isawaitable(answer) else answer
        except CommandError:
            raise
        except Exception as error:  # a bug in a function that is not ours: nobody is let in by it
            # Without what the exception says: that may hold the token.
            where = "".join(traceback.format_tb(error.__traceback__))
            log.error(  # noqa: TRY400
                "authenticate failed", error=type(error).__name__, where=where, trace_id=secrets.token_hex(8)
            )
            raise CommandError(ErrorCode.INTERNAL_ERROR, "the server failed to check this login") from None
        if scope.cancelled_caught:
            log.warning("authenticate took too long")
            raise CommandError(ErrorCode.UNAVAILABLE, "logins cannot be checked now", retry_after=1.0)
        if not isinstance(identity, Identity) or not _is_text(identity.user):
            log.error("authenticate gave no identity")
            raise CommandError(ErrorCode.INTERNAL_ERROR, "the server failed to check this login")
        return identity


def _takes_two(function: Authenticate) -> bool:
    """Whether the function wants to know how the token came."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    wanted = [each for each in inspect.signature(function).parameters.values() if each.kind in positional]
    return len([each for each in wanted if each.default is each.empty]) >= _TWO


def _is_text(user: str | None) -> bool:
    """Whether a user's name can be written to a wire: half a surrogate pair cannot."""
    try:
        return user is None or bool(user.encode())
    except UnicodeEncodeError:
        return False
