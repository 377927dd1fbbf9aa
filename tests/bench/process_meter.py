"""What a process costs, from proc(5)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


class ProcessMeter:
    """Processor time and peak memory of a process and the children that it has then, since the
    meter was made (proc(5)).

    Memory that several of them share counts for each.
    """

    def __init__(self, pid: int) -> None:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        self._all = [Path(f"/proc/{process}") for process in (pid, *children)]
        self._main_thread = Path(f"/proc/{pid}/task/{pid}")
        for directory in self._all:
            # 5 resets the peak of the resident memory.
            (directory / "clear_refs").write_text("5")
        self._before = used_seconds(self._all)
        self._main_thread_before = used_seconds([self._main_thread])

    @property
    def processor_seconds(self) -> float:
        return used_seconds(self._all) - self._before

    @property
    def main_thread_seconds(self) -> float:
        """Processor time of the main thread, which runs the event loop of an engine."""
        return used_seconds([self._main_thread]) - self._main_thread_before

    @property
    def peak_memory(self) -> int:
        return self._memory("VmHWM:")

    @property
    def memory(self) -> int:
        """Resident memory, in bytes."""
        return self._memory("VmRSS:")

    def _memory(self, name: str) -> int:
        lines = [
            line
            for each in self._all
            for line in (each / "status").read_text().splitlines()
            if line.startswith(name)
        ]
        return sum(int(line.split()[1]) for line in lines) * 1024


def used_seconds(directories: Sequence[Path]) -> float:
    """Processor time of processes or threads, each a directory of proc(5)."""
    # The name of the program stands in parentheses and may hold anything; utime and stime are the
    # 12th and 13th word after it.
    words = [(each / "stat").read_text().rpartition(")")[2].split() for each in directories]
    return sum(int(each[11]) + int(each[12]) for each in words) / os.sysconf("SC_CLK_TCK")
