"""Manifests of a source registry: what is requested, checked and refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from entrepot.config.settings import MANIFEST_LIMIT
from entrepot.core.media_types import MANIFEST_TYPES
from entrepot.core.reference import Digest
from entrepot.demo.images import DOCKER, OCI, MediaTypes
from entrepot.source.client import SourceClient
from entrepot.source.errors import (
    SourceAnswerInvalid,
)
from entrepot.source.sources import Sources
from tests.fakes import (
    Content,
    FakeRegistry,
    Fault,
    Headers,
    Html,
    NoContentLength,
    Status,
)
from tests.source.conftest import ABSENT, LATEST, NGINX, registry


async def test_a_manifest_is_asked_for_in_all_four_media_types(
    client: SourceClient, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "latest")
    await client.head_manifest(NGINX, LATEST)
    await client.manifest(NGINX, LATEST)
    for request in source.requests:
        assert all(each in request.headers["accept"] for each in MANIFEST_TYPES)


@pytest.mark.parametrize("media_types", [OCI, DOCKER])
async def test_the_head_of_a_manifest_tells_digest_type_and_size(
    client: SourceClient, source: FakeRegistry, media_types: MediaTypes
) -> None:
    image = source.add_image("library/nginx", "latest", media_types=media_types)
    head = await client.head_manifest(NGINX, LATEST)
    assert (head.digest, head.media_type, head.size) == (
        image.digest,
        image.manifest.media_type,
        image.manifest.size,
    )
    assert source.bytes_sent == 0


async def test_a_head_without_a_digest_leaves_it_open(
    client: SourceClient, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "latest")
    source.fault("/manifests/", Headers(remove=("Docker-Content-Digest",)))
    source.fault("/manifests/", NoContentLength())
    head = await client.head_manifest(NGINX, LATEST)
    assert (head.digest, head.media_type, head.size) == (None, OCI.index, None)


@pytest.mark.parametrize(
    ("headers", "part"),
    [
        ({"Docker-Content-Digest": "sha256:short"}, "digest"),
        ({"Content-Length": "0"}, "size"),
        ({"Content-Type": "application/json"}, "media_type"),
    ],
)
async def test_what_a_head_says_wrong_is_left_open(
    client: SourceClient, source: FakeRegistry, headers: dict[str, str], part: str
) -> None:
    source.add_image("library/nginx", "latest")
    source.fault("/manifests/", Headers(headers))
    assert getattr(await client.head_manifest(NGINX, LATEST), part) is None


@pytest.mark.parametrize("status", [405, 501])
async def test_a_source_that_knows_no_head_leaves_everything_open(
    client: SourceClient, source: FakeRegistry, status: int
) -> None:
    source.fault("/manifests/", Status(status))
    head = await client.head_manifest(NGINX, LATEST)
    assert (head.digest, head.media_type, head.size) == (None, None, None)


async def test_a_head_by_digest_that_answers_another_digest_is_invalid(
    client: SourceClient, source: FakeRegistry
) -> None:
    image = source.add_image("library/nginx", "latest")
    source.fault("/manifests/", Headers({"Docker-Content-Digest": str(ABSENT)}))
    with pytest.raises(SourceAnswerInvalid, match="another digest"):
        await client.head_manifest(NGINX, image.digest)


async def test_the_bytes_of_a_manifest_are_kept_as_they_came(
    client: SourceClient, source: FakeRegistry
) -> None:
    odd = Content.of(
        OCI.manifest,
        b'{ "mediaType" : "application/vnd.oci.image.manifest.v1+json",\n\t"schemaVersion":2, '
        b'"layers":[ ] }\n\n',
    )
    source.add_manifest("library/nginx", odd, "latest")
    fetched = await client.manifest(NGINX, LATEST)
    assert (fetched.content, fetched.digest, fetched.media_type) == (
        odd.content,
        odd.digest,
        OCI.manifest,
    )


async def test_a_manifest_is_fetched_by_digest(client: SourceClient, source: FakeRegistry) -> None:
    child = source.add_image("library/nginx", "latest").platforms["linux/arm64"]
    source.fault("/manifests/", Headers(remove=("Docker-Content-Digest",)))
    assert (await client.manifest(NGINX, child.digest)).content == child.manifest.content


async def test_a_manifest_can_be_asked_for_by_sha512(
    client: SourceClient, source: FakeRegistry
) -> None:
    image = source.add_image("library/nginx", "latest")
    digest = Digest.of(image.manifest.content, "sha512")
    source.add_manifest("library/nginx", Content(OCI.index, image.manifest.content, digest))
    assert (await client.manifest(NGINX, digest)).digest == digest


async def test_a_manifest_by_tag_without_a_digest_gets_the_digest_of_its_bytes(
    client: SourceClient, source: FakeRegistry
) -> None:
    image = source.add_image("library/nginx", "latest")
    source.fault("/manifests/", Headers(remove=("Docker-Content-Digest",)))
    source.fault("/manifests/", NoContentLength())
    assert (await client.manifest(NGINX, LATEST)).digest == image.digest


@pytest.mark.parametrize("by_digest", [True, False])
async def test_a_manifest_with_wrong_bytes_is_refused(
    client: SourceClient, source: FakeRegistry, by_digest: bool
) -> None:
    image = source.add_image("library/nginx", "latest")
    source.fault("/manifests/", Fault())
    broken = image.manifest.content.replace(b"amd64", b"amd65")
    source.fault(
        "/manifests/",
        Status(
            200, {"Content-Type": OCI.index, "Docker-Content-Digest": str(image.digest)}, broken
        ),
    )
    with pytest.raises(SourceAnswerInvalid, match=r"wrong bytes for docker\.io/library/nginx"):
        await client.manifest(NGINX, image.digest if by_digest else LATEST)


@pytest.mark.parametrize(
    "content_type", ["application/json", "text/plain; charset=utf-8", "application/octet-stream"]
)
async def test_a_manifest_sent_under_no_type_of_its_own_is_what_it_says_itself(
    client: SourceClient, source: FakeRegistry, content_type: str
) -> None:
    source.add_image("library/nginx", "latest")
    source.fault("/manifests/", Headers({"Content-Type": content_type}))
    assert (await client.manifest(NGINX, LATEST)).media_type == OCI.index


async def test_parameters_of_a_media_type_are_left_out(
    client: SourceClient, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "latest")
    source.fault("/manifests/", Headers({"Content-Type": f"{OCI.index}; charset=utf-8"}))
    assert (await client.manifest(NGINX, LATEST)).media_type == OCI.index
    assert (await client.head_manifest(NGINX, LATEST)).media_type == OCI.index


async def test_a_web_page_is_no_answer_of_a_registry(
    client: SourceClient, source: FakeRegistry
) -> None:
    image = source.add_image("library/nginx", "latest")
    source.fault("/v2/", Html())
    for asking in (
        client.head_manifest(NGINX, LATEST),
        client.manifest(NGINX, LATEST),
        client.head_blob(NGINX, image.platforms["linux/amd64"].config.digest),
        client.tags(NGINX, n=None, last=None),
        client.referrers(NGINX, image.digest, None),
        client.verify_credentials(),
    ):
        with pytest.raises(SourceAnswerInvalid, match="web page"):
            await asking
    with pytest.raises(SourceAnswerInvalid, match="web page"):
        async with client.blob(NGINX, image.platforms["linux/amd64"].config.digest):
            pytest.fail("a page was taken for a blob")


@pytest.mark.parametrize(
    "body", [b"", b"<!DOCTYPE html><p>Welcome", b"null", b"[]", b'{"mediaType": 5}', b"\xff\xfe{}"]
)
async def test_something_else_than_json_is_no_manifest(
    client: SourceClient, source: FakeRegistry, body: bytes
) -> None:
    source.fault("/manifests/", Status(200, body=body))
    with pytest.raises(SourceAnswerInvalid, match="no manifest"):
        await client.manifest(NGINX, LATEST)


@pytest.mark.parametrize("framing", [Fault(), NoContentLength()])
async def test_a_manifest_that_is_too_large_is_not_read_to_its_end(
    client: SourceClient, source: FakeRegistry, framing: Fault
) -> None:
    source.add_manifest(
        "library/nginx",
        Content.of(OCI.manifest, b'{"a":"' + b"x" * (8 * MANIFEST_LIMIT) + b'"}'),
        "latest",
    )
    source.fault("/manifests/", framing)
    with pytest.raises(SourceAnswerInvalid, match="more than 4,194,304 bytes"):
        await client.manifest(NGINX, LATEST)
    await source.requests[0].ended.wait()
    assert source.bytes_sent < 6 * MANIFEST_LIMIT


async def test_a_larger_manifest_is_read_where_the_settings_say_so(
    opened: Callable[..., Sources], source: FakeRegistry
) -> None:
    """S10, S23: 4 MiB are what registries take, and a setting raises it."""
    client = opened(manifest_limit=5 * 1024 * 1024).client(registry(source.url), None)
    large = source.add_manifest(
        "library/nginx",
        Content.of(OCI.manifest, b'{"a":"' + b"x" * MANIFEST_LIMIT + b'"}'),
        "latest",
    )
    assert (await client.manifest(NGINX, LATEST)).digest == large.digest


async def test_a_manifest_of_four_mebibytes_is_read(
    client: SourceClient, source: FakeRegistry
) -> None:
    large = source.add_manifest(
        "library/nginx",
        Content.of(OCI.manifest, b'{"a":"' + b"x" * (4 * 1024 * 1024 - 8) + b'"}'),
        "latest",
    )
    assert large.size == 4 * 1024 * 1024
    assert (await client.manifest(NGINX, LATEST)).digest == large.digest
