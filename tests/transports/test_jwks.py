"""Fetching keys over real sockets, from servers that do their worst."""

from __future__ import annotations

import gzip
import json
import math
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import trio
import trustme
from joserfc import jwk
from joserfc.jwt import encode

from realtime.config import Settings
from realtime.errors import CommandError, ConfigurationError, ErrorCode
from realtime.keyring import KeysUnavailable, RemoteKeys
from transports.jwks import fetcher
from transports.logins import make_authenticate

DOCUMENT = json.dumps(
    {"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "a", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}
).encode()


def answer(body: bytes, status: str = "200 OK", *fields: str) -> bytes:
    """A response of HTTP."""
    head = "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields))
    return f"{head}\r\n".encode() + body


async def serve(
    nursery: trio.Nursery, response: bytes, *, context: ssl.SSLContext | None = None, then: Any = None
) -> tuple[int, list[bytes]]:
    """A server that gives one answer to all, on its port, and the requests that it got."""
    requests: list[bytes] = []

    async def handle(stream: Any) -> None:
        if context:
            stream = trio.SSLStream(stream, context, server_side=True)
        try:
            requests.append(await stream.receive_some(65536))
            await stream.send_all(response)
            if then:
                await then(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            await trio.aclose_forcefully(stream)

    listeners = await nursery.start(partial(trio.serve_tcp, handle, 0, host="127.0.0.1"))
    return listeners[0].socket.getsockname()[1], requests


async def unavailable(fetch: Callable[[], Any]) -> str:
    """Why there is no document."""
    with pytest.raises(KeysUnavailable) as caught:
        await fetch()
    return str(caught.value)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    """Servers of tests are reached directly."""
    monkeypatch.setenv("NO_PROXY", "*")


async def test_document_is_fetched_as_it_is(nursery):
    """And asked for without compression."""
    port, requests = await serve(nursery, answer(DOCUMENT))
    assert await fetcher(f"http://127.0.0.1:{port}/keys")() == DOCUMENT
    assert requests[0].startswith(b"GET /keys HTTP/1.1\r\n")
    assert b"accept-encoding: identity\r\n" in requests[0].lower()


async def test_keys_are_fetched_over_tls_from_a_server_that_is_trusted(nursery, monkeypatch, tmp_path):
    """From another they are not."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    port, _ = await serve(nursery, answer(DOCUMENT), context=context)
    assert "not received" in await unavailable(fetcher(f"https://127.0.0.1:{port}/"))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    keys = RemoteKeys(fetcher(f"https://127.0.0.1:{port}/"))
    assert (await keys.find("a", "EdDSA")).kid == "a"


@pytest.mark.parametrize("status", ["500 Oops", "404 Not Found", "204 No Content", "304 Not Modified"])
async def test_other_status_is_no_document(status, nursery):
    """Whatever comes with it."""
    port, _ = await serve(nursery, answer(b"" if status[0] != "5" else DOCUMENT, status))
    assert status[:3] in await unavailable(fetcher(f"http://127.0.0.1:{port}/"))


async def test_redirect_is_not_followed(nursery):
    """It could lead inside."""
    inside, requests = await serve(nursery, answer(DOCUMENT))
    port, _ = await serve(nursery, answer(b"", "302 Found", f"Location: http://127.0.0.1:{inside}/"))
    assert "302" in await unavailable(fetcher(f"http://127.0.0.1:{port}/"))
    assert requests == []


async def drip(stream: trio.abc.SendStream) -> None:
    """A byte now and then: each comes in time, the whole never does."""
    while True:
        await trio.sleep(0.02)
        await stream.send_all(b" ")


@pytest.mark.parametrize(
    "start", [b"", b"HTTP/1.1 200 OK\r\nX-Pad: ", b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"]
)
async def test_slow_drip_ends_at_the_deadline(start, nursery):
    """In the head as in the body."""
    port, _ = await serve(nursery, start, then=drip)
    fetch = fetcher(f"http://127.0.0.1:{port}/", timeout_seconds=0.3)
    began = trio.current_time()
    assert "not received" in await unavailable(fetch)
    assert trio.current_time() - began < 2


async def test_server_that_says_nothing_ends_at_the_deadline(nursery):
    port, _ = await serve(nursery, b"", then=lambda _: trio.sleep(math.inf))
    assert "not received" in await unavailable(fetcher(f"http://127.0.0.1:{port}/", timeout_seconds=0.2))


@pytest.mark.parametrize("fields", ["Content-Length: 100000000", "Transfer-Encoding: chunked"])
async def test_huge_document_is_cut_off(fields, nursery):
    """As soon as it is too large."""
    sent = 0

    async def flood(stream: trio.abc.SendStream) -> None:
        nonlocal sent
        chunk = b"x" * 4096
        while sent < 50_000_000:
            await stream.send_all(b"1000\r\n" + chunk + b"\r\n" if "chunked" in fields else chunk)
            sent += len(chunk)

    port, _ = await serve(nursery, f"HTTP/1.1 200 OK\r\n{fields}\r\n\r\n".encode(), then=flood)
    assert "more than 262144 bytes" in await unavailable(fetcher(f"http://127.0.0.1:{port}/"))
    assert sent < 20_000_000


async def test_compressed_document_is_not_blown_up(nursery):
    """It was asked for as it is, and stays as it came."""
    bomb = gzip.compress(b" " * 10_000_000)
    port, _ = await serve(nursery, answer(bomb, "200 OK", "Content-Encoding: gzip"))
    assert await fetcher(f"http://127.0.0.1:{port}/")() == bomb


@pytest.mark.parametrize(
    "response", [b"", b"junk\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut", answer(b"<html>")]
)
async def test_answer_that_is_no_set_of_keys_leaves_the_verifier_without(response, nursery, log_entries):
    """It is told once, without what is secret in the address."""
    port, _ = await serve(nursery, response)
    keys = RemoteKeys(fetcher(f"http://127.0.0.1:{port}/?token=secret"))
    for _ in range(2):
        with pytest.raises(CommandError) as caught:
            await keys.find("a", "EdDSA")
        assert caught.value.code is ErrorCode.UNAVAILABLE
    assert [entry["event"] for entry in log_entries] == ["signing keys cannot be fetched"]
    assert "secret" not in str(log_entries)


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (answer(b"", "503 Later"), "they were answered with status 503"),
        (b"", "they were not received (RemoteProtocolError)"),
        (answer(b"<html>"), "it is not a JSON Web Key Set of 100 keys or fewer (DecodeError)"),
        (answer(b'{"keys":[]}'), "no key in it is of use for signatures"),
    ],
)
async def test_log_says_where_keys_were_not_to_be_had_and_why(response, reason, nursery, log_entries):
    """The operator need not try it by hand. Neither the token nor a password is in it."""
    port, _ = await serve(nursery, response)
    settings = Settings(
        jwt_algorithms=("RS256",),
        jwt_jwks_url=f"http://user:password@127.0.0.1:{port}/keys?token=secret#more",
        jwks_retry_seconds=20.0,
    )
    token = encode({"alg": "RS256", "kid": "a"}, {"sub": "7"}, jwk.RSAKey.generate_key(2048))
    with pytest.raises(CommandError) as caught:
        await make_authenticate(settings)(token)
    assert (caught.value.code, caught.value.retry_after) == (ErrorCode.UNAVAILABLE, pytest.approx(20, abs=5))
    assert log_entries == [
        {
            "event": "signing keys cannot be fetched",
            "url": f"http://127.0.0.1:{port}/keys",
            "reason": reason,
            "retry_in": 20.0,
            "log_level": "warning",
        }
    ]


async def test_refused_connection_is_no_document():
    """Nobody listens there."""
    with trio.socket.socket() as closed:
        await closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        assert "not received" in await unavailable(fetcher(f"http://127.0.0.1:{port}/"))


@pytest.mark.parametrize(
    "url",
    [
        *("", "keys", "/keys", "https://", "https:///keys", "ftp://id.example/", "file:///etc/passwd", "https://[::1"),
        *("http://id.example/", "http://10.0.0.1/", "http://localhost.evil.example/", "http://127.0.0.1@id.example/"),
    ],
)
def test_address_that_others_could_answer_for_is_refused(url):
    """When it is configured, not when it is needed."""
    with pytest.raises(
        ConfigurationError, match=r"jwt_jwks_url.*: must be https://, or http:// on this computer itself"
    ):
        fetcher(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://id.example/keys", " = 'http://id.example/keys'"),
        ("http://user:password@id.example:8080/keys?token=secret#more", " = 'http://id.example:8080/keys'"),
        ("http://127.0.0.1@id.example/", " = 'http://id.example/'"),
        ("password", ""),
        ("//user:password@", ""),
    ],
)
def test_refused_address_is_repeated_without_what_may_be_secret(url, shown):
    """Where nothing can be told apart in it, it is not repeated at all."""
    with pytest.raises(ConfigurationError) as caught:
        fetcher(url)
    assert str(caught.value) == f"jwt_jwks_url{shown}: must be https://, or http:// on this computer itself"


@pytest.mark.parametrize("url", ["https://id.example/", "http://localhost:8000/", "http://127.0.0.2/", "http://[::1]/"])
def test_address_over_tls_or_on_this_computer_is_accepted(url):
    assert callable(fetcher(url))
