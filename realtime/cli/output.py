"""How commands print: lines for people, with colours on a terminal alone; JSON for programs, one object a line."""

from __future__ import annotations

import os
import sys
from datetime import datetime
from typing import Any

import click
import msgspec
from msgspec import Raw
from rich.console import Console

from realtime.local import Lost, Message

__all__ = [
    "Style",
    "console",
    "lost_json",
    "lost_words",
    "message_json",
    "message_words",
    "one_line",
    "seen",
    "seen_json",
]

#: Where there is no edge, as in a file, nothing is cut off.
_WIDE = 1000


class Style:
    """Paints words, or not."""

    def __init__(self, *, coloured: bool) -> None:
        self._coloured = coloured

    @classmethod
    def of_stdout(cls) -> Style:
        """Colours on a terminal, unless ``NO_COLOR`` is set."""
        plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
        return cls(coloured=sys.stdout.isatty() and not plain)

    def __call__(self, text: str, colour: str | None = None, *, dim: bool = False) -> str:
        """The text, painted."""
        return click.style(text, fg=colour, dim=dim) if self._coloured else text


def console(*, stderr: bool = False) -> Console:
    """Where tables and progress bars go; it knows ``NO_COLOR`` and ``TERM`` by itself."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, highlight=False, width=None if stream.isatty() else _WIDE)


def one_line(raw: Raw | bytes) -> str:
    """JSON text as it came, in one line."""
    data = bytes(raw)
    return (msgspec.json.format(data, indent=-1) if b"\n" in data or b"\r" in data else data).decode()


def message_json(message: Message) -> str:
    """A message as it is on the wire; its payload is text that was not decoded."""
    members: dict[str, Any] = {"type": "message", "topic": message.topic, "offset": message.offset}
    members |= {name: getattr(message, name) for name in ("event", "key") if getattr(message, name) is not None}
    head = msgspec.json.encode(members | {"time": message.time})
    return seen_json(f'{head[:-1].decode()},"data":{one_line(message.data)}}}')


def message_words(message: Message, style: Style) -> str:
    """A message for people."""
    moment = datetime.fromtimestamp(message.time / 1000).astimezone()
    words = [
        style(f"{moment:%H:%M:%S}.{message.time % 1000:03}", dim=True),
        style(seen(message.topic), "cyan"),
        style(f"#{message.offset}", "yellow"),
    ]
    if message.event is not None:
        words.append(style(seen(message.event), "green"))
    if message.key is not None:
        words.append(style(f"key={seen(message.key)}", "magenta"))
    return " ".join([*words, seen(one_line(message.data))])


def lost_json(lost: Lost) -> str:
    """A gap as it is on the wire."""
    members = {"type": "gap", "topic": lost.topic, "from": lost.first, "to": lost.last}
    return seen_json(msgspec.json.encode(members | {"count": lost.count, "reason": lost.reason}).decode())


def lost_words(lost: Lost) -> str:
    """A gap for people."""
    if lost.count:
        return f"{lost.topic}: {lost.count} messages were lost, {lost.first} to {lost.last} ({lost.reason})"
    return f"{lost.topic}: messages may have been lost ({lost.reason})"


def seen(text: str) -> str:
    """Without what would steer a terminal, or turn the direction of writing."""
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)


def seen_json(text: str) -> str:
    """The same JSON with such characters as ``\\uXXXX``: who decodes it gets them, a terminal does not."""
    if text.isprintable():
        return text
    # A tab stands between tokens, where nothing can be escaped.
    return "".join(char if char.isprintable() or char == "\t" else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    units = char.encode("utf-16-be").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
