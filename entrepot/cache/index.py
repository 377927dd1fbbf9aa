"""The index: what of the catalog is in memory.

A request asks memory first, also for what is known not to be cached, and then the catalog for the
one thing that it needs: a repository may have ten thousand manifests. All changes go through here,
and reach the catalog before clients see them, except where the catalog fails or hangs: then clients
get them from memory (S19, L02). A disk that is full, damaged or hangs stops no client whose source
answers.

A new manifest waits for the catalog `WRITE_TIMEOUT` seconds at most. One that the catalog does not
take stays in memory, and is written later. A moved tag is not written later: after a restart its
source is asked again.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from entrepot.cache.bounded import BoundedGroups, BoundedMap, Tally
from entrepot.cache.recent_requests import RecentRequests
from entrepot.cache.unwritten import Unwritten, UnwrittenManifests
from entrepot.core.reference import Digest, Repository, Tag
from entrepot.source.singleflight import SingleFlight
from entrepot.store.catalog import Catalog
from entrepot.store.connections import CatalogFailed
from entrepot.store.lookups import Lookup, TagTarget
from entrepot.store.manifests import Descriptor, Manifest
from entrepot.store.records import TagEntry

REPOSITORIES = 4_000
"""Repositories of which something stays in memory, those used last."""

ENTRIES = 100_000
"""Tags, manifests and blobs of all repositories together: some 300 bytes each, and less where they
are known not to be cached."""

TAGS = 10_000
"""Tags of one repository that stay in memory, those used last."""

MANIFESTS = 10_000
"""Manifests of one repository whose media type stays in memory, those used last."""

BLOBS = 20_000
"""Blobs of one repository that stay in memory, those used last."""

ABSENT = 2_000
"""Tags, manifests and blobs of one repository that are known not to be cached, those requested
last: a client that asks for a million tags drops no others than these."""

UNCACHED_REPOSITORIES = 10_000
"""Repositories of which nothing is known to be cached, those requested last."""

MANIFEST_BYTES = 32 * 1024 * 1024
"""Manifests that stay in memory, those used last, in bytes."""

REFERENCE_BYTES = 500
"""Bytes of memory that one parsed reference of a manifest takes, beside the manifest's content."""

MAX_REMEMBERED = 50_000
"""Recent requests in all repositories together: some 600 bytes each. Beyond it those of the
repositories whose last request is oldest are dropped."""

WRITE_TIMEOUT = 2.0
"""Seconds that a client waits for the catalog to take its manifest; the write goes on without the
client."""

STALLED_WRITE_TIMEOUT = 0.5
"""The same, in seconds, while an earlier write hangs."""

T = TypeVar("T")

_log = logging.getLogger("entrepot.cache")


class RepositoryIndex:
    """What is in memory of one cached repository; *tally* counts for all repositories."""

    __slots__ = ("_absent", "blobs", "manifests", "source", "tags")

    def __init__(self, tally: Tally) -> None:
        self.source: str | None = None
        """Its source, with the login server; None where the catalog was not asked yet."""
        self.tags: BoundedMap[Tag, TagEntry] = BoundedMap(TAGS, tally)
        self.manifests: BoundedMap[Digest, str] = BoundedMap(MANIFESTS, tally)
        """By digest: the media type that the source of this repository gives. Another source may
        give the same bytes another one."""
        self.blobs: BoundedMap[Digest, Descriptor] = BoundedMap(BLOBS, tally)
        self._absent: BoundedMap[Hashable, bool] = BoundedMap(ABSENT, tally)

    def add_manifest(self, manifest: Manifest) -> None:
        """Add a manifest that has just come, and its blobs."""
        self._absent.clear()
        self.manifests[manifest.digest] = sys.intern(manifest.media_type)
        for blob in manifest.blobs:
            # Another manifest may state the size that this one does not. Where none in memory
            # does, the catalog is asked.
            if blob.size is not None:
                self.blobs[blob.digest] = blob

    def load_manifest(self, manifest: Manifest) -> None:
        """Add a manifest that was read from the catalog, and its blobs.

        Of two sizes that manifests state for a blob the larger one counts, as in
        `entrepot.store.lookups.read_blob`.
        """
        self.manifests[manifest.digest] = sys.intern(manifest.media_type)
        for blob in manifest.blobs:
            before = self.blobs.get(blob.digest)
            size_before = -1 if before is None or before.size is None else before.size
            if blob.size is not None and blob.size > size_before:
                self.blobs[blob.digest] = blob

    def is_absent(self, what: Hashable) -> bool:
        """Whether a tag, manifest or blob is known not to be cached."""
        return self._absent.use(what) is not None

    def record_absent(self, what: Hashable) -> None:
        """Record that the catalog has no such tag, manifest or blob."""
        self._absent[what] = True

    def forget_absent(self, what: Hashable | None = None) -> None:
        """Ask the catalog again for a tag, manifest or blob, or for any of them."""
        if what is None:
            self._absent.clear()
        else:
            self._absent.pop(what, None)

    def release(self) -> None:
        """Stop counting in the common tally: the index of this repository is dropped."""
        for entries in (self.tags, self.manifests, self.blobs, self._absent):
            entries.release()


class CacheIndex:
    """What is in memory of all repositories, read from the catalog at the first request."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._repositories: BoundedGroups[Repository, RepositoryIndex] = BoundedGroups(
            RepositoryIndex, limit=REPOSITORIES, max_entries=ENTRIES
        )
        self._requests: BoundedGroups[Repository, RecentRequests] = BoundedGroups(
            RecentRequests, limit=REPOSITORIES, max_entries=MAX_REMEMBERED
        )
        self._uncached: BoundedMap[Repository, bool] = BoundedMap(UNCACHED_REPOSITORIES, Tally())
        self._manifests: OrderedDict[Digest, Manifest] = OrderedDict()
        self._manifest_bytes = 0
        self._unwritten = UnwrittenManifests()
        self._hanging: set[asyncio.Future[bool]] = set()
        """Writes whose client waits no longer."""
        self._lookups: SingleFlight[Lookup[Any]] = SingleFlight(
            limit=sys.maxsize, cancels_unawaited=True
        )
        self._changes = 0
        """Counts what is added and invalidated: what was read from the catalog before a change must
        not be stored after it."""

    async def close(self) -> None:
        """Cancel what is being read."""
        await self._lookups.close()

    # What clients requested

    def requests(self, repository: Repository) -> RecentRequests:
        """The recent requests to a repository, to record another one."""
        return self._requests.of(repository)

    def known_requests(self, repository: Repository) -> RecentRequests | None:
        """The recent requests to a repository; None where there are none."""
        return self._requests.get(repository)

    # Look-ups

    async def source_of(self, repository: Repository) -> str | None:
        """The source of a repository, with its login server; None when it is not cached.

        Raises `CatalogFailed` where that is not in memory.
        """
        index = self._repositories.get(repository)
        if index is not None and index.source is not None:
            return index.source
        if index is None and self._uncached.use(repository):
            return None

        async def read() -> Lookup[str]:
            source = await self._catalog.source_of(repository)
            return Lookup(source, source)

        return (await self._read(repository, ("source",), read)).source

    async def is_cached(self, repository: Repository) -> bool:
        """Whether anything of a repository is cached.

        Raises `CatalogFailed` where that is not in memory.
        """
        return (
            self._repositories.get(repository) is not None
            or await self.source_of(repository) is not None
        )

    async def tag(self, repository: Repository, tag: Tag) -> TagEntry | None:
        """Where a tag points; None when it is not cached.

        Raises `CatalogFailed` where that is not in memory.
        """
        index = self._repositories.get(repository)
        if index is not None:
            entry = index.tags.use(tag)
            if entry is not None:
                return entry
        if self._is_absent(repository, index, tag):
            return None
        try:
            lookup = await self._read(
                repository,
                tag,
                lambda: self._catalog.lookup_tag(repository, tag),
                lambda index, target: self._load_tag(index, tag, target),
            )
        except CatalogFailed:
            entry = self._unwritten.tag(repository, tag)
            if entry is None:
                raise
            return entry
        if lookup.value is None:
            return self._unwritten.tag(repository, tag)
        return lookup.value.entry

    async def known_tag(self, repository: Repository, tag: Tag) -> TagEntry | None:
        """Where a tag points, as far as the catalog can tell."""
        with suppress(CatalogFailed):
            return await self.tag(repository, tag)
        return None

    def tag_in_memory(self, repository: Repository, tag: Tag) -> TagEntry | None:
        """Where a tag points, if that is in memory; the catalog is not read."""
        index = self._repositories.get(repository)
        return index.tags.get(tag) if index is not None else None

    def is_manifest_in_memory(self, repository: Repository, digest: Digest) -> bool:
        """Whether a manifest is known to be cached; the catalog is not read."""
        index = self._repositories.get(repository)
        return index is not None and digest in index.manifests

    async def has_manifest(self, repository: Repository, digest: Digest) -> bool:
        """Whether a manifest of a repository is cached, as far as the catalog can tell."""
        if self.is_manifest_in_memory(repository, digest):
            return True
        with suppress(CatalogFailed):
            return await self.manifest_of(repository, digest) is not None
        return False

    async def manifest_of(self, repository: Repository, digest: Digest) -> Manifest | None:
        """A cached manifest of a repository, with the media type that its source gave.

        None when it is not cached there. Raises `CatalogFailed` for one that is not in memory.
        """
        index = self._repositories.get(repository)
        media_type = index.manifests.use(digest) if index is not None else None
        if media_type is not None:
            manifest = self._manifests.get(digest) or self._unwritten.manifest(digest)
            if manifest is not None:
                if digest in self._manifests:
                    self._manifests.move_to_end(digest)
                if manifest.media_type == media_type:
                    return manifest
                return replace(manifest, media_type=media_type)
        unwritten = self._unwritten.manifest_of(repository, digest)
        if unwritten is not None:
            return unwritten
        if media_type is None and self._is_absent(repository, index, digest):
            return None
        lookup: Lookup[Manifest] = await self._read(
            repository,
            digest,
            lambda: self._catalog.lookup_manifest(repository, digest),
            self._load_manifest,
        )
        if lookup.value is None and media_type is not None:
            # It was evicted or deleted since.
            self.invalidate_manifest(repository, digest)
        return lookup.value

    async def blob_of(self, repository: Repository, digest: Digest) -> Descriptor | None:
        """A blob that a cached manifest of a repository names, whether itself cached or not.

        None when none names it. Raises `CatalogFailed` where that is not in memory.
        """
        index = self._repositories.get(repository)
        if index is not None:
            blob = index.blobs.use(digest)
            if blob is not None:
                return blob
        what = ("blob", digest)
        if self._is_absent(repository, index, what):
            return None
        try:
            lookup: Lookup[Descriptor] = await self._read(
                repository,
                what,
                lambda: self._catalog.lookup_blob(repository, digest),
                lambda index, blob: index.blobs.__setitem__(digest, blob),
            )
        except CatalogFailed:
            blob = self._unwritten.blob_of(repository, digest)
            if blob is None:
                raise
            return blob
        return lookup.value or self._unwritten.blob_of(repository, digest)

    def _is_absent(
        self, repository: Repository, index: RepositoryIndex | None, what: Hashable
    ) -> bool:
        if index is None:
            return self._uncached.use(repository) is not None
        return index.is_absent(what)

    async def _read(
        self,
        repository: Repository,
        what: Hashable,
        read: Callable[[], Awaitable[Lookup[T]]],
        store: Callable[[RepositoryIndex, T], None] | None = None,
    ) -> Lookup[T]:
        """Read from the catalog, once for all requests, and store the answer in memory.

        A request joins no read that began before a change.
        """
        before = self._changes
        lookup: Lookup[T] = await self._lookups.join((before, repository, what), read)
        if before != self._changes:
            return lookup
        if lookup.value is None and self._unwritten.of(repository):
            return lookup
        if lookup.source is None:
            if self._repositories.get(repository) is None:
                self._uncached[repository] = True
            return lookup
        index = self._repositories.of(repository)
        index.source = lookup.source
        if lookup.value is None:
            index.record_absent(what)
        elif store is not None:
            store(index, lookup.value)
        return lookup

    def _load_tag(self, index: RepositoryIndex, tag: Tag, target: TagTarget) -> None:
        index.tags[tag] = target.entry
        if target.manifest is not None:
            self._load_manifest(index, target.manifest)

    def _load_manifest(self, index: RepositoryIndex, manifest: Manifest) -> None:
        index.load_manifest(manifest)
        self._store_manifest(manifest)

    # Changes

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
        index = self._changed(repository)
        index.add_manifest(manifest)
        requests = self.known_requests(repository)
        for tag in tags:
            if requests is not None:
                requests.resolved.pop(tag, None)
            index.tags[tag] = _pointed(index.tags.get(tag), manifest.digest, now)
        self._store_manifest(manifest)

    def _changed(self, repository: Repository) -> RepositoryIndex:
        """The index of a repository to which something is added."""
        self._changes += 1
        self._uncached.pop(repository, None)
        return self._repositories.of(repository)

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
        # A write that hung may succeed long after memory has forgotten its manifest.
        self._changed(unwritten.repository).forget_absent()
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
        index = self._changed(repository)
        index.tags[tag] = _pointed(index.tags.get(tag), digest, now)
        index.forget_absent(tag)
        return True

    def invalidate_tag(self, repository: Repository, tag: Tag) -> None:
        """Read a tag from the catalog again at its next request."""
        self._changes += 1
        index = self._repositories.get(repository)
        if index is not None:
            index.tags.pop(tag, None)
            index.forget_absent(tag)

    def distrust_tag(self, repository: Repository, tag: Tag) -> None:
        """Ask the source at the next request for a tag: its last answer confirmed nothing."""
        index = self._repositories.get(repository)
        entry = index.tags.get(tag) if index is not None else None
        if index is not None and entry is not None:
            index.tags[tag] = replace(entry, checked=0.0)

    def invalidate_manifest(self, repository: Repository, digest: Digest) -> None:
        """Read a manifest from the catalog again at its next request."""
        self._changes += 1
        index = self._repositories.get(repository)
        if index is not None:
            index.manifests.pop(digest, None)
            index.forget_absent(digest)

    def invalidate(self, repository: Repository) -> None:
        """Read a repository from the catalog again at its next request."""
        self._changes += 1
        self._repositories.drop(repository)
        self._requests.drop(repository)
        self._uncached.pop(repository, None)

    def invalidate_evicted(self, repositories: Collection[Repository]) -> None:
        """Read repositories again from which images were evicted.

        Their recent requests stay.
        """
        for repository in repositories:
            self._repositories.drop(repository)
        self.invalidate_manifests()

    def invalidate_manifests(self) -> None:
        """Read the content of manifests from the catalog again: some were deleted."""
        self._changes += 1
        self._manifests.clear()
        self._manifest_bytes = 0

    def _store_manifest(self, manifest: Manifest) -> None:
        if manifest.digest in self._manifests:
            return
        self._manifests[manifest.digest] = manifest
        self._manifest_bytes += _weight(manifest)
        while self._manifest_bytes > MANIFEST_BYTES:
            _, oldest = self._manifests.popitem(last=False)
            self._manifest_bytes -= _weight(oldest)


def _pointed(before: TagEntry | None, digest: Digest, now: float) -> TagEntry:
    """The entry of a tag that points at a digest, as the catalog writes it."""
    is_same = before is not None and before.digest == digest
    return TagEntry(digest, before.cached if before is not None and is_same else now, now)


def _weight(manifest: Manifest) -> int:
    return len(manifest.content) + REFERENCE_BYTES * len(manifest.references)
