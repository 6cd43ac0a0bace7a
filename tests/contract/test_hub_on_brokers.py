"""The hub on each broker: history and live messages join, and losses are told."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from realtime import Lost, Mode, Position, Settings, Since, open_engine
from realtime.testing import connect
from tests.tools import brief

TOPIC = "room:a"
SETTINGS = Settings(dev=True, outbox_messages=10_000, recover_limit=10_000)


async def publish(engine, count: int, *, every: float = 0.005) -> None:
    """Publish so many messages, one after the other."""
    for number in range(count):
        await engine.publish(TOPIC, number)
        await trio.sleep(every)


async def test_joining_while_messages_come_has_no_gap_and_no_duplicate(broker, autojump_clock):
    """Subscribers that recover from any place at any time get each message once, in order."""
    async with open_engine(SETTINGS, broker=broker) as engine:
        start = await engine.publish(TOPIC, "first")
        results: list[list] = []

        async def join(after: int, at: float) -> None:
            await trio.sleep(at)
            since = Since(Position(start.epoch, after))
            found: list = []
            async with engine.subscribe(TOPIC, since=since) as messages:
                async for message in messages:
                    found.append(message.offset)
                    if message.offset == 101:
                        break
            results.append([after, found])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish, engine, 100)
            for number in range(20):
                nursery.start_soon(join, number % 2, number * 0.05)
    assert len(results) == 20
    for after, found in results:
        assert found == list(range(after + 1, 102))


async def test_crowd_that_joins_together_gets_everything_from_its_place_on(broker, autojump_clock):
    """Without recovery a subscription starts behind its position, exactly."""
    async with open_engine(SETTINGS, broker=broker) as engine, trio.open_nursery() as nursery:
        nursery.start_soon(publish, engine, 100)
        results = []

        async def join() -> None:
            await trio.sleep(0.5)
            async with connect(engine) as peer:
                reply = await peer.command("subscribe", topic=TOPIC)
                await trio.sleep(30)
                results.append(
                    (reply["offset"], [push["offset"] for push in peer.pending() if push["type"] == "message"])
                )

        async with trio.open_nursery() as crowd:
            for _ in range(10):
                crowd.start_soon(join)
        nursery.cancel_scope.cancel()
    for offset, found in results:
        assert found == list(range(offset + 1, 101))


async def test_injected_loss_becomes_an_exact_gap(slow_broker, autojump_clock):
    """A jump in the offsets of the broker is a gap of reason upstream, in its place."""
    slow_broker.lose(TOPIC, 4, 6)
    slow_broker.lose(TOPIC, 9, 9)
    async with open_engine(SETTINGS, broker=slow_broker) as engine, connect(engine) as peer:
        await peer.command("subscribe", topic=TOPIC)
        await publish(engine, 10, every=1)
        await trio.sleep(5)
        found = [push for push in peer.pending() if push["type"] != "ping"]
        assert [brief(push) for push in found] == [1, 2, 3, (4, 6, 3), 7, 8, (9, 9, 1), 10]
        assert {push["reason"] for push in found if push["type"] == "gap"} == {"upstream"}
        stats = await peer.command("stats")
        assert (stats["subscriptions"][0]["delivered"], stats["subscriptions"][0]["dropped"]) == (6, 4)
        assert engine.statistics().hub.dropped == {"upstream": 4}
        assert engine.statistics().hub.gaps == {"upstream": 2}


async def test_loss_of_the_first_messages_becomes_a_gap(slow_broker, autojump_clock):
    """A subscriber of an empty topic expects the first message, too."""
    slow_broker.lose(TOPIC, 1, 2)
    async with open_engine(SETTINGS, broker=slow_broker) as engine, connect(engine) as peer:
        await peer.command("subscribe", topic=TOPIC)
        await publish(engine, 3, every=1)
        await trio.sleep(5)
        assert [brief(push) for push in peer.pending() if push["type"] != "ping"] == [(1, 2, 2), 3]


@pytest.mark.parametrize("mode", list(Mode))
async def test_losses_within_one_turn_become_gaps_in_their_places(autojump_clock, mode):
    """Messages that reach the hub together are looked at one by one."""
    async with open_engine(SETTINGS) as engine:
        async with engine.subscribe(TOPIC, mode=mode) as messages:
            broker = engine.broker
            put, lost = engine.ingress.put_nowait, {2, 3, 6}
            engine.ingress.put_nowait = lambda one: None if one.offset in lost else put(one)
            for number in range(8):
                broker.publish_nowait(TOPIC, _draft(number))
            found = [await anext(messages) for _ in range(3 if mode is Mode.ALL else 4)]
            await trio.testing.wait_all_tasks_blocked()
            with trio.move_on_after(1):
                async for message in messages:
                    found.append(message)
    told = [(one.first, one.last, one.count) if isinstance(one, Lost) else one.offset for one in found]
    if mode is Mode.ALL:
        assert told == [1, (2, 3, 2), 4, 5, (6, 6, 1), 7, 8]
    else:
        assert told == [1, (2, 3, 2), 5, (6, 6, 1), 8]


def _draft(number: int):
    from realtime import Draft

    return Draft(b"%d" % number, key="k")


async def test_loss_while_history_is_read_becomes_a_gap(slow_broker, autojump_clock):
    """What was lost between the page and the first live message is told as well."""
    slow_broker.reading = trio.Event()
    async with open_engine(SETTINGS, broker=slow_broker) as engine, connect(engine) as peer:
        identity = peer.send("subscribe", topic=TOPIC)
        while not slow_broker.reads:
            await trio.sleep(0.1)
        await trio.sleep(1)
        slow_broker.lose(TOPIC, 2, 3)
        slow_broker.lose(TOPIC, 5, 6)
        await publish(engine, 7, every=0)
        await trio.sleep(5)
        slow_broker.reading.set()
        await peer.receive_where(lambda push: push.get("id") == identity)
        await trio.sleep(1)
        assert [brief(push) for push in peer.pending() if push["type"] != "ping"] == [1, (2, 3, 2), 4, (5, 6, 2), 7]


async def test_more_live_messages_than_are_kept_while_history_is_read_become_a_gap(
    slow_broker, autojump_clock, monkeypatch
):
    """The buffer of a join is bounded, and what does not fit is told."""
    monkeypatch.setattr("realtime.hub.MAX_WAITING", 3)
    slow_broker.reading = trio.Event()
    async with open_engine(SETTINGS, broker=slow_broker) as engine, connect(engine) as peer:
        peer.send("subscribe", topic=TOPIC)
        await trio.sleep(1)
        await publish(engine, 10, every=0)
        await trio.sleep(5)
        slow_broker.reading.set()
        await trio.sleep(1)
        assert [brief(push) for push in peer.pending() if push["type"] != "ping"] == ["subscribed", (1, 7, 7), 8, 9, 10]


async def test_welcome_of_a_connection_that_arrives_subscribed_tells_where_it_starts(slow_broker, autojump_clock):
    """Not where the topic has come to meanwhile: those messages are still to be sent."""
    from realtime.wishes import Subscribe

    slow_broker.reading = trio.Event()
    async with open_engine(SETTINGS, broker=slow_broker) as engine, trio.open_nursery() as nursery:
        nursery.start_soon(publish, engine, 5)

        async def let_go() -> None:
            await trio.sleep(5)
            slow_broker.reading.set()

        nursery.start_soon(let_go)
        async with connect(engine, subscribe=[Subscribe(TOPIC)]) as peer:
            await trio.sleep(1)
            welcome = peer.received[0]
            (standing,) = welcome["topics"]
            assert standing["topic"] == TOPIC
            assert [brief(push) for push in peer.received[1:]] == list(range(standing["offset"] + 1, 6))


async def test_what_a_paced_subscriber_waits_for_comes_before_a_loss(slow_broker, autojump_clock):
    """The gap stands in its place, and every message is accounted for."""
    slow_broker.lose(TOPIC, 4, 6)
    async with open_engine(SETTINGS, broker=slow_broker) as engine, connect(engine) as peer:
        await peer.command("subscribe", topic=TOPIC, max_rate=1 / 60)
        for key in "abcdefgh":
            await engine.publish(TOPIC, 1, key=key)
        await trio.sleep(30)
        assert [brief(push) for push in peer.pending() if push["type"] in ("message", "gap")] == [1, 2, 3, (4, 6, 3)]
        await trio.sleep(200)
        assert [brief(push) for push in peer.pending() if push["type"] in ("message", "gap")] == [7, 8]
        (counters,) = (await peer.command("stats"))["subscriptions"]
        assert (counters["delivered"], counters["dropped"], counters["queued"]) == (5, 3, 0)


@pytest.mark.parametrize("options", [{}, {"max_rate": 20}, {"mode": "latest"}])
async def test_joining_while_messages_come_counts_every_message(options, broker, autojump_clock):
    """Under whatever rate, with whatever is left out."""
    async with open_engine(SETTINGS, broker=broker) as engine, connect(engine) as peer, trio.open_nursery() as nursery:
        start = await engine.publish(TOPIC, "first")
        nursery.start_soon(publish, engine, 100)
        await trio.sleep(0.2)
        place = {"epoch": start.epoch, "offset": 1}
        await peer.command("subscribe", topic=TOPIC, recover=place, filter={"not": {"exists": "x"}}, **options)
        await trio.sleep(20)
        offsets = [push["offset"] for push in peer.pending() if push["type"] == "message"]
        assert offsets == sorted(set(offsets))
        assert offsets[-1] == 101
        (counters,) = (await peer.command("stats"))["subscriptions"]
        assert counters["delivered"] == len(offsets)
        assert counters["delivered"] + counters["conflated"] + counters["filtered"] == 100
        assert options or len(offsets) == 100
