"""What a browser adds to a request by itself: a cookie, and word of the page behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from realtime.errors import CommandError, ErrorCode

if TYPE_CHECKING:
    from transports.credentials import Head

__all__ = ["cookie_value", "from_own_page"]

_MAX_BYTES = 8192
_BLANKS = " \t"


def cookie_value(headers: list[str], name: str) -> str | None:
    """The value of a cookie in all the ``Cookie`` headers of a request; None where there is none, or an empty one.

    Raises `CommandError` for one that is too long, or that is there twice with different values: a page of a sibling
    domain can set a second one beside ours, and nothing says which is which.
    """
    values = set()
    for header in headers:
        for pair in header.split(";"):
            key, equals, value = pair.partition("=")
            if equals and key.strip(_BLANKS) == name:
                values.add(_unquoted(value.strip(_BLANKS)))
    if len(values) > 1:
        raise CommandError(ErrorCode.AUTH_FAILED, "the cookie is there twice")
    value = values.pop() if values else ""
    # Heads are read as latin-1: a character is a byte.
    if len(value) > _MAX_BYTES:
        raise CommandError(ErrorCode.AUTH_FAILED, f"a cookie has at most {_MAX_BYTES} bytes")
    return value or None


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value


def from_own_page(head: Head) -> bool:
    """Whether the browser says that a page of this very origin sends the request.

    For requests without ``Origin``: browsers send none where such a page fetches something or opens an `EventSource`.
    No script can set this header.
    """
    return head.header(b"sec-fetch-site") == "same-origin"
