"""The hub in a Quart-Trio application that plain hypercorn serves: the application writes its own events."""

import json
import socket
import urllib.request

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from quart import current_app, make_response
from quart_trio import QuartTrio

from realtime import Lost, open_engine

app = QuartTrio(__name__)


@app.get("/events/<topic>")
async def events(topic):
    subscription = current_app.extensions["realtime"].subscribe(topic)

    async def body():
        async with subscription as messages:
            yield b": here we go\n\n"
            async for message in messages:
                if isinstance(message, Lost):
                    yield b'event: gap\ndata: {"count": %d}\n\n' % message.count
                else:
                    yield b"id: %d\ndata: %b\n\n" % (message.offset, json.dumps(message.data).encode())

    response = await make_response(body(), {"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    response.timeout = None  # else Quart ends the stream after a minute
    return response


def read_one(url, listening):
    """A client, to try it out: the first event that has data."""
    with urllib.request.urlopen(url, timeout=5) as response:
        listening()
        return next(line for line in response if line.startswith(b"data:")).decode().strip()


async def main():
    door = socket.create_server(("127.0.0.1", 0))  # only to know the port; a program of your own says bind = "..."
    url = f"http://127.0.0.1:{door.getsockname()[1]}/events/room:orders"
    config = Config()
    config.bind = [f"fd://{door.detach()}"]
    config.errorlog = None
    async with open_engine() as engine, trio.open_nursery() as nursery:
        app.extensions["realtime"] = engine
        done = trio.Event()
        nursery.start_soon(lambda: serve(app, config, shutdown_trigger=done.wait))

        def listening():
            trio.from_thread.run(engine.publish, "room:orders", {"order": 17})

        print(await trio.to_thread.run_sync(read_one, url, listening))
        done.set()


if __name__ == "__main__":
    trio.run(main)
