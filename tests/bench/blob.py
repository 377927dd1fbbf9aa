"""The same file by many connections at once: a blob that Entrepot holds, and nginx with that very file."""

from __future__ import annotations

import hashlib
import http.client
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.bench.driver import CHUNK, WrongBytes
from tests.bench.measurement import ENTREPOT, Measurement, ProcessMeter
from tests.bench.nginx import Nginx
from tests.clients.container_clients import AMD64
from tests.clients.entrepot import Entrepot
from tests.clients.layouts import push
from tests.clients.source_registry import DockerRegistry
from tests.standin.images import build_image

NGINX = "nginx"


def read_together(address: str, path: str, connections: int, size: int) -> float:
    """Read a file by several connections at once, from their first request to the last byte; returns seconds. Nothing is hashed: the server is measured."""
    together = threading.Barrier(connections + 1)
    host, _, port = address.rpartition(":")

    def read() -> None:
        connection = http.client.HTTPConnection(host, int(port), timeout=300)
        try:
            connection.connect()
            together.wait(60)
            connection.request("GET", path)
            answer = connection.getresponse()
            buffer, received = memoryview(bytearray(CHUNK)), 0
            while count := answer.readinto(buffer):
                received += count
            if (answer.status, received) != (200, size):
                raise WrongBytes(f"{path}: {answer.status} and {received} of {size} bytes")
        finally:
            connection.close()

    with ThreadPoolExecutor(connections) as threads:
        reading = [threads.submit(read) for _ in range(connections)]
        together.wait(60)
        started = time.perf_counter()
        for each in reading:
            each.result()
        return time.perf_counter() - started


def digest_of(address: str, path: str) -> str:
    """The SHA-256 of what a server has at a path."""
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=300)
    try:
        connection.request("GET", path)
        answer, hasher, buffer = connection.getresponse(), hashlib.sha256(), memoryview(bytearray(CHUNK))
        while count := answer.readinto(buffer):
            hasher.update(buffer[:count])
        return f"sha256:{hasher.hexdigest()}"
    finally:
        connection.close()


def run_blob(*, rounds: int, size: int, connections: int, progress: Callable[[str], None] = lambda _: None) -> list[Measurement]:
    """All rounds, in which the two take turns; *size* is that of the blob, in bytes, to the next 10 KiB."""
    found: list[Measurement] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        root = Path(directory)
        with DockerRegistry(root / "source") as source, Entrepot(root / "e", source.url) as engine:
            image = build_image("library/blob", "1", [size], [AMD64], index=False)
            push(image, source.address, root / "images")
            engine.start()
            engine.create_rule("bench-rule", image.repository, image.repository)
            engine.run("pull", f"{image.repository}:{image.tag}")
            blob = image.platforms[AMD64].layers[0]
            [file] = engine.directories.blobs.rglob(blob.digest.hex)
            with Nginx(root / "nginx", file) as nginx:
                contenders = {
                    ENTREPOT: (engine.address, engine.process.pid, f"/v2/{image.repository}/blobs/{blob.digest}"),
                    NGINX: (nginx.address, nginx.pid, "/file"),
                }
                for address, _, path in contenders.values():
                    if digest_of(address, path) != str(blob.digest):
                        raise WrongBytes(f"{address}{path}")
                scenario = f"warm blob, {connections} connections"
                for number in range(rounds):
                    for through in list(contenders)[:: -1 if number % 2 else 1]:
                        address, pid, path = contenders[through]
                        before, meter = source.mark(), ProcessMeter(pid)
                        seconds = read_together(address, path, connections, blob.size)
                        processor_seconds, peak_memory = meter.processor_seconds, meter.peak_memory
                        accesses = [each for each in source.accesses()[before:] if each.method == "GET"]
                        found.append(
                            Measurement(
                                scenario=scenario,
                                through=through,
                                seconds=seconds,
                                received=connections * blob.size,
                                source_gets=len(accesses),
                                source_bytes=sum(each.sent for each in accesses),
                                processor_seconds=processor_seconds,
                                peak_memory=peak_memory,
                            )
                        )
                        progress(f"round {number + 1} of {rounds}: {scenario}, {through}: {seconds:.3f} s")
            engine.stop()
    return sorted(found, key=lambda each: each.through)
