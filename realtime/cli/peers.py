"""``tail``, ``publish``, ``request``, ``members``: what a peer can do, from a terminal.

``tail`` opens a nursery::

    _Tail.run
    |- follow        one for each topic: prints what comes
    '- tell_changes  tells of connections that were lost and found again

Who has printed enough cancels it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import click
import msgspec
import trio
from attrs import define, field, frozen
from msgspec import Raw

from realtime.cli.credentials import Credentials
from realtime.cli.ending import Failure, NoConnection, run, tell
from realtime.cli.given import UTF8, json_of, read_all
from realtime.cli.lines import JsonLines, read_stdin
from realtime.cli.output import Style, lost_json, lost_words, message_json, message_words, one_line, seen, seen_json
from realtime.cli.printing import put, put_json, say
from realtime.cli.remote import Remote, with_remote
from realtime.client import Client, ClientState, Last, Lost, Message
from realtime.engine import lone_exceptions_bare
from realtime.errors import CommandError
from realtime.idempotency import Receipt
from transports.publishers import AsyncHttpPublisher, Outgoing, PublishError
from transports.publishers import Receipt as HttpReceipt

__all__ = ["members", "publish", "request", "tail"]

_SECONDS = click.FloatRange(min=0, min_open=True)


# -- tail ------------------------------------------------------------------------------------------------------------


@click.command()
@click.argument("topics", nargs=-1, required=True, metavar="TOPIC...", type=UTF8)
@click.option("--last", type=click.IntRange(min=0), default=10, show_default=True, help="Begin with so many old ones.")
@click.option("--fields", metavar="A,B", type=UTF8, help="Only these members of each payload.")
@click.option("--filter", "condition", metavar="JSON", help="Only messages that this filter lets through.")
@click.option("--max-rate", type=_SECONDS, help="At most so many messages a second of each topic.")
@click.option("--latest", is_flag=True, help="When behind, the newest of each key instead of all.")
@click.option("--count", type=click.IntRange(min=1), help="End after so many messages.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, as on the wire; also for gaps.")
@with_remote
def tail(
    *,
    remote: Remote,
    topics: Sequence[str],
    last: int,
    fields: str | None,
    condition: str | None,
    max_rate: float | None,
    latest: bool,
    count: int | None,
    as_json: bool,
) -> None:
    """Print the newest messages of topics, then each new one.

    A lost connection is made again, and nothing is missed that the server still has; what was lost is told. Ctrl-C
    ends it.

    \b
    Examples:
      realtime tail room:lobby
      realtime tail symbol:600519 symbol:000001 --fields price --max-rate 1
      realtime tail symbol:600519 --filter '{">": ["price", 1500]}' --json | jq .data
    """
    wish = {
        "fields": None if fields is None else [name for name in fields.split(",") if name],
        "filter": None if condition is None else json_of(condition, "--filter"),
        "max_rate": max_rate,
        "mode": "latest" if latest else None,
        "recover": Last(last) if last else None,
    }
    tailing = _Tail(list(dict.fromkeys(topics)), wish, count, as_json, Style.of_stdout())
    run(lambda: tailing.run(remote))


@define
class _Tail:
    _topics: list[str]
    _wish: dict[str, Any]
    #: Messages that are still to be printed; None: there is no end.
    _left: int | None
    _as_json: bool
    _style: Style
    _following: int = 0
    _scope: trio.CancelScope = field(factory=trio.CancelScope)
    #: Long lines go out in parts, which must not get mixed.
    _printing: trio.Lock = field(factory=trio.Lock)

    async def run(self, remote: Remote) -> None:
        """Print until there is enough, or nothing more to come. Raises `Failure`."""
        self._following = len(self._topics)
        async with remote.peer() as client:
            with lone_exceptions_bare(), self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._tell_changes, client)
                    for place, topic in enumerate(self._topics):
                        nursery.start_soon(self._follow, client, topic, remote.credentials, place)
                        await trio.lowlevel.checkpoint()  # so that they are asked for in order, and refused so

    async def _tell_lost(self, lost: Lost) -> None:
        if self._as_json:
            async with self._printing:
                await put(lost_json(lost))
        else:
            tell(lost_words(lost))

    async def _follow(self, client: Client, topic: str, credentials: Credentials, place: int) -> None:
        try:
            async with client.subscribe(topic, **self._wish, type=Raw) as messages:
                async for item in messages:
                    if isinstance(item, Message):
                        await self._print(item)
                    elif isinstance(item, Lost):
                        await self._tell_lost(item)
        except CommandError as error:
            if client.state is not ClientState.CONNECTED:
                raise NoConnection(error.message, code=error.code) from None
            raise credentials.failure(f"{topic}: {error.message}", error.code, place=place) from None
        tell(f"{topic}: the server has ended the subscription")
        self._following -= 1
        if not self._following:
            raise Failure("there is nothing left to follow")

    async def _print(self, message: Message) -> None:
        async with self._printing:
            await put(message_json(message) if self._as_json else message_words(message, self._style))
            if self._left is not None:
                self._left -= 1
                if not self._left:
                    self._scope.cancel()
                    await trio.lowlevel.checkpoint()  # so that no other topic prints one more

    @staticmethod
    async def _tell_changes(client: Client) -> None:
        lost = False
        async for change in client.changes():
            if change.state is ClientState.RECONNECTING:
                lost = True
                tell(f"connection lost: {change.why}; trying again in {change.retry_seconds or 0:.1f} s")
            elif change.state is ClientState.CONNECTED and lost:
                lost = False
                tell("connected again")


# -- publish ---------------------------------------------------------------------------------------------------------


@frozen
class _Words:
    """What all messages of one call have in common."""

    topic: str
    event: str | None
    key: str | None
    idempotency_key: str | None

    def message(self, data: Any, number: int | None = None) -> dict[str, Any]:
        """The arguments of one publish; each line of many has an idempotency key of its own."""
        once = self.idempotency_key
        if once is not None and number is not None:
            once = f"{once}:{number}"
        return {"topic": self.topic, "data": data, "event": self.event, "key": self.key, "idempotency_key": once}


@click.command()
@click.argument("topic", type=UTF8)
@click.argument("data", required=False, type=UTF8)
@click.option("--text", is_flag=True, help="DATA is plain text, not JSON.")
@click.option("--lines", is_flag=True, help="Publish each line of standard input as a message of its own.")
@click.option("--event", type=UTF8, help="What sort of message it is.")
@click.option("--key", type=UTF8, help="What it is about: of each key the newest is kept, with --latest.")
@click.option(
    "--idempotency-key", type=UTF8, help="Published once, however often this is said; with --lines, of each line."
)
@click.option("--timeout", type=_SECONDS, default=10.0, show_default=True, help="How many seconds to try.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@with_remote
def publish(
    *,
    remote: Remote,
    topic: str,
    data: str | None,
    text: bool,
    lines: bool,
    event: str | None,
    key: str | None,
    idempotency_key: str | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Publish DATA, which is JSON, or - for standard input.

    Prints where it stands: EPOCH OFFSET. With an API key it goes over the HTTP API, as a back end publishes; else as a
    peer does. What no answer came to is said again, and is there once.

    \b
    Examples:
      realtime publish room:lobby '{"text": "hello"}' --event chat
      realtime publish room:lobby --text hello
      generate-ticks | realtime publish symbol:600519 --lines
    """
    words = _Words(topic, event, key, idempotency_key)
    if lines:
        if data not in (None, "-"):
            raise click.UsageError("--lines reads standard input, so there is no DATA")
        run(lambda: _publish_lines(remote, words, JsonLines(text=text), timeout, as_json=as_json))
        return
    if data is None:
        raise click.UsageError("there is no DATA; for standard input say -")
    given = read_all(text=text) if data == "-" else data
    payload = given if text else json_of(given, "DATA (plain text needs --text)")
    run(lambda: _publish_one(remote, words.message(payload), timeout, as_json=as_json))


async def _publish_one(remote: Remote, message: dict[str, Any], timeout: float, *, as_json: bool) -> None:
    receipt: Receipt | HttpReceipt
    if remote.credentials.api_key is not None:
        async with remote.publisher(timeout) as publisher:
            receipt = await publisher.publish(**message)
    else:
        async with remote.peer() as client:
            receipt = await client.publish(**message, timeout_seconds=timeout)
    if as_json:
        put_json({"epoch": receipt.epoch, "offset": receipt.offset, "duplicate": receipt.duplicate})
    else:
        say(f"{receipt.epoch} {receipt.offset}{' duplicate' if receipt.duplicate else ''}")


@define
class _Summary:
    """What became of many lines."""

    began: float = field(factory=time.monotonic)
    seconds: float = 0.0
    published: int = 0
    duplicates: int = 0
    epoch: str = ""
    offset: int = 0

    def add(self, receipt: Receipt | HttpReceipt) -> None:
        """One more was published."""
        self.published += 1
        self.duplicates += receipt.duplicate
        self.epoch, self.offset = receipt.epoch, receipt.offset
        self.seconds = time.monotonic() - self.began

    def show(self, *, as_json: bool) -> None:
        """Print it."""
        if as_json:
            counts = {"published": self.published, "duplicates": self.duplicates, "seconds": round(self.seconds, 3)}
            put_json(counts | {"epoch": self.epoch, "offset": self.offset})
            return
        again = f", {self.duplicates:,} of them were there before" if self.duplicates else ""
        place = f", the last at {self.epoch} {self.offset}" if self.published else ""
        say(f"published {self.published:,} in {self.seconds:.1f} s{again}{place}")


async def _publish_lines(remote: Remote, words: _Words, lines: JsonLines, timeout: float, *, as_json: bool) -> None:
    """One piece of the input after the other: what is not published yet is not read."""
    summary = _Summary()
    try:
        if remote.credentials.api_key is not None:
            async with remote.publisher(timeout) as publisher:
                await _send_batches(publisher, words, lines, summary)
        else:
            async with remote.peer() as client:
                async for number, data in lines.all(read_stdin):
                    summary.add(await client.publish(**words.message(data, number), timeout_seconds=timeout))
    finally:
        summary.show(as_json=as_json)


async def _send_batches(publisher: AsyncHttpPublisher, words: _Words, lines: JsonLines, summary: _Summary) -> None:
    async for batch in lines.batches(read_stdin):
        results = await publisher.publish_many([Outgoing(**words.message(data, number)) for number, data in batch])
        for (number, _), result in zip(batch, results, strict=True):
            if isinstance(result, PublishError):
                raise Failure(f"line {number}: {result.message}", code=result.code)
            summary.add(result)


# -- request and members ---------------------------------------------------------------------------------------------


@click.command()
@click.argument("action", type=UTF8)
@click.argument("payload", default="null", type=UTF8)
@click.option("--timeout", type=_SECONDS, default=10.0, show_default=True, help="How many seconds to wait.")
@with_remote
def request(*, remote: Remote, action: str, payload: str, timeout: float) -> None:
    """Have the server do ACTION, and print its answer.

    PAYLOAD is JSON, and so is the answer. It is asked once: where the connection is lost meanwhile, it may have been
    done or not.

    \b
    Example:
      realtime request get_fund_flow '{"symbol": "600519"}'
    """
    asked = json_of(payload, "PAYLOAD")

    async def ask() -> None:
        async with remote.peer() as client:
            answer = await client.request(action, asked, timeout_seconds=timeout, type=Raw)
            say(seen_json(one_line(answer)))

    run(ask)


@click.command()
@click.argument("topic", type=UTF8)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@with_remote
def members(*, remote: Remote, topic: str, as_json: bool) -> None:
    """Print who is in TOPIC, in the order in which they came.

    \b
    Example:
      realtime members room:lobby
    """

    async def look() -> None:
        async with remote.peer() as client:
            after = None
            while True:
                page = await client.members(topic, after=after)
                for member in page.members:
                    line = [member.user or "(anonymous)", member.connection, msgspec.json.encode(member.info).decode()]
                    await put(seen_json(msgspec.json.encode(member).decode()) if as_json else seen("  ".join(line)))
                if page.next is None:
                    break
                after = page.next
            if not as_json:
                tell(f"{page.count} in {topic}")

    run(look)
