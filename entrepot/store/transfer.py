"""What an export reads from the catalog, and what an import writes to it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec
from sqlalchemy import Connection, String, cast, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from entrepot.core.reference import Digest, Repository, Tag
from entrepot.core.states import TagImport
from entrepot.store import counters, schema
from entrepot.store.database import CatalogDatabase
from entrepot.store.manifests import ReferenceKind, subject_of
from entrepot.store.records import BlobOrigin
from entrepot.store.rows import is_link

_links = schema.repository_manifests.c
_refers = schema.references.c
_tags = schema.tags.c

REFERRERS_READ = 20_000
"""Cached referrers of a repository that are read at most."""


@dataclass(frozen=True, slots=True)
class TagState:
    """The state of a tag that moves with it to another engine; times in seconds since the epoch.

    *cached* is when it was first seen to point where it points, *checked* when its source last
    confirmed that.
    """

    cached: float
    checked: float
    last_pull: float | None = None
    gone: bool = False
    locked: bool = False

    def not_after(self, now: float) -> TagState:
        """The same with times from the epoch until *now*.

        The clock of the other engine may be fast, and an archive may state anything.
        """

        def bounded(time: float) -> float:
            return max(0.0, min(time, now))

        return replace(
            self,
            cached=bounded(self.cached),
            checked=bounded(self.checked),
            last_pull=None if self.last_pull is None else bounded(self.last_pull),
        )


@dataclass(frozen=True, slots=True)
class InventoryEntry:
    """A cached blob, its size in bytes, and the source registries that gave it."""

    digest: Digest
    size: int
    origins: frozenset[BlobOrigin]


class TransferQueries(CatalogDatabase):
    """The queries of a catalog for exports and imports."""

    async def tag_state(self, repository: Repository, tag: Tag) -> tuple[Digest, TagState] | None:
        """Where a tag points, and its state; None when it is not cached."""
        query = select(schema.tags).where(_tags.repository == repository, _tags.name == tag)

        def read(connection: Connection) -> tuple[Digest, TagState] | None:
            row = connection.execute(query).one_or_none()
            if row is None:
                return None
            return Digest.parse(row.digest), TagState(
                row.cached, row.checked, row.last_pull, row.gone, row.locked
            )

        return await self._read(read)

    async def platform_of(self, repository: Repository, digest: Digest) -> str | None:
        """The platform of a repository's manifest, where it is known."""
        query = select(_links.platform).where(is_link(repository, digest))
        return await self._read(lambda connection: connection.execute(query).scalar_one_or_none())

    async def referrers_by_subject(self, repository: Repository) -> dict[Digest, list[Digest]]:
        """The cached manifests of a repository that are about another one, by that other one.

        Source: OCI image specification 1.1, "subject". At most `REFERRERS_READ`.
        """
        contents = schema.manifests.c
        query = (
            select(_links.digest, contents.content)
            .join(schema.manifests, contents.digest == _links.digest)
            .where(
                _links.repository == repository,
                func.instr(cast(contents.content, String), '"subject"') > 0,
            )
            .order_by(_links.digest)
            .limit(REFERRERS_READ)
        )

        def read(connection: Connection) -> dict[Digest, list[Digest]]:
            referrers: dict[Digest, list[Digest]] = {}
            for row in connection.execute(query):
                if (subject := subject_of(row.content)) is not None:
                    referrers.setdefault(subject, []).append(Digest.parse(row.digest))
            return referrers

        return await self._read(read, long=True)

    async def inventory_after(self, digest: Digest | None, count: int) -> list[InventoryEntry]:
        """The next *count* cached blobs after *digest*, by digest; None starts with the first."""
        query = (
            select(
                schema.blobs.c.digest,
                schema.blobs.c.size,
                select(
                    func.json_group_array(
                        func.json_array(
                            schema.blob_origins.c.login_server,
                            schema.blob_origins.c.with_credentials,
                        )
                    )
                )
                .where(schema.blob_origins.c.digest == schema.blobs.c.digest)
                .scalar_subquery()
                .label("origins"),
            )
            .order_by(schema.blobs.c.digest)
            .limit(count)
        )
        if digest is not None:
            query = query.where(schema.blobs.c.digest > str(digest))
        return await self._read(
            lambda connection: [
                InventoryEntry(
                    Digest.parse(row.digest),
                    row.size,
                    frozenset(
                        BlobOrigin(login_server, bool(with_credentials))
                        for login_server, with_credentials in msgspec.json.decode(
                            row.origins, type=list[tuple[str, int]]
                        )
                    ),
                )
                for row in connection.execute(query)
            ]
        )

    async def import_tag(
        self, repository: Repository, tag: Tag, digest: Digest, state: TagState
    ) -> TagImport:
        """Point a tag at a cached manifest, with the state that it had at another engine.

        A tag that was checked later here stays as it is, and one that points here at an index which
        lists *digest*: docker's archives have one platform of it. A lock here stays too.
        """
        async with self._change() as connection:
            return await _import_tag(connection, repository, tag, str(digest), state)


async def _import_tag(
    connection: AsyncConnection, repository: Repository, tag: Tag, digest: str, state: TagState
) -> TagImport:
    if (
        await connection.execute(select(1).where(is_link(repository, Digest.parse(digest))))
    ).first() is None:
        return TagImport.WITHOUT_MANIFEST
    is_tag = (_tags.repository == repository) & (_tags.name == tag)
    row = (await connection.execute(select(schema.tags).where(is_tag))).one_or_none()
    values = {
        "digest": digest,
        "cached": state.cached,
        "checked": state.checked,
        "last_pull": state.last_pull,
        "gone": state.gone,
        "locked": state.locked,
    }
    if row is None:
        await connection.execute(
            insert(schema.tags).values(repository=repository, name=tag, **values)
        )
        await counters.add_tags(connection, repository, 1)
        return TagImport.IMPORTED
    if row.checked > state.checked:
        return TagImport.UNCHANGED if row.digest == digest else TagImport.NEWER_HERE
    lists_digest = select(1).where(
        _refers.manifest == row.digest,
        _refers.kind == ReferenceKind.MANIFEST,
        _refers.digest == digest,
    )
    if (await connection.execute(lists_digest.limit(1))).first() is not None:
        return TagImport.INDEX_HERE
    pulls = [time for time in (row.last_pull, state.last_pull) if time is not None]
    values |= {
        "last_pull": max(pulls, default=None),
        "locked": row.locked or state.locked,
        "cached": min(row.cached, state.cached) if row.digest == digest else state.cached,
    }
    await connection.execute(update(schema.tags).where(is_tag).values(**values))
    return TagImport.UNCHANGED if row.digest == digest else TagImport.MOVED
