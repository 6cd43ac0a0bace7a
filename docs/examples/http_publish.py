"""Publish over HTTP, as a back end in another process or another language does."""

import json
import urllib.request

import trio

from realtime.server import open_server

KEY = "a-long-random-text"


def publish_over_http(url, topic, data):
    body = json.dumps({"topic": topic, "data": data, "event": "order.changed"}).encode()
    request = urllib.request.Request(f"{url}/api/v1/publish", data=body, headers={"X-API-Key": KEY})
    with urllib.request.urlopen(request, timeout=5) as response:
        return json.load(response)


async def main():
    async with open_server(port=0, api_keys=[KEY]) as server, server.subscribe("project:12") as messages:
        # urllib blocks, so here it gets a thread; a back end would simply call it.
        position = await trio.to_thread.run_sync(publish_over_http, server.url, "project:12", {"state": "paid"})
        print("published at offset", position["offset"])
        message = await anext(messages)
        print("received", message.event, message.data)


if __name__ == "__main__":
    trio.run(main)
