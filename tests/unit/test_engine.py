"""The engine's own business: statistics, refusals, a broker of one's own."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from realtime import CommandError, EventCatalogue, MemoryBroker, Settings, open_engine
from realtime.engine import Engine
from realtime.testing import connect
from realtime.topics import Kinds

settle = trio.testing.wait_all_tasks_blocked


async def test_statistics_count_everything(autojump_clock):
    """Connections by transport, topics, deliveries; also of subscribers that have gone."""
    async with open_engine(Settings(dev=True)) as engine, connect(engine) as peer:
        await peer.command("subscribe", topic="room:a", fields=["x"])
        async with engine.subscribe("room:a") as messages:
            await engine.publish("room:a", {"x": 1})
            await engine.publish("room:a", {"y": 1})
            await settle()
            assert [(await anext(messages)).offset for _ in range(2)] == [1, 2]
            topic = engine.hub.topic_statistics("room:a")
            assert (topic.subscribers, topic.delivered, topic.filtered) == (2, 3, 1)
        engine.refuse("origin")
        engine.refuse("origin")
        await trio.sleep(10)
        statistics = engine.statistics()
        assert (statistics.connections, statistics.transports, statistics.refused) == (1, {"memory": 1}, {"origin": 2})
        assert statistics.uptime_seconds == pytest.approx(10)
        hub = statistics.hub
        assert (hub.topics, hub.subscriptions, hub.published, hub.delivered, hub.filtered) == (1, 1, 2, 3, 1)
        assert (hub.ingress_messages, hub.ingress_bytes, hub.held_topics, hub.dropped) == (0, 0, 0, {})
        assert engine.hub.topic_statistics("room:b") is None
        peer.hang_up()
        await peer.wait_closed()
        assert engine.statistics().hub.delivered == 3
        assert engine.hub.topic_statistics("room:a") is None


async def test_broker_that_is_given_is_used(autojump_clock):
    """Also while it knows no topics."""
    broker = MemoryBroker(Kinds(), now_ms=lambda: 42)
    async with open_engine(Settings(dev=True), broker=broker) as engine, engine.subscribe("room:a") as messages:
        await engine.publish("room:a", 1)
        assert (await anext(messages)).time == 42
        assert len(broker) == 1


async def test_subscription_of_an_invalid_topic_is_refused_at_once(autojump_clock):
    """Before the block is entered."""
    async with open_engine() as engine:
        with pytest.raises(CommandError, match="INVALID_TOPIC"):
            engine.subscribe("nosuch:a")


async def test_engine_that_has_ended_refuses_to_publish(autojump_clock):
    """Nobody would hear it."""
    async with open_engine() as engine:
        pass
    with pytest.raises(CommandError, match="UNAVAILABLE"):
        await engine.publish("global", 1)


async def test_broadcast_tells_what_became_of_each_topic(autojump_clock):
    """One that is refused does not keep the others from theirs."""
    async with open_engine(Settings(dev=True)) as engine:
        found = await engine.broadcast(["room:a", "nosuch:a", "session:a", "room:b"], 1, event="e", key="k")
        told = [str(one.code) if isinstance(one, CommandError) else one.offset for one in found]
        assert told == [1, "INVALID_TOPIC", "SESSION_NOT_FOUND", 1]
        (message,) = (await engine.broker.browse("room:b", None, 10)).publications
        assert (message.event, message.key) == ("e", "k")


async def test_idempotency_is_bounded_by_the_settings(autojump_clock):
    """In time and in number."""
    options = Settings(dev=True, idempotency_keys=1, idempotency_seconds=10.0)
    async with open_engine(options) as engine:
        for key in "aab":
            await engine.publish("room:a", 1, idempotency_key=key)
        assert engine.statistics().duplicates == 1
        assert (await engine.publish("room:a", 1, idempotency_key="a")).offset == 3
        await trio.sleep(11)
        assert (await engine.publish("room:a", 1, idempotency_key="a")).offset == 4


async def test_thread_publishes_through_the_engine():
    """Which knows where it runs, as soon as it does."""
    engine = Engine(Settings(dev=True))
    with pytest.raises(CommandError, match="UNAVAILABLE"):
        engine.publish_from_thread("room:a", 1)
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        receipt = await trio.to_thread.run_sync(engine.publish_from_thread, "room:a", 1)
        assert receipt.offset == 1
        nursery.cancel_scope.cancel()


async def test_thread_runs_a_function_of_the_loop():
    """Blocking the thread and not the loop; errors come back to it."""
    async with open_engine(Settings()) as engine:
        engine.progress.create("s", total_nodes=1)

        def work() -> str:
            engine.from_thread(
                engine.progress.notify_progress, "s", {"type": "task_completed", "data": {"node_id": "n"}}
            )
            with pytest.raises(CommandError, match="SESSION_NOT_FOUND"):
                engine.from_thread(engine.progress.complete, "nosuch")
            return engine.from_thread(engine.progress.complete, "s").status

        assert await trio.to_thread.run_sync(work) == "completed"
    with pytest.raises(CommandError, match="UNAVAILABLE"):
        Engine(Settings()).from_thread(trio.sleep, 0)


async def test_closed_catalogue_lets_sessions_tell_their_own_events(autojump_clock):
    """They are checked already, and nobody else may use their names."""
    async with open_engine(Settings(), catalogue=EventCatalogue(closed=True)) as engine:
        engine.progress.create("s")
        assert (await engine.progress.complete("s")).status == "completed"
        with pytest.raises(CommandError, match="no such event"):
            await engine.publish("session:s", {}, event="session_completed")
