"""What artifacts are called, by the media types that their tools write."""

from __future__ import annotations

import pytest

from entrepot.core.artifact_kinds import EMPTY_CONFIG, UNKNOWN_CONFIG, artifact_kind
from entrepot.core.media_types import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
)
from entrepot.core.signed_manifests import SIGNED_MANIFEST

HELM = "application/vnd.cncf.helm.config.v1+json"
TRIVY = "application/vnd.aquasec.trivy.config.v1+json"
WASM = "application/vnd.wasm.config.v0+json"
NOTATION = "application/vnd.cncf.notary.signature"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SPDX = "application/spdx+json"
CYCLONEDX = "application/vnd.cyclonedx+json"
ARTIFACT_MANIFEST = "application/vnd.oci.artifact.manifest.v1+json"


@pytest.mark.parametrize(
    ("media_type", "artifact_type", "config_type", "layer_types", "name", "stated_type"),
    [
        (OCI_MANIFEST, "", OCI_CONFIG, [OCI_LAYER], "image", None),
        (DOCKER_MANIFEST, "", DOCKER_CONFIG, [DOCKER_LAYER], "image", None),
        (OCI_MANIFEST, "", OCI_CONFIG, [], "image", None),
        (SIGNED_MANIFEST, "", "", [], "image", None),
        (OCI_INDEX, "", "", [OCI_MANIFEST], "image", None),
        (DOCKER_LIST, "", "", [DOCKER_MANIFEST], "image", None),
        (OCI_MANIFEST, "", HELM, ["application/vnd.cncf.helm.chart.content.v1.tar+gzip"],
         "Helm chart", HELM),
        (OCI_MANIFEST, "", OCI_CONFIG, ["application/vnd.dev.cosign.simplesigning.v1+json"],
         "cosign signature", None),
        (OCI_MANIFEST, "", OCI_CONFIG, ["application/vnd.dsse.envelope.v1+json"],
         "in-toto attestation", None),
        (OCI_MANIFEST, "", OCI_CONFIG, ["application/vnd.in-toto+json"],
         "in-toto attestation", None),
        (OCI_MANIFEST, BUNDLE, EMPTY_CONFIG, [BUNDLE], "Sigstore bundle", BUNDLE),
        (OCI_MANIFEST, NOTATION, EMPTY_CONFIG, ["application/jose+json"],
         "Notation signature", NOTATION),
        (OCI_MANIFEST, "", NOTATION, ["application/cose"], "Notation signature", NOTATION),
        (OCI_MANIFEST, SPDX, EMPTY_CONFIG, [SPDX], "SPDX SBOM", SPDX),
        (OCI_MANIFEST, "", UNKNOWN_CONFIG, ["text/spdx"], "SPDX SBOM", None),
        (OCI_MANIFEST, CYCLONEDX, EMPTY_CONFIG, [CYCLONEDX], "CycloneDX SBOM", CYCLONEDX),
        (OCI_MANIFEST, "", TRIVY, ["application/vnd.aquasec.trivy.db.layer.v1.tar+gzip"],
         "Trivy database", TRIVY),
        (OCI_MANIFEST, "", TRIVY, ["application/vnd.aquasec.trivy.javadb.layer.v1.tar+gzip"],
         "Trivy Java database", TRIVY),
        (OCI_MANIFEST, "", WASM, ["application/wasm"], "WebAssembly module", WASM),
        (OCI_MANIFEST, "", OCI_CONFIG, ["application/vnd.wasm.content.layer.v1+wasm"],
         "WebAssembly module", None),
        (ARTIFACT_MANIFEST, SPDX, "", [SPDX], "SPDX SBOM", SPDX),
        (ARTIFACT_MANIFEST, "", "", [], "artifact", None),
        (OCI_MANIFEST, "application/x.own", EMPTY_CONFIG, [EMPTY_CONFIG], "artifact",
         "application/x.own"),
        (OCI_MANIFEST, "", "application/x.config", ["text/plain"], "artifact",
         "application/x.config"),
        (OCI_MANIFEST, "", UNKNOWN_CONFIG, ["text/plain"], "artifact", None),
        (OCI_INDEX, SPDX, "", [OCI_MANIFEST], "SPDX SBOM", SPDX),
        ("application/x.manifest", "", "", [], "artifact", None),
    ],
)  # fmt: skip
def test_an_artifact_is_named_as_what_it_is(
    media_type: str,
    artifact_type: str,
    config_type: str,
    layer_types: list[str],
    name: str,
    stated_type: str | None,
) -> None:
    kind = artifact_kind(
        media_type,
        artifact_type=artifact_type,
        config_type=config_type,
        layer_types=layer_types,
    )
    assert kind == (name, stated_type)
