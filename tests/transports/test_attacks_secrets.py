"""Attacks on secrets that stand for somebody: tickets, API keys, the secrets of event streams; shown twice, or guessed.

Whoever guesses learns nothing from the answers, and is shut out before long.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
import trio

from realtime.api_keys import new_key
from realtime.auth import Right
from tests.forgery import (
    WAYS,
    ask,
    ask_upgrade,
    attacked,
    bearer,
    check_secret,
    claims,
    reason_of,
    refused,
    show,
    signed,
    token,
    told,
)
from tests.peers import (
    Response,
    WebSocketPeer,
    connect,
    eventually,
    open_events,
    open_websocket,
    upgrade_bytes,
)

Entries = list[dict[str, Any]]

# -- tickets -----------------------------------------------------------------------------------------------------

KEY, LINE = new_key("pages", [Right.TICKETS])
WITH_KEY = {"X-Api-Key": KEY}


async def post_json(port: int, path: str, body: Any, headers: dict[str, str] | None = None) -> Response:
    async with connect(port) as raw:
        return await raw.request("POST", path, headers=headers, body=json.dumps(body).encode())


async def new_ticket(port: int, **body: Any) -> str:
    response = await post_json(port, "/api/v1/tickets", {"user": "7", **body}, WITH_KEY)
    assert response.status == 201, response.body
    text: str = response.json()["ticket"]
    return text


async def redeem(port: int, path: str, ticket: str) -> tuple[int, str | None]:
    """The status, and who one is then or with which code it was refused."""
    if path == "/ws":
        async with connect(port) as raw:
            await raw.send(upgrade_bytes(f"/ws?ticket={ticket}"))
            head = await raw.read_until(b"\r\n\r\n")
            if head.startswith(b"HTTP/1.1 101"):
                return 101, json.loads((await WebSocketPeer(raw).next_frame()).payload)["user"]
            raw.buffer = head + raw.buffer
            response = await raw.read_response()
            return response.status, response.json()["code"]
    response = await ask(port, f"{path}?ticket={ticket}&timeout=0&topic=user:7", {"Connection": "close"})
    return response.status, response.json().get("code")


@pytest.mark.parametrize("path", ["/ws", "/sse", "/poll"])
async def test_replayed_ticket(path: str, log_entries: Entries) -> None:
    """What stands in a log of URLs has been used: it opens nothing, on any way."""
    async with attacked(api_keys=[LINE]) as server:
        port = server.address[1]
        ticket = await new_ticket(port)
        async with open_websocket(port, f"/ws?ticket={ticket}") as peer:
            assert peer.welcome["user"] == "7"
        reason = {"/ws": "credentials", "/sse": "sse", "/poll": "request"}[path]
        with refused(server, log_entries, reason, "AUTH_FAILED", ticket):
            assert await redeem(port, path, ticket) == (401, "AUTH_FAILED")
        for way in WAYS:
            with refused(server, log_entries, reason_of(way), "AUTH_FAILED", ticket):
                assert (await show(port, way, ticket))["code"] == "AUTH_FAILED"
        assert server.statistics().tickets_redeemed == 1


async def test_ticket_shown_by_two_at_once(log_entries: Entries) -> None:
    """Exactly one of them is let in, each time."""
    async with attacked(api_keys=[LINE]) as server:
        port = server.address[1]
        for _ in range(20):
            ticket = await new_ticket(port)
            results: list[tuple[int, str | None]] = []

            async def race(ticket: str = ticket, results: list[tuple[int, str | None]] = results) -> None:
                results.append(await redeem(port, "/ws", ticket))

            with refused(server, log_entries, "credentials", "AUTH_FAILED", ticket):
                async with trio.open_nursery() as nursery:
                    for _ in range(2):
                        nursery.start_soon(race)
            assert sorted(results) == [(101, "7"), (401, "AUTH_FAILED")]
        assert server.statistics().tickets_redeemed == 20


async def test_ticket_that_has_expired(log_entries: Entries) -> None:
    """It gets the answer of one that never was."""
    async with attacked(api_keys=[LINE], ticket_seconds=0.2) as server:
        port = server.address[1]
        ticket = await new_ticket(port, seconds=3600)
        await eventually(lambda: len(server.tickets) == 0)
        with refused(server, log_entries, "credentials", "AUTH_FAILED", ticket):
            late = await ask_upgrade(port, f"/ws?ticket={ticket}")
        never = await ask_upgrade(port, "/ws?ticket=tkt_" + "x" * 43)
        assert (late.status, late.body) == (never.status, never.body)


FORGED_TICKETS = {
    "guess": "tkt_" + "A" * 43,
    "prefix_alone": "tkt_",
    "sql": "tkt_' OR 1=1 --",
    "nul": "tkt_\0",
    "very_long": "tkt_" + "A" * 9000,
    "capitals": "TKT_" + "A" * 43,
    "empty": "",
    "surrogate": "tkt_\udcff",
}


@pytest.mark.parametrize("attack", FORGED_TICKETS)
async def test_forged_ticket(attack: str, log_entries: Entries) -> None:
    """Also where anonymous peers are served: a bad ticket is not taken for none."""
    text = FORGED_TICKETS[attack]
    async with attacked(allow_anonymous=True) as server:
        in_url = quote(text, errors="surrogatepass")
        reason, code = ("credentials", "AUTH_FAILED") if attack != "surrogate" else ("bad_request", "BAD_REQUEST")
        with refused(server, log_entries, reason, code, text if attack == "guess" else ""):
            response = await ask_upgrade(server.address[1], f"/ws?ticket={in_url}")
        assert response.json()["code"] == code
        assert b"AAAA" not in response.body


async def test_token_in_the_place_of_a_ticket(log_entries: Entries) -> None:
    """A good token in the URL is refused under the ticket's name as well."""
    text = token()
    async with attacked() as server:
        with refused(server, log_entries, "credentials", "AUTH_FAILED", text):
            assert (await ask_upgrade(server.address[1], f"/ws?ticket={text}")).status == 401


async def test_ticket_for_the_http_api(log_entries: Entries) -> None:
    """However it is shown there; it stays good for what it is for."""
    async with attacked(api_keys=[LINE]) as server:
        port = server.address[1]
        ticket = await new_ticket(port, claims={"rights": ["admin"]})
        for headers in (bearer(ticket), {"X-Api-Key": ticket}):
            for path in ("/api/v1/publish", "/api/v1/broadcast", "/api/v1/tickets", "/api/v1/users/8/disconnect"):
                with refused(server, log_entries, "api", "AUTH_FAILED", ticket):
                    response = await post_json(port, path, {"user": "8"}, headers)
                assert (response.status, response.json()["code"]) == (401, "AUTH_FAILED")
        with refused(server, log_entries, "api", "AUTH_REQUIRED", ticket):
            assert (await post_json(port, f"/api/v1/publish?ticket={ticket}", {})).status == 401
        assert await redeem(port, "/ws", ticket) == (101, "7")


async def test_ticket_of_a_user_who_was_revoked(log_entries: Entries) -> None:
    """Issued before, it is worthless; issued later, by a back end that knows, it is good."""
    async with attacked(api_keys=[LINE]) as server:
        port = server.address[1]
        ticket = await new_ticket(port)
        server.revoke_user("7")
        for path in ("/ws", "/sse", "/poll"):
            reason = {"/ws": "credentials", "/sse": "sse", "/poll": "request"}[path]
            with refused(server, log_entries, reason, "AUTH_FAILED", ticket):
                assert await redeem(port, path, ticket) == (401, "AUTH_FAILED")


async def test_ticket_made_by_who_may_not(log_entries: Entries) -> None:
    """Not by a user, not by a key for something else, not for a name that looks like another's."""
    other, line = new_key("reader", [Right.READ])
    async with attacked(api_keys=[LINE, line]) as server:
        port = server.address[1]
        for headers, status, code in (
            ({}, 401, "AUTH_REQUIRED"),
            (bearer(token()), 403, "PERMISSION_DENIED"),
            (bearer(token(rights=["publish", "read"])), 403, "PERMISSION_DENIED"),
            ({"X-Api-Key": other}, 403, "PERMISSION_DENIED"),
            ({"X-Api-Key": LINE}, 401, "AUTH_FAILED"),  # what stands in the configuration is no key
        ):
            with refused(server, log_entries, "api", code, headers.get("X-Api-Key", "")):
                assert (await post_json(port, "/api/v1/tickets", {"user": "admin"}, headers)).status == status
        for user in ("admin\u200b", "a\nb", "jose\u0301"):
            assert (await post_json(port, "/api/v1/tickets", {"user": user}, WITH_KEY)).status == 400
        assert server.statistics().tickets_issued == 0


# -- keys and secrets --------------------------------------------------------------------------------------------

#: Three offences, and then none for a long time.
STRICT = {"refusal_burst": 3.0, "refusal_rate": 0.01}


async def shut_out(port: int) -> bool:
    """Whether a connection from here is answered before anything is read of it."""
    async with connect(port) as raw:
        with trio.move_on_after(0.2):
            response = await raw.read_response()
            assert (response.status, response.json()["code"]) == (429, "RATE_LIMIT_EXCEEDED")
            assert float(response.header("retry-after") or 0) >= 1
            return True
    return False


GUESSES: dict[str, Callable[[int, int], Any]] = {
    "api_key": lambda port, n: post_json(port, "/api/v1/publish", {}, {"X-Api-Key": f"rtk_pages_{n:064}"}),
    "api_key_of_an_endpoint": lambda port, n: post_json(port, "/api/v1/tickets", {}, {"X-Api-Key": f"rtk_a_{n:064}"}),
    "token_as_a_key": lambda port, n: post_json(port, "/api/v1/publish", {}, bearer(f"a.b.{n}")),
    "connection_id": lambda port, n: post_json(port, f"/sse/c_{n:016}", {}, {"X-Connection-Secret": "x" * 24}),
    "ticket": lambda port, n: ask_upgrade(port, f"/ws?ticket=tkt_{n:043}"),
    "token": lambda port, n: ask(port, "/poll?topic=room:a", bearer(signed(claims(), secret=str(n)))),
}


@pytest.mark.parametrize("attack", GUESSES)
async def test_guessing(attack: str, log_entries: Entries) -> None:
    """Wrong guesses are answered alike and counted; their address is shut out for a while, others stay inside."""
    async with attacked(api_keys=[LINE], **STRICT) as server:
        port = server.address[1]
        answers = [await GUESSES[attack](port, number) for number in range(3)]
        assert len({(answer.status, answer.body) for answer in answers}) == 1
        assert answers[0].status in (401, 404)
        assert server.statistics().audit["refused"] == len(told(log_entries, "refused")) == 3
        assert await shut_out(port)
        assert server.statistics().refused["shut_out"] == 1


KEPT_ALIVE: dict[str, tuple[str, str, dict[str, str]]] = {
    "connection_id": ("POST", "/sse/c_x", {"X-Connection-Secret": "x" * 24}),
    "api_key": ("GET", "/api/v1/connections", {"X-Api-Key": "guess"}),
    "token": ("GET", "/poll?topic=room:a", bearer("a.b.c")),
}


@pytest.mark.parametrize("attack", KEPT_ALIVE)
async def test_guessing_on_one_connection_that_is_kept_alive(attack: str) -> None:
    """Who does not hang up between two guesses has no more of them than anybody else."""
    method, target, headers = KEPT_ALIVE[attack]
    statuses = []
    async with attacked(api_keys=[LINE], **STRICT) as server, connect(server.address[1]) as raw:
        for _ in range(8):
            try:
                statuses.append((await raw.request(method, target, headers=headers)).status)
            except (EOFError, trio.BrokenResourceError):
                break
    assert set(statuses[:3]) in ({401}, {404})
    assert set(statuses[3:]) <= {429}


async def test_guessing_the_secret_of_somebodys_stream(log_entries: Entries) -> None:
    """An id that is and one that is not get the same answer: nobody learns which connections there are."""
    async with attacked() as server:
        port = server.address[1]
        async with open_events(port, "topic=room:a", headers=bearer(token())) as stream:
            real = stream.welcome["connection"]
            answers = []
            for name in (real, "c_none", real[:-1], f"{real}%00", real.upper(), server.connections.of_user("7")[0].id):
                for secret in ("", "x" * 24, stream.welcome["secret"][:-1], f"{stream.welcome['secret']} x"):
                    body = {"type": "subscribe", "id": 1, "topic": "room:b"}
                    answers.append(await post_json(port, f"/sse/{name}", body, {"X-Connection-Secret": secret}))
            counted = server.statistics()
            assert counted.refused == {"sse_command": len(answers)}
            assert counted.audit["refused"] == len(answers)
            # One address has no more than its share of the lines.
            lines = [line for line in told(log_entries, "refused") if line["event"] == "audit"]
            assert {(line["code"], line["address"]) for line in lines} == {("CONNECTION_NOT_FOUND", "127.0.0.1")}
            check_secret(log_entries, stream.welcome["secret"])
            assert {(answer.status, answer.body) for answer in answers} == {(404, answers[0].body)}
            assert len(server.connections.find(real).session.subscriptions) == 3


@pytest.mark.parametrize("attack", ["prefix", "longer", "line", "hash", "capitals", "very_long", "nothing"])
async def test_key_that_is_nearly_right(attack: str, log_entries: Entries) -> None:
    """All get one answer, so none is told how near it came."""
    key, line = new_key("back-end", [Right.ADMIN])
    guess = {
        "prefix": key[:-1],
        "longer": key + "0",
        "line": line,
        "hash": line.rpartition(":")[2],
        "capitals": key.upper(),
        "very_long": key * 20,
        "nothing": "rtk_back-end_",
    }[attack]
    async with attacked(api_keys=[line]) as server:
        for path in ("/api/v1/publish", "/api/v1/broadcast", "/api/v1/users/7/disconnect"):
            with refused(server, log_entries, "api", "AUTH_FAILED", guess if attack != "nothing" else ""):
                response = await post_json(server.address[1], path, {}, {"X-Api-Key": guess})
            expected = {"type": "error", "code": "AUTH_FAILED", "message": "this is not an API key"}
            assert (response.status, response.json()) == (401, expected)


async def test_key_without_the_right(log_entries: Entries) -> None:
    """It is known, and told so; nothing is done."""
    reader, line = new_key("reader", [Right.READ])
    async with attacked(api_keys=[line]) as server:
        port = server.address[1]
        for path in (
            "/api/v1/publish",
            "/api/v1/tickets",
            "/api/v1/users/bystander/disconnect",
            "/api/v1/tokens/revoke",
        ):
            for headers in ({"X-Api-Key": reader}, bearer(reader), bearer(token(rights=["read"]))):
                with refused(server, log_entries, "api", "PERMISSION_DENIED", reader):
                    assert (await post_json(port, path, {}, headers)).status == 403
        assert (await ask(port, "/api/v1/connections", {"X-Api-Key": reader})).status == 200
