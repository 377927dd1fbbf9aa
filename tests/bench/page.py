"""The tables of ``docs/benchmarks.md``, in Markdown: medians, and the range of all rounds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench.measurement import (
    BASELINE,
    DISTRIBUTION,
    ENTREPOT,
    PROXY,
    Figure,
    Measurement,
    Results,
    first_byte,
    half_within,
    images_per_second,
    longest,
    loop_lag,
    loop_seconds_per_gigabyte,
    memory,
    most_within,
    peak_memory,
    probe_half_within,
    probe_longest,
    processor_seconds_per_gigabyte,
    rate,
    seconds,
    source_requests,
    throughput,
)
from tests.bench.targets import judge

NOTHING = "-"

TEXTS = {"Work", "Through", "Figure"}
"""Titles of columns without numbers."""

COMPARED = (BASELINE, PROXY, DISTRIBUTION)
"""To which the first figure of a table is put in relation."""


@dataclass(frozen=True)
class Column:
    """A figure and how it is written: multiplied, with a number of decimals."""

    title: str
    figure: Figure
    times: float = 1.0
    decimals: int = 0


OVER_TLS = (
    Column("MB/s", throughput, 1e-6),
    Column("first byte ms", first_byte, 1e3),
    Column("CPU s/GB", processor_seconds_per_gigabyte, 1, 1),
    Column("of it the event loop", loop_seconds_per_gigabyte, 1, 2),
    Column("peak MB", peak_memory, 1e-6),
)

MISSES = (
    Column("requests/s", rate),
    Column("p50 ms", half_within, 1e3, 1),
    Column("p99 ms", most_within, 1e3, 1),
    Column("requests to the source", source_requests),
    Column("peak MB", peak_memory, 1e-6),
)

BESIDE_READERS = (
    ("manifest beside", Column("manifest by tag, p50, ms", half_within, 1e3, 1)),
    ("manifest beside", Column("the same, p99, ms", most_within, 1e3, 1)),
    ("manifest beside", Column("the same, longest, ms", longest, 1e3, 1)),
    ("manifest beside", Column("longest lag of the event loop, ms", loop_lag, 1e3, 1)),
    ("cached blobs,", Column("cached blobs, MB/s", throughput, 1e-6)),
    ("cold blobs,", Column("cold blobs, MB/s", throughput, 1e-6)),
    ("cold blobs,", Column("the same, first byte, p50, ms", half_within, 1e3)),
    ("manifest beside", Column("failed requests for it", lambda of: of.load.failed)),
    ("cached blobs,", Column("failed requests for cached blobs", lambda of: of.load.failed)),
    ("cold blobs,", Column("failed requests for cold blobs", lambda of: of.load.failed)),
    ("manifest beside", Column("processor, % of one", lambda of: _share(of), 100)),
    ("manifest beside", Column("of it the event loop, %", lambda of: _loop_share(of), 100)),
    ("manifest beside", Column("peak memory, MB", peak_memory, 1e-6)),
)

PROBE = (Column("p50", probe_half_within, 1e3, 1), Column("longest", probe_longest, 1e3))
MEMORY = (Column("at the end", memory, 1e-6), Column("peak", peak_memory, 1e-6))


def tables(measurements: Sequence[Measurement]) -> dict[str, str]:
    """The tables for which there are measurements, by the names of their places in the page."""
    results = Results.of(measurements)
    named = {
        "aims": _aims(measurements),
        "over TLS": _contenders(results, "over TLS", OVER_TLS),
        "beside readers": _beside_readers(results),
        "misses": _contenders(results, "404 of ", MISSES),
        **_growth(results),
    }
    return {name: table for name, table in named.items() if table}


def page(measurements: Sequence[Measurement]) -> str:
    """All tables, one below the other."""
    return "\n\n".join(f"## {name}\n\n{table}" for name, table in tables(measurements).items())


def fill(text: str, measurements: Sequence[Measurement]) -> str:
    """The text of the page with new tables: each stands between ``<!-- table: NAME -->`` and
    ``<!-- end -->``. Raises `LookupError` where the page has no place for one."""
    for name, table in tables(measurements).items():
        place = re.compile(rf"(<!-- table: {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
        text, count = place.subn(lambda match: f"{match[1]}{table}\n{match[2]}", text)  # noqa: B023
        if not count:
            raise LookupError(f"the page has no place for the table {name!r}")
    return text


def _aims(measurements: Sequence[Measurement]) -> str:
    """What the benchmark has an aim for."""
    rows = [
        [
            verdict.scenario,
            verdict.target.name,
            verdict.aim,
            NOTHING if verdict.before is None else f"{verdict.before:.2f}",
            f"{verdict.value:.2f}",
            "met" if verdict.is_met else "**missed**",
        ]
        for verdict in judge(measurements)
    ]
    return _table(["Work", "Figure", "aim", "before", "now", ""], rows)


def _contenders(results: Results, part: str, columns: Sequence[Column]) -> str:
    """A line for each contender and scenario whose name has a *part*."""
    rows = []
    for scenario in results.scenarios():
        if part not in scenario:
            continue
        for through in results.contenders(scenario):
            ratios = [
                results.ratio(scenario, columns[0].figure, through, other) for other in COMPARED
            ]
            rows.append(
                [
                    scenario,
                    through,
                    *(_cell(results, scenario, through, column) for column in columns),
                    *map(_times, ratios),
                ]
            )
    titles = ["Work", "Through", *(column.title for column in columns)]
    titles += [f"to {other}" for other in COMPARED]
    return _table(titles, rows)


def _beside_readers(results: Results) -> str:
    rows = []
    for prefix, column in BESIDE_READERS:
        for scenario in results.scenarios():
            if scenario.startswith(prefix):
                rows.append([column.title, *_before_and_now(results, scenario, column)])
    return _table(["Figure", "before", "now", ""], rows)


def _growth(results: Results) -> dict[str, str]:
    """A table for each size of a catalog."""
    growth = {}
    sizes: dict[str, list[str]] = {}
    for scenario in results.scenarios():
        what, separator, size = scenario.rpartition(", with ")
        if separator and size.endswith((" repositories", " tags")) and "rules" not in size:
            sizes.setdefault(size, []).append(what)
    for size, whats in sizes.items():
        rows = []
        for what in whats:
            scenario = f"{what}, with {size}"
            column = (
                Column("evict half, images/s", images_per_second)
                if what == "evict half"
                else Column(what, seconds, 1e3, 1)
            )
            rows.append(
                [
                    column.title,
                    *_before_and_now(results, scenario, column),
                    *_pair(results, scenario, PROBE),
                    *_pair(results, scenario, MEMORY),
                ]
            )
        titles = ["Work", "before, ms", "now, ms", ""]
        for figures in ("probe, p50 / longest, ms", "memory, at the end / peak, MB"):
            titles += [f"{figures}: before", "now"]
        growth[size] = _table(titles, rows)
    return growth


def _before_and_now(results: Results, scenario: str, column: Column) -> list[str]:
    """Before, now, and now in relation to before."""
    ratio = results.ratio(scenario, column.figure, ENTREPOT, BASELINE)
    return [
        *(_cell(results, scenario, through, column) for through in (BASELINE, ENTREPOT)),
        _times(ratio),
    ]


def _times(ratio: float | None) -> str:
    if ratio is None:
        return NOTHING
    return f"{ratio:.2f} x" if ratio >= 0.1 else f"{ratio:.4f} x"


def _pair(results: Results, scenario: str, columns: tuple[Column, Column]) -> list[str]:
    """The medians of two figures, before and now."""
    cells = []
    for through in (BASELINE, ENTREPOT):
        values = [results.figure(scenario, through, column.figure) for column in columns]
        numbers = [
            NOTHING if value is None else _number(value, column)
            for value, column in zip(values, columns, strict=True)
        ]
        cells.append(NOTHING if {*numbers} == {NOTHING} else " / ".join(numbers))
    return cells


def _cell(results: Results, scenario: str, through: str, column: Column) -> str:
    """The median, and the range where there are several rounds; what had no answer is marked."""
    value = results.figure(scenario, through, column.figure)
    extremes = results.range(scenario, through, column.figure)
    if value is None or extremes is None:
        return NOTHING
    group = results.groups[scenario, through]
    failed = sum(measurement.load.failed for measurement in group)
    over = "> " if failed and column.figure is seconds else ""
    median = f"{over}{_number(value, column)}"
    if len(group) == 1:
        return median
    return f"{median} ({_number(extremes[0], column)} to {_number(extremes[1], column)})"


def _number(value: float, column: Column) -> str:
    number = value * column.times
    return f"{number:,.{0 if abs(number) >= 100 else column.decimals}f}"


def _share(of: Measurement) -> float:
    return of.processor_seconds / of.load.seconds


def _loop_share(of: Measurement) -> float | None:
    return None if of.loop_seconds is None else of.loop_seconds / of.load.seconds


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown; nothing without rows. Rows and columns without any figure are left
    out."""
    rows = [
        row
        for row in rows
        if any(
            cell != NOTHING
            for heading, cell in zip(titles, row, strict=True)
            if heading not in TEXTS
        )
    ]
    if not rows:
        return ""
    used = [
        number
        for number in range(len(titles))
        if number == 0 or any(row[number] != NOTHING for row in rows)
    ]
    lines = [
        [titles[number] for number in used],
        ["---" if titles[number] in TEXTS else "---:" for number in used],
        *([row[number] for number in used] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
