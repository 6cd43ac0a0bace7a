"""Requests of one connection, and commands that come beside its wire."""

from __future__ import annotations

import msgspec
import pytest
import structlog
import trio
from attrs import evolve

from realtime import Actions, Caller, CommandError, Identity, Settings, closing, open_engine
from realtime.commands import BATCH_SLICE, MAX_BATCH_BYTES, MAX_PAGE_BYTES
from realtime.outbox import MAX_CONTROL_BYTES
from realtime.testing import connect
from tests.tools import ONE_TOPIC, attached, settle

TOPIC = "room:a"
SETTINGS = Settings(dev=True, auto_subscribe=(), max_requests=3, kinds={"room": {"presence": "none"}})


class Desk:
    """Actions of all sorts, and what became of their calls."""

    def __init__(self) -> None:
        self.actions = Actions()
        self.running = 0
        self.most = 0
        self.cancelled = 0
        self.actions.register("add", self.add)
        self.actions.register("whoami", self.whoami)
        self.actions.register("wait", self.wait)
        self.actions.register("bug", self.bug)

    def add(self, numbers: list[int]) -> int:
        """Never waits."""
        return sum(numbers)

    async def whoami(self, caller: Caller) -> dict:
        """Waits a little."""
        await trio.sleep(0.1)
        return {"user": caller.user, "roles": sorted(caller.roles), "transport": caller.transport}

    async def wait(self, seconds: float) -> str:
        """Waits as long as it is told to."""
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await trio.sleep(seconds)
        except trio.Cancelled:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        return "done"

    async def bug(self) -> None:
        """Fails."""
        raise RuntimeError("secret internals")


@pytest.fixture
def desk():
    """Fresh ones."""
    return Desk()


async def test_request_is_answered_by_its_handler(desk, autojump_clock):
    """At once or later, with the id and the trace id of its own."""
    async with (
        open_engine(SETTINGS, actions=desk.actions) as engine,
        connect(engine, identity=Identity("7", roles=frozenset({"b", "a"}))) as peer,
    ):
        reply = await peer.command("request", action="add", payload=[1, 2], trace_id="t-1")
        assert {name: reply[name] for name in ("type", "action", "data", "trace_id")} == {
            "type": "response",
            "action": "add",
            "data": 3,
            "trace_id": "t-1",
        }
        reply = await peer.command("request", action="whoami")
        assert reply["data"] == {"user": "7", "roles": ["a", "b"], "transport": "memory"}
        assert reply["trace_id"]


async def test_request_that_waits_holds_up_nobody(desk, autojump_clock):
    """Answers come as they are ready, between messages and other replies."""
    async with open_engine(SETTINGS, actions=desk.actions) as engine, connect(engine) as peer:
        slow = peer.send("request", action="wait", payload=5)
        fast = peer.send("request", action="wait", payload=1)
        assert (await peer.command("ping"))["type"] == "pong"
        order = [(await peer.receive_type("response"))["id"] for _ in range(2)]
        assert order == [fast, slow]


@pytest.mark.parametrize(
    ("action", "payload", "code"),
    [
        ("nosuch", None, "UNKNOWN_ACTION"),
        ("add", "x", "BAD_REQUEST"),
        ("wait", "x", "BAD_REQUEST"),
        ("bug", None, "INTERNAL_ERROR"),
        ("wait", 60, "TIMEOUT"),
    ],
)
async def test_request_that_fails_is_answered_with_its_trace_id(action, payload, code, desk, autojump_clock):
    """The connection lives on."""
    with structlog.testing.capture_logs():
        async with open_engine(SETTINGS, actions=desk.actions) as engine, connect(engine) as peer:
            reply = await peer.command("request", action=action, payload=payload, trace_id="t")
            assert (reply["type"], reply["code"]) == ("error", code)
            assert reply["trace_id"] == "t"
            assert "secret" not in str(reply)
            assert (await peer.command("ping"))["type"] == "pong"


async def test_requests_over_the_limit_are_refused(desk, autojump_clock):
    """Also where they come in one write; those that never wait are not counted."""
    async with open_engine(SETTINGS, actions=desk.actions) as engine, connect(engine) as peer:
        for _ in range(10):
            peer.send("request", action="wait", payload=1)
        peer.send("request", action="add", payload=[1])
        await settle()
        assert sorted(push["type"] for push in peer.pending()) == ["error"] * 7 + ["response"]
        assert desk.most == 3
        await trio.sleep(2)
        assert [push["type"] for push in peer.pending()] == ["response"] * 3
        assert (await peer.command("request", action="wait", payload=1))["data"] == "done"


async def test_requests_end_with_their_connection(desk, autojump_clock):
    """Nobody would hear the answer."""
    async with open_engine(SETTINGS, actions=desk.actions) as engine, connect(engine) as peer:
        for _ in range(2):
            peer.send("request", action="wait", payload=5)
        await settle()
        peer.hang_up()
        assert await peer.wait_closed() is closing.GONE
        assert (desk.cancelled, desk.running) == (2, 0)
        (statistics,) = [one for one in engine.statistics().actions if one.name == "wait"]
        assert (statistics.calls, statistics.in_flight) == (2, 0)


async def test_request_in_a_batch_is_refused(desk, autojump_clock):
    """The replies of a batch come together, and this one takes its time."""
    async with open_engine(SETTINGS, actions=desk.actions) as engine, connect(engine) as peer:
        reply = await peer.command("batch", commands=[{"type": "request", "id": 1, "action": "add"}])
        assert [(part["id"], part["code"]) for part in reply["replies"]] == [(1, "BAD_REQUEST")]
        assert engine.statistics().actions[0].calls == 0


# -- commands beside the wire ------------------------------------------------------------------------------------


def text(kind: str, **members) -> bytes:
    """The text of a command."""
    return msgspec.json.encode({"type": kind, "id": 1, **members})


async def test_command_beside_the_wire_is_carried_out_by_the_connection(desk, autojump_clock):
    """The reply comes to who asked, everything else on the wire."""
    async with (
        open_engine(SETTINGS, actions=desk.actions) as engine,
        attached(engine, framing=ONE_TOPIC) as (connection, peer),
    ):
        peer.pending()
        reply = await connection.answer(text("subscribe", topic=TOPIC))
        assert (reply["type"], reply["id"]) == ("subscribed", 1)
        assert (await connection.answer(text("publish", topic=TOPIC, data=1)))["offset"] == 1
        assert (await connection.answer(text("request", action="wait", payload=2)))["data"] == msgspec.Raw(b'"done"')
        assert (await connection.answer(text("request", action="nosuch")))["code"] == "UNKNOWN_ACTION"
        assert (await connection.answer(text("unsubscribe", topic="room:b")))["code"] == "NOT_SUBSCRIBED"
        kinds = [push["type"] for push in peer.pending() if push["type"] != "ping"]
        assert kinds == ["message", "cursor"]


async def test_command_beside_the_wire_that_is_none_ends_nothing(desk, autojump_clock):
    """It may not even be of this client's own making."""
    async with open_engine(SETTINGS) as engine, attached(engine) as (connection, peer):
        with pytest.raises(CommandError, match="BAD_REQUEST"):
            await connection.answer(b"nonsense")
        assert peer.close_reason is None
        assert (await connection.answer(text("ping")))["type"] == "pong"


async def test_commands_beside_the_wire_are_limited_with_the_requests(desk, autojump_clock):
    """Together, so many may be under way."""
    async with open_engine(SETTINGS, actions=desk.actions) as engine, attached(engine) as (connection, peer):
        peer.send("request", action="wait", payload=1)
        await settle()
        codes: list = []

        async def ask() -> None:
            try:
                codes.append((await connection.answer(text("request", action="wait", payload=1)))["type"])
            except CommandError as error:
                codes.append(error.code)

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask)
        assert sorted(codes) == ["LIMIT_EXCEEDED"] * 3 + ["response"] * 2
        assert desk.most == 3
        await trio.sleep(5)
        assert (await connection.answer(text("ping")))["type"] == "pong"


async def test_connection_that_ends_takes_its_commands_with_it(desk, autojump_clock):
    """Who waits for the answer is told that there is no such connection any more."""
    async with open_engine(SETTINGS, actions=desk.actions) as engine, attached(engine) as (connection, _):
        codes: list = []

        async def ask() -> None:
            with pytest.raises(CommandError) as caught:
                await connection.answer(text("request", action="wait", payload=5))
            codes.append(caught.value.code)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await settle()
            connection.close(closing.FORBIDDEN)
        with pytest.raises(CommandError, match="CONNECTION_NOT_FOUND"):
            await connection.answer(text("ping"))
        assert (codes, desk.cancelled) == (["CONNECTION_NOT_FOUND"], 1)


async def test_connection_that_does_not_run_answers_nothing(autojump_clock):
    """As if it were not there."""
    from realtime.connection import Connection
    from realtime.testing import MemoryWire

    async with open_engine(SETTINGS) as engine:
        with pytest.raises(CommandError, match="CONNECTION_NOT_FOUND"):
            await Connection(engine, MemoryWire()).answer(text("ping"))


async def test_batch_beside_the_wire_that_is_cut_off_harms_nobody(autojump_clock):
    """Its connection ends while it waits; the hub must not find the outbox open again."""
    async with (
        open_engine(SETTINGS) as engine,
        attached(engine, buffer_bytes=10) as (connection, peer),
        engine.subscribe(TOPIC) as witness,
        trio.open_nursery() as nursery,
    ):
        await connection.answer(text("subscribe", topic=TOPIC))
        peer.stall()
        engine.ingress.messages += 10_000
        batch = [{"type": "publish", "id": 2, "topic": TOPIC, "data": 1}]

        async def ask() -> None:
            with pytest.raises(CommandError, match="CONNECTION_NOT_FOUND"):
                await connection.answer(text("batch", commands=batch))

        nursery.start_soon(ask)
        await settle()
        assert connection.outbox.corks == 1
        connection.close(closing.SHUTTING_DOWN)
        await settle()
        assert connection.outbox.corks == 1
        engine.ingress.messages -= 10_000
        await engine.publish(TOPIC, 2)
        assert (await anext(witness)).data == 2


async def test_batches_beside_the_wire_wait_for_each_other(autojump_clock):
    """While one of them is under way nothing leaves."""
    async with open_engine(SETTINGS) as engine, attached(engine) as (connection, peer), trio.open_nursery() as nursery:
        await connection.answer(text("subscribe", topic=TOPIC))
        await engine.publish(TOPIC, 1)
        await settle()
        peer.pending()
        engine.ingress.messages += 10_000
        batch = [{"type": "publish", "id": 2, "topic": TOPIC, "data": 2}]
        nursery.start_soon(connection.answer, text("batch", commands=batch))
        await settle()
        await connection.answer(text("batch", commands=[{"type": "ping", "id": 2}]))
        engine.hub.tell(TOPIC, "news", {"type": "news"})
        await settle()
        assert peer.pending() == []
        engine.ingress.messages -= 10_000
        engine.ingress.pass_on()
        await settle()
        assert [push["type"] for push in peer.pending()] == ["news", "message"]


# -- long replies ------------------------------------------------------------------------------------------------

LONG = Settings(
    dev=True,
    auto_subscribe=(),
    max_message_bytes=4 << 20,
    kinds={"room": {"presence": "none", "history_bytes": 8 << 20}},
)


async def test_one_long_reply_does_not_end_the_peer(autojump_clock):
    """The bound is on what waits for a peer that does not read, and nothing waited."""
    actions = Actions()
    actions.register("long", lambda: "x" * (MAX_CONTROL_BYTES + 1))
    async with open_engine(LONG, actions=actions) as engine, connect(engine) as peer:
        assert len((await peer.command("request", action="long"))["data"]) == MAX_CONTROL_BYTES + 1
        await engine.publish(TOPIC, "y" * (MAX_CONTROL_BYTES + 1))
        (message,) = (await peer.command("history", topic=TOPIC))["messages"]
        assert len(message["data"]) == MAX_CONTROL_BYTES + 1
        assert (await peer.command("ping"))["type"] == "pong"


async def test_page_of_history_is_cut_where_it_becomes_long(autojump_clock):
    """The next one goes on behind its last message, and nothing is left out."""
    async with open_engine(LONG) as engine, connect(engine) as peer:
        for _ in range(10):
            await engine.publish(TOPIC, "x" * 60_000)
        await engine.publish(TOPIC, "x" * (2 * MAX_PAGE_BYTES))
        pages: list[list[int]] = []
        after = None
        while not pages or pages[-1]:
            options = {} if after is None else {"after": after}
            page = await peer.command("history", topic=TOPIC, **options)
            pages.append([message["offset"] for message in page["messages"]])
            if pages[-1]:
                after = {"epoch": page["epoch"], "offset": pages[-1][-1]}
        assert pages == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10], [11], []]


async def test_batch_whose_replies_are_long_refuses_the_rest(autojump_clock):
    """Each with a reply of its own, in order; what was refused has not happened."""
    async with open_engine(LONG) as engine, connect(engine) as peer:
        await engine.publish(TOPIC, "x" * (MAX_BATCH_BYTES * 2 // 3))
        commands = [{"type": "history", "id": f"h{number}", "topic": TOPIC} for number in range(3)]
        commands += [{"type": "publish", "id": "p", "topic": TOPIC, "data": 1}, {"type": "nonsense", "id": "n"}]
        replies = (await peer.command("batch", commands=commands))["replies"]
        assert [(reply["id"], reply["type"], reply.get("code")) for reply in replies] == [
            ("h0", "history", None),
            ("h1", "history", None),
            ("h2", "error", "LIMIT_EXCEEDED"),
            ("p", "error", "LIMIT_EXCEEDED"),
            ("n", "error", "UNKNOWN_TYPE"),
        ]
        assert (await engine.broker.position(TOPIC)).offset == 1


async def test_long_batch_lets_others_run(autojump_clock):
    """A thousand commands that do not wait by themselves must not hold up a tick."""
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with open_engine(evolve(SETTINGS, command_rate=None)) as engine, attached(engine) as (connection, peer):
        commands = [{"type": "ping", "id": number} for number in range(1000)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(count_turns)
            await connection.receive(msgspec.json.encode({"type": "batch", "id": 1, "commands": commands}))
            nursery.cancel_scope.cancel()
        assert turns > 1000 // BATCH_SLICE // 2
        connection.quiet()
        assert len((await peer.receive_type("batch"))["replies"]) == 1000
