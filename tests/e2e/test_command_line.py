"""The command line: what it prints, and how it fails."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from realtime.api_keys import new_key
from realtime.auth import Right
from tests.e2e.processes import ServerProcess, output_of, serving
from tests.peers import connect


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
        (["serve", "--host", "no.such.address.invalid"], {}, "no.such.address.invalid"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
async def test_wrong_configuration_is_told_in_words(
    arguments: list[str], environment: dict[str, str], named: str
) -> None:
    """A readable line that names the setting, no traceback, an exit code that is not 0."""
    code, printed, complaint = await realtime(*arguments, **environment)
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


async def test_port_in_use_is_told_in_words() -> None:
    """No traceback when somebody else was there first."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, printed, complaint = await realtime("serve", "--port", str(port))
    assert code != 0
    assert printed == ""
    assert f"port = {port}: cannot listen" in complaint
    assert "Traceback" not in complaint
