"""Archives that are written: in steps that a crash can't halve."""

from __future__ import annotations

import errno
import json
import os
import tarfile
from contextlib import closing
from pathlib import Path

import pytest

from entrepot.archive.layout import REF_NAME, ArchiveEntry, ArchiveInvalid
from entrepot.archive.reading import content_of, open_archive
from entrepot.archive.writing import (
    ArchiveDestination,
    ArchiveNotWritten,
    DigestDiffers,
    LayoutWriter,
    SavedImage,
    TarWriter,
    blob_name,
    disk_errors,
    tar_header,
)
from entrepot.core.media_types import OCI_MANIFEST
from entrepot.core.reference import Digest

CONTENT = b"some content of a blob " * 1000
DIGEST = Digest.of(CONTENT)
ENTRY = ArchiveEntry(DIGEST, len(CONTENT), OCI_MANIFEST, {REF_NAME: "a:1"})


def put(destination: ArchiveDestination, content: bytes = CONTENT) -> None:
    writer = destination.begin(Digest.of(content), len(content))
    writer.write(content[writer.offset :])
    writer.commit()


@pytest.mark.parametrize("kind", ["directory", "tar"])
def test_what_is_written_is_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    writer = LayoutWriter(path) if kind == "directory" else TarWriter(path)
    with closing(writer):
        put(writer)
        assert writer.has(DIGEST, len(CONTENT))
        assert not writer.has(DIGEST, 5)
        writer.add([ENTRY])
        writer.finish()
    with open_archive(str(path)) as archive:
        assert archive.entries == [ENTRY]
        assert content_of(archive, DIGEST, 10**6) == CONTENT
    assert not [each for each in tmp_path.rglob("*") if each.name.startswith(".")]


def test_a_part_in_a_directory_goes_on_and_its_bytes_are_hashed_again(tmp_path: Path) -> None:
    with closing(LayoutWriter(tmp_path / "x")) as destination:
        writer = destination.begin(DIGEST, len(CONTENT))
        writer.write(CONTENT[:5000])
        writer.abandon()
        assert not destination.has(DIGEST, len(CONTENT))
    with closing(LayoutWriter(tmp_path / "x")) as destination:
        writer = destination.begin(DIGEST, len(CONTENT))
        assert writer.offset == 5000
        writer.write(CONTENT[5000:])
        writer.commit()
        assert destination.has(DIGEST, len(CONTENT))


def test_a_part_that_a_crash_spoiled_leaves_nothing(tmp_path: Path) -> None:
    with closing(LayoutWriter(tmp_path / "x")) as destination:
        writer = destination.begin(DIGEST, len(CONTENT))
        writer.write(bytes(5000))
        writer.abandon()
        writer = destination.begin(DIGEST, len(CONTENT))
        writer.write(CONTENT[5000:])
        with pytest.raises(DigestDiffers):
            writer.commit()
        assert not destination.has(DIGEST, len(CONTENT))
        writer = destination.begin(DIGEST, len(CONTENT))
        assert writer.offset == 0
        writer.abandon()


def test_wrong_bytes_in_a_tar_file_are_cut_off(tmp_path: Path) -> None:
    with closing(TarWriter(tmp_path / "x.tar")) as destination:
        writer = destination.begin(DIGEST, len(CONTENT))
        writer.write(b"x" * len(CONTENT))
        with pytest.raises(DigestDiffers):
            writer.commit()
        put(destination)
        destination.finish()
    with tarfile.open(tmp_path / "x.tar") as tar:
        assert tar.getnames() == [blob_name(DIGEST), "oci-layout", "index.json"]


@pytest.mark.parametrize("cut", [0, 1, 100, 511, 512, 600, 5_000])
def test_a_tar_file_that_was_cut_anywhere_goes_on(cut: int, tmp_path: Path) -> None:
    path, part = tmp_path / "x.tar", tmp_path / "x.tar.part"
    other = b"another blob" * 77
    with closing(TarWriter(path)) as destination:
        put(destination, other)
        put(destination)
    os.truncate(part, part.stat().st_size - cut)
    with closing(TarWriter(path)) as destination:
        assert destination.has(Digest.of(other), len(other))
        is_whole = part.stat().st_size  # padded again, or cut behind the first blob
        assert is_whole % tarfile.BLOCKSIZE == 0
        for content in (other, CONTENT):
            if not destination.has(Digest.of(content), len(content)):
                put(destination, content)
        destination.add([ENTRY])
        destination.finish()
    with tarfile.open(path) as tar:
        names = tar.getnames()
        assert sorted(names) == sorted(
            [blob_name(Digest.of(other)), blob_name(DIGEST), "oci-layout", "index.json"]
        )
        file = tar.extractfile(blob_name(DIGEST))
        assert file is not None
        assert file.read() == CONTENT


def test_an_interrupted_end_of_a_tar_file_is_written_again(tmp_path: Path) -> None:
    path, part = tmp_path / "x.tar", tmp_path / "x.tar.part"
    with closing(TarWriter(path)) as destination:
        put(destination)
        destination.finish()
    path.rename(part)
    with closing(TarWriter(path)) as destination:
        destination.add([ENTRY])
        destination.finish()
    with tarfile.open(path) as tar:
        assert tar.getnames() == [blob_name(DIGEST), "oci-layout", "index.json"]


def test_a_tar_file_without_a_blob_leaves_nothing(tmp_path: Path) -> None:
    with closing(TarWriter(tmp_path / "x.tar")):
        pass
    assert list(tmp_path.iterdir()) == []


def test_two_exports_to_one_target_are_kept_apart(tmp_path: Path) -> None:
    for make in (LayoutWriter, TarWriter):
        path = tmp_path / make.__name__
        with closing(make(path)), pytest.raises(ArchiveInvalid, match="Another export"):
            make(path)


def test_the_list_for_docker_names_an_image_once(tmp_path: Path) -> None:
    with closing(TarWriter(tmp_path / "x.tar", for_docker=True)) as destination:
        put(destination)
        for tag in ("1", "latest"):
            destination.add_for_docker(
                SavedImage("config", [f"docker.io/library/app:{tag}"], [blob_name(DIGEST)])
            )
        destination.finish()
    with tarfile.open(tmp_path / "x.tar") as tar:
        listed, names = (
            json.load(file)
            for name in ("manifest.json", "repositories")
            if (file := tar.extractfile(name)) is not None
        )
    assert listed == [
        {
            "Config": "config",
            "RepoTags": ["docker.io/library/app:1", "docker.io/library/app:latest"],
            "Layers": [blob_name(DIGEST)],
        }
    ]
    assert names == {"docker.io/library/app": {"1": DIGEST.hex, "latest": DIGEST.hex}}


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(ArchiveNotWritten, match=r"is full\. .*run the same command again"),
        disk_errors(tmp_path / "x.tar"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_blob_beyond_8_gib_has_its_size_in_the_header() -> None:
    header = tarfile.TarInfo.frombuf(tar_header("x", 2**40), "utf-8", "strict")
    assert header.size == 2**40
