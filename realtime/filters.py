"""Filters: which messages of a topic a subscription asks for, told by members of their payloads.

A filter is JSON, and each of its nodes an object with one operator, as in
``{"and": [{">": ["price", 10]}, {"=": ["side", "buy"]}]}``. It comes from peers and is asked of every message:
it is checked and compiled once, its size is bounded, and of a payload it reads no more than the members that it
names, each of them once. What the operators mean stands in ``docs/reference/filters.rst``.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import NoneType
from typing import Any

import msgspec
from attrs import define, field, frozen
from msgspec import UNSET, Raw

from realtime.errors import CommandError, ErrorCode

__all__ = ["Filter", "parse_filter"]

MAX_BYTES = 4096
MAX_DEPTH = 8
MAX_NODES = 50
MAX_PARTS = 20
MAX_VALUES = 100
MAX_NAMES = 8
MAX_CHARACTERS = 256

_Path = tuple[str, ...]
_Test = Callable[["_Values"], bool]

# No operator looks into an array, so none is read to its end.
_decoder = msgspec.json.Decoder(None | bool | int | float | str | dict[str, Raw])
_json = msgspec.json.Encoder()

_STRING = frozenset({str})
_NUMBER = frozenset({int, float})
#: The types of Python that are one type of JSON. A bool is no number here, though it is an int to Python.
_ALIKE: dict[type, frozenset[type]] = {
    str: _STRING,
    int: _NUMBER,
    float: _NUMBER,
    bool: frozenset({bool}),
    NoneType: frozenset({NoneType}),
}
_SCALAR = frozenset(_ALIKE)
_ORDERED = _STRING | _NUMBER
_CALLED = {_STRING: "a string", _ORDERED: "a string or a number", _SCALAR: "a string, a number, true, false or null"}
#: What each comparison asks of the member and the operand, and which operands it takes.
_COMPARISONS: dict[str, tuple[Callable[[Any, Any], bool], frozenset[type]]] = {
    "=": (operator.eq, _SCALAR),
    "<": (operator.lt, _ORDERED),
    "<=": (operator.le, _ORDERED),
    ">": (operator.gt, _ORDERED),
    ">=": (operator.ge, _ORDERED),
    "prefix": (str.startswith, _STRING),
}
_NO_OPERATOR = f"no such operator; there are {', '.join([*_COMPARISONS, '!=', 'in', 'exists', 'not', 'and', 'or'])}"


@frozen
class Filter:
    """Which messages a subscription asks for. Filters that differ in the spelling of their JSON alone are equal."""

    #: The filter in the one spelling that stands for all.
    text: bytes
    _test: _Test = field(eq=False, repr=False)

    def matches(self, members: Mapping[str, Raw]) -> bool:
        """Whether a payload with these members is asked for; one that is no object has none. Never raises."""
        return self._test(_Values(members))


def parse_filter(text: bytes | Raw) -> Filter:
    """The filter that this JSON text is. Raises `CommandError`; its message names the place of the fault."""
    text = bytes(text)
    if len(text) > MAX_BYTES:
        raise _refusal("filter", f"at most {MAX_BYTES} bytes are allowed")
    try:
        # The first is as strict as payloads are read; only the second shows members that are there twice.
        msgspec.json.decode(text)
        node = json.loads(text, object_pairs_hook=tuple)
    except (ValueError, RecursionError) as error:
        raise _refusal("filter", f"cannot be read: {error}") from None
    return Filter(*_Parser().node(node, "filter", 1))


class _Values(dict[_Path, object]):
    """What stands at the paths of one payload, read when it is first asked for; `UNSET` where nothing of use does."""

    __slots__ = ()

    def __init__(self, members: Mapping[str, Raw]) -> None:
        self[()] = members

    def __missing__(self, path: _Path) -> object:
        name = path[-1]
        parent = self.parent(path)
        try:
            value = _decoder.decode(parent[name]) if name in parent else UNSET
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            # An array, a number out of range, too deep; or, from a publisher inside this process, not even JSON.
            value = UNSET
        self[path] = value
        return value

    def parent(self, path: _Path) -> Mapping[str, Raw]:
        """The members of the object that may hold the last name of the path."""
        found = self[path[:-1]]
        return found if isinstance(found, Mapping) else {}


@define
class _Parser:
    """Compiles nodes into their text and their test, and counts them. Objects come as tuples of pairs."""

    nodes: int = 0

    def node(self, node: object, place: str, depth: int) -> tuple[bytes, _Test]:
        """One node and all below it."""
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise _refusal(place, f"at most {MAX_NODES} operators are allowed")
        if depth > MAX_DEPTH:
            raise _refusal(place, f"at most {MAX_DEPTH} levels are allowed")
        if not isinstance(node, tuple) or len(node) != 1:
            raise _refusal(place, "must be an object with one operator")
        ((name, operand),) = node
        inside = f"{place}.{name}"
        if name in _COMPARISONS:
            return _comparison(name, operand, inside)
        if name == "!=":
            return _negated(*_comparison("=", operand, inside))
        if name == "in":
            return _membership(operand, inside)
        if name == "exists":
            return _existence(operand, inside)
        if name == "not":
            return _negated(*self.node(operand, inside, depth + 1))
        if name in ("and", "or"):
            parts = _list(operand, MAX_PARTS, "filters", inside)
            return _joined(name, [self.node(part, f"{inside}[{at}]", depth + 1) for at, part in enumerate(parts)])
        raise _refusal(place, _NO_OPERATOR)


def _comparison(name: str, operands: object, place: str) -> tuple[bytes, _Test]:
    compare, allowed = _COMPARISONS[name]
    path, found = _pair(operands, place)
    operand = _scalar(found, allowed, f"{place}[1]")
    types = _ALIKE[type(operand)]

    def test(values: _Values) -> bool:
        value = values[path]
        return type(value) in types and compare(value, operand)

    return _text(name, path, operand), test


def _membership(operands: object, place: str) -> tuple[bytes, _Test]:
    path, found = _pair(operands, place)
    place += "[1]"
    wanted = [
        _scalar(value, _SCALAR, f"{place}[{at}]") for at, value in enumerate(_list(found, MAX_VALUES, "values", place))
    ]
    # In one set, 1 and true would be the same.
    of_type = {kind: frozenset(value for value in wanted if type(value) in alike) for kind, alike in _ALIKE.items()}

    def test(values: _Values) -> bool:
        value = values[path]
        return value in of_type.get(type(value), ())

    return _text("in", path, wanted), test


def _existence(operand: object, place: str) -> tuple[bytes, _Test]:
    path = _path(operand, place)
    return _json.encode({"exists": path}), lambda values: path[-1] in values.parent(path)


def _negated(text: bytes, test: _Test) -> tuple[bytes, _Test]:
    return b'{"not":%b}' % text, lambda values: not test(values)


def _joined(name: str, parts: list[tuple[bytes, _Test]]) -> tuple[bytes, _Test]:
    text = b'{"%b":[%b]}' % (name.encode(), b",".join([text for text, _ in parts]))
    tests = [test for _, test in parts]
    decisive = name == "or"

    def test(values: _Values) -> bool:
        # A generator for any() or all() would cost as much as the parts.
        for part in tests:
            if part(values) is decisive:
                return decisive
        return not decisive

    return text, test


def _text(name: str, path: _Path, operand: object) -> bytes:
    return _json.encode({name: (path, operand)})


def _pair(operands: object, place: str) -> tuple[_Path, object]:
    match operands:
        case list([member, operand]):
            return _path(member, f"{place}[0]"), operand
    raise _refusal(place, "must be a list of a member and an operand")


def _path(member: object, place: str) -> _Path:
    if isinstance(member, str):
        member = [member]
    return tuple(_scalar(name, _STRING, place) for name in _list(member, MAX_NAMES, "names, or one name", place))


def _list(value: object, most: int, things: str, place: str) -> list[Any]:
    if not isinstance(value, list) or not 1 <= len(value) <= most:
        raise _refusal(place, f"must be a list of 1 to {most} {things}")
    return value


def _scalar(value: Any, allowed: frozenset[type], place: str) -> Any:
    """The value, if it is of an allowed type; a number as a float where that is equal, so that 5 is spelled 5.0."""
    if type(value) not in allowed:
        raise _refusal(place, f"must be {_CALLED[allowed]}")
    if type(value) is str and len(value) > MAX_CHARACTERS:
        raise _refusal(place, f"at most {MAX_CHARACTERS} characters are allowed")
    if type(value) in _NUMBER:
        with suppress(OverflowError):
            number = float(value) + 0.0  # -0.0 + 0.0 is 0.0
            if number == value:
                return number
    return value


def _refusal(place: str, fault: str) -> CommandError:
    return CommandError(ErrorCode.BAD_REQUEST, f"{place}: {fault}")
