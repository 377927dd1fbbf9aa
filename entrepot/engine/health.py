"""Whether the engine can do its work: what ``/readyz`` says.

A process that answers need not serve: another cache stayed "healthy" for hours while every pull
hung behind a fill that made no progress. So the engine checks what pulls need: the disk, the
catalog, and fills that move.
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Protocol

from entrepot.cache.fill import Fill, FillState
from entrepot.causes import Cause, CauseCode, disk_cause
from entrepot.errors import EntrepotError
from entrepot.event_kinds import EventKind, Severity
from entrepot.events import EventLog
from entrepot.files import file_system

CHECK_INTERVAL = 15.0
"""Seconds between two checks of disk and catalog."""

PROBE_TIMEOUT = 10.0
"""Seconds that disk and catalog have to answer."""

_PROBE = os.urandom(4096)

_FULL = {errno.ENOSPC, errno.EDQUOT}


def probe_disk(directory: Path) -> None:
    """Write, sync, read and remove a small file; raises OSError.

    A full disk is healthy: what is cached is served, and what is not is passed on.
    """
    path = directory / "probe"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(descriptor, _PROBE)
            os.fdatasync(descriptor)
            if os.pread(descriptor, len(_PROBE), 0) not in {_PROBE, b""}:
                raise OSError(errno.EIO, "what was written is not what is read")
        finally:
            os.close(descriptor)
            path.unlink()
    except OSError as error:
        if error.errno not in _FULL:
            raise


class FillsUnderWay(Protocol):
    """The fills that may be stuck (`entrepot.cache.fills.Fills`)."""

    @property
    def under_way(self) -> Collection[Fill]:
        """The fills that have not ended."""


class CatalogFailures(Protocol):
    """What the catalog's users met."""

    @property
    def problem(self) -> EntrepotError | None:
        """What failed since the catalog last worked."""


class CatalogToProbe(Protocol):
    """The catalog (`entrepot.store.catalog.Catalog`)."""

    @property
    def health(self) -> CatalogFailures:
        """What its users met: an examination may well succeed beside that (L12)."""

    async def probe(self) -> None:
        """Read and write a little; raises when that fails."""


class EngineHealth:
    """What keeps one engine from its work; each change becomes an event.

    A fill is stuck after *stuck_after* seconds without progress; *clock* is monotonic, in seconds;
    *probe* takes the place of the disk.
    """

    def __init__(
        self,
        directory: Path,
        *,
        fills: FillsUnderWay,
        catalog: CatalogToProbe,
        events: EventLog,
        stuck_after: float,
        clock: Callable[[], float],
        probe: Callable[[Path], None] = probe_disk,
    ) -> None:
        self._directory = directory
        self._fills = fills
        self._catalog = catalog
        self._events = events
        self._stuck_after = stuck_after
        self._clock = clock
        self._probe = probe
        self._probing: asyncio.Future[Cause | None] | None = None
        self._probe_started = 0.0
        self._disk: Cause | None = None
        self._failed_examination: str | None = None
        self._recorded: tuple[str, ...] = ()
        self._checking = asyncio.Lock()

    @property
    def disk(self) -> Cause | None:
        """What is wrong with the disk, and what to do; None when it is healthy."""
        return self._disk

    def problems(self) -> tuple[str, ...]:
        """What keeps the engine from its work, in sentences; nothing when it is healthy."""
        disk = self._disk.what if self._disk is not None else None
        problems = (disk, self._catalog_problem(), self._stuck_fill())
        return tuple(problem for problem in problems if problem is not None)

    def messages(self) -> tuple[str, ...]:
        """The same as `problems`, with what to do where that is known."""
        failure = self._catalog.health.problem if self._disk is None else None
        hints = (
            {self._disk.what: self._disk.hint}
            if self._disk is not None
            else {failure.what: failure.hint}
            if failure is not None
            else {}
        )
        return tuple(f"{problem} {hints.get(problem, '')}".strip() for problem in self.problems())

    def _catalog_problem(self) -> str | None:
        if self._disk is not None:
            # The catalog is on that disk: that it fails as well is no news.
            return None
        failure = self._catalog.health.problem
        return self._failed_examination if failure is None else failure.what

    def _stuck_fill(self) -> str | None:
        now = self._clock()
        stuck = [
            fill
            for fill in self._fills.under_way
            if fill.state in {FillState.RUNNING, FillState.RESUMED}
            and now - fill.last_progress > self._stuck_after
        ]
        if not stuck:
            return None
        first = min(stuck, key=lambda fill: fill.last_progress)
        more = f", and {len(stuck) - 1} more" if len(stuck) > 1 else ""
        seconds = now - first.last_progress
        return f"The fill of {first.digest} has made no progress for {seconds:.0f} s{more}."

    async def run(self) -> None:
        """Check disk and catalog again and again, until cancelled."""
        while True:
            await self.check()
            await asyncio.sleep(CHECK_INTERVAL)

    async def check(self) -> None:
        """Check disk and catalog once, and record what changed.

        A check that is under way ends first: what it saw may be so no more.
        """
        async with self._checking:
            await self._check()

    async def _check(self) -> None:
        self._disk = await self._check_disk()
        self._failed_examination = await self._check_catalog() if self._disk is None else None
        problems = self.problems()
        if problems == self._recorded:
            return
        self._recorded = problems
        for message in self.messages():
            self._events.record(EventKind.ENGINE_UNREADY, message, severity=Severity.ERROR)
        if not problems:
            self._events.record(EventKind.ENGINE_READY, "The engine is healthy again.")

    async def _check_disk(self) -> Cause | None:
        if self._probing is None:
            self._probe_started = self._clock()
            self._probing = self._start_probe()
        probing = self._probing
        done, _ = await asyncio.wait({probing}, timeout=PROBE_TIMEOUT)
        if not done:
            # It is not asked again before it has answered: a disk that hangs would hold one more
            # thread each time.
            seconds = self._clock() - self._probe_started
            return Cause(
                CauseCode.DISK_FAILS,
                f"The disk of {self._directory} has not answered for {seconds:.0f} s.",
                "Look at the kernel's log (dmesg), and at the server or the cable of that disk.",
            )
        self._probing = None
        return probing.result()

    def _start_probe(self) -> asyncio.Future[Cause | None]:
        loop = asyncio.get_running_loop()
        result: asyncio.Future[Cause | None] = loop.create_future()

        def set_result(problem: Cause | None) -> None:
            if not result.done():
                result.set_result(problem)

        def run() -> None:
            problem = None
            try:
                self._probe(self._directory)
            except OSError as error:
                problem = disk_cause(error, self._directory, file_system(self._directory))
            try:
                loop.call_soon_threadsafe(set_result, problem)
            except RuntimeError:
                # The engine has ended meanwhile.
                return

        # A thread of its own, which may hang for ever without keeping the process from its end.
        threading.Thread(target=run, name="entrepot-probe", daemon=True).start()
        return result

    async def _check_catalog(self) -> str | None:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                await self._catalog.probe()
        except TimeoutError:
            return f"The catalog has not answered for {PROBE_TIMEOUT:.0f} s."
        except Exception as error:
            return error.what if isinstance(error, EntrepotError) else f"The catalog fails: {error}"
        return None
