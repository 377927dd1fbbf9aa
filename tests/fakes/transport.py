"""HTTP/1.1 on a socket, with control over every byte: the base of fake servers."""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import http
import itertools
import socket
import ssl
import struct
import termios
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

from tests.fakes.faults import Answer, Gate

CHUNK = 64 * 1024


@dataclass(slots=True)
class Request:
    """A received request, and how much of its answer was sent."""

    method: str
    target: str
    """Path and query as they stood in the request."""
    headers: dict[str, str]
    """Names in lower case."""
    connection: int
    status: int = 0
    bytes_sent: int = 0
    """Of the body."""
    finished: bool = False
    """The whole answer was sent."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """The answer has ended, whole or not."""

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.target).path)

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.target).query, keep_blank_values=True)

    @property
    def repository(self) -> str | None:
        """The repository whose manifest, blob, tags or referrers are requested."""
        if not self.path.startswith("/v2/"):
            return None
        for kind in ("/manifests/", "/blobs/", "/referrers/", "/tags/"):
            name, separator, _ = self.path.removeprefix("/v2/").rpartition(kind)
            if separator:
                return name
        return None


_TLS_HANDSHAKE = b"\x16"
"""The first byte of what a client of TLS sends (RFC 8446, section 5.1)."""


class Server(ABC):
    """Accepts requests on a port of *address*, and sends what `answer` says.

    Connections are kept alive. Port 0 is any that is free.
    """

    def __init__(
        self, tls: ssl.SSLContext | None = None, *, address: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.requests: list[Request] = []
        self.throttle: float | None = None
        """Bytes per second of each answer; None: no limit."""
        self.pause: Callable[[float], Awaitable[None]] = asyncio.sleep
        """How the throttle waits."""
        self.gates: list[Gate] = []
        self.address = address
        self.port = port
        self._tls = tls
        self._listener: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections = itertools.count(1)
        self._arrived = asyncio.Condition()

    @abstractmethod
    def answer(self, request: Request) -> Answer: ...

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.address}:{self.port}"

    async def start(self) -> None:
        """Listen; the second time on the same port as the first time."""
        self._listener = await asyncio.start_server(
            self._connected, self.address, self.port, limit=1024 * 1024, backlog=1024, ssl=self._tls
        )
        self.port = self._listener.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the port and all connections at once."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        # What was accepted last begins, so that it is closed too.
        await asyncio.sleep(0)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Closed connections end in the next turn of the loop.
        await asyncio.sleep(0)

    async def arrived(self, method: str, path_part: str, count: int = 1) -> None:
        """Wait until *count* such requests have been received."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: self.count(method, path_part) >= count)

    def count(self, method: str, path_part: str) -> int:
        """How many such requests have been received."""
        return len(self.received(method, path_part))

    def received(self, method: str, path_part: str) -> list[Request]:
        """The requests with this method whose path or query contains *path_part*."""
        return [
            request
            for request in self.requests
            if request.method == method and path_part in request.target
        ]

    @property
    def bytes_sent(self) -> int:
        """Bytes of all bodies."""
        return sum(request.bytes_sent for request in self.requests)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        number = next(self._connections)
        # drain() then waits until the kernel has everything.
        writer.transport.set_write_buffer_limits(high=0 if self._tls is None else 1, low=0)
        try:
            with contextlib.suppress(
                ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError
            ):
                while await self._exchange(reader, writer, number):
                    pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort() if task.cancelling() else writer.close()

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int
    ) -> bool:
        """One request and its answer. Returns whether the connection stays open."""
        first = await reader.readexactly(1)
        if first == _TLS_HANDSHAKE:
            # Servers do so: clients that try https first would wait for ten seconds.
            return False
        head = (first + await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ", 2)
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in head[1:] if line)
        }
        await reader.readexactly(int(headers.get("content-length", "0")))
        request = Request(method, target, headers, connection)
        self.requests.append(request)
        async with self._arrived:
            self._arrived.notify_all()
        answer = self.answer(request)
        request.status = answer.status
        try:
            stays = await self._send(request, answer, reader, writer)
        finally:
            request.ended.set()
        return stays and headers.get("connection", "").lower() != "close"

    async def _send(
        self,
        request: Request,
        answer: Answer,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        if answer.silent:
            return False
        gates = [gate for gate in self.gates if gate.holds(request)]
        for gate in gates:
            if gate.after_bytes == 0:
                await gate.passing(request)
        if answer.hangs_after == -1:
            await _until_the_client_leaves(reader)
            return False
        writer.write(_head(request, answer))
        await writer.drain()
        if request.method == "HEAD" or answer.status in {204, 304}:
            request.finished = True
            return True
        end = len(answer.body) if answer.sent is None else min(answer.sent, len(answer.body))
        stops = sorted(
            {gate.after_bytes for gate in gates}
            | {end if answer.hangs_after is None else answer.hangs_after}
        )
        while request.bytes_sent < end:
            for gate in gates:
                if gate.after_bytes and gate.after_bytes == request.bytes_sent:
                    await gate.passing(request)
            if answer.hangs_after is not None and request.bytes_sent >= answer.hangs_after:
                await _until_the_client_leaves(reader)
                return False
            stop = next((position for position in stops if position > request.bytes_sent), end)
            piece = answer.body[request.bytes_sent : min(request.bytes_sent + CHUNK, stop, end)]
            if self.throttle is not None:
                await self.pause(len(piece) / self.throttle)
            writer.write(
                b"%x\r\n%b\r\n" % (len(piece), piece) if answer.framing == "chunked" else piece
            )
            await writer.drain()
            request.bytes_sent += len(piece)
        if answer.sent is not None and answer.sent < len(answer.body):
            if answer.rudely:
                await _reset(writer)
            return False
        if answer.framing == "chunked":
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        request.finished = True
        return answer.framing != "close"


async def _reset(writer: asyncio.StreamWriter) -> None:
    """End the connection with a reset.

    It comes once the other side's kernel has all that was written, which a reset would discard.
    """
    connection = writer.get_extra_info("socket")
    unsent = array.array("i", [1])
    while unsent[0]:
        fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, unsent)
        await asyncio.sleep(0)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _until_the_client_leaves(reader: asyncio.StreamReader) -> None:
    while await reader.read(CHUNK):
        pass


def _head(request: Request, answer: Answer) -> bytes:
    lines = [
        f"HTTP/1.1 {answer.status} {http.HTTPStatus(answer.status).phrase}",
        *(f"{name}: {value}" for name, value in answer.headers),
    ]
    names = {name.lower() for name, _ in answer.headers}
    if answer.framing == "length" and "content-length" not in names:
        lines.append(f"Content-Length: {len(answer.body)}")
    elif answer.framing == "chunked" and request.method != "HEAD":
        lines.append("Transfer-Encoding: chunked")
    elif answer.framing == "close":
        lines.append("Connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
