"""Who is in a room, as its members see each other over real sockets."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio

from realtime import CommandError, ErrorCode, Identity
from realtime.server import Server
from tests.peers import WebSocketPeer, eventually, open_events, open_websocket, post_command
from tests.transports.conftest import running


async def know(token: str) -> Identity:
    """Each token is a user of that name, with something to show."""
    if not token.isalpha():
        raise CommandError(ErrorCode.AUTH_FAILED, "no such token")
    return Identity(token, info={"name": token.title()})


def serving(*, linger: float = 0.0, **options: Any) -> Any:
    """A server on which members who are lost linger so many seconds."""
    room = {"join": "anyone", "publish": "anyone", "presence_linger_seconds": linger, **options}
    return running(authenticate=know, kinds={"room": room})


def bearer(user: str) -> list[str]:
    return [f"Authorization: Bearer {user}"]


async def users_in(peer: WebSocketPeer, topic: str = "room:a") -> list[str | None]:
    return [member.get("user") for member in (await peer.command("members", topic=topic))["members"]]


async def test_members_hear_of_each_other_on_every_transport() -> None:
    """A WebSocket and an event stream are both members, and both are told who comes and who goes."""
    async with serving() as server:
        port = server.address[1]
        async with open_websocket(port, "/ws?topic=room:a", headers=bearer("ann")) as ann:
            async with open_events(port, "topic=room:a", headers={"Authorization": "Bearer bob"}) as bob:
                joined = await ann.receive_type("join")
                assert joined["topic"] == "room:a"
                assert joined["member"] == {
                    "user": "bob",
                    "connection": bob.welcome["connection"],
                    "info": {"name": "Bob"},
                }
                async with open_websocket(port, "/ws?topic=room:a", headers=bearer("eve")) as eve:
                    while (await bob.receive_type("join")).data["member"]["user"] != "eve":
                        pass  # ann's own may be told late
                    assert await users_in(eve) == ["ann", "bob", "eve"]
                    members = (await post_command(port, bob, "members", topic="room:a")).json()
                    assert members["count"] == 3
                assert (await bob.receive_type("leave")).data["member"]["user"] == "eve"
            assert (await ann.receive_where(lambda push: push["type"] == "leave" and push["member"]["user"] == "bob"))[
                "topic"
            ] == "room:a"
            assert await users_in(ann) == ["ann"]


async def test_second_device_of_a_user_is_no_second_member() -> None:
    """One user on two connections joins once and leaves with the last."""
    async with serving() as server:
        port = server.address[1]
        async with open_websocket(port, "/ws?topic=room:a", headers=bearer("ann")) as ann:
            async with open_websocket(port, "/ws?topic=room:a", headers=bearer("bob")) as one:
                assert (await ann.receive_type("join"))["member"]["user"] == "bob"
                async with open_websocket(port, "/ws?topic=room:a", headers=bearer("bob")):
                    assert await users_in(ann) == ["ann", "bob"]
                assert await users_in(one) == ["ann", "bob"]
                assert (await one.command("unsubscribe", topic="room:a"))["type"] == "unsubscribed"
            assert (await ann.receive_type("leave"))["member"]["user"] == "bob"
            assert await users_in(ann) == ["ann"]


async def test_member_that_vanishes_and_comes_back_was_never_gone() -> None:
    """Who hangs up lingers; back in time, nobody hears of it."""
    async with serving(linger=30.0) as server:
        port = server.address[1]
        async with open_websocket(port, "/ws?topic=room:a", headers=bearer("ann")) as ann:
            async with open_websocket(port, "/ws?topic=room:a", headers=bearer("bob")) as bob:
                await ann.receive_type("join")
                bob.raw.reset()
            await eventually(lambda: len(server.connections) == 1)
            assert await users_in(ann) == ["ann", "bob"]
            async with open_websocket(port, "/ws?topic=room:a", headers=bearer("bob")):
                assert await users_in(ann) == ["ann", "bob"]
                async with open_websocket(port, "/ws?topic=room:a", headers=bearer("eve")):
                    told = await ann.receive_where(lambda push: push["type"] in ("join", "leave", "presence"))
                    assert (told["type"], told["member"]["user"]) == ("join", "eve")


@pytest.mark.parametrize("how", ["reset", "close", "stream"])
async def test_member_that_stays_away_leaves_when_its_linger_is_over(how: str) -> None:
    """By itself, with no message that would find it out."""
    async with serving(linger=0.05) as server:
        port = server.address[1]
        async with open_websocket(port, "/ws?topic=room:a", headers=bearer("ann")) as ann:
            if how == "stream":
                async with open_events(port, "topic=room:a", headers={"Authorization": "Bearer bob"}):
                    await ann.receive_type("join")
            else:
                async with open_websocket(port, "/ws?topic=room:a", headers=bearer("bob")) as bob:
                    await ann.receive_type("join")
                    bob.raw.reset() if how == "reset" else await bob.raw.aclose()
            assert (await ann.receive_type("leave"))["member"]["user"] == "bob"
            assert server.presence.statistics().members == 1


async def test_who_leaves_by_word_does_not_linger() -> None:
    """An unsubscribe is meant."""
    async with serving(linger=30.0) as server:
        port = server.address[1]
        async with (
            open_websocket(port, "/ws?topic=room:a", headers=bearer("ann")) as ann,
            open_websocket(port, "/ws?topic=room:a", headers=bearer("bob")) as bob,
        ):
            await ann.receive_type("join")
            await bob.command("unsubscribe", topic="room:a")
            assert (await ann.receive_type("leave"))["member"]["user"] == "bob"


async def test_login_turns_a_nameless_member_into_a_user() -> None:
    """The others see one go and one come; the list has it once."""
    async with serving() as server:
        port = server.address[1]
        async with (
            open_websocket(port, "/ws?topic=room:a", headers=bearer("ann")) as ann,
            open_websocket(port, "/ws?topic=room:a") as other,
        ):
            assert await users_in(ann) == ["ann", None]
            await other.command("auth", token="bob")
            assert await users_in(ann) == ["ann", "bob"]


async def test_list_comes_in_pages() -> None:
    """Each page names the next; together they are everybody, once."""
    async with serving() as server, AsyncExitStack() as stack:
        port = server.address[1]
        for number in range(7):
            peer = await stack.enter_async_context(
                open_websocket(port, "/ws?topic=room:a", headers=bearer("abcdefg"[number]))
            )
        users: list[str] = []
        after = None
        while True:
            page = await peer.command("members", topic="room:a", limit=3, after=after)
            assert page["count"] == 7
            users += [member["user"] for member in page["members"]]
            after = page.get("next")
            if after is None:
                break
        assert users == list("abcdefg")


async def test_storm_is_told_as_a_count() -> None:
    """Many who come at once are one push to each, not one for each."""
    async with serving() as server, AsyncExitStack() as stack:
        port = server.address[1]
        ann = await stack.enter_async_context(open_websocket(port, "/ws?topic=room:a", headers=bearer("ann")))
        crowd = [
            await stack.enter_async_context(open_websocket(port, headers=bearer("x" * (number + 1))))
            for number in range(30)
        ]
        async with trio.open_nursery() as nursery:
            for peer in crowd:
                nursery.start_soon(lambda peer=peer: peer.command("subscribe", topic="room:a"))
        told = []
        joined = 0
        while joined < 30:
            told.append(await ann.receive_where(lambda push: push["type"] in ("join", "presence")))
            joined += told[-1].get("joined", 1)
        assert len(told) < 15
        assert told[-1].get("count", 31) == 31


async def test_full_room_refuses_one_more() -> None:
    """With a code, and the peer that was refused has no part in it."""
    async with serving(max_members=2) as server:
        port = server.address[1]
        async with (
            open_websocket(port, "/ws?topic=room:a", headers=bearer("ann")) as ann,
            open_websocket(port, "/ws?topic=room:a", headers=bearer("bob")),
            open_websocket(port, headers=bearer("eve")) as eve,
        ):
            refused = await eve.command("subscribe", topic="room:a")
            assert refused["code"] == "LIMIT_EXCEEDED"
            stats = await eve.command("stats")
            assert "room:a" not in [found["topic"] for found in stats["subscriptions"]]
            await ann.command("publish", topic="room:a", data=1)
            assert await users_in(ann) == ["ann", "bob"]
            assert len(server.hub.subscriptions("room:a")) == 2


async def test_counted_room_tells_numbers_only() -> None:
    """Nobody is named."""
    async with serving(presence="count") as server:
        port = server.address[1]
        async with (
            open_websocket(port, "/ws?topic=room:a", headers=bearer("ann")) as ann,
            open_websocket(port, "/ws?topic=room:a", headers=bearer("bob")),
        ):
            told = await ann.receive_type("presence")
            assert told["count"] == 2
            page = await ann.command("members", topic="room:a")
            assert (page["members"], page["count"]) == ([], 2)


async def test_topic_without_presence_has_no_list(server: Server, port: int) -> None:
    """A clear error; and nobody is told of anybody."""
    async with open_websocket(port, "/ws?topic=symbol:600519") as one, open_websocket(port, "/ws?topic=symbol:600519"):
        assert (await one.command("members", topic="symbol:600519"))["code"] == "BAD_REQUEST"
        assert server.presence.statistics().members == 0


async def test_cut_off_members_leave_nothing_behind() -> None:
    """After a storm of comers and goers the tables are empty."""
    async with serving() as server:
        port = server.address[1]
        for _ in range(30):
            async with open_websocket(port, "/ws?topic=room:a", headers=bearer("bob")) as peer:
                peer.raw.reset()
        await eventually(lambda: not server.connections)
        await eventually(lambda: server.presence.statistics().topics == 0)
