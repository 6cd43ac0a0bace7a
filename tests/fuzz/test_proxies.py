"""Whatever stands in the headers of proxies, a server sees a peer, and a client cannot choose which."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.test_parsers import corpus, mutated
from transports.head import BadHead, Request, parse_head
from transports.proxies import Peer, TrustedProxies

PROXY = "10.0.0.1"
CLIENT = "198.51.100.9"
#: By family: the header, and what the proxy adds to it.
FAMILIES = {
    "forwarded": (b"Forwarded", b"for=198.51.100.9;proto=https;host=shop.example"),
    "x-forwarded": (b"X-Forwarded-For", b"198.51.100.9"),
}
#: A line feed would end the header, and a blank line the head.
forged = st.one_of(st.binary(max_size=80), mutated(corpus("forwarded"))).map(lambda text: text.replace(b"\n", b""))


def head_of(*headers: tuple[bytes, bytes]) -> Request | None:
    """A request with these headers; None where the front door refuses it."""
    lines = [b"GET / HTTP/1.1", b"Host: a.example", *(name + b": " + value for name, value in headers)]
    try:
        return parse_head(b"\r\n".join([*lines, b"", b""]))
    except BadHead:
        return None


def check(text: bytes, family: str) -> None:
    """The text as all that the proxy passes on, then to the left of what it adds itself."""
    name, added = FAMILIES[family]
    proxies = TrustedProxies([PROXY, "10.0.0.2"], header=family)
    head = head_of((name, text), (b"X-Forwarded-Host", text), (b"X-Forwarded-Proto", text))
    if head is not None:
        peer = proxies.see(PROXY, head, secure=False)
        assert str(ip_address(peer.address)) == peer.address
        assert not set(peer.host) & set(' \t\0/@,;"\\')
        assert proxies.see("192.0.2.1", head, secure=False) == Peer("192.0.2.1", secure=False, host="a.example")
    for headers in ([(name, text), (name, added)], [(name, text + b", " + added)]):
        head = head_of(*headers)
        if head is not None:
            peer = proxies.see(PROXY, head, secure=False)
            assert peer == (
                Peer(CLIENT, secure=True, host="shop.example")
                if family == "forwarded"
                else Peer(CLIENT, secure=False, host="a.example")
            )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("text", corpus("forwarded"))
def test_forwarding_header_of_the_corpus_gives_a_peer(text, family):
    """Those of both families, each also in the place of the other."""
    check(text, family)


@given(forged, st.sampled_from(sorted(FAMILIES)))
def test_any_bytes_for_a_forwarding_header_give_a_peer(text, family):
    """As they pass the parser of heads; what a client forged never changes what its proxy says."""
    check(text, family)
