"""One blob on its way in, for everyone who wants it.

However many clients and pulls ask for a blob that is not held, one `Fill` fetches it with one upstream request. Each of them reads from the growing file at its
own pace; nobody's slowness or departure touches the fill. When the source breaks off, the fill asks it again from the byte reached. The last bytes are withheld
until the digest is right, so that no client can ever finish a wrong blob.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from entrepot.errors import EntrepotError
from entrepot.reference import Digest
from entrepot.source.errors import SourceAnswerInvalid, SourceBrokeOff, SourceFailed, SourceUnreachable
from entrepot.store.blobs import READ_SIZE, BlobStore, PartialBlob
from entrepot.tasks import OwnedTasks

TAIL = 64 * 1024
"""Bytes at the end of a blob that no client gets before the digest is right (the whole blob, when it is shorter)."""

ATTEMPTS_WITHOUT_PROGRESS = 5
"""How often a source is asked again without a single new byte before the fill fails."""

WRITE_AHEAD = 4 * 1024 * 1024
"""Bytes that may wait in memory for the disk; beyond it the source is not read on."""

SPEED_WINDOW = 5.0
"""Seconds over which the speed of a fill is measured."""

_log = logging.getLogger("entrepot.fill")


class BlobSource(Protocol):
    """What a fill reads from: a repository of a source registry."""

    def __call__(self, *, offset: int, validator: str | None) -> AbstractAsyncContextManager[BlobStreamLike]:
        """The blob from *offset* on, if it is still the one that *validator* names."""


class BlobStreamLike(Protocol):
    """A blob as a source sends it: see `entrepot.source.client.BlobStream`."""

    @property
    def offset(self) -> int:
        """Where in the blob the first byte of the stream belongs."""

    @property
    def size(self) -> int | None:
        """Of the whole blob, if the source says it."""

    @property
    def validator(self) -> str | None:
        """The entity tag to resume with."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...


class StorageFailed(EntrepotError):
    """The data directory took no more bytes."""

    code = "StorageFailed"
    status = oci_status = 503


class FillCancelled(EntrepotError):
    """An administrator cancelled the only pull that wanted the blob."""

    code = "PullCancelled"
    status = oci_status = 503


class FillState(Enum):
    """How far a fill has come."""

    WAITING = auto()
    """For its turn at the source, or for the source's first byte."""
    RUNNING = auto()
    RESUMED = auto()
    VERIFIED = auto()
    FAILED = auto()


@dataclass(slots=True)
class _Sample:
    time: float
    received: int


class _Pipe:
    """Bytes between the source and the disk, at most about `WRITE_AHEAD` of them. The disk takes all that wait in one go."""

    def __init__(self) -> None:
        self.size = 0
        self._chunks: list[bytes] = []
        self._ended = False
        self._changed = asyncio.Event()

    async def put(self, chunk: bytes) -> None:
        """Add a chunk, and wait while there is too much."""
        self._chunks.append(chunk)
        self.size += len(chunk)
        self._changed.set()
        while self.size >= WRITE_AHEAD and not self._ended:
            self._changed.clear()
            await self._changed.wait()

    async def take(self) -> bytes:
        """All that waits; nothing when no more will come."""
        while not self.size and not self._ended:
            self._changed.clear()
            await self._changed.wait()
        content = b"".join(self._chunks)
        self._chunks.clear()
        self.size = 0
        self._changed.set()
        return content

    def close(self) -> None:
        """No more will be put."""
        self._ended = True
        self._changed.set()

    stop = close
    """No more will be taken: whoever puts must not wait for room."""


class Fill:
    """One blob on its way in. `Fills` makes and owns them."""

    def __init__(self, digest: Digest, size: int, source: BlobSource, store: BlobStore, partial: PartialBlob, *, clock: Callable[[], float]) -> None:
        self.digest = digest
        self.size = size
        self.state = FillState.WAITING
        self.error: EntrepotError | None = None
        self.resumed_at: int | None = None
        self.readers = 0
        """Clients that are being fed from it now."""
        self.fetched = 0
        """Bytes that the source sent, those that had to be sent twice included."""
        self.served = 0
        """Bytes that went to clients."""
        self._source = source
        self._store = store
        self._partial = partial
        self._clock = clock
        self._samples: deque[_Sample] = deque()
        self._changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.finished = asyncio.Event()
        """The fill is over: the blob is held, or *error* says why not."""

    @property
    def received(self) -> int:
        """Bytes that are here, the withheld ones included."""
        return self._partial.written

    @property
    def available(self) -> int:
        """Bytes that clients may have."""
        if self.state is FillState.VERIFIED:
            return self.size
        if self.state is FillState.FAILED:
            return 0
        return min(self.received, max(0, self.size - TAIL))

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.state in {FillState.VERIFIED, FillState.FAILED}

    @property
    def speed(self) -> float:
        """Bytes per second from the source, over the last `SPEED_WINDOW` seconds."""
        now = self._clock()
        while self._samples and now - self._samples[0].time > SPEED_WINDOW:
            self._samples.popleft()
        if self.ended or not self._samples:
            return 0.0
        first = self._samples[0]
        return (self.received - first.received) / max(now - first.time, 0.25)

    async def wait_beyond(self, offset: int) -> None:
        """Wait until clients may have the byte at *offset*; raises the error with which the fill failed."""
        while self.available <= offset and not self.ended:
            await asyncio.shield(self._changed)
        if self.available <= offset and self.error is not None:
            raise self.error

    async def wait(self) -> None:
        """Wait until the blob is held; raises the error with which the fill failed."""
        await self.finished.wait()
        if self.error is not None:
            raise self.error

    async def read(self, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes *start* (inclusive) to *end* (exclusive) as they come; raises the error with which the fill failed."""
        if start >= end:
            return
        await self.wait_beyond(start)
        with self._partial.reading() as partial:
            self.readers += 1
            try:
                while start < end:
                    await self.wait_beyond(start)
                    chunk = await self._store.read_partial(partial, start, min(READ_SIZE, self.available - start, end - start))
                    start += len(chunk)
                    self.served += len(chunk)
                    yield chunk
            finally:
                self.readers -= 1

    async def run(self, *, pause: Callable[[float], Awaitable[None]]) -> None:
        """Fetch, verify and commit the blob. Never raises but for cancellation: how it ended stands in *state* and *error*."""
        try:
            await self._fetch_all(pause)
            if self.received != self.size or not self._partial.is_right():
                raise SourceAnswerInvalid(
                    f"The source sent wrong bytes for {self.digest}: their digest is another.",
                    "Nothing was kept. Pull again; if it happens again, something between here and the source changes what passes.",
                )
            # Whoever waits for the last bytes gets them now; that they are also safe on the disk is the next step.
            self._end(FillState.VERIFIED)
            await self._store.commit(self._partial)
        except asyncio.CancelledError:
            if self.state is FillState.VERIFIED:
                # commit() finishes what it began; only its caller is gone.
                raise
            self._fail(FillCancelled(f"The pull that wanted {self.digest} was cancelled.", "Pull again to go on."))
            await self._store.discard(self._partial)
            raise
        except OSError as error:
            self._fail(
                StorageFailed(
                    f"The blob {self.digest} can't be kept: {error.strerror or error}.", "Free space in the data directory, or give it a larger disk."
                )
            )
            await self._store.discard(self._partial)
        except EntrepotError as error:
            self._fail(error)
            await self._store.discard(self._partial)
        finally:
            self._partial.release()

    async def _fetch_all(self, pause: Callable[[float], Awaitable[None]]) -> None:
        validator: str | None = None
        failures = 0
        while True:
            before = self.received
            try:
                async with self._source(offset=self.received, validator=validator) as stream:
                    validator = stream.validator or validator
                    await self._take(stream)
                return
            except (SourceBrokeOff, SourceUnreachable, SourceFailed) as error:
                failures = 0 if self.received > before else failures + 1
                # Nothing came yet, and the source client has tried several times: more tries here would only make the clients wait for the same answer.
                if self.received == 0 and not isinstance(error, SourceBrokeOff):
                    raise
                if failures >= ATTEMPTS_WITHOUT_PROGRESS:
                    raise
                _log.info("%s broke off at byte %d of %d: %s", self.digest, self.received, self.size, error.what)
            await pause(random.uniform(0.5, 1.0) * 0.2 * 2**failures)
            self.resumed_at = self.received

    async def _take(self, stream: BlobStreamLike) -> None:
        if stream.size is not None and stream.size != self.size:
            raise SourceAnswerInvalid(
                f"The source says that {self.digest} has {stream.size:,} bytes; its manifest says {self.size:,}.",
                "Nothing was kept. Pull again; if it happens again, the image is broken at its source.",
            )
        # A source that ignores Range begins anew: what is here already is skipped, and the digest at the end tells whether it was the same.
        skip = self.received - stream.offset
        if skip < 0:
            raise SourceAnswerInvalid(f"The source sent byte {stream.offset} of {self.digest} when byte {self.received} was asked for.", "Pull again.")
        self.state = FillState.RESUMED if self.received else FillState.RUNNING
        self._announce()
        pipe = _Pipe()
        # While one piece is hashed and written in a thread, the next is read.
        writing = asyncio.create_task(self._write_all(pipe))
        try:
            async for chunk in stream:
                self.fetched += len(chunk)
                if skip:
                    chunk, skip = chunk[skip:], max(0, skip - len(chunk))
                if self.received + pipe.size + len(chunk) > self.size + WRITE_AHEAD:
                    raise SourceAnswerInvalid(f"The source sends more than the {self.size:,} bytes of {self.digest}.", "Nothing was kept. Pull again.")
                await pipe.put(chunk)
                if writing.done():
                    break
        finally:
            # Also when the source breaks off or the fill is cancelled: what was received is kept in order, and no thread writes behind our back.
            pipe.close()
            await writing
        if self.received < self.size:
            raise SourceBrokeOff(f"The source ended {self.digest} after {self.received:,} of {self.size:,} bytes.", "Pull again.")

    async def _write_all(self, pipe: _Pipe) -> None:
        try:
            while content := await pipe.take():
                await self._store.append(self._partial, content)
                now = self._clock()
                if not self._samples or now - self._samples[-1].time >= 0.25:
                    self._samples.append(_Sample(now, self.received))
                self._announce()
        finally:
            pipe.stop()

    def _announce(self) -> None:
        changed, self._changed = self._changed, asyncio.get_running_loop().create_future()
        changed.set_result(None)

    def _end(self, state: FillState) -> None:
        self.state = state
        self._announce()

    def _fail(self, error: EntrepotError) -> None:
        if self.state is FillState.VERIFIED:
            # The clients have what they asked for; only keeping it failed.
            _log.error("%s was served but could not be kept: %s", self.digest, error.message)
            self.error = error
            return
        self.error = error
        self._end(FillState.FAILED)


class Fills:
    """All fills of an engine, one for each digest. It owns their tasks."""

    def __init__(
        self,
        store: BlobStore,
        *,
        clock: Callable[[], float],
        on_held: Callable[[Digest, int], Awaitable[None]],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._clock = clock
        self._pause = pause
        self._on_held = on_held
        self._fills: dict[Digest, Fill] = {}
        self._beginning: dict[Digest, asyncio.Future[Fill]] = {}
        self._tasks: dict[Digest, asyncio.Task[None]] = {}
        self._owned = OwnedTasks()
        self._fetched_before = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Fills]:
        """Within it fills can begin; at its end those under way are cancelled and what they wrote is removed."""
        async with self._owned:
            yield self

    def get(self, digest: Digest) -> Fill | None:
        """The fill of a digest that is under way; one that has failed and is being cleared away is none."""
        fill = self._fills.get(digest)
        return None if fill is None or fill.state is FillState.FAILED else fill

    @property
    def under_way(self) -> frozenset[Digest]:
        """The blobs that are on their way in."""
        return frozenset(self._fills)

    @property
    def fetched(self) -> int:
        """Bytes that all fills so far have got from sources."""
        return self._fetched_before + sum(fill.fetched for fill in self._fills.values())

    @property
    def speed(self) -> float:
        """Bytes per second from all sources together."""
        return sum(fill.speed for fill in self._fills.values())

    async def join(self, digest: Digest, size: int, source: BlobSource) -> Fill:
        """The fill of a digest: the one under way, or a new one that reads from *source*."""
        failed = self._fills.get(digest)
        if failed is not None and failed.state is FillState.FAILED:
            await failed.finished.wait()
        fill = self._fills.get(digest)
        if fill is not None:
            return fill
        beginning = self._beginning.get(digest)
        if beginning is None:
            beginning = self._beginning[digest] = asyncio.ensure_future(self._begin(digest, size, source))
            beginning.add_done_callback(lambda done: self._begun(digest, done))
        return await asyncio.shield(beginning)

    def _begun(self, digest: Digest, beginning: asyncio.Future[Fill]) -> None:
        del self._beginning[digest]
        if not beginning.cancelled() and beginning.exception() is not None:
            _log.warning("%s could not be begun: %s", digest, beginning.exception())

    async def _begin(self, digest: Digest, size: int, source: BlobSource) -> Fill:
        if not self._owned.open:
            raise StorageFailed("The engine is stopping.", "Pull again when it runs.")
        try:
            partial = await self._store.begin(digest)
        except OSError as error:
            raise StorageFailed(f"The data directory can't take a new blob: {error.strerror}.", "Free space in it, or give it a larger disk.") from error
        fill = self._fills[digest] = Fill(digest, size, source, self._store, partial, clock=self._clock)
        self._tasks[digest] = self._owned.start(self._run(fill), f"fill {digest}")
        return fill

    async def _run(self, fill: Fill) -> None:
        try:
            await fill.run(pause=self._pause)
            if fill.error is None:
                await self._on_held(fill.digest, fill.size)
        except Exception:
            # The blob is held all the same, and its row in the catalog heals at the next start; the other fills must not suffer.
            _log.exception("%s is held, but could not be written down", fill.digest)
        finally:
            self._fetched_before += fill.fetched
            del self._fills[fill.digest]
            del self._tasks[fill.digest]
            fill.finished.set()

    def cancel(self, digest: Digest) -> None:
        """Give up a fill that nobody wants any more."""
        task = self._tasks.get(digest)
        if task is not None:
            task.cancel()
