"""``bench``: publishes by the clock to many connections, which processes of their own hold.

::

    _Load.run
    |- receiver  one for each process: waits for what it tells
    '- publisher
        '- publish  one for each message that is under way, at most `_UNDER_WAY`

A latency counts from the moment at which its message was due, not from that at which it was sent: so a server that
makes the publisher wait is not let off.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from urllib.parse import quote, urlsplit

import click
import msgspec
import trio
from attrs import define, evolve, field, frozen
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from realtime.cli.bench.figures import Histogram, make_payload
from realtime.cli.bench.receiver import Connected, Failed, Orders, Published, Ready, Result
from realtime.cli.bench.report import Report, warnings, words
from realtime.cli.ending import Exit, Failure, NoConnection, run, tell
from realtime.cli.given import UTF8
from realtime.cli.output import console
from realtime.cli.printing import put_json, say
from realtime.cli.remote import Remote, with_remote
from realtime.engine import lone_exceptions_bare
from realtime.errors import CommandError, ErrorCode
from transports.publishers import PublishError

__all__ = ["bench"]

#: Messages of this time are published and must come, but a server that has just begun is not what is measured.
_WARM_UP_SECONDS = 1.0
_UNDER_WAY = 64
_PUBLISH_SECONDS = 10.0
#: A receiver ends in time by itself; this is for one that hangs.
_RESULT_SECONDS = 15.0
_MIN_SIZE = 80
#: The bounds of a server that a bench runs into first, as all of it comes from one address.
_CROWDED = "a server bounds the connections of one address: see the setting max_connections_per_address"
_SLOWED = "without an API key the server's publish_rate bounds it"

Publish = Callable[[str, Any], Awaitable[Any]]


@frozen(kw_only=True)
class _Plan:
    """What is to be done."""

    topic: str
    transport: str
    connections: int
    rate: float
    seconds: float
    size: int
    processes: int
    marker: str = field(factory=lambda: f"{secrets.token_hex(6)}:")

    @property
    def first(self) -> int:
        """The number of the first message behind the warm-up."""
        return max(1, round(_WARM_UP_SECONDS * self.rate))

    @property
    def total(self) -> int:
        """All messages."""
        return self.first + max(1, round(self.seconds * self.rate))


@click.command()
@click.argument("address", metavar="[URL]", required=False, type=UTF8)
@click.option("--connections", type=click.IntRange(1, 100_000), default=100, show_default=True, help="Who listen.")
@click.option(
    "--rate", type=click.FloatRange(min=0, min_open=True), default=20.0, show_default=True, help="Messages a second."
)
@click.option(
    "--seconds", type=click.FloatRange(min=0, min_open=True), default=10.0, show_default=True, help="For how long."
)
@click.option("--size", type=click.IntRange(min=_MIN_SIZE), default=128, show_default=True, help="Bytes of a payload.")
@click.option("--topic", type=UTF8, default="room:bench", show_default=True, help="Where to publish.")
@click.option(
    "--transport",
    type=click.Choice(["websocket", "sse"]),
    default="websocket",
    show_default=True,
    help="How they listen.",
)
@click.option("--processes", type=click.IntRange(1, 64), default=1, show_default=True, help="Who share the receiving.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@with_remote
def bench(*, remote: Remote, address: str | None, as_json: bool, **plan: Any) -> None:
    """Measure how fast and how surely a server delivers.

    One publishes, many listen, and each message is counted on each connection. Latency counts from the moment at which
    a message was due. Says so where the bench itself was the limit. Publishes with the API key over HTTP, without one
    as a peer, whose publish_rate the server may bound. Exits with 1 where something was lost, came twice or was
    refused.

    \b
    Example:
      realtime bench http://127.0.0.1:8000 --connections 500 --rate 20
    """
    load = _Load(remote if address is None else evolve(remote, url=address), _Plan(**plan))
    run(load.run)
    assert load.report is not None
    if as_json:
        put_json(load.report)
    else:
        for line in words(load.report):
            say(line)
    for warning in warnings(load.report):
        tell(warning)
    if load.report.faulty:
        sys.exit(Exit.FAILED)


@define
class _Load:
    _remote: Remote
    _plan: _Plan
    report: Report | None = None
    #: Of each receiver.
    _connected: dict[int, int] = field(factory=dict)
    _ready: list[Ready] = field(factory=list)
    _results: list[Result] = field(factory=list)
    #: The numbers of messages that were not accepted; such as had no answer may have been published.
    _refused: list[int] = field(factory=list)
    _refusal: str | None = None
    _late: float = 0.0
    _progress: Progress = field(
        factory=lambda: Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=console(stderr=True)
        )
    )

    async def run(self) -> None:
        """Connect, publish, wait for the last deliveries. Raises `Failure`."""
        plan = self._plan
        self._progress.disable = not self._progress.console.is_terminal
        with self._progress, lone_exceptions_bare():
            connecting = self._progress.add_task("connecting", total=plan.connections)
            async with self._publishing() as publish, trio.open_nursery() as nursery:
                receivers = [
                    await nursery.start(self._receive, number, self._orders(number)) for number in range(plan.processes)
                ]
                while len(self._ready) < plan.processes:
                    self._progress.update(connecting, completed=sum(self._connected.values()))
                    await trio.sleep(0.05)
                self._progress.update(connecting, completed=plan.connections)
                used, began = time.process_time(), time.monotonic()
                first_due = await self._publish_all(publish)
                cpu = (time.process_time() - used) / (time.monotonic() - began)
                published = msgspec.json.encode(Published(plan.total, sorted(self._refused))) + b"\n"
                for process in receivers:
                    await process.stdin.send_all(published)
                with trio.move_on_after(_RESULT_SECONDS) as scope:
                    while len(self._results) < plan.processes:  # noqa: ASYNC110 - the same
                        await trio.sleep(0.02)
                if scope.cancelled_caught:
                    raise Failure("a process of the bench has not come to an end")
                nursery.cancel_scope.cancel()
        self.report = self._sum_up(first_due, cpu)

    # -- who receives ----------------------------------------------------------------------------------------------

    def _orders(self, number: int) -> Orders:
        plan, parts = self._plan, urlsplit(self._remote.url)
        try:
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        if parts.scheme not in ("http", "https") or not host:
            raise Failure(f"{self._remote.url!r} is not the URL of a server, such as http://127.0.0.1:8000")
        upgrade = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
        upgrade.append("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
        path = f"{parts.path.rstrip('/')}/{'ws' if plan.transport == 'websocket' else 'sse'}"
        lines = [
            f"GET {path}?topic={quote(plan.topic, safe=':')} HTTP/1.1",
            f"Host: {parts.netloc}",
            *(f"{name}: {value}" for name, value in self._remote.credentials.peer_headers().items()),
            *(upgrade if plan.transport == "websocket" else ["Accept: text/event-stream"]),
        ]
        share, more = divmod(plan.connections, plan.processes)
        return Orders(
            host=host,
            port=port or (443 if parts.scheme == "https" else 80),
            tls=parts.scheme == "https",
            transport=plan.transport,
            head="\r\n".join([*lines, "", ""]),
            connections=share + (number < more),
            connect_timeout_seconds=self._remote.connect_timeout_seconds,
            marker=plan.marker,
            first=plan.first,
        )

    async def _receive(
        self, number: int, orders: Orders, task_status: trio.TaskStatus[trio.Process] = trio.TASK_STATUS_IGNORED
    ) -> None:
        async with trio.open_nursery() as nursery:
            # Its own session: Ctrl-C is for us, and we end it. What it connects with stands in no command line.
            process: trio.Process = await nursery.start(
                partial(
                    trio.run_process,
                    [sys.executable, "-c", "from realtime.cli.bench.receiver import main; main()"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    start_new_session=True,
                    check=False,
                )
            )
            assert process.stdin is not None
            assert process.stdout is not None
            await process.stdin.send_all(msgspec.json.encode(orders) + b"\n")
            task_status.started(process)
            rest, ended = b"", False
            async for piece in process.stdout:
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    event = _EVENTS.decode(line)
                    self._hear(number, event)
                    ended = isinstance(event, Result)
            if not ended:
                raise Failure("a process of the bench has ended too soon")

    def _hear(self, number: int, event: Connected | Failed | Ready | Result) -> None:
        match event:
            case Connected(count):
                self._connected[number] = count
            case Ready():
                self._ready.append(event)
            case Result():
                self._results.append(event)
            case Failed(message, code, unreachable):
                hint = _CROWDED if code == ErrorCode.LIMIT_EXCEEDED else self._remote.credentials.hint(code)
                raise NoConnection(message) if unreachable else Failure(message, code=code, hint=hint)

    # -- who publishes ---------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _publishing(self) -> AsyncIterator[Publish]:
        if self._remote.credentials.api_key is not None:
            async with self._remote.publisher(_PUBLISH_SECONDS) as publisher:
                yield publisher.publish
        else:
            async with self._remote.peer() as client:
                yield partial(client.publish, timeout_seconds=_PUBLISH_SECONDS)

    async def _publish_all(self, publish: Publish) -> int:
        """When the first message behind the warm-up was due, in nanoseconds of the monotonic clock."""
        plan = self._plan
        bar = self._progress.add_task("publishing", total=plan.total)
        start = time.monotonic_ns() + int(1e8)
        free = trio.CapacityLimiter(_UNDER_WAY)
        async with trio.open_nursery() as nursery:
            for number in range(plan.total):
                due = start + int(number / plan.rate * 1e9)
                await trio.sleep(max(0.0, (due - time.monotonic_ns()) / 1e9))
                ticket = object()
                await free.acquire_on_behalf_of(ticket)
                self._late = max(self._late, (time.monotonic_ns() - due) / 1e9)
                payload = make_payload(plan.marker, number, due, plan.size)
                nursery.start_soon(self._publish, publish, number, payload, partial(free.release_on_behalf_of, ticket))
                self._progress.update(bar, completed=number + 1)
        return start + int(plan.first / plan.rate * 1e9)

    async def _publish(self, publish: Publish, number: int, payload: Any, done: Callable[[], None]) -> None:
        try:
            await publish(self._plan.topic, payload)
        except (CommandError, PublishError) as error:
            self._refused.append(number)
            # A client tries again for as long as it may, and then tells of the last refusal too.
            slowed = ErrorCode.RATE_LIMIT_EXCEEDED in str(error) and self._remote.credentials.api_key is None
            hint = f" ({_SLOWED})" if slowed else ""
            self._refusal = self._refusal or f"{error}{hint}"
        finally:
            done()

    # -- what it comes to ------------------------------------------------------------------------------------------

    def _sum_up(self, first_due: int, cpu: float) -> Report:
        plan, results = self._plan, self._results
        latencies = Histogram()
        for result in results:
            latencies.merge(Histogram(result.latencies))
        accepted = plan.total - len(self._refused)
        lost = sum(result.lost for result in results)
        delivered = accepted * plan.connections - lost
        # What comes late makes the time longer; what comes early must not make it shorter than the schedule.
        last_at = max(result.last_at for result in results)
        seconds = max((plan.total - plan.first) / plan.rate, (last_at - first_due) / 1e9)
        return Report(
            transport=plan.transport,
            connections=plan.connections,
            connects_per_second=round(plan.connections / max(ready.seconds for ready in self._ready), 1),
            size=plan.size,
            rate=plan.rate,
            published=accepted,
            refused=len(self._refused),
            refusal=self._refusal,
            delivered=delivered,
            deliveries_per_second=round(latencies.total / seconds, 1),
            unconfirmed=sum(result.delivered for result in results) - delivered,
            lost=lost,
            duplicated=sum(result.duplicates for result in results),
            lost_connections=sum(result.lost_connections for result in results),
            latency_ms=Report.percentiles(latencies, max(result.longest for result in results)),
            late_seconds=round(self._late, 3),
            publisher_cpu=round(cpu, 3),
            receiver_cpu=round(max(result.cpu for result in results), 3),
        )


_EVENTS = msgspec.json.Decoder(Connected | Failed | Ready | Result)
