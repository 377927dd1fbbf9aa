"""The engine: the long-running process that caches.

It owns rules, credential sets, sources, store and cache. It composes these parts and runs the
background tasks. Its operations are in its services: `rules`, `credential_sets`, `repositories`,
`pulls`, `status`, `maintenance` and `verification`. It knows no HTTP; the servers and the tests use
its services.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from entrepot.cache.cache import ArtifactCache
from entrepot.cache.fills import Fills
from entrepot.config.directories import Directories
from entrepot.config.documents import Documents
from entrepot.config.restrictions import RestrictionRecord
from entrepot.config.settings import Settings
from entrepot.core.registries import SourceRegistries
from entrepot.engine.bookkeeping import Bookkeeping
from entrepot.engine.credential_checks import CredentialChecks
from entrepot.engine.credentials import CredentialService
from entrepot.engine.endpoints import Endpoints
from entrepot.engine.etags import Revisions
from entrepot.engine.exports import ExportService
from entrepot.engine.health import EngineHealth
from entrepot.engine.imports import ImportService
from entrepot.engine.lock import last_write, only_engine
from entrepot.engine.maintenance import MaintenanceService
from entrepot.engine.pulls import PullService
from entrepot.engine.readers import ReaderService
from entrepot.engine.repositories import RepositoryService
from entrepot.engine.restriction_upkeep import RestrictionUpkeep
from entrepot.engine.routing import Routing
from entrepot.engine.rule_usage import RuleUsageCounter
from entrepot.engine.rules import RuleService
from entrepot.engine.source_events import SourceEvents
from entrepot.engine.source_names import SourceNames
from entrepot.engine.stall_watch import StallWatch
from entrepot.engine.status import StatusService
from entrepot.engine.traffic import Traffic
from entrepot.engine.verification import Verification
from entrepot.errors import EntrepotError
from entrepot.event_kinds import EventKind, Severity
from entrepot.events import EventLog
from entrepot.source.http import ATTEMPTS
from entrepot.source.sources import Sources
from entrepot.store.blobs import BlobStore
from entrepot.store.catalog import Catalog
from entrepot.store.catalog_maintenance import CatalogMaintenance
from entrepot.store.connections import CatalogFailed
from entrepot.tasks import OwnedTasks

if TYPE_CHECKING:
    from entrepot.engine.doctor import Doctor

STUCK_MARGIN = 30.0
"""Seconds that a fill may take for one step beyond what its source may."""

_log = logging.getLogger("entrepot.engine")


class Engine:
    """One engine on one data directory. Open it with `Engine.open`."""

    def __init__(
        self,
        *,
        directories: Directories,
        settings: Settings,
        registries: SourceRegistries,
        documents: Documents,
        readers: ReaderService,
        sources: Sources,
        catalog: Catalog,
        blobs: BlobStore,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        demo: bool,
    ) -> None:
        self.directories = directories
        self.settings = settings
        self.registries = registries
        self.documents = documents
        self.readers = readers
        self.sources = sources
        self.catalog = catalog
        self.blobs = blobs
        self.stopping = asyncio.Event()
        """Set when the engine is asked to end."""
        self.endpoints = Endpoints(settings.listen)
        self.events = EventLog(clock)
        self.fills = Fills(
            blobs, clock=time.monotonic, parallel_per_source=settings.parallel_per_source
        )
        self.routing = Routing(documents, sources)
        self.cache = ArtifactCache(
            settings=settings,
            catalog=catalog,
            blobs=blobs,
            fills=self.fills,
            events=self.events,
            route=self.routing.route,
            client=self.routing.client,
            clock=clock,
            monotonic=monotonic,
            policy=readers,
        )
        sources.on_reachability = SourceEvents(self.cache, self.events).reachability_changed
        self._tasks = OwnedTasks()
        self.stall_watch = StallWatch()
        self._upkeep = CatalogMaintenance(catalog)
        self.maintenance = MaintenanceService(
            directories=directories,
            settings=settings,
            catalog=catalog,
            blobs=blobs,
            fills=self.fills,
            cache=self.cache,
            events=self.events,
            tasks=self._tasks,
            clock=clock,
        )
        self.fills.on_stored = self.maintenance.blob_stored
        self.fills.on_refusal = self.maintenance.disk_refused
        self.verification = Verification(
            catalog=catalog,
            blobs=blobs,
            copies=self.cache.copies,
            events=self.events,
            tasks=self._tasks,
            clock=clock,
        )
        self.traffic = Traffic(catalog, cache=self.cache, fills=self.fills, clock=clock)
        self.health = EngineHealth(
            directories.data,
            fills=self.fills,
            catalog=catalog,
            events=self.events,
            # A fill that is refused moves with each try; what takes longer than all time-outs of
            # one try together is stuck.
            stuck_after=ATTEMPTS * (settings.connect_timeout + settings.read_timeout)
            + STUCK_MARGIN,
            clock=time.monotonic,
        )
        self.credential_checks = CredentialChecks(
            documents=documents,
            registries=registries,
            sources=sources,
            events=self.events,
            clock=clock,
        )
        self.credential_sets = CredentialService(
            registries=registries,
            documents=documents,
            cache=self.cache,
            checks=self.credential_checks,
            events=self.events,
        )
        rule_usage = RuleUsageCounter(catalog)
        self.rules = RuleService(
            settings=settings,
            registries=registries,
            documents=documents,
            catalog=catalog,
            blobs=blobs,
            cache=self.cache,
            credential_checks=self.credential_checks,
            usage=rule_usage,
            endpoints=self.endpoints,
            events=self.events,
        )
        self.repositories = RepositoryService(
            settings=settings,
            documents=documents,
            catalog=catalog,
            cache=self.cache,
            maintenance=self.maintenance,
            events=self.events,
        )
        self.exports = ExportService(cache=self.cache, catalog=catalog, routing=self.routing)
        self.imports = ImportService(
            cache=self.cache,
            catalog=catalog,
            blobs=blobs,
            routing=self.routing,
            maintenance=self.maintenance,
            events=self.events,
            fills=directories.fills,
            manifest_limit=settings.manifest_limit,
            clock=clock,
        )
        self.maintenance.imported = self.imports.in_use
        self.source_names = SourceNames(documents, catalog, self.cache)
        self.pulls = PullService(cache=self.cache, routing=self.routing, events=self.events)
        self.revisions = Revisions(
            documents=documents,
            readers=readers,
            catalog=catalog,
            usage=rule_usage,
            health=self.credential_sets.health_of_all,
            clock=time.monotonic,
        )
        self.status = StatusService(
            settings=settings,
            registries=registries,
            documents=documents,
            sources=sources,
            catalog=catalog,
            blobs=blobs,
            fills=self.fills,
            cache=self.cache,
            credential_sets=self.credential_sets,
            readers=readers,
            maintenance=self.maintenance,
            health=self.health,
            traffic=self.traffic,
            revisions=self.revisions,
            endpoints=self.endpoints,
            stall_watch=self.stall_watch,
            clock=clock,
            demo=demo,
        )
        self.bookkeeping = Bookkeeping(
            documents=documents,
            catalog=catalog,
            cache=self.cache,
            traffic=self.traffic,
            maintenance=self.maintenance,
            restrictions=RestrictionUpkeep(documents, catalog, monotonic),
            events=self.events,
        )

    @property
    def address(self) -> str:
        """Where container clients find the registry: ``127.0.0.1:5000``."""
        return self.endpoints.registry

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        directories: Directories,
        settings: Settings,
        *,
        demo: bool = False,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] | None = None,
    ) -> AsyncIterator[Engine]:
        """Open the data directory and run the background tasks.

        Raises `EngineError` or a refusal of a document when it can't.

        *clock* gives seconds since the epoch; *monotonic* measures spans within this run. A clock
        that is given alone serves for both.
        """
        if monotonic is None:
            monotonic = time.monotonic if clock is time.time else clock
        directories.make()
        with only_engine(directories):
            registries = SourceRegistries(settings.upstreams)
            documents = Documents(
                directories, registries, RestrictionRecord(directories.restrictions)
            )
            await documents.load()
            readers = ReaderService(
                directories=directories,
                settings=settings,
                documents=documents,
                clock=clock,
                monotonic=monotonic,
            )
            await readers.load()
            blobs = BlobStore(directories.blobs, directories.fills)
            try:
                await blobs.open()
            except OSError as error:
                # What is cached can still be served; what is fetched is passed on.
                _log.warning("Blobs can't be kept in %s: %s", directories.blobs, error.strerror)
            written_at = await asyncio.to_thread(last_write, directories)
            try:
                async with (
                    Catalog.open(directories.catalog, clock=clock) as catalog,
                    Sources(settings) as sources,
                ):
                    sources.diagnosis.clock.not_before = written_at
                    engine = cls(
                        directories=directories,
                        settings=settings,
                        registries=registries,
                        documents=documents,
                        readers=readers,
                        sources=sources,
                        catalog=catalog,
                        blobs=blobs,
                        clock=clock,
                        monotonic=monotonic,
                        demo=demo,
                    )
                    async with engine._running():
                        yield engine
            finally:
                blobs.close()

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        for sentence in self.catalog.health.notices:
            self.events.record(EventKind.CATALOG_RECOVERED, sentence, severity=Severity.WARNING)
        if self.catalog.refusal is not None:
            self.events.record(
                EventKind.CATALOG_READ_ONLY, self.catalog.refusal.message, severity=Severity.ERROR
            )
        await self._load()
        try:
            async with self.fills.running(), self.cache.pulls.running():
                try:
                    async with self._tasks as tasks:
                        tasks.start(self.stall_watch.run(), "watching the event loop")
                        tasks.start(self.bookkeeping.run(), "bookkeeping")
                        tasks.start(self.maintenance.run(), "maintaining what is cached")
                        tasks.start(self.health.run(), "checking the engine's health")
                        tasks.start(self.readers.run(self.events), "watching the readers")
                        tasks.start(self._upkeep.watch(), "maintaining the catalog")
                        tasks.start(self.sources.prepare(), "preparing for sources")
                        tasks.start(self.credential_checks.run(), "checking the credential sets")
                        yield
                finally:
                    await _write_last(self.cache.close, "What was used last")
        finally:
            await _write_last(self.cache.history.write, "The pulls that ended last")
            await _write_last(self.traffic.write, "The activity of the last minute")
            await _write_last(self.readers.close, "When tokens were used last")
            await self._upkeep.close()

    async def _load(self) -> None:
        """Read what earlier engines wrote.

        Where the catalog fails, the engine starts without it.
        """
        try:
            await self.maintenance.load()
            await self.traffic.load()
            self.cache.pulls.number_from(await self.cache.history.load())
        except CatalogFailed as error:
            _log.error(
                "The history and the size of what is cached can't be read: %s", error.message
            )

    def doctor(self, clock: Callable[[], float] = time.time) -> Doctor:
        """A doctor, which checks everything that pulls need.

        It connects to sources itself; the modules for this take a while to import.
        """
        from entrepot.engine.doctor import Doctor

        return Doctor(
            directories=self.directories,
            settings=self.settings,
            registries=self.registries,
            documents=self.documents,
            sources=self.sources,
            catalog=self.catalog,
            blobs=self.blobs,
            credential_checks=self.credential_checks,
            health=self.health,
            status=self.status,
            readers=self.readers,
            endpoints=self.endpoints,
            clock=clock,
        )


async def _write_last(write: Callable[[], Awaitable[None]], what: str) -> None:
    """Write what happened for the next engine.

    Where the catalog fails, the engine still ends.
    """
    try:
        await write()
    except EntrepotError as error:
        _log.error("%s could not be written down: %s", what, error.what)
    except Exception:
        _log.exception("%s could not be written down", what)
