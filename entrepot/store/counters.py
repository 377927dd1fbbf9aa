"""The counters of each repository: its tags, manifests and cached bytes.

The counters are columns, written in the transaction that changes what they count, so that a listing
of ten thousand repositories reads one table. Each blob counts once in a repository, however many of
its manifests refer to it, and counts in every repository that refers to it.

Additions are added and removed manifests are subtracted, as they are frequent and concern
repositories of any size. The rest recounts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, bindparam, func, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from entrepot.core.reference import Digest, Repository
from entrepot.store import schema
from entrepot.store.listed import (
    keys_of,
    list_of,
    listed,
    listed_digest,
    listed_keys,
    listed_repository,
)
from entrepot.store.manifests import Manifest

RECOUNT_ALL_BLOBS = 2000
"""Blobs that changed at once, above which all repositories are recounted.

Up to it, only the repositories that refer to the blobs are looked up and recounted.
"""

MANY_REFERENCES = 32
"""References to a blob from which on it is looked up among the manifests of a repository."""

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
    await connection.execute(_RECOUNT_LISTED, {"repositories": list_of(repositories)})


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


class RemovedLinks:
    """What repositories lose with some of their manifests.

    It is read before the rows of the links and tags are deleted, and subtracted after that. To
    count a repository again would take as long as it has manifests, each time that a few of them
    are evicted. A repository that loses all its manifests is deleted and needs no counters.
    """

    def __init__(self, connection: Connection, keys: Collection[tuple[str, str]]) -> None:
        removed = Counter(repository for repository, _ in keys)
        rows = connection.execute(_MANIFESTS, {"repositories": list_of(removed)})
        self._emptied = [row.name for row in rows if row.manifests <= removed[row.name]]
        staying = removed.keys() - set(self._emptied)
        self._lost = {name: [0, 0, 0] for name in sorted(staying)}
        """Tags, manifests and bytes."""
        self._blobs: dict[str, dict[str, int]] = {name: {} for name in self._lost}
        """The cached blobs that the manifests refer to, with their sizes."""
        if not self._lost:
            return
        listed = {"keys": keys_of(key for key in keys if key[0] in self._lost)}
        for repository, count in connection.execute(_LISTED_TAGS, listed):
            self._lost[repository][0] = count
        for repository, size in connection.execute(_LISTED_CONTENTS, listed):
            self._lost[repository][1] += 1
            self._lost[repository][2] += size
        for repository, blob, size in connection.execute(_LISTED_BLOBS, listed):
            self._blobs[repository][blob] = size

    def subtract(self, connection: Connection) -> None:
        """Subtract it; the rows of the links, of the tags and of empty repositories are deleted."""
        # None of them is left, as long as the counters are right.
        connection.execute(_RECOUNT_LISTED, {"repositories": list_of(self._emptied)})
        if not self._lost:
            return
        needed = self._still_needed(connection)
        for name, lost in self._lost.items():
            lost[2] += sum(
                size for blob, size in self._blobs[name].items() if (name, blob) not in needed
            )
        connection.execute(
            _SUBTRACT,
            [
                {
                    "in_repository": name,
                    "less_tags": tags,
                    "less_manifests": manifests,
                    "less": size,
                }
                for name, (tags, manifests, size) in self._lost.items()
            ],
        )

    def _still_needed(self, connection: Connection) -> set[tuple[str, str]]:
        """The blobs that other manifests of the same repository refer to.

        A blob with few references is looked up by them. A base layer may have a hundred thousand,
        of other repositories: it is looked up among the manifests of the repository, where mostly
        the first one has it.
        """
        pairs = [(name, blob) for name, blobs in self._blobs.items() for blob in blobs]
        bound = {"blobs": list_of({blob for _, blob in pairs}), "limit": MANY_REFERENCES}
        shared = set(connection.execute(_SHARED, bound).scalars())
        needed: set[tuple[str, str]] = set()
        for query, are_shared in ((_NEEDED, False), (_NEEDED_SHARED, True)):
            looked_up = [pair for pair in pairs if (pair[1] in shared) is are_shared]
            if looked_up:
                rows = connection.execute(query, {"keys": keys_of(looked_up)})
                needed.update((repository, blob) for repository, blob in rows)
        return needed


def _shared_query() -> Any:
    """The listed blobs with more than ``limit`` references."""
    blob = func.json_each(bindparam("blobs")).table_valued("value", name="listed_blobs").c.value
    references = (
        select(literal(1).label("one"))
        .select_from(schema.references)
        .where(_refers.digest == blob)
        .correlate(blob.table)
        .limit(bindparam("limit") + 1)
        .subquery("some_references")
    )
    count = select(func.count()).select_from(references).scalar_subquery()
    return select(blob).where(count > bindparam("limit"))


def _needed_query() -> Any:
    """The listed pairs of a repository and a blob where the repository needs the blob."""
    return (
        select(listed_repository, listed_digest)
        .select_from(listed_keys)
        .join(schema.references, _refers.digest == listed_digest)
        .join(
            schema.repository_manifests,
            (_links.repository == listed_repository) & (_links.digest == _refers.manifest),
        )
        .distinct()
    )


def _needed_shared_query() -> Any:
    """The same, for blobs with many references."""
    is_needed = (
        select(1)
        .select_from(schema.repository_manifests)
        .join(schema.references, _refers.manifest == _links.digest)
        # Concatenated, so that SQLite does not begin with the references of the blob: it does not
        # know how many there are.
        .where(_links.repository == listed_repository, _refers.digest.concat("") == listed_digest)
        .correlate(listed_keys)
        .exists()
    )
    return select(listed_repository, listed_digest).select_from(listed_keys).where(is_needed)


def _update_repository() -> Any:
    return update(schema.repositories).where(_repositories.name == bindparam("in_repository"))


# Built once: every blob and manifest of a pull executes one of them.
_ADD_MANIFEST = _add_manifest_statement()
_ADD_BLOB = _add_blob_statement()
_ADD_TAGS = _update_repository().values(tags=_repositories.tags + bindparam("more"))
_RECOUNT_LISTED = recount().where(_repositories.name.in_(listed("repositories")))
_SUBTRACT = _update_repository().values(
    tags=_repositories.tags - bindparam("less_tags"),
    manifests=_repositories.manifests - bindparam("less_manifests"),
    size=_repositories.size - bindparam("less"),
)
_MANIFESTS = select(_repositories.name, _repositories.manifests).where(
    _repositories.name.in_(listed("repositories"))
)
_LISTED_TAGS = (
    select(schema.tags.c.repository, func.count())
    .select_from(listed_keys)
    .join(
        schema.tags,
        (schema.tags.c.repository == listed_repository) & (schema.tags.c.digest == listed_digest),
    )
    .group_by(schema.tags.c.repository)
)
_listed_links = (
    select()
    .select_from(listed_keys)
    .join(
        schema.repository_manifests,
        (_links.repository == listed_repository) & (_links.digest == listed_digest),
    )
)
_LISTED_CONTENTS = _listed_links.add_columns(
    _links.repository, func.length(schema.manifests.c.content)
).join(schema.manifests, schema.manifests.c.digest == _links.digest)
_LISTED_BLOBS = (
    _listed_links.add_columns(_links.repository, schema.blobs.c.digest, schema.blobs.c.size)
    .join(schema.references, _refers.manifest == _links.digest)
    .join(schema.blobs, schema.blobs.c.digest == _refers.digest)
)
_SHARED = _shared_query()
_NEEDED = _needed_query()
_NEEDED_SHARED = _needed_shared_query()
