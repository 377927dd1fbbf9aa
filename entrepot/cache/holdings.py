"""What each repository holds, in memory: the answers of the catalog that the way of a request needs again and again.

All changes go through here and reach the catalog before they are believed, so memory and catalog never differ for longer than a write takes.

Where the catalog fails, what is in memory is served, and what a source gives is kept in memory only until the catalog takes it (S19, L02): a disk that is full,
damaged or hangs stops no client whose source answers.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace

from entrepot.reference import Digest, Repository, Tag
from entrepot.store.catalog import Catalog, CatalogFailed, TagEntry, Usage
from entrepot.store.manifests import Descriptor, Manifest

REPOSITORIES = 4_000
"""Repositories whose holdings stay in memory, those used last."""

TAGS = 50_000
"""Tags that stay in memory, those used last."""

MANIFEST_BYTES = 32 * 1024 * 1024
"""Manifests that stay in memory, those used last, in bytes."""

UNWRITTEN_BYTES = 32 * 1024 * 1024
"""Manifests that are kept in memory only because the catalog fails, in bytes."""

UNWRITTEN_COUNT = 2_000
"""Such manifests."""

WRITE_TIMEOUT = 2.0
"""Seconds that a client waits until the catalog has taken its manifest; the write goes on without it."""

STALLED_WRITE_TIMEOUT = 0.5
"""The same while an earlier write hangs."""

RECENT_IMAGES = 100
"""Images of one repository that are remembered as asked for lately, to tell which of them a layer is wanted for."""

_log = logging.getLogger("entrepot.cache")


@dataclass(frozen=True, slots=True)
class Resolved:
    """What the source said in a HEAD on a tag. *size* is in bytes, *time* in seconds since the epoch."""

    digest: Digest
    media_type: str
    size: int
    time: float


@dataclass
class Holding:
    """What one repository holds and what was asked of it lately."""

    manifests: set[Digest]
    blobs: dict[Digest, Descriptor]
    vouched: dict[Digest, Descriptor] = field(default_factory=dict)
    """Blobs that the source says belong to the repository, though no manifest that we hold does."""
    resolved: dict[Tag | Digest, Resolved] = field(default_factory=dict)
    tag_of: dict[Digest, Tag] = field(default_factory=dict)
    """The tag under which a manifest, or the index above it, was asked for last."""
    platform_of: dict[Digest, str] = field(default_factory=dict)
    is_current: bool = True
    """False when something of it was evicted: manifests and blobs are read anew when it is next asked for."""
    _recent: OrderedDict[Digest, frozenset[Digest]] = field(default_factory=OrderedDict)
    _images: dict[Digest, Manifest] = field(default_factory=dict)

    def takes(self, manifest: Manifest) -> None:
        """The manifest belongs to the repository now, and so do its blobs."""
        self.manifests.add(manifest.digest)
        for each in manifest.blobs:
            self.blobs[each.digest] = each
            self.vouched.pop(each.digest, None)

    def was_asked(self, manifest: Manifest, tag: Tag | None) -> None:
        """A client got the manifest."""
        if tag is not None:
            self.tag_of[manifest.digest] = tag
        for child in manifest.children:
            if tag is not None:
                self.tag_of[child.digest] = tag
            if child.platform is not None:
                self.platform_of[child.digest] = child.platform
        if not manifest.is_index:
            self._images[manifest.digest] = manifest
            self._recent.pop(manifest.digest, None)
            self._recent[manifest.digest] = frozenset(each.digest for each in manifest.blobs)
            while len(self._recent) > RECENT_IMAGES:
                oldest, _ = self._recent.popitem(last=False)
                del self._images[oldest]

    def last_asked_with(self, blob: Digest) -> Manifest | None:
        """The image asked for last that has this blob."""
        return next((self._images[digest] for digest, blobs in reversed(self._recent.items()) if blob in blobs), None)

    def resolves(self, tag: Tag, digest: Digest, media_type: str, size: int, now: float) -> None:
        """The source said where a tag points."""
        self.resolved[tag] = Resolved(digest, media_type, size, now)
        self.tag_of[digest] = tag

    def resolved_to(self, digest: Digest) -> list[Tag]:
        """The tags of which the source said that they point at *digest*; containerd asks for a tag with HEAD and then for the digest."""
        return [tag for tag, resolved in self.resolved.items() if resolved.digest == digest and not isinstance(tag, Digest)]


@dataclass(frozen=True, slots=True)
class Unwritten:
    """A manifest that the catalog did not take yet, with the tags that point at it; *time* is when it came."""

    repository: Repository
    source: str
    manifest: Manifest
    tags: tuple[Tag, ...]
    time: float


class UnwrittenManifests:
    """The manifests that are kept in memory only, those that came last, within `UNWRITTEN_BYTES`."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Repository, Digest], Unwritten] = OrderedDict()
        self._bytes = 0

    def add(self, unwritten: Unwritten) -> Unwritten:
        """Keep a manifest, with the tags that pointed at it before as well; gives what has to be written."""
        key = (unwritten.repository, unwritten.manifest.digest)
        before = self._kept.pop(key, None)
        if before is not None:
            self._bytes -= len(before.manifest.content)
            unwritten = replace(unwritten, tags=tuple(dict.fromkeys((*before.tags, *unwritten.tags))))
        for other_key, other in list(self._kept.items()) if unwritten.tags else ():
            if other.repository == unwritten.repository and set(other.tags) & set(unwritten.tags):
                # A tag points at one manifest only.
                self._kept[other_key] = replace(other, tags=tuple(each for each in other.tags if each not in unwritten.tags))
        self._kept[key] = unwritten
        self._bytes += len(unwritten.manifest.content)
        while self._bytes > UNWRITTEN_BYTES or len(self._kept) > UNWRITTEN_COUNT:
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
        return [each for each in self._kept.values() if each.repository == repository] if self._kept else []

    def manifest(self, digest: Digest) -> Manifest | None:
        """A manifest of any repository."""
        return next((each.manifest for each in self._kept.values() if each.manifest.digest == digest), None) if self._kept else None

    def tag(self, repository: Repository, tag: Tag) -> TagEntry | None:
        """Where a tag points."""
        return next((TagEntry(each.manifest.digest, each.time, each.time) for each in self.of(repository) if tag in each.tags), None)

    def point_tag(self, repository: Repository, tag: Tag, digest: Digest) -> bool:
        """Point a tag at a manifest; False when it is not here."""
        kept = self._kept.get((repository, digest))
        if kept is None:
            return False
        self.add(replace(kept, tags=(tag,)))
        return True


class Holdings:
    """The holdings of all repositories, read from the catalog when they are first asked for."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._holdings: OrderedDict[Repository, Holding] = OrderedDict()
        self._tags: OrderedDict[tuple[Repository, Tag], TagEntry] = OrderedDict()
        self._manifests: OrderedDict[Digest, Manifest] = OrderedDict()
        self._manifest_bytes = 0
        self._unwritten = UnwrittenManifests()
        self._hanging: set[asyncio.Future[bool]] = set()
        """Writes that nobody waits for any more."""
        self._forgotten = 0
        """Counts what was forgotten: an answer of the catalog that was asked for before that must not be kept after it."""

    async def of(self, repository: Repository) -> Holding:
        """What a repository holds; where the catalog fails, as far as it is known."""
        holding = self._holdings.get(repository)
        if holding is not None and holding.is_current:
            self._holdings.move_to_end(repository)
            return holding
        is_current = True
        while True:
            before = self._forgotten
            try:
                manifests = await self._catalog.manifests_of(repository)
                blobs = await self._catalog.blobs_of(repository)
            except CatalogFailed:
                is_current, manifests, blobs = False, frozenset(), {}
                break
            if before == self._forgotten:
                break
        holding = self._holdings.setdefault(repository, Holding(set(manifests), blobs, is_current=is_current))
        if not holding.is_current and is_current:
            holding.manifests, holding.blobs, holding.is_current = set(manifests), blobs, True
        for each in self._unwritten.of(repository):
            holding.takes(each.manifest)
        while len(self._holdings) > REPOSITORIES:
            self._holdings.popitem(last=False)
        return holding

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

    async def manifest(self, digest: Digest) -> Manifest | None:
        """A manifest that is cached in any repository; the caller knows that it may be shown. Raises `CatalogFailed` for one that is not in memory."""
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

    async def add_manifest(self, repository: Repository, source: str, manifest: Manifest, *, tags: Iterable[Tag], now: float) -> None:
        """Take a manifest into a repository and point *tags* at it; in memory only for as long as the catalog does not take it."""
        tags = list(tags)
        # Others must find it also while the catalog is waited for.
        unwritten = self._unwritten.add(Unwritten(repository, source, manifest, tuple(tags), now))
        writing = asyncio.ensure_future(self._write(unwritten))
        await asyncio.wait({writing}, timeout=STALLED_WRITE_TIMEOUT if self._hanging or self._catalog.is_stalled else WRITE_TIMEOUT)
        if writing.done():
            writing.result()
        else:
            # A write that hangs is not taken back: it may yet succeed, and the client does not wait for that.
            self._hanging.add(writing)
            writing.add_done_callback(self._hanging.discard)
        holding = await self.of(repository)
        holding.takes(manifest)
        for tag in tags:
            holding.resolved.pop(tag, None)
            self._keep_tag(repository, tag, TagEntry(manifest.digest, now, now))
        self._keep_manifest(manifest)

    async def _write(self, unwritten: Unwritten) -> bool:
        """Write a manifest to the catalog; whether that worked."""
        manifest = unwritten.manifest
        try:
            await self._catalog.add_manifest(unwritten.repository, unwritten.source, manifest, tags=unwritten.tags, now=unwritten.time)
        except CatalogFailed as error:
            _log.debug("The manifest %s of %s is kept in memory only: %s", manifest.digest, unwritten.repository, error)
            return False
        self._unwritten.remove(unwritten)
        return True

    async def write_unwritten(self) -> int:
        """Write what the catalog did not take when it came; gives how many manifests could be written. Raises nothing when it fails again."""
        written = 0
        while not self._hanging and (unwritten := self._unwritten.first()) is not None:
            if not await self._write(unwritten):
                break
            written += 1
        return written

    async def point_tag(self, repository: Repository, tag: Tag, digest: Digest, *, now: float) -> bool:
        """The source says that a tag points at a manifest that the repository holds; False when it was evicted or deleted meanwhile."""
        try:
            if not await self._catalog.point_tag(repository, tag, digest, now=now):
                return self._unwritten.point_tag(repository, tag, digest)
        except CatalogFailed as error:
            # Where it points is asked again after a restart.
            _log.debug("That %s:%s points at %s is kept in memory only: %s", repository, tag, digest, error)
        before = self._tags.get((repository, tag))
        cached = before.cached if before is not None and before.digest == digest else now
        self._keep_tag(repository, tag, TagEntry(digest, cached, now))
        return True

    def forget_tag(self, repository: Repository, tag: Tag) -> None:
        """Read a tag anew from the catalog when it is next asked for."""
        self._forgotten += 1
        self._tags.pop((repository, tag), None)

    def forget(self, repository: Repository) -> None:
        """Read a repository anew from the catalog when it is next asked for."""
        self._forgotten += 1
        self._holdings.pop(repository, None)
        for key in [key for key in self._tags if key[0] == repository]:
            del self._tags[key]

    def forget_evicted(self, repositories: Collection[Repository]) -> None:
        """Images of some repositories were evicted: read what they hold anew, but keep what clients asked of them lately."""
        self._forgotten += 1
        for repository in repositories:
            if (holding := self._holdings.get(repository)) is not None:
                holding.is_current = False
        for key in [key for key in self._tags if key[0] in repositories]:
            del self._tags[key]
        self.forget_manifests()

    def forget_manifests(self) -> None:
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
        self._manifest_bytes += len(manifest.content)
        while self._manifest_bytes > MANIFEST_BYTES:
            _, oldest = self._manifests.popitem(last=False)
            self._manifest_bytes -= len(oldest.content)


class Ledger:
    """What was used, gathered in memory and written to the catalog once in a while: a hit costs no write."""

    def __init__(self, catalog: Catalog, clock: Callable[[], float]) -> None:
        self._catalog = catalog
        self._clock = clock
        self._pulls: dict[Repository, tuple[int, float]] = {}
        self._tags: dict[tuple[Repository, Tag], float] = {}
        self._manifests: dict[tuple[Repository, Digest], float] = {}
        self._blobs: dict[Digest, float] = {}
        self._seen: dict[tuple[Repository, Digest], float] = {}
        self._requests: dict[str, tuple[int, int]] = {}
        self.requests_saved = 0
        """Manifests that clients got since the start, without those that sources were asked for."""

    def manifest_answered(self, rule: str) -> None:
        """A client got a manifest through a rule; without the cache it would have asked the source."""
        answered, made = self._requests.get(rule, (0, 0))
        self._requests[rule] = (answered + 1, made)
        self.requests_saved += 1

    def manifest_fetched(self, rule: str) -> None:
        """A source was asked for a manifest (GET): what Docker Hub counts."""
        answered, made = self._requests.get(rule, (0, 0))
        self._requests[rule] = (answered, made + 1)
        self.requests_saved -= 1

    def manifest_used(self, repository: Repository, manifest: Manifest, tag: Tag | None) -> None:
        """A client got a manifest. An image manifest counts as a pull; an index leads to one."""
        now = self._clock()
        self._manifests[repository, manifest.digest] = now
        if tag is not None:
            self._tags[repository, tag] = now
        if not manifest.is_index:
            count, _ = self._pulls.get(repository, (0, now))
            self._pulls[repository] = (count + 1, now)

    def manifest_seen(self, repository: Repository, digest: Digest) -> None:
        """A client made sure that a manifest is there (HEAD), and has the image itself: a use, which keeps it from eviction, but no pull."""
        self._seen[repository, digest] = self._clock()

    def blob_used(self, digest: Digest) -> None:
        """A client got a blob that is held, or made sure that it is there."""
        self._blobs[digest] = self._clock()

    def is_unwritten(self, repository: Repository, manifest: Digest, blobs: Iterable[Digest]) -> bool:
        """Whether a use of a manifest or of one of some blobs was not written down yet."""
        return (repository, manifest) in self._manifests or (repository, manifest) in self._seen or any(blob in self._blobs for blob in blobs)

    async def write(self) -> None:
        """Write down what was used since the last time."""
        if not (self._pulls or self._tags or self._manifests or self._blobs or self._seen or self._requests):
            return
        usage = Usage(self._pulls, self._tags, self._manifests, self._blobs, self._seen, self._requests)
        self._pulls, self._tags, self._manifests, self._blobs, self._seen, self._requests = {}, {}, {}, {}, {}, {}
        await self._catalog.record_usage(usage)
