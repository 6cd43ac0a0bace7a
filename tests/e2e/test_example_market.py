"""The market of the examples, from outside: section A of the requirements."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import time
from contextlib import suppress
from itertools import pairwise
from typing import Any

import httpx_sse
import pytest
import websockets

from tests.e2e.foreign import Talker, browsing, in_asyncio, talking
from tests.e2e.processes import example

ADA, BOB, EVE = "token-of-ada", "token-of-bob", "token-of-eve"


async def ticks(peer: Talker, topic: str, count: int) -> list[dict[str, Any]]:
    """The next messages of a topic."""
    return [await peer.receive(type="message", topic=topic) for _ in range(count)]


async def test_login_is_needed_and_confirmed_by_a_welcome() -> None:
    """No token, a wrong one, one in the first message, one in the handshake."""
    async with example("market") as server:

        async def talk() -> None:
            async with talking(server) as peer:
                assert "user" not in await peer.receive(type="welcome")
                assert (await peer.command("subscribe", topic="symbol:600519"))["code"] == "AUTH_REQUIRED"
                assert (await peer.command("auth", token="guessed"))["code"] == "AUTH_FAILED"
                reply = await peer.command("auth", token=BOB)
                assert reply["user"] == "bob"
                assert [topic["topic"] for topic in reply["topics"]] == ["user:bob", "role:trader", "global"]
                assert (await peer.command("subscribe", topic="symbol:600519"))["type"] == "subscribed"
            with pytest.raises(websockets.InvalidStatus) as refused:
                async with talking(server, "guessed"):
                    pass
            assert refused.value.response.status_code == 401
            began = time.monotonic()
            async with talking(server, ADA) as peer:
                welcome = await peer.receive(type="welcome")
                assert time.monotonic() - began < 5
                assert welcome["user"] == "ada"
                assert welcome["connection"].startswith("c_")

        await in_asyncio(talk)


async def test_symbol_streams_have_fields_filters_and_rates_of_each_subscriber() -> None:
    """Three subscribers of one symbol, each with a view of its own, one of which changes while it lives."""
    async with example("market") as server:

        async def talk() -> None:
            async with talking(server, ADA) as ada, talking(server, BOB) as bob, talking(server, EVE) as eve:
                topic = "symbol:600519"
                condition = {">=": ["volume", 600]}
                await ada.command("subscribe", topic=topic, fields=["price", "volume"], filter=condition)
                await bob.command("subscribe", topic=topic)
                await eve.command("subscribe", topic=topic, fields=["price"], mode="latest", max_rate=4)
                assert (await bob.command("subscribe", topic=topic))["code"] == "ALREADY_SUBSCRIBED"
                for message in await ticks(ada, topic, 5):
                    assert set(message["data"]) == {"price", "volume"}
                    assert message["data"]["volume"] >= 600
                whole = await ticks(bob, topic, 12)
                offsets = [message["offset"] for message in whole]
                assert offsets == list(range(offsets[0], offsets[0] + 12))
                for before, after in pairwise(whole):
                    assert before["data"] != after["data"], "a tick that says the same is not sent again"
                assert whole[0]["event"] == "tick"
                assert set(whole[0]["data"]) == {"price", "change", "volume", "bid", "ask"}
                slow = await ticks(eve, topic, 5)
                assert all(set(message["data"]) == {"price"} for message in slow)
                # The last was published behind the fourth's going out, which was three waits behind the first's.
                assert slow[-1]["time"] - slow[0]["time"] > 700, "four a second"
                await bob.command("update", topic=topic, fields=["bid", "ask"])
                bob.inbox.clear()
                for message in await ticks(bob, topic, 3):
                    assert set(message["data"]) == {"bid", "ask"}
                assert (await bob.command("unsubscribe", topic=topic))["type"] == "unsubscribed"
                assert (await bob.command("update", topic=topic, fields=["bid"]))["code"] == "NOT_SUBSCRIBED"

        await in_asyncio(talk)


async def test_symbol_that_is_not_six_digits_is_refused() -> None:
    """In a subscription by its code; in a payload by the name of the member."""
    async with example("market") as server:

        async def talk() -> None:
            async with talking(server, BOB) as bob:
                for name in ("60051", "6005199", "ABCDEF"):
                    assert (await bob.command("subscribe", topic=f"symbol:{name}"))["code"] == "INVALID_SYMBOL"
                for name in ("AAPL", "600519\n"):
                    reply = await bob.request("get_fund_flow", {"symbol": name})
                    assert reply["code"] == "BAD_REQUEST"
                    assert "$.symbol" in reply["message"]

        await in_asyncio(talk)


async def test_symbol_that_is_not_listed_starts_no_feed() -> None:
    """However many a peer asks for, by whatever way: there is a task for each listing, and no more."""
    async with example("market", "--api-key", "key") as server:

        async def talk() -> None:
            names = [f"{number:06}" for number in (*range(99), *range(600_500, 600_598))]
            async with talking(server, BOB) as bob, browsing(server) as web:
                codes = [(await bob.command("subscribe", topic=f"symbol:{name}")).get("code") for name in names]
                assert [name for name, code in zip(names, codes, strict=True) if code is None] == ["000001", "600519"]
                assert set(codes) == {None, "INVALID_SYMBOL"}
                for name in names:
                    query = {"topic": f"symbol:{name}", "timeout": "0"}
                    answer = await web.get("/poll", params=query, headers={"Authorization": f"Bearer {EVE}"})
                    assert answer.status_code == (200 if name in ("000001", "600519") else 400)
                facts = (await web.get("/api/v1/stats", headers={"X-API-Key": "key"})).json()
                assert {feed["topic"] for feed in facts["feeds"]} == {None, "symbol:000001", "symbol:600519"}

        await in_asyncio(talk)


async def test_feeds_run_for_who_listens_and_are_in_the_statistics() -> None:
    """The exchange's phase is told always, a symbol only while somebody has it; what happened is counted."""
    async with example("market", "--api-key", "key") as server:

        async def talk() -> None:
            async with browsing(server, headers={"X-API-Key": "key"}) as web, talking(server, BOB) as bob:

                async def feeding() -> set[tuple[str, Any]]:
                    facts = (await web.get("/api/v1/stats")).json()
                    return {(feed["name"], feed["topic"]) for feed in facts["feeds"] if feed["state"] == "running"}

                assert (await web.get("/api/v1/stats", headers={"X-API-Key": "no"})).status_code == 401
                assert await feeding() == {("tell_phase", None)}
                await bob.command("subscribe", topic="market", recover={"last": 1})
                phase = await bob.receive(type="message", topic="market")
                assert (phase["event"], phase["data"]) == ("market.status", {"phase": "open"})
                await bob.command("subscribe", topic="symbol:000001")
                await ticks(bob, "symbol:000001", 20)
                assert await feeding() == {("tell_phase", None), ("trade", "symbol:000001")}
                facts = (await web.get("/api/v1/stats")).json()
                assert (facts["connections"], facts["users"], facts["transports"]) == (1, 1, {"websocket": 1})
                assert facts["duplicates"] > 0
                mine = await bob.command("stats")
                (counted,) = [one for one in mine["subscriptions"] if one["topic"] == "symbol:000001"]
                assert counted["delivered"] >= 20
                assert counted["dropped"] == 0

        await in_asyncio(talk)


async def test_source_that_fails_is_contained_then_left_alone_then_tried_again() -> None:
    """Three failures open the circuit breaker; the answer then says when to ask again, and at last it works."""
    # One more than it needs: where the machine pauses, the source has been tried again, and still must not work.
    async with example("market", "--source-failures", "4") as server:

        async def talk() -> None:
            async with talking(server, BOB) as bob:
                for _ in range(3):
                    failed = await bob.request("get_fund_flow", {"symbol": "600519"}, trace_id="t-1")
                    assert (failed["code"], failed["trace_id"]) == ("INTERNAL_ERROR", "t-1")
                    assert "refused" not in failed["message"], "what went wrong inside is for the log"
                refused = await bob.request("get_fund_flow", {"symbol": "600519"})
                if refused["code"] == "INTERNAL_ERROR":
                    refused = await bob.request("get_fund_flow", {"symbol": "600519"})
                assert refused["code"] == "UNAVAILABLE"
                assert 0 < refused["retry_after"] <= 1
                answer = refused
                while answer["type"] == "error":
                    await asyncio.sleep(answer.get("retry_after", 0))
                    answer = await bob.request("get_fund_flow", {"symbol": "600519"}, trace_id="t-2")
                assert (answer["type"], answer["trace_id"]) == ("response", "t-2")
                assert answer["data"]["symbol"] == "600519"
                assert set(answer["data"]) == {"symbol", "main_net", "retail_net"}
                assert (await bob.request("no_such_action"))["code"] == "UNKNOWN_ACTION"

        await in_asyncio(talk)
        assert b"connection refused" in b"".join(server.log)


async def test_rooms_tell_who_comes_and_goes_and_list_their_members() -> None:
    """An open room needs no creation; a second device is not a second member; who leaves is told at once."""
    async with example("market") as server:

        async def talk() -> None:
            async with talking(server, ADA) as ada, talking(server, BOB) as bob, talking(server, BOB) as device:
                room = "room:lobby"
                await ada.command("subscribe", topic=room)
                await bob.command("subscribe", topic=room)
                joined = await ada.receive(type="join", topic=room)
                assert joined["member"]["user"] == "bob"
                assert joined["member"]["info"] == {"name": "Bob"}
                await device.command("subscribe", topic=room)
                listed = await ada.command("members", topic=room)
                assert [member["user"] for member in listed["members"]] == ["ada", "bob"]
                assert listed["count"] == 2
                sent = await bob.command("publish", topic=room, data={"text": "hi"}, event="chat", echo=False)
                heard = await ada.receive(type="message", topic=room)
                assert (heard["offset"], heard["data"]) == (sent["offset"], {"text": "hi"})
                await device.receive(type="message", topic=room)
                await bob.command("unsubscribe", topic=room)
                await device.command("unsubscribe", topic=room)
                left = await ada.receive(type="leave", topic=room)
                assert left["member"]["user"] == "bob"
                assert not [push for push in ada.heard if push["type"] == "join" and push is not joined]
                assert not [push for push in bob.heard if push["type"] == "message" and push["topic"] == room]

        await in_asyncio(talk)


async def test_private_room_must_have_been_created_by_a_dealer() -> None:
    """ROOM_NOT_FOUND before it is there and after it is gone; members are told that it goes."""
    async with example("market") as server:

        async def talk() -> None:
            async with talking(server, ADA) as ada, talking(server, BOB) as bob:
                assert (await bob.command("subscribe", topic="private:nowhere"))["code"] == "ROOM_NOT_FOUND"
                assert (await bob.request("create_room"))["code"] == "PERMISSION_DENIED"
                room = (await ada.request("create_room"))["data"]["topic"]
                for peer in (ada, bob):
                    assert (await peer.command("subscribe", topic=room))["type"] == "subscribed"
                await ada.command("publish", topic=room, data="only here")
                assert (await bob.receive(type="message", topic=room))["data"] == "only here"
                await ada.request("remove_room", {"topic": room})
                for peer in (ada, bob):
                    assert (await peer.receive(type="unsubscribed", topic=room))["code"] == "ROOM_NOT_FOUND"
                assert (await bob.command("subscribe", topic=room))["code"] == "ROOM_NOT_FOUND"
                assert (await bob.command("publish", topic=room, data=1))["code"] == "ROOM_NOT_FOUND"

        await in_asyncio(talk)


async def test_room_is_for_its_roles_and_each_verb_by_itself() -> None:
    """Dealers publish news that all read; each role has a room; nothing else is there, by whichever way one asks."""
    async with example("market") as server:

        async def talk() -> None:
            async with (
                talking(server, ADA) as ada,
                talking(server, BOB) as bob,
                talking(server, EVE) as eve,
                browsing(server, headers={"Authorization": f"Bearer {EVE}"}) as web,
            ):
                for peer in (bob, eve):
                    assert (await peer.command("subscribe", topic="room:news"))["type"] == "subscribed"
                    for refused in ({"kind": "publish", "data": "x"}, {"kind": "members"}):
                        assert (await peer.command(**refused, topic="room:news"))["code"] == "PERMISSION_DENIED"
                assert (await ada.command("publish", topic="room:news", data="early"))["type"] == "published"
                for peer in (bob, eve):
                    assert (await peer.receive(type="message", topic="room:news"))["data"] == "early"
                for peer in (ada, bob):
                    assert (await peer.command("subscribe", topic="room:trader"))["type"] == "subscribed"
                assert (await bob.command("publish", topic="room:trader", data=1))["type"] == "published"
                for peer, room in ((bob, "room:dealer"), (eve, "room:trader"), (eve, "room:attic")):
                    for kind in ("subscribe", "members", "history"):
                        assert (await peer.command(kind, topic=room))["code"] == "PERMISSION_DENIED"
                    assert (await peer.command("publish", topic=room, data=1))["code"] == "PERMISSION_DENIED"
                for way in ("/sse?topic=room:trader", "/poll?topic=room:trader&timeout=0"):
                    answer = await web.get(way)
                    assert (answer.status_code, answer.json()["code"]) == (403, "PERMISSION_DENIED")

        await in_asyncio(talk)


async def test_connection_that_talks_too_fast_is_told_when_to_go_on_and_then_sent_away() -> None:
    """A limit of its own: another connection of the same user is served as ever. Who does not listen: 4029."""
    async with example("market", "--api-key", "key") as server:

        async def talk() -> None:
            async with talking(server, BOB) as fast, talking(server, BOB) as calm:
                await fast.socket.send(json.dumps({"type": "ping", "id": "in time"}))
                refusals: list[dict[str, Any]] = []
                for most in itertools.chain([270], itertools.repeat(30)):  # a pause of the machine lets more pass
                    for number in range(most):
                        await fast.socket.send(json.dumps({"type": "stats", "id": f"s{number}"}))
                    answers = [await fast.receive(id=f"s{number}") for number in range(most)]
                    refusals = [answer for answer in answers if answer["type"] == "error"]
                    if refusals:
                        break
                refused = refusals[0]
                assert refused["code"] == "RATE_LIMIT_EXCEEDED"
                assert 0 < refused["retry_after"] < 1
                assert (await calm.command("stats"))["type"] == "stats"
                await asyncio.sleep(refused["retry_after"])
                assert (await fast.command("stats"))["type"] == "stats"
                with suppress(websockets.ConnectionClosed):  # it may be sent away before it has said all
                    for number in range(500):
                        await fast.socket.send(json.dumps({"type": "stats", "id": f"t{number}"}))
                assert await fast.closed() == 4029
                assert fast.heard[-1]["retry_after"] > 0
                assert (await calm.command("stats"))["type"] == "stats"
            async with browsing(server, headers={"X-API-Key": "key"}) as web:
                assert (await web.get("/api/v1/stats")).json()["refused"]["command_rate"] >= 100

        await in_asyncio(talk)


async def test_user_who_publishes_too_fast_is_refused_on_all_devices() -> None:
    """Ten at once; then the user is told when to go on, and others are not held up."""
    async with example("market") as server:

        async def talk() -> None:
            async with talking(server, BOB) as bob, talking(server, BOB) as device, talking(server, EVE) as eve:
                sent = [await bob.command("publish", topic="room:lobby", data=number) for number in range(10)]
                assert {reply["type"] for reply in sent} == {"published"}
                refused = []
                for peer in (bob, device):
                    # While the machine pauses, the user may publish more.
                    while (reply := await peer.command("publish", topic="room:lobby", data=1))["type"] == "published":
                        pass
                    refused.append(reply)
                assert {reply["code"] for reply in refused} == {"RATE_LIMIT_EXCEEDED"}
                assert (await eve.command("publish", topic="room:lobby", data=1))["type"] == "published"
                await asyncio.sleep(refused[-1]["retry_after"])
                assert (await device.command("publish", topic="room:lobby", data=1))["type"] == "published"

        await in_asyncio(talk)


async def test_back_end_sees_and_does_over_http_what_the_program_does_itself() -> None:
    """With the API key: a room is created, a connection is looked at, rooms and members are counted."""
    async with example("market", "--api-key", "key") as server:

        async def talk() -> None:
            async with (
                browsing(server, headers={"X-API-Key": "key"}) as web,
                talking(server, ADA) as ada,
                talking(server, BOB) as bob,
            ):
                room = "private:desk"
                assert (await web.post("/api/v1/topics", json={"topic": room})).status_code == 201
                for peer in (ada, bob):
                    await peer.command("subscribe", topic=room)
                assert (await ada.receive(type="join", topic=room))["member"]["user"] == "bob"
                connection = (await bob.receive(type="welcome"))["connection"]
                known = (await web.get(f"/api/v1/connections/{connection}")).json()
                facts = known["connection"]
                assert (facts["user"], facts["transport"], facts["commands"]) == ("bob", "websocket", 1)
                assert facts["connected_seconds"] >= facts["idle_seconds"] >= 0
                assert room in {one["topic"] for one in known["subscriptions"]}
                members = (await web.get(f"/api/v1/topics/{room}/members")).json()
                assert [member["user"] for member in members["members"]] == ["ada", "bob"]
                await web.post("/api/v1/users/bob/send", json={"data": {"text": "hi"}, "event": "notice"})
                assert (await bob.receive(type="message", topic="user:bob"))["data"] == {"text": "hi"}
                assert (await web.delete(f"/api/v1/topics/{room}")).status_code < 300
                assert (await bob.receive(type="unsubscribed"))["code"] == "ROOM_NOT_FOUND"
                counted = (await web.get("/api/v1/stats")).json()
                assert (counted["created_topics"], counted["removed_topics"]) == (1, 1)
                assert counted["presence"]["joins"] >= 1

        await in_asyncio(talk)


async def test_notices_reach_a_user_a_role_a_connection_and_a_topic() -> None:
    """Each reaches those that it is for and nobody else; only a dealer may send one."""
    async with example("market") as server:

        async def notices(peer: Talker) -> list[str]:
            await peer.command("ping")
            return [push["data"]["text"] for push in peer.heard if push.get("event") == "notice"]

        async def talk() -> None:
            async with (
                talking(server, ADA) as ada,
                talking(server, BOB) as bob,
                talking(server, BOB) as device,
                talking(server, EVE) as eve,
            ):
                connection = (await device.receive(type="welcome"))["connection"]
                await eve.command("subscribe", topic="symbol:600519", fields=["text"])
                denied = await eve.request("notify", {"to": "user:bob", "text": "x"})
                assert denied["code"] == "PERMISSION_DENIED"
                for to in ("user:bob", "role:trader", f"connection:{connection}", "symbol:600519"):
                    await ada.request("notify", {"to": to, "text": to.partition(":")[0]})
                gone = await ada.request("notify", {"to": "connection:c_nobody", "text": "x"})
                assert gone["code"] == "CONNECTION_NOT_FOUND"
                await device.receive(type="message", topic=f"connection:{connection}")
                await eve.receive(type="message", topic="symbol:600519")
                assert await notices(ada) == ["role"]
                assert await notices(bob) == ["user", "role"]
                assert await notices(device) == ["user", "role", "connection"]
                assert await notices(eve) == ["symbol"]
                assert (await eve.command("subscribe", topic="user:bob"))["code"] == "PERMISSION_DENIED"
                assert (await eve.command("subscribe", topic="role:trader"))["code"] == "PERMISSION_DENIED"

        await in_asyncio(talk)


async def test_user_who_was_away_gets_what_was_kept_in_order_and_once() -> None:
    """A cursor brings what was missed: to the user's own topic at the next connect, to a room in one batch."""
    async with example("market") as server:

        async def talk() -> None:
            async with talking(server, ADA) as ada:
                async with talking(server, BOB) as bob:
                    welcome = await bob.receive(type="welcome")
                    place = {topic["topic"]: topic for topic in welcome["topics"]}["user:bob"]
                    room = await bob.command("subscribe", topic="room:lobby")
                for number in range(5):
                    await ada.request("notify", {"to": "user:bob", "text": str(number)})
                    await ada.command("publish", topic="room:lobby", data=number)
                at = {"epoch": room["epoch"], "offset": room["offset"]}
                cursor = f"user:bob!{place['epoch']}!{place['offset']}"
                async with talking(server, BOB, path=f"/ws?cursor={cursor}") as bob:
                    again = {topic["topic"]: topic for topic in (await bob.receive(type="welcome"))["topics"]}
                    assert (again["user:bob"]["recovered"], again["user:bob"]["replayed"]) == ("full", 5)
                    subscribe = {"type": "subscribe", "id": 2, "topic": "room:lobby", "recover": at}
                    (reply,) = (await bob.command("batch", commands=[subscribe]))["replies"]
                    assert (reply["recovered"], reply["replayed"]) == ("full", 5)
                    await ada.command("publish", topic="room:lobby", data=5)
                    heard = [await bob.receive(type="message", topic="room:lobby") for _ in range(6)]
                    assert [push["data"] for push in heard] == list(range(6))
                    missed = [push["data"]["text"] for push in bob.heard if push.get("event") == "notice"]
                    assert missed == ["0", "1", "2", "3", "4"]

        await in_asyncio(talk)


async def test_ping_is_answered_with_the_time_of_the_server() -> None:
    """The client's own heartbeat."""
    async with example("market") as server:

        async def talk() -> None:
            async with talking(server, EVE) as eve:
                answer = await eve.command("ping")
                assert answer["type"] == "pong"
                assert abs(answer["server_time"] / 1000 - time.time()) < 5

        await in_asyncio(talk)


async def test_symbols_come_over_an_event_stream_too_and_sigterm_ends_all() -> None:
    """The same ticks to httpx-sse; at the end everybody is told when to come back."""
    async with example("market") as server:

        async def talk() -> list[Any]:
            headers = {"Authorization": f"Bearer {BOB}"}
            async with browsing(server, headers=headers) as web, talking(server, ADA) as ada:
                await ada.command("subscribe", topic="symbol:600519")
                url = "/sse?topic=symbol:600519&fields=price"
                async with httpx_sse.aconnect_sse(web, "GET", url) as source:
                    told: list[Any] = []
                    async for event in source.aiter_sse():
                        push = json.loads(event.data)
                        if event.event == "message" and not told:
                            assert set(push["data"]) == {"price"}
                            told.append(push["topic"])
                            server.signal(signal.SIGTERM)
                        if event.event == "disconnect":
                            told += [push["code"], push["reconnect"], push["retry_after"] > 0]
                return [*told, await ada.closed()]

        assert await in_asyncio(talk) == ["symbol:600519", 4100, True, True, 4100]
        assert await server.wait() == 0
