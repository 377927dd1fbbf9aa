"""What is behind a tag: images, layers, what of them is held, and who shares them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from entrepot.core.media_types import OCI_INDEX, OCI_MANIFEST
from entrepot.core.reference import Digest, Repository, Tag
from entrepot.core.states import CachedState
from entrepot.store.catalog import Catalog
from entrepot.store.manifests import Manifest
from entrepot.store.tag_contents import TagContents
from entrepot.store.usage import Usage
from tests.store.samples import blobs_of

NGINX, DEBIAN, REDIS = (
    Repository("library/nginx"),
    Repository("library/debian"),
    Repository("library/redis"),
)
CONFIG, LAYER = 10, 100
"""The sizes of every config and every layer, in bytes."""


def digest(name: str) -> Digest:
    return Digest.of(name.encode())


def image(name: str, *layers: str) -> Manifest:
    config = {
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": str(digest(f"config of {name}")),
        "size": CONFIG,
    }
    listed = [
        {
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": str(digest(each)),
            "size": LAYER,
        }
        for each in layers
    ]
    content = json.dumps({"schemaVersion": 2, "config": config, "layers": listed}).encode()
    return Manifest.of(content, OCI_MANIFEST, Digest.of(content))


def listed(
    manifest: Manifest, platform: str, annotations: dict[str, str] | None = None
) -> dict[str, Any]:
    system, architecture = platform.split("/")
    entry: dict[str, Any] = {
        "mediaType": manifest.media_type,
        "digest": str(manifest.digest),
        "size": len(manifest.content),
    }
    return (
        entry
        | {"platform": {"os": system, "architecture": architecture}}
        | ({"annotations": annotations} if annotations else {})
    )


def index(*entries: dict[str, Any]) -> Manifest:
    content = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
    return Manifest.of(content, OCI_INDEX, Digest.of(content))


@pytest.fixture
async def catalog(tmp_path: Path) -> AsyncIterator[Catalog]:
    async with Catalog.open(tmp_path / "catalog.sqlite") as catalog:
        yield catalog


async def keep(
    catalog: Catalog,
    repository: Repository,
    manifest: Manifest,
    *tags: str,
    with_blobs: bool = True,
) -> Manifest:
    await catalog.add_manifest(
        repository, f"docker.io/{repository}", manifest, tags=[Tag(each) for each in tags], now=1.0
    )
    for blob in manifest.blobs if with_blobs else ():
        assert blob.size is not None
        await catalog.add_blob(blob.digest, blob.size, now=1.0)
    return manifest


async def behind(catalog: Catalog, repository: Repository, tag: str) -> TagContents:
    contents = await catalog.tag_contents(repository, Tag(tag))
    assert contents is not None
    return contents


async def test_of_an_index_the_platforms_that_were_not_pulled_are_told_too(
    catalog: Catalog,
) -> None:
    amd, arm = image("amd", "a", "b"), image("arm", "c")
    top = await keep(
        catalog, NGINX, index(listed(amd, "linux/amd64"), listed(arm, "linux/arm64")), "1"
    )
    await keep(catalog, NGINX, amd)
    contents = await behind(catalog, NGINX, "1")
    assert (contents.is_index, contents.media_type, contents.tag.platforms) == (
        True,
        OCI_INDEX,
        ("linux/amd64",),
    )
    first, second = contents.images
    assert (first.digest, first.platform, first.cached_state) == (
        str(amd.digest),
        "linux/amd64",
        CachedState.CACHED,
    )
    assert first.size == first.cached_size == len(amd.content) + CONFIG + 2 * LAYER
    assert first.config is not None
    assert (first.config.digest, first.config.size, first.config.cached) == (
        str(digest("config of amd")),
        CONFIG,
        True,
    )
    assert [(each.digest, each.cached) for each in first.layers] == [
        (str(digest("a")), True),
        (str(digest("b")), True),
    ]
    assert (
        second.digest,
        second.platform,
        second.cached_state,
        second.size,
        second.cached_size,
    ) == (
        str(arm.digest),
        "linux/arm64",
        CachedState.NOT_CACHED,
        None,
        0,
    )
    assert (second.media_type, second.config, second.layers) == (OCI_MANIFEST, None, ())
    assert contents.own_size == contents.tag.size == len(top.content) + first.cached_size
    assert contents.shared_size == 0
    [listing] = await catalog.tags(NGINX)
    assert listing == contents.tag


async def test_an_image_without_an_index_is_the_only_one(catalog: Catalog) -> None:
    only = await keep(catalog, NGINX, image("only", "a"), "1")
    contents = await behind(catalog, NGINX, "1")
    assert (contents.is_index, [each.digest for each in contents.images]) == (
        False,
        [str(only.digest)],
    )


async def test_an_image_without_some_of_its_layers_is_partly_cached(catalog: Catalog) -> None:
    partly = await keep(catalog, NGINX, image("partly", "a", "b"), "1", with_blobs=False)
    assert (await behind(catalog, NGINX, "1")).images[0].cached_state is CachedState.NOT_CACHED
    await catalog.add_blob(digest("a"), LAYER, now=1.0)
    [contents] = (await behind(catalog, NGINX, "1")).images
    assert (contents.cached_state, contents.cached_size) == (
        CachedState.PARTLY_CACHED,
        len(partly.content) + LAYER,
    )
    assert [each.cached for each in contents.layers] == [True, False]


async def test_an_attestation_says_which_image_it_is_about(catalog: Catalog) -> None:
    amd, statement = image("amd", "a"), image("statement", "in-toto")
    about = {
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": str(amd.digest),
    }
    await keep(
        catalog,
        NGINX,
        index(listed(amd, "linux/amd64"), listed(statement, "unknown/unknown", about)),
        "1",
    )
    contents = await behind(catalog, NGINX, "1")
    assert [(each.platform, each.attests) for each in contents.images] == [
        ("linux/amd64", None),
        (None, str(amd.digest)),
    ]


async def test_a_layer_names_the_images_that_share_it(catalog: Catalog) -> None:
    mine = await keep(catalog, NGINX, image("nginx 1.27", "base", "nginx 1.27"), "1.27")
    await keep(catalog, NGINX, image("nginx 1.26", "base", "nginx 1.26"), "1.26")
    debian = image("debian 12", "base")
    await keep(catalog, DEBIAN, index(listed(debian, "linux/amd64")), "12", "bookworm")
    await keep(catalog, DEBIAN, debian)
    await keep(catalog, REDIS, image("redis", "base", "redis"))
    contents = await behind(catalog, NGINX, "1.27")
    base, own = contents.images[0].layers
    assert (base.shared_images, base.shared_repositories, base.shared_with) == (
        3,
        2,
        ("library/debian:12", "library/redis"),
    )
    assert (own.shared_images, own.shared_repositories, own.shared_with) == (0, 0, ())
    assert (contents.own_size, contents.shared_size) == (len(mine.content) + CONFIG + LAYER, LAYER)


async def test_images_behind_the_same_tag_do_not_share_with_each_other(catalog: Catalog) -> None:
    amd, arm = image("amd", "same"), image("arm", "same")
    await keep(catalog, NGINX, index(listed(amd, "linux/amd64"), listed(arm, "linux/arm64")), "1")
    for manifest in (amd, arm):
        await keep(catalog, NGINX, manifest)
    contents = await behind(catalog, NGINX, "1")
    assert {each.shared_images for image in contents.images for each in image.layers} == {0}
    assert contents.shared_size == 0


async def test_what_another_tag_leads_to_as_well_is_not_the_tag_s_own(catalog: Catalog) -> None:
    amd = image("amd", "a")
    top = index(listed(amd, "linux/amd64"))
    await keep(catalog, NGINX, top, "1", "latest")
    await keep(catalog, NGINX, amd)
    contents = await behind(catalog, NGINX, "1")
    assert (contents.own_size, contents.shared_size, contents.also_tagged) == (
        0,
        contents.tag.size,
        ("latest",),
    )
    await keep(
        catalog,
        NGINX,
        index(listed(amd, "linux/amd64"), listed(image("new", "b"), "linux/arm64")),
        "latest",
    )
    moved = await behind(catalog, NGINX, "1")
    assert (moved.own_size, moved.also_tagged) == (len(top.content), ())


async def test_the_same_image_in_another_repository_is_shared_whole(catalog: Catalog) -> None:
    for repository in (NGINX, REDIS):
        await keep(catalog, repository, image("same", "a"), "1")
    contents = await behind(catalog, NGINX, "1")
    assert (contents.own_size, contents.images[0].layers[0].shared_with) == (
        0,
        ("library/redis:1",),
    )


async def test_an_index_within_an_index_stands_for_its_images(catalog: Catalog) -> None:
    amd, arm = image("amd", "a"), image("arm", "b")
    inner = index(listed(arm, "linux/arm64"))
    await keep(catalog, NGINX, inner)
    entry = {"mediaType": OCI_INDEX, "digest": str(inner.digest), "size": len(inner.content)}
    await keep(catalog, NGINX, index(listed(amd, "linux/amd64"), entry), "1")
    assert [each.digest for each in (await behind(catalog, NGINX, "1")).images] == [
        str(amd.digest),
        str(arm.digest),
    ]


async def test_the_last_use_of_an_image_is_a_pull_or_a_look(catalog: Catalog) -> None:
    used = await keep(catalog, NGINX, image("used", "a"), "1")
    assert (await behind(catalog, NGINX, "1")).images[0].last_used is None
    await catalog.record_usage(Usage({}, {}, {(NGINX, used.digest): 5.0}, {}))
    await catalog.record_usage(Usage({}, {}, {}, {}, {(NGINX, used.digest): 9.0}))
    await catalog.lock_manifest(NGINX, used.digest, True)
    [contents] = (await behind(catalog, NGINX, "1")).images
    assert (contents.last_used, contents.locked) == (9.0, True)


async def test_a_tag_that_is_not_there(catalog: Catalog) -> None:
    await keep(catalog, NGINX, image("a"), "1")
    assert await catalog.tag_contents(NGINX, Tag("2")) is None
    assert await catalog.tag_contents(REDIS, Tag("1")) is None


async def test_a_chain_of_a_thousand_indexes_is_followed_to_its_image(catalog: Catalog) -> None:
    """S34: the stack of Python ended before the chain did."""
    amd = image("amd")
    await catalog.add_manifest(NGINX, "docker.io/library/nginx", amd, now=1.0)
    below = amd
    for _ in range(1_000):
        below = index(listed(below, "linux/amd64"))
        await catalog.add_manifest(NGINX, "docker.io/library/nginx", below, now=1.0)
    await catalog.add_manifest(NGINX, "docker.io/library/nginx", below, tags=[Tag("1")], now=1.0)
    contents = await catalog.tag_contents(NGINX, Tag("1"))
    assert contents is not None
    assert [each.digest for each in contents.images] == [str(amd.digest)]


async def test_f82_a_size_that_no_manifest_states_is_not_known_until_the_blob_is_here(
    catalog: Catalog,
) -> None:
    """What came counts, also where the manifest states something else."""
    descriptors = [
        {"digest": str(digest(name)), "size": size}
        for name, size in (("a", -1), ("b", 7), ("c", None))
    ]
    content = json.dumps({"schemaVersion": 2, "layers": descriptors}).encode()
    odd = await keep(
        catalog,
        NGINX,
        Manifest.of(content, OCI_MANIFEST, Digest.of(content)),
        "1",
        with_blobs=False,
    )
    [first_image] = (await behind(catalog, NGINX, "1")).images
    assert (first_image.size, [each.size for each in first_image.layers]) == (
        None,
        [None, 7, None],
    )
    assert [each.size for each in (await blobs_of(catalog, NGINX)).values()] == [None, 7, None]
    for name, size in (("a", 100), ("b", 8)):
        await catalog.add_blob(digest(name), size, now=1.0)
    contents = await behind(catalog, NGINX, "1")
    assert (contents.images[0].size, contents.images[0].cached_size) == (
        None,
        len(odd.content) + 108,
    )
    await catalog.add_blob(digest("c"), 1000, now=1.0)
    contents = await behind(catalog, NGINX, "1")
    assert (contents.images[0].size, contents.tag.size, contents.images[0].cached_state) == (
        len(odd.content) + 1108,
        len(odd.content) + 1108,
        CachedState.CACHED,
    )
    assert [each.size for each in contents.images[0].layers] == [100, 8, 1000]


async def test_f82_where_one_manifest_states_a_size_it_is_that_of_the_blob(
    catalog: Catalog,
) -> None:
    for size in (5, None):
        content = json.dumps(
            {"schemaVersion": 2, "layers": [{"digest": str(digest("a")), "size": size}]}
        ).encode()
        await keep(
            catalog, NGINX, Manifest.of(content, OCI_MANIFEST, Digest.of(content)), with_blobs=False
        )
    assert [each.size for each in (await blobs_of(catalog, NGINX)).values()] == [5]
