"""What is said over one link, from its welcome to its end.

::

    run
    |- reader     this task: hands on what is heard, each reply to who expects it
    |- sender     says the commands one after the other, in their order
    |- requests   one for each that may take its time, where its reply comes back by the way that it went
    '- watch      ends a link from which nothing has been heard for too long

The first to find a reason calls `Conversation.end`: it names the reason and cancels the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

import trio
from attrs import frozen

from realtime.client.words import Heard, hear
from realtime.closing import TOO_FAST
from realtime.errors import ErrorCode
from realtime.link import Link, LinkBlocked, LinkEnded

__all__ = ["Conversation", "Ending", "Line", "Listener"]

#: How long a silent server is waited for, beyond its ping interval.
GRACE_SECONDS = 10.0
#: A command that was not taken, or over SSE not answered, in this time: the link is of no use.
SEND_SECONDS = 30.0

OnReply = Callable[[Heard], None]


@frozen
class Ending:
    """Why a link came to its end."""

    why: str
    code: int | None = None
    #: Whether the server lets this client come back.
    reconnect: bool = True
    retry_after: float | None = None
    trace_id: str | None = None
    #: The error that the server told before.
    error: Heard | None = None
    #: Whether it was this end's will to begin anew: nothing has failed, and there is nothing to wait for.
    at_once: bool = False


@frozen
class Line:
    """A command to be said."""

    id: int
    text: bytes
    on_reply: OnReply
    #: Whether it may take its time: others do not wait for it.
    alone: bool = False


class Listener(Protocol):
    """Whom a conversation tells what it hears."""

    def heard(self, heard: Heard, cursor: str) -> None:
        """A push. Must not wait, and not raise."""
        ...


class Conversation:
    """See the module."""

    def __init__(self, link: Link, listener: Listener) -> None:
        self.link = link
        self.ending: Ending | None = None
        self._listener = listener
        #: How long a message may be.
        self.most_bytes = 0
        self._patience = 0.0
        self._heard_at = trio.current_time()
        self._lines: deque[Line] = deque()
        self._expected: dict[int, OnReply] = {}
        self._more = trio.Event()
        self._scope = trio.CancelScope()
        self._scopes: dict[int, trio.CancelScope] = {}
        self._goodbye: Heard | None = None
        self._error: Heard | None = None

    def say(self, *lines: Line) -> None:
        """Have these said, in their order. Never waits."""
        for line in lines:
            if len(line.text) > self.most_bytes:
                # The server would close the connection for it, and with it all that others do.
                message = f"the server takes messages of at most {self.most_bytes} bytes"
                line.on_reply(Heard("error", code=ErrorCode.PAYLOAD_TOO_LARGE, message=message))
            else:
                self._lines.append(line)
        self._more.set()

    def forget(self, command_id: int) -> bool:
        """Nobody waits for this reply any more. What was not said yet is not said: then True."""
        self._expected.pop(command_id, None)
        before, self._lines = self._lines, deque(line for line in self._lines if line.id != command_id)
        if command_id in self._scopes:
            self._scopes[command_id].cancel()
        return len(self._lines) < len(before)

    def end(self, ending: Ending) -> None:
        """End, unless it is ending for another reason already. Never waits."""
        if self.ending is None:
            self.ending = ending
            self._scope.cancel()

    async def wait_welcome(self) -> Heard:
        """The first word, which is a welcome, or else the last. Raises `LinkEnded` where there is none."""
        heard = None
        try:
            while heard is None or heard.type == "error":
                said = await self.link.receive()
                heard = hear(said.text)
                self._take(heard, "")
        except ValueError as error:
            raise LinkBlocked(f"what came is not of a realtime server: {error}") from None
        except LinkEnded as ended:
            if heard is None:
                raise
            self.end(self._farewell(ended))
            return heard
        if heard.type == "welcome":
            self._heard_at = trio.current_time()
            self._patience = heard.ping_interval + GRACE_SECONDS
            self.most_bytes = heard.limits.get("max_message_bytes", 1 << 16)
        else:
            self.end(self._farewell(LinkEnded("the server does not welcome us")))
        return heard

    async def run(self) -> Ending:
        """Talk until there is a reason to end."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send, nursery)
                nursery.start_soon(self._watch)
                await self._read()
        assert self.ending is not None  # what else would have ended it is a cancellation from outside
        return self.ending

    async def _read(self) -> None:
        try:
            while True:
                said = await self.link.receive()
                self._heard_at = trio.current_time()
                self._take(hear(said.text), said.cursor)
        except LinkEnded as ended:
            self.end(self._farewell(ended))
        except ValueError as error:
            self.end(Ending(f"what came is not of a realtime server: {error}"))

    def _take(self, heard: Heard, cursor: str) -> None:
        if isinstance(heard.id, int):
            on_reply = self._expected.pop(heard.id, None)
            if on_reply is not None:
                on_reply(heard)
        elif heard.type == "disconnect":
            self._goodbye = heard
        elif heard.type == "error":
            self._error = heard
        elif heard.type != "welcome":
            self._listener.heard(heard, cursor)

    def _farewell(self, ended: LinkEnded) -> Ending:
        """The reason, from what the server has said last, else from the close code."""
        said, code = self._goodbye, ended.code
        if said is not None:
            code = said.code if isinstance(said.code, int) else code
            return Ending(said.reason, code, said.reconnect, said.retry_after, said.trace_id, self._error)
        stay_away = code is not None and 4000 <= code < 4100 and code != TOO_FAST.code  # noqa: PLR2004 - 40xx
        return Ending(str(ended), code, not stay_away, error=self._error)

    async def _send(self, nursery: trio.Nursery) -> None:
        while True:
            while self._lines:
                line = self._lines.popleft()
                self._expected[line.id] = line.on_reply
                if line.alone and not self.link.ordered:
                    nursery.start_soon(self._send_alone, line)
                else:
                    with trio.move_on_after(SEND_SECONDS) as scope:
                        await self._send_one(line)
                    if scope.cancelled_caught:
                        self.end(Ending("the server does not take what is sent"))
            self._more = trio.Event()
            await self._more.wait()

    async def _send_alone(self, line: Line) -> None:
        with trio.CancelScope() as self._scopes[line.id]:
            await self._send_one(line)
        del self._scopes[line.id]

    async def _send_one(self, line: Line) -> None:
        try:
            reply = await self.link.send(line.text)
            on_reply = None if reply is None else self._expected.pop(line.id, None)
            if reply is not None and on_reply is not None:
                on_reply(hear(reply))
        except LinkEnded as ended:
            self.end(self._farewell(ended))
        except ValueError as error:
            self.end(Ending(f"what came is not of a realtime server: {error}"))

    async def _watch(self) -> None:
        while trio.current_time() < (until := self._heard_at + self._patience):  # noqa: ASYNC110
            await trio.sleep_until(until)  # something may have been heard meanwhile
        self.end(Ending("nothing was heard from the server for too long"))
