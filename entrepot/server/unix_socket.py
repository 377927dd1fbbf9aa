"""The engine's Unix socket: private to its user, and never taken from, or removed under, another engine.

The data directory's lock does not protect the socket: two engines with data directories of their own may share one runtime directory. So a lock file beside the
socket says who owns it. The kernel lets go of the lock when its holder ends, however that happens.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from entrepot.errors import EngineError

CONNECT_TIMEOUT = 2.0
"""Seconds within which an engine that is alive accepts a connection on its socket."""

_CAN_NOT_LOCK = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS})


@contextmanager
def owned_socket(path: Path) -> Iterator[socket.socket]:
    """A Unix socket bound at *path* with mode 0600, to listen on. At the end its file is removed if it is still the one that was bound.

    What a dead engine left at *path* is replaced. Raises `EngineError` where an engine that is alive owns it, or where it can't be bound.
    """
    with _lock(path.with_name(f"{path.name}.lock"), path):
        if _is_alive(path):
            raise _in_use(path)
        try:
            listener, identity = _bind(path)
        except OSError as error:
            raise EngineError(f"The management socket {path} can't be made: {error.strerror or error}.", "Look at its directory and its rights.") from error
        try:
            with listener:
                yield listener
        finally:
            if _identity(path) == identity:
                path.unlink(missing_ok=True)


def _bind(path: Path) -> tuple[socket.socket, tuple[int, int] | None]:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        # Nobody can connect before it listens.
        os.chmod(path, 0o600)
    except OSError:
        listener.close()
        raise
    return listener, _identity(path)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


@contextmanager
def _lock(lock: Path, path: Path) -> Iterator[None]:
    try:
        descriptor = _locked(lock)
    except BlockingIOError as error:
        raise _in_use(path) from error
    except OSError as error:
        raise EngineError(f"The lock {lock} of the management socket can't be taken: {error.strerror}.", "Look at its directory and its rights.") from error
    try:
        yield
    finally:
        # While it is still locked: whoever waits for it finds another file in its place, or none, and looks again.
        with suppress(OSError):
            lock.unlink()
        os.close(descriptor)


def _locked(lock: Path) -> int:
    """A descriptor that holds the lock in the file *lock*; raises OSError, BlockingIOError where another process holds it."""
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # Where the file system knows no locks, whether the other engine answers has to do.
            if error.errno not in _CAN_NOT_LOCK:
                os.close(descriptor)
                raise
        status = os.fstat(descriptor)
        if _identity(lock) == (status.st_dev, status.st_ino):
            return descriptor
        # Its last owner has removed it in between.
        os.close(descriptor)


def _is_alive(path: Path) -> bool:
    """Whether somebody accepts connections at *path*: an engine of an earlier version, which takes no lock."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(CONNECT_TIMEOUT)
        with suppress(OSError):
            probe.connect(str(path))
            return True
    return False


def _in_use(path: Path) -> EngineError:
    return EngineError(
        f"Another engine answers on the management socket {path}.",
        "Use that one (entrepot status), or stop it first. With an XDG_RUNTIME_DIR of its own for each, two can live side by side.",
    )
