"""Attacks with what was good before: logins that were revoked or ran out, rights that were taken away meanwhile.

The hard part is the meanwhile: while a join waits for history, or for who decides, the right to it may go.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from attrs import evolve
from trio.testing import MockClock

from realtime.auth import Identity, Verb
from realtime.server import Server
from realtime.topics import DEFAULT_KINDS, Kinds
from tests.contract.slow_broker import SlowBroker
from tests.forgery import WAYS, ask, attacked, bearer, logged_in, reason_of, refused, show, token, told
from tests.peers import EventPeer, Response, eventually, open_events, post_command, upgraded

Entries = list[dict[str, Any]]


@asynccontextmanager
async def polling(
    server: Server, text: str, answers: list[Response], query: str = "topic=room:a"
) -> AsyncIterator[None]:
    """A poll that waits while the block runs; its answer is there behind it."""
    before = len(server.polls)
    async with trio.open_nursery() as nursery:

        async def poll() -> None:
            answers.append(await ask(server.address[1], f"/poll?timeout=8&{query}", bearer(text)))

        nursery.start_soon(poll)
        await eventually(lambda: len(server.polls) > before)
        yield
        await eventually(lambda: len(answers) > 0, seconds=4)


async def end_of(stream: EventPeer) -> dict[str, Any]:
    """The last word of an event stream, which has to end behind it."""
    last = (await stream.receive_type("disconnect")).data
    with pytest.raises(EOFError):
        await stream.receive()
    return last


# -- revoked -----------------------------------------------------------------------------------------------------


async def test_token_after_its_revocation(log_entries: Entries) -> None:
    """What logged in with it is closed on every way, and it opens nothing any more; others of the user do."""
    stolen, kept = token(jti="stolen"), token(jti="kept")
    answers: list[Response] = []
    async with attacked() as server:
        port = server.address[1]
        async with (
            logged_in(port, jti="stolen") as peer,
            logged_in(port, jti="kept") as good,
            open_events(port, "topic=room:a", headers=bearer(stolen)) as stream,
            polling(server, stolen, answers),
        ):
            assert server.revoke_token("stolen") == 3
            _, closed = await peer.receive_to_close()
            assert closed.code == 4003
            assert (await end_of(stream))["code"] == 4003
            await good.barrier()
            with refused(server, log_entries, "credentials", "AUTH_FAILED", stolen):
                assert (await good.command("auth", token=stolen))["code"] == "AUTH_FAILED"
            await good.barrier()
        assert (answers[0].status, answers[0].json()["code"]) == (401, "AUTH_FAILED")
        for way in WAYS:
            with refused(server, log_entries, reason_of(way), "AUTH_FAILED", stolen):
                assert (await show(port, way, stolen))["code"] == "AUTH_FAILED"
        assert (await show(port, "first_frame", kept))["user"] == "7"


async def test_old_token_of_a_user_who_was_revoked(log_entries: Entries) -> None:
    """All that was issued up to now is refused, also what does not say when; a later login is taken."""
    old = [token(iat=time.time() - 10), token(iat=int(time.time())), token()]
    answers: list[Response] = []
    async with attacked() as server:
        port = server.address[1]
        async with (
            logged_in(port) as peer,
            open_events(port, "topic=room:a", headers=bearer(old[0])) as stream,
            polling(server, old[0], answers),
        ):
            assert server.revoke_user("7") == 3
            assert (await peer.receive_to_close())[1].code == 4003
            assert (await end_of(stream))["code"] == 4003
        assert answers[0].status in (401, 403)
        for text in old:
            for way in WAYS:
                with refused(server, log_entries, reason_of(way), "AUTH_FAILED", text):
                    assert (await show(port, way, text))["code"] == "AUTH_FAILED"
        async with logged_in(port, iat=math.floor(time.time()) + 1):
            pass


async def test_token_that_claims_to_be_issued_later_than_the_revocation(log_entries: Entries) -> None:
    """No clock is that wrong: a time that lies in the future is refused for itself."""
    text = token(iat=time.time() + 120)
    async with attacked() as server:
        server.revoke_user("7")
        with refused(server, log_entries, "credentials", "AUTH_FAILED", text):
            assert "future" in (await show(server.address[1], "handshake", text))["message"]


# -- taken away --------------------------------------------------------------------------------------------------

RULES = ({"name": "rooms", "topics": ["room:*"], "allow": ["join", "publish", "presence", "history"]},)


async def test_rights_that_a_reload_takes_away(log_entries: Entries) -> None:
    """Who has the topic is told that it has ended, a poll that waits for it ends, and a message is no more for them."""
    answers: list[Response] = []
    async with attacked(rules=RULES) as server:
        port = server.address[1]
        async with (
            logged_in(port) as peer,
            open_events(port, "topic=room:a", headers=bearer(token())) as stream,
            polling(server, token(), answers),
        ):
            assert (await peer.command("subscribe", topic="room:a"))["type"] == "subscribed"
            assert (
                await server.reload(evolve(server.settings, rules=({"topics": ["room:b"], "allow": ["join"]},))) == []
            )
            await server.publish("room:a", "too late")
            for ended in (await peer.receive_type("unsubscribed"), (await stream.receive_type("unsubscribed")).data):
                assert (ended["topic"], ended["code"]) == ("room:a", "PERMISSION_DENIED")
                assert not ended.get("resubscribe")
            for command in ("subscribe", "history", "members"):
                assert (await peer.command(command, topic="room:a"))["code"] == "PERMISSION_DENIED"
            assert (await peer.command("publish", topic="room:a", data=1))["code"] == "PERMISSION_DENIED"
            assert (await post_command(port, stream, "subscribe", topic="room:a")).status == 403
            assert (await peer.command("subscribe", topic="room:b"))["type"] == "subscribed"
            await server.send_to_user("7", "the next message")
            assert (await peer.receive_type("message"))["data"] == "the next message"
            assert (await stream.receive_type("message")).data["data"] == "the next message"
        assert (answers[0].status, answers[0].json()["code"]) == (403, "PERMISSION_DENIED")
        assert b"too late" not in answers[0].body
        assert [line["code"] for line in told(log_entries, "denied")] == ["PERMISSION_DENIED"] * 5


async def test_refresh_with_less(log_entries: Entries) -> None:
    """A fresh token of the same user that names fewer topics and roles takes away what the old one brought."""
    async with attacked() as server:
        more = {"topics": ["room:a", "room:b"], "roles": ["boss"]}
        async with logged_in(server.address[1], **more) as peer:
            for topic in ("room:a", "room:b"):
                assert (await peer.command("subscribe", topic=topic))["type"] == "subscribed"
            fresh = token(topics=["room:a"], roles=[])
            assert (await peer.command("auth", token=fresh))["type"] == "authenticated"
            ended = [await peer.receive_type("unsubscribed") for _ in range(2)]
            assert {(push["topic"], push["code"]) for push in ended} == {
                ("role:boss", "PERMISSION_DENIED"),
                ("room:b", "PERMISSION_DENIED"),
            }
            (connection,) = server.connections.of_user("7")
            assert set(connection.session.subscriptions) == {"user:7", "room:a"}
        assert server.statistics().audit["refresh"] == 1


Takes = Callable[[Server], Awaitable[object] | object]
TAKEN: dict[str, tuple[Takes, dict[str, str]]] = {
    "rules_reloaded": (lambda server: server.reload(evolve(server.settings, rules=RULES_FOR_OTHERS)), {}),
    "user_revoked": (lambda server: server.revoke_user("7"), {}),
    "token_revoked": (lambda server: server.revoke_token("it"), {}),
}
RULES_FOR_OTHERS = ({"topics": ["room:other"], "allow": ["join"]},)


async def take(server: Server, attack: str) -> None:
    result = TAKEN[attack][0](server)
    if isinstance(result, Awaitable):
        await result


@pytest.mark.parametrize("attack", TAKEN)
async def test_subscribe_that_races_a_revocation(attack: str) -> None:
    """While the broker reads the history, the right to the topic goes: there is no subscription, and no history."""
    broker = SlowBroker(Kinds(DEFAULT_KINDS), now_ms=lambda: time.time_ns() // 1_000_000, longest=0.002)
    async with attacked(rules=RULES, broker=broker) as server:
        await server.publish("room:a", "secret")
        async with logged_in(server.address[1], jti="it") as peer:
            broker.reading = trio.Event()
            reads = broker.reads
            await peer.send_json({"type": "subscribe", "id": 1, "topic": "room:a", "recover": {"last": 10}})
            await eventually(lambda: broker.reads > reads)
            await take(server, attack)
            broker.reading.set()
            if attack == "rules_reloaded":
                assert (await peer.receive_where(lambda push: push.get("id") == 1))["code"] == "PERMISSION_DENIED"
                await server.publish("room:a", "secret too")
                await server.send_to_user("7", "and this")
                assert (await peer.receive_type("message"))["data"] == "and this"
            else:
                pushes, closed = await peer.receive_to_close()
                assert closed.code == 4003
                assert "secret" not in repr(pushes)
            assert not server.hub.subscriptions("room:a")


@pytest.mark.parametrize("path", ["/ws", "/sse", "/poll"])
@pytest.mark.parametrize("attack", TAKEN)
async def test_request_that_races_a_revocation(attack: str, path: str) -> None:
    """While the one who decides takes his time, the login goes, or the right: nobody slips in behind that."""
    asked, decided = trio.Event(), trio.Event()

    async def authorize(identity: Identity, verb: Verb, target: str) -> None:
        if identity.user == "7" and verb is Verb.JOIN:
            asked.set()
            await decided.wait()

    answers: list[Any] = []
    async with attacked(rules=RULES, authorize=authorize) as server:
        port, text = server.address[1], token(jti="it")

        async def come() -> None:
            target = f"{path}?topic=room:a&timeout=1"
            if path == "/ws":
                async with upgraded(port, target, headers=[f"Authorization: Bearer {text}"]) as peer:
                    pushes, closed = await peer.receive_to_close()
                    answers.append((pushes[0].get("code"), closed.code))
            else:
                response = await ask(port, target, bearer(text))
                answers.append((response.json().get("code"), response.status))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(come)
            await asked.wait()
            await take(server, attack)
            await server.publish("room:a", "secret")
            decided.set()
        ((code, end),) = answers
        if attack == "rules_reloaded":
            assert (code, end) == ("PERMISSION_DENIED", 4003 if path == "/ws" else 403)
        else:
            assert code in ("AUTH_FAILED", "PERMISSION_DENIED")
            assert 4000 <= end < 4100 if path == "/ws" else end in (401, 403)
        assert server.connections.of_user("7") == []
        assert not server.hub.subscriptions("room:a")


# -- run out -----------------------------------------------------------------------------------------------------

SHORT = {"jwt_leeway_seconds": 0, "token_warning_seconds": 15.0}
#: How long these logins are good, half of it without a warning; there is no ping in that time.
LIFE_SECONDS = 20.0
HALF_SECONDS = LIFE_SECONDS / 2 + 0.1


async def test_login_that_runs_out(log_entries: Entries, clock: MockClock) -> None:
    """It ends by itself, on a socket and beside it, though the peer is busy; old tokens do not bring it back."""
    async with attacked(**SHORT) as server:
        port, end = server.address[1], time.time() + LIFE_SECONDS
        async with (
            logged_in(port, exp=end) as peer,
            open_events(port, "topic=room:a", headers=bearer(token(exp=end))) as stream,
        ):
            clock.jump(HALF_SECONDS)
            assert (await peer.receive_type("token_expiring"))["type"] == "token_expiring"
            await stream.receive_type("token_expiring")
            clock.jump(HALF_SECONDS)
            _, closed = await peer.receive_to_close()
            assert closed.code == 4102
            assert (await end_of(stream))["code"] == 4102
        assert len(told(log_entries, "expired")) == server.statistics().audit["expired"] == 2
        text = token(exp=time.time() - 0.1)
        with refused(server, log_entries, "credentials", "TOKEN_EXPIRED", text):
            assert (await show(port, "handshake", text))["code"] == "TOKEN_EXPIRED"


async def test_poll_that_outlives_its_login(clock: MockClock) -> None:
    """A poll ends with the login that it came with, and has nothing of what is published behind that."""
    answers: list[Response] = []
    async with attacked(**SHORT) as server:
        # Less than the poll would wait, and its asker too.
        async with polling(server, token(exp=time.time() + 5.0), answers):
            assert not answers
            clock.jump(5.0)
            await eventually(lambda: len(answers) > 0, seconds=2.5)
        assert answers[0].status == 200
        assert answers[0].json()["messages"] == []


async def test_refresh_in_place_keeps_what_one_has(clock: MockClock) -> None:
    """What the attacks above are about: a fresh token in time, and the subscription never breaks."""
    async with attacked(**SHORT) as server:
        port, end = server.address[1], time.time() + LIFE_SECONDS
        async with (
            logged_in(port, exp=end) as peer,
            open_events(port, "topic=room:a", headers=bearer(token(exp=end))) as stream,
        ):
            await peer.command("subscribe", topic="room:a")
            clock.jump(HALF_SECONDS)
            await peer.receive_type("token_expiring")
            assert (await peer.command("auth", token=token()))["type"] == "authenticated"
            assert (await post_command(port, stream, "auth", token=token())).json()["type"] == "authenticated"
            clock.jump(HALF_SECONDS)
            await peer.barrier()
            await server.publish("room:a", "still here")
            assert (await peer.receive_type("message"))["data"] == "still here"
            assert (await stream.receive_type("message")).data["data"] == "still here"


async def test_refresh_with_a_bad_token_prolongs_nothing(log_entries: Entries, clock: MockClock) -> None:
    """However often it is tried, the connection ends when its own login does."""
    async with attacked(**SHORT) as server:
        end = time.time() + LIFE_SECONDS
        async with logged_in(server.address[1], exp=end) as peer:
            with refused(server, log_entries, "credentials", "AUTH_FAILED", times=5):
                for number in range(5):
                    assert (await peer.command("auth", token=f"{token(exp=end)}{number}"))["code"] == "AUTH_FAILED"
            clock.jump(LIFE_SECONDS)
            _, closed = await peer.receive_to_close()
        assert closed.code == 4102
