"""Referrers that outlive their source: a signature is found while the source is down (F58, F73)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from entrepot.config.directories import Directories
from entrepot.config.settings import Settings
from entrepot.core.media_types import OCI_INDEX, OCI_MANIFEST
from entrepot.core.reference import Digest, Repository
from entrepot.core.rules import RuleDraft
from entrepot.engine.engine import Engine
from entrepot.server.run import registry_app
from tests.conftest import LOGIN_SERVER, Clock
from tests.fakes import Content, FakeImage, FakeRegistry, Status

NGINX = Repository("library/nginx")
SIGNATURE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SBOM = "application/spdx+json"
IMAGE = "/v2/library/nginx/manifests/1"


@pytest.fixture
def image(source: FakeRegistry) -> FakeImage:
    return source.add_image("library/nginx", "1", layers=[10])


def path_of(image: FakeImage, artifact_type: str | None = None) -> str:
    query = f"?artifactType={artifact_type}" if artifact_type else ""
    return f"/v2/library/nginx/referrers/{image.digest}{query}"


def referrer_of(image: FakeImage, artifact_type: str) -> Content:
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": artifact_type,
        "config": {
            "mediaType": "application/vnd.oci.empty.v1+json",
            "digest": str(Digest.of(b"{}")),
            "size": 2,
        },
        "layers": [],
        "subject": {"mediaType": OCI_INDEX, "digest": str(image.digest), "size": 1},
        "annotations": {"org.opencontainers.image.created": "2026-01-01T00:00:00Z"},
    }
    return Content.of(OCI_MANIFEST, json.dumps(document).encode())


def add_referrer(source: FakeRegistry, image: FakeImage, artifact_type: str) -> Digest:
    manifest = referrer_of(image, artifact_type)
    source.add_referrer("library/nginx", image.digest, manifest, artifact_type)
    return manifest.digest


def digests_in(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [entry["digest"] for entry in response.json()["manifests"]]


@asynccontextmanager
async def run(
    directories: Directories, settings: Settings, clock: Clock
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of one run of an engine; the next run has what this one stored."""
    async with Engine.open(directories, settings, clock=clock) as engine:
        if not await engine.rules.list():
            await engine.rules.create(
                RuleDraft("example-library", f"{LOGIN_SERVER}/library/*", "library/*")
            )
        transport = httpx.ASGITransport(registry_app(engine))
        async with httpx.AsyncClient(
            transport=transport, base_url="http://entrepot", timeout=30
        ) as client:
            yield client


@pytest.mark.parametrize("pulled_first", [True, False])
async def test_f73_lists_survive_a_restart_and_the_source(
    pulled_first: bool,
    directories: Directories,
    settings: Settings,
    clock: Clock,
    source: FakeRegistry,
    image: FakeImage,
) -> None:
    """An admission check asks for signatures before the image is pulled."""
    signature, sbom = (add_referrer(source, image, kind) for kind in (SIGNATURE, SBOM))
    async with run(directories, settings, clock) as client:
        for path in (IMAGE, path_of(image)) if pulled_first else (path_of(image), IMAGE):
            assert (await client.get(path)).status_code == 200
    await source.stop()
    clock.now += 365 * 86_400
    async with run(directories, settings, clock) as client:
        for _ in range(2):
            response = await client.get(path_of(image))
            assert digests_in(response) == [str(signature), str(sbom)]
            assert response.headers["entrepot-origin"] == "stale"
            assert response.headers["warning"].startswith('299 - "')
        of_type = await client.get(path_of(image, SBOM))
        assert digests_in(of_type) == [str(sbom)]
        assert of_type.headers["oci-filters-applied"] == "artifactType"


async def test_f73_a_list_of_one_type_is_kept_as_that_only(
    directories: Directories,
    settings: Settings,
    clock: Clock,
    source: FakeRegistry,
    image: FakeImage,
) -> None:
    signature = add_referrer(source, image, SIGNATURE)
    async with run(directories, settings, clock) as client:
        for path in (IMAGE, path_of(image, SIGNATURE)):
            assert (await client.get(path)).status_code == 200
    await source.stop()
    async with run(directories, settings, clock) as client:
        assert digests_in(await client.get(path_of(image, SIGNATURE))) == [str(signature)]
        for path in (path_of(image), path_of(image, SBOM)):
            assert (await client.get(path)).status_code == 503


async def test_f73_without_a_list_the_cached_manifests_say_what_they_refer_to(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry, image: FakeImage
) -> None:
    signature = add_referrer(source, image, SIGNATURE)
    for reference in ("1", str(signature)):
        await registry.get(f"/v2/library/nginx/manifests/{reference}")
    source.fault("/referrers/", Status(500))
    response = await registry.get(path_of(image))
    assert response.json()["manifests"] == [
        {
            "mediaType": OCI_MANIFEST,
            "digest": str(signature),
            "size": referrer_of(image, SIGNATURE).size,
            "artifactType": SIGNATURE,
            "annotations": {"org.opencontainers.image.created": "2026-01-01T00:00:00Z"},
        }
    ]
    assert "there may be more" in response.headers["warning"]
    # Of another type there may be some at the source: an empty list would say that there are none.
    assert (await registry.get(path_of(image, SBOM))).status_code == 502
    await engine.rules.delete("example-library")
    assert (await registry.get(path_of(image, SBOM))).status_code == 503
    response = await registry.get(path_of(image, SIGNATURE))
    assert digests_in(response) == [str(signature)]
    assert "No cache rule answers" in response.headers["warning"]


async def test_f58_a_fallback_tag_that_was_read_for_a_list_can_be_pulled_itself(
    registry: httpx.AsyncClient, source: FakeRegistry, image: FakeImage
) -> None:
    source.has_referrers = False
    signature = referrer_of(image, SIGNATURE)
    entry = signature.descriptor.document() | {"artifactType": SIGNATURE}
    index = Content.of(
        OCI_INDEX,
        json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}).encode(),
    )
    tag = f"sha256-{image.digest.hex}"
    source.add_manifest("library/nginx", index, tag)
    await registry.get(IMAGE)
    assert (await registry.get(path_of(image))).content == index.content
    await source.stop()
    response = await registry.get(f"/v2/library/nginx/manifests/{tag}")
    assert (response.status_code, response.content) == (200, index.content)


async def test_f73_a_source_that_lost_its_referrers_api_takes_no_list_away(
    registry: httpx.AsyncClient, source: FakeRegistry, image: FakeImage, clock: Clock
) -> None:
    signature = add_referrer(source, image, SIGNATURE)
    for path in (IMAGE, path_of(image)):
        await registry.get(path)
    source.has_referrers = False
    clock.now += 3_600
    for path in (path_of(image), path_of(image, SIGNATURE)):
        response = await registry.get(path)
        assert digests_in(response) == [str(signature)]
        assert "referrers API answers 404" in response.headers["warning"]


async def test_f58_a_fallback_tag_that_was_deleted_takes_its_list_away(
    registry: httpx.AsyncClient, source: FakeRegistry, image: FakeImage, clock: Clock
) -> None:
    source.has_referrers = False
    entry = referrer_of(image, SIGNATURE).descriptor.document()
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}
    index = Content.of(OCI_INDEX, json.dumps(document).encode())
    source.add_manifest("library/nginx", index, f"sha256-{image.digest.hex}")
    await registry.get(IMAGE)
    assert len(digests_in(await registry.get(path_of(image)))) == 1
    source.fault("/manifests/sha256-", Status(404))
    clock.now += 3_600
    response = await registry.get(path_of(image))
    assert digests_in(response) == []
    assert "warning" not in response.headers


async def test_f73_a_list_of_another_source_is_not_served(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry, image: FakeImage
) -> None:
    add_referrer(source, image, SIGNATURE)
    for path in (IMAGE, path_of(image)):
        await registry.get(path)
    kept = engine.cache._listings.kept
    await kept.written()
    name = f"{LOGIN_SERVER}/library/nginx"
    assert await kept.stored(NGINX, image.digest, None, name) is not None
    assert await kept.stored(NGINX, image.digest, None, "other.example.com/nginx") is None
