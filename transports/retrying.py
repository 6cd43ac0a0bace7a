"""When a server wants to be asked again, as a response says it."""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import parsedate_to_datetime

__all__ = ["retry_after"]


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds in ``Retry-After``, None where there are none; ``headers`` are looked up in lower case."""
    value = headers.get("retry-after", "")
    if value.isdecimal():
        return float(value)
    try:
        # A date is meant by the clock of who wrote it, and ours need not agree.
        wait = parsedate_to_datetime(value) - parsedate_to_datetime(headers["date"])
    except (KeyError, OverflowError, TypeError, ValueError):
        return None
    return max(0.0, wait.total_seconds())
