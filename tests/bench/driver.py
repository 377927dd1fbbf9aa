"""A container client that measures nothing but the registry: it pulls as docker does, three blobs
at once, checks every digest and keeps nothing.

``python -m tests.bench.driver HOST:PORT REPOSITORY TAG PLATFORM CLIENTS`` prints how long it took,
when each client had the first byte of a blob, and the bytes of all blobs, as one JSON document: a
program of its own, so that its work does not hold up the one that measures.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from entrepot.demo.images import DOCKER, OCI
from tests.bench.measurement import Load
from tests.bench.readers import WrongAnswer
from tests.e2e.clients.processes import bare_environment, run

AT_ONCE = 3
"""Blobs of one image that docker fetches at the same time (dockerd,
``--max-concurrent-downloads``)."""

CHUNK = 1024 * 1024
"""Bytes."""

ACCEPT = ", ".join((OCI.index, OCI.manifest, DOCKER.index, DOCKER.manifest))


def pull(address: str, repository: str, tag: str, platform: str) -> tuple[int, float]:
    """Pull an image; returns the bytes of its blobs, and the time of the first of them."""
    first_bytes: list[float] = []
    connections = threading.local()
    opened: list[http.client.HTTPConnection] = []

    def get(path: str) -> http.client.HTTPResponse:
        connection: http.client.HTTPConnection | None = getattr(connections, "own", None)
        if connection is None:
            host, _, port = address.rpartition(":")
            connection = connections.own = http.client.HTTPConnection(host, int(port), timeout=300)
            opened.append(connection)
        connection.request("GET", f"/v2/{repository}/{path}", headers={"Accept": ACCEPT})
        answer = connection.getresponse()
        if answer.status != 200:
            raise WrongAnswer(f"{path}: {answer.status} {answer.read(1000)!r}")
        return answer

    def manifest(reference: str) -> bytes:
        content = get(f"manifests/{reference}").read()
        if (
            reference.startswith("sha256:")
            and reference != f"sha256:{hashlib.sha256(content).hexdigest()}"
        ):
            raise WrongAnswer(reference)
        return content

    def blob(digest: str) -> int:
        answer = get(f"blobs/{digest}")
        hasher, size, buffer = hashlib.sha256(), 0, memoryview(bytearray(CHUNK))
        while count := answer.readinto(buffer):
            if not size:
                first_bytes.append(time.perf_counter())
            hasher.update(buffer[:count])
            size += count
        if digest != f"sha256:{hasher.hexdigest()}":
            raise WrongAnswer(digest)
        return size

    try:
        index = json.loads(manifest(tag))
        [child] = [
            each
            for each in index["manifests"]
            if "{os}/{architecture}".format(**each["platform"]) == platform
        ]
        image = json.loads(manifest(child["digest"]))
        with ThreadPoolExecutor(AT_ONCE) as threads:
            size = sum(
                threads.map(
                    blob, [image["config"]["digest"], *(each["digest"] for each in image["layers"])]
                )
            )
        return size, min(first_bytes)
    finally:
        for connection in opened:
            connection.close()


def pull_together(
    address: str, repository: str, tag: str, platform: str, clients: int, home: Path
) -> Load:
    """Let the program pull an image by several clients at once."""
    arguments = [
        sys.executable,
        "-m",
        "tests.bench.driver",
        address,
        repository,
        tag,
        platform,
        str(clients),
    ]
    finished = run(
        arguments,
        environment=bare_environment(home) | {"PYTHONPATH": str(Path(__file__).parents[2])},
        timeout=600,
    )
    if finished.status:
        raise WrongAnswer(finished.output)
    result = json.loads(finished.output)
    return Load(
        seconds=result["seconds"],
        received=result["received"],
        first_bytes=tuple(result["first_bytes"]),
    )


def main(address: str, repository: str, tag: str, platform: str, clients: str) -> None:
    """Pull by all clients, and print what it took."""
    with ThreadPoolExecutor(int(clients)) as threads:
        started = time.perf_counter()
        pulls = list(
            threads.map(lambda _: pull(address, repository, tag, platform), range(int(clients)))
        )
        result = {
            "seconds": time.perf_counter() - started,
            "received": sum(size for size, _ in pulls),
            "first_bytes": sorted(first - started for _, first in pulls),
        }
        json.dump(result, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
