"""Fake proxies: HTTP with CONNECT, and SOCKS5. Both look names up in a table of their own."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import ssl
from collections.abc import Mapping
from typing import Self
from urllib.parse import urlsplit

Place = tuple[str, int]


class FakeProxy:
    """A proxy on a port of 127.0.0.1. Use it as ``async with``.

    *names* says where the hosts are that it knows; it knows no other. With *user* and *password* it
    refuses clients without both.
    """

    scheme = ""

    def __init__(
        self,
        names: Mapping[str, Place],
        *,
        user: str = "",
        password: str = "",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.names = dict(names)
        self.destinations: list[Place] = []
        """The requested destinations: hosts as they were named, and their ports."""
        self.user = user
        self.password = password
        self.port = 0
        self._tls = tls
        self._listener: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Its address with user name and password, for a variable of the environment."""
        user = f"{self.user}:{self.password}@" if self.user else ""
        return f"{self.scheme}://{user}127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._listener is not None:
            self._listener.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (
            OSError,
            EOFError,
            ExceptionGroup,
            asyncio.LimitOverrunError,
            asyncio.CancelledError,
        ):
            return  # the client or the test ended
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError

    async def _tunnel(
        self, place: Place, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: bytes
    ) -> None:
        far_reader, far_writer = await asyncio.open_connection(*place)
        far_writer.write(first)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, far_writer))
                group.create_task(_copy(far_reader, writer))
        finally:
            far_writer.close()


class HttpProxy(FakeProxy):
    """An HTTP proxy: CONNECT for https, whole URLs for http, one request for each connection."""

    def __init__(
        self,
        names: Mapping[str, Place],
        *,
        user: str = "",
        password: str = "",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(names, user=user, password=password, tls=tls)
        self.scheme = "https" if tls is not None else "http"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, _, fields = head.partition("\r\n")
        method, target, _ = line.split(" ")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (field.partition(":") for field in fields.split("\r\n") if field)
        }
        parts = urlsplit(f"//{target}" if method == "CONNECT" else target)
        host, port = parts.hostname or "", parts.port or 80
        self.destinations.append((host, port))
        expected = "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        if self.user and headers.get("proxy-authorization") != expected:
            writer.write(
                b"HTTP/1.1 407 Proxy Authentication Required\r\n"
                b'Proxy-Authenticate: Basic realm="p"\r\n'
                b"Content-Length: 0\r\nConnection: close\r\n\r\n"
            )
            await writer.drain()
            return
        place = self.names.get(host)
        if place is None:
            writer.write(
                b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
            await writer.drain()
            return
        first = b""
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            path = parts.path + (f"?{parts.query}" if parts.query else "")
            forwarded = "".join(
                f"{name}: {value}\r\n"
                for name, value in headers.items()
                if name != "proxy-authorization"
            )
            first = f"{method} {path} HTTP/1.1\r\n{forwarded}\r\n".encode("latin-1")
        await self._tunnel(place, reader, writer, first)


class SocksProxy(FakeProxy):
    """A SOCKS5 proxy (RFC 1928, RFC 1929). *refusal* is its reply for unknown names."""

    scheme = "socks5"
    refusal = 4

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, count = await reader.readexactly(2)
        methods = await reader.readexactly(count)
        method = 2 if self.user else 0
        if method not in methods:
            writer.write(b"\x05\xff")
            return
        writer.write(bytes((5, method)))
        if self.user:
            _, length = await reader.readexactly(2)
            user = await reader.readexactly(length)
            password = await reader.readexactly((await reader.readexactly(1))[0])
            if (user.decode(), password.decode()) != (self.user, self.password):
                writer.write(b"\x01\x01")
                return
            writer.write(b"\x01\x00")
        kind = (await reader.readexactly(4))[3]
        if kind == 3:
            host = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
        else:
            host = str(ipaddress.ip_address(await reader.readexactly(4 if kind == 1 else 16)))
        port = int.from_bytes(await reader.readexactly(2), "big")
        self.destinations.append((host, port))
        place = self.names.get(host)
        if place is None:
            writer.write(bytes((5, self.refusal)) + b"\x00\x01\0\0\0\0\0\0")
            return
        writer.write(b"\x05\x00\x00\x01\0\0\0\0\0\0")
        await self._tunnel(place, reader, writer, b"")


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(64 * 1024):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
    else:
        writer.close()
