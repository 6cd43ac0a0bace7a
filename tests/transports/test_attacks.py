"""Attacks on every command and every endpoint: an error with its code or a documented close, and nobody else notices.

What is attacked is the whole server over sockets; the property tests go through the same protocol in memory, as one of
their examples costs a server.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
import structlog
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from realtime import Settings, messages
from realtime.engine import Engine, open_engine
from realtime.errors import ErrorCode
from realtime.server import Server
from realtime.testing import connect as connect_in_memory
from tests.peers import (
    TEXT,
    Closed,
    Peer,
    WebSocketPeer,
    connect,
    eventually,
    frame,
    open_events,
    open_websocket,
    request_bytes,
    secret_of,
    undisturbed,
)
from tests.shapes import JUNK, near
from tests.transports.conftest import running

CODES = {str(code) for code in ErrorCode} - {"INTERNAL_ERROR"}
#: How a connection may end for what its peer has said.
CLOSES = {1003, 1007, 1009, 4000}

#: One good command of each type, as JSON text of each member.
COMMANDS: dict[str, dict[str, bytes]] = {
    "auth": {"token": b'"t"', "cursor": b'""'},
    "subscribe": {
        "topic": b'"room:a"',
        "fields": b'["x"]',
        "filter": b'{">":["x",1]}',
        "mode": b'"all"',
        "max_rate": b"5",
        "recover": b'{"last":1}',
    },
    "update": {
        "topic": b'"room:w"',
        "fields": b'["x"]',
        "filter": b'{">":["x",1]}',
        "mode": b'"all"',
        "max_rate": b"5",
    },
    "unsubscribe": {"topic": b'"room:w"'},
    "publish": {
        "topic": b'"room:w"',
        "data": b"1",
        "event": b'"e"',
        "key": b'"k"',
        "idempotency_key": b'"i"',
        "echo": b"true",
    },
    "request": {"action": b'"echo"', "payload": b"1", "trace_id": b'"t"', "timeout": b"5"},
    "members": {"topic": b'"room:w"', "after": b'"1"', "limit": b"5"},
    "history": {"topic": b'"room:w"', "after": b'{"epoch":"e","offset":1}', "limit": b"5"},
    "stats": {},
    "ping": {},
    "batch": {"commands": b'[{"type":"ping","id":1}]'},
}

#: What is put in the place of any member.
HOSTILE: dict[str, bytes] = {
    "deep_array": b"[" * 20_000 + b"]" * 20_000,
    "deep_object": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "huge_exponent": b"1e400",
    "tiny_exponent": b"-1e-400",
    "huge_integer": b"9" * 5_000,
    "nul": b'"\\u0000"',
    "raw_nul": b'"\x00"',
    "lone_surrogate": b'"\\ud800"',
    "reversed_surrogates": b'"\\udc00\\ud800"',
    "bad_escape": b'"\\x41"',
    "not_utf8": b'"\xff\xfe"',
    "long_text": b'"' + b"x" * 60_000 + b'"',
    "long_list": b"[" + b"1," * 25_000 + b"1]",
    "wide_object": b"{" + b",".join(b'"%d":1' % number for number in range(5_000)) + b"}",
    "nan": b"NaN",
    "infinity": b"-Infinity",
    "null": b"null",
    "true": b"true",
    "empty": b'""',
    "nothing": b"",
    "unclosed": b'{"a":[1',
    "line_feeds": b"\n\r\n[1,\r\n2]\n",
    "topic_of_another_kind": b'"user:7"',
}


def text_of(kind: str, members: dict[str, bytes], command_id: bytes = b'"attack"') -> bytes:
    """One command as JSON text, of which every member is as given."""
    parts = [b'"type":"%b"' % kind.encode(), b'"id":%b' % command_id]
    parts += [b'"%b":%b' % (name.encode(), value) for name, value in members.items()]
    return b"{" + b",".join(parts) + b"}"


@asynccontextmanager
async def attacked(**options: Any) -> AsyncIterator[Server]:
    """A server with something to attack, which others use meanwhile."""
    async with running(**options) as server:

        @server.handler("echo")
        def echo(value: Any) -> Any:
            return value

        async with undisturbed(server.address[1]):
            yield server


async def consequences(peer: WebSocketPeer) -> tuple[list[dict[str, Any]], int | None]:
    """The replies to what was said, and the code of the close if there was one."""
    replies = []
    try:
        await peer.send_json({"type": "ping", "id": "barrier"})
        while (push := await peer.receive()).get("id") != "barrier":
            if push["type"] not in ("message", "gap", "join", "leave", "presence", "disconnect"):
                replies.append(push)
    except Closed as closed:
        return replies, closed.code
    except trio.BrokenResourceError:
        return replies, None
    return replies, 0


def check(replies: list[dict[str, Any]], close: int | None, said: str) -> None:
    """Exactly one reply, or an error and a documented close."""
    assert len(replies) == 1, (said, replies, close)
    (reply,) = replies
    if reply["type"] == "error":
        assert reply["code"] in CODES, (said, reply)
        assert len(reply["message"]) < 1000, (said, reply)
    assert close == 0 or (close in CLOSES and reply["type"] == "error"), (said, reply, close)


@pytest.mark.parametrize("kind", COMMANDS)
async def test_hostile_member_of_a_command_is_answered_once(kind: str) -> None:
    """Each member replaced by each of the hostile values, over a socket: one reply, or one error and the close."""
    async with attacked() as server:
        port = server.address[1]
        attacks = [
            (f"{kind}.{name}={what}", text_of(kind, {**COMMANDS[kind], name: value}))
            for name in COMMANDS[kind]
            for what, value in HOSTILE.items()
        ]
        attacks += [(f"{kind}.id={what}", text_of(kind, COMMANDS[kind], value)) for what, value in HOSTILE.items()]
        while attacks:
            async with open_websocket(port, "/ws?topic=room:w") as peer:
                close: int | None = 0
                while attacks and close == 0:
                    said, text = attacks.pop()
                    await peer.send_frame(TEXT, text)
                    replies, close = await consequences(peer)
                    check(replies, close, said)
        assert server.statistics().actions[0].failed == 0


@pytest.mark.parametrize("kind", COMMANDS)
async def test_hostile_member_of_a_posted_command_is_answered(kind: str) -> None:
    """The same beside an event stream: an HTTP error with a code, and the stream lives through all of them."""
    async with attacked() as server:
        port = server.address[1]
        async with open_events(port, "topic=room:w") as stream, connect(port) as raw:
            target = f"/sse/{stream.welcome['connection']}"
            for name in ("id", *COMMANDS[kind]):
                for what, value in HOSTILE.items():
                    text = text_of(kind, {**COMMANDS[kind], name: value})
                    response = await raw.request("POST", target, headers=secret_of(stream), body=text)
                    assert response.status < 500, (name, what, response)
                    body = response.json()
                    assert body["type"] != "error" or body["code"] in CODES, (name, what, body)
                    if kind == "unsubscribe":
                        back = text_of("subscribe", {"topic": b'"room:w"'})
                        await raw.request("POST", target, headers=secret_of(stream), body=back)
            assert len(server.connections) == 2


async def test_hostile_member_of_a_back_ends_publish_is_answered() -> None:
    """Who holds a key may still be wrong; each fault is a status with a code."""
    async with attacked() as server:
        for name in ("topic", "data", "event", "key", "idempotency_key"):
            for what, value in HOSTILE.items():
                members = {**COMMANDS["publish"], name: value}
                body = b"{" + b",".join(b'"%b":%b' % (key.encode(), text) for key, text in members.items()) + b"}"
                async with connect(server.address[1]) as raw:
                    response = await raw.request("POST", "/api/v1/publish", headers={"X-Api-Key": "key"}, body=body)
                assert response.status in (200, 400, 413), (name, what, response)
                assert response.status == 200 or response.json()["code"] in CODES, (name, what, response)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b" ",
        b"null",
        b"5",
        b"[]",
        b'""',
        b"{}",
        b'{"type":"ping"',
        b'{"type":"ping","id":1}{"type":"ping","id":2}',
        b"\xef\xbb\xbf" + b'{"type":"ping","id":1}',
        HOSTILE["deep_array"],
        HOSTILE["deep_object"],
        b'{"type":"ping","type":"stats","id":"a","id":"attack"}',
        b'{"id":"attack","TYPE":"ping"}',
        b'{"id":"attack","type":"PING"}',
        b'{"id":"attack","type":["ping"]}',
        b'{"id":"attack","type":"\\u0070ing"}',
        b'{"id":1e400,"type":"ping"}',
        b'{"id":"' + b"x" * 200 + b'","type":"ping"}',
        b'{"id":"attack","type":"ping","topic":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        text_of("batch", {"commands": b"[" + b",".join([b"{}"] * 1001) + b"]"}),
        text_of("batch", {"commands": b"[" * 5_000 + b"]" * 5_000}),
        text_of("batch", {"commands": b"[" + b",".join([text_of("batch", COMMANDS["batch"])] * 10) + b"]"}),
    ],
    ids=lambda text: repr(text[:40]),
)
async def test_text_that_is_hardly_a_command_is_answered_once(text: bytes) -> None:
    """Nothing that is said is met with silence or with a fault of ours."""
    async with attacked() as server, open_websocket(server.address[1], "/ws?topic=room:w") as peer:
        await peer.send_frame(TEXT, text)
        check(*await consequences(peer), repr(text[:80]))


BOMBS: dict[str, Any] = {
    "deep": '{"not":' * 5_000 + '{"exists":"x"}' + "}" * 5_000,
    "just_too_deep": '{"not":' * 8 + '{"exists":"x"}' + "}" * 8,
    "wide": {"and": [{"exists": "x"}] * 1_000},
    "many": {"and": [{"or": [{"exists": "x"}] * 20}] * 20},
    "long_in": {"in": ["x", list(range(101))]},
    "long_in_of_long_texts": {"in": ["x", ["y" * 256] * 100]},
    "long_operand": {"=": ["x", "y" * 257]},
    "long_path": {"=": [["x"] * 9, 1]},
    "long_name": {"exists": "x" * 257},
    "long_text": {"=": ["x", "y" * 50_000]},
    "two_operators": {"=": ["x", 1], ">": ["x", 1]},
    "same_operator_twice": '{"=":["x",1],"=":["x",2]}',
    "no_operator": {},
    "unknown": {"__class__": "x"},
    "code": "__import__('os').system('true')",
    "number": 5,
    "nan": '{"=":["x",NaN]}',
    "huge_number": '{"=":["x",1e400]}',
    "list_operand": {"=": ["x", [1]]},
    "empty_and": {"and": []},
    "empty_path": {"exists": []},
    "surrogate": '{"=":["x","\\ud800"]}',
}


@pytest.mark.parametrize("bomb", BOMBS)
async def test_filter_bomb_is_refused_wherever_it_is_thrown(bomb: str) -> None:
    """In a command, in a change of a subscription, in a URL; and nothing is subscribed by it."""
    found = BOMBS[bomb]
    text = (found if isinstance(found, str) else json.dumps(found)).encode()
    async with attacked() as server:
        port = server.address[1]
        before = server.statistics().hub.subscriptions
        async with open_websocket(port) as peer:
            await peer.send_frame(TEXT, text_of("subscribe", {"topic": b'"room:a"', "filter": text}))
            replies, close = await consequences(peer)
            check(replies, close, bomb)
            assert replies[0]["type"] == "error"
        async with open_websocket(port) as peer:
            await peer.command("subscribe", topic="room:a")
            await peer.send_frame(TEXT, text_of("update", {"topic": b'"room:a"', "filter": text}))
            replies, close = await consequences(peer)
            check(replies, close, bomb)
            assert replies[0]["type"] == "error"
        for target in ("/sse", "/poll"):
            async with connect(port) as raw:
                response = await raw.request("GET", f"{target}?topic=room:a&timeout=0&filter={quote(text)}")
                assert response.status in (400, 431), response
                assert response.json()["code"] == "BAD_REQUEST"
        await eventually(lambda: server.statistics().hub.subscriptions == before)


async def test_filter_that_is_allowed_survives_any_payload() -> None:
    """Whatever is published, a filter says yes or no; the hub outlives all of it."""
    condition = {"or": [{">": [["a", "b"], 1]}, {"prefix": ["t", "x"]}, {"in": ["n", [1, True, None, "1"]]}]}
    async with attacked() as server, open_websocket(server.address[1]) as peer:
        await peer.command("subscribe", topic="room:a", filter=condition, fields=["a", "n"])
        for value in HOSTILE.values():
            for text in (value, b'{"a":%b}' % value, b'{"a":{"b":%b},"n":%b}' % (value, value)):
                async with open_websocket(server.address[1]) as publisher:
                    await publisher.send_frame(TEXT, text_of("publish", {"topic": b'"room:a"', "data": text[:60_000]}))
                    check(*await consequences(publisher), repr(text[:60]))
        await server.publish("room:a", {"n": 1, "last": True})
        while (await peer.receive_type("message"))["data"] != {"n": 1}:
            pass


# -- floods ------------------------------------------------------------------------------------------------------

#: Of whom the bounds behind the rates are to be seen.
UNHURRIED = {"command_rate": None, "publish_rate": None}


async def test_topics_without_end_from_one_peer_end_at_its_bound() -> None:
    """A hundred thousand subscribes: the first few are had, all others refused, each by its id."""
    async with attacked(max_topics=50, **UNHURRIED) as server, open_websocket(server.address[1]) as peer:
        refused = 0
        for start in range(0, 100_000, 1_000):
            commands = [
                {"type": "subscribe", "id": number, "topic": f"room:{number}"} for number in range(start, start + 1_000)
            ]
            reply = await peer.command("batch", commands=commands)
            refused += sum(found.get("code") == "LIMIT_EXCEEDED" for found in reply["replies"])
        assert refused == 100_000 - 50
        assert server.statistics().hub.topics == 51  # and the witness's
        assert len(server.broker) == 51


async def test_topics_that_are_joined_and_left_again_are_forgotten() -> None:
    """A peer that goes through thousands of names fills no table beyond its bound, and no list of members."""
    async with attacked(max_server_topics=300, **UNHURRIED) as server, open_websocket(server.address[1]) as peer:
        for start in range(0, 5_000, 500):
            commands = [
                {"type": kind, "id": 1, "topic": f"room:{number}"}
                for number in range(start, start + 500)
                for kind in ("subscribe", "unsubscribe")
            ]
            reply = await peer.command("batch", commands=commands)
            assert {found.get("code") for found in reply["replies"]} == {None}
        assert server.statistics().hub.topics == 1
        assert len(server.broker) <= 300
        assert server.presence.statistics().members == 1
        await eventually(lambda: server.presence.statistics().topics == 1)


async def test_publishes_to_topics_without_end_end_at_the_servers_bound() -> None:
    """Whoever fills the table is refused with a code; those who are there go on."""
    async with (
        attacked(max_server_topics=100, **UNHURRIED) as server,
        open_websocket(server.address[1], "/ws?topic=room:w") as peer,
    ):
        codes = set()
        for start in range(0, 3_000, 500):
            commands = [
                {"type": "publish", "id": 1, "topic": f"room:{number}", "data": 1}
                for number in range(start, start + 500)
            ]
            reply = await peer.command("batch", commands=commands)
            codes |= {found.get("code") for found in reply["replies"]}
        assert codes == {None, "LIMIT_EXCEEDED"}
        assert len(server.broker) == 100
        await peer.command("publish", topic="room:w", data="goes on")
        assert (await peer.receive_type("message"))["data"] == "goes on"


@pytest.mark.parametrize("command", ["history", "members", "poll"])
async def test_looking_at_topics_without_end_ends_at_the_servers_bound(command: str) -> None:
    """To ask about what is not there is no way to use up memory."""
    async with (
        attacked(max_server_topics=300, **UNHURRIED) as server,
        open_websocket(server.address[1]) as peer,
        connect(server.address[1]) as raw,
    ):
        for start in range(0, 2_000, 200):
            names = [f"room:{number}" for number in range(start, start + 200)]
            if command == "poll":
                query = "&".join(f"topic={name}" for name in names)
                assert (await raw.request("GET", f"/poll?timeout=0&{query}")).status in (200, 429)
            else:
                commands = [{"type": command, "id": 1, "topic": name} for name in names]
                assert len((await peer.command("batch", commands=commands))["replies"]) == 200
        assert server.statistics().hub.topics == 1
        assert len(server.broker) <= 300


async def test_requests_without_end_from_one_peer_end_at_its_bound() -> None:
    """Ten thousand at once: a few run, the others are refused at once, and another peer's is served."""
    async with attacked(max_requests=10, **UNHURRIED) as server:
        port = server.address[1]

        @server.handler("wait")
        async def wait() -> None:
            await trio.sleep_forever()

        async with open_websocket(port) as peer:
            flood = b"".join(
                frame(TEXT, b'{"type":"request","id":%d,"action":"wait"}' % number) for number in range(10_000)
            )
            async with trio.open_nursery() as nursery:
                nursery.start_soon(peer.raw.send, flood)
                codes = [(await peer.receive_type("error"))["code"] for _ in range(9_990)]
            assert set(codes) == {"LIMIT_EXCEEDED"}
            assert server.actions.statistics()[1].in_flight == 10
            async with open_websocket(port) as other:
                assert (await other.command("request", action="echo", payload=1))["data"] == 1
        await eventually(lambda: server.actions.statistics()[1].in_flight == 0)


async def test_commands_from_a_peer_that_never_reads_end_it_within_bounds() -> None:
    """Its replies are not kept for it without end."""
    async with attacked(write_stall_timeout_seconds=0.3, send_buffer_bytes=4096, **UNHURRIED) as server:
        async with open_websocket(server.address[1], receive_buffer=4096) as peer:
            flood = frame(TEXT, b'{"type":"stats","id":1}') * 500
            with trio.move_on_after(20), pytest.raises((trio.BrokenResourceError, trio.TooSlowError)):
                while True:
                    await peer.raw.send(flood)
                    for connection in server.connections:
                        assert connection.outbox.bytes < 8 << 20
            await eventually(lambda: len(server.connections) == 1)


async def test_members_without_end_end_at_the_rooms_bound() -> None:
    """Connections that crowd into one room: the room takes as many as it may, the pushes stay few."""
    room = {"join": "anyone", "publish": "anyone", "max_members": 20, "presence_linger_seconds": 0}
    async with attacked(kinds={"room": room}) as server:
        port = server.address[1]
        codes = []

        async def crowd_in() -> None:
            async with open_websocket(port) as peer:
                codes.append((await peer.command("subscribe", topic="room:a")).get("code"))
                await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            for _ in range(60):
                nursery.start_soon(crowd_in)
            await eventually(lambda: len(codes) == 60)
            assert codes.count("LIMIT_EXCEEDED") == 40
            assert server.presence.count("room:a") == 20
            nursery.cancel_scope.cancel()
        await eventually(lambda: server.presence.count("room:a") == 0)


async def test_joins_and_leaves_without_end_are_told_in_few_words() -> None:
    """Ten thousand comings and goings of one member: the others hear of a handful."""
    async with attacked(**UNHURRIED) as server, open_websocket(server.address[1], "/ws?topic=room:a") as witness:
        async with open_websocket(server.address[1]) as peer:
            commands = [{"type": kind, "id": 1, "topic": "room:a"} for kind in ("subscribe", "unsubscribe")] * 500
            for _ in range(10):
                await peer.command("batch", commands=commands)
        await witness.barrier()
        told = server.presence.statistics()
        assert told.joins + told.leaves < 100


# -- places and parameters ---------------------------------------------------------------------------------------

CURSORS = {
    "as_long_as_a_head": "room:a!e!1~" * 2_800,
    "too_many_topics": "~".join(f"room:{number}!e!1" for number in range(201)),
    "one_long_topic": "x" * 30_000 + "!e!1",
    "one_long_epoch": "room:a!" + "e" * 30_000 + "!1",
    "one_long_offset": "room:a!e!" + "9" * 30_000,
    "offset_beyond_64_bits": "room:a!e!9999999999999999999",
    "negative_offset": "room:a!e!-1",
    "odd_digits": "room:a!e!²",
    "empty_parts": "!!~!!",
    "percent_bomb": "%25" * 5_000 + "!e!1",
    "bad_percent": "%zz%e!e!1",
    "nul": "room:a\0!e!1",
    "half": "room:a!e",
}


@pytest.mark.parametrize("name", CURSORS)
async def test_cursor_that_no_server_wrote_does_no_harm(name: str) -> None:
    """In each place where a cursor may stand: an error, or a start without recovery."""
    cursor = CURSORS[name]
    async with attacked() as server:
        port = server.address[1]
        async with open_websocket(port) as peer:
            await peer.send_json({"type": "subscribe", "id": "a", "topic": "room:a", "recover": {"cursor": cursor}})
            check(*await consequences(peer), name)
            await peer.send_json({"type": "auth", "id": "b", "token": "t", "cursor": cursor})
            check(*await consequences(peer), name)
        for target in ("/poll?topic=room:a&timeout=0", "/sse?topic=room:a", "/ws?topic=room:a"):
            status = await status_of(port, f"{target}&cursor={quote(cursor)}", websocket=target.startswith("/ws"))
            assert status in (101, 200, 400, 431), (target, status)
        header = {"Last-Event-ID": quote(cursor, safe="!~:%")}
        assert await status_of(port, "/sse?topic=room:a", headers=header) in (200, 400, 431)


async def status_of(port: int, target: str, *, websocket: bool = False, headers: dict[str, str] | None = None) -> int:
    """The status that a request is answered with; what follows it is not waited for."""
    upgrade = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    async with connect(port) as raw:
        await send_all(raw, request_bytes("GET", target, headers={**(upgrade if websocket else {}), **(headers or {})}))
        head = await raw.read_until(b"\r\n\r\n")
        return int(head.split()[1])


async def send_all(raw: Peer, data: bytes) -> None:
    """Send to a server that may hang up before it has read everything."""
    try:
        await raw.send(data)
    except trio.BrokenResourceError:
        pass


TARGETS = {
    "websocket": "/ws?",
    "events": "/sse?",
    "poll": "/poll?timeout=0&",
    "event_command": "/sse/",
    "state": "/state/",
    "healthz": "/healthz?",
}
PARAMETERS = {
    "nul": "topic=room:%00",
    "lone_surrogate": "topic=room:%ED%A0%80",
    "not_utf8": "topic=%FF%FE",
    "megabyte": "topic=room:" + "x" * (1 << 20),
    "long": "topic=room:" + "x" * 20_000,
    "many": "&".join(f"topic=room:{number}" for number in range(3_000)),
    "fields": "topic=room:a&fields=" + ",".join(["x" * 200] * 100),
    "many_fields": "topic=room:a&fields=" + ",".join(map(str, range(5_000))),
    "empty_fields": "topic=room:a&fields=,,,",
    "rate": "topic=room:a&max_rate=1e400",
    "mode": "topic=room:a&mode=%00",
    "sub_deep": "sub=" + "%5B" * 5_000,
    "sub_filter": "sub=" + quote('{"topic":"room:a","filter":' + '{"not":' * 2_000 + "1" + "}" * 2_000 + "}"),
    "sub_numbers": "sub=" + quote('{"topic":"room:a","max_rate":1e400,"recover":{"last":' + "9" * 5_000 + "}}"),
    "sub_twice": "sub=" + quote('{"topic":"room:a","topic":"room:b"}'),
    "timeout": "topic=room:a&timeout=-" + "9" * 10_000,
    "limit": "topic=room:a&limit=" + "9" * 10_000,
    "limit_unicode": "topic=room:a&timeout=0&limit=%D9%A1",
    "semicolons": "topic=room:a;" * 2_000,
    "percent": "%25" * 5_000,
    "dots": "../../etc/passwd",
}


@pytest.mark.parametrize("endpoint", TARGETS)
async def test_hostile_parameters_of_an_endpoint_are_answered(endpoint: str) -> None:
    """Each of them, at each path: a status that stands in the reference, and never one of ours to be ashamed of."""
    async with attacked() as server:
        port = server.address[1]
        before = server.statistics().hub.subscriptions
        for name, parameters in PARAMETERS.items():
            status = await status_of(port, TARGETS[endpoint] + parameters, websocket=endpoint == "websocket")
            assert status in (101, 200, 400, 403, 404, 405, 409, 429, 431), (name, status)
        await eventually(lambda: server.statistics().hub.subscriptions == before)
        await eventually(lambda: len(server.connections) == 1)


async def test_megabyte_of_a_topic_ends_the_connection_that_says_it() -> None:
    """More than a message may have is not read to its end."""
    async with attacked() as server, open_websocket(server.address[1]) as peer:
        text = text_of("subscribe", {"topic": b'"room:' + b"x" * (1 << 20) + b'"'})
        await send_all(peer.raw, frame(TEXT, text))
        pushes, closed = await peer.receive_to_close()
        assert closed.code == 1009
        assert pushes[0]["code"] == "PAYLOAD_TOO_LARGE"


# -- anything near a command -------------------------------------------------------------------------------------

TOPICS = st.sampled_from(
    ["room:a", "room:b", "symbol:600519", "symbol:1", "user:7", "global", "nokind:a", "room:" + "x" * 300]
)
CONDITIONS = JUNK | st.sampled_from([None, {">": ["x", 1]}, {"and": [{"exists": "x"}, {"not": {"=": ["y", "z"]}}]}])
HINTS: dict[str, st.SearchStrategy[Any]] = {
    "topic": TOPICS,
    "filter": CONDITIONS,
    "action": st.sampled_from(["echo", "none"]),
    "after": st.none() | st.sampled_from(["1", "x"]) | near(messages.At, hints={}),
}
PARTS = st.one_of([near(kind, hints=dict(HINTS)) for kind in messages.Command.__args__ if kind is not messages.Batch])
HINTS["commands"] = st.lists(PARTS | JUNK, max_size=5)


async def replies_in_memory(texts: list[bytes]) -> tuple[list[list[dict[str, Any]]], int]:
    """The replies to each of the texts, up to the one that ended the connection; and the code of that end, or 0."""
    found: list[list[dict[str, Any]]] = []
    with trio.fail_after(10):
        async with open_engine(Settings(dev=True)) as engine:
            _register(engine)
            async with connect_in_memory(engine) as peer:
                for text in texts:
                    peer.send_raw(text)
                    peer.send_raw(b'{"type":"ping","id":"barrier"}')
                    replies: list[dict[str, Any]] = []
                    found.append(replies)
                    try:
                        while (push := await peer.receive()).get("id") != "barrier" or push["type"] != "pong":
                            if push["type"] in _REPLIES and push.get("id") != "barrier":
                                replies.append(push)
                    except trio.EndOfChannel:
                        return found, (await peer.wait_closed()).code
    return found, 0


def _register(engine: Engine) -> None:
    @engine.handler("echo")
    def echo(value: Any) -> Any:
        return value


_REPLIES = {
    "authenticated",
    "batch",
    "error",
    "history",
    "members",
    "pong",
    "published",
    "response",
    "stats",
    "subscribed",
    "unsubscribed",
    "updated",
}


@pytest.mark.parametrize("kind", messages.Command.__args__, ids=lambda kind: kind.__name__)
@settings(max_examples=60)
@given(data=st.data())
def test_anything_near_a_command_gets_exactly_one_reply(kind: type, data: st.DataObject) -> None:
    """Values near the schema of each command, some in a row: one reply each; no reply speaks of a fault of ours."""
    values = data.draw(st.lists(near(kind, hints=HINTS), min_size=1, max_size=6))
    with structlog.testing.capture_logs() as entries:
        found, close = trio.run(replies_in_memory, [msgspec.json.encode(value) for value in values])
    assert [entry for entry in entries if entry["log_level"] == "error"] == []
    assert close == 0
    for value, replies in zip(values, found, strict=True):
        assert len(replies) == 1, (value, replies)
        (reply,) = replies
        for told in (reply, *reply.get("replies", ())):
            assert told["type"] != "error" or told["code"] in CODES, (value, told)


@settings(max_examples=100)
@given(
    text=st.binary(max_size=60)
    | st.text(max_size=60).map(lambda text: text.encode(errors="ignore"))
    | JUNK.map(msgspec.json.encode)
)
def test_any_text_gets_one_answer_or_the_close(text: bytes) -> None:
    """Whatever it is."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return  # a wire hands on UTF-8 only
    found, close = trio.run(replies_in_memory, [text])
    assert close in (0, 4000)
    assert len(found[0]) == 1
    assert found[0][0].get("code") in {None, *CODES}
