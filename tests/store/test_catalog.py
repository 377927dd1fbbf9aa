"""The catalog: what is known appears together or not at all, and survives a restart."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from entrepot.core.media_types import OCI_INDEX, OCI_MANIFEST
from entrepot.core.reference import Digest, Repository, Tag
from entrepot.errors import EngineError
from entrepot.store.catalog import (
    BlobOrigin,
    BlobRecord,
    Catalog,
    CatalogFailed,
    Locks,
    TagEntry,
    Usage,
)
from entrepot.store.eviction import ADOPTED_STAYS, InventoryBlob, PlannedImage, plan_eviction
from entrepot.store.manifests import Manifest
from entrepot.store.rows import reference_rows
from entrepot.store.schema import SCHEMA_VERSION

NGINX = Repository("library/nginx")
DEBIAN = Repository("library/debian")
SOURCE = "docker.io/library/nginx"


def descriptor(name: str, size: int, **more: Any) -> dict[str, Any]:
    return {
        "mediaType": "application/octet-stream",
        "digest": str(Digest.of(name.encode())),
        "size": size,
        **more,
    }


def image(*layers: str) -> Manifest:
    content = json.dumps(
        {
            "schemaVersion": 2,
            "config": descriptor(f"config of {layers}", 10),
            "layers": [descriptor(each, 100) for each in layers],
        }
    ).encode()
    return Manifest.of(content, OCI_MANIFEST, Digest.of(content))


def index(**images: Manifest) -> Manifest:
    listed = [
        {
            "mediaType": OCI_MANIFEST,
            "digest": str(each.digest),
            "size": len(each.content),
            "platform": {"os": "linux", "architecture": name},
        }
        for name, each in images.items()
    ]
    content = json.dumps({"schemaVersion": 2, "manifests": listed}).encode()
    return Manifest.of(content, OCI_INDEX, Digest.of(content))


@pytest.fixture
async def catalog(tmp_path: Path) -> AsyncIterator[Catalog]:
    async with Catalog.open(tmp_path / "catalog.sqlite") as catalog:
        yield catalog


def sizes_of(manifest: Manifest) -> dict[Digest, int]:
    """The blobs of a manifest whose sizes it states."""
    return {blob.digest: blob.size for blob in manifest.blobs if blob.size is not None}


class RemovedBlobs(list[Digest]):
    """The blobs that a collection removed, as the callback that the catalog asks."""

    def remove_blob(self, digest: Digest) -> bool:
        self.append(digest)
        return True


async def hold(catalog: Catalog, manifest: Manifest) -> None:
    for digest, size in sizes_of(manifest).items():
        await catalog.add_blob(digest, size, now=1.0)


async def test_a_manifest_comes_back_byte_for_byte(catalog: Catalog) -> None:
    manifest = image("a", "b")
    await catalog.add_manifest(NGINX, SOURCE, manifest, tags=[Tag("1.27")], now=5.0)
    found = await catalog.manifest(manifest.digest)
    assert found == manifest
    assert await catalog.tag(NGINX, Tag("1.27")) == TagEntry(
        manifest.digest, cached=5.0, checked=5.0
    )
    assert await catalog.manifests_of(NGINX) == {manifest.digest}
    assert set(await catalog.blobs_of(NGINX)) == {each.digest for each in manifest.blobs}


async def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    manifest = image("a")
    async with Catalog.open(tmp_path / "catalog.sqlite") as catalog:
        await catalog.add_manifest(NGINX, SOURCE, manifest, tags=[Tag("1")], now=5.0)
        await hold(catalog, manifest)
    async with Catalog.open(tmp_path / "catalog.sqlite") as catalog:
        assert await catalog.manifest(manifest.digest) == manifest
        assert [each.name for each in await catalog.repositories()] == [NGINX]
        assert await catalog.blobs_size() == 110


async def test_a_manifest_of_one_repository_does_not_belong_to_another(catalog: Catalog) -> None:
    await catalog.add_manifest(NGINX, SOURCE, image("a"), now=1.0)
    assert await catalog.manifests_of(DEBIAN) == frozenset()
    assert await catalog.blobs_of(DEBIAN) == {}


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


async def test_a_repository_counts_each_held_blob_once_and_none_that_is_not_held(
    catalog: Catalog,
) -> None:
    first, second = image("base", "a"), image("base", "b")
    await catalog.add_manifest(NGINX, SOURCE, first, tags=[Tag("1")], now=1.0)
    await catalog.add_manifest(NGINX, SOURCE, second, tags=[Tag("2")], now=2.0)
    await hold(catalog, first)
    [found] = await catalog.repositories()
    assert (found.tags, found.manifests) == (2, 2)
    assert found.size == 10 + 100 + 100 + len(first.content) + len(second.content)
    assert await catalog.repositories(DEBIAN) == []


async def test_a_tag_names_only_the_platforms_that_are_held(catalog: Catalog) -> None:
    amd, arm = image("amd"), image("arm")
    both = index(amd64=amd, arm64=arm)
    await catalog.add_manifest(NGINX, SOURCE, both, tags=[Tag("1.27")], now=1.0)
    await catalog.add_manifest(NGINX, SOURCE, arm, now=1.0)
    await hold(catalog, arm)
    [tag] = await catalog.tags(NGINX)
    assert tag.platforms == ("linux/arm64",)
    assert tag.size == 110 + len(arm.content) + len(both.content)


async def test_the_platform_of_an_image_without_an_index_is_written_down_later(
    catalog: Catalog,
) -> None:
    manifest = image("a")
    await catalog.add_manifest(NGINX, SOURCE, manifest, tags=[Tag("1")], now=1.0)
    await hold(catalog, manifest)
    await catalog.set_platform(NGINX, manifest.digest, "linux/riscv64")
    [tag] = await catalog.tags(NGINX)
    assert tag.platforms == ("linux/riscv64",)


async def test_a_manifest_lists_its_tags(catalog: Catalog) -> None:
    manifest = image("a")
    await catalog.add_manifest(NGINX, SOURCE, manifest, tags=[Tag("1"), Tag("1.27")], now=1.0)
    [listed] = await catalog.manifests(NGINX)
    assert (listed.digest, listed.tags, listed.size) == (
        manifest.digest,
        ("1", "1.27"),
        len(manifest.content),
    )


async def test_use_is_added_up(catalog: Catalog) -> None:
    manifest = image("a")
    await catalog.add_manifest(NGINX, SOURCE, manifest, tags=[Tag("1")], now=1.0)
    for when in (10.0, 20.0):
        await catalog.record_usage(
            Usage(
                pulls={NGINX: (2, when)},
                tags={(NGINX, Tag("1")): when},
                manifests={(NGINX, manifest.digest): when},
                blobs={manifest.digest: when},
            )
        )
    [repository] = await catalog.repositories()
    assert (repository.pulls, repository.last_pull) == (4, 20.0)
    [tag] = await catalog.tags(NGINX)
    assert tag.last_pull == 20.0
    [listed] = await catalog.manifests(NGINX)
    assert listed.last_pull == 20.0


async def test_collecting_leaves_a_layer_that_another_image_needs(catalog: Catalog) -> None:
    first, second = image("base", "a"), image("base", "b")
    await catalog.add_manifest(NGINX, SOURCE, first, tags=[Tag("1")], now=1.0)
    await catalog.add_manifest(DEBIAN, SOURCE, second, tags=[Tag("1")], now=1.0)
    await hold(catalog, first)
    await hold(catalog, second)
    assert await catalog.delete_repository(NGINX)
    removed = RemovedBlobs()
    assert await catalog.collect(removed.remove_blob) == 0
    assert set(removed) == {Digest.of(b"a"), first.blobs[0].digest}
    assert await catalog.manifest(first.digest) is None
    assert await catalog.manifest(second.digest) is not None
    assert await catalog.blobs_size() == 210


async def test_a_blob_in_use_is_collected_later(catalog: Catalog) -> None:
    manifest = image("a")
    await catalog.add_manifest(NGINX, SOURCE, manifest, now=1.0)
    await hold(catalog, manifest)
    await catalog.delete_repository(NGINX)
    assert await catalog.collect(lambda _: False) == 2
    assert await catalog.blobs_size() == 110
    assert await catalog.collect(lambda _: True) == 0
    assert await catalog.blobs_size() == 0


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


async def test_the_rows_follow_the_files(catalog: Catalog) -> None:
    await catalog.add_blob(Digest.of(b"file is gone"), 7, now=1.0)
    await catalog.add_blob(Digest.of(b"both"), 8, now=1.0)
    assert await catalog.reconcile(
        {Digest.of(b"both"): 8, Digest.of(b"row is missing"): 9}, now=2.0
    ) == (1, 1)
    assert await catalog.blobs_size() == 17


async def test_s17_what_came_or_went_since_the_files_were_walked_is_looked_at_again(
    catalog: Catalog,
) -> None:
    came, went, adopted, unclear = (
        Digest.of(each) for each in (b"came", b"went", b"adopted", b"unclear")
    )
    walked = {went: 4, adopted: 7}
    await catalog.add_blob(came, 5, now=1.0)
    await catalog.add_blob(unclear, 6, now=1.0)

    def look(digest: Digest) -> int | None:
        if digest == unclear:
            raise PermissionError
        return {came: 5, adopted: 7}.get(digest)

    assert await catalog.reconcile(walked, now=2.0, stat_size=look) == (1, 0)
    assert [digest for digest, _ in sorted(await catalog.blobs_after(None, 10))] == sorted(
        [came, adopted, unclear]
    )
    assert await catalog.blob(went) is None


async def test_l01_a_row_whose_file_has_another_size_goes_with_its_file(catalog: Catalog) -> None:
    damaged, right_by_now = Digest.of(b"damaged"), Digest.of(b"right by now")
    manifest = image("damaged")
    await catalog.add_manifest(NGINX, SOURCE, manifest, now=1.0)
    await catalog.add_blob(damaged, 100, now=1.0)
    await catalog.add_blob(right_by_now, 100, now=1.0)
    offered: list[tuple[Digest, int]] = []

    def remove_damaged(digest: Digest, size: int) -> bool:
        offered.append((digest, size))
        return digest == damaged

    assert await catalog.reconcile(
        {damaged: 5, right_by_now: 6}, now=2.0, remove_damaged=remove_damaged
    ) == (0, 0)
    assert sorted(offered) == sorted([(damaged, 100), (right_by_now, 100)])
    assert (await catalog.blob(damaged), await catalog.blob(right_by_now)) == (
        None,
        BlobRecord(100),
    )
    assert (await catalog.repositories(NGINX))[0].size == len(manifest.content)


async def test_a_blob_that_comes_again_corrects_the_size_of_its_row(catalog: Catalog) -> None:
    """A file that was cut before it was adopted has a row with a wrong size."""
    manifest = image("a")
    await catalog.add_manifest(NGINX, SOURCE, manifest, now=1.0)
    digest = Digest.of(b"a")
    assert await catalog.reconcile({digest: 5}, now=1.0) == (1, 0)
    assert not await catalog.add_blob(digest, 100, now=2.0)
    assert (await catalog.blobs_size(), (await catalog.repositories(NGINX))[0].size) == (
        100,
        100 + len(manifest.content),
    )


# Who gave a blob: S20


async def test_s20_it_is_recorded_who_gave_a_blob_and_goes_with_it(catalog: Catalog) -> None:
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
        record.opens_for({"docker.io"}),
        record.opens_for({"ghcr.io"}),
        record.opens_for(()),
    ) == (False, True, False, False)
    # Without credentials it is public, and stays so.
    await catalog.add_blob_origin(digest, BlobOrigin("docker.io", False))
    await catalog.add_blob_origin(digest, hub)
    record = await catalog.blob(digest)
    assert record == BlobRecord(100, frozenset({BlobOrigin("docker.io", False), secret}))
    assert (record.is_public, record.opens_for(())) == (True, True)
    await catalog.remove_blob(digest)
    assert await catalog.add_blob(digest, 100, now=3.0)
    assert await catalog.blob(digest) == BlobRecord(100)


async def test_s20_an_adopted_blob_opens_for_the_one_source_registry_that_can_have_given_it(
    catalog: Catalog,
) -> None:
    await catalog.add_manifest(NGINX, SOURCE, image("one", "both"), now=1.0)
    await catalog.add_manifest(DEBIAN, "ghcr.io/debian", image("other", "both"), now=1.0)
    await catalog.reconcile({Digest.of(each): 100 for each in (b"one", b"both", b"none")}, now=2.0)
    assert await catalog.blob(Digest.of(b"one")) == BlobRecord(
        100, frozenset({BlobOrigin("docker.io", True)})
    )
    assert (
        await catalog.blob(Digest.of(b"both"))
        == await catalog.blob(Digest.of(b"none"))
        == BlobRecord(100)
    )


async def test_s20_a_catalog_of_version_3_learns_who_gave_its_blobs_from_its_repositories(
    tmp_path: Path,
) -> None:
    path = tmp_path / "catalog.sqlite"
    async with Catalog.open(path) as catalog:
        await catalog.add_manifest(NGINX, SOURCE, image("one", "both"), now=1.0)
        await catalog.add_manifest(DEBIAN, "ghcr.io:8443/debian", image("both"), now=1.0)
        for each in (b"one", b"both", b"none"):
            await catalog.add_blob(Digest.of(each), 100, now=1.0)
    for killed in (True, False):
        with sqlite3.connect(path) as connection:
            connection.executescript(
                "DELETE FROM blob_origins; PRAGMA user_version = 3;"
                if killed
                else "DROP TABLE blob_origins; PRAGMA user_version = 3;"
            )
        connection.close()
        async with Catalog.open(path) as catalog:
            hub, other = BlobOrigin("docker.io", True), BlobOrigin("ghcr.io:8443", True)
            assert await catalog.blob(Digest.of(b"one")) == BlobRecord(100, frozenset({hub}))
            assert await catalog.blob(Digest.of(b"both")) == BlobRecord(
                100, frozenset({hub, other})
            )
            assert await catalog.blob(Digest.of(b"none")) == BlobRecord(100)


async def test_cached_blobs_are_listed_page_by_page(catalog: Catalog) -> None:
    sizes = {Digest.of(bytes([number])): number for number in range(1, 6)}
    for digest, size in sizes.items():
        await catalog.add_blob(digest, size, now=1.0)
    listed: list[tuple[Digest, int]] = []
    while page := await catalog.blobs_after(listed[-1][0] if listed else None, 2):
        listed += page
    assert (dict(listed), len(listed), await catalog.blobs_count()) == (sizes, 5, 5)


async def test_only_what_is_written_counts_as_a_change(catalog: Catalog) -> None:
    await catalog.add_manifest(NGINX, SOURCE, image("a"), tags=[Tag("1")], now=1.0)
    await catalog.add_blob(Digest.of(b"both"), 8, now=1.0)
    before = catalog.changes, catalog.uses
    assert await catalog.reconcile({Digest.of(b"both"): 8}, now=2.0) == (0, 0)
    assert await catalog.collect(lambda _: False) == 1
    await catalog.add_blob(Digest.of(b"both"), 8, now=2.0)
    assert not await catalog.delete_tag(NGINX, Tag("2"))
    assert not await catalog.delete_repository(Repository("none"))
    await catalog.record_usage(Usage({}, {}, {}, {}))
    assert (catalog.changes, catalog.uses) == before
    assert await catalog.delete_repository(NGINX)
    assert (catalog.changes, catalog.uses) == (before[0] + 1, before[1] + 1)


async def test_a_catalog_of_a_newer_entrepot_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(EngineError, match="newer Entrepot"):
        async with Catalog.open(path):
            pass


async def test_a_catalog_whose_disk_has_gone_says_so_in_one_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    async with Catalog.open(folder / "catalog.sqlite") as catalog:
        folder.rename(tmp_path / "unplugged")
        # No connection is open any more, as in an engine that rested.
        await catalog._engine.dispose()
        catalog._readers.rest()
        for ask in (
            catalog.repositories_count(),
            catalog.map_repositories(lambda each: each),
            catalog.add_blob(Digest.of(b""), 0, now=1.0),
        ):
            with pytest.raises(
                CatalogFailed,
                match=r"The catalog fails: unable to open database file\. .*entrepot doctor",
            ):
                await ask


async def test_a_catalog_that_is_damaged_while_it_is_used_says_so(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    async with Catalog.open(path) as catalog:
        await catalog._engine.dispose()
        catalog._readers.rest()
        path.write_bytes(b"this is not a database" * 1000)
        with pytest.raises(CatalogFailed, match="file is not a database"):
            await catalog.repositories_count()


VERSION_1 = Path(__file__).parents[1] / "data/catalog-version-1.sql"
"""A dump of a catalog as the engine wrote it when there were no locks: one index with two tags, one
of its images held."""


def written_by_version_1(path: Path, *, and_then: str = "") -> None:
    with sqlite3.connect(path) as connection:
        connection.executescript(VERSION_1.read_text() + and_then)
    connection.close()


async def test_a_catalog_of_version_1_is_taken_over_with_all_that_is_in_it(tmp_path: Path) -> None:
    amd, arm = image("base", "amd"), image("base", "arm")
    both = index(amd64=amd, arm64=arm)
    path = tmp_path / "catalog.sqlite"
    written_by_version_1(path)
    for _ in range(2):
        async with Catalog.open(path) as catalog:
            assert await catalog.manifest(amd.digest) == amd
            assert await catalog.tag(NGINX, Tag("1.27")) == TagEntry(
                both.digest, cached=1000.0, checked=1000.0
            )
            [repository] = await catalog.repositories()
            assert (repository.pulls, repository.last_pull, repository.locked) == (3, 2000.0, False)
            assert (repository.tags, repository.manifests, repository.size) == (
                2,
                2,
                210 + len(both.content) + len(amd.content),
            )
            assert [(tag.name, tag.locked) for tag in await catalog.tags(NGINX)] == [
                ("1.27", False),
                ("latest", False),
            ]
            last_requested = {
                each.digest: each.last_requested for each in (await catalog.inventory()).manifests
            }
            assert last_requested == {both.digest: 2000.0, amd.digest: 2000.0}
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    connection.close()
    async with Catalog.open(path) as catalog:
        assert await catalog.lock_tag(NGINX, Tag("1.27"), True)
        assert await catalog.locks(NGINX) == Locks(False, frozenset({Tag("1.27")}), frozenset())


async def test_a_take_over_that_a_kill_cut_short_is_finished(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    written_by_version_1(
        path, and_then="ALTER TABLE repositories ADD COLUMN locked BOOLEAN DEFAULT 0 NOT NULL;"
    )
    async with Catalog.open(path) as catalog:
        assert await catalog.lock_repository(NGINX, True)
        assert (await catalog.locks(NGINX)).repository


async def test_a_count_of_what_repositories_hold_that_a_kill_cut_short_is_made_anew(
    tmp_path: Path,
) -> None:
    path = tmp_path / "catalog.sqlite"
    async with Catalog.open(path) as catalog:
        await catalog.add_manifest(NGINX, SOURCE, image("a"), tags=[Tag("1")], now=1.0)
        await hold(catalog, image("a"))
        told = await catalog.repositories()
    with sqlite3.connect(path) as connection:
        # The columns are there, and nothing was counted yet.
        connection.executescript(
            "UPDATE repositories SET tags = 0, manifests = 0, size = 0; PRAGMA user_version = 2;"
        )
    connection.close()
    async with Catalog.open(path) as catalog:
        assert (await catalog.repositories(), told[0].size) == (told, 110 + len(image("a").content))


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


async def test_a_lock_goes_with_its_tag(catalog: Catalog) -> None:
    old, new = image("a"), image("b")
    await catalog.add_manifest(NGINX, SOURCE, old, tags=[Tag("latest")], now=1.0)
    await catalog.lock_tag(NGINX, Tag("latest"), True)
    await catalog.add_manifest(NGINX, SOURCE, new, tags=[Tag("latest")], now=2.0)
    assert {each.digest: each.locked for each in await catalog.inventory_manifests(NGINX)} == {
        old.digest: False,
        new.digest: True,
    }


async def test_the_picture_shows_what_is_held(catalog: Catalog) -> None:
    amd, arm = image("base", "amd"), image("base", "arm")
    both = index(amd64=amd, arm64=arm)
    await catalog.add_manifest(NGINX, SOURCE, both, tags=[Tag("1"), Tag("2")], now=1.0)
    await catalog.add_manifest(NGINX, SOURCE, amd, now=2.0)
    await catalog.add_manifest(DEBIAN, SOURCE, amd, tags=[Tag("x")], now=3.0)
    await hold(catalog, amd)
    await catalog.lock_repository(DEBIAN, True)
    await catalog.lock_tag(NGINX, Tag("2"), True)
    await catalog.record_usage(
        Usage(
            {},
            {},
            {(NGINX, amd.digest): 10.0},
            {amd.blobs[0].digest: 11.0},
            seen={(NGINX, both.digest): 12.0},
        )
    )
    found = await catalog.inventory()
    assert found.blobs == {
        digest: InventoryBlob(size, 11.0 if digest == amd.blobs[0].digest else 1.0)
        for digest, size in sizes_of(amd).items()
    }
    told = {
        each.key: (
            each.platform,
            each.last_requested,
            each.locked,
            each.tags,
            each.children,
            set(each.blobs),
        )
        for each in found.manifests
    }
    held = {each.digest for each in amd.blobs}
    assert told == {
        (NGINX, both.digest): (None, 12.0, True, ("1", "2"), (amd.digest,), set()),
        (NGINX, amd.digest): ("linux/amd64", 10.0, False, (), (), held),
        # S08: no index of its own names a platform for it.
        (DEBIAN, amd.digest): (None, 3.0, True, ("x",), (), held),
    }
    assert await catalog.manifests_with([amd.blobs[0].digest]) == {
        (NGINX, amd.digest),
        (DEBIAN, amd.digest),
    }


async def test_a_look_at_a_manifest_is_a_use_and_no_pull(catalog: Catalog) -> None:
    manifest = image("a")
    await catalog.add_manifest(NGINX, SOURCE, manifest, now=1.0)
    await catalog.record_usage(Usage({}, {}, {}, {}, seen={(NGINX, manifest.digest): 5.0}))
    assert [each.last_pull for each in await catalog.manifests(NGINX)] == [None]
    assert [each.last_requested for each in await catalog.inventory_manifests(NGINX)] == [5.0]


def unused(_: PlannedImage) -> bool:
    return False


async def test_evicting_takes_the_tags_the_index_and_the_repository_along_and_leaves_shared_blobs(
    catalog: Catalog,
) -> None:
    first, second = image("base", "a"), image("base", "b")
    both = index(amd64=first)
    await catalog.add_manifest(NGINX, SOURCE, both, tags=[Tag("1")], now=1.0)
    await catalog.add_manifest(NGINX, SOURCE, first, now=1.0)
    await catalog.add_manifest(DEBIAN, SOURCE, second, tags=[Tag("1")], now=2.0)
    await hold(catalog, first)
    await hold(catalog, second)
    removed = RemovedBlobs()
    made = plan_eviction(await catalog.inventory(), goal=210, now=1000.0)
    done = await catalog.evict(made, is_used=unused, remove_blob=removed.remove_blob)
    assert [each.manifest.key for each in done.images] == [(NGINX, first.digest)]
    assert done.manifests == {(NGINX, first.digest), (NGINX, both.digest)}
    assert (done.freed, done.deferred) == (110, 0)
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
async def test_what_is_used_or_locked_after_the_plan_stays(
    catalog: Catalog, what_happens: str
) -> None:
    manifest = image("a")
    await catalog.add_manifest(NGINX, SOURCE, manifest, tags=[Tag("1")], now=1.0)
    await hold(catalog, manifest)
    made = plan_eviction(await catalog.inventory(), goal=0, now=1000.0)
    assert len(made.images) == 1
    key = (NGINX, manifest.digest)
    match what_happens:
        case "asked for":
            await catalog.record_usage(Usage({}, {}, {key: 999.0}, {}))
        case "looked at":
            await catalog.record_usage(Usage({}, {}, {}, {}, seen={key: 999.0}))
        case "blob read":
            await catalog.record_usage(Usage({}, {}, {}, {manifest.blobs[1].digest: 999.0}))
        case "locked":
            await catalog.lock_manifest(*key, True)
        case "tag locked":
            await catalog.lock_tag(NGINX, Tag("1"), True)
        case "repository locked":
            await catalog.lock_repository(NGINX, True)
    done = await catalog.evict(
        made, is_used=lambda _: what_happens == "used in memory", remove_blob=lambda _: True
    )
    went = what_happens == "nothing"
    assert (len(done.images), len(done.manifests), done.freed) == (
        (1, 1, 110) if went else (0, 0, 0)
    )
    assert await catalog.is_cached(NGINX) is not went
    assert await catalog.blobs_size() == (0 if went else 110)


async def test_a_blob_that_a_reader_may_yet_open_goes_later(catalog: Catalog) -> None:
    manifest = image("a")
    await catalog.add_manifest(NGINX, SOURCE, manifest, now=1.0)
    await hold(catalog, manifest)
    done = await catalog.evict(
        plan_eviction(await catalog.inventory(), goal=0, now=1000.0),
        is_used=unused,
        remove_blob=lambda digest: digest != Digest.of(b"a"),
    )
    assert (len(done.images), done.freed, done.deferred) == (1, 10, 1)
    assert await catalog.collect(lambda _: True) == 0
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
    """L02: after the loss of the catalog all blobs were taken in, and deleted in the same second."""
    now = 1_000_000.0
    async with Catalog.open(tmp_path / "catalog.sqlite", clock=lambda: now) as catalog:
        manifest = image("a")
        stray = Digest.of(b"stray")
        assert await catalog.reconcile({stray: 7, **sizes_of(manifest)}, now=now) == (3, 0)
        assert await catalog.collect(lambda _: pytest.fail("an adopted blob was collected")) == 0
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
        assert await catalog.collect(removed.remove_blob) == 0
        assert set(removed) == {each.digest for each in manifest.blobs}
        now += ADOPTED_STAYS
        assert await catalog.collect(removed.remove_blob) == 0
        assert removed[-1] == stray


async def test_a_blob_that_was_adopted_while_the_clock_was_ahead_does_not_stay_for_ever(
    catalog: Catalog,
) -> None:
    stray = Digest.of(b"stray")
    await catalog.reconcile({stray: 7}, now=time.time() + 10 * ADOPTED_STAYS)
    assert await catalog.collect(lambda _: True) == 0
    assert await catalog.blobs_size() == 0


async def test_a_blob_whose_row_alone_was_lost_is_adopted_as_needed(catalog: Catalog) -> None:
    manifest = image("a")
    await catalog.add_manifest(NGINX, SOURCE, manifest, now=1.0)
    await catalog.reconcile(sizes_of(manifest), now=2.0)
    assert [blob.adopted for blob in (await catalog.inventory()).blobs.values()] == [None, None]


async def test_adopted_blobs_go_first_when_room_is_needed(catalog: Catalog) -> None:
    """L02."""
    manifest, stray = image("a"), Digest.of(b"stray")
    now = time.time()
    await catalog.add_manifest(NGINX, SOURCE, manifest, now=now - 1000)
    await catalog.reconcile({stray: 7, **sizes_of(manifest)}, now=now - 1000)
    made = plan_eviction(await catalog.inventory(), goal=110, now=now)
    assert (made.images, made.adopted, made.adopted_size, made.remaining) == ((), (stray,), 7, 110)
    done = await catalog.evict(made, is_used=unused, remove_blob=lambda _: True)
    assert (done.freed, await catalog.blobs_size()) == (7, 110)


async def test_a_catalog_of_version_3_gets_what_came_later(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    async with Catalog.open(path) as catalog:
        await catalog.add_blob(Digest.of(b"a"), 7, now=1.0)
    with sqlite3.connect(path) as connection:
        connection.executescript("ALTER TABLE blobs DROP COLUMN adopted; PRAGMA user_version = 3;")
    connection.close()
    async with Catalog.open(path) as catalog:
        assert (await catalog.inventory()).blobs == {Digest.of(b"a"): InventoryBlob(7, 1.0)}


async def test_the_rows_of_a_large_manifest_are_made_beside_the_event_loop(
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
    assert await catalog.blobs_of(NGINX) == {each.digest: each for each in large.blobs}
