"""The benchmark of one blob works. How fast anything is, is for the benchmark itself."""

from __future__ import annotations

from tests.bench.blob import NGINX, run_blob
from tests.bench.measurement import ENTREPOT


def test_both_serve_the_same_bytes_in_every_round_and_the_source_is_not_asked() -> None:
    found = run_blob(rounds=2, size=300_000, connections=4)
    assert [each.through for each in found] == [ENTREPOT] * 2 + [NGINX] * 2
    assert {each.scenario for each in found} == {"warm blob, 4 connections"}
    [received] = {each.received for each in found}
    assert 4 * 290_000 < received < 4 * 310_000
    assert {(each.source_gets, each.source_bytes) for each in found} == {(0, 0)}
    assert all(each.seconds > 0 and each.peak_memory > 0 for each in found)
