"""quart-trio on hypercorn as its documentation shows it: a memory channel and a task for each subscriber."""

import json
import sys
from collections import defaultdict
from collections.abc import AsyncIterator

import hypercorn.trio
import trio
from hypercorn.config import Config
from quart import Response, request, websocket
from quart_trio import QuartTrio

app = QuartTrio(__name__)
rooms: defaultdict[str, set[trio.MemorySendChannel[str]]] = defaultdict(set)


async def publish(topic: str, text: str) -> None:
    for channel in list(rooms[topic]):
        await channel.send(text)


async def subscribe(topic: str, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    send, receive = trio.open_memory_channel[str](1000)
    rooms[topic].add(send)
    try:
        await websocket.send(json.dumps({"type": "subscribed"}))
        task_status.started()
        async for text in receive:
            await websocket.send(text)
    finally:
        rooms[topic].discard(send)


async def work(number: int, n: int) -> None:
    await trio.sleep(0.01)
    await websocket.send(json.dumps({"type": "response", "id": number, "data": {"n": n, "double": 2 * n}}))


@app.websocket("/ws")
async def converse() -> None:
    async with trio.open_nursery() as nursery:
        while True:
            command = json.loads(await websocket.receive())
            match command["type"]:
                case "subscribe":
                    await nursery.start(subscribe, command["topic"])
                case "publish":
                    message = {"type": "message", "topic": command["topic"], "data": command["data"]}
                    await publish(command["topic"], json.dumps(message))
                case "ping":
                    await websocket.send(json.dumps({"type": "pong", "id": command["id"]}))
                case "request":
                    nursery.start_soon(work, command["id"], command["payload"]["n"])


@app.get("/sse")
async def stream() -> Response:
    topic = request.args["topic"]

    async def events() -> AsyncIterator[bytes]:
        send, receive = trio.open_memory_channel[str](1000)
        rooms[topic].add(send)
        try:
            yield b"event: welcome\ndata: {}\n\n"
            async for text in receive:
                yield f"event: message\ndata: {text}\n\n".encode()
        finally:
            rooms[topic].discard(send)

    response = Response(events(), content_type="text/event-stream", headers={"Cache-Control": "no-cache"})
    response.timeout = None
    return response


if __name__ == "__main__":
    config = Config()
    config.bind = [f"127.0.0.1:{sys.argv[1]}"]
    config.backlog = 4096
    config.errorlog = None  # it logs a traceback for each client that hangs up
    trio.run(hypercorn.trio.serve, app, config)
