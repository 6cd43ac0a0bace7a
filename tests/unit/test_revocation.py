"""Logins that were taken back."""

from __future__ import annotations

import math
import time

import pytest

from realtime.auth import ANONYMOUS, Identity
from realtime.errors import CommandError, ErrorCode
from realtime.revocation import Revocations

NOW = 1_700_000_000.7


class Clock:
    """Time that stands still unless told."""

    def __init__(self) -> None:
        self.time = NOW

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def revocations(clock: Clock) -> Revocations:
    return Revocations(most=3, keep_seconds=100.0, now_unix=clock)


def ann(issued_at: float | None = None, token_id: str | None = None) -> Identity:
    """One of Ann's logins."""
    return Identity("ann", issued_at=issued_at, token_id=token_id)


def test_login_is_good_unless_it_was_revoked(revocations):
    for identity in (ann(), ann(0.0, "t1"), ANONYMOUS, Identity(token_id="t1")):
        revocations.check(identity)
    assert (len(revocations), revocations.revoked, revocations.refused) == (0, 0, 0)


def test_revoked_token_is_refused_and_no_other_of_its_user(revocations):
    """Whenever it was made, by its own account."""
    revocations.revoke_token("t1")
    for issued_at in (None, NOW - 50.0, NOW + 50.0, math.inf):
        with pytest.raises(CommandError) as caught:
            revocations.check(ann(issued_at, "t1"))
        assert (caught.value.code, caught.value.message) == (ErrorCode.AUTH_FAILED, "the login was revoked")
    revocations.check(ann(NOW, "t2"))
    revocations.check(ann(NOW))
    assert (revocations.revoked, revocations.refused) == (1, 4)


def test_question_is_not_counted_as_a_refusal(revocations):
    revocations.revoke_token("t1")
    assert revocations.is_revoked(ann(token_id="t1"))
    assert revocations.refused == 0


@pytest.mark.parametrize(
    ("issued_at", "revoked"),
    [
        (NOW - 50.0, True),
        (math.floor(NOW) - 1.0, True),
        (math.floor(NOW), True),
        (NOW - 0.1, True),
        (math.floor(NOW) + 0.99, True),
        (math.floor(NOW) + 1.0, False),
        (NOW + 50.0, False),
        (None, True),
        (math.nan, True),
    ],
)
def test_tokens_of_a_user_up_to_the_second_of_the_revocation_are_refused(revocations, issued_at, revoked):
    """Seconds are all that most tokens tell; what cannot be told to be later is refused."""
    revocations.revoke_user("ann")
    assert revocations.is_revoked(ann(issued_at)) is revoked


def test_revocation_of_a_user_is_about_no_other(revocations):
    """A token and a user of the same name are two things."""
    revocations.revoke_user("ann")
    assert not revocations.is_revoked(Identity("bob", issued_at=0.0))
    assert not revocations.is_revoked(ANONYMOUS)
    assert not revocations.is_revoked(Identity("bob", token_id="ann"))
    revocations.revoke_token("bob")
    assert not revocations.is_revoked(Identity("bob", token_id="t1"))


def test_user_who_is_revoked_again_loses_what_came_between(revocations, clock):
    revocations.revoke_user("ann")
    clock.time += 10.0
    between = ann(clock.time)
    assert not revocations.is_revoked(between)
    revocations.revoke_user("ann")
    assert revocations.is_revoked(between)
    assert (len(revocations), revocations.revoked) == (1, 2)


def test_revocation_is_forgotten_in_its_time(revocations, clock):
    """A token's with the token, if its end is known."""
    revocations.revoke_token("t1", until=NOW + 10.0)
    revocations.revoke_token("t2")
    revocations.revoke_user("ann")
    clock.time = NOW + 9.9
    assert revocations.is_revoked(Identity("bob", token_id="t1"))
    clock.time = NOW + 10.0
    assert not revocations.is_revoked(Identity("bob", token_id="t1"))
    clock.time = NOW + 99.9
    assert revocations.is_revoked(Identity("bob", token_id="t2"))
    assert revocations.is_revoked(ann(NOW - 5.0))
    clock.time = NOW + 100.0
    assert not revocations.is_revoked(ann(NOW - 5.0, "t2"))
    assert len(revocations) == 0


def test_revocation_is_never_cut_short(revocations, clock):
    """Neither by a second one that ends earlier, nor by a clock that was set back."""
    revocations.revoke_token("t1", until=NOW + 50.0)
    revocations.revoke_token("t1", until=NOW + 10.0)
    clock.time = NOW - 20.0
    revocations.revoke_user("ann")
    clock.time = NOW
    revocations.revoke_user("ann")
    clock.time = NOW - 20.0
    revocations.revoke_user("ann")
    clock.time = NOW + 40.0
    assert revocations.is_revoked(Identity("bob", token_id="t1"))
    assert revocations.is_revoked(ann(NOW))
    clock.time = NOW + 99.0
    assert revocations.is_revoked(ann(NOW))


def test_too_many_revocations_are_refused_and_none_is_forgotten(revocations, clock):
    """Who wanted one more is told. One that stands already can be renewed; an expired one makes room."""
    revocations.revoke_token("t1", until=NOW + 10.0)
    revocations.revoke_token("t2")
    revocations.revoke_user("ann")
    for revoke in (revocations.revoke_token, revocations.revoke_user):
        with pytest.raises(CommandError) as caught:
            revoke("bob")
        assert caught.value.code is ErrorCode.LIMIT_EXCEEDED
        assert "bob" not in caught.value.message
    assert all(map(revocations.is_revoked, (ann(), Identity(token_id="t1"), Identity(token_id="t2"))))
    assert not revocations.is_revoked(Identity("bob", token_id="bob"))
    revocations.revoke_user("ann")
    clock.time += 10.0
    revocations.revoke_user("bob")
    assert revocations.is_revoked(Identity("bob"))
    assert (len(revocations), revocations.revoked) == (3, 5)


def test_clock_is_the_one_of_tokens_unless_told():
    """Tokens tell the time in seconds since 1970."""
    revocations = Revocations()
    revocations.revoke_user("ann")
    assert revocations.is_revoked(ann(time.time() - 5.0))
    assert not revocations.is_revoked(ann(time.time() + 5.0))
    assert len(revocations) == 1
