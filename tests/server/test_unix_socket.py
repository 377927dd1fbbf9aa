"""Who owns the engine's Unix socket (S22), and which modes its files have (S30)."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from entrepot.api.client import CacheClient
from entrepot.config.directories import Directories
from entrepot.config.settings import Settings
from entrepot.engine.engine import Engine
from entrepot.errors import EngineError
from entrepot.server import run
from entrepot.server.run import serve
from entrepot.server.unix_socket import owned_socket
from tests.conftest import answering


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "entrepot.sock"


def test_the_socket_is_private_and_goes_with_its_owner(path: Path) -> None:
    with owned_socket(path) as owned:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert owned.listener.getsockname() == str(path)
    assert list(path.parent.iterdir()) == []


def test_a_lock_file_removed_by_its_last_owner_is_created_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, flock = path.with_name(f"{path.name}.lock"), fcntl.flock

    def removed_meanwhile(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        lock.unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", removed_meanwhile)
    with (
        owned_socket(path),
        pytest.raises(EngineError, match="Another engine answers"),
        owned_socket(path),
    ):
        pass


def test_a_socket_whose_owner_lives_is_not_taken_over(path: Path) -> None:
    with owned_socket(path) as owned:
        owned.listener.listen()
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
    with owned_socket(path) as owned:
        owned.listener.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_only_the_socket_that_was_bound_is_removed(path: Path) -> None:
    with owned_socket(path):
        path.unlink()
        path.write_text("of another engine")
    assert path.read_text() == "of another engine"


def test_without_locks_the_socket_that_answers_is_proof_enough(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with owned_socket(path) as owned:
        owned.listener.listen()
        with pytest.raises(EngineError, match="Another engine answers"), owned_socket(path):
            pass


async def test_a_second_engine_does_not_take_the_socket_of_the_first(
    tmp_path: Path, settings: Settings
) -> None:
    """S22: two engines with data of their own and one runtime directory."""
    first = Directories.under(tmp_path / "first")
    second = replace(Directories.under(tmp_path / "second"), runtime=first.runtime)
    started = asyncio.Event()
    serving = asyncio.create_task(serve(first, settings, ready=lambda _: started.set()))
    await asyncio.wait(
        {serving, asyncio.ensure_future(started.wait())}, return_when=asyncio.FIRST_COMPLETED
    )
    with pytest.raises(EngineError, match="Another engine answers on the management socket"):
        await serve(second, settings)
    async with CacheClient.at(first.socket) as client:
        assert (await client.system.status()).rules == 0
        await client.system.stop()
    await serving


@pytest.fixture
def wide_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


async def test_what_an_engine_writes_is_for_its_user_only(
    directories: Directories, settings: Settings, wide_umask: None
) -> None:
    """S30: a data directory that is there already, open to everybody, as systemd makes it."""
    directories.data.mkdir(parents=True, mode=0o755)
    started = asyncio.Event()
    serving = asyncio.create_task(serve(directories, settings, ready=lambda _: started.set()))
    await asyncio.wait(
        {serving, asyncio.ensure_future(started.wait())}, return_when=asyncio.FIRST_COMPLETED
    )
    files = [each for each in directories.data.rglob("*") if each.is_file()]
    assert directories.catalog in files
    assert {each.name: stat.S_IMODE(each.stat().st_mode) & 0o077 for each in files} == {
        each.name: 0 for each in files
    }
    async with CacheClient.at(directories.socket) as client:
        await client.system.stop()
    await serving
    assert os.umask(0o022) == 0o022


# The socket is gone (F68): a logout removes its directory, programs and people clean up.


def reached(path: Path, listener: socket.socket) -> bool:
    """Whether a client that connects to *path* reaches *listener*."""
    listener.listen()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        listener.settimeout(60)
        listener.accept()[0].close()
    return True


def test_f68_a_socket_that_is_in_place_is_left_as_it_is(path: Path) -> None:
    with owned_socket(path) as owned:
        assert owned.is_in_place()
        before = path.stat().st_ino
        assert owned.ensure() is None
        assert path.stat().st_ino == before


def remove_socket(path: Path) -> None:
    path.unlink()


def remove_directory(path: Path) -> None:
    shutil.rmtree(path.parent)


def remove_parent(path: Path) -> None:
    shutil.rmtree(path.parent.parent)


def replace_by_a_dead_socket(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))


@pytest.mark.parametrize(
    "lose", [remove_socket, remove_directory, remove_parent, replace_by_a_dead_socket]
)
def test_f68_a_socket_that_is_gone_is_bound_again_in_a_private_directory(
    tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    path = tmp_path / "run" / "entrepot" / "entrepot.sock"
    path.parent.mkdir(parents=True, mode=0o700)
    with owned_socket(path) as owned:
        lose(path)
        assert not owned.is_in_place()
        renewed = owned.ensure()
        assert renewed is not None
        assert owned.is_in_place()
        assert reached(path, renewed)
        assert (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode)) == (
            0o600,
            0o700,
        )
        # Whose it is, is locked as before.
        with pytest.raises(EngineError, match="Another engine answers"), owned_socket(path):
            pass
    assert list(path.parent.iterdir()) == []


def test_f68_a_lock_that_is_gone_is_taken_again_and_the_socket_stays(path: Path) -> None:
    with owned_socket(path) as owned:
        path.with_name(f"{path.name}.lock").unlink()
        before = path.stat().st_ino
        assert owned.ensure() is None
        assert path.stat().st_ino == before
        with pytest.raises(EngineError, match="Another engine answers"), owned_socket(path):
            pass


def test_f68_a_directory_that_others_may_enter_is_closed_again(tmp_path: Path) -> None:
    path = tmp_path / "run" / "entrepot.sock"
    path.parent.mkdir(mode=0o700)
    with owned_socket(path) as owned:
        for mode in (0o755, 0o777, 0o500):
            path.parent.chmod(mode)
            owned.ensure()
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_f68_the_socket_of_another_engine_is_left_to_it_until_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "run" / "entrepot.sock"
    path.parent.mkdir(mode=0o700)
    with owned_socket(path) as owned:
        remove_directory(path)
        path.parent.mkdir(mode=0o700)
        with owned_socket(path) as other:
            other.listener.listen()
            with pytest.raises(
                EngineError,
                match=f"Another engine answers on the management socket .*, with pid {os.getpid()}",
            ):
                owned.ensure()
            assert other.is_in_place()
        assert owned.ensure() is not None
        assert owned.is_in_place()


def test_f68_a_file_that_is_no_socket_is_left_and_named(path: Path) -> None:
    with owned_socket(path) as owned:
        path.unlink()
        path.write_text("of another program")
        with pytest.raises(
            EngineError,
            match=r"In the place of the management socket .* is a file that is no socket\. "
            r"Move it away",
        ):
            owned.ensure()
        path.unlink()
        path.mkdir()
        with pytest.raises(EngineError, match="is a directory"):
            owned.ensure()
        path.rmdir()
        assert owned.ensure() is not None


def test_f68_a_file_that_is_no_socket_is_left_at_the_start(path: Path) -> None:
    path.write_text("of another program")
    with pytest.raises(EngineError, match="is a file that is no socket"), owned_socket(path):
        pass
    assert path.read_text() == "of another program"
    assert not path.with_name(f"{path.name}.lock").exists()


def test_f68_a_directory_that_can_not_be_made_again_is_named_and_tried_again(
    tmp_path: Path,
) -> None:
    path = tmp_path / "run" / "entrepot" / "entrepot.sock"
    path.parent.mkdir(parents=True)
    with owned_socket(path) as owned:
        remove_parent(path)
        (tmp_path / "run").write_text("in the way")
        with pytest.raises(
            EngineError, match="is gone and can't be created again: Not a directory"
        ):
            owned.ensure()
        (tmp_path / "run").unlink()
        assert owned.ensure() is not None


def test_f68_another_engine_that_is_too_busy_to_accept_is_alive(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(path))
        busy.listen(0)
        with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
            for connection in (first, second):
                connection.setblocking(False)
                with suppress(BlockingIOError):
                    connection.connect(str(path))
            with pytest.raises(EngineError, match="Another engine answers"), owned_socket(path):
                pass


async def test_f68_an_engine_whose_socket_is_gone_binds_again_and_keeps_connections(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(run, "SOCKET_CHECK_INTERVAL", 0.01)
    async with answering(engine), CacheClient.at(engine.directories.socket) as before:
        events = before.system.events()
        coming = asyncio.ensure_future(anext(events))
        await before.system.status()
        while not engine.events._watchers:
            await asyncio.sleep(0)
        remove_directory(engine.directories.socket)
        async with asyncio.timeout(60):
            event = await coming
            while event.kind != "socket-restored":
                event = await anext(events)
        async with CacheClient.at(engine.directories.socket) as after:
            assert (await after.system.status()).rules == 1
        assert (await before.system.status()).rules == 1
        assert (
            event.message
            == f"The management socket {engine.directories.socket} was gone or replaced; "
            "it is there again."
        )
        await events.aclose()


async def test_f68_a_socket_that_can_not_be_bound_again_is_said_once_and_shown(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "SOCKET_CHECK_INTERVAL", 0.0)
    path = engine.directories.socket
    async with answering(engine):
        with engine.events.watching() as events:
            path.unlink()
            path.mkdir()
            async with asyncio.timeout(60):
                while (event := await anext(events)).kind != "socket-lost":
                    pass
                assert (
                    f"In the place of the management socket {path} is a directory." in event.message
                )
                assert any(
                    "is a directory" in notice for notice in (await engine.status.get()).notices
                )
                path.rmdir()
                # Between the two there is no second one, however often it was tried.
                assert (await anext(events)).kind == "socket-restored"
                while engine.endpoints.socket_problem is not None:
                    await asyncio.sleep(0)
        assert not any(
            "management socket" in notice for notice in (await engine.status.get()).notices
        )
