"""Settings: sources, precedence, refusals."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwk

from realtime.api_keys import new_key
from realtime.auth import Identity, Right, Verb
from realtime.config import Settings, load_policy, load_settings, read_key_files, with_overrides
from realtime.errors import ConfigurationError
from realtime.topics import Access, Mode, Overflow


@pytest.fixture
def toml(tmp_path):
    """Writes a file of settings and returns its path."""

    def write(text: str):
        path = tmp_path / "realtime.toml"
        path.write_text(text)
        return path

    return write


def test_defaults_are_safe():
    """Loopback, nobody anonymous, no keys."""
    settings = load_settings(environ={})
    assert settings == Settings()
    assert (settings.host, settings.anonymous, settings.api_keys) == ("127.0.0.1", False, ())


def test_later_source_wins(toml):
    """File, then environment, then arguments."""
    path = toml('host = "file"\nport = 1\nmax_topics = 2\n')
    environ = {"REALTIME_PORT": "2", "REALTIME_MAX_TOPICS": "3", "OTHER": "x"}
    settings = load_settings(path, environ=environ, max_topics=4)
    assert (settings.host, settings.port, settings.max_topics) == ("file", 2, 4)


def test_environment_of_the_process_is_read(monkeypatch):
    """Unless another is given."""
    monkeypatch.setenv("REALTIME_PORT", "8123")
    assert load_settings().port == 8123


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("PORT", "0", 0),
        ("DEV", "true", True),
        ("DEV", "Off", False),
        ("ALLOW_ANONYMOUS", "1", True),
        ("GRACE_SECONDS", "2.5", 2.5),
        ("IDLE_TIMEOUT_SECONDS", "60", 60.0),
        ("ORIGINS", "https://a.example, https://b.example,", ("https://a.example", "https://b.example")),
        ("TLS_CERTIFICATE", None, None),
    ],
)
def test_text_of_the_environment_becomes_the_type_of_the_setting(name, text, value):
    """Numbers, flags, lists."""
    environ = {} if text is None else {f"REALTIME_{name}": text}
    assert getattr(load_settings(environ=environ), name.lower()) == value


@pytest.mark.parametrize(
    ("given", "fragments"),
    [
        ({"port": 70000}, ["port = 70000", "arguments", "<= 65535"]),
        ({"port": -1}, ["port = -1", ">= 0"]),
        ({"port": "many"}, ["port = 'many'", "whole number"]),
        ({"port": 1.5}, ["port = 1.5", "whole number"]),
        ({"port": True}, ["port = True", "whole number"]),
        ({"port": None}, ["port = None", "whole number"]),
        ({"grace_seconds": "long"}, ["grace_seconds = 'long'", "a number"]),
        ({"grace_seconds": -1}, ["grace_seconds = -1", ">= 0"]),
        ({"ping_interval_seconds": 0}, ["ping_interval_seconds = 0", "> 0"]),
        ({"idle_timeout_seconds": 0}, ["idle_timeout_seconds = 0", "> 0"]),
        ({"dev": "perhaps"}, ["dev = 'perhaps'", "true or false"]),
        ({"origins": 5}, ["origins = 5", "list of texts"]),
        ({"origins": [5]}, ["origins = [5]", "list of texts"]),
        ({"host": 5}, ["host = 5", "a text"]),
        ({"kinds": 5}, ["kinds = 5", "a table"]),
        ({"colour": "blue"}, ["colour", "arguments", "no such setting"]),
    ],
)
def test_wrong_value_is_refused_with_key_value_and_what_is_allowed(given, fragments):
    """The operator can mend it from the message alone."""
    with pytest.raises(ConfigurationError) as caught:
        load_settings(environ={}, **given)
    for fragment in fragments:
        assert fragment in str(caught.value)


@pytest.mark.parametrize(
    ("kinds", "fragments"),
    [
        ({"room": 5}, ["kinds.room = 5", "table"]),
        ({"room": {"colour": 1}}, ["kinds.room.colour", "no such option", "history_messages"]),
        ({"room": {"overflow": "burst"}}, ["kinds.room.overflow = 'burst'", "drop_oldest", "block"]),
        ({"room": {"mode": "some"}}, ["kinds.room.mode = 'some'", "latest"]),
        ({"room": {"join": "friends"}}, ["kinds.room.join = 'friends'", "anyone"]),
        ({"room": {"presence": "some"}}, ["kinds.room.presence = 'some'", "none, members, count"]),
        ({"room": {"presence_by": "device"}}, ["kinds.room.presence_by = 'device'", "user, connection"]),
        ({"room": {"max_members": 0}}, ["kinds.room", "max_members", "> 0"]),
        ({"room": {"history_messages": -1}}, ["kinds.room", "history_messages", ">= 0"]),
        ({"room": {"history_age_seconds": "long"}}, ["kinds.room", "str"]),
        ({"room": {"pattern": "["}}, ["kinds.room", "pattern", "regular expression"]),
        ({"Room": {}}, ["kinds.Room", "name"]),
    ],
)
def test_wrong_option_of_a_kind_is_refused_with_its_name(kinds, fragments):
    """Kinds are settings, too."""
    with pytest.raises(ConfigurationError) as caught:
        load_settings(environ={}, kinds=kinds)
    for fragment in fragments:
        assert fragment in str(caught.value)


@pytest.mark.parametrize("variable", ["REALTIME_COLOUR", "REALTIME_KINDS"])
def test_unknown_variable_is_refused_by_its_own_name(variable):
    """A typing error does not pass for a default."""
    with pytest.raises(ConfigurationError, match=variable):
        load_settings(environ={variable: "x"})


def test_wrong_secret_is_not_shown():
    """Keys do not reach the log by way of an error."""
    with pytest.raises(ConfigurationError) as caught:
        load_settings(environ={}, api_keys=["fine", 12345])
    assert "api_keys = ***" in str(caught.value)
    assert "12345" not in str(caught.value)


def test_secret_is_not_in_the_representation():
    """Nor by way of a debugger's print."""
    assert "hush" not in repr(load_settings(environ={"REALTIME_API_KEYS": "hush"}))


def test_half_a_certificate_is_refused():
    """Both files or none."""
    with pytest.raises(ConfigurationError, match="together"):
        Settings(tls_certificate="cert.pem")


def test_file_that_cannot_be_read_is_refused_with_its_name(tmp_path, toml):
    """Missing, or not TOML."""
    with pytest.raises(ConfigurationError, match=r"missing\.toml: No such file"):
        load_settings(tmp_path / "missing.toml", environ={})
    with pytest.raises(ConfigurationError, match=r"realtime\.toml: not TOML"):
        load_settings(toml("port ="), environ={})
    with pytest.raises(ConfigurationError, match=r"port = 'x' .*realtime\.toml"):
        load_settings(toml('port = "x"'), environ={})


def test_kinds_of_a_file_change_the_built_in_ones(toml):
    """A table per kind; a new name makes a new kind."""
    settings = load_settings(
        toml('[kinds.room]\noverflow = "block"\n[kinds.news]\njoin = "anyone"\nmode = "latest"\n'), environ={}
    )
    kinds = settings.all_kinds()
    assert kinds.split("room:a")[0].overflow is Overflow.BLOCK
    assert kinds.split("news:a")[0].mode is Mode.LATEST


def test_dev_opens_rooms_and_symbols_and_nothing_else():
    """For trying things out."""
    kinds = Settings(dev=True).all_kinds()
    opened = {kind.name for kind in kinds if kind.publish is Access.ANYONE}
    assert opened == {"room", "symbol"}
    assert Settings(dev=True).anonymous
    assert Settings(allow_anonymous=True).anonymous


def test_overrides_are_checked_like_the_rest():
    """A copy with changes."""
    assert with_overrides(Settings(), port=1).port == 1
    with pytest.raises(ConfigurationError, match="port"):
        with_overrides(Settings(), port="x")


@pytest.mark.parametrize(
    ("templates", "fault"),
    [
        (["nosuch:{user}"], "nosuch:{user}"),
        (["global:x"], "no such kind"),
        (["room"], "no such kind"),
        (["user:{user}", "symbol:x"], "not a valid symbol name"),
        (["room:{other}"], "not a valid room name"),
    ],
)
def test_place_of_a_login_that_is_no_topic_is_refused(templates, fault):
    """When the server is configured, not when somebody logs in."""
    with pytest.raises(ConfigurationError, match=fault):
        Settings(auto_subscribe=tuple(templates))


def test_places_of_a_login_can_be_set():
    """From the environment as a list, also to none, and to kinds of one's own."""
    assert load_settings(environ={"REALTIME_AUTO_SUBSCRIBE": ""}).auto_subscribe == ()
    settings = load_settings(
        environ={"REALTIME_AUTO_SUBSCRIBE": "inbox:{user}, global"}, kinds={"inbox": {"join": "owner"}}
    )
    assert settings.auto_subscribe == ("inbox:{user}", "global")


@pytest.mark.parametrize(
    "name",
    [
        "max_requests",
        "idempotency_keys",
        "idempotency_seconds",
        "max_sessions",
        "session_keep_seconds",
        "session_abandoned_seconds",
    ],
)
def test_bound_of_nothing_is_refused(name):
    """Each of them has to let something through."""
    with pytest.raises(ConfigurationError, match=name):
        load_settings(environ={f"REALTIME_{name.upper()}": "0"})


def test_options_of_a_kind_are_read():
    """Those of presence, of topics that must exist, of duplicates."""
    options = {
        "must_exist": True,
        "missing_code": "SESSION_NOT_FOUND",
        "max_per_connection": 3,
        "drop_duplicates": True,
        "presence": "members",
        "presence_by": "connection",
        "presence_linger_seconds": 0,
        "max_members": 50,
    }
    kind, _ = Settings(kinds={"hall": options}).all_kinds().split("hall:a")
    assert {name: getattr(kind, name) for name in options} == options


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"max_per_connection": 0}, "max_per_connection"),
        ({"max_members": 0}, "max_members"),
        ({"presence": "everybody"}, "must be one of none, members, count"),
        ({"presence_linger_seconds": -1}, "presence_linger_seconds"),
        ({"missing_code": "GONE"}, "must be one of"),
    ],
)
def test_option_of_a_kind_that_makes_no_sense_is_refused(options, fault):
    """With what is allowed."""
    with pytest.raises(ConfigurationError, match=fault):
        Settings(kinds={"room": options})


# -- logins, keys and rules --------------------------------------------------------------------------------------


def test_plain_key_in_a_file_is_refused_and_not_shown(toml):
    """Whoever reads the file would have it. Elsewhere it is allowed, as for a test."""
    with pytest.raises(ConfigurationError, match="no plain key belongs in a file") as caught:
        load_settings(toml('api_keys = ["hush"]'), environ={})
    assert "hush" not in str(caught.value)
    _, line = new_key("backend", [Right.PUBLISH])
    assert load_settings(toml(f'api_keys = ["{line}"]'), environ={}).api_keys == (line,)
    assert load_settings(environ={"REALTIME_API_KEYS": "hush"}).api_keys == ("hush",)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"jwt_algorithms": ["none"]}, "'none' is not supported"),
        (
            {"jwt_algorithms": ["HS256"]},
            "^jwt_secret: is missing, and jwt_algorithms has HS256; set REALTIME_JWT_SECRET$",
        ),
        (
            {"jwt_algorithms": ["HS256"], "jwt_secret": "x" * 5},
            "^jwt_secret: has 5 bytes, must have 32 or more; make one with: openssl rand -hex 32$",
        ),
        ({"jwt_algorithms": ["RS256"]}, "^jwt_algorithms: RS256 needs jwt_jwks_url or jwt_key_files$"),
        (
            {"jwt_algorithms": ["HS256", "ES256"], "jwt_secret": "x" * 32},
            "^jwt_algorithms: ES256 needs jwt_jwks_url or jwt_key_files$",
        ),
        (
            {"jwt_algorithms": ["HS256"], "jwt_secret": "x" * 32, "jwt_key_files": ["key.pem"]},
            "^jwt_key_files needs one of RS256, ES256, EdDSA in jwt_algorithms$",
        ),
        (
            {"jwt_algorithms": ["HS256"], "jwt_secret": "x" * 32, "jwt_jwks_url": "https://a.example"},
            "^jwt_jwks_url needs one of RS256, ES256, EdDSA in jwt_algorithms$",
        ),
        (
            {"jwt_algorithms": ["RS256"], "jwt_secret": "x" * 32, "jwt_key_files": ["key.pem"]},
            "^jwt_secret needs HS256 in jwt_algorithms$",
        ),
        (
            {"jwt_algorithms": ["RS256"], "jwt_jwks_url": "https://a.example", "jwt_key_files": ["key.pem"]},
            "the keys come from there alone",
        ),
    ],
)
def test_keys_of_tokens_that_do_not_fit_their_algorithms_are_refused(options, fault):
    """A key without its algorithm is a mistake too, and none of it is shown."""
    with pytest.raises(ConfigurationError, match=fault) as caught:
        load_settings(environ={}, **options)
    assert "xxx" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "example"),
    [
        ("jwt_secret", "x" * 32, "HS256"),
        ("jwt_key_files", ["key.pem"], "RS256"),
        ("jwt_jwks_url", "https://id.example/keys", "RS256"),
        ("jwt_issuer", "https://id.example/", "RS256"),
        ("jwt_audience", "realtime", "RS256"),
        ("jwt_roles_claim", "groups", "RS256"),
        ("jwt_require_expiry", False, "RS256"),
        ("jwks_refresh_seconds", 60, "RS256"),
    ],
)
def test_setting_of_tokens_without_their_algorithms_is_refused(name, value, example):
    """No token would be checked, although somebody thinks so. As it is anyway, it may be written down."""
    with pytest.raises(ConfigurationError) as caught:
        load_settings(environ={}, **{name: value})
    assert str(caught.value) == f'{name} needs jwt_algorithms, such as ["{example}"]'
    assert load_settings(environ={}, **{name: getattr(Settings(), name)}) == Settings()


@pytest.mark.parametrize(("jwks", "authorize"), [(5, 5), (6, 5), (3, 2)])
def test_fetch_of_keys_that_may_take_as_long_as_a_login_is_refused(jwks, authorize):
    """The login would time out first, and nobody learn why. Where nothing is fetched, it does not matter."""
    times = {"jwks_timeout_seconds": jwks, "authorize_timeout_seconds": authorize}
    tokens = {"jwt_algorithms": ["RS256"]}
    url = "https://id.example/keys"
    with pytest.raises(ConfigurationError) as caught:
        load_settings(environ={}, **tokens, jwt_jwks_url=url, **times)
    assert str(caught.value) == f"jwks_timeout_seconds = {jwks:.1f}: must be less than authorize_timeout_seconds"
    assert load_settings(environ={}, **tokens, jwt_key_files=["key.pem"], **times).jwks_timeout_seconds == jwks
    longer = {**times, "authorize_timeout_seconds": jwks + 0.1}
    assert load_settings(environ={}, **tokens, jwt_jwks_url=url, **longer).jwt_jwks_url == url


def test_files_with_keys_are_read(tmp_path):
    """PEM and sets; one that cannot be is named, and what is wrong with it."""
    key = jwk.ECKey.generate_key("P-256")
    path, fine = tmp_path / "key.pem", tmp_path / "keys.json"
    contents = [json.dumps({"keys": [key.as_dict(private=False)]}).encode(), key.as_pem(private=False)]
    fine.write_bytes(contents[0])
    path.write_bytes(contents[1])
    settings = load_settings(environ={}, jwt_algorithms=["ES256"], jwt_key_files=[str(fine), str(path)])
    assert read_key_files(settings) == contents
    for content, fault in [
        (b"a key", "must hold a public key or certificate in PEM"),
        (key.as_pem(private=True), "is a private key; make the public one with: openssl pkey -in FILE -pubout"),
        (b"{}", "it is not a JSON Web Key Set"),
        (None, "No such file or directory"),
    ]:
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ConfigurationError) as caught:
            read_key_files(settings)
        assert str(caught.value).startswith(f"jwt_key_files: {path}: {fault}")


@pytest.mark.parametrize("name", ["sid", "__Host-session", "a.b", "!#$%&'*+-.^_`|~0aZ"])
def test_name_that_a_cookie_can_have_is_accepted(name):
    """Also without tokens of ours: what the cookie holds may be for a function of one's own."""
    assert load_settings(environ={}, cookie_name=name).cookie_name == name


@pytest.mark.parametrize(
    "name", ["", " ", "a b", "a=b", "a;b", "a,b", '"a"', "a\n", "a\t", "a/b", "a:b", "(a)", "s\xe9", "a\x7f"]
)
def test_name_that_no_cookie_can_have_is_refused(name):
    """Such a cookie would never be found."""
    with pytest.raises(ConfigurationError) as caught:
        load_settings(environ={}, cookie_name=name)
    assert str(caught.value).startswith(f"cookie_name = {name!r} (arguments): must be of ASCII letters, digits and !#")


ORIGINS = [
    "*",
    "https://app.example.com",
    "https://app.example.com:8443",
    "http://localhost:3000",
    "http://127.0.0.1",
    "http://[::1]:3000",
    "https://xn--mnchen-3ya.example",
    "chrome-extension://abcdefghijklmnop",
]


@pytest.mark.parametrize("origin", ORIGINS)
def test_origin_as_browsers_send_it_is_accepted(origin):
    """Also from the environment, as a list."""
    assert load_settings(environ={"REALTIME_ORIGINS": f"{origin}, https://b.example"}).origins[0] == origin


@pytest.mark.parametrize(
    ("origin", "meant"),
    [
        ("https://app.example.com/", "https://app.example.com"),
        ("https://app.example.com/page?a=b#c", "https://app.example.com"),
        ("https://App.Example.com", "https://app.example.com"),
        ("HTTPS://app.example.com", "https://app.example.com"),
        ("https://app.example.com:443", "https://app.example.com"),
        ("http://app.example.com:80", "http://app.example.com"),
        ("http://app.example.com:443/", "http://app.example.com:443"),
        ("https://app.example.com:", "https://app.example.com"),
        ("https://user:password@app.example.com", "https://app.example.com"),
        ("wss://app.example.com/ws", "https://app.example.com"),
        ("ws://localhost:3000", "http://localhost:3000"),
        ("http://[0:0::1]:80", "http://[::1]"),
    ],
)
def test_origin_in_another_form_is_refused_with_the_one_to_write(origin, meant):
    """It is compared as it is: written otherwise, it would let nobody in."""
    with pytest.raises(ConfigurationError) as caught:
        load_settings(environ={}, origins=[origin])
    assert str(caught.value).endswith(f" (arguments): {origin!r}: write {meant}, as browsers send it")
    assert load_settings(environ={}, origins=[meant]).origins == (meant,)


@pytest.mark.parametrize(
    "origin",
    [
        *("null", "app.example.com", "localhost:3000", "//app.example.com", "https://", "https:app.example.com"),
        *("https://*.example.com", "https://m\xfcnchen.example", "https://a b.example", "https://a.example:70000"),
        *("https://a.example:x", "https://[::1", "https://[::g]", "file:///page.html", "/", "**", "\ud800"),
    ],
)
def test_text_that_is_no_origin_is_refused(origin):
    """With an example of one."""
    with pytest.raises(ConfigurationError) as caught:
        load_settings(environ={}, origins=["https://b.example", origin])
    assert f"{origin!r}: must be * or scheme://host[:port] in ASCII, such as https://app.ex" in str(caught.value)


@given(st.text(max_size=20) | st.from_regex(r"[a-zA-Z]{1,5}://[a-zA-Z0-9.:\[\]@/-]{0,12}", fullmatch=True))
def test_origin_to_write_is_one_that_is_accepted(text):
    """The message never leads to the next one."""
    try:
        load_settings(environ={}, origins=[text])
    except ConfigurationError as error:
        if found := re.search(r": write (\S+), as browsers send it$", str(error)):
            assert load_settings(environ={}, origins=[found[1]]).origins == (found[1],)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('rules = "all"', "must be a list of tables"),
        ("rules = [1]", "must be a list of tables"),
        (
            '[rules]\ntopics = ["room:*"]\nallow = ["join"]',
            r"rules = .*must be a list of tables: in TOML the name of each stands in \[\[ \]\], not in \[ \]",
        ),
        (
            '[[rules]]\nname = "ops only"\ntopics = ["room:*"]\nallow = ["join"]\nusers = []',
            r'^rules\[1\] "ops only": users: is empty; leave it out for everybody, or remove the rule$',
        ),
        ('[[rules]]\ntopics = ["order:*"]\nallow = ["join"]', r"'order:\*': .* add a table \[kinds\.order\]$"),
        ('[[rules]]\ntopics = ["user:*"]\nallow = ["join"]', "'user:.*': only its owner joins; no rule opens it"),
        ('[[rules]]\ntopics = ["room:*"]', "rules.1.: allow, deny"),
        ('[[rules]]\ntopics = ["nosuch:*"]\nallow = ["join"]', "no such kind"),
    ],
)
def test_rule_that_makes_no_sense_is_refused(toml, text, fault):
    """When the settings are read, not when somebody asks."""
    with pytest.raises(ConfigurationError, match=fault):
        load_settings(toml(text), environ={})


def test_rules_of_a_file_decide(toml):
    """The access of a kind counts beside them where it is set, and only there; in development it is."""
    text = '[[rules]]\ntopics = ["project:*"]\nallow = ["join"]\n[kinds.agent]\njoin = "anyone"\n'
    for dev in (False, True):
        settings = load_settings(toml(text), environ={}, dev=dev)
        policy = settings.policy(settings.all_kinds())
        allowed = {
            topic: policy.decide(Identity("7"), Verb.JOIN, topic).allowed
            for topic in ("project:a", "agent:a", "global", "room:a")
        }
        assert allowed == {"project:a": True, "agent:a": True, "global": False, "room:a": dev}


def test_policy_is_read_without_anything_secret(toml):
    """Of a file that could not be served from, the part about who may do what; the environment has its say."""
    path = toml(
        'jwt_algorithms = ["HS256"]\ntls_certificate = "cert.pem"\nauto_subscribe = ["order:1"]\n'
        '[kinds.user]\npattern = "[a-z]+"\n[kinds.order]\njoin = "anyone"\n'
        '[[rules]]\ntopics = ["room:*"]\nallow = ["join"]\n'
    )
    with pytest.raises(ConfigurationError):
        load_settings(path, environ={})
    for dev in ("0", "1"):
        policy = load_policy(path, environ={"REALTIME_DEV": dev, "REALTIME_JWT_SECRET": "short"})
        assert policy.decide(Identity("7"), Verb.JOIN, "order:1").allowed
        assert policy.decide(Identity("7"), Verb.JOIN, "room:a").because == "rule 1"
        assert policy.decide(Identity(), Verb.JOIN, "symbol:600519").allowed is (dev == "1")
    assert (
        load_policy(environ={}).decide(Identity("7"), Verb.JOIN, "room:a").because == "kind room: join = authenticated"
    )


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('[[rules]]\ntopics = ["nosuch:*"]\nallow = ["join"]', "no such kind"),
        ('[kinds.room]\njoin = "friends"', "kinds.room.join"),
        ('colour = "blue"', "no such setting"),
        ("port = 70000", "port = 70000"),
    ],
)
def test_policy_of_a_file_with_a_fault_is_refused(toml, text, fault):
    """Also where the fault is in a setting that says nothing of it: it is not known what was meant."""
    with pytest.raises(ConfigurationError, match=fault):
        load_policy(toml(text), environ={})


@pytest.mark.parametrize("content", [b"\xff\xfe", b"rules = " + b"[" * 5000])
def test_file_that_cannot_be_read_as_toml_is_refused(tmp_path, content):
    """Bytes that are no text, and nesting that no reader stands."""
    path = tmp_path / "settings.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="not TOML"):
        load_settings(path, environ={})


@pytest.mark.parametrize("options", [{"grace_seconds": 10**400}, {"port": "9" * 5000}])
def test_number_beyond_all_bounds_is_refused(options):
    """With its name, like any other."""
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        load_settings(environ={}, **options)


@pytest.mark.parametrize("pattern", ["a{99999999999999999999}", "(" * 5000])
def test_pattern_that_cannot_be_compiled_is_refused(pattern):
    """Also where the fault is none that `re` has a word for."""
    with pytest.raises(ConfigurationError, match="pattern is not a regular expression"):
        load_settings(environ={}, kinds={"room": {"pattern": pattern}})


@pytest.mark.parametrize("word", ["off", None])
def test_limit_is_switched_off_by_a_word(word):
    """A file has none for nothing."""
    assert load_settings(environ={}, command_rate=word).command_rate is None
    with pytest.raises(ConfigurationError):
        load_settings(environ={}, command_burst=word)
