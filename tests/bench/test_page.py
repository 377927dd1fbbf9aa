"""The tables of the page come from the measurements of a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench.measurement import BASELINE, ENTREPOT, PROXY, Load, Measurement
from tests.bench.page import fill, page, tables
from tests.bench.results_file import ResultsFile, load, save

GIGABYTE = 1_000_000_000


def blob(through: str, seconds: float, loop_seconds: float | None = None) -> Measurement:
    return Measurement(
        "cold blob of 400 MB over TLS, 1 client",
        through,
        Load(seconds, received=GIGABYTE, first_bytes=(0.012,)),
        expected=GIGABYTE,
        processor_seconds=2.5,
        peak_memory=80_000_000,
        loop_seconds=loop_seconds,
    )


def catalog(through: str, seconds: float, *, failed: int = 0) -> Measurement:
    return Measurement(
        "_catalog?n=10, with 1,000 repositories",
        through,
        Load(seconds, requests=3, failed=failed),
        peak_memory=90_000_000,
        memory=70_000_000,
        probe=Load.of_requests([0.001, 0.001, 0.250], seconds=1.0),
    )


def lines(name: str, *measurements: Measurement) -> list[str]:
    return tables(measurements)[name].splitlines()


def test_a_row_has_medians_ranges_and_ratios() -> None:
    rows = lines(
        "over TLS", *(blob(ENTREPOT, seconds, 0.5) for seconds in (2.0, 4.0, 5.0)), blob(PROXY, 5.0)
    )
    assert rows[0] == (
        "| Work | Through | MB/s | first byte ms | CPU s/GB | of it the event loop | peak MB "
        "| to docker-registry |"
    )
    assert rows[2:] == [
        "| cold blob of 400 MB over TLS, 1 client | entrepot | 250 (200 to 500) | 12 (12 to 12) "
        "| 2.5 (2.5 to 2.5) | 0.50 (0.50 to 0.50) | 80 (80 to 80) | 1.25 x |",
        "| cold blob of 400 MB over TLS, 1 client | docker-registry | 200 | 12 | 2.5 | - | 80 "
        "| 1.00 x |",
    ]


def test_growth_is_before_and_now_and_what_had_no_answer_is_marked() -> None:
    rows = lines("1,000 repositories", catalog(ENTREPOT, 0.004), catalog(BASELINE, 60.0, failed=1))
    assert rows[-1] == (
        "| _catalog?n=10 | > 60,000 | 4.0 | 0.0001 x | 1.0 / 250 | 1.0 / 250 | 70 / 90 | 70 / 90 |"
    )


def test_a_file_brings_all_measurements_back(tmp_path: Path) -> None:
    measurements = [catalog(ENTREPOT, 0.004), blob(PROXY, 5.0), blob(ENTREPOT, 5.0, 1.0)]
    for number, some in enumerate((measurements[:2], measurements[2:])):
        save(tmp_path / f"{number}.json", ResultsFile(1, 2, some))
    assert load([tmp_path / "0.json", tmp_path / "1.json"]) == measurements


def test_the_readers_of_cached_blobs_are_a_row_of_their_own() -> None:
    beside = Measurement(
        "manifest beside 200 cached and 50 cold readers",
        ENTREPOT,
        Load.of_requests([0.001] * 98 + [0.020, 0.030], seconds=10.0),
        processor_seconds=5.0,
        loop_seconds=1.0,
        peak_memory=100_000_000,
    )
    cached = replace(
        beside,
        scenario="cached blobs, 200 cached and 50 cold readers",
        load=Load(10.0, received=20 * GIGABYTE),
        expected=20 * GIGABYTE,
    )
    assert lines("beside readers", beside, cached)[2:] == [
        "| manifest by tag, p50, ms | 1.0 |",
        "| the same, p99, ms | 20.0 |",
        "| the same, longest, ms | 30.0 |",
        "| cached blobs, MB/s | 2,000 |",
        "| failed requests for it | 0 |",
        "| failed requests for cached blobs | 0 |",
        "| processor, % of one | 50 |",
        "| of it the event loop, % | 10 |",
        "| peak memory, MB | 100 |",
    ]


def test_an_aim_is_shown_with_what_was_measured_before_and_now() -> None:
    assert lines("aims", catalog(ENTREPOT, 0.004), catalog(BASELINE, 0.042))[2:] == [
        "| _catalog?n=10, with 1,000 repositories | answer | <= 10 ms | 42.00 | 4.00 | met |"
    ]


def test_tables_go_to_their_places_in_the_page() -> None:
    text = "# Page\n\n<!-- table: 1,000 repositories -->\nold\n<!-- end -->\n\nText <!-- end -->"
    measurement = replace(catalog(ENTREPOT, 0.004), scenario="anything, with 1,000 repositories")
    filled = fill(text, [measurement])
    table = tables([measurement])["1,000 repositories"]
    assert filled == text.replace("old", table)
    assert page([measurement]) == f"## 1,000 repositories\n\n{table}"
    with pytest.raises(LookupError, match="'1,000 repositories'"):
        fill("# Page", [measurement])
