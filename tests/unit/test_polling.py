"""One poll after the other."""

from __future__ import annotations

import pytest
import structlog
import trio
import trio.testing

from realtime import Identity, Settings, open_engine
from realtime.auth import ANONYMOUS
from realtime.broker import Draft
from realtime.errors import CommandError
from realtime.filters import parse_filter
from realtime.history import Since, decode_cursor
from realtime.messages import encode
from realtime.polling import Poll, poll
from realtime.testing import connect
from realtime.topics import Mode
from realtime.views import View
from realtime.wishes import Subscribe
from tests.contract.slow_broker import SlowBroker
from tests.tools import settle

SETTINGS = Settings(dev=True)
TOPIC = "room:a"


def wanted(cursor: str = "", *, topics=(TOPIC,), limit: int = 100, seconds: float = 25.0, **options) -> Poll:
    """A poll that goes on at a cursor."""
    places = decode_cursor(cursor)
    wishes = [
        Subscribe(topic, since=Since(after=places[topic]) if topic in places else None, **options) for topic in topics
    ]
    return Poll(wishes, cursor, seconds, limit)


def told(answer) -> list:
    """What came: offsets, and (from, to, count) of gaps."""
    import msgspec

    offsets = [msgspec.json.decode(text)["offset"] for text in answer["messages"]]
    return offsets + [(gap["from"], gap["to"], gap["count"]) for gap in answer["gaps"]]


async def test_poll_answers_at_once_where_something_is_there(autojump_clock):
    """And the next one goes on where it stopped, however small the pieces."""
    async with open_engine(SETTINGS) as engine:
        began = trio.current_time()
        answer = await poll(engine, ANONYMOUS, wanted(seconds=0))
        for number in range(7):
            await engine.publish(TOPIC, number)
        found = []
        for _ in range(3):
            answer = await poll(engine, ANONYMOUS, wanted(answer["cursor"], limit=3))
            found.append(told(answer))
        assert found == [[1, 2, 3], [4, 5, 6], [7]]
        assert trio.current_time() == began
        assert answer["topics"][0]["recovered"] == "full"
        encode(answer)


async def test_poll_waits_for_the_first_message(autojump_clock):
    """As long as it may, and not a moment longer; nothing is left of it."""
    async with open_engine(SETTINGS) as engine, trio.open_nursery() as nursery:
        began = trio.current_time()
        empty = await poll(engine, ANONYMOUS, wanted(seconds=10))
        assert (told(empty), trio.current_time() - began) == ([], pytest.approx(10))

        async def later() -> None:
            await trio.sleep(3)
            await engine.publish(TOPIC, 1)

        nursery.start_soon(later)
        answer = await poll(engine, ANONYMOUS, wanted(empty["cursor"]))
        assert (told(answer), trio.current_time() - began) == ([1], pytest.approx(13))
        assert engine.hub._audiences == {}
        assert engine.polls == set()


async def test_poll_of_several_topics_keeps_the_place_in_each(autojump_clock):
    """Whatever the limit cuts off comes with the next."""
    async with open_engine(SETTINGS) as engine:
        topics = (TOPIC, "room:b")
        cursor = (await poll(engine, ANONYMOUS, wanted(seconds=0, topics=topics)))["cursor"]
        for number in range(5):
            for topic in topics:
                await engine.publish(topic, number)
        found: list = []
        for _ in range(4):
            answer = await poll(engine, ANONYMOUS, wanted(cursor, topics=topics, limit=3))
            found += told(answer)
            cursor = answer["cursor"]
        assert sorted(found) == sorted([*range(1, 6)] * 2)


async def test_poll_sees_what_its_view_shows(autojump_clock):
    """Fields, filter and mode as anywhere; messages that it does not see do not end it."""
    async with open_engine(SETTINGS) as engine, trio.open_nursery() as nursery:
        view = View.of(["price"], parse_filter(b'{">":["price",5]}'))

        async def publish() -> None:
            for price in (1, 9, 2):
                await trio.sleep(1)
                await engine.publish(TOPIC, {"price": price, "x": 1})

        nursery.start_soon(publish)
        began = trio.current_time()
        answer = await poll(engine, ANONYMOUS, wanted(view=view))
        assert (told(answer), b'"data":{"price":9}}' in bytes(answer["messages"][0])) == ([2], True)
        assert trio.current_time() - began == pytest.approx(2)
        await trio.sleep(5)
        for key in "aab":
            await engine.publish(TOPIC, {"price": 7}, key=key)
        newest = await poll(engine, ANONYMOUS, wanted(answer["cursor"], view=view, mode=Mode.LATEST))
        assert told(newest) == [5, 6]


async def test_cursor_that_history_cannot_serve_is_answered_at_once(autojump_clock):
    """With the reason, and a cursor that can be gone on from."""
    async with open_engine(Settings(dev=True, kinds={"room": {"history_messages": 2}})) as engine:
        cursor = (await poll(engine, ANONYMOUS, wanted(seconds=0)))["cursor"]
        for number in range(5):
            await engine.publish(TOPIC, number)
        answer = await poll(engine, ANONYMOUS, wanted(cursor))
        assert (told(answer), answer["topics"][0]["recovered"], answer["topics"][0]["why"]) == ([], "none", "too_old")
        assert told(await poll(engine, ANONYMOUS, wanted(answer["cursor"], seconds=0))) == []
        assert engine.statistics().hub.gaps == {"too_old": 1}


async def test_login_brings_its_topics_to_a_poll(autojump_clock):
    """With their places in the cursor; only what is open to a peer can be named."""
    async with open_engine(SETTINGS) as engine:
        identity = Identity("7", roles=frozenset({"admin"}))
        empty = await poll(engine, identity, Poll([], seconds=0))
        assert [topic["topic"] for topic in empty["topics"]] == ["user:7", "role:admin", "global"]
        await engine.send_to_user("7", 1)
        await engine.send_to_role("admin", 2)
        answer = await poll(engine, identity, Poll([], empty["cursor"]))
        assert [bytes(text).rpartition(b":")[2] for text in answer["messages"]] == [b"1}", b"2}"]
        for refused in (Poll([Subscribe("user:8")]), Poll([Subscribe("role:admin")])):
            with pytest.raises(CommandError, match="PERMISSION_DENIED"):
                await poll(engine, identity, refused)
        assert engine.hub._audiences == {}


@pytest.mark.parametrize(
    ("wishes", "cursor", "code"),
    [
        ([], "", "BAD_REQUEST"),
        ([], "nonsense", "BAD_REQUEST"),
        ([Subscribe(f"room:{number}") for number in range(201)], "", "LIMIT_EXCEEDED"),
        ([Subscribe("nosuch:a")], "", "INVALID_TOPIC"),
        ([Subscribe(TOPIC), Subscribe("session:a")], "", "PERMISSION_DENIED"),
    ],
)
async def test_poll_that_makes_no_sense_is_refused(wishes, cursor, code, autojump_clock):
    """And has joined nothing."""
    async with open_engine(SETTINGS) as engine:
        with pytest.raises(CommandError, match=code):
            await poll(engine, ANONYMOUS, Poll(wishes, cursor))
        assert engine.hub._audiences == {}


async def test_poll_of_a_server_that_shuts_down_is_answered(autojump_clock):
    """With what there is: the peer goes on elsewhere."""
    async with open_engine(SETTINGS) as engine, trio.open_nursery() as nursery:
        answers: list = []

        async def ask() -> None:
            answers.append(await poll(engine, ANONYMOUS, wanted()))

        nursery.start_soon(ask)
        await settle()
        await engine.drain()
        await settle()
        assert [told(answer) for answer in answers] == [[]]


async def test_poll_of_a_topic_that_is_removed_is_refused(autojump_clock):
    """It does not wait for what cannot come."""
    async with open_engine(SETTINGS) as engine, trio.open_nursery() as nursery:
        engine.create_topic("session:a")
        codes: list = []

        async def ask() -> None:
            with pytest.raises(CommandError) as caught:
                await poll(engine, Identity("7"), Poll([Subscribe("session:a")]))
            codes.append(caught.value.code)

        nursery.start_soon(ask)
        await settle()
        await engine.remove_topic("session:a")
        await settle()
        assert codes == ["SESSION_NOT_FOUND"]
        assert engine.hub._audiences == {}


async def test_poll_that_too_much_came_for_loses_nothing(autojump_clock):
    """Under policy ``disconnect`` the rest is recovered by the next; there is nobody to be disconnected."""
    options = Settings(dev=True, outbox_messages=3, kinds={"room": {"overflow": "disconnect"}})
    async with open_engine(options) as engine, trio.open_nursery() as nursery:
        answers: list = []

        async def ask() -> None:
            answers.append(await poll(engine, ANONYMOUS, wanted()))

        nursery.start_soon(ask)
        await settle()
        for number in range(10):
            engine.publisher.publish_json_nowait(TOPIC, Draft(b"%d" % number))
        await settle()
        found = told(answers[0])
        assert 0 < len(found) < 10
        found += told(await poll(engine, ANONYMOUS, wanted(answers[0]["cursor"])))
        assert found == list(range(1, 11))


async def test_poll_behind_its_bounds_is_told_of_gaps(autojump_clock):
    """In what it gets, and not again with the next."""
    async with open_engine(Settings(dev=True, outbox_messages=3)) as engine, trio.open_nursery() as nursery:
        answers: list = []

        async def ask() -> None:
            answers.append(await poll(engine, ANONYMOUS, wanted()))

        nursery.start_soon(ask)
        await settle()
        for number in range(10):
            engine.publisher.publish_json_nowait(TOPIC, Draft(b"%d" % number))
        await settle()
        assert told(answers[0]) == [8, 9, 10, (1, 7, 7)]
        assert told(await poll(engine, ANONYMOUS, wanted(answers[0]["cursor"], seconds=0))) == []


async def test_answer_is_cut_where_it_becomes_long(autojump_clock, monkeypatch):
    """It is built in memory; the rest comes with the next."""
    monkeypatch.setattr("realtime.polling.MAX_ANSWER_BYTES", 500)
    async with open_engine(SETTINGS) as engine:
        cursor = (await poll(engine, ANONYMOUS, wanted(seconds=0)))["cursor"]
        for _ in range(5):
            await engine.publish(TOPIC, "x" * 200)
        first = await poll(engine, ANONYMOUS, wanted(cursor))
        second = await poll(engine, ANONYMOUS, wanted(first["cursor"]))
        assert (told(first), told(second)) == ([1, 2], [3, 4])


async def test_poll_of_a_topic_that_is_removed_gets_the_last_message_first(autojump_clock):
    """The next one is refused."""
    async with open_engine(SETTINGS) as engine, trio.open_nursery() as nursery:
        engine.create_topic("session:a")
        answers: list = []
        wish = Poll([Subscribe("session:a")])

        async def ask() -> None:
            answers.append(await poll(engine, Identity("7"), wish))

        nursery.start_soon(ask)
        await settle()
        await engine.publish("session:a", 1)
        await engine.remove_topic("session:a")
        await settle()
        assert [told(answer) for answer in answers] == [[1]]
        with pytest.raises(CommandError, match="SESSION_NOT_FOUND"):
            await poll(engine, Identity("7"), wish)


async def test_message_whose_envelope_fails_is_left_out_of_a_poll(autojump_clock):
    """The cursor goes past it, and the next poll does not come back to it."""

    def failing(event: str | None, data: bytes, time: int, topic: str) -> bytes:
        if data == b"2":
            raise RuntimeError("a bug in the envelope")
        return b'{"offset":%b}' % data

    async with open_engine(SETTINGS) as engine:
        view = View.of(envelope=failing)
        cursor = (await poll(engine, ANONYMOUS, wanted(seconds=0)))["cursor"]
        for number in (1, 2):
            await engine.publish(TOPIC, number)
        first = await poll(engine, ANONYMOUS, wanted(cursor, view=view, seconds=1))
        await engine.publish(TOPIC, 3)
        second = await poll(engine, ANONYMOUS, wanted(first["cursor"], view=view, seconds=1))
        assert (told(first), told(second)) == ([1], [3])


async def test_own_topic_that_cannot_be_had_is_left_out_of_a_poll(autojump_clock):
    """As on every transport; what the peer names itself is refused."""
    options = Settings(dev=True, auto_subscribe=("session:{user}", "user:{user}"))
    async with open_engine(options) as engine:
        await poll(engine, Identity("7"), Poll([], seconds=0))
        answer = await poll(engine, Identity("7"), wanted(seconds=0))
        assert [topic["topic"] for topic in answer["topics"]] == [TOPIC, "user:7"]
        with pytest.raises(CommandError, match="SESSION_NOT_FOUND"):
            await poll(engine, Identity("7"), wanted(topics=("session:7",)))
        assert engine.hub._audiences == {}


async def test_poll_has_no_more_topics_of_a_kind_than_a_connection(autojump_clock):
    """Those of other kinds are not counted."""
    async with open_engine(Settings(dev=True, kinds={"room": {"max_per_connection": 2}})) as engine:
        topics = ("room:a", "room:b", "symbol:600519")
        assert len((await poll(engine, ANONYMOUS, wanted(topics=topics, seconds=0)))["topics"]) == 3
        with pytest.raises(CommandError, match="LIMIT_EXCEEDED"):
            await poll(engine, ANONYMOUS, wanted(topics=(*topics, "room:c"), seconds=0))
        assert engine.hub._audiences == {}


@pytest.mark.parametrize(("expires_in", "waited"), [(3.0, 3), (100.0, 25), (0.0, 0), (-1.0, 0)])
async def test_poll_does_not_outlive_its_login(expires_in, waited, autojump_clock):
    """It is answered then, with what there is."""
    async with open_engine(SETTINGS) as engine:
        began = trio.current_time()
        answer = await poll(engine, Identity("7", expires_in=expires_in), wanted())
        assert (told(answer), trio.current_time() - began) == ([], pytest.approx(waited))


@pytest.mark.parametrize(
    ("end", "ended"),
    [
        (lambda engine: engine.disconnect_user("7"), 2),
        (lambda engine: engine.evict_user("7", TOPIC), 1),
        (lambda engine: engine.evict_user("7", "room:c"), 0),
    ],
)
async def test_polls_of_a_user_can_be_ended(end, ended, autojump_clock):
    """Like its connections: they are counted, and told that they may not; those of others go on."""
    async with open_engine(SETTINGS) as engine, trio.open_nursery() as nursery:
        codes: list = []

        async def ask(user: str, topic: str) -> None:
            try:
                await poll(engine, Identity(user), wanted(topics=(topic,)))
            except CommandError as error:
                codes.append((user, error.code))
            else:
                codes.append((user, None))

        for user, topic in (("7", TOPIC), ("7", "room:b"), ("8", TOPIC)):
            nursery.start_soon(ask, user, topic)
        await settle()
        assert end(engine) == ended
        await settle()
        assert codes == [("7", "PERMISSION_DENIED")] * ended
        await trio.sleep(30)
        assert sorted(codes, key=str) == sorted(
            [("7", "PERMISSION_DENIED")] * ended + [("7", None)] * (2 - ended) + [("8", None)], key=str
        )
        assert engine.polls == set()


# -- what a peer may ---------------------------------------------------------------------------------------------


def ruled(*verbs: str) -> Settings:
    """Settings with one rule: what those who have logged in may in all rooms."""
    return Settings(auto_subscribe=("user:{user}", "global"), rules=({"topics": ["room:*"], "allow": [*verbs]},))


async def test_poll_without_the_right_to_history_begins_with_what_comes(autojump_clock):
    """It is told so at once, as of any history that cannot be had."""
    async with open_engine(ruled("join")) as engine:
        await engine.publish(TOPIC, "old")
        wish = Subscribe(TOPIC, since=Since(last=1))
        answer = await poll(engine, Identity("7"), Poll([wish]))
        assert told(answer) == []
        (topic, _) = answer["topics"]
        assert (topic["topic"], topic["offset"], topic["recovered"], topic["why"]) == (TOPIC, 1, "none", "no_history")
        assert engine.statistics().hub.gaps == {"no_history": 1}


async def test_login_brings_to_a_poll_what_it_may_join(autojump_clock):
    """Its own always, what is everybody's only where it may; and where there is nothing, nothing is waited for."""
    async with open_engine(ruled("join")) as engine:
        answer = await poll(engine, Identity("7"), Poll([], seconds=0))
        assert [topic["topic"] for topic in answer["topics"]] == ["user:7"]
        with pytest.raises(CommandError, match="BAD_REQUEST"):
            await poll(engine, ANONYMOUS, Poll([]))


@pytest.mark.parametrize("verbs", [("join",), ("publish",)])
async def test_poll_is_looked_at_anew_when_the_rules_change(verbs, autojump_clock):
    """It ends where it may not have one of its topics any more, and else goes on."""
    async with open_engine(ruled("join", "history")) as engine, trio.open_nursery() as nursery:
        ends: list = []

        async def ask() -> None:
            try:
                ends.append(told(await poll(engine, Identity("7"), wanted())))
            except CommandError as error:
                ends.append(error.code)

        nursery.start_soon(ask)
        await settle()
        await engine.reload(ruled(*verbs))
        await settle()
        assert ends == ([] if "join" in verbs else ["PERMISSION_DENIED"])
        await engine.publish(TOPIC, 1)
        await settle()
        assert ends == ([[1]] if "join" in verbs else ["PERMISSION_DENIED"])
        assert engine.hub._audiences == {}


async def test_right_that_is_lost_while_a_poll_begins_is_lost(autojump_clock):
    """Nothing is left behind."""
    broker = SlowBroker(SETTINGS.all_kinds(), now_ms=lambda: 42)
    async with open_engine(ruled("join"), broker=broker) as engine, trio.open_nursery() as nursery:
        broker.reading = trio.Event()

        async def ask() -> None:
            with pytest.raises(CommandError, match="PERMISSION_DENIED"):
                await poll(engine, Identity("7"), wanted())

        nursery.start_soon(ask)
        await trio.sleep(1)
        await engine.reload(ruled("publish"))
        broker.reading.set()
        await trio.sleep(1)
        assert engine.polls == set()
        assert engine.hub._audiences == {}


async def test_polls_of_a_user_that_come_too_fast_are_refused(autojump_clock):
    """They are the commands of others; of anonymous peers those from one address are counted together."""
    async with open_engine(Settings(dev=True, command_rate=1, command_burst=2)) as engine:
        for identity, address in ((Identity("7"), "192.0.2.1"), (ANONYMOUS, "192.0.2.1"), (ANONYMOUS, "192.0.2.2")):
            for _ in range(2):
                await poll(engine, identity, wanted(seconds=0), address)
        for identity in (Identity("7"), ANONYMOUS):
            with pytest.raises(CommandError, match="RATE_LIMIT_EXCEEDED") as caught:
                await poll(engine, identity, wanted(seconds=0), "192.0.2.1")
            assert caught.value.retry_after == 1
        await trio.sleep(1)
        await poll(engine, ANONYMOUS, wanted(seconds=0), "192.0.2.1")
        assert engine.refused == {"poll_rate": 2}


async def test_each_topic_of_a_poll_counts_like_a_command(autojump_clock):
    """One that has more than may ever come at once takes all there is, and is not refused for good."""
    async with open_engine(Settings(dev=True, auto_subscribe=(), command_rate=1, command_burst=4)) as engine:
        many = tuple(f"room:{number}" for number in range(10))
        for topics, waits in (((TOPIC, "room:b", "room:c"), 2), (many, 4)):
            await poll(engine, Identity("7"), wanted(topics=topics, seconds=0))
            with pytest.raises(CommandError, match="RATE_LIMIT_EXCEEDED") as caught:
                await poll(engine, Identity("7"), wanted(topics=topics, seconds=0))
            assert caught.value.retry_after == waits
            await trio.sleep(4)
        with pytest.raises(CommandError, match="BAD_REQUEST"):
            await poll(engine, Identity("8"), Poll([]))
        await poll(engine, Identity("8"), wanted(topics=(TOPIC, "room:b", "room:c"), seconds=0))
        with pytest.raises(CommandError, match="RATE_LIMIT_EXCEEDED"):
            await poll(engine, Identity("8"), Poll([]))


async def test_polls_of_a_user_that_wait_are_bounded(autojump_clock):
    """Each that is answered, refused or given up makes room; anonymous peers count by their addresses, elsewhere."""
    async with (
        open_engine(Settings(dev=True, max_connections_per_user=2)) as engine,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(poll, engine, Identity("7"), wanted(seconds=10))
        nursery.start_soon(poll, engine, Identity("7"), wanted(seconds=20))
        for identity in (Identity("8"), ANONYMOUS, ANONYMOUS, ANONYMOUS):
            nursery.start_soon(poll, engine, identity, wanted(seconds=20))
        await settle()
        assert len(engine.polls) == 6
        with pytest.raises(CommandError, match="LIMIT_EXCEEDED") as caught:
            await poll(engine, Identity("7"), wanted(seconds=0))
        assert caught.value.retry_after == 1
        assert engine.refused == {"too_many_of_user": 1}
        await trio.sleep(11)
        for _ in range(3):
            with pytest.raises(CommandError, match="PERMISSION_DENIED"):
                await poll(engine, Identity("7"), wanted(topics=("user:8",)))
            with trio.move_on_after(1) as scope:
                await poll(engine, Identity("7"), wanted(seconds=20))
            assert scope.cancelled_caught
        assert told(await poll(engine, Identity("7"), wanted(seconds=0))) == []


async def test_topics_of_a_user_count_while_its_polls_wait(autojump_clock):
    """With those of its connections; what the login brings of the user's own does not, nor do anonymous peers."""
    async with (
        open_engine(Settings(dev=True, max_topics_per_user=3, auto_subscribe=("user:{user}",))) as engine,
        connect(engine, identity=Identity("7")) as peer,
        trio.open_nursery() as nursery,
    ):
        assert (await peer.command("subscribe", topic=TOPIC))["type"] == "subscribed"
        nursery.start_soon(poll, engine, Identity("7"), wanted(topics=(TOPIC, "room:b"), seconds=10))
        await settle()
        with pytest.raises(CommandError, match="LIMIT_EXCEEDED"):
            await poll(engine, Identity("7"), wanted(seconds=0))
        assert (await peer.command("subscribe", topic="room:c"))["code"] == "LIMIT_EXCEEDED"
        await poll(engine, Identity("8"), wanted(topics=(TOPIC, "room:b", "room:c"), seconds=0))
        await poll(engine, ANONYMOUS, wanted(topics=tuple(f"room:{number}" for number in range(10)), seconds=0))
        assert engine.refused == {"too_many_topics_of_user": 2}
        await trio.sleep(11)
        for _ in range(3):  # one that is refused leaves nothing behind, nor does one that is given up
            with pytest.raises(CommandError, match="LIMIT_EXCEEDED"):
                await poll(engine, Identity("7"), wanted(topics=(TOPIC, "room:b", "room:c")))
            with pytest.raises(CommandError, match="SESSION_NOT_FOUND"):
                await poll(engine, Identity("7"), wanted(topics=(TOPIC, "session:none")))
            with trio.move_on_after(1):
                await poll(engine, Identity("7"), wanted(topics=(TOPIC, "room:b")))
        await poll(engine, Identity("7"), wanted(topics=(TOPIC, "room:b"), seconds=0))


# -- what is taken away while a poll waits -----------------------------------------------------------------------


async def answered(engine, identity: Identity, asked: Poll, ends: list) -> None:
    """Poll, and note the answer or the refusal."""
    try:
        ends.append(told(await poll(engine, identity, asked)))
    except CommandError as error:
        ends.append(error.code)


@pytest.mark.parametrize(
    ("take_away", "code"),
    [
        (lambda engine: engine.revoke_user("7"), "PERMISSION_DENIED"),
        (lambda engine: engine.revoke_token("t"), "AUTH_FAILED"),
        (lambda engine: engine.disconnect_user("7"), "PERMISSION_DENIED"),
        (lambda engine: engine.evict_user("7", TOPIC), "PERMISSION_DENIED"),
    ],
)
async def test_poll_that_was_ended_tells_nothing_that_came_since(take_away, code, autojump_clock):
    """However soon after it: the answer is the error alone."""
    async with open_engine(SETTINGS) as engine, trio.open_nursery() as nursery:
        ends: list = []
        nursery.start_soon(answered, engine, Identity("7", token_id="t"), wanted(), ends)
        await settle()
        take_away(engine)
        engine.publisher.publish_json_nowait(TOPIC, Draft(b'"secret"'))
        await settle()
        assert ends == [code]
        assert engine.hub._audiences == {}


async def test_poll_whose_right_was_withdrawn_tells_nothing_that_came_since(autojump_clock):
    """The message is there before the poll is looked at."""
    async with open_engine(ruled("join", "history")) as engine, trio.open_nursery() as nursery:
        ends: list = []
        nursery.start_soon(answered, engine, Identity("7"), wanted(), ends)
        await settle()
        (waiting,) = engine.polls
        engine.gate.change(ruled("publish").policy(engine.kinds))
        waiting.withdraw(unknown=False)
        engine.publisher.publish_json_nowait(TOPIC, Draft(b'"secret"'))
        await settle()
        assert ends == ["PERMISSION_DENIED"]


async def test_poll_that_still_joins_does_not_slip_past_new_rules(autojump_clock):
    """It has its first topic and waits for the second."""
    rules = {topic: {"topics": [topic], "allow": ["join"]} for topic in (TOPIC, "room:b")}
    options = Settings(auto_subscribe=(), rules=tuple(rules.values()))
    broker = SlowBroker(options.all_kinds(), now_ms=lambda: 42)
    async with open_engine(options, broker=broker) as engine, trio.open_nursery() as nursery:
        ends: list = []
        nursery.start_soon(answered, engine, Identity("7"), wanted(topics=(TOPIC, "room:b")), ends)
        while not broker.reads:
            await trio.sleep(0.001)
        while broker.reads < 2:  # the first is through
            await trio.sleep(0.001)
        broker.reading = trio.Event()
        await engine.reload(Settings(auto_subscribe=(), rules=(rules["room:b"],)))
        await engine.publish(TOPIC, "secret")
        await trio.sleep(1)
        assert ends == []
        broker.reading.set()
        await trio.sleep(1)
        assert ends == ["PERMISSION_DENIED"]
        assert engine.hub._audiences == {}


async def test_own_topic_that_is_lost_while_a_poll_begins_is_lost(autojump_clock):
    """It is left out like any that cannot be had: what comes in it is not told."""
    options = Settings(
        auto_subscribe=("global",),
        rules=({"topics": ["room:*"], "allow": ["join"]}, {"topics": ["global"], "allow": ["join"]}),
    )
    broker = SlowBroker(options.all_kinds(), now_ms=lambda: 42)
    async with open_engine(options, broker=broker) as engine, trio.open_nursery() as nursery:
        ends: list = []
        nursery.start_soon(answered, engine, Identity("7"), wanted(), ends)
        while broker.reads < 2:  # the topic that was named is through
            await trio.sleep(0.001)
        broker.reading = trio.Event()
        await trio.sleep(1)
        await engine.reload(Settings(auto_subscribe=("global",), rules=options.rules[:1]))
        broker.reading.set()
        await trio.sleep(1)
        await engine.publish("global", "secret")
        await trio.sleep(1)
        assert ends == []
        assert [*engine.hub._audiences] == [TOPIC]
        await engine.publish(TOPIC, 1)
        await trio.sleep(1)
        assert ends == [[1]]


# -- the audit log -----------------------------------------------------------------------------------------------


async def test_each_topic_is_told_to_the_audit_log_with_the_first_of_its_polls(autojump_clock):
    """A cursor of another topic, which anybody can make up, hides nothing."""
    options = Settings(dev=True, audit=True, auto_subscribe=())
    with structlog.testing.capture_logs() as lines:
        async with open_engine(options) as engine:
            first = await poll(engine, Identity("7"), wanted(seconds=0), "192.0.2.1")
            await poll(engine, Identity("7"), wanted(first["cursor"], seconds=0), "192.0.2.1")
            other = Poll([Subscribe("room:b")], first["cursor"], 0.0)
            await poll(engine, Identity("7"), other, "192.0.2.1")
    told_of = [(line["audit"], line["user"], line["address"], line["transport"], line["topic"]) for line in lines]
    assert told_of == [("subscribe", "7", "192.0.2.1", "poll", topic) for topic in (TOPIC, "room:b")]
