"""The tables of ``stats`` and ``top``. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from realtime.cli.output import seen

__all__ = ["ActivityShown", "StatsShown", "activity_tables", "amount", "duration", "stats_table"]

_KILO = 1024
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
#: A queue that has waited so long belongs to somebody who does not keep up.
_SLOW_SECONDS = 1.0


class _Hub(TypedDict):
    topics: int
    subscriptions: int
    published: int
    delivered: int
    conflated: int
    filtered: int
    dropped: dict[str, int]
    gaps: dict[str, int]
    ingress_messages: int
    ingress_bytes: int


class _Presence(TypedDict):
    members: int


class _Action(TypedDict):
    name: str
    calls: int
    in_flight: int
    failed: int
    timed_out: int


class _Feed(TypedDict):
    name: str
    state: str
    restarts: int


class StatsShown(TypedDict):
    """What is shown of the statistics; there is more in them."""

    uptime_seconds: float
    connections: int
    transports: dict[str, int]
    users: int
    refused: dict[str, int]
    hub: _Hub
    presence: _Presence
    actions: list[_Action]
    feeds: list[_Feed]


class _Topic(TypedDict):
    topic: str
    subscribers: int
    messages_per_second: float
    deliveries_per_second: float


class _Connection(TypedDict):
    id: str
    user: str | None
    address: str
    transport: str
    subscriptions: int
    queue_messages: int
    queue_bytes: int
    queue_age: float
    idle_seconds: float


class ActivityShown(TypedDict):
    """The same of the activity."""

    seconds: float
    topics: list[_Topic]
    connections: list[_Connection]


def amount(count: float) -> str:
    """A number of bytes for people."""
    for unit in ("B", "KiB", "MiB"):
        if count < _KILO:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= _KILO
    return f"{count:.1f} GiB"


def duration(seconds: float) -> str:
    """A time for people, in its two largest units."""
    whole = int(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s"
    if whole < _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"
    return f"{whole // _DAY} d {whole % _DAY // _HOUR} h"


def stats_table(before: StatsShown | None, now: StatsShown, seconds: float, *, plain: bool) -> Table:
    """The counters of a server; their rates too, where it is the same server that was looked at ``before``."""
    table = _table("", ">count", ">per second", plain=plain)
    same = before is not None and seconds > 0 and before["uptime_seconds"] < now["uptime_seconds"]
    rates = before if same else None

    def add(name: str, *path: str) -> None:
        value = _at(now, path)
        rate = "" if rates is None else f"{(value - _at(rates, path)) / seconds:,.1f}"
        table.add_row(name, f"{value:,}", rate)

    hub = now["hub"]
    transports = ", ".join(f"{name} {count:,}" for name, count in sorted(now["transports"].items()))
    table.add_row("up for", duration(now["uptime_seconds"]), "")
    table.add_row("connections", f"{now['connections']:,}", escape(transports))
    table.add_row("users", f"{now['users']:,}", "")
    table.add_row("topics, subscriptions", f"{hub['topics']:,}, {hub['subscriptions']:,}", "")
    table.add_row("members present", f"{now['presence']['members']:,}", "")
    add("published", "hub", "published")
    add("delivered", "hub", "delivered")
    add("conflated", "hub", "conflated")
    add("filtered", "hub", "filtered")
    for reason in sorted(hub["dropped"]):
        add(f"dropped: {reason}", "hub", "dropped", reason)
    for reason in sorted(hub["gaps"]):
        add(f"gaps told: {reason}", "hub", "gaps", reason)
    for reason in sorted(now["refused"]):
        add(f"refused: {reason}", "refused", reason)
    table.add_row("waiting to be routed", f"{hub['ingress_messages']:,}", amount(hub["ingress_bytes"]))
    for action in now["actions"]:
        failed = action["failed"] + action["timed_out"]
        told = f"{action['in_flight']:,} under way, {failed:,} failed"
        table.add_row(f"action {escape(action['name'])}", f"{action['calls']:,}", told)
    for feed in now["feeds"]:
        table.add_row(f"feed {escape(feed['name'])}", escape(feed["state"]), f"{feed['restarts']:,} restarts")
    return table


def activity_tables(before: object, now: ActivityShown, seconds: float, *, plain: bool) -> RenderableType:  # noqa: ARG001
    """The busiest topics and the slowest connections; the server has counted the rates itself."""
    topics = _table("topic", ">subscribers", ">messages/s", ">deliveries/s", plain=plain)
    for each in now["topics"]:
        topics.add_row(
            _text(each["topic"]),
            f"{each['subscribers']:,}",
            f"{each['messages_per_second']:,.1f}",
            f"{each['deliveries_per_second']:,.1f}",
        )
    of_connections = ("connection", "user", "address", "by", ">topics", ">queue", ">bytes", ">behind", ">idle")
    connections = _table(*of_connections, plain=plain)
    for peer in now["connections"]:
        behind = peer["queue_age"]
        connections.add_row(
            _text(peer["id"]),
            _text(peer["user"] or "-"),
            _text(peer["address"]),
            _text(peer["transport"]),
            f"{peer['subscriptions']:,}",
            f"{peer['queue_messages']:,}",
            amount(peer["queue_bytes"]),
            f"{behind:.1f} s",
            duration(peer["idle_seconds"]),
            style="red" if behind >= _SLOW_SECONDS else None,
        )
    quiet = "" if now["topics"] else "no topic that is listened to is busy"
    return Group(topics, *([quiet] if quiet else []), "", connections)


def _text(text: str) -> str:
    """What a peer has chosen, so that it is neither markup nor a word to the terminal."""
    return escape(seen(text))


def _at(value: Mapping[str, object], path: tuple[str, ...]) -> int:
    found: Any = value
    for name in path:
        found = found.get(name, 0)  # a reason that there was not yet
    return int(found)


def _table(*columns: str, plain: bool) -> Table:
    """A table with these columns; ``>`` is for numbers. Plain ones have no lines."""
    table = Table(box=None if plain else box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name.removeprefix(">"), justify="right" if name.startswith(">") else "left", no_wrap=True)
    return table
