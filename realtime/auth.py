"""Who the peer is. An `Authenticate` function turns a token into an `Identity`, or refuses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any

from attrs import field, frozen

from realtime.topics import Kinds

__all__ = ["ANONYMOUS", "Authenticate", "Identity", "own_topics"]


@frozen
class Identity:
    """A peer's user; None for an anonymous one."""

    user: str | None = None
    #: Each brings the peer into the topic ``role:<name>``.
    roles: frozenset[str] = field(default=frozenset(), kw_only=True)
    #: What other members of a room may know of this one.
    info: Mapping[str, Any] = field(factory=dict, hash=False, kw_only=True)
    #: Seconds of this login left when it was made; None: it does not expire.
    expires_in: float | None = None


ANONYMOUS = Identity()

#: Raises `realtime.errors.CommandError` (``AUTH_FAILED``, ``TOKEN_EXPIRED``) for a token that is no good.
Authenticate = Callable[[str], Awaitable[Identity]]


def own_topics(templates: Iterable[str], identity: Identity, kinds: Kinds) -> Iterator[str]:
    """The topics that a login brings: with ``{user}`` and ``{role}`` filled in, and others that are open to it."""
    for template in templates:
        if "{user}" in template:
            if identity.user is not None:
                yield template.replace("{user}", identity.user)
        elif "{role}" in template:
            yield from (template.replace("{role}", role) for role in sorted(identity.roles))
        else:
            kind, name = kinds.split(template)
            if kind.join.allows(identity.user, name):
                yield template
