"""How many statements a removal takes, and that none of them looks at the whole catalog."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from entrepot.core.reference import Digest, Repository, Tag
from entrepot.store import counters
from entrepot.store.catalog import Catalog
from entrepot.store.eviction import NO_USES, UsesSincePlan, plan_eviction
from entrepot.store.plan_watch import uses_of
from entrepot.store.removal import Evicted
from tests.store.samples import SOURCE, cache_blobs, image, index, removing
from tests.store.test_counters import from_scratch, kept


class Statements(list[tuple[str, Any]]):
    """The statements that the writing connection executed, with their parameters."""

    @contextmanager
    def recorded(self, catalog: Catalog) -> Iterator[None]:
        engine = catalog._engine.sync_engine

        def record(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
            self.append((statement, parameters))

        event.listen(engine, "before_cursor_execute", record)
        try:
            yield
        finally:
            event.remove(engine, "before_cursor_execute", record)

    async def scans(self, catalog: Catalog) -> list[str]:
        """The steps in the statements' plans that look at all rows of a table."""
        scans = []
        async with catalog._write() as connection:
            for statement, parameters in self:
                if not statement.startswith(("SELECT", "INSERT", "UPDATE", "DELETE")):
                    continue
                one = parameters[0] if isinstance(parameters, list) else parameters
                rows = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", one)
                scans += [
                    row.detail
                    for row in rows
                    # A list is a virtual table; some references are as many as are counted.
                    if row.detail.startswith("SCAN")
                    and "VIRTUAL TABLE" not in row.detail
                    and row.detail != "SCAN some_references"
                ]
        return scans


@pytest.fixture
async def large(tmp_path: Path) -> AsyncIterator[Catalog]:
    """60 repositories with an index, an image, two tags, and blobs of which one is shared."""
    async with Catalog.open(tmp_path / "large.sqlite") as catalog:
        for number in range(60):
            repository = Repository(f"library/r{number:02}")
            one = image("base", f"layer {number}")
            await catalog.add_manifest(
                repository, SOURCE, index(amd64=one), tags=[Tag("1"), Tag("2")], now=1.0 + number
            )
            await catalog.add_manifest(repository, SOURCE, one, now=1.0 + number)
            await cache_blobs(catalog, one)
        yield catalog


async def evict(catalog: Catalog, count: int) -> Evicted:
    """Evict the *count* images that were used least recently."""
    plan = plan_eviction(await catalog.inventory(), goal=-1, now=time.time())
    [evicted] = await catalog.evict_steps(
        [next(plan.parts(count))], remove_blobs=removing(lambda _: True)
    )
    return evicted


async def test_a_step_takes_as_many_statements_for_many_images_as_for_one(large: Catalog) -> None:
    few, many = Statements(), Statements()
    with few.recorded(large):
        assert len((await evict(large, 2)).plan.links) == 2
    with many.recorded(large):
        evicted = await evict(large, 40)
    assert (len(evicted.plan.links), evicted.manifests) == (40, 80)
    assert len(many) == len(few) < 30
    assert await large.repositories_count() == 18


async def test_no_step_looks_at_the_whole_catalog(large: Catalog) -> None:
    statements = Statements()
    with statements.recorded(large):
        await evict(large, 10)
    assert len(statements) > 10
    assert await statements.scans(large) == []


async def test_what_a_deleted_repository_needed_is_collected_without_a_look_at_the_rest(
    large: Catalog,
) -> None:
    manifests = await large.manifests_of(Repository("library/r07"))
    statements = Statements()
    with statements.recorded(large):
        await large.delete_manifest(Repository("library/r08"), min(manifests))
        assert await large.delete_repository(Repository("library/r07"))
        freed, deferred = await large.collect_contents(manifests, removing(lambda _: True))
    assert (freed, deferred) == (110, 0)
    assert await large.manifest(min(manifests)) is None
    assert await large.blobs_count() == 1 + 2 * 59
    assert await statements.scans(large) == []


async def test_a_collection_goes_on_in_steps(
    large: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("entrepot.store.catalog_removals.MANIFESTS_COLLECTED_AT_ONCE", 7)
    monkeypatch.setattr("entrepot.store.catalog_removals.BLOBS_COLLECTED_AT_ONCE", 7)
    for name in await large.repository_names():
        await large.delete_repository(name)
    steps = []

    async def remove_some(digests: Any) -> Any:
        steps.append(len(digests))
        return [digest for digest in digests if digest != Digest.of(b"base")]

    assert (await large.collect(remove_some)).deferred == 1
    assert await large.blobs_count() == 1
    assert 1 < max(steps) <= 2 * 7
    assert (await large.collect(removing(lambda _: True))).deferred == 0
    assert await large.blobs_count() == 0


@pytest.mark.parametrize("many", [0, 32])
async def test_what_a_repository_loses_is_subtracted_also_where_blobs_have_many_references(
    large: Catalog, monkeypatch: pytest.MonkeyPatch, many: int
) -> None:
    monkeypatch.setattr(counters, "MANY_REFERENCES", many)
    repository = Repository("library/r00")
    for number in range(3):
        more = image("base", f"more {number}")
        await large.add_manifest(repository, SOURCE, more, tags=[Tag(f"m{number}")], now=99.0)
        await cache_blobs(large, more)
    await evict(large, 2)
    assert len(await large.manifests_of(repository)) == 3
    assert await kept(large) == from_scratch(large.path)
    await large.delete_manifest(repository, image("base", "more 1").digest)
    assert await kept(large) == from_scratch(large.path)


async def test_the_statements_of_an_eviction_grow_with_its_steps_only(large: Catalog) -> None:
    counts = []
    for parts in (1, 3):
        statements = Statements()
        plan = plan_eviction(await large.inventory(), goal=-1, now=time.time())
        with statements.recorded(large):
            for _, part in zip(range(parts), plan.parts(10), strict=False):
                await large.evict_steps([part], remove_blobs=removing(lambda _: True))
        counts.append(len(statements))
    assert counts[1] == 3 * counts[0]


async def test_steps_share_a_transaction_until_another_write_waits(large: Catalog) -> None:
    plan = plan_eviction(await large.inventory(), goal=-1, now=time.time())
    steps = list(plan.parts(10))
    commits = 0

    def count(_: Any) -> None:
        nonlocal commits
        commits += 1

    event.listen(large._engine.sync_engine, "commit", count)
    evicted = await large.evict_steps(steps[:2], remove_blobs=removing(lambda _: True))
    assert ([len(step.plan.links) for step in evicted], commits) == ([10, 10], 1)

    async def remove_blobs(digests: Sequence[Digest]) -> Sequence[Digest]:
        while not large.is_awaited:
            await asyncio.sleep(0)
        return digests

    evicting = asyncio.create_task(large.evict_steps(steps[2:], remove_blobs=remove_blobs))
    while not large._writing.locked():
        await asyncio.sleep(0)
    assert await large.lock_repository(Repository("library/r59"), True)
    # A next step may have begun while the first one's files were removed.
    steps_done = len(await evicting)
    assert 1 <= steps_done <= 2 < len(steps) - 2
    assert not large.is_awaited
    assert await large.repositories_count() == 40 - 10 * steps_done


async def test_images_are_looked_up_again_only_where_something_changed_since_the_plan(
    catalog: Catalog,
) -> None:
    for number in range(40):
        one = image("base", f"layer {number}")
        repository = Repository(f"library/r{number:02}")
        await catalog.add_manifest(repository, SOURCE, one, tags=[Tag("1")], now=1.0 + number)
        await cache_blobs(catalog, one)
    used = (Repository("library/r05"), image("base", "layer 5").digest)
    counts, evicted = [], []
    with catalog.watched() as watch:
        plan = plan_eviction(await catalog.inventory(), goal=-1, now=time.time())
        for number, part in enumerate(plan.parts(10)):
            if number == 2:
                await catalog.lock_repository(Repository("library/r25"), True)
            statements = Statements()
            with statements.recorded(catalog):
                [step] = await catalog.evict_steps(
                    [part],
                    watch=watch,
                    uses=lambda: uses_of([used], []),
                    remove_blobs=removing(lambda _: True),
                )
            counts.append(len(statements))
            evicted.append(len(step.plan.links))
    assert evicted == [9, 10, 9, 10]
    assert counts[0] == counts[1] < counts[2] == counts[3]
    assert set(await catalog.repository_names()) == {used[0], Repository("library/r25")}


async def test_a_step_that_fails_waits_for_the_files_of_the_step_before(large: Catalog) -> None:
    plan = plan_eviction(await large.inventory(), goal=-1, now=time.time())
    steps = list(plan.parts(10))
    turns, removed = 0, list[Digest]()

    def uses() -> UsesSincePlan:
        nonlocal turns
        turns += 1
        if turns == 2:
            raise RuntimeError("the second step fails")
        return NO_USES

    async def remove_blobs(digests: Sequence[Digest]) -> Sequence[Digest]:
        while turns < 2:
            await asyncio.sleep(0)
        await asyncio.to_thread(removed.extend, digests)
        return digests

    with pytest.raises(RuntimeError, match="second step"):
        await large.evict_steps(steps, uses=uses, remove_blobs=remove_blobs)
    assert len(removed) == 20
    assert await large.repositories_count() == 60
