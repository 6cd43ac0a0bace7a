"""A client that loses its connection and no message, is refused once, and the server it talks to."""

import trio

from realtime import CommandError
from realtime.client import Last, Lost, connect
from realtime.closing import OVERLOADED
from realtime.server import open_server


async def main():
    async with open_server(dev=True, port=0) as server:

        @server.handler("add")
        async def add(numbers: list[int]) -> int:
            return sum(numbers)

        await server.publish("room:lobby", {"text": "before"})
        async with connect(server.url, min_delay_seconds=0.1) as client:
            async with client.subscribe("room:lobby", fields=["text"], recover=Last(10)) as messages:
                print("history:", (await anext(messages)).data)
                print("the sum:", await client.request("add", [1, 2, 3], timeout_seconds=5))
                try:
                    await client.publish("user:7", {"text": "may I?"})
                except CommandError as refused:
                    print("refused:", refused.code)

                for connection in list(server.connections):
                    connection.close(OVERLOADED)
                await client.publish("room:lobby", {"text": "meanwhile"})

                async for item in messages:
                    if isinstance(item, Lost):
                        print(f"{item.count} messages lost: {item.reason}")
                    else:
                        print("message:", item.offset, item.data)
                        break
            print("connections:", client.statistics().connections)


trio.run(main)
