"""Tags are listed as what they are, and the bytes of their manifests are read once."""

from __future__ import annotations

import json
from typing import Any

import pytest

from entrepot.core.media_types import OCI_MANIFEST
from entrepot.core.reference import Digest, Tag
from entrepot.store.artifact_kinds import kind_of
from entrepot.store.catalog import Catalog
from entrepot.store.manifests import Manifest
from tests.store.samples import NGINX, SOURCE, descriptor, image, index
from tests.store.statements import recorded_reads

HELM = "application/vnd.cncf.helm.config.v1+json"
ARTIFACT_MANIFEST = "application/vnd.oci.artifact.manifest.v1+json"


def manifest_of(document: dict[str, Any], media_type: str = OCI_MANIFEST) -> Manifest:
    content = json.dumps(document).encode()
    return Manifest.of(content, media_type, Digest.of(content))


def chart() -> Manifest:
    config = descriptor("config", 10) | {"mediaType": HELM}
    return manifest_of({"schemaVersion": 2, "config": config, "layers": [descriptor("a", 100)]})


async def test_listed_tags_have_their_kind_and_its_bytes_are_read_once(catalog: Catalog) -> None:
    await catalog.add_manifest(NGINX, SOURCE, chart(), tags=[Tag("chart")], now=1.0)
    await catalog.add_manifest(NGINX, SOURCE, index(amd64=image("a")), tags=[Tag("image")], now=1.0)
    for reads in (2, 1):
        with recorded_reads(catalog) as statements:
            tags = await catalog.tags(NGINX)
        assert [(tag.name, *tag.kind) for tag in tags] == [
            ("chart", "Helm chart", HELM),
            ("image", "image", None),
        ]
        assert len(statements) == reads
    contents = await catalog.tag_contents(NGINX, Tag("chart"))
    assert contents is not None
    assert contents.tag.kind == ("Helm chart", HELM)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"no JSON", b'{"layers": 1}', b'{"config": null, "artifactType": null}']
)
def test_a_document_that_can_not_be_read_has_the_kind_of_its_media_type(content: bytes) -> None:
    assert kind_of(content, "application/vnd.oci.image.index.v1+json").name == "image"
    assert kind_of(content, "application/x.own").name == "artifact"


def test_a_hostile_artifact_type_is_printable_and_short() -> None:
    content = json.dumps({"artifactType": "\x1b[31m" + "x" * 10_000}).encode()
    artifact_type = kind_of(content, OCI_MANIFEST).artifact_type
    assert artifact_type is not None
    assert artifact_type.isprintable()
    assert len(artifact_type) <= 255


def test_the_blobs_of_an_artifact_manifest_are_its_layers() -> None:
    document = {"mediaType": ARTIFACT_MANIFEST, "blobs": [descriptor("sbom", 7)]}
    [blob] = manifest_of(document, ARTIFACT_MANIFEST).blobs
    assert (blob.digest, blob.size) == (Digest.of(b"sbom"), 7)
