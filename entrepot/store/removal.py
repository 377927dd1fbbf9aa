"""Removal of evicted images and of what nothing refers to any more.

It runs within a write transaction.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, delete, exists, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from entrepot.core.reference import Digest
from entrepot.store import counters, schema
from entrepot.store.eviction import ADOPTED_STAYS, EvictionPlan, Key, PlannedImage, confirm
from entrepot.store.inventory import digest_of_row
from entrepot.store.inventory_reading import read_lineage
from entrepot.store.listed import list_of, listed

RemoveBlobs = Callable[[Sequence[Digest]], Awaitable[Collection[Digest]]]
"""Removes blobs from the store; returns those that are removed. The others are in use.

It is called within the transaction, so that no manifest that refers to one of the blobs can come in
between.
"""


@dataclass(frozen=True, slots=True)
class Evicted:
    """What an eviction removed.

    *freed* is in bytes, *deferred* the number of blobs that could not be removed yet because a
    reader may still open them.
    """

    images: tuple[PlannedImage, ...]
    manifests: frozenset[Key]
    """Those of the images, and the indexes and empty manifests removed with them."""
    freed: int
    deferred: int


async def evict_images(
    connection: AsyncConnection,
    plan: EvictionPlan,
    *,
    is_used: Callable[[PlannedImage], bool],
    remove_blobs: RemoveBlobs,
    clock: Callable[[], float],
) -> Evicted:
    """Carry out a plan, or a part of one.

    An image that was used or locked since the plan was made stays, and so does one for which
    *is_used* is true. The number of statements does not depend on the number of images.
    """
    images = plan.images
    keys = [*(image.manifest.key for image in images), *plan.empty]
    last_used = await connection.run_sync(_read_last_used, images)
    lineage = await connection.run_sync(read_lineage, keys)
    used = {
        image.manifest.key
        for image in images
        if any(last_used.get(blob, 0.0) > image.last_used for blob in image.distinctive_blobs)
        or is_used(image)
    }
    evicted = confirm(plan, lineage, used=used)
    await connection.run_sync(delete_links, evicted)
    await connection.execute(_NOT_ADOPTED, {"blobs": list_of(plan.adopted)})
    freed, deferred = await collect_contents(
        connection,
        {digest for _, digest in evicted},
        remove_blobs,
        blobs=plan.adopted,
        now=clock(),
    )
    return Evicted(
        tuple(image for image in images if image.manifest.key in evicted),
        frozenset(evicted),
        freed,
        deferred,
    )


def _read_last_used(
    connection: Connection, images: Collection[PlannedImage]
) -> dict[Digest, float]:
    """When distinctive blobs were used, if that was after the least recent use of the images."""
    blobs = {blob for image in images for blob in image.distinctive_blobs}
    since = min((image.last_used for image in images), default=0.0)
    rows = connection.execute(_LAST_USED, {"blobs": list_of(blobs), "since": since})
    return {digest_of_row(row.digest): row.last_used for row in rows}


def delete_links(connection: Connection, keys: Collection[Key]) -> None:
    """Delete manifests of repositories with the tags that point at them.

    Their repositories go with the last one of their manifests.
    """
    if not keys:
        return
    texts = [(repository, str(digest)) for repository, digest in sorted(keys)]
    lost = counters.RemovedLinks(connection, texts)
    bound = [{"in_repository": repository, "of_digest": digest} for repository, digest in texts]
    connection.execute(_DELETE_TAGS, bound)
    connection.execute(_DELETE_LINKS, bound)
    connection.execute(
        _DELETE_EMPTY_REPOSITORIES,
        {"repositories": list_of({repository for repository, _ in texts})},
    )
    lost.subtract(connection)


async def collect_contents(
    connection: AsyncConnection,
    manifests: Collection[Digest],
    remove_blobs: RemoveBlobs,
    *,
    blobs: Collection[Digest] = (),
    now: float,
) -> tuple[int, int]:
    """Delete those of some manifests that no repository has, and what only they needed.

    Also those of some *blobs* that no manifest refers to. Recently adopted blobs stay. Returns the
    bytes freed and the number of blobs that could not be removed yet.
    """
    orphans = await connection.run_sync(_delete_contents, manifests, blobs, now)
    if not orphans:
        return 0, 0
    removed = await remove_blobs(list(orphans))
    await connection.execute(_DELETE_BLOBS, {"blobs": list_of(removed)})
    return sum(orphans[digest] for digest in removed), len(orphans) - len(removed)


def _delete_contents(
    connection: Connection, manifests: Collection[Digest], blobs: Collection[Digest], now: float
) -> dict[Digest, int]:
    """Delete manifests of no repository; returns blobs that may be removed, with their sizes."""
    unlinked = list_of(
        connection.execute(_UNLINKED, {"manifests": list_of(manifests)}).scalars()
        if manifests
        else ()
    )
    candidates = set(map(str, blobs))
    candidates.update(connection.execute(_BLOBS_OF, {"manifests": unlinked}).scalars())
    # The references first: as a cascade, a row after the other, it takes a third longer.
    connection.execute(_DELETE_REFERENCES, {"manifests": unlinked})
    connection.execute(_DELETE_MANIFESTS, {"manifests": unlinked})
    rows = connection.execute(
        _ORPHANS, {"blobs": list_of(candidates), "since": now - ADOPTED_STAYS, "now": now}
    )
    return {digest_of_row(row.digest): row.size for row in rows}


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
_DELETE_TAGS = delete(schema.tags).where(
    schema.tags.c.repository == bindparam("in_repository"),
    schema.tags.c.digest == bindparam("of_digest"),
)
_DELETE_LINKS = delete(schema.repository_manifests).where(
    schema.repository_manifests.c.repository == bindparam("in_repository"),
    schema.repository_manifests.c.digest == bindparam("of_digest"),
)
_DELETE_EMPTY_REPOSITORIES = delete(schema.repositories).where(
    schema.repositories.c.name.in_(listed("repositories")),
    ~exists(
        select(schema.repository_manifests.c.digest).where(
            schema.repository_manifests.c.repository == schema.repositories.c.name
        )
    ),
)
_UNLINKED = select(schema.manifests.c.digest).where(_listed_manifests, ~_is_linked)
_BLOBS_OF = (
    select(schema.references.c.digest)
    .where(
        schema.references.c.manifest.in_(listed("manifests")),
        exists(
            select(schema.blobs.c.digest).where(schema.blobs.c.digest == schema.references.c.digest)
        ),
    )
    .distinct()
)
_DELETE_REFERENCES = delete(schema.references).where(
    schema.references.c.manifest.in_(listed("manifests"))
)
_DELETE_MANIFESTS = delete(schema.manifests).where(_listed_manifests)
_ORPHANS = select(schema.blobs.c.digest, schema.blobs.c.size).where(
    _listed_blobs, ~_is_referred, _is_removable
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
