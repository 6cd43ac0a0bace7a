"""A Starlette WebSocket endpoint on uvicorn with uvloop: the usual list of sockets and a loop that sends."""

import asyncio
import json
import sys
from collections import defaultdict

import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

rooms: defaultdict[str, set[WebSocket]] = defaultdict(set)


async def publish(topic: str, data: object) -> None:
    text = json.dumps({"type": "message", "topic": topic, "data": data})
    for socket in list(rooms[topic]):
        try:
            await socket.send_text(text)
        except WebSocketDisconnect:
            rooms[topic].discard(socket)


async def work(socket: WebSocket, number: int, n: int) -> None:
    await asyncio.sleep(0.01)
    try:
        await socket.send_text(json.dumps({"type": "response", "id": number, "data": {"n": n, "double": 2 * n}}))
    except WebSocketDisconnect:
        pass


async def converse(socket: WebSocket) -> None:
    await socket.accept()
    joined: set[str] = set()
    tasks: set[asyncio.Task[None]] = set()
    try:
        while True:
            command = json.loads(await socket.receive_text())
            match command["type"]:
                case "subscribe":
                    rooms[command["topic"]].add(socket)
                    joined.add(command["topic"])
                    await socket.send_text(json.dumps({"type": "subscribed", "id": command["id"]}))
                case "publish":
                    await publish(command["topic"], command["data"])
                case "ping":
                    await socket.send_text(json.dumps({"type": "pong", "id": command["id"]}))
                case "request":
                    task = asyncio.create_task(work(socket, command["id"], command["payload"]["n"]))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
    except WebSocketDisconnect:
        pass
    finally:
        for topic in joined:
            rooms[topic].discard(socket)


if __name__ == "__main__":
    uvicorn.run(
        Starlette(routes=[WebSocketRoute("/ws", converse)]),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        log_level="warning",
        backlog=4096,
    )
