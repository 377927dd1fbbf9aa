"""Bookkeeping of the engine, every two seconds.

It writes what was used, and reads documents that were edited.
"""

from __future__ import annotations

import asyncio
import logging

from entrepot.cache.cache import ArtifactCache
from entrepot.config.documents import Documents
from entrepot.engine.maintenance import MaintenanceService
from entrepot.engine.restriction_upkeep import RestrictionUpkeep
from entrepot.engine.traffic import Traffic
from entrepot.errors import EntrepotError
from entrepot.event_kinds import EventKind, Severity
from entrepot.events import EventLog
from entrepot.store.catalog import Catalog

INTERVAL = 2.0
"""Seconds between two looks at the documents, and between two writes of what was used."""

_log = logging.getLogger("entrepot.engine")


class Bookkeeping:
    """The bookkeeping of one engine."""

    def __init__(
        self,
        *,
        documents: Documents,
        catalog: Catalog,
        cache: ArtifactCache,
        traffic: Traffic,
        maintenance: MaintenanceService,
        restrictions: RestrictionUpkeep,
        events: EventLog,
    ) -> None:
        self._documents = documents
        self._catalog = catalog
        self._cache = cache
        self._traffic = traffic
        self._maintenance = maintenance
        self._restrictions = restrictions
        self._events = events
        self._failure: str | None = None
        self._missed_writes = 0
        """Writes that had failed when the catalog last agreed with the disk."""

    async def run(self) -> None:
        """Write and read again and again, until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL)
            try:
                await self.run_once()
            except Exception as error:
                # A disk that fails for a moment must not end the bookkeeping for good.
                self.log_failure(error)
                continue
            if self._failure is not None:
                self._failure = None
                _log.info("Bookkeeping works again")

    def log_failure(self, error: Exception) -> None:
        """Log each new failure once.

        On a full disk the same failure comes every two seconds (S19).
        """
        failure = f"{type(error).__name__}: {error}"
        if failure == self._failure:
            return
        self._failure = failure
        if isinstance(error, (EntrepotError, OSError)):
            _log.error("Bookkeeping failed; it is tried again every %g s: %s", INTERVAL, error)
        else:
            _log.error(
                "Bookkeeping failed in an unforeseen way; it is tried again every %g s",
                INTERVAL,
                exc_info=error,
            )

    async def run_once(self) -> None:
        """Write what was used, and read documents that were edited by hand.

        Raises `EntrepotError` or OSError.
        """
        self._cache.drop_expired()
        try:
            await self._write_usage()
        finally:
            # Also while the catalog fails, a hand edit is seen.
            await self._reload_documents()
        await self._restrictions.run_once()

    async def _write_usage(self) -> None:
        """Write what was used, and what the catalog did not take before."""
        missed = self._catalog.health.missed_writes
        await self._cache.index.write_unwritten()
        await self._cache.usage.write()
        await self._cache.history.write()
        await self._traffic.write_if_due()
        if (
            missed != self._missed_writes
            and missed == self._catalog.health.missed_writes
            and self._catalog.health.problem is None
        ):
            # It works again. Blobs that came meanwhile have no rows yet: they are adopted, like
            # those of an engine that was killed.
            self._missed_writes = missed
            await self._maintenance.reconcile()

    async def _reload_documents(self) -> None:
        if not await self._documents.edited():
            return
        problem = self._documents.problem
        if await self._documents.reload_if_changed(self._catalog):
            self._cache.forget_failures()
            self._events.record(
                EventKind.DOCUMENTS_READ,
                "The rules and credential sets were edited by hand and have been read.",
            )
        elif self._documents.problem is not None and self._documents.problem is not problem:
            self._events.record(
                EventKind.DOCUMENTS_REFUSED,
                self._documents.problem.message,
                severity=Severity.ERROR,
            )
