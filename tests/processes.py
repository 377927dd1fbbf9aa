"""Nothing that a test starts outlives it: not when the test fails or times out, and not when pytest
itself is killed.

Four layers, each for what the one before it can't catch:

1. who starts a program ends it (`tests.e2e.clients.processes.Process`, `tests.tui.pty.Program`,
   `tests.cli.conftest.CommandLine`);
2. `tied` has the kernel kill a program when the thread that started it is gone, such as a pytest
   worker that was killed;
3. pytest is a subreaper (prctl(2)): what a program leaves behind in the background becomes a child
   of pytest, so `Leftovers` sees it;
4. `Leftovers` looks after each test and at the end, kills what is left, and fails the test that
   left it.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import select
import shutil
import signal
import socket
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ENDING = 30.0
"""Seconds that a program which was asked to end has until it counts as left over."""

KILLING = 10.0
"""Seconds that the kernel has to end what was killed."""

_SET_CHILD_SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER (prctl(2))."""

_SETPRIV = shutil.which(
    "setpriv", path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
)


def tied(command: Sequence[str | Path]) -> list[str]:
    """A command that is killed when the thread that starts it ends (``setpriv`` of util-linux
    replaces itself by it). Start it in the main thread."""
    arguments = [str(argument) for argument in command]
    return arguments if _SETPRIV is None else [_SETPRIV, "--pdeathsig", "KILL", *arguments]


_reserved: list[socket.socket] = []


def _close_reserved() -> None:
    for reservation in _reserved:
        reservation.close()


def reserved_port() -> int:
    """A port of 127.0.0.1 that no other program gets until pytest ends.

    For programs that can't choose a free port themselves (port 0).

    It is bound and not listened on. Servers set SO_REUSEADDR, and so get it all the same
    (socket(7)).
    """
    reservation = socket.socket()
    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reservation.bind(("127.0.0.1", 0))
    if not _reserved:
        atexit.register(_close_reserved)
    _reserved.append(reservation)
    return int(reservation.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Running:
    """A process, which no later one with the same number is equal to."""

    pid: int
    started: int

    @property
    def command(self) -> str:
        """Its command line, for people."""
        with suppress(OSError):
            return " ".join(
                Path(f"/proc/{self.pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            ).strip()
        return "?"


def children(pid: int | None = None) -> set[Running]:
    """Child processes that have not ended, also adopted ones; of this process when no other is
    named."""
    running = (_running(child) for child in _pids_of_children(os.getpid() if pid is None else pid))
    return {process for process in running if process is not None}


def _pids_of_children(pid: int) -> list[int]:
    pids: list[str] = []
    # The children of each of its threads (proc(5)).
    for children_of_thread in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            pids += children_of_thread.read_text().split()
    return [int(each) for each in pids]


def _running(pid: int) -> Running | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    # Of the fields in proc(5) the third, state, is the first here, and starttime the twentieth.
    return None if fields[0] in {"Z", "X"} else Running(pid, int(fields[19]))


def is_running(process: Running) -> bool:
    """Whether a process has not ended."""
    return _running(process.pid) == process


def family(processes: set[Running]) -> Iterator[Running]:
    """Processes, and all that they started."""
    for process in processes:
        yield process
        yield from family(children(process.pid))


def adopt() -> None:
    """Become the parent of every descendant whose own parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


_shared: set[Running] = set()
"""Programs that more than one test uses."""


def replace_shared(before: int, now: int) -> None:
    """Of a program that was started again within a test: where the one before was shared by tests,
    this one is too."""
    successor = _running(now)
    if successor is not None and any(process.pid == before for process in _shared):
        _shared.add(successor)


class Leftovers:
    """A pytest plugin. Programs that a fixture of a wider scope than one test started are shared,
    and may run until the end of the session."""

    def __init__(self) -> None:
        self._before = children()

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, Any, Any]:
        if fixturedef.scope == "function":
            return (yield)
        before = children()
        try:
            return (yield)
        finally:
            _shared.update(children() - before)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, nextitem: pytest.Item | None) -> Generator[None, None, None]:
        try:
            yield
        finally:
            if nextitem is None:
                # Fixtures of wider scopes are gone as well.
                _shared.clear()
            if commands := self.end():
                pytest.fail("left running:\n" + "\n".join(commands), pytrace=False)

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, None, None]:
        yield
        # In the process that starts the workers: what a worker left that was killed. In a worker,
        # and without workers: what an interrupted test left.
        _shared.clear()
        if commands := self.end():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            sys.stderr.write("\nleft running, and killed:\n" + "\n".join(commands) + "\n")

    def end(self) -> list[str]:
        """Wait until the programs of a test have ended, and kill those that do not; gives the
        command lines of these."""
        deadline = time.monotonic() + ENDING
        commands: dict[int, str] = {}
        while (running := children() - self._before - _shared) and (
            seconds := deadline + KILLING - time.monotonic()
        ) > 0:
            if (patience := deadline - time.monotonic()) <= 0:
                for process in list(family(running)):
                    commands.setdefault(process.pid, f"{process.pid}: {process.command}")
                    with suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGKILL)
            _wait_for_any(running, patience if patience > 0 else seconds)
        self._reap()
        return list(commands.values())

    def _reap(self) -> None:
        """Reap adopted children that have ended: no other code waits for them."""
        others = {process.pid for process in self._before | _shared}
        for pid in _pids_of_children(os.getpid()):
            if pid not in others and _running(pid) is None:
                with suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)


def _wait_for_any(processes: set[Running], seconds: float) -> None:
    """Return when one of some processes has ended, or the time is over."""
    descriptors = []
    try:
        for process in processes:
            with suppress(ProcessLookupError):
                descriptors.append(os.pidfd_open(process.pid))
        if len(descriptors) == len(processes):
            select.select(descriptors, [], [], seconds)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
