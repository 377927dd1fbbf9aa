"""The body of a scripted blob, read by a thread as that of a real source is."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import CancelledError, Future

from entrepot.source.errors import SourceBrokeOff


class ThreadedChunks:
    """*chunks* for a thread (`entrepot.source.blobs.ThreadedBody`), and after it for the event
    loop, in which they are produced."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self.readers: set[str] = set()
        """The names of the threads that read."""
        self.is_read = threading.Event()
        """Set while a thread is in `read_into`."""
        self._chunks = chunks
        self._rest = b""
        self._loop = asyncio.get_running_loop()
        self._next: Future[bytes] | None = None
        self._is_interrupted = False

    def read_into(self, buffer: memoryview, before_waiting: Callable[[], None]) -> int:
        self.readers.add(threading.current_thread().name)
        self.is_read.set()
        try:
            if not self._rest:
                before_waiting()
                self._rest = self._wait_for_chunk()
        finally:
            self.is_read.clear()
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def _wait_for_chunk(self) -> bytes:
        self._next = asyncio.run_coroutine_threadsafe(self._next_chunk(), self._loop)
        if self._is_interrupted:
            self._next.cancel()
        try:
            return self._next.result()
        except CancelledError:
            raise SourceBrokeOff("Interrupted.") from None

    async def _next_chunk(self) -> bytes:
        async for chunk in self._chunks:
            if chunk:
                return chunk
        return b""

    def interrupt(self) -> None:
        self._is_interrupted = True
        if self._next is not None:
            self._next.cancel()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._rest:
            yield self._rest
        async for chunk in self._chunks:
            yield chunk
