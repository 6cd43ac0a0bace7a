"""The audit log: what is written, what cannot be, and what a flood leaves of it."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import structlog

from realtime.audit import MAX_CHARACTERS, Audit, AuditEvent
from realtime.errors import ErrorCode

LEFT_OUT = "audit events left out"


class Clock:
    """A time that the test sets."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def lines():
    """What is written."""
    with structlog.testing.capture_logs() as lines:
        yield lines


# -- what is written ---------------------------------------------------------------------------------------------


def test_event_is_one_line_with_what_is_known_of_it(clock, lines):
    Audit(enabled=True, now=clock).record(
        AuditEvent.DENIED,
        connection="c1",
        user="ann",
        address="192.0.2.7",
        transport="sse",
        topic="room:a",
        code=ErrorCode.PERMISSION_DENIED,
        reason="no rule allows it",
        key="backend",
        count=0,
    )
    (line,) = lines
    assert line == {
        "event": "audit",
        "log_level": "warning",
        "audit": "denied",
        "connection": "c1",
        "user": "ann",
        "address": "192.0.2.7",
        "transport": "sse",
        "topic": "room:a",
        "code": "PERMISSION_DENIED",
        "reason": "no rule allows it",
        "key": "backend",
        "count": 0,
    }
    assert {type(value) for value in line.values()} == {str, int}


def test_what_is_not_known_is_left_out(clock, lines):
    Audit(enabled=True, now=clock).record(AuditEvent.CONNECT, address="")
    assert lines == [{"event": "audit", "log_level": "info", "audit": "connect", "address": ""}]


def test_refusals_are_warnings_and_the_rest_is_not(clock, lines):
    audit = Audit(enabled=True, now=clock)
    for event in AuditEvent:
        audit.record(event)
    warnings = {line["audit"] for line in lines if line["log_level"] == "warning"}
    assert warnings == {"refused", "denied", "revoked", "rate_limited"}
    assert len(lines) == len(AuditEvent)


def test_disabled_log_counts_and_writes_nothing(clock, lines):
    audit = Audit(enabled=False, now=clock)
    for _ in range(1000):
        audit.record(AuditEvent.LOGIN, user="ann")
    audit.flush()
    assert lines == []
    assert (audit.counts[AuditEvent.LOGIN], audit.counts[AuditEvent.CONNECT]) == (1000, 0)


async def test_time_is_that_of_trio_unless_told(autojump_clock, lines):
    Audit(enabled=True).record(AuditEvent.CONNECT)
    assert len(lines) == 1


# -- what cannot be ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", ["token", "ticket", "authorization", "cookie", "secret", "claims"])
def test_secret_has_no_member_to_stand_in(clock, secret):
    with pytest.raises(TypeError):
        Audit(enabled=True, now=clock).record(AuditEvent.LOGIN, **{secret: "x"})


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("ann\n{}", "ann\\u000a{}"),
        ("ann\r\nERROR all is lost", "ann\\u000d\\u000aERROR all is lost"),
        ("\x1b[2J\x1b]0;owned\x07", "\\u001b[2J\\u001b]0;owned\\u0007"),
        ("\x9b31m", "\\u009b31m"),
        ("a\x00b\x7f", "a\\u0000b\\u007f"),
        ("a\x85b", "a\\u0085b"),
        ("a\u2028b\u2029c", "a\\u2028b\\u2029c"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\u2066a\u2069\u200f\u061c", "\\u2066a\\u2069\\u200f\\u061c"),
        ("a\u200bn\ufeffn\u00ad", "a\\u200bn\\ufeffn\\u00ad"),
        ("\U000e0041", "\\U000e0041"),
        ("\ud800", "\\ud800"),
        ("Zoë 東京 🙂", "Zoë 東京 🙂"),
    ],
)
@pytest.mark.parametrize("member", ["connection", "user", "address", "transport", "topic", "code", "reason", "key"])
def test_text_that_would_forge_a_line_is_written_out(clock, lines, member, text, written):
    """It stays one line, of one direction, as JSON and on a terminal."""
    Audit(enabled=True, now=clock).record(AuditEvent.REFUSED, **{member: text})
    (line,) = lines
    assert line[member] == written
    rendered = structlog.dev.ConsoleRenderer(colors=False)(None, "info", dict(line))
    assert rendered.isprintable()
    rendered = structlog.processors.JSONRenderer(ensure_ascii=False)(None, "info", dict(line))
    assert rendered.isprintable()
    assert json.loads(rendered) == line


def test_long_text_is_cut(clock, lines):
    Audit(enabled=True, now=clock).record(AuditEvent.REFUSED, reason="x" * 10_000)
    assert lines[0]["reason"] == "x" * MAX_CHARACTERS


# -- floods ------------------------------------------------------------------------------------------------------


def told(lines: list[dict]) -> Counter[str]:
    """How many events of each kind the lines speak of."""
    kinds: Counter[str] = Counter()
    for line in lines:
        kinds[line["audit"]] += line["count"] if line["event"] == LEFT_OUT else 1
    return kinds


def test_flood_writes_few_lines_and_loses_no_count(clock, lines):
    """However many addresses it comes from."""
    audit = Audit(enabled=True, rate=50, burst=200, now=clock)
    for number in range(100_000):
        audit.record(AuditEvent.REFUSED, address=f"192.0.2.{number % 100}")
        clock.time += 0.0001
    assert 600 < len(lines) <= 200 + 50 * 10
    audit.flush()
    assert told(lines) == {"refused": 100_000}
    assert audit.counts[AuditEvent.REFUSED] == 100_000


@pytest.mark.parametrize(
    ("flood", "other"),
    [
        ({"user": "eve", "address": "192.0.2.7"}, {"user": "ann", "address": "192.0.2.7"}),
        ({"address": "192.0.2.7"}, {"user": "ann", "address": "192.0.2.7"}),
        ({"address": "192.0.2.7"}, {"address": "192.0.2.8"}),
        ({"address": "192.0.2.7"}, {}),
    ],
)
def test_flood_of_one_hides_nothing_that_others_do(flood, other, clock, lines):
    """Of each kind it has a tenth of the lines; what is left out is counted as ever."""
    audit = Audit(enabled=True, rate=50, burst=200, now=clock)
    for _ in range(10_000):
        audit.record(AuditEvent.DENIED, **flood, topic="room:flood")
        clock.time += 0.001
    assert 20 + 40 <= sum(line["event"] == "audit" for line in lines) <= 20 + 50
    lines.clear()
    audit.record(AuditEvent.DENIED, **other, topic="room:a")
    assert [line.get("topic") for line in lines if line["event"] == "audit"] == ["room:a"]
    audit.flush()
    assert audit.counts[AuditEvent.DENIED] == 10_001


def test_addresses_of_one_network_share_their_lines(clock, lines):
    """One customer has more addresses of IPv6 than there are lines."""
    audit = Audit(enabled=True, rate=50, burst=200, now=clock)
    for number in range(1000):
        audit.record(AuditEvent.REFUSED, address=f"2001:db8::{number:x}")
    assert len(lines) == 20


def test_flood_of_one_kind_hides_no_other(clock, lines):
    audit = Audit(enabled=True, burst=2, now=clock)
    for _ in range(10):
        audit.record(AuditEvent.REFUSED)
    audit.record(AuditEvent.OPERATOR)
    assert [line["audit"] for line in lines] == ["refused", "refused", "operator"]


def test_left_out_is_told_before_the_next_event_that_fits(clock, lines):
    """Both lines are paid for: one that fits alone waits."""
    audit = Audit(enabled=True, rate=1, burst=2, now=clock)
    for _ in range(5):
        audit.record(AuditEvent.LOGIN)
    lines.clear()
    clock.time += 1
    audit.record(AuditEvent.LOGIN)
    assert lines == []
    clock.time += 1
    audit.record(AuditEvent.LOGIN)
    assert [(line["event"], line.get("count")) for line in lines] == [(LEFT_OUT, 4), ("audit", None)]
    assert lines[0]["log_level"] == "warning"


def test_flush_tells_what_was_left_out_once(clock, lines):
    audit = Audit(enabled=True, burst=2, now=clock)
    for _ in range(5):
        audit.record(AuditEvent.LOGIN)
    del lines[:]
    audit.flush()
    audit.flush()
    assert lines == [{"event": LEFT_OUT, "log_level": "warning", "audit": "login", "count": 3}]


# -- a log that cannot be written --------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("I/O operation on closed file")])
def test_log_that_cannot_be_written_stops_nobody_and_is_made_up_for(clock, error):
    """What was lost meanwhile is told as left out."""
    broken = True

    def disk(logger, method, line):
        if broken:
            raise error
        return line

    audit = Audit(enabled=True, now=clock)
    with structlog.testing.capture_logs(processors=[disk]) as lines:
        for _ in range(3):
            audit.record(AuditEvent.CONNECT)
        audit.flush()
        broken = False
        audit.record(AuditEvent.CONNECT)
    assert told(lines) == {"connect": 4}


@pytest.mark.parametrize("wrong", [{"rate": 0}, {"burst": 1}])
def test_rate_at_which_nothing_could_be_told_is_refused(wrong):
    with pytest.raises(ValueError):
        Audit(enabled=True, **wrong)
