"""Filters: what they match, what is refused, and which are equal."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from realtime.errors import CommandError, ErrorCode
from realtime.filters import (
    MAX_BYTES,
    MAX_CHARACTERS,
    MAX_DEPTH,
    MAX_NAMES,
    MAX_NODES,
    MAX_PARTS,
    MAX_VALUES,
    parse_filter,
)

NO_OPERATOR = "filter: no such operator; there are =, <, <=, >, >=, prefix, !=, in, exists, not, and, or"

_members_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


def parse(node: object):
    """The filter of a node given as Python values."""
    return parse_filter(msgspec.json.encode(node))


def matches(node: object, payload: bytes) -> bool:
    """Whether a payload, as its JSON text, is matched."""
    return parse(node).matches(_members_decoder.decode(payload))


def refusal(text: bytes) -> str:
    """Why a text is refused."""
    with pytest.raises(CommandError) as caught:
        parse_filter(text)
    assert caught.value.code is ErrorCode.BAD_REQUEST
    msgspec.json.encode(caught.value.message)
    return caught.value.message


# -- what is matched ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("node", "matched", "others"),
    [
        ({"=": ["m", 5]}, ["5", "5.0", "50e-1"], ["6", '"5"', "true", "null", "[5]", '{"m":5}']),
        ({"=": ["m", 0]}, ["0", "-0", "-0.0", "1e-400"], ["false", '""', "null"]),
        ({"=": ["m", 1]}, ["1"], ["true"]),
        ({"=": ["m", True]}, ["true"], ["1", "1.0", "false", '"true"']),
        ({"=": ["m", None]}, ["null"], ["0", "false", '""', "{}", "[]"]),
        ({"=": ["m", "é"]}, ['"é"', '"\\u00e9"'], ['"e\u0301"', '"É"', '"é "']),
        ({"!=": ["m", 5]}, ["6", '"5"', "true", "null", "[5]", "1e999"], ["5", "5.0"]),
        ({"!=": ["m", None]}, ["0", "[]"], ["null"]),
        ({"<": ["m", 5]}, ["4", "4.999", "-1e308"], ["5", "5.0", "6", '"4"', "false", "null", "[]", "{}"]),
        ({"<=": ["m", 5]}, ["4", "5", "5.0"], ["5.001", '"4"', "true"]),
        ({">": ["m", 0]}, ["1", "0.001"], ["0", "-0.0", "-1", '"1"', "true"]),
        ({">=": ["m", 0]}, ["0", "-0.0", "1"], ["-1", '"1"', "true"]),
        ({"<": ["m", "b"]}, ['"a"', '"B"', '"aé"', '""'], ['"b"', '"é"', "1", "null"]),
        ({"<": ["m", "\U0001f600"]}, ['"\uffff"', '"a"'], ['"\U0001f600"', '"\U0001f601"']),
        ({">=": ["m", "b"]}, ['"b"', '"ba"', '"é"'], ['"a"', "5"]),
        ({"in": ["m", ["a", 5, None]]}, ['"a"', "5", "5.0", "null"], ['"b"', "6", "true", "[]", '["a"]', "{}"]),
        ({"in": ["m", [1]]}, ["1", "1.0"], ["true"]),
        ({"in": ["m", [True, 0]]}, ["true", "0"], ["1", "false"]),
        ({"prefix": ["m", "ab"]}, ['"ab"', '"abc"', '"\\u0061b"'], ['"a"', '"AB"', '"xab"', "5", "null", '["ab"]']),
        ({"prefix": ["m", ""]}, ['""', '"a"'], ["5"]),
        ({"exists": "m"}, ["1", "null", "false", "[1]", "{}", "1e999", "9" * 5000], []),
        ({"not": {"=": ["m", 5]}}, ["6", '"5"'], ["5"]),
        ({"not": {">": ["m", 5]}}, ["5", '"6"'], ["6"]),
        ({"and": [{">": ["m", 1]}, {"<": ["m", 5]}]}, ["2"], ["1", "5", '"2"']),
        ({"and": [{"=": ["m", 5]}]}, ["5"], ["6"]),
        ({"or": [{"<": ["m", 1]}, {"=": ["m", "x"]}]}, ["0", '"x"'], ["1", '"y"']),
        ({"=": [["m"], 5]}, ["5"], ["6"]),
        ({"=": [["m", "n"], 5]}, ['{"n":5}', '{"n":4,"n":5}'], ['{"n":6}', "{}", "5", "null", "[5]", '"n"', '{"o":5}']),
        ({"exists": ["m", "n"]}, ['{"n":null}', '{"n":[]}'], ['{"o":1}', "{}", "1", "null", '["n"]', '"n"']),
        ({"=": [["m", "n", "o"], 5]}, ['{"n":{"o":5}}'], ['{"n":{}}', '{"n":5}', '{"n":[{"o":5}]}', '{"o":5}']),
    ],
    ids=str,
)
def test_member_is_compared_by_type_and_value(node, matched, others):
    """Another type of JSON is another value, spelling is none; a bool is no number."""
    assert [text for text in matched + others if matches(node, b'{"m":%b}' % text.encode())] == matched


@pytest.mark.parametrize("name", ["=", "<", "<=", ">", ">="])
def test_absent_member_compares_false(name):
    """What is not there is neither less nor more nor equal."""
    assert not matches({name: ["m", 0]}, b'{"n":0}')
    assert not matches({name: [["n", "m"], ""]}, b'{"n":{}}')


def test_absent_member_is_not_null():
    """A value that is there can be null."""
    assert not matches({"=": ["m", None]}, b"{}")
    assert not matches({"in": ["m", [None]]}, b"{}")
    assert not matches({"prefix": ["m", ""]}, b"{}")
    assert not matches({"exists": "m"}, b"{}")
    assert matches({"!=": ["m", None]}, b"{}")
    assert matches({"not": {"<": ["m", 0]}}, b"{}")


def test_payload_without_members_matches_only_negations():
    """A payload that is no object comes as no members."""
    assert not parse({"exists": "m"}).matches({})
    assert parse({"not": {"exists": "m"}}).matches({})


def test_member_with_an_odd_name_is_found():
    """Any string is a name, also the empty one and one that looks like a path."""
    assert matches({"and": [{"=": ["", 1]}, {"=": ["a.b", 2]}]}, b'{"":1,"a.b":2}')
    assert matches({"=": [["", ""], 3]}, b'{"":{"":3}}')


@pytest.mark.parametrize(
    ("operand", "equal", "above"),
    [
        (2**53, b"9007199254740992.0", b"9007199254740993"),
        (2**53 + 1, b"9007199254740993", b"9007199254740994.0"),
        (10**22, b"1e22", b"10000000000000000000001"),
        (10**400, b"1" + b"0" * 400, b"1" + b"0" * 399 + b"1"),
        (2**64, b"18446744073709551616", b"18446744073709551617"),
    ],
    ids=["2**53", "2**53+1", "10**22", "10**400", "2**64"],
)
def test_large_numbers_are_compared_exactly(operand, equal, above):
    """An integer is never rounded on its way to a comparison."""
    assert matches({"=": ["m", operand]}, b'{"m":%b}' % equal)
    assert not matches({"=": ["m", operand]}, b'{"m":%b}' % above)
    assert not matches({"<": ["m", operand]}, b'{"m":%b}' % equal)
    assert matches({">": ["m", operand]}, b'{"m":%b}' % above)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"n":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"1e999",
        b"9" * 5000,
        b'"\xff"',
        b'"\\ud800"',
        b"no JSON",
        b"",
    ],
    ids=["deep", "float", "integer", "not UTF-8", "surrogate", "not JSON", "empty"],
)
@pytest.mark.parametrize("path", ["m", ["m", "n"]], ids=str)
def test_member_that_cannot_be_read_compares_false(raw, path):
    """It is as if it were absent, and the hub outlives it; only `exists` does not look."""
    members = {"m": msgspec.Raw(raw)}
    for node in ({"=": [path, 1]}, {"<": [path, "a"]}, {"in": [path, [None]]}, {"prefix": [path, ""]}):
        assert not parse(node).matches(members)
        assert parse({"not": node}).matches(members)
    assert parse({"exists": path}).matches(members) is (path == "m")


class Counting(dict):
    """Members that count how often each is taken."""

    def __init__(self, members):
        super().__init__(members)
        self.taken = []

    def __getitem__(self, name):
        self.taken.append(name)
        return super().__getitem__(name)


def test_each_named_member_is_read_once():
    """What the filter does not name is not even looked at."""
    members = Counting(_members_decoder.decode(b'{"a":{"b":1,"c":2},"d":3,"e":4}'))
    node = {"and": [{"=": [["a", "b"], 1]}, {"=": [["a", "c"], 2]}, {">": ["d", 1]}, {"<": ["d", 5]}, {"exists": "e"}]}
    assert parse(node).matches(members)
    assert members.taken == ["a", "d"]


def test_outcome_known_early_reads_no_further():
    """The first part that decides ends the reading, whichever way it decides."""
    members = Counting(_members_decoder.decode(b'{"a":1,"b":2}'))
    assert not parse({"and": [{"=": ["a", 2]}, {"=": ["b", 2]}]}).matches(members)
    assert parse({"or": [{"=": ["a", 1]}, {"=": ["b", 2]}]}).matches(members)
    assert members.taken == ["a", "a"]


def test_filter_is_asked_again_and_remembers_nothing():
    """Each message is judged by its own members."""
    found = parse({"=": ["m", 1]})
    assert [found.matches({"m": msgspec.Raw(raw)}) for raw in (b"1", b"2", b"1")] == [True, False, True]


# -- which are equal ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'{"=":["a",5]}', b' { "=" : [ "a" , 5 ] }\n'),
        (b'{"=":["a",5]}', b'{"=":["a",5.0]}'),
        (b'{"=":["a",5]}', b'{"=":["a",0.5e1]}'),
        (b'{"=":["a",0]}', b'{"=":["a",-0.0]}'),
        (b'{"=":["a",1e22]}', b'{"=":["a",10000000000000000000000]}'),
        (b'{"in":["a",[1,2]]}', b'{"in":["a",[1.0,2.0]]}'),
        (b'{"=":["a","\xc3\xa9"]}', b'{"=":["\\u0061","\\u00e9"]}'),
        (b'{"=":["a",5]}', b'{"=":[["a"],5]}'),
        (b'{"exists":"a"}', b'{"exists":["a"]}'),
        (b'{"!=":["a",5]}', b'{"not":{"=":["a",5]}}'),
        (b'{"and":[{"exists":"a"},{"not":{"exists":"b"}}]}', b'{"and": [{"exists":"a"}, {"not": {"exists":["b"]}}]}'),
    ],
    ids=str,
)
def test_other_spelling_is_the_same_filter(one, other):
    """Subscribers whose filters say the same share one encoded message."""
    one, other = parse_filter(one), parse_filter(msgspec.Raw(other))
    assert one == other
    assert hash(one) == hash(other)
    assert parse_filter(one.text) == one


def test_other_filters_are_not_equal():
    """Also where Python would say that they are."""
    texts = [
        b'{"=":["a",1]}',
        b'{"=":["a",true]}',
        b'{"=":["a","1"]}',
        b'{"=":["a",null]}',
        b'{"in":["a",[1]]}',
        b'{"in":["a",[true]]}',
        b'{"=":["b",1]}',
        b'{"=":[["a","b"],1]}',
        b'{"<":["a",1]}',
        b'{"=":["a",9007199254740992]}',
        b'{"=":["a",9007199254740993]}',
        b'{"or":[{"exists":"a"},{"exists":"b"}]}',
        b'{"and":[{"exists":"a"},{"exists":"b"}]}',
    ]
    assert len({parse_filter(text) for text in texts}) == len(texts)


def test_filter_cannot_be_changed():
    """It is a key of tables."""
    with pytest.raises(AttributeError):
        parse({"exists": "a"}).text = b""


# -- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[]", "filter: must be an object with one operator"),
        (b'"="', "filter: must be an object with one operator"),
        (b"{}", "filter: must be an object with one operator"),
        (b'{"exists":"a","=":["a",1]}', "filter: must be an object with one operator"),
        (b'{"exists":"a","exists":"a"}', "filter: must be an object with one operator"),
        (b'[["exists","a"]]', "filter: must be an object with one operator"),
        (b'{"==":["a",1]}', NO_OPERATOR),
        (b'{"AND":[]}', NO_OPERATOR),
        (b'{"\\u0000":1}', NO_OPERATOR),
        (b'{"and":[]}', "filter.and: must be a list of 1 to 20 filters"),
        (b'{"or":{"exists":"a"}}', "filter.or: must be a list of 1 to 20 filters"),
        (b'{"and":[{"exists":"a"},{"or":[1]}]}', "filter.and[1].or[0]: must be an object with one operator"),
        (b'{"not":[{"exists":"a"}]}', "filter.not: must be an object with one operator"),
        (b'{"=":"a"}', "filter.=: must be a list of a member and an operand"),
        (b'{"=":["a"]}', "filter.=: must be a list of a member and an operand"),
        (b'{"=":["a",1,2]}', "filter.=: must be a list of a member and an operand"),
        (b'{"=":{"a":1,"b":2}}', "filter.=: must be a list of a member and an operand"),
        (b'{"!=":{"a":1}}', "filter.!=: must be a list of a member and an operand"),
        (b'{"=":[5,1]}', "filter.=[0]: must be a list of 1 to 8 names, or one name"),
        (b'{"=":[{"a":1},1]}', "filter.=[0]: must be a list of 1 to 8 names, or one name"),
        (b'{"exists":[]}', "filter.exists: must be a list of 1 to 8 names, or one name"),
        (b'{"exists":["a",0]}', "filter.exists: must be a string"),
        (b'{"=":["a",[]]}', "filter.=[1]: must be a string, a number, true, false or null"),
        (b'{"=":["a",{}]}', "filter.=[1]: must be a string, a number, true, false or null"),
        (b'{"<":["a",null]}', "filter.<[1]: must be a string or a number"),
        (b'{">=":["a",true]}', "filter.>=[1]: must be a string or a number"),
        (b'{"prefix":["a",1]}', "filter.prefix[1]: must be a string"),
        (b'{"in":["a","b"]}', "filter.in[1]: must be a list of 1 to 100 values"),
        (b'{"in":["a",[]]}', "filter.in[1]: must be a list of 1 to 100 values"),
        (b'{"in":["a",[1,[2]]]}', "filter.in[1][1]: must be a string, a number, true, false or null"),
    ],
    ids=str,
)
def test_wrong_shape_is_refused_with_its_place(text, message):
    """The message leads to the fault, and repeats nothing that the peer wrote."""
    assert refusal(text) == message


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b'{"exists":"a"} 1',
        b"{'exists':'a'}",
        b'{"=":["a",NaN]}',
        b'{"=":["a",-Infinity]}',
        b'{"=":["a",1e999]}',
        b'{"=":["a",01]}',
        b'{"exists":"\xff"}',
        b'{"exists":"\\ud800"}',
        b'{"exists":"a\n"}',
        b'\xef\xbb\xbf{"exists":"a"}',
        '{"exists":"a"}'.encode("utf-16"),
        b"[" * 4000,
        b"[" * 2000 + b"]" * 2000,
        b'{"not":' * 500 + b"1" + b"}" * 500,
    ],
    ids=lambda text: text[:20],
)
def test_text_that_is_not_clean_json_is_refused(text):
    """Whatever is wrong with it, its sender is told, and no more than that."""
    assert refusal(text).startswith("filter")


def nested(depth: int) -> dict:
    """A filter of so many levels."""
    return {"exists": "a"} if depth == 1 else {"not": nested(depth - 1)}


@pytest.mark.parametrize(
    ("build", "most", "message"),
    [
        (nested, MAX_DEPTH, "filter" + ".not" * MAX_DEPTH + ": at most 8 levels are allowed"),
        (lambda n: {"or": [{"exists": "a"}] * n}, MAX_PARTS, "filter.or: must be a list of 1 to 20 filters"),
        (
            lambda n: {"and": [{"or": [{"exists": "a"}] * size} for size in (15, 15, n - 34)]},
            MAX_NODES,
            "filter.and[2].or[16]: at most 50 operators are allowed",
        ),
        (lambda n: {"in": ["a", list(range(n))]}, MAX_VALUES, "filter.in[1]: must be a list of 1 to 100 values"),
        (lambda n: {"=": ["a", "é" * n]}, MAX_CHARACTERS, "filter.=[1]: at most 256 characters are allowed"),
        (lambda n: {"exists": ["é" * n]}, MAX_CHARACTERS, "filter.exists: at most 256 characters are allowed"),
        (lambda n: {"exists": ["a"] * n}, MAX_NAMES, "filter.exists: must be a list of 1 to 8 names, or one name"),
    ],
    ids=["depth", "parts", "nodes", "values", "operand", "name", "path"],
)
def test_filter_at_its_limit_is_taken_and_one_more_is_refused(build, most, message):
    """Each limit is the last that is allowed."""
    parse(build(most))
    assert refusal(msgspec.json.encode(build(most + 1))) == message


def test_text_at_its_limit_is_taken_and_a_byte_more_is_refused():
    """White space counts: nobody can make the server read more."""
    parse_filter(b'{"exists":"a"}'.ljust(MAX_BYTES))
    assert refusal(b'{"exists":"a"}'.ljust(MAX_BYTES + 1)) == "filter: at most 4096 bytes are allowed"


# -- against a second reading of the rules ------------------------------------------------------------------------

names = st.sampled_from(["a", "b", "c"])
strings = st.sampled_from(["", "a", "ab", "b", "é", "\U0001f600"]) | st.text(max_size=3)
numbers = (
    st.integers(-2, 2)
    | st.sampled_from([0.5, 1.0, -0.0, 2**53, 2**53 + 1, float(2**53), 10**400, 1e308])
    | st.floats(allow_nan=False, allow_infinity=False)
)
scalars = strings | numbers | st.booleans() | st.none()
paths = names | st.lists(names, min_size=1, max_size=3)
leaves = st.one_of(
    st.tuples(st.sampled_from(["=", "!="]), st.tuples(paths, scalars)),
    st.tuples(st.sampled_from(["<", "<=", ">", ">="]), st.tuples(paths, strings | numbers)),
    st.tuples(st.just("prefix"), st.tuples(paths, strings)),
    st.tuples(st.just("in"), st.tuples(paths, st.lists(scalars, min_size=1, max_size=4))),
    st.tuples(st.just("exists"), paths),
).map(lambda pair: {pair[0]: pair[1]})
nodes = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["and", "or"]), st.lists(inner, min_size=1, max_size=3)),
        st.tuples(st.just("not"), inner),
    ).map(lambda pair: {pair[0]: pair[1]}),
    max_leaves=6,
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(names, inner, max_size=3), max_leaves=6
)
payloads = st.dictionaries(names, values, max_size=3)


def kind(value: object) -> str:
    """The JSON type of a value."""
    return "number" if type(value) in (int, float) else type(value).__name__


def judge(node: dict, payload: dict) -> bool:
    """The rules once more, over Python values, as plainly as they can be put."""
    ((name, operand),) = node.items()
    if name == "and":
        return all(judge(part, payload) for part in operand)
    if name == "or":
        return any(judge(part, payload) for part in operand)
    if name == "not":
        return not judge(operand, payload)
    path = operand if name == "exists" else operand[0]
    there, value = True, payload
    for step in [path] if isinstance(path, str) else path:
        there = isinstance(value, dict) and step in value
        if not there:
            break
        value = value[step]
    if name == "exists":
        return there
    wanted = operand[1]
    if name == "in":
        return there and any(kind(value) == kind(one) and value == one for one in wanted)
    comparable = there and kind(value) == kind(wanted)
    if name == "!=":
        return not (comparable and value == wanted)
    return (
        comparable
        and {
            "=": lambda: value == wanted,
            "<": lambda: value < wanted,
            "<=": lambda: value <= wanted,
            ">": lambda: value > wanted,
            ">=": lambda: value >= wanted,
            "prefix": lambda: value[: len(wanted)] == wanted,
        }[name]()
    )


@given(nodes, payloads)
@example({"=": ["a", True]}, {"a": 1})
@example({"in": ["a", [1]]}, {"a": True})
@example({"<": ["a", float(2**53)]}, {"a": 2**53 - 1})
def test_filter_agrees_with_the_rules(node, payload):
    """The compiled filter and the rules over Python values come to the same."""
    found = parse(node)
    assert found.matches(_members_decoder.decode(msgspec.json.encode(payload))) is judge(node, payload)
    assert parse(node) == found


def respelled(node: dict) -> dict:
    """The same filter, put in other words."""
    ((name, operand),) = node.items()
    if name in ("and", "or"):
        return {name: [respelled(part) for part in operand]}
    if name == "not":
        return {name: respelled(operand)}
    if name == "exists":
        return {name: [operand] if isinstance(operand, str) else operand}
    path, wanted = operand
    path = [path] if isinstance(path, str) else path
    if isinstance(wanted, float) and wanted.is_integer():
        wanted = int(wanted)
    return {"not": {"=": [path, wanted]}} if name == "!=" else {name: [path, wanted]}


@given(nodes)
def test_respelled_filter_is_equal(node):
    """White space, escapes, forms of numbers, one name or a list of one, `!=` or `not =`: all one filter."""
    assert parse_filter(json.dumps(respelled(node), indent=1).encode()) == parse(node)


@given(scalars, scalars)
@example(1, True)
@example(0, -0.0)
@example(2**53, 2**53 + 1)
@example(float(2**53), 2**53)
def test_filters_are_equal_exactly_where_their_operands_are(one, other):
    """Equality is neither wider nor narrower than what `=` means."""
    same = kind(one) == kind(other) and one == other
    assert (parse({"=": ["a", one]}) == parse({"=": ["a", other]})) is same
    assert (parse({"in": ["a", [one]]}) == parse({"in": ["a", [other]]})) is same
