"""One request and its response, byte by byte over real sockets."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from entrepot.httpd import exchange as exchange_module
from entrepot.httpd.asgi import REASON_KEY, Application, Disconnected, Receive, Scope, Send
from entrepot.httpd.sendfile import SENDFILE_CHUNK
from entrepot.httpd.server import bind_tcp, serving
from tests.httpd.byte_client import (
    answer,
    as_one_part,
    body,
    connected,
    echo,
    part,
    read_all,
    start,
)


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
        assert len(await read_all(reader)) <= 1000


async def test_an_application_that_fails_in_the_middle_never_ends_its_body(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"the beginning", more=True))
        raise RuntimeError("It went wrong.")

    async with connected(app) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"0\r\n\r\n" not in await read_all(reader)
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
        got = await read_all(reader)
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
        assert b"Set-Cookie" not in await read_all(reader)


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


async def test_a_client_that_asks_first_is_told_to_send_its_body() -> None:
    async with connected(echo) as (reader, writer):
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
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await send(start(204))
        await send(body(b""))

    async with connected(app) as (reader, writer):
        for target in ("GET /a%2Fb%20c?n=1&x=%20", "GET http://elsewhere/v2/?n=2", "OPTIONS *"):
            writer.write(f"{target} HTTP/1.1\r\nHost: x\r\nX-Name: v\r\n\r\n".encode())
            assert (await answer(reader))[0] == 204
    assert [(scope["path"], scope["raw_path"], scope["query_string"]) for scope in scopes] == [
        ("/a/b c", b"/a%2Fb%20c", b"n=1&x=%20"),
        ("/v2/", b"/v2/", b"n=2"),
        ("*", b"*", b""),
    ]
    assert (b"x-name", b"v") in scopes[0]["headers"]
    assert scopes[0]["client"][0] == "127.0.0.1"


async def test_a_client_that_leaves_is_noticed_by_who_waits_and_by_who_sends(
    sends_a_file: Application,
) -> None:
    message_type: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        message_type.set_result((await receive())["type"])

    async with connected(waits) as (_, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await writer.drain()
        writer.close()
        assert await message_type == "http.disconnect"

    send_error: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

    async def sends(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            while True:
                await sends_a_file(scope, receive, as_one_part(send))
        except Disconnected as error:
            send_error.set_result(error)
            raise

    async with connected(sends) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readexactly(100)
        writer.transport.abort()
        assert isinstance(await send_error, Disconnected)


async def test_a_body_that_stands_still_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange_module, "BODY_TIMEOUT", 0.1)
    second_message: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        second_message.set_result((await receive())["type"])

    async with connected(app) as (_, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
        assert await second_message == "http.disconnect"


async def test_s06_an_answer_that_waits_is_given_up_when_its_client_leaves() -> None:
    waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    cancelled = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        waiting.set_result(None)
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with connected(app) as (_, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await waiting
        writer.close()
        await cancelled.wait()


async def test_s06_what_changes_something_is_not_broken_off_when_its_client_leaves(
    caplog: pytest.LogCaptureFixture,
) -> None:
    waiting, client_left, finished = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        waiting.set()
        await client_left.wait()
        finished.set()
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
        client_left.set()
        await finished.wait()
        while server._exchanges:
            await asyncio.sleep(0)
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
        while not server._exchanges:
            await asyncio.sleep(0)
        writer.close()
        while server._exchanges:
            await asyncio.sleep(0)
    assert caplog.records == []
