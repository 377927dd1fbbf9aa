"""The bytes of a blob on their way from its source to its file, in a thread of their own.

The thread reads from a blocking socket into one buffer, hashes the buffer and writes it while it is
in the processor's cache. The event loop learns a few times per megabyte how far it is. Through the
loop (aiohttp, chunks handed to other threads) the same bytes take twice the processor time, most of
it in the loop's own thread, and every other client waits for that.

A source that sends slowly holds a thread for as long as its fill has its turn. So the threads are
bounded by the turns, and beyond `MAX_TRANSFERS` a fill goes through the event loop: fills never
wait for each other's threads.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from entrepot.source.blobs import ThreadedBody
from entrepot.store.blobs import BlobStore
from entrepot.store.partial_blob import NotWritten, PartialBlob
from entrepot.tasks import yield_to_event_loop

BUFFER_SIZE = 256 * 1024
"""Bytes that are read, hashed and written at a time. A buffer of 1 MiB falls out of the second
level cache in between, which takes a third more processor time."""

SPARE_BUFFERS = 8
"""Buffers that are kept for the next transfers."""

MAX_TRANSFERS = 64
"""Threads, for all sources together: ten sources with all their turns taken. Each costs a buffer
and some 100 kB."""

PROGRESS_SIZE = 1024 * 1024
"""Bytes after which the event loop learns of them, at the latest."""

PROGRESS_INTERVAL = 0.02
"""Seconds after which it does, unless no byte came."""


class Transfer:
    """The rest of *body*, appended to *partial* in a thread.

    The first *skip* bytes are dropped; with more than *limit* bytes in the blob it ends.
    *on_progress* is called in the event loop, and once more at the end.
    """

    def __init__(
        self,
        body: ThreadedBody,
        store: BlobStore,
        partial: PartialBlob,
        *,
        skip: int,
        limit: int,
        on_progress: Callable[[Transfer], None],
    ) -> None:
        self.body = body
        self.fetched = 0
        """Bytes that the source sent, the dropped ones included."""
        self.position = partial.written
        """Bytes of the blob that are hashed and written."""
        self.skip = skip
        """Bytes that are still to be dropped."""
        self.exceeds_limit = False
        self.is_writing = False
        """Whether the disk, and not the source, has it wait."""
        self.unwritten = b""
        """Bytes that are hashed, and that the disk did not take."""
        self.source_error: BaseException | None = None
        self.storage_error: BaseException | None = None
        self._store = store
        self._partial = partial
        self._limit = limit
        self._on_progress = on_progress
        self._loop = asyncio.get_running_loop()
        self._is_report_pending = self._is_finished = False
        self._reported = 0
        self._reported_at = float("-inf")

    def run(self, buffer: bytearray) -> None:
        """Transfer all bytes; it ends early at an error. Runs in a thread, and raises nothing."""
        view = memoryview(buffer)
        try:
            while True:
                # One byte more than there should be shows that there are more.
                expected = self.skip + self._limit - self.position + 1
                count = self.body.read_into(view[: max(expected, 1)], self._report)
                if not count:
                    return
                self.fetched += count
                dropped = min(self.skip, count)
                self.skip -= dropped
                if dropped < count and not self._append(view[dropped:count]):
                    return
                if (
                    self.fetched - self._reported >= PROGRESS_SIZE
                    or time.monotonic() - self._reported_at >= PROGRESS_INTERVAL
                ):
                    self._report()
        except BaseException as error:
            self.source_error = error

    def _append(self, content: memoryview) -> bool:
        if self.position + len(content) > self._limit:
            self.exceeds_limit = True
            return False
        self.is_writing = True
        try:
            self._store.append_blocking(self._partial, [content])
        except NotWritten as error:
            self.unwritten = b"".join(error.rest)
            self.storage_error = error
            return False
        except BaseException as error:
            self.storage_error = error
            return False
        finally:
            self.position = self._partial.written
            self.is_writing = False
        return True

    def _report(self) -> None:
        """Let the event loop learn of the bytes, unless it is about to. Runs in the thread."""
        if self._is_report_pending or self.fetched == self._reported:
            return
        self._is_report_pending = True
        self._reported, self._reported_at = self.fetched, time.monotonic()
        self._loop.call_soon_threadsafe(self._deliver_report)

    def _deliver_report(self) -> None:
        # First: what the thread adds from now on is in a report of its own.
        self._is_report_pending = False
        if not self._is_finished:
            self._on_progress(self)

    def finish(self) -> None:
        """Report for the last time: the thread has ended. Runs in the event loop."""
        self._is_finished = True
        self._on_progress(self)


class TransferThreads:
    """The threads of all transfers of an engine."""

    def __init__(self) -> None:
        self.free = MAX_TRANSFERS
        """Threads without a transfer."""
        self._threads = ThreadPoolExecutor(MAX_TRANSFERS, "entrepot-transfer", yield_to_event_loop)
        self._buffers: deque[bytearray] = deque(maxlen=SPARE_BUFFERS)

    async def run(self, transfer: Transfer) -> None:
        """Run *transfer* in a thread. There must be a free one.

        When it is cancelled, it interrupts the source and waits for the thread to end: the thread
        uses the file and the connection. A disk that hangs has it wait, like all that writes.
        """
        self.free -= 1
        running = asyncio.get_running_loop().run_in_executor(self._threads, self._run, transfer)
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError:
            transfer.body.interrupt()
            while not running.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([running])
            raise
        finally:
            self.free += 1
            transfer.finish()

    def _run(self, transfer: Transfer) -> None:
        try:
            buffer = self._buffers.pop()
        except IndexError:
            buffer = bytearray(BUFFER_SIZE)
        transfer.run(buffer)
        self._buffers.append(buffer)

    def close(self) -> None:
        """End the threads, which have no transfers any more."""
        self._threads.shutdown()
