"""What a benchmark found, and the table that shows it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from entrepot.words import Column, table

ENTREPOT = "entrepot"
"""What goes through Entrepot, in the tables."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run. Times are seconds, sizes bytes; *source_gets* and *source_bytes* are what the source registry was asked for and sent."""

    scenario: str
    through: str
    seconds: float
    received: int
    source_gets: int
    source_bytes: int
    processor_seconds: float
    peak_memory: int


class ProcessMeter:
    """Processor time and peak memory of a process and the children that it has then, since the meter was made (proc(5)).

    Memory that several of them share counts for each.
    """

    def __init__(self, pid: int) -> None:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        self._all = [Path(f"/proc/{each}") for each in (pid, *children)]
        for each in self._all:
            # 5 resets the peak of the resident memory.
            (each / "clear_refs").write_text("5")
        self._before = self._processor_seconds()

    @property
    def processor_seconds(self) -> float:
        return self._processor_seconds() - self._before

    @property
    def peak_memory(self) -> int:
        lines = [line for each in self._all for line in (each / "status").read_text().splitlines() if line.startswith("VmHWM:")]
        return sum(int(line.split()[1]) for line in lines) * 1024

    def _processor_seconds(self) -> float:
        # The name of the program stands in parentheses and may hold anything; utime and stime are the 12th and 13th word after it.
        words = [(each / "stat").read_text().rpartition(")")[2].split() for each in self._all]
        return sum(int(each[11]) + int(each[12]) for each in words) / os.sysconf("SC_CLK_TCK")


COLUMNS = (
    Column("Scenario"),
    Column("Through"),
    Column("Seconds", right=True),
    Column("Least-most", right=True),
    Column("MB/s", right=True),
    Column("Times", right=True),
    Column("Source GETs", right=True),
    Column("Source MB", right=True),
    Column("CPU s", right=True),
    Column("Peak MB", right=True),
)


def summary(measurements: Sequence[Measurement], *, compared_with: str) -> str:
    """The medians as a table; *Times* is how often the speed of *compared_with* in the same scenario."""
    groups: dict[tuple[str, str], list[Measurement]] = {}
    for each in measurements:
        groups.setdefault((each.scenario, each.through), []).append(each)
    rows = []
    for (scenario, through), group in groups.items():
        seconds = median(each.seconds for each in group)
        speed = group[0].received / seconds
        other = groups.get((scenario, compared_with))
        ratio = speed / (other[0].received / median(each.seconds for each in other)) if other else None
        rows.append(
            (
                scenario,
                through,
                f"{seconds:.3f}",
                f"{min(each.seconds for each in group):.3f}-{max(each.seconds for each in group):.3f}",
                f"{speed / 1e6:,.0f}",
                "-" if ratio is None else f"{ratio:.2f}",
                f"{median(each.source_gets for each in group):g}",
                f"{median(each.source_bytes for each in group) / 1e6:,.1f}",
                f"{median(each.processor_seconds for each in group):.2f}",
                f"{median(each.peak_memory for each in group) / 1e6:,.0f}",
            )
        )
    return table(COLUMNS, rows)
