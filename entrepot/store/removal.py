"""Removal of evicted images and of what nothing refers to any more.

It runs within a write transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Container, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, bindparam, delete, exists, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from entrepot.core.reference import Digest, Repository
from entrepot.store import counters, schema
from entrepot.store.eviction import ADOPTED_STAYS, EvictionPlan, Key, UsesSincePlan, confirm
from entrepot.store.inventory import digest_of_row
from entrepot.store.inventory_reading import read_lineage
from entrepot.store.listed import list_of, listed
from entrepot.tasks import uninterrupted

RemoveBlobs = Callable[[Sequence[Digest]], Awaitable[Collection[Digest]]]
"""Removes blobs from the store; returns those that are removed. The others are in use.

It is called within the transaction, so that no manifest that refers to one of the blobs can come in
between.
"""


class Collected(NamedTuple):
    """What a collection found that nothing refers to."""

    manifests: int
    """The number of manifests of no repository."""
    deferred: int
    """The number of blobs that could not be removed yet."""


@dataclass(frozen=True, slots=True)
class Evicted:
    """What an eviction removed.

    *freed* is in bytes, *deferred* the number of blobs that could not be removed yet because a
    reader may still open them.
    """

    plan: EvictionPlan
    """The plan, with the images that were evicted."""
    manifests: int
    """The number of those of the images, and of the indexes and empty manifests removed with
    them."""
    repositories: frozenset[Repository]
    """Of these manifests."""
    freed: int
    deferred: int


class BlobRemoval:
    """The removal of blobs that nothing refers to, with their rows.

    Their files are removed while other statements of the same transaction run. The transaction must
    not end before `finish` or `end_of`.
    """

    def __init__(self, orphans: dict[Digest, int], remove_blobs: RemoveBlobs) -> None:
        """*orphans* has the sizes of the blobs in bytes."""
        self._orphans = orphans
        self._removing: asyncio.Future[Collection[Digest]] | None = None
        if orphans:
            self._removing = asyncio.ensure_future(remove_blobs(list(orphans)))
            self._removing.add_done_callback(_retrieve_error)

    @property
    def under_way(self) -> Iterable[asyncio.Future[Collection[Digest]]]:
        """The removal of the files, unless it has ended."""
        return () if self._removing is None or self._removing.done() else (self._removing,)

    async def finish(self, connection: AsyncConnection) -> tuple[int, int]:
        """Delete the rows of the removed blobs.

        Returns the bytes freed and the number of blobs that could not be removed yet.
        """
        if self._removing is None:
            return 0, 0
        removed = await asyncio.shield(self._removing)
        bound = {"blobs": list_of(sorted(map(str, removed)))}
        # The origins first: as a cascade, a row after the other, it takes longer.
        await connection.execute(_DELETE_ORIGINS, bound)
        await connection.execute(_DELETE_BLOBS, bound)
        freed = sum(self._orphans[digest] for digest in removed)
        return freed, len(self._orphans) - len(removed)


def _retrieve_error(removing: asyncio.Future[Collection[Digest]]) -> None:
    """Retrieve the error of a removal whose transaction has failed before."""
    if not removing.cancelled():
        removing.exception()


async def end_of(removals: Iterable[BlobRemoval]) -> None:
    """Wait until none of some removals touches a file any more, also when cancelled."""
    if under_way := [task for removal in removals for task in removal.under_way]:
        await uninterrupted(asyncio.ensure_future(asyncio.wait(under_way)))


class EvictedLinks:
    """Images whose links and manifests are deleted, and the removal of their blobs."""

    def __init__(
        self, plan: EvictionPlan, keys: Sequence[tuple[str, str]], removal: BlobRemoval
    ) -> None:
        self.removal = removal
        self._plan = plan
        self._keys = keys

    async def finish(self, connection: AsyncConnection) -> Evicted:
        """Delete the rows of the removed blobs."""
        freed, deferred = await self.removal.finish(connection)
        repositories = frozenset(Repository(repository) for repository, _ in self._keys)
        return Evicted(self._plan, len(self._keys), repositories, freed, deferred)


async def evict_links(
    connection: AsyncConnection,
    plan: EvictionPlan,
    *,
    uses: UsesSincePlan,
    is_current: bool,
    remove_blobs: RemoveBlobs,
    clock: Callable[[], float],
) -> EvictedLinks:
    """Delete the links of a plan or of a part of it, and begin to remove their blobs.

    An image that was used or locked since the plan was made stays, and so does one that is among
    *uses*. Where *is_current*, nothing has changed in the catalog since then but its uses, which
    are all in *uses*. The number of statements does not depend on the number of images.
    """
    links, keys = await connection.run_sync(_confirm, plan, uses, is_current)
    await connection.run_sync(_delete_links, keys)
    if plan.adopted:
        await connection.execute(_NOT_ADOPTED, {"blobs": list_of(plan.adopted)})
    manifests = {digest for _, digest in keys}
    adopted = list(map(str, plan.adopted))
    orphans = await connection.run_sync(_delete_contents, manifests, adopted, clock())
    return EvictedLinks(plan.only(links), keys, BlobRemoval(orphans, remove_blobs))


def _confirm(
    connection: Connection, plan: EvictionPlan, uses: UsesSincePlan, is_current: bool
) -> tuple[Container[int], list[tuple[str, str]]]:
    """The images of a plan that may still be evicted, and the keys of all that is removed.

    Manifests below an index, and empty ones, are looked up each time: the index goes with the last
    of them.
    """
    use, inventory = plan.use, plan.use.inventory
    links: set[int] = set()
    looked_up = plan
    if is_current:
        links.update(
            link
            for link in plan.links
            if not use.is_below_index(link) and not use.is_used(link, uses)
        )
        looked_up = plan.only({link for link in plan.links if use.is_below_index(link)})
    keys = {inventory.text_key(link) for link in links}
    if looked_up.links or looked_up.empty_links:
        used_blobs = set() if is_current else _read_used_blobs(connection, looked_up)
        lineage = read_lineage(
            connection,
            [inventory.key(link) for link in (*looked_up.links, *looked_up.empty_links)],
        )
        confirmed = confirm(looked_up, lineage, uses=uses._replace(blobs=uses.blobs | used_blobs))
        more = {(str(repository), str(digest)) for repository, digest in confirmed}
        links.update(link for link in looked_up.links if inventory.text_key(link) in more)
        keys |= more
    return links, sorted(keys)


def _read_used_blobs(connection: Connection, plan: EvictionPlan) -> set[str]:
    """Distinctive blobs of images that were used later than their image was when it was planned."""
    last_used: dict[Digest, float] = {}
    for image in plan.images:
        for blob in image.distinctive_blobs:
            last_used[blob] = min(image.last_used, last_used.get(blob, image.last_used))
    since = min(last_used.values(), default=0.0)
    rows = connection.execute(_LAST_USED, {"blobs": list_of(last_used), "since": since})
    return {row.digest for row in rows if row.last_used > last_used[digest_of_row(row.digest)]}


def delete_links(connection: Connection, keys: Collection[Key]) -> None:
    """Delete manifests of repositories with the tags that point at them.

    Their repositories go with the last one of their manifests.
    """
    _delete_links(connection, sorted((str(repository), str(digest)) for repository, digest in keys))


def _delete_links(connection: Connection, keys: list[tuple[str, str]]) -> None:
    if not keys:
        return
    lost = counters.RemovedLinks(connection, keys)
    # As text for the driver: SQLAlchemy would make a dictionary of each key.
    connection.exec_driver_sql(_DELETE_TAGS, keys)
    connection.exec_driver_sql(_DELETE_LINKS, keys)
    connection.execute(
        _DELETE_EMPTY_REPOSITORIES,
        {"repositories": list_of({repository for repository, _ in keys})},
    )
    lost.subtract(connection)


async def collect_contents(
    connection: AsyncConnection,
    manifests: Iterable[Digest],
    remove_blobs: RemoveBlobs,
    *,
    blobs: Iterable[Digest] = (),
    now: float,
) -> BlobRemoval:
    """Delete those of some manifests that no repository has, and begin to remove their blobs.

    Also those of some *blobs* that no manifest refers to. Blobs that are needed elsewhere and
    recently adopted ones stay.
    """
    orphans = await connection.run_sync(
        _delete_contents, set(map(str, manifests)), list(map(str, blobs)), now
    )
    return BlobRemoval(orphans, remove_blobs)


def _delete_contents(
    connection: Connection, manifests: Collection[str], blobs: Collection[str], now: float
) -> dict[Digest, int]:
    """Delete manifests of no repository; returns blobs that may be removed, with their sizes."""
    candidates = set(blobs)
    if manifests:
        bound = {"manifests": list_of(sorted(manifests))}
        bound["manifests"] = list_of(digest for (digest,) in _rows(connection, _UNLINKED, bound))
        candidates.update(chain.from_iterable(_rows(connection, _BLOBS_OF, bound)))
        # The references first: as a cascade, a row after the other, it takes a third longer.
        connection.execute(_DELETE_REFERENCES, bound)
        connection.execute(_DELETE_MANIFESTS, bound)
    rows = _rows(
        connection,
        _ORPHANS,
        {"blobs": list_of(sorted(candidates)), "since": now - ADOPTED_STAYS, "now": now},
    )
    return {digest_of_row(digest): size for digest, size in rows}


def _rows(connection: Connection, query: Select[Any], bound: dict[str, Any]) -> list[Any]:
    """All rows of a query, as the driver gives them: SQLAlchemy fetches them singly."""
    cursor: Any = connection.execute(query, bound).cursor
    rows: list[Any] = cursor.fetchall()
    return rows


def read_unlinked(connection: Connection, after: str, count: int) -> list[str]:
    """The next *count* manifests after *after* that no repository has, by digest."""
    query = _all_unlinked.where(schema.manifests.c.digest > after).limit(count)
    return list(connection.execute(query).scalars())


def read_orphans(connection: Connection, after: str, count: int, now: float) -> list[str]:
    """The next *count* blobs after *after* that no manifest refers to, by digest.

    Without the recently adopted ones.
    """
    query = _all_orphans.where(schema.blobs.c.digest > after).limit(count)
    bound = {"since": now - ADOPTED_STAYS, "now": now}
    return [row.digest for row in connection.execute(query, bound)]


_digest_of_link = schema.repository_manifests.c.digest
_is_linked = exists(select(_digest_of_link).where(_digest_of_link == schema.manifests.c.digest))
_is_referred = exists(
    select(schema.references.c.digest).where(schema.references.c.digest == schema.blobs.c.digest)
)
_adopted = schema.blobs.c.adopted
_is_removable = (
    _adopted.is_(None) | (_adopted <= bindparam("since")) | (_adopted > bindparam("now"))
)
_listed_manifests = schema.manifests.c.digest.in_(listed("manifests"))
_listed_blobs = schema.blobs.c.digest.in_(listed("blobs"))

_LAST_USED = select(schema.blobs.c.digest, schema.blobs.c.last_used).where(
    _listed_blobs, schema.blobs.c.last_used > bindparam("since")
)
_NOT_ADOPTED = update(schema.blobs).where(_listed_blobs).values(adopted=None)
_DELETE_TAGS = "DELETE FROM tags WHERE repository = ? AND digest = ?"
_DELETE_LINKS = "DELETE FROM repository_manifests WHERE repository = ? AND digest = ?"
_DELETE_EMPTY_REPOSITORIES = delete(schema.repositories).where(
    schema.repositories.c.name.in_(listed("repositories")),
    ~exists(
        select(schema.repository_manifests.c.digest).where(
            schema.repository_manifests.c.repository == schema.repositories.c.name
        )
    ),
)
_UNLINKED = select(schema.manifests.c.digest).where(_listed_manifests, ~_is_linked)
_BLOBS_OF = select(schema.references.c.digest).where(
    schema.references.c.manifest.in_(listed("manifests"))
)
_DELETE_REFERENCES = delete(schema.references).where(
    schema.references.c.manifest.in_(listed("manifests"))
)
_DELETE_MANIFESTS = delete(schema.manifests).where(_listed_manifests)
_ORPHANS = select(schema.blobs.c.digest, schema.blobs.c.size).where(
    _listed_blobs, ~_is_referred, _is_removable
)
_DELETE_ORIGINS = delete(schema.blob_origins).where(
    schema.blob_origins.c.digest.in_(listed("blobs"))
)
_DELETE_BLOBS = delete(schema.blobs).where(_listed_blobs)
_all_unlinked = (
    select(schema.manifests.c.digest).where(~_is_linked).order_by(schema.manifests.c.digest)
)
_all_orphans = (
    select(schema.blobs.c.digest)
    .where(~_is_referred, _is_removable)
    .order_by(schema.blobs.c.digest)
)
