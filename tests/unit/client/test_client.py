"""A client and an engine in one process, in virtual time: states, resumption, calls, tokens, ends."""

from __future__ import annotations

import math
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from realtime import Actions, CommandError, ErrorCode, Identity, Lost, Settings, closing, open_engine
from realtime.client import (
    ClientState,
    Last,
    LoginRefused,
    SentAway,
    TokenReason,
    TokenUnavailable,
    Unreachable,
    open_client,
)
from realtime.history import Position
from realtime.link import LinkBlocked, LinkEnded, LinkRefused
from realtime.testing import MemoryDialer, MemoryLink, connect
from realtime.wishes import Subscribe
from tests.unit.client.conftest import brief, engine_and_client, take

UNREACHABLE = LinkEnded("nobody there", connected=False)


async def publish_numbers(engine, topic, *numbers):
    for number in numbers:
        await engine.publish(topic, number)


# -- following a topic ---------------------------------------------------------------------------------------


async def test_messages_come_in_order_from_the_newest_kept(autojump_clock):
    """``recover=Last`` begins in the past and goes on live."""
    async with engine_and_client() as (engine, _, client):
        await publish_numbers(engine, "room:a", 1, 2, 3)
        async with client.subscribe("room:a", recover=Last(2)) as messages:
            await publish_numbers(engine, "room:a", 4)
            items = await take(messages, 3)
            assert brief(items) == [2, 3, 4]
            assert messages.position == Position(messages.position.epoch, 4)


async def test_subscription_without_recover_starts_now_and_ends_with_its_block(autojump_clock):
    async with engine_and_client() as (engine, _, client):
        await publish_numbers(engine, "room:a", 1)
        async with client.subscribe("room:a") as messages:
            assert messages.position.offset == 1
            await publish_numbers(engine, "room:a", 2)
            assert brief(await take(messages, 1)) == [2]
            assert engine.statistics().hub.subscriptions == 1
        await wait_all_tasks_blocked()
        assert engine.statistics().hub.subscriptions == 0
        assert client.statistics().topics == ()


async def test_cut_links_lose_and_double_nothing(autojump_clock):
    """A hundred messages, the network cut after every seventh."""
    async with engine_and_client() as (engine, way, client), trio.open_nursery() as nursery:

        async def produce():
            for number in range(1, 101):
                await engine.publish("room:a", number)
                await trio.sleep(1)
                if not number % 7:
                    way.cut()

        async with client.subscribe("room:a") as messages:
            nursery.start_soon(produce)
            assert brief(await take(messages, 100)) == list(range(1, 101))
        assert client.statistics().connections > 5


async def test_position_of_another_process_is_resumed(autojump_clock):
    async with engine_and_client() as (engine, _, client):
        await publish_numbers(engine, "room:a", 1, 2, 3)
        page = await client.history("room:a", limit=1)
        after = Position(page.position.epoch, 1)
        async with client.subscribe("room:a", recover=after) as messages:
            assert brief(await take(messages, 2)) == [2, 3]


async def test_history_that_is_gone_is_told_with_exact_offsets(autojump_clock):
    """Five messages while away, of which two are kept: all five are told as lost, as none is replayed."""
    settings = Settings(dev=True, kinds={"short": {"history_messages": 2, "join": "anyone"}})
    async with engine_and_client(settings=settings) as (engine, way, client):
        async with client.subscribe("short:a") as messages:
            await publish_numbers(engine, "short:a", 1)
            assert brief(await take(messages, 1)) == [1]
            way.cut()
            await publish_numbers(engine, "short:a", 2, 3, 4, 5, 6)
            assert brief(await take(messages, 1)) == [(2, 6, 5, "too_old")]
            await publish_numbers(engine, "short:a", 7)
            assert brief(await take(messages, 1)) == [7]


async def test_replaced_server_is_told_as_another_epoch(autojump_clock):
    """The new life's messages so far count as lost; nothing of the old is mixed with them."""
    async with engine_and_client() as (engine, way, client), open_engine(Settings(dev=True)) as other:
        async with client.subscribe("room:a") as messages:
            await publish_numbers(engine, "room:a", 1, 2)
            await take(messages, 2)
            await publish_numbers(other, "room:a", 7, 8, 9)
            way.engine = other
            way.cut()
            assert brief(await take(messages, 1)) == [(1, 3, 3, "epoch_changed")]
            await publish_numbers(other, "room:a", 10)
            assert brief(await take(messages, 1)) == [10]


async def test_last_that_was_not_answered_yet_is_asked_again(autojump_clock):
    """The link breaks before the history came."""
    async with engine_and_client() as (engine, way, client):
        await publish_numbers(engine, "room:a", 1, 2)
        way.links[0].wire.stalled = True
        async with trio.open_nursery() as nursery:

            async def cut_soon():
                await trio.sleep(1)
                way.cut()

            nursery.start_soon(cut_soon)
            async with client.subscribe("room:a", recover=Last(2)) as messages:
                assert brief(await take(messages, 2)) == [1, 2]


async def test_topic_taken_again_where_replies_overtake_is_recovered_on_another_link(autojump_clock, monkeypatch):
    """What is still under way of the subscription before would pass for what is recovered."""
    monkeypatch.setattr(MemoryLink, "ordered", False)
    async with engine_and_client() as (engine, way, client):
        async with client.subscribe("room:a") as messages:
            await publish_numbers(engine, "room:a", 1, 2)
            assert brief(await take(messages, 2)) == [1, 2]
            here = messages.position
        await publish_numbers(engine, "room:a", 3)
        async with client.subscribe("room:b", recover=Last(1)):
            assert way.attempts == 1
        async with client.subscribe("room:a", recover=here) as messages:
            assert brief(await take(messages, 1)) == [3]
            assert way.attempts == 2


async def test_many_topics_are_resumed_in_one_batch_each_within_the_limit(autojump_clock):
    """A hundred topics whose filters are long go in as few messages as the server's limit allows."""
    settings = Settings(dev=True, max_message_bytes=4096)
    async with engine_and_client(settings=settings) as (engine, way, client):
        async with trio.open_nursery() as nursery:
            seen = {}

            async def follow(number):
                condition = {"!=": ["x", "y" * 250]}
                async with client.subscribe(f"room:{number}", filter=condition) as messages:
                    seen[number] = brief(await take(messages, 1))

            for number in range(100):
                nursery.start_soon(follow, number)
            await wait_all_tasks_blocked()
            commands = [len(link.connection.session.subscriptions) for link in way.links]
            assert commands == [100]
            way.cut()
            await trio.sleep(10)
            assert 7 < way.links[0].connection.commands < 12
            for number in range(100):
                await engine.publish(f"room:{number}", {"n": number})
        assert seen == {number: [{"n": number}] for number in range(100)}


async def test_quiet_view_is_resumed_from_where_pings_say(autojump_clock):
    """A filtered topic that has gone far ahead is not replayed from the last message that was seen."""
    settings = Settings(dev=True, recover_limit=5)
    async with engine_and_client(settings=settings) as (engine, way, client):
        async with client.subscribe("room:a", filter={"=": ["kind", "x"]}) as messages:
            for _ in range(50):
                await engine.publish("room:a", {"kind": "y"})
            await trio.sleep(60)
            way.cut()
            await trio.sleep(10)
            await engine.publish("room:a", {"kind": "x"})
            assert brief(await take(messages, 1)) == [{"kind": "x"}]


async def test_same_topic_with_the_same_options_is_one_subscription(autojump_clock):
    async with engine_and_client() as (engine, _, client):
        async with client.subscribe("room:a", fields=["n"]) as first:
            async with client.subscribe("room:a", fields=["n"]) as second:
                await engine.publish("room:a", {"n": 1, "m": 2})
                assert brief(await take(first, 1)) == brief(await take(second, 1)) == [{"n": 1}]
                assert engine.statistics().hub.subscriptions == 1
            await engine.publish("room:a", {"n": 2})
            assert brief(await take(first, 1)) == [{"n": 2}]
            for options in ({"fields": ["m"]}, {"fields": ["n"], "recover": Last(1)}):
                with pytest.raises(CommandError) as raised:
                    async with client.subscribe("room:a", **options):
                        pass
                assert raised.value.code is ErrorCode.ALREADY_SUBSCRIBED


async def test_view_that_is_changed_stays_so_over_links(autojump_clock):
    """From the next message on, and without losing the place."""
    async with engine_and_client() as (engine, way, client):
        async with client.subscribe("room:a", fields=["a", "b"], filter={">": ["a", 0]}) as messages:
            await engine.publish("room:a", {"a": 1, "b": 2, "c": 3})
            assert brief(await take(messages, 1)) == [{"a": 1, "b": 2}]
            await messages.update(fields=["c"])
            await engine.publish("room:a", {"a": 0, "c": 4})
            assert brief(await take(messages, 1)) == [{"c": 4}]
            way.cut()
            await engine.publish("room:a", {"a": 0, "c": 5})
            assert brief(await take(messages, 1)) == [{"c": 5}]
            await messages.update()
            await engine.publish("room:a", {"a": 0, "c": 6})
            assert brief(await take(messages, 1)) == [{"a": 0, "c": 6}]


async def test_view_that_is_refused_leaves_the_one_before(autojump_clock):
    async with engine_and_client() as (engine, way, client):
        async with client.subscribe("room:a", fields=["a"]) as messages:
            with pytest.raises(CommandError, match="filter"):
                await messages.update(filter={"no such": 1})
            way.cut()
            await engine.publish("room:a", {"a": 1, "b": 2})
            assert brief(await take(messages, 1)) == [{"a": 1}]
        async with client.placed() as placed:
            with pytest.raises(CommandError, match="no view"):
                await placed.update(fields=["a"])


async def test_who_comes_and_who_goes_is_told_to_who_asks(autojump_clock):
    async with engine_and_client() as (engine, _, client):
        async with client.subscribe("room:a", presence=True) as told, client.subscribe("room:a") as untold:
            async with connect(engine, identity=Identity("7", info={"name": "Bob"}), subscribe=[Subscribe("room:a")]):
                (came,) = await take(told, 1)
            (gone,) = await take(told, 1)
            assert (came.joined, came.left, came.member.user, came.member.info) == (1, 0, "7", {"name": "Bob"})
            assert (gone.joined, gone.left, gone.member.user, gone.missed) == (0, 1, "7", False)
            await engine.publish("room:a", 1)
            assert brief(await take(untold, 1)) == [1]


async def test_many_who_come_at_once_are_told_as_a_number(autojump_clock):
    async with engine_and_client() as (engine, _, client):
        async with client.subscribe("room:a", presence=True) as told, AsyncExitStack() as crowd:
            await trio.sleep(5)  # its own coming is told to others only
            for number in range(20):
                identity = Identity(f"u{number}")
                await crowd.enter_async_context(connect(engine, identity=identity, subscribe=[Subscribe("room:a")]))
            (news,) = await take(told, 1)
            assert (news.member, news.joined, news.left, news.count) == (None, 20, 0, 21)


async def test_news_that_a_slow_reader_has_missed_are_told_with_the_next(autojump_clock):
    """Of messages it is told what it missed; of these, that it should ask."""
    async with engine_and_client() as (engine, _, client):
        async with client.subscribe("room:a", presence=True, max_messages=2) as told:
            for number in range(4):
                async with connect(engine, identity=Identity(f"u{number}"), subscribe=[Subscribe("room:a")]):
                    await trio.sleep(5)
            await trio.sleep(60)
            assert [each.missed for each in await take(told, 2)] == [True, False]


async def test_topic_that_is_refused_is_raised_and_forgotten(autojump_clock):
    async with engine_and_client() as (_, way, client):
        with pytest.raises(CommandError) as raised:
            async with client.subscribe("nothing:here"):
                pass
        assert raised.value.code is ErrorCode.INVALID_TOPIC
        assert client.statistics().topics == ()
        assert way.attempts == 1


async def test_subscription_that_the_server_ends_raises_why_after_what_came(autojump_clock):
    settings = Settings(dev=True, kinds={"team": {"must_exist": True, "join": "anyone"}})
    async with engine_and_client(settings=settings) as (engine, _, client):
        engine.create_topic("team:a")
        async with client.subscribe("team:a") as messages, client.subscribe("team:a") as second:
            await publish_numbers(engine, "team:a", 1)
            await engine.remove_topic("team:a")
            await wait_all_tasks_blocked()
            assert brief(await take(messages, 1)) == [1]
            for _ in range(2):
                with pytest.raises(CommandError, match="ROOM_NOT_FOUND"):
                    await anext(messages)
            with pytest.raises(CommandError, match="ROOM_NOT_FOUND"):
                await take(second, 2)


async def test_right_that_is_gone_when_the_client_is_back_ends_that_topic_only(autojump_clock):
    allowed = {"room:a": True}

    async def authorize(_identity, _verb, topic):
        return allowed.get(topic, True)

    async with open_engine(Settings(dev=True), authorize=authorize) as engine:
        way = MemoryDialer(engine)
        async with open_client([way]) as client, client.subscribe("room:a") as a, client.subscribe("room:b") as b:
            allowed["room:a"] = False
            way.cut()
            with pytest.raises(CommandError, match="PERMISSION_DENIED"):
                await take(a, 1)
            await publish_numbers(engine, "room:b", 1)
            assert brief(await take(b, 1)) == [1]


async def test_topic_refused_for_now_is_asked_again_later(autojump_clock):
    """Too fast: after ``retry_after``. The subscription is not told of it."""
    settings = Settings(dev=True, command_rate=1.0, command_burst=4.0)
    async with engine_and_client(settings=settings) as (engine, way, client):
        async with client.subscribe("room:a") as a, client.subscribe("room:b") as b:
            async with client.subscribe("room:c") as c, client.subscribe("room:d") as d:
                way.cut()
                await trio.sleep(30)
                assert len(way.links[0].connection.session.subscriptions) == 4
                for topic, messages in zip("abcd", (a, b, c, d), strict=True):
                    await engine.publish(f"room:{topic}", topic)
                    assert brief(await take(messages, 1)) == [topic]


async def test_payload_is_decoded_into_a_type(autojump_clock):
    class Tick(msgspec.Struct):
        price: float

    async with engine_and_client() as (engine, _, client):
        async with client.subscribe("room:a", type=Tick) as messages:
            await publish_numbers(engine, "room:a", {"price": 1.5}, {"price": "dear"}, {"price": 2})
            assert brief(await take(messages, 1)) == [Tick(1.5)]
            with pytest.raises(msgspec.ValidationError):
                await take(messages, 1)
            assert brief(await take(messages, 1)) == [Tick(2.0)]


async def test_slow_reader_is_told_in_place_what_it_missed(autojump_clock):
    async with engine_and_client() as (engine, _, client):
        async with client.subscribe("room:a", max_messages=3) as messages:
            for number in range(1, 11):
                await engine.publish("room:a", number)
                await wait_all_tasks_blocked()
            assert brief(await take(messages, 4)) == [(1, 7, 7, "slow_reader"), 8, 9, 10]


async def test_gap_of_the_server_comes_in_its_place(autojump_clock):
    """The wire is stalled: the server's outbox overflows."""
    async with engine_and_client(settings=Settings(dev=True, outbox_messages=5)) as (engine, way, client):
        async with client.subscribe("room:a") as messages:
            way.links[0].wire.stalled = True
            way.links[0].wire.buffer_bytes = 100
            for number in range(1, 51):
                await engine.publish("room:a", number)
            await wait_all_tasks_blocked()
            way.links[0].wire.resume()
            await wait_all_tasks_blocked()
            seen, lost = [], 0
            while len(seen) + lost < 50:
                (item,) = await take(messages, 1)
                if isinstance(item, Lost):
                    assert item.reason == "slow_consumer"
                    lost += item.count
                else:
                    seen.append(item.data)
            assert lost
            assert seen == sorted(set(seen))
            assert client.statistics().topics[0].lost == lost


# -- what the server brings ----------------------------------------------------------------------------------


async def authenticate(token):
    user, _, seconds = token.partition("/")
    if user == "bad":
        raise CommandError(ErrorCode.AUTH_FAILED, "no such token")
    if user == "old":
        raise CommandError(ErrorCode.TOKEN_EXPIRED, "it was good once")
    return Identity(user, expires_in=float(seconds) if seconds else None)


async def test_topics_of_the_login_are_read_and_resumed(autojump_clock):
    async with engine_and_client(authenticate=authenticate, token="7") as (engine, way, client):
        assert client.user == "7"
        async with client.placed() as messages, client.subscribe("user:7") as own:
            await engine.send_to_user("7", 1)
            way.cut()
            await engine.send_to_user("7", 2)
            await engine.publish("global", 3)
            items = await take(messages, 3)
            assert sorted((item.topic, item.data) for item in items) == [("global", 3), ("user:7", 1), ("user:7", 2)]
            assert brief(await take(own, 2)) == [1, 2]
            await trio.sleep(10)
            await engine.place_user("7", "room:staff")
            await engine.publish("room:staff", 4)
            assert brief(await take(messages, 1)) == [4]
            engine.evict_user("7", "room:staff")
            await wait_all_tasks_blocked()
            assert "room:staff" not in [topic.topic for topic in client.statistics().topics]
        await engine.send_to_user("7", 5)
        await wait_all_tasks_blocked()
        async with client.placed() as messages:
            await engine.send_to_user("7", 6)
            assert brief(await take(messages, 1)) == [6]


async def test_placement_that_ends_with_a_connection_is_asked_for_by_who_reads_it(autojump_clock):
    """The server forgets whom it placed where; a reader by name becomes a subscriber of its own."""
    async with engine_and_client(authenticate=authenticate, token="7") as (engine, way, client):
        await engine.place_user("7", "room:a")
        await engine.place_user("7", "room:b")
        await wait_all_tasks_blocked()
        async with client.subscribe("room:a") as messages:
            assert engine.statistics().hub.subscriptions == 4
            way.cut()
            await trio.sleep(10)
            assert {topic.topic: topic.placed for topic in client.statistics().topics} == {
                "user:7": True,
                "global": True,
                "room:a": False,
            }
            await engine.publish("room:a", 1)
            assert brief(await take(messages, 1)) == [1]


async def test_topic_asked_for_before_the_login_brings_it_is_that_one(autojump_clock):
    async with open_engine(Settings(dev=True), authenticate=authenticate) as engine:
        async with open_client([MemoryDialer(engine)], token="7") as client, client.subscribe("global") as messages:
            await engine.publish("global", 1)
            assert brief(await take(messages, 1)) == [1]
            with pytest.raises(CommandError, match="ALREADY_SUBSCRIBED"):
                async with client.subscribe("global", recover=Last(3)):
                    pass


@pytest.mark.parametrize("ordered", [True, False])
async def test_topic_of_the_login_is_had_from_another_place_or_in_another_view(autojump_clock, monkeypatch, ordered):
    """Who reads it unasked goes on where he was, on this link and on the next."""
    monkeypatch.setattr(MemoryLink, "ordered", ordered)
    async with engine_and_client(authenticate=authenticate, token="7") as (engine, way, client):
        async with client.placed() as placed:
            for number in (1, 2):
                await engine.send_to_user("7", {"n": number, "more": "x"})
            assert brief(await take(placed, 2)) == [{"n": 1, "more": "x"}, {"n": 2, "more": "x"}]
            async with client.subscribe("user:7", recover=Last(3), fields=["n"]) as own:
                assert brief(await take(own, 2)) == [{"n": 1}, {"n": 2}]
                await engine.send_to_user("7", {"n": 3})
                way.cut()
                await engine.send_to_user("7", {"n": 4, "more": "x"})
                assert brief(await take(own, 2)) == [{"n": 3}, {"n": 4}]
                assert brief(await take(placed, 2)) == [{"n": 3}, {"n": 4}]
                with pytest.raises(CommandError, match="ALREADY_SUBSCRIBED"):
                    async with client.subscribe("user:7", recover=Last(1)):
                        pass
                async with client.placed() as late:
                    await engine.send_to_user("7", {"n": 5})
                    assert brief(await take(late, 1)) == brief(await take(own, 1)) == brief(await take(placed, 1))
        way.cut()
        await trio.sleep(10)
        async with client.placed() as placed:
            await engine.send_to_user("7", {"n": 6, "more": "x"})
            assert brief(await take(placed, 1)) == [{"n": 6, "more": "x"}]


async def test_topic_of_the_login_is_asked_for_before_there_is_a_link(autojump_clock):
    async with open_engine(Settings(dev=True), authenticate=authenticate) as engine:
        for number in (1, 2, 3):
            await engine.send_to_user("7", number)
        async with open_client([MemoryDialer(engine)], token="7") as client, client.placed() as placed:
            async with client.subscribe("user:7", recover=Last(2)) as own:
                assert brief(await take(own, 2)) == [2, 3]
                assert brief(await take(placed, 2)) == [2, 3]


# -- states and failures -------------------------------------------------------------------------------------


async def test_states_are_told_one_after_the_other(autojump_clock):
    async with engine_and_client() as (_, way, client), trio.open_nursery() as nursery:
        seen = []

        async def watch():
            async for change in client.changes():
                seen.append((change.state.value, change.retry_seconds))

        nursery.start_soon(watch)
        await wait_all_tasks_blocked()
        way.failure = UNREACHABLE
        way.cut()
        await trio.sleep(5)
        way.failure = None
        await trio.sleep(60)
        assert client.state is ClientState.CONNECTED
        nursery.cancel_scope.cancel()
    assert seen == [("connected", None), ("reconnecting", 3.0), ("reconnecting", 6.0), ("connected", None)]
    assert client.state is ClientState.CLOSED


async def test_changes_end_with_the_client(autojump_clock):
    async with trio.open_nursery() as nursery:
        seen = []

        async def watch(client):
            async for change in client.changes():
                seen.append(change.state.value)

        async with engine_and_client() as (_, _, client):
            nursery.start_soon(watch, client)
            await wait_all_tasks_blocked()
    assert seen == ["connected", "closed"]


async def test_tries_that_are_used_up_end_the_block(autojump_clock):
    async with open_engine(Settings(dev=True)) as engine:
        way = MemoryDialer(engine)
        way.failure = UNREACHABLE
        began = trio.current_time()
        with pytest.raises(Unreachable, match="nobody there"):
            async with open_client([way], tries=4, random=lambda: 1.0):
                await trio.sleep_forever()
        assert way.attempts == 4
        assert trio.current_time() - began == pytest.approx(3 + 6 + 12)


async def test_silent_server_is_left_for_another_try(autojump_clock):
    async with engine_and_client() as (_, way, client):
        first = client.connection
        way.links[0].wire.stalled = True
        began = trio.current_time()
        async for change in client.changes():
            if change.state is ClientState.RECONNECTING:
                assert "nothing was heard" in change.why
                assert trio.current_time() - began == pytest.approx(35)
                break
        await client.wait_connected()
        assert client.connection != first


async def test_server_that_does_not_welcome_is_left_in_time(autojump_clock):
    class Silent(MemoryDialer):
        @asynccontextmanager
        async def open(self, credentials):
            async with super().open(credentials) as link:
                link.wire.stalled = True
                yield link

    async with open_engine(Settings(dev=True)) as engine:
        with pytest.raises(Unreachable, match="no welcome within 10 seconds"):
            async with open_client([Silent(engine)], tries=1):
                await trio.sleep_forever()


async def test_shutdown_is_waited_out(autojump_clock):
    """``retry_after`` of the goodbye counts, and this client's own jitter."""
    async with engine_and_client() as (_, way, client):
        (connection,) = [link.connection for link in way.links]
        connection.close(closing.CloseReason(4100, "shutting down", reconnect=True, retry_after=50.0))
        async for change in client.changes():
            if change.state is ClientState.RECONNECTING:
                assert (change.why, change.retry_seconds) == ("shutting down", 53.0)
                break
        await client.wait_connected()


@pytest.mark.parametrize(
    ("reason", "failure", "code"),
    [
        (closing.FORBIDDEN, SentAway, ErrorCode.PERMISSION_DENIED),
        (closing.NOT_AUTHENTICATED, LoginRefused, ErrorCode.AUTH_REQUIRED),
        (closing.TOKEN_EXPIRED, LoginRefused, ErrorCode.TOKEN_EXPIRED),
        (closing.IDLE, SentAway, ErrorCode.UNAVAILABLE),
    ],
    ids=lambda value: getattr(value, "text", None),
)
async def test_close_that_means_stay_away_ends_the_block(autojump_clock, reason, failure, code):
    """And wakes who reads."""
    with pytest.raises(failure) as raised:
        async with engine_and_client() as (_, way, client), client.subscribe("room:a") as messages:
            way.links[0].connection.close(reason)
            await anext(messages)
    assert (raised.value.code, raised.value.close_code) == (code, reason.code)
    assert str(raised.value).startswith(code.value)


@pytest.mark.parametrize("reason", [closing.TOO_FAST, closing.TOO_SLOW, closing.OVERLOADED], ids=lambda r: r.text)
async def test_close_that_means_come_back_is_no_end(autojump_clock, reason):
    async with engine_and_client() as (_, way, client):
        way.links[0].connection.close(reason)
        await trio.sleep(10)
        assert client.statistics().connections == 2


async def test_peer_without_a_login_where_one_is_needed_is_refused_in_time(autojump_clock):
    with pytest.raises(LoginRefused):
        async with engine_and_client(settings=Settings()):
            await trio.sleep_forever()


async def test_user_with_too_many_connections_comes_back(autojump_clock):
    """The refusal comes in place of the welcome, and passes."""
    settings = Settings(dev=True, max_connections_per_user=1)
    async with engine_and_client(settings=settings, authenticate=authenticate, token="7") as (engine, way, client):
        other = MemoryDialer(engine)
        async with open_client([other], token="7", random=lambda: 1.0) as second:
            await trio.sleep(5)
            assert second.state is ClientState.CONNECTING
            way.failure = UNREACHABLE
            way.cut()
            await second.wait_connected()
        assert client.state is ClientState.RECONNECTING


@pytest.mark.parametrize(
    ("refused", "failure"),
    [
        (LinkRefused(CommandError(ErrorCode.PERMISSION_DENIED, "not from there")), SentAway),
        (LinkRefused(CommandError(ErrorCode.AUTH_FAILED, "no"), login=True), LoginRefused),
    ],
)
async def test_refusal_that_does_not_pass_ends_the_block(autojump_clock, refused, failure):
    async with open_engine(Settings(dev=True)) as engine:
        way = MemoryDialer(engine)
        way.failure = refused
        with pytest.raises(failure):
            async with open_client([way]):
                await trio.sleep_forever()
        assert way.attempts == 1


async def test_refusal_that_passes_is_waited_out(autojump_clock):
    async with open_engine(Settings(dev=True)) as engine:
        way = MemoryDialer(engine)
        way.failure = LinkRefused(CommandError(ErrorCode.UNAVAILABLE, "full", retry_after=20))
        async with open_client([way], random=lambda: 0.5) as client:
            await trio.sleep(1)
            way.failure = None
            began = trio.current_time()
            await client.wait_connected()
            assert trio.current_time() - began == pytest.approx(20.5)


async def test_way_that_is_blocked_is_left_for_the_next(autojump_clock):
    """At once where something answers in the server's place; where links die before a word, at the second."""
    async with open_engine(Settings(dev=True)) as engine:
        for failure, attempts in ((LinkBlocked("status 400"), 1), (LinkEnded("cut"), 2)):
            first, second = MemoryDialer(engine), MemoryDialer(engine)
            second.name = "other"
            first.failure = failure
            async with open_client([first, second]) as client:
                await client.wait_connected()
                assert (client.transport, first.attempts) == ("other", attempts)
                second.cut()
                await trio.sleep(20)
                assert (client.state, first.attempts) == (ClientState.CONNECTED, attempts)


async def test_what_comes_is_not_ours_and_the_client_tries_another_way(autojump_clock):
    class Other(MemoryDialer):
        @asynccontextmanager
        async def open(self, credentials):
            async with super().open(credentials) as link:
                link._lines.append(b"<html>")
                yield link

    async with open_engine(Settings(dev=True)) as engine:
        with pytest.raises(Unreachable, match="not of a realtime server"):
            async with open_client([Other(engine)], tries=1):
                await trio.sleep_forever()
        way = MemoryDialer(engine)
        async with open_client([way], tries=1) as client:
            await client.wait_connected()
            way.links[0]._lines.append(b"[]")
            await engine.publish("room:a", 1)
            async with client.subscribe("room:a"):
                assert client.statistics().connections == 2


# -- tokens --------------------------------------------------------------------------------------------------


async def test_token_function_is_asked_for_each_connection_and_before_it_expires(autojump_clock):
    """Nobody notices that the login was renewed."""
    reasons = []

    async def token(reason):
        reasons.append(reason)
        return "7/100"

    async with engine_and_client(authenticate=authenticate, token=token) as (engine, way, client):
        async with client.subscribe("room:a") as messages:
            await trio.sleep(500)
            await publish_numbers(engine, "room:a", 1)
            assert brief(await take(messages, 1)) == [1]
            assert client.statistics().connections == 1
            way.cut()
            await trio.sleep(10)
    assert reasons[0] == TokenReason.CONNECT == reasons[-1]
    assert set(reasons[1:-1]) == {TokenReason.EXPIRING}
    assert len(reasons) >= 7


async def test_token_that_is_not_to_be_had_now_is_asked_for_again(autojump_clock):
    """On connecting it is a failed try; on a live connection it is tried until the login is over."""
    outcomes = iter([OSError("down"), TokenUnavailable("later"), "7/100", TokenUnavailable("later"), "7"])

    def token(_reason):
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async with engine_and_client(authenticate=authenticate, token=token) as (_, _, client):
        await trio.sleep(500)
        assert (client.state, client.statistics().connections) == (ClientState.CONNECTED, 1)


async def test_login_that_expires_unnoticed_is_made_anew(autojump_clock):
    """Here the function has nothing new to say before the end: the connection is closed with 4102."""
    reasons = []

    async def token(reason):
        reasons.append(reason)
        return None if reason is TokenReason.EXPIRING else "7/100"

    async with engine_and_client(authenticate=authenticate, token=token) as (_, _, client):
        await trio.sleep(110)
        assert client.state is ClientState.CONNECTED
        assert reasons == [TokenReason.CONNECT, TokenReason.EXPIRING, TokenReason.EXPIRED]


async def test_token_text_that_expires_ends_the_block(autojump_clock):
    with pytest.raises(LoginRefused, match="TOKEN_EXPIRED"):
        async with engine_and_client(authenticate=authenticate, token="7/100"):
            await trio.sleep_forever()


@pytest.mark.parametrize(("given", "reason"), [("bad", TokenReason.REFUSED), ("old", TokenReason.EXPIRED)])
async def test_refused_token_is_asked_for_once_more(autojump_clock, given, reason):
    """At once; a second refusal is the end."""
    reasons, tokens = [], [given, "7", given, given]

    def token(reason):
        reasons.append(reason)
        return tokens.pop(0)

    with pytest.raises(LoginRefused):
        async with engine_and_client(authenticate=authenticate, token=token) as (_, way, client):
            assert trio.current_time() < 3
            assert client.user == "7"
            way.cut()
            await trio.sleep_forever()
    assert reasons == [TokenReason.CONNECT, reason, TokenReason.CONNECT, reason]


async def test_token_function_that_fails_ends_the_block_with_its_exception(autojump_clock):
    def token(_reason):
        raise KeyError("secret")

    with pytest.raises(KeyError, match="secret"):
        async with engine_and_client(authenticate=authenticate, token=token):
            await trio.sleep_forever()


# -- calls ---------------------------------------------------------------------------------------------------


async def test_publish_reaches_others_and_not_oneself(autojump_clock):
    async with engine_and_client() as (engine, _, client), connect(engine) as peer:
        await peer.command("subscribe", topic="room:a")
        async with client.subscribe("room:a") as messages:
            receipt = await client.publish("room:a", None, event="chat", key="42", echo=False)
            await client.publish("room:a", {"n": 2})
            assert (receipt.offset, receipt.duplicate) == (1, False)
            assert brief(await take(messages, 1)) == [{"n": 2}]
        push = await peer.receive_type("message")
        assert (push["data"], push["event"], push["key"]) == (None, "chat", "42")


async def test_publish_over_a_broken_link_happens_once(autojump_clock):
    """The answer was lost: it is said again with the same key, and known again."""
    async with engine_and_client() as (_, way, client), client.subscribe("room:a") as messages:
        way.links[0].wire.stalled = True

        async def cut_soon():
            await trio.sleep(1)
            way.cut()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cut_soon)
            receipt = await client.publish("room:a", 1)
        assert receipt.duplicate
        await client.publish("room:a", 2)
        assert brief(await take(messages, 2)) == [1, 2]


async def test_calls_made_while_there_is_no_link_wait_for_one(autojump_clock):
    async with open_engine(Settings(dev=True)) as engine:
        way = MemoryDialer(engine)
        way.failure = UNREACHABLE
        async with open_client([way], random=lambda: 1.0) as client:
            await trio.sleep(1)
            way.failure = None
            assert (await client.publish("room:a", 1)).offset == 1
            way.failure = UNREACHABLE
            way.cut()
            await wait_all_tasks_blocked()
            began = trio.current_time()
            for call in (
                client.publish("room:a", 1, timeout_seconds=2.5),
                client.request("x", timeout_seconds=2.5),
                client.members("room:a", timeout_seconds=2.5),
                client.history("room:a", timeout_seconds=2.5),
            ):
                with pytest.raises(CommandError, match=r"TIMEOUT: no answer within 2\.5 seconds"):
                    await call
            assert trio.current_time() - began == pytest.approx(10)
            assert client.statistics().calls == 0


async def test_publish_that_got_no_answer_after_a_refusal_is_not_told_as_refused(autojump_clock):
    """It may have been published: with another key it would be there twice."""
    options = Settings(dev=True, publish_rate=0.4, publish_burst=1)
    async with engine_and_client(settings=options) as (_, way, client):
        await client.publish("room:a", 1)

        async def silence() -> None:
            await wait_all_tasks_blocked()
            (link,) = way.links
            link.wire.stalled = True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(silence)
            with pytest.raises(CommandError, match=r"no answer within .* after RATE_LIMIT_EXCEEDED") as caught:
                await client.publish("room:a", 2, timeout_seconds=5)
        assert caught.value.code is ErrorCode.TIMEOUT


async def test_publish_refused_for_its_rate_is_said_again_in_time(autojump_clock):
    async with engine_and_client(settings=Settings(dev=True, publish_rate=1.0, publish_burst=1.0)) as (_, _, client):
        for number in range(4):
            assert (await client.publish("room:a", number)).offset == number + 1
        with pytest.raises(CommandError, match="RATE_LIMIT_EXCEEDED"):
            await client.publish("room:a", 5, timeout_seconds=0.5)
        with pytest.raises(CommandError, match="INVALID_TOPIC"):
            await client.publish("nothing:a", 5)


async def test_message_that_is_too_large_fails_alone(autojump_clock):
    """The server would close the connection for it."""
    async with engine_and_client() as (_, _, client):
        with pytest.raises(CommandError, match="PAYLOAD_TOO_LARGE"):
            await client.publish("room:a", "x" * 100_000)
        with pytest.raises(CommandError, match="PAYLOAD_TOO_LARGE"):
            async with client.subscribe("room:" + "a" * 100_000):
                pass
        with pytest.raises(TypeError):
            await client.publish("room:a", object())
        assert client.statistics().connections == 1


async def test_request_is_answered_or_told_why_not(autojump_clock):
    actions = Actions()

    async def double(query: dict[str, int]) -> dict[str, int]:
        if query["n"] == 0:
            raise CommandError(ErrorCode.BAD_REQUEST, "not zero", retry_after=5)
        await trio.sleep(query["n"])
        return {"n": 2 * query["n"]}

    class Doubled(msgspec.Struct):
        n: int

    actions.register("double", double)
    async with engine_and_client(actions=actions) as (_, way, client):
        assert await client.request("double", {"n": 1}) == {"n": 2}
        assert await client.request("double", {"n": 1}, type=Doubled) == Doubled(2)
        with pytest.raises(CommandError) as raised:
            await client.request("double", {"n": 0}, trace_id="t-1")
        error = raised.value
        assert (error.code, error.message, error.retry_after, error.trace_id) == ("BAD_REQUEST", "not zero", 5, "t-1")
        with pytest.raises(CommandError, match="TIMEOUT"):
            await client.request("double", {"n": 100}, timeout_seconds=3)
        async with trio.open_nursery() as nursery:

            async def ask():
                with pytest.raises(CommandError, match="UNAVAILABLE: the connection was lost"):
                    await client.request("double", {"n": 100}, timeout_seconds=50)

            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            way.cut()
        with trio.move_on_after(1):
            await client.request("double", {"n": 5})
        assert client.statistics().calls == 0


async def test_members_and_history_are_looked_up_by_page(autojump_clock):
    async with engine_and_client() as (engine, _, client), client.subscribe("room:a"):
        async with connect(engine, identity=Identity("8", info={"name": "Bob"})) as peer:
            await peer.command("subscribe", topic="room:a")
            page = await client.members("room:a", limit=1)
            assert (page.members[0].connection, page.count) == (client.connection, 2)
            page = await client.members("room:a", limit=1, after=page.next)
            assert (page.members[0].user, page.members[0].info, page.next) == ("8", {"name": "Bob"}, None)
        await publish_numbers(engine, "room:a", 1, 2)
        page = await client.history("room:a", limit=1)
        assert (brief(page.messages), page.position.offset, page.why) == ([1], 2, None)
        page = await client.history("room:a", after=Position(page.position.epoch, 1))
        assert brief(page.messages) == [2]
        assert (await client.history("room:a", after=Position("other", 1))).why == "epoch_changed"


async def test_more_calls_than_may_wait_are_refused(autojump_clock):
    async with open_engine(Settings(dev=True)) as engine:
        way = MemoryDialer(engine)
        way.failure = UNREACHABLE
        async with open_client([way]) as client, trio.open_nursery() as nursery:
            for _ in range(1000):
                nursery.start_soon(client.history, "room:a")
            await wait_all_tasks_blocked()
            with pytest.raises(CommandError, match="LIMIT_EXCEEDED"):
                await client.history("room:a")
            nursery.cancel_scope.cancel()
        assert client.statistics().calls == 0


async def test_calls_of_a_client_that_has_ended_are_refused(autojump_clock):
    async with engine_and_client() as (_, way, client):
        way.failure = UNREACHABLE
        way.cut()
        await wait_all_tasks_blocked()
    for call in (client.publish("room:a", 1), client.request("x"), client.wait_connected()):
        with pytest.raises(CommandError, match="UNAVAILABLE: the client has ended"):
            await call
    for block in (client.subscribe("room:a"), client.placed()):
        with pytest.raises(CommandError, match="UNAVAILABLE: the client has ended"):
            async with block:
                pass


async def test_tasks_outside_the_block_are_told_that_it_has_ended(autojump_clock):
    async with trio.open_nursery() as nursery:
        told = []

        async def read(client, status):
            async with client.subscribe("room:a") as messages:
                status.set()
                with pytest.raises(CommandError, match="the client has ended"):
                    await anext(messages)
                told.append("reader")

        async def call(client):
            with pytest.raises(CommandError, match="the client has ended"):
                await client.request("slow", timeout_seconds=math.inf)
            told.append("caller")

        actions = Actions()

        async def slow():
            await trio.sleep_forever()

        actions.register("slow", slow)
        async with engine_and_client(actions=actions) as (_, _, client):
            status = trio.Event()
            nursery.start_soon(read, client, status)
            nursery.start_soon(call, client)
            await status.wait()
            await wait_all_tasks_blocked()
    assert sorted(told) == ["caller", "reader"]


async def test_cancelled_subscription_leaves_nothing(autojump_clock):
    """Cancelled while the server is asked, and once it has agreed."""
    async with engine_and_client() as (engine, way, client):
        way.links[0].wire.stalled = True
        with trio.move_on_after(1):
            async with client.subscribe("room:a"):
                pass
        way.links[0].wire.resume()
        await wait_all_tasks_blocked()
        assert engine.statistics().hub.subscriptions == 0
        async with client.subscribe("room:a", recover=Last(5)) as messages:
            await publish_numbers(engine, "room:a", 1)
            with trio.CancelScope() as scope:
                scope.cancel()
                await anext(messages)
            assert brief(await take(messages, 1)) == [1]


async def test_exception_of_the_block_comes_out_as_it_is_and_the_link_is_closed(autojump_clock):
    with pytest.raises(ZeroDivisionError):
        async with engine_and_client() as (engine, _, client):
            assert len(engine.connections) == 1
            _ = 1 / 0
    assert client.state is ClientState.CLOSED
