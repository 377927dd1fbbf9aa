"""What an artifact is, by its media types: image, Helm chart, signature, SBOM.

The manifest's ``artifactType`` says it, else the media type of its config (OCI image specification
1.1, "Guidelines for Artifact Usage"). Signatures and attestations of cosign 2 and BuildKit have the
config of an image, and only their layers say what they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from entrepot.core.media_types import DOCKER_CONFIG, INDEXES, OCI_CONFIG
from entrepot.core.signed_manifests import SCHEMA_1

IMAGE: Final = "image"
ARTIFACT: Final = "artifact"
"""An artifact of a type that is not in the table."""

EMPTY_CONFIG: Final = "application/vnd.oci.empty.v1+json"
UNKNOWN_CONFIG: Final = "application/vnd.unknown.config.v1+json"
"""The config that ORAS writes for an artifact without a config of its own."""

_NO_TYPE = frozenset({"", EMPTY_CONFIG, UNKNOWN_CONFIG})
_IMAGE_CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG})

_JAVA_DATABASE = "application/vnd.aquasec.trivy.javadb.layer.v1.tar+gzip"

_KINDS: Final = (
    ("application/vnd.cncf.helm.", "Helm chart"),
    ("application/vnd.dev.cosign.simplesigning.", "cosign signature"),
    ("application/vnd.dev.cosign.artifact.sig.", "cosign signature"),
    ("application/vnd.dev.cosign.artifact.sbom.", "SBOM"),
    ("application/vnd.dev.sigstore.bundle", "Sigstore bundle"),
    ("application/vnd.cncf.notary.signature", "Notation signature"),
    ("application/vnd.dsse.envelope.", "in-toto attestation"),
    ("application/vnd.in-toto", "in-toto attestation"),
    ("application/spdx", "SPDX SBOM"),
    ("text/spdx", "SPDX SBOM"),
    ("application/vnd.cyclonedx", "CycloneDX SBOM"),
    ("application/vnd.syft+json", "Syft SBOM"),
    ("application/sarif+json", "scan report"),
    ("application/vnd.aquasec.trivy.javadb.", "Trivy Java database"),
    ("application/vnd.aquasec.trivy.", "Trivy database"),
    ("application/vnd.wasm.", "WebAssembly module"),
    ("application/vnd.module.wasm.", "WebAssembly module"),
    ("application/wasm", "WebAssembly module"),
    ("application/vnd.cncf.openpolicyagent.", "policy bundle"),
    ("application/vnd.cncf.flux.", "Flux artifact"),
    ("application/vnd.sylabs.sif.", "Apptainer image"),
    ("application/vnd.amazon.soci.index.", "SOCI index"),
    ("application/vnd.ms.bicep.module.", "Bicep module"),
    ("application/vnd.docker.plugin.", "Docker plugin"),
    ("application/vnd.docker.compose.", "Compose application"),
    ("application/vnd.docker.ai.", "AI model"),
    ("application/vnd.cncf.model.", "AI model"),
    ("application/vnd.ollama.image.", "AI model"),
)
"""Beginnings of media types, and the kind; the first that fits counts."""


class ArtifactKind(NamedTuple):
    """What an artifact is: a *name* for people, and its type by the specification.

    *artifact_type* is None for an image, and where nothing states it.
    """

    name: str
    artifact_type: str | None = None


AN_IMAGE: Final = ArtifactKind(IMAGE)


def artifact_kind(
    media_type: str,
    *,
    artifact_type: str = "",
    config_type: str = "",
    layer_types: Sequence[str] = (),
) -> ArtifactKind:
    """The kind of a manifest or index.

    *layer_types* are the media types of its layers, or of the entries of an index.
    """
    stated_type = artifact_type or ("" if config_type in _IMAGE_CONFIGS else config_type)
    if stated_type in _NO_TYPE:
        stated_type = ""
    # The Java database of Trivy has the type of the other one, and a layer that says more.
    types = (*(name for name in layer_types if name == _JAVA_DATABASE), stated_type, *layer_types)
    name = next(filter(None, map(_name, types)), None)
    if name is None:
        is_image = (
            not stated_type
            and config_type not in {EMPTY_CONFIG, UNKNOWN_CONFIG}
            and (media_type in INDEXES or media_type in SCHEMA_1 or config_type in _IMAGE_CONFIGS)
        )
        name = IMAGE if is_image else ARTIFACT
    return ArtifactKind(name, stated_type or None)


def _name(media_type: str) -> str | None:
    return next((name for beginning, name in _KINDS if media_type.startswith(beginning)), None)
