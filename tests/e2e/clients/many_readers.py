"""Many clients that ask for one blob at the same moment, as a program: their memory and their
processor time are their own.

``python -m tests.e2e.clients.many_readers HOST:PORT REPOSITORY TAG DIGEST COUNT`` prints one JSON
document: status, bytes and SHA-256 of each body.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import sys
import threading

CHUNK = 1024 * 1024
"""Bytes that a reader holds in memory."""


def read_blob(
    address: str, repository: str, tag: str, digest: str, together: threading.Barrier
) -> dict[str, object]:
    """Ask for the manifest, wait for the other clients, ask for the blob; give what came."""
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=120)
    try:
        connection.request("GET", f"/v2/{repository}/manifests/{tag}")
        connection.getresponse().read()
        together.wait(60)
        connection.request("GET", f"/v2/{repository}/blobs/{digest}")
        answer = connection.getresponse()
        hasher, size, buffer = hashlib.sha256(), 0, memoryview(bytearray(CHUNK))
        while count := answer.readinto(buffer):
            # Both the reading and the hashing of so much run without the interpreter's lock.
            hasher.update(buffer[:count])
            size += count
        return {
            "status": answer.status,
            "size": size,
            "digest": f"sha256:{hasher.hexdigest()}",
            "origin": answer.headers["Entrepot-Origin"],
        }
    except (OSError, http.client.HTTPException) as error:
        return {"error": repr(error)}
    finally:
        connection.close()


def main(address: str, repository: str, tag: str, digest: str, count: str) -> None:
    """Run all of them to their end."""
    together = threading.Barrier(int(count))
    results: list[dict[str, object]] = []
    threads = [
        threading.Thread(
            target=lambda: results.append(read_blob(address, repository, tag, digest, together)),
            name=f"reader {number}",
        )
        for number in range(int(count))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
