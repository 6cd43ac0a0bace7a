"""A thermometer in a garden, and a page that shows it."""

import math
import sys

import trio
from quart import Response
from quart_trio import QuartTrio

from realtime import ConfigurationError, Feeds, load_settings
from realtime.server import open_server, run_until_signalled

app = QuartTrio(__name__)
feeds = Feeds()


@app.get("/")
async def page():
    text = await trio.Path("garden.html").read_text()
    return Response(text, mimetype="text/html")


@feeds.feed()
async def thermometer(server):
    while True:
        celsius = round(20 + 5 * math.sin(trio.current_time() / 10), 1)
        await server.publish("room:garden", {"celsius": celsius}, event="temperature")
        await trio.sleep(1)


async def main():
    async with open_server(load_settings("garden.toml"), app=app, feeds=feeds) as server:
        print(f"Open {server.url}/ in a browser. Ctrl-C ends it.", flush=True)
        await run_until_signalled(server)


if __name__ == "__main__":
    try:
        trio.run(main)
    except ConfigurationError as error:
        sys.exit(str(error))
