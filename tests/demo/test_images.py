from __future__ import annotations

import gzip
import io
import json
import tarfile

import pytest

from entrepot.core.reference import Digest
from entrepot.demo.images import (
    DOCKER,
    OCI,
    GeneratedDescriptor,
    LayerRecipe,
    MediaTypes,
    build_config,
    build_index,
    build_manifest,
    split_platform,
)

RECIPE = LayerRecipe(
    "base/amd64", 300_000, (("etc/os-release", "ID=demo\n"), ("usr/share/doc/README", "Read me.\n"))
)


def test_a_layer_is_the_same_every_time() -> None:
    assert RECIPE.build() == RECIPE.build()
    # Were it another one day, everything that was cached of the demo's images would be fetched
    # anew.
    assert (
        str(RECIPE.build().digest)
        == "sha256:6b8d250b6ea1f127bcbd4972c500674be50b62bc8f4fae8b33dbe3478d5215c2"
    )


def test_a_layer_unpacks_to_its_files() -> None:
    layer = RECIPE.build()
    with tarfile.open(fileobj=io.BytesIO(layer.content), mode="r:gz") as tar:
        read = {each.name: tar.extractfile(each).read() for each in tar}  # type: ignore[union-attr]
    assert read["etc/os-release"] == b"ID=demo\n"
    assert read["usr/share/doc/README"] == b"Read me.\n"
    assert len(read["usr/share/entrepot-demo/base-amd64.bin"]) > 280_000


def test_the_digests_of_a_layer_are_those_of_its_bytes_packed_and_unpacked() -> None:
    layer = RECIPE.build()
    assert layer.digest.matches(layer.content)
    assert layer.diff_id.matches(gzip.decompress(layer.content))


@pytest.mark.parametrize("size", [0, 1000, 10_240, 100_000, 5_000_000])
def test_a_layer_has_about_the_size_that_was_asked_for(size: int) -> None:
    assert LayerRecipe("x", size).build().size == pytest.approx(
        max(size, 10_240), abs=5_120 + 1_000
    )


def test_other_names_make_other_layers() -> None:
    assert LayerRecipe("a", 20_000).build().digest != LayerRecipe("b", 20_000).build().digest


@pytest.mark.parametrize("media_types", [OCI, DOCKER])
def test_index_manifest_and_config_lead_from_one_to_the_other(media_types: MediaTypes) -> None:
    layer = RECIPE.build()
    config = build_config(
        "linux/arm/v7", [layer.diff_id], created_by=["COPY base /"], command=["/run"]
    )
    manifest = build_manifest(
        GeneratedDescriptor.of(media_types.config, config),
        [GeneratedDescriptor(media_types.layer, layer.digest, layer.size)],
        media_types,
    )
    index = build_index(
        [("linux/arm/v7", GeneratedDescriptor.of(media_types.manifest, manifest))], media_types
    )

    listed = json.loads(index)
    assert (listed["schemaVersion"], listed["mediaType"]) == (2, media_types.index)
    (child,) = listed["manifests"]
    assert child["platform"] == {"os": "linux", "architecture": "arm", "variant": "v7"}
    assert Digest.parse(child["digest"]).matches(manifest)
    assert child["size"] == len(manifest)
    parts = json.loads(manifest)
    assert (parts["schemaVersion"], parts["mediaType"]) == (2, media_types.manifest)
    assert Digest.parse(parts["config"]["digest"]).matches(config)
    assert parts["layers"] == [
        {"mediaType": media_types.layer, "digest": str(layer.digest), "size": layer.size}
    ]
    document = json.loads(config)
    assert document["rootfs"] == {"type": "layers", "diff_ids": [str(layer.diff_id)]}
    assert [each["created_by"] for each in document["history"]] == ["COPY base /"]
    assert (document["os"], document["architecture"], document["variant"]) == ("linux", "arm", "v7")
    assert document["config"]["Cmd"] == ["/run"]


def test_a_config_has_one_line_of_history_for_each_layer() -> None:
    layers = [LayerRecipe(name, 0).build().diff_id for name in "abc"]
    assert len(json.loads(build_config("linux/amd64", layers, created_by=["one"]))["history"]) == 3


def test_a_platform_without_a_variant_names_none() -> None:
    assert split_platform("linux/amd64") == {"os": "linux", "architecture": "amd64"}
