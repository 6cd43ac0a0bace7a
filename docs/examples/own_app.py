"""A Quart-Trio application of one's own on the server's port; its handlers publish."""

import urllib.request
from urllib.error import HTTPError

import trio
from quart import current_app, request
from quart_trio import QuartTrio

from realtime import CommandError
from realtime.server import open_server
from transports.responses import error_body, error_headers, status_of

app = QuartTrio(__name__)


@app.get("/")
async def home():
    return "my own page"


@app.post("/shops/<shop>/orders")
async def order(shop):
    await current_app.extensions["realtime"].publish(f"room:{shop}", await request.json, event="order")
    return {"ordered": True}


@app.errorhandler(CommandError)
async def refuse(error):
    return error_body(error), status_of(error), {"Content-Type": "application/json", **error_headers(error)}


def call(url, body=None):
    """A client, to try it out."""
    outgoing = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(outgoing, timeout=5) as response:
            return response.read().decode().strip()
    except HTTPError as refusal:
        with refusal:
            return f"{refusal.status} {refusal.read().decode().strip()}"


async def main():
    async with open_server(port=0, app=app) as server, server.subscribe("room:bakery") as messages:
        app.extensions["realtime"] = server
        print(await trio.to_thread.run_sync(call, f"{server.url}/"))
        print(await trio.to_thread.run_sync(call, f"{server.url}/healthz"))
        for shop in ("bakery", "no%20shop"):
            print(await trio.to_thread.run_sync(call, f"{server.url}/shops/{shop}/orders", b'{"loaves": 2}'))
        print((await anext(messages)).data)


if __name__ == "__main__":
    trio.run(main)
