"""Who is really at the other end: what trusted proxies say of it, and nobody else.

A proxy adds what it saw on the right of a list; whatever stands on the left of that came with the request, and may be
forged. So lists are read from the right, as long as the one who wrote the last word is trusted, and no farther: text
that was not written by a trusted proxy cannot even make the rest unreadable.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import chain, islice
from typing import Literal, Protocol

from attrs import frozen

from realtime.errors import ConfigurationError

__all__ = ["ManyHeaders", "Peer", "TrustedProxies"]

_MAX_ELEMENTS = 50
_MAX_CHARACTERS = 4096
_MAX_CACHED = 4096
_BLANKS = " \t"
_SCHEMES = {"http": False, "https": True, "ws": False, "wss": True}
_MAPPED_BITS = 96

_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::[0-9]{1,5})?")
# RFC 7239, section 6: a port may be hidden behind a name of the proxy's. A bare IPv6 address has none.
_PORT = r"(?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]{1,64}))?"
_NODE = re.compile(rf"(?:\[([^\[\]]{{2,64}})\]|([0-9.]{{7,15}})){_PORT}|([^\[\]]{{2,64}})")
# RFC 7239, section 4, but for two things: values that need quotes are taken without them, as some proxies write them,
# and no backslash is, without which quotes read from the right as they do from the left.
_PAIR = r"""[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)=(?:"([^"\\]*)"|([^\s",;\\]+))[ \t]*"""
_PAIRS = re.compile(_PAIR)
_ELEMENT = re.compile(f"(?:{_PAIR})?(?:;(?:{_PAIR})?)*")


class ManyHeaders(Protocol):
    """A request's head, in which a header may stand more than once."""

    def values(self, name: bytes) -> list[str]:
        """All values of a header by its name in lower case, in their order."""
        ...


@frozen
class Peer:
    """Who sends a request, and what it called this server."""

    #: An IP address in its one canonical form, IPv4 where IPv6 only wraps it; empty: not known.
    address: str
    #: Whether its connection is encrypted: at the outermost proxy, where there are some.
    secure: bool
    #: With the port, if one was named; empty: none was.
    host: str


@frozen
class _Told:
    #: Who spoke to whom, the last one first.
    hops: Iterator[str]
    proto: str
    host: str


class TrustedProxies:
    """The proxies whose word is taken, as addresses and networks, and the headers in which they give it.

    Only one family of headers is ever read: a proxy that writes one passes the other on as the client sent it. The
    proxies must set or remove every header of that family, also scheme and host.
    A client inside the networks counts as a proxy and may call itself what it likes.
    """

    def __init__(
        self, networks: Iterable[str] = (), *, header: Literal["forwarded", "x-forwarded"] = "x-forwarded"
    ) -> None:
        if header not in _FAMILIES:
            raise ConfigurationError(f"trusted_proxies: header = {header!r}: must be one of {', '.join(_FAMILIES)}")
        self._networks = tuple(_network(text) for text in networks)
        self._read = _FAMILIES[header]
        self._known = lru_cache(maxsize=_MAX_CACHED)(self._judge)

    def trusts(self, address: str) -> bool:
        """Whether an address is one of theirs."""
        return self._known(address)[1]

    def see(self, address: str, head: ManyHeaders, *, secure: bool) -> Peer:
        """Who sends the request ``head`` over a connection from ``address``, which is ``secure`` if it has TLS.

        Never raises, whatever the headers hold.
        """
        address, trusted = self._known(address)
        hosts = head.values(b"host")
        host = hosts[0] if len(hosts) == 1 else ""
        if not trusted:
            return Peer(address, secure, host)
        told = self._read(head)
        for hop in islice(told.hops, _MAX_ELEMENTS):
            farther, trusted = self._known(_bare(hop))
            if not farther:
                break
            address = farther
            if not trusted:
                break
        return Peer(
            address,
            _SCHEMES.get(told.proto.strip(_BLANKS).lower(), secure),
            told.host if _HOST.fullmatch(told.host) else host,
        )

    def _judge(self, text: str) -> tuple[str, bool]:
        """The canonical form of an address, empty where it is none, and whether it is trusted."""
        try:
            address = ip_address(text.partition("%")[0])
        except ValueError:
            return "", False
        if isinstance(address, IPv6Address):
            address = address.ipv4_mapped or address
        return str(address), any(address in network for network in self._networks)


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(text, strict=False)
        spare = ip_address(text.partition("/")[0]) != network.network_address
    except ValueError:
        raise ConfigurationError(f"trusted_proxies: {text!r}: must be an address or a network") from None
    if spare:
        raise ConfigurationError(f"trusted_proxies: {text!r}: has host bits set; write {network}")
    wrapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    return network if wrapped is None else IPv4Network((wrapped, network.prefixlen - _MAPPED_BITS))


def _x_forwarded(head: ManyHeaders) -> _Told:
    return _Told(
        _from_right(head.values(b"x-forwarded-for")),
        next(_from_right(head.values(b"x-forwarded-proto"))),
        next(_from_right(head.values(b"x-forwarded-host"))).strip(_BLANKS),
    )


def _forwarded(head: ManyHeaders) -> _Told:
    elements = map(_parameters, _from_right(head.values(b"forwarded")))
    nearest = next(elements)
    hops = (element.get("for", "") for element in chain((nearest,), elements))
    return _Told(hops, nearest.get("proto", ""), nearest.get("host", ""))


_FAMILIES = {"forwarded": _forwarded, "x-forwarded": _x_forwarded}


def _from_right(values: list[str]) -> Iterator[str]:
    """The elements of a list, the last one first, and an empty one if there are none; a comma in quotes parts nothing.

    What is too far on the left is not read: a limit that refused the whole list would let a client hide behind it.
    """
    text = ",".join(values)
    if len(text) > _MAX_CHARACTERS:
        # The first of the rest may have been cut: 1.2.3.4 out of 11.2.3.4.
        text = text[-_MAX_CHARACTERS:].partition(",")[2]
    end = len(text)
    quoted = False
    for index in range(end - 1, -1, -1):
        if text[index] == '"':
            quoted = not quoted
        elif text[index] == "," and not quoted:
            yield text[index + 1 : end]
            end = index
    yield text[:end]


def _parameters(element: str) -> dict[str, str]:
    """The parameters of an element of ``Forwarded``, none if it is malformed."""
    if not _ELEMENT.fullmatch(element):
        return {}
    pairs = _PAIRS.findall(element)
    found = {name.lower(): quoted or plain for name, quoted, plain in pairs}
    return found if len(found) == len(pairs) else {}


def _bare(node: str) -> str:
    """The address of a node without port and brackets; empty for what cannot be one."""
    match = _NODE.fullmatch(node.strip(_BLANKS))
    return "" if match is None else match[1] or match[2] or match[3]
