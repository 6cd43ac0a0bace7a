"""A page as its reader follows it: the files that it shows are saved, its commands are run, in the order of the page.

A file is a ``literalinclude`` with a caption, which is its name. A command stands behind ``$`` in a block of the
console, and below it what it prints. Ports are replaced by free ones. In what is printed, numbers and names that are
made up each time may differ, and ``...`` is anything.
"""

from __future__ import annotations

import re
import signal
import socket
import sys
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import trio
from attrs import define, field, frozen

from tests.e2e.processes import running_program

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
#: Far more than any command needs, far less than a test run may hang.
SECONDS = 20

_STEP = re.compile(
    r"^\.\. literalinclude:: (?P<file>\S+)\n(?P<options>(?:   :.*\n)*)"
    r"|^\.\. code-block:: console\n\n(?P<block>(?:   .*\n|\n)+)",
    re.MULTILINE,
)
_CAPTION = re.compile(r":caption: (\S+)")
#: What is different each time, and what stands for it in a pattern.
_VARYING = [
    (re.compile(r"\bdev_\w*"), r"dev_[\\w-]+"),
    (re.compile(r"\b(?:c|tkt)_\w+"), r"\\w+_[\\w-]+"),
    (re.compile(r"(?<=\"epoch\":\")\w+"), r"\\w+"),
    (re.compile(r"(?<=!)[a-z0-9]{8}(?=!)"), r"\\w+"),
    (re.compile(r"^[a-z0-9]{8}(?= \d+$)"), r"\\w+"),
    (re.compile(r"\beyJ[\w.-]*"), r"[\\w.-]+"),
    (re.compile(r"\d+"), r"\\d+"),
    (re.compile(r"(?:\\\.){3}"), r"[\\s\\S]*?"),
]
_TOOLS = {
    "python": 'exec "{python}" "$@"',
    "realtime": 'exec "{python}" -m realtime "$@"',
    "pytest": 'exec "{python}" -m pytest -p no:cacheprovider "$@"',
}


@frozen
class File:
    """A file that the reader saves."""

    name: str
    text: str


@frozen
class Command:
    """A command that the reader runs, and what it prints."""

    text: str
    shown: str


def steps(page: Path) -> Iterator[File | Command]:
    """What there is to do on a page, in its order."""
    for found in _STEP.finditer(page.read_text()):
        if found["file"]:
            if caption := _CAPTION.search(found["options"]):
                yield File(caption[1], (page.parent / found["file"]).read_text())
            continue
        block = "\n".join(line[3:] for line in found["block"].splitlines()).strip()
        for text in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, shown = text.replace("\\\n", "").partition("\n")
            yield Command(command, shown.strip())


def pattern_of(shown: str) -> re.Pattern[str]:
    """What the shown output stands for."""
    text = re.escape(shown).replace(r"\ ", " ").replace(r"\-", "-")
    for varying, pattern in _VARYING:
        text = varying.sub(pattern, text)
    return re.compile(text)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@frozen
class Running:
    """A command that goes on."""

    process: trio.Process
    #: What it has printed at first.
    printed: str

    async def end(self, number: signal.Signals = signal.SIGINT) -> tuple[int, str]:
        """End it, as by Ctrl-C: its exit code, and what it has written to standard error."""
        assert self.process.stderr is not None
        self.process.send_signal(number)
        errors = b""
        with trio.fail_after(SECONDS):
            async for data in self.process.stderr:
                errors += data
            return await self.process.wait(), errors.decode()


@define
class Walk:
    """A reader on the way through a page."""

    folder: Path
    _nursery: trio.Nursery
    environment: dict[str, str] = field(factory=dict)
    #: Replaced in commands and in what they print: ports, keys.
    instead: dict[str, str] = field(factory=dict)
    _left: list[File | Command] = field(factory=list)
    _page: Path = field(init=False)
    _tools: Path = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._tools = self.folder / ".tools"
        self._tools.mkdir()
        for name, script in _TOOLS.items():
            tool = self._tools / name
            tool.write_text(f"#!/bin/sh\n{script.format(python=sys.executable)}\n")
            tool.chmod(0o755)
        port, second = free_port(), free_port()
        self.instead |= {":8000": f":{port}", " 8000": f" {port}", ":9000": f":{second}", " 9000": f" {second}"}
        self.environment |= {
            "REALTIME_PORT": str(port),
            "REALTIME_RECONNECT_SPREAD_SECONDS": "0.2",
            "PYTHONPATH": str(ROOT),
            "PATH": f"{self._tools}:/usr/local/bin:/usr/bin:/bin",
        }
        self.url = f"http://127.0.0.1:{port}"
        self.second_url = f"http://127.0.0.1:{second}"

    url: str = field(init=False)
    second_url: str = field(init=False)

    def open(self, page: str) -> None:
        """Begin a page."""
        assert not self._left, f"the page before ends with {self._left}"
        self._page = DOCS / f"{page}.rst"
        self._left = list(steps(self._page))

    def skip(self, *beginnings: str) -> None:
        """Leave out commands that are run elsewhere."""
        for beginning in beginnings:
            assert self._next().text.startswith(beginning)

    async def run(self) -> str:
        """Run the next command until it has printed what the page shows, or to its end; what it printed."""
        command = self._next()
        if named := re.fullmatch(r"unset (\w+)", command.text):
            del self.environment[named[1]]
            return ""
        if named := re.match(r"export (\w+)=", command.text):
            value = await self._printed(f'{command.text}; printf %s "${named[1]}"', pattern_of(""))
            self.environment[named[1]] = value
            assert value, command
            return value
        wanted = pattern_of(command.shown)
        printed = await self._printed(f"exec env {command.text}", wanted if command.shown else None)
        assert wanted.search(printed), f"{command.text!r} printed {printed!r}, which is not {command.shown!r}"
        if command.text.startswith("cp "):
            self._compare_copies()
        return printed

    def _compare_copies(self) -> None:
        """What the reader has copied is what the page shows, up to its next command."""
        for file in takewhile(lambda step: isinstance(step, File), self._left):
            assert isinstance(file, File)
            assert (self.folder / file.name).read_text() == file.text

    async def start(self) -> Running:
        """Start the next command and leave it running, once it has printed what the page shows."""
        return await self._start(self._next())

    async def start_again(self, text: str, shown: str = "") -> Running:
        """Start a command that is not the next of the page."""
        return await self._start(Command(text, shown))

    async def _start(self, command: Command) -> Running:
        wanted = pattern_of(command.shown)
        script = self._script(f"exec env {command.text}")
        process: trio.Process = await self._nursery.start(self._keep, script)
        assert process.stdout is not None
        printed = ""
        with trio.fail_after(SECONDS):
            while not wanted.search(printed):
                data = await process.stdout.receive_some()
                assert data, f"{command.text!r} printed {printed!r}"
                printed += data.decode()
        return Running(process, printed)

    async def _keep(self, script: str, task_status: trio.TaskStatus[trio.Process]) -> None:
        async with running_program("bash", "-c", script, **self.environment) as process:
            task_status.started(process)
            await process.wait()

    def script(self, language: str) -> str:
        """The one block of code of another language on the page."""
        (block,) = re.findall(
            rf"^\.\. code-block:: {language}\n\n((?:   .*\n|\n)+)", self._page.read_text(), re.MULTILINE
        )
        return "\n".join(line[3:] for line in block.splitlines())

    def more(self) -> bool:
        """Whether the page has a command left."""
        return any(isinstance(step, Command) for step in self._left)

    def done(self) -> None:
        """Nothing of the page is left."""
        self.save()
        assert not self._left

    def save(self) -> None:
        """Save the files that come before the next command."""
        while self._left and isinstance(self._left[0], File):
            file = self._left.pop(0)
            assert isinstance(file, File)
            (self.folder / file.name).write_text(self._replaced(file.text))

    def _next(self) -> Command:
        self.save()
        command = self._left.pop(0)
        assert isinstance(command, Command)
        return Command(self._replaced(command.text), self._replaced(command.shown))

    def _replaced(self, text: str) -> str:
        for old, new in self.instead.items():
            text = text.replace(old, new)
        return text

    def _script(self, command: str) -> str:
        return f'cd "{self.folder}" || exit; {command}'

    async def _printed(self, command: str, wanted: re.Pattern[str] | None) -> str:
        async with running_program("bash", "-c", self._script(command), **self.environment) as process:
            assert process.stdout is not None
            printed = ""
            with trio.fail_after(SECONDS):
                async for data in process.stdout:
                    printed += data.decode()
                    if wanted is not None and wanted.search(printed):
                        break
                else:
                    await process.wait()
            return printed
