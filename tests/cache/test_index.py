"""What is kept in memory of each repository, and how much of it at the most."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from entrepot.cache import index as index_module
from entrepot.cache.index import DIGESTS, RECENT_BLOBS, RESOLVED_TAGS, CacheIndex, RepositoryIndex
from entrepot.core.media_types import OCI_INDEX, OCI_MANIFEST
from entrepot.core.reference import Digest, Repository, Tag
from entrepot.store.catalog import Catalog
from entrepot.store.connections import CatalogFailed
from entrepot.store.manifests import Descriptor, Manifest, ReferenceKind
from entrepot.store.records import TagEntry
from tests.store.samples import SOURCE, image

NGINX = Repository("library/nginx")


def digest(name: object) -> Digest:
    return Digest.of(str(name).encode())


def descriptor(
    name: object, kind: ReferenceKind = ReferenceKind.LAYER, platform: str | None = None
) -> Descriptor:
    return Descriptor(digest(name), kind, "application/octet-stream", 5, platform)


def image_of(name: object, *layers: object) -> Manifest:
    return Manifest(b"{}", OCI_MANIFEST, digest(name), tuple(descriptor(each) for each in layers))


@pytest.fixture
async def cache_index(tmp_path: Path) -> AsyncIterator[CacheIndex]:
    async with Catalog.open(tmp_path / "catalog.sqlite") as catalog:
        yield CacheIndex(catalog)


def test_s31_what_one_repository_makes_us_remember_is_bounded() -> None:
    index = RepositoryIndex({}, {})
    for number in range(5_000):
        index.source_confirmed(Tag(f"t{number}"), digest(number), OCI_MANIFEST, 5, 1.0)
        index.record_request(image_of(number, f"a{number}", f"b{number}"), Tag(f"t{number}"))
    children = tuple(
        descriptor(number, ReferenceKind.MANIFEST, "linux/amd64") for number in range(5_000)
    )
    index.record_request(Manifest(b"{}", OCI_INDEX, digest("index"), children), Tag("index"))
    assert len(index.resolved) == RESOLVED_TAGS
    assert [len(each) for each in (index.tag_of, index.platform_of)] == [DIGESTS] * 2
    assert sum(1 + len(blobs) for blobs in index._recent.values()) <= RECENT_BLOBS
    # What was asked for last is what is still known.
    assert index.latest_image_with(digest("b4999")) == digest(4999)
    assert index.latest_image_with(digest("b0")) is None
    assert index.tag_of[digest(4999)] == "index"


async def test_s31_what_all_repositories_make_us_remember_is_bounded(
    cache_index: CacheIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "MAX_REMEMBERED", 1_000)
    for repository in range(50):
        index = await cache_index.of(Repository(f"library/r{repository}"))
        for number in range(100):
            index.source_confirmed(Tag(f"t{number}"), digest(number), OCI_MANIFEST, 5, 1.0)
        assert cache_index._tally.count <= 1_000 + 200
    last, first = (
        await cache_index.of(Repository("library/r49")),
        await cache_index.of(Repository("library/r0")),
    )
    assert (len(last.resolved), len(first.resolved)) == (100, 0)


async def test_s31_a_repository_that_is_forgotten_counts_no_more(
    cache_index: CacheIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "REPOSITORIES", 1)
    for name in ("library/a", "library/b"):
        (await cache_index.of(Repository(name))).source_confirmed(
            Tag("1"), digest(1), OCI_MANIFEST, 5, 1.0
        )
    assert cache_index._tally.count == 2
    cache_index.invalidate(Repository("library/b"))
    assert cache_index._tally.count == 0


def test_s31_the_bytes_of_images_that_were_asked_for_are_not_kept_with_their_blobs() -> None:
    """A hundred images of eight megabytes for each repository would be."""
    index = RepositoryIndex({}, {})
    manifest = image_of("big", "layer")
    index.record_request(manifest, None)
    assert index.latest_image_with(digest("layer")) == manifest.digest
    assert list(index._recent.values()) == [frozenset({digest("layer")})]


async def test_manifests_in_memory_are_counted_with_the_view_of_them(
    cache_index: CacheIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifests = [image(f"layer{number}") for number in range(3)]
    monkeypatch.setattr(
        index_module,
        "MANIFEST_BYTES",
        2 * (len(manifests[0].content) + 2 * index_module.REFERENCE_BYTES),
    )
    for manifest in manifests:
        await cache_index.add_manifest(NGINX, SOURCE, manifest, tags=[], now=1.0)
    assert list(cache_index._manifests) == [each.digest for each in manifests[1:]]
    assert await cache_index.manifest_of(NGINX, manifests[0].digest) == manifests[0]


async def test_f67_a_manifest_that_no_catalog_takes_is_not_kept_in_memory_either(
    cache_index: CacheIndex,
) -> None:
    impossible = Manifest(
        b"{}",
        OCI_MANIFEST,
        digest("big"),
        (Descriptor(digest("layer"), ReferenceKind.LAYER, "text/plain", 2**64),),
    )
    with pytest.raises(OverflowError):
        await cache_index.add_manifest(NGINX, SOURCE, impossible, tags=[Tag("1")], now=1.0)
    assert await cache_index.tag(NGINX, Tag("1")) is None
    assert await cache_index.manifest_of(NGINX, impossible.digest) is None
    assert await cache_index.write_unwritten() == 0


# What the index of a repository decides


def test_a_size_that_a_manifest_states_replaces_one_that_is_not_known() -> None:
    """F82: another manifest of the repository may name the same blob without its size."""
    index = RepositoryIndex({}, {})
    unsized = Descriptor(digest("layer"), ReferenceKind.LAYER, "text/plain", None)
    index.add_manifest(image_of("with size", "layer"))
    index.add_manifest(Manifest(b"{}", OCI_MANIFEST, digest("without"), (unsized,)))
    assert index.blobs[digest("layer")].size == 5
    other = RepositoryIndex({}, {})
    other.add_manifest(Manifest(b"{}", OCI_MANIFEST, digest("without"), (unsized,)))
    other.add_manifest(image_of("with size", "layer"))
    assert other.blobs[digest("layer")].size == 5


def test_the_images_of_an_index_have_its_tag_and_the_platforms_that_it_states() -> None:
    index = RepositoryIndex({}, {})
    child = descriptor("image", ReferenceKind.MANIFEST, "linux/amd64")
    index.record_request(Manifest(b"{}", OCI_INDEX, digest("index"), (child,)), Tag("1"))
    assert index.tag_of[digest("image")] == index.tag_of[digest("index")] == Tag("1")
    assert index.platform_of[digest("image")] == "linux/amd64"


def test_a_layer_of_several_images_belongs_to_the_one_requested_last() -> None:
    index = RepositoryIndex({}, {})
    first, second = image_of("first", "layer"), image_of("second", "layer")
    for manifest in (first, second, first):
        index.record_request(manifest, None)
    assert index.latest_image_with(digest("layer")) == first.digest
    assert index.latest_image_with(digest("other")) is None


def test_the_tags_of_a_digest_are_those_that_the_source_confirmed_last() -> None:
    """containerd sends a HEAD for a tag and then a GET for the digest."""
    index = RepositoryIndex({}, {})
    for tag, name in (("1", "old"), ("2", "old"), ("1", "new")):
        index.source_confirmed(Tag(tag), digest(name), OCI_MANIFEST, 5, 1.0)
    assert index.tags_resolved_to(digest("old")) == [Tag("2")]
    assert index.tags_resolved_to(digest("new")) == [Tag("1")]


# What all of them decide


async def test_a_manifest_has_the_media_type_of_its_own_repository(
    cache_index: CacheIndex,
) -> None:
    """S08: the same bytes, which another source calls something else."""
    ours, theirs = NGINX, Repository("library/redis")
    manifest = image("layer")
    other = replace(manifest, media_type="application/vnd.example")
    await cache_index.add_manifest(ours, SOURCE, manifest, tags=[], now=1.0)
    await cache_index.add_manifest(theirs, SOURCE, other, tags=[], now=1.0)
    for repository, expected in ((ours, manifest), (theirs, other)):
        assert await cache_index.manifest_of(repository, manifest.digest) == expected


async def test_a_digest_opens_no_manifest_of_another_repository(cache_index: CacheIndex) -> None:
    manifest = image("layer")
    await cache_index.add_manifest(NGINX, SOURCE, manifest, tags=[Tag("1")], now=1.0)
    assert await cache_index.manifest_of(Repository("library/redis"), manifest.digest) is None


async def test_a_tag_that_was_only_resolved_is_forgotten_with_its_manifest_cached(
    cache_index: CacheIndex,
) -> None:
    manifest = image("layer")
    index = await cache_index.of(NGINX)
    index.source_confirmed(Tag("1"), manifest.digest, OCI_MANIFEST, 5, 1.0)
    await cache_index.add_manifest(NGINX, SOURCE, manifest, tags=[Tag("1")], now=1.0)
    assert Tag("1") not in index.resolved
    assert await cache_index.tag(NGINX, Tag("1")) == TagEntry(manifest.digest, 1.0, 1.0)


async def test_a_tag_keeps_the_time_at_which_its_manifest_was_cached(
    cache_index: CacheIndex,
) -> None:
    manifest = image("layer")
    await cache_index.add_manifest(NGINX, SOURCE, manifest, tags=[Tag("1")], now=1.0)
    assert await cache_index.point_tag(NGINX, Tag("1"), manifest.digest, now=2.0)
    assert cache_index.tag_in_memory(NGINX, Tag("1")) == TagEntry(manifest.digest, 1.0, 2.0)


async def test_no_tag_points_at_a_manifest_that_is_not_cached(cache_index: CacheIndex) -> None:
    assert not await cache_index.point_tag(NGINX, Tag("1"), digest("gone"), now=1.0)
    assert await cache_index.tag(NGINX, Tag("1")) is None


async def test_after_an_eviction_manifests_are_read_again_and_requests_stay(
    cache_index: CacheIndex,
) -> None:
    manifest = image("layer")
    await cache_index.add_manifest(NGINX, SOURCE, manifest, tags=[Tag("1")], now=1.0)
    (await cache_index.of(NGINX)).record_request(manifest, Tag("1"))
    await cache_index._catalog.delete_manifest(NGINX, manifest.digest)
    cache_index.invalidate_evicted([NGINX])
    index = await cache_index.of(NGINX)
    assert (index.manifests, index.tag_of[manifest.digest]) == ({}, Tag("1"))
    assert cache_index.tag_in_memory(NGINX, Tag("1")) is None


async def test_what_was_read_before_an_invalidation_is_not_stored_after_it(
    cache_index: CacheIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The catalog may have answered before a tag was deleted, and the answer come after it."""
    manifest = image("layer")
    await cache_index.add_manifest(NGINX, SOURCE, manifest, tags=[Tag("1")], now=1.0)
    cache_index.invalidate_tag(NGINX, Tag("1"))
    read = cache_index._catalog.tag

    async def read_late(repository: Repository, tag: Tag) -> TagEntry | None:
        entry = await read(repository, tag)
        cache_index.invalidate_tag(repository, tag)
        return entry

    monkeypatch.setattr(cache_index._catalog, "tag", read_late)
    assert await cache_index.tag(NGINX, Tag("1")) is not None
    assert cache_index.tag_in_memory(NGINX, Tag("1")) is None


async def test_while_the_catalog_fails_a_manifest_is_in_memory_until_it_is_written(
    cache_index: CacheIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = image("layer")

    async def fail(*_: object, **__: object) -> None:
        raise CatalogFailed("The catalog fails: database or disk is full.")

    with monkeypatch.context() as full:
        full.setattr(cache_index._catalog, "add_manifest", fail)
        await cache_index.add_manifest(NGINX, SOURCE, manifest, tags=[Tag("1")], now=1.0)
        assert await cache_index.write_unwritten() == 0
    cache_index.invalidate(NGINX)
    cache_index.invalidate_manifests()
    assert await cache_index.manifest_of(NGINX, manifest.digest) == manifest
    assert await cache_index.write_unwritten() == 1
    assert await cache_index._catalog.manifest(manifest.digest) == manifest
