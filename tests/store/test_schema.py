"""The tables of the catalog, and the migration of older catalogs."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, inspect, select

from entrepot.core.reference import Digest, Tag
from entrepot.errors import EngineError
from entrepot.store import schema
from entrepot.store.catalog import Catalog, Locks
from entrepot.store.eviction import InventoryBlob
from entrepot.store.records import BlobOrigin, BlobRecord, TagEntry
from entrepot.store.rows import reference_rows
from entrepot.store.schema import SCHEMA_VERSION
from tests.store.samples import (
    DEBIAN,
    NGINX,
    SOURCE,
    cache_blobs,
    image,
    index,
    written_by_version_1,
)


async def test_s20_a_catalog_of_version_3_derives_the_origins_of_its_blobs(
    tmp_path: Path,
) -> None:
    path = tmp_path / "catalog.sqlite"
    async with Catalog.open(path) as catalog:
        await catalog.add_manifest(NGINX, SOURCE, image("one", "both"), now=1.0)
        await catalog.add_manifest(DEBIAN, "ghcr.io:8443/debian", image("both"), now=1.0)
        for content in (b"one", b"both", b"none"):
            await catalog.add_blob(Digest.of(content), 100, now=1.0)
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


async def test_a_catalog_of_a_newer_entrepot_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(EngineError, match="newer Entrepot"):
        async with Catalog.open(path):
            pass


async def test_a_catalog_of_version_1_is_migrated_whole(tmp_path: Path) -> None:
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


async def test_a_migration_cut_short_by_a_kill_is_finished(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    written_by_version_1(
        path, and_then="ALTER TABLE repositories ADD COLUMN locked BOOLEAN DEFAULT 0 NOT NULL;"
    )
    async with Catalog.open(path) as catalog:
        assert await catalog.lock_repository(NGINX, True)
        assert (await catalog.locks(NGINX)).repository


async def test_a_count_cut_short_by_a_kill_is_repeated(
    tmp_path: Path,
) -> None:
    path = tmp_path / "catalog.sqlite"
    async with Catalog.open(path) as catalog:
        await catalog.add_manifest(NGINX, SOURCE, image("a"), tags=[Tag("1")], now=1.0)
        await cache_blobs(catalog, image("a"))
        repositories = await catalog.repositories()
    with sqlite3.connect(path) as connection:
        # The columns are there, and nothing was counted yet.
        connection.executescript(
            "UPDATE repositories SET tags = 0, manifests = 0, size = 0; PRAGMA user_version = 2;"
        )
    connection.close()
    async with Catalog.open(path) as catalog:
        assert (await catalog.repositories(), repositories[0].size) == (
            repositories,
            110 + len(image("a").content),
        )


async def test_a_catalog_of_version_3_is_migrated(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    async with Catalog.open(path) as catalog:
        await catalog.add_blob(Digest.of(b"a"), 7, now=1.0)
    with sqlite3.connect(path) as connection:
        connection.executescript("ALTER TABLE blobs DROP COLUMN adopted; PRAGMA user_version = 3;")
    connection.close()
    async with Catalog.open(path) as catalog:
        assert (await catalog.inventory()).blobs == {Digest.of(b"a"): InventoryBlob(7, 1.0)}


@pytest.fixture
def connection() -> Iterator[Connection]:
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def version_of(connection: Connection) -> int:
    return int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())


NO_COUNT = schema.repositories.update().values(pulls=schema.repositories.c.pulls)


def test_new_tables_have_the_version_of_this_engine(connection: Connection) -> None:
    schema.create(connection, NO_COUNT)
    assert version_of(connection) == SCHEMA_VERSION
    assert set(inspect(connection).get_table_names()) >= {"repositories", "manifests", "blobs"}


@pytest.mark.parametrize(("version", "counted"), [(2, 7), (3, 0)])
def test_the_counters_are_filled_for_catalogs_before_version_3(
    connection: Connection, version: int, counted: int
) -> None:
    schema.create(connection, NO_COUNT)
    connection.execute(
        schema.repositories.insert().values(name=NGINX, source=SOURCE, created=1.0, pulls=0)
    )
    connection.exec_driver_sql(f"PRAGMA user_version = {version}")
    schema.create(connection, schema.repositories.update().values(tags=7))
    assert connection.execute(select(schema.repositories.c.tags)).scalar_one() == counted
    assert version_of(connection) == SCHEMA_VERSION


def test_a_column_that_is_there_is_not_added_again(connection: Connection) -> None:
    """An engine was killed between two columns."""
    schema.create(connection, NO_COUNT)
    connection.exec_driver_sql("DROP INDEX locked_tags")
    connection.exec_driver_sql("ALTER TABLE tags DROP COLUMN locked")
    connection.exec_driver_sql("PRAGMA user_version = 1")
    schema.create(connection, NO_COUNT)
    columns = {column["name"] for column in inspect(connection).get_columns("tags")}
    assert "locked" in columns


@pytest.mark.parametrize(
    ("only_if_single", "expected"),
    [(False, {"docker.io", "ghcr.io"}), (True, set())],
)
def test_the_origins_of_a_blob_follow_from_its_repositories(
    connection: Connection, only_if_single: bool, expected: set[str]
) -> None:
    schema.create(connection, NO_COUNT)
    blob, manifest = str(Digest.of(b"blob")), image("blob")
    for name, source in ((NGINX, SOURCE), (DEBIAN, "ghcr.io/debian")):
        connection.execute(
            schema.repositories.insert().values(name=name, source=source, created=1.0, pulls=0)
        )
    connection.execute(
        schema.manifests.insert().values(
            digest=str(manifest.digest), media_type="x", content=manifest.content
        )
    )
    connection.execute(
        schema.repository_manifests.insert(),
        [
            {"repository": name, "digest": str(manifest.digest), "cached": 1.0}
            for name in (NGINX, DEBIAN)
        ],
    )
    connection.execute(schema.references.insert(), reference_rows(manifest))
    connection.execute(schema.blobs.insert().values(digest=blob, size=1, cached=1.0, last_used=1.0))
    connection.execute(schema.origins_by_repository(only_if_single=only_if_single))
    origins = connection.execute(select(schema.blob_origins.c.login_server)).scalars()
    assert set(origins) == expected


def test_names_are_put_into_statements_in_chunks() -> None:
    sizes = [len(chunk) for chunk in schema.chunks(range(2 * schema.CHUNK_SIZE + 1))]
    assert sizes == [schema.CHUNK_SIZE, schema.CHUNK_SIZE, 1]
    assert list(schema.chunks([])) == []


def indexes_of(connection: Connection) -> set[str]:
    query = "SELECT name FROM sqlite_master WHERE type = 'index' AND name NOT LIKE 'sqlite_%'"
    return set(connection.exec_driver_sql(query).scalars())


def test_a_new_catalog_has_all_indexes(connection: Connection) -> None:
    schema.create(connection, NO_COUNT)
    assert schema.missing_indexes(connection) == []
    assert indexes_of(connection) >= {
        "locked_manifests",
        "locked_tags",
        "repositories_by_usage",
        "repository_manifests_by_time",
        "tags_by_time",
    }


async def test_an_older_catalog_gets_new_indexes_after_the_start(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    async with Catalog.open(path) as catalog:
        await catalog.add_manifest(NGINX, SOURCE, image("a"), tags=[Tag("1")], now=1.0)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("DROP INDEX tags_by_time; DROP INDEX repositories_by_usage;")
    async with Catalog.open(path) as catalog:
        # Nothing waits for them.
        assert [tag.name for tag in await catalog.tags(NGINX)] == ["1"]
        assert await catalog.create_missing_indexes() == 2
        assert await catalog.create_missing_indexes() == 0
        await catalog.add_manifest(NGINX, SOURCE, image("a"), tags=[Tag("2")], now=2.0)
        assert [tag.name for tag in await catalog.tags(NGINX)] == ["1", "2"]
