"""The documentation's examples do what the documentation says.

Programs are run from their first line to their last, and what they print is compared with the ``.out`` file that
the pages show. Commands and replies on the page of the protocol are compared with a server's.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import tomllib
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from realtime import Actions, Identity, Settings, Since, load_settings, open_engine
from realtime.errors import ErrorCode
from realtime.history import decode_cursor
from realtime.messages import decode_command, decode_wish, encode
from realtime.polling import Poll, poll
from realtime.testing import connect
from realtime.wishes import Subscribe
from tests.e2e.processes import output_of

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "docs" / "examples"
PAGES = sorted((ROOT / "docs").rglob("*.rst"), key=str)
PAGES = [page for page in PAGES if "_build" not in page.parts]
#: Of the folder ``examples``: they serve until they are stopped.
SERVERS = ("market", "progress", "workspace")
PRINTING = sorted(path.stem for path in EXAMPLES.glob("*.out"))
#: Run in another way than for what they print.
RUN_OTHERWISE = {"clock", "virtual_time"}
#: Far more than any of them needs, far less than a test run may hang.
SECONDS = 30


def _environment(**more):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("REALTIME_")}
    return {**kept, "PYTHONWARNINGS": "error", **more}


def _blocks(page, language):
    """The blocks of code of one language on a page."""
    lines = page.read_text().splitlines()
    for number, line in enumerate(lines):
        if line.strip() != f".. code-block:: {language}":
            continue
        block = []
        for inner in lines[number + 1 :]:
            if inner and not inner.startswith("   "):
                break
            block.append(inner[3:])
        yield "\n".join(block).strip() + "\n"


@pytest.fixture(autouse=True)
def deadline():
    """No example may hang the test run."""

    def fail(_signal, _frame):
        raise TimeoutError(f"not done after {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", PRINTING)
def test_program_prints_what_the_page_shows(name, capsys):
    """Each program prints exactly its ``.out`` file, and nothing to standard error."""
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    printed, errors = capsys.readouterr()
    assert errors == ""
    assert printed == (EXAMPLES / f"{name}.out").read_text()


def test_embedding_example_prints_three_ticks(capsys):
    """The README's program prints how to reach it, and what it receives from itself."""
    runpy.run_path(str(ROOT / "examples" / "embed.py"), run_name="__main__")
    printed, errors = capsys.readouterr()
    assert errors == ""
    first, *ticks = printed.splitlines()
    assert re.fullmatch(r"curl -N 'http://127\.0\.0\.1:\d+/sse\?topic=symbol:600519'", first)
    assert ticks == ["1 tick 1480.0", "2 tick 1480.5", "3 tick 1479.8"]


def test_readme_shows_the_embedding_example():
    """The README and the file are the same text."""
    shown = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert shown is not None
    assert shown[1] == (ROOT / "examples" / "embed.py").read_text()


@pytest.mark.parametrize("program", ["docs/examples/clock.py", *(f"examples/{name}.py" for name in SERVERS)])
async def test_program_says_in_a_line_that_its_port_is_taken(program):
    """No traceback, as that is nobody's bug."""
    (taken,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with taken:
        port = str(taken.socket.getsockname()[1])
        by_option = [] if "clock" in program else ["--port", port]
        code, printed, errors = await output_of(sys.executable, str(ROOT / program), *by_option, REALTIME_PORT=port)
    assert (code, printed, errors.count("\n")) == (1, "", 1)
    assert port in errors


async def test_tutorial_server_tells_the_time_until_it_is_told_to_end():
    """The tutorial's server streams once a second, and ends on SIGTERM with 0."""
    with trio.fail_after(SECONDS):
        process = await trio.lowlevel.open_process(
            [sys.executable, str(EXAMPLES / "clock.py")],
            env=_environment(REALTIME_PORT="0", REALTIME_GRACE_SECONDS="2"),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            printed = b""
            while b"\n" not in printed:
                printed += await process.stdout.receive_some()
            found = re.search(rb"http://127\.0\.0\.1:(\d+)(/sse\?topic=room:clock)", printed)
            stream = await trio.open_tcp_stream("127.0.0.1", int(found[1]))
            async with stream:
                await stream.send_all(b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % found[2])
                received = b""
                while b"event: message" not in received or not received.endswith(b"\n\n"):
                    received += await stream.receive_some()
                process.send_signal(signal.SIGTERM)
                while data := await stream.receive_some():
                    received += data
            assert re.search(rb'"data":{"now":"\d\d:\d\d:\d\d"}', received)
            assert b'"code":4100' in received
            assert await process.wait() == 0
        finally:
            process.kill()
            await process.wait()
            await process.stdout.aclose()


def _load(name):
    specification = importlib.util.spec_from_file_location(f"docs_example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


# The example of tests is itself a module of tests: here they are, to be run by this test run.
globals().update({name: value for name, value in vars(_load("virtual_time")).items() if name.startswith("test_")})


def test_every_example_is_run_and_shown():
    """No program in the folder is left out by this module or by the pages."""
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert names == set(PRINTING) | RUN_OTHERWISE
    text = "".join(page.read_text() for page in PAGES)
    assert not [name for name in names if f"examples/{name}.py" not in text]
    assert not [name for name in PRINTING if f"examples/{name}.out" not in text]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_has_no_python_that_is_not_run(page):
    """Python on the pages comes from files that are run; and each page ends with a next step."""
    text = page.read_text()
    assert ".. code-block:: python" not in text
    if page.stem != "index" or page.parent.name == "decisions":
        assert re.search(r"^Next: ", text, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_settings_on_page_are_accepted(page, tmp_path):
    """Every TOML block is a file that the server takes."""
    for block in _blocks(page, "toml"):
        path = tmp_path / "realtime.toml"
        path.write_text(block)
        settings = load_settings(path, environ={})
        assert all(getattr(settings, name) is not None for name in tomllib.loads(block))


# -- the page of the protocol -----------------------------------------------------------------------------------

PROTOCOL_PAGE = ROOT / "docs" / "reference" / "protocol.rst"
PROTOCOL = PROTOCOL_PAGE.read_text()
#: On the page, the epoch of a topic that the server still has in this life.
REMEMBERED_EPOCH = "u5ht2c9d"
#: A message may go on in lines that are indented further.
LINES = [
    (arrow, re.sub(r"\n +", "", text))
    for arrow, text in re.findall(r"^   (->|<-) (.*(?:\n {6,}.*)*)$", PROTOCOL, re.MULTILINE)
]
#: Pushes that only come in special states of a server; others are compared with real ones.
RARE = {"token_expiring", "gap", "disconnect"}


def _shape(value):
    """The members of a push, without their values."""
    if isinstance(value, dict):
        return {name: _shape(inner) for name, inner in value.items() if name != "data"}
    if isinstance(value, list):
        shapes = [_shape(inner) for inner in value if isinstance(inner, dict)]
        return [shape for number, shape in enumerate(shapes) if shape not in shapes[:number]]
    return type(value).__name__


@pytest.mark.parametrize("text", [text for arrow, text in LINES if arrow == "->"])
def test_command_on_page_is_decoded(text):
    """Every command is one that the server's decoder takes."""
    assert decode_command(text.encode()).__struct_config__.tag == json.loads(text)["type"]


def test_subscription_in_a_url_on_page_is_decoded():
    """A ``sub`` parameter takes what the page says it takes."""
    wish = decode_wish(
        b'{"topic":"room:lobby","fields":["a"],"filter":{"exists":"a"},"mode":"all","max_rate":5,"recover":{"last":1}}'
    )
    assert (wish.topic, wish.mode, wish.max_rate) == ("room:lobby", "all", 5)


class FlowQuery(msgspec.Struct):
    symbol: str


async def _get_fund_flow(_query: FlowQuery) -> dict[str, float]:
    return {"net": 1.25}


@asynccontextmanager
async def _server_of_the_page():
    """An engine in the state that the page supposes, and the page's peer."""

    async def authenticate(_token):
        return Identity("7", expires_in=840)

    actions = Actions()
    actions.register("get_fund_flow", _get_fund_flow)
    settings = Settings(dev=True, ping_interval_seconds=25.0)
    async with open_engine(settings, authenticate=authenticate, actions=actions) as engine, connect(engine) as peer:
        for number in range(12):
            await engine.publish("room:lobby", {"text": str(number)}, event="chat", key="42")
            # The epoch that the page's client remembers.
            receipt = await engine.send_to_user("7", number)
        for topic in ("room:annex", "global"):
            await engine.publish(topic, {"text": "hello"})
        yield engine, peer, receipt.epoch


async def test_replies_on_page_have_the_shape_of_real_ones(autojump_clock):
    """The page's commands, sent in their order, are answered as the page says, member by member."""
    async with _server_of_the_page() as (_engine, peer, epoch):
        replies = {}
        for arrow, text in LINES:
            if arrow == "->":
                members = json.loads(text)
                peer.send_raw(text.replace(REMEMBERED_EPOCH, epoch).encode())
                replies[members["id"]] = await peer.receive_where(
                    lambda push, wanted=members["id"]: push.get("id") == wanted
                )
                continue
            shown = json.loads(text)
            if "id" in shown:
                real = replies.pop(shown["id"])
                assert real["type"] == shown["type"]
                assert _shape(real) == _shape(shown), shown["type"]
                for name in ("recovered", "why", "code", "duplicate"):
                    assert real.get(name) == shown.get(name)
        assert not replies, "commands on the page that show no reply"


async def test_pushes_on_page_have_the_shape_of_real_ones(autojump_clock):
    """What comes by itself, while others come and go, looks as the page says."""
    async with _server_of_the_page() as (engine, peer, _), AsyncExitStack() as others:
        await peer.command("auth", token="a-token")
        await peer.command("subscribe", topic="room:lobby", recover={"last": 1})
        for number in range(12):
            identity = Identity(f"guest-{number}", info={"name": "Bob"})
            other = await others.enter_async_context(connect(engine, identity=identity))
            await other.command("subscribe", topic="room:lobby")
            if number == 0:
                await peer.receive_type("join")
                await other.command("unsubscribe", topic="room:lobby")
                await peer.receive_type("leave")
        await engine.place_user("7", "room:staff")
        engine.evict_user("7", "room:staff")
        await trio.sleep(60)  # a ping has come
        await peer.command("subscribe", topic="symbol:600519", fields=["price"])
        await trio.sleep(60)  # and another one, of a peer that does not see everything
        real = [(push["type"], _shape(push)) for push in peer.received if "id" not in push]
        for arrow, text in LINES:
            shown = json.loads(text)
            if arrow == "<-" and "id" not in shown and shown["type"] not in RARE:
                assert (shown["type"], _shape(shown)) in real


async def test_answer_to_a_poll_on_page_has_the_shape_of_a_real_one(autojump_clock):
    """With the cursor of the answer before."""
    (shown,) = [json.loads(block) for block in _blocks(PROTOCOL_PAGE, "json")]
    async with open_engine(Settings(dev=True)) as engine:
        asked = Poll([Subscribe("room:lobby")], seconds=0)
        before = await poll(engine, Identity(), asked)
        await engine.publish("room:lobby", {"text": "hi"})
        since = Since(after=decode_cursor(before["cursor"])["room:lobby"])
        real = json.loads(
            encode(await poll(engine, Identity(), Poll([Subscribe("room:lobby", since=since)], seconds=0)))
        )
    assert _shape(real) == _shape(shown)


async def test_rare_pushes_on_page_have_the_shape_of_real_ones(autojump_clock):
    """Gaps, expiring logins and goodbyes look as the page says."""
    shown = {push["type"]: push for push in (json.loads(text) for arrow, text in LINES if arrow == "<-")}
    settings = Settings(dev=True, outbox_messages=2)
    async with (
        open_engine(settings) as engine,
        connect(engine, buffer_bytes=100, identity=Identity("7", expires_in=50)) as peer,
    ):
        await peer.command("subscribe", topic="room:lobby")
        peer.stall()
        for number in range(20):
            await engine.publish("room:lobby", {"text": str(number)})
        await trio.testing.wait_all_tasks_blocked()
        peer.resume()
        assert (await peer.wait_closed()).code == 4102
        await trio.testing.wait_all_tasks_blocked()
        seen = {push["type"]: push for push in peer.received}
    for name in RARE - {"disconnect"}:
        assert _shape(seen[name]) == _shape(shown[name])
    # ``retry_after`` is there at a shutdown, which needs a server: the tutorial's test sees that one.
    assert set(seen["disconnect"]) | {"retry_after"} == set(shown["disconnect"])


def test_every_error_code_on_page_exists():
    """What looks like an error code, on any page, is one."""
    words = {word for page in PAGES for word in re.findall(r"``([A-Z]{3,}_[A-Z_]+)``", page.read_text())}
    assert {word for word in words if not word.startswith(("REALTIME_", "TCP_"))} <= set(ErrorCode)
