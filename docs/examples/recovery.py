"""A WebSocket client that goes away, misses three messages, comes back and gets them."""

import json

import trio
import trio_websocket

from realtime.server import open_server


async def command(socket, **members):
    """Send a command and return its reply; this client reads nothing else meanwhile."""
    await socket.send_message(json.dumps({"id": 1, **members}))
    while True:
        push = json.loads(await socket.get_message())
        if push.get("id") == 1:
            return push


async def main():
    async with open_server(dev=True, port=0) as server:
        url = f"{server.url.replace('http', 'ws')}/ws"

        async with trio_websocket.open_websocket_url(url) as socket:
            reply = await command(socket, type="subscribe", topic="room:lobby")
            position = {"epoch": reply["epoch"], "offset": reply["offset"]}
            print("subscribed at offset", position["offset"])

        for text in ("one", "two", "three"):
            await server.publish("room:lobby", {"text": text})
        print("three messages later")

        async with trio_websocket.open_websocket_url(url) as socket:
            reply = await command(socket, type="subscribe", topic="room:lobby", recover=position)
            print("recovered:", reply["recovered"], "- replayed:", reply["replayed"])
            for _ in range(reply["replayed"]):
                message = json.loads(await socket.get_message())
                print(message["offset"], message["data"]["text"])


if __name__ == "__main__":
    trio.run(main)
