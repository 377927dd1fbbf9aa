"""Tags and manifests of a repository, as a listing shows them."""

from __future__ import annotations

from entrepot.core.reference import Tag
from entrepot.store.catalog import (
    Catalog,
)
from tests.store.samples import DEBIAN, NGINX, SOURCE, cache_blobs, image, index


async def test_a_repository_counts_each_cached_blob_once_and_no_other(
    catalog: Catalog,
) -> None:
    first, second = image("base", "a"), image("base", "b")
    await catalog.add_manifest(NGINX, SOURCE, first, tags=[Tag("1")], now=1.0)
    await catalog.add_manifest(NGINX, SOURCE, second, tags=[Tag("2")], now=2.0)
    await cache_blobs(catalog, first)
    [repository] = await catalog.repositories()
    assert (repository.tags, repository.manifests) == (2, 2)
    assert repository.size == 10 + 100 + 100 + len(first.content) + len(second.content)
    assert await catalog.repositories(DEBIAN) == []


async def test_a_tag_names_only_the_platforms_that_are_cached(catalog: Catalog) -> None:
    amd, arm = image("amd"), image("arm")
    both = index(amd64=amd, arm64=arm)
    await catalog.add_manifest(NGINX, SOURCE, both, tags=[Tag("1.27")], now=1.0)
    await catalog.add_manifest(NGINX, SOURCE, arm, now=1.0)
    await cache_blobs(catalog, arm)
    [tag] = await catalog.tags(NGINX)
    assert tag.platforms == ("linux/arm64",)
    assert tag.size == 110 + len(arm.content) + len(both.content)


async def test_a_manifest_lists_its_tags(catalog: Catalog) -> None:
    manifest = image("a")
    await catalog.add_manifest(NGINX, SOURCE, manifest, tags=[Tag("1"), Tag("1.27")], now=1.0)
    [listed] = await catalog.manifests(NGINX)
    assert (listed.digest, listed.tags, listed.size) == (
        manifest.digest,
        ("1", "1.27"),
        len(manifest.content),
    )
