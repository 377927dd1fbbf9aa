"""Conversions between rows and records."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import text

from entrepot.core.media_types import OCI_MANIFEST
from entrepot.core.reference import Digest
from entrepot.store.catalog import Catalog
from entrepot.store.manifests import Manifest
from entrepot.store.rows import UNKNOWN_SIZE, fetch_all, reference_rows, stated_size
from tests.store.samples import NGINX, SOURCE, descriptor, image


def test_references_become_rows_in_the_order_of_the_manifest() -> None:
    rows = reference_rows(image("a", "b"))
    assert [(row["position"], row["kind"], row["size"]) for row in rows] == [
        (0, "config", 10),
        (1, "layer", 100),
        (2, "layer", 100),
    ]


def test_f82_a_size_that_no_manifest_states_comes_back_as_unknown() -> None:
    layer = descriptor("a", 1) | {"size": None}
    content = json.dumps({"schemaVersion": 2, "layers": [layer]}).encode()
    [row] = reference_rows(Manifest.of(content, OCI_MANIFEST, Digest.of(content)))
    assert (row["size"], stated_size(row["size"])) == (UNKNOWN_SIZE, None)


@pytest.mark.parametrize("size", [0, 2**53])
def test_a_stated_size_comes_back_as_it_is(size: int) -> None:
    assert stated_size(size) == size


async def test_a_long_result_comes_whole_and_in_order(catalog: Catalog) -> None:
    await catalog.add_manifest(NGINX, SOURCE, image("a"), now=1.0)
    numbers = "WITH RECURSIVE n(i) AS (VALUES(0) UNION ALL SELECT i + 1 FROM n WHERE i < 2500)"
    async with catalog._write() as connection:
        rows = await fetch_all(connection, text(f"{numbers} SELECT i FROM n"))
    assert [row.i for row in rows] == list(range(2501))
