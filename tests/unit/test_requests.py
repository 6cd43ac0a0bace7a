"""Requests: payload in, handler, reply out."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypedDict

import attrs
import msgspec
import pytest
import structlog
import trio
from msgspec import Raw
from structlog.contextvars import get_contextvars
from trio.testing import wait_all_tasks_blocked

from realtime.breaker import CircuitBreaker, State
from realtime.errors import CommandError, ErrorCode
from realtime.requests import ActionDescription, Actions, Caller
from realtime.topics import Access

ANNA = Caller("anna", frozenset({"trader"}), "c_1", "t1", "memory")
NOBODY = Caller(None, frozenset(), "c_2", "t2", "memory")


class Quote(msgspec.Struct):
    """A payload."""

    symbol: Annotated[str, msgspec.Meta(pattern="^[0-9]{6}$")]
    side: Literal["buy", "sell"] = "buy"


@attrs.frozen
class Order:
    """A payload that checks itself."""

    price: int = attrs.field(validator=attrs.validators.in_([1, 2]))


@dataclasses.dataclass
class Note:
    """A payload."""

    text: str


class Place(TypedDict):
    """A payload."""

    x: int


class Foreign:
    """Nothing that JSON knows."""


class Puzzled(msgspec.Struct):
    """A payload whose own code has a bug."""

    x: int

    def __post_init__(self) -> None:
        raise KeyError("secret")


def registered(function: Callable[..., Any], **options: Any):
    """The action of a handler."""
    return Actions().register("act", function, **options)


async def refused(action, payload: bytes = b"1", caller: Caller = ANNA, timeout: float | None = None) -> CommandError:
    """The refusal of a call."""
    with pytest.raises(CommandError) as caught:
        await action.call(payload, caller, timeout)
    return caught.value


# -- registering -----------------------------------------------------------------------------------------------------


def test_decorated_function_stays_as_it_is():
    """It can be called and tested without a server."""
    actions = Actions()

    @actions.handler("double")
    def double(number: int) -> int:
        """Twice as much."""
        return 2 * number

    assert double(2) == 4
    assert actions.find("double").call_now(b"3", ANNA) == b"6"
    assert actions.describe() == [ActionDescription("double", int, int, "Twice as much.")]
    assert actions.statistics()[0].calls == 1


def test_unknown_action_is_refused():
    """With a code of its own."""
    with pytest.raises(CommandError) as caught:
        Actions().find("nosuch")
    assert caught.value.code is ErrorCode.UNKNOWN_ACTION


def test_name_can_be_taken_once():
    """A second handler would hide the first."""
    actions = Actions()
    actions.register("act", lambda: None)
    with pytest.raises(ValueError, match="'act': registered already"):
        actions.register("act", lambda: None)


def no_annotation(payload): ...
def no_annotation_but_caller(payload, caller: Caller): ...
def caller_first(caller: Caller, payload: int): ...
def three(payload: int, other: int, caller: Caller): ...
def two_payloads(payload: int, other: int): ...
def keyword(*, payload: int): ...
def many(*payload: int): ...
def default(payload: int = 1): ...
def foreign(payload: Foreign): ...
def foreign_inside(payload: dict[str, list[Foreign]]): ...
def foreign_result() -> Foreign: ...
def ambiguous(payload: str | bytes): ...
def unresolved(payload: Nosuch): ...  # noqa: F821
def generator(payload: int):
    yield 1


async def async_generator(payload: int):
    yield 1


@pytest.mark.parametrize(
    "function",
    [
        no_annotation, no_annotation_but_caller, caller_first, three, two_payloads, keyword, many, default, foreign,
        foreign_inside, foreign_result, ambiguous, unresolved, generator, async_generator, Foreign,
        functools.partial(default, 1),
    ],
)  # fmt: skip
def test_function_that_cannot_be_a_handler_is_refused_when_it_is_registered(function):
    """And leaves nothing behind."""
    actions = Actions()
    with pytest.raises(TypeError, match="'act'"):
        actions.register("act", function)
    assert actions.describe() == []


async def waits() -> None: ...


@pytest.mark.parametrize(
    ("function", "options"),
    [
        (lambda: None, {"concurrency": 1}),
        (waits, {"concurrency": 0}),
        (waits, {"waiting": -1}),
        (waits, {"timeout_seconds": 0}),
        (waits, {"timeout_seconds": float("inf")}),
        (waits, {"allow": Access.OWNER}),
    ],
)
def test_option_that_makes_no_sense_is_refused(function, options):
    """At once, and not at the first call."""
    with pytest.raises(ValueError):
        registered(function, **options)


def test_method_can_be_a_handler():
    """With what it belongs to."""

    class Desk:
        rate = 3

        def convert(self, amount: int, caller: Caller) -> list:
            return [amount * self.rate, caller.user]

    assert registered(Desk().convert).call_now(b"2", ANNA) == b'[6,"anna"]'


# -- payloads and results --------------------------------------------------------------------------------------------


def struct(payload: Quote) -> Any:
    return payload


def attrs_class(payload: Order) -> Any:
    return payload


def dataclass(payload: Note) -> Any:
    return payload


def typed_dict(payload: Place) -> Any:
    return payload


def plain_dict(payload: dict) -> Any:
    return payload


def plain_list(payload: list) -> Any:
    return payload


def scalar(payload: float) -> Any:
    return payload


def anything(payload: Any) -> Any:
    return payload


def raw(payload: Raw) -> Any:
    return payload


def puzzled(payload: Puzzled) -> Any:
    return payload


@pytest.mark.parametrize(
    ("function", "payload", "result"),
    [
        (struct, b'{"symbol":"600519"}', b'{"symbol":"600519","side":"buy"}'),
        (attrs_class, b'{"price":1}', b'{"price":1}'),
        (dataclass, b'{"text":"a"}', b'{"text":"a"}'),
        (typed_dict, b'{"x":1}', b'{"x":1}'),
        (plain_dict, b'{"y":null}', b'{"y":null}'),
        (plain_list, b"[1]", b"[1]"),
        (scalar, b"1.5", b"1.5"),
        (anything, b'"x"', b'"x"'),
        (anything, b"", b"null"),
        (raw, b"1.10", b"1.10"),
    ],
)
def test_payload_arrives_as_what_the_handler_asks_for(function, payload, result):
    """Bytes, or JSON text inside of a message; the result goes back as JSON text."""
    action = registered(function)
    assert action.inline
    assert action.call_now(payload, ANNA) == result
    assert action.call_now(Raw(payload), ANNA) == result


async def test_handler_takes_what_it_needs_and_no_more(autojump_clock):
    """Payload, caller, both, none."""

    async def payload_and_caller(payload: int, caller: Caller) -> list[Any]:
        return [payload, caller.user]

    async def only_caller(caller: Caller) -> str | None:
        return caller.user

    async def none() -> None: ...

    assert await registered(payload_and_caller).call(b"1", ANNA) == b'[1,"anna"]'
    assert await registered(only_caller).call(b'{"user":"forged"}', ANNA) == b'"anna"'
    assert await registered(none).call(b"1", ANNA) == b"null"
    assert registered(only_caller).description.payload is None


@pytest.mark.parametrize(
    ("function", "payload", "message"),
    [
        (struct, b"", "payload: Expected `object`, got `null`"),
        (struct, b"{}", "payload: Object missing required field `symbol`"),
        (struct, b'{"symbol":1}', "payload: Expected `str`, got `int` - at `$.symbol`"),
        (struct, b'{"symbol":"600519","side":"x"}', "payload: Invalid enum value 'x' - at `$.side`"),
        (attrs_class, b'{"price":3}', "payload: 'price' must be in [1, 2] (got 3)"),
        (scalar, b'"x"', "payload: Expected `float`, got `str`"),
        (scalar, b"nonsense", "payload: not JSON, or nested too deeply"),
        (anything, b'"\xff"', "payload: not JSON, or nested too deeply"),
        (anything, b"[" * 100_000 + b"]" * 100_000, "payload: not JSON, or nested too deeply"),
    ],
)
async def test_payload_of_another_shape_is_refused_with_its_fault(function, payload, message):
    """The handler is not called, and the words are those of the payload, not of our classes."""
    action = registered(function)
    error = await refused(action, payload)
    assert (error.code, error.message) == (ErrorCode.BAD_REQUEST, message)
    assert action.statistics().refused == 1


def unencodable() -> Any:
    return Foreign()


def endless() -> Any:
    loop: list[Any] = []
    loop.append(loop)
    return loop


def half_a_pair() -> Any:
    return "\ud800"


def broken() -> None:
    raise KeyError("secret")


@pytest.mark.parametrize("function", [broken, unencodable, endless, half_a_pair, puzzled])
async def test_bug_is_logged_and_tells_the_caller_nothing(function):
    """The trace id ties the two together."""
    action = registered(function)
    with structlog.testing.capture_logs() as logged:
        error = await refused(action, b'{"x":1}')
    assert (error.code, error.message) == (ErrorCode.INTERNAL_ERROR, "the server failed to do this")
    assert error.__cause__ is None
    (entry,) = logged
    assert (entry["event"], entry["action"], entry["trace_id"]) == ("action failed", "act", "t1")
    assert isinstance(entry["exc_info"], Exception)
    assert action.statistics().failed == 1


async def test_bug_of_an_async_handler_is_treated_alike(autojump_clock):
    """Also one in a nursery of its own, or in the encoding of its result."""

    async def fails() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise KeyError("secret")

    async def foreign() -> Any:
        return Foreign()

    for function in (fails, foreign):
        with structlog.testing.capture_logs() as logged:
            error = await refused(registered(function))
        assert error.code is ErrorCode.INTERNAL_ERROR
        assert [entry["trace_id"] for entry in logged] == ["t1"]


@pytest.mark.parametrize("nested", [False, True])
async def test_command_error_of_a_handler_passes_through(nested, autojump_clock):
    """Also out of the groups that nurseries make, with its cause, and without a line in the log."""
    original = CommandError(ErrorCode.LIMIT_EXCEEDED, "enough", retry_after=2.0)
    reason = OSError()

    async def refuses() -> None:
        if nested:
            async with trio.open_nursery(), trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                raise original from reason
        raise original from reason

    action = registered(refuses)
    with structlog.testing.capture_logs() as logged:
        assert await refused(action) is original
    assert original.__cause__ is reason
    assert logged == []
    facts = action.statistics()
    assert (facts.calls, facts.in_flight, facts.failed, facts.refused) == (1, 0, 0, 1)


async def test_several_exceptions_at_once_are_a_bug():
    """Even if all of them are refusals: there is no saying which one to tell."""

    async def fails() -> None:
        raise ExceptionGroup("", [CommandError(ErrorCode.BAD_REQUEST, "a"), CommandError(ErrorCode.TIMEOUT, "b")])

    with structlog.testing.capture_logs():
        assert (await refused(registered(fails))).code is ErrorCode.INTERNAL_ERROR


async def test_right_is_looked_at_again_after_the_wait_for_a_slot(autojump_clock):
    """It may have been taken away meanwhile: then the handler does not run."""
    ran = []

    async def waits(number: int) -> None:
        ran.append(number)
        await trio.sleep(1)

    def taken_away() -> None:
        raise CommandError(ErrorCode.PERMISSION_DENIED, "not any more")

    action = registered(waits, concurrency=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(action.call, b"1", ANNA)
        await wait_all_tasks_blocked()
        with pytest.raises(CommandError, match="not any more"):
            await action.call(b"2", ANNA, None, taken_away)
    assert ran == [1]
    assert action.statistics().refused == 1


async def test_trace_id_is_bound_while_the_handler_runs(autojump_clock):
    """Whatever the handler logs can be found by it; afterwards it is gone."""

    async def waits() -> Any:
        await trio.sleep(1)
        return get_contextvars()

    def at_once() -> Any:
        return get_contextvars()

    assert await registered(waits).call(b"", ANNA) == b'{"trace_id":"t1"}'
    assert registered(at_once).call_now(b"", ANNA) == b'{"trace_id":"t1"}'
    assert get_contextvars() == {}


# -- time and concurrency --------------------------------------------------------------------------------------------


async def sleeps(seconds: float) -> None:
    await trio.sleep(seconds)


@pytest.mark.parametrize(("timeout", "seconds"), [(None, 10.0), (3.0, 3.0), (30.0, 10.0), (-1.0, 0.0)])
async def test_handler_that_takes_too_long_is_cancelled(timeout, seconds, autojump_clock):
    """The shorter of both limits counts."""
    action = registered(sleeps)
    begin = trio.current_time()
    assert (await refused(action, b"100", timeout=timeout)).code is ErrorCode.TIMEOUT
    assert trio.current_time() - begin == seconds
    assert action.statistics().timed_out == 1


async def test_clean_up_that_fails_after_a_timeout_is_a_bug(autojump_clock):
    """The log has it; that it was late as well does not matter any more."""

    async def fails() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise KeyError("secret")

    with structlog.testing.capture_logs() as logged:
        assert (await refused(registered(fails))).code is ErrorCode.INTERNAL_ERROR
    assert len(logged) == 1


async def test_calls_beyond_the_slots_wait_their_turn(autojump_clock):
    """Those who came first go first."""
    started: list[tuple[int, float]] = []

    async def note(number: int) -> None:
        started.append((number, trio.current_time() - begin))
        await trio.sleep(4)

    action = registered(note, concurrency=2, timeout_seconds=60)
    begin = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(action.call, b"%d" % number, ANNA)
            await wait_all_tasks_blocked()
        assert action.statistics().in_flight == 5
    assert sorted(started) == [(0, 0.0), (1, 0.0), (2, 4.0), (3, 4.0), (4, 8.0)]


@pytest.mark.parametrize(("timeout", "seconds"), [(None, 10.0), (3.0, 3.0)])
async def test_limit_covers_the_wait_for_a_slot(timeout, seconds, autojump_clock):
    """Whoever never had a turn is told in time; the slot is not lost."""
    started: list[int] = []

    async def hogs(number: int) -> None:
        started.append(number)
        await trio.sleep(9 if number == 3 else 20)

    action = registered(hogs, concurrency=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(refused, action, b"1")
        await wait_all_tasks_blocked()
        begin = trio.current_time()
        assert (await refused(action, b"2", timeout=timeout)).code is ErrorCode.TIMEOUT
        assert trio.current_time() - begin == seconds
    await action.call(b"3", ANNA)
    assert started == [1, 3]


async def test_crowd_that_waits_is_bounded(autojump_clock):
    """The next one is asked to come back."""
    action = registered(sleeps, concurrency=1, waiting=2)
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(action.call, b"1", ANNA)
        await wait_all_tasks_blocked()
        error = await refused(action)
        assert (error.code, error.retry_after) == (ErrorCode.UNAVAILABLE, 1.0)
    facts = action.statistics()
    assert (facts.name, facts.calls, facts.refused, facts.in_flight) == ("act", 4, 1, 0)


async def test_bad_payload_does_not_wait_for_a_slot(autojump_clock):
    """It is refused while all slots are taken."""
    action = registered(sleeps, concurrency=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(action.call, b"1", ANNA)
        await wait_all_tasks_blocked()
        begin = trio.current_time()
        assert (await refused(action, b"null")).code is ErrorCode.BAD_REQUEST
        assert trio.current_time() == begin


async def test_sync_handler_called_from_a_task_lets_others_run():
    """Like any async function of Trio."""
    with trio.testing.assert_checkpoints():
        assert await registered(lambda: None).call(b"", ANNA) == b"null"


# -- cancellation ----------------------------------------------------------------------------------------------------


async def test_cancelled_call_cancels_its_handler_and_gives_back_its_slot(autojump_clock):
    """A peer that went away holds nothing up, whether it ran or waited."""
    cancelled: list[bool] = []

    async def hangs(forever: bool) -> None:
        try:
            await trio.sleep(9 if forever else 0)
        except trio.Cancelled:
            cancelled.append(True)
            raise

    action = registered(hangs, concurrency=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(action.call, b"true", ANNA)
        nursery.start_soon(action.call, b"true", ANNA)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert cancelled == [True]
    begin = trio.current_time()
    assert await action.call(b"false", ANNA) == b"null"
    assert trio.current_time() == begin
    facts = action.statistics()
    assert (facts.calls, facts.in_flight, facts.failed, facts.timed_out, facts.refused) == (3, 0, 0, 0, 0)


async def test_clean_up_that_fails_when_cancelled_is_logged_and_goes_no_further(autojump_clock):
    """Only the cancellation goes on up: the connection that ends is not ended by a bug."""

    async def fails() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise KeyError("secret")

    action = registered(fails)
    with structlog.testing.capture_logs() as logged:
        with trio.move_on_after(1) as scope:
            await action.call(b"", ANNA)
    assert scope.cancelled_caught
    assert [entry["event"] for entry in logged] == ["action failed"]
    assert action.statistics().failed == 1


async def test_interrupt_passes_in_a_group():
    """What is no failure of the handler is not ours to hold."""

    async def interrupted() -> None:
        raise BaseExceptionGroup("", [KeyboardInterrupt()])

    with structlog.testing.capture_logs() as logged, pytest.raises(BaseExceptionGroup) as caught:
        await registered(interrupted).call(b"", ANNA)
    assert caught.group_contains(KeyboardInterrupt)
    assert logged == []


# -- breaker ---------------------------------------------------------------------------------------------------------


async def test_action_behind_an_open_breaker_is_refused(autojump_clock):
    """Sync or async; the handler is not called."""
    breaker = CircuitBreaker("source", failures=2)

    async def fails() -> None:
        raise OSError

    now, later = registered(broken, breaker=breaker), registered(fails, breaker=breaker)
    with structlog.testing.capture_logs() as logged:
        await refused(now)
        await refused(later)
        for action in (now, later):
            error = await refused(action)
            assert (error.code, error.retry_after) == (ErrorCode.UNAVAILABLE, 30.0)
    assert len(logged) == 2
    assert (now.statistics().failed, now.statistics().refused) == (1, 1)


@pytest.mark.parametrize(("timeout", "state"), [(None, State.OPEN), (10.0, State.OPEN), (9.9, State.CLOSED)])
async def test_timeout_opens_a_breaker_unless_the_caller_chose_it(timeout, state, autojump_clock):
    """A source that hangs is broken; a caller that is impatient is not the source's fault."""
    breaker = CircuitBreaker("source", failures=1)
    assert (await refused(registered(sleeps, breaker=breaker), b"100", timeout=timeout)).code is ErrorCode.TIMEOUT
    assert breaker.state is state


async def test_result_that_cannot_be_encoded_is_not_the_sources_fault():
    """The breaker guards the handler only."""
    breaker = CircuitBreaker("source", failures=1)
    with structlog.testing.capture_logs():
        assert (await refused(registered(unencodable, breaker=breaker))).code is ErrorCode.INTERNAL_ERROR
    assert breaker.state is State.CLOSED
