"""What is counted of each repository: its tags, its manifests, and the bytes held for it.

The numbers stand in columns of their own, written in the transaction that changes what they count,
so that a listing of ten thousand repositories is one look at one table. Each blob counts once in a
repository, however many of its manifests refer to it, and counts in every repository that does.

What comes in is added, for it comes often and to repositories of any size. What goes is counted
anew.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import bindparam, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from entrepot.core.reference import Digest, Repository
from entrepot.store import schema
from entrepot.store.manifests import Manifest

MANY = 2000
"""Blobs that came or went at once, above which all repositories are counted anew rather than those
that need them looked up."""

_links = schema.repository_manifests.c
_refers = schema.references.c
_repositories = schema.repositories.c


def recount() -> Any:
    """The statement that counts anew what repositories hold: all of them, or those of its
    ``where``."""
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


async def recount_those(connection: AsyncConnection, repositories: Collection[str]) -> None:
    """Count anew what some repositories hold."""
    for chunk in schema.chunks(sorted(repositories)):
        await connection.execute(recount().where(_repositories.name.in_(chunk)))


async def recount_with(connection: AsyncConnection, blobs: Collection[str]) -> None:
    """Count anew what the repositories hold that need any of some blobs, which are digests as text."""
    if len(blobs) > MANY:
        await connection.execute(recount())
        return
    concerned: set[str] = set()
    for chunk in schema.chunks(sorted(blobs)):
        query = (
            select(_links.repository)
            .join(schema.references, _refers.manifest == _links.digest)
            .where(_refers.digest.in_(chunk))
            .distinct()
        )
        concerned.update((await connection.execute(query)).scalars())
    await recount_those(connection, concerned)


async def manifest_came(
    connection: AsyncConnection, repository: Repository, manifest: Manifest
) -> None:
    """A manifest was linked to a repository that did not hold it: it counts, and so do those of its
    held blobs that nothing else there needs."""
    await connection.execute(
        _MANIFEST_CAME,
        {
            "in_repository": repository,
            "of_manifest": str(manifest.digest),
            "more": len(manifest.content),
        },
    )


async def tags_came(connection: AsyncConnection, repository: Repository, count: int) -> None:
    """A repository has *count* tags more, or less."""
    if count:
        await connection.execute(_TAGS_CAME, {"in_repository": repository, "more": count})


async def blob_came(connection: AsyncConnection, digest: Digest, size: int) -> None:
    """A blob is held that was not: it counts in each repository that needs it."""
    await connection.execute(_BLOB_CAME, {"of_blob": str(digest), "more": size})


def _manifest_came() -> Any:
    needs_it = select(_refers.digest).where(_refers.manifest == bindparam("of_manifest"))
    needed_before = (
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
    new = select(func.coalesce(func.sum(schema.blobs.c.size), 0)).where(
        schema.blobs.c.digest.in_(needs_it), ~needed_before
    )
    return _of_one().values(
        manifests=_repositories.manifests + 1,
        size=_repositories.size + bindparam("more") + new.scalar_subquery(),
    )


def _blob_came() -> Any:
    needs_it = (
        select(_links.repository)
        .join(schema.references, _refers.manifest == _links.digest)
        .where(_refers.digest == bindparam("of_blob"))
    )
    return (
        update(schema.repositories)
        .where(_repositories.name.in_(needs_it))
        .values(size=_repositories.size + bindparam("more"))
    )


def _of_one() -> Any:
    return update(schema.repositories).where(_repositories.name == bindparam("in_repository"))


# Made once: each blob and manifest of every pull asks for one of them.
_MANIFEST_CAME = _manifest_came()
_BLOB_CAME = _blob_came()
_TAGS_CAME = _of_one().values(tags=_repositories.tags + bindparam("more"))
