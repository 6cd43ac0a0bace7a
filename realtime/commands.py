"""What each command does, once the session has accepted it.

One function for each, from the connection and the command to the reply; `ACTIONS` is the table. They raise
`CommandError` for what the peer is to be told.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import trio
from msgspec import UNSET, Raw

from realtime import messages
from realtime.audit import AuditEvent
from realtime.auth import Carrier, Right, Verb
from realtime.broker import Draft
from realtime.errors import CommandError, ErrorCode
from realtime.filters import parse_filter
from realtime.messages import encode
from realtime.session import Accepted, Refused
from realtime.topics import Mode
from realtime.views import View, message_text
from realtime.wishes import Subscribe, is_given

if TYPE_CHECKING:
    from realtime.connection import Connection

__all__ = ["ACTIONS", "Reply", "error_reply", "starting_point"]

Reply = dict[str, Any]

#: What a page of history holds, unless its first message alone is longer.
MAX_PAGE_BYTES = 256 * 1024
#: Once the replies of a batch are this long, its other commands are refused.
MAX_BATCH_BYTES = 256 * 1024
#: Commands of a batch between two checkpoints.
BATCH_SLICE = 32


def error_reply(command_id: int | str | None, error: CommandError) -> Reply:
    """What a peer is told of a command that is refused."""
    return {
        "type": "error",
        "id": command_id,
        "code": error.code,
        "message": error.message,
        "retry_after": error.retry_after,
        "trace_id": error.trace_id,
    }


def starting_point(reply: Reply) -> Reply:
    """What a greeting says of a topic that the peer has."""
    return {
        name: reply[name]
        for name in ("topic", "epoch", "offset", "recovered", "why", "replayed")
        if reply[name] is not None
    }


async def _publish(connection: Connection, command: messages.Publish) -> Reply:
    publisher = connection.engine.publisher
    await connection.permits.check(Verb.PUBLISH, command.topic)
    if connection.session.identity.rights.isdisjoint((Right.PUBLISH, Right.ADMIN)):  # back ends publish as they like
        connection.engine.admission.check_publish(connection.conduct.account)
    idempotency_key = command.idempotency_key
    if idempotency_key is not None:
        # Of this user only: nobody is to learn from a receipt what others have published.
        idempotency_key = f"{connection.session.identity.user or ''}\0{idempotency_key}"
    draft = Draft(
        bytes(command.data), command.event, command.key, None if command.echo else connection.id, idempotency_key
    )
    receipt = publisher.publish_json_nowait(command.topic, draft)
    if receipt is None:
        connection.outbox.flush()  # what was answered before does not wait with us
        receipt = await publisher.publish_json(command.topic, draft)
    return {
        "type": "published",
        "id": command.id,
        "topic": command.topic,
        "epoch": receipt.epoch,
        "offset": receipt.offset,
        "duplicate": receipt.duplicate or None,
    }


async def _subscribe(connection: Connection, command: messages.Subscribe) -> Reply:
    reply = await connection.membership.join(Subscribe.of(command))
    connection.conduct.record(AuditEvent.SUBSCRIBE, topic=command.topic)
    reply["id"] = command.id
    return reply


async def _update(connection: Connection, command: messages.Update) -> Reply:
    subscription = connection.session.subscriptions[command.topic]
    view, mode, max_rate = subscription.view, subscription.asked_mode, subscription.max_rate
    fields, condition = view.fields, view.filter
    if command.fields is not UNSET:
        fields = None if command.fields is None else tuple(command.fields)
    if command.filter is not UNSET:
        condition = parse_filter(command.filter) if is_given(command.filter) else None
    if isinstance(command.mode, str):
        mode = Mode(command.mode)
    if command.max_rate is not UNSET:
        max_rate = command.max_rate
    subscription.asked_mode = mode
    mode = Mode.LATEST if max_rate is not None else mode
    connection.engine.hub.update(subscription, View.of(fields, condition, view.envelope), mode, max_rate)
    return {"type": "updated", "id": command.id, "topic": command.topic}


async def _unsubscribe(connection: Connection, command: messages.Unsubscribe) -> Reply:
    connection.membership.leave(command.topic)
    return {"type": "unsubscribed", "id": command.id, "topic": command.topic}


async def _history(connection: Connection, command: messages.History) -> Reply:
    engine = connection.engine
    await _check_looking(connection, Verb.HISTORY, command.topic)
    engine.registry.check(engine.kinds.split(command.topic)[0], command.topic)
    after = None if command.after is None else command.after.position()
    page = await engine.broker.browse(command.topic, after, command.limit)
    if not _was_placed(connection, command.topic):
        connection.permits.recheck(Verb.HISTORY, command.topic)
    found: list[Raw] = []
    size = 0
    for publication in page.publications:
        text = message_text(publication, publication.data)
        size += len(text)
        if found and size > MAX_PAGE_BYTES:
            break  # the rest is behind the last offset of this page, as after any page
        found.append(Raw(text))
    return {
        "type": "history",
        "id": command.id,
        "topic": command.topic,
        "epoch": page.top.epoch,
        "offset": page.top.offset,
        "why": page.why,
        "messages": found,
    }


async def _members(connection: Connection, command: messages.Members) -> Reply:
    engine = connection.engine
    await _check_looking(connection, Verb.PRESENCE, command.topic)
    engine.registry.check(engine.kinds.split(command.topic)[0], command.topic)
    page = engine.members(command.topic, command.after, command.limit)
    return {
        "type": "members",
        "id": command.id,
        "topic": command.topic,
        "members": page.members,
        "count": page.count,
        "next": page.next,
    }


async def _check_looking(connection: Connection, verb: Verb, topic: str) -> None:
    """Raise `CommandError` where the peer may not look around in a topic; who was placed there may."""
    if not _was_placed(connection, topic):
        await connection.permits.check(verb, topic)


def _was_placed(connection: Connection, topic: str) -> bool:
    subscription = connection.session.subscriptions.get(topic)
    return subscription is not None and subscription.placed


async def _request(connection: Connection, command: messages.Request) -> Reply | None:
    return await connection.calls.start(command, connection.start_soon)


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
                "queued": subscription.queued + subscription.held,
            }
            for subscription in connection.session.subscriptions.values()
        ],
        "queue": {"messages": facts.queue_messages, "bytes": facts.queue_bytes, "age": facts.queue_age},
    }


async def _ping(connection: Connection, command: messages.Ping) -> Reply:
    return {"type": "pong", "id": command.id, "server_time": connection.engine.now_ms()}


async def _auth(connection: Connection, command: messages.Auth) -> Reply:
    try:
        identity = await connection.engine.log_in(command.token, Carrier.MESSAGE)
        joined = await connection.log_in(identity, command.cursor)
    except CommandError as error:
        connection.conduct.fail_login(error)
        raise
    return {
        "type": "authenticated",
        "id": command.id,
        "user": identity.user,
        "expires_in": identity.expires_in,
        "topics": [starting_point(reply) for reply in joined],
    }


async def _batch(connection: Connection, command: messages.Batch) -> Reply:
    connection.outbox.corks += 1  # no message of a topic before the reply that confirms it
    replies: list[Raw] = []
    size = 0
    too_fast: CommandError | None = None
    try:
        # One after the other, also deciding: a later command may build on an earlier one.
        for number, part in enumerate(command.commands, 1):
            decision = connection.decide_part(part)
            if size > MAX_BATCH_BYTES and isinstance(decision, Accepted):
                too_long = CommandError(ErrorCode.LIMIT_EXCEEDED, "the replies of this batch are too long already")
                decision = Refused(decision.command.id, too_long)
            if isinstance(decision, Refused) and decision.error.code is ErrorCode.RATE_LIMIT_EXCEEDED:
                too_fast = decision.error
                reply: Reply | None = error_reply(decision.id, too_fast)
            else:
                reply = await connection.carry_out(decision)
            if reply is not None:
                text = encode(reply)
                replies.append(Raw(text))
                size += len(text)
            if not number % BATCH_SLICE:
                await trio.lowlevel.checkpoint()  # a thousand commands must not hold up a tick
    finally:
        connection.outbox.corks -= 1
    if too_fast is not None:  # once for all: the peer could not know before it was told
        connection.conduct.note(too_fast)
    return {"type": "batch", "id": command.id, "replies": replies}


_Action = Callable[["Connection", Any], Awaitable[Reply | None]]
ACTIONS: dict[type, _Action] = {
    messages.Auth: _auth,
    messages.Batch: _batch,
    messages.History: _history,
    messages.Members: _members,
    messages.Ping: _ping,
    messages.Publish: _publish,
    messages.Request: _request,
    messages.Stats: _stats,
    messages.Subscribe: _subscribe,
    messages.Unsubscribe: _unsubscribe,
    messages.Update: _update,
}
