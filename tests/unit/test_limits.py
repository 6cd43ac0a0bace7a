"""Token buckets, counts, and under which key an address is counted."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.limits import Bucket, Buckets, Counts, network

rates = st.floats(0.01, 1e5)
bursts = st.floats(1, 1e5)
#: Of a monotonic clock, and of one that counts from 1970.
starts = st.sampled_from([0.0, 0.3, 12_345.678, 2e9 + 0.1])
steps = st.lists(st.tuples(st.floats(0, 30), st.floats(0.01, 20)), min_size=1, max_size=30)

# -- a bucket ----------------------------------------------------------------------------------------------------


def test_bucket_gives_its_burst_and_then_its_rate():
    bucket = Bucket(2, 3)
    assert [bucket.take(10.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert [bucket.take(10.5), bucket.take(10.5)] == [0.0, 0.5]


def test_bucket_left_alone_holds_no_more_than_its_burst():
    bucket = Bucket(2, 3)
    bucket.take(0.0, 3)
    assert not bucket.is_full(1.0)
    assert bucket.is_full(1.5)
    assert bucket.take(1e6, 3) == 0.0
    assert bucket.peek(1e6) == 0.5


def test_more_than_a_bucket_holds_is_never_given():
    """And the wait says so."""
    assert Bucket(2, 3).take(0.0, 4) == inf


@given(rates, bursts, starts, steps)
def test_bucket_gives_in_no_window_more_than_burst_and_rate(rate, burst, start, steps):
    bucket = Bucket(rate, burst)
    now, taken = start, []
    for gap, count in steps:
        now += gap
        if bucket.take(now, count) == 0.0:
            taken.append((now, count))
    for first in range(len(taken)):
        total = 0.0
        for at, count in taken[first:]:
            total += count
            assert total <= (burst + rate * (at - taken[first][0])) * (1 + 1e-9)


@given(rates, bursts, starts, steps)
def test_refused_is_told_an_honest_wait(rate, burst, start, steps):
    """After so long it is given, well before it is not, and asking has changed nothing."""
    bucket = Bucket(rate, burst)
    now = start
    for gap, count in steps:
        now += gap
        wait = bucket.take(now, count)
        if wait == inf:
            assert count > burst
        elif wait:
            assert bucket.peek(now, count) == wait
            assert wait < 1e-4 or bucket.peek(now + wait * 0.9, count) > 0
            now += wait
            assert bucket.peek(now, count) == 0.0
            assert bucket.take(now, count) == 0.0


# -- buckets by key ----------------------------------------------------------------------------------------------


def test_each_key_has_a_bucket_of_its_own():
    buckets = Buckets(1, 2, 10)
    assert [buckets.take("a", 0.0) for _ in range(3)] == [0.0, 0.0, 1.0]
    assert buckets.take("b", 0.0, 2) == 0.0
    assert (buckets.peek("a", 0.5), buckets.peek("b", 2.0)) == (0.5, 0.0)


def test_peeking_keeps_no_bucket():
    buckets = Buckets(1, 2, 10)
    assert buckets.peek("a", 0.0) == 0.0
    assert len(buckets) == 0


def test_full_table_forgets_a_bucket_that_is_full_again():
    """It is not the one that was used least lately, and nobody gains by it."""
    buckets = Buckets(1, 10, 2)
    buckets.take("empty", 0.0, 10)
    buckets.take("lightly used", 1.0)
    buckets.take("new", 2.0)
    assert len(buckets) == 2
    assert buckets.peek("empty", 0.0) == 1.0


def test_full_table_without_a_full_bucket_forgets_the_one_used_least_lately():
    """Also where there are more than it looks at."""
    buckets = Buckets(1, 10, 12)
    for key in "abcdefghijkla":
        buckets.take(key, 0.0, 10)
    buckets.take("new", 0.0)
    assert [key for key in "abcdefghijkl" if buckets.peek(key, 0.0) == 0.0] == ["b"]


def test_bucket_of_an_offender_outlives_a_flood_of_keys():
    """An address that is out of tokens gets no new ones by sending from others, as long as those are let refill."""
    buckets = Buckets(1, 50, 20)
    buckets.take("offender", 0.0, 50)
    for number in range(300):
        buckets.take(f"other {number}", number * 0.1)
    assert buckets.peek("offender", 0.0) == 1.0


@given(st.integers(1, 12), st.lists(st.tuples(st.integers(0, 40), st.floats(0, 3), st.floats(1, 4)), max_size=60))
def test_table_never_outgrows_its_bound(most, uses):
    buckets = Buckets(1, 4, most)
    now = 0.0
    for key, gap, count in uses:
        now += gap
        buckets.take(str(key), now, count)
        assert len(buckets) <= most


# -- how many at once --------------------------------------------------------------------------------------------


def test_one_too_many_is_refused_until_another_leaves():
    counts = Counts(2)
    assert [counts.enter("a"), counts.enter("a"), counts.enter("a"), counts.enter("b")] == [True, True, False, True]
    assert (counts["a"], counts["b"], counts["c"]) == (2, 1, 0)
    counts.leave("a")
    assert counts.enter("a")


def test_counts_without_a_bound_let_everyone_in():
    counts = Counts(None)
    assert all(counts.enter("a") for _ in range(1000))
    assert counts["a"] == 1000


def test_key_that_has_none_is_not_kept():
    """Neither one that was left, nor one that was asked for or refused."""
    counts = Counts(1)
    counts.enter("a")
    counts.leave("a")
    assert counts["b"] == 0
    assert not Counts(0).enter("c")
    assert counts._counts == {}


# -- addresses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::FFFF:c000:0207", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.7%eth0", "192.0.2.7"),
        ("", ""),
        ("/run/realtime.sock", "/run/realtime.sock"),
        ("192.0.2.07", "192.0.2.07"),
        ("a name%b", "a name%b"),
    ],
)
def test_address_is_counted_by_its_network(address, key):
    assert network(address) == key
