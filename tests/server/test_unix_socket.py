"""Who owns the engine's Unix socket (S22), and which modes its files have (S30)."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from entrepot.client import CacheClient
from entrepot.errors import EngineError
from entrepot.server.run import serve
from entrepot.server.unix_socket import owned_socket
from entrepot.settings import Directories, Settings


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "entrepot.sock"


def test_the_socket_is_private_and_goes_with_its_owner(path: Path) -> None:
    with owned_socket(path) as listener:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert listener.getsockname() == str(path)
    assert list(path.parent.iterdir()) == []


def test_a_lock_that_its_last_owner_removes_is_made_anew(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, flock = path.with_name(f"{path.name}.lock"), fcntl.flock

    def removed_meanwhile(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        lock.unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", removed_meanwhile)
    with owned_socket(path), pytest.raises(EngineError, match="Another engine answers"), owned_socket(path):
        pass


def test_a_socket_whose_owner_lives_is_not_taken_over(path: Path) -> None:
    with owned_socket(path) as listener:
        listener.listen()
        before = path.stat().st_ino
        with pytest.raises(EngineError, match="Another engine answers"), owned_socket(path):
            pass
        assert path.stat().st_ino == before


def test_a_socket_of_an_engine_that_takes_no_lock_is_not_taken_over(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as earlier:
        earlier.bind(str(path))
        earlier.listen()
        with pytest.raises(EngineError, match="Another engine answers"), owned_socket(path):
            pass
        assert path.exists()


def test_a_socket_that_a_dead_engine_left_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with owned_socket(path) as listener:
        listener.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_only_the_socket_that_was_bound_is_removed(path: Path) -> None:
    with owned_socket(path):
        path.unlink()
        path.write_text("of another engine")
    assert path.read_text() == "of another engine"


def test_without_locks_the_socket_that_answers_is_proof_enough(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with owned_socket(path) as listener:
        listener.listen()
        with pytest.raises(EngineError, match="Another engine answers"), owned_socket(path):
            pass


async def test_a_second_engine_leaves_the_first_one_its_socket(tmp_path: Path, settings: Settings) -> None:
    """S22: two engines with data of their own and one runtime directory."""
    first = Directories.under(tmp_path / "first")
    second = replace(Directories.under(tmp_path / "second"), runtime=first.runtime)
    started = asyncio.Event()
    serving = asyncio.create_task(serve(first, settings, ready=lambda _: started.set()))
    await asyncio.wait({serving, asyncio.ensure_future(started.wait())}, return_when=asyncio.FIRST_COMPLETED)
    with pytest.raises(EngineError, match="Another engine answers on the management socket"):
        await serve(second, settings)
    async with CacheClient.at(first.socket) as client:
        assert (await client.status()).rules == 0
        await client.stop()
    await serving


@pytest.fixture
def wide_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


async def test_what_an_engine_writes_is_for_its_user_only(directories: Directories, settings: Settings, wide_umask: None) -> None:
    """S30: a data directory that is there already, open to everybody, as systemd makes it."""
    directories.data.mkdir(parents=True, mode=0o755)
    started = asyncio.Event()
    serving = asyncio.create_task(serve(directories, settings, ready=lambda _: started.set()))
    await asyncio.wait({serving, asyncio.ensure_future(started.wait())}, return_when=asyncio.FIRST_COMPLETED)
    files = [each for each in directories.data.rglob("*") if each.is_file()]
    assert directories.catalog in files
    assert {each.name: stat.S_IMODE(each.stat().st_mode) & 0o077 for each in files} == {each.name: 0 for each in files}
    async with CacheClient.at(directories.socket) as client:
        await client.stop()
    await serving
    assert os.umask(0o022) == 0o022
