"""The engine's Unix socket: private to its user, and never taken from, or removed under, another
engine.

The data directory's lock does not protect the socket: two engines with data directories of their
own may share one runtime directory. So a lock file beside the socket says who owns it. The kernel
lets go of the lock when its holder ends, however that happens.

The directory does not belong to the engine alone: a logout removes it (``/run/user/UID``, without
``loginctl enable-linger``), programs that clean temporary directories remove what is old, and
people remove what they take for old. A socket that is gone can't be connected to, though its engine
lives (F68). So `OwnedSocket.ensure` looks whether the path still leads to the socket, and binds it
again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from entrepot.errors import EngineError

CONNECT_TIMEOUT = 2.0
"""Seconds within which an engine that is alive accepts a connection on its socket."""

_CAN_NOT_LOCK = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS})

_Identity = tuple[int, int]
"""Device and inode. As long as the file is open no other file gets its inode."""


class OwnedSocket:
    """A Unix socket that is bound at *path*, with mode 0600, and the lock that says whose it is.
    All methods block. `owned_socket` opens and closes it."""

    def __init__(self, path: Path) -> None:
        """What a dead engine left at *path* is replaced; raises `EngineError` where an engine that
        is alive owns it, or where it can't be bound."""
        self.path = path
        self._lock_path = path.with_name(f"{path.name}.lock")
        self._lock = _locked(self._lock_path, path)
        self._superseded: list[socket.socket] = []
        try:
            self.listener, self._bound = _bind(path)
        except BaseException:
            self._release_lock()
            raise

    def is_in_place(self) -> bool:
        """Whether clients that connect to the path reach this socket, and the lock beside it is the
        one that this engine holds."""
        return _identity(self.path) == self._bound and _identity(self._lock_path) == _identity_of(
            self._lock
        )

    def ensure(self) -> socket.socket | None:
        """See to it that the path leads to this engine; the new socket to listen on where it had to
        be bound again, else None.

        A directory that is gone is made again, one that others may enter is closed to them, and a
        lock that is gone is taken again. Connections of clients are not touched. `listener` is the
        new socket then; the one before may be closed by the caller. Raises `EngineError` where that
        can't be done, because another engine, another file or another user's directory is in its
        place, or the directory can't be made; it can be tried again.
        """
        self._keep_directory_private()
        if _identity(self._lock_path) != _identity_of(self._lock):
            lock = _locked(self._lock_path, self.path)
            os.close(self._lock)
            self._lock = lock
        if _identity(self.path) == self._bound:
            return None
        before = self.listener
        self.listener, self._bound = _bind(self.path)
        self._superseded = [each for each in (*self._superseded, before) if each.fileno() >= 0]
        return self.listener

    def close(self) -> None:
        """Close the socket, and remove its file and the lock's if they are still the ones that were
        made."""
        for each in (self.listener, *self._superseded):
            each.close()
        with suppress(OSError):
            if _identity(self.path) == self._bound:
                self.path.unlink(missing_ok=True)
        self._release_lock()

    def _release_lock(self) -> None:
        # While it is still locked: whoever waits for it finds another file in its place, or none,
        # and looks again.
        with suppress(OSError):
            if _identity(self._lock_path) == _identity_of(self._lock):
                self._lock_path.unlink()
        os.close(self._lock)

    def _keep_directory_private(self) -> None:
        directory = self.path.parent
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = directory.stat()
            if status.st_uid != os.geteuid():
                raise EngineError(
                    f"The directory {directory} of the management socket belongs to another user now.",
                    "Remove it, or start the engine again.",
                )
            # Whoever may write there could put another socket in its place, and without these
            # rights it can't be bound again.
            if stat.S_IMODE(status.st_mode) & 0o777 != 0o700:
                directory.chmod(0o700)
        except OSError as error:
            what = f"The directory {directory} of the management socket is gone and can't be made again: {error.strerror}."
            raise EngineError(what, _lingering(directory)) from error


@contextmanager
def owned_socket(path: Path) -> Iterator[OwnedSocket]:
    """A Unix socket bound at *path*, to listen on. At the end its file is removed if it is still
    the one that was bound.

    What a dead engine left at *path* is replaced. Raises `EngineError` where an engine that is
    alive owns it, or where it can't be bound.
    """
    owned = OwnedSocket(path)
    try:
        yield owned
    finally:
        owned.close()


def _lingering(directory: Path) -> str:
    again = "It is made again as soon as that is possible."
    if directory.is_relative_to("/run/user"):
        return f"{again} A logout removed it: with loginctl enable-linger, or as a system service with an XDG_RUNTIME_DIR of its own, it stays."
    return f"{again} Give this user the right to write in {directory.parent}."


def _bind(path: Path) -> tuple[socket.socket, _Identity]:
    _make_room(path)
    try:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(path))
            # Nobody can connect before it listens.
            os.chmod(path, 0o600)
            status = path.lstat()
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise EngineError(
            f"The management socket {path} can't be made: {error.strerror or error}.",
            "Look at its directory and its rights.",
        ) from error
    return listener, (status.st_dev, status.st_ino)


def _make_room(path: Path) -> None:
    """Remove what a dead engine left at *path*. Raises `EngineError` where an engine that is alive
    listens there, or something else than a socket is there."""
    try:
        mode = path.lstat().st_mode
        if not stat.S_ISSOCK(mode):
            what = "a directory" if stat.S_ISDIR(mode) else "a file that is no socket"
            raise EngineError(
                f"In the place of the management socket {path} is {what}.", "Move it away."
            )
        if _is_alive(path):
            raise _in_use(path)
        path.unlink(missing_ok=True)
    except FileNotFoundError:
        return
    except OSError as error:
        raise EngineError(
            f"The management socket {path} can't be made: {error.strerror or error}.",
            "Look at its directory and its rights.",
        ) from error


def _identity(path: Path) -> _Identity | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _identity_of(descriptor: int) -> _Identity:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def _locked(lock: Path, path: Path) -> int:
    """A descriptor that holds the lock in the file *lock* of the socket *path*; raises
    `EngineError`, also where another process holds it."""
    try:
        return _open_locked(lock)
    except BlockingIOError as error:
        raise _in_use(path) from error
    except OSError as error:
        raise EngineError(
            f"The lock {lock} of the management socket can't be taken: {error.strerror}.",
            "Look at its directory and its rights.",
        ) from error


def _open_locked(lock: Path) -> int:
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # Where the file system knows no locks, whether the other engine answers has to do.
            if error.errno not in _CAN_NOT_LOCK:
                os.close(descriptor)
                raise
        if _identity(lock) == _identity_of(descriptor):
            return descriptor
        # Its last owner has removed it in between.
        os.close(descriptor)


def _is_alive(path: Path) -> bool:
    """Whether somebody accepts connections at *path*: an engine of an earlier version, which takes
    no lock."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(CONNECT_TIMEOUT)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            # It is too busy to accept (EAGAIN), or listens in another way: somebody is there.
            return True
    return True


def _listener_pid(path: Path) -> int | None:
    """The pid of the process that listens at *path*; None where nobody does, or the system does not
    tell (unix(7), SO_PEERCRED)."""
    if sys.platform != "linux":
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(CONNECT_TIMEOUT)
        try:
            probe.connect(str(path))
            pid, _, _ = struct.unpack(
                "3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            )
        except OSError:
            return None
    return pid if isinstance(pid, int) and pid > 0 else None


def _in_use(path: Path) -> EngineError:
    pid = _listener_pid(path)
    return EngineError(
        f"Another engine answers on the management socket {path}{f', with pid {pid}' if pid is not None else ''}.",
        "Use that one (entrepot status), or stop it first. With an XDG_RUNTIME_DIR of its own for each, two can live side by side.",
    )
