"""Topics: which there are, who is in them, what was said."""

from __future__ import annotations

from typing import Annotated

import trio
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from realtime.engine import Engine
from realtime.errors import CommandError, ErrorCode
from realtime.history import Position, Why
from realtime.messages import Offset, TopicName
from realtime.presence import MembersPage
from realtime.pushes import Message
from realtime.topics import Kind, PresenceMode
from transports.http.endpoints import Access, Answer, Endpoints

__all__ = ["topics"]

topics = Endpoints()

TOPIC_ERRORS = (
    ErrorCode.INVALID_TOPIC,
    ErrorCode.INVALID_SYMBOL,
    ErrorCode.ROOM_NOT_FOUND,
    ErrorCode.SESSION_NOT_FOUND,
)
Limit = Annotated[int, Meta(ge=1, le=1000)]


class TopicsQuery(Struct, frozen=True):
    """A page of topics: those after a name, in the order of their names."""

    after: Annotated[str, Meta(max_length=1024)] = ""
    limit: Limit = 100


class MembersQuery(Struct, frozen=True):
    """A page of members: those after the ``next`` of the page before."""

    after: Annotated[str, Meta(max_length=512, pattern=r"^[0-9]*$")] = ""
    limit: Limit = 100


class HistoryQuery(Struct, frozen=True):
    """A page of history: what comes after a position, oldest first; without one, from the oldest that is kept."""

    epoch: Annotated[str, Meta(max_length=64)] | UnsetType = UNSET
    offset: Offset | UnsetType = UNSET
    limit: Limit = 100


class Topic(Struct, frozen=True, kw_only=True):
    """A topic and the counters of its subscribers, present and past, since it was last without any."""

    topic: str
    subscribers: int
    #: Left out where the kind keeps no presence.
    members: int | UnsetType = UNSET
    delivered: int
    dropped: dict[str, int]
    conflated: int
    filtered: int


class TopicDetails(Topic, frozen=True, kw_only=True):
    """The same, and where the topic stands."""

    epoch: str
    offset: int


class TopicsPage(Struct, frozen=True, omit_defaults=True):
    """Topics in the order of their names."""

    topics: list[Topic]
    #: Where the next page begins; left out on the last.
    next: str | UnsetType = UNSET


class HistoryPage(Struct, frozen=True, kw_only=True):
    """What is kept of a topic, oldest first, and where the topic stands."""

    topic: str
    epoch: str
    offset: int
    #: Why this is not all that was asked for.
    why: Why | UnsetType = UNSET
    messages: list[Message]
    #: The ``offset`` of the next page, in the same epoch; left out on the last.
    next: int | UnsetType = UNSET


class NewTopic(Struct, frozen=True):
    """A topic to create."""

    topic: TopicName


class TopicCreated(Struct, frozen=True):
    """A topic that is there."""

    topic: str
    #: Whether it was not there before.
    created: bool


@topics.get("/api/v1/topics")
async def list_topics(engine: Engine, query: TopicsQuery) -> TopicsPage:
    """List the topics, those that somebody has used of late and those that were created."""
    wanted = query.limit + 1
    used = await engine.broker.topics(query.after, wanted)
    names = sorted({*used, *engine.registry.names(query.after, wanted)})
    page = []
    for name in names[: query.limit]:
        page.append(_describe(engine, name))
        await trio.lowlevel.checkpoint()  # one topic may have all the subscribers there are
    return TopicsPage(page, page[-1].topic if len(names) > query.limit else UNSET)


@topics.post(
    "/api/v1/topics",
    access=Access.ADMIN,
    statuses=(201, 200),
    errors=(ErrorCode.INVALID_TOPIC, ErrorCode.INVALID_SYMBOL, ErrorCode.LIMIT_EXCEEDED),
)
async def create_topic(engine: Engine, body: NewTopic) -> Answer[TopicCreated]:
    """Create a topic of a kind whose topics must be; 200 where it is there already."""
    created = engine.create_topic(body.topic)
    return Answer(201 if created else 200, TopicCreated(body.topic, created))


@topics.get("/api/v1/topics/{topic}", errors=TOPIC_ERRORS)
async def read_topic(engine: Engine, topic: str) -> TopicDetails:
    """Read a topic's counters and where it stands."""
    position = await _find(engine, topic)
    plain = _describe(engine, topic)
    members = {name: getattr(plain, name) for name in plain.__struct_fields__}
    return TopicDetails(**members, epoch=position.epoch, offset=position.offset)


@topics.delete(
    "/api/v1/topics/{topic}", access=Access.ADMIN, statuses=(204,), errors=(*TOPIC_ERRORS, ErrorCode.BAD_REQUEST)
)
async def remove_topic(engine: Engine, topic: str) -> None:
    """Take a topic away: who has it is told, its history is gone. The topic of a progress session goes with that."""
    await _find(engine, topic)
    if topic in engine.progress:
        raise CommandError(ErrorCode.BAD_REQUEST, "the topic of a session goes with the session")
    await engine.remove_topic(topic)


@topics.get("/api/v1/topics/{topic}/members", errors=(*TOPIC_ERRORS, ErrorCode.BAD_REQUEST))
async def list_members(engine: Engine, topic: str, query: MembersQuery) -> MembersPage:
    """List who is in a topic. Nobody is in one that nobody uses."""
    existing(engine, topic)
    return engine.members(topic, query.after or None, query.limit)


@topics.get("/api/v1/topics/{topic}/history", errors=TOPIC_ERRORS)
async def read_history(engine: Engine, topic: str, query: HistoryQuery) -> HistoryPage:
    """Read what is kept of a topic. Both `epoch` and `offset` are given, or none."""
    after = None
    if isinstance(query.epoch, str) and isinstance(query.offset, int):
        after = Position(query.epoch, query.offset)
    elif query.epoch is not UNSET or query.offset is not UNSET:
        raise CommandError(ErrorCode.BAD_REQUEST, "a position has both `epoch` and `offset`")
    await _find(engine, topic)
    page = await engine.broker.browse(topic, after, query.limit)
    last = page.publications[-1].offset if page.publications else page.top.offset
    return HistoryPage(
        topic=topic,
        epoch=page.top.epoch,
        offset=page.top.offset,
        why=page.why or UNSET,
        messages=[
            Message(
                topic=topic,
                offset=found.offset,
                event=UNSET if found.event is None else found.event,
                key=UNSET if found.key is None else found.key,
                time=found.time,
                data=Raw(found.data),
            )
            for found in page.publications
        ],
        next=last if last < page.top.offset else UNSET,
    )


def existing(engine: Engine, topic: str) -> Kind:
    """The kind of a topic that may be used. Raises `CommandError`."""
    kind, _ = engine.kinds.split(topic)
    engine.registry.check(kind, topic)
    return kind


async def _find(engine: Engine, topic: str) -> Position:
    """Where a topic stands that somebody uses, or has created. Raises `CommandError`."""
    kind = existing(engine, topic)
    position = await engine.broker.position(topic)
    if position is None and not kind.must_exist:
        raise CommandError(kind.missing_code, f"there is no such {kind.name}")
    return position or Position("", 0)


def _describe(engine: Engine, topic: str) -> Topic:
    kind, _ = engine.kinds.split(topic)
    counted = engine.hub.topic_statistics(topic)
    return Topic(
        topic=topic,
        subscribers=0 if counted is None else counted.subscribers,
        members=UNSET if kind.presence is PresenceMode.NONE else engine.presence.count(topic),
        delivered=0 if counted is None else counted.delivered,
        dropped={} if counted is None else counted.dropped,
        conflated=0 if counted is None else counted.conflated,
        filtered=0 if counted is None else counted.filtered,
    )
