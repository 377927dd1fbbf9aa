"""A blob that arrives: the file that grows, and its hash.

`entrepot.store.blobs.BlobStore` begins, commits and discards it.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from entrepot.core.reference import Digest
from entrepot.files import start_write_back

PART_SIZE = 4 * 1024 * 1024
"""Bytes of a growing file given out as one part; after each part the reader's progress is known."""

PIECES_PER_WRITE = 512
"""Pieces written in one call (IOV_MAX is 1,024)."""

HASH_SIZE = 8 * 1024 * 1024
"""Bytes of a resumable part hashed at a time."""

WRITE_BACK_SIZE = 32 * 1024 * 1024
"""Bytes of a growing file after which the kernel is told to write them to the disk. Otherwise it
has most of a blob of 400 MB in memory at the end, and the last flush takes 0.15 to 0.2 s; with
this 0.01 to 0.04 s, for the same processor time."""


class NotWritten(OSError):
    """The disk did not accept all bytes (ENOSPC, EDQUOT, EIO, EROFS).

    *rest* is what was not written; it was hashed already.
    """

    def __init__(self, cause: OSError, rest: Sequence[memoryview]) -> None:
        super().__init__(cause.errno, cause.strerror)
        self.rest = rest


class PartialBlob:
    """A partial blob: one fill writes it, and any number of clients read it.

    Each client reads at its own place. Its file is closed when the writer and all readers have
    released it; see `reading`. *resumable_size* is the number of bytes that an earlier fill left in
    the file.
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
        """Whether it has its final name: it is whole, verified and on the disk."""
        self._descriptor = descriptor
        self._users = 1
        self._hasher = digest.hasher()
        self.written = 0
        self._write_back_end = 0
        """Bytes that the kernel was told to write to the disk."""
        self._write_back: Future[bool] | None = None

    @classmethod
    def without_file(cls, digest: Digest) -> PartialBlob:
        """A blob that is only hashed and relayed, because the disk takes no new file."""
        partial = cls(digest, Path(os.devnull), -1)
        partial.is_linked = False
        return partial

    def append(self, pieces: Sequence[bytes] | Sequence[memoryview]) -> None:
        """Hash *pieces* and write them at the end. Runs in a thread; raises `NotWritten`."""
        self.hash(pieces)
        self.write([memoryview(piece) for piece in pieces])

    def hash(self, pieces: Sequence[bytes] | Sequence[memoryview]) -> None:
        """Hash the next *pieces*, whether or not they are written. Runs in a thread."""
        for piece in pieces:
            self._hasher.update(piece)

    def write(self, pieces: Sequence[memoryview]) -> None:
        """Write *pieces*, hashed already, at the end. Runs in a thread; raises `NotWritten`."""
        unwritten = deque(pieces)
        while unwritten:
            try:
                count = os.pwritev(
                    self._descriptor, list(islice(unwritten, PIECES_PER_WRITE)), self.written
                )
            except OSError as error:
                raise NotWritten(error, tuple(unwritten)) from error
            self.written += count
            while unwritten and count >= len(unwritten[0]):
                count -= len(unwritten.popleft())
            if count:
                unwritten[0] = unwritten[0][count:]

    def hash_resumable(self) -> bool:
        """Hash the next bytes that an earlier fill left; False at their end.

        Runs in a thread.
        """
        content = os.pread(
            self._descriptor, min(HASH_SIZE, self.resumable_size - self.written), self.written
        )
        self._hasher.update(content)
        self.written += len(content)
        return bool(content)

    @property
    def is_open(self) -> bool:
        """Whether the writer or a reader uses it.

        Afterwards its descriptor may be that of another file.
        """
        return self._users > 0

    def fileno(self) -> int:
        """The descriptor of the file, for readers."""
        return self._descriptor

    def digest_matches(self) -> bool:
        """Whether the hashed bytes have the requested digest."""
        return self._hasher.hexdigest() == self.digest.hex

    def start_write_back(self, executor: Executor) -> None:
        """Have bytes go to the disk before `sync`, where `WRITE_BACK_SIZE` are new.

        In a thread of *executor*, because a disk that is slower than the source has it wait. Called
        by the thread that appends.
        """
        start, count = self._write_back_end, self.written - self._write_back_end
        if count < WRITE_BACK_SIZE:
            return
        if self._write_back is not None:
            if not self._write_back.done() or self._write_back.exception() is not None:
                return
            if not self._write_back.result():
                # It is not supported.
                return
        try:
            # The file may be closed while the thread waits.
            descriptor = os.dup(self._descriptor)
        except OSError:
            return
        try:
            self._write_back = executor.submit(start_write_back, descriptor, start, count)
        except RuntimeError:
            # The system has no more threads.
            os.close(descriptor)
            return
        self._write_back.add_done_callback(lambda _: os.close(descriptor))
        self._write_back_end = self.written

    def sync(self) -> None:
        """Flush the content to the disk. Runs in a thread; raises OSError."""
        if self._write_back is not None and not self._write_back.cancel():
            # What the disk refused then is lost, whatever it says now.
            self._write_back.result()
        os.fdatasync(self._descriptor)

    @contextmanager
    def reading(self) -> Iterator[PartialBlob]:
        """Keep the file open for a reader, even after the writer released it.

        Raises FileNotFoundError for a blob that was removed meanwhile.
        """
        self.acquire()
        try:
            yield self
        finally:
            self.release()

    def acquire(self) -> None:
        """Add a user, for the first of whom the file is opened.

        Raises OSError; FileNotFoundError for a blob that was removed meanwhile.
        """
        if not self.is_open:
            if not self.is_linked:
                # Its path may belong to a later blob by now.
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path))
            # A writer may come back to a growing file that it released.
            self._descriptor = os.open(self.path, os.O_RDONLY if self.is_committed else os.O_RDWR)
        self._users += 1

    def release(self) -> None:
        """Remove a user; the last one closes the file."""
        self._users -= 1
        if self._users == 0 and self._descriptor >= 0:
            os.close(self._descriptor)


@dataclass(frozen=True, slots=True)
class FilePart:
    """*count* bytes of a file from *offset* on.

    The file stays open until its reader requests the next part.
    """

    file: PartialBlob
    offset: int
    count: int
