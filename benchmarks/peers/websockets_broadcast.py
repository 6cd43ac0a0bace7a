"""websockets with `broadcast`, on uvloop."""

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


class WebSocketsBroadcast(PythonPeer):
    name = "websockets"
    title = "websockets `broadcast`, uvloop"
    server = "websockets_broadcast.py"
    requires = {"websockets": "websockets", "uvloop": "uvloop"}
    dialect = Dialect(
        websocket=JSON_WEBSOCKET,
        publisher=websocket("/ws"),
        publish=JSON_PUBLISH,
        ping=JSON_PING,
        work=JSON_WORK,
    )
