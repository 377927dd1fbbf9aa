"""Cached copies of blobs: whether they are intact, and which sources gave them.

A copy is right as long as its file has the size that was verified when it came: that is compared
each time the copy is opened, with the `stat` that is made anyway. Which size is right is decided in
this order:

1. the size in the blob's row, which was hashed when the blob came;
2. where there is no row, or a manifest states another size than the row: the digest. The file is
   hashed once. A manifest may state a wrong size, and a row may have been made for a file that was
   damaged before.

A copy whose bytes are wrong is moved away at once and its row is dropped, so that the next request
fetches the blob through its cache rule. Readers that have the file open keep it.

Wrong bytes of the right size show only in the digest. A client that gets such a copy finds out and
requests it again, so a copy that one client requests again at once is hashed in the background.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import Any, TypeVar

from entrepot.cache.fills import Fills
from entrepot.core.reference import Digest
from entrepot.event_kinds import EventKind, Severity
from entrepot.events import EventLog
from entrepot.source.singleflight import SingleFlight
from entrepot.store.blobs import BlobStore
from entrepot.store.catalog import Catalog
from entrepot.store.connections import CatalogFailed
from entrepot.store.records import BlobOrigin, BlobRecord
from entrepot.tasks import OwnedTasks, uninterrupted

RECORDS = 50_000
"""Blobs whose size and origins stay in memory, those used last."""

REPEAT_WINDOW = 60.0
"""Seconds within which a client that requests the same whole blob again may have got wrong
bytes."""

DELIVERIES = 10_000
"""Deliveries of a whole blob to a client that are remembered for that."""

CHECK_TTL = 600.0
"""Seconds for which a copy that was hashed is not hashed again when a client requests it again."""

CHECKED = 10_000
"""Copies that are remembered as hashed and right."""

MAX_BACKGROUND_CHECKS = 2
"""Copies that are hashed at once because clients request them again."""

DAMAGED = 1_000
"""Damaged copies that are remembered, to say why a blob is not cached any more."""

K = TypeVar("K")
V = TypeVar("V")

_log = logging.getLogger("entrepot.copies")


class BlobCopies:
    """The copies of one engine.

    *now* gives the times that are stored, in seconds since the epoch; *monotonic*, in seconds,
    measures durations.
    """

    def __init__(
        self,
        *,
        catalog: Catalog,
        blobs: BlobStore,
        fills: Fills,
        events: EventLog,
        now: Callable[[], float],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._catalog = catalog
        self._blobs = blobs
        self._fills = fills
        self._events = events
        self._now = now
        self._monotonic = monotonic
        self.on_size_changed: Callable[[int], None] = lambda _change: None
        """Called with the bytes by which the recorded copies grew, or shrank because one was
        damaged or missing."""
        self._records: OrderedDict[Digest, BlobRecord] = OrderedDict()
        self._invalidations = 0
        """Counts invalidations: a row that was read before one must not be stored after it."""
        self._fetching: OrderedDict[tuple[Digest, str], bool] = OrderedDict()
        """By blob and login server: whether a credential set is used for the fill."""
        self._deliveries: OrderedDict[tuple[str | None, Digest], float] = OrderedDict()
        self._checked: OrderedDict[Digest, tuple[tuple[int, ...], float]] = OrderedDict()
        self._checks: SingleFlight[bool] = SingleFlight()
        self._background: set[Digest] = set()
        self._damaged: OrderedDict[Digest, None] = OrderedDict()
        self._tasks = OwnedTasks()

    async def close(self) -> None:
        """Cancel what is being hashed."""
        await self._tasks.__aexit__()
        await self._checks.close()

    # The records of copies

    async def record(self, digest: Digest) -> BlobRecord | None:
        """The verified size and the origins of a blob; None when it has no row."""
        record = self._records.get(digest)
        if record is not None:
            self._records.move_to_end(digest)
            return record
        before = self._invalidations
        record = await self._catalog.blob(digest)
        if record is not None and before == self._invalidations and digest not in self._records:
            self._store_record(digest, record)
        return record

    def _store_record(self, digest: Digest, record: BlobRecord) -> None:
        _remember(self._records, digest, record, RECORDS)

    def invalidate(self, digest: Digest) -> None:
        """Drop what is in memory of a copy: it was evicted or removed."""
        self._invalidations += 1
        self._records.pop(digest, None)
        self._checked.pop(digest, None)

    def invalidate_all(self) -> None:
        """Read all rows again: many were changed."""
        self._invalidations += 1
        self._records.clear()

    def record_fetch(self, digest: Digest, origin: BlobOrigin) -> None:
        """Record that a fill is about to fetch a blob from a source registry."""
        key = (digest, origin.login_server)
        # Where two rules of one source registry share a fill, the credentials of either may bring
        # it.
        _remember(
            self._fetching, key, origin.with_credentials or self._fetching.get(key, False), CHECKED
        )

    def origin_of_fetch(self, digest: Digest, login_server: str) -> BlobOrigin:
        """The origin of a blob that a fill fetched from *login_server*."""
        return BlobOrigin(login_server, self._fetching.pop((digest, login_server), True))

    async def add(self, digest: Digest, size: int, origin: BlobOrigin | None) -> bool:
        """Record a verified blob; False when it was cached already.

        Raises `CatalogFailed`, and then the record stays in memory until the engine ends.
        """
        before = self._records.get(digest)
        origins = frozenset() if before is None else before.origins
        if origin is not None:
            origins |= {origin}
        self._damaged.pop(digest, None)
        self._store_record(digest, BlobRecord(size, origins))
        is_new = await _write_whole(
            self._catalog.add_blob(digest, size, now=self._now(), origin=origin)
        )
        # Its row may name origins that were not in memory.
        self.invalidate(digest)
        return is_new

    async def add_origin(self, digest: Digest, size: int, origin: BlobOrigin) -> None:
        """Record that a source registry has proven that it has the bytes of a copy."""
        record = await self.record(digest)
        self._store_record(
            digest,
            BlobRecord(
                size, frozenset({origin}) | (record.origins if record is not None else frozenset())
            ),
        )
        await _write_whole(self._catalog.add_blob_origin(digest, origin))

    async def may_be_served_for(self, digest: Digest, login_servers: Collection[str]) -> bool:
        """Whether a copy may be served in the name of one of some source registries."""
        try:
            record = await self.record(digest)
        except CatalogFailed:
            return False
        return record is not None and record.may_be_served_for(login_servers)

    # Whether the bytes are right

    async def size(self, digest: Digest, stated_size: int | None) -> int | None:
        """Return the size in bytes of the intact copy of a blob.

        None when there is none, or when a damaged one was just removed. *stated_size* is the size
        in a manifest; None where only a HEAD of the source names the blob, which proves nothing.
        """
        actual_size = self._blobs.size(digest)
        if actual_size is None:
            return None
        record = self._records.get(digest)
        if record is None:
            try:
                record = await self.record(digest)
            except CatalogFailed:
                # Only the manifest's size is left to compare: a catalog that fails must not keep
                # clients from what is cached.
                return actual_size if stated_size in {None, actual_size} else None
            # The copy may have come or gone meanwhile.
            actual_size = self._blobs.size(digest)
            if actual_size is None:
                return None
        if record is None:
            if self._fills.is_under_way(digest):
                # The fill has just renamed it into place, and it is about to get its row.
                return None
            if not await self._is_checked(digest):
                return None
            try:
                if await self.add(digest, actual_size, None):
                    self.on_size_changed(actual_size)
            except CatalogFailed as error:
                _log.warning("The cached blob %s can't get its row: %s", digest, error.message)
            return actual_size
        if actual_size != record.size:
            await self._remove_damaged(
                digest,
                lambda status: status.st_size != record.size,
                f"its file has {actual_size:,} bytes and should have {record.size:,}",
            )
            return None
        if (
            stated_size is not None
            and stated_size != actual_size
            and not await self._is_checked(digest)
        ):
            return None
        return actual_size

    async def _is_checked(self, digest: Digest) -> bool:
        """Whether the file in its present state has the right digest.

        The file is hashed unless it was hashed before.
        """
        identity, _ = self._checked.get(digest, (None, 0.0))
        try:
            if identity is not None and identity == _identity(os.stat(self._blobs.path(digest))):
                return True
            return await self.check(digest)
        except OSError:
            # A copy that can't be read is fetched again.
            return False

    async def check(
        self, digest: Digest, *, pace: Callable[[int], Awaitable[None]] | None = None
    ) -> bool:
        """Hash a copy; False when it is damaged or absent.

        A damaged copy is removed, with an event. Raises OSError where it can't be read.

        *pace* is awaited with the bytes read so far, to slow the hash down.
        """
        if pace is not None:
            # No other request waits for a slow hash, and its caller may cancel it.
            return await self._check(digest, pace)
        return await self._checks.join(digest, lambda: self._check(digest, None))

    async def _check(self, digest: Digest, pace: Callable[[int], Awaitable[None]] | None) -> bool:
        try:
            checked = await self._blobs.check(digest, pace=pace)
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            await self._remove_damaged(digest, lambda _status: True, "the disk can't read it")
            return False
        identity = _identity(checked.status)
        if checked.digest_matches:
            _remember(self._checked, digest, (identity, self._monotonic()), CHECKED)
            return True
        await self._remove_damaged(
            digest, lambda status: _identity(status) == identity, "its bytes have another digest"
        )
        return False

    async def _remove_damaged(
        self, digest: Digest, is_damaged: Callable[[os.stat_result], bool], what: str
    ) -> None:
        if not self._blobs.remove_damaged(digest, is_damaged=is_damaged):
            return
        self.record_damaged(digest, what)
        try:
            await self.drop(digest)
        except CatalogFailed as error:
            _log.warning(
                "The row of the damaged blob %s could not be removed: %s", digest, error.message
            )
        await self._blobs.sweep()

    async def drop(self, digest: Digest) -> None:
        """Drop the row of a copy whose file is gone. Raises `CatalogFailed`."""
        self.invalidate(digest)
        recorded_size = await _write_whole(self._catalog.remove_blob(digest))
        # The row may have been read while it was dropped.
        self.invalidate(digest)
        self.on_size_changed(-recorded_size)

    def record_damaged(self, digest: Digest, what: str) -> None:
        """Record that a damaged copy was moved away.

        The event says *what* was wrong.
        """
        self.invalidate(digest)
        _remember(self._damaged, digest, None, DAMAGED)
        self._events.record(
            EventKind.BLOB_DAMAGED,
            f"The cached copy of {digest} is damaged: {what}. It was removed and is fetched again "
            "when a client asks for it. Look at the disk.",
            str(digest),
            severity=Severity.ERROR,
        )

    def was_damaged(self, digest: Digest) -> bool:
        """Whether a copy was removed because it was damaged, and was not fetched again."""
        return digest in self._damaged

    # Deliveries to clients

    def record_delivery(self, client: str | None, digest: Digest) -> None:
        """Record that a client got a whole copy."""
        _remember(self._deliveries, (client, digest), self._monotonic(), DELIVERIES)

    def record_request(self, client: str | None, digest: Digest) -> None:
        """Record that a client requests a whole copy.

        If the client got it a moment ago, the copy is hashed in the background.
        """
        delivery = self._deliveries.get((client, digest))
        now = self._monotonic()
        if delivery is None or now - delivery > REPEAT_WINDOW:
            return
        identity, checked = self._checked.get(digest, (None, 0.0))
        if identity is None or now - checked >= CHECK_TTL:
            self.check_in_background(digest)

    def check_in_background(self, digest: Digest) -> None:
        """Hash a copy in the background.

        Does nothing when it is being hashed already, or too many others are.
        """
        if digest in self._background or len(self._background) >= MAX_BACKGROUND_CHECKS:
            return
        self._background.add(digest)
        self._tasks.start(self._check_suspect(digest), f"hashing {digest}")

    async def _check_suspect(self, digest: Digest) -> None:
        try:
            await self.check(digest)
        except OSError as error:
            _log.warning(
                "The cached copy of %s, which a client had trouble with, can't be read: %s.",
                digest,
                error.strerror,
            )
        finally:
            self._background.discard(digest)


async def _write_whole(writing: Coroutine[Any, Any, V]) -> V:
    """Finish a write to the catalog also when cancelled.

    A write that is cut off would hold the database's lock longer.
    """
    return await uninterrupted(asyncio.ensure_future(writing))


def _identity(status: os.stat_result) -> tuple[int, ...]:
    """The parts of a file's status that change when it is replaced or written to."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _remember(memory: OrderedDict[K, V], key: K, value: V, limit: int) -> None:
    memory[key] = value
    memory.move_to_end(key)
    while len(memory) > limit:
        memory.popitem(last=False)
