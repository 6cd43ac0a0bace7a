"""Commands from their text, pushes into theirs."""

from __future__ import annotations

import msgspec
import pytest

from realtime import closing, messages
from realtime.errors import CommandError, ProtocolViolation
from realtime.history import Position, Since
from realtime.messages import compact, decode_command, decode_wish, encode


def decoded(**members):
    """The command of these members."""
    return decode_command(msgspec.json.encode({"id": 1, **members}))


def refused(text: bytes) -> CommandError:
    """The error that this text is refused with."""
    with pytest.raises(CommandError) as caught:
        decode_command(text)
    return caught.value


@pytest.mark.parametrize(
    ("members", "command"),
    [
        ({"type": "auth", "token": "t"}, messages.Auth(id=1, token="t")),
        ({"type": "subscribe", "topic": "room:a"}, messages.Subscribe(id=1, topic="room:a")),
        (
            {"type": "subscribe", "topic": "room:a", "fields": ["x"], "mode": "latest", "recover": {"last": 3}},
            messages.Subscribe(id=1, topic="room:a", fields=["x"], mode="latest", recover=messages.Recover(last=3)),
        ),
        ({"type": "update", "topic": "room:a"}, messages.Update(id=1, topic="room:a")),
        ({"type": "update", "topic": "room:a", "fields": None}, messages.Update(id=1, topic="room:a", fields=None)),
        ({"type": "unsubscribe", "topic": "room:a"}, messages.Unsubscribe(id=1, topic="room:a")),
        (
            {"type": "history", "topic": "room:a", "after": {"epoch": "e", "offset": 4}, "limit": 9},
            messages.History(id=1, topic="room:a", after=messages.At("e", 4), limit=9),
        ),
        ({"type": "stats"}, messages.Stats(id=1)),
        ({"type": "ping"}, messages.Ping(id=1)),
    ],
)
def test_command_is_decoded_by_its_type(members, command):
    """Each command becomes its struct."""
    assert decoded(**members) == command


def test_payload_is_carried_as_it_was_written():
    """The data of a publish is not decoded."""
    command = decode_command(b'{"type":"publish","id":1,"topic":"room:a","data":{"a": 1.10},"event":"e","key":"k"}')
    assert bytes(command.data) == b'{"a": 1.10}'
    assert (command.event, command.key) == ("e", "k")


def test_commands_of_a_batch_are_kept_for_later():
    """A batch holds texts, which are decoded one by one."""
    command = decode_command(b'{"type":"batch","id":1,"commands":[{"type":"nonsense"}, 5]}')
    assert [bytes(raw) for raw in command.commands] == [b'{"type":"nonsense"}', b"5"]


def test_unknown_members_are_ignored():
    """Clients newer than the server are served."""
    assert decoded(type="ping", colour="blue") == messages.Ping(id=1)


def test_members_in_any_order_are_understood():
    """The type need not come first."""
    assert decode_command(b'{"id":"x","type":"ping"}') == messages.Ping(id="x")


def test_last_of_duplicate_members_wins():
    """JSON leaves it open; here it is the last, as in browsers."""
    assert decode_command(b'{"type":"ping","id":1,"id":2}') == messages.Ping(id=2)


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("topic", 5),
        ("topic", None),
        ("topic", "x" * 1025),
        ("fields", []),
        ("fields", "price"),
        ("fields", ["x" * 129]),
        ("fields", ["x"] * 101),
        ("fields", [1]),
        ("mode", "sometimes"),
        ("recover", 5),
        ("recover", {"last": 0}),
        ("recover", {"last": 10_001}),
        ("recover", {"epoch": "e", "offset": -1}),
        ("recover", {"epoch": "e", "offset": 2**53 + 1}),
        ("recover", {"epoch": "e" * 65, "offset": 1}),
        ("recover", {"epoch": "e", "offset": 1.5}),
    ],
)
def test_wrong_member_is_named_in_the_refusal(member, value):
    """A bad request says which member is wrong, and repeats the id."""
    error = refused(msgspec.json.encode({"type": "subscribe", "id": 9, "topic": "room:a", member: value}))
    assert error.code == "BAD_REQUEST"
    assert f"$.{member}" in error.message
    assert error.command_id == 9


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (b'{"type":"publish","id":1,"topic":"room:a"}', "data"),
        (b'{"type":"publish","id":1,"data":1}', "topic"),
        (b'{"type":"auth","id":1}', "token"),
        (b'{"type":"history","id":1,"topic":"room:a","limit":1001}', "limit"),
        (b'{"type":"history","id":1,"topic":"room:a","limit":0}', "limit"),
        (b'{"type":"publish","id":1,"topic":"room:a","data":1,"event":5}', "event"),
        (b'{"type":"publish","id":1,"topic":"room:a","data":1,"key":[]}', "key"),
        (b'{"type":"batch","id":1}', "commands"),
        (b'{"type":"batch","id":1,"commands":{}}', "commands"),
        (b'{"id":1}', "type"),
        (b'{"id":1,"type":5}', "type"),
    ],
)
def test_missing_or_wrong_member_of_any_command_is_named(text, named):
    """Every command says what it lacks."""
    error = refused(text)
    assert (error.code, error.command_id) == ("BAD_REQUEST", 1)
    assert named in error.message


def test_batch_of_too_many_commands_is_refused():
    """A batch is bounded in commands."""
    error = refused(msgspec.json.encode({"type": "batch", "id": 1, "commands": [1] * 1001}))
    assert (error.code, error.command_id) == ("BAD_REQUEST", 1)


def test_unknown_type_has_a_code_of_its_own():
    """A client can tell an old server from a mistake."""
    error = refused(b'{"type":"teleport","id":"x"}')
    assert (error.code, error.command_id) == ("UNKNOWN_TYPE", "x")


@pytest.mark.parametrize(
    "identity", [b"null", b"1.5", b"[]", b"{}", b"true", b'"' + b"x" * 129 + b'"', b"9" * 5000, b"1e999"]
)
def test_id_that_cannot_be_repeated_is_refused_without_one(identity):
    """An id is an integer or a short text; an error for another has none."""
    error = refused(b'{"type":"ping","id":' + identity + b"}")
    assert (error.code, error.command_id) == ("BAD_REQUEST", None)


@pytest.mark.parametrize("identity", [0, -1, 2**63, 2**64, 2**70])
def test_large_integer_id_can_be_repeated(identity):
    """What is accepted as an id can also be written into the reply."""
    command = decode_command(b'{"type":"ping","id":%d}' % identity)
    assert encode({"id": command.id}) == b'{"id":%d}' % identity


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b" ",
        b"hello",
        b"[]",
        b"5",
        b"null",
        b'"text"',
        b'{"type":"ping","id":1',
        b'{"type":"ping","id":1}}',
        b"\xef\xbb\xbf{}",
        b'{"type":"teleport", nonsense',
        b'{"type":"ping","id":[], nonsense',
        b'{"type":"ping","id":1,"x":"\\ud800"}',
        b'{"type":"publish","id":1,"topic":"room:a","data":{"\\ud800":1}}',
        b'{"type":"publish","id":1,"topic":"room:a","data":"a\nb"}',
        b'{"type":"publish","id":1,"topic":"\xff","data":1}',
        b'{"type":"publish","id":1,"topic":"room:a","data":' + b"[" * 100_000,
        b'{"type":"publish","id":1,"topic":"room:a","data":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
        b'{"type":"ping","id":[],"x":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
        b'{"a":' * 30_000 + b"1" + b"}" * 30_000,
    ],
)
def test_text_that_is_no_json_object_ends_the_conversation(text):
    """Malformed text, lone surrogates and JSON that only wants to be deep are violations, and nothing worse."""
    with pytest.raises(ProtocolViolation) as caught:
        decode_command(text)
    assert caught.value.reason is closing.BAD_REQUEST


def test_recover_gives_what_is_asked_of_history():
    """A position or a number; nothing where nothing is asked."""
    at = decoded(type="subscribe", topic="room:a", recover={"epoch": "e", "offset": 4})
    last = decoded(type="subscribe", topic="room:a", recover={"last": 7})
    neither = decoded(type="subscribe", topic="room:a")
    assert at.since() == Since(Position("e", 4))
    assert last.since() == Since(last=7)
    assert neither.since() is None


@pytest.mark.parametrize("recover", [{}, {"epoch": "e"}, {"offset": 3}])
def test_recover_without_a_place_is_refused(recover):
    """Half a position is none."""
    command = decoded(type="subscribe", topic="room:a", recover=recover)
    with pytest.raises(CommandError, match="recover"):
        command.since()


def test_subscribe_object_of_a_url_is_a_wish():
    """The same members without type and id."""
    assert decode_wish(b'{"topic":"room:a","fields":["x"],"mode":"all"}') == messages.Wish(
        topic="room:a", fields=["x"], mode="all"
    )


@pytest.mark.parametrize(
    "text", [b"", b"5", b"{}", b'{"topic":5}', b'{"topic":"\xff"}', b"[" * 30_000, b'{"topic":"a","mode":"x"}']
)
def test_wrong_subscribe_object_is_refused(text):
    """Whatever is wrong with it, it is a bad request."""
    with pytest.raises(CommandError, match="not a subscribe object"):
        decode_wish(text)


def test_text_on_one_line_stays_as_it_is():
    """Only line ends cost anything."""
    data = b'{"a": 1.10}'
    assert compact(data) is data


def test_text_on_several_lines_becomes_one_line_of_the_same_json():
    """Numbers keep their digits, texts their escapes."""
    assert compact(b'{"a":\r\n 1.10,\n"b":[1E5, 123456789012345678901],"c":"x\\ny"}') == (
        b'{"a":1.10,"b":[1E5,123456789012345678901],"c":"x\\ny"}'
    )


@pytest.mark.parametrize("data", [b"{\n", b"\n" + b"[" * 30_000 + b"]" * 30_000])
def test_text_that_cannot_be_made_one_line_is_refused(data):
    """The publisher is told."""
    with pytest.raises(CommandError, match="BAD_REQUEST"):
        compact(data)


def test_encoded_push_leaves_out_what_is_none():
    """A member without a value is absent, one that is empty or zero is not."""
    assert encode({"type": "x", "id": None, "n": 0, "list": []}) == b'{"type":"x","n":0,"list":[]}'
