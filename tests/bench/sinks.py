"""Many connections that take blobs one after the other and let the kernel discard the bytes: as
clients that cost next to nothing, so that the engine and not they have the processors.

``python -m tests.bench.sinks PLAN START`` reads a `Plan` (JSON), says ``ready`` when its
connections are open, waits for a file START that has the moment to start, and prints `Totals`.
Status and length of every answer are checked; what the bytes are is for others to find out.
"""

from __future__ import annotations

import json
import random
import selectors
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from tests.bench.readers import WrongAnswer
from tests.e2e.clients.processes import Process, bare_environment

BUFFER = 4 * 1024 * 1024
"""Bytes that one connection takes before the next one has its turn."""

STARTING = 0.2
"""Seconds in which all programs learn when they start."""

EXAMPLES = 3
"""Failures that are told."""


@dataclass(frozen=True)
class Plan:
    """What is taken. An item is the paths of requests that follow each other, each with the size
    of its answer in bytes, the last one that of a blob.

    With *again* each connection takes random items until the time is over, else all connections
    together take each item once. *duration* is in seconds.
    """

    address: str
    connections: int
    items: list[list[tuple[str, int]]]
    again: bool
    duration: float


@dataclass
class Totals:
    """What was taken until the time was over or, where each item is taken once, nothing was
    left."""

    seconds: float = 0.0
    received: int = 0
    """Bytes of blobs."""
    blobs: int = 0
    failed: int = 0
    failures: list[str] = field(default_factory=list)
    first_bytes: list[float] = field(default_factory=list)
    """Seconds from the request for a blob to its first byte."""
    complete: list[str] = field(default_factory=list)
    """The paths of some blobs that were taken whole."""


class Sink:
    """A connection that takes one item after the other."""

    def __init__(self, plan: Plan, items: Iterator[list[tuple[str, int]]], totals: Totals) -> None:
        self._plan = plan
        self._items = items
        self._totals = totals
        self._requests: list[tuple[str, int]] = []
        self._head = b""
        self._left = -1
        """Bytes of the body that are still to come; -1 before the head is complete."""
        self._asked = 0.0
        self.socket = self._connect()

    def _connect(self) -> socket.socket:
        host, _, port = self._plan.address.rpartition(":")
        connection = socket.create_connection((host, int(port)), timeout=60)
        connection.setblocking(False)
        return connection

    def reconnect(self, why: str) -> None:
        """Give the item up."""
        self._totals.failed += 1
        if len(self._totals.failures) < EXAMPLES:
            self._totals.failures.append(why)
        self.socket.close()
        self._requests = []
        self.socket = self._connect()

    def ask(self) -> bool:
        """Send the next request; False when there is none."""
        if not self._requests:
            item = next(self._items, None)
            if item is None:
                return False
            self._requests = item
        path, _ = self._requests[0]
        self._head, self._left = b"", -1
        self._asked = time.monotonic()
        self.socket.send(
            f"GET {path} HTTP/1.1\r\nHost: {self._plan.address}\r\nAccept: */*\r\n\r\n".encode()
        )
        return True

    def take(self, buffer: memoryview) -> bool:
        """Take what has come; returns whether the answer is complete. Raises `WrongAnswer`."""
        path, size = self._requests[0]
        is_blob = len(self._requests) == 1
        if self._left < 0:
            piece = self.socket.recv(4096)
            if not piece:
                raise WrongAnswer(f"{path} ended before it began")
            head, separator, body = (self._head + piece).partition(b"\r\n\r\n")
            if not separator:
                self._head = head
                return False
            self._check_head(head.decode("latin-1"), path, size)
            self._left = size - len(body)
            if is_blob:
                self._totals.received += len(body)
            if not body:
                return False
            if is_blob:
                self._totals.first_bytes.append(time.monotonic() - self._asked)
        else:
            # tcp(7): with MSG_TRUNC the kernel discards the bytes.
            count = self.socket.recv_into(buffer, min(BUFFER, self._left), socket.MSG_TRUNC)
            if not count:
                raise WrongAnswer(f"{path} ended {self._left} bytes too early")
            if is_blob:
                if self._left == size:
                    self._totals.first_bytes.append(time.monotonic() - self._asked)
                self._totals.received += count
            self._left -= count
        if self._left:
            return False
        self._requests = self._requests[1:]
        if is_blob:
            self._totals.blobs += 1
            if len(self._totals.complete) < EXAMPLES:
                self._totals.complete.append(path)
        return True

    @staticmethod
    def _check_head(head: str, path: str, size: int) -> None:
        status, *headers = head.split("\r\n")
        lengths = [
            value.strip()
            for name, _, value in (line.partition(":") for line in headers)
            if name.lower() == "content-length"
        ]
        if status.split()[1] != "200" or lengths != [str(size)]:
            raise WrongAnswer(f"{path}: {status}, length {lengths} instead of {size}")


def take(plan: Plan, wait_for_start: Callable[[], float] = time.monotonic) -> Totals:
    """Open all connections, and take what is planned; *wait_for_start* returns the moment from
    which on the time counts, on the monotonic clock."""
    totals = Totals()
    items = _random(plan.items) if plan.again else iter(plan.items)
    connections = [Sink(plan, items, totals) for _ in range(plan.connections)]
    buffer = memoryview(bytearray(BUFFER))
    start = wait_for_start()
    end = start + plan.duration
    with selectors.DefaultSelector() as waiting:
        for connection in connections:
            if connection.ask():
                waiting.register(connection.socket, selectors.EVENT_READ, connection)
        while waiting.get_map() and (remaining := end - time.monotonic()) > 0:
            for key, _ in waiting.select(remaining):
                connection = key.data
                try:
                    if not connection.take(buffer):
                        continue
                except (OSError, WrongAnswer) as error:
                    waiting.unregister(connection.socket)
                    connection.reconnect(str(error))
                    if connection.ask():
                        waiting.register(connection.socket, selectors.EVENT_READ, connection)
                    continue
                if not connection.ask():
                    waiting.unregister(connection.socket)
    totals.seconds = time.monotonic() - start
    totals.first_bytes.sort()
    for connection in connections:
        connection.socket.close()
    return totals


def _random(items: Sequence[list[tuple[str, int]]]) -> Iterator[list[tuple[str, int]]]:
    # The same order for every contender.
    chooser = random.Random(1)
    while True:
        yield chooser.choice(items)


class Sinks:
    """Plans that are carried out at the same time, each in a program of its own."""

    def __init__(self, plans: Sequence[Plan], directory: Path) -> None:
        self._plans = plans
        self._start_file = directory / "start"
        environment = bare_environment(directory / "h") | {
            "PYTHONPATH": str(Path(__file__).parents[2])
        }
        self._processes = []
        for number, plan in enumerate(plans):
            file = directory / f"plan-{number}.json"
            file.write_text(json.dumps(asdict(plan)))
            program: list[str | Path] = [sys.executable, "-m", "tests.bench.sinks"]
            self._processes.append(
                Process([*program, file, self._start_file], environment=environment)
            )

    def start(self) -> float:
        """Let all start at the same moment, which is returned, once their connections are open."""
        for process in self._processes:
            process.wait_for_line("^ready$")
        start = time.monotonic() + STARTING
        new = self._start_file.with_suffix(".new")
        new.write_text(str(start))
        new.rename(self._start_file)
        time.sleep(max(0.0, start - time.monotonic()))
        return start

    def totals(self) -> list[Totals]:
        """Wait for the end of all plans; raises `WrongAnswer` where one failed."""
        totals = []
        for plan, process in zip(self._plans, self._processes, strict=True):
            finished = process.wait(plan.duration + 60)
            if finished.status:
                raise WrongAnswer(finished.output)
            totals.append(Totals(**json.loads(finished.output.splitlines()[-1])))
        return totals

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()


def _carry_out(plan_file: Path, start_file: Path) -> None:
    def wait_for_start() -> float:
        print("ready", flush=True)  # noqa: T201
        while not start_file.exists():
            time.sleep(STARTING / 10)
        start = float(start_file.read_text())
        time.sleep(max(0.0, start - time.monotonic()))
        return start

    plan = Plan(**json.loads(plan_file.read_text()))
    print(json.dumps(asdict(take(plan, wait_for_start))))  # noqa: T201


if __name__ == "__main__":
    _carry_out(Path(sys.argv[1]), Path(sys.argv[2]))
