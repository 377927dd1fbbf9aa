"""Replacing a file in one step, and the file system that it is on."""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path

import pytest

from entrepot.files import file_system, replace_file, start_write_back

MOUNTS = """\
22 1 8:1 / / rw - ext4 /dev/sda1 rw
30 22 0:40 / {place} rw - nfs4 server:/export rw
31 22 0:41 / {place}/with\\040space rw - tmpfs tmpfs rw
no separator
"""


def mounts(tmp_path: Path) -> Path:
    file = tmp_path / "mountinfo"
    file.write_text(MOUNTS.format(place=tmp_path))
    return file


def test_a_file_is_replaced_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_bytes(b"before")
    status = replace_file(file, b"after")
    assert file.read_bytes() == b"after"
    assert (status.st_ino, status.st_size) == (file.stat().st_ino, 5)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["rules.toml"]


def test_a_link_stays_and_what_it_points_at_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "dotfiles").mkdir()
    target = tmp_path / "dotfiles" / "rules.toml"
    target.write_bytes(b"before")
    link = tmp_path / "rules.toml"
    link.symlink_to(target)
    replace_file(link, b"after")
    assert link.readlink() == target
    assert target.read_bytes() == b"after"


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_file_that_can_not_be_replaced_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    file = tmp_path / "rules.toml"
    file.write_bytes(b"before")

    def fail(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="No space left"):
        replace_file(file, b"after")
    assert file.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["rules.toml"]


def test_a_directory_that_can_not_be_synced_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def fsync_files_only(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(22, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync_files_only)
    replace_file(tmp_path / "rules.toml", b"after")
    assert (tmp_path / "rules.toml").read_bytes() == b"after"


def test_the_file_system_of_a_path_is_that_of_the_nearest_mount(tmp_path: Path) -> None:
    inside = tmp_path / "with space" / "file"
    assert file_system(tmp_path / "file", mounts(tmp_path)) == f"nfs4 on {tmp_path}"
    assert file_system(inside, mounts(tmp_path)) == f"tmpfs on {tmp_path}/with space"
    assert file_system(Path("/"), mounts(tmp_path)) == "ext4 on /"


def test_a_file_system_is_unknown_without_a_table_of_mounts(tmp_path: Path) -> None:
    assert file_system(tmp_path, tmp_path / "none") == "unknown"


@pytest.mark.skipif(sys.platform != "linux", reason="sync_file_range(2) is Linux's")
def test_the_kernel_can_be_told_to_write_a_part_of_a_file(tmp_path: Path) -> None:
    with open(tmp_path / "blob", "wb") as file:
        file.write(bytes(100_000))
        file.flush()
        assert start_write_back(file.fileno(), 4096, 50_000)


def test_what_is_no_file_has_no_early_writes() -> None:
    reader, writer = os.pipe()
    try:
        assert not start_write_back(writer, 0, 1)
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.skipif(sys.platform != "linux", reason="sync_file_range(2) is Linux's")
def test_an_early_write_that_fails_says_why(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    os.close(descriptor)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        start_write_back(descriptor, 0, 1)
