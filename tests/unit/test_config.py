"""Settings: sources, precedence, refusals."""

from __future__ import annotations

import pytest

from realtime.api_keys import new_key
from realtime.auth import Identity, Right, Verb
from realtime.config import Settings, load_settings, read_key_files, with_overrides
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
        ({"jwt_algorithms": ["HS256"]}, "HS256 and jwt_secret"),
        ({"jwt_secret": "x" * 32}, "HS256 and jwt_secret"),
        ({"jwt_algorithms": ["RS256"]}, "a public-key algorithm and its keys"),
        ({"jwt_key_files": ["key.pem"]}, "a public-key algorithm and its keys"),
        ({"jwt_algorithms": ["RS256"], "jwt_secret": "x" * 32, "jwt_key_files": ["key.pem"]}, "HS256 and jwt_secret"),
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


def test_files_with_keys_are_read(tmp_path):
    """One that cannot be is named."""
    path = tmp_path / "key.pem"
    path.write_bytes(b"a key")
    options = {"jwt_algorithms": ["RS256"], "jwt_key_files": [str(path)]}
    assert read_key_files(load_settings(environ={}, **options)) == [b"a key"]
    path.unlink()
    with pytest.raises(ConfigurationError, match=r"jwt_key_files: .*key\.pem: No such file"):
        read_key_files(load_settings(environ={}, **options))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('rules = "all"', "must be a list of tables"),
        ("rules = [1]", "must be a list of tables"),
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
