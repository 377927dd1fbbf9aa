"""An image with what refers to it: after the pull, its signatures are verified offline (F58)."""

from __future__ import annotations

import json

import httpx

from entrepot.core.media_types import OCI_MANIFEST
from entrepot.core.reference import Digest
from entrepot.core.states import PullState
from entrepot.engine.engine import Engine
from tests.fakes import Content, FakeImage, FakeRegistry, Status

BASE = "/v2/library/nginx"


def artifact(source: FakeRegistry, subject: Digest, kind: str) -> Content:
    """An artifact with a blob of its own, in the list of its subject's referrers."""
    blob = source.add_blob("library/nginx", f"{kind} of {subject}".encode())
    empty = source.add_blob("library/nginx", b"{}")
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": kind,
        "config": empty.descriptor.document(),
        "layers": [blob.descriptor.document()],
        "subject": {"mediaType": OCI_MANIFEST, "digest": str(subject), "size": 1},
    }
    manifest = Content.of(OCI_MANIFEST, json.dumps(document).encode())
    source.add_referrer("library/nginx", subject, manifest, kind)
    return manifest


async def pulled(engine: Engine, *, referrers: bool) -> PullState:
    snapshot = await engine.pulls.start("library/nginx:1", "amd64", "test", referrers=referrers)
    pull = engine.cache.pulls.get(snapshot.id)
    await pull.finished.wait()
    return pull.state


async def opens(registry: httpx.AsyncClient, manifest: Content) -> bool:
    """Whether an artifact and all its blobs are cached."""
    if (await registry.get(f"{BASE}/manifests/{manifest.digest}")).status_code != 200:
        return False
    layers = json.loads(manifest.content)["layers"]
    statuses = [
        (await registry.get(f"{BASE}/blobs/{layer['digest']}")).status_code for layer in layers
    ]
    return set(statuses) == {200}


async def test_f58_signatures_of_index_and_image_and_of_sboms_come_with_the_image(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    image: FakeImage = source.add_image("library/nginx", "1", layers=[10])
    platform = image.platforms["linux/amd64"]
    of_index = artifact(source, image.digest, "application/vnd.cncf.notary.signature")
    sbom = artifact(source, platform.digest, "application/spdx+json")
    of_sbom = artifact(source, sbom.digest, "application/vnd.cncf.notary.signature")
    cosign = artifact(source, Digest.of(b"nothing"), "cosign")
    source.add_manifest("library/nginx", cosign, f"sha256-{image.digest.hex}.sig")
    assert await pulled(engine, referrers=True) is PullState.COMPLETED
    await source.stop()
    for manifest in (of_index, sbom, of_sbom, cosign):
        assert await opens(registry, manifest)
    response = await registry.get(f"{BASE}/referrers/{image.digest}")
    assert [entry["digest"] for entry in response.json()["manifests"]] == [str(of_index.digest)]
    response = await registry.get(f"{BASE}/manifests/sha256-{image.digest.hex}.sig")
    assert response.status_code == 200


async def test_without_the_option_no_referrer_is_asked_for(
    engine: Engine, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1", layers=[10])
    assert await pulled(engine, referrers=False) is PullState.COMPLETED
    assert source.count("GET", "/referrers/") == source.count("GET", ".sig") == 0


async def test_f73_a_list_that_can_not_be_read_fails_the_pull_and_keeps_the_image(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1", layers=[10])
    source.fault("/referrers/", Status(500))
    assert await pulled(engine, referrers=True) is PullState.FAILED
    error = engine.cache.pulls.all()[0].error
    assert error is not None
    assert error.message.startswith("The image is cached, but not all that refers to it: ")
    await source.stop()
    assert (await registry.get(f"{BASE}/manifests/1")).status_code == 200
