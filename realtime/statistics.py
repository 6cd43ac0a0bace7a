"""What is counted, and what is known, in snapshots: of a server, and of one connection."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from attrs import frozen

from realtime.feeds import FeedStatistics
from realtime.hub import HubStatistics
from realtime.presence import PresenceStatistics
from realtime.progress import ProgressStatistics
from realtime.requests import ActionStatistics

if TYPE_CHECKING:
    from realtime.engine import Engine

__all__ = ["ConnectionStatistics", "EngineStatistics"]


@frozen
class ConnectionStatistics:
    """What is known about one connection."""

    id: str
    user: str | None
    #: Where it comes from, as far as is known: a proxy's word is taken only where the proxy is trusted.
    address: str
    transport: str
    connected_seconds: float
    heard_seconds_ago: float
    #: Since its last command; a ping is none.
    idle_seconds: float
    commands: int
    #: Requests that are under way.
    requests: int
    subscriptions: int
    queue_messages: int
    queue_bytes: int
    queue_age: float


@frozen
class EngineStatistics:
    """A snapshot of everything that is counted."""

    uptime_seconds: float
    connections: int
    users: int
    transports: dict[str, int]
    #: Requests and peers that were turned away, by reason.
    refused: dict[str, int]
    #: What the audit log was told, by sort, also where it is not written.
    audit: dict[str, int]
    tickets_issued: int
    tickets_redeemed: int
    tickets_refused: int
    #: Tokens and users that were revoked, and logins that were refused for it.
    revoked: int
    revoked_refused: int
    #: Publishes that brought nothing new.
    duplicates: int
    #: Topics that were created and removed by request.
    created_topics: int
    removed_topics: int
    hub: HubStatistics
    presence: PresenceStatistics
    progress: ProgressStatistics
    actions: list[ActionStatistics]
    feeds: list[FeedStatistics]

    @classmethod
    def of(cls, engine: Engine, uptime_seconds: float) -> EngineStatistics:
        """What an engine has counted by now."""
        transports = Counter(connection.transport for connection in engine.connections)
        return cls(
            uptime_seconds=round(uptime_seconds, 3),
            connections=len(engine.connections),
            users=engine.connections.users,
            transports=dict(transports),
            refused=dict(engine.refused),
            audit={event.value: count for event, count in engine.audit.counts.items()},
            tickets_issued=engine.tickets.issued,
            tickets_redeemed=engine.tickets.redeemed,
            tickets_refused=engine.tickets.refused,
            revoked=engine.revocations.revoked,
            revoked_refused=engine.revocations.refused,
            duplicates=engine.publisher.duplicates,
            created_topics=engine.registry.created,
            removed_topics=engine.registry.removed,
            hub=engine.hub.statistics(),
            presence=engine.presence.statistics(),
            progress=engine.progress.statistics(),
            actions=engine.actions.statistics(),
            feeds=engine.feeds.statistics(),
        )
