"""The queue of one subscription."""

from __future__ import annotations

from realtime.subscription import Gap, Loss
from realtime.topics import Mode
from realtime.views import View
from tests.tools import LINES, OutboxKit, publication, run_of, total


def entries(subscription):
    """The queue in brief."""
    return [
        (entry.first, entry.last, entry.count) if isinstance(entry, Gap) else [frame.offset for frame in entry.frames]
        for entry in subscription.queue
    ]


def queued(kit: OutboxKit, *offsets: int):
    """A subscription with one run of these offsets."""
    subscription = kit.subscription()
    kit.offer(subscription, *[publication(offset) for offset in offsets])
    return subscription


def test_gap_absorbs_its_neighbour():
    """Two losses side by side are one run, of the first reason."""
    gap = Gap(3, 4, 2, Loss.SLOW_CONSUMER)
    gap.absorb(Gap(5, 9, 5, Loss.UPSTREAM))
    assert gap == Gap(3, 9, 7, Loss.SLOW_CONSUMER)


def test_dropping_out_of_a_run_leaves_a_gap_in_its_place():
    """A run is cut, its other messages stay as they are."""
    subscription = queued(OutboxKit(), 1, 2, 3)
    change = subscription.drop_oldest(Loss.SLOW_CONSUMER)
    assert change == (-1, -len(run_of(publication(1)).data))
    assert entries(subscription) == [(1, 1, 1), [2], [3]]
    subscription.drop_oldest(Loss.SLOW_CONSUMER)
    assert entries(subscription) == [(1, 2, 2), [3]]
    assert (subscription.queued, subscription.dropped) == (1, {Loss.SLOW_CONSUMER: 2})


def test_dropping_between_two_gaps_makes_them_one():
    """There is never a gap beside a gap."""
    subscription = queued(OutboxKit(), 4)
    subscription.queue.appendleft(Gap(1, 3, 3, Loss.UPSTREAM))
    subscription.lose_range(5, 6, Loss.UPSTREAM)
    subscription.drop_oldest(Loss.SLOW_CONSUMER)
    assert entries(subscription) == [(1, 6, 6)]


def test_lost_range_stands_behind_what_is_queued():
    """A loss is told in its place."""
    subscription = queued(OutboxKit(), 1)
    subscription.lose_range(2, 5, Loss.UPSTREAM)
    subscription.lose_range(6, 6, Loss.UPSTREAM)
    assert entries(subscription) == [[1], (2, 6, 5)]
    assert subscription.dropped == {Loss.UPSTREAM: 5}


def test_lost_range_in_mode_latest_stands_behind_the_newest_values():
    """Offsets only grow, also where values are conflated."""
    kit = OutboxKit()
    subscription = kit.subscription(mode=Mode.LATEST)
    kit.offer(subscription, publication(1, key="a"), publication(2, key="b"))
    subscription.lose_range(3, 4, Loss.UPSTREAM)
    kit.offer(subscription, publication(5, key="a"))
    assert kit.drain() == [1, 2, (3, 4, 2), 5]
    assert total(subscription) == 5


def test_newest_value_takes_the_place_at_the_end():
    """A conflated value leaves with the offset of the newest, in the order of offsets."""
    kit = OutboxKit()
    subscription = kit.subscription(mode=Mode.LATEST)
    for offset, key in enumerate("abac", 1):
        kit.offer(subscription, publication(offset, key=key))
    assert (subscription.conflated, subscription.queued) == (1, 3)
    assert kit.drain() == [2, 3, 4]


def test_change_to_mode_all_keeps_what_is_queued_in_front():
    """The newest values get their places in the queue."""
    kit = OutboxKit()
    subscription = kit.subscription(mode=Mode.LATEST)
    kit.offer(subscription, publication(1, key="a"), publication(2, key="b"))
    subscription.change_mode(Mode.ALL)
    kit.offer(subscription, publication(3, key="a"))
    assert kit.drain() == [1, 2, 3]
    assert total(subscription) == 3


def test_change_to_mode_latest_keeps_what_is_queued_in_front():
    """What is in the queue already is delivered before the newest values."""
    kit = OutboxKit()
    subscription = queued(kit, 1, 2)
    subscription.change_mode(Mode.LATEST)
    kit.offer(subscription, publication(3))
    kit.offer(subscription, publication(4))
    assert kit.drain() == [1, 2, 4]
    assert (subscription.conflated, total(subscription)) == (1, 4)


def test_loss_in_mode_latest_joins_the_gap_of_mode_all():
    """One run of losses is one gap, also across a change of mode."""
    kit = OutboxKit(max_messages=1)
    subscription = kit.subscription()
    kit.offer_each(subscription, 1, 2)
    subscription.drop_oldest(Loss.SLOW_CONSUMER)
    kit.outbox.messages -= 1  # what the outbox does with the answer
    subscription.change_mode(Mode.LATEST)
    kit.offer_each(subscription, 3, key="a")
    kit.offer_each(subscription, 4, key="b")
    assert kit.drain() == [(1, 3, 3), 4]


def test_collapse_keeps_the_newest_of_each_key_and_tells_the_rest():
    """What goes is conflated, and stands as a gap where it was."""
    kit = OutboxKit()
    subscription = kit.subscription()
    for offset, key in enumerate("aabcac", 1):
        kit.offer(subscription, publication(offset, key=key))
    assert subscription.collapse()[0] == -3
    assert entries(subscription) == [(1, 2, 2), [3], (4, 4, 1), [5], [6]]
    assert (subscription.conflated, subscription.queued) == (3, 3)


def test_collapse_keeps_gaps_and_joins_neighbours():
    """A gap that was there meets one that comes."""
    kit = OutboxKit()
    subscription = queued(kit, 1)
    subscription.lose_range(2, 3, Loss.UPSTREAM)
    kit.offer_each(subscription, 4)
    subscription.collapse()
    assert entries(subscription) == [(1, 3, 3), [4]]
    assert total(subscription) == 4


def test_discard_gives_back_all_that_was_queued():
    """The outbox learns what is free again."""
    kit = OutboxKit()
    subscription = queued(kit, 1, 2)
    subscription.change_mode(Mode.LATEST)
    kit.offer_each(subscription, 3)
    subscription.start_replay([publication(9)])
    assert subscription.discard() == (-kit.outbox.messages, -kit.outbox.bytes)
    assert (subscription.queued, entries(subscription), len(subscription.replay)) == (0, [], 0)


def test_replay_in_mode_latest_is_the_newest_of_each_key():
    """History is conflated like what comes live."""
    kit = OutboxKit()
    subscription = kit.subscription(mode=Mode.LATEST)
    subscription.start_replay([publication(offset, key=key) for offset, key in enumerate("aabca", 1)])
    assert [found.offset for found in subscription.replay] == [3, 4, 5]
    assert total(subscription) == 5


def test_replay_in_mode_latest_does_not_lose_a_value_to_one_that_is_not_seen():
    """What the view does not show cannot be the newest value."""
    kit = OutboxKit()
    subscription = kit.subscription(mode=Mode.LATEST, view=View.of(["price"]))
    subscription.start_replay([publication(1, data=b'{"price":1}'), publication(2, data=b'{"volume":1}')])
    kit.outbox._list(subscription)
    assert kit.drain() == [1]
    assert (subscription.filtered, subscription.conflated, total(subscription)) == (1, 0, 2)


def test_losses_with_nothing_between_them_any_more_are_one():
    """What stood between is not shown by the view that the subscription has by now."""
    kit = OutboxKit()
    subscription = kit.subscription()
    kit.outbox.lose_range(subscription, 1, 2, Loss.UPSTREAM)
    kit.offer_each(subscription, 3, 4)
    kit.outbox.lose_range(subscription, 5, 7, Loss.UPSTREAM)
    subscription.view = View.of(["m"])
    kit.outbox.reframe(LINES)
    assert list(subscription.queue) == [Gap(1, 7, 5, Loss.UPSTREAM)]
    assert (subscription.filtered, total(subscription), kit.outbox.messages, kit.outbox.bytes) == (2, 7, 0, 0)
