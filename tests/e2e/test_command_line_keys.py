"""``token``, ``check-config``, ``completion``, and help."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from realtime.cli import main
from realtime.config import load_settings
from realtime.server import open_server
from tests.e2e.commands import realtime
from tests.e2e.processes import clean_environment

SECRET = "a-secret-that-is-long-enough-for-hs256-0123456789"


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A server that takes tokens."""
    file = tmp_path / "realtime.toml"
    file.write_text(
        'jwt_algorithms = ["HS256"]\njwt_issuer = "tests"\njwt_audience = "us"\n'
        '[[rules]]\ntopics = ["doc:{claims.team}"]\nallow = ["join", "history"]\n'
        "[kinds.doc]\n"
    )
    return str(file)


async def test_token_is_printed_alone_and_logs_in(config: str) -> None:
    """Issuer, audience and time are right, a claim is JSON; what it is for is told on standard error."""
    made = await realtime(
        "token", "--config", config, "--user", "7", "--role", "editor", "--claim", 'team="a"', "--expires", "1m",
        REALTIME_JWT_SECRET=SECRET,
    )  # fmt: skip
    (token,) = made.out.splitlines()
    assert made.code == 0
    assert "development" in made.err
    settings = load_settings(config, environ={"REALTIME_JWT_SECRET": SECRET})
    async with open_server(settings, port=0) as server:
        await server.publish("doc:a", "of the team")
        given = {"REALTIME_URL": server.url, "REALTIME_TOKEN": token}
        ended = await realtime("tail", "doc:a", "--count", "1", **given)
        assert (ended.code, ended.err) == (0, "")
        assert "of the team" in ended.out
        assert (await realtime("tail", "doc:b", "--count", "1", **given)).code == 1


async def test_topics_that_a_login_brings_can_be_followed(tmp_path: Path) -> None:
    """As the help of ``token`` says: those of the user, and of everybody, though they are subscribed already."""
    file = tmp_path / "realtime.toml"
    file.write_text(f'jwt_algorithms = ["HS256"]\njwt_secret = "{SECRET}"\n')
    made = await realtime("token", "--config", str(file), "--user", "7")
    async with open_server(load_settings(str(file)), port=0) as server:
        given = {"REALTIME_URL": server.url, "REALTIME_TOKEN": made.out.strip()}
        await server.publish("user:7", "for you")
        one = await realtime("tail", "user:7", "--count", "1", **given)
        assert (one.code, one.err) == (0, "")
        assert "for you" in one.out
        await server.publish("global", "for all")
        both = await realtime("tail", "user:7", "global", "--count", "2", **given)
        assert (both.code, both.err) == (0, "")
        assert sorted(line.split()[1] for line in both.out.splitlines()) == ["global", "user:7"]


async def test_wrong_api_key_is_called_one(config: str) -> None:
    """At a server that takes tokens, and would look whether it is one; the hint names the variable in use alone."""
    settings = load_settings(config, environ={"REALTIME_JWT_SECRET": SECRET})
    async with open_server(settings, port=0, api_keys=("right",)) as server:
        for command in (["tail", "room:a"], ["bench"], ["publish", "room:a", "1"], ["stats"]):
            ended = await realtime(*command, REALTIME_URL=server.url, REALTIME_KEY="wrong")
            assert (ended.code, ended.out) == (1, ""), command
            assert "(is REALTIME_KEY a key of this server?)" in ended.err, command
            assert "REALTIME_TOKEN" not in ended.err, command
        ended = await realtime("bench", REALTIME_URL=server.url, REALTIME_TOKEN="wrong")
        assert "(is REALTIME_TOKEN for this server?)" in ended.err


async def test_token_that_the_server_would_refuse_is_not_printed(config: str) -> None:
    """As of a user with a blank in the name."""
    ended = await realtime("token", "--config", config, "--user", "two words", REALTIME_JWT_SECRET=SECRET)
    assert (ended.code, ended.out) == (1, "")
    assert "would not take it" in ended.err


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("", "takes no tokens"),
        ('jwt_algorithms = ["RS256"]\njwt_jwks_url = "https://id.example.com/jwks"\n', "signed with RS256"),
    ],
)
async def test_token_without_a_shared_secret_says_what_to_do(tmp_path: Path, settings: str, said: str) -> None:
    """Only HS256 can be signed with what a server has."""
    file = tmp_path / "realtime.toml"
    file.write_text(settings)
    ended = await realtime("token", "--config", str(file), "--user", "7")
    assert (ended.code, ended.out) == (1, "")
    assert said in ended.err
    assert ended.err.count("\n") == 1


async def test_configuration_is_reviewed(config: str) -> None:
    """Ok, then notes, then what is not as by default; secrets are not shown."""
    ended = await realtime("check-config", "--config", config, REALTIME_JWT_SECRET=SECRET, REALTIME_DEV="on")
    first, *more = ended.out.splitlines()
    assert (ended.code, first) == (0, "ok")
    assert any(line.startswith("note: dev is on") for line in more)
    assert 'jwt_algorithms = ["HS256"]' in more
    assert SECRET not in ended.out
    as_json = await realtime("check-config", "--json", "--config", config, REALTIME_JWT_SECRET=SECRET)
    found = json.loads(as_json.out)
    assert (found["ok"], found["differs"]["jwt_secret"]) == (True, "***")
    assert any("no api_keys" in note for note in found["notes"])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("port = 70000\n", "port = 70000"),
        ('tls_certificate = "nowhere.pem"\ntls_key = "nowhere.pem"\n', "nowhere.pem"),
        ('jwt_algorithms = ["RS256"]\njwt_key_files = ["nowhere.pem"]\n', "nowhere.pem"),
        ("[kinds.room]\nhistory_messages = -1\n", "history_messages"),
    ],
)
async def test_faulty_configuration_is_1(tmp_path: Path, text: str, named: str) -> None:
    """In words, or as JSON."""
    file = tmp_path / "realtime.toml"
    file.write_text(text)
    ended = await realtime("check-config", "--config", str(file))
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith("realtime: ")
    assert named in ended.err
    as_json = await realtime("check-config", "--config", str(file), "--json")
    assert as_json.code == 1
    assert named in json.loads(as_json.out)["error"]


def test_completion_script_works_in_bash(tmp_path: Path) -> None:
    """A shell that has read it completes commands."""
    command = tmp_path / "realtime"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m realtime "$@"\n')
    command.chmod(0o755)
    script = (
        'set -e; eval "$(realtime completion bash)"\n'
        "COMP_WORDS=(realtime check-) COMP_CWORD=1; _realtime_completion realtime\n"
        'echo "${COMPREPLY[@]}"\n'
    )
    environment = clean_environment(PATH=f"{tmp_path}:{os.environ['PATH']}")
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, env=environment, check=False, timeout=20
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "check-config check-access\n"


@pytest.mark.parametrize(("shell", "word"), [("bash", "complete "), ("zsh", "compdef"), ("fish", "complete ")])
async def test_completion_is_printed_for_each_shell(shell: str, word: str) -> None:
    """As a script that calls us for the words."""
    ended = await realtime("completion", shell)
    assert ended.code == 0
    assert word in ended.out
    assert "_REALTIME_COMPLETE" in ended.out


@pytest.mark.parametrize("command", sorted(main.commands))
async def test_help_has_a_line_of_summary_and_an_example(command: str) -> None:
    """For somebody who sees it for the first time."""
    ended = await realtime(command, "--help", COLUMNS="100")
    assert ended.code == 0
    assert "Example" in ended.out
    assert f"  realtime {command} " in ended.out or f"realtime {command}" in ended.out.partition("Example")[2]
    summary = main.commands[command].get_short_help_str(60)
    assert summary
    assert not summary.endswith("...")
