"""Files are sent by a thread, which the event loop never waits for."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from entrepot.httpd import file_sender, sendfile
from entrepot.httpd.asgi import Application, Disconnected, Receive, Scope, Send
from entrepot.httpd.file_sender import MIN_STEP, FileSender
from entrepot.httpd.sendfile import SENDFILE_CHUNK, FileCutShort
from entrepot.httpd.server import bind_tcp, serving
from tests.httpd.byte_client import answer, body, connected, start

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"

_sendfile = os.sendfile


class Gate:
    """Holds up the threads that come to it until it opens."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.reached = asyncio.Event()
        self._opened = threading.Event()

    def wait(self) -> None:
        self._loop.call_soon_threadsafe(self.reached.set)
        assert self._opened.wait(30)

    def open(self) -> None:
        self._opened.set()


@contextmanager
def hanging_steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Each step of sendfile(2) waits at a gate."""
    gate = Gate()

    def hanging(out: int, descriptor: int, offset: int, count: int) -> int:
        gate.wait()
        return _sendfile(out, descriptor, offset, count)

    monkeypatch.setattr(os, "sendfile", hanging)
    try:
        yield gate
    finally:
        gate.open()


@pytest.fixture
def client() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connected socket of the server, and the client's."""
    out, reading = socket.socketpair()
    out.setblocking(False)
    reading.setblocking(False)
    with out, reading:
        yield out, reading


@pytest.fixture
def file(tmp_path: Path, content: bytes) -> Iterator[IO[bytes]]:
    path = tmp_path / "sent"
    path.write_bytes(content)
    with path.open("rb") as opened:
        yield opened


async def read_exactly(reading: socket.socket, count: int) -> bytes:
    loop, got = asyncio.get_running_loop(), bytearray()
    while len(got) < count:
        got += await loop.sock_recv(reading, count - len(got))
    return bytes(got)


async def test_other_requests_are_answered_while_a_step_of_a_file_hangs(
    sends_a_file: Application, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != "/healthz":
            await sends_a_file(scope, receive, send)
            return
        await send(start())
        await send(body(b"alive"))

    listener = bind_tcp("127.0.0.1", 0)
    async with serving(app, listener), asyncio.timeout(30):
        file_reader, file_writer = await asyncio.open_connection(*listener.getsockname())
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        with hanging_steps(monkeypatch) as gate:
            file_writer.write(GET)
            await gate.reached.wait()
            for _ in range(3):
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                assert (await answer(reader))[2] == b"alive"
        assert (await answer(file_reader))[2] == content
        file_writer.transport.abort()
        writer.transport.abort()


async def test_a_cancelled_response_keeps_its_file_open_until_the_thread_has_let_go_of_it(
    file: IO[bytes],
    client: tuple[socket.socket, socket.socket],
    content: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sender = FileSender()
    counts: list[int] = []
    with hanging_steps(monkeypatch) as gate:
        sending = asyncio.create_task(sender.send(client[0], file, 0, len(content), counts.append))
        await gate.reached.wait()
        for _ in range(3):
            sending.cancel()
            await asyncio.sleep(0)
            assert not sending.done()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert await read_exactly(client[1], sum(counts)) == content[: sum(counts)]
    with pytest.raises(BlockingIOError):
        client[1].recv(1)
    sender.close()


async def test_a_client_that_leaves_while_the_disk_is_read_ends_the_response_after_it(
    sends_a_file: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    disconnected: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    def hanging(*_: object) -> bytes:
        gate.wait()
        return b""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await sends_a_file(scope, receive, send)
        except Disconnected as error:
            disconnected.set_result(error)
            raise

    monkeypatch.setattr(file_sender, "are_cached", lambda *_: False)
    monkeypatch.setattr(sendfile, "_fetch", hanging)
    listener = bind_tcp("127.0.0.1", 0)
    async with serving(app, listener) as server, asyncio.timeout(30):
        _, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(GET)
        await gate.reached.wait()
        writer.transport.abort()
        while server._connections:
            await asyncio.sleep(0)
        assert not disconnected.done()
        gate.open()
        await disconnected


async def test_the_bytes_are_reported_while_a_client_reads_slowly_and_at_the_end(
    file: IO[bytes],
    client: tuple[socket.socket, socket.socket],
    content: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(file_sender, "PROGRESS_INTERVAL", 0.0)
    sender = FileSender()
    counts: list[int] = []
    reported = asyncio.Event()

    def count(size: int) -> None:
        counts.append(size)
        reported.set()

    sending = asyncio.create_task(sender.send(client[0], file, 0, len(content), count))
    await reported.wait()
    assert not sending.done()
    assert await read_exactly(client[1], len(content)) == content
    await sending
    assert sum(counts) == len(content)
    sender.close()


async def test_an_unforeseen_error_ends_one_transfer_and_not_the_thread(
    sends_a_file: Application, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unforeseen(*_: object) -> int:
        raise ValueError("Unforeseen.")

    listener = bind_tcp("127.0.0.1", 0)
    async with serving(sends_a_file, listener), asyncio.timeout(30):
        for broken in (True, False):
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            with monkeypatch.context() as patch:
                if broken:
                    patch.setattr(os, "sendfile", unforeseen)
                writer.write(GET)
                if broken:
                    assert content[:100] not in await reader.read(-1)
                else:
                    assert (await answer(reader))[2] == content
            writer.transport.abort()


async def test_a_file_that_is_shorter_than_said_is_an_error(
    file: IO[bytes], client: tuple[socket.socket, socket.socket], content: bytes
) -> None:
    sender = FileSender()
    counts: list[int] = []
    sending = asyncio.create_task(sender.send(client[0], file, 0, len(content) + 1, counts.append))
    await read_exactly(client[1], len(content))
    with pytest.raises(FileCutShort):
        await sending
    assert sum(counts) == len(content)
    sender.close()


@pytest.mark.parametrize(
    ("turn", "largest"), [(SENDFILE_CHUNK, SENDFILE_CHUNK), (0, MIN_STEP)], ids=["one", "many"]
)
async def test_steps_shrink_where_many_clients_are_ready(
    turn: int,
    largest: int,
    sends_a_file: Application,
    content: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps: list[int] = []

    def watched(out: int, descriptor: int, offset: int, count: int) -> int:
        steps.append(count)
        return _sendfile(out, descriptor, offset, count)

    monkeypatch.setattr(file_sender, "TURN_SIZE", turn)
    monkeypatch.setattr(os, "sendfile", watched)
    async with connected(sends_a_file) as (reader, writer):
        writer.write(GET)
        assert (await answer(reader))[2] == content
    assert max(steps) == largest


async def test_one_thread_sends_all_files_and_ends_with_the_server(
    file: IO[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    sender, threads = FileSender(), set()
    pairs = [socket.socketpair() for _ in range(4)]

    def watched(out: int, descriptor: int, offset: int, count: int) -> int:
        threads.add(threading.current_thread())
        return _sendfile(out, descriptor, offset, count)

    monkeypatch.setattr(os, "sendfile", watched)
    transfers = []
    for out, _ in pairs:
        out.setblocking(False)
        transfers.append(asyncio.create_task(sender.send(out, file, 0, 1000, _ignore)))
    await asyncio.gather(*transfers)
    sender.close()
    [thread] = threads
    assert thread is not threading.current_thread()
    await asyncio.to_thread(thread.join, 30)
    assert not thread.is_alive()
    for out, reading in pairs:
        out.close()
        reading.close()


def _ignore(_size: int) -> None:
    """The callback of a transfer that counts nothing."""


async def test_the_sending_thread_has_the_priority_of_the_event_loop(
    file: IO[bytes],
    client: tuple[socket.socket, socket.socket],
    content: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    priorities: list[int] = []

    def sendfile(out: int, descriptor: int, offset: int, count: int) -> int:
        priorities.append(priority())
        return _sendfile(out, descriptor, offset, count)

    monkeypatch.setattr(os, "sendfile", sendfile)
    sender = FileSender()
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        tasks.create_task(sender.send(client[0], file, 0, len(content), lambda _: None))
        assert await read_exactly(client[1], len(content)) == content
    sender.close()
    assert set(priorities) == {priority()}
