"""The server that the JavaScript of the guides is run against."""

from typing import Any

import trio

from realtime import CommandError, ErrorCode, Identity
from realtime.server import open_server, run_until_signalled


async def authenticate(token):
    if token != "a-token":
        raise CommandError(ErrorCode.AUTH_FAILED, "this token is no good")
    return Identity("7", info={"name": "Ada"})


async def main():
    async with open_server(dev=True, port=0, authenticate=authenticate, api_keys=["a-key"]) as server:

        @server.handler("add")
        async def add(numbers: list[int]) -> int:
            return sum(numbers)

        @server.handler("greet")
        async def greet(names: dict[str, Any]) -> str:
            return f"hello {names['name']}"

        for number in range(1, 4):
            await server.publish("room:lobby", {"text": f"line {number}", "author": "Bob"}, event="chat")
        await server.publish("symbol:600519", {"price": 1480.0, "volume": 300}, event="tick", key="600519")
        print(server.url, flush=True)
        await run_until_signalled(server)


trio.run(main)
