"""The endpoints in an application that hypercorn serves."""

from collections.abc import Awaitable, Callable

import hypercorn.trio
import trio
import trio_websocket
from hypercorn.config import Config
from quart_trio import QuartTrio

from realtime import Engine, Settings
from transports.blueprint import make_blueprint
from transports.http.app import make_api

engine = Engine(Settings(dev=True))
app = QuartTrio("workspace")
app.register_blueprint(make_blueprint(engine))  # for peers
app.register_blueprint(make_api(engine))  # for back ends


@app.get("/")
async def home() -> str:
    return "the application's own page"


async def main() -> None:
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.errorlog = None
    done = trio.Event()
    async with trio.open_nursery() as nursery:

        async def serve(task_status: trio.TaskStatus[list[str]]) -> None:
            await hypercorn.trio.serve(app, config, shutdown_trigger=done.wait, task_status=task_status)

        (url,) = await nursery.start(serve)
        await visit(url.replace("http://", "ws://"), engine.publish)
        done.set()


async def visit(url: str, publish: Callable[[str, object], Awaitable[object]]) -> None:
    async with trio_websocket.open_websocket_url(f"{url}/ws") as websocket:
        await websocket.get_message()  # the welcome
        await websocket.send_message('{"type": "subscribe", "id": 1, "topic": "room:lobby"}')
        await websocket.get_message()  # the confirmation
        await publish("room:lobby", "hello")
        message = await websocket.get_message()
        print(message[: message.index(',"time"')], "...")


trio.run(main)
