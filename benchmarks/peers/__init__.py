"""The servers that are measured beside each other, one adapter module each."""

from benchmarks.peers.adapter import Peer
from benchmarks.peers.nchan import Nchan
from benchmarks.peers.node_socketio import NodeSocketIO
from benchmarks.peers.one_send_each import OneSendEach
from benchmarks.peers.ours import Ours
from benchmarks.peers.python_socketio import PythonSocketIO
from benchmarks.peers.quart_trio_app import QuartTrio
from benchmarks.peers.sse_starlette_app import SseStarlette
from benchmarks.peers.starlette_websocket import StarletteWebSocket
from benchmarks.peers.websockets_broadcast import WebSocketsBroadcast

ALL: tuple[Peer, ...] = (
    Ours(),
    OneSendEach(),
    Nchan(),
    NodeSocketIO(),
    WebSocketsBroadcast(),
    StarletteWebSocket(),
    SseStarlette(),
    PythonSocketIO(),
    QuartTrio(),
)

__all__ = ["ALL", "Peer"]
