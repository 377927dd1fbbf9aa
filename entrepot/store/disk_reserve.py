"""The disk reserve: a few megabytes for the catalog's writes on a full disk (S19).

Released, they let a deletion or an eviction be written, which makes room.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

RESERVE_SIZE = 4 * 2**20
"""Bytes of the reserve."""

ROOM_FOR_RESERVE = 16 * RESERVE_SIZE
"""Bytes that must be free to allocate the reserve; a smaller disk has better use for it."""


class DiskReserve:
    """The reserve's file beside a catalog. All methods run in a thread."""

    def __init__(self, catalog: Path) -> None:
        self._path = catalog.with_name(f"{catalog.name}.reserve")

    def allocate(self) -> None:
        """Allocate the reserve, unless it exists or little space is free."""
        with suppress(OSError):
            if not hasattr(os, "posix_fallocate"):
                return
            if self._path.exists() or shutil.disk_usage(self._path.parent).free < ROOM_FOR_RESERVE:
                return
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, RESERVE_SIZE)
            except OSError:
                self._path.unlink()
            finally:
                os.close(descriptor)

    def release(self) -> bool:
        """Free the reserve's space; returns whether there was any."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True
