"""The bytes of a fill that are in memory: those that the disk has yet to take.

Clients that keep up are fed from here, a little ahead of the disk; the others are sent the growing
file. So a fill takes a few megabytes of memory, however large the blob is and however many clients
read it.

On a full disk a blob can't be stored, but the clients that wait for it can still have it: the
buffer *bypasses the disk*, and the rest of the blob goes through memory at the pace of the slowest
reader. A reader that delays the others for too long is dropped.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from entrepot.errors import EntrepotError

WRITE_AHEAD = 4 * 1024 * 1024
"""Bytes that may wait in memory for the disk; beyond it nothing is read from the source."""

BYPASS_BUFFER = 8 * 1024 * 1024
"""Bytes of a blob that stay in memory while the disk is bypassed; pieces stay whole, so there may
be a little more."""

MAX_READER_DELAY = 10.0
"""Seconds for which one reader may delay the others, all its delays together, and for which a fill
without a reader waits for one."""

SMALL_PIECE = 16 * 1024
"""Bytes below which pieces are joined: a slow source sends hundreds of them for each megabyte."""


class StorageFailed(EntrepotError):
    """The data directory took no more bytes."""

    code = "StorageFailed"
    status = oci_status = 503


class FillReader:
    """A client that is fed by a fill.

    *position* is the next byte that it needs; *delays* are the seconds for which others had to wait
    for it.
    """

    __slots__ = ("delays", "position")

    def __init__(self, position: int) -> None:
        self.position = position
        self.delays = 0.0


class FillReaders:
    """The readers of one fill, with their positions."""

    def __init__(self) -> None:
        self._readers: set[FillReader] = set()
        self._waiter: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._readers)

    @contextmanager
    def reading(self, position: int) -> Iterator[FillReader]:
        """Add a reader that begins at *position*, for as long as the context lasts."""
        reader = FillReader(position)
        self._readers.add(reader)
        self.notify()
        try:
            yield reader
        finally:
            self._readers.discard(reader)
            self.notify()

    def notify(self) -> None:
        """Wake `wait_for_change`: a reader came, moved on, or left."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def slowest(self) -> FillReader | None:
        """The reader that needs the lowest byte."""
        return min(self._readers, key=lambda reader: reader.position, default=None)

    async def wait_for_change(self, seconds: float) -> bool:
        """Wait until a reader comes, moves on or goes away.

        False when none did within *seconds*.
        """
        self._waiter = asyncio.get_running_loop().create_future()
        await asyncio.wait({self._waiter}, timeout=seconds)
        return self._waiter.done()


class FillBuffer:
    """The bytes from *start* to *end* of a blob.

    Those before *acknowledged* are hashed, and on the disk unless the buffer is *bypassing* it.
    """

    def __init__(self, readers: FillReaders, *, clock: Callable[[], float]) -> None:
        self.start = self.acknowledged = self.end = 0
        self.bypassing = False
        self._bypass_start = 0
        self._readers = readers
        self._clock = clock
        self._pieces: deque[bytes] = deque()
        self._closed = self._stopped = False
        self._changed = asyncio.Event()

    @property
    def is_whole(self) -> bool:
        """Whether the file and the buffer together still have every byte received so far."""
        return not self.bypassing or self.start == self._bypass_start

    def skip_to(self, offset: int) -> None:
        """Begin at *offset*: the file has what is before it."""
        self.start = self.acknowledged = self.end = offset

    def read(self, offset: int, length: int) -> bytes | None:
        """Up to *length* bytes from *offset*; None when they are no longer in memory."""
        if offset < self.start:
            return None
        position = self.start
        for piece in self._pieces:
            if offset < position + len(piece):
                return (
                    piece
                    if offset == position and len(piece) <= length
                    else piece[offset - position : offset - position + length]
                )
            position += len(piece)
        return b""

    # For the task that receives the bytes

    def add(self, piece: bytes) -> None:
        """Append a piece of the blob."""
        self.end += len(piece)
        if self._pieces and len(self._pieces[-1]) + len(piece) <= SMALL_PIECE:
            self._pieces[-1] += piece
        else:
            self._pieces.append(piece)
        self._changed.set()

    @property
    def is_full(self) -> bool:
        """Whether the source has to wait.

        It waits for the disk, or for readers while the disk is bypassed.
        """
        return self.end - self.acknowledged >= WRITE_AHEAD

    async def wait_until_written(self) -> None:
        """Wait until all bytes that were added are on the disk, or no more will be written."""
        while self.acknowledged < self.end and not self._stopped and not self.bypassing:
            self._changed.clear()
            await self._changed.wait()

    async def wait_for_space(self) -> bool:
        """Wait while the buffer is full; False when nothing is written any more."""
        while self.end - self.acknowledged >= WRITE_AHEAD and not self._stopped:
            self._changed.clear()
            await self._changed.wait()
        return not self._stopped

    def close(self) -> None:
        """Say that no more pieces will be added."""
        self._closed = True
        self._changed.set()

    # For the task that writes them

    async def next_pieces(self) -> Sequence[bytes]:
        """Wait for bytes that are not acknowledged, and return all of them.

        Empty when no more will come.
        """
        while self.end == self.acknowledged and not self._closed:
            self._changed.clear()
            await self._changed.wait()
        pieces = []
        position = self.start
        for piece in self._pieces:
            if position + len(piece) > self.acknowledged:
                pieces.append(
                    piece
                    if position >= self.acknowledged
                    else piece[self.acknowledged - position :]
                )
            position += len(piece)
        return pieces

    def acknowledge(self, count: int) -> None:
        """Acknowledge *count* more bytes; those on the disk leave the memory."""
        self.acknowledged += count
        while (
            not self.bypassing
            and self._pieces
            and self.start + len(self._pieces[0]) <= self.acknowledged
        ):
            self.start += len(self._pieces.popleft())
        self._changed.set()

    def stop(self) -> None:
        """Say that nothing will be written any more: the source must not wait for space."""
        self._stopped = True
        self._changed.set()

    def bypass_disk(self, before: bytes) -> None:
        """Write nothing to the disk from now on.

        *before* is what the file has before *start*, or nothing where that is too large for memory.
        """
        self.bypassing = True
        if before:
            self._pieces.appendleft(before)
            self.start -= len(before)
        self._bypass_start = self.start

    async def wait_for_readers(self) -> None:
        """Wait until the readers have moved on far enough to free memory.

        Raises `StorageFailed` when no reader comes.
        """
        while self.acknowledged - self.start > BYPASS_BUFFER:
            slowest = self._readers.slowest()
            if slowest is not None and (
                slowest.position >= self.start + len(self._pieces[0])
                or slowest.delays >= MAX_READER_DELAY
            ):
                self.start += len(self._pieces.popleft())
                continue
            since = self._clock()
            changed = await self._readers.wait_for_change(
                MAX_READER_DELAY if slowest is None else MAX_READER_DELAY - slowest.delays
            )
            if slowest is not None:
                slowest.delays = (
                    slowest.delays + (self._clock() - since) if changed else MAX_READER_DELAY
                )
            elif not changed:
                raise StorageFailed(
                    "The blob can't be stored, and no client waits for its bytes.",
                    "Free space in the data directory, or give it a larger disk.",
                )
