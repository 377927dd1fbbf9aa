"""Tar files from anywhere: nothing is extracted, and reading one is bounded."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entrepot.archive.layout import ArchiveInvalid
from entrepot.archive.tar_members import HEADER_LIMIT, TarMembers, normal_name
from entrepot.archive.writing import tar_header

BLOCK = tarfile.BLOCKSIZE


def member(name: str, content: bytes = b"", **fields: object) -> bytes:
    """A member of a tar file, with its padding."""
    header = tarfile.TarInfo(name)
    header.size = len(content)
    for field, value in fields.items():
        setattr(header, field, value)
    return header.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % BLOCK)


@pytest.fixture
def opened() -> Iterator[Callable[[Path], TarMembers]]:
    """Opens tar files, which are closed after the test."""
    with ExitStack() as stack:
        yield lambda path: stack.enter_context(TarMembers(path))


def write(path: Path, *parts: bytes) -> Path:
    path.write_bytes(b"".join(parts) + bytes(2 * BLOCK))
    return path


def test_a_member_is_read_from_its_place(
    tmp_path: Path, opened: Callable[[Path], TarMembers]
) -> None:
    members = opened(write(tmp_path / "a.tar", member("./one", b"first"), member("two", b"second")))
    two = members.find("two")
    assert two is not None
    assert (members.read(two, 0, 100), members.read(two, 3, 2), members.read(two, 9, 1)) == (
        b"second",
        b"on",
        b"",
    )
    assert members.find("one") is not None
    assert members.find("three") is None


@pytest.mark.parametrize("name", ["../etc/passwd", "/etc/passwd", "a/../../b", "x" * 2000])
def test_names_that_lead_out_of_the_archive_lead_nowhere(
    name: str, tmp_path: Path, opened: Callable[[Path], TarMembers]
) -> None:
    members = opened(write(tmp_path / "a.tar", member(name, b"evil"), member("good", b"1")))
    assert [each.name for each in members] == ["good"]


def test_a_link_leads_to_another_member_and_never_out(
    tmp_path: Path, opened: Callable[[Path], TarMembers]
) -> None:
    members = opened(
        write(
            tmp_path / "a.tar",
            member("a/layer.tar", b"layer"),
            member("b/layer.tar", type=tarfile.SYMTYPE, linkname="../a/layer.tar"),
            member("out", type=tarfile.SYMTYPE, linkname="../../../etc/passwd"),
            member("absolute", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
            member("hard", type=tarfile.LNKTYPE, linkname="a/layer.tar"),
            member("twice", type=tarfile.SYMTYPE, linkname="hard"),
        )
    )
    layer = members.find("a/layer.tar")
    assert members.find("b/layer.tar") == layer == members.find("hard")
    assert members.find("out") is None
    assert members.find("absolute") is None
    with pytest.raises(ArchiveInvalid, match="link to a link"):
        members.find("twice")


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ([member("x", b"1"), member("x", b"2")], "is there twice"),
        ([member("x", type=tarfile.CHRTYPE)], "is a device or another special file"),
        ([member("x", type=tarfile.FIFOTYPE)], "is a device or another special file"),
    ],
)
def test_a_member_that_could_be_anything_is_refused_when_it_is_needed(
    parts: list[bytes], told: str, tmp_path: Path, opened: Callable[[Path], TarMembers]
) -> None:
    members = opened(write(tmp_path / "a.tar", *parts))
    with pytest.raises(ArchiveInvalid, match=told):
        members.find("x")


def test_a_sparse_file_is_refused(tmp_path: Path, opened: Callable[[Path], TarMembers]) -> None:
    header = bytearray(member("x", b"1"))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[386:398] = b"00000000000\0"  # the first piece begins at byte 0 …
    header[398:410] = b"00000000001\0"  # … and has one byte
    header[483:495] = b"77777777777\0"  # the file would have 8 GiB
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:BLOCK])
    members = opened(write(tmp_path / "a.tar", bytes(header)))
    with pytest.raises(ArchiveInvalid, match="is a sparse file"):
        members.find("x")


def test_a_size_beyond_the_end_of_the_file_is_refused(
    tmp_path: Path, opened: Callable[[Path], TarMembers]
) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar_header("x", 10**12) + b"a few bytes")
    with pytest.raises(ArchiveInvalid, match="it is incomplete"):
        opened(path)


def test_a_negative_size_is_refused(tmp_path: Path, opened: Callable[[Path], TarMembers]) -> None:
    header = bytearray(member("x"))
    header[124:136] = b"\xff" * 11 + b"\x00"  # -256 in base 256
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:BLOCK])
    with pytest.raises(ArchiveInvalid):
        opened(write(tmp_path / "a.tar", bytes(header), member("y", b"1" * 5000)))


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE])
def test_a_header_that_states_gigabytes_takes_no_memory(
    kind: bytes, tmp_path: Path, opened: Callable[[Path], TarMembers]
) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = kind, 10**10
    path = tmp_path / "a.tar"
    path.write_bytes(header.tobuf(tarfile.GNU_FORMAT))
    os.truncate(path, 2 * 10**10)  # with holes
    tracemalloc.start()
    try:
        with pytest.raises(ArchiveInvalid, match="states 10,000,000,"):
            opened(path)
        assert tracemalloc.get_traced_memory()[1] < 20 * HEADER_LIMIT
    finally:
        tracemalloc.stop()


def test_an_endless_chain_of_headers_is_refused(
    tmp_path: Path, opened: Callable[[Path], TarMembers]
) -> None:
    long_name = tarfile.TarInfo("x")
    long_name.type, long_name.size = tarfile.GNUTYPE_LONGNAME, 2
    chain = (long_name.tobuf(tarfile.GNU_FORMAT) + b"x\0" + bytes(BLOCK - 2)) * 5_000
    with pytest.raises(ArchiveInvalid, match="damaged"):
        opened(write(tmp_path / "a.tar", chain, member("y", b"1")))


def test_global_headers_do_not_add_up(tmp_path: Path, opened: Callable[[Path], TarMembers]) -> None:
    def global_header(number: int) -> bytes:
        return tarfile.TarInfo.create_pax_global_header({f"key{number}": "v" * 100_000})

    parts = [
        part
        for number in range(200)
        for part in (global_header(number), member(f"m{number}", b"1"))
    ]
    path = write(tmp_path / "a.tar", *parts)
    tracemalloc.start()
    try:
        assert len(list(opened(path))) == 200
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_a_compressed_file_is_named_with_the_program_for_it(
    tmp_path: Path, opened: Callable[[Path], TarMembers]
) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(member("x", b"1")))
    with pytest.raises(ArchiveInvalid, match=r"gunzip a\.tar\.gz"):
        opened(path)


def test_a_pipe_is_refused_and_not_waited_for(
    tmp_path: Path, opened: Callable[[Path], TarMembers]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArchiveInvalid, match="no regular file"):
        opened(tmp_path / "pipe")


def test_a_file_that_is_none_is_named(tmp_path: Path, opened: Callable[[Path], TarMembers]) -> None:
    with pytest.raises(ArchiveInvalid, match="No such file"):
        opened(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("name", "normal"),
    [("./a//b", "a/b"), ("a/./b/", "a/b"), ("..", None), ("a/..", "."), ("../a", None)],
)
def test_a_name_is_made_plain(name: str, normal: str | None) -> None:
    assert normal_name(name) == normal


_GOOD = member("oci-layout", b"{}") + member("blobs/sha256/" + "a" * 64, b"x" * 700)


@settings(max_examples=300)
@given(st.data())
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(_GOOD + bytes(2 * BLOCK))
    for _ in range(data.draw(st.integers(1, 8))):
        position = data.draw(st.integers(0, len(content) - 1))
        piece = data.draw(st.binary(min_size=1, max_size=12))
        content[position : position + len(piece)] = piece
    if data.draw(st.booleans()):
        for start in range(0, len(content) - BLOCK, BLOCK):
            # With the right checksum of its header a changed block goes further.
            content[start + 148 : start + 156] = b" " * 8
            content[start + 148 : start + 156] = b"%06o\0 " % sum(content[start : start + BLOCK])
    path = tmp_path_factory.getbasetemp() / "any.tar"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with suppress(ArchiveInvalid), TarMembers(path) as members:
        for each in members:
            found = members.find(each.name)
            assert found is not None
            assert len(members.read(found, 0, 10**6)) == found.size


@settings(max_examples=100)
@given(st.binary(max_size=3000))
def test_noise_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "noise.tar"
    path.write_bytes(content)
    with suppress(ArchiveInvalid), TarMembers(path) as members:
        assert all(each.offset + each.size <= len(content) for each in members)


def test_what_tarfile_writes_is_read(tmp_path: Path, opened: Callable[[Path], TarMembers]) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        header = tarfile.TarInfo("ü" * 200)
        header.size = 3
        tar.addfile(header, io.BytesIO(b"abc"))
    [only] = opened(path)
    assert only.size == 3
