"""The pages of what is done, and of what attackers meet, name tests, and each of them is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
PAGES = TESTS.parent / "docs" / "explanation"
_WORD = re.compile(r"``(?:([a-z0-9_/]+/test_[a-z0-9_]+\.py)|(test_[a-z0-9_]+))``")


def claims(page: str) -> Iterator[tuple[str, str]]:
    """The tests that a page names, each with its file, which stands before it; no name: the file as a whole."""
    path = ""
    for found in _WORD.finditer((PAGES / page).read_text()):
        path = found[1] or path
        yield path, found[2] or ""


CLAIMS = {page: list(claims(page)) for page in ("requirements.rst", "security.rst")}


@pytest.mark.parametrize(("page", "least"), [("requirements.rst", 80), ("security.rst", 80)])
def test_page_names_tests(page, least):
    """Otherwise the next test would hold of nothing."""
    assert len(CLAIMS[page]) >= least


@pytest.mark.parametrize(("path", "name"), sorted({claim for each in CLAIMS.values() for claim in each}))
def test_named_test_exists(path, name):
    """A test that was renamed takes its line of the page along."""
    text = (TESTS / path).read_text()
    assert not name or re.search(rf"^(async )?def {name}\(", text, re.MULTILINE)
