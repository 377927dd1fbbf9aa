"""An engine that can't do its work says so."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import httpx
import pytest

from entrepot.cache.fetch_queue import FetchQueue
from entrepot.cache.fill import Fill, FillState
from entrepot.core.reference import Digest, Repository
from entrepot.engine.engine import Engine
from entrepot.engine.health import EngineHealth, probe_disk
from entrepot.errors import EntrepotError
from entrepot.events import EventLog
from entrepot.store.blobs import BlobStore
from entrepot.store.connections import CatalogFailed, CatalogOperation
from tests.engine.waiting import ended
from tests.fakes import FakeRegistry
from tests.store.damage import damage_table


def never_asked(*, offset: int, validator: str | None) -> NoReturn:
    """The source of a fill that does not run."""
    raise AssertionError(f"Asked for the bytes from {offset} on.")


class Watched:
    """A health with parts of its own: *probe* takes the place of the disk, this object that
    of fills and catalog."""

    def __init__(self, directory: Path, probe: Callable[[Path], None] = probe_disk) -> None:
        self.now = 0.0
        self.under_way: list[Fill] = []
        self.events = EventLog(lambda: 0.0)
        self.problem: EntrepotError | None = None
        self.catalog_error: Exception | None = None
        self.engine_health = EngineHealth(
            directory,
            fills=self,
            catalog=self,
            events=self.events,
            stuck_after=60,
            clock=lambda: self.now,
            probe=probe,
        )

    @property
    def health(self) -> Watched:
        """What the users of the catalog met."""
        return self

    @property
    def changes(self) -> list[tuple[str, str]]:
        return [(event.kind, event.message) for event in self.events.recent()]

    async def probe(self) -> None:
        if self.catalog_error is not None:
            raise self.catalog_error


async def test_a_disk_that_takes_and_gives_is_well_and_nothing_is_left_on_it(
    tmp_path: Path,
) -> None:
    watched = Watched(tmp_path)
    await watched.engine_health.check()
    assert watched.engine_health.problems() == ()
    assert watched.changes == []
    assert os.listdir(tmp_path) == []


async def test_a_disk_that_fails_is_told_and_its_recovery_too(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    watched = Watched(directory)
    await watched.engine_health.check()
    [problem] = watched.engine_health.problems()
    assert problem == f"The disk of {directory} fails: No such file or directory."
    await watched.engine_health.check()
    directory.mkdir()
    await watched.engine_health.check()
    assert watched.changes == [
        (
            "engine-unready",
            f"{problem} The directory was moved or removed: put it back, or restart the engine, "
            "which creates a new one.",
        ),
        ("engine-ready", "The engine is healthy again."),
    ]


def test_a_full_disk_is_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(error: int) -> None:
        def write(*_: object) -> int:
            raise OSError(error, os.strerror(error))

        monkeypatch.setattr(os, "write", write)

    refuse(errno.ENOSPC)
    probe_disk(tmp_path)
    refuse(errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        probe_disk(tmp_path)
    assert list(tmp_path.iterdir()) == []


async def test_a_check_tells_what_is_so_when_it_is_asked_for(tmp_path: Path) -> None:
    """One that was under way already answered for both, and had seen the disk before it failed."""
    started, going_on = threading.Event(), threading.Event()
    errors: list[OSError | None] = [None, OSError(errno.EROFS, os.strerror(errno.EROFS))]

    def probe(_: Path) -> None:
        error = errors.pop(0)
        if error is not None:
            raise error
        started.set()
        going_on.wait(30)

    watched = Watched(tmp_path, probe)
    earlier = asyncio.create_task(watched.engine_health.check())
    await asyncio.to_thread(started.wait, 30)
    later = asyncio.create_task(watched.engine_health.check())
    await asyncio.sleep(0)
    going_on.set()
    await asyncio.gather(earlier, later)
    assert errors == []
    assert [problem for problem in watched.engine_health.problems() if "read-only" in problem]


async def test_a_disk_that_hangs_is_told_and_not_asked_again_before_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("entrepot.engine.health.PROBE_TIMEOUT", 0.01)
    going_on = threading.Event()
    asked: list[Path] = []

    def hangs(directory: Path) -> None:
        asked.append(directory)
        going_on.wait(30)

    watched = Watched(tmp_path, hangs)
    for seconds in (0, 25):
        watched.now = seconds
        await watched.engine_health.check()
        assert watched.engine_health.problems() == (
            f"The disk of {tmp_path} has not answered for {seconds} s.",
        )
    assert len(asked) == 1
    monkeypatch.setattr("entrepot.engine.health.PROBE_TIMEOUT", 30)
    going_on.set()
    await watched.engine_health.check()
    assert watched.engine_health.problems() == ()


async def test_a_catalog_that_fails_is_told(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    watched.catalog_error = RuntimeError("the database is gone")
    await watched.engine_health.check()
    assert watched.engine_health.problems() == ("The catalog fails: the database is gone",)


async def test_a_fill_that_makes_no_step_is_told_and_one_that_waits_for_its_turn_is_not(
    tmp_path: Path,
) -> None:
    watched = Watched(tmp_path)
    store = BlobStore(tmp_path / "blobs", tmp_path / "fills")
    for number, state in enumerate((FillState.RUNNING, FillState.WAITING)):
        digest = Digest.of(str(number).encode())
        fill = Fill(
            digest,
            1,
            never_asked,
            store,
            origin="registry.example.com",
            queue=FetchQueue(1),
            clock=lambda: watched.now,
        )
        fill.state = state
        watched.under_way.append(fill)
    store.close()
    watched.now = 60
    assert watched.engine_health.problems() == ()
    watched.now = 61
    assert watched.engine_health.problems() == (
        f"The fill of {watched.under_way[0].digest} has made no progress for 61 s.",
    )


async def test_a_dead_disk_makes_an_engine_unready_and_it_says_so_everywhere(
    engine: Engine, registry: httpx.AsyncClient
) -> None:
    assert (await registry.get("/healthz")).json() == {"status": "alive"}
    ready = await registry.get("/readyz")
    assert (ready.status_code, ready.json()) == (200, {"status": "ready", "problems": []})
    data, elsewhere = engine.directories.data, engine.directories.data.with_name("unplugged")
    # What the engine writes by itself after its start would fail, and be told until it writes
    # again.
    async with engine.catalog._writing:
        os.rename(data, elsewhere)
        try:
            await engine.health.check()
            unready = await registry.get("/readyz")
            assert unready.status_code == 503
            assert unready.json() == {
                "status": "unready",
                "problems": [f"The disk of {data} fails: No such file or directory."],
            }
            assert (await registry.get("/healthz")).status_code == 200
            cure = "The directory was moved or removed: put it back, or restart the engine, which creates a new one."
            assert (await engine.status.get()).notices[
                0
            ] == f"The disk of {data} fails: No such file or directory. {cure}"
        finally:
            os.rename(elsewhere, data)
    await engine.health.check()
    assert (await registry.get("/readyz")).status_code == 200
    kinds = [event.kind for event in engine.events.recent()]
    assert kinds[-2:] == ["engine-unready", "engine-ready"]


async def test_a_failure_that_requests_met_is_told_until_one_succeeds(
    engine: Engine, registry: httpx.AsyncClient, source: FakeRegistry
) -> None:
    """L12: the look at the catalog succeeds beside it."""
    source.add_image("library/nginx", "1")
    failed = CatalogFailed("The catalog fails: disk I/O error.")
    # What the engine writes by itself after its start would be a success.
    async with engine.catalog._writing:
        engine.catalog.health.record_failure(CatalogOperation.WRITING, failed)
        unready = await registry.get("/readyz")
        assert (unready.status_code, unready.json()["problems"]) == (503, [failed.what])
        assert failed.message in (await engine.status.get()).notices
    await ended(engine, await engine.pulls.start("library/nginx:1", None, "cli"))
    assert (await registry.get("/readyz")).status_code == 200


async def test_a_page_that_is_damaged_is_told_although_others_can_be_read(
    engine: Engine, registry: httpx.AsyncClient, source: FakeRegistry
) -> None:
    """L12: 16 KiB of random bytes in the middle of the file, and `/readyz` said ready."""
    source.add_image("library/nginx", "1")
    await ended(engine, await engine.pulls.start("library/nginx:1", None, "cli"))
    await engine.catalog._engine.dispose()
    engine.catalog._readers.close_idle()
    damage_table(engine.directories.catalog, "tags")
    with pytest.raises(
        CatalogFailed, match=r"malformed.* Restart the engine: it sets the damaged file aside"
    ):
        await engine.catalog.tags(Repository("library/nginx"))
    assert await engine.catalog.repositories_count() == 1
    unready = await registry.get("/readyz")
    assert (unready.status_code, unready.json()["problems"]) == (
        503,
        ["The catalog fails: database disk image is malformed."],
    )
