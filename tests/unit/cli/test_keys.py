"""``new-key`` and ``check-access``: what they print, and their exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from realtime.api_keys import ApiKeys
from realtime.auth import Right
from realtime.cli import main


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def test_new_key_prints_the_key_and_its_line_alone() -> None:
    """The line knows the key; what they are stands on standard error."""
    made = run("new-key", "ticker", "--rights", "publish, read")
    key, line = made.stdout.splitlines()
    found = ApiKeys([line]).find(key)
    assert found is not None
    assert found.rights == {Right.PUBLISH, Right.READ}
    assert len(made.stderr.splitlines()) == 2


@pytest.mark.parametrize("arguments", [["Ticker"], ["ticker", "--rights", "fly"]])
def test_key_that_cannot_be_is_a_wrong_command_line(arguments: list[str]) -> None:
    """A name or a right that there is not."""
    made = run("new-key", *arguments)
    assert (made.exit_code, made.stdout) == (2, "")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--user", "7", "--claim", "team=a", "--topic", "room:a"], 0),
        (["--user", "7", "--claim", "team=a", "--topic", "room:a", "--verb", "join"], 0),
        (["--user", "7", "--claim", 'team="b"', "--topic", "room:a", "--verb", "join"], 1),
        (["--topic", "room:a", "--verb", "join"], 1),
        (["--user", "7", "--action", "add", "--verb", "request"], 1),
        (["--user", "7", "--action", "add", "--verb", "join"], 2),
        (["--user", "two words", "--topic", "room:a"], 2),
        (["--topic", "nonsense"], 2),
        (["--claim", "team", "--user", "7", "--topic", "room:a"], 2),
        ([], 2),
    ],
)
def test_access_is_told_by_the_exit_code(tmp_path: Path, arguments: list[str], code: int) -> None:
    """0 and 1 are answers, 2 is none."""
    file = tmp_path / "realtime.toml"
    file.write_text('[[rules]]\ntopics = ["room:{claims.team}"]\nallow = ["join"]\n')
    assert run("check-access", "--config", str(file), *arguments).exit_code == code
