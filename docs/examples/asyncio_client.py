"""Clients on asyncio: one by WebSocket, one by Server-Sent Events. Each hangs up, comes back, and misses nothing."""

import asyncio
import json

import httpx
import trio
import websockets
from httpx_sse import aconnect_sse

from realtime.server import open_server


async def follow_by_websocket(url, topic, handle, position=None):
    """Subscribe, from the position on if there is one; hand on messages until `handle` says stop."""
    async with websockets.connect(f"{url.replace('http', 'ws', 1)}/ws") as socket:
        wish = {"type": "subscribe", "id": 1, "topic": topic}
        await socket.send(json.dumps(wish if position is None else wish | {"recover": position}))
        async for text in socket:
            push = json.loads(text)
            match push["type"]:
                case "subscribed":
                    # While old messages are still to come, the old position is the right one.
                    if not push.get("replayed"):
                        position = {"epoch": push["epoch"], "offset": push["offset"]}
                    if push.get("recovered") == "none":
                        print("what was missed is gone:", push["why"])
                case "message":
                    position = {**position, "offset": push["offset"]}
                    if not handle(push):
                        return position
                case "gap":
                    position = {**position, "offset": push["to"]}
                    print("lost:", push["count"])
                case "error":
                    raise RuntimeError(f"{push['code']}: {push['message']}")
    return position


async def follow_by_sse(url, topic, handle, cursor=""):
    """The same over HTTP, where the cursor comes with each event."""
    headers = {"Last-Event-ID": cursor} if cursor else {}
    async with (
        httpx.AsyncClient(timeout=httpx.Timeout(10, read=30)) as http,
        aconnect_sse(http, "GET", f"{url}/sse", params={"topic": topic}, headers=headers) as source,
    ):
        source.response.raise_for_status()
        async for event in source.aiter_sse():
            cursor = event.id or cursor
            if event.event == "message" and not handle(event.json()):
                return cursor
    return cursor


def tell(push):
    """Handle one message, then hang up."""
    print(push["offset"], push["data"]["text"])
    return False


async def publish(url, text):
    """As a back end does."""
    async with httpx.AsyncClient(base_url=url, headers={"X-API-Key": "a-key"}) as http:
        body = {"topic": "room:lobby", "data": {"text": text}}
        (await http.post("/api/v1/publish", json=body)).raise_for_status()


async def main(url):
    for name, follow in (("websocket", follow_by_websocket), ("sse", follow_by_sse)):
        print(name)
        following = asyncio.create_task(follow(url, "room:lobby", tell))
        await asyncio.sleep(1)  # by then it has subscribed
        for text in ("one", "two", "three"):
            await publish(url, text)
        where = await following
        for _ in range(2):
            where = await follow(url, "room:lobby", tell, where)


async def serve():
    """The server, for this example in the same process: asyncio runs in a thread beside it."""
    async with open_server(dev=True, port=0, api_keys=["a-key"]) as server:
        await trio.to_thread.run_sync(asyncio.run, main(server.url))


if __name__ == "__main__":
    trio.run(serve)
