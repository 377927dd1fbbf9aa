"""The verification of all cached blobs (B4.1, F90)."""

from __future__ import annotations

import asyncio
import os

import httpx
import pytest

from entrepot.api.models import VerificationSnapshot
from entrepot.core.reference import Digest
from entrepot.core.states import PullState, VerificationState
from entrepot.engine.engine import Engine
from entrepot.engine.verification import Verification, VerificationUnderWay
from entrepot.errors import NotFound
from entrepot.store.blobs import CHECK_SIZE, BlobStore
from entrepot.store.connections import CatalogFailed
from tests.conftest import Clock
from tests.engine.waiting import event
from tests.fakes import FakeRegistry
from tests.fakes.images import PlatformImage
from tests.scenarios.test_damaged_blobs import flip

AMD64 = "linux/amd64"
SIZE = 100_000


@pytest.fixture
async def image(engine: Engine, source: FakeRegistry) -> PlatformImage:
    """A cached image of four layers."""
    image = source.add_image(
        "library/nginx", "1", layers=[os.urandom(SIZE) for _ in range(4)], platforms=[AMD64]
    )
    pull = engine.cache.pulls.get((await engine.pulls.start("library/nginx:1", AMD64, "test")).id)
    await pull.finished.wait()
    assert pull.state is PullState.COMPLETED
    return image.platforms[AMD64]


async def ended(engine: Engine) -> VerificationSnapshot:
    async with asyncio.timeout(30):
        while not (verification := engine.verification.snapshot()).state.ended:
            await asyncio.sleep(0)
    return verification


def last_event(engine: Engine, kind: str) -> str:
    return [each.message for each in engine.events.recent() if each.kind == kind][-1]


async def test_all_cached_blobs_are_hashed(engine: Engine, image: PlatformImage) -> None:
    with pytest.raises(NotFound):
        engine.verification.snapshot()
    started = engine.verification.start(None)
    assert (started.state, started.speed_limit) == (VerificationState.RUNNING, None)
    verification = await ended(engine)
    assert verification.is_clean
    assert (
        verification.total,
        verification.checked,
        verification.total_size,
        verification.checked_size,
    ) == (5, 5, image.size, image.size)
    assert last_event(engine, "verification-ended").endswith(" s: nothing wrong.")


async def test_f90_damaged_blobs_are_removed_at_once_and_fetched_again(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry, image: PlatformImage
) -> None:
    flipped, cut, gone, right = image.layers
    flip(engine.blobs.path(flipped.digest))
    os.truncate(engine.blobs.path(cut.digest), 10)
    engine.blobs.path(gone.digest).unlink()
    before = (await engine.status.get()).blobs_size
    engine.verification.start(None)
    verification = await ended(engine)
    assert (verification.state, verification.is_clean) == (VerificationState.COMPLETED, False)
    assert (
        verification.checked,
        verification.wrong,
        verification.missing,
        verification.unreadable,
    ) == (4, 2, 1, 0)
    assert set(verification.wrong_digests) == {str(flipped.digest), str(cut.digest)}
    assert ": 2 damaged and removed, 1 missing." in last_event(engine, "verification-ended")
    assert set(await engine.blobs.sizes()) == {right.digest, image.config.digest}
    assert (
        (await engine.status.get()).blobs_size
        == await engine.catalog.blobs_size()
        == before - 3 * SIZE
    )
    await registry.get("/v2/library/nginx/manifests/1")
    for layer in image.layers:
        assert (
            await registry.get(f"/v2/library/nginx/blobs/{layer.digest}")
        ).content == layer.content


async def test_an_unreadable_blob_is_counted_and_stays(
    engine: Engine, image: PlatformImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = BlobStore.check

    async def refused(self: BlobStore, digest: Digest, **options: object) -> object:
        if digest == image.layers[0].digest:
            raise PermissionError(13, "Permission denied")
        return await check(self, digest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(BlobStore, "check", refused)
    engine.verification.start(None)
    verification = await ended(engine)
    assert (
        verification.checked,
        verification.wrong,
        verification.unreadable,
        verification.is_clean,
    ) == (4, 0, 1, False)
    assert engine.blobs.size(image.layers[0].digest) == SIZE


async def test_a_blob_that_is_evicted_meanwhile_is_not_missing(
    engine: Engine, image: PlatformImage, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = BlobStore.check

    async def evicted(self: BlobStore, digest: Digest, **options: object) -> object:
        monkeypatch.undo()
        clock.now += 3600
        assert (await engine.maintenance.evict(target=0)).images
        return await check(self, digest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(BlobStore, "check", evicted)
    engine.verification.start(None)
    verification = await ended(engine)
    assert (verification.state, verification.checked, verification.wrong, verification.missing) == (
        VerificationState.COMPLETED,
        0,
        0,
        0,
    )


async def test_it_is_cancelled_and_there_is_one_at_a_time(
    engine: Engine, image: PlatformImage
) -> None:
    engine.verification.start(1)
    with pytest.raises(VerificationUnderWay):
        engine.verification.start(None)
    async with event(engine, "verification-ended"):
        while not engine.verification.snapshot().total:
            await asyncio.sleep(0)
        assert (await engine.verification.cancel()).state is VerificationState.CANCELLED
    assert last_event(engine, "verification-ended").startswith(
        "The verification of the cached blobs was cancelled. Until then: 0 cached blobs"
    )
    assert (await engine.verification.cancel()).state is VerificationState.CANCELLED
    engine.verification.start(1)
    assert (await engine.verification.cancel()).state is VerificationState.CANCELLED
    engine.verification.start(None)
    assert (await ended(engine)).is_clean


async def test_it_keeps_to_its_speed(engine: Engine, source: FakeRegistry) -> None:
    size = 3 * CHECK_SIZE
    source.add_image("library/large", "1", layers=[os.urandom(size)], platforms=[AMD64])
    await engine.cache.pulls.get(
        (await engine.pulls.start("library/large:1", AMD64, "test")).id
    ).finished.wait()
    clock = Clock()
    began = clock.now

    async def pause(seconds: float) -> None:
        clock.now += seconds

    engine.verification = Verification(
        catalog=engine.catalog,
        blobs=engine.blobs,
        copies=engine.cache.copies,
        events=engine.events,
        tasks=engine._tasks,
        clock=clock,
        monotonic=clock,
        pause=pause,
    )
    engine.verification.start(1_000_000)
    verification = await ended(engine)
    assert verification.is_clean
    assert clock.now - began == pytest.approx(verification.checked_size / 1_000_000)


async def test_a_catalog_that_fails_ends_it_with_the_reason(
    engine: Engine, image: PlatformImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failed(*_: object) -> None:
        raise CatalogFailed("The catalog fails: disk I/O error.")

    monkeypatch.setattr(engine.catalog, "blobs_after", failed)
    engine.verification.start(None)
    verification = await ended(engine)
    assert (verification.state, verification.error_message) == (
        VerificationState.FAILED,
        "The catalog fails: disk I/O error. Look at the disk of the data directory; entrepot doctor examines it.",
    )
    assert last_event(engine, "verification-ended").startswith(
        "The verification of the cached blobs failed: The catalog fails: disk I/O error."
    )
