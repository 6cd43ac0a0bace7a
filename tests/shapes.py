"""Hypothesis strategies for JSON near the shape of a msgspec type: mostly what it takes, now and then what it does not.

Made from the types themselves, so that a command that gets a new member is tried with it the same day.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from msgspec import inspect

__all__ = ["JUNK", "near"]

_SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
#: Any JSON, with what breaks parsers among it.
JUNK = st.recursive(
    _SCALARS | st.sampled_from([2**53 + 1, -1, 10**400, 1e308, "\x00", "\U0001f600", "room:a", "symbol:600519", ""]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def near(kind: Any, *, hints: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """Values near ``kind``. ``hints``: for members of a name, what gets past the front: topics, filters."""
    return _near(inspect.type_info(kind), hints)


def _near(info: inspect.Type, hints: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    match info:
        case inspect.StructType():
            return _struct(info, hints)
        case inspect.UnionType():
            return st.one_of([_near(part, hints) for part in info.types])
        case inspect.IntType():
            low = info.ge if info.ge is not None else -(2**40)
            return st.integers(low, info.le if info.le is not None else 2**40)
        case inspect.FloatType():
            low = info.ge if info.ge is not None else info.gt if info.gt is not None else -1e9
            return st.floats(low, info.le if info.le is not None else 1e9, allow_nan=False)
        case inspect.StrType():
            return st.text(min_size=info.min_length or 0, max_size=min(info.max_length or 30, 30))
        case inspect.ListType():
            return st.lists(_near(info.item_type, hints), min_size=info.min_length or 0, max_size=4)
        case inspect.LiteralType():
            return st.sampled_from(info.values)
        case inspect.BoolType():
            return st.booleans()
        case inspect.NoneType():
            return st.none()
        case inspect.RawType():
            return JUNK
    raise NotImplementedError(info)


def _struct(info: inspect.StructType, hints: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    members = [
        (
            found.encode_name,
            found.required,
            hints[found.encode_name] if found.encode_name in hints else _near(found.type, hints),
        )
        for found in info.fields
    ]

    @st.composite
    def struct(draw: st.DrawFn) -> dict[str, Any]:
        value: dict[str, Any] = {} if info.tag is None else {info.tag_field or "type": info.tag}
        for name, required, wanted in members:
            fate = draw(st.integers(0, 19))
            if fate == 0 or (fate < 9 and not required):
                continue
            value[name] = draw(JUNK if fate == 19 else wanted)
        if draw(st.integers(0, 9)) == 0:
            value[draw(st.text(max_size=8))] = draw(JUNK)
        return value

    return struct()
