"""The verification of all cached blobs.

Each blob is hashed, and one whose bytes are wrong is removed at once. It runs in the background at
a chosen speed, so that clients and other programs keep most of the disk. Only one runs at a time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from entrepot.api.models import VerificationSnapshot
from entrepot.cache.blob_copies import BlobCopies
from entrepot.core.reference import Digest
from entrepot.core.states import VerificationState
from entrepot.errors import EntrepotError, NotFound, Refusal
from entrepot.event_kinds import EventKind, Severity
from entrepot.events import EventLog
from entrepot.formatting import counted, duration, size
from entrepot.store.blobs import BlobStore
from entrepot.store.catalog import Catalog
from entrepot.tasks import OwnedTasks

DEFAULT_SPEED = 100_000_000
"""Bytes per second that are read unless another speed is asked for: half of a hard disk's."""

PAGE_SIZE = 500
"""Rows of blobs that are read from the catalog at a time."""

DIGESTS_IN_SNAPSHOT = 100
"""Digests of damaged blobs that a snapshot of the verification names."""

_log = logging.getLogger("entrepot.verification")


class VerificationUnderWay(Refusal):
    """A verification is running already."""

    code = "VerificationUnderWay"
    status = 409


class Verification:
    """The verification of one engine.

    *tasks* owns its work; *clock* is in seconds since the epoch; *monotonic* and *pause*, in
    seconds, keep the speed.
    """

    def __init__(
        self,
        *,
        catalog: Catalog,
        blobs: BlobStore,
        copies: BlobCopies,
        events: EventLog,
        tasks: OwnedTasks,
        clock: Callable[[], float],
        monotonic: Callable[[], float] = time.monotonic,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._catalog = catalog
        self._blobs = blobs
        self._copies = copies
        self._events = events
        self._tasks = tasks
        self._clock = clock
        self._monotonic = monotonic
        self._pause = pause
        self._run: _Run | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether blobs are being hashed now."""
        return self._task is not None and not self._task.done()

    def start(self, speed: int | None = DEFAULT_SPEED) -> VerificationSnapshot:
        """Start to hash all cached blobs, at most *speed* bytes per second.

        None: as fast as the disk is. Raises `VerificationUnderWay`.
        """
        if self.is_under_way:
            raise VerificationUnderWay(
                "A verification is running already.", "Wait until it ends, or cancel it."
            )
        run = self._run = _Run(self._clock(), speed, self._monotonic, self._pause)
        self._task = self._tasks.start(self._verify(run), "verifying the cached blobs")
        return run.snapshot()

    def snapshot(self) -> VerificationSnapshot:
        """The verification that is under way, or the last one of this engine.

        Raises `NotFound`.
        """
        if self._run is None:
            raise NotFound(
                "No verification has run since the engine started.",
                "Start one with: entrepot verify",
            )
        return self._run.snapshot()

    async def cancel(self) -> VerificationSnapshot:
        """Cancel the verification under way; one that has ended stays as it is.

        Raises `NotFound`.
        """
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._run is not None and not self._run.state.ended:
            # It was cancelled before its first step.
            self._run.state, self._run.ended = VerificationState.CANCELLED, self._clock()
        return self.snapshot()

    async def _verify(self, run: _Run) -> None:
        began = self._monotonic()
        try:
            run.total, run.total_size = (
                await self._catalog.blobs_count(),
                await self._catalog.blobs_size(),
            )
            last: Digest | None = None
            while page := await self._catalog.blobs_after(last, PAGE_SIZE):
                for digest, recorded_size in page:
                    await self._verify_blob(run, digest, recorded_size)
                    run.checked_size += recorded_size
                last = page[-1][0]
            run.state = VerificationState.COMPLETED
        except asyncio.CancelledError:
            run.state = VerificationState.CANCELLED
            raise
        except EntrepotError as error:
            run.state, run.error = VerificationState.FAILED, error.message
        except Exception:
            _log.exception("The verification failed in an unforeseen way")
            run.state, run.error = (
                VerificationState.FAILED,
                "It failed in an unforeseen way. The engine's log has the details.",
            )
        finally:
            run.ended = self._clock()
            severity = Severity.INFO if run.is_clean else Severity.ERROR
            self._events.record(
                EventKind.VERIFICATION_ENDED,
                _summary(run, self._monotonic() - began),
                severity=severity,
            )

    async def _verify_blob(self, run: _Run, digest: Digest, recorded_size: int) -> None:
        try:
            actual_size = self._blobs.stat_size(digest)
            if actual_size is None:
                await self._verify_absence(run, digest)
                return
            is_right = actual_size == recorded_size and await self._copies.check(
                digest, pace=run.pace
            )
            if not is_right:
                # A file of another size is removed by this check of its size.
                await self._copies.size(digest, None)
        except OSError as error:
            _log.warning("%s can't be verified: %s.", digest, error.strerror)
            run.unreadable += 1
            return
        if is_right:
            run.checked += 1
        elif self._copies.was_damaged(digest):
            run.checked += 1
            run.wrong.append(digest)

    async def _verify_absence(self, run: _Run, digest: Digest) -> None:
        """Count a missing file, unless its blob was evicted since its row was read."""
        if await self._catalog.blob(digest) is None or self._blobs.stat_size(digest) is not None:
            return
        run.missing += 1
        await self._copies.drop(digest)


class _Run:
    """One verification."""

    def __init__(
        self,
        started: float,
        speed: int | None,
        monotonic: Callable[[], float],
        pause: Callable[[float], Awaitable[None]],
    ) -> None:
        self.state = VerificationState.RUNNING
        self.started = started
        self.ended: float | None = None
        self.total = 0
        self.total_size = 0
        self.checked = 0
        self.checked_size = 0
        self.wrong: list[Digest] = []
        self.missing = 0
        self.unreadable = 0
        self.error: str | None = None
        self._speed = speed
        self._monotonic = monotonic
        self._pause = pause
        self._due = monotonic()

    @property
    def is_clean(self) -> bool:
        """Whether no problem was seen."""
        return self.error is None and not (self.wrong or self.missing or self.unreadable)

    async def pace(self, count: int) -> None:
        """Wait as long as the *count* bytes that were read may take."""
        if self._speed is None:
            return
        now = self._monotonic()
        # Time that was lost is not made up for: the disk is busy with other things.
        self._due = max(self._due, now) + count / self._speed
        await self._pause(self._due - now)

    def snapshot(self) -> VerificationSnapshot:
        return VerificationSnapshot(
            state=self.state,
            started=self.started,
            ended=self.ended,
            speed_limit=self._speed,
            total=self.total,
            total_size=self.total_size,
            checked=self.checked,
            checked_size=self.checked_size,
            wrong=len(self.wrong),
            wrong_digests=tuple(str(digest) for digest in self.wrong[:DIGESTS_IN_SNAPSHOT]),
            missing=self.missing,
            unreadable=self.unreadable,
            error_message=self.error,
        )


def _summary(run: _Run, seconds: float) -> str:
    blobs = f"{counted(run.checked, 'cached blob')} ({size(run.checked_size)})"
    verified = f"{blobs} verified in {duration(seconds)}"
    problems = [
        f"{count:,} {what}"
        for count, what in (
            (len(run.wrong), "damaged and removed"),
            (run.missing, "missing"),
            (run.unreadable, "unreadable"),
        )
        if count
    ]
    result = ", ".join(problems) if problems else "nothing wrong"
    if run.state is VerificationState.COMPLETED:
        return f"{verified}: {result}."
    how = "was cancelled" if run.state is VerificationState.CANCELLED else f"failed: {run.error}"
    return (
        f"The verification of the cached blobs {how.rstrip('.')}. Until then: {verified}, {result}."
    )
