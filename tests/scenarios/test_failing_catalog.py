"""What clients get while the catalog takes or gives nothing: what is in memory, and what sources
have (S19, L02)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
import pytest

from entrepot.cache import index
from entrepot.cache import unwritten as unwritten_module
from entrepot.cache.unwritten import Unwritten, UnwrittenManifests
from entrepot.core.reference import Digest, Repository, Tag
from entrepot.engine.engine import Engine
from entrepot.store.connections import CatalogFailed, CatalogOperation, Reason
from entrepot.store.records import TagEntry
from tests.engine.waiting import ended
from tests.fakes import FakeRegistry
from tests.fakes.images import PlatformImage
from tests.store.samples import NGINX, SOURCE, image

AMD64 = "linux/amd64"


@pytest.fixture
def full(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Whether the disk is full to the last byte for the catalog."""
    write = engine.catalog._write
    failed = CatalogFailed("The catalog fails: database or disk is full.", reason=Reason.FULL)

    @asynccontextmanager
    async def refuse() -> AsyncIterator[None]:
        engine.catalog.health.record_failure(CatalogOperation.WRITING, failed)
        raise failed
        yield

    works = engine.catalog.health.record_success

    def still_works(trouble: CatalogOperation) -> None:
        # A write that began before the disk was full, such as that of the healing at the start, may
        # end only now.
        if trouble is not CatalogOperation.WRITING:
            works(trouble)

    def becomes(is_full: bool) -> None:
        monkeypatch.setattr(engine.catalog, "_write", refuse if is_full else write)
        monkeypatch.setattr(
            engine.catalog.health, "record_success", still_works if is_full else works
        )

    return becomes


def unreadable(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail() -> None:
        error = CatalogFailed(
            "The catalog fails: database disk image is malformed.", reason=Reason.DAMAGED
        )
        engine.catalog.health.record_failure(CatalogOperation.READING, error)
        raise error

    monkeypatch.setattr(engine.catalog, "_read", lambda *_, **__: fail())


async def pulled(registry: httpx.AsyncClient, name: str, image: PlatformImage) -> None:
    """A client gets an image whole, its manifest by tag and by digest."""
    by_tag = await registry.get(f"/v2/{name}/manifests/1", headers={"Accept": "*/*"})
    assert by_tag.status_code == 200
    by_digest = await registry.get(
        f"/v2/{name}/manifests/{image.digest}", headers={"Accept": "*/*"}
    )
    assert (by_digest.status_code, by_digest.headers["docker-content-digest"]) == (
        200,
        str(image.digest),
    )
    for blob in image.blobs:
        answer = await registry.get(f"/v2/{name}/blobs/{blob.digest}")
        assert (answer.status_code, answer.content) == (200, blob.content)


async def test_on_a_disk_that_is_full_to_the_last_byte_a_new_image_still_passes(
    engine: Engine, registry: httpx.AsyncClient, source: FakeRegistry, full: Callable[[bool], None]
) -> None:
    """S19."""
    amd64_image = source.add_image("library/nginx", "1").platforms[AMD64]
    full(True)
    await pulled(registry, "library/nginx", amd64_image)
    # What is kept of a pull is written after it.
    async with asyncio.timeout(60):
        while (unready := await registry.get("/readyz")).status_code == 200:
            await asyncio.sleep(0)
    assert (unready.status_code, unready.json()["problems"]) == (
        503,
        ["The catalog fails: database or disk is full."],
    )
    notices = (await engine.status.get()).notices
    assert any(
        each.startswith("The catalog fails: database or disk is full. Free space")
        for each in notices
    )
    assert await engine.catalog.repository_names() == []

    # What came is kept as soon as that works, its blobs too.
    full(False)
    await engine.bookkeeping.run_once()
    assert await engine.catalog.repository_names() == ["library/nginx"]
    [tag] = (await engine.repositories.get("library/nginx")).tags
    assert tag.name == "1"
    assert {
        digest
        for digest, blob in (await engine.catalog.inventory()).blobs.items()
        if blob.adopted is None
    } == {each.digest for each in amd64_image.blobs}
    # The look of a moment ago, at the start of the engine, may have met the full disk.
    await engine.health.check()
    assert (await registry.get("/readyz")).status_code == 200


async def test_what_is_kept_in_memory_only_is_asked_for_at_its_source_once(
    engine: Engine, registry: httpx.AsyncClient, source: FakeRegistry, full: Callable[[bool], None]
) -> None:
    source.add_image("library/nginx", "1")
    full(True)
    for _ in range(3):
        assert (
            await registry.get("/v2/library/nginx/manifests/1", headers={"Accept": "*/*"})
        ).status_code == 200
        engine.cache.index.invalidate_manifests()
    assert (
        len(
            [
                each
                for each in source.requests
                if "/manifests/" in each.path and each.method == "GET"
            ]
        )
        == 1
    )


async def test_with_an_unreadable_catalog_sources_are_asked_and_memory_is_served(
    engine: Engine,
    registry: httpx.AsyncClient,
    source: FakeRegistry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """L02."""
    known_image = source.add_image("library/known", "1").platforms[AMD64]
    forgotten = source.add_image("library/forgotten", "1").platforms[AMD64]
    new = source.add_image("library/new", "1").platforms[AMD64]
    for name in ("known", "forgotten"):
        await ended(engine, await engine.pulls.start(f"library/{name}:1", AMD64, "test"))
    engine.cache.index.invalidate(Repository("library/forgotten"))
    # What the start does last is to forget the manifests that are in memory.
    await engine.maintenance.reconcile()
    await pulled(registry, "library/known", known_image)
    unreadable(engine, monkeypatch)
    before = len(source.requests)
    await pulled(registry, "library/known", known_image)
    assert len(source.requests) == before
    await pulled(registry, "library/forgotten", forgotten)
    await pulled(registry, "library/new", new)
    refused = await registry.get("/v2/norule/x/manifests/1")
    assert (refused.status_code, refused.json()["errors"][0]["detail"]["code"]) == (
        503,
        "CatalogFailed",
    )


async def test_a_write_that_hangs_delays_a_client_only_briefly_and_may_still_succeed(
    engine: Engine,
    registry: httpx.AsyncClient,
    source: FakeRegistry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """S19: on a disk that hangs a cold manifest got no answer at all."""
    monkeypatch.setattr(index, "WRITE_TIMEOUT", 0.01)
    monkeypatch.setattr(index, "STALLED_WRITE_TIMEOUT", 0.01)
    amd64_image = source.add_image("library/nginx", "1").platforms[AMD64]
    async with engine.catalog._writing:
        manifest = await registry.get(
            f"/v2/library/nginx/manifests/{amd64_image.digest}", headers={"Accept": "*/*"}
        )
        assert manifest.status_code == 200
        assert (
            await registry.get(f"/v2/library/nginx/blobs/{amd64_image.layers[0].digest}")
        ).content == amd64_image.layers[0].content
        assert await engine.cache.index.write_unwritten() == 0
        [hanging] = engine.cache.index._hanging
    async with asyncio.timeout(30):
        assert await hanging
    assert await engine.catalog.manifests_of(Repository("library/nginx")) == {amd64_image.digest}


async def test_the_same_failure_of_the_bookkeeping_is_logged_once(
    engine: Engine, caplog: pytest.LogCaptureFixture, full: Callable[[bool], None]
) -> None:
    """S19: 700 lines in 40 s."""
    full(True)
    for _ in range(3):
        engine.cache.usage.record_blob_use(Digest.of(b"x"))
        with pytest.raises(CatalogFailed) as failed:
            await engine.bookkeeping.run_once()
        engine.bookkeeping.log_failure(failed.value)
    messages = [each.message for each in caplog.records if "Bookkeeping" in each.message]
    assert messages == [
        "Bookkeeping failed; it is tried again every 2 s: The catalog fails: database or disk is full. Free space on the file system of the data "
        "directory. Until then what is fetched is passed on to clients and not kept."
    ]


def unwritten(name: str, *tags: str) -> Unwritten:
    return Unwritten(NGINX, SOURCE, image(name), tuple(Tag(each) for each in tags), 1.0)


def test_what_is_kept_in_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    unwritten_manifests = UnwrittenManifests()
    monkeypatch.setattr(unwritten_module, "MAX_UNWRITTEN_MANIFESTS", 2)
    for name in ("a", "b", "c"):
        unwritten_manifests.add(unwritten(name))
    assert [each.manifest for each in unwritten_manifests.of(NGINX)] == [image("b"), image("c")]
    monkeypatch.setattr(unwritten_module, "MAX_UNWRITTEN_BYTES", len(image("c").content))
    unwritten_manifests.add(unwritten("c"))
    assert [each.manifest for each in unwritten_manifests.of(NGINX)] == [image("c")]
    unwritten_manifests.remove(unwritten("c"))
    assert (unwritten_manifests.first(), unwritten_manifests._bytes) == (None, 0)


def test_a_tag_that_moves_in_memory_points_at_one_manifest() -> None:
    unwritten_manifests = UnwrittenManifests()
    unwritten_manifests.add(unwritten("a", "1", "latest"))
    unwritten_manifests.add(unwritten("b", "latest"))
    assert unwritten_manifests.tag(NGINX, Tag("latest")) == TagEntry(image("b").digest, 1.0, 1.0)
    assert unwritten_manifests.tag(NGINX, Tag("1")) == TagEntry(image("a").digest, 1.0, 1.0)
    assert unwritten_manifests.point_tag(NGINX, Tag("latest"), image("a").digest)
    assert unwritten_manifests.tag(NGINX, Tag("latest")) == TagEntry(image("a").digest, 1.0, 1.0)
    assert not unwritten_manifests.point_tag(NGINX, Tag("latest"), image("none").digest)
    # Whichever write succeeds, it has all tags.
    assert unwritten_manifests.add(unwritten("a", "2")).tags == ("1", "latest", "2")
