"""A Quart-Trio application of one's own on the server's port; its handlers publish."""

import urllib.request

import trio
from quart import current_app, request
from quart_trio import QuartTrio

from realtime.server import open_server

app = QuartTrio(__name__)


@app.get("/")
async def home():
    return "my own page"


@app.post("/orders/<int:number>/pay")
async def pay(number):
    await current_app.extensions["realtime"].publish("room:orders", {"order": number, "by": (await request.json)["by"]})
    return {"paid": number}


def call(url, body=None):
    """A client, to try it out."""
    outgoing = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(outgoing, timeout=5) as response:
        return response.read().decode().strip()


async def main():
    async with open_server(port=0, app=app) as server, server.subscribe("room:orders") as messages:
        app.extensions["realtime"] = server
        print(await trio.to_thread.run_sync(call, f"{server.url}/"))
        print(await trio.to_thread.run_sync(call, f"{server.url}/healthz"))
        print(await trio.to_thread.run_sync(call, f"{server.url}/orders/17/pay", b'{"by": "card"}'))
        print((await anext(messages)).data)


if __name__ == "__main__":
    trio.run(main)
