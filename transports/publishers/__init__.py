"""For back ends that are another process: publish to a server over its HTTP API, each message once.

`HttpPublisher` blocks; `AsyncHttpPublisher` does the same under Trio and asyncio. Both only move bytes:
`transports.publishers.calls` says what is asked and what an answer means, `transports.publishers.attempts` when to
ask again. Neither of those does any I/O.

A message goes out again when no answer came, and the answer may have been lost after the message had its place. So
every call has an idempotency key, the same in all its attempts, by which the server knows it again.
"""

from __future__ import annotations

from transports.publishers.calls import Outgoing, PublishError, Receipt
from transports.publishers.clients import AsyncHttpPublisher, HttpPublisher

__all__ = ["AsyncHttpPublisher", "HttpPublisher", "Outgoing", "PublishError", "Receipt"]
