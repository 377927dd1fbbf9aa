"""What a benchmark found, and the table that shows it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from entrepot.formatting import TableColumn, table

ENTREPOT = "entrepot"
BASELINE = "entrepot before"
PROXY = "docker-registry"
DISTRIBUTION = "distribution"
NGINX = "nginx"
SOURCE = "source itself"
"""The contenders, as the tables name them."""

CONTENDERS = (ENTREPOT, BASELINE, PROXY, DISTRIBUTION, NGINX, SOURCE)
"""In the order of the tables."""


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
    longest: float | None = None
    """The longest that a request took."""
    failed: int = 0
    """Requests without the right answer."""

    @classmethod
    def of_requests(cls, waits: Sequence[float], *, seconds: float, failed: int = 0) -> Load:
        """Requests that took *waits* seconds each, within *seconds*."""
        ordered = sorted(waits)
        return cls(
            seconds,
            requests=len(ordered),
            half_within=percentile(ordered, 0.5),
            most_within=percentile(ordered, 0.99),
            longest=ordered[-1] if ordered else None,
            failed=failed,
        )


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """The value that *share* of the *ordered* values do not exceed; None without any."""
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)] if ordered else None


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run. *source_gets* and *source_bytes* are what the source registry was asked for and
    sent, *source_requests* counts its requests of any method; *expected* is the size of all that
    was asked for, each blob counted once."""

    scenario: str
    through: str
    load: Load
    expected: int = 0
    source_gets: int = 0
    source_bytes: int = 0
    processor_seconds: float = 0.0
    peak_memory: int = 0
    source_requests: int = 0
    loop_seconds: float | None = None
    """Processor time of the thread of the event loop; None for other programs than Entrepot."""
    memory: int = 0
    """Resident memory at the end, in bytes."""
    probe: Load | None = None
    """What another client saw meanwhile, whose one request is answered from memory."""
    loop_lag: float | None = None
    """The longest that the event loop was late, as the engine says."""


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


def images_per_second(of: Measurement) -> float:
    """Images that were evicted; 0 where the time did not suffice for the first ones."""
    return of.load.requests / of.load.seconds


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


def loop_seconds_per_gigabyte(of: Measurement) -> float | None:
    """Of the thread of the event loop, for each 10^9 bytes that the clients got."""
    if of.loop_seconds is None or not of.expected:
        return None
    return of.loop_seconds / of.load.received * 1e9


def longest(of: Measurement) -> float | None:
    """Seconds of the slowest request."""
    return of.load.longest


def probe_half_within(of: Measurement) -> float | None:
    return of.probe.half_within if of.probe is not None else None


def probe_longest(of: Measurement) -> float | None:
    return of.probe.longest if of.probe is not None else None


def loop_lag(of: Measurement) -> float | None:
    return of.loop_lag


def memory(of: Measurement) -> float | None:
    """Bytes."""
    return of.memory or None


def processor_seconds_per_request(of: Measurement) -> float | None:
    """Of the contender alone."""
    return of.processor_seconds / of.load.requests if of.load.requests else None


def source_share(of: Measurement) -> float | None:
    """How often the source sent what was expected of it."""
    return of.source_bytes / of.expected if of.expected else None


def source_requests(of: Measurement) -> float:
    """Requests of any method that reached the source."""
    return of.source_requests


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
        return [through for through in CONTENDERS if (scenario, through) in self.groups]

    def range(self, scenario: str, through: str, figure: Figure) -> tuple[float, float] | None:
        """The least and the greatest; None without a measurement."""
        values = self._values(scenario, through, figure)
        return (min(values), max(values)) if values else None

    def figure(self, scenario: str, through: str, figure: Figure) -> float | None:
        """The median; None without a measurement."""
        values = self._values(scenario, through, figure)
        return median(values) if values else None

    def _values(self, scenario: str, through: str, figure: Figure) -> list[float]:
        return [
            value
            for each in self.groups.get((scenario, through), ())
            if (value := figure(each)) is not None
        ]

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
