"""The directories of an engine."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import platformdirs
import pytest

from entrepot.config.directories import SOCKET_PATH_LENGTH, Directories, runtime_problem
from entrepot.errors import EngineError


def test_every_directory_follows_the_variables_of_xdg(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Short names: the path of a socket has at most 107 bytes.
    for variable in ("CONFIG_HOME", "DATA_HOME", "STATE_HOME", "RUNTIME_DIR"):
        monkeypatch.setenv(f"XDG_{variable}", str(tmp_path / variable[0]))
    directories = Directories.of_user()
    assert directories.config == tmp_path / "C" / "entrepot"
    assert directories.data == tmp_path / "D" / "entrepot"
    assert directories.runtime == tmp_path / "R" / "entrepot"
    assert directories.log.is_relative_to(tmp_path / "S" / "entrepot")
    directories.make()
    assert directories.runtime.is_dir()


def test_a_runtime_directory_of_another_mode_is_followed_too_and_ours_below_it_is_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shared").mkdir(mode=0o755)
    for variable in ("CONFIG_HOME", "DATA_HOME", "STATE_HOME"):
        monkeypatch.setenv(f"XDG_{variable}", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "shared"))
    directories = Directories.of_user()
    directories.make()
    assert directories.socket == tmp_path / "shared" / "entrepot" / "entrepot.sock"
    assert stat.S_IMODE(directories.runtime.stat().st_mode) == 0o700


@pytest.mark.parametrize("value", [None, "", "relative/path"])
def test_without_a_usable_variable_the_platform_decides(
    value: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(variable, raising=False)
        if value is not None:
            monkeypatch.setenv(variable, value)
    directories = Directories.of_user()
    assert directories.config == tmp_path / ".config" / "entrepot"
    assert directories.data == tmp_path / ".local" / "share" / "entrepot"
    assert directories.runtime.is_absolute()
    assert directories.runtime.name == "entrepot"


def test_a_platform_without_a_place_for_the_socket_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)

    def refuse(*arguments: object, **named: object) -> Path:
        raise PermissionError("it is owned by uid 1, not 0; set XDG_RUNTIME_DIR instead")

    monkeypatch.setattr(platformdirs, "user_runtime_path", refuse)
    with pytest.raises(EngineError, match="Set XDG_RUNTIME_DIR") as caught:
        Directories.of_user()
    assert caught.value.message.count("XDG_RUNTIME_DIR") == 1


@pytest.mark.parametrize(
    "answer", [Path("~/.config/entrepot"), RuntimeError("could not determine the home directory")]
)
def test_a_user_without_a_home_directory_is_one_sentence(
    answer: Path | RuntimeError, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F78: older versions of platformdirs give the path as it stands, and it would be made below
    the current directory."""
    monkeypatch.setenv("XDG_DATA_HOME", "/srv")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", "relative")

    def config_path(*_: object, **__: object) -> Path:
        if isinstance(answer, RuntimeError):
            raise answer
        return answer

    monkeypatch.setattr(platformdirs, "user_config_path", config_path)
    with pytest.raises(
        EngineError,
        match=r"has no home directory\. Set HOME, or each of XDG_CONFIG_HOME, XDG_STATE_HOME to a directory",
    ):
        Directories.of_user()


def test_all_directories_can_be_put_below_one(tmp_path: Path) -> None:
    directories = Directories.under(tmp_path)
    directories.make()
    for directory in (directories.config, directories.data, directories.runtime, directories.log):
        assert directory.parent == tmp_path
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    names = ("settings", "rules", "credentials", "catalog", "blobs", "fills", "lock", "socket")
    everything = [getattr(directories, name) for name in names]
    assert len(set(everything)) == 8
    assert all(directory.is_relative_to(tmp_path) for directory in everything)


def test_making_directories_twice_changes_nothing_but_an_open_runtime_directory(
    tmp_path: Path,
) -> None:
    directories = Directories.under(tmp_path)
    directories.make()
    directories.runtime.chmod(0o755)
    directories.data.chmod(0o750)
    directories.make()
    assert stat.S_IMODE(directories.runtime.stat().st_mode) == 0o700
    assert stat.S_IMODE(directories.data.stat().st_mode) == 0o750


def test_a_file_in_the_place_of_a_directory_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(EngineError, match="is not a directory"):
        Directories.under(tmp_path).make()


def test_a_directory_that_can_not_be_created_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError, match=r"can't be created: Not a directory.*XDG_CONFIG_HOME"):
        Directories.under(tmp_path / "file" / "below").make()


def test_a_directory_that_can_not_be_read_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: "data" not in str(path.name))
    with pytest.raises(EngineError, match=r"data can't be read.*XDG_DATA_HOME"):
        Directories.under(tmp_path).make()


def test_only_the_directory_of_the_socket_has_to_be_writable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S19: a cache on a disk that can only be read serves what it has."""
    Directories.under(tmp_path).make()
    monkeypatch.setattr(os, "access", lambda path, mode: path.name == "run" or not mode & os.W_OK)
    Directories.under(tmp_path).make()
    monkeypatch.setattr(os, "access", lambda _, mode: not mode & os.W_OK)
    with pytest.raises(EngineError, match=r"run can't be written.*XDG_RUNTIME_DIR"):
        Directories.under(tmp_path).make()


def test_a_runtime_directory_of_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(EngineError, match="belongs to another user"):
        Directories.under(tmp_path).make()


def test_a_path_too_long_for_a_socket_is_one_sentence_and_nothing_is_made(tmp_path: Path) -> None:
    rest = len(os.fsencode(tmp_path / "x" / "run" / "entrepot.sock")) - 1
    fits = Directories.under(tmp_path / ("x" * (SOCKET_PATH_LENGTH - rest)))
    assert len(os.fsencode(fits.socket)) == SOCKET_PATH_LENGTH
    fits.make()
    long = Directories.under(tmp_path / ("y" * (SOCKET_PATH_LENGTH - rest + 1)))
    with pytest.raises(EngineError, match=r"too long.*shorter path"):
        long.make()
    assert not long.config.exists()


def test_f68_a_runtime_directory_of_another_user_is_a_problem_but_for_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = tmp_path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner)
    assert runtime_problem(tmp_path / "entrepot") is None
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert runtime_problem(tmp_path / "entrepot") is None
    if owner:
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
        assert "belongs to another user" in (runtime_problem(tmp_path / "entrepot") or "")
