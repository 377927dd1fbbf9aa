"""The fetch of one blob from its source, for all clients and pulls that need it.

However many clients and pulls request a blob that is not cached, one `Fill` fetches it with one
request to its source. Each of them reads from the growing file at its own pace; one that is slow or
leaves does not touch the fill. When the source breaks off, the fill asks it again from the byte
reached. The last bytes are withheld until the digest is right, so that no client can ever finish a
wrong blob.

Each source registry has fills of its own, also for a digest that another one sends at the same
time: a source that is slow, or sends something else, reaches only those who pull through it. A
number of fills of a source have their turn at once, and one that is too slow yields its turn to
others: see `entrepot.cache.fetch_queue`.

The size of a blob is the size of what came with the right digest (F82). A manifest may state
another one: the fill takes on the size that the source states when it begins to send, and the
digest decides. So a reader names the size for which it began.

When a fill must end, because the source stays away or the engine stops, the received bytes stay
for the next one. When the disk takes no more, the clients are fed from memory and nothing is
stored: see `entrepot.cache.fill_buffer`. `entrepot.cache.fills` owns all fills of an engine.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from enum import Enum, auto

from entrepot.cache.blob_source import BlobSource, BlobStreamLike
from entrepot.cache.fair_turns import TurnRequest
from entrepot.cache.fetch_queue import FetchQueue
from entrepot.cache.fill_buffer import FillReaders, StorageFailed
from entrepot.cache.fill_storage import FillStorage
from entrepot.cache.pace import MIN_RATE, Pace, SpeedMeter
from entrepot.cache.transfer import Transfer, TransferThreads
from entrepot.core.reference import Digest
from entrepot.errors import EntrepotError
from entrepot.formatting import duration, rate
from entrepot.source.errors import (
    SourceAnswerInvalid,
    SourceBrokeOff,
    SourceFailed,
    SourceMisread,
    SourceNotFound,
    SourceRateLimited,
    SourceRefused,
    SourceUnreachable,
)
from entrepot.store.blobs import BlobStore
from entrepot.store.partial_blob import FilePart
from entrepot.tasks import where_raised

TAIL = 64 * 1024
"""Bytes at the end of a blob that no client gets before the digest is right (the whole blob, when
it is shorter)."""

EXCESS = TAIL
"""Bytes beyond the size in its manifest that are accepted of a blob whose source states no size:
the digest decides at the end."""

ATTEMPTS_WITHOUT_PROGRESS = 5
"""How often a source is asked again without a single new byte before the fill fails."""

MAX_UNWANTED_TIME = 60.0
"""Seconds for which a fill goes on that no client reads and no pull waits for. The received
bytes are kept for the next one."""

_log = logging.getLogger("entrepot.fill")


class FillCancelled(EntrepotError):
    """The only pull that needed the blob was cancelled."""

    code = "PullCancelled"
    status = oci_status = 503


class FillUnwanted(FillCancelled):
    """All clients that read the blob have left, and no pull waits for it."""


class FillFailed(EntrepotError):
    """A fill failed in a way that the engine did not foresee."""

    code = "FillFailed"
    status = oci_status = 503


_REQUESTER_ERRORS = (SourceNotFound, SourceRefused, SourceRateLimited)
"""Failures that concern the repository and the credentials of a request: through others the source
may have the blob."""

_RESUMABLE = (
    SourceBrokeOff,
    SourceUnreachable,
    SourceFailed,
    SourceRateLimited,
    SourceRefused,
    FillUnwanted,
)
"""Failures after which the received bytes are still right, and worth resuming when the
source is healthy again."""


class FillState(Enum):
    """The progress of a fill."""

    WAITING = auto()
    """For its turn at the source, or for the source's first byte."""
    RUNNING = auto()
    RESUMED = auto()
    VERIFIED = auto()
    FAILED = auto()


class _TurnYielded(EntrepotError):
    """The source sends this blob too slowly, and other fills wait for its turn."""


class Fill:
    """The fetch of one blob. `entrepot.cache.fills.Fills` creates and owns it."""

    def __init__(
        self,
        digest: Digest,
        size: int,
        source: BlobSource,
        store: BlobStore,
        *,
        origin: str,
        queue: FetchQueue,
        provenance: str | None = None,
        repository: str = "",
        threads: TransferThreads | None = None,
        clock: Callable[[], float],
        disk_refused: Callable[[OSError], None] = lambda _: None,
    ) -> None:
        self.digest = digest
        self.size = size
        """In bytes: first as the manifest states it, then as the source does, then what came."""
        self.stated_size = size
        """The size in bytes with which it began."""
        self.origin = origin
        """The login server of the source."""
        self.provenance = provenance or origin
        """For whom its bytes are: its login server, where all rules of that share them, or the
        source of a rule for some readers only (`entrepot.store.records.BlobOrigin`)."""
        self.state = FillState.WAITING
        self.error: EntrepotError | None = None
        self.resumed_at: int | None = None
        self.last_progress = clock()
        """When it last made progress."""
        self.fetched = 0
        """Bytes that the source sent, those sent twice included."""
        self.served = 0
        """Bytes that went to clients."""
        self.finished = asyncio.Event()
        """Set at the end: the blob is stored, or *error* says why not."""
        self.source = source
        self.turn_request = TurnRequest(repository)
        """Its request for turns at the source, on behalf of the source repositories that need it.
        """
        self._queue = queue
        self._clock = clock
        self._disk_refused = disk_refused
        self._readers = FillReaders()
        self._storage = FillStorage(
            digest,
            self.provenance,
            store,
            self._readers,
            threads=threads,
            clock=clock,
            on_refusal=self._bypasses_disk,
        )
        self._speed = SpeedMeter(self.last_progress)
        self._waiting: set[asyncio.Future[None]] = set()
        self._awaited = 0
        self._validator: str | None = None
        """The entity tag to resume with."""
        self._is_read = False
        """Whether a client got some of it: then it can't begin again from another first byte."""
        self.is_ending = False
        """Whether it is about to end without the blob: new requests wait for the next fill."""
        self._turn_timeout: asyncio.Timeout | None = None
        self._interruption: EntrepotError | None = None
        self._pace = Pace(self.last_progress)
        self._unwanted_since: float | None = None

    @property
    def readers(self) -> int:
        """Clients that it feeds now."""
        return len(self._readers)

    @property
    def received(self) -> int:
        """Bytes received, the withheld ones included."""
        return self._storage.received

    @property
    def can_be_joined(self) -> bool:
        """Whether a new reader can have the blob from its first byte on."""
        return (
            self.state is not FillState.FAILED
            and not self.is_ending
            and self._storage.buffer.is_whole
        )

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
        """Whether the fill is verified or failed."""
        return self.state in {FillState.VERIFIED, FillState.FAILED}

    @property
    def is_stored(self) -> bool:
        """Whether the whole blob is verified and stored on the disk under its name.

        It is not stored when the disk was full and was bypassed.
        """
        return self._storage.is_stored

    @property
    def is_wanted(self) -> bool:
        """Whether a client reads it, or a client or a pull waits for it."""
        return self._awaited > 0 or len(self._readers) > 0

    @property
    def is_too_slow(self) -> bool:
        """Whether the source sent less than `MIN_RATE` when the pace was last judged."""
        return not self.ended and self._pace.slow_for > 0

    @property
    def speed(self) -> float:
        """Bytes per second from the source, over the last `SPEED_WINDOW` seconds."""
        return 0.0 if self.ended else self._speed.speed(self._clock(), self.received)

    async def wait_beyond(self, offset: int) -> None:
        """Wait until clients may have the byte at *offset*.

        Raises the error with which the fill failed.
        """
        while self.available <= offset and not self.ended:
            await self._next_step()
        if self.available <= offset and self.error is not None:
            # Without the traceback of earlier readers: it grew with each of them.
            raise self.error.with_traceback(None)

    async def _next_step(self) -> None:
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.add(waiting)
        self._awaited += 1
        try:
            await waiting
        finally:
            # Also when the client leaves.
            self._awaited -= 1
            self._waiting.discard(waiting)

    async def is_granted(self) -> bool:
        """Wait until the source begins to send; False when it refuses the blob.

        It refuses it to this repository and credential set, but might send it for another.
        """
        while self.state is FillState.WAITING:
            await self._next_step()
        return not isinstance(self.error, _REQUESTER_ERRORS)

    async def wait(self) -> None:
        """Wait until the blob is stored; raises the error with which the fill failed."""
        self._awaited += 1
        try:
            await self.finished.wait()
        finally:
            self._awaited -= 1
        if self.error is not None:
            raise self.error.with_traceback(None)
        if not self.is_stored:
            raise FillFailed(f"The blob {self.digest} was not stored.", "Pull again.")

    async def read(
        self, start: int, end: int, size: int | None = None
    ) -> AsyncIterator[bytes | FilePart]:
        """Read the bytes *start* (inclusive) to *end* (exclusive) as they come.

        They come from memory, or as parts of the file to which they have been written. *size* is
        that of the blob as the reader knows it. Raises the error with which the fill failed, and
        `SourceAnswerInvalid` when the blob has another size: then what was read must not
        pass for the whole.
        """
        size = self.size if size is None else size
        if start >= end:
            return
        await self.wait_beyond(start)
        self._is_read = True
        with self._readers.reading(start) as reader, self._storage.reading(start) as partial:
            while start < end:
                await self.wait_beyond(start)
                if self.size != size:
                    raise SourceAnswerInvalid(
                        f"{self.digest} has {self.size:,} bytes; its manifest says {size:,}.",
                        "Pull again: its size is known now.",
                    )
                piece, count = self._storage.next_part(
                    partial, start, min(self.available, end) - start
                )
                yield piece
                start += count
                self.served += count
                reader.position = start
                self._readers.notify()

    async def run(
        self, *, pause: Callable[[float], Awaitable[None]], is_stopping: Callable[[], bool]
    ) -> None:
        """Fetch, verify and commit the blob.

        It ends in VERIFIED or FAILED whatever is raised in it; *error* says why it failed. Raises
        nothing but a cancellation, and what ends the whole process. A cancellation because the
        engine *is stopping* leaves the received bytes for the next engine.
        """
        is_resumable = False
        try:
            await self._fetch_verified(pause)
            # Readers that wait for the last bytes get them now, before these are safe on the disk.
            self._end(FillState.VERIFIED)
            await self._storage.commit()
        except asyncio.CancelledError:
            is_resumable = is_stopping()
            if not self.is_stored:
                self.fail(
                    FillCancelled(
                        f"The pull that wanted {self.digest} was cancelled.", "Pull again to go on."
                    )
                )
            raise
        except OSError as error:
            self._disk_refused(error)
            self.fail(await self._storage.failed(error))
        except EntrepotError as error:
            is_resumable = isinstance(error, _RESUMABLE)
            self.fail(error)
        except BaseException as error:
            _log.error(
                "The fill of %s failed in an unforeseen way: %s", self.digest, where_raised(error)
            )
            _log.debug("The fill of %s", self.digest, exc_info=error)
            self.fail(
                FillFailed(
                    f"The fill of {self.digest} failed for a reason that the engine did not "
                    f"foresee: {where_raised(error)}.",
                    "Pull again.",
                )
            )
            if not isinstance(error, Exception):
                raise
        finally:
            await self._storage.close(is_resumable=is_resumable)

    def _bypasses_disk(self, error: OSError, failed: StorageFailed) -> None:
        self.error = failed
        self._disk_refused(error)

    async def _fetch_verified(self, pause: Callable[[float], Awaitable[None]]) -> None:
        """Fetch the blob and verify its digest.

        What an earlier fill left over may be wrong: then the blob is fetched again from its first
        byte on.
        """
        try:
            await self._fetch_and_verify(pause)
        except SourceAnswerInvalid as error:
            partial = self._storage.partial
            # What was left over may be wrong, or bytes that were compressed on the way were misread
            # (F85).
            is_repeatable = partial is not None and (
                partial.resumable_size or isinstance(error, SourceMisread)
            )
            if not is_repeatable or self._is_read or self._storage.buffer.bypassing:
                raise
            # No client has got any of it yet.
            _log.warning(
                "What came of %s from %s is wrong and is fetched again: %s",
                self.digest,
                self.origin,
                error.what,
            )
            await self._storage.restart()
            self._speed.clear()
            self._validator = self.resumed_at = None
            self.state = FillState.WAITING
            await self._fetch_and_verify(pause)

    async def _fetch_and_verify(self, pause: Callable[[float], Awaitable[None]]) -> None:
        # While one piece is hashed and written in a thread, the next is read.
        writing = asyncio.create_task(self._storage.write_all())
        try:
            await self._fetch_all(pause, writing)
        except asyncio.CancelledError:
            writing.cancel()
            raise
        finally:
            # Also when the source breaks off: what was received is written in order. Not before,
            # because no thread may write any more.
            self._storage.buffer.close()
            await writing
        if self.received != self.size or not self._storage.is_verified:
            raise SourceAnswerInvalid(
                f"The source sent wrong bytes for {self.digest}: their digest is another.",
                "Nothing was cached. Pull again; if it happens again, something between here and "
                "the source changes what passes.",
            )

    async def _fetch_all(
        self, pause: Callable[[float], Awaitable[None]], writing: asyncio.Task[None]
    ) -> None:
        failures = 0
        while True:
            before = self.received
            try:
                await self._fetch_in_turn()
                if self.received == self.size:
                    return
                # The disk took no more: its error is the reason why this fill ends.
                self._storage.raise_error()
                await writing
            except _TurnYielded as error:
                _log.info("%s", error.what)
                wait = 0.0
            except (SourceBrokeOff, SourceUnreachable, SourceFailed) as error:
                failures = 0 if self.received > before else failures + 1
                # Nothing came yet, and the source client has tried several times: more tries here
                # would only make the clients wait for the same answer.
                if self.received == 0 and not isinstance(error, SourceBrokeOff):
                    raise
                if failures >= ATTEMPTS_WITHOUT_PROGRESS or self._pace.is_crawling:
                    raise
                _log.info(
                    "%s broke off at byte %d of %d: %s",
                    self.digest,
                    self.received,
                    self.size,
                    error.what,
                )
                wait = random.uniform(0.5, 1.0) * 0.2 * 2**failures
            self._storage.raise_error()
            # A fill that waits costs no file descriptor. How long the disk takes is not the
            # source's fault.
            writes_since = self._clock()
            await self._storage.buffer.wait_until_written()
            self._pace.since += self._clock() - writes_since
            if writing.done():
                await writing
            self._storage.release()
            if wait:
                await pause(wait)
            self.last_progress = self._clock()
            self.resumed_at = self.received

    async def _fetch_in_turn(self) -> None:
        """Wait for a turn at the source and read from it.

        Reads to the end of the blob, or until the disk takes no more. Raises `_TurnYielded`, an
        error of the source, or `FillUnwanted`.
        """
        self.state = FillState.WAITING
        waits_since = self._clock()
        pace = self._pace
        try:
            async with (
                asyncio.timeout(None) as self._turn_timeout,
                self._queue.turn(self.turn_request),
            ):
                await self._storage.open(self.size, self._record_resumed)
                # How long other fills and the disk take is not the source's fault.
                now = self._clock()
                pace.since += now - waits_since
                # A blob that came whole lacks only its verification.
                if not self.received == self.size > 0:
                    pace.turn_since = now
                    await self._read_source()
        except (TimeoutError, EntrepotError):
            if self._interruption is None:
                raise
            raise self._interruption from None
        finally:
            pace.turn_since = None
            self._turn_timeout = self._interruption = None
        self.is_ending = False

    async def _read_source(self) -> None:
        try:
            async with self.source(offset=self.received, validator=self._validator) as stream:
                self._validator = stream.validator or self._validator
                await self._receive(stream)
        except EntrepotError:
            raise
        except OSError as error:
            raise SourceBrokeOff(
                f"The connection to {self.origin} failed: "
                f"{error.strerror or type(error).__name__}.",
                "Try again.",
            ) from error
        except Exception as error:
            # Ports, host names, numbers and nested documents that no parser takes: what a source
            # can provoke is the source's failure.
            _log.warning(
                "%s answers for %s with what Entrepot can't read: %s",
                self.origin,
                self.digest,
                where_raised(error),
            )
            _log.debug("%s", self.digest, exc_info=error)
            raise SourceAnswerInvalid(
                f"{self.origin} answers for {self.digest} with something that Entrepot can't read "
                f"({where_raised(error)}).",
                "Nothing was cached. Pull again; if it happens again, the fault is at the source.",
            ) from error

    async def _receive(self, stream: BlobStreamLike) -> None:
        if stream.size is not None and stream.size != self.size:
            if stream.size == self.received and await self._storage.matches_digest():
                self.size = self.received
                return
            if self._is_read or self.received:
                raise SourceAnswerInvalid(
                    f"The source says that {self.digest} has {stream.size:,} bytes; before that it "
                    f"was {self.size:,}.",
                    "Nothing was cached. Pull again; if it happens again, the image is broken at "
                    "its source.",
                )
            _log.info(
                "%s says that %s has %d bytes; its manifest says %d. The digest decides.",
                self.origin,
                self.digest,
                stream.size,
                self.size,
            )
            self.size = stream.size
        # A source that ignores Range sends the blob from its first byte: what was received before
        # is skipped, and the digest at the end shows whether it was the same.
        skip = self.received - stream.offset
        if skip < 0:
            raise SourceAnswerInvalid(
                f"The source sent byte {stream.offset} of {self.digest} when byte {self.received} "
                "was asked for.",
                "Pull again.",
            )
        self.state = FillState.RESUMED if self.received else FillState.RUNNING
        self._record_progress(self._clock())
        # Without a Content-Length only the end shows whether the manifest is a little wrong.
        limit = self.size + (EXCESS if stream.size is None else 0)
        if not await self._receive_bytes(stream, skip, limit):
            return
        if self.received != self.size and await self._storage.matches_digest():
            # Readers that began with another size get an error: see `read`.
            self.size = self.received
        if self.received > self.size:
            raise self._too_large()
        if self.received < self.size:
            raise SourceBrokeOff(
                f"The source ended {self.digest} after {self.received:,} of {self.size:,} bytes.",
                "Pull again.",
            )

    async def _receive_bytes(self, stream: BlobStreamLike, skip: int, limit: int) -> bool:
        """Receive to the end; False when the disk takes no more.

        The first *skip* bytes are dropped. *limit* is the size in bytes beyond which the blob is
        refused.
        """
        fetched_before = self.fetched

        def record(transfer: Transfer) -> None:
            self.fetched = fetched_before + transfer.fetched
            now = self._clock()
            self._speed.record(now, self.received)
            self._record_progress(now)

        transfer = await self._storage.transfer(
            stream.body, skip=skip, limit=limit, on_progress=record
        )
        if transfer is None:
            return await self._receive_chunks(stream, skip, limit)
        if transfer.exceeds_limit:
            raise self._too_large()
        if transfer.source_error is not None:
            raise transfer.source_error
        if self._storage.error is not None:
            return False
        if self._storage.buffer.bypassing:
            return await self._receive_chunks(stream, transfer.skip, limit)
        return True

    async def _receive_chunks(self, stream: BlobStreamLike, skip: int, limit: int) -> bool:
        """Receive through memory to the end; False when the disk takes no more."""
        async for chunk in stream:
            self.fetched += len(chunk)
            if skip:
                chunk, skip = chunk[skip:], max(0, skip - len(chunk))
            if self.received + len(chunk) > limit:
                raise self._too_large()
            if chunk:
                self._storage.buffer.add(chunk)
                now = self.last_progress = self._clock()
                self._speed.record(now, self.received)
                if self._waiting:
                    self._wake()
            if not await self._storage.buffer.wait_for_space():
                return False
        return True

    def _too_large(self) -> SourceAnswerInvalid:
        return SourceAnswerInvalid(
            f"The source sends more than the {self.size:,} bytes of {self.digest}.",
            "Nothing was cached. Pull again.",
        )

    def judge_pace(self, *, others_wait: bool) -> bool:
        """Judge the pace, and whether the fill is needed; True when it yields its turn.

        A client or a pull needs a fill. It yields its turn only where *others wait* for one.
        `Fills` calls it every `PACE_INTERVAL` seconds.
        """
        if self.ended or self._turn_timeout is None or self._interruption is not None:
            return False
        now = self._clock()
        if self.is_wanted:
            self._unwanted_since = None
        elif self._unwanted_since is None:
            self._unwanted_since = now
        elif now - self._unwanted_since >= MAX_UNWANTED_TIME:
            self.is_ending = True
            self._interrupt(
                FillUnwanted(
                    f"No client reads {self.digest} any more, and no pull waits for it.",
                    "Pull again to go on.",
                )
            )
            return False
        pace = self._pace
        if pace.turn_since is None:
            return False
        if self._storage.has_source_wait:
            pace.restart(now, self.fetched)
            return False
        pace.judge(now, self.fetched)
        if pace.is_crawling:
            self._interrupt(
                SourceBrokeOff(
                    f"{self.origin} sends {self.digest} at less than {rate(MIN_RATE)}, for "
                    f"{duration(pace.slow_for)} now: it was given up.",
                    "Pull again when the source is faster.",
                )
            )
            return False
        # Before the first byte the time-outs of the connection count: a source that is silent is
        # reported as that, and not asked again and again.
        has_begun = self.state is not FillState.WAITING
        yields_turn = others_wait and has_begun and pace.may_yield(now)
        if yields_turn:
            self._interrupt(
                _TurnYielded(
                    f"{self.digest} yields its turn at {self.origin} to others: it gets less than "
                    f"{rate(MIN_RATE)}."
                )
            )
        return yields_turn

    def _interrupt(self, why: EntrepotError) -> None:
        """Cancel what the fill waits for; `_fetch_in_turn` raises *why*."""
        if self._turn_timeout is not None and not self._turn_timeout.expired():
            self._interruption = why
            self._turn_timeout.reschedule(asyncio.get_running_loop().time())

    def _record_resumed(self) -> None:
        self.resumed_at = self.received
        self._record_progress(self._clock())

    def _record_progress(self, now: float) -> None:
        self.last_progress = now
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    def _end(self, state: FillState) -> None:
        self.state = state
        # Without reading the clock, or anything else that could fail.
        self._wake()

    def fail(self, error: EntrepotError) -> None:
        """End with *error*, unless the fill has failed already or was served whole."""
        if self.state is FillState.FAILED:
            return
        # The frames of its cause would keep answers and buffers for as long as a pull remembers it.
        error.__cause__ = error.__context__ = None
        self.error = error.with_traceback(None)
        if self.state is FillState.VERIFIED:
            # The clients have what they requested; only storing it failed.
            _log.error("%s was served but could not be stored: %s", self.digest, error.message)
            return
        self._end(FillState.FAILED)
