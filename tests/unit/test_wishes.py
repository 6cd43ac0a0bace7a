"""What a subscription is asked to be."""

from __future__ import annotations

import pytest
from msgspec import UNSET, Raw

from realtime.errors import CommandError
from realtime.filters import parse_filter
from realtime.history import Position, Since, encode_cursor
from realtime.messages import decode_wish
from realtime.topics import Kind, Mode
from realtime.views import EVERYTHING, View
from realtime.wishes import Subscribe, is_given

FILTER = b'{"=":["side","buy"]}'


def test_wish_of_the_wire_becomes_one_of_the_house():
    """Fields once each, the filter parsed, the place in history."""
    text = b'{"topic":"room:a","fields":["x","y","x"],"filter":%b,"mode":"latest","max_rate":5,"recover":{"last":3}}'
    assert Subscribe.of(decode_wish(text % FILTER)) == Subscribe(
        "room:a", View(("x", "y"), parse_filter(FILTER)), Mode.LATEST, Since(last=3), 5.0
    )


def test_wish_that_names_a_topic_only_asks_for_everything():
    """Equal to all others that do: they share the bytes."""
    for text in (b'{"topic":"room:a"}', b'{"topic":"room:a","filter":null,"fields":null}'):
        wish = Subscribe.of(decode_wish(text))
        assert wish == Subscribe("room:a")
        assert wish.view is EVERYTHING


def test_cursor_stands_for_the_place_of_its_topic():
    """One that does not name the topic asks for no history."""
    cursor = encode_cursor({"room:a": Position("e1", 7), "room:b": Position("e2", 9)})
    found = [
        Subscribe.of(decode_wish(b'{"topic":"%b","recover":{"cursor":"%b"}}' % (topic, cursor.encode()))).since
        for topic in (b"room:a", b"room:c")
    ]
    assert found == [Since(after=Position("e1", 7)), None]


@pytest.mark.parametrize(
    "text",
    [
        b'{"topic":"room:a","filter":5}',
        b'{"topic":"room:a","filter":{"near":["x",1]}}',
        b'{"topic":"room:a","recover":{}}',
        b'{"topic":"room:a","recover":{"epoch":"e"}}',
        b'{"topic":"room:a","recover":{"cursor":"nonsense"}}',
        b'{"topic":"room:a","max_rate":0}',
        b'{"topic":"room:a","mode":"some"}',
        b'{"topic":5}',
        b"{",
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_wish_that_is_wrong_is_refused(text):
    """Its sender is told."""
    with pytest.raises(CommandError, match="BAD_REQUEST"):
        Subscribe.of(decode_wish(text))


@pytest.mark.parametrize(
    ("wish", "mode"),
    [
        (Subscribe("room:a"), Mode.ALL),
        (Subscribe("room:a", mode=Mode.LATEST), Mode.LATEST),
        (Subscribe("room:a", mode=Mode.ALL, max_rate=1.0), Mode.LATEST),
    ],
)
def test_rate_wins_over_the_mode(wish, mode):
    """What is left out is the older value; without one, the kind says how it is when nobody does."""
    assert wish.effective_mode(Kind(name="room")) is mode
    assert Subscribe("room:a").effective_mode(Kind(name="room", mode=Mode.LATEST)) is Mode.LATEST


def test_word_for_no_filter_is_none():
    """Also where the member is missing."""
    assert [is_given(one) for one in (None, UNSET, Raw(b"null"), Raw(FILTER))] == [False, False, False, True]
