"""``entrepot serve`` among login sessions, service managers and terminals: its socket is removed,
its terminal closed, signals come (F68, F79)."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.clients.entrepot import Entrepot
from tests.processes import tied
from tests.programs import require_program

NewEngine = Callable[..., Entrepot]
NO_SOURCE = "http://127.0.0.1:9"

AGAIN = r"WARNING The management socket \S+ was gone or replaced; it is there again\."


@pytest.fixture
def engine(new_engine: NewEngine) -> Entrepot:
    engine: Entrepot = new_engine(NO_SOURCE)
    return engine.start()


def test_f68_a_logout_removes_the_runtime_directory_and_it_is_created_again(
    engine: Entrepot,
) -> None:
    shutil.rmtree(engine.root / "r")
    engine.process.wait_for_line(AGAIN)
    assert engine.ask("status")["address"] == engine.address
    assert engine.get("/v2/").status_code == 200
    assert engine.process.stop().status == 0
    assert not engine.directories.socket.exists()


def test_f68_until_it_can_be_made_again_commands_name_the_pid_and_the_way_out(
    engine: Entrepot,
) -> None:
    shutil.rmtree(engine.root / "r")
    # As a directory below /run is, that only root can make.
    (engine.root / "r").write_text("in the way")
    engine.process.wait_for_line(
        r"ERROR The directory \S+ of the management socket is gone and can't be created again: Not a directory"
    )
    refused = engine.run("status", check=False)
    assert refused.status == 3
    assert (
        f"The engine with pid {engine.process.pid} is running, but its socket {engine.directories.socket} is gone."
        in refused.output
    )
    assert f"(kill {engine.process.pid})" in refused.output
    (engine.root / "r").unlink()
    engine.process.wait_for_line(AGAIN)
    assert engine.ask("status")["notices"] == []
    assert engine.process.output.count("can't be created again") == 1


def test_f68_a_second_engine_shows_the_pid_of_the_first(engine: Entrepot) -> None:
    second = Entrepot(engine.root, NO_SOURCE).launch().wait()
    assert second.status == 1
    assert (
        f"Another engine runs on the data in {engine.directories.data}, with pid {engine.process.pid}."
        in second.output
    )


def test_f68_after_a_kill_no_engine_is_named(engine: Entrepot) -> None:
    engine.kill()
    assert (
        engine.run("status", check=False).output
        == "Error: No engine is running. Start one with: entrepot serve (EngineUnreachable)\n"
    )
    engine.start()
    assert engine.ask("status")["address"] == engine.address


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE])
def test_f79_a_service_is_not_killed_by_what_a_service_manager_sends(
    engine: Entrepot, number: signal.Signals
) -> None:
    engine.process.send(number)
    if number is not signal.SIGPIPE:
        engine.process.wait_for_line(
            rf"{number.name}: .*settings\.toml and certificates are read at the start only"
        )
    assert engine.get("/v2/").status_code == 200
    assert engine.process.stop().status == 0


def test_f79_sigquit_ends_in_order(engine: Entrepot) -> None:
    engine.process.send(signal.SIGQUIT)
    assert engine.process.wait().status == 0
    assert not engine.directories.socket.exists()


def test_f79_stopped_and_continued_it_answers_as_before(engine: Entrepot) -> None:
    """ctrl+z and fg."""
    engine.process.send(signal.SIGSTOP)
    with pytest.raises(TimeoutError):
        _status_line(engine, wait=0.05)
    engine.process.send(signal.SIGCONT)
    assert engine.get("/v2/").status_code == 200
    assert engine.ask("status")["address"] == engine.address


def _status_line(engine: Entrepot, *, wait: float) -> bytes:
    host, _, port = engine.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=wait) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        return connection.recv(100)


# In a terminal


class InTerminal:
    """A program whose controlling terminal is one of its own, and can be closed. What it writes
    goes into a file."""

    def __init__(
        self, arguments: list[str | Path], environment: dict[str, str], output: Path
    ) -> None:
        self._keyboard, terminal = os.openpty()
        self.output = output
        with output.open("wb") as written:
            self.process = subprocess.Popen(
                tied([require_program("setsid"), "--ctty", *arguments]),
                stdin=terminal,
                stdout=written,
                stderr=written,
                env=environment,
                cwd=output.parent,
            )
        os.close(terminal)

    def close_terminal(self) -> None:
        if self._keyboard >= 0:
            os.close(self._keyboard)
            self._keyboard = -1

    def close(self) -> None:
        self.close_terminal()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(60)


@contextmanager
def serving_in_terminal(engine: Entrepot, *prefix: str) -> Iterator[InTerminal]:
    arguments = [*prefix, sys.executable, "-m", "entrepot", "serve", "--listen", "127.0.0.1:0"]
    terminal = InTerminal([*arguments], engine.environment, engine.root / "output")
    try:
        while engine.run("status", check=False).status:
            assert terminal.process.poll() is None, terminal.output.read_text()
        yield terminal
    finally:
        terminal.close()


def test_f79_an_engine_whose_terminal_closes_ends_in_order(new_engine: NewEngine) -> None:
    engine = new_engine(NO_SOURCE)
    with serving_in_terminal(engine) as terminal:
        terminal.close_terminal()
        assert terminal.process.wait(60) == 0
        assert terminal.output.read_text().splitlines()[-1].endswith(" Stopping.")
    assert not engine.directories.socket.exists()


def test_f79_an_engine_under_nohup_goes_on_when_its_terminal_closes(new_engine: NewEngine) -> None:
    engine = new_engine(NO_SOURCE)
    with serving_in_terminal(engine, str(require_program("nohup"))) as terminal:
        terminal.close_terminal()
        terminal.process.send_signal(signal.SIGHUP)
        assert engine.ask("status")["rules"] == 0
        terminal.process.terminate()
        assert terminal.process.wait(60) == 0


# A log file


def test_f79_a_log_file_that_is_rotated_away_is_made_again(new_engine: NewEngine) -> None:
    engine = new_engine(NO_SOURCE)
    log = engine.root / "engine.log"
    process = engine.launch("--log-file", str(log))
    while engine.run("status", check=False).status:
        assert process.is_running, process.output
    log.rename(engine.root / "engine.log-1")
    process.send(signal.SIGHUP)
    while not log.exists() or "SIGHUP" not in log.read_text():
        assert process.is_running
    assert process.stop().status == 0
    assert log.read_text().splitlines()[-1].endswith(" Stopping.")
    assert process.output == ""
