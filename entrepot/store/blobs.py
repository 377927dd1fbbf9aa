"""Content-addressed blobs on a local file system.

No blob is visible before its digest is verified. A blob arrives in a `PartialBlob`, a file in the
*fills* directory that grows and can be read while it grows. When its digest is right it is fsynced
and renamed into place, and the directory is fsynced: after a crash there are whole blobs or none.
The rename keeps the open file, so readers of the growing file are not disturbed.

A large part of a blob that did not arrive whole, because the source or the engine stopped, is
resumed by the next fill, which hashes the bytes in the file first. After a restart of the machine a
part is not trusted: what a power cut took from a file that was never fsynced would show only in the
digest at the very end, after the whole blob was fetched and relayed in vain.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import os
import re
import shutil
import stat
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from io import FileIO
from pathlib import Path
from threading import Barrier
from typing import NamedTuple, TypeVar

from entrepot.causes import Cause, disk_cause
from entrepot.core.reference import Digest
from entrepot.files import file_system, sync_directory
from entrepot.formatting import printable
from entrepot.store.blob_walk import ALGORITHMS, PREFIX, BlobWalk, ForeignNames
from entrepot.store.partial_blob import NotWritten, PartialBlob
from entrepot.tasks import uninterrupted

T = TypeVar("T")

_REMOVED = "removed-"
_PART_NAME = re.compile(r"[a-z0-9]+-[0-9a-f]+-[0-9a-f]{16}")
"""Digest, and a hash of its source and size.

Parts of earlier versions, whose names have no source, are not resumed."""

READ_SIZE = 256 * 1024
"""Bytes in memory for one reader at a time."""

MIN_RESUMABLE_SIZE = 1024 * 1024
"""Bytes from which on a part is kept for the next fill.

Fewer bytes are fetched in the time that a range request takes."""

RESUMABLE_TTL = 24 * 3600.0
"""Seconds after which a part that was not resumed is removed."""

RESUMABLE_CLEANUP_INTERVAL = 600.0
"""Seconds between two searches for such parts."""

MAX_RESUMABLE_PARTS = 200
"""Resumable parts kept at once; the oldest are removed first."""

RESUMABLE_SHARE = 20
"""Resumable parts take at most 1/20 of the file system: they must not displace cached blobs."""

LEASE_DURATION = 60.0
"""Seconds for which a leased blob is not removed: its reader opens the file soon, in a thread."""

CHECK_SIZE = 2 * 1024 * 1024
"""Bytes of a cached blob hashed at a time."""

CHECKERS = 2
"""Threads that hash cached blobs, apart from the threads that clients wait for."""

REFUSAL_LOG_INTERVAL = 600.0
"""Seconds between two log lines that a file can't be removed.

On a read-only disk there would be one for each blob."""

UNLINKED_AT_ONCE = 1024 * 1024
"""Bytes of a removed blob up to which its file is unlinked within the transaction that removes it.

A larger file takes the file system a while: it is only renamed, and unlinked after the transaction.
"""

WRITERS = 4
"""Threads that hash and write incoming bytes, for all blobs together."""

BEGIN_TIMEOUT = 5.0
"""Seconds in which the disk has to open a file for a new blob.

Clients must not wait for a disk that hangs: they can be served from memory."""


_log = logging.getLogger("entrepot.blobs")


class CheckedFile(NamedTuple):
    """The status of a cached blob's file, and whether its bytes have the digest."""

    status: os.stat_result
    digest_matches: bool


class BlobStore:
    """Cached blobs below *root*, and partial blobs below *fills*.

    Both are on the same file system.
    """

    def __init__(
        self, root: Path, fills: Path, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._root = root
        self._root_text = f"{root}/"
        self._fills = fills
        self._boot = fills.with_name(f"{fills.name}-boot")
        """Identifies the boot of the machine that wrote the parts (Linux: random(4), boot_id)."""
        self._clock = clock
        self._leases: dict[Digest, float] = {}
        self._growing: set[Path] = set()
        self._parts_cleaned_up = clock()
        self._writers = ThreadPoolExecutor(WRITERS, "entrepot-fill")
        self._readers = ThreadPoolExecutor(8, "entrepot-read")
        # Apart from the writers: a disk of 300 MB/s takes half a second to sync a large layer, for
        # which other blobs would wait.
        self._committers = ThreadPoolExecutor(2, "entrepot-commit")
        # Apart from the committers: no blob waits for the bytes of another one that grows.
        self._write_backs = ThreadPoolExecutor(2, "entrepot-write-back")
        self._checkers = ThreadPoolExecutor(CHECKERS, "entrepot-check")
        # Apart from the writers: a disk that hangs blocks each thread that calls it.
        self._openers = ThreadPoolExecutor(2, "entrepot-open")
        self._hashers = ThreadPoolExecutor(2, "entrepot-hash")
        # Apart from the writers: many files take a while, and clients wait for those.
        self._removers = ThreadPoolExecutor(1, "entrepot-remove")
        self._hanging: set[asyncio.Future[PartialBlob]] = set()
        """Files of new blobs that the disk has not opened in time."""
        self.foreign = ForeignNames()
        """Entries that are no blobs, as the last walk through the directories found them."""
        self._damaged: set[Digest] = set()
        """Blobs whose damaged file could not be moved away: they count as not cached."""
        self._removing: set[Digest] = set()
        """Blobs whose files are about to be moved away: they count as not cached."""
        self._renaming = threading.Lock()
        """Held while a file is checked and moved away, so that it is the checked one."""
        self._refusal_logged = -REFUSAL_LOG_INTERVAL

    async def cause(self, error: OSError) -> Cause:
        """The cause of a disk's *error*. A disk that hangs is not queried."""
        file_system_name = (
            "unknown"
            if error.errno == errno.ETIMEDOUT
            else await asyncio.to_thread(file_system, self._root.parent)
        )
        if error.errno == errno.ETIMEDOUT:
            return disk_cause(error, self._root.parent, file_system_name)
        return await asyncio.to_thread(disk_cause, error, self._root.parent, file_system_name)

    async def open(self) -> None:
        """Create the directories.

        Removes parts of an earlier engine that can't be resumed.
        """
        await asyncio.to_thread(self._prepare)
        # The threads are started now: each takes a quarter of a millisecond, for which the first
        # clients would wait.
        all_started = Barrier(WRITERS)
        for _ in range(WRITERS):
            self._writers.submit(all_started.wait)

    def _prepare(self) -> None:
        self._root.mkdir(parents=True, exist_ok=True)
        self._fills.mkdir(parents=True, exist_ok=True)
        boot = _boot_id()
        try:
            same_boot = bool(boot) and self._boot.exists() and self._boot.read_text() == boot
        except (OSError, UnicodeDecodeError):
            same_boot = False
        for path in _entries(self._fills):
            if not same_boot or path.name.startswith(_REMOVED) or not self._is_resumable(path):
                self._unlink(path)
        try:
            self._boot.write_text(boot)
        except OSError as error:
            _log.warning(
                "%s can't be written (%s): parts of blobs are fetched again after the next start.",
                self._boot,
                error.strerror,
            )
            # An old content may match the next start, which would trust parts that a power cut
            # spoiled.
            self._unlink(self._boot)

    def _is_resumable(self, part: Path) -> bool:
        if _PART_NAME.fullmatch(part.name) is None:
            return False
        try:
            status = part.stat()
        except OSError:
            return False
        return (
            status.st_size >= MIN_RESUMABLE_SIZE and time.time() - status.st_mtime < RESUMABLE_TTL
        )

    def _unlink(self, path: Path) -> None:
        """Remove a file; what can't be removed stays, which is only logged."""
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self._log_refusal(path, error)

    def _log_refusal(self, path: Path, error: OSError) -> None:
        if self._clock() - self._refusal_logged >= REFUSAL_LOG_INTERVAL:
            self._refusal_logged = self._clock()
            _log.warning(
                "%s can't be removed: %s. It stays, and so may others.",
                printable(str(path)),
                error.strerror,
            )

    def _resumable_parts(self) -> Iterable[Path]:
        return (
            path
            for path in self._fills.iterdir()
            if not path.name.startswith(_REMOVED) and path not in self._growing
        )

    def _remove_old_parts(self) -> None:
        if self._clock() - self._parts_cleaned_up < RESUMABLE_CLEANUP_INTERVAL:
            return
        self._parts_cleaned_up = self._clock()
        for part in self._resumable_parts():
            if not self._is_resumable(part):
                self._unlink(part)

    def _limit_resumable_parts(self) -> None:
        """Remove the oldest parts beyond their number and their share of the disk.

        The number is `MAX_RESUMABLE_PARTS`, the share that of the file system. Runs in a thread.
        """
        parts: list[tuple[float, int, Path]] = []
        for part in self._resumable_parts():
            # Another thread may remove it.
            with suppress(FileNotFoundError):
                status = part.stat()
                parts.append((status.st_mtime, status.st_size, part))
        room = shutil.disk_usage(self._fills).total // RESUMABLE_SHARE
        for number, (_, size, part) in enumerate(sorted(parts, reverse=True)):
            room -= size
            if room < 0 or number >= MAX_RESUMABLE_PARTS:
                part.unlink(missing_ok=True)

    def _remove_resumable_parts(self) -> bool:
        """Make room on a full disk; returns whether a part was removed."""
        parts = list(self._resumable_parts())
        for part in parts:
            self._unlink(part)
        return any(not part.exists() for part in parts)

    def close(self) -> None:
        """End the threads after their running work."""
        for executor in (
            self._writers,
            self._readers,
            self._committers,
            self._write_backs,
            self._checkers,
            self._openers,
            self._hashers,
            self._removers,
        ):
            executor.shutdown()

    def path(self, digest: Digest) -> Path:
        """The path of a blob.

        It is in one of 256 directories, so that none grows too large to list.
        """
        return self._root / digest.algorithm / digest.hex[:2] / digest.hex

    def size(self, digest: Digest) -> int | None:
        """The size of a cached blob's file in bytes.

        None when it is missing or damaged, or when its status can't be read.
        """
        if digest in self._damaged or digest in self._removing:
            return None
        try:
            return os.stat(self.path(digest)).st_size
        except OSError:
            # Where the disk fails, the blob is fetched from its source.
            return None

    def stat_size(self, digest: Digest) -> int | None:
        """The size of the file in bytes; None where there is none.

        Raises OSError where it is unknown.
        """
        try:
            status = os.stat(self.path(digest))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def lease(self, digest: Digest) -> Path:
        """The path of a cached blob for a reader that opens it soon.

        The blob is not removed within `LEASE_DURATION` seconds.
        """
        now = self._clock()
        self._leases.pop(digest, None)
        self._leases[digest] = now
        while now - next(iter(self._leases.values())) > LEASE_DURATION:
            del self._leases[next(iter(self._leases))]
        return self.path(digest)

    @asynccontextmanager
    async def opened(self, digest: Digest, size: int | None = None) -> AsyncIterator[FileIO]:
        """Open a cached blob for a reader.

        The reader can read it even when it is evicted meanwhile. Raises FileNotFoundError, also for
        a file that no longer has *size* bytes.
        """
        opening = asyncio.get_running_loop().run_in_executor(self._readers, self._open, digest)
        file = await uninterrupted(opening, discard=_close)
        with file:
            if size is not None and os.fstat(file.fileno()).st_size != size:
                raise FileNotFoundError(
                    f"The cached file of {digest} no longer has {size:,} bytes."
                )
            yield file

    async def read(self, digest: Digest, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes *start* (inclusive) to *end* (exclusive) of a cached blob.

        They come in chunks of `READ_SIZE`. Raises FileNotFoundError before the first one.
        """
        opening = asyncio.get_running_loop().run_in_executor(self._readers, self._open, digest)
        with await uninterrupted(opening, discard=_close) as file:
            while start < end:
                chunk = await self._read(file.fileno(), start, min(READ_SIZE, end - start))
                if not chunk:
                    return
                start += len(chunk)
                yield chunk

    def _open(self, digest: Digest) -> FileIO:
        """Open the file of a cached blob.

        A file that this user may not read counts as not cached. An engine that once ran as root
        leaves such files: the blob is fetched again, as this user owns the directory, and no client
        has to wait for a change of the file's mode.
        """
        path = self.path(digest)
        try:
            return FileIO(path)
        except PermissionError as error:
            if self.remove_damaged(digest, is_damaged=lambda _: not os.access(path, os.R_OK)):
                _log.warning("%s can't be read (%s): it is fetched again.", path, error.strerror)
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from error

    async def begin(self, digest: Digest, size: int, source: str = "") -> PartialBlob:
        """Begin a blob of *size* bytes, or resume a part of it.

        See `PartialBlob.resumable_size` and `hash_resumable`. A part is resumed only for the same
        *source* (a login server) and size, so that no source can spoil a blob of another. The
        caller commits it, discards it or keeps it for resume, and then releases it. Raises OSError;
        ETIMEDOUT where the disk hangs.
        """
        if self._hanging:
            raise _stalled()
        beginning = asyncio.get_running_loop().run_in_executor(
            self._openers, self._begin, digest, size, source
        )
        waiting = asyncio.ensure_future(asyncio.wait([beginning], timeout=BEGIN_TIMEOUT))
        try:
            await uninterrupted(waiting)
        except asyncio.CancelledError:
            self._discard_when_opened(beginning)
            raise
        if not beginning.done():
            self._discard_when_opened(beginning)
            raise _stalled()
        return beginning.result()

    def _discard_when_opened(self, beginning: asyncio.Future[PartialBlob]) -> None:
        if beginning.done():
            self._discard_late(beginning)
        else:
            self._hanging.add(beginning)
            beginning.add_done_callback(self._discard_late)

    def _discard_late(self, beginning: asyncio.Future[PartialBlob]) -> None:
        self._hanging.discard(beginning)
        if not beginning.cancelled() and beginning.exception() is None:
            self._release_unused(beginning.result())

    def _release_unused(self, partial: PartialBlob) -> None:
        """Release a part that was opened after its fill had stopped waiting for it."""
        if not partial.resumable_size:
            partial.path.unlink(missing_ok=True)
        self._growing.discard(partial.path)
        partial.release()

    def _begin(self, digest: Digest, size: int, source: str) -> PartialBlob:
        self._remove_old_parts()
        path = self._fills / part_name(digest, size, source)
        # Before it is opened: another thread that makes room must not remove a resumable part.
        self._growing.add(path)
        try:
            descriptor = self._open_part(path)
        except OSError:
            self._growing.discard(path)
            raise
        resumable_size = os.fstat(descriptor).st_size
        if resumable_size > size:
            os.ftruncate(descriptor, 0)
            resumable_size = 0
        return PartialBlob(digest, path, descriptor, resumable_size=resumable_size)

    def _open_part(self, path: Path) -> int:
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:
            # The directory was removed while the engine runs. Without its parent, which has the
            # catalog, this fails.
            self._fills.mkdir(exist_ok=True)
            return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    async def hash_resumable(self, partial: PartialBlob) -> bool:
        """Hash, in a thread, the next bytes that an earlier fill left; False at their end.

        Raises OSError.
        """
        return await uninterrupted(
            asyncio.get_running_loop().run_in_executor(self._writers, partial.hash_resumable)
        )

    async def append(self, partial: PartialBlob, pieces: Sequence[bytes]) -> None:
        """Hash and write *pieces* in a thread (both release the GIL).

        See `append_blocking`.
        """
        await uninterrupted(
            asyncio.get_running_loop().run_in_executor(
                self._writers, self.append_blocking, partial, pieces
            )
        )

    def append_blocking(
        self, partial: PartialBlob, pieces: Sequence[bytes] | Sequence[memoryview]
    ) -> None:
        """Hash and write *pieces*, for a caller that has a thread of its own.

        On a full disk the resumable parts of other blobs are removed. Raises `NotWritten`.
        """
        try:
            partial.append(pieces)
        except NotWritten as full:
            if not self._remove_resumable_parts():
                raise
            partial.write(full.rest)
        partial.start_write_back(self._write_backs)

    async def hash(self, partial: PartialBlob, pieces: Sequence[bytes]) -> None:
        """Hash, in a thread, *pieces* that will not be written."""
        await uninterrupted(
            asyncio.get_running_loop().run_in_executor(self._hashers, partial.hash, pieces)
        )

    async def read_partial(self, partial: PartialBlob, offset: int, length: int) -> bytes:
        """Read from a growing blob; the caller is within `PartialBlob.reading`."""
        return await self._read(partial.fileno(), offset, length)

    async def _read(self, descriptor: int, offset: int, length: int) -> bytes:
        """Read from the page cache, which nearly always has the bytes, or in a thread."""
        return _read_without_waiting(descriptor, offset, length) or await uninterrupted(
            asyncio.get_running_loop().run_in_executor(
                self._readers, os.pread, descriptor, length, offset
            )
        )

    async def commit(self, partial: PartialBlob) -> None:
        """Make a verified blob visible.

        Flushes the content, renames the file, flushes the directory.
        """
        assert partial.digest_matches()
        await uninterrupted(
            asyncio.get_running_loop().run_in_executor(self._committers, self._commit, partial)
        )

    def _commit(self, partial: PartialBlob) -> None:
        partial.sync()
        path = self.path(partial.digest)
        is_new_directory = not path.parent.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._renaming:
            os.rename(partial.path, path)
            self._damaged.discard(partial.digest)
            self._removing.discard(partial.digest)
        self._growing.discard(partial.path)
        partial.path = path
        sync_directory(path.parent)
        if is_new_directory:
            # The name of the new directory has to survive a power cut too.
            sync_directory(path.parent.parent)
            sync_directory(self._root)
        partial.is_committed = True

    async def discard(self, partial: PartialBlob) -> None:
        """Remove a blob that did not arrive whole or right.

        Its readers can read on; the space is free when the last one is done.
        """
        await uninterrupted(
            asyncio.get_running_loop().run_in_executor(self._writers, self._discard, partial)
        )

    def _discard(self, partial: PartialBlob) -> None:
        # Only once: the path may belong to a later blob of the same digest by now.
        if partial.is_linked:
            partial.is_linked = False
            self._unlink(partial.path)
            self._growing.discard(partial.path)

    async def keep_for_resume(self, partial: PartialBlob) -> None:
        """Keep the bytes of an incomplete blob for the next fill.

        Bytes that are not worth resuming are removed.
        """
        if max(partial.written, partial.resumable_size) < MIN_RESUMABLE_SIZE:
            await self.discard(partial)
        else:
            self._growing.discard(partial.path)
            await uninterrupted(
                asyncio.get_running_loop().run_in_executor(
                    self._writers, self._limit_resumable_parts
                )
            )

    async def remove_all(self, digests: Iterable[Digest]) -> list[Digest]:
        """Remove cached blobs that nothing refers to; returns those that are removed.

        From the call on they count as not cached, so no reader gets a lease any more. The files are
        unlinked or renamed in a thread, in the order of their directories. A blob stays where a
        reader has a lease already, or where a fill brings it again before its file is removed. A
        reader that has opened the file can read on.
        """
        removing = [digest for digest in digests if not self._is_leased(digest)]
        self._removing.update(removing)
        return await uninterrupted(
            asyncio.get_running_loop().run_in_executor(self._removers, self._remove_each, removing)
        )

    def _remove_each(self, digests: Sequence[Digest]) -> list[Digest]:
        removed = []
        for digest in sorted(digests, key=lambda digest: digest.hex):
            # Released after each: a fill that brings a blob waits for it.
            with self._renaming:
                if digest in self._removing:
                    if self.remove(digest):
                        removed.append(digest)
                    self._removing.discard(digest)
        return removed

    def remove(self, digest: Digest) -> bool:
        """Remove a cached blob that nothing refers to; `sweep` frees its space.

        False for a leased blob, which a reader may still open, and for one that can't be moved
        away.
        """
        if self._is_leased(digest):
            return False
        try:
            self._move_away(digest)
        except OSError as error:
            self._log_refusal(self.path(digest), error)
            return False
        return True

    def _is_leased(self, digest: Digest) -> bool:
        leased = self._leases.get(digest)
        return leased is not None and self._clock() - leased < LEASE_DURATION

    def _move_away(self, digest: Digest) -> None:
        """Unlink a small file; rename a large one, for `sweep`."""
        # No pathlib: an eviction moves a hundred thousand files.
        path = f"{self._root_text}{digest.algorithm}/{digest.hex[:2]}/{digest.hex}"
        with suppress(FileNotFoundError):
            status = os.lstat(path)
            if stat.S_ISREG(status.st_mode) and status.st_size <= UNLINKED_AT_ONCE:
                os.unlink(path)
            else:
                os.rename(path, self._fills / f"{_REMOVED}{digest.algorithm}-{digest.hex}")

    def remove_damaged(
        self, digest: Digest, *, is_damaged: Callable[[os.stat_result], bool]
    ) -> bool:
        """Remove a damaged file at once, even a leased one.

        False where the file is not damaged. *is_damaged* judges the file that exists now. A file
        that can't be moved away counts as not cached until the blob has been fetched again.
        """
        with self._renaming:
            try:
                if not is_damaged(os.stat(self.path(digest))):
                    return False
                self._move_away(digest)
            except FileNotFoundError:
                return True
            except OSError as error:
                self._damaged.add(digest)
                self._log_refusal(self.path(digest), error)
        return True

    async def check(
        self, digest: Digest, *, pace: Callable[[int], Awaitable[None]] | None = None
    ) -> CheckedFile:
        """Hash the file of a cached blob in a thread.

        *pace* is called with each number of bytes, and may wait. Raises OSError.
        """
        loop = asyncio.get_running_loop()
        file = await uninterrupted(
            loop.run_in_executor(self._checkers, FileIO, self.path(digest)), discard=_close
        )
        with file:
            status = os.fstat(file.fileno())
            hasher = digest.hasher()
            buffer = memoryview(bytearray(min(CHECK_SIZE, max(1, status.st_size))))

            def hash_next() -> int:
                count = file.readinto(buffer)
                hasher.update(buffer[:count])
                return count

            while count := await uninterrupted(loop.run_in_executor(self._checkers, hash_next)):
                if pace is not None:
                    await pace(count)
            return CheckedFile(status, hasher.hexdigest() == digest.hex)

    async def sweep(self) -> None:
        """Free the space of removed blobs, in a thread: a large file takes a while."""
        await asyncio.get_running_loop().run_in_executor(self._removers, self._sweep)

    def _sweep(self) -> None:
        for path in _entries(self._fills):
            if path.name.startswith(_REMOVED):
                self._unlink(path)

    def forbidden_directory(self) -> Path | None:
        """The first blob directory that this user can't read or write, if any. Blocks."""
        algorithms = [self._root / name for name in ALGORITHMS]
        below = [path for directory in algorithms for path in _entries(directory)]
        blobs = (path for path in below if PREFIX.fullmatch(path.name))
        for directory in (self._fills, self._root, *algorithms, *blobs):
            if os.access(directory, os.R_OK | os.W_OK | os.X_OK):
                continue
            with suppress(OSError):
                if directory.is_dir():
                    return directory
        return None

    def walk(self, *, rows: int = 0) -> BlobWalk:
        """A walk through all cached blobs, of which the catalog has about *rows*."""
        return BlobWalk(self._root, rows=rows)

    async def sizes(self) -> dict[Digest, int]:
        """All cached blobs with their sizes, by a walk through the directories in a thread."""
        walk = self.walk()
        sizes: dict[Digest, int] = {}
        while (blobs := await walk.next_slice()) is not None:
            sizes.update((Digest.parse(digest), size) for digest, size in blobs.sizes.items())
        self.foreign = walk.foreign
        return sizes

    def free(self) -> int:
        """Free bytes of the file system."""
        return shutil.disk_usage(self._root).free


def part_name(digest: Digest, size: int, source: str) -> str:
    """The name of a growing file: one for each source and size of a digest."""
    source_hash = hashlib.sha256(f"{source}\n{size}".encode(errors="surrogatepass")).hexdigest()[
        :16
    ]
    return f"{digest.algorithm}-{digest.hex}-{source_hash}"


def _read_without_waiting(descriptor: int, offset: int, length: int) -> bytes:
    """Bytes from the page cache (preadv(2), RWF_NOWAIT); empty where they are not in it."""
    if not hasattr(os, "RWF_NOWAIT"):
        return b""
    buffer = bytearray(length)
    try:
        count = os.preadv(descriptor, [buffer], offset, os.RWF_NOWAIT)
    except OSError:
        return b""
    return bytes(memoryview(buffer)[:count])


def _entries(directory: Path) -> list[Path]:
    """The entries of a directory; none where it can't be listed."""
    try:
        return list(directory.iterdir())
    except OSError:
        return []


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        return ""


def _stalled() -> OSError:
    return OSError(errno.ETIMEDOUT, f"it has not answered for {BEGIN_TIMEOUT:.0f} s")


def _close(file: FileIO) -> None:
    file.close()
