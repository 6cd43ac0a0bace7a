"""``max_rate``: groups that hold back, and the clock that lets them go."""

from __future__ import annotations

import itertools

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from realtime import Identity, Mode, Settings, open_engine
from realtime.filters import parse_filter
from realtime.group import Group
from realtime.testing import connect
from realtime.views import EVERYTHING, View
from tests.tools import LINES, follow, publication, settle, total

SETTINGS = Settings(dev=True, ping_interval_seconds=1e6)
TOPIC = "room:a"


def session_of(engine):
    """The session of the only connection."""
    (connection,) = engine.connections
    return connection.session


async def publish(engine, topic: str, data, **options) -> None:
    """Publish in a turn of its own: what one turn brings is conflated before anything leaves."""
    await engine.publish(topic, data, **options)
    await settle()


# -- group -------------------------------------------------------------------------------------------------------


def test_group_holds_the_newest_of_each_key_oldest_first():
    """What has no key is one key."""
    group = Group(EVERYTHING, LINES, 4.0)
    group.hold([publication(1, key="a"), publication(2, key="b"), publication(3), publication(4, key="a")])
    group.hold([publication(5)])
    assert [one.offset for one in group.held.values()] == [2, 4, 5]
    assert [one.offset for one in group.held_after(2)] == [4, 5]
    assert (group.shown, group.hidden) == (5, 0)
    assert group.release(10.0).offset == 2
    assert group.free_at == 10.25


def test_group_holds_nothing_that_its_view_does_not_show():
    """It counts what it hides."""
    group = Group(View.of(["n"], parse_filter(b'{">":["n",2]}')), LINES, 1.0)
    group.hold([publication(offset) for offset in range(1, 5)])
    assert ([one.offset for one in group.held.values()], group.shown, group.hidden) == ([4], 2, 2)


# -- pacing ------------------------------------------------------------------------------------------------------


async def test_paced_subscriber_gets_its_rate_and_the_newest_value(autojump_clock):
    """A thousand a second become five; the first comes at once, the last one in the end."""
    async with open_engine(SETTINGS) as engine, connect(engine) as peer, trio.open_nursery() as nursery:
        seen: list = []
        await peer.command("subscribe", topic=TOPIC, max_rate=5)
        nursery.start_soon(follow, peer, seen)
        began = trio.current_time()
        for number in range(1000):
            await publish(engine, TOPIC, number)
            await trio.sleep(0.001)
        await trio.sleep(1)
        times = [time for time, _ in seen]
        offsets = [push["offset"] for _, push in seen]
        assert times[0] == began
        assert all(later - earlier >= 0.2 - 1e-9 for earlier, later in itertools.pairwise(times))
        assert 6 <= len(seen) <= 7
        assert offsets == sorted(set(offsets))
        assert offsets[-1] == 1000
        nursery.cancel_scope.cancel()


async def test_message_after_a_quiet_time_leaves_at_once(autojump_clock):
    """A rate is a limit, not a delay."""
    async with open_engine(SETTINGS) as engine, connect(engine) as peer, trio.open_nursery() as nursery:
        seen: list = []
        await peer.command("subscribe", topic=TOPIC, max_rate=2)
        nursery.start_soon(follow, peer, seen)
        published = []
        for _ in range(3):
            published.append(trio.current_time())
            await publish(engine, TOPIC, 1)
            await trio.sleep(3)
        assert [time for time, _ in seen] == published
        nursery.cancel_scope.cancel()


async def test_each_key_gets_its_newest_value_within_the_one_rate(autojump_clock):
    """The rate is of the subscription and not of each key; values wait in the order in which they were published."""
    async with open_engine(SETTINGS) as engine, connect(engine) as peer, trio.open_nursery() as nursery:
        seen: list = []
        await peer.command("subscribe", topic=TOPIC, max_rate=1)
        nursery.start_soon(follow, peer, seen)
        began = trio.current_time()
        for round_ in range(3):
            for key in "abc":
                await publish(engine, TOPIC, round_, key=key)
        await trio.sleep(10)
        assert [(round(time - began, 2), push["key"], push["data"]) for time, push in seen] == [
            (0.0, "a", 0),
            (1.0, "a", 2),
            (2.0, "b", 2),
            (3.0, "c", 2),
        ]
        nursery.cancel_scope.cancel()


async def test_subscribers_of_equal_view_and_rate_share_one_group(autojump_clock):
    """Who comes late is not given values that are older than its coming, and its sums are right."""
    async with open_engine(SETTINGS) as engine, connect(engine) as early, connect(engine) as late:
        await early.command("subscribe", topic=TOPIC, max_rate=1)
        for key in "abc":
            await publish(engine, TOPIC, 1, key=key)
        await settle()
        assert (await late.command("subscribe", topic=TOPIC, max_rate=1))["offset"] == 3
        assert len(engine.hub._audiences[TOPIC].groups) == 1
        await publish(engine, TOPIC, 2, key="a")
        await settle()
        sums = [total(connection.session.subscriptions[TOPIC]) for connection in engine.connections]
        assert sums == [4, 1]
        await trio.sleep(10)
        offsets = [[push["offset"] for push in peer.pending() if push["type"] == "message"] for peer in (early, late)]
        assert offsets == [[1, 2, 3, 4], [4]]
        counters = [connection.session.subscriptions[TOPIC] for connection in engine.connections]
        assert [(one.delivered, one.conflated, one.held) for one in counters] == [(4, 0, 0), (1, 0, 0)]


@pytest.mark.parametrize("change", [{"max_rate": None}, {"max_rate": 2}])
async def test_late_subscriber_that_changes_its_rate_is_not_given_older_values_either(change, autojump_clock):
    """What its group held before it came is not its own."""
    async with open_engine(SETTINGS) as engine, connect(engine) as early, connect(engine) as late:
        await early.command("subscribe", topic=TOPIC, max_rate=0.1)
        for key in "abc":
            await publish(engine, TOPIC, 1, key=key)
        await late.command("subscribe", topic=TOPIC, max_rate=0.1)
        await publish(engine, TOPIC, 2, key="d")
        await late.command("update", topic=TOPIC, **change)
        await trio.sleep(5)
        assert [push["offset"] for push in late.pending() if push["type"] == "message"] == [4]
        assert [total(one.session.subscriptions[TOPIC]) for one in engine.connections] == [4, 1]


async def test_mode_that_is_asked_for_holds_when_the_rate_is_no_longer_limited(autojump_clock):
    """Until then the newest value wins, whatever is asked for."""
    async with open_engine(SETTINGS) as engine, connect(engine) as peer:
        await peer.command("subscribe", topic=TOPIC, max_rate=1)
        subscription = session_of(engine).subscriptions[TOPIC]
        modes = [subscription.mode]
        for change in ({"max_rate": None}, {"max_rate": 1, "mode": "latest"}, {"max_rate": None}, {"mode": "all"}):
            await peer.command("update", topic=TOPIC, **change)
            modes.append(subscription.mode)
        assert modes == [Mode.LATEST, Mode.ALL, Mode.LATEST, Mode.LATEST, Mode.ALL]


async def test_groups_of_different_rates_go_by_their_own_clocks(autojump_clock):
    """The nearest is let go first, whichever was scheduled first."""
    async with open_engine(SETTINGS) as engine, trio.open_nursery() as nursery:
        seen: dict[float, list] = {}

        async def member(rate: float, task_status) -> None:
            async with connect(engine) as peer:
                await peer.command("subscribe", topic=TOPIC, max_rate=rate)
                task_status.started()
                await follow(peer, seen.setdefault(rate, []))

        for rate in (0.5, 10, 2):
            await nursery.start(member, rate)
        began = trio.current_time()
        for number in range(2):
            await publish(engine, TOPIC, number)
        await trio.sleep(5)
        assert {rate: [round(time - began, 1) for time, _ in found] for rate, found in seen.items()} == {
            0.5: [0.0, 2.0],
            10: [0.0, 0.1],
            2: [0.0, 0.5],
        }
        nursery.cancel_scope.cancel()


async def test_stats_count_what_is_held_as_queued(autojump_clock):
    """What waits for its time waits."""
    async with open_engine(SETTINGS) as engine, connect(engine) as peer:
        await peer.command("subscribe", topic=TOPIC, max_rate=1, filter={"exists": "n"})
        for key in (None, "a", "a", "b"):
            await publish(engine, TOPIC, {"n": 1}, key=key)
        await publish(engine, TOPIC, {"m": 1})
        stats = await peer.command("stats")
        assert stats["subscriptions"] == [
            {"topic": TOPIC, "delivered": 1, "dropped": 0, "conflated": 1, "filtered": 1, "queued": 2}
        ]
        assert engine.statistics().hub.conflated == 1


async def test_update_to_no_rate_and_back_keeps_order_and_sums(autojump_clock):
    """What was held comes first, then everything; the mode is again the one that was asked for."""
    async with open_engine(SETTINGS) as engine, connect(engine) as peer:
        await peer.command("subscribe", topic=TOPIC, max_rate=1)
        for number in range(5):
            await publish(engine, TOPIC, number, key=str(number % 3))
        await peer.command("update", topic=TOPIC, max_rate=None)
        for number in range(3):
            await publish(engine, TOPIC, number, key="k")
        await peer.command("update", topic=TOPIC, max_rate=2)
        for number in range(3):
            await publish(engine, TOPIC, number, key="k")
        await settle()
        subscription = session_of(engine).subscriptions[TOPIC]
        assert total(subscription) == 11
        await trio.sleep(5)
        assert [push["offset"] for push in peer.pending() if push["type"] == "message"] == [1, 3, 4, 5, 6, 7, 8, 9, 11]
        assert (subscription.delivered, subscription.conflated, total(subscription)) == (9, 2, 11)


async def test_what_is_held_when_its_reader_is_told_to_go_is_said_first(autojump_clock):
    """A goodbye is the last word; the group without members is forgotten, its appointment harms nobody."""
    from realtime import closing

    async with open_engine(SETTINGS) as engine:
        async with connect(engine, identity=Identity()) as peer:
            await peer.command("subscribe", topic=TOPIC, max_rate=0.1)
            for number in range(3):
                await publish(engine, TOPIC, number)
            await settle()
            (connection,) = engine.connections
            connection.close(closing.SHUTTING_DOWN)
            await peer.wait_closed()
            await settle()
            assert [push.get("offset") for push in peer.received if push["type"] == "message"] == [1, 3]
        assert engine.hub._audiences == {}
        await trio.sleep(60)
        async with connect(engine) as peer:
            await peer.command("subscribe", topic=TOPIC, max_rate=0.1)
            await publish(engine, TOPIC, 1)
            assert (await peer.receive_type("message"))["offset"] == 4


async def test_unsubscribing_throws_away_what_is_held(autojump_clock):
    """Nothing comes after the answer."""
    async with open_engine(SETTINGS) as engine, connect(engine) as peer:
        await peer.command("subscribe", topic=TOPIC, max_rate=1)
        for number in range(3):
            await publish(engine, TOPIC, number)
        await peer.command("unsubscribe", topic=TOPIC)
        peer.pending()
        await trio.sleep(10)
        assert [push for push in peer.pending() if push["type"] == "message"] == []


step = st.tuples(
    st.sampled_from([0.0, 0.0, 0.01, 0.3, 2.5]), st.sampled_from([None, "a", "b"]), st.sampled_from(["n", "n", "m"])
)


@given(rate=st.sampled_from([1 / 60, 0.5, 3.0, 7.3, 1000.0]), program=st.lists(step, min_size=1, max_size=40))
def test_whatever_is_published_no_window_has_more_than_the_rate(rate, program):
    """And the newest value of each key is the last of it that comes; at each step the sums are right."""

    async def main() -> None:
        async with open_engine(SETTINGS) as engine, connect(engine) as peer, trio.open_nursery() as nursery:
            seen: list = []
            await peer.command("subscribe", topic=TOPIC, max_rate=rate, fields=["n"])
            nursery.start_soon(follow, peer, seen)
            newest: dict[str | None, int] = {}
            subscription = session_of(engine).subscriptions[TOPIC]
            for count, (seconds, key, member) in enumerate(program, 1):
                await publish(engine, TOPIC, {member: count}, key=key)
                if member == "n":
                    newest[key] = count
                assert total(subscription) == count
                await trio.sleep(seconds)
            await trio.sleep(3 / rate + 1)
            times = [time for time, _ in seen]
            assert all(later - earlier >= 1 / rate - 1e-9 for earlier, later in itertools.pairwise(times))
            offsets = [push["offset"] for _, push in seen]
            assert offsets == sorted(set(offsets))
            assert {push.get("key"): push["data"]["n"] for _, push in seen} == newest
            assert (subscription.held, total(subscription)) == (0, len(program))
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("rate", [0, -1, 1001, "fast"])
async def test_rate_that_makes_no_sense_is_refused(rate, autojump_clock):
    """Once a minute to a thousand times a second."""
    async with open_engine(SETTINGS) as engine, connect(engine) as peer:
        assert (await peer.command("subscribe", topic=TOPIC, max_rate=rate))["code"] == "BAD_REQUEST"


async def test_group_that_nobody_is_in_any_more_holds_nothing(autojump_clock):
    """The pacer still comes for it; until then it must not keep what nobody waits for."""
    async with open_engine(SETTINGS) as engine, connect(engine) as peer, connect(engine) as other:
        await peer.command("subscribe", topic=TOPIC, max_rate=0.1)
        await other.command("subscribe", topic=TOPIC)
        for key in "abc":
            await publish(engine, TOPIC, 1, key=key)
        (group,) = [one for one in engine.hub._audiences[TOPIC].groups.values() if one.max_rate is not None]
        assert len(group.held) == 2
        await peer.command("unsubscribe", topic=TOPIC)
        assert (group.held, group.scheduled) == ({}, True)
        await trio.sleep(20)
        await publish(engine, TOPIC, 2)
        assert [push["offset"] for push in other.pending() if push["type"] == "message"] == [1, 2, 3, 4]
        assert not group.scheduled
