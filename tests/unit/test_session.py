"""The state table of one peer's protocol."""

from __future__ import annotations

import msgspec
import pytest

from realtime import messages
from realtime.auth import Identity
from realtime.errors import ProtocolViolation
from realtime.session import _ACCEPTS, Accepted, Refused, Session, State
from realtime.topics import Kinds
from tests.tools import OutboxKit

COMMANDS = {
    "auth": {"token": "t"},
    "batch": {"commands": []},
    "history": {"topic": "room:a"},
    "members": {"topic": "room:a"},
    "ping": {},
    "publish": {"topic": "room:a", "data": 1},
    "request": {"action": "sum"},
    "stats": {},
    "subscribe": {"topic": "room:b"},
    "unsubscribe": {"topic": "room:a"},
    "update": {"topic": "room:a"},
}


ROOM, _ = Kinds().split("room:a")


def session(state: State = State.OPEN, *, max_topics: int = 3) -> Session:
    """A session that has room:a."""
    made = Session("c_1", Kinds(), max_topics, Identity("7"), state)
    made.subscriptions["room:a"] = OutboxKit().subscription()
    return made


def text(kind: str, **members) -> bytes:
    """The text of a command."""
    return msgspec.json.encode({"type": kind, "id": 1, **COMMANDS.get(kind, {}), **members})


def test_every_command_has_a_row_in_the_table():
    """The tests below cover all that there is."""
    assert {command.__struct_config__.tag for command in messages.Command.__args__} == set(COMMANDS)
    assert set(_ACCEPTS) == set(State)


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("kind", COMMANDS)
def test_command_is_accepted_where_the_state_allows_it(state, kind):
    """Before the login only login and pings, in between all, at the end nothing."""
    allowed = {State.GREETING: kind in ("auth", "ping"), State.OPEN: True, State.CLOSING: False}[state]
    decision = session(state).decide(text(kind))
    if allowed:
        assert isinstance(decision, Accepted)
    else:
        assert isinstance(decision, Refused)
        assert (decision.id, decision.error.code) == (1, "AUTH_REQUIRED")


@pytest.mark.parametrize(
    ("kind", "members", "code"),
    [
        ("subscribe", {"topic": "nosuch:a"}, "INVALID_TOPIC"),
        ("subscribe", {"topic": "symbol:x"}, "INVALID_SYMBOL"),
        ("update", {"topic": "room:b"}, "NOT_SUBSCRIBED"),
        ("unsubscribe", {"topic": "room:b"}, "NOT_SUBSCRIBED"),
        ("subscribe", {"max_rate": 0}, "BAD_REQUEST"),
        ("update", {"max_rate": 1001}, "BAD_REQUEST"),
        ("publish", {"idempotency_key": ""}, "BAD_REQUEST"),
        ("request", {"trace_id": "a b"}, "BAD_REQUEST"),
        ("teleport", {}, "UNKNOWN_TYPE"),
        ("publish", {"topic": 5}, "BAD_REQUEST"),
    ],
)
def test_command_that_makes_no_sense_is_refused_with_its_code(kind, members, code):
    """The refusal repeats the id."""
    decision = session().decide(text(kind, **members))
    assert isinstance(decision, Refused)
    assert (decision.id, decision.error.code) == (1, code)


def test_command_that_nests_too_deep_is_refused():
    """By its own id; one level less is accepted. Those who read it after us may be recursive."""
    made = session()
    made.max_depth = 5
    accepted, refused = (made.decide(text("publish", data=data)) for data in ([[[[1]]]], [[[[[1]]]]]))
    assert isinstance(accepted, Accepted)
    assert isinstance(refused, Refused)
    assert (refused.id, refused.error.code) == (1, "BAD_REQUEST")


def test_text_that_is_no_command_ends_the_conversation():
    """Outside of a batch."""
    with pytest.raises(ProtocolViolation):
        session().decide(b"hello")


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"5", "BAD_REQUEST"),
        (b"[]", "BAD_REQUEST"),
        (text("batch"), "BAD_REQUEST"),
        (text("request"), "BAD_REQUEST"),
        (b'{"type":"x"}', "UNKNOWN_TYPE"),
    ],
)
def test_wrong_part_of_a_batch_is_refused_by_itself(raw, code):
    """The rest of the batch and the conversation go on; a batch holds no batch and no request."""
    decision = session().decide_part(msgspec.Raw(raw))
    assert isinstance(decision, Refused)
    assert decision.error.code == code


def test_part_of_a_batch_is_decided_like_a_command():
    """Nothing else differs."""
    assert session().decide_part(msgspec.Raw(text("ping"))) == Accepted(messages.Ping(id=1))


def test_topic_joined_twice_is_refused():
    """One subscription of a topic for each connection."""
    made = session()
    made.joining.add("room:b")
    for topic in ("room:a", "room:b"):
        assert made.join_refusal(topic, ROOM).code == "ALREADY_SUBSCRIBED"


def test_topics_over_the_limit_are_refused():
    """A connection has so many topics."""
    full = session(max_topics=1)
    assert full.join_refusal("room:b", ROOM).code == "LIMIT_EXCEEDED"
    full.subscriptions.clear()
    assert full.join_refusal("room:b", ROOM) is None


def test_topics_over_the_limit_of_their_kind_are_refused():
    """Those that are being joined count, those of other kinds do not."""
    kinds = Kinds().with_options("room", max_per_connection=2)
    room, _ = kinds.split("room:a")
    made = Session("c_1", kinds, 10, Identity("7"))
    made.subscriptions = dict.fromkeys(("room:a", "user:7", "global"), OutboxKit().subscription())
    assert made.join_refusal("room:b", room) is None
    made.joining.add("room:b")
    assert made.join_refusal("room:c", room).code == "LIMIT_EXCEEDED"
    assert made.join_refusal("project:c", kinds.split("project:c")[0]) is None


def test_peer_that_came_by_a_route_names_its_topic_only():
    """Commands that name none are accepted."""
    made = session()
    made.only = "room:a"
    decision = made.decide(text("subscribe", topic="room:b"))
    assert isinstance(decision, Refused)
    assert decision.error.code == "PERMISSION_DENIED"
    assert isinstance(made.decide(text("history", topic="room:a")), Accepted)
    assert isinstance(made.decide(text("ping")), Accepted)


def test_session_describes_itself():
    """What the welcome says."""
    assert session().describe() == {"connection": "c_1", "user": "7"}


def test_peer_that_came_by_a_route_neither_goes_elsewhere_nor_leaves():
    """Its connection is there for one topic."""
    bound = session()
    bound.only = "room:a"
    for kind, topic in (("subscribe", "room:b"), ("unsubscribe", "room:a"), ("history", "room:b")):
        decision = bound.decide(text(kind, topic=topic))
        assert isinstance(decision, Refused)
        assert decision.error.code == "PERMISSION_DENIED"
    assert isinstance(bound.decide(text("update", topic="room:a", fields=["x"])), Accepted)
