"""The port between a client and the street: what carries one connection's text, and what opens it.

The other way round from `realtime.wire`: there the house serves, here it calls. `realtime.client` talks to a `Link`
and knows no network; `transports.links` has those that do, `realtime.testing` one to an engine in this process.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from attrs import frozen

from realtime.errors import CommandError, RealtimeError, WireError

__all__ = ["Credentials", "Dialer", "Link", "LinkBlocked", "LinkEnded", "LinkRefused", "Said", "retry_seconds"]

#: Longer than a day nobody is kept away, whatever a server says.
MAX_RETRY_SECONDS = 86_400.0


def retry_seconds(told: float | None) -> float | None:
    """How long to stay away, as a server has told it: brought to what can be waited for."""
    return None if told is None else min(max(0.0, told), MAX_RETRY_SECONDS)


@frozen
class Said:
    """One push or reply, as it came."""

    text: bytes | bytearray | memoryview | str
    #: Where the stream stands behind it, on links that are told so.
    cursor: str = ""


@frozen
class Credentials:
    """Who calls, and where the topics are to go on that the server places them in."""

    #: A token or a ticket; None: nobody in particular.
    token: str | None = None
    cursor: str = ""


class LinkEnded(WireError):
    """The link carries no more; or it could not be had, for a reason that may pass."""

    def __init__(self, why: str, *, code: int | None = None, connected: bool = True) -> None:
        super().__init__(why)
        #: The close code that came, where one did.
        self.code = code
        #: Whether the other end was reached at all.
        self.connected = connected


class LinkRefused(RealtimeError):
    """The server itself has refused the connection, and said why."""

    def __init__(self, error: CommandError, *, login: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        #: Whether it is the credentials that are no good.
        self.login = login


class LinkBlocked(RealtimeError):
    """Something on the way answered in the server's place: this way does not lead there."""


class Link(Protocol):
    """One connection. Only one task at a time calls `receive`; any number call `send`."""

    #: Whether replies and pushes come in the one order in which the server made them.
    ordered: bool

    async def receive(self) -> Said:
        """The next thing that the server says. Raises `LinkEnded`. Cancelled, nothing is lost that was not returned."""
        ...

    async def send(self, text: bytes) -> bytes | None:
        """Send a command: the reply, where it comes back this way, or None where it is to be received.

        Raises `LinkEnded`. Cancelled, the link may be of no more use.
        """
        ...


class Dialer(Protocol):
    """Opens links of one kind, one after the other."""

    #: The kind: ``websocket``, ``sse``.
    name: str

    def open(self, credentials: Credentials) -> AbstractAsyncContextManager[Link]:
        """A link for the length of a block, whose end closes it in order, within a deadline of its own.

        Raises `LinkEnded`, `LinkRefused` or `LinkBlocked`. The caller bounds the opening.
        """
        ...
