"""Sending of parts of files with sendfile(2).

The parts are loaded into the page cache first, so that the event loop never waits for a disk.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from entrepot.errors import EngineError
from entrepot.tasks import uninterrupted

SENDFILE_CHUNK = 2 * 1024 * 1024
"""Bytes of a file sent in one step.

Before each step they are loaded into memory, and after it other connections have their turn."""

READ_CHUNK = 256 * 1024
"""Bytes read at a time where sendfile(2) can't be used."""

SMALL_SPAN = 64 * 1024
"""Bytes up to which a span of a file is read and sent from memory.

For a few bytes, calling sendfile(2) costs more than copying them."""

READ_AHEAD = 2 * SENDFILE_CHUNK
"""Bytes that the kernel is asked to read ahead when a chunk has to come from the disk."""

_NO_SENDFILE = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})

_disk = ThreadPoolExecutor(8, "entrepot-disk")
_probed = bytearray(1)


class OpenFile(Protocol):
    """A file that stays open while it is sent, even when its name was removed."""

    def fileno(self) -> int:
        """The file's descriptor."""


@dataclass(frozen=True, slots=True)
class FileSpan:
    """*count* bytes of an open file from *offset* on, to be sent without being read."""

    file: OpenFile
    offset: int
    count: int


async def load_into_memory(file: OpenFile, offset: int, count: int) -> None:
    """Return when the kernel has *count* bytes from *offset* in memory.

    Nearly always that is at once, else after a thread waited for the disk.
    """
    if not _are_cached(file.fileno(), offset, count):
        await uninterrupted(
            asyncio.get_running_loop().run_in_executor(_disk, _fetch, file.fileno(), offset, count)
        )


def _are_cached(descriptor: int, offset: int, count: int) -> bool:
    return _is_cached(descriptor, offset) and _is_cached(descriptor, offset + count - 1)


def _is_cached(descriptor: int, offset: int) -> bool:
    """Whether a byte is in the page cache (preadv(2), RWF_NOWAIT); False where unknown."""
    if not hasattr(os, "RWF_NOWAIT"):
        return False
    try:
        os.preadv(descriptor, [_probed], offset, os.RWF_NOWAIT)
    except OSError:
        return False
    return True


def _fetch(descriptor: int, offset: int, count: int) -> bytes:
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, offset, READ_AHEAD, os.POSIX_FADV_WILLNEED)
    return os.pread(descriptor, count, offset)


class NoSendfile(Exception):
    """The file system of the file has no sendfile(2)."""


class FileCutShort(EngineError):
    """A file ended early.

    The transfer is cut, so that no client takes a part for the whole.
    """

    def __init__(self) -> None:
        super().__init__(
            "A cached file became shorter while it was being sent.",
            "Pull again, and look at the disk of the data directory.",
        )


async def send(
    out: socket.socket, file: OpenFile, offset: int, count: int, on_sent: Callable[[int], None]
) -> None:
    """Send *count* bytes from *offset* to a connected socket, within the kernel.

    *on_sent* gets each number of bytes sent. *out* is non-blocking and has no asyncio transport of
    its own: it is a duplicate. asyncio's own sendfile calls the selector twice for each step, which
    costs as much again as the sending. Raises ConnectionError when the client is gone,
    `FileCutShort` and `NoSendfile`.
    """
    end = offset + count
    while offset < end:
        await load_into_memory(file, offset, min(SENDFILE_CHUNK, end - offset))
        transfer = _Transfer(out, file.fileno(), offset, end, on_sent)
        try:
            await transfer.stopped
        finally:
            transfer.stop()
        offset = transfer.offset


class _Transfer:
    """Sends what is in memory, one step whenever the socket is writable.

    *stopped* is done at the end, or where the next chunk has to come from the disk.
    """

    def __init__(
        self,
        out: socket.socket,
        descriptor: int,
        offset: int,
        end: int,
        on_sent: Callable[[int], None],
    ) -> None:
        self.offset = offset
        self._out = out.fileno()
        self._descriptor = descriptor
        self._end = end
        self._loaded_to = min(offset + SENDFILE_CHUNK, end)
        self._on_sent = on_sent
        self._loop = asyncio.get_running_loop()
        self.stopped: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_writer(self._out, self._step)

    def stop(self) -> None:
        self._loop.remove_writer(self._out)

    def _step(self) -> None:
        try:
            count = os.sendfile(
                self._out, self._descriptor, self.offset, self._loaded_to - self.offset
            )
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end_with(NoSendfile() if error.errno in _NO_SENDFILE else error)
            return
        if not count:
            self._end_with(FileCutShort())
            return
        self.offset += count
        self._on_sent(count)
        if self.offset == self._loaded_to:
            self._loaded_to = min(self.offset + SENDFILE_CHUNK, self._end)
            if self.offset == self._end or not _are_cached(
                self._descriptor, self.offset, self._loaded_to - self.offset
            ):
                self._end_with(None)

    def _end_with(self, error: Exception | None) -> None:
        self.stop()
        if self.stopped.done():
            return
        if error is None:
            self.stopped.set_result(None)
        else:
            self.stopped.set_exception(error)


async def chunks(file: OpenFile, offset: int, count: int) -> AsyncIterator[bytes]:
    """*count* bytes from *offset*, read in chunks of `READ_CHUNK`.

    Raises `FileCutShort` when the file ends early.
    """
    end = offset + count
    while offset < end:
        length = min(READ_CHUNK, end - offset)
        await load_into_memory(file, offset, length)
        chunk = os.pread(file.fileno(), length, offset)
        if not chunk:
            raise FileCutShort
        offset += len(chunk)
        yield chunk


async def spans(file: OpenFile, start: int, end: int) -> AsyncIterator[bytes | FileSpan]:
    """The bytes *start* (inclusive) to *end* (exclusive) of a file.

    Many bytes are one span. Raises `FileCutShort`.
    """
    if end - start > SMALL_SPAN:
        yield FileSpan(file, start, end - start)
        return
    async for chunk in chunks(file, start, end - start):
        yield chunk
