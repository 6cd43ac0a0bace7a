"""One poll: what came after a cursor, at once if there is anything, else as soon as something comes.

The server keeps nothing between two polls: each is a subscription for as long as it lasts, and the cursor in its
answer is where the next one goes on.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import trio
from attrs import frozen
from msgspec import Raw

from realtime.admission import whose
from realtime.audit import AuditEvent
from realtime.auth import Identity, Verb, own_topics
from realtime.closing import CloseReason
from realtime.engine import Engine
from realtime.errors import CommandError, ErrorCode
from realtime.gate import Permits, Stale
from realtime.history import Position, Since, Why, decode_cursor, encode_cursor
from realtime.local import NoWire
from realtime.outbox import Outbox
from realtime.subscription import Gap, Subscription
from realtime.wishes import Subscribe

__all__ = ["Poll", "pace", "poll"]

#: An answer is built in memory: once it is this long, the rest waits for the next poll.
MAX_ANSWER_BYTES = 1 << 20
#: Topics that are joined between two checkpoints.
_SLICE = 32


@frozen
class Poll:
    """What is asked for."""

    wishes: list[Subscribe]
    cursor: str = ""
    #: How long to wait for something to come.
    seconds: float = 25.0
    #: Messages in the answer at the most.
    limit: int = 100


def pace(engine: Engine, identity: Identity, address: str, topics: int = 1) -> None:
    """Raise `CommandError` where somebody polls too fast, and have it known.

    Who has logged in answers for himself; of all others the address does.
    """
    try:
        engine.admission.check_poll(whose(identity.user, address), topics)
    except CommandError as error:
        engine.audit.record(AuditEvent.RATE_LIMITED, user=identity.user, address=address, code=error.code)
        if identity.user is None:
            engine.admission.offend(address)
        raise


async def poll(engine: Engine, identity: Identity, wanted: Poll, address: str = "") -> dict[str, Any]:
    """The answer to a poll of somebody at this address. Raises `CommandError`."""
    pace(engine, identity, address, max(1, len(wanted.wishes)))
    own = _own(engine, identity, wanted)
    if len(wanted.wishes) > engine.settings.max_topics:
        most = engine.settings.max_topics
        raise CommandError(ErrorCode.LIMIT_EXCEEDED, f"a poll has at most {most} topics")
    with engine.admission.polling(identity.user):
        return await _answer(engine, identity, wanted, own, address)


async def _answer(
    engine: Engine, identity: Identity, wanted: Poll, own: list[tuple[Subscribe, bool]], address: str
) -> dict[str, Any]:
    resumed = decode_cursor(wanted.cursor)
    answer = _Answer(engine, identity, wanted.limit)
    engine.polls.add(answer)
    try:
        for number, wish in enumerate(wanted.wishes, 1):
            if not number % _SLICE:
                await trio.lowlevel.checkpoint()  # many topics of one poll must not hold up a tick
            await answer.join(wish)
            if wish.topic not in resumed:  # the first of a row of polls
                engine.audit.record(
                    AuditEvent.SUBSCRIBE, user=identity.user, address=address, transport="poll", topic=wish.topic
                )
        for wish, placed in own:
            with suppress(CommandError):  # what a login brings and cannot be had is left out, as everywhere
                await answer.join(wish, placed=placed)
        if answer.is_empty and wanted.seconds:
            raise CommandError(ErrorCode.BAD_REQUEST, "there is nothing to wait for: name at least one `topic`")
        seconds = wanted.seconds if identity.expires_in is None else min(wanted.seconds, identity.expires_in)
        with trio.move_on_after(max(0.0, seconds)):
            while not (answer.collect() or engine.draining):
                await answer.changed.wait()
        return answer.body()
    finally:
        engine.polls.discard(answer)
        answer.leave()


def _own(engine: Engine, identity: Identity, wanted: Poll) -> list[tuple[Subscribe, bool]]:
    """The topics that the login brings, as on every transport, and of each whether it is the peer's own."""
    positions = decode_cursor(wanted.cursor)
    named = {wish.topic for wish in wanted.wishes}
    return [
        (Subscribe(topic, since=Since(after=positions[topic]) if topic in positions else None), own)
        for topic, own in own_topics(engine.settings.auto_subscribe, identity)
        if topic not in named
    ]


class _Answer:
    """What one poll has collected so far."""

    def __init__(self, engine: Engine, identity: Identity, limit: int) -> None:
        self.identity = identity
        self.changed = trio.Event()
        self._engine = engine
        self._permits = Permits(engine.gate, identity)
        self._limit = limit
        self._topics: list[dict[str, Any]] = []
        self._messages: list[Raw] = []
        self._gaps: list[dict[str, Any]] = []
        self._size = 0
        #: How far each subscription has come in this answer.
        self._places: dict[Subscription, Position] = {}
        self._error: CommandError | None = None
        #: Topics that count on the user's account.
        self._entered = 0
        #: Whether nothing is to be told but the error.
        self._withdrawn = False
        self._outbox: Outbox = engine.hub.outbox(
            NoWire(),
            max_messages=engine.settings.outbox_messages,
            max_bytes=engine.settings.outbox_bytes,
            on_backlog=self.wake,
            on_failure=self._fail,
        )

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to wait for."""
        return not self._places

    async def join(self, wish: Subscribe, *, placed: bool = False) -> None:
        engine, permits = self._engine, self._permits
        kind, _ = engine.kinds.split(wish.topic)
        since = wish.since
        if not placed:
            await permits.check(Verb.JOIN, wish.topic)
            if since is not None and not await permits.may(Verb.HISTORY, wish.topic):
                since = None
            engine.admission.enter_topic(self.identity.user)
            self._entered += 1
        engine.registry.check(kind, wish.topic)
        most = kind.max_per_connection
        if most is not None and sum(other.kind is kind for other in self._places) >= most:
            raise CommandError(ErrorCode.LIMIT_EXCEEDED, f"a poll has at most {most} topics of this kind")
        subscription = Subscription(
            wish.topic,
            kind,
            self._outbox,
            view=wish.view,
            mode=wish.effective_mode(kind),
            max_rate=wish.max_rate,
            overflow=kind.overflow,
            placed=placed,
            on_end=self._expel,
        )
        joined = await engine.hub.subscribe(subscription, since, engine.settings.recover_limit)
        if not placed:
            try:
                permits.recheck(Verb.JOIN, wish.topic)
            except CommandError:
                engine.hub.unsubscribe(subscription)
                raise
        self._places[subscription] = engine.hub.place_of(subscription)
        described: dict[str, Any] = {
            "topic": wish.topic,
            "epoch": joined.position.epoch,
            "offset": joined.position.offset,
        }
        withheld = since is not wish.since
        if withheld:
            subscription.count_gap(Why.NO_HISTORY)
        if withheld or joined.recovered is not None:
            described["recovered"] = "none" if withheld else joined.recovered
        if withheld or joined.why is not None:
            described["why"] = Why.NO_HISTORY if withheld else joined.why
        self._topics.append(described)

    def collect(self) -> bool:
        """Take what waits; whether there is anything to answer with, be it that something is wrong with the cursor.

        Raises `CommandError` where a topic was taken away.
        """
        self._outbox.backlogged = False
        self.changed = trio.Event()
        if self._error is not None and self._withdrawn:
            raise self._error
        while len(self._messages) < self._limit and self._size < MAX_ANSWER_BYTES:
            taken = self._outbox.take_one()
            if taken is None:
                break
            subscription, entry = taken
            if isinstance(entry, Gap):
                self._gaps.append(self._outbox.describe(subscription, entry))
                continue
            self._places[subscription] = Position(subscription.epoch, entry.offset)
            text = subscription.view.text(entry)
            if text is not None:
                self._messages.append(Raw(text))
                self._size += len(text)
        if self._error is not None and not (self._messages or self._gaps):
            raise self._error
        return bool(self._messages or self._gaps) or any("why" in topic for topic in self._topics)

    def body(self) -> dict[str, Any]:
        """The answer."""
        hub, failed = self._engine.hub, self._outbox.failed
        places = {
            subscription.topic: place if failed else hub.place_of(subscription)
            for subscription, place in self._places.items()
        }
        return {
            "messages": self._messages,
            "gaps": self._gaps,
            "cursor": encode_cursor(places),
            "topics": self._topics,
        }

    def leave(self) -> None:
        """End it."""
        for subscription in self._places:
            self._engine.hub.unsubscribe(subscription)
        for _ in range(self._entered):
            self._engine.admission.leave_topic(self.identity.user)
        self._outbox.close()

    def wake(self) -> None:
        """Have the answer looked at: something has come, or the server shuts down."""
        self.changed.set()

    def end(self, topic: str | None, error: CommandError) -> bool:
        """End the poll by the server's own will, if it has this topic (None: whatever it has); whether it did.

        It is answered with the error: what was published meanwhile is not the peer's any more.
        """
        if topic is None or any(subscription.topic == topic for subscription in self._places):
            self._error, self._withdrawn = error, True
            self.changed.set()
            return True
        return False

    def withdraw(self, *, unknown: bool) -> None:
        """End the poll if it has a topic that the peer may not have any more; see `realtime.review`."""
        for subscription in self._places:
            if not subscription.placed:
                try:
                    self._permits.recheck(Verb.JOIN, subscription.topic)
                except Stale as error:
                    if unknown:
                        self.end(subscription.topic, error)
                except CommandError as error:
                    self.end(subscription.topic, error)

    async def review(self) -> None:
        """The same, after asking."""
        for subscription in list(self._places):
            if not subscription.placed:
                try:
                    await self._permits.check(Verb.JOIN, subscription.topic)
                except CommandError as error:
                    self.end(subscription.topic, error)

    def _expel(self, subscription: Subscription, error: CommandError | None) -> None:  # noqa: ARG002
        # The topic goes: what was published before is handed out first.
        self._error = error or CommandError(ErrorCode.UNAVAILABLE, "the subscription was ended")
        self.changed.set()

    def _fail(self, reason: CloseReason) -> None:  # noqa: ARG002
        """Too much came at once under policy ``disconnect``: the next poll recovers what is not in this one."""
        self.changed.set()
