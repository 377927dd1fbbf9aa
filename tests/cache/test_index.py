"""What is kept in memory of each repository, and how much of it at the most."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from entrepot.cache import index as index_module
from entrepot.cache.bounded import Tally
from entrepot.cache.index import ABSENT, UNCACHED_REPOSITORIES, CacheIndex, RepositoryIndex
from entrepot.cache.unwritten import UnwrittenManifests
from entrepot.core.media_types import OCI_MANIFEST
from entrepot.core.reference import Digest, Repository, Tag
from entrepot.store import lookups as lookups_module
from entrepot.store.catalog import Catalog
from entrepot.store.connections import CatalogFailed
from entrepot.store.lookups import Lookup, TagTarget
from entrepot.store.manifests import Descriptor, Manifest, ReferenceKind
from entrepot.store.records import TagEntry
from tests.cache.conftest import counted_reads
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
        index = CacheIndex(catalog)
        yield index
        await index.close()


@pytest.fixture
def reads(cache_index: CacheIndex, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The reads of the catalog."""
    return counted_reads(cache_index._catalog, monkeypatch)


async def test_s31_what_all_repositories_make_us_remember_is_bounded(
    cache_index: CacheIndex,
) -> None:
    cache_index._requests.max_entries = 1_000
    for repository in range(50):
        requests = cache_index.requests(Repository(f"library/r{repository}"))
        for number in range(100):
            requests.source_confirmed(Tag(f"t{number}"), digest(number), OCI_MANIFEST, 5, 1.0)
        assert cache_index._requests.entries <= 1_000 + 200
    last, first = (
        cache_index.requests(Repository("library/r49")),
        cache_index.requests(Repository("library/r0")),
    )
    assert (len(last.resolved), len(first.resolved)) == (100, 0)


async def test_s31_a_repository_that_is_forgotten_counts_no_more(cache_index: CacheIndex) -> None:
    cache_index._requests.limit = 1
    for name in ("library/a", "library/b"):
        cache_index.requests(Repository(name)).source_confirmed(
            Tag("1"), digest(1), OCI_MANIFEST, 5, 1.0
        )
    assert cache_index._requests.entries == 2
    cache_index.invalidate(Repository("library/b"))
    assert cache_index._requests.entries == 0


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
    index = RepositoryIndex(Tally())
    unsized = Descriptor(digest("layer"), ReferenceKind.LAYER, "text/plain", None)
    index.add_manifest(image_of("with size", "layer"))
    index.add_manifest(Manifest(b"{}", OCI_MANIFEST, digest("without"), (unsized,)))
    assert index.blobs[digest("layer")].size == 5
    other = RepositoryIndex(Tally())
    other.add_manifest(Manifest(b"{}", OCI_MANIFEST, digest("without"), (unsized,)))
    other.add_manifest(image_of("with size", "layer"))
    assert other.blobs[digest("layer")].size == 5


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
    requests = cache_index.requests(NGINX)
    requests.source_confirmed(Tag("1"), manifest.digest, OCI_MANIFEST, 5, 1.0)
    await cache_index.add_manifest(NGINX, SOURCE, manifest, tags=[Tag("1")], now=1.0)
    assert Tag("1") not in requests.resolved
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
    cache_index.requests(NGINX).record_request(manifest, Tag("1"))
    await cache_index._catalog.delete_manifest(NGINX, manifest.digest)
    cache_index.invalidate_evicted([NGINX])
    assert await cache_index.manifest_of(NGINX, manifest.digest) is None
    assert cache_index.requests(NGINX).tag_of[manifest.digest] == Tag("1")
    assert cache_index.tag_in_memory(NGINX, Tag("1")) is None


async def test_what_was_read_before_an_invalidation_is_not_stored_after_it(
    cache_index: CacheIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The catalog may have answered before a tag was deleted, and the answer come after it."""
    manifest = image("layer")
    await cache_index.add_manifest(NGINX, SOURCE, manifest, tags=[Tag("1")], now=1.0)
    cache_index.invalidate_tag(NGINX, Tag("1"))
    read = cache_index._catalog.lookup_tag

    async def read_late(repository: Repository, tag: Tag) -> Lookup[TagTarget]:
        lookup = await read(repository, tag)
        cache_index.invalidate_tag(repository, tag)
        return lookup

    monkeypatch.setattr(cache_index._catalog, "lookup_tag", read_late)
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


# What is known not to be cached


async def look_up_all(index: CacheIndex, repository: Repository = NGINX) -> list[bool]:
    """Whether the repository, a tag, a manifest and a blob are cached."""
    manifest = image("layer")
    return [
        await index.is_cached(repository),
        await index.tag(repository, Tag("1")) is not None,
        await index.manifest_of(repository, manifest.digest) is not None,
        await index.blob_of(repository, manifest.blobs[0].digest) is not None,
    ]


async def test_of_an_uncached_repository_the_catalog_is_asked_once(
    cache_index: CacheIndex, reads: list[str]
) -> None:
    for _ in range(2):
        assert await look_up_all(cache_index) == [False] * 4
    assert len(reads) == 1


async def test_what_a_cached_repository_does_not_have_is_looked_up_once(
    cache_index: CacheIndex, reads: list[str]
) -> None:
    await cache_index.add_manifest(NGINX, SOURCE, image("other"), tags=[Tag("2")], now=1.0)
    for _ in range(3):
        assert await look_up_all(cache_index) == [True, False, False, False]
    assert len(reads) == 3


async def test_requests_at_the_same_time_share_one_read(
    cache_index: CacheIndex, reads: list[str]
) -> None:
    entries = await asyncio.gather(*(cache_index.tag(NGINX, Tag("1")) for _ in range(100)))
    assert (entries, len(reads)) == ([None] * 100, 1)


@pytest.mark.parametrize("is_cached", [False, True])
async def test_a_manifest_that_comes_is_no_longer_known_not_to_be_cached(
    is_cached: bool, cache_index: CacheIndex
) -> None:
    if is_cached:
        await cache_index.add_manifest(NGINX, SOURCE, image("other"), tags=[], now=1.0)
    assert await look_up_all(cache_index) == [is_cached, False, False, False]
    await cache_index.add_manifest(NGINX, SOURCE, image("layer"), tags=[Tag("1")], now=1.0)
    assert await look_up_all(cache_index) == [True] * 4


async def test_a_tag_that_is_pointed_at_a_manifest_is_no_longer_known_not_to_be_cached(
    cache_index: CacheIndex,
) -> None:
    manifest = image("layer")
    await cache_index.add_manifest(NGINX, SOURCE, manifest, tags=[], now=1.0)
    assert await look_up_all(cache_index) == [True, False, True, True]
    assert await cache_index.point_tag(NGINX, Tag("1"), manifest.digest, now=1.0)
    assert await look_up_all(cache_index) == [True] * 4


async def test_what_is_written_after_memory_forgot_it_is_no_longer_known_not_to_be_cached(
    cache_index: CacheIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S19: a write hangs, and succeeds when its manifest is in memory no longer."""
    monkeypatch.setattr(index_module, "WRITE_TIMEOUT", 0.01)
    async with cache_index._catalog._writing:
        await cache_index.add_manifest(NGINX, SOURCE, image("layer"), tags=[Tag("1")], now=1.0)
        [hanging] = cache_index._hanging
        cache_index._unwritten = UnwrittenManifests()
        cache_index.invalidate(NGINX)
        cache_index.invalidate_manifests()
        assert await look_up_all(cache_index) == [False] * 4
    assert await hanging
    assert await look_up_all(cache_index) == [True] * 4


async def test_a_manifest_in_memory_only_is_cached_whatever_the_catalog_says(
    cache_index: CacheIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise CatalogFailed("The catalog fails: database or disk is full.")

    monkeypatch.setattr(cache_index._catalog, "add_manifest", fail)
    assert await look_up_all(cache_index) == [False] * 4
    await cache_index.add_manifest(NGINX, SOURCE, image("layer"), tags=[Tag("1")], now=1.0)
    cache_index.invalidate(NGINX)
    cache_index.invalidate_manifests()
    assert (await look_up_all(cache_index))[1:] == [True] * 3


@pytest.mark.parametrize("invalidate", ["invalidate", "invalidate_evicted"])
async def test_a_repository_that_is_deleted_or_evicted_is_not_cached(
    invalidate: str, cache_index: CacheIndex
) -> None:
    await cache_index.add_manifest(NGINX, SOURCE, image("layer"), tags=[Tag("1")], now=1.0)
    assert await look_up_all(cache_index) == [True] * 4
    await cache_index._catalog.delete_repository(NGINX)
    getattr(cache_index, invalidate)(NGINX if invalidate == "invalidate" else [NGINX])
    assert await look_up_all(cache_index) == [False] * 4
    await cache_index.add_manifest(NGINX, SOURCE, image("layer"), tags=[Tag("1")], now=2.0)
    assert await look_up_all(cache_index) == [True] * 4


async def test_an_answer_from_before_a_manifest_came_is_not_stored_after_it(
    cache_index: CacheIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, has_read, goes_on = cache_index._catalog.lookup_tag, asyncio.Event(), asyncio.Event()

    async def read_early(repository: Repository, tag: Tag) -> Lookup[TagTarget]:
        lookup = await read(repository, tag)
        has_read.set()
        await goes_on.wait()
        return lookup

    monkeypatch.setattr(cache_index._catalog, "lookup_tag", read_early)
    early = asyncio.create_task(cache_index.tag(NGINX, Tag("1")))
    await has_read.wait()
    await cache_index.add_manifest(NGINX, SOURCE, image("layer"), tags=[Tag("1")], now=1.0)
    goes_on.set()
    assert await early is None
    assert await look_up_all(cache_index) == [True] * 4


async def test_s31_unknown_tags_and_repositories_are_remembered_within_bounds(
    cache_index: CacheIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cache_index.add_manifest(NGINX, SOURCE, image("layer"), tags=[Tag("1")], now=1.0)
    entries = cache_index._repositories.entries

    async def none(repository: Repository, _: Tag) -> Lookup[TagTarget]:
        return Lookup(SOURCE if repository == NGINX else None)

    monkeypatch.setattr(cache_index._catalog, "lookup_tag", none)
    for number in range(ABSENT + 100):
        await cache_index.tag(NGINX, Tag(f"t{number}"))
    assert cache_index._repositories.entries == entries + ABSENT
    for number in range(UNCACHED_REPOSITORIES + 100):
        await cache_index.tag(Repository(f"unknown/r{number}"), Tag("1"))
    assert len(cache_index._uncached) == UNCACHED_REPOSITORIES
    assert len(cache_index._repositories) == 1
    assert await look_up_all(cache_index) == [True] * 4


async def test_an_unknown_tag_that_is_requested_often_survives_a_flood_of_others(
    cache_index: CacheIndex, reads: list[str]
) -> None:
    await cache_index.add_manifest(NGINX, SOURCE, image("layer"), tags=[Tag("1")], now=1.0)
    await cache_index.tag(NGINX, Tag("often"))
    for number in range(ABSENT + 100):
        cache_index._repositories.of(NGINX).record_absent(Tag(f"t{number}"))
        if number % 1_000 == 0:
            await cache_index.tag(NGINX, Tag("often"))
    assert len(reads) == 1


# One thing of a large repository


async def test_one_thing_of_a_large_repository_is_one_read_of_a_few_rows(
    cache_index: CacheIndex, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten thousand manifests and their blobs were read for the first request (L14)."""
    monkeypatch.setattr(lookups_module, "FEW_MANIFESTS", 10)
    for number in range(20):
        await cache_index._catalog.add_manifest(
            NGINX, SOURCE, image(f"own {number}", "base"), tags=[Tag(str(number))], now=1.0
        )
    manifest = image("own 7", "base")
    entry = await cache_index.tag(NGINX, Tag("7"))
    assert entry is not None
    assert await cache_index.manifest_of(NGINX, entry.digest) == manifest
    for blob in manifest.blobs:
        assert await cache_index.blob_of(NGINX, blob.digest) == blob
    assert len(reads) == 1
    assert cache_index._repositories.entries == 1 + 1 + len(manifest.blobs)
    other = image("own 8", "base")
    assert await cache_index.blob_of(NGINX, other.blobs[1].digest) == other.blobs[1]
    assert await cache_index.blob_of(NGINX, digest("none")) is None
    assert len(reads) == 3
