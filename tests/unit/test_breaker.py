"""The circuit breaker, in virtual time."""

from __future__ import annotations

import math

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from realtime.breaker import _NEXT, CircuitBreaker, State, _Event
from realtime.errors import CommandError, ErrorCode


def fail(breaker: CircuitBreaker, times: int = 1, error: Exception | None = None) -> None:
    """Let calls fail."""
    for _ in range(times):
        with pytest.raises(Exception), breaker:  # noqa: B017
            raise error or OSError("no route")


def opened(**options) -> CircuitBreaker:
    """A breaker that has just opened."""
    breaker = CircuitBreaker("source", failures=2, retry_seconds=10.0, **options)
    fail(breaker, 2)
    return breaker


async def refusal(breaker: CircuitBreaker) -> float | None:
    """For how many seconds calls are refused; None: they are not."""
    try:
        breaker.check()
    except CommandError as error:
        assert error.code is ErrorCode.UNAVAILABLE
        assert "source" not in error.message, "the name is not the peer's business"
        return error.retry_after
    return None


def test_every_state_has_a_row_in_the_table():
    """And no row leads nowhere."""
    assert set(_NEXT) == set(State)
    assert {state for row in _NEXT.values() for state in row.values()} == set(State)
    assert {event for row in _NEXT.values() for event in row} == set(_Event)


async def test_failures_in_a_row_open_it(autojump_clock):
    """The next call is refused before it begins, for exactly as long as is left."""
    breaker = opened()
    await trio.sleep(3.25)
    assert await refusal(breaker) == 6.75
    with pytest.raises(CommandError), breaker:
        raise AssertionError("called")
    facts = breaker.statistics()
    assert (facts.name, facts.state, facts.failures, facts.opened, facts.refused) == ("source", "open", 2, 1, 2)


async def test_success_between_failures_starts_the_count_anew(autojump_clock):
    """Only failures in a row count."""
    breaker = CircuitBreaker("source", failures=2)
    fail(breaker)
    with breaker:
        pass
    fail(breaker)
    assert breaker.state is State.CLOSED
    assert breaker.statistics().failures == 1


async def test_probe_that_succeeds_closes_it(autojump_clock):
    """After the pause one call passes, and after that all do."""
    breaker = opened()
    await trio.sleep(10)
    with breaker:
        assert breaker.state is State.HALF_OPEN
    assert breaker.state is State.CLOSED
    assert breaker.statistics().failures == 0
    fail(breaker)
    assert breaker.state is State.CLOSED


async def test_probe_that_fails_opens_it_again(autojump_clock):
    """For the whole pause."""
    breaker = opened()
    await trio.sleep(12)
    fail(breaker)
    assert await refusal(breaker) == 10.0
    assert breaker.statistics().opened == 2


async def test_others_are_refused_while_the_probe_is_out(autojump_clock):
    """One probe, and a `check` that lets none out."""
    breaker = opened()
    await trio.sleep(10)
    assert await refusal(breaker) is None
    assert breaker.state is State.OPEN
    with breaker:
        assert await refusal(breaker) == 10.0
        with pytest.raises(CommandError), breaker:
            raise AssertionError("called")


async def test_probe_that_is_cancelled_lets_the_next_one_out_at_once(autojump_clock):
    """It has told nothing, neither way."""
    breaker = opened()
    await trio.sleep(10)
    with trio.move_on_after(1), breaker:
        await trio.sleep_forever()
    assert breaker.state is State.OPEN
    assert await refusal(breaker) is None
    assert breaker.statistics().opened == 1
    with breaker:
        pass
    assert breaker.state is State.CLOSED


async def test_call_that_is_cancelled_counts_neither_way(autojump_clock):
    """A run of failures goes on behind it."""
    breaker = CircuitBreaker("source", failures=2)
    fail(breaker)
    with trio.move_on_after(1), breaker:
        await trio.sleep_forever()
    assert breaker.statistics().failures == 1
    fail(breaker)
    assert breaker.state is State.OPEN


@pytest.mark.parametrize("code", list(ErrorCode))
async def test_refused_caller_is_not_a_failure_of_the_source(code, autojump_clock):
    """Three codes apart, which say that the source does not work."""
    breaker = CircuitBreaker("source", failures=1)
    fail(breaker, error=CommandError(code, "no"))
    assert (breaker.state is State.OPEN) == (code in ("UNAVAILABLE", "TIMEOUT", "INTERNAL_ERROR"))


@pytest.mark.parametrize(
    ("errors", "failures"),
    [
        ([CommandError(ErrorCode.BAD_REQUEST, "no")], 0),
        ([CommandError(ErrorCode.BAD_REQUEST, "no"), OSError()], 2),
        ([ExceptionGroup("", [OSError()])], 2),
    ],
)
async def test_group_of_exceptions_counts_as_its_worst(errors, failures, autojump_clock):
    """A call that uses a nursery is judged like any other."""
    breaker = CircuitBreaker("source")
    fail(breaker)
    fail(breaker, error=ExceptionGroup("nursery", errors))
    assert breaker.statistics().failures == failures


@pytest.mark.parametrize("late_error", [None, OSError()])
@pytest.mark.parametrize("probing", [False, True])
async def test_call_from_before_it_opened_changes_nothing_when_it_ends(late_error, probing, autojump_clock):
    """Old news: it neither closes nor opens, and the probe stays the only one."""
    breaker = CircuitBreaker("source", failures=2, retry_seconds=10.0)

    async def early() -> None:
        with breaker:
            await trio.sleep(15)
            if late_error:
                raise late_error

    async def probe() -> None:
        await trio.sleep(12)
        with breaker:
            await trio.sleep(5)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(_swallow, early)
        await wait_all_tasks_blocked()
        fail(breaker, 2)
        if probing:
            nursery.start_soon(probe)
        await trio.sleep(16)
        assert breaker.state is (State.HALF_OPEN if probing else State.OPEN)
        assert breaker.statistics().opened == 1
    assert breaker.state is (State.CLOSED if probing else State.OPEN)


async def test_early_call_that_is_cancelled_does_not_let_a_second_probe_out(autojump_clock):
    """Only the probe's own end is the probe's end."""
    breaker = CircuitBreaker("source", failures=2, retry_seconds=10.0)
    async with trio.open_nursery() as nursery:
        early = trio.CancelScope()

        async def call() -> None:
            with early, breaker:
                await trio.sleep_forever()

        nursery.start_soon(call)
        await wait_all_tasks_blocked()
        fail(breaker, 2)
        await trio.sleep(10)
        with breaker:
            early.cancel()
            await wait_all_tasks_blocked()
            assert breaker.state is State.HALF_OPEN


@pytest.mark.parametrize("late_error", [None, OSError()])
async def test_calls_from_before_it_opened_change_nothing_after_it_has_closed_again(late_error, autojump_clock):
    """They neither open it nor end a run of new failures."""
    breaker = CircuitBreaker("source", failures=2, retry_seconds=10.0)

    async def early() -> None:
        with breaker:
            await trio.sleep(15)
            if late_error:
                raise late_error

    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(_swallow, early)
        await wait_all_tasks_blocked()
        fail(breaker, 2)
        await trio.sleep(12)
        with breaker:
            pass
        fail(breaker)
    assert breaker.state is State.CLOSED
    assert breaker.statistics().failures == 1


async def test_block_inside_a_block_has_an_outcome_of_its_own(autojump_clock):
    """Each counts, and no trace of them is left."""
    breaker = CircuitBreaker("source", failures=2)
    with pytest.raises(OSError), breaker:
        with breaker:
            pass
        fail(breaker)
        raise OSError
    assert breaker.state is State.OPEN
    assert not breaker._entries


async def test_probe_that_tells_of_its_success_lets_others_through_while_it_goes_on(autojump_clock):
    """A stream; its end is one more outcome."""
    breaker = opened()
    await trio.sleep(10)
    with pytest.raises(OSError), breaker:
        assert await refusal(breaker) == 10.0
        breaker.succeeded()
        assert await refusal(breaker) is None
        await trio.sleep(100)
        raise OSError
    assert breaker.state is State.CLOSED
    assert breaker.statistics().failures == 1


async def test_success_is_told_by_a_task_of_the_call(autojump_clock):
    """The reader of a stream has a task of its own as a rule."""
    breaker = opened()

    async def read() -> None:
        breaker.succeeded()

    await trio.sleep(10)
    with breaker:
        async with trio.open_nursery() as outer, trio.open_nursery() as inner:
            inner.start_soon(read)
            outer.start_soon(trio.sleep, 1)
        assert breaker.state is State.CLOSED


async def test_success_told_from_outside_of_a_call_is_nobodys(autojump_clock):
    """Also while the probe is out."""
    breaker = opened()
    breaker.succeeded()
    assert breaker.state is State.OPEN
    await trio.sleep(10)
    async with trio.open_nursery() as nursery:

        async def probe() -> None:
            with breaker:
                await trio.sleep(1)

        nursery.start_soon(probe)
        await wait_all_tasks_blocked()
        breaker.succeeded()
        assert breaker.state is State.HALF_OPEN


async def test_success_of_a_call_from_before_it_opened_is_old_news(autojump_clock):
    """A stream that was there already says nothing about whether a new one can be had."""
    breaker = CircuitBreaker("source", failures=2, retry_seconds=10.0)
    with breaker:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_fail_twice_and_probe, breaker)
            await trio.sleep(10.5)
            assert breaker.state is State.HALF_OPEN
            breaker.succeeded()
            assert breaker.state is State.HALF_OPEN


async def test_clock_of_ones_own_is_used():
    """Time is what `now` says."""
    clock = [100.0]
    breaker = opened(now=lambda: clock[0])
    clock[0] = 109.5
    assert await refusal(breaker) == 0.5
    clock[0] = 110.0
    assert await refusal(breaker) is None


@pytest.mark.parametrize("options", [{"failures": 0}, {"retry_seconds": 0}, {"retry_seconds": -math.inf}])
def test_option_that_makes_no_sense_is_refused(options):
    """At once, and not at the first failure."""
    with pytest.raises(ValueError):
        CircuitBreaker("source", **options)


async def _swallow(call) -> None:
    try:
        await call()
    except OSError:
        pass


async def _fail_twice_and_probe(breaker: CircuitBreaker) -> None:
    fail(breaker, 2)
    await trio.sleep(10)
    with breaker:
        await trio.sleep(1)
