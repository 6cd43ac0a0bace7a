"""An SSE client that keeps its cursor: it may go away at any time and loses nothing."""

import json
import urllib.request

import trio

from realtime.server import open_server


def read_one(url, cursor):
    """Open a stream after the cursor, read one message, hang up; the message's cursor and data."""
    headers = {"Accept": "text/event-stream"}
    if cursor is not None:
        headers["Last-Event-ID"] = cursor
    event = {}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as response:
        for line in response:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name:
                event[name] = value
            elif event.get("event") == "message":  # an empty line ends an event
                return event["id"], json.loads(event["data"])
            else:
                event = {}
    raise EOFError("the stream ended before a message came")


async def main():
    async with open_server(dev=True, port=0) as server:
        url = f"{server.url}/sse?topic=room:lobby"
        start = await server.publish("room:lobby", {"text": "one"})
        for text in ("two", "three"):
            await server.publish("room:lobby", {"text": text})

        cursor = f"room:lobby!{start.epoch}!{start.offset}"
        for _ in range(2):
            cursor, message = await trio.to_thread.run_sync(read_one, url, cursor)
            print(message["offset"], message["data"]["text"])


if __name__ == "__main__":
    trio.run(main)
