"""The depth of JSON, told without decoding it."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.json_depth import exceeds_depth

SIZE = 65536


def depth(value: object) -> int:
    """How deep a value is nested, by walking it."""
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


texts = st.text(alphabet='[]{}"\\,:/ué\n', max_size=8)
values = st.recursive(
    texts | st.integers() | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=30,
)


@given(values, st.booleans(), st.sampled_from([bytes, bytearray, memoryview]))
def test_depth_of_any_json_is_exact(value, ascii_only, kind):
    """Whatever its strings hold, however it is spelt, and in whatever it comes."""
    text = json.dumps(value, ensure_ascii=ascii_only).encode()
    deep = depth(value)
    assert not exceeds_depth(kind(text), deep)
    assert deep == 0 or exceeds_depth(kind(text), deep - 1)


@pytest.mark.parametrize(
    ("text", "deep"),
    [
        (b"5", 0),
        (b"[]", 1),
        (b"[[],[],[[]],{}]", 3),
        (b'{"a":[{"b":{}}]}', 4),
        (b'["[[[[", "]]"]', 1),
        (rb'["\"[[[", [1]]', 2),
        (rb'["\\", [[1]], "\\\"[["]', 3),
        (rb'["\\\\", ["[\\"]]', 2),
        (rb'{"[{\\\\\"[":"\u005b["}', 1),
        (b"[" * 500 + b"]" * 500, 500),
    ],
)
def test_depth_of_tricky_texts_is_exact(text, deep):
    assert not exceeds_depth(text, deep)
    assert deep == 0 or exceeds_depth(text, deep - 1)


@given(st.binary(max_size=60) | st.text(alphabet='[]{}"\\', max_size=60).map(str.encode), st.integers(0, 8))
def test_text_that_is_no_json_raises_nothing(text, most):
    assert exceeds_depth(text, most) in {True, False}


@pytest.mark.parametrize("piece", rb"""[ { ] [] ][ " "[ \ \" \"[ "\"[", "\\"[ [[] [{ {"a":""".split())
@pytest.mark.parametrize("start", [b"[" * 40, b"[" * 40 + b'"'])
def test_hostile_text_takes_no_time(start, piece):
    """A quadratic algorithm takes seconds for one of these."""
    text = start + piece * (SIZE // len(piece))
    began = time.process_time()
    exceeds_depth(text, 32)
    assert time.process_time() - began < 0.1
