"""One blob on its way in, for everyone who wants it.

However many clients and pulls ask for a blob that is not held, one `Fill` fetches it with one upstream request. Each of them reads from the growing file at its
own pace; nobody's slowness or departure touches the fill. When the source breaks off, the fill asks it again from the byte reached. The last bytes are withheld
until the digest is right, so that no client can ever finish a wrong blob.

What has come when a fill must end, because the source stays away or the engine stops, is left over for the next one. When the disk takes no more, the clients
are fed from memory and nothing is kept: see `entrepot.cache.window`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from entrepot.cache.window import WINDOW, Readers, StorageFailed, Window
from entrepot.errors import EntrepotError
from entrepot.reference import Digest
from entrepot.source.errors import SourceAnswerInvalid, SourceBrokeOff, SourceFailed, SourceOverAllowance, SourceRefused, SourceUnreachable
from entrepot.store.blobs import PART_SIZE, READ_SIZE, BlobStore, FilePart, NotWritten, PartialBlob
from entrepot.tasks import OwnedTasks

TAIL = 64 * 1024
"""Bytes at the end of a blob that no client gets before the digest is right (the whole blob, when it is shorter)."""

ATTEMPTS_WITHOUT_PROGRESS = 5
"""How often a source is asked again without a single new byte before the fill fails."""

SPEED_WINDOW = 5.0
"""Seconds over which the speed of a fill is measured."""

_CONTINUABLE = (SourceBrokeOff, SourceUnreachable, SourceFailed, SourceOverAllowance, SourceRefused)
"""Failures after which what has come is still right, and worth continuing when the source is well again."""

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


class Fill:
    """One blob on its way in. `Fills` makes and owns them."""

    def __init__(
        self,
        digest: Digest,
        size: int,
        source: BlobSource,
        store: BlobStore,
        partial: PartialBlob,
        *,
        clock: Callable[[], float],
        disk_refused: Callable[[OSError], None] = lambda _: None,
    ) -> None:
        self.digest = digest
        self.size = size
        self.state = FillState.WAITING
        self.error: EntrepotError | None = None
        self.resumed_at: int | None = None
        self.moved = clock()
        """When it last made a step."""
        self.fetched = 0
        """Bytes that the source sent, those that had to be sent twice included."""
        self.served = 0
        """Bytes that went to clients."""
        self._source = source
        self._store = store
        self._partial = partial
        self._clock = clock
        self._disk_refused = disk_refused
        self._readers = Readers()
        self._window = Window(self._readers, clock=clock)
        self._samples: deque[_Sample] = deque()
        self._waiting: list[asyncio.Future[None]] = []
        self.finished = asyncio.Event()
        """The fill is over: the blob is held, or *error* says why not."""

    @property
    def readers(self) -> int:
        """Clients that are being fed from it now."""
        return len(self._readers)

    @property
    def received(self) -> int:
        """Bytes that have come, the withheld ones included."""
        return self._window.end

    @property
    def can_be_joined(self) -> bool:
        """Whether somebody who comes now can have the blob from its first byte on."""
        return self.state is not FillState.FAILED and self._window.is_whole

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
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.append(waiting)
            await waiting
        if self.available <= offset and self.error is not None:
            raise self.error

    async def wait(self) -> None:
        """Wait until the blob is held; raises the error with which the fill failed."""
        await self.finished.wait()
        if self.error is not None:
            raise self.error

    async def read(self, start: int, end: int) -> AsyncIterator[bytes | FilePart]:
        """The bytes *start* (inclusive) to *end* (exclusive) as they come: from memory, or as parts of the file that they have been written to.

        Raises the error with which the fill failed.
        """
        if start >= end:
            return
        await self.wait_beyond(start)
        with self._readers.reading(start) as reader, self._reading(start) as partial:
            while start < end:
                await self.wait_beyond(start)
                piece, count = self._next(partial, start, min(self.available, end) - start)
                yield piece
                start += count
                self.served += count
                reader.position = start
                self._readers.changed()

    def _next(self, partial: PartialBlob, start: int, wanted: int) -> tuple[bytes | FilePart, int]:
        if not self._window.passes_on and start < partial.written:
            # Within the kernel, a file costs less than memory of ours does.
            count = min(wanted, partial.written - start, PART_SIZE)
            return FilePart(partial, start, count), count
        piece = self._window.read(start, min(wanted, READ_SIZE))
        if piece is not None:
            return piece, len(piece)
        if start >= partial.written or not partial.is_open:
            raise StorageFailed("The disk is full, and this transfer was too slow to be fed from memory.", "Pull again; free space in the data directory.")
        count = min(wanted, partial.written - start, READ_SIZE)
        return FilePart(partial, start, count), count

    @contextmanager
    def _reading(self, start: int) -> Iterator[PartialBlob]:
        if self._window.passes_on and start >= self._window.start and not self._partial.is_open:
            # The file is gone, and everything that is left is in memory.
            yield self._partial
            return
        try:
            with self._partial.reading() as partial:
                yield partial
        except FileNotFoundError:
            raise StorageFailed(f"The blob {self.digest} was not kept.", "Pull again.") from None

    async def run(self, *, pause: Callable[[float], Awaitable[None]], is_stopping: Callable[[], bool]) -> None:
        """Fetch, verify and commit the blob. Never raises but for cancellation: how it ended stands in *state* and *error*.

        A cancellation because the engine *is stopping* leaves what has come to the next engine.
        """
        try:
            await self._fetch_and_keep(pause)
            if self.received != self.size or not self._partial.is_right():
                raise SourceAnswerInvalid(
                    f"The source sent wrong bytes for {self.digest}: their digest is another.",
                    "Nothing was kept. Pull again; if it happens again, something between here and the source changes what passes.",
                )
            # Whoever waits for the last bytes gets them now; that they are also safe on the disk is the next step.
            self._end(FillState.VERIFIED)
            if not self._window.passes_on:
                await self._store.commit(self._partial)
        except asyncio.CancelledError:
            if self.state is FillState.VERIFIED:
                # commit() finishes what it began; only its caller is gone.
                raise
            self._fail(FillCancelled(f"The pull that wanted {self.digest} was cancelled.", "Pull again to go on."))
            await (self._store.set_aside if is_stopping() and not self._window.passes_on else self._store.discard)(self._partial)
            raise
        except OSError as error:
            self._fail(self._not_kept(error))
            await self._store.discard(self._partial)
        except EntrepotError as error:
            self._fail(error)
            await (self._store.set_aside if isinstance(error, _CONTINUABLE) and not self._window.passes_on else self._store.discard)(self._partial)
        finally:
            self._partial.release()

    def _not_kept(self, error: OSError) -> StorageFailed:
        return StorageFailed(f"The blob {self.digest} can't be kept: {error.strerror or error}.", "Free space in the data directory, or give it a larger disk.")

    async def _fetch_and_keep(self, pause: Callable[[float], Awaitable[None]]) -> None:
        while self._partial.left_over and await self._store.take_left_over(self._partial):
            self._window.skip_to(self._partial.written)
            self.resumed_at = self.received
            self._announce()
        if self.received == self.size > 0:
            # It came whole, and only its last step was missing.
            return
        # While one piece is hashed and written in a thread, the next is read.
        keeping = asyncio.create_task(self._keep_all())
        try:
            await self._fetch_all(pause, keeping)
        except asyncio.CancelledError:
            keeping.cancel()
            raise
        finally:
            # Also when the source breaks off: what was received is kept in order. Not before, because no thread may write behind our back.
            self._window.close()
            await keeping

    async def _fetch_all(self, pause: Callable[[float], Awaitable[None]], keeping: asyncio.Task[None]) -> None:
        validator: str | None = None
        failures = 0
        while True:
            before = self.received
            try:
                async with self._source(offset=self.received, validator=validator) as stream:
                    validator = stream.validator or validator
                    await self._take(stream, keeping)
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
            self.moved = self._clock()
            self.resumed_at = self.received

    async def _take(self, stream: BlobStreamLike, keeping: asyncio.Task[None]) -> None:
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
        async for chunk in stream:
            self.fetched += len(chunk)
            if skip:
                chunk, skip = chunk[skip:], max(0, skip - len(chunk))
            if self.received + len(chunk) > self.size:
                raise SourceAnswerInvalid(f"The source sends more than the {self.size:,} bytes of {self.digest}.", "Nothing was kept. Pull again.")
            if chunk:
                self._window.add(chunk)
                self._sample()
                self._announce()
            if not await self._window.room():
                # What kept it from being taken is the reason why this fill ends.
                await keeping
        if self.received < self.size:
            raise SourceBrokeOff(f"The source ended {self.digest} after {self.received:,} of {self.size:,} bytes.", "Pull again.")

    def _sample(self) -> None:
        now = self._clock()
        if not self._samples or now - self._samples[-1].time >= 0.25:
            self._samples.append(_Sample(now, self.received))

    async def _keep_all(self) -> None:
        try:
            while pieces := await self._window.more():
                await self._keep(pieces)
        finally:
            self._window.stop()

    async def _keep(self, pieces: Sequence[bytes]) -> None:
        """Write what has come to the disk; where the disk has refused, only hash it and wait until it is passed on."""
        if self._window.passes_on:
            await self._store.hash(self._partial, pieces)
        else:
            try:
                await self._store.append(self._partial, pieces)
            except NotWritten as error:
                # Whoever is being fed still gets everything: first what is in the file, and then what passes through memory.
                start = self._window.start
                # A small file is not worth a difference.
                self._window.pass_on(await self._store.read_partial(self._partial, 0, start) if start <= WINDOW else b"")
                self.error = self._not_kept(error)
                self._disk_refused(error)
                await self._store.discard(self._partial)
        self._window.take(sum(map(len, pieces)))
        if self._window.passes_on:
            await self._window.passed_on()

    def _announce(self) -> None:
        self.moved = self._clock()
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.done():
                each.set_result(None)

    def _end(self, state: FillState) -> None:
        self.state = state
        self._announce()

    def _fail(self, error: EntrepotError) -> None:
        self.error = error
        if self.state is FillState.VERIFIED:
            # The clients have what they asked for; only keeping it failed.
            _log.error("%s was served but could not be kept: %s", self.digest, error.message)
            return
        self._end(FillState.FAILED)


class Fills:
    """All fills of an engine, one for each digest. It owns their tasks."""

    def __init__(
        self,
        store: BlobStore,
        *,
        clock: Callable[[], float],
        on_held: Callable[[Digest, int], Awaitable[None]],
        on_refusal: Callable[[OSError], None] = lambda _: None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._clock = clock
        self._pause = pause
        self._on_held = on_held
        self._on_refusal = on_refusal
        self.refusal: OSError | None = None
        """What the disk said when it last refused to take a blob; None again as soon as one has been kept."""
        self._fills: dict[Digest, Fill] = {}
        self._beginning: dict[Digest, asyncio.Future[Fill]] = {}
        self._tasks: dict[Fill, asyncio.Task[None]] = {}
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
        return fill if fill is not None and fill.can_be_joined else None

    @property
    def under_way(self) -> Collection[Fill]:
        """All that go on now."""
        return self._tasks.keys()

    @property
    def fetched(self) -> int:
        """Bytes that all fills so far have got from sources."""
        return self._fetched_before + sum(fill.fetched for fill in self._tasks)

    @property
    def speed(self) -> float:
        """Bytes per second from all sources together."""
        return sum(fill.speed for fill in self._tasks)

    async def join(self, digest: Digest, size: int, source: BlobSource) -> Fill:
        """The fill of a digest: the one under way, or a new one that reads from *source*."""
        failed = self._fills.get(digest)
        if failed is not None and failed.state is FillState.FAILED:
            await failed.finished.wait()
        fill = self.get(digest)
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
            partial = await self._store.begin(digest, size)
        except OSError as error:
            self._disk_refused(error)
            raise StorageFailed(f"The data directory can't take a new blob: {error.strerror}.", "Free space in it, or give it a larger disk.") from error
        fill = self._fills[digest] = Fill(digest, size, source, self._store, partial, clock=self._clock, disk_refused=self._disk_refused)
        self._tasks[fill] = self._owned.start(self._run(fill), f"fill {digest}")
        return fill

    def _disk_refused(self, error: OSError) -> None:
        first = self.refusal is None
        self.refusal = error
        if first:
            self._on_refusal(error)

    async def _run(self, fill: Fill) -> None:
        try:
            await fill.run(pause=self._pause, is_stopping=lambda: not self._owned.open)
            if fill.error is None:
                self.refusal = None
                await self._on_held(fill.digest, fill.size)
        except Exception:
            # The blob is held all the same, and its row in the catalog heals at the next start; the other fills must not suffer.
            _log.exception("%s is held, but could not be written down", fill.digest)
        finally:
            self._fetched_before += fill.fetched
            if self._fills.get(fill.digest) is fill:
                del self._fills[fill.digest]
            del self._tasks[fill]
            fill.finished.set()

    def cancel(self, digest: Digest) -> None:
        """Give up a fill that nobody wants any more."""
        fill = self._fills.get(digest)
        if fill is not None:
            self._tasks[fill].cancel()
