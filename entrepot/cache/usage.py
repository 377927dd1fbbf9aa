"""What clients use, gathered in memory and written to the catalog from time to time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from entrepot.core.reference import Digest, Repository, Tag
from entrepot.store.catalog import Catalog
from entrepot.store.manifests import Manifest
from entrepot.store.usage import Usage

MAX_UNWRITTEN = 50_000
"""Uses of each kind that wait for a catalog that fails: beyond it the oldest are left out."""

K = TypeVar("K")
V = TypeVar("V")


@dataclass
class _Uses:
    """Uses that are not in the catalog yet.

    Each mapping has the oldest use first: beyond `MAX_UNWRITTEN` that is dropped.
    """

    pulls: dict[Repository, tuple[int, float]] = field(default_factory=dict)
    tags: dict[tuple[Repository, Tag], float] = field(default_factory=dict)
    manifests: dict[tuple[Repository, Digest], float] = field(default_factory=dict)
    blobs: dict[Digest, float] = field(default_factory=dict)
    head_requests: dict[tuple[Repository, Digest], float] = field(default_factory=dict)
    requests: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __len__(self) -> int:
        return (
            len(self.pulls)
            + len(self.tags)
            + len(self.manifests)
            + len(self.blobs)
            + len(self.head_requests)
            + len(self.requests)
        )

    def record_pulls(self, repository: Repository, count: int, now: float) -> None:
        """Record that a repository was pulled *count* times, the last time *now*."""
        before, _ = self.pulls.get(repository, (0, now))
        _record(self.pulls, repository, (before + count, now))

    def record_requests(self, rule: str, to_clients: int, to_source: int) -> None:
        """Record the requests of a rule.

        *to_clients* manifests went to clients, for which the source got *to_source* requests.
        """
        clients_before, source_before = self.requests.get(rule, (0, 0))
        _record(self.requests, rule, (clients_before + to_clients, source_before + to_source))

    def add(self, later: _Uses) -> None:
        """Add later uses."""
        for repository, (count, last) in later.pulls.items():
            self.record_pulls(repository, count, last)
        for rule, (to_clients, to_source) in later.requests.items():
            self.record_requests(rule, to_clients, to_source)
        for tag, last in later.tags.items():
            _record(self.tags, tag, last)
        for manifest, last in later.manifests.items():
            _record(self.manifests, manifest, last)
        for blob, last in later.blobs.items():
            _record(self.blobs, blob, last)
        for manifest, last in later.head_requests.items():
            _record(self.head_requests, manifest, last)

    def usage(self) -> Usage:
        """The uses as the catalog takes them."""
        return Usage(
            self.pulls, self.tags, self.manifests, self.blobs, self.head_requests, self.requests
        )


def _record(uses: dict[K, V], key: K, value: V) -> None:
    """Record a use as the last one, and drop the oldest beyond `MAX_UNWRITTEN`."""
    uses.pop(key, None)
    uses[key] = value
    if len(uses) > MAX_UNWRITTEN:
        del uses[next(iter(uses))]


class UsageTracker:
    """Gathers uses in memory and writes them to the catalog from time to time.

    A hit costs no write.
    """

    def __init__(self, catalog: Catalog, clock: Callable[[], float]) -> None:
        self._catalog = catalog
        self._clock = clock
        self._uses = _Uses()
        self._written = _Uses()
        """The uses that are being written now; empty while no write is under way."""
        self._writing: asyncio.Task[None] | None = None
        self.requests_saved = 0
        """Manifests that clients got since the start, less those for which a source was asked."""

    @property
    def unwritten(self) -> int:
        """The number of entries that are not in the catalog yet."""
        return len(self._uses) + len(self._written)

    def record_answer(self, rule: str) -> None:
        """Record that a client got a manifest through a rule.

        Without the cache it would have asked the source.
        """
        self._uses.record_requests(rule, 1, 0)
        self.requests_saved += 1

    def record_fetch(self, rule: str) -> None:
        """Record that a source was asked for a manifest (GET): Docker Hub counts these."""
        self._uses.record_requests(rule, 0, 1)
        self.requests_saved -= 1

    def record_manifest_use(
        self, repository: Repository, manifest: Manifest, tag: Tag | None
    ) -> None:
        """Record that a client got a manifest.

        An image manifest counts as a pull; an index leads to one.
        """
        now = self._clock()
        _record(self._uses.manifests, (repository, manifest.digest), now)
        if tag is not None:
            _record(self._uses.tags, (repository, tag), now)
        if not manifest.is_index:
            self._uses.record_pulls(repository, 1, now)

    def record_manifest_check(self, repository: Repository, digest: Digest) -> None:
        """Record that a client checked a manifest with HEAD.

        The client has the image itself: a use, which keeps the image from eviction, but no pull.
        """
        _record(self._uses.head_requests, (repository, digest), self._clock())

    def record_blob_use(self, digest: Digest) -> None:
        """Record that a client got a cached blob, or checked it with HEAD."""
        _record(self._uses.blobs, digest, self._clock())

    def unwritten_uses(self) -> tuple[list[tuple[Repository, Digest]], list[Digest]]:
        """The manifests and the blobs with uses that are not in the catalog yet.

        A use that is being written now is among them.
        """
        manifests: list[tuple[Repository, Digest]] = []
        blobs: list[Digest] = []
        for uses in (self._uses, self._written):
            manifests += [*uses.manifests, *uses.head_requests]
            blobs += uses.blobs
        return manifests, blobs

    async def write(self) -> None:
        """Write the uses since the last call to the catalog, all or none.

        What could not be written is written at the next call. Cancelling the caller does not stop
        the write, because it would be unknown then whether it happened.
        """
        while self._writing is not None and not self._writing.done():
            await asyncio.wait({self._writing})
        if not self._uses:
            return
        self._written, self._uses = self._uses, _Uses()
        self._writing = asyncio.create_task(self._write_uses(), name="writing usage to the catalog")
        self._writing.add_done_callback(_retrieve_error)
        await asyncio.shield(self._writing)

    async def _write_uses(self) -> None:
        try:
            await self._catalog.record_usage(self._written.usage())
        except BaseException:
            self._written.add(self._uses)
            self._uses = self._written
            raise
        finally:
            self._written, self._writing = _Uses(), None


def _retrieve_error(task: asyncio.Task[None]) -> None:
    """Retrieve the error of a write whose caller is gone.

    asyncio would complain of an error that is never retrieved.
    """
    if not task.cancelled():
        task.exception()
