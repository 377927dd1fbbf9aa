"""Lists of tags (S28) and of referrers (S15, F73): one request for all, a short memory, and never
an empty list for one that could not be seen."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from entrepot.cache.source_lists import LIST_MAX_AGE
from entrepot.core.media_types import OCI_INDEX
from entrepot.core.reference import Digest, Repository
from entrepot.engine.engine import Engine
from entrepot.store.connections import CatalogFailed
from tests.conftest import Clock
from tests.fakes import Content, FakeImage, FakeRegistry, Status

TAGS = "/v2/library/nginx/tags/list"
NGINX = Repository("library/nginx")
SIGNATURE = "application/vnd.dev.sigstore"
SBOM = "application/spdx+json"


@pytest.fixture
def image(source: FakeRegistry) -> FakeImage:
    return source.add_image("library/nginx", "1", layers=[10])


def referrers_of(image: FakeImage, artifact_type: str | None = None) -> str:
    return f"/v2/library/nginx/referrers/{image.digest}" + (
        f"?artifactType={artifact_type}" if artifact_type else ""
    )


def add_referrer(source: FakeRegistry, image: FakeImage, artifact_type: str) -> Digest:
    content = Content.of(
        "application/vnd.oci.image.manifest.v1+json",
        b'{"schemaVersion":2,"artifactType":"%s"}' % artifact_type.encode(),
    )
    source.add_referrer("library/nginx", image.digest, content, artifact_type)
    return content.digest


def tags_in(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    tags: list[str] = response.json()["tags"]
    return tags


def digests_in(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == OCI_INDEX
    return [each["digest"] for each in json.loads(response.content)["manifests"]]


def origin(response: httpx.Response) -> tuple[str, bool]:
    """Where an answer came from, and whether it warns."""
    warning = response.headers.get("warning")
    assert warning is None or warning.startswith('299 - "')
    return response.headers["entrepot-origin"], warning is not None


# Tags


async def test_s28_all_clients_share_one_request_for_a_list_and_one_copy_of_it(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1", layers=[10])
    gate = source.hold("/tags/list")
    waiting = [asyncio.create_task(registry.get(TAGS)) for _ in range(50)]
    await gate.reached
    gate.open()
    for response in await asyncio.gather(*waiting):
        # One that came late finds the list already.
        assert (tags_in(response), *origin(response)) in (
            (["1"], "upstream", False),
            (["1"], "cache", False),
        )
    later = await registry.get(TAGS)
    assert (tags_in(later), *origin(later)) == (["1"], "cache", False)
    assert source.count("GET", "/tags/list") == 1
    first, second = [await engine.cache.tags(NGINX, n=None, last=None) for _ in range(2)]
    assert first.listing.body is second.listing.body


@pytest.mark.parametrize(
    ("freshness", "seconds"), [("10 s", 10), ("1 h", 60), ("never", 60), (None, 60)]
)
async def test_s28_a_list_is_asked_for_again_after_its_freshness_or_a_minute(
    freshness: str | None,
    seconds: float,
    registry: httpx.AsyncClient,
    engine: Engine,
    source: FakeRegistry,
    clock: Clock,
) -> None:
    source.add_image("library/nginx", "1", layers=[10])
    await engine.rules.update("example-library", freshness=freshness)
    await registry.get(TAGS)
    source.add_image("library/nginx", "2", layers=[10])
    clock.now += seconds - 1
    assert tags_in(await registry.get(TAGS)) == ["1"]
    clock.now += 1
    response = await registry.get(TAGS)
    assert (tags_in(response), *origin(response)) == (["1", "2"], "upstream", False)


async def test_s28_a_rule_that_always_asks_always_asks(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1", layers=[10])
    await engine.rules.update("example-library", freshness="always")
    for _ in range(3):
        assert origin(await registry.get(TAGS)) == ("upstream", False)
    assert source.count("GET", "/tags/list") == 3


async def test_s28_each_page_is_a_list_of_its_own(
    registry: httpx.AsyncClient, source: FakeRegistry
) -> None:
    for tag in ("1", "2", "3"):
        source.add_image("library/nginx", tag, layers=[10])
    for _ in range(2):
        first = await registry.get(f"{TAGS}?n=2")
        assert tags_in(first) == ["1", "2"]
        assert tags_in(await registry.get(first.links["next"]["url"])) == ["3"]
        assert tags_in(await registry.get(TAGS)) == ["1", "2", "3"]
    assert source.count("GET", "/tags/list") == 3


async def test_s28_a_source_that_fails_is_asked_once_and_the_last_list_is_served(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry, clock: Clock
) -> None:
    for tag in ("1", "2"):
        source.add_image("library/nginx", tag, layers=[10])
    await registry.get(TAGS)
    source.fault("/tags/", Status(500))
    clock.now += 3_600
    for _ in range(5):
        response = await registry.get(TAGS)
        assert (tags_in(response), *origin(response)) == (["1", "2"], "stale", True)
    assert "status 500" in response.headers["warning"]
    assert source.count("GET", "/tags/list") == 2
    clock.now += LIST_MAX_AGE
    engine.cache.drop_expired()
    assert (await registry.get(TAGS)).status_code == 502


async def test_s28_without_a_last_list_the_cached_tags_are_served_and_say_so(
    registry: httpx.AsyncClient, source: FakeRegistry
) -> None:
    for tag in ("1", "2", "3"):
        source.add_image("library/nginx", tag, layers=[10])
        if tag != "2":
            await registry.get(f"/v2/library/nginx/manifests/{tag}")
    source.fault("/tags/", Status(500))
    for _ in range(2):
        response = await registry.get(TAGS)
        assert (tags_in(response), *origin(response)) == (["1", "3"], "stale", True)
    page = await registry.get(f"{TAGS}?n=1")
    assert tags_in(page) == ["1"]
    assert tags_in(await registry.get(page.links["next"]["url"])) == ["3"]
    assert source.count("GET", "/tags/list") == 1


async def test_s28_a_repository_cached_without_tags_gets_the_failure_of_its_source(
    registry: httpx.AsyncClient, source: FakeRegistry, image: FakeImage
) -> None:
    await registry.get(f"/v2/library/nginx/manifests/{image.digest}")
    source.fault("/tags/", Status(500))
    for _ in range(2):
        response = await registry.get(TAGS)
        assert response.status_code == 502
        assert "status 500" in response.json()["errors"][0]["message"]


async def test_s28_a_source_that_has_the_repository_no_more_is_believed(
    registry: httpx.AsyncClient, source: FakeRegistry, clock: Clock
) -> None:
    source.add_image("library/nginx", "1", layers=[10])
    await registry.get(TAGS)
    source.fault("/tags/", Status(404))
    clock.now += 60
    for _ in range(2):
        assert (await registry.get(TAGS)).json()["errors"][0]["code"] == "NAME_UNKNOWN"
    assert source.count("GET", "/tags/list") == 2


async def test_s28_without_a_rule_the_cached_tags_are_served_with_a_warning(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1", layers=[10])
    await registry.get("/v2/library/nginx/manifests/1")
    await engine.rules.delete("example-library")
    response = await registry.get(TAGS)
    assert (tags_in(response), *origin(response)) == (["1"], "stale", True)
    assert "No cache rule answers" in response.headers["warning"]
    assert source.count("GET", "/tags/list") == 0


async def test_s28_a_catalog_that_fails_hides_no_tags_of_the_source(
    registry: httpx.AsyncClient,
    engine: Engine,
    source: FakeRegistry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source.add_image("library/nginx", "1", layers=[10])

    async def fail(_: Repository) -> bool:
        raise CatalogFailed("The catalog fails.")

    monkeypatch.setattr(engine.catalog, "is_cached", fail)
    assert tags_in(await registry.get(TAGS)) == ["1"]


@pytest.mark.parametrize("n", [0, 1, 2])
async def test_s28_pages_of_cached_tags_have_as_many_as_were_asked_for(
    n: int, registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    for tag in ("1", "2"):
        source.add_image("library/nginx", tag, layers=[10])
        await registry.get(f"/v2/library/nginx/manifests/{tag}")
    await engine.rules.delete("example-library")
    answer = await engine.cache.tags(NGINX, n=n, last=None)
    assert json.loads(answer.listing.body) == {"name": NGINX, "tags": ["1", "2"][:n]}
    assert answer.listing.next_last == ("1" if n == 1 else None)


async def test_a_fetch_that_is_given_up_on_the_way_costs_no_list_that_is_known(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry, clock: Clock
) -> None:
    source.add_image("library/nginx", "1", layers=[10])
    for path in (TAGS, "/v2/library/nginx/manifests/1"):
        await registry.get(path)
    clock.now += engine.settings.freshness
    for path, flights in (
        (TAGS, engine.cache._listings._fetches),
        ("/v2/library/nginx/manifests/1", engine.cache._manifests._fetches),
    ):
        gate = source.hold(path)
        asking = asyncio.create_task(registry.get(path))
        await gate.reached
        [fetch] = flights._flights.values()
        fetch.cancel()
        assert origin(await asking) == ("stale", True)
        gate.open()


async def test_s28_a_change_of_rules_asks_again(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1", layers=[10])
    await registry.get(TAGS)
    await engine.rules.update("example-library", freshness="1 h")
    assert origin(await registry.get(TAGS)) == ("upstream", False)


# Referrers


async def test_s15_referrers_are_shared_and_kept_for_a_minute(
    registry: httpx.AsyncClient, source: FakeRegistry, image: FakeImage, clock: Clock
) -> None:
    signature = add_referrer(source, image, SIGNATURE)
    gate = source.hold("/referrers/")
    waiting = [asyncio.create_task(registry.get(referrers_of(image))) for _ in range(20)]
    await gate.reached
    gate.open()
    for response in await asyncio.gather(*waiting):
        assert (digests_in(response), *origin(response)) in (
            ([str(signature)], "upstream", False),
            ([str(signature)], "cache", False),
        )
        assert "oci-filters-applied" not in response.headers
    assert origin(await registry.get(referrers_of(image))) == ("cache", False)
    assert source.count("GET", "/referrers/") == 1
    clock.now += 60
    sbom = add_referrer(source, image, SBOM)
    assert digests_in(await registry.get(referrers_of(image))) == [str(signature), str(sbom)]


FAILURES = [(500, 502), (503, 502), (429, 429), (403, 403), (401, 403)]


@pytest.mark.parametrize(("status", "expected"), FAILURES)
async def test_f73_an_outage_is_never_told_as_no_referrers(
    status: int, expected: int, registry: httpx.AsyncClient, source: FakeRegistry, image: FakeImage
) -> None:
    """A policy that looks for signatures would read an empty list as "unsigned"."""
    await registry.get("/v2/library/nginx/manifests/1")
    source.fault(
        "/referrers/", Status(status, headers={"Retry-After": "30"} if status == 429 else {})
    )
    source.fault("/sha256-", Status(status))
    assert (await registry.get(referrers_of(image))).status_code == expected
    requests = len(source.requests)
    for _ in range(3):
        response = await registry.get(referrers_of(image))
        assert response.status_code == expected
        assert "manifests" not in response.json()
    assert len(source.requests) == requests


async def test_f73_a_source_that_can_not_be_reached_has_no_empty_list(
    registry: httpx.AsyncClient, source: FakeRegistry, image: FakeImage
) -> None:
    await registry.get("/v2/library/nginx/manifests/1")
    await source.stop()
    assert (await registry.get(referrers_of(image))).status_code == 503


@pytest.mark.parametrize("status", [500, 429, 403])
async def test_f73_the_last_known_referrers_are_served_with_a_warning(
    status: int, registry: httpx.AsyncClient, source: FakeRegistry, image: FakeImage, clock: Clock
) -> None:
    signature = add_referrer(source, image, SIGNATURE)
    await registry.get(referrers_of(image))
    source.fault("/referrers/", Status(status))
    clock.now += 3_600
    for _ in range(3):
        response = await registry.get(referrers_of(image))
        assert (digests_in(response), *origin(response)) == ([str(signature)], "stale", True)
    # Never asked for by type, but known all the same.
    of_type = await registry.get(referrers_of(image, SBOM))
    assert (digests_in(of_type), *origin(of_type)) == ([], "stale", True)
    assert of_type.headers["oci-filters-applied"] == "artifactType"
    assert digests_in(await registry.get(referrers_of(image, SIGNATURE))) == [str(signature)]
    assert source.count("GET", "/referrers/") == 2


@pytest.mark.parametrize("source_filters", [True, False])
async def test_f73_a_filter_is_applied_and_said_to_be(
    source_filters: bool, registry: httpx.AsyncClient, source: FakeRegistry, image: FakeImage
) -> None:
    signature, sbom = add_referrer(source, image, SIGNATURE), add_referrer(source, image, SBOM)
    if not source_filters:
        everything = (await registry.get(referrers_of(image))).content
        assert digests_in(await registry.get(referrers_of(image))) == [str(signature), str(sbom)]
        source.files[referrers_of(image)] = everything
    response = await registry.get(referrers_of(image, SBOM))
    assert (digests_in(response), response.headers["oci-filters-applied"]) == (
        [str(sbom)],
        "artifactType",
    )


async def test_f73_a_source_that_ignores_the_filter_is_filtered_here(
    registry: httpx.AsyncClient, source: FakeRegistry, image: FakeImage
) -> None:
    listed = [
        {"digest": "sha256:1", "artifactType": SBOM, "x-own": 1},
        {"digest": "sha256:2"},
        {"digest": "sha256:3", "artifactType": SIGNATURE},
    ]
    source.files[referrers_of(image)] = json.dumps(
        {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed, "annotations": {"a": "b"}}
    ).encode()
    response = await registry.get(referrers_of(image, SBOM))
    assert (response.json()["manifests"], response.headers["oci-filters-applied"]) == (
        [listed[0]],
        "artifactType",
    )
    assert response.json()["annotations"] == {"a": "b"}


async def test_f73_f82_a_list_with_a_byte_order_mark_and_odd_entries_passes(
    registry: httpx.AsyncClient, source: FakeRegistry, image: FakeImage
) -> None:
    """What can't be filtered goes to the client whole, which filters itself."""
    listed = [
        {"digest": "sha256:1", "artifactType": SBOM, "size": -1},
        {"digest": "sha256:2", "artifactType": SIGNATURE, "platform": None},
    ]
    content = (
        b"\xef\xbb\xbf"
        + json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed}).encode()
    )
    source.files[referrers_of(image)] = content
    assert (await registry.get(referrers_of(image))).content == content
    of_type = await registry.get(referrers_of(image, SBOM))
    assert (of_type.json()["manifests"], of_type.headers["oci-filters-applied"]) == (
        [listed[0]],
        "artifactType",
    )


async def test_f73_without_a_rule_the_cached_index_is_served_else_the_question_stays_open(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry, image: FakeImage
) -> None:
    other = source.add_image("library/nginx", "2", layers=[20])
    index = Content.of(OCI_INDEX, b'{"schemaVersion":2,"manifests":[]}   ')
    source.add_manifest("library/nginx", index, f"sha256-{image.digest.hex}")
    for tag in ("1", "2", f"sha256-{image.digest.hex}"):
        assert (await registry.get(f"/v2/library/nginx/manifests/{tag}")).status_code == 200
    await engine.rules.delete("example-library")
    requests = len(source.requests)
    response = await registry.get(referrers_of(image))
    assert (response.content, *origin(response)) == (index.content, "stale", True)
    response = await registry.get(referrers_of(other))
    assert response.status_code == 503
    [error] = response.json()["errors"]
    assert error["detail"]["code"] == "ReferrersUnknown"
    assert "its source was not asked" in error["message"]
    assert len(source.requests) == requests
