"""A WebSocket echo server on our own transport, for suites that judge an implementation of RFC 6455.

Run it with ``python tests/echo.py --port 0``; it prints its port. Text and binary messages come back as they were.
"""

from __future__ import annotations

import sys

if not __package__:
    # Run as a script, it would find the tests of `transports` beside it and not the package.
    del sys.path[0]

import click
import trio

from realtime.errors import WireError
from transports.frames import text_frame
from transports.handshake import is_regular
from transports.head import BadHead, HeadReader
from transports.stream import Stream
from transports.websocket import WebSocketWire, refuse_handshake

__all__ = ["serve_echo"]

#: The largest message of the Autobahn test suite.
MAX_MESSAGE_BYTES = 16 << 20
_BINARY_FRAME_FIRST_BYTE = b"\x82"
_SECONDS = 30.0


class _Echo:
    """Sends every message back on the wire that it came from."""

    def __init__(self, wire: WebSocketWire) -> None:
        self._wire = wire

    async def receive(self, text: bytes | memoryview) -> None:
        """Text comes as `bytes`, a binary message as a `memoryview`."""
        framed = text_frame(bytes(text))
        if isinstance(text, memoryview):
            framed = _BINARY_FRAME_FIRST_BYTE + framed[1:]
        await self._wire.write(framed)

    def quiet(self) -> None:
        """Nothing waits."""

    def pinged(self) -> bool:
        """All are answered."""
        return True


async def _serve_connection(accepted: trio.SocketStream, *, max_message_bytes: int) -> None:
    stream = Stream(accepted)
    try:
        request = None
        with trio.move_on_after(_SECONDS) as scope:
            request = await HeadReader(stream, 1 << 16).read(scope, head_seconds=_SECONDS)
        if request is None:
            return
        if not is_regular(request):
            await refuse_handshake(stream, request, timeout=_SECONDS)
            return
        wire = WebSocketWire(stream, request, max_message_bytes=max_message_bytes, binary=True)
        await wire.write(await wire.open())
        reason = await wire.read(_Echo(wire))
        if reason.peer_listens:
            with trio.move_on_after(_SECONDS):
                await wire.close(reason)
    except (BadHead, WireError):
        pass  # nobody to tell: a suite looks at what it got
    finally:
        stream.abort()


async def serve_echo(
    port: int = 0,
    *,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve on loopback until cancelled; started with the real port."""

    async def serve_connection(accepted: trio.SocketStream) -> None:
        await _serve_connection(accepted, max_message_bytes=max_message_bytes)

    listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
    task_status.started(listeners[0].socket.getsockname()[1])
    await trio.serve_listeners(serve_connection, listeners)


@click.command()
@click.option("--port", type=int, default=0, help="0 picks a free one.")
@click.option("--max-message-bytes", type=int, default=MAX_MESSAGE_BYTES, show_default=True)
def main(port: int, max_message_bytes: int) -> None:
    """Serve until Ctrl-C."""

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            real = await nursery.start(
                lambda task_status: serve_echo(port, max_message_bytes=max_message_bytes, task_status=task_status)
            )
            click.echo(real)

    trio.run(run)


if __name__ == "__main__":
    main()
