"""What a benchmark found, and the table that shows it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from entrepot.formatting import TableColumn, table

ENTREPOT = "entrepot"
PROXY = "docker-registry"
NGINX = "nginx"
SOURCE = "source itself"
"""The contenders, as the tables name them."""


@dataclass(frozen=True, slots=True)
class Load:
    """What the clients saw. *seconds* is from the first request to the last byte, *received* bytes
    of bodies; all other times are seconds too."""

    seconds: float
    received: int = 0
    requests: int = 0
    half_within: float | None = None
    """Half of the requests were answered within this time."""
    most_within: float | None = None
    """99 of 100 requests were."""
    first_bytes: tuple[float, ...] = ()
    """When each client had its first byte, in the order of these times."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run. *source_gets* and *source_bytes* are what the source registry was asked for and
    sent; *expected* is the size of all that was asked for, each blob counted once."""

    scenario: str
    through: str
    load: Load
    expected: int = 0
    source_gets: int = 0
    source_bytes: int = 0
    processor_seconds: float = 0.0
    peak_memory: int = 0


class ProcessMeter:
    """Processor time and peak memory of a process and the children that it has then, since the
    meter was made (proc(5)).

    Memory that several of them share counts for each.
    """

    def __init__(self, pid: int) -> None:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        self._all = [Path(f"/proc/{process}") for process in (pid, *children)]
        for directory in self._all:
            # 5 resets the peak of the resident memory.
            (directory / "clear_refs").write_text("5")
        self._before = self._processor_seconds()

    @property
    def processor_seconds(self) -> float:
        return self._processor_seconds() - self._before

    @property
    def peak_memory(self) -> int:
        lines = [
            line
            for each in self._all
            for line in (each / "status").read_text().splitlines()
            if line.startswith("VmHWM:")
        ]
        return sum(int(line.split()[1]) for line in lines) * 1024

    def _processor_seconds(self) -> float:
        # The name of the program stands in parentheses and may hold anything; utime and stime are
        # the 12th and 13th word after it.
        words = [(each / "stat").read_text().rpartition(")")[2].split() for each in self._all]
        return sum(int(each[11]) + int(each[12]) for each in words) / os.sysconf("SC_CLK_TCK")


Figure = Callable[[Measurement], float | None]
"""One number of a measurement; None where the scenario has no such number."""


def seconds(of: Measurement) -> float:
    """Until the last client had everything."""
    return of.load.seconds


def throughput(of: Measurement) -> float | None:
    """Bytes that the clients got in a second."""
    return of.load.received / of.load.seconds if of.expected else None


def rate(of: Measurement) -> float | None:
    """Requests answered in a second."""
    return of.load.requests / of.load.seconds if of.load.requests else None


def speed(of: Measurement) -> float | None:
    """What the comparison goes by: requests in a second where they were counted, bytes otherwise,
    and else how short it took."""
    return rate(of) or throughput(of) or 1 / seconds(of)


def first_byte(of: Measurement) -> float | None:
    """Seconds until the first of the clients had a byte."""
    return of.load.first_bytes[0] if of.load.first_bytes else None


def last_first_byte(of: Measurement) -> float | None:
    """Seconds until every client had a byte."""
    return of.load.first_bytes[-1] if of.load.first_bytes else None


def half_within(of: Measurement) -> float | None:
    return of.load.half_within


def most_within(of: Measurement) -> float | None:
    return of.load.most_within


def processor_seconds_per_gigabyte(of: Measurement) -> float | None:
    """Of the contender alone, for each 10^9 bytes that the clients got."""
    return of.processor_seconds / of.load.received * 1e9 if of.expected else None


def processor_seconds_per_request(of: Measurement) -> float | None:
    """Of the contender alone."""
    return of.processor_seconds / of.load.requests if of.load.requests else None


def source_share(of: Measurement) -> float | None:
    """How often the source sent what was expected of it."""
    return of.source_bytes / of.expected if of.expected else None


def peak_memory(of: Measurement) -> float | None:
    """Bytes."""
    return of.peak_memory or None


@dataclass
class Results:
    """All measurements, by scenario and contender, and the medians of their figures."""

    groups: dict[tuple[str, str], list[Measurement]] = field(default_factory=dict)

    @classmethod
    def of(cls, measurements: Sequence[Measurement]) -> Results:
        groups: dict[tuple[str, str], list[Measurement]] = {}
        for measurement in measurements:
            groups.setdefault((measurement.scenario, measurement.through), []).append(measurement)
        return cls(groups)

    def scenarios(self) -> list[str]:
        return list(dict.fromkeys(scenario for scenario, _ in self.groups))

    def contenders(self, scenario: str) -> list[str]:
        return [
            through
            for through in (ENTREPOT, PROXY, NGINX, SOURCE)
            if (scenario, through) in self.groups
        ]

    def figure(self, scenario: str, through: str, figure: Figure) -> float | None:
        """The median; None without a measurement."""
        matching = [
            value
            for each in self.groups.get((scenario, through), ())
            if (value := figure(each)) is not None
        ]
        return median(matching) if matching else None

    def ratio(self, scenario: str, figure: Figure, through: str, over: str) -> float | None:
        """How often the figure of one contender is that of another."""
        one, other = self.figure(scenario, through, figure), self.figure(scenario, over, figure)
        return one / other if one is not None and other else None


COLUMNS = (
    TableColumn("Scenario"),
    TableColumn("Through"),
    TableColumn("Seconds", right=True),
    TableColumn("Least-most", right=True),
    TableColumn("MB/s", right=True),
    TableColumn("Req/s", right=True),
    TableColumn(f"x {PROXY}", right=True),
    TableColumn(f"x {NGINX}", right=True),
    TableColumn("p50 ms", right=True),
    TableColumn("p99 ms", right=True),
    TableColumn("First byte ms", right=True),
    TableColumn("CPU s/GB", right=True),
    TableColumn("CPU us/req", right=True),
    TableColumn("Peak MB", right=True),
    TableColumn("Source GETs", right=True),
    TableColumn("Source MB", right=True),
)


def summary(measurements: Sequence[Measurement]) -> str:
    """The medians as a table. *First byte* is that of the first client and of the last one; the
    columns with an x say how often as fast as that contender."""
    results = Results.of(measurements)
    rows = []
    for scenario in results.scenarios():
        for through in results.contenders(scenario):
            group = results.groups[scenario, through]

            def shown(
                figure: Figure,
                form: str,
                times: float = 1.0,
                *,
                scenario: str = scenario,
                through: str = through,
            ) -> str:
                value = results.figure(scenario, through, figure)
                return "-" if value is None else format(value * times, form)

            def compared(other: str, *, scenario: str = scenario, through: str = through) -> str:
                ratio = results.ratio(scenario, speed, through, other)
                return "-" if ratio is None else f"{ratio:.2f}"

            first = shown(first_byte, ".1f", 1e3)
            rows.append(
                (
                    scenario,
                    through,
                    shown(
                        seconds,
                        ".3f" if median(each.load.seconds for each in group) >= 0.01 else ".7f",
                    ),
                    f"{min(each.load.seconds for each in group):.3f}"
                    f"-{max(each.load.seconds for each in group):.3f}",
                    shown(throughput, ",.0f", 1e-6),
                    shown(rate, ",.0f"),
                    compared(PROXY),
                    compared(NGINX),
                    shown(half_within, ".2f", 1e3),
                    shown(most_within, ".2f", 1e3),
                    first
                    if len(group[0].load.first_bytes) < 2
                    else f"{first}-{shown(last_first_byte, '.1f', 1e3)}",
                    shown(processor_seconds_per_gigabyte, ".2f"),
                    shown(processor_seconds_per_request, ".0f", 1e6),
                    shown(peak_memory, ",.0f", 1e-6),
                    f"{median(each.source_gets for each in group):g}",
                    f"{median(each.source_bytes for each in group) / 1e6:,.1f}",
                )
            )
    return table(COLUMNS, rows)
