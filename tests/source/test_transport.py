from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable

import aiohttp
import httpx
import pytest

from entrepot.source import transport as transport_module
from entrepot.source.addresses import Reach
from entrepot.source.proxies import proxy_of
from entrepot.source.transport import SourceTransport
from tests.fakes import (
    DropAfter,
    FakeRegistry,
    Hang,
    Headers,
    NoAnswer,
    NoContentLength,
    TruncateAt,
)

BODY = bytes(range(256)) * 4096


@pytest.fixture
async def source() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry() as running:
        running.files["/x"] = BODY
        yield running


@pytest.fixture
async def http(
    source: FakeRegistry, new_transport: Callable[..., httpx.AsyncBaseTransport]
) -> AsyncIterator[httpx.AsyncClient]:
    transport = new_transport(
        ssl.create_default_context(), connections=4, reach=Reach(loopback=True)
    )
    async with httpx.AsyncClient(
        transport=transport, base_url=source.url, timeout=httpx.Timeout(5.0, pool=None)
    ) as client:
        yield client


async def body(
    http: httpx.AsyncClient, path: str = "/x", *, received: bytearray | None = None
) -> bytes:
    received = bytearray() if received is None else received
    async with http.stream("GET", path) as response:
        async for chunk in response.aiter_raw():
            received += chunk
    return bytes(received)


async def test_bytes_come_as_they_were_sent(http: httpx.AsyncClient, source: FakeRegistry) -> None:
    source.files["/gz"] = gzip.compress(BODY)
    source.fault("/gz", Headers({"Content-Encoding": "gzip"}))
    assert await body(http, "/gz") == source.files["/gz"]
    source.fault("/x", NoContentLength())
    assert await body(http) == BODY


async def test_an_address_is_sent_as_it_was_written(
    http: httpx.AsyncClient, source: FakeRegistry
) -> None:
    target = "/x?X-Amz-Credential=AK%2F20250101%2Fs3&sig=a%2Bb%3D%3D&tilde=%7E&plain=a:b/c,d+e"
    await http.get(target)
    assert source.requests[0].target == target


async def test_redirects_and_all_headers_are_handed_over(
    http: httpx.AsyncClient, source: FakeRegistry
) -> None:
    source.fault(
        "/x", Headers(add=(("WWW-Authenticate", "Basic"), ("WWW-Authenticate", 'Bearer realm="x"')))
    )
    response = await http.get("/x", headers=[("X-Two", "1"), ("X-Two", "2")])
    assert response.headers.get_list("www-authenticate") == ["Basic", 'Bearer realm="x"']
    assert source.requests[0].headers["x-two"] == "2"


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (TruncateAt(1000), httpx.RemoteProtocolError),
        (DropAfter(1000), httpx.RemoteProtocolError),
        (NoAnswer(), httpx.RemoteProtocolError),
    ],
)
async def test_a_connection_that_ends_too_early_is_an_error(
    http: httpx.AsyncClient, source: FakeRegistry, fault: TruncateAt, error: type[Exception]
) -> None:
    source.fault("/x", fault)
    with pytest.raises(error):
        await body(http)


async def test_what_came_before_a_connection_broke_is_handed_over(
    http: httpx.AsyncClient, source: FakeRegistry
) -> None:
    source.fault("/x", DropAfter(600_000))
    received = bytearray()
    with pytest.raises(httpx.RemoteProtocolError):
        await body(http, received=received)
    assert received == BODY[:600_000]


async def test_silence_is_a_read_time_out(http: httpx.AsyncClient, source: FakeRegistry) -> None:
    source.fault("/x", Hang(1000))
    http.timeout = httpx.Timeout(5.0, read=0.05)
    with pytest.raises(httpx.ReadTimeout):
        await body(http)
    source.clear_faults()
    source.fault("/x", Hang())
    with pytest.raises(httpx.ReadTimeout):
        await body(http)


async def test_a_reader_that_takes_its_time_meets_no_time_out(
    http: httpx.AsyncClient, source: FakeRegistry
) -> None:
    source.files["/large"] = BODY * 16
    http.timeout = httpx.Timeout(5.0, read=0.1)
    received = 0
    async with http.stream("GET", "/large") as response:
        async for chunk in response.aiter_raw():
            if not received:
                # Nothing but time shows that time does no harm here.
                await asyncio.sleep(0.3)
            received += len(chunk)
    assert received == len(BODY) * 16


async def test_no_connection_is_refused(http: httpx.AsyncClient, source: FakeRegistry) -> None:
    await source.stop()
    with pytest.raises(httpx.ConnectError):
        await body(http)


async def test_an_unknown_name_is_refused(http: httpx.AsyncClient) -> None:
    with pytest.raises(httpx.ConnectError):
        await http.get("http://name.invalid/x")


async def test_connections_are_kept_alive(http: httpx.AsyncClient, source: FakeRegistry) -> None:
    for _ in range(3):
        assert await body(http) == BODY
    assert len({each.connection for each in source.requests}) == 1


async def test_a_body_that_is_left_ends_its_connection(
    http: httpx.AsyncClient, source: FakeRegistry
) -> None:
    source.files["/large"] = BODY * 32
    async with http.stream("GET", "/large") as response:
        async for _ in response.aiter_raw():
            break
    await source.requests[0].ended.wait()
    assert not source.requests[0].finished
    assert await body(http) == BODY
    assert source.requests[1].connection != source.requests[0].connection


async def test_a_cancelled_request_ends_its_connection(
    http: httpx.AsyncClient, source: FakeRegistry
) -> None:
    gate = source.hold("/x", after_bytes=70_000)
    reading = asyncio.create_task(body(http))
    request = await gate.reached
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    gate.open()
    await request.ended.wait()
    assert not request.finished


async def test_memory_is_bounded_when_nobody_reads(
    http: httpx.AsyncClient, source: FakeRegistry
) -> None:
    source.files["/large"] = BODY * 64
    async with http.stream("GET", "/large") as response:
        chunks = response.aiter_raw()
        sizes = [len(await anext(chunks)) for _ in range(8)]
    assert max(sizes) <= 1024 * 1024


@pytest.mark.parametrize(
    ("environment", "url", "proxy"),
    [
        ({}, "https://registry-1.docker.io/v2/", None),
        (
            {"https_proxy": "http://proxy.example:3128"},
            "https://registry-1.docker.io/v2/",
            "http://proxy.example:3128",
        ),
        (
            {"https_proxy": "proxy.example:3128"},
            "https://registry-1.docker.io/v2/",
            "http://proxy.example:3128",
        ),
        (
            {"all_proxy": "http://proxy.example:3128"},
            "https://quay.io/v2/",
            "http://proxy.example:3128",
        ),
        ({"http_proxy": "http://proxy.example:3128"}, "https://quay.io/v2/", None),
        (
            {"https_proxy": "http://proxy.example:3128", "no_proxy": "docker.io"},
            "https://registry-1.docker.io/v2/",
            None,
        ),
        (
            {"https_proxy": "http://proxy.example:3128", "no_proxy": "registry.example:5000"},
            "https://registry.example:5000/v2/",
            None,
        ),
        (
            {"https_proxy": "http://proxy.example:3128", "no_proxy": "*"},
            "https://quay.io/v2/",
            None,
        ),
        ({"http_proxy": "http://proxy.example:3128"}, "http://127.0.0.1:5001/v2/", None),
        ({"http_proxy": "http://proxy.example:3128"}, "http://localhost:5001/v2/", None),
    ],
)
def test_the_proxy_of_the_environment_is_used(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], url: str, proxy: str | None
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    used = proxy_of(httpx.URL(url))
    assert (None if used is None else used.url) == proxy


async def test_requests_go_through_a_proxy(
    monkeypatch: pytest.MonkeyPatch, http: httpx.AsyncClient, source: FakeRegistry
) -> None:
    monkeypatch.setenv("http_proxy", source.url.replace("http://", "http://user:word@"))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    await http.get("http://registry.example/v2/")
    assert source.requests[0].target == "http://registry.example/v2/"
    assert source.requests[0].headers["proxy-authorization"] == "Basic dXNlcjp3b3Jk"


@pytest.mark.parametrize(
    "broken",
    [
        b"zz\r\n",
        b"f" * 40 + b"\r\n",
        b"5\r\nhelloXX\r\n",
        b"0\r\n\x00bad: \x01\r\n\r\n",
        b"0\r\na: " + b"x" * 100_000 + b"\r\n\r\n",
        b"5\r\nhel",
        b"",
    ],
    ids=["size", "huge", "end", "trailer", "long trailer", "short", "nothing"],
)
@pytest.mark.parametrize("first", [b"5\r\nhello\r\n", b""])
@pytest.mark.parametrize("ends", [True, False])
async def test_a_body_whose_framing_breaks_is_an_error_and_never_a_wait_without_end(
    new_transport: Callable[..., httpx.AsyncBaseTransport], broken: bytes, first: bytes, ends: bool
) -> None:
    """S02: a source that sent one wrong chunk after the first kept its reader for ever, whatever
    the read time-out; six of them stopped the source."""
    going_on = asyncio.Event()
    left = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + first)
        await going_on.wait()
        writer.write(broken)
        if not ends:
            await left.wait()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    transport = new_transport(
        ssl.create_default_context(), connections=1, reach=Reach(loopback=True)
    )
    timeout = httpx.Timeout(30, read=30 if ends else 0.3, pool=None)
    try:
        async with (
            asyncio.timeout(60),
            httpx.AsyncClient(transport=transport, trust_env=False, timeout=timeout) as http,
        ):
            response = await http.send(
                http.build_request("GET", f"http://127.0.0.1:{port}/"), stream=True
            )
            async with contextlib.aclosing(response):
                going_on.set()
                with pytest.raises(httpx.TransportError):
                    await response.aread()
    finally:
        left.set()
        server.close()
        await server.wait_closed()


async def test_a_connection_that_is_kept_holds_nothing_of_the_answers_that_came_over_it(
    source: FakeRegistry,
) -> None:
    """Each answer watches the end of its connection, and only while it is read."""
    transport = SourceTransport(
        ssl.create_default_context(), connections=1, reach=Reach(loopback=True)
    )
    watched: set[asyncio.Future[None]] = set()
    for _ in range(20):
        response = await transport.handle_async_request(httpx.Request("GET", f"{source.url}/x"))
        assert isinstance(response.stream, transport_module._ResponseBody)
        assert response.stream._closed is not None
        watched.add(response.stream._closed)
        assert b"".join([chunk async for chunk in response.stream]) == BODY
    [closed] = watched
    assert [callback for callback, _ in closed._callbacks] == [transport_module._retrieve_error]
    await transport.aclose()


async def test_a_connection_that_is_reset_while_it_is_idle_is_logged_by_nobody() -> None:
    """F92: each was a traceback in the log, "Future exception was never retrieved"."""
    has_begun, ended = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
        await has_begun.wait()
        writer.write(b"ok")
        await ended.wait()
        writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    transport = SourceTransport(
        ssl.create_default_context(), connections=1, reach=Reach(loopback=True)
    )
    response = await transport.handle_async_request(
        httpx.Request("GET", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    )
    assert isinstance(response.stream, transport_module._ResponseBody)
    closed = response.stream._closed
    assert closed is not None
    has_begun.set()
    assert await response.aread() == b"ok"
    ended.set()
    await asyncio.wait([closed])
    await asyncio.sleep(0)
    # What asyncio asks when it is about to be forgotten.
    assert not closed._log_traceback
    assert isinstance(closed.exception(), aiohttp.ClientConnectionError)
    await transport.aclose()
    server.close()
    await server.wait_closed()
