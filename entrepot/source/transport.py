"""The network below httpx, through aiohttp.

Blobs are large, and the event loop that receives them also serves clients: aiohttp's parser hands over pieces of some 256 KiB for a sixth of the processor time
that httpx's own transport takes for pieces of 64 KiB. What leaves here is exactly what httpx was asked to send: addresses are not quoted anew (the signature of
a presigned URL covers its query as it was written), nothing is decoded, no redirect is followed, and no cookie and no entry of a ``.netrc`` is added.
"""

from __future__ import annotations

import socket
import ssl
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import aiohttp
import httpx
import yarl

from entrepot.source.exchange import is_local

READ_AHEAD = 256 * 1024
"""Bytes of one answer that wait in memory, at most twice as many, before the source is not read on."""

KEPT_ALIVE = 30.0
"""Seconds that an idle connection is kept. Load balancers drop theirs after 60 or more, and firewalls forget them silently."""

DEAD_AFTER = 10
"""Seconds after which a connection is given up whose other end acknowledges nothing: a firewall that restarted drops what it has forgotten."""

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
    (OSError, httpx.ReadError),
)


class SourceTransport(httpx.AsyncBaseTransport):
    """Sends httpx's requests with aiohttp. *connections* is the most that are open at once; the proxies of the environment are used."""

    def __init__(self, tls: ssl.SSLContext, *, connections: int) -> None:
        self._tls = tls
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and give its answer as soon as it begins."""
        timeout = request.extensions.get("timeout", {})
        with _as_httpx_errors():
            response = await self._opened_session().request(
                request.method,
                yarl.URL(str(request.url), encoded=True),
                headers=request.headers.multi_items(),
                data=await request.aread() or None,
                allow_redirects=False,
                proxy=proxy_for(request.url),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=timeout.get("connect"), sock_read=timeout.get("read")),
            )
        return httpx.Response(response.status, headers=response.raw_headers, stream=_Body(response), extensions={"http_version": b"HTTP/1.1"})

    def _opened_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._tls, limit=self._connections, keepalive_timeout=KEPT_ALIVE, socket_factory=_socket),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                read_bufsize=READ_AHEAD,
            )
        return self._session

    async def aclose(self) -> None:
        """Close all connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A socket that notices within seconds when its other end is gone without a word (tcp(7))."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", DEAD_AFTER), ("TCP_KEEPINTVL", 3), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", DEAD_AFTER * 1000)):
        # Not every system has all of them.
        if (number := getattr(socket, option, None)) is not None:
            made.setsockopt(socket.IPPROTO_TCP, number, value)
    return made


class _Body(httpx.AsyncByteStream):
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _as_httpx_errors():
            async for chunk in self._response.content.iter_any():
                yield chunk

    async def aclose(self) -> None:
        # After the last byte the connection is back in the pool already, and this does nothing; before it, the rest is not wanted.
        self._response.close()


def proxy_for(url: httpx.URL) -> str | None:
    """The proxy that the environment names for *url* (``HTTPS_PROXY``, ``NO_PROXY``, …); none for what runs on this machine."""
    proxies = urllib.request.getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if proxy is None or is_local(url.host) or urllib.request.proxy_bypass(url.host if url.port is None else f"{url.host}:{url.port}"):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


@contextmanager
def _as_httpx_errors() -> Iterator[None]:
    try:
        yield
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        mapped = next(to for each, to in _ERRORS if isinstance(error, each))
        raise mapped(str(error)) from error
