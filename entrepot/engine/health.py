"""Whether the engine can do its work: what ``/readyz`` says.

A process that answers is not yet one that serves: a peer stayed "healthy" for hours while every
pull hung behind a fill that made no step. So it is looked at what pulls need: the disk, the
catalog, and fills that move.
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

from entrepot.cache.fill import Fill, FillState
from entrepot.causes import Cause, CauseCode, disk_cause
from entrepot.errors import EntrepotError
from entrepot.files import file_system

INTERVAL = 15.0
"""Seconds between two looks at disk and catalog."""

PATIENCE = 10.0
"""Seconds that disk and catalog have to answer."""

_PROBE = os.urandom(4096)

_FULL = {errno.ENOSPC, errno.EDQUOT}


def probe_disk(directory: Path) -> None:
    """Write, sync, read and remove a small file; raises OSError. A full disk is well: what is held
    is served, and what is not is passed on."""
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


class Health:
    """What keeps an engine from its work. *on_change* is told each new list of problems."""

    def __init__(
        self,
        directory: Path,
        *,
        fills: Callable[[], Collection[Fill]],
        ask_catalog: Callable[[], Awaitable[object]],
        stuck_after: float,
        on_change: Callable[[tuple[str, ...]], None],
        clock: Callable[[], float],
        probe: Callable[[Path], None] = probe_disk,
        failed_requests: Callable[[], EntrepotError | None] = lambda: None,
    ) -> None:
        """*failed_requests* tells what the catalog's users met since it last worked: a look at it
        may well succeed beside that (L12)."""
        self._directory = directory
        self._fills = fills
        self._ask_catalog = ask_catalog
        self._stuck_after = stuck_after
        self._on_change = on_change
        self._clock = clock
        self._probe = probe
        self._failed_requests = failed_requests
        self._probing: asyncio.Future[Cause | None] | None = None
        self._since = 0.0
        self._disk: Cause | None = None
        self._catalog: str | None = None
        self._told: tuple[str, ...] = ()

    def problems(self) -> tuple[str, ...]:
        """What keeps the engine from its work, in sentences; nothing when all is well."""
        disk = self._disk.what if self._disk is not None else None
        return tuple(
            each for each in (disk, self._catalog_problem(), self._stuck_fill()) if each is not None
        )

    @property
    def disk(self) -> Cause | None:
        """What is wrong with the disk, and its cure."""
        return self._disk

    def messages(self) -> tuple[str, ...]:
        """The same as `problems`, with the cure where one is known."""
        failed = self._failed_requests() if self._disk is None else None
        cures = (
            {self._disk.what: self._disk.hint}
            if self._disk is not None
            else {failed.what: failed.hint}
            if failed is not None
            else {}
        )
        return tuple(f"{each} {cures.get(each, '')}".strip() for each in self.problems())

    def _catalog_problem(self) -> str | None:
        if self._disk is not None:
            # The catalog is on that disk: that it fails with it, nobody needs to be told.
            return None
        failed = self._failed_requests()
        return self._catalog if failed is None else failed.what

    async def watch(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(INTERVAL)

    async def look(self) -> None:
        """Look at disk and catalog once."""
        self._disk = await self._look_at_disk()
        self._catalog = await self._look_at_catalog() if self._disk is None else None
        problems = self.problems()
        if problems != self._told:
            self._told = problems
            self._on_change(problems)

    async def _look_at_disk(self) -> Cause | None:
        if self._probing is None:
            self._since = self._clock()
            self._probing = self._begin_probe()
        done, _ = await asyncio.wait({self._probing}, timeout=PATIENCE)
        if not done:
            # It is not asked again before it has answered: a disk that hangs would hold one more
            # thread each time.
            return Cause(
                CauseCode.DISK_FAILS,
                f"The disk of {self._directory} has not answered for {self._clock() - self._since:.0f} s.",
                "Look at the kernel's log (dmesg), and at the server or the cable of that disk.",
            )
        probing, self._probing = self._probing, None
        return probing.result()

    def _begin_probe(self) -> asyncio.Future[Cause | None]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Cause | None] = loop.create_future()

        def told(problem: Cause | None) -> None:
            if not answer.done():
                answer.set_result(problem)

        def run() -> None:
            problem = None
            try:
                self._probe(self._directory)
            except OSError as error:
                problem = disk_cause(error, self._directory, file_system(self._directory))
            try:
                loop.call_soon_threadsafe(told, problem)
            except RuntimeError:
                # The engine has ended meanwhile.
                return

        # A thread of its own, which may hang for ever without keeping the process from its end.
        threading.Thread(target=run, name="entrepot-probe", daemon=True).start()
        return answer

    async def _look_at_catalog(self) -> str | None:
        try:
            async with asyncio.timeout(PATIENCE):
                await self._ask_catalog()
        except TimeoutError:
            return f"The catalog has not answered for {PATIENCE:.0f} s."
        except Exception as error:
            return error.what if isinstance(error, EntrepotError) else f"The catalog fails: {error}"
        return None

    def _stuck_fill(self) -> str | None:
        now = self._clock()
        stuck = [
            each
            for each in self._fills()
            if each.state in {FillState.RUNNING, FillState.RESUMED}
            and now - each.last_progress > self._stuck_after
        ]
        if not stuck:
            return None
        first = min(stuck, key=lambda fill: fill.last_progress)
        more = f", and {len(stuck) - 1} more" if len(stuck) > 1 else ""
        return f"The fill of {first.digest} has made no step for {now - first.last_progress:.0f} s{more}."
