"""Where the hub may connect to when others say where: the guard against server-side request
forgery (CWE-918; OWASP API7:2023).

A manifest or a FHIR resource names a URL, and its host may be this host, its neighbours or the
metadata service of a cloud. So addresses are looked at, not names: after the name was resolved,
and the connection goes to the very address that was looked at (a name that resolves otherwise the
second time gains nothing). Each redirect is a connection of its own, and passes the same guard.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from urllib.parse import urlsplit

from hub.errors import ConfigError, ConfigProblem, RejectedError, TransientError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolve = Callable[[str, int], Sequence[str]]

_NAT64 = ip_network("64:ff9b::/96")
"""RFC 6052: an IPv4 address in its last 32 bits."""
_IPV4_COMPATIBLE = ip_network("::/96")
_ISATAP = (0x00005EFE, 0x02005EFE)
"""RFC 5214: what stands before an IPv4 address in the second half of an IPv6 address."""
_GLOBAL_UNICAST = ip_network("2000::/3")
"""RFC 4291, IANA: all else is of a site (fec0::/10, 64:ff9b:1::/48), a translator, or nobody's."""
_NOT_FOR_US = tuple(
    ip_network(text)
    for text in (
        "3fff::/20",  # RFC 9637: documentation
        "192.0.0.0/24",  # RFC 6890: protocol assignments
        "192.88.99.0/24",  # RFC 7526: relays of 6to4, withdrawn
        "168.63.129.16/32",  # the host beneath a virtual machine, where a cloud has one
    )
)
"""What Python takes for public, and is not."""
_MOST_PORTS = 65535
_SCHEMES = ("http", "https")


def resolve(host: str, port: int) -> Sequence[str]:
    """Every address of a host, as the system says.

    Raises:
        TransientError: it has none now.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise TransientError("the host's name cannot be resolved") from None
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))


class AddressGuard:
    """Lets public addresses through, and those that the operator named. Thread-safe.

    Args:
        private_networks: networks (``10.20.0.0/16``) and addresses that are let through, too.
        resolve: for tests.

    Raises:
        ConfigError: one of them is no network.
    """

    def __init__(self, private_networks: Sequence[str] = (), resolve: Resolve = resolve) -> None:
        self._allowed = tuple(_network(text) for text in private_networks)
        self._resolve = resolve

    def check_url(self, url: str) -> None:
        """Is it one that may be called, as far as its text tells: an address in it is looked at,
        a name when it is connected to.

        Raises:
            RejectedError: it is not; the message does not repeat it.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise RejectedError("the URL cannot be read") from None
        if parts.scheme not in _SCHEMES or not host:
            raise RejectedError("the URL must be an absolute http:// or https:// URL")
        if parts.username is not None or parts.password is not None:
            raise RejectedError("the URL must not hold credentials")
        if any(not character.isprintable() or character in " \\" for character in url):
            raise RejectedError("the URL holds characters that no URL has")
        if port is not None and not 0 < port <= _MOST_PORTS:
            raise RejectedError("the URL names no usable port")
        try:
            address = ip_address(host)
        except ValueError:
            return
        self.check_address(address)

    def addresses(self, host: str, port: int) -> Sequence[str]:
        """The addresses of a host, each of which may be connected to.

        Raises:
            RejectedError: one of them may not: then none is.
            TransientError: the host has none now.
        """
        found = self._resolve(host, port)
        for text in found:
            self.check_address(ip_address(text.partition("%")[0]))
        if not found:
            raise TransientError("the host's name cannot be resolved")
        return found

    def check_address(self, address: Address) -> None:
        """Raises:
        RejectedError: it is not public, and the operator did not name it.
        """
        for one in _embedded(address) or (address,):
            if not _is_public(one) and not any(one in network for network in self._allowed):
                raise RejectedError(
                    "the URL leads to an address that is not public; `outbound.private_networks`"
                    " in the configuration names those that may be called"
                )


def _network(text: str) -> Network:
    try:
        return ip_network(text)
    except ValueError:
        message = "must be networks such as 10.20.0.0/16, or addresses"
        problem = ConfigProblem("configuration", 0, "outbound.private_networks", message)
        raise ConfigError((problem,)) from None


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
        return False
    is_reserved = any(address in network for network in _NOT_FOR_US)
    return address.is_global and not address.is_multicast and not is_reserved


def _embedded(address: Address) -> tuple[Address, ...]:
    """IPv4 addresses that an IPv6 address leads to (RFC 4291, 3056, 4380, 5214, 6052); none of one
    that leads nowhere else."""
    if isinstance(address, IPv4Address) or address.is_loopback or address.is_unspecified:
        return ()
    found: list[Address] = []
    if address.ipv4_mapped is not None:
        found.append(address.ipv4_mapped)
    if address.sixtofour is not None:
        found.append(address.sixtofour)
    if address.teredo is not None:
        found += address.teredo
    if int(address) >> 32 & 0xFFFFFFFF in _ISATAP:
        found.append(IPv4Address(int(address) & 0xFFFFFFFF))
    if address in _NAT64 or address in _IPV4_COMPATIBLE:
        found.append(IPv4Address(int(address) & 0xFFFFFFFF))
    return tuple(found)
