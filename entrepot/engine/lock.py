"""The lock of the data directory.

It allows one engine at a time, on a file system that can lock.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

from entrepot.causes import disk_cause, locks_cause
from entrepot.config.directories import Directories
from entrepot.config.lock_file import record_engine, running_engine
from entrepot.errors import EngineError
from entrepot.files import file_system as file_system

SPACE_TO_START = 16 * 1024 * 1024
"""Bytes that are free in the data directory of an engine that can keep what comes: with less it
starts, and says so."""


@contextmanager
def only_engine(directories: Directories) -> Iterator[None]:
    """Hold the data directory's lock.

    Two engines on the same data would each trust their own catalog.

    On a full disk or a read-only one, where no lock file can be created, the directory itself is
    locked. Raises `EngineError`.
    """
    with ExitStack() as stack:
        try:
            locked = _open_lock(directories.lock)
        except OSError as error:
            raise EngineError.of_cause(
                disk_cause(error, directories.data, file_system(directories.data))
            ) from error
        if locked is not None:
            stack.callback(os.close, locked)
            _lock(locked, directories)
        # An engine that started without the file has locked the directory alone.
        directory = os.open(directories.data, os.O_RDONLY | os.O_DIRECTORY)
        stack.callback(os.close, directory)
        _lock(directory, directories, must=locked is None)
        record_engine(directories.lock, None)
        yield


def start_problem(directories: Directories) -> EngineError | None:
    """Why this user's engine can't start, or store anything, on these directories.

    None when no problem is seen.

    Blocks. The files that are created for the check are removed. In directories of another user no
    file is created at all: root would leave files behind there that the engine's user can't write.
    """
    data = directories.data
    try:
        status = data.stat()
    except FileNotFoundError:
        above = next(parent for parent in data.parents if os.path.lexists(parent))
        if os.access(above, os.W_OK | os.X_OK):
            return None
        refused = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return EngineError.of_cause(disk_cause(refused, data, file_system(data)))
    except OSError as error:
        return EngineError.of_cause(disk_cause(error, data, file_system(data)))
    if status.st_uid != os.geteuid():
        if os.geteuid() == 0:
            return None
        return EngineError.of_cause(
            disk_cause(
                PermissionError(errno.EACCES, os.strerror(errno.EACCES)), data, file_system(data)
            )
        )
    try:
        with only_engine(directories):
            return _unusable(data)
    except EngineError as error:
        return error


def last_write(directories: Directories) -> float:
    """A time that has certainly passed, in seconds since the epoch.

    It is when an engine last wrote its catalog, or when this program was installed.
    """
    times = [0.0]
    for path in (
        directories.catalog,
        directories.catalog.with_name(f"{directories.catalog.name}-wal"),
        Path(__file__),
    ):
        with suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times)


def _unusable(data: Path) -> EngineError | None:
    try:
        with (
            tempfile.TemporaryDirectory(prefix="entrepot-probe-", dir=data) as place,
            closing(sqlite3.connect(Path(place, "probe.sqlite"), timeout=1)) as connection,
        ):
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("CREATE TABLE probe (number INTEGER)")
    except OSError as error:
        return EngineError.of_cause(disk_cause(error, data, file_system(data)))
    except sqlite3.Error as error:
        # Writing a file did not fail: SQLite needs locks, and memory that its connections share.
        return EngineError.of_cause(locks_cause(f"{error} (SQLite)", data, file_system(data)))
    return None


def _open_lock(path: Path) -> int | None:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        if error.errno not in {errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM}:
            raise
        try:
            return os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
    with suppress(OSError):
        os.fchmod(descriptor, 0o600)
    return descriptor


def _lock(descriptor: int, directories: Directories, *, must: bool = True) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _in_use(directories) from error
    except OSError as error:
        # Over NFS a directory can't be locked, because it can't be opened for writing: there the
        # file is enough.
        if must:
            cause = locks_cause(
                error.strerror or str(error), directories.data, file_system(directories.data)
            )
            raise EngineError.of_cause(cause) from error


def _in_use(directories: Directories) -> EngineError:
    """Why the data can't be used, and what leads to the engine that uses it (F68)."""
    other = running_engine(directories.lock)
    pid = "" if other is None else f", with pid {other.pid}"
    what = f"Another engine runs on the data in {directories.data}{pid}."
    stop = "stop it first" if other is None else f"stop it first (kill {other.pid})"
    side_by_side = (
        "With XDG_DATA_HOME, XDG_CONFIG_HOME and XDG_RUNTIME_DIR two can live side by side."
    )
    if other is None or other.socket is None:
        return EngineError(what, f"Use that one (entrepot status), or {stop}. {side_by_side}")
    if other.socket != directories.socket:
        what += f" It answers on {other.socket}, and this user's socket is {directories.socket}."
        runtime = other.socket.parent.parent
        hint = f"Use that one (XDG_RUNTIME_DIR={runtime} entrepot status), or {stop}."
        return EngineError(what, f"{hint} {side_by_side}")
    if not other.socket.is_socket():
        what += f" Its socket {other.socket} is gone, and it makes it again within seconds."
    return EngineError(what, f"Use that one (entrepot status), or {stop}. {side_by_side}")
