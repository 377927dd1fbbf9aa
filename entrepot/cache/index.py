"""The index: what each repository has in the cache, in memory.

It holds what requests need again and again. All changes go through here, and reach the catalog
before clients see them, except where the catalog fails or hangs: then clients get them from memory
(S19, L02). A disk that is full, damaged or hangs stops no client whose source answers.

A new manifest waits for the catalog `WRITE_TIMEOUT` seconds at most. One that the catalog does not
take stays in memory, and is written later. A moved tag is not written later: after a restart its
source is asked again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from entrepot.cache.bounded import BoundedMap, Tally
from entrepot.core.reference import Digest, Repository, Tag
from entrepot.store.catalog import Catalog
from entrepot.store.connections import CatalogFailed
from entrepot.store.manifests import Descriptor, Manifest
from entrepot.store.records import TagEntry

REPOSITORIES = 4_000
"""Repositories whose index stays in memory, those used last."""

TAGS = 50_000
"""Tags that stay in memory, those used last."""

MANIFEST_BYTES = 32 * 1024 * 1024
"""Manifests that stay in memory, those used last, in bytes."""

REFERENCE_BYTES = 500
"""Bytes of memory that one parsed reference of a manifest takes, beside the manifest's content."""

RESOLVED_TAGS = 500
"""Uncached tags of one repository whose digest at the source is remembered."""

DIGESTS = 1_000
"""Digests of one repository whose tag, or whose platform, in the last request is remembered."""

RECENT_BLOBS = 2_000
"""Blobs of recently requested images of one repository that are remembered, to know for which image
a client requests a layer."""

MAX_REMEMBERED = 50_000
"""All of these together, in all repositories: some 600 bytes each. Beyond it those of the
repositories whose last request is oldest are dropped."""

MAX_UNWRITTEN_BYTES = 32 * 1024 * 1024
"""Bytes of manifests that are in memory only, because the catalog fails."""

MAX_UNWRITTEN_MANIFESTS = 2_000
"""Such manifests."""

WRITE_TIMEOUT = 2.0
"""Seconds that a client waits for the catalog to take its manifest; the write goes on without the
client."""

STALLED_WRITE_TIMEOUT = 0.5
"""The same, in seconds, while an earlier write hangs."""

_log = logging.getLogger("entrepot.cache")


@dataclass(frozen=True, slots=True)
class ResolvedTag:
    """The source's answer to a HEAD on a tag.

    *size* is in bytes, *time* in seconds of a monotonic clock.
    """

    digest: Digest
    media_type: str
    size: int
    time: float


@dataclass
class RepositoryIndex:
    """The manifests and blobs of one repository, and its recent requests."""

    manifests: dict[Digest, str]
    """By digest: the media type that the source of this repository gives. Another source may give
    the same bytes another one."""
    blobs: dict[Digest, Descriptor]
    tally: Tally = field(default_factory=Tally, repr=False)
    """Counts what is remembered of requests, in all repositories together."""
    is_current: bool = True
    """False when something of it was evicted: manifests and blobs are read again at its next
    request."""

    def __post_init__(self) -> None:
        self.resolved: BoundedMap[Tag | Digest, ResolvedTag] = BoundedMap(RESOLVED_TAGS, self.tally)
        self.tag_of: BoundedMap[Digest, Tag] = BoundedMap(DIGESTS, self.tally)
        """The tag of the last request for a manifest, or for the index above it."""
        self.platform_of: BoundedMap[Digest, str] = BoundedMap(DIGESTS, self.tally)
        self._recent: BoundedMap[Digest, frozenset[Digest]] = BoundedMap(
            RECENT_BLOBS, self.tally, lambda blobs: 1 + len(blobs)
        )
        """The blobs of recently requested images. Not their manifests: some have megabytes."""

    def add_manifest(self, manifest: Manifest) -> None:
        """Add a manifest and its blobs."""
        self.manifests[manifest.digest] = manifest.media_type
        for blob in manifest.blobs:
            # Another manifest may state the size that this one does not.
            if blob.size is not None or blob.digest not in self.blobs:
                self.blobs[blob.digest] = blob

    def record_request(self, manifest: Manifest, tag: Tag | None) -> None:
        """Record that a client got a manifest, by *tag* or by its digest."""
        if tag is not None:
            self.tag_of.note(manifest.digest, tag)
        for child in manifest.children:
            if tag is not None:
                self.tag_of.note(child.digest, tag)
            if child.platform is not None:
                self.platform_of.note(child.digest, child.platform)
        if not manifest.is_index:
            blobs = self._recent.get(manifest.digest)
            if blobs is None or next(reversed(self._recent)) != manifest.digest:
                self._recent[manifest.digest] = (
                    frozenset(blob.digest for blob in manifest.blobs) if blobs is None else blobs
                )

    def latest_image_with(self, blob: Digest) -> Digest | None:
        """The manifest of the last requested image that has this blob."""
        return next(
            (digest for digest in reversed(self._recent) if blob in self._recent[digest]), None
        )

    def drop_requests(self) -> None:
        """Drop the recent requests, and what the source answered to them."""
        for requests in self._requests:
            requests.clear()

    def release(self) -> None:
        """Stop counting in the common tally: the index of this repository is dropped."""
        for requests in self._requests:
            requests.release()

    @property
    def _requests(self) -> tuple[BoundedMap[Any, Any], ...]:
        return self.resolved, self.tag_of, self.platform_of, self._recent

    def source_confirmed(
        self, tag: Tag, digest: Digest, media_type: str, size: int, now: float
    ) -> None:
        """Record where a tag points by what the source answered to a HEAD."""
        self.resolved[tag] = ResolvedTag(digest, media_type, size, now)
        self.tag_of[digest] = tag

    def tags_resolved_to(self, digest: Digest) -> list[Tag]:
        """The tags that point at *digest* by the source's answers to HEAD.

        containerd sends a HEAD for a tag and then a GET for the digest.
        """
        return [
            tag
            for tag, resolved in self.resolved.items()
            if resolved.digest == digest and not isinstance(tag, Digest)
        ]


@dataclass(frozen=True, slots=True)
class Unwritten:
    """A manifest that the catalog has not taken yet, with the tags that point at it.

    *time* is when it came.
    """

    repository: Repository
    source: str
    manifest: Manifest
    tags: tuple[Tag, ...]
    time: float


class UnwrittenManifests:
    """The manifests that are in memory only.

    The latest ones, within `MAX_UNWRITTEN_BYTES` and `MAX_UNWRITTEN_MANIFESTS`.
    """

    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[Repository, Digest], Unwritten] = OrderedDict()
        self._bytes = 0

    def add(self, unwritten: Unwritten) -> Unwritten:
        """Add a manifest; return what has to be written.

        That includes the tags that pointed at it before.
        """
        key = (unwritten.repository, unwritten.manifest.digest)
        before = self._entries.pop(key, None)
        if before is not None:
            self._bytes -= len(before.manifest.content)
            unwritten = replace(
                unwritten, tags=tuple(dict.fromkeys((*before.tags, *unwritten.tags)))
            )
        for other_key, other in list(self._entries.items()) if unwritten.tags else ():
            if other.repository == unwritten.repository and set(other.tags) & set(unwritten.tags):
                # A tag points at one manifest only.
                self._entries[other_key] = replace(
                    other, tags=tuple(tag for tag in other.tags if tag not in unwritten.tags)
                )
        self._entries[key] = unwritten
        self._bytes += len(unwritten.manifest.content)
        while self._bytes > MAX_UNWRITTEN_BYTES or len(self._entries) > MAX_UNWRITTEN_MANIFESTS:
            _, oldest = self._entries.popitem(last=False)
            self._bytes -= len(oldest.manifest.content)
        return unwritten

    def remove(self, written: Unwritten) -> None:
        """Remove a manifest that the catalog has taken."""
        entry = self._entries.pop((written.repository, written.manifest.digest), None)
        if entry is not None:
            self._bytes -= len(entry.manifest.content)

    def first(self) -> Unwritten | None:
        """The manifest that came first."""
        return next(iter(self._entries.values()), None)

    def of(self, repository: Repository) -> list[Unwritten]:
        """The manifests of a repository."""
        return [entry for entry in self._entries.values() if entry.repository == repository]

    def manifest(self, digest: Digest) -> Manifest | None:
        """A manifest of any repository."""
        manifests = (entry.manifest for entry in self._entries.values())
        return next((manifest for manifest in manifests if manifest.digest == digest), None)

    def tag(self, repository: Repository, tag: Tag) -> TagEntry | None:
        """Where a tag points."""
        return next(
            (
                TagEntry(entry.manifest.digest, entry.time, entry.time)
                for entry in self.of(repository)
                if tag in entry.tags
            ),
            None,
        )

    def point_tag(self, repository: Repository, tag: Tag, digest: Digest) -> bool:
        """Point a tag at a manifest; False when the manifest is not among these."""
        entry = self._entries.get((repository, digest))
        if entry is None:
            return False
        self.add(replace(entry, tags=(tag,)))
        return True


class CacheIndex:
    """The indexes of all repositories, each read from the catalog at its first request."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._repositories: OrderedDict[Repository, RepositoryIndex] = OrderedDict()
        self._tags: OrderedDict[tuple[Repository, Tag], TagEntry] = OrderedDict()
        self._manifests: OrderedDict[Digest, Manifest] = OrderedDict()
        self._manifest_bytes = 0
        self._tally = Tally()
        self._unwritten = UnwrittenManifests()
        self._hanging: set[asyncio.Future[bool]] = set()
        """Writes whose client waits no longer."""
        self._invalidations = 0
        """Counts invalidations: what was read from the catalog before one must not be stored after
        it."""

    async def of(self, repository: Repository) -> RepositoryIndex:
        """The index of a repository; where the catalog fails, what is in memory of it."""
        if self._tally.count > MAX_REMEMBERED:
            self._drop_oldest_requests(repository)
        index = self._repositories.get(repository)
        if index is not None and index.is_current:
            self._repositories.move_to_end(repository)
            return index
        is_current = True
        while True:
            before = self._invalidations
            try:
                manifests = await self._catalog.media_types_of(repository)
                blobs = await self._catalog.blobs_of(repository)
            except CatalogFailed:
                is_current, manifests, blobs = False, {}, {}
                break
            if before == self._invalidations:
                break
        index = self._repositories.setdefault(
            repository, RepositoryIndex(manifests, blobs, self._tally, is_current=is_current)
        )
        if not index.is_current and is_current:
            index.manifests, index.blobs, index.is_current = manifests, blobs, True
        for unwritten in self._unwritten.of(repository):
            index.add_manifest(unwritten.manifest)
        while len(self._repositories) > REPOSITORIES:
            _, oldest = self._repositories.popitem(last=False)
            oldest.release()
        return index

    def _drop_oldest_requests(self, current: Repository) -> None:
        """Drop the requests of the repositories whose last request is oldest.

        Those of the *current* repository stay.
        """
        for repository, index in self._repositories.items():
            if self._tally.count <= MAX_REMEMBERED * 3 // 4:
                break
            if repository != current:
                index.drop_requests()

    async def tag(self, repository: Repository, tag: Tag) -> TagEntry | None:
        """Where a tag points; None when it is not cached."""
        entry = self._tags.get((repository, tag))
        if entry is not None:
            self._tags.move_to_end((repository, tag))
            return entry
        before = self._invalidations
        try:
            entry = await self._catalog.tag(repository, tag)
        except CatalogFailed:
            return self._unwritten.tag(repository, tag)
        if entry is not None and before == self._invalidations:
            self._store_tag(repository, tag, entry)
        return entry

    def tag_in_memory(self, repository: Repository, tag: Tag) -> TagEntry | None:
        """Where a tag points, if that is in memory; the catalog is not read."""
        return self._tags.get((repository, tag))

    async def manifest(self, digest: Digest) -> Manifest | None:
        """A cached manifest of any repository, with a media type that one of them gave.

        See `manifest_of`. Raises `CatalogFailed` for one that is not in memory.
        """
        manifest = self._manifests.get(digest) or self._unwritten.manifest(digest)
        if manifest is not None:
            if digest in self._manifests:
                self._manifests.move_to_end(digest)
            return manifest
        before = self._invalidations
        manifest = await self._catalog.manifest(digest)
        if manifest is not None and before == self._invalidations:
            self._store_manifest(manifest)
        return manifest

    async def manifest_of(self, repository: Repository, digest: Digest) -> Manifest | None:
        """A cached manifest of a repository, with the media type that its source gave.

        None when it is not cached there.
        """
        media_type = (await self.of(repository)).manifests.get(digest)
        manifest = await self.manifest(digest) if media_type is not None else None
        if manifest is None or media_type is None or manifest.media_type == media_type:
            return manifest
        return replace(manifest, media_type=media_type)

    async def add_manifest(
        self,
        repository: Repository,
        source: str,
        manifest: Manifest,
        *,
        tags: Iterable[Tag],
        now: float,
    ) -> None:
        """Add a manifest to a repository and point *tags* at it.

        It is in memory only until the catalog takes it.
        """
        tags = list(tags)
        # Other requests must get it also during the write.
        unwritten = self._unwritten.add(Unwritten(repository, source, manifest, tuple(tags), now))
        writing = asyncio.ensure_future(self._write(unwritten))
        await asyncio.wait(
            {writing},
            timeout=STALLED_WRITE_TIMEOUT
            if self._hanging or self._catalog.is_stalled
            else WRITE_TIMEOUT,
        )
        if writing.done():
            writing.result()
        else:
            # A write that hangs is not cancelled: it may yet succeed, and the client does not wait
            # for it.
            self._hanging.add(writing)
            writing.add_done_callback(self._hanging.discard)
        index = await self.of(repository)
        index.add_manifest(manifest)
        for tag in tags:
            index.resolved.pop(tag, None)
            self._store_tag(repository, tag, TagEntry(manifest.digest, now, now))
        self._store_manifest(manifest)

    async def _write(self, unwritten: Unwritten) -> bool:
        """Write a manifest to the catalog; False when the catalog fails."""
        manifest = unwritten.manifest
        try:
            await self._catalog.add_manifest(
                unwritten.repository,
                unwritten.source,
                manifest,
                tags=unwritten.tags,
                now=unwritten.time,
            )
        except CatalogFailed as error:
            _log.debug(
                "The manifest %s of %s is in memory only: %s",
                manifest.digest,
                unwritten.repository,
                error,
            )
            return False
        except (OverflowError, UnicodeError):
            # No catalog takes a number or a text like that, now or later (F67).
            self._unwritten.remove(unwritten)
            raise
        self._unwritten.remove(unwritten)
        return True

    async def write_unwritten(self) -> int:
        """Write the manifests in memory; return how many the catalog took.

        Raises nothing when it fails again.
        """
        count = 0
        while not self._hanging and (unwritten := self._unwritten.first()) is not None:
            if not await self._write(unwritten):
                break
            count += 1
        return count

    async def point_tag(
        self, repository: Repository, tag: Tag, digest: Digest, *, now: float
    ) -> bool:
        """Point a tag at a cached manifest, as the source says.

        False when the manifest was evicted or deleted meanwhile.
        """
        try:
            if not await self._catalog.point_tag(repository, tag, digest, now=now):
                return self._unwritten.point_tag(repository, tag, digest)
        except CatalogFailed as error:
            # After a restart the source is asked again.
            _log.debug(
                "That %s:%s points at %s is in memory only: %s", repository, tag, digest, error
            )
        before = self._tags.get((repository, tag))
        cached = before.cached if before is not None and before.digest == digest else now
        self._store_tag(repository, tag, TagEntry(digest, cached, now))
        return True

    def invalidate_tag(self, repository: Repository, tag: Tag) -> None:
        """Read a tag from the catalog again at its next request."""
        self._invalidations += 1
        self._tags.pop((repository, tag), None)

    def invalidate(self, repository: Repository) -> None:
        """Read a repository from the catalog again at its next request."""
        self._invalidations += 1
        if (index := self._repositories.pop(repository, None)) is not None:
            index.release()
        for key in [key for key in self._tags if key[0] == repository]:
            del self._tags[key]

    def invalidate_evicted(self, repositories: Collection[Repository]) -> None:
        """Read repositories again from which images were evicted.

        Their recent requests stay.
        """
        self._invalidations += 1
        for repository in repositories:
            if (index := self._repositories.get(repository)) is not None:
                index.is_current = False
        for key in [key for key in self._tags if key[0] in repositories]:
            del self._tags[key]
        self.invalidate_manifests()

    def invalidate_manifests(self) -> None:
        """Read manifests from the catalog again: some were deleted."""
        self._invalidations += 1
        self._manifests.clear()
        self._manifest_bytes = 0

    def _store_tag(self, repository: Repository, tag: Tag, entry: TagEntry) -> None:
        self._tags[repository, tag] = entry
        self._tags.move_to_end((repository, tag))
        while len(self._tags) > TAGS:
            self._tags.popitem(last=False)

    def _store_manifest(self, manifest: Manifest) -> None:
        if manifest.digest in self._manifests:
            return
        self._manifests[manifest.digest] = manifest
        self._manifest_bytes += _weight(manifest)
        while self._manifest_bytes > MANIFEST_BYTES:
            _, oldest = self._manifests.popitem(last=False)
            self._manifest_bytes -= _weight(oldest)


def _weight(manifest: Manifest) -> int:
    return len(manifest.content) + REFERENCE_BYTES * len(manifest.references)
