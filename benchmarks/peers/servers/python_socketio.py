"""python-socketio: an AsyncServer with rooms, on uvicorn with uvloop."""

import asyncio
import sys
from typing import Any

import socketio
import uvicorn

server = socketio.AsyncServer(async_mode="asgi", transports=["websocket"])


@server.event
async def subscribe(sid: str, topic: str) -> str:
    await server.enter_room(sid, topic)
    return "subscribed"


@server.event
async def publish(sid: str, topic: str, data: dict[str, Any]) -> None:
    await server.emit("message", data, room=topic)


@server.event
async def ping(sid: str, number: int) -> int:
    return number


@server.event
async def work(sid: str, payload: dict[str, int]) -> dict[str, int]:
    await asyncio.sleep(0.01)
    return {"n": payload["n"], "double": 2 * payload["n"]}


if __name__ == "__main__":
    uvicorn.run(
        socketio.ASGIApp(server),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        log_level="warning",
        backlog=4096,
    )
