"""How fast one peer may talk."""

from __future__ import annotations

import pytest

from realtime.throttle import STRIKES, Throttle, too_fast


def test_peer_without_a_rate_is_never_too_fast():
    throttle = Throttle(None, 1)
    assert [throttle.take(0.0) for _ in range(1000)] == [0.0] * 1000


def test_peer_over_its_burst_is_told_how_long_to_wait():
    """And refused commands cost nothing: waiting that long is enough."""
    throttle = Throttle(4, 2)
    assert [throttle.take(10.0) for _ in range(5)] == [0.0, 0.0, 0.25, 0.25, 0.25]
    assert throttle.take(10.25) == 0.0


def test_peer_that_is_refused_without_end_is_too_much():
    """So many refusals are forgiven at once, and one more each second."""
    throttle = Throttle(1, 1)
    assert not any(throttle.strike(0.0) for _ in range(int(STRIKES)))
    assert throttle.strike(0.0)
    assert not throttle.strike(1.0)
    assert throttle.strike(1.0)


@pytest.mark.parametrize(("wait", "told"), [(0.5, 0.5), (0.0001, 0.001), (1.0001, 1.001), (3.0, 3.0)])
def test_time_that_is_told_is_never_too_short(wait, told):
    """In whole milliseconds."""
    error = too_fast(wait)
    assert (error.code, error.retry_after) == ("RATE_LIMIT_EXCEEDED", told)
