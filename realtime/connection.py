"""One live peer as a tree of tasks.

::

    run
    |- reader     this task: hands each message to the session, carries out what it decides
    |- heartbeat  pings, and ends a peer that has been silent for too long
    |- sender     while there is a backlog: owns the wire from the first byte that it did not take at once
    |- deadlines  while there is one to watch: login, idleness, expiry, a write that makes no progress
    '- requests   one for each that is under way and whose handler may wait

The last three are started when there is something for them to do and end when there is not: most connections
are idle, and a sleeping task is two to three kilobytes. What the commands do is next door, in `realtime.commands`;
what they do it to, in `realtime.membership` and `realtime.calls`.

The first to find a reason calls `Connection.close`: it names the close reason and cancels the tree. Then, within
a deadline, the goodbye is said: the `disconnect` push, what was still queued if the peer listens, the wire's own
close. Whatever happens, the wire is aborted and the hub has forgotten the connection when `run` returns.

A little long for this house: how a connection arrives, lives and says goodbye share its one nursery and one outbox, and
are only right together.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import structlog
import trio
from attrs import evolve
from msgspec import Raw

from realtime import closing, messages
from realtime.audit import AuditEvent
from realtime.auth import ANONYMOUS, Identity
from realtime.calls import Calls
from realtime.closing import CloseReason
from realtime.commands import ACTIONS, Reply, error_reply, starting_point
from realtime.conduct import Conduct
from realtime.deadlines import Deadlines
from realtime.dialect import Dialect, DialectFraming
from realtime.directory import no_such_connection
from realtime.errors import CommandError, ErrorCode, ProtocolViolation, WireError
from realtime.gate import Permits
from realtime.heartbeat import beat
from realtime.history import Since, decode_cursor
from realtime.membership import Membership
from realtime.messages import encode
from realtime.routes import Binding
from realtime.session import Accepted, Refused, Session, State
from realtime.statistics import ConnectionStatistics
from realtime.wire import Wire
from realtime.wishes import Subscribe

if TYPE_CHECKING:
    from realtime.engine import Engine

__all__ = ["Connection"]

log = structlog.get_logger("realtime")

#: How long the goodbye of one connection may take when nobody said otherwise.
GOODBYE_SECONDS = 5.0


class Connection:
    """See the module. Created by a transport, which then calls `run` in the task that holds the wire."""

    def __init__(
        self,
        engine: Engine,
        wire: Wire,
        *,
        identity: Identity = ANONYMOUS,
        authenticated: bool = True,
        transport: str = "test",
        secret: str | None = None,
        binding: Binding | None = None,
        cursor: str = "",
        address: str = "",
    ) -> None:
        """``cursor`` is where the topics are resumed that the server places the peer in."""
        settings = engine.settings
        self.id = "c_" + secrets.token_urlsafe(12)
        self.transport = transport
        self.reason: CloseReason | None = None
        self.commands = 0
        self.secret = secret
        self.binding = binding
        self._cursor = cursor
        self.engine = engine
        self._settings = settings
        self._wire = wire
        self.session = Session(
            id=self.id,
            kinds=engine.kinds,
            max_topics=settings.max_topics,
            max_depth=settings.max_json_depth,
            only=None if binding is None else binding.topic,
            identity=identity,
            state=State.OPEN if authenticated else State.GREETING,
        )
        if binding is not None and binding.route.dialect is not None and wire.framing is not None:
            wire.framing = DialectFraming(wire.framing, binding.route.dialect, binding.topic, engine.now_ms)
        self.outbox = engine.hub.outbox(
            wire,
            max_messages=settings.outbox_messages,
            max_bytes=settings.outbox_bytes,
            owner=self.id,
            on_backlog=self._start_sender,
            on_failure=self.close,
        )
        self._nursery: trio.Nursery | None = None
        self.permits = Permits(engine.gate, identity)
        self.conduct = Conduct(engine, self.session, address, transport, self.close)
        self.membership = Membership(
            engine, self.session, self.outbox, self._push, self.permits, places=binding is None
        )
        self.calls = Calls(engine, self.session, self.permits, transport, self._send_soon)
        route = None if binding is None else binding.route
        self._ping_interval = (route and route.ping_interval_seconds) or settings.ping_interval_seconds
        self._deadlines = Deadlines(
            self.session,
            self.outbox,
            settings,
            idle_timeout=(route and route.idle_timeout_seconds) or settings.idle_timeout_seconds,
            listens_only=binding is not None,
            close=self.close,
            warn=self._send,
        )
        self._backlog_since = 0.0
        #: Whether the route leads to something that has ended: the peer is told how, and no more.
        self._is_over = False

    # -- life ------------------------------------------------------------------------------------------------

    async def run(self, subscribe: list[Subscribe] | None = None) -> CloseReason:
        """Serve the peer until one of the tasks finds a reason to end; the wire is released when this returns.

        ``subscribe``: joined before the first command is read. If one of them is refused, this raises the
        `CommandError` before anything is sent; or tells the peer, where the wire is for that, and closes.
        """
        self.outbox.corks += 1
        replies: list[Reply] = []
        refusal = None
        try:
            replies = await self._arrive(subscribe or [])
        except CommandError as error:
            if not self._wire.refused_in_band:
                raise
            refusal = error
        self.engine.connections.add(self)
        self.conduct.record_arrival(refusal, subscribe or [])
        trace_id = ""
        try:
            self.outbox.offer_control(await self._wire.open())
            if refusal is None:
                self._welcome(replies)
                if self._is_over:
                    self.close(closing.NORMAL)
            else:
                self._push("error", error_reply(None, refusal))
                self.close(_REFUSALS.get(refusal.code, closing.BAD_REQUEST))
            async with trio.open_nursery() as self._nursery:
                if self.reason is not None:
                    self._nursery.cancel_scope.cancel()
                self.outbox.corks -= 1
                try:
                    self._nursery.start_soon(self._beat)
                    self._deadlines.watch(self.start_soon)
                    self.outbox.flush()
                    self.close(await self._wire.read(self))
                finally:
                    # What is still to be sent is the goodbye's. The hub must not find this open once the nursery is
                    # closed to a new sender, which may be before this task runs again.
                    self.outbox.corks += 1
        except WireError:
            self.close(closing.GONE)
        except Exception:  # a bug: it ends this connection and no other
            trace_id = secrets.token_hex(8)
            log.exception("connection failed", connection=self.id, trace_id=trace_id)
            self.close(closing.INTERNAL)
        finally:
            self.membership.leave_all(lost=True)
            self.close(closing.GONE)  # unless there is a reason already: we were cancelled from outside
            self.engine.connections.remove(self)
            assert self.reason is not None
            self.conduct.record_end(self.reason)
            await self._say_goodbye(trace_id)  # noqa: ASYNC102 - shields itself, with a deadline
        assert self.reason is not None
        return self.reason

    async def _arrive(self, wishes: list[Subscribe]) -> list[Reply]:
        """Join what the peer came for, and what its login brings. Raises `CommandError`: then it has joined nothing."""
        replies: list[Reply] = []
        stamp = self.permits.stamp
        try:
            for wish in wishes:
                replies.append(await self._join(wish))  # noqa: PERF401 - those made are undone below
            if self.session.state is State.OPEN:
                replies.extend(await self.membership.join_own(self.session.identity, decode_cursor(self._cursor)))
            # Last, with no checkpoint before the peer is in the directory: what was taken away while it waited for its
            # history, and who was disconnected, must not slip in behind that.
            self.membership.recheck(stamp)
            self.engine.check_login(self.session.identity)
        except BaseException:  # also when cancelled: the joins that were made are undone, and it goes on up
            self.membership.leave_all(lost=False, keep_queue=False)
            raise
        return replies

    async def _join(self, wish: Subscribe) -> Reply:
        """Join what the peer came for; of something that is over, at least how it ended."""
        reply = await self.membership.join(wish)
        # Looked at after the join, which may have waited: a session that ended meanwhile has not closed this one.
        self._is_over = self.binding is not None and self.engine.progress.is_over(self.binding.topic)
        if self._is_over and reply["recovered"] in (None, "none"):
            self.membership.leave(wish.topic)
            reply = await self.membership.join(evolve(wish, since=Since(last=1)))
        return reply

    def close(self, reason: CloseReason) -> None:
        """End the connection for this reason, unless it is ending for another already. Never waits."""
        if self.reason is None:
            self.reason = reason
            self.session.state = State.CLOSING
            if self._nursery is not None:
                self._nursery.cancel_scope.cancel()

    async def _say_goodbye(self, trace_id: str) -> None:
        reason = self.reason
        assert reason is not None
        if code := _VIOLATIONS.get(reason):
            self._push("error", error_reply(None, CommandError(code, reason.text)))
        seconds = min(GOODBYE_SECONDS, self._settings.grace_seconds)
        try:
            if reason.peer_listens:
                with trio.move_on_after(seconds, shield=True):
                    # What the peer had coming goes first: a goodbye is the last word, not the next.
                    await self._wire.drain()
                    while not self.outbox.empty:
                        await self._wire.write(self.outbox.take())
                    if framing := self._wire.framing:
                        text = encode(
                            {
                                "type": "disconnect",
                                "code": reason.code,
                                "reason": reason.text,
                                "reconnect": reason.reconnect,
                                "retry_after": reason.retry_after,
                                "trace_id": trace_id or None,
                            }
                        )
                        await self._wire.write(framing.push("disconnect", text))
                    await self._wire.close(reason)
        except WireError:
            pass  # the peer was faster
        finally:
            self.outbox.close()
            self._wire.abort()

    # -- tasks -----------------------------------------------------------------------------------------------

    async def receive(self, text: bytes | memoryview) -> None:
        """One message of the peer; called by the wire, in the reader's task."""
        if self.session.state is State.CLOSING:  # it came with what ended the conversation
            return
        dialect = None if self.binding is None else self.binding.route.dialect
        if dialect is not None:
            self._hear(dialect, text)
            return
        try:
            reply = await self._obey(text)
        except ProtocolViolation as violation:
            self._push("error", error_reply(None, CommandError(ErrorCode.BAD_REQUEST, violation.message)))
            self.close(violation.reason)
            return
        if reply is not None:
            self._push(reply["type"], reply)

    async def answer(self, text: bytes) -> Reply:
        """One command that came by another way than the wire: the reply. Raises `CommandError`.

        It is carried out by a task of this connection, so it ends with it.
        """
        if self._nursery is None or self.session.state is State.CLOSING:
            raise no_such_connection()
        self.calls.check()
        replies: list[Reply | CommandError] = []
        done = trio.Event()

        async def obey() -> None:
            try:
                replies.append(await self._obey(text, wait=True) or {})
            except ProtocolViolation as violation:
                replies.append(CommandError(ErrorCode.BAD_REQUEST, violation.message))
            finally:
                self.calls.under_way -= 1
                done.set()

        self.calls.under_way += 1
        self._nursery.start_soon(obey)
        await done.wait()
        self.outbox.flush()
        if not replies:
            raise no_such_connection()
        (reply,) = replies
        if isinstance(reply, CommandError):
            raise reply
        return reply

    async def _obey(self, text: bytes | memoryview, *, wait: bool = False) -> Reply | None:
        """Decide about a command and carry it out; the reply, or None where it comes later.

        ``wait``: it does not come later. Raises `ProtocolViolation`.
        """
        self.commands += 1
        decision = self.conduct.paced(self.session.decide(text))
        if not _is_ping(decision):
            self._deadlines.active()
        return await self.carry_out(decision, wait=wait)

    def decide_part(self, raw: Raw) -> Accepted | Refused:
        """What to do with one command of a batch: it counts like any other."""
        return self.conduct.paced(self.session.decide_part(raw))

    def pinged(self) -> bool:
        """The peer has sent a ping of its wire's own; whether it is answered. See `realtime.wire.Receiver`."""
        return self.conduct.may_ping()

    def _hear(self, dialect: Dialect, text: bytes | memoryview) -> None:
        """A word of a peer that does not speak the protocol: nothing but what keeps the connection alive."""
        self.commands += 1
        if not self.conduct.may_ping():
            return
        said = dialect.hear(text)
        framing = self._wire.framing
        if said is not None and isinstance(framing, DialectFraming):
            self.outbox.offer_control(framing.inner.push("pong", said))

    def quiet(self) -> None:
        """Everything that had arrived has been handled: send the replies in one write."""
        self.outbox.flush()

    def _start_sender(self) -> None:
        """Called by the outbox when the wire did not keep up."""
        self._backlog_since = trio.current_time()
        assert self._nursery is not None  # nothing is flushed outside of it: the outbox is corked
        self._nursery.start_soon(self._send_backlog)
        self._deadlines.watch(self.start_soon)

    async def _send_backlog(self) -> None:
        """The sender: see `realtime.outbox`."""
        outbox, wire = self.outbox, self._wire
        try:
            await wire.drain()
            while not (outbox.empty or outbox.corks):
                # Not `Wire.write`: what is taken counts as delivered, and a write that is cancelled before it has
                # begun would lose it, so that the goodbye went on behind a hole.
                if not wire.busy:
                    wire.write_nowait(outbox.take())
                await wire.drain()
        except WireError:
            self.close(closing.GONE)
        else:
            outbox.backlogged = False

    async def _beat(self) -> None:
        await beat(
            self.outbox,
            interval=self._ping_interval,
            pong_timeout=self._settings.pong_timeout_seconds,
            jitter=self.engine.random(),
            ping=self._ping,
            close=self.close,
        )

    def _ping(self) -> bytes:
        """The push of a beat; it also tells how far those topics have come that the peer does not see all of."""
        framing = self._wire.framing
        assert framing is not None  # a connection's peer is never in this process
        now_ms = self.engine.now_ms()
        partial = [each for each in self.session.subscriptions.values() if each.is_partial]
        if not partial:
            return framing.push("ping", b'{"type":"ping","server_time":%d}' % now_ms)
        places = {subscription.topic: self.engine.hub.place_of(subscription) for subscription in partial}
        push: dict[str, Any] = {"type": "ping", "server_time": now_ms}
        if framing.cursors:
            for subscription in partial:
                self.outbox.start(subscription, places[subscription.topic])
            return framing.push("ping", encode(push), self.outbox.cursor)
        push["positions"] = [
            {"topic": topic, "epoch": place.epoch, "offset": place.offset} for topic, place in places.items()
        ]
        return framing.push("ping", encode(push))

    # -- carrying out ----------------------------------------------------------------------------------------

    async def carry_out(self, decision: Accepted | Refused, *, wait: bool = False) -> Reply | None:
        """Do what was decided; the reply, or None where it comes later. ``wait``: it does not come later."""
        if isinstance(decision, Refused):
            self.conduct.note(decision.error)
            return error_reply(decision.id, decision.error)
        command = decision.command
        try:
            if wait and isinstance(command, messages.Request):
                return await self.calls.serve(command)
            return await ACTIONS[type(command)](self, command)
        except CommandError as error:
            self.conduct.note(error)
            return error_reply(command.id, error)
        except Exception:  # a bug in one command: the peer is told, the log has the rest, the connection lives on
            trace_id = secrets.token_hex(8)
            log.exception("command failed", connection=self.id, command=type(command).__name__, trace_id=trace_id)
            failure = CommandError(ErrorCode.INTERNAL_ERROR, "the server failed to do this")
            return {**error_reply(command.id, failure), "trace_id": trace_id}

    async def log_in(self, identity: Identity, cursor: str | None = None) -> list[Reply]:
        """Take up a good login, the first or a fresh one of the same user; the topics that it brought.

        Raises `CommandError` for another user, for one who has too many connections, and for text that is no cursor.
        """
        positions = decode_cursor(cursor or self._cursor)
        session, engine = self.session, self.engine
        known = session.identity
        if known.user is None:
            engine.check_login(identity)
        elif identity.user != known.user:
            raise CommandError(ErrorCode.AUTH_FAILED, "a connection cannot change its user")
        same = (known.user, known.key) == (identity.user, identity.key)
        event = AuditEvent.REFRESH if same else AuditEvent.LOGIN
        session.identity = identity
        self.permits.renew(identity)
        self.conduct.record(event)
        self.membership.leave_own(known, identity)
        if (known.user, known.info) != (identity.user, identity.info):
            self.membership.change_member()
        if session.state is State.GREETING:
            session.state = State.OPEN
        self.engine.connections.log_in(self)
        self._deadlines.log_in(identity)
        self._deadlines.watch(self.start_soon)
        await self.membership.review()
        return await self.membership.join_own(identity, positions)

    def start_soon(self, function: Callable[..., Awaitable[None]], *arguments: object) -> None:
        """Run a task in this connection's tree: it ends with it."""
        assert self._nursery is not None  # what asks for it is a command, and those are read within
        self._nursery.start_soon(function, *arguments)

    def _send_soon(self, reply: Reply) -> None:
        """Send a reply that took its time; those that are ready together leave in one write."""
        self._push(reply["type"], reply)
        self.engine.hub.flush_soon(self.outbox)

    def _send(self, push: dict[str, Any]) -> None:
        """Send a push at once."""
        self._push(push["type"], push)
        self.outbox.flush()

    # -- words -----------------------------------------------------------------------------------------------

    def _push(self, kind: str, push: dict[str, Any], cursor: str | None = None) -> None:
        framing = self._wire.framing
        if framing is not None:
            self.outbox.offer_control(framing.push(kind, encode(push), cursor))

    def _welcome(self, joined: list[Reply]) -> None:
        """Say the first words."""
        settings = self._settings
        welcome = {
            "type": "welcome",
            "protocol": 1,
            **self.session.describe(),
            "server_time": self.engine.now_ms(),
            "ping_interval": self._ping_interval,
            "secret": self.secret,
            "topics": [starting_point(reply) for reply in joined],
            "limits": {"max_message_bytes": settings.max_message_bytes, "max_topics": settings.max_topics},
        }
        # A dialect may have no word for ``subscribed``, and the peer is to know its place from the beginning.
        self._push("welcome", welcome, cursor=None if self.binding is None else self.outbox.cursor)
        if self._wire.framing is not None and self._wire.framing.cursors:
            for reply in joined:  # the welcome has said so, but moves no cursor
                self._push("subscribed", reply, cursor=self.outbox.cursor)

    @property
    def queue_age(self) -> float:
        """How many seconds there has been something that the peer did not take at once."""
        return round(trio.current_time() - self._backlog_since, 3) if self.outbox.backlogged else 0.0

    def statistics(self) -> ConnectionStatistics:
        """A snapshot."""
        now = trio.current_time()
        outbox = self.outbox
        return ConnectionStatistics(
            id=self.id,
            user=self.session.identity.user,
            address=self.conduct.address,
            transport=self.transport,
            connected_seconds=now - self._deadlines.connected_at,
            heard_seconds_ago=now - self._wire.heard_at,
            idle_seconds=now - self._deadlines.active_at,
            commands=self.commands,
            requests=self.calls.under_way,
            subscriptions=len(self.session.subscriptions),
            queue_messages=outbox.messages,
            queue_bytes=outbox.bytes,
            queue_age=self.queue_age,
        )


def _is_ping(decision: Accepted | Refused) -> bool:
    """Whether this only keeps the connection alive, and is no sign of anybody using it."""
    return isinstance(decision, Accepted) and isinstance(decision.command, messages.Ping)


#: What a peer is told before the close that its misbehaviour brought, where the wire found it.
_VIOLATIONS = {
    closing.TOO_BIG: ErrorCode.PAYLOAD_TOO_LARGE,
    closing.UNSUPPORTED_DATA: ErrorCode.BAD_REQUEST,
    closing.INVALID_TEXT: ErrorCode.BAD_REQUEST,
}

#: How a connection ends whose first topic is refused.
_REFUSALS = {
    ErrorCode.ROOM_NOT_FOUND: closing.NO_SUCH_SESSION,
    ErrorCode.SESSION_NOT_FOUND: closing.NO_SUCH_SESSION,
    ErrorCode.PERMISSION_DENIED: closing.FORBIDDEN,
    ErrorCode.AUTH_REQUIRED: closing.NOT_AUTHENTICATED,
    ErrorCode.AUTH_FAILED: closing.NOT_AUTHENTICATED,
    ErrorCode.LIMIT_EXCEEDED: closing.OVERLOADED,
    ErrorCode.UNAVAILABLE: closing.OVERLOADED,
}
