"""How the server is, and what it offers: for probes, for monitoring, for tools that read descriptions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from realtime.activity import Activity
from realtime.asyncapi import asyncapi_document
from realtime.engine import Engine
from realtime.statistics import EngineStatistics
from transports.http.endpoints import Access, Answer, Endpoints
from transports.http.metrics import METRICS_MEDIA, metrics_text

__all__ = ["health"]

health = Endpoints()

HowMany = Annotated[int, Meta(ge=0, le=100)]


class Health(Struct, frozen=True):
    """The process lives."""

    status: Literal["ok"] = "ok"


class ActivityQuery(Struct, frozen=True):
    """How many of each."""

    topics: HowMany = 10
    connections: HowMany = 10


class Readiness(Struct, frozen=True):
    """Whether new work is welcome."""

    status: Literal["ready", "draining"]


@health.get("/healthz", access=Access.ANYONE)
async def read_health(engine: Engine) -> Health:  # noqa: ARG001
    """Tell that the process lives."""
    return Health()


@health.get("/readyz", access=Access.ANYONE, statuses=(200, 503))
async def read_readiness(engine: Engine) -> Answer[Readiness]:
    """Tell whether new work is welcome: 503 once a shutdown has begun."""
    return Answer(503, Readiness("draining")) if engine.draining else Answer(200, Readiness("ready"))


@health.get("/api/v1/stats")
async def read_statistics(engine: Engine) -> EngineStatistics:
    """Read everything that is counted."""
    return engine.statistics()


@health.get("/api/v1/activity")
async def read_activity(engine: Engine, query: ActivityQuery) -> Activity:
    """Read which topics are the busiest and which connections the slowest, as of the last second."""
    return await engine.activity.look(query.topics, query.connections)


@health.get("/metrics", media=METRICS_MEDIA)
async def read_metrics(engine: Engine) -> bytes:
    """Read everything that is counted, for Prometheus."""
    return metrics_text(engine)


@health.get("/asyncapi.json", access=Access.ANYONE)
async def read_asyncapi(engine: Engine) -> dict[str, Any]:
    """Read the AsyncAPI document: what can be said on a connection, and what is said there."""
    return asyncapi_document(engine.catalogue, kinds=engine.kinds, actions=engine.actions.describe())
