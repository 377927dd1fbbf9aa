"""What exports read from the catalog, and imports write to it."""

from __future__ import annotations

import json

import pytest

from entrepot.core.media_types import OCI_INDEX
from entrepot.core.reference import Digest, Repository, Tag
from entrepot.core.states import TagImport
from entrepot.store.catalog import Catalog
from entrepot.store.manifests import Manifest, artifact_type_of, subject_of
from entrepot.store.records import BlobOrigin
from entrepot.store.transfer import TagState

NGINX, TAG = Repository("library/nginx"), Tag("1")
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
THERE = TagState(cached=100.0, checked=200.0, last_pull=150.0, gone=True, locked=True)


def manifest(**fields: object) -> Manifest:
    content = json.dumps({"schemaVersion": 2} | fields).encode()
    return Manifest.of(content, MANIFEST, Digest.of(content))


async def add(catalog: Catalog, added: Manifest, *tags: Tag, now: float = 50.0) -> None:
    await catalog.add_manifest(NGINX, "docker.io/library/nginx", added, tags=tags, now=now)


async def test_a_new_tag_has_the_state_that_it_had_elsewhere(catalog: Catalog) -> None:
    one = manifest(name="one")
    await add(catalog, one)
    assert await catalog.import_tag(NGINX, TAG, one.digest, THERE) is TagImport.IMPORTED
    assert await catalog.tag_state(NGINX, TAG) == (one.digest, THERE)
    [repository] = await catalog.repositories(NGINX)
    assert repository.tags == 1
    assert await catalog.import_tag(NGINX, TAG, one.digest, THERE) is TagImport.UNCHANGED
    [repository] = await catalog.repositories(NGINX)
    assert repository.tags == 1


async def test_the_later_check_wins_and_a_lock_here_stays(catalog: Catalog) -> None:
    one, two = manifest(name="one"), manifest(name="two")
    await add(catalog, one, TAG, now=300.0)
    await add(catalog, two)
    await catalog.lock_tag(NGINX, TAG, True)
    assert await catalog.import_tag(NGINX, TAG, two.digest, THERE) is TagImport.NEWER_HERE
    later = TagState(cached=100.0, checked=400.0)
    assert await catalog.import_tag(NGINX, TAG, two.digest, later) is TagImport.MOVED
    assert await catalog.tag_state(NGINX, TAG) == (
        two.digest,
        TagState(cached=100.0, checked=400.0, locked=True),
    )


async def test_a_tag_of_an_index_stays_when_one_image_of_it_is_imported(catalog: Catalog) -> None:
    image = manifest(name="one")
    listed = {"mediaType": MANIFEST, "digest": str(image.digest), "size": len(image.content)}
    content = json.dumps({"schemaVersion": 2, "manifests": [listed]}).encode()
    index = Manifest.of(content, OCI_INDEX, Digest.of(content))
    await add(catalog, index, TAG)
    await add(catalog, image)
    before = await catalog.tag_state(NGINX, TAG)
    assert await catalog.import_tag(NGINX, TAG, image.digest, THERE) is TagImport.INDEX_HERE
    assert await catalog.tag_state(NGINX, TAG) == before


async def test_a_tag_without_its_manifest_is_not_imported(catalog: Catalog) -> None:
    await add(catalog, manifest(name="one"))
    other = manifest(name="other").digest
    assert await catalog.import_tag(NGINX, TAG, other, THERE) is TagImport.WITHOUT_MANIFEST
    assert await catalog.tag_state(NGINX, TAG) is None


def test_a_time_in_the_future_is_now_and_none_is_before_the_epoch() -> None:
    assert TagState(-1e308, 1e308).not_after(500.0) == TagState(0.0, 500.0)
    assert TagState(900.0, 950.0, 990.0).not_after(500.0) == TagState(500.0, 500.0, 500.0)
    assert TagState(1.0, 2.0).not_after(500.0) == TagState(1.0, 2.0)


async def test_referrers_are_found_by_their_subject(catalog: Catalog) -> None:
    image = manifest(name="image")
    subject = {"digest": str(image.digest), "size": 1, "mediaType": MANIFEST}
    signature = manifest(subject=subject, artifactType="application/example")
    await add(catalog, image)
    await add(catalog, signature)
    await add(catalog, manifest(note='"subject"', mentions=str(image.digest)))
    assert await catalog.referrers_by_subject(NGINX) == {image.digest: [signature.digest]}
    assert await catalog.referrers_by_subject(Repository("library/other")) == {}


async def test_an_inventory_comes_in_pages_with_the_origins(catalog: Catalog) -> None:
    digests = sorted(Digest.of(name) for name in (b"1", b"2", b"3"))
    for digest in digests:
        await catalog.add_blob(digest, 5, now=1.0)
    origins = {BlobOrigin("docker.io", True), BlobOrigin("quay.io", False)}
    for origin in origins:
        await catalog.add_blob_origin(digests[1], origin)
    first = await catalog.inventory_after(None, 2)
    assert [entry.digest for entry in first] == digests[:2]
    assert [entry.origins for entry in first] == [frozenset(), origins]
    assert [entry.digest for entry in await catalog.inventory_after(digests[1], 2)] == digests[2:]


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"subject": 5}', b'{"subject": {"digest": "x"}}', b"[" * 100_000]
)
def test_a_manifest_that_can_t_be_read_is_about_nothing(content: bytes) -> None:
    assert subject_of(content) is None
    assert artifact_type_of(content) is None


def test_an_artifact_has_its_own_type_or_that_of_its_config() -> None:
    config = b'"config":{"mediaType":"application/vnd.cncf.helm.config.v1+json"}'
    assert artifact_type_of(b"{%b}" % config) == "application/vnd.cncf.helm.config.v1+json"
    assert artifact_type_of(b'{"artifactType":"a/b",%b}' % config) == "a/b"
    assert artifact_type_of(b'{"artifactType":"no type",%b}' % config) != "no type"
