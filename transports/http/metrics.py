"""The counters in the words of Prometheus, put together when somebody asks.

Nothing is counted twice, and nothing on the hot path: a scrape reads what ``GET /api/v1/stats`` reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from realtime.engine import Engine
from realtime.statistics import EngineStatistics

__all__ = ["METRICS_MEDIA", "EngineCollector", "metrics_text"]

METRICS_MEDIA = CONTENT_TYPE_PLAIN_0_0_4


class EngineCollector(Collector):
    """The metrics of one engine, for a registry of one's own that is scraped in the engine's thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def describe(self) -> Iterable[Metric]:
        """Nothing: a registry would collect to learn the names, and the engine need not run yet."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """The metrics now."""
        facts = self._engine.statistics()
        yield from _connections(facts)
        yield from _messages(facts)
        yield from _work(facts)


def metrics_text(engine: Engine) -> bytes:
    """What a scrape is answered."""
    registry = CollectorRegistry()
    registry.register(EngineCollector(engine))
    return generate_latest(registry)


def _connections(facts: EngineStatistics) -> Iterator[Metric]:
    yield _gauge("uptime_seconds", "Seconds since the start.", facts.uptime_seconds)
    yield _gauges("connections", "Live connections.", "transport", facts.transports)
    yield _gauge("users", "Users with at least one connection.", facts.users)
    yield _counters("refused", "Requests and peers that were turned away.", "reason", facts.refused)
    yield _counters("audit_events", "What the audit log was told.", "sort", facts.audit)
    yield _counter("tickets_issued", "Tickets that were issued.", facts.tickets_issued)
    yield _counter("tickets_redeemed", "Tickets that were taken for a login.", facts.tickets_redeemed)
    yield _counter("tickets_refused", "Tickets that were shown and no good.", facts.tickets_refused)
    yield _counter("revoked", "Tokens and users that were revoked.", facts.revoked)
    yield _counter("revoked_refused", "Logins that were refused as revoked.", facts.revoked_refused)
    yield _gauge("presence_topics", "Topics that have members.", facts.presence.topics)
    yield _gauge("presence_members", "Members of topics, each in each topic; also who lingers.", facts.presence.members)
    yield _counter("presence_joins", "Joins that were told, a moment later.", facts.presence.joins)
    yield _counter("presence_leaves", "Leaves that were told, a moment or a linger later.", facts.presence.leaves)


def _messages(facts: EngineStatistics) -> Iterator[Metric]:
    hub = facts.hub
    yield _gauge("topics", "Topics with subscribers.", hub.topics)
    yield _gauge("subscriptions", "Subscriptions.", hub.subscriptions)
    yield _counter("created_topics", "Topics created by request.", facts.created_topics)
    yield _counter("removed_topics", "Topics removed by request.", facts.removed_topics)
    yield _counter("published", "Messages published.", hub.published)
    yield _counter("duplicates", "Publishes that brought nothing new.", facts.duplicates)
    yield _counter("delivered", "Messages handed to a subscriber's wire.", hub.delivered)
    yield _counters("dropped", "Messages that a subscriber lost.", "reason", hub.dropped)
    yield _counters("gaps", "How often a subscriber was told that messages are missing.", "reason", hub.gaps)
    yield _counter("conflated", "Messages in whose place a newer one was kept.", hub.conflated)
    yield _counter("filtered", "Messages that a subscriber asked not to get.", hub.filtered)
    yield _gauge("ingress_messages", "Messages that wait for the hub.", hub.ingress_messages)
    yield _gauge("ingress_bytes", "Bytes that wait for the hub.", hub.ingress_bytes)
    yield _counter("ingress_waits", "How often a publisher had to wait for the hub.", hub.ingress_waits)
    yield _gauge("held_topics", "Topics held back by a subscriber that must not lose anything.", hub.held_topics)


def _work(facts: EngineStatistics) -> Iterator[Metric]:
    progress = facts.progress
    yield _gauge("sessions_running", "Progress sessions that run.", progress.running)
    yield _gauge("sessions_kept", "Progress sessions that ended and can still be read.", progress.kept)
    yield _counter("sessions_created", "Progress sessions started.", progress.created)
    yield _counters("sessions_ended", "Progress sessions ended.", "status", progress.ended)
    yield _counter("session_events", "Events published by progress sessions.", progress.events)
    actions = {action.name: action for action in facts.actions}
    for name, doc in (
        ("calls", "Calls of an action."),
        ("failed", "Calls that a bug has ended."),
        ("timed_out", "Calls that were not done in time."),
        ("refused", "Calls answered with an error."),
    ):
        counts = {action: getattr(counted, name) for action, counted in actions.items()}
        yield _counters(f"action_{name}", doc, "action", counts)
    in_flight = {name: counted.in_flight for name, counted in actions.items()}
    yield _gauges("action_in_flight", "Calls under way.", "action", in_flight)
    restarts: dict[str, int] = {}
    for feed in facts.feeds:  # a lazy one stands there once for each topic
        restarts[feed.name] = restarts.get(feed.name, 0) + feed.restarts
    yield _gauges("feed_restarts", "Restarts of a feed, in all its present work.", "feed", restarts)


def _gauge(name: str, doc: str, value: float) -> Metric:
    return GaugeMetricFamily(f"realtime_{name}", doc, value=value)


def _counter(name: str, doc: str, value: float) -> Metric:
    return CounterMetricFamily(f"realtime_{name}", doc, value=value)


def _gauges(name: str, doc: str, label: str, values: Mapping[Any, float]) -> Metric:
    return _labelled(GaugeMetricFamily(f"realtime_{name}", doc, labels=[label]), values)


def _counters(name: str, doc: str, label: str, values: Mapping[Any, float]) -> Metric:
    return _labelled(CounterMetricFamily(f"realtime_{name}", doc, labels=[label]), values)


def _labelled(family: GaugeMetricFamily | CounterMetricFamily, values: Mapping[Any, float]) -> Metric:
    for value, count in values.items():
        family.add_metric([str(value)], count)
    return family
