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
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from entrepot.cache.bounded import BoundedMap, Tally
from entrepot.core.reference import Digest, Repository, Tag
from entrepot.store.catalog import Catalog, CatalogFailed, TagEntry, Usage
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

REMEMBERED = 50_000
"""All of these together, over all repositories: some 600 bytes each. Beyond it the repositories
that were asked longest ago are forgotten."""

UNWRITTEN = 50_000
"""Uses of each kind that wait for a catalog that fails: beyond it the oldest are left out."""

UNWRITTEN_BYTES = 32 * 1024 * 1024
"""Manifests that are kept in memory only because the catalog fails, in bytes."""

UNWRITTEN_COUNT = 2_000
"""Such manifests."""

WRITE_TIMEOUT = 2.0
"""Seconds that a client waits until the catalog has taken its manifest; the write goes on without
it."""

STALLED_WRITE_TIMEOUT = 0.5
"""The same while an earlier write hangs."""

K = TypeVar("K")
V = TypeVar("V")

_log = logging.getLogger("entrepot.cache")


@dataclass(frozen=True, slots=True)
class Resolved:
    """What the source said in a HEAD on a tag. *size* is in bytes, *time* in seconds of a monotonic
    clock."""

    digest: Digest
    media_type: str
    size: int
    time: float


@dataclass
class Holding:
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
        self.resolved: BoundedMap[Tag | Digest, Resolved] = BoundedMap(RESOLVED_TAGS, self.tally)
        self.tag_of: BoundedMap[Digest, Tag] = BoundedMap(DIGESTS, self.tally)
        """The tag under which a manifest, or the index above it, was asked for last."""
        self.platform_of: BoundedMap[Digest, str] = BoundedMap(DIGESTS, self.tally)
        self._recent: BoundedMap[Digest, frozenset[Digest]] = BoundedMap(
            RECENT_BLOBS, self.tally, lambda blobs: 1 + len(blobs)
        )
        """The blobs of each image that was asked for lately. Not the images themselves: some are
        megabytes."""

    def takes(self, manifest: Manifest) -> None:
        """The manifest belongs to the repository now, and so do its blobs."""
        self.manifests[manifest.digest] = manifest.media_type
        for each in manifest.blobs:
            # Another manifest may state the size that this one does not.
            if each.size is not None or each.digest not in self.blobs:
                self.blobs[each.digest] = each

    def was_asked(self, manifest: Manifest, tag: Tag | None) -> None:
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

    def last_asked_with(self, blob: Digest) -> Digest | None:
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

    def resolves(self, tag: Tag, digest: Digest, media_type: str, size: int, now: float) -> None:
        """The source said where a tag points."""
        self.resolved[tag] = Resolved(digest, media_type, size, now)
        self.tag_of[digest] = tag

    def resolved_to(self, digest: Digest) -> list[Tag]:
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
    """The manifests that are kept in memory only, those that came last, within `UNWRITTEN_BYTES`."""

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


class Holdings:
    """The holdings of all repositories, read from the catalog when they are first asked for."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._holdings: OrderedDict[Repository, Holding] = OrderedDict()
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

    async def of(self, repository: Repository) -> Holding:
        """What a repository holds; where the catalog fails, as far as it is known."""
        if self._tally.count > REMEMBERED:
            self._forget_oldest_requests(repository)
        holding = self._holdings.get(repository)
        if holding is not None and holding.is_current:
            self._holdings.move_to_end(repository)
            return holding
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
        holding = self._holdings.setdefault(
            repository, Holding(manifests, blobs, self._tally, is_current=is_current)
        )
        if not holding.is_current and is_current:
            holding.manifests, holding.blobs, holding.is_current = manifests, blobs, True
        for each in self._unwritten.of(repository):
            holding.takes(each.manifest)
        while len(self._holdings) > REPOSITORIES:
            _, oldest = self._holdings.popitem(last=False)
            oldest.release()
        return holding

    def _forget_oldest_requests(self, asking: Repository) -> None:
        """Make room for what is remembered of requests: where it is longest ago that somebody
        asked, but not in the repository that is asked now."""
        for repository, holding in self._holdings.items():
            if self._tally.count <= REMEMBERED * 3 // 4:
                break
            if repository != asking:
                holding.forget_requests()

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

    def tag_at_hand(self, repository: Repository, tag: Tag) -> TagEntry | None:
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

    def forget_tag(self, repository: Repository, tag: Tag) -> None:
        """Read a tag anew from the catalog when it is next asked for."""
        self._forgotten += 1
        self._tags.pop((repository, tag), None)

    def forget(self, repository: Repository) -> None:
        """Read a repository anew from the catalog when it is next asked for."""
        self._forgotten += 1
        if (holding := self._holdings.pop(repository, None)) is not None:
            holding.release()
        for key in [key for key in self._tags if key[0] == repository]:
            del self._tags[key]

    def forget_evicted(self, repositories: Collection[Repository]) -> None:
        """Images of some repositories were evicted: read what they hold anew, but keep what clients
        asked of them lately."""
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
        self._manifest_bytes += _weight(manifest)
        while self._manifest_bytes > MANIFEST_BYTES:
            _, oldest = self._manifests.popitem(last=False)
            self._manifest_bytes -= _weight(oldest)


def _weight(manifest: Manifest) -> int:
    return len(manifest.content) + REFERENCE_BYTES * len(manifest.references)


@dataclass
class _Uses:
    """What was used and is not written down. Each mapping is in the order of use as far as it
    matters: what goes beyond `UNWRITTEN` is the oldest."""

    pulls: dict[Repository, tuple[int, float]] = field(default_factory=dict)
    tags: dict[tuple[Repository, Tag], float] = field(default_factory=dict)
    manifests: dict[tuple[Repository, Digest], float] = field(default_factory=dict)
    blobs: dict[Digest, float] = field(default_factory=dict)
    seen: dict[tuple[Repository, Digest], float] = field(default_factory=dict)
    requests: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __len__(self) -> int:
        return (
            len(self.pulls)
            + len(self.tags)
            + len(self.manifests)
            + len(self.blobs)
            + len(self.seen)
            + len(self.requests)
        )

    def has(self, repository: Repository, manifest: Digest, blobs: Iterable[Digest]) -> bool:
        """Whether a manifest or one of some blobs was used."""
        return (
            (repository, manifest) in self.manifests
            or (repository, manifest) in self.seen
            or any(blob in self.blobs for blob in blobs)
        )

    def pulled(self, repository: Repository, count: int, now: float) -> None:
        """A repository was pulled *count* times, the last time *now*."""
        before, _ = self.pulls.get(repository, (0, now))
        _note(self.pulls, repository, (before + count, now))

    def requested(self, rule: str, answered: int, made: int) -> None:
        """Clients got so many manifests through a rule, and its source so many requests for them."""
        answered_before, made_before = self.requests.get(rule, (0, 0))
        _note(self.requests, rule, (answered_before + answered, made_before + made))

    def add(self, later: _Uses) -> None:
        """Take in what was used later."""
        for repository, (count, last) in later.pulls.items():
            self.pulled(repository, count, last)
        for rule, (answered, made) in later.requests.items():
            self.requested(rule, answered, made)
        for tag, last in later.tags.items():
            _note(self.tags, tag, last)
        for manifest, last in later.manifests.items():
            _note(self.manifests, manifest, last)
        for blob, last in later.blobs.items():
            _note(self.blobs, blob, last)
        for manifest, last in later.seen.items():
            _note(self.seen, manifest, last)

    def usage(self) -> Usage:
        """As the catalog takes it."""
        return Usage(self.pulls, self.tags, self.manifests, self.blobs, self.seen, self.requests)


def _note(uses: dict[K, V], key: K, value: V) -> None:
    """Put something in as the last that was used, and leave out what was used first where there is
    too much."""
    uses.pop(key, None)
    uses[key] = value
    if len(uses) > UNWRITTEN:
        del uses[next(iter(uses))]


class Ledger:
    """What was used, gathered in memory and written to the catalog once in a while: a hit costs no
    write."""

    def __init__(self, catalog: Catalog, clock: Callable[[], float]) -> None:
        self._catalog = catalog
        self._clock = clock
        self._uses = _Uses()
        self._written = _Uses()
        """What is being written now; nothing, when nothing is."""
        self._writing: asyncio.Task[None] | None = None
        self.requests_saved = 0
        """Manifests that clients got since the start, without those that sources were asked for."""

    @property
    def unwritten(self) -> int:
        """How much is gathered and not in the catalog, in entries."""
        return len(self._uses) + len(self._written)

    def manifest_answered(self, rule: str) -> None:
        """A client got a manifest through a rule; without the cache it would have asked the source."""
        self._uses.requested(rule, 1, 0)
        self.requests_saved += 1

    def manifest_fetched(self, rule: str) -> None:
        """A source was asked for a manifest (GET): what Docker Hub counts."""
        self._uses.requested(rule, 0, 1)
        self.requests_saved -= 1

    def manifest_used(self, repository: Repository, manifest: Manifest, tag: Tag | None) -> None:
        """A client got a manifest. An image manifest counts as a pull; an index leads to one."""
        now = self._clock()
        _note(self._uses.manifests, (repository, manifest.digest), now)
        if tag is not None:
            _note(self._uses.tags, (repository, tag), now)
        if not manifest.is_index:
            self._uses.pulled(repository, 1, now)

    def manifest_seen(self, repository: Repository, digest: Digest) -> None:
        """A client made sure that a manifest is there (HEAD), and has the image itself: a use,
        which keeps it from eviction, but no pull."""
        _note(self._uses.seen, (repository, digest), self._clock())

    def blob_used(self, digest: Digest) -> None:
        """A client got a blob that is held, or made sure that it is there."""
        _note(self._uses.blobs, digest, self._clock())

    def is_unwritten(
        self, repository: Repository, manifest: Digest, blobs: Iterable[Digest]
    ) -> bool:
        """Whether a use of a manifest or of one of some blobs is not in the catalog yet: what is
        being written now is not."""
        blobs = tuple(blobs)
        return self._uses.has(repository, manifest, blobs) or self._written.has(
            repository, manifest, blobs
        )

    async def write(self) -> None:
        """Write down what was used since the last time, all of it or nothing: what could not be
        written is written the next time.

        A caller that is cancelled does not stop the write, of which nobody could say then whether
        it happened.
        """
        while self._writing is not None and not self._writing.done():
            await asyncio.wait({self._writing})
        if not self._uses:
            return
        self._written, self._uses = self._uses, _Uses()
        self._writing = asyncio.create_task(self._record(), name="writing down what was used")
        self._writing.add_done_callback(_look_at)
        await asyncio.shield(self._writing)

    async def _record(self) -> None:
        try:
            await self._catalog.record_usage(self._written.usage())
        except BaseException:
            self._written.add(self._uses)
            self._uses = self._written
            raise
        finally:
            self._written, self._writing = _Uses(), None


def _look_at(task: asyncio.Task[None]) -> None:
    """The caller may have left: then nobody else would look at the error, and asyncio would
    complain."""
    if not task.cancelled():
        task.exception()
