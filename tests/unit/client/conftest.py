"""What the tests of the client share: an engine, a way to it, and a client whose waits are known.

And a server that says what its script says, at the moment that its script says, for what an engine does once in a year.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio

from realtime import Engine, Settings, open_engine
from realtime.client import Client, Lost, Message, Messages, open_client
from realtime.link import Credentials, LinkEnded, Said
from realtime.testing import MemoryDialer

LIMITS = {"max_message_bytes": 65536}


@asynccontextmanager
async def engine_and_client(
    *, settings: Settings | None = None, authenticate: Any = None, actions: Any = None, **options: Any
) -> AsyncIterator[tuple[Engine, MemoryDialer, Client]]:
    """A client that is connected to an engine, and the way between the two."""
    options = {"random": lambda: 1.0, **options}
    async with open_engine(settings or Settings(dev=True), authenticate=authenticate, actions=actions) as engine:
        way = MemoryDialer(engine)
        async with open_client([way], **options) as client:
            with trio.fail_after(60):
                await client.wait_connected()
            yield engine, way, client


class ScriptedLink:
    """A `realtime.link.Link` whose server is a script: it hears with `hear`, and says with `push` and `reply`."""

    def __init__(self, *, ordered: bool) -> None:
        self.ordered = ordered
        #: The commands that came, in their order.
        self.commands: list[dict[str, Any]] = []
        self._say, self._said = trio.open_memory_channel[Said | LinkEnded](100_000)
        self._give, self._given = trio.open_memory_channel[dict[str, Any]](1000)
        self._replies: dict[int, bytes] = {}
        self._replied = trio.lowlevel.ParkingLot()

    async def receive(self) -> Said:
        said = await self._said.receive()
        if isinstance(said, LinkEnded):
            raise said
        return said

    async def send(self, text: bytes) -> bytes | None:
        await trio.lowlevel.checkpoint()
        command = msgspec.json.decode(text)
        self.commands.append(command)
        self._give.send_nowait(command)
        while not self.ordered and command["id"] not in self._replies:
            await self._replied.park()
        return self._replies.get(command["id"])

    async def hear(self, kind: str) -> dict[str, Any]:
        """The next command, which is of this type."""
        command = await self._given.receive()
        assert command["type"] == kind
        return command

    def push(self, kind: str, **members: Any) -> None:
        self._say.send_nowait(Said(msgspec.json.encode({"type": kind, **members})))

    def welcome(self) -> None:
        self.push("welcome", connection="c_1", limits=LIMITS)

    def message(self, topic: str, offset: int) -> None:
        """A message whose payload is its offset."""
        self.push("message", topic=topic, offset=offset, time=1, data=offset)

    def reply(self, command: dict[str, Any], kind: str, **members: Any) -> None:
        if self.ordered:
            self.push(kind, id=command["id"], **members)
        else:
            self._replies[command["id"]] = msgspec.json.encode({"type": kind, "id": command["id"], **members})
            self._replied.unpark_all()

    def subscribed(self, command: dict[str, Any], offset: int, **members: Any) -> None:
        self.reply(command, "subscribed", topic=command["topic"], epoch="e", offset=offset, **members)

    def end(self, code: int | None = None) -> None:
        self._say.send_nowait(LinkEnded("cut", code=code))


class ScriptedDialer:
    """A `realtime.link.Dialer`: each of its links is welcomed, and has the next of these scripts for a server.

    A script that is at its end says nothing more but pings.
    """

    name = "scripted"

    def __init__(self, *scripts: Callable[[ScriptedLink], Awaitable[None]], ordered: bool = True) -> None:
        self._scripts = scripts
        self._ordered = ordered
        #: All links that there were, and when each was asked for.
        self.links: list[ScriptedLink] = []
        self.times: list[float] = []

    @asynccontextmanager
    async def open(self, _credentials: Credentials) -> AsyncIterator[ScriptedLink]:
        link = ScriptedLink(ordered=self._ordered)
        script = self._scripts[len(self.links)]
        self.links.append(link)
        self.times.append(trio.current_time())

        async def serve() -> None:
            link.welcome()
            await script(link)
            while True:
                await trio.sleep(15)
                link.push("ping")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)  # noqa: ASYNC113 - what waits for the welcome waits for this
            yield link
            nursery.cancel_scope.cancel()


async def take(messages: Messages, count: int) -> list[Message | Lost]:
    """The next items."""
    with trio.fail_after(600):
        return [await anext(messages) for _ in range(count)]


def brief(items: list[Message | Lost]) -> list[Any]:
    """The payload of a message; (first, last, count, reason) of what was lost."""
    return [
        item.data if isinstance(item, Message) else (item.first, item.last, item.count, item.reason) for item in items
    ]
