"""Look-ups of one thing of a repository: what they return, and that each follows an index."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import Connection, event

from entrepot.core.media_types import OCI_MANIFEST
from entrepot.core.reference import Digest, Tag
from entrepot.store import lookups
from entrepot.store.catalog import Catalog
from entrepot.store.lookups import Lookup, TagTarget
from entrepot.store.manifests import Manifest
from entrepot.store.records import TagEntry
from tests.store.samples import DEBIAN, NGINX, SOURCE, descriptor, image, index

UNKNOWN = Digest.of(b"unknown")


def sized(size: int | None) -> Manifest:
    """A manifest that states this size for a layer that others have too."""
    layers = [descriptor(f"own {size}", 1), descriptor("layer", 0) | {"size": size}]
    content = json.dumps({"schemaVersion": 2, "layers": layers}).encode()
    return Manifest.of(content, OCI_MANIFEST, Digest.of(content))


async def test_what_is_cached_is_found_with_the_source_of_its_repository(catalog: Catalog) -> None:
    manifest = image("a")
    await catalog.add_manifest(NGINX, SOURCE, manifest, tags=[Tag("1")], now=1.0)
    target = TagTarget(TagEntry(manifest.digest, 1.0, 1.0), manifest)
    assert await catalog.lookup_tag(NGINX, Tag("1")) == Lookup(SOURCE, target)
    assert await catalog.lookup_manifest(NGINX, manifest.digest) == Lookup(SOURCE, manifest)
    for blob in manifest.blobs:
        assert await catalog.lookup_blob(NGINX, blob.digest) == Lookup(SOURCE, blob)
    assert await catalog.source_of(NGINX) == SOURCE


async def test_what_only_another_repository_has_is_not_found(catalog: Catalog) -> None:
    ours, theirs = image("a"), image("b")
    await catalog.add_manifest(NGINX, SOURCE, ours, tags=[Tag("1")], now=1.0)
    await catalog.add_manifest(DEBIAN, SOURCE, theirs, tags=[Tag("2")], now=1.0)
    assert await catalog.lookup_tag(NGINX, Tag("2")) == Lookup(SOURCE)
    assert await catalog.lookup_manifest(NGINX, theirs.digest) == Lookup(SOURCE)
    assert await catalog.lookup_blob(NGINX, theirs.blobs[0].digest) == Lookup(SOURCE)


async def test_of_a_repository_that_is_not_cached_there_is_no_source(catalog: Catalog) -> None:
    for lookup in (
        await catalog.lookup_tag(NGINX, Tag("1")),
        await catalog.lookup_manifest(NGINX, UNKNOWN),
        await catalog.lookup_blob(NGINX, UNKNOWN),
    ):
        assert lookup == Lookup(None)
    assert await catalog.source_of(NGINX) is None


async def test_a_manifest_within_an_index_is_no_blob(catalog: Catalog) -> None:
    await catalog.add_manifest(NGINX, SOURCE, index(amd64=image("a")), now=1.0)
    assert await catalog.lookup_blob(NGINX, image("a").digest) == Lookup(SOURCE)


async def test_a_tag_whose_manifest_can_t_be_read_still_says_where_it_points(
    catalog: Catalog,
) -> None:
    odd = Manifest(b"not JSON", OCI_MANIFEST, Digest.of(b"not JSON"), ())
    await catalog.add_manifest(NGINX, SOURCE, odd, tags=[Tag("1")], now=1.0)
    target = TagTarget(TagEntry(odd.digest, 1.0, 1.0), None)
    assert await catalog.lookup_tag(NGINX, Tag("1")) == Lookup(SOURCE, target)


@pytest.mark.parametrize("few", [0, 1_000])
@pytest.mark.parametrize("sizes", [(5, None), (None, 5)])
async def test_f82_a_size_that_one_manifest_states_is_that_of_the_blob(
    sizes: tuple[int | None, ...],
    few: int,
    catalog: Catalog,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lookups, "FEW_MANIFESTS", few)
    for size in sizes:
        await catalog.add_manifest(NGINX, SOURCE, sized(size), now=1.0)
    blob = (await catalog.lookup_blob(NGINX, Digest.of(b"layer"))).value
    assert blob is not None
    assert blob.size == 5


@pytest.mark.parametrize("few", [0, 1_000])
async def test_a_size_that_no_manifest_states_is_unknown(
    few: int, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookups, "FEW_MANIFESTS", few)
    await catalog.add_manifest(NGINX, SOURCE, sized(None), now=1.0)
    blob = (await catalog.lookup_blob(NGINX, Digest.of(b"layer"))).value
    assert blob is not None
    assert blob.size is None


@pytest.mark.parametrize(
    ("few", "index_of_references"),
    [(0, "manifest_references_by_digest"), (1_000, "sqlite_autoindex_manifest_references_1")],
)
async def test_each_look_up_follows_indexes_alone(
    few: int, index_of_references: str, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of the base layer of a hundred thousand images, or in a repository of as many."""
    monkeypatch.setattr(lookups, "FEW_MANIFESTS", few)
    manifest = image("a")
    await catalog.add_manifest(NGINX, SOURCE, manifest, tags=[Tag("1")], now=1.0)
    statements: list[tuple[str, Any]] = []

    def read(connection: Connection) -> list[str]:
        event.listen(
            connection,
            "before_cursor_execute",
            lambda _c, _cursor, statement, parameters, *_: statements.append(
                (statement, parameters)
            ),
        )
        lookups.read_tag(connection, NGINX, Tag("1"))
        lookups.read_blob(connection, NGINX, manifest.blobs[0].digest)
        lookups.read_source(connection, NGINX)
        return [
            row.detail
            for statement, parameters in tuple(statements)
            for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        ]

    steps = await catalog._read(read)
    assert not [step for step in steps if step.startswith("SCAN")]
    assert [step for step in steps if f"INDEX {index_of_references} " in step]
