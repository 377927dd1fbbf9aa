"""What is kept in memory of each repository, and how much of it at the most."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from entrepot.cache import index as holdings_module
from entrepot.cache.index import DIGESTS, RECENT_BLOBS, RESOLVED_TAGS, Holding, Holdings
from entrepot.core.media_types import OCI_INDEX, OCI_MANIFEST
from entrepot.core.reference import Digest, Repository, Tag
from entrepot.store.catalog import Catalog
from entrepot.store.manifests import Descriptor, Manifest, ReferenceKind
from tests.store.test_catalog import SOURCE, image

NGINX = Repository("library/nginx")


def digest(name: object) -> Digest:
    return Digest.of(str(name).encode())


def descriptor(
    name: object, kind: ReferenceKind = ReferenceKind.LAYER, platform: str | None = None
) -> Descriptor:
    return Descriptor(digest(name), kind, "application/octet-stream", 5, platform)


def image_of(name: object, *layers: object) -> Manifest:
    return Manifest(b"{}", OCI_MANIFEST, digest(name), tuple(descriptor(each) for each in layers))


@pytest.fixture
async def holdings(tmp_path: Path) -> AsyncIterator[Holdings]:
    async with Catalog.open(tmp_path / "catalog.sqlite") as catalog:
        yield Holdings(catalog)


def test_s31_what_one_repository_makes_us_remember_is_bounded() -> None:
    holding = Holding({}, {})
    for number in range(5_000):
        holding.resolves(Tag(f"t{number}"), digest(number), OCI_MANIFEST, 5, 1.0)
        holding.was_asked(image_of(number, f"a{number}", f"b{number}"), Tag(f"t{number}"))
    children = tuple(
        descriptor(number, ReferenceKind.MANIFEST, "linux/amd64") for number in range(5_000)
    )
    holding.was_asked(Manifest(b"{}", OCI_INDEX, digest("index"), children), Tag("index"))
    assert len(holding.resolved) == RESOLVED_TAGS
    assert [len(each) for each in (holding.tag_of, holding.platform_of)] == [DIGESTS] * 2
    assert sum(1 + len(blobs) for blobs in holding._recent.values()) <= RECENT_BLOBS
    # What was asked for last is what is still known.
    assert holding.last_asked_with(digest("b4999")) == digest(4999)
    assert holding.last_asked_with(digest("b0")) is None
    assert holding.tag_of[digest(4999)] == "index"


async def test_s31_what_all_repositories_make_us_remember_is_bounded(
    holdings: Holdings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holdings_module, "REMEMBERED", 1_000)
    for repository in range(50):
        holding = await holdings.of(Repository(f"library/r{repository}"))
        for number in range(100):
            holding.resolves(Tag(f"t{number}"), digest(number), OCI_MANIFEST, 5, 1.0)
        assert holdings._tally.count <= 1_000 + 200
    last, first = (
        await holdings.of(Repository("library/r49")),
        await holdings.of(Repository("library/r0")),
    )
    assert (len(last.resolved), len(first.resolved)) == (100, 0)


async def test_s31_a_repository_that_is_forgotten_counts_no_more(
    holdings: Holdings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holdings_module, "REPOSITORIES", 1)
    for name in ("library/a", "library/b"):
        (await holdings.of(Repository(name))).resolves(Tag("1"), digest(1), OCI_MANIFEST, 5, 1.0)
    assert holdings._tally.count == 2
    holdings.forget(Repository("library/b"))
    assert holdings._tally.count == 0


def test_s31_the_bytes_of_images_that_were_asked_for_are_not_kept_with_their_blobs() -> None:
    """A hundred images of eight megabytes for each repository would be."""
    holding = Holding({}, {})
    manifest = image_of("big", "layer")
    holding.was_asked(manifest, None)
    assert holding.last_asked_with(digest("layer")) == manifest.digest
    assert manifest not in list(holding._recent.values())


async def test_manifests_in_memory_are_counted_with_the_view_of_them(
    holdings: Holdings, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifests = [image(f"layer{number}") for number in range(3)]
    monkeypatch.setattr(
        holdings_module,
        "MANIFEST_BYTES",
        2 * (len(manifests[0].content) + 2 * holdings_module.REFERENCE_BYTES),
    )
    for each in manifests:
        await holdings.add_manifest(NGINX, SOURCE, each, tags=[], now=1.0)
    assert list(holdings._manifests) == [each.digest for each in manifests[1:]]
    assert await holdings.manifest_of(NGINX, manifests[0].digest) == manifests[0]


async def test_f67_a_manifest_that_no_catalog_takes_is_not_kept_in_memory_either(
    holdings: Holdings,
) -> None:
    impossible = Manifest(
        b"{}",
        OCI_MANIFEST,
        digest("big"),
        (Descriptor(digest("layer"), ReferenceKind.LAYER, "text/plain", 2**64),),
    )
    with pytest.raises(OverflowError):
        await holdings.add_manifest(NGINX, SOURCE, impossible, tags=[Tag("1")], now=1.0)
    assert await holdings.tag(NGINX, Tag("1")) is None
    assert await holdings.manifest_of(NGINX, impossible.digest) is None
    assert await holdings.write_unwritten() == 0
