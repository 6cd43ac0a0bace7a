"""Sessions of work: events, counts, ends, and who is told what in which order."""

from __future__ import annotations

import random

import msgspec
import pytest
import structlog
import trio
import trio.testing

from realtime import CommandError, ErrorCode, Settings, open_engine
from realtime.batch import Job, JobFailed, Output, run_batch
from realtime.closing import NORMAL
from realtime.idempotency import Receipt
from realtime.progress import ProgressSessions
from realtime.progress_state import (
    EVENTS,
    RECENT_EVENTS,
    RECENT_RESULTS,
    TRANSITIONS,
    GroupComplete,
    ProgressUpdate,
    SessionCompleted,
    SessionEnded,
    SessionError,
    Status,
    TaskCompleted,
    TaskFailed,
    check_event,
    event_key,
    event_name,
)

settle = trio.testing.wait_all_tasks_blocked


class FakePort:
    """Remembers what it is asked; can be made to wait or fail."""

    def __init__(self):
        self.published = []
        self.topics = set()
        self.ended = []
        self.gate = trio.Event()
        self.gate.set()
        self.end_gate = trio.Event()
        self.end_gate.set()
        self.refuse = set()

    async def publish_event(self, topic, data, *, event, key=None):
        await trio.lowlevel.checkpoint()
        await self.gate.wait()
        if topic in self.refuse or event in self.refuse:
            raise CommandError(ErrorCode.UNAVAILABLE, "no broker")
        assert topic in self.topics
        self.published.append((topic, event, msgspec.json.decode(msgspec.json.encode(data)), key))
        return Receipt("e", len(self.published))

    def create_topic(self, topic):
        if "/" in topic:
            raise CommandError(ErrorCode.INVALID_TOPIC, "not a valid session name")
        self.topics.add(topic)

    def drop_topic(self, topic):
        self.topics.remove(topic)

    async def end(self, topic, reason):
        assert reason is NORMAL
        await self.end_gate.wait()
        self.ended.append((topic, len(self.published)))

    def events(self, topic="session:s"):
        return [(event, data) for at, event, data, _ in self.published if at == topic]

    def names(self, topic="session:s"):
        return [event for event, _ in self.events(topic)]


@pytest.fixture
def port():
    return FakePort()


def sessions_on(port, **options):
    return ProgressSessions(port, now_ms=lambda: round(1000 * trio.current_time()), **options)


@pytest.fixture
async def sessions(port, nursery):
    """Sessions that are looked after."""
    running = sessions_on(port)
    await nursery.start(running.run)
    return running


def done(node="n", **members):
    return TaskCompleted(node_id=node, **members)


def failed(node="n", message="why"):
    return TaskFailed(node_id=node, error_message=message)


# -- events ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "members"),
    [
        (
            ProgressUpdate(progress_percent=50.0, completed_nodes=1, total_nodes=2),
            ["progress_percent", "completed_nodes", "total_nodes"],
        ),
        (TaskCompleted(node_id="n"), ["node_id", "file_path", "file_size", "group_id"]),
        (TaskFailed(node_id="n", error_message="e"), ["node_id", "error_message", "group_id"]),
        (GroupComplete(agent_type="a", results=[1]), ["agent_type", "results"]),
        (
            SessionCompleted(status=Status.FAILED, total_duration=1.5, success_count=1, failure_count=2),
            ["status", "total_duration", "success_count", "failure_count"],
        ),
        (SessionError(error_type="t", message="m"), ["error_type", "message", "recoverable", "retry_after"]),
    ],
)
def test_event_has_exactly_its_members_also_from_plain_data(event, members):
    """In their order, those without a value too; the plain form is that of the envelope."""
    plain = {"type": event_name(event), "data": msgspec.to_builtins(event)}
    assert list(plain["data"]) == members
    assert check_event(plain) == check_event(event) == event


def test_keys_tell_the_things_that_have_a_newest_value():
    """So that mode ``latest`` skips what is outdated and nothing else."""
    assert event_key(done("7")) == event_key(failed("7")) == "node:7"
    assert event_key(GroupComplete(agent_type="a", results={})) == "group:a"
    assert event_key(SessionError(error_type="t", message="m")) == "error"
    assert event_key(ProgressUpdate(progress_percent=0, completed_nodes=0, total_nodes=0)) == "progress_update"


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({}, "has a `type`, one of progress_update"),
        ({"type": "nonsense", "data": {}}, "has a `type`"),
        ({"type": ["error"], "data": {}}, "has a `type`"),
        ({"type": "task_failed"}, "event task_failed: Expected `object`, got `null`"),
        ({"type": "task_failed", "data": {"node_id": "n"}}, "missing required field `error_message`"),
        ({"type": "task_failed", "data": {"node_id": 5}}, r"`str`, got `int` - at `\$.node_id`"),
        (TaskCompleted(node_id=""), "length >= 1"),
        (TaskCompleted(node_id="\ud800"), "event task_completed: .*surrogates"),
        (TaskCompleted(node_id="n", file_size=-1), r"\$.file_size"),
        (ProgressUpdate(progress_percent=101, completed_nodes=0, total_nodes=0), "<= 100"),
        (ProgressUpdate(progress_percent=float("nan"), completed_nodes=0, total_nodes=0), "got `null`"),
        ("task_failed", "has a `type`"),
    ],
)
def test_event_that_is_not_valid_is_refused_with_its_fault(event, message):
    """Whichever way it was made."""
    with pytest.raises(CommandError, match=message) as caught:
        check_event(event)
    assert caught.value.code is ErrorCode.BAD_REQUEST


def test_event_nested_too_deeply_is_refused():
    """As what cannot be encoded cannot be published."""
    results = []
    for _ in range(100_000):
        results = [results]
    with pytest.raises(CommandError, match="group_complete"):
        check_event({"type": "group_complete", "data": {"agent_type": "a", "results": results}})
    while results:  # freed from the outside in, as the interpreter's own way down is not deep enough
        results = results.pop()


def test_ended_statuses_lead_nowhere():
    """And every status that is not an end leads to all of them."""
    ends = {status for status, after in TRANSITIONS.items() if not after}
    assert ends == {Status.COMPLETED, Status.FAILED, Status.CANCELLED}
    assert set(TRANSITIONS) == set(Status)
    assert all(ends <= after for after in TRANSITIONS.values() if after)
    assert set(EVENTS.values()) == {
        ProgressUpdate,
        TaskCompleted,
        TaskFailed,
        GroupComplete,
        SessionCompleted,
        SessionError,
    }


# -- counting ----------------------------------------------------------------------------------------------------


async def test_reports_of_nodes_move_the_counts_and_tell_progress(sessions, port, autojump_clock):
    """Where the number of nodes was said when the session was created."""
    created = sessions.create("s", total_nodes=3, info={"canvas": "algebra"})
    assert (created.status, created.total_nodes, created.info) == (Status.PENDING, 3, {"canvas": "algebra"})
    await trio.sleep(2)
    await sessions.notify_progress("s", done("a", file_path="a.md", file_size="3.2KB", group_id="g"))
    await sessions.notify_progress("s", {"type": "task_failed", "data": {"node_id": "b", "error_message": "no"}})
    state = sessions.state("s")
    assert (state.status, state.progress_percent, state.completed_nodes) == (Status.RUNNING, 66.7, 2)
    assert (state.success_count, state.failure_count, state.ended_at, state.total_duration) == (1, 1, None, None)
    assert state.updated_at - state.created_at == 2000
    assert [report.data.node_id for report in state.results] == ["a", "b"]
    assert [(report.type, report.time - state.created_at) for report in state.events] == [
        ("task_completed", 2000),
        ("task_failed", 2000),
    ]
    assert port.events() == [
        ("task_completed", {"node_id": "a", "file_path": "a.md", "file_size": "3.2KB", "group_id": "g"}),
        ("progress_update", {"progress_percent": 33.3, "completed_nodes": 1, "total_nodes": 3}),
        ("task_failed", {"node_id": "b", "error_message": "no", "group_id": None}),
        ("progress_update", {"progress_percent": 66.7, "completed_nodes": 2, "total_nodes": 3}),
    ]
    assert {key for *_, key in port.published} == {"node:a", "node:b", "progress_update"}


async def test_session_without_a_number_of_nodes_has_the_progress_that_workers_say(sessions, port, autojump_clock):
    """Nodes are counted, but nothing is told of it."""
    sessions.create("s")
    await sessions.notify_progress("s", done("a"))
    assert (sessions.state("s").completed_nodes, sessions.state("s").progress_percent) == (1, 0.0)
    await sessions.notify_progress("s", ProgressUpdate(progress_percent=40, completed_nodes=4, total_nodes=10))
    await sessions.notify_progress("s", done("b"))
    state = sessions.state("s")
    assert (state.completed_nodes, state.total_nodes, state.progress_percent) == (5, 10, 50.0)
    assert port.names() == ["task_completed", "progress_update", "task_completed"]
    assert [report.type for report in state.events] == ["task_completed", "task_completed"]


async def test_node_counts_once_as_it_was_last_reported(sessions, port, autojump_clock):
    """A second try that goes well takes back the failure; a report sent twice changes nothing."""
    sessions.create("s", total_nodes=2)
    counts = []
    for event in (failed("a"), failed("a"), done("a"), done("a"), failed("a")):
        await sessions.notify_progress("s", event)
        state = sessions.state("s")
        counts.append((state.completed_nodes, state.success_count, state.failure_count, len(state.results)))
    assert counts == [(1, 0, 1, 1), (1, 0, 1, 1), (1, 1, 0, 1), (1, 1, 0, 1), (1, 0, 1, 1)]


async def test_more_nodes_than_announced_raise_the_total(sessions, port, autojump_clock):
    """Progress is never above 100."""
    sessions.create("s", total_nodes=1)
    await sessions.notify_progress("s", done("a"))
    await sessions.notify_progress("s", done("b"))
    assert port.events()[-1][1] == {"progress_percent": 100.0, "completed_nodes": 2, "total_nodes": 2}


async def test_state_shows_the_newest_of_a_long_session(sessions, port, autojump_clock):
    """The newest nodes and the newest events; all are counted."""
    sessions.create("s", total_nodes=150)
    for number in range(150):
        await sessions.notify_progress("s", done(str(number)))
    state = sessions.state("s")
    assert state.success_count == 150
    assert [report.data.node_id for report in state.results] == [str(n) for n in range(150 - RECENT_RESULTS, 150)]
    assert [report.data.node_id for report in state.events] == [str(n) for n in range(150 - RECENT_EVENTS, 150)]
    assert msgspec.json.decode(msgspec.json.encode(state))["results"][0] == {
        "type": "task_completed",
        "time": state.updated_at,
        "data": {"node_id": "50", "file_path": None, "file_size": None, "group_id": None},
    }


async def test_kept_event_does_not_change_with_what_it_was_made_of(sessions, port, autojump_clock):
    """What its maker still holds is a copy."""
    info, results = {"a": 1}, [1]
    sessions.create("s", info=info)
    await sessions.notify_progress("s", GroupComplete(agent_type="a", results=results))
    info["a"] = 2
    results.append(2)
    state = sessions.state("s")
    assert (state.info, state.events[0].data.results) == ({"a": 1}, [1])


# -- bounds and refusals -----------------------------------------------------------------------------------------


async def test_too_many_running_sessions_are_refused_for_now(port, autojump_clock):
    """One that has ended makes room."""
    sessions = sessions_on(port, max_running=2)
    sessions.create("a")
    sessions.create("b")
    with pytest.raises(CommandError, match="LIMIT_EXCEEDED") as caught:
        sessions.create("c")
    assert caught.value.retry_after == 10.0
    await sessions.complete("a")
    sessions.create("c")
    assert port.topics == {"session:a", "session:b", "session:c"}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"session_id": "s"}, ErrorCode.BAD_REQUEST),
        ({"total_nodes": 11}, ErrorCode.LIMIT_EXCEEDED),
        ({"total_nodes": -1}, ErrorCode.LIMIT_EXCEEDED),
        ({"info": {"a": "x" * 5000}}, ErrorCode.PAYLOAD_TOO_LARGE),
        ({"session_id": "a/b"}, ErrorCode.INVALID_TOPIC),
    ],
)
async def test_session_that_cannot_be_is_refused_and_leaves_nothing(arguments, code, port, autojump_clock):
    """Neither an entry nor a topic."""
    sessions = sessions_on(port, max_nodes=10)
    sessions.create("s")
    with pytest.raises(CommandError) as caught:
        sessions.create(**arguments)
    assert caught.value.code is code
    assert sessions.statistics().created == sessions.statistics().running == len(port.topics) == 1


async def test_session_without_an_id_gets_one_of_its_own(port, autojump_clock):
    """That nobody can guess."""
    sessions = sessions_on(port)
    ids = {sessions.create().session_id for _ in range(10)}
    assert len(ids) == 10
    assert port.topics == {f"session:{one}" for one in ids}


async def test_unknown_session_is_not_found(port, autojump_clock):
    """Whatever is asked of it."""
    sessions = sessions_on(port)
    with pytest.raises(CommandError, match="SESSION_NOT_FOUND"):
        sessions.state("s")
    for call in (sessions.complete, sessions.fail, sessions.cancel, sessions.wait_ended):
        with pytest.raises(CommandError, match="SESSION_NOT_FOUND"):
            await call("s")
    with pytest.raises(CommandError, match="SESSION_NOT_FOUND"):
        await sessions.notify_progress("s", done())
    with pytest.raises(CommandError, match="SESSION_NOT_FOUND"):
        await run_batch(sessions, "s", [])


async def test_nodes_of_a_session_are_bounded(port, autojump_clock):
    """A known node may be reported again, a new one may not."""
    sessions = sessions_on(port, max_nodes=2)
    sessions.create("s")
    for node in ("a", "b", "a"):
        await sessions.notify_progress("s", failed(node))
    with pytest.raises(CommandError, match="LIMIT_EXCEEDED"):
        await sessions.notify_progress("s", done("c"))
    assert sessions.state("s").completed_nodes == 2


async def test_final_event_cannot_be_reported_by_a_worker(port, autojump_clock):
    """Its figures are counted here."""
    sessions = sessions_on(port)
    sessions.create("s")
    final = SessionCompleted(status=Status.COMPLETED, total_duration=1, success_count=1, failure_count=0)
    with pytest.raises(CommandError, match="by complete, fail or cancel"):
        await sessions.notify_progress("s", final)
    assert sessions.state("s").status is Status.PENDING


async def test_list_is_paged_in_the_order_of_creation(port, autojump_clock):
    """Also when the session where a page ended is gone."""
    sessions = sessions_on(port, max_kept=1)
    for number in range(5):
        sessions.create(str(number))
    first = sessions.page(limit=2)
    assert [one.session_id for one in first.sessions] == ["0", "1"]
    await sessions.complete("1")
    await sessions.complete("2")  # of those that have ended one is kept: 1 is forgotten
    rest = sessions.page(first.next, limit=3)
    assert [(one.session_id, one.status) for one in rest.sessions] == [
        ("2", Status.COMPLETED),
        ("3", Status.PENDING),
        ("4", Status.PENDING),
    ]
    assert rest.next is None
    assert sessions.page(after=99).sessions == []


# -- many at once ------------------------------------------------------------------------------------------------


async def test_many_sessions_with_many_tasks_each_keep_their_order_and_counts(autojump_clock):
    """Twenty sessions of fifty tasks on a real engine: what is pushed adds up, step by step, to what is polled."""
    rng = random.Random(7)

    async with open_engine(Settings(dev=True)) as engine, trio.open_nursery() as nursery:
        sessions = sessions_on(engine)
        heard = {}

        async def follow(session_id, *, task_status):
            heard[session_id] = found = []
            async with engine.subscribe(f"session:{session_id}", max_messages=1000) as messages:
                task_status.started()
                async for message in messages:
                    found.append((message.offset, message.event, message.data))
                    if message.event == "session_completed":
                        return

        async def work(session_id, node, delay):
            await trio.sleep(delay)
            await sessions.notify_progress(session_id, done(node) if int(node) % 5 else failed(node))

        async def run_one(session_id):
            async with trio.open_nursery() as workers:
                for node in range(50):
                    workers.start_soon(work, session_id, str(node), rng.choice([0, 0, 1, 2]))
            await sessions.complete(session_id)

        names = [f"s{number}" for number in range(20)]
        for name in names:
            sessions.create(name, total_nodes=50)
            await nursery.start(follow, name)
        for name in names:
            nursery.start_soon(run_one, name)

    for name in names:
        assert [offset for offset, *_ in heard[name]] == list(range(1, 102))
        reported = set()
        for _, event, data in heard[name][:-1]:
            if event == "progress_update":
                assert data["completed_nodes"] == len(reported)
            else:
                reported.add(data["node_id"])
        assert len(reported) == 50
        assert heard[name][-1][1:] == (
            "session_completed",
            {"status": "completed", "total_duration": 2.0, "success_count": 40, "failure_count": 10},
        )
        assert sessions.state(name).progress_percent == 100.0
    assert sessions.statistics().events == 20 * 101


async def test_state_and_events_have_one_order_while_publishing_waits(sessions, port, nursery, autojump_clock):
    """Who comes first is published first, and nothing is taken up before it was."""
    sessions.create("s")
    port.gate = trio.Event()
    for node in "abc":
        nursery.start_soon(sessions.notify_progress, "s", done(node))
        await settle()
    nursery.start_soon(sessions.complete, "s")
    await settle()
    assert (sessions.state("s").completed_nodes, port.published) == (0, [])
    port.gate.set()
    await settle()
    assert [data.get("node_id") for _, data in port.events()] == ["a", "b", "c", None]
    assert [report.data.node_id for report in sessions.state("s").results] == ["a", "b", "c"]


async def test_session_that_waits_holds_up_no_other(sessions, port, nursery, autojump_clock):
    """Each has turns of its own."""
    sessions.create("s")
    sessions.create("t")
    port.gate = trio.Event()
    nursery.start_soon(sessions.notify_progress, "s", done())
    await settle()
    port.gate, gate = trio.Event(), port.gate
    port.gate.set()
    await sessions.notify_progress("t", done())
    assert port.names("session:t") == ["task_completed"]
    gate.set()


# -- cancelled and failed reports --------------------------------------------------------------------------------


async def test_report_cancelled_while_publishing_has_not_happened(sessions, port, nursery, autojump_clock):
    """Neither published nor counted, and the next one has its turn."""
    sessions.create("s", total_nodes=2)
    port.gate = trio.Event()
    async with trio.open_nursery() as cancelled:
        cancelled.start_soon(sessions.notify_progress, "s", done("a"))
        await settle()
        nursery.start_soon(sessions.notify_progress, "s", done("b"))
        await settle()
        cancelled.cancel_scope.cancel()
    assert sessions.state("s").completed_nodes == 0
    port.gate.set()
    await settle()
    state = sessions.state("s")
    assert [report.data.node_id for report in state.results] == ["b"]
    assert port.names() == ["task_completed", "progress_update"]


async def test_report_that_cannot_be_published_has_not_happened(sessions, port, autojump_clock):
    """Its maker is told, and may report again."""
    sessions.create("s", total_nodes=1)
    port.refuse.add("task_completed")
    with pytest.raises(CommandError, match="UNAVAILABLE"):
        await sessions.notify_progress("s", done())
    assert sessions.state("s").status is Status.PENDING
    port.refuse.clear()
    assert await sessions.notify_progress("s", done()) == Receipt("e", 1)
    assert sessions.state("s").success_count == 1


async def test_report_whose_progress_cannot_be_told_may_be_repeated(sessions, port, autojump_clock):
    """It counts once."""
    sessions.create("s", total_nodes=1)
    port.refuse.add("progress_update")
    with pytest.raises(CommandError, match="UNAVAILABLE"):
        await sessions.notify_progress("s", done())
    port.refuse.clear()
    await sessions.notify_progress("s", done())
    assert sessions.state("s").success_count == 1
    assert port.events()[-1][1]["completed_nodes"] == 1


# -- ends --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.FAILED, Status.CANCELLED])
async def test_end_is_told_before_the_connections_are_closed(status, sessions, port, autojump_clock):
    """The final event has the counts and the duration; afterwards nothing is taken."""
    sessions.create("s")
    await sessions.notify_progress("s", done("a"))
    await sessions.notify_progress("s", failed("b"))
    await trio.sleep(12.3456)
    end = {Status.COMPLETED: sessions.complete, Status.FAILED: sessions.fail, Status.CANCELLED: sessions.cancel}[status]
    final = await end("s")
    told = {"status": status.value, "total_duration": 12.346, "success_count": 1, "failure_count": 1}
    assert msgspec.to_builtins(final) == told
    assert port.events()[-1] == ("session_completed", told)
    assert port.ended == [("session:s", 3)]
    state = sessions.state("s")
    assert (state.status, state.total_duration, state.ended_at) == (status, 12.346, state.updated_at)
    with pytest.raises(SessionEnded, match=f"has ended as {status} and takes no more"):
        await sessions.notify_progress("s", done("c"))
    await sessions.wait_ended("s")
    statistics = sessions.statistics()
    assert (statistics.running, statistics.kept, statistics.created, statistics.events) == (0, 1, 1, 3)
    assert statistics.ended == {**dict.fromkeys(statistics.ended, 0), status: 1}


async def test_first_end_counts(sessions, port, autojump_clock):
    """Whoever comes later gets what it was, and nothing is told twice."""
    sessions.create("s")
    first = await sessions.cancel("s")
    await trio.sleep(1)
    assert await sessions.complete("s") == first
    assert await sessions.fail("s", SessionError(error_type="t", message="m")) == first
    assert port.names() == ["session_completed"]
    assert port.ended == [("session:s", 1)]


async def test_failure_tells_its_error_first(sessions, port, autojump_clock):
    """In the order: what went wrong, that it is over."""
    sessions.create("s")
    await sessions.fail("s", SessionError(error_type="model", message="gone", retry_after=5))
    assert port.events()[0] == (
        "error",
        {"error_type": "model", "message": "gone", "recoverable": False, "retry_after": 5.0},
    )
    assert [report.type for report in sessions.state("s").events] == ["error", "session_completed"]
    with pytest.raises(CommandError, match="BAD_REQUEST"):
        await sessions.fail("s", SessionError(error_type="", message="m"))


async def test_error_of_a_running_session_does_not_end_it(sessions, port, autojump_clock):
    """It is one event among others."""
    sessions.create("s")
    await sessions.notify_progress("s", SessionError(error_type="slow", message="m", recoverable=True))
    assert sessions.state("s").status is Status.RUNNING


async def test_end_cancelled_while_publishing_has_not_happened(sessions, port, autojump_clock):
    """The session runs on until somebody ends it."""
    sessions.create("s")
    port.gate = trio.Event()
    with trio.move_on_after(1):
        await sessions.complete("s")
    port.gate.set()
    assert (sessions.state("s").status, port.published) == (Status.PENDING, [])
    assert (await sessions.cancel("s")).status is Status.CANCELLED


async def test_end_cancelled_while_connections_close_is_carried_through_by_the_sweep(sessions, port, autojump_clock):
    """Whoever follows the session is not left behind."""
    sessions.create("s")
    port.end_gate = trio.Event()
    with trio.move_on_after(1):
        await sessions.complete("s")
    assert sessions.state("s").status is Status.COMPLETED
    assert port.ended == []
    port.end_gate.set()
    await trio.sleep(31)
    assert port.ended == [("session:s", 1)]
    await trio.sleep(31)
    assert port.ended == [("session:s", 1)]


# -- sweeping ----------------------------------------------------------------------------------------------------


async def test_abandoned_session_is_failed_with_a_reason(sessions, port, autojump_clock):
    """An hour after its last event, and not before."""
    sessions.create("s")
    await trio.sleep(3000)
    await sessions.notify_progress("s", done())
    await trio.sleep(3500)
    assert sessions.state("s").status is Status.RUNNING
    await trio.sleep(200)
    state = sessions.state("s")
    assert (state.status, state.success_count) == (Status.FAILED, 1)
    assert port.events()[1] == (
        "error",
        {
            "error_type": "abandoned",
            "message": "no event for 3600 seconds",
            "recoverable": False,
            "retry_after": None,
        },
    )
    assert port.names()[2:] == ["session_completed"]
    assert port.ended == [("session:s", 3)]


async def test_ended_session_is_kept_for_a_while_then_forgotten(sessions, port, autojump_clock):
    """With its topic; its id may be used again."""
    sessions.create("s")
    sessions.create("t")
    await sessions.complete("s")
    await trio.sleep(300)
    await sessions.complete("t")
    await trio.sleep(299)
    assert sessions.state("s").status is Status.COMPLETED
    await trio.sleep(32)
    with pytest.raises(CommandError, match="SESSION_NOT_FOUND"):
        sessions.state("s")
    assert port.topics == {"session:t"}
    assert (sessions.statistics().kept, sessions.statistics().ended[Status.COMPLETED]) == (1, 2)
    assert sessions.create("s").status is Status.PENDING


async def test_session_that_cannot_be_ended_does_not_keep_the_sweep_from_the_others(sessions, port, autojump_clock):
    """It is tried again."""
    sessions.create("s")
    sessions.create("t")
    port.refuse.add("session:s")
    await trio.sleep(3700)
    assert (sessions.state("s").status, sessions.state("t").status) == (Status.PENDING, Status.FAILED)
    port.refuse.clear()
    await trio.sleep(60)
    assert sessions.state("s").status is Status.FAILED


# -- shutting down -----------------------------------------------------------------------------------------------


async def test_shutdown_tells_every_running_session_its_end(sessions, port, autojump_clock):
    """One that cannot be told keeps no other from it; new ones are not started, workers are refused."""
    for name in ("s", "t", "u"):
        sessions.create(name)
    await sessions.complete("t")
    port.refuse.add("session:u")
    await sessions.shutdown()
    assert port.events("session:s")[-1][1]["status"] == "cancelled"
    assert port.events("session:t")[-1][1]["status"] == "completed"
    assert [topic for topic, _ in port.ended] == ["session:t", "session:s"]
    with pytest.raises(CommandError, match="UNAVAILABLE"):
        sessions.create("v")
    with pytest.raises(SessionEnded):
        await sessions.notify_progress("s", done())


async def test_shutdown_waits_for_those_that_are_being_closed(sessions, port, nursery, autojump_clock):
    """Also of a session that had ended by itself."""
    sessions.create("s")
    port.end_gate = trio.Event()
    nursery.start_soon(sessions.complete, "s")
    await settle()
    with trio.move_on_after(1) as scope:
        await sessions.shutdown()
    assert scope.cancelled_caught
    port.end_gate.set()
    await sessions.shutdown()
    assert port.ended


# -- batches -----------------------------------------------------------------------------------------------------


async def test_batch_reports_each_job_and_completes_the_session(sessions, port, autojump_clock):
    """A job that fails is told and does not stop the others; what a bug says stays in the log."""

    async def good():
        return Output("a.md", 10)

    async def bad():
        raise JobFailed("no such canvas")

    async def broken():
        raise ZeroDivisionError("secret")

    sessions.create("s", total_nodes=3)
    jobs = [Job("a", good, group_id="g"), Job("b", bad, group_id="g"), Job("c", broken)]
    final = await run_batch(sessions, "s", jobs, max_workers=1)
    assert (final.status, final.success_count, final.failure_count) == (Status.COMPLETED, 1, 2)
    reports = [data for event, data in port.events() if event.startswith("task")]
    assert reports[:2] == [
        {"node_id": "a", "file_path": "a.md", "file_size": 10, "group_id": "g"},
        {"node_id": "b", "error_message": "no such canvas", "group_id": "g"},
    ]
    assert reports[2]["error_message"].startswith("internal error, trace id ")


async def test_batch_runs_no_more_jobs_at_once_than_it_may(sessions, port, autojump_clock):
    """And takes no job before there is a worker for it."""
    running = most = 0

    async def work():
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(1)
        running -= 1
        return Output()

    def jobs():
        for number in range(30):
            assert running < 12
            yield Job(str(number), work)

    sessions.create("s", total_nodes=30)
    final = await run_batch(sessions, "s", jobs())
    assert (most, final.success_count, final.total_duration) == (12, 30, 3.0)


async def test_batch_without_workers_is_refused(sessions, port, autojump_clock):
    """It would complete with nothing done."""
    sessions.create("s")
    with pytest.raises(ValueError, match="max_workers"):
        await run_batch(sessions, "s", [], max_workers=0)


async def forever():
    await trio.sleep_forever()


async def test_cancelled_batch_cancels_its_session(sessions, port, autojump_clock):
    """Its followers are told, although the task that tells them is cancelled."""
    sessions.create("s")
    with trio.move_on_after(10) as scope:
        await run_batch(sessions, "s", [Job("a", forever)])
    assert scope.cancelled_caught
    assert port.events() == [
        ("session_completed", {"status": "cancelled", "total_duration": 10.0, "success_count": 0, "failure_count": 0})
    ]
    assert port.ended


@pytest.mark.parametrize("stuck", [True, False])
async def test_cancelled_batch_ends_although_its_end_cannot_be_told(stuck, sessions, port, autojump_clock):
    """Neither a broker that is stuck nor one that is gone holds up whoever cancelled it."""
    sessions.create("s")
    with trio.move_on_after(10) as scope:
        if stuck:
            port.gate = trio.Event()
        else:
            port.refuse.add("session:s")
        await run_batch(sessions, "s", [Job("a", forever)])
    assert scope.cancelled_caught
    assert trio.current_time() - sessions._entries["s"].session.started_at == (15 if stuck else 10)
    assert sessions.state("s").status is Status.PENDING


async def test_session_ended_by_somebody_else_stops_its_batch(sessions, port, nursery, autojump_clock):
    """The jobs are cancelled, and the batch returns that end."""
    sessions.create("s")
    finals = []

    async def run():
        finals.append(await run_batch(sessions, "s", [Job("a", forever)]))

    nursery.start_soon(run)
    await settle()
    await sessions.cancel("s")
    await settle()
    assert [final.status for final in finals] == [Status.CANCELLED]
    assert port.names() == ["session_completed"]


async def test_job_done_while_its_session_ends_is_not_an_error(sessions, port, nursery, autojump_clock):
    """Its report comes too late, and that is all."""
    sessions.create("s")
    finals = []

    async def quick():
        return Output()

    async def run():
        finals.append(await run_batch(sessions, "s", [Job("a", quick)]))

    port.gate = trio.Event()
    nursery.start_soon(sessions.cancel, "s")
    await settle()
    nursery.start_soon(run)
    await settle()
    port.gate.set()
    await settle()
    assert [final.status for final in finals] == [Status.CANCELLED]
    assert port.names() == ["session_completed"]


async def test_batch_whose_jobs_cannot_be_listed_fails_its_session(sessions, port, autojump_clock):
    """The exception comes out as it was raised; workers that were busy are cancelled."""

    def jobs():
        yield Job("a", forever)
        raise OSError("no list")

    sessions.create("s")
    with pytest.raises(OSError, match="no list"):
        await run_batch(sessions, "s", jobs())
    assert sessions.state("s").status is Status.FAILED


async def test_batch_outlives_what_no_event_can_hold(sessions, autojump_clock):
    """A job that makes nothing is done; one that makes nonsense, or fails at great length, fails alone."""

    async def nothing() -> None: ...

    async def nonsense() -> Output:
        return Output(file_path="x" * 5000)

    async def at_length() -> Output:
        raise JobFailed("y" * 5000)

    sessions.create("s", total_nodes=3)
    with structlog.testing.capture_logs() as logs:
        final = await run_batch(
            sessions, "s", [Job("nothing", nothing), Job("nonsense", nonsense), Job("at length", at_length)]
        )
    assert (final.status, final.success_count, final.failure_count) == (Status.COMPLETED, 1, 2)
    assert [entry["node"] for entry in logs] == ["nonsense"]
    with pytest.raises(ValueError, match="node_id"):
        Job("n" * 201, nothing)


async def test_sweep_of_many_sessions_lets_others_run(port, autojump_clock):
    """Each tells those who still have its topic; what makes room for another meanwhile is not forgotten twice."""
    sessions = sessions_on(port, keep_seconds=10, max_kept=20)
    for number in range(23):
        sessions.create(str(number))
    for number in range(20):
        await sessions.complete(str(number))
    await trio.sleep(10)
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count_turns)
        await sessions._sweep()
        nursery.cancel_scope.cancel()
    assert turns > 10
    assert port.topics == {f"session:{number}" for number in (20, 21, 22)}


async def test_session_that_made_room_during_a_sweep_is_forgotten_once(port, autojump_clock):
    """The sweep lets others run, and those may end sessions."""
    sessions = sessions_on(port, keep_seconds=10, max_kept=20)
    for number in range(60):
        sessions.create(str(number))
    for number in range(20):
        await sessions.complete(str(number))
    await trio.sleep(10)
    async with trio.open_nursery() as nursery:
        for number in range(20, 60):
            nursery.start_soon(sessions.complete, str(number))
        await sessions._sweep()
    assert len(port.topics) == sessions.statistics().kept == 20
    assert port.topics <= {f"session:{number}" for number in range(20, 60)}
