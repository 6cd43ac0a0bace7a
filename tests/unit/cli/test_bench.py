"""What a bench makes of messages that were not accepted."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator

import msgspec
import pytest

from realtime.cli.bench.command import _Load, _Plan
from realtime.cli.bench.figures import make_payload
from realtime.cli.bench.receiver import Orders, Published
from realtime.cli.credentials import Credentials
from realtime.cli.remote import Remote
from realtime.errors import CommandError, ErrorCode

PLAN = _Plan(topic="room:a", transport="sse", connections=1, rate=1, seconds=1, size=80, processes=1, marker="m:")


@pytest.mark.parametrize(
    ("error", "key", "hinted"),
    [
        (CommandError(ErrorCode.RATE_LIMIT_EXCEEDED, "no"), None, True),
        (CommandError(ErrorCode.TIMEOUT, "no answer, after RATE_LIMIT_EXCEEDED: no"), None, True),
        (CommandError(ErrorCode.RATE_LIMIT_EXCEEDED, "no"), "key", False),
        (CommandError(ErrorCode.TIMEOUT, "no answer"), None, False),
    ],
)
async def test_publish_rate_is_named_where_it_is_what_bounds(
    error: CommandError, key: str | None, *, hinted: bool
) -> None:
    """A peer that was too fast; no other failure has to do with it."""
    load = _Load(Remote(url="http://a", credentials=Credentials(api_key=key)), PLAN)

    async def publish(_topic: str, _payload: object) -> None:
        raise error

    await load._publish(publish, 7, {}, lambda: None)
    assert load._refused == [7]
    assert load._refusal is not None
    assert ("publish_rate" in load._refusal) is hinted


def event(number: int) -> bytes:
    return b"event: message\ndata: " + msgspec.json.encode(make_payload("m:", number, 1, 80)) + b"\n\n"


@pytest.fixture
def receiver() -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """A process that receives, and its connection at the server's side, welcomed; events come in chunks."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        orders = Orders("127.0.0.1", listening.getsockname()[1], False, "sse", "GET / HTTP/1.1\r\n\r\n", 1, 5, "m:", 0)
        command = [sys.executable, "-c", "from realtime.cli.bench.receiver import main; main()"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(msgspec.json.encode(orders) + b"\n")
            process.stdin.flush()
            peer, _ = listening.accept()
            with peer:
                peer.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                send(peer, b'event: welcome\ndata: {"type":"welcome"}\n\n')
                assert json.loads(process.stdout.readline())["type"] == "Ready"
                yield process, peer
                process.stdin.close()


def send(peer: socket.socket, text: bytes) -> None:
    """In two chunks, the first of which ends within an event."""
    for part in (text[:70], text[70:]):
        peer.sendall(b"%x\r\n%s\r\n" % (len(part), part) if part else b"")


def test_receiver_waits_for_what_was_accepted_whatever_else_came(
    receiver: tuple[subprocess.Popen[bytes], socket.socket],
) -> None:
    """A publish without an answer that was done all the same makes up for nothing, and does not end the wait."""
    process, peer = receiver
    assert process.stdin is not None
    assert process.stdout is not None
    for number in (0, 1):
        send(peer, event(number))
    # As many as were accepted have come, but 2 is still on its way.
    process.stdin.write(msgspec.json.encode(Published(3, [1])) + b"\n")
    process.stdin.flush()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    send(peer, event(2))
    result = json.loads(process.stdout.readline())
    assert (result["delivered"], result["lost"], result["duplicates"]) == (3, 0, 0)
