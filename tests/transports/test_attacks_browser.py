"""Attacks through a victim's browser, which adds cookies and headers by itself, and through headers of proxies.

What a foreign page can have a browser send opens nothing, and who is not a trusted proxy is not believed what it says
of others.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from realtime.api_keys import new_key
from realtime.auth import Right
from tests.forgery import ask, ask_upgrade, attacked, bearer, check_secret, refused, show, signed, token, told
from tests.peers import Response, connect, open_events, open_websocket, request_bytes, upgraded

Entries = list[dict[str, Any]]

APP = "https://app.example"
COOKIES = {"cookie_name": "session"}
#: How a refusal of a page is counted, by path.
REASONS = {"/ws": "origin", "/sse": "sse", "/poll": "request"}


def lines(headers: dict[str, str]) -> tuple[str, ...]:
    """Headers as a handshake takes them."""
    return tuple(f"{name}: {value}" for name, value in headers.items())


async def ask_as_page(port: int, path: str, headers: dict[str, str]) -> Response:
    """What is answered to a page that is refused."""
    if path == "/ws":
        return await ask_upgrade(port, headers=lines(headers))
    return await ask(port, f"{path}?topic=room:a&timeout=0", headers)


async def user_of(port: int, path: str, headers: dict[str, str]) -> str | None:
    """As whom a request is served; None for nobody in particular."""
    if path == "/ws":
        async with open_websocket(port, headers=lines(headers)) as peer:
            return peer.welcome.get("user")
    if path == "/sse":
        async with open_events(port, "topic=symbol:600519", headers=headers) as stream:
            return stream.welcome.get("user")
    response = await ask(port, "/poll?topic=symbol:600519&timeout=0", headers)
    assert response.status == 200, response.body
    own = [topic["topic"] for topic in response.json()["topics"] if topic["topic"].startswith("user:")]
    return own[0].removeprefix("user:") if own else None


# -- cross-site WebSocket hijacking ------------------------------------------------------------------------------

FOREIGN = {
    "another_site": "https://evil.example",
    "null": "null",
    "empty": "",
    "suffix": "https://app.example.evil.com",
    "prefix": "https://evil-app.example",
    "sub_domain": "https://evil.app.example",
    "parent_domain": "https://example",
    "own_host_as_a_sub_domain": "http://localhost.evil.com",
    "own_host_as_a_suffix": "http://evil-localhost",
    "another_scheme": "http://app.example",
    "own_host_by_another_scheme": "https://localhost",
    "another_port": "https://app.example:8443",
    "another_port_of_the_own_host": "http://localhost:8080",
    "capitals": "https://APP.EXAMPLE",
    "trailing_dot": "https://app.example.",
    "trailing_slash": "https://app.example/",
    "user_info": "https://app.example@evil.com",
    "fragment": "https://evil.com#https://app.example",
    "query": "https://evil.com?https://app.example",
    "own_host_with_user_info": "http://evil@localhost",
    "own_host_with_user_info_and_password": "http://evil.example:80@localhost",
    "own_host_with_empty_user_info": "http://@localhost",
    "own_host_with_a_path": "http://localhost/path",
    "own_host_with_a_trailing_slash": "http://localhost/",
    "own_host_with_a_query": "http://localhost?https://evil.example",
    "own_host_with_a_fragment": "http://localhost#https://evil.example",
    "own_host_with_an_empty_query": "http://localhost?",
    "own_host_with_an_empty_fragment": "http://localhost#",
    "own_host_with_a_tab": "http://local\thost",
    "two_origins": "https://app.example https://evil.com",
    "list": "https://app.example, https://evil.com",
    "no_scheme": "app.example",
    "file": "file://",
    "extension": "chrome-extension://app.example",
    "wide_dot": "https://app\uff0eexample",
    "bad_port": "https://app.example:port",
    "bad_address": "http://[app.example",
    "star": "*",
}


@pytest.mark.parametrize("attack", FOREIGN)
async def test_cookie_from_a_foreign_page(attack: str, log_entries: Entries) -> None:
    """Cross-site WebSocket hijacking, and the same by event stream and poll: refused, and unreadable for the page."""
    cookie = token()
    headers = {"Origin": FOREIGN[attack], "Cookie": f"session={cookie}", "Sec-Fetch-Site": "cross-site"}
    async with attacked(**COOKIES, origins=[APP]) as server:
        for path, reason in REASONS.items():
            with refused(server, log_entries, reason, "PERMISSION_DENIED", cookie):
                response = await ask_as_page(server.address[1], path, headers)
            assert (response.status, response.json()["code"]) == (403, "PERMISSION_DENIED")
            assert response.header("access-control-allow-origin") is None
        assert server.connections.of_user("7") == []


@pytest.mark.parametrize("path", REASONS)
@pytest.mark.parametrize("first", [APP, "https://evil.example"])
async def test_two_origins(first: str, path: str, log_entries: Entries) -> None:
    """A request that says twice where it comes from is none, whichever of the two would be good."""
    second = {APP: "https://evil.example"}.get(first, APP)
    async with attacked(**COOKIES, origins=[APP]) as server, connect(server.address[1]) as raw:
        head = request_bytes("GET", f"{path}?topic=room:a", headers={"Origin": first, "Cookie": f"session={token()}"})
        with refused(server, log_entries, "bad_request", "BAD_REQUEST"):
            await raw.send(head.replace(b"\r\n\r\n", f"\r\nOrigin: {second}\r\n\r\n".encode()))
            assert (await raw.read_response()).status == 400


@pytest.mark.parametrize("path", REASONS)
@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost.evil.com", "https://localhost"])
async def test_cookie_from_a_foreign_page_where_every_origin_may_come(origin: str, path: str) -> None:
    """It comes as nobody: a star opens what is open to everybody, and no cookie."""
    headers = {"Origin": origin, "Cookie": f"session={token()}", "Sec-Fetch-Site": "cross-site"}
    async with attacked(**COOKIES, origins=["*"], allow_anonymous=True) as server:
        assert await user_of(server.address[1], path, headers) is None
        response = await ask(server.address[1], "/poll?topic=symbol:600519&timeout=0", headers)
        assert response.header("access-control-allow-origin") == "*"
        assert response.header("access-control-allow-credentials") is None
        denied = await ask(server.address[1], "/poll?topic=user:7&timeout=0", headers)
        assert (denied.status, denied.json()["code"]) == (403, "PERMISSION_DENIED")


@pytest.mark.parametrize("path", REASONS)
@pytest.mark.parametrize("site", ["cross-site", "same-site", "none", "same-origin, cross-site", "SAME-ORIGIN", None])
async def test_cookie_without_an_origin(site: str | None, path: str) -> None:
    """An image, a form, a link, or no browser: only a page of this very origin is told by its browser to be one."""
    headers = {"Cookie": f"session={token()}"} | ({} if site is None else {"Sec-Fetch-Site": site})
    async with attacked(**COOKIES, origins=[APP], allow_anonymous=True) as server:
        assert await user_of(server.address[1], path, headers) is None
    async with attacked(**COOKIES, origins=[APP]) as server:
        if path == "/ws":
            async with open_websocket(server.address[1], headers=lines(headers)) as peer:
                assert (await peer.command("subscribe", topic="user:7"))["code"] == "AUTH_REQUIRED"
        else:
            response = await ask_as_page(server.address[1], path, headers)
            assert (response.status, response.json()["code"]) == (401, "AUTH_REQUIRED")


@pytest.mark.parametrize("path", REASONS)
@pytest.mark.parametrize(
    "headers", [{"Origin": "http://localhost"}, {"Origin": APP}, {"Sec-Fetch-Site": "same-origin"}]
)
async def test_cookie_from_our_own_page_is_a_login(path: str, headers: dict[str, str]) -> None:
    """What the attacks above are about: without it they would prove nothing."""
    async with attacked(**COOKIES, origins=[APP]) as server:
        assert await user_of(server.address[1], path, {**headers, "Cookie": f"session={token()}"}) == "7"


@pytest.mark.parametrize("path", REASONS)
@pytest.mark.parametrize("how", ["one_header", "two_headers", "quoted", "spaces"])
async def test_second_cookie_beside_ours(how: str, path: str, log_entries: Entries) -> None:
    """Cookie tossing: a page of a sibling domain sets one of its own, to have the victim act in its account."""
    mine, theirs = token("7"), token("evil")
    cookies = {
        "one_header": [f"session={theirs}; session={mine}"],
        "two_headers": [f"session={mine}", f"session={theirs}"],
        "quoted": [f'session={mine}; session="{theirs}"'],
        "spaces": [f"session={mine};  session =\t{theirs} "],
    }[how]
    headers = ["Origin: http://localhost", *(f"Cookie: {value}" for value in cookies)]
    async with attacked(**COOKIES) as server, connect(server.address[1]) as raw:
        with refused(server, log_entries, {**REASONS, "/ws": "credentials"}[path], "AUTH_FAILED", mine):
            if path == "/ws":
                response = await ask_upgrade(server.address[1], headers=tuple(headers))
            else:
                head = request_bytes("GET", f"{path}?topic=room:a")[:-2] + "\r\n".join([*headers, "", ""]).encode()
                await raw.send(head)
                response = await raw.read_response()
        assert (response.status, response.json()["code"]) == (401, "AUTH_FAILED")
        check_secret(log_entries, theirs)


@pytest.mark.parametrize("path", REASONS)
async def test_bad_cookie_where_nobody_needs_one(path: str, log_entries: Entries) -> None:
    """A cookie that is no good is not taken for none."""
    cookie = signed({"sub": "7", "exp": 9999999999}, secret="x" * 32)
    headers = {"Origin": "http://localhost", "Cookie": f"session={cookie}"}
    async with attacked(**COOKIES, allow_anonymous=True) as server:
        with refused(server, log_entries, {**REASONS, "/ws": "credentials"}[path], "AUTH_FAILED", cookie):
            assert (await ask_as_page(server.address[1], path, headers)).status == 401


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/publish",
        "/api/v1/broadcast",
        "/api/v1/batch",
        "/api/v1/tickets",
        "/api/v1/tokens/revoke",
        "/api/v1/users/bystander/disconnect",
        "/api/v1/sessions",
    ],
)
@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "application/json"])
async def test_forged_post_with_an_administrators_cookie(path: str, content_type: str, log_entries: Entries) -> None:
    """CSRF: the cookie of one who may do everything does nothing in the HTTP API, not even from our own page."""
    cookie = token("admin", rights=["admin"])
    body = json.dumps({"user": "bystander", "topic": "room:quiet", "data": "forged", "token_id": "x"}).encode()
    async with attacked(**COOKIES, origins=[APP]) as server:
        for origin in ("https://evil.example", "http://localhost", APP, None):
            foreign = origin == "https://evil.example"
            headers = {"Cookie": f"session={cookie}", "Content-Type": content_type}
            headers |= {"Sec-Fetch-Site": "same-origin"} if origin is None else {"Origin": origin}
            reason = "origin" if foreign else "api"
            status, code = (403, "PERMISSION_DENIED") if foreign else (401, "AUTH_REQUIRED")
            with refused(server, log_entries, reason, code, cookie):
                async with connect(server.address[1]) as raw:
                    response = await raw.request("POST", path, headers=headers, body=body)
            assert (response.status, response.json()["code"]) == (status, code)
            assert response.header("access-control-allow-origin") == (None if foreign else origin)


async def test_forged_command_for_a_stream_of_the_victim(log_entries: Entries) -> None:
    """The cookie does not command a stream; its secret, which no other page can read, does."""
    cookie = token()
    own = {"Origin": "http://localhost", "Cookie": f"session={cookie}"}
    async with attacked(**COOKIES) as server:
        async with (
            open_events(server.address[1], "topic=room:a", headers=own) as stream,
            connect(server.address[1]) as raw,
        ):
            target = f"/sse/{stream.welcome['connection']}"
            body = b'{"type":"publish","id":1,"topic":"room:a","data":"forged"}'
            with refused(server, log_entries, "sse_command", "CONNECTION_NOT_FOUND", cookie):
                assert (await raw.request("POST", target, headers=own, body=body)).status == 404
            with refused(server, log_entries, "sse_command", "PERMISSION_DENIED", stream.welcome["secret"]):
                secret = {"Origin": "https://evil.example", "X-Connection-Secret": stream.welcome["secret"]}
                assert (await raw.request("POST", target, headers={**own, **secret}, body=body)).status == 403


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost.evil.com"])
async def test_preflight_of_a_foreign_page(origin: str) -> None:
    """No path allows it anything: the browser then sends no request at all."""
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, x-api-key, x-connection-secret",
    }
    async with attacked(**COOKIES, origins=[APP]) as server:
        for path in ("/sse", "/poll", "/sse/c_x", "/api/v1/publish", "/api/v1/tickets", "/api/v1/users/7/disconnect"):
            response = await ask(server.address[1], path, asked, method="OPTIONS")
            assert not [name for name, _ in response.headers if name.startswith(b"access-control-allow")]
        assert server.statistics().refused == {"origin": 6}


@pytest.mark.parametrize(
    ("method", "path", "reason"),
    [
        ("GET", "/ws", "origin"),
        ("GET", "/sse", "sse"),
        ("GET", "/poll", "request"),
        ("POST", "/sse/c_x", "sse_command"),
        ("OPTIONS", "/poll", "origin"),
        ("GET", "/api/v1/stats", "origin"),
        ("OPTIONS", "/api/v1/stats", "origin"),
        ("POST", "/api/v1/publish", "origin"),
    ],
)
async def test_foreign_page_that_would_have_its_visitor_shut_out(
    method: str, path: str, reason: str, log_entries: Entries
) -> None:
    """However often it tries: whoever is at that address knows nothing of it, and is served."""
    headers = {"Origin": "https://evil.example", "Cookie": f"session={token()}"}
    async with attacked(**COOKIES, origins=[APP], refusal_rate=0.01, refusal_burst=3.0) as server:
        port = server.address[1]
        for _ in range(150):
            if path == "/ws":
                response = await ask_upgrade(port, headers=lines(headers))
            else:
                response = await ask(port, f"{path}?topic=room:a&timeout=0", headers, method=method)
            assert (response.status, response.json()["code"]) == (403, "PERMISSION_DENIED")
        counted = server.statistics()
        assert counted.refused == {reason: 150}
        assert counted.audit["refused"] == 150
        written = [line for line in told(log_entries, "refused") if line["event"] == "audit"]
        assert written
        assert all("https://evil.example" in line["reason"] for line in written)
        for served in REASONS:
            assert await user_of(port, served, {"Origin": APP, "Cookie": f"session={token()}"}) == "7"


# -- forged headers of proxies -----------------------------------------------------------------------------------

LIES = {
    "X-Forwarded-For": "203.0.113.9",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "app.example",
    "X-Real-IP": "203.0.113.9",
    "Forwarded": "for=203.0.113.9;proto=https;host=app.example",
}


@pytest.mark.parametrize("trusted", [[], ["10.0.0.0/8"]])
async def test_forwarding_headers_of_one_who_is_no_proxy(trusted: list[str], log_entries: Entries) -> None:
    """The address stays its own, the scheme is the connection's, the host the one that was asked for."""
    text = signed({"sub": "7"}, secret="x" * 32)
    async with attacked(trusted_proxies=trusted, **COOKIES) as server:
        port = server.address[1]
        for path, reason in REASONS.items():
            login = {"/ws": "credentials"}.get(path, reason)
            with refused(server, log_entries, login, "AUTH_FAILED", text):  # looks at the address
                await ask_as_page(port, path, {**LIES, **bearer(text)})
            for origin in ("https://localhost", "https://app.example", "http://app.example"):
                with refused(server, log_entries, reason, "PERMISSION_DENIED"):
                    response = await ask_as_page(port, path, {**LIES, "Origin": origin, "Cookie": f"session={token()}"})
                assert response.status == 403
        with refused(server, log_entries, "api", "AUTH_FAILED"):
            await ask(port, "/api/v1/connections", {**LIES, "X-Api-Key": "guess"})
        async with open_websocket(port, headers=lines({**LIES, **bearer(token())})):
            (connection,) = server.connections.of_user("7")
            assert connection.statistics().address == "127.0.0.1"


@pytest.mark.parametrize("header", ["x-forwarded", "forwarded"])
async def test_forged_elements_left_of_what_the_proxy_wrote(header: str, log_entries: Entries) -> None:
    """A trusted proxy adds on the right; what came with the request stands on the left, and in the other header."""
    good, lie = "203.0.113.9", "198.51.100.1"
    headers = {
        "x-forwarded": {"X-Forwarded-For": f"{lie}, 127.0.0.1, {good}", "Forwarded": f"for={lie}"},
        "forwarded": {"Forwarded": f'for={lie}, for="\\", for=127.0.0.1, for={good}', "X-Forwarded-For": lie},
    }[header]
    async with attacked(trusted_proxies=["127.0.0.1"], forwarded_header=header) as server:
        port = server.address[1]
        for path in REASONS:
            await ask_as_page(port, path, {**headers, **bearer("a.b.c")})
        await ask(port, "/api/v1/connections", {**headers, "X-Api-Key": "guess"})
        await ask(port, "/api/v1/publish", {**headers, "X-Api-Key": "guess"}, method="POST")
        assert [line["address"] for line in told(log_entries, "refused")] == [good] * 5
        assert server.statistics().audit["refused"] == 5


async def test_proxy_that_is_trusted_is_believed_scheme_and_host() -> None:
    """What the refusals above are about; the last value of a list is the one that the proxy wrote."""
    seen = {
        "X-Forwarded-For": "198.51.100.1, 203.0.113.9",
        "X-Forwarded-Proto": "http, https",
        "X-Forwarded-Host": "evil.example, app.example",
    }
    async with attacked(trusted_proxies=["127.0.0.1"], **COOKIES) as server:
        port = server.address[1]
        page = {**seen, "Origin": APP, "Cookie": f"session={token()}"}
        for path in REASONS:
            assert await user_of(port, path, page) == "7"
        for origin in ("http://app.example", "https://evil.example", "https://localhost"):
            assert (await ask_as_page(port, "/ws", {**page, "Origin": origin})).status == 403


@pytest.mark.parametrize(
    ("family", "seen"),
    [
        ("x-forwarded", {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https", "X-Forwarded-Host": APP[8:]}),
        ("forwarded", {"Forwarded": f"for=203.0.113.9;proto=https;host={APP[8:]}"}),
    ],
)
async def test_proxy_that_is_trusted_is_believed_for_the_http_api_too(family: str, seen: dict[str, str]) -> None:
    """A page of the outer host may call it as it may poll; the inner host's name is a foreign one there."""
    async with attacked(trusted_proxies=["127.0.0.1"], forwarded_header=family) as server:
        port = server.address[1]
        for path, login in (("/poll?topic=room:a&timeout=0", bearer(token())), ("/api/v1/stats", {"X-Api-Key": "key"})):
            for method in ("GET", "OPTIONS"):
                response = await ask(port, path, {**seen, **login, "Origin": APP}, method=method)
                assert (response.status, response.header("access-control-allow-origin")) == (200, APP)
                for origin in ("http://localhost", "https://localhost", "http://app.example"):
                    response = await ask(port, path, {**seen, **login, "Origin": origin}, method=method)
                    assert (response.status, response.json()["code"]) == (403, "PERMISSION_DENIED")


async def test_forged_address_for_every_guess() -> None:
    """Who calls itself another each time is shut out all the same; behind a trusted proxy, it alone is."""
    strict = {"refusal_burst": 3.0, "refusal_rate": 0.01}
    async with attacked(**strict) as server:
        for number in range(3):
            await ask(server.address[1], "/poll", {"X-Forwarded-For": f"203.0.113.{number}", **bearer("a.b.c")})
        assert (await ask(server.address[1], "/healthz")).status == 429
    async with attacked(**strict, trusted_proxies=["127.0.0.1"]) as server:
        port = server.address[1]
        for number in range(3):
            await ask(port, "/poll", {"X-Forwarded-For": f"198.51.100.{number}, 203.0.113.9", **bearer("a.b.c")})
        assert (await ask(port, "/healthz", {"X-Forwarded-For": "198.51.100.9, 203.0.113.9"})).status == 429
        assert (await ask(port, "/healthz", {"X-Forwarded-For": "203.0.113.8"})).status == 200


async def test_address_that_would_forge_a_line_of_the_log(log_entries: Entries) -> None:
    """What is no address is none, and what a peer chose cannot start a line of its own."""
    async with attacked(trusted_proxies=["127.0.0.1"]) as server:
        for lie in (
            "203.0.113.9\x0baudit=login",
            "unknown",
            "_hidden",
            "<script>",
            "1.2.3.4:99999999",
            "::1%eth0\x1b[2J",
        ):
            async with connect(server.address[1]) as raw:
                head = request_bytes("GET", "/poll", headers=bearer("a.b.c")).replace(
                    b"\r\n\r\n", f"\r\nX-Forwarded-For: {lie}\r\n\r\n".encode()
                )
                await raw.send(head)
                await raw.read_response()
        for line in told(log_entries, "refused"):
            assert line["address"] in ("127.0.0.1", "::1", "1.2.3.4")
            assert repr(line).isprintable()


async def test_key_of_a_back_end_as_a_login_of_a_page(log_entries: Entries) -> None:
    """Where pages carry their logins, a key is none: not in a cookie, not in a URL, not in a subprotocol."""
    key, line = new_key("back-end", [Right.ADMIN])
    async with attacked(api_keys=[line], **COOKIES, query_tokens=True) as server:
        port = server.address[1]
        own = "http://localhost"
        with refused(server, log_entries, "credentials", "AUTH_FAILED", key):
            assert (await show(port, "subprotocol", key))["code"] == "AUTH_FAILED"
        for target, headers in (
            (f"/poll?topic=room:a&timeout=0&token={key}", {}),
            ("/poll?topic=room:a&timeout=0", {"Cookie": f"{COOKIES['cookie_name']}={key}", "Origin": own}),
        ):
            with refused(server, log_entries, "request", "AUTH_FAILED", key):
                assert (await ask(port, target, headers)).status == 401


async def test_key_of_a_back_end_beyond_its_rights() -> None:
    """As a peer it may what it may over the API, and no more."""
    key, line = new_key("back-end", [Right.TICKETS])
    rules = [{"name": "users", "topics": ["room:*"], "allow": ["join", "publish", "history"], "who": "authenticated"}]
    async with attacked(api_keys=[line], rules=rules) as server, upgraded(server.address[1], "/ws") as peer:
        await peer.receive_type("welcome")
        assert (await peer.command("auth", token=key))["type"] == "authenticated"
        for topic in ("room:a", "user:7", "global"):
            assert (await peer.command("history", topic=topic))["code"] == "PERMISSION_DENIED"
            assert (await peer.command("publish", topic=topic, data=1))["code"] == "PERMISSION_DENIED"
        assert (await peer.command("subscribe", topic="room:a"))["code"] == "PERMISSION_DENIED"
