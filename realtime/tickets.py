"""Tickets: one-use, short-lived stand-ins for a login, for whoever can send no token but a URL.

A back end, which knows its user, has a ticket made and hands it to the page; the page shows it once. What is left of
it in a log of URLs opens nothing.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Callable

from attrs import evolve, frozen

from realtime.auth import Identity
from realtime.errors import CommandError, ErrorCode
from realtime.expiring import Expiring

__all__ = ["Tickets"]

_PREFIX = "tkt_"


@frozen
class _Ticket:
    identity: Identity
    #: When the login ends that the ticket stands for.
    login_end: float


class Tickets:
    """The tickets that are out.

    Kept under their hashes: how long a look-up takes tells nothing of a ticket, and neither does a dump of the memory.
    """

    def __init__(self, *, most: int = 100_000, now: Callable[[], float]) -> None:
        self._most = most
        self._now = now
        self._out: Expiring[bytes, _Ticket] = Expiring()
        self._of_user: dict[str | None, set[bytes]] = {}
        self.issued = 0
        self.redeemed = 0
        #: Texts that somebody showed and that were no good.
        self.refused = 0

    def __len__(self) -> int:
        self._sweep()
        return len(self._out)

    @staticmethod
    def is_ticket(text: str) -> bool:
        """Whether a text means to be a ticket, and not a token."""
        return text.startswith(_PREFIX)

    def issue(self, identity: Identity, *, seconds: float) -> str:
        """A ticket that is good once, for so many seconds, but not for longer than the login.

        Raises `CommandError` (``LIMIT_EXCEEDED``) while too many are out.
        """
        now = self._sweep()
        if len(self._out) >= self._most:
            raise CommandError(ErrorCode.LIMIT_EXCEEDED, f"there are {self._most} tickets out already")
        login_end = math.inf if identity.expires_in is None else now + identity.expires_in
        text = _PREFIX + secrets.token_urlsafe(32)
        digest = _digest(text)
        self._out.put(digest, _Ticket(identity, login_end), min(now + seconds, login_end))
        self._of_user.setdefault(identity.user, set()).add(digest)
        self.issued += 1
        return text

    def redeem(self, text: str) -> Identity:
        """Whom a ticket stands for; from now on it is no good. ``expires_in`` is what is left of it by now.

        Never waits, so of two that show the same ticket at once, one wins. Raises `CommandError` (``AUTH_FAILED``)
        with one message for all others: whether there ever was such a ticket is nobody's business.
        """
        now = self._sweep()
        digest = _digest(text)
        ticket = self._out.pop(digest)
        if ticket is None:
            self.refused += 1
            raise CommandError(ErrorCode.AUTH_FAILED, "the ticket is no good")
        self._forget(digest, ticket)
        self.redeemed += 1
        if ticket.login_end == math.inf:
            return ticket.identity
        return evolve(ticket.identity, expires_in=ticket.login_end - now)

    def forget_user(self, user: str) -> int:
        """Make all tickets of a user worthless; returns how many there were."""
        self._sweep()
        digests = self._of_user.pop(user, set())
        for digest in digests:
            self._out.pop(digest)
        return len(digests)

    def _sweep(self) -> float:
        now = self._now()
        for digest, ticket in self._out.sweep(now):
            self._forget(digest, ticket)
        return now

    def _forget(self, digest: bytes, ticket: _Ticket) -> None:
        user = ticket.identity.user
        digests = self._of_user[user]
        digests.discard(digest)
        if not digests:
            del self._of_user[user]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
