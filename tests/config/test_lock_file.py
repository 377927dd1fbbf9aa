"""Which engine runs on a data directory, as its lock file says (F68)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from entrepot.config.directories import Directories
from entrepot.config.lock_file import RunningEngine, record_engine, running_engine
from entrepot.engine.engine import Engine
from entrepot.engine.lock import only_engine
from entrepot.errors import EngineError
from tests.conftest import answering


def test_f68_an_engine_that_holds_the_lock_is_named_with_its_pid(directories: Directories) -> None:
    directories.make()
    assert running_engine(directories.lock) is None
    with only_engine(directories):
        assert running_engine(directories.lock) == RunningEngine(os.getpid(), None)


async def test_f68_an_engine_that_answers_is_named_with_its_socket(engine: Engine) -> None:
    async with answering(engine):
        assert running_engine(engine.directories.lock) == RunningEngine(
            os.getpid(), engine.directories.socket
        )


def test_f68_a_shorter_record_replaces_a_longer_one(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.touch()
    record_engine(lock, Path("/run/user/1000/entrepot/entrepot.sock"))
    record_engine(lock, None)
    assert running_engine(lock) == RunningEngine(os.getpid(), None)


def test_f68_a_process_that_has_ended_is_no_engine(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.touch()
    code = f"from pathlib import Path; from entrepot.config.lock_file import record_engine; record_engine(Path({str(lock)!r}), None)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert json.loads(lock.read_text())["pid"] > 0
    assert running_engine(lock) is None


def test_f68_another_process_with_the_same_pid_is_no_engine(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.touch()
    record_engine(lock, None)
    record = json.loads(lock.read_text())
    assert running_engine(lock) is not None
    lock.write_text(json.dumps(record | {"started": "an earlier boot 5"}))
    assert running_engine(lock) is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "1234",
        "[]",
        "null",
        '{"pid": "x"}',
        '{"pid": 1}',
        '{"pid": -1, "started": null, "socket": null}',
        "\xff" * 10_000,
    ],
)
def test_f68_a_lock_of_another_version_names_nobody(tmp_path: Path, content: str) -> None:
    lock = tmp_path / "lock"
    lock.write_text(content, encoding="latin-1")
    assert running_engine(lock) is None


def test_f68_where_the_lock_can_not_be_written_the_engine_goes_on(tmp_path: Path) -> None:
    record_engine(tmp_path / "none" / "lock", None)
    assert not (tmp_path / "none").exists()


async def test_f68_a_second_engine_is_told_the_pid_of_the_first(engine: Engine) -> None:
    async with answering(engine):
        expected = rf"Another engine runs on the data in .*, with pid {os.getpid()}\. Use that one \(entrepot status\), or stop it first \(kill {os.getpid()}\)"
        with pytest.raises(EngineError, match=expected), only_engine(engine.directories):
            pass


async def test_f68_a_second_engine_is_told_that_the_socket_of_the_first_is_gone(
    engine: Engine,
) -> None:
    async with answering(engine):
        engine.directories.socket.unlink()
        with (
            pytest.raises(
                EngineError, match=r"Its socket .* is gone, and it makes it again within seconds"
            ),
            only_engine(engine.directories),
        ):
            pass


async def test_f68_a_second_engine_with_another_runtime_directory_is_told_the_socket(
    engine: Engine, tmp_path: Path
) -> None:
    d = engine.directories
    other = Directories(d.config, d.data, tmp_path / "elsewhere" / "entrepot", d.log)
    async with answering(engine):
        with (
            pytest.raises(
                EngineError,
                match=rf"It answers on {d.socket}, and this user's socket is .*XDG_RUNTIME_DIR={d.runtime.parent} ",
            ),
            only_engine(other),
        ):
            pass
