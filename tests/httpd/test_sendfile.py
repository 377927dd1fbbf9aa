"""Parts of files go out without stopping the event loop."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from entrepot.httpd import sendfile
from entrepot.httpd.asgi import Application, Receive, Scope, Send
from entrepot.httpd.sendfile import (
    SENDFILE_CHUNK,
    SMALL_SPAN,
    FileCutShort,
    FileSpan,
    chunks,
    spans,
)
from entrepot.httpd.server import bind_tcp, serving
from tests.httpd.byte_client import answer, as_one_part, body, connected, read_all, start


async def test_others_are_answered_while_a_large_file_goes_to_a_client_that_does_not_read(
    sends_a_file: Application,
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/healthz":
            await send(start())
            await send(body(b"alive"))
            return
        sending = as_one_part(send)
        while True:
            await sends_a_file(scope, receive, sending)

    listener = bind_tcp("127.0.0.1", 0)
    async with serving(app, listener), asyncio.timeout(30):
        busy = [await asyncio.open_connection(*listener.getsockname()) for _ in range(3)]
        for reader, writer in busy:
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readexactly(1000)
        reading = asyncio.create_task(read_all(busy[0][0]))
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        for _ in range(20):
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await answer(reader))[2] == b"alive"
        assert not reading.done()
        reading.cancel()
        for _, client in (*busy, (reader, writer)):
            client.transport.abort()


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


async def test_a_small_span_is_read_and_a_large_one_is_sent_as_a_file(tmp_path: Path) -> None:
    content = os.urandom(SMALL_SPAN + 2)
    path = tmp_path / "file"
    path.write_bytes(content)
    with path.open("rb") as file:
        assert [each async for each in spans(file, 1, 1 + SMALL_SPAN)] == [
            content[1 : 1 + SMALL_SPAN]
        ]
        assert [each async for each in spans(file, 1, 2 + SMALL_SPAN)] == [
            FileSpan(file, 1, SMALL_SPAN + 1)
        ]


async def test_a_file_that_ends_early_is_no_shorter_response(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"half")
    with path.open("rb") as file:
        remaining = chunks(file, 0, 8)
        assert await anext(remaining) == b"half"
        with pytest.raises(FileCutShort):
            await anext(remaining)
