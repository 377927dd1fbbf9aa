"""The catalog: repositories, tags, manifests and the blobs that they refer to.

SQLite through SQLAlchemy Core. The manifests themselves are stored here, byte for byte as they came
(a few kilobytes each), so that a tag, its manifest and the references appear together or not at
all. Whether a blob is cached is decided by its file (`entrepot.store.blobs`); the rows here only
know its size, its origins and its last use.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from entrepot.core.reference import Digest, Repository, Tag
from entrepot.store import counters, schema
from entrepot.store.blob_walk import BlobSlice
from entrepot.store.catalog_removals import CatalogRemovals
from entrepot.store.database import frees_space
from entrepot.store.listings import ContentListings
from entrepot.store.lookups import Lookup, TagTarget, read_blob, read_manifest, read_tag
from entrepot.store.manifests import Descriptor, Manifest
from entrepot.store.reconciliation import (
    Reconciled,
    RemoveDamaged,
    StatSize,
    read_differences,
    resolve_differences,
)
from entrepot.store.records import (
    BlobOrigin,
    BlobRecord,
    TagEntry,
)
from entrepot.store.referrer_lists import ReferrerLists
from entrepot.store.removal import (
    delete_links,
)
from entrepot.store.repository_listings import RepositoryListings
from entrepot.store.rows import insert_missing, is_link, reference_rows
from entrepot.store.tag_contents import (
    RepositoryContents,
    TagContents,
    read_repository_contents,
    read_tag_contents,
)
from entrepot.store.transfer import TransferQueries
from entrepot.store.usage import Usage, write_usage

ROWS_ON_LOOP = 200
"""Rows that are prepared on the event loop: that takes less time than to start a thread."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Locks:
    """What of a repository may not be deleted: all of it, or some tags and manifests."""

    repository: bool
    tags: frozenset[Tag]
    manifests: frozenset[Digest]


class Catalog(RepositoryListings, ContentListings, CatalogRemovals, TransferQueries, ReferrerLists):
    """The catalog of one engine: its database with the queries."""

    async def tag(self, repository: Repository, tag: Tag) -> TagEntry | None:
        """Where a tag points; None when it is not cached."""
        target = (await self.lookup_tag(repository, tag)).value
        return target.entry if target is not None else None

    async def lookup_tag(self, repository: Repository, tag: Tag) -> Lookup[TagTarget]:
        """Look up where a tag points, and the manifest there."""
        return await self._read(lambda connection: read_tag(connection, repository, tag))

    async def lookup_manifest(self, repository: Repository, digest: Digest) -> Lookup[Manifest]:
        """Look up a manifest of a repository.

        It has the media type that the source of the repository gave.
        """
        return await self._read(lambda connection: read_manifest(connection, repository, digest))

    async def lookup_blob(self, repository: Repository, digest: Digest) -> Lookup[Descriptor]:
        """Look up a blob to which manifests of a repository refer, cached or not."""
        return await self._read(lambda connection: read_blob(connection, repository, digest))

    async def manifest(
        self, digest: Digest, repository: Repository | None = None
    ) -> Manifest | None:
        """A manifest's bytes; None when it is not cached.

        With *repository*, only when it belongs to it, and with the media type that its source gave.
        Without, the media type is that of the source that sent the bytes first; no client may
        see it.
        """
        content, links = schema.manifests.c, schema.repository_manifests.c
        query = select(content.content, content.media_type).where(content.digest == str(digest))
        if repository is not None:
            links_query = select(content.content, links.media_type).join(
                schema.repository_manifests, links.digest == content.digest
            )
            query = links_query.where(is_link(repository, digest))

        def read(connection: Connection) -> Manifest | None:
            row = connection.execute(query).one_or_none()
            return Manifest.of(row.content, row.media_type, digest) if row else None

        return await self._read(read)

    async def manifests_of(
        self, repository: Repository, among: Collection[Digest] | None = None
    ) -> frozenset[Digest]:
        """The manifests that belong to a repository: all of them, or those *among* some."""
        links = schema.repository_manifests.c
        query = select(links.digest).where(links.repository == repository)
        queries = (
            [query]
            if among is None
            else [
                query.where(links.digest.in_(chunk))
                for chunk in schema.chunks([str(digest) for digest in among])
            ]
        )
        return await self._read(
            lambda connection: frozenset(
                Digest.parse(text)
                for query in queries
                for text in connection.execute(query).scalars()
            )
        )

    async def latest_image_with(self, repository: Repository, blob: Digest) -> Digest | None:
        """The latest image manifest of a repository that refers to a blob."""
        query = (
            select(schema.repository_manifests.c.digest)
            .join(
                schema.references,
                schema.references.c.manifest == schema.repository_manifests.c.digest,
            )
            .where(
                schema.repository_manifests.c.repository == repository,
                schema.references.c.digest == str(blob),
            )
            .order_by(schema.repository_manifests.c.cached.desc())
            .limit(1)
        )
        text = await self._read(lambda connection: connection.execute(query).scalar_one_or_none())
        return Digest.parse(text) if text is not None else None

    async def tag_contents(self, repository: Repository, tag: Tag) -> TagContents | None:
        """The contents of a tag, and what else needs them; None when the tag is not cached."""
        return await self._read(
            lambda connection: read_tag_contents(connection, repository, tag), long=True
        )

    async def repository_contents(self, repository: Repository, limit: int) -> RepositoryContents:
        """The contents of a repository, and how much of them other repositories need too.

        At most *limit* tags are named.
        """
        return await self._read(
            lambda connection: read_repository_contents(connection, repository, limit), long=True
        )

    async def blobs_size(self) -> int:
        """Bytes of all cached blobs."""
        query = select(func.coalesce(func.sum(schema.blobs.c.size), 0))
        return await self._read(
            lambda connection: int(connection.execute(query).scalar_one()), long=True
        )

    async def add_manifest(
        self,
        repository: Repository,
        source: str,
        manifest: Manifest,
        *,
        platform: str | None = None,
        tags: Iterable[Tag] = (),
        now: float,
    ) -> None:
        """Insert a manifest with its references, and link it to a repository.

        Points *tags* at it. All of it or nothing is written.
        """
        digest = str(manifest.digest)
        # A large manifest has thousands of rows: they are prepared before the transaction, and not
        # on the event loop (S23).
        is_small = len(manifest.references) <= ROWS_ON_LOOP
        references = (
            reference_rows(manifest)
            if is_small
            else await asyncio.to_thread(reference_rows, manifest)
        )
        async with self._change() as connection:
            await insert_missing(
                connection,
                schema.repositories,
                {"name": repository},
                {"source": source, "created": now, "pulls": 0},
            )
            if await insert_missing(
                connection,
                schema.manifests,
                {"digest": digest},
                {"media_type": manifest.media_type, "content": manifest.content},
            ):
                for chunk in schema.chunks(references):
                    await connection.execute(insert(schema.references), chunk)
            if platform is None:
                platform = (
                    await connection.execute(_named_platform(repository, digest))
                ).scalar_one_or_none()
            key = {"repository": repository, "digest": digest}
            values = {"platform": platform, "cached": now, "media_type": manifest.media_type}
            if await insert_missing(connection, schema.repository_manifests, key, values):
                await counters.add_manifest(connection, repository, manifest)
            else:
                # The media type is what the source of this repository says now; another source may
                # say something else of the same bytes.
                has_other_type = is_link(repository, manifest.digest) & (
                    schema.repository_manifests.c.media_type != manifest.media_type
                )
                await connection.execute(
                    update(schema.repository_manifests)
                    .where(has_other_type)
                    .values(media_type=manifest.media_type)
                )
            needed = select(schema.references.c.digest).where(
                schema.references.c.manifest == digest
            )
            adopted = schema.blobs.c.adopted.is_not(None) & schema.blobs.c.digest.in_(needed)
            await connection.execute(update(schema.blobs).where(adopted).values(adopted=None))
            for tag in tags:
                await _point_tag(connection, repository, tag, digest, now)

    async def point_tag(
        self, repository: Repository, tag: Tag, digest: Digest, *, now: float
    ) -> bool:
        """Point a tag at a cached manifest of the repository, as its source says.

        False when the manifest is no longer cached there.
        """
        moved = True
        try:
            async with self._write() as connection:
                if (
                    await connection.execute(select(1).where(is_link(repository, digest)))
                ).first() is None:
                    return False
                moved = await _point_tag(connection, repository, tag, str(digest), now)
        finally:
            # Mostly it points there already, and no listing of repositories shows when a tag was
            # checked.
            self.changes += moved
            self.confirmations += not moved
        return True

    async def mark_tag_gone(self, repository: Repository, tag: Tag, *, now: float) -> None:
        """Record that the source no longer has a tag; it stays, and is still served."""
        async with self._change() as connection:
            await connection.execute(
                update(schema.tags)
                .where(schema.tags.c.repository == repository, schema.tags.c.name == tag)
                .values(gone=True, checked=now)
            )

    async def set_platform(self, repository: Repository, digest: Digest, platform: str) -> None:
        """Record the platform of an image, which its config states."""
        async with self._change() as connection:
            await connection.execute(
                update(schema.repository_manifests)
                .where(is_link(repository, digest))
                .values(platform=platform)
            )

    async def add_blob(
        self, digest: Digest, size: int, *, now: float, origin: BlobOrigin | None = None
    ) -> bool:
        """Record a cached blob of *size* verified bytes, and its *origin*.

        False when the blob had a row already.
        """
        async with self._change() as connection:
            has_digest = schema.blobs.c.digest == str(digest)
            recorded_size = (
                await connection.execute(select(schema.blobs.c.size).where(has_digest))
            ).scalar_one_or_none()
            if recorded_size is None:
                await connection.execute(
                    insert(schema.blobs).values(
                        digest=str(digest), size=size, cached=now, last_used=now
                    )
                )
                await counters.add_blob(connection, digest, size)
            elif recorded_size != size:
                # The row was inserted for a damaged file; the verified size is right.
                await connection.execute(update(schema.blobs).where(has_digest).values(size=size))
                await counters.recount_with_blobs(connection, {str(digest)})
            if origin is not None:
                await _add_origin(connection, digest, origin)
        return recorded_size is None

    async def add_blob_origin(self, digest: Digest, origin: BlobOrigin) -> None:
        """Record that another source registry has the bytes of a cached blob.

        Does nothing when the blob was removed meanwhile.
        """
        async with self._write() as connection:
            if (
                await connection.execute(select(1).where(schema.blobs.c.digest == str(digest)))
            ).first() is not None:
                await _add_origin(connection, digest, origin)

    async def blob(self, digest: Digest) -> BlobRecord | None:
        """The size and the origins of a cached blob; None where it has no row."""
        origins = schema.blob_origins.c
        query = (
            select(schema.blobs.c.size, origins.login_server, origins.with_credentials)
            .join(schema.blob_origins, origins.digest == schema.blobs.c.digest, isouter=True)
            .where(schema.blobs.c.digest == str(digest))
        )
        rows = await self._read(lambda connection: connection.execute(query).all())
        if not rows:
            return None
        return BlobRecord(
            rows[0].size,
            frozenset(
                BlobOrigin(row.login_server, row.with_credentials)
                for row in rows
                if row.login_server is not None
            ),
        )

    async def blobs_after(self, digest: Digest | None, count: int) -> list[tuple[Digest, int]]:
        """The next *count* cached blobs after *digest*, by digest, with their sizes.

        None starts with the first one.
        """
        query = (
            select(schema.blobs.c.digest, schema.blobs.c.size)
            .order_by(schema.blobs.c.digest)
            .limit(count)
        )
        if digest is not None:
            query = query.where(schema.blobs.c.digest > str(digest))
        return await self._read(
            lambda connection: [
                (Digest.parse(row.digest), row.size) for row in connection.execute(query)
            ]
        )

    async def blobs_count(self) -> int:
        """How many blobs are cached."""
        query = select(func.count()).select_from(schema.blobs)
        return await self._read(lambda connection: int(connection.execute(query).scalar_one()))

    async def remove_blob(self, digest: Digest) -> int:
        """Delete the row of a blob whose file is gone.

        Returns the row's size, 0 without one.
        """
        async with self._change() as connection:
            has_digest = schema.blobs.c.digest == str(digest)
            size = (
                await connection.execute(select(schema.blobs.c.size).where(has_digest))
            ).scalar_one_or_none()
            if size is None:
                return 0
            await connection.execute(delete(schema.blobs).where(has_digest))
            await counters.recount_with_blobs(connection, {str(digest)})
        return int(size)

    async def record_usage(self, usage: Usage) -> None:
        """Write what was used since the last call.

        Called at intervals, not for each request.
        """
        for watch in self._watches:
            watch.record(usage)
        async with self._change(changes=False, uses=True) as connection:
            await write_usage(connection, usage)

    async def rule_requests(self) -> dict[str, tuple[int, int]]:
        """By the rule's name: manifests that clients got, and requests for them to sources."""
        query = select(schema.rule_requests)
        return await self._read(
            lambda connection: {
                row.rule: (row.answered, row.made) for row in connection.execute(query)
            }
        )

    async def delete_rule_requests(self, rule: str) -> None:
        """Delete the counts of a deleted rule: a new rule of this name starts at zero."""
        async with self._change(changes=False, uses=True) as connection:
            await connection.execute(
                delete(schema.rule_requests).where(schema.rule_requests.c.rule == rule)
            )

    async def traffic(self) -> dict[int, tuple[int, ...]]:
        """Traffic of each time step, by its start in seconds since the epoch.

        The counts are hits, misses, bytes served, bytes from sources and requests saved.
        """
        query = select(schema.activity)
        return await self._read(
            lambda connection: {row[0]: tuple(row[1:]) for row in connection.execute(query)}
        )

    async def record_traffic(self, steps: Mapping[int, tuple[int, ...]], *, since: int) -> None:
        """Replace the traffic of some time steps.

        Deletes steps that began before *since*.
        """
        names = [column.name for column in schema.activity.columns]
        async with self._write() as connection:
            replaced = schema.activity.c.began < since
            if steps:
                replaced |= schema.activity.c.began.in_(list(steps))
            await connection.execute(delete(schema.activity).where(replaced))
            if steps:
                await connection.execute(
                    insert(schema.activity),
                    [
                        dict(zip(names, (began, *counts), strict=True))
                        for began, counts in steps.items()
                    ],
                )

    async def ended_pulls(self, count: int) -> list[tuple[int, bytes]]:
        """The records of the pulls that ended last, by number, the oldest first."""
        pulls = schema.ended_pulls.c
        query = (
            select(pulls.number, pulls.snapshot)
            .order_by(pulls.ended.desc(), pulls.number.desc())
            .limit(count)
        )
        return await self._read(
            lambda connection: [
                (row.number, row.snapshot) for row in reversed(connection.execute(query).all())
            ]
        )

    async def ended_pull(self, number: int) -> bytes | None:
        """The record of an ended pull; None without one."""
        query = select(schema.ended_pulls.c.snapshot).where(schema.ended_pulls.c.number == number)
        return await self._read(lambda connection: connection.execute(query).scalar_one_or_none())

    async def last_ended_pull(self) -> int:
        """The largest number of an ended pull; 0 without one."""
        query = select(func.coalesce(func.max(schema.ended_pulls.c.number), 0))
        return await self._read(lambda connection: int(connection.execute(query).scalar_one()))

    async def record_ended_pulls(
        self, pulls: Mapping[int, tuple[float, bytes]], *, keep: int, since: float
    ) -> None:
        """Write records of ended pulls, each with the time of its end.

        Only the newest *keep* records stay, and none of a pull that ended before *since*.
        """
        table = schema.ended_pulls
        newest = (
            select(table.c.number).order_by(table.c.ended.desc(), table.c.number.desc()).limit(keep)
        )
        async with self._write() as connection:
            for chunk in schema.chunks(list(pulls)):
                await connection.execute(delete(table).where(table.c.number.in_(chunk)))
            rows = [
                {"number": number, "ended": ended, "snapshot": content}
                for number, (ended, content) in pulls.items()
            ]
            await connection.execute(insert(table), rows)
            await connection.execute(
                delete(table).where((table.c.ended < since) | table.c.number.not_in(newest))
            )

    @frees_space
    async def delete_tag(self, repository: Repository, tag: Tag) -> bool:
        """Delete a tag; its manifests stay until they or the repository are deleted.

        False without such a tag.
        """
        async with self._change() as connection:
            result = await connection.execute(
                delete(schema.tags).where(
                    schema.tags.c.repository == repository, schema.tags.c.name == tag
                )
            )
            await counters.add_tags(connection, repository, -result.rowcount)
        return bool(result.rowcount)

    @frees_space
    async def delete_manifest(self, repository: Repository, digest: Digest) -> bool:
        """Delete a manifest of a repository and the tags that point at it.

        False without such a manifest.
        """
        async with self._change(uses=True) as connection:
            has_link = await connection.execute(select(1).where(is_link(repository, digest)))
            was_there = has_link.first() is not None
            await connection.run_sync(delete_links, {(repository, digest)})
        return was_there

    @frees_space
    async def delete_repository(self, repository: Repository) -> bool:
        """Delete a repository with its tags and manifests; False without such a repository."""
        async with self._change(uses=True) as connection:
            # As a cascade, a row after the other, these two take much longer.
            for table in (schema.tags, schema.repository_manifests):
                await connection.execute(delete(table).where(table.c.repository == repository))
            result = await connection.execute(
                delete(schema.repositories).where(schema.repositories.c.name == repository)
            )
        return bool(result.rowcount)

    # Locks

    async def lock_repository(self, repository: Repository, locked: bool) -> bool:
        """Lock or unlock a repository with all its contents.

        False without such a repository.
        """
        return await self._update(
            update(schema.repositories)
            .where(schema.repositories.c.name == repository)
            .values(locked=locked)
        )

    async def lock_tag(self, repository: Repository, tag: Tag, locked: bool) -> bool:
        """Lock or unlock a tag; False without such a tag."""
        return await self._update(
            update(schema.tags)
            .where(schema.tags.c.repository == repository, schema.tags.c.name == tag)
            .values(locked=locked)
        )

    async def lock_manifest(self, repository: Repository, digest: Digest, locked: bool) -> bool:
        """Lock or unlock a manifest of a repository; False without such a manifest."""
        return await self._update(
            update(schema.repository_manifests)
            .where(is_link(repository, digest))
            .values(locked=locked)
        )

    @frees_space
    async def _update(self, statement: Any) -> bool:
        """Execute a statement; returns whether it changed a row."""
        async with self._change() as connection:
            result: Any = await connection.execute(statement)
        return bool(result.rowcount)

    async def locks(self, repository: Repository) -> Locks:
        """The locks of a repository."""
        whole = select(schema.repositories.c.locked).where(schema.repositories.c.name == repository)
        tags = select(schema.tags.c.name).where(
            schema.tags.c.repository == repository, schema.tags.c.locked
        )
        links = schema.repository_manifests.c
        manifests = select(links.digest).where(links.repository == repository, links.locked)
        return await self._read(
            lambda connection: Locks(
                repository=bool(connection.execute(whole).scalar_one_or_none()),
                tags=frozenset(Tag(name) for name in connection.execute(tags).scalars()),
                manifests=frozenset(
                    Digest.parse(text) for text in connection.execute(manifests).scalars()
                ),
            )
        )

    async def reconcile(
        self,
        blobs: BlobSlice,
        *,
        now: float,
        stat_size: StatSize,
        remove_damaged: RemoveDamaged = lambda _digest, _size: False,
    ) -> Reconciled:
        """Make the rows of a slice of blobs agree with their files.

        Nothing is written where they agree. See
        `entrepot.store.reconciliation.resolve_differences`.
        """
        differences = await self._read(
            lambda connection: read_differences(connection, blobs), long=True
        )
        reconciled = Reconciled()
        for part in differences.parts():
            async with self._change() as connection:
                reconciled += await resolve_differences(
                    connection, part, now=now, stat_size=stat_size, remove_damaged=remove_damaged
                )
        return reconciled


async def _add_origin(connection: AsyncConnection, digest: Digest, origin: BlobOrigin) -> None:
    key = {"digest": str(digest), "login_server": origin.login_server}
    if (
        not await insert_missing(
            connection, schema.blob_origins, key, {"with_credentials": origin.with_credentials}
        )
        and not origin.with_credentials
    ):
        matches_key = [schema.blob_origins.c[name] == value for name, value in key.items()]
        await connection.execute(
            update(schema.blob_origins).where(*matches_key).values(with_credentials=False)
        )


def _named_platform(repository: Repository, digest: str) -> Any:
    """The platform that an earlier index of the same repository names for a manifest.

    An index of another repository does not count.
    """
    links, refers = schema.repository_manifests.c, schema.references.c
    return (
        select(refers.platform)
        .join(schema.repository_manifests, links.digest == refers.manifest)
        .where(
            refers.digest == digest, refers.platform.is_not(None), links.repository == repository
        )
        .limit(1)
    )


async def _point_tag(
    connection: AsyncConnection, repository: Repository, tag: Tag, digest: str, now: float
) -> bool:
    """Point a tag at a manifest.

    Returns whether the tag is new, moved, or was gone at its source.
    """
    is_tag = (schema.tags.c.repository == repository) & (schema.tags.c.name == tag)
    row = (
        await connection.execute(select(schema.tags.c.digest, schema.tags.c.gone).where(is_tag))
    ).one_or_none()
    if row is None:
        await connection.execute(
            insert(schema.tags).values(
                repository=repository, name=tag, digest=digest, cached=now, checked=now, gone=False
            )
        )
        await counters.add_tags(connection, repository, 1)
        return True
    if row.digest == digest:
        await connection.execute(update(schema.tags).where(is_tag).values(checked=now, gone=False))
        return bool(row.gone)
    await connection.execute(
        update(schema.tags).where(is_tag).values(digest=digest, cached=now, checked=now, gone=False)
    )
    return True
