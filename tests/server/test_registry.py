"""The registry as container clients see it: OCI distribution 1.1, pull side."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from entrepot.core.media_types import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from entrepot.core.reference import Digest
from entrepot.core.rules import RuleDraft
from entrepot.core.states import PullState
from entrepot.engine.engine import Engine
from entrepot.server.registry import _warning
from tests.conftest import LOGIN_SERVER, Clock
from tests.fakes import FakeImage, FakeRegistry, FlipByte, Html, Status
from tests.store.statements import recorded_reads

AMD64 = "linux/amd64"


def error_of(response: httpx.Response) -> tuple[int, str, str]:
    [error] = response.json()["errors"]
    return response.status_code, error["code"], error["message"]


async def pulls_end(engine: Engine) -> None:
    for pull in engine.cache.pulls.all():
        await pull.finished.wait()


async def pull_all(registry: httpx.AsyncClient, image: FakeImage, platform: str = AMD64) -> None:
    """What a container client does to pull one platform of an image."""
    index = await registry.get(f"/v2/{image.repository}/manifests/{image.tag}")
    assert index.content == image.manifest.content
    platform_image = image.platforms[platform]
    manifest = await registry.get(f"/v2/{image.repository}/manifests/{platform_image.digest}")
    assert manifest.content == platform_image.manifest.content
    for blob in platform_image.blobs:
        response = await registry.get(f"/v2/{image.repository}/blobs/{blob.digest}")
        assert response.status_code == 200
        assert response.content == blob.content


async def test_the_version_check_is_answered(registry: httpx.AsyncClient) -> None:
    response = await registry.get("/v2/")
    assert (
        response.status_code,
        response.json(),
        response.headers["docker-distribution-api-version"],
    ) == (200, {}, "registry/2.0")


async def test_an_image_is_pulled_byte_for_byte_and_then_served_without_the_source(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    image = source.add_image("library/nginx", "1.27")
    await pull_all(registry, image)
    await pulls_end(engine)
    requests_before = len(source.requests)
    await source.stop()
    await pull_all(registry, image)
    assert len(source.requests) == requests_before


async def test_only_the_platform_that_was_asked_for_is_fetched(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    image = source.add_image("library/nginx", "1.27")
    await pull_all(registry, image)
    await pulls_end(engine)
    for blob in image.platforms["linux/arm64"].blobs:
        assert source.count("GET", str(blob.digest)) == 0
    assert source.count("GET", str(image.platforms["linux/arm64"].digest)) == 0
    assert (await engine.repositories.get("library/nginx")).tags[0].platforms == (AMD64,)


async def test_a_layer_brings_the_rest_of_its_image_though_the_client_goes(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    image = source.add_image("library/nginx", "1.27", layers=[5_000, 6_000, 7_000])
    amd64_image = image.platforms[AMD64]
    await registry.get("/v2/library/nginx/manifests/1.27")
    await registry.get(f"/v2/library/nginx/manifests/{amd64_image.digest}")
    await registry.get(f"/v2/library/nginx/blobs/{amd64_image.layers[0].digest}")
    await pulls_end(engine)
    [pull] = [each.progress() for each in engine.cache.pulls.all()]
    assert pull.state is PullState.COMPLETED
    assert (pull.image, pull.platform, pull.rule, pull.source_repository) == (
        "library/nginx:1.27",
        AMD64,
        "example-library",
        f"{LOGIN_SERVER}/library/nginx",
    )
    assert {Digest.parse(layer.digest) for layer in pull.layers} == {
        blob.digest for blob in amd64_image.blobs
    }
    assert all(engine.blobs.size(blob.digest) == blob.size for blob in amd64_image.blobs)


async def test_looking_costs_no_layers(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    image = source.add_image("library/nginx", "1.27")
    amd64_image = image.platforms[AMD64]
    await registry.head("/v2/library/nginx/manifests/1.27")
    await registry.get("/v2/library/nginx/manifests/1.27")
    await registry.get(f"/v2/library/nginx/manifests/{amd64_image.digest}")
    await registry.get(f"/v2/library/nginx/blobs/{amd64_image.config.digest}")
    await registry.head(f"/v2/library/nginx/blobs/{amd64_image.layers[0].digest}")
    assert engine.cache.pulls.all() == []
    assert source.count("GET", "/blobs/") == 1


async def test_a_head_on_an_uncached_tag_fetches_no_body(
    registry: httpx.AsyncClient, source: FakeRegistry
) -> None:
    image = source.add_image("library/nginx", "1.27")
    response = await registry.head("/v2/library/nginx/manifests/1.27")
    assert response.status_code == 200
    assert response.headers["docker-content-digest"] == str(image.digest)
    assert response.headers["content-length"] == str(image.manifest.size)
    assert response.headers["content-type"] == OCI_INDEX
    assert source.count("GET", "/manifests/") == 0


async def test_a_tag_resolved_by_head_and_pulled_by_digest_is_cached_for_containerd(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    image = source.add_image("library/nginx", "1.27")
    await registry.head("/v2/library/nginx/manifests/1.27")
    await registry.get(f"/v2/library/nginx/manifests/{image.digest}")
    await source.stop()
    response = await registry.get("/v2/library/nginx/manifests/1.27")
    assert response.content == image.manifest.content
    assert [tag.name for tag in (await engine.repositories.get("library/nginx")).tags] == ["1.27"]


async def test_a_head_on_an_uncached_blob_gives_its_size_and_fetches_nothing(
    registry: httpx.AsyncClient, source: FakeRegistry
) -> None:
    image = source.add_image("library/nginx", "1.27")
    layer = image.platforms[AMD64].layers[0]
    response = await registry.head(f"/v2/library/nginx/blobs/{layer.digest}")
    assert (response.status_code, response.headers["content-length"]) == (200, str(layer.size))
    assert response.headers["docker-content-digest"] == str(layer.digest)
    assert source.count("GET", "/blobs/") == 0


async def test_within_the_freshness_a_tag_asks_nothing_and_after_it_one_head(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry, clock: Clock
) -> None:
    source.add_image("library/nginx", "1.27")
    await registry.get("/v2/library/nginx/manifests/1.27")
    requests_before = len(source.requests)
    clock.now += engine.settings.freshness - 1
    assert (await registry.get("/v2/library/nginx/manifests/1.27")).headers[
        "entrepot-origin"
    ] == "cache"
    assert len(source.requests) == requests_before
    clock.now += 2
    answers = await asyncio.gather(
        *(registry.get("/v2/library/nginx/manifests/1.27") for _ in range(20))
    )
    assert {answer.status_code for answer in answers} == {200}
    assert [request.method for request in source.requests[requests_before:]] == ["HEAD"]


async def test_a_moved_tag_is_seen_after_the_freshness_and_its_old_digest_stays(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry, clock: Clock
) -> None:
    old = source.add_image("library/nginx", "latest", layers=[b"old"])
    await registry.get("/v2/library/nginx/manifests/latest")
    new = source.add_image("library/nginx", "latest", layers=[b"new"])
    assert (
        await registry.get("/v2/library/nginx/manifests/latest")
    ).content == old.manifest.content
    clock.now += engine.settings.freshness
    response = await registry.get("/v2/library/nginx/manifests/latest")
    assert (response.content, response.headers["entrepot-origin"]) == (
        new.manifest.content,
        "upstream",
    )
    await source.stop()
    assert (
        await registry.get(f"/v2/library/nginx/manifests/{old.digest}")
    ).content == old.manifest.content


async def test_a_tag_that_is_gone_at_its_source_is_kept_served_and_flagged(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry, clock: Clock
) -> None:
    image = source.add_image("library/nginx", "1.27")
    await registry.get("/v2/library/nginx/manifests/1.27")
    source.remove_tag("library/nginx", "1.27")
    clock.now += engine.settings.freshness
    response = await registry.get("/v2/library/nginx/manifests/1.27")
    assert response.content == image.manifest.content
    assert "gone at its source" in response.headers["warning"]
    [tag] = (await engine.repositories.get("library/nginx")).tags
    assert tag.gone


async def test_a_stale_tag_is_served_with_a_warning_when_the_source_is_down(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry, clock: Clock
) -> None:
    image = source.add_image("library/nginx", "1.27")
    await registry.get("/v2/library/nginx/manifests/1.27")
    await source.stop()
    clock.now += engine.settings.freshness
    response = await registry.get("/v2/library/nginx/manifests/1.27")
    assert (response.status_code, response.content) == (200, image.manifest.content)
    assert response.headers["entrepot-origin"] == "stale"
    assert response.headers["warning"].startswith('299 - "')


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It can't be reached.", b'299 - "It can\'t be reached."'),
        ('It said "no".', b"299 - \"It said 'no'.\""),
        ("C:\\ca\x1b[2J\r\nX: 1", b'299 - "C:\\\\ca\\\\x1b[2J X: 1"'),
        ("Ça va…", b'299 - "?a va..."'),
    ],
)
def test_a_warning_is_as_the_distribution_specification_wants_it(
    text: str, expected: bytes
) -> None:
    """``299 -`` without a date, at most 4,096 bytes, and what oras and regctl show whole."""
    assert _warning(text) == expected


def test_a_long_warning_is_cut() -> None:
    assert len(_warning("\\…" * 10_000)) < 4096


async def test_a_cold_range_is_answered_from_one_fetch(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    image = source.add_image("library/nginx", "1.27", layers=[400_000])
    layer = image.platforms[AMD64].layers[0]
    path = f"/v2/library/nginx/blobs/{layer.digest}"
    step = layer.size // 8 + 1
    ranges = [(start, min(start + step, layer.size)) for start in range(0, layer.size, step)]
    answers = await asyncio.gather(
        *(
            registry.get(path, headers={"Range": f"bytes={start}-{end - 1}"})
            for start, end in ranges
        )
    )
    assert [answer.status_code for answer in answers] == [206] * 8
    assert [answer.headers["content-range"] for answer in answers] == [
        f"bytes {start}-{end - 1}/{layer.size}" for start, end in ranges
    ]
    assert b"".join(answer.content for answer in answers) == layer.content
    if (fill := engine.fills.any(layer.digest)) is not None:
        await fill.wait()
    assert source.count("GET", str(layer.digest)) == 1
    warm = await registry.get(path, headers={"Range": "bytes=-100"})
    assert (warm.status_code, warm.content, warm.headers["entrepot-origin"]) == (
        206,
        layer.content[-100:],
        "cache",
    )


async def test_a_range_for_other_content_gets_the_whole_blob(
    registry: httpx.AsyncClient, source: FakeRegistry
) -> None:
    layer = source.add_image("library/nginx", "1.27").platforms[AMD64].layers[0]
    path = f"/v2/library/nginx/blobs/{layer.digest}"
    response = await registry.get(path, headers={"Range": "bytes=0-1", "If-Range": '"another"'})
    assert (response.status_code, response.content) == (200, layer.content)


async def test_a_client_that_has_it_already_gets_304(
    registry: httpx.AsyncClient, source: FakeRegistry
) -> None:
    image = source.add_image("library/nginx", "1.27")
    path = "/v2/library/nginx/manifests/1.27"
    etag = (await registry.get(path)).headers["etag"]
    response = await registry.get(path, headers={"If-None-Match": etag})
    assert (response.status_code, response.content) == (304, b"")
    assert response.headers["docker-content-digest"] == str(image.digest)


async def test_a_client_that_knows_no_indexes_gets_the_image_of_a_tag(
    registry: httpx.AsyncClient, source: FakeRegistry
) -> None:
    image = source.add_image("library/nginx", "1.27")
    response = await registry.get(
        "/v2/library/nginx/manifests/1.27", headers={"Accept": OCI_MANIFEST}
    )
    assert response.content == image.platforms[AMD64].manifest.content
    refused = await registry.get(
        "/v2/library/nginx/manifests/1.27", headers={"Accept": DOCKER_MANIFEST}
    )
    assert error_of(refused)[:2] == (404, "MANIFEST_UNKNOWN")
    by_digest = await registry.get(
        f"/v2/library/nginx/manifests/{image.digest}", headers={"Accept": DOCKER_MANIFEST}
    )
    assert by_digest.content == image.manifest.content


async def test_several_accept_headers_are_one_list(
    registry: httpx.AsyncClient, source: FakeRegistry
) -> None:
    image = source.add_image("library/nginx", "1.27")
    response = await registry.get(
        "/v2/library/nginx/manifests/1.27",
        headers=[("Accept", DOCKER_MANIFEST), ("Accept", OCI_INDEX)],
    )
    assert response.content == image.manifest.content


async def test_wrong_bytes_are_never_kept(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    layer = source.add_image("library/nginx", "1.27", layers=[300_000]).platforms[AMD64].layers[0]
    source.fault(str(layer.digest), FlipByte(1000), method="GET")
    response = await registry.get(f"/v2/library/nginx/blobs/{layer.digest}")
    assert len(response.content) < layer.size
    assert engine.blobs.size(layer.digest) is None
    source.clear_faults()
    assert (await registry.get(f"/v2/library/nginx/blobs/{layer.digest}")).content == layer.content


async def test_a_web_page_in_place_of_a_manifest_is_a_bad_gateway(
    registry: httpx.AsyncClient, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1.27")
    source.fault("/manifests/", Html())
    assert error_of(await registry.get("/v2/library/nginx/manifests/1.27"))[0] == 502


async def test_what_the_source_does_not_have_is_unknown(
    registry: httpx.AsyncClient, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1.27")
    status, code, message = error_of(await registry.get("/v2/library/nginx/manifests/9"))
    assert (status, code) == (404, "MANIFEST_UNKNOWN")
    assert "example-library" in message
    digest = Digest.of(b"nothing")
    assert error_of(await registry.get(f"/v2/library/nginx/blobs/{digest}"))[:2] == (
        404,
        "BLOB_UNKNOWN",
    )


async def test_a_failure_is_remembered_for_seconds_only(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry, clock: Clock
) -> None:
    await registry.get("/v2/library/nginx/manifests/1.27")
    requests_before = len(source.requests)
    assert (await registry.get("/v2/library/nginx/manifests/1.27")).status_code == 404
    assert len(source.requests) == requests_before
    source.add_image("library/nginx", "1.27")
    clock.now += engine.settings.negative_freshness
    assert (await registry.get("/v2/library/nginx/manifests/1.27")).status_code == 200


@pytest.mark.parametrize(
    ("status", "expected"),
    [(500, (502, "UNKNOWN")), (429, (429, "TOOMANYREQUESTS")), (401, (404, "MANIFEST_UNKNOWN"))],
)
async def test_the_source_answers_for_its_own_failures(
    registry: httpx.AsyncClient, source: FakeRegistry, status: int, expected: tuple[int, str]
) -> None:
    source.fault(
        "/manifests/", Status(status, headers={"Retry-After": "7"} if status == 429 else {})
    )
    response = await registry.get("/v2/library/nginx/manifests/1.27")
    assert error_of(response)[:2] == expected
    # A little more than the source said, at random, so that not all clients come back at once.
    assert int(response.headers.get("retry-after", 0)) in (range(7, 13) if status == 429 else {0})


async def test_a_digest_alone_opens_nothing(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    private = source.add_image("private/app", "1")
    await engine.rules.create(
        RuleDraft("example-private", f"{LOGIN_SERVER}/private/*", "private/*")
    )
    await pull_all(registry, private)
    await pulls_end(engine)
    layer = private.platforms[AMD64].layers[0]
    assert error_of(await registry.get(f"/v2/library/nginx/blobs/{layer.digest}"))[:2] == (
        404,
        "BLOB_UNKNOWN",
    )
    assert (await registry.get(f"/v2/library/nginx/manifests/{private.digest}")).status_code == 404


async def test_without_a_rule_nothing_is_asked(
    registry: httpx.AsyncClient, source: FakeRegistry
) -> None:
    for path in ("manifests/1", f"blobs/{Digest.of(b'')}", "tags/list"):
        status, code, message = error_of(await registry.get(f"/v2/other/thing/{path}"))
        assert (status, code) == (404, "NAME_UNKNOWN")
        assert "No cache rule answers" in message
    assert source.requests == []


async def test_what_a_deleted_rule_had_cached_stays_pullable(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry, clock: Clock
) -> None:
    image = source.add_image("library/nginx", "1.27")
    await pull_all(registry, image)
    await pulls_end(engine)
    await engine.rules.delete("example-library")
    clock.now += 10 * engine.settings.freshness
    requests_before = len(source.requests)
    await pull_all(registry, image)
    assert len(source.requests) == requests_before
    assert error_of(await registry.get("/v2/library/nginx/manifests/9"))[:2] == (
        404,
        "MANIFEST_UNKNOWN",
    )


async def test_a_deleted_repository_is_gone_and_fills_again(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    image = source.add_image("library/nginx", "1.27")
    await pull_all(registry, image)
    await pulls_end(engine)
    await engine.repositories.delete("library/nginx")
    assert await engine.repositories.list() == []
    await pull_all(registry, image)


async def test_tags_come_from_the_source_page_by_page(
    registry: httpx.AsyncClient, source: FakeRegistry
) -> None:
    for tag in ("1", "2", "3"):
        source.add_image("library/nginx", tag, layers=[10])
    first = await registry.get("/v2/library/nginx/tags/list?n=2")
    assert first.json() == {"name": "library/nginx", "tags": ["1", "2"]}
    second = await registry.get(first.links["next"]["url"])
    assert second.json()["tags"] == ["3"]
    assert "next" not in second.links


async def test_without_the_source_the_cached_tags_are_listed(
    registry: httpx.AsyncClient, source: FakeRegistry
) -> None:
    for tag in ("1", "2"):
        source.add_image("library/nginx", tag, layers=[10])
    await registry.get("/v2/library/nginx/manifests/2")
    await source.stop()
    assert (await registry.get("/v2/library/nginx/tags/list")).json()["tags"] == ["2"]


async def test_the_catalog_lists_cached_repositories_page_by_page(
    registry: httpx.AsyncClient, source: FakeRegistry
) -> None:
    for name in ("a", "b", "c"):
        source.add_image(f"library/{name}", "1", layers=[10])
        await registry.get(f"/v2/library/{name}/manifests/1")
    first = await registry.get("/v2/_catalog?n=2")
    assert first.json() == {"repositories": ["library/a", "library/b"]}
    assert (await registry.get(first.links["next"]["url"])).json() == {
        "repositories": ["library/c"]
    }


async def test_a_page_is_one_query_however_much_is_cached(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    for name in ("a", "b", "c", "d"):
        for tag in ("1", "2", "3", "4") if name == "a" else ("1",):
            source.add_image(f"library/{name}", tag, layers=[10])
            await registry.get(f"/v2/library/{name}/manifests/{tag}")
    await engine.rules.delete("example-library")
    for path in ("_catalog", "library/a/tags/list"):
        with recorded_reads(engine.catalog) as statements:
            page = await registry.get(f"/v2/{path}?n=2")
        assert "next" in page.links
        assert [statement.rows() for statement in statements] == [3]


async def test_referrers_are_the_sources_or_an_empty_index(
    registry: httpx.AsyncClient, source: FakeRegistry
) -> None:
    image = source.add_image("library/nginx", "1.27")
    response = await registry.get(f"/v2/library/nginx/referrers/{image.digest}")
    assert response.headers["content-type"] == OCI_INDEX
    assert json.loads(response.content)["manifests"] == []


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_a_push_is_refused_with_what_to_do(registry: httpx.AsyncClient, method: str) -> None:
    response = await registry.request(method, "/v2/library/nginx/blobs/uploads/")
    status, code, message = error_of(response)
    assert (status, code, response.headers["allow"]) == (405, "UNSUPPORTED", "GET, HEAD")
    assert "nothing can be pushed" in message
    assert "entrepot repository delete" in message


@pytest.mark.parametrize(
    ("path", "headers", "expected"),
    [
        ("/v2/library/nginx/blobs/sha256:xyz", {}, (400, "DIGEST_INVALID")),
        ("/v2/library/nginx/manifests/sha256:xyz", {}, (400, "DIGEST_INVALID")),
        ("/v2/library/nginx/manifests/-x", {}, (400, "MANIFEST_INVALID")),
        ("/v2/Library/nginx/manifests/1", {}, (400, "NAME_INVALID")),
        ("/v2/library//nginx/tags/list", {}, (400, "NAME_INVALID")),
        ("/v2/library/nginx/manifests/1", {"Accept": "a/b," * 2049}, (400, "UNSUPPORTED")),
        ("/v2/library/nginx/tags/list?n=-1", {}, (400, "UNSUPPORTED")),
        ("/v2/library/nginx/tags/list?n=" + "1" * 5000, {}, (400, "UNSUPPORTED")),
        ("/v2/_catalog?n=" + "1" * 5000, {}, (400, "UNSUPPORTED")),
        ("/v2/_catalog?n=\u0664", {}, (400, "UNSUPPORTED")),
        ("/v2/_catalog?n=1e3", {}, (400, "UNSUPPORTED")),
        ("/v3/", {}, (404, "NAME_UNKNOWN")),
    ],
)
async def test_what_can_not_be_read_gets_its_own_error(
    registry: httpx.AsyncClient,
    source: FakeRegistry,
    path: str,
    headers: dict[str, str],
    expected: tuple[int, str],
) -> None:
    assert error_of(await registry.get(path, headers=headers))[:2] == expected
    assert source.requests == []


async def test_a_range_outside_a_blob_can_not_be_satisfied(
    registry: httpx.AsyncClient, source: FakeRegistry
) -> None:
    layer = source.add_image("library/nginx", "1.27").platforms[AMD64].layers[0]
    response = await registry.get(
        f"/v2/library/nginx/blobs/{layer.digest}", headers={"Range": f"bytes={layer.size}-"}
    )
    assert error_of(response)[0] == 416
    assert response.headers["content-range"] == f"bytes */{layer.size}"


async def test_f70_nonsense_in_accept_is_no_preference(
    registry: httpx.AsyncClient, source: FakeRegistry
) -> None:
    image = source.add_image("library/nginx", "1.27")
    response = await registry.get(
        "/v2/library/nginx/manifests/1.27", headers={"Accept": "nonsense"}
    )
    assert (response.status_code, response.content) == (200, image.manifest.content)


async def test_f77_s25_a_page_of_no_entries_is_empty_and_has_no_link(
    registry: httpx.AsyncClient, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1")
    await registry.get("/v2/library/nginx/manifests/1")
    tags = await registry.get("/v2/library/nginx/tags/list?n=0")
    assert (tags.status_code, tags.json(), tags.links) == (
        200,
        {"name": "library/nginx", "tags": []},
        {},
    )
    names = await registry.get("/v2/_catalog?n=0")
    assert (names.status_code, names.json(), names.links) == (200, {"repositories": []}, {})
    assert error_of(await registry.get("/v2/library/none/tags/list?n=0"))[0] == 404
    # Nor is there one without a cache rule (F77).
    assert error_of(await registry.get("/v2/no-rule/none/tags/list?n=0"))[0] == 404
    assert len((await registry.get("/v2/library/nginx/tags/list?n=999999999")).json()["tags"]) == 1
