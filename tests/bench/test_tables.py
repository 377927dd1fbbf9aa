"""The tables of the benchmark say what was measured."""

from __future__ import annotations

from tests.bench.measurement import ENTREPOT, NGINX, PROXY, Load, Measurement, summary
from tests.bench.targets import verdicts

MEGABYTES = 100_000_000


def cold(
    through: str,
    seconds: float,
    *,
    sent: int = MEGABYTES,
    first_bytes: tuple[float, ...] = (0.01, 0.02),
) -> Measurement:
    load = Load(seconds, received=2 * MEGABYTES, first_bytes=first_bytes)
    return Measurement(
        "cold blob of 100 MB, 2 clients",
        through,
        load,
        MEGABYTES,
        1,
        sent,
        processor_seconds=0.5,
        peak_memory=80_000_000,
    )


def test_the_table_has_medians_and_compares_speeds() -> None:
    lines = summary(
        [*(cold(ENTREPOT, each) for each in (1.0, 2.0, 9.0)), cold(PROXY, 4.0)]
    ).splitlines()
    name = "cold blob of 100 MB, 2 clients"
    assert (
        " ".join(lines[1].split())
        == f"{name} entrepot 2.000 1.000-9.000 100 - 2.00 - - - 10.0-20.0 2.50 - 80 1 100.0"
    )
    assert (
        " ".join(lines[2].split())
        == f"{name} docker-registry 4.000 4.000-4.000 50 - 1.00 - - - 10.0-20.0 2.50 - 80 1 100.0"
    )


def test_requests_are_compared_by_their_number_and_have_times_of_their_own() -> None:
    def warm(through: str, requests: int) -> Measurement:
        return Measurement(
            "warm manifest by tag",
            through,
            Load(2.0, 5_000, requests, 0.001, 0.003),
            processor_seconds=1.0,
            peak_memory=80_000_000,
        )

    lines = summary([warm(ENTREPOT, 20_000), warm(PROXY, 1_000)]).splitlines()
    assert " ".join(lines[1].split()) == (
        "warm manifest by tag entrepot 2.000 2.000-2.000 - 10,000 20.00 - 1.00 3.00 - - 50 80 0 0.0"
    )


def test_a_target_is_met_or_missed_by_the_medians() -> None:
    rows = [cold(ENTREPOT, 2.0), cold(PROXY, 1.0, sent=2 * MEGABYTES, first_bytes=(0.005, 0.5))]
    assert [each[1:] for each in verdicts(rows)] == [
        ("first byte, first client", "<= 1 x docker-registry", "2.00 x docker-registry", "MISSED"),
        ("first byte, last client", "<= 1 x docker-registry", "0.04 x docker-registry", "met"),
        ("first byte, last client to first", "<= 2 x", "2.00 x", "met"),
        ("bytes from the source", "<= 1.005 x", "1.00 x", "met"),
        ("throughput", ">= 1 x docker-registry", "0.50 x docker-registry", "MISSED"),
    ]


def test_without_a_contender_to_compare_with_there_is_no_verdict() -> None:
    warm = Measurement(
        "warm blob of 1 MB, 1 connection",
        ENTREPOT,
        Load(1.0, received=1_000_000),
        expected=1_000_000,
    )
    assert verdicts([warm]) == []
    assert [
        each[-1]
        for each in verdicts(
            [
                warm,
                Measurement(
                    warm.scenario, NGINX, Load(2.0, received=1_000_000), expected=1_000_000
                ),
            ]
        )
    ] == ["met"]
