"""Starlette's WebSocket endpoint on uvicorn with uvloop."""

from __future__ import annotations

from benchmarks.peers.adapter import (
    JSON_PING,
    JSON_PUBLISH,
    JSON_WEBSOCKET,
    JSON_WORK,
    Dialect,
    PythonPeer,
    websocket,
)


class StarletteWebSocket(PythonPeer):
    name = "starlette"
    title = "starlette on uvicorn"
    server = "starlette_websocket.py"
    requires = {
        "starlette": "starlette",
        "uvicorn": "uvicorn",
        "uvloop": "uvloop",
        "websockets": "websockets",
    }
    dialect = Dialect(
        websocket=JSON_WEBSOCKET,
        publisher=websocket("/ws"),
        publish=JSON_PUBLISH,
        ping=JSON_PING,
        work=JSON_WORK,
    )
