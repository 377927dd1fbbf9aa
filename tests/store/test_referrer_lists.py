"""Lists of referrers in the catalog: they go with their manifests, within bounds."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from entrepot.core.reference import Tag
from entrepot.store import referrer_lists, schema
from entrepot.store.catalog import Catalog
from entrepot.store.eviction import plan_eviction
from entrepot.store.referrer_lists import LARGEST_LIST, StoredReferrers
from tests.store.samples import DEBIAN, NGINX, SOURCE, image, removing, written_by_version_1

SIGNED = image("signed")


def referrers(
    content: bytes = b"{}", artifact_type: str | None = None, fetched: float = 1.0
) -> StoredReferrers:
    return StoredReferrers(SOURCE, artifact_type, content, fetched)


async def test_a_list_is_stored_only_beside_its_manifest(catalog: Catalog) -> None:
    assert not await catalog.store_referrers(NGINX, SIGNED.digest, referrers())
    await catalog.add_manifest(NGINX, SOURCE, SIGNED, now=1.0)
    assert await catalog.store_referrers(NGINX, SIGNED.digest, referrers())
    assert not await catalog.store_referrers(DEBIAN, SIGNED.digest, referrers())
    assert await catalog.referrers(NGINX, SIGNED.digest) == [referrers()]
    assert await catalog.referrers(DEBIAN, SIGNED.digest) == []


async def test_a_newer_list_of_the_same_type_replaces_the_older_one(catalog: Catalog) -> None:
    await catalog.add_manifest(NGINX, SOURCE, SIGNED, now=1.0)
    for stored in (
        referrers(b"all"),
        referrers(b"sbom", "a/sbom", 2.0),
        referrers(b"new", fetched=3.0),
    ):
        await catalog.store_referrers(NGINX, SIGNED.digest, stored)
    assert await catalog.referrers(NGINX, SIGNED.digest) == [
        referrers(b"sbom", "a/sbom", 2.0),
        referrers(b"new", fetched=3.0),
    ]


async def test_an_unchanged_list_is_written_again_after_an_hour_only(catalog: Catalog) -> None:
    await catalog.add_manifest(NGINX, SOURCE, SIGNED, now=1.0)
    for fetched, stored in ((1.0, 1.0), (3600.0, 1.0), (3601.0, 3601.0), (60.0, 60.0)):
        await catalog.store_referrers(NGINX, SIGNED.digest, referrers(fetched=fetched))
        [kept] = await catalog.referrers(NGINX, SIGNED.digest)
        assert kept.fetched == stored


@pytest.mark.parametrize("way", ["manifest", "repository", "eviction"])
async def test_a_list_goes_with_its_manifest(catalog: Catalog, way: str) -> None:
    await catalog.add_manifest(NGINX, SOURCE, SIGNED, tags=[Tag("1")], now=1.0)
    await catalog.store_referrers(NGINX, SIGNED.digest, referrers())
    match way:
        case "manifest":
            await catalog.delete_manifest(NGINX, SIGNED.digest)
        case "repository":
            await catalog.delete_repository(NGINX)
        case _:
            plan = plan_eviction(await catalog.inventory(), goal=0, now=1e9)
            await catalog.evict_steps([plan], remove_blobs=removing(lambda _: True))
    assert await catalog.manifests_of(NGINX) == frozenset()
    with sqlite3.connect(catalog.path) as connection:
        assert connection.execute("SELECT count(*) FROM referrer_lists").fetchone() == (0,)
    connection.close()


async def test_a_list_that_became_too_long_leaves_no_older_one(catalog: Catalog) -> None:
    await catalog.add_manifest(NGINX, SOURCE, SIGNED, now=1.0)
    await catalog.store_referrers(NGINX, SIGNED.digest, referrers())
    await catalog.store_referrers(NGINX, SIGNED.digest, referrers(b" " * (LARGEST_LIST + 1)))
    assert await catalog.referrers(NGINX, SIGNED.digest) == []


@pytest.mark.parametrize(("lists", "size"), [(2, 10_000), (10_000, 2)])
async def test_the_oldest_lists_go_first_where_there_are_too_many(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, lists: int, size: int
) -> None:
    monkeypatch.setattr(referrer_lists, "LISTS", lists)
    monkeypatch.setattr(referrer_lists, "LISTS_BYTES", size)
    monkeypatch.setattr(referrer_lists, "LISTS_BETWEEN_TRIMS", 1)
    images = [image(name) for name in "abcd"]
    for time, each in enumerate(images):
        await catalog.add_manifest(NGINX, SOURCE, each, now=1.0)
        await catalog.store_referrers(NGINX, each.digest, referrers(b"1", fetched=float(time)))
    assert [bool(await catalog.referrers(NGINX, each.digest)) for each in images] == [
        False,
        False,
        True,
        True,
    ]


async def test_an_older_catalog_gets_the_table_and_an_older_engine_can_open_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "catalog.sqlite"
    written_by_version_1(path)
    async with Catalog.open(path) as catalog:
        [digest, *_] = await catalog.manifests_of(NGINX)
        assert await catalog.store_referrers(NGINX, digest, referrers())
    with sqlite3.connect(path) as connection:
        # What a version that has no such table does: its own foreign keys delete the rows.
        assert connection.execute("PRAGMA user_version").fetchone() == (4,)
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("DELETE FROM repositories")
        assert connection.execute("SELECT count(*) FROM referrer_lists").fetchone() == (0,)
    connection.close()
    assert schema.SCHEMA_VERSION == 4
