"""The benchmark works, and its table says what was measured. How fast anything is, is for the benchmark itself."""

from __future__ import annotations

from tests.bench.measurement import ENTREPOT, Measurement, summary
from tests.bench.pull import PROXY, SOURCE, run

LAYERS = [300_000, 20_000]


def test_all_contenders_are_measured_cold_and_warm_in_every_round() -> None:
    found = run(rounds=1, layers=LAYERS, clients=[1, 2])
    scenarios = ("cold, 1 client", "warm, 1 client", "cold, 2 clients", "warm, 2 clients")
    assert [(each.scenario, each.through) for each in found] == [(scenario, through) for scenario in scenarios for through in (ENTREPOT, PROXY, SOURCE)]
    by = {(each.scenario, each.through): each for each in found}
    size = by["cold, 1 client", SOURCE].received
    assert {each.received for each in found} == {size, 2 * size}
    manifests_and_blobs = 2 + 1 + len(LAYERS)
    for crowd in ("1 client", "2 clients"):
        cold, warm = by[f"cold, {crowd}", ENTREPOT], by[f"warm, {crowd}", ENTREPOT]
        assert (cold.source_gets, warm.source_gets, warm.source_bytes) == (manifests_and_blobs, 0, 0)
        assert size < cold.source_bytes < size + 5_000


def test_the_table_has_medians_and_compares_speeds() -> None:
    def measured(through: str, seconds: float) -> Measurement:
        return Measurement("cold, 1 client", through, seconds, 100_000_000, 6, 100_000_000, 0.5, 80_000_000)

    lines = summary([*(measured(ENTREPOT, each) for each in (1.0, 2.0, 9.0)), measured(PROXY, 4.0)], compared_with=PROXY).splitlines()
    assert lines[1].split() == ["cold,", "1", "client", "entrepot", "2.000", "1.000-9.000", "50", "2.00", "6", "100.0", "0.50", "80"]
    assert lines[2].split()[-7:] == ["4.000-4.000", "25", "1.00", "6", "100.0", "0.50", "80"]
