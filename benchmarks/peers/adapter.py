"""What the driver has to know about a server: how it is started, and how the load generator speaks to it.

The generator itself knows no server. A `Script` gives it the head of the HTTP request and, for after the
handshake, texts to send and texts to wait for. Texts may hold %ROOM%, %CONN%, %ID%, %LENGTH%, %PAYLOAD% and %VIEW%.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

SERVERS = Path(__file__).parent / "servers"

PAYLOAD = '{"text":"%PAYLOAD%"}'
"""What every peer publishes: 128 bytes of JSON with the generator's default payload."""


def send(text: str) -> str:
    """A step of a script: send this text."""
    return f"send:{text}"


def expect(text: str) -> str:
    """A step of a script: wait until something arrives that contains this text."""
    return f"expect:{text}"


@dataclass(frozen=True, kw_only=True)
class Script:
    """How one connection begins: the request head, then the steps until it counts as open."""

    transport: Literal["ws", "sse", "http"]
    head: str
    steps: tuple[str, ...] = ()


def websocket(path: str, *steps: str) -> Script:
    """A WebSocket handshake on `path`, then the steps."""
    head = (
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    return Script(transport="ws", head=head, steps=steps)


def event_stream(path: str, *steps: str) -> Script:
    """A request for an event stream on `path`, then the steps."""
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
    return Script(transport="sse", head=head, steps=steps)


def post(path: str) -> Script:
    """Each publish is a POST to `path` on a kept-alive connection."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %LENGTH%\r\n\r\n"
    )
    return Script(transport="http", head=head)


@dataclass(frozen=True)
class Exchange:
    """The whole of a request's text, what marks its reply, and what stands there before the request's %ID%."""

    request: str
    reply: str
    reply_id: str = '"id":'


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """One peer's texts; what is None is what this peer does not do.

    `ping` is a request that is answered at once, `work` one whose handler waits 10 ms and then answers with
    an object; `requester` is the connection they are sent on where that is not the subscriber's. `auto_reply`
    answers a text that keeps a connection alive.
    """

    websocket: Script | None = None
    sse: Script | None = None
    publisher: Script
    publish: str
    requester: Script | None = None
    ping: Exchange | None = None
    work: Exchange | None = None
    auto_reply: tuple[str, str] | None = None


class Peer(ABC):
    """One server that can be started and measured."""

    name: ClassVar[str]
    """What `--peers` calls it."""
    title: ClassVar[str]
    """What the tables call it."""
    dialect: ClassVar[Dialect]
    ready_path: ClassVar[str | None] = None
    """An HTTP path that answers 200 once the server is ready; None: it accepts connections when it is ready."""

    @abstractmethod
    def absent(self) -> str | None:
        """Why this peer cannot be started here, or None."""

    @abstractmethod
    def version(self) -> str:
        """The versions of what is measured, for the page."""

    @abstractmethod
    def command(self, port: int, folder: Path) -> list[str]:
        """The command that serves on 127.0.0.1:`port` in the foreground; `folder` is scratch space of its own."""

    def environment(self) -> dict[str, str]:
        """Additions to the environment of the command."""
        return {}

    def working(self) -> Peer:
        """The same with the handler of `Dialect.work`, where that is a program of its own."""
        return self


class PythonPeer(Peer):
    """A peer written in Python, present if its packages can be imported here."""

    server: ClassVar[str]
    """File name in `servers/`."""
    requires: ClassVar[dict[str, str]]
    """Import name -> distribution name."""

    def absent(self) -> str | None:
        missing = [package for module, package in self.requires.items() if importlib.util.find_spec(module) is None]
        return f"not installed: {', '.join(missing)}" if missing else None

    def version(self) -> str:
        return ", ".join(f"{package} {importlib.metadata.version(package)}" for package in self.requires.values())

    def command(self, port: int, folder: Path) -> list[str]:
        return [sys.executable, str(SERVERS / self.server), str(port)]


JSON_WEBSOCKET = websocket(
    "/ws", send('{"type":"subscribe","id":1,"topic":"room:bench-%ROOM%"}'), expect('"subscribed"')
)
JSON_PUBLISH = '{"type":"publish","id":%ID%,"topic":"room:bench-%ROOM%","data":' + PAYLOAD + "}"
JSON_PING = Exchange('{"type":"ping","id":%ID%}', '"pong"')
JSON_WORK = Exchange('{"type":"request","id":%ID%,"action":"work","payload":{"n":%ID%}}', '"response"')
"""The commands of this project's protocol, which the peers without a protocol of their own speak too."""
