"""Signed tokens (JSON Web Tokens): an `Authenticate` that checks them and reads an identity from their claims.

What a token says of itself is believed of nothing but the name of its key: which algorithms are good is a setting,
and each key is for one of them. Nothing is decoded before its size is known, no claim is read before the signature
holds. JSON with a member twice is refused, because two readers may see two different tokens in it. What is refused is
told in words of our own; nothing of a token stands in them.
"""

from __future__ import annotations

import json
import math
import re
import time
import unicodedata
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Any, TypeVar

import msgspec
from attrs import evolve, field, frozen, validators

from realtime.auth import Grant, Identity, Right, Verb
from realtime.errors import CommandError, ErrorCode
from realtime.keyring import MAX_KID_LENGTH, SUPPORTED, KeySource

__all__ = ["TokenRules", "TokenVerifier", "check_user", "identity_of"]

_Name = TypeVar("_Name", bound=StrEnum)

#: It is there to name the key; longer ones carry what is refused.
_MAX_HEADER_CHARACTERS = 1024
_MAX_DEPTH = 16
#: Headers that bring a key along, or that change what the others mean (RFC 7515, 4.1).
_REFUSED_HEADERS = frozenset({"jwk", "jku", "x5c", "x5u", "crit"})
#: Others, like a log-out token, are signed by the same keys and mean something else (RFC 8725, 3.11).
_TYPES = frozenset({"jwt", "application/jwt", "at+jwt", "application/at+jwt"})

_MAX_USER_LENGTH = 200
_MAX_TOKEN_ID_LENGTH = 200
_ROLE = re.compile(r"[A-Za-z0-9_.@+=:\-]{1,64}")
_MAX_ROLES = 100
_MAX_INFO_BYTES = 4096
_MAX_PATTERNS = 200
_MAX_PATTERN_LENGTH = 256
#: What a mere list of topics opens.
_LISTED = frozenset({Verb.JOIN, Verb.PRESENCE, Verb.HISTORY})
#: The year 10000: what is later was meant in milliseconds.
_END_OF_TIME = 253_402_300_800


@frozen(kw_only=True)
class TokenRules:
    """What makes a token good, and in which claims its identity stands."""

    algorithms: tuple[str, ...] = field(
        validator=[validators.min_len(1), validators.deep_iterable(validators.in_(SUPPORTED))]
    )
    #: None: it is not looked at; the keys alone say who signs.
    issuer: str | None = None
    #: None: it is not looked at. An issuer that signs for others as well needs one.
    audience: str | None = None
    #: Clocks of servers that are kept right differ by less.
    leeway_seconds: float = field(default=30.0, validator=[validators.ge(0), validators.le(600)])
    user_claim: str = "sub"
    roles_claim: str = "roles"
    info_claim: str = "info"
    topics_claim: str = "topics"
    rights_claim: str = "rights"
    #: A token that never expires is good until its key is withdrawn.
    require_expiry: bool = True
    #: Half of what a head of HTTP may be.
    max_bytes: int = field(default=8192, validator=validators.gt(0))


@frozen
class TokenVerifier:
    """Is an `Authenticate`. ``now`` tells the time of the Unix clock."""

    rules: TokenRules
    _keys: KeySource
    _now: Callable[[], float] = field(default=time.time, kw_only=True)

    async def __call__(self, token: str) -> Identity:
        """Raise `CommandError` for a token that is no good.

        It is ``TOKEN_EXPIRED``, ``AUTH_FAILED``, or ``UNAVAILABLE`` while there is no key to check it with. Checking
        costs less than a thread would, and so happens in place.
        """
        if len(token) > self.rules.max_bytes:
            raise _refusal("it is too long")
        try:
            header, payload, signature = token.split(".")
        except ValueError:
            raise _refusal("it is not a signed JSON Web Token") from None
        kid, algorithm = self._read_header(header)
        claims, mark = _decoded(payload), _decoded(signature)
        key = await self._keys.find(kid, algorithm)
        if not key.verifies(mark, f"{header}.{payload}".encode()):
            raise _refusal("its signature is wrong")
        return self._identity(_object(claims))

    def _read_header(self, text: str) -> tuple[str | None, str]:
        if len(text) > _MAX_HEADER_CHARACTERS:
            raise _refusal("its header is too long")
        header = _object(_decoded(text))
        if not _REFUSED_HEADERS.isdisjoint(header):
            raise _refusal("its header asks for more than is supported")
        algorithm, kid, kind = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
        if not isinstance(algorithm, str) or algorithm not in self.rules.algorithms:
            raise _refusal("its algorithm is not allowed here")
        if not isinstance(kind, str) or kind.lower() not in _TYPES:
            raise _refusal("it is of another type")
        if kid is not None and not (isinstance(kid, str) and len(kid) <= MAX_KID_LENGTH):
            raise _refusal("the name of its key is not a short text")
        return kid, algorithm

    def _identity(self, claims: dict[str, Any]) -> Identity:
        rules = self.rules
        issued_at, expires_in = self._check_times(claims)
        if rules.issuer is not None and claims.get("iss") != rules.issuer:
            raise _refusal("it is from another issuer")
        audience = claims.get("aud")
        if rules.audience is not None and rules.audience not in (
            audience if isinstance(audience, list) else [audience]
        ):
            raise _refusal("it is not for this audience")
        return evolve(
            identity_of(
                claims.get(rules.user_claim),
                claims.get(rules.roles_claim),
                claims.get(rules.info_claim),
                claims.get(rules.topics_claim),
            ),
            expires_in=expires_in,
            claims=claims,
            rights=frozenset(_named(Right, claims.get(rules.rights_claim), "its rights")),
            token_id=_token_id(claims.get("jti")),
            issued_at=issued_at,
        )

    def _check_times(self, claims: Mapping[str, Any]) -> tuple[float | None, float | None]:
        """When the token was made, and for how many seconds it is good."""
        now, leeway = self._now(), self.rules.leeway_seconds
        expires_at, not_before, issued_at = (_instant(claims.get(name)) for name in ("exp", "nbf", "iat"))
        if expires_at is None and self.rules.require_expiry:
            raise _refusal("it does not say when it expires")
        if expires_at is not None and expires_at + leeway <= now:
            raise CommandError(ErrorCode.TOKEN_EXPIRED, "the token has expired")
        if not_before is not None and not_before > now + leeway:
            raise _refusal("it is not valid yet")
        if issued_at is not None and issued_at > now + leeway:
            raise _refusal("it was issued in the future")
        if expires_at is None:
            return issued_at, None
        # By our clock it may have expired already; then the leeway is what is left of it.
        return issued_at, expires_at - now if expires_at > now else expires_at + leeway - now


def identity_of(user: object, roles: object = None, info: object = None, topics: object = None) -> Identity:
    """The identity that somebody vouches for, in the words of a token's claims. Raises `CommandError`."""
    return Identity(_user(user), roles=_roles(roles), info=_info(info), grants=_grants(topics))


def check_user(user: str) -> str:
    """Return the text if it can name a user, and only one way; raise `CommandError` (``AUTH_FAILED``) if not.

    Two users that look alike to a person, or to a program that normalises, must not be two to the hub. Characters that
    are not seen, or that end a line of a log, have no place in a name.
    """
    if not 1 <= len(user) <= _MAX_USER_LENGTH:
        raise _refusal(f"a user must be of 1 to {_MAX_USER_LENGTH} characters")
    # C: controls, format, surrogates, private use, unassigned. Z: separators.
    if any(unicodedata.category(character)[0] in "CZ" for character in user):
        raise _refusal("a user must not have white space, controls or unassigned characters")
    if not unicodedata.is_normalized("NFC", user):
        raise _refusal("a user must be in Unicode's normal form C")
    return user


def _refusal(reason: str) -> CommandError:
    return CommandError(ErrorCode.AUTH_FAILED, f"the login is refused: {reason}")


def _decoded(part: str) -> bytes:
    """The bytes of a part, which has one spelling only: the decoder skips foreign characters and spare bits."""
    try:
        data = urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        data = b""
    if not part or urlsafe_b64encode(data).rstrip(b"=").decode() != part:
        raise _refusal("it is not a signed JSON Web Token")
    return data


def _object(text: bytes) -> dict[str, Any]:
    """A JSON object that has each member once, finite numbers, few levels, and text that can be sent on."""
    try:
        value = json.loads(text.decode(), object_pairs_hook=_members, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError):
        raise _refusal("it holds something that is not proper JSON") from None
    if not isinstance(value, dict) or _is_deeper(value, _MAX_DEPTH):
        raise _refusal(f"it does not hold JSON objects of {_MAX_DEPTH} levels or fewer")
    try:
        msgspec.json.encode(value)
    except UnicodeEncodeError:
        raise _refusal("it holds half of a character") from None
    return value


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a member stands there twice")
    return members


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("not finite")
    return number


def _is_deeper(value: object, levels: int) -> bool:
    inner: Iterable[object] = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels < 0 or any(_is_deeper(each, levels - 1) for each in inner)


def _instant(value: object) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < _END_OF_TIME:
        raise _refusal("its times are not seconds since 1970")
    return float(value)


def _user(value: object) -> str:
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise _refusal("it names no user")
    return check_user(str(value))


def _token_id(value: object) -> str | None:
    if value is not None and not (isinstance(value, str) and 1 <= len(value) <= _MAX_TOKEN_ID_LENGTH):
        raise _refusal(f"its id is not a text of 1 to {_MAX_TOKEN_ID_LENGTH} characters")
    return value


def _roles(value: object) -> frozenset[str]:
    names = value.split() if isinstance(value, str) else [] if value is None else value
    if not isinstance(names, list) or len(names) > _MAX_ROLES:
        raise _refusal(f"its roles are not a list of {_MAX_ROLES} or fewer")
    if not all(isinstance(name, str) and _ROLE.fullmatch(name) for name in names):
        raise _refusal("a role must be of 1 to 64 letters, digits and _.@+=:-")
    return frozenset(names)


def _info(value: object) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict) or len(msgspec.json.encode(value)) > _MAX_INFO_BYTES:
        raise _refusal(f"what others may know of its user is not an object of {_MAX_INFO_BYTES} bytes or fewer")
    return value


def _grants(value: object) -> tuple[Grant, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list | dict) or len(value) > _MAX_PATTERNS:
        raise _refusal(f"its topics are not a list or an object of {_MAX_PATTERNS} or fewer")
    if not all(isinstance(pattern, str) and 1 <= len(pattern) <= _MAX_PATTERN_LENGTH for pattern in value):
        raise _refusal(f"its topics are not texts of 1 to {_MAX_PATTERN_LENGTH} characters")
    if isinstance(value, list):
        return tuple(Grant(pattern, _LISTED) for pattern in value)
    return tuple(Grant(pattern, frozenset(_named(Verb, verbs, "its topics"))) for pattern, verbs in value.items())


def _named(kind: type[_Name], value: object, what: str) -> list[_Name]:
    names = [] if value is None else value
    try:
        if isinstance(names, list):
            return [kind(name) for name in names]
    except ValueError:
        pass
    raise _refusal(f"{what} are not a list of: {', '.join(kind)}")
