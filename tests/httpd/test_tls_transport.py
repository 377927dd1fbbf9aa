"""TLS towards clients: files, refusals, alerts and disconnects, over real sockets."""

from __future__ import annotations

import asyncio
import os
import resource
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from entrepot.config.tls_settings import TlsFiles
from entrepot.httpd.asgi import Application
from entrepot.httpd.server import HttpServer, bind_tcp
from entrepot.server.run import allow_open_files
from tests.e2e.registries.certificates import Authority
from tests.httpd.byte_client import Connection, answer, echo, read_all, start

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    authority = Authority(tmp_path_factory.mktemp("authority"))
    authority.server("localhost")
    authority.path.with_name("localhost.pem").chmod(0o600)
    return authority


class TlsServer:
    """A server behind TLS, and connections to it."""

    def __init__(self, server: HttpServer, port: int, trust: ssl.SSLContext) -> None:
        self.server = server
        self.port = port
        self.trust = trust

    async def connect(self, *, plain: bool = False) -> Connection:
        return await asyncio.open_connection(
            "localhost", self.port, ssl=None if plain else self.trust, limit=2**22
        )


@asynccontextmanager
async def behind_tls(
    app: Application, authority: Authority, *, client_certificates: bool = False
) -> AsyncIterator[TlsServer]:
    pem = authority.path.with_name("localhost.pem")
    files = TlsFiles(pem, pem, authority.path if client_certificates else None)
    listener = bind_tcp("localhost", 0)
    server = HttpServer(app)
    await server.listen(listener, tls=files.context())
    trust = ssl.create_default_context(cafile=str(authority.path))
    try:
        async with asyncio.timeout(60):
            yield TlsServer(server, listener.getsockname()[1], trust)
    finally:
        await server.stop(grace=0)


async def first_line(tls: TlsServer) -> bytes:
    """In TLS 1.3 a client learns with the first answer that it has no certificate."""
    reader, writer = await tls.connect()
    writer.write(GET)
    return await reader.readline()


async def test_files_and_parts_of_files_arrive_whole(
    sends_a_file: Application, content: bytes, authority: Authority
) -> None:
    async with behind_tls(sends_a_file, authority) as tls:
        reader, writer = await tls.connect()
        for offset, count in ((0, len(content)), (1, 1), (70_001, 200_003), (0, 64 * 1024)):
            writer.write(GET.replace(b"/ ", b"/%d/%d " % (offset, count), 1))
            status, _, body = await answer(reader)
            assert (status, body) == (200, content[offset : offset + count])
        writer.write(GET * 3)
        for _ in range(3):
            assert (await answer(reader))[2] == content
        writer.close()


async def test_many_clients_get_files_at_the_same_time(
    sends_a_file: Application, content: bytes, authority: Authority
) -> None:
    async with behind_tls(sends_a_file, authority) as tls:

        async def fetch() -> bytes:
            reader, writer = await tls.connect()
            writer.write(GET)
            try:
                return (await answer(reader))[2]
            finally:
                writer.close()

        assert set(await asyncio.gather(*(fetch() for _ in range(20)))) == {content}


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_both_versions_send_and_receive_large_bodies(
    version: ssl.TLSVersion, authority: Authority
) -> None:
    async with behind_tls(echo, authority) as tls:
        tls.trust.maximum_version = version
        reader, writer = await tls.connect()
        body = os.urandom(3_000_000)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body))
        writer.write(body)
        assert (await answer(reader))[2] == body
        assert writer.get_extra_info("ssl_object").version() == version.name.replace("v1_", "v1.")
        writer.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_an_older_version_gets_an_alert(authority: Authority) -> None:
    async with behind_tls(echo, authority) as tls:
        tls.trust.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        tls.trust.maximum_version = ssl.TLSVersion.TLSv1_1
        tls.trust.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.raises(ssl.SSLError, match=r"ALERT_PROTOCOL_VERSION|NO_PROTOCOLS|INTERNAL"):
            await tls.connect()


async def test_alpn_is_http_1_1(authority: Authority) -> None:
    async with behind_tls(echo, authority) as tls:
        tls.trust.set_alpn_protocols(["h2", "http/1.1"])
        _, writer = await tls.connect()
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        writer.close()


async def test_plain_http_on_a_tls_port_gets_one_sentence(authority: Authority) -> None:
    async with behind_tls(echo, authority) as tls:
        reader, writer = await tls.connect(plain=True)
        writer.write(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
        status, _, body = await answer(reader)
        assert status == 400
        assert b"This port speaks HTTPS, and the client sent plain HTTP." in body
        assert await reader.read() == b""
        writer.close()


async def test_what_is_neither_gets_an_alert(authority: Authority) -> None:
    async with behind_tls(echo, authority) as tls:
        reader, writer = await tls.connect(plain=True)
        writer.write(b"\x00SSH-2.0-nonsense\r\n\r\n\r\n")
        assert (await read_all(reader))[:1] in {b"\x15", b""}
        writer.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_client_without_a_certificate_gets_the_alert_that_says_so(
    version: ssl.TLSVersion, authority: Authority
) -> None:
    async with behind_tls(echo, authority, client_certificates=True) as tls:
        tls.trust.maximum_version = version
        with pytest.raises(ssl.SSLError, match=r"CERTIFICATE_REQUIRED|HANDSHAKE_FAILURE"):
            await first_line(tls)
        pem = str(authority.path.with_name("localhost.pem"))
        tls.trust.load_cert_chain(pem)
        for _ in range(2):
            reader, writer = await tls.connect()
            writer.write(GET)
            assert (await answer(reader))[0] == 200
            writer.close()


async def test_s06_a_client_that_leaves_in_the_middle_of_a_file_frees_everything(
    large_file: Application, authority: Authority
) -> None:
    async with behind_tls(large_file, authority) as tls:
        reader, writer = await tls.connect()
        writer.write(GET)
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()
        while tls.server._exchanges or tls.server._connections:
            await asyncio.sleep(0)


async def test_s09_a_client_that_stalls_in_the_middle_of_a_file_is_reset(
    large_file: Application, authority: Authority
) -> None:
    async with behind_tls(large_file, authority) as tls:
        reader, writer = await tls.connect()
        writer.write(GET)
        await reader.readuntil(b"\r\n\r\n")
        transport: Any = writer.transport
        transport.pause_reading()
        (connection,) = tls.server._connections.values()
        while not (connection.transport and connection.transport.get_extra_info("socket")):
            await asyncio.sleep(0)
        connection.reset()
        while tls.server._exchanges or tls.server._connections:
            await asyncio.sleep(0)
        writer.transport.abort()


async def test_a_file_that_became_shorter_cuts_the_connection(
    tmp_path: Path, authority: Authority
) -> None:
    path = tmp_path / "short"
    path.write_bytes(b"x" * 300_000)

    async def app(_scope: object, _receive: object, send: object) -> None:
        with path.open("rb") as file:
            await send(start(content_length="400000"))  # type: ignore[operator]
            message = {"type": "http.response.zerocopysend", "file": file, "offset": 0}
            await send(message | {"count": 400_000})  # type: ignore[operator]

    async with behind_tls(app, authority) as tls:
        reader, writer = await tls.connect()
        writer.write(GET)
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"content-length: 400000" in head
        assert len(await read_all(reader)) < 400_000
        writer.close()


async def test_a_slow_reader_gets_all_of_a_large_body(
    large_body: Application, authority: Authority
) -> None:
    async with behind_tls(large_body, authority) as tls:
        reader, writer = await tls.connect()
        writer.write(GET)
        await reader.readuntil(b"\r\n\r\n")
        received = 0
        while received < 30_000_000:
            received += len(await reader.read(100_000))
        assert received == 30_000_000
        writer.close()


@pytest.fixture
def many_open_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    allow_open_files()
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("many_open_files")
async def test_500_connections_at_once_get_all_they_ask_for(
    sends_a_file: Application, content: bytes, authority: Authority
) -> None:
    """S06: each is kept for a second request, so that all of them are open at once."""
    async with behind_tls(sends_a_file, authority) as tls:
        slots = asyncio.Semaphore(50)

        async def connect() -> Connection:
            async with slots:
                return await tls.connect()

        connections = await asyncio.gather(*(connect() for _ in range(500)))
        for _ in range(2):
            for _, writer in connections:
                writer.write(GET.replace(b"/ ", b"/70000/70000 ", 1))
            for reader, _ in connections:
                assert (await answer(reader))[2] == content[70_000:140_000]
        assert len(tls.server._connections) == 500
        for _, writer in connections:
            writer.close()
