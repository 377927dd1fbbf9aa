from __future__ import annotations

from collections.abc import Callable

import pytest

from entrepot.core.reference import Digest, Repository, Tag
from entrepot.source.client import SourceClient
from entrepot.source.errors import (
    SourceAnswerInvalid,
    SourceBrokeOff,
    SourceError,
    SourceFailed,
    SourceNotFound,
    SourceRateLimited,
    SourceRefused,
)
from entrepot.source.sources import Sources
from tests.fakes import (
    DropAfter,
    FakeRegistry,
    Fault,
    FlipByte,
    Headers,
    IgnoreRange,
    NoContentLength,
    Redirect,
    Shorten,
    Status,
    TruncateAt,
)
from tests.source.conftest import read, registry

NGINX = Repository("library/nginx")
LATEST = Tag("latest")
MORE_THAN_SOCKETS_HOLD = 32 * 1024 * 1024
ABSENT = Digest("sha256", "0" * 64)


async def test_a_blob_comes_as_a_stream(client: SourceClient, source: FakeRegistry) -> None:
    layer = (
        source.add_image("library/nginx", "latest", layers=[500_000])
        .platforms["linux/amd64"]
        .layers[0]
    )
    async with client.blob(NGINX, layer.digest) as stream:
        assert (stream.offset, stream.size, stream.validator) == (
            0,
            layer.size,
            f'"{layer.digest}"',
        )
        assert await read(stream) == layer.content


async def test_an_empty_blob_is_a_blob(client: SourceClient, source: FakeRegistry) -> None:
    empty = source.add_blob("library/nginx", b"")
    async with client.blob(NGINX, empty.digest) as stream:
        assert stream.size == 0
        assert await read(stream) == b""


async def test_a_blob_is_resumed_where_it_broke_off(
    client: SourceClient, source: FakeRegistry
) -> None:
    layer = (
        source.add_image("library/nginx", "latest", layers=[500_000])
        .platforms["linux/amd64"]
        .layers[0]
    )
    source.fault("/blobs/", DropAfter(300_000))
    received = bytearray()
    async with client.blob(NGINX, layer.digest) as stream:
        validator = stream.validator
        with pytest.raises(
            SourceBrokeOff,
            match=r"broke off after 300,000 bytes of docker\.io/library/nginx@sha256",
        ):
            await read(stream, received)
    assert len(received) == 300_000
    async with client.blob(
        NGINX, layer.digest, offset=len(received), validator=validator
    ) as stream:
        assert (stream.offset, stream.size) == (300_000, layer.size)
        assert await read(stream, received) == layer.content
    resumed = source.received("GET", "/blobs/")[1]
    assert resumed.headers["range"] == "bytes=300000-"
    assert resumed.headers["if-range"] == f'"{layer.digest}"'


@pytest.mark.parametrize(
    "faults",
    [
        [TruncateAt(5000)],
        [NoContentLength(), TruncateAt(5000)],
        [DropAfter(5000)],
        [NoContentLength(), DropAfter(5000)],
    ],
)
async def test_a_body_that_is_too_short_is_never_a_clean_end(
    client: SourceClient, source: FakeRegistry, faults: list[Fault]
) -> None:
    layer = source.add_image("library/nginx", "latest").platforms["linux/amd64"].layers[0]
    for fault in faults:
        source.fault("/blobs/", fault)
    with pytest.raises(SourceBrokeOff):
        async with client.blob(NGINX, layer.digest) as stream:
            await read(stream)


async def test_a_body_without_a_length_has_no_size(
    client: SourceClient, source: FakeRegistry
) -> None:
    layer = source.add_image("library/nginx", "latest").platforms["linux/amd64"].layers[0]
    for fault in (NoContentLength(times=1), NoContentLength(close=True, times=1)):
        source.fault("/blobs/", fault)
        async with client.blob(NGINX, layer.digest) as stream:
            assert stream.size is None
            assert await read(stream) == layer.content
        source.clear_faults()


async def test_a_source_that_ignores_ranges_begins_anew(
    client: SourceClient, source: FakeRegistry
) -> None:
    layer = source.add_image("library/nginx", "latest").platforms["linux/amd64"].layers[0]
    source.fault("/blobs/", IgnoreRange())
    async with client.blob(NGINX, layer.digest, offset=1000) as stream:
        assert (stream.offset, stream.size) == (0, layer.size)
        assert await read(stream) == layer.content


async def test_a_blob_that_has_changed_begins_anew(
    client: SourceClient, source: FakeRegistry
) -> None:
    layer = source.add_image("library/nginx", "latest").platforms["linux/amd64"].layers[0]
    async with client.blob(NGINX, layer.digest, offset=1000, validator='"another"') as stream:
        assert stream.offset == 0


async def test_a_weak_validator_is_neither_given_nor_sent(
    client: SourceClient, source: FakeRegistry
) -> None:
    layer = source.add_image("library/nginx", "latest").platforms["linux/amd64"].layers[0]
    source.fault("/blobs/", Headers({"ETag": 'W/"1"'}))
    async with client.blob(NGINX, layer.digest) as stream:
        assert stream.validator is None
    async with client.blob(NGINX, layer.digest, offset=10, validator='W/"1"') as stream:
        assert stream.offset == 10
    assert "if-range" not in source.requests[-1].headers


@pytest.mark.parametrize(
    "content_range",
    [
        "bytes 0-19999/20000",
        "bytes 999-19999/20000",
        "bytes 1001-5/20000",
        "bytes 1000-20000/20000",
        "items 1000-2/5",
        "bytes */20000",
        "",
    ],
)
async def test_another_range_than_the_one_asked_for_is_refused(
    client: SourceClient, source: FakeRegistry, content_range: str
) -> None:
    blob = source.add_blob("library/nginx", b"x" * 20_000)
    source.fault("/blobs/", Headers({"Content-Range": content_range}))
    with pytest.raises(SourceAnswerInvalid, match="another part"):
        async with client.blob(NGINX, blob.digest, offset=1000):
            pytest.fail("it was taken")


async def test_a_range_of_a_blob_of_unknown_size_is_taken(
    client: SourceClient, source: FakeRegistry
) -> None:
    blob = source.add_blob("library/nginx", b"x" * 20_000)
    source.fault("/blobs/", Headers({"Content-Range": "bytes 1000-19999/*"}))
    async with client.blob(NGINX, blob.digest, offset=1000) as stream:
        assert (stream.offset, stream.size) == (1000, None)


async def test_a_part_that_nobody_asked_for_is_refused(
    client: SourceClient, source: FakeRegistry
) -> None:
    blob = source.add_blob("library/nginx", b"x" * 2000)
    source.fault("/blobs/", Status(206, {"Content-Range": "bytes 0-9/2000"}, b"0123456789"))
    with pytest.raises(SourceAnswerInvalid, match="status 206"):
        async with client.blob(NGINX, blob.digest):
            pytest.fail("it was taken")


async def test_nothing_is_left_of_a_blob_that_was_read_to_its_end(
    client: SourceClient, source: FakeRegistry
) -> None:
    blob = source.add_blob("library/nginx", b"x" * 2000)
    async with client.blob(NGINX, blob.digest, offset=2000) as stream:
        assert (stream.offset, stream.size) == (2000, 2000)
        assert await read(stream) == b""


async def test_a_blob_that_is_shorter_than_what_was_read_of_it_is_refused(
    client: SourceClient, source: FakeRegistry
) -> None:
    blob = source.add_blob("library/nginx", b"x" * 2000)
    with pytest.raises(SourceAnswerInvalid, match="has no byte 2,500"):
        async with client.blob(NGINX, blob.digest, offset=2500):
            pytest.fail("it was taken")


async def test_wrong_bytes_and_short_bodies_without_a_length_are_left_to_the_digest(
    client: SourceClient, source: FakeRegistry
) -> None:
    blob = source.add_blob("library/nginx", b"x" * 2000)
    source.fault("/blobs/", FlipByte(7))
    source.fault("/blobs/", NoContentLength())
    source.fault("/blobs/", Shorten(1500))
    async with client.blob(NGINX, blob.digest) as stream:
        assert len(await read(stream)) == 1500


async def test_a_blob_may_be_a_page_if_the_source_says_that_it_is_the_right_one(
    client: SourceClient, source: FakeRegistry
) -> None:
    blob = source.add_blob("library/nginx", b"<html>documentation</html>")
    source.fault("/blobs/", Headers({"Content-Type": "text/html"}))
    async with client.blob(NGINX, blob.digest) as stream:
        assert await read(stream) == blob.content


@pytest.mark.parametrize(
    ("status", "error"),
    [(404, SourceNotFound), (403, SourceRefused), (429, SourceRateLimited), (500, SourceFailed)],
)
async def test_a_blob_that_is_refused_is_an_error(
    client: SourceClient, source: FakeRegistry, status: int, error: type[SourceError]
) -> None:
    source.fault("/blobs/", Status(status))
    with pytest.raises(error):
        async with client.blob(NGINX, ABSENT):
            pytest.fail("it was taken")


async def test_storage_that_refuses_is_not_a_matter_of_credentials(
    client: SourceClient, source: FakeRegistry
) -> None:
    async with FakeRegistry() as storage:
        layer = source.add_image("library/nginx", "latest").platforms["linux/amd64"].layers[0]
        source.fault("/blobs/", Redirect(f"{storage.url}/store/1"))
        storage.fault("/store/", Status(403, body=b"<Error>Request has expired</Error>"))
        with pytest.raises(SourceFailed, match=r"127\.0\.0\.1, to which docker\.io redirects"):
            async with client.blob(NGINX, layer.digest):
                pytest.fail("it was taken")


async def test_who_leaves_a_stream_early_ends_the_connection_and_gives_up_its_place(
    opened: Callable[..., Sources], source: FakeRegistry
) -> None:
    layer = source.add_blob("library/nginx", bytes(MORE_THAN_SOCKETS_HOLD))
    client = opened(parallel_per_source=1).client(registry(source.url), None)
    for number in range(2):
        async with client.blob(NGINX, layer.digest) as stream:
            async for _ in stream:
                break
        request = source.requests[number]
        await request.ended.wait()
        assert request.bytes_sent < layer.size


@pytest.mark.parametrize(
    "faults",
    [
        [],
        [("HEAD", NoContentLength())],
        [("HEAD", Status(405))],
        [("HEAD", Status(400))],
        [("HEAD", Status(501)), ("GET", IgnoreRange())],
    ],
)
async def test_the_size_of_a_blob_is_found_out(
    client: SourceClient, source: FakeRegistry, faults: list[tuple[str, Fault]]
) -> None:
    blob = source.add_blob("library/nginx", bytes(MORE_THAN_SOCKETS_HOLD))
    for method, fault in faults:
        source.fault("/blobs/", fault, method=method)
    assert await client.head_blob(NGINX, blob.digest) == blob.size
    for request in source.requests:
        await request.ended.wait()
    assert source.bytes_sent < blob.size


async def test_storage_whose_address_is_signed_for_get_alone_still_tells_the_size(
    client: SourceClient, source: FakeRegistry
) -> None:
    async with FakeRegistry() as storage:
        layer = source.add_image("library/nginx", "latest").platforms["linux/amd64"].layers[0]
        storage.files["/store/1"] = layer.content
        source.fault("/blobs/", Redirect(f"{storage.url}/store/1"))
        storage.fault("/store/", Status(403), method="HEAD")
        assert await client.head_blob(NGINX, layer.digest) == layer.size


async def test_the_size_of_a_blob_that_is_not_there_is_not_found(
    client: SourceClient, source: FakeRegistry
) -> None:
    with pytest.raises(SourceNotFound, match=r"docker\.io has no library/nginx@sha256:000"):
        await client.head_blob(NGINX, ABSENT)
    source.fault("/blobs/", Status(403))
    with pytest.raises(SourceRefused):
        await client.head_blob(NGINX, ABSENT)


async def test_a_source_that_never_says_a_size_is_told_so(
    client: SourceClient, source: FakeRegistry
) -> None:
    blob = source.add_blob("library/nginx", b"x" * 1000)
    source.fault("/blobs/", NoContentLength())
    source.fault("/blobs/", IgnoreRange())
    with pytest.raises(SourceAnswerInvalid, match="does not say how large"):
        await client.head_blob(NGINX, blob.digest)
