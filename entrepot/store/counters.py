"""The counters of each repository: its tags, manifests and cached bytes.

The counters are columns, written in the transaction that changes what they count, so that a listing
of ten thousand repositories reads one table. Each blob counts once in a repository, however many of
its manifests refer to it, and counts in every repository that refers to it.

Additions are added, as they are frequent and go to repositories of any size. Removals recount.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import bindparam, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from entrepot.core.reference import Digest, Repository
from entrepot.store import schema
from entrepot.store.manifests import Manifest

RECOUNT_ALL_BLOBS = 2000
"""Blobs that changed at once, above which all repositories are recounted.

Up to it, only the repositories that refer to the blobs are looked up and recounted.
"""

_links = schema.repository_manifests.c
_refers = schema.references.c
_repositories = schema.repositories.c


def recount() -> Any:
    """The statement that recounts all repositories, or those of an added ``where``."""
    of_repository = _links.repository == _repositories.name
    needed = (
        select(_refers.digest)
        .join(schema.repository_manifests, _links.digest == _refers.manifest)
        .where(of_repository)
    )
    blob_size = select(func.coalesce(func.sum(schema.blobs.c.size), 0)).where(
        schema.blobs.c.digest.in_(needed.correlate(schema.repositories))
    )
    content_size = (
        select(func.coalesce(func.sum(func.length(schema.manifests.c.content)), 0))
        .join(schema.repository_manifests, _links.digest == schema.manifests.c.digest)
        .where(of_repository)
    )
    manifests = select(func.count()).select_from(schema.repository_manifests).where(of_repository)
    tags = (
        select(func.count())
        .select_from(schema.tags)
        .where(schema.tags.c.repository == _repositories.name)
    )
    return update(schema.repositories).values(
        tags=tags.scalar_subquery(),
        manifests=manifests.scalar_subquery(),
        size=blob_size.correlate(schema.repositories).scalar_subquery()
        + content_size.scalar_subquery(),
    )


async def recount_repositories(connection: AsyncConnection, repositories: Collection[str]) -> None:
    """Recount some repositories."""
    for chunk in schema.chunks(sorted(repositories)):
        await connection.execute(recount().where(_repositories.name.in_(chunk)))


async def recount_with_blobs(connection: AsyncConnection, blobs: Collection[str]) -> None:
    """Recount the repositories that refer to any of some blobs (digests as text)."""
    if len(blobs) > RECOUNT_ALL_BLOBS:
        await connection.execute(recount())
        return
    repositories: set[str] = set()
    for chunk in schema.chunks(sorted(blobs)):
        query = (
            select(_links.repository)
            .join(schema.references, _refers.manifest == _links.digest)
            .where(_refers.digest.in_(chunk))
            .distinct()
        )
        repositories.update((await connection.execute(query)).scalars())
    await recount_repositories(connection, repositories)


async def add_manifest(
    connection: AsyncConnection, repository: Repository, manifest: Manifest
) -> None:
    """Count a manifest that was just linked to a repository.

    It counts with those of its cached blobs that no other manifest of the repository refers to.
    """
    await connection.execute(
        _ADD_MANIFEST,
        {
            "in_repository": repository,
            "of_manifest": str(manifest.digest),
            "more": len(manifest.content),
        },
    )


async def add_tags(connection: AsyncConnection, repository: Repository, count: int) -> None:
    """Add *count* tags to a repository; a negative number removes tags."""
    if count:
        await connection.execute(_ADD_TAGS, {"in_repository": repository, "more": count})


async def add_blob(connection: AsyncConnection, digest: Digest, size: int) -> None:
    """Count a newly cached blob in each repository that refers to it."""
    await connection.execute(_ADD_BLOB, {"of_blob": str(digest), "more": size})


def _add_manifest_statement() -> Any:
    referenced = select(_refers.digest).where(_refers.manifest == bindparam("of_manifest"))
    referenced_by_others = (
        select(1)
        .select_from(schema.references)
        .join(schema.repository_manifests, _links.digest == _refers.manifest)
        .where(
            _links.repository == bindparam("in_repository"),
            _refers.digest == schema.blobs.c.digest,
            _refers.manifest != bindparam("of_manifest"),
        )
        .correlate(schema.blobs)
        .exists()
    )
    new_size = select(func.coalesce(func.sum(schema.blobs.c.size), 0)).where(
        schema.blobs.c.digest.in_(referenced), ~referenced_by_others
    )
    return _update_repository().values(
        manifests=_repositories.manifests + 1,
        size=_repositories.size + bindparam("more") + new_size.scalar_subquery(),
    )


def _add_blob_statement() -> Any:
    referring = (
        select(_links.repository)
        .join(schema.references, _refers.manifest == _links.digest)
        .where(_refers.digest == bindparam("of_blob"))
    )
    return (
        update(schema.repositories)
        .where(_repositories.name.in_(referring))
        .values(size=_repositories.size + bindparam("more"))
    )


def _update_repository() -> Any:
    return update(schema.repositories).where(_repositories.name == bindparam("in_repository"))


# Built once: every blob and manifest of a pull executes one of them.
_ADD_MANIFEST = _add_manifest_statement()
_ADD_BLOB = _add_blob_statement()
_ADD_TAGS = _update_repository().values(tags=_repositories.tags + bindparam("more"))
