"""Topics that the server places peers in: by their login, by its own will."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from realtime import CommandError, ErrorCode, Identity
from realtime.server import Server
from tests.peers import eventually, open_events, open_websocket, upgraded
from tests.transports.conftest import running

ANN = ["Authorization: Bearer ann"]
BOB = ["Authorization: Bearer bob"]


async def know(token: str) -> Identity:
    """Ann is user 7 and an admin, Bob user 8; both are staff."""
    if token == "ann":
        return Identity("7", roles=frozenset({"admin", "staff"}))
    if token == "bob":
        return Identity("8", roles=frozenset({"staff"}))
    raise CommandError(ErrorCode.AUTH_FAILED, "no such token")


def serving(**options: Any) -> Any:
    return running(dev=False, authenticate=know, **options)


async def test_login_in_the_handshake_brings_user_roles_and_global() -> None:
    """The welcome tells them, and messages come without asking."""
    async with serving() as server, open_websocket(server.address[1], headers=ANN) as peer:
        topics = ["user:7", "role:admin", "role:staff", "global"]
        assert [topic["topic"] for topic in peer.welcome["topics"]] == topics
        for topic in topics:
            await server.publish(topic, topic)
        assert [(await peer.receive_type("message"))["data"] for _ in topics] == topics
        assert (await peer.command("subscribe", topic="user:7"))["code"] == "ALREADY_SUBSCRIBED"


async def test_login_by_command_brings_the_same() -> None:
    """The reply names them before any message of theirs."""
    async with serving() as server, open_websocket(server.address[1]) as peer:
        assert peer.welcome["topics"] == []
        reply = await peer.command("auth", token="bob")
        assert [topic["topic"] for topic in reply["topics"]] == ["user:8", "role:staff", "global"]
        await server.send_to_role("staff", "meeting")
        assert (await peer.receive_type("message"))["topic"] == "role:staff"
        again = await peer.command("auth", token="bob")
        assert again["topics"] == []


async def test_anonymous_peer_has_none(server: Server, port: int) -> None:
    """There is nothing that it could be."""
    async with open_websocket(port) as peer, open_events(port, "topic=room:a") as stream:
        assert peer.welcome["topics"] == []
        assert [topic["topic"] for topic in stream.welcome["topics"]] == ["room:a"]
    assert not server.statistics().users


async def test_setting_decides_what_a_login_brings() -> None:
    """Templates of the operator's own."""
    async with serving(auto_subscribe=["project:{user}"]) as server:
        async with open_websocket(server.address[1], headers=ANN) as peer:
            assert [topic["topic"] for topic in peer.welcome["topics"]] == ["project:7"]


async def test_message_to_a_user_reaches_all_its_connections_and_nobody_else() -> None:
    """Whatever they speak."""
    async with (
        serving() as server,
        open_websocket(server.address[1], headers=ANN) as one,
        open_events(server.address[1], "", headers={"Authorization": "Bearer ann"}) as two,
        open_websocket(server.address[1], headers=BOB) as other,
    ):
        await server.send_to_user("7", "for ann")
        assert (await one.receive_type("message"))["data"] == "for ann"
        assert (await two.receive_type("message")).data["data"] == "for ann"
        await server.send_to_user("8", "for bob")
        assert (await other.receive_type("message"))["data"] == "for bob"
        statistics = server.statistics()
        assert (statistics.connections, statistics.users) == (3, 2)


async def test_message_to_a_role_reaches_those_who_have_it() -> None:
    """And to several topics at once; what cannot be is told for itself."""
    async with (
        serving() as server,
        open_websocket(server.address[1], headers=ANN) as ann,
        open_websocket(server.address[1], headers=BOB) as bob,
    ):
        await server.send_to_role("admin", "secret")
        good, bad, also_good = await server.broadcast(["role:staff", "nokind:x", "global"], "all")
        assert (good.offset, also_good.offset) == (1, 1)
        assert isinstance(bad, CommandError)
        assert [(await ann.receive_type("message"))["data"] for _ in range(3)] == ["secret", "all", "all"]
        assert [(await bob.receive_type("message"))["data"] for _ in range(2)] == ["all", "all"]


async def test_nobody_asks_to_join_a_role_or_a_connection() -> None:
    """Only the server places peers there."""
    async with serving() as server, open_websocket(server.address[1], headers=BOB) as peer:
        for topic in ("role:admin", "user:7", f"connection:{peer.welcome['connection']}"):
            assert (await peer.command("subscribe", topic=topic))["code"] == "PERMISSION_DENIED"


@pytest.mark.parametrize("transport", ["websocket", "sse"])
async def test_message_to_one_connection(server: Server, port: int, transport: str) -> None:
    """It is placed in a topic of its own the first time, and told so; others hear nothing."""
    if transport == "websocket":
        async with open_websocket(port) as peer, open_websocket(port) as other:
            name = peer.welcome["connection"]
            for number in range(3):
                await server.send_to_connection(name, number)
            assert (await peer.receive_type("subscribed"))["topic"] == f"connection:{name}"
            assert [(await peer.receive_type("message"))["data"] for _ in range(3)] == [0, 1, 2]
            await other.barrier()
            assert (await other.command("stats"))["subscriptions"] == []
    else:
        async with open_events(port, "topic=room:a") as stream:
            await server.send_to_connection(stream.welcome["connection"], "hello")
            assert (await stream.receive_type("message")).data["data"] == "hello"
    with pytest.raises(CommandError) as caught:
        await server.send_to_connection("c_none", 1)
    assert caught.value.code is ErrorCode.CONNECTION_NOT_FOUND


async def test_connection_that_has_gone_cannot_be_sent_to(server: Server, port: int) -> None:
    """And leaves no topic of its own behind."""
    async with open_websocket(port) as peer:
        name = peer.welcome["connection"]
        await server.send_to_connection(name, 1)
    await eventually(lambda: not server.connections)
    with pytest.raises(CommandError):
        await server.send_to_connection(name, 2)
    assert server.statistics().hub.subscriptions == 0


async def test_cursor_in_the_url_resumes_what_the_login_brings() -> None:
    """What was sent to a user while it was away comes first, once."""
    async with serving() as server:
        port = server.address[1]
        async with open_events(port, "", headers={"Authorization": "Bearer ann"}) as stream:
            await server.send_to_user("7", 1)
            cursor = (await stream.receive_type("message")).id
        assert cursor is not None
        await server.send_to_user("7", 2)
        await server.publish("global", 3)
        async with open_websocket(port, f"/ws?cursor={quote(cursor)}", headers=ANN) as peer:
            assert {topic["recovered"] for topic in peer.welcome["topics"]} == {"full"}
            assert [(await peer.receive_type("message"))["data"] for _ in range(2)] == [2, 3]
            await server.send_to_user("7", 4)
            assert (await peer.receive_type("message"))["data"] == 4
        async with open_websocket(port) as peer:
            reply = await peer.command("auth", token="ann", cursor=cursor)
            assert [topic.get("replayed") for topic in reply["topics"]] == [2, 0, 0, 1]
            assert [(await peer.receive_type("message"))["data"] for _ in range(3)] == [2, 4, 3]


async def test_topics_in_the_url_are_joined_before_the_first_command(server: Server, port: int) -> None:
    """With what a plain parameter says of their view."""
    async with open_websocket(port, "/ws?topic=room:a&topic=room:b&fields=x") as peer:
        assert [topic["topic"] for topic in peer.welcome["topics"]] == ["room:a", "room:b"]
        await server.publish("room:b", {"x": 1, "y": 2})
        assert (await peer.receive_type("message"))["data"] == {"x": 1}


async def test_refused_topic_in_the_url_is_told_on_the_open_socket(port: int) -> None:
    """A script sees no status of a handshake; it sees an error and a close code."""
    async with upgraded(port, "/ws?topic=user:7") as peer:
        pushes, closed = await peer.receive_to_close()
        assert [(push["type"], push["code"]) for push in pushes] == [
            ("error", "PERMISSION_DENIED"),
            ("disconnect", 4003),
        ]
        assert closed.code == 4003


async def test_server_places_and_evicts_a_user() -> None:
    """In a room that it did not ask for, and out of it again."""
    async with (
        serving() as server,
        open_websocket(server.address[1], headers=ANN) as one,
        open_websocket(server.address[1], headers=ANN) as two,
    ):
        await one.command("subscribe", topic="room:a")
        assert await server.place_user("7", "room:a") == 2
        assert (await two.receive_where(lambda push: push.get("topic") == "room:a"))["type"] == "subscribed"
        await server.publish("room:a", 1)
        for peer in (one, two):
            assert (await peer.receive_type("message"))["data"] == 1
        assert server.evict_user("7", "room:a") == 2
        for peer in (one, two):
            ended = await peer.receive_type("unsubscribed")
            assert (ended["topic"], ended["code"]) == ("room:a", "PERMISSION_DENIED")
        assert server.disconnect_user("7") == 2
        for peer in (one, two):
            _, closed = await peer.receive_to_close()
            assert closed.code == 4003
