"""Logins that were taken back before they expired: single tokens, and all that a user has had until now.

A revocation is forgotten when it has nothing more to refuse. Nobody knows when that is but whoever makes the tokens:
a token that outlives what is kept of its revocation is good again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from enum import StrEnum

from realtime.auth import Identity
from realtime.errors import CommandError, ErrorCode
from realtime.expiring import Expiring

__all__ = ["Revocations"]


class _What(StrEnum):
    TOKEN = "token"
    USER = "user"


class Revocations:
    """What was revoked lately.

    ``keep_seconds``: at least as long as any token lives. ``most``: of tokens and users together; one that has an
    effect is never forgotten for another, rather the other is refused, so that who wanted it knows.
    """

    def __init__(
        self, *, most: int = 100_000, keep_seconds: float = 86_400.0, now_unix: Callable[[], float] = time.time
    ) -> None:
        self._most = most
        self._keep_seconds = keep_seconds
        self._now = now_unix
        #: Each with the time from which on logins are good again.
        self._kept: Expiring[tuple[_What, str], float] = Expiring()
        self.revoked = 0
        #: Logins that were checked and found to be revoked.
        self.refused = 0

    def __len__(self) -> int:
        self._kept.sweep(self._now())
        return len(self._kept)

    def revoke_token(self, token_id: str, until: float | None = None) -> None:
        """Refuse one token, until a time on the Unix clock when it has expired for good; None: for ``keep_seconds``.

        Raises `CommandError` (``LIMIT_EXCEEDED``) where there are too many.
        """
        now = self._now()
        self._revoke(_What.TOKEN, token_id, math.inf, now + self._keep_seconds if until is None else until, now)

    def revoke_user(self, user: str) -> None:
        """Refuse all tokens of a user that were made up to now, for ``keep_seconds``.

        Most tokens tell only the second in which they were made, so those of this second are all refused: a new login
        works from the next one on. A token that does not tell counts as made before.

        Raises `CommandError` (``LIMIT_EXCEEDED``) where there are too many.
        """
        now = self._now()
        self._revoke(_What.USER, user, math.floor(now) + 1.0, now + self._keep_seconds, now)

    def is_revoked(self, identity: Identity) -> bool:
        """Whether this login was taken back."""
        self._kept.sweep(self._now())
        if identity.token_id is not None and (_What.TOKEN, identity.token_id) in self._kept:
            return True
        good_from = None if identity.user is None else self._kept.get((_What.USER, identity.user))
        if good_from is None:
            return False
        made_later = identity.issued_at is not None and identity.issued_at >= good_from
        return not made_later

    def check(self, identity: Identity) -> None:
        """Raise `CommandError` (``AUTH_FAILED``) if this login was taken back."""
        if self.is_revoked(identity):
            self.refused += 1
            raise CommandError(ErrorCode.AUTH_FAILED, "the login was revoked")

    def _revoke(self, what: _What, name: str, good_from: float, end: float, now: float) -> None:
        self._kept.sweep(now)
        key = (what, name)
        if key not in self._kept and len(self._kept) >= self._most:
            raise CommandError(ErrorCode.LIMIT_EXCEEDED, f"there are {self._most} revocations already")
        # A clock that was set back must not bring back what was revoked.
        self._kept.put(key, max(good_from, self._kept.get(key) or 0.0), end)
        self.revoked += 1
