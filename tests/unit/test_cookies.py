"""The cookie that carries a login, and what the browser says of the page."""

from __future__ import annotations

import pytest
from attrs import field, frozen
from hypothesis import given
from hypothesis import strategies as st

from realtime.errors import CommandError, ErrorCode
from transports.cookies import cookie_value, from_own_page

MAX = 8192


@pytest.mark.parametrize(
    ("headers", "value"),
    [
        ([], None),
        ([""], None),
        (["session"], None),
        (["session="], None),
        (['session=""'], None),
        (["other=1; Session=2; sessions=3; my session=4; xsession=5"], None),
        (["session=abc"], "abc"),
        (["a=1; session=abc; b=2"], "abc"),
        (["a=1;session=abc;b=2"], "abc"),
        (["a=1", "session=abc", "b=2"], "abc"),
        (["\tsession = abc "], "abc"),
        (["session=a=b=="], "a=b=="),
        (['session="abc"'], "abc"),
        (['session="'], '"'),
        (['session="abc'], '"abc'),
        (['session=""abc""'], '"abc"'),
        (["session=%41+b\\u0041"], "%41+b\\u0041"),
        (["session=\xa0abc\x85"], "\xa0abc\x85"),
        (["\xa0session=abc"], None),
        (["session=abc; session=abc"], "abc"),
        (["session=abc", 'session="abc"'], "abc"),
        (["other=1; other=2; session=abc"], "abc"),
    ],
)
def test_cookie_is_found_by_its_exact_name(headers, value):
    """In all headers, without blanks and quotes, not decoded."""
    assert cookie_value(headers, "session") == value


@pytest.mark.parametrize(
    "headers",
    [
        ["session=mine; session=theirs"],
        ["session=mine", "session=theirs"],
        ["session=mine; session =theirs"],
        ["session=mine; session="],
        ["session=mine; a=1; session=MINE"],
    ],
)
def test_tossed_cookie_refuses_both(headers):
    """The refusal holds neither value."""
    with pytest.raises(CommandError) as caught:
        cookie_value(headers, "session")
    assert caught.value.code is ErrorCode.AUTH_FAILED
    assert caught.value.message == "the cookie is there twice"


def test_cookie_that_is_too_long_is_refused():
    """One of just the limit is not, nor is another cookie of any length."""
    assert cookie_value([f"session={'x' * MAX}; other={'y' * 2 * MAX}"], "session") == "x" * MAX
    with pytest.raises(CommandError) as caught:
        cookie_value(["session=" + "x" * (MAX + 1)], "session")
    assert caught.value.code is ErrorCode.AUTH_FAILED
    assert "xx" not in str(caught.value)


@given(
    st.lists(
        st.one_of(
            st.binary().map(lambda data: data.decode("latin-1")),
            st.text('session=;" \tab\\%', max_size=40),
            st.text(),
        ),
        max_size=4,
    )
)
def test_any_headers_give_text_none_or_a_refusal(headers):
    """Never another exception, never an empty value, and nothing that did not stand there."""
    try:
        value = cookie_value(headers, "s")
    except CommandError as error:
        assert error.code is ErrorCode.AUTH_FAILED
    else:
        assert value is None or (value and any(value in header for header in headers))


@frozen
class FakeHead:
    headers: dict[bytes, str] = field(factory=dict)

    def header(self, name: bytes) -> str | None:
        return self.headers.get(name)


@pytest.mark.parametrize(
    ("site", "own"),
    [
        ("same-origin", True),
        ("same-site", False),
        ("cross-site", False),
        ("none", False),
        ("", False),
        ("Same-Origin", False),
        ("same-origin, cross-site", False),
    ],
)
def test_own_page_is_what_the_browser_calls_same_origin(site, own):
    assert from_own_page(FakeHead({b"sec-fetch-site": site})) is own


def test_request_that_says_nothing_of_its_page_is_not_from_our_own():
    assert from_own_page(FakeHead()) is False
