"""A container client that measures nothing but the registry: it pulls as docker does, three blobs at once, checks every digest and keeps nothing."""

from __future__ import annotations

import hashlib
import http.client
import json
import threading
from concurrent.futures import ThreadPoolExecutor

from entrepot.demo.images import DOCKER, OCI

AT_ONCE = 3
"""Blobs of one image that docker fetches at the same time (dockerd, ``--max-concurrent-downloads``)."""

CHUNK = 1024 * 1024
"""Bytes."""

ACCEPT = ", ".join((OCI.index, OCI.manifest, DOCKER.index, DOCKER.manifest))


class WrongBytes(Exception):
    """What came is not what was asked for."""


def pull(address: str, repository: str, tag: str, platform: str) -> int:
    """Pull an image; returns the bytes of its blobs."""
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
            raise WrongBytes(f"{path}: {answer.status} {answer.read(1000)!r}")
        return answer

    def manifest(reference: str) -> bytes:
        content = get(f"manifests/{reference}").read()
        if reference.startswith("sha256:") and reference != f"sha256:{hashlib.sha256(content).hexdigest()}":
            raise WrongBytes(reference)
        return content

    def blob(digest: str) -> int:
        answer = get(f"blobs/{digest}")
        hasher, size, buffer = hashlib.sha256(), 0, memoryview(bytearray(CHUNK))
        while count := answer.readinto(buffer):
            hasher.update(buffer[:count])
            size += count
        if digest != f"sha256:{hasher.hexdigest()}":
            raise WrongBytes(digest)
        return size

    try:
        index = json.loads(manifest(tag))
        [child] = [each for each in index["manifests"] if "{os}/{architecture}".format(**each["platform"]) == platform]
        image = json.loads(manifest(child["digest"]))
        with ThreadPoolExecutor(AT_ONCE) as threads:
            return sum(threads.map(blob, [image["config"]["digest"], *(each["digest"] for each in image["layers"])]))
    finally:
        for each in opened:
            each.close()


def pull_together(clients: int, address: str, repository: str, tag: str, platform: str) -> int:
    """Pull an image by several clients at once; returns the bytes of all."""
    with ThreadPoolExecutor(clients) as threads:
        return sum(threads.map(lambda _: pull(address, repository, tag, platform), range(clients)))
