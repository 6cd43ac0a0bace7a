"""Permissions: which rule, grant or kind decides, what patterns match, and which rules are refused."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.auth import ANONYMOUS, Grant, Identity, Verb
from realtime.errors import CommandError, ConfigurationError
from realtime.patterns import MAX_VALUES
from realtime.permissions import Decision, Policy, Rule
from realtime.topics import MAX_TOPIC_LENGTH, Access, Kind, Kinds

JOIN = frozenset({Verb.JOIN})
REQUEST = frozenset({Verb.REQUEST})
TOPIC_VERBS = frozenset(Verb) - REQUEST
EVERYTHING = frozenset(Verb)
SEVEN = Identity("7", roles=frozenset({"trader"}), claims={"plan": "pro", "org": {"desk": ["a", "b"], "seats": 3}})
#: Kinds whose names may be any text, so that nothing but the pattern decides.
ANY_NAME = Kinds().with_options("room", pattern="(?s).*")


SYMBOL = next(kind for kind in Kinds() if kind.name == "symbol")
NO_SUCH_KIND = "no such kind of topic; there are global, news:, room:, symbol:"


def allows(*topics: str, name: str = "x", verbs: frozenset[Verb] = JOIN, **options) -> Rule:
    return Rule(name=name, topics=topics, allow=verbs, **options)


def denies(*topics: str, name: str = "no", verbs: frozenset[Verb] = JOIN, **options) -> Rule:
    return Rule(name=name, topics=topics, deny=verbs, **options)


def is_open(rule: Rule, topic: str, identity: Identity = SEVEN, kinds: Kinds = ANY_NAME) -> bool:
    """Whether the rule alone lets the user join."""
    return Policy(kinds, [rule]).decide(identity, Verb.JOIN, topic).allowed


# What decides.


@pytest.mark.parametrize("verb", sorted(TOPIC_VERBS))
@pytest.mark.parametrize("identity", [ANONYMOUS, SEVEN])
@pytest.mark.parametrize("topic", ["room:a", "symbol:600519", "user:7", "user:8", "global", "role:trader"])
def test_without_rules_the_kinds_decide(verb, identity, topic):
    """Who may join may also see who is there and what was published."""
    kinds = Kinds()
    kind, name = kinds.split(topic)
    access = kind.publish if verb is Verb.PUBLISH else kind.join
    assert Policy(kinds).decide(identity, verb, topic).allowed is access.allows(identity.user, name)


OPEN_ROOM = allows("room:a", name="open")
GRANTED = Identity("7", grants=(Grant("room:desk-*", JOIN), Grant("*", frozenset({Verb.HISTORY}))))


@pytest.mark.parametrize(
    ("rules", "explicit", "identity", "verb", "topic", "allowed", "because"),
    [
        ([], (), SEVEN, "join", "room:a", True, "kind room: join = authenticated"),
        ([], (), ANONYMOUS, "join", "room:a", False, "kind room: join = authenticated"),
        ([], (), SEVEN, "history", "room:a", True, "kind room: join = authenticated"),
        ([], (), SEVEN, "publish", "global", False, "kind global: publish = nobody"),
        ([], (), SEVEN, "presence", "user:7", True, "the owner of user:7"),
        ([], (), SEVEN, "join", "user:8", False, "kind user: join = owner"),
        # A rule closes what it does not open.
        ([OPEN_ROOM], (), SEVEN, "join", "room:a", True, 'rule "open"'),
        ([OPEN_ROOM], (), SEVEN, "publish", "room:a", False, "nothing allows it"),
        ([OPEN_ROOM], (), SEVEN, "join", "room:b", False, "nothing allows it"),
        ([OPEN_ROOM], (), SEVEN, "join", "user:7", True, "the owner of user:7"),
        # Unless the operator said so, of that option of that kind.
        ([OPEN_ROOM], {("room", "join")}, SEVEN, "join", "room:b", True, "kind room: join = authenticated"),
        ([OPEN_ROOM], {("room", "join")}, SEVEN, "presence", "room:b", True, "kind room: join = authenticated"),
        ([OPEN_ROOM], {("room", "join")}, ANONYMOUS, "join", "room:b", False, "kind room: join = authenticated"),
        ([OPEN_ROOM], {("room", "join")}, SEVEN, "publish", "room:b", False, "nothing allows it"),
        ([OPEN_ROOM], {("room", "publish")}, SEVEN, "publish", "room:b", True, "kind room: publish = authenticated"),
        # A deny wins over rules, owners, tokens and kinds, in whichever order they stand.
        ([OPEN_ROOM, denies("*")], (), SEVEN, "join", "room:a", False, 'rule "no"'),
        ([denies("user:*")], (), SEVEN, "join", "user:7", False, 'rule "no"'),
        ([denies("room:*")], (), GRANTED, "join", "room:desk-1", False, 'rule "no"'),
        ([denies("room:*")], {("room", "join")}, SEVEN, "join", "room:a", False, 'rule "no"'),
        ([denies("room:*", roles=("x",)), OPEN_ROOM], (), SEVEN, "join", "room:a", True, 'rule "open"'),
        (
            [denies("room:*", verbs=frozenset({Verb.PUBLISH})), OPEN_ROOM],
            (),
            SEVEN,
            "join",
            "room:a",
            True,
            'rule "open"',
        ),
        # Nobody is let into what is somebody else's.
        ([allows("*", verbs=TOPIC_VERBS)], (), SEVEN, "join", "user:8", False, "kind user: join = owner"),
        ([allows("*", verbs=TOPIC_VERBS)], (), SEVEN, "history", "user:8", False, "kind user: join = owner"),
        ([allows("*", verbs=TOPIC_VERBS)], (), SEVEN, "publish", "user:8", False, "nothing allows it"),
        ([allows("*", verbs=TOPIC_VERBS)], (), SEVEN, "publish", "user:7", True, 'rule "x"'),
        ([], (), GRANTED, "history", "user:8", False, "kind user: join = owner"),
        # `nobody` is the word of the kind alone.
        ([allows("role:{role}")], (), SEVEN, "join", "role:trader", True, 'rule "x"'),
        # The login's own topics are all that it opens.
        ([], (), GRANTED, "join", "room:desk-1", True, "the token"),
        ([], (), GRANTED, "publish", "room:desk-1", False, "nothing allows it"),
        ([], (), GRANTED, "join", "room:a", False, "nothing allows it"),
        ([], (), GRANTED, "history", "global", True, "the token"),
        ([], (), GRANTED, "join", "user:7", True, "the owner of user:7"),
        ([], (), Identity("7", grants=()), "join", "room:a", False, "nothing allows it"),
        ([], {("room", "join")}, Identity("7", grants=()), "join", "room:a", True, "kind room: join = authenticated"),
        ([OPEN_ROOM], (), GRANTED, "join", "room:a", True, 'rule "open"'),
        ([OPEN_ROOM], (), GRANTED, "join", "room:desk-1", True, "the token"),
        ([allows("room:a", name="rule 3")], (), SEVEN, "join", "room:a", True, "rule 3"),
    ],
)
def test_first_that_has_a_say_decides(rules, explicit, identity, verb, topic, allowed, because):
    decision = Policy(Kinds(), rules, explicit).decide(identity, Verb(verb), topic)
    assert decision == Decision(allowed, because)


def test_owner_of_what_all_may_read_is_the_only_one_to_publish():
    """No rule gives that away, and the kind needs nobody to say so again."""
    kinds = Kinds().with_options("blog", join=Access.ANYONE, publish=Access.OWNER)
    policy = Policy(kinds, [allows("*", verbs=TOPIC_VERBS)])
    assert policy.decide(SEVEN, Verb.PUBLISH, "blog:7").allowed
    assert policy.decide(SEVEN, Verb.PUBLISH, "blog:8") == Decision(False, "kind blog: publish = owner")
    assert policy.decide(SEVEN, Verb.JOIN, "blog:8").allowed


def test_what_is_no_topic_is_refused():
    with pytest.raises(CommandError) as caught:
        Policy(Kinds()).decide(SEVEN, Verb.JOIN, "symbol:x")
    assert caught.value.code == "INVALID_SYMBOL"


@pytest.mark.parametrize(
    ("rules", "identity", "action", "allow", "allowed", "because"),
    [
        ([], ANONYMOUS, "quote", None, True, "the action: allow = anyone"),
        ([], ANONYMOUS, "quote", Access.AUTHENTICATED, False, "the action: allow = authenticated"),
        ([], SEVEN, "quote", Access.AUTHENTICATED, True, "the action: allow = authenticated"),
        ([], SEVEN, "quote", Access.NOBODY, False, "the action: allow = nobody"),
        ([OPEN_ROOM], SEVEN, "quote", None, False, "nothing allows it"),
        ([OPEN_ROOM], SEVEN, "quote", Access.ANYONE, True, "the action: allow = anyone"),
        ([], GRANTED, "quote", None, False, "nothing allows it"),
        ([], GRANTED, "quote", Access.ANYONE, True, "the action: allow = anyone"),
        ([allows(verbs=REQUEST, actions=("qu*",))], SEVEN, "quote", None, True, 'rule "x"'),
        ([allows(verbs=REQUEST, actions=("qu*",))], SEVEN, "quote", Access.NOBODY, True, 'rule "x"'),
        ([allows(verbs=REQUEST, actions=("qu*",))], SEVEN, "order", None, False, "nothing allows it"),
        ([denies(verbs=REQUEST, actions=("*",))], SEVEN, "quote", Access.ANYONE, False, 'rule "no"'),
        (
            [allows(verbs=REQUEST, actions=("*",)), denies(verbs=REQUEST, actions=("quote",))],
            SEVEN,
            "quote",
            Access.ANYONE,
            False,
            'rule "no"',
        ),
    ],
)
def test_actions_are_decided_by_rules_and_then_by_their_handlers(rules, identity, action, allow, allowed, because):
    assert Policy(Kinds(), rules).decide_action(identity, action, allow) == Decision(allowed, because)


def test_explanation_has_a_decision_for_each_verb_about_topics():
    assert Policy(Kinds(), [OPEN_ROOM]).explain(SEVEN, "room:a") == [
        (Verb.JOIN, Decision(True, 'rule "open"')),
        (Verb.PUBLISH, Decision(False, "nothing allows it")),
        (Verb.PRESENCE, Decision(False, "nothing allows it")),
        (Verb.HISTORY, Decision(False, "nothing allows it")),
    ]


# To whom a rule applies.


@pytest.mark.parametrize(
    ("options", "identity", "applies"),
    [
        ({}, SEVEN, True),
        ({}, ANONYMOUS, False),
        ({"who": "anyone"}, ANONYMOUS, True),
        ({"who": "anyone"}, SEVEN, True),
        ({"users": ("6", "7")}, SEVEN, True),
        ({"users": ("6",)}, SEVEN, False),
        ({"users": ("6",), "who": "anyone"}, ANONYMOUS, False),
        ({"roles": ("admin", "trader")}, SEVEN, True),
        ({"roles": ("admin",)}, SEVEN, False),
        ({"roles": ("guest",), "who": "anyone"}, Identity(None, roles=frozenset({"guest"})), True),
        ({"users": ("7",), "roles": ("admin",)}, SEVEN, False),
        ({"claims": {"plan": "pro"}}, SEVEN, True),
        ({"claims": {"plan": "free"}}, SEVEN, False),
        ({"claims": {"plan": "pro", "org.seats": 4}}, SEVEN, False),
        ({"claims": {"org.seats": 3}}, SEVEN, True),
        ({"claims": {"org.seats": "3"}}, SEVEN, False),
        ({"claims": {"org.desk": "b"}}, SEVEN, True),
        ({"claims": {"org.desk": "c"}}, SEVEN, False),
        ({"claims": {"org": "desk"}}, SEVEN, False),
        ({"claims": {"plan.name": "pro"}}, SEVEN, False),
        ({"claims": {"none": "pro"}}, SEVEN, False),
        ({"claims": {"staff": True}}, Identity("7", claims={"staff": True}), True),
        ({"claims": {"staff": True}}, Identity("7", claims={"staff": 1}), False),
        ({"claims": {"level": 1}}, Identity("7", claims={"level": True}), False),
        (
            {"claims": {"https://id.example/plan": "pro"}},
            Identity("7", claims={"https://id.example/plan": "pro"}),
            True,
        ),
    ],
)
def test_rule_applies_to_those_who_fit_all_of_it(options, identity, applies):
    assert allows("room:a", **options).applies_to(identity) is applies
    assert is_open(allows("room:a", **options), "room:a", identity) is applies


# Patterns.


@pytest.mark.parametrize(
    ("pattern", "topic", "matches"),
    [
        ("*", "room:a", True),
        ("*", "global", True),
        ("global", "global", True),
        ("global", "room:global", False),
        ("room:*", "room:", True),
        ("room:*", "project:a", False),
        ("room:a*b*c", "room:a-b-b-c", True),
        ("room:a*b*c", "room:a-c-b", False),
        ("room:*ab", "room:aab", True),
        ("room:**", "room:a", True),
        ("room:a:*", "room:a:b", True),
        ("room:{user}", "room:7", True),
        ("room:{user}", "room:77", False),
        ("room:{user}-*", "room:7-x", True),
        ("room:{role}", "room:trader", True),
        ("room:{role}", "room:admin", False),
        ("room:{claims.plan}.{claims.org.seats}", "room:pro.3", True),
        ("room:*{claims.org.desk}", "room:x-b", True),
        ("room:{claims.org.desk}{claims.org.desk}", "room:ab", True),
        ("room:{claims.org.desk}", "room:c", False),
        ("room:{claims.org}", "room:desk", False),
        ("room:{claims.none}*", "room:a", False),
    ],
)
def test_pattern_matches_topics(pattern, topic, matches):
    assert is_open(allows(pattern), topic) is matches


@pytest.mark.parametrize("pattern", ["room:{user}*", "room:{role}*", "room:{claims.x}*"])
@pytest.mark.parametrize(
    "identity",
    [
        ANONYMOUS,
        Identity("", roles=frozenset({""}), claims={"x": ""}),
        Identity("", claims={"x": ["", True, None, {"a": 1}, 1.5]}),
    ],
)
def test_placeholder_that_nothing_fills_matches_nothing(pattern, identity):
    """Least of all the empty text, which would make of the pattern all that its star is."""
    rule = allows(pattern, who="anyone")
    for topic in ("room:", "room:a", "room:None", "room:True", "room:1.5"):
        assert not is_open(rule, topic, identity)


def test_claim_with_too_many_values_is_read_so_far():
    claims = {"desks": [f"d{number}" for number in range(MAX_VALUES + 1)]}
    rule = allows("room:{claims.desks}")
    assert is_open(rule, f"room:d{MAX_VALUES - 1}", Identity("7", claims=claims))
    assert not is_open(rule, f"room:d{MAX_VALUES}", Identity("7", claims=claims))


@pytest.mark.parametrize(
    "pattern",
    ["room", "global:*", "nosuch:*", "ro*:a", "room:{user}", ":a", "", "*:*", "*" * (MAX_TOPIC_LENGTH + 1)],
)
def test_malformed_grant_matches_nothing(pattern):
    identity = Identity("7", grants=(Grant(pattern, JOIN),))
    policy = Policy(ANY_NAME)
    for topic in ("room:a", "room:7", "room:", "global"):
        assert not policy.decide(identity, Verb.JOIN, topic).allowed


@pytest.mark.parametrize("stars", [("*a" * 60)[:-1] + "b", "*{user}" * 50 + "b", "*" * 200 + "b"])
def test_many_stars_take_no_time_to_speak_of(stars):
    """Backtracking would not come to an end within the life of the reader."""
    assert not is_open(allows(f"room:{stars}"), "room:" + "a7" * 100, Identity("7"))


NAMES = st.text("ab.*", max_size=12)


@given(st.text("ab.*", min_size=1, max_size=10), st.text("ab.", max_size=12))
def test_stars_match_like_those_of_a_shell(pattern, name):
    expected = fnmatchcase(name, pattern)
    assert is_open(allows(f"room:{pattern}"), f"room:{name}") is expected
    granted = Identity("7", grants=(Grant(f"room:{pattern}", JOIN),))
    assert Policy(ANY_NAME).decide(granted, Verb.JOIN, f"room:{name}").allowed is expected


@given(st.text("ab*{}", min_size=1, max_size=5) | st.sampled_from(["{user}", "{role}", "*"]), NAMES)
def test_text_that_is_filled_in_is_never_a_pattern(value, name):
    """Neither that of a user, nor of a role, nor of a claim."""
    identity = Identity(value, roles=frozenset({value}), claims={"x": value})
    for placeholder in ("{user}", "{role}", "{claims.x}"):
        assert is_open(allows(f"room:{placeholder}"), f"room:{name}", identity) is (name == value)
        assert is_open(allows(f"room:{placeholder}-*"), f"room:{name}", identity) is name.startswith(value + "-")
        assert is_open(allows(f"room:{placeholder}"), f"room:{value}", identity)


# Laws that hold for any rules.

PATTERNS = st.sampled_from(["*", "room:*", "room:a", "room:{user}", "user:*", "global", "role:{role}", "symbol:*"])
TOPICS = st.sampled_from(["room:a", "room:7", "user:7", "user:8", "global", "role:trader", "symbol:600519"])
IDENTITIES = st.sampled_from([ANONYMOUS, SEVEN, GRANTED])
EXPLICIT = st.sets(st.tuples(st.sampled_from(["room", "user", "global"]), st.sampled_from(["join", "publish"])))


ANY = st.booleans()


@st.composite
def rules(draw, *, denying=ANY):
    verbs = draw(st.frozensets(st.sampled_from(sorted(TOPIC_VERBS)), min_size=1))
    make = denies if draw(denying) else allows
    pattern = draw(PATTERNS)
    if make is allows and pattern == "user:*":
        # Without it no such rule can apply, and it is refused.
        verbs |= {Verb.PUBLISH}
    who = draw(st.sampled_from(["anyone", "authenticated"]))
    roles = draw(st.sampled_from([(), ("trader",)]))
    return make(pattern, verbs=verbs, who=who, roles=roles)


VERBS = st.sampled_from(sorted(TOPIC_VERBS))


@given(
    st.lists(rules(), max_size=5), rules(denying=st.just(True)), st.integers(0, 5), EXPLICIT, IDENTITIES, VERBS, TOPICS
)
def test_rule_that_denies_only_takes_away(others, rule, at, explicit, identity, verb, topic):
    """Beside other rules, whatever it says and wherever it stands; and what it covers is denied."""
    others.append(OPEN_ROOM)
    before = Policy(Kinds(), others, explicit).decide(identity, verb, topic)
    others.insert(at, rule)
    after = Policy(Kinds(), others, explicit).decide(identity, verb, topic)
    assert before.allowed or not after.allowed
    if Policy(Kinds(), [rule]).decide(identity, verb, topic).because == rule.label:
        assert not after.allowed


@given(rules(denying=st.just(True)), IDENTITIES, VERBS, TOPICS)
def test_first_rule_that_denies_opens_nothing(rule, identity, verb, topic):
    """Although the kinds are asked no longer."""
    if Policy(Kinds(), [rule]).decide(identity, verb, topic).allowed:
        assert Policy(Kinds()).decide(identity, verb, topic).allowed


@given(st.lists(rules(), max_size=5), EXPLICIT, IDENTITIES, VERBS)
def test_topic_of_somebody_else_stays_closed(given_rules, explicit, identity, verb):
    if verb is not Verb.PUBLISH:
        assert not Policy(Kinds(), given_rules, explicit).decide(identity, verb, "user:8").allowed


# Rules as they are written.


def test_table_becomes_a_rule():
    table = {
        "name": "traders",
        "topics": ["room:desk-{claims.desk}"],
        "actions": ["order.*"],
        "allow": ["join", "request"],
        "users": ["7"],
        "roles": ["trader"],
        "claims": {"plan": "pro", "staff": True, "level": 3},
        "who": "authenticated",
    }
    rule = Rule.of(table, 1)
    assert rule == Rule(
        name="traders",
        topics=("room:desk-{claims.desk}",),
        actions=("order.*",),
        allow=frozenset({Verb.JOIN, Verb.REQUEST}),
        users=("7",),
        roles=("trader",),
        claims={"plan": "pro", "staff": True, "level": 3},
    )
    assert hash(rule)


def test_rule_without_a_name_goes_by_its_number():
    assert Rule.of({"topics": ["*"], "deny": ["join"]}, 3) == denies("*", name="rule 3")


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ("x", "rules[3] = 'x': must be a table"),
        ({"name": 5}, "rules[3]: name = 5: must be a text"),
        ({"name": ""}, "name = '': must be a text"),
        ({"name": "t", "topic": []}, 'rules[3] "t": topic: no such member; there are actions, allow, claims, deny, '),
        ({"topics": "room:*"}, "rules[3]: topics = 'room:*': must be a list of texts"),
        ({"topics": ["room:*", 5]}, "rules[3]: topics = ['room:*', 5]: must be a list of texts"),
        ({"users": [""]}, "users = ['']: must be a list of texts"),
        ({"allow": ["jion"]}, "allow = ['jion']: must be a list of join, publish, presence, history, request"),
        ({"deny": [["join"]]}, "deny = [['join']]: must be a list of join"),
        ({"deny": "join"}, "deny = 'join': must be a list of join"),
        ({"claims": ["a"]}, "claims = ['a']: must be a table"),
        ({"claims": {"org": {"plan": "pro"}}}, "claims.org = {'plan': 'pro'}: must be a text, a whole number"),
        ({"who": "everyone"}, "who = 'everyone': must be one of anyone, authenticated"),
        ({"who": ["anyone"]}, "who = ['anyone']: must be one of anyone, authenticated"),
        ({"who": {"a": 1}}, "who = {'a': 1}: must be one of anyone, authenticated"),
        ({"topics": ["room:*"]}, "allow, deny: one of them must be given, and not both"),
        ({"topics": ["room:*"], "allow": ["join"], "deny": ["join"]}, "one of them must be given, and not both"),
        ({"allow": ["join"]}, "rules[3]: topics: none are named, and join is about topics"),
        ({"deny": ["request"]}, "rules[3]: actions: none are named, and request is about actions"),
        (
            {"actions": ["a"], "topics": ["room:*"], "allow": ["request"]},
            "topics = ['room:*']: with topics any verb goes but \"request\"",
        ),
        ({"topics": ["*"], "allow": ["join", "request"]}, "actions: none are named, and request is about actions"),
        (
            {"actions": ["a", "b"], "allow": ["join"]},
            "actions = ['a', 'b']: with actions only the verb \"request\" goes",
        ),
        (
            {"topics": ["*"], "deny": ["join"], "actions": ["a"]},
            "actions = ['a']: with actions only the verb \"request\" goes",
        ),
        ({"topics": ["room:{usr}"]}, "topics = 'room:{usr}': {usr} must be one of {user}, {role}, {claims.<path>}"),
        ({"topics": ["room:{claims.}"]}, "{claims.} must be one of"),
        ({"topics": ["room:{user"]}, "{ must be one of"),
        ({"actions": ["{x}"]}, "actions = '{x}': {x} must be one of"),
    ],
)
def test_table_that_is_no_rule_is_refused_by_name(table, text):
    """The text says which rule, which member, and what is allowed there."""
    with pytest.raises(ConfigurationError) as caught:
        Rule.of(table, 3)
    assert str(caught.value).startswith("rules[3]")
    assert text in str(caught.value)


@pytest.mark.parametrize("member", ["users", "roles", "claims", "topics", "actions", "allow", "deny", "who"])
@pytest.mark.parametrize("nothing", [[], (), {}])
def test_member_that_is_empty_is_refused(member, nothing):
    """A list of users that somebody has emptied must not open the rule to everybody."""
    table = {"name": "ops only", "topics": ["room:*"], "allow": ["join"]}
    with pytest.raises(ConfigurationError) as caught:
        Rule.of({**table, member: nothing}, 1)
    way = "leave it out for everybody" if member in ("users", "roles", "claims") else "leave it out"
    assert str(caught.value) == f'rules[1] "ops only": {member}: is empty; {way}, or remove the rule'


@pytest.mark.parametrize("deny", [False, True])
@pytest.mark.parametrize(
    ("pattern", "fault"),
    [
        ("nosuch:a", f"{NO_SUCH_KIND}; for one of your own add a table [kinds.nosuch]"),
        ("nosuch:*", f"{NO_SUCH_KIND}; for one of your own add a table [kinds.nosuch]"),
        ("*:a", NO_SUCH_KIND),
        ("{role}:a", NO_SUCH_KIND),
        ("room", NO_SUCH_KIND),
        ("global:*", NO_SUCH_KIND),
        ("symbol:abc", "not a valid symbol name: it must match [0-9]{6}"),
    ],
)
def test_rule_about_topics_that_there_are_not_is_refused(pattern, fault, deny):
    """With the kinds that there are, and the way to one more where the name can be a kind's."""
    rule = denies(pattern, name="t") if deny else allows(pattern, name="t")
    with pytest.raises(ConfigurationError) as caught:
        Policy(Kinds([Kind(name="news"), Kind(name="global", bare=True), Kind(name="room"), SYMBOL]), [rule])
    assert str(caught.value) == f'rule "t": topics: {pattern!r}: {fault}'


BLOG = Kinds().with_options("blog", join=Access.ANYONE, publish=Access.OWNER)


@pytest.mark.parametrize("pattern", ["user:*", "user:7", "user:{user}", "user:{claims.boss}-*"])
@pytest.mark.parametrize("verbs", [{"join"}, {"presence"}, {"history"}, {"join", "presence", "history"}])
def test_rule_that_would_open_what_is_its_owners_is_refused(pattern, verbs):
    """It never applies; whoever wrote it thinks otherwise. The others of its patterns do not help it."""
    rule = allows("room:*", pattern, verbs=frozenset(map(Verb, verbs)))
    with pytest.raises(ConfigurationError) as caught:
        Policy(BLOG, [rule])
    assert str(caught.value) == f'rule "x": topics: {pattern!r}: only its owner joins; no rule opens it'


@pytest.mark.parametrize("options", [{}, {"verbs": frozenset({Verb.PUBLISH, Verb.REQUEST}), "actions": ("a",)}])
def test_rule_that_would_let_others_publish_what_only_the_owner_does_is_refused(options):
    """The message says so, whatever else the rule is about."""
    with pytest.raises(ConfigurationError, match=r"'blog:\*': only its owner publishes; no rule opens it"):
        Policy(BLOG, [allows("blog:*", **{"verbs": frozenset({Verb.PUBLISH}), **options})])


@pytest.mark.parametrize(
    "rule",
    [
        denies("user:*"),
        denies("user:*", "blog:*", verbs=TOPIC_VERBS),
        allows("user:*", verbs=frozenset({Verb.PUBLISH})),
        allows("user:*", verbs=TOPIC_VERBS),
        allows("blog:*", verbs=frozenset({Verb.JOIN, Verb.PUBLISH})),
        allows("*"),
        allows("role:*"),
        allows("user:*", verbs=frozenset({Verb.PUBLISH, Verb.REQUEST}), actions=("a",)),
    ],
)
def test_rule_that_can_apply_to_topics_with_an_owner_is_taken(rule):
    """It denies, or is about publishing, or about other kinds too; and what nobody joins may be opened by its name."""
    Policy(BLOG, [rule])
