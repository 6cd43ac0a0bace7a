"""Logins: tickets for those who cannot show a token, and tokens that are taken back."""

from __future__ import annotations

from typing import Annotated, Any

from attrs import evolve
from msgspec import Meta, Struct

from realtime.audit import AuditEvent
from realtime.engine import Engine
from realtime.errors import CommandError, ErrorCode
from realtime.tokens import identity_of
from transports.http.api.peers import Disconnected
from transports.http.endpoints import Access, Endpoints

__all__ = ["logins"]

logins = Endpoints()

Seconds = Annotated[float, Meta(gt=0, le=31_536_000)]


class NewTicket(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whom the ticket stands for: what a token would say of its bearer."""

    user: Annotated[str, Meta(min_length=1, max_length=200)]
    roles: Annotated[list[str], Meta(max_length=100)] = []
    #: What other members of a room may know.
    info: dict[str, Any] = {}
    #: What rules look at.
    claims: dict[str, Any] = {}
    #: The topics that it opens, as patterns, or as an object from patterns to verbs. Left out: the rules decide.
    topics: list[str] | dict[str, list[str]] | None = None
    #: How long the ticket is good; the setting `ticket_seconds` is the most, and the default.
    seconds: Seconds | None = None
    #: How long the login is good that it is taken for. Left out: as long as the connection.
    login_seconds: Seconds | None = None


class Ticket(Struct, frozen=True):
    """A ticket, good once."""

    ticket: str
    #: Seconds.
    expires_in: float


class RevokedToken(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A token, by its id: the claim `jti`."""

    token_id: Annotated[str, Meta(min_length=1, max_length=200)]
    #: When it expires, in seconds of the Unix clock, so that it need not be remembered for longer.
    until: Annotated[float, Meta(ge=0, le=253_402_300_800)] | None = None


@logins.post("/api/v1/tickets", access=Access.ISSUER, statuses=(201,), errors=(ErrorCode.LIMIT_EXCEEDED,))
async def create_ticket(engine: Engine, body: NewTicket) -> Ticket:
    """Issue a ticket: good once, for a short time, in place of a token, and in a URL as `?ticket=`."""
    try:
        identity = identity_of(body.user, body.roles, body.info, body.topics)
    except CommandError as error:
        raise CommandError(ErrorCode.BAD_REQUEST, error.message) from None
    most = engine.settings.ticket_seconds
    seconds = most if body.seconds is None else min(body.seconds, most)
    if body.login_seconds is not None:
        seconds = min(seconds, body.login_seconds)
    # Marked with the time, so that a user who is revoked afterwards, and let in again, can use a later one.
    issued_at = engine.now_ms() / 1000
    identity = evolve(identity, claims=body.claims, expires_in=body.login_seconds, issued_at=issued_at)
    return Ticket(engine.tickets.issue(identity, seconds=seconds), seconds)


@logins.post("/api/v1/tokens/revoke", access=Access.ADMIN, errors=(ErrorCode.LIMIT_EXCEEDED,))
async def revoke_token(engine: Engine, body: RevokedToken) -> Disconnected:
    """Take back one token, and close what has logged in with it."""
    leeway = engine.settings.jwt_leeway_seconds
    closed = engine.revoke_token(body.token_id, None if body.until is None else body.until + leeway)
    engine.audit.record(AuditEvent.REVOKED, count=closed)
    return Disconnected(closed)
