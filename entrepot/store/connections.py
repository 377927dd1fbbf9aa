"""Connections to the catalog's database: who reads, what fails, and how long anything may take.

Reads run in a few threads with a connection each. A pool that hands connections to coroutines was
given up after 30 seconds under a mixed load (L03): each query was a dozen hops between the event
loop and a thread, and whoever waited kept its connection. Now a read is one hop, and waits for a
free thread.

A disk that hangs holds its thread for as long as it likes. A read is given up after `READ_TIMEOUT`;
while none has come back since, the others are given up after `STALLED_READ_TIMEOUT`, so that
clients whose source answers do not wait for the disk.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, ExceptionContext, create_engine, event
from sqlalchemy.pool import NullPool, QueuePool

from entrepot.errors import EngineError

READERS = 4
"""Threads for reads that follow an index to a few rows."""

LONG_READERS = 2
"""Threads for reads that look at the whole catalog: listings, and plans of what goes."""

READ_TIMEOUT = 5.0
"""Seconds after which a short read is given up."""

LONG_READ_TIMEOUT = 120.0
"""Seconds after which a read of the whole catalog is given up."""

STALLED_READ_TIMEOUT = 0.5
"""Seconds after which a read is given up while an earlier one hangs."""

CLOSE_TIMEOUT = 5.0
"""Seconds that reads under way have to end when the catalog is closed."""

JOURNAL_SIZE = 16 * 1024 * 1024
"""Bytes to which the write-ahead log is cut after a checkpoint."""

T = TypeVar("T")


class Reason(StrEnum):
    """Why the catalog fails, as far as SQLite can tell (sqlite.org/rescode.html)."""

    DAMAGED = "damaged"
    FULL = "full"
    READ_ONLY = "read-only"
    STALLED = "stalled"
    OTHER = "other"


_HINTS = {
    Reason.DAMAGED: "Restart the engine: it sets the damaged file aside, takes over what can be read, and keeps the blobs.",
    Reason.FULL: "Free space on the file system of the data directory. Until then what is fetched is passed on to clients and not kept.",
    Reason.READ_ONLY: "What is cached is served. Let this user write to the data directory, or mount its file system for writing.",
    Reason.STALLED: "Look at the disk of the data directory. What is fetched meanwhile is passed on to clients.",
    Reason.OTHER: "Look at the disk of the data directory; entrepot doctor examines it.",
}


class CatalogFailed(EngineError):
    """The database can't be read or written: its disk is gone, full, read-only or hangs, or the
    file is damaged. *reason* says which."""

    code = "CatalogFailed"

    def __init__(
        self, what: str, hint: str | None = None, *, reason: Reason = Reason.OTHER
    ) -> None:
        super().__init__(what, _HINTS[reason] if hint is None else hint)
        self.reason = reason


def reason_of(error: BaseException) -> Reason:
    """Why SQLite refused."""
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return Reason.DAMAGED
        case sqlite3.SQLITE_FULL:
            return Reason.FULL
        case sqlite3.SQLITE_READONLY:
            return Reason.READ_ONLY
    return Reason.OTHER


class CatalogOperation(StrEnum):
    """What failed: reading is well again when something was read, writing when something was
    written."""

    READING = "reading"
    WRITING = "writing"


@dataclass
class CatalogHealth:
    """What fails in the catalog, told by whoever uses it (L12).

    A damaged page stays damaged, though others can be read: that is told until the engine is
    restarted.
    """

    notices: tuple[str, ...] = ()
    """What was done at the start about a catalog that was damaged or gone, a sentence each."""
    damage: CatalogFailed | None = None
    failed: dict[CatalogOperation, CatalogFailed] = field(default_factory=dict)
    missed_writes: int = 0
    """Writes that failed since the start."""

    @property
    def problem(self) -> CatalogFailed | None:
        """What fails at the moment."""
        return self.damage or next(iter(self.failed.values()), None)

    def record_success(self, trouble: CatalogOperation) -> None:
        """Something was read or written."""
        if self.failed:
            self.failed.pop(trouble, None)

    def record_failure(self, trouble: CatalogOperation, error: CatalogFailed) -> None:
        """Something could not be read or written."""
        if error.reason is Reason.DAMAGED:
            self.damage = error
        self.failed[trouble] = error
        if trouble is CatalogOperation.WRITING:
            self.missed_writes += 1

    def record_failed_read(self, context: ExceptionContext) -> None:
        """For SQLAlchemy's ``handle_error``: raises `CatalogFailed` in place of what the database
        said."""
        self._tell(context, CatalogOperation.READING)

    def record_failed_write(self, context: ExceptionContext) -> None:
        """For SQLAlchemy's ``handle_error``: raises `CatalogFailed` in place of what the database
        said."""
        self._tell(context, CatalogOperation.WRITING)

    def _tell(self, context: ExceptionContext, trouble: CatalogOperation) -> None:
        # SQLAlchemy would add the statement, and an address of its documentation.
        error = context.original_exception
        if isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError:
            failed = CatalogFailed(f"The catalog fails: {error}.", reason=reason_of(error))
            self.record_failure(trouble, failed)
            raise failed from error


class Readers:
    """The threads that read one database, and their connections."""

    def __init__(
        self, url: URL, pragmas: Sequence[str], health: CatalogHealth, *, stays_open: bool = True
    ) -> None:
        """Connections *stay open* between reads, except those that keep others from opening the
        database for writing."""
        # As many connections as threads: none ever waits for one.
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
        """Whether a read was given up, and none has come back since."""

    async def read(self, read: Callable[[Connection], T], *, long: bool) -> T:
        """What *read*, called in a thread, reads in one transaction; raises `CatalogFailed`, also
        when that takes too long."""

        def read_now() -> T:
            with self._engine.connect() as connection:
                connection.exec_driver_sql("BEGIN")
                result = read(connection)
            self.is_stalled = False
            self._health.record_success(CatalogOperation.READING)
            return result

        patience = (
            STALLED_READ_TIMEOUT if self.is_stalled else LONG_READ_TIMEOUT if long else READ_TIMEOUT
        )
        reading = asyncio.wrap_future((self._long if long else self._short).submit(read_now))
        done, _ = await _wait(reading, patience)
        if not done:
            self.is_stalled = True
            stalled = CatalogFailed(
                f"The catalog has not answered for {patience:g} s.", reason=Reason.STALLED
            )
            self._health.record_failure(CatalogOperation.READING, stalled)
            raise stalled
        return reading.result()

    def close_idle(self) -> None:
        """Close the connections that nobody uses."""
        self._engine.dispose()

    async def close(self) -> None:
        """End the threads, after what they have to read. A read that hangs is left behind."""
        for each in (self._short, self._long):
            each.shutdown(wait=False, cancel_futures=self.is_stalled)

        def wait() -> None:
            self._short.shutdown()
            self._long.shutdown()

        if not self.is_stalled:
            await asyncio.wait(
                {asyncio.ensure_future(asyncio.to_thread(wait))}, timeout=CLOSE_TIMEOUT
            )
        self._engine.dispose()


class WriterThreads:
    """The threads of aiosqlite's connections, so that each is stopped once, and has ended before
    the event loop does.

    When a write is cancelled twice, SQLAlchemy 2.1 stops a connection whose `close` is still under
    way, and that stops it again (aiosqlite 0.22): the second stop is queued behind the end of the
    thread, and its future is never done. A task waits for it then for ever, and the process does
    not end. Where the thread ends after the event loop, it fails with "Event loop is closed".
    """

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []

    def watch(self, connection: Any, _record: Any) -> None:
        """For SQLAlchemy's ``connect``."""
        driver = connection.driver_connection
        self._threads = [each for each in (*self._threads, driver._thread) if each.is_alive()]
        stop = driver.stop
        stopped: list[Any] = []

        def stop_once() -> Any:
            if not stopped:
                stopped.append(stop())
            return stopped[0]

        driver.stop = stop_once

    async def end(self) -> None:
        """Wait until all threads have ended, for `CLOSE_TIMEOUT` at most."""
        until = time.monotonic() + CLOSE_TIMEOUT

        def join() -> None:
            for each in self._threads:
                each.join(max(0.0, until - time.monotonic()))

        if any(each.is_alive() for each in self._threads):
            await asyncio.to_thread(join)


async def _wait(reading: asyncio.Future[Any], patience: float) -> tuple[set[Any], set[Any]]:
    """Wait, and withdraw a read that is given up before a thread has begun it."""
    try:
        done, pending = await asyncio.wait({reading}, timeout=patience)
    except asyncio.CancelledError:
        reading.cancel()
        raise
    for each in pending:
        each.cancel()
    return done, pending


def pragma_listener(pragmas: Sequence[str]) -> Callable[[Any, Any], None]:
    """For SQLAlchemy's ``connect``: begin each connection with some *pragmas*."""

    def set_up_connection(connection: Any, _record: Any) -> None:
        try:
            cursor = connection.cursor()
            for pragma in pragmas:
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()
        except BaseException:
            # SQLAlchemy would leave it open, and with it a thread.
            connection.close()
            raise

    return set_up_connection
