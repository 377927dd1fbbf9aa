"""A connection to a server whose bytes the event loop or a thread reads: a socket, and TLS over it.

TLS is done on buffers in memory (`ssl.MemoryBIO`), in none, one or two layers: the second one
within a tunnel through a proxy that speaks TLS itself. Nothing here waits while it reads: the event
loop waits with `SourceConnection.read`, a thread with `SourceConnection.read_in_thread`, never both
at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import ssl
import time
from collections.abc import Callable
from typing import Protocol, cast

RAW_BUFFER = 256 * 1024
"""Bytes that one call reads from a socket to decrypt them. With a reader's buffer of the same size,
400 MB of TLS from nginx over loopback, hashed and written by the same thread, take 1.58 CPU s/GB;
with 128 KiB 1.68, with 64 KiB 1.72 to 1.81, with both of 64 KiB 1.99."""

FIRST_WAIT = 0.005
"""Seconds that a thread waits for the network before it says so to its caller."""


class _Readable(Protocol):
    def recv_into(self, buffer: memoryview, /) -> int:
        """Read what has arrived; 0 at the end. Raises `BlockingIOError` where nothing has."""


class _TlsLayer:
    """TLS over a socket, or over another layer."""

    def __init__(self, lower: _Readable, context: ssl.SSLContext, server_hostname: str) -> None:
        self._lower = lower
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_hostname=server_hostname
        )
        self._raw: memoryview | None = None
        self._error: OSError | None = None

    def handshake(self) -> bool:
        """Do what can be done of the handshake; whether it is complete."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def feed(self, data: bytes | memoryview) -> None:
        """Take encrypted bytes."""
        self._incoming.write(data)

    def receive(self) -> bool:
        """Take the encrypted bytes that have arrived; False at their end."""
        if self._raw is None:
            self._raw = memoryview(bytearray(RAW_BUFFER))
        count = self._lower.recv_into(self._raw)
        if count == 0:
            self._incoming.write_eof()
        else:
            self._incoming.write(self._raw[:count])
        return count > 0

    def recv_into(self, buffer: memoryview) -> int:
        """Read what has arrived, of several records; 0 at the end.

        The end of the connection is an end with or without a word of TLS: the framing of HTTP says
        whether the body is complete. Raises `BlockingIOError`, or `OSError` once what came before
        it is read.
        """
        if self._error is not None:
            raise self._error
        size, filled = len(buffer), 0
        try:
            while filled < size:
                try:
                    count = cast(int, self._tls.read(size - filled, buffer[filled:]))
                except ssl.SSLWantReadError:
                    self.receive()
                    continue
                if count == 0:
                    break
                filled += count
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            pass
        except BlockingIOError:
            if not filled:
                raise
        except OSError as error:
            if not filled:
                raise
            self._error = error
        return filled

    def encrypt(self, data: bytes) -> bytes:
        """The bytes to send for *data*, after those of TLS itself."""
        if data:
            self._tls.write(data)
        return self._outgoing.read()

    def end(self) -> None:
        """Prepare the message that ends TLS (RFC 8446, section 6.1), for `encrypt`."""
        with contextlib.suppress(OSError):
            self._tls.unwrap()

    @property
    def has_unread(self) -> bool:
        """Whether there are unread bytes, encrypted or decrypted."""
        return self._incoming.pending > 0 or self._tls.pending() > 0

    @property
    def has_unsent(self) -> bool:
        """Whether TLS itself has something to send."""
        return self._outgoing.pending > 0

    def release_buffer(self) -> None:
        """Free the buffer until more is read."""
        self._raw = None


class SourceConnection:
    """A connection over *connected*, a socket that does not block."""

    def __init__(self, connected: socket.socket) -> None:
        # The request of a connection and the last bytes of a handshake are two writes.
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connected
        self._layers: list[_TlsLayer] = []
        self._unsent = b""
        self._poll: select.poll | None = None
        self._interrupted = False

    async def start_tls(
        self, context: ssl.SSLContext, server_hostname: str, received: bytes = b""
    ) -> None:
        """Begin TLS within what there is; *received* came before it. Raises `OSError`."""
        layer = _TlsLayer(self._top, context, server_hostname)
        if received:
            layer.feed(received)
        while not layer.handshake():
            await self._send(layer.encrypt(b""))
            try:
                if not layer.receive():
                    raise ConnectionResetError("the connection ended within the handshake of TLS")
            except BlockingIOError:
                await self._until_readable()
        await self._send(layer.encrypt(b""))
        self._layers.append(layer)

    async def send(self, data: bytes) -> None:
        """Send *data*. Raises `OSError`."""
        for layer in reversed(self._layers):
            data = layer.encrypt(data)
        await asyncio.get_running_loop().sock_sendall(self._socket, self._unsent + data)
        self._unsent = b""

    async def read(self, buffer: memoryview) -> int:
        """Read 1 to ``len(buffer)`` bytes; 0 at the end. Raises `OSError`."""
        while True:
            try:
                return self.read_available(buffer)
            except BlockingIOError:
                await self._until_readable()

    def read_in_thread(
        self, buffer: memoryview, timeout: float | None, before_waiting: Callable[[], None]
    ) -> int:
        """Read 1 to ``len(buffer)`` bytes within *timeout* seconds; 0 at the end. Blocks.

        It calls *before_waiting* once before it waits long. Raises `TimeoutError`, or another
        `OSError`, also when it is interrupted.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        wait: float | None = FIRST_WAIT if timeout is None else min(FIRST_WAIT, timeout)
        has_waited = False
        while True:
            if self._interrupted:
                raise ConnectionAbortedError("the reader was interrupted")
            try:
                return self.read_available(buffer)
            except BlockingIOError:
                pass
            if self._poll is None:
                self._poll = select.poll()
                self._poll.register(self._socket, select.POLLIN)
            if self._poll.poll(None if wait is None else wait * 1000):
                continue
            if not has_waited:
                has_waited = True
                before_waiting()
            wait = None if deadline is None else deadline - time.monotonic()
            if wait is not None and wait <= 0:
                raise TimeoutError("nothing came within the read time-out")

    def interrupt(self) -> None:
        """Let a running or later `read_in_thread` raise. Called from another thread."""
        self._interrupted = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def read_available(self, buffer: memoryview) -> int:
        """Read what has arrived; 0 at the end. Raises `BlockingIOError` where nothing has."""
        if not self._layers:
            return self._socket.recv_into(buffer)
        try:
            return self._layers[-1].recv_into(buffer)
        finally:
            if any(layer.has_unsent for layer in self._layers):
                self._send_at_once()

    @property
    def is_idle(self) -> bool:
        """Whether it is open, and has no unread bytes."""
        if self._interrupted or any(layer.has_unread for layer in self._layers):
            return False
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return not poll.poll(0)

    def release_buffers(self) -> None:
        """Free its buffers until more is read."""
        for layer in self._layers:
            layer.release_buffer()

    def close(self) -> None:
        """Close it at once. No thread may be reading."""
        if self._layers and not self._interrupted:
            self._layers[-1].end()
            self._send_at_once()
        self._socket.close()

    @property
    def _top(self) -> _Readable:
        return self._layers[-1] if self._layers else self._socket

    async def _send(self, data: bytes) -> None:
        if data:
            await self.send(data)

    def _send_at_once(self) -> None:
        """Send the messages of TLS itself as far as the socket takes them; the rest goes later."""
        data = b""
        for layer in reversed(self._layers):
            data = layer.encrypt(data)
        self._unsent += data
        with contextlib.suppress(OSError):
            self._unsent = self._unsent[self._socket.send(self._unsent) :]

    async def _until_readable(self) -> None:
        loop = asyncio.get_running_loop()
        readable: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._socket, _set_done, readable)
        try:
            await readable
        finally:
            loop.remove_reader(self._socket)


def _set_done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
