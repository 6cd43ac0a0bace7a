"""Who is let in, as far as numbers go: of all, of one address, of one user, in one second.

An address here is a network: of IPv6 64 bits, which one customer has to himself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from realtime.config import Settings
from realtime.errors import CommandError, ErrorCode
from realtime.limits import Bucket, Buckets, Counts, network
from realtime.throttle import too_fast

__all__ = ["OFFENCES", "Admission", "Crowded", "Foreign", "whose"]

#: Addresses and users that are remembered at once; the rest are as good as new.
MOST_REMEMBERED = 50_000
#: Refusals that are held against an address: what came from there was a guess, an attack or a fault.
OFFENCES = frozenset(
    {
        ErrorCode.BAD_REQUEST,
        ErrorCode.AUTH_REQUIRED,
        ErrorCode.AUTH_FAILED,
        ErrorCode.TOKEN_EXPIRED,
        ErrorCode.PERMISSION_DENIED,
        ErrorCode.CONNECTION_NOT_FOUND,
        ErrorCode.PAYLOAD_TOO_LARGE,
    }
)
#: Of the connections that have not said what they want yet, one address may have this part.
STRANGERS_SHARE = 8
#: How soon there is room among the connections, nobody knows.
CROWDED_RETRY_SECONDS = 5.0


class Crowded(CommandError):
    """There is no room for another one; counted where it was found."""


class Foreign(CommandError):
    """A page from elsewhere is behind it, of which the visitor at that address need not know."""


class Admission:
    """The counts and rates of one server. Every refusal is counted by ``refuse``."""

    def __init__(
        self, settings: Settings, refuse: Callable[[str], None], *, now: Callable[[], float] = trio.current_time
    ) -> None:
        self._now = now
        self._refuse = refuse
        self._rate = None
        if settings.admission_rate is not None:
            self._rate = Bucket(settings.admission_rate, settings.admission_burst)
        self._refusals = _buckets(settings.refusal_rate, settings.refusal_burst)
        self._publishes = _buckets(settings.publish_rate, settings.publish_burst)
        self._polls = _buckets(settings.command_rate, settings.command_burst)
        self._poll_burst = settings.command_burst
        self._addresses = Counts(settings.max_connections_per_address)
        # Nobody shall keep the door shut by standing in it.
        self._strangers = Counts(max(1, settings.max_handshakes // STRANGERS_SHARE))
        self._most_topics = settings.max_topics_per_user
        self._topics = Counts(settings.max_topics_per_user)
        self._pollers = Counts(settings.max_connections_per_user)
        self._most_of_user = settings.max_connections_per_user

    def admit(self) -> CommandError | None:
        """Why no other connection is let in now."""
        wait = 0.0 if self._rate is None else self._rate.take(self._now())
        if not wait:
            return None
        self._refuse("admission_rate")
        return Crowded(ErrorCode.UNAVAILABLE, "too many connect at once", retry_after=max(1.0, wait))

    def enter(self, address: str) -> CommandError | None:
        """Count a connection of an address, until `leave`; or why it is one too many."""
        if self._addresses.enter(network(address)):
            return None
        self._refuse("too_many_of_address")
        return Crowded(
            ErrorCode.LIMIT_EXCEEDED, "too many connections from this address", retry_after=CROWDED_RETRY_SECONDS
        )

    def leave(self, address: str) -> None:
        """A connection of an address has ended that was let in by `enter`."""
        self._addresses.leave(network(address))

    @contextmanager
    def counted(self, address: str) -> Iterator[None]:
        """Count a connection for the length of a block. Raises `CommandError` where it is one too many."""
        if error := self.enter(address):
            raise error
        try:
            yield
        finally:
            self.leave(address)

    def greet(self, address: str) -> CommandError | None:
        """Count a connection that has not said what it wants yet, until `greeted`; or why it is one too many."""
        if self._strangers.enter(network(address)):
            return None
        self._refuse("too_many_handshakes")
        return Crowded(ErrorCode.UNAVAILABLE, "too many connect at once", retry_after=CROWDED_RETRY_SECONDS)

    def greeted(self, address: str) -> None:
        """A connection has said what it wants, or will not any more."""
        self._strangers.leave(network(address))

    def enter_topic(self, user: str | None) -> None:
        """Count a topic that a user has asked for, until `leave_topic`. Raises `CommandError`."""
        if user is not None and not self._topics.enter(user):
            self._refuse("too_many_topics_of_user")
            raise Crowded(ErrorCode.LIMIT_EXCEEDED, f"a user has at most {self._most_topics} topics on all connections")

    def leave_topic(self, user: str | None) -> None:
        """A user does not have a topic any more that was counted by `enter_topic`."""
        if user is not None:
            self._topics.leave(user)

    @contextmanager
    def polling(self, user: str | None) -> Iterator[None]:
        """Count a poll of a user for the length of a block. Raises `CommandError` where it is one too many."""
        if user is None:  # counts as a connection of its address
            yield
            return
        if not self._pollers.enter(user):
            self._refuse("too_many_of_user")
            raise Crowded(ErrorCode.LIMIT_EXCEEDED, f"a user has at most {self._most_of_user} polls", retry_after=1.0)
        try:
            yield
        finally:
            self._pollers.leave(user)

    def offend(self, address: str) -> None:
        """Somebody at an address has tried something that was refused."""
        if self._refusals is not None:
            self._refusals.take(network(address), self._now())

    def is_shut_out(self, address: str) -> bool:
        """Whether nobody at this address is listened to for now: too much of what came from there was refused."""
        return self._refusals is not None and self._refusals.peek(network(address), self._now()) > 0

    def shut_out(self, address: str) -> CommandError | None:
        """The same, with the words for it, and counted."""
        wait = 0.0 if self._refusals is None else self._refusals.peek(network(address), self._now())
        if not wait:
            return None
        self._refuse("shut_out")
        return too_fast(max(1.0, wait))

    def check_user(self, connections: int) -> None:
        """Raise `CommandError` where a user who has so many connections may have no other one."""
        if self._most_of_user is not None and connections >= self._most_of_user:
            self._refuse("too_many_of_user")
            raise Crowded(
                ErrorCode.LIMIT_EXCEEDED, f"a user has at most {self._most_of_user} connections", retry_after=60.0
            )

    def check_publish(self, publisher: str) -> None:
        """Raise `CommandError` where a peer publishes too fast; ``publisher``: see `whose`."""
        wait = 0.0 if self._publishes is None else self._publishes.take(publisher, self._now())
        if wait:
            self._refuse("publish_rate")
            raise too_fast(wait)

    def check_poll(self, poller: str, topics: int = 1) -> None:
        """Raise `CommandError` where a peer polls too fast: each topic of a poll is what a command is to others."""
        wait = 0.0 if self._polls is None else self._polls.take(poller, self._now(), min(topics, self._poll_burst))
        if wait:
            self._refuse("poll_rate")
            raise too_fast(wait)


def whose(user: str | None, address: str) -> str:
    """Whose account something goes on: the user's, or where there is none the address's."""
    return f"address:{network(address)}" if user is None else f"user:{user}"


def _buckets(rate: float | None, burst: float) -> Buckets | None:
    return None if rate is None else Buckets(rate, burst, MOST_REMEMBERED)
