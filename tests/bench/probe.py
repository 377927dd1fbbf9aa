"""One client that asks for a cached manifest again and again while others work: how long it waits
is how long the event loop of the engine was busy with something else.

``python -m tests.bench.probe HOST:PORT PATH INTERVAL`` asks every INTERVAL seconds, on one
connection, and prints a line for each answer: when it asked (the monotonic clock of the machine,
which all processes share), how long the answer took, and its status; 0 stands for none, and -1 for
a port where nothing listens yet. It ends when it is told to.
"""

from __future__ import annotations

import http.client
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

from tests.bench.measurement import Load
from tests.bench.wrk import ACCEPT
from tests.e2e.clients.processes import Process, bare_environment

PRIORITY = -10
"""The probe must not wait for a processor itself. Only root may say so: for the process, and for
its session, which the kernel may treat as a group (sched(7))."""

TIMEOUT = 120.0
"""Seconds after which there is no answer."""


def ask_regularly(address: str, path: str, interval: float) -> None:
    """Ask until the process is ended; an answer that takes long delays the next question."""
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=TIMEOUT)
    due = time.monotonic()
    while True:
        sent_at = time.monotonic()
        try:
            connection.request("GET", path, headers={"Accept": ACCEPT})
            answer = connection.getresponse()
            answer.read()
            status = answer.status
        except ConnectionRefusedError:
            status = -1
        except (OSError, http.client.HTTPException):
            connection.close()
            status = 0
        print(f"{sent_at:.6f} {time.monotonic() - sent_at:.6f} {status}", flush=True)  # noqa: T201
        due = max(due + interval, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))


class Probe:
    """A running probe, as a context manager."""

    def __init__(self, address: str, path: str, interval: float, home: Path) -> None:
        self._arguments: Sequence[str | Path] = [
            sys.executable,
            "-m",
            "tests.bench.probe",
            address,
            path,
            str(interval),
        ]
        self._environment = bare_environment(home) | {"PYTHONPATH": str(Path(__file__).parents[2])}
        self._process: Process | None = None

    def __enter__(self) -> Self:
        self._process = Process(self._arguments, environment=self._environment)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()

    def first_answer(self) -> float:
        """Wait for the first right answer; returns the moment at which it was complete."""
        assert self._process is not None
        match = self._process.wait_for_line(r"^(\S+) (\S+) 200$", timeout=TIMEOUT)
        return float(match[1]) + float(match[2])

    def load(self, since: float, until: float) -> Load:
        """What it saw between two moments: each request that was under way in between."""
        assert self._process is not None
        while True:
            mark = self._process.mark()
            samples = [_sample(line) for line in self._process.lines()]
            if samples and samples[-1].sent_at >= until:
                break
            self._process.wait_for_line(r".", since=mark, timeout=TIMEOUT)
        overlapping = [
            sample
            for sample in samples
            if sample.sent_at < until
            and sample.sent_at + sample.wait > since
            and sample.status >= 0
        ]
        return Load.of_requests(
            [sample.wait for sample in overlapping],
            seconds=until - since,
            failed=sum(sample.status != 200 for sample in overlapping),
        )


class _Sample(NamedTuple):
    sent_at: float
    wait: float
    status: int


def _sample(line: str) -> _Sample:
    sent_at, wait, status = line.split()
    return _Sample(float(sent_at), float(wait), int(status))


if __name__ == "__main__":
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
        Path("/proc/self/autogroup").write_text(str(PRIORITY))
    ask_regularly(sys.argv[1], sys.argv[2], float(sys.argv[3]))
