"""One layer in several parts at once, as containerd 2.1 and later fetch it."""

from __future__ import annotations

import asyncio
import random

import httpx

from entrepot.engine.engine import Engine
from entrepot.httpd.server import bind_tcp, serving
from entrepot.server.run import registry_app
from tests.conftest import LOGIN_SERVER
from tests.fakes import FakeRegistry

PART = 64 * 1024
"""Bytes of a part; containerd has megabytes."""

WORKERS = 4


async def test_parallel_ranges_of_a_cold_layer_are_one_request_to_the_source(
    engine: Engine, source: FakeRegistry
) -> None:
    """``concurrent_layer_fetch_buffer``: each request asks for all from its part on, and is closed
    after the part (containerd, ``core/remotes/docker/fetcher.go``)."""
    layer = random.Random(1).randbytes(20 * PART + 1_000)
    image = source.add_image("library/nginx", "1", layers=[layer], platforms=["linux/amd64"])
    digest = image.platforms["linux/amd64"].layers[0].digest
    offsets = iter(range(0, len(layer), PART))
    parts: dict[int, bytes] = {}

    async def fetch_parts(client: httpx.AsyncClient) -> None:
        for offset in offsets:
            request = client.stream(
                "GET",
                f"/v2/library/nginx/blobs/{digest}?ns={LOGIN_SERVER}",
                headers={"Range": f"bytes={offset}-", "Accept-Encoding": "zstd;q=1.0, gzip;q=0.8"},
            )
            async with request as response:
                assert response.status_code == 206
                last = len(layer) - 1
                assert response.headers["content-range"] == f"bytes {offset}-{last}/{len(layer)}"
                body = b""
                async for piece in response.aiter_raw():
                    body += piece
                    if len(body) >= PART:
                        break
            parts[offset] = body[:PART]

    listener = bind_tcp("127.0.0.1", 0)
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with (
        serving(registry_app(engine), listener),
        httpx.AsyncClient(base_url=address, timeout=60, trust_env=False) as client,
    ):
        await client.get(f"/v2/library/nginx/manifests/1?ns={LOGIN_SERVER}")
        manifest = image.platforms["linux/amd64"].digest
        await client.get(f"/v2/library/nginx/manifests/{manifest}?ns={LOGIN_SERVER}")
        # The layer is not there yet while the workers ask for their parts of it.
        gate = source.hold(str(digest), after_bytes=2 * PART, method="GET")
        async with asyncio.TaskGroup() as workers:
            for _ in range(WORKERS):
                workers.create_task(fetch_parts(client))
            await gate.reached
            async with asyncio.timeout(60):
                while len(parts) < 2:
                    await asyncio.sleep(0)
            gate.open()
    assert b"".join(parts[offset] for offset in sorted(parts)) == layer
    assert source.count("GET", str(digest)) == 1
