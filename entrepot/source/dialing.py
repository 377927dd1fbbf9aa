"""Making connections to sources: directly, and through the proxies of the environment.

Names are looked up and addresses checked as `entrepot.source.sockets` says; several addresses of a
name are tried by happy eyeballs (RFC 8305). A proxy may be anywhere, and looks the names of sources
up itself.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import python_socks
from aiohappyeyeballs import start_connection

from entrepot.source import sockets
from entrepot.source.addresses import AddressRefused, Reach
from entrepot.source.connection import SourceConnection
from entrepot.source.dns import AddressInfo, Lookups, LookupTimedOut
from entrepot.source.http1 import SourceExchange
from entrepot.source.proxies import BehindProxyUnreachable, Proxy, ProxyFailed
from entrepot.source.socks import connect_through

HAPPY_EYEBALLS_DELAY = 0.25
"""Seconds after which the next address is tried too (RFC 8305, section 5)."""


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a connection leads, and how: connections of one destination are interchangeable.

    *host* is as it is sent, in ASCII; *checked* says whether its addresses are.
    """

    is_tls: bool
    host: str
    port: int
    checked: bool
    proxy: Proxy | None

    @property
    def authority(self) -> str:
        """Host and port as in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Dialer:
    """Makes the connections of one source registry; *reach* bounds where they lead.

    Its errors are those of httpx, `AddressRefused`, `ProxyFailed` and `BehindProxyUnreachable`.
    """

    def __init__(self, tls: ssl.SSLContext, lookups: Lookups, reach: Reach) -> None:
        self._tls = tls
        self._lookups = lookups
        self._reach = reach

    async def connect(
        self,
        destination: Destination,
        *,
        user_agent: bytes | None = None,
        connect_timeout: float | None,
        read_timeout: float | None,
    ) -> SourceConnection:
        """A connection to *destination*, ready for a request.

        *connect_timeout* is for each end of it, including its handshake of TLS, and *read_timeout*
        for the response of a proxy, both in seconds. A proxy is told *user_agent*.
        """
        proxy = destination.proxy
        if proxy is None:
            with _source_errors():
                reach = self._reach if destination.checked else None
                addresses = await sockets.resolve_port(
                    self._lookups, destination.host, destination.port, reach
                )
                async with asyncio.timeout(connect_timeout):
                    connection = await _dial(addresses, reach)
                    return await self._secured(connection, destination)
        if proxy.is_socks:
            connection = await self._dial_socks(proxy, destination, connect_timeout)
            with _source_errors():
                async with asyncio.timeout(connect_timeout):
                    return await self._secured(connection, destination)
        limits = (connect_timeout, read_timeout)
        with _source_errors():
            # The response to CONNECT has no time-out of its own (F75).
            async with asyncio.timeout(None if None in limits else sum(filter(None, limits))):
                connection = await self._dial_proxy(proxy, connect_timeout)
                return await self._tunnelled(
                    connection, proxy, destination, user_agent, connect_timeout
                )

    async def _dial_proxy(self, proxy: Proxy, connect_timeout: float | None) -> SourceConnection:
        """A connection to an HTTP proxy, within TLS where it speaks that."""
        try:
            addresses = await sockets.resolve_port(self._lookups, proxy.host, proxy.port, None)
            async with asyncio.timeout(connect_timeout):
                connection = await _dial(addresses, None)
                if proxy.scheme == "https":
                    await self._start_tls(connection, proxy.host)
                return connection
        except OSError as error:
            if _is_time_out(error):
                raise
            raise ProxyFailed(str(error), proxy) from error

    async def _tunnelled(
        self,
        connection: SourceConnection,
        proxy: Proxy,
        destination: Destination,
        user_agent: bytes | None,
        connect_timeout: float | None,
    ) -> SourceConnection:
        """The way through an HTTP proxy to the source: a tunnel for TLS (RFC 9110, 9.3.6)."""
        if not destination.is_tls:
            return connection
        authority = destination.authority.encode("ascii")
        headers = [(b"Host", authority)]
        if user_agent is not None:
            headers.append((b"User-Agent", user_agent))
        if proxy.authorization is not None:
            headers.append((b"Proxy-Authorization", proxy.authorization.encode("ascii")))
        try:
            exchange = SourceExchange(connection, None)
            response = await exchange.send("CONNECT", authority, headers)
            if not 200 <= response.status_code < 300:
                raise ProxyFailed(
                    f"the proxy {proxy.place} answers {response.status_code}",
                    proxy,
                    response.status_code,
                )
        except BaseException:
            connection.close()
            raise
        async with asyncio.timeout(connect_timeout):
            return await self._secured(connection, destination, exchange.received)

    async def _dial_socks(
        self, proxy: Proxy, destination: Destination, connect_timeout: float | None
    ) -> SourceConnection:
        """A connection to the source through a SOCKS proxy."""
        try:
            return SourceConnection(
                await connect_through(
                    proxy,
                    self._lookups,
                    destination.host,
                    destination.port,
                    connect_timeout=connect_timeout,
                )
            )
        except python_socks.ProxyTimeoutError as error:
            raise httpx.ConnectTimeout(str(error)) from error
        except python_socks.ProxyConnectionError as error:
            raise ProxyFailed(str(error), proxy) from error
        except python_socks.ProxyError as error:
            if error.error_code is None:
                # A reply to the request to connect has a code (RFC 1928, section 6); errors before
                # it concern the client.
                raise ProxyFailed(str(error), proxy, reason=str(error)) from error
            raise BehindProxyUnreachable(str(error), proxy) from error
        except OSError as error:
            raise httpx.ConnectError(str(error)) from error

    async def _secured(
        self, connection: SourceConnection, destination: Destination, received: bytes = b""
    ) -> SourceConnection:
        """The same connection, within TLS to the source where its address says so."""
        if destination.is_tls:
            await self._start_tls(connection, destination.host, received)
        return connection

    async def _start_tls(
        self, connection: SourceConnection, host: str, received: bytes = b""
    ) -> None:
        try:
            await connection.start_tls(self._tls, host.rstrip("."), received)
        except BaseException:
            connection.close()
            raise


async def _dial(addresses: list[AddressInfo], reach: Reach | None) -> SourceConnection:
    """A connection to the first of *addresses* that accepts one."""
    return SourceConnection(
        await start_connection(
            addresses,
            happy_eyeballs_delay=HAPPY_EYEBALLS_DELAY,
            socket_factory=lambda address: sockets.open_socket(address, reach),
        )
    )


@contextmanager
def _source_errors() -> Iterator[None]:
    """Raise the system's errors on the way to a source as httpx's."""
    try:
        yield
    except sockets.AddressForbidden as error:
        raise AddressRefused(str(error)) from error
    except OSError as error:
        if _is_time_out(error) or isinstance(error, LookupTimedOut):
            raise httpx.ConnectTimeout(str(error)) from error
        raise httpx.ConnectError(str(error)) from error


def _is_time_out(error: OSError) -> bool:
    """Whether the time of this program is up; the system's own time-outs have numbers."""
    return isinstance(error, TimeoutError) and error.errno is None
