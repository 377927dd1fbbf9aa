"""One blob on its way in, for everyone who wants it.

However many clients and pulls ask for a blob that is not held, one `Fill` fetches it with one
upstream request. Each of them reads from the growing file at its own pace; nobody's slowness or
departure touches the fill. When the source breaks off, the fill asks it again from the byte
reached. The last bytes are withheld until the digest is right, so that no client can ever finish a
wrong blob.

Each source registry has fills of its own, also for a digest that another one sends at the same
time: a source that is slow, or sends something else, reaches only those who pull through it. So
many fills of a source have their turn at once, and one that crawls gives its turn to others: see
`entrepot.cache.fetch_queue`.

How large a blob is says what came with the right digest (F82). A manifest may state another size:
the fill takes on the size that the source states when it begins to send, and the digest decides. So
a reader names the size for which it began.

What has come when a fill must end, because the source stays away or the engine stops, is left over
for the next one. When the disk takes no more, the clients are fed from memory and nothing is kept:
see `entrepot.cache.fill_buffer`.
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

from entrepot.cache.fetch_queue import FetchQueue
from entrepot.cache.fill_buffer import BYPASS_BUFFER, FillBuffer, Readers, StorageFailed
from entrepot.core.reference import Digest
from entrepot.errors import EntrepotError
from entrepot.formatting import counted, duration, rate
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
from entrepot.store.blobs import PART_SIZE, READ_SIZE, BlobStore, FilePart, NotWritten, PartialBlob
from entrepot.tasks import OwnedTasks, where_raised

TAIL = 64 * 1024
"""Bytes at the end of a blob that no client gets before the digest is right (the whole blob, when
it is shorter)."""

EXCESS = TAIL
"""Bytes beyond the size of its manifest that are taken of a blob whose source states no size: the
digest decides at the end."""

ATTEMPTS_WITHOUT_PROGRESS = 5
"""How often a source is asked again without a single new byte before the fill fails."""

SPEED_WINDOW = 5.0
"""Seconds over which the speed of a fill is measured."""

SAMPLE_INTERVAL = 0.25
"""Seconds between two measurements of it, at least."""

MIN_RATE = 1000.0
"""Bytes per second, over `RATE_WINDOW`, that a source has to send. A fill that gets less gives its
turn to others who wait for one."""

RATE_WINDOW = 60.0
"""Seconds over which it is judged whether a fill crawls. Longer than the read time-out: a source
that falls silent ends otherwise."""

MAX_CRAWL_TIME = 600.0
"""Seconds, spent in turns at the source and without one `RATE_WINDOW` that was fast enough, after
which a fill fails."""

MAX_UNWANTED_TIME = 60.0
"""Seconds for which a fill goes on that no client reads and no pull waits for. What has come of it
is left over for the next one."""

PACE_INTERVAL = 5.0
"""Seconds between two looks at the pace of all fills."""

_log = logging.getLogger("entrepot.fill")


class BlobSource(Protocol):
    """What a fill reads from: a repository of a source registry. Two that are equal give the same
    answers."""

    def __call__(
        self, *, offset: int, validator: str | None
    ) -> AbstractAsyncContextManager[BlobStreamLike]:
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


class FillUnwanted(FillCancelled):
    """Every client that read the blob has left, and no pull waits for it."""


class FillFailed(EntrepotError):
    """A fill failed in a way that the engine did not foresee."""

    code = "FillFailed"
    status = oci_status = 503


_OF_THE_ASKER = (SourceNotFound, SourceRefused, SourceRateLimited)
"""Failures that speak of the repository and the credentials with which the source was asked:
through others it may have the blob."""

_CONTINUABLE = (
    SourceBrokeOff,
    SourceUnreachable,
    SourceFailed,
    SourceRateLimited,
    SourceRefused,
    FillUnwanted,
)
"""Failures after which what has come is still right, and worth continuing when the source is well
again."""


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


class _TurnGivenAway(EntrepotError):
    """Others wait for a turn at a source that sends this blob too slowly."""


class _Pace:
    """How fast a fill comes along: *fetched* bytes were there *since* a moment, which the time that
    is not the source's moves on.

    *crawled* are the seconds since it was last fast enough.
    """

    __slots__ = ("crawled", "fetched", "since", "turn_since")

    def __init__(self, now: float) -> None:
        self.since = now
        self.fetched = 0
        self.crawled = 0.0
        self.turn_since: float | None = None
        """Since when the fill has its turn, if it has it."""

    def restart(self, now: float, fetched: int) -> None:
        """Judge from here on."""
        self.since = now
        self.fetched = fetched


class Fill:
    """One blob on its way in. `Fills` makes and owns them."""

    def __init__(
        self,
        digest: Digest,
        size: int,
        source: BlobSource,
        store: BlobStore,
        *,
        origin: str,
        turns: FetchQueue,
        clock: Callable[[], float],
        disk_refused: Callable[[OSError], None] = lambda _: None,
    ) -> None:
        self.digest = digest
        self.size = size
        """In bytes: what the manifest states, then what the source states, and at last what came."""
        self.stated_size = size
        """The size with which it began."""
        self.origin = origin
        """The login server of the source."""
        self.state = FillState.WAITING
        self.error: EntrepotError | None = None
        self.resumed_at: int | None = None
        self.moved = clock()
        """When it last made a step."""
        self.fetched = 0
        """Bytes that the source sent, those that had to be sent twice included."""
        self.served = 0
        """Bytes that went to clients."""
        self.finished = asyncio.Event()
        """The fill is over: the blob is held, or *error* says why not."""
        self.source = source
        self._store = store
        self._turns = turns
        self._clock = clock
        self._disk_refused = disk_refused
        self._partial: PartialBlob | None = None
        """None before the first turn: a fill that waits for it costs no file descriptor."""
        self._holds_part = False
        self._readers = Readers()
        self._window = FillBuffer(self._readers, clock=clock)
        self._samples: deque[_Sample] = deque(maxlen=int(SPEED_WINDOW / SAMPLE_INTERVAL) + 2)
        self._next_sample = self.moved
        self._waiting: set[asyncio.Future[None]] = set()
        self._awaited = 0
        self._validator: str | None = None
        """The entity tag to resume with."""
        self._is_read = False
        """Whether a client got some of it: then it can not begin again from another first byte."""
        self.is_ending = False
        """Whether it is about to end without the blob: who comes now has to wait for the next fill."""
        self._patience: asyncio.Timeout | None = None
        self._interruption: EntrepotError | None = None
        self._pace = _Pace(self.moved)
        self._unwanted_since: float | None = None

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
        return self.state is not FillState.FAILED and not self.is_ending and self._window.is_whole

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
    def is_stored(self) -> bool:
        """Whether the whole blob is right and on the disk under its name: not so on a full disk,
        where it was only passed on."""
        return self._partial is not None and self._partial.is_committed

    @property
    def is_wanted(self) -> bool:
        """Whether a client reads it or waits for it, or a pull does."""
        return self._awaited > 0 or len(self._readers) > 0

    @property
    def crawls(self) -> bool:
        """Whether the source sent less than `MIN_RATE` when that was last judged."""
        return not self.ended and self._pace.crawled > 0

    @property
    def speed(self) -> float:
        """Bytes per second from the source, over the last `SPEED_WINDOW` seconds."""
        now = self._clock()
        while self._samples and now - self._samples[0].time > SPEED_WINDOW:
            self._samples.popleft()
        if self.ended or not self._samples:
            return 0.0
        first = self._samples[0]
        return (self.received - first.received) / max(now - first.time, SAMPLE_INTERVAL)

    async def wait_beyond(self, offset: int) -> None:
        """Wait until clients may have the byte at *offset*; raises the error with which the fill
        failed."""
        while self.available <= offset and not self.ended:
            await self._next_step()
        if self.available <= offset and self.error is not None:
            # Without the traceback of those who were told before: it grew with each of them.
            raise self.error.with_traceback(None)

    async def _next_step(self) -> None:
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.add(waiting)
        self._awaited += 1
        try:
            await waiting
        finally:
            # A client that left is forgotten at once.
            self._awaited -= 1
            self._waiting.discard(waiting)

    async def is_granted(self) -> bool:
        """Wait until the source begins to send; False when it does not give the blob to this
        repository and credential set, but might to another."""
        while self.state is FillState.WAITING:
            await self._next_step()
        return not isinstance(self.error, _OF_THE_ASKER)

    async def wait(self) -> None:
        """Wait until the blob is held; raises the error with which the fill failed."""
        self._awaited += 1
        try:
            await self.finished.wait()
        finally:
            self._awaited -= 1
        if self.error is not None:
            raise self.error.with_traceback(None)
        if not self.is_stored:
            raise FillFailed(f"The blob {self.digest} was not kept.", "Pull again.")

    async def read(
        self, start: int, end: int, size: int | None = None
    ) -> AsyncIterator[bytes | FilePart]:
        """The bytes *start* (inclusive) to *end* (exclusive) as they come: from memory, or as parts
        of the file that they have been written to.

        *size* is that of the blob as the reader knows it. Raises the error with which the fill
        failed, and `SourceAnswerInvalid` when the blob has another size: what was read must not
        look whole then.
        """
        size = self.size if size is None else size
        if start >= end:
            return
        await self.wait_beyond(start)
        self._is_read = True
        with self._readers.reading(start) as reader, self._reading(start) as partial:
            while start < end:
                await self.wait_beyond(start)
                if self.size != size:
                    raise SourceAnswerInvalid(
                        f"{self.digest} has {self.size:,} bytes; its manifest says {size:,}.",
                        "Pull again: its size is known now.",
                    )
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
            raise StorageFailed(
                "The disk is full, and this transfer was too slow to be fed from memory.",
                "Pull again; free space in the data directory.",
            )
        count = min(wanted, partial.written - start, READ_SIZE)
        return FilePart(partial, start, count), count

    @contextmanager
    def _reading(self, start: int) -> Iterator[PartialBlob]:
        # There is something to be read, thus there was a turn.
        assert self._partial is not None
        if self._window.passes_on and start >= self._window.start and not self._partial.is_open:
            # The file is gone, and everything that is left is in memory.
            yield self._partial
            return
        try:
            with self._partial.reading() as partial:
                yield partial
        except FileNotFoundError:
            raise StorageFailed(f"The blob {self.digest} was not kept.", "Pull again.") from None

    async def run(
        self, *, pause: Callable[[float], Awaitable[None]], is_stopping: Callable[[], bool]
    ) -> None:
        """Fetch, verify and commit the blob. It ends in every case in VERIFIED or FAILED, whatever
        is raised in it: how stands in *state* and *error*.

        Raises nothing but a cancellation, and what ends the whole process. A cancellation because
        the engine *is stopping* leaves what has come to the next engine.
        """
        leaves_part = False
        try:
            await self._fetch_right(pause)
            # Whoever waits for the last bytes gets them now; that they are also safe on the disk is
            # the next step.
            self._end(FillState.VERIFIED)
            if self._partial is not None and not self._window.passes_on:
                await self._store.commit(self._partial)
        except asyncio.CancelledError:
            leaves_part = is_stopping()
            if not self.is_stored:
                self.fail(
                    FillCancelled(
                        f"The pull that wanted {self.digest} was cancelled.", "Pull again to go on."
                    )
                )
            raise
        except OSError as error:
            self._disk_refused(error)
            self.fail(await self._not_kept(error))
        except EntrepotError as error:
            leaves_part = isinstance(error, _CONTINUABLE)
            self.fail(error)
        except BaseException as error:
            _log.error(
                "The fill of %s failed in an unforeseen way: %s", self.digest, where_raised(error)
            )
            _log.debug("The fill of %s", self.digest, exc_info=error)
            self.fail(
                FillFailed(
                    f"The fill of {self.digest} failed for a reason that the engine did not foresee: {where_raised(error)}.",
                    "Pull again.",
                )
            )
            if not isinstance(error, Exception):
                raise
        finally:
            await self._leave_part(leaves_part)

    async def _not_kept(self, error: OSError) -> StorageFailed:
        cause = await self._store.cause(error)
        failed = StorageFailed(
            f"The blob {self.digest} can't be kept: {error.strerror or error}. {cause.what}",
            cause.hint,
        )
        failed.cause = cause.code
        return failed

    async def _leave_part(self, for_the_next: bool) -> None:
        """Let go of the file: one that has not become the blob is left over *for the next* fill, or
        removed."""
        partial = self._partial
        if partial is None:
            return
        try:
            if not partial.is_committed and partial.is_linked:
                await (
                    self._store.keep_for_resume
                    if for_the_next and not self._window.passes_on
                    else self._store.discard
                )(partial)
        except Exception as error:
            _log.warning(
                "What has come of %s could not be removed: %s", self.digest, where_raised(error)
            )
        finally:
            self._let_go_of_part()

    def _let_go_of_part(self) -> None:
        if self._holds_part and self._partial is not None:
            self._holds_part = False
            self._partial.release()

    async def _fetch_right(self, pause: Callable[[float], Awaitable[None]]) -> None:
        """Fetch the blob, and see that its digest is right. What an earlier fill left over may be
        wrong: then it is fetched from its first byte on."""
        try:
            await self._fetch_and_verify(pause)
        except SourceAnswerInvalid as error:
            partial = self._partial
            # What was left over, or the first reading of bytes that were compressed on the way
            # (F85).
            is_repeatable = partial is not None and (
                partial.resumable_size or isinstance(error, SourceMisread)
            )
            if partial is None or not is_repeatable or self._is_read or self._window.passes_on:
                raise
            # Nobody has got any of it yet.
            _log.warning(
                "What came of %s from %s is wrong and is fetched again: %s",
                self.digest,
                self.origin,
                error.what,
            )
            await self._store.discard(partial)
            self._let_go_of_part()
            self._partial = None
            self._window = FillBuffer(self._readers, clock=self._clock)
            self._samples.clear()
            self._validator = self.resumed_at = None
            self.state = FillState.WAITING
            await self._fetch_and_verify(pause)

    async def _fetch_and_verify(self, pause: Callable[[float], Awaitable[None]]) -> None:
        # While one piece is hashed and written in a thread, the next is read.
        keeping = asyncio.create_task(self._keep_all())
        try:
            await self._fetch_all(pause, keeping)
        except asyncio.CancelledError:
            keeping.cancel()
            raise
        finally:
            # Also when the source breaks off: what was received is kept in order. Not before,
            # because no thread may write behind our back.
            self._window.close()
            await keeping
        if (
            self._partial is None
            or self.received != self.size
            or not self._partial.digest_matches()
        ):
            raise SourceAnswerInvalid(
                f"The source sent wrong bytes for {self.digest}: their digest is another.",
                "Nothing was kept. Pull again; if it happens again, something between here and the source changes what passes.",
            )

    async def _fetch_all(
        self, pause: Callable[[float], Awaitable[None]], keeping: asyncio.Task[None]
    ) -> None:
        failures = 0
        while True:
            before = self.received
            try:
                await self._fetch_in_turn()
                if self.received == self.size:
                    return
                # The disk took no more: what kept it from that is the reason why this fill ends.
                await keeping
            except _TurnGivenAway as error:
                _log.info("%s", error.what)
                wait = 0.0
            except (SourceBrokeOff, SourceUnreachable, SourceFailed) as error:
                failures = 0 if self.received > before else failures + 1
                # Nothing came yet, and the source client has tried several times: more tries here
                # would only make the clients wait for the same answer.
                if self.received == 0 and not isinstance(error, SourceBrokeOff):
                    raise
                if failures >= ATTEMPTS_WITHOUT_PROGRESS or self._pace.crawled >= MAX_CRAWL_TIME:
                    raise
                _log.info(
                    "%s broke off at byte %d of %d: %s",
                    self.digest,
                    self.received,
                    self.size,
                    error.what,
                )
                wait = random.uniform(0.5, 1.0) * 0.2 * 2**failures
            # A fill that waits costs no file descriptor. How long our disk takes is not the
            # source's fault.
            settles_since = self._clock()
            await self._window.settled()
            self._pace.since += self._clock() - settles_since
            if keeping.done():
                await keeping
            if self._partial is not None and self._partial.is_linked:
                # One that has no name any more, or never had one, could not be opened again.
                self._let_go_of_part()
            if wait:
                await pause(wait)
            self.moved = self._clock()
            self.resumed_at = self.received

    async def _fetch_in_turn(self) -> None:
        """Wait for a turn at the source and read from it, to the end of the blob or until the disk
        takes no more.

        Raises `_TurnGivenAway`, an error of the source, or `FillUnwanted`.
        """
        self.state = FillState.WAITING
        waits_since = self._clock()
        pace = self._pace
        try:
            async with asyncio.timeout(None) as self._patience, self._turns.turn():
                await self._take_part()
                # Neither other fills nor our disk are the source's fault.
                now = self._clock()
                pace.since += now - waits_since
                # A blob that came whole lacks only its last step.
                if not self.received == self.size > 0:
                    pace.turn_since = now
                    await self._read_source()
        except (TimeoutError, EntrepotError):
            if self._interruption is None:
                raise
            raise self._interruption from None
        finally:
            pace.turn_since = None
            self._patience = self._interruption = None
        self.is_ending = False

    async def _take_part(self) -> None:
        """Open the file, and hash what an earlier fill has left of it. Where the disk takes no new
        file, the blob is passed on from memory."""
        if self._partial is not None:
            if not self._holds_part and not self._window.passes_on:
                self._partial.acquire()
                self._holds_part = True
            return
        try:
            partial = await self._store.begin(self.digest, self.size, self.origin)
        except OSError as error:
            partial = PartialBlob.without_file(self.digest)
            self._window.pass_on(b"")
            self.error = await self._not_kept(error)
            self._disk_refused(error)
        self._partial = partial
        self._holds_part = True
        while partial.resumable_size and await self._store.hash_resumable(partial):
            self._window.skip_to(partial.written)
            self.resumed_at = self.received
            self._announce(self._clock())

    async def _read_source(self) -> None:
        try:
            async with self.source(offset=self.received, validator=self._validator) as stream:
                self._validator = stream.validator or self._validator
                await self._take(stream)
        except EntrepotError:
            raise
        except OSError as error:
            raise SourceBrokeOff(
                f"The connection to {self.origin} failed: {error.strerror or type(error).__name__}.",
                "Try again.",
            ) from error
        except Exception as error:
            # Ports, host names, numbers and nested documents that no parser takes: whatever a
            # source can provoke is the source's failure.
            _log.warning(
                "%s answers for %s with what Entrepot can't read: %s",
                self.origin,
                self.digest,
                where_raised(error),
            )
            _log.debug("%s", self.digest, exc_info=error)
            raise SourceAnswerInvalid(
                f"{self.origin} answers for {self.digest} with something that Entrepot can't read ({where_raised(error)}).",
                "Nothing was kept. Pull again; if it happens again, the fault is at the source.",
            ) from error

    async def _take(self, stream: BlobStreamLike) -> None:
        if stream.size is not None and stream.size != self.size:
            if stream.size == self.received and await self._is_right():
                self.size = self.received
                return
            if self._is_read or self._window.end:
                raise SourceAnswerInvalid(
                    f"The source says that {self.digest} has {stream.size:,} bytes; before that it was {self.size:,}.",
                    "Nothing was kept. Pull again; if it happens again, the image is broken at its source.",
                )
            _log.info(
                "%s says that %s has %d bytes; its manifest says %d. The digest decides.",
                self.origin,
                self.digest,
                stream.size,
                self.size,
            )
            self.size = stream.size
        # A source that ignores Range begins anew: what is here already is skipped, and the digest
        # at the end tells whether it was the same.
        skip = self.received - stream.offset
        if skip < 0:
            raise SourceAnswerInvalid(
                f"The source sent byte {stream.offset} of {self.digest} when byte {self.received} was asked for.",
                "Pull again.",
            )
        self.state = FillState.RESUMED if self.received else FillState.RUNNING
        self._announce(self._clock())
        async for chunk in stream:
            self.fetched += len(chunk)
            if skip:
                chunk, skip = chunk[skip:], max(0, skip - len(chunk))
            # Without a Content-Length only the end tells whether the manifest is a little wrong.
            if self.received + len(chunk) > self.size + (EXCESS if stream.size is None else 0):
                raise SourceAnswerInvalid(
                    f"The source sends more than the {self.size:,} bytes of {self.digest}.",
                    "Nothing was kept. Pull again.",
                )
            if chunk:
                self._window.add(chunk)
                now = self.moved = self._clock()
                if now >= self._next_sample:
                    self._next_sample = now + SAMPLE_INTERVAL
                    self._samples.append(_Sample(now, self.received))
                if self._waiting:
                    self._wake()
            if not await self._window.room():
                return
        if self.received != self.size and await self._is_right():
            # Whoever was told another size finds out: see `read`.
            self.size = self.received
        if self.received > self.size:
            raise SourceAnswerInvalid(
                f"The source sends more than the {self.size:,} bytes of {self.digest}.",
                "Nothing was kept. Pull again.",
            )
        if self.received < self.size:
            raise SourceBrokeOff(
                f"The source ended {self.digest} after {self.received:,} of {self.size:,} bytes.",
                "Pull again.",
            )

    async def _is_right(self) -> bool:
        """Whether what has come has the right digest."""
        await self._window.settled()
        return (
            self._partial is not None
            and self._window.taken == self.received
            and self._partial.digest_matches()
        )

    def judge_pace(self, *, others_wait: bool) -> bool:
        """Judge the fill's pace, and whether anybody waits for it. Whether it gives its turn away,
        which it does only where *others wait* for one.

        `Fills` calls it every `PACE_INTERVAL` seconds.
        """
        if self.ended or self._patience is None or self._interruption is not None:
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
        if self._window.is_full:
            # The source waits for our disk, or for clients.
            pace.restart(now, self.fetched)
            return False
        seconds = now - pace.since
        if seconds >= RATE_WINDOW:
            # An engine that was stopped for a while (SIGSTOP) must not blame that on its sources.
            pace.crawled = (
                0.0
                if (self.fetched - pace.fetched) / seconds >= MIN_RATE
                else pace.crawled + min(seconds, 2 * RATE_WINDOW)
            )
            pace.restart(now, self.fetched)
        if pace.crawled >= MAX_CRAWL_TIME:
            self._interrupt(
                SourceBrokeOff(
                    f"{self.origin} sends {self.digest} at less than {rate(MIN_RATE)}, for {duration(pace.crawled)} now: it was given up.",
                    "Pull again when the source is faster.",
                )
            )
            return False
        # Before the first byte the time-outs of the connection count: a source that is silent is
        # told as that, and not asked again and again.
        has_begun = self.state is not FillState.WAITING
        gives_turn = (
            others_wait and has_begun and pace.crawled > 0 and now - pace.turn_since >= RATE_WINDOW
        )
        if gives_turn:
            self._interrupt(
                _TurnGivenAway(
                    f"{self.digest} gives its turn at {self.origin} to others: it gets less than {rate(MIN_RATE)}."
                )
            )
        return gives_turn

    def _interrupt(self, why: EntrepotError) -> None:
        """End what the fill waits for; `_fetch_in_turn` raises *why*."""
        if self._patience is not None and not self._patience.expired():
            self._interruption = why
            self._patience.reschedule(asyncio.get_running_loop().time())

    async def _keep_all(self) -> None:
        try:
            while pieces := await self._window.more():
                await self._keep(pieces)
        finally:
            self._window.stop()

    async def _keep(self, pieces: Sequence[bytes]) -> None:
        """Write what has come to the disk; where the disk has refused, only hash it and wait until
        it is passed on."""
        partial = self._partial
        assert partial is not None
        if self._window.passes_on:
            await self._store.hash(partial, pieces)
        else:
            try:
                await self._store.append(partial, pieces)
            except NotWritten as error:
                # Whoever is being fed still gets everything: first what is in the file, and then
                # what passes through memory.
                start = self._window.start
                # A small file is not worth a difference.
                self._window.pass_on(
                    await self._store.read_partial(partial, 0, start)
                    if start <= BYPASS_BUFFER
                    else b""
                )
                self.error = await self._not_kept(error)
                self._disk_refused(error)
                await self._store.discard(partial)
        self._window.take(sum(map(len, pieces)))
        if self._window.passes_on:
            await self._window.passed_on()

    def _announce(self, now: float) -> None:
        self.moved = now
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for each in waiting:
            if not each.done():
                each.set_result(None)

    def _end(self, state: FillState) -> None:
        self.state = state
        # Without a look at the clock or anything else that could fail.
        self._wake()

    def fail(self, error: EntrepotError) -> None:
        """End with *error*; a fill that has failed already, or was served whole, does not fail once
        more."""
        if self.state is FillState.FAILED:
            return
        # The frames of its cause would keep answers and buffers for as long as a pull remembers it.
        error.__cause__ = error.__context__ = None
        self.error = error.with_traceback(None)
        if self.state is FillState.VERIFIED:
            # The clients have what they asked for; only keeping it failed.
            _log.error("%s was served but could not be kept: %s", self.digest, error.message)
            return
        self._end(FillState.FAILED)


class Fills:
    """All fills of an engine, one for each digest, source and size. It owns their tasks.

    *parallel_per_source* blobs come from one login server at once.
    """

    def __init__(
        self,
        store: BlobStore,
        *,
        clock: Callable[[], float],
        on_stored: Callable[[Digest, int, str], Awaitable[None]] | None = None,
        on_refusal: Callable[[OSError], None] = lambda _: None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        parallel_per_source: int = 6,
    ) -> None:
        self._store = store
        self._clock = clock
        self._pause = pause
        self.on_stored = on_stored
        """Told the digest, size and login server of each blob that is held now."""
        self.on_refusal = on_refusal
        """Told what the disk says when it begins to refuse blobs."""
        self._parallel_per_source = parallel_per_source
        self.refusal: OSError | None = None
        """What the disk said when it last refused to take a blob; None again as soon as one has
        been kept."""
        self._fills: dict[Digest, dict[tuple[str, int], Fill]] = {}
        self._turns: dict[str, FetchQueue] = {}
        self._tasks: dict[Fill, asyncio.Task[None]] = {}
        self._owned = OwnedTasks()
        self._fetched_before = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Fills]:
        """Within it fills can begin; at its end those under way are cancelled and what they wrote
        is left over for the next engine."""
        async with self._owned:
            self._owned.start(self._watch_pace(), "looking at the pace of fills")
            yield self

    async def _watch_pace(self) -> None:
        while True:
            await asyncio.sleep(PACE_INTERVAL)
            self.check_pace()

    def check_pace(self) -> None:
        """Look at the pace of all fills once. Those that crawl give as many turns away as others
        wait for."""
        waiting = {origin: turns.waiting for origin, turns in self._turns.items()}
        for fill in list(self._tasks):
            try:
                if fill.judge_pace(others_wait=waiting[fill.origin] > 0):
                    waiting[fill.origin] -= 1
            except Exception as error:
                _log.error("The pace of %s can't be judged: %s", fill.digest, where_raised(error))

    def get(self, digest: Digest, origin: str, size: int) -> Fill | None:
        """The fill of a digest from this source and of this size, if somebody who comes now can
        have the whole blob of it."""
        fill = self._fills.get(digest, {}).get((origin, size))
        return fill if fill is not None and fill.can_be_joined else None

    def of_source(self, digest: Digest, origin: str, size: int | None) -> Fill | None:
        """The same; where no *size* is known, the one of any size that began first."""
        if size is not None:
            return self.get(digest, origin, size)
        fills = self._fills.get(digest, {}).items()
        return next(
            (
                fill
                for (login_server, _), fill in fills
                if login_server == origin and fill.can_be_joined
            ),
            None,
        )

    def any(self, digest: Digest) -> Fill | None:
        """A fill of a digest, from whatever source, that somebody could join; the one that began
        first."""
        return next(
            (fill for fill in self._fills.get(digest, {}).values() if fill.can_be_joined), None
        )

    def is_under_way(self, digest: Digest) -> bool:
        """Whether a blob comes in, from whatever source."""
        return any(
            fill.state is not FillState.FAILED for fill in self._fills.get(digest, {}).values()
        )

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

    def notices(self) -> Iterator[str]:
        """What to tell for as long as blobs crawl in: one sentence for each source."""
        crawling: dict[str, list[Fill]] = {}
        for fill in self._tasks:
            if fill.crawls:
                crawling.setdefault(fill.origin, []).append(fill)
        for origin, fills in sorted(crawling.items()):
            what = "A blob" if len(fills) == 1 else counted(len(fills), "blob")
            comes = "comes" if len(fills) == 1 else "come"
            yield (
                f"{what} from {origin} {comes} in at less than {rate(MIN_RATE)} ({fills[0].digest}): the source is too slow. "
                f"Other blobs have the turn meanwhile, and after {duration(MAX_CRAWL_TIME)} it is given up."
            )

    async def join(self, digest: Digest, size: int, source: BlobSource, *, origin: str) -> Fill:
        """The fill of a digest from the login server *origin*: the one under way if it is for the
        same size, or a new one that reads from *source*.

        It waits while too many fills of that source are under way. Raises `TooManyFills`, and
        `StorageFailed` when the engine is stopping.
        """
        turns = self._turns.get(origin)
        if turns is None:
            turns = self._turns[origin] = FetchQueue(self._parallel_per_source)
        while True:
            fill = self._fills.get(digest, {}).get((origin, size))
            if fill is not None and (fill.state is FillState.FAILED or fill.is_ending):
                # It is being cleared away.
                await fill.finished.wait()
            elif fill is not None and fill.can_be_joined:
                # Another repository may name a blob that it does not have: what it gets for an
                # answer is none for this one.
                if fill.source == source or await fill.is_granted():
                    return fill
            else:
                await turns.take_place()
                try:
                    if self.get(digest, origin, size) is None:
                        return self._begin(digest, size, source, origin, turns)
                except BaseException:
                    turns.leave_place()
                    raise
                # Somebody has begun it meanwhile.
                turns.leave_place()

    def _begin(
        self, digest: Digest, size: int, source: BlobSource, origin: str, turns: FetchQueue
    ) -> Fill:
        if not self._owned.open:
            raise StorageFailed("The engine is stopping.", "Pull again when it runs.")
        fill = Fill(
            digest,
            size,
            source,
            self._store,
            origin=origin,
            turns=turns,
            clock=self._clock,
            disk_refused=self._disk_refused,
        )
        self._fills.setdefault(digest, {})[origin, size] = fill
        task = self._tasks[fill] = self._owned.start(self._run(fill), f"fill {digest}")
        # Not at the end of _run: a task that is cancelled before its first step never gets there.
        task.add_done_callback(lambda _: self._over(fill, turns))
        return fill

    def _disk_refused(self, error: OSError) -> None:
        first = self.refusal is None
        self.refusal = error
        if first:
            self.on_refusal(error)

    async def _run(self, fill: Fill) -> None:
        await fill.run(pause=self._pause, is_stopping=lambda: not self._owned.open)
        if fill.error is not None or not fill.is_stored:
            return
        self.refusal = None
        try:
            if self.on_stored is not None:
                await self.on_stored(fill.digest, fill.size, fill.origin)
        except Exception as error:
            # The blob is held all the same, and its row in the catalog heals at the next start; the
            # other fills must not suffer.
            _log.error(
                "%s is held, but could not be written down: %s", fill.digest, where_raised(error)
            )
            _log.debug("%s", fill.digest, exc_info=error)

    def _over(self, fill: Fill, turns: FetchQueue) -> None:
        """A task has ended, in whatever way: so has its fill, for everybody who waits."""
        if not fill.ended:
            fill.fail(
                FillCancelled(
                    f"The pull that wanted {fill.digest} was cancelled.", "Pull again to go on."
                )
            )
        fill.finished.set()
        turns.leave_place()
        self._fetched_before += fill.fetched
        del self._tasks[fill]
        of_digest = self._fills[fill.digest]
        if of_digest.get((fill.origin, fill.stated_size)) is fill:
            del of_digest[fill.origin, fill.stated_size]
            if not of_digest:
                del self._fills[fill.digest]

    def cancel(self, fill: Fill) -> None:
        """Give up a fill that nobody wants any more. One that has come whole is kept all the same."""
        task = self._tasks.get(fill)
        if task is not None and not fill.ended:
            fill.is_ending = True
            task.cancel()
