"""Manifests that real clients use although they are a little odd: what a client pulls straight from
the source it pulls through the cache (F82)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from entrepot.demo.images import OCI
from entrepot.engine.engine import Engine
from entrepot.server.run import listening
from tests.e2e.clients.container_clients import AMD64, ContainerClient, PullFailed
from tests.fakes import FakeRegistry
from tests.fakes.images import Content

Document = dict[str, Any]


@pytest.fixture
async def source() -> AsyncIterator[FakeRegistry]:
    """A source registry that takes such manifests: docker's own refuses most of them when they are
    pushed."""
    async with FakeRegistry() as source:
        yield source


@pytest.fixture(params=["skopeo", "containerd", "docker"])
def client(request: pytest.FixtureRequest) -> ContainerClient:
    """One client of each library; podman reads manifests as skopeo does."""
    client: ContainerClient = request.getfixturevalue(request.param)
    return client


def _resized(more: int | None) -> Callable[[Document], None]:
    def edit(document: Document) -> None:
        for layer in document["layers"]:
            layer["size"] = -1 if more is None else layer["size"] + more

    return edit


def _odd_fields(document: Document) -> None:
    del document["schemaVersion"]
    for descriptor in (document["config"], *document["layers"]):
        descriptor.update(annotations=None, urls=None, platform=None)
    for layer in document["layers"]:
        layer["mediaType"] = ""


IMAGES: dict[str, Callable[[Document], None]] = {
    "layers of -1 bytes": _resized(None),
    "layers that have a byte less": _resized(1),
    "odd fields": _odd_fields,
    "odd entries": lambda _: None,
}
ENTRIES: list[Any] = [
    None,
    {"size": 5},
    {
        "digest": "sha256:" + "a" * 64,
        "size": -1,
        "platform": {"os": None, "architecture": None, "variant": None},
    },
    {"mediaType": OCI.manifest, "digest": "sha256:xyz", "size": 5},
]


def _publish(source: FakeRegistry, kind: str) -> None:
    image = source.add_image("library/odd", "1", layers=[30_000, 20_000], platforms=[AMD64])
    document = json.loads(image.platforms[AMD64].manifest.content)
    IMAGES[kind](document)
    manifest = source.add_manifest(
        "library/odd", Content.of(OCI.manifest, json.dumps(document).encode() + b"\n")
    )
    entry = manifest.descriptor.document() | {
        "platform": {"os": "linux", "architecture": "amd64", "variant": None}
    }
    entries = [*(ENTRIES if kind == "odd entries" else ()), entry]
    source.add_manifest(
        "library/odd",
        Content.of(
            OCI.index,
            json.dumps({"schemaVersion": 2, "mediaType": OCI.index, "manifests": entries}).encode(),
        ),
        "1",
    )


async def _outcome(client: ContainerClient, reference: str) -> str:
    await asyncio.to_thread(client.forget)
    try:
        await asyncio.to_thread(client.pull, reference)
    except PullFailed as failure:
        return str(failure)
    return "pulled"


@pytest.mark.parametrize("kind", IMAGES)
async def test_f82_what_a_client_can_use_it_gets(
    kind: str, client: ContainerClient, engine: Engine, source: FakeRegistry
) -> None:
    _publish(source, kind)
    async with listening(engine):
        straight = await _outcome(client, f"{source.url.removeprefix('http://')}/library/odd:1")
        cached = await _outcome(client, f"{engine.address}/library/odd:1")
    assert (cached == "pulled") == (straight == "pulled"), (straight, cached)
