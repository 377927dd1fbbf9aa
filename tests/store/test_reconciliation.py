"""The rows of blobs follow the files of the blob store."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing

import pytest
from sqlalchemy import event

from entrepot.core.reference import Digest
from entrepot.store import schema
from entrepot.store.blob_walk import DIRECTORIES, BlobSlice
from entrepot.store.catalog import Catalog
from entrepot.store.reconciliation import Reconciled
from entrepot.store.records import BlobOrigin, BlobRecord
from tests.store.samples import DEBIAN, NGINX, SOURCE, image, reconcile, sizes_of


async def test_the_rows_follow_the_files(catalog: Catalog) -> None:
    await catalog.add_blob(Digest.of(b"file is gone"), 7, now=1.0)
    await catalog.add_blob(Digest.of(b"both"), 8, now=1.0)
    assert await reconcile(
        catalog, {Digest.of(b"both"): 8, Digest.of(b"row is missing"): 9}, now=2.0
    ) == (1, 1)
    assert await catalog.blobs_size() == 17


async def test_s17_blobs_that_changed_since_the_walk_are_checked_again(
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

    assert await reconcile(catalog, walked, now=2.0, stat_size=look) == (1, 0)
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

    assert await reconcile(
        catalog, {damaged: 5, right_by_now: 6}, now=2.0, remove_damaged=remove_damaged
    ) == (0, 0)
    assert sorted(offered) == sorted([(damaged, 100), (right_by_now, 100)])
    assert (await catalog.blob(damaged), await catalog.blob(right_by_now)) == (
        None,
        BlobRecord(100),
    )
    assert (await catalog.repositories(NGINX))[0].size == len(manifest.content)


async def test_s20_an_adopted_blob_opens_for_the_only_possible_source_registry(
    catalog: Catalog,
) -> None:
    await catalog.add_manifest(NGINX, SOURCE, image("one", "both"), now=1.0)
    await catalog.add_manifest(DEBIAN, "ghcr.io/debian", image("other", "both"), now=1.0)
    await reconcile(catalog, {Digest.of(each): 100 for each in (b"one", b"both", b"none")}, now=2.0)
    assert await catalog.blob(Digest.of(b"one")) == BlobRecord(
        100, frozenset({BlobOrigin("docker.io", True)})
    )
    assert (
        await catalog.blob(Digest.of(b"both"))
        == await catalog.blob(Digest.of(b"none"))
        == BlobRecord(100)
    )


async def test_a_blob_whose_row_alone_was_lost_is_adopted_as_needed(catalog: Catalog) -> None:
    manifest = image("a")
    await catalog.add_manifest(NGINX, SOURCE, manifest, now=1.0)
    await reconcile(catalog, sizes_of(manifest), now=2.0)
    assert [blob.adopted for blob in (await catalog.inventory()).blobs.values()] == [None, None]


async def in_slices(
    catalog: Catalog, walk: list[BlobSlice], on_disk: dict[Digest, int], now: float = 2.0
) -> Reconciled:
    reconciled = Reconciled()
    for blobs in walk:
        reconciled += await catalog.reconcile(blobs, now=now, stat_size=on_disk.get)
    return reconciled


def slices_of(on_disk: Mapping[Digest, int]) -> list[BlobSlice]:
    """A slice for each directory."""
    return [
        BlobSlice(
            f"{algorithm}:{prefix}",
            f"{algorithm}:{prefix}g",
            {
                str(digest): size
                for digest, size in on_disk.items()
                if (digest.algorithm, digest.hex[:2]) == (algorithm, prefix)
            },
        )
        for algorithm, prefix in DIRECTORIES
    ]


async def test_a_slice_touches_no_rows_but_its_own(catalog: Catalog) -> None:
    low, high = sorted((Digest.of(b"one"), Digest.of(b"two")))
    for digest in (low, high):
        await catalog.add_blob(digest, 5, now=1.0)
    [blobs] = [blobs for blobs in slices_of({}) if blobs.first == f"{low.algorithm}:{low.hex[:2]}"]
    assert await catalog.reconcile(blobs, now=2.0, stat_size=lambda _: None) == Reconciled(
        dropped=1
    )
    assert [digest for digest, _ in await catalog.blobs_after(None, 10)] == [high]


async def test_slices_together_change_what_one_reconciliation_would(catalog: Catalog) -> None:
    blobs = [Digest.of(b"%d" % number) for number in range(200)]
    longer = Digest.of(b"longer", "sha512")
    for digest in [*blobs[:150], longer]:
        await catalog.add_blob(digest, 5, now=1.0)
    on_disk = dict.fromkeys([*blobs[50:], longer], 5)
    # A part of the work, as of an engine that was killed; then all of it, and again all of it.
    await in_slices(catalog, slices_of(on_disk)[:100], on_disk)
    first = await in_slices(catalog, slices_of(on_disk), on_disk)
    assert 0 < first.adopted < 50
    assert 0 < first.dropped < 50
    assert dict(await catalog.blobs_after(None, 1000)) == on_disk
    assert not await in_slices(catalog, slices_of(on_disk), on_disk)


async def test_a_slice_that_agrees_is_read_by_one_query_over_the_key_and_not_written(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_disk = {Digest.of(b"%d" % number): 5 for number in range(600)}
    for digest in on_disk:
        await catalog.add_blob(digest, 5, now=1.0)
    changes = catalog.changes
    statements: list[str] = []

    def record(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(" ".join(statement.split()))

    for engine in (catalog._engine.sync_engine, catalog._readers._engine):
        event.listen(engine, "before_cursor_execute", record)
    [blobs, *_] = [blobs for blobs in slices_of(on_disk) if blobs.sizes]
    assert not await catalog.reconcile(blobs, now=2.0, stat_size=on_disk.get)
    [begin, query] = statements
    assert (begin, catalog.changes) == ("BEGIN", changes)
    with closing(sqlite3.connect(catalog.path)) as connection:
        plan = connection.execute(f"EXPLAIN QUERY PLAN {query}", (blobs.first, blobs.end))
        assert [row[3] for row in plan] == [
            "SEARCH blobs USING INDEX sqlite_autoindex_blobs_1 (digest>? AND digest<?)"
        ]


async def test_many_differences_of_a_slice_are_many_transactions(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "CHUNK_SIZE", 10)
    on_disk = {Digest.of(b"%d" % number): 5 for number in range(35)}
    before = catalog.changes
    assert await reconcile(catalog, on_disk, now=2.0) == (35, 0)
    assert catalog.changes - before == 4
    # Others write in between, and what they change is seen.
    for digest in list(on_disk)[:5]:
        del on_disk[digest]
    assert await reconcile(catalog, on_disk, now=2.0) == (0, 5)
