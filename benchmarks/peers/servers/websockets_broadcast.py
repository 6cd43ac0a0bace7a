"""websockets on uvloop, with its own `broadcast`, which writes to every socket without waiting."""

import asyncio
import json
import sys
from collections import defaultdict

import uvloop
from websockets import ConnectionClosed
from websockets.asyncio.server import ServerConnection, broadcast, serve

rooms: defaultdict[str, set[ServerConnection]] = defaultdict(set)


async def work(connection: ServerConnection, number: int, n: int) -> None:
    await asyncio.sleep(0.01)
    try:
        await connection.send(json.dumps({"type": "response", "id": number, "data": {"n": n, "double": 2 * n}}))
    except ConnectionClosed:
        pass


async def converse(connection: ServerConnection) -> None:
    joined: set[str] = set()
    tasks: set[asyncio.Task[None]] = set()
    try:
        async for text in connection:
            command = json.loads(text)
            match command["type"]:
                case "subscribe":
                    rooms[command["topic"]].add(connection)
                    joined.add(command["topic"])
                    await connection.send(json.dumps({"type": "subscribed", "id": command["id"]}))
                case "publish":
                    message = {"type": "message", "topic": command["topic"], "data": command["data"]}
                    broadcast(rooms[command["topic"]], json.dumps(message))
                case "ping":
                    await connection.send(json.dumps({"type": "pong", "id": command["id"]}))
                case "request":
                    task = asyncio.create_task(work(connection, command["id"], command["payload"]["n"]))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
    finally:
        for topic in joined:
            rooms[topic].discard(connection)


async def main() -> None:
    async with serve(converse, "127.0.0.1", int(sys.argv[1]), compression=None, backlog=4096) as server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
