"""Many connections that take blobs one after the other and let the kernel discard the bytes: as
clients that cost next to nothing, so that the engine and not they have the processors.

``python -m tests.bench.sinks PLAN`` reads a `Plan` (JSON) and prints a `Totals`. Status and length
of every answer are checked; what the bytes are is for others to find out.
"""

from __future__ import annotations

import json
import random
import selectors
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.bench.readers import WrongAnswer
from tests.e2e.clients.processes import Process, bare_environment

BUFFER = 4 * 1024 * 1024
"""Bytes that one connection takes before the next one has its turn."""

EXAMPLES = 3
"""Failures that are told."""


@dataclass(frozen=True)
class Plan:
    """What is taken. An item is the paths of requests that follow each other, each with the size
    of its answer in bytes, the last one that of a blob.

    With *again* each connection takes random items until the time is over, else all connections
    together take each item once. *start* is on the monotonic clock, *duration* in seconds.
    """

    address: str
    connections: int
    items: list[list[tuple[str, int]]]
    again: bool
    start: float
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


def take(plan: Plan) -> Totals:
    """Open all connections, and take what is planned."""
    totals = Totals()
    items = _random(plan.items) if plan.again else iter(plan.items)
    connections = [Sink(plan, items, totals) for _ in range(plan.connections)]
    buffer = memoryview(bytearray(BUFFER))
    time.sleep(max(0.0, plan.start - time.monotonic()))
    end = plan.start + plan.duration
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
    totals.seconds = time.monotonic() - plan.start
    totals.first_bytes.sort()
    for connection in connections:
        connection.socket.close()
    return totals


def _random(items: Sequence[list[tuple[str, int]]]) -> Iterator[list[tuple[str, int]]]:
    # The same order for every contender.
    chooser = random.Random(1)
    while True:
        yield chooser.choice(items)


def launch(plan: Plan, directory: Path, name: str) -> Process:
    """Begin to carry out a plan, in a program of its own."""
    file = directory / f"{name}.json"
    file.write_text(json.dumps(asdict(plan)))
    return Process(
        [sys.executable, "-m", "tests.bench.sinks", file],
        environment=bare_environment(directory / "h")
        | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )


def result(process: Process, plan: Plan) -> Totals:
    """Wait for the end of a plan; raises `WrongAnswer` where it failed."""
    finished = process.wait(plan.start - time.monotonic() + plan.duration + 60)
    if finished.status:
        raise WrongAnswer(finished.output)
    return Totals(**json.loads(finished.output))


if __name__ == "__main__":
    document = json.loads(Path(sys.argv[1]).read_text())
    json.dump(asdict(take(Plan(**document))), sys.stdout)
