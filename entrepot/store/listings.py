"""The tags and manifests of a repository, as a listing shows them.

Each method is one query of one page, and prepares no more rows than it returns: what is behind a
tag is added up within SQLite.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import msgspec
from sqlalchemy import Connection, Integer, String, func, literal_column, select

from entrepot.core.artifact_kinds import AN_IMAGE, ArtifactKind
from entrepot.core.pages import ListOrder, Page
from entrepot.core.reference import Digest, Repository, Tag
from entrepot.store import schema
from entrepot.store.artifact_kinds import ArtifactKinds
from entrepot.store.database import CatalogDatabase
from entrepot.store.inventory import digest_of_row
from entrepot.store.manifests import ReferenceKind
from entrepot.store.paging import page_of
from entrepot.store.records import CachedManifest, CachedTag, ListedTag, TagEntry
from entrepot.store.rows import is_link, tag_entry

_tags = schema.tags.c
_links = schema.repository_manifests.c

_is_target = (_links.repository == _tags.repository) & (_links.digest == _tags.digest)

_ALL = Page()
_OLDEST_FIRST = Page(order=ListOrder.OLDEST)

# An index leads to its children that are cached in this repository; an image manifest leads to
# itself. A row of ``tags`` of the enclosing query is the start.
_REACHED = f"""
    WITH RECURSIVE reached(digest) AS (
        SELECT tags.digest
        UNION
        SELECT child.digest FROM reached
        JOIN manifest_references AS child
            ON child.manifest = reached.digest AND child.kind = '{ReferenceKind.MANIFEST.value}'
        JOIN repository_manifests AS link
            ON link.repository = tags.repository AND link.digest = child.digest
    )"""

_OF_REPOSITORY = """
    reached JOIN repository_manifests AS own
        ON own.repository = tags.repository AND own.digest = reached.digest"""

_BLOBS_SIZE = f"""(
    {_REACHED}
    SELECT coalesce(sum(size), 0) FROM blobs WHERE digest IN (
        SELECT needed.digest FROM {_OF_REPOSITORY}
        JOIN manifest_references AS needed ON needed.manifest = own.digest
    ))"""

_MANIFESTS_SIZE = f"""(
    {_REACHED}
    SELECT coalesce(sum(length(content)), 0) FROM {_OF_REPOSITORY}
    JOIN manifests ON manifests.digest = own.digest)"""

_PLATFORMS = f"""(
    {_REACHED}
    SELECT json_group_array(DISTINCT own.platform) FROM {_OF_REPOSITORY}
    WHERE own.platform <> '' AND EXISTS (
        SELECT 1 FROM manifest_references AS needed
        JOIN blobs ON blobs.digest = needed.digest
        WHERE needed.manifest = own.digest
    ))"""

# A tag has no blank.
_TAGS_OF_MANIFEST = """(
    SELECT group_concat(tags.name, ' ') FROM tags
    WHERE tags.repository = repository_manifests.repository
        AND tags.digest = repository_manifests.digest)"""


class ContentListings(CatalogDatabase):
    """The queries of a catalog about the tags and manifests of a repository."""

    @cached_property
    def _kinds(self) -> ArtifactKinds:
        return ArtifactKinds()

    async def tag(self, repository: Repository, tag: Tag) -> TagEntry | None:
        """Where a tag points; None when it is not cached."""
        listed = await self.listed_tag(repository, tag)
        return listed.entry if listed is not None else None

    async def listed_tag(self, repository: Repository, tag: Tag) -> ListedTag | None:
        """A tag without what is behind it; None when it is not cached."""
        query = select(schema.tags).where(_tags.repository == repository, _tags.name == tag)

        def read(connection: Connection) -> ListedTag | None:
            row = connection.execute(query).one_or_none()
            return _listed_tag(row) if row is not None else None

        return await self._read(read)

    async def tag_names(
        self, repository: Repository, *, after: str | None = None, limit: int | None = None
    ) -> list[str]:
        """The names of a repository's tags in order, at most *limit* of them.

        With *after*, only the names behind that one.
        """
        query = (
            select(_tags.name)
            .where(_tags.repository == repository)
            .order_by(_tags.name)
            .limit(limit)
        )
        if after is not None:
            query = query.where(_tags.name > after)
        return await self._read(lambda connection: list(connection.execute(query).scalars()))

    async def listed_tags(
        self, repository: Repository, page: Page, *, digest: Digest | None = None
    ) -> list[ListedTag]:
        """A page of a repository's tags, without what is behind each.

        With *digest*, only those that point there.
        """
        query = _tags_query(select(schema.tags), repository, page)
        if digest is not None:
            query = query.where(_tags.digest == str(digest))
        return await self._read(
            lambda connection: [_listed_tag(row) for row in connection.execute(query)]
        )

    async def tags(self, repository: Repository, page: Page = _ALL) -> list[CachedTag]:
        """A page of a repository's tags, with the size and platforms cached behind each."""
        columns = select(
            schema.tags,
            _links.media_type,
            literal_column(_BLOBS_SIZE, Integer).label("blobs_size"),
            literal_column(_MANIFESTS_SIZE, Integer).label("manifests_size"),
            literal_column(_PLATFORMS, String).label("platforms"),
        )
        query = _tags_query(
            columns.join(schema.repository_manifests, _is_target, isouter=True), repository, page
        )

        def read(connection: Connection) -> list[CachedTag]:
            rows = connection.execute(query).all()
            kinds = self._kinds.read(
                connection, {(row.digest, row.media_type) for row in rows if row.media_type}
            )
            return [_cached_tag(row, kinds.get((row.digest, row.media_type))) for row in rows]

        return await self._read(read, long=page.limit is None)

    async def manifests(
        self, repository: Repository, page: Page = _OLDEST_FIRST
    ) -> list[CachedManifest]:
        """A page of a repository's manifests, whose names are their digests, with their tags."""
        query = page_of(
            _manifests_query(),
            page,
            _links.repository == repository,
            name=_links.digest,
            time=_links.cached,
        )
        return await self._read(
            lambda connection: [_cached_manifest(row) for row in connection.execute(query)],
            long=page.limit is None,
        )

    async def names_in(self, repository: Repository) -> tuple[list[Digest], list[Tag]]:
        """The manifests of a repository and the tags that point at them, the oldest first."""
        digests = (
            select(_links.digest)
            .where(_links.repository == repository)
            .order_by(_links.cached, _links.digest)
        )
        tags = (
            select(_tags.name)
            .join(
                schema.repository_manifests,
                (_links.repository == _tags.repository) & (_links.digest == _tags.digest),
            )
            .where(_tags.repository == repository)
            .order_by(_tags.cached, _tags.name)
        )
        return await self._read(
            lambda connection: (
                list(map(digest_of_row, connection.execute(digests).scalars())),
                list(map(Tag, connection.execute(tags).scalars())),
            ),
            long=True,
        )

    async def listed_manifest(
        self, repository: Repository, digest: Digest
    ) -> CachedManifest | None:
        """A manifest of a repository, as a listing shows it; None when it is not cached."""
        query = _manifests_query().where(is_link(repository, digest))

        def read(connection: Connection) -> CachedManifest | None:
            row = connection.execute(query).one_or_none()
            return _cached_manifest(row) if row is not None else None

        return await self._read(read)


def _tags_query(columns: Any, repository: Repository, page: Page) -> Any:
    return page_of(
        columns, page, _tags.repository == repository, name=_tags.name, time=_tags.cached
    )


def _manifests_query() -> Any:
    return select(
        schema.repository_manifests,
        func.length(schema.manifests.c.content).label("size"),
        literal_column(_TAGS_OF_MANIFEST, String).label("tags"),
    ).join(schema.manifests, schema.manifests.c.digest == _links.digest)


def _listed_tag(row: Any) -> ListedTag:
    return ListedTag(Tag(row.name), tag_entry(row), row.locked)


def _cached_tag(row: Any, kind: ArtifactKind | None) -> CachedTag:
    return CachedTag(
        name=Tag(row.name),
        entry=tag_entry(row),
        last_pull=row.last_pull,
        platforms=tuple(sorted(msgspec.json.decode(row.platforms, type=list[str]))),
        size=row.blobs_size + row.manifests_size,
        locked=row.locked,
        kind=kind or AN_IMAGE,
    )


def _cached_manifest(row: Any) -> CachedManifest:
    return CachedManifest(
        digest=Digest.parse(row.digest),
        media_type=row.media_type,
        size=row.size,
        platform=row.platform,
        tags=tuple(sorted(map(Tag, (row.tags or "").split()))),
        cached=row.cached,
        last_pull=row.last_pull,
        locked=row.locked,
    )
