"""The network below httpx, through aiohttp.

Blobs are large, and the event loop that receives them also serves clients: aiohttp's parser hands
over pieces of some 256 KiB for a sixth of the processor time that httpx's own transport takes for
pieces of 64 KiB. What leaves here is exactly what httpx was asked to send: addresses are not quoted
anew (the signature of a presigned URL covers its query as it was written), nothing is decoded, no
redirect is followed, and no cookie and no entry of a ``.netrc`` is added.

Each address is judged before it is connected to (`entrepot.source.addresses` says which are
refused, and why). There are two pools of connections: one for the hosts that the administrator
named and for proxies, which may be anywhere, and one that judges each look-up and each socket. A
name that is in the one is never looked up, cached or connected through the other. Names are looked
up by `entrepot.source.dns`.
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

from entrepot.source.addresses import Reach
from entrepot.source.dns import AddressInfo, Lookups, LookupsBusy, LookupTimedOut, literal
from entrepot.source.http import AddressRefused
from entrepot.source.proxies import BehindProxyUnreachable, Proxy, ProxyFailed, proxy_of
from entrepot.source.socks import SocksConnector

READ_AHEAD = 256 * 1024
"""Bytes of one answer that wait in memory, at most twice as many, before the source is not read on."""

KEPT_ALIVE = 30.0
"""Seconds that an idle connection is kept. Load balancers drop theirs after 60 or more, and
firewalls forget them silently."""

DEAD_AFTER = 10
"""Seconds after which a connection is given up whose other end acknowledges nothing: a firewall
that restarted drops what it has forgotten."""

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


class AddressForbidden(OSError):
    """An address of this machine's own surroundings, to which no connection is made."""


class SourceTransport(httpx.AsyncBaseTransport):
    """Sends httpx's requests with aiohttp; the proxies of the environment are used.

    *connections* is the most that each pool has open at once, *reach* says where they may go, and a
    name is looked up for *lookup_timeout* seconds at the most. Besides httpx's errors it raises
    `AddressRefused` and `ProxyUnusable`.
    """

    def __init__(
        self,
        tls: ssl.SSLContext,
        *,
        connections: int,
        reach: Reach | None = None,
        lookup_timeout: float = 10.0,
    ) -> None:
        self._tls = tls
        self._connections = connections
        self._reach = reach if reach is not None else Reach()
        self._lookups = Lookups(lookup_timeout)
        self._sessions: dict[tuple[bool, Proxy | None], aiohttp.ClientSession] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and give its answer as soon as it begins."""
        host = request.url.host
        if not self._reach.permits_host(host):
            raise AddressRefused(host)
        timeout = request.extensions.get("timeout", {})
        proxy = proxy_of(request.url)
        headers = request.headers.multi_items()
        to_proxy: dict[str, str] | None = None
        if proxy is not None and not proxy.is_socks and proxy.authorization is not None:
            if request.url.scheme == "https":
                to_proxy = {"Proxy-Authorization": proxy.authorization}
            else:
                headers.append(("Proxy-Authorization", proxy.authorization))
        with _as_httpx_errors(proxy):
            response = await self._session(
                judged=proxy is None and host not in self._reach.hosts, proxy=proxy
            ).request(
                request.method,
                yarl.URL(str(request.url), encoded=True),
                headers=headers,
                data=await request.aread() or None,
                allow_redirects=False,
                proxy=proxy.address if proxy is not None and not proxy.is_socks else None,
                proxy_headers=to_proxy,
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=timeout.get("connect"), sock_read=timeout.get("read")
                ),
            )
        if proxy is not None and not proxy.is_socks and response.status == 407:
            # Of a request over http, the proxy's refusal looks like an answer of the source.
            response.close()
            raise ProxyFailed(f"the proxy {proxy.place} answers 407", proxy, 407)
        body = _Body(response, timeout.get("read"))
        return httpx.Response(
            response.status,
            headers=response.raw_headers,
            stream=body,
            extensions={"http_version": b"HTTP/1.1"},
        )

    def _session(self, *, judged: bool, proxy: Proxy | None) -> aiohttp.ClientSession:
        """The pool of connections that may go anywhere, the one that judges where each goes, or
        that of a SOCKS proxy."""
        socks = proxy if proxy is not None and proxy.is_socks else None
        session = self._sessions.get((judged, socks))
        if session is None:
            session = self._sessions[judged, socks] = aiohttp.ClientSession(
                connector=self._connector(judged)
                if socks is None
                else self._connector_through(socks),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                read_bufsize=READ_AHEAD,
            )
        return session

    def _connector(self, judged: bool) -> aiohttp.BaseConnector:
        reach = self._reach if judged else None
        return _Connector(
            ssl=self._tls,
            limit=self._connections,
            keepalive_timeout=KEPT_ALIVE,
            resolver=_Resolver(self._lookups, reach),
            socket_factory=lambda address: _socket(address, reach),
        )

    def _connector_through(self, proxy: Proxy) -> aiohttp.BaseConnector:
        return SocksConnector(
            proxy,
            self._lookups,
            _watch,
            ssl=self._tls,
            limit=self._connections,
            keepalive_timeout=KEPT_ALIVE,
        )

    async def aclose(self) -> None:
        """Close all connections."""
        sessions, self._sessions = list(self._sessions.values()), {}
        for session in sessions:
            await session.close()


class _Connector(aiohttp.TCPConnector):
    """Connections that end their wait for an HTTP proxy, too.

    aiohttp has no time-out for the answer to CONNECT: with a proxy that takes the connection and
    says nothing a request would wait for ever (F75).
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
    """Looks names up for one pool of connections. With *reach*, addresses that it does not permit
    are left out."""

    def __init__(self, lookups: Lookups, reach: Reach | None) -> None:
        self._lookups = lookups
        self._reach = reach

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        results: list[ResolveResult] = []
        refused = False
        numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        for address in await self._lookups.addresses(host, family):
            number, _, protocol, _, place = address
            if number not in (socket.AF_INET, socket.AF_INET6):
                continue
            if self._reach is not None and not self._reach.permits_address(str(place[0])):
                refused = True
                continue
            results.append(
                ResolveResult(
                    hostname=host,
                    host=literal(address),
                    port=port,
                    family=number,
                    proto=protocol,
                    flags=numeric,
                )
            )
        if not results and refused:
            raise AddressForbidden(f"{host} is an address of this machine's own surroundings")
        if not results:
            raise socket.gaierror(socket.EAI_NONAME, f"{host} has no address")
        return results

    async def close(self) -> None:
        """Nothing is held."""


def _socket(
    address: AddressInfo | aiohttp.AddrInfoType, reach: Reach | None = None
) -> socket.socket:
    """A socket that notices within seconds when its other end is gone without a word (tcp(7)); with
    *reach*, only for an address that it permits."""
    family, kind, protocol, _, place = address
    if reach is not None and not reach.permits_address(str(place[0])):
        raise AddressForbidden("an address of this machine's own surroundings")
    made = socket.socket(family, kind, protocol)
    _watch(made)
    return made


def _watch(connection: socket.socket) -> None:
    """Let the system notice when the other end is gone without a word."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", DEAD_AFTER),
        ("TCP_KEEPINTVL", 3),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", DEAD_AFTER * 1000),
    ):
        # Not every system has all of them.
        if (number := getattr(socket, option, None)) is not None:
            connection.setsockopt(socket.IPPROTO_TCP, number, value)


_watched: weakref.WeakSet[asyncio.Future[None]] = weakref.WeakSet()
"""The ends of connections whose errors are looked at: one connection has many answers."""


def _look_at(ended: asyncio.Future[None]) -> None:
    if not ended.cancelled():
        ended.exception()


class _Body(httpx.AsyncByteStream):
    """The body of an answer. *silence* is the time-out of each piece, in seconds.

    After the head, aiohttp 3.14 tells an error of the framing (a chunk whose size is no number) to
    the connection, which it closes, and not to whoever reads the body, and ends its own time-out:
    the reader would wait for ever. So the end of the connection is passed on here, and silence has
    an end of its own.
    """

    def __init__(self, response: aiohttp.ClientResponse, silence: float | None) -> None:
        self._response = response
        self._silence = silence
        protocol = response.connection.protocol if response.connection is not None else None
        self._closed: asyncio.Future[None] | None = getattr(protocol, "closed", None)
        if self._closed is not None and self._closed not in _watched:
            # aiohttp makes it for who asks, and asyncio logs the error of one that nobody looks at
            # (F92).
            _watched.add(self._closed)
            self._closed.add_done_callback(_look_at)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        content = self._response.content
        if self._closed is not None:
            self._closed.add_done_callback(self._connection_closed)
        try:
            with _as_httpx_errors():
                while True:
                    async with asyncio.timeout(self._silence):
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
                aiohttp.ClientPayloadError("the connection ended within the answer")
            )

    async def aclose(self) -> None:
        # After the last byte the connection is back in the pool already, and this does nothing;
        # before it, the rest is not wanted.
        self._response.close()


@contextmanager
def _as_httpx_errors(proxy: Proxy | None = None) -> Iterator[None]:
    """Errors of aiohttp as httpx's. *proxy* is the one that a connection goes through."""
    try:
        yield
    except _CAUGHT as error:
        cause = getattr(error, "os_error", error)
        if isinstance(cause, AddressForbidden):
            raise AddressRefused(str(cause)) from error
        if proxy is not None and _is_of_proxy(error, cause, proxy):
            reason = str(error) if isinstance(error, aiohttp_socks.ProxyError) else ""
            raise ProxyFailed(
                str(error), proxy, getattr(error, "status", None), reason=reason
            ) from error
        if proxy is not None and isinstance(error, aiohttp_socks.ProxyError):
            raise BehindProxyUnreachable(str(error), proxy) from error
        mapped = next(to for kind, to in _ERRORS if isinstance(error, kind))
        if isinstance(cause, LookupTimedOut):
            mapped = httpx.ConnectTimeout
        raise mapped(str(error)) from error


def _is_of_proxy(error: BaseException, cause: object, proxy: Proxy) -> bool:
    """Whether the proxy failed, and not the source behind it."""
    if isinstance(error, aiohttp_socks.ProxyError):
        # A reply to the request to connect has a code (RFC 1928, section 6); what comes before is
        # about the client.
        return error.error_code is None
    if isinstance(
        error,
        aiohttp.ClientProxyConnectionError
        | aiohttp.ClientHttpProxyError
        | aiohttp_socks.ProxyConnectionError,
    ):
        return True
    # Sources are looked up by the proxy: what could not be looked up here was its own name.
    if isinstance(cause, socket.gaierror | LookupTimedOut | LookupsBusy):
        return True
    # The certificate of a proxy that speaks TLS.
    return (
        isinstance(error, aiohttp.ClientConnectorError)
        and error.host == proxy.host
        and error.port == proxy.port
    )
