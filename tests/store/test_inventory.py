"""The inventory of the cache, read from the catalog."""

from __future__ import annotations

import pytest

from entrepot.core.reference import Digest, Tag
from entrepot.store import inventory_reading
from entrepot.store.catalog import Catalog
from entrepot.store.eviction import InventoryBlob
from entrepot.store.inventory import Key
from entrepot.store.usage import Usage
from tests.store.samples import DEBIAN, NGINX, SOURCE, cache_blobs, image, index, sizes_of


@pytest.mark.parametrize("sparsity", [0, 8])
async def test_the_inventory_has_the_cached_manifests_and_blobs(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, sparsity: int
) -> None:
    monkeypatch.setattr(inventory_reading, "MAX_SPARSITY", sparsity)
    amd, arm = image("base", "amd"), image("base", "arm")
    both = index(amd64=amd, arm64=arm)
    await catalog.add_manifest(NGINX, SOURCE, both, tags=[Tag("1"), Tag("2")], now=1.0)
    await catalog.add_manifest(NGINX, SOURCE, amd, now=2.0)
    await catalog.add_manifest(DEBIAN, SOURCE, amd, tags=[Tag("x")], now=3.0)
    await cache_blobs(catalog, amd)
    await catalog.lock_repository(DEBIAN, True)
    await catalog.lock_tag(NGINX, Tag("2"), True)
    await catalog.record_usage(
        Usage(
            {},
            {},
            {(NGINX, amd.digest): 10.0},
            {amd.blobs[0].digest: 11.0},
            head_requests={(NGINX, both.digest): 12.0},
        )
    )
    inventory = await catalog.inventory()
    assert inventory.blobs == {
        digest: InventoryBlob(size, 11.0 if digest == amd.blobs[0].digest else 1.0)
        for digest, size in sizes_of(amd).items()
    }
    manifests = {
        each.key: (
            each.platform,
            each.last_requested,
            each.locked,
            each.tags,
            each.children,
            set(each.blobs),
        )
        for each in inventory.manifests
    }
    locked_manifests = {each.digest for each in amd.blobs}
    assert manifests == {
        (NGINX, both.digest): (None, 12.0, True, ("1", "2"), (amd.digest,), set()),
        (NGINX, amd.digest): ("linux/amd64", 10.0, False, (), (), locked_manifests),
        # S08: no index of its own names a platform for it.
        (DEBIAN, amd.digest): (None, 3.0, True, ("x",), (), locked_manifests),
    }
    assert await catalog.manifests_with([amd.blobs[0].digest]) == {
        (NGINX, amd.digest),
        (DEBIAN, amd.digest),
    }


@pytest.mark.parametrize("sparsity", [0, 8])
async def test_blobs_are_found_however_far_apart_their_rows_are(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, sparsity: int
) -> None:
    monkeypatch.setattr(inventory_reading, "MAX_SPARSITY", sparsity)
    gone, manifest = image("gone"), image("base", "a", "b", "a")
    await cache_blobs(catalog, gone)
    await cache_blobs(catalog, manifest)
    for blob in gone.blobs:
        await catalog.remove_blob(blob.digest)
    await catalog.add_manifest(NGINX, SOURCE, manifest, now=1.0)
    inventory = await catalog.inventory()
    [only] = inventory.manifests
    assert sorted(only.blobs) == sorted({blob.digest for blob in manifest.blobs})
    assert {digest: blob.size for digest, blob in inventory.blobs.items()} == sizes_of(manifest)


async def test_blobs_of_sha512_are_in_the_inventory_beside_those_of_sha256(
    catalog: Catalog,
) -> None:
    digests = [
        Digest.of(content, algorithm)
        for content, algorithm in ((b"a", "sha256"), (b"b", "sha512"), (b"c", "sha256"))
    ]
    for digest in digests:
        await catalog.add_blob(digest, 7, now=1.0)
    assert list((await catalog.inventory()).blobs) == digests


async def test_a_manifest_that_is_cached_as_a_blob_too_is_no_blob_of_its_index(
    catalog: Catalog,
) -> None:
    amd = image("base", "amd")
    both = index(amd64=amd)
    for manifest in (amd, both):
        await catalog.add_manifest(NGINX, SOURCE, manifest, now=1.0)
    await cache_blobs(catalog, amd)
    await catalog.add_blob(amd.digest, len(amd.content), now=1.0)
    blobs = {each.digest: set(each.blobs) for each in (await catalog.inventory()).manifests}
    assert blobs == {both.digest: set(), amd.digest: {blob.digest for blob in amd.blobs}}


async def test_what_locks_a_manifest_is_its_lock_or_that_of_its_tag_or_repository(
    catalog: Catalog,
) -> None:
    tagged, plain = image("tagged"), image("plain")
    for repository in (NGINX, DEBIAN):
        await catalog.add_manifest(repository, SOURCE, tagged, tags=[Tag("1")], now=1.0)
        await catalog.add_manifest(repository, SOURCE, plain, now=1.0)

    async def locked() -> set[Key]:
        return {each.key for each in (await catalog.inventory()).manifests if each.locked}

    assert await locked() == set()
    await catalog.lock_tag(NGINX, Tag("1"), True)
    assert await locked() == {(NGINX, tagged.digest)}
    await catalog.lock_manifest(NGINX, plain.digest, True)
    assert await locked() == {(NGINX, tagged.digest), (NGINX, plain.digest)}
    await catalog.lock_repository(DEBIAN, True)
    assert await locked() == {
        (repository, manifest.digest)
        for repository in (NGINX, DEBIAN)
        for manifest in (tagged, plain)
    }


async def test_the_lineage_of_a_manifest_is_all_that_leads_to_it_in_its_repository(
    catalog: Catalog,
) -> None:
    amd, arm = image("base", "amd"), image("base", "arm")
    both = index(amd64=amd, arm64=arm)
    outer = index(nested=both)
    for repository in (NGINX, DEBIAN):
        for manifest in (outer, both, amd, arm):
            await catalog.add_manifest(repository, SOURCE, manifest, tags=[Tag("1")], now=1.0)
    await catalog.add_manifest(DEBIAN, SOURCE, index(other=amd), now=1.0)
    lineage = await catalog.lineage([(NGINX, amd.digest)])
    assert {each.key: set(each.children) for each in lineage} == {
        (NGINX, amd.digest): set(),
        (NGINX, both.digest): {amd.digest, arm.digest},
        (NGINX, outer.digest): {both.digest},
    }
