"""The message shape of front ends that were there before us."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime import closing
from realtime.envelopes import Envelope, Naming, ProgressDialect, Timestamps
from realtime.progress_state import EVENTS, SessionError

NOON = 1_767_225_600_123
ISO = "2026-01-01T00:00:00.123Z"
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=10,
)
ENVELOPES = st.builds(Envelope, st.sampled_from(Naming), st.sampled_from(Timestamps))


def pushed(kind, push, dialect=None):
    """The parts of a push in the dialect."""
    text = (dialect or ProgressDialect()).push(kind, {"type": kind, **push}, "session:s", NOON)
    return None if text is None else json.loads(text)


def test_envelope_is_the_same_byte_for_byte():
    """Members in their order, the payload as it was published."""
    text = Envelope()("task_completed", b'{"node_id": "a"}', NOON, "session:s-1")
    assert text == (
        b'{"type":"task_completed","task_id":"s-1","timestamp":"2026-01-01T00:00:00.123Z","data":{"node_id": "a"}}'
    )
    text = Envelope(Naming.ALIASES, Timestamps.EPOCH)("task_completed", b"{}", NOON, "session:s-1")
    assert text == b'{"type":"node_complete","task_id":"s-1","timestamp":1767225600123,"data":{}}'


@pytest.mark.parametrize(
    ("event", "alias"),
    [
        ("progress_update", "progress"),
        ("task_completed", "node_complete"),
        ("task_failed", "task_failed"),
        ("group_complete", "group_complete"),
        ("session_completed", "complete"),
        ("error", "error"),
        ("anything", "anything"),
        (None, "message"),
    ],
)
def test_events_have_their_names_in_each_naming(event, alias):
    """A name that only one naming knows stays as it is in the other."""
    assert event is None or event == "anything" or event in EVENTS
    assert json.loads(Envelope()(event, b"{}", 0, "session:s"))["type"] == (event or "message")
    assert json.loads(Envelope(Naming.ALIASES)(event, b"{}", 0, "session:s"))["type"] == alias


def test_equal_envelopes_and_dialects_are_one_key():
    """So that those who see the same share it."""
    assert len({Envelope(), Envelope(Naming.MODERN), Envelope(Naming.ALIASES)}) == 2
    assert (
        len({ProgressDialect(), ProgressDialect(Envelope()), ProgressDialect(Envelope(timestamps=Timestamps.EPOCH))})
        == 2
    )


@pytest.mark.parametrize(("topic", "task_id"), [("session:a:b", "a:b"), ("global", "global")])
def test_task_id_is_the_name_of_the_topic(topic, task_id):
    """A bare topic is its own name."""
    assert json.loads(Envelope()("e", b"1", 0, topic))["task_id"] == task_id


@given(ENVELOPES, TEXTS, VALUES, st.integers(0, 253_402_300_799_999), TEXTS)
def test_whatever_is_put_in_is_json_with_the_members_in_their_order(envelope, event, value, time_ms, name):
    """And comes out as it was."""
    data = msgspec.json.encode(value)
    text = envelope(event, data, time_ms, f"session:{name}")
    parts = json.loads(text)
    assert list(parts) == ["type", "task_id", "timestamp", "data"]
    assert parts["data"] == json.loads(data)
    assert name in ("", parts["task_id"])
    assert text.endswith(b',"data":%b}' % data)
    if envelope.timestamps is Timestamps.EPOCH:
        assert parts["timestamp"] == time_ms
    else:
        at = datetime.fromisoformat(parts["timestamp"])
        assert (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1) == time_ms
        assert len(parts["timestamp"]) == 24


@pytest.mark.parametrize(
    ("kind", "push", "name", "data"),
    [
        ("welcome", {"connection": "c_1", "user": None}, "connected", {"connection": "c_1"}),
        ("ping", {"server_time": 5}, "ping", {}),
        (
            "error",
            {"code": "RATE_LIMIT_EXCEEDED", "message": "slow down", "retry_after": 2.5},
            "error",
            {"error_type": "RATE_LIMIT_EXCEEDED", "message": "slow down", "recoverable": True, "retry_after": 2.5},
        ),
        (
            "error",
            {"code": "BAD_REQUEST", "message": "what?", "retry_after": None},
            "error",
            {"error_type": "BAD_REQUEST", "message": "what?", "recoverable": False, "retry_after": None},
        ),
        (
            "gap",
            {"topic": "session:s", "from": 4, "to": 15, "count": 12, "recoverable": False},
            "error",
            {"error_type": "gap", "message": "messages lost: 12", "recoverable": True, "retry_after": None},
        ),
        (
            "disconnect",
            {"code": 4100, "reason": "shutting down", "reconnect": True, "retry_after": 7.3},
            "error",
            {"error_type": "disconnect", "message": "shutting down", "recoverable": True, "retry_after": 7.3},
        ),
    ],
)
def test_push_is_said_in_the_words_of_the_front_end(kind, push, name, data):
    """In the same shape as its messages; an error has the members of the event of that name."""
    assert pushed(kind, push) == {"type": name, "task_id": "s", "timestamp": ISO, "data": data}
    assert list(pushed(kind, push)["data"]) == list(data)
    if name == "error":
        assert tuple(data) == SessionError.__struct_fields__
    aliases = ProgressDialect(Envelope(Naming.ALIASES, Timestamps.EPOCH))
    assert pushed(kind, push, aliases) == {"type": name, "task_id": "s", "timestamp": NOON, "data": data}


@pytest.mark.parametrize("kind", ["subscribed", "unsubscribed", "token_expiring", "authenticated", "pong", "join"])
def test_push_without_a_word_for_it_is_not_sent(kind):
    """The front end would not know what to do with it."""
    assert pushed(kind, {"topic": "session:s"}) is None


def test_regular_end_is_no_error():
    """The final event has said it."""
    reason = closing.NORMAL
    assert pushed("disconnect", {"code": reason.code, "reason": reason.text, "reconnect": False}) is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (b"ping", b"pong"),
        (b" ping\n", b"pong"),
        (memoryview(b"ping"), b"pong"),
        (b'{"type":"ping"}', b'{"type":"pong"}'),
        (b'{"timestamp": 5, "type": "ping"}', b'{"type":"pong"}'),
        (b"pong", None),
        (b'{"type":"pong"}', None),
        (b'{"type":5}', None),
        (b"{}", None),
        (b"", None),
        (b"[", None),
        (b'"ping"', None),
        (b"\xff\xfe", None),
        (b'{"type":"\xff"}', None),
        (b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b',"type":"ping"}', None),
    ],
)
def test_ping_is_answered_in_kind_and_all_else_is_not(text, answer):
    """Whatever such a client sends, it never fails."""
    assert ProgressDialect().hear(text) == answer


@given(st.binary() | TEXTS.map(str.encode) | VALUES.map(msgspec.json.encode))
def test_nothing_that_is_heard_fails(text):
    """Nor is any but a ping answered."""
    assert ProgressDialect().hear(text) in (None, b"pong", b'{"type":"pong"}')
