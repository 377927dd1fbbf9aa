from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable

import pytest

from entrepot.config.settings import MANIFEST_LIMIT
from entrepot.core.media_types import EMPTY_INDEX, MANIFEST_TYPES
from entrepot.core.reference import Digest, Repository, Tag
from entrepot.demo.images import DOCKER, OCI
from entrepot.source.blobs import BlobStream
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
from entrepot.source.lists import TagPage
from entrepot.source.rate_limit import RateLimit
from entrepot.source.sources import Sources, SourceState
from tests.fakes import (
    Content,
    DropAfter,
    FakeRegistry,
    Fault,
    Headers,
    Html,
    NoContentLength,
    Redirect,
    Status,
)
from tests.source.conftest import Clock, registry

NGINX = Repository("library/nginx")
LATEST = Tag("latest")
ABSENT = Digest("sha256", "0" * 64)


async def read(stream: BlobStream, received: bytearray | None = None) -> bytes:
    received = bytearray() if received is None else received
    async for chunk in stream:
        received += chunk
    return bytes(received)


# Manifests


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
    client: SourceClient, source: FakeRegistry, media_types: object
) -> None:
    image = source.add_image("library/nginx", "latest", media_types=media_types)  # type: ignore[arg-type]
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


@pytest.mark.parametrize(
    ("fault", "error", "text"),
    [
        (Status(404), SourceNotFound, r"docker\.io has no library/nginx:latest"),
        (
            Status(401),
            SourceRefused,
            r"docker\.io refuses docker\.io/library/nginx:latest without credentials",
        ),
        (
            Status(403),
            SourceRefused,
            r"docker\.io refuses docker\.io/library/nginx:latest without credentials",
        ),
        (Status(429), SourceRateLimited, r"Too many requests to docker\.io"),
        (
            Status(500),
            SourceFailed,
            r"docker\.io fails with status 500 for docker\.io/library/nginx:latest",
        ),
        (
            Status(418),
            SourceAnswerInvalid,
            r"docker\.io answers docker\.io/library/nginx:latest with status 418",
        ),
        (Status(304), SourceAnswerInvalid, "status 304"),
        (Status(204), SourceAnswerInvalid, "status 204"),
    ],
)
async def test_each_refusal_of_a_source_says_what_and_whose_fault(
    client: SourceClient, source: FakeRegistry, fault: Status, error: type[SourceError], text: str
) -> None:
    source.fault("/manifests/", fault)
    with pytest.raises(error, match=text):
        await client.manifest(NGINX, LATEST)
    with pytest.raises(error, match=text):
        await client.head_manifest(NGINX, LATEST)


async def test_what_the_source_itself_says_is_told(
    client: SourceClient, source: FakeRegistry
) -> None:
    message = rb"requested access\u001b[31m to the resource\nis denied"
    body = b'{"errors":[{"code":"DENIED","message":"%b"}]}' % message
    source.fault("/manifests/", Status(403, body=body))
    with pytest.raises(
        SourceRefused, match=r"\(DENIED requested access\\x1b\[31m to the resource is denied\)"
    ):
        await client.manifest(NGINX, LATEST)


@pytest.mark.parametrize(
    "body",
    [b"", b"no JSON", b'{"errors": []}', b'{"errors": "x"}', b'{"errors":[{"code": 5}]}', b"\xff"],
)
async def test_an_error_in_a_form_of_its_own_is_still_an_error(
    client: SourceClient, source: FakeRegistry, body: bytes
) -> None:
    source.fault("/manifests/", Status(404, body=body))
    with pytest.raises(SourceNotFound, match=r"docker\.io has no library/nginx:latest\."):
        await client.manifest(NGINX, LATEST)


async def test_a_place_that_is_no_registry_can_not_be_signed_in_at(
    client: SourceClient, source: FakeRegistry
) -> None:
    source.fault("/v2/", Status(404))
    with pytest.raises(SourceAnswerInvalid, match="it has no /v2/"):
        await client.verify_credentials()


# Tags


async def test_tags_come_in_pages(client: SourceClient, source: FakeRegistry) -> None:
    for tag in ("a", "b", "c", "d", "e"):
        source.add_image("library/nginx", tag, layers=[])
    assert await client.tags(NGINX, n=None, last=None) == TagPage(("a", "b", "c", "d", "e"), None)
    assert await client.tags(NGINX, n=2, last=None) == TagPage(("a", "b"), "b")
    assert await client.tags(NGINX, n=2, last="b") == TagPage(("c", "d"), "d")
    assert await client.tags(NGINX, n=2, last="d") == TagPage(("e",), None)


async def test_a_page_that_the_source_cuts_shorter_goes_on(
    client: SourceClient, source: FakeRegistry
) -> None:
    for tag in ("a", "b", "c"):
        source.add_image("library/nginx", tag, layers=[])
    source.tags_page = 2
    assert await client.tags(NGINX, n=None, last=None) == TagPage(("a", "b"), "b")


async def test_no_more_than_a_thousand_tags_are_asked_for(
    client: SourceClient, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "a", layers=[])
    await client.tags(NGINX, n=10_000, last="0 &=?")
    assert source.requests[0].query == {"n": ["1000"], "last": ["0 &=?"]}


async def test_a_source_that_knows_no_pages_is_cut_into_pages(
    client: SourceClient, source: FakeRegistry
) -> None:
    source.fault(
        "/tags/",
        Status(200, body=json.dumps({"name": "library/nginx", "tags": ["z", "a", "m"]}).encode()),
    )
    assert await client.tags(NGINX, n=2, last=None) == TagPage(("z", "a"), "a")
    assert await client.tags(NGINX, n=2, last="a") == TagPage(("m",), None)
    assert await client.tags(NGINX, n=0, last=None) == TagPage((), None)


async def test_a_repository_without_tags_has_an_empty_list(
    client: SourceClient, source: FakeRegistry
) -> None:
    source.fault("/tags/", Status(200, body=b'{"name":"library/nginx","tags":null}'))
    assert await client.tags(NGINX, n=None, last=None) == TagPage((), None)


@pytest.mark.parametrize(
    ("link", "following"),
    [
        ('</v2/library/nginx/tags/list?last=x%2Fy&n=1>; rel="next"', "x/y"),
        ("<https://elsewhere.example/v2/library/nginx/tags/list?n=1&last=q>;rel=next", "q"),
        ('</first>; rel="first", </v2/library/nginx/tags/list?last=b>; rel="next"', "b"),
        ("</v2/library/nginx/tags/list?token=opaque>; rel=next", "a"),
        ("<https://[>; rel=next", "a"),
        ('</v2/library/nginx/tags/list?last=b>; rel="previous"', None),
        ("nonsense", None),
    ],
)
async def test_where_the_next_page_begins_is_read_from_the_link(
    client: SourceClient, source: FakeRegistry, link: str, following: str | None
) -> None:
    source.fault("/tags/", Status(200, {"Link": link}, b'{"tags":["a"]}'))
    assert await client.tags(NGINX, n=1, last=None) == TagPage(("a",), following)


@pytest.mark.parametrize("unit", ["<>;", "<a>;b,", "<", "rel=next;"])
async def test_the_largest_links_that_pass_take_no_time(
    client: SourceClient, source: FakeRegistry, unit: str
) -> None:
    """S05: 100 headers of 8,190 bytes, which the client's parser lets through, held the event loop
    for 68 s."""
    source.add_image("library/nginx", "a", layers=[])
    source.fault("/tags/", Headers(add=(("Link", (unit * 8_190)[:8_100]),) * 100))
    begun = time.thread_time()
    assert await client.tags(NGINX, n=None, last=None) == TagPage(("a",), None)
    assert time.thread_time() - begun < 1


@pytest.mark.parametrize("body", [b"", b"[]", b'{"tags": "a"}', b'{"tags": [1]}'])
async def test_something_else_than_a_list_of_tags_is_refused(
    client: SourceClient, source: FakeRegistry, body: bytes
) -> None:
    source.fault("/tags/", Status(200, body=body))
    with pytest.raises(SourceAnswerInvalid, match="no list"):
        await client.tags(NGINX, n=None, last=None)


async def test_the_tags_of_a_repository_that_is_not_there_are_not_found(
    client: SourceClient,
) -> None:
    with pytest.raises(SourceNotFound, match=r"docker\.io has no library/nginx \(tags\)"):
        await client.tags(NGINX, n=None, last=None)


# Referrers


async def test_referrers_are_listed(client: SourceClient, source: FakeRegistry) -> None:
    image = source.add_image("library/nginx", "latest")
    signature = Content.of(
        OCI.manifest, b'{"schemaVersion":2,"artifactType":"application/vnd.dev.sigstore"}'
    )
    source.add_referrer("library/nginx", image.digest, signature, "application/vnd.dev.sigstore")
    listed = await client.referrers(NGINX, image.digest, None)
    assert [each["digest"] for each in json.loads(listed.content)["manifests"]] == [
        str(signature.digest)
    ]
    assert listed.media_type == OCI.index
    assert listed.digest.matches(listed.content)
    others = await client.referrers(NGINX, image.digest, "application/spdx+json")
    assert json.loads(others.content)["manifests"] == []
    assert source.requests[-1].query == {"artifactType": ["application/spdx+json"]}


@pytest.mark.parametrize("status", [None, 400, 405, 501])
async def test_without_a_referrers_api_the_fallback_tag_is_read(
    client: SourceClient, source: FakeRegistry, status: int | None
) -> None:
    image = source.add_image("library/nginx", "latest")
    source.has_referrers = False
    if status is not None:
        source.fault("/referrers/", Status(status))
    index = source.add_manifest(
        "library/nginx",
        Content.of(OCI.index, b'{"schemaVersion":2,"manifests":[ ]}'),
        f"sha256-{image.digest.hex}",
    )
    assert (await client.referrers(NGINX, image.digest, None)).content == index.content


async def test_without_any_referrers_the_index_is_empty(
    client: SourceClient, source: FakeRegistry
) -> None:
    source.has_referrers = False
    listed = await client.referrers(NGINX, ABSENT, None)
    assert listed.content == EMPTY_INDEX
    assert json.loads(listed.content) == {
        "schemaVersion": 2,
        "mediaType": OCI.index,
        "manifests": [],
    }


async def test_referrers_that_are_refused_are_not_taken_for_none(
    client: SourceClient, source: FakeRegistry
) -> None:
    source.fault("/referrers/", Status(403))
    with pytest.raises(SourceRefused):
        await client.referrers(NGINX, ABSENT, None)


# Rate limit and state


async def test_the_allowance_is_told_in_the_state(
    client: SourceClient, sources: Sources, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "latest")
    assert sources.state("docker.io") == SourceState()
    source.fault(
        "/manifests/",
        Headers({"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "76;w=21600"}),
    )
    await client.head_manifest(NGINX, LATEST)
    assert sources.state("docker.io") == SourceState(
        reachable=True,
        problem=None,
        rate_limit=RateLimit(100, 76, None, 21_600),
    )


async def test_the_allowance_of_storage_behind_a_redirect_is_another(
    client: SourceClient, sources: Sources, source: FakeRegistry
) -> None:
    async with FakeRegistry() as storage:
        layer = source.add_image("library/nginx", "latest").platforms["linux/amd64"].layers[0]
        storage.files["/store/1"] = layer.content
        source.fault("/blobs/", Redirect(f"{storage.url}/store/1"))
        storage.fault("/store/", Headers({"RateLimit-Limit": "5", "RateLimit-Remaining": "1"}))
        async with client.blob(NGINX, layer.digest) as stream:
            await read(stream)
    assert sources.state("docker.io").rate_limit.limit is None


async def test_a_source_over_its_allowance_is_not_asked_again_before_its_time(
    client: SourceClient, sources: Sources, source: FakeRegistry, clock: Clock
) -> None:
    image = source.add_image("library/nginx", "latest")
    source.fault("/manifests/", Status(429, {"Retry-After": "60"}, times=1))
    with pytest.raises(SourceRateLimited) as raised:
        await client.manifest(NGINX, LATEST)
    assert raised.value.retry_after == 60.0
    clock.now += 20
    with pytest.raises(SourceRateLimited) as raised:
        await client.head_manifest(NGINX, LATEST)
    assert raised.value.retry_after == 40.0
    assert len(source.requests) == 1
    assert sources.state("docker.io").rate_limit.remaining == 0
    # What is counted are manifests: the layers of a manifest that we have still come.
    async with client.blob(NGINX, image.platforms["linux/amd64"].layers[0].digest) as stream:
        await read(stream)
    clock.now += 41
    assert (await client.manifest(NGINX, LATEST)).digest == image.digest


async def test_429_is_not_tried_again_by_itself(client: SourceClient, source: FakeRegistry) -> None:
    source.fault("/manifests/", Status(429))
    with pytest.raises(SourceRateLimited) as raised:
        await client.manifest(NGINX, LATEST)
    assert raised.value.retry_after is None
    assert len(source.requests) == 1


async def test_the_state_tells_the_last_problem_until_it_is_over(
    client: SourceClient, sources: Sources, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "latest")
    source.fault("/manifests/", Status(500))
    with pytest.raises(SourceFailed):
        await client.head_manifest(NGINX, LATEST)
    state = sources.state("docker.io")
    assert state.reachable is True
    assert state.problem is not None
    assert "status 500" in state.problem
    again = asyncio.Event()

    async def wait(_: float) -> None:
        await again.wait()

    sources.breakers.wait = wait
    await source.stop()
    with pytest.raises(SourceError):
        await client.head_manifest(NGINX, LATEST)
    assert sources.state("docker.io").reachable is False
    await source.start()
    source.clear_faults()
    again.set()
    async with asyncio.timeout(30):
        while sources.state("docker.io").unreachable_since is not None:
            await asyncio.sleep(0)
    await client.head_manifest(NGINX, LATEST)
    assert sources.state("docker.io") == SourceState(reachable=True)


async def test_a_blob_that_broke_off_is_a_problem_and_a_missing_tag_is_none(
    client: SourceClient, sources: Sources, source: FakeRegistry
) -> None:
    layer = source.add_image("library/nginx", "latest").platforms["linux/amd64"].layers[0]
    with pytest.raises(SourceNotFound):
        await client.head_manifest(NGINX, Tag("missing"))
    assert sources.state("docker.io") == SourceState(reachable=True)
    source.fault("/blobs/", DropAfter(100))
    with pytest.raises(SourceBrokeOff):
        async with client.blob(NGINX, layer.digest) as stream:
            await read(stream)
    assert "broke off" in (sources.state("docker.io").problem or "")


async def test_all_clients_of_a_login_server_share_its_connections(
    sources: Sources, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "latest")
    for _ in range(3):
        await sources.client(registry(source.url), None).head_manifest(NGINX, LATEST)
    assert len({each.connection for each in source.requests}) == 1
