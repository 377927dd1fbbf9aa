"""F85: bytes that were compressed on the way, and those that only have the label (quay PR 1310,
moby 17595)."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import random
import tarfile
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrepot.core.reference import Digest, Repository, Tag
from entrepot.source.client import SourceClient
from entrepot.source.content_encoding import (
    MAX_PIECE,
    Decoder,
    NotDecodable,
    coding_of,
    decode_document,
    document_coding,
    seems_encoded,
)
from entrepot.source.errors import SourceAnswerInvalid, SourceBrokeOff, SourceMisread
from entrepot.source.sources import Sources
from tests.fakes import (
    Compressed,
    DropAfter,
    FakeRegistry,
    FlipByte,
    Headers,
    NoContentLength,
    TokenSignIn,
)
from tests.source.conftest import registry

NGINX = Repository("library/nginx")
LATEST = Tag("latest")
LABEL = Headers({"Content-Encoding": "gzip"})
RANDOM = random.Random(85)
"""The parameters of a test are the same in every process."""


def zipped(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def of_bytes(value: object) -> str | None:
    """The name of a parameter: none of its bytes."""
    return "bytes" if isinstance(value, bytes) else None


def tar(size: int = 200_000) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        entry = tarfile.TarInfo("file")
        entry.size = size
        archive.addfile(entry, io.BytesIO(RANDOM.randbytes(size)))
    return stream.getvalue()


def decoded(content: bytes, coding: str = "gzip", *, step: int = 1000) -> bytes:
    decoder = Decoder(coding)
    pieces = [
        piece
        for start in range(0, len(content), step)
        for piece in decoder.feed(content[start : start + step])
    ]
    decoder.close()
    assert max(map(len, pieces), default=0) <= MAX_PIECE
    return b"".join(pieces)


# Decoding


@given(st.binary(max_size=3_000), st.integers(1, 700))
def test_a_coding_is_taken_off_however_the_bytes_are_cut(content: bytes, step: int) -> None:
    assert decoded(zipped(content), step=step) == content
    assert decoded(zlib.compress(content), "deflate", step=step) == content
    raw = zlib.compressobj(wbits=-15)
    assert decoded(raw.compress(content) + raw.flush(), "deflate", step=max(2, step)) == content


def test_what_grows_a_thousandfold_comes_in_small_pieces() -> None:
    content = bytes(50 * MAX_PIECE + 7)
    assert decoded(zipped(content), step=10**9) == content
    # Exactly as much as one piece, and not a byte of input left over.
    assert decoded(zipped(bytes(MAX_PIECE)), step=10**9) == bytes(MAX_PIECE)


def test_several_members_and_padding_are_one_file() -> None:
    content = zipped(b"one") + zipped(b"two") + bytes(512)
    assert [decoded(content, step=step) for step in (1, 7, 10_000)] == [b"onetwo"] * 3


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x1f",
        b"{}",
        zipped(b"x" * 100)[:-1],
        zipped(b"x") + b"rest",
        b"\x1f\x8b\x08" + b"\xff" * 50,
    ],
    ids=of_bytes,
)
def test_what_is_not_of_its_coding_is_told(content: bytes) -> None:
    with pytest.raises(NotDecodable):
        decoded(content)


@given(st.binary(max_size=300), st.sampled_from(["gzip", "deflate", "x-gzip"]))
def test_no_bytes_make_a_decoder_fail_otherwise(content: bytes, coding: str) -> None:
    with contextlib.suppress(NotDecodable):
        decoded(content, coding)
    for document in (content, zipped(content)):
        decode_document(document, document_coding(document, coding), 200)
        seems_encoded(document, coding, length=None, size=None)


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        ("gzip", "gzip"),
        ("GZIP", "gzip"),
        ("identity", None),
        ("", None),
        ("gzip, identity", "gzip"),
        ("br", "br"),
        ("gzip , br", "br"),
        (" , ", None),
    ],
)
def test_the_outermost_coding_is_the_one_that_counts(header: str, coding: str | None) -> None:
    assert coding_of({"content-encoding": header}) == coding


DOCUMENT = b'{"schemaVersion":2}'


@pytest.mark.parametrize(
    ("content", "coding", "expected"),
    [
        (DOCUMENT, "gzip", DOCUMENT),
        (DOCUMENT, "br", DOCUMENT),
        (DOCUMENT, "deflate", DOCUMENT),
        (DOCUMENT, None, DOCUMENT),
        (zipped(DOCUMENT), "gzip", DOCUMENT),
        (zipped(DOCUMENT), "x-gzip", DOCUMENT),
        # Without the label, and with a wrong one: no JSON begins so.
        (zipped(DOCUMENT), None, DOCUMENT),
        (zipped(DOCUMENT), "br", DOCUMENT),
        (zlib.compress(DOCUMENT), "deflate", DOCUMENT),
        (zipped(DOCUMENT)[:-1], "gzip", zipped(DOCUMENT)[:-1]),
        (zipped(bytes(10**7)), "gzip", None),
        (zipped(DOCUMENT + b" " * 100), "gzip", None),
    ],
    ids=of_bytes,
)
def test_a_document_is_decoded_within_its_limit(
    content: bytes, coding: str | None, expected: bytes | None
) -> None:
    assert decode_document(content, document_coding(content, coding), 100) == expected


LAYER = zipped(tar())


@pytest.mark.parametrize(
    ("body", "coding", "length", "size", "expected"),
    [
        # The length tells.
        (LAYER, "gzip", len(LAYER), len(LAYER), False),
        (zipped(DOCUMENT), "gzip", len(zipped(DOCUMENT)), len(DOCUMENT), True),
        (zipped(tar()), "gzip", 1, 2, True),
        # Without one, what is in it.
        (LAYER, "gzip", None, len(LAYER), False),
        (zipped(LAYER), "gzip", None, len(LAYER), True),
        (zipped(DOCUMENT), "gzip", None, len(DOCUMENT), True),
        (zipped(b"\x28\xb5\x2f\xfd" + RANDOM.randbytes(1000)), "gzip", None, None, True),
        (zlib.compress(LAYER), "deflate", None, len(LAYER), True),
        # What is not of the coding, or of one that can't be taken off.
        (DOCUMENT, "gzip", None, len(DOCUMENT), False),
        (DOCUMENT, "gzip", 5, 6, False),
        (LAYER, "deflate", None, len(LAYER), False),
        (LAYER, "br", 1, 2, False),
        (b"", "gzip", None, 0, False),
    ],
    ids=of_bytes,
)
def test_whether_a_blob_was_compressed_on_the_way(
    body: bytes, coding: str, length: int | None, size: int | None, expected: bool
) -> None:
    assert seems_encoded(body[: 64 * 1024], coding, length=length, size=size) == expected


# Documents


async def test_manifests_lists_and_tokens_are_decoded(sources: Sources) -> None:
    for fault in (Compressed(), Compressed("deflate"), Compressed(chunked=False)):
        async with FakeRegistry(TokenSignIn()) as source:
            source.fault("/", fault)
            image = source.add_image(str(NGINX), "latest")
            client = sources.client(registry(source.url, f"r{id(fault)}.example"), None)
            for reference in (LATEST, image.digest):
                manifest = await client.manifest(NGINX, reference)
                assert (manifest.digest, manifest.content) == (image.digest, image.manifest.content)
            assert (await client.tags(NGINX, n=None, last=None)).tags == ("latest",)
            assert (
                json.loads((await client.referrers(NGINX, image.digest, None)).content)["manifests"]
                == []
            )
            head = await client.head_manifest(NGINX, LATEST)
            assert (head.digest, head.size) == (image.digest, None)


async def test_a_manifest_with_the_label_alone_is_as_it_came(
    client: SourceClient, source: FakeRegistry
) -> None:
    image = source.add_image(str(NGINX), "latest")
    for coding in ("gzip", "br", "zstd", "x"):
        source.clear_faults()
        source.fault("/manifests/", Headers({"Content-Encoding": coding}))
        assert (await client.manifest(NGINX, LATEST)).content == image.manifest.content


async def test_a_manifest_that_is_large_when_decoded_is_refused(
    opened: Callable[..., Sources], source: FakeRegistry
) -> None:
    source.add_image(str(NGINX), "latest")
    source.fault("/manifests/", Compressed())
    source.files["/v2/library/nginx/manifests/latest"] = b'{"x":"' + b" " * 5_000_000 + b'"}'
    with pytest.raises(SourceAnswerInvalid, match="sends more than"):
        await opened().client(registry(source.url), None).manifest(NGINX, LATEST)


async def test_a_document_of_another_coding_says_so(
    client: SourceClient, source: FakeRegistry
) -> None:
    source.files["/v2/library/nginx/manifests/latest"] = b"\x8b\x02\x80abc"
    source.fault("/manifests/", Headers({"Content-Encoding": "br"}))
    with pytest.raises(
        SourceAnswerInvalid,
        match=r"compressed \(br\), which Entrepot did not ask for and can't read",
    ) as refused:
        await client.manifest(NGINX, LATEST)
    assert "Turn off the compression of a proxy" in refused.value.hint


@pytest.mark.parametrize("times", [2, 3])
async def test_a_document_that_was_compressed_more_than_once_says_so(
    client: SourceClient, source: FakeRegistry, times: int
) -> None:
    """F85: it is no sign-in page."""
    content = b'{"schemaVersion": 2}'
    for _ in range(times):
        content = zipped(content)
    source.files["/v2/library/nginx/manifests/latest"] = content
    source.fault("/manifests/", Headers({"Content-Encoding": ", ".join(["gzip"] * times)}))
    with pytest.raises(
        SourceAnswerInvalid,
        match=r"compressed \(gzip\), which Entrepot did not ask for and can't read",
    ):
        await client.manifest(NGINX, LATEST)


async def test_a_document_that_can_not_be_used_is_no_sign_in_page(
    client: SourceClient, source: FakeRegistry
) -> None:
    """F82: whoever publishes it made it so, and no proxy."""
    source.files["/v2/library/nginx/manifests/latest"] = b'{"schemaVersion": 2, "mediaType": 7}'
    with pytest.raises(SourceAnswerInvalid, match="is no manifest") as refused:
        await client.manifest(NGINX, LATEST)
    assert "Ask the publisher of the image" in refused.value.hint


# Blobs


async def read(
    client: SourceClient, blob: bytes, *, size: int | None = -1, offset: int = 0
) -> bytes:
    async with client.blob(
        NGINX, Digest.of(blob), size=len(blob) if size == -1 else size, offset=offset
    ) as stream:
        received = b"".join([chunk async for chunk in stream])
        return bytes(stream.offset) + received


@pytest.mark.parametrize(
    "blob",
    [LAYER, DOCUMENT, tar(), RANDOM.randbytes(300_000), b"x"],
    ids=["layer", "config", "tar", "random", "short"],
)
@pytest.mark.parametrize(
    "fault",
    [Compressed(), Compressed("deflate"), Compressed(chunked=False)],
    ids=["gzip", "deflate", "length"],
)
async def test_a_blob_that_was_compressed_on_the_way_is_decoded(
    client: SourceClient, source: FakeRegistry, blob: bytes, fault: Compressed
) -> None:
    source.add_blob(str(NGINX), blob)
    source.fault("/blobs/", fault)
    try:
        assert await read(client, blob) == blob
    except SourceMisread:
        # An archive that is stored without compression looks like a labelled layer, unless its
        # length tells.
        assert blob[257:262] == b"ustar"
        assert fault.chunked
        assert await read(client, blob) == blob
    else:
        assert source.count("GET", "/blobs/") == 1


@pytest.mark.parametrize(
    "coding", ["gzip", "GZIP", "br", "zstd", "deflate", "compress", "x-unknown"]
)
@pytest.mark.parametrize(
    "blob",
    [LAYER, DOCUMENT, tar(), b"\x28\xb5\x2f\xfd" + RANDOM.randbytes(1000)],
    ids=["layer", "config", "tar", "zstd"],
)
async def test_a_label_is_no_compression(
    client: SourceClient, source: FakeRegistry, blob: bytes, coding: str
) -> None:
    source.add_blob(str(NGINX), blob)
    source.fault("/blobs/", Headers({"Content-Encoding": coding}))
    assert await read(client, blob) == blob
    source.fault("/blobs/", NoContentLength())
    assert await read(client, blob) == blob
    assert source.count("GET", "/blobs/") == 2


async def test_a_wrong_guess_is_corrected_by_the_next_attempt(
    client: SourceClient, source: FakeRegistry
) -> None:
    """A gzip file of JSON that is a blob itself, labelled, without a length and without a size."""
    blob = zipped(DOCUMENT * 10)
    source.add_blob(str(NGINX), blob)
    source.fault("/blobs/", LABEL)
    source.fault("/blobs/", NoContentLength())
    with pytest.raises(SourceMisread, match="decoded it has another digest") as misread:
        await read(client, blob, size=None)
    assert "Pull again: it is read as it comes then." in misread.value.hint
    for _ in range(2):
        assert await read(client, blob, size=None) == blob


async def test_bytes_that_are_wrong_both_ways_say_so(
    client: SourceClient, source: FakeRegistry
) -> None:
    source.add_blob(str(NGINX), LAYER)
    source.fault("/blobs/", FlipByte(-20))
    source.fault("/blobs/", Compressed())
    with pytest.raises(SourceMisread):
        await read(client, LAYER)
    with pytest.raises(
        SourceAnswerInvalid, match="neither what came nor what can be made of it has its digest"
    ) as wrong:
        await read(client, LAYER)
    assert not isinstance(wrong.value, SourceMisread)
    source.clear_faults()
    source.fault("/blobs/", Headers({"Content-Encoding": "br"}))
    source.fault("/blobs/", FlipByte(-20))
    with pytest.raises(SourceAnswerInvalid, match=r"labelled as compressed \(br\)"):
        await read(client, LAYER)


async def test_what_grows_without_end_is_cut_at_the_size_of_the_blob(
    client: SourceClient, source: FakeRegistry
) -> None:
    bomb = zipped(bytes(100_000_000))
    blob = DOCUMENT
    source.files[f"/v2/{NGINX}/blobs/{Digest.of(blob)}"] = bomb
    source.fault("/blobs/", LABEL)
    with pytest.raises(SourceMisread):
        await read(client, blob)


async def test_a_decoded_blob_goes_on_where_it_broke_off(
    client: SourceClient, source: FakeRegistry
) -> None:
    blob = LAYER
    source.add_blob(str(NGINX), blob)
    source.fault("/blobs/", Compressed())
    source.fault("/blobs/", DropAfter(150_000))
    received = bytearray()

    async def receive() -> None:
        async with client.blob(NGINX, Digest.of(blob), size=len(blob)) as stream:
            assert stream.validator is None
            async for chunk in stream:
                received.extend(chunk)

    with pytest.raises(SourceBrokeOff):
        await receive()
    assert received
    assert blob.startswith(received)
    # A range is not compressed by what stands in front: so is the rest.
    assert (
        bytes(received) + (await read(client, blob, offset=len(received)))[len(received) :] == blob
    )


async def test_a_part_of_compressed_bytes_is_no_part_of_the_blob(
    client: SourceClient, source: FakeRegistry
) -> None:
    blob = DOCUMENT * 100
    encoded = zipped(blob)
    source.files[f"/v2/{NGINX}/blobs/{Digest.of(blob)}"] = encoded
    source.fault("/blobs/", LABEL)
    assert await read(client, blob, offset=10) == blob
    assert [request.headers.get("range") for request in source.received("GET", "/blobs/")] == [
        "bytes=10-",
        None,
    ]


async def test_a_part_of_what_is_only_labelled_is_one_of_the_blob(
    client: SourceClient, source: FakeRegistry
) -> None:
    source.add_blob(str(NGINX), LAYER)
    source.fault("/blobs/", LABEL)
    assert (await read(client, LAYER, offset=1000))[1000:] == LAYER[1000:]
    assert source.count("GET", "/blobs/") == 1


async def test_the_length_of_compressed_bytes_is_not_the_size_of_a_blob(
    client: SourceClient, source: FakeRegistry
) -> None:
    source.add_blob(str(NGINX), LAYER)
    source.fault("/blobs/", Compressed(chunked=False))
    assert await client.head_blob(NGINX, Digest.of(LAYER)) == len(LAYER)
