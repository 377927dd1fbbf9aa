"""TLS towards clients: OpenSSL reads and writes the socket itself.

asyncio keeps 256 KiB of buffers for each TLS connection and copies each byte through them, on the
event loop; it can't lend a connection to a thread, sends no alert when a handshake fails, and
can't answer a client that speaks plain HTTP. A cached blob of 400 MB cost it 1.17 s of processor
time per GB, 1.10 of it on the event loop. With a thread it is 1.0 s per GB, 0.01 of it on the event
loop. aiofastnet, a compiled transport that calls the libssl that it finds, cost 0.8 to 1.15, all
of it on the event loop (December 2026, OpenSSL 3.0, AES-256-GCM, three clients, a busy machine).
TLS in the kernel could not be measured: the kernel of that machine has none.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

READ_SIZE = 64 * 1024
"""Bytes read at a time; a TLS record has at most 16 KiB (RFC 8446, section 5.1)."""

HIGH_WATER = 64 * 1024
"""Bytes that are buffered before the protocol is asked to pause."""

LINGER_TIMEOUT = 1.0
"""Seconds in which a client that gets an alert or a refusal has to read it.

What it has sent is discarded meanwhile: a connection that is closed with bytes unread is reset, and
a reset takes away what was sent last."""

LINGER_LIMIT = 64 * 1024
"""Bytes that are discarded then."""

PLAIN_HTTP = re.compile(rb"[A-Z]{3,8} ")
"""How a request in plain HTTP begins; a TLS handshake begins with 0x16 (RFC 8446, section 5.1)."""

_REFUSAL = (
    b"This port speaks HTTPS, and the client sent plain HTTP. Use https:// in front of the "
    b"address, and let the client trust the certificate.\n"
)
_REFUSAL_HEAD = (
    b"HTTP/1.1 400 Bad Request: client sent plain HTTP to an HTTPS port\r\n"
    b"content-type: text/plain\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(_REFUSAL)
)


class PlainHttp(ConnectionError):
    """A client sent plain HTTP to a TLS port; it has been told so."""


async def accept_tls(connected: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    """The TLS connection of an accepted socket, after its handshake.

    The caller bounds the time. Whatever is raised, the socket is closed: `PlainHttp`, or an OSError
    of a client that is gone or speaks no TLS; the client has got an alert.
    """
    secured: ssl.SSLSocket | None = None
    try:
        await _ready(connected.fileno(), writing=False)
        beginning = connected.recv(16, socket.MSG_PEEK)
        if PLAIN_HTTP.match(beginning):
            connected.send(_REFUSAL_HEAD + _REFUSAL)
            await _linger(connected)
            raise PlainHttp
        secured = context.wrap_socket(connected, server_side=True, do_handshake_on_connect=False)
        while True:
            try:
                secured.do_handshake()
                return secured
            except ssl.SSLWantReadError:
                await _ready(secured.fileno(), writing=False)
            except ssl.SSLWantWriteError:
                await _ready(secured.fileno(), writing=True)
            except ssl.SSLError:
                # OpenSSL has sent its alert.
                await _linger(secured)
                raise
    except BaseException:
        (secured or connected).close()
        raise


async def _ready(descriptor: int, *, writing: bool) -> None:
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    add, remove = (
        (loop.add_writer, loop.remove_writer) if writing else (loop.add_reader, loop.remove_reader)
    )

    def wake() -> None:
        if not future.done():
            future.set_result(None)

    add(descriptor, wake)
    try:
        await future
    finally:
        remove(descriptor)


async def _linger(connected: socket.socket) -> None:
    """Let the client read what was sent last, before the connection is closed."""
    discarded = 0
    with suppress(OSError, TimeoutError):
        # The methods of a plain socket: those of an SSLSocket would speak TLS.
        socket.socket.shutdown(connected, socket.SHUT_WR)
        async with asyncio.timeout(LINGER_TIMEOUT):
            while discarded < LINGER_LIMIT:
                await _ready(connected.fileno(), writing=False)
                piece = _receive_plain(connected)
                if not piece:
                    return
                discarded += len(piece)


def _receive_plain(connected: socket.socket) -> bytes:
    """Bytes as they came from the network, also of an SSLSocket."""
    with socket.socket(fileno=socket.dup(connected.fileno())) as plain:
        return plain.recv(READ_SIZE)


class TlsTransport(asyncio.Transport):
    """The connection of a client after its TLS handshake."""

    def __init__(self, secured: ssl.SSLSocket, protocol: asyncio.Protocol) -> None:
        """Call the protocol's ``connection_made``, and begin to read."""
        super().__init__(
            {
                "socket": secured,
                "sockname": secured.getsockname(),
                "peername": _peer_name(secured),
                "sslcontext": secured.context,
                "ssl_object": secured,
            }
        )
        with suppress(OSError):
            secured.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._loop = asyncio.get_running_loop()
        self._socket = secured
        self._descriptor = secured.fileno()
        self._protocol = protocol
        self._buffer: deque[bytes] = deque()
        """What could not be written yet. OpenSSL has to get the first piece again as it was."""
        self._size = 0
        self._high, self._low = HIGH_WATER, HIGH_WATER // 4
        self._is_protocol_paused = False
        self._is_reading_paused = False
        self._reads_to_write = False
        """Whether OpenSSL needs to write before it can read: it answers a key update."""
        self._is_closing = False
        self._is_lost = False
        self._is_lent = False
        self._polls_reads = self._polls_writes = False
        protocol.connection_made(self)
        self._poll()

    # Reading

    def is_reading(self) -> bool:
        """Whether the protocol gets what comes."""
        return not (self._is_reading_paused or self._is_lent or self._is_closing)

    def pause_reading(self) -> None:
        """Read no more until `resume_reading`."""
        self._is_reading_paused = True
        self._poll()

    def resume_reading(self) -> None:
        """Read again."""
        self._is_reading_paused = False
        self._poll()

    def _read_ready(self) -> None:
        if not self.is_reading():
            return
        try:
            data = self._socket.recv(READ_SIZE)
        except ssl.SSLWantReadError:
            return
        except ssl.SSLWantWriteError:
            self._reads_to_write = True
            self._poll()
            return
        except OSError as error:
            self._lose(error)
            return
        if data:
            self._protocol.data_received(data)
        elif not self._protocol.eof_received():
            self.close()
        else:
            self.pause_reading()

    # Writing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes, or buffer what the client does not take yet."""
        if self._is_lost or self._is_closing or not data:
            return
        self._buffer.append(bytes(data))
        self._size += len(data)
        if len(self._buffer) == 1 and not self._is_lent:
            self._flush()
        if self._size > self._high and not self._is_protocol_paused:
            self._is_protocol_paused = True
            self._protocol.pause_writing()

    def can_write_eof(self) -> bool:
        """TLS has no half-closed connections here."""
        return False

    def get_write_buffer_size(self) -> int:
        """Bytes that wait for the client."""
        return self._size

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """From how many buffered bytes on the protocol resumes and pauses."""
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set from how many buffered bytes on the protocol pauses, and resumes."""
        self._high = high if high is not None else HIGH_WATER if low is None else 4 * low
        self._low = low if low is not None else self._high // 4
        self._resume_protocol()

    def _flush(self) -> None:
        try:
            while self._buffer:
                piece = self._buffer[0]
                sent = self._socket.send(piece)
                self._size -= sent
                if sent == len(piece):
                    self._buffer.popleft()
                else:
                    self._buffer[0] = piece[sent:]
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            pass
        except OSError as error:
            self._lose(error)
            return
        self._poll()
        self._resume_protocol()
        if self._is_closing and not self._buffer:
            self._say_goodbye()

    def _write_ready(self) -> None:
        if self._reads_to_write:
            self._reads_to_write = False
            self._read_ready()
        if not self._is_lent:
            self._flush()

    def _resume_protocol(self) -> None:
        if self._is_protocol_paused and self._size <= self._low:
            self._is_protocol_paused = False
            self._protocol.resume_writing()

    # Lending

    @contextmanager
    def lent(self) -> Iterator[ssl.SSLSocket]:
        """The connection for another thread: nothing else reads or writes it within the context.

        Only when all that was written is sent. A connection that is lost meanwhile is shut down, so
        that the thread notices, and closed at the end.
        """
        self._is_lent = True
        self._poll()
        try:
            yield self._socket
        finally:
            self._is_lent = False
            if self._is_lost:
                self._socket.close()
            elif self._is_closing:
                self._flush()
            else:
                self._poll()

    # The end

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Who gets what comes."""
        return self._protocol

    def is_closing(self) -> bool:
        """Whether nothing more can be written."""
        return self._is_closing or self._is_lost

    def close(self) -> None:
        """Close the connection when all that was written is sent."""
        if self._is_closing or self._is_lost:
            return
        self._is_closing = True
        self._poll()
        if not self._buffer and not self._is_lent:
            self._say_goodbye()

    def abort(self) -> None:
        """Close the connection at once."""
        self._lose(None)

    def _say_goodbye(self) -> None:
        # The client's own close_notify is not awaited (RFC 8446, section 6.1).
        with suppress(OSError, ValueError):
            self._socket.unwrap()
        self._lose(None)

    def _lose(self, error: Exception | None) -> None:
        if self._is_lost:
            return
        self._is_lost = self._is_closing = True
        self._buffer.clear()
        self._size = 0
        self._poll()
        if self._is_lent:
            with suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        # As asyncio does: a protocol is never told within a call of its own.
        self._loop.call_soon(self._tell_protocol, error)

    def _tell_protocol(self, error: Exception | None) -> None:
        try:
            self._protocol.connection_lost(error)
        finally:
            if not self._is_lent:
                self._socket.close()

    def _poll(self) -> None:
        """Let the event loop wait for what can go on now."""
        if self._socket.fileno() < 0:
            return
        if self._polls_reads != (wants := self.is_reading() and not self._is_lost):
            self._polls_reads = wants
            if wants:
                self._loop.add_reader(self._descriptor, self._read_ready)
            else:
                self._loop.remove_reader(self._descriptor)
        wants = bool(self._buffer or self._reads_to_write) and not (self._is_lent or self._is_lost)
        if self._polls_writes != wants:
            self._polls_writes = wants
            if wants:
                self._loop.add_writer(self._descriptor, self._write_ready)
            else:
                self._loop.remove_writer(self._descriptor)


def _peer_name(secured: ssl.SSLSocket) -> Any:
    """The client's address; None where it is gone already."""
    try:
        return secured.getpeername()
    except OSError:
        return None
