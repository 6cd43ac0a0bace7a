"""Signed tokens: what an attacker may try, and what an identity is read from."""

from __future__ import annotations

import hashlib
import hmac
import json
import math
from base64 import urlsafe_b64decode, urlsafe_b64encode
from itertools import count
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwk, jws

from realtime.auth import Grant, Identity, Right, Verb
from realtime.errors import CommandError, ErrorCode
from realtime.keyring import SUPPORTED, StaticKeys
from realtime.tokens import TokenRules, TokenVerifier, check_user

NOW = 1_700_000_000.0
SECRET = "s3cret-of-thirty-two-bytes-or-so"
PRIVATE = {
    "HS256": jwk.OctKey.import_key(SECRET),
    "RS256": jwk.RSAKey.generate_key(2048, {"kid": "rsa"}),
    "ES256": jwk.ECKey.generate_key("P-256", {"kid": "ec"}),
    "EdDSA": jwk.OKPKey.generate_key("Ed25519", {"kid": "ed"}),
}
PUBLIC = {"keys": [PRIVATE[name].as_dict(private=False) for name in ("RS256", "ES256", "EdDSA")]}
KEYS = StaticKeys.of(secret=SECRET, files=[json.dumps(PUBLIC).encode()])
RSA_PEM = PRIVATE["RS256"].as_pem(private=False)
CLAIMS = {"sub": "7", "exp": NOW + 60}


def part(value: Any) -> str:
    """One part of a token: of a JSON value, or of a text as it is."""
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return urlsafe_b64encode(text).rstrip(b"=").decode()


def signed(payload: Any = CLAIMS, header: Any = None, algorithm: str = "HS256", secret: bytes = SECRET.encode()) -> str:
    """A token; by default a good one. A header that is given is signed as it is."""
    message = f"{part({'alg': algorithm} if header is None else header)}.{part(payload)}"
    if algorithm == "HS256":
        mark = hmac.digest(secret, message.encode(), hashlib.sha256)
    else:
        model = jws.JWSRegistry.algorithms[algorithm]
        mark = model.sign(message.encode(), PRIVATE[algorithm])
    return f"{message}.{part(mark)}"


def claiming(**claims: Any) -> str:
    """A good token with other claims; None leaves one out."""
    return signed({name: value for name, value in {**CLAIMS, **claims}.items() if value is not None})


def verifier(*algorithms: str, keys: StaticKeys = KEYS, now: float = NOW, **rules: Any) -> TokenVerifier:
    """With the clock at `NOW`."""
    return TokenVerifier(TokenRules(algorithms=algorithms or SUPPORTED, **rules), keys, now=lambda: now)


async def refused(token: str, check: TokenVerifier | None = None, code: ErrorCode = ErrorCode.AUTH_FAILED) -> str:
    """Why a token is refused."""
    with pytest.raises(CommandError) as caught:
        await (check or verifier())(token)
    assert caught.value.code == code
    assert not any(each in caught.value.message for each in token.split(".") if len(each) > 3)
    return caught.value.message


@pytest.mark.parametrize("algorithm", SUPPORTED)
async def test_token_of_each_algorithm_gives_its_identity(algorithm):
    """With the key's name, and without where one key alone fits."""
    expected = Identity("7", expires_in=60.0, claims=CLAIMS)
    assert await verifier(algorithm)(signed(algorithm=algorithm)) == expected
    kid = PRIVATE[algorithm].kid or "any"
    header = {"alg": algorithm, "kid": kid, "typ": "JWT", "x5t": "unread"}
    assert await verifier(algorithm)(signed(header=header, algorithm=algorithm)) == expected


@pytest.mark.parametrize("name", ["none", "None", "nOnE", "", None, 5, ["HS256"], {"HS256": 1}, "HS512", "hs256"])
async def test_algorithm_that_is_not_pinned_is_refused(name):
    """Above all "none", however it is written, with a signature and without."""
    token = signed(header={"alg": name})
    assert "algorithm" in await refused(token)
    assert "algorithm" in await refused(token.rpartition(".")[0] + ".")


async def test_algorithm_that_is_supported_but_not_pinned_is_refused():
    """Although there is a key."""
    assert "algorithm" in await refused(signed(), verifier("RS256", "ES256"))


@pytest.mark.parametrize("secret", [RSA_PEM, RSA_PEM.strip(), PRIVATE["RS256"].as_der(private=False)])
async def test_public_key_used_as_a_secret_is_refused(secret):
    """The confusion of HS256 and RS256: what is public must not sign."""
    for kid in ({}, {"kid": "rsa"}):
        token = signed(header={"alg": "HS256", **kid}, secret=secret)
        assert "signature" in await refused(token)
        assert "no key" in await refused(token, verifier(keys=StaticKeys.of(files=[RSA_PEM])))


@pytest.mark.parametrize("kid", ["ec", "ed"])
async def test_key_of_another_type_is_not_used(kid):
    """Although it has the name that the token gives."""
    assert "no key" in await refused(signed(header={"alg": "RS256", "kid": kid}, algorithm="RS256"))


@pytest.mark.parametrize(
    "kid", ["../../../../dev/null", "x' UNION SELECT 'secret'--", "a\0b", "", "file:///etc/passwd", "k" * 200]
)
async def test_name_of_a_key_is_only_a_name(kid):
    """No path, no query, no address."""
    assert "no key" in await refused(signed(header={"alg": "ES256", "kid": kid}, algorithm="ES256"))


@pytest.mark.parametrize("kid", ["k" * 201, 5, ["rsa"], {}, True])
async def test_name_of_a_key_that_is_no_short_text_is_refused(kid):
    """Before anything is looked up."""
    assert "name of its key" in await refused(signed(header={"alg": "HS256", "kid": kid}))


@pytest.mark.parametrize(
    "extra",
    [
        {"jwk": PRIVATE["ES256"].as_dict(private=False)},
        {"jku": "https://evil.example/keys"},
        {"x5u": "https://evil.example/chain"},
        {"x5c": ["MIIB"]},
        {"crit": ["exp"]},
        {"crit": []},
        {"crit": ["b64"], "b64": False},
    ],
)
async def test_header_that_brings_a_key_or_asks_for_more_is_refused(extra):
    """Also where the signature is good."""
    assert "asks for more" in await refused(signed(header={"alg": "HS256", **extra}))


@pytest.mark.parametrize("kind", ["logout+jwt", "dpop+jwt", "JWE", 5, None])
async def test_token_of_another_type_is_refused(kind):
    """What the same issuer signed for another end."""
    assert "type" in await refused(signed(header={"alg": "HS256", "typ": kind}))


@pytest.mark.parametrize("kind", ["JWT", "jwt", "at+jwt", "application/at+JWT"])
async def test_type_of_an_access_token_is_accepted(kind):
    assert (await verifier()(signed(header={"alg": "HS256", "typ": kind}))).user == "7"


async def test_oversized_token_is_refused_before_it_is_read():
    """Whatever stands in it."""
    assert "too long" in await refused("x" * 8193)
    token = claiming(pad="x" * 9000)
    assert "too long" in await refused(token)
    assert (await verifier(max_bytes=len(token))(token)).user == "7"
    assert "too long" in await refused(token, verifier(max_bytes=len(token) - 1))


async def test_oversized_header_is_refused():
    """A short one is enough to name a key."""
    assert "header is too long" in await refused(signed(header={"alg": "HS256", "pad": "x" * 800}))


@pytest.mark.parametrize("algorithm", SUPPORTED)
async def test_signature_with_any_bit_flipped_is_refused(algorithm):
    """Each byte of it counts."""
    message, _, mark = signed(algorithm=algorithm).rpartition(".")
    raw = bytearray(urlsafe_b64decode(mark + "=="))
    check = verifier()
    for at in range(0, len(raw), 7):
        raw[at] ^= 1
        await refused(f"{message}.{part(bytes(raw))}", check)
        raw[at] ^= 1
    for other in (bytes(raw[:-1]), bytes(raw) + b"\0", b"\0" * len(raw), b"x"):
        await refused(f"{message}.{part(other)}", check)


async def test_claims_that_were_changed_after_signing_are_refused():
    """It says who it is for, and no longer who it was for."""
    header, _, mark = signed().split(".")
    assert "signature" in await refused(f"{header}.{part({**CLAIMS, 'sub': 'admin'})}.{mark}")


@pytest.mark.parametrize(
    "change",
    [
        lambda token: "",
        lambda token: "..",
        lambda token: token.rpartition(".")[0],
        lambda token: token.rpartition(".")[0] + ".",
        lambda token: token.partition(".")[2],
        lambda token: f".{token}",
        lambda token: f"{token}.",
        lambda token: f"{token}.{token}",
        lambda token: f"{token}=",
        lambda token: f"{token}==",
        lambda token: f"{token}\n",
        lambda token: f" {token}",
        lambda token: f"Bearer {token}",
        lambda token: token.replace(".", "\n."),
        lambda token: token.replace(".", "=."),
        lambda token: token.replace(".", ".\0"),
        lambda token: token[:9] + "\u00e9" + token[9:],
        lambda token: token[:9] + "\ud800" + token[9:],
        lambda token: token.replace("e", "\uff45"),
        lambda token: token[:-1],
        lambda token: token[: len(token) // 2],
    ],
)
async def test_token_that_is_cut_or_padded_or_spelt_otherwise_is_refused(change):
    """There is one spelling of a token."""
    await refused(change(signed()))


async def test_spare_bits_at_the_end_of_a_part_are_refused():
    """Two texts would be the same token."""
    token = signed()
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    sibling = alphabet[alphabet.index(token[-1]) + 1]
    assert "not a signed" in await refused(token[:-1] + sibling)


async def test_alphabet_of_plain_base64_is_refused():
    """As foreign characters are."""
    tokens = (claiming(jti=str(n)) for n in count())
    message, _, mark = next(token for token in tokens if {"-", "_"} & set(token.rpartition(".")[2])).rpartition(".")
    assert "not a signed" in await refused(f"{message}.{mark.replace('-', '+').replace('_', '/')}")


@pytest.mark.parametrize(
    "text",
    [
        b'{"sub":"7","exp":1700000060,"sub":"admin"}',
        b'{"sub":"7","exp":1700000060,"info":{"a":1,"a":2}}',
        b'{"sub":"7","exp":NaN}',
        b'{"sub":"7","exp":Infinity}',
        b'{"sub":"7","exp":1e400}',
        b'{"sub":"7","exp":1700000060,"x":-1e999}',
        b'{"sub":"7","exp":1700000060,"x":NaN}',
        b'{"sub":"7","exp":1700000060,"x":[-Infinity]}',
        b'{"sub":"7","exp":1' + b"0" * 5000 + b"}",
        b'{"sub":"7","exp":1700000060,"x":' + b"[" * 17 + b"]" * 17 + b"}",
        b'{"sub":"7","exp":1700000060,"x":' + b"[" * 2900 + b"]" * 2900 + b"}",
        b'{"x":' * 1200 + b"1" + b"}" * 1200,
        b'{"sub":"7","exp":1700000060,"x":"\\ud800"}',
        b'{"sub":"7","exp":1700000060,"\\udfff":1}',
        b'{"sub":"\xff","exp":1700000060}',
        '{"sub":"7","exp":1700000060}'.encode("utf-16"),
        b'\xef\xbb\xbf{"sub":"7","exp":1700000060}',
        b'{"sub":"7","exp":1700000060} {}',
        b'["sub"]',
        b'"sub"',
        b"null",
        b"7",
        b"not JSON",
    ],
)
async def test_text_that_is_no_proper_object_is_refused(text):
    """In the claims, and in the header as well."""
    await refused(signed(text))
    await refused(signed(header=text))


async def test_levels_of_claims_are_bounded():
    """At the level that is stated."""
    assert (await verifier()(signed({**CLAIMS, "x": json.loads("[" * 15 + "1" + "]" * 15)}))).user == "7"
    assert "levels" in await refused(signed({**CLAIMS, "x": json.loads("[" * 16 + "1" + "]" * 16)}))


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("value", ["1700000060", True, False, -1, [], {}, 10**12, 10**300, 1e300])
async def test_time_that_is_no_number_of_seconds_is_refused(name, value):
    """Also one that was meant in milliseconds."""
    assert "times" in await refused(claiming(**{name: value}))


async def test_expired_token_is_refused_as_such():
    """A client gets a new one and goes on."""
    check = verifier(leeway_seconds=30)
    assert await refused(claiming(exp=NOW - 30), check, ErrorCode.TOKEN_EXPIRED) == "the token has expired"
    assert await refused(claiming(exp=0), check, ErrorCode.TOKEN_EXPIRED)
    assert (await check(claiming(exp=NOW - 29))).expires_in == 1.0
    assert (await check(claiming(exp=NOW))).expires_in == 30.0
    assert (await check(claiming(exp=NOW + 1.5))).expires_in == 1.5


async def test_token_without_expiry_is_refused_unless_it_need_not_expire():
    assert "expires" in await refused(claiming(exp=None))
    assert (await verifier(require_expiry=False)(claiming(exp=None))).expires_in is None
    assert await refused(claiming(exp=1), verifier(require_expiry=False), ErrorCode.TOKEN_EXPIRED)


async def test_token_that_is_not_yet_valid_is_refused():
    """Beyond what clocks may differ."""
    assert "not valid yet" in await refused(claiming(nbf=NOW + 31))
    assert "future" in await refused(claiming(iat=NOW + 31))
    assert (await verifier()(claiming(nbf=NOW + 30, iat=NOW + 30))).issued_at == NOW + 30


@pytest.mark.parametrize("issuer", [None, "https://evil.example", "https://id.example/", ["https://id.example"], 5])
async def test_wrong_issuer_is_refused(issuer):
    check = verifier(issuer="https://id.example")
    assert "issuer" in await refused(claiming(iss=issuer), check)
    assert (await check(claiming(iss="https://id.example"))).user == "7"


@pytest.mark.parametrize("audience", [None, "shop", "", [], ["shop"], {"chat": 1}, 5, [["chat"]], "chats"])
async def test_wrong_audience_is_refused(audience):
    check = verifier(audience="chat")
    assert "audience" in await refused(claiming(aud=audience), check)
    assert (await check(claiming(aud="chat"))).user == "7"
    assert (await check(claiming(aud=["shop", "chat"]))).user == "7"


@pytest.mark.parametrize(
    "user",
    [
        *(
            "",
            " ",
            "a b",
            "a\tb",
            "a\nb",
            "a\0",
            "a\u00a0b",
            "a\u2028b",
            "\u200bme",
            "me\u202e",
            "\ufeffme",
            "a\u00adb",
        ),
        *("\ue000", "\U000e0001", "\u0378", "\uffff", "e\u0301", "\u212b", "\u2126", "u" * 201),
    ],
)
async def test_user_who_could_be_taken_for_another_is_refused(user):
    """Unseen characters, and what normalisation would change."""
    assert "a user must" in await refused(claiming(sub=user))


async def test_user_of_half_a_character_is_refused():
    with pytest.raises(CommandError):
        check_user("\ud800")


@pytest.mark.parametrize(
    ("value", "user"),
    [("a@b.example", "a@b.example"), ("é", "é"), ("王小明", "王小明"), ("u" * 200, "u" * 200), (42, "42")],
)
async def test_user_is_a_text_or_a_whole_number(value, user):
    assert (await verifier()(claiming(sub=value))).user == user


@pytest.mark.parametrize("user", [None, True, 1.5, [], {}])
async def test_token_without_a_user_is_refused(user):
    assert "no user" in await refused(claiming(sub=user))


async def test_identity_is_read_from_the_claims_that_the_rules_name():
    """And all claims are kept for rules that look at them."""
    names = {f"{name}_claim": f"x-{name}" for name in ("user", "roles", "info", "topics", "rights")}
    claims = {
        "exp": NOW + 9,
        "iat": NOW,
        "jti": "t1",
        "x-user": "7",
        "x-roles": ["trader", "desk:1"],
        "x-info": {"name": "A"},
        "x-topics": {"room:*": ["join", "publish"], "symbol:1": []},
        "x-rights": ["publish", "read"],
    }
    assert await verifier(**names)(signed(claims)) == Identity(
        "7",
        roles=frozenset({"trader", "desk:1"}),
        info={"name": "A"},
        expires_in=9.0,
        claims=claims,
        grants=(Grant("room:*", frozenset({Verb.JOIN, Verb.PUBLISH})), Grant("symbol:1", frozenset())),
        rights=frozenset({Right.PUBLISH, Right.READ}),
        token_id="t1",
        issued_at=NOW,
    )


async def test_roles_may_be_one_text():
    """Like a scope of OAuth."""
    assert (await verifier()(claiming(roles="a  b.c"))).roles == {"a", "b.c"}


async def test_list_of_topics_opens_them_for_reading():
    """To publish is named."""
    grants = (await verifier()(claiming(topics=["room:*"]))).grants
    assert grants == (Grant("room:*", frozenset({Verb.JOIN, Verb.PRESENCE, Verb.HISTORY})),)
    assert (await verifier()(claiming(topics=[]))).grants == ()


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"roles": 5}, "roles"),
        ({"roles": {"a": 1}}, "roles"),
        ({"roles": [5]}, "role must"),
        ({"roles": ["a b"]}, "role must"),
        ({"roles": ["a\n"]}, "role must"),
        ({"roles": [""]}, "role must"),
        ({"roles": ["é"]}, "role must"),
        ({"roles": ["r" * 65]}, "role must"),
        ({"roles": [f"r{n}" for n in range(101)]}, "roles"),
        ({"info": []}, "others may know"),
        ({"info": "A"}, "others may know"),
        ({"info": {"bio": "x" * 4096}}, "others may know"),
        ({"topics": "room:*"}, "topics"),
        ({"topics": [5]}, "topics"),
        ({"topics": [""]}, "topics"),
        ({"topics": ["t" * 257]}, "topics"),
        ({"topics": {"t" * 257: []}}, "topics"),
        ({"topics": [f"room:{n}" for n in range(201)]}, "topics"),
        ({"topics": {"room:*": "join"}}, "topics"),
        ({"topics": {"room:*": ["own"]}}, "topics"),
        ({"topics": {"room:*": [["join"]]}}, "topics"),
        ({"topics": {"room:*": {"join": 1}}}, "topics"),
        ({"rights": "admin"}, "rights"),
        ({"rights": ["root"]}, "rights"),
        ({"rights": [5]}, "rights"),
        ({"jti": 5}, "id"),
        ({"jti": ""}, "id"),
        ({"jti": "j" * 201}, "id"),
    ],
)
async def test_claim_of_another_shape_is_refused(claims, reason):
    """Rather than half understood."""
    assert reason in await refused(claiming(**claims))


@pytest.mark.parametrize(
    "rules",
    [
        {"algorithms": ()},
        {"algorithms": ("none",)},
        {"algorithms": ("HS256", "HS512")},
        {"algorithms": "HS256"},
        {"algorithms": ("HS256",), "leeway_seconds": -1},
        {"algorithms": ("HS256",), "leeway_seconds": math.inf},
        {"algorithms": ("HS256",), "max_bytes": 0},
    ],
)
def test_rules_that_would_let_anything_in_are_refused(rules):
    with pytest.raises(ValueError):
        TokenRules(**rules)


def test_keys_do_not_stand_in_the_text_of_a_verifier():
    """It may reach a log."""
    assert SECRET not in repr(verifier())
    assert SECRET not in repr(KEYS._keys)


parts = st.one_of(
    st.text(max_size=40),
    st.binary(max_size=60).map(part),
    st.sampled_from([part({"alg": "HS256"}), part({"alg": "RS256", "kid": "rsa"}), part(CLAIMS)]),
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
claim_names = st.sampled_from(["sub", "exp", "nbf", "iat", "jti", "roles", "info", "topics", "rights", "aud", "x"])
objects = st.dictionaries(claim_names, values, max_size=6)


@given(st.one_of(st.text(), st.lists(parts, min_size=1, max_size=4).map(".".join), objects.map(signed)))
def test_whatever_comes_only_refusals_come_out(token):
    """Unsigned junk, and claims of any shape that are signed."""

    async def check() -> None:
        try:
            await verifier(require_expiry=False)(token)
        except CommandError as error:
            assert error.code in (ErrorCode.AUTH_FAILED, ErrorCode.TOKEN_EXPIRED)

    trio.run(check)
