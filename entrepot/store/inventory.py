"""The inventory of the cache that an eviction is planned on, read from the catalog."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from entrepot.core.reference import Digest, Repository, Tag
from entrepot.store import schema
from entrepot.store.eviction import Inventory, InventoryBlob, InventoryManifest
from entrepot.store.manifests import ReferenceKind
from entrepot.store.rows import fetch_all


def read_inventory(connection: Connection) -> Inventory:
    """All cached manifests and blobs."""
    # One row for each manifest and not for each of its blobs: with 10,000 repositories that is
    # 20,000 rows in place of 160,000.
    blobs_by_manifest = (
        select(
            schema.references.c.manifest, func.aggregate_strings(schema.references.c.digest, " ")
        )
        .join(schema.blobs, schema.blobs.c.digest == schema.references.c.digest)
        .where(schema.references.c.kind != ReferenceKind.MANIFEST)
        .group_by(schema.references.c.manifest)
    )
    blobs_query = select(
        schema.blobs.c.digest, schema.blobs.c.size, schema.blobs.c.last_used, schema.blobs.c.adopted
    )
    digests = _Digests()
    blobs = {
        digests[digest]: InventoryBlob(size, last_used, adopted)
        for digest, size, last_used, adopted in connection.execute(blobs_query)
    }
    # A manifest may name a blob twice.
    blobs_of = {
        manifest: tuple(digests[digest] for digest in dict.fromkeys(joined.split(" ")))
        for manifest, joined in connection.execute(blobs_by_manifest)
    }
    rows = InventoryRows(*(connection.execute(query) for query in _queries()))
    contents = select(schema.manifests.c.digest, func.length(schema.manifests.c.content))
    sizes = {row[0]: int(row[1]) for row in connection.execute(contents)}
    return Inventory(manifests_of_rows(rows, blobs_of, digests, sizes), blobs)


def read_repository_inventory(
    connection: Connection, repository: Repository
) -> list[InventoryManifest]:
    """The manifests of a repository with their locks, tags and children.

    The blobs of the manifests are not read.
    """
    links, tags, children = _queries()
    link_repository = schema.repository_manifests.c.repository
    return manifests_of_rows(
        InventoryRows(
            connection.execute(links.where(link_repository == repository)),
            connection.execute(tags.where(schema.tags.c.repository == repository)),
            connection.execute(children.where(link_repository == repository)),
        )
    )


@dataclass(frozen=True, slots=True)
class InventoryRows:
    """Rows of the manifests of some repositories.

    With rows of the tags that point at them, and of the children of indexes.
    """

    links: Iterable[Any]
    tags: Iterable[Any]
    children: Iterable[Any]


async def fetch_rows(
    connection: AsyncConnection, repositories: Collection[Repository]
) -> InventoryRows:
    """The rows of some repositories, read within a write transaction."""
    links_query, tags_query, children_query = _queries()
    link_repository = schema.repository_manifests.c.repository
    links: list[Any] = []
    tags: list[Any] = []
    children: list[Any] = []
    for chunk in schema.chunks(list(repositories)):
        links += await fetch_all(connection, links_query.where(link_repository.in_(chunk)))
        tags += await fetch_all(connection, tags_query.where(schema.tags.c.repository.in_(chunk)))
        children += await fetch_all(connection, children_query.where(link_repository.in_(chunk)))
    return InventoryRows(links, tags, children)


def _queries() -> tuple[Any, Any, Any]:
    child = schema.repository_manifests.alias()
    links = select(
        schema.repository_manifests.c.repository,
        schema.repository_manifests.c.digest,
        schema.repository_manifests.c.platform,
        schema.repository_manifests.c.cached,
        schema.repository_manifests.c.last_pull,
        schema.repository_manifests.c.last_used,
        (schema.repository_manifests.c.locked | schema.repositories.c.locked).label("locked"),
    ).join(
        schema.repositories, schema.repositories.c.name == schema.repository_manifests.c.repository
    )
    tags = select(
        schema.tags.c.repository, schema.tags.c.digest, schema.tags.c.name, schema.tags.c.locked
    ).order_by(schema.tags.c.name)
    children = (
        select(
            schema.repository_manifests.c.repository,
            schema.references.c.manifest,
            schema.references.c.digest,
        )
        .join(
            schema.references, schema.references.c.manifest == schema.repository_manifests.c.digest
        )
        .join(
            child,
            (child.c.digest == schema.references.c.digest)
            & (child.c.repository == schema.repository_manifests.c.repository),
        )
        .where(schema.references.c.kind == ReferenceKind.MANIFEST)
        .distinct()
    )
    return links, tags, children


class _Digests(dict[str, Digest]):
    """The digests of many rows, each parsed once."""

    def __missing__(self, text: str) -> Digest:
        digest = self[text] = Digest.parse(text)
        return digest


def manifests_of_rows(
    rows: InventoryRows,
    blobs_of: Mapping[str, tuple[Digest, ...]] | None = None,
    digests: _Digests | None = None,
    sizes: Mapping[str, int] | None = None,
) -> list[InventoryManifest]:
    """The manifests that some rows describe. Runs in a thread where there may be many."""
    digests = _Digests() if digests is None else digests
    sizes = sizes or {}
    tags: dict[tuple[str, str], tuple[Tag, ...]] = {}
    locked: set[tuple[str, str]] = set()
    for repository, digest, name, is_locked in rows.tags:
        tags[repository, digest] = (*tags.get((repository, digest), ()), Tag(name))
        if is_locked:
            locked.add((repository, digest))
    children: dict[tuple[str, str], tuple[Digest, ...]] = {}
    for repository, parent, child in rows.children:
        children[repository, parent] = (*children.get((repository, parent), ()), digests[child])
    return [
        InventoryManifest(
            repository=Repository(repository),
            digest=digests[digest],
            platform=platform,
            last_requested=max(cached, last_pull or 0.0, last_used or 0.0),
            locked=bool(is_locked) or (repository, digest) in locked,
            tags=tags.get((repository, digest), ()),
            children=children.get((repository, digest), ()),
            blobs=blobs_of.get(digest, ()) if blobs_of else (),
            size=sizes.get(digest, 0),
        )
        for repository, digest, platform, cached, last_pull, last_used, is_locked in rows.links
    ]
