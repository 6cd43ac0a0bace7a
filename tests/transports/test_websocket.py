"""The conversation over a WebSocket, as `docs/reference/protocol.md` has it, against a whole server."""

from __future__ import annotations

import json

import pytest
import trio
from trio.testing import MockClock

from realtime import CommandError, ErrorCode, Identity
from realtime.server import Server
from tests.peers import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    WebSocketPeer,
    close_payload,
    connect,
    eventually,
    frame,
    leaving_nothing_behind,
    open_websocket,
    upgrade_bytes,
)
from tests.transports.conftest import running


async def know_ann(token: str) -> Identity:
    """Token ``ann`` is user 7, ``short`` is the same for 20 seconds; ``old`` has expired, others are wrong."""
    if token == "old":
        raise CommandError(ErrorCode.TOKEN_EXPIRED, "this token has expired")
    if token not in ("ann", "short", "bob"):
        raise CommandError(ErrorCode.AUTH_FAILED, "no such token")
    return Identity("8" if token == "bob" else "7", expires_in=20.0 if token == "short" else None)


async def refusal_of(port: int, **request: list[str]) -> tuple[int, dict[str, object]]:
    """Status and JSON body with which an upgrade is refused."""
    async with connect(port) as raw:
        await raw.send(upgrade_bytes(**request))
        response = await raw.read_response()
        assert response.header("content-type") == "application/json"
        return response.status, response.json()


# -- topics ----------------------------------------------------------------------------------------------------


async def test_welcome_tells_who_and_what_is_allowed(server: Server, port: int) -> None:
    """The first message names the connection, the user, the limits and the ping interval."""
    async with open_websocket(port) as peer:
        welcome = peer.welcome
        assert welcome["protocol"] == 1
        assert server.connections.get(welcome["connection"]) is not None
        assert welcome["topics"] == []
        assert "user" not in welcome
        assert welcome["ping_interval"] == server.settings.ping_interval_seconds
        assert welcome["limits"] == {"max_message_bytes": 65536, "max_topics": 200}
        assert "secret" not in welcome


async def test_subscriber_gets_what_is_published_with_offsets_from_one(port: int) -> None:
    """Subscribe, publish, receive: position, event, key and data are the publisher's."""
    async with open_websocket(port) as peer:
        joined = await peer.command("subscribe", topic="room:a")
        assert joined == {"type": "subscribed", "id": 1, "topic": "room:a", "epoch": joined["epoch"], "offset": 0}
        published = await peer.command("publish", topic="room:a", data={"x": [1, None]}, event="chat", key="k")
        assert (published["epoch"], published["offset"]) == (joined["epoch"], 1)
        message = await peer.receive_type("message")
        assert {**message, "time": 0} == {
            "type": "message",
            "topic": "room:a",
            "offset": 1,
            "event": "chat",
            "key": "k",
            "time": 0,
            "data": {"x": [1, None]},
        }


async def test_fields_hide_the_other_members_and_update_changes_them(port: int) -> None:
    """A view shows its members only; an update takes effect with the next message and keeps the place."""
    async with open_websocket(port) as peer:
        await peer.command("subscribe", topic="room:a", fields=["price"])
        await peer.command("publish", topic="room:a", data={"price": 1, "volume": 2})
        assert (await peer.receive_type("message"))["data"] == {"price": 1}
        assert (await peer.command("update", topic="room:a", fields=["volume"]))["type"] == "updated"
        await peer.command("publish", topic="room:a", data={"price": 3, "volume": 4})
        second = await peer.receive_type("message")
        assert (second["offset"], second["data"]) == (2, {"volume": 4})
        await peer.command("update", topic="room:a", fields=None)
        await peer.command("publish", topic="room:a", data={"price": 5})
        assert (await peer.receive_type("message"))["data"] == {"price": 5}


async def test_unsubscribed_peer_gets_no_more(port: int) -> None:
    """After the confirmation of an unsubscribe no message of the topic comes."""
    async with open_websocket(port) as peer:
        await peer.command("subscribe", topic="room:a")
        assert (await peer.command("unsubscribe", topic="room:a"))["type"] == "unsubscribed"
        await peer.command("publish", topic="room:a", data=1)
        assert (await peer.command("ping"))["type"] == "pong"
        assert (await peer.command("unsubscribe", topic="room:a"))["code"] == "NOT_SUBSCRIBED"
        await peer.send_frame(CLOSE, close_payload(1000))
        assert await peer.receive_to_close() is not None
        assert (await peer.receive_to_close())[0] == []


async def test_batch_is_answered_in_one_reply_before_the_messages(port: int) -> None:
    """A batch's replies come together, in order, faults included, and no message before them."""
    async with open_websocket(port) as other, open_websocket(port) as peer:
        await other.command("publish", topic="room:a", data="old")
        reply = await peer.command(
            "batch",
            commands=[
                {"type": "subscribe", "id": 10, "topic": "room:a", "recover": {"last": 5}},
                {"type": "subscribe", "id": 11, "topic": "room:b"},
                {"type": "subscribe", "id": 12, "topic": "room:a"},
                {"type": "publish", "id": 13, "topic": "room:b", "data": "new"},
                {"type": "nonsense", "id": 14},
                "no command",
            ],
        )
        kinds = [(answer.get("id"), answer.get("code", answer["type"])) for answer in reply["replies"]]
        assert kinds == [
            (10, "subscribed"),
            (11, "subscribed"),
            (12, "ALREADY_SUBSCRIBED"),
            (13, "published"),
            (14, "UNKNOWN_TYPE"),
            (None, "BAD_REQUEST"),
        ]
        messages = [await peer.receive_type("message") for _ in range(2)]
        assert {message["data"] for message in messages} == {"old", "new"}


async def test_recover_after_a_position_replays_the_rest_and_goes_live(port: int) -> None:
    """What was published after the position comes first, then what is new; nothing twice, nothing missing."""
    async with open_websocket(port) as writer:
        for number in range(5):
            published = await writer.command("publish", topic="room:a", data=number)
        async with open_websocket(port) as peer:
            reply = await peer.command("subscribe", topic="room:a", recover={"epoch": published["epoch"], "offset": 2})
            assert (reply["recovered"], reply["replayed"], reply["offset"]) == ("full", 3, 5)
            await writer.command("publish", topic="room:a", data=5)
            assert [(await peer.receive_type("message"))["offset"] for _ in range(4)] == [3, 4, 5, 6]


async def test_recover_last_replays_the_newest(port: int) -> None:
    """``last`` asks for so many, wherever the topic stands."""
    async with open_websocket(port) as peer:
        for number in range(5):
            await peer.command("publish", topic="room:a", data=number)
        reply = await peer.command("subscribe", topic="room:a", recover={"last": 2})
        assert (reply["recovered"], reply["replayed"]) == ("full", 2)
        assert [(await peer.receive_type("message"))["data"] for _ in range(2)] == [3, 4]


async def test_recover_from_another_life_of_the_topic_says_epoch_changed(port: int) -> None:
    """An epoch that is not the topic's is answered with where the topic stands, and with why."""
    async with open_websocket(port) as peer:
        await peer.command("publish", topic="room:a", data=0)
        reply = await peer.command("subscribe", topic="room:a", recover={"epoch": "other", "offset": 0})
        assert (reply["recovered"], reply["why"], reply["offset"]) == ("none", "epoch_changed", 1)


async def test_history_is_paged_without_subscribing(port: int) -> None:
    """History gives what is kept after a position, oldest first, cut at the limit."""
    async with open_websocket(port) as peer:
        for number in range(5):
            published = await peer.command("publish", topic="room:a", data=number)
        page = await peer.command("history", topic="room:a", after={"epoch": published["epoch"], "offset": 1}, limit=2)
        assert [message["offset"] for message in page["messages"]] == [2, 3]
        assert page["offset"] == 5


async def test_stats_add_up(port: int) -> None:
    """What was delivered and what the view hid is counted per subscription."""
    async with open_websocket(port) as peer:
        await peer.command("subscribe", topic="room:a", fields=["x"])
        for data in ({"x": 1}, {"y": 1}, {"x": 2}):
            await peer.command("publish", topic="room:a", data=data)
        for _ in range(2):
            await peer.receive_type("message")
        stats = await peer.command("stats")
        assert stats["subscriptions"] == [
            {"topic": "room:a", "delivered": 2, "dropped": 0, "conflated": 0, "filtered": 1, "queued": 0}
        ]
        assert stats["queue"] == {"messages": 0, "bytes": 0, "age": 0.0}


async def test_commands_in_one_segment_are_answered_in_order(port: int) -> None:
    """Many commands that come together get their replies in their order."""
    async with open_websocket(port) as peer:
        texts = [json.dumps({"type": "ping", "id": number}).encode() for number in range(300)]
        await peer.raw.send(b"".join(frame(TEXT, text) for text in texts))
        assert [(await peer.receive())["id"] for _ in range(300)] == list(range(300))


async def test_command_in_fragments_is_one_command(port: int) -> None:
    """How a client cuts its message into frames makes no difference."""
    async with open_websocket(port) as peer:
        text = json.dumps({"type": "ping", "id": "ö"}, ensure_ascii=False).encode()
        await peer.send_frame(TEXT, text[:5], fin=False)
        await peer.send_frame(PING, b"now")
        await peer.send_frame(0, text[5:])
        assert (await peer.next_frame()).payload == b"now"
        assert (await peer.receive())["id"] == "ö"


# -- faults of the peer ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "code", "named"),
    [
        ({"type": "dance", "id": 1}, "UNKNOWN_TYPE", "type"),
        ({"type": "subscribe", "id": 1}, "BAD_REQUEST", "topic"),
        ({"type": "subscribe", "id": 1, "topic": 5}, "BAD_REQUEST", "topic"),
        ({"type": "subscribe", "id": 1, "topic": "room:a", "mode": "some"}, "BAD_REQUEST", "mode"),
        ({"type": "subscribe", "id": 1, "topic": "room:a", "fields": "x"}, "BAD_REQUEST", "fields"),
        ({"type": "subscribe", "id": 1, "topic": "room:a", "filter": {}}, "BAD_REQUEST", "filter"),
        ({"type": "subscribe", "id": 1, "topic": "room:a", "recover": {"offset": 1}}, "BAD_REQUEST", "epoch"),
        ({"type": "subscribe", "id": 1, "topic": "room:a", "recover": {"last": 0}}, "BAD_REQUEST", "last"),
        ({"type": "history", "id": 1, "topic": "room:a", "limit": 10**9}, "BAD_REQUEST", "limit"),
        ({"type": "publish", "id": 1, "topic": "room:a"}, "BAD_REQUEST", "data"),
        ({"type": "subscribe", "id": 1, "topic": "nokind:a"}, "INVALID_TOPIC", "kind"),
        ({"type": "subscribe", "id": 1, "topic": "symbol:12"}, "INVALID_SYMBOL", "symbol"),
        ({"type": "subscribe", "id": 1, "topic": "user:7"}, "PERMISSION_DENIED", "topic"),
        ({"type": "publish", "id": 1, "topic": "global", "data": 1}, "PERMISSION_DENIED", "topic"),
        ({"type": "auth", "id": 1, "token": "x"}, "AUTH_FAILED", "token"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
async def test_faulty_command_is_refused_and_the_connection_lives_on(
    port: int, command: dict[str, object], code: str, named: str
) -> None:
    """An error repeats the id, has the code, names what is wrong and ends nothing."""
    async with open_websocket(port) as peer:
        await peer.send_json(command)
        error = await peer.receive()
        assert (error["type"], error["id"], error["code"]) == ("error", 1, code)
        assert named in error["message"]
        await peer.barrier()


@pytest.mark.parametrize("text", [b"", b"hello", b"[]", b'"text"', b"null", b'{"type":"ping"', b"[" * 5000])
async def test_text_that_is_no_object_is_an_error_and_closes_with_4000(port: int, text: bytes) -> None:
    """Not JSON, or JSON that is no object: error, goodbye, close."""
    async with open_websocket(port) as peer:
        await peer.send_frame(TEXT, text)
        pushes, closed = await peer.receive_to_close()
        assert [push["type"] for push in pushes] == ["error", "disconnect"]
        assert pushes[0]["code"] == "BAD_REQUEST"
        assert (pushes[1]["code"], pushes[1]["reconnect"]) == (4000, False)
        assert closed.code == 4000


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        pytest.param(frame(BINARY, b"{}"), 1003, id="binary"),
        pytest.param(frame(TEXT, b'{"type":"ping","id":"%b"}' % (b"x" * 65536)), 1009, id="oversize"),
        pytest.param(frame(TEXT, b"x" * 65000, fin=False) + frame(0, b"x" * 1000), 1009, id="oversize_fragments"),
        pytest.param(frame(TEXT, b'{"type":"\xff"}'), 1007, id="not_utf8"),
        pytest.param(frame(TEXT, b"\xff", fin=False) + frame(0, b"x"), 1007, id="not_utf8_in_fragments"),
        pytest.param(frame(TEXT, b"{}", rsv=4), 1002, id="reserved_bit"),
    ],
)
async def test_breach_of_the_protocol_closes_with_its_code(port: int, sent: bytes, code: int) -> None:
    """The peer is told in words where it can still be told, and closed with the code of RFC 6455."""
    async with open_websocket(port) as peer:
        await peer.raw.send(sent)
        pushes, closed = await peer.receive_to_close()
        assert closed.code == code
        assert [push["type"] for push in pushes][-1:] == ["disconnect"]
        assert pushes[-1]["code"] == code


# -- who the peer is -------------------------------------------------------------------------------------------


async def test_bearer_token_in_the_handshake_logs_in() -> None:
    """The user of the token stands in the welcome and opens the user's own topic."""
    async with running(dev=False, authenticate=know_ann) as server:
        port = server.address[1]
        async with open_websocket(port, headers=["Authorization: Bearer ann"]) as peer:
            assert peer.welcome["user"] == "7"
            assert [found["topic"] for found in peer.welcome["topics"]] == ["user:7", "global"]
            assert (await peer.command("subscribe", topic="user:8"))["code"] == "PERMISSION_DENIED"


async def test_bearer_subprotocol_logs_in_and_is_not_echoed() -> None:
    """A browser's way to bring a token; the answer names the protocol and not the token."""
    async with (
        running(dev=False, authenticate=know_ann) as server,
        open_websocket(server.address[1], headers=["Sec-WebSocket-Protocol: realtime.v1, bearer.ann"]) as peer,
    ):
        assert peer.welcome["user"] == "7"
        assert b"sec-websocket-protocol: realtime.v1\r\n" in peer.answer.lower()
        assert b"bearer" not in peer.answer.lower()


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("Authorization: Bearer wrong", "AUTH_FAILED"),
        ("Authorization: Bearer old", "TOKEN_EXPIRED"),
        ("Sec-WebSocket-Protocol: realtime.v1, bearer.wrong", "AUTH_FAILED"),
    ],
)
async def test_bad_token_in_the_handshake_is_401_in_json_before_the_upgrade(header: str, code: str) -> None:
    """Wrong credentials are never taken for none, also where anonymous peers are let in."""
    async with running(authenticate=know_ann) as server:
        status, body = await refusal_of(server.address[1], headers=[header])
        assert status == 401
        assert (body["type"], body["code"]) == ("error", code)


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost:1", "https://localhost", "http://[bad"]
)
async def test_page_from_elsewhere_is_403(port: int, origin: str) -> None:
    """Another origin, the null origin, another port or scheme: refused before the upgrade."""
    status, body = await refusal_of(port, headers=[f"Origin: {origin}"])
    assert status == 403
    assert body["code"] == "PERMISSION_DENIED"


@pytest.mark.parametrize("origin", ["http://localhost", "http://LOCALHOST:80", "https://app.example"])
async def test_page_of_the_same_or_a_configured_origin_is_let_in(origin: str) -> None:
    """Same origin by default, the configured ones besides."""
    async with (
        running(origins=["https://app.example"]) as server,
        open_websocket(server.address[1], headers=[f"Origin: {origin}"]) as peer,
    ):
        await peer.barrier()


async def test_login_by_first_message_opens_the_conversation() -> None:
    """Before it only pings are answered; after it all is allowed; another user's token is refused."""
    async with (
        running(dev=False, authenticate=know_ann) as server,
        open_websocket(server.address[1]) as peer,
    ):
        assert (await peer.command("subscribe", topic="room:a"))["code"] == "AUTH_REQUIRED"
        await peer.barrier()
        assert (await peer.command("auth", token="wrong"))["code"] == "AUTH_FAILED"
        assert (await peer.command("auth", token="ann"))["user"] == "7"
        assert (await peer.command("subscribe", topic="room:a"))["type"] == "subscribed"
        assert (await peer.command("auth", token="bob"))["code"] == "AUTH_FAILED"
        await peer.barrier()


async def test_no_login_in_time_is_4001() -> None:
    """Who does not say who it is within the time is closed, and need not come back."""
    async with (
        running(dev=False, authenticate=know_ann, auth_timeout_seconds=0.05) as server,
        open_websocket(server.address[1]) as peer,
    ):
        pushes, closed = await peer.receive_to_close()
        assert (pushes[-1]["code"], pushes[-1]["reconnect"]) == (4001, False)
        assert closed.code == 4001


async def test_expiring_token_is_announced_and_then_closes_with_4102(clock: MockClock) -> None:
    """A warning first; without a fresh token the connection ends and the peer is asked to come back."""
    async with (
        running(dev=False, authenticate=know_ann) as server,
        open_websocket(server.address[1], headers=["Authorization: Bearer short"]) as peer,
    ):
        clock.jump(10.1)  # half of its time
        assert (await peer.receive())["type"] == "token_expiring"
        clock.jump(10.0)
        pushes, closed = await peer.receive_to_close()
        assert (pushes[-1]["type"], pushes[-1]["reconnect"]) == ("disconnect", True)
        assert closed.code == 4102


async def test_fresh_token_on_the_live_connection_keeps_it(clock: MockClock) -> None:
    """A refresh in time replaces the expiry."""
    async with (
        running(dev=False, authenticate=know_ann) as server,
        open_websocket(server.address[1], headers=["Authorization: Bearer short"]) as peer,
    ):
        assert (await peer.command("auth", token="ann"))["type"] == "authenticated"
        clock.jump(20.1)  # past the expiry of the first one
        await peer.barrier()


# -- pings and endings -----------------------------------------------------------------------------------------


async def test_ping_frame_of_the_peer_is_answered_with_its_payload(port: int) -> None:
    """RFC 6455, section 5.5.3, also between commands."""
    async with open_websocket(port) as peer:
        await peer.send_frame(PING, b"are you there")
        found = await peer.next_frame()
        assert (found.opcode, found.payload) == (PONG, b"are you there")
        await peer.barrier()


async def test_server_pings_by_frame_and_by_push() -> None:
    """A frame for machines and a push for scripts, which never see frames."""
    async with running(ping_interval_seconds=0.02) as server, open_websocket(server.address[1]) as peer:
        assert "server_time" in await peer.receive_type("ping")
        await peer.receive_type("ping")
        assert len(peer.pings) >= 1


async def test_silent_peer_is_closed_with_4108() -> None:
    """A peer whose machine is gone answers no ping: it is let go."""
    async with (
        running(ping_interval_seconds=0.03, pong_timeout_seconds=0.03) as server,
        open_websocket(server.address[1]) as peer,
    ):
        frames = []
        while (found := await peer.next_frame()).opcode != CLOSE:
            frames.append(found)  # and no pong
        assert found.payload[:2] == (4108).to_bytes(2)
        assert PING in [other.opcode for other in frames]


async def test_close_of_the_peer_is_answered_and_forgets_the_connection(server: Server, port: int) -> None:
    """A close in order frees the subscription and the connection."""
    async with leaving_nothing_behind():
        async with open_websocket(port) as peer:
            await peer.command("subscribe", topic="room:a")
            await peer.send_frame(CLOSE, close_payload(1000, b"bye"))
            pushes, closed = await peer.receive_to_close()
            assert (pushes, closed.code, closed.reason) == ([], 1000, "bye")
            assert not await peer.raw.more()
        await eventually(lambda: not server.connections)
        assert server.statistics().hub.subscriptions == 0


async def test_half_close_ends_the_connection(server: Server, port: int) -> None:
    """A peer that will say nothing more has left."""
    async with leaving_nothing_behind(), open_websocket(port) as peer:
        await peer.command("subscribe", topic="room:a")
        await peer.raw.end_sending()
        assert await peer.raw.read_to_end() == b""
        await eventually(lambda: not server.connections)


CONVERSATION = [
    upgrade_bytes(),
    frame(TEXT, b'{"type":"subscribe","id":1,"topic":"room:reset"}'),
    frame(TEXT, b'{"type":"publish","id":2,"topic":"room:reset","data":1}'),
    frame(TEXT, b'{"type":"batch","id":3,"commands":[{"type":"ping","id":4}]}'),
    frame(TEXT, b'{"type":"pi', fin=False),
    frame(PING, b"p"),
    frame(0, b'ng","id":5}'),
    frame(CLOSE, close_payload(1000)),
]


@pytest.mark.parametrize("steps", range(len(CONVERSATION) + 1))
@pytest.mark.parametrize("cut", ["whole", "half"])
async def test_reset_at_any_point_of_the_conversation_leaves_nothing(
    server: Server, port: int, steps: int, cut: str
) -> None:
    """However far the talk had got, also within a frame: others go on, tasks and descriptors are given back."""
    async with open_websocket(port) as witness:
        await witness.command("subscribe", topic="room:reset")
        async with leaving_nothing_behind():
            async with connect(port) as raw:
                for step in CONVERSATION[:steps]:
                    await raw.send(step)
                    await witness.barrier()
                if cut == "half" and steps < len(CONVERSATION):
                    await raw.send(CONVERSATION[steps][: len(CONVERSATION[steps]) // 2])
                    await witness.barrier()
                raw.reset()
            await eventually(lambda: len(server.connections) == 1)
        await witness.command("publish", topic="room:reset", data="still here")
        assert (await witness.receive_where(lambda push: push.get("data") == "still here"))["type"] == "message"


async def test_connection_over_the_limit_is_503_and_counted() -> None:
    """A full server says so, and takes the next one when there is room again."""
    async with running(max_connections=1) as server:
        port = server.address[1]
        async with open_websocket(port):
            async with connect(port) as raw:
                response = await raw.read_response()
                assert (response.status, response.json()["code"]) == (503, "UNAVAILABLE")
                assert response.header("retry-after") == "5"
            assert server.statistics().refused == {"too_many_connections": 1}
        await eventually(lambda: not server.connections)
        async with open_websocket(port) as peer:
            await peer.barrier()


async def test_shutdown_tells_every_peer_and_spreads_their_return() -> None:
    """Each gets its own time to come back, and close code 4100."""
    peers: list[WebSocketPeer] = []
    codes, waits = [], set()
    async with trio.open_nursery() as nursery:
        async with running(reconnect_spread_seconds=10.0) as server:

            async def live() -> None:
                async with open_websocket(server.address[1]) as peer:
                    peers.append(peer)
                    pushes, closed = await peer.receive_to_close()
                    codes.append(closed.code)
                    waits.add(pushes[-1]["retry_after"])

            for _ in range(150):
                nursery.start_soon(live)
            await eventually(lambda: len(peers) == 150)
    assert codes == [4100] * 150
    assert len(waits) > 20
    assert all(0 < wait <= 10 for wait in waits)
