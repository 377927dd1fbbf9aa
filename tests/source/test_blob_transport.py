"""Blobs whose body a thread reads, from `SourceClient` down to the socket."""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import httpx
import pytest

from entrepot.config.settings import Settings
from entrepot.source import connection_pool
from entrepot.source.addresses import Reach
from entrepot.source.blob_transport import BlobTransport
from entrepot.source.blobs import BlobStream
from entrepot.source.client import SourceClient
from entrepot.source.dns import Lookups
from entrepot.source.errors import SourceBrokeOff
from entrepot.source.sources import Sources
from tests.authority import CertificateAuthority
from tests.fakes import (
    Compressed,
    DropAfter,
    FakeRegistry,
    Fault,
    Hang,
    NoContentLength,
    Redirect,
    TruncateAt,
)
from tests.source.conftest import NGINX, read, registry

CONTENT = os.urandom(1_000_000)
REQUEST_END = b"\r\n\r\n"


def no_wait() -> None:
    """What a reader has to do before it waits: nothing."""


async def read_in_thread(
    stream: BlobStream,
    received: bytearray | None = None,
    *,
    size: int = 64 * 1024,
    until: int | None = None,
    before_waiting: Callable[[], None] = no_wait,
) -> bytes:
    """The bytes of a blob, the first *until* or all, read in a thread."""
    received = bytearray() if received is None else received
    body = stream.body
    assert body is not None

    def work() -> None:
        buffer = memoryview(bytearray(size))
        while until is None or len(received) < until:
            piece = buffer if until is None else buffer[: until - len(received)]
            count = body.read_into(piece, before_waiting)
            if not count:
                return
            received.extend(piece[:count])

    await asyncio.to_thread(work)
    return bytes(received)


@pytest.fixture(params=["http", "https"])
async def source(
    request: pytest.FixtureRequest, authority: CertificateAuthority
) -> AsyncIterator[FakeRegistry]:
    tls = authority.server() if request.param == "https" else None
    async with FakeRegistry(tls=tls) as running:
        yield running


@pytest.fixture
def sources(opened: Callable[..., Sources], authority: CertificateAuthority) -> Sources:
    return opened(ca_file=authority.path)


async def test_a_thread_reads_a_blob_of_one_request(
    client: SourceClient, source: FakeRegistry
) -> None:
    blob = source.add_blob(str(NGINX), CONTENT)
    async with client.blob(NGINX, blob.digest) as stream:
        assert stream.size == len(CONTENT)
        assert await read_in_thread(stream) == CONTENT
        body = stream.body
        assert body is not None
        assert body.read_into(memoryview(bytearray(10)), no_wait) == 0
    assert len(source.requests) == 1


@pytest.mark.parametrize("size", [1, 1000, 300_000])
async def test_a_buffer_may_have_any_size(
    client: SourceClient, source: FakeRegistry, size: int
) -> None:
    blob = source.add_blob(str(NGINX), CONTENT[:50_000])
    async with client.blob(NGINX, blob.digest) as stream:
        assert await read_in_thread(stream, size=size) == CONTENT[:50_000]


async def test_an_empty_blob_ends_at_once(client: SourceClient, source: FakeRegistry) -> None:
    blob = source.add_blob(str(NGINX), b"")
    async with client.blob(NGINX, blob.digest) as stream:
        assert await read_in_thread(stream) == b""


async def test_the_event_loop_goes_on_where_the_thread_stopped(
    client: SourceClient, source: FakeRegistry
) -> None:
    blob = source.add_blob(str(NGINX), CONTENT)
    async with client.blob(NGINX, blob.digest) as stream:
        received = bytearray()
        await read_in_thread(stream, received, until=333_333)
        assert len(received) == 333_333
        assert await read(stream, received) == CONTENT
    async with client.blob(NGINX, blob.digest) as stream:
        assert len(await read_in_thread(stream)) == len(CONTENT)
    assert len({request.connection for request in source.requests}) == 1


async def test_a_blob_is_resumed_over_the_same_connection(
    client: SourceClient, source: FakeRegistry
) -> None:
    blob = source.add_blob(str(NGINX), CONTENT)
    for offset in (0, 400_000, len(CONTENT) - 1):
        async with client.blob(NGINX, blob.digest, offset=offset) as stream:
            assert stream.offset == offset
            assert await read_in_thread(stream) == CONTENT[offset:]
    assert len({request.connection for request in source.requests}) == 1


@pytest.mark.parametrize(
    "fault", [NoContentLength(), NoContentLength(close=True), Compressed(), Compressed("deflate")]
)
async def test_a_body_without_a_length_or_that_is_decoded_is_for_the_event_loop(
    client: SourceClient, source: FakeRegistry, fault: Fault
) -> None:
    blob = source.add_blob(str(NGINX), CONTENT)
    source.fault("/blobs/", fault)
    async with client.blob(NGINX, blob.digest, size=len(CONTENT)) as stream:
        assert stream.body is None
        assert await read(stream) == CONTENT


async def test_nothing_is_left_to_read_of_a_blob_that_is_complete(
    client: SourceClient, source: FakeRegistry
) -> None:
    blob = source.add_blob(str(NGINX), CONTENT)
    async with client.blob(NGINX, blob.digest, offset=len(CONTENT)) as stream:
        assert stream.body is None
        assert await read(stream) == b""


async def test_storage_behind_a_redirect_is_read_by_a_thread(
    client: SourceClient, source: FakeRegistry
) -> None:
    blob = source.add_blob(str(NGINX), CONTENT)
    source.files["/storage"] = CONTENT
    source.fault("/blobs/", Redirect(f"{source.url}/storage?signature=a%2Fb"))
    for _ in range(2):
        async with client.blob(NGINX, blob.digest) as stream:
            assert await read_in_thread(stream) == CONTENT
    assert source.count("GET", "/storage?signature=a%2Fb") == 2
    assert len({request.connection for request in source.requests}) == 1


# Failures


@pytest.mark.parametrize("fault", [DropAfter(300_000), TruncateAt(300_000)])
async def test_a_thread_learns_how_much_came_before_the_connection_ended(
    client: SourceClient, source: FakeRegistry, sources: Sources, fault: Fault
) -> None:
    blob = source.add_blob(str(NGINX), CONTENT)
    source.fault("/blobs/", fault)
    received = bytearray()
    with pytest.raises(
        SourceBrokeOff, match=r"^docker\.io broke off after 300,000 bytes of docker\.io/library/"
    ) as failed:
        async with client.blob(NGINX, blob.digest) as stream:
            await read_in_thread(stream, received)
    assert received == CONTENT[:300_000]
    assert sources.state("docker.io").problem == failed.value.what
    async with client.blob(
        NGINX, blob.digest, offset=len(received), validator=stream.validator
    ) as stream:
        assert await read_in_thread(stream, received) == CONTENT


async def test_a_source_that_falls_silent_is_a_time_out_in_the_thread_too(
    opened: Callable[..., Sources], source: FakeRegistry, authority: CertificateAuthority
) -> None:
    client = opened(read_timeout=0.2, ca_file=authority.path).client(registry(source.url), None)
    blob = source.add_blob(str(NGINX), CONTENT)
    source.fault("/blobs/", Hang(300_000))
    waits: list[int] = []
    received = bytearray()
    with pytest.raises(SourceBrokeOff, match=r"fell silent after 300,000 bytes"):
        async with client.blob(NGINX, blob.digest) as stream:
            await read_in_thread(
                stream, received, before_waiting=lambda: waits.append(len(received))
            )
    assert waits.count(300_000) == 1


async def test_a_reader_is_called_before_it_waits_for_the_network(
    client: SourceClient, source: FakeRegistry
) -> None:
    blob = source.add_blob(str(NGINX), CONTENT)
    gate = source.hold("/blobs/", after_bytes=300_000)
    loop = asyncio.get_running_loop()
    received = bytearray()

    def waits() -> None:
        if len(received) == 300_000:
            loop.call_soon_threadsafe(gate.open)

    async with client.blob(NGINX, blob.digest) as stream:
        assert await read_in_thread(stream, received, before_waiting=waits) == CONTENT


async def test_an_interrupted_thread_stops_and_its_connection_is_not_kept(
    client: SourceClient, source: FakeRegistry
) -> None:
    blob = source.add_blob(str(NGINX), CONTENT)
    gate = source.hold("/blobs/", after_bytes=300_000)
    waiting = threading.Event()
    received = bytearray()

    def waits() -> None:
        if len(received) == 300_000:
            waiting.set()

    async def read_and_interrupt() -> None:
        async with client.blob(NGINX, blob.digest) as stream:
            body = stream.body
            assert body is not None
            reading = asyncio.create_task(read_in_thread(stream, received, before_waiting=waits))
            await gate.reached
            await asyncio.to_thread(waiting.wait, 60)
            body.interrupt()
            await asyncio.wait([reading])
            with pytest.raises(SourceBrokeOff):
                body.read_into(memoryview(bytearray(10)), no_wait)
            await reading

    with pytest.raises(SourceBrokeOff, match="broke off after 300,000 bytes"):
        await read_and_interrupt()
    gate.open()
    async with client.blob(NGINX, blob.digest) as stream:
        assert await read_in_thread(stream) == CONTENT
    assert len({request.connection for request in source.requests}) == 2


async def test_no_descriptor_is_left_behind_by_any_end_of_a_blob(
    source: FakeRegistry, authority: CertificateAuthority
) -> None:
    blob = source.add_blob(str(NGINX), CONTENT)
    faults: list[Fault | None] = [
        None,
        DropAfter(10_000),
        TruncateAt(10_000),
        NoContentLength(),
        NoContentLength(close=True),
    ]
    descriptors: list[int] = []
    for _ in range(3):
        async with Sources(Settings(ca_file=authority.path)) as sources:
            client = sources.client(registry(source.url), None)
            for fault in faults:
                source.clear_faults()
                if fault is not None:
                    source.fault("/blobs/", fault)
                for leaves_early in (False, True):
                    try:
                        async with client.blob(NGINX, blob.digest) as stream:
                            if leaves_early:
                                await anext(aiter(stream))
                            else:
                                await read(stream)
                    except SourceBrokeOff:
                        assert isinstance(fault, DropAfter | TruncateAt)
        await settled(source)
        descriptors.append(len(os.listdir("/proc/self/fd")))
    assert descriptors[1:] == descriptors[:-1]


async def settled(source: FakeRegistry) -> None:
    """The fake has closed its side of all connections."""
    while source._tasks:
        await asyncio.sleep(0)


# The connection below


@asynccontextmanager
async def serving(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """A server that does what *serve* does with each connection; its address."""

    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                await serve(reader, writer)
                writer.close()
                await writer.wait_closed()
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Aborted connections end in the next turn of the loop.
        await asyncio.sleep(0)


@asynccontextmanager
async def connecting(connections: int = 4) -> AsyncIterator[httpx.AsyncClient]:
    transport = BlobTransport(
        ssl.create_default_context(),
        Lookups(10),
        connections=connections,
        reach=Reach(loopback=True),
    )
    timeout = httpx.Timeout(30, pool=None)
    async with httpx.AsyncClient(transport=transport, trust_env=False, timeout=timeout) as http:
        yield http


async def test_a_kept_connection_that_the_server_gave_up_is_replaced_once() -> None:
    """The server closes it when the next request comes, which no look at it can foresee."""
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(REQUEST_END)
        if connections <= 2:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await reader.readuntil(REQUEST_END)

    async with serving(serve) as url, connecting() as http:
        assert (await http.get(url)).content == b"ok"
        assert (await http.get(url)).content == b"ok"
        assert connections == 2
        with pytest.raises(httpx.RemoteProtocolError):
            await http.get(url)
        assert connections == 3
        with pytest.raises(httpx.RemoteProtocolError):
            await http.get(url)
        assert connections == 4, "a new connection that fails is not replaced"


async def test_a_request_that_changes_something_is_not_repeated() -> None:
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(REQUEST_END))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        requests.append(await reader.readuntil(REQUEST_END))

    async with serving(serve) as url, connecting() as http:
        assert (await http.get(url)).content == b"ok"
        with pytest.raises(httpx.RemoteProtocolError):
            await http.post(url, content=b"x")
    assert len(requests) == 2


async def test_a_connection_that_ended_while_it_was_idle_is_not_used() -> None:
    connections = 0
    closed = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(REQUEST_END)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()
        await writer.wait_closed()
        closed.set()

    async with serving(serve) as url, connecting() as http:
        for _ in range(2):
            assert (await http.post(url)).content == b"ok"
            await closed.wait()
            closed.clear()
    assert connections == 2


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n", b"ok"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n", b"ok"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"okHTTP/1.1 200 OK\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"2\r\nok\r\n0\r\n\r\nHTTP/1.1"),
    ],
    ids=["close", "1.0", "longer", "longer-chunked"],
)
async def test_a_connection_is_kept_only_where_the_next_response_is_sure(
    head: bytes, body: bytes
) -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            await reader.readuntil(REQUEST_END)
            writer.write(head + body)

    async with serving(serve) as url, connecting() as http:
        for _ in range(2):
            assert (await http.get(url)).content == b"ok"
    assert connections == 2


async def test_responses_that_announce_another_are_skipped_in_bounded_number() -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    numbers = iter((2, 100))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(REQUEST_END)
        writer.write(interim * next(numbers) + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with serving(serve) as url, connecting() as http:
        assert (await http.get(url)).content == b"ok"
        with pytest.raises(httpx.RemoteProtocolError):
            await http.get(url)


@pytest.mark.parametrize(
    "response",
    [
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"\x16\x03\x01",
    ],
    ids=["garbage", "two lengths", "negative", "coding", "long", "upgrade", "tls"],
)
async def test_what_is_no_response_of_http_is_an_error(response: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(REQUEST_END)
        writer.write(response)

    async with serving(serve) as url, connecting() as http:
        with pytest.raises(httpx.RemoteProtocolError):
            await http.get(url)


async def test_an_idle_connection_is_closed_after_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection_pool, "KEEPALIVE_TIMEOUT", 0.0)
    connection_ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(REQUEST_END)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        assert await reader.read() == b""
        connection_ended.set()

    async with serving(serve) as url, connecting() as http:
        assert (await http.get(url)).content == b"ok"
        await connection_ended.wait()


async def test_only_so_many_connections_are_open_at_once() -> None:
    connections: set[int] = set()
    most = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal most
        connections.add(id(writer))
        most = max(most, len(connections))
        try:
            while True:
                await reader.readuntil(REQUEST_END)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
                await asyncio.sleep(0)
                writer.write(b"ok")
        finally:
            connections.discard(id(writer))

    async with (
        serving(serve) as one,
        serving(serve) as other,
        connecting(2) as http,
        asyncio.TaskGroup() as group,
    ):
        for number in range(10):
            group.create_task(http.get(one if number % 3 else other))
    assert most <= 2


async def test_what_can_not_be_sent_is_refused_before_a_connection() -> None:
    async with connecting() as http:
        with pytest.raises(httpx.UnsupportedProtocol):
            await http.get("ftp://127.0.0.1/")
    async with FakeRegistry() as running, connecting() as http:
        with pytest.raises(ValueError, match="header"):
            await http.get(running.url, headers={"X": "a\r\nb"})
        assert not running.requests
