"""Topics, the only routing word, and the kinds that say how each behaves.

A topic is ``kind:name`` (``room:lobby``, ``symbol:600519``) or the name of a kind that is configured
as bare (``global``). A kind is configured once and decides everything that does not differ from topic
to topic: who may join and publish, which names are valid, how much history is kept, what happens to
a subscriber that cannot keep up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from enum import StrEnum

from attrs import evolve, field, frozen, validators

from realtime.errors import CommandError, ErrorCode

__all__ = ["DEFAULT_KINDS", "Access", "Kind", "Kinds", "Mode", "Overflow", "PresenceBy", "PresenceMode"]

#: Long enough for any id in use, short enough that a table of topics stays small.
MAX_TOPIC_LENGTH = 256
#: Every command names its topic again; to remember the parsed ones saves a microsecond on each.
_REMEMBERED_TOPICS = 10_000


class Overflow(StrEnum):
    """What happens to a subscriber in mode ``all`` whose outbox is full."""

    DROP_OLDEST = "drop_oldest"
    DROP_NEWEST = "drop_newest"
    #: Keep only the newest message of each key.
    LATEST = "latest"
    DISCONNECT = "disconnect"
    #: Publishers to the topic wait, up to the kind's ``block_timeout_seconds``.
    BLOCK = "block"


class Mode(StrEnum):
    """How a subscription is delivered."""

    ALL = "all"
    #: The newest value of each key; a reader that falls behind skips, it never queues.
    LATEST = "latest"


class Access(StrEnum):
    """Who may do a thing on the topics of a kind."""

    ANYONE = "anyone"
    AUTHENTICATED = "authenticated"
    #: Only the topic's own user: the name of the topic is the user.
    OWNER = "owner"
    NOBODY = "nobody"

    def allows(self, user: str | None, name: str) -> bool:
        """Whether ``user`` (None: anonymous) may, on the topic called ``name``."""
        if self is Access.ANYONE:
            return True
        if self is Access.AUTHENTICATED:
            return user is not None
        return self is Access.OWNER and user is not None and user == name


class PresenceMode(StrEnum):
    """What subscribers are told of each other."""

    NONE = "none"
    #: Who comes and who goes, one by one as long as they are few.
    MEMBERS = "members"
    #: Only how many there are.
    COUNT = "count"


class PresenceBy(StrEnum):
    """What makes a member of its own."""

    #: A user, on however many connections. Each anonymous connection is a member by itself.
    USER = "user"
    CONNECTION = "connection"


@frozen(kw_only=True)
class Kind:
    """How the topics of one kind behave."""

    name: str = field(validator=validators.matches_re(r"[a-z][a-z0-9_]{0,31}"))
    #: A bare kind is itself its only topic.
    bare: bool = False
    #: What a name must match from end to end. The default leaves out white space, controls and
    #: everything that would need quoting in a URL or a log line.
    pattern: str = r"[A-Za-z0-9_.@+=\-][A-Za-z0-9_.@+=:\-]{0,199}"
    #: The code for a name that does not match.
    invalid_code: ErrorCode = ErrorCode.INVALID_TOPIC
    join: Access = Access.AUTHENTICATED
    publish: Access = Access.NOBODY
    #: Whether a topic has to be created before anybody joins it or publishes to it.
    must_exist: bool = False
    #: The code for a topic that was not created.
    missing_code: ErrorCode = ErrorCode.ROOM_NOT_FOUND
    #: Topics of this kind that one connection may have; None: only the connection's own limit counts.
    max_per_connection: int | None = field(default=None, validator=validators.optional(validators.gt(0)))
    mode: Mode = Mode.ALL
    #: What happens to a subscriber whose outbox is full.
    overflow: Overflow = Overflow.DROP_OLDEST
    #: Whether a message that says the same as the one before it of its key is left out, and counted.
    drop_duplicates: bool = False
    #: 100 messages bridge the seconds of a reconnect; 0 keeps none.
    history_messages: int = field(default=100, validator=[validators.ge(0), validators.le(1_000_000)])
    history_bytes: int = field(default=1 << 20, validator=validators.ge(0))
    history_age_seconds: float = field(default=300.0, validator=validators.gt(0))
    #: How long a publisher waits for a full subscriber where overflow is ``block``.
    block_timeout_seconds: float = field(default=5.0, validator=validators.gt(0))
    #: Nothing: each join costs a push to every subscriber, which a market of symbols has no use for.
    presence: PresenceMode = PresenceMode.NONE
    #: A second device is not a second person.
    presence_by: PresenceBy = PresenceBy.USER
    #: A page that is loaded again, or a phone that changes networks, is back within 3 seconds. More than an hour is
    #: not lingering.
    presence_linger_seconds: float = field(default=3.0, validator=[validators.ge(0), validators.le(3600)])
    #: More names than this nobody reads, and the pushes grow with the square of the members.
    presence_told_members: int = field(default=100, validator=validators.ge(0))
    #: Counted only where there is presence.
    max_members: int | None = field(default=None, validator=validators.optional(validators.gt(0)))
    _regex: re.Pattern[str] = field(init=False, repr=False, eq=False)

    @_regex.default
    def _compile(self) -> re.Pattern[str]:
        try:
            return re.compile(self.pattern)
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"pattern is not a regular expression: {error}") from None

    def check(self, name: str) -> None:
        """Raise `CommandError` unless ``name`` is valid for this kind."""
        if self._regex.fullmatch(name) is None:
            raise CommandError(self.invalid_code, f"not a valid {self.name} name: it must match {self.pattern}")


DEFAULT_KINDS = (
    Kind(name="room", publish=Access.AUTHENTICATED, presence=PresenceMode.MEMBERS),
    Kind(
        name="symbol",
        join=Access.ANYONE,
        pattern=r"[0-9]{6}",
        invalid_code=ErrorCode.INVALID_SYMBOL,
        drop_duplicates=True,
    ),
    Kind(name="user", join=Access.OWNER, history_messages=1000, history_age_seconds=3600.0),
    Kind(
        name="session",
        must_exist=True,
        missing_code=ErrorCode.SESSION_NOT_FOUND,
        history_messages=1000,
        history_age_seconds=3600.0,
    ),
    Kind(name="project"),
    Kind(name="agent"),
    Kind(name="global", bare=True),
    # The server places peers in these; nobody asks to join them.
    Kind(name="role", join=Access.NOBODY),
    Kind(name="connection", join=Access.NOBODY, history_messages=0),
)


class Kinds:
    """The configured kinds; finds the kind of a topic."""

    def __init__(self, kinds: Iterable[Kind] = DEFAULT_KINDS) -> None:
        self._kinds = {kind.name: kind for kind in kinds}
        #: What is said of a topic of none of them.
        self.none_such = "no such kind of topic; there are " + ", ".join(
            sorted(kind.name if kind.bare else f"{kind.name}:" for kind in self)
        )
        self._seen: dict[str, tuple[Kind, str]] = {}

    def __iter__(self) -> Iterator[Kind]:
        return iter(self._kinds.values())

    def with_options(self, name: str, **options: object) -> Kinds:
        """A copy in which kind ``name`` (made if it is new) has these options."""
        old = self._kinds.get(name)
        new = Kind(name=name, **options) if old is None else evolve(old, **options)  # type: ignore[arg-type]
        return Kinds([*(kind for kind in self if kind.name != name), new])

    def split(self, topic: str) -> tuple[Kind, str]:
        """The kind and the name of ``topic``; raises `CommandError` where it has none."""
        seen = self._seen.get(topic)
        if seen is None:
            seen = self._parse(topic)
            if len(self._seen) >= _REMEMBERED_TOPICS:
                self._seen.clear()
            self._seen[topic] = seen
        return seen

    def _parse(self, topic: str) -> tuple[Kind, str]:
        if len(topic) > MAX_TOPIC_LENGTH:
            raise CommandError(ErrorCode.INVALID_TOPIC, f"a topic has at most {MAX_TOPIC_LENGTH} characters")
        head, colon, name = topic.partition(":")
        kind = self._kinds.get(head)
        if kind is None or kind.bare == bool(colon):
            raise CommandError(ErrorCode.INVALID_TOPIC, self.none_such)
        if colon:
            kind.check(name)
        return kind, name
