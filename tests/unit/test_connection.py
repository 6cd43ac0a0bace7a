"""One connection: timers in virtual time, the order of what it says, how it ends."""

from __future__ import annotations

import pytest
import structlog
import trio
import trio.testing

from realtime import Identity, Settings, closing, open_engine
from realtime.broker import MemoryBroker
from realtime.conduct import MOST_FAILED_LOGINS, MOST_FAILED_REFRESHES
from realtime.connection import GOODBYE_SECONDS, Connection
from realtime.errors import CommandError, ErrorCode
from realtime.filters import parse_filter
from realtime.history import Since, decode_cursor
from realtime.subscription import Loss
from realtime.testing import MemoryWire, connect
from realtime.topics import Mode
from realtime.views import View
from realtime.wishes import Subscribe
from tests.tools import LINES, ONE_TOPIC, CursorFraming, attached, brief, cursor_line

settle = trio.testing.wait_all_tasks_blocked


def settings(**options) -> Settings:
    """Settings that let everybody in."""
    return Settings(**{"dev": True, **options})


async def tokens(token: str) -> Identity:
    """Tokens are ``user`` or ``user/seconds``."""
    user, _, seconds = token.partition("/")
    if not user:
        raise CommandError(ErrorCode.AUTH_FAILED, "no good")
    return Identity(user, expires_in=float(seconds) if seconds else None)


# -- welcome and login -------------------------------------------------------------------------------------------


async def test_welcome_is_the_first_push(autojump_clock):
    """It says who we are, who the peer is, and what it may do."""
    async with open_engine(settings(max_topics=9)) as engine, connect(engine, identity=Identity("7")) as peer:
        welcome = peer.received[0]
        assert (welcome["type"], welcome["protocol"], welcome["user"]) == ("welcome", 1, "7")
        assert engine.connections.get(welcome["connection"]) is not None
        assert welcome["ping_interval"] == 25
        assert [standing["topic"] for standing in welcome["topics"]] == ["user:7", "global"]
        assert welcome["limits"] == {"max_message_bytes": 65536, "max_topics": 9}


async def test_connection_that_arrives_subscribed_is_told_before_the_messages(autojump_clock):
    """The welcome says where each topic stands; then history, then live."""
    from realtime import Since

    async with open_engine(settings()) as engine:
        for number in range(3):
            await engine.publish("room:a", number)
        async with connect(engine, subscribe=[Subscribe("room:a", since=Since(last=2))]) as peer:
            await engine.publish("room:a", 4)
            await settle()
            assert [brief(push) for push in peer.received[:4]] == ["welcome", 2, 3, 4]
            (standing,) = peer.received[0]["topics"]
            assert (standing["topic"], standing["offset"], standing["replayed"]) == ("room:a", 3, 2)


async def test_connection_that_arrives_with_a_refused_subscription_does_not_begin(autojump_clock):
    """Nothing is sent and nothing is left behind, also of those that were joined before."""
    async with open_engine(settings()) as engine:
        wire = MemoryWire()
        connection = Connection(engine, wire)
        with pytest.raises(CommandError, match="PERMISSION_DENIED"):
            await connection.run([Subscribe("room:a"), Subscribe("user:7")])
        assert (wire.opened, wire.progress) == (False, 0)
        assert not engine.connections
        assert engine.hub.topic_statistics("room:a") is None


async def test_peer_that_does_not_log_in_is_closed(autojump_clock):
    """After the time for it, with 4001."""
    async with open_engine(settings(auth_timeout_seconds=5)) as engine:
        began = trio.current_time()
        async with connect(engine, authenticated=False) as peer:
            assert (await peer.command("subscribe", topic="room:a"))["code"] == "AUTH_REQUIRED"
            assert await peer.wait_closed() is closing.NOT_AUTHENTICATED
        assert trio.current_time() - began == pytest.approx(5)
        assert peer.received[-1]["code"] == 4001


async def test_peer_that_logs_in_stays(autojump_clock):
    """A first message `auth` opens the conversation."""
    async with (
        open_engine(settings(auth_timeout_seconds=5), authenticate=tokens) as engine,
        connect(engine, authenticated=False) as peer,
    ):
        assert (await peer.command("auth", token=""))["code"] == "AUTH_FAILED"
        reply = await peer.command("auth", token="7/600")
        assert (reply["type"], reply["user"], reply["expires_in"]) == ("authenticated", "7", 600)
        assert [standing["topic"] for standing in reply["topics"]] == ["user:7", "global"]
        await trio.sleep(20)
        assert (await peer.command("subscribe", topic="room:a"))["type"] == "subscribed"


async def test_peer_that_goes_on_guessing_tokens_is_closed(autojump_clock):
    """At the third that is no good; each is counted. Who has logged in may fail at a refresh."""
    async with open_engine(settings(), authenticate=tokens) as engine:
        async with connect(engine, authenticated=False) as peer:
            for _ in range(3):
                assert (await peer.command("auth", token="/"))["code"] == "AUTH_FAILED"
            assert await peer.wait_closed() is closing.NOT_AUTHENTICATED
        assert engine.refused == {"credentials": 3}
        async with connect(engine, identity=Identity("7")) as peer:
            for _ in range(5):
                assert (await peer.command("auth", token="/"))["code"] == "AUTH_FAILED"
            assert (await peer.command("ping"))["type"] == "pong"


async def test_peer_without_a_login_that_is_let_in_may_fail_often_and_not_for_ever(autojump_clock):
    """A page with an old token does no harm for a while; nor does what it is not to blame for."""
    options = settings(command_rate=None, refusal_rate=None)
    async with open_engine(options, authenticate=tokens) as engine, connect(engine) as peer:
        for _ in range(MOST_FAILED_REFRESHES - 1):
            assert (await peer.command("auth", token=""))["code"] == "AUTH_FAILED"
        assert (await peer.command("ping"))["type"] == "pong"
        peer.send("auth", token="/")
        assert await peer.wait_closed() is closing.NOT_AUTHENTICATED
        assert engine.refused == {"credentials": MOST_FAILED_REFRESHES}


async def test_login_that_nobody_can_check_is_no_guess(autojump_clock):
    """The peer may come with it again, and is let in once there is an answer."""
    down = True

    async def authenticate(token: str) -> Identity:
        if down:
            raise CommandError(ErrorCode.UNAVAILABLE, "the keys cannot be had")
        return await tokens(token)

    async with (
        open_engine(settings(), authenticate=authenticate) as engine,
        connect(engine, authenticated=False) as peer,
    ):
        for _ in range(2 * MOST_FAILED_LOGINS):
            assert (await peer.command("auth", token="7"))["code"] == "UNAVAILABLE"
        assert peer.close_reason is None
        down = False
        for _ in range(MOST_FAILED_LOGINS - 1):
            assert (await peer.command("auth", token="/"))["code"] == "AUTH_FAILED"
        assert (await peer.command("auth", token="7"))["type"] == "authenticated"


async def test_user_has_so_many_connections_and_no_more(autojump_clock):
    """Whether it says who it is before or on the connection; a refresh is no other connection."""
    async with (
        open_engine(settings(max_connections_per_user=2), authenticate=tokens) as engine,
        connect(engine, identity=Identity("7")) as first,
        connect(engine, authenticated=False) as second,
        connect(engine, authenticated=False) as third,
    ):
        assert (await second.command("auth", token="7"))["type"] == "authenticated"
        assert (await third.command("auth", token="7"))["code"] == "LIMIT_EXCEEDED"
        assert (await third.command("auth", token="8"))["type"] == "authenticated"
        assert (await first.command("auth", token="7"))["type"] == "authenticated"
        with pytest.raises(CommandError, match="LIMIT_EXCEEDED"):
            await Connection(engine, MemoryWire(), identity=Identity("7")).run()
        first.hang_up()
        await first.wait_closed()
        async with connect(engine, identity=Identity("7")):
            pass
        assert engine.refused["too_many_of_user"] == 2


async def test_login_never_changes_the_user(autojump_clock):
    """A refresh is for the same user."""
    async with (
        open_engine(settings(), authenticate=tokens) as engine,
        connect(engine, identity=Identity("7")) as peer,
    ):
        assert (await peer.command("auth", token="8"))["code"] == "AUTH_FAILED"
        assert (await peer.command("auth", token="7"))["type"] == "authenticated"


async def test_server_without_tokens_refuses_them(autojump_clock):
    """The default knows none."""
    async with open_engine(settings()) as engine, connect(engine) as peer:
        assert (await peer.command("auth", token="7"))["code"] == "AUTH_FAILED"


async def test_expiring_login_is_announced_and_then_closed(autojump_clock):
    """A warning in time, once, then 4102."""
    async with open_engine(settings(token_warning_seconds=30)) as engine:
        began = trio.current_time()
        async with connect(engine, identity=Identity("7", expires_in=100)) as peer:
            warning = await peer.receive_type("token_expiring")
            assert (trio.current_time() - began, warning["expires_in"]) == (pytest.approx(70), 30)
            assert await peer.wait_closed() is closing.TOKEN_EXPIRED
            assert trio.current_time() - began == pytest.approx(100)
        assert [push["type"] for push in peer.received].count("token_expiring") == 1


async def test_refreshed_login_is_announced_anew(autojump_clock):
    """A fresh token moves both the warning and the end."""
    async with open_engine(settings(), authenticate=tokens) as engine:
        began = trio.current_time()
        async with connect(engine, identity=Identity("7", expires_in=100)) as peer:
            await peer.receive_type("token_expiring")
            await peer.command("auth", token="7/200")
            await peer.receive_type("token_expiring")
            assert trio.current_time() - began == pytest.approx(240)
            await peer.command("auth", token="7")
            await trio.sleep(1000)
            assert peer.close_reason is None


async def test_token_shorter_than_the_warning_is_announced_half_way(autojump_clock):
    """So a peer that is given the same short token again and again is not told at once each time."""
    expires_at = trio.current_time() + 10

    async def authenticate(_token):
        return Identity("7", expires_in=expires_at - trio.current_time())

    async with open_engine(settings(), authenticate=authenticate) as engine, connect(engine) as peer:
        await peer.command("auth", token="kept")
        told = []
        with trio.move_on_after(9.9):
            while True:
                told.append((await peer.receive_type("token_expiring"))["expires_in"])
                await peer.command("auth", token="kept")
        assert told[:3] == [5, 2, 1]
        assert len(told) < 10


# -- rates -------------------------------------------------------------------------------------------------------


async def test_commands_that_come_too_fast_are_refused_until_it_is_time(autojump_clock):
    """Each with the time after which it is not: who waits so long, and no longer, is served."""
    async with open_engine(settings(command_rate=2, command_burst=3)) as engine, connect(engine) as peer:
        replies = [await peer.command("ping") for _ in range(4)]
        assert [reply["type"] for reply in replies] == ["pong"] * 3 + ["error"]
        assert (replies[3]["code"], replies[3]["retry_after"]) == ("RATE_LIMIT_EXCEEDED", 0.5)
        await trio.sleep(0.5)
        assert [(await peer.command("ping"))["type"] for _ in range(2)] == ["pong", "error"]
        assert engine.refused == {"command_rate": 2}


async def test_parts_of_a_batch_are_counted_one_by_one(autojump_clock):
    """And the batch itself; to pack them together is no way around the rate."""
    async with open_engine(settings(command_rate=1, command_burst=5)) as engine, connect(engine) as peer:
        commands = [{"type": "ping", "id": number} for number in range(7)]
        reply = await peer.command("batch", commands=commands)
        assert [part["type"] for part in reply["replies"]] == ["pong"] * 4 + ["error"] * 3


async def test_peer_that_does_not_slow_down_is_sent_away(autojump_clock):
    """With 4029, and advice to stay away for a while; a hundred refusals are forgiven."""
    async with open_engine(settings(command_rate=1, command_burst=10)) as engine, connect(engine) as peer:
        for _ in range(110):
            await peer.command("ping")
        assert peer.close_reason is None
        peer.send("ping")
        reason = await peer.wait_closed()
        assert (reason.code, reason.reconnect) == (4029, True)
        assert reason.retry_after > 0


async def test_peer_that_is_refused_now_and_then_stays(autojump_clock):
    """Refusals are forgiven, one a second."""
    async with open_engine(settings(command_rate=1, command_burst=1)) as engine, connect(engine) as peer:
        for _ in range(300):
            assert [(await peer.command("ping"))["type"] for _ in range(2)] == ["pong", "error"]
            await trio.sleep(1)


async def test_pings_of_the_wire_count_as_commands(autojump_clock):
    """Those that are too many are not answered, and in the end send the peer away."""
    async with (
        open_engine(settings(command_rate=1, command_burst=3)) as engine,
        attached(engine) as (connection, peer),
    ):
        assert [connection.pinged() for _ in range(4)] == [True, True, True, False]
        assert (await peer.command("ping"))["code"] == "RATE_LIMIT_EXCEEDED"
        while connection.reason is None:
            assert not connection.pinged()
        assert (await peer.wait_closed()).code == 4029
        assert engine.refused == {"command_rate": 1, "ping_rate": 100}


async def test_publishes_are_counted_for_the_user_on_all_its_connections(autojump_clock):
    """Another user is not held up, nor are this one's other commands."""
    options = settings(publish_rate=1, publish_burst=2)
    async with (
        open_engine(options) as engine,
        connect(engine, identity=Identity("7")) as first,
        connect(engine, identity=Identity("7")) as second,
        connect(engine, identity=Identity("8")) as other,
    ):
        replies = [await peer.command("publish", topic="room:a", data=1) for peer in (first, second, first, other)]
        assert [reply["type"] for reply in replies] == ["published", "published", "error", "published"]
        assert (replies[2]["code"], replies[2]["retry_after"]) == ("RATE_LIMIT_EXCEEDED", 1)
        assert (await first.command("subscribe", topic="room:a"))["type"] == "subscribed"
        assert engine.refused == {"publish_rate": 1}


async def test_anonymous_peers_of_one_address_publish_together(autojump_clock):
    """Who has no name is told by the place, and where there is none by the connection."""
    options = settings(publish_rate=1, publish_burst=1)
    async with (
        open_engine(options) as engine,
        attached(engine, address="192.0.2.7") as (_, first),
        attached(engine, address="192.0.2.7") as (_, second),
        attached(engine, address="192.0.2.8") as (_, third),
        attached(engine) as (_, fourth),
        attached(engine) as (_, fifth),
    ):
        replies = [
            await peer.command("publish", topic="room:a", data=1) for peer in (first, second, third, fourth, fifth)
        ]
        assert [reply["type"] for reply in replies] == ["published", "error", *["published"] * 3]


# -- liveness ----------------------------------------------------------------------------------------------------


async def test_peer_is_pinged_every_interval(autojump_clock):
    """The first ping comes within one interval, the others an interval apart."""
    async with open_engine(settings(ping_interval_seconds=25)) as engine:
        engine.random = lambda: 0.4
        began = trio.current_time()
        async with connect(engine) as peer:
            times = []
            for _ in range(3):
                await peer.receive_type("ping")
                times.append(trio.current_time() - began)
        assert times == [pytest.approx(10), pytest.approx(35), pytest.approx(60)]


async def test_silent_peer_is_closed(autojump_clock):
    """Silence for an interval and the time for a pong is 4108."""
    async with open_engine(settings(ping_interval_seconds=25, pong_timeout_seconds=10)) as engine:
        began = trio.current_time()
        async with connect(engine) as peer:
            peer.answers_pings = False
            assert await peer.wait_closed() is closing.NO_PONG
        assert trio.current_time() - began == pytest.approx(35)


async def test_any_bytes_prove_a_peer_alive(autojump_clock):
    """A peer that speaks need not answer pings."""
    async with open_engine(settings()) as engine, connect(engine) as peer:
        peer.answers_pings = False
        for _ in range(10):
            await trio.sleep(30)
            await peer.command("ping")
        assert peer.close_reason is None


async def test_peer_that_cannot_answer_is_not_expected_to(autojump_clock):
    """Silence means nothing on a wire that goes one way."""
    async with open_engine(settings()) as engine, connect(engine, peer_answers=False) as peer:
        peer.answers_pings = False
        await trio.sleep(1000)
        assert peer.close_reason is None


async def test_idle_peer_is_closed_although_it_pings(autojump_clock):
    """Pings and pongs keep a connection alive, they do not use it: 4008."""
    async with open_engine(settings(idle_timeout_seconds=60)) as engine:
        async with connect(engine) as peer:
            await trio.sleep(50)
            await peer.command("stats")
            used = trio.current_time()
            for _ in range(5):
                await trio.sleep(10)
                await peer.command("ping")
            assert await peer.wait_closed() is closing.IDLE
            assert trio.current_time() - used == pytest.approx(60)


async def test_stalled_write_is_closed(autojump_clock):
    """A backlog that moves no byte is 4101; one that moves a little is not."""
    async with open_engine(settings(write_stall_timeout_seconds=20, ping_interval_seconds=1e6)) as engine:
        async with connect(engine, buffer_bytes=200) as peer:
            await peer.command("subscribe", topic="room:a")
            peer.stall()
            await engine.publish("room:a", "x" * 1000)
            began = trio.current_time()
            await trio.sleep(15)
            peer.resume()
            await settle()
            peer.stall()
            await engine.publish("room:a", "x" * 1000)
            await trio.sleep(15)
            assert peer.close_reason is None
            assert await peer.wait_closed() is closing.TOO_SLOW
            assert 35 <= trio.current_time() - began <= 60


async def test_wire_that_keeps_up_is_never_stalled(autojump_clock):
    """An idle connection is not a stalled one."""
    async with open_engine(settings()) as engine, connect(engine) as peer:
        await peer.command("subscribe", topic="room:a")
        for _ in range(10):
            await trio.sleep(100)
            await engine.publish("room:a", 1)
        assert peer.close_reason is None


# -- the order of things -----------------------------------------------------------------------------------------


async def test_confirmation_of_a_batch_comes_before_the_messages(autojump_clock):
    """Also for topics that were joined early in it, and while it waits."""
    async with open_engine(settings()) as engine, connect(engine) as peer:
        for topic in ("room:a", "room:b"):
            await engine.publish(topic, 1)
        commands = [
            {"type": "subscribe", "id": 1, "topic": "room:a", "recover": {"last": 5}},
            {"type": "publish", "id": 2, "topic": "room:a", "data": 2},
            {"type": "subscribe", "id": 3, "topic": "room:b", "recover": {"last": 5}},
            {"type": "unsubscribe", "id": 4, "topic": "room:c"},
            5,
        ]
        reply = await peer.command("batch", commands=commands)
        await settle()
        assert [part["type"] for part in reply["replies"]] == [
            "subscribed",
            "published",
            "subscribed",
            "error",
            "error",
        ]
        assert [push["type"] for push in peer.received] == ["welcome", "batch", "message", "message", "message"]


async def test_confirmation_of_a_batch_comes_before_the_messages_also_with_a_backlog(autojump_clock):
    """The sender waits for the end of the batch, too."""
    async with open_engine(settings(ingress_messages=1)) as engine, connect(engine, buffer_bytes=100) as peer:
        await engine.publish("room:a", 1)
        peer.stall()
        await peer.wire.drain()
        peer.send("ping")
        await settle()
        engine.ingress.messages += 1  # publishers have to wait
        peer.send(
            "batch",
            commands=[
                {"type": "subscribe", "id": 1, "topic": "room:a", "recover": {"last": 5}},
                {"type": "publish", "id": 2, "topic": "room:a", "data": 2},
            ],
        )
        await settle()
        peer.resume()
        await settle()
        assert [push["type"] for push in peer.received if push["type"] != "ping"] == ["welcome", "pong"]
        engine.ingress.messages -= 1
        engine.ingress.pass_on()
        await settle()
        assert [push["type"] for push in peer.received][-3:] == ["batch", "message", "message"]


async def test_replies_overtake_a_backlog(autojump_clock):
    """A peer behind by many messages still gets its answers soon."""
    async with open_engine(settings()) as engine, connect(engine, buffer_bytes=1000) as peer:
        await peer.command("subscribe", topic="room:a")
        peer.stall()
        for number in range(200):
            await engine.publish("room:a", "x" * 1000 + str(number))
        await settle()
        peer.send("ping")
        await settle()
        peer.resume()
        await settle()
        types = [push["type"] for push in peer.received]
        assert types.index("pong") < types.count("message")
        assert [push["offset"] for push in peer.received if push["type"] == "message"] == list(range(1, 201))


async def test_peer_that_never_reads_its_replies_is_overloaded(autojump_clock):
    """Commands without end from a peer that reads nothing end it with 4103."""
    async with open_engine(settings(command_rate=None)) as engine, connect(engine, buffer_bytes=100) as peer:
        peer.stall()
        for _ in range(3000):
            peer.send("ping")
        assert await peer.wait_closed() is closing.OVERLOADED


async def test_goodbye_is_the_last_word(autojump_clock):
    """What was queued goes first, then the disconnect with its advice."""
    async with open_engine(settings()) as engine, connect(engine, buffer_bytes=1000) as peer:
        await peer.command("subscribe", topic="room:a")
        peer.stall()
        for _ in range(20):
            await engine.publish("room:a", "x" * 1000)
        await settle()
        (connection,) = engine.connections
        connection.close(closing.with_jitter(closing.SHUTTING_DOWN, 10))
        await settle()
        peer.resume()
        assert (await peer.wait_closed()).code == 4100
        await settle()
        assert [brief(push) for push in peer.received[2:]] == [*range(1, 21), "disconnect"]
        goodbye = peer.received[-1]
        assert (goodbye["code"], goodbye["reason"], goodbye["reconnect"]) == (4100, "shutting down", True)
        assert goodbye["retry_after"] > 0


async def test_goodbye_to_a_peer_that_does_not_read_takes_its_time_and_no_longer(autojump_clock):
    """The wire is let go after the deadline."""
    async with open_engine(settings()) as engine, connect(engine, buffer_bytes=100) as peer:
        peer.stall()
        (connection,) = engine.connections
        for _ in range(10):
            peer.send("ping")
        await settle()
        began = trio.current_time()
        connection.close(closing.FORBIDDEN)
        assert await peer.wait_closed() is closing.FORBIDDEN
        assert trio.current_time() - began == pytest.approx(GOODBYE_SECONDS)
        assert peer.wire.ended


async def test_first_reason_wins(autojump_clock):
    """Who comes second is not heard."""
    async with open_engine(settings()) as engine, connect(engine) as peer:
        (connection,) = engine.connections
        connection.close(closing.FORBIDDEN)
        connection.close(closing.SHUTTING_DOWN)
        peer.hang_up()
        assert await peer.wait_closed() is closing.FORBIDDEN


async def test_peer_that_hangs_up_is_gone(autojump_clock):
    """Its topics are left, its counters are kept."""
    async with open_engine(settings()) as engine, connect(engine) as peer:
        await peer.command("subscribe", topic="room:a")
        await engine.publish("room:a", 1)
        await settle()
        peer.hang_up()
        assert await peer.wait_closed() is closing.GONE
        assert not engine.connections
        assert (engine.statistics().hub.subscriptions, engine.statistics().hub.delivered) == (0, 1)


async def test_peer_too_slow_for_policy_disconnect_gets_what_came_before_the_hole(autojump_clock):
    """4101, without a gap and without a message behind it: what is missing is recovered by its position."""
    options = settings(kinds={"room": {"overflow": "disconnect"}}, outbox_messages=5)
    async with open_engine(options) as engine, connect(engine, buffer_bytes=100) as peer:
        reply = await peer.command("subscribe", topic="room:a")
        peer.stall()
        for number in range(40):
            await engine.publish("room:a", number)
        await settle()
        peer.resume()
        assert await peer.wait_closed() is closing.TOO_SLOW
        await settle()
        offsets = [push["offset"] for push in peer.received if push["type"] == "message"]
        assert offsets == list(range(1, len(offsets) + 1))
        assert [push["type"] for push in peer.received if push["type"] == "gap"] == []
        async with connect(engine) as again:
            back = await again.command(
                "subscribe", topic="room:a", recover={"epoch": reply["epoch"], "offset": offsets[-1]}
            )
            await settle()
            assert (back["recovered"], back["replayed"]) == ("full", 40 - len(offsets))
            assert [push["offset"] for push in again.pending()] == list(range(offsets[-1] + 1, 41))


# -- commands ----------------------------------------------------------------------------------------------------


async def test_text_that_is_no_command_is_answered_and_closed(autojump_clock):
    """An error, then the disconnect."""
    async with open_engine(settings()) as engine, connect(engine) as peer:
        peer.send_raw(b'{"type":"teleport", nonsense')
        assert await peer.wait_closed() is closing.BAD_REQUEST
        await settle()
        assert [push["type"] for push in peer.received] == ["welcome", "error", "disconnect"]


async def test_unknown_type_is_answered_and_lived_with(autojump_clock):
    """The connection goes on."""
    async with open_engine(settings()) as engine, connect(engine) as peer:
        reply = await peer.command("teleport")
        assert (reply["type"], reply["code"]) == ("error", "UNKNOWN_TYPE")
        assert (await peer.command("ping"))["type"] == "pong"


async def test_bug_in_a_command_is_answered_without_its_details(autojump_clock):
    """The peer gets a trace id, the log gets the exception, the connection lives on."""

    class Faulty(MemoryBroker):
        async def browse(self, topic, after, limit):
            raise RuntimeError("secret internals")

    broker = Faulty(settings().all_kinds(), now_ms=lambda: 0)
    with structlog.testing.capture_logs() as logged:
        async with open_engine(settings(), broker=broker) as engine, connect(engine) as peer:
            reply = await peer.command("history", topic="room:a")
            assert (await peer.command("ping"))["type"] == "pong"
    assert reply["code"] == "INTERNAL_ERROR"
    assert "secret" not in str(reply)
    assert (logged[0]["event"], logged[0]["trace_id"]) == ("command failed", reply["trace_id"])


async def test_bug_in_a_wire_ends_that_connection_only(autojump_clock):
    """1011 with a trace id; the others do not notice."""

    class Faulty(MemoryWire):
        async def read(self, receiver):
            raise RuntimeError("secret internals")

    with structlog.testing.capture_logs() as logged:
        async with open_engine(settings()) as engine, connect(engine) as peer:
            wire = Faulty()
            assert await Connection(engine, wire).run() is closing.INTERNAL
            assert wire.ended
            said = await wire.take()
            assert (await peer.command("ping"))["type"] == "pong"
    assert logged[0]["event"] == "connection failed"
    assert logged[0]["trace_id"].encode() in said
    assert b"secret" not in said


async def test_wire_that_reports_a_violation_is_explained_to_the_peer(autojump_clock):
    """What the wire found wrong is told like what the session finds wrong."""

    class Strict(MemoryWire):
        async def read(self, receiver):
            return closing.TOO_BIG

    async with open_engine(settings()) as engine:
        wire = Strict()
        assert await Connection(engine, wire).run() is closing.TOO_BIG
        assert b'"code":"PAYLOAD_TOO_LARGE"' in await wire.take()


async def test_update_changes_the_view_from_the_next_message_on(autojump_clock):
    """Fields and mode can be changed, and taken back, without losing the place."""
    async with open_engine(settings()) as engine, connect(engine) as peer:
        await peer.command("subscribe", topic="room:a", fields=["x"])
        data = {"x": 1, "y": 2}
        seen = []
        for update in ({}, {"fields": ["y"]}, {"mode": "latest"}, {"fields": None}):
            assert (await peer.command("update", topic="room:a", **update))["type"] == "updated"
            await engine.publish("room:a", data)
            seen.append((await peer.receive_type("message"))["data"])
        assert seen == [{"x": 1}, {"y": 2}, {"y": 2}, data]


async def test_topic_that_was_left_is_quiet(autojump_clock):
    """After unsubscribing nothing comes, and joining again works."""
    async with open_engine(settings()) as engine, connect(engine) as peer:
        await peer.command("subscribe", topic="room:a")
        assert (await peer.command("subscribe", topic="room:a"))["code"] == "ALREADY_SUBSCRIBED"
        assert (await peer.command("unsubscribe", topic="room:a"))["type"] == "unsubscribed"
        await engine.publish("room:a", 1)
        await settle()
        assert peer.pending()[1:] == []
        assert (await peer.command("subscribe", topic="room:a"))["offset"] == 1


async def test_history_is_shown_in_pages(autojump_clock):
    """Messages are as they were sent; a position goes on where a page ended."""
    async with open_engine(settings()) as engine, connect(engine) as peer:
        for number in range(5):
            await engine.publish("room:a", number, event="e", key="k")
        page = await peer.command("history", topic="room:a", limit=3)
        after = {"epoch": page["epoch"], "offset": 3}
        rest = await peer.command("history", topic="room:a", after=after)
        assert [push["offset"] for push in page["messages"]] == [1, 2, 3]
        assert [(push["data"], push["event"], push["key"]) for push in rest["messages"]] == [
            (3, "e", "k"),
            (4, "e", "k"),
        ]


async def test_stats_tell_the_peer_its_counters(autojump_clock):
    """Per topic, and what waits for the peer."""
    async with open_engine(settings(outbox_messages=3)) as engine, connect(engine, buffer_bytes=100) as peer:
        await peer.command("subscribe", topic="room:a", fields=["n"])
        peer.stall()
        for number in range(10):
            await engine.publish("room:a", {"n": number})
            await settle()
        await engine.publish("room:a", {"m": 1})
        await trio.sleep(2)
        (connection,) = engine.connections
        facts = connection.statistics()
        assert (facts.queue_messages, facts.queue_age) == (3, 2.0)
        assert facts.queue_bytes > 0
        peer.resume()
        await settle()
        stats = await peer.command("stats")
        assert stats["queue"]["messages"] == 0
        (counters,) = stats["subscriptions"]
        assert counters["filtered"] == 1
        assert counters["delivered"] + counters["dropped"] == 10
        subscription = connection.session.subscriptions["room:a"]
        assert counters["dropped"] == subscription.dropped[Loss.SLOW_CONSUMER] > 0


async def test_payload_over_the_limit_is_refused(autojump_clock):
    """A publish is bounded; the connection lives on."""
    async with open_engine(settings(max_message_bytes=100)) as engine, connect(engine) as peer:
        assert (await peer.command("publish", topic="room:a", data="x" * 98))["type"] == "published"
        assert (await peer.command("publish", topic="room:a", data="x" * 99))["code"] == "PAYLOAD_TOO_LARGE"


async def test_publish_that_has_to_wait_is_confirmed_when_it_is_done(autojump_clock):
    """What was answered before does not wait with it."""
    async with open_engine(settings()) as engine, connect(engine) as peer:
        engine.ingress.messages += 10_000
        first, second = peer.send("ping"), peer.send("publish", topic="room:a", data=1)
        await settle()
        assert [push.get("id") for push in peer.pending()] == [first]
        engine.ingress.messages -= 10_000
        engine.ingress.pass_on()
        await settle()
        assert [(push["id"], push["offset"]) for push in peer.pending()] == [(second, 1)]


# -- how far a topic has come that the peer does not see all of --------------------------------------------------

SEES_EVEN = View.of(condition=parse_filter(b'{"=":["even",true]}'))


class StreamFraming(CursorFraming):
    """Of several topics, with the cursor also behind a push that moves it."""

    def push(self, kind: str, text: bytes, cursor: str | None = None) -> bytes:
        """The text, then the cursor if it moves."""
        return text + b"\n" + cursor_line(cursor)


STREAM = StreamFraming()


async def publish_numbers(engine, first: int, last: int, **members) -> None:
    """Messages whose offset is their number."""
    for number in range(first, last + 1):
        await engine.publish("room:a", {"n": number, "even": not number % 2, **members})


async def test_ping_tells_positions_of_topics_that_are_not_seen_whole(autojump_clock):
    """Filtered, in part, or the newest only; of the others the peer has the offsets of all messages."""
    wishes = [
        Subscribe("room:a", SEES_EVEN),
        Subscribe("room:b", View.of(["n"])),
        Subscribe("room:c", mode=Mode.LATEST),
        Subscribe("room:d"),
    ]
    async with open_engine(settings()) as engine, connect(engine, subscribe=wishes) as peer:
        receipts = {}
        for wish in wishes:
            for _ in range(3):
                receipts[wish.topic] = await engine.publish(wish.topic, {"m": 1})
        ping = await peer.receive_type("ping")
        assert ping["positions"] == [
            {"topic": topic, "epoch": receipts[topic].epoch, "offset": 3} for topic in ("room:a", "room:b", "room:c")
        ]


async def test_ping_of_a_peer_that_sees_everything_tells_no_positions(autojump_clock):
    """It is as short as it was."""
    async with open_engine(settings()) as engine, connect(engine, subscribe=[Subscribe("room:a")]) as peer:
        await publish_numbers(engine, 1, 3)
        assert (await peer.receive_type("ping")).keys() == {"type", "server_time"}


@pytest.mark.parametrize("framing", [LINES, ONE_TOPIC, STREAM])
@pytest.mark.parametrize("max_rate", [None, 0.1])
async def test_place_that_a_ping_tells_is_where_a_peer_can_go_on(framing, max_rate, autojump_clock):
    """Before it came what is up to there, and nothing that is behind it; be it that much waits, or is held."""
    wish = Subscribe("room:a", SEES_EVEN, max_rate=max_rate)
    options = {"framing": framing, "buffer_bytes": 1000, "subscribe": [wish]}
    async with open_engine(settings(ping_interval_seconds=5)) as engine:
        engine.random = lambda: 0.5
        async with attached(engine, **options) as (connection, peer):
            await publish_numbers(engine, 1, 5)
            await trio.sleep(6)
            peer.stall()
            await publish_numbers(engine, 6, 205, text="x" * 1000)
            await trio.sleep(6)
            peer.resume()
            await settle()
            await publish_numbers(engine, 206, 206)
            await publish_numbers(engine, 207, 207)
            await trio.sleep(6)
            received = list(peer.received)
            assert connection.reason is None
            told = []
            for index, push in enumerate(received):
                if push["type"] == "ping":
                    (place,) = push.get("positions") or decode_cursor(received[index + 1]["cursor"]).values()
                    offset = place["offset"] if isinstance(place, dict) else place.offset
                    before = {one["offset"] for one in received[:index] if one["type"] == "message"}
                    after = {one["offset"] for one in received[index:] if one["type"] == "message"}
                    assert max(before, default=0) <= offset < min(after, default=1000)
                    if max_rate is None:
                        assert before == {number for number in range(2, 208, 2) if number <= offset}
                    told.append(offset)
            assert told == sorted(told)
            if max_rate is None:
                assert (told[0], told[-1]) == (5, 207)
                assert any(5 <= offset < 205 for offset in told[1:-1])


@pytest.mark.parametrize("framing", [ONE_TOPIC, STREAM])
async def test_peer_that_goes_on_from_the_cursor_of_a_ping_gets_what_is_new(framing, autojump_clock):
    """However many messages it did not see: history need not reach back to the last one that it did."""
    async with open_engine(settings(kinds={"room": {"history_messages": 4}})) as engine:
        async with attached(engine, framing=framing, subscribe=[Subscribe("room:a", SEES_EVEN)]) as (_, peer):
            await publish_numbers(engine, 1, 2)
            for number in range(3, 21):
                await engine.publish("room:a", {"n": number, "even": False})
            await peer.receive_type("ping")
            (cursor,) = [push["cursor"] for push in peer.pending() if push["type"] == "cursor"][-1:]
        await publish_numbers(engine, 21, 24)
        since = Since(after=decode_cursor(cursor)["room:a"])
        async with attached(engine, framing=framing, subscribe=[Subscribe("room:a", SEES_EVEN, since=since)]) as (
            _,
            peer,
        ):
            assert peer.received[0]["topics"][0]["recovered"] == "full"
            assert [push["offset"] for push in peer.received if push["type"] == "message"] == [22, 24]
