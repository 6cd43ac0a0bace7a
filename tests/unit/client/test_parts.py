"""The parts of a client by themselves: what waits to be read, when to try again, events of a stream."""

from __future__ import annotations

from itertools import pairwise

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from realtime import Lost
from realtime.client.backoff import Backoff, Choice
from realtime.client.inbox import Inbox, Unread
from transports.links.event_stream import EventStream


def unread(offset, *, topic="room:a", size=1):
    return Unread(topic, "e", offset, 0, Raw(b"x" * size), None, None)


async def drain(inbox):
    items = []
    while len(inbox):
        item = await inbox.take()
        lost = None if isinstance(item, Unread) else item[0]
        items.append(item.offset if lost is None else (lost.first, lost.last, lost.count, lost.reason))
    return items


async def test_oldest_give_way_by_number_and_by_size():
    by_number, by_size = Inbox(2, 1000), Inbox(100, 25)
    for offset in range(1, 6):
        by_number.put(unread(offset))
        by_size.put(unread(offset, size=10))
    assert await drain(by_number) == await drain(by_size) == [(1, 3, 3, "slow_reader"), 4, 5]
    by_size.put(unread(6, size=1000))
    assert await drain(by_size) == [6]


async def test_gaps_that_give_way_are_counted_in():
    """Also where offsets are sparse; and a new life of the topic takes the place of all before it."""
    inbox = Inbox(1, 1000)
    inbox.put(unread(1))
    inbox.put(Lost("room:a", 2, 9, 3, "slow_consumer"), "e")
    inbox.put(unread(12))
    inbox.put(unread(13))
    inbox.put(unread(7, topic="room:b"))
    inbox.put(unread(8, topic="room:b"))
    assert await drain(inbox) == [(1, 13, 6, "slow_reader"), (7, 7, 1, "slow_reader"), 8]
    inbox.put(unread(14))
    inbox.put(Lost("room:a", 1, 2, 2, "epoch_changed"), "f")
    inbox.put(unread(3))
    inbox.put(unread(4))
    assert await drain(inbox) == [(1, 3, 3, "epoch_changed"), 4]


async def test_end_comes_after_what_is_there_and_only_the_first_counts():
    inbox = Inbox(10, 1000)
    inbox.put(unread(1))
    inbox.end()
    inbox.end(ValueError("late"))
    assert await drain(inbox) == [1]
    with pytest.raises(trio.EndOfChannel):
        await inbox.take()


def test_waits_grow_to_their_ceiling_and_end_after_the_last_try():
    backoff = Backoff(first_seconds=3.0, most_seconds=30.0, tries=5, random=lambda: 1.0)
    assert [backoff.seconds(number) for number in (1, 2, 3, 4, 5, 10_000)] == [3, 6, 12, 24, 30, 30]
    assert backoff.seconds(1, 7.5) == 10.5
    assert [backoff.exhausted(number) for number in (4, 5)] == [False, True]
    with pytest.raises(ValueError, match="not less"):
        Backoff(first_seconds=3.0, most_seconds=2.0, tries=None, random=lambda: 1.0)


def test_way_is_left_at_the_second_failure_in_a_row():
    choice = Choice(["a", "b"])
    choice.failed()
    choice.worked()
    choice.failed()
    assert choice.way == "a"
    choice.failed()
    assert choice.way == "b"
    choice.blocked()
    assert choice.way == "a"


STREAM = (
    b": hello\r\nretry: 10\n\nid: 1\nevent: ping\ndata: {}\r\n\r\ndata:a\rdata:  b\rid: x\0\n\n"
    b"event: none\n\ndata\nother: 1\n\n"
)


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_events_are_the_same_however_the_bytes_are_cut(cuts):
    edges = [0, *sorted(cuts), len(STREAM)]
    stream = EventStream(1000)
    events = [
        (event.type, event.data, event.id) for start, end in pairwise(edges) for event in stream.feed(STREAM[start:end])
    ]
    assert events == [("ping", b"{}", "1"), ("message", b"a\n b", "1"), ("message", b"", "1")]


@pytest.mark.parametrize("chunk", [b"x" * 20, b"data: 1234567890\n", b"data\n" * 10])
def test_event_that_is_too_long_is_refused(chunk):
    stream = EventStream(25)
    with pytest.raises(ValueError, match="too long"):
        for _ in range(3):
            list(stream.feed(chunk))
