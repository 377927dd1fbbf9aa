"""An ASGI server on aiohttp's HTTP/1 connections, for TCP and Unix sockets.

aiohttp reads the requests; what an application answers is written here. Files go from the disk's
cache to the network within the kernel: the extension ``http.response.zerocopysend`` of ASGI sends a
part of an open file with sendfile(2). Over TLS, where the kernel can't, it is not offered.

A body that can't be completed is cut off together with its connection, so that no client takes a
part of it for the whole.

No client takes memory, connections or descriptors from the others: an answer is given up when its
client leaves, a connection when its client takes nothing of an answer for `SEND_TIMEOUT` seconds;
connections (TLS handshakes included), those of one address and requests under way are bounded.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import ipaddress
import logging
import resource
import select
import socket
import ssl
import struct
import termios
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, MutableMapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from entrepot.formatting import printable
from entrepot.httpd.sendfile import NoSendfile, OpenFile, chunks, send

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_CONNECTIONS = 4096
"""Connections of a server that are open at once, at the most, TLS handshakes included; fewer where
descriptors are few: see `connection_limit`.

One more takes the place of an idle one, or of the one whose client has not taken anything for the
longest time."""

EXTRA_CONNECTIONS = 32
"""Connections beyond all limits that get an answer at once, and then are closed: health is told,
everything else gets 503."""

BACKLOG = 4096
"""Connections that wait in the kernel until they are accepted, at the most."""

ADDRESS_SHARE = 4
"""A fourth of the connections is left to others by a client address that has as many: a cluster
behind one address (NAT) may have all the rest.

Loopback, where a proxy may stand in front of all clients, and Unix sockets may have all."""

DESCRIPTORS_PER_CONNECTION = 3
"""Descriptors that a connection needs at the most: its own, its duplicate while a file is sent, and
the file."""

RESERVED_DESCRIPTORS = 256
"""Descriptors that are left to the catalog, sources, fills and the log when the number of
connections is chosen."""

LAST_DESCRIPTORS = 64
"""The last descriptors of the process, which no connection is given: its number tells, because the
kernel gives the lowest that is free."""

ACCEPT_BATCH = 64
"""Connections that are accepted in one turn of the event loop, at the most."""

ACCEPT_PAUSE = 1.0
"""Seconds after which connections are accepted again when the system had no descriptor or memory
for one."""

SEND_TIMEOUT = 300.0
"""Seconds after which a connection is closed whose client takes nothing of what is sent to it, like
nginx's send_timeout.

Much longer than nginx's 60: a system that reads slowly opens its receive window again only when a
large part of it is free (RFC 9293, 3.8.6.2.2). Of a client that reads 1 kB/s with a window of 256
kB nothing is seen for four minutes. Where its place is needed it goes after `STALLED_AFTER` seconds all
the same."""

STALLED_AFTER = 10.0
"""Seconds after which such a connection may be closed when a new one needs its place."""

WATCH_INTERVAL = 5.0
"""Seconds between two looks at what the clients have taken."""

RETRY_AFTER = 5
"""Seconds after which a client is asked to come back when too many requests are under way."""

IDLE_TIMEOUT = 60.0
"""Seconds that a connection may be without a request, or take for the headers of one."""

BODY_TIMEOUT = 30.0
"""Seconds that a request's body may stand still."""

COALESCE_LIMIT = 64 * 1024
"""Bytes of a body, at the most, that are copied to leave together with their header."""

WRITE_SIZE = 64 * 1024
"""Bytes of a large body that are handed to the network at a time; as many again wait for a slow
client. The rest stays in the one copy that all share."""

HANDSHAKE_TIMEOUT = 10.0
"""Seconds that a client has for its TLS handshake."""

REASON_KEY = "entrepot.reason"
"""In the message that starts an answer: what the status line says besides the phrase of its status.
Clients show it of a 5xx, and not the body."""

ON_SENT_KEY = "entrepot.sent"
"""A function in the message ``http.response.zerocopysend`` that is told each number of bytes as
they go out."""

_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_CLIENT_GONE = frozenset(
    {
        errno.ETIMEDOUT,
        errno.EHOSTUNREACH,
        errno.EHOSTDOWN,
        errno.ENETUNREACH,
        errno.ENETDOWN,
        errno.ENOTCONN,
    }
)
"""How a socket says, besides ConnectionError, that the machine or network of the client is gone."""

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
"""RFC 9110, 9.2.1: who has asked with them and left has no use of the answer. What changes
something is not broken off in the middle."""

_LEFT = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR

_OURS = frozenset({b"connection", b"transfer-encoding"})
_ASGI = {"version": "3.0", "spec_version": "2.4"}
_SENDS_FILES: dict[str, dict[str, Any]] = {"http.response.zerocopysend": {}}

_log = logging.getLogger("entrepot.server")

# aiohttp logs each request that can't be read with a stack of its parser; the client is told what
# is wrong, and it is no failure of ours.
_unread = logging.getLogger("entrepot.server.unread")
_unread.disabled = True


class Disconnected(ConnectionError):
    """The client is gone: nothing can be sent to it."""


@dataclass(eq=False, slots=True)
class _Connection:
    """A client's connection. *address* is what counts for its share of the connections, None where
    there is none."""

    handler: web.RequestHandler
    socket: socket.socket
    address: str | None
    is_extra: bool = False
    """Whether it is one of `EXTRA_CONNECTIONS`."""
    transport: asyncio.Transport | None = None
    """None until the TLS handshake is over."""
    arriving: asyncio.Task[None] | None = None
    begun: bool = False
    handed: int = 0
    """Bytes handed to the kernel or the transport so far."""
    moved: float = 0.0
    """When the client was last seen to take something, or had nothing to take, on the event loop's
    clock."""
    _seen: tuple[int, int, int] = field(default=(0, 0, 0))

    def standing_still(self, now: float) -> float:
        """For how many seconds the client has not taken anything of what was sent to it."""
        transport = self.transport
        if transport is None or (transport.is_closing() and not transport.get_write_buffer_size()):
            return 0.0
        buffered, queued = transport.get_write_buffer_size(), _unsent(transport)
        seen = (self.handed, buffered, queued)
        if seen != self._seen or not buffered + queued:
            self._seen, self.moved = seen, now
        return now - self.moved

    def reset(self) -> None:
        """End the connection at once. What was not sent is dropped, in the kernel too."""
        transport = self.transport
        if transport is not None:
            _drop_unsent(transport.get_extra_info("socket"))
            transport.abort()


def connection_limit() -> int:
    """How many connections a server may have: `MAX_CONNECTIONS`, or as many as there are descriptors
    for."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (
        MAX_CONNECTIONS
        if most == resource.RLIM_INFINITY
        else min(
            MAX_CONNECTIONS, max(16, (most - RESERVED_DESCRIPTORS) // DESCRIPTORS_PER_CONNECTION)
        )
    )


class HttpServer:
    """Serves one ASGI application, on any number of sockets.

    *cut* asks the application to break off its answers: see `stop`. *connections* is the most that
    are open, and *requests* the most that are under way, those included whose client left; one more
    gets its answer from *busy*, unless its path is in *always*.
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
        self._most = (
            connection_limit() if connections is None else min(connections, connection_limit())
        )
        self._most_requests = self._most if requests is None else requests
        self._share = max(1, self._most // ADDRESS_SHARE)
        self._listening: list[_Listener] = []
        self._arriving: dict[web.RequestHandler, _Connection] = {}
        """Connections that are accepted, but not yet ready: for TLS their handshake is not over."""
        self._connections: dict[web.RequestHandler, _Connection] = {}
        self._stalled: list[_Connection] = []
        """Those whose clients have not taken anything for `STALLED_AFTER` seconds at the last look, the
        one that has waited longest last."""
        self._per_address: Counter[str] = Counter()
        self._extra = 0
        self._answering: dict[web.RequestHandler, _Exchange] = {}
        self._watching: asyncio.TimerHandle | None = None
        self._stopping = False
        self._changed = asyncio.Event()

    async def listen(self, listener: socket.socket, *, tls: ssl.SSLContext | None = None) -> None:
        """Answer on a socket that is bound: see `bind_tcp` and `entrepot.server.unix_socket`. With
        *tls*, behind TLS."""
        self._listening.append(_Listener(self, listener, _Connections(self), tls))

    def stop_listening(self, listening: socket.socket) -> None:
        """Accept nobody any more on a socket, and close it. The connections that came there stay."""
        for listener in [each for each in self._listening if each.listens_on(listening)]:
            listener.close()
            self._listening.remove(listener)

    async def stop(self, *, grace: float, cutting: float = 1.0) -> None:
        """Take no more requests. Answers under way have *grace* seconds; then the application cuts
        them, and has *cutting* seconds for that."""
        self._stopping = True
        for listener in self._listening:
            listener.close()
        for arriving in self._arriving.values():
            if arriving.arriving is not None:
                arriving.arriving.cancel()
        for handler in list(self._connections):
            if handler in self._answering:
                handler.close()
            else:
                handler.force_close()
        if not await self._ended(grace):
            await self.cut_off(cutting)
        if self._watching is not None:
            self._watching.cancel()

    async def cut_off(self, cutting: float) -> None:
        """Cut the answers under way, which have *cutting* seconds to end by themselves."""
        if self._cut is not None:
            self._cut()
        if self._cut is None or not await self._ended(cutting):
            for exchange in self._answering.values():
                # While a file is being sent its connection must not be closed; the exchange closes
                # it.
                exchange.task.cancel()
            for handler, connection in self._connections.items():
                if handler not in self._answering and connection.transport is not None:
                    connection.transport.abort()
            await self._ended(cutting)

    async def _ended(self, seconds: float) -> bool:
        """Whether every answer is over, and every connection closed, within so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                while self._connections or self._answering or self._arriving:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    # What happens on the connections

    def accepted(
        self,
        connected: socket.socket,
        address: object,
        factory: _Connections,
        tls: ssl.SSLContext | None,
    ) -> None:
        """A client has connected: it is let in, or it is told that there is no room, or its
        connection is reset."""
        client = _counted_address(address)
        is_extra = not self._has_room(connected, client)
        if self._stopping or (is_extra and self._extra >= EXTRA_CONNECTIONS):
            with connected:
                _drop_unsent(connected)
            return
        handler = factory()
        connection = self._arriving[handler] = _Connection(handler, connected, client, is_extra)
        self._extra += is_extra
        if client is not None:
            self._per_address[client] += 1
        connection.arriving = asyncio.get_running_loop().create_task(self._arrive(connection, tls))
        connection.arriving.add_done_callback(lambda _: self._arrived(connection))

    async def _arrive(self, connection: _Connection, tls: ssl.SSLContext | None) -> None:
        connection.begun = True
        # A client may have left, speak no TLS, or not in time.
        with suppress(OSError):
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection.handler,
                connection.socket,
                ssl=tls,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT if tls is not None else None,
            )

    def _arrived(self, connection: _Connection) -> None:
        if self._arriving.pop(connection.handler, None) is not None:
            self._released(connection)
        if not connection.begun:
            # Cancelled before it began: no transport closes it.
            connection.socket.close()

    def _has_room(self, connected: socket.socket, address: str | None) -> bool:
        """Whether one more connection can be taken; for that, one that does nothing may have to go."""
        free = self._most - (len(self._connections) + len(self._arriving) - self._extra)
        if (
            address is not None
            and free <= self._share <= self._per_address[address]
            and not self._close_one(address)
        ):
            return False
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        is_full = free <= 0
        is_last = most != resource.RLIM_INFINITY and connected.fileno() >= most - LAST_DESCRIPTORS
        return not (is_full or is_last) or self._close_one()

    def _close_one(self, address: str | None = None) -> bool:
        """Close a connection that is idle, else the one whose client has stood still for the
        longest time; with *address*, one of its own."""
        now = asyncio.get_running_loop().time()
        for handler, connection in self._connections.items():
            if (
                handler not in self._answering
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
                    and stalled.standing_still(now) >= STALLED_AFTER
                ):
                    stalled.reset()
                    return True
        return False

    def no_descriptors(self, error: OSError) -> None:
        """The system has no room for another connection."""
        _log.error("No connection can be accepted: %s. An idle one is closed.", error.strerror)
        self._close_one()

    def opened(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """A connection is ready for requests."""
        connection = self._arriving.pop(handler)
        connection.transport = transport
        connection.moved = asyncio.get_running_loop().time()
        self._connections[handler] = connection
        if transport.get_extra_info("sslcontext") is not None:
            # asyncio would keep eight times as much for a client that does not read.
            transport.set_write_buffer_limits(WRITE_SIZE)
        if self._stopping:
            transport.abort()
        if self._watching is None:
            self._watching = asyncio.get_running_loop().call_later(WATCH_INTERVAL, self._watch)

    def closed(self, handler: web.RequestHandler) -> None:
        """A client is gone."""
        self._released(self._connections.pop(handler))
        if handler in self._answering:
            self._answering[handler].leave()

    def _released(self, connection: _Connection) -> None:
        self._extra -= connection.is_extra
        if connection.address is not None:
            self._per_address[connection.address] -= 1
            if not self._per_address[connection.address]:
                del self._per_address[connection.address]
        self._changed.set()

    def _watch(self) -> None:
        self._watching = None
        self.close_stalled(asyncio.get_running_loop().time())
        self.close_gone()
        if self._connections:
            self._watching = asyncio.get_running_loop().call_later(WATCH_INTERVAL, self._watch)

    def close_stalled(self, now: float) -> None:
        """Close the connections whose clients have taken nothing for `SEND_TIMEOUT` seconds, and
        remember who may be closed for a new one."""
        stalled = [
            each
            for each in self._connections.values()
            if each.standing_still(now) >= min(STALLED_AFTER, SEND_TIMEOUT)
        ]
        stalled.sort(key=lambda each: each.moved, reverse=True)
        for connection in stalled:
            if now - connection.moved >= SEND_TIMEOUT:
                connection.reset()
        self._stalled = [each for each in stalled if now - each.moved < SEND_TIMEOUT]

    def close_gone(self) -> None:
        """Close the connections that wait for an answer and whose clients are gone.

        The event loop notices that by itself, but not where reading is paused because a client
        asked for more before it had its answer.
        """
        poll = select.poll()
        waiting: dict[int, _Connection] = {}
        for handler in self._answering:
            connection = self._connections.get(handler)
            transport = None if connection is None else connection.transport
            if (
                connection is not None
                and transport is not None
                and not transport.is_closing()
                and not transport.is_reading()
            ):
                descriptor = transport.get_extra_info("socket").fileno()
                waiting[descriptor] = connection
                poll.register(descriptor, _LEFT)
        for descriptor, _ in poll.poll(0):
            waiting[descriptor].reset()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Let the application answer a request."""
        handler = request.protocol
        connection = self._connections.get(handler)
        if connection is None:
            return _CLOSES
        app = self._app
        if (
            connection.is_extra or len(self._answering) >= self._most_requests
        ) and request.path not in self._always:
            app = self._busy
        exchange = self._answering[handler] = _Exchange(
            request, connection, ends=self._stopping or connection.is_extra
        )
        try:
            await app(exchange.scope(), exchange.receive, exchange.send)
            if not exchange.complete:
                exchange.cut()
        except Exception as error:
            if not isinstance(error, Disconnected) and not exchange.is_over:
                await exchange.fail(error)
        except asyncio.CancelledError:
            exchange.cut()
            if not exchange.given_up:
                raise
            exchange.task.uncancel()
        finally:
            del self._answering[handler]
            self._changed.set()
        return _KEEPS_ALIVE if exchange.keeps_alive and not self._stopping else _CLOSES


class _Listener:
    """Accepts the clients that come to one socket.

    asyncio's own server tells nobody of a connection whose TLS handshake is not over, and when
    descriptors are used up it logs a stack for each connection of its backlog, every second.
    """

    def __init__(
        self,
        server: HttpServer,
        listening: socket.socket,
        factory: _Connections,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._server = server
        self._factory = factory
        self._socket = listening
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        listening.setblocking(False)
        listening.listen(BACKLOG)
        self._loop.add_reader(listening, self._accept)

    def listens_on(self, listening: socket.socket) -> bool:
        """Whether this is the one for a socket."""
        return self._socket is listening

    def close(self) -> None:
        """Accept nobody any more."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _accept(self) -> None:
        for _ in range(ACCEPT_BATCH):
            try:
                connected, address = self._socket.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    # accept(2): what happened to that one connection, or its network, is no failure
                    # of this socket.
                    continue
                self._loop.remove_reader(self._socket)
                self._pause = self._loop.call_later(ACCEPT_PAUSE, self._go_on)
                self._server.no_descriptors(error)
                return
            connected.setblocking(False)
            self._server.accepted(connected, address, self._factory, self._tls)

    def _go_on(self) -> None:
        self._pause = None
        self._loop.add_reader(self._socket, self._accept)


async def _refuse_busy(scope: Scope, receive: Receive, send: Send) -> None:
    text = b"Too many requests are under way. Come back in a few seconds.\n"
    headers = [
        (b"content-type", b"text/plain"),
        (b"content-length", b"%d" % len(text)),
        (b"retry-after", b"%d" % RETRY_AFTER),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else text})


def _counted_address(address: object) -> str | None:
    """What of a client's address counts for its share: an IPv4 address, the network (/64) of an
    IPv6 address; None on loopback and on Unix sockets."""
    if not isinstance(address, tuple):
        return None
    try:
        ip = ipaddress.ip_address(str(address[0]).partition("%")[0])
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if ip.is_loopback:
        return None
    return str(ip) if ip.version == 4 else str(ipaddress.ip_network((ip, 64), strict=False))


def _unsent(transport: asyncio.Transport) -> int:
    """Bytes in the kernel that the client has not taken (tcp(7), SIOCOUTQ); 0 where that can't be
    told."""
    connected = transport.get_extra_info("socket")
    if connected is None or connected.fileno() < 0:
        return 0
    try:
        return int(
            struct.unpack("i", fcntl.ioctl(connected.fileno(), termios.TIOCOUTQ, bytes(4)))[0]
        )
    except OSError:
        return 0


def _drop_unsent(connected: Any) -> None:
    """Let the end of a connection be a reset (RST, not FIN), for which the kernel keeps nothing."""
    with suppress(OSError):
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class _Connections(web.Server):
    """aiohttp's side: it makes a connection for each client, and tells when one comes or goes."""

    def __init__(self, server: HttpServer) -> None:
        super().__init__(
            server.answer,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=IDLE_TIMEOUT,
            logger=_unread,
        )
        self._server = server

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        self._server.opened(handler, transport)

    def connection_lost(
        self, handler: web.RequestHandler, exc: BaseException | None = None
    ) -> None:
        super().connection_lost(handler, exc)
        self._server.closed(handler)


class _Answered(web.StreamResponse):
    """Tells aiohttp that everything has been sent already, and what becomes of the connection."""

    def __init__(self, keeps_alive: bool) -> None:
        super().__init__()
        self._keeps_alive = keeps_alive

    @property
    def keep_alive(self) -> bool:
        return self._keeps_alive

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        pass


_KEEPS_ALIVE = _Answered(True)
_CLOSES = _Answered(False)


def _in_ascii(query: str) -> bytes:
    """A query whose other bytes are written as RFC 3986 wants them: applications decode it, and not
    all bytes are text."""
    return (
        query.encode()
        if query.isascii()
        else quote(
            query.encode("utf-8", "surrogateescape"), safe="".join(map(chr, range(128)))
        ).encode()
    )


class _Exchange:
    """One request and its answer, as ASGI sees them."""

    def __init__(self, request: web.BaseRequest, connection: _Connection, *, ends: bool) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.task = task
        self.request = request
        self._connection = connection
        self.keeps_alive = request.keep_alive and not ends
        self.complete = False
        self.is_over = False
        """Whether the application was told that the client is gone: what it raises after that is a
        consequence, and no failure."""
        self.given_up = False
        """Whether the application was cancelled because the client is gone."""
        self._disconnected = asyncio.Event()
        self._calls = 0
        """Calls of `receive` and `send` under way, which tell the application of themselves that
        the client is gone."""
        self._file_socket: socket.socket | None = None
        self._writer = request.writer
        self._head: bytes | None = None
        self._started = False
        self._has_body = True
        self._left: int | None = None
        """Bytes of the body that are yet to come, where its length is known."""
        self._chunked = False
        self._received = False
        """Whether the request's body has been received to its end."""
        self._continues = request.headers.get("Expect", "").lower() == "100-continue"

    def scope(self) -> Scope:
        """What ASGI says of a request."""
        request = self.request
        target = (
            request.raw_path if request.raw_path.startswith("/") else _origin_form(request.raw_path)
        )
        raw_path, _, query = target.partition("?")
        transport = request.transport
        peer = transport.get_extra_info("peername") if transport is not None else None
        name = transport.get_extra_info("sockname") if transport is not None else None
        tls = transport is not None and transport.get_extra_info("sslcontext") is not None
        return {
            "type": "http",
            "asgi": _ASGI,
            "http_version": "1.0" if request.version < (1, 1) else "1.1",
            "method": request.method,
            "scheme": "https" if tls else "http",
            "path": unquote(raw_path) if "%" in raw_path else raw_path,
            "raw_path": raw_path.encode("utf-8", "surrogateescape"),
            "query_string": _in_ascii(query),
            "root_path": "",
            "headers": [(key.lower(), value) for key, value in request.raw_headers],
            "client": tuple(peer[:2]) if isinstance(peer, tuple) else None,
            "server": tuple(name[:2]) if isinstance(name, tuple) else None,
            "extensions": {} if tls else _SENDS_FILES,
        }

    def leave(self) -> None:
        """The client is gone. Who waits for that, or sends, is told; an answer that does neither,
        and changes nothing, is given up at once (S06)."""
        self._disconnected.set()
        if self._file_socket is not None:
            with suppress(OSError):
                self._file_socket.shutdown(socket.SHUT_RDWR)
        if not self._calls and not self.complete and self.request.method in _SAFE:
            self.given_up = True
            self.task.cancel()

    async def receive(self) -> Message:
        """The request's body piece by piece, and then that the client is gone."""
        self._calls += 1
        try:
            message = await self._receive()
        finally:
            self._calls -= 1
        if message["type"] == "http.disconnect":
            self.is_over = True
        return message

    async def _receive(self) -> Message:
        if not self._received:
            content = self.request.content
            if self._continues and not self._started and not content.at_eof():
                self._continues = False
                await self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
            try:
                async with asyncio.timeout(BODY_TIMEOUT):
                    body = await content.readany()
            except (TimeoutError, web.RequestPayloadError, OSError):
                self.keeps_alive = False
                return {"type": "http.disconnect"}
            self._received = content.at_eof()
            return {"type": "http.request", "body": body, "more_body": not self._received}
        if not self.complete:
            await self._disconnected.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Send what the application answers. Raises `Disconnected`, and ValueError or RuntimeError
        for what HTTP does not allow."""
        self._calls += 1
        try:
            await self._send(message)
            if self._disconnected.is_set() and not self.complete:
                raise Disconnected
        except Disconnected:
            self.is_over = True
            raise
        finally:
            self._calls -= 1

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            if self._head is not None:
                raise RuntimeError("The answer has begun already.")
            self._begin(message["status"], message.get("headers", ()), message.get(REASON_KEY, b""))
            return
        if self._head is None or self.complete:
            raise RuntimeError(f"{kind} has no place here.")
        more = message.get("more_body", False)
        if kind == "http.response.body":
            await self._send_bytes(message.get("body", b""), more)
        elif kind == "http.response.zerocopysend":
            await self._send_file(
                message["file"],
                message["offset"],
                message["count"],
                message.get(ON_SENT_KEY, _ignore_count),
            )
        else:
            raise RuntimeError(f"{kind} is not known here.")
        if not more:
            await self._end()

    async def fail(self, error: Exception) -> None:
        """The application has failed: say so if nothing has been said yet, and cut the connection
        otherwise."""
        if self._started:
            self.cut()
            return
        _log.error(
            "%s %s failed in an unforeseen way",
            self.request.method,
            printable(self.request.path, 200),
            exc_info=error,
        )
        self._head, self._left, self._chunked, self._has_body = None, None, False, True
        self.keeps_alive = False
        try:
            await self.send(
                {
                    "type": "http.response.start",
                    "status": 500,
                    "headers": [(b"content-length", b"0")],
                }
            )
            await self.send({"type": "http.response.body"})
        except Disconnected:
            pass

    def cut(self) -> None:
        """End the connection in the middle."""
        self.keeps_alive = False
        transport = self.request.transport
        if transport is None:
            return
        connected = transport.get_extra_info("socket")
        if self._started and self._left is None and not self._chunked and connected is not None:
            # The end of the connection would be the end of the body: it must look broken.
            _drop_unsent(connected)
        transport.abort()

    # How it is written

    def _begin(self, status: int, headers: Iterable[tuple[bytes, bytes]], reason: bytes) -> None:
        self._has_body = (
            self.request.method != "HEAD" and status not in {204, 304} and status >= 200
        )
        lines = [
            _status_line(status)
            if not reason
            else _status_line(status)[:-2] + b": " + reason + b"\r\n"
        ]
        dated = False
        for name, value in headers:
            key = name.lower()
            if key == b"content-length":
                self._left = int(value)
            elif key == b"date":
                dated = True
            elif key in _OURS:
                continue
            lines.append(name + b": " + value + b"\r\n")
        if not dated:
            lines.append(_date(int(time.time())))
        head = b"".join(lines)
        if not head.count(b"\n") == head.count(b"\r") == len(lines) or b"\0" in head:
            raise ValueError("A header has a line break in it.")
        self._head = head

    def _finished_head(self, body: int, more: bool) -> bytes:
        """The header with what tells where the body ends, now that is known whether there is more
        of it than these *body* bytes."""
        head = self._head or b""
        old = self.request.version < (1, 1)
        if self._left is None and self._has_body:
            if not more:
                self._left = body
                head += b"content-length: %d\r\n" % body
            elif old:
                self.keeps_alive = False
            else:
                self._chunked = True
                head += b"transfer-encoding: chunked\r\n"
        if not self._received and self._continues:
            # The client holds its body back, and nobody knows whether it sends it after this.
            self.keeps_alive = False
        if not self.keeps_alive:
            head += b"connection: close\r\n"
        elif old:
            head += b"connection: keep-alive\r\n"
        self._started = True
        return head + b"\r\n"

    async def _send_bytes(self, body: bytes, more: bool) -> None:
        head = b"" if self._started else self._finished_head(len(body), more)
        if not self._has_body:
            body = b""
        self._count(len(body))
        before, after = (b"%x\r\n" % len(body), b"\r\n") if self._chunked and body else (b"", b"")
        if len(body) <= COALESCE_LIMIT:
            # A copy costs less than a packet of its own.
            if content := head + before + body + after if head or before else body:
                await self._write(content)
            return
        if head or before:
            await self._write(head + before)
        # Not all at once: what a client does not take would be copied for each.
        view = memoryview(body)
        for start in range(0, len(body), WRITE_SIZE):
            await self._write(view[start : start + WRITE_SIZE])
            await self._drained()
        if after:
            await self._write(after)

    async def _send_file(
        self, file: OpenFile, offset: int, count: int, told: Callable[[int], None]
    ) -> None:
        transport = self.request.transport
        if transport is None or transport.is_closing():
            raise Disconnected
        head = b"" if self._started else self._finished_head(count, more=True)
        if not self._has_body:
            await self._write(head)
            return
        if self._chunked:
            raise RuntimeError("Files are sent with a content length.")
        self._count(count)
        sent = 0
        try:
            connected: socket.socket = transport.get_extra_info("socket").dup()
        except OSError:
            # There is no descriptor left: this way needs none.
            await self._write(head)
            await self._send_chunks(file, offset, count, told)
            return
        # What is still in the transport's own buffer comes before the file.
        transport.set_write_buffer_limits(0)
        with connected:
            if head and not transport.get_write_buffer_size():
                head = head[_send_with_more(connected, head) :]
            if head:
                await self._write(head)
            await self._drained()
            if self._disconnected.is_set():
                raise Disconnected

            def count_sent(step: int) -> None:
                nonlocal sent
                sent += step
                self._connection.handed += step
                told(step)

            self._file_socket = connected
            try:
                with _corked(connected):
                    await send(connected, file, offset, count, count_sent)
            except NoSendfile:
                await self._send_chunks(file, offset + sent, count - sent, told)
            except OSError as error:
                if isinstance(error, ConnectionError) or error.errno in _CLIENT_GONE:
                    raise Disconnected from error
                raise
            finally:
                self._file_socket = None
        transport.set_write_buffer_limits()

    async def _send_chunks(
        self, file: OpenFile, offset: int, count: int, told: Callable[[int], None]
    ) -> None:
        async for chunk in chunks(file, offset, count):
            await self._write(chunk)
            await self._drained()
            told(len(chunk))

    def _count(self, sent: int) -> None:
        if self._left is not None and self._has_body:
            self._left -= sent
            if self._left < 0:
                raise RuntimeError("The body is longer than its content length.")

    async def _end(self) -> None:
        if self._has_body and self._left:
            raise RuntimeError(f"The body is {self._left:,} bytes shorter than its content length.")
        if self._chunked and self._has_body:
            await self._write(b"0\r\n\r\n")
        await self._drained()
        self.complete = True
        transport = self.request.transport
        if (
            self._continues
            and not self._received
            and transport is not None
            and not self.request.content.at_eof()
        ):
            # aiohttp would wait for a body that never comes.
            transport.close()

    async def _write(self, content: bytes | memoryview) -> None:
        self._connection.handed += len(content)
        try:
            await self._writer.write(content)
        except ConnectionError as error:
            raise Disconnected from error

    async def _drained(self) -> None:
        try:
            await self._writer.drain()
        except ConnectionError as error:
            raise Disconnected from error


def _ignore_count(sent: int) -> None:
    """Nobody wants to know."""


@contextmanager
def _corked(connected: socket.socket) -> Iterator[None]:
    """Within it only full packets leave (tcp(7), TCP_CORK), as with nginx's tcp_nopush: sent piece
    by piece, a file takes the kernel a third more time."""
    cork = getattr(socket, "TCP_CORK", None) if connected.family != socket.AF_UNIX else None
    if cork is None:
        yield
        return
    with suppress(OSError):
        connected.setsockopt(socket.IPPROTO_TCP, cork, 1)
    try:
        yield
    finally:
        # Of a connection that is gone, nothing is left to be sent.
        with suppress(OSError):
            connected.setsockopt(socket.IPPROTO_TCP, cork, 0)


def _send_with_more(connected: socket.socket, head: bytes) -> int:
    """Send a header that goes into one packet with what follows it (send(2), MSG_MORE); returns how
    much of it was taken."""
    try:
        return connected.send(head, getattr(socket, "MSG_MORE", 0))
    except (BlockingIOError, InterruptedError):
        return 0
    except OSError as error:
        raise Disconnected from error


def _origin_form(target: str) -> str:
    """Path and query of a target in another form than ``/path?query``: ``http://host/path`` as for
    a proxy, or ``*``."""
    try:
        parts = urlsplit(target)
    except ValueError:
        return target
    if not parts.scheme or not parts.netloc:
        return target
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


@lru_cache(64)
def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


@lru_cache(2)
def _date(second: int) -> bytes:
    return f"date: {formatdate(second, usegmt=True)}\r\n".encode()


def bind_tcp(host: str, port: int) -> socket.socket:
    """A TCP socket that is bound to an address, port 0 for any that is free. Raises OSError;
    `socket.gaierror` for a name that is no address."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except OSError:
        made.close()
        raise
    return made


@asynccontextmanager
async def serving(
    app: Application,
    listener: socket.socket,
    *,
    tls: ssl.SSLContext | None = None,
    grace: float = 0.0,
) -> AsyncIterator[HttpServer]:
    """Within it *app* answers on *listener*; at its end, answers under way have *grace* seconds."""
    server = HttpServer(app)
    await server.listen(listener, tls=tls)
    try:
        yield server
    finally:
        await server.stop(grace=grace)
