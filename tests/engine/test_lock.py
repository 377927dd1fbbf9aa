"""What an engine wants of its data directory."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

import pytest

from entrepot.config.directories import Directories
from entrepot.config.settings import Settings
from entrepot.engine.engine import Engine
from entrepot.engine.lock import only_engine, start_problem
from entrepot.errors import EngineError
from entrepot.files import file_system


async def test_a_second_engine_on_the_same_data_is_told_so(
    engine: Engine, settings: Settings
) -> None:
    with pytest.raises(EngineError, match=r"Another engine runs on the data in .*entrepot status"):
        async with Engine.open(engine.directories, settings):
            pass


async def test_after_the_end_of_one_engine_another_may_begin(
    directories: Directories, settings: Settings
) -> None:
    for _ in range(2):
        async with Engine.open(directories, settings):
            pass


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EACCES])
async def test_where_no_lock_file_can_be_made_the_directory_is_locked(
    directories: Directories, settings: Settings, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """S19: an engine on a full disk, or on one that can only be read, starts."""
    directories.make()
    opens = os.open

    def refuse(path: Path, flags: int, *mode: int) -> int:
        if path == directories.lock and flags & os.O_CREAT:
            raise OSError(error, os.strerror(error))
        return opens(path, flags, *mode)

    with monkeypatch.context() as patched:
        patched.setattr("entrepot.engine.lock.os.open", refuse)
        locked = only_engine(directories)
        locked.__enter__()
    assert not directories.lock.exists()
    # Also one that can make the file is told.
    with (
        pytest.raises(EngineError, match="Another engine runs on the data"),
        only_engine(directories),
    ):
        pass
    locked.__exit__(None, None, None)
    with only_engine(directories):
        pass


async def test_a_lock_that_can_only_be_read_is_enough(
    directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    directories.make()
    with only_engine(directories):
        pass
    opens = os.open

    def refuse(path: Path, flags: int, *mode: int) -> int:
        if flags & (os.O_CREAT | os.O_RDWR):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return opens(path, flags, *mode)

    monkeypatch.setattr("entrepot.engine.lock.os.open", refuse)
    with (
        only_engine(directories),
        pytest.raises(EngineError, match="Another engine runs on the data"),
        only_engine(directories),
    ):
        pass


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.EOPNOTSUPP])
async def test_a_file_system_without_locks_is_named_in_one_sentence(
    directories: Directories, settings: Settings, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """F88."""

    def refuse(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr("entrepot.engine.lock.fcntl.flock", refuse)
    monkeypatch.setattr("entrepot.engine.lock.file_system", lambda _: "nfs4 on /srv")
    with pytest.raises(
        EngineError,
        match=rf"The file system of .*data \(nfs4 on /srv\) can't lock files: {os.strerror(error)}\. Set XDG_DATA_HOME",
    ):
        async with Engine.open(directories, settings):
            pass


def test_the_file_system_of_a_directory_is_that_of_the_deepest_mount(tmp_path: Path) -> None:
    """F88."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n"
        f"2 1 0:5 / {tmp_path}/with\\040space rw,nosuid shared:1 - nfs4 server:/x rw\n"
        f"3 1 0:6 / {tmp_path}/with rw - tmpfs tmpfs rw\n"
        "nonsense\n"
    )
    assert file_system(tmp_path, mounts) == "ext4 on /"
    assert file_system(tmp_path / "with space" / "data", mounts) == f"nfs4 on {tmp_path}/with space"
    assert file_system(tmp_path / "with", mounts) == f"tmpfs on {tmp_path}/with"
    assert file_system(tmp_path, tmp_path / "none") == "unknown"


async def test_a_data_directory_that_is_a_file_is_one_sentence(
    directories: Directories, settings: Settings
) -> None:
    directories.data.parent.mkdir(parents=True)
    directories.data.write_text("in the way")
    with pytest.raises(EngineError, match="is not a directory"):
        async with Engine.open(directories, settings):
            pass


def test_the_lock_is_in_the_data_directory(tmp_path: Path) -> None:
    directories = Directories.under(tmp_path)
    assert directories.lock.parent == directories.data


def test_what_keeps_an_engine_from_its_start_is_seen_without_one(
    directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F88: doctor has the words of serve, also where no engine runs; and it leaves nothing behind."""
    assert start_problem(directories) is None
    assert not directories.data.exists()
    directories.make()
    assert start_problem(directories) is None
    assert os.listdir(directories.data) in ([], ["lock"])

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("entrepot.engine.lock.fcntl.flock", refuse)
    problem = start_problem(directories)
    assert problem is not None
    with pytest.raises(EngineError) as started, only_engine(directories):
        pass
    assert (problem.message, problem.cause) == (started.value.message, "no-locks")


def test_a_file_system_on_which_sqlite_has_no_locks_has_the_same_sentence(
    directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F88."""
    directories.make()

    def refuse(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("locking protocol")

    monkeypatch.setattr("entrepot.engine.lock.sqlite3.connect", refuse)
    monkeypatch.setattr("entrepot.engine.lock.file_system", lambda _: "9p on /host")
    problem = start_problem(directories)
    assert problem is not None
    assert (
        problem.what
        == f"The file system of {directories.data} (9p on /host) can't lock files: locking protocol (SQLite)."
    )


def test_a_data_directory_that_can_not_be_made_is_seen_without_an_engine(
    directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not directories.data.exists()
    assert start_problem(directories) is None
    monkeypatch.setattr("entrepot.engine.lock.os.access", lambda *_: False)
    problem = start_problem(directories)
    assert problem is not None
    assert problem.cause == "permission"
    assert not directories.data.exists()


def test_nothing_is_made_in_the_data_directory_of_another_user(
    directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What root leaves behind there, the engine's user could not write."""
    directories.make()
    monkeypatch.setattr(os, "geteuid", lambda: 0 if os.getuid() else 54_321)
    problem = start_problem(directories)
    assert os.listdir(directories.data) == []
    assert problem is None or "belongs to user root" in problem.what
