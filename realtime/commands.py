"""What each command does, once the session has accepted it.

One function for each, from the connection and the command to the reply; `ACTIONS` is the table. They raise
`CommandError` for what the peer is to be told.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from attrs import frozen
from msgspec import UNSET, Raw

from realtime import messages
from realtime.errors import CommandError, ErrorCode
from realtime.history import Since
from realtime.messages import encode
from realtime.topics import Mode
from realtime.views import EVERYTHING, View, message_text

if TYPE_CHECKING:
    from realtime.connection import Connection

__all__ = ["ACTIONS", "Reply", "Subscribe", "error_reply"]

Reply = dict[str, Any]


@frozen
class Subscribe:
    """A subscription that is asked for: by a command, by a URL, by a route."""

    topic: str
    view: View = EVERYTHING
    mode: Mode | None = None
    since: Since | None = None


def error_reply(command_id: int | str | None, error: CommandError) -> Reply:
    """What a peer is told of a command that is refused."""
    return {
        "type": "error",
        "id": command_id,
        "code": error.code,
        "message": error.message,
        "retry_after": error.retry_after,
    }


async def _publish(connection: Connection, command: messages.Publish) -> Reply:
    publisher = connection.engine.publisher
    position = publisher.publish_json_nowait(command.topic, command.data, command.event, command.key)
    if position is None:
        connection.outbox.flush()  # what was answered before does not wait with us
        position = await publisher.publish_json(command.topic, command.data, command.event, command.key)
    return {
        "type": "published",
        "id": command.id,
        "topic": command.topic,
        "epoch": position.epoch,
        "offset": position.offset,
    }


async def _subscribe(connection: Connection, command: messages.Subscribe) -> Reply:
    wish = Subscribe(
        command.topic,
        View.of(command.fields),
        None if command.mode is None else Mode(command.mode),
        command.since(),
    )
    reply = await connection.join(wish)
    reply["id"] = command.id
    return reply


async def _update(connection: Connection, command: messages.Update) -> Reply:
    subscription = connection.session.subscriptions[command.topic]
    view, mode = subscription.view, subscription.mode
    if command.fields is not UNSET:
        view = View.of(command.fields)
    if isinstance(command.mode, str):
        mode = Mode(command.mode)
    connection.engine.hub.update(subscription, view, mode)
    return {"type": "updated", "id": command.id, "topic": command.topic}


async def _unsubscribe(connection: Connection, command: messages.Unsubscribe) -> Reply:
    subscription = connection.session.subscriptions.pop(command.topic)
    connection.engine.hub.unsubscribe(subscription)
    return {"type": "unsubscribed", "id": command.id, "topic": command.topic}


async def _history(connection: Connection, command: messages.History) -> Reply:
    after = None if command.after is None else command.after.position()
    page = await connection.engine.broker.browse(command.topic, after, command.limit)
    return {
        "type": "history",
        "id": command.id,
        "topic": command.topic,
        "epoch": page.top.epoch,
        "offset": page.top.offset,
        "why": page.why,
        "messages": [Raw(message_text(found, found.data)) for found in page.publications],
    }


async def _stats(connection: Connection, command: messages.Stats) -> Reply:
    facts = connection.statistics()
    return {
        "type": "stats",
        "id": command.id,
        "subscriptions": [
            {
                "topic": subscription.topic,
                "delivered": subscription.delivered,
                "dropped": subscription.dropped_total,
                "conflated": subscription.conflated,
                "filtered": subscription.filtered,
            }
            for subscription in connection.session.subscriptions.values()
        ],
        "queue": {"messages": facts.queue_messages, "bytes": facts.queue_bytes, "age": facts.queue_age},
    }


async def _ping(connection: Connection, command: messages.Ping) -> Reply:
    return {"type": "pong", "id": command.id, "server_time": connection.engine.now_ms()}


async def _auth(connection: Connection, command: messages.Auth) -> Reply:
    identity = await connection.engine.authenticate(command.token)
    known = connection.session.identity.user
    if known is not None and identity.user != known:
        raise CommandError(ErrorCode.AUTH_FAILED, "a connection cannot change its user")
    connection.log_in(identity)
    return {"type": "authenticated", "id": command.id, "user": identity.user, "expires_in": identity.expires_in}


async def _batch(connection: Connection, command: messages.Batch) -> Reply:
    connection.outbox.corked = True  # no message of a topic before the reply that confirms it
    try:
        # One after the other, also deciding: a later command may build on an earlier one.
        replies = [await connection.carry_out(connection.session.decide_part(part)) for part in command.commands]
    finally:
        connection.outbox.corked = False
    return {"type": "batch", "id": command.id, "replies": [Raw(encode(reply)) for reply in replies]}


_Action = Callable[["Connection", Any], Awaitable[Reply]]
ACTIONS: dict[type, _Action] = {
    messages.Auth: _auth,
    messages.Batch: _batch,
    messages.History: _history,
    messages.Ping: _ping,
    messages.Publish: _publish,
    messages.Stats: _stats,
    messages.Subscribe: _subscribe,
    messages.Unsubscribe: _unsubscribe,
    messages.Update: _update,
}
