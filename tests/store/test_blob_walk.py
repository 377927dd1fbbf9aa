"""A walk through the files of all blobs, in slices."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from entrepot.core.reference import Digest
from entrepot.store import blob_walk
from entrepot.store.blob_walk import DIRECTORIES, BlobSlice, BlobWalk


def store_file(root: Path, digest: Digest, content: bytes = b"") -> None:
    directory = root / digest.algorithm / digest.hex[:2]
    directory.mkdir(parents=True, exist_ok=True)
    (directory / digest.hex).write_bytes(content)


def digests(count: int) -> list[Digest]:
    return [Digest.of(b"%d" % number) for number in range(count)]


async def slices_of(walk: BlobWalk) -> list[BlobSlice]:
    slices: list[BlobSlice] = []
    while (blobs := await walk.next_slice()) is not None:
        slices.append(blobs)
    return slices


def without_gaps(slices: Iterable[BlobSlice]) -> bool:
    """Whether each slice begins right behind the one before."""
    borders = [f"{algorithm}:{prefix}" for algorithm, prefix in DIRECTORIES]
    position = 0
    for blobs in slices:
        assert blobs.first == borders[position]
        position = borders.index(blobs.end.removesuffix("g")) + 1
    return position == len(borders)


async def test_a_small_store_is_one_slice(tmp_path: Path) -> None:
    for algorithm in ("sha256", "sha512"):
        store_file(tmp_path, Digest.of(b"a", algorithm), b"12345")
    walk = BlobWalk(tmp_path)
    [blobs] = await slices_of(walk)
    assert blobs.sizes == {str(Digest.of(b"a", algorithm)): 5 for algorithm in ("sha256", "sha512")}
    assert walk.directories_walked == len(DIRECTORIES)


@pytest.mark.parametrize(
    ("files", "rows"), [(3000, 0), (0, 3000), (3000, 3000)], ids=["no rows", "no files", "both"]
)
async def test_a_slice_has_about_a_bounded_number_of_blobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: int, rows: int
) -> None:
    """Of files without rows as of rows without files."""
    monkeypatch.setattr(blob_walk, "BLOBS_PER_SLICE", 100)
    for digest in digests(files):
        store_file(tmp_path, digest)
    slices = await slices_of(BlobWalk(tmp_path, rows=rows))
    assert without_gaps(slices)
    assert sum(len(blobs.sizes) for blobs in slices) == files
    row_counts = [
        sum(blobs.first <= str(digest) < blobs.end for digest in digests(rows)) for blobs in slices
    ]
    assert sum(row_counts) == rows
    # Nearly 6 digests are in each of the 512 directories that has any.
    assert max(len(blobs.sizes) for blobs in slices) < 150
    assert max(row_counts) < 250


async def test_the_slices_go_up_by_digest_and_hold_their_own_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blob_walk, "BLOBS_PER_SLICE", 10)
    for digest in [*digests(300), Digest.of(b"long", "sha512")]:
        store_file(tmp_path, digest)
    slices = await slices_of(BlobWalk(tmp_path, rows=300))
    assert without_gaps(slices)
    assert len(slices) > 20
    assert all(blobs.first <= digest < blobs.end for blobs in slices for digest in blobs.sizes)


async def test_only_the_directories_of_a_slice_are_listed_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blob_walk, "BLOBS_PER_SLICE", 1)
    first, second = sorted(digests(2))
    for digest in (first, second):
        store_file(tmp_path, digest)
    listed: list[str] = []
    scandir = os.scandir

    def record(path: str) -> object:
        listed.append(os.path.relpath(path, tmp_path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", record)
    walk = BlobWalk(tmp_path, rows=10_000)
    while (blobs := await walk.next_slice()) is not None and not blobs.sizes:
        pass
    assert blobs is not None
    assert list(blobs.sizes) == [str(first)]
    assert listed == [".", "sha256", f"sha256/{first.hex[:2]}"]


async def test_a_file_that_comes_before_its_directory_is_listed_is_in_the_walk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blob_walk, "BLOBS_PER_SLICE", 1)
    first, *_, last = sorted(digests(100))
    for digest in (first, last):
        store_file(tmp_path, digest)
    walk = BlobWalk(tmp_path, rows=10_000)
    while (blobs := await walk.next_slice()) is not None and str(first) not in blobs.sizes:
        pass
    late = Digest(last.algorithm, last.hex[:2] + "0" * 62)
    store_file(tmp_path, late)
    os.unlink(tmp_path / last.algorithm / last.hex[:2] / last.hex)
    assert {digest for blobs in await slices_of(walk) for digest in blobs.sizes} == {str(late)}
