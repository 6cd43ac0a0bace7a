"""When a call is tried again: which failures pass, how long to wait, when to give up. No I/O; time is an argument."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from attrs import field, frozen, validators

from transports.publishers.calls import PublishError

__all__ = ["Attempts", "Policy"]

#: None is a failure without an answer. 500 is not here: what broke the server once would do so again.
_PASSING = {
    None,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
}


def _check_backoff(_policy: Policy, _attribute: object, value: tuple[float, float]) -> None:
    first, most = value
    if not 0 <= first <= most:
        raise ValueError("backoff_seconds is the longest first wait, then the longest of all")


@frozen(kw_only=True)
class Policy:
    """How patient a publisher is."""

    timeout_seconds: float = field(validator=validators.gt(0))
    deadline_seconds: float = field(validator=validators.gt(0))
    attempts: int = field(validator=[validators.ge(1), validators.le(100)])
    backoff_seconds: tuple[float, float] = field(validator=_check_backoff)
    #: Gives a number from 0 to 1.
    random: Callable[[], float]


class Attempts:
    """The attempts of one call: a state machine that is told each failure."""

    def __init__(self, policy: Policy, now: float) -> None:
        self._policy = policy
        self._deadline = now + policy.deadline_seconds
        self._failed = 0
        #: How long the next attempt may take.
        self.seconds = min(policy.timeout_seconds, policy.deadline_seconds)

    def wait_seconds(self, failure: PublishError, now: float) -> float:
        """How long to wait before the next attempt; raises ``failure`` if there is to be none.

        A server that says when to come back is not asked before; where that is past the deadline, there is no
        point in waiting for it.
        """
        self._failed += 1
        failure.attempts = self._failed
        first, most = self._policy.backoff_seconds
        # Full jitter: publishers that failed together do not come back together.
        wait = (failure.retry_after or 0.0) + self._policy.random() * min(most, first * 2.0 ** (self._failed - 1))
        left = self._deadline - now - wait
        if failure.status not in _PASSING or self._failed >= self._policy.attempts or left <= 0:
            raise failure
        self.seconds = min(self._policy.timeout_seconds, left)
        return wait
