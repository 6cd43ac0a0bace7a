"""Paths of one's own: each leads to one topic, in the words of the front end that comes that way.

::

    Route("/ws/batches/{session_id}", topic="session:{session_id}", transport="websocket", dialect=...)

A peer that comes by a route is subscribed on arrival, to this topic and to no other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from typing import Any

from attrs import field, frozen, validators

from realtime.dialect import Dialect

__all__ = ["Binding", "Route", "Routes", "Transport"]

_MEMBER = re.compile(r"\{([a-z_]+)\}")


class Transport(StrEnum):
    """What is spoken on a route."""

    WEBSOCKET = "websocket"
    SSE = "sse"
    #: A plain request, answered at once with what `Route.state` says.
    STATE = "state"


@frozen(kw_only=True)
class Route:
    """One path and what it leads to. A member in braces stands for one part of the path."""

    path: str = field(validator=validators.matches_re(r"/[^?#]*"))
    #: Named with the members of the path.
    topic: str
    transport: Transport = field(converter=Transport)
    #: None: the protocol's own words.
    dialect: Dialect | None = None
    #: In place of the setting of the same name. Messages of the topic count as activity here, as the peer only listens.
    idle_timeout_seconds: float | None = None
    #: In place of the setting of the same name.
    ping_interval_seconds: float | None = None
    #: For ``state``: a function, plain or async, from the topic to the answer. Raises `realtime.errors.CommandError`.
    state: Callable[[str], Any] | None = None
    _regex: re.Pattern[str] = field(init=False, repr=False, eq=False)

    @_regex.default
    def _compile(self) -> re.Pattern[str]:
        literal_and_names = _MEMBER.split(self.path)
        parts = [f"(?P<{part}>[^/]+)" if index % 2 else re.escape(part) for index, part in enumerate(literal_and_names)]
        return re.compile("".join(parts))

    def __attrs_post_init__(self) -> None:
        for text in (self.path, self.topic):
            if set("{}") & set(_MEMBER.sub("", text)):
                raise ValueError(f"{text!r} has braces that name no member")
        unknown = set(_MEMBER.findall(self.topic)) - set(_MEMBER.findall(self.path))
        if unknown:
            raise ValueError(f"the path of the route has no {{{unknown.pop()}}}")
        if (self.transport is Transport.STATE) != (self.state is not None):
            raise ValueError("`state` goes with the transport `state`, and only with it")

    def topic_of(self, path: str) -> str | None:
        """The topic that ``path`` leads to; None where this is not its route."""
        match = self._regex.fullmatch(path)
        return None if match is None else self.topic.format_map(match.groupdict())


@frozen
class Binding:
    """A route that was taken, and the topic it led to."""

    route: Route
    topic: str


class Routes:
    """The routes of one server; the first that fits is taken."""

    def __init__(self, routes: Iterable[Route] = ()) -> None:
        self._routes = list(routes)

    def __iter__(self) -> Iterator[Route]:
        return iter(self._routes)

    def add(self, route: Route) -> None:
        """Add a route behind the others."""
        self._routes.append(route)

    def find(self, path: str, transport: Transport) -> Binding | None:
        """Where ``path`` leads on this transport, if anywhere."""
        for route in self._routes:
            if route.transport is transport and (topic := route.topic_of(path)) is not None:
                return Binding(route, topic)
        return None
