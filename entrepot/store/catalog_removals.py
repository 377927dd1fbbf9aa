"""Evictions and collections: the inventory that they are planned on, and their transactions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from sqlalchemy import Connection, select

from entrepot.core.reference import Digest, Repository
from entrepot.store import schema
from entrepot.store.database import CatalogDatabase, frees_space
from entrepot.store.eviction import NO_USES, EvictionPlan, UsesSincePlan
from entrepot.store.inventory import Inventory, InventoryManifest, Key
from entrepot.store.inventory_reading import (
    read_inventory,
    read_lineage,
    read_repository_inventory,
)
from entrepot.store.plan_watch import PlanWatch
from entrepot.store.removal import (
    BlobRemoval,
    Collected,
    Evicted,
    EvictedLinks,
    RemoveBlobs,
    collect_contents,
    end_of,
    evict_links,
    read_orphans,
    read_unlinked,
)

MANIFESTS_COLLECTED_AT_ONCE = 1000
"""Manifests that the same statements delete: others write in between."""

COLLECTED_STEPS_AT_ONCE = 5
"""Steps of `MANIFESTS_COLLECTED_AT_ONCE` in one transaction, at most."""

BLOBS_COLLECTED_AT_ONCE = 2000
"""Blobs that one transaction removes."""


class CatalogRemovals(CatalogDatabase):
    """The part of the catalog that removes images and what nothing refers to."""

    async def inventory(self) -> Inventory:
        """The inventory of the cache, for a plan of an eviction."""
        return await self._read(read_inventory, long=True)

    async def inventory_manifests(self, repository: Repository) -> list[InventoryManifest]:
        """The manifests of a repository with their locks, tags and children.

        The blobs of the manifests are not read.
        """
        return await self._read(
            lambda connection: read_repository_inventory(connection, repository), long=True
        )

    async def manifests_with(self, blobs: Iterable[Digest]) -> set[tuple[Repository, Digest]]:
        """The manifests that refer to any of some blobs, in all repositories."""
        links = schema.repository_manifests.c
        digests = [str(blob) for blob in blobs]

        def read(connection: Connection) -> set[tuple[Repository, Digest]]:
            manifests: set[tuple[Repository, Digest]] = set()
            for chunk in schema.chunks(digests):
                query = (
                    select(links.repository, links.digest)
                    .join(schema.references, schema.references.c.manifest == links.digest)
                    .where(schema.references.c.digest.in_(chunk))
                )
                manifests |= {
                    (Repository(row.repository), Digest.parse(row.digest))
                    for row in connection.execute(query)
                }
            return manifests

        return await self._read(read, long=True)

    async def lineage(self, keys: Collection[Key]) -> list[InventoryManifest]:
        """Some manifests and all indexes above them, with their locks, tags and children.

        The blobs of the manifests are not read.
        """
        return await self._read(lambda connection: read_lineage(connection, keys))

    @contextmanager
    def watched(self) -> Iterator[PlanWatch]:
        """Watch what is written after the inventory for a plan of an eviction is read."""
        watch = PlanWatch(self.changes)
        self._watches.append(watch)
        try:
            yield watch
        finally:
            self._watches.remove(watch)

    @frees_space
    async def evict_steps(
        self,
        steps: Sequence[EvictionPlan],
        *,
        watch: PlanWatch | None = None,
        uses: Callable[[], UsesSincePlan] = lambda: NO_USES,
        remove_blobs: RemoveBlobs,
    ) -> list[Evicted]:
        """Carry out the first of some steps of a plan, at least one, in one transaction.

        It ends early, with the step under way, when another write waits for it. More steps in one
        transaction write each page of the catalog less often. *watch* was begun before the plan;
        without it, each image is looked up again. *uses* are those that are not written yet. See
        `entrepot.store.removal.evict_links`.
        """
        evicted: list[Evicted] = []
        is_current = False
        try:
            async with self._change(uses=True) as connection:
                is_current = watch is not None and watch.changes == self.changes
                begun: list[EvictedLinks] = []
                try:
                    for step in steps:
                        uses_now = uses() if watch is None else watch.with_written(uses())
                        begun.append(
                            await evict_links(
                                connection,
                                step,
                                uses=uses_now,
                                is_current=is_current,
                                remove_blobs=remove_blobs,
                                clock=self._clock,
                            )
                        )
                        if len(begun) > 1:
                            evicted.append(await begun[-2].finish(connection))
                        if self.is_awaited:
                            break
                    evicted.append(await begun[-1].finish(connection))
                finally:
                    await end_of(links.removal for links in begun)
        finally:
            if watch is not None and is_current:
                # These changes are those of the plan.
                watch.changes = self.changes
        return evicted

    @frees_space
    async def collect(self, remove_blobs: RemoveBlobs) -> Collected:
        """Remove manifests of no repository and blobs of no manifest.

        They are searched for while others write, and removed in small steps.
        """
        self._check_writable()
        manifests = deferred = 0
        after = ""
        while unlinked := await self._read(
            partial(read_unlinked, after=after, count=MANIFESTS_COLLECTED_AT_ONCE), long=True
        ):
            await self.collect_contents(map(Digest.parse, unlinked), remove_blobs)
            manifests += len(unlinked)
            after = unlinked[-1]
        after = ""
        while orphans := await self._read(
            partial(read_orphans, after=after, count=BLOBS_COLLECTED_AT_ONCE, now=self._clock()),
            long=True,
        ):
            async with self._write() as connection:
                removal = await collect_contents(
                    connection,
                    (),
                    remove_blobs,
                    blobs=map(Digest.parse, orphans),
                    now=self._clock(),
                )
                try:
                    _, still_used = await removal.finish(connection)
                finally:
                    await end_of([removal])
            deferred += still_used
            after = orphans[-1]
        await self.try_to_release_free_pages()
        return Collected(manifests, deferred)

    @frees_space
    async def collect_contents(
        self, manifests: Iterable[Digest], remove_blobs: RemoveBlobs
    ) -> tuple[int, int]:
        """Remove those of some manifests that no repository has, and the blobs that only they need.

        It is done in small steps, of which several share a transaction while no other write waits.
        Returns the bytes freed and the number of blobs that could not be removed yet.
        """
        digests = sorted(manifests)
        if len(digests) <= MANIFESTS_COLLECTED_AT_ONCE:
            return await self._collect_steps(digests, remove_blobs)
        async with self.bulk_writes() as has_room:
            steps = COLLECTED_STEPS_AT_ONCE if has_room else 1
            return await self._collect_steps(digests, remove_blobs, steps)

    async def _collect_steps(
        self, digests: Sequence[Digest], remove_blobs: RemoveBlobs, steps: int = 1
    ) -> tuple[int, int]:
        freed = deferred = start = 0
        while start < len(digests):
            removals: list[BlobRemoval] = []
            async with self._write() as connection:

                async def finish(removal: BlobRemoval) -> None:
                    nonlocal freed, deferred
                    more_freed, more_deferred = await removal.finish(connection)
                    freed, deferred = freed + more_freed, deferred + more_deferred

                try:
                    for _ in range(steps):
                        step = digests[start : start + MANIFESTS_COLLECTED_AT_ONCE]
                        removals.append(
                            await collect_contents(
                                connection, step, remove_blobs, now=self._clock()
                            )
                        )
                        # Their files are removed while the next step's rows are.
                        if len(removals) > 1:
                            await finish(removals[-2])
                        start += len(step)
                        if self.is_awaited or start >= len(digests):
                            break
                    await finish(removals[-1])
                finally:
                    await end_of(removals)
        return freed, deferred
