"""What is kept in memory of each repository, and how much of it at the most."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from entrepot.cache import index as index_module
from entrepot.cache.index import DIGESTS, RECENT_BLOBS, RESOLVED_TAGS, CacheIndex, RepositoryIndex
from entrepot.core.media_types import OCI_INDEX, OCI_MANIFEST
from entrepot.core.reference import Digest, Repository, Tag
from entrepot.store.catalog import Catalog
from entrepot.store.manifests import Descriptor, Manifest, ReferenceKind
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
    for each in manifests:
        await cache_index.add_manifest(NGINX, SOURCE, each, tags=[], now=1.0)
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
