"""Starting programs, and ending them whatever the test does."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import trio
from attrs import define, field

from tests.peers import DEADLINE_SECONDS, connect

_ADDRESS = re.compile(r"(https?)://127\.0\.0\.1:(\d+)")
_EXAMPLES = Path(__file__).parent.parent.parent / "examples"
_KEY = re.compile(r"API key.*: (\S+)")


@define
class ServerProcess:
    """A running server."""

    process: trio.Process
    port: int
    api_key: str
    #: What it has written to standard error so far.
    log: list[bytes] = field(factory=list)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    async def wait(self, seconds: float = DEADLINE_SECONDS) -> int:
        """Wait for its end; the exit code."""
        with trio.fail_after(seconds):
            return await self.process.wait()

    async def publish(self, topic: str, data: str) -> None:
        """Publish JSON text by HTTP, as a back end does."""
        async with connect(self.port) as raw:
            body = f'{{"topic":"{topic}","data":{data}}}'.encode()
            response = await raw.request("POST", "/api/v1/publish", headers={"X-Api-Key": self.api_key}, body=body)
            assert response.status == 200, response.body


def clean_environment(**more: str) -> dict[str, str]:
    """This process's environment without settings of ours, and with some."""
    return {name: value for name, value in os.environ.items() if not name.startswith("REALTIME_")} | more


@asynccontextmanager
async def running_program(*command: str, **environment: str) -> AsyncIterator[trio.Process]:
    """A program with pipes for its output, ended by force if the block leaves it running."""
    async with trio.open_nursery() as nursery:
        process = await nursery.start(
            lambda task_status: trio.run_process(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                capture_stdout=False,
                check=False,
                env=clean_environment(**environment),
                deliver_cancel=_kill,
                task_status=task_status,
            )
        )
        try:
            yield process
        finally:
            nursery.cancel_scope.cancel()


async def _kill(process: trio.Process) -> None:
    process.kill()
    with trio.CancelScope(shield=True):
        await process.wait()


def serving(*arguments: str, **environment: str) -> AbstractAsyncContextManager[ServerProcess]:
    """``python -m realtime`` with these arguments, listening."""
    return _listening("-m", "realtime", *arguments, **environment)


def example(name: str, *arguments: str) -> AbstractAsyncContextManager[ServerProcess]:
    """A program of the folder ``examples`` with these arguments, listening on a free port."""
    return _listening(str(_EXAMPLES / f"{name}.py"), "--port", "0", *arguments)


@asynccontextmanager
async def _listening(*arguments: str, **environment: str) -> AsyncIterator[ServerProcess]:
    """A Python program that prints its address."""
    async with (
        running_program(sys.executable, *arguments, **environment) as process,
        trio.open_nursery() as nursery,
    ):
        assert process.stdout is not None
        assert process.stderr is not None
        log: list[bytes] = []
        nursery.start_soon(_collect, process.stderr, log)
        printed = b""
        with trio.fail_after(DEADLINE_SECONDS):
            while (found := _ADDRESS.search(printed.decode())) is None or not printed.endswith(b"\n"):
                data = await process.stdout.receive_some()
                assert data, b"".join(log).decode()
                printed += data
        key = _KEY.search(printed.decode())
        yield ServerProcess(process, int(found[2]), key[1] if key else "", log)
        nursery.cancel_scope.cancel()


async def _collect(stream: trio.abc.ReceiveStream, into: list[bytes]) -> None:
    async for data in stream:
        into.append(data)


async def output_of(*command: str, seconds: float = 20.0, **environment: str) -> tuple[int, str, str]:
    """Run a program to its end: exit code, standard output, standard error."""
    with trio.fail_after(seconds):
        ended = await trio.run_process(
            list(command),
            stdin=b"",
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=clean_environment(**environment),
            deliver_cancel=_kill,
        )
    return ended.returncode, ended.stdout.decode(), ended.stderr.decode()
