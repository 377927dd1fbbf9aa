"""The HTTP server, spoken to byte by byte over real sockets."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from entrepot.httpd import sendfile
from entrepot.httpd import server as server_module
from entrepot.httpd.sendfile import SENDFILE_CHUNK
from entrepot.httpd.server import (
    REASON_KEY,
    Application,
    Disconnected,
    HttpServer,
    Receive,
    Scope,
    Send,
    bind_tcp,
    serving,
)
from entrepot.server.unix_socket import owned_socket
from tests.e2e.registries.certificates import Authority

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def start(status: int = 200, **headers: str) -> dict[str, Any]:
    return {
        "type": "http.response.start",
        "status": status,
        "headers": [
            (name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()
        ],
    }


def body(content: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": content, "more_body": more}


def part(file: Any, offset: int, count: int) -> dict[str, Any]:
    return {"type": "http.response.zerocopysend", "file": file, "offset": offset, "count": count}


@asynccontextmanager
async def connected(app: Application) -> AsyncIterator[Connection]:
    listener = bind_tcp("127.0.0.1", 0)
    async with serving(app, listener), asyncio.timeout(30):
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        try:
            yield reader, writer
        finally:
            writer.transport.abort()


async def answer(
    reader: asyncio.StreamReader, *, head: bool = False
) -> tuple[int, dict[str, str], bytes]:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
    headers = {name: value for name, _, value in (line.partition(": ") for line in lines[1:])}
    content = b"" if head else await reader.readexactly(int(headers.get("content-length", 0)))
    return int(lines[0].split()[1]), headers, content


@pytest.fixture
def content() -> bytes:
    return os.urandom(2 * SENDFILE_CHUNK + 12_345)


@pytest.fixture
def sends_a_file(tmp_path: Path, content: bytes) -> Application:
    """An application that sends a file, or the part of it that the path names: ``/OFFSET/COUNT``."""
    path = tmp_path / "file"
    path.write_bytes(content)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        offset, count = (
            map(int, scope["path"].strip("/").split("/"))
            if scope["path"] != "/"
            else (0, len(content))
        )
        with path.open("rb") as file:
            await send(start(content_length=str(count)))
            await send(part(file, offset, count))

    return app


async def test_a_connection_serves_on_after_a_file(
    sends_a_file: Application, content: bytes
) -> None:
    async with connected(sends_a_file) as (reader, writer):
        for target, expected in (
            ("/", content),
            ("/10/5", content[10:15]),
            (
                f"/{SENDFILE_CHUNK - 1}/{SENDFILE_CHUNK + 2}",
                content[SENDFILE_CHUNK - 1 : 2 * SENDFILE_CHUNK + 1],
            ),
            ("/", content),
        ):
            writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            status, headers, got = await answer(reader)
            assert (status, got == expected, "connection" in headers) == (200, True, False)


async def test_requests_that_come_together_are_answered_in_their_order(
    sends_a_file: Application, content: bytes
) -> None:
    async with connected(sends_a_file) as (reader, writer):
        writer.write(
            b"".join(
                b"GET /%d/%d HTTP/1.1\r\nHost: x\r\n\r\n" % (at, 100_000)
                for at in range(0, 2_000_000, 100_000)
            )
        )
        for at in range(0, 2_000_000, 100_000):
            assert (await answer(reader))[2] == content[at : at + 100_000]


async def test_a_head_has_headers_only(sends_a_file: Application, content: bytes) -> None:
    async with connected(sends_a_file) as (reader, writer):
        writer.write(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\nGET /0/3 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await answer(reader, head=True))[1]["content-length"] == str(len(content))
        assert (await answer(reader))[2] == content[:3]


async def test_a_file_that_is_cut_short_while_it_is_sent_cuts_the_connection(
    tmp_path: Path,
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(1000))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with path.open("rb") as file:
            await send(start(content_length="2000"))
            await send(part(file, 0, 2000))

    async with connected(app) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        assert len(await _all(reader)) <= 1000


async def _all(reader: asyncio.StreamReader) -> bytes:
    got = b""
    try:
        while piece := await reader.read(SENDFILE_CHUNK):
            got += piece
    except ConnectionResetError:
        pass
    return got


async def test_an_application_that_fails_in_the_middle_never_ends_its_body(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"the beginning", more=True))
        raise RuntimeError("It went wrong.")

    async with connected(app) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"0\r\n\r\n" not in await _all(reader)
    async with connected(app) as (reader, writer):
        # Its body lasts until the connection ends, so the end has to look broken.
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            await reader.read(-1)


async def test_an_application_that_fails_before_it_begins_is_a_500(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("It went wrong.")

    with caplog.at_level(logging.ERROR, "entrepot.server"):
        async with connected(app) as (reader, writer):
            writer.write(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await answer(reader))[0] == 500
    assert "GET /x failed in an unforeseen way" in caplog.text


@pytest.mark.parametrize(
    "headers",
    [{"content_length": "3"}, {"x": "a\r\nSet-Cookie: b"}],
    ids=["promised", "a line break"],
)
async def test_a_body_longer_than_promised_or_a_broken_header_is_not_sent(
    headers: dict[str, str],
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(200, **headers))
        await send(body(b"12345"))

    async with connected(app) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        got = await _all(reader)
        assert b"12345" not in got
        assert b"Set-Cookie" not in got


async def test_a_reason_stands_in_the_status_line_and_can_not_begin_another_line() -> None:
    """Clients show it of an error, and not the body."""
    reasons = [b"The clock is wrong.", b"a\r\nSet-Cookie: b"]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({**start(status=503, content_length="0"), REASON_KEY: reasons.pop(0)})
        await send(body(b""))

    async with connected(app) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (
            await reader.readline() == b"HTTP/1.1 503 Service Unavailable: The clock is wrong.\r\n"
        )
    async with connected(app) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"Set-Cookie" not in await _all(reader)


async def test_a_body_of_unknown_length_is_chunked_and_the_connection_lives_on() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        for piece in (b"one", b"", b"three"):
            await send(body(piece, more=True))
        await send(body(b""))

    async with connected(app) as (reader, writer):
        for _ in range(2):
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await answer(reader))[1]["transfer-encoding"] == "chunked"
            assert await reader.readuntil(b"0\r\n\r\n") == b"3\r\none\r\n5\r\nthree\r\n0\r\n\r\n"


async def test_http_1_0_ends_with_its_answer_unless_it_asks_for_more() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(scope["http_version"].encode()))

    async with connected(app) as (reader, writer):
        writer.write(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        status, headers, content = await answer(reader)
        assert (status, headers["connection"], content) == (200, "keep-alive", b"1.0")
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        assert (await answer(reader))[1]["connection"] == "close"
        assert await reader.read() == b""


async def _echo(scope: Scope, receive: Receive, send: Send) -> None:
    got = b""
    while (message := await receive())["type"] == "http.request":
        got += message["body"]
        if not message["more_body"]:
            break
    await send(start())
    await send(body(got))


async def test_a_client_that_asks_first_is_told_to_send_its_body() -> None:
    async with connected(_echo) as (reader, writer):
        writer.write(
            b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        )
        assert (await answer(reader))[0] == 100
        writer.write(b"hello")
        assert (await answer(reader))[2] == b"hello"
        writer.write(
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
        )
        assert (await answer(reader))[2] == b"hi"


async def test_a_client_whose_body_is_not_wanted_is_told_so_at_once() -> None:
    async def refuses(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(405))
        await send(body(b"no"))

    async with connected(refuses) as (reader, writer):
        writer.write(
            b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        )
        status, headers, _ = await answer(reader)
        assert (status, headers["connection"]) == (405, "close")
        assert await reader.read() == b""


async def test_paths_reach_the_application_decoded_and_as_they_came() -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        await send(start(204))
        await send(body(b""))

    async with connected(app) as (reader, writer):
        for target in ("GET /a%2Fb%20c?n=1&x=%20", "GET http://elsewhere/v2/?n=2", "OPTIONS *"):
            writer.write(f"{target} HTTP/1.1\r\nHost: x\r\nX-Name: v\r\n\r\n".encode())
            assert (await answer(reader))[0] == 204
    assert [(each["path"], each["raw_path"], each["query_string"]) for each in seen] == [
        ("/a/b c", b"/a%2Fb%20c", b"n=1&x=%20"),
        ("/v2/", b"/v2/", b"n=2"),
        ("*", b"*", b""),
    ]
    assert (b"x-name", b"v") in seen[0]["headers"]
    assert seen[0]["client"][0] == "127.0.0.1"


async def test_a_client_that_leaves_is_noticed_by_who_waits_and_by_who_sends(
    sends_a_file: Application,
) -> None:
    told: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        told.set_result((await receive())["type"])

    async with connected(waits) as (_, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await writer.drain()
        writer.close()
        assert await told == "http.disconnect"

    ended: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

    async def sends(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            while True:
                await sends_a_file(scope, receive, _as_one_part(send))
        except Disconnected as error:
            ended.set_result(error)
            raise

    async with connected(sends) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readexactly(100)
        writer.transport.abort()
        assert isinstance(await ended, Disconnected)


def _as_one_part(send: Send) -> Send:
    """A body of which more and more comes, so that it can't have gone out before anybody has read
    it."""
    begun = False

    async def sent(message: Any) -> None:
        nonlocal begun
        if message["type"] == "http.response.start":
            if not begun:
                begun = True
                await send(start(content_length=str(10**12)))
        else:
            await send(message | {"more_body": True})

    return sent


async def test_others_are_answered_while_a_large_file_goes_to_a_client_that_does_not_read(
    sends_a_file: Application,
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/healthz":
            await send(start())
            await send(body(b"alive"))
            return
        sending = _as_one_part(send)
        while True:
            await sends_a_file(scope, receive, sending)

    listener = bind_tcp("127.0.0.1", 0)
    async with serving(app, listener), asyncio.timeout(30):
        busy = [await asyncio.open_connection(*listener.getsockname()) for _ in range(3)]
        for reader, writer in busy:
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readexactly(1000)
        reading = asyncio.create_task(_all(busy[0][0]))
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        for _ in range(20):
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await answer(reader))[2] == b"alive"
        assert not reading.done()
        reading.cancel()
        for _, each in (*busy, (reader, writer)):
            each.transport.abort()


async def test_what_is_not_in_memory_is_fetched_by_a_thread(
    sends_a_file: Application, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel says that it would have to wait for the disk."""
    fetched: list[tuple[int, int]] = []
    fetch = sendfile._fetch

    def watched(descriptor: int, offset: int, count: int) -> bytes:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        fetched.append((offset, count))
        return fetch(descriptor, offset, count)

    def would_block(*_: object) -> int:
        raise BlockingIOError

    monkeypatch.setattr(os, "preadv", would_block)
    monkeypatch.setattr(sendfile, "_fetch", watched)
    async with connected(sends_a_file) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await answer(reader))[2] == content
    assert fetched == [
        (0, SENDFILE_CHUNK),
        (SENDFILE_CHUNK, SENDFILE_CHUNK),
        (2 * SENDFILE_CHUNK, len(content) - 2 * SENDFILE_CHUNK),
    ]


async def test_a_file_system_without_sendfile_serves_as_well(
    sends_a_file: Application, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "sendfile", none)
    async with connected(sends_a_file) as (reader, writer):
        for _ in range(2):
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await answer(reader))[2] == content


async def test_headers_that_do_not_come_and_connections_that_are_idle_are_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_module, "IDLE_TIMEOUT", 0.2)
    for sent in (b"", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "):
        async with connected(_echo) as (reader, writer):
            writer.write(sent)
            assert await reader.read() == b""


async def test_a_body_that_stands_still_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "BODY_TIMEOUT", 0.1)
    seen: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        seen.set_result((await receive())["type"])

    async with connected(app) as (_, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
        assert await seen == "http.disconnect"


async def test_headers_that_are_too_long_or_no_http_are_refused_without_a_stack_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for sent in (
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"\x16\x03\x01 this is TLS\r\n\r\n",
    ):
        async with connected(_echo) as (reader, writer):
            writer.write(sent)
            assert (await reader.readline()).split()[1] == b"400"
    assert caplog.records == []


async def test_one_connection_too_many_takes_the_place_of_an_idle_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_module, "MAX_CONNECTIONS", 2)
    listener = bind_tcp("127.0.0.1", 0)
    async with serving(_echo, listener), asyncio.timeout(30):
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


async def test_an_answer_that_takes_too_long_is_cut(sends_a_file: Application) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        sending = _as_one_part(send)
        while True:
            await sends_a_file(scope, receive, sending)

    async with connected(app) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readexactly(1000)
        # The server ends here, while the file is being sent.
    assert len(await _all(reader)) < 10**12


async def test_a_unix_socket_is_answered_on(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with owned_socket(path) as owned:
        async with serving(_echo, owned.listener):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await answer(reader))[0] == 200
            writer.close()


async def test_behind_tls_the_same_application_answers(tmp_path: Path) -> None:
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await _echo(scope, receive, send)

    authority = Authority(tmp_path)
    tls, trusted = (
        authority.server("localhost"),
        ssl.create_default_context(cafile=str(authority.path)),
    )
    listener = bind_tcp("127.0.0.1", 0)
    async with serving(app, listener, tls=tls), httpx.AsyncClient(verify=trusted) as client:
        found = await client.post(
            f"https://localhost:{listener.getsockname()[1]}/", content=b"x" * 100_000
        )
        assert (found.status_code, len(found.content)) == (200, 100_000)
    assert (scopes[0]["scheme"], scopes[0]["extensions"]) == ("https", {})


def test_an_address_in_use_is_an_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="in use"):
            bind_tcp("127.0.0.1", taken.getsockname()[1])


# Clients that take from the others. S06, S09, S10, S36, L06: codes of the security and load
# reviews.


async def test_s06_an_answer_that_waits_is_given_up_when_its_client_leaves() -> None:
    waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    ended = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        waiting.set_result(None)
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with connected(app) as (_, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await waiting
        writer.close()
        await ended.wait()


async def test_s06_what_changes_something_is_not_broken_off_when_its_client_leaves(
    caplog: pytest.LogCaptureFixture,
) -> None:
    waiting, left, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        waiting.set()
        await left.wait()
        done.set()
        await send(start(content_length="0"))
        await send(body(b""))

    listener = bind_tcp("127.0.0.1", 0)
    async with serving(app, listener) as server, asyncio.timeout(30):
        _, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n")
        await waiting.wait()
        writer.transport.abort()
        while server._connections:
            await asyncio.sleep(0)
        left.set()
        await done.wait()
        while server._answering:
            await asyncio.sleep(0)
    assert caplog.records == []


def reads_on(server: HttpServer) -> bool:
    """Whether the server reads from its only connection."""
    [connection] = server._connections.values()
    assert connection.transport is not None
    return connection.transport.is_reading()


async def test_s06_a_client_that_asked_for_more_before_its_answer_and_left_is_forgotten() -> None:
    ended = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    listener = bind_tcp("127.0.0.1", 0)
    async with serving(app, listener) as server, asyncio.timeout(30):
        _, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 500)
        while not server._answering or reads_on(server):
            await asyncio.sleep(0)
        writer.transport.abort()
        while not ended.is_set():
            server.close_gone()
            await asyncio.sleep(0)


async def test_s06_too_many_requests_are_told_to_come_back_but_the_one_that_asks_for_health_is_answered() -> (
    None
):
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
        while not server._answering:
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
    monkeypatch.setattr(server_module, "MAX_CONNECTIONS", 2)
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
        while len(server._answering) < 2:
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
                    (each.handed, server_module._unsent(each.transport))
                    for each in server._connections.values()
                    if each.transport
                ]
            )
            or len(now) < clients
        ):
            before = now
            for _ in range(200):
                await asyncio.sleep(0)
        try:
            yield server, open_now, listener.getsockname()
        finally:
            for _, writer in open_now:
                writer.transport.abort()


@pytest.fixture
def large_body() -> Application:
    """An application with one copy of a large body for all."""
    content = bytes(30_000_000)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(content_length=str(len(content))))
        await send(body(content))

    return app


@pytest.fixture
def large_file(tmp_path: Path) -> Application:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(50_000_000)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with path.open("rb") as file:
            await send(start(content_length="50000000"))
            await send(part(file, 0, 50_000_000))

    return app


@pytest.mark.parametrize("kind", ["large_body", "large_file", "tls"])
async def test_s09_l06_a_client_that_takes_nothing_for_minutes_is_cut_off(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    app: Application = request.getfixturevalue("large_body" if kind == "tls" else kind)
    tls = Authority(tmp_path).server("localhost") if kind == "tls" else None
    async with stalled(app, 1, tls) as (server, [(reader, _)], _):
        now = asyncio.get_running_loop().time()
        server.close_stalled(now)
        server.close_stalled(now + server_module.SEND_TIMEOUT - 1)
        assert len(server._connections) == 1
        server.close_stalled(now + server_module.SEND_TIMEOUT + 1)
        while server._connections or server._answering:
            await asyncio.sleep(0)
        assert len(await _all(reader)) < 30_000_000


async def take_a_little(
    connection: server_module._Connection, reader: asyncio.StreamReader
) -> None:
    """Read as much of an answer as lets the server send more."""
    assert connection.transport is not None
    before = connection.handed, server_module._unsent(connection.transport)
    while (connection.handed, server_module._unsent(connection.transport)) == before:
        await reader.read(200_000)


async def test_s09_a_client_that_takes_a_little_now_and_then_is_not_cut_off(
    large_file: Application,
) -> None:
    async with stalled(large_file, 1) as (server, [(reader, _)], _):
        now = asyncio.get_running_loop().time()
        [connection] = server._connections.values()
        for minute in range(1, 4):
            await take_a_little(connection, reader)
            server.close_stalled(now + minute * server_module.SEND_TIMEOUT)
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
            server.close_stalled(now)
            now += window / speed
            server.close_stalled(now)
            assert not connection.transport or not connection.transport.is_closing()
            await take_a_little(connection, reader)


async def test_s09_a_new_client_takes_the_place_of_the_one_that_stalls_longest(
    large_file: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "MAX_CONNECTIONS", 2)
    async with stalled(large_file, 2) as (server, clients, address):
        now = asyncio.get_running_loop().time()
        first, second = server._connections.values()
        server.close_stalled(now - 40)
        await take_a_little(first, clients[0][0])
        for seconds in (30, 15):
            server.close_stalled(now - seconds)
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await answer(reader, head=True))[0] == 200
        writer.close()
        assert first in server._connections.values()
        assert second not in server._connections.values()


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
        assert max(buffered) <= 4 * server_module.WRITE_SIZE


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
    """Many clients behind one address (NAT) have what nobody else needs."""
    gate = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await gate.wait()
        await send(start(content_length="0"))
        await send(body(b""))

    async def ask() -> Connection:
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        return reader, writer

    monkeypatch.setattr(server_module, "MAX_CONNECTIONS", 8)
    addresses = iter([*["192.0.2.1"] * 8, "192.0.2.2", "192.0.2.2"])
    monkeypatch.setattr(server_module, "_counted_address", lambda _: next(addresses))
    listener = bind_tcp("127.0.0.1", 0)
    async with serving(app, listener, grace=5) as server, asyncio.timeout(30):
        clients = [await ask() for _ in range(6)]
        while len(server._answering) < 6:
            await asyncio.sleep(0)
        await is_refused(listener)
        clients += [await ask(), await ask()]
        gate.set()
        for reader, _ in clients:
            assert (await answer(reader))[0] == 200
        for _, writer in clients:
            writer.close()


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        (("192.0.2.7", 1234), "192.0.2.7"),
        (("::ffff:192.0.2.7", 1234, 0, 0), "192.0.2.7"),
        (("2001:db8:1:2:3::4", 1234, 0, 0), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 1234, 0, 2), "fe80::/64"),
        (("127.0.0.1", 1234), None),
        (("::1", 1234, 0, 0), None),
        ("", None),
    ],
)
def test_s09_what_counts_as_one_address(address: object, counted: str | None) -> None:
    assert server_module._counted_address(address) == counted


class _Exhausted(socket.socket):
    """A listening socket for whose connections there is no descriptor, so many times."""

    times = 2

    def accept(self) -> tuple[socket.socket, Any]:
        if self.times:
            self.times -= 1
            raise OSError(24, "Too many open files")
        return super().accept()


async def test_s10_without_descriptors_it_waits_with_one_line_each_time_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server_module, "ACCEPT_PAUSE", 0.01)
    listener = _Exhausted()
    listener.bind(("127.0.0.1", 0))
    async with serving(_echo, listener), asyncio.timeout(30):
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await answer(reader))[0] == 200
        writer.close()
    assert [
        (record.name, "Too many open files" in record.message) for record in caplog.records
    ] == [("entrepot.server", True)] * 2


async def test_s10_the_last_descriptors_are_kept_from_connections_but_an_idle_one_makes_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listener = bind_tcp("127.0.0.1", 0)
    async with serving(_echo, listener) as server, asyncio.timeout(30):
        first = await asyncio.open_connection(*listener.getsockname())
        first[1].write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await answer(first[0]))[0] == 200
        monkeypatch.setattr(server_module, "LAST_DESCRIPTORS", 10**9)
        second = await asyncio.open_connection(*listener.getsockname())
        second[1].write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n")
        assert await first[0].read() == b""
        while not server._answering:
            await asyncio.sleep(0)
        await is_refused(listener)
        second[1].write(b"x")
        assert (await answer(second[0]))[2] == b"x"
        for _, writer in (first, second):
            writer.close()


@pytest.mark.parametrize(
    ("descriptors", "expected"),
    [(256, 16), (1024, 256), (4096, 1280), (1_048_576, 4096), (resource.RLIM_INFINITY, 4096)],
)
def test_s10_there_are_as_many_connections_as_descriptors_allow(
    descriptors: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (descriptors, descriptors))
    assert server_module.connection_limit() == expected


async def test_s36_tls_handshakes_count_as_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "MAX_CONNECTIONS", 2)
    listener = bind_tcp("127.0.0.1", 0)
    async with (
        serving(_echo, listener, tls=Authority(tmp_path).server("localhost")) as server,
        asyncio.timeout(30),
    ):
        silent = [await asyncio.open_connection(*listener.getsockname()) for _ in range(2)]
        while len(server._arriving) < 2:
            await asyncio.sleep(0)
        monkeypatch.setattr(server_module, "EXTRA_CONNECTIONS", 0)
        with pytest.raises(ConnectionResetError):
            await first_line(listener)
        for _, each in silent:
            each.transport.abort()
        while server._arriving:
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
        serving(_echo, listener, tls=Authority(tmp_path).server("localhost")),
        asyncio.timeout(30),
    ):
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        assert await _all(reader) == b""
        writer.close()
    assert caplog.records == []


async def test_f93_a_client_that_leaves_before_its_answer_is_no_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        # As applications do that turn the leaving of a client into an exception of their own.
        raise RuntimeError("The client left.")

    listener = bind_tcp("127.0.0.1", 0)
    async with serving(app, listener) as server, asyncio.timeout(30):
        _, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        while not server._answering:
            await asyncio.sleep(0)
        writer.close()
        while server._answering:
            await asyncio.sleep(0)
    assert caplog.records == []
