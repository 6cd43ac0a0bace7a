"""Who the peer is. An `Authenticate` function turns a token into an `Identity`, or refuses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from attrs import field, frozen

__all__ = ["ANONYMOUS", "Authenticate", "Carrier", "Grant", "Identity", "Right", "Verb", "own_topics"]

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Verb(StrEnum):
    """What a peer may be allowed to do on a topic; the last one is about actions."""

    JOIN = "join"
    PUBLISH = "publish"
    #: To see who else is there.
    PRESENCE = "presence"
    #: To read what was published before.
    HISTORY = "history"
    REQUEST = "request"


class Right(StrEnum):
    """What a back end may be allowed to do, over the HTTP API and as a peer."""

    #: To every topic.
    PUBLISH = "publish"
    #: Every topic, its members and history, and what is counted.
    READ = "read"
    #: To log users in by `realtime.tickets`.
    TICKETS = "tickets"
    #: Everything, also what the others allow.
    ADMIN = "admin"


class Carrier(StrEnum):
    """How a token came."""

    HEADER = "header"
    COOKIE = "cookie"
    SUBPROTOCOL = "subprotocol"
    #: The command ``auth``.
    MESSAGE = "message"
    #: In a URL, where that is switched on.
    QUERY = "query"


@frozen
class Grant:
    """Topics that a token itself opens to its bearer."""

    #: A pattern of topics, in which a star is any text.
    topics: str
    verbs: frozenset[Verb]


@frozen
class Identity:
    """A peer's user; None for an anonymous one."""

    user: str | None = None
    #: Each brings the peer into the topic ``role:<name>``.
    roles: frozenset[str] = field(default=frozenset(), kw_only=True)
    #: What other members of a room may know of this one.
    info: Mapping[str, Any] = field(default=_NOTHING, hash=False, kw_only=True)
    #: Seconds of this login left when it was made; None: it does not expire.
    expires_in: float | None = None
    #: What else is known of the user, for rules that look at it.
    claims: Mapping[str, Any] = field(default=_NOTHING, hash=False, kw_only=True, repr=False)
    #: The topics that the login itself opens; None: it says nothing of topics.
    grants: tuple[Grant, ...] | None = field(default=None, kw_only=True)
    #: What the user may do beside the rules.
    rights: frozenset[Right] = field(default=frozenset(), kw_only=True)
    #: Names the token, so that it can be revoked.
    token_id: str | None = field(default=None, kw_only=True, repr=False)
    #: The name of the API key, where that is what has logged in.
    key: str | None = field(default=None, kw_only=True)
    #: When the token was made, in seconds of the Unix clock; None: not known.
    issued_at: float | None = field(default=None, kw_only=True)


ANONYMOUS = Identity()

#: From a token, and if it takes two arguments the way it came, to who its bearer is; plain or async. Raises
#: `realtime.errors.CommandError` (``AUTH_FAILED``, ``TOKEN_EXPIRED``) for a token that is no good.
Authenticate = Callable[..., Awaitable[Identity] | Identity]


def own_topics(templates: Iterable[str], identity: Identity) -> Iterator[tuple[str, bool]]:
    """The topics that a login brings, and of each whether it is the peer's own.

    With ``{user}`` or ``{role}`` filled in it is; any other is for those who may join it.
    """
    for template in templates:
        if "{user}" in template:
            if identity.user is not None:
                yield template.replace("{user}", identity.user), True
        elif "{role}" in template:
            yield from ((template.replace("{role}", role), True) for role in sorted(identity.roles))
        else:
            yield template, False
