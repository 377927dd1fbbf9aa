"""``python -m tests.bench``: Entrepot beside Debian's ``docker-registry`` as a pull-through cache
and beside nginx, on the same images, source and driver.

The contenders take turns, and the tables have medians. Source, cache and clients share the
processors of one machine. Because the source is on loopback and takes no time of its own, the
numbers show what a cache costs, not what it saves.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import click
import pytest

from tests.bench import scenarios
from tests.bench.bench import MEGABYTE, Bench
from tests.bench.dashboard import dashboard
from tests.bench.fairness import Crowd, fairness
from tests.bench.growth import growth
from tests.bench.growth_catalogs import Size
from tests.bench.measurement import summary
from tests.bench.misses import misses
from tests.bench.page import fill, page
from tests.bench.results_file import ResultsFile, load, save
from tests.bench.targets import report
from tests.bench.tls_pull import pull_without_client

Scenario = Callable[[Bench], object]
T = TypeVar("T")

GROWTH = {
    "growth-1000": Size("repositories", 1_000),
    "growth-10000": Size("repositories", 10_000),
    "growth-100000": Size("repositories", 100_000),
    "growth-tags": Size("tags", 10_000),
}
"""What ``--growth`` measures."""


def scenarios_of(*, quick: bool) -> dict[str, Scenario]:
    """What is measured, by name; *quick* takes smaller blobs and fewer seconds."""

    def choose(full: T, small: T) -> T:
        return small if quick else full

    def size(full: int, small: int) -> int:
        return choose(full, small) * MEGABYTE

    crowd = Crowd(
        duration=2.0,
        cached=tuple(n * MEGABYTE for n in (1, 10, 20)),
        cold=tuple(n * MEGABYTE for n in range(1, 21)),
    )
    large = [size(128, 64)] * choose(8, 4)
    return {
        "warm-blob": lambda bench: scenarios.warm_blob(bench, size(128, 32), [1, 16]),
        "manifest": lambda bench: scenarios.warm_manifest(bench, 16, choose(4.0, 1.0)),
        "small-layers": lambda bench: scenarios.image_pull(bench, [16 * MEGABYTE] * 6),
        "large-layers": lambda bench: scenarios.image_pull(bench, large),
        "one-client": lambda bench: scenarios.cold_blobs(bench, 1, size(200, 50)),
        "crowd": lambda bench: scenarios.cold_blobs(bench, 50, size(200, 20)),
        "transfers": lambda bench: scenarios.cold_blobs(bench, 200, size(100, 10), blobs=8),
        "tls-blob": lambda bench: scenarios.cold_blobs(bench, 1, size(400, 100), tls=True),
        "tls-image": lambda bench: scenarios.image_pull(bench, [size(64, 16)] * 6, tls=True),
        "tls-pull": lambda bench: pull_without_client(bench, [size(400, 100)]),
        "fairness": lambda bench: fairness(bench, choose(Crowd(), crowd)),
        "misses": lambda bench: misses(bench, choose(2.0, 1.0)),
        "large-cache": lambda bench: scenarios.large_cache(bench, choose(10_000, 1_000), 1_000),
        "dashboard": lambda bench: dashboard(bench, choose(10_000, 1_000)),
    }


@click.command(help=__doc__)
@click.option(
    "--rounds",
    default=None,
    type=click.IntRange(1),
    help="How often everything is measured.  [default: 5; 1 with --quick]",
)
@click.option(
    "--quick", is_flag=True, help="Smaller blobs and a single round: a look, not a result."
)
@click.option(
    "--growth",
    "is_growth",
    is_flag=True,
    help="Measure how the engine grows with its catalog, and nothing else.",
)
@click.option(
    "--growth-data",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the catalogs of --growth are written, and kept for the next time.",
)
@click.option(
    "--only",
    "chosen",
    multiple=True,
    type=click.Choice([*scenarios_of(quick=False), *GROWTH]),
    help="A scenario to run; may be repeated.  [default: all without growth]",
)
@click.option(
    "--against",
    "baseline",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="PYTHON",
    help="The Python of another environment, whose Entrepot is measured in turn with this one.",
)
@click.option(
    "--distribution",
    envvar="BENCH_DISTRIBUTION",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The program of distribution 3, measured in turn with docker-registry.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A file that gets all measurements (JSON).",
)
@click.option(
    "--markdown",
    "files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Print the tables of docs/benchmarks.md from such a file, and measure nothing; may be "
    "repeated.",
)
@click.option(
    "--page",
    "page_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="With --markdown: put the tables into this page instead.",
)
def main(
    rounds: int | None,
    quick: bool,
    chosen: tuple[str, ...],
    is_growth: bool,
    growth_data: Path | None,
    baseline: Path | None,
    distribution: Path | None,
    output: Path | None,
    files: tuple[Path, ...],
    page_file: Path | None,
) -> None:
    """Run the benchmark and print its tables."""
    if files:
        measurements = load(files)
        if page_file is None:
            click.echo(page(measurements))
        else:
            page_file.write_text(fill(page_file.read_text(), measurements))
        return
    rounds = rounds or (1 if quick else 5)
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        bench = Bench(
            Path(directory),
            rounds,
            progress=lambda line: click.echo(line, err=True),
            baseline=baseline,
            distribution=distribution,
        )
        try:
            for name, scenario in scenarios_of(quick=quick).items():
                if name in chosen or not (chosen or is_growth):
                    scenario(bench)
            sizes = {
                name: replace(size, count=1_000) if quick else size for name, size in GROWTH.items()
            }
            for name, size in sizes.items():
                if name in chosen or is_growth:
                    growth(bench, [size], data=growth_data)
        except (pytest.skip.Exception, pytest.fail.Exception) as missing:
            raise click.ClickException(str(missing)) from None
        finally:
            # What was measured until then took a quarter of an hour.
            if output is not None:
                save(output, ResultsFile(rounds, os.cpu_count() or 0, bench.found))
            click.echo(
                f"{rounds} rounds, medians; {os.cpu_count()} processors, shared by source, "
                "contender and clients.\n"
            )
            click.echo(summary(bench.found))
            click.echo()
            click.echo(report(bench.found))
            if tables := page(bench.found, aims=False):
                click.echo(f"\n{tables}")


if __name__ == "__main__":
    main()
