"""Who the peer is. An `Authenticate` function turns a token into an `Identity`, or refuses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from attrs import frozen

__all__ = ["ANONYMOUS", "Authenticate", "Identity"]


@frozen
class Identity:
    """A peer's user; None for an anonymous one."""

    user: str | None = None
    #: Seconds of this login left when it was made; None: it does not expire.
    expires_in: float | None = None


ANONYMOUS = Identity()

#: Raises `realtime.errors.CommandError` (``AUTH_FAILED``, ``TOKEN_EXPIRED``) for a token that is no good.
Authenticate = Callable[[str], Awaitable[Identity]]
