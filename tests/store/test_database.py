"""The database of the catalog: failures, and what counts as a change."""

from __future__ import annotations

from pathlib import Path

import pytest

from entrepot.core.reference import Digest, Repository, Tag
from entrepot.store import database as database_module
from entrepot.store.catalog import Catalog
from entrepot.store.connections import CatalogFailed
from entrepot.store.usage import Usage
from tests.store.samples import NGINX, SOURCE, image, reconcile, removing


async def test_only_what_is_written_counts_as_a_change(catalog: Catalog) -> None:
    await catalog.add_manifest(NGINX, SOURCE, image("a"), tags=[Tag("1")], now=1.0)
    await catalog.add_blob(Digest.of(b"both"), 8, now=1.0)
    before = catalog.changes, catalog.uses
    assert await reconcile(catalog, {Digest.of(b"both"): 8}, now=2.0) == (0, 0)
    assert (await catalog.collect(removing(lambda _: False))).deferred == 1
    await catalog.add_blob(Digest.of(b"both"), 8, now=2.0)
    assert not await catalog.delete_tag(NGINX, Tag("2"))
    assert not await catalog.delete_repository(Repository("none"))
    await catalog.record_usage(Usage({}, {}, {}, {}))
    assert (catalog.changes, catalog.uses) == before
    assert await catalog.delete_repository(NGINX)
    assert (catalog.changes, catalog.uses) == (before[0] + 1, before[1] + 1)


async def test_a_catalog_whose_disk_has_gone_says_so_in_one_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    async with Catalog.open(folder / "catalog.sqlite") as catalog:
        folder.rename(tmp_path / "unplugged")
        # No connection is open any more, as in an engine that rested.
        await catalog._engine.dispose()
        catalog._readers.close_idle()
        for ask in (
            catalog.repositories_count(),
            catalog.repositories(),
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
        catalog._readers.close_idle()
        path.write_bytes(b"this is not a database" * 1000)
        with pytest.raises(CatalogFailed, match="file is not a database"):
            await catalog.repositories_count()


async def _tuning(catalog: Catalog) -> tuple[int, int]:
    """Kilobytes of the writer's cache, and pages in the log before a checkpoint."""
    async with catalog._write() as connection:
        cache = (await connection.exec_driver_sql("PRAGMA cache_size")).scalar_one()
        pages = (await connection.exec_driver_sql("PRAGMA wal_autocheckpoint")).scalar_one()
    return -cache, pages


async def test_bulk_writes_have_a_larger_cache_and_a_longer_log_until_their_end(
    catalog: Catalog,
) -> None:
    assert await _tuning(catalog) == (16 * 1024, 1000)
    async with catalog.bulk_writes() as has_room:
        assert has_room
        assert await _tuning(catalog) == (64 * 1024, 2**15)
    assert await _tuning(catalog) == (16 * 1024, 1000)


async def test_bulk_writes_keep_the_log_short_on_a_disk_that_is_nearly_full(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "BULK_DISK_FREE", 2**80)
    async with catalog.bulk_writes() as has_room:
        assert not has_room
        assert await _tuning(catalog) == (16 * 1024, 1000)
