"""The last bytes of a blob that the disk does not take, in memory, for the clients that are being fed with it.

When the disk is full a blob can't be kept, but those who wait for it can still have it: the fill goes on at the pace of its slowest reader, with only so much
in memory. A reader that holds up the others for too long is given up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from entrepot.errors import EntrepotError

WINDOW = 8 * 1024 * 1024
"""Bytes of one blob that stay in memory; a piece that comes in is taken whole, so it may be one piece more."""

PATIENCE = 10.0
"""Seconds for which one reader may hold up the others, all its delays together, and for which a fill without a reader waits for one to come."""


class StorageFailed(EntrepotError):
    """The data directory took no more bytes."""

    code = "StorageFailed"
    status = oci_status = 503


class Reader:
    """Somebody who is being fed. *position* is the next byte that it wants; *delays* are the seconds for which others had to wait for it."""

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


class Window:
    """Bytes *start* to *end* of a blob, of which everything before *start* was taken by the disk or is gone."""

    def __init__(self, start: int, readers: Readers, *, clock: Callable[[], float]) -> None:
        self.first = self.start = self.end = start
        self._readers = readers
        self._clock = clock
        self._pieces: deque[bytes] = deque()

    @property
    def has_moved(self) -> bool:
        """Whether bytes are gone: nobody can read the blob from its beginning any more."""
        return self.start > self.first

    def read(self, offset: int, length: int) -> bytes:
        """Up to *length* bytes from *offset*; raises `StorageFailed` when they are gone."""
        if offset < self.start:
            raise StorageFailed("The disk is full, and this transfer was too slow to be fed from memory.", "Pull again; free space in the data directory.")
        position = self.start
        for piece in self._pieces:
            if offset < position + len(piece):
                return piece[offset - position : offset - position + length]
            position += len(piece)
        return b""

    async def put(self, piece: bytes, announce: Callable[[], None]) -> None:
        """Add what comes next, *announce* it, and make room for more when the readers have gone on; raises `StorageFailed` when nobody is there to be fed."""
        self._pieces.append(piece)
        self.end += len(piece)
        announce()
        while self.end - self.start > WINDOW:
            slowest = self._readers.slowest()
            if slowest is not None and (slowest.position >= self.start + len(self._pieces[0]) or slowest.delays >= PATIENCE):
                self.start += len(self._pieces.popleft())
                continue
            since = self._clock()
            changed = await self._readers.change(PATIENCE if slowest is None else PATIENCE - slowest.delays)
            if slowest is not None:
                slowest.delays = slowest.delays + (self._clock() - since) if changed else PATIENCE
            elif not changed:
                raise StorageFailed("The blob can't be kept, and nobody waits for its bytes.", "Free space in the data directory, or give it a larger disk.")
