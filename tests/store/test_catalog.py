"""The catalog: what is known appears together or not at all, and survives a restart."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from entrepot.errors import EngineError
from entrepot.reference import Digest, Repository, Tag
from entrepot.store.catalog import SCHEMA_VERSION, Catalog, TagEntry, Usage
from entrepot.store.manifests import OCI_INDEX, OCI_MANIFEST, Manifest

NGINX = Repository("library/nginx")
DEBIAN = Repository("library/debian")
SOURCE = "docker.io/library/nginx"


def descriptor(name: str, size: int, **more: Any) -> dict[str, Any]:
    return {"mediaType": "application/octet-stream", "digest": str(Digest.of(name.encode())), "size": size, **more}


def image(*layers: str) -> Manifest:
    content = json.dumps({"schemaVersion": 2, "config": descriptor(f"config of {layers}", 10), "layers": [descriptor(each, 100) for each in layers]}).encode()
    return Manifest.of(content, OCI_MANIFEST, Digest.of(content))


def index(**images: Manifest) -> Manifest:
    listed = [
        {"mediaType": OCI_MANIFEST, "digest": str(each.digest), "size": len(each.content), "platform": {"os": "linux", "architecture": name}}
        for name, each in images.items()
    ]
    content = json.dumps({"schemaVersion": 2, "manifests": listed}).encode()
    return Manifest.of(content, OCI_INDEX, Digest.of(content))


@pytest.fixture
async def catalog(tmp_path: Path) -> AsyncIterator[Catalog]:
    async with Catalog.open(tmp_path / "catalog.sqlite") as catalog:
        yield catalog


async def hold(catalog: Catalog, manifest: Manifest) -> None:
    for each in manifest.blobs:
        await catalog.add_blob(each.digest, each.size, now=1.0)


async def test_a_manifest_comes_back_byte_for_byte(catalog: Catalog) -> None:
    manifest = image("a", "b")
    await catalog.add_manifest(NGINX, SOURCE, manifest, tags=[Tag("1.27")], now=5.0)
    found = await catalog.manifest(manifest.digest)
    assert found == manifest
    assert await catalog.tag(NGINX, Tag("1.27")) == TagEntry(manifest.digest, cached=5.0, checked=5.0)
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


async def test_checking_a_tag_keeps_since_when_it_is_cached_and_moving_it_does_not(catalog: Catalog) -> None:
    old, new = image("a"), image("b")
    await catalog.add_manifest(NGINX, SOURCE, old, tags=[Tag("latest")], now=1.0)
    await catalog.mark_tag_gone(NGINX, Tag("latest"), now=2.0)
    assert await catalog.tag(NGINX, Tag("latest")) == TagEntry(old.digest, cached=1.0, checked=2.0, gone=True)
    await catalog.point_tag(NGINX, Tag("latest"), old.digest, now=3.0)
    assert await catalog.tag(NGINX, Tag("latest")) == TagEntry(old.digest, cached=1.0, checked=3.0)
    await catalog.add_manifest(NGINX, SOURCE, new, tags=[Tag("latest")], now=4.0)
    assert await catalog.tag(NGINX, Tag("latest")) == TagEntry(new.digest, cached=4.0, checked=4.0)
    assert await catalog.manifests_of(NGINX) == {old.digest, new.digest}


async def test_a_repository_counts_each_held_blob_once_and_none_that_is_not_held(catalog: Catalog) -> None:
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


async def test_the_platform_of_an_image_without_an_index_is_written_down_later(catalog: Catalog) -> None:
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
    assert (listed.digest, listed.tags, listed.size) == (manifest.digest, ("1", "1.27"), len(manifest.content))


async def test_use_is_added_up(catalog: Catalog) -> None:
    manifest = image("a")
    await catalog.add_manifest(NGINX, SOURCE, manifest, tags=[Tag("1")], now=1.0)
    for when in (10.0, 20.0):
        await catalog.record_usage(
            Usage(pulls={NGINX: (2, when)}, tags={(NGINX, Tag("1")): when}, manifests={(NGINX, manifest.digest): when}, blobs={manifest.digest: when})
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
    taken: list[Digest] = []
    assert await catalog.collect(lambda digest: taken.append(digest) or True) == 0
    assert set(taken) == {Digest.of(b"a"), first.blobs[0].digest}
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
    assert await catalog.reconcile({Digest.of(b"both"): 8, Digest.of(b"row is missing"): 9}, now=2.0) == (1, 1)
    assert await catalog.blobs_size() == 17


async def test_a_catalog_of_a_newer_entrepot_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(EngineError, match="newer Entrepot"):
        async with Catalog.open(path):
            pass


async def test_a_file_that_is_no_catalog_is_named_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    path.write_bytes(b"this is not a database" * 100)
    with pytest.raises(EngineError, match=r"catalog\.sqlite can't be opened.*made anew"):
        async with Catalog.open(path):
            pass
    assert path.read_bytes().startswith(b"this is not")
