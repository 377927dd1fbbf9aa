"""Addresses that a source names, and to which of them a connection may go.

A registry, its realm or a redirect of its storage names a host. The source's operator chooses that
name and what it resolves to, so the address of a connection is checked three times:

1. as literal text, in every form that `inet_aton(3)` reads (``0x7f.1``, ``2130706433``,
   ``0177.1``), before a request is sent, at every hop;
2. after every look-up, where refused addresses are left out (`entrepot.source.transport`);
3. when the socket is created, which also covers cached look-ups and each attempt of happy eyeballs.

Refused are loopback, link-local, unspecified, multicast and broadcast addresses, and the addresses
at which clouds give a machine its own secrets, also where an address of IPv6 carries one of these
(IPv4-mapped and -compatible, NAT64, SIIT, 6to4, Teredo). Private networks (10/8, 172.16/12,
192.168/16, fc00::/7) are allowed on purpose: registries of companies are there.

What the administrator configured stays allowed (`Reach`): the host of an endpoint or realm in
``settings.toml`` may be anywhere, and an endpoint at a literal loopback address may lead to other
loopback addresses, where its own parts run. A proxy of the environment looks names up itself, so
only the first check applies; the proxy itself may be anywhere.
"""

from __future__ import annotations

import functools
import ipaddress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

import httpx

from entrepot.core.hosts import HOST_LENGTH, is_localhost, is_loopback, literal_address
from entrepot.core.registries import TABLE, SourceRegistry

ADDRESS_LENGTH = 8 * 1024
"""The longest address that a source may name, in characters: presigned ones reach some 4 kB."""

LOCAL_ADDRESS = "a local address (loopback, link-local or cloud metadata)"
"""How messages name an address to which no registry may send requests."""

METADATA_ADDRESSES = frozenset(
    {
        # Azure's wire server, Alibaba's and Oracle's metadata; AWS and Google over IPv6. All others
        # are link-local.
        IPv4Address("168.63.129.16"),
        IPv4Address("100.100.100.200"),
        IPv4Address("192.0.0.192"),
        IPv6Address("fd00:ec2::254"),
        IPv6Address("fd20:ce::254"),
    }
)
"""Where clouds give a machine its own credentials."""

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_NAT64_LOCAL = ipaddress.IPv6Network("64:ff9b:1::/48")
_TRANSLATED = ipaddress.IPv6Network("::ffff:0:0:0/96")
_COMPATIBLE = ipaddress.IPv6Network("::/96")
_BROADCAST = IPv4Address("255.255.255.255")
_THIS_NETWORK = ipaddress.IPv4Network("0.0.0.0/8")


class AddressRefused(httpx.TransportError):
    """A host is, or was resolved to, a local address. Nothing was sent there."""


def parse_address(text: str, base: httpx.URL | None = None) -> httpx.URL | None:
    """The address that *text* names, seen from *base*; None where it is unusable.

    Its host has a name that can be looked up or a literal address, and its port is valid.
    """
    if len(text) > ADDRESS_LENGTH:
        return None
    try:
        url = httpx.URL(text) if base is None else base.join(text)
        # httpx decodes the host when it is read, and that fails for what is no IDNA.
        host, raw_host, port = url.host, url.raw_host.decode("ascii"), url.port
    except (httpx.InvalidURL, ValueError, RecursionError):
        return None
    if not host or (port is not None and not 0 < port < 65536):
        return None
    if ":" in raw_host:
        return url if literal_address(raw_host) is not None else None
    labels = raw_host.removesuffix(".").split(".")
    if len(raw_host) > HOST_LENGTH or not all(
        0 < len(label) < 64 and _is_label(label) for label in labels
    ):
        return None
    return url


def _is_label(label: str) -> bool:
    return all(character.isalnum() or character in "-_" for character in label)


def is_local(host: str) -> bool:
    """Whether *host* names a local address, where no public registry may lead."""
    if is_localhost(host):
        return True
    address = literal_address(host)
    return address is not None and is_local_address(address)


def is_local_address(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is this machine, its link, a multicast or cloud metadata."""
    return any(
        form.is_loopback
        or form.is_link_local
        or form.is_unspecified
        or form.is_multicast
        or form in METADATA_ADDRESSES
        or form == _BROADCAST
        or form in _THIS_NETWORK
        for form in (address, *_embedded(address))
    )


def is_public_address(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is of the internet, and of no private network or special use."""
    return not is_local_address(address) and all(
        embedded.is_global for embedded in _embedded(address)
    )


def _embedded(address: IPv4Address | IPv6Address) -> tuple[IPv4Address | IPv6Address, ...]:
    """The IPv4 addresses that an IPv6 address embeds; the address itself without any."""
    if isinstance(address, IPv4Address):
        return (address,)
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    if address.sixtofour is not None:
        return (address.sixtofour,)
    if address.teredo is not None:
        return address.teredo
    if address in _NAT64 or address in _NAT64_LOCAL or address in _TRANSLATED:
        return (IPv4Address(int(address) & 0xFFFFFFFF),)
    if address in _COMPATIBLE and int(address) > 1:
        return (IPv4Address(int(address) & 0xFFFFFFFF),)
    return (address,)


@dataclass(frozen=True, slots=True)
class Reach:
    """Where one source registry may lead."""

    hosts: frozenset[str] = frozenset()
    """Hosts that the administrator named, which may be anywhere."""
    loopback: bool = False
    """Whether the registry runs on this machine, so that its parts do."""
    public: bool = False
    """Whether only addresses of the internet are allowed, and no private network: what comes from
    there goes to another owner's registry."""

    @staticmethod
    @functools.lru_cache(maxsize=1024)
    def of(registry: SourceRegistry) -> Reach:
        """What the configuration of a registry allows.

        An entry of the built-in table allows no local address.
        """
        built_in = next(
            (entry for entry in TABLE if entry.login_server == registry.login_server), None
        )
        declared = set(registry.realms) - set(built_in.realms if built_in is not None else ())
        endpoint = built_in.endpoint if built_in is not None else f"https://{registry.login_server}"
        if registry.declared or registry.endpoint != endpoint:
            declared |= {registry.endpoint, f"//{registry.login_server}"}
        return Reach(
            frozenset(httpx.URL(address).host for address in declared),
            is_loopback(httpx.URL(registry.endpoint).host),
        )

    def permits_host(self, host: str) -> bool:
        """Whether a request may be sent to *host*, by its literal text."""
        if self.public:
            return not is_local(host) and (
                (address := literal_address(host)) is None or is_public_address(address)
            )
        return host in self.hosts or not is_local(host) or (self.loopback and is_loopback(host))

    def permits_address(self, address: str) -> bool:
        """Whether a connection may be made to the *address* that a name was resolved to.

        The administrator did not name the host.
        """
        literal = literal_address(address)
        if self.public:
            return literal is not None and is_public_address(literal)
        return literal is not None and (
            not is_local_address(literal) or (self.loopback and is_loopback(address))
        )
