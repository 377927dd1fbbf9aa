"""The command line as a user has it: a process of its own, on an engine that answers on its Unix
socket."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import termios
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from entrepot.config.directories import Directories
from entrepot.engine.engine import Engine
from tests.conftest import LOGIN_SERVER, answering
from tests.processes import tied

CHECKOUT = Path(__file__).parents[2]

SET = (
    "--login-server",
    LOGIN_SERVER,
    "--username-id",
    "env:EXAMPLE_USER",
    "--password-id",
    "env:EXAMPLE_PASSWORD",
)
"""How the credential set of a test is described."""

PATIENCE = 60.0
"""Seconds that a command may take on a machine that is busy with other tests."""


@dataclass(frozen=True)
class Ended:
    """A command that ran to its end."""

    status: int
    output: str
    errors: str

    @property
    def document(self) -> Any:
        return json.loads(self.output)


class CommandLine:
    """Runs ``entrepot`` with the directories of one user."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(root / "h"),
            "LANG": "C.UTF-8",
            "TMPDIR": str(root / "t"),
            "XDG_CONFIG_HOME": str(root / "c"),
            "XDG_DATA_HOME": str(root / "d"),
            "XDG_RUNTIME_DIR": str(root / "r"),
            "XDG_STATE_HOME": str(root / "s"),
            "PYTHONPATH": str(CHECKOUT),
        }
        for each in "ht":
            (root / each).mkdir()
        self.before: list[str] = []
        """Words before each command, such as a program that runs it in another namespace."""
        self._started: list[asyncio.subprocess.Process] = []

    async def close(self) -> None:
        """End the commands that a failed test did not wait for."""
        for process in self._started:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def start(
        self,
        *arguments: str,
        stdin: int = asyncio.subprocess.DEVNULL,
        stdout: int = asyncio.subprocess.PIPE,
        stderr: int = asyncio.subprocess.PIPE,
    ) -> asyncio.subprocess.Process:
        """Begin a command."""
        process = await asyncio.create_subprocess_exec(
            *tied([*self.before, sys.executable, "-m", "entrepot", *arguments]),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=self.environment,
            cwd=self.root,
        )
        self._started.append(process)
        return process

    async def run(
        self,
        *arguments: str,
        stdin: int = asyncio.subprocess.DEVNULL,
        variables: Mapping[str, str] | None = None,
    ) -> Ended:
        """Run a command to its end; there is never a traceback."""
        before, self.environment = self.environment, self.environment | dict(variables or {})
        try:
            process = await self.start(*arguments, stdin=stdin)
        finally:
            self.environment = before
        async with asyncio.timeout(PATIENCE):
            output, errors = await process.communicate()
        result = Ended(process.returncode or 0, output.decode(), errors.decode())
        assert "Traceback" not in result.output + result.errors, result.errors
        return result

    async def in_terminal(
        self, *arguments: str, term: str = "xterm", columns: int = 80
    ) -> tuple[int, str]:
        """Run a command in a terminal: its status, and what it told there. There is never a
        traceback."""
        keyboard, terminal = os.openpty()
        termios.tcsetwinsize(terminal, (24, columns))
        self.environment["TERM"] = term
        process = await self.start(*arguments, stdin=terminal, stdout=terminal, stderr=terminal)
        os.close(terminal)
        reading = asyncio.create_task(asyncio.to_thread(_all_of, keyboard))
        try:
            async with asyncio.timeout(PATIENCE):
                await process.wait()
        except BaseException:
            process.kill()
            raise
        finally:
            # The reader ends with the command, and only then its end of the terminal can be closed.
            told = (await reading).decode().replace("\r\n", "\n")
            os.close(keyboard)
        assert "Traceback" not in told, told
        return process.returncode or 0, told

    async def done(self, *arguments: str) -> Ended:
        """Run a command that has to succeed."""
        result = await self.run(*arguments)
        assert result.status == 0, result.errors
        return result

    async def ask(self, *arguments: str) -> Any:
        """Run a command that answers in JSON."""
        return (await self.done(*arguments, "--json")).document


async def next_line(process: asyncio.subprocess.Process) -> str:
    """The next line that a command prints."""
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        return (await process.stdout.readline()).decode().rstrip("\n")


def _all_of(keyboard: int) -> bytes:
    told = b""
    while True:
        try:
            told += os.read(keyboard, 4096)
        except OSError:  # Linux gives EIO once nobody has the other end open.
            return told


@pytest.fixture
def directories(tmp_path: Path) -> Directories:
    """Those that the command line finds for its user."""
    return Directories(
        tmp_path / "c/entrepot",
        tmp_path / "d/entrepot",
        tmp_path / "r/entrepot",
        tmp_path / "s/entrepot/log",
    )


@pytest.fixture
async def alone(tmp_path: Path) -> AsyncIterator[CommandLine]:
    """A command line without an engine."""
    line = CommandLine(tmp_path)
    yield line
    await line.close()


@pytest.fixture
async def entrepot(alone: CommandLine, engine: Engine) -> AsyncIterator[CommandLine]:
    """A command line with an engine, which has the rule ``example-library``."""
    async with answering(engine):
        yield alone
