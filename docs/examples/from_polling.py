"""From asking every few seconds to a stream, in three steps."""

import json
import urllib.parse
import urllib.request

import trio

from realtime import Route
from realtime.server import open_server

orders = {"open": 2}


async def state_of(topic):
    """What the page has asked for every few seconds; step 1 leaves it at that."""
    return orders


ROUTE = Route(path="/orders/{shop}", topic="room:{shop}", transport="state", state=state_of)


async def take_order(server):
    """Where the state changes, it is also published: from step 2 on. The whole value, so that nobody has to add up."""
    orders["open"] += 1
    await server.publish("room:bakery", orders, event="orders", key="open")


def get(url, **parameters):
    query = urllib.parse.urlencode(parameters)
    with urllib.request.urlopen(f"{url}?{query}", timeout=30) as response:
        return json.load(response)


def first_event(url, **parameters):
    """What an EventSource does, until the first message."""
    with urllib.request.urlopen(f"{url}?{urllib.parse.urlencode(parameters)}", timeout=30) as stream:
        for line in stream:
            if line.startswith(b"data: ") and b'"type":"message"' in line:
                return json.loads(line.removeprefix(b"data: "))
    raise EOFError("the stream ended before a message came")


async def main():
    async with open_server(dev=True, port=0, routes=[ROUTE]) as server, trio.open_nursery() as nursery:

        async def later():
            await trio.sleep(0.1)
            await take_order(server)

        # 1. The same question as before, on this server.
        print("state:", await trio.to_thread.run_sync(get, f"{server.url}/orders/bakery"))

        # 2. A cursor first, then the state, so that nothing falls between the two. Then wait for news.
        ask = f"{server.url}/poll"
        answer = await trio.to_thread.run_sync(lambda: get(ask, topic="room:bakery", timeout=0))
        print("state:", await trio.to_thread.run_sync(get, f"{server.url}/orders/bakery"))
        for _ in range(2):
            nursery.start_soon(later)
            cursor = answer["cursor"]
            answer = await trio.to_thread.run_sync(lambda cursor=cursor: get(ask, topic="room:bakery", cursor=cursor))
            print("poll: ", answer["messages"][-1]["data"])

        # 3. The same topic as a stream, from the cursor of the last poll.
        nursery.start_soon(later)
        cursor = answer["cursor"]
        message = await trio.to_thread.run_sync(
            lambda: first_event(f"{server.url}/sse", topic="room:bakery", cursor=cursor)
        )
        print("stream:", message["data"])


if __name__ == "__main__":
    trio.run(main)
