"""The checks of ``entrepot doctor`` on this machine.

They cover space, data directory, open files, proxy and clock.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial

from entrepot.api.models import Finding
from entrepot.causes import OPEN_FILES_HINT, Cause, CauseCode, disk_cause
from entrepot.config.directories import Directories
from entrepot.core.states import Outcome
from entrepot.engine.findings import failed, of_cause, of_error, ok, warning
from entrepot.engine.health import EngineHealth
from entrepot.engine.isolated_checks import isolated
from entrepot.engine.lock import SPACE_TO_START
from entrepot.engine.maintenance import RESERVE
from entrepot.engine.status import StatusService
from entrepot.files import file_system
from entrepot.formatting import counted, size
from entrepot.source.environment import CLOCK_CURE, CLOCK_TOLERANCE, describe_clock
from entrepot.source.proxies import environment_problems
from entrepot.source.sources import Sources
from entrepot.store.blobs import BlobStore
from entrepot.store.catalog import Catalog

FILES_NEEDED, FILES_RECOMMENDED = 1024, 4096
"""Open files: a client has one for its connection and one for each blob, and so has each fill."""

CLOCK_WARNS = 30.0
"""Seconds by which the clock may be wrong; beyond `CLOCK_TOLERANCE` the check fails."""

MACHINE = "this machine"
"""What the findings are about."""


class MachineChecks:
    """The checks of the machine. *clock* is in seconds since the epoch."""

    def __init__(
        self,
        *,
        directories: Directories,
        sources: Sources,
        catalog: Catalog,
        blobs: BlobStore,
        health: EngineHealth,
        status: StatusService,
        clock: Callable[[], float],
    ) -> None:
        self._directories = directories
        self._sources = sources
        self._catalog = catalog
        self._blobs = blobs
        self._health = health
        self._status = status
        self._clock = clock

    async def check(self, clock_offsets: Mapping[str, float]) -> AsyncIterator[Finding]:
        """All checks of this machine.

        *clock_offsets* says by how many seconds each source is ahead of this machine.
        """
        disk = self._health.disk
        if disk is None or disk.code not in {CauseCode.READ_ONLY, CauseCode.PERMISSION}:
            # What can't be written tells of no space, and that would look like a full disk.
            yield await isolated(MACHINE, "space", self._check_space)
        yield await isolated(MACHINE, "data directory", self._check_data_directory)
        yield await isolated(MACHINE, "open files", _check_open_files)
        if any(name.lower().endswith("_proxy") for name in os.environ):
            yield await isolated(MACHINE, "proxy", _check_proxy)
        clock_problem = self._sources.diagnosis.clock_problem()
        if clock_offsets or clock_problem is not None:
            yield await isolated(
                MACHINE, "clock", partial(self._check_clock, clock_offsets, clock_problem)
            )

    async def _check_space(self) -> Finding:
        status = await self._status.get()
        data = self._directories.data
        if not status.space_free and not await asyncio.to_thread(data.is_dir):
            return failed(
                MACHINE,
                "space",
                f"The data directory {data} is not there.",
                "Put it back, or restart the engine, which creates a new one.",
            )
        return await asyncio.to_thread(
            self._judge_space, status.blobs_size, status.space_free, status.space_limit
        )

    def _judge_space(self, used: int, free: int, limit: int) -> Finding:
        figures = f"{size(used)} of {size(limit)} used, {size(free)} free"
        if free < SPACE_TO_START:
            full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            data = self._directories.data
            return of_cause(MACHINE, "space", disk_cause(full, data, file_system(data)))
        if free < min(RESERVE, limit):
            return warning(
                MACHINE,
                "space",
                f"Little space is left: {figures}.",
                "Other data grows on the same file system: free space, or lower size_limit.",
            )
        return ok(MACHINE, "space", figures)

    async def _check_data_directory(self) -> Finding:
        """Report what the engine knows of its data directory.

        On a disk that hangs, an access to the directory would hang as well.
        """
        check = "data directory"
        data, foreign = self._directories.data, self._blobs.foreign
        mount = await asyncio.to_thread(file_system, data)
        problems = self._health.problems()
        if (cause := self._health.disk) is not None:
            return of_cause(MACHINE, check, cause)
        if (refusal := self._catalog.refusal) is not None:
            return of_error(MACHINE, check, refusal)
        if problems:
            return failed(
                MACHINE,
                check,
                " ".join(problems),
                f"Look at the file system that holds {data} ({mount}).",
            )
        closed = await asyncio.to_thread(self._blobs.forbidden_directory)
        if closed is not None:
            refused = PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(closed))
            return of_cause(
                MACHINE, check, await asyncio.to_thread(disk_cause, refused, data, mount)
            )
        ignored = "belongs to no blob and is" if foreign.count == 1 else "belong to no blob and are"
        others = (
            f"; {counted(foreign.count, 'name')} in {self._directories.blobs} {ignored} ignored: "
            f"{foreign}"
            if foreign.count
            else ""
        )
        return ok(MACHINE, check, f"{data} can be written and read ({mount}){others}")

    def _check_clock(self, offsets: Mapping[str, float], problem: Cause | None) -> Finding:
        if not offsets and problem is not None:
            return of_cause(MACHINE, "clock", problem)
        # Where one source agrees with this clock, it is the others that are wrong.
        offset = min(offsets.values(), key=abs)
        if abs(offset) < CLOCK_WARNS:
            return ok(MACHINE, "clock", "is right")
        witness = next(iter(offsets)) if len(offsets) == 1 else "the sources"
        cause = Cause(
            CauseCode.CLOCK_WRONG,
            f"{describe_clock(offset, self._clock())}, by the Date of {witness}.",
            CLOCK_CURE,
        )
        outcome = Outcome.FAILED if abs(offset) >= CLOCK_TOLERANCE else Outcome.WARNING
        return of_cause(MACHINE, "clock", cause, outcome)


def _check_open_files() -> Finding:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    check = "open files"
    if limit == resource.RLIM_INFINITY:
        return ok(MACHINE, check, "unlimited")
    if limit >= FILES_RECOMMENDED:
        return ok(MACHINE, check, f"{limit:,} are allowed")
    if limit < FILES_NEEDED:
        return failed(
            MACHINE,
            check,
            f"Only {limit:,} are allowed: some hundred clients would use them up.",
            OPEN_FILES_HINT,
        )
    return warning(
        MACHINE,
        check,
        f"Only {limit:,} are allowed: more than a thousand clients would use them up.",
        OPEN_FILES_HINT,
    )


def _check_proxy() -> Finding:
    problems = environment_problems()
    if not problems:
        return ok(MACHINE, "proxy", "the proxy settings of the environment are valid")
    return Finding(
        about=MACHINE,
        check="proxy",
        outcome=Outcome.FAILED,
        what=" ".join(problem.what for problem in problems),
        advice=" ".join(dict.fromkeys(problem.hint for problem in problems)),
        cause=CauseCode.PROXY_UNUSABLE,
    )
