"""The copy of the catalog, and the space that it gives back."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from entrepot.core.media_types import OCI_MANIFEST
from entrepot.core.reference import Digest, Repository
from entrepot.store import catalog_maintenance as maintenance_module
from entrepot.store import database as database_module
from entrepot.store.catalog import Catalog
from entrepot.store.catalog_maintenance import BACKUP_INTERVAL, FIRST_BACKUP, CatalogMaintenance
from entrepot.store.manifests import Manifest
from entrepot.store.recovery import backup_of
from tests.store.damage import damage_table
from tests.store.samples import NGINX, SOURCE, cache_blobs, image, removing


class MaintainedCatalog:
    """A catalog with its maintenance, and a clock that a test sets."""

    def __init__(self, catalog: Catalog) -> None:
        self.now = 0.0
        self.catalog = catalog
        self.maintenance = CatalogMaintenance(catalog, clock=lambda: self.now)
        self.number = 0

    async def change(self) -> None:
        self.number += 1
        await self.catalog.add_manifest(NGINX, SOURCE, image(f"image {self.number}"), now=1.0)

    def copied(self) -> int | None:
        """The number of manifests in the backup."""
        if not backup_of(self.catalog.path).exists():
            return None
        with closing(
            sqlite3.connect(f"file:{backup_of(self.catalog.path)}?immutable=1", uri=True)
        ) as copy:
            return int(copy.execute("SELECT count(*) FROM manifests").fetchone()[0])


@pytest.fixture
async def maintained(tmp_path: Path) -> AsyncIterator[MaintainedCatalog]:
    async with Catalog.open(tmp_path / "catalog.sqlite") as catalog:
        yield MaintainedCatalog(catalog)


async def test_a_catalog_that_changes_is_copied_every_few_hours(
    maintained: MaintainedCatalog,
) -> None:
    """L02."""
    await maintained.change()
    await maintained.maintenance.once()
    assert maintained.copied() is None
    maintained.now = FIRST_BACKUP
    await maintained.maintenance.once()
    assert maintained.copied() == 1
    await maintained.change()
    maintained.now += BACKUP_INTERVAL - 1
    await maintained.maintenance.once()
    assert maintained.copied() == 1
    maintained.now += 1
    await maintained.maintenance.once()
    assert maintained.copied() == 2
    maintained.now += BACKUP_INTERVAL
    assert not maintained.maintenance.backup_is_due()


async def test_at_a_clean_stop_a_catalog_without_a_copy_gets_one(
    maintained: MaintainedCatalog,
) -> None:
    await maintained.maintenance.close()
    assert maintained.copied() is None
    await maintained.change()
    await maintained.maintenance.close()
    assert maintained.copied() == 1
    await maintained.change()
    await maintained.maintenance.close()
    assert maintained.copied() == 1
    maintained.now = BACKUP_INTERVAL
    await maintained.maintenance.close()
    assert maintained.copied() == 2


async def test_a_copy_that_would_fill_the_disk_is_not_made(
    maintained: MaintainedCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance_module, "ROOM_FOR_BACKUP", 2**60)
    await maintained.change()
    maintained.now = FIRST_BACKUP
    await maintained.maintenance.once()
    assert maintained.copied() is None


async def test_damage_that_the_copy_finds_is_told_and_the_last_copy_stays(
    maintained: MaintainedCatalog,
) -> None:
    for _ in range(20):
        await maintained.change()
    await maintained.maintenance.back_up()
    await maintained.change()
    await maintained.catalog._engine.dispose()
    maintained.catalog._readers.close_idle()
    damage_table(maintained.catalog.path, "manifest_references_by_digest")
    maintained.now += BACKUP_INTERVAL
    await maintained.maintenance.once()
    assert maintained.copied() == 20
    problem = maintained.catalog.health.problem
    assert problem is not None
    assert problem.what.startswith("The catalog is damaged: ")


def large(number: int) -> Manifest:
    content = b'{"schemaVersion": 2, "layers": [], "annotations": {"x": "%d%s"}}' % (
        number,
        os.urandom(500_000).hex().encode(),
    )
    return Manifest.of(content, OCI_MANIFEST, Digest.of(content))


async def test_what_is_deleted_is_given_back_to_the_file_system(
    maintained: MaintainedCatalog,
) -> None:
    """S11: 301 MB stayed after everything was deleted."""
    empty = await maintained.catalog.size()
    for number in range(10):
        await maintained.catalog.add_manifest(
            Repository(f"library/r{number}"), SOURCE, large(number), now=1.0
        )
    assert await maintained.catalog.size() > 10_000_000
    for number in range(10):
        await maintained.catalog.delete_repository(Repository(f"library/r{number}"))
    await maintained.catalog.collect(removing(lambda _: True))
    await maintained.maintenance.once()
    assert await maintained.catalog.size() < empty + 2 * database_module.FREE_BYTES_KEPT
    await maintained.catalog._engine.dispose()
    maintained.catalog._readers.close_idle()
    with closing(sqlite3.connect(maintained.catalog.path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert maintained.catalog.path.stat().st_size < empty + 2 * database_module.FREE_BYTES_KEPT


async def test_a_catalog_of_an_earlier_version_is_written_anew_when_much_of_it_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S11."""
    monkeypatch.setattr(database_module, "VACUUM_SIZE", 2**20)
    path = tmp_path / "catalog.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE before (x)")
        connection.execute("DROP TABLE before")
    async with Catalog.open(path) as catalog:
        await catalog.add_manifest(NGINX, SOURCE, image("a"), now=1.0)
        await cache_blobs(catalog, image("a"))
        for number in range(5):
            await catalog.add_manifest(
                Repository(f"library/r{number}"), SOURCE, large(number), now=1.0
            )
        assert (
            await catalog._read(
                lambda connection: connection.exec_driver_sql("PRAGMA auto_vacuum").scalar_one()
            )
            == 0
        )
        for number in range(5):
            await catalog.delete_repository(Repository(f"library/r{number}"))
        await catalog.collect(removing(lambda _: True))
    async with Catalog.open(path) as catalog:
        assert (
            await catalog._read(
                lambda connection: connection.exec_driver_sql("PRAGMA auto_vacuum").scalar_one()
            )
            == 2
        )
        assert await catalog.manifest(image("a").digest) == image("a")
    assert path.stat().st_size < 2**20


async def test_the_first_round_creates_the_indexes_that_an_older_catalog_has_not(
    maintained: MaintainedCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: list[int] = []
    create = maintained.catalog.create_missing_indexes

    async def counted() -> int:
        rounds.append(await create())
        return rounds[-1]

    monkeypatch.setattr(maintained.catalog, "create_missing_indexes", counted)
    async with maintained.catalog._write() as connection:
        await connection.exec_driver_sql("DROP INDEX tags_by_time")
    for _ in range(2):
        await maintained.maintenance.once()
    assert rounds == [1]
