"""What a command is given: text and JSON, on its command line or on standard input."""

from __future__ import annotations

import sys
from typing import Any

import click
import msgspec

from realtime.cli.ending import Failure
from realtime.json_depth import exceeds_depth

__all__ = ["UTF8", "decode", "json_of", "read_all"]

#: More than servers take, and half of what could still be encoded.
_MOST_LEVELS = 500


class _Utf8(click.ParamType[str]):
    """Text that can be sent: bytes that are none come in as halves of surrogate pairs, which no wire takes."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        try:
            text.encode()
        except UnicodeEncodeError:
            self.fail("is not UTF-8", param, ctx)
        return text


UTF8 = _Utf8()


def decode(text: bytes) -> Any:
    """The value that is JSON. Raises ``msgspec.DecodeError`` and ``UnicodeDecodeError``."""
    if exceeds_depth(text, _MOST_LEVELS):
        raise msgspec.DecodeError(f"more than {_MOST_LEVELS} levels are nested")
    return msgspec.json.decode(text)


def json_of(text: str | bytes, what: str) -> Any:
    """The value. Raises ``click.BadParameter``, which names it as ``what``."""
    try:
        return decode(text if isinstance(text, bytes) else text.encode())
    except (msgspec.DecodeError, UnicodeError) as error:
        raise click.BadParameter(f"not JSON: {error}", param_hint=what) from None


def read_all(*, text: bool) -> str | bytes:
    """All of standard input; decoded, where it is to be text. Raises `Failure`."""
    data = sys.stdin.buffer.read()
    if not text:
        return data
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Failure(f"standard input is not UTF-8: {error}") from None
