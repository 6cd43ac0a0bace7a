"""The audit log: who came, who was refused, what was done and by whom, one structured line each.

What can be told are the members that `Audit.record` names, and none is for a token, a ticket or a key. Peers choose
most of their texts, so they are cut, and what could start a line, turn it around or hide in it is written out.
A flood of one kind of event fills no disk: what is over the rate is counted, and its number told.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import structlog
import trio
from attrs import Factory, define, field, validators

from realtime.limits import Bucket, Buckets, network

__all__ = ["Audit", "AuditEvent"]

log = structlog.get_logger("realtime.audit")

MAX_CHARACTERS = 200
#: The part of the lines of one kind that one user, or one address, may have.
SHARE = 10


class AuditEvent(StrEnum):
    """The kinds of events."""

    CONNECT = "connect"
    DISCONNECT = "disconnect"
    #: A handshake, or a request, that got no further.
    REFUSED = "refused"
    LOGIN = "login"
    REFRESH = "refresh"
    #: A login that ended by itself.
    EXPIRED = "expired"
    SUBSCRIBE = "subscribe"
    #: A command or request for which there is no permission.
    DENIED = "denied"
    REVOKED = "revoked"
    #: What a back end or an operator did.
    OPERATOR = "operator"
    RATE_LIMITED = "rate_limited"


_WARNINGS = frozenset({AuditEvent.REFUSED, AuditEvent.DENIED, AuditEvent.REVOKED, AuditEvent.RATE_LIMITED})


@define(kw_only=True, eq=False)
class Audit:
    """Writes events, at most ``burst`` lines of a kind at once and ``rate`` a second. What it does never raises."""

    enabled: bool
    rate: float = field(default=50.0, validator=validators.gt(0))
    #: At least 2: what was left out is told in a line of its own, together with the next event.
    burst: float = field(default=200.0, validator=validators.ge(2))
    _now: Callable[[], float] = trio.current_time
    #: All events of each kind since the start, written or not.
    counts: dict[AuditEvent, int] = field(factory=lambda: dict.fromkeys(AuditEvent, 0), init=False)
    _left_out: dict[AuditEvent, int] = field(factory=lambda: dict.fromkeys(AuditEvent, 0), init=False)
    _shares: Buckets = field(
        default=Factory(lambda self: Buckets(self.rate / SHARE, max(1.0, self.burst / SHARE), 10_000), takes_self=True),
        init=False,
    )
    _buckets: dict[AuditEvent, Bucket] = field(
        default=Factory(lambda self: {kind: Bucket(self.rate, self.burst) for kind in AuditEvent}, takes_self=True),
        init=False,
    )

    def record(
        self,
        event: AuditEvent,
        *,
        connection: str | None = None,
        user: str | None = None,
        address: str | None = None,
        transport: str | None = None,
        topic: str | None = None,
        code: str | int | None = None,
        reason: str | None = None,
        key: str | None = None,
        count: int | None = None,
    ) -> None:
        """Count an event, and write what is known of it if the log is on; ``key`` is the name of an API key."""
        self.counts[event] += 1
        if not self.enabled:
            return
        # Each has a share of a kind's lines, so that nobody can hide what others do behind a flood of one's own.
        account = f"user {user}" if user else network(address or "")
        if (account and self._shares.take(f"{event} {account}", self._now())) or self._buckets[event].take(
            self._now(), 2 if self._left_out[event] else 1
        ):
            self._left_out[event] += 1
            return
        self._tell_left_out(event)
        members = {
            "connection": connection,
            "user": user,
            "address": address,
            "transport": transport,
            "topic": topic,
            "code": code,
            "reason": reason,
            "key": key,
            "count": count,
        }
        write = log.warning if event in _WARNINGS else log.info
        shown = {name: _shown(value) for name, value in members.items() if value is not None}
        if not _written(write, "audit", audit=event.value, **shown):
            self._left_out[event] += 1

    def flush(self) -> None:
        """Write how many events were left out and not told yet, as before an end."""
        for event in AuditEvent:
            self._tell_left_out(event)

    def _tell_left_out(self, event: AuditEvent) -> None:
        count = self._left_out[event]
        if count and _written(log.warning, "audit events left out", audit=event.value, count=count):
            self._left_out[event] = 0


def _written(write: Callable[..., object], text: str, **members: str | int) -> bool:
    """Whether a line could be written: a full disk or a closed stream is no reason to stop serving."""
    try:
        write(text, **members)
    except (OSError, ValueError):
        return False
    return True


def _shown(value: str | int) -> str | int:
    """A value as it may stand in a line, also where that is not JSON."""
    if isinstance(value, int):
        return value
    text = value[:MAX_CHARACTERS]
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escaped(ord(each)) for each in text)


def _escaped(code: int) -> str:
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004
