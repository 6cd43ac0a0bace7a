"""The endpoints of the HTTP API."""

from __future__ import annotations

from transports.http.api.health import health
from transports.http.api.logins import logins
from transports.http.api.peers import peers
from transports.http.api.publishing import publishing
from transports.http.api.sessions import sessions
from transports.http.api.topics import topics

__all__ = ["API"]

API = (*publishing, *topics, *peers, *logins, *sessions, *health)
