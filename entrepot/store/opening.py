"""Opening of the catalog's file.

It may be sound, damaged or missing, on a full or a read-only disk. The engine starts in each of
these cases and serves what is cached; only a file system on which SQLite can't work at all ends the
start (F88).
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import stat
import tempfile
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import URL, create_engine
from sqlalchemy.pool import NullPool

from entrepot.causes import disk_cause, locks_cause
from entrepot.errors import EngineError
from entrepot.files import file_system
from entrepot.store import counters, schema
from entrepot.store.connections import JOURNAL_SIZE, CatalogFailed, Reason, reason_of
from entrepot.store.disk_reserve import DiskReserve
from entrepot.store.recovery import (
    backup_of,
    check,
    damage_note,
    prepare_new,
    restore_missing,
    salvage,
)

CHECK_SIZE = 100 * 2**20
"""Bytes of a catalog up to which a start checks it for damage: 100 MB in the page cache take 0.1 s.
A larger one is checked after the start, so that clients do not wait for it; damage that shows then
is repaired at the next start."""

CHECK_TIME = 0.5
"""Seconds after which that check is put off too, as the disk is slow."""

CHECK_TIME_AFTER_POWER_CUT = 2.0
"""Seconds for the check of a catalog of any size that was open when the machine ended. A process
that is killed leaves a sound file."""

WRITABLE = (
    "journal_mode=WAL",
    "synchronous=NORMAL",
    "foreign_keys=ON",
    "secure_delete=FAST",
    "busy_timeout=5000",
    f"journal_size_limit={JOURNAL_SIZE}",
)
"""Pragmas of each connection.

WAL: readers never wait for the writer. NORMAL: a power cut may lose the last rows, which the next
pull brings back, but leaves the database whole. FAST: some distributions build SQLite so that it
writes zeros to each page that becomes free."""

_SERVED = (
    "What is cached is served, and what is not is passed on to clients; within a minute after the "
    "problem is solved, the catalog is written again. "
)

READ_ONLY = ("query_only=ON", "busy_timeout=5000")
"""Pragmas of each connection that can only read."""

_CAN_NOT_WORK = {
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_IOERR_LOCK,
    sqlite3.SQLITE_IOERR_RDLOCK,
    sqlite3.SQLITE_IOERR_CHECKRESERVEDLOCK,
    sqlite3.SQLITE_IOERR_SHMOPEN,
    sqlite3.SQLITE_IOERR_SHMSIZE,
    sqlite3.SQLITE_IOERR_SHMLOCK,
    sqlite3.SQLITE_IOERR_SHMMAP,
}
"""SQLite's errors on a file system without locks, or without shared memory."""


@dataclass
class Opening:
    """How a catalog is opened: database, query and pragmas for SQLAlchemy."""

    database: str
    query: dict[str, str]
    pragmas: tuple[str, ...] = WRITABLE
    notices: list[str] = field(default_factory=list)
    """What was done about a damaged or missing catalog, a sentence each."""
    refusal: CatalogFailed | None = None
    """Why nothing can be written; None when writing works."""
    is_checked: bool = True
    """Whether the whole file was checked for damage."""
    copy: tempfile.TemporaryDirectory[str] | None = None
    """The directory of a copy that is read in place of the file."""

    def url(self, driver: str) -> URL:
        """The URL for SQLAlchemy with a driver."""
        return URL.create(driver, database=self.database, query=self.query)

    def close(self) -> None:
        """Remove the copy."""
        if self.copy is not None:
            self.copy.cleanup()


def open_file(path: Path, *, now: float) -> Opening:
    """Prepare the catalog *path* to be opened, for writing where that is possible.

    Runs in a thread; raises `EngineError`.
    """
    for is_last in (False, True):
        try:
            return _for_writing(path, now)
        except sqlite3.Error as error:
            refusal = _refusal(path, error, str(error), reason_of(error))
            if not is_last and _is_full(path) and DiskReserve(path).release():
                continue
            if (
                getattr(error, "sqlite_errorcode", 0) in _CAN_NOT_WORK
                and not _is_full(path)
                and os.access(path.parent, os.W_OK)
            ):
                # SQLite needs locks and shared memory.
                raise EngineError.of_cause(
                    locks_cause(f"{error} (SQLite)", path.parent, file_system(path.parent))
                ) from error
        except OSError as error:
            refusal = _refusal(path, error, error.strerror or str(error), _reason(error))
            if (
                not is_last
                and error.errno in {errno.ENOSPC, errno.EDQUOT}
                and DiskReserve(path).release()
            ):
                continue
        break
    return _for_reading(path, refusal)


def open_for_writing(path: Path, *, now: float) -> Opening | None:
    """The catalog *path* for writing, None where that is not possible. Runs in a thread."""
    try:
        return _for_writing(path, now)
    except (OSError, sqlite3.Error, EngineError):
        return None


def _for_writing(path: Path, now: float) -> Opening:
    notices: list[str] = []
    if not path.exists():
        if (restored := restore_missing(path)) is not None:
            notices.append(restored)
        else:
            for suffix in ("-wal", "-shm"):
                # SQLite would apply the log of the missing file to the new one.
                path.with_name(path.name + suffix).unlink(missing_ok=True)
    make_private(path)
    problem, is_checked = check(path, seconds=_check_time(path))
    if problem is not None:
        notices.append(salvage(path, problem, now=now))
    if is_checked:
        damage_note(path).unlink(missing_ok=True)
    try:
        _create_tables(path)
    except sqlite3.Error as error:
        if problem is not None or reason_of(error) is not Reason.DAMAGED:
            raise
        notices.append(salvage(path, str(error), now=now))
        _create_tables(path)
    return Opening(str(path), {}, notices=notices, is_checked=is_checked)


def _check_time(path: Path) -> float | None:
    """Seconds in which to check a catalog for damage; None for as long as it takes."""
    if damage_note(path).exists():
        return None
    # SQLite removes its log when the last connection is closed.
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size and log.stat().st_mtime < _machine_started():
        return CHECK_TIME_AFTER_POWER_CUT
    return CHECK_TIME if path.stat().st_size <= CHECK_SIZE else 0.0


def _machine_started() -> float:
    """When the machine started, in seconds since the epoch."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.time() - time.clock_gettime(clock)


def _create_tables(path: Path) -> None:
    """Create the tables, or migrate an older catalog.

    Raises `EngineError` for a catalog that is newer than this engine.
    """
    with closing(sqlite3.connect(path, timeout=5)) as connection:
        prepare_new(connection)
        connection.execute("PRAGMA journal_mode=WAL")
    # No pool: closing the last connection writes the log into the file.
    engine = create_engine(URL.create("sqlite", database=str(path)), poolclass=NullPool)
    try:
        with engine.begin() as connection:
            schema.create(connection, counters.recount())
    except Exception as error:
        if isinstance(cause := getattr(error, "orig", None), sqlite3.Error):
            raise cause from error
        raise


def make_private(path: Path) -> None:
    """Create the catalog where it is missing, readable for this user alone (S30).

    SQLite gives its side files the mode of the file. Raises `OSError`.
    """
    for file in (
        path,
        *(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm")),
        backup_of(path),
    ):
        with suppress(FileNotFoundError, PermissionError):
            if stat.S_IMODE(file.stat().st_mode) & 0o077:
                try:
                    file.chmod(0o600)
                except OSError as error:
                    if error.errno != errno.EROFS:
                        raise
    if not path.exists():
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))


def _for_reading(path: Path, refusal: CatalogFailed) -> Opening:
    """Open the file for reading, where needed without its log, else a copy of both.

    Without a catalog, an empty one is opened.
    """
    queries: list[dict[str, str]] = [{"mode": "ro"}]
    log = path.with_name(f"{path.name}-wal")
    if not log.exists() or not log.stat().st_size:
        queries.append({"mode": "ro", "immutable": "1"})
    for options in queries:
        database = f"file:{quote(str(path))}"
        query = "&".join(f"{name}={value}" for name, value in options.items())
        with (
            suppress(sqlite3.Error),
            closing(sqlite3.connect(f"{database}?{query}", uri=True)) as connection,
        ):
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            connection.execute("SELECT count(*) FROM repositories").fetchone()
            # It came without a version of the schema; where it is missing, a copy gets it.
            connection.execute("SELECT 1 FROM referrer_lists LIMIT 0").fetchone()
            if version == schema.SCHEMA_VERSION:
                return Opening(database, {**options, "uri": "true"}, READ_ONLY, refusal=refusal)
    copy = tempfile.TemporaryDirectory(prefix="entrepot-catalog-")
    copied = Path(copy.name, path.name)
    try:
        for suffix in ("", "-wal"):
            with suppress(FileNotFoundError):
                shutil.copyfile(
                    path.with_name(path.name + suffix), copied.with_name(copied.name + suffix)
                )
        try:
            _create_tables(copied)
        except sqlite3.Error:
            copied.unlink()
            copied.with_name(f"{copied.name}-wal").unlink(missing_ok=True)
            _create_tables(copied)
    except (OSError, sqlite3.Error) as error:
        copy.cleanup()
        raise EngineError(
            f"{refusal.what} Nor can it be copied to {copy.name} to be read there: "
            f"{getattr(error, 'strerror', None) or error}.",
            # The engine does not start, so nothing is served.
            refusal.hint.removeprefix(_SERVED),
        ) from error
    except BaseException:
        copy.cleanup()
        raise
    return Opening(str(copied), {}, READ_ONLY, refusal=refusal, copy=copy)


def _is_full(path: Path) -> bool:
    try:
        return shutil.disk_usage(path.parent).free < 2**20
    except OSError:
        return False


def _reason(error: OSError) -> Reason:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return Reason.FULL
    return (
        Reason.READ_ONLY
        if error.errno in {errno.EROFS, errno.EACCES, errno.EPERM}
        else Reason.OTHER
    )


def _refusal(path: Path, error: OSError | sqlite3.Error, why: str, reason: Reason) -> CatalogFailed:
    """Why nothing can be written, with the cause and its code."""
    if isinstance(error, OSError):
        number = error.errno or 0
    elif reason is Reason.FULL or _is_full(path):
        number = errno.ENOSPC
    elif reason is Reason.READ_ONLY or getattr(error, "sqlite_errorcode", 0) & 0xFF in {
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PERM,
    }:
        number = errno.EACCES
    else:
        number = errno.EIO
    cause = disk_cause(OSError(number, os.strerror(number)), path.parent, file_system(path.parent))
    refusal = CatalogFailed(
        f"The catalog can't be written: {why}. {cause.what}",
        f"{_SERVED}{cause.hint}",
        reason=reason,
    )
    refusal.cause = cause.code
    return refusal
