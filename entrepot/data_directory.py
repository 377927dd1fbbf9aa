"""The data directory as an engine finds it when it starts: its own, and with room left."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from entrepot.directories import Directories
from entrepot.errors import EngineError

SPACE_TO_START = 16 * 1024 * 1024
"""Bytes that must be free in the data directory for the engine to start."""


@contextmanager
def only_engine(directories: Directories) -> Iterator[None]:
    """Hold the data directory's lock: two engines on the same data would each believe in their own catalog.

    Raises `EngineError`, also where there is no room left.
    """
    try:
        descriptor = os.open(directories.lock, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise _no_room(directories, error) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise EngineError(
                f"Another engine runs on the data in {directories.data}.",
                "Use that one (entrepot status), or stop it first. With XDG_DATA_HOME, XDG_CONFIG_HOME and XDG_RUNTIME_DIR two can live side by side.",
            ) from error
        _check_space(directories)
        yield
    finally:
        os.close(descriptor)


def _check_space(directories: Directories) -> None:
    probe = directories.data / "probe"
    try:
        with probe.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, SPACE_TO_START)
    except OSError as error:
        raise _no_room(directories, error) from error
    finally:
        probe.unlink(missing_ok=True)


def _no_room(directories: Directories, error: OSError) -> EngineError:
    if error.errno == errno.ENOSPC:
        return EngineError(
            f"The disk is full: {directories.data} has no {SPACE_TO_START // 2**20} MiB left.", "Free space there, or move the data to a larger disk."
        )
    return EngineError(
        f"The data directory {directories.data} can't be written: {error.strerror}.",
        "Give this user the right to write there, or set XDG_DATA_HOME to another directory.",
    )
