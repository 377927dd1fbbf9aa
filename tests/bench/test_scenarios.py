"""The benchmark works: who is measured, what is counted, and how many bytes pass. How fast anything
is, is for the benchmark itself."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.bench.bench import Bench
from tests.bench.measurement import (
    BASELINE,
    DISTRIBUTION,
    ENTREPOT,
    NGINX,
    PROXY,
    SOURCE,
    Measurement,
)
from tests.bench.misses import misses
from tests.bench.scenarios import (
    cold_blobs,
    image_pull,
    large_cache,
    warm_blob,
    warm_manifest,
)
from tests.bench.tls_pull import pull_without_client
from tests.programs import require_program

SMALL = 300_000


def by_name(measurements: list[Measurement]) -> dict[tuple[str, str], Measurement]:
    return {(each.scenario, each.through): each for each in measurements}


def test_an_image_is_pulled_cold_and_warm_through_all_and_fetched_once(
    bench: Bench,
) -> None:
    measurements = by_name(image_pull(bench, [SMALL, 20_000], clients=2))
    cold, warm = (f"{state} image: 2 layers of 0.3 MB, 2 clients" for state in ("cold", "warm"))
    assert set(measurements) == {
        (scenario, through) for scenario in (cold, warm) for through in (ENTREPOT, PROXY, SOURCE)
    }
    [size] = {each.expected for each in measurements.values()}
    assert {each.load.received for each in measurements.values()} == {2 * size}
    manifests_and_blobs = 2 + 3
    assert measurements[cold, ENTREPOT].source_gets == manifests_and_blobs
    assert size < measurements[cold, ENTREPOT].source_bytes < size + 5_000
    assert (
        measurements[warm, ENTREPOT].source_gets,
        measurements[warm, ENTREPOT].source_bytes,
    ) == (0, 0)
    assert {measurements[state, SOURCE].source_gets for state in (cold, warm)} == {
        2 * manifests_and_blobs
    }
    assert measurements[cold, PROXY].source_bytes > 2 * size


def test_over_tls_this_engine_and_another_one_fetch_every_blob_once(bench: Bench) -> None:
    bench.baseline = Path(sys.executable)
    # Version 2 takes the place of version 3, which Debian does not have.
    bench.distribution = require_program(PROXY)
    image = by_name(image_pull(bench, [SMALL, 20_000], tls=True))
    blob = by_name(cold_blobs(bench, clients=1, size=SMALL, tls=True))
    for scenario, measurements in (
        ("cold image over TLS: 2 layers of 0.3 MB, 1 client", image),
        ("cold blob of 0.3 MB over TLS, 1 client", blob),
    ):
        assert set(measurements) == {
            (scenario, through) for through in (ENTREPOT, BASELINE, PROXY, DISTRIBUTION)
        }
        for through in (ENTREPOT, BASELINE):
            measurement = measurements[scenario, through]
            assert 0 < measurement.source_bytes - measurement.expected < 5_000
            assert measurement.load.received == measurement.expected
            assert measurement.loop_seconds is not None
            assert len(measurement.load.first_bytes) == 1
        assert measurements[scenario, PROXY].loop_seconds is None


def test_all_read_the_same_held_blob_and_the_source_is_not_asked(bench: Bench) -> None:
    bench.rounds = 2
    measurements = warm_blob(bench, SMALL, [1, 4])
    assert {each.scenario for each in measurements} == {
        "warm blob of 0.3 MB, 1 connection",
        "warm blob of 0.3 MB, 4 connections",
    }
    assert sorted(each.through for each in measurements) == sorted([ENTREPOT, PROXY, NGINX] * 4)
    assert {
        (each.load.received // each.expected, len(each.load.first_bytes)) for each in measurements
    } == {
        (1, 1),
        (4, 4),
    }
    assert {(each.source_gets, each.source_bytes) for each in measurements} == {(0, 0)}
    assert all(each.peak_memory > 0 for each in measurements)


def test_a_cached_manifest_is_requested_by_tag_and_by_digest_and_counted(
    bench: Bench,
) -> None:
    measurements = by_name(warm_manifest(bench, connections=2, seconds=1.0))
    scenarios = [f"warm manifest by {how}, 2 connections" for how in ("tag", "digest")]
    assert set(measurements) == {
        (scenario, through) for scenario in scenarios for through in (ENTREPOT, PROXY)
    }
    for measurement in measurements.values():
        load = measurement.load
        assert load.requests > 0
        assert load.received > load.requests * 500
        assert load.half_within is not None
        assert load.most_within is not None
    assert {measurements[scenario, ENTREPOT].source_gets for scenario in scenarios} == {0}


def test_a_crowd_gets_cold_blobs_and_through_entrepot_the_source_sends_each_once(
    bench: Bench,
) -> None:
    measurements = by_name(cold_blobs(bench, clients=6, size=SMALL, blobs=2))
    entrepot = measurements["2 cold blobs of 0.3 MB, 6 clients", ENTREPOT]
    assert (entrepot.load.received, len(entrepot.load.first_bytes)) == (3 * entrepot.expected, 6)
    layers_and_config = 2 + 1
    assert entrepot.source_gets == layers_and_config
    assert entrepot.expected < entrepot.source_bytes < entrepot.expected + 5_000
    assert (
        measurements["2 cold blobs of 0.3 MB, 6 clients", PROXY].load.received
        == 3 * entrepot.expected
    )


def test_a_large_cache_starts_whole_and_finds_a_rule_for_every_repository(
    bench: Bench,
) -> None:
    *requests, start, routing = large_cache(bench, repositories=12, rules=4)
    assert (start.scenario, routing.scenario) == (
        "start with 12 repositories, 4 rules",
        "routing among 4 rules",
    )
    assert [each.scenario for each in requests] == [
        "listing of the rules, 12 repositories, 4 rules",
        "listing of the repositories, 12 repositories, 4 rules",
        "listing again of the rules, 12 repositories, 4 rules",
        "listing again of the repositories, 12 repositories, 4 rules",
        "plan of an eviction, 12 repositories, 4 rules",
    ]
    assert (start.source_gets, routing.load.requests) == (0, 12)
    assert start.load.seconds > 0


def test_misses_are_counted_and_a_remembered_one_is_asked_of_the_source_once(
    bench: Bench,
) -> None:
    measurements = by_name(misses(bench, 1.0))
    tag, repository, distinct = (
        f"404 of {what}, 16 connections"
        for what in (
            "an unknown tag",
            "an unknown repository",
            "unknown repositories, each once",
        )
    )
    assert set(measurements) == {
        (scenario, through)
        for scenario in (tag, repository, distinct)
        for through in (ENTREPOT, PROXY)
    }
    assert measurements[tag, ENTREPOT].source_requests == 1
    assert measurements[repository, ENTREPOT].source_requests == 1
    one_by_one = measurements[distinct, ENTREPOT]
    assert one_by_one.source_requests >= one_by_one.load.requests > 0
    assert measurements[tag, PROXY].source_requests > 1


def test_a_pull_without_a_client_fetches_every_byte_once(bench: Bench) -> None:
    [pull] = pull_without_client(bench, [SMALL])
    assert pull.scenario == "entrepot pull over TLS: 1 layer of 0.3 MB"
    assert pull.load.received == pull.expected
    assert 0 < pull.source_bytes - pull.expected < 5_000
