"""The tags and manifests of a repository, as a listing shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, func, select

from entrepot.core.reference import Digest, Repository, Tag
from entrepot.store import schema
from entrepot.store.manifests import ReferenceKind
from entrepot.store.records import CachedManifest, CachedTag
from entrepot.store.rows import tag_entry


def read_tags(connection: Connection, repository: Repository) -> list[CachedTag]:
    """The tags of a repository, by name, with the size and platforms cached behind each."""
    # An index leads to its children that are cached in this repository; an image manifest leads
    # to itself.
    tags = (
        select(schema.tags)
        .where(schema.tags.c.repository == repository)
        .order_by(schema.tags.c.name)
    )
    children = (
        select(schema.references.c.manifest, schema.references.c.digest)
        .join(
            schema.repository_manifests,
            schema.repository_manifests.c.digest == schema.references.c.digest,
        )
        .where(
            schema.references.c.kind == ReferenceKind.MANIFEST,
            schema.repository_manifests.c.repository == repository,
        )
    )
    manifests = (
        select(
            schema.repository_manifests.c.digest,
            schema.repository_manifests.c.platform,
            func.length(schema.manifests.c.content).label("size"),
        )
        .join(schema.manifests, schema.manifests.c.digest == schema.repository_manifests.c.digest)
        .where(schema.repository_manifests.c.repository == repository)
    )
    blobs = (
        select(schema.references.c.manifest, schema.blobs.c.digest, schema.blobs.c.size)
        .join(schema.blobs, schema.blobs.c.digest == schema.references.c.digest)
        .join(
            schema.repository_manifests,
            schema.repository_manifests.c.digest == schema.references.c.manifest,
        )
        .where(schema.repository_manifests.c.repository == repository)
    )
    children_of: dict[str, set[str]] = {}
    for parent, child in connection.execute(children):
        children_of.setdefault(parent, set()).add(child)
    manifest_rows = {row.digest: row for row in connection.execute(manifests)}
    blobs_of: dict[str, dict[str, int]] = {}
    for parent, blob, size in connection.execute(blobs):
        blobs_of.setdefault(parent, {})[blob] = size
    return [
        _cached_tag(row, children_of, manifest_rows, blobs_of) for row in connection.execute(tags)
    ]


def _cached_tag(
    row: Any,
    children_of: Mapping[str, set[str]],
    manifest_rows: Mapping[str, Any],
    blobs_of: Mapping[str, Mapping[str, int]],
) -> CachedTag:
    reached = _reachable(row.digest, children_of) & manifest_rows.keys()
    cached_blobs = {
        digest: size for manifest in reached for digest, size in blobs_of.get(manifest, {}).items()
    }
    platforms = {
        manifest_rows[manifest].platform
        for manifest in reached
        if manifest_rows[manifest].platform and manifest in blobs_of
    }
    return CachedTag(
        name=Tag(row.name),
        entry=tag_entry(row),
        last_pull=row.last_pull,
        platforms=tuple(sorted(platforms)),
        size=sum(cached_blobs.values()) + sum(manifest_rows[manifest].size for manifest in reached),
        locked=row.locked,
    )


def _reachable(digest: str, children_of: Mapping[str, set[str]]) -> set[str]:
    """A manifest and all manifests below it."""
    reached: set[str] = set()
    ahead = [digest]
    while ahead:
        current = ahead.pop()
        if current not in reached:
            reached.add(current)
            ahead.extend(children_of.get(current, ()))
    return reached


def read_manifests(connection: Connection, repository: Repository) -> list[CachedManifest]:
    """The manifests of a repository, oldest first."""
    query = (
        select(schema.repository_manifests, func.length(schema.manifests.c.content).label("size"))
        .join(schema.manifests, schema.manifests.c.digest == schema.repository_manifests.c.digest)
        .where(schema.repository_manifests.c.repository == repository)
        .order_by(schema.repository_manifests.c.cached, schema.repository_manifests.c.digest)
    )
    tags_query = (
        select(schema.tags.c.name, schema.tags.c.digest)
        .where(schema.tags.c.repository == repository)
        .order_by(schema.tags.c.name)
    )
    tags: dict[str, list[Tag]] = {}
    for name, digest in connection.execute(tags_query):
        tags.setdefault(digest, []).append(Tag(name))
    return [
        CachedManifest(
            digest=Digest.parse(row.digest),
            media_type=row.media_type,
            size=row.size,
            platform=row.platform,
            tags=tuple(tags.get(row.digest, ())),
            cached=row.cached,
            last_pull=row.last_pull,
            locked=row.locked,
        )
        for row in connection.execute(query)
    ]
