"""Housekeeping: what is held agrees with the disk and stays within its limit, and what nothing
refers to any more goes."""

from __future__ import annotations

import asyncio
import logging
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from entrepot.api.models import EvictedImage, EvictionSnapshot
from entrepot.cache.cache import ArtifactCache
from entrepot.cache.fills import Fills
from entrepot.causes import Cause
from entrepot.config.directories import Directories
from entrepot.config.settings import Settings
from entrepot.core.reference import Digest
from entrepot.errors import EntrepotError
from entrepot.event_kinds import EventKind, Severity
from entrepot.events import EventLog
from entrepot.formatting import counted, duration, size
from entrepot.store.blobs import LEASE_DURATION, BlobStore
from entrepot.store.catalog import Catalog, CatalogFailed
from entrepot.store.eviction import EvictionPlan, PlannedImage, plan_eviction
from entrepot.tasks import OwnedTasks

ROOM = 60.0
"""Seconds between two looks at the room that is left where nothing came in: other data may grow on
the same file system, and what was in use may go now."""

EVICTED_AT_ONCE = 200
"""Images that are evicted in one transaction: whoever has a new manifest to keep waits for it, some
tenths of a second on a slow machine."""

TIDYING = 86_400.0
"""Seconds between two looks for manifests without anything held that nobody asked for in a long
time."""

CATALOG_ALLOWANCE = 8 * 2**20
"""Bytes of the catalog that do not count: an empty one with its write-ahead log takes some of them
whatever is cached."""

USES_WRITTEN_WITHIN = 5.0
"""Seconds that a preview of an eviction waits until the last uses are written; after that it goes
by those before."""

CATALOG_MEASURED = 10.0
"""Seconds between two measurements of the catalog while blobs come in."""

RESERVE = 2**30
"""Bytes of the file system that the cache leaves free, but never more than a fiftieth of it: for
blobs on their way in, the catalog, and other programs."""

_log = logging.getLogger("entrepot.housekeeping")


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
        self.held_size = 0
        """Bytes of all blobs that are held."""
        self.catalog_size = 0
        """Bytes of the catalog that count, beyond `CATALOG_ALLOWANCE`."""
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
        self._collecting = asyncio.Lock()
        self._evicting = asyncio.Lock()
        self._previewing = asyncio.Lock()
        """A plan for 100,000 repositories takes some hundred megabytes: one preview at a time."""
        self._room_wanted = asyncio.Event()
        # An engine that starts has better things to do.
        self._tidied = clock() - TIDYING + ROOM
        self._rest: asyncio.Task[None] | None = None
        cache.copies.on_size_changed = self._size_changed
        self._refusal_cause: Cause | None = None
        """What is at fault where the disk takes no more."""
        self._full_at: int | None = None
        """Bytes that may be held, while more are held and nothing more can be evicted."""

    @property
    def total_size(self) -> int:
        """Bytes that are held: all blobs, and what counts of the catalog (S11)."""
        return self.held_size + self.catalog_size

    async def load(self) -> None:
        """Count what is held."""
        self.held_size = await self._catalog.blobs_size()
        await self._measure_catalog()

    async def _measure_catalog(self) -> None:
        self._catalog_measured = time.monotonic()
        self.catalog_size = max(0, await self._catalog.size() - CATALOG_ALLOWANCE)

    async def blob_kept(self, digest: Digest, count: int, origin: str) -> None:
        """A blob of *count* bytes has come from the login server *origin* and is held; from another
        one it may have come before."""
        if await self._cache.copies.add(
            digest, count, self._cache.copies.origin_of_fetch(digest, origin)
        ):
            self.held_size += count
        # Where nothing could go a moment ago, another look for each blob would only cost time.
        if self._full_at is None:
            self.check_space_soon()

    def _size_changed(self, change: int) -> None:
        self.held_size = max(0, self.held_size + change)

    def disk_refused(self, error: OSError) -> None:
        """The disk did not take a blob."""
        self._refusal_cause = None
        self._tasks.start(self._tell_refusal(error), "looking why the disk refuses")
        self.check_space_soon()

    async def _tell_refusal(self, error: OSError) -> None:
        self._refusal_cause = await self._blobs.cause(error)
        self._events.record(
            EventKind.DISK_REFUSES, _refusal(error, self._refusal_cause), severity=Severity.ERROR
        )

    def check_space_soon(self) -> None:
        """See whether there is room enough: something has changed."""
        self._room_wanted.set()

    async def run(self) -> None:
        """Heal the catalog, and then keep what is held within its limit: beside all else, so that
        nothing waits for it."""
        try:
            await self.heal()
        except EntrepotError as error:
            _log.error(
                "The catalog could not be brought in line with the disk; that is tried again when it works: %s",
                error,
            )
        except Exception:
            _log.exception(
                "The catalog could not be brought in line with the disk; that is tried again at the next start"
            )
        failure: str | None = None
        while True:
            self._room_wanted.clear()
            try:
                await self._keep_room()
                failure = None
            except (EntrepotError, OSError) as error:
                # A disk that fails for a moment must not end this for good. The same failure comes
                # again and again: it is told once.
                if str(error) != failure:
                    failure = str(error)
                    _log.error("Eviction failed; it is tried again within %g s: %s", ROOM, error)
            except Exception:
                _log.exception("Eviction failed; it is tried again within %g s", ROOM)
            with suppress(TimeoutError):
                async with asyncio.timeout(ROOM):
                    await self._room_wanted.wait()

    async def _keep_room(self) -> None:
        """Evict what is too much."""
        if time.monotonic() - self._catalog_measured >= CATALOG_MEASURED:
            await self._measure_catalog()
        limit = await self.limit()
        if self.total_size > limit:
            done = await self._evict()
            if not done.images and done.goal + done.shortfall > limit:
                self._can_not_make_room(limit)
                return
        self._full_at = None
        if not 0 <= self._clock() - self._tidied < TIDYING:
            self._tidied = self._clock()
            await self._evict(target=sys.maxsize)

    def notices(self, known: Cause | None = None) -> Iterator[str]:
        """What to tell for as long as the disk takes nothing more, or more is held than may be and
        nothing of it can go.

        What is *known* already to be at fault is not told again.
        """
        if self._fills.refusal is not None:
            yield _refusal(
                self._fills.refusal, self._refusal_cause if self._refusal_cause != known else None
            )
        if self._full_at is not None:
            yield self._room_wanting(self._full_at)

    def _can_not_make_room(self, limit: int) -> None:
        """Tell it once, and show it for as long as it lasts."""
        before, self._full_at = self._full_at, limit
        if before is None:
            self._events.record(
                EventKind.EVICTION_IMPOSSIBLE, self._room_wanting(limit), severity=Severity.WARNING
            )

    def _room_wanting(self, limit: int) -> str:
        return (
            f"{size(self.total_size)} are held and {size(limit)} may be, but nothing more can be evicted: what is left is locked or in use. "
            "Unlock what may go, raise size_limit in settings.toml, or give the data directory a larger disk."
        )

    async def limit(self) -> int:
        """Bytes that may be held: what the settings say, and never more than the file system has
        room for beside its other data."""
        usage = await asyncio.to_thread(shutil.disk_usage, self._directories.data)
        room = self.total_size + usage.free - min(RESERVE, usage.total // 50)
        return max(0, min(self._settings.size_limit.within(usage.total), room))

    async def heal(self) -> None:
        """Make the catalog agree with the blobs on the disk: an engine that was killed may have
        left one without the other.

        A file that has another size than was verified is moved away. What comes or goes meanwhile
        is looked at again.
        """
        damaged: dict[Digest, int] = {}

        def remove_damaged(digest: Digest, recorded_size: int) -> bool:
            if not self._blobs.remove_damaged(
                digest, is_damaged=lambda status: status.st_size != recorded_size
            ):
                return False
            damaged[digest] = recorded_size
            return True

        held = await self._blobs.sizes()
        adopted, dropped = await self._catalog.reconcile(
            held, now=self._clock(), stat_size=self._blobs.stat_size, remove_damaged=remove_damaged
        )
        self._cache.copies.invalidate_all()
        for digest, recorded_size in damaged.items():
            self._cache.copies.record_damaged(
                digest, f"its file had {held[digest]:,} bytes and should have {recorded_size:,}"
            )
        if adopted or dropped:
            self._events.record(
                EventKind.CATALOG_HEALED,
                f"The catalog was brought in line with the disk: {adopted} blobs taken in, {dropped} that are gone dropped.",
            )
        foreign = self._blobs.foreign
        if foreign.count:
            none = "is no blob and was" if foreign.count == 1 else "are no blobs and were"
            self._events.record(
                EventKind.FOREIGN_NAMES,
                f"{self._directories.blobs} has {counted(foreign.count, 'name')} in it that {none} passed over: {foreign}.",
                severity=Severity.WARNING,
            )
        await self.collect()

    async def collect(self) -> None:
        """Remove the blobs that nothing refers to any more. Those that were handed out within the
        last minute go a minute later."""
        async with self._collecting:
            left = await self._catalog.collect(self._take_away)
            self._cache.index.invalidate_manifests()
            await self._count_what_is_left()
        if left:
            self._collect_soon()

    async def _count_what_is_left(self) -> None:
        await self._blobs.sweep()
        self.held_size = await self._catalog.blobs_size()

    def _collect_soon(self) -> None:
        """Collect the rest when nobody can be about to open it any more; once, however often there
        was a rest."""
        if self._tasks.open and (self._rest is None or self._rest.done()):
            self._rest = self._tasks.start(self._collect_later(), "collecting the rest")

    async def _collect_later(self) -> None:
        await asyncio.sleep(LEASE_DURATION)
        self._rest = None
        await self.collect()

    def _take_away(self, digest: Digest) -> bool:
        if digest in self._cache.pulls.needed() or self._fills.is_under_way(digest):
            return False
        if not self._blobs.remove(digest):
            return False
        self._cache.copies.invalidate(digest)
        return True

    async def evict(self, *, dry_run: bool = False, target: int | None = None) -> EvictionSnapshot:
        """Evict the images that were used least recently until at most *target* bytes are held
        (None: the low-water mark). *dry_run* only says which."""
        done = await self._evict(dry_run=dry_run, target=target)
        if not dry_run:
            self.check_space_soon()
        return done

    async def _evict(self, *, dry_run: bool = False, target: int | None = None) -> EvictionSnapshot:
        if dry_run:
            # Only read: neither a catalog that can't be written nor a disk that hangs in an
            # eviction keeps an administrator from looking.
            with suppress(CatalogFailed, TimeoutError):
                async with asyncio.timeout(USES_WRITTEN_WITHIN):
                    await self._cache.usage.write()
            async with self._previewing:
                made, limit = await self._plan(target)
            return await self._planned(made, limit, dry_run=True)
        async with self._evicting:
            # What clients used in the last moments is in memory only.
            await self._cache.usage.write()
            await self.collect()
            made, limit = await self._plan(target)
            if made.is_nothing:
                return await self._planned(made, limit, dry_run=False)
            images, freed = await self._carry_out(made)
            await self._measure_catalog()
        return await asyncio.to_thread(
            _eviction_snapshot, images, made, limit, freed=freed, dry_run=False
        )

    async def _plan(self, target: int | None) -> tuple[EvictionPlan, int]:
        """What an eviction would remove, and the bytes that may be held."""
        limit = await self.limit()
        goal = int(limit * self._settings.low_water) if target is None else target
        in_use = {
            (pull.repository, pull.manifest.digest)
            for pull in self._cache.pulls.all()
            if not pull.state.ended and pull.manifest is not None
        }
        in_use |= await self._catalog.manifests_with(
            [fill.digest for fill in self._fills.under_way]
        )
        picture = await self._catalog.inventory()
        await self._measure_catalog()
        return await asyncio.to_thread(
            plan_eviction,
            picture,
            goal=goal,
            now=self._clock(),
            in_use=in_use,
            catalog_size=self.catalog_size,
        ), limit

    async def _planned(self, made: EvictionPlan, limit: int, *, dry_run: bool) -> EvictionSnapshot:
        freed = sum(each.freed for each in made.images) + made.adopted_size
        return await asyncio.to_thread(
            _eviction_snapshot, made.images, made, limit, freed=freed, dry_run=dry_run
        )

    async def _carry_out(self, made: EvictionPlan) -> tuple[list[PlannedImage], int]:
        """The images that went, and the bytes that are free now."""
        images: list[PlannedImage] = []
        freed = manifests = 0
        for part in made.parts(EVICTED_AT_ONCE):
            await self._cache.usage.write()
            async with self._collecting:
                done = await self._catalog.evict(
                    part, is_used=self._is_used_now, remove_blob=self._take_away
                )
                self._cache.index.invalidate_evicted(
                    {repository for repository, _ in done.manifests}
                )
                await self._count_what_is_left()
            if done.deferred:
                self._collect_soon()
            images += done.images
            freed += done.freed
            manifests += len(done.manifests)
        if made.adopted:
            self._events.record(
                EventKind.EVICTED,
                f"Removed {counted(len(made.adopted), 'blob')} that no manifest referred to since the catalog lost them, because room was needed: "
                f"{size(made.adopted_size)} freed.",
            )
        if manifests and not images:
            self._events.record(
                EventKind.EVICTED,
                f"Evicted {counted(manifests, 'manifest')} without any cached blob.",
            )
        if images:
            repositories = len({each.manifest.repository for each in images})
            oldest = duration(max(0.0, self._clock() - min(each.last_used for each in images)))
            self._events.record(
                EventKind.EVICTED,
                f"Evicted {counted(len(images), 'image')} of {counted(repositories, 'repository', 'repositories')}: {size(freed)} freed, "
                f"least recently used {oldest} ago.",
            )
        return images, freed

    def _is_used_now(self, image: PlannedImage) -> bool:
        repository, digest = image.manifest.key
        return (
            self._cache.usage.is_unwritten(repository, digest, image.distinctive_blobs)
            or self._cache.pulls.of(repository, digest) is not None
        )


def _refusal(error: OSError, cause: Cause | None) -> str:
    why = f" {cause.message}" if cause is not None else ""
    return f"The disk takes no more ({error.strerror or error}): blobs that are not held are passed on to clients and not kept.{why}"


def _eviction_snapshot(
    images: Sequence[PlannedImage], made: EvictionPlan, limit: int, *, freed: int, dry_run: bool
) -> EvictionSnapshot:
    return EvictionSnapshot(
        dry_run=dry_run,
        images=tuple(
            EvictedImage(
                repository=each.manifest.repository,
                tags=tuple(each.tags),
                digest=str(each.manifest.digest),
                platform=each.manifest.platform,
                freed=each.freed,
                last_used=each.last_used,
            )
            for each in images
        ),
        freed=freed,
        held=made.size,
        goal=made.goal,
        limit=limit,
        shortfall=max(0, made.remaining - made.goal),
        locked=made.locked_size,
        in_use=made.in_use_size,
        recent=made.recent_size,
    )
