"""Whatever stands in a table of rules, it is a policy or refused; whoever asks for whatever, a policy decides."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from realtime.auth import Grant, Identity, Verb
from realtime.config import load_settings
from realtime.errors import CommandError, ConfigurationError, ErrorCode
from realtime.permissions import Policy, Rule
from realtime.topics import Access, Kinds
from tests.fuzz.test_parsers import corpus, json_like, mutated

TOPIC_VERBS = sorted(frozenset(Verb) - {Verb.REQUEST})
#: Two kinds whose names may be any text.
KINDS = Kinds().with_options("any", pattern="(?s).*").with_options("user", pattern="(?s).*")

toml = st.recursive(
    st.one_of(st.text(max_size=8), st.integers(), st.floats(), st.booleans(), st.dates(), st.times(), st.datetimes()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
words = st.sampled_from([*"*ab78:", "{user}", "{role}", "{claims.a}", "{claims.a.b}"])
#: Each of them good.
patterns = st.one_of(
    st.builds("{}:{}{}".format, st.sampled_from(["any", "user"]), words, st.lists(words, max_size=6).map("".join)),
    st.sampled_from(["*", "global", "room:*", "symbol:6*", "role:*"]),
)
#: Few of them.
scraps = st.lists(words | st.sampled_from(["{", "}", "{claims.}", "{{user}}", "any:", "rooms:", "\0"])).map("".join)
texts = st.lists(st.sampled_from(["7", "8", "a", "b", "trader"]), max_size=2)
named = st.lists(st.sampled_from(["7", "8", "a", "b", "trader"]), min_size=1, max_size=2)


def _rule(effect: str, verbs: list[Verb], table: dict[str, Any]) -> dict[str, Any]:
    """A table that is a rule: one that names an owner's topics cannot open them, only let others publish there."""
    if effect == "allow" and any(pattern.startswith("user:") for pattern in table["topics"]):
        verbs = [*verbs, Verb.PUBLISH]
    return {effect: verbs, **table}


#: Each of them a rule.
likely = st.builds(
    _rule,
    st.sampled_from(["allow", "allow", "deny"]),
    st.lists(st.sampled_from(TOPIC_VERBS), min_size=1, max_size=2),
    st.fixed_dictionaries(
        {"topics": st.lists(patterns, min_size=1, max_size=3)},
        optional={
            "users": named,
            "roles": named,
            "claims": st.dictionaries(
                st.sampled_from(["a", "a.b"]), st.integers(0, 2) | st.booleans(), min_size=1, max_size=1
            ),
            "who": st.sampled_from(["anyone", "authenticated"]),
        },
    ),
)
#: Mostly none.
unlikely = st.dictionaries(
    st.sampled_from(["name", "topics", "allow", "deny", "actions", "users", "roles", "claims", "who", "topic"]),
    st.one_of(toml, texts, st.lists(patterns | scraps), st.lists(st.sampled_from([*Verb, "fly"]))),
    max_size=6,
)
identities = st.builds(
    Identity,
    st.none() | st.sampled_from(["7", "a"]) | st.text(max_size=4),
    roles=texts.map(frozenset),
    claims=st.dictionaries(st.sampled_from(["a", "c", "a.b"]), json_like, max_size=2),
    grants=st.none()
    | st.lists(
        st.builds(Grant, patterns | scraps, st.sets(st.sampled_from(list(Verb))).map(frozenset)), max_size=3
    ).map(tuple),
)
topics = st.one_of(
    st.builds("{}:{}".format, st.sampled_from(["any", "room", "user", "role"]), st.text("ab78{}*:.", max_size=6)),
    st.sampled_from(["global", "any:", ":", "any:" + "a" * 252]),
    st.text(max_size=300),
)


def policy_of(tables: list[Any]) -> Policy | None:
    """The policy of these rules; None where one of them is refused, in words that can be printed."""
    try:
        return Policy(KINDS, [Rule.of(table, number) for number, table in enumerate(tables, 1)])
    except ConfigurationError as error:
        str(error).encode()
        return None


def ask(policy: Policy, identity: Identity, topic: str) -> dict[Verb, bool]:
    """What is decided for each verb; nothing for what is not a topic."""
    allowed = {}
    for verb in TOPIC_VERBS:
        try:
            decision = policy.decide(identity, verb, topic)
        except CommandError as error:
            assert error.code in (ErrorCode.INVALID_TOPIC, ErrorCode.INVALID_SYMBOL)
        else:
            assert decision.because
            allowed[verb] = decision.allowed
    for access in (None, *Access):
        assert policy.decide_action(identity, topic, access).because
    return allowed


def check_file(text: bytes, identity: Identity, topic: str) -> None:
    """Read rules as a server does, and use what was read."""
    try:
        values = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        return
    try:
        settings = load_settings(environ={}, rules=values.get("rules", ()))
    except ConfigurationError as error:
        str(error).encode()
        return
    ask(settings.policy(settings.all_kinds()), identity, topic)


@pytest.mark.parametrize("text", corpus("rules"))
@pytest.mark.parametrize("topic", ["room:desk-1", "room:" + "a" * 190, "user:8", "global"])
def test_rules_of_the_corpus_are_read_or_refused(text, topic):
    """Good ones, and some of which each is wrong in a way of its own."""
    check_file(text, Identity("7", roles=frozenset({"trader"}), claims={"plan": "pro", "org": {"desk": "1"}}), topic)


@given(mutated(corpus("rules")), identities, topics)
def test_any_file_of_rules_is_read_or_refused(text, identity, topic):
    """Nothing but `ConfigurationError` comes out of it, and nothing but `CommandError` of a policy."""
    check_file(text, identity, topic)


@given(st.lists(st.one_of(likely, unlikely, toml), max_size=3), identities, topics)
def test_any_tables_are_rules_or_refused(tables, identity, topic):
    """The same, for what no file can hold."""
    policy = policy_of(tables)
    if policy is not None:
        ask(policy, identity, topic)


@given(st.lists(likely, max_size=4), identities, st.sampled_from(["7", "8", "a", "*", "{user}"]))
def test_topic_of_a_user_is_never_another_users(tables, identity, owner):
    """Whatever rules and tokens say."""
    policy = policy_of(tables)
    assume(identity.user != owner)
    assert not any(ask(policy, identity, f"user:{owner}").values())


@given(st.lists(likely, min_size=1, max_size=4), likely, identities, topics)
def test_rule_more_only_does_what_it_says(tables, table, identity, topic):
    """One that denies opens nothing, and one that allows closes nothing, wherever among the others it stands."""
    before, after, first = policy_of(tables), policy_of([*tables, table]), policy_of([table, *tables])
    had, has = ask(before, identity, topic), ask(after, identity, topic)
    assert has == ask(first, identity, topic)
    for verb, allowed in has.items():
        if verb in table.get("allow", ()):
            assert allowed >= had[verb]
        elif verb in table.get("deny", ()):
            assert allowed <= had[verb]
        else:
            assert allowed == had[verb]
