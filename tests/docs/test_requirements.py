"""The page of what is done names a test for every line, and each of them is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
PAGE = (TESTS.parent / "docs" / "explanation" / "requirements.rst").read_text()
CLAIMS = re.findall(r"- ``([a-z0-9_]+/test_[a-z0-9_]+\.py)``(?:\n +``(test_[a-z0-9_]+)``)?", PAGE)


def test_page_names_tests():
    """Otherwise the next test would hold of nothing."""
    assert len(CLAIMS) > 40


@pytest.mark.parametrize(("path", "name"), CLAIMS)
def test_named_test_exists(path, name):
    """A test that was renamed takes its line of the page along."""
    text = (TESTS / path).read_text()
    assert not name or re.search(rf"^(async )?def {name}\(", text, re.MULTILINE)
