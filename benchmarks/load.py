"""Drives the load generator: its arguments, its events, its end."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.peers.adapter import Dialect, Exchange, Script
from benchmarks.processes import pinned

SOURCE = Path(__file__).parent / "load.c"
END_SECONDS = 5

Event = dict[str, Any]


class LoadError(Exception):
    """The generator could not do its work; mostly because the server did not."""


class Load:
    """One run of the generator, to be used as a context manager. Every wait has its limit."""

    def __init__(self, program: Path, core: int, arguments: list[str]) -> None:
        self._process = subprocess.Popen(
            [str(program), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=pinned(core),
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input = self._process.stdin
        self._output = self._process.stdout
        self._unread = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._input.close()
        if kind is not None:
            self._process.kill()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(END_SECONDS)
        self._output.close()

    def release(self) -> None:
        """Let the generator go on from where it holds."""
        self._input.write(b"\n")
        self._input.flush()

    def wait_event(self, name: str, seconds: float) -> Event:
        """The next event, which must be this one."""
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._output, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise LoadError(f"no {name!r} within {seconds:.0f} s")
                data = os.read(self._output.fileno(), 65536)
                if not data:
                    raise LoadError(f"the generator ended before {name!r}")
                self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        event: Event = json.loads(line)
        if event["event"] == "error":
            reason = os.strerror(event["errno"]) if event["errno"] else "no system error"
            raise LoadError(f"{event['message']} ({reason})")
        if event["event"] != name:
            raise LoadError(f"{event['event']!r} where {name!r} was expected")
        return event


@contextmanager
def loading(program: Path, core: int, port: int, mode: str, texts: list[str], **numbers: float) -> Iterator[Load]:
    """Run the generator against a port; keywords become its options."""
    options = [f"--{name.replace('_', '-')}={value}" for name, value in numbers.items()]
    with Load(program, core, [f"--mode={mode}", f"--port={port}", *options, *texts]) as load:
        yield load


def _script(prefix: str, script: Script) -> list[str]:
    steps = [f"--{prefix}-step={step}" for step in script.steps]
    return [f"--{prefix}-transport={script.transport}", f"--{prefix}-head={script.head}", *steps]


def visitor_texts(dialect: Dialect, script: Script) -> list[str]:
    """What the generator needs to open connections and keep them."""
    texts = _script("sub", script)
    if dialect.auto_reply:
        texts += [f"--auto-from={dialect.auto_reply[0]}", f"--auto-to={dialect.auto_reply[1]}"]
    return texts


def subscriber_texts(dialect: Dialect, script: Script, inflight: int, publishers: int) -> list[str]:
    """The same, and how to publish to them. An HTTP connection carries one publish at a time."""
    http = dialect.publisher.transport == "http"
    return [
        *visitor_texts(dialect, script),
        *_script("pub", dialect.publisher),
        f"--pub-text={dialect.publish}",
        f"--pub-connections={inflight if http else min(publishers, inflight)}",
    ]


def requester_texts(dialect: Dialect, exchange: Exchange) -> list[str]:
    """What the generator needs to ask and to know an answer."""
    script = dialect.requester or dialect.websocket
    assert script is not None
    return [
        *visitor_texts(dialect, script),
        f"--request-text={exchange.request}",
        f"--reply-marker={exchange.reply}",
        f"--reply-id={exchange.reply_id}",
    ]
