"""What a load test counts."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.cli.bench.figures import Histogram, Tally, make_payload
from realtime.cli.bench.report import Report, warnings, words


def text(number: int, due: int = 0) -> bytes:
    return b'{"type":"message","data":' + msgspec.json.encode(make_payload("mark:", number, due, 128)) + b"}"


@given(st.integers(80, 400))
def test_payload_has_the_size_that_was_asked_for(size: int) -> None:
    """In bytes of JSON."""
    assert len(msgspec.json.encode(make_payload("0123456789ab:", 7, 1 << 60, size))) == size


@given(st.lists(st.integers(0, 10**12), min_size=1), st.floats(0.01, 1))
def test_percentile_is_within_two_percent(values: list[int], share: float) -> None:
    """Of the value that it stands for, and never above it."""
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    exact = sorted(values)[max(0, -int(-share * len(values) // 1) - 1)]
    found = histogram.percentile(share)
    assert found <= exact
    assert exact - found <= exact / 64


def test_histograms_are_merged() -> None:
    """As processes count apart; one without values has no percentiles."""
    one, other = Histogram(), Histogram()
    one.add(5)
    other.add(7)
    one.merge(Histogram(list(other.counts.items())))
    assert (one.total, one.percentile(0.5), one.percentile(1)) == (2, 5, 7)
    assert Histogram().percentile(0.5) == 0


def test_message_in_turn_is_a_delivery_with_a_latency() -> None:
    """From when it was due; what warms up is counted, its latency is not."""
    tally = Tally("mark:", 2, first=1)
    assert tally.take(0, text(0, due=10), 500)
    assert tally.take(0, text(1, due=10), 14)
    assert tally.take(1, text(0), 20)
    assert (tally.delivered, tally.duplicates, tally.latencies.total) == (3, 0, 1)
    assert (tally.longest, tally.last_at) == (4, 14)


def test_message_of_somebody_else_is_not_ours() -> None:
    """Pings, replies, and what others publish on the topic."""
    tally = Tally("mark:", 1, first=0)
    assert not tally.take(0, b'{"type":"ping"}', 1)
    assert tally.delivered == 0


def test_message_twice_is_a_duplicate() -> None:
    """Whether it was the newest or not."""
    tally = Tally("mark:", 1, first=0)
    for number in (0, 0, 1, 0):
        tally.take(0, text(number), 1)
    assert (tally.delivered, tally.duplicates) == (2, 2)


def test_message_out_of_turn_is_no_duplicate_the_first_time() -> None:
    """Publishes that are under way together may pass each other."""
    tally = Tally("mark:", 1, first=0)
    for number in (2, 0, 0, 3, 1):
        tally.take(0, text(number), 1)
    assert (tally.delivered, tally.duplicates) == (4, 1)


def test_what_did_not_come_is_lost_however_much_else_came() -> None:
    """Each subscriber is to get each number that was accepted; one that had no answer makes up for none of them."""
    tally = Tally("mark:", 3, first=0)
    for number in (0, 1, 2, 3, 4):
        tally.take(0, text(number), 1)
    for number in (0, 1, 4):  # 3 was refused, or had no answer
        tally.take(1, text(number), 1)
    assert tally.lost(5, [3]) == 0 + 1 + 4
    assert tally.lost(5, []) == 0 + 2 + 5
    assert tally.lost(7, [2, 3, 6]) == 1 + 1 + 4
    assert tally.delivered == 8


def report(**changes: object) -> Report:
    usual: dict[str, object] = {
        "transport": "sse",
        "connections": 10,
        "connects_per_second": 100.0,
        "size": 128,
        "rate": 20.0,
        "published": 40,
        "refused": 0,
        "refusal": None,
        "delivered": 400,
        "unconfirmed": 0,
        "deliveries_per_second": 200.0,
        "lost": 0,
        "duplicated": 0,
        "lost_connections": 0,
        "latency_ms": {"p50": 1.0, "max": 2.5},
        "late_seconds": 0.0,
        "publisher_cpu": 0.1,
        "receiver_cpu": 0.2,
    }
    return Report(**(usual | changes))  # type: ignore[arg-type]


def test_good_run_has_figures_and_no_warnings() -> None:
    """Five lines."""
    lines = list(words(report()))
    assert len(lines) == 5
    assert "p50 1.00  max 2.50" in lines[3]
    assert list(warnings(report())) == []
    assert not report().faulty


@pytest.mark.parametrize(
    ("changes", "said", "faulty"),
    [
        ({"publisher_cpu": 0.95}, "publishing took 95%", False),
        ({"receiver_cpu": 0.95}, "--processes", False),
        ({"late_seconds": 0.5}, "0.50 s late", False),
        ({"refused": 2, "refusal": "NO: why"}, "2 publishes were refused or had no answer: NO: why", True),
        ({"unconfirmed": 4}, "4 deliveries more were of publishes that had failed", False),
        ({"lost_connections": 1}, "1 connections were lost", True),
        ({"lost": 3}, "3 deliveries were lost", True),
        ({"duplicated": 3}, "3 came twice", True),
    ],
)
def test_what_spoils_the_figures_is_told(changes: dict[str, object], said: str, *, faulty: bool) -> None:
    """The bench's own limits are no faults of the server."""
    (line,) = warnings(report(**changes))
    assert said in line
    assert report(**changes).faulty is faulty
