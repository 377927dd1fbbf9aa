"""Eviction in a served engine, under the eyes of a client that is in the middle of a download."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.clients.container_clients import AMD64
from tests.e2e.clients.entrepot import Entrepot
from tests.fakes import FakeRegistry

SIZE = 48 * 1024 * 1024
"""Bytes of the layer: several times what the buffers of both ends of a connection hold, so that
most of it is still to be sent when it is evicted."""

AT_ONCE = """
from entrepot.store import blobs, eviction
blobs.LEASE_DURATION = eviction.RECENT = 0.0
from entrepot.cli.main import main
main()
"""
"""An engine that evicts what was used just now: a minute is long for a test."""


class SlowClient:
    """A container client that reads the start of a blob, and the rest on request."""

    def __init__(self, address: str, path: str, headers: str = "") -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.socket()
        self._socket.settimeout(60)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        self._socket.connect((host, int(port)))
        self._socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: entrepot\r\nConnection: close\r\n{headers}\r\n".encode()
        )
        head = b""
        while b"\r\n\r\n" not in head:
            head += self._socket.recv(4096)
        self.head, _, self.body = head.partition(b"\r\n\r\n")
        self.status = int(self.head.split()[1])

    def read_rest(self) -> bytes:
        parts = [self.body]
        while part := self._socket.recv(1024 * 1024):
            parts.append(part)
        self._socket.close()
        return b"".join(parts)


def reads_a_removed_file(pid: int) -> bool:
    """Whether a process has a file open that has no name any more."""
    targets = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            targets.append(os.readlink(descriptor))
    return any(target.endswith("(deleted)") for target in targets)


@pytest.mark.parametrize(
    ("headers", "status", "start"),
    [("", 200, 0), ("Range: bytes=1000-\r\n", 206, 1000)],
    ids=["whole", "range"],
)
async def test_a_client_gets_all_bytes_of_a_blob_evicted_during_its_download(
    new_engine: Callable[..., Entrepot], headers: str, status: int, start: int
) -> None:
    """F32."""
    content = os.urandom(SIZE)
    async with FakeRegistry() as source:
        image = source.add_image("library/app", "1", layers=[content])
        layer = image.platforms[AMD64].layers[0]
        engine = await asyncio.to_thread(new_engine(source.url, program=("-c", AT_ONCE)).start)
        await asyncio.to_thread(engine.create_rule, "example-library", "library/*", "library/*")
        await asyncio.to_thread(engine.run, "pull", "library/app:1", "--platform", AMD64)
        assert str(layer.digest) in engine.cached_blobs()

        client = await asyncio.to_thread(
            SlowClient, engine.address, f"/v2/library/app/blobs/{layer.digest}", headers
        )
        assert client.status == status
        assert b"entrepot-origin: cache" in client.head.lower()
        evicted = await asyncio.to_thread(engine.ask, "evict", "--to", "0", "--yes")
        assert [each["repository"] for each in evicted["images"]] == ["library/app"]
        assert engine.cached_blobs() == set()
        assert engine.unfinished() == []

        assert reads_a_removed_file(engine.process.pid)

        body = await asyncio.to_thread(client.read_rest)
        assert len(body) == SIZE - start
        assert hashlib.sha256(content[:start] + body).hexdigest() == layer.digest.hex

        # The next client gets it from the source again, whole.
        await asyncio.to_thread(engine.run, "pull", "library/app:1", "--platform", AMD64)
        again = await asyncio.to_thread(
            SlowClient, engine.address, f"/v2/library/app/blobs/{layer.digest}"
        )
        assert (
            hashlib.sha256(await asyncio.to_thread(again.read_rest)).hexdigest() == layer.digest.hex
        )
        assert engine.process.is_running
        await asyncio.to_thread(engine.stop)


async def test_a_served_engine_keeps_its_limit_and_what_is_locked(
    new_engine: Callable[..., Entrepot],
) -> None:
    """F34 and F35, as an administrator sees them."""
    async with FakeRegistry() as source:
        for name in "abc":
            source.add_image(f"library/{name}", "1", layers=[os.urandom(1_000_000)])
        engine = await asyncio.to_thread(
            new_engine(source.url, settings='size_limit = "10 MB"', program=("-c", AT_ONCE)).start
        )
        await asyncio.to_thread(engine.create_rule, "example-library", "library/*", "library/*")
        for name in "abc":
            await asyncio.to_thread(engine.run, "pull", f"library/{name}:1", "--platform", AMD64)
        await asyncio.to_thread(engine.run, "repository", "lock", "library/a:1")
        await asyncio.to_thread(engine.stop)
        path = engine.directories.settings
        path.write_text(path.read_text().replace('"10 MB"', '"2.5 MB"'))
        await asyncio.to_thread(engine.start)
        await asyncio.to_thread(
            engine.process.wait_for_line,
            r"Evicted 1 image of 1 repository: 1\.0 MB freed, least recently used \d+ \w+ ago\.",
        )
        assert [
            each["name"] for each in await asyncio.to_thread(engine.ask, "repository", "list")
        ] == ["library/a", "library/c"]
        status = await asyncio.to_thread(engine.ask, "status")
        assert (status["spaceLimit"], status["blobsSize"] < 2_250_000) == (2_500_000, True)
        refused = await asyncio.to_thread(
            lambda: engine.run("repository", "delete", "library/a", "--yes", check=False)
        )
        assert refused.status == 1
        assert (
            "entrepot repository unlock library/a:1 (REGISTRY_DISALLOWED_OPERATION)"
            in refused.output
        )
        await asyncio.to_thread(engine.stop)
