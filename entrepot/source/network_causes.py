"""Causes of failed requests in the network, and in this machine's environment."""

from __future__ import annotations

import errno
import socket

import httpx

from entrepot.causes import Cause, CauseCode, memory_cause, open_files_cause
from entrepot.core.hosts import literal_address
from entrepot.source.dns import LookupsBusy, LookupTimedOut
from entrepot.source.environment import has_name_server, has_network, has_route
from entrepot.source.failed_request import RequestTarget, errnos, failed_lookup


def network_cause(chain: list[BaseException], error: BaseException, target: RequestTarget) -> Cause:
    """Why no connection came about, or no response over it."""
    where = target.label
    cause = _lookup_cause(chain, where)
    if cause is not None:
        return cause
    numbers = errnos(chain)
    if numbers & {errno.EHOSTUNREACH, errno.ENETUNREACH} and errno.ECONNREFUSED not in numbers:
        return Cause(
            CauseCode.NO_ROUTE,
            f"{where} can't be reached: no route of this machine's network leads there.",
            "Check the routes of this machine, a VPN, and firewalls on the way.",
        )
    if isinstance(error, httpx.ConnectTimeout) or numbers & {errno.ETIMEDOUT}:
        return Cause(
            CauseCode.CONNECTION_SILENT,
            f"{where} can't be reached: it accepts no connection in time.",
            "Check the network, a firewall or a proxy on the way.",
        )
    if isinstance(error, (httpx.TimeoutException, TimeoutError)):
        return Cause(
            CauseCode.ANSWER_SILENT,
            f"{where} accepts the connection but does not answer in time.",
            "Try again later.",
        )
    if isinstance(error, httpx.ProxyError):
        return Cause(
            CauseCode.PROXY_FAILS,
            f"{where} can't be reached: the proxy of this machine's environment refuses.",
            "Check HTTPS_PROXY and NO_PROXY.",
        )
    # asyncio has resets of its own, without a number, where a connection ends within a handshake.
    is_ended = any(isinstance(cause, (ConnectionResetError, BrokenPipeError)) for cause in chain)
    if (
        is_ended
        and target.url.scheme == "https"
        and isinstance(error, (httpx.ConnectError, OSError))
    ):
        return Cause(
            CauseCode.CONNECTION_ENDED,
            f"{where} can't be reached: it ends the connection on port {target.port} before TLS "
            "is agreed on.",
            "Check that this port speaks https; a firewall on the way can do that too.",
        )
    if isinstance(error, (httpx.ConnectError, ConnectionRefusedError)) and not is_ended:
        return Cause(
            CauseCode.CONNECTION_REFUSED,
            f"{where} can't be reached: it accepts no connections on port {target.port}.",
            "Check the network, or whether the registry is up.",
        )
    return Cause(
        CauseCode.CONNECTION_ENDED,
        f"{where} ends the connection without an answer.",
        "Try again later.",
    )


def _lookup_cause(chain: list[BaseException], where: str) -> Cause | None:
    lookup = failed_lookup(chain)
    if any(isinstance(cause, LookupTimedOut) for cause in chain):
        return Cause(
            CauseCode.NAME_SERVER_SILENT,
            f"{where} can't be reached: the name server does not answer in time.",
            "Check the name server of this machine.",
        )
    if any(isinstance(cause, LookupsBusy) for cause in chain):
        return Cause(
            CauseCode.LOOKUPS_BUSY,
            f"{where} can't be reached: too many look-ups of names wait for an answer.",
            "Check the name server of this machine; try again later.",
        )
    if lookup is not None and lookup.errno in {socket.EAI_AGAIN, socket.EAI_FAIL}:
        return Cause(
            CauseCode.NAME_SERVER_SILENT,
            f"{where} can't be reached: the name server of this machine gives no answer.",
            "Check the name server in /etc/resolv.conf, and the network on the way to it.",
        )
    if lookup is not None:
        return Cause(
            CauseCode.NAME_UNKNOWN,
            f"{where} can't be reached: its name is not known.",
            "Check how it is written, and the name server and the network of this machine.",
        )
    return None


def may_come_from_environment(chain: list[BaseException], host: str) -> bool:
    """Whether a failure may come from this machine's environment.

    *host* is that of the source or of the proxy.
    """
    if errno.ENETUNREACH in errnos(chain):
        return True
    is_lookup = any(isinstance(cause, (socket.gaierror, LookupTimedOut)) for cause in chain)
    return is_lookup and literal_address(host) is None


def environment_cause(chain: list[BaseException], target: RequestTarget) -> Cause | None:
    """What this machine lacks to reach anything, or a kind of address. Blocks."""
    lookup, numbers = failed_lookup(chain), errnos(chain)
    if not has_network():
        return Cause(
            CauseCode.NO_NETWORK,
            "This machine has no network: no route leads out of it.",
            "Connect it. An engine in a container needs a network too (not --network none).",
        )
    if (
        (lookup is None or lookup.errno != socket.EAI_NONAME)
        and errno.ENETUNREACH not in numbers
        and not has_name_server()
    ):
        return Cause(
            CauseCode.NAME_SERVER_MISSING,
            "This machine has no name server: /etc/resolv.conf names none.",
            "Add a line to it: nameserver ADDRESS. For a container, start it with --dns ADDRESS.",
        )
    if (
        errno.ENETUNREACH in numbers
        and has_route(socket.AF_INET)
        and not has_route(socket.AF_INET6)
    ):
        return Cause(
            CauseCode.NO_IPV6,
            f"{target.label} can't be reached: it has addresses of IPv6 only, "
            "and this machine has no route for these.",
            "Give this machine IPv6, or use a proxy that has it.",
        )
    return None


def limit_cause(chain: list[BaseException], target: RequestTarget) -> Cause | None:
    """What this machine has run out of: open files, memory, local ports."""
    numbers = errnos(chain)
    for number in (errno.EMFILE, errno.ENFILE):
        if number in numbers:
            return open_files_cause(number, "no source can be reached")
    lookup = failed_lookup(chain)
    if numbers & {errno.ENOMEM, errno.ENOBUFS} or (
        lookup is not None and lookup.errno == socket.EAI_MEMORY
    ):
        return memory_cause()
    if errno.EADDRNOTAVAIL in numbers and not numbers & {errno.ECONNREFUSED, errno.ENETUNREACH}:
        return Cause(
            CauseCode.PORTS,
            f"This machine has no local port or address left for a connection to {target.label}.",
            "Wait until other connections end, or widen net.ipv4.ip_local_port_range with sysctl.",
        )
    return None
