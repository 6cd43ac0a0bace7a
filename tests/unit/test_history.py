"""History, positions and cursors."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from realtime.errors import CommandError
from realtime.history import (
    MAX_CURSOR_TOPICS,
    History,
    Position,
    Since,
    Why,
    decode_cursor,
    encode_cursor,
    new_epoch,
)
from tests.tools import publication


def filled(count: int, *, most: int = 100, most_bytes: int = 1 << 20, age: float = 60.0) -> History:
    """A history of so many messages, one a second."""
    history = History(most, most_bytes, age, start=Position("e1", 0))
    for offset in range(1, count + 1):
        history.append(publication(offset), now=float(offset))
    return history


def offsets(page) -> list[int]:
    """The offsets of a page."""
    return [found.offset for found in page.publications]


def test_empty_history_stands_at_zero():
    """A topic without messages has a position all the same."""
    history = History(10, 100, 60.0)
    assert history.position == Position(history.epoch, 0)
    assert (len(history), history.oldest) == (0, 1)


def test_two_lives_have_different_epochs():
    """An epoch is not used again."""
    assert len({new_epoch() for _ in range(1000)}) == 1000


def test_history_over_its_messages_forgets_the_oldest():
    """The bound in messages holds, the newest stay."""
    history = filled(10, most=3)
    assert (len(history), history.oldest, history.top) == (3, 8, 10)


def test_history_over_its_bytes_forgets_the_oldest():
    """The bound in bytes holds, the newest stay."""
    history = History(100, 25, 60.0, start=Position("e1", 0))
    for offset in range(1, 5):
        history.append(publication(offset, data=b"x" * 10), now=0.0)
    assert (len(history), history.oldest) == (2, 3)


def test_message_larger_than_all_history_is_not_kept():
    """A message over the bound in bytes counts, but is not kept."""
    history = History(100, 25, 60.0, start=Position("e1", 0))
    history.append(publication(1, data=b"x" * 26), now=0.0)
    assert (len(history), history.top, history.oldest) == (0, 1, 2)


def test_history_over_its_age_forgets_the_oldest():
    """What is older than the age goes, what is exactly as old stays."""
    history = filled(10, age=5.0)
    history.expire(now=10.0)
    assert (len(history), history.oldest) == (6, 5)
    history.expire(now=100.0)
    assert (len(history), history.oldest, history.top) == (0, 11, 10)


def test_bytes_of_expired_messages_are_free_again():
    """Expiry gives back the room that it freed."""
    history = History(100, 25, 5.0, start=Position("e1", 0))
    history.append(publication(1, data=b"x" * 20), now=0.0)
    history.expire(now=10.0)
    history.append(publication(2, data=b"x" * 20), now=10.0)
    assert len(history) == 1


def test_read_after_a_position_gives_all_that_follows():
    """Recovery is full while history reaches back."""
    page = filled(10).read(Since(Position("e1", 7)), 100)
    assert (offsets(page), page.top, page.why) == ([8, 9, 10], Position("e1", 10), None)


def test_read_after_the_top_gives_nothing_and_is_full():
    """A reader that missed nothing is told so."""
    page = filled(10).read(Since(Position("e1", 10)), 100)
    assert (offsets(page), page.why) == ([], None)


def test_read_from_an_expired_history_after_the_top_is_full():
    """A reader that missed nothing needs no history."""
    history = filled(10, age=1.0)
    history.expire(now=100.0)
    assert history.read(Since(Position("e1", 10)), 100).why is None


@pytest.mark.parametrize(
    ("history", "after", "limit", "why"),
    [
        (filled(10), Position("e2", 7), 100, Why.EPOCH_CHANGED),
        (filled(10), Position("e1", 11), 100, Why.EPOCH_CHANGED),
        (filled(10, most=3), Position("e1", 6), 100, Why.TOO_OLD),
        (filled(10), Position("e1", 2), 7, Why.LIMIT),
        (filled(10, most=0), Position("e1", 2), 100, Why.NO_HISTORY),
        (filled(10, most_bytes=0), Position("e1", 2), 100, Why.TOO_OLD),
    ],
)
def test_read_that_cannot_be_full_gives_nothing_and_says_why(history, after, limit, why):
    """Half a recovery is none."""
    page = history.read(Since(after), limit)
    assert (offsets(page), page.why, page.top.offset) == ([], why, 10)


def test_read_at_the_edge_of_history_is_full():
    """The first message after the position is the oldest that is kept."""
    assert offsets(filled(10, most=3).read(Since(Position("e1", 7)), 3)) == [8, 9, 10]


@pytest.mark.parametrize(
    ("last", "limit", "found"), [(3, 100, [8, 9, 10]), (50, 100, list(range(1, 11))), (5, 2, [9, 10])]
)
def test_read_of_the_newest_gives_as_many_as_there_are(last, limit, found):
    """The newest N, at most as many as the limit allows."""
    assert offsets(filled(10).read(Since(last=last), limit)) == found


def test_read_of_nothing_gives_the_position():
    """Who asks for no history learns where the topic stands."""
    page = filled(10).read(Since(), 100)
    assert (offsets(page), page.top.offset) == ([], 10)


def test_browse_gives_pages_from_the_oldest_on():
    """Pages follow one another by the last offset of the one before."""
    history = filled(10, most=6)
    first = history.browse(None, 4)
    second = history.browse(Position("e1", 8), 4)
    assert (offsets(first), offsets(second)) == ([5, 6, 7, 8], [9, 10])
    assert (first.why, second.why) == (None, None)


def test_browse_after_what_was_forgotten_gives_what_is_left():
    """Looking around shows what there is, and says that some is missing."""
    page = filled(10, most=3).browse(Position("e1", 2), 100)
    assert (offsets(page), page.why) == ([8, 9, 10], Why.TOO_OLD)


@pytest.mark.parametrize("after", [Position("e2", 3), Position("e1", 99)])
def test_browse_in_another_epoch_gives_nothing(after):
    """A position of another life means nothing here."""
    page = filled(10).browse(after, 100)
    assert (offsets(page), page.why) == ([], Why.EPOCH_CHANGED)


positions = st.dictionaries(
    st.text(st.characters(codec="utf-8"), max_size=40),
    st.builds(Position, st.text("abcdefghijkmnpqrstuvwxyz23456789", max_size=8), st.integers(0, 10**18)),
    min_size=1,
    max_size=MAX_CURSOR_TOPICS,
)


@given(positions)
@example({"": Position("", 0)})
@example({"room:a~b!c%21": Position("e1", 5), "global": Position("e2", 0)})
def test_cursor_that_is_decoded_gives_the_positions_again(at):
    """Encoding and decoding a cursor loses nothing and keeps to characters that are safe everywhere."""
    text = encode_cursor(at)
    assert decode_cursor(text) == at
    assert text.isascii()
    assert not set(text) & set(' \r\n\t"<>?#&')


def test_empty_cursor_names_no_topic():
    """No text, no positions."""
    assert decode_cursor("") == {}


@pytest.mark.parametrize(
    "text", ["x", "a!b", "a!b!c", "a!b!-1", "a!b!1!2", "~", "a!b!1~", "a!b!٣", "a!b!" + "9" * 20, "a!b!1.5"]
)
def test_garbage_for_a_cursor_is_refused(text):
    """Text that no server wrote is a bad request."""
    with pytest.raises(CommandError, match="BAD_REQUEST"):
        decode_cursor(text)


def test_cursor_of_too_many_topics_is_refused():
    """A cursor is bounded."""
    text = encode_cursor({f"room:{number}": Position("e", 1) for number in range(MAX_CURSOR_TOPICS + 1)})
    with pytest.raises(CommandError, match="at most"):
        decode_cursor(text)
