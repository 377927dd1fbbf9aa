"""Removal of evicted images and of what nothing refers to any more.

It runs within a write transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, delete, exists, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from entrepot.core.reference import Digest, Repository
from entrepot.store import counters, schema
from entrepot.store.eviction import ADOPTED_STAYS, EvictionPlan, Key, PlannedImage, confirm
from entrepot.store.inventory import fetch_rows, manifests_of_rows
from entrepot.store.rows import fetch_all

RemoveBlob = Callable[[Digest], bool]
"""Removes a blob from the store; False when it can't go because it is in use.

It is called within the transaction, so that no manifest that refers to the blob can come in
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
    remove_blob: RemoveBlob,
    clock: Callable[[], float],
) -> Evicted:
    """Carry out a plan.

    An image that was used or locked since the plan was made stays, and so does one for which
    *is_used* is true.
    """
    last_used: dict[Digest, float] = {}
    for chunk in schema.chunks(
        sorted({str(blob) for image in plan.images for blob in image.distinctive_blobs})
    ):
        for row in await fetch_all(
            connection,
            select(schema.blobs.c.digest, schema.blobs.c.last_used).where(
                schema.blobs.c.digest.in_(chunk)
            ),
        ):
            last_used[Digest.parse(row.digest)] = row.last_used

    def is_used_since(image: PlannedImage) -> bool:
        return any(
            last_used.get(blob, 0.0) > image.last_used for blob in image.distinctive_blobs
        ) or is_used(image)

    repositories = sorted(
        {image.manifest.repository for image in plan.images}
        | {repository for repository, _ in plan.empty}
    )
    rows = await fetch_rows(connection, repositories)
    used = {image.manifest.key for image in plan.images if is_used_since(image)}
    evicted = await asyncio.to_thread(lambda: confirm(plan, manifests_of_rows(rows), used=used))
    if evicted:
        keys = [
            {"in_repository": repository, "of_digest": str(digest)}
            for repository, digest in sorted(evicted)
        ]
        for table in (schema.tags, schema.repository_manifests):
            same = (table.c.repository == bindparam("in_repository")) & (
                table.c.digest == bindparam("of_digest")
            )
            await connection.execute(delete(table).where(same), keys)
        for chunk in schema.chunks(repositories):
            await connection.execute(
                delete(schema.repositories).where(
                    schema.repositories.c.name.in_(chunk), ~exists(_manifests_of_repository())
                )
            )
        await counters.recount_repositories(connection, repositories)
    for chunk in schema.chunks([str(digest) for digest in plan.adopted]):
        await connection.execute(
            update(schema.blobs).where(schema.blobs.c.digest.in_(chunk)).values(adopted=None)
        )
    freed, deferred = await collect_garbage(connection, remove_blob, now=clock())
    images = tuple(image for image in plan.images if image.manifest.key in evicted)
    return Evicted(images, frozenset(evicted), freed, deferred)


def _manifests_of_repository() -> Any:
    return select(schema.repository_manifests.c.digest).where(
        schema.repository_manifests.c.repository == schema.repositories.c.name
    )


async def remove_empty_repository(connection: AsyncConnection, repository: Repository) -> None:
    """Delete a repository that has no manifest any more."""
    remaining = select(schema.repository_manifests.c.digest).where(
        schema.repository_manifests.c.repository == repository
    )
    await connection.execute(
        delete(schema.repositories).where(
            schema.repositories.c.name == repository, ~exists(remaining)
        )
    )


async def collect_garbage(
    connection: AsyncConnection, remove_blob: RemoveBlob, *, now: float
) -> tuple[int, int]:
    """Delete manifests of no repository and blobs of no manifest.

    Recently adopted blobs stay. Returns the bytes freed and the number of blobs that could not be
    removed yet.
    """
    linked = select(schema.repository_manifests.c.digest).where(
        schema.repository_manifests.c.digest == schema.manifests.c.digest
    )
    referred = select(schema.references.c.digest).where(
        schema.references.c.digest == schema.blobs.c.digest
    )
    await connection.execute(delete(schema.manifests).where(~exists(linked)))
    adopted = schema.blobs.c.adopted
    removable = adopted.is_(None) | (adopted <= now - ADOPTED_STAYS) | (adopted > now)
    orphans = await fetch_all(
        connection,
        select(schema.blobs.c.digest, schema.blobs.c.size).where(~exists(referred), removable),
    )
    removed: list[Any] = []
    for count, row in enumerate(orphans, 1):
        if remove_blob(Digest.parse(row.digest)):
            removed.append(row)
        if count % 64 == 0:
            # Each removal is a rename on the event loop, so that the next reader finds the blob
            # gone; thousands of them in a row would delay clients.
            await asyncio.sleep(0)
    if removed:
        await connection.execute(
            delete(schema.blobs).where(schema.blobs.c.digest == bindparam("removed")),
            [{"removed": row.digest} for row in removed],
        )
    return sum(row.size for row in removed), len(orphans) - len(removed)
