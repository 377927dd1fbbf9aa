"""Artifacts that real tools push, found and pulled through the cache while their source is gone.

The source is docker-registry, which has no referrers API: ORAS finds them by the fallback tag.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from entrepot.core.media_types import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST
from entrepot.core.reference import Digest
from tests.e2e.clients.container_clients import Skopeo
from tests.e2e.clients.entrepot import Entrepot
from tests.e2e.clients.source_registry import DockerRegistry
from tests.fakes.images import Content, FakeImage, PlatformImage

SPDX = "application/spdx+json"
SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"


def oras_client(address: str) -> Any:
    """The client of ORAS for Python, which takes no proxies from the environment."""
    client = pytest.importorskip("oras.client").OrasClient(
        hostname=address, insecure=True, tls_verify=False
    )
    client.session.trust_env = False
    return client


def push_sbom(address: str, image: FakeImage, scratch: Path) -> bytes:
    """Push an SBOM of an image with ORAS, and the index of its referrers as the CLI of ORAS does.

    Returns the SBOM's manifest.
    """
    subject = pytest.importorskip("oras.oci").Subject(
        image.manifest.media_type, str(image.digest), image.manifest.size
    )
    (scratch / "sbom.spdx.json").write_text('{"spdxVersion":"SPDX-2.3"}')
    oras_client(address).push(
        target=f"{address}/{image.repository}:sbom",
        files=[f"{scratch / 'sbom.spdx.json'}:{SPDX}"],
        subject=subject,
        disable_path_validation=True,
        quiet=True,
    )
    with httpx.Client(
        base_url=f"http://{address}/v2/{image.repository}", trust_env=False
    ) as client:
        accept = {"Accept": OCI_MANIFEST}
        manifest = client.get("/manifests/sbom", headers=accept).raise_for_status().content
        descriptor = Content.of(OCI_MANIFEST, manifest).descriptor.document()
        index = {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [descriptor | {"artifactType": SPDX}],
        }
        client.put(
            f"/manifests/sha256-{image.digest.hex}",
            content=json.dumps(index).encode(),
            headers={"Content-Type": OCI_INDEX},
        ).raise_for_status()
    return manifest


def push_signature(address: str, image: FakeImage, scratch: Path, skopeo: Skopeo) -> Content:
    """Push a signature of an image as cosign does, with skopeo; returns its manifest."""
    payload = Content.of(SIMPLE_SIGNING, json.dumps({"critical": str(image.digest)}).encode())
    config = Content.of(OCI_CONFIG, b'{"architecture":"","os":"","rootfs":{"diff_ids":[]}}')
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config.descriptor.document(),
        "layers": [payload.descriptor.document()],
    }
    manifest = Content.of(OCI_MANIFEST, json.dumps(document).encode())
    directory = scratch / "signature"
    directory.mkdir()
    (directory / "version").write_text("Directory Transport Version: 1.1\n")
    (directory / "manifest.json").write_bytes(manifest.content)
    for blob in (payload, config):
        (directory / blob.digest.hex).write_bytes(blob.content)
    tag = f"sha256-{image.digest.hex}.sig"
    finished = skopeo.copy(f"dir:{directory}", f"docker://{address}/{image.repository}:{tag}")
    assert finished.status == 0, finished.output
    return manifest


def test_f58_signatures_and_sboms_are_found_with_the_source_gone(
    entrepot: Entrepot,
    source: DockerRegistry,
    app: FakeImage,
    skopeo: Skopeo,
    tmp_path: Path,
) -> None:
    sbom = push_sbom(source.address, app, tmp_path)
    signature = push_signature(source.address, app, tmp_path, skopeo)
    entrepot.run("pull", "library/app:1", "--platform", "linux/amd64", "--referrers")
    with source.stopped():
        entrepot.stop()
        entrepot.start()
        base = f"http://{entrepot.address}/v2/library/app"
        referrers = httpx.get(f"{base}/referrers/{app.digest}", trust_env=False)
        [entry] = referrers.raise_for_status().json()["manifests"]
        assert entry["digest"] == str(Digest.of(sbom))
        assert referrers.headers["warning"].startswith("299 - ")
        [path] = oras_client(entrepot.address).pull(
            target=f"{entrepot.address}/library/app@{entry['digest']}",
            allowed_media_type=[SPDX],
            outdir=str(tmp_path / "pulled"),
        )
        assert Path(path).read_text() == '{"spdxVersion":"SPDX-2.3"}'
        tag = f"sha256-{app.digest.hex}"
        pulled = tmp_path / "pulled-signature"
        finished = skopeo.copy(
            f"docker://{entrepot.address}/library/app:{tag}.sig", f"dir:{pulled}"
        )
        assert finished.status == 0, finished.output
        assert (pulled / "manifest.json").read_bytes() == signature.content
        shown = entrepot.ask("repository", "show", "library/app")
    kinds = {each["name"]: each["kind"] for each in shown["tags"]}
    assert (kinds[f"{tag}.sig"], kinds["1"]) == ("cosign signature", "image")


def test_a_signed_manifest_of_schema_1_passes(
    new_engine: Any, skopeo: Skopeo, app: FakeImage, source: DockerRegistry, tmp_path: Path
) -> None:
    """skopeo signs it as docker did, and checks its digest when it pulls it again."""
    platform: PlatformImage = app.platforms["linux/amd64"]
    with DockerRegistry(tmp_path / "registry", schema_1=True) as old:
        finished = skopeo.convert(
            f"docker://{source.address}/library/app@{platform.digest}",
            f"docker://{old.address}/library/old:1",
            "v2s1",
        )
        assert finished.status == 0, finished.output
        engine = new_engine(old.url).start()
        engine.create_rule("example-library", "library/*", "library/*")
        skopeo.pull(f"{engine.address}/library/old:1")
        engine.run("pull", "library/old:1")
    url = f"http://{engine.address}/v2/library/old/manifests/1"
    head, manifest = (httpx.request(each, url, trust_env=False) for each in ("HEAD", "GET"))
    assert (head.status_code, manifest.status_code) == (200, 200)
    assert manifest.json()["schemaVersion"] == 1
    digest = manifest.headers["docker-content-digest"]
    assert head.headers["docker-content-digest"] == digest != str(Digest.of(manifest.content))
    skopeo.pull(f"{engine.address}/library/old@{digest}")
