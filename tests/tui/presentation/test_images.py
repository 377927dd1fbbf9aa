"""What is behind a tag."""

from __future__ import annotations

import msgspec

from entrepot.api.labels import sharers
from entrepot.api.models import ImageBlob, TagDetail, TagImage, TagSnapshot
from entrepot.core.states import CachedState
from tui.presentation.images import (
    blob_facts,
    blob_kind,
    blob_lines,
    blob_row,
    image_facts,
    image_lines,
    image_row,
    tag_title,
)

NOW = 1_780_000_000.0

CONFIG = ImageBlob(
    digest="sha256:" + "1" * 64,
    media_type="application/vnd.oci.image.config.v1+json",
    size=1_000,
    cached=True,
)
BASE = ImageBlob(
    digest="sha256:" + "2" * 64, media_type="application/vnd.oci.image.layer.v1.tar+gzip", size=59_000_000, cached=True, shared_images=3,
    shared_repositories=2, shared_with=("library/debian:12",),
)  # fmt: skip
TOP = ImageBlob(
    digest="sha256:" + "3" * 64,
    media_type="application/vnd.docker.image.rootfs.diff.tar.gzip",
    size=12_000_000,
    cached=False,
)
AMD64 = TagImage(
    digest="sha256:" + "a" * 64, media_type="application/vnd.oci.image.manifest.v1+json", platform="linux/amd64", size=71_002_000, cached_size=59_002_000,
    cached_state=CachedState.PARTLY_CACHED, last_used=NOW - 120, config=CONFIG, layers=(BASE, TOP),
)  # fmt: skip
ARM64 = TagImage(
    digest="sha256:" + "b" * 64, media_type="application/vnd.oci.image.manifest.v1+json", platform="linux/arm64", size=None, cached_size=0,
    cached_state=CachedState.NOT_CACHED, last_used=None,
)  # fmt: skip
ATTESTATION = msgspec.structs.replace(
    ARM64, digest="sha256:" + "d" * 64, platform="unknown/unknown", attests=AMD64.digest
)
TAG = TagSnapshot(
    name="1.27", digest="sha256:" + "c" * 64, platforms=("linux/amd64",), size=59_002_000, cached=NOW, checked=NOW, last_pull=NOW, fresh_until=NOW + 180,
)  # fmt: skip
DETAIL = TagDetail(
    repository="library/nginx", tag=TAG, media_type="application/vnd.oci.image.index.v1+json", is_index=True, images=(AMD64, ARM64, ATTESTATION),
    own_size=2_000, shared_size=59_000_000,
)  # fmt: skip


def test_platforms_say_how_much_of_them_is_held() -> None:
    rows = [
        [cell.text for cell in image_row(each, DETAIL, lambda: NOW).cells] for each in DETAIL.images
    ]
    assert rows == [
        ["linux/amd64", "partly cached", "71.0 MB", "59.0 MB", "2 min"],
        ["linux/arm64", "not cached", "unknown", "0 B", "-"],
        ["attestation of linux/amd64", "not cached", "unknown", "0 B", "-"],
    ]


def test_an_image_says_how_much_of_it_is_shared() -> None:
    assert image_lines(AMD64, DETAIL, NOW) == (
        AMD64.digest,
        "linux/amd64   partly cached: 59.0 MB of 71.0 MB   59.0 MB of it shared   used 2 min ago",
    )
    assert image_lines(ARM64, DETAIL, NOW)[1] == "linux/arm64   not cached"
    facts = dict(image_facts(AMD64, DETAIL, NOW))
    assert facts["Own"] == "2.0 kB only for this tag"
    assert facts["Points to"] == TAG.digest


def test_a_layer_says_what_it_is_and_who_shares_it() -> None:
    assert [cell.text for cell in blob_row(BASE, AMD64, 1).cells] == [
        "2" * 12,
        "layer, gzip",
        "59.0 MB",
        "cached",
        "3 images: library/debian:12",
    ]
    assert [cell.text for cell in blob_row(TOP, AMD64, 2).cells] == [
        "3" * 12,
        "layer, gzip",
        "12.0 MB",
        "not cached",
        "not shared",
    ]
    assert blob_lines(BASE, AMD64) == (
        BASE.digest,
        "layer, gzip   59.0 MB   cached   shared with 3 images: library/debian:12",
    )
    assert dict(blob_facts(BASE, AMD64))["Shared with"] == "3 images of 2 other repositories"
    assert sharers(msgspec.structs.replace(BASE, shared_with=())) == "3 images"


def test_config_foreign_layers_and_attestations_are_named() -> None:
    assert blob_kind(CONFIG, AMD64) == "config"
    for media_type, kind in (
        ("application/vnd.oci.image.layer.v1.tar+zstd", "layer, zstd"),
        ("application/vnd.oci.image.layer.v1.tar", "layer"),
        (
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "layer, gzip, hosted elsewhere",
        ),
        ("application/vnd.in-toto+json", "attestation"),
        (
            "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
            "cncf.helm.chart.content.v1.tar+gzip",
        ),
        ("application/vnd.wasm.content", "wasm.content"),
    ):
        assert blob_kind(msgspec.structs.replace(TOP, media_type=media_type), AMD64) == kind


def test_the_title_of_a_tag_counts_platforms_and_what_is_its_own() -> None:
    assert (
        tag_title(DETAIL)
        == "library/nginx:1.27   index of 2 platforms   2.0 kB own, 59.0 MB shared"
    )
    assert "one image" in tag_title(
        msgspec.structs.replace(DETAIL, is_index=False, images=(AMD64,))
    )
