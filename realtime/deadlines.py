"""The deadlines of one connection: login, idleness, expiry of the login, a write that makes no progress.

::

    run    one task, started when there is a deadline to watch; ends when there is none

Most connections have none most of the time, and a sleeping task is two to three kilobytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import trio

from realtime import closing
from realtime.auth import Identity
from realtime.closing import CloseReason
from realtime.config import Settings
from realtime.outbox import Outbox
from realtime.session import Session, State

__all__ = ["Deadlines"]

#: How often within its timeout an idle connection is looked at for messages that it was sent.
LOOKS_PER_TIMEOUT = 20


class Deadlines:
    """See the module. ``close`` ends the connection, ``warn`` sends it a push at once."""

    def __init__(
        self,
        session: Session,
        outbox: Outbox,
        settings: Settings,
        *,
        idle_timeout: float | None,
        listens_only: bool,
        close: Callable[[CloseReason], None],
        warn: Callable[[dict[str, Any]], None],
    ) -> None:
        """``listens_only``: this peer is not idle while messages come for it."""
        self._session = session
        self._outbox = outbox
        self._settings = settings
        self._idle_timeout = idle_timeout
        self._listens_only = listens_only
        self._close = close
        self._warn = warn
        self._seen_delivered = 0
        #: Wakes the task; None while there is none.
        self._rearm: trio.Event | None = None
        self.connected_at = self.active_at = trio.current_time()
        self._expires_at = self._warn_at = math.inf
        self.log_in(session.identity)

    def log_in(self, identity: Identity) -> None:
        """There is a login, with a time of its own; the caller has it watched."""
        self._expires_at = self._warn_at = math.inf
        if identity.expires_in is not None:
            left, now = identity.expires_in, trio.current_time()
            self._expires_at = now + left
            # Not at once, be it as short as it may: a client that is given the same token each time would ask for ever.
            self._warn_at = now + max(left - self._settings.token_warning_seconds, left / 2)

    def active(self) -> None:
        """The peer has done something."""
        self.active_at = trio.current_time()

    def watch(self, start_soon: Callable[[Callable[[], Any]], None]) -> None:
        """Have the deadlines looked at: something has changed that may bring one nearer."""
        if self._rearm is not None:
            self._rearm.set()
        elif self._any():
            self._rearm = trio.Event()
            start_soon(self.run)

    def _any(self) -> bool:
        """Whether there is anything to watch; a task that found that out would be a twentieth of a connect."""
        return (
            self._session.state is State.GREETING
            or self._idle_timeout is not None
            or self._outbox.backlogged
            or self._expires_at < math.inf
        )

    async def run(self) -> None:
        """Sleep until the nearest deadline; end when there is none, or when one has passed."""
        settings, wire = self._settings, self._outbox.wire
        progress = -1
        progress_at = 0.0
        while True:
            now = trio.current_time()
            login_by = idle_at = look_at = stalled_at = math.inf
            if self._session.state is State.GREETING:
                login_by = self.connected_at + settings.auth_timeout_seconds
            if self._idle_timeout is not None:
                if self._listens_only:
                    look_at = self._look_for_deliveries(now, self._idle_timeout)
                idle_at = self.active_at + self._idle_timeout
            if self._outbox.backlogged:
                if wire.progress != progress:
                    progress, progress_at = wire.progress, now
                stalled_at = progress_at + settings.write_stall_timeout_seconds
            else:
                progress = -1
            for deadline, reason in (
                (login_by, closing.NOT_AUTHENTICATED),
                (idle_at, closing.IDLE),
                (self._expires_at, closing.TOKEN_EXPIRED),
                (stalled_at, closing.TOO_SLOW),
            ):
                if now >= deadline:
                    self._close(reason)
                    return
            if now >= self._warn_at:
                self._warn_at = math.inf
                self._warn({"type": "token_expiring", "expires_in": round(self._expires_at - now)})
            nearest = min(login_by, idle_at, look_at, self._expires_at, stalled_at, self._warn_at)
            if nearest == math.inf:
                self._rearm = None
                return
            self._rearm = trio.Event()
            with trio.move_on_at(nearest):
                await self._rearm.wait()

    def _look_for_deliveries(self, now: float, idle_timeout: float) -> float:
        """Take messages that went out since the last look for activity; when to look again."""
        delivered = sum(subscription.delivered for subscription in self._session.subscriptions.values())
        if delivered != self._seen_delivered:
            self._seen_delivered = delivered
            self.active_at = now
        return now + idle_timeout / LOOKS_PER_TIMEOUT
