"""Tokens as an issuer makes them, and as it never would; and a server with somebody on it who must not notice.

They share no code with the server, so a mistake cannot cancel itself out.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import quote

from realtime.server import Server
from tests.peers import Response, WebSocketPeer, connect, open_websocket, upgrade_bytes, upgraded
from tests.transports.conftest import running

SECRET = "s3cret-of-thirty-two-bytes-or-so"
ISSUER, AUDIENCE = "https://issuer.example", "realtime"
#: Ways to show a token; an answer to each is an error JSON.
WAYS = ("handshake", "subprotocol", "first_frame", "sse", "poll")
#: Shorter pieces may stand in a log by chance.
PIECE = 12


def part(value: Any) -> str:
    """One part of a token: of a JSON value, or of bytes as they are."""
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return urlsafe_b64encode(text).rstrip(b"=").decode()


def signed(payload: Any, *, header: Any = None, secret: str | bytes = SECRET) -> str:
    """A token with an HMAC, whatever its header says."""
    message = f"{part({'alg': 'HS256', 'typ': 'JWT'} if header is None else header)}.{part(payload)}"
    key = secret if isinstance(secret, bytes) else secret.encode()
    return f"{message}.{part(hmac.digest(key, message.encode(), hashlib.sha256))}"


def claims(user: Any = "7", **others: Any) -> dict[str, Any]:
    """What a good token says; None leaves a claim out."""
    members = {"sub": user, "exp": time.time() + 60, "iss": ISSUER, "aud": AUDIENCE, **others}
    return {name: value for name, value in members.items() if value is not None}


def token(user: Any = "7", **others: Any) -> str:
    """A good token."""
    return signed(claims(user, **others))


def bearer(text: str) -> dict[str, str]:
    """The header that shows a token."""
    return {"Authorization": f"Bearer {text}"}


@asynccontextmanager
async def logged_in(port: int, user: str = "7", target: str = "/ws", **others: Any) -> AsyncIterator[WebSocketPeer]:
    """A WebSocket of a user."""
    async with open_websocket(port, target, headers=[f"Authorization: Bearer {token(user, **others)}"]) as peer:
        assert peer.welcome["user"] == user
        yield peer


@asynccontextmanager
async def attacked(**options: Any) -> AsyncIterator[Server]:
    """A server that takes tokens, and on it a bystander, who gets all messages whatever the block does."""
    tokens = {"jwt_algorithms": ["HS256"], "jwt_secret": SECRET, "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE}
    defaults = {"dev": False, "audit": True, **({} if "authenticate" in options else tokens)}
    async with running(**{**defaults, **options}) as server:
        # Its token opens the room by itself, whatever the rules.
        async with logged_in(server.address[1], "bystander", topics=["room:quiet"]) as bystander:
            assert (await bystander.command("subscribe", topic="room:quiet"))["type"] == "subscribed"
            await server.publish("room:quiet", "before")
            yield server
            await server.publish("room:quiet", "after")
            await server.send_to_user("bystander", "to you")
            heard = [(await bystander.receive_type("message"))["data"] for _ in range(3)]
            assert heard == ["before", "after", "to you"]


async def ask(port: int, target: str, headers: dict[str, str] | None = None, method: str = "GET") -> Response:
    """The response to one request on a connection of its own."""
    async with connect(port) as raw:
        return await raw.request(method, target, headers=headers, body=b"{}" if method == "POST" else None)


async def ask_upgrade(port: int, target: str = "/ws", headers: tuple[str, ...] = ()) -> Response:
    """The response to a handshake that is refused."""
    async with connect(port) as raw:
        await raw.send(upgrade_bytes(target, headers=headers))
        return await raw.read_response()


async def show(port: int, way: str, text: str) -> dict[str, Any]:
    """What is answered to a token that is shown in one of `WAYS`; of HTTP with its status."""
    if way == "first_frame":
        async with upgraded(port, "/ws") as peer:
            await peer.receive_type("welcome")
            return await peer.command("auth", token=text)
    if way == "handshake":
        response = await ask_upgrade(port, headers=(f"Authorization: Bearer {text}",))
    elif way == "subprotocol":
        response = await ask_upgrade(port, headers=(f"Sec-WebSocket-Protocol: realtime.v1, bearer.{text}",))
    else:
        response = await ask(port, f"/{way}?topic=room:a&timeout=0", bearer(text))
    return {**response.json(), "status": response.status}


def reason_of(way: str) -> str:
    """How a refusal in one of `WAYS` is counted."""
    return {"sse": "sse", "poll": "request"}.get(way, "credentials")


def told(entries: list[dict[str, Any]], event: str) -> list[dict[str, Any]]:
    """What the audit log has of one kind of event."""
    return [entry for entry in entries if entry.get("audit") == event]


@contextmanager
def refused(
    server: Server, entries: list[dict[str, Any]], reason: str, code: str, shown: str = "", *, times: int = 1
) -> Iterator[None]:
    """Checks that something in the block is refused, so often counted, so often logged, without what was shown."""
    before, start = server.statistics(), len(entries)
    yield
    after = server.statistics()
    counted = {name: count - before.refused.get(name, 0) for name, count in after.refused.items()}
    assert {name: count for name, count in counted.items() if count} == {reason: times}
    assert after.audit["refused"] - before.audit["refused"] == times
    lines = told(entries[start:], "refused")
    assert [(line["code"], line["address"]) for line in lines] == [(code, "127.0.0.1")] * times
    assert all(line["reason"].startswith(f"{reason}: ") for line in lines)
    check_secret(entries, shown)


def check_secret(entries: list[dict[str, Any]], shown: str) -> None:
    """Nothing that was logged has a piece of what was shown, as it was or as a URL has it."""
    text = repr(entries)
    for secret in {shown, quote(shown)}:
        for start in range(max(0, len(secret) - PIECE + 1)):
            assert secret[start : start + PIECE] not in text
