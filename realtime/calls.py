"""The requests of one connection that are under way: from the command to the handler, from its result to the reply."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

from msgspec import Raw

from realtime.auth import Verb
from realtime.commands import Reply, error_reply
from realtime.engine import Engine
from realtime.errors import CommandError, ErrorCode
from realtime.gate import Permits
from realtime.messages import Request, compact
from realtime.requests import Action, Caller
from realtime.session import Session

__all__ = ["Calls"]


class StartSoon(Protocol):
    """How a task is started that ends with the connection."""

    def __call__(self, function: Callable[..., Awaitable[None]], *arguments: object) -> None:
        """Start it."""
        ...


class Calls:
    """See the module. Bounded by `Settings.max_requests`; cancelled with the connection, whose tasks they are."""

    def __init__(
        self, engine: Engine, session: Session, permits: Permits, transport: str, reply: Callable[[Reply], None]
    ) -> None:
        """``reply`` sends what took its time."""
        self._engine = engine
        self._permits = permits
        self._session = session
        self._transport = transport
        self._reply = reply
        self._most = engine.settings.max_requests
        self.under_way = 0

    def check(self) -> None:
        """Raise `CommandError` where no more may be under way."""
        if self.under_way >= self._most:
            raise CommandError(ErrorCode.LIMIT_EXCEEDED, f"a connection has at most {self._most} requests under way")

    async def start(self, command: Request, start_soon: StartSoon) -> Reply | None:
        """Serve a request: at once if its handler never waits, else in a task of its own, which replies later.

        Raises `CommandError`.
        """
        trace_id = command.trace_id or secrets.token_hex(8)
        try:
            action = await self._find(command)
            caller = self._caller(trace_id)
            if action.inline:
                return _response(command, caller, action.call_now(command.payload, caller))
            self.check()
        except CommandError as error:
            error.trace_id = trace_id
            raise
        self.under_way += 1  # here, as a peer may send many before the first task runs
        start_soon(self._answer, command, action, caller)
        return None

    async def _answer(self, command: Request, action: Action, caller: Caller) -> None:
        try:
            reply = await self._reply_of(command, action, caller)
        finally:
            self.under_way -= 1
        self._reply(reply)

    async def serve(self, command: Request) -> Reply:
        """Serve a request in the caller's task: the reply. Raises `CommandError`."""
        trace_id = command.trace_id or secrets.token_hex(8)
        try:
            action = await self._find(command)
        except CommandError as error:
            error.trace_id = trace_id
            raise
        return await self._reply_of(command, action, self._caller(trace_id))

    async def _find(self, command: Request) -> Action:
        """The action that the peer may ask for. Raises `CommandError`."""
        action = self._engine.actions.find(command.action)
        await self._permits.check(Verb.REQUEST, action.name, action.allow)
        return action

    async def _reply_of(self, command: Request, action: Action, caller: Caller) -> Reply:
        try:
            recheck = None
            if action.concurrency is not None:  # only there is something to wait for
                recheck = partial(self._permits.recheck, Verb.REQUEST, action.name, action.allow)
            return _response(command, caller, await action.call(command.payload, caller, command.timeout, recheck))
        except CommandError as error:
            error.trace_id = caller.trace_id
            return error_reply(command.id, error)

    def _caller(self, trace_id: str) -> Caller:
        identity = self._session.identity
        return Caller(
            user=identity.user,
            roles=identity.roles,
            connection=self._session.id,
            trace_id=trace_id,
            transport=self._transport,
        )


def _response(command: Request, caller: Caller, data: bytes) -> Reply:
    return {
        "type": "response",
        "id": command.id,
        "action": command.action,
        "data": Raw(compact(data)),  # a wire may end a message with the line
        "trace_id": caller.trace_id,
    }
