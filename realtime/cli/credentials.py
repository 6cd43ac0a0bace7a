"""Who we are at a server: the token or the API key that is shown there, and what to do where that is refused."""

from __future__ import annotations

from pathlib import Path

from attrs import field, frozen

from realtime.cli.ending import Failure
from realtime.client import TokenReason
from realtime.errors import ErrorCode

__all__ = ["Credentials"]

_CHECK = "`realtime check-access` shows which rule decides, given the server's configuration"


@frozen(kw_only=True)
class Credentials:
    """See the module. A peer shows the token where there is one, or else the API key, which is a login too."""

    token: str | None = field(default=None, repr=False)
    #: Goes before `token`.
    token_file: Path | None = None
    #: What a back end shows, if it has one.
    api_key: str | None = field(default=None, repr=False)

    def read_token(self, _reason: TokenReason = TokenReason.CONNECT) -> str:
        """The token that is in the file now. Raises ``OSError``, and `Failure` where that is no text."""
        assert self.token_file is not None
        try:
            return self.token_file.read_text(encoding="utf-8").strip()
        except UnicodeDecodeError:
            raise Failure(f"{self.token_file}: is not UTF-8, and so no token") from None

    def headers(self) -> dict[str, str]:
        """What a back end shows: the API key, or else the token. Raises `Failure`."""
        return self.peer_headers() if self.api_key is None else {"X-API-Key": _checked(self.api_key)}

    def peer_headers(self) -> dict[str, str]:
        """What a peer shows: the token, or else the API key. Raises `Failure`."""
        try:
            login = self.read_token() if self.token_file is not None else self.token or self.api_key
        except OSError as error:
            raise Failure(f"{self.token_file}: {error.strerror}") from None
        return {} if login is None else {"Authorization": f"Bearer {_checked(login)}"}

    def hint(self, code: str | None, *, as_peer: bool = True) -> str | None:
        """What to do about a refusal, where that depends on what was shown."""
        shown = self.shown(as_peer=as_peer)
        if code == ErrorCode.AUTH_FAILED and shown is not None:
            return f"is {shown} a key of this server?" if shown == "REALTIME_KEY" else f"is {shown} for this server?"
        if code == ErrorCode.PERMISSION_DENIED and shown is None:
            return f"nobody is logged in: set REALTIME_TOKEN; {_CHECK}"
        return None

    def failure(self, message: str, code: str | None, *, as_peer: bool = True, place: int = 0) -> Failure:
        """A refusal as a failure, with that hint."""
        return Failure(message, code=code, hint=self.hint(code, as_peer=as_peer), place=place)

    def shown(self, *, as_peer: bool) -> str | None:
        """Where what is shown comes from, in the words of a command line."""
        if self.api_key is not None and not as_peer:
            return "REALTIME_KEY"
        if self.token_file is not None:
            return f"the token in {self.token_file}"
        if self.token is not None:
            return "REALTIME_TOKEN"
        return None if self.api_key is None else "REALTIME_KEY"


def _checked(credential: str) -> str:
    if not (credential.isascii() and credential.isprintable() and credential.strip() == credential != ""):
        raise Failure("a token or key is printable ASCII text with no blanks around it", code=ErrorCode.AUTH_FAILED)
    return credential
