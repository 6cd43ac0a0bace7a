"""What publishers ask, how they understand answers, when they ask again."""

from __future__ import annotations

import json
import pickle

import attrs
import pytest

from realtime.errors import ErrorCode, RealtimeError
from transports.publishers import Outgoing, PublishError, Receipt, calls
from transports.publishers.attempts import Attempts, Policy

NOTHING = {"event": None, "key": None, "idempotency_key": None}
GIVEN = {"event": "e", "key": "k", "idempotency_key": "i"}
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
LATER = "Sun, 06 Nov 1994 08:49:42 GMT"


def policy(**options):
    defaults = {"timeout_seconds": 10.0, "deadline_seconds": 30.0, "attempts": 5, "backoff_seconds": (1.0, 6.0)}
    return Policy(**{**defaults, "random": lambda: 1.0, **options})


def failure(status=503, retry_after=None):
    return PublishError("UNAVAILABLE", "", status=status, retry_after=retry_after)


def body_of(call):
    return json.loads(call.content)


def refused(status, headers=None, body=b"", call=None):
    """The error that an answer means."""
    with pytest.raises(PublishError) as caught:
        (call or calls.publish(Outgoing("room:a", 1))).outcome(status, headers or {}, body)
    return caught.value


# -- what is asked --------------------------------------------------------------------------------------------


def test_publish_posts_the_message_with_what_was_given():
    """Topic, data and the three options."""
    call = calls.publish(Outgoing("room:a", {"x": "ü"}, **GIVEN))
    assert call.path == "/api/v1/publish"
    assert body_of(call) == {"topic": "room:a", "data": {"x": "ü"}, **GIVEN}


def test_option_that_was_not_given_is_left_out():
    """Only the idempotency key is always there; data that is null stays."""
    body = body_of(calls.publish(Outgoing("room:a", None)))
    assert body.pop("idempotency_key")
    assert body == {"topic": "room:a", "data": None}


def test_call_without_idempotency_key_draws_its_own():
    """No two calls share one, nor do messages of one batch."""
    message = Outgoing("room:a", 1)
    (batch,) = calls.batches([message, message])
    bodies = [body_of(calls.publish(message)), body_of(calls.publish(message)), *body_of(batch)]
    keys = {body["idempotency_key"] for body in bodies}
    assert len(keys) == 4
    assert all(len(key) >= 16 for key in keys)


def test_anything_with_a_json_form_can_be_data():
    """Also classes of attrs; what has none is refused before anything is sent."""

    @attrs.frozen
    class Tick:
        price: float

    assert body_of(calls.publish(Outgoing("room:a", Tick(1.5))))["data"] == {"price": 1.5}
    with pytest.raises(TypeError):
        calls.batches([Outgoing("room:a", 1)] * 1500 + [Outgoing("room:a", object())])


def test_many_messages_are_cut_into_requests_the_server_takes():
    """A thousand each, in order."""
    cut = calls.batches([Outgoing("room:a", number) for number in range(2001)])
    assert {call.path for call in cut} == {"/api/v1/batch"}
    bodies = [body_of(call) for call in cut]
    assert [len(body) for body in bodies] == [1000, 1000, 1]
    assert [message["data"] for body in bodies for message in body] == list(range(2001))
    assert calls.batches([]) == []


def test_broadcast_names_its_topics():
    """In their order."""
    call = calls.broadcast(iter(["room:a", "room:b"]), 1, **GIVEN)
    assert call.path == "/api/v1/broadcast"
    assert body_of(call) == {"topics": ["room:a", "room:b"], "data": 1, **GIVEN}


@pytest.mark.parametrize(
    ("name", "segment"),
    [("7", "7"), ("a b/c?d#e%", "a%20b%2Fc%3Fd%23e%25"), ("é", "%C3%A9"), ("..", "%2E%2E"), ("c_1-2~", "c_1-2~")],
)
def test_user_or_connection_is_one_segment_of_the_path(name, segment):
    """Whatever is in a name, it names nothing else."""
    to_user = calls.send_to_user(name, 1, **GIVEN)
    to_connection = calls.send_to_connection(name, 1, **GIVEN)
    assert to_user.path == f"/api/v1/users/{segment}/send"
    assert to_connection.path == f"/api/v1/connections/{segment}/send"
    assert body_of(to_user) == body_of(to_connection) == {"data": 1, **GIVEN}


# -- what an answer means -------------------------------------------------------------------------------------


def test_receipt_tells_position_and_duplicate():
    """Members of newer servers are ignored."""
    call = calls.publish(Outgoing("room:a", 1))
    assert call.outcome(200, {}, b'{"epoch":"e","offset":3,"new":1}') == Receipt("e", 3)
    assert call.outcome(200, {}, b'{"epoch":"e","offset":3,"duplicate":true}') == Receipt("e", 3, duplicate=True)
    sent = calls.send_to_user("7", 1, **NOTHING).outcome(200, {}, b'{"topic":"user:7","epoch":"e","offset":3}')
    assert sent == Receipt("e", 3, topic="user:7")


def test_results_are_receipts_and_errors_in_order():
    """One refusal does not hide the others."""
    call = calls.broadcast(["room:a", "bad:b"], 1, **NOTHING)
    receipt, error = call.outcome(
        200,
        {},
        b'{"results":[{"topic":"room:a","epoch":"e","offset":1},'
        b'{"type":"error","topic":"bad:b","code":"INVALID_TOPIC","message":"no such kind","retry_after":2}]}',
    )
    assert receipt == Receipt("e", 1, topic="room:a")
    assert isinstance(error, PublishError)
    assert (error.code, error.message, error.topic, error.retry_after) == ("INVALID_TOPIC", "no such kind", "bad:b", 2)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"null",
        b"{}",
        b'{"epoch":"e"}',
        b'{"epoch":"e","offset":"1"}',
        b'{"results":[]}',
        b'{"results":[{"epoch":"e","offset":1},{"epoch":"e","offset":2}]}',
        b'{"results":[{}]}',
        b'{"results":["\xff"]}',
        b"[" * 100_000,
    ],
)
def test_answer_of_something_else_is_an_error_that_is_not_retried(body):
    """Also a batch with more or fewer results than messages."""
    (batch,) = calls.batches([Outgoing("room:a", 1)])
    for call in (calls.publish(Outgoing("room:a", 1)), batch):
        error = refused(200, body=body, call=call)
        assert (error.code, error.status) == (ErrorCode.INTERNAL_ERROR, 200)
        with pytest.raises(PublishError):
            Attempts(policy(), 0.0).wait_seconds(error, 0.0)


def test_refusal_tells_what_the_server_told():
    """Code, message and the exact ``retry_after`` of the body; unknown codes too."""
    error = refused(
        429, {"retry-after": "3"}, b'{"type":"error","code":"TOO_BUSY","message":"slower","retry_after":2.5}'
    )
    assert (error.code, error.message, error.status, error.retry_after) == ("TOO_BUSY", "slower", 429, 2.5)
    assert str(error) == "TOO_BUSY: slower"
    assert isinstance(error, RealtimeError)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (301, "INTERNAL_ERROR"),
        (401, "AUTH_REQUIRED"),
        (403, "PERMISSION_DENIED"),
        (404, "BAD_REQUEST"),
        (413, "PAYLOAD_TOO_LARGE"),
        (429, "RATE_LIMIT_EXCEEDED"),
        (500, "INTERNAL_ERROR"),
        (502, "UNAVAILABLE"),
        (503, "UNAVAILABLE"),
        (504, "TIMEOUT"),
        (599, "INTERNAL_ERROR"),
    ],
)
def test_refusal_without_a_code_gets_that_of_its_status(status, code):
    """A proxy's page is not shown: it may repeat the request."""
    for body in (b"x-api-key: secret", b'{"code":1}', b"\xff", b'{"code":"secret","retry_after":-1}'):
        error = refused(status, body=body)
        assert (error.code, error.status) == (code, status)
        assert "secret" not in repr(error)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "9" * 400}, float("inf")),
        ({"retry-after": "-7"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": LATER, "date": DATE}, 5.0),
        ({"retry-after": DATE, "date": LATER}, 0.0),
        ({"retry-after": LATER}, None),
        ({"retry-after": LATER, "date": "today"}, None),
        ({"retry-after": LATER, "date": DATE.replace("GMT", "-0000")}, None),
    ],
    ids=str,
)
def test_retry_after_is_seconds_or_a_date_by_the_servers_clock(headers, seconds):
    """What is neither is as if it were not there."""
    assert refused(503, headers).retry_after == seconds


def test_error_survives_a_process_pool():
    """It is pickled and comes back whole."""
    error = pickle.loads(pickle.dumps(refused(503, {"retry-after": "7"})))
    assert (error.code, error.status, error.retry_after, error.attempts) == ("UNAVAILABLE", 503, 7.0, 1)


# -- when to ask again ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [None, 429, 502, 503, 504])
def test_failure_that_passes_is_retried(status):
    """Also one without an answer."""
    assert Attempts(policy(), 0.0).wait_seconds(failure(status), 0.0) == 1.0


@pytest.mark.parametrize("status", [200, 301, 400, 401, 403, 404, 408, 409, 413, 500, 501])
def test_failure_that_would_come_again_is_raised(status):
    """At once, even if the server says when to come back."""
    error = failure(status, retry_after=1.0)
    with pytest.raises(PublishError) as caught:
        Attempts(policy(), 0.0).wait_seconds(error, 0.0)
    assert caught.value is error
    assert error.attempts == 1


def test_waits_double_up_to_the_longest():
    """And the last failure is raised, with the number of attempts."""
    attempts = Attempts(policy(), 0.0)
    assert [attempts.wait_seconds(failure(), 0.0) for _ in range(4)] == [1.0, 2.0, 4.0, 6.0]
    with pytest.raises(PublishError) as caught:
        attempts.wait_seconds(failure(), 0.0)
    assert caught.value.attempts == 5


def test_wait_is_jittered_in_full_and_never_before_retry_after():
    """Chance decides between nothing and the bound, on top of what the server asked for."""
    for chance, wait in ((0.0, 0.0), (0.5, 0.5)):
        assert Attempts(policy(random=lambda value=chance: value), 0.0).wait_seconds(failure(), 0.0) == wait
    assert Attempts(policy(), 0.0).wait_seconds(failure(retry_after=2.5), 0.0) == 3.5


def test_wait_past_the_deadline_is_not_begun():
    """A server that is away for longer than the caller has patience is told to the caller at once."""
    for now, retry_after in ((0.0, 29.0), (29.0, None), (40.0, None), (0.0, float("inf"))):
        with pytest.raises(PublishError) as caught:
            Attempts(policy(), 0.0).wait_seconds(failure(retry_after=retry_after), now)
        assert caught.value.retry_after == retry_after


def test_attempt_has_no_more_time_than_is_left():
    """The first as much as the policy says, the last what is left after its wait."""
    attempts = Attempts(policy(), 100.0)
    assert attempts.seconds == 10.0
    attempts.wait_seconds(failure(), 110.0)
    assert attempts.seconds == 10.0
    attempts.wait_seconds(failure(), 121.0)
    assert attempts.seconds == 7.0
    assert Attempts(policy(deadline_seconds=3.0), 0.0).seconds == 3.0


@pytest.mark.parametrize(
    "options",
    [
        {"timeout_seconds": 0},
        {"deadline_seconds": -1.0},
        {"attempts": 0},
        {"attempts": 101},
        {"backoff_seconds": (2.0, 1.0)},
        {"backoff_seconds": (-1.0, 1.0)},
        {"backoff_seconds": (float("nan"), 1.0)},
    ],
    ids=str,
)
def test_policy_that_makes_no_sense_is_refused(options):
    """The message names the option."""
    with pytest.raises(ValueError, match=next(iter(options))):
        policy(**options)
