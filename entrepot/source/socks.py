"""Connections through a SOCKS5 proxy (RFC 1928).

aiohttp-socks, which is maintained, small, and pure Python, implements the protocol. What it leaves
to the system is done here as for every other connection of a source: `entrepot.source.dns` looks
the proxy's own name up, its sockets detect a dead peer, and every failure is an error of aiohttp or
of python-socks. The proxy looks the names of sources up.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any

import aiohttp
import aiohttp_socks
import python_socks
from aiohttp.client_proto import ResponseHandler
from python_socks.async_.asyncio import Proxy as AsyncioProxy

from entrepot.source.dns import Lookups, literal
from entrepot.source.proxies import Proxy
from entrepot.source.sockets import detect_dead_peer

MAX_ADDRESSES = 4
"""How many addresses of a proxy are tried; they share the time-out of the connection."""


async def connect_through(
    proxy: Proxy, lookups: Lookups, host: str, port: int, *, connect_timeout: float | None
) -> socket.socket:
    """A socket that is connected to *host* through *proxy* within *connect_timeout* seconds.

    Raises an error of `python_socks`, or `OSError`.
    """
    addresses = await _addresses(proxy, lookups)
    failure: Exception = python_socks.ProxyConnectionError(f"{proxy.host} has no address")
    for address in addresses:
        client = AsyncioProxy(
            python_socks.ProxyType.SOCKS5,
            address,
            proxy.port,
            username=proxy.username,
            password=proxy.password or None,
            rdns=True,
        )
        try:
            connection = await client.connect(
                host, port, timeout=connect_timeout / len(addresses) if connect_timeout else None
            )
        except (python_socks.ProxyConnectionError, python_socks.ProxyTimeoutError) as error:
            failure = error
        except OSError:
            raise
        except (EOFError, ValueError) as error:
            raise _no_socks(proxy) from error
        else:
            detect_dead_peer(connection)
            return connection
    raise failure


async def _addresses(proxy: Proxy, lookups: Lookups) -> list[str]:
    """The addresses of a proxy that are tried."""
    try:
        return list(dict.fromkeys(map(literal, await lookups.addresses(proxy.host))))[
            :MAX_ADDRESSES
        ]
    except OSError as error:
        raise python_socks.ProxyConnectionError(
            f"the name of the proxy {proxy.place} is not known"
        ) from error


def _no_socks(proxy: Proxy) -> python_socks.ProxyError:
    """The error of a handshake whose connection ended, or whose response was no SOCKS."""
    return python_socks.ProxyError(f"{proxy.place} does not answer as a SOCKS5 proxy")


class SocksConnector(aiohttp_socks.ProxyConnector):
    """Connections through *proxy*.

    *prepare* sets the options of each socket; *options* are those of `aiohttp.TCPConnector`.
    """

    def __init__(
        self,
        proxy: Proxy,
        lookups: Lookups,
        prepare: Callable[[socket.socket], None],
        **options: Any,
    ) -> None:
        super().__init__(
            proxy.host,
            proxy.port,
            username=proxy.username,
            password=proxy.password or None,
            rdns=True,
            **options,
        )
        self._proxy = proxy
        self._lookups = lookups
        self._prepare = prepare

    async def _wrap_create_connection(
        self, *arguments: Any, req: aiohttp.ClientRequest, **options: Any
    ) -> tuple[asyncio.Transport, ResponseHandler]:
        try:
            return await super()._wrap_create_connection(*arguments, req=req, **options)
        except ssl.SSLCertVerificationError as error:
            raise aiohttp.ClientConnectorCertificateError(req.connection_key, error) from error
        except ssl.SSLError as error:
            raise aiohttp.ClientConnectorSSLError(req.connection_key, error) from error
        except OSError as error:
            raise aiohttp.ClientConnectorError(req.connection_key, error) from error

    async def _connect_via_proxy(
        self,
        host: str,
        port: int,
        ssl: ssl.SSLContext | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - aiohttp-socks calls it so
    ) -> tuple[asyncio.Transport, ResponseHandler]:
        addresses = await _addresses(self._proxy, self._lookups)
        failure: Exception = python_socks.ProxyConnectionError(f"{self._proxy.host} has no address")
        for address in addresses:
            # aiohttp-socks reads it for each connection; nothing is awaited before it does.
            self._proxy_host = address
            try:
                transport, protocol = await super()._connect_via_proxy(
                    host, port, ssl, timeout / len(addresses) if timeout else None
                )
            except (python_socks.ProxyConnectionError, python_socks.ProxyTimeoutError) as error:
                failure = error
            except OSError:
                raise
            except (EOFError, ValueError) as error:
                raise _no_socks(self._proxy) from error
            else:
                self._prepare(transport.get_extra_info("socket"))
                return transport, protocol
        raise failure
