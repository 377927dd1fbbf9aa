"""What clients got in the last 24 hours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import pytest

from entrepot.api.models import ActivityCounts
from entrepot.config.directories import Directories
from entrepot.config.settings import Settings
from entrepot.core.rules import RuleDraft
from entrepot.engine import bookkeeping
from entrepot.engine.engine import Engine
from entrepot.engine.traffic import STEP, STEPS, WRITE_INTERVAL, Traffic
from entrepot.server.run import registry_app
from entrepot.store.catalog import Catalog
from tests.conftest import LOGIN_SERVER, Clock
from tests.fakes import FakeImage, FakeRegistry

DAY = 86_400


@pytest.fixture
def image(source: FakeRegistry) -> FakeImage:
    return source.add_image(
        "library/nginx", "1.27", platforms=["linux/amd64"], layers=[b"layer" * 1000]
    )


@asynccontextmanager
async def opened(
    directories: Directories, settings: Settings, clock: Clock
) -> AsyncIterator[tuple[Engine, httpx.AsyncClient]]:
    async with Engine.open(directories, settings, clock=clock) as engine:
        if not len(engine.documents.rules):
            await engine.rules.create(
                RuleDraft("example-library", f"{LOGIN_SERVER}/library/*", "library/*")
            )
        transport = httpx.ASGITransport(registry_app(engine), raise_app_exceptions=False)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://entrepot", timeout=30
        ) as client:
            yield engine, client


async def pull(client: httpx.AsyncClient, engine: Engine, image: FakeImage) -> None:
    """As a client of one platform does it, until the engine holds all of it."""
    platform = image.platforms["linux/amd64"]
    (await client.get("/v2/library/nginx/manifests/1.27")).raise_for_status()
    (await client.get(f"/v2/library/nginx/manifests/{platform.digest}")).raise_for_status()
    for each in (platform.config, *platform.layers):
        (await client.get(f"/v2/library/nginx/blobs/{each.digest}")).raise_for_status()
    async with asyncio.timeout(30):
        for running in engine.cache.pulls.all():
            await running.finished.wait()
        while engine.fills.under_way:
            await asyncio.sleep(0)
    # As the bookkeeping does it every two seconds.
    engine.traffic.settle()


async def test_the_first_pull_misses_and_the_second_hits(
    directories: Directories, settings: Settings, clock: Clock, image: FakeImage
) -> None:
    size = sum(
        len(each.content)
        for each in (image.platforms["linux/amd64"].config, *image.platforms["linux/amd64"].layers)
    )
    async with opened(directories, settings, clock) as (engine, client):
        assert engine.traffic.total().hit_share is None
        await pull(client, engine, image)
        first = engine.traffic.total()
        assert (first.misses, first.served, first.from_source) == (4, size, size)
        assert (first.hits, first.requests_saved) == (0, 0)
        await pull(client, engine, image)
        second = engine.traffic.total()
        assert (second.misses, second.served, second.from_source) == (4, 2 * size, size)
        assert (second.hits, second.requests_saved, second.hit_share) == (4, 2, 0.5)
        assert (await engine.status.get()).last_day == second


async def test_what_is_held_counts_as_a_hit_when_its_source_is_down(
    directories: Directories,
    settings: Settings,
    clock: Clock,
    source: FakeRegistry,
    image: FakeImage,
) -> None:
    async with opened(directories, settings, clock) as (engine, client):
        await pull(client, engine, image)
        await source.stop()
        clock.now += DAY / 2
        await pull(client, engine, image)
        assert (engine.traffic.total().hits, engine.traffic.total().misses) == (4, 4)


async def test_who_only_asks_whether_something_is_there_is_not_counted(
    directories: Directories, settings: Settings, clock: Clock, image: FakeImage
) -> None:
    async with opened(directories, settings, clock) as (engine, client):
        await pull(client, engine, image)
        before = engine.traffic.total()
        await client.head("/v2/library/nginx/manifests/1.27")
        await client.head(f"/v2/library/nginx/blobs/{image.platforms['linux/amd64'].config.digest}")
        assert engine.traffic.total() == before


async def test_it_comes_in_288_steps_without_a_gap_and_ends_with_the_one_under_way(
    directories: Directories, settings: Settings, clock: Clock, image: FakeImage
) -> None:
    async with opened(directories, settings, clock) as (engine, client):
        await pull(client, engine, image)
        clock.now += 3 * STEP
        await pull(client, engine, image)
        found = engine.traffic.snapshot()
        assert (len(found.buckets), found.interval) == (288, 300)
        assert [
            later.began - earlier.began
            for earlier, later in zip(found.buckets, found.buckets[1:], strict=False)
        ] == [300] * 287
        assert found.buckets[-1].began <= clock.now < found.buckets[-1].began + STEP
        assert [(each.hits, each.misses) for each in found.buckets[-4:]] == [
            (0, 4),
            (0, 0),
            (0, 0),
            (4, 0),
        ]
        assert (found.total.hits, found.total.misses) == (4, 4)


async def test_after_a_day_it_is_forgotten(
    directories: Directories, settings: Settings, clock: Clock, image: FakeImage
) -> None:
    async with opened(directories, settings, clock) as (engine, client):
        await pull(client, engine, image)
        clock.now += DAY - STEP
        assert engine.traffic.total().misses == 4
        clock.now += STEP
        assert engine.traffic.total() == ActivityCounts()
        assert engine.traffic.snapshot().total == ActivityCounts()
        await engine.traffic.write()
        assert await engine.catalog.traffic() == {}


async def test_the_next_engine_goes_on_in_the_same_step(
    directories: Directories, settings: Settings, clock: Clock, image: FakeImage
) -> None:
    async with opened(directories, settings, clock) as (engine, client):
        await pull(client, engine, image)
        before = engine.traffic.total()
    async with opened(directories, settings, clock) as (engine, client):
        assert engine.traffic.total() == before
        await pull(client, engine, image)
        assert (engine.traffic.total().hits, engine.traffic.total().misses) == (4, 4)
        assert engine.traffic.snapshot().buckets[-1].misses == 4


async def test_an_engine_that_is_killed_loses_a_minute_at_the_most(
    directories: Directories, settings: Settings, clock: Clock, image: FakeImage
) -> None:
    async with opened(directories, settings, clock) as (engine, client):
        await pull(client, engine, image)
        await engine.bookkeeping.run_once()
        assert await engine.catalog.traffic() == {}
        clock.now += WRITE_INTERVAL
        await engine.bookkeeping.run_once()
        [counts] = (await engine.catalog.traffic()).values()
        assert counts[:2] == (0, 4)


class Counts:
    """A cache, its record of use and its fills, whose counts grow as a test says."""

    def __init__(self) -> None:
        self.hits = 0
        self.misses = 0
        self.requests_saved = 0
        self.fetched = 0

    @property
    def usage(self) -> Counts:
        return self


@contextmanager
def failing(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    async def fail(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(catalog, "record_traffic", fail)
        yield


async def test_what_could_not_be_written_is_written_the_next_time(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Catalog.open(tmp_path / "catalog.db") as catalog:
        counts = Counts()
        record = Traffic(catalog, cache=counts, fills=counts, clock=clock)
        counts.hits = 3
        with failing(catalog, monkeypatch), pytest.raises(OSError, match="No space left"):
            await record.write()
        await record.write()
        assert [written[0] for written in (await catalog.traffic()).values()] == [3]


async def test_a_clock_that_is_set_back_does_no_harm(tmp_path: Path, clock: Clock) -> None:
    async with Catalog.open(tmp_path / "catalog.db") as catalog:
        counts = Counts()
        record = Traffic(catalog, cache=counts, fills=counts, clock=clock)
        for _ in range(2 * STEPS):
            counts.hits += 1
            record.settle()
            clock.now += STEP
        clock.now -= DAY / 2
        assert len(record.snapshot().buckets) == STEPS
        counts.hits += 1
        assert record.snapshot().buckets[-1].hits == 2
        await record.write_if_due()
        assert len(await catalog.traffic()) <= STEPS


async def test_a_full_disk_at_the_end_does_not_keep_the_engine_from_ending(
    directories: Directories,
    settings: Settings,
    clock: Clock,
    image: FakeImage,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(bookkeeping, "INTERVAL", 3600.0)
    with monkeypatch.context() as patched:

        async def fail(*_: object, **__: object) -> None:
            raise OSError("No space left on device")

        async with opened(directories, settings, clock) as (engine, client):
            await pull(client, engine, image)
            patched.setattr(engine.catalog, "record_traffic", fail)
    assert "could not be written down" in caplog.text
