"""The bytes of a blob that are in memory while it comes in: those that the disk has yet to take.

Clients that keep up are fed from here, a little ahead of the disk; the others are sent the growing
file. So memory holds a few megabytes of a blob, however large it is and however many clients read
it.

When the disk is full a blob can't be kept, but those who wait for it can still have it: what the
disk did not take is *passed on* from here, at the pace of the slowest reader. A reader that holds
up the others for too long is given up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from entrepot.errors import EntrepotError

WRITE_AHEAD = 4 * 1024 * 1024
"""Bytes that may wait in memory for the disk; beyond it the source is not read on."""

BYPASS_BUFFER = 8 * 1024 * 1024
"""Bytes of a blob that stay in memory when it is passed on; pieces are taken whole, so there may be
a little more."""

MAX_READER_DELAY = 10.0
"""Seconds for which one reader may hold up the others, all its delays together, and for which a
fill without a reader waits for one to come."""

SMALL_PIECE = 16 * 1024
"""Pieces that are smaller are joined: a slow source sends hundreds of them for each megabyte."""


class StorageFailed(EntrepotError):
    """The data directory took no more bytes."""

    code = "StorageFailed"
    status = oci_status = 503


class Reader:
    """Somebody who is being fed. *position* is the next byte that it wants; *delays* are the
    seconds for which others had to wait for it."""

    __slots__ = ("delays", "position")

    def __init__(self, position: int) -> None:
        self.position = position
        self.delays = 0.0


class Readers:
    """Those who are being fed by one fill, and where they are."""

    def __init__(self) -> None:
        self._all: set[Reader] = set()
        self._waiting: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._all)

    @contextmanager
    def reading(self, position: int) -> Iterator[Reader]:
        """Within it somebody is being fed, from *position* on."""
        reader = Reader(position)
        self._all.add(reader)
        self.changed()
        try:
            yield reader
        finally:
            self._all.discard(reader)
            self.changed()

    def changed(self) -> None:
        """A reader came, went on, or left."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def slowest(self) -> Reader | None:
        """The one that wants the lowest byte."""
        return min(self._all, key=lambda reader: reader.position, default=None)

    async def change(self, seconds: float) -> bool:
        """Wait until something changes; False when nothing did within so many *seconds*."""
        self._waiting = asyncio.get_running_loop().create_future()
        done, _ = await asyncio.wait({self._waiting}, timeout=seconds)
        return bool(done)


class FillBuffer:
    """The bytes from *start* to *end* of a blob. Those before *taken* are hashed, and on the disk
    unless they are passed on."""

    def __init__(self, readers: Readers, *, clock: Callable[[], float]) -> None:
        self.start = self.taken = self.end = 0
        self.passes_on = False
        self._first = 0
        self._readers = readers
        self._clock = clock
        self._pieces: deque[bytes] = deque()
        self._closed = self._stopped = False
        self._changed = asyncio.Event()

    @property
    def is_whole(self) -> bool:
        """Whether all bytes are to be had that the file does not have."""
        return not self.passes_on or self.start == self._first

    def skip_to(self, offset: int) -> None:
        """What is before *offset* is in the file already."""
        self.start = self.taken = self.end = offset

    def read(self, offset: int, length: int) -> bytes | None:
        """Up to *length* bytes from *offset*; None when they are not here any more."""
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

    # Whoever brings the bytes

    def add(self, piece: bytes) -> None:
        """Add what comes next."""
        self.end += len(piece)
        if self._pieces and len(self._pieces[-1]) + len(piece) <= SMALL_PIECE:
            self._pieces[-1] += piece
        else:
            self._pieces.append(piece)
        self._changed.set()

    @property
    def is_full(self) -> bool:
        """Whether the source has to wait: for the disk, or for clients where the disk takes
        nothing."""
        return self.end - self.taken >= WRITE_AHEAD

    async def settled(self) -> None:
        """Wait until everything that was added is on the disk, or nothing goes there any more."""
        while self.taken < self.end and not self._stopped and not self.passes_on:
            self._changed.clear()
            await self._changed.wait()

    async def room(self) -> bool:
        """Wait while too much waits for the disk; False when nothing is taken any more."""
        while self.end - self.taken >= WRITE_AHEAD and not self._stopped:
            self._changed.clear()
            await self._changed.wait()
        return not self._stopped

    def close(self) -> None:
        """No more will be added."""
        self._closed = True
        self._changed.set()

    # Whoever takes them

    async def more(self) -> Sequence[bytes]:
        """What has yet to be taken, all that is there; nothing when no more will come."""
        while self.end == self.taken and not self._closed:
            self._changed.clear()
            await self._changed.wait()
        found = []
        position = self.start
        for piece in self._pieces:
            if position + len(piece) > self.taken:
                found.append(piece if position >= self.taken else piece[self.taken - position :])
            position += len(piece)
        return found

    def take(self, count: int) -> None:
        """So many bytes are taken: what is on the disk is let go."""
        self.taken += count
        while (
            not self.passes_on and self._pieces and self.start + len(self._pieces[0]) <= self.taken
        ):
            self.start += len(self._pieces.popleft())
        self._changed.set()

    def stop(self) -> None:
        """Nothing will be taken any more: whoever adds must not wait for room."""
        self._stopped = True
        self._changed.set()

    def pass_on(self, before: bytes) -> None:
        """From now on nothing goes to the disk. *before* is what stands in the file before *start*,
        if that is to be had from memory too."""
        self.passes_on = True
        if before:
            self._pieces.appendleft(before)
            self.start -= len(before)
        self._first = self.start

    async def passed_on(self) -> None:
        """Wait until the readers have gone on far enough; raises `StorageFailed` when nobody is
        there to be fed."""
        while self.taken - self.start > BYPASS_BUFFER:
            slowest = self._readers.slowest()
            if slowest is not None and (
                slowest.position >= self.start + len(self._pieces[0])
                or slowest.delays >= MAX_READER_DELAY
            ):
                self.start += len(self._pieces.popleft())
                continue
            since = self._clock()
            changed = await self._readers.change(
                MAX_READER_DELAY if slowest is None else MAX_READER_DELAY - slowest.delays
            )
            if slowest is not None:
                slowest.delays = (
                    slowest.delays + (self._clock() - since) if changed else MAX_READER_DELAY
                )
            elif not changed:
                raise StorageFailed(
                    "The blob can't be kept, and nobody waits for its bytes.",
                    "Free space in the data directory, or give it a larger disk.",
                )
