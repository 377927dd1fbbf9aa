"""Where the bytes of a fill go: into its file, and through memory before it or instead of it.

The bytes of most blobs are written by the thread that reads them (`entrepot.cache.transfer`). What
the event loop has to read, because it must be decoded, waits in memory for a thread of the store
(`entrepot.cache.fill_buffer`). When the disk takes no more, it is bypassed: the readers still get
every byte.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from entrepot.cache.fill_buffer import BYPASS_BUFFER, FillBuffer, FillReaders, StorageFailed
from entrepot.cache.transfer import Transfer, TransferThreads
from entrepot.core.reference import Digest
from entrepot.source.blobs import ThreadedBody
from entrepot.store.blobs import READ_SIZE, BlobStore
from entrepot.store.partial_blob import PART_SIZE, FilePart, NotWritten, PartialBlob
from entrepot.tasks import uninterrupted, where_raised

_log = logging.getLogger("entrepot.fill")


class FillStorage:
    """The file of one fill, and its bytes in memory.

    *on_refusal* is called when the disk begins to refuse the blob: with the disk's error, and with
    the error for those who wait for the blob to be stored.
    """

    def __init__(
        self,
        digest: Digest,
        origin: str,
        store: BlobStore,
        readers: FillReaders,
        *,
        threads: TransferThreads | None,
        clock: Callable[[], float],
        on_refusal: Callable[[OSError, StorageFailed], None],
    ) -> None:
        self.buffer = FillBuffer(readers, clock=clock)
        self.partial: PartialBlob | None = None
        """None before the first turn: a fill that waits for its turn costs no file descriptor."""
        self._digest = digest
        self._origin = origin
        self._store = store
        self._readers = readers
        self._threads = threads
        self._clock = clock
        self._on_refusal = on_refusal
        self._is_held = False
        """Whether the fill is a user of the file."""
        self._transfer: Transfer | None = None
        """What its thread does, while it has one."""
        self.error: BaseException | None = None
        """The error of the disk that ended a transfer; None where it is bypassed."""

    @property
    def received(self) -> int:
        """Bytes of the blob that are here."""
        return self.buffer.end

    @property
    def is_stored(self) -> bool:
        """Whether the whole blob is verified and stored on the disk under its name."""
        return self.partial is not None and self.partial.is_committed

    @property
    def has_source_wait(self) -> bool:
        """Whether the source waits for the disk, or for readers while the disk is bypassed."""
        return self.buffer.is_full or (self._transfer is not None and self._transfer.is_writing)

    @property
    def is_verified(self) -> bool:
        """Whether the bytes that are hashed are the blob."""
        return self.partial is not None and self.partial.digest_matches()

    async def matches_digest(self) -> bool:
        """Whether the bytes received have the right digest, once they are hashed."""
        await self.buffer.wait_until_written()
        return self.buffer.acknowledged == self.received and self.is_verified

    def raise_error(self) -> None:
        """Raise *error*, if there is one."""
        if self.error is not None:
            raise self.error

    async def failed(self, error: OSError) -> StorageFailed:
        """The error for those who wait for the blob to be stored."""
        cause = await self._store.cause(error)
        failed = StorageFailed(
            f"The blob {self._digest} can't be stored: {error.strerror or error}. {cause.what}",
            cause.hint,
        )
        failed.cause = cause.code
        return failed

    # The file

    async def open(self, size: int, on_progress: Callable[[], None]) -> None:
        """Open the file for a blob of *size* bytes, and hash what an earlier fill has left over.

        *on_progress* is called after each part of that. Where the disk takes no new file, it is
        bypassed.
        """
        if self.partial is not None:
            if not self._is_held and not self.buffer.bypassing:
                self.partial.acquire()
                self._is_held = True
            return
        try:
            partial = await self._store.begin(self._digest, size, self._origin)
        except OSError as error:
            partial = PartialBlob.without_file(self._digest)
            self.buffer.bypass_disk(b"")
            self._on_refusal(error, await self.failed(error))
        self.partial = partial
        self._is_held = True
        while partial.resumable_size and await self._store.hash_resumable(partial):
            self.buffer.skip_to(partial.written)
            on_progress()

    async def commit(self) -> None:
        """Store a verified blob under its name, unless the disk is bypassed."""
        if self.partial is not None and not self.buffer.bypassing:
            await self._store.commit(self.partial)

    async def close(self, *, is_resumable: bool) -> None:
        """Close the file of the blob.

        An incomplete file is kept for the next fill if it *is resumable*, else removed.
        """
        partial = self.partial
        if partial is None:
            return
        try:
            if not partial.is_committed and partial.is_linked:
                await (
                    self._store.keep_for_resume
                    if is_resumable and not self.buffer.bypassing
                    else self._store.discard
                )(partial)
        except Exception as error:
            _log.warning(
                "The received part of %s could not be removed: %s",
                self._digest,
                where_raised(error),
            )
        finally:
            self._release()

    def release(self) -> None:
        """Close the file while the fill waits for its next turn.

        A file without a name could not be opened again.
        """
        if self.partial is not None and self.partial.is_linked:
            self._release()

    def _release(self) -> None:
        if self._is_held and self.partial is not None:
            self._is_held = False
            self.partial.release()

    async def restart(self) -> None:
        """Remove what is here: the blob is fetched again from its first byte on."""
        if self.partial is not None:
            await self._store.discard(self.partial)
        self._release()
        self.partial = None
        self.buffer = FillBuffer(self._readers, clock=self._clock)

    # Bytes from the source

    async def transfer(
        self,
        body: ThreadedBody | None,
        *,
        skip: int,
        limit: int,
        on_progress: Callable[[Transfer], None],
    ) -> Transfer | None:
        """Receive *body* in a thread to its end, or until the disk takes no more.

        See `Transfer` for *skip* and *limit*. None where there is no thread for it, or no file. A
        full disk is bypassed; for another error of it see `raise_error`.
        """
        if body is None or self._threads is None or not self._threads.free:
            return None
        # Only one thread writes the file.
        await self.buffer.wait_until_written()
        partial = self.partial
        if (
            partial is None
            or self.buffer.bypassing
            or not partial.written == self.buffer.acknowledged == self.received
        ):
            return None

        def advance(transfer: Transfer) -> None:
            self.buffer.skip_to(transfer.position)
            on_progress(transfer)

        transfer = self._transfer = Transfer(
            body, self._store, partial, skip=skip, limit=limit, on_progress=advance
        )
        try:
            await self._threads.run(transfer)
        finally:
            self._transfer = None
            if transfer.storage_error is not None:
                # Also when it is interrupted, because the next bytes follow these.
                await uninterrupted(asyncio.ensure_future(self._take_unwritten(transfer)))
                on_progress(transfer)
        return transfer

    async def _take_unwritten(self, transfer: Transfer) -> None:
        """Take into memory what a full disk did not take of a transfer, and bypass the disk."""
        self.error = transfer.storage_error
        if not isinstance(self.error, NotWritten):
            return
        try:
            await self._bypass(self.error)
        except OSError as error:
            self.error = error
            return
        self.error = None
        # They are hashed already.
        self.buffer.add(transfer.unwritten)
        self.buffer.acknowledge(len(transfer.unwritten))

    async def write_all(self) -> None:
        """Write what comes into memory, until the buffer is closed."""
        try:
            while pieces := await self.buffer.next_pieces():
                await self._write(pieces)
        finally:
            self.buffer.stop()

    async def _write(self, pieces: Sequence[bytes]) -> None:
        """Write pieces to the disk.

        Where the disk is bypassed, only hash them and wait for the readers.
        """
        partial = self.partial
        assert partial is not None
        if self.buffer.bypassing:
            await self._store.hash(partial, pieces)
        else:
            try:
                await self._store.append(partial, pieces)
            except NotWritten as error:
                await self._bypass(error)
        self.buffer.acknowledge(sum(map(len, pieces)))
        if self.buffer.bypassing:
            await self.buffer.wait_for_readers()

    async def _bypass(self, error: NotWritten) -> None:
        """Write nothing any more.

        The readers still get everything: first what is in the file, and then what passes through
        memory. A small file is taken into memory whole.
        """
        partial = self.partial
        assert partial is not None
        start = self.buffer.start
        self.buffer.bypass_disk(
            await self._store.read_partial(partial, 0, start) if start <= BYPASS_BUFFER else b""
        )
        self._on_refusal(error, await self.failed(error))
        await self._store.discard(partial)

    # For readers

    @contextmanager
    def reading(self, start: int) -> Iterator[PartialBlob]:
        """Keep the file open for a reader that begins at *start*."""
        # There are bytes to read, so there was a turn.
        assert self.partial is not None
        if self.buffer.bypassing and start >= self.buffer.start and not self.partial.is_open:
            # The file is gone, and the rest of the blob is in memory.
            yield self.partial
            return
        try:
            with self.partial.reading() as partial:
                yield partial
        except FileNotFoundError:
            raise StorageFailed(f"The blob {self._digest} was not stored.", "Pull again.") from None

    def next_part(
        self, partial: PartialBlob, start: int, length: int
    ) -> tuple[bytes | FilePart, int]:
        """Up to *length* bytes from *start*, and their number."""
        if not self.buffer.bypassing and start < partial.written:
            # The kernel sends a file for less than it sends our memory.
            count = min(length, partial.written - start, PART_SIZE)
            return FilePart(partial, start, count), count
        piece = self.buffer.read(start, min(length, READ_SIZE))
        if piece is not None:
            return piece, len(piece)
        if start >= partial.written or not partial.is_open:
            raise StorageFailed(
                "The disk is full, and this transfer was too slow to be fed from memory.",
                "Pull again; free space in the data directory.",
            )
        count = min(length, partial.written - start, READ_SIZE)
        return FilePart(partial, start, count), count
