"""Many connections that read blobs at the same moment, as a program of its own, which must not be
what is measured.

``python -m tests.bench.readers HOST:PORT COUNT PATH...``: the connections take turns through the
paths. It prints one JSON document: the seconds from the first request to the last byte, and for
each connection when it had its first byte, its status and how many bytes it got. The bytes are read
as every client has to read them, and then forgotten: what arrived right is for the tests to find
out.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.measurement import Load
from tests.e2e.clients.processes import bare_environment, run

AT_ONCE = 1024 * 1024
"""Bytes that one connection reads before the next one has its turn."""

PATIENCE = 600.0
"""Seconds after which a transfer that still goes on has failed."""

SILENCE = 60.0
"""Seconds after which a server that sends nothing at all has failed."""


class WrongAnswer(Exception):
    """What came is not what was asked for."""


@dataclass
class Reader:
    """One connection and how far it has come."""

    connection: socket.socket
    path: str
    head: bytes = b""
    status: int = 0
    size: int = 0
    received: int = 0
    first_byte: float = 0.0

    @property
    def finished(self) -> bool:
        return bool(self.status) and self.received >= self.size

    def read(self, started: float, buffer: memoryview) -> None:
        """Take what has come."""
        if self.status:
            count = self.connection.recv_into(buffer, min(len(buffer), self.size - self.received))
            if not count:
                raise WrongAnswer(f"{self.path} ended after {self.received} of {self.size} bytes")
            self.received += count
            return
        piece = self.connection.recv(4096)
        if not piece:
            raise WrongAnswer(f"{self.path} ended before it began")
        head, separator, body = (self.head + piece).partition(b"\r\n\r\n")
        if not separator:
            self.head = head
            return
        status, *headers = head.decode("latin-1").split("\r\n")
        sizes = [
            value
            for name, _, value in (each.partition(":") for each in headers)
            if name.lower() == "content-length"
        ]
        self.status, self.size, self.received = int(status.split()[1]), int(sizes[0]), len(body)
        if body:
            self.first_byte = time.perf_counter() - started


def read_all(address: str, paths: Sequence[str], count: int) -> dict[str, object]:
    """Open all connections, ask on all of them, and read all to their end."""
    host, _, port = address.rpartition(":")
    readers = [
        Reader(
            socket.create_connection((host, int(port)), timeout=SILENCE), paths[number % len(paths)]
        )
        for number in range(count)
    ]
    buffer = memoryview(bytearray(AT_ONCE))
    with selectors.DefaultSelector() as waiting:
        for reader in readers:
            reader.connection.setblocking(False)
            waiting.register(reader.connection, selectors.EVENT_READ, reader)
        started = time.perf_counter()
        for reader in readers:
            request = f"GET {reader.path} HTTP/1.1\r\nHost: {address}\r\n\r\n"
            reader.connection.send(request.encode())
        unfinished = count
        while unfinished:
            ready = waiting.select(SILENCE)
            if not ready or time.perf_counter() - started > PATIENCE:
                raise WrongAnswer(f"{unfinished} transfers do not come to their end")
            for key, _ in ready:
                reader = key.data
                had_begun = bool(reader.first_byte)
                reader.read(started, buffer)
                if not had_begun and reader.received:
                    reader.first_byte = time.perf_counter() - started
                if reader.finished:
                    waiting.unregister(reader.connection)
                    reader.connection.close()
                    unfinished -= 1
        seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "clients": [
            {"status": each.status, "received": each.received, "first_byte": each.first_byte}
            for each in readers
        ],
    }


def read_together(
    address: str, paths: Sequence[str], count: int, sizes: Sequence[int], home: Path
) -> Load:
    """Let the program read; raises `WrongAnswer` when a connection did not get a whole blob of the
    size that goes with its path."""
    arguments = [sys.executable, "-m", "tests.bench.readers", address, str(count), *paths]
    finished = run(
        arguments,
        environment=bare_environment(home) | {"PYTHONPATH": str(Path(__file__).parents[2])},
        timeout=PATIENCE,
    )
    if finished.status:
        raise WrongAnswer(finished.output)
    output = json.loads(finished.output)
    expected = [{"status": 200, "received": sizes[number % len(sizes)]} for number in range(count)]
    if (
        got := [
            {"status": each["status"], "received": each["received"]} for each in output["clients"]
        ]
    ) != expected:
        raise WrongAnswer(f"{got} instead of {expected}")
    firsts = tuple(sorted(each["first_byte"] for each in output["clients"]))
    return Load(
        seconds=output["seconds"],
        received=sum(each["received"] for each in output["clients"]),
        first_bytes=firsts,
    )


if __name__ == "__main__":
    json.dump(read_all(sys.argv[1], sys.argv[3:], int(sys.argv[2])), sys.stdout)
