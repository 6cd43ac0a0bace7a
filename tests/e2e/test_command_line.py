"""The command line: what it prints, and how it fails."""

from __future__ import annotations

import json
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwk

from realtime.api_keys import ApiKey, new_key
from realtime.auth import Right
from tests.e2e.processes import ServerProcess, output_of, serving
from tests.peers import connect, eventually


async def realtime(*arguments: str, **environment: str) -> tuple[int, str, str]:
    return await output_of(sys.executable, "-m", "realtime", *arguments, **environment)


async def test_version_and_help_are_printed() -> None:
    """What every command line answers."""
    code, printed, _ = await realtime("--version")
    assert code == 0
    assert printed.startswith("realtime, version ")
    code, printed, _ = await realtime("serve", "-h")
    assert code == 0
    assert "--port" in printed


async def test_served_address_is_printed_and_answers(server: ServerProcess) -> None:
    """The printed address is the real one, port 0 or not, and a key for publishing stands beside it."""
    assert server.api_key.startswith("dev_")
    async with connect(server.port) as raw:
        assert (await raw.request("GET", "/healthz")).json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("arguments", "environment", "named"),
    [
        (["serve", "--port", "70000"], {}, "port = 70000"),
        (["serve", "--port", "x"], {}, "--port"),
        (["serve", "--config", "nowhere.toml"], {}, "nowhere.toml"),
        (["serve"], {"REALTIME_PROT": "1"}, "REALTIME_PROT"),
        (["serve"], {"REALTIME_PING_INTERVAL_SECONDS": "often"}, "ping_interval_seconds"),
        (["serve"], {"REALTIME_GRACE_SECONDS": "-1"}, "grace_seconds"),
        (["serve"], {"REALTIME_TLS_CERTIFICATE": "nowhere.pem"}, "tls_key"),
        (["serve"], {"REALTIME_TLS_CERTIFICATE": "nowhere.pem", "REALTIME_TLS_KEY": "nowhere.pem"}, "nowhere.pem"),
        (["serve", "--dev"], {"REALTIME_HOST": "0.0.0.0"}, "host"),
        (["serve"], {"REALTIME_JWT_ALGORITHMS": "HS256"}, "set REALTIME_JWT_SECRET"),
        (["serve"], {"REALTIME_TRUSTED_PROXIES": "10.0.0.1/8"}, "write 10.0.0.0/8"),
        (["serve"], {"REALTIME_ORIGINS": "https://a.example/"}, "write https://a.example, as browsers send it"),
        (
            ["serve"],
            {"REALTIME_JWT_ALGORITHMS": "RS256", "REALTIME_JWT_JWKS_URL": "http://id.example/keys"},
            "jwt_jwks_url = 'http://id.example/keys': must be https://",
        ),
        (["serve", "--host", "no.such.address.invalid"], {}, "no.such.address.invalid"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
async def test_wrong_configuration_is_told_in_words(
    arguments: list[str], environment: dict[str, str], named: str
) -> None:
    """A readable line that names the setting, no traceback, an exit code that is not 0."""
    code, printed, complaint = await realtime(*arguments, **{"REALTIME_PORT": "0"} | environment)
    assert code != 0
    assert printed == ""
    assert named in complaint
    assert "Traceback" not in complaint


async def test_wrong_setting_in_a_file_is_told_with_the_file(tmp_path: Path) -> None:
    """The message names file, key and value."""
    file = tmp_path / "realtime.toml"
    file.write_text('[kinds.room]\noverflow = "explode"\n')
    code, _, complaint = await realtime("serve", "--config", str(file))
    assert code != 0
    assert "kinds.room.overflow = 'explode'" in complaint
    assert "Traceback" not in complaint


async def test_settings_of_a_file_are_in_force(tmp_path: Path) -> None:
    """Host, port and keys from a file; no development mode without being asked for."""
    file = tmp_path / "realtime.toml"
    key, line = new_key("backend", [Right.PUBLISH])
    file.write_text(f'port = 0\napi_keys = ["{line}"]\n')
    async with serving("serve", "--config", str(file)) as server, connect(server.port) as raw:
        server.api_key = key
        await server.publish("room:a", "1")
        assert (await raw.request("GET", "/sse?topic=room:a")).status == 401


def logged(server: ServerProcess, event: str) -> list[dict[str, Any]]:
    """What a server has logged of one event so far."""
    lines = b"".join(server.log).decode().splitlines(keepends=True)
    entries = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]
    return [entry for entry in entries if entry["event"] == event]


async def hang_up(server: ServerProcess, event: str) -> dict[str, Any]:
    """Send SIGHUP; the event that the server answers it with."""
    before = len(logged(server, event))
    server.signal(signal.SIGHUP)
    await eventually(lambda: len(logged(server, event)) > before)
    return logged(server, event)[-1]


async def is_served(server: ServerProcess, key: str = "", topic: str = "room:a") -> bool:
    """Whether the server publishes what is sent with this key, or with the one it printed."""
    body = json.dumps({"topic": topic, "data": 1}).encode()
    async with connect(server.port) as raw:
        response = await raw.request("POST", "/api/v1/publish", headers={"X-Api-Key": key or server.api_key}, body=body)
    return response.status == 200


async def test_reload_says_which_changes_of_the_file_need_a_restart(tmp_path: Path) -> None:
    """Those to host, port and audit are among them; the API keys are taken over."""
    file = tmp_path / "realtime.toml"
    (old, old_line), (new, new_line) = (new_key(name, [Right.PUBLISH]) for name in ("old", "new"))
    file.write_text(f'port = 0\napi_keys = ["{old_line}"]\n')
    async with serving("serve", "--config", str(file)) as server:
        assert (await hang_up(server, "settings taken over"))["needs_restart"] == []
        assert [await is_served(server, key) for key in (old, new)] == [True, False]
        file.write_text(f'host = "0.0.0.0"\nport = 1\naudit = false\napi_keys = ["{new_line}"]\n')
        assert (await hang_up(server, "settings taken over"))["needs_restart"] == ["host", "port", "audit"]
        assert [await is_served(server, key) for key in (old, new)] == [False, True]
        file.write_text(f'port = 0\naudit = true\napi_keys = ["{new_line}"]\n')
        assert (await hang_up(server, "settings taken over"))["needs_restart"] == []


async def test_options_that_were_given_outlast_a_reload(tmp_path: Path) -> None:
    """What the file says of them counts for nothing, then as before; the key that was made up stays in force."""
    file = tmp_path / "realtime.toml"
    file.write_text("")
    options = ("--host", "127.0.0.1", "--port", "0", "--dev", "--config", str(file))
    async with serving("serve", *options) as server:
        file.write_text('host = "0.0.0.0"\nport = 1\ndev = false\nmax_topics = 7\n')
        assert (await hang_up(server, "settings taken over"))["needs_restart"] == ["max_topics"]
        assert await is_served(server)
        key, line = new_key("backend", [Right.PUBLISH])
        file.write_text(f'api_keys = ["{line}"]\n')
        assert (await hang_up(server, "settings taken over"))["needs_restart"] == []
        assert [await is_served(server, key), await is_served(server)] == [True, False]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        # Good by itself, but the kinds of a server that runs stay what they are.
        (
            '[kinds.order]\njoin = "anyone"\n[[rules]]\ntopics = ["order:*"]\nallow = ["join"]\n',
            "no such kind of topic",
        ),
        ('[[rules]]\ntopics = ["room:*"]\nallow = ["join"]\nusers = []\n', "users: is empty"),
        ("port =", "not TOML"),
    ],
)
async def test_reload_of_settings_with_a_fault_changes_nothing(text: str, fault: str, tmp_path: Path) -> None:
    """The server lives, serves as before, and takes the next ones."""
    file = tmp_path / "realtime.toml"
    key, line = new_key("backend", [Right.PUBLISH])
    before = f'port = 0\napi_keys = ["{line}"]\n'
    file.write_text(before)
    async with serving("serve", "--config", str(file)) as server:
        file.write_text(text)
        assert fault in (await hang_up(server, "the settings are not taken over"))["fault"]
        assert await is_served(server, key)
        file.write_text(before)
        assert (await hang_up(server, "settings taken over"))["needs_restart"] == []
        server.signal(signal.SIGTERM)
        assert await server.wait() == 0


async def test_demo_ignores_a_hang_up(demo: ServerProcess) -> None:
    """There is nothing that it could read anew, and no reason to end."""
    demo.signal(signal.SIGHUP)
    assert await is_served(demo)
    demo.signal(signal.SIGTERM)
    assert await demo.wait() == 0


@pytest.mark.parametrize("rights", ["publish,tickets", "publish+tickets", "tickets, publish", "tickets + publish"])
async def test_new_key_takes_rights_with_commas_or_plus_signs(rights: str) -> None:
    """The line has plus signs, so whoever copies from there is right, too."""
    code, printed, _ = await realtime("new-key", "website", "--rights", rights)
    key, line = printed.splitlines()
    assert (code, key.startswith("rtk_website_")) == (0, True)
    assert ApiKey.parse(line).rights == {Right.PUBLISH, Right.TICKETS}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["b:x"], "NAME: the name must have 1 to 32 small letters, digits, hyphens and underscores, a letter first"),
        (["b", "--rights", "write"], "--rights: 'write' is not a valid Right; there are publish, read, tickets, admin"),
        (["b", "--rights", ""], "--rights: '' is not a valid Right; there are publish"),
    ],
)
async def test_wrong_new_key_is_told_in_words(arguments: list[str], named: str) -> None:
    """No key is printed; the message has what may be given."""
    code, printed, complaint = await realtime("new-key", *arguments)
    assert (code, printed) == (2, "")
    assert named in complaint


RULES = """
jwt_algorithms = ["HS256"]
tls_certificate = "cert.pem"
tls_key = "key.pem"
[[rules]]
name = "team"
topics = ["room:team"]
allow = ["join"]
claims = { team = "a" }
"""


@pytest.mark.parametrize(
    ("arguments", "code", "decided"),
    [
        ([], 0, "no   nothing allows it"),
        (["--claim", "team=a"], 0, 'yes  rule "team"'),
        (["--verb", "join"], 1, "no   nothing allows it"),
        (["--claim", 'team=["b", "a"]', "--verb", "join"], 0, 'yes  rule "team"'),
    ],
)
async def test_access_is_checked_without_any_secret(
    arguments: list[str], code: int, decided: str, tmp_path: Path
) -> None:
    """The file asks for a secret and for keys that are only where the server is. 1 is the answer no."""
    file = tmp_path / "realtime.toml"
    file.write_text(RULES)
    ended, printed, complaint = await realtime(
        "check-access", "--config", str(file), "--user", "7", "--topic", "room:team", *arguments
    )
    assert (ended, complaint) == (code, "")
    assert printed.splitlines()[0] == f"join     {decided}"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--config", "nowhere.toml", "--topic", "room:a"], "nowhere.toml"),
        (["--topic", "nosuch:a"], "no such kind"),
        (["--topic", "symbol:x"], "symbol"),
        (["--topic", "room:a", "--user", "7", "--claim", "team"], "--claim: 'team': must be NAME=JSON"),
        (["--topic", "room:a", "--user", "7", "--claim", "=a"], "--claim: '=a': must be NAME=JSON"),
        (["--topic", "room:a", "--action", "quote"], "either --topic or --action"),
        (["--topic", "room:a", "--verb", "request"], "--verb request"),
        (["--topic", "room:a", "--verb", "write"], "--verb"),
        ([], "either --topic or --action"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
async def test_access_that_cannot_be_told_is_not_the_answer_no(arguments: list[str], named: str) -> None:
    """The exit code is 2, and nobody takes it for a denial."""
    code, _, complaint = await realtime("check-access", *arguments)
    assert code == 2
    assert named in complaint
    assert "Traceback" not in complaint


async def test_access_by_a_file_with_a_fault_is_not_the_answer_no(tmp_path: Path) -> None:
    """Nor is it one by the rest of the file."""
    file = tmp_path / "realtime.toml"
    file.write_text(RULES + "users = []\n")
    code, printed, complaint = await realtime(
        "check-access", "--config", str(file), "--topic", "room:a", "--verb", "join"
    )
    assert (code, printed) == (2, "")
    assert 'rules[1] "team": users: is empty' in complaint


async def test_private_key_among_the_files_with_keys_is_told_in_words(tmp_path: Path) -> None:
    """With the file and the way to the public key; nothing of the key."""
    pem = tmp_path / "signing.pem"
    pem.write_bytes(jwk.ECKey.generate_key("P-256").as_pem(private=True))
    code, printed, complaint = await realtime(
        "serve", "--port", "0", REALTIME_JWT_ALGORITHMS="ES256", REALTIME_JWT_KEY_FILES=str(pem)
    )
    assert (code, printed) == (1, "")
    assert complaint == (
        f"realtime: jwt_key_files: {pem}: is a private key; make the public one with: openssl pkey -in FILE -pubout\n"
    )


async def test_port_in_use_is_told_in_words() -> None:
    """No traceback when somebody else was there first."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, printed, complaint = await realtime("serve", "--port", str(port))
    assert code != 0
    assert printed == ""
    assert f"port = {port}: cannot listen" in complaint
    assert "choose another one with --port, REALTIME_PORT or the setting `port`" in complaint
    assert "Traceback" not in complaint
