"""The engine's Unix socket: private to its user, owned by one engine at a time.

The data directory's lock does not protect the socket: two engines with data directories of their
own may share one runtime directory. So a lock file beside the socket says which engine owns it. The
kernel releases the lock when its holder ends, however that happens.

The directory does not belong to the engine alone: a logout removes it (``/run/user/UID``, without
``loginctl enable-linger``), programs that clean temporary directories remove old files, and people
remove files that they take for old. No client can connect to a removed socket, though its engine
runs (F68). So `OwnedSocket.ensure` checks whether the path still leads to the socket, and binds it
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
"""Seconds within which a running engine accepts a connection on its socket."""

_CAN_NOT_LOCK = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS})

_Identity = tuple[int, int]
"""Device and inode. While the file is open no other file gets its inode."""


class OwnedSocket:
    """A Unix socket bound at *path*, with mode 0600, and the lock of its owner.

    All methods block. `owned_socket` opens and closes it.
    """

    def __init__(self, path: Path) -> None:
        """Replace the socket of a dead engine at *path*.

        Raises `EngineError` where a running engine owns it, or where it can't be bound.
        """
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
        """Whether the path leads to this socket, and the lock beside it is its own."""
        return _identity(self.path) == self._bound and _identity(self._lock_path) == _identity_of(
            self._lock
        )

    def ensure(self) -> socket.socket | None:
        """Ensure that the path leads to this engine.

        Returns the new socket to listen on where it had to be bound again, else None. A missing
        directory is created again, one that others may enter is closed to them, and a missing lock
        is taken again. Open connections are not touched. `listener` is the new socket then; the
        caller may close the one before. Raises `EngineError` where another engine, another file or
        another user's directory is in its place, or the directory can't be created; the caller can
        try again.
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
        self._superseded = [
            listener for listener in (*self._superseded, before) if listener.fileno() >= 0
        ]
        return self.listener

    def close(self) -> None:
        """Close the socket, and remove its file and the lock's if they are still its own."""
        for listener in (self.listener, *self._superseded):
            listener.close()
        with suppress(OSError):
            if _identity(self.path) == self._bound:
                self.path.unlink(missing_ok=True)
        self._release_lock()

    def _release_lock(self) -> None:
        # While it is still locked: a process that waits for it finds another file in its place, or
        # none, and checks again.
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
                    f"The directory {directory} of the management socket belongs to another user "
                    "now.",
                    "Remove it, or start the engine again.",
                )
            # A user who may write there could put another socket in its place, and without these
            # permissions it can't be bound again.
            if stat.S_IMODE(status.st_mode) & 0o777 != 0o700:
                directory.chmod(0o700)
        except OSError as error:
            what = (
                f"The directory {directory} of the management socket is gone and can't be created "
                f"again: {error.strerror}."
            )
            raise EngineError(what, _lingering(directory)) from error


@contextmanager
def owned_socket(path: Path) -> Iterator[OwnedSocket]:
    """A Unix socket bound at *path*, to listen on.

    At the end its file is removed if it is still its own. The socket of a dead engine at *path* is
    replaced. Raises `EngineError` where a running engine owns it, or where it can't be bound.
    """
    owned = OwnedSocket(path)
    try:
        yield owned
    finally:
        owned.close()


def _lingering(directory: Path) -> str:
    again = "It is created again as soon as that is possible."
    if directory.is_relative_to("/run/user"):
        return (
            f"{again} A logout removed it: with loginctl enable-linger, or as a system service "
            "with an XDG_RUNTIME_DIR of its own, it stays."
        )
    return f"{again} Give this user the right to write in {directory.parent}."


def _bind(path: Path) -> tuple[socket.socket, _Identity]:
    _remove_dead_socket(path)
    try:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(path))
            # No client can connect before it listens.
            os.chmod(path, 0o600)
            status = path.lstat()
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise EngineError(
            f"The management socket {path} can't be created: {error.strerror or error}.",
            "Look at its directory and its rights.",
        ) from error
    return listener, (status.st_dev, status.st_ino)


def _remove_dead_socket(path: Path) -> None:
    """Remove the socket of a dead engine at *path*.

    Raises `EngineError` where a running engine listens there, or *path* is no socket.
    """
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
            f"The management socket {path} can't be created: {error.strerror or error}.",
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
    """A descriptor that holds the lock in the file *lock* of the socket *path*.

    Raises `EngineError`, also where another process holds it.
    """
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
            # Where the file system has no locks, a connection shows whether an engine runs.
            if error.errno not in _CAN_NOT_LOCK:
                os.close(descriptor)
                raise
        if _identity(lock) == _identity_of(descriptor):
            return descriptor
        # Its last owner has removed it meanwhile.
        os.close(descriptor)


def _is_alive(path: Path) -> bool:
    """Whether a process accepts connections at *path*.

    An engine of an earlier version takes no lock.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(CONNECT_TIMEOUT)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            # It is too busy to accept (EAGAIN), or listens in another way: a process is there.
            return True
    return True


def _listener_pid(path: Path) -> int | None:
    """The pid of the process that listens at *path* (unix(7), SO_PEERCRED).

    None where no process does, or the system does not say.
    """
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
        f"Another engine answers on the management socket {path}"
        f"{f', with pid {pid}' if pid is not None else ''}.",
        "Use that one (entrepot status), or stop it first. With an XDG_RUNTIME_DIR of its own for "
        "each, two can run side by side.",
    )
