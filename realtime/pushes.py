"""The shapes of everything that the server says, replies and pushes, as types.

The server writes its words by hand, where they arise: a message that a thousand subscribers share is worth that. These
structs are what the AsyncAPI document shows of them; the tests hold them against the page of the protocol, and that
page against a running server.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Raw, Struct, UnsetType, field

from realtime import messages
from realtime.errors import ErrorCode
from realtime.history import Why
from realtime.messages import CommandId
from realtime.subscription import Loss

__all__ = [
    "PUSHES",
    "REPLIES",
    "Authenticated",
    "BatchReply",
    "Disconnect",
    "Error",
    "Gap",
    "HistoryPage",
    "Join",
    "Leave",
    "MembersReply",
    "Message",
    "Pinged",
    "Pong",
    "Presence",
    "Published",
    "Response",
    "StatsReply",
    "Subscribed",
    "TokenExpiring",
    "Unsubscribed",
    "Updated",
    "Welcome",
]


class _Push(Struct, tag_field="type", tag=str.lower, frozen=True, kw_only=True):
    pass


class _Reply(_Push, frozen=True, kw_only=True):
    id: CommandId


class Standing(Struct, frozen=True):
    """A topic that a connection is subscribed to, and where it stood."""

    topic: str
    epoch: str
    offset: int


class Placed(Standing, frozen=True):
    """A topic that the server has placed the peer in."""

    recovered: Literal["full", "latest", "none"] | UnsetType = UNSET
    why: Why | UnsetType = UNSET
    replayed: int | UnsetType = UNSET


class Limits(Struct, frozen=True):
    """What this connection may do."""

    max_message_bytes: int
    max_topics: int


class Welcome(_Push, frozen=True, kw_only=True):
    """The first push of every connection."""

    protocol: int
    connection: str
    user: str | UnsetType = UNSET
    server_time: int
    ping_interval: float
    secret: str | UnsetType = UNSET
    topics: list[Placed]
    limits: Limits


class Authenticated(_Reply, frozen=True, kw_only=True):
    """The login was good. Without ``expires_in`` it does not expire. ``topics`` are those that it brought."""

    user: str | UnsetType = UNSET
    expires_in: float | UnsetType = UNSET
    topics: list[Placed]


class TokenExpiring(_Push, tag="token_expiring", frozen=True, kw_only=True):
    """The login ends in so many seconds, unless ``auth`` brings a fresh token."""

    expires_in: float


class Subscribed(_Push, frozen=True, kw_only=True):
    """The subscription is there; what is asked for of history follows. On an event stream it has no ``id``."""

    id: CommandId | UnsetType = UNSET
    topic: str
    epoch: str
    offset: int
    recovered: Literal["full", "latest", "none"] | UnsetType = UNSET
    why: Why | UnsetType = UNSET
    replayed: int | UnsetType = UNSET


class Updated(_Reply, frozen=True, kw_only=True):
    """The view is another one, from the next message on."""

    topic: str


class Unsubscribed(_Push, frozen=True, kw_only=True):
    """No more messages of this topic follow. Without ``id`` it is the server's own decision, and it says why."""

    id: CommandId | UnsetType = UNSET
    topic: str
    code: ErrorCode | UnsetType = UNSET
    resubscribe: bool | UnsetType = UNSET


class MemberShown(Struct, frozen=True):
    """One who is in a topic. Without ``user`` it is an anonymous one."""

    connection: str
    user: str | None = None
    info: dict[str, Any] = {}


class Join(_Push, frozen=True, kw_only=True):
    """Somebody is in the topic now."""

    topic: str
    member: MemberShown


class Leave(_Push, frozen=True, kw_only=True):
    """Somebody is in the topic no longer."""

    topic: str
    member: MemberShown


class Presence(_Push, frozen=True, kw_only=True):
    """More came or went than is told one by one: ``members`` has the list."""

    topic: str
    count: int
    joined: int
    left: int


class MembersReply(_Reply, tag="members", frozen=True, kw_only=True):
    """A page of those who are in a topic, and how many there are."""

    topic: str
    members: list[MemberShown]
    count: int
    next: str | UnsetType = UNSET


class Response(_Reply, frozen=True, kw_only=True):
    """What a handler made of a request."""

    action: str
    data: Raw
    trace_id: str


class Message(_Push, frozen=True, kw_only=True):
    """A message of a topic."""

    topic: str
    offset: int
    event: str | UnsetType = UNSET
    key: str | UnsetType = UNSET
    time: int
    data: Raw


class Gap(_Push, frozen=True, kw_only=True):
    """Messages that this subscription has lost."""

    topic: str
    epoch: str
    first: int = field(name="from")
    last: int = field(name="to")
    count: int
    reason: Loss
    recoverable: bool


class Published(_Reply, frozen=True, kw_only=True):
    """The message has its position; a ``duplicate`` had it before."""

    topic: str
    epoch: str
    offset: int
    duplicate: bool | UnsetType = UNSET


class HistoryPage(_Reply, tag="history", frozen=True, kw_only=True):
    """What is kept of a topic, oldest first, and where the topic stands."""

    topic: str
    epoch: str
    offset: int
    why: Why | UnsetType = UNSET
    messages: list[Message]


class Counters(Struct, frozen=True):
    """Counters of one subscription."""

    topic: str
    delivered: int
    dropped: int
    conflated: int
    filtered: int
    queued: int


class Queue(Struct, frozen=True):
    """What waits for this peer."""

    messages: int
    bytes: int
    age: float


class StatsReply(_Reply, tag="stats", frozen=True, kw_only=True):
    """The counters of this connection."""

    subscriptions: list[Counters]
    queue: Queue


class BatchReply(_Reply, tag="batch", frozen=True, kw_only=True):
    """The replies to the commands of a batch, in their order."""

    replies: list[Raw]


class Pong(_Reply, frozen=True, kw_only=True):
    """The server's time, in milliseconds since 1970."""

    server_time: int


class Pinged(_Push, tag="ping", frozen=True, kw_only=True):
    """The server is there. ``positions``: how far topics have come of which this connection does not see everything."""

    server_time: int
    positions: list[Standing] | UnsetType = UNSET


class Error(_Push, frozen=True, kw_only=True):
    """A command is refused, or, without ``id``, something that was no command."""

    id: CommandId | UnsetType = UNSET
    code: ErrorCode
    message: str
    retry_after: float | UnsetType = UNSET
    trace_id: str | UnsetType = UNSET


class Disconnect(_Push, frozen=True, kw_only=True):
    """Why the connection ends, and whether to come back."""

    code: int
    reason: str
    reconnect: bool
    retry_after: float | UnsetType = UNSET
    trace_id: str | UnsetType = UNSET


#: What comes without having been asked for by a command.
PUSHES = (
    Welcome,
    Subscribed,
    Unsubscribed,
    TokenExpiring,
    Message,
    Gap,
    Join,
    Leave,
    Presence,
    Pinged,
    Error,
    Disconnect,
)

#: What each command is answered with, unless it is refused.
REPLIES: dict[type, type] = {
    messages.Auth: Authenticated,
    messages.Subscribe: Subscribed,
    messages.Update: Updated,
    messages.Unsubscribe: Unsubscribed,
    messages.Publish: Published,
    messages.Request: Response,
    messages.Members: MembersReply,
    messages.History: HistoryPage,
    messages.Stats: StatsReply,
    messages.Ping: Pong,
    messages.Batch: BatchReply,
}
