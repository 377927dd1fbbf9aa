"""What clients use, gathered in memory and written to the catalog from time to time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from entrepot.core.reference import Digest, Repository, Tag
from entrepot.store.catalog import Catalog, Usage
from entrepot.store.manifests import Manifest

MAX_UNWRITTEN = 50_000
"""Uses of each kind that wait for a catalog that fails: beyond it the oldest are left out."""

K = TypeVar("K")
V = TypeVar("V")


@dataclass
class _Uses:
    """What was used and is not written down. Each mapping is in the order of use as far as it
    matters: what goes beyond `MAX_UNWRITTEN` is the oldest."""

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
    if len(uses) > MAX_UNWRITTEN:
        del uses[next(iter(uses))]


class UsageTracker:
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

    def record_answer(self, rule: str) -> None:
        """A client got a manifest through a rule; without the cache it would have asked the source."""
        self._uses.requested(rule, 1, 0)
        self.requests_saved += 1

    def record_fetch(self, rule: str) -> None:
        """A source was asked for a manifest (GET): what Docker Hub counts."""
        self._uses.requested(rule, 0, 1)
        self.requests_saved -= 1

    def record_manifest_use(
        self, repository: Repository, manifest: Manifest, tag: Tag | None
    ) -> None:
        """A client got a manifest. An image manifest counts as a pull; an index leads to one."""
        now = self._clock()
        _note(self._uses.manifests, (repository, manifest.digest), now)
        if tag is not None:
            _note(self._uses.tags, (repository, tag), now)
        if not manifest.is_index:
            self._uses.pulled(repository, 1, now)

    def record_manifest_check(self, repository: Repository, digest: Digest) -> None:
        """A client made sure that a manifest is there (HEAD), and has the image itself: a use,
        which keeps it from eviction, but no pull."""
        _note(self._uses.seen, (repository, digest), self._clock())

    def record_blob_use(self, digest: Digest) -> None:
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
