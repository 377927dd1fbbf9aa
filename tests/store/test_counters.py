"""What is counted of each repository is what counting it from scratch gives, whatever happened to
it."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import tempfile
from collections.abc import Iterable
from contextlib import AsyncExitStack, closing
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from entrepot.core.media_types import OCI_INDEX, OCI_MANIFEST
from entrepot.core.reference import Digest, Repository, Tag
from entrepot.store import counters
from entrepot.store.catalog import Catalog
from entrepot.store.eviction import plan_eviction
from entrepot.store.manifests import Manifest
from tests.store.samples import reconcile, removing

REPOSITORIES = [Repository(f"library/{name}") for name in ("a", "b", "c")]
TAGS = [Tag("1"), Tag("2"), Tag("latest")]
BLOBS = [f"blob {number}" for number in range(8)]
NOW = 1_000_000.0


def size_of(blob: str) -> int:
    return int(10 ** BLOBS.index(blob))


def digest(blob: str) -> Digest:
    return Digest.of(blob.encode())


def image(config: str, *layers: str) -> Manifest:
    descriptors = [
        {
            "mediaType": "application/octet-stream",
            "digest": str(digest(each)),
            "size": size_of(each),
        }
        for each in (config, *layers)
    ]
    content = json.dumps(
        {"schemaVersion": 2, "config": descriptors[0], "layers": descriptors[1:]}
    ).encode()
    return Manifest.of(content, OCI_MANIFEST, Digest.of(content))


def index(*images: Manifest) -> Manifest:
    descriptors = [
        {"mediaType": OCI_MANIFEST, "digest": str(each.digest), "size": len(each.content)}
        for each in images
    ]
    content = json.dumps({"schemaVersion": 2, "manifests": descriptors}).encode()
    return Manifest.of(content, OCI_INDEX, Digest.of(content))


# Some share blobs, one names a blob twice, and one is an image and its own copy with another
# config.
IMAGES = [
    image(BLOBS[0], BLOBS[1], BLOBS[2]),
    image(BLOBS[3], BLOBS[1], BLOBS[2]),
    image(BLOBS[4], BLOBS[1], BLOBS[5], BLOBS[5]),
    image(BLOBS[6], BLOBS[7]),
    image(BLOBS[0], BLOBS[7]),
]
MANIFESTS = [*IMAGES, index(IMAGES[0], IMAGES[1]), index(IMAGES[2]), index(*IMAGES)]

repositories = st.sampled_from(REPOSITORIES)
manifests = st.sampled_from(MANIFESTS)
tags = st.sampled_from(TAGS)
happenings = st.lists(
    st.one_of(
        st.tuples(st.just("came"), repositories, manifests, st.lists(tags, max_size=2)),
        st.tuples(st.just("came"), repositories, manifests, st.lists(tags, max_size=2)),
        st.tuples(st.just("blob came"), st.sampled_from(BLOBS)),
        st.tuples(st.just("blob came"), st.sampled_from(BLOBS)),
        st.tuples(st.just("tag moved"), repositories, tags, manifests),
        st.tuples(st.just("tag went"), repositories, tags),
        st.tuples(st.just("manifest went"), repositories, manifests),
        st.tuples(st.just("repository went"), repositories),
        st.tuples(st.just("collected"), st.sets(st.sampled_from(BLOBS))),
        st.tuples(st.just("evicted"), st.sampled_from([0, 1000, 10**6])),
        st.tuples(st.just("healed"), st.sets(st.sampled_from(BLOBS)), st.booleans()),
        st.tuples(st.just("restarted")),
    ),
    max_size=25,
)


def from_scratch(path: Path) -> dict[str, tuple[int, int, int]]:
    """Tags, manifests and bytes held of each repository, told from the other tables alone."""
    with closing(sqlite3.connect(path)) as connection:
        rows = {
            name: connection.execute(f"SELECT * FROM {name}").fetchall()
            for name in ("tags", "repository_manifests")
        }
        contents = dict(connection.execute("SELECT digest, length(content) FROM manifests"))
        blob_sizes = dict(connection.execute("SELECT digest, size FROM blobs"))
        references = connection.execute(
            "SELECT manifest, digest FROM manifest_references"
        ).fetchall()
        names = [name for (name,) in connection.execute("SELECT name FROM repositories")]
    counted = {}
    for name in names:
        linked = {row[1] for row in rows["repository_manifests"] if row[0] == name}
        needed = {blob for manifest, blob in references if manifest in linked}
        size = sum(blob_sizes.get(blob, 0) for blob in needed) + sum(
            contents[each] for each in linked
        )
        counted[name] = (sum(row[0] == name for row in rows["tags"]), len(linked), size)
    return counted


async def kept(catalog: Catalog) -> dict[str, tuple[int, int, int]]:
    return {
        each.name: (each.tags, each.manifests, each.size) for each in await catalog.repositories()
    }


async def happen(catalog: Catalog, what: str, *with_what: object) -> None:
    match (what, *with_what):
        case ("came", str(name), Manifest() as manifest, list(named)):
            await catalog.add_manifest(
                Repository(name), "docker.io/library/x", manifest, tags=named, now=1.0
            )
        case ("blob came", str(blob)):
            await catalog.add_blob(digest(blob), size_of(blob), now=1.0)
        case ("tag moved", str(name), str(tag), Manifest() as manifest):
            await catalog.point_tag(Repository(name), Tag(tag), manifest.digest, now=2.0)
        case ("tag went", str(name), str(tag)):
            await catalog.delete_tag(Repository(name), Tag(tag))
        case ("manifest went", str(name), Manifest() as manifest):
            await catalog.delete_manifest(Repository(name), manifest.digest)
        case ("repository went", str(name)):
            await catalog.delete_repository(Repository(name))
        case ("collected", set(in_use)):
            await catalog.collect(removing(lambda each: each not in set(map(digest, in_use))))
        case ("evicted", int(goal)):
            with catalog.watched() as watch:
                eviction = plan_eviction(await catalog.inventory(), goal=goal, now=NOW)
                await catalog.evict_steps(
                    list(eviction.parts(1)), watch=watch, remove_blobs=removing(lambda _: True)
                )
        case ("healed", set(on_disk), _):
            await reconcile(catalog, {digest(blob): size_of(blob) for blob in on_disk}, now=3.0)


@given(happenings)
@settings(max_examples=30, deadline=None)
def test_the_counters_of_a_repository_equal_a_recount_after_any_changes(
    everything: Iterable[tuple[str, *tuple[object, ...]]],
) -> None:
    async def live(path: Path) -> None:
        async with AsyncExitStack() as stack:
            catalog = await stack.enter_async_context(Catalog.open(path))
            for what, *with_what in everything:
                if what == "restarted":
                    await stack.aclose()
                    catalog = await stack.enter_async_context(Catalog.open(path))
                elif what == "healed" and with_what[1]:
                    # As if many more had come or gone at once.
                    limit, counters.RECOUNT_ALL_BLOBS = counters.RECOUNT_ALL_BLOBS, 0
                    try:
                        await happen(catalog, what, *with_what)
                    finally:
                        counters.RECOUNT_ALL_BLOBS = limit
                else:
                    await happen(catalog, what, *with_what)
                assert await kept(catalog) == from_scratch(path)
                for name, counted in from_scratch(path).items():
                    [one] = await catalog.repositories(Repository(name))
                    assert (one.tags, one.manifests, one.size) == counted

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(live(Path(directory) / "catalog.sqlite"))
