"""Docker's schema 1 passes as it is: the client decides whether it still reads it."""

from __future__ import annotations

import json

import httpx
import pytest

from entrepot.core.reference import Digest
from entrepot.core.signed_manifests import SIGNED_MANIFEST, UNSIGNED_MANIFEST
from entrepot.core.states import PullState
from entrepot.engine.engine import Engine
from tests.core.test_signed_manifests import signature
from tests.fakes import Content, FakeRegistry

TAG = "/v2/library/old/manifests/1"


def schema_1(source: FakeRegistry, *, signed: bool) -> Content:
    """A manifest of two layers, one of them twice, under a tag."""
    layers = [source.add_blob("library/old", content) for content in (b"base", b"empty")]
    listed = [layers[1], layers[1], layers[0]]
    document = {
        "schemaVersion": 1,
        "name": "library/old",
        "tag": "1",
        "architecture": "amd64",
        "fsLayers": [{"blobSum": str(layer.digest)} for layer in listed],
        "history": [{"v1Compatibility": "{}"} for _ in listed],
    }
    payload = json.dumps(document, indent=3).encode()
    if not signed:
        manifest = Content.of(UNSIGNED_MANIFEST, payload)
    else:
        block = json.dumps([signature(len(payload) - 2)]).encode()
        content = payload[:-2] + b',\n   "signatures": ' + block + b"\n}"
        manifest = Content(SIGNED_MANIFEST, content, Digest.of(payload))
    return source.add_manifest("library/old", manifest, "1")


@pytest.mark.parametrize("signed", [True, False])
async def test_head_and_get_agree_and_the_bytes_are_those_of_the_source(
    signed: bool, registry: httpx.AsyncClient, source: FakeRegistry
) -> None:
    manifest = schema_1(source, signed=signed)
    for reference in ("1", str(manifest.digest)):
        for method in ("HEAD", "GET", "HEAD"):
            response = await registry.request(method, f"/v2/library/old/manifests/{reference}")
            assert response.status_code == 200
            assert response.headers["content-type"] == manifest.media_type
            assert response.headers["docker-content-digest"] == str(manifest.digest)
            assert response.content == (manifest.content if method == "GET" else b"")
    await source.stop()
    assert (await registry.get(TAG)).content == manifest.content


async def test_its_layers_are_served_and_pulled(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    manifest = schema_1(source, signed=True)
    snapshot = await engine.pulls.start("library/old:1", "amd64", "test")
    pull = engine.cache.pulls.get(snapshot.id)
    await pull.finished.wait()
    assert pull.state is PullState.COMPLETED, pull.error
    await source.stop()
    for layer in json.loads(manifest.content)["fsLayers"]:
        assert (await registry.get(f"/v2/library/old/blobs/{layer['blobSum']}")).status_code == 200


async def test_other_bytes_than_those_signed_are_refused(
    registry: httpx.AsyncClient, source: FakeRegistry
) -> None:
    manifest = schema_1(source, signed=True)
    wrong = manifest.content.replace(b'"amd64"', b'"arm64"')
    source.add_manifest("library/old", Content(SIGNED_MANIFEST, wrong, manifest.digest), "1")
    assert (await registry.get(TAG)).status_code == 502


async def test_a_client_that_does_not_accept_it_gets_404_that_names_it(
    registry: httpx.AsyncClient, source: FakeRegistry
) -> None:
    schema_1(source, signed=True)
    accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
    for method in ("HEAD", "GET"):
        response = await registry.request(method, TAG, headers=accept)
        assert response.status_code == 404
    [error] = response.json()["errors"]
    assert SIGNED_MANIFEST in error["message"]
