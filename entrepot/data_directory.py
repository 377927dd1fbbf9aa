"""The data directory as an engine finds it when it starts: its own, on a file system that can lock."""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from entrepot.directories import Directories
from entrepot.errors import EngineError
from entrepot.words import printable

SPACE_TO_START = 16 * 1024 * 1024
"""Bytes that are free in the data directory of an engine that can keep what comes: with less it starts, and says so."""


@contextmanager
def only_engine(directories: Directories) -> Iterator[None]:
    """Hold the data directory's lock: two engines on the same data would each believe in their own catalog.

    On a full disk or one that can only be read, where no lock can be made, the directory itself is locked. Raises `EngineError`.
    """
    with ExitStack() as stack:
        try:
            locked = _open_lock(directories.lock)
        except OSError as error:
            raise EngineError(
                f"The data directory {directories.data} can't be read: {error.strerror}.",
                "Give this user the right to read and write there, or set XDG_DATA_HOME to another directory.",
            ) from error
        if locked is not None:
            stack.callback(os.close, locked)
            _lock(locked, directories)
        # An engine that started without the file has locked the directory alone.
        directory = os.open(directories.data, os.O_RDONLY | os.O_DIRECTORY)
        stack.callback(os.close, directory)
        _lock(directory, directories, must=locked is None)
        yield


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
        raise EngineError(
            f"Another engine runs on the data in {directories.data}.",
            "Use that one (entrepot status), or stop it first. With XDG_DATA_HOME, XDG_CONFIG_HOME and XDG_RUNTIME_DIR two can live side by side.",
        ) from error
    except OSError as error:
        # Over NFS a directory, which nobody opens for writing, can't be locked: there the file is enough.
        if must:
            raise EngineError(
                f"The file system of {directories.data} ({file_system(directories.data)}) can't lock files: {error.strerror}.",
                "Set XDG_DATA_HOME to a directory on a local file system; over NFS the server's lock service (rpc.lockd, rpc.statd) has to run.",
            ) from error


def file_system(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """The kind of file system that *path* is on, and where it is mounted: ``nfs4 on /srv``. ``unknown`` where the system does not tell (proc(5))."""
    try:
        lines = mounts.read_text(errors="replace").splitlines()
        real = path.resolve()
    except OSError:
        return "unknown"
    best, kind = "", "unknown"
    for line in lines:
        before, separator, after = line.partition(" - ")
        fields = before.split(" ")
        if not separator or len(fields) < 5:
            continue
        place = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
        # The one mounted last at the same place is the one that is seen.
        if len(place) >= len(best) and real.is_relative_to(place):
            best, kind = place, after.split(" ")[0]
    return printable(f"{kind} on {best}" if best else kind, 200)
