"""The HTTP server: its connections, limits and its end, over real sockets."""

from __future__ import annotations

import asyncio
import gc
import select
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from entrepot.httpd import connections as connections_module
from entrepot.httpd import server as server_module
from entrepot.httpd.asgi import Application, Receive, Scope, Send
from entrepot.httpd.connections import ClientConnection
from entrepot.httpd.exchange import WRITE_SIZE
from entrepot.httpd.server import HttpServer, bind_tcp, serving
from entrepot.server.unix_socket import owned_socket
from tests.e2e.registries.certificates import Authority
from tests.httpd.byte_client import (
    Connection,
    answer,
    as_one_part,
    body,
    connected,
    echo,
    read_all,
    start,
)


async def test_headers_that_do_not_come_and_connections_that_are_idle_are_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_module, "IDLE_TIMEOUT", 0.2)
    for request in (b"", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "):
        async with connected(echo) as (reader, writer):
            writer.write(request)
            assert await reader.read() == b""


async def test_overlong_headers_and_other_protocols_get_400_without_a_stack_trace(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for request in (
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"\x16\x03\x01 this is TLS\r\n\r\n",
    ):
        async with connected(echo) as (reader, writer):
            writer.write(request)
            assert (await reader.readline()).split()[1] == b"400"
    assert caplog.records == []


async def test_tls_on_a_plain_port_gets_one_sentence_and_a_line_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "entrepot.server")
    listener = bind_tcp("127.0.0.1", 0)
    async with serving(echo, listener), asyncio.timeout(30):
        # What Go says of it is "server gave HTTP response to HTTPS client".
        with pytest.raises(ssl.SSLError, match="WRONG_VERSION_NUMBER"):
            await asyncio.open_connection(
                *listener.getsockname(), ssl=True, server_hostname="localhost"
            )
    assert [record.getMessage() for record in caplog.records] == [
        "This port speaks plain HTTP, and the client began with TLS. Its address is 127.0.0.1."
    ]


async def test_one_connection_too_many_takes_the_place_of_an_idle_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections_module, "MAX_CONNECTIONS", 2)
    listener = bind_tcp("127.0.0.1", 0)
    async with serving(echo, listener), asyncio.timeout(30):
        clients: list[Connection] = []
        for _ in range(3):
            clients.append(await asyncio.open_connection(*listener.getsockname()))
            clients[-1][1].write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await answer(clients[-1][0]))[0] == 200
        assert await clients[0][0].read() == b""
        for _, writer in clients:
            writer.close()


async def test_an_answer_under_way_is_finished_before_the_server_ends(
    sends_a_file: Application, content: bytes
) -> None:
    listener = bind_tcp("127.0.0.1", 0)
    server = HttpServer(sends_a_file)
    await server.listen(listener)
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    stopping = asyncio.create_task(server.stop(grace=20))
    async with asyncio.timeout(30):
        assert await reader.read(-1) == content
        await stopping
    writer.close()


async def test_a_connection_that_comes_while_the_server_stops_ends_without_a_word() -> None:
    class Stopping(HttpServer):
        async def _set_up(self, connection: ClientConnection, tls: ssl.SSLContext | None) -> None:
            self._stopping = True
            await super()._set_up(connection, tls)

    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    listener = bind_tcp("127.0.0.1", 0)
    server = Stopping(echo)
    await server.listen(listener)
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    with suppress(ConnectionError):
        assert await reader.read() == b""
    await server.stop(grace=20)
    writer.close()
    gc.collect()
    assert failures == []


async def test_an_answer_that_takes_too_long_is_cut(sends_a_file: Application) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        sending = as_one_part(send)
        while True:
            await sends_a_file(scope, receive, sending)

    async with connected(app) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readexactly(1000)
        # The server ends here, while the file is being sent.
    assert len(await read_all(reader)) < 10**12


async def test_a_unix_socket_is_answered_on(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with owned_socket(path) as owned:
        async with serving(echo, owned.listener):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await answer(reader))[0] == 200
            writer.close()


async def test_behind_tls_the_same_application_answers(tmp_path: Path) -> None:
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await echo(scope, receive, send)

    authority = Authority(tmp_path)
    tls, trusted = (
        authority.server("localhost"),
        ssl.create_default_context(cafile=str(authority.path)),
    )
    listener = bind_tcp("127.0.0.1", 0)
    async with serving(app, listener, tls=tls), httpx.AsyncClient(verify=trusted) as client:
        response = await client.post(
            f"https://localhost:{listener.getsockname()[1]}/", content=b"x" * 100_000
        )
        assert (response.status_code, len(response.content)) == (200, 100_000)
    assert scopes[0]["scheme"] == "https"
    assert "http.response.zerocopysend" in scopes[0]["extensions"]


def test_an_address_in_use_is_an_error() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(OSError, match="in use"):
            bind_tcp("127.0.0.1", other.getsockname()[1])


def reads_on(server: HttpServer) -> bool:
    """Whether the server reads from its only connection."""
    [connection] = server._connections.values()
    assert connection.transport is not None
    return connection.transport.is_reading()


async def test_s06_a_client_that_asked_for_more_before_its_answer_and_left_is_forgotten() -> None:
    cancelled = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    listener = bind_tcp("127.0.0.1", 0)
    async with serving(app, listener) as server, asyncio.timeout(30):
        _, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 500)
        while not server._exchanges or reads_on(server):
            await asyncio.sleep(0)
        writer.transport.abort()
        while not cancelled.is_set():
            server.reset_disconnected()
            await asyncio.sleep(0)


async def test_s06_too_many_requests_get_503_but_the_one_for_health_is_answered() -> None:
    gate = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/wait":
            await gate.wait()
        await send(start(content_length="2"))
        await send(body(b"ok"))

    listener = bind_tcp("127.0.0.1", 0)
    server = HttpServer(app, requests=1, always=("/healthz",))
    await server.listen(listener)
    async with asyncio.timeout(30):
        waits, asks = [await asyncio.open_connection(*listener.getsockname()) for _ in range(2)]
        waits[1].write(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        while not server._exchanges:
            await asyncio.sleep(0)
        for path, expected in ((b"/healthz", 200), (b"/v2/", 503)):
            asks[1].write(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path)
            status, headers, _ = await answer(asks[0])
            assert (status, "retry-after" in headers) == (expected, expected == 503)
        gate.set()
        assert (await answer(waits[0]))[0] == 200
        for _, writer in (waits, asks):
            writer.close()
        await server.stop(grace=5)


async def test_s06_when_all_connections_wait_health_is_told_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections_module, "MAX_CONNECTIONS", 2)
    gate = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/wait":
            await gate.wait()
        await send(start(content_length="2"))
        await send(body(b"ok"))

    listener = bind_tcp("127.0.0.1", 0)
    server = HttpServer(app, always=("/healthz",))
    await server.listen(listener)
    async with asyncio.timeout(30):
        clients = [await asyncio.open_connection(*listener.getsockname()) for _ in range(2)]
        for _, writer in clients:
            writer.write(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        while len(server._exchanges) < 2:
            await asyncio.sleep(0)
        for path, expected in ((b"/healthz", 200), (b"/v2/", 503)) * 3:
            clients.append(await asyncio.open_connection(*listener.getsockname()))
            clients[-1][1].write(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path)
            status, headers, _ = await answer(clients[-1][0])
            assert (status, headers["connection"]) == (expected, "close")
            assert await clients[-1][0].read() == b""
        gate.set()
        for reader, _ in clients[:2]:
            assert (await answer(reader))[0] == 200
        for _, writer in clients:
            writer.close()
        await server.stop(grace=5)


def any_writable(server: HttpServer) -> bool:
    """Whether the kernel takes more of an answer."""
    poll = select.poll()
    for connection in server._connections.values():
        poll.register(connection.socket, select.POLLOUT)
    return bool(poll.poll(0))


async def steps_counted(server: HttpServer) -> None:
    """Wait until what the sending thread has begun to send is in ``bytes_written``."""
    loop = asyncio.get_running_loop()

    def call_in_loop(callback: Callable[[], None]) -> None:
        loop.call_soon_threadsafe(callback)

    if (thread := server._files._thread) is not None:
        turn = asyncio.Event()
        thread._command(partial(call_in_loop, turn.set))
        await turn.wait()
    server._files.report()


@asynccontextmanager
async def stalled(
    app: Application, clients: int, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[HttpServer, list[Connection], tuple[str, int]]]:
    """Clients that have begun to read an answer and then stop, until the server can't send more."""
    listener = bind_tcp("127.0.0.1", 0)
    trusting, name = None, None
    if tls is not None:
        name = "localhost"
        trusting = ssl.create_default_context()
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    async with serving(app, listener, tls=tls) as server, asyncio.timeout(60):
        open_now = []
        for _ in range(clients):
            reader, writer = await asyncio.open_connection(
                *listener.getsockname(), limit=1024, ssl=trusting, server_hostname=name
            )
            open_now.append((reader, writer))
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readline()
        before = None
        # Until nothing moves any more: the buffers of the kernel at both ends are full.
        while (
            before
            != (
                now := [
                    (each.bytes_written, connections_module.unsent_bytes(each.transport))
                    for each in server._connections.values()
                    if each.transport
                ]
            )
            or len(now) < clients
            or any_writable(server)
        ):
            before = now
            for _ in range(200):
                await asyncio.sleep(0)
            await steps_counted(server)
        try:
            yield server, open_now, listener.getsockname()
        finally:
            for _, writer in open_now:
                writer.transport.abort()


@pytest.mark.parametrize("kind", ["large_body", "large_file", "tls"])
async def test_s09_l06_a_client_that_takes_nothing_for_minutes_is_cut_off(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    app: Application = request.getfixturevalue("large_body" if kind == "tls" else kind)
    tls = Authority(tmp_path).server("localhost") if kind == "tls" else None
    async with stalled(app, 1, tls) as (server, [(reader, _)], _):
        now = asyncio.get_running_loop().time()
        server.reset_stalled(now)
        server.reset_stalled(now + server_module.SEND_TIMEOUT - 1)
        assert len(server._connections) == 1
        server.reset_stalled(now + server_module.SEND_TIMEOUT + 1)
        while server._connections or server._exchanges:
            await asyncio.sleep(0)
        assert len(await read_all(reader)) < 30_000_000


async def take_a_little(
    connection: connections_module.ClientConnection, reader: asyncio.StreamReader
) -> None:
    """Read as much of an answer as lets the server send more."""
    assert connection.transport is not None
    before = connection.bytes_written, connections_module.unsent_bytes(connection.transport)
    while (
        connection.bytes_written,
        connections_module.unsent_bytes(connection.transport),
    ) == before:
        await reader.read(200_000)


async def test_s09_a_client_that_takes_a_little_now_and_then_is_not_cut_off(
    large_file: Application,
) -> None:
    async with stalled(large_file, 1) as (server, [(reader, _)], _):
        now = asyncio.get_running_loop().time()
        [connection] = server._connections.values()
        for minute in range(1, 4):
            await take_a_little(connection, reader)
            server.reset_stalled(now + minute * server_module.SEND_TIMEOUT)
        assert len(server._connections) == 1


async def test_s09_a_client_on_a_bad_line_is_not_cut_off_while_its_window_is_closed(
    large_file: Application,
) -> None:
    """Its system tells of a kilobyte that was read only when a large part of its buffer is free
    again: that takes minutes at 1 kB/s."""
    window, speed = 256 * 1024, 1000
    async with stalled(large_file, 1) as (server, [(reader, _)], _):
        now = asyncio.get_running_loop().time()
        [connection] = server._connections.values()
        for _ in range(3):
            server.reset_stalled(now)
            now += window / speed
            server.reset_stalled(now)
            assert not connection.transport or not connection.transport.is_closing()
            await take_a_little(connection, reader)


async def test_s09_a_new_client_takes_the_place_of_the_one_that_stalls_longest(
    large_file: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections_module, "MAX_CONNECTIONS", 2)
    async with stalled(large_file, 2) as (server, clients, address):
        now = asyncio.get_running_loop().time()
        first, second = server._connections.values()
        server.reset_stalled(now - 40)
        await take_a_little(first, clients[0][0])
        for seconds in (30, 15):
            server.reset_stalled(now - seconds)
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await answer(reader, head=True))[0] == 200
        writer.close()
        assert first in server._connections.values()
        assert second not in server._connections.values()


async def first_line(listener: socket.socket) -> bytes:
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    try:
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        return await reader.readline()
    finally:
        writer.close()


async def is_refused(listener: socket.socket) -> None:
    """The server has no room for a new connection, and none for one that is told so."""
    assert (await first_line(listener)).split()[1] == b"503"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server_module, "EXTRA_CONNECTIONS", 0)
        with pytest.raises(ConnectionResetError):
            await first_line(listener)


async def test_s09_one_address_leaves_a_share_of_the_connections_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Many clients behind one address (NAT) have what no other address needs."""
    gate = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await gate.wait()
        await send(start(content_length="0"))
        await send(body(b""))

    async def ask() -> Connection:
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        return reader, writer

    monkeypatch.setattr(connections_module, "MAX_CONNECTIONS", 8)
    addresses = iter([*["192.0.2.1"] * 8, "192.0.2.2", "192.0.2.2"])
    monkeypatch.setattr(server_module, "counted_address", lambda _: next(addresses))
    listener = bind_tcp("127.0.0.1", 0)
    async with serving(app, listener, grace=5) as server, asyncio.timeout(30):
        clients = [await ask() for _ in range(6)]
        while len(server._exchanges) < 6:
            await asyncio.sleep(0)
        await is_refused(listener)
        clients += [await ask(), await ask()]
        gate.set()
        for reader, _ in clients:
            assert (await answer(reader))[0] == 200
        for _, writer in clients:
            writer.close()


async def test_s10_no_connection_gets_the_last_descriptors_but_an_idle_one_makes_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listener = bind_tcp("127.0.0.1", 0)
    async with serving(echo, listener) as server, asyncio.timeout(30):
        first = await asyncio.open_connection(*listener.getsockname())
        first[1].write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await answer(first[0]))[0] == 200
        monkeypatch.setattr(server_module, "LAST_DESCRIPTORS", 10**9)
        second = await asyncio.open_connection(*listener.getsockname())
        second[1].write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n")
        assert await first[0].read() == b""
        while not server._exchanges:
            await asyncio.sleep(0)
        await is_refused(listener)
        second[1].write(b"x")
        assert (await answer(second[0]))[2] == b"x"
        for _, writer in (first, second):
            writer.close()


async def test_s36_tls_handshakes_count_as_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections_module, "MAX_CONNECTIONS", 2)
    listener = bind_tcp("127.0.0.1", 0)
    async with (
        serving(echo, listener, tls=Authority(tmp_path).server("localhost")) as server,
        asyncio.timeout(30),
    ):
        silent = [await asyncio.open_connection(*listener.getsockname()) for _ in range(2)]
        while len(server._pending) < 2:
            await asyncio.sleep(0)
        monkeypatch.setattr(server_module, "EXTRA_CONNECTIONS", 0)
        with pytest.raises(ConnectionResetError):
            await first_line(listener)
        for _, silent_writer in silent:
            silent_writer.transport.abort()
        while server._pending:
            await asyncio.sleep(0)
        trusted = ssl.create_default_context()
        trusted.check_hostname, trusted.verify_mode = False, ssl.CERT_NONE
        reader, writer = await asyncio.open_connection(
            *listener.getsockname(), ssl=trusted, server_hostname="localhost"
        )
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await answer(reader))[0] == 200
        writer.transport.abort()


async def test_s36_a_handshake_that_does_not_end_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server_module, "HANDSHAKE_TIMEOUT", 0.1)
    listener = bind_tcp("127.0.0.1", 0)
    async with (
        serving(echo, listener, tls=Authority(tmp_path).server("localhost")),
        asyncio.timeout(30),
    ):
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        assert await read_all(reader) == b""
        writer.close()
    assert caplog.records == []


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_s09_clients_that_do_not_read_share_one_copy_of_a_large_answer(
    tls: bool, large_body: Application, tmp_path: Path
) -> None:
    async with stalled(large_body, 5, Authority(tmp_path).server("localhost") if tls else None) as (
        server,
        _,
        _,
    ):
        buffered = [
            each.transport.get_write_buffer_size()
            for each in server._connections.values()
            if each.transport
        ]
        assert len(buffered) == 5
        assert max(buffered) <= 4 * WRITE_SIZE
