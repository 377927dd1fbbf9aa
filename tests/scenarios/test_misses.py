"""L14: what is not there costs the source one request and the catalog one read, however often it is
requested, and is there as soon as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import httpx
import pytest

from entrepot.cache.failures import manifest_key
from entrepot.core.reference import Digest, Repository, Tag
from entrepot.core.rules import RuleDraft
from entrepot.engine.engine import Engine
from entrepot.source.errors import SourceNotFound
from tests.cache.conftest import counted_reads
from tests.conftest import LOGIN_SERVER, Clock
from tests.engine.waiting import ended
from tests.fakes import FakeRegistry, Status
from tests.fakes.images import FakeImage

NGINX = Repository("library/nginx")
AMD64 = "linux/amd64"
UNKNOWN = Digest.of(b"unknown")

MISSES = {
    "tag": "library/nginx/manifests/none",
    "digest": f"library/nginx/manifests/{UNKNOWN}",
    "blob": f"library/nginx/blobs/{UNKNOWN}",
    "repository": "library/none/manifests/1",
    "blob of a repository": f"library/none/blobs/{UNKNOWN}",
}

WITHOUT_RULE = {
    "repository": "none/app/manifests/1",
    "digest": f"none/app/manifests/{UNKNOWN}",
    "blob": f"none/app/blobs/{UNKNOWN}",
    "tag of a cached repository": "library/nginx/manifests/none",
    "digest of a cached repository": f"library/nginx/manifests/{UNKNOWN}",
    "blob of a cached repository": f"library/nginx/blobs/{UNKNOWN}",
}


@pytest.fixture
async def cached_image(
    registry: httpx.AsyncClient, source: FakeRegistry, engine: Engine
) -> FakeImage:
    """An image of which index and manifest are cached, in an engine with nothing else to do."""
    image = source.add_image(NGINX, "1")
    for reference in ("1", image.platforms[AMD64].digest):
        response = await get(registry, f"{NGINX}/manifests/{reference}")
        assert response.status_code == 200
    source.requests.clear()
    # Behind that of the start, whose end has the index read the catalog once more.
    await engine.maintenance.reconcile()
    return image


async def get(
    registry: httpx.AsyncClient, path: str, method: str = "GET", count: int = 1
) -> httpx.Response:
    """The last of *count* responses, all of which have the same status and body."""
    responses = await asyncio.gather(
        *(registry.request(method, f"/v2/{path}", headers={"Accept": "*/*"}) for _ in range(count))
    )
    assert len({(response.status_code, response.content) for response in responses}) == 1
    return responses[-1]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("miss", MISSES)
async def test_what_the_source_does_not_have_is_asked_for_once(
    miss: str,
    method: str,
    registry: httpx.AsyncClient,
    source: FakeRegistry,
    engine: Engine,
    cached_image: FakeImage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reads = counted_reads(engine.catalog, monkeypatch)
    for count in (100, 500, 500):
        assert (await get(registry, MISSES[miss], method, count)).status_code == 404
        assert (len(source.requests), len(reads)) == (1, 1)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("miss", WITHOUT_RULE)
async def test_without_a_rule_the_catalog_is_asked_once(
    miss: str,
    method: str,
    registry: httpx.AsyncClient,
    source: FakeRegistry,
    engine: Engine,
    cached_image: FakeImage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await engine.rules.delete("example-library")
    reads = counted_reads(engine.catalog, monkeypatch)
    for count in (100, 500, 500):
        assert (await get(registry, WITHOUT_RULE[miss], method, count)).status_code == 404
        assert (len(source.requests), len(reads)) == (0, 1)


async def test_a_failure_ends_with_its_lifetime_and_what_came_meanwhile_is_served(
    registry: httpx.AsyncClient,
    source: FakeRegistry,
    engine: Engine,
    clock: Clock,
    cached_image: FakeImage,
) -> None:
    path = f"{NGINX}/manifests/2"
    assert (await get(registry, path)).status_code == 404
    image = source.add_image(NGINX, "2")
    clock.now += engine.settings.negative_freshness - 0.1
    assert (await get(registry, path)).status_code == 404
    clock.now += 0.1
    response = await get(registry, path)
    assert (response.status_code, response.content) == (200, image.manifest.content)


@pytest.mark.parametrize("forgets", [False, True])
async def test_a_remembered_failure_hides_nothing_that_a_pull_brings(
    forgets: bool,
    registry: httpx.AsyncClient,
    source: FakeRegistry,
    engine: Engine,
    cached_image: FakeImage,
) -> None:
    new = source.add_image(NGINX, "2", [b"a layer of its own"], [AMD64], index=False).platforms[
        AMD64
    ]
    paths = [
        f"{NGINX}/manifests/2",
        f"{NGINX}/manifests/{new.digest}",
        f"{NGINX}/blobs/{new.layers[0].digest}",
    ]
    for path in paths:
        source.fault(path, Status(404, times=1))
        assert (await get(registry, path)).status_code == 404
    await ended(engine, await engine.pulls.start(f"{NGINX}:2", AMD64, "test"))
    if forgets:
        engine.cache.index.invalidate(NGINX)
    for path in paths:
        assert (await get(registry, path, count=2)).status_code == 200


async def test_a_404_that_comes_after_the_manifest_does_not_hide_it(
    registry: httpx.AsyncClient, engine: Engine, cached_image: FakeImage
) -> None:
    """The source was asked for it by its digest, and sent it meanwhile by its tag."""
    failures, route = engine.cache._failures, engine.routing.route(NGINX)
    assert route is not None
    for reference in (Tag("1"), Digest.parse(str(cached_image.manifest.digest))):
        failures.failed(NGINX, manifest_key(reference), SourceNotFound("None."), route)
        assert (await get(registry, f"{NGINX}/manifests/{reference}")).status_code == 200


# What changes the catalog


async def test_what_a_new_rule_leads_to_is_there_at_once(
    registry: httpx.AsyncClient, source: FakeRegistry, engine: Engine
) -> None:
    source.add_image("team/app", "1")
    path = "other/app/manifests/1"
    refused = await get(registry, path)
    assert refused.json()["errors"][0]["code"] == "NAME_UNKNOWN"
    await engine.rules.create(RuleDraft("other-rule", f"{LOGIN_SERVER}/team/*", "other/*"))
    assert (await get(registry, path)).status_code == 200


async def delete_repository(engine: Engine, image: FakeImage) -> None:
    await engine.repositories.delete(NGINX)


async def delete_manifest(engine: Engine, image: FakeImage) -> None:
    await engine.repositories.delete_manifest(NGINX, Digest.parse(str(image.manifest.digest)))
    await engine.repositories.delete_manifest(
        NGINX, Digest.parse(str(image.platforms[AMD64].digest))
    )


async def evict(engine: Engine, image: FakeImage) -> None:
    await engine.maintenance.evict(target=0)


@pytest.mark.parametrize("remove", [delete_repository, delete_manifest, evict])
async def test_what_is_removed_is_unknown_at_once_and_comes_again(
    remove: Callable[[Engine, FakeImage], Awaitable[None]],
    registry: httpx.AsyncClient,
    source: FakeRegistry,
    engine: Engine,
    clock: Clock,
    cached_image: FakeImage,
) -> None:
    paths = [
        f"{NGINX}/manifests/1",
        f"{NGINX}/manifests/{cached_image.manifest.digest}",
        f"{NGINX}/manifests/{cached_image.platforms[AMD64].digest}",
    ]
    clock.now += 3600
    await remove(engine, cached_image)
    await engine.rules.delete("example-library")
    for path in paths:
        response = await get(registry, path, count=2)
        assert response.json()["errors"][0]["code"] == "NAME_UNKNOWN"
    await engine.rules.create(
        RuleDraft("example-library", f"{LOGIN_SERVER}/library/*", "library/*")
    )
    for path in paths:
        assert (await get(registry, path)).headers["entrepot-origin"] == (
            "cache" if path == paths[1] else "upstream"
        )


async def test_a_deleted_tag_is_asked_for_at_its_source_again(
    registry: httpx.AsyncClient, source: FakeRegistry, engine: Engine, cached_image: FakeImage
) -> None:
    await engine.repositories.delete_tag(NGINX, "1")
    source.remove_tag(NGINX, "1")
    assert (await get(registry, f"{NGINX}/manifests/1")).status_code == 404
    assert len(source.requests) == 1


async def test_reconciling_with_the_disk_changes_nothing_of_what_is_known(
    registry: httpx.AsyncClient, source: FakeRegistry, engine: Engine, cached_image: FakeImage
) -> None:
    for path in (*MISSES.values(), *MISSES.values()):
        assert (await get(registry, path)).status_code == 404
    await engine.maintenance.reconcile()
    for path in MISSES.values():
        assert (await get(registry, path)).status_code == 404
    assert len(source.requests) == len(MISSES)
    assert (await get(registry, f"{NGINX}/manifests/1")).headers["entrepot-origin"] == "cache"
