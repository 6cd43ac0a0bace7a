"""A client and a server that says odd things, or says them at odd moments: in virtual time."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from realtime import CommandError, ErrorCode
from realtime.client import ClientState, Last, SentAway, TokenReason, open_client
from realtime.history import Position
from tests.unit.client.conftest import ScriptedDialer, brief, take

BY_EACH_LINK = pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "unordered"])


def client_of(way, **options):
    return open_client([way], **{"random": lambda: 1.0, **options})


async def quiet(_link):
    """A script of no words."""


# -- where a topic begins, and where it goes on --------------------------------------------------------------


@BY_EACH_LINK
async def test_newest_that_did_not_come_before_the_cut_are_asked_for_by_their_place(autojump_clock, ordered):
    """The newest ones are others by then: what lies between would be lost, and nobody told."""

    async def first(link):
        link.subscribed(await link.hear("subscribe"), 5, recovered="full", replayed=2)
        await trio.sleep(1)
        link.end()

    async def second(link):
        command = await link.hear("subscribe")
        assert command["recover"] == {"epoch": "e", "offset": 3}
        link.subscribed(command, 20, recovered="full", replayed=17)
        for offset in range(4, 21):
            link.message("room:a", offset)

    async with client_of(ScriptedDialer(first, second, ordered=ordered)) as client:
        async with client.subscribe("room:a", recover=Last(2)) as messages:
            assert brief(await take(messages, 17)) == list(range(4, 21))


async def test_newest_that_are_sparse_come_all_and_once(autojump_clock):
    """A view shows few of many: where they are is known only as they come."""

    async def first(link):
        link.subscribed(await link.hear("subscribe"), 100, recovered="full", replayed=3)
        link.message("room:a", 40)
        link.message("room:a", 90)
        link.end()

    async def second(link):
        command = await link.hear("subscribe")
        assert command["recover"] == {"epoch": "e", "offset": 90}
        link.subscribed(command, 100, recovered="full", replayed=1)
        link.message("room:a", 100)

    async with client_of(ScriptedDialer(first, second)) as client:
        async with client.subscribe("room:a", recover=Last(3)) as messages:
            assert brief(await take(messages, 3)) == [40, 90, 100]


@pytest.mark.parametrize("ahead", [0, 3])
async def test_end_that_overtakes_the_reply_is_heard_behind_what_came_before_it(autojump_clock, ahead):
    async def script(link):
        command = await link.hear("subscribe")
        for offset in range(1, ahead + 1):
            link.message("room:a", offset)
        link.push("unsubscribed", topic="room:a", code="PERMISSION_DENIED", resubscribe=False)
        await wait_all_tasks_blocked()
        link.subscribed(command, ahead, recovered="full", replayed=ahead)

    async with client_of(ScriptedDialer(script, ordered=False)) as client:
        seen = []
        with pytest.raises(CommandError, match="PERMISSION_DENIED"), trio.fail_after(60):
            async with client.subscribe("room:a", recover=Last(3)) as messages:
                async for message in messages:
                    seen.append(message)
        assert brief(seen) == list(range(1, ahead + 1))
        assert client.statistics().topics == ()


async def test_end_of_a_topic_that_was_just_taken_again_is_cleared_up_on_another_link(autojump_clock):
    """It may be that of the subscription before."""

    async def first(link):
        link.subscribed(await link.hear("subscribe"), 1)
        link.reply(await link.hear("unsubscribe"), "unsubscribed", topic="room:a")
        link.subscribed(await link.hear("subscribe"), 1)
        link.push("unsubscribed", topic="room:a", code="PERMISSION_DENIED", resubscribe=False)

    async def second(link):
        link.subscribed(await link.hear("subscribe"), 2, recovered="full", replayed=1)
        link.message("room:a", 2)

    async with client_of(ScriptedDialer(first, second, ordered=False)) as client:
        async with client.subscribe("room:a"):
            pass
        async with client.subscribe("room:a") as messages:
            assert brief(await take(messages, 1)) == [2]


async def test_quick_reader_has_all_that_overtook_the_reply(autojump_clock):
    """More than may wait to be read; what comes meanwhile stays behind it, and pings do not count it as read."""

    async def script(link):
        command = await link.hear("subscribe")
        for offset in range(1, 3001):
            link.message("room:a", offset)
        await wait_all_tasks_blocked()
        link.subscribed(command, 3000, recovered="full", replayed=3000)
        link.push("ping", positions=[{"topic": "room:a", "epoch": "e", "offset": 3000}])
        link.message("room:a", 3001)

    async with client_of(ScriptedDialer(script, ordered=False)) as client:
        async with client.subscribe("room:a", recover=Last(3000)) as messages:
            assert brief(await take(messages, 3001)) == list(range(1, 3002))


async def test_what_is_too_much_to_be_held_is_had_on_the_next_link(autojump_clock, monkeypatch):
    """Behind what was held: it would be too much there as well, if it were asked for from the beginning."""
    monkeypatch.setattr("realtime.client.track.MAX_HELD", 100)

    async def first(link):
        command = await link.hear("subscribe")
        for offset in range(1, 151):
            link.message("room:a", offset)
        await wait_all_tasks_blocked()
        link.subscribed(command, 150, recovered="full", replayed=150)
        link.message("room:a", 151)

    async def second(link):
        command = await link.hear("subscribe")
        assert command["recover"] == {"epoch": "e", "offset": 100}
        link.subscribed(command, 151, recovered="full", replayed=51)
        for offset in range(101, 152):
            link.message("room:a", offset)

    async with client_of(ScriptedDialer(first, second, ordered=False)) as client:
        async with client.subscribe("room:a", recover=Last(150)) as messages:
            assert brief(await take(messages, 151)) == list(range(1, 152))


async def test_topic_that_is_left_while_something_is_held_leaves_nothing(autojump_clock):
    async def script(link):
        command = await link.hear("subscribe")
        for offset in range(1, 101):
            link.message("room:a", offset)
        link.push("unsubscribed", topic="room:a", code="PERMISSION_DENIED", resubscribe=False)
        await wait_all_tasks_blocked()
        link.subscribed(command, 100, recovered="full", replayed=100)
        link.reply(await link.hear("unsubscribe"), "unsubscribed", topic="room:a")

    async with client_of(ScriptedDialer(script, ordered=False)) as client:
        async with client.subscribe("room:a", recover=Last(100)) as messages:
            assert brief(await take(messages, 1)) == [1]
        await trio.sleep(60)
        assert client.statistics().topics == ()
        assert client.statistics().connections == 1


# -- a topic that is taken again where replies overtake ------------------------------------------------------


async def visited(link):
    """A server of somebody who comes and goes."""
    while True:
        link.subscribed(await link.hear("subscribe"), 0, recovered="full", replayed=0)
        link.reply(await link.hear("unsubscribe"), "unsubscribed", topic="room:a")


@pytest.mark.parametrize(("pings", "links"), [(0, 2), (1, 2), (2, 1)])
async def test_topic_taken_again_stays_on_the_link_once_pings_have_shown_that_it_is_clear(autojump_clock, pings, links):
    """The first ping may have been sent before the server knew; where the link has to go, nothing is waited for."""
    way = ScriptedDialer(visited, visited, ordered=False)
    async with client_of(way) as client:
        async with client.subscribe("room:a", recover=Last(1)):
            pass
        await wait_all_tasks_blocked()
        for _ in range(pings):
            way.links[0].push("ping")
        await wait_all_tasks_blocked()
        began = trio.current_time()
        async with client.subscribe("room:a", recover=Last(1)):
            assert len(way.links) == links
            assert trio.current_time() == began


async def test_pings_before_the_answer_show_nothing(autojump_clock):
    async def slow(link):
        link.subscribed(await link.hear("subscribe"), 0, recovered="full", replayed=0)
        await link.hear("unsubscribe")

    way = ScriptedDialer(slow, visited, ordered=False)
    async with client_of(way) as client:
        async with client.subscribe("room:a", recover=Last(1)):
            pass
        await wait_all_tasks_blocked()
        for _ in range(3):
            way.links[0].push("ping")
        await wait_all_tasks_blocked()
        async with client.subscribe("room:a", recover=Last(1)):
            assert len(way.links) == 2


async def test_links_that_ended_for_a_topic_do_not_lengthen_the_waits(autojump_clock):
    """Whoever loses the network after that is back as soon as anybody."""

    async def cut(link):
        link.subscribed(await link.hear("subscribe"), 0, recovered="full", replayed=0)
        await trio.sleep(5)
        link.end()

    way = ScriptedDialer(*[visited] * 6, cut, quiet, ordered=False)
    async with client_of(way) as client:
        for _ in range(6):
            async with client.subscribe("room:a", recover=Last(1)):
                await trio.sleep(1)
            await wait_all_tasks_blocked()
        async with client.subscribe("room:a", recover=Last(1)):
            async for change in client.changes():
                if change.state is ClientState.RECONNECTING:
                    assert (change.why, change.retry_seconds) == ("cut", 3.0)
                    break
        assert len(way.links) == 7


# -- what is refused for now ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "a_at"), [(3600.0, 3603), (60.0, 63)])
async def test_each_topic_that_is_refused_waits_for_its_own_time(autojump_clock, seconds, a_at):
    """One is refused for long; of the other the server says a moment later that it may be had again."""
    asked = []

    async def first(link):
        for _ in "ab":
            link.subscribed(await link.hear("subscribe"), 0)
        await trio.sleep(20)
        link.end()

    async def second(link):
        batch = await link.hear("batch")
        began = trio.current_time()
        refused, taken = [
            {"type": "error", "id": batch["commands"][0]["id"], "code": "LIMIT_EXCEEDED", "retry_after": seconds},
            {"type": "subscribed", "id": batch["commands"][1]["id"], "topic": "room:b", "epoch": "e"},
        ]
        link.reply(batch, "batch", replies=[refused, taken])
        await trio.sleep(1)
        link.push("unsubscribed", topic="room:b", code="UNAVAILABLE", resubscribe=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ping, link)
            for _ in "ba":
                command = await link.hear("subscribe")
                asked.append((command["topic"], round(trio.current_time() - began)))
                link.subscribed(command, 0, recovered="full")
            nursery.cancel_scope.cancel()

    async def ping(link):
        while True:
            await trio.sleep(15)
            link.push("ping")

    way = ScriptedDialer(first, second)
    async with client_of(way) as client:
        await client.wait_connected()
        async with client.subscribe("room:a"), client.subscribe("room:b"):
            await trio.sleep(4000)
    assert asked == [("room:b", 4), ("room:a", a_at)]


@pytest.mark.parametrize(("told", "wait"), [(-100.0, 3.0), (1e300, 86_403.0)])
async def test_goodbye_with_a_time_that_cannot_be_is_waited_out_all_the_same(autojump_clock, told, wait):
    async def script(link):
        link.push("disconnect", code=4100, reason="bye", reconnect=True, retry_after=told)
        link.end(4100)

    way = ScriptedDialer(script, quiet)
    async with client_of(way) as client:
        await trio.sleep(wait + 1)
        assert way.times[1] - way.times[0] == pytest.approx(wait)
        assert client.state is ClientState.CONNECTED


async def test_refusal_with_a_time_that_cannot_be_is_the_callers_to_see(autojump_clock):
    """A time before now is now."""

    async def script(link):
        for _ in range(2):
            link.reply(await link.hear("publish"), "error", code="RATE_LIMIT_EXCEEDED", retry_after=-100)
        link.reply(await link.hear("publish"), "published", epoch="e", offset=1)
        link.reply(await link.hear("request"), "error", code="UNAVAILABLE", retry_after=1e300)

    async with client_of(ScriptedDialer(script)) as client:
        began = trio.current_time()
        assert (await client.publish("room:a", 1)).offset == 1
        assert trio.current_time() == began
        with pytest.raises(CommandError) as raised:
            await client.request("x")
        assert raised.value.retry_after == 86_400


# -- views ---------------------------------------------------------------------------------------------------


async def test_update_that_was_cancelled_unsaid_leaves_all_as_it_was(autojump_clock):
    """It waits behind a call whose answer takes its time."""

    async def first(link):
        link.subscribed(await link.hear("subscribe"), 5)
        call = await link.hear("history")
        await trio.sleep(5)
        link.reply(call, "history", epoch="e", offset=5)
        await wait_all_tasks_blocked()
        link.end()

    async def second(link):
        command = await link.hear("subscribe")
        assert command["fields"] == ["a"]
        link.subscribed(command, 5, recovered="full")

    way = ScriptedDialer(first, second, ordered=False)
    async with client_of(way) as client, trio.open_nursery() as nursery:
        async with client.subscribe("room:a", fields=["a"]) as messages:
            nursery.start_soon(client.history, "room:a")
            await wait_all_tasks_blocked()
            with trio.move_on_after(1):
                await messages.update(fields=["b"])
            async with client.subscribe("room:a", fields=["a"]):
                pass
            await trio.sleep(20)
            assert [command["type"] for command in way.links[0].commands] == ["subscribe", "history"]
            assert [command["type"] for command in way.links[1].commands] == ["subscribe"]


@pytest.mark.parametrize("cancelled", [True, False], ids=["cancelled", "unanswered"])
async def test_update_that_nobody_knows_the_end_of_is_undone_by_subscribing_anew(autojump_clock, cancelled):
    """The server may have it: both are to agree, and nothing is lost on the way there."""

    async def script(link):
        link.subscribed(await link.hear("subscribe"), 5)
        await link.hear("update")
        await link.hear("unsubscribe")
        command = await link.hear("subscribe")
        assert (command["fields"], command["recover"]) == (["a"], {"epoch": "e", "offset": 5})
        link.subscribed(command, 6, recovered="full", replayed=1)
        link.message("room:a", 6)

    async with client_of(ScriptedDialer(script)) as client:
        async with client.subscribe("room:a", fields=["a"]) as messages:
            if cancelled:
                with trio.move_on_after(1):
                    await messages.update(fields=["b"])
            else:
                with pytest.raises(CommandError, match="TIMEOUT"):
                    await messages.update(fields=["b"], timeout_seconds=1)
            assert brief(await take(messages, 1)) == [6]
            assert client.statistics().connections == 1


async def test_update_that_nobody_knows_the_end_of_is_undone_on_another_link_where_replies_overtake(autojump_clock):
    async def first(link):
        link.subscribed(await link.hear("subscribe"), 5)
        await link.hear("update")

    async def second(link):
        command = await link.hear("subscribe")
        assert (command["fields"], command["recover"]) == (["a"], {"epoch": "e", "offset": 5})
        link.subscribed(command, 6, recovered="full", replayed=1)
        link.message("room:a", 6)

    async with client_of(ScriptedDialer(first, second, ordered=False)) as client:
        async with client.subscribe("room:a", fields=["a"]) as messages:
            with trio.move_on_after(1):
                await messages.update(fields=["b"])
            assert brief(await take(messages, 1)) == [6]


# -- tokens --------------------------------------------------------------------------------------------------


async def test_token_function_that_hangs_is_asked_again_on_the_next_connection(autojump_clock):
    reasons = []

    async def token(reason):
        reasons.append(reason)
        if reasons.count(TokenReason.EXPIRING) == 1 and reason is TokenReason.EXPIRING:
            await trio.sleep_forever()
        return "t"

    async def expires(link):
        link.push("token_expiring", expires_in=10)
        await trio.sleep(10)
        link.push("disconnect", code=4102, reason="token expired", reconnect=True)
        link.end(4102)
        await trio.sleep_forever()

    async def renewed(link):
        link.push("token_expiring", expires_in=10)
        link.reply(await link.hear("auth"), "authenticated")

    async with client_of(ScriptedDialer(expires, renewed), token=token) as client:
        await trio.sleep(60)
        assert client.statistics().connections == 2
    assert reasons == [TokenReason.CONNECT, TokenReason.EXPIRING, TokenReason.EXPIRED, TokenReason.EXPIRING]


async def test_token_function_that_fails_on_a_live_connection_is_the_failure_of_the_client(autojump_clock):
    def token(reason):
        if reason is TokenReason.EXPIRING:
            raise KeyError("db")
        return "t"

    async def script(link):
        link.push("token_expiring", expires_in=10)

    with pytest.raises(KeyError, match="db"):
        async with client_of(ScriptedDialer(script), token=token) as client:
            await trio.sleep_forever()
    assert client.state is ClientState.FAILED


# -- the end of the block ------------------------------------------------------------------------------------


async def sent_away(link):
    await trio.sleep(1)
    link.push("disconnect", code=4003, reason="no", reconnect=False)
    link.end(4003)
    await trio.sleep_forever()


async def test_calls_of_a_clean_up_are_refused_at_once_when_the_client_has_failed(autojump_clock):
    """What they raise is the context of the failure, which is told alone."""
    refused = []

    async def clean_up(client):
        async with client.subscribe("room:b"):
            pass

    with pytest.raises(SentAway) as raised:
        async with client_of(ScriptedDialer(sent_away)) as client:
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    for call in (clean_up(client), client.wait_connected()):
                        with pytest.raises(CommandError, match="the client has ended"):
                            await call
                        refused.append(trio.current_time())
                    await client.publish("room:a", 1)
    assert raised.value.code is ErrorCode.PERMISSION_DENIED
    assert isinstance(raised.value.__context__, CommandError)
    assert trio.current_time() == refused[0]
    assert client.state is ClientState.FAILED


async def test_client_that_fails_while_it_is_cancelled_says_so_alone(autojump_clock):
    with trio.CancelScope() as outside:
        with pytest.raises(SentAway):
            async with client_of(ScriptedDialer(sent_away)):
                try:
                    await trio.sleep_forever()
                finally:
                    outside.cancel()
                    await trio.lowlevel.checkpoint()  # noqa: ASYNC102 - is cancelled, and that is the point
        await trio.sleep_forever()
    assert outside.cancelled_caught


async def test_interrupt_is_not_hidden_by_a_failure(autojump_clock):
    with pytest.raises(BaseExceptionGroup) as raised:
        async with client_of(ScriptedDialer(sent_away)):
            try:
                await trio.sleep_forever()
            finally:
                raise KeyboardInterrupt
    assert raised.group_contains(KeyboardInterrupt)
    assert raised.group_contains(SentAway)


async def test_group_of_the_block_comes_out_as_it_is(autojump_clock):
    mine = ExceptionGroup("mine", [ValueError("x")])
    with pytest.raises(BaseExceptionGroup) as raised:
        async with client_of(ScriptedDialer(quiet)):
            raise mine
    assert (raised.value.message, raised.value.exceptions) == ("mine", mine.exceptions)


async def test_position_is_that_of_what_was_read_and_not_of_what_is_held(autojump_clock):
    """The subscription is entered with the reply; what overtook it comes after that."""

    async def script(link):
        command = await link.hear("subscribe")
        link.message("room:a", 1)
        link.message("room:a", 2)
        await wait_all_tasks_blocked()
        link.subscribed(command, 2, recovered="full", replayed=2)

    async with client_of(ScriptedDialer(script, ordered=False)) as client:
        async with client.subscribe("room:a", recover=Last(2)) as messages:
            assert messages.position is None
            await take(messages, 1)
            assert messages.position == Position("e", 1)
