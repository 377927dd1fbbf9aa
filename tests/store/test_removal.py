"""Removal of evicted images and of what nothing refers to."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from entrepot.core.reference import Digest, Tag
from entrepot.store.catalog import (
    Catalog,
)
from entrepot.store.eviction import ADOPTED_STAYS, NO_USES, plan_eviction
from entrepot.store.plan_watch import uses_of
from entrepot.store.usage import Usage
from tests.store.samples import (
    DEBIAN,
    NGINX,
    SOURCE,
    RemovedBlobs,
    cache_blobs,
    image,
    index,
    reconcile,
    removing,
    sizes_of,
)


async def test_collecting_leaves_a_layer_that_another_image_needs(catalog: Catalog) -> None:
    first, second = image("base", "a"), image("base", "b")
    await catalog.add_manifest(NGINX, SOURCE, first, tags=[Tag("1")], now=1.0)
    await catalog.add_manifest(DEBIAN, SOURCE, second, tags=[Tag("1")], now=1.0)
    await cache_blobs(catalog, first)
    await cache_blobs(catalog, second)
    assert await catalog.delete_repository(NGINX)
    removed = RemovedBlobs()
    assert (await catalog.collect(removed.remove_blobs)).deferred == 0
    assert set(removed) == {Digest.of(b"a"), first.blobs[0].digest}
    assert await catalog.manifest(first.digest) is None
    assert await catalog.manifest(second.digest) is not None
    assert await catalog.blobs_size() == 210


async def test_a_blob_in_use_is_collected_later(catalog: Catalog) -> None:
    manifest = image("a")
    await catalog.add_manifest(NGINX, SOURCE, manifest, now=1.0)
    await cache_blobs(catalog, manifest)
    await catalog.delete_repository(NGINX)
    assert (await catalog.collect(removing(lambda _: False))).deferred == 2
    assert await catalog.blobs_size() == 110
    assert (await catalog.collect(removing(lambda _: True))).deferred == 0
    assert await catalog.blobs_size() == 0


async def test_evicting_removes_tags_index_and_repository_and_keeps_shared_blobs(
    catalog: Catalog,
) -> None:
    first, second = image("base", "a"), image("base", "b")
    both = index(amd64=first)
    await catalog.add_manifest(NGINX, SOURCE, both, tags=[Tag("1")], now=1.0)
    await catalog.add_manifest(NGINX, SOURCE, first, now=1.0)
    await catalog.add_manifest(DEBIAN, SOURCE, second, tags=[Tag("1")], now=2.0)
    await cache_blobs(catalog, first)
    await cache_blobs(catalog, second)
    removed = RemovedBlobs()
    eviction = plan_eviction(await catalog.inventory(), goal=210, now=1000.0)
    [evicted] = await catalog.evict_steps([eviction], remove_blobs=removed.remove_blobs)
    assert [each.manifest.key for each in evicted.plan.images] == [(NGINX, first.digest)]
    assert (evicted.manifests, set(evicted.repositories)) == (2, {NGINX})
    assert (evicted.freed, evicted.deferred) == (110, 0)
    assert set(removed) == {Digest.of(b"a"), first.blobs[0].digest}
    assert await catalog.repository_names() == [DEBIAN]
    assert await catalog.tag(NGINX, Tag("1")) is None
    assert await catalog.manifest(first.digest) is None
    assert await catalog.blobs_size() == 210


@pytest.mark.parametrize(
    "what_happens",
    [
        "asked for",
        "looked at",
        "blob read",
        "locked",
        "tag locked",
        "repository locked",
        "used in memory",
        "nothing",
    ],
)
@pytest.mark.parametrize("is_watched", [True, False])
async def test_what_is_used_or_locked_after_the_plan_stays(
    catalog: Catalog, what_happens: str, is_watched: bool
) -> None:
    manifest = image("a")
    await catalog.add_manifest(NGINX, SOURCE, manifest, tags=[Tag("1")], now=1.0)
    await cache_blobs(catalog, manifest)
    with catalog.watched() as watch:
        eviction = plan_eviction(await catalog.inventory(), goal=0, now=1000.0)
        assert len(eviction.images) == 1
        key = (NGINX, manifest.digest)
        match what_happens:
            case "asked for":
                await catalog.record_usage(Usage({}, {}, {key: 999.0}, {}))
            case "looked at":
                await catalog.record_usage(Usage({}, {}, {}, {}, head_requests={key: 999.0}))
            case "blob read":
                await catalog.record_usage(Usage({}, {}, {}, {manifest.blobs[1].digest: 999.0}))
            case "locked":
                await catalog.lock_manifest(*key, True)
            case "tag locked":
                await catalog.lock_tag(NGINX, Tag("1"), True)
            case "repository locked":
                await catalog.lock_repository(NGINX, True)
        [evicted] = await catalog.evict_steps(
            [eviction],
            watch=watch if is_watched else None,
            uses=lambda: uses_of([key], []) if what_happens == "used in memory" else NO_USES,
            remove_blobs=removing(lambda _: True),
        )
    went = what_happens == "nothing"
    assert (len(evicted.plan.links), evicted.manifests, evicted.freed) == (
        (1, 1, 110) if went else (0, 0, 0)
    )
    assert await catalog.is_cached(NGINX) is not went
    assert await catalog.blobs_size() == (0 if went else 110)


async def test_a_blob_that_a_reader_may_yet_open_goes_later(catalog: Catalog) -> None:
    manifest = image("a")
    await catalog.add_manifest(NGINX, SOURCE, manifest, now=1.0)
    await cache_blobs(catalog, manifest)
    [evicted] = await catalog.evict_steps(
        [plan_eviction(await catalog.inventory(), goal=0, now=1000.0)],
        remove_blobs=removing(lambda digest: digest != Digest.of(b"a")),
    )
    assert (len(evicted.plan.links), evicted.freed, evicted.deferred) == (1, 10, 1)
    assert (await catalog.collect(removing(lambda _: True))).deferred == 0
    assert await catalog.blobs_size() == 0


async def test_a_tag_is_not_pointed_at_what_is_evicted(catalog: Catalog) -> None:
    manifest = image("a")
    await catalog.add_manifest(NGINX, SOURCE, manifest, tags=[Tag("1")], now=1.0)
    assert await catalog.point_tag(NGINX, Tag("2"), manifest.digest, now=2.0)
    await catalog.delete_manifest(NGINX, manifest.digest)
    assert not await catalog.point_tag(NGINX, Tag("2"), manifest.digest, now=3.0)
    assert await catalog.tag(NGINX, Tag("2")) is None


async def test_an_adopted_blob_stays_for_a_day_and_a_manifest_that_comes_uses_it(
    tmp_path: Path,
) -> None:
    """L02: after the loss of the catalog all blobs were adopted, and deleted at once."""
    now = 1_000_000.0
    async with Catalog.open(tmp_path / "catalog.sqlite", clock=lambda: now) as catalog:
        manifest = image("a")
        stray = Digest.of(b"stray")
        assert await reconcile(catalog, {stray: 7, **sizes_of(manifest)}, now=now) == (3, 0)
        assert await catalog.collect(
            removing(lambda _: pytest.fail("an adopted blob was collected"))
        ) == (0, 0)
        await catalog.add_manifest(NGINX, SOURCE, manifest, now=now)
        [repository] = await catalog.repositories()
        assert repository.size == 110 + len(manifest.content)
        assert {
            digest: blob.adopted for digest, blob in (await catalog.inventory()).blobs.items()
        } == {
            stray: now,
            **{each.digest: None for each in manifest.blobs},
        }
        # Needed once, it goes with what needed it.
        await catalog.delete_repository(NGINX)
        removed = RemovedBlobs()
        assert (await catalog.collect(removed.remove_blobs)).deferred == 0
        assert set(removed) == {each.digest for each in manifest.blobs}
        now += ADOPTED_STAYS
        assert (await catalog.collect(removed.remove_blobs)).deferred == 0
        assert removed[-1] == stray


async def test_a_blob_that_was_adopted_while_the_clock_was_ahead_does_not_stay_for_ever(
    catalog: Catalog,
) -> None:
    stray = Digest.of(b"stray")
    await reconcile(catalog, {stray: 7}, now=time.time() + 10 * ADOPTED_STAYS)
    assert (await catalog.collect(removing(lambda _: True))).deferred == 0
    assert await catalog.blobs_size() == 0


async def test_adopted_blobs_go_first_when_room_is_needed(catalog: Catalog) -> None:
    """L02."""
    manifest, stray = image("a"), Digest.of(b"stray")
    now = time.time()
    await catalog.add_manifest(NGINX, SOURCE, manifest, now=now - 1000)
    await reconcile(catalog, {stray: 7, **sizes_of(manifest)}, now=now - 1000)
    eviction = plan_eviction(await catalog.inventory(), goal=110, now=now)
    assert (eviction.images, eviction.adopted, eviction.adopted_size, eviction.remaining) == (
        (),
        (stray,),
        7,
        110,
    )
    [evicted] = await catalog.evict_steps([eviction], remove_blobs=removing(lambda _: True))
    assert (evicted.freed, await catalog.blobs_size()) == (7, 110)
