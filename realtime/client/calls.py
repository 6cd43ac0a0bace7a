"""What the program has asked for and waits for: calls outlive links, as far as it is safe to ask again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio
from attrs import define, field

from realtime.client.conversation import Conversation, Line
from realtime.client.failures import command_error, no_connection
from realtime.client.words import Heard, encode_command
from realtime.errors import CommandError, ErrorCode

__all__ = ["Calls"]

#: Calls that may wait at once.
MAX_WAITING = 1000


@define(eq=False)
class _Call:
    line: Line
    #: Whether it may be asked again where the answer was lost.
    repeatable: bool
    #: The answer, and the failure where there is none.
    reply: Heard | None = None
    failure: CommandError | None = None
    done: trio.Event = field(factory=trio.Event)
    #: Whether it was handed to a link: it may have been carried out.
    said: bool = False


class Calls:
    """See the module."""

    def __init__(self, next_id: Callable[[], int]) -> None:
        self._next_id = next_id
        self._waiting: dict[int, _Call] = {}
        self._conversation: Conversation | None = None
        self._closed: CommandError | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def closed(self) -> bool:
        """Whether no other call is taken."""
        return self._closed is not None

    def check_open(self) -> None:
        """Raises `CommandError` where no other call is taken."""
        if self._closed is not None:
            raise self._closed

    async def call(
        self,
        kind: str,
        members: dict[str, Any],
        *,
        seconds: float,
        repeatable: bool,
        alone: bool = False,
        on_doubt: Callable[[], None] | None = None,
    ) -> Heard:
        """The reply to a command. Raises `CommandError`; and `TypeError` for data that has no JSON form.

        ``on_doubt`` is called where the answer is not waited for any more of what may have been carried out.
        """
        self.check_open()
        if len(self._waiting) >= MAX_WAITING:
            raise CommandError(ErrorCode.LIMIT_EXCEEDED, f"at most {MAX_WAITING} calls wait at once")
        command_id = self._next_id()
        text = encode_command(kind, command_id, members)
        call = _Call(Line(command_id, text, lambda heard: self._answer(call, heard), alone), repeatable)
        self._waiting[command_id] = call
        try:
            with trio.move_on_after(seconds):
                self._say(call)
                await call.done.wait()
        finally:
            del self._waiting[command_id]
            unsaid = self._conversation is not None and self._conversation.forget(command_id)
            if on_doubt is not None and call.said and not unsaid and not call.done.is_set():
                on_doubt()
        if call.failure is not None:
            raise call.failure
        if call.reply is None:
            raise CommandError(ErrorCode.TIMEOUT, f"no answer within {seconds:.3g} seconds")
        if call.reply.type == "error":
            raise command_error(call.reply)
        return call.reply

    def connected(self, conversation: Conversation) -> None:
        """There is a link: say what waits, in the order in which it was asked."""
        self._conversation = conversation
        for call in self._waiting.values():
            self._say(call)

    def lost(self, why: str) -> None:
        """The link is gone. What may not be asked twice has failed, if it was asked."""
        self._conversation = None
        for call in self._waiting.values():
            if call.said and not call.repeatable:
                self._fail(call, no_connection(f"the connection was lost: {why}"))

    def refuse(self, why: str) -> None:
        """Take no other call."""
        self._closed = no_connection(why)

    def close(self, why: str) -> None:
        """There will be no other link."""
        self._closed = no_connection(why)
        for call in self._waiting.values():
            self._fail(call, self._closed)

    def _say(self, call: _Call) -> None:
        if self._conversation is not None and not call.done.is_set():
            call.said = True
            self._conversation.say(call.line)

    def _answer(self, call: _Call, heard: Heard) -> None:
        call.reply = heard
        call.done.set()

    def _fail(self, call: _Call, error: CommandError) -> None:
        call.failure = error
        call.done.set()
