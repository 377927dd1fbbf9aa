"""One request and its response, as ASGI sees them.

aiohttp's parser reads the request; the response is written here, so that files go from the page
cache to the network within the kernel (`entrepot.httpd.sendfile`).

A body that can't be completed is cut off together with its connection, so that no client takes a
part of it for the whole.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from aiohttp import web

from entrepot.formatting import printable
from entrepot.httpd.asgi import ON_SENT_KEY, REASON_KEY, Disconnected, Message, Scope
from entrepot.httpd.connections import ClientConnection, reset_on_close
from entrepot.httpd.file_sender import FileSender
from entrepot.httpd.sendfile import NoSendfile, OpenFile, chunks
from entrepot.httpd.tls_transport import TlsTransport

BODY_TIMEOUT = 30.0
"""Seconds without a byte after which a request's body is given up."""

COALESCE_LIMIT = 64 * 1024
"""Bytes up to which a body is copied behind its header, to leave in one write."""

WRITE_SIZE = 64 * 1024
"""Bytes of a large body that are written at a time; as many again are buffered for a slow client.

The rest stays in the one copy that all clients share."""

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
"""Socket errors besides ConnectionError of a client whose machine or network is gone."""

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods whose response is cancelled when the client disconnects (RFC 9110, 9.2.1).

Requests that change something are not cancelled midway."""

_OWN_HEADERS = frozenset({b"connection", b"transfer-encoding"})
_ASGI_VERSION = {"version": "3.0", "spec_version": "2.4"}
_SENDFILE_EXTENSION: dict[str, dict[str, Any]] = {"http.response.zerocopysend": {}}

_log = logging.getLogger("entrepot.server")


def _encoded_query(query: str) -> bytes:
    """A query with its non-ASCII bytes percent-encoded (RFC 3986).

    Applications decode this form.
    """
    return (
        query.encode()
        if query.isascii()
        else quote(
            query.encode("utf-8", "surrogateescape"), safe="".join(map(chr, range(128)))
        ).encode()
    )


class Exchange:
    """One request and its response; *closes*: the connection is closed after it."""

    def __init__(
        self,
        request: web.BaseRequest,
        connection: ClientConnection,
        files: FileSender,
        *,
        closes: bool,
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.task = task
        self.request = request
        self._connection = connection
        self._files = files
        self.keeps_alive = request.keep_alive and not closes
        self.complete = False
        self.was_disconnected = False
        """Whether the application has been notified that the client is gone.

        What it raises after that is a consequence, and no failure."""
        self.is_cancelled = False
        """Whether the application was cancelled because the client is gone."""
        self.is_ending = False
        """Whether the client disconnected while a file was being sent to it."""
        self._disconnected = asyncio.Event()
        self._pending_calls = 0
        """Running calls of `receive` and `send`, which report that the client is gone."""
        self._file_socket: socket.socket | None = None
        self._writer = request.writer
        self._head: bytes | None = None
        self._head_sent = False
        self._has_body = True
        self._remaining: int | None = None
        """Bytes of the response body still to be sent, where its length is known."""
        self._chunked = False
        self._body_received = False
        """Whether the request's body was received to its end."""
        self._expects_continue = request.headers.get("Expect", "").lower() == "100-continue"

    def scope(self) -> Scope:
        """The request as an ASGI scope."""
        request = self.request
        target = (
            request.raw_path if request.raw_path.startswith("/") else _origin_form(request.raw_path)
        )
        raw_path, _, query = target.partition("?")
        transport = request.transport
        peer = transport.get_extra_info("peername") if transport is not None else None
        local = transport.get_extra_info("sockname") if transport is not None else None
        tls = transport is not None and transport.get_extra_info("sslcontext") is not None
        return {
            "type": "http",
            "asgi": _ASGI_VERSION,
            "http_version": "1.0" if request.version < (1, 1) else "1.1",
            "method": request.method,
            "scheme": "https" if tls else "http",
            "path": unquote(raw_path) if "%" in raw_path else raw_path,
            "raw_path": raw_path.encode("utf-8", "surrogateescape"),
            "query_string": _encoded_query(query),
            "root_path": "",
            "headers": [(key.lower(), value) for key, value in request.raw_headers],
            "client": tuple(peer[:2]) if isinstance(peer, tuple) else None,
            "server": tuple(local[:2]) if isinstance(local, tuple) else None,
            "extensions": _SENDFILE_EXTENSION,
        }

    def disconnect(self) -> None:
        """End the exchange because the client is gone (S06).

        A running `receive` or `send` tells the application; a response that is in neither is
        cancelled, unless its request changes something.
        """
        self._disconnected.set()
        if self._file_socket is not None:
            self.is_ending = True
            with suppress(OSError):
                self._file_socket.shutdown(socket.SHUT_RDWR)
        if not self._pending_calls and not self.complete and self.request.method in _SAFE_METHODS:
            self.is_cancelled = True
            self.task.cancel()

    async def receive(self) -> Message:
        """ASGI's receive: the request's body piece by piece, then that the client is gone."""
        self._pending_calls += 1
        try:
            message = await self._receive()
        finally:
            self._pending_calls -= 1
        if message["type"] == "http.disconnect":
            self.was_disconnected = True
        return message

    async def _receive(self) -> Message:
        if not self._body_received:
            content = self.request.content
            if self._expects_continue and not self._head_sent and not content.at_eof():
                self._expects_continue = False
                await self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
            try:
                async with asyncio.timeout(BODY_TIMEOUT):
                    body = await content.readany()
            except (TimeoutError, web.RequestPayloadError, OSError):
                self.keeps_alive = False
                return {"type": "http.disconnect"}
            self._body_received = content.at_eof()
            return {"type": "http.request", "body": body, "more_body": not self._body_received}
        if not self.complete:
            await self._disconnected.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """ASGI's send.

        Raises `Disconnected`, and ValueError or RuntimeError for what HTTP does not allow.
        """
        self._pending_calls += 1
        try:
            await self._send(message)
            if self._disconnected.is_set() and not self.complete:
                raise Disconnected
        except Disconnected:
            self.was_disconnected = True
            raise
        finally:
            self._pending_calls -= 1

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            if self._head is not None:
                raise RuntimeError("The response has started already.")
            self._start(message["status"], message.get("headers", ()), message.get(REASON_KEY, b""))
            return
        if self._head is None or self.complete:
            raise RuntimeError(f"{kind} is out of order.")
        more = message.get("more_body", False)
        if kind == "http.response.body":
            await self._send_bytes(message.get("body", b""), more)
        elif kind == "http.response.zerocopysend":
            await self._send_file(
                message["file"],
                message["offset"],
                message["count"],
                message.get(ON_SENT_KEY, _ignore_bytes),
            )
        else:
            raise RuntimeError(f"{kind} is not supported.")
        if not more:
            await self._end()

    async def fail(self, error: Exception) -> None:
        """Answer 500 for a failed application; cut the connection where the head was sent."""
        if self._head_sent:
            self.cut()
            return
        _log.error(
            "%s %s failed in an unforeseen way",
            self.request.method,
            printable(self.request.path, 200),
            exc_info=error,
        )
        self._head, self._remaining, self._chunked, self._has_body = None, None, False, True
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
        """Close the connection in the middle of the response."""
        self.keeps_alive = False
        transport = self.request.transport
        if transport is None:
            return
        connected = transport.get_extra_info("socket")
        ends_by_close = self._head_sent and self._remaining is None and not self._chunked
        if ends_by_close and connected is not None:
            # A regular close would mark the end of the body; a reset shows that it broke.
            reset_on_close(connected)
        transport.abort()

    # Writing

    def _start(self, status: int, headers: Iterable[tuple[bytes, bytes]], reason: bytes) -> None:
        self._has_body = (
            self.request.method != "HEAD" and status not in {204, 304} and status >= 200
        )
        lines = [
            _status_line(status)
            if not reason
            else _status_line(status)[:-2] + b": " + reason + b"\r\n"
        ]
        has_date = False
        for name, value in headers:
            key = name.lower()
            if key == b"content-length":
                self._remaining = int(value)
            elif key == b"date":
                has_date = True
            elif key in _OWN_HEADERS:
                continue
            lines.append(name + b": " + value + b"\r\n")
        if not has_date:
            lines.append(_date(int(time.time())))
        head = b"".join(lines)
        if not head.count(b"\n") == head.count(b"\r") == len(lines) or b"\0" in head:
            raise ValueError("A header has a line break in it.")
        self._head = head

    def _complete_head(self, body: int, more: bool) -> bytes:
        """The head with the headers that delimit the body.

        *body* is the size of the first part of the body, *more* whether other parts follow.
        """
        head = self._head or b""
        is_http_1_0 = self.request.version < (1, 1)
        if self._remaining is None and self._has_body:
            if not more:
                self._remaining = body
                head += b"content-length: %d\r\n" % body
            elif is_http_1_0:
                self.keeps_alive = False
            else:
                self._chunked = True
                head += b"transfer-encoding: chunked\r\n"
        if not self._body_received and self._expects_continue:
            # The client holds its body back, and may or may not send it after this response.
            self.keeps_alive = False
        if not self.keeps_alive:
            head += b"connection: close\r\n"
        elif is_http_1_0:
            head += b"connection: keep-alive\r\n"
        self._head_sent = True
        return head + b"\r\n"

    async def _send_bytes(self, body: bytes, more: bool) -> None:
        head = b"" if self._head_sent else self._complete_head(len(body), more)
        if not self._has_body:
            body = b""
        self._count_body(len(body))
        is_chunk = self._chunked and bool(body)
        prefix, suffix = (b"%x\r\n" % len(body), b"\r\n") if is_chunk else (b"", b"")
        if len(body) <= COALESCE_LIMIT:
            # A copy costs less than another packet.
            if content := head + prefix + body + suffix if head or prefix else body:
                await self._write(content)
            return
        if head or prefix:
            await self._write(head + prefix)
        # Not all at once: what a client does not read would be copied for each client.
        view = memoryview(body)
        for start in range(0, len(body), WRITE_SIZE):
            await self._write(view[start : start + WRITE_SIZE])
            await self._drain()
        if suffix:
            await self._write(suffix)

    async def _send_file(
        self, file: OpenFile, offset: int, count: int, on_sent: Callable[[int], None]
    ) -> None:
        transport = self.request.transport
        if transport is None or transport.is_closing():
            raise Disconnected
        head = b"" if self._head_sent else self._complete_head(count, more=True)
        if not self._has_body:
            await self._write(head)
            return
        if self._chunked:
            raise RuntimeError("Files are sent with a content length.")
        self._count_body(count)
        file_bytes = 0
        try:
            descriptor = transport.get_extra_info("socket").fileno()
            connected = socket.socket(fileno=socket.dup(descriptor))
        except OSError:
            # No descriptor is left: sending chunks needs none.
            await self._write(head)
            await self._send_chunks(file, offset, count, on_sent)
            return
        # The transport's own buffer has to be sent before the file.
        transport.set_write_buffer_limits(0)
        with connected:
            if (
                head
                and not isinstance(transport, TlsTransport)
                and not (transport.get_write_buffer_size())
            ):
                head = head[_send_with_more(connected, head) :]
            if head:
                await self._write(head)
            await self._drain()
            if self._disconnected.is_set():
                raise Disconnected

            def count_sent(size: int) -> None:
                nonlocal file_bytes
                file_bytes += size
                self._connection.bytes_written += size
                on_sent(size)

            self._file_socket = connected
            lent = transport.lent() if isinstance(transport, TlsTransport) else nullcontext()
            try:
                with lent as secured:
                    await self._files.send(
                        connected, file, offset, count, count_sent, secured=secured
                    )
            except NoSendfile:
                await self._send_chunks(file, offset + file_bytes, count - file_bytes, on_sent)
            except OSError as error:
                if isinstance(error, ConnectionError) or error.errno in _CLIENT_GONE:
                    raise Disconnected from error
                raise
            finally:
                self._file_socket = None
        transport.set_write_buffer_limits()

    async def _send_chunks(
        self, file: OpenFile, offset: int, count: int, on_sent: Callable[[int], None]
    ) -> None:
        async for chunk in chunks(file, offset, count):
            await self._write(chunk)
            await self._drain()
            on_sent(len(chunk))

    def _count_body(self, size: int) -> None:
        if self._remaining is not None and self._has_body:
            self._remaining -= size
            if self._remaining < 0:
                raise RuntimeError("The body is longer than its content length.")

    async def _end(self) -> None:
        if self._has_body and self._remaining:
            raise RuntimeError(
                f"The body is {self._remaining:,} bytes shorter than its content length."
            )
        if self._chunked and self._has_body:
            await self._write(b"0\r\n\r\n")
        await self._drain()
        self.complete = True
        transport = self.request.transport
        if (
            self._expects_continue
            and not self._body_received
            and transport is not None
            and not self.request.content.at_eof()
        ):
            # aiohttp would wait for a request body that never comes.
            transport.close()

    async def _write(self, content: bytes | memoryview) -> None:
        self._connection.bytes_written += len(content)
        try:
            await self._writer.write(content)
        except ConnectionError as error:
            raise Disconnected from error

    async def _drain(self) -> None:
        try:
            await self._writer.drain()
        except ConnectionError as error:
            raise Disconnected from error


def _ignore_bytes(_size: int) -> None:
    """The callback of a response that counts no bytes."""


def _send_with_more(connected: socket.socket, head: bytes) -> int:
    """Send a head that shares a packet with what follows it (send(2), MSG_MORE).

    Returns how many bytes were accepted.
    """
    try:
        return connected.send(head, getattr(socket, "MSG_MORE", 0))
    except (BlockingIOError, InterruptedError):
        return 0
    except OSError as error:
        raise Disconnected from error


def _origin_form(target: str) -> str:
    """Path and query of a request target in another form than ``/path?query``.

    These are ``http://host/path``, as for a proxy, and ``*``.
    """
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
