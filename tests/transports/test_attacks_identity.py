"""Attacks on who a peer is and what it may: forged tokens, other people's topics.

Each is refused with its code, counted and logged once without a piece of the secret, and a bystander notices nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.forgery import (
    WAYS,
    ask,
    ask_upgrade,
    attacked,
    bearer,
    claims,
    logged_in,
    part,
    reason_of,
    refused,
    show,
    signed,
    token,
    told,
)
from tests.peers import (
    open_events,
    post_command,
    upgraded,
)

Entries = list[dict[str, Any]]

# -- tokens ------------------------------------------------------------------------------------------------------


def unsigned(name: Any) -> str:
    return f"{part({'alg': name})}.{part(claims('admin'))}."


def changed() -> str:
    head, _, mark = token().split(".")
    return f"{head}.{part(claims('admin'))}.{mark}"


#: By attack, a token and a word of the reason. Made when it is shown: the clock is a real one.
FORGED: dict[str, tuple[Callable[[], str], str]] = {
    "alg_none": (lambda: unsigned("none"), "algorithm"),
    "alg_none_in_capitals": (lambda: unsigned("NONE"), "algorithm"),
    "alg_none_with_a_signature": (lambda: signed(claims(), header={"alg": "nOnE"}), "algorithm"),
    "alg_missing": (lambda: signed(claims(), header={"typ": "JWT"}), "algorithm"),
    "alg_not_allowed": (lambda: signed(claims(), header={"alg": "HS512"}), "algorithm"),
    "no_signature": (lambda: token().rpartition(".")[0] + ".", "JSON Web Token"),
    "another_secret": (lambda: signed(claims(), secret="x" * 32), "signature"),
    "changed_claims": (changed, "signature"),
    "kid_is_a_path": (lambda: signed(claims(), header={"alg": "HS256", "kid": "../../etc/passwd"}, secret=b""), "sig"),
    "kid_is_dev_null": (lambda: signed(claims(), header={"alg": "HS256", "kid": "/dev/null"}, secret=b""), "sig"),
    "kid_is_sql": (lambda: signed(claims(), header={"alg": "HS256", "kid": "' OR 1=1 --"}, secret=b"1"), "sig"),
    "kid_has_a_nul": (lambda: signed(claims(), header={"alg": "HS256", "kid": "a\0b"}, secret=b"\0"), "sig"),
    "kid_is_a_list": (lambda: signed(claims(), header={"alg": "HS256", "kid": ["a"]}), "name of its key"),
    "key_in_the_header": (
        lambda: signed(claims(), header={"alg": "HS256", "jwk": {"kty": "oct", "k": part(b"x" * 32)}}, secret="x" * 32),
        "header",
    ),
    "key_from_a_url": (lambda: signed(claims(), header={"alg": "HS256", "jku": "https://evil.example/"}), "header"),
    "huge_header": (lambda: signed(claims(), header={"alg": "HS256", "pad": "x" * 2000}), "header"),
    "header_twice": (lambda: signed(claims(), header=b'{"alg":"none","alg":"HS256"}'), "JSON"),
    "subject_twice": (lambda: signed(b'{"sub":"7","sub":"admin","exp":9999999999}'), "JSON"),
    "not_yet_valid": (lambda: token(nbf=time.time() + 3600), "not valid yet"),
    "issued_in_the_future": (lambda: token(iat=time.time() + 3600), "future"),
    "never_expires": (lambda: token(exp=None), "expires"),
    "expires_at_infinity": (lambda: signed(b'{"sub":"7","exp":1e999}'), "JSON"),
    "expires_in_a_huge_integer": (lambda: signed(b'{"sub":"7","exp":' + b"9" * 5000 + b"}"), "JSON"),
    "expires_in_the_year_ten_thousand": (lambda: token(exp=1 << 62), "times"),
    "expiry_is_a_text": (lambda: token(exp="9999999999"), "times"),
    "expiry_is_true": (lambda: token(exp=True), "times"),
    "wrong_audience": (lambda: token(aud="another"), "audience"),
    "wrong_audiences": (lambda: token(aud=["another", "realtime "]), "audience"),
    "no_audience": (lambda: token(aud=None), "audience"),
    "wrong_issuer": (lambda: token(iss="https://issuer.example.evil.example"), "issuer"),
    "issuer_is_a_list": (lambda: token(iss=["https://issuer.example"]), "issuer"),
    "log_out_token": (lambda: signed(claims(), header={"alg": "HS256", "typ": "logout+jwt"}), "type"),
    "deep_claims": (lambda: signed(b'{"a":' + b"[" * 3000 + b"]" * 3000 + b"}"), "JSON"),
    "huge_info": (lambda: token(info={"x": "y" * 5000}), "4096"),
    "many_roles": (lambda: token(roles=["r"] * 1000), "roles"),
    "role_with_a_line_feed": (lambda: token(roles=["admin\n"]), "role"),
    "many_topics": (lambda: token(topics=["a"] * 1000), "topics"),
    "unknown_verb": (lambda: token(topics={"*": ["everything"]}), "topics"),
    "unknown_right": (lambda: token(rights=["root"]), "rights"),
    "half_a_character": (lambda: signed(b'{"sub":"7","exp":9999999999,"x":"\\ud800"}'), "character"),
    "claims_are_no_object": (lambda: signed([]), "object"),
    "too_long": (lambda: token(pad="x" * 9000), "not a token"),
    "two_parts": (lambda: token().rpartition(".")[0], "JSON Web Token"),
    "not_a_token": (lambda: "bearer-of-good-news", "JSON Web Token"),
    "empty_parts": (lambda: "..", "JSON"),
    "empty": (lambda: "", "not a token"),
}


@pytest.mark.parametrize("attack", FORGED)
async def test_forged_token(attack: str, log_entries: Entries) -> None:
    """Whatever is wrong with it, and whichever way it comes."""
    make, words = FORGED[attack]
    text = make()
    async with attacked() as server:
        for way in WAYS:
            with refused(server, log_entries, reason_of(way), "AUTH_FAILED", text):
                answer = await show(server.address[1], way, text)
            assert (answer["code"], answer.get("status", 401)) == ("AUTH_FAILED", 401)
            assert words in answer["message"]
            assert not text or text not in json.dumps(answer)


@pytest.mark.parametrize("way", WAYS)
async def test_expired_token(way: str, log_entries: Entries) -> None:
    """It has a code of its own, so that clients fetch a fresh one."""
    text = token(exp=time.time() - 31)
    async with attacked() as server:
        with refused(server, log_entries, reason_of(way), "TOKEN_EXPIRED", text):
            answer = await show(server.address[1], way, text)
        assert answer["code"] == "TOKEN_EXPIRED"


async def test_public_key_as_a_secret(log_entries: Entries, tmp_path: Path) -> None:
    """The confusion of HS256 and RS256: everybody has the public key, so it must not sign."""
    public = rsa.generate_private_key(65537, 2048).public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pem").write_bytes(pem)
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    async with attacked(jwt_algorithms=["HS256", "RS256"], jwt_key_files=[str(tmp_path / "key.pem")]) as server:
        for secret in (pem, pem.strip(), der):
            for name in ("HS256", "RS256"):
                text = signed(claims("admin"), header={"alg": name}, secret=secret)
                for way in ("handshake", "first_frame", "sse"):
                    with refused(server, log_entries, reason_of(way), "AUTH_FAILED", text):
                        assert (await show(server.address[1], way, text))["code"] == "AUTH_FAILED"


async def test_token_of_twenty_kilobytes(log_entries: Entries) -> None:
    """Refused before any of it is decoded; in a head that is longer than heads may be, not even read."""
    text = token(pad="x" * 15_000)
    async with attacked(max_head_bytes=32 << 10) as server:
        port = server.address[1]
        for way in ("handshake", "subprotocol", "sse", "poll"):
            with refused(server, log_entries, reason_of(way), "AUTH_FAILED", text):
                assert (await show(port, way, text))["status"] == 401
        with refused(server, log_entries, "bad_request", "BAD_REQUEST", text):
            assert (await show(port, "handshake", text * 2))["status"] == 431
        # Longer than a command's token may be, and so no command.
        assert (await show(port, "first_frame", text))["code"] == "BAD_REQUEST"


@pytest.mark.parametrize("way", WAYS)
async def test_bad_token_where_nobody_needs_one(way: str, log_entries: Entries) -> None:
    """It is not taken for none."""
    text = signed(claims(), secret="x" * 32)
    async with attacked(allow_anonymous=True) as server:
        with refused(server, log_entries, reason_of(way), "AUTH_FAILED", text):
            assert (await show(server.address[1], way, text))["code"] == "AUTH_FAILED"


@pytest.mark.parametrize("way", ["/ws", "/sse", "/poll"])
async def test_token_in_the_url(way: str, log_entries: Entries) -> None:
    """A good one too, where that is not switched on; and neither log nor answer repeats it."""
    text = token()
    async with attacked(allow_anonymous=True) as server:
        target = f"{way}?topic=symbol:600519&timeout=0&token={text}"
        reason = {"/ws": "credentials", "/sse": "sse", "/poll": "request"}[way]
        with refused(server, log_entries, reason, "AUTH_FAILED", text):
            asked = ask_upgrade if way == "/ws" else ask
            response = await asked(server.address[1], target)
        assert (response.status, response.json()["code"]) == (401, "AUTH_FAILED")
        assert text.encode() not in response.body


async def test_guessing_in_first_frames(log_entries: Entries) -> None:
    """The third wrong token of a peer that has no login is its last."""
    async with attacked() as server, upgraded(server.address[1], "/ws") as peer:
        with refused(server, log_entries, "credentials", "AUTH_FAILED", times=3):
            for number in range(3):
                await peer.send_json({"type": "auth", "id": number, "token": signed(claims(), secret=b"%d" % number)})
            await peer.send_json({"type": "auth", "id": 3, "token": token()})
            pushes, closed = await peer.receive_to_close()
        assert closed.code == 4001
        assert [push["type"] for push in pushes] == ["welcome", "error", "error", "error", "disconnect"]


async def test_guessing_in_a_batch_of_logins(log_entries: Entries) -> None:
    """Many guesses in one message are as many guesses; a good token behind the third does not help."""
    async with attacked() as server, upgraded(server.address[1], "/ws") as peer:
        guesses = [{"type": "auth", "id": number, "token": f"guess{number}"} for number in range(50)]
        await peer.send_json({"type": "batch", "id": "b", "commands": [*guesses, {**guesses[0], "token": token()}]})
        (_, error) = [await peer.receive() for _ in range(2)]
        assert (error["type"], error["code"]) == ("error", "AUTH_REQUIRED")
        assert server.statistics().refused == {}


# -- names -------------------------------------------------------------------------------------------------------

USERS = {
    "right_to_left": "admin\u202enimda",
    "zero_width": "ad\u200bmin",
    "word_joiner": "admin\u2060",
    "soft_hyphen": "ad\u00admin",
    "byte_order_mark": "\ufeffadmin",
    "decomposed": "jose\u0301",
    "kelvin_sign": "\u212aelvin",
    "line_feed": "admin\n7",
    "line_separator": "admin\u2028",
    "space": "admin ",
    "no_break_space": "admin\u00a0",
    "nul": "admin\0",
    "private_use": "\ue000",
    "unassigned": "\u0378",
    "empty": "",
    "too_long": "a" * 201,
    "true": True,
    "list": ["admin"],
    "object": {"admin": 1},
    "missing": None,
}


@pytest.mark.parametrize("attack", USERS)
async def test_user_that_looks_like_another(attack: str, log_entries: Entries) -> None:
    """Names that are not what they seem are not taken, though the issuer has signed them."""
    text = token(USERS[attack])
    async with attacked() as server:
        for way in ("handshake", "first_frame", "sse"):
            with refused(server, log_entries, reason_of(way), "AUTH_FAILED", text):
                assert (await show(server.address[1], way, text))["code"] == "AUTH_FAILED"


@pytest.mark.parametrize("user", ["\u0430lice", "\uff41lice", "alice:8", "alice/../8", "*", "{user}", "%38", "alice."])
async def test_user_whose_name_is_built_to_reach_anothers_topic(user: str) -> None:
    """Cyrillic, wide or with signs of a pattern: it is another user, who has none of the first one's topics."""
    async with attacked(rules=[{"topics": ["room:{user}-*"], "allow": ["join"]}]) as server:
        async with logged_in(server.address[1], user) as peer:
            for topic in ("user:alice", "user:8", "room:alice-1", "room:8-1"):
                assert (await peer.command("subscribe", topic=topic))["code"] == "PERMISSION_DENIED"
            (connection,) = server.connections.of_user(user)
            assert {f"user:{user}", "global"} >= set(connection.session.subscriptions)


TOPICS = {
    "wide_colon": "user\uff1a8",
    "wide_digit": "user:\uff18",
    "superscript": "user:\u2078",
    "zero_width": "user:8\u200b",
    "decomposed": "room:jose\u0301",
    "nul": "user:8\0",
    "line_feed": "user:8\n",
    "trailing_space": "user:8 ",
    "leading_space": " user:8",
    "percent": "user:%38",
    "overlong_percent": "user:%C0%B8",
    "dots": "user:7/../8",
    "backslash": "user:7\\..\\8",
    "capitals": "USER:8",
    "no_name": "user:",
    "no_kind": ":8",
    "star": "user:*",
    "placeholder": "user:{user}",
    "name_of_a_bare_kind": "global:8",
    "very_long": "user:" + "8" * 300,
    "two_topics": "user:7,user:8",
    "quote": "user:8'--",
    "right_to_left": "user:\u202e8",
}


@pytest.mark.parametrize("attack", TOPICS)
async def test_topic_that_looks_like_another(attack: str) -> None:
    """No spelling of a topic but its own leads there, on any way."""
    topic = TOPICS[attack]
    async with attacked() as server:
        port = server.address[1]
        async with logged_in(port, "7") as peer:
            for kind in ("subscribe", "history", "members"):
                assert (await peer.command(kind, topic=topic))["code"] == "INVALID_TOPIC"
            assert (await peer.command("publish", topic=topic, data=1))["code"] == "INVALID_TOPIC"
            (connection,) = server.connections.of_user("7")
            assert set(connection.session.subscriptions) == {"user:7", "global"}
        for path in ("/sse", "/poll"):
            response = await ask(port, f"{path}?timeout=0&topic={quote(topic)}", bearer(token()))
            assert (response.status, response.json()["code"]) == (400, "INVALID_TOPIC")
        headers = [f"Authorization: Bearer {token()}"]
        async with upgraded(port, f"/ws?topic={quote(topic)}", headers=headers) as peer:
            pushes, closed = await peer.receive_to_close()
        assert (pushes[0]["code"], closed.code) == ("INVALID_TOPIC", 4000)
        assert not server.hub.subscriptions(topic)


# -- other people's topics ---------------------------------------------------------------------------------------

SPIED = {
    "subscribe": {"topic": "user:8"},
    "subscribe_with_history": {"topic": "user:8", "recover": {"last": 10}},
    "history": {"topic": "user:8"},
    "members": {"topic": "user:8"},
    "publish": {"topic": "user:8", "data": "from your bank"},
}


@pytest.mark.parametrize("generous", [False, True])
@pytest.mark.parametrize("attack", SPIED)
async def test_command_on_somebody_elses_topic(attack: str, generous: bool, log_entries: Entries) -> None:
    """Also with a rule and a token that open every topic, by itself and in a batch, on a socket and beside a stream."""
    command, members = attack.partition("_")[0], SPIED[attack]
    rules = [{"topics": ["*", "user:*"], "allow": ["join", "publish", "presence", "history"]}] if generous else []
    more = {"topics": {"user:*": ["join", "publish", "presence", "history"]}} if generous else {}
    async with attacked(rules=rules) as server:
        port = server.address[1]
        await server.publish("user:8", "secret")
        async with logged_in(port, "7", **more) as peer:
            assert (await peer.command(command, **members))["code"] == "PERMISSION_DENIED"
            batch = await peer.command("batch", commands=[{"type": command, "id": 1, **members}])
            assert [reply["code"] for reply in batch["replies"]] == ["PERMISSION_DENIED"]
            (connection,) = server.connections.of_user("7")
            assert "user:8" not in connection.session.subscriptions
        async with open_events(port, "topic=room:a", headers=bearer(token("7", **more))) as stream:
            response = await post_command(port, stream, command, **members)
            assert (response.status, response.json()["code"]) == (403, "PERMISSION_DENIED")
        assert server.statistics().audit["denied"] == 3
        assert [line["user"] for line in told(log_entries, "denied")] == ["7"] * 3


@pytest.mark.parametrize("path", ["/sse", "/poll"])
@pytest.mark.parametrize("query", ["topic=user:8", "topic=user:%38", 'sub={"topic":"user:8","recover":{"last":9}}'])
async def test_request_for_somebody_elses_topic(path: str, query: str, log_entries: Entries) -> None:
    """Nothing of it is answered, not even that of the other topics."""
    async with attacked() as server:
        await server.publish("user:8", "secret")
        with refused(server, log_entries, {"/sse": "sse", "/poll": "request"}[path], "PERMISSION_DENIED"):
            target = f"{path}?timeout=0&topic=room:a&{quote(query, safe='=%:')}"
            response = await ask(server.address[1], target, bearer(token()))
        assert (response.status, response.json()["code"]) == (403, "PERMISSION_DENIED")
        assert b"secret" not in response.body


async def test_handshake_for_somebody_elses_topic(log_entries: Entries) -> None:
    """A script in a browser sees a close code and no status, so the refusal is in band; it counts all the same."""
    async with attacked() as server:
        await server.publish("user:8", "secret")
        headers = [f"Authorization: Bearer {token()}"]
        async with upgraded(server.address[1], "/ws?topic=user:8", headers=headers) as peer:
            pushes, closed = await peer.receive_to_close()
        assert [push["type"] for push in pushes] == ["error", "disconnect"]
        assert (pushes[0]["code"], closed.code) == ("PERMISSION_DENIED", 4003)
        statistics = server.statistics()
        assert sum(statistics.refused.values()) == 1
        assert statistics.audit["refused"] + statistics.audit["denied"] == 1
        lines = [*told(log_entries, "refused"), *told(log_entries, "denied")]
        assert [line["code"] for line in lines] == ["PERMISSION_DENIED"]


async def test_refresh_to_another_user(log_entries: Entries) -> None:
    """A connection has one user for good; it stays who it was, and keeps what it had."""
    async with attacked() as server:
        text = token("8")
        async with logged_in(server.address[1], "7") as peer:
            with refused(server, log_entries, "credentials", "AUTH_FAILED", text):
                assert (await peer.command("auth", token=text))["code"] == "AUTH_FAILED"
            assert server.connections.of_user("8") == []
            await server.send_to_user("8", "not yours")
            await server.send_to_user("7", "yours")
            assert (await peer.receive_type("message"))["data"] == "yours"
        async with open_events(server.address[1], "topic=room:a", headers=bearer(token())) as stream:
            with refused(server, log_entries, "credentials", "AUTH_FAILED", text):
                assert (await post_command(server.address[1], stream, "auth", token=text)).status == 401
