"""Media type and platform of a manifest belong to the repository that it came through, and not to
its digest."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

from entrepot.core.media_types import OCI_INDEX, OCI_MANIFEST
from entrepot.core.reference import Digest, Repository, Tag
from entrepot.store.catalog import Catalog
from entrepot.store.schema import SCHEMA_VERSION
from tests.store.samples import DEBIAN, NGINX, SOURCE, image, index

EVIL = Repository("evil/app")
EVIL_TYPE = "application/vnd.evil.thing"

VERSION_3 = Path(__file__).parents[1] / "data/catalog-version-3.sql"
"""A dump of a catalog as the engine wrote it when the media type was one for all repositories."""


async def media_types_of(catalog: Catalog, repository: Repository) -> dict[Digest, str]:
    """The manifests of a repository with their media types, each as a look-up has it."""
    media_types = {}
    for digest in await catalog.manifests_of(repository):
        manifest = (await catalog.lookup_manifest(repository, digest)).value
        assert manifest is not None
        media_types[digest] = manifest.media_type
    return media_types


async def media_type_in(catalog: Catalog, repository: Repository) -> str:
    [manifest] = await catalog.manifests(repository)
    return manifest.media_type


async def test_s08_each_repository_keeps_the_media_type_that_its_own_source_gave(
    tmp_path: Path,
) -> None:
    manifest = image("a")
    path = tmp_path / "catalog.sqlite"
    async with Catalog.open(path) as catalog:
        await catalog.add_manifest(
            EVIL,
            "evil.example/app",
            replace(manifest, media_type=EVIL_TYPE),
            tags=[Tag("1")],
            now=1.0,
        )
        await catalog.add_manifest(NGINX, SOURCE, manifest, tags=[Tag("1")], now=2.0)
    async with Catalog.open(path) as catalog:
        assert await media_types_of(catalog, NGINX) == {manifest.digest: OCI_MANIFEST}
        assert await media_types_of(catalog, EVIL) == {manifest.digest: EVIL_TYPE}
        assert await catalog.manifest(manifest.digest, NGINX) == manifest
        assert await catalog.manifest(manifest.digest, EVIL) == replace(
            manifest, media_type=EVIL_TYPE
        )
        assert await catalog.manifest(manifest.digest, DEBIAN) is None
        assert (await media_type_in(catalog, NGINX), await media_type_in(catalog, EVIL)) == (
            OCI_MANIFEST,
            EVIL_TYPE,
        )
        contents = await catalog.tag_contents(NGINX, Tag("1"))
        assert contents is not None
        assert (contents.media_type, contents.images[0].media_type) == (OCI_MANIFEST, OCI_MANIFEST)


async def test_s08_a_source_that_corrects_the_media_type_corrects_it_for_its_own_repository(
    tmp_path: Path,
) -> None:
    manifest = image("a")
    async with Catalog.open(tmp_path / "catalog.sqlite") as catalog:
        for repository in (NGINX, EVIL):
            await catalog.add_manifest(
                repository, SOURCE, replace(manifest, media_type=EVIL_TYPE), now=1.0
            )
        await catalog.add_manifest(NGINX, SOURCE, manifest, now=2.0)
        assert (await media_type_in(catalog, NGINX), await media_type_in(catalog, EVIL)) == (
            OCI_MANIFEST,
            EVIL_TYPE,
        )
        [nginx] = await catalog.repositories(NGINX)
        assert nginx.manifests == 1


async def test_s08_the_platform_comes_only_from_an_index_of_the_same_repository(
    tmp_path: Path,
) -> None:
    manifest = image("a")
    async with Catalog.open(tmp_path / "catalog.sqlite") as catalog:
        await catalog.add_manifest(EVIL, "evil.example/app", index(mips=manifest), now=1.0)
        await catalog.add_manifest(NGINX, SOURCE, manifest, now=2.0)
        [alone] = await catalog.manifests(NGINX)
        assert alone.platform is None
        await catalog.add_manifest(DEBIAN, SOURCE, index(amd64=manifest), now=3.0)
        await catalog.add_manifest(DEBIAN, SOURCE, manifest, now=4.0)
        platforms = {each.digest: each.platform for each in await catalog.manifests(DEBIAN)}
        assert platforms[manifest.digest] == "linux/amd64"


async def test_s08_a_catalog_of_version_3_keeps_the_media_types_that_it_has(tmp_path: Path) -> None:
    amd, arm = image("base", "amd"), image("base", "arm")
    both = index(amd64=amd, arm64=arm)
    path = tmp_path / "catalog.sqlite"
    with sqlite3.connect(path) as connection:
        connection.executescript(VERSION_3.read_text())
    connection.close()
    for _ in range(2):
        async with Catalog.open(path) as catalog:
            assert await media_types_of(catalog, NGINX) == {
                both.digest: OCI_INDEX,
                amd.digest: OCI_MANIFEST,
            }
            assert await media_types_of(catalog, DEBIAN) == {arm.digest: OCI_MANIFEST}
            assert await catalog.manifest(amd.digest, NGINX) == amd
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        # A kill between the new column and its content: the version was not written yet.
        connection.executescript(
            "UPDATE repository_manifests SET media_type = ''; PRAGMA user_version = 3;"
        )
    connection.close()
    async with Catalog.open(path) as catalog:
        assert await media_types_of(catalog, DEBIAN) == {arm.digest: OCI_MANIFEST}
