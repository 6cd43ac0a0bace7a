r"""The protocol state of one peer: text in, decision out. No I/O, no clock, no trio.

A session knows who the peer is, what state the conversation is in and what the peer is subscribed to,
and from that decides what to do with each command. It carries nothing out: `realtime.connection` does,
and tells the session what came of it.

The states::

    GREETING --login--> OPEN --close--> CLOSING
        \________________________________/

In GREETING only a login and pings are accepted; in CLOSING nothing is. Which commands a state accepts is the
table `_ACCEPTS`.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Any

from attrs import define, field, frozen
from msgspec import Raw

from realtime import messages
from realtime.auth import ANONYMOUS, Identity
from realtime.errors import CommandError, ErrorCode, ProtocolViolation
from realtime.json_depth import exceeds_depth
from realtime.messages import Command, decode_command
from realtime.subscription import Subscription
from realtime.topics import Kind, Kinds

__all__ = ["Accepted", "Refused", "Session", "State"]


class State(Enum):
    """Where the conversation stands."""

    GREETING = auto()
    OPEN = auto()
    CLOSING = auto()


_ALL = frozenset(messages.Command.__args__)
_ACCEPTS: dict[State, frozenset[type]] = {
    State.GREETING: frozenset({messages.Auth, messages.Ping}),
    State.OPEN: _ALL,
    State.CLOSING: frozenset(),
}
#: These name a topic that must be one the peer has.
_NEEDS_SUBSCRIPTION = frozenset({messages.Update, messages.Unsubscribe})


@frozen
class Accepted:
    """A command to carry out."""

    command: Command


@frozen
class Refused:
    """A command that is answered with an error."""

    id: int | str | None
    error: CommandError


@define
class Session:
    """See the module."""

    id: str
    kinds: Kinds
    max_topics: int
    identity: Identity = ANONYMOUS
    state: State = State.OPEN
    subscriptions: dict[str, Subscription] = field(factory=dict)
    #: Topics whose history is being read: nearly subscriptions.
    joining: set[str] = field(factory=set)
    #: Arrays and objects within each other in a command.
    max_depth: int = 64
    #: The one topic that the peer may name, if it came by a route.
    only: str | None = None

    def decide(self, text: bytes | memoryview) -> Accepted | Refused:
        """What to do with one message of the peer.

        Raises `realtime.errors.ProtocolViolation` for text that is no JSON object: the conversation is over.
        """
        try:
            command = decode_command(text)
        except CommandError as error:
            return Refused(error.command_id, error)
        if exceeds_depth(text, self.max_depth):
            deep = CommandError(ErrorCode.BAD_REQUEST, f"at most {self.max_depth} levels are nested")
            return Refused(command.id, deep)
        return self.judge(command)

    def decide_part(self, raw: Raw) -> Accepted | Refused:
        """What to do with one command of a batch. What would end the conversation by itself is refused here."""
        try:
            decision = self.decide(raw)
        except ProtocolViolation as violation:
            return Refused(None, CommandError(ErrorCode.BAD_REQUEST, violation.message))
        if isinstance(decision, Accepted) and isinstance(decision.command, messages.Batch | messages.Request):
            # A request takes its time, and the replies of a batch come together.
            error = CommandError(ErrorCode.BAD_REQUEST, "a batch must not hold a batch or a request")
            return Refused(decision.command.id, error)
        return decision

    def judge(self, command: Command) -> Accepted | Refused:
        """What to do with a decoded command."""
        try:
            self._check(command)
        except CommandError as error:
            return Refused(command.id, error)
        return Accepted(command)

    def join_refusal(self, topic: str, kind: Kind, *, placed: bool = False) -> CommandError | None:
        """Why the peer may not have this topic now."""
        theirs = [*self.subscriptions, *self.joining]
        if topic in theirs:
            return CommandError(ErrorCode.ALREADY_SUBSCRIBED, "already subscribed to this topic")
        if placed:  # the server does not count against the peer what it decides itself
            return None
        if len(theirs) >= self.max_topics:
            return CommandError(ErrorCode.LIMIT_EXCEEDED, f"a connection has at most {self.max_topics} topics")
        most = kind.max_per_connection
        if most is not None and sum(self.kinds.split(other)[0] is kind for other in theirs) >= most:
            return CommandError(ErrorCode.LIMIT_EXCEEDED, f"a connection has at most {most} topics of this kind")
        return None

    def _check(self, command: Command) -> None:
        if type(command) not in _ACCEPTS[self.state]:
            raise CommandError(ErrorCode.AUTH_REQUIRED, "log in first")
        topic = getattr(command, "topic", None)
        if topic is None:
            return
        self.kinds.split(topic)
        if self.only is not None and (topic != self.only or isinstance(command, messages.Unsubscribe)):
            # Nor may it leave: the connection is there for this topic, and ends with it.
            raise CommandError(ErrorCode.PERMISSION_DENIED, "this path leads to one topic only")
        if type(command) in _NEEDS_SUBSCRIPTION and topic not in self.subscriptions:
            raise CommandError(ErrorCode.NOT_SUBSCRIBED, "not subscribed to this topic")

    def describe(self) -> dict[str, Any]:
        """What the welcome says of this session."""
        return {"connection": self.id, "user": self.identity.user}
