"""One-use stand-ins for a login."""

from __future__ import annotations

import gc
import re

import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st

from realtime.auth import ANONYMOUS, Identity
from realtime.errors import CommandError, ErrorCode
from realtime.tickets import Tickets

ANN = Identity("ann", roles=frozenset({"staff"}), claims={"team": 7})


class Clock:
    """Time that stands still unless told."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tickets(clock: Clock) -> Tickets:
    return Tickets(most=5, now=clock)


def refusal(tickets: Tickets, text: str) -> str:
    """With what message a text is refused."""
    with pytest.raises(CommandError) as caught:
        tickets.redeem(text)
    assert caught.value.code is ErrorCode.AUTH_FAILED
    return caught.value.message


def test_ticket_is_good_for_its_login(tickets):
    """As it was given, where the login does not expire."""
    text = tickets.issue(ANN, seconds=30.0)
    assert tickets.redeem(text) is ANN
    assert (len(tickets), tickets.issued, tickets.redeemed, tickets.refused) == (0, 1, 1, 0)


def test_ticket_has_a_form_that_scanners_find_and_256_random_bits(clock):
    tickets = Tickets(now=clock)
    texts = {tickets.issue(ANN, seconds=30.0) for _ in range(50)}
    assert len(texts) == 50
    assert all(re.fullmatch(r"tkt_[A-Za-z0-9_-]{43}", text) for text in texts)
    assert all(map(tickets.is_ticket, texts))


def test_ticket_is_told_from_a_token():
    assert [Tickets.is_ticket(text) for text in ("tkt_", "eyJhbGciOi", "TKT_x", "", "\ud800")] == [True] + [False] * 4


def test_used_expired_and_unknown_ticket_are_refused_alike(tickets, clock):
    """Nobody learns which it is."""
    used, expired = tickets.issue(ANN, seconds=30.0), tickets.issue(ANN, seconds=5.0)
    tickets.redeem(used)
    clock.time += 5.0
    unknown = "tkt_" + "A" * 43
    messages = {refusal(tickets, text) for text in (used, expired, unknown, used[:-1], "", "x" * 100_000, "\ud800")}
    assert len(messages) == 1
    assert (tickets.redeemed, tickets.refused) == (1, 7)


def test_refusal_does_not_repeat_the_ticket(tickets):
    text = tickets.issue(ANN, seconds=30.0)
    tickets.redeem(text)
    with pytest.raises(CommandError) as caught:
        tickets.redeem(text)
    assert text not in f"{caught.value} {caught.value!r}"


def test_ticket_is_good_until_just_before_its_end(tickets, clock):
    text = tickets.issue(ANN, seconds=30.0)
    clock.time += 29.9
    assert tickets.redeem(text) is ANN


async def test_of_two_that_show_a_ticket_at_once_one_wins(tickets):
    """Whichever comes first; the other is refused as any used ticket is."""
    text = tickets.issue(ANN, seconds=30.0)
    outcomes = []

    async def show() -> None:
        await trio.lowlevel.checkpoint()
        try:
            outcomes.append(tickets.redeem(text).user)
        except CommandError as error:
            outcomes.append(error.code)

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(show)
    assert sorted(outcomes) == [ErrorCode.AUTH_FAILED] * 9 + ["ann"]
    assert (tickets.redeemed, tickets.refused) == (1, 9)


def test_login_goes_on_expiring_while_the_ticket_is_out(tickets, clock):
    """What is left of it counts from when the ticket was issued."""
    text = tickets.issue(Identity("ann", 60.0, claims={"team": 7}), seconds=30.0)
    clock.time += 20.0
    identity = tickets.redeem(text)
    assert identity.expires_in == pytest.approx(40.0)
    assert identity.claims == {"team": 7}


def test_ticket_does_not_outlive_its_login(tickets, clock):
    text = tickets.issue(Identity("ann", 10.0), seconds=30.0)
    clock.time += 10.0
    refusal(tickets, text)
    assert len(tickets) == 0


def test_ticket_is_refused_while_too_many_are_out(tickets, clock):
    """There is room again when one was used, or has expired."""
    texts = [tickets.issue(ANN, seconds=10.0 + number) for number in range(5)]
    for make_room in (lambda: tickets.redeem(texts[4]), lambda: setattr(clock, "time", clock.time + 10.0)):
        with pytest.raises(CommandError) as caught:
            tickets.issue(ANN, seconds=30.0)
        assert caught.value.code is ErrorCode.LIMIT_EXCEEDED
        make_room()
        tickets.issue(ANN, seconds=30.0)
    refusal(tickets, texts[0])
    assert [tickets.redeem(text) for text in texts[1:4]] == [ANN] * 3
    assert (tickets.issued, tickets.refused) == (7, 1)


def test_tickets_of_a_user_are_forgotten_and_no_others(tickets, clock):
    """Those that have expired or were used before do not count."""
    used, *rest = [tickets.issue(ANN, seconds=10.0) for _ in range(3)]
    bob, anonymous = tickets.issue(Identity("bob"), seconds=30.0), tickets.issue(ANONYMOUS, seconds=30.0)
    tickets.redeem(used)
    assert (tickets.forget_user("ann"), tickets.forget_user("ann"), tickets.forget_user("never")) == (2, 0, 0)
    for text in rest:
        refusal(tickets, text)
    tickets.issue(ANN, seconds=10.0)
    clock.time += 10.0
    assert tickets.forget_user("ann") == 0
    assert (tickets.redeem(bob).user, tickets.redeem(anonymous).user) == ("bob", None)


def test_nothing_is_left_of_a_ticket_that_is_gone(tickets, clock):
    """Used, forgotten or expired: also the index by user is empty."""
    tickets.redeem(tickets.issue(ANN, seconds=10.0))
    tickets.issue(Identity("bob"), seconds=10.0)
    tickets.forget_user("bob")
    tickets.issue(ANONYMOUS, seconds=10.0)
    clock.time += 10.0
    assert (len(tickets), tickets._of_user) == (0, {})


def test_no_ticket_is_kept_as_it_was_issued(tickets):
    """A dump of the memory holds nothing that can be shown."""
    text = tickets.issue(ANN, seconds=30.0)
    seen, todo = set(), [tickets.__dict__]
    while todo:
        each = todo.pop()
        if id(each) in seen or isinstance(each, type):
            continue
        seen.add(id(each))
        assert each != text
        if isinstance(each, (dict, list, set, tuple)) or type(each).__module__ == "realtime.expiring":
            todo += gc.get_referents(each)
    assert len(seen) > 10
    assert text not in repr(tickets)


@given(st.text(st.characters(exclude_categories=())))
@example("tkt_\ud800")
def test_any_text_is_refused(text):
    """And nothing but refused."""
    refusal(Tickets(now=lambda: 0.0), text)
