"""Periodic maintenance of the catalog.

Backups, free pages, the write-ahead log, indexes that are new, and the disk reserve.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from entrepot.store.catalog import Catalog
from entrepot.store.connections import CatalogFailed, CatalogOperation, Reason
from entrepot.store.disk_reserve import DiskReserve
from entrepot.store.recovery import back_up, backup_of, check, damage_note

MAINTENANCE_INTERVAL = 60.0
"""Seconds between two rounds of maintenance."""

FIRST_BACKUP = 600.0
"""Seconds after the start, or after the first change, at which the first backup is made."""

BACKUP_INTERVAL = 6 * 3600.0
"""Seconds between two backups of a catalog that changes."""

ROOM_FOR_BACKUP = 64 * 2**20
"""Bytes that must stay free on the disk besides the backup."""

_log = logging.getLogger("entrepot.catalog")


class CatalogMaintenance:
    """The maintenance of one catalog. *clock* is monotonic."""

    def __init__(self, catalog: Catalog, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._catalog = catalog
        self._path = catalog.path
        self._clock = clock
        self._reserve = DiskReserve(catalog.path)
        self._backed_up = clock() - BACKUP_INTERVAL + FIRST_BACKUP
        self._backed_up_state = catalog.changes, catalog.uses
        self._failure: str | None = None
        self._has_all_indexes = False
        self._has_noted_damage = False

    async def watch(self) -> None:
        """Run rounds of maintenance until cancelled."""
        if not self._catalog.is_checked:
            await self._check()
        while True:
            await self.once()
            await asyncio.sleep(MAINTENANCE_INTERVAL)

    async def once(self) -> None:
        """Run one round. A failure is logged once, and tried again in the next round."""
        await self._note_damage()
        if self._catalog.refusal is not None and not await self._catalog.reopen():
            return
        try:
            await asyncio.to_thread(self._reserve.allocate)
            await self._catalog.release_free_pages()
            if not self._has_all_indexes:
                await self._catalog.create_missing_indexes()
                self._has_all_indexes = True
            if self.backup_is_due():
                await self.back_up()
        except (CatalogFailed, OSError, sqlite3.Error) as error:
            if str(error) != self._failure:
                _log.warning("The maintenance of the catalog failed, and is tried again: %s", error)
            self._failure = str(error)
            return
        self._failure = None

    def backup_is_due(self) -> bool:
        """Whether the catalog has changed, and its last backup is old or missing."""
        if (self._catalog.changes, self._catalog.uses) == self._backed_up_state:
            return False
        return self._clock() - self._backed_up >= BACKUP_INTERVAL

    async def back_up(self) -> None:
        """Make a backup now, where there is enough room for it.

        Raises `CatalogFailed`, `OSError` or `sqlite3.Error`.
        """
        state = self._catalog.changes, self._catalog.uses
        if not await asyncio.to_thread(_has_room, self._path):
            _log.debug("There is no room for a copy of the catalog")
            return
        try:
            await asyncio.to_thread(back_up, self._path)
        except CatalogFailed as error:
            self._catalog.health.record_failure(CatalogOperation.READING, error)
            raise
        finally:
            # A failing backup is not tried every minute.
            self._backed_up = self._clock()
        self._backed_up_state = state

    async def close(self) -> None:
        """Make a last backup where one is due, or where there is none yet."""
        await self._note_damage()
        if self._catalog.refusal is not None or self._catalog.health.problem is not None:
            return
        changed = (self._catalog.changes, self._catalog.uses) != self._backed_up_state
        if changed and (self.backup_is_due() or not backup_of(self._path).exists()):
            try:
                await self.back_up()
            except (CatalogFailed, OSError, sqlite3.Error) as error:
                _log.warning("The catalog could not be copied: %s", error)

    async def _note_damage(self) -> None:
        """Let the next start check the whole catalog, where a user of it met damage."""
        if self._catalog.health.damage is not None and not self._has_noted_damage:
            with suppress(OSError):
                await asyncio.to_thread(damage_note(self._path).touch, 0o600)
                self._has_noted_damage = True

    async def _check(self) -> None:
        """Check the whole of a catalog that was too large to be checked at the start."""
        try:
            problem, _ = await asyncio.to_thread(check, self._path, seconds=None)
        except sqlite3.Error as error:
            _log.warning("The catalog could not be examined: %s", error)
            return
        if problem is not None:
            self._catalog.health.record_failure(
                CatalogOperation.READING,
                CatalogFailed(f"The catalog is damaged: {problem}.", reason=Reason.DAMAGED),
            )


def _has_room(catalog: Path) -> bool:
    size = catalog.stat().st_size
    return shutil.disk_usage(catalog.parent).free > size + ROOM_FOR_BACKUP
