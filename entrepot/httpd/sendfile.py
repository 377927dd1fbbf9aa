"""Parts of files: loaded into the page cache before they are sent, read where they can't be.

So neither the event loop nor the thread of `entrepot.httpd.file_sender` waits for a disk.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
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

NO_SENDFILE = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
"""Errors of sendfile(2) where the file system of the file has none."""

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
    if not are_cached(file.fileno(), offset, count):
        await uninterrupted(asyncio.wrap_future(load_in_background(file.fileno(), offset, count)))


def load_in_background(descriptor: int, offset: int, count: int) -> Future[bytes]:
    """Let a thread wait for the disk until the bytes of a file are in memory."""
    return _disk.submit(_fetch, descriptor, offset, count)


def are_cached(descriptor: int, offset: int, count: int) -> bool:
    """Whether the first and the last of *count* bytes are in the page cache."""
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
