"""One connection and its topics: who is there, where the server places it, what is taken away again."""

from __future__ import annotations

import pytest
import structlog
import trio
from attrs import evolve

from realtime import Identity, Settings, closing, open_engine
from realtime.audit import AuditEvent
from realtime.connection import Connection
from realtime.errors import CommandError, ErrorCode
from realtime.polling import Poll, poll
from realtime.testing import MemoryWire, connect
from realtime.wishes import Subscribe
from tests.contract.slow_broker import SlowBroker
from tests.tools import attached, settle

TOPIC = "room:a"


def settings(linger: float = 0.0, **options) -> Settings:
    """Settings that let everybody in; members leave at once, unless told otherwise."""
    kinds = {"room": {"presence_linger_seconds": linger, **options.pop("room", {})}, **options.pop("kinds", {})}
    return Settings(**{"dev": True, "auto_subscribe": (), "kinds": kinds, **options})


def ruled(verbs: list) -> Settings:
    """Settings with one rule, for those who have logged in: these verbs in all rooms."""
    return evolve(settings(dev=False), rules=({"topics": ["room:*"], "allow": verbs},))


async def tokens(token: str) -> Identity:
    """A token is a user, and roles behind it."""
    user, *roles = token.split("/")
    return Identity(user, roles=frozenset(roles), info={"name": user.upper()})


def news(peer) -> list:
    """Who came and went, as far as this peer was told."""
    return [
        (push["type"], push["member"]["user"])
        for push in peer.pending()
        if push["type"] in ("join", "leave") and push["topic"] == TOPIC
    ]


async def users(peer) -> list:
    """The list of members."""
    return [member["user"] for member in (await peer.command("members", topic=TOPIC))["members"]]


# -- presence ----------------------------------------------------------------------------------------------------


async def test_member_is_there_from_subscribing_to_unsubscribing(autojump_clock):
    """Others are told, with what they may know of it; it is not told of itself."""
    async with (
        open_engine(settings()) as engine,
        connect(engine, identity=Identity("1")) as witness,
        connect(engine, identity=Identity("2", info={"name": "B"})) as peer,
    ):
        await witness.command("subscribe", topic=TOPIC)
        await trio.sleep(1)
        await peer.command("subscribe", topic=TOPIC)
        joined = await witness.receive_type("join")
        assert joined["member"]["info"] == {"name": "B"}
        assert engine.connections.get(joined["member"]["connection"]) is not None
        assert await users(witness) == ["1", "2"]
        await peer.command("unsubscribe", topic=TOPIC)
        assert (await witness.receive_type("leave"))["member"]["user"] == "2"
        assert await users(witness) == ["1"]
        await trio.sleep(5)
        assert news(peer) == []


@pytest.mark.parametrize(("linger", "left"), [(0.0, 0.1), (3.0, 3.1)])
async def test_member_that_is_lost_leaves_after_a_while(linger, left, autojump_clock):
    """A page that is loaded again is soon back: nobody is told."""
    async with (
        open_engine(settings(linger)) as engine,
        connect(engine, identity=Identity("1")) as witness,
        connect(engine, identity=Identity("2")) as peer,
    ):
        for one in (witness, peer):
            await one.command("subscribe", topic=TOPIC)
        await trio.sleep(1)
        witness.pending()
        lost = trio.current_time()
        peer.hang_up()
        assert (await witness.receive_type("leave"))["member"]["user"] == "2"
        assert trio.current_time() - lost == pytest.approx(left)


async def test_member_that_is_back_before_it_was_missed_never_left(autojump_clock):
    """On a connection of its own."""
    async with open_engine(settings(3.0)) as engine, connect(engine, identity=Identity("1")) as witness:
        await witness.command("subscribe", topic=TOPIC)
        for _ in range(3):
            async with connect(engine, identity=Identity("2")) as peer:
                await peer.command("subscribe", topic=TOPIC)
                await trio.sleep(1)
            await trio.sleep(1)
        assert news(witness) == [("join", "2")]
        assert await users(witness) == ["1", "2"]


async def test_peer_that_logs_in_is_another_member(autojump_clock):
    """Without a name it leaves, at once, with its name it comes; a fresh token changes nothing."""
    async with (
        open_engine(settings(3.0), authenticate=tokens) as engine,
        connect(engine, identity=Identity("1")) as witness,
        connect(engine) as peer,
    ):
        for one in (witness, peer):
            await one.command("subscribe", topic=TOPIC)
            await trio.sleep(1)
        await peer.command("subscribe", topic="symbol:600519")
        assert await users(witness) == ["1", None]
        for _ in range(2):
            await peer.command("auth", token="2")
            await trio.sleep(1)
        assert [member["info"] for member in (await witness.command("members", topic=TOPIC))["members"]] == [
            {},
            {"name": "2"},
        ]
        assert sorted(news(witness), key=str) == [("join", "2"), ("join", None), ("leave", None)]
        await peer.command("unsubscribe", topic=TOPIC)
        assert await users(witness) == ["1"]


async def test_room_that_is_full_is_refused_and_nothing_is_left_behind(autojump_clock):
    """Another device of a member is no more members."""
    async with (
        open_engine(settings(room={"max_members": 1})) as engine,
        connect(engine, identity=Identity("1")) as first,
        connect(engine, identity=Identity("1")) as device,
        connect(engine, identity=Identity("2")) as second,
    ):
        assert (await first.command("subscribe", topic=TOPIC))["type"] == "subscribed"
        assert (await device.command("subscribe", topic=TOPIC))["type"] == "subscribed"
        assert (await second.command("subscribe", topic=TOPIC))["code"] == "LIMIT_EXCEEDED"
        assert engine.hub.topic_statistics(TOPIC).subscribers == 2
        assert (await second.command("unsubscribe", topic=TOPIC))["code"] == "NOT_SUBSCRIBED"
        for peer in (first, device):
            await peer.command("unsubscribe", topic=TOPIC)
        assert (await second.command("subscribe", topic=TOPIC))["type"] == "subscribed"


async def test_arrival_that_is_refused_leaves_no_member(autojump_clock):
    """Of the topics that were joined before the one that was refused."""
    async with open_engine(settings()) as engine:
        async with attached(engine, subscribe=[Subscribe(TOPIC), Subscribe("user:7")], refuse_in_band=True):
            pass
        assert engine.members(TOPIC).count == 0


async def test_members_come_in_pages(autojump_clock):
    """Each once, whoever leaves between two pages."""
    async with (
        open_engine(settings(room={"presence_by": "connection"})) as engine,
        trio.open_nursery() as nursery,
    ):

        async def member(number: int, task_status) -> None:
            async with connect(engine, identity=Identity(str(number))) as peer:
                await peer.command("subscribe", topic=TOPIC)
                task_status.started(peer)
                await trio.sleep_forever()

        peers = [await nursery.start(member, number) for number in range(7)]
        first = await peers[0].command("members", topic=TOPIC, limit=3)
        await peers[1].command("unsubscribe", topic=TOPIC)
        second = await peers[0].command("members", topic=TOPIC, limit=3, after=first["next"])
        third = await peers[0].command("members", topic=TOPIC, limit=3, after=second["next"])
        pages = [[member["user"] for member in page["members"]] for page in (first, second, third)]
        assert pages == [["0", "1", "2"], ["3", "4", "5"], ["6"]]
        assert (first["count"], second["count"], third.get("next")) == (7, 6, None)
        assert (await peers[0].command("members", topic=TOPIC, after="x"))["code"] == "BAD_REQUEST"
        nursery.cancel_scope.cancel()


async def test_kind_that_only_counts_gives_no_names(autojump_clock):
    """And one without presence gives nothing."""
    async with open_engine(settings(room={"presence": "count"})) as engine, connect(engine) as peer:
        await peer.command("subscribe", topic=TOPIC)
        reply = await peer.command("members", topic=TOPIC)
        assert (reply["members"], reply["count"]) == ([], 1)
        assert (await peer.command("members", topic="symbol:600519"))["code"] == "BAD_REQUEST"


# -- where the server places a peer ------------------------------------------------------------------------------


async def test_server_places_a_user_on_all_its_connections(autojump_clock):
    """Where it may not go by itself; those that are there already stay."""
    async with (
        open_engine(settings()) as engine,
        connect(engine, identity=Identity("7")) as first,
        connect(engine, identity=Identity("7")) as second,
        connect(engine, identity=Identity("8")) as other,
    ):
        assert await engine.place_user("7", "role:vip") == 2
        assert await engine.place_user("7", "role:vip") == 2
        await engine.publish("role:vip", 1)
        await settle()
        for peer in (first, second):
            assert [push["type"] for push in peer.pending()] == ["subscribed", "message"]
        assert other.pending() == []
        assert engine.evict_user("7", "role:vip") == 2
        assert engine.evict_user("7", "role:vip") == 0
        await settle()
        (told,) = first.pending()
        assert (told["type"], told["topic"], told["code"], told["resubscribe"]) == (
            "unsubscribed",
            "role:vip",
            "PERMISSION_DENIED",
            False,
        )
        with pytest.raises(CommandError, match="INVALID_TOPIC"):
            await engine.place_user("7", "nosuch:a")


async def test_one_connection_can_be_spoken_to(autojump_clock):
    """In a topic of its own, which it is placed in the first time, also by two at once."""
    async with open_engine(settings()) as engine, connect(engine) as peer, connect(engine) as other:
        (connection, _) = engine.connections
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(engine.send_to_connection, connection.id, number)
        await settle()
        pushes = peer.pending()
        assert [push["type"] for push in pushes] == ["subscribed", "message", "message", "message"]
        assert sorted(push["data"] for push in pushes[1:]) == [0, 1, 2]
        assert other.pending() == []
        assert (await other.command("subscribe", topic=f"connection:{connection.id}"))["code"] == "PERMISSION_DENIED"
        with pytest.raises(CommandError, match="CONNECTION_NOT_FOUND"):
            await engine.send_to_connection("c_none", 1)


async def test_login_places_the_peer_and_goes_on_where_its_cursor_stands(autojump_clock):
    """What it missed comes behind the reply that says so; roles bring their topics."""
    from realtime.history import encode_cursor

    options = settings(auto_subscribe=("user:{user}", "role:{role}"))
    async with open_engine(options, authenticate=tokens) as engine:
        first = await engine.send_to_user("7", 1)
        await engine.send_to_user("7", 2)
        async with connect(engine, authenticated=False) as peer:
            reply = await peer.command("auth", token="7/a/b", cursor=encode_cursor({"user:7": first.position}))
            assert [(one["topic"], one.get("replayed")) for one in reply["topics"]] == [
                ("user:7", 1),
                ("role:a", None),
                ("role:b", None),
            ]
            await settle()
            assert [(push["topic"], push["data"]) for push in peer.pending()] == [("user:7", 2)]
            again = await peer.command("auth", token="7/a/b")
            assert again["topics"] == []


async def test_login_with_a_broken_cursor_is_no_login(autojump_clock):
    """All of it or nothing."""
    async with open_engine(settings(), authenticate=tokens) as engine, connect(engine, authenticated=False) as peer:
        assert (await peer.command("auth", token="7", cursor="nonsense"))["code"] == "BAD_REQUEST"
        assert engine.connections.of_user("7") == []
        assert (await peer.command("subscribe", topic=TOPIC))["code"] == "AUTH_REQUIRED"


async def test_disconnected_user_is_told_to_stay_away(autojump_clock):
    """On every connection."""
    async with open_engine(settings()) as engine, connect(engine, identity=Identity("7")) as peer:
        assert engine.disconnect_user("7") == 1
        assert await peer.wait_closed() is closing.FORBIDDEN
        assert engine.disconnect_user("7") == 0


# -- what a peer may -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "kind", "members"),
    [
        ("7", "subscribe", {"topic": "user:8"}),
        (None, "subscribe", {"topic": "room:b"}),
        (None, "subscribe", {"topic": "global"}),
        ("7", "subscribe", {"topic": "role:admin"}),
        ("7", "history", {"topic": "user:8"}),
        ("7", "publish", {"topic": "symbol:600519", "data": 1}),
        ("7", "publish", {"topic": "user:7", "data": 1}),
        (None, "publish", {"topic": "room:b", "data": 1}),
        ("7", "members", {"topic": "user:8"}),
        (None, "members", {"topic": "room:b"}),
    ],
)
async def test_command_that_the_peer_may_not_is_refused(user, kind, members, autojump_clock):
    """Where there are no rules the kinds decide. It is told, noted for the audit log, and changes nothing."""
    options = Settings(auto_subscribe=())
    async with open_engine(options) as engine, connect(engine, identity=Identity(user)) as peer:
        assert (await peer.command(kind, **members))["code"] == "PERMISSION_DENIED"
        assert engine.audit.counts[AuditEvent.DENIED] == 1
        assert engine.hub._audiences == {}
        assert len(engine.broker) == 0


@pytest.mark.parametrize(
    ("user", "topic"), [("7", "user:7"), (None, "symbol:600519"), ("8", "room:b"), ("7", "global")]
)
async def test_topic_that_the_peer_may_join_is_joined(user, topic, autojump_clock):
    """Owners, anybody, those who are logged in; who may join may look at what was."""
    options = Settings(auto_subscribe=())
    async with open_engine(options) as engine, connect(engine, identity=Identity(user)) as peer:
        assert (await peer.command("history", topic=topic))["type"] == "history"
        assert (await peer.command("subscribe", topic=topic))["type"] == "subscribed"


async def test_topic_that_the_server_has_placed_the_peer_in_can_be_looked_at(autojump_clock):
    """Also where nobody may ask to join it; what the peer may not do there is as before."""
    async with open_engine(settings()) as engine, connect(engine, identity=Identity("7")) as peer:
        assert (await peer.command("history", topic="role:admin"))["code"] == "PERMISSION_DENIED"
        await engine.place_user("7", "role:admin")
        assert (await peer.command("history", topic="role:admin"))["type"] == "history"
        assert (await peer.command("update", topic="role:admin"))["type"] == "updated"
        assert (await peer.command("publish", topic="role:admin", data=1))["code"] == "PERMISSION_DENIED"


async def test_peer_without_the_right_to_history_joins_without_it(autojump_clock):
    """It is told that nothing was recovered, and why; a page of history it does not get."""
    async with open_engine(ruled(["join"])) as engine, connect(engine, identity=Identity("7")) as peer:
        await engine.publish(TOPIC, "old")
        reply = await peer.command("subscribe", topic=TOPIC, recover={"last": 1})
        assert (reply["recovered"], reply["why"], reply.get("replayed")) == ("none", "no_history", None)
        assert engine.statistics().hub.gaps == {"no_history": 1}
        assert (await peer.command("history", topic=TOPIC))["code"] == "PERMISSION_DENIED"
        await engine.publish(TOPIC, "new")
        assert (await peer.receive_type("message"))["data"] == "new"


async def test_peer_without_the_right_to_presence_is_not_told_of_members(autojump_clock):
    """Others are told of it all the same."""
    rules = [
        {"topics": ["room:*"], "allow": ["join"]},
        {"topics": ["room:*"], "allow": ["presence"], "users": ["1"]},
    ]
    async with (
        open_engine(evolve(settings(dev=False), rules=tuple(rules))) as engine,
        connect(engine, identity=Identity("1")) as witness,
        connect(engine, identity=Identity("2")) as peer,
    ):
        await peer.command("subscribe", topic=TOPIC)
        await witness.command("subscribe", topic=TOPIC)
        await trio.sleep(1)
        assert (await peer.command("members", topic=TOPIC))["code"] == "PERMISSION_DENIED"
        assert sorted(await users(witness)) == ["1", "2"]
        assert news(peer) == []
        assert (await witness.command("unsubscribe", topic=TOPIC))["type"] == "unsubscribed"
        await trio.sleep(1)
        assert news(peer) == []


# -- rights that change ------------------------------------------------------------------------------------------


async def test_fresh_login_with_fewer_rights_loses_what_they_opened(autojump_clock):
    """With the code, and not to ask again; the rest stays, and so does what the server decided."""
    rules = ({"topics": ["room:*"], "allow": ["join"], "roles": ["a"]}, {"topics": ["project:*"], "allow": ["join"]})
    options = evolve(settings(dev=False), rules=rules)
    async with open_engine(options, authenticate=tokens) as engine, connect(engine, authenticated=False) as peer:
        await peer.command("auth", token="7/a")
        for topic in (TOPIC, "project:x"):
            assert (await peer.command("subscribe", topic=topic))["type"] == "subscribed"
        await engine.place_user("7", "room:placed")
        await settle()
        peer.pending()
        await peer.command("auth", token="7/a")
        assert peer.pending() == []
        await peer.command("auth", token="7/b")
        (told,) = peer.pending()
        assert told == {
            "type": "unsubscribed",
            "topic": TOPIC,
            "code": "PERMISSION_DENIED",
            "resubscribe": False,
        }
        (connection,) = engine.connections
        assert set(connection.session.subscriptions) == {"project:x", "room:placed"}


async def test_rules_that_are_read_anew_end_what_they_do_not_allow(autojump_clock):
    """On connections and in polls; settings that need another start are named and left as they were."""
    options = ruled(["join", "presence"])
    async with (
        open_engine(options) as engine,
        connect(engine, identity=Identity("1")) as witness,
        connect(engine, identity=Identity("7")) as peer,
        trio.open_nursery() as nursery,
    ):

        async def ask() -> None:
            with pytest.raises(CommandError, match="PERMISSION_DENIED"):
                await poll(engine, Identity("7"), Poll([Subscribe(TOPIC)]))

        nursery.start_soon(ask)
        for one in (witness, peer):
            await one.command("subscribe", topic=TOPIC)
        await trio.sleep(1)
        witness.pending()
        fresh = evolve(
            options,
            rules=({"topics": ["room:*"], "allow": ["join"], "users": ["1"]},),
            origins=("https://app.example",),
            max_topics=7,
        )
        assert await engine.reload(fresh) == ["max_topics"]
        assert engine.settings.origins == ("https://app.example",)
        assert engine.settings.max_topics == options.max_topics
        assert (await peer.receive_type("unsubscribed"))["code"] == "PERMISSION_DENIED"
        assert (await peer.command("subscribe", topic=TOPIC))["code"] == "PERMISSION_DENIED"
        await engine.publish(TOPIC, "goes on")
        assert (await witness.receive_type("message"))["data"] == "goes on"
        # It may still be there, but not look who else is.
        assert news(witness) == []
        assert (await witness.command("members", topic=TOPIC))["code"] == "PERMISSION_DENIED"


async def test_user_is_looked_at_anew_when_asked_for(autojump_clock):
    """What a function of one's own knows has changed; who is not looked at keeps what it has."""
    banned: set = set()

    def authorize(identity, verb, topic):
        return identity.user not in banned

    async with (
        open_engine(settings(), authorize=authorize) as engine,
        connect(engine, identity=Identity("7")) as peer,
        connect(engine, identity=Identity("8")) as other,
    ):
        for one in (peer, other):
            await one.command("subscribe", topic=TOPIC)
        banned |= {"7", "8"}
        await engine.review("7")
        await settle()
        (told,) = peer.pending()
        assert (told["type"], told["topic"], told["code"]) == ("unsubscribed", TOPIC, "PERMISSION_DENIED")
        assert other.pending() == []


async def test_topic_that_nobody_can_decide_about_may_be_asked_for_again(autojump_clock):
    """What is asked does not answer in time: who has the topic loses it, but not for good."""
    slow = False

    async def authorize(identity, verb, topic):
        await trio.sleep(60 if slow else 0)

    async with open_engine(settings(), authorize=authorize) as engine, connect(engine) as peer:
        await peer.command("subscribe", topic=TOPIC)
        slow = True
        with structlog.testing.capture_logs():
            await engine.review()
            told = await peer.receive_type("unsubscribed")
            assert (told["code"], told["resubscribe"]) == ("UNAVAILABLE", True)
            refused = await peer.command("subscribe", topic=TOPIC)
        assert (refused["code"], refused["retry_after"]) == ("UNAVAILABLE", 1)
        slow = False
        assert (await peer.command("subscribe", topic=TOPIC))["type"] == "subscribed"


async def test_topic_that_is_left_while_it_is_looked_at_is_not_ended_twice(autojump_clock):
    """Nor is one that was joined anew meanwhile: it was decided about by itself."""
    thinking = trio.Event()
    thinking.set()
    allowed = True

    async def authorize(identity, verb, topic):
        answer = allowed
        await thinking.wait()
        return answer

    async with open_engine(settings(), authorize=authorize) as engine, attached(engine) as (connection, peer):
        await peer.command("subscribe", topic=TOPIC)
        thinking, allowed = trio.Event(), False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.review)
            await settle()
            await peer.command("unsubscribe", topic=TOPIC)
            peer.pending()
            thinking.set()
        assert peer.pending() == []
        assert connection.session.subscriptions == {}


async def test_right_that_is_lost_while_history_is_read_is_lost(autojump_clock):
    """Nothing is left behind."""
    options = ruled(["join"])
    broker = SlowBroker(options.all_kinds(), now_ms=lambda: 42)
    async with open_engine(options, broker=broker) as engine, connect(engine, identity=Identity("7")) as peer:
        broker.reading = trio.Event()
        peer.send("subscribe", topic=TOPIC)
        await trio.sleep(1)
        await engine.reload(ruled(["publish"]))
        broker.reading.set()
        assert (await peer.receive_type("error"))["code"] == "PERMISSION_DENIED"
        assert engine.hub._audiences == {}
        assert engine.members(TOPIC).count == 0


async def test_own_topic_that_a_peer_may_not_join_is_not_brought(autojump_clock):
    """Those with its name in them are its own; the others are for those who may."""
    options = evolve(ruled(["join"]), auto_subscribe=("user:{user}", "role:{role}", "global"))
    identity = Identity("7", roles=frozenset({"a"}))
    async with open_engine(options) as engine, connect(engine, identity=identity) as peer:
        assert [standing["topic"] for standing in peer.received[0]["topics"]] == ["user:7", "role:a"]


async def test_login_that_is_revoked_closes_what_it_opened(autojump_clock):
    """One token, or all that a user has had; the others go on."""
    async with (
        open_engine(settings()) as engine,
        connect(engine, identity=Identity("7", token_id="t1")) as first,
        connect(engine, identity=Identity("7", token_id="t2")) as second,
        connect(engine, identity=Identity("8", token_id="t3")) as other,
        trio.open_nursery() as nursery,
    ):

        async def ask() -> None:
            with pytest.raises(CommandError, match="AUTH_FAILED"):
                await poll(engine, Identity("7", token_id="t1"), Poll([Subscribe(TOPIC)]))

        nursery.start_soon(ask)
        await settle()
        assert engine.revoke_token("t1") == 2
        assert await first.wait_closed() is closing.FORBIDDEN
        assert second.close_reason is None
        ticket = engine.tickets.issue(Identity("7"), seconds=30)
        assert engine.revoke_user("7") == 1
        assert await second.wait_closed() is closing.FORBIDDEN
        with pytest.raises(CommandError, match="AUTH_FAILED"):
            engine.tickets.redeem(ticket)
        assert (await other.command("ping"))["type"] == "pong"
        for token_id in ("t1", "t2"):
            with pytest.raises(CommandError, match="AUTH_FAILED"):
                engine.check_login(Identity("7", token_id=token_id))


async def test_login_that_is_revoked_while_its_connection_arrives_does_not_arrive(autojump_clock):
    """It waited for its history and was in no list of connections yet."""
    options = settings()
    broker = SlowBroker(options.all_kinds(), now_ms=lambda: 42)
    async with open_engine(options, broker=broker) as engine:
        broker.reading = trio.Event()
        async with trio.open_nursery() as nursery:

            async def arrive() -> None:
                with pytest.raises(CommandError, match="AUTH_FAILED"):
                    await Connection(engine, MemoryWire(), identity=Identity("7")).run([Subscribe(TOPIC)])

            nursery.start_soon(arrive)
            await trio.sleep(1)
            assert engine.revoke_user("7") == 0
            broker.reading.set()
        assert engine.hub._audiences == {}
        assert engine.members(TOPIC).count == 0


# -- topics that are not there -----------------------------------------------------------------------------------


async def test_topic_that_does_not_exist_is_refused_until_it_does(autojump_clock):
    """And who has it is told when it goes."""
    async with open_engine(settings()) as engine, connect(engine, identity=Identity("7")) as peer:
        assert (await peer.command("subscribe", topic="session:a"))["code"] == "SESSION_NOT_FOUND"
        engine.create_topic("session:a")
        assert (await peer.command("subscribe", topic="session:a"))["type"] == "subscribed"
        await engine.publish("session:a", 1)
        await settle()
        await engine.remove_topic("session:a")
        await settle()
        message, told = peer.pending()
        assert (message["type"], told["type"], told["code"]) == ("message", "unsubscribed", "SESSION_NOT_FOUND")
        assert (await peer.command("unsubscribe", topic="session:a"))["code"] == "NOT_SUBSCRIBED"
        assert engine.hub._audiences == {}


async def test_topic_that_goes_while_it_is_joined_is_refused(autojump_clock):
    """Nothing is left behind."""
    options = settings()
    broker = SlowBroker(options.all_kinds(), now_ms=lambda: 42)
    async with open_engine(options, broker=broker) as engine, connect(engine, identity=Identity("7")) as peer:
        engine.create_topic("session:a")
        broker.reading = trio.Event()
        identity = peer.send("subscribe", topic="session:a")
        await trio.sleep(1)
        await engine.remove_topic("session:a")
        broker.reading.set()
        reply = await peer.receive_where(lambda push: push.get("id") == identity)
        assert reply["code"] == "SESSION_NOT_FOUND"
        assert engine.hub._audiences == {}


async def test_topics_of_one_kind_are_limited(autojump_clock):
    """Those of other kinds are not."""
    async with open_engine(settings(room={"max_per_connection": 2})) as engine, connect(engine) as peer:
        replies = [await peer.command("subscribe", topic=f"room:{number}") for number in range(3)]
        assert [reply.get("code") for reply in replies] == [None, None, "LIMIT_EXCEEDED"]
        assert (await peer.command("subscribe", topic="symbol:600519"))["type"] == "subscribed"
        await peer.command("unsubscribe", topic="room:0")
        assert (await peer.command("subscribe", topic="room:2"))["type"] == "subscribed"


async def test_eviction_that_invites_back_says_so(autojump_clock):
    """Without a code, as nothing is wrong."""
    async with open_engine(settings()) as engine, attached(engine, subscribe=[Subscribe(TOPIC)]) as (one, peer):
        peer.pending()
        assert one.membership.evict(TOPIC, None, resubscribe=True)
        assert not one.membership.evict(TOPIC, CommandError(ErrorCode.PERMISSION_DENIED, "no"))
        await settle()
        assert peer.pending() == [{"type": "unsubscribed", "topic": TOPIC, "resubscribe": True}]


async def test_repeated_publish_of_a_user_is_published_once(autojump_clock):
    """Another user may use the same key; the receipt says what it is."""
    async with (
        open_engine(settings()) as engine,
        connect(engine, identity=Identity("7")) as first,
        connect(engine, identity=Identity("8")) as other,
    ):
        receipts = [
            await peer.command("publish", topic=TOPIC, data=1, idempotency_key="k") for peer in (first, first, other)
        ]
        assert [(one["offset"], one.get("duplicate")) for one in receipts] == [(1, None), (1, True), (2, None)]
        assert engine.statistics().duplicates == 1


# -- logins that change ------------------------------------------------------------------------------------------


async def test_fresh_login_without_a_role_ends_what_the_role_brought(autojump_clock):
    """And nothing else."""
    options = settings(auto_subscribe=("user:{user}", "role:{role}"))
    async with open_engine(options, authenticate=tokens) as engine, connect(engine, authenticated=False) as peer:
        await peer.command("auth", token="7/a/b")
        await peer.command("auth", token="7/a")
        for role in "ab":
            await engine.send_to_role(role, role)
        await engine.send_to_user("7", "own")
        await settle()
        told, *messages = peer.pending()
        assert (told["type"], told["topic"], told["code"]) == ("unsubscribed", "role:b", "PERMISSION_DENIED")
        assert [(push["type"], push["data"]) for push in messages] == [("message", "a"), ("message", "own")]


async def test_fresh_login_with_other_info_is_seen_by_the_members(autojump_clock):
    """In the list of each topic that has one."""

    async def named(token: str) -> Identity:
        return Identity("2", info={"name": token})

    async with (
        open_engine(settings(), authenticate=named) as engine,
        connect(engine, identity=Identity("1")) as witness,
        connect(engine, authenticated=False) as peer,
    ):
        await peer.command("auth", token="old")
        await peer.command("subscribe", topic=TOPIC)
        for name in ("old", "new"):
            await peer.command("auth", token=name)
            (member,) = (await witness.command("members", topic=TOPIC))["members"]
            assert (member["user"], member["info"]) == ("2", {"name": name})


# -- limits of the peer, and the server's will -------------------------------------------------------------------


async def test_connection_that_has_all_the_topics_it_may_can_be_spoken_to(autojump_clock):
    """What the server decides is not counted against the peer."""
    async with open_engine(settings(max_topics=1)) as engine, connect(engine) as peer:
        await peer.command("subscribe", topic=TOPIC)
        (connection,) = engine.connections
        await engine.send_to_connection(connection.id, 1)
        await settle()
        assert [push["type"] for push in peer.pending()] == ["subscribed", "message"]
        assert (await peer.command("subscribe", topic="room:b"))["code"] == "LIMIT_EXCEEDED"


@pytest.mark.parametrize("seed", range(5))
async def test_two_who_speak_to_a_connection_at_once_are_both_heard(seed, autojump_clock):
    """Also where joining takes its time: neither message goes ahead of the subscription."""
    options = settings()
    broker = SlowBroker(options.all_kinds(), now_ms=lambda: 42, seed=seed)
    async with open_engine(options, broker=broker) as engine, connect(engine) as peer:
        (connection,) = engine.connections
        async with trio.open_nursery() as nursery:
            for number in range(2):
                nursery.start_soon(engine.send_to_connection, connection.id, number)
        await trio.sleep(1)
        first, *messages = peer.pending()
        assert first["type"] == "subscribed"
        assert sorted(push["data"] for push in messages) == [0, 1]


@pytest.mark.parametrize("command", ["history", "members"])
async def test_question_about_a_topic_that_does_not_exist_is_refused(command, autojump_clock):
    """As joining it is; once it is there it is answered."""
    options = settings(kinds={"hall": {"must_exist": True, "presence": "members"}})
    async with open_engine(options) as engine, connect(engine, identity=Identity("7")) as peer:
        assert (await peer.command(command, topic="hall:a"))["code"] == "ROOM_NOT_FOUND"
        engine.create_topic("hall:a")
        assert (await peer.command(command, topic="hall:a"))["type"] == command


async def codes(peer, *topics: str) -> list:
    """What becomes of subscribing to each."""
    return [(await peer.command("subscribe", topic=topic)).get("code") for topic in topics]


async def test_topics_of_a_user_are_limited_on_all_its_connections_together(autojump_clock):
    """Each that is left makes room, by whoever's will; other users and anonymous peers are not counted."""
    async with (
        open_engine(settings(max_topics_per_user=3)) as engine,
        connect(engine, identity=Identity("7")) as first,
        connect(engine, identity=Identity("7")) as second,
        connect(engine, identity=Identity("8")) as other,
        connect(engine) as nobody,
    ):
        assert await codes(first, "room:a", "room:b") == [None] * 2
        assert await codes(second, "room:a", "room:b") == [None, "LIMIT_EXCEEDED"]
        assert await codes(other, "room:a", "room:b", "room:c", "room:d") == [None] * 3 + ["LIMIT_EXCEEDED"]
        assert await codes(nobody, *(f"room:{number}" for number in range(10))) == [None] * 10
        await first.command("unsubscribe", topic="room:a")
        assert await codes(second, "room:b", "room:c") == [None, "LIMIT_EXCEEDED"]
        assert engine.evict_user("7", "room:b") == 2
        assert await codes(second, "room:c", "room:d", "room:e") == [None, None, "LIMIT_EXCEEDED"]
        assert engine.refused == {"too_many_topics_of_user": 4}


async def test_end_of_a_connection_makes_room_for_the_topics_of_its_user(autojump_clock):
    """However it ends."""
    async with (
        open_engine(settings(max_topics_per_user=2)) as engine,
        connect(engine, identity=Identity("7")) as first,
    ):
        async with connect(engine, identity=Identity("7")) as second:
            assert await codes(second, "room:a", "room:b") == [None] * 2
            assert await codes(first, "room:a") == ["LIMIT_EXCEEDED"]
            second.hang_up()
            await second.wait_closed()
        with pytest.raises(CommandError, match="PERMISSION_DENIED"):  # it has joined one, and then does not begin
            wishes = [Subscribe("room:a"), Subscribe("user:8")]
            await Connection(engine, MemoryWire(), identity=Identity("7")).run(wishes)
        assert await codes(first, "room:a", "room:b", "room:c") == [None, None, "LIMIT_EXCEEDED"]


async def test_join_that_fails_or_is_given_up_leaves_room_for_another(autojump_clock):
    """What is refused counts for nobody; what is under way does."""
    options = settings(max_topics_per_user=1)
    broker = SlowBroker(options.all_kinds(), now_ms=lambda: 42)
    async with (
        open_engine(options, broker=broker) as engine,
        connect(engine, identity=Identity("7")) as peer,
        attached(engine, identity=Identity("7")) as (connection, leaving),
    ):
        refused = ["PERMISSION_DENIED", "SESSION_NOT_FOUND", "INVALID_TOPIC"]
        assert await codes(peer, "user:8", "session:a", "x") == refused
        broker.reading = trio.Event()
        leaving.send("subscribe", topic=TOPIC)
        await trio.sleep(1)
        assert await codes(peer, "room:b") == ["LIMIT_EXCEEDED"]
        connection.close(closing.FORBIDDEN)
        await leaving.wait_closed()
        broker.reading.set()
        assert await codes(peer, "room:b", "room:c") == [None, "LIMIT_EXCEEDED"]


async def test_what_the_server_decides_is_not_on_the_account_of_the_user(autojump_clock):
    """Topics of its own, and those that it is placed in; what was joined before the login is nobody's."""
    options = settings(max_topics_per_user=1, auto_subscribe=("user:{user}",))
    async with (
        open_engine(options, authenticate=tokens) as engine,
        connect(engine) as peer,
    ):
        assert await codes(peer, "room:a", "room:b") == [None] * 2
        assert (await peer.command("auth", token="7"))["type"] == "authenticated"
        assert await engine.place_user("7", "room:placed") == 1
        assert await codes(peer, "room:c", "room:d") == [None, "LIMIT_EXCEEDED"]
        for topic in ("room:a", "room:b", "room:placed"):
            await peer.command("unsubscribe", topic=topic)
        assert await codes(peer, "room:d") == ["LIMIT_EXCEEDED"]
        await peer.command("unsubscribe", topic="room:c")
        assert await codes(peer, "room:d") == [None]
