"""F85: what a proxy compresses on the way reaches clients and the disk as it was stored."""

from __future__ import annotations

import asyncio
import gzip
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from entrepot.config.directories import Directories
from entrepot.config.settings import Settings
from entrepot.core.registries import DeclaredRegistry
from entrepot.core.rules import RuleDraft
from entrepot.core.states import PullState, SignIn
from entrepot.engine.engine import Engine
from entrepot.server.run import registry_app
from tests.conftest import LOGIN_SERVER
from tests.e2e.clients.processes import Process, bare_environment
from tests.e2e.clients.source_registry import DockerRegistry
from tests.fakes import Compressed, FakeImage, FakeRegistry, FlipByte, Headers, NoContentLength
from tests.fakes.images import build_image
from tests.programs import require_program
from tests.server.test_registry import pull_all

AMD64 = "linux/amd64"
TAG = "/v2/library/nginx/manifests/1.27"


def registry_of(engine: Engine) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(registry_app(engine), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://entrepot", timeout=30)


async def pulled(engine: Engine, image: str) -> PullState:
    pull = engine.cache.pulls.get((await engine.pulls.start(image, AMD64, "test")).id)
    async with asyncio.timeout(60):
        await pull.finished.wait()
    return pull.progress().state


@pytest.mark.parametrize(
    "fault",
    [
        Compressed(),
        Compressed("deflate"),
        Compressed(chunked=False),
        Headers({"Content-Encoding": "gzip"}),
    ],
)
async def test_an_image_compressed_or_labelled_on_the_way_is_served_as_stored(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry, fault: Compressed | Headers
) -> None:
    image = source.add_image("library/nginx", "1.27", layers=[os.urandom(300_000), 200_000])
    source.fault("/v2/", fault)
    await pull_all(registry, image)
    assert await pulled(engine, "library/nginx:1.27") is PullState.COMPLETED
    for blob in image.platforms[AMD64].blobs:
        assert source.count("GET", str(blob.digest)) == 1
    await source.stop()
    await pull_all(registry, image)


async def test_a_wrongly_decoded_blob_is_fetched_again_before_a_client_gets_bytes(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    """A large blob, stored compressed and labelled as such, in chunks: no header tells which bytes
    the digest is of."""
    blob = gzip.compress(b'{"a":1}' * 1000, mtime=0)
    assert len(blob) < 64 * 1024
    image = source.add_image("library/nginx", "1.27", layers=[blob], platforms=[AMD64])
    source.fault("/blobs/", Headers({"Content-Encoding": "gzip"}))
    source.fault("/blobs/", NoContentLength())
    await pull_all(registry, image)
    assert source.count("GET", str(image.platforms[AMD64].layers[0].digest)) == 2


async def test_bytes_that_are_wrong_both_ways_are_kept_nowhere_and_say_why(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    image = source.add_image("library/nginx", "1.27", layers=[100_000], platforms=[AMD64])
    layer = image.platforms[AMD64].layers[0]
    source.fault(str(layer.digest), FlipByte(-20))
    source.fault(str(layer.digest), Compressed())
    pull = engine.cache.pulls.get(
        (await engine.pulls.start("library/nginx:1.27", AMD64, "test")).id
    )
    async with asyncio.timeout(60):
        await pull.finished.wait()
    progress = pull.progress()
    assert progress.state is PullState.FAILED
    assert "labelled as compressed (gzip), which Entrepot did not ask for" in (
        progress.error_message or ""
    )
    assert engine.blobs.stat_size(layer.digest) is None


# A real registry behind a real proxy that compresses all that passes


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[tuple[str, FakeImage]]:
    """The address of nginx in front of docker-registry, and an image that is there."""
    nginx = require_program("nginx")
    image = build_image("library/nginx", "1.27", [300_000, 100_000], [AMD64], index=False)
    with socket.socket() as one, socket.socket() as other:
        for free in (one, other):
            free.bind(("127.0.0.1", 0))
        inner, address = (f"127.0.0.1:{free.getsockname()[1]}" for free in (one, other))
    root = tmp_path / "nginx"
    root.mkdir()
    with DockerRegistry(tmp_path / "registry") as registry:
        push(registry.url, image)
        temporary = " ".join(
            f"{each}_temp_path {root}/{each};"
            for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        configuration = root / "nginx.conf"
        # Started by root, its workers run as a user who may not read the files of the test.
        user = "user root;" if os.geteuid() == 0 else ""
        configuration.write_text(f"""{user} daemon off; pid {root}/pid; worker_processes 1; error_log stderr notice;
events {{ worker_connections 64; }}
http {{
  access_log off; {temporary}
  gzip on; gzip_types *; gzip_min_length 0; gzip_proxied any; gzip_http_version 1.0;
  server {{
    listen {inner};
    location / {{ proxy_pass {registry.url}; proxy_set_header Host $http_host; }}
  }}
  server {{
    listen {address};
    # As a cache does that asks for all compressed, and hands on what it got.
    location / {{ proxy_pass http://{inner}; proxy_set_header Host $http_host; proxy_set_header Accept-Encoding gzip; }}
  }}
}}
""")
        process, _ = Process.until(
            "start worker process ",
            [nginx, "-c", configuration],
            environment=bare_environment(tmp_path),
        )
        try:
            yield f"http://{address}", image
        finally:
            process.stop()


def push(url: str, image: FakeImage) -> None:
    """Store an image of one platform."""
    platform = image.platforms[AMD64]
    with httpx.Client(base_url=f"{url}/v2/{image.repository}", trust_env=False) as http:
        for blob in platform.blobs:
            upload = http.post("/blobs/uploads/").raise_for_status().headers["location"]
            http.put(
                httpx.URL(upload).copy_merge_params({"digest": str(blob.digest)}),
                content=blob.content,
            ).raise_for_status()
        http.put(
            f"/manifests/{image.tag}",
            content=platform.manifest.content,
            headers={"Content-Type": platform.manifest.media_type},
        ).raise_for_status()


async def test_an_image_behind_a_compressing_proxy_is_pulled_byte_for_byte(
    stored: tuple[str, FakeImage], directories: Directories
) -> None:
    url, image = stored
    settings = Settings(
        listen="127.0.0.1:0",
        upstreams=(DeclaredRegistry(LOGIN_SERVER, "Example", SignIn.OPTIONAL, url),),
    )
    digest = image.platforms[AMD64].layers[0].digest
    async with httpx.AsyncClient(
        base_url=f"{url}/v2/library/nginx", trust_env=False, headers={"Accept-Encoding": "identity"}
    ) as http:
        # Else nothing would be shown.
        answer = await http.get(f"/blobs/{digest}")
        assert answer.headers.get("content-encoding") == "gzip"
        assert "content-length" not in answer.headers
    async with Engine.open(directories, settings) as engine:
        await engine.rules.create(
            RuleDraft("example-library", f"{LOGIN_SERVER}/library/*", "library/*")
        )
        async with registry_of(engine) as registry:
            assert (await registry.get(TAG)).content == image.platforms[AMD64].manifest.content
            for blob in image.platforms[AMD64].blobs:
                assert (
                    await registry.get(f"/v2/library/nginx/blobs/{blob.digest}")
                ).content == blob.content
            assert (await registry.get("/v2/library/nginx/tags/list")).json() == {
                "name": "library/nginx",
                "tags": ["1.27"],
            }
        assert await pulled(engine, "library/nginx:1.27") is PullState.COMPLETED
