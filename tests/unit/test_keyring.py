"""Keys that are given, and keys that are fetched, in virtual time."""

from __future__ import annotations

import datetime as dt
import json
import warnings
from typing import Any

import pytest
import structlog
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwk, jws
from joserfc.errors import SecurityWarning
from trio.testing import wait_all_tasks_blocked

from realtime.errors import CommandError, ConfigurationError, ErrorCode
from realtime.keyring import Key, KeysUnavailable, RemoteKeys, StaticKeys

SECRET = "s3cret-of-thirty-two-bytes-or-so"
RSA = jwk.RSAKey.generate_key(2048)
EC = jwk.ECKey.generate_key("P-256")
ED = jwk.OKPKey.generate_key("Ed25519")
with warnings.catch_warnings(action="ignore", category=SecurityWarning):
    WEAK = jwk.RSAKey.generate_key(2040)
SHORT = "has {} bytes, must have 32 or more; make one with: openssl rand -hex 32"
NO_PUBLIC_KEY = "must hold a public key or certificate in PEM, of RSA (2048 to 8192 bits), P-256 or Ed25519"
PRIVATE = "is a private key; make the public one with: openssl pkey -in FILE -pubout"
NO_SET = "it is not a JSON Web Key Set of 100 keys or fewer"


def public(key: Any, kid: str | None = None, **members: Any) -> dict[str, Any]:
    """A key as an issuer publishes it."""
    return {**key.as_dict(private=False), **({} if kid is None else {"kid": kid}), **members}


def key_set(*members: Any) -> bytes:
    """A JSON Web Key Set."""
    return json.dumps({"keys": members}).encode()


async def code_of(source: Any, kid: str | None, algorithm: str = "ES256") -> ErrorCode | None:
    """With which code a key is refused; None: it was found."""
    try:
        key = await source.find(kid, algorithm)
    except CommandError as error:
        return error.code
    assert key.algorithm == algorithm
    return None


@pytest.mark.parametrize(("key", "algorithm"), [(RSA, "RS256"), (EC, "ES256"), (ED, "EdDSA")])
async def test_public_key_of_a_file_checks_signatures_of_its_algorithm(key, algorithm):
    """As PEM and in a set; and of nothing else."""
    mark = jws.JWSRegistry.algorithms[algorithm].sign(b"text", key)
    for file in (key.as_pem(private=False), b" \n" + key_set(public(key))):
        found = await StaticKeys.of(files=[file]).find(None, algorithm)
        assert found.verifies(mark, b"text")
        assert not found.verifies(mark, b"test")
        assert not found.verifies(b"", b"text")
        for other in {"HS256", "RS256", "ES256", "EdDSA", "none"} - {algorithm}:
            assert await code_of(StaticKeys.of(files=[file]), None, other) is ErrorCode.AUTH_FAILED


async def test_certificate_is_taken_as_its_public_key():
    """Some issuers publish nothing else."""
    name = x509.Name([])
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, EC.public_key, 1, now, now + dt.timedelta(days=1))
        .sign(EC.private_key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )
    assert await code_of(StaticKeys.of(files=[certificate]), None) is None


async def test_several_keys_are_told_apart_by_algorithm_and_name():
    """A key without a name is for tokens that name no other."""
    keys = StaticKeys.of(secret=SECRET, files=[key_set(public(RSA, "a"), public(EC, "b")), EC.as_pem(private=False)])
    assert (await keys.find("a", "RS256")).kid == "a"
    assert (await keys.find(None, "RS256")).kid == "a"
    assert (await keys.find("b", "ES256")).kid == "b"
    assert (await keys.find("c", "ES256")).kid is None
    assert (await keys.find("a", "HS256")).kid is None
    assert await code_of(keys, None, "ES256") is ErrorCode.AUTH_FAILED, "two fit"
    assert await code_of(keys, "b", "RS256") is ErrorCode.AUTH_FAILED, "that name is another's"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", SHORT.format(0)),
        ("x" * 31, SHORT.format(31)),
        ("\xe9" * 15, SHORT.format(30)),
        ("\ud800" * 10, SHORT.format(30)),
        ("\ud800" * 32, "must be a random text, not a public key"),
        (RSA.as_pem(private=False).decode(), "must be a random text, not a public key"),
        (EC.as_pem(private=False).decode(), "must be a random text, not a public key"),
    ],
)
def test_secret_that_is_weak_or_public_is_refused(text, fault):
    """With how long it is and how to make a better one; it is not repeated."""
    with pytest.raises(ConfigurationError) as caught:
        StaticKeys.of(secret=text)
    assert str(caught.value) == f"jwt_secret: {fault}"


@pytest.mark.parametrize(
    ("file", "fault"),
    [
        (b"", NO_PUBLIC_KEY),
        (b"junk", NO_PUBLIC_KEY),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", NO_PUBLIC_KEY),
        (WEAK.as_pem(private=False), NO_PUBLIC_KEY),
        (jwk.ECKey.generate_key("P-384").as_pem(private=False), NO_PUBLIC_KEY),
        (jwk.OKPKey.generate_key("X25519").as_pem(private=False), NO_PUBLIC_KEY),
        (RSA.as_pem(private=True), PRIVATE),
        (EC.as_pem(private=True), PRIVATE),
        (ED.as_pem(private=True), PRIVATE),
        (EC.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")), PRIVATE),
        (b"{", NO_SET),
        (b'{"keys":5}', NO_SET),
        (b'{"keys":[5]}', NO_SET),
        (b'{"keys":' + b"[" * 5000, NO_SET),
        (b'{"k\xff":1}', NO_SET),
        (key_set(*([public(EC)] * 101)), NO_SET),
        (b'{"keys":[]}', "no key in it is of use for signatures"),
        (key_set(EC.as_dict(private=True)), "no key in it is of use for signatures"),
        (key_set(public(EC, pad="x" * (256 << 10))), "a set of keys must be of 262144 bytes or fewer"),
    ],
)
def test_file_without_a_key_of_use_is_refused(file, fault):
    """A private key is refused too, with the way to the public one: what only checks tokens has no use for it."""
    with pytest.raises(ConfigurationError) as caught:
        StaticKeys.of(files=[file])
    assert str(caught.value).startswith(fault)


def test_keys_that_cannot_be_told_apart_are_refused():
    """No token could say which it is for. So is having none."""
    for files in ([EC.as_pem(private=False)] * 2, [key_set(public(EC, "a"), public(EC, "a"))]):
        with pytest.raises(ConfigurationError, match="different kid"):
            StaticKeys.of(files=files)
    with pytest.raises(ConfigurationError, match="no key"):
        StaticKeys.of()


UNUSABLE = {
    "encryption": public(EC, use="enc"),
    "both uses": public(EC, use=["sig"]),
    "another algorithm": public(EC, alg="ES384"),
    "algorithm of another type": public(RSA, alg="HS256"),
    "for signing only": public(EC, key_ops=["sign"]),
    "no operations": public(EC, key_ops=None),
    "private": EC.as_dict(private=True),
    "private RSA": RSA.as_dict(private=True),
    "another curve": public(jwk.ECKey.generate_key("P-384")),
    "unknown curve": public(EC, crv="P-1"),
    "no curve": {"kty": "EC", "x": "AA", "y": "AA"},
    "off the curve": public(EC, y=EC.get("x")),
    "key exchange": public(jwk.OKPKey.generate_key("X25519")),
    "short": public(ED, x="AAAA"),
    "weak": public(WEAK),
    "giant": public(RSA, n="x" * 2000),
    "unknown type": {"kty": "AKP", "pub": "AA"},
    "type is a list": {"kty": ["EC"]},
    "no type": {},
    "short secret": {"kty": "oct", "k": "c2hvcnQ"},
    "long name": public(EC, "k" * 201),
    "name is a number": public(EC, kid=5),
}


@pytest.mark.parametrize("member", UNUSABLE.values(), ids=UNUSABLE)
async def test_key_that_is_of_no_use_is_left_out_of_a_set(member):
    """The others are used."""
    keys = StaticKeys.of(files=[key_set(member, public(ED, "good", use="sig", alg="EdDSA", key_ops=["verify"]))])
    assert [key.kid for key in keys._keys] == ["good"]


async def test_secrets_of_a_file_are_used_and_published_ones_are_not():
    """What is published is no secret."""
    secret = jwk.OctKey.import_key(SECRET).as_dict()
    document = key_set({**secret, "kid": "s"}, public(EC))
    assert await code_of(StaticKeys.of(files=[document]), "s", "HS256") is None
    remote = RemoteKeys(Issuer(document))
    assert await code_of(remote, "s", "HS256") is ErrorCode.AUTH_FAILED
    assert await code_of(remote, None, "ES256") is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.sampled_from(["sig", "P-256", "oct", "AQAB"]),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=3,
)
names = st.sampled_from(["kty", "crv", "x", "y", "n", "e", "d", "p", "k", "use", "alg", "kid", "key_ops"])
members = st.builds(
    lambda base, change: {**base, **change},
    st.sampled_from([public(EC), public(RSA), public(ED), RSA.as_dict(private=True)]),
    st.dictionaries(names, json_values, max_size=4),
)


@given(st.lists(members, max_size=2).map(key_set) | st.binary(max_size=60))
def test_whatever_is_published_is_a_set_of_keys_or_a_failure(document):
    """A set with one key spoilt, or anything."""

    async def check() -> None:
        keys = RemoteKeys(Issuer(document))
        await code_of(keys, None)
        assert keys.fetched + keys.failed == 1

    with structlog.testing.capture_logs():
        trio.run(check)


class Issuer:
    """Publishes a document, after a while; an exception in its place is raised."""

    def __init__(self, document: bytes | Exception, seconds: float = 0.0) -> None:
        self.document = document
        self.seconds = seconds
        self.asked = 0

    async def __call__(self) -> bytes:
        self.asked += 1
        await trio.sleep(self.seconds)
        if isinstance(self.document, Exception):
            raise self.document
        return self.document


@pytest.fixture
def log_entries():
    with structlog.testing.capture_logs() as entries:
        yield entries


async def test_set_is_fetched_once_and_kept_until_it_is_old(autojump_clock):
    """A key that was withdrawn is refused from then on."""
    issuer = Issuer(key_set(public(EC, "a")))
    keys = RemoteKeys(issuer, refresh_seconds=300)
    assert await code_of(keys, "a") is None
    issuer.document = key_set(public(EC, "b"))
    await trio.sleep(299)
    assert (await code_of(keys, "a"), issuer.asked) == (None, 1)
    await trio.sleep(1)
    assert (await code_of(keys, "a"), issuer.asked) == (ErrorCode.AUTH_FAILED, 2)
    assert (await code_of(keys, "b"), keys.fetched, keys.failed) == (None, 2, 0)


async def test_unknown_name_fetches_at_most_every_so_often(autojump_clock):
    """Names are invented at will; a new key is found all the same, in time."""
    issuer = Issuer(key_set(public(EC, "a")))
    keys = RemoteKeys(issuer, retry_seconds=30)
    for n in range(50):
        assert await code_of(keys, f"x{n}") is ErrorCode.AUTH_FAILED
    assert issuer.asked == 1
    issuer.document = key_set(public(EC, "a"), public(EC, "b"))
    await trio.sleep(29)
    assert await code_of(keys, "b") is ErrorCode.AUTH_FAILED
    await trio.sleep(1)
    assert await code_of(keys, "b") is None
    assert issuer.asked == 2


async def test_known_key_does_not_wait_for_the_search_of_an_unknown_one(autojump_clock):
    """An attacker's token costs others nothing."""
    issuer = Issuer(key_set(public(EC, "a")))
    keys = RemoteKeys(issuer)
    await keys.find("a", "ES256")
    await trio.sleep(30)
    issuer.seconds = 5
    async with trio.open_nursery() as nursery:
        nursery.start_soon(code_of, keys, "x")
        await wait_all_tasks_blocked()
        began = trio.current_time()
        assert await code_of(keys, "a") is None
        assert trio.current_time() == began


async def test_last_good_set_is_kept_through_an_outage(autojump_clock, log_entries):
    """It is told once, with the address, the reason and when it is tried again; its end is told, too."""
    issuer = Issuer(key_set(public(EC, "a")))
    keys = RemoteKeys(issuer, url="https://id.example/keys", refresh_seconds=300, retry_seconds=30)
    await keys.find("a", "ES256")
    await trio.sleep(300)
    assert log_entries == [], "nothing was amiss"
    issuer.document = KeysUnavailable("they were not received")
    issuer.document.__cause__ = OSError("https://user:password@id.example")
    for _ in range(60):
        assert await code_of(keys, "a") is None
        assert await code_of(keys, "b") is ErrorCode.AUTH_FAILED
        await trio.sleep(1)
    assert (issuer.asked, keys.fetched, keys.failed) == (3, 1, 2)
    failed = {
        "event": "signing keys cannot be fetched",
        "url": "https://id.example/keys",
        "reason": "they were not received (OSError)",
        "retry_in": 30,
        "log_level": "warning",
    }
    assert log_entries == [failed]
    issuer.document = key_set(public(EC, "b"), public(ED, "c"))
    await trio.sleep(30)
    assert await code_of(keys, "b") is None
    fetched = {"event": "signing keys fetched", "url": "https://id.example/keys", "keys": 2, "log_level": "info"}
    assert log_entries == [failed, fetched]
    await trio.sleep(300)
    assert (await code_of(keys, "b"), keys.fetched) == (None, 3)
    assert log_entries == [failed, fetched], "only after an outage"
    issuer.document = b"not JSON"
    await trio.sleep(300)
    assert await code_of(keys, "b") is None
    assert log_entries == [failed, fetched, {**failed, "reason": f"{NO_SET} (DecodeError)"}]


@pytest.mark.parametrize("document", [KeysUnavailable("down"), b"", key_set(), key_set(UNUSABLE["private"])])
async def test_verifier_that_never_had_keys_is_unavailable(document, autojump_clock, log_entries):
    """And says exactly for how long it will not ask again. A set of no use is none."""
    issuer = Issuer(document)
    keys = RemoteKeys(issuer, retry_seconds=30)
    for left in (30.0, 20.0, 10.0):
        with pytest.raises(CommandError) as caught:
            await keys.find("a", "ES256")
        assert (caught.value.code, caught.value.retry_after) == (ErrorCode.UNAVAILABLE, left)
        await trio.sleep(10)
    issuer.document = key_set(public(EC, "a"))
    assert await code_of(keys, "a") is None
    assert (keys.fetched, keys.failed) == (1, 1)
    assert [entry["event"] for entry in log_entries] == ["signing keys cannot be fetched", "signing keys fetched"]


@pytest.mark.parametrize("document", [key_set(public(EC, "a")), KeysUnavailable("down")])
async def test_callers_at_once_share_one_fetch(document, autojump_clock, log_entries):
    """Also one that fails."""
    issuer = Issuer(document, seconds=2)
    keys = RemoteKeys(issuer)
    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(code_of, keys, "a")
    assert (issuer.asked, keys.fetched + keys.failed) == (1, 1)


async def test_cancelled_fetch_is_taken_over_by_the_next_in_line(autojump_clock):
    """Nobody else notices, and it is no failure."""
    issuer = Issuer(key_set(public(EC, "a")), seconds=2)
    keys = RemoteKeys(issuer)
    codes = []

    async def find() -> None:
        codes.append(await code_of(keys, "a"))

    async with trio.open_nursery() as nursery:
        with trio.move_on_after(1) as scope:
            nursery.start_soon(wait_then, find, nursery)
            await keys.find("a", "ES256")
    assert scope.cancelled_caught
    assert codes == [None, None]
    assert (issuer.asked, keys.fetched, keys.failed) == (2, 1, 0)


async def wait_then(find: Any, nursery: trio.Nursery) -> None:
    """Let two others ask while the first fetch is under way."""
    await trio.sleep(0.5)
    nursery.start_soon(find)
    nursery.start_soon(find)


async def test_caller_that_is_cancelled_while_it_waits_leaves_the_others(autojump_clock):
    issuer = Issuer(key_set(public(EC, "a")), seconds=2)
    keys = RemoteKeys(issuer)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(code_of, keys, "a")
        await wait_all_tasks_blocked()
        with trio.move_on_after(1) as scope:
            await keys.find("a", "ES256")
        assert scope.cancelled_caught
        assert await code_of(keys, "a") is None
    assert (issuer.asked, keys.fetched) == (1, 1)


async def test_bug_of_a_fetch_is_not_taken_for_an_outage(autojump_clock):
    """It reaches the log with its traceback."""
    with pytest.raises(ZeroDivisionError):
        await RemoteKeys(Issuer(ZeroDivisionError())).find("a", "ES256")


def test_text_of_a_key_does_not_hold_it():
    assert repr(Key("HS256", "s", jwk.OctKey.import_key(SECRET))) == "Key(algorithm='HS256', kid='s')"
