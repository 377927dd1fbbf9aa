"""All fills of an engine: begun once, joined by many, and watched for their pace."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import asynccontextmanager

from entrepot.cache.blob_source import BlobSource
from entrepot.cache.fetch_queue import FetchQueue
from entrepot.cache.fill import Fill, FillCancelled, FillState
from entrepot.cache.fill_buffer import StorageFailed
from entrepot.cache.pace import MAX_CRAWL_TIME, MIN_RATE
from entrepot.cache.transfer import TransferThreads
from entrepot.core.reference import Digest
from entrepot.formatting import counted, duration, rate
from entrepot.store.blobs import BlobStore
from entrepot.tasks import OwnedTasks, where_raised

PACE_INTERVAL = 5.0
"""Seconds between two checks of the pace of all fills."""

_log = logging.getLogger("entrepot.fill")


class Fills:
    """The fills of one engine, one for each digest, source and size.

    It owns their tasks. It is no `SingleFlight`, because a fill is joined while it streams: who may
    join depends on how far it is and on whose behalf its source was asked.

    *parallel_per_source* blobs are fetched from one login server at once.
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
        """Awaited with the digest, size and login server of each blob that is stored."""
        self.on_refusal = on_refusal
        """Called with the error when the disk begins to refuse blobs."""
        self._parallel_per_source = parallel_per_source
        self.refusal: OSError | None = None
        """The error with which the disk last refused a blob; None again as soon as one has been
        stored."""
        self._fills: dict[Digest, dict[tuple[str, int], Fill]] = {}
        """By digest, login server and stated size."""
        self._queues: dict[str, FetchQueue] = {}
        self._tasks: dict[Fill, asyncio.Task[None]] = {}
        self._owned = OwnedTasks()
        self._threads = TransferThreads()
        self._fetched_before = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Fills]:
        """Context in which fills can begin.

        At its end those under way are cancelled, and what they wrote is kept for the next engine.
        """
        try:
            async with self._owned:
                self._owned.start(self._watch_pace(), "checking the pace of fills")
                yield self
        finally:
            self._threads.close()

    async def _watch_pace(self) -> None:
        while True:
            await asyncio.sleep(PACE_INTERVAL)
            self.check_pace()

    def check_pace(self) -> None:
        """Judge the pace of all fills once.

        Those that are too slow yield as many turns as other fills wait for.
        """
        waiting = {origin: queue.waiting for origin, queue in self._queues.items()}
        for fill in list(self._tasks):
            try:
                if fill.judge_pace(others_wait=waiting[fill.origin] > 0):
                    waiting[fill.origin] -= 1
            except Exception as error:
                _log.error("The pace of %s can't be judged: %s", fill.digest, where_raised(error))

    def get(self, digest: Digest, provenance: str, size: int) -> Fill | None:
        """The fill of a digest from this source and of this size, if it can be joined."""
        fill = self._fills.get(digest, {}).get((provenance, size))
        return fill if fill is not None and fill.can_be_joined else None

    def of_source(self, digest: Digest, provenance: str, size: int | None) -> Fill | None:
        """The same; where no *size* is known, the one of any size that began first."""
        if size is not None:
            return self.get(digest, provenance, size)
        fills = self._fills.get(digest, {}).items()
        return next(
            (
                fill
                for (its_provenance, _), fill in fills
                if its_provenance == provenance and fill.can_be_joined
            ),
            None,
        )

    def any(self, digest: Digest) -> Fill | None:
        """The fill of a digest that began first, from any source, if one can be joined."""
        return next(
            (fill for fill in self._fills.get(digest, {}).values() if fill.can_be_joined), None
        )

    def is_under_way(self, digest: Digest) -> bool:
        """Whether a fill of a digest is under way, from any source."""
        return any(
            fill.state is not FillState.FAILED for fill in self._fills.get(digest, {}).values()
        )

    @property
    def under_way(self) -> Collection[Fill]:
        """The fills under way."""
        return self._tasks.keys()

    @property
    def fetched(self) -> int:
        """Bytes that sources have sent for all fills so far."""
        return self._fetched_before + sum(fill.fetched for fill in self._tasks)

    @property
    def speed(self) -> float:
        """Bytes per second from all sources together."""
        return sum(fill.speed for fill in self._tasks)

    def notices(self) -> Iterator[str]:
        """What an administrator should know while sources are too slow: a sentence for each."""
        slow_fills: dict[str, list[Fill]] = {}
        for fill in self._tasks:
            if fill.is_too_slow:
                slow_fills.setdefault(fill.origin, []).append(fill)
        for origin, fills in sorted(slow_fills.items()):
            what = "A blob" if len(fills) == 1 else counted(len(fills), "blob")
            comes = "comes" if len(fills) == 1 else "come"
            yield (
                f"{what} from {origin} {comes} in at less than {rate(MIN_RATE)} "
                f"({fills[0].digest}): the source is too slow. Other blobs have the turn "
                f"meanwhile, and after {duration(MAX_CRAWL_TIME)} it is given up."
            )

    async def join(
        self,
        digest: Digest,
        size: int,
        source: BlobSource,
        *,
        origin: str,
        provenance: str | None = None,
        repository: str = "",
    ) -> Fill:
        """Join or begin the fill of a digest from the login server *origin*.

        Only those who may be served bytes of the same *provenance* share a fill
        (`entrepot.cache.fill.Fill.provenance`).

        The fill under way is joined if it is for the same size; else a new one reads from *source*.
        It waits while too many fills of that source exist. *repository* names the one at the source
        that the blob is requested of: turns at the source go round by it. Raises `TooManyFills`,
        and `StorageFailed` when the engine is stopping.
        """
        provenance = provenance or origin
        queue = self._queues.get(origin)
        if queue is None:
            queue = self._queues[origin] = FetchQueue(self._parallel_per_source)
        while True:
            fill = self._fills.get(digest, {}).get((provenance, size))
            if fill is not None and (fill.state is FillState.FAILED or fill.is_ending):
                await fill.finished.wait()
            elif fill is not None and fill.can_be_joined:
                queue.add_repository(fill.turn_request, repository)
                # Another repository may name a blob that it does not have: the refusal that it gets
                # is none for this one.
                if fill.source == source or await fill.is_granted():
                    return fill
            else:
                await queue.enter(repository)
                try:
                    if self.get(digest, provenance, size) is None:
                        return self._begin(
                            digest, size, source, origin, provenance, repository, queue
                        )
                except BaseException:
                    queue.leave(repository)
                    raise
                # Another request has begun the fill meanwhile.
                queue.leave(repository)

    def _begin(
        self,
        digest: Digest,
        size: int,
        source: BlobSource,
        origin: str,
        provenance: str,
        repository: str,
        queue: FetchQueue,
    ) -> Fill:
        if not self._owned.open:
            raise StorageFailed("The engine is stopping.", "Pull again when it runs.")
        fill = Fill(
            digest,
            size,
            source,
            self._store,
            origin=origin,
            provenance=provenance,
            repository=repository,
            queue=queue,
            threads=self._threads,
            clock=self._clock,
            disk_refused=self._disk_refused,
        )
        self._fills.setdefault(digest, {})[provenance, size] = fill
        task = self._tasks[fill] = self._owned.start(self._run(fill), f"fill {digest}")
        # Not at the end of _run: a task that is cancelled before its first step never gets there.
        task.add_done_callback(lambda _: self._finish(fill, repository, queue))
        return fill

    def _disk_refused(self, error: OSError) -> None:
        is_first = self.refusal is None
        self.refusal = error
        if is_first:
            self.on_refusal(error)

    async def _run(self, fill: Fill) -> None:
        await fill.run(pause=self._pause, is_stopping=lambda: not self._owned.open)
        if fill.error is not None or not fill.is_stored:
            return
        self.refusal = None
        try:
            if self.on_stored is not None:
                await self.on_stored(fill.digest, fill.size, fill.provenance)
        except Exception as error:
            # The blob is still stored, and its missing row is added at the next start; the
            # other fills must not suffer.
            _log.error(
                "%s is cached, but could not be written to the catalog: %s",
                fill.digest,
                where_raised(error),
            )
            _log.debug("%s", fill.digest, exc_info=error)

    def _finish(self, fill: Fill, repository: str, queue: FetchQueue) -> None:
        """End a fill whose task has ended, in whatever way, for all that wait for it."""
        if not fill.ended:
            fill.fail(
                FillCancelled(
                    f"The pull that wanted {fill.digest} was cancelled.", "Pull again to go on."
                )
            )
        fill.finished.set()
        queue.leave(repository)
        self._fetched_before += fill.fetched
        del self._tasks[fill]
        of_digest = self._fills[fill.digest]
        if of_digest.get((fill.provenance, fill.stated_size)) is fill:
            del of_digest[fill.provenance, fill.stated_size]
            if not of_digest:
                del self._fills[fill.digest]

    def cancel(self, fill: Fill) -> None:
        """Cancel a fill that no pull needs any more.

        A blob that is complete is still stored.
        """
        task = self._tasks.get(fill)
        if task is not None and not fill.ended:
            fill.is_ending = True
            task.cancel()
