"""What a benchmark found, and the table that shows it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from entrepot.words import Column, table


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
    """Processor time and peak memory of a process since the meter was made (proc(5))."""

    def __init__(self, pid: int) -> None:
        self._proc = Path(f"/proc/{pid}")
        # 5 resets the peak of the resident memory.
        (self._proc / "clear_refs").write_text("5")
        self._before = self._processor_seconds()

    @property
    def processor_seconds(self) -> float:
        return self._processor_seconds() - self._before

    @property
    def peak_memory(self) -> int:
        [line] = [each for each in (self._proc / "status").read_text().splitlines() if each.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024

    def _processor_seconds(self) -> float:
        # The name of the program stands in parentheses and may hold anything; utime and stime are the 12th and 13th word after it.
        words = (self._proc / "stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


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
