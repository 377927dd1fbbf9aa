"""Sockets to sources: which addresses a name has, and what each socket is set to.

Two of the three checks of `entrepot.source.addresses` are here, those of the look-up and of the
socket. Both transports of a source make their connections with these functions.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

from entrepot.source.addresses import LOCAL_ADDRESS, Reach
from entrepot.source.dns import AddressInfo, Lookups

KEEPALIVE_TIMEOUT = 30.0
"""Seconds that an idle connection is kept. Load balancers drop theirs after 60 or more, and
firewalls forget them silently."""

DEAD_PEER_TIMEOUT = 10
"""Seconds after which a connection ends whose peer acknowledges nothing: a firewall that restarted
drops the packets of connections that it has forgotten."""


class AddressForbidden(OSError):
    """A local address, to which no connection is made."""


async def resolve(
    lookups: Lookups,
    host: str,
    reach: Reach | None,
    family: socket.AddressFamily = socket.AF_UNSPEC,
) -> list[AddressInfo]:
    """The addresses of *host*, without ports.

    With *reach*, addresses that it does not permit are left out. Raises `OSError`:
    `AddressForbidden` where all were left out, or what `Lookups.addresses` raises.
    """
    addresses: list[AddressInfo] = []
    is_refused = False
    for address in await lookups.addresses(host, family):
        if address[0] not in (socket.AF_INET, socket.AF_INET6):
            continue
        if reach is not None and not reach.permits_address(str(address[4][0])):
            is_refused = True
            continue
        addresses.append(address)
    if not addresses and is_refused:
        raise AddressForbidden(f"{host} is {LOCAL_ADDRESS}")
    if not addresses:
        raise socket.gaierror(socket.EAI_NONAME, f"{host} has no address")
    return addresses


async def resolve_port(
    lookups: Lookups, host: str, port: int, reach: Reach | None
) -> list[AddressInfo]:
    """The addresses of *host* with *port*; a literal address is not looked up. See `resolve`."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return [
            (family, kind, protocol, "", (parts[0], port, *parts[2:]))
            for family, kind, protocol, _, parts in await resolve(lookups, host, reach)
        ]
    if address.version == 4:
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port))]
    return [(socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port, 0, 0))]


def open_socket(address: tuple[Any, ...], reach: Reach | None = None) -> socket.socket:
    """A socket that detects a dead peer within seconds (tcp(7)).

    *address* is an item of `socket.getaddrinfo`. With *reach*, it must be one that it permits, else
    `AddressForbidden` is raised.
    """
    family, kind, protocol, _, parts = address
    if reach is not None and not reach.permits_address(str(parts[0])):
        raise AddressForbidden(LOCAL_ADDRESS)
    connection = socket.socket(family, kind, protocol)
    detect_dead_peer(connection)
    return connection


def detect_dead_peer(connection: socket.socket) -> None:
    """Let the system end a connection whose peer disappeared without a word."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", DEAD_PEER_TIMEOUT),
        ("TCP_KEEPINTVL", 3),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", DEAD_PEER_TIMEOUT * 1000),
    ):
        # Not every system has all of them.
        if (number := getattr(socket, option, None)) is not None:
            connection.setsockopt(socket.IPPROTO_TCP, number, value)
