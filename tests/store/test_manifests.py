"""The references of a manifest, read without re-serialising it."""

from __future__ import annotations

import json
import threading
import tracemalloc
from typing import Any

import msgspec
import pytest

from entrepot.core.media_types import DOCKER_LIST, OCI_INDEX, OCI_MANIFEST
from entrepot.core.reference import Digest
from entrepot.store.manifests import (
    LARGEST_SIZE,
    LAYERS_LIMIT,
    MANIFEST_THREAD_THRESHOLD,
    REFERENCES_LIMIT,
    Manifest,
    ManifestUnreadable,
    ReferenceKind,
    attestations,
    config_platform,
    parse_manifest,
)


def descriptor(name: str, size: int = 10, **more: Any) -> dict[str, Any]:
    return {
        "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
        "digest": str(Digest.of(name.encode())),
        "size": size,
        **more,
    }


def manifest(media_type: str = OCI_MANIFEST, **document: Any) -> Manifest:
    content = json.dumps({"schemaVersion": 2, "mediaType": media_type, **document}).encode()
    return Manifest.of(content, media_type, Digest.of(content))


def test_an_image_manifest_refers_to_its_config_and_layers_each_blob_once() -> None:
    image = manifest(
        config=descriptor("config"), layers=[descriptor("a"), descriptor("b"), descriptor("a")]
    )
    assert [each.kind for each in image.references] == [
        ReferenceKind.CONFIG,
        ReferenceKind.LAYER,
        ReferenceKind.LAYER,
        ReferenceKind.LAYER,
    ]
    assert [each.digest for each in image.blobs] == [
        Digest.of(b"config"),
        Digest.of(b"a"),
        Digest.of(b"b"),
    ]
    assert not image.is_index


def test_an_index_finds_the_image_of_a_platform() -> None:
    arm = descriptor("arm", platform={"os": "linux", "architecture": "arm64", "variant": "v8"})
    amd = descriptor("amd", platform={"os": "linux", "architecture": "amd64"})
    index = manifest(OCI_INDEX, manifests=[arm, amd])
    assert index.is_index
    for platform, name in (
        ("linux/amd64", b"amd"),
        ("linux/arm64", b"arm"),
        ("linux/arm64/v8", b"arm"),
    ):
        child = index.child_for(platform)
        assert child is not None
        assert child.digest == Digest.of(name)
    assert index.child_for("linux/s390x") is None
    assert index.child_for("linux/arm") is None


def test_an_attestation_in_an_index_has_no_platform() -> None:
    index = manifest(
        DOCKER_LIST,
        manifests=[
            descriptor("attestation", platform={"os": "unknown", "architecture": "unknown"})
        ],
    )
    assert index.children[0].platform is None


@pytest.mark.parametrize(
    ("platform", "name"),
    [
        ({"os": "linux", "architecture": "ppc64le", "variant": None}, "linux/ppc64le"),
        ({"os": None, "architecture": "amd64"}, None),
        ({}, None),
    ],
)
def test_a_null_in_a_platform_is_what_go_makes_of_it(
    platform: dict[str, Any], name: str | None
) -> None:
    """S26: an index that docker reads was refused as a whole."""
    index = manifest(OCI_INDEX, manifests=[descriptor("a", platform=platform)])
    assert index.children[0].platform == name


def test_an_entry_of_an_index_with_a_digest_of_another_algorithm_is_passed_over() -> None:
    """S26: other algorithms are allowed (OCI image specification, "Digests"), and the other
    platforms can be pulled."""
    digests = (
        "sha384:" + "a" * 96,
        "blake3:" + "a" * 64,
        "sha256+b64u:LCa0a2j_xo_5m0U8HTBBNBNCLXBkg7-g-YpeiGJm564",
    )
    other = [{**descriptor("a"), "digest": each} for each in digests]
    index = manifest(
        OCI_INDEX,
        manifests=[*other, descriptor("b", platform={"os": "linux", "architecture": "amd64"})],
    )
    assert [each.digest for each in index.references] == [Digest.of(b"b")]


@pytest.mark.parametrize(
    "digest",
    [
        "../../etc/passwd",
        "SHA256:" + "a" * 64,
        "sha256:short",
        "sha256:" + "A" * 64,
        "md5:",
        ":a",
        "a" * 5000 + ":b",
        "a:b\n",
    ],
)
def test_an_entry_of_an_index_with_a_digest_that_is_none_is_refused(digest: str) -> None:
    with pytest.raises(ManifestUnreadable):
        manifest(OCI_INDEX, manifests=[{**descriptor("a"), "digest": digest}])


@pytest.mark.parametrize(
    "more",
    [
        {"urls": ["https://elsewhere.example/layer"]},
        {"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"},
    ],
)
def test_a_layer_that_is_to_be_had_elsewhere_is_optional(more: dict[str, Any]) -> None:
    image = manifest(config=descriptor("config"), layers=[descriptor("a"), descriptor("b", **more)])
    assert [each.optional for each in image.references] == [False, False, True]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        b"[]",
        b'{"schemaVersion": 1, "fsLayers": []}',
        b'{"schemaVersion": 2, "layers": [{"digest": "sha256:short", "size": 1}]}',
    ],
)
def test_what_is_no_manifest_is_unreadable(content: bytes) -> None:
    with pytest.raises(ManifestUnreadable):
        Manifest.of(content, OCI_MANIFEST, Digest.of(content))


@pytest.mark.parametrize(
    ("config", "platform"),
    [
        (b'{"os": "linux", "architecture": "amd64", "rootfs": {}}', "linux/amd64"),
        (b'{"os": "linux", "architecture": "arm", "variant": "v7"}', "linux/arm/v7"),
        (b"{}", None),
        (b"not json", None),
    ],
)
def test_the_platform_of_an_image_stands_in_its_config(config: bytes, platform: str | None) -> None:
    assert config_platform(config) == platform


# What a source may send


DEEP = b'{"schemaVersion":2,"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"


def test_a_document_nested_too_deeply_is_unreadable_and_never_a_recursion_error() -> None:
    """S26, F67."""
    with pytest.raises(ManifestUnreadable):
        Manifest.of(DEEP, OCI_MANIFEST, Digest.of(DEEP))
    assert config_platform(b'{"os":"linux","x":' + b"[" * 100_000) is None
    assert attestations(DEEP) == {}


def listing(kind: str, count: int, **more: Any) -> bytes:
    entry = json.dumps(descriptor("one", **more))
    return f'{{"schemaVersion":2,"{kind}":[{",".join([entry] * count)}]}}'.encode()


@pytest.mark.parametrize(
    ("kind", "limit"), [("layers", LAYERS_LIMIT), ("manifests", REFERENCES_LIMIT)]
)
async def test_more_layers_or_manifests_than_any_image_has_are_not_taken(
    kind: str, limit: int
) -> None:
    """S10, S23."""
    most, more = listing(kind, limit), listing(kind, limit + 1)
    assert len((await parse_manifest(most, OCI_MANIFEST, Digest.of(most))).references) == limit
    with pytest.raises(ManifestUnreadable, match=f"{limit + 1:,} {kind}, and at most {limit:,}"):
        await parse_manifest(more, OCI_MANIFEST, Digest.of(more))
    assert len(Manifest.of(more, OCI_MANIFEST, Digest.of(more)).references) == limit + 1, (
        "what an earlier version stored is still read"
    )


@pytest.mark.parametrize("size", [LARGEST_SIZE + 1, 2**63, 2**64, 10**400])
async def test_a_size_that_can_not_be_stored_is_unreadable(size: int) -> None:
    """S26, F67: SQLite holds integers below 2^63."""
    content = (
        f'{{"schemaVersion":2,"layers":[{{"digest":"{Digest.of(b"")}","size":{size}}}]}}'.encode()
    )
    with pytest.raises(ManifestUnreadable):
        await parse_manifest(content, OCI_MANIFEST, Digest.of(content))


async def test_a_large_manifest_is_parsed_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """S23: the event loop goes on meanwhile."""
    threads: list[threading.Thread] = []
    read = Manifest.of

    def of(content: bytes, media_type: str, digest: Digest) -> Manifest:
        threads.append(threading.current_thread())
        return read(content, media_type, digest)

    monkeypatch.setattr(Manifest, "of", of)
    for content in (
        listing("layers", 2),
        listing("manifests", 2_000, annotations={"x": "y" * 100}),
    ):
        await parse_manifest(content, OCI_MANIFEST, Digest.of(content))
    assert len(content) > MANIFEST_THREAD_THRESHOLD
    assert [each is threading.main_thread() for each in threads] == [True, False]


@pytest.mark.parametrize("name", ["vnd.\r\nX-Evil: 1", "\x1b]0;T\x07", "a" * 1_000_000])
def test_why_a_manifest_is_unreadable_is_one_short_printable_line(name: str) -> None:
    """S04: a digest of the source's own stands in the reason."""
    content = json.dumps({"schemaVersion": 2, "layers": [{"digest": name, "size": 1}]}).encode()
    with pytest.raises(ManifestUnreadable) as raised:
        Manifest.of(content, OCI_MANIFEST, Digest.of(content))
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) <= 200


HOSTILE = (
    "v1$(touch${IFS}here)",
    "v8\nrm -rf",
    "v8\r",
    "\x1b]0;title\x07",
    "\x9b31m",
    "\u202e8v",
    "v8 v7",
    "v8/v7",
    "v8;id",
    "`id`",
    "vé",
    "x" * 65,
)


@pytest.mark.parametrize("part", ["os", "architecture", "variant"])
@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_platform_beyond_the_grammar_is_dropped_and_the_bytes_pass(
    part: str, hostile: str
) -> None:
    """S03: what a source calls a platform reaches no log, no command line and no shell."""
    platform = {"os": "linux", "architecture": "arm64", "variant": "v8"} | {part: hostile}
    content = msgspec.json.encode(
        {"schemaVersion": 2, "manifests": [descriptor("arm", platform=platform)]}
    )
    index = Manifest.of(content, OCI_INDEX, Digest.of(content))
    assert index.children[0].platform is None
    assert index.child_for("linux/arm64") is None
    assert index.content == content
    assert config_platform(msgspec.json.encode(platform)) is None


@pytest.mark.parametrize(
    "name",
    [
        "windows/amd64",
        "linux/arm/v7",
        "plan9/386",
        "wasi/wasm",
        "linux/" + "a" * 64,
        "Linux/AMD_64.2-x",
    ],
)
def test_a_platform_within_the_grammar_stays_as_it_is(name: str) -> None:
    os, architecture, *variant = name.split("/")
    assert (
        config_platform(
            msgspec.json.encode(
                {"os": os, "architecture": architecture, "variant": "".join(variant)}
            )
        )
        == name
    )


def test_an_attestation_that_names_no_digest_is_about_nothing() -> None:
    """S04: the annotation of an index is shown as what the attestation is about."""
    image, attestation = "sha256:" + "a" * 64, "sha256:" + "b" * 64
    for about, descriptions in (
        (image, image),
        ("sha256:\x1b]0;title\x07", ""),
        ("\x9b31m:\u202e", ""),
    ):
        notes = {
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": about,
        }
        content = msgspec.json.encode(
            {"manifests": [{"digest": attestation, "annotations": notes}]}
        )
        assert attestations(content) == {attestation: descriptions}


@pytest.mark.parametrize(
    "media_type",
    [
        "application/x\r\nX-Evil: 1",
        "\x1b]0;T\x07",
        "a/" + "b" * 1_000_000,
        "",
        "json",
        "a/\u202eb",
        "a/b\x1b]0;x\x07\x9b",
    ],
)
def test_a_layer_whose_media_type_is_none_is_one_of_no_type(media_type: str) -> None:
    """S04, S26: clients take such an image by its digest; the view of it holds nothing that could
    not be shown or sent."""
    image = manifest(layers=[descriptor("a", mediaType=media_type)])
    assert [each.media_type for each in image.references] == ["application/octet-stream"]
    assert media_type in json.loads(image.content)["layers"][0]["mediaType"]


def odd(kind: str, entries: str) -> bytes:
    return f'{{"schemaVersion":2,"{kind}":[{entries}]}}'.encode()


@pytest.mark.parametrize("entry", ["7", "{}", "null", '{"digest":7}'])
@pytest.mark.parametrize("count", [REFERENCES_LIMIT + 1, 400_000, 2_000_000])
def test_f82_a_list_of_odd_entries_costs_no_memory_beyond_what_is_taken(
    entry: str, count: int
) -> None:
    """An entry that is no descriptor is read in a slower way, which must not be one to exhaust the
    engine."""
    content = odd("manifests", ",".join([entry] * min(count, 4 * 2**20 // (len(entry) + 1))))
    tracemalloc.start()
    try:
        with pytest.raises(ManifestUnreadable):
            Manifest.of(content, OCI_INDEX, Digest.of(content))
        assert attestations(content) == {}
        assert tracemalloc.get_traced_memory()[1] < 60 * 2**20
    finally:
        tracemalloc.stop()


def test_f82_attestations_beside_an_odd_entry_are_known() -> None:
    about = str(Digest.of(b"image"))
    notes = {
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": about,
        "odd": None,
    }
    content = msgspec.json.encode(
        {
            "manifests": [
                7,
                None,
                {"annotations": 5},
                descriptor("a", annotations=notes),
                descriptor("b", annotations=None),
            ]
        }
    )
    assert attestations(b"\xef\xbb\xbf" + content) == {str(Digest.of(b"a")): about}


@pytest.mark.parametrize(
    ("config", "platform"),
    [
        (b'\xef\xbb\xbf{"os": "linux", "architecture": "amd64"}', "linux/amd64"),
        (
            b'{"os": "linux", "architecture": "amd64", "variant": null, "os.version": 7, '
            b'"os.features": "x"}',
            "linux/amd64",
        ),
        (b'{"os": "linux", "architecture": "amd64"}\0\0', "linux/amd64"),
        (b'{"os": ["linux"], "architecture": "amd64"}', None),
        (b"[]", None),
        (b"null", None),
    ],
)
def test_f82_the_platform_of_an_odd_config(config: bytes, platform: str | None) -> None:
    assert config_platform(config) == platform


@pytest.mark.parametrize("version", [1, "1", 3, 0, 1.5, -2])
def test_f82_another_schema_version_is_named(version: Any) -> None:
    content = msgspec.json.encode({"schemaVersion": version, "layers": [descriptor("a", size=-1)]})
    with pytest.raises(ManifestUnreadable, match="schema version"):
        Manifest.of(content, OCI_MANIFEST, Digest.of(content))
