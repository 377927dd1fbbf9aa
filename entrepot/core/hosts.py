"""What the host of an address is: a name, a literal address, this machine itself.

Pure: no I/O.
"""

from __future__ import annotations

import ipaddress
import socket
from ipaddress import IPv4Address, IPv6Address
from typing import Final

HOST_LENGTH: Final = 253
"""The longest name of a host, in characters (RFC 1035, section 2.3.4)."""


def literal_address(host: str) -> IPv4Address | IPv6Address | None:
    """The address that *host* is, in any form that the system reads; None for a name.

    `inet_aton(3)` reads ``0x7f.1``, ``2130706433`` and ``0177.1`` as 127.0.0.1.
    """
    host = host.removesuffix(".")
    if len(host) > HOST_LENGTH:
        return None
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host)) if host[:1].isdigit() else None
    except (OSError, ValueError):
        return None


def is_localhost(host: str) -> bool:
    """Whether *host* is a name for this machine (RFC 6761, section 6.3)."""
    name = host.lower().rstrip(".")
    return name == "localhost" or name.endswith(".localhost")


def is_loopback(host: str) -> bool:
    """Whether *host* literally names this machine itself, so that nothing leaves it.

    That is ``localhost`` or a name below it, ``::1`` and 127.0.0.0/8, also as an IPv4-mapped
    address of IPv6.
    """
    if is_localhost(host):
        return True
    address = literal_address(host)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address is not None and address.is_loopback


def looks_like_host(first_part: str, *, has_path: bool = True) -> bool:
    """Whether the first part of an image's name is a host, by docker's rule.

    It has a dot or a port, or is ``localhost`` (distribution/reference). Where no path follows
    (*has_path* is False), the part behind a colon is a tag and not a port.
    """
    name, colon, port = first_part.partition(":")
    return (
        first_part.startswith("[")
        or "." in name
        or (has_path and bool(colon) and port.isdigit())
        or name.lower() == "localhost"
    )
