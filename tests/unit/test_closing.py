"""Close reasons."""

from __future__ import annotations

from realtime import closing
from realtime.closing import CloseReason, with_jitter

REASONS = [value for name in closing.__all__ if isinstance(value := getattr(closing, name), CloseReason)]


def test_application_codes_tell_whether_to_come_back():
    """40xx stay away, 4029 apart; 41xx come back."""
    for reason in REASONS:
        if reason.code >= 4000:
            assert reason.reconnect is (reason.code >= 4100 or reason.code == 4029), reason


def test_codes_are_unique():
    """One code, one reason."""
    assert len({reason.code for reason in REASONS}) == len(REASONS)


def test_only_the_peer_that_is_gone_does_not_listen():
    """A goodbye is tried for everybody else."""
    assert [reason for reason in REASONS if not reason.peer_listens] == [closing.GONE]


def test_jitter_spreads_a_crowd_within_its_bounds():
    """Each peer gets a time of its own, no longer than asked for, and the rest of the reason stays."""
    jittered = [with_jitter(closing.SHUTTING_DOWN, 10.0) for _ in range(200)]
    times = {reason.retry_after for reason in jittered}
    assert len(times) > 20
    assert all(1.0 <= time <= 10.0 for time in times)
    assert {(reason.code, reason.text, reason.reconnect) for reason in jittered} == {(4100, "shutting down", True)}
