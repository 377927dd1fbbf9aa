"""Connections to the catalog's database: reader threads, failures and time-outs.

Reads run in a few threads with a connection each. A pool that gave connections to coroutines ran
into its time-out of 30 seconds under a mixed load (L03): each query was a dozen hops between the
event loop and a thread, and waiting coroutines kept their connections. A read is one hop now, and
waits for a free thread.

A disk that hangs blocks its thread. A read times out after `READ_TIMEOUT`; until one has come back,
the others time out after `STALLED_READ_TIMEOUT`, so that clients whose source responds do not wait
for the disk.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, ExceptionContext, create_engine, event
from sqlalchemy.pool import NullPool, QueuePool

from entrepot.errors import EngineError

READERS = 4
"""Threads for reads that follow an index to a few rows."""

LONG_READERS = 2
"""Threads for reads that scan the whole catalog: listings, and plans of evictions."""

READ_TIMEOUT = 5.0
"""Seconds after which a short read times out."""

LONG_READ_TIMEOUT = 120.0
"""Seconds after which a read of the whole catalog times out."""

STALLED_READ_TIMEOUT = 0.5
"""Seconds after which a read times out while an earlier one hangs."""

CLOSE_TIMEOUT = 5.0
"""Seconds that running reads have to end when the catalog is closed."""

JOURNAL_SIZE = 16 * 1024 * 1024
"""Bytes to which the write-ahead log is truncated after a checkpoint."""

T = TypeVar("T")


class Reason(StrEnum):
    """Why the catalog fails, as far as SQLite can tell (sqlite.org/rescode.html)."""

    DAMAGED = "damaged"
    FULL = "full"
    READ_ONLY = "read-only"
    STALLED = "stalled"
    OTHER = "other"


_HINTS = {
    Reason.DAMAGED: (
        "Restart the engine: it sets the damaged file aside, takes over what can be read, and "
        "keeps the blobs."
    ),
    Reason.FULL: (
        "Free space on the file system of the data directory. Until then what is fetched is passed "
        "on to clients and not kept."
    ),
    Reason.READ_ONLY: (
        "What is cached is served. Let this user write to the data directory, or mount its file "
        "system for writing."
    ),
    Reason.STALLED: (
        "Look at the disk of the data directory. What is fetched meanwhile is passed on to clients."
    ),
    Reason.OTHER: "Look at the disk of the data directory; entrepot doctor examines it.",
}


class CatalogFailed(EngineError):
    """The database can't be read or written.

    Its disk is gone, full, read-only or hangs, or the file is damaged: *reason* says which.
    """

    code = "CatalogFailed"

    def __init__(
        self, what: str, hint: str | None = None, *, reason: Reason = Reason.OTHER
    ) -> None:
        super().__init__(what, _HINTS[reason] if hint is None else hint)
        self.reason = reason


def reason_of(error: BaseException) -> Reason:
    """Why SQLite failed."""
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return Reason.DAMAGED
        case sqlite3.SQLITE_FULL:
            return Reason.FULL
        case sqlite3.SQLITE_READONLY:
            return Reason.READ_ONLY
    return Reason.OTHER


class CatalogOperation(StrEnum):
    """A kind of access to the catalog that fails or works again.

    Reading has failed until a read succeeds, writing until a write succeeds.
    """

    READING = "reading"
    WRITING = "writing"


@dataclass
class CatalogHealth:
    """What fails in the catalog, as its users report it (L12).

    A damaged page stays damaged although others can be read: it is reported until the engine is
    restarted.
    """

    notices: tuple[str, ...] = ()
    """What the start did about a damaged or missing catalog, a sentence each."""
    damage: CatalogFailed | None = None
    failed: dict[CatalogOperation, CatalogFailed] = field(default_factory=dict)
    missed_writes: int = 0
    """Writes that failed since the start."""

    @property
    def problem(self) -> CatalogFailed | None:
        """What fails now."""
        return self.damage or next(iter(self.failed.values()), None)

    def record_success(self, operation: CatalogOperation) -> None:
        """Record that something was read or written."""
        if self.failed:
            self.failed.pop(operation, None)

    def record_failure(self, operation: CatalogOperation, error: CatalogFailed) -> None:
        """Record that something could not be read or written."""
        if error.reason is Reason.DAMAGED:
            self.damage = error
        self.failed[operation] = error
        if operation is CatalogOperation.WRITING:
            self.missed_writes += 1

    def record_failed_read(self, context: ExceptionContext) -> None:
        """Raise `CatalogFailed` in place of a database error.

        For SQLAlchemy's ``handle_error``.
        """
        self._raise_failure(context, CatalogOperation.READING)

    def record_failed_write(self, context: ExceptionContext) -> None:
        """Raise `CatalogFailed` in place of a database error.

        For SQLAlchemy's ``handle_error``.
        """
        self._raise_failure(context, CatalogOperation.WRITING)

    def _raise_failure(self, context: ExceptionContext, operation: CatalogOperation) -> None:
        # SQLAlchemy's own error would add the statement and a link to its documentation.
        error = context.original_exception
        if isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError:
            failed = CatalogFailed(f"The catalog fails: {error}.", reason=reason_of(error))
            self.record_failure(operation, failed)
            raise failed from error


class ReaderThreads:
    """The threads that read one database, and their connections."""

    def __init__(
        self, url: URL, pragmas: Sequence[str], health: CatalogHealth, *, stays_open: bool = True
    ) -> None:
        """*stays_open*: connections stay open between reads.

        They must not where they would keep others from opening the database for writing.
        """
        # As many connections as threads: no thread waits for one.
        pool: dict[str, Any] = (
            {"poolclass": QueuePool, "pool_size": READERS + LONG_READERS, "max_overflow": 0}
            if stays_open
            else {"poolclass": NullPool}
        )
        self._engine = create_engine(url, **pool)
        event.listen(self._engine, "connect", pragma_listener(pragmas))
        event.listen(self._engine, "handle_error", health.record_failed_read)
        self._short = ThreadPoolExecutor(READERS, "entrepot-catalog")
        self._long = ThreadPoolExecutor(LONG_READERS, "entrepot-catalog-long")
        self._health = health
        self.is_stalled = False
        """Whether a read timed out, and none has come back since."""

    async def read(self, read: Callable[[Connection], T], *, long: bool) -> T:
        """The result of *read*, called in a thread within one transaction.

        Raises `CatalogFailed`, also on a time-out.
        """

        seconds = self._timeout(long=long)
        reading = asyncio.wrap_future(self._submit(read, long=long))
        if not await _finishes(reading, seconds):
            raise self._stalled(seconds)
        return reading.result()

    def read_blocking(self, read: Callable[[Connection], T]) -> T:
        """The same for another thread, which waits: never for that of the event loop."""
        seconds = self._timeout(long=False)
        reading = self._submit(read, long=False)
        _, pending = wait([reading], seconds)
        if pending:
            reading.cancel()
            raise self._stalled(seconds)
        return reading.result()

    def _submit(self, read: Callable[[Connection], T], *, long: bool) -> Future[T]:
        def read_now() -> T:
            with self._engine.connect() as connection:
                connection.exec_driver_sql("BEGIN")
                result = read(connection)
            self.is_stalled = False
            self._health.record_success(CatalogOperation.READING)
            return result

        return (self._long if long else self._short).submit(read_now)

    def _timeout(self, *, long: bool) -> float:
        if self.is_stalled:
            return STALLED_READ_TIMEOUT
        return LONG_READ_TIMEOUT if long else READ_TIMEOUT

    def _stalled(self, seconds: float) -> CatalogFailed:
        """Record that a read timed out, and return its error."""
        self.is_stalled = True
        stalled = CatalogFailed(
            f"The catalog has not answered for {seconds:g} s.", reason=Reason.STALLED
        )
        self._health.record_failure(CatalogOperation.READING, stalled)
        return stalled

    def close_idle(self) -> None:
        """Close the unused connections."""
        self._engine.dispose()

    async def close(self) -> None:
        """End the threads after their reads; a read that hangs is abandoned."""
        for executor in (self._short, self._long):
            executor.shutdown(wait=False, cancel_futures=self.is_stalled)

        def wait() -> None:
            self._short.shutdown()
            self._long.shutdown()

        if not self.is_stalled:
            await asyncio.wait(
                {asyncio.ensure_future(asyncio.to_thread(wait))}, timeout=CLOSE_TIMEOUT
            )
        self._engine.dispose()


class WriterThreads:
    """The threads of aiosqlite's connections.

    Each is stopped once, and ends before the event loop. When a write is cancelled twice,
    SQLAlchemy 2.1 stops a connection whose `close` is still running, which stops it again
    (aiosqlite 0.22): the second stop is queued behind the end of the thread, its future is never
    done, a task waits for it forever, and the process does not end. A thread that ends after the
    event loop fails with "Event loop is closed".
    """

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []

    def watch(self, connection: Any, _record: Any) -> None:
        """For SQLAlchemy's ``connect``."""
        driver = connection.driver_connection
        self._threads = [thread for thread in (*self._threads, driver._thread) if thread.is_alive()]
        stop = driver.stop
        futures: list[Any] = []

        def stop_once() -> Any:
            if not futures:
                futures.append(stop())
            return futures[0]

        driver.stop = stop_once

    async def end(self) -> None:
        """Wait until all threads have ended, for `CLOSE_TIMEOUT` seconds at most."""
        deadline = time.monotonic() + CLOSE_TIMEOUT

        def join() -> None:
            for thread in self._threads:
                thread.join(max(0.0, deadline - time.monotonic()))

        if any(thread.is_alive() for thread in self._threads):
            await asyncio.to_thread(join)


async def _finishes(reading: asyncio.Future[Any], seconds: float) -> bool:
    """Whether a read ends in time; else it is cancelled, unless a thread has begun it."""
    try:
        _, pending = await asyncio.wait({reading}, timeout=seconds)
    except asyncio.CancelledError:
        reading.cancel()
        raise
    if pending:
        reading.cancel()
    return not pending


def pragma_listener(pragmas: Sequence[str]) -> Callable[[Any, Any], None]:
    """Create a listener that executes *pragmas* on each new connection.

    For SQLAlchemy's ``connect``.
    """

    def execute_pragmas(connection: Any, _record: Any) -> None:
        try:
            cursor = connection.cursor()
            for pragma in pragmas:
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()
        except BaseException:
            # SQLAlchemy would leave it open, and with it a thread.
            connection.close()
            raise

    return execute_pragmas
