"""Archives of images: what is read of them, and what is refused in words."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrepot.archive import layout
from entrepot.archive.layout import (
    REF_NAME,
    ArchiveEntry,
    ArchiveInvalid,
    children_of,
    merged,
    parse_time,
    read_index,
    stated_type,
    time_text,
    write_index,
)
from entrepot.archive.reading import content_of, open_archive
from entrepot.core.media_types import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from entrepot.core.reference import Digest
from tests.archive.test_tar_members import member, write

DIGEST = Digest.of(b"content")


def make_layout(directory: Path, content: bytes = b"content") -> Path:
    """An OCI layout with one blob."""
    blobs = directory / "blobs/sha256"
    blobs.mkdir(parents=True)
    (blobs / Digest.of(content).hex).write_bytes(content)
    (directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    entry = ArchiveEntry(Digest.of(content), len(content), OCI_MANIFEST, {REF_NAME: "a:1"})
    (directory / "index.json").write_bytes(write_index([entry]))
    return directory


def test_a_layout_in_a_directory_is_read(tmp_path: Path) -> None:
    for prefix in ("", "oci:"):
        with open_archive(f"{prefix}{make_layout(tmp_path / (prefix or 'x'))}") as archive:
            assert [entry.digest for entry in archive.entries] == [DIGEST]
            assert content_of(archive, DIGEST, 100) == b"content"
            assert archive.read(DIGEST, 3, 2) == b"te"
            assert archive.size(Digest.of(b"other")) is None
            assert content_of(archive, Digest.of(b"other"), 100) is None


def test_a_manifest_with_another_digest_or_too_many_bytes_is_refused(tmp_path: Path) -> None:
    directory = make_layout(tmp_path / "x")
    with open_archive(str(directory)) as archive:
        with pytest.raises(ArchiveInvalid, match="at most 3 are accepted"):
            content_of(archive, DIGEST, 3)
        (directory / "blobs/sha256" / DIGEST.hex).write_bytes(b"another")
        with pytest.raises(ArchiveInvalid, match="the archive is damaged"):
            content_of(archive, DIGEST, 100)


def test_no_link_in_a_directory_is_followed(tmp_path: Path) -> None:
    directory = make_layout(tmp_path / "x")
    blob = directory / "blobs/sha256" / DIGEST.hex
    secret = tmp_path / "secret"
    secret.write_bytes(b"content")
    blob.unlink()
    blob.symlink_to(secret)
    with open_archive(str(directory)) as archive, pytest.raises(ArchiveInvalid, match="a link"):
        archive.read(DIGEST, 0, 10)
    blob.unlink()
    os.mkfifo(blob)
    with open_archive(str(directory)) as archive, pytest.raises(ArchiveInvalid, match="no regular"):
        archive.size(DIGEST)
    index = directory / "index.json"
    index.rename(tmp_path / "index.json")
    index.symlink_to(tmp_path / "index.json")
    with pytest.raises(ArchiveInvalid, match="it is a link"), open_archive(str(directory)):
        pass


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "can't be read"),
        (b"[]", "can't be read"),
        (b'{"manifests": 5}', "can't be read"),
        (b'{"manifests": [{}]}', "can't be read"),
        (b'{"manifests": [{"digest": "sha256:../../../etc/passwd"}]}', "entry 1"),
        (b'{"manifests": [{"digest": "md5:aa"}]}', "entry 1"),
        (b'{"manifests": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "can't be read"),
        (
            b'{"manifests": [' + b",".join([b'{"digest":"x"}'] * 300_000) + b"]}",
            "lists more than 50,000",
        ),
        (
            b'{"manifests": [{"digest":"x","annotations":{'
            + b",".join(b'"%d":""' % number for number in range(2_100_000))
            + b"}}]}",
            "lists more than 50,000",
        ),
    ],
    ids=range(9),
)
def test_an_index_that_is_none_or_too_large_is_refused(content: bytes, told: str) -> None:
    with pytest.raises(ArchiveInvalid, match=told):
        read_index(content, "index.json")


def test_an_index_of_too_many_bytes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = make_layout(tmp_path / "x")
    os.truncate(directory / "index.json", layout.INDEX_LIMIT + 1)
    with pytest.raises(ArchiveInvalid, match="more than 16,777,216"), open_archive(str(directory)):
        pass
    path = write(
        tmp_path / "x.tar",
        member("oci-layout", b"{}"),
        member("index.json", b" " * (layout.INDEX_LIMIT + 1)),
    )
    with pytest.raises(ArchiveInvalid, match="more than 16,777,216"), open_archive(str(path)):
        pass


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(
        lambda value: json.dumps({"manifests": value}).encode()
    )
)
def test_any_index_is_read_or_refused(content: bytes) -> None:
    try:
        entries = read_index(content, "index.json")
    except ArchiveInvalid:
        return
    assert all(isinstance(entry.digest, Digest) for entry in entries)


def test_what_is_no_archive_of_images_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source, told in (
        (str(tmp_path / "empty"), "has no index.json"),
        (str(write(tmp_path / "x.tar", member("note", b"1"))), "no archive of images"),
    ):
        with pytest.raises(ArchiveInvalid, match=told), open_archive(source):
            pass


def saved(path: Path, **changes: Any) -> Path:
    """A tar file as older versions of docker save it: the second layer is a link to the first."""
    config = b'{"os":"linux","architecture":"amd64"}'
    layer, zipped = b"layer " * 200, gzip.compress(b"zipped", mtime=0)
    image = {
        "Config": "c.json",
        "RepoTags": ["library/app:1", "library/app:latest"],
        "Layers": ["one/layer.tar", "two/layer.tar", "three/layer.tar"],
    } | changes
    return write(
        path,
        member("c.json", config),
        member("one/layer.tar", layer),
        member("two/layer.tar", type=tarfile.SYMTYPE, linkname="../one/layer.tar"),
        member("three/layer.tar", zipped),
        member("manifest.json", json.dumps([image]).encode()),
    )


def test_an_older_tar_file_of_docker_gets_a_manifest(tmp_path: Path) -> None:
    with open_archive(f"docker-archive:{saved(tmp_path / 'x.tar')}") as archive:
        assert [entry.annotations[REF_NAME] for entry in archive.entries] == [
            "library/app:1",
            "library/app:latest",
        ]
        content = content_of(archive, archive.entries[0].digest, 10_000)
        assert content is not None
        document = json.loads(content)
        assert document["mediaType"] == DOCKER_MANIFEST
        types = [layer["mediaType"].rpartition(".")[2] for layer in document["layers"]]
        assert types == ["tar", "tar", "gzip"]
        for described in (document["config"], *document["layers"]):
            digest = Digest.parse(described["digest"])
            whole = archive.read(digest, 0, described["size"] + 1)
            assert hashlib.sha256(whole).hexdigest() == digest.hex
            assert archive.size(digest) == described["size"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"Config": "../../etc/passwd"}, "has no ../../etc/passwd"),
        ({"Layers": ["/etc/shadow"]}, "has no /etc/shadow"),
        ({"Layers": ["one/layer.tar"] * 1_001}, "more than 1,000 layers"),
        ({"Layers": 7}, "can't be read"),
        ({"Config": None}, "can't be read"),
    ],
)
def test_a_tar_file_of_docker_that_names_what_it_does_not_have_is_refused(
    changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    path = saved(tmp_path / "x.tar", **changes)
    with pytest.raises(ArchiveInvalid, match=told), open_archive(str(path)):
        pass


def test_children_are_read_and_odd_ones_are_left_out() -> None:
    content = json.dumps(
        {
            "mediaType": OCI_INDEX,
            "manifests": [
                {"digest": str(DIGEST), "mediaType": OCI_MANIFEST},
                {"digest": str(DIGEST), "platform": 7},
                {"digest": "sha256:odd"},
            ],
        }
    ).encode()
    assert [child.media_type for child in children_of(content, OCI_INDEX)] == [
        OCI_MANIFEST,
        layout.UNTYPED,
    ]
    assert stated_type(content) == OCI_INDEX
    assert children_of(b"no JSON", OCI_MANIFEST) == []
    with pytest.raises(ArchiveInvalid):
        children_of(b"no JSON", OCI_INDEX)


def test_a_later_export_replaces_an_image_of_its_name_alone() -> None:
    first = ArchiveEntry(DIGEST, 1, OCI_MANIFEST, {REF_NAME: "a:1"})
    second = ArchiveEntry(Digest.of(b"2"), 1, OCI_MANIFEST, {REF_NAME: "a:1"})
    foreign = [
        ArchiveEntry(DIGEST, 1, OCI_MANIFEST),
        ArchiveEntry(Digest.of(b"3"), 1, OCI_MANIFEST),
    ]
    assert merged([first, *foreign], [second]) == [*foreign, second]


@given(st.floats(0, 4e9))
def test_a_time_comes_back_to_the_microsecond(seconds: float) -> None:
    assert parse_time(time_text(seconds)) == pytest.approx(seconds, abs=1e-6)


@pytest.mark.parametrize("text", [None, "", "yesterday", "2026-01-01T00:00:00", "9" * 50])
def test_what_is_no_time_is_none(text: str | None) -> None:
    assert parse_time(text) is None
