"""Lines for people and for programs, tables, lines of input."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import click
import msgspec
import pytest
from msgspec import Raw
from rich.console import Console

from realtime.cli.ending import Failure
from realtime.cli.lines import JsonLines
from realtime.cli.output import Style, lost_json, lost_words, message_json, message_words, seen_json
from realtime.cli.review import review
from realtime.cli.tables import activity_tables, amount, duration, stats_table
from realtime.config import Settings
from realtime.engine import Engine
from realtime.local import Lost, Message

PLAIN = Style(coloured=False)


def message(**changes: Any) -> Message:
    usual = {"topic": "room:a", "offset": 3, "time": 1763690000123, "data": Raw(b'{"a":1}')}
    return Message(**(usual | changes))


def test_message_as_json_has_what_the_wire_has() -> None:
    """Without members that have no value; in one line."""
    assert json.loads(message_json(message())) == {
        "type": "message",
        "topic": "room:a",
        "offset": 3,
        "time": 1763690000123,
        "data": {"a": 1},
    }
    full = message_json(message(event="e", key="k", data=Raw(b'{"a":\r\n1.0}')))
    assert full.endswith('"data":{"a":1.0}}')
    assert (json.loads(full)["event"], json.loads(full)["key"]) == ("e", "k")


def test_message_cannot_steer_a_terminal() -> None:
    """Control characters are shown as question marks, wherever they come from."""
    shown = message_words(message(event="\x1b[2J", key="\x07", data=Raw('"\x9b\u202e"'.encode())), PLAIN)
    assert shown.isprintable()
    assert "?[2J" in shown


@pytest.mark.parametrize("char", ["\x7f", "\x9b", "\u202e", "\u2028", "\U000e0001"])
def test_json_cannot_steer_a_terminal_either(char: str) -> None:
    """Such a character stands there with its number, so that who decodes it gets what was sent."""
    data = f'{{"{char}":"\\n{char}ü"}}'
    line = message_json(message(event=char, data=Raw(data.encode())))
    assert line.isprintable()
    assert "ü" in line
    assert json.loads(line)["event"] == char
    assert json.loads(line)["data"] == {char: f"\n{char}ü"}
    assert lost_json(Lost(char, 1, 1, 1, "expired")).isprintable()


def test_tab_between_tokens_stays_as_it_is() -> None:
    """Nowhere else can one be, and escaped it would be no JSON."""
    assert seen_json('{"a":\t1}') == '{"a":\t1}'


def test_colours_are_put_on_where_they_are_wanted() -> None:
    """And are nothing but colours."""
    coloured = message_words(message(event="e"), Style(coloured=True))
    assert coloured != message_words(message(event="e"), PLAIN)
    assert click.unstyle(coloured) == message_words(message(event="e"), PLAIN)


def test_gap_is_told_with_its_bounds() -> None:
    """As on the wire; in words also where nobody knows how many."""
    lost = Lost("room:a", 4, 6, 3, "slow_reader")
    assert json.loads(lost_json(lost)) == {
        "type": "gap",
        "topic": "room:a",
        "from": 4,
        "to": 6,
        "count": 3,
        "reason": "slow_reader",
    }
    assert lost_words(lost) == "room:a: 3 messages were lost, 4 to 6 (slow_reader)"
    assert lost_words(Lost("room:a", 1, 0, 0, "epoch_changed")) == "room:a: messages may have been lost (epoch_changed)"


def test_failure_is_one_line_with_code_and_hint(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever a server has written into it."""
    Failure("a\nb\x1b", code="AUTH_REQUIRED").show()
    assert capsys.readouterr().err == ("realtime: AUTH_REQUIRED: a b? (set REALTIME_TOKEN or REALTIME_KEY)\n")


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 20, "3.0 MiB"), (5 << 30, "5.0 GiB")]
)
def test_bytes_are_shown_in_a_unit_that_fits(count: int, shown: str) -> None:
    assert amount(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(5.9, "5 s"), (65, "1 min 5 s"), (3700, "1 h 1 min"), (90000, "1 d 1 h")]
)
def test_times_are_shown_in_their_two_largest_units(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def printed(table: Any) -> str:
    console = Console(width=200, record=True, file=None)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def statistics(**changes: Any) -> dict[str, Any]:
    found = json.loads(msgspec.json.encode(Engine(Settings(dev=True)).statistics()))
    return found | changes


async def test_counters_have_rates_where_there_was_a_look_before() -> None:
    """Of the same server: after a restart the counters begin anew, and there is no rate."""
    before = statistics(uptime_seconds=10.0)
    now = statistics(
        uptime_seconds=12.0,
        refused={"api": 4},
        actions=[{"name": "[add]", "calls": 9, "in_flight": 1, "failed": 1, "timed_out": 1, "refused": 0}],
        feeds=[{"name": "prices", "state": "running", "restarts": 2}],
    )
    now["hub"] |= {"published": 20, "dropped": {"queue_full": 6}, "gaps": {"slow_consumer": 2}}
    lines = printed(stats_table(before, now, 2.0, plain=True)).splitlines()
    rows = {line.split("  ")[0]: line.split() for line in lines}
    assert rows["published"][-2:] == ["20", "10.0"]
    assert rows["dropped: queue_full"][-2:] == ["6", "3.0"]
    assert rows["gaps told: slow_consumer"][-2:] == ["2", "1.0"]
    assert rows["refused: api"][-2:] == ["4", "2.0"]
    assert "action [add]" in rows
    assert "feed prices" in rows
    lines = printed(stats_table(now, before, 2.0, plain=True)).splitlines()
    rows = {line.split("  ")[0]: line.split() for line in lines}
    assert rows["published"][-1] == "0"


def test_slow_connections_are_shown_with_their_queues() -> None:
    """And that nothing is going on, where nothing is."""
    slow = {
        "id": "c_1", "user": None, "address": "::1", "transport": "sse", "subscriptions": 1, "queue_messages": 7,
        "queue_bytes": 2048, "queue_age": 3.25, "idle_seconds": 61.0,
    }  # fmt: skip
    shown = printed(activity_tables(None, {"topics": [], "connections": [slow]}, 0.0, plain=False))
    assert "no topic that is listened to is busy" in shown
    assert "2.0 KiB" in shown
    assert "3.2 s" in shown


def reading(*pieces: bytes) -> Callable[[], Awaitable[bytes]]:
    left = [*pieces, b""]

    async def read() -> bytes:
        return left.pop(0)

    return read


async def test_lines_are_numbered_and_decoded_as_they_come() -> None:
    """However they are cut; the last needs no end."""
    lines = JsonLines(text=False)
    assert [batch async for batch in lines.batches(reading(b"1\n\n{", b"}\n3"))] == [[(1, 1)], [(3, {})], [(4, 3)]]


async def test_lines_of_text_are_not_decoded() -> None:
    """Whatever the end of a line is."""
    assert [line async for line in JsonLines(text=True).all(reading(b"{\r\nb c\n"))] == [(1, "{"), (2, "b c")]


@pytest.mark.parametrize(
    ("text", "data"), [(False, b"1\n{\n3\n"), (False, b"1\n" + b"[" * 5000 + b"\n3"), (True, b"1\n\xff\n3\n")]
)
async def test_line_that_is_no_good_ends_them(text: bool, data: bytes) -> None:
    """After those before it."""
    found = []
    with pytest.raises(Failure, match="line 2 is not"):
        async for line in JsonLines(text=text).all(reading(data)):
            found.append(line)
    assert len(found) == 1


async def test_line_without_end_is_refused() -> None:
    """Before it fills the memory."""
    with pytest.raises(Failure, match="line 2 has more than"):
        async for _ in JsonLines(text=False).all(reading(b"1\n", *[b"x" * (1 << 20)] * 17)):
            pass


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Settings(dev=True), "dev is on"),
        (Settings(allow_anonymous=True), "allow_anonymous"),
        (Settings(), "no rules"),
        (Settings(), "no origins"),
        (Settings(origins=("*",)), "every web page"),
        (Settings(), "no api_keys"),
        (Settings(api_keys=("plain",)), "plain key"),
        (Settings(), "only tickets and API keys"),
        (Settings(jwt_algorithms=("RS256",), jwt_jwks_url="https://id.example.com"), "jwt_audience"),
        (Settings(jwt_algorithms=("HS256",), jwt_secret="s" * 32, jwt_require_expiry=False), "for ever"),
        (Settings(query_tokens=True), "query_tokens"),
        (Settings(host="0.0.0.0"), "no TLS"),
    ],
)
def test_what_is_noteworthy_is_noted(settings: Settings, said: str) -> None:
    """Nothing of it is wrong, but somebody should have meant it."""
    assert any(said in note for note in review(settings).notes)


def test_settings_that_differ_are_named_without_secrets() -> None:
    """Those that are as by default are not."""
    found = review(Settings(port=9000, api_keys=("plain",)))
    assert found.differs == {"port": 9000, "api_keys": "***"}
