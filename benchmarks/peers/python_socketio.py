"""python-socketio on uvicorn with uvloop: what most tables compare with."""

from __future__ import annotations

from benchmarks.peers.adapter import PAYLOAD, Dialect, Exchange, PythonPeer, expect, send, websocket

SOCKET_IO_PATH = "/socket.io/?EIO=4&transport=websocket"
HELLO = (expect('0{"'), send("40"), expect('40{"'))
"""Engine.IO's open packet, then Socket.IO's connect packet and its answer."""

SOCKET_IO = Dialect(
    websocket=websocket(SOCKET_IO_PATH, *HELLO, send('420["subscribe","room:bench-%ROOM%"]'), expect("430[")),
    publisher=websocket(SOCKET_IO_PATH, *HELLO),
    publish='42["publish","room:bench-%ROOM%",' + PAYLOAD + "]",
    ping=Exchange('42%ID%["ping",1]', "43", "43"),
    work=Exchange('42%ID%["work",{"n":%ID%}]', "43", "43"),
    auto_reply=("2", "3"),
)
"""Any Socket.IO server: packets are text messages that begin with their type, and "2" is a ping."""


class PythonSocketIO(PythonPeer):
    name = "python-socketio"
    title = "python-socketio on uvicorn"
    server = "python_socketio.py"
    requires = {
        "socketio": "python-socketio",
        "uvicorn": "uvicorn",
        "uvloop": "uvloop",
        "websockets": "websockets",
    }
    dialect = SOCKET_IO
