"""Routing: groups, large turns, slices."""

from __future__ import annotations

import itertools

import pytest
import trio
import trio.testing

from realtime import Overflow, Settings, Since, open_engine
from realtime.broker import Draft
from realtime.hub import FLUSH_SLICE, RUN_BYTES, TURN_MESSAGES, _stretches
from realtime.testing import connect
from realtime.topics import Kinds
from realtime.wishes import Subscribe
from tests.contract.slow_broker import SlowBroker
from tests.tools import ONE_TOPIC, attached, brief, publication, settle, total

SETTINGS = Settings(dev=True, outbox_messages=10_000, outbox_bytes=1 << 24)


def test_stretches_are_cut_at_holes():
    """Each stretch is consecutive, and nothing is lost."""
    offsets = [1, 2, 5, 7, 8, 9]
    stretches = _stretches([publication(offset) for offset in offsets])
    assert [[one.offset for one in stretch] for stretch in stretches] == [[1, 2], [5], [7, 8, 9]]
    assert _stretches([]) == []


async def test_subscribers_of_equal_view_share_the_bytes(autojump_clock):
    """Each view is encoded once, and each subscriber sees its own."""
    async with (
        open_engine(SETTINGS) as engine,
        connect(engine) as first,
        connect(engine) as second,
        connect(engine) as third,
    ):
        await first.command("subscribe", topic="room:a", fields=["x"])
        await second.command("subscribe", topic="room:a", fields=["x"])
        await third.command("subscribe", topic="room:a")
        assert len(engine.hub._audiences["room:a"].groups) == 2
        await engine.publish("room:a", {"x": 1, "y": 2})
        seen = [(await peer.receive_type("message"))["data"] for peer in (first, second, third)]
        assert seen == [{"x": 1}, {"x": 1}, {"x": 1, "y": 2}]


async def test_more_than_a_turn_of_messages_arrives_whole(autojump_clock):
    """Turns are bounded in messages and runs in bytes; nobody notices."""
    async with open_engine(SETTINGS) as engine, connect(engine) as peer:
        await peer.command("subscribe", topic="room:a")
        count = 3 * TURN_MESSAGES + 5
        for number in range(count):
            draft = Draft(b'"%b"' % (b"x" * (RUN_BYTES // 10)), key=str(number))
            engine.publisher.publish_json_nowait("room:a", draft)
        await settle()
        assert [brief(push) for push in peer.pending()] == list(range(1, count + 1))


async def test_more_outboxes_than_a_slice_are_all_flushed(autojump_clock):
    """Flushing a crowd is interrupted and goes on."""
    async with open_engine(SETTINGS) as engine, trio.open_nursery() as nursery:
        peers = []

        async def member(task_status) -> None:
            async with connect(engine) as peer:
                await peer.command("subscribe", topic="room:a")
                peers.append(peer)
                task_status.started()
                await trio.sleep_forever()

        for _ in range(FLUSH_SLICE + 5):
            await nursery.start(member)
        await engine.publish("room:a", 1)
        await settle()
        assert [[brief(push) for push in peer.pending()] for peer in peers] == [[1]] * (FLUSH_SLICE + 5)
        nursery.cancel_scope.cancel()


def slow_broker() -> SlowBroker:
    """A broker whose history takes its time."""
    clock = itertools.count(1)
    return SlowBroker(Kinds().with_options("room", join="anyone", publish="anyone"), now_ms=lambda: next(clock))


def offsets(peer) -> list[int]:
    """The messages that have come."""
    return [push["offset"] for push in peer.pending() if push["type"] == "message"]


def subscriptions(engine, topic: str = "room:a"):
    """The subscriptions of each connection, in the order in which these came."""
    return [connection.session.subscriptions[topic] for connection in engine.connections]


async def test_crowd_that_joins_behind_what_is_under_way_gets_what_comes_after_it(autojump_clock):
    """More than a turn of it: those who join have read it in history, or did not ask for it."""
    async with open_engine(SETTINGS) as engine:
        under_way = 2 * TURN_MESSAGES
        for _ in range(under_way):
            engine.publisher.publish_json_nowait("room:a", Draft(b"1"))
        async with (
            engine.subscribe("room:a") as first,
            engine.subscribe("room:a") as second,
            engine.subscribe("room:a", since=Since(last=1)) as third,
        ):
            assert engine.hub._audiences["room:a"].joining
            engine.publisher.publish_json_nowait("room:a", Draft(b"2"))
            await settle()
            assert not engine.hub._audiences["room:a"].joining
            await engine.publish("room:a", 3)
            found = [[(await anext(one)).offset for _ in range(count)] for one, count in ((first, 2), (second, 2))]
            assert found == [[under_way + 1, under_way + 2]] * 2
            assert [(await anext(third)).offset for _ in range(3)] == [under_way, under_way + 1, under_way + 2]


# -- echo --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"mode": "latest"}, {"max_rate": 1000}, {"fields": ["n"]}])
async def test_publisher_that_wants_no_echo_gets_none(options, autojump_clock):
    """All others get the message, and everybody's sums are right."""
    async with open_engine(SETTINGS) as engine, connect(engine) as speaker, connect(engine) as listener:
        for peer in (speaker, listener):
            await peer.command("subscribe", topic="room:a", **options)
        for echo in (True, False, True):
            await speaker.command("publish", topic="room:a", data={"n": 1}, echo=echo, key=str(echo))
            await settle()
        await trio.sleep(1)
        assert offsets(listener) == [1, 2, 3]
        assert offsets(speaker) == [1, 3]
        assert [(one.delivered, one.filtered) for one in subscriptions(engine)] == [(2, 1), (3, 0)]


async def test_publisher_gets_no_echo_while_it_reads_history(autojump_clock):
    """What came live meanwhile is looked at as well; what history holds is history."""
    broker = slow_broker()
    async with open_engine(SETTINGS, broker=broker) as engine, connect(engine) as peer:
        broker.reading = trio.Event()
        (connection,) = engine.connections
        identity = peer.send("subscribe", topic="room:a", recover={"last": 10})
        await trio.sleep(1)
        for origin in (None, connection.id, "c_other"):
            await engine.publisher.publish_json("room:a", Draft(b"1", origin=origin))
        await trio.sleep(1)
        broker.reading.set()
        await peer.receive_where(lambda push: push.get("id") == identity)
        await trio.sleep(1)
        assert offsets(peer) == [1, 3]
        (subscription,) = subscriptions(engine)
        assert (subscription.filtered, total(subscription)) == (1, 3)


@pytest.mark.parametrize("change", [{"max_rate": None}, {"max_rate": 5}])
async def test_own_message_that_is_held_is_no_echo_when_the_rate_changes(change, autojump_clock):
    """It is left out where its time never came."""
    async with open_engine(SETTINGS) as engine, connect(engine) as peer:
        await peer.command("subscribe", topic="room:a", max_rate=1)
        for key, echo in (("a", True), ("b", False), ("c", True)):
            await peer.command("publish", topic="room:a", data=1, key=key, echo=echo)
            await settle()
        await peer.command("update", topic="room:a", **change)
        await trio.sleep(5)
        assert offsets(peer) == [1, 3]
        (subscription,) = subscriptions(engine)
        assert (subscription.filtered, total(subscription)) == (1, 3)


# -- pushes that are no messages ---------------------------------------------------------------------------------


async def test_all_subscribers_of_a_topic_are_told_but_one(autojump_clock):
    """Also one that is behind, and at once where nothing else moves. In this process there is nobody to tell."""
    async with (
        open_engine(SETTINGS) as engine,
        connect(engine) as first,
        connect(engine, buffer_bytes=100) as second,
        connect(engine) as third,
        engine.subscribe("room:a"),
    ):
        for peer in (first, second):
            await peer.command("subscribe", topic="room:a", fields=["n"] if peer is first else None)
        await third.command("subscribe", topic="room:b")
        await trio.sleep(1)
        for peer in (first, second, third):
            peer.pending()
        second.stall()
        engine.hub.tell("room:a", "news", {"type": "news", "n": 1})
        engine.hub.tell("room:a", "news", {"type": "news", "n": 2}, but=next(iter(engine.connections)).id)
        engine.hub.tell("room:nobody", "news", {"type": "news"})
        await settle()
        second.resume()
        await settle()
        assert [[push["n"] for push in peer.pending()] for peer in (first, second, third)] == [[1], [1, 2], []]


async def test_nothing_is_told_of_a_topic_before_its_subscription_is_confirmed(autojump_clock):
    """Who is still reading history does not know yet that it is there."""
    broker = slow_broker()
    async with open_engine(SETTINGS, broker=broker) as engine, connect(engine) as peer:
        broker.reading = trio.Event()
        peer.send("subscribe", topic="room:a")
        await trio.sleep(1)
        engine.hub.tell("room:a", "news", {"type": "news"})
        await trio.sleep(1)
        broker.reading.set()
        await trio.sleep(1)
        engine.hub.tell("room:a", "news", {"type": "news"})
        await trio.sleep(1)
        assert [push["type"] for push in peer.pending() if push["type"] != "join"] == ["subscribed", "news"]


# -- what has been routed ----------------------------------------------------------------------------------------


async def test_waiting_for_a_message_ends_when_it_is_with_its_subscribers(autojump_clock):
    """And not before; where nobody subscribes there is nothing to wait for."""
    async with open_engine(SETTINGS) as engine, trio.open_nursery() as nursery:
        await engine.hub.wait_routed("room:a", 5)
        order: list[str] = []

        async def wait(offset: int) -> None:
            await engine.hub.wait_routed("room:a", offset)
            order.append(f"routed {offset}")

        async with connect(engine) as peer:
            await peer.command("subscribe", topic="room:a")
            for offset in (2, 1, 2):
                nursery.start_soon(wait, offset)
            await settle()
            for number in range(2):
                order.append(f"published {number + 1}")
                await engine.publish("room:a", number)
                await settle()
            await engine.hub.wait_routed("room:a", 2)
            nursery.start_soon(wait, 9)
            await settle()
            assert order[:3] == ["published 1", "routed 1", "published 2"]
            assert sorted(order[3:]) == ["routed 2", "routed 2"]
        await settle()
        assert order[-1] == "routed 9"


async def test_first_subscriber_and_last_are_announced(autojump_clock):
    """Once each, however many there are between."""
    async with open_engine(SETTINGS) as engine:
        told: list = []
        engine.hub.on_audience = lambda topic, there: told.append((topic, there))
        async with engine.subscribe("room:a"):
            async with engine.subscribe("room:a"), engine.subscribe("room:b"):
                assert told == [("room:a", True), ("room:b", True)]
            assert told[2:] == [("room:b", False)]
        assert told[3:] == [("room:a", False)]


# -- other framing -----------------------------------------------------------------------------------------------


def stream_of(peer) -> list:
    """Offsets and cursors, as positions of topics, in the order in which they came."""
    from realtime.history import decode_cursor

    found: list = []
    for push in peer.received:
        if push["type"] == "message":
            found.append((push["topic"], push["offset"]))
        elif push["type"] == "cursor":
            found.append({topic: at.offset for topic, at in decode_cursor(push["cursor"]).items()})
    return found


async def test_second_topic_has_all_messages_carry_the_cursor_of_both(autojump_clock):
    """Also those that wait, without taking the reader past anything: wherever it stops, it can go on."""
    async with open_engine(SETTINGS) as engine, attached(engine, framing=ONE_TOPIC, buffer_bytes=400) as (one, peer):
        await peer.command("subscribe", topic="room:a")
        await engine.publish("room:a", "x" * 300)
        await settle()
        peer.stall()
        for number in range(5):
            await engine.publish("room:a", "x" * 300 + str(number))
        await settle()
        waiting = one.session.subscriptions["room:a"].queued
        assert waiting
        peer.send("subscribe", topic="room:b")
        await settle()
        await engine.publish("room:b", 1)
        await engine.publish("room:a", 7)
        await settle()
        peer.resume()
        await settle()
        stream = stream_of(peer)
        messages = [entry for entry in stream if isinstance(entry, tuple)]
        assert [offset for topic, offset in messages if topic == "room:a"] == [1, 2, 3, 4, 5, 6, 7]
        assert ("room:b", 1) in messages
        # Behind each cursor that names a message comes that message, or has come just before.
        place: dict[str, int] = {"room:a": 0, "room:b": 0}
        for entry, following in zip(stream, [*stream[1:], None], strict=True):
            if isinstance(entry, tuple):
                place[entry[0]] = entry[1]
            else:
                ahead = {topic: at for topic, at in entry.items() if at != place[topic]}
                assert not ahead or list(ahead.items()) == [following]
        assert place == {"room:a": 7, "room:b": 1}


async def test_second_topic_that_comes_while_the_first_is_joined_changes_the_cursors_as_well(autojump_clock):
    """Neither is a subscription yet, and there will be two."""
    broker = slow_broker()
    async with (
        open_engine(SETTINGS, broker=broker) as engine,
        attached(engine, framing=ONE_TOPIC) as (connection, peer),
        trio.open_nursery() as nursery,
    ):
        broker.reading = trio.Event()
        peer.send("subscribe", topic="room:a")
        nursery.start_soon(connection.membership.place, Subscribe("room:b"))
        await trio.sleep(1)
        broker.reading.set()
        await trio.sleep(1)
        for topic in ("room:a", "room:b"):
            await engine.publish(topic, 1)
        await trio.sleep(1)
        cursors = [entry for entry in stream_of(peer) if isinstance(entry, dict)]
        assert cursors[-1] == {"room:a": 1, "room:b": 1}


@pytest.mark.parametrize("options", [{"mode": "latest"}, {"max_rate": 1}])
async def test_newest_values_that_wait_are_framed_anew(options, autojump_clock):
    """Those in the outbox and those in a paced group."""
    async with open_engine(SETTINGS) as engine, attached(engine, framing=ONE_TOPIC, buffer_bytes=100) as (one, peer):
        await peer.command("subscribe", topic="room:a", **options)
        peer.stall()
        for number in range(4):
            await engine.publish("room:a", "x" * 200, key=str(number))
            await settle()
        subscription = one.session.subscriptions["room:a"]
        place = engine.hub.place_of(subscription)
        assert 0 < place.offset < 4
        peer.send("subscribe", topic="room:b")
        await settle()
        assert (total(subscription), engine.hub.place_of(subscription)) == (4, place)
        assert one.outbox.bytes == sum(len(frame.data) for frame in subscription.newest.values())
        peer.resume()
        await trio.sleep(5)
        stream = stream_of(peer)
        for entry, following in itertools.pairwise(stream):
            if isinstance(entry, dict) and "room:b" in entry:
                assert following == ("room:a", entry["room:a"])
        assert [entry[1] for entry in stream if isinstance(entry, tuple)] == [1, 2, 3, 4]


async def test_topic_that_has_not_caught_up_is_framed_anew_without_losing_its_place(autojump_clock):
    """What is under way to it comes with the cursor of both."""
    async with open_engine(SETTINGS) as engine, attached(engine, framing=ONE_TOPIC) as (connection, peer):
        for _ in range(3):
            engine.publisher.publish_json_nowait("room:a", Draft(b"1"))
        await connection.membership.place(Subscribe("room:a"))
        await connection.membership.place(Subscribe("room:b"))
        engine.publisher.publish_json_nowait("room:a", Draft(b"2"))
        await settle()
        assert stream_of(peer)[-2:] == [{"room:a": 4, "room:b": 0}, ("room:a", 4)]


async def test_gap_that_waits_keeps_its_place_when_it_is_framed_anew(autojump_clock):
    """Two that come together, because nothing between them is shown any more, are one."""
    options = Settings(dev=True, outbox_messages=2, kinds={"room": {"overflow": "drop_oldest"}})
    async with open_engine(options) as engine, attached(engine, framing=ONE_TOPIC, buffer_bytes=50) as (one, peer):
        await peer.command("subscribe", topic="room:a")
        peer.stall()
        for number in range(6):
            await engine.publish("room:a", {"n": number})
            await settle()
        subscription = one.session.subscriptions["room:a"]
        lost = subscription.dropped_total
        assert lost
        peer.send("update", topic="room:a", fields=["m"])
        peer.send("subscribe", topic="room:b")
        await settle()
        assert (subscription.queued, one.outbox.messages, one.outbox.bytes) == (0, 0, 0)
        assert total(subscription) == 6
        peer.resume()
        await settle()
        gaps = [push["count"] for push in peer.received if push["type"] == "gap"]
        assert gaps == [lost]


async def test_message_that_the_view_shows_no_more_is_left_out_when_it_is_framed_anew(autojump_clock):
    """It waited while the view was changed. The sums of the outbox and of the subscription are right."""
    async with open_engine(SETTINGS) as engine, attached(engine, framing=ONE_TOPIC, buffer_bytes=100) as (one, peer):
        await peer.command("subscribe", topic="room:a")
        peer.stall()
        for name in "xyxyx":
            await engine.publish("room:a", {name: "z" * 200})
            await settle()
        peer.send("update", topic="room:a", fields=["y"])
        peer.send("subscribe", topic="room:b")
        await settle()
        subscription = one.session.subscriptions["room:a"]
        assert total(subscription) == 5
        assert subscription.filtered
        assert one.outbox.messages == subscription.queued
        peer.resume()
        await settle()
        assert (one.outbox.messages, one.outbox.bytes) == (0, 0)
        assert (total(subscription), subscription.queued) == (5, 0)
        seen = [push["data"] for push in peer.received if push["type"] == "message"]
        assert len(seen) == subscription.delivered
        assert [list(data) for data in seen][-2:] == [["y"], ["y"]]


# -- a topic that comes back -------------------------------------------------------------------------------------


def halls(**options):
    """Settings with a kind whose topics must exist."""
    return Settings(dev=True, kinds={"hall": {"must_exist": True, "join": "anyone", "publish": "anyone", **options}})


async def test_messages_of_a_removed_topic_do_not_reach_its_next_life(autojump_clock):
    """Neither those under way to the hub, nor what a reader in this process had not read."""
    async with open_engine(halls()) as engine:
        engine.create_topic("hall:a")
        async with engine.subscribe("hall:a") as slow:
            for number in range(5):
                await engine.publish("hall:a", number)
            await settle()
            engine.publisher.publish_json_nowait("hall:a", Draft(b'"under way"'))
            engine.drop_topic("hall:a")
            engine.create_topic("hall:a")
            async with connect(engine) as peer:
                assert (await peer.command("subscribe", topic="hall:a", max_rate=1000))["offset"] == 0
                for number in range(3):
                    await engine.publish("hall:a", f"new {number}", key=str(number))
                await trio.sleep(1)
                seen = [(push["offset"], push["data"]) for push in peer.pending() if push["type"] == "message"]
                assert seen == [(1, "new 0"), (2, "new 1"), (3, "new 2")]
                assert total(subscriptions(engine, "hall:a")[0]) == 3
            found = []
            with pytest.raises(Exception, match="ROOM_NOT_FOUND"):
                async for message in slow:
                    found.append(message.data)
            assert found == [0, 1, 2, 3, 4]


async def test_message_under_way_when_its_topic_is_removed_reaches_nobody(autojump_clock):
    """Also where the topic is back, with a subscriber, before the hub has come to it."""
    async with open_engine(halls()) as engine:
        engine.create_topic("hall:a")
        engine.publisher.publish_json_nowait("hall:a", Draft(b'"old"'))
        engine.drop_topic("hall:a")
        engine.create_topic("hall:a")
        async with engine.subscribe("hall:a") as fresh:
            engine.publisher.publish_json_nowait("hall:a", Draft(b'"new"'))
            assert (await anext(fresh)).data == "new"
            assert total(fresh.subscription) == 1


async def test_messages_that_are_held_back_die_with_their_topic(autojump_clock):
    """A full subscriber under ``block`` holds up the old life only."""
    async with open_engine(halls(overflow="block", block_timeout_seconds=50.0)) as engine:
        engine.create_topic("hall:a")
        async with engine.subscribe("hall:a", overflow=Overflow.BLOCK, max_messages=1):
            for number in range(3):
                engine.publisher.publish_json_nowait("hall:a", Draft(b'"old %d"' % number))
            await settle()
            assert engine.hub.is_held("hall:a")
            engine.drop_topic("hall:a")
            engine.create_topic("hall:a")
            async with engine.subscribe("hall:a") as fresh:
                assert engine.hub.is_held("hall:a")
                assert engine.hub.place_of(fresh.subscription).offset == 0
                await engine.publish("hall:a", "new")
                message = await anext(fresh)
                assert (message.offset, message.data) == (1, "new")


async def test_topic_that_comes_back_while_history_is_read_starts_with_its_new_life(autojump_clock):
    """What came live of the old one is not of the page that was read in the end."""
    broker = slow_broker()
    async with open_engine(SETTINGS, broker=broker) as engine:
        async with trio.open_nursery() as nursery:
            found: list = []

            async def read() -> None:
                async with engine.subscribe("room:a", since=Since(last=5)) as messages:
                    async for message in messages:
                        found.append((message.offset, message.data))
                        if message.data == "last":
                            return

            original = broker.inner.read

            async def read_after_a_new_beginning(*arguments):
                await trio.sleep(10)
                broker.forget("room:a")
                await engine.publish("room:a", "new")
                return await original(*arguments)

            broker.inner.read = read_after_a_new_beginning
            nursery.start_soon(read)
            await trio.sleep(1)
            for number in range(4):
                await engine.publish("room:a", number)
            await trio.sleep(20)
            await engine.publish("room:a", "last")
    assert found == [(1, "new"), (2, "last")]


async def test_waiting_for_a_message_does_not_wait_for_who_still_reads_history(autojump_clock):
    """It will find the message there."""
    broker = slow_broker()
    async with open_engine(SETTINGS, broker=broker) as engine, connect(engine) as peer:
        await engine.publish("room:a", 1)
        await trio.sleep(1)
        broker.reading = trio.Event()
        peer.send("subscribe", topic="room:a", recover={"last": 1})
        await trio.sleep(1)
        with trio.fail_after(0.1):
            await engine.hub.wait_routed("room:a", 1)
        broker.reading.set()
        await trio.sleep(1)
        assert offsets(peer) == [1]
