"""Connections of clients: how many, how accepted, how reset."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import ipaddress
import resource
import socket
import struct
import termios
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from entrepot.httpd.asgi import Application

MAX_CONNECTIONS = 4096
"""Open connections of a server, TLS handshakes included; fewer where descriptors are few: see
`connection_limit`.

One more takes the place of an idle connection, or of the one whose client has read nothing for the
longest time."""

BACKLOG = 4096
"""Connections that wait in the kernel until they are accepted."""

DESCRIPTORS_PER_CONNECTION = 3
"""Descriptors of a connection: its own, its duplicate while a file is sent, and the file."""

RESERVED_DESCRIPTORS = 256
"""Descriptors left to the catalog, sources, fills and the log when connections are limited."""

ACCEPT_BATCH = 64
"""Connections accepted in one turn of the event loop."""

ACCEPT_PAUSE = 1.0
"""Seconds without accepting after the system had no descriptor or memory for a connection."""

_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


@dataclass(eq=False, slots=True)
class ClientConnection:
    """A client's connection.

    *address* is what counts for its share of the connections; None where it has no share.
    """

    handler: web.RequestHandler
    socket: socket.socket
    address: str | None
    app: Application
    """What answers the requests."""
    is_extra: bool = False
    """Whether it is one of `entrepot.httpd.server.EXTRA_CONNECTIONS`."""
    transport: asyncio.Transport | None = None
    """None until the TLS handshake is over."""
    setup: asyncio.Task[None] | None = None
    """Creates the transport; for TLS that is the handshake."""
    setup_started: bool = False
    bytes_written: int = 0
    """Bytes handed to the kernel or the transport so far."""
    progressed: float = 0.0
    """When the client last read something, or had nothing to read, on the event loop's clock."""
    _last_state: tuple[int, int, int] = field(default=(0, 0, 0))

    def stalled_for(self, now: float) -> float:
        """Seconds for which the client has read nothing of what was sent to it."""
        transport = self.transport
        if transport is None or (transport.is_closing() and not transport.get_write_buffer_size()):
            return 0.0
        buffered, queued = transport.get_write_buffer_size(), unsent_bytes(transport)
        state = (self.bytes_written, buffered, queued)
        if state != self._last_state or not buffered + queued:
            self._last_state, self.progressed = state, now
        return now - self.progressed

    def reset(self) -> None:
        """Reset the connection (RST); unsent bytes are dropped, in the kernel too."""
        transport = self.transport
        if transport is not None:
            reset_on_close(transport.get_extra_info("socket"))
            transport.abort()


def connection_limit() -> int:
    """The number of connections that a server may have.

    It is `MAX_CONNECTIONS`, or as many as file descriptors allow.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (
        MAX_CONNECTIONS
        if limit == resource.RLIM_INFINITY
        else min(
            MAX_CONNECTIONS, max(16, (limit - RESERVED_DESCRIPTORS) // DESCRIPTORS_PER_CONNECTION)
        )
    )


class Listener:
    """Accepts connections on one socket.

    *on_accept* gets each socket and its address, *on_exhausted* an error for want of descriptors or
    memory. asyncio's own server does not expose a connection whose TLS handshake is not over, and
    when descriptors are used up it logs a stack for each connection of its backlog, every second.
    """

    def __init__(
        self,
        listening: socket.socket,
        on_accept: Callable[[socket.socket, object], None],
        on_exhausted: Callable[[OSError], None],
    ) -> None:
        self._socket = listening
        self._on_accept = on_accept
        self._on_exhausted = on_exhausted
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        listening.setblocking(False)
        listening.listen(BACKLOG)
        self._loop.add_reader(listening, self._accept)

    def listens_on(self, listening: socket.socket) -> bool:
        """Whether it accepts on this socket."""
        return self._socket is listening

    def close(self) -> None:
        """Accept no more connections, and close the socket."""
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
                    # accept(2): an error of that one connection, or of its network, is none of this
                    # socket.
                    continue
                self._loop.remove_reader(self._socket)
                self._pause = self._loop.call_later(ACCEPT_PAUSE, self._resume)
                self._on_exhausted(error)
                return
            connected.setblocking(False)
            self._on_accept(connected, address)

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._socket, self._accept)


def counted_address(address: object) -> str | None:
    """The part of a client's address that has a share of the connections.

    An IPv4 address, or the network (/64) of an IPv6 address; None on loopback and Unix sockets.
    """
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


def unsent_bytes(transport: asyncio.Transport) -> int:
    """Bytes in the kernel that the client has not read; 0 where unknown.

    Source: tcp(7), SIOCOUTQ.
    """
    connected = transport.get_extra_info("socket")
    if connected is None or connected.fileno() < 0:
        return 0
    try:
        return int(
            struct.unpack("i", fcntl.ioctl(connected.fileno(), termios.TIOCOUTQ, bytes(4)))[0]
        )
    except OSError:
        return 0


def reset_on_close(connected: Any) -> None:
    """Let closing a connection reset it (RST, not FIN).

    The kernel keeps nothing for such a connection.
    """
    with suppress(OSError):
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
