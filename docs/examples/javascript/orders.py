"""The shop of the guide "Move from polling to a stream": by itself, or with a port and a number of open orders."""

import sys

import trio

from realtime import Route
from realtime.server import open_server, run_until_signalled

port, count = map(int, sys.argv[1:] or [0, 2])
orders = {"open": count}


async def main():
    soon = []

    async def state_of(topic):
        answer = dict(orders)
        if soon:
            soon.pop()
            await take_order(topic)
        return answer

    async def take_order(topic):
        orders["open"] += 1
        await server.publish(topic, orders, event="orders", key="open")
        return orders

    async def take_order_soon(topic):
        """The next question for the state is overtaken by an order."""
        soon.append(topic)
        return orders

    states = {"orders": state_of, "take": take_order, "take-soon": take_order_soon}
    routes = [
        Route(path=f"/{name}/{{shop}}", topic="room:{shop}", transport="state", state=state)
        for name, state in states.items()
    ]
    kinds = {"room": {"join": "anyone", "history_messages": 3}}
    settings = {"allow_anonymous": True, "api_keys": ["a-key"], "kinds": kinds, "reconnect_spread_seconds": 0}
    async with open_server(port=port, routes=routes, **settings) as server:
        print(server.url, flush=True)
        await run_until_signalled(server)


trio.run(main)
