"""Text and JSON that commands are given."""

from __future__ import annotations

import click
import pytest

from realtime.cli.given import UTF8, json_of


def test_text_that_cannot_be_sent_is_refused() -> None:
    """Python lets bytes that are no UTF-8 in as halves of surrogate pairs."""
    assert UTF8.convert("ü", None, None) == "ü"
    with pytest.raises(click.BadParameter, match="not UTF-8"):
        UTF8.convert("\udcff", None, None)


@pytest.mark.parametrize("text", ["{", "[" * 5000, "[" * 980 + "]" * 980, b'"\xff"', '"\udcff"'])
def test_what_is_no_json_is_a_wrong_command_line(text: str | bytes) -> None:
    """Also where it is nested deeper than anything could be."""
    with pytest.raises(click.BadParameter, match="not JSON"):
        json_of(text, "DATA")
