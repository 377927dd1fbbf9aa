"""Why no engine answers, in the words of commands (F68)."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from entrepot.cli.no_engine import note_of_another_user, why_no_engine
from entrepot.config.directories import Directories
from entrepot.config.lock_file import record_engine
from entrepot.engine.engine import Engine
from entrepot.server import run
from tests.cli.conftest import CommandLine
from tests.conftest import answering

NOBODY = 65534


async def test_f68_a_command_names_the_pid_of_an_engine_whose_socket_is_gone(
    alone: CommandLine, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Before it looks again.
    monkeypatch.setattr(run, "SOCKET_CHECK_INTERVAL", 10_000)
    async with answering(engine):
        shutil.rmtree(engine.directories.runtime)
        result = await alone.run("status")
    assert result.status == 3
    assert (
        f"The engine with pid {os.getpid()} is running, but its socket {engine.directories.socket} is gone. It creates it again within seconds"
        in result.errors
    )
    assert f"kill {os.getpid()}" in result.errors


def test_f68_a_socket_that_is_gone(directories: Directories) -> None:
    directories.make()
    directories.lock.touch()
    record_engine(directories.lock, directories.socket)
    pid = os.getpid()
    assert why_no_engine(directories) == (
        f"The engine with pid {pid} is running, but its socket {directories.socket} is gone. It creates it again within seconds, unless it is stopping. "
        f"If this persists, stop it (kill {pid}) and start it again with: entrepot serve"
    )


def test_f68_an_engine_that_starts(directories: Directories) -> None:
    directories.make()
    directories.lock.touch()
    record_engine(directories.lock, None)
    assert (
        f"The engine with pid {os.getpid()} is running, but it has not answered yet: it is starting."
        in why_no_engine(directories)
    )


def test_f68_an_engine_that_does_not_answer(directories: Directories) -> None:
    directories.make()
    directories.lock.touch()
    record_engine(directories.lock, directories.socket)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directories.socket))
    assert (
        f"The engine with pid {os.getpid()} is running, but does not answer on its socket {directories.socket}"
        in why_no_engine(directories)
    )


async def test_f68_a_shell_with_another_runtime_directory_is_told_where_the_engine_answers(
    entrepot: CommandLine, engine: Engine, tmp_path: Path
) -> None:
    """As in cron, or after su."""
    result = await entrepot.run("status", variables={"XDG_RUNTIME_DIR": str(tmp_path / "other")})
    assert result.status == 3
    assert (
        f"is running, but on the socket {engine.directories.socket}, and this shell looks for {tmp_path}/other/entrepot/entrepot.sock"
        in result.errors
    )
    assert f"Set XDG_RUNTIME_DIR={engine.directories.runtime.parent} here as well." in result.errors


async def test_f68_a_path_that_is_too_long_is_named_by_commands_too(
    alone: CommandLine, tmp_path: Path
) -> None:
    result = await alone.run("status", variables={"XDG_RUNTIME_DIR": str(tmp_path / ("x" * 120))})
    assert result.status == 3
    assert "The path of the management socket is too long" in result.errors


async def test_f68_a_file_in_the_place_of_the_socket_is_named(
    alone: CommandLine, directories: Directories
) -> None:
    directories.make()
    directories.socket.touch()
    assert (
        f"in the place of its socket {directories.socket} is a file that is no socket. Move it away"
        in (await alone.run("status")).errors
    )


async def test_f68_a_stale_socket_of_an_engine_that_was_killed_is_no_engine(
    alone: CommandLine, directories: Directories
) -> None:
    directories.make()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(directories.socket))
    assert (
        await alone.run("status")
    ).errors == "Error: No engine is running. Start one with: entrepot serve (EngineUnreachable)\n"


# The environment of another user: su, sudo -E.


@pytest.fixture
def of_nobody(tmp_path: Path) -> Path:
    """A directory of another user."""
    if os.geteuid():
        pytest.skip("only root can give a directory to another user")
    path = tmp_path / "of-nobody"
    path.mkdir(mode=0o700)
    os.chown(path, NOBODY, NOBODY)
    return path


async def test_f68_root_leaves_nothing_in_the_directories_of_the_user_who_called_sudo(
    alone: CommandLine, of_nobody: Path
) -> None:
    variables = {"XDG_RUNTIME_DIR": str(of_nobody), "SUDO_UID": str(NOBODY)}
    result = await alone.run("serve", variables=variables)
    assert result.status == 1
    assert (
        f"{of_nobody}/entrepot is among the files of the user nobody, who can't use what root creates there."
        in result.errors
    )
    assert "without sudo" in result.errors
    assert os.listdir(of_nobody) == []
    assert not (alone.root / "d").exists()


async def test_f68_root_leaves_nothing_in_the_home_of_another_user(
    alone: CommandLine, of_nobody: Path
) -> None:
    result = await alone.run(
        "serve", variables={"HOME": str(of_nobody), "XDG_DATA_HOME": "", "XDG_CONFIG_HOME": ""}
    )
    assert result.status == 1
    assert "among the files of the user nobody" in result.errors
    assert os.listdir(of_nobody) == []


async def test_root_may_keep_its_data_in_a_directory_of_another_user(of_nobody: Path) -> None:
    """As a container may have it, whose volume belongs to another user."""
    directories = Directories(of_nobody / "c", of_nobody / "d", of_nobody / "r", of_nobody / "l")
    directories.make()
    assert directories.data.is_dir()


async def test_f68_root_is_told_when_it_reaches_the_engine_of_another_user(
    entrepot: CommandLine, engine: Engine, of_nobody: Path
) -> None:
    os.chown(engine.directories.socket, NOBODY, NOBODY)
    assert (
        note_of_another_user(engine.directories.socket)
        == "This is the engine of the user nobody, not of root: XDG_RUNTIME_DIR is that user's."
    )
    result = await entrepot.done("status")
    assert "This is the engine of the user nobody, not of root" in result.errors


def test_f68_a_user_with_the_runtime_directory_of_another_is_told_so() -> None:
    """As su leaves it."""
    if os.geteuid():
        pytest.skip("only root can run a command as another user")
    runtime = Path(f"/tmp/entrepot-of-daemon-{os.getpid()}")
    runtime.mkdir(mode=0o700)
    try:
        os.chown(runtime, 1, 1)
        # All modules come in as root: where the tests are, that user may not read.
        code = (
            f"import importlib, os, pkgutil, sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r}); import entrepot.__main__ as program; "
            "[importlib.import_module(each.name) for each in pkgutil.walk_packages(sys.modules['entrepot'].__path__, 'entrepot.')]; "
            f"os.setgroups([]); os.setresgid(*[{NOBODY}] * 3); os.setresuid(*[{NOBODY}] * 3); sys.argv = ['entrepot', 'status']; program.main()"
        )
        line = [sys.executable, "-c", code]
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": "/nonexistent",
            "XDG_RUNTIME_DIR": str(runtime),
            "LANG": "C.UTF-8",
        }
        result = subprocess.run(line, capture_output=True, text=True, env=environment, check=False)
        assert result.returncode == 3, result.stderr
        assert (
            "belongs to another user: to daemon, and this is nobody. su and sudo may keep the environment of the user before."
            in result.stderr
        )
    finally:
        shutil.rmtree(runtime)


async def test_f68_the_far_side_of_ssh_says_why_too(
    entrepot: CommandLine, engine: Engine, tmp_path: Path
) -> None:
    result = await entrepot.run("dial", variables={"XDG_RUNTIME_DIR": str(tmp_path / "other")})
    assert result.status == 3
    assert (
        f"The engine with pid {os.getpid()} is running, but on the socket {engine.directories.socket}"
        in result.errors
    )


async def test_f68_while_the_engine_answers_nothing_is_said(engine: Engine) -> None:
    async with answering(engine):
        assert os.geteuid() != 0 or note_of_another_user(engine.directories.socket) is None
