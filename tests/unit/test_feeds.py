"""Feeds: tasks for the server, tasks for topics; in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import structlog
import trio
from trio.testing import wait_all_tasks_blocked

from realtime.breaker import CircuitBreaker, State
from realtime.errors import CommandError, ErrorCode
from realtime.feeds import Feeds, FeedStatistics

SERVER = object()


class Diary:
    """A feed's function that notes when it began and how it ended."""

    def __init__(self, *, seconds: float = float("inf"), error: Exception | None = None) -> None:
        self.seconds = seconds
        self.error = error
        self.begun: list[float] = []
        self.ended: list[tuple[str, float]] = []
        self.topics: list[str] = []

    async def eager(self, server) -> None:
        """Without a topic."""
        assert server is SERVER
        self.begun.append(trio.current_time())
        try:
            await trio.sleep(self.seconds)
        except trio.Cancelled:
            self.ended.append(("cancelled", trio.current_time()))
            raise
        self.ended.append(("returned", trio.current_time()))
        if self.error is not None:
            raise self.error

    async def lazy(self, server, topic) -> None:
        """With one."""
        self.topics.append(topic)
        await self.eager(server)


@asynccontextmanager
async def running(feeds: Feeds) -> AsyncIterator[float]:
    """The feeds at work; when they began."""
    async with trio.open_nursery() as nursery:
        await nursery.start(feeds.run, SERVER)
        yield trio.current_time()
        nursery.cancel_scope.cancel()


def states(feeds: Feeds) -> list[tuple[str, str | None, str]]:
    """What each feed does."""
    return [(facts.name, facts.topic, facts.state) for facts in feeds.statistics()]


def since(begin: float, times: list[float]) -> list[float]:
    """The times, counted from the beginning."""
    return [time - begin for time in times]


# -- registering -----------------------------------------------------------------------------------------------------


async def server_only(server): ...
async def with_topic(server, topic): ...
async def none(): ...
def sync(server): ...


@pytest.mark.parametrize(
    ("function", "options"),
    [(sync, {}), (none, {}), (with_topic, {}), (server_only, {"topics": "symbol:*"})],
)
async def test_function_that_cannot_be_a_feed_is_refused_when_it_is_registered(function, options, autojump_clock):
    """And leaves nothing behind."""
    feeds = Feeds()
    with pytest.raises(TypeError, match=function.__name__):
        feeds.feed(**options)(function)
    assert feeds.statistics() == []


@pytest.mark.parametrize(
    "options",
    [
        {"linger_seconds": -1},
        {"backoff_seconds": (0, 1)},
        {"backoff_seconds": (2, 1)},
        {"healthy_seconds": -1},
    ],
)
async def test_option_that_makes_no_sense_is_refused(options, autojump_clock):
    """At once, and not at the first failure."""
    with pytest.raises(ValueError):
        Feeds().feed(**options)(server_only)


async def test_name_can_be_taken_once(autojump_clock):
    """It is the function's, unless it is given."""
    feeds = Feeds()
    assert feeds.feed()(server_only) is server_only
    feeds.feed(name="other")(server_only)
    with pytest.raises(ValueError, match="'server_only': registered already"):
        feeds.feed()(server_only)
    assert states(feeds) == [("server_only", None, "waiting"), ("other", None, "waiting")]


# -- eager -----------------------------------------------------------------------------------------------------------


async def test_eager_feed_runs_until_the_server_ends(autojump_clock):
    """From its start on, whoever listens."""
    feeds, diary = Feeds(), Diary()
    feeds.feed(name="news")(diary.eager)
    async with running(feeds) as begin:
        await trio.sleep(7)
        assert feeds.statistics() == [FeedStatistics("news", None, "running", 0, None, None, 7.0)]
    assert since(begin, diary.begun) == [0.0]
    assert diary.ended == [("cancelled", begin + 7)]


async def test_feed_registered_while_running_starts_at_once(autojump_clock):
    """Eager or lazy, if its topic is listened to already."""
    feeds, eager, lazy = Feeds(), Diary(), Diary()
    async with running(feeds) as begin:
        feeds.audience("symbol:1", True)
        feeds.audience("room:a", True)
        await trio.sleep(1)
        feeds.feed(name="eager")(eager.eager)
        feeds.feed(name="lazy", topics="symbol:*")(lazy.lazy)
        await trio.sleep(1)
    assert since(begin, eager.begun) == [1.0]
    assert since(begin, lazy.begun) == [1.0]
    assert lazy.topics == ["symbol:1"]


async def test_eager_feed_that_returns_is_done(autojump_clock):
    """It is not called again."""
    feeds, diary = Feeds(), Diary(seconds=1)
    feeds.feed(name="once")(diary.eager)
    async with running(feeds):
        await trio.sleep(100)
        assert feeds.statistics() == [FeedStatistics("once", None, "done", 0, None, None, 0.0)]
    assert len(diary.begun) == 1


# -- failures --------------------------------------------------------------------------------------------------------


async def test_feed_that_fails_is_logged_and_called_again_later_and_later(autojump_clock):
    """Up to the longest pause; other feeds do not notice."""
    feeds, diary, other = Feeds(jitter=lambda: 1.0), Diary(seconds=0, error=OSError("no route")), Diary()
    feeds.feed(name="news", backoff_seconds=(1.0, 5.0))(diary.eager)
    feeds.feed(name="other")(other.eager)
    with structlog.testing.capture_logs() as logged:
        async with running(feeds) as begin:
            await trio.sleep(19)
            facts = feeds.statistics()[0]
    assert since(begin, diary.begun) == [0.0, 1.0, 3.0, 7.0, 12.0, 17.0]
    assert (facts.state, facts.restarts, facts.last_error, facts.running_seconds) == ("backing_off", 5, "OSError", 0.0)
    assert len(logged) == 6
    last = logged[-1]
    assert (last["event"], last["feed"], last["topic"]) == ("feed failed", "news", None)
    assert last["trace_id"] == facts.last_trace_id
    assert last["exc_info"] is diary.error
    assert len(other.begun) == 1


async def test_pause_is_a_part_of_what_it_may_be(autojump_clock):
    """A crowd of feeds that failed together does not come back together."""
    parts = iter([0.5, 0.0, 0.25])
    feeds, diary = Feeds(jitter=lambda: next(parts)), Diary(seconds=0, error=OSError())
    feeds.feed(name="news", backoff_seconds=(2.0, 100.0))(diary.eager)
    with structlog.testing.capture_logs():
        async with running(feeds) as begin:
            await trio.sleep(2.5)
    assert since(begin, diary.begun) == [0.0, 1.0, 1.0]


async def test_pause_is_short_again_after_a_healthy_time(autojump_clock):
    """A failure now and then is not a run of failures."""
    feeds, diary = Feeds(jitter=lambda: 1.0), Diary(seconds=0, error=OSError())
    feeds.feed(name="news", backoff_seconds=(1.0, 30.0), healthy_seconds=60.0)(diary.eager)
    with structlog.testing.capture_logs():
        async with running(feeds) as begin:
            await trio.sleep(3.5)
            diary.seconds = 60
            await trio.sleep(100)
    assert since(begin, diary.begun) == [0.0, 1.0, 3.0, 7.0, 68.0]


async def test_failure_in_a_nursery_is_named_by_what_failed(autojump_clock):
    """An `ExceptionGroup` says nothing to whoever reads the statistics."""
    feeds = Feeds()

    @feeds.feed()
    async def news(server):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise KeyError("secret")

    with structlog.testing.capture_logs():
        async with running(feeds):
            await wait_all_tasks_blocked()
            assert feeds.statistics()[0].last_error == "KeyError"


async def test_interrupt_in_a_group_ends_the_feeds(autojump_clock):
    """What is no failure is not ours to hold."""
    feeds = Feeds()

    @feeds.feed()
    async def news(server):
        raise BaseExceptionGroup("", [KeyboardInterrupt()])

    with structlog.testing.capture_logs() as logged, pytest.raises(BaseExceptionGroup) as caught:
        await feeds.run(SERVER)
    assert caught.group_contains(KeyboardInterrupt)
    assert logged == []


# -- breaker ---------------------------------------------------------------------------------------------------------


def opened() -> CircuitBreaker:
    """A breaker that somebody else has just opened, for 10 seconds; one failure is enough."""
    breaker = CircuitBreaker("source", failures=1, retry_seconds=10.0)
    with pytest.raises(OSError), breaker:
        raise OSError
    return breaker


async def test_feed_begins_when_its_breaker_lets_it(autojump_clock):
    """And a little later, so that not all come at once. Nothing has failed, nothing is logged."""
    feeds, diary = Feeds(jitter=lambda: 0.25), Diary()
    feeds.feed(name="news", breaker=opened(), backoff_seconds=(2.0, 30.0))(diary.eager)
    with structlog.testing.capture_logs() as logged:
        async with running(feeds) as begin:
            await trio.sleep(7)
            assert feeds.statistics() == [FeedStatistics("news", None, "refused", 0, None, None, 0.0)]
            await trio.sleep(7)
            assert feeds.statistics() == [FeedStatistics("news", None, "running", 0, None, None, 3.5)]
    assert since(begin, diary.begun) == [10.5]
    assert logged == []


async def test_feed_whose_failures_open_its_breaker_waits_for_that_and_not_for_its_backoff(autojump_clock):
    """Before, it backs off as without one; what it raised is logged as it is."""
    breaker = CircuitBreaker("source", failures=3, retry_seconds=10.0)
    feeds, diary = Feeds(jitter=lambda: 0.5), Diary(seconds=0, error=OSError("no route"))
    feeds.feed(name="news", breaker=breaker, backoff_seconds=(2.0, 1000.0))(diary.eager)
    with structlog.testing.capture_logs() as logged:
        async with running(feeds) as begin:
            await trio.sleep(2.5)
            assert states(feeds) == [("news", None, "backing_off")]
            await trio.sleep(26)
            assert states(feeds) == [("news", None, "refused")]
            assert feeds.statistics()[0].restarts == 4
    assert since(begin, diary.begun) == [0.0, 1.0, 3.0, 14.0, 25.0]
    assert [entry["exc_info"] for entry in logged] == [diary.error] * 5
    assert breaker.statistics().opened == 3


async def test_feed_that_backs_off_while_others_open_its_breaker_waits_for_that_too(autojump_clock):
    """It is asked before each call."""
    breaker = CircuitBreaker("source", failures=2, retry_seconds=10.0)
    feeds, diary = Feeds(jitter=lambda: 0.5), Diary(seconds=0, error=OSError())
    feeds.feed(name="news", breaker=breaker, backoff_seconds=(2.0, 30.0))(diary.eager)
    with structlog.testing.capture_logs():
        async with running(feeds) as begin:
            await trio.sleep(0.5)
            with pytest.raises(OSError), breaker:
                raise OSError
            diary.seconds = 100
            await trio.sleep(12)
            assert feeds.statistics()[0].restarts == 1
    assert since(begin, diary.begun) == [0.0, 11.5]


async def test_feed_that_is_the_probe_lets_others_through_once_it_is_healthy(autojump_clock):
    """It need not end for that, nor know of the breaker."""
    feeds, breaker = Feeds(jitter=lambda: 0.0), opened()
    probe, other = Diary(), Diary()
    feeds.feed(name="probe", breaker=breaker, healthy_seconds=5.0)(probe.eager)
    async with running(feeds) as begin:
        await trio.sleep(11)
        feeds.feed(name="other", breaker=breaker)(other.eager)
        await trio.sleep(3.5)
        assert states(feeds) == [("probe", None, "running"), ("other", None, "refused")]
        assert breaker.state is State.HALF_OPEN
        await trio.sleep(1)
        assert breaker.state is State.CLOSED
        await trio.sleep(10)
    assert since(begin, probe.begun) == [10.0]
    assert since(begin, other.begun) == [21.0]


async def test_feed_that_is_the_probe_can_tell_of_its_success_at_once(autojump_clock):
    """From the task that reads its source."""
    feeds, breaker = Feeds(jitter=lambda: 0.0), opened()

    @feeds.feed(breaker=breaker)
    async def news(server):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)

    async def read() -> None:
        await trio.sleep(1)
        breaker.succeeded()
        await trio.sleep_forever()

    async with running(feeds):
        await trio.sleep(10.5)
        assert breaker.state is State.HALF_OPEN
        await trio.sleep(1)
        assert breaker.state is State.CLOSED


async def test_feed_that_fails_before_it_is_healthy_has_not_proven_anything(autojump_clock):
    """The time it had run is gone with it."""
    breaker = CircuitBreaker("source", failures=2, retry_seconds=10.0)
    feeds, diary = Feeds(jitter=lambda: 0.0), Diary(seconds=4, error=OSError())
    feeds.feed(name="news", breaker=breaker, healthy_seconds=5.0)(diary.eager)
    with structlog.testing.capture_logs():
        async with running(feeds):
            await trio.sleep(9)
            assert breaker.state is State.OPEN


async def test_feed_that_returns_has_succeeded(autojump_clock):
    """It is done, and the breaker closed."""
    feeds, diary, breaker = Feeds(jitter=lambda: 0.0), Diary(seconds=1), opened()
    feeds.feed(name="once", breaker=breaker)(diary.eager)
    async with running(feeds):
        await trio.sleep(20)
        assert states(feeds) == [("once", None, "done")]
        assert breaker.state is State.CLOSED
    assert len(diary.begun) == 1


async def test_error_that_is_not_the_sources_fault_does_not_open_the_breaker(autojump_clock):
    """What a feed publishes wrongly says nothing about where it has it from."""
    breaker = CircuitBreaker("source", failures=1)
    feeds = Feeds(jitter=lambda: 0.5)
    diary = Diary(seconds=0, error=CommandError(ErrorCode.INVALID_TOPIC, "no"))
    feeds.feed(name="news", breaker=breaker)(diary.eager)
    with structlog.testing.capture_logs():
        async with running(feeds):
            await wait_all_tasks_blocked()
            assert states(feeds) == [("news", None, "backing_off")]
            assert breaker.state is State.CLOSED


async def test_topics_behind_one_breaker_send_one_probe(autojump_clock):
    """The others wait; when nobody listens to the probe any more the next one goes at once."""
    feeds, diary, breaker = Feeds(jitter=lambda: 0.0), Diary(), opened()
    feeds.feed(name="ticks", topics="*", breaker=breaker, linger_seconds=0)(diary.lazy)
    async with running(feeds) as begin:
        for topic in ("a", "b", "c"):
            feeds.audience(topic, True)
        await trio.sleep(11)
        (probe,) = diary.topics
        assert sorted(state for _, _, state in states(feeds)) == ["refused", "refused", "running"]
        feeds.audience(probe, False)
        await trio.sleep(1)
        assert breaker.state is State.OPEN
        feeds.audience("d", True)
        await wait_all_tasks_blocked()
        assert diary.topics == [probe, "d"]
    assert since(begin, diary.begun) == [10.0, 12.0]


async def test_lazy_feed_that_is_refused_is_cancelled_like_one_that_runs(autojump_clock):
    """Nobody listens: there is nothing to wait for."""
    feeds, diary = Feeds(), Diary()
    feeds.feed(name="ticks", topics="*", breaker=opened(), linger_seconds=1.0)(diary.lazy)
    async with running(feeds):
        feeds.audience("a", True)
        await trio.sleep(1)
        feeds.audience("a", False)
        await trio.sleep(1.5)
        assert states(feeds) == [("ticks", None, "waiting")]
        await trio.sleep(30)
    assert diary.begun == []


# -- lazy ------------------------------------------------------------------------------------------------------------


async def test_lazy_feed_has_a_task_for_each_topic_that_matches(autojump_clock):
    """From the first subscriber on; letters are told apart."""
    feeds, diary = Feeds(), Diary()
    feeds.feed(name="ticks", topics="symbol:6*")(diary.lazy)
    async with running(feeds):
        assert states(feeds) == [("ticks", None, "waiting")]
        for topic in ("symbol:600519", "symbol:000001", "Symbol:600519", "symbol:601318"):
            feeds.audience(topic, True)
            await wait_all_tasks_blocked()
        assert states(feeds) == [("ticks", "symbol:600519", "running"), ("ticks", "symbol:601318", "running")]
    assert diary.topics == ["symbol:600519", "symbol:601318"]


async def test_lazy_feed_is_cancelled_some_time_after_the_last_subscriber(autojump_clock):
    """And starts anew with the next."""
    feeds, diary = Feeds(), Diary()
    feeds.feed(name="ticks", topics="*", linger_seconds=5.0)(diary.lazy)
    async with running(feeds) as begin:
        feeds.audience("a", True)
        await trio.sleep(1)
        feeds.audience("a", False)
        await trio.sleep(5.5)
        assert diary.ended == [("cancelled", begin + 6)]
        assert states(feeds) == [("ticks", None, "waiting")]
        feeds.audience("a", True)
        await trio.sleep(1)
    assert since(begin, diary.begun) == [0.0, 6.5]


async def test_subscriber_who_comes_back_in_time_finds_the_feed_still_running(autojump_clock):
    """Its next leave starts the full time anew."""
    feeds, diary = Feeds(), Diary()
    feeds.feed(name="ticks", topics="*", linger_seconds=5.0)(diary.lazy)
    async with running(feeds) as begin:
        for present in (True, False, True, False):
            feeds.audience("a", present)
            await trio.sleep(4)
        await trio.sleep(10)
    assert since(begin, diary.begun) == [0.0]
    assert diary.ended == [("cancelled", begin + 17)]


@pytest.mark.parametrize("returns", [False, True])
async def test_subscriber_who_comes_back_during_the_clean_up_gets_a_new_start_after_it(returns, autojump_clock):
    """Never two at once for a topic; also if the function does not let its cancellation out."""
    feeds = Feeds()
    events: list[tuple[str, float]] = []

    @feeds.feed(topics="*", linger_seconds=0)
    async def ticks(server, topic):
        events.append(("begin", trio.current_time() - begin))
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await trio.sleep(3)
            events.append(("end", trio.current_time() - begin))
            if not returns:
                raise

    async with running(feeds) as begin:
        feeds.audience("a", True)
        await trio.sleep(1)
        feeds.audience("a", False)
        await trio.sleep(1)
        feeds.audience("a", True)
        await trio.sleep(10)
    assert events[:3] == [("begin", 0.0), ("end", 4.0), ("begin", 4.0)]


async def test_lazy_feed_that_returns_starts_again_with_the_next_first_subscriber(autojump_clock):
    """Not before its topic had none."""
    feeds, diary = Feeds(), Diary(seconds=1)
    feeds.feed(name="ticks", topics="*")(diary.lazy)
    async with running(feeds) as begin:
        feeds.audience("a", True)
        await trio.sleep(10)
        assert states(feeds) == [("ticks", "a", "done")]
        feeds.audience("a", False)
        assert states(feeds) == [("ticks", None, "waiting")]
        feeds.audience("a", True)
        await trio.sleep(10)
    assert since(begin, diary.begun) == [0.0, 10.0]


async def test_lazy_feed_that_returns_while_it_lingers_is_forgotten(autojump_clock):
    """The next first subscriber starts it, also within the time."""
    feeds, diary = Feeds(), Diary(seconds=2)
    feeds.feed(name="ticks", topics="*", linger_seconds=5.0)(diary.lazy)
    async with running(feeds) as begin:
        feeds.audience("a", True)
        await trio.sleep(1)
        feeds.audience("a", False)
        await trio.sleep(2)
        feeds.audience("a", True)
        await trio.sleep(1)
    assert since(begin, diary.begun) == [0.0, 3.0]


async def test_lazy_feed_that_backs_off_is_cancelled_like_one_that_runs(autojump_clock):
    """Nobody listens: there is nothing to come back for."""
    feeds, diary = Feeds(jitter=lambda: 1.0), Diary(seconds=0, error=OSError())
    feeds.feed(name="ticks", topics="*", backoff_seconds=(100.0, 100.0), linger_seconds=5.0)(diary.lazy)
    with structlog.testing.capture_logs():
        async with running(feeds):
            feeds.audience("a", True)
            await trio.sleep(1)
            assert states(feeds) == [("ticks", "a", "backing_off")]
            feeds.audience("a", False)
            await trio.sleep(5.5)
            assert states(feeds) == [("ticks", None, "waiting")]
            await trio.sleep(200)
    assert len(diary.begun) == 1


async def test_audience_before_the_start_is_remembered(autojump_clock):
    """Those who have come and not gone find their feed when the server runs."""
    feeds, diary = Feeds(), Diary()
    feeds.audience("early", True)
    feeds.feed(name="ticks", topics="*")(diary.lazy)
    for topic, present in (("a", True), ("b", True), ("b", False), ("nobody", False)):
        feeds.audience(topic, present)
    assert states(feeds) == [("ticks", "early", "waiting"), ("ticks", "a", "waiting")]
    async with running(feeds):
        await wait_all_tasks_blocked()
    assert sorted(diary.topics) == ["a", "early"]


async def test_subscriber_who_is_gone_before_the_feed_began_starts_nothing(autojump_clock):
    """Joining and leaving at once costs no call of the function."""
    feeds, diary = Feeds(), Diary()
    feeds.feed(name="ticks", topics="*")(diary.lazy)
    async with running(feeds):
        feeds.audience("a", True)
        feeds.audience("a", False)
        await wait_all_tasks_blocked()
        assert states(feeds) == [("ticks", None, "waiting")]
    assert diary.begun == []


# -- shutdown --------------------------------------------------------------------------------------------------------


async def test_audience_that_changes_during_and_after_the_shutdown_is_no_trouble(autojump_clock):
    """Connections end later than feeds; nothing starts any more, nothing breaks."""
    feeds = Feeds()
    began: list[str] = []

    @feeds.feed(topics="*")
    async def ticks(server, topic):
        began.append(topic)
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            feeds.audience("a", False)
            feeds.audience("b", True)

    async with running(feeds):
        feeds.audience("a", True)
        await wait_all_tasks_blocked()
    feeds.audience("b", False)
    feeds.audience("c", True)
    assert began == ["a"]


@pytest.mark.parametrize("shutdown", [False, True])
async def test_clean_up_that_fails_when_cancelled_is_logged_and_ends_nothing(shutdown, autojump_clock):
    """At the end of the lingering or of the server, only the cancellation goes on up."""
    feeds, other = Feeds(), Diary()
    feeds.feed(name="other")(other.eager)

    @feeds.feed(topics="*", linger_seconds=0)
    async def ticks(server, topic):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise KeyError("secret")

    with structlog.testing.capture_logs() as logged:
        async with running(feeds) as begin:
            feeds.audience("a", True)
            await trio.sleep(1)
            if not shutdown:
                feeds.audience("a", False)
                await trio.sleep(1)
                assert states(feeds) == [("other", None, "running"), ("ticks", None, "waiting")]
    assert [(entry["feed"], entry["topic"]) for entry in logged] == [("ticks", "a")]
    assert diary_end(other) == begin + (1 if shutdown else 2)


def diary_end(diary: Diary) -> float:
    """When it ended, once."""
    ((how, when),) = diary.ended
    assert how == "cancelled"
    return when
