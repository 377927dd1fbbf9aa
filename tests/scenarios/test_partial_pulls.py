"""Several ranges in one request, as podman, stargz-snapshotter and SOCI send them (F72)."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from entrepot.engine.engine import Engine
from entrepot.httpd.ranges import MAX_PARTS
from entrepot.httpd.server import bind_tcp, serving
from entrepot.server.run import registry_app
from tests.e2e.registries.certificates import Authority
from tests.fakes import FakeRegistry
from tests.fakes.images import Content
from tests.multipart import read_parts

SIZE = 3_000_000


@pytest.fixture
def layer(source: FakeRegistry) -> Content:
    return source.add_image("library/nginx", "1", layers=[SIZE]).platforms["linux/amd64"].layers[0]


@pytest.fixture
def path(layer: Content) -> str:
    return f"/v2/library/nginx/blobs/{layer.digest}"


@asynccontextmanager
async def connected(engine: Engine, tls: Path | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """A client over a real connection, with TLS where *tls* is a directory for certificates."""
    listener = bind_tcp("127.0.0.1", 0)
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    server_tls: ssl.SSLContext | None = None
    client_tls: ssl.SSLContext | bool = False
    if tls is not None:
        authority = Authority(tls)
        server_tls = authority.server("localhost")
        client_tls = ssl.create_default_context(cafile=authority.path)
        address = address.replace("127.0.0.1", "localhost")
    async with (
        serving(registry_app(engine), listener, tls=server_tls),
        httpx.AsyncClient(
            base_url=f"{'https' if tls else 'http'}://{address}", verify=client_tls, timeout=60
        ) as client,
    ):
        yield client


async def fill(engine: Engine) -> None:
    started = await engine.pulls.start("library/nginx:1", "linux/amd64", "10.0.4.17")
    await engine.cache.pulls.get(started.id).finished.wait()


@pytest.mark.parametrize("transport", ["asgi", "tcp", "tls"])
@pytest.mark.parametrize("is_cached", [True, False], ids=["cached", "not cached"])
@pytest.mark.parametrize(
    "ranges",
    [
        # zot #3623: the first request of podman 5 for a layer of zstd:chunked, eight bytes between.
        [(2_832_641, 2_852_897), (2_852_906, 2_869_099)],
        # podman 4.3: ranges that touch.
        [(68, 20_173), (20_174, 40_197), (40_273, 60_306)],
        # Large and small ones, from the last to the first.
        [(SIZE - 100, SIZE - 1), (1_000_000, 2_500_000), (500_000, 500_000), (0, 400_000)],
    ],
    ids=["podman 5", "podman 4", "backwards"],
)
async def test_several_ranges_are_one_body_with_a_part_for_each(
    ranges: list[tuple[int, int]],
    is_cached: bool,
    transport: str,
    registry: httpx.AsyncClient,
    engine: Engine,
    source: FakeRegistry,
    layer: Content,
    path: str,
    tmp_path: Path,
) -> None:
    if is_cached:
        await fill(engine)
    header = "bytes=" + ",".join(f"{first}-{last}" for first, last in ranges)
    async with connected(engine, tmp_path if transport == "tls" else None) as client:
        response = await (registry if transport == "asgi" else client).get(
            path, headers={"Range": header}
        )
        expected = [
            (first, last, layer.size, layer.content[first : last + 1]) for first, last in ranges
        ]
        assert response.status_code == 206
        assert read_parts(response.headers, response.content) == expected
        assert response.headers["entrepot-origin"] == ("cache" if is_cached else "upstream")
        assert response.headers["etag"] == f'"{layer.digest}"'
        if transport != "asgi":
            # The connection is good for the next request.
            assert (await client.get(path)).content == layer.content
    assert source.count("GET", str(layer.digest)) == 1


async def test_ranges_of_a_blob_that_is_on_its_way_come_as_soon_as_they_are_there(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry, layer: Content, path: str
) -> None:
    gate = source.hold(str(layer.digest), 1_000_000)
    async with connected(engine) as client:
        headers = {"Range": "bytes=0-99,500000-500099,2000000-2000099"}
        async with client.stream("GET", path, headers=headers) as response:
            pieces = response.aiter_raw()
            first_bytes = b""
            while layer.content[500_000:500_100] not in first_bytes:
                first_bytes += await anext(pieces)
            assert response.status_code == 206
            gate.open()
            body = first_bytes + await read_all(pieces)
    assert [part[3] for part in read_parts(response.headers, body)] == [
        layer.content[at : at + 100] for at in (0, 500_000, 2_000_000)
    ]
    assert source.count("GET", str(layer.digest)) == 1


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        ("0-99,5000000-6000000", (0, 99)),
        ("5000000-,100-100", (100, 100)),
        ("0-99,50-199", (0, 199)),
        ("0-99" + ",10-20" * 1000, (0, 99)),
    ],
)
async def test_what_comes_down_to_one_range_is_answered_as_one(
    ranges: str,
    expected: tuple[int, int],
    registry: httpx.AsyncClient,
    layer: Content,
    path: str,
) -> None:
    response = await registry.get(path, headers={"Range": f"bytes={ranges}"})
    first, last = expected
    assert response.status_code == 206
    assert response.headers["content-range"] == f"bytes {first}-{last}/{layer.size}"
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.content == layer.content[first : last + 1]


@pytest.mark.parametrize(
    "header",
    [
        "bytes=500-0",
        "bytes=x",
        "bytes=0-1,x",
        "lines=0-1",
        "bytes=" + ",".join(f"{at}-{at}" for at in range(0, 2 * MAX_PARTS + 2, 2)),
    ],
)
async def test_what_is_no_range_or_too_many_gets_the_whole_blob(
    header: str, registry: httpx.AsyncClient, layer: Content, path: str
) -> None:
    """The distribution specification's conformance suite wants 200 or 416 for ``500-0``."""
    response = await registry.get(path, headers={"Range": header})
    assert (response.status_code, response.content) == (200, layer.content)
    assert "content-range" not in response.headers


@pytest.mark.parametrize("header", ["bytes=4000000-", "bytes=-0", "bytes=4000000-,5000000-,-0"])
async def test_ranges_outside_the_blob_are_refused_with_its_size(
    header: str, registry: httpx.AsyncClient, layer: Content, path: str
) -> None:
    response = await registry.get(path, headers={"Range": header})
    assert (response.status_code, response.headers["content-range"]) == (
        416,
        f"bytes */{layer.size}",
    )
    assert response.json()["errors"][0]["code"] == "RANGE_INVALID"


async def test_a_head_ignores_ranges(
    registry: httpx.AsyncClient, engine: Engine, layer: Content, path: str
) -> None:
    await fill(engine)
    response = await registry.head(path, headers={"Range": "bytes=0-1,5-6"})
    assert (response.status_code, response.headers["content-length"]) == (200, str(layer.size))


async def test_ranges_of_other_content_are_ignored_and_of_this_answered(
    registry: httpx.AsyncClient, layer: Content, path: str
) -> None:
    """RFC 9110, 13.1.5: only a strong entity tag that is the same."""
    for condition, status in (
        (f'"{layer.digest}"', 206),
        ('"another"', 200),
        (f'W/"{layer.digest}"', 200),
        ("Mon, 30 Nov 2026 00:00:00 GMT", 200),
    ):
        headers = {"Range": "bytes=0-1,5-6", "If-Range": condition}
        response = await registry.get(path, headers=headers)
        assert response.status_code == status, condition
        assert status == 206 or response.content == layer.content


@pytest.mark.parametrize("header", ["bytes=0-1", "bytes=0-1,5-6"])
async def test_a_client_that_has_the_blob_gets_no_part_of_it(
    header: str, registry: httpx.AsyncClient, engine: Engine, layer: Content, path: str
) -> None:
    """RFC 9110, 13.2.2: If-None-Match comes before Range."""
    await fill(engine)
    headers = {"Range": header, "If-None-Match": f'"{layer.digest}"'}
    response = await registry.get(path, headers=headers)
    assert (response.status_code, response.content) == (304, b"")
    assert not {"content-range", "content-length", "content-type"} & response.headers.keys()


async def test_many_small_ranges_cost_little_more_than_their_bytes(
    registry: httpx.AsyncClient, engine: Engine, layer: Content, path: str
) -> None:
    await fill(engine)
    header = "bytes=" + ",".join(f"{at}-{at}" for at in range(0, 2 * MAX_PARTS, 2))
    response = await registry.get(path, headers={"Range": header})
    assert response.status_code == 206
    assert len(read_parts(response.headers, response.content)) == MAX_PARTS
    assert len(response.content) < 200 * MAX_PARTS


@pytest.mark.parametrize("is_cached", [True, False], ids=["cached", "not cached"])
async def test_a_client_that_disconnects_in_the_middle_disturbs_no_other(
    is_cached: bool,
    registry: httpx.AsyncClient,
    engine: Engine,
    source: FakeRegistry,
    layer: Content,
    path: str,
) -> None:
    gate = None
    if is_cached:
        await fill(engine)
    else:
        gate = source.hold(str(layer.digest), 1_000_000)
    async with connected(engine) as client:
        headers = {"Range": "bytes=0-99,200000-2900000"}
        async with client.stream("GET", path, headers=headers) as response:
            assert response.status_code == 206
            await anext(response.aiter_raw())
        if gate is not None:
            gate.open()
        assert (await client.get(path)).content == layer.content
    if (remaining := engine.fills.any(layer.digest)) is not None:
        await remaining.wait()
    assert source.count("GET", str(layer.digest)) == 1


async def test_a_client_that_reads_slowly_gets_every_part(
    registry: httpx.AsyncClient, engine: Engine, layer: Content, path: str
) -> None:
    await fill(engine)
    async with connected(engine) as client:
        host, port = client.base_url.host, client.base_url.port
        reader, writer = await asyncio.open_connection(host, port, limit=4096)
        ranges = "bytes=" + ",".join(f"{at}-{at + 299_999}" for at in range(0, layer.size, 300_000))
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nRange: {ranges}\r\n\r\n".encode())
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[1:-2]
        headers = {name: value for name, _, value in (line.partition(": ") for line in lines)}
        body = b""
        while len(body) < int(headers["content-length"]):
            body += await reader.read(4096)
            await asyncio.sleep(0)
        writer.close()
    assert b"".join(part[3] for part in read_parts(headers, body)) == layer.content


async def read_all(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


async def test_a_fill_that_ends_in_the_middle_of_the_parts_cuts_the_connection(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry, layer: Content, path: str
) -> None:
    source.hold(str(layer.digest), 1_000_000)
    async with connected(engine) as client:
        headers = {"Range": "bytes=0-99,2000000-2000099"}
        async with client.stream("GET", path, headers=headers) as response:
            assert response.status_code == 206
            pieces = response.aiter_raw()
            await anext(pieces)
            under_way = engine.fills.any(layer.digest)
            assert under_way is not None
            engine.fills.cancel(under_way)
            with pytest.raises(httpx.RemoteProtocolError):
                await read_all(pieces)


async def test_a_header_that_is_too_long_is_answered_so_that_podman_asks_for_less(
    engine: Engine, layer: Content, path: str
) -> None:
    """containers/image asks for half as many ranges after a 400, and for up to 1,024 at first."""
    await fill(engine)
    async with connected(engine) as client:
        for count, status in ((1024, 400), (512, 400), (256, 206)):
            ranges = [(at, at + 999) for at in range(1_000_000, 1_000_000 + 1024 * count, 1024)]
            header = "bytes=" + ",".join(f"{first}-{last}" for first, last in ranges)
            response = await client.get(path, headers={"Range": header})
            assert response.status_code == status
        expected = [
            (first, last, layer.size, layer.content[first : last + 1]) for first, last in ranges
        ]
        assert read_parts(response.headers, response.content) == expected
