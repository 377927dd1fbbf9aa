"""An ASGI server on aiohttp's HTTP/1 connections, for TCP and Unix sockets.

aiohttp reads the requests; what an application answers is written here. Files go from the disk's cache to the network within the kernel: the extension
``http.response.zerocopysend`` of ASGI sends a part of an open file with sendfile(2). Over TLS, where the kernel can't, it is not offered.

A body that can't be completed is cut off together with its connection, so that no client takes a part of it for the whole.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, MutableMapping
from contextlib import asynccontextmanager, contextmanager, suppress
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from entrepot.server.files import NoSendfile, OpenFile, chunks, send

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

CONNECTIONS = 4096
"""Connections that are open at once, and as many that wait for their turn. One more takes the place of an idle one."""

IDLE = 60.0
"""Seconds that a connection may be without a request, or take for the headers of one."""

BODY_WAIT = 30.0
"""Seconds that a request's body may stand still."""

JOINED = 64 * 1024
"""Bytes of a body, at the most, that are copied to leave together with their header."""

HANDSHAKE = 10.0
"""Seconds that a client has for its TLS handshake."""

SENT = "entrepot.sent"
"""A function in the message ``http.response.zerocopysend`` that is told each number of bytes as they go out."""

_OURS = frozenset({b"connection", b"transfer-encoding"})
_ASGI = {"version": "3.0", "spec_version": "2.4"}
_SENDS_FILES: dict[str, dict[str, Any]] = {"http.response.zerocopysend": {}}

_log = logging.getLogger("entrepot.server")

# aiohttp logs each request that can't be read with a stack of its parser; the client is told what is wrong, and it is no failure of ours.
_unread = logging.getLogger("entrepot.server.unread")
_unread.disabled = True


class Disconnected(ConnectionError):
    """The client is gone: nothing can be sent to it."""


class HttpServer:
    """Serves one ASGI application, on any number of sockets. *cut* asks the application to break off its answers: see `stop`."""

    def __init__(self, app: Application, *, cut: Callable[[], None] | None = None) -> None:
        self._app = app
        self._cut = cut
        self._listening: list[asyncio.Server] = []
        self._connections: dict[web.RequestHandler, asyncio.Transport] = {}
        self._answering: dict[web.RequestHandler, _Exchange] = {}
        self._stopping = False
        self._changed = asyncio.Event()

    async def listen(self, listener: socket.socket, *, tls: ssl.SSLContext | None = None) -> None:
        """Answer on a socket that is bound: see `bound` and `bound_unix`. With *tls*, behind TLS."""
        loop = asyncio.get_running_loop()
        connections = _Connections(self)
        handshake = HANDSHAKE if tls is not None else None
        self._listening.append(await loop.create_server(connections, sock=listener, backlog=CONNECTIONS, ssl=tls, ssl_handshake_timeout=handshake))

    async def stop(self, *, grace: float, cutting: float = 1.0) -> None:
        """Take no more requests. Answers under way have *grace* seconds; then the application cuts them, and has *cutting* seconds for that."""
        self._stopping = True
        for each in self._listening:
            each.close()
        for connection in list(self._connections):
            if connection in self._answering:
                connection.close()
            else:
                connection.force_close()
        if await self._ended(grace):
            return
        if self._cut is not None:
            self._cut()
        if self._cut is None or not await self._ended(cutting):
            for exchange in self._answering.values():
                # While a file is being sent its connection must not be closed; the exchange closes it.
                exchange.task.cancel()
            for connection, transport in self._connections.items():
                if connection not in self._answering:
                    transport.abort()
            await self._ended(cutting)

    async def _ended(self, seconds: float) -> bool:
        """Whether every answer is over, and every connection closed, within so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                while self._connections or self._answering:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    # What happens on the connections

    def opened(self, connection: web.RequestHandler, transport: asyncio.Transport) -> None:
        """A client has connected."""
        if self._stopping or (len(self._connections) >= CONNECTIONS and not self._close_an_idle_one()):
            transport.abort()
        self._connections[connection] = transport

    def _close_an_idle_one(self) -> bool:
        for connection in self._connections:
            if connection not in self._answering and connection.connected:
                connection.force_close()
                return True
        return False

    def closed(self, connection: web.RequestHandler) -> None:
        """A client is gone."""
        del self._connections[connection]
        if connection in self._answering:
            self._answering[connection].disconnected.set()
        self._changed.set()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Let the application answer a request."""
        connection = request.protocol
        if connection not in self._connections:
            return _CLOSES
        exchange = self._answering[connection] = _Exchange(request, ends=self._stopping)
        try:
            await self._app(exchange.scope(), exchange.receive, exchange.send)
            if not exchange.complete:
                exchange.cut()
        except Exception as error:
            if not isinstance(error, Disconnected) and not exchange.disconnected.is_set():
                await exchange.fail(error)
        except asyncio.CancelledError:
            exchange.cut()
            raise
        finally:
            del self._answering[connection]
            self._changed.set()
        return _KEEPS_ALIVE if exchange.keeps_alive and not self._stopping else _CLOSES


class _Connections(web.Server):
    """aiohttp's side: it makes a connection for each client, and tells when one comes or goes."""

    def __init__(self, server: HttpServer) -> None:
        super().__init__(
            server.answer,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=IDLE,
            logger=_unread,
        )
        self._server = server

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        self._server.opened(handler, transport)

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
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
    """A query whose other bytes are written as RFC 3986 wants them: applications decode it, and not all bytes are text."""
    return query.encode() if query.isascii() else quote(query.encode("utf-8", "surrogateescape"), safe="".join(map(chr, range(128)))).encode()


class _Exchange:
    """One request and its answer, as ASGI sees them."""

    def __init__(self, request: web.BaseRequest, *, ends: bool) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.task = task
        self.request = request
        self.keeps_alive = request.keep_alive and not ends
        self.complete = False
        self.disconnected = asyncio.Event()
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
        target = request.raw_path if request.raw_path.startswith("/") else _origin_form(request.raw_path)
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

    async def receive(self) -> Message:
        """The request's body piece by piece, and then that the client is gone."""
        if not self._received:
            content = self.request.content
            if self._continues and not self._started and not content.at_eof():
                self._continues = False
                await self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
            try:
                async with asyncio.timeout(BODY_WAIT):
                    body = await content.readany()
            except (TimeoutError, web.RequestPayloadError, OSError):
                self.keeps_alive = False
                return {"type": "http.disconnect"}
            self._received = content.at_eof()
            return {"type": "http.request", "body": body, "more_body": not self._received}
        if not self.complete:
            await self.disconnected.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Send what the application answers. Raises `Disconnected`, and ValueError or RuntimeError for what HTTP does not allow."""
        kind = message["type"]
        if kind == "http.response.start":
            if self._head is not None:
                raise RuntimeError("The answer has begun already.")
            self._begin(message["status"], message.get("headers", ()))
            return
        if self._head is None or self.complete:
            raise RuntimeError(f"{kind} has no place here.")
        more = message.get("more_body", False)
        if kind == "http.response.body":
            await self._send_bytes(message.get("body", b""), more)
        elif kind == "http.response.zerocopysend":
            await self._send_file(message["file"], message["offset"], message["count"], message.get(SENT, _nobody))
        else:
            raise RuntimeError(f"{kind} is not known here.")
        if not more:
            await self._end()

    async def fail(self, error: Exception) -> None:
        """The application has failed: say so if nothing has been said yet, and cut the connection otherwise."""
        if self._started:
            self.cut()
            return
        _log.error("%s %s failed in an unforeseen way", self.request.method, self.request.path, exc_info=error)
        self._head, self._left, self._chunked, self._has_body = None, None, False, True
        self.keeps_alive = False
        try:
            await self.send({"type": "http.response.start", "status": 500, "headers": [(b"content-length", b"0")]})
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
            # The end of the connection would be the end of the body: it must look broken (RST, not FIN).
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()

    # How it is written

    def _begin(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self._has_body = self.request.method != "HEAD" and status not in {204, 304} and status >= 200
        lines = [_status_line(status)]
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
        """The header with what tells where the body ends, now that is known whether there is more of it than these *body* bytes."""
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
        if self._chunked and body:
            body = b"%x\r\n%b\r\n" % (len(body), body)
        if head and body and len(body) > JOINED:
            # Joining them would copy a large body; they leave together all the same, unless the network is slower than we are.
            await self._write(head)
            head = b""
        if head or body:
            await self._write(head + body if head else body)

    async def _send_file(self, file: OpenFile, offset: int, count: int, told: Callable[[int], None]) -> None:
        head = b"" if self._started else self._finished_head(count, more=True)
        if not self._has_body:
            await self._write(head)
            return
        if self._chunked:
            raise RuntimeError("Files are sent with a content length.")
        self._count(count)
        transport = self.request.transport
        if transport is None or transport.is_closing():
            raise Disconnected
        # What is still in the transport's own buffer comes before the file.
        transport.set_write_buffer_limits(0)
        connected: socket.socket = transport.get_extra_info("socket").dup()
        with connected:
            if head and not transport.get_write_buffer_size():
                head = head[_send_with_more(connected, head) :]
            if head:
                await self._write(head)
            await self._drained()
            if self.disconnected.is_set():
                raise Disconnected
            sent = 0

            def count_sent(step: int) -> None:
                nonlocal sent
                sent += step
                told(step)

            try:
                with _corked(connected):
                    await send(connected, file, offset, count, count_sent)
            except ConnectionError as error:
                raise Disconnected from error
            except NoSendfile:
                async for chunk in chunks(file, offset + sent, count - sent):
                    await self._write(chunk)
                    told(len(chunk))
        transport.set_write_buffer_limits()

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
        if self._continues and not self._received and transport is not None and not self.request.content.at_eof():
            # aiohttp would wait for a body that never comes.
            transport.close()

    async def _write(self, content: bytes) -> None:
        try:
            await self._writer.write(content)
        except ConnectionError as error:
            raise Disconnected from error

    async def _drained(self) -> None:
        try:
            await self._writer.drain()
        except ConnectionError as error:
            raise Disconnected from error


def _nobody(sent: int) -> None:
    """Nobody wants to know."""


@contextmanager
def _corked(connected: socket.socket) -> Iterator[None]:
    """Within it only full packets leave (tcp(7), TCP_CORK), as with nginx's tcp_nopush: sent piece by piece, a file takes the kernel a third more time."""
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
    """Send a header that goes into one packet with what follows it (send(2), MSG_MORE); returns how much of it was taken."""
    try:
        return connected.send(head, getattr(socket, "MSG_MORE", 0))
    except (BlockingIOError, InterruptedError):
        return 0
    except OSError as error:
        raise Disconnected from error


def _origin_form(target: str) -> str:
    """Path and query of a target in another form than ``/path?query``: ``http://host/path`` as for a proxy, or ``*``."""
    parts = urlsplit(target)
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


def bound(host: str, port: int) -> socket.socket:
    """A TCP socket that is bound to an address, port 0 for any that is free. Raises OSError; `socket.gaierror` for a name that is no address."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except OSError:
        made.close()
        raise
    return made


def bound_unix(path: Path) -> socket.socket:
    """A Unix socket at *path* that only its owner can connect to; what is there already is removed. Raises OSError."""
    path.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.bind(str(path))
        # Nobody can connect before it listens.
        os.chmod(path, 0o600)
    except OSError:
        made.close()
        raise
    return made


@asynccontextmanager
async def serving(app: Application, listener: socket.socket, *, tls: ssl.SSLContext | None = None, grace: float = 0.0) -> AsyncIterator[HttpServer]:
    """Within it *app* answers on *listener*; at its end, answers under way have *grace* seconds."""
    server = HttpServer(app)
    await server.listen(listener, tls=tls)
    try:
        yield server
    finally:
        await server.stop(grace=grace)
