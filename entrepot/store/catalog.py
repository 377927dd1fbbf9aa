"""What is known about the cache: repositories, tags, manifests and the blobs that they refer to.

SQLite through SQLAlchemy Core. The manifests themselves live here, byte for byte as they came (a
few kilobytes each), so that a tag, its manifest and what it refers to appear together or not at
all. Whether a blob is held is the file system's to say (`entrepot.store.blobs`); the rows here only
know its size and its last use.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Table,
    bindparam,
    delete,
    event,
    exists,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from entrepot.core.reference import Digest, Repository, Tag
from entrepot.store import counters, schema
from entrepot.store.connections import (
    READ_TIMEOUT,
    CatalogHealth,
    CatalogOperation,
    Readers,
    Reason,
    WriterThreads,
    set_up,
)
from entrepot.store.connections import CatalogFailed as CatalogFailed
from entrepot.store.disk_reserve import DiskReserve
from entrepot.store.eviction import (
    ADOPTED_STAYS,
    EvictionPlan,
    Inventory,
    InventoryBlob,
    InventoryManifest,
    PlannedImage,
    confirm,
)
from entrepot.store.manifests import Descriptor, Manifest, ReferenceKind
from entrepot.store.opening import Opening, open_file, open_for_writing
from entrepot.store.records import BlobOrigin as BlobOrigin
from entrepot.store.records import BlobRecord as BlobRecord
from entrepot.store.records import CachedManifest as CachedManifest
from entrepot.store.records import CachedRepository as CachedRepository
from entrepot.store.records import CachedTag as CachedTag
from entrepot.store.records import TagEntry as TagEntry
from entrepot.store.rows import reference_rows, stated_size
from entrepot.store.tag_contents import (
    RepositoryContents,
    TagContents,
    read_repository_contents,
    read_tag_contents,
)

ROWS_ON_LOOP = 200
"""Rows that are prepared without a thread: it takes less time than to begin one."""

FREE_BYTES_KEPT = 2**20
"""Bytes of free pages that stay in the file for what comes next."""

PAGES_AT_ONCE = 500
"""Free pages that are given back in one transaction."""

WRITTEN_ANEW = 16 * 2**20
"""Bytes of free pages from which on a catalog of an earlier version is written anew."""

LOG_KEPT = 8 * 2**20
"""Bytes of the write-ahead log from which on it is cut."""

REOPENING_ATTEMPTS = 5
"""Attempts to open for writing what can be written again, in one round."""

REOPENING_INTERVAL = 0.2
"""Seconds between two of them."""

WRITE_STALLED = 30.0
"""Seconds after which a write under way counts as one that hangs: the eviction of some hundred
images takes some."""

T = TypeVar("T")
P = ParamSpec("P")

_log = logging.getLogger("entrepot.catalog")


@dataclass(frozen=True, slots=True)
class Usage:
    """What was used since the last `Catalog.record_usage`."""

    pulls: Mapping[Repository, tuple[int, float]]
    tags: Mapping[tuple[Repository, Tag], float]
    manifests: Mapping[tuple[Repository, Digest], float]
    blobs: Mapping[Digest, float]
    seen: Mapping[tuple[Repository, Digest], float] = field(default_factory=dict)
    """Manifests of which a client only asked whether they are there (HEAD): a use, and no pull."""
    requests: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """By the name of the rule: manifests that clients got, and requests for them that the source
    got."""


@dataclass(frozen=True, slots=True)
class Locks:
    """What of a repository may not be deleted: all of it, or some tags and manifests."""

    repository: bool
    tags: frozenset[Tag]
    manifests: frozenset[Digest]


@dataclass(frozen=True, slots=True)
class Evicted:
    """What an eviction removed.

    *freed* is in bytes, *deferred* the number of blobs that could not be removed yet because a
    reader may still open them.
    """

    images: tuple[PlannedImage, ...]
    manifests: frozenset[tuple[Repository, Digest]]
    """Of the images, and the indexes and empty manifests that went along."""
    freed: int
    deferred: int


def frees_space(
    operation: Callable[Concatenate[Catalog, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Catalog, P], Coroutine[Any, Any, T]]:
    """Try an operation that makes room, or leads to it, once more with the reserve where the disk
    is full (S19)."""

    @wraps(operation)
    async def with_reserve(catalog: Catalog, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await operation(catalog, *args, **kwargs)
        except CatalogFailed as error:
            if catalog.refusal is not None or error.reason not in {Reason.FULL, Reason.OTHER}:
                raise
            if not await asyncio.to_thread(DiskReserve(catalog.path).release):
                raise
        return await operation(catalog, *args, **kwargs)

    return with_reserve


class Catalog:
    """The catalog of one engine. Reads run side by side; writes wait for each other here and not in
    the database."""

    def __init__(self, path: Path, opening: Opening, clock: Callable[[], float]) -> None:
        self.path = path
        self.is_checked = opening.is_checked
        """Whether the start has looked at all of the file for damage."""
        self.health = CatalogHealth()
        """What fails at the moment, and what was done about a catalog that was damaged."""
        self._connect(opening)
        self._clock = clock
        self._writing = asyncio.Lock()
        self._write_began: float | None = None
        """When the write under way began, by the monotonic clock."""
        self.changes = 0
        """Counts what was written that a listing of repositories or tags shows, but for their use."""
        self.uses = 0
        """Counts what was written that changes how often a repository or rule was used."""

    @classmethod
    @asynccontextmanager
    async def open(
        cls, path: Path, *, clock: Callable[[], float] = time.time
    ) -> AsyncIterator[Catalog]:
        """Open the catalog in the file *path*, making it when it is not there; raises `EngineError`
        when it can't be used.

        *clock* is in seconds since the epoch.
        """
        opening = await asyncio.to_thread(open_file, path, now=clock())
        catalog = cls(path, opening, clock)
        try:
            yield catalog
        finally:
            await catalog._close()

    def _connect(self, opening: Opening) -> None:
        self._opening = opening
        self.refusal = opening.refusal
        """Why nothing can be written for now: the catalog was opened for reading only."""
        self._engine = create_async_engine(opening.url("sqlite+aiosqlite"))
        self._writers = WriterThreads()
        event.listen(self._engine.sync_engine, "connect", self._writers.watch)
        event.listen(self._engine.sync_engine, "connect", set_up(opening.pragmas))
        event.listen(self._engine.sync_engine, "handle_error", self.health.record_failed_write)
        # SQLite's connections of one process share the index of the log (-shm): while one that can
        # only read has it open, none can write.
        self._readers = Readers(
            opening.url("sqlite"), opening.pragmas, self.health, stays_open=opening.refusal is None
        )
        self.health.notices += tuple(opening.told)
        if opening.refusal is not None:
            self.health.failed[CatalogOperation.WRITING] = opening.refusal

    async def _close(self) -> None:
        await self._readers.close()
        await self._engine.dispose()
        await self._writers.end()
        self._opening.close()

    async def reopen(self) -> bool:
        """Open for writing what could only be read, where that is possible by now; whether it is
        (S19)."""
        for attempt in range(REOPENING_ATTEMPTS):
            if attempt:
                # A read was under way.
                await asyncio.sleep(REOPENING_INTERVAL)
            opening = await asyncio.to_thread(open_for_writing, self.path, now=self._clock())
            if opening is not None or not await asyncio.to_thread(os.access, self.path, os.W_OK):
                break
        if opening is None:
            return False
        readers, engine, before = self._readers, self._engine, self._opening
        self._connect(opening)
        self.health.record_success(CatalogOperation.WRITING)
        self.changes += 1
        await readers.close()
        await engine.dispose()
        before.close()
        return True

    @asynccontextmanager
    async def _write(self) -> AsyncIterator[AsyncConnection]:
        if self.refusal is not None:
            self.health.missed_writes += 1
            raise CatalogFailed(self.refusal.what, self.refusal.hint, reason=self.refusal.reason)
        async with self._writing:
            self._write_began = time.monotonic()
            try:
                async with self._engine.begin() as connection:
                    yield connection
                self.health.record_success(CatalogOperation.WRITING)
            finally:
                self._write_began = None

    @asynccontextmanager
    async def _change(
        self, *, changes: bool = True, uses: bool = False
    ) -> AsyncIterator[AsyncConnection]:
        """Write what a listing shows. Where no row came, went or was written, nothing counts as
        changed."""
        written = True
        try:
            async with self._write() as connection:
                raw: Any = (await connection.get_raw_connection()).driver_connection
                before = raw.total_changes
                yield connection
                written = raw.total_changes != before
        finally:
            # Only now do others see it. It counts when this failed, too: whoever is cancelled here
            # does not know whether it was written.
            self.changes += changes and written
            self.uses += uses and written

    async def _read(self, read: Callable[[Connection], T], *, long: bool = False) -> T:
        """Read in a thread, where rows become objects as well: row by row on the event loop, ten
        thousand rows would hold up everybody else.

        All of it is as it was in one moment, whatever is written meanwhile. *long* is for what may
        look at the whole catalog.
        """
        return await self._readers.read(read, long=long)

    @property
    def is_stalled(self) -> bool:
        """Whether a read or a write hangs, as far as it is known."""
        began = self._write_began
        return self._readers.is_stalled or (
            began is not None and time.monotonic() - began > READ_TIMEOUT
        )

    async def probe(self) -> None:
        """Read a page of each large table and write one: raises `CatalogFailed` when that fails, or
        when a request has met a damaged page."""
        tables = (schema.repositories, schema.manifests, schema.references, schema.blobs)
        await self._read(
            lambda connection: [connection.execute(select(each).limit(1)).all() for each in tables]
        )
        if self._write_began is None:
            async with self._write() as connection:
                # The number that stands there already: SQLite writes its first page, and nothing
                # changes.
                await connection.exec_driver_sql(f"PRAGMA user_version = {schema.SCHEMA_VERSION}")
        elif (under_way := time.monotonic() - self._write_began) > WRITE_STALLED:
            raise CatalogFailed(
                f"A write to the catalog has not ended for {under_way:.0f} s.",
                reason=Reason.STALLED,
            )
        if self.health.problem is not None:
            raise self.health.problem.with_traceback(None)

    async def tag(self, repository: Repository, tag: Tag) -> TagEntry | None:
        """Where a tag points; None when it is not cached."""
        query = select(schema.tags).where(
            schema.tags.c.repository == repository, schema.tags.c.name == tag
        )

        def read(connection: Connection) -> TagEntry | None:
            row = connection.execute(query).one_or_none()
            return _tag_entry(row) if row else None

        return await self._read(read)

    async def manifest(
        self, digest: Digest, repository: Repository | None = None
    ) -> Manifest | None:
        """A manifest's bytes; None when it is not cached.

        With *repository*, only when it belongs to it, and with the media type that its source gave.
        Without, the media type is that of whichever source brought the bytes first: nothing that a
        client may be told.
        """
        content, links = schema.manifests.c, schema.repository_manifests.c
        query = select(content.content, content.media_type).where(content.digest == str(digest))
        if repository is not None:
            joined = select(content.content, links.media_type).join(
                schema.repository_manifests, links.digest == content.digest
            )
            query = joined.where(_is_link(repository, digest))

        def read(connection: Connection) -> Manifest | None:
            row = connection.execute(query).one_or_none()
            return Manifest.of(row.content, row.media_type, digest) if row else None

        return await self._read(read)

    async def manifests_of(self, repository: Repository) -> frozenset[Digest]:
        """The manifests that belong to a repository."""
        query = select(schema.repository_manifests.c.digest).where(
            schema.repository_manifests.c.repository == repository
        )
        return await self._read(
            lambda connection: frozenset(
                Digest.parse(text) for text in connection.execute(query).scalars()
            )
        )

    async def media_types_of(self, repository: Repository) -> dict[Digest, str]:
        """The manifests that belong to a repository, each with the media type that its source gave."""
        links = schema.repository_manifests.c
        query = select(links.digest, links.media_type).where(links.repository == repository)
        # Media types are a few texts that stand in many rows.
        return await self._read(
            lambda connection: {
                Digest.parse(row.digest): sys.intern(row.media_type)
                for row in connection.execute(query)
            }
        )

    async def blobs_of(self, repository: Repository) -> dict[Digest, Descriptor]:
        """The blobs that manifests of a repository refer to, held or not."""
        query = (
            select(
                schema.references.c.digest,
                schema.references.c.kind,
                schema.references.c.media_type,
                schema.references.c.size,
            )
            .join(
                schema.repository_manifests,
                schema.repository_manifests.c.digest == schema.references.c.manifest,
            )
            .where(
                schema.repository_manifests.c.repository == repository,
                schema.references.c.kind != ReferenceKind.MANIFEST,
            )
            .distinct()
            # Where only some manifests state a size, one of theirs.
            .order_by(schema.references.c.size)
        )

        def read(connection: Connection) -> dict[Digest, Descriptor]:
            return {
                digest: Descriptor(
                    digest=digest,
                    kind=ReferenceKind(row.kind),
                    media_type=row.media_type,
                    size=stated_size(row.size),
                )
                for row in connection.execute(query)
                for digest in (Digest.parse(row.digest),)
            }

        return await self._read(read)

    async def images_with(self, repository: Repository, blob: Digest) -> list[Digest]:
        """The image manifests of a repository that refer to a blob, the one cached last first."""
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
        )
        return await self._read(
            lambda connection: [Digest.parse(text) for text in connection.execute(query).scalars()]
        )

    async def is_cached(self, repository: Repository) -> bool:
        """Whether the repository holds anything."""
        query = select(schema.repositories.c.name).where(schema.repositories.c.name == repository)
        return await self._read(
            lambda connection: connection.execute(query).one_or_none() is not None
        )

    async def repository_names(self) -> list[Repository]:
        """All cached repositories, by name."""
        query = select(schema.repositories.c.name).order_by(schema.repositories.c.name)
        return await self._read(
            lambda connection: [Repository(name) for name in connection.execute(query).scalars()],
            long=True,
        )

    async def repositories_count(self) -> int:
        """How many repositories are cached."""
        query = select(func.count()).select_from(schema.repositories)
        return await self._read(lambda connection: int(connection.execute(query).scalar_one()))

    async def repositories(self, name: Repository | None = None) -> list[CachedRepository]:
        """All cached repositories, or the one named, by name."""
        if name is None:
            return await self.map_repositories(lambda each: each)
        query = _repositories_query.where(schema.repositories.c.name == name)
        return await self._read(
            lambda connection: [CachedRepository(*row) for row in connection.execute(query)]
        )

    async def map_repositories(self, convert: Callable[[CachedRepository], T]) -> list[T]:
        """All cached repositories, by name, each in the words of *tell*, which is called in another
        thread."""
        return await self._read(
            lambda connection: [
                convert(CachedRepository(*row)) for row in connection.execute(_repositories_query)
            ],
            long=True,
        )

    async def aggregate_usage(self, count: Callable[[Iterable[Any]], T]) -> T:
        """What *count*, called in another thread, makes of all repositories: of each its name, its
        size, how often it was pulled, and when last."""
        column = schema.repositories.c
        query = select(column.name, column.size, column.pulls, column.last_pull)
        return await self._read(lambda connection: count(connection.execute(query)), long=True)

    async def tags(self, repository: Repository) -> list[CachedTag]:
        """The tags of a repository, by name, with what is held behind each."""
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
            .join(
                schema.manifests, schema.manifests.c.digest == schema.repository_manifests.c.digest
            )
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

        def read(connection: Connection) -> list[CachedTag]:
            children_of: dict[str, set[str]] = {}
            for parent, child in connection.execute(children):
                children_of.setdefault(parent, set()).add(child)
            known = {each.digest: each for each in connection.execute(manifests)}
            blobs_of: dict[str, dict[str, int]] = {}
            for parent, blob, size in connection.execute(blobs):
                blobs_of.setdefault(parent, {})[blob] = size
            return [
                _cached_tag(row, children_of, known, blobs_of) for row in connection.execute(tags)
            ]

        return await self._read(read, long=True)

    async def tag_names(
        self, repository: Repository, *, after: str | None = None, limit: int | None = None
    ) -> list[str]:
        """The names of a repository's tags in their order, those after one, at most *limit* of
        them."""
        column = schema.tags.c
        query = (
            select(column.name)
            .where(column.repository == repository)
            .order_by(column.name)
            .limit(limit)
        )
        if after is not None:
            query = query.where(column.name > after)
        return await self._read(lambda connection: list(connection.execute(query).scalars()))

    async def tag_contents(self, repository: Repository, tag: Tag) -> TagContents | None:
        """All that is behind a tag, and who else needs it; None when the tag is not cached."""
        return await self._read(
            lambda connection: read_tag_contents(connection, repository, tag), long=True
        )

    async def repository_contents(self, repository: Repository) -> RepositoryContents:
        """What a repository holds, and how much of it others need too."""
        return await self._read(
            lambda connection: read_repository_contents(connection, repository), long=True
        )

    async def manifests(self, repository: Repository) -> list[CachedManifest]:
        """The manifests of a repository, oldest first."""
        query = (
            select(
                schema.repository_manifests, func.length(schema.manifests.c.content).label("size")
            )
            .join(
                schema.manifests, schema.manifests.c.digest == schema.repository_manifests.c.digest
            )
            .where(schema.repository_manifests.c.repository == repository)
            .order_by(schema.repository_manifests.c.cached, schema.repository_manifests.c.digest)
        )
        tags_query = (
            select(schema.tags.c.name, schema.tags.c.digest)
            .where(schema.tags.c.repository == repository)
            .order_by(schema.tags.c.name)
        )

        def read(connection: Connection) -> list[CachedManifest]:
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

        return await self._read(read, long=True)

    async def blobs_size(self) -> int:
        """Bytes of all blobs held."""
        query = select(func.coalesce(func.sum(schema.blobs.c.size), 0))
        return await self._read(
            lambda connection: int(connection.execute(query).scalar_one()), long=True
        )

    async def size(self) -> int:
        """Bytes that the catalog takes on the disk, without the pages that are free in its file,
        and without a log of the usual length."""

        def read(connection: Connection) -> int:
            used, page = (
                connection.exec_driver_sql(
                    "SELECT page_count - freelist_count FROM pragma_page_count(), pragma_freelist_count()"
                ).scalar_one(),
                connection.exec_driver_sql("PRAGMA page_size").scalar_one(),
            )
            return int(used * page)

        return await self._read(read) + max(
            0,
            await asyncio.to_thread(_file_size, self.path.with_name(f"{self.path.name}-wal"))
            - LOG_KEPT,
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
        """Take in a manifest with all that it refers to, link it to a repository, and point *tags*
        at it: all of it or nothing."""
        digest = str(manifest.digest)
        # Of a large manifest these are thousands of rows: they are made before the transaction and
        # not on the event loop (S23).
        few = len(manifest.references) <= ROWS_ON_LOOP
        references = (
            reference_rows(manifest) if few else await asyncio.to_thread(reference_rows, manifest)
        )
        async with self._change() as connection:
            await _insert_missing(
                connection,
                schema.repositories,
                {"name": repository},
                {"source": source, "created": now, "pulls": 0},
            )
            if await _insert_missing(
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
            linked = {"repository": repository, "digest": digest}
            values = {"platform": platform, "cached": now, "media_type": manifest.media_type}
            if await _insert_missing(connection, schema.repository_manifests, linked, values):
                await counters.manifest_came(connection, repository, manifest)
            else:
                # The source of this repository says now what it is; what another source says of the
                # same bytes is nothing to it.
                other = _is_link(repository, manifest.digest) & (
                    schema.repository_manifests.c.media_type != manifest.media_type
                )
                await connection.execute(
                    update(schema.repository_manifests)
                    .where(other)
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
        """Point a tag at a manifest that the repository holds: the source said so just now. False
        when the repository holds it no more."""
        moved = True
        try:
            async with self._write() as connection:
                if (
                    await connection.execute(select(1).where(_is_link(repository, digest)))
                ).first() is None:
                    return False
                moved = await _point_tag(connection, repository, tag, str(digest), now)
        finally:
            # Most often it still points there, and no listing shows when it was checked.
            self.changes += moved
        return True

    async def mark_tag_gone(self, repository: Repository, tag: Tag, *, now: float) -> None:
        """The source no longer has the tag; it is kept and served all the same."""
        async with self._change() as connection:
            await connection.execute(
                update(schema.tags)
                .where(schema.tags.c.repository == repository, schema.tags.c.name == tag)
                .values(gone=True, checked=now)
            )

    async def set_platform(self, repository: Repository, digest: Digest, platform: str) -> None:
        """The platform of an image, known when its config is here."""
        async with self._write() as connection:
            await connection.execute(
                update(schema.repository_manifests)
                .where(_is_link(repository, digest))
                .values(platform=platform)
            )

    async def add_blob(
        self, digest: Digest, size: int, *, now: float, origin: BlobOrigin | None = None
    ) -> bool:
        """Record a cached blob of *size* verified bytes, and who gave it. False when its row was
        there already."""
        async with self._change() as connection:
            same = schema.blobs.c.digest == str(digest)
            recorded_size = (
                await connection.execute(select(schema.blobs.c.size).where(same))
            ).scalar_one_or_none()
            if recorded_size is None:
                await connection.execute(
                    insert(schema.blobs).values(
                        digest=str(digest), size=size, cached=now, last_used=now
                    )
                )
                await counters.blob_came(connection, digest, size)
            elif recorded_size != size:
                # The row was made for a damaged file: what was verified now is right.
                await connection.execute(update(schema.blobs).where(same).values(size=size))
                await counters.recount_with(connection, {str(digest)})
            if origin is not None:
                await _add_origin(connection, digest, origin)
        return recorded_size is None

    async def add_blob_origin(self, digest: Digest, origin: BlobOrigin) -> None:
        """Record that a source registry has the bytes of a cached blob as well; nothing when the
        blob is gone meanwhile."""
        async with self._write() as connection:
            if (
                await connection.execute(select(1).where(schema.blobs.c.digest == str(digest)))
            ).first() is not None:
                await _add_origin(connection, digest, origin)

    async def blob(self, digest: Digest) -> BlobRecord | None:
        """The size of a cached blob and who gave it; None when no row says that it is cached."""
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
        """The next *count* cached blobs in the order of their digests, with their sizes; from the
        first on for None."""
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
        """The copy of a blob is gone, or was damaged and removed: drop its row. Gives the size that
        it had there, 0 without a row."""
        async with self._change() as connection:
            same = schema.blobs.c.digest == str(digest)
            size = (
                await connection.execute(select(schema.blobs.c.size).where(same))
            ).scalar_one_or_none()
            if size is None:
                return 0
            await connection.execute(delete(schema.blobs).where(same))
            await counters.recount_with(connection, {str(digest)})
        return int(size)

    async def source_of(self, repository: Repository) -> str | None:
        """The source repository of a cached repository, with its login server; None when it is not
        cached."""
        query = select(schema.repositories.c.source).where(schema.repositories.c.name == repository)
        return await self._read(lambda connection: connection.execute(query).scalar_one_or_none())

    async def record_usage(self, usage: Usage) -> None:
        """Write down what was used: once in a while and not with each request."""
        async with self._change(changes=False, uses=True) as connection:
            for repository, (count, last) in usage.pulls.items():
                changed = {"pulls": schema.repositories.c.pulls + count, "last_pull": last}
                await connection.execute(
                    update(schema.repositories)
                    .where(schema.repositories.c.name == repository)
                    .values(changed)
                )
            for (repository, tag), last in usage.tags.items():
                await connection.execute(
                    update(schema.tags)
                    .where(schema.tags.c.repository == repository, schema.tags.c.name == tag)
                    .values(last_pull=last)
                )
            for (repository, digest), last in usage.manifests.items():
                await connection.execute(
                    update(schema.repository_manifests)
                    .where(_is_link(repository, digest))
                    .values(last_pull=last, last_used=last)
                )
            for (repository, digest), last in usage.seen.items():
                before = schema.repository_manifests.c.last_used
                earlier = _is_link(repository, digest) & (before.is_(None) | (before < last))
                await connection.execute(
                    update(schema.repository_manifests).where(earlier).values(last_used=last)
                )
            for digest, last in usage.blobs.items():
                await connection.execute(
                    update(schema.blobs)
                    .where(schema.blobs.c.digest == str(digest))
                    .values(last_used=last)
                )

            for rule, (answered, made) in usage.requests.items():
                await _insert_missing(
                    connection, schema.rule_requests, {"rule": rule}, {"answered": 0, "made": 0}
                )
                more = {
                    "answered": schema.rule_requests.c.answered + answered,
                    "made": schema.rule_requests.c.made + made,
                }
                await connection.execute(
                    update(schema.rule_requests)
                    .where(schema.rule_requests.c.rule == rule)
                    .values(more)
                )

    async def rule_requests(self) -> dict[str, tuple[int, int]]:
        """By the name of each rule: manifests that clients got, and requests for them that the
        source got."""
        query = select(schema.rule_requests)
        return await self._read(
            lambda connection: {
                row.rule: (row.answered, row.made) for row in connection.execute(query)
            }
        )

    async def delete_rule_requests(self, rule: str) -> None:
        """The rule is gone: another of its name begins at zero."""
        async with self._change(changes=False, uses=True) as connection:
            await connection.execute(
                delete(schema.rule_requests).where(schema.rule_requests.c.rule == rule)
            )

    async def traffic(self) -> dict[int, tuple[int, ...]]:
        """What clients got in each step of time, by its beginning: hits, misses, bytes served,
        bytes from sources, requests saved."""
        query = select(schema.activity)
        return await self._read(
            lambda connection: {row[0]: tuple(row[1:]) for row in connection.execute(query)}
        )

    async def record_traffic(self, steps: Mapping[int, tuple[int, ...]], *, since: int) -> None:
        """Write down what clients got in some steps of time, in the place of what stood there, and
        forget those that began before *since*."""
        names = [column.name for column in schema.activity.columns]
        async with self._write() as connection:
            gone = schema.activity.c.began < since
            if steps:
                gone |= schema.activity.c.began.in_(list(steps))
            await connection.execute(delete(schema.activity).where(gone))
            if steps:
                await connection.execute(
                    insert(schema.activity),
                    [
                        dict(zip(names, (began, *counts), strict=True))
                        for began, counts in steps.items()
                    ],
                )

    async def ended_pulls(self, count: int) -> list[tuple[int, bytes]]:
        """The pulls that ended last, by number and as they were written, the oldest first."""
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
        """An ended pull as it was written; None when it is not there."""
        query = select(schema.ended_pulls.c.snapshot).where(schema.ended_pulls.c.number == number)
        return await self._read(lambda connection: connection.execute(query).scalar_one_or_none())

    async def last_ended_pull(self) -> int:
        """The largest number of an ended pull; 0 when there is none."""
        query = select(func.coalesce(func.max(schema.ended_pulls.c.number), 0))
        return await self._read(lambda connection: int(connection.execute(query).scalar_one()))

    async def record_ended_pulls(
        self, pulls: Mapping[int, tuple[float, bytes]], *, keep: int, since: float
    ) -> None:
        """Write down ended pulls, each with the time of its end; *keep* of all stay, and none that
        ended before *since*."""
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
        """Forget a tag; its manifests stay until the repository or they are deleted. False when it
        was not there."""
        async with self._change() as connection:
            result = await connection.execute(
                delete(schema.tags).where(
                    schema.tags.c.repository == repository, schema.tags.c.name == tag
                )
            )
            await counters.tags_came(connection, repository, -result.rowcount)
        return bool(result.rowcount)

    @frees_space
    async def delete_manifest(self, repository: Repository, digest: Digest) -> bool:
        """Forget a manifest of a repository and the tags that point at it. False when it was not
        there."""
        async with self._change(uses=True) as connection:
            await connection.execute(
                delete(schema.tags).where(
                    schema.tags.c.repository == repository, schema.tags.c.digest == str(digest)
                )
            )
            result = await connection.execute(
                delete(schema.repository_manifests).where(_is_link(repository, digest))
            )
            await _drop_empty_repository(connection, repository)
            await counters.recount_those(connection, [repository])
        return bool(result.rowcount)

    @frees_space
    async def delete_repository(self, repository: Repository) -> bool:
        """Forget a repository with its tags and manifests. False when it was not there."""
        async with self._change(uses=True) as connection:
            result = await connection.execute(
                delete(schema.repositories).where(schema.repositories.c.name == repository)
            )
        return bool(result.rowcount)

    @frees_space
    async def collect(self, remove_blob: Callable[[Digest], bool]) -> int:
        """Drop the manifests that belong to no repository and the held blobs that no manifest
        refers to any more; gives how many blobs could not go yet.

        *remove_blob* removes a blob from the store, or says no because it is in use. It is called
        within the transaction, so no manifest that refers to the blob can come in between.
        """
        async with self._write() as connection:
            _, left = await _collect(connection, remove_blob, now=self._clock())
        await self._try_to_release_free_pages()
        return left

    async def _try_to_release_free_pages(self) -> None:
        try:
            await self.release_free_pages()
        except (CatalogFailed, OSError) as error:
            # It was deleted all the same; the upkeep tries it again, and tells when that fails.
            _log.debug("The free pages of the catalog can't be given back yet: %s", error)

    async def release_free_pages(self) -> None:
        """Give pages that became free back to the file system, some at a time so that writers get
        their turn, and cut a long log (S11).

        A catalog of an earlier version can't do that before it is written anew, which is done once
        much of it is free.
        """
        free, mode, page = await self._read(
            lambda connection: [
                int(connection.exec_driver_sql(f"PRAGMA {each}").scalar_one())
                for each in ("freelist_count", "auto_vacuum", "page_size")
            ]
        )
        if free * page > FREE_BYTES_KEPT:
            if mode == 0:
                await self._write_anew(free * page)
            while mode and free * page > FREE_BYTES_KEPT:
                async with self._write() as connection:
                    raw: Any = (await connection.get_raw_connection()).driver_connection
                    # Each row is a page that goes.
                    await (
                        await raw.execute(f"PRAGMA incremental_vacuum({PAGES_AT_ONCE})")
                    ).fetchall()
                    [[left]] = await (await raw.execute("PRAGMA freelist_count")).fetchall()
                if left >= free:
                    break
                free = left
        if (
            await asyncio.to_thread(_file_size, self.path.with_name(f"{self.path.name}-wal"))
            > LOG_KEPT
        ):
            async with self._write() as connection:
                raw = (await connection.get_raw_connection()).driver_connection
                await (await raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")).fetchall()

    async def _write_anew(self, free: int) -> None:
        """Write a catalog of an earlier version anew, without its free pages; writers wait
        meanwhile, and readers do not."""
        size = await asyncio.to_thread(_file_size, self.path)
        room = (await asyncio.to_thread(shutil.disk_usage, self.path.parent)).free
        if free < WRITTEN_ANEW or free < size // 4 or room < 2 * (size - free) + WRITTEN_ANEW:
            return
        async with self._write() as connection:
            raw: Any = (await connection.get_raw_connection()).driver_connection
            await raw.execute("PRAGMA auto_vacuum=INCREMENTAL")
            await raw.execute("VACUUM")

    # Locks

    async def lock_repository(self, repository: Repository, locked: bool) -> bool:
        """Lock or unlock a repository with all that it holds. False when it is not there."""
        return await self._set(
            update(schema.repositories)
            .where(schema.repositories.c.name == repository)
            .values(locked=locked)
        )

    async def lock_tag(self, repository: Repository, tag: Tag, locked: bool) -> bool:
        """Lock or unlock a tag. False when it is not there."""
        return await self._set(
            update(schema.tags)
            .where(schema.tags.c.repository == repository, schema.tags.c.name == tag)
            .values(locked=locked)
        )

    async def lock_manifest(self, repository: Repository, digest: Digest, locked: bool) -> bool:
        """Lock or unlock a manifest of a repository. False when it is not there."""
        return await self._set(
            update(schema.repository_manifests)
            .where(_is_link(repository, digest))
            .values(locked=locked)
        )

    @frees_space
    async def _set(self, statement: Any) -> bool:
        async with self._change() as connection:
            result: Any = await connection.execute(statement)
        return bool(result.rowcount)

    async def locks(self, repository: Repository) -> Locks:
        """What of a repository is locked."""
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

    # Eviction

    async def inventory(self) -> Inventory:
        """What is held, for a plan of what goes."""
        return await self._read(_inventory, long=True)

    async def inventory_manifests(self, repository: Repository) -> list[InventoryManifest]:
        """The manifests of a repository with their locks, tags and children; their blobs are left
        out."""
        links, tags, children = (
            query.where(column == repository)
            for query, column in zip(
                _held_queries(),
                (
                    schema.repository_manifests.c.repository,
                    schema.tags.c.repository,
                    schema.repository_manifests.c.repository,
                ),
                strict=True,
            )
        )
        return await self._read(
            lambda connection: _held_manifests(
                _HeldRows(*(connection.execute(each) for each in (links, tags, children)))
            ),
            long=True,
        )

    async def manifests_with(self, blobs: Iterable[Digest]) -> set[tuple[Repository, Digest]]:
        """The manifests that refer to any of some blobs, in all repositories."""
        links = schema.repository_manifests.c
        digests = [str(each) for each in blobs]

        def read(connection: Connection) -> set[tuple[Repository, Digest]]:
            manifests: set[tuple[Repository, Digest]] = set()
            for chunk in schema.chunks(digests):
                query = (
                    select(links.repository, links.digest)
                    .join(schema.references, schema.references.c.manifest == links.digest)
                    .where(schema.references.c.digest.in_(chunk))
                )
                manifests |= {
                    (Repository(row.repository), Digest.parse(row.digest))
                    for row in connection.execute(query)
                }
            return manifests

        return await self._read(read, long=True)

    @frees_space
    async def evict(
        self,
        plan: EvictionPlan,
        *,
        is_used: Callable[[PlannedImage], bool],
        remove_blob: Callable[[Digest], bool],
    ) -> Evicted:
        """Carry out a plan in one transaction; what was used or locked since it was made stays, and
        so does an image of which *is_used* says so.

        *remove_blob* is that of `collect`.
        """
        async with self._change(uses=True) as connection:
            last_used: dict[Digest, float] = {}
            for chunk in schema.chunks(
                sorted({str(blob) for each in plan.images for blob in each.distinctive_blobs})
            ):
                for row in await _rows(
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
                {each.manifest.repository for each in plan.images}
                | {repository for repository, _ in plan.empty}
            )
            rows = await _held_rows_of(connection, repositories)
            used = {each.manifest.key for each in plan.images if is_used_since(each)}
            going = await asyncio.to_thread(lambda: confirm(plan, _held_manifests(rows), used=used))
            if going:
                keys = [
                    {"in_repository": repository, "of_digest": str(digest)}
                    for repository, digest in sorted(going)
                ]
                for table in (schema.tags, schema.repository_manifests):
                    same = (table.c.repository == bindparam("in_repository")) & (
                        table.c.digest == bindparam("of_digest")
                    )
                    await connection.execute(delete(table).where(same), keys)
                left_in = select(schema.repository_manifests.c.digest).where(
                    schema.repository_manifests.c.repository == schema.repositories.c.name
                )
                for chunk in schema.chunks(repositories):
                    await connection.execute(
                        delete(schema.repositories).where(
                            schema.repositories.c.name.in_(chunk), ~exists(left_in)
                        )
                    )
                await counters.recount_those(connection, repositories)
            for chunk in schema.chunks([str(digest) for digest in plan.adopted]):
                await connection.execute(
                    update(schema.blobs)
                    .where(schema.blobs.c.digest.in_(chunk))
                    .values(adopted=None)
                )
            freed, left = await _collect(connection, remove_blob, now=self._clock())
        await self._try_to_release_free_pages()
        return Evicted(
            tuple(each for each in plan.images if each.manifest.key in going),
            frozenset(going),
            freed,
            left,
        )

    async def reconcile(
        self,
        held: Mapping[Digest, int],
        *,
        now: float,
        stat_size: Callable[[Digest], int | None] | None = None,
        remove_damaged: Callable[[Digest, int], bool] = lambda digest, size: False,
    ) -> tuple[int, int]:
        """Make the rows agree with the files: adopt files without a row, drop rows without a file.
        Gives both counts.

        *held* was gathered a while ago, and blobs come and go meanwhile. So each difference is
        looked at again within the transaction with *look*, called in a thread: the size of the file
        that is there now, None when there is none; what it can't tell (OSError) stays as it is.
        *remove_damaged* gets each blob whose file has another size than its row, with the right
        size; where it says that the file is away, the row goes too, and is not counted.
        """
        differences = await self._read(lambda connection: _differences(connection, held))
        if not differences.is_any:
            return 0, 0
        look_again = stat_size if stat_size is not None else held.get
        adopted: list[str] = []
        gone: list[str] = []
        async with self._change() as connection:
            for chunk in schema.chunks(differences.without_file):
                sizes = await asyncio.to_thread(_look_at, look_again, chunk)
                missing = [digest for digest in chunk if sizes.get(digest, 0) is None]
                gone += missing
                if missing:
                    await connection.execute(
                        delete(schema.blobs).where(schema.blobs.c.digest.in_(missing))
                    )
            for chunk in schema.chunks(differences.without_row):
                sizes = await asyncio.to_thread(_look_at, look_again, chunk)
                recorded = set(
                    (
                        await connection.execute(
                            select(schema.blobs.c.digest).where(schema.blobs.c.digest.in_(chunk))
                        )
                    ).scalars()
                )
                rows = [
                    {
                        "digest": digest,
                        "size": size,
                        "cached": now,
                        "last_used": now,
                        "adopted": now,
                    }
                    for digest in chunk
                    if (size := sizes.get(digest)) is not None and digest not in recorded
                ]
                if not rows:
                    continue
                await connection.execute(insert(schema.blobs), rows)
                new = [str(row["digest"]) for row in rows]
                adopted += new
                needed = exists(
                    select(schema.references.c.digest).where(
                        schema.references.c.digest == schema.blobs.c.digest
                    )
                )
                await connection.execute(
                    update(schema.blobs)
                    .where(schema.blobs.c.digest.in_(new), needed)
                    .values(adopted=None)
                )
                # An engine that was killed between the file and its row: only one source can have
                # given it.
                await connection.execute(schema.origins_by_repository(new, only_if_single=True))
            damaged = [
                digest
                for digest, size in differences.other_size
                if remove_damaged(Digest.parse(digest), size)
            ]
            for chunk in schema.chunks(damaged):
                await connection.execute(
                    delete(schema.blobs).where(schema.blobs.c.digest.in_(chunk))
                )
            changed = {*gone, *adopted, *damaged}
            if changed:
                await counters.recount_with(connection, changed)
        return len(adopted), len(gone)


@dataclass(frozen=True, slots=True)
class _Differences:
    """Where the rows of blobs and a walk through the files disagree; digests are text."""

    without_file: list[str]
    without_row: list[str]
    other_size: list[tuple[str, int]]
    """With the size that the row says."""

    @property
    def is_any(self) -> bool:
        return bool(self.without_file or self.without_row or self.other_size)


def _differences(connection: Connection, held: Mapping[Digest, int]) -> _Differences:
    """Compare all rows with all files. Runs in a thread: there may be some hundred thousand."""
    on_disk = {str(digest): size for digest, size in held.items()}
    without_file: list[str] = []
    other_size: list[tuple[str, int]] = []
    for digest, recorded_size in connection.execute(
        select(schema.blobs.c.digest, schema.blobs.c.size)
    ):
        size = on_disk.pop(digest, None)
        if size is None:
            without_file.append(digest)
        elif size != recorded_size:
            other_size.append((digest, recorded_size))
    return _Differences(without_file, list(on_disk), other_size)


def _look_at(look: Callable[[Digest], int | None], digests: Iterable[str]) -> dict[str, int | None]:
    """The size of each file that is there, None where there is none; what can't be told is left
    out. Runs in a thread."""
    sizes: dict[str, int | None] = {}
    for digest in digests:
        with suppress(OSError):
            sizes[digest] = look(Digest.parse(digest))
    return sizes


async def _add_origin(connection: AsyncConnection, digest: Digest, origin: BlobOrigin) -> None:
    key = {"digest": str(digest), "login_server": origin.login_server}
    if (
        not await _insert_missing(
            connection, schema.blob_origins, key, {"with_credentials": origin.with_credentials}
        )
        and not origin.with_credentials
    ):
        same = [schema.blob_origins.c[name] == value for name, value in key.items()]
        await connection.execute(
            update(schema.blob_origins).where(*same).values(with_credentials=False)
        )


_repositories_query = select(
    *(schema.repositories.c[name] for name in CachedRepository.__struct_fields__)
).order_by(schema.repositories.c.name)


async def _rows(connection: AsyncConnection, query: Any) -> list[Any]:
    """All rows of a long answer, a thousand at a time, so that other work goes on in between."""
    found: list[Any] = []
    async for part in (await connection.stream(query)).partitions(1000):
        found.extend(part)
    return found


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _is_link(repository: Repository, digest: Digest) -> ColumnElement[bool]:
    return (schema.repository_manifests.c.repository == repository) & (
        schema.repository_manifests.c.digest == str(digest)
    )


def _named_platform(repository: Repository, digest: str) -> Any:
    """The platform that an index of the same repository, which came before, names for a manifest.
    An index of another repository names nothing."""
    links, refers = schema.repository_manifests.c, schema.references.c
    return (
        select(refers.platform)
        .join(schema.repository_manifests, links.digest == refers.manifest)
        .where(
            refers.digest == digest, refers.platform.is_not(None), links.repository == repository
        )
        .limit(1)
    )


async def _collect(
    connection: AsyncConnection, remove_blob: Callable[[Digest], bool], *, now: float
) -> tuple[int, int]:
    """Drop what nothing refers to; gives the bytes that are free now and the number of blobs that
    could not go yet. What was adopted lately stays."""
    linked = select(schema.repository_manifests.c.digest).where(
        schema.repository_manifests.c.digest == schema.manifests.c.digest
    )
    referred = select(schema.references.c.digest).where(
        schema.references.c.digest == schema.blobs.c.digest
    )
    await connection.execute(delete(schema.manifests).where(~exists(linked)))
    adopted = schema.blobs.c.adopted
    goes = adopted.is_(None) | (adopted <= now - ADOPTED_STAYS) | (adopted > now)
    orphans = await _rows(
        connection,
        select(schema.blobs.c.digest, schema.blobs.c.size).where(~exists(referred), goes),
    )
    gone: list[Any] = []
    for count, row in enumerate(orphans, 1):
        if remove_blob(Digest.parse(row.digest)):
            gone.append(row)
        if count % 64 == 0:
            # Each is a rename, done at once so that whoever looks next finds the blob gone;
            # thousands of them in a row would keep clients waiting.
            await asyncio.sleep(0)
    if gone:
        await connection.execute(
            delete(schema.blobs).where(schema.blobs.c.digest == bindparam("gone")),
            [{"gone": row.digest} for row in gone],
        )
    return sum(row.size for row in gone), len(orphans) - len(gone)


@dataclass(frozen=True, slots=True)
class _HeldRows:
    """The manifests of some repositories, the tags that point at them, and which of them leads to
    which."""

    links: Iterable[Any]
    tags: Iterable[Any]
    children: Iterable[Any]


def _held_queries() -> tuple[Any, Any, Any]:
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


async def _held_rows_of(
    connection: AsyncConnection, repositories: Collection[Repository]
) -> _HeldRows:
    links_query, tags_query, children_query = _held_queries()
    links: list[Any] = []
    tags: list[Any] = []
    children: list[Any] = []
    for chunk in schema.chunks(list(repositories)):
        links.extend(
            await _rows(
                connection, links_query.where(schema.repository_manifests.c.repository.in_(chunk))
            )
        )
        tags.extend(await _rows(connection, tags_query.where(schema.tags.c.repository.in_(chunk))))
        children.extend(
            await _rows(
                connection,
                children_query.where(schema.repository_manifests.c.repository.in_(chunk)),
            )
        )
    return _HeldRows(links, tags, children)


class _Digests(dict[str, Digest]):
    """The digests of many rows, each read once."""

    def __missing__(self, text: str) -> Digest:
        digest = self[text] = Digest.parse(text)
        return digest


def _held_manifests(
    rows: _HeldRows,
    blobs_of: Mapping[str, tuple[Digest, ...]] | None = None,
    digests: _Digests | None = None,
    sizes: Mapping[str, int] | None = None,
) -> list[InventoryManifest]:
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


def _inventory(connection: Connection) -> Inventory:
    # One row for each manifest and not for each of its blobs: with 10,000 repositories that is
    # 20,000 rows in place of 160,000.
    together = (
        select(
            schema.references.c.manifest, func.aggregate_strings(schema.references.c.digest, " ")
        )
        .join(schema.blobs, schema.blobs.c.digest == schema.references.c.digest)
        .where(schema.references.c.kind != ReferenceKind.MANIFEST)
        .group_by(schema.references.c.manifest)
    )
    blobs = select(
        schema.blobs.c.digest, schema.blobs.c.size, schema.blobs.c.last_used, schema.blobs.c.adopted
    )
    digests = _Digests()
    held = {
        digests[digest]: InventoryBlob(size, last_used, adopted)
        for digest, size, last_used, adopted in connection.execute(blobs)
    }
    # A manifest may name a blob twice.
    blobs_of = {
        manifest: tuple(digests[each] for each in dict.fromkeys(named.split(" ")))
        for manifest, named in connection.execute(together)
    }
    rows = _HeldRows(*(connection.execute(each) for each in _held_queries()))
    contents = select(schema.manifests.c.digest, func.length(schema.manifests.c.content))
    sizes = {row[0]: int(row[1]) for row in connection.execute(contents)}
    return Inventory(_held_manifests(rows, blobs_of, digests, sizes), held)


async def _insert_missing(
    connection: AsyncConnection, table: Table, key: Mapping[str, Any], values: Mapping[str, Any]
) -> bool:
    """Insert a row unless one with its *key* is there; whether it was inserted. Writers wait for
    each other, so nothing comes in between."""
    same = [table.c[name] == value for name, value in key.items()]
    if (await connection.execute(select(1).select_from(table).where(*same))).first():
        return False
    await connection.execute(insert(table).values(**key, **values))
    return True


async def _point_tag(
    connection: AsyncConnection, repository: Repository, tag: Tag, digest: str, now: float
) -> bool:
    """Point a tag at a manifest; whether it is new, moved, or was gone."""
    same = (schema.tags.c.repository == repository) & (schema.tags.c.name == tag)
    row = (
        await connection.execute(select(schema.tags.c.digest, schema.tags.c.gone).where(same))
    ).one_or_none()
    if row is None:
        await connection.execute(
            insert(schema.tags).values(
                repository=repository, name=tag, digest=digest, cached=now, checked=now, gone=False
            )
        )
        await counters.tags_came(connection, repository, 1)
        return True
    if row.digest == digest:
        await connection.execute(update(schema.tags).where(same).values(checked=now, gone=False))
        return bool(row.gone)
    await connection.execute(
        update(schema.tags).where(same).values(digest=digest, cached=now, checked=now, gone=False)
    )
    return True


async def _drop_empty_repository(connection: AsyncConnection, repository: Repository) -> None:
    left = select(schema.repository_manifests.c.digest).where(
        schema.repository_manifests.c.repository == repository
    )
    await connection.execute(
        delete(schema.repositories).where(schema.repositories.c.name == repository, ~exists(left))
    )


def _cached_tag(
    row: Any,
    children_of: Mapping[str, set[str]],
    known: Mapping[str, Any],
    blobs_of: Mapping[str, Mapping[str, int]],
) -> CachedTag:
    reached = _reachable(row.digest, children_of) & known.keys()
    cached_blobs = {
        digest: size for manifest in reached for digest, size in blobs_of.get(manifest, {}).items()
    }
    return CachedTag(
        name=Tag(row.name),
        entry=_tag_entry(row),
        last_pull=row.last_pull,
        platforms=tuple(
            sorted(
                {
                    known[manifest].platform
                    for manifest in reached
                    if known[manifest].platform and manifest in blobs_of
                }
            )
        ),
        size=sum(cached_blobs.values()) + sum(known[manifest].size for manifest in reached),
        locked=row.locked,
    )


def _tag_entry(row: Any) -> TagEntry:
    return TagEntry(
        digest=Digest.parse(row.digest), cached=row.cached, checked=row.checked, gone=row.gone
    )


def _reachable(digest: str, children_of: Mapping[str, set[str]]) -> set[str]:
    found: set[str] = set()
    ahead = [digest]
    while ahead:
        current = ahead.pop()
        if current not in found:
            found.add(current)
            ahead.extend(children_of.get(current, ()))
    return found
