"""What the benchmark wants to see, and whether it did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from entrepot.formatting import Column, table
from tests.bench.measurement import (
    ENTREPOT,
    NGINX,
    PROXY,
    Figure,
    Measurement,
    Results,
    first_byte,
    last_first_byte,
    peak_memory,
    processor_seconds_per_gigabyte,
    rate,
    seconds,
    source_share,
    throughput,
)


@dataclass(frozen=True, slots=True)
class Aim:
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
    answered = rate(of)
    return 1 / answered if answered else None


def _sent_per_second(of: Measurement) -> float:
    return of.load.received / of.load.seconds


def _share_of_a_processor(of: Measurement) -> float:
    return of.processor_seconds / of.load.seconds


AIMS = (
    Aim("warm blob", "throughput", throughput, 1.0, over=NGINX, at_least=True),
    Aim("warm blob", "CPU per GB", processor_seconds_per_gigabyte, 1.0, over=PROXY),
    Aim("warm manifest by tag", "requests per second", rate, 20.0, over=PROXY, at_least=True),
    Aim("warm manifest by digest", "requests per second", rate, 5.0, over=PROXY, at_least=True),
    Aim("cold image", "throughput", throughput, 1.0, over=PROXY, at_least=True),
    Aim("cold image", "CPU per GB", processor_seconds_per_gigabyte, 1.0, over=PROXY),
    Aim("cold blob", "first byte, first client", first_byte, 1.0, over=PROXY),
    Aim("cold blob", "first byte, last client", last_first_byte, 1.0, over=PROXY),
    Aim("cold blob", "first byte, last client to first", _spread_of_first_bytes, 2.0, unit="x"),
    Aim("cold blob", "bytes from the source", source_share, 1.005, unit="x"),
    Aim("cold blob", "throughput", throughput, 1.0, over=PROXY, at_least=True),
    Aim("8 cold blobs", "peak memory", peak_memory, 200.0, unit="MiB", times=1 / 2**20),
    Aim("8 cold blobs", "bytes from the source", source_share, 1.005, unit="x"),
    Aim("start with", "first answer", seconds, 1.0, unit="s"),
    Aim("listing of", "answer", seconds, 0.25, unit="s"),
    Aim("listing again", "answer when nothing changed", seconds, 0.02, unit="s"),
    Aim("plan of an eviction", "answer", seconds, 3.0, unit="s"),
    Aim("routing among", "for each request", _seconds_per_request, 10.0, unit="us", times=1e6),
    Aim("dashboard opens", "on the screen", seconds, 300.0, unit="ms", times=1e3),
    Aim("dashboard opens with", "memory", peak_memory, 60.0, unit="MB", times=1e-6),
    Aim("dashboard at rest", "sent", _sent_per_second, 0.0, unit="B/s"),
    Aim("dashboard at rest", "processor", _share_of_a_processor, 1.0, unit="%", times=100),
    Aim("dashboard with 20 live pulls", "sent", _sent_per_second, 5.0, unit="kB/s", times=1e-3),
    Aim(
        "dashboard with 20 live pulls", "processor", _share_of_a_processor, 3.0, unit="%", times=100
    ),
    Aim("dashboard shows", "on the screen", seconds, 150.0, unit="ms", times=1e3),
    Aim("dashboard filters", "on the screen", seconds, 150.0, unit="ms", times=1e3),
    Aim("dashboard sorts", "on the screen", seconds, 150.0, unit="ms", times=1e3),
    Aim("dashboard sorts", "memory", peak_memory, 60.0, unit="MB", times=1e-6),
    Aim("dashboard key", "first byte", seconds, 20.0, unit="ms", times=1e3),
    Aim("dashboard aside", "answered", seconds, 200.0, unit="ms", times=1e3),
)

COLUMNS = (
    Column("Scenario"),
    Column("Figure"),
    Column("Aim", right=True),
    Column("Measured", right=True),
    Column(""),
)


def verdicts(measurements: Sequence[Measurement]) -> list[tuple[str, str, str, str, str]]:
    """Scenario, figure, aim, what was measured, and whether the aim was met."""
    results = Results.of(measurements)
    found = []
    for scenario in results.scenarios():
        for aim in AIMS:
            if not scenario.startswith(aim.scenario):
                continue
            value = (
                results.figure(scenario, ENTREPOT, aim.figure)
                if aim.over is None
                else results.ratio(scenario, aim.figure, ENTREPOT, aim.over)
            )
            if value is None:
                continue
            value *= aim.times
            unit = f"x {aim.over}" if aim.over else aim.unit
            met = value >= aim.bound if aim.at_least else value <= aim.bound
            sign = ">=" if aim.at_least else "<="
            found.append(
                (
                    scenario,
                    aim.name,
                    f"{sign} {aim.bound:g} {unit}",
                    f"{value:.2f} {unit}",
                    "met" if met else "MISSED",
                )
            )
    return found


def report(measurements: Sequence[Measurement]) -> str:
    """All aims as a table."""
    return table(COLUMNS, verdicts(measurements))
