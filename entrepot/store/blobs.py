"""Content-addressed blobs on a local file system. Nothing is visible here before its digest is
right.

A blob arrives in a `PartialBlob`, a file in the *fills* directory that grows and can be read while
it grows. When its digest is right it is fsynced and renamed into place, and the directory is
fsynced: after a crash there are whole blobs or none. The rename keeps the open file, so whoever
reads the growing file reads on undisturbed.

A large part of a blob that did not come whole, because the source or the engine stopped, is left
over and continued by the next fill. It is hashed anew then, so that what is continued is what is
there. After the machine itself was down it is not trusted: what a power cut took from a file that
was never fsynced shows only in the digest at the very end, when the whole blob has been fetched and
sent on for nothing.
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
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from itertools import islice
from pathlib import Path
from threading import Barrier
from typing import NamedTuple, TypeVar

from entrepot.causes import Cause, disk_cause
from entrepot.core.reference import Digest
from entrepot.errors import DigestInvalid
from entrepot.files import file_system, sync_directory
from entrepot.formatting import counted, printable
from entrepot.tasks import uninterrupted

T = TypeVar("T")

_REMOVED = "removed-"
_ALGORITHMS = frozenset({"sha256", "sha512"})
_DIRECTORY = re.compile(r"[0-9a-f]{2}")
_PART_NAME = re.compile(r"[a-z0-9]+-[0-9a-f]+-[0-9a-f]{16}")
"""Digest, and what tells its source and size: parts of earlier versions, which had no source, are
not continued."""

READ_SIZE = 256 * 1024
"""Bytes that are in memory for one reader at a time, at the most."""

PART_SIZE = 4 * 1024 * 1024
"""Bytes of a growing file that are handed out as one part, at the most: after each it is seen how
far its reader has come."""

PIECES_AT_ONCE = 512
"""Pieces that are written in one call (IOV_MAX is 1,024)."""

HASH_SIZE = 8 * 1024 * 1024
"""Bytes of a left-over part that are hashed at a time."""

MIN_RESUMABLE_SIZE = 1024 * 1024
"""Bytes from which on a part is left over for the next fill: less is fetched in the time that it
takes to ask."""

RESUMABLE_TTL = 24 * 3600.0
"""Seconds after which a part that nobody continued is removed."""

RESUMABLE_CLEANUP_INTERVAL = 600.0
"""Seconds between two searches for such parts."""

MAX_RESUMABLE_PARTS = 200
"""Parts that are left over at once; the oldest go first."""

RESUMABLE_SHARE = 20
"""They take at most this part of the file system (1/20): what is left over must not push out what
is cached."""

LEASE_DURATION = 60.0
"""Seconds for which a blob is not removed after it was last handed out: whoever was promised it
opens its file a moment later, in a thread."""

CHECK_SIZE = 2 * 1024 * 1024
"""Bytes of a cached blob that are hashed at a time."""

CHECKERS = 2
"""Threads that hash cached blobs, apart from those that clients wait for."""

REFUSALS_LOGGED = 600.0
"""Seconds between two log lines that a file can't be removed: on a read-only disk there would be
one for each blob."""

FOREIGN_SHOWN = 3
"""Foreign names in the blob directory that a message shows."""


WRITERS = 4
"""Threads that hash and write what comes in: for all blobs together."""

BEGIN_TIMEOUT = 5.0
"""Seconds in which the disk has to give a file for a new blob: one that hangs must not keep clients
from what is passed on from memory."""


_log = logging.getLogger("entrepot.blobs")


@dataclass(frozen=True, slots=True)
class ForeignNames:
    """What is in the blob directory and is no blob: ``lost+found``, ``.DS_Store``, ``.nfs…``, a
    directory that can't be listed."""

    count: int = 0
    examples: tuple[str, ...] = ()
    """At most `FOREIGN_SHOWN`, printable."""

    def __str__(self) -> str:
        more = (
            f" and {counted(self.count - len(self.examples), 'more', 'more')}"
            if self.count > len(self.examples)
            else ""
        )
        return f"{', '.join(self.examples)}{more}"


class CheckedFile(NamedTuple):
    """The file of a cached blob that was hashed, and whether its bytes have the digest."""

    status: os.stat_result
    digest_matches: bool


class NotWritten(OSError):
    """The disk did not take all (ENOSPC, EDQUOT, EIO, EROFS). *rest* is what it did not take; all
    of it has been hashed."""

    def __init__(self, cause: OSError, rest: Sequence[memoryview]) -> None:
        super().__init__(cause.errno, cause.strerror)
        self.rest = rest


class PartialBlob:
    """A blob on its way in: written by one fill, read by any number of clients at their own places.

    It closes its file when the writer and all readers are done with it; see `reading`. *resumable_size*
    is how many bytes of it an earlier fill has left.
    """

    def __init__(
        self, digest: Digest, path: Path, descriptor: int, *, resumable_size: int = 0
    ) -> None:
        self.digest = digest
        self.path = path
        self.resumable_size = resumable_size
        self.is_linked = True
        """Whether the file can be found by its path."""
        self.is_committed = False
        """Whether it has its final name: it is whole, right and on the disk."""
        self._descriptor = descriptor
        self._users = 1
        self._hasher = digest.hasher()
        self.written = 0

    @classmethod
    def without_file(cls, digest: Digest) -> PartialBlob:
        """A blob that is only hashed and passed on, because the disk takes no new file."""
        partial = cls(digest, Path(os.devnull), -1)
        partial.is_linked = False
        return partial

    def append(self, pieces: Sequence[bytes]) -> None:
        """Hash *pieces* and write them at the end. Runs in a thread; raises `NotWritten`."""
        self.hash(pieces)
        self.write([memoryview(each) for each in pieces])

    def hash(self, pieces: Sequence[bytes]) -> None:
        """Hash what comes next, whether or not it is written. Runs in a thread."""
        for each in pieces:
            self._hasher.update(each)

    def write(self, pieces: Sequence[memoryview]) -> None:
        """Write at the end what is hashed already. Runs in a thread; raises `NotWritten`."""
        left = deque(pieces)
        while left:
            try:
                count = os.pwritev(
                    self._descriptor, list(islice(left, PIECES_AT_ONCE)), self.written
                )
            except OSError as error:
                raise NotWritten(error, tuple(left)) from error
            self.written += count
            while left and count >= len(left[0]):
                count -= len(left.popleft())
            if count:
                left[0] = left[0][count:]

    def hash_resumable(self) -> bool:
        """Hash the next piece of what an earlier fill has left; False when there is no more. Runs
        in a thread."""
        content = os.pread(
            self._descriptor, min(HASH_SIZE, self.resumable_size - self.written), self.written
        )
        self._hasher.update(content)
        self.written += len(content)
        return bool(content)

    @property
    def is_open(self) -> bool:
        """Whether the writer or a reader has it open: afterwards its descriptor may be that of
        another file."""
        return self._users > 0

    def fileno(self) -> int:
        """The descriptor of the file, for readers."""
        return self._descriptor

    def digest_matches(self) -> bool:
        """Whether everything that was written has the digest that was asked for."""
        return self._hasher.hexdigest() == self.digest.hex

    def sync(self) -> None:
        """Bring the content to the disk. Runs in a thread."""
        os.fdatasync(self._descriptor)

    @contextmanager
    def reading(self) -> Iterator[PartialBlob]:
        """Keep the file open for a reader, also when the writer is long done; raises
        FileNotFoundError for a blob that was removed meanwhile."""
        self.acquire()
        try:
            yield self
        finally:
            self.release()

    def acquire(self) -> None:
        """One user more, who opens the file if nobody has it open. Raises OSError;
        FileNotFoundError for a blob that was removed meanwhile."""
        if not self.is_open:
            if not self.is_linked:
                # Its path may be that of a later blob by now.
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path))
            # A writer that let go of a growing file comes back to it.
            self._descriptor = os.open(self.path, os.O_RDONLY if self.is_committed else os.O_RDWR)
        self._users += 1

    def release(self) -> None:
        """One user less; the last one closes the file."""
        self._users -= 1
        if self._users == 0 and self._descriptor >= 0:
            os.close(self._descriptor)


@dataclass(frozen=True, slots=True)
class FilePart:
    """Bytes that are in a file: so many from *offset* on. The file is open as long as nobody asks
    for the next part."""

    file: PartialBlob
    offset: int
    count: int


class BlobStore:
    """The blobs that are held, below *root*, and the ones on their way in, below *fills* (on the
    same file system)."""

    def __init__(
        self, root: Path, fills: Path, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._root = root
        self._fills = fills
        self._boot = fills.with_name(f"{fills.name}-boot")
        """Tells the run of the machine in which the parts were written (Linux: random(4), boot_id)."""
        self._clock = clock
        self._leases: dict[Digest, float] = {}
        self._arriving: set[Path] = set()
        self._left_overs_looked_at = clock()
        self._writers = ThreadPoolExecutor(WRITERS, "entrepot-fill")
        self._readers = ThreadPoolExecutor(8, "entrepot-read")
        # Apart from the writers: a disk of 300 MB/s takes half a second to sync a large layer, and
        # the others would have to wait for it.
        self._committers = ThreadPoolExecutor(2, "entrepot-commit")
        self._checkers = ThreadPoolExecutor(CHECKERS, "entrepot-check")
        # Apart from those that write: a disk that hangs keeps each thread that it has got.
        self._openers = ThreadPoolExecutor(2, "entrepot-open")
        self._hashers = ThreadPoolExecutor(2, "entrepot-hash")
        self._hanging: set[asyncio.Future[PartialBlob]] = set()
        """Files of new blobs that the disk was asked for and has not given in time."""
        self.foreign = ForeignNames()
        """What the last walk through the directories found that is no blob."""
        self._condemned: set[Digest] = set()
        """Blobs whose file is damaged but could not be moved away: they count as not cached."""
        self._renaming = threading.Lock()
        """A file is only moved away as long as it is the one that was looked at."""
        self._refusal_logged = -REFUSALS_LOGGED

    async def cause(self, error: OSError) -> Cause:
        """What is at fault where the disk refused with *error*. A disk that hangs is not asked."""
        place = (
            "unknown"
            if error.errno == errno.ETIMEDOUT
            else await asyncio.to_thread(file_system, self._root.parent)
        )
        if error.errno == errno.ETIMEDOUT:
            return disk_cause(error, self._root.parent, place)
        return await asyncio.to_thread(disk_cause, error, self._root.parent, place)

    async def open(self) -> None:
        """Make the directories, and remove what an earlier engine left in mid-fill unless it is
        worth continuing."""
        await asyncio.to_thread(self._prepare)
        # To start a thread takes a quarter of a millisecond, for which the first clients would
        # wait.
        begun = Barrier(WRITERS)
        for _ in range(WRITERS):
            self._writers.submit(begun.wait)

    def _prepare(self) -> None:
        self._root.mkdir(parents=True, exist_ok=True)
        self._fills.mkdir(parents=True, exist_ok=True)
        boot = _boot_id()
        try:
            same_boot = bool(boot) and self._boot.exists() and self._boot.read_text() == boot
        except (OSError, UnicodeDecodeError):
            same_boot = False
        for path in _listed(self._fills):
            if not same_boot or path.name.startswith(_REMOVED) or not self._lasts(path):
                self._unlink(path)
        try:
            self._boot.write_text(boot)
        except OSError as error:
            _log.warning(
                "%s can't be written (%s): parts of blobs are fetched again after the next start.",
                self._boot,
                error.strerror,
            )
            # What it says now may be true of the next start as well, and parts would be trusted
            # that a power cut has spoiled.
            self._unlink(self._boot)

    def _lasts(self, part: Path) -> bool:
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
        """Remove a file if that is possible. A directory, or a file that can't be removed, stays
        and stops nothing."""
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self._log_refusal(path, error)

    def _log_refusal(self, path: Path, error: OSError) -> None:
        if self._clock() - self._refusal_logged >= REFUSALS_LOGGED:
            self._refusal_logged = self._clock()
            _log.warning(
                "%s can't be removed: %s. It stays, and so may others.",
                printable(str(path)),
                error.strerror,
            )

    def _left_overs(self) -> Iterable[Path]:
        return (
            each
            for each in self._fills.iterdir()
            if not each.name.startswith(_REMOVED) and each not in self._arriving
        )

    def _remove_old_left_overs(self) -> None:
        if self._clock() - self._left_overs_looked_at < RESUMABLE_CLEANUP_INTERVAL:
            return
        self._left_overs_looked_at = self._clock()
        for each in self._left_overs():
            if not self._lasts(each):
                self._unlink(each)

    def _bound_left_overs(self) -> None:
        """Remove the oldest of more than `MAX_RESUMABLE_PARTS` parts, or of those that take more
        than their share of the file system. Runs in a thread."""
        parts: list[tuple[float, int, Path]] = []
        for each in self._left_overs():
            # Another thread may remove it.
            with suppress(FileNotFoundError):
                status = each.stat()
                parts.append((status.st_mtime, status.st_size, each))
        room = shutil.disk_usage(self._fills).total // RESUMABLE_SHARE
        for number, (_, size, part) in enumerate(sorted(parts, reverse=True)):
            room -= size
            if room < 0 or number >= MAX_RESUMABLE_PARTS:
                part.unlink(missing_ok=True)

    def _give_up_left_overs(self) -> bool:
        """Make room, when the disk is full; whether there was anything to be removed."""
        found = list(self._left_overs())
        for each in found:
            self._unlink(each)
        return any(not each.exists() for each in found)

    def close(self) -> None:
        """End the threads; what they are doing is finished first."""
        for each in (
            self._writers,
            self._readers,
            self._committers,
            self._checkers,
            self._openers,
            self._hashers,
        ):
            each.shutdown()

    def path(self, digest: Digest) -> Path:
        """Where the blob is, or would be: 256 directories, so that none grows too large to list."""
        return self._root / digest.algorithm / digest.hex[:2] / digest.hex

    def size(self, digest: Digest) -> int | None:
        """The size of a cached blob's file in bytes; None when there is none, it can't be looked
        at, or it is damaged."""
        if digest in self._condemned:
            return None
        try:
            return os.stat(self.path(digest)).st_size
        except OSError:
            # Where the disk itself fails, the blob is fetched from its source.
            return None

    def stat_size(self, digest: Digest) -> int | None:
        """The size of the file that is there now, None when there is none; raises OSError where
        that can't be told."""
        try:
            status = os.stat(self.path(digest))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def lease(self, digest: Digest) -> Path:
        """The path of a held blob, for somebody who opens it soon: it is not removed within
        `LEASE_DURATION` seconds."""
        now = self._clock()
        self._leases.pop(digest, None)
        self._leases[digest] = now
        while now - next(iter(self._leases.values())) > LEASE_DURATION:
            del self._leases[next(iter(self._leases))]
        return self.path(digest)

    @asynccontextmanager
    async def opened(self, digest: Digest, size: int | None = None) -> AsyncIterator[FileIO]:
        """A cached blob, open for a reader who keeps it even when it is evicted meanwhile.

        Raises FileNotFoundError, also for a file that has no longer *size* bytes.
        """
        opening = asyncio.get_running_loop().run_in_executor(self._readers, self._open, digest)
        file = await uninterrupted(opening, discard=_close)
        with file:
            if size is not None and os.fstat(file.fileno()).st_size != size:
                raise FileNotFoundError(
                    f"The cached file of {digest} has no longer {size:,} bytes."
                )
            yield file

    async def read(self, digest: Digest, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes *start* (inclusive) to *end* (exclusive) of a held blob, in chunks of
        `READ_SIZE`; raises FileNotFoundError before the first."""
        opening = asyncio.get_running_loop().run_in_executor(self._readers, self._open, digest)
        with await uninterrupted(opening, discard=_close) as file:
            while start < end:
                chunk = await self._read(file.fileno(), start, min(READ_SIZE, end - start))
                if not chunk:
                    return
                start += len(chunk)
                yield chunk

    def _open(self, digest: Digest) -> FileIO:
        """Open the file of a cached blob. One that this user may not read counts as not cached.

        That is what an engine leaves behind which root ran once: the blob is fetched again, as the
        directory is this user's, and no client waits for anybody to change the file's mode.
        """
        path = self.path(digest)
        try:
            return FileIO(path)
        except PermissionError as error:
            if self.remove_damaged(digest, is_damaged=lambda _: not os.access(path, os.R_OK)):
                _log.warning("%s can't be read (%s): it is fetched again.", path, error.strerror)
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from error

    async def begin(self, digest: Digest, size: int, source: str = "") -> PartialBlob:
        """Begin a blob of *size* bytes, or continue what is left over of it: see
        `PartialBlob.resumable_size` and `hash_resumable`.

        What is left over is continued only for the same *source* (a login server) and size: another
        source can neither be misled by it nor mislead with it. The caller commits it, discards it
        or sets it aside, and then releases it. Raises OSError; ETIMEDOUT where the disk hangs.
        """
        if self._hanging:
            raise _hangs()
        beginning = asyncio.get_running_loop().run_in_executor(
            self._openers, self._begin, digest, size, source
        )
        answer = asyncio.ensure_future(asyncio.wait([beginning], timeout=BEGIN_TIMEOUT))
        try:
            await uninterrupted(answer)
        except asyncio.CancelledError:
            self._give_up(beginning)
            raise
        if not beginning.done():
            self._give_up(beginning)
            raise _hangs()
        return beginning.result()

    def _give_up(self, beginning: asyncio.Future[PartialBlob]) -> None:
        if beginning.done():
            self._begun_too_late(beginning)
        else:
            self._hanging.add(beginning)
            beginning.add_done_callback(self._begun_too_late)

    def _begun_too_late(self, beginning: asyncio.Future[PartialBlob]) -> None:
        self._hanging.discard(beginning)
        if not beginning.cancelled() and beginning.exception() is None:
            self._abandon(beginning.result())

    def _abandon(self, partial: PartialBlob) -> None:
        """Let go of a part that its fill did not wait for until a thread had opened its file."""
        if not partial.resumable_size:
            partial.path.unlink(missing_ok=True)
        self._arriving.discard(partial.path)
        partial.release()

    def _begin(self, digest: Digest, size: int, source: str) -> PartialBlob:
        self._remove_old_left_overs()
        path = self._fills / part_name(digest, size, source)
        # Before it is opened: it may be left over, and another thread that makes room must leave it
        # alone.
        self._arriving.add(path)
        try:
            descriptor = self._open_part(path)
        except OSError:
            self._arriving.discard(path)
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
            # The directory was removed while the engine runs. Where its parent is gone too, so is
            # the catalog.
            self._fills.mkdir(exist_ok=True)
            return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    async def hash_resumable(self, partial: PartialBlob) -> bool:
        """Hash the next piece of what an earlier fill has left, in a thread; False when there is no
        more. Raises OSError."""
        return await uninterrupted(
            asyncio.get_running_loop().run_in_executor(self._writers, partial.hash_resumable)
        )

    async def append(self, partial: PartialBlob, pieces: Sequence[bytes]) -> None:
        """Hash and write *pieces* in a thread (both let go of the GIL). A full disk gets rid of
        what is left over of other blobs; raises `NotWritten`."""
        loop = asyncio.get_running_loop()
        try:
            await uninterrupted(loop.run_in_executor(self._writers, partial.append, pieces))
        except NotWritten as full:
            if not await uninterrupted(
                loop.run_in_executor(self._writers, self._give_up_left_overs)
            ):
                raise
            await uninterrupted(loop.run_in_executor(self._writers, partial.write, full.rest))

    async def hash(self, partial: PartialBlob, pieces: Sequence[bytes]) -> None:
        """Hash, in a thread, what is not going to be written."""
        await uninterrupted(
            asyncio.get_running_loop().run_in_executor(self._hashers, partial.hash, pieces)
        )

    async def read_partial(self, partial: PartialBlob, offset: int, length: int) -> bytes:
        """Read from a growing blob; the caller is within `PartialBlob.reading`."""
        return await self._read(partial.fileno(), offset, length)

    async def _read(self, descriptor: int, offset: int, length: int) -> bytes:
        """Read from memory if the kernel has it there, as it has nearly always, and from the disk
        in a thread."""
        return _read_without_waiting(descriptor, offset, length) or await uninterrupted(
            asyncio.get_running_loop().run_in_executor(
                self._readers, os.pread, descriptor, length, offset
            )
        )

    async def commit(self, partial: PartialBlob) -> None:
        """Make a blob visible whose digest is right: content to the disk, then the name, then the
        directory."""
        assert partial.digest_matches()
        await uninterrupted(
            asyncio.get_running_loop().run_in_executor(self._committers, self._commit, partial)
        )

    def _commit(self, partial: PartialBlob) -> None:
        partial.sync()
        path = self.path(partial.digest)
        made = not path.parent.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._renaming:
            os.rename(partial.path, path)
            self._condemned.discard(partial.digest)
        self._arriving.discard(partial.path)
        partial.path = path
        sync_directory(path.parent)
        if made:
            # The name of the new directory has to survive a power cut as well.
            sync_directory(path.parent.parent)
            sync_directory(self._root)
        partial.is_committed = True

    async def discard(self, partial: PartialBlob) -> None:
        """Throw away a blob that did not come whole or right. Whoever reads it reads on; the space
        is free when the last one is done."""
        await uninterrupted(
            asyncio.get_running_loop().run_in_executor(self._writers, self._discard, partial)
        )

    def _discard(self, partial: PartialBlob) -> None:
        # Once only: a later blob of the same digest may have its file there by now.
        if partial.is_linked:
            partial.is_linked = False
            self._unlink(partial.path)
            self._arriving.discard(partial.path)

    async def keep_for_resume(self, partial: PartialBlob) -> None:
        """Leave over for the next fill what has come of a blob, if that is worth continuing."""
        if max(partial.written, partial.resumable_size) < MIN_RESUMABLE_SIZE:
            await self.discard(partial)
        else:
            self._arriving.discard(partial.path)
            await uninterrupted(
                asyncio.get_running_loop().run_in_executor(self._writers, self._bound_left_overs)
            )

    def remove(self, digest: Digest) -> bool:
        """Let a held blob that nothing refers to disappear; `sweep` frees its space.

        False when it was handed out so lately that a reader may yet open it. The name goes at once,
        without a thread in between: whoever looks next finds the blob gone and fetches it again.
        """
        leased = self._leases.get(digest)
        if leased is not None and self._clock() - leased < LEASE_DURATION:
            return False
        try:
            self._move_away(digest)
        except OSError as error:
            self._log_refusal(self.path(digest), error)
            return False
        return True

    def _move_away(self, digest: Digest) -> None:
        with suppress(FileNotFoundError):
            os.rename(self.path(digest), self._fills / f"{_REMOVED}{digest.algorithm}-{digest.hex}")

    def remove_damaged(
        self, digest: Digest, *, is_damaged: Callable[[os.stat_result], bool]
    ) -> bool:
        """Let a damaged file disappear at once, also when a reader may yet open it; False where
        another, right one is there.

        *is_damaged* judges the file that is there now. One that can't be moved away counts as not
        cached from now on, until the blob has been fetched again.
        """
        with self._renaming:
            try:
                if not is_damaged(os.stat(self.path(digest))):
                    return False
                self._move_away(digest)
            except FileNotFoundError:
                return True
            except OSError as error:
                self._condemned.add(digest)
                self._log_refusal(self.path(digest), error)
        return True

    async def check(
        self, digest: Digest, *, pace: Callable[[int], Awaitable[None]] | None = None
    ) -> CheckedFile:
        """Hash the file of a cached blob in a thread. *pace* is told each number of bytes and may
        wait. Raises OSError."""
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
        """Free the space of blobs that were taken away: for a large file that takes a while, so a
        thread does it."""
        await asyncio.get_running_loop().run_in_executor(self._writers, self._sweep)

    def _sweep(self) -> None:
        for path in _listed(self._fills):
            if path.name.startswith(_REMOVED):
                self._unlink(path)

    def forbidden_directory(self) -> Path | None:
        """The first directory of blobs that this user can't read or write; None where there is
        none. Blocks."""
        algorithms = [self._root / name for name in sorted(_ALGORITHMS)]
        below = [path for each in algorithms for path in _listed(each)]
        blobs = (path for path in below if _DIRECTORY.fullmatch(path.name))
        for directory in (self._fills, self._root, *algorithms, *blobs):
            if os.access(directory, os.R_OK | os.W_OK | os.X_OK):
                continue
            with suppress(OSError):
                if directory.is_dir():
                    return directory
        return None

    async def sizes(self) -> dict[Digest, int]:
        """Every blob that is held, with its size: a walk through the directories, in a thread."""
        return await asyncio.to_thread(self._walk)

    def _walk(self) -> dict[Digest, int]:
        blobs: dict[Digest, int] = {}
        foreign: list[str] = []
        count = 0

        def pass_over(path: str) -> None:
            nonlocal count
            count += 1
            if len(foreign) < FOREIGN_SHOWN:
                foreign.append(printable(os.path.relpath(path, self._root), 80))

        def listed(directory: str) -> Iterator[os.DirEntry[str]]:
            try:
                with os.scandir(directory) as entries:
                    yield from entries
            except OSError:
                # A file where a directory is expected, or a directory that we may not list.
                pass_over(directory)

        for algorithm in listed(str(self._root)):
            if algorithm.name not in _ALGORITHMS:
                pass_over(algorithm.path)
                continue
            for directory in listed(algorithm.path):
                if not _DIRECTORY.fullmatch(directory.name):
                    pass_over(directory.path)
                    continue
                for entry in listed(directory.path):
                    try:
                        digest = Digest.parse(f"{algorithm.name}:{entry.name}")
                        status = entry.stat()
                    except (DigestInvalid, OSError):
                        pass_over(entry.path)
                        continue
                    if digest.hex[:2] == directory.name and stat.S_ISREG(status.st_mode):
                        blobs[digest] = status.st_size
                    else:
                        pass_over(entry.path)
        self.foreign = ForeignNames(count, tuple(foreign))
        return blobs

    def free(self) -> int:
        """Bytes left on the file system."""
        return shutil.disk_usage(self._root).free


def part_name(digest: Digest, size: int, source: str) -> str:
    """The name of a growing file: a digest that comes from two sources, or with two sizes, has a
    file for each."""
    of_source = hashlib.sha256(f"{source}\n{size}".encode(errors="surrogatepass")).hexdigest()[:16]
    return f"{digest.algorithm}-{digest.hex}-{of_source}"


def _read_without_waiting(descriptor: int, offset: int, length: int) -> bytes:
    """What the kernel has in memory; nothing when it would have to wait for the disk (preadv(2),
    RWF_NOWAIT), or can't tell."""
    if not hasattr(os, "RWF_NOWAIT"):
        return b""
    buffer = bytearray(length)
    try:
        count = os.preadv(descriptor, [buffer], offset, os.RWF_NOWAIT)
    except OSError:
        return b""
    return bytes(memoryview(buffer)[:count])


def _listed(directory: Path) -> list[Path]:
    """What is in a directory; nothing where it can't be listed."""
    try:
        return list(directory.iterdir())
    except OSError:
        return []


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        return ""


def _hangs() -> OSError:
    return OSError(errno.ETIMEDOUT, f"it has not answered for {BEGIN_TIMEOUT:.0f} s")


def _close(file: FileIO) -> None:
    file.close()
