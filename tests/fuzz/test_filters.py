"""Whatever is given for a filter, it is parsed or refused; whatever payload it meets, it answers."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.errors import CommandError, ErrorCode
from realtime.filters import parse_filter
from realtime.messages import encode
from tests.fuzz.test_parsers import corpus, json_like, mutated

#: Texts that are a member's, or nothing like it: a publisher inside the process can put anything there.
raws = st.one_of(st.binary(max_size=20), mutated(corpus("filters")), json_like.map(msgspec.json.encode)).map(
    msgspec.Raw
)
payloads = st.dictionaries(st.sampled_from(["a", "price", "side", "code", "user", "order"]), raws, max_size=4)

members = st.sampled_from(["a", "price"]) | st.lists(st.sampled_from(["a", "price", ""]), max_size=9) | json_like
operators = st.sampled_from(["=", "!=", "<", "<=", ">", ">=", "in", "prefix", "exists", "and", "or", "not", "xor"])
operands = st.one_of(
    st.tuples(members, json_like), st.tuples(members, st.lists(json_like, max_size=3)), members, json_like
)
#: Nearly filters.
shaped = st.recursive(
    st.dictionaries(operators, operands, min_size=1, max_size=2),
    lambda inner: st.dictionaries(operators, st.lists(inner, max_size=3) | inner, min_size=1, max_size=1),
    max_leaves=8,
).map(msgspec.json.encode)


def check_filter(text: bytes, payload: dict[str, msgspec.Raw]) -> None:
    """Parse, and use what was parsed as the server does."""
    try:
        found = parse_filter(text)
    except CommandError as error:
        assert error.code is ErrorCode.BAD_REQUEST
        assert error.message.startswith("filter")
        encode({"message": error.message})
        return
    assert isinstance(found.matches(payload), bool)
    again = parse_filter(msgspec.json.format(text, indent=-1))
    assert again == found
    assert hash(again) == hash(found)


@pytest.mark.parametrize("text", corpus("filters"))
def test_filter_of_the_corpus_is_parsed_or_refused(text):
    """Good ones, and some of which each is wrong in a way of its own."""
    check_filter(text, {"a": msgspec.Raw(b"1"), "user": msgspec.Raw(b'{"name":"x"}')})


@given(st.one_of(st.binary(max_size=100), mutated(corpus("filters")), shaped), payloads)
def test_any_bytes_for_a_filter_are_parsed_or_refused(text, payload):
    """Nothing but `CommandError` comes out of it, and matching never raises."""
    check_filter(text, payload)
