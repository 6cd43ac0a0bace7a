"""sse-starlette on uvicorn with uvloop: what the table of event streams compares with."""

from __future__ import annotations

from benchmarks.peers.adapter import PAYLOAD, Dialect, PythonPeer, event_stream, expect, post


class SseStarlette(PythonPeer):
    name = "sse-starlette"
    title = "sse-starlette on uvicorn"
    server = "sse_starlette_app.py"
    requires = {
        "sse_starlette": "sse-starlette",
        "starlette": "starlette",
        "uvicorn": "uvicorn",
        "uvloop": "uvloop",
    }
    dialect = Dialect(
        sse=event_stream("/sse?topic=bench-%ROOM%", expect("event: welcome")),
        publisher=post("/publish?topic=bench-%ROOM%"),
        publish=PAYLOAD,
    )
