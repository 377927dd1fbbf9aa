"""The catalog: what is recorded appears together or not at all, and survives a restart."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from entrepot.core.reference import Digest, Tag
from entrepot.store.catalog import Catalog, Locks
from entrepot.store.manifests import Manifest
from entrepot.store.records import BlobOrigin, BlobRecord, TagEntry
from entrepot.store.rows import reference_rows
from tests.store.samples import DEBIAN, NGINX, SOURCE, blobs_of, cache_blobs, image, reconcile
from tests.store.statements import recorded_reads


async def test_a_manifest_comes_back_byte_for_byte(catalog: Catalog) -> None:
    manifest = image("a", "b")
    await catalog.add_manifest(NGINX, SOURCE, manifest, tags=[Tag("1.27")], now=5.0)
    manifest_read = await catalog.manifest(manifest.digest)
    assert manifest_read == manifest
    assert await catalog.tag(NGINX, Tag("1.27")) == TagEntry(
        manifest.digest, cached=5.0, checked=5.0
    )
    assert await catalog.manifests_of(NGINX) == {manifest.digest}
    assert set(await blobs_of(catalog, NGINX)) == {each.digest for each in manifest.blobs}


async def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    manifest = image("a")
    async with Catalog.open(tmp_path / "catalog.sqlite") as catalog:
        await catalog.add_manifest(NGINX, SOURCE, manifest, tags=[Tag("1")], now=5.0)
        await cache_blobs(catalog, manifest)
    async with Catalog.open(tmp_path / "catalog.sqlite") as catalog:
        assert await catalog.manifest(manifest.digest) == manifest
        assert [each.name for each in await catalog.repositories()] == [NGINX]
        assert await catalog.blobs_size() == 110


async def test_a_manifest_of_one_repository_does_not_belong_to_another(catalog: Catalog) -> None:
    await catalog.add_manifest(NGINX, SOURCE, image("a"), now=1.0)
    assert await catalog.manifests_of(DEBIAN) == frozenset()
    assert await blobs_of(catalog, DEBIAN) == {}


async def test_checking_a_tag_keeps_since_when_it_is_cached_and_moving_it_does_not(
    catalog: Catalog,
) -> None:
    old, new = image("a"), image("b")
    await catalog.add_manifest(NGINX, SOURCE, old, tags=[Tag("latest")], now=1.0)
    await catalog.mark_tag_gone(NGINX, Tag("latest"), now=2.0)
    assert await catalog.tag(NGINX, Tag("latest")) == TagEntry(
        old.digest, cached=1.0, checked=2.0, gone=True
    )
    await catalog.point_tag(NGINX, Tag("latest"), old.digest, now=3.0)
    assert await catalog.tag(NGINX, Tag("latest")) == TagEntry(old.digest, cached=1.0, checked=3.0)
    await catalog.add_manifest(NGINX, SOURCE, new, tags=[Tag("latest")], now=4.0)
    assert await catalog.tag(NGINX, Tag("latest")) == TagEntry(new.digest, cached=4.0, checked=4.0)
    assert await catalog.manifests_of(NGINX) == {old.digest, new.digest}


async def test_the_platform_of_an_image_without_an_index_is_written_down_later(
    catalog: Catalog,
) -> None:
    manifest = image("a")
    await catalog.add_manifest(NGINX, SOURCE, manifest, tags=[Tag("1")], now=1.0)
    await cache_blobs(catalog, manifest)
    await catalog.set_platform(NGINX, manifest.digest, "linux/riscv64")
    [tag] = await catalog.tags(NGINX)
    assert tag.platforms == ("linux/riscv64",)


async def test_deleting_the_last_manifest_deletes_the_repository(catalog: Catalog) -> None:
    manifest = image("a")
    await catalog.add_manifest(NGINX, SOURCE, manifest, tags=[Tag("1")], now=1.0)
    assert await catalog.delete_manifest(NGINX, manifest.digest)
    assert not await catalog.is_cached(NGINX)
    assert await catalog.tag(NGINX, Tag("1")) is None
    assert not await catalog.delete_manifest(NGINX, manifest.digest)


async def test_deleting_a_tag_keeps_its_manifest(catalog: Catalog) -> None:
    manifest = image("a")
    await catalog.add_manifest(NGINX, SOURCE, manifest, tags=[Tag("1")], now=1.0)
    assert await catalog.delete_tag(NGINX, Tag("1"))
    assert not await catalog.delete_tag(NGINX, Tag("1"))
    assert await catalog.manifests_of(NGINX) == {manifest.digest}


async def test_a_blob_that_comes_again_corrects_the_size_of_its_row(catalog: Catalog) -> None:
    """A file that was cut before it was adopted has a row with a wrong size."""
    manifest = image("a")
    await catalog.add_manifest(NGINX, SOURCE, manifest, now=1.0)
    digest = Digest.of(b"a")
    assert await reconcile(catalog, {digest: 5}, now=1.0) == (1, 0)
    assert not await catalog.add_blob(digest, 100, now=2.0)
    assert (await catalog.blobs_size(), (await catalog.repositories(NGINX))[0].size) == (
        100,
        100 + len(manifest.content),
    )


async def test_s20_the_origin_of_a_blob_is_recorded_and_removed_with_it(catalog: Catalog) -> None:
    digest = Digest.of(b"a")
    hub, secret = BlobOrigin("docker.io", True), BlobOrigin("secret.example", True)
    await catalog.add_blob_origin(digest, hub)
    assert await catalog.add_blob(digest, 100, now=1.0, origin=hub)
    assert await catalog.blob(digest) == BlobRecord(100, frozenset({hub}))
    await catalog.add_blob_origin(digest, secret)
    assert not await catalog.add_blob(digest, 100, now=2.0, origin=hub)
    record = await catalog.blob(digest)
    assert record == BlobRecord(100, frozenset({hub, secret}))
    assert (
        record.is_public,
        record.may_be_served_for({"docker.io"}),
        record.may_be_served_for({"ghcr.io"}),
        record.may_be_served_for(()),
    ) == (False, True, False, False)
    # Without credentials it is public, and stays so.
    await catalog.add_blob_origin(digest, BlobOrigin("docker.io", False))
    await catalog.add_blob_origin(digest, hub)
    record = await catalog.blob(digest)
    assert record == BlobRecord(100, frozenset({BlobOrigin("docker.io", False), secret}))
    assert (record.is_public, record.may_be_served_for(())) == (True, True)
    await catalog.remove_blob(digest)
    assert await catalog.add_blob(digest, 100, now=3.0)
    assert await catalog.blob(digest) == BlobRecord(100)


async def test_cached_blobs_are_listed_page_by_page(catalog: Catalog) -> None:
    sizes = {Digest.of(bytes([number])): number for number in range(1, 6)}
    for digest, size in sizes.items():
        await catalog.add_blob(digest, size, now=1.0)
    listed: list[tuple[Digest, int]] = []
    while page := await catalog.blobs_after(listed[-1][0] if listed else None, 2):
        listed += page
    assert (dict(listed), len(listed), await catalog.blobs_count()) == (sizes, 5, 5)


async def test_locks_are_kept_over_a_restart_and_taken_away(tmp_path: Path) -> None:
    manifest = image("a")
    async with Catalog.open(tmp_path / "catalog.sqlite") as catalog:
        assert not await catalog.lock_repository(NGINX, True)
        await catalog.add_manifest(NGINX, SOURCE, manifest, tags=[Tag("1")], now=1.0)
        assert await catalog.lock_repository(NGINX, True)
        assert await catalog.lock_tag(NGINX, Tag("1"), True)
        assert await catalog.lock_manifest(NGINX, manifest.digest, True)
        assert not await catalog.lock_tag(NGINX, Tag("2"), True)
        assert not await catalog.lock_manifest(DEBIAN, manifest.digest, True)
    async with Catalog.open(tmp_path / "catalog.sqlite") as catalog:
        assert await catalog.locks(NGINX) == Locks(
            True, frozenset({Tag("1")}), frozenset({manifest.digest})
        )
        assert [each.locked for each in await catalog.manifests(NGINX)] == [True]
        await catalog.lock_repository(NGINX, False)
        await catalog.lock_tag(NGINX, Tag("1"), False)
        await catalog.lock_manifest(NGINX, manifest.digest, False)
        assert await catalog.locks(NGINX) == Locks(False, frozenset(), frozenset())


async def test_locks_are_read_from_indexes_of_what_is_locked(catalog: Catalog) -> None:
    await catalog.add_manifest(NGINX, SOURCE, image("a"), tags=[Tag("1")], now=1.0)
    with recorded_reads(catalog) as statements:
        await catalog.locks(NGINX)
    plan = " ".join(step for statement in statements for step in statement.plan())
    assert "USING COVERING INDEX locked_tags" in plan
    assert "USING COVERING INDEX locked_manifests" in plan


async def test_a_lock_goes_with_its_tag(catalog: Catalog) -> None:
    old, new = image("a"), image("b")
    await catalog.add_manifest(NGINX, SOURCE, old, tags=[Tag("latest")], now=1.0)
    await catalog.lock_tag(NGINX, Tag("latest"), True)
    await catalog.add_manifest(NGINX, SOURCE, new, tags=[Tag("latest")], now=2.0)
    assert {each.digest: each.locked for each in await catalog.inventory_manifests(NGINX)} == {
        old.digest: False,
        new.digest: True,
    }


async def test_the_rows_of_a_large_manifest_are_prepared_in_a_thread(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S23: 80,000 layers stopped it for 1.7 s."""
    threads: list[bool] = []

    def rows(manifest: Manifest) -> list[dict[str, Any]]:
        threads.append(threading.current_thread() is threading.main_thread())
        return reference_rows(manifest)

    monkeypatch.setattr("entrepot.store.catalog.reference_rows", rows)
    large = image(*(str(number) for number in range(2_000)))
    await catalog.add_manifest(NGINX, SOURCE, large, now=1.0)
    assert threads == [False]
    assert await blobs_of(catalog, NGINX) == {each.digest: each for each in large.blobs}
