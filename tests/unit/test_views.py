"""Views and the encoding of runs."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.filters import parse_filter
from realtime.history import Publication
from realtime.views import EVERYTHING, View, encode_run, message_text
from realtime.wire import LineFraming
from tests.tools import publication


def seen(data: bytes, *fields: str) -> bytes | None:
    """The payload as a view of these fields shows it."""
    text = View.of(fields).text(publication(1, data=data))
    return None if text is None else bytes(msgspec.json.decode(text, type=dict[str, msgspec.Raw])["data"])


def test_view_of_no_fields_is_everything():
    """Who names no fields shares the view of all."""
    assert View.of(None) is EVERYTHING


def test_views_of_the_same_fields_are_equal():
    """Equal views are one group in the hub; a field named twice is named once."""
    assert View.of(["a", "b", "a"]) == View.of(["a", "b"])
    assert hash(View.of(["a"])) == hash(View.of(["a"]))
    assert View.of(["a", "b"]) != View.of(["b", "a"])


def test_everything_is_carried_byte_for_byte():
    """Without fields the payload is the publisher's own text."""
    text = EVERYTHING.text(publication(1, data=b'{"a": 1.10, "b":[ 1E5]}'))
    assert text.endswith(b'"data":{"a": 1.10, "b":[ 1E5]}}')


def test_fields_keep_their_own_text():
    """Values of shown fields are not written anew: 1.10 stays 1.10."""
    data = b'{"price":1.10,"big":12345678901234567890123,"deep":{"x": [1E5]},"gone":1}'
    assert seen(data, "deep", "price", "big") == b'{"deep":{"x": [1E5]},"price":1.10,"big":12345678901234567890123}'


def test_absent_fields_are_absent():
    """A field that the payload has not is left out, and null is a value."""
    assert seen(b'{"a":null}', "a", "b") == b'{"a":null}'


def test_nothing_left_is_not_sent():
    """A message that shows none of the fields is filtered."""
    assert seen(b'{"a":1}', "b") is None
    assert seen(b"{}", "b") is None


@pytest.mark.parametrize("data", [b"1.10", b'"text"', b"[1,2]", b"null", b"true"])
def test_payload_that_is_no_object_is_shown_whole(data):
    """There are no members to leave out."""
    assert seen(data, "a") == data


@pytest.mark.parametrize(
    "data", [b'{"\\ud800":1}', b'{"\xff":1}', b"{", b"", b'{"a":' + b"[" * 30_000 + b"]" * 30_000 + b"}"]
)
def test_payload_that_cannot_be_read_does_not_raise(data):
    """The hub outlives what a careless publisher in its own process gives it."""
    text = View.of(["a"]).text(publication(1, data=data))
    assert text == message_text(publication(1, data=data), data)


def test_shows_agrees_with_text():
    """A view knows whether it leaves anything."""
    assert EVERYTHING.shows(publication(1))
    assert View.of(["n"]).shows(publication(1))
    assert not View.of(["m"]).shows(publication(1))


@given(
    topic=st.text(st.characters(codec="utf-8"), max_size=20),
    event=st.none() | st.text(st.characters(codec="utf-8"), max_size=20),
    key=st.none() | st.text(st.characters(codec="utf-8"), max_size=20),
    data=st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5), st.lists, max_leaves=5
    ),
)
def test_message_text_is_one_line_of_json_with_all_members(topic, event, key, data):
    """The text put together by hand is what an encoder would write."""
    made = Publication(topic, 7, 123, msgspec.json.encode(data), event, key)
    text = message_text(made, made.data)
    expected = {"type": "message", "topic": topic, "offset": 7, "time": 123, "data": data}
    expected |= {} if event is None else {"event": event}
    expected |= {} if key is None else {"key": key}
    assert msgspec.json.decode(text) == expected
    assert b"\n" not in text


def test_run_joins_its_frames():
    """A run holds each frame and all of them in one piece."""
    run = encode_run(EVERYTHING, LineFraming(), "e1", [publication(1), publication(2, key="k")])
    assert run.data == b"".join(frame.data for frame in run.frames)
    assert (run.count, run.size) == (2, len(run.data))
    assert [(frame.offset, frame.key) for frame in run.frames] == [(1, None), (2, "k")]


def test_run_leaves_out_what_the_view_does_not_show():
    """Filtered messages are not in the run; a run of none is None."""
    made = [publication(1, data=b'{"a":1}'), publication(2, data=b'{"b":1}')]
    run = encode_run(View.of(["b"]), LineFraming(), "e1", made)
    assert [frame.offset for frame in run.frames] == [2]
    assert encode_run(View.of(["c"]), LineFraming(), "e1", made) is None


def test_run_without_framing_carries_the_publications():
    """A subscriber in this process needs no bytes."""
    made = publication(1)
    run = encode_run(EVERYTHING, None, "e1", [made])
    assert run.frames[0].publication is made
    assert run.size == len(made.data)


# -- filter and envelope -----------------------------------------------------------------------------------------


BUYS = parse_filter(b'{"=":["side","buy"]}')


def viewed(view: View, data: bytes) -> bytes | None:
    """The payload as the view shows it."""
    text = view.text(publication(1, data=data))
    return None if text is None else bytes(msgspec.json.decode(text, type=dict[str, msgspec.Raw])["data"])


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b'{"side":"buy","price":1.10,"id":7}', b'{"price":1.10}'),
        (b'{"side":"sell","price":1.10}', None),
        (b'{"price":1.10}', None),
        (b'{"side":"buy"}', None),
        (b"5", None),
        (b"{", None),
    ],
)
def test_filter_looks_at_members_that_the_fields_do_not_show(data, shown):
    """Both have to leave something of the message."""
    view = View.of(["price"], BUYS)
    assert viewed(view, data) == shown
    assert view.shows(publication(1, data=data)) == (shown is not None)


def test_filter_alone_shows_the_payload_as_it_is():
    """Byte for byte; what is no object has no members that could match."""
    view = View.of(None, BUYS)
    assert viewed(view, b'{"side": "buy",\t"price":1.10}') == b'{"side": "buy",\t"price":1.10}'
    assert viewed(view, b'"buy"') is None
    absent = View.of(None, parse_filter(b'{"not":{"exists":"side"}}'))
    assert [viewed(absent, data) for data in (b"5", b'{"side":1}', b"{}")] == [b"5", None, b"{}"]


def test_views_with_equal_filters_are_equal():
    """However they are spelled: they are one group in the hub."""
    again = parse_filter(b'{ "=" : [ ["side"], "buy" ] }')
    assert View.of(["a"], BUYS) == View.of(["a"], again)
    assert hash(View.of(["a"], BUYS)) == hash(View.of(["a"], again))
    assert len({View.of(None, BUYS), View.of(["a"], BUYS), View.of(["a"]), EVERYTHING}) == 4


def test_envelope_writes_what_the_view_shows():
    """It is given event, data, time and topic, and nothing that the view hides."""

    def envelope(event: str | None, data: bytes, time: int, topic: str) -> bytes:
        return b"%s|%b|%d|%b" % (str(event).encode(), data, time, topic.encode())

    view = View.of(["price"], BUYS, envelope)
    assert view.text(publication(1, data=b'{"side":"buy","price":1}')) == b'None|{"price":1}|1001|room:a'
    assert view.text(publication(1, data=b'{"side":"sell","price":1}')) is None
    assert View.of(None, None, envelope) != EVERYTHING


def test_run_is_none_without_framing_where_nothing_is_shown():
    """The same as with bytes."""
    made = [publication(1, data=b'{"side":"sell"}'), publication(2, data=b'{"side":"buy"}')]
    run = encode_run(View.of(None, BUYS), None, "e1", made)
    assert [frame.publication for frame in run.frames] == made[1:]
    assert encode_run(View.of(None, BUYS), None, "e1", made[:1]) is None
