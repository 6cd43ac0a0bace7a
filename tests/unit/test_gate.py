"""Whether a peer may do a thing: the rules, a function of the user's own, and how long a decision holds."""

from __future__ import annotations

import pytest
import structlog
import trio

from realtime import Settings
from realtime.auth import ANONYMOUS, Identity, Verb
from realtime.errors import CommandError, ErrorCode
from realtime.gate import _REMEMBERED, Gate, Permits
from realtime.permissions import Policy
from realtime.topics import Access
from tests.tools import settle

ANN = Identity("ann")
ROOM = "room:a"


@pytest.fixture
def logged():
    """What is written to the log."""
    with structlog.testing.capture_logs() as entries:
        yield entries


def policy(*rules) -> Policy:
    """These rules, over the built-in kinds."""
    settings = Settings(rules=rules)
    return settings.policy(settings.all_kinds())


def gate(authorize=None, *rules) -> Gate:
    """A gate with this function."""
    return Gate(policy(*rules), authorize, timeout_seconds=5.0)


class Oracle:
    """A function that answers when it is told to, and notes what it was asked."""

    def __init__(self, answer=True) -> None:
        self.answer = answer
        self.asked: list = []
        self.ready = trio.Event()

    async def __call__(self, identity: Identity, verb: Verb, target: str):
        answer = self.answer
        self.asked.append((identity.user, verb, target))
        await self.ready.wait()
        return answer


# -- one decision ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("identity", "verb", "topic", "allowed"),
    [
        (ANN, Verb.JOIN, ROOM, True),
        (ANONYMOUS, Verb.JOIN, ROOM, False),
        (ANN, Verb.PUBLISH, "symbol:600519", False),
        (ANN, Verb.HISTORY, "user:ann", True),
        (ANN, Verb.HISTORY, "user:bob", False),
    ],
)
async def test_without_a_function_the_rules_decide(identity, verb, topic, allowed):
    """With a wait and without."""
    made = gate()
    assert not made.asks
    assert made.decide_now(identity, verb, topic).allowed is allowed
    assert await made.decide(identity, verb, topic) is allowed


@pytest.mark.parametrize(
    ("identity", "allow", "allowed"),
    [
        (ANONYMOUS, None, True),
        (ANONYMOUS, Access.AUTHENTICATED, False),
        (ANN, Access.AUTHENTICATED, True),
        (ANN, Access.NOBODY, False),
    ],
)
async def test_action_is_open_as_it_says_itself(identity, allow, allowed):
    """As long as no rule is about it."""
    assert await gate().decide(identity, Verb.REQUEST, "sum", allow) is allowed
    denied = gate(None, {"actions": ["s*"], "deny": ["request"]})
    assert not await denied.decide(identity, Verb.REQUEST, "sum", allow)


@pytest.mark.parametrize(
    ("answer", "allowed"), [(True, True), (False, False), (None, True), ("yes", True), (0, False), ([], False)]
)
@pytest.mark.parametrize("waits", [False, True])
async def test_function_goes_before_the_rules(waits, answer, allowed):
    """Plain or async. None leaves it to them, and they let ann in."""

    def now(identity, verb, topic):
        return answer

    async def later(identity, verb, topic):
        await trio.lowlevel.checkpoint()
        return answer

    made = gate(later if waits else now)
    assert made.asks
    assert await made.decide(ANN, Verb.JOIN, ROOM) is allowed


@pytest.mark.parametrize(
    ("verb", "target", "allowed"),
    [
        (Verb.JOIN, ROOM, True),
        (Verb.PUBLISH, "symbol:600519", True),
        (Verb.JOIN, "room:secret", False),
        (Verb.HISTORY, "user:bob", False),
        (Verb.REQUEST, "shutdown", False),
    ],
)
async def test_function_opens_what_nothing_allows_but_not_what_is_denied(verb, target, allowed):
    """It is not even asked where a rule denies, nor about the own topic of another."""
    asked = []

    def authorize(identity, verb, target):
        asked.append(target)
        return True

    rules = (
        {"topics": ["room:secret"], "deny": ["join"]},
        {"actions": ["shutdown"], "deny": ["request"]},
        {"topics": ["*"], "allow": ["join", "history", "publish"], "roles": ["nobody"]},
    )
    assert await gate(authorize, *rules).decide(ANN, verb, target) is allowed
    assert asked == [target] * allowed


async def test_function_is_told_who_wants_what():
    asked = []
    made = gate(lambda *question: asked.append(question))
    await made.decide(ANN, Verb.PUBLISH, ROOM)
    await made.decide(ANONYMOUS, Verb.REQUEST, "sum", Access.ANYONE)
    assert asked == [(ANN, Verb.PUBLISH, ROOM), (ANONYMOUS, Verb.REQUEST, "sum")]


async def test_function_that_refuses_in_its_own_words_is_repeated(logged):
    """It speaks to the peer, and is no fault."""

    def authorize(identity, verb, topic):
        raise CommandError(ErrorCode.LIMIT_EXCEEDED, "your plan has one room")

    with pytest.raises(CommandError, match="your plan") as caught:
        await gate(authorize).decide(ANN, Verb.JOIN, ROOM)
    assert caught.value.code == "LIMIT_EXCEEDED"
    assert logged == []


@pytest.mark.parametrize("waits", [False, True])
async def test_function_that_fails_lets_nobody_in(waits, logged):
    """The peer hears nothing of the fault, the log all."""

    def now(identity, verb, topic):
        raise KeyError("secret internals")

    async def later(identity, verb, topic):
        raise KeyError("secret internals")

    with pytest.raises(CommandError, match="INTERNAL_ERROR") as caught:
        await gate(later if waits else now).decide(ANN, Verb.JOIN, ROOM)
    assert "secret" not in str(caught.value)
    (entry,) = logged
    assert (entry["event"], entry["log_level"], entry["verb"]) == ("authorize failed", "error", "join")
    assert entry["exc_info"]
    assert entry["trace_id"]


async def test_function_that_takes_too_long_lets_nobody_in(autojump_clock, logged):
    """But the peer may ask again."""
    began = trio.current_time()
    with pytest.raises(CommandError, match="UNAVAILABLE") as caught:
        await gate(Oracle()).decide(ANN, Verb.JOIN, ROOM)
    assert caught.value.retry_after == 1.0
    assert trio.current_time() - began == 5
    assert [(entry["event"], entry["log_level"]) for entry in logged] == [("authorize took too long", "warning")]


async def test_decision_that_is_cancelled_is_none():
    """Cancellation goes its way."""
    with trio.CancelScope() as scope:
        scope.cancel()
        await gate(Oracle()).decide(ANN, Verb.JOIN, ROOM)
    assert scope.cancelled_caught


# -- what one peer may -------------------------------------------------------------------------------------------


async def test_question_is_asked_once_for_each_verb_and_topic():
    """A message on a topic costs a look into a table; also a no is remembered."""
    asked = []

    def authorize(identity, verb, topic):
        asked.append((verb, topic))
        return topic == ROOM

    permits = Permits(gate(authorize), ANN)
    for _ in range(3):
        assert await permits.may(Verb.PUBLISH, ROOM)
        assert await permits.may(Verb.JOIN, ROOM)
        assert not await permits.may(Verb.JOIN, "room:b")
    assert asked == [(Verb.PUBLISH, ROOM), (Verb.JOIN, ROOM), (Verb.JOIN, "room:b")]


async def test_answer_that_was_not_given_is_not_remembered(logged):
    """A fault of a moment is not to lock a peer out."""
    faults = [RuntimeError("down"), CommandError(ErrorCode.UNAVAILABLE, "busy")]

    def authorize(identity, verb, topic):
        if faults:
            raise faults.pop()
        return True

    permits = Permits(gate(authorize), ANN)
    for code in ("UNAVAILABLE", "INTERNAL_ERROR"):
        with pytest.raises(CommandError, match=code):
            await permits.may(Verb.JOIN, ROOM)
    assert await permits.may(Verb.JOIN, ROOM)


async def test_peer_that_may_not_is_told_so():
    """In words that name neither rule nor topic."""
    permits = Permits(gate(lambda *_: False), ANN)
    for verb, target, words in ((Verb.JOIN, ROOM, "this topic"), (Verb.REQUEST, "sum", "this action")):
        with pytest.raises(CommandError, match=words) as caught:
            await permits.check(verb, target)
        assert caught.value.code == "PERMISSION_DENIED"
        assert target not in str(caught.value)
    await Permits(gate(), ANN).check(Verb.JOIN, ROOM)


async def test_new_rules_are_for_old_peers_as_well():
    """For every one of them at its next question."""
    made = gate()
    permits = Permits(made, ANN)
    assert await permits.may(Verb.JOIN, ROOM)
    made.change(policy({"topics": ["room:*"], "deny": ["join"]}))
    assert permits.known(Verb.JOIN, ROOM) is None
    assert not await permits.may(Verb.JOIN, ROOM)
    assert not await Permits(made, ANN).may(Verb.JOIN, ROOM)


async def test_change_without_new_rules_has_the_function_asked_anew():
    oracle = Oracle()
    oracle.ready.set()
    made = gate(oracle)
    before = made.policy
    permits = Permits(made, ANN)
    assert await permits.may(Verb.JOIN, ROOM)
    oracle.answer = False
    assert await permits.may(Verb.JOIN, ROOM)
    made.change()
    assert not await permits.may(Verb.JOIN, ROOM)
    assert made.policy is before


async def test_login_has_everything_decided_anew():
    permits = Permits(gate(), ANONYMOUS)
    assert not await permits.may(Verb.JOIN, ROOM)
    permits.renew(ANN)
    assert permits.known(Verb.JOIN, ROOM) is None
    assert await permits.may(Verb.JOIN, ROOM)


@pytest.mark.parametrize("login", [False, True])
async def test_answer_that_came_too_late_does_not_count(login, autojump_clock):
    """While the function thought, the rules changed or the peer logged in: it is asked again."""
    oracle = Oracle(answer=True)
    made = gate(oracle)
    permits = Permits(made, ANN)
    answers = []

    async def ask() -> None:
        answers.append(await permits.may(Verb.JOIN, ROOM))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await settle()
        oracle.answer = False
        if login:
            permits.renew(Identity("bob"))
        else:
            made.change()
        oracle.ready.set()
    assert answers == [False]
    assert [user for user, _, _ in oracle.asked] == ["ann", "bob" if login else "ann"]


async def test_answer_to_a_question_that_was_asked_anew_holds():
    """It was made by the rules of now: nothing in it is stale."""
    oracle = Oracle()
    made = gate(oracle)
    permits = Permits(made, ANN)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(permits.may, Verb.JOIN, ROOM)
        await settle()
        made.change()
        oracle.ready.set()
    assert permits.now(Verb.JOIN, ROOM)


async def test_rules_that_change_under_an_answer_are_asked_anew():
    """The function has left it to the rules of before."""
    oracle = Oracle(answer=None)
    made = gate(oracle)
    permits = Permits(made, ANN)
    answers = []

    async def ask() -> None:
        answers.append(await permits.may(Verb.JOIN, ROOM))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await settle()
        made.change(policy({"topics": ["room:*"], "deny": ["join"]}))
        oracle.ready.set()
    assert answers == [False]


async def test_right_is_looked_at_again_after_a_wait():
    """Denied by the rules of now; or where a function would have to be asked, to be tried again."""
    plain, asking = gate(), gate(lambda *_: True)
    permits = Permits(plain, ANN)
    permits.recheck(Verb.JOIN, ROOM)
    plain.change(policy({"topics": ["room:*"], "deny": ["join"]}))
    with pytest.raises(CommandError) as denied:
        permits.recheck(Verb.JOIN, ROOM)
    permits = Permits(asking, ANN)
    await permits.check(Verb.JOIN, ROOM)
    permits.recheck(Verb.JOIN, ROOM)
    asking.change()
    with pytest.raises(CommandError) as unknown:
        permits.recheck(Verb.JOIN, ROOM)
    assert (denied.value.code, unknown.value.code) == (ErrorCode.PERMISSION_DENIED, ErrorCode.UNAVAILABLE)
    assert unknown.value.retry_after == 1.0


async def test_what_holds_after_a_wait_is_known_without_another():
    """The rules can be asked at once; a function cannot."""
    plain, asking = gate(), gate(lambda *_: True)
    permits = Permits(plain, ANN)
    assert permits.now(Verb.JOIN, ROOM)
    assert not permits.now(Verb.JOIN, "user:bob")
    permits = Permits(asking, ANN)
    assert not permits.now(Verb.JOIN, ROOM)
    assert await permits.may(Verb.JOIN, ROOM)
    assert permits.now(Verb.JOIN, ROOM)
    asking.change()
    assert not permits.now(Verb.JOIN, ROOM)


async def test_peer_that_asks_without_end_fills_no_table():
    """What was forgotten is asked again, and answered alike."""
    permits = Permits(gate(), ANN)
    for number in range(_REMEMBERED * 3):
        assert await permits.may(Verb.JOIN, f"room:{number}")
        assert len(permits._known) <= _REMEMBERED
    assert permits.known(Verb.JOIN, "room:0") is None
    assert await permits.may(Verb.JOIN, "room:0")
