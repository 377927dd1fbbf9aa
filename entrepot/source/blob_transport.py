"""Requests for blobs: httpx's requests over connections whose bytes a thread can read.

A blob takes some 3 CPU seconds per GB of the event loop's time when asyncio and aiohttp receive it
over TLS. Here the loop makes the connection, sends the request and reads the head of the response;
then a thread reads the body from the socket into its own buffer, without the loop. It is all done
on the same objects, so that the loop can go on where the thread stopped.

As `entrepot.source.transport`, it sends exactly what httpx was asked to send, decodes nothing and
follows no redirect. Connections of hosts whose addresses are checked and of those that may be
anywhere are never interchanged.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable

import h11
import httpx

from entrepot.source.addresses import AddressRefused, Reach
from entrepot.source.bodies import ThreadedStream
from entrepot.source.connection import SourceConnection
from entrepot.source.connection_pool import ConnectionPool
from entrepot.source.dialing import Destination, Dialer
from entrepot.source.dns import Lookups
from entrepot.source.http1 import EndedWithoutResponse, SourceExchange, body_length, keeps_alive
from entrepot.source.proxies import ProxyFailed, proxy_of

READ_SIZE = 256 * 1024
"""Bytes of a body that the event loop reads at once."""

MAX_DISCARDED = 16 * 1024
"""Bytes of a body without a reader, such as that of a redirect, that are read so that its
connection can be kept."""

_PORTS = {"http": 80, "https": 443}
_REPEATABLE = frozenset({"GET", "HEAD"})


class BlobTransport(httpx.AsyncBaseTransport):
    """Sends httpx's requests through the proxies of the environment.

    At most *connections* are open at once; *reach* bounds where they may go. Besides httpx's errors
    it raises `AddressRefused` and `ProxyUnusable`. The stream of a response is a `ThreadedStream`.
    """

    def __init__(
        self,
        tls: ssl.SSLContext,
        lookups: Lookups,
        *,
        connections: int,
        reach: Reach | None = None,
    ) -> None:
        self._reach = reach if reach is not None else Reach()
        self._dialer = Dialer(tls, lookups, self._reach)
        self._pool = ConnectionPool(connections)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and return its response as soon as it begins."""
        destination = self._destination(request.url)
        await self._pool.reserve()
        try:
            return await self._respond(request, destination)
        except BaseException:
            self._pool.release()
            raise

    def _destination(self, url: httpx.URL) -> Destination:
        if url.scheme not in _PORTS:
            raise httpx.UnsupportedProtocol(f"no request can be sent to {url.scheme}:")
        if not self._reach.permits_host(url.host):
            raise AddressRefused(url.host)
        proxy = proxy_of(url)
        return Destination(
            is_tls=url.scheme == "https",
            host=url.raw_host.decode("ascii").strip("[]"),
            port=url.port if url.port is not None else _PORTS[url.scheme],
            checked=proxy is None and url.host not in self._reach.hosts,
            proxy=proxy,
        )

    async def _respond(self, request: httpx.Request, destination: Destination) -> httpx.Response:
        timeout = request.extensions.get("timeout", {})
        target = request.url.raw_path
        headers = list(request.headers.raw)
        content = await request.aread()
        proxy = (
            destination.proxy
            if destination.proxy is not None and not destination.proxy.is_socks
            else None
        )
        if proxy is not None and not destination.is_tls:
            # The proxy reads the request (RFC 9112, section 3.2.2).
            target = b"http://" + request.url.netloc + target
            if proxy.authorization is not None:
                headers.append((b"Proxy-Authorization", proxy.authorization.encode("ascii")))
        connection = self._pool.take(destination)
        is_reused = connection is not None
        while True:
            if connection is None:
                connection = await self._dialer.connect(
                    destination,
                    user_agent=request.headers.get("user-agent", "").encode("ascii") or None,
                    connect_timeout=timeout.get("connect"),
                    read_timeout=timeout.get("read"),
                )
            try:
                exchange = SourceExchange(connection, timeout.get("read"))
                response = await exchange.send(request.method, target, headers, content)
                if proxy is not None and response.status_code == 407:
                    # For a request over http, the proxy's refusal looks like a response of the
                    # source.
                    raise ProxyFailed(f"the proxy {proxy.place} answers 407", proxy, 407)
            except EndedWithoutResponse:
                connection.close()
                if not is_reused or request.method not in _REPEATABLE:
                    raise
                # The server ended the connection while it was idle: once more, over a new one.
                connection, is_reused = None, False
                continue
            except BaseException:
                connection.close()
                raise
            return httpx.Response(
                response.status_code,
                headers=response.headers.raw_items(),
                stream=_Body(
                    self._pool,
                    destination,
                    connection,
                    exchange,
                    response,
                    length=body_length(request.method, response),
                    read_timeout=timeout.get("read"),
                ),
                extensions={"http_version": b"HTTP/1.1"},
            )

    async def aclose(self) -> None:
        """Close all connections that are idle, and the others at the end of their responses."""
        self._pool.close()


class _Body(ThreadedStream):
    """The body of a response; *length* is that of it in bytes, None where it is not stated.

    *read_timeout* is that of each wait, in seconds. It must be closed.
    """

    def __init__(
        self,
        pool: ConnectionPool,
        destination: Destination,
        connection: SourceConnection,
        exchange: SourceExchange,
        response: h11.Response,
        *,
        length: int | None,
        read_timeout: float | None,
    ) -> None:
        self._pool = pool
        self._destination = destination
        self._connection = connection
        self._exchange = exchange
        self._read_timeout = read_timeout
        self._remaining = length
        received = exchange.received if length is not None else b""
        self._received = memoryview(received)[:length]
        """Came along with the head, and was not read yet."""
        # Bytes behind the end are no response to anything.
        self._can_be_kept = keeps_alive(response) and (length is None or len(received) <= length)
        self._is_closed = False

    @property
    def is_threaded(self) -> bool:
        return self._remaining is not None

    def read_into(self, buffer: memoryview, before_waiting: Callable[[], None]) -> int:
        assert self._remaining is not None
        buffer = buffer[: self._remaining]
        if not buffer:
            return 0
        count = self._take_received(buffer)
        if not count:
            try:
                count = self._connection.read_in_thread(buffer, self._read_timeout, before_waiting)
            except OSError as error:
                raise _failure(error) from error
        return self._counted(count)

    def interrupt(self) -> None:
        self._connection.interrupt()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._remaining is None:
            while chunk := await self._exchange.read():
                yield chunk
            return
        buffer = memoryview(bytearray(READ_SIZE))
        while self._remaining:
            piece = buffer[: self._remaining]
            count = self._take_received(piece)
            if not count:
                try:
                    async with asyncio.timeout(self._read_timeout):
                        count = await self._connection.read(piece)
                except OSError as error:
                    raise _failure(error) from error
            yield bytes(piece[: self._counted(count)])

    def _take_received(self, buffer: memoryview) -> int:
        """Copy what came along with the head into *buffer*; how many bytes."""
        count = min(len(self._received), len(buffer))
        buffer[:count] = self._received[:count]
        self._received = self._received[count:]
        return count

    def _counted(self, count: int) -> int:
        """The same number, counted; raises at an end before that of the body."""
        assert self._remaining is not None
        if not count:
            raise httpx.RemoteProtocolError("the connection ended within the response")
        self._remaining -= count
        return count

    async def aclose(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        if self._can_be_kept and self._is_read():
            self._pool.keep(self._destination, self._connection)
        else:
            self._connection.close()
        self._pool.release()

    def _is_read(self) -> bool:
        """Whether the body was read, or its rest is short and can be read without waiting."""
        if self._remaining is None:
            return self._exchange.discard()
        unread = self._remaining - len(self._received)
        if unread > MAX_DISCARDED:
            return False
        buffer = memoryview(bytearray(unread))
        try:
            while unread and (count := self._connection.read_available(buffer[:unread])):
                unread -= count
        except OSError:
            return False
        return not unread


def _failure(error: OSError) -> httpx.TransportError:
    """An error of the connection, within a body, as httpx's."""
    if isinstance(error, TimeoutError) and error.errno is None:
        return httpx.ReadTimeout(str(error))
    return httpx.RemoteProtocolError(str(error))
