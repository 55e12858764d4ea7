"""Who calls: the client's address, and whether it came over TLS, behind a proxy that is trusted, too.

A proxy says for whom it asks in X-Forwarded-For and X-Forwarded-Proto. Anybody can send these headers, so they count
where the connection itself comes from one of `[web] trusted_proxies`, and nowhere else.
"""

import ipaddress
from collections.abc import Iterator, Sequence

from starlette.datastructures import Headers
from starlette.types import Scope

_Ip = ipaddress.IPv4Address | ipaddress.IPv6Address
# What one customer of a provider has at least; in it he may take a new address for each connection (RFC 6177).
_IPV6_HOST_BITS = 64
# More than any chain of proxies is long.
_MAX_HOPS = 20


class Proxies:
    """The proxies whose word counts, by address or network ("10.0.0.1", "fd00::/8")."""

    def __init__(self, trusted: Sequence[str] = ()) -> None:
        self._networks = tuple(ipaddress.ip_network(one) for one in trusted)

    def trusts(self, address: str) -> bool:
        """Return whether an address is one of a trusted proxy."""
        ip = _parsed(address)
        return ip is not None and any(ip in network for network in self._networks)

    def client(self, scope: Scope) -> str:
        """Return the client's address, "" where it is unknown.

        Each proxy appends whom it was called by: read from the end, the first that is no proxy of ours is the client.
        What stands before it, the client may have made up.
        """
        address = plain_address((scope.get("client") or ("",))[0])
        for named in _forwarded_for(scope):
            if not self.trusts(address):
                break
            if _parsed(named) is None:  # "unknown", or a name that hides it (RFC 7239, 6.3): the proxy has to do
                break
            address = plain_address(named)
        return address

    def is_tls(self, scope: Scope) -> bool:
        """Return whether the client came over TLS, to this server or to a trusted proxy before it."""
        if scope.get("scheme") == "https":
            return True
        if not self.trusts((scope.get("client") or ("",))[0]):
            return False
        # Where several stand there, the last is from the proxy that called.
        said = ",".join(Headers(scope=scope).getlist("x-forwarded-proto"))
        return said.rpartition(",")[2].strip().lower() == "https"


def plain_address(text: str) -> str:
    """Return an address as it is mostly written: an IPv4 caller of an IPv6 socket ("::ffff:10.0.0.1") is 10.0.0.1.

    What is no address comes back as it is.
    """
    ip = _parsed(text)
    return text if ip is None else str(ip)


def is_loopback(address: str) -> bool:
    """Return whether an address is this machine's own."""
    ip = _parsed(address)
    return ip is not None and ip.is_loopback


def neighbourhood(address: str) -> str:
    """Return what of an address stays the same: for IPv6 its /64, in which the rest may change with each connection.

    An IPv4 address is its own, and so is a link-local one, whose /64 is that of everybody on the wire. All of this
    machine's own addresses are one.
    """
    ip = _parsed(address)
    if ip is None:
        return address
    if ip.is_loopback:
        return "loopback"
    if ip.version == 4 or ip.is_link_local:
        return str(ip)
    return str(ipaddress.ip_network((int(ip), 128 - _IPV6_HOST_BITS), strict=False))


def _forwarded_for(scope: Scope) -> Iterator[str]:
    """Yield the addresses that proxies have named, the last one first, without their ports."""
    said = ",".join(Headers(scope=scope).getlist("x-forwarded-for"))
    for hop in said.split(",")[: -_MAX_HOPS - 1 : -1]:
        yield _without_port(hop.strip())


def _without_port(hop: str) -> str:
    """Return an address out of "10.0.0.1:4711" and "[fd00::1]:4711", as some proxies write it."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop


def _parsed(text: str) -> _Ip | None:
    """Return an address; the IPv4 one inside a mapped IPv6 address, None for what is none."""
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return None
    return (ip.ipv4_mapped or ip) if isinstance(ip, ipaddress.IPv6Address) else ip
