"""A client: one connection after the other, and what outlives them.

::

    open_client
    |- the block     of the program
    '- keeper        makes a connection, talks (see `realtime.client.conversation`), makes the next; while it talks:
       |- tending       of topics: what is held back, and what was refused for now (see `realtime.client.topics`)
       '- refresh       while a fresh token is asked for

The keeper ends the block with `ClientFailed` when it gives up. When the block ends, it is cancelled, and closes the
link that it has within the link's own deadline.

A little long for this house: half of it is the one list of what a program may ask of a client, a few lines each that
hand on to the part that does it; the other half is the keeper, whose decisions rest on how the last connection ended.
"""

from __future__ import annotations

import itertools
import math
import random as chance
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import msgspec
import trio
from msgspec import Raw

from realtime.client.backoff import Backoff, Choice
from realtime.client.calls import Calls
from realtime.client.conversation import Conversation, Ending, Line
from realtime.client.failures import (
    PASSING,
    ClientFailed,
    LoginRefused,
    SentAway,
    TokenUnavailable,
    Unreachable,
    command_error,
    no_connection,
)
from realtime.client.inbox import Inbox
from realtime.client.reading import Messages
from realtime.client.standing import (
    Change,
    Changes,
    ClientState,
    ClientStatistics,
    HistoryPage,
    TopicProgress,
)
from realtime.client.tokens import Token, TokenReason, TokenSource
from realtime.client.topics import Topics
from realtime.client.track import Track
from realtime.client.words import Heard, Last, View, encode_command
from realtime.closing import NOT_AUTHENTICATED, TOKEN_EXPIRED
from realtime.engine import lone_exceptions_bare
from realtime.errors import CommandError, ErrorCode
from realtime.history import Position
from realtime.idempotency import Receipt
from realtime.link import Credentials, Dialer, LinkBlocked, LinkEnded, LinkRefused
from realtime.local import Message
from realtime.presence import MembersPage

__all__ = ["Client", "open_client"]

#: A connection that lasted so long was a good one: what comes after it is a new beginning.
STEADY_SECONDS = 10.0
#: A failed call is tried again after this, where the server does not say when.
RETRY_SECONDS = 1.0
#: A login or a refusal that another login may change.
_LOGIN_CODES = frozenset({ErrorCode.AUTH_REQUIRED, ErrorCode.AUTH_FAILED, ErrorCode.TOKEN_EXPIRED})


class Client:
    """Made by `connect` or `open_client`. All calls may be made at any time in the block, by any task, and cancelled.

    They raise `CommandError`: what the server refuses; ``TIMEOUT`` where no answer came in time; ``UNAVAILABLE`` where
    the answer was lost with the connection, or the client has ended.
    """

    def __init__(
        self, dialers: Sequence[Dialer], token: Token, backoff: Backoff, connect_timeout_seconds: float
    ) -> None:
        self._choice = Choice(dialers)
        self._token = TokenSource(token)
        self._backoff = backoff
        self._connect_timeout = connect_timeout_seconds
        next_id = itertools.count(1).__next__
        self._next_id = next_id
        self._calls = Calls(next_id)
        self._topics = Topics(next_id, partial(backoff.seconds, 1))
        self._conversation: Conversation | None = None
        self._nursery: trio.Nursery | None = None
        self._change = Change(ClientState.CONNECTING, self._choice.way.name)
        self._changed = trio.lowlevel.ParkingLot()
        self._failures = 0
        self._connections = 0
        self._refreshing = False
        #: Who the server says that we are, and the name of the connection; None while there is none.
        self.user: str | None = None
        self.connection: str | None = None

    # -- what the program sees -------------------------------------------------------------------------------

    @property
    def state(self) -> ClientState:
        """Where the client stands."""
        return self._change.state

    @property
    def transport(self) -> str:
        """The way that is taken: ``websocket`` or ``sse``."""
        return self._change.transport

    def changes(self) -> Changes:
        """The state now, and each later one: ``async for change in client.changes()``."""
        return Changes(self)

    @property
    def change(self) -> Change:
        """The newest change."""
        return self._change

    async def wait_change(self, seen: Change | None) -> Change:
        """Wait until the newest change is another one than this."""
        await trio.lowlevel.checkpoint()
        while self._change is seen:
            await self._changed.park()
        return self._change

    async def wait_connected(self) -> None:
        """Wait until there is a connection. Raises `CommandError` where there will be none."""
        self._calls.check_open()
        async for change in self.changes():
            if change.state is ClientState.CONNECTED:
                return
        raise no_connection("the client has ended")

    @asynccontextmanager
    async def subscribe(
        self,
        topic: str,
        *,
        fields: Iterable[str] | None = None,
        filter: Any = None,  # noqa: A002 - its name in the protocol
        mode: str | None = None,
        max_rate: float | None = None,
        recover: Last | Position | None = None,
        presence: bool = False,
        type: Any = Any,  # noqa: A002 - as msgspec calls it
        max_messages: int = 1000,
        max_bytes: int = 1 << 20,
    ) -> AsyncIterator[Messages]:
        """Follow a topic for the length of the block, which begins when the server has agreed.

        ``recover`` is where to start: with the newest that are kept, or behind a position; without it, now. After a
        lost connection the topic is resumed where it was. With ``presence`` the reader is also told who comes and who
        goes. ``type`` is what payloads are decoded into. What was not read yet is bounded by ``max_messages`` and
        ``max_bytes``; the oldest gives way, and is told as lost.

        The same topic can be had again with the same options, without ``recover``: on the wire it is one subscription.

        Raises `CommandError`: ``ALREADY_SUBSCRIBED`` where the client has the topic with other options.
        """
        view = View.of(fields=fields, filter=filter, mode=mode, max_rate=max_rate)
        decoder = msgspec.json.Decoder(type)
        inbox = Inbox(max_messages, max_bytes, presence=presence)
        self._calls.check_open()
        track = self._topics.follow(topic, view, recover, inbox)
        try:
            here = track.position if track.settled.is_set() else None
            await track.settled.wait()
            if track.refusal is not None:
                raise track.refusal
            yield Messages(inbox, decoder, here or track.began, partial(self._update, track))
        finally:
            self._topics.leave(track, inbox)

    async def _update(self, track: Track, view: View, seconds: float) -> None:
        before = track.view
        track.view = view = msgspec.structs.replace(view, mode=view.mode or before.mode)
        members = {"topic": track.topic, **view.changes()}

        def doubt() -> None:
            track.given = None

        try:
            await self._calls.call("update", members, seconds=seconds, repeatable=True, on_doubt=doubt)
        except BaseException:  # also when cancelled: both sides are brought to agree, and it goes on up
            if track.view is view:  # nobody has changed it once more
                track.view = before
            self._topics.agree(track)
            raise
        track.given = view

    @asynccontextmanager
    async def placed(self, *, max_messages: int = 1000, max_bytes: int = 1 << 20) -> AsyncIterator[Messages]:
        """Follow the topics that the server places this client in, as those of its login, for the length of the block.

        To miss nothing enter it first of all: what comes while nobody reads is gone.
        """
        inbox = Inbox(max_messages, max_bytes)
        self._calls.check_open()
        self._topics.follow_placed(inbox)
        try:
            yield Messages(inbox, msgspec.json.Decoder())
        finally:
            self._topics.leave_placed(inbox)

    async def publish(
        self,
        topic: str,
        data: Any,
        *,
        event: str | None = None,
        key: str | None = None,
        echo: bool = True,
        idempotency_key: str | None = None,
        timeout_seconds: float = 10.0,
    ) -> Receipt:
        """Publish a message, once, whatever happens to the connection on the way.

        It is said again until there is an answer, with the same ``idempotency_key``; without one of your own it gets
        one by chance. After ``timeout_seconds`` without an answer, or cancelled, it may have been published or not.
        """
        members = {
            "topic": topic,
            "data": Raw(msgspec.json.encode(data)),
            "event": event,
            "key": key,
            "echo": None if echo else False,
            "idempotency_key": idempotency_key or secrets.token_urlsafe(16),
        }
        deadline = trio.current_time() + timeout_seconds
        refusal: CommandError | None = None
        while True:
            seconds = max(0.0, deadline - trio.current_time())
            try:
                heard = await self._calls.call("publish", members, seconds=seconds, repeatable=True)
                return Receipt(heard.epoch, heard.offset, heard.duplicate)
            except CommandError as error:
                if refusal is not None and error.code is ErrorCode.TIMEOUT:
                    # Not the refusal: this try may have been carried out.
                    text = f"{error.message}, after {refusal.code}: {refusal.message}"
                    raise CommandError(error.code, text) from None
                refusal = error
                wait = RETRY_SECONDS if error.retry_after is None else error.retry_after
                if error.code not in PASSING or self._calls.closed or trio.current_time() + wait >= deadline:
                    raise
            await trio.sleep(wait)

    async def request(
        self,
        action: str,
        payload: Any = None,
        *,
        trace_id: str | None = None,
        timeout_seconds: float = 10.0,
        type: Any = Any,  # noqa: A002 - as msgspec calls it
    ) -> Any:
        """Have the server do something; its answer, decoded into ``type``.

        Asked once: where the connection is lost under way, that is ``UNAVAILABLE``, and it may have been done or not.
        """
        members = {
            "action": action,
            "payload": Raw(msgspec.json.encode(payload)),
            "trace_id": trace_id,
            "timeout": timeout_seconds,
        }
        heard = await self._calls.call("request", members, seconds=timeout_seconds, repeatable=False, alone=True)
        return msgspec.json.decode(heard.data, type=type)

    async def members(
        self, topic: str, *, limit: int | None = None, after: str | None = None, timeout_seconds: float = 10.0
    ) -> MembersPage:
        """Who is in a topic, in the order in which they came; ``after`` is the ``next`` of the page before."""
        members = {"topic": topic, "limit": limit, "after": after}
        heard = await self._calls.call("members", members, seconds=timeout_seconds, repeatable=True)
        return msgspec.convert({"members": heard.members, "count": heard.count, "next": heard.next}, MembersPage)

    async def history(
        self,
        topic: str,
        *,
        after: Position | None = None,
        limit: int | None = None,
        timeout_seconds: float = 10.0,
    ) -> HistoryPage:
        """Look at what is kept of a topic, oldest first, without subscribing."""
        members = {"topic": topic, "limit": limit, "after": after}
        heard = await self._calls.call("history", members, seconds=timeout_seconds, repeatable=True)
        messages = [
            Message(each.topic, each.offset, each.time, msgspec.json.decode(each.data), each.event, each.key)
            for each in heard.messages
        ]
        return HistoryPage(messages, heard.position, heard.why)

    def statistics(self) -> ClientStatistics:
        """A snapshot."""
        return ClientStatistics(
            self.state,
            self.transport,
            self._connections,
            self._failures,
            len(self._calls),
            tuple(
                TopicProgress(track.topic, track.placed, track.position, track.received, track.duplicates, track.lost)
                for track in self._topics
            ),
        )

    # -- the keeper ------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep a connection until there is no point in it. Raises `ClientFailed`, and what a token function raises."""
        reason = TokenReason.CONNECT
        unsteady, second_login = 0, False
        while True:
            connections, began = self._connections, trio.current_time()
            try:
                ending = await self._connect(reason)
            except LinkRefused as refused:
                ending = self._refusal(refused, second_login=second_login)
                if refused.login:
                    reason, second_login = _reason_for(refused.error), True
                    continue
            else:
                self._check(ending)
                reason = TokenReason.EXPIRED if ending.code == TOKEN_EXPIRED.code else TokenReason.CONNECT
            second_login = False
            if self._connections > connections:
                self._failures = 0
            else:
                self._failures += 1
                if self._backoff.exhausted(self._failures):
                    raise Unreachable(ErrorCode.UNAVAILABLE, ending.why, retry_after=ending.retry_after)
            if ending.at_once:
                wait = 0.0
            else:
                steady = self._connections > connections and trio.current_time() - began >= STEADY_SECONDS
                unsteady = 1 if steady else unsteady + 1
                wait = self._backoff.seconds(unsteady, ending.retry_after)
            state = ClientState.RECONNECTING if self._connections else ClientState.CONNECTING
            self._set(Change(state, self._choice.way.name, ending.why, wait))
            await trio.sleep(wait)

    async def _connect(self, reason: TokenReason) -> Ending:
        """One connection, from the first try to its end. Raises `LinkRefused`."""
        dialer = self._choice.way
        try:
            token = await self._token.ask(reason)
            with trio.move_on_after(self._connect_timeout) as opening:
                async with dialer.open(Credentials(token, self._topics.cursor())) as link:
                    conversation = Conversation(link, self)
                    welcome = await conversation.wait_welcome()
                    opening.deadline = math.inf
                    self._choice.worked()
                    if conversation.ending is not None:
                        return conversation.ending
                    return await self._talk(conversation, welcome, dialer)
        except TokenUnavailable as error:
            return Ending(str(error))
        except LinkBlocked as blocked:
            self._choice.blocked()
            return Ending(str(blocked))
        except LinkEnded as ended:
            if ended.connected:
                self._choice.failed()
            return Ending(str(ended), ended.code)
        self._choice.failed()
        return Ending(f"no welcome within {self._connect_timeout:.3g} seconds")

    async def _talk(self, conversation: Conversation, welcome: Heard, dialer: Dialer) -> Ending:
        self._conversation = conversation
        self._connections += 1
        self.user, self.connection = welcome.user, welcome.connection
        self._topics.connected(conversation, welcome)
        self._calls.connected(conversation)
        self._set(Change(ClientState.CONNECTED, dialer.name))
        try:
            with lone_exceptions_bare():
                async with trio.open_nursery() as self._nursery:
                    self._nursery.start_soon(self._topics.tend)
                    ending = await conversation.run()
                    self._nursery.cancel_scope.cancel()
            return ending
        finally:
            self._conversation = self.connection = None
            self._topics.lost()
            self._calls.lost("it ended" if conversation.ending is None else conversation.ending.why)

    def _refusal(self, refused: LinkRefused, *, second_login: bool) -> Ending:
        """What a refusal comes to, where it is not the end of all. Raises `ClientFailed`."""
        error = refused.error
        if refused.login:
            if second_login or not self._token.has_others:
                raise _failed(LoginRefused, error)
        elif error.code not in PASSING and error.code is not ErrorCode.INTERNAL_ERROR:
            raise _failed(SentAway, error)
        return Ending(str(error), retry_after=error.retry_after)

    def _check(self, ending: Ending) -> None:
        """Raise `ClientFailed` where there is no way back."""
        told = None if ending.error is None else command_error(ending.error)
        code = told.code if told is not None else _CODES.get(ending.code, ErrorCode.UNAVAILABLE)
        failure: type[ClientFailed] = SentAway
        if ending.code == TOKEN_EXPIRED.code and not self._token.has_others:
            failure, code = LoginRefused, ErrorCode.TOKEN_EXPIRED
        elif ending.reconnect:
            return
        elif ending.code == NOT_AUTHENTICATED.code:
            failure = LoginRefused
        message = ending.why if told is None else told.message
        raise failure(code, message, close_code=ending.code, retry_after=ending.retry_after, trace_id=ending.trace_id)

    def _set(self, change: Change) -> None:
        self._change = change
        self._changed.unpark_all()

    def refuse(self) -> None:
        """There will be no other connection: calls that are made from now on are refused."""
        self._calls.refuse("the client has ended")

    def end(self, state: ClientState) -> None:
        """There will be no other connection, and nobody is left in the block."""
        self._set(Change(state, self.transport))
        self._calls.close("the client has ended")
        self._topics.close(no_connection("the client has ended"))

    # -- what the server says --------------------------------------------------------------------------------

    def heard(self, heard: Heard, cursor: str) -> None:
        """See `realtime.client.conversation.Listener`."""
        if heard.type != "token_expiring":
            self._topics.heard(heard, cursor)
        elif self._token.has_others and not self._refreshing:
            assert self._nursery is not None
            assert self._conversation is not None
            self._refreshing = True
            self._nursery.start_soon(self._refresh, self._conversation)

    async def _refresh(self, conversation: Conversation) -> None:
        """Log in anew on a live connection. Where that fails it is closed in time, and the next one tries again."""
        try:
            while True:
                try:
                    token = await self._token.ask(TokenReason.EXPIRING)
                except TokenUnavailable:
                    await trio.sleep(self._backoff.seconds(1))
                    continue
                if token is not None:
                    command_id = self._next_id()
                    text = encode_command("auth", command_id, {"token": token})
                    conversation.say(Line(command_id, text, lambda reply: self._topics.place(reply.topics)))
                return
        finally:
            self._refreshing = False


def _failed(kind: type[ClientFailed], error: CommandError) -> ClientFailed:
    return kind(error.code, error.message, retry_after=error.retry_after, trace_id=error.trace_id)


def _reason_for(error: CommandError) -> TokenReason:
    return TokenReason.EXPIRED if error.code is ErrorCode.TOKEN_EXPIRED else TokenReason.REFUSED


#: What a close means where no error was told before it.
_CODES: dict[int | None, ErrorCode] = {
    4000: ErrorCode.BAD_REQUEST,
    4001: ErrorCode.AUTH_REQUIRED,
    4003: ErrorCode.PERMISSION_DENIED,
    4004: ErrorCode.SESSION_NOT_FOUND,
}


@asynccontextmanager
async def open_client(
    dialers: Sequence[Dialer],
    *,
    token: Token = None,
    min_delay_seconds: float = 3.0,
    max_delay_seconds: float = 30.0,
    tries: int | None = None,
    connect_timeout_seconds: float = 10.0,
    random: Callable[[], float] = chance.random,
) -> AsyncIterator[Client]:
    """A client over links of your own, for the length of a block; `connect` is the same with those to a URL.

    ``dialers`` are the ways, the best one first: see `realtime.link`.
    """
    backoff = Backoff(first_seconds=min_delay_seconds, most_seconds=max_delay_seconds, tries=tries, random=random)
    client = Client(dialers, token, backoff, connect_timeout_seconds)
    failure: Exception | None = None

    async def keep() -> None:
        nonlocal failure
        try:
            with lone_exceptions_bare():
                await client.run()
        except Exception as error:  # also that of a token function
            failure = error
            client.refuse()
            raise

    outcome: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep)
            try:
                yield client
            finally:
                # Not before: the block is cancelled, and nothing in it is to raise for the same cause beside that.
                client.end(ClientState.CLOSED if failure is None else ClientState.FAILED)
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        outcome = _outcome(group, failure)
    if outcome is not None:
        raise outcome from outcome.__cause__


def _outcome(group: BaseExceptionGroup, failure: Exception | None) -> BaseException:
    """What of the exceptions that came together ends the block.

    The nursery is not the program's business, but a group of the program's own is. Where the client has failed, what
    the block raises as it is cancelled comes of that, and is the context of the failure.
    """
    if failure is None:
        return group.exceptions[0] if len(group.exceptions) == 1 else group
    # A cancellation from outside comes again at the next checkpoint; a Ctrl-C does not, and is not for us to hide.
    _, others = group.split(lambda error: error is failure or isinstance(error, trio.Cancelled))
    return failure if others is None or isinstance(others, Exception) else group
