"""What the benchmark wants to see, and whether it did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from entrepot.formatting import TableColumn, table
from tests.bench.measurement import (
    BASELINE,
    DISTRIBUTION,
    ENTREPOT,
    NGINX,
    PROXY,
    Figure,
    Measurement,
    Results,
    first_byte,
    images_per_second,
    last_first_byte,
    loop_seconds_per_gigabyte,
    most_within,
    peak_memory,
    probe_longest,
    processor_seconds_per_gigabyte,
    rate,
    seconds,
    source_requests,
    source_share,
    throughput,
)


@dataclass(frozen=True, slots=True)
class Target:
    """A bound for one figure of Entrepot in all scenarios whose name begins with *scenario*, as a
    ratio to that of *over* where one is named."""

    scenario: str
    name: str
    figure: Figure
    bound: float
    over: str | None = None
    at_least: bool = False
    unit: str = ""
    times: float = 1.0
    """What the figure is multiplied with to have that unit."""


def _spread_of_first_bytes(of: Measurement) -> float | None:
    first, last = first_byte(of), last_first_byte(of)
    return last / first if first and last and len(of.load.first_bytes) > 1 else None


def _seconds_per_request(of: Measurement) -> float | None:
    requests_per_second = rate(of)
    return 1 / requests_per_second if requests_per_second else None


def _sent_per_second(of: Measurement) -> float:
    return of.load.received / of.load.seconds


def _share_of_a_processor(of: Measurement) -> float:
    return of.processor_seconds / of.load.seconds


TARGETS = (
    Target("warm blob", "throughput", throughput, 1.0, over=NGINX, at_least=True),
    Target("warm blob", "CPU per GB", processor_seconds_per_gigabyte, 1.0, over=PROXY),
    Target("warm manifest by tag", "requests per second", rate, 20.0, over=PROXY, at_least=True),
    Target("warm manifest by digest", "requests per second", rate, 5.0, over=PROXY, at_least=True),
    Target("cold image", "throughput", throughput, 1.0, over=PROXY, at_least=True),
    Target("cold image", "CPU per GB", processor_seconds_per_gigabyte, 1.0, over=PROXY),
    Target("cold blob", "first byte, first client", first_byte, 1.0, over=PROXY),
    Target("cold blob", "first byte, last client", last_first_byte, 1.0, over=PROXY),
    Target("cold blob", "first byte, last client to first", _spread_of_first_bytes, 2.0, unit="x"),
    Target("cold blob", "bytes from the source", source_share, 1.005, unit="x"),
    Target("cold blob", "throughput", throughput, 1.0, over=PROXY, at_least=True),
    Target("8 cold blobs", "peak memory", peak_memory, 200.0, unit="MiB", times=1 / 2**20),
    Target("8 cold blobs", "bytes from the source", source_share, 1.005, unit="x"),
    Target("start with", "first answer", seconds, 1.0, unit="s"),
    Target("listing of", "answer", seconds, 0.25, unit="s"),
    Target("listing again", "answer when nothing changed", seconds, 0.02, unit="s"),
    Target("plan of an eviction", "answer", seconds, 3.0, unit="s"),
    Target("routing among", "for each request", _seconds_per_request, 10.0, unit="us", times=1e6),
    Target(
        "cold blob of 400 MB over TLS", "throughput", throughput, 1.8, DISTRIBUTION, at_least=True
    ),
    Target(
        "cold blob of 400 MB over TLS", "CPU per GB", processor_seconds_per_gigabyte, 2.6, unit="s"
    ),
    Target(
        "cold blob of 400 MB over TLS",
        "CPU per GB, event loop",
        loop_seconds_per_gigabyte,
        0.8,
        unit="s",
    ),
    Target("cold image over TLS", "throughput", throughput, 1.3, over=PROXY, at_least=True),
    Target("cold image over TLS", "throughput", throughput, 1.3, over=DISTRIBUTION, at_least=True),
    Target("entrepot pull over TLS", "throughput", throughput, 2.0, over=BASELINE, at_least=True),
    Target(
        "entrepot pull over TLS", "CPU per GB", processor_seconds_per_gigabyte, 0.5, over=BASELINE
    ),
    Target("manifest beside", "p99", most_within, 30.0, unit="ms", times=1e3),
    Target("cached blobs,", "throughput", throughput, 0.85, over=BASELINE, at_least=True),
    Target("404 of an", "requests per second", rate, 5_000.0, at_least=True, unit="/s"),
    Target("404 of an", "requests to the source", source_requests, 1.0),
    Target("_catalog?n=10,", "answer", seconds, 10.0, unit="ms", times=1e3),
    *(
        target
        for what in ("tags/list?n=10", "_tags?n=10", "lock one tag", "one tag")
        for target in (
            Target(f"{what},", "answer", seconds, 20.0, unit="ms", times=1e3),
            Target(f"{what},", "another client's wait", probe_longest, 50.0, unit="ms", times=1e3),
        )
    ),
    Target("repository delete", "answer", seconds, 1.0, unit="s"),
    Target("evict half", "images per second", images_per_second, 5_000.0, at_least=True, unit="/s"),
    Target("evict --dry-run", "answer", seconds, 3.0, unit="s"),
    Target("evict --dry-run", "peak memory", peak_memory, 150.0, unit="MB", times=1e-6),
    Target("start: first answer", "first answer", seconds, 1.0, unit="s"),
    Target("start: first answer", "peak memory", peak_memory, 150.0, unit="MB", times=1e-6),
    Target("start: longest wait", "longest", seconds, 100.0, unit="ms", times=1e3),
    Target("rule show,", "answer", seconds, 50.0, unit="ms", times=1e3),
    Target("dashboard opens", "on the screen", seconds, 300.0, unit="ms", times=1e3),
    Target("dashboard opens with", "memory", peak_memory, 60.0, unit="MB", times=1e-6),
    Target("dashboard at rest", "sent", _sent_per_second, 0.0, unit="B/s"),
    Target("dashboard at rest", "processor", _share_of_a_processor, 1.0, unit="%", times=100),
    Target("dashboard with 20 live pulls", "sent", _sent_per_second, 5.0, unit="kB/s", times=1e-3),
    Target(
        "dashboard with 20 live pulls", "processor", _share_of_a_processor, 3.0, unit="%", times=100
    ),
    Target("dashboard shows", "on the screen", seconds, 150.0, unit="ms", times=1e3),
    Target("dashboard filters", "on the screen", seconds, 150.0, unit="ms", times=1e3),
    Target("dashboard sorts", "on the screen", seconds, 150.0, unit="ms", times=1e3),
    Target("dashboard sorts", "memory", peak_memory, 60.0, unit="MB", times=1e-6),
    Target("dashboard key", "first byte", seconds, 20.0, unit="ms", times=1e3),
    Target("dashboard aside", "answered", seconds, 200.0, unit="ms", times=1e3),
)

COLUMNS = (
    TableColumn("Scenario"),
    TableColumn("Figure"),
    TableColumn("Target", right=True),
    TableColumn("Measured", right=True),
    TableColumn(""),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target, and what was measured; in the unit of the target."""

    scenario: str
    target: Target
    value: float
    before: float | None
    """The same figure of the Entrepot that this one is compared with."""

    @property
    def is_met(self) -> bool:
        target = self.target
        return self.value >= target.bound if target.at_least else self.value <= target.bound

    @property
    def unit(self) -> str:
        return f"x {self.target.over}" if self.target.over else self.target.unit

    @property
    def aim(self) -> str:
        sign = ">=" if self.target.at_least else "<="
        return f"{sign} {self.target.bound:g} {self.unit}".rstrip()


def judge(measurements: Sequence[Measurement]) -> list[Verdict]:
    """All targets for which there are measurements."""
    results = Results.of(measurements)
    judged = []
    for scenario in results.scenarios():
        for target in TARGETS:
            if not scenario.startswith(target.scenario):
                continue
            value, before = (
                _value(results, scenario, target, through) for through in (ENTREPOT, BASELINE)
            )
            if value is not None:
                judged.append(Verdict(scenario, target, value, before))
    return judged


def _value(results: Results, scenario: str, target: Target, through: str) -> float | None:
    value = (
        results.figure(scenario, through, target.figure)
        if target.over is None
        else results.ratio(scenario, target.figure, through, target.over)
    )
    return None if value is None else value * target.times


def verdicts(measurements: Sequence[Measurement]) -> list[tuple[str, str, str, str, str]]:
    """Scenario, figure, target, what was measured, and whether the target was met."""
    return [
        (
            verdict.scenario,
            verdict.target.name,
            verdict.aim,
            f"{verdict.value:.2f} {verdict.unit}",
            "met" if verdict.is_met else "MISSED",
        )
        for verdict in judge(measurements)
    ]


def report(measurements: Sequence[Measurement]) -> str:
    """All targets as a table."""
    return table(COLUMNS, verdicts(measurements))
