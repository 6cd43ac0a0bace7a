"""The metrics are the counters, in Prometheus' words."""

from __future__ import annotations

import attrs
import httpx
import trio
import trio.testing
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from realtime import Settings
from realtime.engine import Engine, EngineStatistics, open_engine
from realtime.feeds import Feeds
from realtime.requests import Actions
from realtime.testing import connect
from tests.peers import open_websocket
from tests.transports.conftest import running
from transports.http.metrics import EngineCollector, metrics_text


def samples(text: bytes) -> dict[str, float]:
    """The value of each sample, by its name with its labels."""
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        assert family.name.startswith("realtime_")
        assert family.documentation.endswith(".")
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sample.labels.items())
            found[f"{sample.name.removeprefix('realtime_')}{{{labels}}}".replace("{}", "")] = sample.value
    return found


async def test_scrape_tells_what_has_happened() -> None:
    """Connections by transport, messages by what became of them, over the port."""
    async with running() as server, httpx.AsyncClient(base_url=server.url) as client:
        async with open_websocket(server.address[1]) as peer:
            await peer.command("subscribe", topic="room:a", fields=["x"])
            await server.publish("room:a", {"x": 1})
            await server.publish("room:a", {"y": 1})
            await peer.receive_type("message")
            response = await client.get("/metrics")
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        found = samples(response.content)
    assert found['connections{transport="websocket"}'] == 1
    assert (found["published_total"], found["delivered_total"], found["filtered_total"]) == (2, 1, 1)


async def test_losses_refusals_sessions_actions_and_feeds_have_labels(autojump_clock: object) -> None:
    """Each by what tells it apart."""
    actions, feeds = Actions(), Feeds()

    @actions.handler("add")
    async def add(payload: int) -> int:
        return payload + 1

    @feeds.feed()
    async def ticks(server: Engine) -> None:
        await server.publish("symbol:600519", {"price": 1})

    settings = Settings(dev=True, outbox_messages=1)
    async with open_engine(settings, actions=actions, feeds=feeds) as engine, connect(engine) as peer:
        engine.refuse("origin")
        await peer.command("request", action="add", payload=1)
        await peer.command("subscribe", topic="room:a")
        peer.wire.stalled = True
        for number in range(100):
            await engine.publish("room:a", "x" * 2000 + str(number))
        await trio.testing.wait_all_tasks_blocked()
        engine.progress.create("s")
        await engine.progress.fail("s")
        found = samples(metrics_text(engine))
    assert found['refused_total{reason="origin"}'] == 1
    assert found['dropped_total{reason="slow_consumer"}'] > 0
    assert found['sessions_ended_total{status="failed"}'] == 1
    assert found['action_calls_total{action="add"}'] == 1
    assert found['action_in_flight{action="add"}'] == 0
    assert any(name.startswith("feed_restarts{feed=") for name in found)


async def test_every_counter_has_its_metric() -> None:
    """A counter that is added to the statistics is added here, or this fails."""
    async with open_engine(Settings()) as engine:
        facts = engine.statistics()
        names = {name.partition("{")[0].removesuffix("_total") for name in samples(metrics_text(engine))}
        empty = {"connections", "refused", "dropped", "gaps"}  # labelled, and nothing has happened yet
    renamed = {
        "presence.topics": "presence_topics",
        "presence.members": "presence_members",
        "presence.joins": "presence_joins",
        "presence.leaves": "presence_leaves",
        "progress.running": "sessions_running",
        "progress.kept": "sessions_kept",
        "progress.created": "sessions_created",
        "progress.ended": "sessions_ended",
        "progress.events": "session_events",
        "audit": "audit_events",
    }
    counters = {
        renamed.get(f"{part}.{counter.name}", counter.name)
        for part in ("hub", "presence", "progress")
        for counter in attrs.fields(type(getattr(facts, part)))
    }
    nested = {"hub", "presence", "progress", "actions", "feeds", "transports"}
    own = {counter.name for counter in attrs.fields(EngineStatistics)} - nested
    counters |= {renamed.get(name, name) for name in own}
    assert counters - empty <= names


def test_collector_is_registered_before_the_engine_runs() -> None:
    """A registry that wants to know the names does not make it count."""
    CollectorRegistry(auto_describe=True).register(EngineCollector(Engine(Settings())))


async def test_collector_serves_in_a_registry_of_ones_own() -> None:
    """For a program that exports its own metrics beside ours."""
    registry = CollectorRegistry(auto_describe=True)
    async with open_engine(Settings()) as engine:
        registry.register(EngineCollector(engine))
        await engine.publish("room:a", 1)
        await trio.testing.wait_all_tasks_blocked()
        assert registry.get_sample_value("realtime_published_total") == 1
