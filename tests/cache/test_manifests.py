"""Manifests: what one source says of a digest, or fails at, concerns its own repository only."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from entrepot.engine import Engine
from entrepot.reference import Digest
from entrepot.rules import RuleDraft
from entrepot.server.registry import RegistryApp
from entrepot.settings import Directories, Settings
from entrepot.store.manifests import OCI_MANIFEST
from tests.conftest import LOGIN_SERVER, Clock
from tests.standin import Content, StandIn

EVIL_TYPE = "application/vnd.evil.thing"


def untyped_image() -> bytes:
    """An image manifest that does not name its own media type, as the specification allows."""
    config = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": str(Digest.of(b"config")), "size": 6}
    return json.dumps({"schemaVersion": 2, "config": config, "layers": []}).encode()


@asynccontextmanager
async def running(directories: Directories, settings: Settings, clock: Clock) -> AsyncIterator[tuple[Engine, httpx.AsyncClient]]:
    async with Engine.open(directories, settings, clock=clock) as engine:
        transport = httpx.ASGITransport(RegistryApp(engine), raise_app_exceptions=False)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://entrepot", timeout=30) as registry:
            yield engine, registry


async def test_s08_who_brings_the_bytes_of_an_image_first_does_not_say_what_it_is(
    directories: Directories, settings: Settings, source: StandIn, clock: Clock
) -> None:
    content = untyped_image()
    source.add_manifest("evil/app", Content.of(EVIL_TYPE, content))
    good = source.add_manifest("g/app", Content.of(OCI_MANIFEST, content), "1")
    as_docker = {"Accept": OCI_MANIFEST}
    async with running(directories, settings, clock) as (engine, registry):
        for name in ("evil", "g"):
            await engine.create_rule(RuleDraft(f"example-{name}", f"{LOGIN_SERVER}/{name}/*", f"{name}/*"))
        first = await registry.get(f"/v2/evil/app/manifests/{good.digest}")
        assert first.headers["content-type"] == EVIL_TYPE
        for _ in range(2):
            for method in ("GET", "HEAD"):
                for reference in ("1", good.digest):
                    response = await registry.request(method, f"/v2/g/app/manifests/{reference}", headers=as_docker)
                    assert (response.status_code, response.headers["content-type"]) == (200, OCI_MANIFEST)
        again = await registry.get(f"/v2/evil/app/manifests/{good.digest}")
        assert (again.headers["content-type"], again.headers["entrepot-origin"]) == (EVIL_TYPE, "cache")
    await source.stop()
    async with running(directories, settings, clock) as (_, registry):
        evil = await registry.get(f"/v2/evil/app/manifests/{good.digest}")
        response = await registry.get("/v2/g/app/manifests/1", headers=as_docker)
        assert (response.status_code, response.headers["content-type"], response.content) == (200, OCI_MANIFEST, content)
        assert evil.headers["content-type"] == EVIL_TYPE
