"""Trusted proxies: whom they name is believed, and nobody else is, whatever the headers hold."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from attrs import field, frozen
from hypothesis import assume, example, given
from hypothesis import strategies as st

from realtime.errors import ConfigurationError
from transports.proxies import Peer, TrustedProxies

NETWORKS = ["10.0.0.0/8", "192.0.2.7", "2001:db8:aa::/48"]
PROXY = "10.0.0.1"
CLIENT = "198.51.100.9"


@frozen
class FakeHead:
    headers: dict[bytes, list[str]] = field(factory=dict)

    def values(self, name: bytes) -> list[str]:
        return self.headers.get(name, [])


def seen(address=PROXY, secure=False, *, family="x-forwarded", networks=NETWORKS, **headers):
    """Who is at the other end; headers by their names with underscores, one value or several."""
    lists = {
        name.replace("_", "-").encode(): [value] if isinstance(value, str) else value for name, value in headers.items()
    }
    return TrustedProxies(networks, header=family).see(address, FakeHead(lists), secure=secure)


def behind(*hops: str, family="x-forwarded"):
    """The address of the peer where the headers name these hops, each in a header of its own."""
    if family == "forwarded":
        return seen(family=family, forwarded=list(hops)).address
    return seen(x_forwarded_for=list(hops)).address


# -- who is trusted -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "trusted"),
    [
        ("10.0.0.1", True),
        ("10.255.255.255", True),
        ("11.0.0.1", False),
        ("192.0.2.7", True),
        ("192.0.2.8", False),
        ("::ffff:10.0.0.1", True),
        ("::FFFF:0a00:0001", True),
        ("::ffff:11.0.0.1", False),
        ("::10.0.0.1", False),
        ("2001:db8:aa::5", True),
        ("2001:0DB8:00AA:0:0:0:0:5%eth0", True),
        ("2001:db8:ab::5", False),
        ("", False),
        ("localhost", False),
        ("10.0.0.01", False),
        ("10.0.0.1 ", False),
        ("10.0.0.1:80", False),
        ("\u0661\u0660.0.0.1", False),
    ],
)
def test_address_is_trusted_if_a_network_holds_it(address, trusted):
    """However it is written, and again when it was asked for before."""
    proxies = TrustedProxies(NETWORKS)
    assert proxies.trusts(address) is trusted
    assert proxies.trusts(address) is trusted


def test_networks_of_wrapped_addresses_hold_the_plain_ones():
    """An address is always looked up as the IPv4 that it wraps."""
    proxies = TrustedProxies(["::ffff:10.0.0.0/104"])
    assert proxies.trusts("10.9.9.9")
    assert proxies.trusts("::ffff:10.9.9.9")
    assert not proxies.trusts("11.0.0.1")
    everyone = TrustedProxies(["::ffff:0:0/96"])
    assert everyone.trusts("11.0.0.1")
    assert not everyone.trusts("::1")


@pytest.mark.parametrize(
    "network", ["", "*", "proxy.example", "10.0.0.0/33", "10.0.0", "::g", "::1/129", "10.0.0.1/", "/8", "10.0.0.1/8/8"]
)
def test_network_that_is_none_is_a_configuration_error(network):
    """Which names the setting and the text, and what goes there."""
    with pytest.raises(ConfigurationError) as caught:
        TrustedProxies(["10.0.0.0/8", network])
    assert str(caught.value) == f"trusted_proxies: {network!r}: must be an address or a network"


@pytest.mark.parametrize(
    ("network", "meant"),
    [
        ("10.0.0.1/8", "10.0.0.0/8"),
        ("10.0.0.1/255.0.0.0", "10.0.0.0/8"),
        ("2001:db8::1/32", "2001:db8::/32"),
        ("::ffff:0:0/95", "::fffe:0:0/95"),
    ],
)
def test_network_with_host_bits_is_a_configuration_error_that_has_the_network(network, meant):
    """What is meant is not guessed: an address and a network are each likely."""
    with pytest.raises(ConfigurationError) as caught:
        TrustedProxies(["10.0.0.0/8", network])
    assert str(caught.value) == f"trusted_proxies: {network!r}: has host bits set; write {meant}"
    assert TrustedProxies([meant]).trusts(meant.partition("/")[0])


def test_unknown_family_of_headers_is_a_configuration_error():
    with pytest.raises(ConfigurationError, match="trusted_proxies: header = 'x-real-ip': must be one of forwarded"):
        TrustedProxies(header="x-real-ip")


# -- who is not believed ------------------------------------------------------------------------------------------

FORGED = {
    "forwarded": "for=1.1.1.1;proto=https;host=evil.example",
    "x_forwarded_for": "1.1.1.1",
    "x_forwarded_proto": "https",
    "x_forwarded_host": "evil.example",
}


@pytest.mark.parametrize("networks", [[], NETWORKS])
@pytest.mark.parametrize("family", ["forwarded", "x-forwarded"])
def test_headers_of_anyone_else_are_ignored(family, networks):
    peer = seen(CLIENT, family=family, networks=networks, host="shop.example:8443", **FORGED)
    assert peer == Peer(CLIENT, secure=False, host="shop.example:8443")


def test_without_proxies_only_the_host_is_looked_at():
    asked = []

    class Head:
        def values(self, name: bytes) -> list[str]:
            asked.append(name)
            return []

    assert TrustedProxies([]).see(PROXY, Head(), secure=True) == Peer(PROXY, secure=True, host="")
    assert asked == [b"host"]


def test_only_the_chosen_family_is_read():
    """The other is what the client sent: its proxy knows nothing of it."""
    headers = FORGED | {"host": "inner"}
    del headers["forwarded"]
    assert seen(family="forwarded", **headers) == Peer(PROXY, secure=False, host="inner")
    assert seen(forwarded=FORGED["forwarded"], host="inner") == Peer(PROXY, secure=False, host="inner")


def test_address_of_the_connection_is_given_in_one_form():
    """Limits and logs meet each peer under one name; what is no address is not known."""
    for address, text in [
        ("::ffff:198.51.100.9", "198.51.100.9"),
        ("FE80::1%eth0", "fe80::1"),
        ("2001:0db8:0:0::1", "2001:db8::1"),
        ("", ""),
        ("/run/server.sock", ""),
    ]:
        assert seen(address).address == text


def test_doubled_host_names_no_host():
    assert seen(CLIENT, host=["a.example", "b.example"]).host == ""


# -- the address --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("proxy", [PROXY, "::ffff:10.0.0.1", "192.0.2.7", "2001:db8:aa::5%eth0"])
def test_every_trusted_proxy_is_believed(proxy):
    assert seen(proxy, x_forwarded_for=CLIENT).address == CLIENT


@pytest.mark.parametrize(
    ("node", "address"),
    [
        ("198.51.100.9", "198.51.100.9"),
        ("198.51.100.9:4711", "198.51.100.9"),
        ("198.51.100.9:_hidden", "198.51.100.9"),
        ("2001:db8::1", "2001:db8::1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("2001:db8::1:80", "2001:db8::1:80"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("[fe80::1%eth0]:4711", "fe80::1"),
        ("::ffff:198.51.100.9", "198.51.100.9"),
        ("[::ffff:198.51.100.9]:4711", "198.51.100.9"),
        ("", PROXY),
        ("unknown", PROXY),
        ("_hidden", PROXY),
        ("unix:", PROXY),
        ("198.51.100.9:", PROXY),
        ("198.51.100.9:port", PROXY),
        ("198.51.100.9:123456", PROXY),
        ("198.51.100.09", PROXY),
        ("198.51.100", PROXY),
        ("198.51.100.999", PROXY),
        ("198.51.100.9/32", PROXY),
        ("198.51.100.9 x", PROXY),
        ("\x0b198.51.100.9", PROXY),
        ("\xa0198.51.100.9", PROXY),
        ("3325256713", PROXY),
        ("[2001:db8::1", PROXY),
        ("2001:db8::1]", PROXY),
        ("[[2001:db8::1]]", PROXY),
        ("[2001:db8::1]4711", PROXY),
        ("2001:db8::g", PROXY),
        ("2001:db8::1" + "0" * 100, PROXY),
        ("localhost", PROXY),
    ],
)
@pytest.mark.parametrize("family", ["forwarded", "x-forwarded"])
def test_node_gives_its_address_or_ends_the_walk(family, node, address):
    """Without port, brackets and zone; behind what is no address nothing is believed."""
    written = f'for="{node}"' if family == "forwarded" else f" {node}\t"
    assert behind(written, family=family) == address
    forged = "for=1.1.1.1" if family == "forwarded" else "1.1.1.1"
    assert behind(forged, written, family=family) == address


@pytest.mark.parametrize(
    ("hops", "address"),
    [
        ([], PROXY),
        (["198.51.100.9, 10.0.0.3, 10.0.0.2"], CLIENT),
        (["198.51.100.9", "10.0.0.3", "10.0.0.2"], CLIENT),
        (["198.51.100.9,10.0.0.3", "2001:db8:aa::2"], CLIENT),
        (["1.1.1.1, 198.51.100.9, 10.0.0.2"], CLIENT),
        (["10.0.0.9, 198.51.100.9, 10.0.0.2"], CLIENT),
        (["junk, 198.51.100.9"], CLIENT),
        (["1.1.1.1, junk, 10.0.0.2"], "10.0.0.2"),
        (["1.1.1.1, , 10.0.0.2"], "10.0.0.2"),
        (["1.1.1.1, 10.0.0.2,"], PROXY),
        (["10.0.0.4, 10.0.0.3"], "10.0.0.4"),
        ([", 198.51.100.9"], CLIENT),
        (['", 198.51.100.9'], CLIENT),
    ],
)
def test_walk_from_the_right_ends_at_the_first_who_is_not_trusted(hops, address):
    """All headers are one list; the proxies on the way are skipped."""
    assert behind(*hops) == address


# -- limits -------------------------------------------------------------------------------------------------------


def test_proxies_beyond_the_fiftieth_are_not_asked():
    hops = [f"10.0.1.{number}" for number in range(60)]
    assert behind("1.1.1.1", *hops) == "10.0.1.10"


@pytest.mark.parametrize("family", ["forwarded", "x-forwarded"])
def test_client_cannot_hide_behind_headers_of_any_length(family):
    """What it sent is out of reach, and the rest is read as ever."""
    genuine = "for=198.51.100.9" if family == "forwarded" else CLIENT
    for forged in (["1.1.1.1"] * 5000, ["x" * 100_000], ['for="' + "," * 100_000], [","] * 100):
        assert behind(*forged, genuine, family=family) == CLIENT


def test_element_that_was_cut_is_not_believed():
    """Of 110.0.0.2 and what fills 4 KiB, 10.0.0.2 would be left."""
    rest = "," + "10.0.0.3".ljust(4096 - len("10.0.0.2,"))
    assert behind("1.1.1.1,110.0.0.2" + rest) == "10.0.0.3"
    assert behind("1.1.1.1, 10.0.0.2" + rest) == "10.0.0.3"
    assert behind("x" * 5000) == PROXY


# -- scheme and host ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("proto", "secure"),
    [
        ("http", False),
        ("https", True),
        ("ws", False),
        ("wss", True),
        ("HTTPS", True),
        (" https\t", True),
        ("http, https", True),
        (["https", "http"], False),
        ("https,", None),
        ("", None),
        ("ftp", None),
        ("https;", None),
        ([], None),
    ],
)
def test_scheme_is_what_the_nearest_proxy_says(proto, secure):
    """What is no scheme of ours leaves that of the connection."""
    for own in (False, True):
        expected = own if secure is None else secure
        assert seen(PROXY, own, x_forwarded_for=CLIENT, x_forwarded_proto=proto).secure is expected


@pytest.mark.parametrize(
    ("told", "host"),
    [
        ("shop.example", "shop.example"),
        ("shop.example:8443", "shop.example:8443"),
        ("Under_score.example.", "Under_score.example."),
        ("[2001:db8::1]:80", "[2001:db8::1]:80"),
        (" shop.example ", "shop.example"),
        ("evil.example, shop.example", "shop.example"),
        (["evil.example", "shop.example"], "shop.example"),
        ("evil.example,", "inner"),
        ([], "inner"),
        ("", "inner"),
        ("user@shop.example", "inner"),
        ("shop.example/path", "inner"),
        ("shop .example", "inner"),
        ("shop\x00.example", "inner"),
        ("shop.example\n", "inner"),
        ("shop.example:", "inner"),
        ("shop.example:port", "inner"),
        ("shop.example:1:2", "inner"),
        ("sh\xf6p.example", "inner"),
        ("a" * 254, "inner"),
        ("2001:db8::1", "inner"),
        ("[2001:db8::1", "inner"),
    ],
)
def test_host_is_what_the_nearest_proxy_says(told, host):
    """What does not look like one leaves that of the request."""
    assert seen(x_forwarded_host=told, host="inner").host == host


# -- Forwarded ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("element", "address", "secure", "host"),
    [
        ("for=198.51.100.9", CLIENT, None, "inner"),
        ("For=198.51.100.9;PROTO=https;Host=shop.example", CLIENT, True, "shop.example"),
        ('for="198.51.100.9:4711";proto="http";host="shop.example:80"', CLIENT, False, "shop.example:80"),
        ("for=198.51.100.9:4711;host=shop.example:80", CLIENT, None, "shop.example:80"),
        ('for="[2001:db8::1]:4711"', "2001:db8::1", None, "inner"),
        ("for=[2001:db8::1]:4711", "2001:db8::1", None, "inner"),
        (" for=198.51.100.9 ; proto=https ;", CLIENT, True, "inner"),
        (";;for=198.51.100.9", CLIENT, None, "inner"),
        ('for=198.51.100.9;by="_a,b;c=d";proto=https', CLIENT, True, "inner"),
        ("proto=https;host=shop.example", PROXY, True, "shop.example"),
        ("for=unknown;proto=https", PROXY, True, "inner"),
        ("for=_hidden;proto=https", PROXY, True, "inner"),
        ('for="";proto=https', PROXY, True, "inner"),
        ("for=198.51.100.9;host=user@shop.example", CLIENT, None, "inner"),
        ("", PROXY, None, "inner"),
        ("for", PROXY, None, "inner"),
        ("for=;proto=https", PROXY, None, "inner"),
        ("198.51.100.9", PROXY, None, "inner"),
        ("for = 198.51.100.9", PROXY, None, "inner"),
        ('for="198.51.100.9', PROXY, None, "inner"),
        ('for=198.51.100.9"', PROXY, None, "inner"),
        ('for="198.51.100.9"x', PROXY, None, "inner"),
        ('for=198.51.100.9;by="a\\"b"', PROXY, None, "inner"),
        ("for=198.51.100.9;for=1.1.1.1", PROXY, None, "inner"),
        ("for=198.51.100.9;FOR=198.51.100.9", PROXY, None, "inner"),
        ("for=198.51.100.9 proto=https", PROXY, None, "inner"),
    ],
)
def test_forwarded_element_gives_all_or_nothing(element, address, secure, host):
    """A malformed one tells nothing, and nothing on its left is believed."""
    for forwarded in (element, ["for=1.1.1.1;proto=wss;host=evil.example", element]):
        for own in (False, True):
            peer = seen(PROXY, own, family="forwarded", forwarded=forwarded, host="inner")
            assert peer == Peer(address, own if secure is None else secure, host)


def test_scheme_and_host_are_of_the_last_forwarded_element():
    """As with the other family, also where its `for` tells nothing."""
    forwarded = ["for=198.51.100.9;proto=http;host=evil.example", "for=10.0.0.2;proto=https;host=shop.example"]
    assert seen(family="forwarded", forwarded=forwarded) == Peer(CLIENT, secure=True, host="shop.example")


@pytest.mark.parametrize("forged", ['for="', 'for="x', '"', "\\", 'for="\\', 'x="a",b="', ";", ","])
def test_forged_quotes_do_not_swallow_what_the_proxy_wrote(forged):
    """Read from the left, the quoted text would hold all the rest."""
    for forwarded in ([forged, "for=198.51.100.9"], [forged + ', for="198.51.100.9";by="a,b"']):
        assert behind(*forwarded, family="forwarded") == CLIENT


# -- whatever is sent ---------------------------------------------------------------------------------------------

NAMES = [b"host", b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"]
anything = st.one_of(
    st.binary(max_size=200).map(lambda data: data.decode("latin-1")),
    st.text('for=proto;hst[]:,." \t\\10x%/@', max_size=80),
    st.lists(
        st.sampled_from(["10.0.0.2", "1.1.1.1", "::1", "junk", "", 'for="[::1]:1"', "for=10.0.0.2;proto=https", '"'])
    ).map(",".join),
)
heads = st.dictionaries(st.sampled_from(NAMES), st.lists(anything, max_size=3)).map(FakeHead)
families = st.sampled_from(["forwarded", "x-forwarded"])
addresses = st.one_of(st.ip_addresses().map(str), st.sampled_from(["::ffff:1.2.3.4", "fe80::1%a", "", "x"]), anything)


@given(heads, families, addresses, st.booleans())
def test_nobody_untrusted_is_believed(head, family, address, secure):
    """Any headers from anyone but a proxy are as good as none."""
    proxies = TrustedProxies(NETWORKS, header=family)
    assume(not proxies.trusts(address))
    bare = FakeHead({b"host": head.values(b"host")})
    assert proxies.see(address, head, secure=secure) == proxies.see(address, bare, secure=secure)


@given(heads, families, st.booleans())
def test_any_headers_from_a_proxy_give_a_peer(head, family, secure):
    """Never an exception, and always an address in its canonical form."""
    peer = TrustedProxies(NETWORKS, header=family).see(PROXY, head, secure=secure)
    assert str(ip_address(peer.address)) == peer.address
    assert peer.host in head.values(b"host") or not set(peer.host) & set(' \t\r\n\0/@,;"\\')


@given(
    st.lists(anything, min_size=1, max_size=4),
    st.booleans(),
    families,
    st.ip_addresses().map(str),
    st.lists(st.sampled_from(["10.0.0.2", "10.1.2.3", "2001:db8:aa::1"]), max_size=3),
)
@example(["10.0.0.2"] * 60, True, "x-forwarded", CLIENT, [])
@example(['for="'], True, "forwarded", CLIENT, ["10.0.0.2"])
def test_what_the_client_forged_never_changes_the_answer(forged, one_line, family, client, way):
    """It stands on the left of what the proxies wrote, in a header of its own or in the same."""
    proxies = TrustedProxies(NETWORKS, header=family)
    assume(not proxies.trusts(client))
    hops = [client, *way]
    if family == "forwarded":
        told = {b"forwarded": [f'for="[{hop}]:1";by="_p,q";proto=https;host="shop.example"' for hop in hops]}
    else:
        told = {b"x-forwarded-for": hops, b"x-forwarded-proto": ["https"], b"x-forwarded-host": ["shop.example"]}
    peer = proxies.see(PROXY, FakeHead(told), secure=False)
    assert peer.secure
    assert peer.host == "shop.example"
    assert proxies.trusts(peer.address) is False
    longer = {name: [*forged, *values] for name, values in told.items()}
    if one_line:
        longer = {name: [", ".join(values)] for name, values in longer.items()}
    assert proxies.see(PROXY, FakeHead(longer), secure=False) == peer
