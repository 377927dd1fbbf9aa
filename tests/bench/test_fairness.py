"""Clients that cost next to nothing take all bytes, and notice what is wrong."""

from __future__ import annotations

from pathlib import Path

from tests.bench.bench import Bench
from tests.bench.fairness import Crowd, fairness
from tests.bench.measurement import ENTREPOT
from tests.bench.nginx import Nginx
from tests.bench.sinks import Plan, take


def test_everyone_gets_whole_blobs_and_each_cold_one_comes_from_the_source_once(
    bench: Bench,
) -> None:
    cold_sizes = (50_000, 60_000, 300_000)
    crowd = Crowd(4, 2, duration=2.0, cached=(100_000, 2_000_000), cold=cold_sizes)
    probe, cached, cold = fairness(bench, crowd)
    assert [probe.scenario, cached.scenario, cold.scenario] == [
        "manifest beside 4 cached and 2 cold readers",
        "cached blobs, 4 cached and 2 cold readers",
        "cold blobs, 4 cached and 2 cold readers",
    ]
    assert {each.through for each in (probe, cached, cold)} == {ENTREPOT}
    assert {each.load.failed for each in (probe, cached, cold)} == {0}
    assert 0 < cold.load.received <= sum(cold_sizes)
    assert cached.load.received > max(crowd.cached)
    assert probe.load.longest is not None
    assert probe.source_bytes < sum(cold_sizes) + 10_000


def test_a_blob_of_another_length_is_a_failure(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 1000)

    def plan(address: str, size: int) -> Plan:
        items = [[("/file", size)]]
        return Plan(address, 1, items, again=False, duration=10.0)

    with Nginx.with_file(tmp_path / "nginx", file) as nginx:
        right, wrong = take(plan(nginx.address, 1000)), take(plan(nginx.address, 999))
    assert (right.blobs, right.received, right.failed) == (1, 1000, 0)
    assert (wrong.blobs, wrong.failed) == (0, 1)
    assert wrong.failures == ["/file: HTTP/1.1 200 OK, length ['1000'] instead of 999"]
