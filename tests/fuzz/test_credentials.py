"""Whatever a request holds for credentials, its sender is who can prove it, nobody, or refused."""

from __future__ import annotations

import hashlib
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.api_keys import ApiKey, ApiKeys, new_key
from realtime.auth import ANONYMOUS, Carrier, Identity, Right
from realtime.config import Settings
from realtime.engine import Engine
from realtime.errors import CommandError, ConfigurationError, ErrorCode
from realtime.messages import encode
from realtime.tickets import Tickets
from tests.fuzz.test_parsers import corpus, mutated
from transports.cookies import cookie_value
from transports.credentials import check_right, identify
from transports.handshake import offered_subprotocols
from transports.head import BadHead, Request, parse_head
from transports.proxies import Peer

KEY, LINE = new_key("shop", [Right.PUBLISH, Right.READ])
PAGE = Peer("198.51.100.9", secure=True, host="a.example")

headers = st.sampled_from(
    [b"Authorization", b"Cookie", b"Origin", b"Sec-Fetch-Site", b"Sec-WebSocket-Protocol", b"X-API-Key", b"Cookie2"]
)
values = st.one_of(
    st.binary(max_size=20).map(lambda value: value.replace(b"\n", b"")),
    mutated(corpus("cookies")),
    mutated(corpus("tickets")),
    st.sampled_from([b"Bearer abc", b"bearer  tkt_a", b"Basic YTpi", b"Bearer", b"https://a.example", b"null"]),
    st.sampled_from([b"same-origin", b"realtime.v1, bearer.abc", b"bearer.", KEY.encode(), b"https://evil.example"]),
)
queries = st.one_of(
    mutated(corpus("queries")),
    st.lists(st.tuples(st.sampled_from(["ticket", "token", "topic"]), st.text(max_size=6)), max_size=3).map(
        lambda pairs: "&".join(f"{name}={quote(value, errors='replace')}" for name, value in pairs).encode()
    ),
)


def head_of(query: bytes, headers: list[tuple[bytes, bytes]]) -> tuple[Request, list[tuple[str, str]]] | None:
    """A request and what its query says; None where the front door refuses it."""
    lines = [b"GET /sse?" + query + b" HTTP/1.1", b"Host: a.example", *(b"%b: %b" % header for header in headers)]
    try:
        head = parse_head(b"\r\n".join([*lines, b"", b""]))
        return head, head.query()
    except BadHead as error:
        assert error.status in (400, 501)
        return None


async def check(query: bytes, headers: list[tuple[bytes, bytes]], *, anonymous: bool, query_tokens: bool) -> None:
    """Ask who sends this, with a function that takes every token."""
    parsed = head_of(query, headers)
    if parsed is None:
        return
    head, fields = parsed
    shown: list[tuple[str, Carrier]] = []

    def authenticate(token: str, carrier: Carrier) -> Identity:
        shown.append((token, carrier))
        return Identity("7")

    settings = Settings(allow_anonymous=anonymous, query_tokens=query_tokens, cookie_name="session", api_keys=(LINE,))
    engine = Engine(settings, authenticate=authenticate)
    try:
        identity = await identify(engine, head, PAGE, subprotocols=offered_subprotocols(head), query=fields)
    except CommandError as error:
        check_words(error, [value for _, value in fields])
        return
    if not shown:
        assert identity is (ANONYMOUS if anonymous else None)
        assert not {"ticket", "token"} & {name for name, _ in fields}
        return
    ((token, carrier),) = shown
    assert identity == Identity("7")
    if carrier is Carrier.QUERY:
        assert query_tokens
        assert ("token", token) in fields
    else:
        assert token in head.raw.decode("latin-1")
    # A page from elsewhere never logs in by its visitor's cookie.
    page = head.header(b"origin") or head.header(b"sec-fetch-site")
    assert carrier is not Carrier.COOKIE or page in ("https://a.example", "https://a.example:443", "same-origin")


def check_words(error: CommandError, secrets: list[str]) -> None:
    """That they can be sent, and repeat nothing."""
    assert error.code in (ErrorCode.AUTH_FAILED, ErrorCode.AUTH_REQUIRED, ErrorCode.PERMISSION_DENIED)
    encode({"message": error.message})
    assert not any(secret in error.message for secret in secrets if len(secret) > 8)


@pytest.mark.parametrize("query_tokens", [True, False])
@pytest.mark.parametrize("query", corpus("queries"))
async def test_query_of_the_corpus_logs_in_or_is_refused(query, query_tokens):
    """With tokens in the query switched on and off."""
    await check(query, [], anonymous=True, query_tokens=query_tokens)


@given(queries, st.lists(st.tuples(headers, values), max_size=4), st.booleans(), st.booleans())
async def test_any_request_logs_in_or_is_anonymous_or_refused(query, headers, anonymous, query_tokens):
    """Credentials that are no good are never taken for none."""
    await check(query, headers, anonymous=anonymous, query_tokens=query_tokens)


@given(st.lists(st.tuples(headers, values), max_size=4))
async def test_any_request_but_with_the_key_has_no_right(headers):
    """What a back end may is for who shows its key, or a token with that right."""
    parsed = head_of(b"", headers)
    if parsed is None:
        return
    engine = Engine(Settings(api_keys=(LINE,)), authenticate=lambda _: Identity("7"))
    try:
        caller = await check_right(engine, parsed[0], Right.PUBLISH)
    except CommandError as error:
        check_words(error, [value.decode("latin-1") for _, value in headers])
    else:
        assert caller == "key shop"
        assert KEY.encode() in parsed[0].raw


@pytest.mark.parametrize("text", corpus("cookies"))
def test_cookie_of_the_corpus_is_read_or_refused(text):
    """The same as below."""
    check_cookies([text.decode("latin-1")])


@given(st.lists(st.one_of(st.binary(max_size=40), mutated(corpus("cookies"))).map(lambda raw: raw.decode("latin-1"))))
def test_any_text_for_cookies_is_read_or_refused(texts):
    """In one header or in several."""
    check_cookies(texts)


def check_cookies(texts: list[str]) -> None:
    """Read them in any order, and together with a good one."""
    try:
        value = cookie_value(texts, "session")
    except CommandError as error:
        check_words(error, texts)
        return
    assert cookie_value(texts[::-1], "session") == value
    if value is None:
        return
    assert value
    assert ";" not in value
    assert any(value in text for text in texts)
    with pytest.raises(CommandError):
        cookie_value([*texts, f"session={value}x"], "session")


shown_texts = st.one_of(st.text(max_size=80), mutated(corpus("tickets")).map(lambda raw: raw.decode("latin-1")))


@given(st.data())
def test_any_text_but_the_ticket_opens_nothing(data):
    """Nor does the ticket a second time."""
    tickets = Tickets(now=lambda: 0.0)
    ticket = tickets.issue(Identity("7"), seconds=30)
    texts = data.draw(
        st.lists(
            st.one_of(st.just(ticket), mutated([ticket.encode()]).map(lambda raw: raw.decode("latin-1")), shown_texts)
        )
    )
    redeemed = []
    for text in texts:
        try:
            redeemed.append(tickets.redeem(text))
        except CommandError as error:
            check_words(error, texts)
    assert redeemed == [Identity("7")] * (ticket in texts)
    assert len(tickets) == 1 - len(redeemed)


@given(st.one_of(shown_texts, mutated([LINE.encode()]).map(lambda raw: raw.decode("latin-1"))))
def test_any_text_for_an_api_key_is_read_or_refused(text):
    """What stands in a configuration is a secret also where it is misspelt; what is read opens no more than it says."""
    try:
        key = ApiKey.parse(text)
    except ConfigurationError as error:
        assert len(text) < 9 or text not in str(error)
        return
    assert key.rights
    assert len(key.digest) == hashlib.sha256().digest_size
    assert (ApiKeys([text]).find(text) is not None) is key.plain
    assert not (key.plain and "sha256" in text.lower())


@given(st.one_of(shown_texts, mutated([KEY.encode(), LINE.encode()]).map(lambda raw: raw.decode("latin-1"))))
def test_any_text_but_the_key_finds_no_key(text):
    """Above all the line of the configuration, which a thief may have."""
    assert (ApiKeys([LINE]).find(text) is not None) is (text == KEY)
