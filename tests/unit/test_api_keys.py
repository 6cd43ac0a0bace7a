"""Keys of back ends."""

from __future__ import annotations

import hashlib
import re
from types import SimpleNamespace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from realtime import api_keys
from realtime.api_keys import ApiKey, ApiKeys, new_key
from realtime.auth import Right
from realtime.errors import ConfigurationError

ANY_TEXT = st.text(st.characters(exclude_categories=()))
HEX = hashlib.sha256(b"some key").hexdigest()
LINE = f"backend:publish+read:sha256:{HEX}"
RIGHTS = f"the rights must be some of {', '.join(Right)}, joined by plus signs; "


def test_new_key_is_found_by_its_line():
    """Only the line stands in the configuration."""
    key, line = new_key("backend", [Right.READ, Right.PUBLISH, Right.READ])
    assert line.startswith("backend:publish+read:sha256:")
    found = ApiKeys([LINE.replace("backend", "other"), line]).find(key)
    assert found is not None
    assert (found.name, found.rights, found.plain) == ("backend", {Right.PUBLISH, Right.READ}, False)


def test_new_key_has_a_form_that_scanners_find_and_256_random_bits():
    keys = {new_key("a-b_c1", [Right.READ])[0] for _ in range(50)}
    assert len(keys) == 50
    assert all(re.fullmatch(r"rtk_a-b_c1_[0-9a-f]{64}", key) for key in keys)


def test_line_opens_nothing():
    """Whoever reads the configuration has no key."""
    key, line = new_key("backend", [Right.ADMIN])
    assert key not in line
    keys = ApiKeys([line])
    assert [keys.find(part) for part in (line, *line.split(":"))] == [None] * 5


@pytest.mark.parametrize("name", ["", "B", "1a", "-a", "a" * 33, "a b", "a:b", "a\n", "ä", "\ud800"])
def test_new_key_with_a_bad_name_is_refused(name):
    """With what a name may be, and not with what its line would have been."""
    with pytest.raises(ConfigurationError, match=r"^the name must have 1 to 32 small letters, digits, hyphens"):
        new_key(name, [Right.READ])


def test_new_key_without_rights_is_refused():
    with pytest.raises(ConfigurationError, match="publish, read, tickets, admin"):
        new_key("backend", [])


@pytest.mark.parametrize("name", ["a", "a" * 32, "a1_-", "sha256"])
def test_names_of_small_letters_digits_hyphens_and_underscores_are_good(name):
    assert ApiKey.parse(new_key(name, [Right.READ])[1]).name == name


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (LINE.replace("backend", "Backend"), "the name must"),
        (LINE.replace("backend", ""), "the name must"),
        (LINE.replace("backend", "backend\n"), "the name must"),
        (LINE.replace("publish+read", ""), RIGHTS + "one of them is none"),
        (LINE.replace("publish+read", "publish+"), RIGHTS + "one of them is none"),
        (LINE.replace("publish+read", "publish,read"), RIGHTS + "one of them is none"),
        (LINE.replace("publish+read", "publish+write"), RIGHTS + "'write' is none"),
        (LINE.replace("publish+read", "Read"), RIGHTS + "'Read' is none"),
        (LINE.replace("publish+read", "read+s3cret"), RIGHTS + "one of them is none"),
        (LINE.replace("publish+read", "hushhushhushhush"), RIGHTS + "one of them is none"),
        (LINE[:-1], "must be <name>"),
        (LINE + "0", "must be <name>"),
        (LINE[:-1] + "g", "must be <name>"),
        (LINE + "\n", "must be <name>"),
        (LINE + ":more", "must be <name>"),
        (LINE.replace(":sha256", ":SHA256"), "must be <name>"),
        (LINE.replace("sha256:", "sha256="), "must be <name>"),
        (f"publish:sha256:{HEX}", "must be <name>"),
        ("", "a plain key must have 1 to 512"),
        ("x" * 513, "a plain key must have 1 to 512"),
    ],
)
def test_bad_line_is_refused_with_the_problem_and_without_the_text(text, problem):
    """It may hold a secret; a short word where a right should be does not. No line becomes a plain key by mistake."""
    with pytest.raises(ConfigurationError) as caught:
        ApiKeys(["fine", text])
    message = str(caught.value)
    assert message.startswith(f"api_keys, number 2: {problem}")
    for secret in (HEX[:-1], "s3cret", "hush"):
        assert secret not in message


def test_key_in_the_place_of_its_line_is_refused():
    """As a plain key it would have all rights, which it was not made for."""
    key, _ = new_key("backend", [Right.READ])
    with pytest.raises(ConfigurationError, match="the line that was made with it") as caught:
        ApiKeys([key])
    assert key.rpartition("_")[2] not in str(caught.value)


def test_plain_key_has_all_rights_and_a_name_by_its_place():
    keys = ApiKeys([LINE, "s3cret", "p:q"])
    found = keys.find("s3cret")
    assert found is not None
    assert (found.name, found.plain) == ("plain-2", True)
    assert all(found.may(right) for right in Right)
    assert [key.name for key in keys] == ["backend", "plain-2", "plain-3"]


def test_table_tells_of_plain_keys_and_how_many_there_are():
    assert [(len(keys), keys.has_plain) for keys in (ApiKeys([]), ApiKeys([LINE]), ApiKeys([LINE, "s3cret"]))] == [
        (0, False),
        (1, False),
        (2, True),
    ]


def test_two_keys_of_one_name_are_refused():
    """A log that says who it was would not say it."""
    _, line = new_key("backend", [Right.READ])
    with pytest.raises(ConfigurationError, match="number 2: another key has the name backend"):
        ApiKeys([LINE, line])


@pytest.mark.parametrize("lines", [("s3cret", "s3cret"), (LINE, LINE.replace("backend", "other"))])
def test_same_key_twice_is_refused(lines):
    """Which rights it has would not be plain."""
    with pytest.raises(ConfigurationError, match="number 2: this is the same key as") as caught:
        ApiKeys(lines)
    assert "s3cret" not in str(caught.value)


def test_right_is_its_own_and_admin_is_all():
    reader = ApiKey.parse(f"a:read:sha256:{HEX}")
    assert [right for right in Right if reader.may(right)] == [Right.READ]
    admin = ApiKey.parse(f"a:admin:sha256:{HEX}")
    assert [right for right in Right if admin.may(right)] == list(Right)


def test_capital_digits_of_a_hash_are_good():
    assert ApiKey.parse(LINE.replace(HEX, HEX.upper())).digest == bytes.fromhex(HEX)


def test_key_shows_neither_itself_nor_its_hash():
    keys = ApiKeys(["s3cret", LINE])
    shown = repr(keys) + repr(list(keys))
    assert "s3cret" not in shown
    assert "digest" not in shown
    assert HEX not in shown


def test_all_keys_are_compared_wherever_the_right_one_stands(monkeypatch):
    """The delay does not tell which one it was, nor how much of it was right."""
    calls = []

    def compare(one: bytes, other: bytes) -> bool:
        calls.append(len(one))
        return one == other

    keys = ApiKeys(["a", "b", "c"])
    monkeypatch.setattr(api_keys, "hmac", SimpleNamespace(compare_digest=compare))
    for given_key in ("a", "c", "d"):
        calls.clear()
        assert (keys.find(given_key) is None) == (given_key == "d")
        assert calls == [32, 32, 32]


def test_overlong_key_is_not_even_hashed(monkeypatch):
    """A flood of them costs nothing."""
    keys = ApiKeys(["x" * 512])
    assert keys.find("x" * 512) is not None

    def digest(text: str) -> bytes:
        raise AssertionError("it was hashed")

    monkeypatch.setattr(api_keys, "_digest", digest)
    assert keys.find("x" * 513) is None


@given(ANY_TEXT)
@example("\ud800")
@example("")
@example(LINE)
def test_any_text_is_found_or_not(text):
    """It never raises, and what is found is what was given."""
    assert ApiKeys([LINE, "s3cret"]).find(text) is None or text in {"some key", "s3cret"}


@given(ANY_TEXT | st.from_regex(r"[a-z]{0,3}:[a-z+]{0,8}:(sha|SHA)256:[0-9a-f]{60,66}"))
@example("\ud800")
def test_any_text_is_parsed_or_refused(text):
    """With no other exception; a plain key is found by its text."""
    try:
        keys = ApiKeys([text])
    except ConfigurationError:
        return
    assert (keys.find(text) is not None) == keys.has_plain
