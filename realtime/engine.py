"""The house without the street: broker, hub and connections, before any socket is opened.

::

    open_engine
    |- broker     cancelled last
    |- hub        cancelled last
    |- presence   tells who came and who went
    |- progress   sweeps sessions that were abandoned
    '- feeds      push into topics

For a program that wants the hub in its own Trio nursery. `realtime.server` adds the transports.

A little long for this house: it is the one list of what a program may ask of a server, and each entry is a few lines
that hand on to the part that does it.
"""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from typing import Any, Protocol, TypeVar, Unpack
from weakref import WeakValueDictionary

import trio
from attrs import evolve, fields

from realtime.activity import Lookout
from realtime.admission import OFFENCES, Admission, Crowded, Foreign
from realtime.api_keys import ApiKeys
from realtime.audit import Audit, AuditEvent
from realtime.auth import Authenticate, Identity
from realtime.broker import Broker, MemoryBroker
from realtime.closing import FORBIDDEN, SHUTTING_DOWN, CloseReason, with_jitter
from realtime.config import Settings
from realtime.directory import Directory
from realtime.errors import CommandError, ErrorCode, lone
from realtime.events import EventCatalogue
from realtime.feeds import Feeds
from realtime.gate import Authorize, Denied, Gate
from realtime.history import Since
from realtime.hub import Hub
from realtime.idempotency import Receipt, Receipts
from realtime.ingress import Ingress
from realtime.local import LocalSubscription, subscribe_locally
from realtime.login import Login
from realtime.presence import MembersPage, Presence
from realtime.progress import ProgressSessions
from realtime.publishing import Publisher
from realtime.registry import Registry
from realtime.requests import ActionOptions, Actions
from realtime.review import review
from realtime.revocation import Revocations
from realtime.routes import Route, Routes
from realtime.statistics import EngineStatistics
from realtime.tickets import Tickets
from realtime.topics import Mode, Overflow, PresenceMode
from realtime.wishes import Subscribe

__all__ = ["Engine", "lone_exceptions_bare", "open_engine"]

#: How long those who have a topic that ends may hold up its end.
HANDING_OUT_SECONDS = 5.0
#: Settings that take effect while the server runs.
RELOADED = ("api_keys", "origins", "rules")

Handler = TypeVar("Handler", bound=Callable[..., Any])
Feed = TypeVar("Feed", bound=Callable[..., Any])
Result = TypeVar("Result")


class Poller(Protocol):
    """One poll that waits; see `realtime.polling`."""

    @property
    def identity(self) -> Identity:
        """Whose it is."""
        ...

    def wake(self) -> None:
        """Have it look whether there is something to answer."""
        ...

    def end(self, topic: str | None, error: CommandError) -> bool:
        """End it, if it has this topic (None: whatever it has); whether it did."""
        ...

    def withdraw(self, *, unknown: bool) -> None:
        """See `realtime.review.Reviewed`."""
        ...

    async def review(self) -> None:
        """See `realtime.review.Reviewed`."""
        ...


class Engine:
    """Holds the parts together; running them is `open_engine`'s work."""

    def __init__(
        self,
        settings: Settings,
        *,
        broker: Broker | None = None,
        authenticate: Authenticate | None = None,
        authorize: Authorize | None = None,
        catalogue: EventCatalogue | None = None,
        actions: Actions | None = None,
        feeds: Feeds | None = None,
        routes: Iterable[Route] = (),
        now_ms: Callable[[], int] | None = None,
    ) -> None:
        self.settings = settings
        self.kinds = settings.all_kinds()
        self.now_ms = now_ms or (lambda: time.time_ns() // 1_000_000)
        if broker is None:  # one that knows no topics yet is empty, which is not the same
            broker = MemoryBroker(
                self.kinds,
                max_topics=settings.max_server_topics,
                max_history_bytes=settings.max_history_bytes,
                receipts=Receipts(settings.idempotency_keys, settings.idempotency_seconds),
                now_ms=self.now_ms,
            )
        self.broker: Broker = broker
        self.audit = Audit(enabled=bool(settings.audit))
        self.tickets = Tickets(most=settings.max_tickets, now=trio.current_time)
        self.revocations = Revocations(keep_seconds=settings.revocation_seconds)
        #: From a token and the way it came to an identity. Raises `CommandError`.
        self.log_in = Login(
            authenticate,
            self.tickets,
            self.revocations,
            find_key=lambda text: self.api_keys.find(text),  # noqa: PLW0108 - others are there after a reload
            timeout_seconds=settings.authorize_timeout_seconds,
        )
        self.gate = Gate(settings.policy(self.kinds), authorize, timeout_seconds=settings.authorize_timeout_seconds)
        self.api_keys = ApiKeys(settings.api_keys)
        self.ingress = Ingress(settings.ingress_messages, settings.ingress_bytes)
        self.hub = Hub(self.broker, self.ingress)
        self.registry = Registry(self.kinds, settings.max_server_topics)
        self.catalogue = catalogue or EventCatalogue()
        self.publisher = Publisher(
            self.kinds,
            self.broker,
            self.hub,
            self.registry,
            max_message_bytes=settings.max_message_bytes,
            catalogue=self.catalogue,
        )
        self.presence = Presence(self.hub.tell)
        self.actions = actions or Actions()
        self.feeds = feeds or Feeds()
        self.hub.on_audience = self.feeds.audience
        self.routes = Routes(routes)
        self.progress = ProgressSessions(
            self,
            max_running=settings.max_sessions,
            max_nodes=settings.max_session_nodes,
            keep_seconds=settings.session_keep_seconds,
            abandoned_seconds=settings.session_abandoned_seconds,
            now_ms=self.now_ms,
        )
        self.connections = Directory()
        self.activity = Lookout(self.hub, self.connections)
        #: Requests and peers that were turned away, by reason.
        self.refused: dict[str, int] = {}
        self.admission = Admission(settings, self.refuse)
        #: Where jitter comes from; tests put a constant here.
        self.random: Callable[[], float] = random.random
        #: Whether a shutdown has begun: no new work is to be sent here.
        self.draining = False
        #: Those who wait for an answer to a poll.
        self.polls: set[Poller] = set()
        #: Of each connection that is just being placed in its own topic.
        self._placing: WeakValueDictionary[str, trio.Lock] = WeakValueDictionary()
        self._started_at = 0.0
        self._token: trio.lowlevel.TrioToken | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run everything that has a task of its own until cancelled."""
        self._started_at = trio.current_time()
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            await nursery.start(self.broker.run, self.ingress)
            await nursery.start(self.hub.run)
            await nursery.start(self.presence.run)
            await nursery.start(self.progress.run)
            await nursery.start(self.feeds.run, self)
            task_status.started()

    # -- registering -----------------------------------------------------------------------------------------

    def handler(self, name: str, **options: Unpack[ActionOptions]) -> Callable[[Handler], Handler]:
        """Register a handler of requests: see `Actions.handler`."""
        return self.actions.handler(name, **options)

    def feed(self, **options: Any) -> Callable[[Feed], Feed]:
        """Register a feed: see `Feeds.feed`."""
        return self.feeds.feed(**options)

    # -- sending ---------------------------------------------------------------------------------------------

    async def publish(
        self,
        topic: str,
        data: Any,
        *,
        event: str | None = None,
        key: str | None = None,
        idempotency_key: str | None = None,
    ) -> Receipt:
        """Publish to a topic; see `Publisher.publish`."""
        return await self.publisher.publish(topic, data, event=event, key=key, idempotency_key=idempotency_key)

    async def broadcast(self, topics: Iterable[str], data: Any, **options: Any) -> list[Receipt | CommandError]:
        """Publish to several topics, with the options of `publish`; what became of each."""
        results: list[Receipt | CommandError] = []
        for topic in topics:
            try:
                results.append(await self.publish(topic, data, **options))
            except CommandError as error:
                results.append(error)
        return results

    async def send_to_user(self, user: str, data: Any, **options: Any) -> Receipt:
        """Send to all connections of a user, now or when it comes back: to its own topic."""
        return await self.publish(f"user:{user}", data, **options)

    async def send_to_role(self, role: str, data: Any, **options: Any) -> Receipt:
        """Send to everybody who has a role."""
        return await self.publish(f"role:{role}", data, **options)

    async def send_to_connection(self, connection_id: str, data: Any, **options: Any) -> Receipt:
        """Send to one connection, in a topic of its own that it is placed in the first time. Raises `CommandError`."""
        connection = self.connections.find(connection_id)
        topic = f"connection:{connection_id}"
        if topic not in connection.session.subscriptions:
            # One at a time: what the next one sends must not go ahead of the subscription.
            async with self._placing.setdefault(connection_id, trio.Lock()):
                if topic not in connection.session.subscriptions:
                    await connection.membership.place(Subscribe(topic))
        return await self.publish(topic, data, **options)

    def from_thread(self, function: Callable[..., Awaitable[Result]], *arguments: object) -> Result:
        """Run an async function in the server's loop, from a thread that is not Trio's; blocks it until that is done.

        Raises what the function raises, and `trio.RunFinishedError` once the server's run has ended.
        """
        if self._token is None:
            raise CommandError(ErrorCode.UNAVAILABLE, "the server is not running")
        return trio.from_thread.run(function, *arguments, trio_token=self._token)

    def publish_from_thread(self, topic: str, data: Any, **options: Any) -> Receipt:
        """Publish from a thread that is not Trio's, with the options of `publish`: see `from_thread`."""
        return self.from_thread(partial(self.publish, topic, data, **options))

    async def publish_event(self, topic: str, data: Any, *, event: str, key: str | None = None) -> Receipt:
        """Publish an event of the engine's own making, which no catalogue need know."""
        return await self.publisher.publish(topic, data, event=event, key=key, checked=True)

    # -- topics and peers ------------------------------------------------------------------------------------

    def create_topic(self, topic: str) -> bool:
        """Create a topic of a kind whose topics must be; false where it is there already. Raises `CommandError`."""
        return self.registry.create(topic)

    async def remove_topic(self, topic: str) -> None:
        """Take a topic away: nobody joins or publishes any more, who has it gets what was published and is told.

        Who is too slow for that, in `HANDING_OUT_SECONDS`, is told a gap. Then the history is gone. Raises
        `CommandError`, also for the topic of a progress session, which goes with the session. Cancelled, the topic is
        gone all the same.
        """
        if topic in self.progress:
            raise CommandError(ErrorCode.BAD_REQUEST, "the topic of a session goes with the session")
        self.registry.close(topic)
        try:
            await self._wait_handed_out(topic)
        finally:
            self.drop_topic(topic)

    def drop_topic(self, topic: str) -> None:
        """The same at once, without waiting for what is under way. Raises `CommandError`."""
        kind, _ = self.kinds.split(topic)
        self.registry.remove(topic)
        error = CommandError(kind.missing_code, f"the {kind.name} was removed")
        for subscription in self.hub.subscriptions(topic):
            if subscription.on_end is not None:
                subscription.on_end(subscription, error)
        self.broker.forget(topic)

    async def end(self, topic: str, reason: CloseReason) -> None:
        """Close the connections that a route has brought to the topic, once they were handed what was published."""
        await self._wait_handed_out(topic)
        for subscription in self.hub.subscriptions(topic):
            # By way of the topic: a batch that ends must not look through all connections of the server.
            connection = self.connections.get(subscription.outbox.owner)
            if connection is not None and connection.binding is not None:
                connection.close(reason)

    async def _wait_handed_out(self, topic: str) -> None:
        """Wait until what was published is on its way to those who have the topic; not for ever."""
        if not self.hub.subscriptions(topic):
            return
        with trio.move_on_after(HANDING_OUT_SECONDS):
            page = await self.broker.read(topic, Since(), 0)
            await self.hub.wait_routed(topic, page.top.offset)
            self.hub.let_go(topic)
            # Readers in this process keep what they have; all others are written to, as fast as they read.
            while any(  # noqa: ASYNC110 - there is no event for an outbox that runs empty, and this is rare
                subscription.waits and subscription.outbox.wire.framing is not None
                for subscription in self.hub.subscriptions(topic)
            ):
                await trio.sleep(0.01)

    async def is_exhausted(self, topic: str, since: Since | None) -> bool:
        """Whether nothing comes any more for one who was on a topic that is over, and has had everything."""
        if since is None or since.after is None or not self.progress.is_over(topic):
            return False
        page = await self.broker.read(topic, since, 1)
        return page.why is None and not page.publications

    def members(self, topic: str, after: str | None = None, limit: int = 1000) -> MembersPage:
        """A page of who is in a topic. Raises `CommandError`."""
        kind, _ = self.kinds.split(topic)
        if kind.presence is PresenceMode.NONE:
            raise CommandError(ErrorCode.BAD_REQUEST, f"{kind.name} topics keep no list of members")
        if kind.presence is PresenceMode.COUNT:
            return MembersPage([], self.presence.count(topic))
        return self.presence.members(topic, after, limit)

    async def place_user(self, user: str, topic: str) -> int:
        """Subscribe all connections of a user, by the server's own will; how many have the topic now.

        Not those that came by a route, which are for one topic only, nor those that come later.
        """
        count = 0
        for connection in self.connections.of_user(user):
            if connection.binding is not None:
                continue
            try:
                await connection.membership.place(Subscribe(topic))
            except CommandError as error:
                if error.code is ErrorCode.CONNECTION_NOT_FOUND:  # it has ended meanwhile; the others have not
                    continue
                if error.code is not ErrorCode.ALREADY_SUBSCRIBED:
                    raise
            count += 1
        return count

    def evict_user(self, user: str, topic: str) -> int:
        """End the subscriptions of all connections and polls of a user; how many had it."""
        error = CommandError(ErrorCode.PERMISSION_DENIED, "ended by the operator")
        connections = sum(connection.membership.evict(topic, error) for connection in self.connections.of_user(user))
        return connections + self._end_polls(user, topic, error)

    def _end_polls(self, user: str, topic: str | None, error: CommandError) -> int:
        return sum(poll.end(topic, error) for poll in list(self.polls) if poll.identity.user == user)

    def disconnect_user(self, user: str, reason: CloseReason = FORBIDDEN) -> int:
        """Close all connections and polls of a user; how many there were."""
        connections = self.connections.of_user(user)
        for connection in connections:
            connection.close(reason)
        error = CommandError(ErrorCode.PERMISSION_DENIED, reason.text)
        return len(connections) + self._end_polls(user, None, error)

    def disconnect(self, connection_id: str, reason: CloseReason = FORBIDDEN) -> None:
        """Close one connection. Raises `CommandError`."""
        self.connections.find(connection_id).close(reason)

    def revoke_user(self, user: str, reason: CloseReason = FORBIDDEN) -> int:
        """The same, and no token that the user has been given so far is taken any more. Raises `CommandError`."""
        self.revocations.revoke_user(user)
        self.tickets.forget_user(user)
        return self.disconnect_user(user, reason)

    def revoke_token(self, token_id: str, until: float | None = None) -> int:
        """Take back one token, and close what has logged in with it; how many there were.

        ``until``: when it expires anyway, in seconds of the Unix clock. Raises `CommandError`.
        """
        self.revocations.revoke_token(token_id, until)
        return self._end_logins(lambda identity: identity.token_id == token_id)

    def _end_logins(self, is_over: Callable[[Identity], bool]) -> int:
        theirs = [each for each in self.connections if is_over(each.session.identity)]
        for connection in theirs:
            connection.close(FORBIDDEN)
        error = CommandError(ErrorCode.AUTH_FAILED, "the login was revoked")
        return len(theirs) + sum(poll.end(None, error) for poll in list(self.polls) if is_over(poll.identity))

    def check_login(self, identity: Identity) -> None:
        """Raise `CommandError` where a login that was good does not hold any more, or is one too many."""
        self.revocations.check(identity)
        if not self.api_keys.hold(identity):
            raise CommandError(ErrorCode.AUTH_FAILED, "the API key was taken back")
        if identity.user is not None:
            self.admission.check_user(self.connections.count_of_user(identity.user))

    async def reload(self, settings: Settings) -> list[str]:
        """Take over the rules, the API keys and the origins of new settings.

        Peers lose what they may not have any more, and those of a key that is gone or has changed are closed; what they
        may have now they get by asking. The names of other settings that differ, for which the server would have to be
        started anew. Raises `ConfigurationError` where these do not go together with the settings that stay; then
        nothing is taken over.
        """
        merged = evolve(self.settings, **{name: getattr(settings, name) for name in RELOADED})
        api_keys, policy = ApiKeys(merged.api_keys), merged.policy(self.kinds)
        self.settings, self.api_keys, self.gate.policy = merged, api_keys, policy
        self._end_logins(lambda identity: not api_keys.hold(identity))
        await self.review()
        names = [attribute.name for attribute in fields(Settings)]
        return [name for name in names if getattr(settings, name) != getattr(merged, name)]

    async def review(self, user: str | None = None) -> None:
        """Have everything decided anew that peers, or those of one user, may do: what is behind that has changed."""
        self.gate.change()
        connections = self.connections if user is None else self.connections.of_user(user)
        polls = [poll for poll in self.polls if user is None or poll.identity.user == user]
        await review([*(connection.membership for connection in connections), *polls], asks=self.gate.asks)

    def subscribe(
        self,
        topic: str,
        *,
        mode: Mode | None = None,
        overflow: Overflow | None = None,
        since: Since | None = None,
        max_messages: int | None = None,
    ) -> AbstractAsyncContextManager[LocalSubscription]:
        """Subscribe in this process: ``async with engine.subscribe(t) as messages: async for m in messages``."""
        kind, _ = self.kinds.split(topic)
        return subscribe_locally(
            self.hub,
            topic,
            kind,
            mode=mode,
            overflow=overflow,
            since=since,
            max_messages=max_messages or self.settings.outbox_messages,
        )

    async def drain(self) -> None:
        """Tell every peer to come back later; their connections then say goodbye by themselves."""
        self.draining = True
        for poll in self.polls:
            poll.wake()
        with trio.move_on_after(self.settings.grace_seconds / 2):
            await self.progress.shutdown()
        for count, connection in enumerate(self.connections, 1):
            connection.close(with_jitter(SHUTTING_DOWN, self.settings.reconnect_spread_seconds))
            if not count % 100:
                await trio.lowlevel.checkpoint()  # let the first ones go while the last are told

    def refuse(self, reason: str) -> None:
        """Count a peer that was turned away."""
        self.refused[reason] = self.refused.get(reason, 0) + 1

    def turn_away(
        self,
        reason: str,
        address: str,
        error: CommandError,
        *,
        transport: str | None = None,
        connection: str | None = None,
    ) -> None:
        """Count an attempt that was refused, log it, and hold it against its address if it was an offence."""
        if not isinstance(error, Crowded):
            self.refuse(reason)
        # Who has logged in answers for himself and not for neighbours, and nobody for a page from elsewhere.
        known = isinstance(error, Foreign) or (isinstance(error, Denied) and error.user is not None)
        if error.code in OFFENCES and not known:
            self.admission.offend(address)
        self.audit.record(
            AuditEvent.REFUSED,
            connection=connection,
            user=error.user if isinstance(error, Denied) else None,
            topic=error.asked if isinstance(error, Denied) else None,
            address=address,
            transport=transport,
            code=error.code,
            reason=f"{reason}: {error.message}" + (f" ({error.detail})" if error.detail else ""),
        )

    def statistics(self) -> EngineStatistics:
        """A snapshot; costs one walk over all subscriptions."""
        return EngineStatistics.of(self, trio.current_time() - self._started_at)


@asynccontextmanager
async def open_engine(settings: Settings | None = None, **parts: Any) -> AsyncIterator[Engine]:
    """Run an engine for the length of a block. ``parts`` are the keyword arguments of `Engine`."""
    engine = Engine(settings or Settings(), **parts)
    with lone_exceptions_bare():
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            yield engine
            nursery.cancel_scope.cancel()


@contextmanager
def lone_exceptions_bare() -> Iterator[None]:
    """Let a single exception out as it is, not as a group of one.

    The nurseries behind `open_engine` and `open_server` are not their user's business: a ``ValueError`` in the block is
    caught with ``except ValueError``. Several at once stay a group.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        alone = lone(group)
        if isinstance(alone, BaseExceptionGroup):
            raise
        # From itself: keeps its own cause and traceback, without the group as a context.
        raise alone from alone.__cause__  # noqa: ASYNC123
