"""What peers have is looked at anew: in which order, for how long, and what is under way meanwhile."""

from __future__ import annotations

import os
import signal

import pytest
import structlog
import trio
from attrs import evolve

from realtime import Actions, ConfigurationError, Identity, Settings, Since, closing, open_engine, review
from realtime.api_keys import new_key
from realtime.auth import Right, Verb
from realtime.connection import Connection
from realtime.errors import CommandError
from realtime.polling import Poll, poll
from realtime.server import reload_when_signalled
from realtime.testing import MemoryWire, connect
from realtime.wishes import Subscribe
from tests.contract.slow_broker import SlowBroker
from tests.tools import attached, settle

TOPIC, OTHER = "room:a", "room:b"
ANN = Identity("ann")


def settings(**options) -> Settings:
    """Settings that let everybody in, and place nobody."""
    return Settings(**{"dev": True, "auto_subscribe": (), "kinds": {"room": {"presence": "none"}}, **options})


def ruled(*topics: str, verbs: tuple[str, ...] = ("join", "history"), **options) -> Settings:
    """Settings with one rule: what those who have logged in may on these topics."""
    return settings(dev=False, rules=({"topics": [*topics], "allow": [*verbs]},), **options)


class Oracle:
    """A function that takes its time over each question, and notes when it was asked."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.denied: set[str] = set()
        self.asked: list[tuple[str | None, Verb, str]] = []

    async def __call__(self, identity: Identity, verb: Verb, target: str) -> bool:
        self.asked.append((identity.user, verb, target))
        answer = identity.user not in self.denied and target not in self.denied
        await trio.sleep(self.seconds)
        return answer


class Someone:
    """A peer of whom nothing is known but when it was looked at."""

    def __init__(self, events: list[str], seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.ended_at: float | None = None
        self.decided_at: float | None = None
        self._events = events

    def withdraw(self, *, unknown: bool) -> None:
        """See `review.Reviewed`."""
        self._events.append("last" if unknown else "first")
        if unknown and self.decided_at is None:
            self.ended_at = trio.current_time()

    async def review(self) -> None:
        """See `review.Reviewed`."""
        self._events.append("ask")
        await trio.sleep(self.seconds)
        self.decided_at = trio.current_time()


# -- the order and the deadline ----------------------------------------------------------------------------------


async def test_what_is_denied_for_good_goes_before_anybody_is_asked(autojump_clock):
    """Of all peers, however many."""
    events: list[str] = []
    await review.review([Someone(events, 1.0) for _ in range(250)], asks=True)
    assert events == ["first"] * 250 + ["ask"] * 250


async def test_where_nobody_has_to_be_asked_nobody_is(autojump_clock):
    """The rules alone decide at once."""
    events: list[str] = []
    began = trio.current_time()
    await review.review([Someone(events, 1.0) for _ in range(250)], asks=False)
    assert events == ["first"] * 250
    assert trio.current_time() == began


async def test_questions_are_asked_side_by_side_and_not_all_at_once(autojump_clock):
    """A database is behind them."""
    peers = [Someone([], 1.0) for _ in range(review.AT_ONCE * 3)]
    began = trio.current_time()
    async with trio.open_nursery() as nursery:

        async def look() -> None:
            await review.review(peers, asks=True)

        nursery.start_soon(look)
        for turn in range(1, 4):
            await trio.sleep(1.0 if turn > 1 else 1.5)
            assert sum(peer.decided_at is not None for peer in peers) == review.AT_ONCE * turn
    assert trio.current_time() - began < 4


async def test_who_was_not_decided_about_in_time_is_ended(autojump_clock):
    """Everybody by then; the others keep what they have."""
    quick, slow = Someone([], 1.0), Someone([], 1000.0)
    began = trio.current_time()
    await review.review([quick, slow], asks=True)
    assert trio.current_time() - began == pytest.approx(review.SECONDS)
    assert (quick.decided_at, quick.ended_at) == (began + 1, None)
    assert slow.ended_at == began + review.SECONDS


async def test_who_was_not_even_asked_about_in_time_is_ended(autojump_clock):
    """More than are asked about at once, and nobody is decided about."""
    everybody = [Someone([], 1000.0) for _ in range(2 * review.AT_ONCE)]
    began = trio.current_time()
    await review.review(everybody, asks=True)
    assert {peer.ended_at for peer in everybody} == {began + review.SECONDS}


async def test_long_list_of_peers_does_not_hold_up_the_others(autojump_clock):
    """Others run between two slices of it."""
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count_turns)
        await review.review([Someone([]) for _ in range(1000)], asks=False)
        nursery.cancel_scope.cancel()
    assert turns >= 5


# -- connections -------------------------------------------------------------------------------------------------


@pytest.fixture
async def crowd(autojump_clock, nursery):
    """Connects users, each on both topics."""

    async def connected(engine, count: int) -> list:
        async def member(number: int, task_status) -> None:
            async with connect(engine, identity=Identity(f"u{number}")) as peer:
                for topic in (TOPIC, OTHER):
                    assert (await peer.command("subscribe", topic=topic))["type"] == "subscribed"
                peer.pending()
                task_status.started(peer)
                await trio.sleep_forever()

        return [await nursery.start(member, number) for number in range(count)]

    return connected


async def test_many_are_asked_about_in_less_time_than_one_after_the_other(autojump_clock, crowd):
    """Nobody keeps a right that is lost beyond that."""
    oracle = Oracle()
    async with open_engine(settings(), authorize=oracle) as engine:
        peers = await crowd(engine, 200)
        oracle.seconds = 0.02
        oracle.denied.add(TOPIC)
        began = trio.current_time()
        await engine.review()
        assert trio.current_time() - began == pytest.approx(200 / review.AT_ONCE * 2 * 0.02)
        await engine.publish(TOPIC, 1)
        await engine.publish(OTHER, 2)
        await settle()
        for peer in peers:
            told = [(push["type"], push["topic"]) for push in peer.pending()]
            assert told == [("unsubscribed", TOPIC), ("message", OTHER)]


async def test_what_a_rule_denies_is_gone_while_others_are_still_asked_about(autojump_clock, crowd):
    """Whoever is behind a slow function has no more of it."""
    oracle = Oracle()
    options = settings()
    async with open_engine(options, authorize=oracle) as engine, trio.open_nursery() as nursery:
        peers = await crowd(engine, 3)
        oracle.seconds = 1.0
        oracle.asked.clear()
        began = trio.current_time()
        nursery.start_soon(engine.reload, evolve(options, rules=({"topics": [TOPIC], "deny": ["join"]},)))
        for peer in peers:
            told = await peer.receive_type("unsubscribed")
            assert (told["topic"], told["code"]) == (TOPIC, "PERMISSION_DENIED")
        assert trio.current_time() == began
        await settle()
        assert {topic for _, _, topic in oracle.asked} == {OTHER}


async def test_function_that_hangs_ends_what_it_was_to_decide(autojump_clock, crowd):
    """After a time, for everybody; who wants it back asks again, as soon as there is an answer."""
    oracle = Oracle()
    with structlog.testing.capture_logs():
        async with open_engine(settings(authorize_timeout_seconds=100.0), authorize=oracle) as engine:
            peers = await crowd(engine, review.AT_ONCE + 10)
            oracle.seconds = 1000.0
            began = trio.current_time()
            await engine.review()
            assert trio.current_time() - began == pytest.approx(review.SECONDS)
            await engine.publish(TOPIC, "unheard")
            await settle()
            for peer in peers:
                told = [push for push in peer.pending() if push["type"] != "ping"]
                assert [(push["topic"], push["code"], push["resubscribe"]) for push in told] == [
                    (TOPIC, "UNAVAILABLE", True),
                    (OTHER, "UNAVAILABLE", True),
                ]
            oracle.seconds = 0.0
            assert (await peers[0].command("subscribe", topic=TOPIC))["type"] == "subscribed"


async def test_peer_that_a_function_hangs_about_holds_up_no_other(autojump_clock):
    """The one next to it is decided about at once."""

    async def authorize(identity: Identity, verb: Verb, topic: str) -> bool:
        if looking and identity.user == "slow":
            await trio.sleep_forever()
        return not looking

    looking = False
    with structlog.testing.capture_logs():
        async with (
            open_engine(settings(authorize_timeout_seconds=100.0), authorize=authorize) as engine,
            connect(engine, identity=Identity("slow")) as slow,
            connect(engine, identity=Identity("quick")) as quick,
            trio.open_nursery() as nursery,
        ):
            for peer in (slow, quick):
                await peer.command("subscribe", topic=TOPIC)
            looking = True
            began = trio.current_time()
            nursery.start_soon(engine.review)
            assert (await quick.receive_type("unsubscribed"))["code"] == "PERMISSION_DENIED"
            assert trio.current_time() == began
            assert (await slow.receive_type("unsubscribed"))["code"] == "UNAVAILABLE"
            assert trio.current_time() - began == pytest.approx(review.SECONDS)


# -- what is under way -------------------------------------------------------------------------------------------


async def test_right_that_goes_while_it_is_asked_about_is_asked_about_anew(autojump_clock):
    """The first answer was made before, and is not taken."""
    oracle = Oracle(1.0)
    async with open_engine(settings(), authorize=oracle) as engine, connect(engine, identity=ANN) as peer:
        identity = peer.send("subscribe", topic=TOPIC)
        await trio.sleep(0.5)
        oracle.denied.add("ann")
        await engine.review("ann")
        reply = await peer.receive_where(lambda push: push.get("id") == identity)
        assert reply["code"] == "PERMISSION_DENIED"
        assert oracle.asked == [("ann", Verb.JOIN, TOPIC)] * 2
        assert engine.hub._audiences == {}
        await engine.publish(TOPIC, 1)
        await settle()
        assert peer.pending() == []


@pytest.mark.parametrize("allowed", [True, False])
async def test_right_that_is_looked_at_while_history_is_read_is_asked_about_anew(allowed, autojump_clock):
    """Joined is who has it then; the other gets nothing."""
    oracle = Oracle()
    broker = SlowBroker(settings().all_kinds(), now_ms=lambda: 42)
    async with (
        open_engine(settings(), authorize=oracle, broker=broker) as engine,
        connect(engine, identity=ANN) as peer,
    ):
        broker.reading = trio.Event()
        identity = peer.send("subscribe", topic=TOPIC)
        await trio.sleep(1)
        if not allowed:
            oracle.denied.add("ann")
        await engine.review("ann")
        broker.reading.set()
        reply = await peer.receive_where(lambda push: push.get("id") == identity)
        assert (reply["type"], reply.get("code")) == (
            ("subscribed", None) if allowed else ("error", "PERMISSION_DENIED")
        )
        await engine.publish(TOPIC, 1)
        await trio.sleep(1)
        assert [push["type"] for push in peer.pending()] == ["message"] * allowed
        assert (engine.hub._audiences == {}) is not allowed


async def test_peer_that_arrives_does_not_slip_past_new_rules(autojump_clock):
    """It has one topic already and waits for the other, and stands in no list of connections yet."""
    broker = SlowBroker(settings().all_kinds(), now_ms=lambda: 42)
    async with open_engine(ruled(TOPIC, OTHER), broker=broker) as engine:
        wire = MemoryWire()
        wire.refused_in_band = True
        connection = Connection(engine, wire, identity=ANN)
        ends: list = []

        async def arrive() -> None:
            ends.append(await connection.run([Subscribe(TOPIC), Subscribe(OTHER)]))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(arrive)
            while TOPIC not in connection.session.subscriptions:
                await trio.sleep(0.001)
            broker.reading = trio.Event()
            await trio.sleep(1)
            assert list(connection.session.subscriptions) == [TOPIC]
            assert len(engine.connections) == 0
            await engine.reload(ruled(OTHER))
            await engine.publish(TOPIC, "secret")
            await trio.sleep(1)
            broker.reading.set()
        assert ends == [closing.FORBIDDEN]
        assert b"secret" not in await wire.take()
        assert engine.hub._audiences == {}


@pytest.mark.parametrize("in_band", [True, False])
async def test_peer_that_arrives_does_not_slip_past_a_function_that_has_changed_its_mind(in_band, autojump_clock):
    """It would have to be asked again: the peer is told to come back, and has got nothing."""
    oracle = Oracle()
    async with open_engine(settings(), authorize=oracle) as engine:
        wire = MemoryWire()
        wire.refused_in_band = in_band
        connection = Connection(engine, wire, identity=ANN)
        ends: list = []

        async def arrive() -> None:
            try:
                ends.append((await connection.run([Subscribe(TOPIC), Subscribe(OTHER)])).code)
            except CommandError as error:
                ends.append(error.code)

        async with trio.open_nursery() as nursery:
            oracle.seconds = 1.0
            nursery.start_soon(arrive)
            await trio.sleep(1.5)
            assert list(connection.session.subscriptions) == [TOPIC]
            oracle.denied.add(TOPIC)
            await engine.review("ann")
            await engine.publish(TOPIC, "secret")
        assert ends == [4103 if in_band else "UNAVAILABLE"]
        assert in_band is wire.opened
        if in_band:
            assert b"secret" not in await wire.take()
        assert engine.hub._audiences == {}
        assert len(engine.connections) == 0


async def test_peer_with_many_topics_arrives_where_a_function_decides(autojump_clock):
    """All that it may have, each with the history that it missed; more than is remembered about one peer."""
    oracle = Oracle()
    options = settings(kinds={"room": {"presence": "members"}})
    async with open_engine(options, authorize=oracle) as engine:
        wishes = [Subscribe(f"room:{number}", since=Since(last=1)) for number in range(options.max_topics)]
        async with attached(engine, identity=ANN, subscribe=wishes) as (connection, peer):
            assert len(peer.received[0]["topics"]) == options.max_topics
            assert len(connection.session.subscriptions) == options.max_topics


async def test_history_that_is_read_while_the_right_to_it_goes_is_not_told(autojump_clock):
    """The page was on its way."""
    broker = SlowBroker(settings().all_kinds(), now_ms=lambda: 42, longest=10.0)
    async with (
        open_engine(ruled(TOPIC), broker=broker) as engine,
        connect(engine, identity=ANN) as peer,
    ):
        await engine.publish(TOPIC, "secret")
        identity = peer.send("history", topic=TOPIC)
        await settle()
        await engine.reload(ruled(TOPIC, verbs=("join",)))
        reply = await peer.receive_where(lambda push: push.get("id") == identity)
        assert (reply["type"], reply["code"]) == ("error", "PERMISSION_DENIED")


async def test_request_that_waits_for_a_slot_is_refused_once_it_is_denied(autojump_clock):
    """The one that runs already goes on; of those that wait none begins."""
    actions, ran = Actions(), []

    async def work(number: int) -> int:
        ran.append(number)
        await trio.sleep(1)
        return number

    actions.register("work", work, concurrency=1)
    options = settings()
    async with open_engine(options, actions=actions) as engine, connect(engine, identity=ANN) as peer:
        sent = []
        for number in range(4):
            sent.append(peer.send("request", action="work", payload=number))
            await settle()
        await engine.reload(evolve(options, rules=({"actions": ["work"], "deny": ["request"]},)))
        replies = {}
        for _ in sent:
            reply = await peer.receive_where(lambda push: push["type"] in ("response", "error"))
            replies[reply["id"]] = reply.get("code") or reply["data"]
        assert [replies[identity] for identity in sent] == [0, *["PERMISSION_DENIED"] * 3]
        assert ran == [0]


# -- settings that do not fit ------------------------------------------------------------------------------------


def unfit() -> Settings:
    """Settings without a fault in themselves, whose rules are about a kind that the running server does not have."""
    _, line = new_key("other", [Right.READ])
    return settings(
        kinds={"room": {"presence": "none"}, "order": {}},
        rules=({"topics": ["order:*"], "allow": ["join"]}, {"topics": [TOPIC], "deny": ["join"]}),
        origins=("https://evil.example",),
        api_keys=(line,),
    )


async def test_settings_that_do_not_fit_are_not_taken_over_in_part(autojump_clock):
    """Rules, keys and origins are as before, and so is what peers have."""
    options = settings(origins=("https://app.example",))
    async with open_engine(options) as engine, connect(engine, identity=ANN) as peer:
        await peer.command("subscribe", topic=TOPIC)
        before = (engine.settings, engine.api_keys, engine.gate.policy)
        with pytest.raises(ConfigurationError, match="order"):
            await engine.reload(unfit())
        after = (engine.settings, engine.api_keys, engine.gate.policy)
        assert all(one is other for one, other in zip(before, after, strict=True))
        await engine.publish(TOPIC, 1)
        await settle()
        assert [push["type"] for push in peer.pending()] == ["message"]


async def test_signal_with_settings_that_do_not_fit_is_survived(autojump_clock):
    """The log says what is wrong; the next signal, with the fault gone, is heeded."""
    options = settings()
    files = [unfit(), evolve(options, origins=("https://app.example",))]

    async def signalled(engine, event: str) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        with trio.fail_after(10):
            while not any(entry["event"] == event for entry in entries):
                await trio.sleep(0.01)

    with structlog.testing.capture_logs() as entries:
        async with open_engine(options) as engine, trio.open_nursery() as nursery:
            await nursery.start(reload_when_signalled, engine, lambda: files.pop(0))
            await signalled(engine, "the settings are not taken over")
            assert "order" in entries[0]["fault"]
            assert engine.settings is options
            await signalled(engine, "settings taken over")
            assert engine.settings.origins == ("https://app.example",)
            nursery.cancel_scope.cancel()


# -- polls -------------------------------------------------------------------------------------------------------


async def test_poll_that_nobody_decides_about_is_ended(autojump_clock):
    """With the advice to come back; one of somebody else that was confirmed goes on."""

    async def authorize(identity: Identity, verb: Verb, topic: str) -> bool:
        if looking and identity.user == "ann":
            await trio.sleep_forever()
        return True

    looking = False
    ends: dict = {}
    with structlog.testing.capture_logs():
        async with (
            open_engine(settings(authorize_timeout_seconds=100.0), authorize=authorize) as engine,
            trio.open_nursery() as nursery,
        ):

            async def ask(user: str) -> None:
                try:
                    answer = await poll(engine, Identity(user), Poll([Subscribe(TOPIC)], seconds=50.0))
                    ends[user] = len(answer["messages"])
                except CommandError as error:
                    ends[user] = (error.code, error.retry_after)

            for user in ("ann", "bob"):
                nursery.start_soon(ask, user)
            await settle()
            looking = True
            began = trio.current_time()
            await engine.review()
            assert trio.current_time() - began == pytest.approx(review.SECONDS)
            await engine.publish(TOPIC, 1)
            await settle()
            assert ends == {"ann": ("UNAVAILABLE", 1.0), "bob": 1}
