"""The outbox: bounds, policies, gaps, fairness, cursors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime import closing
from realtime.history import Position, decode_cursor
from realtime.outbox import CHUNK_BYTES, MAX_CONTROL_BYTES, MAX_CONTROL_MESSAGES, REPLAY_SLICE
from realtime.subscription import Gap, Loss
from realtime.topics import Mode, Overflow
from realtime.views import View
from tests.tools import CursorFraming, OutboxKit, brief, publication, pushes, run_of, total

#: The bytes of one message of `publication`, one digit of offset.
SIZE = len(run_of(publication(1)).data)


# -- without a backlog -------------------------------------------------------------------------------------------


def test_first_offer_makes_the_outbox_dirty_once():
    """Who makes it dirty is told, so that it is flushed once."""
    kit = OutboxKit(backlogged=False)
    subscription = kit.subscription()
    assert kit.offer(subscription, publication(1))
    assert not kit.offer(subscription, publication(2))
    kit.outbox.flush()
    assert kit.offer(subscription, publication(3))


def test_flush_of_one_run_writes_its_bytes_once():
    """The common case: the shared bytes themselves go to the wire."""
    kit = OutboxKit(backlogged=False)
    subscription = kit.subscription()
    run = run_of(publication(1), publication(2))
    kit.outbox.offer(subscription, run)
    kit.outbox.flush()
    assert kit.wire.written == [run.data]
    assert kit.wire.written[0] is run.data
    assert (subscription.delivered, subscription.queued, kit.outbox.messages, kit.outbox.bytes) == (2, 0, 0, 0)
    assert kit.outbox.empty


def test_flush_of_several_runs_is_one_write():
    """All that waits leaves together."""
    kit = OutboxKit(backlogged=False)
    first, second = kit.subscription("room:a"), kit.subscription("room:b")
    kit.offer_each(first, 1, 2)
    kit.offer_each(second, 1)
    kit.outbox.flush()
    assert len(kit.wire.written) == 1
    assert kit.wire.briefs == [1, 2, 1]


def test_flush_to_a_busy_wire_wakes_the_sender():
    """The sender owns a wire that is busy."""
    kit = OutboxKit(backlogged=False)
    kit.wire.busy = True
    kit.offer(kit.subscription(), publication(1))
    kit.outbox.flush()
    assert (kit.backlogs, kit.outbox.backlogged, kit.wire.written) == (1, True, [])


def test_flush_stops_where_the_wire_takes_no_more():
    """What was not taken at once is the sender's."""
    kit = OutboxKit(backlogged=False, max_messages=1000)
    kit.wire.writes_left = 1
    subscription = kit.subscription()
    data = b'"' + b"x" * (CHUNK_BYTES // 2) + b'"'
    for offset in range(1, 6):
        kit.offer(subscription, publication(offset, data=data))
    kit.outbox.flush()
    assert (len(kit.wire.written), kit.backlogs) == (1, 1)
    assert subscription.queued > 0
    kit.outbox.flush()  # nothing: the sender owns the wire
    assert len(kit.wire.written) == 1


def test_offer_with_a_backlog_does_not_ask_for_a_flush():
    """The sender takes it up anyhow."""
    kit = OutboxKit(backlogged=True)
    assert not kit.offer(kit.subscription(), publication(1))


def test_corked_outbox_keeps_everything():
    """Nothing leaves before the confirmation has been put in front."""
    kit = OutboxKit(backlogged=False)
    kit.outbox.corks += 1
    kit.offer(kit.subscription(), publication(1))
    kit.outbox.flush()
    assert kit.wire.written == []
    kit.outbox.corks -= 1
    kit.outbox.offer_control(b'{"type":"subscribed"}\n')
    kit.outbox.flush()
    assert kit.wire.briefs == ["subscribed", 1]


# -- policies ----------------------------------------------------------------------------------------------------


def test_drop_oldest_keeps_the_newest_and_tells_the_gap_first():
    """The oldest go, in one gap, exact."""
    kit = OutboxKit(max_messages=3)
    subscription = kit.subscription(overflow=Overflow.DROP_OLDEST)
    kit.offer_each(subscription, *range(1, 9))
    assert subscription.dropped == {Loss.SLOW_CONSUMER: 5}
    assert kit.outbox.messages == 3
    assert kit.drain() == [(1, 5, 5), 6, 7, 8]
    assert total(subscription) == 8


def test_drop_newest_keeps_the_oldest_and_tells_the_gap_last():
    """The newest go, in one gap, exact."""
    kit = OutboxKit(max_messages=3)
    subscription = kit.subscription(overflow=Overflow.DROP_NEWEST)
    kit.offer_each(subscription, *range(1, 9))
    assert kit.drain() == [1, 2, 3, (4, 8, 5)]
    kit.offer_each(subscription, 9)
    assert kit.drain() == [9]
    assert total(subscription) == 9


def test_losses_apart_are_told_apart():
    """One gap for each run of losses, each in its place."""
    kit = OutboxKit(max_messages=2)
    subscription = kit.subscription(overflow=Overflow.DROP_NEWEST)
    kit.offer_each(subscription, 1, 2, 3, 4)
    first = kit.outbox.take_one()
    assert first[1].offset == 1
    kit.offer_each(subscription, 5, 6, 7)
    assert kit.drain() == [2, (3, 4, 2), 5, (6, 7, 2)]
    assert total(subscription) == 7


def test_overflow_latest_keeps_the_newest_of_each_key():
    """On overload the queue becomes a table of values; what goes is told as gaps and counted as conflated."""
    kit = OutboxKit(max_messages=4)
    subscription = kit.subscription(overflow=Overflow.LATEST)
    for offset, key in enumerate("abcab", 1):
        kit.offer(subscription, publication(offset, key=key))
    assert kit.drain() == [(1, 1, 1), 2, 3, 4, 5]
    assert (subscription.conflated, subscription.dropped, total(subscription)) == (1, {}, 5)


def test_overflow_latest_with_many_keys_drops_the_oldest():
    """Where nothing can be conflated, the oldest goes."""
    kit = OutboxKit(max_messages=3)
    subscription = kit.subscription(overflow=Overflow.LATEST)
    for offset, key in enumerate("abcde", 1):
        kit.offer(subscription, publication(offset, key=key))
    assert kit.drain() == [(1, 2, 2), 3, 4, 5]
    assert total(subscription) == 5


def test_disconnect_ends_the_peer_and_queues_nothing_more():
    """What it has coming is what came before the hole; what follows it recovers, so it is neither sent nor told."""
    kit = OutboxKit(max_messages=2)
    subscription = kit.subscription(overflow=Overflow.DISCONNECT)
    other = kit.subscription("room:b")
    kit.offer_each(subscription, 1, 2, 3)
    assert kit.failures == [closing.TOO_SLOW]
    taken = kit.outbox.take_one()[1]
    assert taken.offset == 1
    kit.offer_each(subscription, 4)
    kit.offer_each(other, 1)
    assert not kit.outbox.lose_range(subscription, 5, 6, Loss.UPSTREAM)
    assert kit.drain() == [2]
    assert kit.failures == [closing.TOO_SLOW]
    assert (total(subscription), total(other)) == (6, 1)
    assert kit.outbox.has_room()  # nobody has to wait for it


def test_block_takes_the_message_that_there_is_room_for_whatever_its_size():
    """Publishers waited for room; their message is not lost for being larger than the rest of it."""
    kit = OutboxKit(max_bytes=3 * SIZE)
    subscription = kit.subscription(overflow=Overflow.BLOCK)
    kit.offer_each(subscription, 1, 2)
    assert kit.outbox.has_room()
    kit.offer(subscription, publication(3, data=b'"' + b"x" * 3 * SIZE + b'"'))
    assert not kit.outbox.has_room()
    assert kit.drain() == [1, 2, 3]
    assert subscription.dropped == {}


def test_block_without_room_loses_the_newest_for_the_reason_that_the_wait_timed_out():
    """A subscriber that was given up loses what follows, and is told."""
    kit = OutboxKit(max_messages=2)
    subscription = kit.subscription(overflow=Overflow.BLOCK)
    kit.offer_each(subscription, 1, 2, 3, 4)
    assert subscription.dropped == {Loss.BLOCK_TIMEOUT: 2}
    data = b""
    while not kit.outbox.empty:
        data += kit.outbox.take()
    assert [brief(push) for push in pushes(data)] == [1, 2, (3, 4, 2)]
    assert pushes(data)[-1]["reason"] == "block_timeout"


def test_room_is_signalled_to_those_who_wait():
    """Every taking calls the signals, closing as well."""
    kit = OutboxKit(max_messages=1)
    subscription = kit.subscription(overflow=Overflow.BLOCK)
    calls = []
    kit.outbox.on_room[subscription] = lambda: calls.append(kit.outbox.has_room())
    kit.offer_each(subscription, 1)
    assert not kit.outbox.has_room()
    kit.outbox.take()
    kit.offer_each(subscription, 2)
    kit.outbox.close()
    assert calls == [True, True]


@pytest.mark.parametrize("overflow", [Overflow.DROP_OLDEST, Overflow.DROP_NEWEST, Overflow.LATEST])
def test_bound_in_bytes_holds(overflow):
    """What waits never has more bytes than allowed."""
    kit = OutboxKit(max_messages=1000, max_bytes=10 * SIZE)
    subscription = kit.subscription(overflow=overflow)
    for offset in range(1, 50):
        kit.offer(subscription, publication(offset, key=str(offset), data=b'"' + b"x" * (offset % 7) * 10 + b'"'))
        assert kit.outbox.bytes <= 10 * SIZE
    kit.drain()
    assert (kit.outbox.bytes, kit.outbox.messages, total(subscription)) == (0, 0, 49)


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("overflow", [Overflow.DROP_OLDEST, Overflow.DROP_NEWEST, Overflow.LATEST])
def test_message_larger_than_the_outbox_is_told_as_a_gap_and_moves_nothing(overflow, mode):
    """What can never fit does not push out what is there."""
    kit = OutboxKit(max_messages=10, max_bytes=5 * SIZE)
    subscription, other = kit.subscription(overflow=overflow, mode=mode), kit.subscription("room:b")
    kit.offer(other, publication(1, topic="room:b"))
    kit.offer(subscription, publication(1, key="a"))
    kit.offer(subscription, publication(2, key="b", data=b'"' + b"x" * 6 * SIZE + b'"'))
    assert sorted(map(str, kit.drain())) == ["(2, 2, 1)", "1", "1"]
    assert total(subscription) == 2


# -- several topics ----------------------------------------------------------------------------------------------


def test_full_outbox_makes_room_in_the_longest_queue():
    """A quiet topic is not shut out by a loud one."""
    kit = OutboxKit(max_messages=5)
    loud, quiet = kit.subscription("room:loud"), kit.subscription("room:quiet")
    kit.offer_each(loud, *range(1, 6))
    kit.offer_each(quiet, 1)
    assert kit.drain() == [(1, 1, 1), 2, 3, 4, 5, 1]
    assert (total(loud), total(quiet)) == (5, 1)


def test_full_outbox_makes_room_for_a_newest_value():
    """In mode latest the newest value of a quiet topic is not dropped for a loud one's backlog."""
    kit = OutboxKit(max_messages=5)
    loud, quiet = kit.subscription("room:loud"), kit.subscription("room:quiet", mode=Mode.LATEST)
    kit.offer_each(loud, *range(1, 6))
    kit.offer_each(quiet, 1, 2)
    assert kit.drain() == [(1, 1, 1), 2, 3, 4, 5, 2]
    assert (quiet.conflated, quiet.dropped) == (1, {})


@pytest.mark.parametrize("overflow", [Overflow.DROP_NEWEST, Overflow.DISCONNECT, Overflow.BLOCK])
def test_full_outbox_takes_nothing_from_topics_that_must_not_lose_their_head(overflow):
    """The policy of a topic holds also where another wants room."""
    kit = OutboxKit(max_messages=3)
    loud, quiet = kit.subscription("room:loud", overflow=overflow), kit.subscription("room:quiet")
    kit.offer_each(loud, 1, 2, 3)
    kit.offer_each(quiet, 1)
    assert kit.drain() == [1, 2, 3, (1, 1, 1)]
    assert quiet.dropped == {Loss.SLOW_CONSUMER: 1}
    assert kit.failures == []


def test_newest_value_among_topics_that_must_not_lose_is_told_as_a_gap():
    """Where there is no room to be had, also a newest value is lost, and that is told."""
    kit = OutboxKit(max_messages=2)
    loud, quiet = kit.subscription("room:loud", overflow=Overflow.BLOCK), kit.subscription("room:q", mode=Mode.LATEST)
    kit.offer_each(loud, 1, 2)
    kit.offer_each(quiet, 1)
    assert kit.drain() == [1, 2, (1, 1, 1)]
    assert total(quiet) == 1


def test_burst_of_one_topic_does_not_hold_up_another():
    """A chunk serves the topics in turn."""
    kit = OutboxKit(max_messages=10_000, max_bytes=1 << 30)
    burst, calm = kit.subscription("room:burst"), kit.subscription("room:calm")
    data = b'"' + b"x" * 1000 + b'"'
    for offset in range(1, 1001):
        kit.offer(burst, publication(offset, data=data))
    kit.offer_each(calm, 1)
    topics = [push["topic"] for push in pushes(kit.outbox.take())]
    assert "room:calm" in topics
    assert 1000 * topics.count("room:burst") <= 2 * CHUNK_BYTES


def test_control_messages_go_first():
    """Replies overtake a backlog."""
    kit = OutboxKit()
    kit.offer_each(kit.subscription(), 1, 2)
    kit.outbox.offer_control(b'{"type":"pong"}\n')
    assert kit.drain() == ["pong", 1, 2]


@pytest.mark.parametrize(("frame", "fitting"), [(b"x", MAX_CONTROL_MESSAGES), (b"x" * 1024, MAX_CONTROL_BYTES // 1024)])
def test_control_queue_over_its_bounds_ends_the_peer(frame, fitting):
    """A peer that never reads its replies is overloaded, whether they are many or large."""
    kit = OutboxKit()
    for _ in range(fitting):
        kit.outbox.offer_control(frame)
    assert kit.failures == []
    kit.outbox.offer_control(frame)
    assert kit.failures == [closing.OVERLOADED]


def test_taking_control_messages_frees_their_bounds():
    """The bound is on what waits."""
    kit = OutboxKit()
    for _ in range(3):
        for _ in range(MAX_CONTROL_MESSAGES):
            kit.outbox.offer_control(b"x")
        while not kit.outbox.empty:
            kit.outbox.take()
    assert kit.failures == []


# -- replay, gaps, cursors ---------------------------------------------------------------------------------------


def test_replay_goes_before_what_came_live():
    """History first, in slices, then the queue, all counted as delivered."""
    kit = OutboxKit()
    subscription = kit.subscription()
    count = 2 * REPLAY_SLICE + 3
    kit.outbox.offer_replay(subscription, [publication(offset) for offset in range(1, count + 1)])
    kit.offer_each(subscription, count + 1)
    assert kit.outbox.messages == 1  # replay stands outside of the bounds
    assert kit.drain() == list(range(1, count + 2))
    assert (subscription.delivered, total(subscription)) == (count + 1, count + 1)


def test_replay_that_the_view_does_not_show_is_filtered():
    """History passes through the view."""
    kit = OutboxKit()
    subscription = kit.subscription(view=View.of(["a"]))
    history = [publication(offset, data=b'{"a":1}' if offset % 40 == 0 else b'{"b":1}') for offset in range(1, 101)]
    kit.outbox.offer_replay(subscription, history)
    assert kit.drain() == [40, 80]
    assert (subscription.delivered, subscription.filtered) == (2, 98)


def test_empty_replay_makes_no_turn():
    """Nothing to replay, nothing to take."""
    kit = OutboxKit()
    kit.outbox.offer_replay(kit.subscription(), [])
    assert kit.outbox.empty


def test_gap_tells_all_that_a_client_needs():
    """Exact, with epoch, reason and whether history still has it."""
    kit = OutboxKit(max_messages=1)
    subscription = kit.subscription()
    kit.offer_each(subscription, 1, 2)
    gap = pushes(kit.outbox.take())[0]
    assert gap == {
        "type": "gap",
        "topic": "room:a",
        "epoch": "e1",
        "from": 1,
        "to": 1,
        "count": 1,
        "reason": "slow_consumer",
        "recoverable": False,
    }
    kit.outbox.lose_range(subscription, 3, 4, Loss.UPSTREAM)
    assert pushes(kit.outbox.take())[0]["recoverable"] is True


def test_lost_range_makes_the_outbox_dirty():
    """A gap is flushed like a message."""
    kit = OutboxKit(backlogged=False)
    subscription = kit.subscription()
    assert kit.outbox.lose_range(subscription, 1, 2, Loss.UPSTREAM)
    assert not kit.outbox.lose_range(subscription, 3, 4, Loss.UPSTREAM)
    kit.outbox.flush()
    assert kit.wire.briefs == [(1, 4, 4)]


def test_stamped_messages_carry_the_cursor_of_all_topics():
    """Each message tells where the whole connection stands once it has been read."""
    kit = OutboxKit(framing=CursorFraming())
    a, b = kit.subscription("room:a"), kit.subscription("room:b")
    kit.outbox.start(a, Position("e1", 0))
    kit.outbox.start(b, Position("e1", 7))
    kit.offer(a, publication(1), publication(2))
    kit.offer(b, publication(8, topic="room:b"))
    data = b""
    while not kit.outbox.empty:
        data += kit.outbox.take()
    cursors = [decode_cursor(push["cursor"]) for push in pushes(data) if push["type"] == "cursor"]
    assert cursors == [
        {"room:a": Position("e1", 1), "room:b": Position("e1", 7)},
        {"room:a": Position("e1", 2), "room:b": Position("e1", 7)},
        {"room:a": Position("e1", 2), "room:b": Position("e1", 8)},
    ]
    assert decode_cursor(kit.outbox.cursor) == cursors[-1]
    kit.outbox.forget(b)
    assert decode_cursor(kit.outbox.cursor) == {"room:a": Position("e1", 2)}


def test_single_topic_is_stamped_as_well():
    """The short way of the common case is not taken where cursors are told."""
    kit = OutboxKit(framing=CursorFraming(), backlogged=False)
    subscription = kit.subscription()
    kit.outbox.start(subscription, Position("e1", 0))
    kit.offer(subscription, publication(1))
    kit.outbox.flush()
    assert kit.wire.briefs == ["cursor", 1]


def test_wire_without_cursors_has_none():
    """Clients that remember positions by themselves are not told cursors."""
    kit = OutboxKit()
    kit.outbox.start(kit.subscription(), Position("e1", 0))
    assert kit.outbox.cursor is None


# -- in this process, leaving ------------------------------------------------------------------------------------


def test_take_one_gives_messages_and_gaps_one_by_one_and_topics_in_turn():
    """For a subscriber in this process."""
    kit = OutboxKit(framing=None, max_messages=4)
    a, b = kit.subscription("room:a"), kit.subscription("room:b")
    kit.outbox.offer_replay(a, [publication(1)])
    kit.offer(a, publication(2), publication(3), publication(4), publication(5))
    kit.offer_each(a, 6)
    kit.offer(b, publication(1, topic="room:b"))
    found = []
    while (taken := kit.outbox.take_one()) is not None:
        found.append((taken[1].first, taken[1].last) if isinstance(taken[1], Gap) else taken[1].offset)
    assert found[0] == 1
    assert [entry for entry in found if entry != 1] == [(2, 3), 4, 5, 6]
    assert kit.outbox.empty
    assert (total(a), total(b)) == (6, 1)


def test_forgotten_subscription_leaves_no_trace():
    """Its bytes are free, its turn is over, others stay."""
    kit = OutboxKit()
    a, b = kit.subscription("room:a"), kit.subscription("room:b")
    kit.offer_each(a, 1, 2)
    kit.offer_each(b, 1)
    kit.outbox.forget(a)
    assert (kit.outbox.messages, kit.outbox.bytes) == (1, SIZE)
    assert kit.drain() == [1]
    kit.outbox.forget(b)
    assert kit.outbox.empty


def test_closed_outbox_takes_nothing():
    """What comes after the end is thrown away and leaves nothing behind."""
    kit = OutboxKit(backlogged=False)
    subscription = kit.subscription(mode=Mode.LATEST)
    kit.offer_each(subscription, 1)
    kit.outbox.close()
    assert kit.outbox.empty
    kit.outbox.offer_control(b"x")
    kit.outbox.offer_replay(subscription, [publication(1)])
    kit.offer_each(subscription, 2)
    kit.outbox.flush()
    assert (kit.wire.written, subscription.queued, kit.outbox.messages) == ([], 0, 0)
    assert kit.outbox.has_room()


# -- whatever happens --------------------------------------------------------------------------------------------

moves = st.lists(
    st.one_of(
        st.tuples(st.just("offer"), st.integers(0, 2), st.integers(1, 4), st.integers(0, 60)),
        st.tuples(st.just("jump"), st.integers(0, 2), st.integers(1, 4)),
        st.tuples(st.just("take")),
        st.tuples(st.just("mode"), st.integers(0, 2), st.sampled_from(Mode)),
    ),
    max_size=60,
)
subscribers = st.tuples(
    *[
        st.tuples(
            st.sampled_from([Overflow.DROP_OLDEST, Overflow.DROP_NEWEST, Overflow.LATEST, Overflow.BLOCK]),
            st.sampled_from(Mode),
        )
    ]
    * 3
)


@given(subscribers, moves, st.integers(1, 8), st.integers(SIZE, 10 * SIZE))
def test_any_history_of_an_outbox_keeps_order_bounds_and_sum(options, steps, max_messages, max_bytes):
    """Offsets and gaps only grow, gaps are never neighbours, bounds hold, every message is accounted for."""
    kit = OutboxKit(max_messages=max_messages, max_bytes=max_bytes)
    subscriptions = [
        kit.subscription(f"room:{number}", overflow=overflow, mode=mode)
        for number, (overflow, mode) in enumerate(options)
    ]
    published = [0, 0, 0]
    told: dict[str, list[dict]] = {subscription.topic: [] for subscription in subscriptions}
    slack = takes = 0

    def take() -> None:
        nonlocal takes
        takes += 1
        for push in pushes(kit.outbox.take()):
            told[push["topic"]].append({**push, "take": takes})

    for step in steps:
        if step[0] == "take":
            take()
        elif step[0] == "mode":
            subscriptions[step[1]].change_mode(step[2])
        else:
            number = step[1]
            subscription = subscriptions[number]
            first = published[number] + 1
            published[number] += step[2]
            if step[0] == "jump":
                kit.outbox.lose_range(subscription, first, published[number], Loss.UPSTREAM)
                continue
            run = run_of(
                *[
                    publication(
                        offset, topic=subscription.topic, key=str(offset % 3), data=b'"' + b"x" * step[3] + b'"'
                    )
                    for offset in range(first, published[number] + 1)
                ]
            )
            slack = max(slack, *[len(frame.data) for frame in run.frames])
            kit.outbox.offer(subscription, run)
        assert kit.outbox.messages <= max_messages
        # Under ``block`` the last message may stand out.
        assert kit.outbox.bytes <= max_bytes + slack
        assert kit.outbox.messages == sum(subscription.queued for subscription in subscriptions)
        assert [total(subscription) for subscription in subscriptions] == published
    while not kit.outbox.empty:
        take()
    assert (kit.outbox.messages, kit.outbox.bytes) == (0, 0)
    for subscription in subscriptions:
        last = lost = 0
        gap_in = None
        for push in told[subscription.topic]:
            is_gap = push["type"] == "gap"
            first, last_of = (push["from"], push["to"]) if is_gap else (push["offset"], push["offset"])
            assert last < first <= last_of
            assert not (is_gap and gap_in == push["take"])  # what was told before cannot grow any more
            if is_gap:
                assert 1 <= push["count"] <= last_of - first + 1
                lost += push["count"]
            last, gap_in = last_of, push["take"] if is_gap else None
        assert sum(push["type"] == "message" for push in told[subscription.topic]) == subscription.delivered
        assert subscription.dropped_total <= lost <= subscription.dropped_total + subscription.conflated
    assert kit.failures == []
