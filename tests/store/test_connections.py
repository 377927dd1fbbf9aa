"""Reads of the catalog: many at once, and one that hangs."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from entrepot.core.patterns import NameRange
from entrepot.core.reference import Repository, Tag
from entrepot.store import connections
from entrepot.store.catalog import Catalog
from entrepot.store.connections import (
    CatalogFailed,
    CatalogHealth,
    CatalogOperation,
    Reason,
    pragma_listener,
    reason_of,
)
from tests.store.samples import NGINX, SOURCE, image


@pytest.fixture
async def catalog(tmp_path: Path) -> AsyncIterator[Catalog]:
    async with Catalog.open(tmp_path / "catalog.sqlite") as catalog:
        yield catalog


async def test_some_hundred_reads_and_writes_at_once_are_all_answered(catalog: Catalog) -> None:
    """L03: QueuePool limit of size 5 overflow 10 reached, connection timed out, timeout 30.00."""
    manifest = image("a")
    await catalog.add_manifest(NGINX, SOURCE, manifest, tags=[Tag("1")], now=1.0)
    reads = [
        read
        for _ in range(100)
        for read in (
            catalog.tag(NGINX, Tag("1")),
            catalog.manifest(manifest.digest),
            catalog.tags(NGINX),
            catalog.repositories(),
        )
    ]
    writes = [
        catalog.point_tag(NGINX, Tag(f"t{number}"), manifest.digest, now=2.0)
        for number in range(50)
    ]
    async with asyncio.timeout(60):
        answers = await asyncio.gather(*reads, *writes)
    assert all(answers)
    assert len(await catalog.tags(NGINX)) == 51


async def test_reads_that_hang_fail_in_a_sentence_and_later_ones_sooner(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "READ_TIMEOUT", 0.02)
    monkeypatch.setattr(connections, "STALLED_READ_TIMEOUT", 0.01)
    thawed = threading.Event()

    def hang(_: Connection) -> None:
        thawed.wait(30)

    failures = await asyncio.gather(
        *(catalog._read(hang) for _ in range(connections.READERS)), return_exceptions=True
    )
    assert [str(each).partition(" Look")[0] for each in failures] == [
        "The catalog has not answered for 0.02 s."
    ] * connections.READERS
    with pytest.raises(
        CatalogFailed, match=r"The catalog has not answered for 0\.01 s\. Look at the disk"
    ):
        await catalog.is_cached(NGINX)
    assert catalog.health.problem is not None
    monkeypatch.setattr(connections, "READ_TIMEOUT", 30)
    monkeypatch.setattr(connections, "STALLED_READ_TIMEOUT", 30)
    thawed.set()
    assert not await catalog.is_cached(Repository("none"))
    assert catalog.health.problem is None


async def test_a_thread_reads_and_waits_no_longer_than_a_task(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    await catalog.add_manifest(NGINX, SOURCE, image("a"), now=1.0)
    names = NameRange("library/", "library0")
    assert await asyncio.to_thread(catalog.find_within, names, 1) == ([NGINX], 1)
    monkeypatch.setattr(connections, "READ_TIMEOUT", 0.02)
    thawed = threading.Event()

    def hang(_: Connection) -> None:
        thawed.wait(30)

    with pytest.raises(CatalogFailed, match=r"The catalog has not answered for 0\.02 s\."):
        await asyncio.to_thread(catalog._read_blocking, hang)
    assert catalog.is_stalled
    thawed.set()


async def test_a_client_that_leaves_takes_its_read_along(catalog: Catalog) -> None:
    thawed = threading.Event()
    began = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang(_: Connection) -> None:
        loop.call_soon_threadsafe(began.set)
        thawed.wait(30)

    read = [asyncio.create_task(catalog._read(hang)) for _ in range(connections.READERS)]
    await began.wait()
    waiting = asyncio.create_task(
        catalog._read(lambda _: pytest.fail("nothing waits for it any more"))
    )
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    thawed.set()
    await asyncio.gather(*read)
    assert waiting.cancelled()


@pytest.mark.parametrize("cancels", [1, 2, 3])
async def test_a_write_that_is_cancelled_leaves_no_task_and_no_thread_behind(
    tmp_path: Path, cancels: int
) -> None:
    """Cancelled twice, the process never ended, or a thread failed after the event loop ended."""
    gate, reached = threading.Event(), threading.Event()
    before = asyncio.all_tasks()

    def hang() -> int:
        reached.set()
        assert gate.wait(60)
        return 1

    async with Catalog.open(tmp_path / "catalog.sqlite") as catalog:

        async def write() -> None:
            async with catalog._write() as connection:
                raw: Any = (await connection.get_raw_connection()).driver_connection
                await raw.create_function("hang", 0, hang)
                await connection.exec_driver_sql("SELECT hang()")

        writing = asyncio.create_task(write())
        await asyncio.to_thread(reached.wait, 60)
        for _ in range(cancels):
            writing.cancel()
            await asyncio.sleep(0)
        gate.set()
        async with asyncio.timeout(60):
            await asyncio.gather(writing, return_exceptions=True)
        assert writing.cancelled()
    assert [
        each.name for each in threading.enumerate() if "_connection_worker_thread" in each.name
    ] == []
    async with asyncio.timeout(60):
        await asyncio.gather(*(asyncio.all_tasks() - before), return_exceptions=True)


def sqlite_error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("failed")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (sqlite3.SQLITE_CORRUPT, Reason.DAMAGED),
        (sqlite3.SQLITE_CORRUPT_INDEX, Reason.DAMAGED),
        (sqlite3.SQLITE_NOTADB, Reason.DAMAGED),
        (sqlite3.SQLITE_FULL, Reason.FULL),
        (sqlite3.SQLITE_READONLY_DBMOVED, Reason.READ_ONLY),
        (sqlite3.SQLITE_IOERR, Reason.OTHER),
    ],
)
def test_the_reason_follows_from_sqlite_s_result_code(code: int, reason: Reason) -> None:
    assert reason_of(sqlite_error(code)) is reason


def test_a_failure_without_a_code_has_no_reason_of_its_own() -> None:
    assert reason_of(sqlite3.OperationalError("failed")) is Reason.OTHER


def test_a_failure_is_over_when_the_same_operation_succeeds() -> None:
    health = CatalogHealth()
    error = CatalogFailed("failed")
    health.record_failure(CatalogOperation.WRITING, error)
    health.record_success(CatalogOperation.READING)
    assert (health.problem, health.missed_writes) == (error, 1)
    health.record_success(CatalogOperation.WRITING)
    assert (health.problem, health.missed_writes) == (None, 1)


def test_damage_is_reported_although_other_reads_succeed() -> None:
    """L12."""
    health = CatalogHealth()
    error = CatalogFailed("damaged", reason=Reason.DAMAGED)
    health.record_failure(CatalogOperation.READING, error)
    health.record_success(CatalogOperation.READING)
    assert health.problem is error


def test_a_connection_that_refuses_a_pragma_is_closed() -> None:
    """SQLAlchemy would leave it open, and with it a thread."""
    connection = sqlite3.connect(":memory:")
    with pytest.raises(sqlite3.OperationalError):
        pragma_listener(["query_only=ON", "no such ( pragma"])(connection, None)
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")
