"""A trading screen's server: symbols that tick while somebody looks, a source that fails, rooms to talk in.

Run it with ``python examples/market.py``. In a second shell look at a symbol, and in a third ask for things::

    realtime tail symbol:600519 --fields price --filter '{">=": ["volume", 500]}' --max-rate 2 --token token-of-ada

    realtime request get_fund_flow '{"symbol": "600519"}' --token token-of-ada
    realtime request create_room --token token-of-ada
    realtime request notify '{"to": "room:lobby", "text": "call me"}' --token token-of-ada
    realtime tail room:lobby --token token-of-bob
"""

from __future__ import annotations

import random
import secrets
import sys
from itertools import cycle
from typing import Annotated, Any

import click
import structlog
import trio
from msgspec import Meta, Struct

from realtime import CommandError, ConfigurationError, ErrorCode, Identity
from realtime.breaker import CircuitBreaker
from realtime.feeds import Feeds
from realtime.requests import Caller
from realtime.server import Server, open_server, run_until_signalled

KINDS = {
    "symbol": {"pattern": "000001|000858|300750|600036|600519|601318"},  # not any six digits: each costs a task
    "market": {"bare": True, "history_messages": 1},
    # Made by `create_room`, or by a back end over HTTP. Its name cannot be guessed: who knows it was invited.
    "private": {"must_exist": True, "presence": "members", "max_members": 50},
}

TALK = ["join", "publish", "presence", "history"]
#: Who may do what; what none of them allows is denied. ``room:trader`` is for traders, ``room:dealer`` for dealers.
RULES = [
    {"name": "watch", "topics": ["symbol:*", "market", "global", "room:news"], "allow": ["join", "history"]},
    {"name": "tell news", "roles": ["dealer"], "topics": ["room:news"], "allow": ["publish"]},
    {"name": "talk", "topics": ["room:lobby", "room:{role}", "private:*"], "allow": TALK},
    {"name": "ask", "actions": ["get_fund_flow"], "allow": ["request"]},
    {"name": "deal", "roles": ["dealer"], "actions": ["create_room", "remove_room", "notify"], "allow": ["request"]},
]

#: A screen that comes back subscribes to all it had, then a person clicks. And no user types faster.
LIMITS: dict[str, Any] = {"command_rate": 20, "command_burst": 250, "publish_rate": 2, "publish_burst": 10}

USERS = {
    "token-of-ada": Identity("ada", roles=frozenset({"dealer", "trader"}), info={"name": "Ada"}),
    "token-of-bob": Identity("bob", roles=frozenset({"trader"}), info={"name": "Bob"}),
    "token-of-eve": Identity("eve", info={"name": "Eve"}),
}

feeds = Feeds()


def authenticate(token: str) -> Identity:
    """Who has this token. A real one asks a session store; the settings check signatures, as in ``workspace.py``."""
    if token not in USERS:
        raise CommandError(ErrorCode.AUTH_FAILED, "no such token")
    return USERS[token]


class Tick(Struct):
    """What is told of a symbol; a subscriber gets the ``fields`` that it asks for."""

    price: float
    change: float
    volume: int
    bid: float
    ask: float


@feeds.feed()
async def tell_phase(server: Server) -> None:
    """Run for as long as the server: tells whether the exchange trades."""
    for phase in cycle(("open", "auction")):
        await server.publish("market", {"phase": phase}, event="market.status")
        await trio.sleep(20)


@feeds.feed(topics="symbol:*")
async def trade(server: Server, topic: str) -> None:
    """Run for each symbol that has subscribers: a random walk, twenty ticks a second."""
    chance = random.Random(topic)  # noqa: S311
    price = opening = round(chance.uniform(5, 500), 2)
    volume = 100
    while True:
        if chance.random() < 0.7:  # noqa: PLR2004
            price = round(price * (1 + chance.gauss(0, 0.001)), 2)
            volume = chance.randrange(1, 11) * 100
        # Else nobody has traded. The same tick again is not sent: symbols drop duplicates, and count them.
        tick = Tick(price, round(price - opening, 2), volume, round(price - 0.01, 2), round(price + 0.01, 2))
        await server.publish(topic, tick, event="tick")
        await trio.sleep(0.05)


class FundFlow(Struct):
    """Who put money into a symbol today, and who took it out."""

    symbol: str
    main_net: float
    retail_net: float


class FundFlowSource:
    """Stands for a service elsewhere; it is out of order for the first so many calls."""

    def __init__(self, failures: int) -> None:
        self._failures = failures

    async def fund_flow(self, symbol: str) -> FundFlow:
        """What the service says. Raises `ConnectionError`."""
        await trio.sleep(0.01)
        if self._failures > 0:
            self._failures -= 1
            raise ConnectionError("fund flow service: connection refused")
        chance = random.Random(symbol)  # noqa: S311
        return FundFlow(symbol, round(chance.gauss(0, 1e6), 2), round(chance.gauss(0, 1e5), 2))


class FundFlowOf(Struct):
    """The payload of ``get_fund_flow``."""

    symbol: Annotated[str, Meta(pattern=r"^[0-9]{6}$(?!\n)")]


class Room(Struct):
    """A private room."""

    topic: Annotated[str, Meta(pattern="^private:")]


class Notice(Struct):
    """The payload of ``notify``: to ``user:bob``, ``role:trader``, ``connection:<id>``, or subscribers of any topic."""

    to: str
    text: Annotated[str, Meta(min_length=1, max_length=500)]


def answer_requests(server: Server, source: FundFlowSource) -> None:
    """Register what peers may ask this server to do, if a rule lets them."""
    senders: Any = {"user": server.send_to_user, "role": server.send_to_role, "connection": server.send_to_connection}
    breaker = CircuitBreaker("fund flow", failures=3, retry_seconds=1.0)

    @server.handler("get_fund_flow", concurrency=8, timeout_seconds=2.0, breaker=breaker)
    async def get_fund_flow(wanted: FundFlowOf) -> FundFlow:
        """After three failures in a row the source is left alone for a second, and who asks is told so at once."""
        return await source.fund_flow(wanted.symbol)

    @server.handler("create_room")
    def create_room() -> Room:
        room = Room(f"private:{secrets.token_urlsafe(9)}")
        server.create_topic(room.topic)
        return room

    @server.handler("remove_room")
    async def remove_room(room: Room) -> None:
        """Its members are told that it is gone."""
        await server.remove_topic(room.topic)

    @server.handler("notify")
    async def notify(notice: Notice, caller: Caller) -> dict[str, int]:
        message = {"text": notice.text, "from": caller.user}
        kind, _, name = notice.to.partition(":")
        # A user has it on all devices; who is not here finds it on coming back.
        send, to = (senders[kind], name) if kind in senders else (server.publish, notice.to)
        receipt = await send(to, message, event="notice")
        return {"offset": receipt.offset}


@click.command()
@click.option("--port", default=8000, help="0 picks a free one.")
@click.option("--api-key", "api_keys", multiple=True, help="For back ends: statistics, and publishing over HTTP.")
@click.option("--source-failures", default=0, help="How often the source of the fund flow fails before it works.")
def main(port: int, api_keys: tuple[str, ...], source_failures: int) -> None:
    """Serve the market until SIGTERM or Ctrl-C."""

    async def serve() -> None:
        async with open_server(
            port=port, api_keys=api_keys, kinds=KINDS, rules=RULES, authenticate=authenticate, feeds=feeds, **LIMITS
        ) as server:
            answer_requests(server, FundFlowSource(source_failures))
            print(f"Serving on {server.url}", flush=True)
            await run_until_signalled(server)

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    try:
        trio.run(serve)
    except ConfigurationError as error:  # as where the port is taken
        sys.exit(str(error))


if __name__ == "__main__":
    main()
