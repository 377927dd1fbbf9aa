"""S32: what was used is written down once, and not lost when the catalog fails for a while."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from pathlib import Path

import pytest

from entrepot.cache import usage as usage_module
from entrepot.cache.usage import UsageTracker
from entrepot.core.media_types import OCI_INDEX
from entrepot.core.reference import Digest, Repository, Tag
from entrepot.store.catalog import Catalog
from entrepot.store.connections import CatalogFailed
from entrepot.store.manifests import Manifest
from entrepot.store.usage import Usage
from tests.conftest import Clock
from tests.store.samples import NGINX, SOURCE, cache_blobs, image

MANIFEST = image("a")
BLOB = MANIFEST.blobs[0].digest


@pytest.fixture
async def catalog(tmp_path: Path) -> AsyncIterator[Catalog]:
    async with Catalog.open(tmp_path / "catalog.sqlite") as catalog:
        await catalog.add_manifest(NGINX, SOURCE, MANIFEST, tags=[Tag("1")], now=1.0)
        await cache_blobs(catalog, MANIFEST)
        yield catalog


class Disk:
    """Lets writes of usage fail, or cache_blobs on, when a test says so."""

    def __init__(self, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fails = False
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.reached = asyncio.Event()
        self._write = catalog.record_usage
        monkeypatch.setattr(catalog, "record_usage", self._record)

    async def _record(self, usage: Usage) -> None:
        self.reached.set()
        await self.goes_on.wait()
        if self.fails:
            raise CatalogFailed("The catalog fails: database or disk is full.")
        await self._write(usage)


@pytest.fixture
def disk(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(catalog, monkeypatch)


@pytest.fixture
def usage(catalog: Catalog, disk: Disk, clock: Clock) -> UsageTracker:
    return UsageTracker(catalog, clock)


def use(usage: UsageTracker) -> None:
    usage.record_manifest_use(NGINX, MANIFEST, Tag("1"))
    usage.record_answer("rule")
    usage.record_fetch("rule")
    usage.record_blob_use(BLOB)


def is_unwritten(
    usage: UsageTracker, repository: Repository, manifest: Digest, blobs: Collection[Digest]
) -> bool:
    """Whether a use of a manifest or of one of some blobs is not in the catalog yet."""
    manifests, unwritten_blobs = usage.unwritten_uses()
    return (repository, manifest) in manifests or not set(blobs).isdisjoint(unwritten_blobs)


async def pulls(catalog: Catalog) -> tuple[int, float | None]:
    [repository] = await catalog.repositories(NGINX)
    return repository.pulls, repository.last_pull


async def test_s32_usage_that_could_not_be_written_is_written_later_and_once(
    usage: UsageTracker, catalog: Catalog, disk: Disk, clock: Clock
) -> None:
    disk.fails = True
    use(usage)
    for _ in range(3):
        with pytest.raises(CatalogFailed):
            await usage.write()
        assert is_unwritten(usage, NGINX, MANIFEST.digest, [])
        assert is_unwritten(usage, NGINX, Digest.of(b"other"), [BLOB])
    clock.now += 5
    use(usage)
    disk.fails = False
    for _ in range(2):
        await usage.write()
        assert await pulls(catalog) == (2, clock.now)
        assert await catalog.rule_requests() == {"rule": (2, 2)}
    assert not is_unwritten(usage, NGINX, MANIFEST.digest, [BLOB])


async def test_s32_what_is_being_written_is_unwritten(
    usage: UsageTracker, catalog: Catalog, disk: Disk
) -> None:
    disk.goes_on.clear()
    use(usage)
    writing = asyncio.create_task(usage.write())
    await disk.reached.wait()
    assert is_unwritten(usage, NGINX, MANIFEST.digest, [])
    assert is_unwritten(usage, NGINX, Digest.of(b"other"), [BLOB])
    disk.goes_on.set()
    await writing
    assert not is_unwritten(usage, NGINX, MANIFEST.digest, [BLOB])


async def test_s32_who_writes_while_another_does_waits_for_both(
    usage: UsageTracker, catalog: Catalog, disk: Disk
) -> None:
    """An eviction writes before it looks: all that was used before that has to be in the catalog
    then."""
    disk.goes_on.clear()
    use(usage)
    first = asyncio.create_task(usage.write())
    await disk.reached.wait()
    use(usage)
    second = asyncio.create_task(usage.write())
    await asyncio.sleep(0)
    disk.goes_on.set()
    await second
    assert (await pulls(catalog))[0] == 2
    await first


@pytest.mark.parametrize("fails", [False, True])
async def test_s32_a_write_whose_caller_is_cancelled_is_neither_lost_nor_counted_twice(
    fails: bool, usage: UsageTracker, catalog: Catalog, disk: Disk
) -> None:
    disk.goes_on.clear()
    use(usage)
    writing = asyncio.create_task(usage.write())
    await disk.reached.wait()
    writing.cancel()
    await asyncio.wait([writing])
    assert writing.cancelled()
    assert is_unwritten(usage, NGINX, MANIFEST.digest, [])
    disk.fails = fails
    disk.goes_on.set()
    if fails:
        with pytest.raises(CatalogFailed):
            await usage.write()
        disk.fails = False
    await usage.write()
    assert (await pulls(catalog))[0] == 1
    assert await catalog.rule_requests() == {"rule": (1, 1)}


async def test_s32_what_waits_for_a_catalog_that_keeps_failing_is_bounded(
    usage: UsageTracker, disk: Disk, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_module, "MAX_UNWRITTEN", 100)
    disk.fails = True
    for number in range(500):
        clock.now += 1
        usage.record_blob_use(Digest.of(str(number).encode()))
        usage.record_manifest_use(Repository(f"library/r{number}"), MANIFEST, Tag("1"))
        usage.record_manifest_check(Repository(f"library/r{number}"), MANIFEST.digest)
        if number % 50 == 49:
            with pytest.raises(CatalogFailed):
                await usage.write()
            assert usage.unwritten <= 5 * 100
    # What was used last is what is kept.
    assert is_unwritten(usage, Repository("library/r499"), MANIFEST.digest, [])
    assert not is_unwritten(usage, Repository("library/r0"), MANIFEST.digest, [])


# What counts as a use


async def test_an_image_counts_as_a_pull_and_the_index_above_it_does_not(
    usage: UsageTracker, catalog: Catalog
) -> None:
    index = Manifest(b"{}", OCI_INDEX, Digest.of(b"index"), ())
    await catalog.add_manifest(NGINX, SOURCE, index, now=1.0)
    usage.record_manifest_use(NGINX, index, None)
    usage.record_manifest_use(NGINX, MANIFEST, None)
    await usage.write()
    assert (await pulls(catalog))[0] == 1


async def test_a_check_with_head_is_a_use_and_no_pull(
    usage: UsageTracker, catalog: Catalog
) -> None:
    usage.record_manifest_check(NGINX, MANIFEST.digest)
    assert is_unwritten(usage, NGINX, MANIFEST.digest, [])
    await usage.write()
    assert (await pulls(catalog))[0] == 0


async def test_requests_that_are_saved_are_answers_without_a_fetch(
    usage: UsageTracker, catalog: Catalog
) -> None:
    for _ in range(3):
        usage.record_answer("rule")
    usage.record_fetch("rule")
    assert usage.requests_saved == 2
    await usage.write()
    assert await catalog.rule_requests() == {"rule": (3, 1)}


async def test_a_use_of_another_repository_or_blob_is_not_taken_for_one(
    usage: UsageTracker,
) -> None:
    usage.record_manifest_use(NGINX, MANIFEST, None)
    assert not is_unwritten(usage, Repository("library/redis"), MANIFEST.digest, [BLOB])


async def test_nothing_is_written_where_nothing_was_used(usage: UsageTracker, disk: Disk) -> None:
    await usage.write()
    assert not disk.reached.is_set()
