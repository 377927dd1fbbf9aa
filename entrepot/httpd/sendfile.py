"""Parts of files on their way to clients: brought into memory first, so that the event loop never
waits for a disk."""

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
"""Bytes of a file that are sent in one step, at the most: before each it is made sure that they are
in memory, and after each the others have their turn."""

READ_CHUNK = 256 * 1024
"""Bytes that are read at a time, where a file can't go from the disk to the network without passing
through here."""

SMALL_SPAN = 64 * 1024
"""Bytes of a span of a file, at the most, that are sent from memory.

For a few bytes a call of sendfile(2) costs more than to copy them."""

READ_AHEAD = 2 * SENDFILE_CHUNK
"""Bytes that the kernel is asked to fetch when a piece has to come from the disk."""

_NO_SENDFILE = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})

_disk = ThreadPoolExecutor(8, "entrepot-disk")
_probed = bytearray(1)


class OpenFile(Protocol):
    """A file that stays open while it is sent, also when its name is long gone."""

    def fileno(self) -> int:
        """Its descriptor."""


@dataclass(frozen=True, slots=True)
class FileSpan:
    """*count* bytes of an open file from *offset* on, to be sent without being read."""

    file: OpenFile
    offset: int
    count: int


async def load_into_memory(file: OpenFile, offset: int, count: int) -> None:
    """Return when the kernel has so many bytes from *offset* in memory: at once, as nearly always,
    or after a thread has waited for the disk."""
    if not _are_there(file.fileno(), offset, count):
        await uninterrupted(
            asyncio.get_running_loop().run_in_executor(_disk, _fetch, file.fileno(), offset, count)
        )


def _are_there(descriptor: int, offset: int, count: int) -> bool:
    return _is_there(descriptor, offset) and _is_there(descriptor, offset + count - 1)


def _is_there(descriptor: int, offset: int) -> bool:
    """Whether a byte can be had without waiting (preadv(2), RWF_NOWAIT). False where that can't be
    told."""
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
    """A file ends before its time: the transfer is cut, so that no client takes a part for the
    whole."""

    def __init__(self) -> None:
        super().__init__(
            "A cached file became shorter while it was being sent.",
            "Pull again, and look at the disk of the data directory.",
        )


async def send(
    out: socket.socket, file: OpenFile, offset: int, count: int, sent: Callable[[int], None]
) -> None:
    """Send so many bytes from *offset* into a connected socket, within the kernel, and tell *sent*
    each number of bytes.

    *out* does not block, and has no asyncio transport of its own: it is a duplicate. asyncio's own
    sendfile asks the selector twice for each step, which costs as much again as the sending. Raises
    ConnectionError when the client is gone, `FileCutShort` and `NoSendfile`.
    """
    end = offset + count
    while offset < end:
        await load_into_memory(file, offset, min(SENDFILE_CHUNK, end - offset))
        sending = _Sending(out, file.fileno(), offset, end, sent)
        try:
            await sending.stopped
        finally:
            sending.stop()
        offset = sending.offset


class _Sending:
    """Sends what is in memory, a step whenever the socket takes more. *stopped* is done at the end,
    or where the disk has to be waited for."""

    def __init__(
        self,
        out: socket.socket,
        descriptor: int,
        offset: int,
        end: int,
        sent: Callable[[int], None],
    ) -> None:
        self.offset = offset
        self._out = out.fileno()
        self._descriptor = descriptor
        self._end = end
        self._there = min(offset + SENDFILE_CHUNK, end)
        self._sent = sent
        self._loop = asyncio.get_running_loop()
        self.stopped: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_writer(self._out, self._step)

    def stop(self) -> None:
        self._loop.remove_writer(self._out)

    def _step(self) -> None:
        try:
            count = os.sendfile(self._out, self._descriptor, self.offset, self._there - self.offset)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end_with(NoSendfile() if error.errno in _NO_SENDFILE else error)
            return
        if not count:
            self._end_with(FileCutShort())
            return
        self.offset += count
        self._sent(count)
        if self.offset == self._there:
            self._there = min(self.offset + SENDFILE_CHUNK, self._end)
            if self.offset == self._end or not _are_there(
                self._descriptor, self.offset, self._there - self.offset
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
    """So many bytes from *offset*, read in chunks of `READ_CHUNK`; raises `FileCutShort` when the file
    ends before."""
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
    """The bytes *start* (inclusive) to *end* (exclusive) of a file, or where many of them are.

    Raises `FileCutShort`.
    """
    if end - start > SMALL_SPAN:
        yield FileSpan(file, start, end - start)
        return
    async for chunk in chunks(file, start, end - start):
        yield chunk
