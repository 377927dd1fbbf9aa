"""Small requests to sources: httpx's requests, sent with aiohttp.

`entrepot.source.blob_transport` sends those for blobs. aiohttp's parser takes a sixth of the
processor time of httpx's own transport. It sends exactly what httpx was asked to send: addresses
are not quoted again (the signature of a presigned URL covers its query as it was written), nothing
is decoded, no redirect is followed (`entrepot.source.http` does that), and no cookie and no entry
of a ``.netrc`` is added.

Each address is checked before a connection is made (`entrepot.source.addresses` says which are
refused, and why). There are two pools of connections: one for the hosts that the administrator
named and for proxies, which may be anywhere, and one that checks each look-up and each socket. A
name that belongs to one pool is never looked up, cached or connected through the other.
`entrepot.source.dns` looks names up.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import aiohttp
import aiohttp_socks
import httpx
import yarl
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.tracing import Trace

from entrepot.source import sockets
from entrepot.source.addresses import AddressRefused, Reach
from entrepot.source.dns import Lookups, LookupsBusy, LookupTimedOut, literal
from entrepot.source.proxies import BehindProxyUnreachable, Proxy, ProxyFailed, proxy_of
from entrepot.source.socks import SocksConnector

READ_AHEAD = 256 * 1024
"""Bytes of one response that are buffered; from twice as many on, reading pauses."""

_ERRORS: tuple[tuple[type[BaseException], type[httpx.TransportError]], ...] = (
    (aiohttp.ConnectionTimeoutError, httpx.ConnectTimeout),
    (aiohttp.ServerTimeoutError, httpx.ReadTimeout),
    (TimeoutError, httpx.ReadTimeout),
    (aiohttp.ClientProxyConnectionError, httpx.ProxyError),
    (aiohttp.ClientHttpProxyError, httpx.ProxyError),
    (aiohttp.ClientConnectorError, httpx.ConnectError),
    (aiohttp.InvalidURL, httpx.UnsupportedProtocol),
    (aiohttp.NonHttpUrlClientError, httpx.UnsupportedProtocol),
    (aiohttp.ClientError, httpx.RemoteProtocolError),
    (aiohttp_socks.ProxyTimeoutError, httpx.ConnectTimeout),
    (aiohttp_socks.ProxyConnectionError, httpx.ConnectError),
    (aiohttp_socks.ProxyError, httpx.ProxyError),
    (OSError, httpx.ReadError),
)
_CAUGHT = tuple(kind for kind, _ in _ERRORS)


class SourceTransport(httpx.AsyncBaseTransport):
    """Sends httpx's requests with aiohttp, through the proxies of the environment.

    Each pool has at most *connections* open at once; *reach* bounds where they may go. *lookups*
    looks names up, or one of its own does for *lookup_timeout* seconds at the most. Besides httpx's
    errors it raises `AddressRefused` and `ProxyUnusable`.
    """

    def __init__(
        self,
        tls: ssl.SSLContext,
        *,
        connections: int,
        reach: Reach | None = None,
        lookup_timeout: float = 10.0,
        lookups: Lookups | None = None,
    ) -> None:
        self._tls = tls
        self._connections = connections
        self._reach = reach if reach is not None else Reach()
        self._lookups = lookups if lookups is not None else Lookups(lookup_timeout)
        self._sessions: dict[tuple[bool, Proxy | None], aiohttp.ClientSession] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and return its response as soon as it begins."""
        host = request.url.host
        if not self._reach.permits_host(host):
            raise AddressRefused(host)
        timeout = request.extensions.get("timeout", {})
        proxy = proxy_of(request.url)
        headers = request.headers.multi_items()
        proxy_headers: dict[str, str] | None = None
        if proxy is not None and not proxy.is_socks and proxy.authorization is not None:
            if request.url.scheme == "https":
                proxy_headers = {"Proxy-Authorization": proxy.authorization}
            else:
                headers.append(("Proxy-Authorization", proxy.authorization))
        with _as_httpx_errors(proxy):
            response = await self._session(
                checked=proxy is None and host not in self._reach.hosts, proxy=proxy
            ).request(
                request.method,
                yarl.URL(str(request.url), encoded=True),
                headers=headers,
                data=await request.aread() or None,
                allow_redirects=False,
                proxy=proxy.address if proxy is not None and not proxy.is_socks else None,
                proxy_headers=proxy_headers,
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=timeout.get("connect"), sock_read=timeout.get("read")
                ),
            )
        if proxy is not None and not proxy.is_socks and response.status == 407:
            # For a request over http, the proxy's refusal looks like a response of the source.
            response.close()
            raise ProxyFailed(f"the proxy {proxy.place} answers 407", proxy, 407)
        body = _ResponseBody(response, timeout.get("read"))
        return httpx.Response(
            response.status,
            headers=response.raw_headers,
            stream=body,
            extensions={"http_version": b"HTTP/1.1"},
        )

    def _session(self, *, checked: bool, proxy: Proxy | None) -> aiohttp.ClientSession:
        """The pool without checks, the one that checks addresses, or a SOCKS proxy's."""
        socks = proxy if proxy is not None and proxy.is_socks else None
        session = self._sessions.get((checked, socks))
        if session is None:
            session = self._sessions[checked, socks] = aiohttp.ClientSession(
                connector=self._connector(checked)
                if socks is None
                else self._connector_through(socks),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                read_bufsize=READ_AHEAD,
            )
        return session

    def _connector(self, checked: bool) -> aiohttp.BaseConnector:
        reach = self._reach if checked else None
        return _Connector(
            ssl=self._tls,
            limit=self._connections,
            keepalive_timeout=sockets.KEEPALIVE_TIMEOUT,
            resolver=_Resolver(self._lookups, reach),
            socket_factory=lambda address: sockets.open_socket(address, reach),
        )

    def _connector_through(self, proxy: Proxy) -> aiohttp.BaseConnector:
        return SocksConnector(
            proxy,
            self._lookups,
            sockets.detect_dead_peer,
            ssl=self._tls,
            limit=self._connections,
            keepalive_timeout=sockets.KEEPALIVE_TIMEOUT,
        )

    async def aclose(self) -> None:
        """Close all connections."""
        sessions, self._sessions = list(self._sessions.values()), {}
        for session in sessions:
            await session.close()


class _Connector(aiohttp.TCPConnector):
    """Connections with a time-out for HTTP proxies, too.

    aiohttp has no time-out for the response to CONNECT: with a proxy that accepts the connection
    and sends nothing a request would wait for ever (F75).
    """

    async def _create_proxy_connection(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp calls it so
    ) -> tuple[asyncio.BaseTransport, ResponseHandler]:
        limits = (timeout.sock_connect, timeout.sock_read)
        seconds = None if None in limits else sum(filter(None, limits))
        async with asyncio.timeout(seconds):
            return await super()._create_proxy_connection(req, traces, timeout)


class _Resolver(AbstractResolver):
    """Looks names up for one pool of connections.

    With *reach*, addresses that it does not permit are left out.
    """

    def __init__(self, lookups: Lookups, reach: Reach | None) -> None:
        self._lookups = lookups
        self._reach = reach

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [
            ResolveResult(
                hostname=host,
                host=literal(address),
                port=port,
                family=address[0],
                proto=address[2],
                flags=numeric,
            )
            for address in await sockets.resolve(self._lookups, host, self._reach, family)
        ]

    async def close(self) -> None:
        """Do nothing: it holds no resources."""


_closing: weakref.WeakSet[asyncio.Future[None]] = weakref.WeakSet()
"""The futures of connections whose errors are retrieved: one connection has many responses."""


def _retrieve_error(closed: asyncio.Future[None]) -> None:
    if not closed.cancelled():
        closed.exception()


class _ResponseBody(httpx.AsyncByteStream):
    """The body of a response. *read_timeout* is that of each piece, in seconds.

    After the head, aiohttp 3.14 reports an error of the framing (a chunk whose size is no number)
    to the connection, which it closes, and not to the reader of the body, and ends its own
    time-out: the reader would wait for ever. So this class passes the end of the connection on, and
    has a time-out of its own.
    """

    def __init__(self, response: aiohttp.ClientResponse, read_timeout: float | None) -> None:
        self._response = response
        self._read_timeout = read_timeout
        protocol = response.connection.protocol if response.connection is not None else None
        self._closed: asyncio.Future[None] | None = getattr(protocol, "closed", None)
        if self._closed is not None and self._closed not in _closing:
            # aiohttp creates it on demand, and asyncio logs an error that was never retrieved
            # (F92).
            _closing.add(self._closed)
            self._closed.add_done_callback(_retrieve_error)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        content = self._response.content
        if self._closed is not None:
            self._closed.add_done_callback(self._connection_closed)
        try:
            with _as_httpx_errors():
                while True:
                    async with asyncio.timeout(self._read_timeout):
                        chunk = await content.readany()
                    if not chunk:
                        break
                    yield chunk
        finally:
            if self._closed is not None:
                self._closed.remove_done_callback(self._connection_closed)

    def _connection_closed(self, _: asyncio.Future[None]) -> None:
        content = self._response.content
        if not content.is_eof() and content.exception() is None:
            content.set_exception(
                aiohttp.ClientPayloadError("the connection ended within the response")
            )

    async def aclose(self) -> None:
        # After the last byte the connection is back in the pool already, and this does nothing;
        # before it, the rest is not needed.
        self._response.close()


@contextmanager
def _as_httpx_errors(proxy: Proxy | None = None) -> Iterator[None]:
    """Raise errors of aiohttp as httpx's; *proxy* is that of the connection."""
    try:
        yield
    except _CAUGHT as error:
        cause = getattr(error, "os_error", error)
        if isinstance(cause, sockets.AddressForbidden):
            raise AddressRefused(str(cause)) from error
        if proxy is not None and _is_of_proxy(error, cause, proxy):
            reason = str(error) if isinstance(error, aiohttp_socks.ProxyError) else ""
            raise ProxyFailed(
                str(error), proxy, getattr(error, "status", None), reason=reason
            ) from error
        if proxy is not None and isinstance(error, aiohttp_socks.ProxyError):
            raise BehindProxyUnreachable(str(error), proxy) from error
        mapped = next(httpx_error for kind, httpx_error in _ERRORS if isinstance(error, kind))
        if isinstance(cause, LookupTimedOut):
            mapped = httpx.ConnectTimeout
        raise mapped(str(error)) from error


def _is_of_proxy(error: BaseException, cause: object, proxy: Proxy) -> bool:
    """Whether the proxy failed, and not the source behind it."""
    if isinstance(error, aiohttp_socks.ProxyError):
        # A reply to the request to connect has a code (RFC 1928, section 6); errors before it
        # concern the client.
        return error.error_code is None
    if isinstance(
        error,
        aiohttp.ClientProxyConnectionError
        | aiohttp.ClientHttpProxyError
        | aiohttp_socks.ProxyConnectionError,
    ):
        return True
    # The proxy looks sources up: the name that could not be looked up here was its own.
    if isinstance(cause, socket.gaierror | LookupTimedOut | LookupsBusy):
        return True
    # The certificate of a proxy that uses TLS.
    return (
        isinstance(error, aiohttp.ClientConnectorError)
        and error.host == proxy.host
        and error.port == proxy.port
    )
