"""Realtime messages for Python: structured concurrency on Trio, one hub, WebSocket and Server-Sent Events.

The public names. `realtime.server` runs a whole server, `realtime.testing` is the test kit.
"""

from __future__ import annotations

from realtime.auth import Identity
from realtime.breaker import CircuitBreaker
from realtime.broker import Broker, Draft, MemoryBroker
from realtime.config import Settings, load_settings
from realtime.engine import Engine, open_engine
from realtime.errors import CommandError, ConfigurationError, ErrorCode, RealtimeError
from realtime.events import Broadcaster, Event, EventCatalogue
from realtime.feeds import Feeds
from realtime.history import Position, Since
from realtime.idempotency import Receipt
from realtime.local import LocalSubscription, Lost, Message
from realtime.requests import Actions, Caller
from realtime.routes import Route
from realtime.topics import Access, Kind, Mode, Overflow, PresenceBy, PresenceMode

__version__ = "0.1.0"

__all__ = [
    "Access",
    "Actions",
    "Broadcaster",
    "Broker",
    "Caller",
    "CircuitBreaker",
    "CommandError",
    "ConfigurationError",
    "Draft",
    "Engine",
    "ErrorCode",
    "Event",
    "EventCatalogue",
    "Feeds",
    "Identity",
    "Kind",
    "LocalSubscription",
    "Lost",
    "MemoryBroker",
    "Message",
    "Mode",
    "Overflow",
    "Position",
    "PresenceBy",
    "PresenceMode",
    "RealtimeError",
    "Receipt",
    "Route",
    "Settings",
    "Since",
    "__version__",
    "load_settings",
    "open_engine",
]
