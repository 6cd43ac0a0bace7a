"""One program: a server on one port, a feed, and a subscriber in the same process."""

import trio

from realtime import Message
from realtime.server import open_server


async def feed(server):
    for price in (1480.0, 1480.5, 1479.8):
        await server.publish("symbol:600519", {"price": price}, event="tick")


async def main():
    async with open_server(dev=True, port=0) as server, trio.open_nursery() as nursery:
        print(f"curl -N '{server.url}/sse?topic=symbol:600519'")  # or a WebSocket at /ws
        async with server.subscribe("symbol:600519") as messages:
            nursery.start_soon(feed, server)
            for _ in range(3):
                message = await anext(messages)  # a Message, or Lost for what we were too slow for
                assert isinstance(message, Message)
                print(message.offset, message.event, message.data["price"])


if __name__ == "__main__":
    trio.run(main)
