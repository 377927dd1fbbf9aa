"""The SQLite database of the catalog.

Opening, reading, writing, and giving free pages back. Reads run side by side in threads
(`entrepot.store.connections`); writes wait for each other here and not in the database.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from sqlalchemy import Connection, event, select
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.schema import CreateIndex

from entrepot.store import schema
from entrepot.store.connections import (
    READ_TIMEOUT,
    CatalogFailed,
    CatalogHealth,
    CatalogOperation,
    ReaderThreads,
    Reason,
    WriterThreads,
    pragma_listener,
)
from entrepot.store.disk_reserve import DiskReserve
from entrepot.store.opening import Opening, open_file, open_for_writing
from entrepot.store.plan_watch import PlanWatch
from entrepot.tasks import uninterrupted

FREE_BYTES_KEPT = 2**20
"""Bytes of free pages that stay in the file for the next rows."""

PAGES_PER_TRANSACTION = 500
"""Free pages that one transaction gives back to the file system."""

WRITER_CACHE_SIZE = 16 * 2**20
"""Bytes of pages that the writing connection keeps: what a step of an eviction changes fits, and is
not written to the log twice."""

BULK_CACHE_SIZE = 64 * 2**20
"""Bytes of pages that the writing connection keeps during bulk writes, such as an eviction: it
changes a few dozen pages for each image, all over the file."""

BULK_CHECKPOINT_PAGES = 2**15
"""Pages in the write-ahead log at which bulk writes copy them into the file (128 MB): a page that
many transactions change is copied once."""

CHECKPOINT_PAGES = 1000
"""The same for other writes: SQLite's default."""

BULK_DISK_FREE = 2**30
"""Bytes that must be free on the disk for a log of that length."""

VACUUM_SIZE = 16 * 2**20
"""Bytes of free pages from which on a catalog of an earlier version is rewritten without them."""

LOG_SIZE_KEPT = 8 * 2**20
"""Bytes of the write-ahead log from which on it is truncated."""

REOPENING_ATTEMPTS = 5
"""Attempts of one round to open a catalog for writing that may be writable again."""

REOPENING_INTERVAL = 0.2
"""Seconds between two of these attempts."""

WRITE_STALLED = 30.0
"""Seconds after which a write counts as stalled; evicting some hundred images takes a few."""

T = TypeVar("T")
P = ParamSpec("P")
DatabaseT = TypeVar("DatabaseT", bound="CatalogDatabase")

_log = logging.getLogger("entrepot.catalog")


def frees_space(
    operation: Callable[Concatenate[DatabaseT, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[DatabaseT, P], Coroutine[Any, Any, T]]:
    """Retry an operation that frees space once, where the disk is full (S19).

    The retry uses the disk reserve. Also for operations that only lead to free space, such as
    unlocking.
    """

    @wraps(operation)
    async def with_reserve(database: DatabaseT, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await operation(database, *args, **kwargs)
        except CatalogFailed as error:
            if database.refusal is not None or error.reason not in {Reason.FULL, Reason.OTHER}:
                raise
            if not await asyncio.to_thread(DiskReserve(database.path).release):
                raise
        return await operation(database, *args, **kwargs)

    return with_reserve


class CatalogDatabase:
    """The database of one engine's catalog, without the queries."""

    def __init__(self, path: Path, opening: Opening, clock: Callable[[], float]) -> None:
        self.path = path
        self.is_checked = opening.is_checked
        """Whether the start checked the whole file for damage."""
        self.health = CatalogHealth()
        """What fails now, and what was done about a damaged catalog."""
        self._connect(opening)
        self._clock = clock
        self._writing = asyncio.Lock()
        self._waiting_writes = 0
        self._write_began: float | None = None
        """When the running write began, by the monotonic clock."""
        self.changes = 0
        """Counts writes that change a listing of repositories or tags, except their use."""
        self.uses = 0
        """Counts writes that change how often a repository or a rule was used."""
        self.confirmations = 0
        """Counts writes of the time when a source confirmed where a tag points."""
        self._watches: list[PlanWatch] = []

    @classmethod
    @asynccontextmanager
    async def open(
        cls, path: Path, *, clock: Callable[[], float] = time.time
    ) -> AsyncIterator[Self]:
        """Open the catalog in the file *path*, created where it is missing.

        Raises `EngineError` when it can't be used. *clock* is in seconds since the epoch.
        """
        opening = await asyncio.to_thread(open_file, path, now=clock())
        database = cls(path, opening, clock)
        try:
            yield database
        finally:
            await database._close()

    def _connect(self, opening: Opening) -> None:
        self._opening = opening
        self.refusal = opening.refusal
        """Why nothing can be written now: the catalog was opened for reading only."""
        self._engine = create_async_engine(opening.url("sqlite+aiosqlite"))
        self._writers = WriterThreads()
        event.listen(self._engine.sync_engine, "connect", self._writers.watch)
        event.listen(
            self._engine.sync_engine,
            "connect",
            pragma_listener((*opening.pragmas, f"cache_size=-{WRITER_CACHE_SIZE // 1024}")),
        )
        event.listen(self._engine.sync_engine, "handle_error", self.health.record_failed_write)
        # SQLite's connections of one process share the index of the log (-shm): while a read-only
        # connection has it open, no connection can write.
        self._readers = ReaderThreads(
            opening.url("sqlite"), opening.pragmas, self.health, stays_open=opening.refusal is None
        )
        self.health.notices += tuple(opening.notices)
        if opening.refusal is not None:
            self.health.failed[CatalogOperation.WRITING] = opening.refusal

    async def _close(self) -> None:
        await self._readers.close()
        await self._engine.dispose()
        await self._writers.end()
        self._opening.close()

    async def reopen(self) -> bool:
        """Open a read-only catalog for writing if that works by now; returns whether (S19)."""
        for attempt in range(REOPENING_ATTEMPTS):
            if attempt:
                # A running read kept the file open.
                await asyncio.sleep(REOPENING_INTERVAL)
            opening = await asyncio.to_thread(open_for_writing, self.path, now=self._clock())
            if opening is not None or not await asyncio.to_thread(os.access, self.path, os.W_OK):
                break
        if opening is None:
            return False
        old_readers, old_engine, old_opening = self._readers, self._engine, self._opening
        self._connect(opening)
        self.health.record_success(CatalogOperation.WRITING)
        self.changes += 1
        await old_readers.close()
        await old_engine.dispose()
        old_opening.close()
        return True

    @asynccontextmanager
    async def _write(self) -> AsyncIterator[AsyncConnection]:
        """A write transaction; raises `CatalogFailed`."""
        self._check_writable()
        self._waiting_writes += 1
        try:
            await self._writing.acquire()
        finally:
            self._waiting_writes -= 1
        try:
            self._write_began = time.monotonic()
            async with self._engine.begin() as connection:
                yield connection
            self.health.record_success(CatalogOperation.WRITING)
        finally:
            self._write_began = None
            self._writing.release()

    @property
    def is_awaited(self) -> bool:
        """Whether another write waits for the running one."""
        return self._waiting_writes > 0

    @asynccontextmanager
    async def bulk_writes(self) -> AsyncIterator[bool]:
        """Tune the writing connection for many changes all over the file.

        Yields whether there is room for it: on a disk that is nearly full, transactions must be
        small and their log short.
        """
        free = (await asyncio.to_thread(shutil.disk_usage, self.path.parent)).free
        if free < BULK_DISK_FREE:
            yield False
            return
        await self._tune(BULK_CACHE_SIZE, BULK_CHECKPOINT_PAGES)
        try:
            yield True
        finally:
            with suppress(CatalogFailed):
                await uninterrupted(
                    asyncio.ensure_future(self._tune(WRITER_CACHE_SIZE, CHECKPOINT_PAGES))
                )

    async def _tune(self, cache_size: int, checkpoint_pages: int) -> None:
        # Both hold for the one connection that the pool gives to writes.
        async with self._write() as connection:
            raw: Any = (await connection.get_raw_connection()).driver_connection
            await raw.execute(f"PRAGMA cache_size=-{cache_size // 1024}")
            await raw.execute(f"PRAGMA wal_autocheckpoint={checkpoint_pages}")
            await raw.execute("PRAGMA shrink_memory")

    def _check_writable(self) -> None:
        """Raise `CatalogFailed` where nothing can be written now."""
        if self.refusal is not None:
            self.health.missed_writes += 1
            raise CatalogFailed(self.refusal.what, self.refusal.hint, reason=self.refusal.reason)

    @asynccontextmanager
    async def _change(
        self, *, changes: bool = True, uses: bool = False
    ) -> AsyncIterator[AsyncConnection]:
        """A write transaction that counts in `changes` or `uses`, unless it touches no row."""
        touched_rows = True
        try:
            async with self._write() as connection:
                raw: Any = (await connection.get_raw_connection()).driver_connection
                changes_before = raw.total_changes
                yield connection
                touched_rows = raw.total_changes != changes_before
        finally:
            # Only now do other connections see it. A failure counts too: a write that is cancelled
            # here may have been committed.
            self.changes += changes and touched_rows
            self.uses += uses and touched_rows

    async def _read(self, read: Callable[[Connection], T], *, long: bool = False) -> T:
        """Read in a thread and in one transaction; raises `CatalogFailed`.

        *read* turns rows into objects there too: ten thousand rows on the event loop would delay
        all clients. *long* is for reads that may scan the whole catalog.
        """
        return await self._readers.read(read, long=long)

    def _read_blocking(self, read: Callable[[Connection], T]) -> T:
        """Read for another thread than that of the event loop; raises `CatalogFailed`."""
        return self._readers.read_blocking(read)

    @property
    def is_stalled(self) -> bool:
        """Whether a read or a write is known to hang."""
        began = self._write_began
        return self._readers.is_stalled or (
            began is not None and time.monotonic() - began > READ_TIMEOUT
        )

    async def probe(self) -> None:
        """Read a page of each large table and write one.

        Raises `CatalogFailed` when that fails, or when a request met a damaged page.
        """
        tables = (schema.repositories, schema.manifests, schema.references, schema.blobs)
        await self._read(
            lambda connection: [
                connection.execute(select(table).limit(1)).all() for table in tables
            ]
        )
        if self._write_began is None:
            async with self._write() as connection:
                # The same number again: SQLite writes its first page, and nothing changes.
                await connection.exec_driver_sql(f"PRAGMA user_version = {schema.SCHEMA_VERSION}")
        elif (duration := time.monotonic() - self._write_began) > WRITE_STALLED:
            raise CatalogFailed(
                f"A write to the catalog has not ended for {duration:.0f} s.",
                reason=Reason.STALLED,
            )
        if self.health.problem is not None:
            raise self.health.problem.with_traceback(None)

    async def create_missing_indexes(self) -> int:
        """Create the indexes that an older version of Entrepot did not have; returns their number.

        Each is one write, for some tenths of a second where there are 100,000 repositories, so it
        is done after the start. Raises `CatalogFailed`.
        """
        indexes = await self._read(schema.missing_indexes)
        for index in indexes:
            async with self._write() as connection:
                await connection.execute(CreateIndex(index, if_not_exists=True))
        return len(indexes)

    async def size(self) -> int:
        """Bytes of the catalog on the disk.

        They do not include free pages and a log of the usual length.
        """

        def read(connection: Connection) -> int:
            pages = connection.exec_driver_sql(
                "SELECT page_count - freelist_count "
                "FROM pragma_page_count(), pragma_freelist_count()"
            ).scalar_one()
            page_size = connection.exec_driver_sql("PRAGMA page_size").scalar_one()
            return int(pages * page_size)

        return await self._read(read) + max(0, await self._log_size() - LOG_SIZE_KEPT)

    async def _log_size(self) -> int:
        """Bytes of the write-ahead log."""
        return await asyncio.to_thread(_file_size, self.path.with_name(f"{self.path.name}-wal"))

    async def try_to_release_free_pages(self) -> None:
        """Give free pages back now, or leave it to the catalog's maintenance."""
        try:
            await self.release_free_pages()
        except (CatalogFailed, OSError) as error:
            # The rows are deleted; the catalog's maintenance retries, and logs when that fails.
            _log.debug("The free pages of the catalog can't be given back yet: %s", error)

    async def release_free_pages(self) -> None:
        """Give free pages back to the file system, and truncate a long log (S11).

        Each transaction gives back a few pages, so that other writes get their turn. A catalog of
        an earlier version can't give pages back before it is rewritten, which is done once much of
        it is free.
        """
        free_pages, auto_vacuum, page_size = await self._read(
            lambda connection: [
                int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())
                for name in ("freelist_count", "auto_vacuum", "page_size")
            ]
        )
        if free_pages * page_size > FREE_BYTES_KEPT:
            if auto_vacuum == 0:
                await self._vacuum(free_pages * page_size)
            while auto_vacuum and free_pages * page_size > FREE_BYTES_KEPT:
                async with self._write() as connection:
                    raw: Any = (await connection.get_raw_connection()).driver_connection
                    # Each row is a page given back.
                    await (
                        await raw.execute(f"PRAGMA incremental_vacuum({PAGES_PER_TRANSACTION})")
                    ).fetchall()
                    [[remaining]] = await (await raw.execute("PRAGMA freelist_count")).fetchall()
                if remaining >= free_pages:
                    break
                free_pages = remaining
        if await self._log_size() > LOG_SIZE_KEPT:
            async with self._write() as connection:
                raw = (await connection.get_raw_connection()).driver_connection
                await (await raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")).fetchall()

    async def _vacuum(self, free: int) -> None:
        """Rewrite a catalog of an earlier version without its *free* bytes.

        Writers wait meanwhile, readers do not.
        """
        size = await asyncio.to_thread(_file_size, self.path)
        disk_free = (await asyncio.to_thread(shutil.disk_usage, self.path.parent)).free
        if free < VACUUM_SIZE or free < size // 4 or disk_free < 2 * (size - free) + VACUUM_SIZE:
            return
        async with self._write() as connection:
            raw: Any = (await connection.get_raw_connection()).driver_connection
            await raw.execute("PRAGMA auto_vacuum=INCREMENTAL")
            await raw.execute("VACUUM")


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
