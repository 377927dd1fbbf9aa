"""A catalog that is damaged or gone: what is kept of it (L02)."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from entrepot.core.reference import Digest, Repository, Tag
from entrepot.store.catalog import Catalog
from entrepot.store.connections import CatalogFailed
from entrepot.store.records import BlobOrigin, BlobRecord, TagEntry
from entrepot.store.recovery import back_up, backup_of
from entrepot.store.schema import SCHEMA_VERSION
from tests.store.damage import damage_table
from tests.store.samples import NGINX, SOURCE, blobs_of, cache_blobs, image, index

NOW = 1_780_000_000.0
STAMP = "20260528T202640Z"


async def filled(path: Path, count: int, *, backed_up_after: int | None = None) -> list[Repository]:
    """A catalog of *count* repositories with an image each, whose blobs are cached."""
    names = [Repository(f"library/r{number}") for number in range(count)]
    async with Catalog.open(path) as catalog:
        for number, name in enumerate(names):
            if number == backed_up_after:
                back_up(path)
            await catalog.add_manifest(
                name, SOURCE, image(f"layer {number}"), tags=[Tag("1")], now=1.0
            )
            await cache_blobs(catalog, image(f"layer {number}"))
    return names


def header(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(os.urandom(4096))


def half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 8192 * 4096)


def manifests(path: Path) -> None:
    damage_table(path, "manifests")


def tags(path: Path) -> None:
    damage_table(path, "tags")


@pytest.mark.parametrize("damage", [header, half, manifests, tags])
async def test_a_damaged_catalog_is_set_aside_and_its_copy_restored(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    path = tmp_path / "catalog.sqlite"
    names = await filled(path, 30, backed_up_after=20)
    damage(path)
    damaged = path.read_bytes()
    async with Catalog.open(path, clock=lambda: NOW) as catalog:
        [notice] = catalog.health.notices
        assert notice.startswith("The catalog was damaged (")
        assert f"is set aside as catalog.sqlite.damaged-{STAMP}; its copy of 20" in notice
        assert set(names[:20]) <= set(await catalog.repository_names())
        assert (await catalog.manifest(image("layer 3").digest)) == image("layer 3")
        assert await catalog.tag(names[3], Tag("1")) == TagEntry(image("layer 3").digest, 1.0, 1.0)
        assert set(await blobs_of(catalog, names[3])) == {
            each.digest for each in image("layer 3").blobs
        }
        assert catalog.health.problem is None
        await catalog.probe()
    assert path.with_name(f"catalog.sqlite.damaged-{STAMP}").read_bytes() == damaged
    async with Catalog.open(path) as catalog:
        assert catalog.health.notices == ()


async def test_what_came_after_the_copy_is_read_from_the_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    names = await filled(path, 30, backed_up_after=20)
    damage_table(path, "blobs")
    async with Catalog.open(path) as catalog:
        assert await catalog.repository_names() == sorted(names)
        [repository] = await catalog.repositories(names[25])
        # Its blobs have no rows any more: they are counted again when healing finds them.
        assert (repository.tags, repository.manifests, repository.size) == (
            1,
            1,
            len(image("layer 25").content),
        )
        assert set(await blobs_of(catalog, names[25])) == {
            each.digest for each in image("layer 25").blobs
        }


async def test_who_gave_a_blob_is_kept(tmp_path: Path) -> None:
    """S20: otherwise each copy would need a proof of its source, which may be down."""
    path = tmp_path / "catalog.sqlite"
    digest, origins = (
        Digest.of(b"private"),
        {BlobOrigin("one.example", True), BlobOrigin("two.example", False)},
    )
    async with Catalog.open(path) as catalog:
        for origin in origins:
            await catalog.add_blob(digest, 7, now=1.0, origin=origin)
    damage_table(path, "tags")
    async with Catalog.open(path) as catalog:
        assert catalog.health.notices
        assert await catalog.blob(digest) == BlobRecord(7, frozenset(origins))


async def test_of_an_older_catalog_what_came_later_is_derived(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    [name] = await filled(path, 1)
    with closing(sqlite3.connect(path)) as database:
        database.execute("ALTER TABLE repository_manifests DROP COLUMN media_type")
        database.execute("DROP TABLE blob_origins")
        database.execute("PRAGMA user_version = 3")
        database.commit()
    damage_table(path, "tags")
    async with Catalog.open(path) as catalog:
        assert catalog.health.notices
        assert await catalog.manifest(image("layer 0").digest, name) == image("layer 0")
        record = await catalog.blob(image("layer 0").blobs[0].digest)
        assert record is not None
        assert record.origins == {BlobOrigin(SOURCE.partition("/")[0], True)}


async def test_without_a_copy_all_that_can_be_read_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    async with Catalog.open(path) as catalog:
        both = index(amd64=image("amd"))
        await catalog.add_manifest(NGINX, SOURCE, both, tags=[Tag("1")], now=1.0)
        await catalog.add_manifest(NGINX, SOURCE, image("amd"), now=1.0)
        await cache_blobs(catalog, image("amd"))
        await catalog.lock_repository(NGINX, True)
    damage_table(path, "manifest_references")
    async with Catalog.open(path) as catalog:
        assert "could be read from it into a new one" in catalog.health.notices[0]
        [tag] = await catalog.tags(NGINX)
        assert (tag.name, tag.platforms) == ("1", ("linux/amd64",))
        assert (await catalog.locks(NGINX)).repository
        assert await catalog.blobs_size() == 110


async def test_pages_that_are_damaged_in_the_middle_of_a_table_are_stepped_over(
    tmp_path: Path,
) -> None:
    path = tmp_path / "catalog.sqlite"
    names = await filled(path, 200)
    with closing(sqlite3.connect(path)) as connection:
        leaves = (
            [
                row[0]
                for row in connection.execute(
                    "SELECT pageno FROM dbstat WHERE name = 'manifests' AND pagetype = 'leaf'"
                )
            ]
            if _has_dbstat()
            else []
        )
    if not leaves:
        pytest.skip("this SQLite does not tell which pages a table has")
    with path.open("r+b") as file:
        for page in (leaves[len(leaves) // 3], leaves[len(leaves) // 2]):
            file.seek((page - 1) * 4096)
            file.write(b"\xa5" * 4096)
    async with Catalog.open(path) as catalog:
        original = await catalog.repository_names()
    assert len(names) * 0.8 < len(original) < len(names)


def _has_dbstat() -> bool:
    with closing(sqlite3.connect(":memory:")) as connection:
        return any("DBSTAT" in row[0] for row in connection.execute("PRAGMA compile_options"))


async def test_nothing_that_is_no_database_costs_the_start(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    path.write_bytes(b"this is not a database" * 1000)
    async with Catalog.open(path, clock=lambda: NOW) as catalog:
        assert catalog.health.notices == (
            "The catalog was damaged (file is not a database) and is set aside as "
            f"catalog.sqlite.damaged-{STAMP}; nothing of it could be read, and a new one is "
            "created. The blobs stay, and what is missing is cataloged again as it is pulled.",
        )
        assert await catalog.repository_names() == []
    path.write_bytes(b"again")
    async with Catalog.open(path, clock=lambda: NOW):
        pass
    assert path.with_name(f"catalog.sqlite.damaged-{STAMP}").read_bytes().startswith(b"this is not")
    assert path.with_name(f"catalog.sqlite.damaged-{STAMP}-2").read_bytes() == b"again"


async def test_rows_that_are_noise_are_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    await filled(path, 3)
    wrong = image("layer 1").digest
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE manifests SET content = x'7b7d' WHERE digest = ?", (str(wrong),))
        connection.execute(
            "UPDATE blobs SET size = -5 WHERE digest = ?", (str(Digest.of(b"layer 0")),)
        )
        connection.execute("UPDATE tags SET name = x'ff' WHERE repository = 'library/r2'")
        connection.execute("UPDATE repositories SET pulls = 1e300 WHERE name = 'library/r2'")
    damage_table(path, "manifest_references")
    async with Catalog.open(path) as catalog:
        assert await catalog.repository_names() == ["library/r0"]
        assert await catalog.manifest(wrong) is None
        assert {blob.size for blob in (await catalog.inventory()).blobs.values()} == {10, 100}
        assert len((await catalog.inventory()).blobs) == 5


async def test_a_catalog_that_is_gone_comes_back_from_its_copy(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    names = await filled(path, 3)
    back_up(path)
    path.unlink()
    async with Catalog.open(path) as catalog:
        assert catalog.health.notices[0].startswith("The catalog was gone; its copy of 20")
        assert await catalog.repository_names() == names


async def test_the_log_of_a_catalog_that_is_gone_is_not_applied_to_the_new_one(
    tmp_path: Path,
) -> None:
    path = tmp_path / "catalog.sqlite"
    async with Catalog.open(path) as catalog:
        await catalog.add_manifest(NGINX, SOURCE, image("a"), now=1.0)
        # As after a kill: the log is there, and the file is then removed by hand.
        log = path.with_name("catalog.sqlite-wal").read_bytes()
    assert log
    path.unlink()
    path.with_name("catalog.sqlite-wal").write_bytes(log)
    async with Catalog.open(path) as catalog:
        assert catalog.health.notices == ()
        assert await catalog.repository_names() == []
        await catalog.probe()


async def test_a_backup_of_a_newer_entrepot_is_not_restored(
    tmp_path: Path,
) -> None:
    path = tmp_path / "catalog.sqlite"
    await filled(path, 3)
    back_up(path)
    for file in (path, backup_of(path)):
        with closing(sqlite3.connect(file)) as connection:
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    path.rename(tmp_path / "elsewhere")
    async with Catalog.open(path) as catalog:
        assert await catalog.repository_names() == []


async def test_a_file_that_the_disk_has_lost_in_part_counts_as_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "catalog.sqlite"
    names = await filled(path, 3)
    connect = sqlite3.connect

    class Unreadable(sqlite3.Connection):
        def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
            if "quick_check" in statement:
                error = sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorcode = sqlite3.SQLITE_IOERR_READ
                raise error
            return super().execute(statement, *values)

    def connecting(file: Path, **options: Any) -> sqlite3.Connection:
        return (
            connect(file, **options, factory=Unreadable)
            if file == path
            else connect(file, **options)
        )

    with monkeypatch.context() as patched:
        patched.setattr("entrepot.store.recovery.sqlite3.connect", connecting)
        async with Catalog.open(path) as catalog:
            assert catalog.health.notices[0].startswith("The catalog was damaged (disk I/O error)")
            assert await catalog.repository_names() == names


async def test_a_copy_is_only_replaced_by_one_that_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    await filled(path, 30)
    back_up(path)
    before = backup_of(path).read_bytes()
    damage_table(path, "tags")
    with pytest.raises(CatalogFailed, match=r"The catalog is damaged: .*Restart the engine"):
        await asyncio.to_thread(back_up, path)
    assert backup_of(path).read_bytes() == before
    assert not [name for name in os.listdir(tmp_path) if "-new" in name]


async def test_a_copy_is_made_beside_writes_and_keeps_none_of_them_waiting(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    async with Catalog.open(path) as catalog:
        await catalog.add_manifest(NGINX, SOURCE, image("a"), now=1.0)
        async with catalog._write() as connection:
            await connection.exec_driver_sql("INSERT INTO rule_requests VALUES ('x', 1, 1)")
            await asyncio.to_thread(back_up, path)
    with closing(sqlite3.connect(f"file:{backup_of(path)}?mode=ro", uri=True)) as copy:
        assert copy.execute("SELECT count(*) FROM manifests").fetchone() == (1,)
        assert copy.execute("SELECT count(*) FROM rule_requests").fetchone() == (0,)


async def test_files_that_others_could_read_are_made_private(tmp_path: Path) -> None:
    """S30."""
    path = tmp_path / "catalog.sqlite"
    before = os.umask(0)
    try:
        async with Catalog.open(path) as catalog:
            await catalog.add_manifest(NGINX, SOURCE, image("a"), now=1.0)
            await asyncio.to_thread(back_up, path)
            assert {each.name: each.stat().st_mode & 0o777 for each in path.parent.iterdir()} == {
                "catalog.sqlite": 0o600,
                "catalog.sqlite-wal": 0o600,
                "catalog.sqlite-shm": 0o600,
                "catalog.sqlite.backup": 0o600,
            }
        for file in (path, backup_of(path)):
            file.chmod(0o644)
        async with Catalog.open(path):
            assert {each.stat().st_mode & 0o777 for each in path.parent.iterdir()} == {0o600}
    finally:
        os.umask(before)
