"""What is known about the cache: repositories, tags, manifests and the blobs that they refer to.

SQLite through SQLAlchemy Core. The manifests themselves live here, byte for byte as they came (a few kilobytes each), so that a tag, its manifest and what it
refers to appear together or not at all. Whether a blob is held is the file system's to say (`entrepot.store.blobs`); the rows here only know its size and its
last use.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    bindparam,
    delete,
    distinct,
    event,
    exists,
    false,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import DatabaseError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.schema import CreateColumn

from entrepot.errors import EngineError
from entrepot.reference import Digest, Repository, Tag
from entrepot.store.eviction import HeldBlobUse, HeldManifest, Picture, Plan, PlannedImage, confirmed
from entrepot.store.manifests import Descriptor, Manifest, ReferenceKind

SCHEMA_VERSION = 2
"""Kept in SQLite's ``user_version``; an engine refuses a catalog that is newer than itself."""

T = TypeVar("T")

_schema = MetaData()

_repositories = Table(
    "repositories",
    _schema,
    Column("name", String(255), primary_key=True),
    Column("source", String(512), nullable=False),
    Column("created", Float, nullable=False),
    Column("last_pull", Float),
    Column("pulls", Integer, nullable=False, default=0),
    Column("locked", Boolean, nullable=False, server_default=false()),
)
_manifests = Table(
    "manifests",
    _schema,
    Column("digest", String(135), primary_key=True),
    Column("media_type", String(255), nullable=False),
    Column("content", LargeBinary, nullable=False),
)
_repository_manifests = Table(
    "repository_manifests",
    _schema,
    Column("repository", ForeignKey(_repositories.c.name, ondelete="CASCADE"), primary_key=True),
    Column("digest", ForeignKey(_manifests.c.digest), primary_key=True),
    Column("platform", String(255)),
    Column("cached", Float, nullable=False),
    Column("last_pull", Float),
    Column("last_used", Float),
    Column("locked", Boolean, nullable=False, server_default=false()),
    Index("repository_manifests_by_digest", "digest"),
)
_references = Table(
    "manifest_references",
    _schema,
    Column("manifest", ForeignKey(_manifests.c.digest, ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("digest", String(135), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("media_type", String(255), nullable=False),
    Column("size", Integer, nullable=False),
    Column("platform", String(255)),
    Column("optional", Boolean, nullable=False),
    Index("manifest_references_by_digest", "digest"),
)
_tags = Table(
    "tags",
    _schema,
    Column("repository", ForeignKey(_repositories.c.name, ondelete="CASCADE"), primary_key=True),
    Column("name", String(128), primary_key=True),
    Column("digest", String(135), nullable=False),
    Column("cached", Float, nullable=False),
    Column("checked", Float, nullable=False),
    Column("last_pull", Float),
    Column("gone", Boolean, nullable=False, default=False),
    Column("locked", Boolean, nullable=False, server_default=false()),
    Index("tags_by_digest", "repository", "digest"),
)
_blobs = Table(
    "blobs",
    _schema,
    Column("digest", String(135), primary_key=True),
    Column("size", Integer, nullable=False),
    Column("cached", Float, nullable=False),
    Column("last_used", Float, nullable=False),
)

_rule_requests = Table(
    "rule_requests",
    _schema,
    Column("rule", String(50), primary_key=True),
    Column("answered", Integer, nullable=False),
    Column("made", Integer, nullable=False),
)

_ADDED = {2: (_repositories.c.locked, _repository_manifests.c.last_used, _repository_manifests.c.locked, _tags.c.locked)}
"""The columns that came with each version of the schema: an older catalog gets them when it is opened."""

AT_ONCE = 500
"""Names or digests in one statement: SQLite takes 999 variables where it is old."""


@dataclass(frozen=True, slots=True)
class TagEntry:
    """Where a tag points, and since when we believe it. Times are seconds since the epoch."""

    digest: Digest
    cached: float
    checked: float
    gone: bool = False


@dataclass(frozen=True, slots=True)
class CachedManifest:
    """A manifest of one repository, as a listing shows it."""

    digest: Digest
    media_type: str
    size: int
    platform: str | None
    tags: tuple[Tag, ...]
    cached: float
    last_pull: float | None
    locked: bool = False


@dataclass(frozen=True, slots=True)
class CachedRepository:
    """A cached repository, as a listing shows it. *size* counts each blob and manifest once, those shared with other repositories too."""

    name: Repository
    source: str
    created: float
    last_pull: float | None
    pulls: int
    tags: int
    manifests: int
    size: int
    locked: bool = False


@dataclass(frozen=True, slots=True)
class CachedTag:
    """A tag of one repository, as a listing shows it. *size* and *platforms* speak of what is held behind it."""

    name: Tag
    entry: TagEntry
    last_pull: float | None
    platforms: tuple[str, ...]
    size: int
    locked: bool = False


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
    """By the name of the rule: manifests that clients got, and requests for them that the source got."""


@dataclass(frozen=True, slots=True)
class Locks:
    """What of a repository may not be deleted: all of it, or some tags and manifests."""

    repository: bool
    tags: frozenset[Tag]
    manifests: frozenset[Digest]


@dataclass(frozen=True, slots=True)
class Evicted:
    """What went of a plan. *freed* is in bytes, *left* the number of blobs that could not go yet because a reader may yet open them."""

    images: tuple[PlannedImage, ...]
    manifests: frozenset[tuple[Repository, Digest]]
    """Of the images, and the indexes and empty manifests that went along."""
    freed: int
    left: int


class Catalog:
    """The catalog of one engine. Reads run side by side; writes wait for each other here and not in the database."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._writing = asyncio.Lock()

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path) -> AsyncIterator[Catalog]:
        """Open the catalog in the file *path*, making it when it is not there; raises `EngineError` when it can't be used."""
        engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
        event.listen(engine.sync_engine, "connect", _set_up_connection)
        try:
            try:
                async with engine.begin() as connection:
                    await connection.run_sync(_create_schema)
            except DatabaseError as error:
                raise EngineError(
                    f"The catalog {path} can't be opened: {error.orig}.",
                    "Check the disk and the file's permissions; moved out of the way, it is made anew and fills as images are pulled.",
                ) from error
            yield cls(engine)
        finally:
            await engine.dispose()

    @asynccontextmanager
    async def _write(self) -> AsyncIterator[AsyncConnection]:
        async with self._writing, self._engine.begin() as connection:
            yield connection

    async def tag(self, repository: Repository, tag: Tag) -> TagEntry | None:
        """Where a tag points; None when it is not cached."""
        query = select(_tags).where(_tags.c.repository == repository, _tags.c.name == tag)
        async with self._engine.connect() as connection:
            row = (await connection.execute(query)).one_or_none()
        return _tag_entry(row) if row else None

    async def manifest(self, digest: Digest) -> Manifest | None:
        """A manifest's bytes; None when it is not cached."""
        query = select(_manifests).where(_manifests.c.digest == str(digest))
        async with self._engine.connect() as connection:
            row = (await connection.execute(query)).one_or_none()
        return Manifest.of(row.content, row.media_type, digest) if row else None

    async def manifests_of(self, repository: Repository) -> frozenset[Digest]:
        """The manifests that belong to a repository."""
        query = select(_repository_manifests.c.digest).where(_repository_manifests.c.repository == repository)
        async with self._engine.connect() as connection:
            return frozenset(Digest.parse(text) for text in (await connection.execute(query)).scalars())

    async def blobs_of(self, repository: Repository) -> dict[Digest, Descriptor]:
        """The blobs that manifests of a repository refer to, held or not."""
        query = (
            select(_references.c.digest, _references.c.kind, _references.c.media_type, _references.c.size)
            .join(_repository_manifests, _repository_manifests.c.digest == _references.c.manifest)
            .where(_repository_manifests.c.repository == repository, _references.c.kind != ReferenceKind.MANIFEST)
            .distinct()
        )
        async with self._engine.connect() as connection:
            rows = (await connection.execute(query)).all()
        return {
            digest: Descriptor(digest=digest, kind=ReferenceKind(row.kind), media_type=row.media_type, size=row.size)
            for row in rows
            for digest in (Digest.parse(row.digest),)
        }

    async def images_with(self, repository: Repository, blob: Digest) -> list[Digest]:
        """The image manifests of a repository that refer to a blob, the one cached last first."""
        query = (
            select(_repository_manifests.c.digest)
            .join(_references, _references.c.manifest == _repository_manifests.c.digest)
            .where(_repository_manifests.c.repository == repository, _references.c.digest == str(blob))
            .order_by(_repository_manifests.c.cached.desc())
        )
        async with self._engine.connect() as connection:
            return [Digest.parse(text) for text in (await connection.execute(query)).scalars()]

    async def is_cached(self, repository: Repository) -> bool:
        """Whether the repository holds anything."""
        query = select(_repositories.c.name).where(_repositories.c.name == repository)
        async with self._engine.connect() as connection:
            return (await connection.execute(query)).one_or_none() is not None

    async def repository_names(self) -> list[Repository]:
        """All cached repositories, by name."""
        async with self._engine.connect() as connection:
            return [Repository(name) for name in (await connection.execute(select(_repositories.c.name).order_by(_repositories.c.name))).scalars()]

    async def repositories_count(self) -> int:
        """How many repositories are cached."""
        async with self._engine.connect() as connection:
            return int((await connection.execute(select(func.count()).select_from(_repositories))).scalar_one())

    async def repositories(self, name: Repository | None = None) -> list[CachedRepository]:
        """All cached repositories, or the one named, by name."""
        async with self._engine.connect() as connection:
            rows = (await connection.execute(_repositories_query(name))).all()
        return [
            CachedRepository(
                name=Repository(row.name),
                source=row.source,
                created=row.created,
                last_pull=row.last_pull,
                pulls=row.pulls,
                tags=row.tags or 0,
                manifests=row.manifests or 0,
                size=(row.blob_size or 0) + (row.manifest_size or 0),
                locked=row.locked,
            )
            for row in rows
        ]

    async def tags(self, repository: Repository) -> list[CachedTag]:
        """The tags of a repository, by name, with what is held behind each."""
        # An index leads to its children that are cached in this repository; an image manifest leads to itself.
        tags = select(_tags).where(_tags.c.repository == repository).order_by(_tags.c.name)
        children = (
            select(_references.c.manifest, _references.c.digest)
            .join(_repository_manifests, _repository_manifests.c.digest == _references.c.digest)
            .where(_references.c.kind == ReferenceKind.MANIFEST, _repository_manifests.c.repository == repository)
        )
        manifests = (
            select(_repository_manifests.c.digest, _repository_manifests.c.platform, func.length(_manifests.c.content).label("size"))
            .join(_manifests, _manifests.c.digest == _repository_manifests.c.digest)
            .where(_repository_manifests.c.repository == repository)
        )
        blobs = (
            select(_references.c.manifest, _blobs.c.digest, _blobs.c.size)
            .join(_blobs, _blobs.c.digest == _references.c.digest)
            .join(_repository_manifests, _repository_manifests.c.digest == _references.c.manifest)
            .where(_repository_manifests.c.repository == repository)
        )
        async with self._engine.connect() as connection:
            tag_rows = (await connection.execute(tags)).all()
            children_of: dict[str, set[str]] = {}
            for parent, child in await connection.execute(children):
                children_of.setdefault(parent, set()).add(child)
            known = {each.digest: each for each in await connection.execute(manifests)}
            blobs_of: dict[str, dict[str, int]] = {}
            for parent, blob, size in await connection.execute(blobs):
                blobs_of.setdefault(parent, {})[blob] = size
        found = []
        for row in tag_rows:
            reached = _reachable(row.digest, children_of) & known.keys()
            held = {digest: size for manifest in reached for digest, size in blobs_of.get(manifest, {}).items()}
            found.append(
                CachedTag(
                    name=Tag(row.name),
                    entry=_tag_entry(row),
                    last_pull=row.last_pull,
                    platforms=tuple(sorted({known[manifest].platform for manifest in reached if known[manifest].platform and manifest in blobs_of})),
                    size=sum(held.values()) + sum(known[manifest].size for manifest in reached),
                    locked=row.locked,
                )
            )
        return found

    async def manifests(self, repository: Repository) -> list[CachedManifest]:
        """The manifests of a repository, oldest first."""
        query = (
            select(_repository_manifests, _manifests.c.media_type, func.length(_manifests.c.content).label("size"))
            .join(_manifests, _manifests.c.digest == _repository_manifests.c.digest)
            .where(_repository_manifests.c.repository == repository)
            .order_by(_repository_manifests.c.cached, _repository_manifests.c.digest)
        )
        tags_query = select(_tags.c.name, _tags.c.digest).where(_tags.c.repository == repository).order_by(_tags.c.name)
        async with self._engine.connect() as connection:
            rows = (await connection.execute(query)).all()
            tags: dict[str, list[Tag]] = {}
            for name, digest in await connection.execute(tags_query):
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
            for row in rows
        ]

    async def blobs_size(self) -> int:
        """Bytes of all blobs held."""
        async with self._engine.connect() as connection:
            return int((await connection.execute(select(func.coalesce(func.sum(_blobs.c.size), 0)))).scalar_one())

    async def add_manifest(
        self, repository: Repository, source: str, manifest: Manifest, *, platform: str | None = None, tags: Iterable[Tag] = (), now: float
    ) -> None:
        """Take in a manifest with all that it refers to, link it to a repository, and point *tags* at it: all of it or nothing."""
        digest = str(manifest.digest)
        async with self._write() as connection:
            await _insert_missing(connection, _repositories, {"name": repository}, {"source": source, "created": now, "pulls": 0})
            if await _insert_missing(connection, _manifests, {"digest": digest}, {"media_type": manifest.media_type, "content": manifest.content}):
                references = [
                    {
                        "manifest": digest,
                        "position": position,
                        "digest": str(each.digest),
                        "kind": each.kind,
                        "media_type": each.media_type,
                        "size": each.size,
                        "platform": each.platform,
                        "optional": each.optional,
                    }
                    for position, each in enumerate(manifest.references)
                ]
                if references:
                    await connection.execute(insert(_references), references)
            if platform is None:
                # An index that came before names the platform of its children.
                named = select(_references.c.platform).where(_references.c.digest == digest, _references.c.platform.is_not(None)).limit(1)
                platform = (await connection.execute(named)).scalar_one_or_none()
            linked = {"repository": repository, "digest": digest}
            await _insert_missing(connection, _repository_manifests, linked, {"platform": platform, "cached": now})
            for tag in tags:
                await _point_tag(connection, repository, tag, digest, now)

    async def point_tag(self, repository: Repository, tag: Tag, digest: Digest, *, now: float) -> bool:
        """Point a tag at a manifest that the repository holds: the source said so just now. False when the repository holds it no more."""
        async with self._write() as connection:
            if (await connection.execute(select(1).where(_is_link(repository, digest)))).first() is None:
                return False
            await _point_tag(connection, repository, tag, str(digest), now)
        return True

    async def mark_tag_gone(self, repository: Repository, tag: Tag, *, now: float) -> None:
        """The source no longer has the tag; it is kept and served all the same."""
        async with self._write() as connection:
            await connection.execute(update(_tags).where(_tags.c.repository == repository, _tags.c.name == tag).values(gone=True, checked=now))

    async def set_platform(self, repository: Repository, digest: Digest, platform: str) -> None:
        """The platform of an image, known when its config is here."""
        async with self._write() as connection:
            await connection.execute(update(_repository_manifests).where(_is_link(repository, digest)).values(platform=platform))

    async def add_blob(self, digest: Digest, size: int, *, now: float) -> None:
        """A blob is held now."""
        async with self._write() as connection:
            await _insert_missing(connection, _blobs, {"digest": str(digest)}, {"size": size, "cached": now, "last_used": now})

    async def record_usage(self, usage: Usage) -> None:
        """Write down what was used: once in a while and not with each request."""
        async with self._write() as connection:
            for repository, (count, last) in usage.pulls.items():
                changed = {"pulls": _repositories.c.pulls + count, "last_pull": last}
                await connection.execute(update(_repositories).where(_repositories.c.name == repository).values(changed))
            for (repository, tag), last in usage.tags.items():
                await connection.execute(update(_tags).where(_tags.c.repository == repository, _tags.c.name == tag).values(last_pull=last))
            for (repository, digest), last in usage.manifests.items():
                await connection.execute(update(_repository_manifests).where(_is_link(repository, digest)).values(last_pull=last, last_used=last))
            for (repository, digest), last in usage.seen.items():
                before = _repository_manifests.c.last_used
                earlier = _is_link(repository, digest) & (before.is_(None) | (before < last))
                await connection.execute(update(_repository_manifests).where(earlier).values(last_used=last))
            for digest, last in usage.blobs.items():
                await connection.execute(update(_blobs).where(_blobs.c.digest == str(digest)).values(last_used=last))

            for rule, (answered, made) in usage.requests.items():
                await _insert_missing(connection, _rule_requests, {"rule": rule}, {"answered": 0, "made": 0})
                more = {"answered": _rule_requests.c.answered + answered, "made": _rule_requests.c.made + made}
                await connection.execute(update(_rule_requests).where(_rule_requests.c.rule == rule).values(more))

    async def requests_of_rules(self) -> dict[str, tuple[int, int]]:
        """By the name of each rule: manifests that clients got, and requests for them that the source got."""
        async with self._engine.connect() as connection:
            return {row.rule: (row.answered, row.made) for row in await connection.execute(select(_rule_requests))}

    async def forget_requests_of(self, rule: str) -> None:
        """The rule is gone: another of its name begins at zero."""
        async with self._write() as connection:
            await connection.execute(delete(_rule_requests).where(_rule_requests.c.rule == rule))

    async def delete_tag(self, repository: Repository, tag: Tag) -> bool:
        """Forget a tag; its manifests stay until the repository or they are deleted. False when it was not there."""
        async with self._write() as connection:
            result = await connection.execute(delete(_tags).where(_tags.c.repository == repository, _tags.c.name == tag))
        return bool(result.rowcount)

    async def delete_manifest(self, repository: Repository, digest: Digest) -> bool:
        """Forget a manifest of a repository and the tags that point at it. False when it was not there."""
        async with self._write() as connection:
            await connection.execute(delete(_tags).where(_tags.c.repository == repository, _tags.c.digest == str(digest)))
            result = await connection.execute(delete(_repository_manifests).where(_is_link(repository, digest)))
            await _drop_empty_repository(connection, repository)
        return bool(result.rowcount)

    async def delete_repository(self, repository: Repository) -> bool:
        """Forget a repository with its tags and manifests. False when it was not there."""
        async with self._write() as connection:
            result = await connection.execute(delete(_repositories).where(_repositories.c.name == repository))
        return bool(result.rowcount)

    async def collect(self, take_away: Callable[[Digest], bool]) -> int:
        """Drop the manifests that belong to no repository and the held blobs that no manifest refers to any more; gives how many blobs could not go yet.

        *take_away* removes a blob from the store, or says no because it is in use. It is called within the transaction, so no manifest that refers to the blob
        can come in between.
        """
        async with self._write() as connection:
            _, left = await _collect(connection, take_away)
        return left

    # Locks

    async def lock_repository(self, repository: Repository, locked: bool) -> bool:
        """Lock or unlock a repository with all that it holds. False when it is not there."""
        return await self._set(update(_repositories).where(_repositories.c.name == repository).values(locked=locked))

    async def lock_tag(self, repository: Repository, tag: Tag, locked: bool) -> bool:
        """Lock or unlock a tag. False when it is not there."""
        return await self._set(update(_tags).where(_tags.c.repository == repository, _tags.c.name == tag).values(locked=locked))

    async def lock_manifest(self, repository: Repository, digest: Digest, locked: bool) -> bool:
        """Lock or unlock a manifest of a repository. False when it is not there."""
        return await self._set(update(_repository_manifests).where(_is_link(repository, digest)).values(locked=locked))

    async def _set(self, statement: Any) -> bool:
        async with self._write() as connection:
            result: Any = await connection.execute(statement)
        return bool(result.rowcount)

    async def locks(self, repository: Repository) -> Locks:
        """What of a repository is locked."""
        whole = select(_repositories.c.locked).where(_repositories.c.name == repository)
        tags = select(_tags.c.name).where(_tags.c.repository == repository, _tags.c.locked)
        links = _repository_manifests.c
        manifests = select(links.digest).where(links.repository == repository, links.locked)
        async with self._engine.connect() as connection:
            return Locks(
                repository=bool((await connection.execute(whole)).scalar_one_or_none()),
                tags=frozenset(Tag(name) for name in (await connection.execute(tags)).scalars()),
                manifests=frozenset(Digest.parse(text) for text in (await connection.execute(manifests)).scalars()),
            )

    # Eviction

    async def picture(self) -> Picture:
        """What is held, for a plan of what goes."""
        # One row for each manifest and not for each of its blobs: with 10,000 repositories that is 20,000 rows in place of 160,000.
        blobs_of = (
            select(_references.c.manifest, func.aggregate_strings(_references.c.digest, " "))
            .join(_blobs, _blobs.c.digest == _references.c.digest)
            .where(_references.c.kind != ReferenceKind.MANIFEST)
            .group_by(_references.c.manifest)
        )
        async with self._engine.connect() as connection:
            rows = await _held_rows(connection, None)
            references = await _rows(connection, blobs_of)
            blobs = await _rows(connection, select(_blobs.c.digest, _blobs.c.size, _blobs.c.last_used))
        return await asyncio.to_thread(_picture, rows, references, blobs)

    async def held_manifests(self, repository: Repository) -> list[HeldManifest]:
        """The manifests of a repository with their locks, tags and children; their blobs are left out."""
        async with self._engine.connect() as connection:
            return _held_manifests(await _held_rows(connection, [repository]))

    async def manifests_with(self, blobs: Iterable[Digest]) -> set[tuple[Repository, Digest]]:
        """The manifests that refer to any of some blobs, in all repositories."""
        found: set[tuple[Repository, Digest]] = set()
        links = _repository_manifests.c
        async with self._engine.connect() as connection:
            for chunk in _chunks([str(each) for each in blobs]):
                query = select(links.repository, links.digest).join(_references, _references.c.manifest == links.digest).where(_references.c.digest.in_(chunk))
                found |= {(Repository(row.repository), Digest.parse(row.digest)) for row in await _rows(connection, query)}
        return found

    async def evict(self, plan: Plan, *, is_used: Callable[[PlannedImage], bool], take_away: Callable[[Digest], bool]) -> Evicted:
        """Carry out a plan in one transaction; what was used or locked since it was made stays, and so does an image of which *is_used* says so.

        *take_away* is that of `collect`.
        """
        async with self._write() as connection:
            last_used: dict[Digest, float] = {}
            for chunk in _chunks(sorted({str(blob) for each in plan.images for blob in each.telling})):
                for row in await _rows(connection, select(_blobs.c.digest, _blobs.c.last_used).where(_blobs.c.digest.in_(chunk))):
                    last_used[Digest.parse(row.digest)] = row.last_used

            def is_used_since(image: PlannedImage) -> bool:
                return any(last_used.get(blob, 0.0) > image.last_used for blob in image.telling) or is_used(image)

            repositories = sorted({each.manifest.repository for each in plan.images} | {repository for repository, _ in plan.empty})
            rows = await _held_rows(connection, repositories)
            used = {each.manifest.key for each in plan.images if is_used_since(each)}
            going = await asyncio.to_thread(lambda: confirmed(plan, _held_manifests(rows), used=used))
            if going:
                keys = [{"in_repository": repository, "of_digest": str(digest)} for repository, digest in sorted(going)]
                for table in (_tags, _repository_manifests):
                    same = (table.c.repository == bindparam("in_repository")) & (table.c.digest == bindparam("of_digest"))
                    await connection.execute(delete(table).where(same), keys)
                left_in = select(_repository_manifests.c.digest).where(_repository_manifests.c.repository == _repositories.c.name)
                for chunk in _chunks(repositories):
                    await connection.execute(delete(_repositories).where(_repositories.c.name.in_(chunk), ~exists(left_in)))
            freed, left = await _collect(connection, take_away)
        return Evicted(tuple(each for each in plan.images if each.manifest.key in going), frozenset(going), freed, left)

    async def reconcile(self, held: Mapping[Digest, int], *, now: float) -> tuple[int, int]:
        """Make the rows agree with the files, which are right: adopt files without a row, drop rows without a file. Gives both counts."""
        async with self._write() as connection:
            known = {row.digest: row.size for row in await connection.execute(select(_blobs.c.digest, _blobs.c.size))}
            on_disk = {str(digest): size for digest, size in held.items()}
            missing = [digest for digest in known if digest not in on_disk]
            for digest in missing:
                await connection.execute(delete(_blobs).where(_blobs.c.digest == digest))
            adopted = [{"digest": digest, "size": size, "cached": now, "last_used": now} for digest, size in on_disk.items() if digest not in known]
            if adopted:
                await connection.execute(insert(_blobs), adopted)
        return len(adopted), len(missing)


def _set_up_connection(connection: Any, _record: Any) -> None:
    # WAL: readers never wait for the writer. NORMAL: a power cut may lose the last rows, which the next pull brings back, but leaves the database whole.
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "busy_timeout=5000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _create_schema(connection: Connection) -> None:
    version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    if version > SCHEMA_VERSION:
        raise EngineError(
            f"The catalog was written by a newer Entrepot (its version is {version}, this one knows {SCHEMA_VERSION}).",
            "Run that newer Entrepot, or move the catalog out of the way: it is made anew and fills as images are pulled.",
        )
    if version:
        for added in (column for newer in range(version + 1, SCHEMA_VERSION + 1) for column in _ADDED[newer]):
            _add_column(connection, added)
    _schema.create_all(connection)
    connection.exec_driver_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _add_column(connection: Connection, column: Column[Any]) -> None:
    table = column.table.name
    # Each column is a transaction of its own: an engine that was killed in between has added some of them.
    if column.name in {row[1] for row in connection.exec_driver_sql(f"PRAGMA table_info({table})")}:
        return
    connection.exec_driver_sql(f"ALTER TABLE {table} ADD COLUMN {CreateColumn(column).compile(dialect=connection.dialect)}")


async def _rows(connection: AsyncConnection, query: Any) -> list[Any]:
    """All rows of a long answer, a thousand at a time, so that other work goes on in between."""
    found: list[Any] = []
    async for part in (await connection.stream(query)).partitions(1000):
        found.extend(part)
    return found


def _chunks(values: Sequence[T]) -> Iterator[Sequence[T]]:
    return (values[start : start + AT_ONCE] for start in range(0, len(values), AT_ONCE))


def _is_link(repository: Repository, digest: Digest) -> ColumnElement[bool]:
    return (_repository_manifests.c.repository == repository) & (_repository_manifests.c.digest == str(digest))


async def _collect(connection: AsyncConnection, take_away: Callable[[Digest], bool]) -> tuple[int, int]:
    """Drop what nothing refers to; gives the bytes that are free now and the number of blobs that could not go yet."""
    linked = select(_repository_manifests.c.digest).where(_repository_manifests.c.digest == _manifests.c.digest)
    referred = select(_references.c.digest).where(_references.c.digest == _blobs.c.digest)
    await connection.execute(delete(_manifests).where(~exists(linked)))
    orphans = await _rows(connection, select(_blobs.c.digest, _blobs.c.size).where(~exists(referred)))
    gone: list[Any] = []
    for count, row in enumerate(orphans, 1):
        if take_away(Digest.parse(row.digest)):
            gone.append(row)
        if count % 64 == 0:
            # Each is a rename, done at once so that whoever looks next finds the blob gone; thousands of them in a row would keep clients waiting.
            await asyncio.sleep(0)
    if gone:
        await connection.execute(delete(_blobs).where(_blobs.c.digest == bindparam("gone")), [{"gone": row.digest} for row in gone])
    return sum(row.size for row in gone), len(orphans) - len(gone)


@dataclass(frozen=True, slots=True)
class _HeldRows:
    links: list[Any]
    tags: list[Any]
    children: list[Any]


async def _held_rows(connection: AsyncConnection, repositories: Collection[Repository] | None) -> _HeldRows:
    """The manifests of some repositories (None: of all), the tags that point at them, and which of them leads to which."""
    child = _repository_manifests.alias()
    links = select(
        _repository_manifests.c.repository,
        _repository_manifests.c.digest,
        _repository_manifests.c.platform,
        _repository_manifests.c.cached,
        _repository_manifests.c.last_pull,
        _repository_manifests.c.last_used,
        (_repository_manifests.c.locked | _repositories.c.locked).label("locked"),
    ).join(_repositories, _repositories.c.name == _repository_manifests.c.repository)
    tags = select(_tags.c.repository, _tags.c.digest, _tags.c.name, _tags.c.locked).order_by(_tags.c.name)
    children = (
        select(_repository_manifests.c.repository, _references.c.manifest, _references.c.digest)
        .join(_references, _references.c.manifest == _repository_manifests.c.digest)
        .join(child, (child.c.digest == _references.c.digest) & (child.c.repository == _repository_manifests.c.repository))
        .where(_references.c.kind == ReferenceKind.MANIFEST)
        .distinct()
    )
    if repositories is None:
        return _HeldRows(await _rows(connection, links), await _rows(connection, tags), await _rows(connection, children))
    found = _HeldRows([], [], [])
    for chunk in _chunks(list(repositories)):
        found.links.extend(await _rows(connection, links.where(_repository_manifests.c.repository.in_(chunk))))
        found.tags.extend(await _rows(connection, tags.where(_tags.c.repository.in_(chunk))))
        found.children.extend(await _rows(connection, children.where(_repository_manifests.c.repository.in_(chunk))))
    return found


class _Digests(dict[str, Digest]):
    """The digests of many rows, each read once."""

    def __missing__(self, text: str) -> Digest:
        digest = self[text] = Digest.parse(text)
        return digest


def _held_manifests(rows: _HeldRows, blobs_of: Mapping[str, list[Digest]] | None = None, digests: _Digests | None = None) -> list[HeldManifest]:
    digests = _Digests() if digests is None else digests
    tags: dict[tuple[str, str], list[Tag]] = {}
    locked: set[tuple[str, str]] = set()
    for repository, digest, name, is_locked in rows.tags:
        tags.setdefault((repository, digest), []).append(Tag(name))
        if is_locked:
            locked.add((repository, digest))
    children: dict[tuple[str, str], list[Digest]] = {}
    for repository, parent, child in rows.children:
        children.setdefault((repository, parent), []).append(digests[child])
    return [
        HeldManifest(
            repository=Repository(repository),
            digest=digests[digest],
            platform=platform,
            asked=max(cached, last_pull or 0.0, last_used or 0.0),
            locked=bool(is_locked) or (repository, digest) in locked,
            tags=tuple(tags.get((repository, digest), ())),
            children=tuple(children.get((repository, digest), ())),
            blobs=tuple(blobs_of.get(digest, ())) if blobs_of else (),
        )
        for repository, digest, platform, cached, last_pull, last_used, is_locked in rows.links
    ]


def _picture(rows: _HeldRows, references: Sequence[Any], blobs: Sequence[Any]) -> Picture:
    digests = _Digests()
    held = {digests[digest]: HeldBlobUse(size, last_used) for digest, size, last_used in blobs}
    # A manifest may name a blob twice. The rows were read one table after the other: a blob that went in between is left out.
    blobs_of = {manifest: [digest for text in dict.fromkeys(together.split(" ")) if (digest := digests[text]) in held] for manifest, together in references}
    return Picture(_held_manifests(rows, blobs_of, digests), held)


async def _insert_missing(connection: AsyncConnection, table: Table, key: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    """Insert a row unless one with its *key* is there; whether it was inserted. Writers wait for each other, so nothing comes in between."""
    same = [table.c[name] == value for name, value in key.items()]
    if (await connection.execute(select(1).select_from(table).where(*same))).first():
        return False
    await connection.execute(insert(table).values(**key, **values))
    return True


async def _point_tag(connection: AsyncConnection, repository: Repository, tag: Tag, digest: str, now: float) -> None:
    same = (_tags.c.repository == repository) & (_tags.c.name == tag)
    row = (await connection.execute(select(_tags.c.digest).where(same))).one_or_none()
    if row is None:
        await connection.execute(insert(_tags).values(repository=repository, name=tag, digest=digest, cached=now, checked=now, gone=False))
    elif row.digest == digest:
        await connection.execute(update(_tags).where(same).values(checked=now, gone=False))
    else:
        await connection.execute(update(_tags).where(same).values(digest=digest, cached=now, checked=now, gone=False))


async def _drop_empty_repository(connection: AsyncConnection, repository: Repository) -> None:
    left = select(_repository_manifests.c.digest).where(_repository_manifests.c.repository == repository)
    await connection.execute(delete(_repositories).where(_repositories.c.name == repository, ~exists(left)))


def _repositories_query(name: Repository | None) -> Any:
    held = (
        select(_repository_manifests.c.repository, _blobs.c.digest, _blobs.c.size)
        .join(_references, _references.c.manifest == _repository_manifests.c.digest)
        .join(_blobs, _blobs.c.digest == _references.c.digest)
        .distinct()
    )
    if name:
        held = held.where(_repository_manifests.c.repository == name)
    held_blobs = held.subquery()
    sizes = select(held_blobs.c.repository, func.sum(held_blobs.c.size).label("blob_size")).group_by(held_blobs.c.repository).subquery()
    manifests = (
        select(
            _repository_manifests.c.repository,
            func.count(distinct(_repository_manifests.c.digest)).label("manifests"),
            func.sum(func.length(_manifests.c.content)).label("manifest_size"),
        )
        .join(_manifests, _manifests.c.digest == _repository_manifests.c.digest)
        .group_by(_repository_manifests.c.repository)
        .subquery()
    )
    tags = select(_tags.c.repository, func.count().label("tags")).group_by(_tags.c.repository).subquery()
    query = (
        select(_repositories, sizes.c.blob_size, manifests.c.manifests, manifests.c.manifest_size, tags.c.tags)
        .join(sizes, sizes.c.repository == _repositories.c.name, isouter=True)
        .join(manifests, manifests.c.repository == _repositories.c.name, isouter=True)
        .join(tags, tags.c.repository == _repositories.c.name, isouter=True)
        .order_by(_repositories.c.name)
    )
    return query.where(_repositories.c.name == name) if name else query


def _tag_entry(row: Any) -> TagEntry:
    return TagEntry(digest=Digest.parse(row.digest), cached=row.cached, checked=row.checked, gone=row.gone)


def _reachable(digest: str, children_of: Mapping[str, set[str]]) -> set[str]:
    found: set[str] = set()
    ahead = [digest]
    while ahead:
        current = ahead.pop()
        if current not in found:
            found.add(current)
            ahead.extend(children_of.get(current, ()))
    return found
