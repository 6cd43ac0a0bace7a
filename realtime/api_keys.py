"""The keys of back ends: how one is made, how it stands in the configuration, and which one was given.

A key is ``rtk_<name>_<64 hexadecimal digits>``. Secret scanners find it by its prefix and its ending, and whoever
finds one reads from it which line has to go. The configuration holds a line that is of no use to a thief::

    <name>:<right>+<right>:sha256:<hash of the key, 64 hexadecimal digits>

Any other text is a plain key, which stands there as it is and has all rights.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Iterator
from typing import Self

from attrs import field, frozen

from realtime.auth import Identity, Right
from realtime.errors import ConfigurationError

__all__ = ["ApiKey", "ApiKeys", "new_key"]

_PREFIX = "rtk_"
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_WORD = re.compile(r"[A-Za-z]{1,12}")
_LINE = re.compile(r"(?P<name>[^:]*):(?P<rights>[^:]*):sha256:(?P<digest>[0-9a-fA-F]{64})")
_MAX_LENGTH = 512


def _digest(text: str) -> bytes:
    # A slow hash makes up for secrets that can be guessed. Nobody guesses 256 random bits, however fast the hash is,
    # and a slow one would let anybody keep the server busy with wrong keys.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


@frozen
class ApiKey:
    """What is known of a key; not the key."""

    name: str
    rights: frozenset[Right]
    digest: bytes = field(repr=False)
    #: Whether the key itself stands in the configuration.
    plain: bool = field(default=False, kw_only=True)

    @classmethod
    def parse(cls, text: str, *, plain_name: str = "plain") -> Self:
        """Read what stands in the configuration. Raises `ConfigurationError`, which does not repeat the text."""
        # Also with a typing error it is a line: as a plain key, it would open everything to whoever read the file.
        if "sha256" in text.lower():
            return cls._from_line(text)
        if text.startswith(_PREFIX):
            # As a plain key it would have more rights than it was made for.
            raise ConfigurationError("this is a key; what belongs here is the line that was made with it")
        if not 1 <= len(text) <= _MAX_LENGTH:
            raise ConfigurationError(f"a plain key must have 1 to {_MAX_LENGTH} characters")
        return cls(plain_name, frozenset(Right), _digest(text), plain=True)

    @classmethod
    def _from_line(cls, text: str) -> Self:
        line = _LINE.fullmatch(text)
        if line is None:
            raise ConfigurationError("must be <name>:<right>+<right>:sha256:<64 hexadecimal digits>")
        _check_name(line["name"])
        rights = line["rights"].split("+")
        for right in rights:
            if right not in set(Right):
                # What is no short word may be a key in the wrong place.
                shown = repr(right) if _WORD.fullmatch(right) else "one of them"
                raise ConfigurationError(
                    f"the rights must be some of {', '.join(Right)}, joined by plus signs; {shown} is none"
                )
        return cls(line["name"], frozenset(map(Right, rights)), bytes.fromhex(line["digest"]))

    @property
    def identity(self) -> Identity:
        """Who logs in with it: no user, and nobody whom a rule is about."""
        return Identity(rights=self.rights, key=self.name, token_id=f"{self.name}:{self.digest.hex()}")

    def may(self, right: Right) -> bool:
        """Whether the key opens this."""
        return right in self.rights or Right.ADMIN in self.rights


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            "the name must have 1 to 32 small letters, digits, hyphens and underscores, a letter first"
        )


def new_key(name: str, rights: Iterable[Right]) -> tuple[str, str]:
    """A new key, for the back end, and its line, for the configuration.

    Raises `ConfigurationError` for a name that must not be, and where there are no rights.
    """
    _check_name(name)
    key = f"{_PREFIX}{name}_{secrets.token_hex(32)}"
    line = f"{name}:{'+'.join(sorted(set(rights)))}:sha256:{_digest(key).hex()}"
    ApiKey.parse(line)
    return key, line


class ApiKeys:
    """All keys of a server."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._keys: list[ApiKey] = []
        for number, text in enumerate(lines, 1):
            try:
                self._add(ApiKey.parse(text, plain_name=f"plain-{number}"))
            except ConfigurationError as error:
                raise ConfigurationError(f"api_keys, number {number}: {error}") from None

    def _add(self, key: ApiKey) -> None:
        for other in self._keys:
            if other.name == key.name:
                raise ConfigurationError(f"another key has the name {key.name}")
            if other.digest == key.digest:
                raise ConfigurationError(f"this is the same key as {other.name}")
        self._keys.append(key)

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[ApiKey]:
        return iter(self._keys)

    @property
    def has_plain(self) -> bool:
        """Whether a key itself stands in the configuration, which a server for others to use should not have."""
        return any(key.plain for key in self._keys)

    def hold(self, identity: Identity) -> bool:
        """Whether a login holds as far as keys are concerned: it has used none, or one that is still as it was."""
        return identity.key is None or any(key.identity == identity for key in self._keys)

    def find(self, given: str) -> ApiKey | None:
        """The key that somebody gave; None if it is none of these."""
        if len(given) > _MAX_LENGTH:
            return None
        digest = _digest(given)
        found = None
        for key in self._keys:
            # All are compared, each in constant time: the answer's delay tells nothing of a key.
            if hmac.compare_digest(digest, key.digest):
                found = key
        return found
