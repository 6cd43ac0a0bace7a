"""The keys that tokens are signed with: kept here, or published by whoever signs.

A key is for one algorithm, which follows from the key and never from a token: a public key of RSA is no secret for
HMAC, whatever a header says.
"""

from __future__ import annotations

import warnings
from collections.abc import Awaitable, Callable, Iterable
from typing import Annotated, Any, Protocol

import msgspec
import structlog
import trio
from attrs import define, field, frozen, validators
from cryptography.exceptions import UnsupportedAlgorithm
from joserfc import jwk
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jws import JWSRegistry

from realtime.errors import CommandError, ConfigurationError, ErrorCode, RealtimeError

__all__ = ["SUPPORTED", "Key", "KeySource", "KeysUnavailable", "RemoteKeys", "StaticKeys"]

log = structlog.get_logger("realtime")

#: By type and curve of a key, the one algorithm that it is for.
_ALGORITHMS = {
    ("oct", None): "HS256",
    ("RSA", None): "RS256",
    ("EC", "P-256"): "ES256",
    ("OKP", "Ed25519"): "EdDSA",
}
SUPPORTED = tuple(_ALGORITHMS.values())
#: "EdDSA" may be either of two curves; the library's name for the one that is meant here is another.
_MODELS = {name: JWSRegistry.algorithms["Ed25519" if name == "EdDSA" else name] for name in SUPPORTED}

#: As long as the hash of HS256 (RFC 7518, 3.2).
_LEAST_SECRET_BYTES = 32
_RSA_BITS = range(2048, 8192 + 1)
MAX_KID_LENGTH = 200

#: What the library raises for a text that is no key, or none that it knows.
_NOT_A_KEY = (JoseError, UnsupportedAlgorithm, ValueError, TypeError, KeyError)


class KeysUnavailable(RealtimeError):
    """The published keys could not be fetched, or are of no use."""


@frozen
class Key:
    """What signatures of one algorithm are checked with."""

    algorithm: str
    #: None: the key has no name, and is for tokens that name no other.
    kid: str | None
    _key: jwk.Key = field(repr=False)

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether the signature was made over the message with this key, or with its private half."""
        return _MODELS[self.algorithm].verify(message, signature, self._key)


class KeySource(Protocol):
    """Where a verifier finds its keys."""

    async def find(self, kid: str | None, algorithm: str) -> Key:
        """The one key of this name and algorithm; for a token that names none, the only one of its algorithm.

        Raises `CommandError`: ``AUTH_FAILED`` if there is no such key or more than one, ``UNAVAILABLE`` with a
        ``retry_after`` as long as no keys are known at all.
        """
        ...


class StaticKeys:
    """Keys that are given once.

    Raises `ConfigurationError` for what is no key, is too weak, or cannot be told apart from another.
    """

    def __init__(self, keys: Iterable[Key]) -> None:
        self._keys = tuple(keys)
        if not self._keys:
            raise ConfigurationError("there is no key to check tokens with")
        if len({(key.kid, key.algorithm) for key in self._keys}) < len(self._keys):
            raise ConfigurationError("two keys of one algorithm need a different kid each, in a JSON Web Key Set")

    @classmethod
    def of(cls, *, secret: str | None = None, files: Iterable[bytes] = ()) -> StaticKeys:
        """Several together. A file is a JSON Web Key Set if it begins with a brace, else PEM."""
        keys = [] if secret is None else [_from_secret(secret)]
        for file in files:
            keys += _from_file(file) if file.lstrip().startswith(b"{") else [_from_pem(file)]
        return cls(keys)

    async def find(self, kid: str | None, algorithm: str) -> Key:
        """See `KeySource`."""
        await trio.lowlevel.checkpoint()
        key = _pick(self._keys, kid, algorithm)
        if key is None:
            raise CommandError(ErrorCode.AUTH_FAILED, "no key is known for this token")
        return key


@define(eq=False)
class RemoteKeys:
    """Keys that are published somewhere, as a JSON Web Key Set that ``fetch`` gets, in bounded time and size.

    A set is fetched when it is first needed, when it has become old, and when a token names a key that is not in it.
    One caller fetches at a time, and those who need the same wait for it. Where there is no set yet, and a caller is
    cancelled while it fetches one, the next in line begins anew. Only public keys are taken. While a new set cannot be
    had, the last one stays in use.
    """

    #: Raises `KeysUnavailable`, whose text is logged.
    _fetch: Callable[[], Awaitable[bytes]] = field(repr=False)
    #: Where they are fetched from, for the log: without anything secret that the address may hold.
    url: str | None = field(default=None, kw_only=True)
    #: For how long a key is accepted that was withdrawn.
    refresh_seconds: float = field(default=300.0, kw_only=True, validator=validators.gt(0))
    #: The least time from one fetch to the next: unknown names of keys are invented at will.
    retry_seconds: float = field(default=30.0, kw_only=True, validator=validators.gt(0))
    _now: Callable[[], float] = field(default=trio.current_time, kw_only=True)
    #: Sets that were fetched, and attempts that failed.
    fetched: int = field(default=0, init=False)
    failed: int = field(default=0, init=False)
    _keys: tuple[Key, ...] = field(default=(), init=False)
    _old_at: float = field(default=float("-inf"), init=False)
    _retry_at: float = field(default=float("-inf"), init=False)
    _out: bool = field(default=False, init=False)
    _lock: trio.Lock = field(factory=trio.Lock, init=False)

    async def find(self, kid: str | None, algorithm: str) -> Key:
        """See `KeySource`."""
        await trio.lowlevel.checkpoint()
        key = _pick(self._keys, kid, algorithm)
        if key is None or self._now() >= self._old_at:
            await self._refresh()
            key = _pick(self._keys, kid, algorithm)
        if not self._keys:
            left = self._retry_at - self._now()
            raise CommandError(ErrorCode.UNAVAILABLE, "the keys of tokens cannot be fetched", retry_after=left)
        if key is None:
            raise CommandError(ErrorCode.AUTH_FAILED, "no key is known for this token")
        return key

    async def _refresh(self) -> None:
        if self._now() < self._retry_at:
            return
        async with self._lock:
            # Whoever held the lock before may have done it; one that was cancelled has not.
            if self._now() < self._retry_at:
                return
            if self._keys:  # a search counts from its start, or whoever hangs up early could have us search without end
                self._retry_at = self._now() + self.retry_seconds
            try:
                keys = _from_set(await self._fetch(), secrets=False)
            except KeysUnavailable as error:
                self._note_failure(error)
            else:
                if self._out:
                    log.info("signing keys fetched", url=self.url, keys=len(keys))
                self._keys = keys
                self.fetched += 1
                self._out = False
                self._old_at = self._now() + self.refresh_seconds
            self._retry_at = self._now() + self.retry_seconds

    def _note_failure(self, error: KeysUnavailable) -> None:
        self.failed += 1
        if not self._out:
            # Of another's exception the class only: its text may hold the address and what is secret in it.
            cause = f" ({type(error.__cause__).__name__})" if error.__cause__ else ""
            log.warning(
                "signing keys cannot be fetched", url=self.url, reason=f"{error}{cause}", retry_in=self.retry_seconds
            )
        self._out = True


def _pick(keys: tuple[Key, ...], kid: str | None, algorithm: str) -> Key | None:
    fitting = [key for key in keys if key.algorithm == algorithm]
    if kid is not None:
        named = [key for key in fitting if key.kid == kid]
        fitting = named or [key for key in fitting if key.kid is None]
    return fitting[0] if len(fitting) == 1 else None


def _from_secret(secret: str) -> Key:
    length = len(secret.encode(errors="surrogatepass"))
    if length < _LEAST_SECRET_BYTES:
        raise ConfigurationError(
            f"jwt_secret: has {length} bytes, must have {_LEAST_SECRET_BYTES} or more; "
            "make one with: openssl rand -hex 32"
        )
    try:
        return _key(_imported(secret, "oct"))
    except _NOT_A_KEY:
        raise ConfigurationError("jwt_secret: must be a random text, not a public key") from None


def _from_pem(pem: bytes) -> Key:
    for kind in ("RSA", "EC", "OKP"):
        try:
            return _key(_imported(pem, kind))
        except _NOT_A_KEY:
            continue
    if b"PRIVATE KEY" in pem:
        raise ConfigurationError("is a private key; make the public one with: openssl pkey -in FILE -pubout")
    raise ConfigurationError(
        "must hold a public key or certificate in PEM, of RSA (2048 to 8192 bits), P-256 or Ed25519, "
        "or a JSON Web Key Set"
    )


def _from_file(document: bytes) -> tuple[Key, ...]:
    try:
        return _from_set(document, secrets=True)
    except KeysUnavailable as error:
        raise ConfigurationError(str(error)) from None


class _Set(msgspec.Struct):
    # An identity provider has a handful.
    keys: Annotated[list[dict[str, Any]], msgspec.Meta(max_length=100)]


_MAX_SET_BYTES = 256 << 10


def _from_set(document: bytes, *, secrets: bool) -> tuple[Key, ...]:
    if len(document) > _MAX_SET_BYTES:
        raise KeysUnavailable(f"a set of keys must be of {_MAX_SET_BYTES} bytes or fewer")
    try:
        members = msgspec.json.decode(document, type=_Set).keys
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise KeysUnavailable("it is not a JSON Web Key Set of 100 keys or fewer") from error
    keys = tuple(key for key in map(_from_member, members) if key and (secrets or key.algorithm != "HS256"))
    if not keys:
        raise KeysUnavailable("no key in it is of use for signatures")
    return keys


def _from_member(member: dict[str, Any]) -> Key | None:
    """None for a key that is not for signatures, not for an algorithm of ours, too weak or private (RFC 7517, 5)."""
    try:
        key = _key(_imported(member, None))
        wanted = member.get("use", "sig") == "sig" and member.get("alg", key.algorithm) == key.algorithm
        named = key.kid is None or len(key.kid) <= MAX_KID_LENGTH
        return key if wanted and named and "verify" in member.get("key_ops", ["verify"]) else None
    except _NOT_A_KEY:
        return None


def _imported(text: str | bytes | dict[str, Any], kind: str | None) -> jwk.Key:
    # It warns of weak keys, which are refused here.
    with warnings.catch_warnings(action="ignore", category=SecurityWarning):
        return jwk.JWKRegistry.import_key(text, kind)


def _key(key: jwk.Key) -> Key:
    """Raise ValueError or KeyError for a key that is too weak, is private, or has no algorithm of ours."""
    if isinstance(key, jwk.OctKey):
        strong = len(key.raw_value) >= _LEAST_SECRET_BYTES
    else:
        strong = not key.is_private and (not isinstance(key, jwk.RSAKey) or key.raw_value.key_size in _RSA_BITS)
    if not strong:
        raise ValueError("weak, or private")
    # A private key that others can read is everybody's, and what only checks tokens has no use for it.
    curve = key.curve_name if isinstance(key, jwk.ECKey | jwk.OKPKey) else None
    return Key(_ALGORITHMS[key.key_type, curve], key.kid, key)
