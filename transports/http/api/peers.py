"""Peers: the live connections, and all of one user's at once."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from realtime.audit import AuditEvent
from realtime.connection import Connection
from realtime.engine import Engine
from realtime.errors import ErrorCode
from realtime.messages import TopicName
from realtime.statistics import ConnectionStatistics
from realtime.subscription import Subscription
from realtime.topics import Mode, Overflow
from transports.http.api.topics import TOPIC_ERRORS, Limit, existing
from transports.http.endpoints import Access, Endpoints

__all__ = ["peers"]

peers = Endpoints()


class ConnectionsQuery(Struct, frozen=True):
    """A page of connections: those after an id, in the order of their ids."""

    after: Annotated[str, Meta(max_length=128)] = ""
    limit: Limit = 100


class ConnectionsPage(Struct, frozen=True, omit_defaults=True):
    """Connections in the order of their ids."""

    connections: list[ConnectionStatistics]
    #: Where the next page begins; left out on the last.
    next: str | UnsetType = UNSET


class SubscriptionDetails(Struct, frozen=True, kw_only=True):
    """One connection's part in one topic. Messages are in exactly one of the counters."""

    topic: str
    epoch: str
    mode: Mode
    overflow: Overflow
    fields: list[str] | UnsetType = UNSET
    filter: Any = UNSET
    max_rate: float | UnsetType = UNSET
    delivered: int
    dropped: dict[str, int]
    conflated: int
    filtered: int
    queued: int


class ConnectionDetails(Struct, frozen=True):
    """Everything that is known about one connection."""

    connection: ConnectionStatistics
    subscriptions: list[SubscriptionDetails]


class WhichTopic(Struct, frozen=True):
    """The topic that it is about."""

    topic: TopicName


class Disconnect(Struct, frozen=True, forbid_unknown_fields=True):
    """How far it goes. A member that is not known is refused: a slip of the pen must not leave a login good."""

    revoke: bool = False


class Disconnected(Struct, frozen=True):
    """What became of a user's connections."""

    disconnected: int


class Moved(Struct, frozen=True):
    """How many of a user's connections it was about."""

    connections: int


@peers.get("/api/v1/connections")
async def list_connections(engine: Engine, query: ConnectionsQuery) -> ConnectionsPage:
    """List the live connections."""
    found = engine.connections.page(query.after, query.limit + 1)
    page = [connection.statistics() for connection in found[: query.limit]]
    return ConnectionsPage(page, page[-1].id if len(found) > query.limit else UNSET)


@peers.get("/api/v1/connections/{connection}", errors=(ErrorCode.CONNECTION_NOT_FOUND,))
async def read_connection(engine: Engine, connection: str) -> ConnectionDetails:
    """Read everything that is known about one connection: its queue, its counters, its last activity."""
    return _describe(engine.connections.find(connection))


@peers.post(
    "/api/v1/connections/{connection}/disconnect",
    access=Access.ADMIN,
    statuses=(204,),
    errors=(ErrorCode.CONNECTION_NOT_FOUND,),
)
async def disconnect_connection(engine: Engine, connection: str) -> None:
    """Close one connection, with 4003: it does not come back by itself."""
    engine.disconnect(connection)


@peers.post("/api/v1/users/{user}/disconnect", access=Access.ADMIN, errors=(ErrorCode.LIMIT_EXCEEDED,))
async def disconnect_user(engine: Engine, user: str, body: Disconnect) -> Disconnected:
    """Close all connections of a user, with 4003: they do not come back by themselves.

    With `revoke` no token or ticket that the user has been given so far is taken any more.
    """
    if not body.revoke:
        return Disconnected(engine.disconnect_user(user))
    closed = engine.revoke_user(user)
    engine.audit.record(AuditEvent.REVOKED, user=user, count=closed)
    return Disconnected(closed)


@peers.post("/api/v1/users/{user}/subscribe", access=Access.ADMIN, errors=(*TOPIC_ERRORS, ErrorCode.LIMIT_EXCEEDED))
async def subscribe_user(engine: Engine, user: str, body: WhichTopic) -> Moved:
    """Subscribe all connections of a user, whatever it may join by itself; how many have the topic now."""
    existing(engine, body.topic)
    return Moved(await engine.place_user(user, body.topic))


@peers.post("/api/v1/users/{user}/unsubscribe", access=Access.ADMIN, errors=TOPIC_ERRORS)
async def unsubscribe_user(engine: Engine, user: str, body: WhichTopic) -> Moved:
    """End the subscriptions of all connections of a user to a topic; how many had it."""
    existing(engine, body.topic)
    return Moved(engine.evict_user(user, body.topic))


def _describe(connection: Connection) -> ConnectionDetails:
    subscriptions = connection.session.subscriptions.values()
    return ConnectionDetails(connection.statistics(), [_describe_one(subscription) for subscription in subscriptions])


def _describe_one(subscription: Subscription) -> SubscriptionDetails:
    view = subscription.view
    return SubscriptionDetails(
        topic=subscription.topic,
        epoch=subscription.epoch,
        mode=subscription.mode,
        overflow=subscription.overflow,
        fields=UNSET if view.fields is None else list(view.fields),
        filter=UNSET if view.filter is None else Raw(view.filter.text),
        max_rate=UNSET if subscription.max_rate is None else subscription.max_rate,
        delivered=subscription.delivered,
        dropped={reason.value: count for reason, count in subscription.dropped.items()},
        conflated=subscription.conflated,
        filtered=subscription.filtered,
        queued=subscription.queued + subscription.held,
    )
