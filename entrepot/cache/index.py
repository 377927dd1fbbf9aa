"""What each repository holds, in memory: the answers of the catalog that the way of a request needs
again and again.

All changes go through here and reach the catalog before they are believed, so memory and catalog
never differ for longer than a write takes.

Where the catalog fails, what is in memory is served, and what a source gives is kept in memory only
until the catalog takes it (S19, L02): a disk that is full, damaged or hangs stops no client whose
source answers.
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
from entrepot.store.catalog import Catalog, CatalogFailed, TagEntry
from entrepot.store.manifests import Descriptor, Manifest

REPOSITORIES = 4_000
"""Repositories whose holdings stay in memory, those used last."""

TAGS = 50_000
"""Tags that stay in memory, those used last."""

MANIFEST_BYTES = 32 * 1024 * 1024
"""Manifests that stay in memory, those used last, in bytes."""

REFERENCE_BYTES = 500
"""What the view of one reference of a manifest takes beside its content, in bytes."""

RESOLVED_TAGS = 500
"""Tags of one repository that are not cached and of which it is remembered where the source said
they point."""

DIGESTS = 1_000
"""Digests of one repository of which it is remembered under which tag, or for which platform, a
client asked for them."""

RECENT_BLOBS = 2_000
"""Blobs of the images of one repository that clients asked for lately, by which it is known which
image a layer is wanted for."""

MAX_REMEMBERED = 50_000
"""All of these together, over all repositories: some 600 bytes each. Beyond it the repositories
that were asked longest ago are forgotten."""

MAX_UNWRITTEN_BYTES = 32 * 1024 * 1024
"""Manifests that are kept in memory only because the catalog fails, in bytes."""

MAX_UNWRITTEN_MANIFESTS = 2_000
"""Such manifests."""

WRITE_TIMEOUT = 2.0
"""Seconds that a client waits until the catalog has taken its manifest; the write goes on without
it."""

STALLED_WRITE_TIMEOUT = 0.5
"""The same while an earlier write hangs."""

_log = logging.getLogger("entrepot.cache")


@dataclass(frozen=True, slots=True)
class ResolvedTag:
    """What the source said in a HEAD on a tag. *size* is in bytes, *time* in seconds of a monotonic
    clock."""

    digest: Digest
    media_type: str
    size: int
    time: float


@dataclass
class RepositoryIndex:
    """What one repository holds and what was asked of it lately."""

    manifests: dict[Digest, str]
    """Each with the media type that the source of this repository gave: another source may call the
    same bytes something else."""
    blobs: dict[Digest, Descriptor]
    tally: Tally = field(default_factory=Tally, repr=False)
    """What is remembered of requests, in all repositories together."""
    is_current: bool = True
    """False when something of it was evicted: manifests and blobs are read anew when it is next
    asked for."""

    def __post_init__(self) -> None:
        self.resolved: BoundedMap[Tag | Digest, ResolvedTag] = BoundedMap(RESOLVED_TAGS, self.tally)
        self.tag_of: BoundedMap[Digest, Tag] = BoundedMap(DIGESTS, self.tally)
        """The tag under which a manifest, or the index above it, was asked for last."""
        self.platform_of: BoundedMap[Digest, str] = BoundedMap(DIGESTS, self.tally)
        self._recent: BoundedMap[Digest, frozenset[Digest]] = BoundedMap(
            RECENT_BLOBS, self.tally, lambda blobs: 1 + len(blobs)
        )
        """The blobs of each image that was asked for lately. Not the images themselves: some are
        megabytes."""

    def add_manifest(self, manifest: Manifest) -> None:
        """The manifest belongs to the repository now, and so do its blobs."""
        self.manifests[manifest.digest] = manifest.media_type
        for each in manifest.blobs:
            # Another manifest may state the size that this one does not.
            if each.size is not None or each.digest not in self.blobs:
                self.blobs[each.digest] = each

    def record_request(self, manifest: Manifest, tag: Tag | None) -> None:
        """A client got the manifest."""
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
                    frozenset(each.digest for each in manifest.blobs) if blobs is None else blobs
                )

    def latest_image_with(self, blob: Digest) -> Digest | None:
        """The manifest of the image asked for last that has this blob."""
        return next(
            (digest for digest in reversed(self._recent) if blob in self._recent[digest]), None
        )

    def forget_requests(self) -> None:
        """Forget what clients asked for lately, and what the source said to it."""
        for remembered in self._remembered:
            remembered.clear()

    def release(self) -> None:
        """It is no longer one of the holdings that count together."""
        for remembered in self._remembered:
            remembered.release()

    @property
    def _remembered(self) -> tuple[BoundedMap[Any, Any], ...]:
        return self.resolved, self.tag_of, self.platform_of, self._recent

    def source_confirmed(
        self, tag: Tag, digest: Digest, media_type: str, size: int, now: float
    ) -> None:
        """The source said where a tag points."""
        self.resolved[tag] = ResolvedTag(digest, media_type, size, now)
        self.tag_of[digest] = tag

    def tags_resolved_to(self, digest: Digest) -> list[Tag]:
        """The tags of which the source said that they point at *digest*; containerd asks for a tag
        with HEAD and then for the digest."""
        return [
            tag
            for tag, resolved in self.resolved.items()
            if resolved.digest == digest and not isinstance(tag, Digest)
        ]


@dataclass(frozen=True, slots=True)
class Unwritten:
    """A manifest that the catalog did not take yet, with the tags that point at it; *time* is when
    it came."""

    repository: Repository
    source: str
    manifest: Manifest
    tags: tuple[Tag, ...]
    time: float


class UnwrittenManifests:
    """The manifests that are kept in memory only, those that came last, within `MAX_UNWRITTEN_BYTES`."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Repository, Digest], Unwritten] = OrderedDict()
        self._bytes = 0

    def add(self, unwritten: Unwritten) -> Unwritten:
        """Keep a manifest, with the tags that pointed at it before as well; gives what has to be
        written."""
        key = (unwritten.repository, unwritten.manifest.digest)
        before = self._kept.pop(key, None)
        if before is not None:
            self._bytes -= len(before.manifest.content)
            unwritten = replace(
                unwritten, tags=tuple(dict.fromkeys((*before.tags, *unwritten.tags)))
            )
        for other_key, other in list(self._kept.items()) if unwritten.tags else ():
            if other.repository == unwritten.repository and set(other.tags) & set(unwritten.tags):
                # A tag points at one manifest only.
                self._kept[other_key] = replace(
                    other, tags=tuple(each for each in other.tags if each not in unwritten.tags)
                )
        self._kept[key] = unwritten
        self._bytes += len(unwritten.manifest.content)
        while self._bytes > MAX_UNWRITTEN_BYTES or len(self._kept) > MAX_UNWRITTEN_MANIFESTS:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= len(oldest.manifest.content)
        return unwritten

    def remove(self, written: Unwritten) -> None:
        """The catalog has taken a manifest."""
        kept = self._kept.pop((written.repository, written.manifest.digest), None)
        if kept is not None:
            self._bytes -= len(kept.manifest.content)

    def first(self) -> Unwritten | None:
        """The one that came first."""
        return next(iter(self._kept.values()), None)

    def of(self, repository: Repository) -> list[Unwritten]:
        """Those of a repository."""
        return (
            [each for each in self._kept.values() if each.repository == repository]
            if self._kept
            else []
        )

    def manifest(self, digest: Digest) -> Manifest | None:
        """A manifest of any repository."""
        return (
            next(
                (each.manifest for each in self._kept.values() if each.manifest.digest == digest),
                None,
            )
            if self._kept
            else None
        )

    def tag(self, repository: Repository, tag: Tag) -> TagEntry | None:
        """Where a tag points."""
        return next(
            (
                TagEntry(each.manifest.digest, each.time, each.time)
                for each in self.of(repository)
                if tag in each.tags
            ),
            None,
        )

    def point_tag(self, repository: Repository, tag: Tag, digest: Digest) -> bool:
        """Point a tag at a manifest; False when it is not here."""
        kept = self._kept.get((repository, digest))
        if kept is None:
            return False
        self.add(replace(kept, tags=(tag,)))
        return True


class CacheIndex:
    """The holdings of all repositories, read from the catalog when they are first asked for."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._repositories: OrderedDict[Repository, RepositoryIndex] = OrderedDict()
        self._tags: OrderedDict[tuple[Repository, Tag], TagEntry] = OrderedDict()
        self._manifests: OrderedDict[Digest, Manifest] = OrderedDict()
        self._manifest_bytes = 0
        self._tally = Tally()
        self._unwritten = UnwrittenManifests()
        self._hanging: set[asyncio.Future[bool]] = set()
        """Writes that nobody waits for any more."""
        self._forgotten = 0
        """Counts what was forgotten: an answer of the catalog that was asked for before that must
        not be kept after it."""

    async def of(self, repository: Repository) -> RepositoryIndex:
        """What a repository holds; where the catalog fails, as far as it is known."""
        if self._tally.count > MAX_REMEMBERED:
            self._forget_oldest_requests(repository)
        index = self._repositories.get(repository)
        if index is not None and index.is_current:
            self._repositories.move_to_end(repository)
            return index
        is_current = True
        while True:
            before = self._forgotten
            try:
                manifests = await self._catalog.media_types_of(repository)
                blobs = await self._catalog.blobs_of(repository)
            except CatalogFailed:
                is_current, manifests, blobs = False, {}, {}
                break
            if before == self._forgotten:
                break
        index = self._repositories.setdefault(
            repository, RepositoryIndex(manifests, blobs, self._tally, is_current=is_current)
        )
        if not index.is_current and is_current:
            index.manifests, index.blobs, index.is_current = manifests, blobs, True
        for each in self._unwritten.of(repository):
            index.add_manifest(each.manifest)
        while len(self._repositories) > REPOSITORIES:
            _, oldest = self._repositories.popitem(last=False)
            oldest.release()
        return index

    def _forget_oldest_requests(self, asking: Repository) -> None:
        """Make room for what is remembered of requests: where it is longest ago that somebody
        asked, but not in the repository that is asked now."""
        for repository, index in self._repositories.items():
            if self._tally.count <= MAX_REMEMBERED * 3 // 4:
                break
            if repository != asking:
                index.forget_requests()

    async def tag(self, repository: Repository, tag: Tag) -> TagEntry | None:
        """Where a tag points; None when it is not cached."""
        entry = self._tags.get((repository, tag))
        if entry is not None:
            self._tags.move_to_end((repository, tag))
            return entry
        before = self._forgotten
        try:
            entry = await self._catalog.tag(repository, tag)
        except CatalogFailed:
            return self._unwritten.tag(repository, tag)
        if entry is not None and before == self._forgotten:
            self._keep_tag(repository, tag, entry)
        return entry

    def tag_in_memory(self, repository: Repository, tag: Tag) -> TagEntry | None:
        """Where a tag points, as far as that is known without a question to the catalog."""
        return self._tags.get((repository, tag))

    async def manifest(self, digest: Digest) -> Manifest | None:
        """A manifest that is cached in any repository, with the media type of any; for clients
        there is `manifest_of`.

        Raises `CatalogFailed` for one that is not in memory.
        """
        manifest = self._manifests.get(digest) or self._unwritten.manifest(digest)
        if manifest is not None:
            if digest in self._manifests:
                self._manifests.move_to_end(digest)
            return manifest
        before = self._forgotten
        manifest = await self._catalog.manifest(digest)
        if manifest is not None and before == self._forgotten:
            self._keep_manifest(manifest)
        return manifest

    async def manifest_of(self, repository: Repository, digest: Digest) -> Manifest | None:
        """A manifest of a repository, with the media type that its own source gave; None when the
        repository does not hold it."""
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
        """Take a manifest into a repository and point *tags* at it; in memory only for as long as
        the catalog does not take it."""
        tags = list(tags)
        # Others must find it also while the catalog is waited for.
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
            # A write that hangs is not taken back: it may yet succeed, and the client does not wait
            # for that.
            self._hanging.add(writing)
            writing.add_done_callback(self._hanging.discard)
        index = await self.of(repository)
        index.add_manifest(manifest)
        for tag in tags:
            index.resolved.pop(tag, None)
            self._keep_tag(repository, tag, TagEntry(manifest.digest, now, now))
        self._keep_manifest(manifest)

    async def _write(self, unwritten: Unwritten) -> bool:
        """Write a manifest to the catalog; whether that worked."""
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
                "The manifest %s of %s is kept in memory only: %s",
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
        """Write what the catalog did not take when it came; gives how many manifests could be
        written. Raises nothing when it fails again."""
        written = 0
        while not self._hanging and (unwritten := self._unwritten.first()) is not None:
            if not await self._write(unwritten):
                break
            written += 1
        return written

    async def point_tag(
        self, repository: Repository, tag: Tag, digest: Digest, *, now: float
    ) -> bool:
        """The source says that a tag points at a manifest that the repository holds; False when it
        was evicted or deleted meanwhile."""
        try:
            if not await self._catalog.point_tag(repository, tag, digest, now=now):
                return self._unwritten.point_tag(repository, tag, digest)
        except CatalogFailed as error:
            # Where it points is asked again after a restart.
            _log.debug(
                "That %s:%s points at %s is kept in memory only: %s", repository, tag, digest, error
            )
        before = self._tags.get((repository, tag))
        cached = before.cached if before is not None and before.digest == digest else now
        self._keep_tag(repository, tag, TagEntry(digest, cached, now))
        return True

    def invalidate_tag(self, repository: Repository, tag: Tag) -> None:
        """Read a tag anew from the catalog when it is next asked for."""
        self._forgotten += 1
        self._tags.pop((repository, tag), None)

    def invalidate(self, repository: Repository) -> None:
        """Read a repository anew from the catalog when it is next asked for."""
        self._forgotten += 1
        if (index := self._repositories.pop(repository, None)) is not None:
            index.release()
        for key in [key for key in self._tags if key[0] == repository]:
            del self._tags[key]

    def invalidate_evicted(self, repositories: Collection[Repository]) -> None:
        """Images of some repositories were evicted: read what they hold anew, but keep what clients
        asked of them lately."""
        self._forgotten += 1
        for repository in repositories:
            if (index := self._repositories.get(repository)) is not None:
                index.is_current = False
        for key in [key for key in self._tags if key[0] in repositories]:
            del self._tags[key]
        self.invalidate_manifests()

    def invalidate_manifests(self) -> None:
        """Manifests were deleted: read them anew from the catalog."""
        self._forgotten += 1
        self._manifests.clear()
        self._manifest_bytes = 0

    def _keep_tag(self, repository: Repository, tag: Tag, entry: TagEntry) -> None:
        self._tags[repository, tag] = entry
        self._tags.move_to_end((repository, tag))
        while len(self._tags) > TAGS:
            self._tags.popitem(last=False)

    def _keep_manifest(self, manifest: Manifest) -> None:
        if manifest.digest in self._manifests:
            return
        self._manifests[manifest.digest] = manifest
        self._manifest_bytes += _weight(manifest)
        while self._manifest_bytes > MANIFEST_BYTES:
            _, oldest = self._manifests.popitem(last=False)
            self._manifest_bytes -= _weight(oldest)


def _weight(manifest: Manifest) -> int:
    return len(manifest.content) + REFERENCE_BYTES * len(manifest.references)
