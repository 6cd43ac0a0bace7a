"""What one peer is subscribed to: how it gets there, by its own will or the server's, and how it leaves.

Synchronous where it decides. Only reading history waits, and what was true before is looked at again after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol

from realtime.auth import Identity, Verb, own_topics
from realtime.commands import Reply
from realtime.directory import no_such_connection
from realtime.engine import Engine
from realtime.errors import CommandError, ErrorCode
from realtime.gate import Permits, Stale
from realtime.history import Position, Since, Why
from realtime.outbox import Outbox
from realtime.presence import Member
from realtime.session import Session, State
from realtime.subscription import Subscription
from realtime.topics import PresenceMode
from realtime.wishes import Subscribe

__all__ = ["Membership"]


class Push(Protocol):
    """How the peer is told."""

    def __call__(self, kind: str, push: dict[str, Any], cursor: str | None = None) -> None:
        """Queue a push; the caller flushes."""
        ...


class Membership:
    """See the module. One for each connection; the subscriptions themselves stand in its session."""

    def __init__(
        self, engine: Engine, session: Session, outbox: Outbox, push: Push, permits: Permits, *, places: bool
    ) -> None:
        """``places``: whether a login brings topics of its own."""
        self._engine = engine
        self._permits = permits
        self._session = session
        self._outbox = outbox
        self._push = push
        self._places = places

    async def join(self, wish: Subscribe, *, placed: bool = False) -> Reply:
        """Subscribe the peer; the confirmation, which must be queued without a checkpoint between.

        ``placed``: by the server, which asks nobody. Raises `CommandError`.
        """
        account = None if placed else self._session.identity.user
        self._engine.admission.enter_topic(account)
        try:
            while True:
                with suppress(Stale):
                    reply = await self._join(wish, placed=placed)
                    self._session.subscriptions[wish.topic].account = account
                    return reply
        except BaseException:  # also when cancelled, and it goes on up
            self._engine.admission.leave_topic(account)
            raise

    async def _join(self, wish: Subscribe, *, placed: bool) -> Reply:
        """See `join`; raises `Stale` where the rules have changed on the way."""
        engine, session, permits = self._engine, self._session, self._permits
        topic = wish.topic
        kind, _ = engine.kinds.split(topic)
        since, sees_members = wish.since, True
        if not placed:
            await permits.check(Verb.JOIN, topic)
            if since is not None and not await permits.may(Verb.HISTORY, topic):
                since = None
            if kind.presence is not PresenceMode.NONE:
                sees_members = await permits.may(Verb.PRESENCE, topic)
        engine.registry.check(kind, topic)
        if refusal := session.join_refusal(topic, kind, placed=placed):
            raise refusal
        self._restamp()
        subscription = Subscription(
            topic,
            kind,
            self._outbox,
            view=wish.view,
            mode=wish.effective_mode(kind),
            asked_mode=wish.mode or kind.mode,
            max_rate=wish.max_rate,
            overflow=kind.overflow,
            placed=placed,
            sees_members=sees_members,
            on_end=self._end_subscription,
        )
        session.joining.add(topic)
        try:
            joined = await engine.hub.subscribe(subscription, since, engine.settings.recover_limit)
        finally:
            session.joining.discard(topic)
        try:
            if session.state is State.CLOSING:
                raise no_such_connection()
            # While history was read the topic may have gone, and the right to it.
            engine.registry.check(kind, topic)
            if not placed:
                permits.recheck(Verb.JOIN, topic)
                if kind.presence is not PresenceMode.NONE:
                    subscription.sees_members = bool(permits.now(Verb.PRESENCE, topic))
            if kind.presence is not PresenceMode.NONE:
                engine.presence.enter(topic, kind, self._member())
        except CommandError:
            engine.hub.unsubscribe(subscription)
            raise
        session.subscriptions[topic] = subscription
        withheld = since is not wish.since
        if withheld:
            subscription.count_gap(Why.NO_HISTORY)
        return {
            "type": "subscribed",
            "topic": topic,
            "epoch": joined.position.epoch,
            "offset": joined.position.offset,
            "recovered": "none" if withheld else joined.recovered,
            "why": Why.NO_HISTORY if withheld else joined.why,
            "replayed": joined.replayed if joined.recovered else None,
        }

    async def place(self, wish: Subscribe) -> None:
        """Subscribe the peer by the server's own will, and tell it. Raises `CommandError`."""
        if not self._places:
            raise CommandError(ErrorCode.PERMISSION_DENIED, "this connection is for one topic only")
        reply = await self.join(wish, placed=True)
        self._push("subscribed", reply, cursor=self._outbox.cursor)
        self._outbox.flush()

    def leave(self, topic: str) -> None:
        """End a subscription that the peer has."""
        subscription = self._session.subscriptions.pop(topic)
        self._engine.hub.unsubscribe(subscription)
        self._engine.admission.leave_topic(subscription.account)
        if subscription.kind.presence is not PresenceMode.NONE:
            self._engine.presence.leave(topic, self._session.id, lost=False)

    def evict(self, topic: str, error: CommandError | None, *, resubscribe: bool = False) -> bool:
        """End a subscription by the server's own will, and tell the peer why; False where it has none."""
        subscription = self._session.subscriptions.get(topic)
        if subscription is None:
            return False
        lost = subscription.left_behind()
        if lost is not None:
            self._push("gap", self._outbox.describe(subscription, lost))
            subscription.count_loss(lost.reason, subscription.queued + subscription.held + len(subscription.replay))
        self.leave(topic)
        code = None if error is None else error.code
        self._push("unsubscribed", {"type": "unsubscribed", "topic": topic, "code": code, "resubscribe": resubscribe})
        self._outbox.flush()
        return True

    def _end_subscription(self, subscription: Subscription, error: CommandError | None) -> None:
        self.evict(subscription.topic, error)

    def _restamp(self) -> None:
        """Before a second topic: a cursor that is shared by all who see a message tells of one topic only."""
        framing, session = self._outbox.wire.framing, self._session
        if not (session.subscriptions or session.joining):
            return
        if framing is not None and framing.cursors and not framing.stamped:
            self._engine.hub.reframe(self._outbox, session.subscriptions.values(), framing.several)

    async def join_own(self, identity: Identity, positions: Mapping[str, Position]) -> list[Reply]:
        """Place the peer where its login brings it; what cannot be had is left out."""
        if not self._places:
            return []
        replies = []
        for topic, own in own_topics(self._engine.settings.auto_subscribe, identity):
            if topic not in self._session.subscriptions:
                since = Since(after=positions[topic]) if topic in positions else None
                with suppress(CommandError):
                    replies.append(await self.join(Subscribe(topic, since=since), placed=own))
        return replies

    def leave_own(self, before: Identity, now: Identity) -> None:
        """Take from the peer what its login brought, and a fresh one does not bring any more."""
        templates = self._engine.settings.auto_subscribe
        kept = set(own_topics(templates, now))
        for topic, own in own_topics(templates, before):
            if own and (topic, own) not in kept:
                self.evict(
                    topic, CommandError(ErrorCode.PERMISSION_DENIED, "the login does not bring this topic any more")
                )

    def recheck(self, stamp: object) -> None:
        """Raise `CommandError` where the peer has by now what it may not have. ``stamp``: that of `Permits`, before."""
        if stamp == self._permits.stamp:
            return
        for topic, subscription in self._session.subscriptions.items():
            if not subscription.placed:
                self._permits.recheck(Verb.JOIN, topic)

    def withdraw(self, *, unknown: bool) -> None:
        """End what the peer may not have any more, as far as that is known; see `realtime.review`."""
        for topic, subscription in list(self._session.subscriptions.items()):
            if subscription.placed:
                continue
            try:
                self._permits.recheck(Verb.JOIN, topic)
                if subscription.kind.presence is not PresenceMode.NONE:
                    subscription.sees_members = bool(self._permits.now(Verb.PRESENCE, topic))
            except Stale as error:
                if unknown:
                    self.evict(topic, error, resubscribe=True)
            except CommandError as error:
                self.evict(topic, error)

    async def review(self) -> None:
        """End what the peer may not have any more: it has logged in anew, or the rules have changed."""
        for topic, subscription in list(self._session.subscriptions.items()):
            if subscription.placed:
                continue
            try:
                await self._permits.check(Verb.JOIN, topic)
                if subscription.kind.presence is not PresenceMode.NONE:
                    subscription.sees_members = await self._permits.may(Verb.PRESENCE, topic)
            except CommandError as error:
                if self._session.subscriptions.get(topic) is subscription:
                    # Where nobody can be asked, the peer may come back and ask again.
                    self.evict(topic, error, resubscribe=error.code is not ErrorCode.PERMISSION_DENIED)

    def change_member(self) -> None:
        """Be there as a user where this was there without a name."""
        presence = self._engine.presence
        for topic, subscription in self._session.subscriptions.items():
            if subscription.kind.presence is not PresenceMode.NONE:
                presence.leave(topic, self._session.id, lost=False)
                with suppress(CommandError):
                    presence.enter(topic, subscription.kind, self._member())

    def _member(self) -> Member:
        identity = self._session.identity
        return Member(identity.user, self._session.id, dict(identity.info))

    def leave_all(self, *, lost: bool, keep_queue: bool = True) -> None:
        """The connection ends. What was queued stays in the outbox, for its last writes, if it may have it."""
        engine = self._engine
        for topic, subscription in self._session.subscriptions.items():
            engine.hub.unsubscribe(subscription, keep_queue=keep_queue)
            engine.admission.leave_topic(subscription.account)
            if subscription.kind.presence is not PresenceMode.NONE:
                engine.presence.leave(topic, self._session.id, lost=lost)
        self._session.subscriptions.clear()
