"""What is shown to a server, and what is said where that is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from realtime.cli.credentials import Credentials
from realtime.cli.ending import Failure
from realtime.errors import ErrorCode

FILE = Path("login.txt")


@pytest.mark.parametrize(
    ("credentials", "as_peer", "named"),
    [
        (Credentials(token="t"), True, "is REALTIME_TOKEN for this server?"),
        (Credentials(token="t", api_key="k"), True, "is REALTIME_TOKEN for this server?"),
        (Credentials(token="t", api_key="k"), False, "is REALTIME_KEY a key of this server?"),
        (Credentials(api_key="k"), True, "is REALTIME_KEY a key of this server?"),
        (Credentials(token="t", token_file=FILE), True, "is the token in login.txt for this server?"),
        (Credentials(token="t"), False, "is REALTIME_TOKEN for this server?"),
    ],
)
def test_hint_names_what_was_shown_and_nothing_else(credentials: Credentials, as_peer: bool, named: str) -> None:
    """A back end shows its key, a peer its token first."""
    assert credentials.hint(ErrorCode.AUTH_FAILED, as_peer=as_peer) == named


def test_who_is_not_logged_in_is_told_so_where_something_is_denied() -> None:
    """Before it looks for a rule."""
    denied = ErrorCode.PERMISSION_DENIED
    assert "nobody is logged in: set REALTIME_TOKEN" in Credentials().failure("no", denied).message
    assert "logged in" not in Credentials(token="t").failure("no", denied).message
    assert "check-access" in Credentials(token="t").failure("no", denied).message


@pytest.mark.parametrize(("content", "said"), [(b"\xff\x00", "not UTF-8"), (None, "No such file")])
def test_token_file_that_has_no_token_is_a_failure(tmp_path: Path, content: bytes | None, said: str) -> None:
    """One that is there, but is something else; one that has gone."""
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(Failure, match=said):
        Credentials(token_file=file).peer_headers()
