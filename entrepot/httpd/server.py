"""An ASGI server on aiohttp's HTTP/1 parser, for TCP and Unix sockets.

Our own, because no maintained ASGI server sends files with offsets within the kernel: uvicorn and
hypercorn copy in Python; granian copied each byte in reads of 128 KiB, its memory grew with the
clients, and its ``pathsend`` knows no offset. Here ASGI's extension
``http.response.zerocopysend`` is offered, within the kernel on connections without TLS, and by the
same thread with TLS. The figures are in
``docs/benchmarks.md``.

The application is ASGI and not `aiohttp.web`, which was measured in December 2026 with the same
routes, checks and counters (`web.Server` and `web.Application`, aiohttp 3, 16 connections, medians
of four rounds in one process): manifests by tag 10.0 thousand per second here, 10.5 and 11.7 there;
by digest 9.9 here, 8.3 and 9.5 there; 78, 70 and 68 us of processor time by tag, 72, 78 and 72 by
digest. Cached blobs of 50 MB and the memory of a connection (7.4, 7.5 and 7.7 kB) were the same.
That is no reason to write the responses, limits and disconnects again.

No client takes memory, connections or descriptors from the others: a response is cancelled when its
client disconnects; a connection is reset when its client reads nothing of a response for
`SEND_TIMEOUT` seconds; connections (TLS handshakes included), those of one address, and running
requests are limited.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import select
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from functools import partial

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from entrepot.httpd.asgi import Application, Disconnected, Receive, Scope, Send
from entrepot.httpd.connections import (
    ClientConnection,
    Listener,
    connection_limit,
    counted_address,
    reset_on_close,
)
from entrepot.httpd.exchange import Exchange
from entrepot.httpd.file_sender import FileSender
from entrepot.httpd.tls_transport import TlsTransport, accept_tls

EXTRA_CONNECTIONS = 32
"""Connections beyond all limits that get one response and are then closed.

Health checks are answered; everything else gets 503."""

ADDRESS_SHARE = 4
"""An address with a fourth of the connections must leave another fourth free: a cluster behind one
address (NAT) may have all the rest.

Loopback, where a proxy may stand in front of all clients, and Unix sockets may have all."""

LAST_DESCRIPTORS = 64
"""The last descriptors of the process, which no connection gets.

The number of a descriptor tells, because the kernel gives the lowest free one."""

SEND_TIMEOUT = 300.0
"""Seconds after which a connection is reset whose client reads nothing, like nginx's send_timeout.

Much longer than nginx's 60: a slow reader opens its receive window again only when a large part of
it is free (RFC 9293, 3.8.6.2.2). A client that reads 1 kB/s with a window of 256 kB shows no
progress for four minutes. Where its place is needed, it is reset after `STALLED_AFTER` seconds."""

STALLED_AFTER = 10.0
"""Seconds after which such a connection may be reset when a new one needs its place."""

WATCH_INTERVAL = 5.0
"""Seconds between two checks of what the clients have read."""

RETRY_AFTER = 5
"""Retry-After of a 503 in seconds, when too many requests are running."""

IDLE_TIMEOUT = 60.0
"""Seconds that a connection may be without a request, or take for the headers of one."""

HANDSHAKE_TIMEOUT = 10.0
"""Seconds that a client has for its TLS handshake."""

HTTPS_RECEIVED = "HTTPS traffic"
"""What aiohttp's error says of a client that begins with a TLS handshake."""

_HANGUP = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR

_log = logging.getLogger("entrepot.server")

# aiohttp logs each malformed request with a stack of its parser. The client gets 400; it is no
# failure of the server.
_malformed = logging.getLogger("entrepot.server.unread")
_malformed.disabled = True


class HttpServer:
    """Serves one ASGI application, on any number of sockets.

    *cut* asks the application to break off its responses: see `stop`. *connections* limits those
    that are open, *requests* those that are running, including requests whose client disconnected;
    one more is answered by *busy*, unless its path is in *always*.
    """

    def __init__(
        self,
        app: Application,
        *,
        cut: Callable[[], None] | None = None,
        busy: Application | None = None,
        always: Iterable[str] = (),
        connections: int | None = None,
        requests: int | None = None,
    ) -> None:
        self._app = app
        self._cut = cut
        self._busy = _refuse_busy if busy is None else busy
        self._always = frozenset(always)
        self._max_connections = (
            connection_limit() if connections is None else min(connections, connection_limit())
        )
        self._max_requests = self._max_connections if requests is None else requests
        self._share = max(1, self._max_connections // ADDRESS_SHARE)
        self._listeners: list[Listener] = []
        self._pending: dict[web.RequestHandler, ClientConnection] = {}
        """Accepted connections without a transport yet: for TLS their handshake is not over."""
        self._connections: dict[web.RequestHandler, ClientConnection] = {}
        self._stalled: list[ClientConnection] = []
        """Connections stalled for `STALLED_AFTER` seconds at the last check, the longest last."""
        self._per_address: Counter[str] = Counter()
        self._extra = 0
        self._exchanges: dict[web.RequestHandler, Exchange] = {}
        self._ending = 0
        """Exchanges that end as soon as the sending thread has let go of their connection."""
        self._files = FileSender()
        self._watch_timer: asyncio.TimerHandle | None = None
        self._stopping = False
        self._changed = asyncio.Event()

    async def listen(
        self,
        listener: socket.socket,
        *,
        tls: ssl.SSLContext | Callable[[], ssl.SSLContext] | None = None,
        app: Application | None = None,
    ) -> None:
        """Accept connections on a bound socket, with *tls* behind TLS.

        A function *tls* is asked for the context of each new connection. *app* answers on this
        socket in place of the server's own. See `bind_tcp` and `entrepot.server.unix_socket`.
        """
        accept = partial(self._accept, _AiohttpServer(self), app or self._app, tls)
        self._listeners.append(Listener(listener, accept, self._make_room))

    def stop_listening(self, listening: socket.socket) -> None:
        """Accept no more connections on a socket, and close it; its connections stay."""
        for listener in [each for each in self._listeners if each.listens_on(listening)]:
            listener.close()
            self._listeners.remove(listener)

    async def stop(self, *, grace: float, abort_timeout: float = 1.0) -> None:
        """Accept no more requests, and end the running ones.

        Running responses have *grace* seconds; then the application cuts them, for which it has
        *abort_timeout* seconds.
        """
        self._stopping = True
        for listener in self._listeners:
            listener.close()
        for pending in self._pending.values():
            if pending.setup is not None:
                pending.setup.cancel()
        for handler in list(self._connections):
            if handler in self._exchanges:
                handler.close()
            else:
                handler.force_close()
        if not await self._all_closed(grace):
            await self.abort_responses(abort_timeout)
        if self._watch_timer is not None:
            self._watch_timer.cancel()
        self._files.close()

    async def abort_responses(self, abort_timeout: float) -> None:
        """Cut the running responses.

        They have *abort_timeout* seconds to end by themselves.
        """
        if self._cut is not None:
            self._cut()
        if self._cut is None or not await self._all_closed(abort_timeout):
            for exchange in self._exchanges.values():
                # Its connection must not be closed while a file is being sent: the exchange closes
                # it.
                exchange.task.cancel()
            for handler, connection in self._connections.items():
                if handler not in self._exchanges and connection.transport is not None:
                    connection.transport.abort()
            await self._all_closed(abort_timeout)

    async def _all_closed(self, seconds: float) -> bool:
        """Wait until all responses have ended and all connections are closed; False if not."""
        try:
            async with asyncio.timeout(seconds):
                while self._connections or self._exchanges or self._pending:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    # Connections

    def _accept(
        self,
        factory: _AiohttpServer,
        app: Application,
        tls: ssl.SSLContext | Callable[[], ssl.SSLContext] | None,
        connected: socket.socket,
        address: object,
    ) -> None:
        """Set up the connection of a client, or reset it where all limits are reached."""
        client = counted_address(address)
        is_extra = not self._has_room(connected, client)
        if self._stopping or (is_extra and self._extra >= EXTRA_CONNECTIONS):
            with connected:
                reset_on_close(connected)
            return
        handler = factory()
        connection = self._pending[handler] = ClientConnection(
            handler, connected, client, app, is_extra
        )
        self._extra += is_extra
        if client is not None:
            self._per_address[client] += 1
        connection.setup = asyncio.get_running_loop().create_task(
            self._set_up(connection, tls() if callable(tls) else tls)
        )
        connection.setup.add_done_callback(lambda _: self._setup_ended(connection))

    async def _set_up(self, connection: ClientConnection, tls: ssl.SSLContext | None) -> None:
        connection.setup_started = True
        # The client may have disconnected, speak no TLS, or be too slow.
        with suppress(OSError):
            if tls is None:
                await asyncio.get_running_loop().connect_accepted_socket(
                    lambda: connection.handler, connection.socket
                )
                return
            async with asyncio.timeout(HANDSHAKE_TIMEOUT):
                connection.socket = secured = await accept_tls(connection.socket, tls)
            TlsTransport(secured, connection.handler)

    def _setup_ended(self, connection: ClientConnection) -> None:
        if self._pending.pop(connection.handler, None) is not None:
            self._release(connection)
        if not connection.setup_started:
            # Cancelled before it started: no transport closes the socket.
            connection.socket.close()

    def _has_room(self, connected: socket.socket, address: str | None) -> bool:
        """Whether one more connection fits, where needed in the place of an inactive one."""
        free = self._max_connections - (len(self._connections) + len(self._pending) - self._extra)
        if (
            address is not None
            and free <= self._share <= self._per_address[address]
            and not self._close_one(address)
        ):
            return False
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        is_full = free <= 0
        is_last = limit != resource.RLIM_INFINITY and connected.fileno() >= limit - LAST_DESCRIPTORS
        return not (is_full or is_last) or self._close_one()

    def _close_one(self, address: str | None = None) -> bool:
        """Close an idle connection, else the one that is stalled for the longest time.

        With *address*, a connection of this address. False where there is none.
        """
        now = asyncio.get_running_loop().time()
        for handler, connection in self._connections.items():
            if (
                handler not in self._exchanges
                and handler.connected
                and address in {None, connection.address}
            ):
                if (
                    connection.transport is not None
                    and connection.transport.get_write_buffer_size()
                ):
                    connection.reset()
                handler.force_close()
                return True
        for position in range(len(self._stalled) - 1, -1, -1):
            stalled = self._stalled[position]
            if address in {None, stalled.address}:
                del self._stalled[position]
                if (
                    stalled.handler in self._connections
                    and stalled.stalled_for(now) >= STALLED_AFTER
                ):
                    stalled.reset()
                    return True
        return False

    def _make_room(self, error: OSError) -> None:
        """Close a connection because the system has no descriptor or memory for another one."""
        _log.error("No connection can be accepted: %s. An idle one is closed.", error.strerror)
        self._close_one()

    def connection_opened(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Register a connection that is ready for requests."""
        connection = self._pending.pop(handler)
        connection.transport = transport
        connection.progressed = asyncio.get_running_loop().time()
        self._connections[handler] = connection
        if self._stopping:
            # Not at once: the task of aiohttp's handler, which starts next, expects a connection.
            asyncio.get_running_loop().call_soon(transport.abort)
        if self._watch_timer is None:
            self._watch_timer = asyncio.get_running_loop().call_later(
                WATCH_INTERVAL, self._check_clients
            )

    def connection_closed(self, handler: web.RequestHandler) -> None:
        """Remove a connection, and end its exchange."""
        self._release(self._connections.pop(handler))
        if (exchange := self._exchanges.get(handler)) is not None:
            exchange.disconnect()
            self._ending += exchange.is_ending

    def _release(self, connection: ClientConnection) -> None:
        self._extra -= connection.is_extra
        if connection.address is not None:
            self._per_address[connection.address] -= 1
            if not self._per_address[connection.address]:
                del self._per_address[connection.address]
        self._changed.set()

    def _check_clients(self) -> None:
        self._watch_timer = None
        self.reset_stalled(asyncio.get_running_loop().time())
        self.reset_disconnected()
        if self._connections:
            self._watch_timer = asyncio.get_running_loop().call_later(
                WATCH_INTERVAL, self._check_clients
            )

    def reset_stalled(self, now: float) -> None:
        """Reset connections whose clients have read nothing for `SEND_TIMEOUT` seconds.

        Those stalled for less are remembered: they may be reset for a new connection.
        """
        self._files.report()
        stalled = [
            connection
            for connection in self._connections.values()
            if connection.stalled_for(now) >= min(STALLED_AFTER, SEND_TIMEOUT)
        ]
        stalled.sort(key=lambda connection: connection.progressed, reverse=True)
        for connection in stalled:
            if now - connection.progressed >= SEND_TIMEOUT:
                connection.reset()
        self._stalled = [each for each in stalled if now - each.progressed < SEND_TIMEOUT]

    def reset_disconnected(self) -> None:
        """Reset connections that wait for a response and whose clients are gone.

        The event loop notices that by itself, but not where reading is paused because the client
        pipelined requests.
        """
        poll = select.poll()
        paused: dict[int, ClientConnection] = {}
        for handler in self._exchanges:
            connection = self._connections.get(handler)
            transport = None if connection is None else connection.transport
            if (
                connection is not None
                and transport is not None
                and not transport.is_closing()
                and not transport.is_reading()
            ):
                descriptor = transport.get_extra_info("socket").fileno()
                paused[descriptor] = connection
                poll.register(descriptor, _HANGUP)
        for descriptor, _ in poll.poll(0):
            paused[descriptor].reset()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Let the application answer a request; called by aiohttp."""
        handler = request.protocol
        connection = self._connections.get(handler)
        if connection is None:
            return _CLOSE
        app = connection.app
        if (
            connection.is_extra or len(self._exchanges) - self._ending >= self._max_requests
        ) and request.path not in self._always:
            app = self._busy
        exchange = self._exchanges[handler] = Exchange(
            request, connection, self._files, closes=self._stopping or connection.is_extra
        )
        try:
            await app(exchange.scope(), exchange.receive, exchange.send)
            if not exchange.complete:
                exchange.cut()
        except Exception as error:
            if not isinstance(error, Disconnected) and not exchange.was_disconnected:
                await exchange.fail(error)
        except asyncio.CancelledError:
            exchange.cut()
            if not exchange.is_cancelled:
                raise
            exchange.task.uncancel()
        finally:
            del self._exchanges[handler]
            self._ending -= exchange.is_ending
            self._changed.set()
        return _KEEP_ALIVE if exchange.keeps_alive and not self._stopping else _CLOSE


async def _refuse_busy(scope: Scope, _receive: Receive, send: Send) -> None:
    text = b"Too many requests are under way. Come back in a few seconds.\n"
    headers = [
        (b"content-type", b"text/plain"),
        (b"content-length", b"%d" % len(text)),
        (b"retry-after", b"%d" % RETRY_AFTER),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else text})


class _PlainHandler(web.RequestHandler):
    """A connection without TLS, which says so to a client that begins with TLS."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no HTTP request."""
        if HTTPS_RECEIVED in (message or ""):
            # docker then says "server gave HTTP response to HTTPS client".
            message = "This port speaks plain HTTP, and the client began with TLS."
            _log.info("%s Its address is %s.", message, request.remote)
        return super().handle_error(request, status, exc, message)


class _AiohttpServer(web.Server):
    """aiohttp's side of the server.

    Creates a protocol for each connection, and reports its start and end.
    """

    def __init__(self, server: HttpServer) -> None:
        super().__init__(
            server.handle,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=IDLE_TIMEOUT,
            logger=_malformed,
        )
        self._server = server

    def __call__(self) -> web.RequestHandler:
        return _PlainHandler(self, loop=self._loop, **self._kwargs)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        self._server.connection_opened(handler, transport)

    def connection_lost(
        self, handler: web.RequestHandler, exc: BaseException | None = None
    ) -> None:
        super().connection_lost(handler, exc)
        self._server.connection_closed(handler)


class _SentResponse(web.StreamResponse):
    """A response that has been sent already: aiohttp writes nothing of it.

    It tells aiohttp whether the connection is kept alive.
    """

    def __init__(self, keeps_alive: bool) -> None:
        super().__init__()
        self._keeps_alive = keeps_alive

    @property
    def keep_alive(self) -> bool:
        return self._keeps_alive

    async def prepare(self, _request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        pass


_KEEP_ALIVE = _SentResponse(True)
_CLOSE = _SentResponse(False)


def bind_tcp(host: str, port: int) -> socket.socket:
    """Bind a TCP socket to an address; port 0 takes any free one.

    Raises OSError; `socket.gaierror` for a name that is no address.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


@asynccontextmanager
async def serving(
    app: Application,
    listener: socket.socket,
    *,
    tls: ssl.SSLContext | None = None,
    grace: float = 0.0,
) -> AsyncIterator[HttpServer]:
    """Serve *app* on *listener* within the context.

    At its end, responses have *grace* seconds.
    """
    server = HttpServer(app)
    await server.listen(listener, tls=tls)
    try:
        yield server
    finally:
        await server.stop(grace=grace)
