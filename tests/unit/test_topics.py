"""Topics and kinds."""

from __future__ import annotations

import pytest

from realtime.errors import CommandError, ErrorCode
from realtime.topics import MAX_TOPIC_LENGTH, Access, Kind, Kinds, Mode, Overflow


@pytest.mark.parametrize(
    ("topic", "kind", "name"),
    [
        ("room:lobby", "room", "lobby"),
        ("symbol:600519", "symbol", "600519"),
        ("user:a:b", "user", "a:b"),
        ("global", "global", ""),
        ("agent:x_1.y@z+q=-", "agent", "x_1.y@z+q=-"),
    ],
)
def test_known_topic_is_split_into_kind_and_name(topic, kind, name):
    """A topic has a kind and, unless that is bare, a name, which may hold colons."""
    found, rest = Kinds().split(topic)
    assert (found.name, rest) == (kind, name)


@pytest.mark.parametrize(
    ("topic", "code"),
    [
        ("", "INVALID_TOPIC"),
        ("lobby", "INVALID_TOPIC"),
        (":lobby", "INVALID_TOPIC"),
        ("nosuch:lobby", "INVALID_TOPIC"),
        ("room", "INVALID_TOPIC"),
        ("room:", "INVALID_TOPIC"),
        ("room:a b", "INVALID_TOPIC"),
        ("room:a\n", "INVALID_TOPIC"),
        ("room:é", "INVALID_TOPIC"),
        ("room:\ud800", "INVALID_TOPIC"),
        ("global:x", "INVALID_TOPIC"),
        ("global:", "INVALID_TOPIC"),
        ("symbol:abc", "INVALID_SYMBOL"),
        ("symbol:6005199", "INVALID_SYMBOL"),
        ("room:" + "x" * MAX_TOPIC_LENGTH, "INVALID_TOPIC"),
    ],
)
def test_invalid_topic_is_refused_with_its_code(topic, code):
    """What is no topic is refused, symbols with a code of their own."""
    kinds = Kinds()
    for _ in range(2):  # also when it is asked for again
        with pytest.raises(CommandError) as caught:
            kinds.split(topic)
        assert caught.value.code == code


def test_topic_asked_for_again_is_the_same():
    """Parsing is remembered, and forgotten before it takes up memory."""
    kinds = Kinds()
    first = kinds.split("room:a")
    for number in range(10_050):
        kinds.split(f"room:{number}")
    assert kinds.split("room:a") == first
    assert len(kinds._seen) <= 10_000


@pytest.mark.parametrize(
    ("access", "nobody", "owner", "other"),
    [
        (Access.ANYONE, True, True, True),
        (Access.AUTHENTICATED, False, True, True),
        (Access.OWNER, False, True, False),
        (Access.NOBODY, False, False, False),
    ],
)
def test_access_allows_those_whom_it_names(access, nobody, owner, other):
    """Each access has its answer for an anonymous peer, the owner of the name, and somebody else."""
    assert access.allows(None, "7") is nobody
    assert access.allows("7", "7") is owner
    assert access.allows("8", "7") is other


def test_anonymous_peer_does_not_own_the_topic_without_a_name():
    """Having no user is not the same as being the user with the empty name."""
    assert not Access.OWNER.allows(None, "")


def test_kinds_with_options_leave_the_original_alone():
    """Changing a kind makes a new table."""
    kinds = Kinds()
    changed = kinds.with_options("room", overflow=Overflow.BLOCK).with_options("news", mode=Mode.LATEST)
    assert kinds.split("room:a")[0].overflow is Overflow.DROP_OLDEST
    assert changed.split("room:a")[0].overflow is Overflow.BLOCK
    assert changed.split("news:a")[0].mode is Mode.LATEST
    assert {kind.name for kind in changed} == {kind.name for kind in kinds} | {"news"}


def test_new_pattern_of_a_kind_is_compiled():
    """A copy of a kind with another pattern checks names by that pattern."""
    kinds = Kinds().with_options("room", pattern="[ab]+")
    assert kinds.split("room:abba")[1] == "abba"
    with pytest.raises(CommandError):
        kinds.split("room:c")


@pytest.mark.parametrize(
    "options",
    [
        {"name": "Room"},
        {"name": "a b"},
        {"name": "x" * 33},
        {"pattern": "["},
        {"history_messages": -1},
        {"history_messages": 1_000_001},
        {"history_bytes": -1},
        {"history_age_seconds": 0},
        {"block_timeout_seconds": 0},
        {"presence_linger_seconds": -1},
        {"presence_linger_seconds": 3601},
        {"presence_told_members": -1},
        {"max_members": 0},
    ],
)
def test_kind_with_a_wrong_option_is_refused(options):
    """A kind checks its own options."""
    with pytest.raises(ValueError, match=r"."):
        Kind(**{"name": "room", **options})


def test_refusal_says_code_and_reason():
    """An error reads as its code and its message."""
    with pytest.raises(CommandError) as caught:
        Kinds().split("symbol:x")
    assert str(caught.value) == "INVALID_SYMBOL: not a valid symbol name: it must match [0-9]{6}"
    assert caught.value.code is ErrorCode.INVALID_SYMBOL
