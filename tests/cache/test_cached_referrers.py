"""Referrers that are cached are found while the source gives no answer."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from entrepot.config.directories import Directories
from entrepot.config.settings import Settings
from entrepot.core.reference import Digest
from entrepot.core.rules import RuleDraft
from entrepot.engine.engine import Engine
from entrepot.server.run import registry_app
from tests.conftest import LOGIN_SERVER
from tests.fakes import FakeRegistry
from tests.fakes.faults import Status
from tests.fakes.images import Content

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def referrer(subject: Digest, artifact_type: str) -> Content:
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": artifact_type,
        "subject": {"mediaType": MANIFEST, "digest": str(subject), "size": 1},
        "annotations": {"signed-by": "someone"},
    }
    return Content.of(MANIFEST, json.dumps(document).encode())


@asynccontextmanager
async def client_of(
    directories: Directories, settings: Settings, *, is_first: bool = False
) -> AsyncIterator[httpx.AsyncClient]:
    """A container client of an engine."""
    async with Engine.open(directories, settings) as engine:
        if is_first:
            await engine.rules.create(
                RuleDraft("example-library", f"{LOGIN_SERVER}/library/*", "library/*")
            )
        transport = httpx.ASGITransport(registry_app(engine), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://e") as client:
            yield client


async def test_after_a_restart_without_a_source_they_are_listed_and_filtered(
    directories: Directories, settings: Settings, source: FakeRegistry
) -> None:
    image = source.add_image("library/app", "1")
    sbom, signature = (
        referrer(image.digest, f"application/{kind}") for kind in ("sbom", "signature")
    )
    for content, kind in ((sbom, "sbom"), (signature, "signature")):
        source.add_referrer("library/app", image.digest, content, f"application/{kind}")
    async with client_of(directories, settings, is_first=True) as client:
        for reference in ("1", sbom.digest):
            await client.get(f"/v2/library/app/manifests/{reference}")
    await source.stop()
    path = f"/v2/library/app/referrers/{image.digest}"
    async with client_of(directories, settings) as client:
        listed = await client.get(path)
        assert listed.headers["entrepot-origin"] == "stale"
        assert "registry.example.com" in listed.headers["warning"]
        assert listed.json()["manifests"] == [
            {
                "mediaType": MANIFEST,
                "digest": str(sbom.digest),
                "size": sbom.size,
                "artifactType": "application/sbom",
                "annotations": {"signed-by": "someone"},
            }
        ]
        filtered = await client.get(path, params={"artifactType": "application/signature"})
        assert filtered.json()["manifests"] == []
        assert filtered.headers["oci-filters-applied"] == "artifactType"
        # An empty list would say that there are none.
        other = await client.get(f"/v2/library/app/referrers/{sbom.digest}")
        assert other.status_code >= 500


async def test_a_referrer_that_comes_later_is_seen(
    directories: Directories, settings: Settings, source: FakeRegistry
) -> None:
    image = source.add_image("library/app", "1")
    first, second = (referrer(image.digest, f"application/{kind}") for kind in "ab")
    for content in (first, second):
        source.add_manifest("library/app", content)
    source.fault("/referrers/", Status(500))
    async with client_of(directories, settings, is_first=True) as client:
        path = f"/v2/library/app/referrers/{image.digest}"
        await client.get("/v2/library/app/manifests/1")
        for expected in ([first], [first, second]):
            await client.get(f"/v2/library/app/manifests/{expected[-1].digest}")
            listed = (await client.get(path)).json()["manifests"]
            assert {each["digest"] for each in listed} == {str(each.digest) for each in expected}
