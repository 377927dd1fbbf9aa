"""The disk reserve of the catalog."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from entrepot.store.disk_reserve import RESERVE_SIZE, ROOM_FOR_RESERVE, DiskReserve


@pytest.fixture
def reserve_file(tmp_path: Path) -> Path:
    return tmp_path / "catalog.sqlite.reserve"


@pytest.fixture
def reserve(tmp_path: Path) -> DiskReserve:
    return DiskReserve(tmp_path / "catalog.sqlite")


def free_space(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))


def test_the_reserve_takes_blocks_of_the_disk_for_its_user_only(
    reserve: DiskReserve, reserve_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_space(monkeypatch, ROOM_FOR_RESERVE)
    reserve.allocate()
    status = reserve_file.stat()
    assert (status.st_size, status.st_mode & 0o777) == (RESERVE_SIZE, 0o600)
    assert status.st_blocks * 512 >= RESERVE_SIZE


def test_a_disk_with_little_room_gets_no_reserve(
    reserve: DiskReserve, reserve_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_space(monkeypatch, ROOM_FOR_RESERVE - 1)
    reserve.allocate()
    assert not reserve_file.exists()


def test_an_existing_reserve_stays_as_it_is(
    reserve: DiskReserve, reserve_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_space(monkeypatch, ROOM_FOR_RESERVE)
    reserve_file.write_bytes(b"earlier")
    reserve.allocate()
    assert reserve_file.read_bytes() == b"earlier"


def test_a_reserve_that_can_not_be_allocated_leaves_no_file(
    reserve: DiskReserve, reserve_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_space(monkeypatch, ROOM_FOR_RESERVE)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    reserve.allocate()
    assert not reserve_file.exists()


def test_a_reserve_is_released_once(
    reserve: DiskReserve, reserve_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_space(monkeypatch, ROOM_FOR_RESERVE)
    reserve.allocate()
    assert [reserve.release(), reserve.release()] == [True, False]
    assert not reserve_file.exists()
