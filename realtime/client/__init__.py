"""A client of a realtime server, for programs on Trio: what they subscribe to outlives connections.

::

    async with connect("https://rt.example.com") as client:
        async with client.subscribe("room:lobby", recover=Last(10)) as messages:
            async for item in messages:
                ...
"""

from __future__ import annotations

from realtime.client.client import Client, open_client
from realtime.client.connecting import connect
from realtime.client.failures import ClientFailed, LoginRefused, SentAway, TokenUnavailable, Unreachable
from realtime.client.reading import Messages
from realtime.client.standing import Change, ClientState, ClientStatistics, HistoryPage, TopicProgress
from realtime.client.tokens import TokenReason
from realtime.client.words import Last, Presence
from realtime.local import Lost, Message

__all__ = [
    "Change",
    "Client",
    "ClientFailed",
    "ClientState",
    "ClientStatistics",
    "HistoryPage",
    "Last",
    "LoginRefused",
    "Lost",
    "Message",
    "Messages",
    "Presence",
    "SentAway",
    "TokenReason",
    "TokenUnavailable",
    "TopicProgress",
    "Unreachable",
    "connect",
    "open_client",
]
