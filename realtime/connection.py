"""One live peer as a tree of tasks.

::

    run
    |- reader     this task: hands each message to the session, carries out what it decides
    |- heartbeat  pings, and ends a peer that has been silent for too long
    |- sender     while there is a backlog: owns the wire from the first byte that it did not take at once
    '- timeouts   while there is one to watch: login, idleness, expiry, a write that makes no progress

The last two are started when there is something for them to do and end when there is not: most connections
are idle, and a sleeping task is two to three kilobytes. What the commands do is next door, in `realtime.commands`.

The first to find a reason calls `Connection.close`: it names the close reason and cancels the tree. Then, within
a deadline, the goodbye is said: the `disconnect` push, what was still queued if the peer listens, the wire's own
close. Whatever happens, the wire is aborted and the hub has forgotten the connection when `run` returns.
"""

from __future__ import annotations

import math
import secrets
from typing import TYPE_CHECKING, Any

import structlog
import trio
from attrs import frozen

from realtime import closing, messages
from realtime.auth import ANONYMOUS, Identity
from realtime.closing import CloseReason
from realtime.commands import ACTIONS, Reply, Subscribe, error_reply
from realtime.errors import CommandError, ErrorCode, ProtocolViolation, WireError
from realtime.messages import encode
from realtime.session import Accepted, Refused, Session, State
from realtime.subscription import Subscription
from realtime.wire import Wire

if TYPE_CHECKING:
    from realtime.engine import Engine

__all__ = ["Connection", "ConnectionStatistics", "Subscribe"]

log = structlog.get_logger("realtime")

#: How long the goodbye of one connection may take when nobody said otherwise.
GOODBYE_SECONDS = 5.0
#: Moments within one ping interval at which beats may fall.
BEATS_PER_INTERVAL = 100


@frozen
class ConnectionStatistics:
    """What is known about one connection."""

    id: str
    user: str | None
    transport: str
    connected_seconds: float
    heard_seconds_ago: float
    commands: int
    subscriptions: int
    queue_messages: int
    queue_bytes: int
    queue_age: float


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
    ) -> None:
        settings = engine.settings
        self.id = "c_" + secrets.token_urlsafe(12)
        self.transport = transport
        self.reason: CloseReason | None = None
        self.commands = 0
        self._secret = secret
        self.engine = engine
        self._settings = settings
        self._wire = wire
        self.session = Session(
            id=self.id,
            kinds=engine.kinds,
            max_topics=settings.max_topics,
            identity=identity,
            state=State.OPEN if authenticated else State.GREETING,
        )
        self.outbox = engine.hub.outbox(
            wire,
            max_messages=settings.outbox_messages,
            max_bytes=settings.outbox_bytes,
            on_backlog=self._start_sender,
            on_failure=self.close,
        )
        self._nursery: trio.Nursery | None = None
        #: Wakes the timeouts; None while that task is not needed.
        self._rearm: trio.Event | None = None
        now = trio.current_time()
        self.connected_at = now
        self._active_at = now
        self._backlog_since = 0.0
        self._expires_at = math.inf if identity.expires_in is None else now + identity.expires_in
        self._warned = False

    # -- life ------------------------------------------------------------------------------------------------

    async def run(self, subscribe: list[Subscribe] | None = None) -> CloseReason:
        """Serve the peer until one of the tasks finds a reason to end; the wire is released when this returns.

        ``subscribe``: joined before the first command is read. Raises `CommandError`, before anything is sent, if
        one of them is refused.
        """
        self.outbox.corked = True
        try:
            replies = [await self.join(wish) for wish in subscribe or ()]
        except BaseException:  # also when cancelled: the joins that were made are undone, and it goes on up
            self._leave()
            raise
        self.engine.connections[self.id] = self
        trace_id = ""
        try:
            self.outbox.offer_control(await self._wire.open())
            self._push("welcome", self._welcome(replies))
            for reply in replies:
                self._push("subscribed", reply, cursor=self.outbox.cursor)
            async with trio.open_nursery() as self._nursery:
                if self.reason is not None:
                    self._nursery.cancel_scope.cancel()
                self.outbox.corked = False
                try:
                    self._nursery.start_soon(self._beat)
                    self._watch()
                    self.outbox.flush()
                    self.close(await self._wire.read(self))
                finally:
                    # What is still to be sent is the goodbye's. The hub must not find this open once the nursery is
                    # closed to a new sender, which may be before this task runs again.
                    self.outbox.corked = True
        except WireError:
            self.close(closing.GONE)
        except Exception:  # a bug: it ends this connection and no other
            trace_id = secrets.token_hex(8)
            log.exception("connection failed", connection=self.id, trace_id=trace_id)
            self.close(closing.INTERNAL)
        finally:
            self._leave()
            self.close(closing.GONE)  # unless there is a reason already: we were cancelled from outside
            del self.engine.connections[self.id]
            await self._say_goodbye(trace_id)  # noqa: ASYNC102 - shields itself, with a deadline
        assert self.reason is not None
        return self.reason

    def close(self, reason: CloseReason) -> None:
        """End the connection for this reason, unless it is ending for another already. Never waits."""
        if self.reason is None:
            self.reason = reason
            self.session.state = State.CLOSING
            if self._nursery is not None:
                self._nursery.cancel_scope.cancel()

    def _leave(self) -> None:
        hub = self.engine.hub
        for subscription in self.session.subscriptions.values():
            hub.unsubscribe(subscription, keep_queue=True)
        self.session.subscriptions.clear()

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
        self.commands += 1
        try:
            decision = self.session.decide(text)
        except ProtocolViolation as violation:
            self._push("error", error_reply(None, CommandError(ErrorCode.BAD_REQUEST, violation.message)))
            self.close(violation.reason)
            return
        if self._settings.idle_timeout_seconds is not None and not _is_ping(decision):
            self._active_at = trio.current_time()
        reply = await self.carry_out(decision)
        self._push(reply["type"], reply)

    def quiet(self) -> None:
        """Everything that had arrived has been handled: send the replies in one write."""
        self.outbox.flush()

    def _start_sender(self) -> None:
        """Called by the outbox when the wire did not keep up."""
        self._backlog_since = trio.current_time()
        assert self._nursery is not None  # nothing is flushed outside of it: the outbox is corked
        self._nursery.start_soon(self._send_backlog)
        self._watch()

    async def _send_backlog(self) -> None:
        """The sender: see `realtime.outbox`."""
        outbox, wire = self.outbox, self._wire
        try:
            await wire.drain()
            while not (outbox.empty or outbox.corked):
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
        """The heartbeat."""
        wire, settings = self._wire, self._settings
        interval = settings.ping_interval_seconds
        patience = interval + settings.pong_timeout_seconds if wire.peer_answers else math.inf
        interval = min(interval, wire.heartbeat_interval or math.inf)
        # Connections that came together do not ping together, but all beats fall on a common grid: a process that
        # idles with thousands of connections wakes up a few times a second and not once for each beat, which is
        # most of what idling costs.
        grid = interval / BEATS_PER_INTERVAL
        beat_at = math.ceil((trio.current_time() + interval * self.engine.random()) / grid) * grid
        while True:
            await trio.sleep_until(min(beat_at, wire.heard_at + patience))
            now = trio.current_time()
            if now >= wire.heard_at + patience:
                self.close(closing.NO_PONG)
                return
            if now >= beat_at:
                beat_at += interval * math.ceil((now - beat_at) / interval + 1e-9)
                self.outbox.offer_control(wire.heartbeat(self._ping_text()))
                self.outbox.flush()

    def _watch(self) -> None:
        """Have the deadlines looked at: something has changed that may bring one nearer."""
        if self._rearm is not None:
            self._rearm.set()
        elif self._nursery is not None:
            self._rearm = trio.Event()
            self._nursery.start_soon(self._watch_timeouts)

    async def _watch_timeouts(self) -> None:
        """The timeouts: sleeps until the nearest deadline, and ends when there is none."""
        settings = self._settings
        progress = -1
        progress_at = 0.0
        while True:
            now = trio.current_time()
            login_by = idle_at = stalled_at = math.inf
            if self.session.state is State.GREETING:
                login_by = self.connected_at + settings.auth_timeout_seconds
            if settings.idle_timeout_seconds is not None:
                idle_at = self._active_at + settings.idle_timeout_seconds
            if self.outbox.backlogged:
                if self._wire.progress != progress:
                    progress, progress_at = self._wire.progress, now
                stalled_at = progress_at + settings.write_stall_timeout_seconds
            else:
                progress = -1
            for deadline, reason in (
                (login_by, closing.NOT_AUTHENTICATED),
                (idle_at, closing.IDLE),
                (self._expires_at, closing.TOKEN_EXPIRED),
                (stalled_at, closing.TOO_SLOW),
            ):
                if now >= deadline:
                    self.close(reason)
                    return
            warn_at = self._expires_at - settings.token_warning_seconds
            if now >= warn_at and not self._warned:
                self._warned = True
                left = {"type": "token_expiring", "expires_in": round(self._expires_at - now)}
                self._push("token_expiring", left)
                self.outbox.flush()
            nearest = min(login_by, idle_at, self._expires_at, stalled_at, math.inf if self._warned else warn_at)
            if nearest == math.inf:
                self._rearm = None
                return
            self._rearm = trio.Event()
            with trio.move_on_at(nearest):
                await self._rearm.wait()

    # -- carrying out ----------------------------------------------------------------------------------------

    async def carry_out(self, decision: Accepted | Refused) -> Reply:
        """Do what was decided; the reply."""
        if isinstance(decision, Refused):
            return error_reply(decision.id, decision.error)
        command = decision.command
        try:
            return await ACTIONS[type(command)](self, command)
        except CommandError as error:
            return error_reply(command.id, error)
        except Exception:  # a bug in one command: the peer is told, the log has the rest, the connection lives on
            trace_id = secrets.token_hex(8)
            log.exception("command failed", connection=self.id, command=type(command).__name__, trace_id=trace_id)
            failure = CommandError(ErrorCode.INTERNAL_ERROR, "the server failed to do this")
            return {**error_reply(command.id, failure), "trace_id": trace_id}

    async def join(self, wish: Subscribe) -> Reply:
        """Subscribe the peer, if it may; the confirmation, which must be queued without a checkpoint between."""
        kind, name = self.engine.kinds.split(wish.topic)
        if not kind.join.allows(self.session.identity.user, name):
            raise CommandError(ErrorCode.PERMISSION_DENIED, "not allowed on this topic")
        if refusal := self.session.join_refusal(wish.topic):
            raise refusal
        subscription = Subscription(
            wish.topic, kind, self.outbox, view=wish.view, mode=wish.mode or kind.mode, overflow=kind.overflow
        )
        joined = await self.engine.hub.subscribe(subscription, wish.since, self._settings.recover_limit)
        self.session.subscriptions[wish.topic] = subscription
        return {
            "type": "subscribed",
            "topic": wish.topic,
            "epoch": joined.position.epoch,
            "offset": joined.position.offset,
            "recovered": joined.recovered,
            "why": joined.why,
            "replayed": joined.replayed if joined.recovered else None,
        }

    def log_in(self, identity: Identity) -> None:
        """Take up a login that was found good: the first, or a fresh one of the same user."""
        self.session.identity = identity
        if self.session.state is State.GREETING:
            self.session.state = State.OPEN
        self._warned = False
        self._expires_at = math.inf if identity.expires_in is None else trio.current_time() + identity.expires_in
        self._watch()

    # -- words -----------------------------------------------------------------------------------------------

    def _push(self, kind: str, push: dict[str, Any], cursor: str | None = None) -> None:
        framing = self._wire.framing
        if framing is not None:
            self.outbox.offer_control(framing.push(kind, encode(push), cursor))

    def _welcome(self, joined: list[Reply]) -> dict[str, Any]:
        settings = self._settings
        return {
            "type": "welcome",
            "protocol": 1,
            **self.session.describe(),
            "server_time": self.engine.now_ms(),
            "ping_interval": settings.ping_interval_seconds,
            "secret": self._secret,
            "topics": [
                {"topic": reply["topic"], "epoch": reply["epoch"], "offset": reply["offset"]} for reply in joined
            ],
            "limits": {"max_message_bytes": settings.max_message_bytes, "max_topics": settings.max_topics},
        }

    def _ping_text(self) -> bytes:
        return b'{"type":"ping","server_time":%d}' % self.engine.now_ms()

    def statistics(self) -> ConnectionStatistics:
        """A snapshot."""
        now = trio.current_time()
        outbox = self.outbox
        return ConnectionStatistics(
            id=self.id,
            user=self.session.identity.user,
            transport=self.transport,
            connected_seconds=now - self.connected_at,
            heard_seconds_ago=now - self._wire.heard_at,
            commands=self.commands,
            subscriptions=len(self.session.subscriptions),
            queue_messages=outbox.messages,
            queue_bytes=outbox.bytes,
            queue_age=round(now - self._backlog_since, 3) if outbox.backlogged else 0.0,
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
