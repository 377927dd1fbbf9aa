"""What an engine wants of its data directory."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from entrepot.engine import Engine
from entrepot.errors import EngineError
from entrepot.settings import Directories, Settings


async def test_a_second_engine_on_the_same_data_is_told_so(engine: Engine, settings: Settings) -> None:
    with pytest.raises(EngineError, match=r"Another engine runs on the data in .*entrepot status"):
        async with Engine.open(engine.directories, settings):
            pass


async def test_after_the_end_of_one_engine_another_may_begin(directories: Directories, settings: Settings) -> None:
    for _ in range(2):
        async with Engine.open(directories, settings):
            pass


async def test_a_full_disk_at_the_start_is_one_sentence(directories: Directories, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(EngineError, match=r"The disk is full: .*Free space there"):
        async with Engine.open(directories, settings):
            pass
    assert list(directories.data.glob("probe")) == []


async def test_a_data_directory_that_is_a_file_is_one_sentence(directories: Directories, settings: Settings) -> None:
    directories.data.parent.mkdir(parents=True)
    directories.data.write_text("in the way")
    with pytest.raises(EngineError, match="is not a directory"):
        async with Engine.open(directories, settings):
            pass


def test_the_lock_is_in_the_data_directory(tmp_path: Path) -> None:
    directories = Directories.under(tmp_path)
    assert directories.lock.parent == directories.data
