"""How one peer behaves: how fast it talks, what it is refused, and when that is once too often.

Everything that it does in this way is counted and goes to the audit log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import trio

from realtime import closing
from realtime.admission import OFFENCES, whose
from realtime.audit import AuditEvent
from realtime.closing import CloseReason
from realtime.engine import Engine
from realtime.errors import CommandError, ErrorCode
from realtime.gate import Denied
from realtime.session import Accepted, Refused, Session, State
from realtime.throttle import Throttle, too_fast
from realtime.wishes import Subscribe

__all__ = ["Conduct"]

#: A peer that would not slow down stays away for up to so long.
TOO_FAST_SECONDS = 30.0
#: Logins that a peer may fail at before its connection is closed.
MOST_FAILED_LOGINS = 3
#: The same where it is let in as it is: a page that goes on trying an old token does no harm for a while.
MOST_FAILED_REFRESHES = 50


class Conduct:
    """See the module. ``close`` ends the connection."""

    __slots__ = ("_close", "_engine", "_failed_logins", "_session", "_throttle", "address", "transport")

    def __init__(
        self, engine: Engine, session: Session, address: str, transport: str, close: Callable[[CloseReason], None]
    ) -> None:
        self._engine = engine
        self._session = session
        self._close = close
        self._failed_logins = 0
        self._throttle = Throttle(engine.settings.command_rate, engine.settings.command_burst)
        #: Where the peer is, as far as is known.
        self.address = address
        self.transport = transport

    @property
    def account(self) -> str:
        """On whose account goes what the peer does."""
        return whose(self._session.identity.user, self.address or self._session.id)

    def _whom(self) -> dict[str, Any]:
        session = self._session
        key = session.identity.key
        whom = {"connection": session.id, "user": session.identity.user, "address": self.address}
        return whom if key is None else {**whom, "key": f"key {key}"}

    def record(self, event: AuditEvent, **members: Any) -> None:
        """Have the audit log know something of this peer."""
        self._engine.audit.record(event, **self._whom(), **members)

    def record_arrival(self, refusal: CommandError | None, wishes: Iterable[Subscribe]) -> None:
        """The connection has begun, with what it came for, or with a refusal of that."""
        self.record(AuditEvent.CONNECT, transport=self.transport)
        if refusal is None:
            for wish in wishes:
                self.record(AuditEvent.SUBSCRIBE, topic=wish.topic)
        else:
            self._turn_away(self.transport, refusal)

    def _turn_away(self, reason: str, error: CommandError) -> None:
        connection = self._session.id
        self._engine.turn_away(reason, self.address, error, transport=self.transport, connection=connection)

    def record_end(self, reason: CloseReason) -> None:
        """The connection has ended."""
        if reason is closing.TOKEN_EXPIRED:
            self.record(AuditEvent.EXPIRED)
        self.record(AuditEvent.DISCONNECT, code=reason.code, reason=reason.text)

    def paced(self, decision: Accepted | Refused) -> Accepted | Refused:
        """The decision about a command, unless the peer talks too fast."""
        wait = self._throttle.take(trio.current_time())
        if not wait:
            return decision
        self._engine.refuse("command_rate")
        return Refused(decision.command.id if isinstance(decision, Accepted) else decision.id, too_fast(wait))

    def may_ping(self) -> bool:
        """Whether a ping is answered: it counts like a command."""
        wait = self._throttle.take(trio.current_time())
        if wait:
            self._engine.refuse("ping_rate")
            self.note(too_fast(wait))
        return not wait

    def note(self, error: CommandError) -> None:
        """Take note of what the peer is refused; once too often ends the connection."""
        if error.code is ErrorCode.PERMISSION_DENIED:
            asked, verb = (error.asked, error.verb.value) if isinstance(error, Denied) else (None, error.message)
            self.record(AuditEvent.DENIED, code=error.code, topic=asked, reason=verb)
        elif error.code is ErrorCode.RATE_LIMIT_EXCEEDED:
            self.record(AuditEvent.RATE_LIMITED, code=error.code)
            if self._throttle.strike(trio.current_time()):
                self._close(closing.with_jitter(closing.TOO_FAST, TOO_FAST_SECONDS))

    def fail_login(self, error: CommandError) -> None:
        """Take note of a login that was refused. Who has none, and goes on guessing, is sent away."""
        session = self._session
        self._turn_away("credentials", error)
        if error.code not in OFFENCES:  # nobody could be asked: that is no guess
            return
        self._failed_logins += 1
        most = MOST_FAILED_LOGINS if session.state is State.GREETING else MOST_FAILED_REFRESHES
        if self._failed_logins >= most:
            self._close(closing.NOT_AUTHENTICATED)
