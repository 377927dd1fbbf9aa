"""Content-addressed blobs on a local file system. Nothing is visible here before its digest is right.

A blob arrives in a `PartialBlob`, a file in the *fills* directory that grows and can be read while it grows. When its digest is right it is fsynced and
renamed into place, and the directory is fsynced: after a crash there are whole blobs or none. The rename keeps the open file, so whoever reads the growing file
reads on undisturbed.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from entrepot.reference import Digest

T = TypeVar("T")

_REMOVED = "removed-"

READ_SIZE = 256 * 1024
"""Bytes handed to a client at a time: 64 clients fed in chunks of 1 MiB cost 220 MB of memory, in chunks of 256 KiB 100 MB."""

LEASE_LINGERS = 60.0
"""Seconds for which a blob is not removed after it was last handed out by its path: the server opens the file after the handler has returned."""


class PartialBlob:
    """A blob on its way in: written by one fill, read by any number of clients at their own places.

    It closes its file when the writer and all readers are done with it; see `reading`.
    """

    def __init__(self, digest: Digest, path: Path, descriptor: int) -> None:
        self.digest = digest
        self.path = path
        self._descriptor = descriptor
        self._users = 1
        self._hasher = digest.hasher()
        self.written = 0

    def append(self, content: bytes) -> None:
        """Hash and write *content* at the end. Runs in a thread; raises OSError (ENOSPC, EIO)."""
        view = memoryview(content)
        position = self.written
        while view:
            count = os.pwrite(self._descriptor, view, position)
            view = view[count:]
            position += count
        self._hasher.update(content)
        self.written = position

    def read(self, offset: int, length: int) -> bytes:
        """Up to *length* bytes from *offset* of what is written. Runs in a thread."""
        return os.pread(self._descriptor, length, offset)

    def is_right(self) -> bool:
        """Whether everything that was written has the digest that was asked for."""
        return self._hasher.hexdigest() == self.digest.hex

    def sync(self) -> None:
        """Bring the content to the disk. Runs in a thread."""
        os.fdatasync(self._descriptor)

    @contextmanager
    def reading(self) -> Iterator[PartialBlob]:
        """Keep the file open for a reader, also when the writer is long done; raises FileNotFoundError for a blob that was removed meanwhile."""
        if self._users == 0:
            self._descriptor = os.open(self.path, os.O_RDONLY)
        self._users += 1
        try:
            yield self
        finally:
            self.release()

    def release(self) -> None:
        """One user less; the last one closes the file."""
        self._users -= 1
        if self._users == 0:
            os.close(self._descriptor)


class BlobStore:
    """The blobs that are held, below *root*, and the ones on their way in, below *fills* (on the same file system)."""

    def __init__(self, root: Path, fills: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._root = root
        self._fills = fills
        self._clock = clock
        self._handed_out: dict[Digest, float] = {}
        self._writers = ThreadPoolExecutor(4, "entrepot-fill")
        self._readers = ThreadPoolExecutor(8, "entrepot-read")

    async def open(self) -> None:
        """Make the directories and remove what an earlier engine left in mid-fill."""
        await asyncio.to_thread(self._prepare)

    def _prepare(self) -> None:
        self._root.mkdir(parents=True, exist_ok=True)
        self._fills.mkdir(parents=True, exist_ok=True)
        for left_over in self._fills.iterdir():
            left_over.unlink()

    def close(self) -> None:
        """End the threads; what they are doing is finished first."""
        self._writers.shutdown()
        self._readers.shutdown()

    def path(self, digest: Digest) -> Path:
        """Where the blob is, or would be: 256 directories, so that none grows too large to list."""
        return self._root / digest.algorithm / digest.hex[:2] / digest.hex

    def size(self, digest: Digest) -> int | None:
        """The size of a held blob in bytes; None when it is not held."""
        try:
            return os.stat(self.path(digest)).st_size
        except FileNotFoundError:
            return None

    def hand_out(self, digest: Digest) -> Path:
        """The path of a held blob, for a server that opens it soon: it is not removed within `LEASE_LINGERS` seconds."""
        now = self._clock()
        self._handed_out.pop(digest, None)
        self._handed_out[digest] = now
        while now - next(iter(self._handed_out.values())) > LEASE_LINGERS:
            del self._handed_out[next(iter(self._handed_out))]
        return self.path(digest)

    async def read(self, digest: Digest, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes *start* (inclusive) to *end* (exclusive) of a held blob, in chunks of `READ_SIZE`; raises FileNotFoundError before the first."""
        loop = asyncio.get_running_loop()
        descriptor = await loop.run_in_executor(self._readers, os.open, self.path(digest), os.O_RDONLY)
        try:
            while start < end:
                chunk = await _uninterrupted(loop.run_in_executor(self._readers, os.pread, descriptor, min(READ_SIZE, end - start), start))
                if not chunk:
                    return
                start += len(chunk)
                yield chunk
        finally:
            os.close(descriptor)

    async def begin(self, digest: Digest) -> PartialBlob:
        """Begin a blob. The caller commits or discards it, and then releases it."""
        path = self._fills / f"{digest.algorithm}-{digest.hex}"
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC
        descriptor = await asyncio.get_running_loop().run_in_executor(self._writers, os.open, path, flags, 0o600)
        return PartialBlob(digest, path, descriptor)

    async def append(self, partial: PartialBlob, content: bytes) -> None:
        """Hash and write *content* in a thread (both let go of the GIL); raises OSError."""
        await _uninterrupted(asyncio.get_running_loop().run_in_executor(self._writers, partial.append, content))

    async def read_partial(self, partial: PartialBlob, offset: int, length: int) -> bytes:
        """Read from a growing blob in a thread; the caller is within `PartialBlob.reading`."""
        return await _uninterrupted(asyncio.get_running_loop().run_in_executor(self._readers, partial.read, offset, length))

    async def commit(self, partial: PartialBlob) -> None:
        """Make a blob visible whose digest is right: content to the disk, then the name, then the directory."""
        assert partial.is_right()
        await _uninterrupted(asyncio.get_running_loop().run_in_executor(self._writers, self._commit, partial))

    def _commit(self, partial: PartialBlob) -> None:
        partial.sync()
        path = self.path(partial.digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.rename(partial.path, path)
        partial.path = path
        _sync_directory(path.parent)

    async def discard(self, partial: PartialBlob) -> None:
        """Throw away a blob that did not come whole or right."""
        await asyncio.get_running_loop().run_in_executor(self._writers, partial.path.unlink, True)

    def take_away(self, digest: Digest) -> bool:
        """Let a held blob that nothing refers to disappear; `sweep` frees its space.

        False when it was handed out so lately that a reader may yet open it. The name goes at once, without a thread in between: whoever looks next finds the
        blob gone and fetches it again.
        """
        handed_out = self._handed_out.get(digest)
        if handed_out is not None and self._clock() - handed_out < LEASE_LINGERS:
            return False
        with suppress(FileNotFoundError):
            os.rename(self.path(digest), self._fills / f"{_REMOVED}{digest.algorithm}-{digest.hex}")
        return True

    async def sweep(self) -> None:
        """Free the space of blobs that were taken away: for a large file that takes a while, so a thread does it."""
        await asyncio.get_running_loop().run_in_executor(self._writers, self._sweep)

    def _sweep(self) -> None:
        for removed in self._fills.glob(f"{_REMOVED}*"):
            removed.unlink(missing_ok=True)

    async def held(self) -> dict[Digest, int]:
        """Every blob that is held, with its size: a walk through the directories, in a thread."""
        return await asyncio.to_thread(self._walk)

    def _walk(self) -> dict[Digest, int]:
        found: dict[Digest, int] = {}
        for algorithm in os.scandir(self._root):
            for directory in os.scandir(algorithm.path):
                for entry in os.scandir(directory.path):
                    found[Digest(algorithm.name, entry.name)] = entry.stat().st_size
        return found

    def free(self) -> int:
        """Bytes left on the file system."""
        return shutil.disk_usage(self._root).free


async def _uninterrupted(future: asyncio.Future[T]) -> T:
    """Wait for a thread that uses an open file, also when cancelled: the file may only be closed after the thread has let go of it."""
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        raise


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
