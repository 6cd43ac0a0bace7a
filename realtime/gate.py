"""Whether a peer may do a thing: the rules, and a function of the user's own.

Who has the right to read or to publish, as back ends do, may do so everywhere: the HTTP API asks no more either. For
all others, what a rule denies is denied, and somebody else's own topic is out of reach. In everything else the function
goes first, and where it has no opinion the rules decide.

A decision is made once for each peer, verb and topic. It holds until the peer logs in anew or the rules change, so a
message on a topic costs a look into a table.
"""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Awaitable, Callable

import structlog
import trio

from realtime.auth import Identity, Right, Verb
from realtime.errors import CommandError, ErrorCode
from realtime.permissions import Decision, Policy
from realtime.topics import Access

__all__ = ["Authorize", "Denied", "Gate", "Permits", "Stale"]

log = structlog.get_logger("realtime")

#: A function of the user's own, plain or async: may this peer do this, on this topic (for `Verb.REQUEST`: with this
#: action)? None: the rules decide.
Authorize = Callable[[Identity, Verb, str], bool | Awaitable[bool | None] | None]

#: The rights that open each verb on all topics, and all actions.
_OPENS = {
    Verb.JOIN: frozenset({Right.READ, Right.ADMIN}),
    Verb.PRESENCE: frozenset({Right.READ, Right.ADMIN}),
    Verb.HISTORY: frozenset({Right.READ, Right.ADMIN}),
    Verb.PUBLISH: frozenset({Right.PUBLISH, Right.ADMIN}),
    Verb.REQUEST: frozenset({Right.ADMIN}),
}

#: Decisions that are kept for one peer: of each topic that it may have by default, and of some that it asks about.
_REMEMBERED = 1000


class Denied(CommandError):
    """A peer may not do a thing. The peer is told no more than that; the rest is for the audit log."""

    def __init__(self, user: str | None, verb: Verb, target: str) -> None:
        super().__init__(
            ErrorCode.PERMISSION_DENIED, f"not allowed on this {'action' if verb is Verb.REQUEST else 'topic'}"
        )
        self.user = user
        self.verb = verb
        #: A topic, or for `Verb.REQUEST` an action.
        self.asked = target


class Stale(CommandError):
    """What was decided does not hold any more, and it would take a wait to decide anew."""

    def __init__(self) -> None:
        super().__init__(ErrorCode.UNAVAILABLE, "permissions have changed meanwhile, ask again", retry_after=1.0)


class Gate:
    """The rules of one server, and the function of its own."""

    def __init__(self, policy: Policy, authorize: Authorize | None, *, timeout_seconds: float) -> None:
        self.policy = policy
        self._authorize = authorize
        self._timeout = timeout_seconds
        #: Grows when decisions that were made do not hold any more.
        self.generation = 0

    @property
    def asks(self) -> bool:
        """Whether a decision may have to be waited for."""
        return self._authorize is not None

    def change(self, policy: Policy | None = None) -> None:
        """From now on every decision is made anew, by these rules if there are new ones."""
        self.policy = policy or self.policy
        self.generation += 1

    def decide_now(self, identity: Identity, verb: Verb, target: str, allow: Access | None = None) -> Decision:
        """What the rules say; ``target`` is a topic, or for `Verb.REQUEST` an action, and ``allow`` its own option."""
        if identity.rights and (opening := identity.rights & _OPENS[verb]):
            return Decision(allowed=True, because=f"the right {min(opening).value}", final=True)
        if verb is Verb.REQUEST:
            return self.policy.decide_action(identity, target, allow)
        return self.policy.decide(identity, verb, target)

    async def decide(self, identity: Identity, verb: Verb, target: str, allow: Access | None = None) -> bool:
        """The same, with the function of one's own asked where the rules leave room for it.

        Raises `CommandError` where it does not answer.
        """
        decision = self.decide_now(identity, verb, target, allow)
        if self._authorize is None or decision.final:
            return decision.allowed
        answer = await self._ask(self._authorize, identity, verb, target)
        return decision.allowed if answer is None else answer

    async def _ask(self, authorize: Authorize, identity: Identity, verb: Verb, target: str) -> bool | None:
        answer = None
        try:
            with trio.move_on_after(self._timeout) as scope:
                answer = authorize(identity, verb, target)
                if inspect.isawaitable(answer):
                    answer = await answer
        except CommandError:
            raise
        except Exception:  # a bug in a function that is not ours: who does not know lets nobody in
            log.exception("authorize failed", verb=verb.value, trace_id=secrets.token_hex(8))
            raise CommandError(ErrorCode.INTERNAL_ERROR, "the server failed to decide this") from None
        if scope.cancelled_caught:
            log.warning("authorize took too long", verb=verb.value)
            raise CommandError(ErrorCode.UNAVAILABLE, "permissions cannot be asked for now", retry_after=1.0)
        return None if answer is None else bool(answer)


class Permits:
    """What one peer may do, as far as it was asked."""

    __slots__ = ("_gate", "_generation", "_identity", "_known")

    def __init__(self, gate: Gate, identity: Identity) -> None:
        self._gate = gate
        self._generation = gate.generation
        self._identity = identity
        self._known: dict[tuple[Verb, str], bool] | None = None

    def renew(self, identity: Identity) -> None:
        """The peer has logged in: nothing that was decided holds any more."""
        self._identity = identity
        self._known = None

    def known(self, verb: Verb, target: str) -> bool | None:
        """What was decided and still holds; None where it would have to be decided."""
        if self._generation != self._gate.generation:
            self._generation = self._gate.generation
            self._known = None
        return None if self._known is None else self._known.get((verb, target))

    @property
    def stamp(self) -> object:
        """The same as long as what was decided holds."""
        return self._gate.generation, self._identity

    def now(self, verb: Verb, target: str, allow: Access | None = None) -> bool | None:
        """What holds at this moment; None where somebody would have to be asked."""
        known = self.known(verb, target)
        if known is not None:
            return known
        decision = self._gate.decide_now(self._identity, verb, target, allow)
        return decision.allowed if decision.final or not self._gate.asks else None

    def recheck(self, verb: Verb, target: str, allow: Access | None = None) -> None:
        """Raise `CommandError` unless what was allowed before a wait is allowed after it."""
        allowed = self.now(verb, target, allow)
        if allowed is None:
            raise Stale
        if not allowed:
            raise Denied(self._identity.user, verb, target)

    async def may(self, verb: Verb, target: str, allow: Access | None = None) -> bool:
        """Whether the peer may. Raises `CommandError` where the function of one's own does not answer."""
        while (answer := self.known(verb, target)) is None:
            generation, identity = self._gate.generation, self._identity
            decided = await self._gate.decide(identity, verb, target, allow)
            if generation == self._gate.generation and identity is self._identity:
                self._remember(verb, target, allowed=decided)
                return decided
        return answer

    async def check(self, verb: Verb, target: str, allow: Access | None = None) -> None:
        """Raise `CommandError` unless the peer may."""
        if not await self.may(verb, target, allow):
            if allow is Access.AUTHENTICATED and self._identity.user is None:
                raise CommandError(ErrorCode.AUTH_REQUIRED, "log in first")
            raise Denied(self._identity.user, verb, target)

    def _remember(self, verb: Verb, target: str, *, allowed: bool) -> None:
        if self._known is None or len(self._known) >= _REMEMBERED:
            self._known = {}
        self._known[verb, target] = allowed
