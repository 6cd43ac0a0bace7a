"""Who is let in, as far as numbers go."""

from __future__ import annotations

from collections import Counter

import pytest

from realtime import CommandError, Settings
from realtime.admission import CROWDED_RETRY_SECONDS, OFFENCES, STRANGERS_SHARE, Admission, Crowded, whose

#: Two addresses of one customer, and one of another.
HOME, PHONE, OTHER = "2001:db8:1:2::7", "2001:db8:1:2:ffff::1", "2001:db8:1:3::7"


class Desk:
    """An admission, its clock, and what it has refused."""

    def __init__(self, **options) -> None:
        self.time = 1000.0
        self.refused: Counter[str] = Counter()
        self.admission = Admission(Settings(**options), self._refuse, now=lambda: self.time)

    def _refuse(self, reason: str) -> None:
        self.refused[reason] += 1


def test_connections_that_come_too_fast_are_put_off():
    """For a second at least, as not all of them are to come back at once; all others are counted by nobody."""
    desk = Desk(admission_rate=10, admission_burst=3)
    errors = [desk.admission.admit() for _ in range(4)]
    assert errors[:3] == [None] * 3
    assert (errors[3].code, errors[3].retry_after) == ("UNAVAILABLE", 1.0)
    desk.time += 0.1
    assert desk.admission.admit() is None
    assert desk.refused == {"admission_rate": 1}


def test_connections_that_have_to_wait_long_are_told_how_long():
    desk = Desk(admission_rate=0.1, admission_burst=1)
    assert desk.admission.admit() is None
    assert desk.admission.admit().retry_after == pytest.approx(10)


def test_connections_of_an_address_are_bounded():
    """Of IPv6 those of a network of 64 bits together; each that leaves makes room."""
    desk = Desk(max_connections_per_address=2)
    assert [desk.admission.enter(address) for address in (HOME, PHONE, OTHER)] == [None] * 3
    error = desk.admission.enter(HOME)
    assert error.code == "LIMIT_EXCEEDED"
    assert error.retry_after > 0
    desk.admission.leave(PHONE)
    assert desk.admission.enter(HOME) is None
    assert desk.refused == {"too_many_of_address": 1}


def test_address_that_offends_again_and_again_is_shut_out():
    """For as long as it is told; to be refused at the door is held against nobody, or it would never end."""
    desk = Desk(refusal_rate=0.5, refusal_burst=3)
    for _ in range(3):
        assert desk.admission.shut_out(HOME) is None
        desk.admission.offend(PHONE)
    for _ in range(10):
        error = desk.admission.shut_out(HOME)
        assert (error.code, error.retry_after) == ("RATE_LIMIT_EXCEEDED", 2.0)
    assert desk.admission.shut_out(OTHER) is None
    desk.time += 2.0
    assert desk.admission.shut_out(HOME) is None
    assert desk.refused == {"shut_out": 10}


def test_address_is_shut_out_for_a_second_at_least():
    desk = Desk(refusal_rate=100, refusal_burst=1)
    desk.admission.offend(HOME)
    assert desk.admission.shut_out(HOME).retry_after == 1.0


def test_what_a_server_does_for_want_of_room_is_no_offence():
    """Nor is what a good client may run into."""
    assert not OFFENCES & {"UNAVAILABLE", "LIMIT_EXCEEDED", "RATE_LIMIT_EXCEEDED", "INTERNAL_ERROR", "TIMEOUT"}


def test_user_has_so_many_connections():
    desk = Desk(max_connections_per_user=2)
    desk.admission.check_user(1)
    with pytest.raises(CommandError, match="LIMIT_EXCEEDED") as caught:
        desk.admission.check_user(2)
    assert caught.value.retry_after > 0
    assert desk.refused == {"too_many_of_user": 1}


@pytest.mark.parametrize(
    ("check", "options", "reason"),
    [
        (Admission.check_publish, {"publish_rate": 2, "publish_burst": 2}, "publish_rate"),
        (Admission.check_poll, {"command_rate": 2, "command_burst": 2}, "poll_rate"),
    ],
)
def test_peer_over_its_rate_is_told_when_to_come_back(check, options, reason):
    """Another peer is not held up."""
    desk = Desk(**options)
    for _ in range(2):
        check(desk.admission, "user:7")
    with pytest.raises(CommandError, match="RATE_LIMIT_EXCEEDED") as caught:
        check(desk.admission, "user:7")
    assert caught.value.retry_after == 0.5
    check(desk.admission, "user:8")
    desk.time += 0.5
    check(desk.admission, "user:7")
    assert desk.refused == {reason: 1}


def test_bound_that_is_switched_off_bounds_nothing():
    desk = Desk(
        admission_rate=None,
        refusal_rate=None,
        publish_rate=None,
        command_rate=None,
        max_connections_per_address=None,
        max_connections_per_user=None,
        max_topics_per_user=None,
    )
    admission = desk.admission
    for _ in range(2000):
        assert admission.admit() is None
        assert admission.enter(HOME) is None
        admission.offend(HOME)
        assert admission.shut_out(HOME) is None
        admission.check_user(1_000_000)
        admission.check_publish("user:7")
        admission.check_poll("user:7", 1000)
        admission.enter_topic("7")
    assert not desk.refused


def test_account_is_the_users_or_else_the_networks():
    """And no user can name itself like an address."""
    assert whose("7", HOME) == whose("7", OTHER) == "user:7"
    assert whose(None, HOME) == whose(None, PHONE) != whose(None, OTHER)
    assert whose(whose(None, HOME), HOME) != whose(None, HOME)


def test_strangers_of_one_address_have_a_part_of_the_door():
    """Another address is greeted; each that has said what it wants makes room."""
    desk = Desk(max_handshakes=32)
    admission = desk.admission
    for _ in range(32 // STRANGERS_SHARE):
        assert admission.greet(HOME) is None
    error = admission.greet(PHONE)
    assert (error.code, error.retry_after) == ("UNAVAILABLE", CROWDED_RETRY_SECONDS)
    assert isinstance(error, Crowded)
    assert admission.greet(OTHER) is None
    admission.greeted(HOME)
    assert admission.greet(PHONE) is None
    assert desk.refused == {"too_many_handshakes": 1}


def test_one_stranger_is_greeted_however_narrow_the_door_is():
    desk = Desk(max_handshakes=1)
    assert desk.admission.greet(HOME) is None
    assert desk.admission.greet(OTHER) is None
    assert desk.admission.greet(HOME) is not None


def test_topics_of_a_user_are_bounded():
    """Those of other users and of nobody are not counted with them."""
    desk = Desk(max_topics_per_user=2)
    admission = desk.admission
    for user in ("7", "7", "8", None, None, None):
        admission.enter_topic(user)
    with pytest.raises(Crowded, match="LIMIT_EXCEEDED"):
        admission.enter_topic("7")
    admission.leave_topic(None)
    admission.leave_topic("7")
    admission.enter_topic("7")
    assert desk.refused == {"too_many_topics_of_user": 1}


def test_polls_of_a_user_are_bounded():
    """However they end, they make room; those of nobody are counted with the connections of their address."""
    desk = Desk(max_connections_per_user=1)
    admission = desk.admission
    with admission.polling(None), admission.polling(None), admission.polling("8"):
        for _ in range(2):
            with pytest.raises(ZeroDivisionError), admission.polling("7"):
                with pytest.raises(Crowded, match="LIMIT_EXCEEDED"), admission.polling("7"):
                    pass
                raise ZeroDivisionError
    assert desk.refused == {"too_many_of_user": 2}


def test_poll_costs_as_many_as_it_has_topics_and_never_more_than_there_can_be():
    desk = Desk(command_rate=1, command_burst=10)
    admission = desk.admission
    admission.check_poll("user:7", 8)
    with pytest.raises(CommandError, match="RATE_LIMIT_EXCEEDED") as caught:
        admission.check_poll("user:7", 3)
    assert caught.value.retry_after == 1
    admission.check_poll("user:7", 2)
    with pytest.raises(CommandError, match="RATE_LIMIT_EXCEEDED") as caught:
        admission.check_poll("user:7", 200)
    assert caught.value.retry_after == 10
    desk.time += 10
    admission.check_poll("user:7", 200)


def test_connection_over_the_limit_of_its_address_is_counted_by_nobody_else():
    """It is not let in, and leaves no trace in the counts."""
    desk = Desk(max_connections_per_address=1)
    with desk.admission.counted(HOME):
        for _ in range(3):
            with pytest.raises(Crowded, match="LIMIT_EXCEEDED"), desk.admission.counted(PHONE):
                pass
        with desk.admission.counted(OTHER):
            pass
    with desk.admission.counted(PHONE):
        pass
    assert desk.refused == {"too_many_of_address": 3}
