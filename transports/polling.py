"""``GET /poll``: long polling, for networks that let nothing else through. What a poll is, see `realtime.polling`."""

from __future__ import annotations

from realtime.errors import CommandError, ErrorCode
from realtime.polling import Poll
from transports.events import parse_wishes

__all__ = ["parse_poll"]

#: Longer than this no proxy waits, and a server that stops would have to.
MAX_SECONDS = 60.0
DEFAULT_SECONDS = 25.0
DEFAULT_LIMIT = 100
MAX_LIMIT = 1000


def parse_poll(query: list[tuple[str, str]]) -> Poll:
    """The poll that a request's parameters ask for; raises `CommandError`."""
    wishes, cursor = parse_wishes(query)
    given = dict(reversed(query))  # of a parameter that is there twice the first counts, as elsewhere
    seconds = _number(given, "timeout", DEFAULT_SECONDS, MAX_SECONDS)
    limit = int(_number(given, "limit", DEFAULT_LIMIT, MAX_LIMIT))
    if limit < 1:
        raise CommandError(ErrorCode.BAD_REQUEST, "`limit` is at least 1")
    return Poll(wishes, cursor, seconds, limit)


def _number(given: dict[str, str], name: str, default: float, most: float) -> float:
    """A parameter that is a number; more than the most is the most."""
    try:
        value = float(given.get(name, default))
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise CommandError(ErrorCode.BAD_REQUEST, f"`{name}` is a number and not negative")
    return min(value, most)
