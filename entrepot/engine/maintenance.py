"""Maintenance of the catalog and of the cached blobs.

The catalog agrees with the disk, the cached bytes stay within their limit, and blobs that nothing
refers to are removed.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import sys
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice

from entrepot.api.models import EvictionProgress, ReconciliationProgress
from entrepot.cache.cache import ArtifactCache
from entrepot.cache.fills import Fills
from entrepot.causes import Cause
from entrepot.config.directories import Directories
from entrepot.config.settings import Settings
from entrepot.core.reference import Digest, Repository
from entrepot.core.states import EvictionState
from entrepot.engine.eviction import Eviction, EvictionRun, no_eviction
from entrepot.errors import EntrepotError
from entrepot.event_kinds import EventKind, Severity
from entrepot.events import EventLog
from entrepot.formatting import counted, duration, size
from entrepot.store.blob_walk import DIRECTORIES, BlobSlice, BlobWalk
from entrepot.store.blobs import LEASE_DURATION, BlobStore
from entrepot.store.catalog import Catalog
from entrepot.store.connections import CatalogFailed
from entrepot.store.eviction import EvictionPlan, UsesSincePlan, plan_eviction
from entrepot.store.plan_watch import PlanWatch, uses_of
from entrepot.store.reconciliation import Reconciled
from entrepot.tasks import OwnedTasks, uninterrupted

SPACE_CHECK_INTERVAL = 60.0
"""Seconds between two checks of the space while nothing comes in: other data may grow on the same
file system, and what was in use may be evicted now."""

IMAGES_PER_STEP = 400
"""Images that are evicted with the same statements, while a new manifest waits."""

IMAGES_PER_AWAITED_STEP = 100
"""The same after another write has waited: a quarter slower, but others wait a third as long."""

IMAGES_PER_TRANSACTION = 6400
"""Images that are evicted in one transaction, at most, until another write waits. More of them
write each page of the catalog less often."""

TIDY_INTERVAL = 86_400.0
"""Seconds between two searches for manifests without any cached blob that no client asked for in a
long time."""

UNCOUNTED_CATALOG_BYTES = 8 * 2**20
"""Bytes of the catalog that do not count: an empty one with its write-ahead log takes some."""

USAGE_WRITE_TIMEOUT = 5.0
"""Seconds that the preview of an eviction waits until the last uses are written."""

CATALOG_SIZE_INTERVAL = 10.0
"""Seconds between two measurements of the catalog while blobs come in."""

MAX_RECONCILIATION_PAUSE = 0.5
"""Seconds between two slices of a reconciliation, at the most: as long as the slice took."""

PROGRESS_LOG_INTERVAL = 10.0
"""Seconds between two lines of the log that tell how far a reconciliation is."""

RESERVE = 2**30
"""Bytes of the file system that the cache leaves free, but never more than a fiftieth of it: for
blobs on their way in, the catalog, and other programs."""

_log = logging.getLogger("entrepot.maintenance")


class MaintenanceService:
    """The maintenance of one engine, which runs `run` in one of *tasks*."""

    def __init__(
        self,
        *,
        directories: Directories,
        settings: Settings,
        catalog: Catalog,
        blobs: BlobStore,
        fills: Fills,
        cache: ArtifactCache,
        events: EventLog,
        tasks: OwnedTasks,
        clock: Callable[[], float],
    ) -> None:
        self.cached_size = 0
        """Bytes of all cached blobs."""
        self.catalog_size = 0
        """Bytes of the catalog that count, beyond `UNCOUNTED_CATALOG_BYTES`."""
        self._catalog_measured = 0.0
        self._directories = directories
        self._settings = settings
        self._catalog = catalog
        self._blobs = blobs
        self._fills = fills
        self._cache = cache
        self._events = events
        self._tasks = tasks
        self._clock = clock
        self.reconciliation: ReconciliationProgress | None = None
        """The reconciliation with the disk that is under way."""
        self._reconciling = asyncio.Lock()
        self._collecting = asyncio.Lock()
        self._evicting = asyncio.Lock()
        self._previewing = asyncio.Lock()
        """A plan for 100,000 repositories takes some 50 MB: one preview at a time."""
        self._eviction: EvictionRun | None = None
        """The eviction that is under way, or the last one."""
        self._space_changed = asyncio.Event()
        # Not at once: an engine that starts has better things to do.
        self._tidied = clock() - TIDY_INTERVAL + SPACE_CHECK_INTERVAL
        self._deferred_collection: asyncio.Task[None] | None = None
        cache.copies.on_size_changed = self._size_changed
        self.imported: Callable[[], set[tuple[Repository, Digest]]] = set
        """The manifests that were imported a moment ago: no eviction takes them."""
        self._refusal_cause: Cause | None = None
        """What is at fault where the disk takes no more."""
        self._full_at: int | None = None
        """The limit in bytes, while more is cached and nothing more can be evicted."""

    @property
    def total_size(self) -> int:
        """Bytes that are used: all cached blobs, and what counts of the catalog (S11)."""
        return self.cached_size + self.catalog_size

    async def load(self) -> None:
        """Count what is cached."""
        self.cached_size = await self._catalog.blobs_size()
        await self._measure_catalog()

    async def _measure_catalog(self) -> None:
        self._catalog_measured = time.monotonic()
        self.catalog_size = max(0, await self._catalog.size() - UNCOUNTED_CATALOG_BYTES)

    async def blob_stored(self, digest: Digest, count: int, provenance: str) -> None:
        """Count a blob that is stored now, of *count* bytes.

        *provenance* is that of its fill; it may have come from elsewhere before.
        """
        if await self._cache.copies.add(
            digest, count, self._cache.copies.origin_of_fetch(digest, provenance)
        ):
            self.cached_size += count
        # Where nothing could be evicted a moment ago, a check for each blob would only cost time.
        if self._full_at is None:
            self.check_space_soon()

    def _size_changed(self, change: int) -> None:
        self.cached_size = max(0, self.cached_size + change)

    def disk_refused(self, error: OSError) -> None:
        """Find out why the disk did not take a blob."""
        self._refusal_cause = None
        self._tasks.start(self._record_refusal(error), "finding out why the disk refuses")
        self.check_space_soon()

    async def _record_refusal(self, error: OSError) -> None:
        self._refusal_cause = await self._blobs.cause(error)
        self._events.record(
            EventKind.DISK_REFUSES,
            _refusal_message(error, self._refusal_cause),
            severity=Severity.ERROR,
        )

    def check_space_soon(self) -> None:
        """Check the space without waiting for the next turn: something has changed."""
        self._space_changed.set()

    async def run(self) -> None:
        """Reconcile the catalog with the disk, then evict, until cancelled.

        Evicting keeps the cached bytes within their limit. Nothing waits for this task.
        """
        try:
            await self.reconcile()
        except EntrepotError as error:
            _log.error(
                "The catalog could not be reconciled with the disk; the engine tries again when "
                "the catalog works: %s",
                error,
            )
        except Exception:
            _log.exception(
                "The catalog could not be reconciled with the disk; the engine tries again at its "
                "next start"
            )
        failure: str | None = None
        while True:
            self._space_changed.clear()
            try:
                await self._keep_within_limit()
                failure = None
            except (EntrepotError, OSError) as error:
                # A disk that fails for a moment must not end this for good. The same failure comes
                # again and again: it is logged once.
                if str(error) != failure:
                    failure = str(error)
                    _log.error(
                        "Eviction failed; it is tried again within %g s: %s",
                        SPACE_CHECK_INTERVAL,
                        error,
                    )
            except Exception:
                _log.exception(
                    "Eviction failed; it is tried again within %g s", SPACE_CHECK_INTERVAL
                )
            with suppress(TimeoutError):
                async with asyncio.timeout(SPACE_CHECK_INTERVAL):
                    await self._space_changed.wait()

    async def _keep_within_limit(self) -> None:
        """Evict what exceeds the limit, and tidy once a day."""
        if time.monotonic() - self._catalog_measured >= CATALOG_SIZE_INTERVAL:
            await self._measure_catalog()
        limit = await self.limit()
        if self.total_size > limit:
            eviction = await self._evict()
            if not eviction.count and eviction.goal + eviction.shortfall > limit:
                self._record_eviction_impossible(limit)
                return
        self._full_at = None
        if not 0 <= self._clock() - self._tidied < TIDY_INTERVAL:
            self._tidied = self._clock()
            await self._evict(target=sys.maxsize)

    def notices(self, disk_problem: Cause | None = None) -> Iterator[str]:
        """Notices while the disk takes no more blobs, or the cache is over its limit.

        The second is shown while nothing more can be evicted. The cause is left out where it is the
        *disk_problem* that is shown already.
        """
        if self._fills.refusal is not None:
            cause = self._refusal_cause if self._refusal_cause != disk_problem else None
            yield _refusal_message(self._fills.refusal, cause)
        if self._full_at is not None:
            yield self._over_limit_message(self._full_at)

    def _record_eviction_impossible(self, limit: int) -> None:
        """Record it once; `notices` shows it for as long as it lasts."""
        before, self._full_at = self._full_at, limit
        if before is None:
            self._events.record(
                EventKind.EVICTION_IMPOSSIBLE,
                self._over_limit_message(limit),
                severity=Severity.WARNING,
            )

    def _over_limit_message(self, limit: int) -> str:
        return (
            f"{size(self.total_size)} are cached, the limit is {size(limit)}, and nothing more "
            "can be evicted: the rest is locked or in use. Unlock what may be evicted, raise "
            "size_limit in settings.toml, or give the data directory a larger disk."
        )

    async def limit(self) -> int:
        """The most bytes that may be cached.

        It is what the settings say, and never more than the file system has room for beside its
        other data.
        """
        usage = await asyncio.to_thread(shutil.disk_usage, self._directories.data)
        available = self.total_size + usage.free - min(RESERVE, usage.total // 50)
        return max(0, min(self._settings.size_limit.within(usage.total), available))

    async def reconcile(self) -> None:
        """Make the catalog agree with the blobs on the disk.

        An engine that was killed may have left one without the other.

        A file whose size is not the verified one is moved away. What comes or goes meanwhile is
        checked again.
        """
        async with self._reconciling:
            walk = self._blobs.walk(rows=await self._catalog.blobs_count())
            try:
                reconciled = await self._reconcile_slices(walk)
            finally:
                self.reconciliation = None
            self._blobs.foreign = walk.foreign
            self._cache.copies.invalidate_all()
            self._record_reconciled(reconciled)
        await self.collect()

    async def _reconcile_slices(self, walk: BlobWalk) -> Reconciled:
        reconciled = Reconciled()
        started = self._clock()
        logged = time.monotonic()
        while True:
            self.reconciliation = ReconciliationProgress(
                started=started,
                checked=walk.directories_walked,
                directories=len(DIRECTORIES),
            )
            began = time.monotonic()
            if (blobs := await walk.next_slice()) is None:
                return reconciled
            reconciled += await self._reconcile_slice(blobs)
            now = time.monotonic()
            if now - logged >= PROGRESS_LOG_INTERVAL:
                logged = now
                _log.info(
                    "The catalog is compared with the disk: %d of %d directories are checked.",
                    walk.directories_walked,
                    len(DIRECTORIES),
                )
            # The disk, and the threads that read the catalog, belong to clients for as long.
            await asyncio.sleep(min(now - began, MAX_RECONCILIATION_PAUSE))

    async def _reconcile_slice(self, blobs: BlobSlice) -> Reconciled:
        damaged: dict[Digest, int] = {}

        def remove_damaged(digest: Digest, recorded_size: int) -> bool:
            if not self._blobs.remove_damaged(
                digest, is_damaged=lambda status: status.st_size != recorded_size
            ):
                return False
            damaged[digest] = recorded_size
            return True

        reconciled = await self._catalog.reconcile(
            blobs,
            now=self._clock(),
            stat_size=self._blobs.stat_size,
            remove_damaged=remove_damaged,
        )
        if reconciled:
            self._cache.copies.invalidate_all()
        for digest, recorded_size in damaged.items():
            self._cache.copies.record_damaged(
                digest,
                f"its file had {blobs.sizes[str(digest)]:,} bytes and should have "
                f"{recorded_size:,}",
            )
        return reconciled

    def _record_reconciled(self, reconciled: Reconciled) -> None:
        if reconciled.adopted or reconciled.dropped:
            self._events.record(
                EventKind.CATALOG_HEALED,
                "The catalog was reconciled with the disk: "
                f"{counted(reconciled.adopted, 'blob')} added, "
                f"{counted(reconciled.dropped, 'missing blob')} removed.",
            )
        foreign = self._blobs.foreign
        if foreign.count:
            ignored = "is no blob and is" if foreign.count == 1 else "are no blobs and are"
            self._events.record(
                EventKind.FOREIGN_NAMES,
                f"{self._directories.blobs} has {counted(foreign.count, 'name')} in it that "
                f"{ignored} ignored: {foreign}.",
                severity=Severity.WARNING,
            )

    async def collect(self) -> None:
        """Remove the blobs that nothing refers to any more.

        Those that were leased within the last minute are removed a minute later.
        """
        async with self._collecting:
            try:
                manifests, deferred = await self._catalog.collect(self._remove_blobs)
            except BaseException:
                # Some may be removed.
                self._cache.index.invalidate_manifests()
                raise
            if manifests:
                self._cache.index.invalidate_manifests()
            await self._sweep()
        if deferred:
            self._collect_soon()

    async def collect_contents(self, manifests: Iterable[Digest]) -> None:
        """Remove those of some manifests that no repository has any more, and what they needed."""
        try:
            async with self._collecting:
                _, deferred = await self._catalog.collect_contents(manifests, self._remove_blobs)
                self._cache.index.invalidate_manifests()
                self.cached_size = await self._catalog.blobs_size()
        except BaseException:
            # What is left is not known to any client, and is searched for.
            self._collect_soon()
            raise
        finally:
            if self._tasks.open:
                # Nothing waits for it: the next requests find the blobs gone already.
                self._tasks.start(self._blobs.sweep(), "freeing the space of deleted blobs")
        if deferred:
            self._collect_soon()

    async def _sweep(self) -> None:
        await self._blobs.sweep()
        self.cached_size = await self._catalog.blobs_size()

    def _collect_soon(self) -> None:
        """Collect what was deferred when its leases have ended.

        It happens once, however often something was deferred.
        """
        if self._tasks.open and (
            self._deferred_collection is None or self._deferred_collection.done()
        ):
            self._deferred_collection = self._tasks.start(
                self._collect_later(), "collecting what was leased"
            )

    async def _collect_later(self) -> None:
        await asyncio.sleep(LEASE_DURATION)
        self._deferred_collection = None
        await self.collect()

    async def _remove_blobs(self, digests: Sequence[Digest]) -> Sequence[Digest]:
        """Remove blobs from the store, except those in use; returns the removed ones."""
        needed = self._cache.pulls.needed()
        removed = await self._blobs.remove_all(
            digest
            for digest in digests
            if digest not in needed and not self._fills.is_under_way(digest)
        )
        for digest in removed:
            self._cache.copies.invalidate(digest)
        return removed

    async def evict(self, *, dry_run: bool = False, target: int | None = None) -> Eviction:
        """Evict the least recently used images until at most *target* bytes are cached.

        None stands for the low-water mark. *dry_run* only says which images.
        """
        eviction = await self._evict(dry_run=dry_run, target=target)
        if not dry_run:
            self.check_space_soon()
        return eviction

    def eviction_progress(self) -> EvictionProgress:
        """The eviction that is under way, or the last one of this engine.

        Raises `NotFound`.
        """
        if self._eviction is None:
            raise no_eviction()
        return self._eviction.snapshot()

    def cancel_eviction(self) -> EvictionProgress:
        """End the eviction under way after its present step; one that has ended stays as it is.

        Raises `NotFound`.
        """
        if self._eviction is None:
            raise no_eviction()
        self._eviction.is_cancelled = True
        return self._eviction.snapshot()

    async def _evict(self, *, dry_run: bool = False, target: int | None = None) -> Eviction:
        if dry_run:
            # It only reads: neither a catalog that can't be written nor a disk that hangs in an
            # eviction keeps an administrator from looking.
            with suppress(CatalogFailed, TimeoutError):
                async with asyncio.timeout(USAGE_WRITE_TIMEOUT):
                    await self._cache.usage.write()
            async with self._previewing:
                plan, limit = await self._plan(target)
            freed = plan.images_size + plan.adopted_size
            return Eviction(plan, True, freed, limit)
        async with self._evicting:
            # What clients used in the last moments is in memory only.
            await self._cache.usage.write()
            await self.collect()
            with self._catalog.watched() as watch:
                plan, limit = await self._plan(target)
                if plan.is_nothing:
                    return Eviction(plan, False, 0, limit)
                run = self._eviction = EvictionRun(self._clock(), len(plan.links))
                state = EvictionState.FAILED
                try:
                    evicted, freed = await self._carry_out(plan, run, watch)
                    state = EvictionState.CANCELLED if run.is_cancelled else EvictionState.COMPLETED
                except asyncio.CancelledError:
                    state = EvictionState.CANCELLED
                    raise
                finally:
                    run.end(state, self._clock())
            await self._measure_catalog()
        return Eviction(evicted, False, freed, limit, cancelled=run.is_cancelled)

    async def _plan(self, target: int | None) -> tuple[EvictionPlan, int]:
        """What an eviction would remove, and the limit in bytes."""
        limit = await self.limit()
        goal = int(limit * self._settings.low_water) if target is None else target
        in_use = {
            (pull.repository, pull.manifest.digest)
            for pull in self._cache.pulls.all()
            if not pull.state.ended and pull.manifest is not None
        }
        in_use |= self.imported()
        in_use |= await self._catalog.manifests_with(
            [fill.digest for fill in self._fills.under_way]
        )
        inventory = await self._catalog.inventory()
        await self._measure_catalog()
        return await asyncio.to_thread(
            plan_eviction,
            inventory,
            goal=goal,
            now=self._clock(),
            in_use=in_use,
            catalog_size=self.catalog_size,
        ), limit

    async def _carry_out(
        self, plan: EvictionPlan, run: EvictionRun, watch: PlanWatch
    ) -> tuple[EvictionPlan, int]:
        """Evict in steps; returns the images that were evicted and the bytes that are free now."""
        links, links_freed = array("i"), array("q")
        freed = manifests = adopted = 0
        sweeping: asyncio.Future[None] = asyncio.ensure_future(self._blobs.sweep())
        try:
            async with self._catalog.bulk_writes() as has_room:
                count = IMAGES_PER_TRANSACTION if has_room else IMAGES_PER_STEP
                start, step_size = 0, min(IMAGES_PER_STEP, count)
                while steps := list(islice(plan.parts(step_size, start), count // step_size)):
                    if run.is_cancelled:
                        break
                    await self._cache.usage.write()
                    async with self._collecting:
                        evictions = await self._catalog.evict_steps(
                            steps,
                            watch=watch,
                            uses=self._uses_now,
                            remove_blobs=self._remove_blobs,
                        )
                        for eviction in evictions:
                            self._cache.index.invalidate_evicted(eviction.repositories)
                    # The files of one transaction are removed while the rows of the next one are.
                    await sweeping
                    sweeping = asyncio.ensure_future(self._blobs.sweep())
                    for step, eviction in zip(steps, evictions, strict=False):
                        self._size_changed(-eviction.freed)
                        if eviction.deferred:
                            self._collect_soon()
                        links += eviction.plan.links
                        links_freed += eviction.plan.freed
                        freed += eviction.freed
                        manifests += eviction.manifests
                        adopted += len(step.adopted)
                        run.add(len(eviction.plan.links), eviction.freed)
                    start += step_size * len(evictions)
                    awaited = len(evictions) < len(steps)
                    step_size = min(count, IMAGES_PER_AWAITED_STEP if awaited else IMAGES_PER_STEP)
        finally:
            await uninterrupted(sweeping)
        self.cached_size = await self._catalog.blobs_size()
        await self._catalog.try_to_release_free_pages()
        images = replace(plan, links=links, freed=links_freed)
        if adopted:
            self._events.record(
                EventKind.EVICTED,
                f"Removed {counted(adopted, 'blob')} to which no manifest has referred "
                "since the catalog lost them, because space was needed: "
                f"{size(plan.adopted_size)} freed.",
            )
        if manifests and not links:
            self._events.record(
                EventKind.EVICTED,
                f"Evicted {counted(manifests, 'manifest')} without any cached blob.",
            )
        if links:
            self._events.record(
                EventKind.EVICTED,
                f"Evicted {counted(len(links), 'image')} of "
                f"{counted(images.repositories_count, 'repository', 'repositories')}: "
                f"{size(freed)} freed, "
                "least recently used "
                f"{duration(max(0.0, self._clock() - images.oldest_use))} ago.",
            )
        return images, freed

    def _uses_now(self) -> UsesSincePlan:
        """The uses that are not in the catalog yet: those in memory, and running pulls."""
        manifests, blobs = self._cache.usage.unwritten_uses()
        under_way = self._cache.pulls.images_under_way()
        return uses_of([*manifests, *under_way, *self.imported()], blobs)


def _refusal_message(error: OSError, cause: Cause | None) -> str:
    why = f" {cause.message}" if cause is not None else ""
    return (
        f"The disk takes no more ({error.strerror or error}): blobs that are not cached are passed "
        f"on to clients and not stored.{why}"
    )
