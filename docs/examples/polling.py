"""A client that only asks: each answer has the cursor for the next question."""

import json
import urllib.parse
import urllib.request

import trio

from realtime.server import open_server


def poll(url, **parameters):
    query = urllib.parse.urlencode({"topic": "room:lobby", **parameters})
    with urllib.request.urlopen(f"{url}/poll?{query}", timeout=30) as response:
        return json.load(response)


async def main():
    async with open_server(dev=True, port=0) as server, trio.open_nursery() as nursery:
        # Where the topic stands now, without waiting for anything.
        answer = await trio.to_thread.run_sync(lambda: poll(server.url, timeout=0))
        print(answer["messages"])

        # What has come meanwhile is answered at once ...
        for text in ("one", "two", "three"):
            await server.publish("room:lobby", {"text": text})
        for _ in range(2):
            cursor = answer["cursor"]
            answer = await trio.to_thread.run_sync(lambda cursor=cursor: poll(server.url, cursor=cursor, limit=2))
            print([message["data"]["text"] for message in answer["messages"]])

        # ... and what has not come yet is waited for.
        async def later():
            await trio.sleep(0.05)
            await server.publish("room:lobby", {"text": "four"})

        nursery.start_soon(later)
        answer = await trio.to_thread.run_sync(lambda: poll(server.url, cursor=answer["cursor"], timeout=25))
        print([message["data"]["text"] for message in answer["messages"]])


if __name__ == "__main__":
    trio.run(main)
