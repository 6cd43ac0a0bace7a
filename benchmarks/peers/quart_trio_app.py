"""quart-trio on hypercorn, written as its documentation shows it."""

from __future__ import annotations

from benchmarks.peers.adapter import (
    JSON_PING,
    JSON_PUBLISH,
    JSON_WEBSOCKET,
    JSON_WORK,
    Dialect,
    PythonPeer,
    event_stream,
    expect,
    websocket,
)


class QuartTrio(PythonPeer):
    name = "quart-trio"
    title = "quart-trio on hypercorn"
    server = "quart_trio_app.py"
    requires = {"quart_trio": "quart-trio", "quart": "quart", "hypercorn": "hypercorn", "trio": "trio"}
    dialect = Dialect(
        websocket=JSON_WEBSOCKET,
        sse=event_stream("/sse?topic=room:bench-%ROOM%", expect("event: welcome")),
        publisher=websocket("/ws"),
        publish=JSON_PUBLISH,
        ping=JSON_PING,
        work=JSON_WORK,
    )
