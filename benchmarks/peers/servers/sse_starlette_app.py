"""sse-starlette on uvicorn with uvloop: a queue for each stream, published to by HTTP POST."""

import asyncio
import sys
from collections import defaultdict
from collections.abc import AsyncIterator

import uvicorn
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

rooms: defaultdict[str, set[asyncio.Queue[str]]] = defaultdict(set)


async def events(topic: str) -> AsyncIterator[ServerSentEvent]:
    queue: asyncio.Queue[str] = asyncio.Queue()
    rooms[topic].add(queue)
    try:
        yield ServerSentEvent("{}", event="welcome")
        while True:
            yield ServerSentEvent(await queue.get(), event="message")
    finally:
        rooms[topic].discard(queue)


async def stream(request: Request) -> EventSourceResponse:
    return EventSourceResponse(events(request.query_params["topic"]))


async def publish(request: Request) -> Response:
    text = (await request.body()).decode()
    for queue in rooms[request.query_params["topic"]]:
        queue.put_nowait(text)
    return Response(status_code=204)


if __name__ == "__main__":
    uvicorn.run(
        Starlette(routes=[Route("/sse", stream), Route("/publish", publish, methods=["POST"])]),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        log_level="warning",
        access_log=False,
        backlog=4096,
    )
