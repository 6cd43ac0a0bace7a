"""Whatever is shown for a token, only what a key's owner signed is good, whatever is given for keys."""

from __future__ import annotations

import hashlib
import hmac
import json
import math
from base64 import urlsafe_b64decode, urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.auth import Identity
from realtime.errors import CommandError, ConfigurationError, ErrorCode
from realtime.keyring import SUPPORTED, KeysUnavailable, RemoteKeys, StaticKeys
from realtime.messages import encode
from realtime.tokens import TokenRules, TokenVerifier, check_user
from tests.fuzz.test_parsers import CORPUS, corpus, json_like, mutated

#: When the tokens of the corpus are good.
NOW = 1_700_000_000.0
SECRET = b"known-to-every-reader-of-this-file"
#: The private halves of the public keys are nobody's: those who made the corpus have thrown them away.
KEYS = StaticKeys.of(secret=SECRET.decode(), files=[(CORPUS / "keys" / "jwks").read_bytes()])
VERIFY = TokenVerifier(TokenRules(algorithms=SUPPORTED), KEYS, now=lambda: NOW)
GOOD = {path.read_text() for path in (CORPUS / "tokens").glob("good-*")}
USER = {"sub": "7", "exp": NOW + 60}


def part(data: bytes) -> str:
    """A part of a token."""
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(header: object, claims: object) -> str:
    """A token as somebody makes it who knows the secret, and follows no rules."""
    message = f"{part(json.dumps(header).encode())}.{part(json.dumps(claims).encode())}"
    return f"{message}.{part(hmac.digest(SECRET, message.encode(), hashlib.sha256))}"


async def identity_of(token: str, verify: TokenVerifier = VERIFY) -> Identity | None:
    """Who the bearer is; None for a token that is refused, in words that can be sent and do not repeat it."""
    try:
        return await verify(token)
    except CommandError as error:
        assert error.code in (ErrorCode.AUTH_FAILED, ErrorCode.TOKEN_EXPIRED)
        encode({"message": error.message})
        assert not any(text in error.message for text in token.split(".") if len(text) > 8)
        return None


@st.composite
def altered(draw):
    """The parts of good tokens: mixed up, or one of them changed before it was written as text."""
    tokens = [token.split(".") for token in sorted(GOOD)]
    parts = [draw(st.sampled_from(tokens))[at] for at in range(3)]
    at = draw(st.integers(0, 2))
    data = urlsafe_b64decode(parts[at] + "==")
    parts[at] = part(draw(mutated([data])))
    return ".".join(parts)


def test_corpus_has_a_token_of_each_algorithm():
    assert len(GOOD) == len(SUPPORTED)


@pytest.mark.parametrize("text", corpus("tokens"))
async def test_token_of_the_corpus_is_good_or_refused(text):
    """As its name says; each bad one is an attack that has worked somewhere."""
    token = text.decode()
    assert (await identity_of(token) is not None) is (token in GOOD)


@given(st.one_of(st.text(max_size=80), mutated(corpus("tokens")).map(lambda raw: raw.decode("latin-1")), altered()))
async def test_any_text_but_a_signed_token_is_refused(token):
    """One bit more or less, another spelling of the same bytes, the signature of another token."""
    identity = await identity_of(token)
    assert (identity is not None) is (token in GOOD)
    assert identity is None or identity.user == "7"


times = st.one_of(st.sampled_from([NOW - 40, NOW - 10, NOW, NOW + 40, 1e300, -1, True, 10**400]), json_like)
claims = st.one_of(
    json_like,
    st.fixed_dictionaries(
        {},
        optional={
            "sub": st.one_of(st.text(max_size=5), st.sampled_from(["7", 7, "a" * 201, "\u0130", "a\u0301"]), json_like),
            "exp": times,
            "nbf": times,
            "iat": times,
            "jti": json_like,
            "roles": st.one_of(st.just("a b"), st.lists(st.text(max_size=5)), json_like),
            "info": json_like,
            "rights": st.one_of(st.lists(st.sampled_from(["read", "admin", "root", 5])), json_like),
            "topics": st.one_of(
                st.dictionaries(st.text(max_size=5), st.lists(st.sampled_from(["join", "request", "fly"]))),
                st.lists(st.text(max_size=5)),
                json_like,
            ),
        },
    ),
)


@given(claims)
async def test_any_claims_that_are_signed_give_an_identity_or_are_refused(claims):
    """Issuers have ideas of their own; what they vouch for is used as the server does."""
    identity = await identity_of(signed({"alg": "HS256"}, claims))
    if identity is None:
        return
    assert check_user(identity.user) == identity.user
    assert 0 < identity.expires_in < math.inf
    assert len(identity.roles) <= 100
    encode({"user": identity.user, "info": dict(identity.info), "claims": dict(identity.claims)})
    hash(identity)


@given(
    st.one_of(
        json_like,
        st.dictionaries(st.sampled_from(["typ", "kid", "crit", "jwk", "zip"]), json_like | st.just("JWT")).flatmap(
            lambda members: st.sampled_from([members, {"alg": "HS256", **members}])
        ),
    )
)
async def test_any_header_that_is_signed_is_that_of_a_good_token_or_refused(header):
    """Who knows the secret decides about the claims, and not how they are read."""
    if await identity_of(signed(header, USER)) is not None:
        assert header["alg"] == "HS256"
        assert not {"crit", "jwk"} & set(header)


@pytest.mark.parametrize("text", corpus("keys"))
def test_keys_of_the_corpus_are_read_or_refused(text):
    """The same as below."""
    check_keys(text)


@given(st.one_of(st.binary(max_size=60), mutated(corpus("keys")), json_like.map(lambda keys: encode({"keys": keys}))))
def test_any_bytes_for_a_file_of_keys_are_read_or_refused(text):
    """Nothing but `ConfigurationError` comes out."""
    check_keys(text)


def check_keys(text: bytes) -> None:
    """Read them, and ask them for one."""
    try:
        StaticKeys.of(files=[text])
    except ConfigurationError as error:
        encode({"message": str(error)})


@given(st.one_of(st.none(), mutated(corpus("keys")), json_like.map(lambda key: encode({"keys": [key]}))))
async def test_whatever_is_published_for_keys_nobody_else_is_let_in(text):
    """What is fetched is used, or the login is refused; a good token stays good as long as its key is there."""

    async def fetch() -> bytes:
        if text is None:
            raise KeysUnavailable("down")
        return text

    for token in GOOD:
        verify = TokenVerifier(TokenRules(algorithms=SUPPORTED), RemoteKeys(fetch), now=lambda: NOW)
        try:
            identity = await verify(token)
        except CommandError as error:
            assert error.code in (ErrorCode.AUTH_FAILED, ErrorCode.UNAVAILABLE)
        else:
            assert identity.user == "7"
