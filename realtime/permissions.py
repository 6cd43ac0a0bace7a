"""Permissions: who may do what on which topic, and because of what. A pure decision over values; nothing here waits.

What decides, the first that has something to say:

1. A rule that denies, and applies.
2. A kind whose access is ``owner``: its topics are their owners' only, whatever rules and tokens say.
3. A rule that allows, and applies.
4. The topics that the login itself brought (`realtime.auth.Grant`).
5. The access of the kind, where the operator set it; where there are no rules and the login names no topics, also
   where nobody did.

What nothing allows is denied. Actions are decided alike, by rules and by what their handlers say of themselves.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, Literal

from attrs import Attribute, Factory, field, fields, frozen

from realtime.auth import Grant, Identity, Verb
from realtime.errors import CommandError, ConfigurationError
from realtime.patterns import Pieces, fits, has_claim, pieces_of
from realtime.topics import MAX_TOPIC_LENGTH, Access, Kind, Kinds

__all__ = ["Decision", "Policy", "Rule"]

_NO_CLAIMS: Mapping[str, str | int | bool] = MappingProxyType({})
#: The members of a rule that say to whom it applies.
_WHOM = ("users", "roles", "claims")
_star = re.compile(r"(\*)")


def _text(_rule: object, attribute: Attribute[Any], value: object) -> None:
    if not isinstance(value, str) or not value:
        raise _wrong(attribute.name, value, "must be a text")


def _texts(_rule: object, attribute: Attribute[Any], value: object) -> None:
    if not isinstance(value, tuple) or not all(isinstance(text, str) and text for text in value):
        raise _wrong(attribute.name, value, "must be a list of texts")


def _verbs(_rule: object, attribute: Attribute[Any], value: object) -> None:
    if not isinstance(value, frozenset) or not all(isinstance(verb, Verb) for verb in value):
        raise _wrong(attribute.name, value, f"must be a list of {', '.join(Verb)}")


def _topics(_rule: object, _attribute: object, value: tuple[str, ...]) -> None:
    _check_patterns("topics", value)


def _actions(_rule: object, _attribute: object, value: tuple[str, ...]) -> None:
    _check_patterns("actions", value)


def _check_patterns(member: str, patterns: Iterable[str]) -> None:
    for pattern in patterns:
        try:
            pieces_of(pattern)
        except ValueError as error:
            raise _wrong(member, pattern, str(error)) from None


def _claims(_rule: object, _attribute: object, value: object) -> None:
    if not isinstance(value, Mapping):
        raise _wrong("claims", value, "must be a table")
    for path, wanted in value.items():
        if not isinstance(wanted, str | int):
            raise _wrong(f"claims.{path}", wanted, "must be a text, a whole number, true or false")


def _wrong(member: str, value: object, fault: str) -> ConfigurationError:
    return ConfigurationError(f"{member} = {list(value) if isinstance(value, tuple) else value!r}: {fault}")


@frozen(kw_only=True)
class Rule:
    """Allows or denies some verbs, on some topics or actions, to some users.

    In ``topics`` a pattern is a kind and a name, ``room:desk-*``; a star is any text, and ``*`` alone every topic. In
    the name, ``{user}``, ``{role}`` and ``{claims.<path>}`` stand for what the user has: any one of them where there
    are several, and nothing at all where there is none. In ``actions`` it is a name with the like in it.
    """

    name: str = field(validator=_text)
    topics: tuple[str, ...] = field(default=(), validator=[_texts, _topics])
    #: Either this or `deny`.
    allow: frozenset[Verb] = field(default=frozenset(), validator=_verbs)
    deny: frozenset[Verb] = field(default=frozenset(), validator=_verbs)
    #: What the verb ``request`` is about.
    actions: tuple[str, ...] = field(default=(), validator=[_texts, _actions])
    #: To whom it applies: one of the users, any of the roles, each of the claims; what is empty asks for nothing.
    users: tuple[str, ...] = field(default=(), validator=_texts)
    roles: tuple[str, ...] = field(default=(), validator=_texts)
    #: By its path, ``org.plan``. A claim that is a list must hold the value.
    claims: Mapping[str, str | int | bool] = field(default=_NO_CLAIMS, validator=_claims, hash=False)
    #: What is allowed is so for those who have logged in; what is denied, for everybody.
    who: Literal["anyone", "authenticated"] = field(
        default=Factory(lambda self: "anyone" if self.deny else "authenticated", takes_self=True)
    )

    def __attrs_post_init__(self) -> None:
        if self.who not in ("anyone", "authenticated"):
            raise _wrong("who", self.who, "must be one of anyone, authenticated")
        if bool(self.allow) == bool(self.deny):
            raise ConfigurationError("allow, deny: one of them must be given, and not both")
        # A rule that can never apply is a mistake; one that was to deny, a dangerous one.
        verbs = self.allow | self.deny
        about_topics = verbs - {Verb.REQUEST}
        if self.actions and Verb.REQUEST not in verbs:
            raise _wrong("actions", self.actions, 'with actions only the verb "request" goes')
        if self.topics and not about_topics:
            raise _wrong("topics", self.topics, 'with topics any verb goes but "request"')
        if about_topics and not self.topics:
            raise ConfigurationError(f"topics: none are named, and {min(about_topics)} is about topics")
        if Verb.REQUEST in verbs and not self.actions:
            raise ConfigurationError("actions: none are named, and request is about actions")

    @classmethod
    def of(cls, table: object, number: int) -> Rule:
        """The rule in the table ``[[rules]]`` of this number. Raises `ConfigurationError`."""
        place = f"rules[{number}]"
        if not isinstance(table, Mapping):
            raise _wrong(place, table, "must be a table")
        options: dict[str, Any] = {"name": f"rule {number}"}
        if isinstance(table.get("name"), str):
            place = f'{place} "{table["name"]}"'
        known = [attribute.name for attribute in fields(cls)]
        for member, value in table.items():
            if member not in known:
                raise ConfigurationError(f"{place}: {member}: no such member; there are {', '.join(sorted(known))}")
            if isinstance(value, list | tuple | Mapping) and not value:
                # A list that somebody, or a program, has emptied must not open the rule to everybody.
                otherwise = "leave it out for everybody" if member in _WHOM else "leave it out"
                raise ConfigurationError(f"{place}: {member}: is empty; {otherwise}, or remove the rule")
            options[member] = value
            if isinstance(value, list):
                options[member] = tuple(value)
                if member in {"allow", "deny"}:
                    with suppress(ValueError):
                        options[member] = frozenset(map(Verb, value))
        try:
            return cls(**options)
        except ConfigurationError as error:
            raise ConfigurationError(f"{place}: {error}") from None

    @property
    def label(self) -> str:
        """What a human knows it by."""
        return self.name if self.name.startswith("rule ") else f'rule "{self.name}"'

    def applies_to(self, identity: Identity) -> bool:
        """Whether this user is one whom the rule is about."""
        if identity.user is None and self.who != "anyone":
            return False
        if self.users and identity.user not in self.users:
            return False
        if self.roles and identity.roles.isdisjoint(self.roles):
            return False
        for path, wanted in self.claims.items():  # noqa: SIM110 - half the time of all()
            if not has_claim(identity, path, wanted):
                return False
        return True


@frozen
class Decision:
    """Whether a thing is allowed, and what decided."""

    allowed: bool
    #: Words for a human: of the operator, not of the peer.
    because: str
    #: Whether no function of the user's own may say otherwise.
    final: bool = field(default=False, eq=False)


_UNSAID = Decision(allowed=False, because="nothing allows it")
_TOKEN = Decision(allowed=True, because="the token")


@frozen
class _Clause:
    """What one rule says of the topics of one kind, or of actions."""

    rule: Rule
    decision: Decision
    #: Whole names, and how names may begin: what most patterns are, and found at once.
    names: frozenset[str]
    beginnings: tuple[str, ...]
    patterns: tuple[Pieces, ...]

    @classmethod
    def of(cls, rule: Rule, patterns: Iterable[Pieces]) -> _Clause:
        names, beginnings, others = set(), [], []
        for pieces in patterns:
            match pieces:
                case ():
                    names.add("")
                case (str(name),):
                    names.add(name)
                case (None,):
                    beginnings.append("")
                case (str(beginning), None):
                    beginnings.append(beginning)
                case _:
                    others.append(pieces)
        decision = Decision(bool(rule.allow), rule.label, final=bool(rule.deny))
        return cls(rule, decision, frozenset(names), tuple(beginnings), tuple(others))

    def holds(self, identity: Identity, name: str) -> bool:
        """Whether it has something to say."""
        return self._covers(identity, name) and self.rule.applies_to(identity)

    def _covers(self, identity: Identity, name: str) -> bool:
        if name in self.names or name.startswith(self.beginnings):
            return True
        for pieces in self.patterns:  # noqa: SIM110 - half the time of any()
            if fits(pieces, name, identity):
                return True
        return False


@frozen
class _Own:
    """What decides about one verb on the topics of one kind."""

    access: Access
    #: Whether the operator chose that access.
    explicit: bool
    #: Whether somebody else's topic is out of the reach of rules and tokens.
    private: bool
    open: Decision
    closed: Decision
    denying: tuple[_Clause, ...]
    allowing: tuple[_Clause, ...]


class Policy:
    """The rules over the kinds. It never changes: another policy is another object."""

    def __init__(self, kinds: Kinds, rules: Iterable[Rule] = (), explicit: Collection[tuple[str, str]] = ()) -> None:
        """``explicit`` has the pairs of a kind and ``join`` or ``publish`` whose access the operator set."""
        self._kinds = kinds
        self._rules = tuple(rules)
        for rule in self._rules:
            for pattern in rule.topics:
                _check(kinds, rule, pattern)
        self._own: dict[Verb, dict[str, _Own]] = {
            verb: {kind.name: self._compile(verb, kind, explicit) for kind in kinds}
            for verb in Verb
            if verb is not Verb.REQUEST
        }
        clauses = [_Clause.of(rule, [pieces_of(text) for text in rule.actions]) for rule in self._rules]
        self._denying = tuple(clause for clause in clauses if Verb.REQUEST in clause.rule.deny)
        self._allowing = tuple(clause for clause in clauses if Verb.REQUEST in clause.rule.allow)

    def decide(self, identity: Identity, verb: Verb, topic: str) -> Decision:
        """Whether this user may do that on the topic. Raises `CommandError` where it is not a topic."""
        kind, name = self._kinds.split(topic)
        own = self._own[verb][kind.name]
        for clause in own.denying:
            if clause.holds(identity, name):
                return clause.decision
        if own.access is Access.OWNER:
            if own.access.allows(identity.user, name):
                return Decision(allowed=True, because=f"the owner of {topic}")
            return own.closed
        if not own.private or Access.OWNER.allows(identity.user, name):
            for clause in own.allowing:
                if clause.holds(identity, name):
                    return clause.decision
            if identity.grants and _is_granted(identity.grants, verb, kind, name):
                return _TOKEN
        if own.explicit or (not self._rules and identity.grants is None):
            return own.open if own.access.allows(identity.user, name) else own.closed
        return _UNSAID

    def decide_action(self, identity: Identity, action: str, allow: Access | None) -> Decision:
        """Whether this user may request the action, whose handler says ``allow`` of itself, or None: nothing."""
        for clause in (*self._denying, *self._allowing):
            if clause.holds(identity, action):
                return clause.decision
        if allow is None:
            if self._rules or identity.grants is not None:
                return _UNSAID
            allow = Access.ANYONE
        return Decision(allow.allows(identity.user, ""), f"the action: allow = {allow}")

    def explain(self, identity: Identity, topic: str) -> list[tuple[Verb, Decision]]:
        """What is decided for each verb that is about topics. Raises `CommandError` where it is not a topic."""
        return [(verb, self.decide(identity, verb, topic)) for verb in self._own]

    def _compile(self, verb: Verb, kind: Kind, explicit: Collection[tuple[str, str]]) -> _Own:
        option, access = _option(kind, verb)
        because = f"kind {kind.name}: {option} = {access}"
        clauses = [
            _Clause.of(rule, patterns)
            for rule in self._rules
            if verb in rule.allow | rule.deny
            and (patterns := [pieces_of(name) for text in rule.topics if (name := _name(text, kind)) is not None])
        ]
        return _Own(
            access,
            explicit=(kind.name, option) in explicit,
            private=kind.join is Access.OWNER,
            open=Decision(allowed=True, because=because),
            closed=Decision(allowed=False, because=because, final=access is Access.OWNER),
            denying=tuple(clause for clause in clauses if clause.rule.deny),
            allowing=tuple(clause for clause in clauses if clause.rule.allow),
        )


def _check(kinds: Kinds, rule: Rule, pattern: str) -> None:
    """Raise `ConfigurationError` for a pattern of no topic, and for one that the rule can never open."""
    if pattern == "*":
        return
    fault = None
    kind = next((kind for kind in kinds if _name(pattern, kind) is not None), None)
    opened = rule.allow - {Verb.REQUEST}
    if kind is None:
        fault = _no_kind(kinds, pattern)
    elif opened and all(_option(kind, verb)[1] is Access.OWNER for verb in opened):
        fault = f"only its owner {'publishes' if opened == {Verb.PUBLISH} else 'joins'}; no rule opens it"
    elif not any(character in pattern for character in "*{"):
        try:
            kinds.split(pattern)
        except CommandError as error:
            fault = error.message
    if fault:
        raise ConfigurationError(f"{rule.label}: topics: {pattern!r}: {fault}")


def _no_kind(kinds: Kinds, pattern: str) -> str:
    head = pattern.partition(":")[0]
    fault = kinds.none_such
    try:
        Kind(name=head)
    except ValueError:  # none can have this name
        return fault
    if head in {kind.name for kind in kinds}:
        return fault
    return f"{fault}; for one of your own add a table [kinds.{head}]"


def _option(kind: Kind, verb: Verb) -> tuple[str, Access]:
    """Which option of a kind is about the verb, and what it is."""
    return ("publish", kind.publish) if verb is Verb.PUBLISH else ("join", kind.join)


def _name(pattern: str, kind: Kind) -> str | None:
    """The part of a pattern of topics that is about names; None if it is about another kind."""
    if pattern == "*":
        # Every topic, but for those that nobody asks to join: other people's connections are among them.
        return None if kind.join is Access.NOBODY else pattern
    head, colon, name = pattern.partition(":")
    return name if head == kind.name and kind.bare != bool(colon) else None


def _is_granted(grants: Iterable[Grant], verb: Verb, kind: Kind, name: str) -> bool:
    for grant in grants:
        # A longer pattern may be nothing but stars, and is of no use for topics that are shorter.
        if verb in grant.verbs and len(grant.topics) <= MAX_TOPIC_LENGTH:
            pattern = _name(grant.topics, kind)
            if pattern is not None and fits([part if part != "*" else None for part in _star.split(pattern)], name):
                return True
    return False
