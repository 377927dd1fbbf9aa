"""The growth bench asks for all that it lists, and its catalogs are what an engine would write."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from entrepot.core.reference import Digest
from entrepot.store import counters
from tests.bench import growth_catalogs, growth_trial
from tests.bench.bench import Bench
from tests.bench.growth import growth
from tests.bench.growth_catalogs import Size
from tests.bench.growth_data import write
from tests.bench.measurement import ENTREPOT

OF_REPOSITORIES = [
    "start: first answer",
    "start: longest wait of another client afterwards",
    "rule show, the first time",
    "rule show",
    "_catalog?n=10",
    "_catalog?n=1000",
    "_catalog?n=10, from the middle",
    "repositories, as the dashboard asks",
    "entrepot repository list --json",
    "status",
    "entrepot status --json",
    "entrepot rule show",
    "one repository",
    "evict --dry-run --to 0",
    "evict half",
]
OF_TAGS = [
    *OF_REPOSITORIES[:2],
    "tags/list?n=10",
    "tags/list",
    "_tags?n=10",
    "one tag",
    "one tag, as the dashboard shows it",
    "lock one tag",
    "repository show",
    "repository delete",
]


def test_all_requests_are_answered_and_half_of_the_images_evicted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth_catalogs, "IDLE_AFTER_PREPARATION", 0.25)
    monkeypatch.setattr(growth_trial, "IDLE_AFTER_START", 0.25)
    monkeypatch.setattr(growth_trial, "REPEATED_FOR", 0.01)
    measurements = growth(bench, [Size("repositories", 8), Size("tags", 6)])
    assert [measurement.scenario for measurement in measurements] == [
        *(f"{what}, with 8 repositories" for what in OF_REPOSITORIES),
        *(f"{what}, with 6 tags" for what in OF_TAGS),
    ]
    assert {measurement.through for measurement in measurements} == {ENTREPOT}
    assert {measurement.load.failed for measurement in measurements} == {0}
    assert {probe.failed for measurement in measurements if (probe := measurement.probe)} == {0}
    evicted = measurements[len(OF_REPOSITORIES) - 1].load.requests
    assert 4 <= evicted < 8


@pytest.mark.parametrize(("what", "images"), [("repositories", 5), ("tags", 5 + 1)])
def test_a_written_catalog_agrees_with_its_files_and_its_counters(
    tmp_path: Path, what: str, images: int
) -> None:
    write(tmp_path, what, 5)
    catalog, blobs = tmp_path / "d/entrepot/catalog.sqlite", tmp_path / "d/entrepot/blobs"
    files = {
        f"sha256:{file.name}": file.read_bytes() for file in blobs.rglob("*") if file.is_file()
    }
    assert len(files) == images * 2 + 3
    assert all(str(Digest.of(content)) == digest for digest, content in files.items())
    with closing(sqlite3.connect(catalog)) as connection:
        rows = connection.execute("SELECT digest, size FROM blobs").fetchall()
        assert dict(rows) == {digest: len(content) for digest, content in files.items()}
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        query = "SELECT name, tags, manifests, size FROM repositories ORDER BY name"
        before = connection.execute(query).fetchall()
        engine = create_engine(f"sqlite:///{catalog}")
        with engine.begin() as recounting:
            recounting.execute(counters.recount())
        engine.dispose()
        assert before == connection.execute(query).fetchall()
