"""Programs that run while tests do: started, listened to line by line, ended. No sleeping: all
waiting is for a line or for the end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.processes import tied

STARTING = 60.0
"""Seconds until a program says that it is ready, on a machine that is busy with other tests."""

ENDING = 60.0
"""Seconds that a program has to end when it is asked to."""


class ProcessFailed(Exception):
    """A program ended or stayed silent where it should have said something; with what it said."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A program that ran to its end. *output* is standard output and standard error together."""

    status: int
    output: str


class Process:
    """A running program; what it writes to standard output and standard error is kept as lines."""

    def __init__(self, arguments: Sequence[str | Path], *, environment: Mapping[str, str]) -> None:
        self._name = Path(arguments[0]).name
        self._lines: list[str] = []
        self._silent = False
        self._heard = threading.Condition()
        self._process = subprocess.Popen(
            tied(arguments),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            bufsize=1,
            start_new_session=True,
        )
        self._listener = threading.Thread(
            target=self._listen, name=f"lines of {self._name}", daemon=True
        )
        self._listener.start()

    @classmethod
    def until(
        cls, pattern: str, arguments: Sequence[str | Path], *, environment: Mapping[str, str]
    ) -> tuple[Process, re.Match[str]]:
        """Start a program and wait until it says that it is ready; if it does not, it is ended."""
        process = cls(arguments, environment=environment)
        try:
            return process, process.wait_for_line(pattern)
        except BaseException:
            process.kill()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    @property
    def output(self) -> str:
        return "\n".join(self.lines())

    def lines(self, since: int = 0) -> list[str]:
        """What it said, from a mark on."""
        with self._heard:
            return self._lines[since:]

    def mark(self) -> int:
        """Where what it says next begins."""
        with self._heard:
            return len(self._lines)

    def wait_for_line(
        self, pattern: str, *, since: int = 0, timeout: float = STARTING
    ) -> re.Match[str]:
        """The first line that has the pattern; raises `ProcessFailed` when the program ends before,
        or when the time, in seconds, is over."""
        deadline = time.monotonic() + timeout
        position = since
        with self._heard:
            while True:
                for line in self._lines[position:]:
                    if match := re.search(pattern, line):
                        return match
                position = max(position, len(self._lines))
                if self._silent:
                    raise ProcessFailed(
                        f"{self._name} ended without a line like {pattern!r}:\n"
                        + "\n".join(self._lines)
                    )
                if not self._heard.wait(deadline - time.monotonic()):
                    raise ProcessFailed(
                        f"{self._name} has no line like {pattern!r} after {timeout:g} s:\n"
                        + "\n".join(self._lines)
                    )

    def wait(self, timeout: float = ENDING) -> Finished:
        """Wait until it ends by itself."""
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ProcessFailed(
                f"{self._name} does not end within {timeout:g} s:\n{self.output}"
            ) from None
        self._listener.join(timeout)
        return Finished(status, self.output)

    def send(self, number: signal.Signals) -> None:
        if self.is_running:
            self._process.send_signal(number)

    def stop(self, timeout: float = ENDING) -> Finished:
        """Ask it to end, and wait until it has; if it does not, it is killed and `ProcessFailed`
        raised."""
        self.send(signal.SIGTERM)
        try:
            return self.wait(timeout)
        except ProcessFailed:
            self.kill()
            raise

    def kill(self) -> None:
        """End it as a power cut would, with all that it started in its session."""
        if self.is_running:
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            for line in stream:
                with self._heard:
                    self._lines.append(line.rstrip("\n"))
                    self._heard.notify_all()
        with self._heard:
            self._silent = True
            self._heard.notify_all()


def run(
    arguments: Sequence[str | Path], *, environment: Mapping[str, str], timeout: float = 120.0
) -> Finished:
    """Run a program to its end, which has to come within *timeout* seconds."""
    completed = subprocess.run(
        tied(arguments),
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=timeout,
        check=False,
    )
    return Finished(completed.returncode, completed.stdout)


def bare_environment(home: Path) -> dict[str, str]:
    """An environment in which a program finds nothing of this user's, and writes below *home*."""
    home.mkdir(parents=True, exist_ok=True)
    return {
        "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin",
        "HOME": str(home),
        "LANG": "C.UTF-8",
    }
