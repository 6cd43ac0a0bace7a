"""Publishing: to a topic, to many, to users, roles and connections."""

from __future__ import annotations

from typing import Annotated, Any

import trio
from msgspec import UNSET, Meta, Struct, UnsetType

from realtime.engine import Engine
from realtime.errors import CommandError, ErrorCode
from realtime.idempotency import Receipt
from realtime.messages import MessageBody, PublishBody, TopicName
from realtime.publishing import draft_of
from transports.http.endpoints import Endpoints

__all__ = ["publishing"]

publishing = Endpoints()

#: More in one request would be a request that nobody can take back.
MOST = 1000
#: Messages between two checkpoints: 32 are half a millisecond.
_SLICE = 32

PUBLISH_ERRORS = (
    ErrorCode.INVALID_TOPIC,
    ErrorCode.INVALID_SYMBOL,
    ErrorCode.ROOM_NOT_FOUND,
    ErrorCode.SESSION_NOT_FOUND,
    ErrorCode.PAYLOAD_TOO_LARGE,
    ErrorCode.LIMIT_EXCEEDED,
    ErrorCode.TIMEOUT,
    ErrorCode.UNAVAILABLE,
)


class Published(Struct, tag_field="type", tag="published", frozen=True, omit_defaults=True):
    """A message that has its position."""

    topic: str
    epoch: str
    offset: int
    #: Whether it had it before.
    duplicate: bool = False


class Refused(Struct, tag_field="type", tag="error", frozen=True, omit_defaults=True):
    """A message that was not published; the others were not held up by it."""

    topic: str
    code: ErrorCode
    message: str
    retry_after: float | None = None


class Results(Struct, frozen=True):
    """What became of each message, in the order of the request."""

    results: list[Published | Refused]


class Broadcast(MessageBody, frozen=True, kw_only=True):
    """A message to several topics, or to everybody who has a role."""

    topics: Annotated[list[TopicName], Meta(max_length=MOST)] | UnsetType = UNSET
    role: Annotated[str, Meta(min_length=1, max_length=200)] | UnsetType = UNSET


@publishing.post("/api/v1/publish", errors=PUBLISH_ERRORS)
async def publish(engine: Engine, body: PublishBody) -> Receipt:
    """Publish to a topic, of any kind."""
    return await engine.publisher.publish_json(body.topic, draft_of(body))


@publishing.post("/api/v1/batch")
async def publish_batch(engine: Engine, body: Annotated[list[PublishBody], Meta(max_length=MOST)]) -> Results:
    """Publish many messages, one after the other.

    One that is refused does not keep the others from being published. Only a body that is no list of messages is
    refused as a whole.
    """
    results: list[Published | Refused] = []
    for count, message in enumerate(body, 1):
        try:
            receipt = await engine.publisher.publish_json(message.topic, draft_of(message))
            results.append(_result(message.topic, receipt))
        except CommandError as error:
            results.append(_result(message.topic, error))
        if not count % _SLICE:
            await trio.lowlevel.checkpoint()
    return Results(results)


@publishing.post("/api/v1/broadcast")
async def broadcast(engine: Engine, body: Broadcast) -> Results:
    """Publish one message to each of several `topics`, or to everybody who has a `role`."""
    if isinstance(body.topics, list) and body.role is UNSET:
        topics = body.topics
    elif isinstance(body.role, str) and body.topics is UNSET:
        topics = [f"role:{body.role}"]
    else:
        raise CommandError(ErrorCode.BAD_REQUEST, "a broadcast has either `topics` or a `role`")
    results = await engine.broadcast(topics, body.data, **_options(body))
    return Results([_result(topic, result) for topic, result in zip(topics, results, strict=True)])


@publishing.post("/api/v1/users/{user}/send", errors=PUBLISH_ERRORS)
async def send_to_user(engine: Engine, user: str, body: MessageBody) -> Published:
    """Send to all connections of a user, now or when it comes back."""
    return _published(f"user:{user}", await engine.send_to_user(user, body.data, **_options(body)))


@publishing.post("/api/v1/connections/{connection}/send", errors=(*PUBLISH_ERRORS, ErrorCode.CONNECTION_NOT_FOUND))
async def send_to_connection(engine: Engine, connection: str, body: MessageBody) -> Published:
    """Send to one connection."""
    receipt = await engine.send_to_connection(connection, body.data, **_options(body))
    return _published(f"connection:{connection}", receipt)


def _options(body: MessageBody) -> dict[str, Any]:
    return {"event": body.event, "key": body.key, "idempotency_key": body.idempotency_key}


def _published(topic: str, receipt: Receipt) -> Published:
    return Published(topic, receipt.epoch, receipt.offset, receipt.duplicate)


def _result(topic: str, result: Receipt | CommandError) -> Published | Refused:
    if isinstance(result, CommandError):
        return Refused(topic, result.code, result.message, result.retry_after)
    return _published(topic, result)
