"""``tail``, ``publish``, ``request``, ``members``: against a real server, as processes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trustme

from realtime import Actions
from realtime.server import Server, open_server
from tests.e2e.commands import in_terminal, realtime, running
from tests.e2e.processes import clean_environment, serving
from tests.peers import eventually

KEY = "key-of-the-tests"


class Sum(msgspec.Struct):
    """What the action of the tests takes."""

    numbers: list[int]


async def _add(query: Sum) -> dict[str, int]:
    return {"sum": sum(query.numbers)}


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A server in this process, with an action."""
    actions = Actions()
    actions.register("add", _add)
    async with open_server(dev=True, port=0, api_keys=(KEY,), actions=actions) as opened:
        yield opened


async def test_tail_begins_with_the_newest_and_ends_after_a_count(server: Server) -> None:
    """The newest that are kept, oldest first, in plain text where nobody sees colours."""
    for number in range(5):
        await server.publish("room:a", {"n": number}, event="tick", key="k")
    ended = await realtime("tail", "room:a", "--last", "2", "--count", "2", REALTIME_URL=server.url)
    assert ended.code == 0
    first, second = ended.out.splitlines()
    assert re.fullmatch(r'\d\d:\d\d:\d\d\.\d{3} room:a #4 tick key=k \{"n":3\}', first)
    assert second.endswith('#5 tick key=k {"n":4}')
    assert ended.err == ""


async def test_tail_as_json_prints_what_is_on_the_wire(server: Server) -> None:
    """One object a line, with the members of a message push; the payload in one line, its numbers untouched."""
    await server.publish("room:a", msgspec.Raw(b'{"price":\n 1.50}'), event="tick")
    ended = await realtime("tail", "room:a", "--json", "--count", "1", REALTIME_URL=server.url)
    (line,) = ended.out.splitlines()
    message = json.loads(line)
    assert {name: message[name] for name in ("type", "topic", "offset", "event")} == {
        "type": "message",
        "topic": "room:a",
        "offset": 1,
        "event": "tick",
    }
    assert isinstance(message["time"], int)
    assert line.endswith('"data":{"price":1.50}}')


async def test_tail_follows_several_topics_with_a_view(server: Server) -> None:
    """Fields, filters and what comes later."""
    url = f"--url={server.url}"
    options = ["--fields", "a", "--filter", '{">": ["a", 1]}', "--last", "0", "--json", "--count", "2"]
    async with running("tail", "room:a", "room:b", *options, url) as tail:
        await eventually(lambda: server.statistics().hub.subscriptions == 2)
        await server.publish("room:a", {"a": 1, "b": 1})
        await server.publish("room:a", {"a": 2, "b": 2})
        await server.publish("room:b", {"a": 3})
        assert await tail.wait() == 0
        await tail.wait_text("room:b")
    found = [json.loads(line) for line in tail.text.splitlines()]
    assert sorted((each["topic"], each["data"]["a"], len(each["data"])) for each in found) == [
        ("room:a", 2, 1),
        ("room:b", 3, 1),
    ]


@pytest.mark.parametrize(("more", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
async def test_tail_in_a_terminal_has_colours_unless_they_are_not_wanted(
    server: Server, more: dict[str, str], *, coloured: bool
) -> None:
    """NO_COLOR is honoured."""
    await server.publish("room:a", "hello")
    async with in_terminal("tail", "room:a", "--count", "1", "--url", server.url, **more) as terminal:
        await terminal.wait_text('"hello"')
        assert await terminal.wait() == 0
    assert ("\x1b[" in terminal.text) is coloured


async def test_ctrl_c_ends_tail_quietly_with_130(server: Server) -> None:
    """No traceback, no word; the server sees the connection leave."""
    await server.publish("room:a", "hello")
    async with in_terminal("tail", "room:a", "--url", server.url) as terminal:
        await terminal.wait_text('"hello"')
        terminal.press(b"\x03")
        assert await terminal.wait() == 130
    assert "Traceback" not in terminal.text
    assert "Abort" not in terminal.text


async def test_sigterm_ends_tail_with_143(server: Server) -> None:
    """As a shell tells of a process that a signal has ended."""
    async with running("tail", "room:a", "--url", server.url) as tail:
        await eventually(lambda: server.statistics().hub.subscriptions > 0)
        tail.process.send_signal(signal.SIGTERM)
        assert await tail.wait() == 143
        assert tail.errors == ""


async def test_reader_that_has_enough_ends_tail_quietly(server: Server) -> None:
    """``| head -n 1``: exit code 0, nothing on standard error."""
    script = (
        f'"{sys.executable}" -m realtime tail room:a --url {server.url} | head -n 1; echo "code ${{PIPESTATUS[0]}}"'
    )
    async with trio.open_nursery() as nursery:

        async def tick() -> None:
            while True:
                await server.publish("room:a", "x" * 100)
                await trio.sleep(0.02)

        nursery.start_soon(tick)
        with trio.fail_after(20):
            ended = await trio.run_process(
                ["bash", "-c", script], capture_stdout=True, capture_stderr=True, env=clean_environment()
            )
        nursery.cancel_scope.cancel()
    assert ended.stdout.decode().splitlines()[1:] == ["code 0"]
    assert ended.stderr == b""


async def test_tail_comes_back_to_a_server_that_was_killed() -> None:
    """Tells of the loss and of the return, both on standard error, and of what cannot be had any more."""
    async with serving("serve", "--dev", "--port", "0") as server:
        port = str(server.port)
        await server.publish("room:a", "1")
        async with running("tail", "room:a", "--url", server.url) as tail:
            await tail.wait_text("#1")
            server.process.kill()
            await tail.wait_text("connection lost", errors=True)
            await server.wait()
            async with serving("serve", "--dev", "--port", port) as again:
                await tail.wait_text("connected again", errors=True)
                await tail.wait_text("epoch_changed", errors=True)
                await again.publish("room:a", '"after"')
                await tail.wait_text('"after"')
            tail.process.send_signal(signal.SIGINT)
            assert await tail.wait() == 130


@pytest.mark.parametrize(
    "arguments", [["tail", "room:a"], ["publish", "room:a", "1"], ["members", "room:a"], ["stats"], ["bench"]]
)
@pytest.mark.parametrize("key", ["", KEY])
async def test_server_that_is_down_is_told_with_3(arguments: list[str], key: str) -> None:
    """One line, with a hint; in no time."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    ended = await realtime(*arguments, "--url", url, REALTIME_KEY=key)
    assert ended.code == 3
    assert ended.out == ""
    assert re.fullmatch(r"realtime: UNAVAILABLE: .*\(is the server running there\? .*\)\n", ended.err)


@pytest.mark.parametrize("arguments", [["tail", "room:a"], ["stats", "--once"], ["bench"]])
async def test_server_that_does_not_answer_is_not_waited_for_longer_than_told(arguments: list[str]) -> None:
    """``--connect-timeout`` bounds the wait for somebody who takes the connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        ended = await realtime(*arguments, "--url", url, "--connect-timeout", "0.5", seconds=15.0)
    assert ended.code == 3
    assert ended.err.startswith("realtime: UNAVAILABLE: ")


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["tail", "room:a"], {"REALTIME_TOKEN": "wrong"}, r"AUTH_FAILED: .*\(is REALTIME_TOKEN for this server\?\)"),
        (
            ["publish", "room:a", "1"],
            {"REALTIME_KEY": "wrong"},
            r"AUTH_FAILED: .*\(is REALTIME_KEY a key of this server\?\)",
        ),
        (["tail", "room:a"], {"REALTIME_TOKEN": "two\nlines"}, "AUTH_FAILED: .*printable.*"),
        (
            ["tail", "user:7"],
            {},
            "PERMISSION_DENIED: user:7: .*nobody is logged in: set REALTIME_TOKEN; .*check-access.*",
        ),
        (["tail", "nonsense"], {}, "INVALID_TOPIC: nonsense: .*"),
        (["request", "nothing"], {}, "UNKNOWN_ACTION: .*"),
        (["members", "user:7"], {}, "PERMISSION_DENIED: .*"),
        (["tail", "room:a", "--url", "ftp://elsewhere"], {}, ".*url.*"),
        (["stats", "--once"], {"REALTIME_KEY": "wrong"}, r"AUTH_FAILED: .*\(is REALTIME_KEY a key of this server\?\)"),
        (["stats", "--once", "--url", "ftp://elsewhere"], {}, ".*not the URL of a server"),
    ],
)
async def test_refusal_is_one_line_and_1(
    server: Server, arguments: list[str], environment: dict[str, str], said: str
) -> None:
    """``realtime: CODE: message``, and a hint where one helps."""
    ended = await realtime(*arguments, **{"REALTIME_URL": server.url} | environment)
    assert (ended.code, ended.out) == (1, "")
    assert re.fullmatch(f"realtime: {said}\n", ended.err)


@pytest.mark.parametrize(
    "arguments",
    [
        ["publish", "room:a"],
        ["publish", "room:a", "{"],
        ["publish", "room:a", "[" * 5000],
        ["publish", "room:\udcff", "1"],
        ["publish", "room:a", "--text", "\udcff"],
        ["publish", "room:a", "1", "--key", "\udcff"],
        ["tail", "room:\udcff"],
        ["members", "room:\udcff"],
        ["publish", "room:a", "1", "--lines"],
        ["tail"],
        ["tail", "room:a", "--filter", "{"],
        ["request", "add", "{"],
        ["bench", "--rate", "0"],
        ["token", "--user", "7", "--expires", "soon"],
        ["nothing"],
    ],
)
async def test_wrong_command_line_is_2(arguments: list[str]) -> None:
    """A usage message, and no server is asked."""
    ended = await realtime(*arguments)
    assert ended.code == 2
    assert "Error: " in ended.err
    assert "Traceback" not in ended.err


async def kept(server: Server, count: int) -> list[Any]:
    """The newest messages of ``room:a``."""
    number = str(count)
    tail = await realtime("tail", "room:a", "--json", "--last", number, "--count", number, "--url", server.url)
    return [json.loads(line) for line in tail.out.splitlines()]


@pytest.mark.parametrize("key", ["", KEY])
async def test_published_message_is_there_once(server: Server, key: str) -> None:
    """As a peer, and as a back end with a key: the position is printed; said again with its key, it is a duplicate."""
    given = {"REALTIME_URL": server.url, "REALTIME_KEY": key}
    options = ["--event", "chat", "--key", "7", "--idempotency-key", "once"]
    first = await realtime("publish", "room:a", '{"text": "hi"}', *options, **given)
    epoch, offset = first.out.split()
    assert (first.code, offset) == (0, "1")
    again = await realtime("publish", "room:a", '{"text": "hi"}', *options, "--json", **given)
    assert json.loads(again.out) == {"epoch": epoch, "offset": 1, "duplicate": True}
    assert (await realtime("publish", "room:a", "-", "--text", stdin=b"a\nb", **given)).code == 0
    message, text = await kept(server, 2)
    assert (message["event"], message["key"], message["data"]) == ("chat", "7", {"text": "hi"})
    assert text["data"] == "a\nb"


@pytest.mark.parametrize("key", ["", KEY])
async def test_each_line_is_published_in_order(server: Server, key: str) -> None:
    """Empty lines are left out; what came of it is told."""
    lines = b"".join(b"%d\n\n" % number for number in range(100))
    given = {"REALTIME_URL": server.url, "REALTIME_KEY": key, "stdin": lines}
    ended = await realtime("publish", "room:a", "--lines", "--idempotency-key", "file", **given)
    assert re.fullmatch(r"published 100 in \d+\.\d s, the last at \w+ 100\n", ended.out)
    assert [message["data"] for message in await kept(server, 100)] == list(range(100))
    again = await realtime("publish", "room:a", "--lines", "--idempotency-key", "file", "--json", **given)
    told = json.loads(again.out)
    assert (told["published"], told["duplicates"], told["offset"]) == (100, 100, 100)


async def test_input_that_is_no_text_is_one_line_and_1(server: Server) -> None:
    """Of what is to be published as text; as JSON it is none."""
    ended = await realtime("publish", "room:a", "-", "--text", "--url", server.url, stdin=b"\xff\xfe")
    assert (ended.code, ended.out) == (1, "")
    assert re.fullmatch("realtime: standard input is not UTF-8: .*\n", ended.err)
    assert (await realtime("publish", "room:a", "-", "--url", server.url, stdin=b'"\xff"')).code == 2


@pytest.mark.parametrize("command", [["tail", "room:a"], ["stats"], ["bench"], ["publish", "room:a", "1"]])
async def test_token_file_that_is_no_text_is_one_line_and_1(server: Server, tmp_path: Path, command: list[str]) -> None:
    """As when a name is mistaken."""
    file = tmp_path / "token"
    file.write_bytes(b"\x7fELF\xff\xfe")
    ended = await realtime(*command, "--token-file", str(file), "--url", server.url)
    assert (ended.code, ended.out) == (1, "")
    assert ended.err == f"realtime: {file}: is not UTF-8, and so no token\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
@pytest.mark.parametrize(
    "arguments",
    [
        ["tail", "room:a"],
        ["tail", "room:a", "--json"],
        ["publish", "room:a", "1"],
        ["publish", "room:a", "1", "--json"],
        ["request", "add", '{"numbers": []}'],
        ["stats", "--json"],
        ["stats", "--once"],
        ["top"],
        ["bench", "--connections", "2", "--seconds", "0.1"],
        ["completion", "bash"],
        ["check-config"],
    ],
)
async def test_full_disk_is_one_line_and_1(server: Server, arguments: list[str]) -> None:
    """Nothing more at the end either, when Python flushes what is left."""
    await server.publish("room:a", "a message")
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        process = await trio.run_process(
            [sys.executable, "-m", "realtime", *arguments],
            stdout=full,
            capture_stderr=True,
            check=False,
            env=clean_environment(REALTIME_URL=server.url),
        )
    finally:
        os.close(full)
    assert (process.returncode, process.stderr) == (1, b"realtime: standard output: No space left on device\n")


@pytest.mark.parametrize("_again", range(3))
async def test_refusals_of_several_topics_are_one_line(server: Server, _again: int) -> None:
    """That of the first, however they come about."""
    ended = await realtime("tail", "nope:b", "nope:a", "nope:c", "nope:d", "--url", server.url)
    assert (ended.code, ended.out) == (1, "")
    assert re.fullmatch("realtime: INVALID_TOPIC: nope:b: .*\n", ended.err)


@pytest.mark.parametrize("key", ["", KEY])
async def test_bad_line_ends_publishing_with_its_number(server: Server, key: str) -> None:
    """What was before it is published, and counted."""
    ended = await realtime("publish", "room:a", "--lines", REALTIME_URL=server.url, REALTIME_KEY=key, stdin=b"1\n{\n3")
    assert ended.code == 1
    assert ended.out.startswith("published 1 in ")
    assert ended.err.startswith("realtime: line 2 is not JSON: ")


async def test_refused_line_is_told_with_its_number(server: Server) -> None:
    """Of a topic that there cannot be."""
    ended = await realtime("publish", "bad", "--lines", REALTIME_URL=server.url, REALTIME_KEY=KEY, stdin=b"1\n")
    assert ended.code == 1
    assert "line 1: " in ended.err


async def test_request_prints_the_answer(server: Server) -> None:
    """As JSON; a payload that does not fit is a failure."""
    ended = await realtime("request", "add", '{"numbers": [1, 2]}', REALTIME_URL=server.url)
    assert (ended.code, json.loads(ended.out)) == (0, {"sum": 3})
    ended = await realtime("request", "add", '{"numbers": 1}', REALTIME_URL=server.url)
    assert ended.code == 1
    assert re.fullmatch(r"realtime: BAD_REQUEST: .* \[trace id \w+\]\n", ended.err)


async def test_members_are_listed(server: Server) -> None:
    """For people and for programs."""
    url = f"--url={server.url}"
    async with running("tail", "room:a", url):
        await eventually(lambda: server.statistics().presence.members > 0)
        plain = await realtime("members", "room:a", url)
        as_json = await realtime("members", "room:a", "--json", url)
    assert plain.out.startswith("(anonymous)  c_")
    assert plain.err == "realtime: 1 in room:a\n"
    assert set(json.loads(as_json.out)) == {"user", "connection", "info"}


async def test_token_of_a_file_is_used(server: Server, tmp_path: Path) -> None:
    """An API key too, as it is a login; it opens what nobody else may have."""
    file = tmp_path / "token"
    file.write_text(f"{KEY}\n")
    await server.publish("user:7", "for you alone")
    ended = await realtime("tail", "user:7", "--count", "1", "--token-file", str(file), REALTIME_URL=server.url)
    assert (ended.code, ended.err) == (0, "")
    assert "for you alone" in ended.out


def test_servers_do_not_mind_what_clients_have_in_the_environment() -> None:
    """REALTIME_URL, REALTIME_TOKEN and REALTIME_KEY are no settings, and no faults among them."""
    environment = clean_environment(REALTIME_URL="x", REALTIME_TOKEN="y", REALTIME_KEY="z")
    checked = subprocess.run([sys.executable, "-m", "realtime", "check-config"], env=environment, check=False)
    assert checked.returncode == 0


async def test_certificates_are_checked_by_every_command(tmp_path: Path) -> None:
    """A certificate that nobody knows is no connection; with its authority in SSL_CERT_FILE all is well."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "certificate.pem")
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    tls = {"tls_certificate": str(tmp_path / "certificate.pem"), "tls_key": str(tmp_path / "key.pem")}
    commands = (
        ["publish", "room:a", "1"],
        ["tail", "room:a", "--count", "1"],
        ["stats", "--once"],
        ["bench", "--connections", "2", "--seconds", "0.1"],
    )
    async with open_server(dev=True, port=0, api_keys=(KEY,), **tls) as server:
        given = {"REALTIME_URL": server.url, "REALTIME_KEY": KEY}
        for command in commands:
            refused = await realtime(*command, **given)
            assert (refused.code, refused.out) == (3, ""), command
            assert command[0] == "publish" or "certificate" in refused.err.lower(), command
            done = await realtime(*command, SSL_CERT_FILE=str(tmp_path / "authority.pem"), **given)
            assert (done.code, done.faults) == (0, ""), command
