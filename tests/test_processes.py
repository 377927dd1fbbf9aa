"""Programs end with the test that started them."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests import processes
from tests.processes import Leftovers, children, is_running, reserved_port


def test_background_processes_of_a_test_are_killed_and_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes, "ENDING", 0.0)
    leftovers = Leftovers()
    before = children()
    # The shell ends, and what it started goes on as a child of pytest.
    subprocess.run(["sh", "-c", "sleep 7301 & sleep 7302 &"], check=True)
    background = children() - before
    # Each is a shell until it becomes the other program.
    while sorted(process.command for process in background) != ["sleep 7301", "sleep 7302"]:
        pass
    named = sorted(f"{process.pid}: {process.command}" for process in background)
    assert sorted(leftovers.end()) == named
    assert not any(is_running(process) for process in background)
    assert leftovers.end() == []


def test_what_ends_by_itself_is_not_left_over() -> None:
    leftovers = Leftovers()
    subprocess.run(["sh", "-c", "sleep 0.05 &"], check=True)
    assert leftovers.end() == []


def test_a_program_ends_with_a_test_process_that_is_killed() -> None:
    code = "import subprocess, sys; from tests.processes import tied; print(subprocess.Popen(tied(['sleep', '7303'])).pid, flush=True); sys.stdin.read()"
    before = children()
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline()
        [program] = children(owner.pid)
        # Before it is the program itself, it is not tied yet.
        while program.command != "sleep 7303":
            pass
        owner.kill()
    while is_running(program):
        pass
    assert children() == before


def test_a_reserved_port_is_for_its_server_and_never_given_as_any_port() -> None:
    port = reserved_port()
    with (
        socket.create_server(("127.0.0.1", port)) as server,
        socket.create_connection(("127.0.0.1", port)),
    ):
        assert server.getsockname()[1] == port
    with socket.socket() as plain, pytest.raises(OSError, match="in use"):
        plain.bind(("127.0.0.1", port))
