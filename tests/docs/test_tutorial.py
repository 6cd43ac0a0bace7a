"""The tutorial, walked from its first command to its last, with its page open in a browser.

Files, programs and commands are those of the pages themselves. What the reader does by hand is done here: looking,
writing a note, Ctrl-C.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.docs.walking import DOCS, ROOT, SECONDS, Walk
from tests.e2e.chromium import CHROMIUM, Page
from tests.e2e.processes import output_of
from tests.e2e.test_browser import browser
from tests.peers import connect

__all__ = ["browser"]


def needs_browser(test: Any) -> Any:
    """Skipped where there is no Chromium."""
    return pytest.mark.browser(pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")(test))


LOG = "[...document.querySelectorAll('#log li')].map((line) => line.textContent)"
STATE = "document.querySelector('#state').value"
#: The page says at what time it tries again.
AGAIN = r"/: .+, again at \d+:\d\d:\d\d\D*$/"
CONNECTED = f"{STATE}.startsWith('connected')"


@pytest.fixture
async def walk(tmp_path: Path) -> AsyncIterator[Walk]:
    """A reader with an empty folder, in a folder that looks like the source."""
    folder = tmp_path / "garden"
    folder.mkdir()
    (tmp_path / "docs").symlink_to(DOCS)
    async with trio.open_nursery() as nursery:
        yield Walk(folder, nursery)
        nursery.cancel_scope.cancel()


@pytest.fixture
async def garden(walk: Walk) -> Walk:
    """A reader who has the files of the second page."""
    walk.open("tutorial/own-server")
    walk.skip("mkdir garden", "cp", "REALTIME_API_KEYS", "curl")
    return walk


async def log_of(page: Page) -> list[str]:
    """The lines of the page, oldest first."""
    lines: list[str] = await page.evaluate(LOG)
    return lines[::-1]


def offsets(lines: list[str]) -> list[int]:
    """The offsets of the messages in these lines."""
    return [int(line.partition(":")[0]) for line in lines if line.partition(":")[0].isdigit()]


async def write_note(page: Page, text: str) -> None:
    """Write into the field of the page, and press its button."""
    await page.evaluate(
        f"(() => {{ const form = document.forms[0]; form.text.value = {json.dumps(text)}; form.requestSubmit(); }})()"
    )


def shows(text: str) -> str:
    """That a line of the log ends with this text."""
    return f"{LOG}.some((line) => line.endsWith({json.dumps(text)}))"


async def plugged_in(url: str) -> None:
    """Wait until somebody listens there."""
    with trio.fail_after(SECONDS):
        while True:
            with suppress(OSError):
                stream = await trio.open_tcp_stream("127.0.0.1", int(url.rpartition(":")[2]))
                return await stream.aclose()
            await trio.sleep(0.05)


async def published(url: str, offset: int) -> None:
    """Wait until the server at this address has published so many messages."""
    with trio.fail_after(SECONDS):
        while True:
            async with connect(int(url.rpartition(":")[2])) as raw:
                (topic,) = (await raw.request("GET", "/poll?topic=room:garden&timeout=0")).json()["topics"]
            if topic["offset"] >= offset:
                return
            await trio.sleep(0.2)


async def reconnect(page: Page) -> None:
    """Wait until the page is connected; a browser that is told of a network does not wait for the next try."""
    await page.evaluate("dispatchEvent(new Event('online'))")
    await page.wait_for(CONNECTED)


def exceptions_of(page: Page) -> list[str]:
    """What went wrong in the page itself; that a server could not be reached is not its fault."""
    return [complaint for complaint in page.complaints if "exceptionDetails" in complaint]


async def test_first_steps_show_what_they_say(walk: Walk) -> None:
    """The demo runs, streams its ticks to curl, and takes a message with the key that it printed."""
    walk.open("tutorial/first-steps")
    walk.skip("python3 -m venv", ".venv/bin/pip install", ". .venv/bin/activate")
    demo = await walk.start()
    walk.instead["dev_..."] = demo.printed.split("HTTP: ")[1].split()[0]
    await walk.run()
    await walk.run()
    await demo.end()
    walk.done()


@needs_browser
async def test_own_page_shows_temperatures_and_notes(walk: Walk, browser: Page) -> None:
    """The reader's server and page work as they stand in the text, also for a back end with curl."""
    walk.open("tutorial/own-server")
    walk.skip("mkdir garden")
    await walk.run()
    server = await walk.start()
    await browser.open(f"{walk.url}/")
    await browser.wait_for("Number(document.querySelector('#celsius').value) > 0")
    assert await browser.evaluate(STATE) == "connected (websocket)"
    await write_note(browser, "the roses want water")
    await browser.wait_for(shows("the roses want water"))
    await walk.run()
    await browser.wait_for(shows("the cat is on the lawn"))
    await server.end()
    await browser.wait_for(f"{STATE}.startsWith('reconnecting')")
    await browser.wait_for(f"{AGAIN}.test({STATE})")
    walk.done()
    assert exceptions_of(browser) == []


@needs_browser
async def test_page_recovers_or_says_what_is_lost(garden: Walk, browser: Page) -> None:
    """The cable pulled, pulled for too long, and the server killed: recovered, ``too_old``, ``epoch_changed``."""
    garden.open("tutorial/recovery")
    await garden.run()
    server = await garden.start()
    garden.skip("cd garden")
    cable = await garden.start()
    await plugged_in(garden.second_url)
    await browser.open(f"{garden.second_url}/")
    await browser.wait_for(f"{LOG}.length > 1")
    before = await log_of(browser)
    assert await cable.end() == (0, "")
    await browser.wait_for(f"{STATE}.startsWith('reconnecting')")
    await trio.sleep(2)  # what is missed meanwhile is what this is about
    cable = await garden.start()
    await plugged_in(garden.second_url)
    await reconnect(browser)
    await browser.wait_for(f"{LOG}.length > {len(before) + 1}")  # one that was missed, and one that was not
    seen = offsets(await log_of(browser))
    assert seen == list(range(seen[0], seen[0] + len(seen)))

    await server.end()
    await garden.run()
    server = await garden.start()
    await reconnect(browser)
    await browser.wait_for(shows("epoch_changed"))
    await cable.end()
    await browser.wait_for(f"{STATE}.startsWith('reconnecting')")
    # The server keeps five. A slow one takes longer than any seconds that could stand here.
    await published(garden.url, offsets(await log_of(browser))[-1] + 6)
    await garden.start_again("python cable.py")
    await plugged_in(garden.second_url)
    await reconnect(browser)
    await browser.wait_for(shows("are lost: too_old"))

    await browser.evaluate("document.querySelector('#log').replaceChildren()")
    await server.end(signal.SIGQUIT)
    await browser.wait_for(f"{STATE}.startsWith('reconnecting')")
    await garden.start()
    await reconnect(browser)
    await browser.wait_for(shows("epoch_changed"))
    garden.done()
    assert exceptions_of(browser) == []


@needs_browser
async def test_gardener_may_write_and_others_look(garden: Walk, browser: Page) -> None:
    """The rules of the page, asked by the command line and by the browser; then with the token that was made."""
    garden.open("tutorial/permissions")
    await garden.run()
    await garden.run()
    await garden.run()
    await garden.run()
    token = (await garden.run()).split()[-1]
    server = await garden.start()
    await browser.open(f"{garden.url}/")
    await browser.wait_for("Number(document.querySelector('#celsius').value) > 0")
    await write_note(browser, "may I")
    await browser.wait_for(shows("refused: PERMISSION_DENIED"))
    await browser.evaluate(garden.script("javascript").replace("eyJ...", token).replace("location.reload();", ""))
    await browser.open(f"{garden.url}/")
    await browser.wait_for(CONNECTED)
    await write_note(browser, "I may")
    await browser.wait_for(shows("I may"))
    assert not await browser.evaluate(shows("refused: PERMISSION_DENIED"))
    await browser.evaluate("sessionStorage.setItem('token', 'of another secret')")
    await browser.open(f"{garden.url}/")
    await browser.wait_for(f"{STATE}.startsWith('connecting ') && {AGAIN}.test({STATE})")
    await browser.evaluate('sessionStorage.removeItem("token")')
    await browser.open(f"{garden.url}/")
    await browser.wait_for(CONNECTED)
    await server.end()
    await garden.run()
    assert not [name for name in garden.environment if "SECRET" in name]
    garden.done()
    assert exceptions_of(browser) == []


async def test_tests_of_the_tutorial_pass(garden: Walk) -> None:
    """The reader's tests run beside the reader's program, and take no hour."""
    garden.open("tutorial/tests")
    garden.skip("pip install")
    await garden.run()
    await garden.run()
    garden.done()


async def test_cable_is_pulled_without_a_word(garden: Walk) -> None:
    """A real Ctrl-C while something goes through the cable, and while nothing does: no traceback, and exit code 0."""
    garden.open("tutorial/recovery")
    await garden.run()
    server = await garden.start()
    garden.skip("cd garden")
    cable = await garden.start()
    await plugged_in(garden.second_url)
    async with await trio.open_tcp_stream("127.0.0.1", int(garden.second_url.rpartition(":")[2])) as stream:
        await stream.send_all(b"GET /sse?topic=room:garden HTTP/1.1\r\nHost: localhost\r\n\r\n")
        received = b""
        with trio.fail_after(SECONDS):
            while b"event: message" not in received:
                received += await stream.receive_some()
        assert await cable.end() == (0, "")
    cable = await garden.start()
    await plugged_in(garden.second_url)
    assert await cable.end() == (0, "")
    await server.end()


async def test_garden_says_what_is_wrong_with_its_settings(tmp_path: Path) -> None:
    """A line and no traceback, where the secret is missing and where the port is taken."""
    program = tmp_path / "garden.py"
    shutil.copy(DOCS / "examples" / "tutorial" / "garden.py", program)
    settings = tmp_path / "garden.toml"
    begin = f"import os, runpy; os.chdir({str(tmp_path)!r}); runpy.run_path('garden.py', run_name='__main__')"
    shutil.copy(DOCS / "examples" / "tutorial" / "rules.toml", settings)
    code, printed, errors = await output_of(sys.executable, "-c", begin, PYTHONPATH=str(ROOT))
    assert (code, printed, errors.count("\n")) == (1, "", 1)
    assert "REALTIME_JWT_SECRET" in errors
    shutil.copy(DOCS / "examples" / "tutorial" / "garden.toml", settings)
    (taken,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with taken:
        port = str(taken.socket.getsockname()[1])
        code, printed, errors = await output_of(sys.executable, "-c", begin, PYTHONPATH=str(ROOT), REALTIME_PORT=port)
    assert (code, printed, errors.count("\n")) == (1, "", 1)
    assert port in errors


@pytest.mark.parametrize("page", sorted((DOCS / "tutorial").glob("*.rst")), ids=lambda page: page.stem)
def test_page_says_where_its_files_are(page: Path) -> None:
    """For who reads it where its files are not shown."""
    text = page.read_text()
    shown = r"^\.\. literalinclude:: \.\./(\S+\.(?!out).*)\n(?:   :.*\n)*\n(.*)"
    for name, after in re.findall(shown, text, re.MULTILINE):
        assert after.startswith(f"This is ``docs/{name}``.")
        assert (DOCS / name).is_file()


@pytest.mark.parametrize("page", sorted((DOCS / "tutorial").glob("*.rst")), ids=lambda page: page.stem)
def test_page_of_the_tutorial_leads_on(page: Path) -> None:
    """Each is walked above, and is a page of a path."""
    assert f'"tutorial/{page.stem}"' in Path(__file__).read_text()
    assert "Next: :doc:" in page.read_text()
