"""Manifests: what one source says of a digest, or fails at, concerns its own repository only."""

from __future__ import annotations

import asyncio
import gc
import json
import tracemalloc
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any

import httpx
import pytest

from entrepot.config.directories import Directories
from entrepot.config.settings import Settings
from entrepot.core.media_types import OCI_MANIFEST
from entrepot.core.reference import Digest, Repository, Tag
from entrepot.core.rules import RuleDraft
from entrepot.engine.engine import Engine
from entrepot.server.run import registry_app
from entrepot.source.blob_transport import BlobTransport
from entrepot.source.transport import SourceTransport
from entrepot.store.lookups import Lookup, TagTarget
from tests.conftest import LOGIN_SERVER, Clock
from tests.fakes import Content, FakeRegistry, Fault, Html, Status

EVIL_TYPE = "application/vnd.evil.thing"


def untyped_image() -> bytes:
    """An image manifest that does not name its own media type, as the specification allows."""
    config = {
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": str(Digest.of(b"config")),
        "size": 6,
    }
    return json.dumps({"schemaVersion": 2, "config": config, "layers": []}).encode()


@asynccontextmanager
async def running(
    directories: Directories, settings: Settings, clock: Clock
) -> AsyncIterator[tuple[Engine, httpx.AsyncClient]]:
    async with Engine.open(directories, settings, clock=clock) as engine:
        transport = httpx.ASGITransport(registry_app(engine), raise_app_exceptions=False)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://entrepot", timeout=30
        ) as registry:
            yield engine, registry


async def test_s08_who_brings_the_bytes_of_an_image_first_does_not_say_what_it_is(
    directories: Directories, settings: Settings, source: FakeRegistry, clock: Clock
) -> None:
    content = untyped_image()
    source.add_manifest("evil/app", Content.of(EVIL_TYPE, content))
    good = source.add_manifest("g/app", Content.of(OCI_MANIFEST, content), "1")
    as_docker = {"Accept": OCI_MANIFEST}
    async with running(directories, settings, clock) as (engine, registry):
        for name in ("evil", "g"):
            await engine.rules.create(
                RuleDraft(f"example-{name}", f"{LOGIN_SERVER}/{name}/*", f"{name}/*")
            )
        first = await registry.get(f"/v2/evil/app/manifests/{good.digest}")
        assert first.headers["content-type"] == EVIL_TYPE
        for _ in range(2):
            for method in ("GET", "HEAD"):
                for reference in ("1", good.digest):
                    response = await registry.request(
                        method, f"/v2/g/app/manifests/{reference}", headers=as_docker
                    )
                    assert (response.status_code, response.headers["content-type"]) == (
                        200,
                        OCI_MANIFEST,
                    )
        again = await registry.get(f"/v2/evil/app/manifests/{good.digest}")
        assert (again.headers["content-type"], again.headers["entrepot-origin"]) == (
            EVIL_TYPE,
            "cache",
        )
    await source.stop()
    async with running(directories, settings, clock) as (_, registry):
        evil = await registry.get(f"/v2/evil/app/manifests/{good.digest}")
        response = await registry.get("/v2/g/app/manifests/1", headers=as_docker)
        assert (response.status_code, response.headers["content-type"], response.content) == (
            200,
            OCI_MANIFEST,
            content,
        )
        assert evil.headers["content-type"] == EVIL_TYPE


# What failed


async def test_s24_the_answers_of_requests_that_failed_are_released(
    registry: httpx.AsyncClient, source: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[weakref.ref[httpx.Response]] = []

    def note(transport: type[httpx.AsyncBaseTransport]) -> None:
        send = transport.handle_async_request

        async def noted(self: httpx.AsyncBaseTransport, request: httpx.Request) -> httpx.Response:
            response = await send(self, request)
            answers.append(weakref.ref(response))
            return response

        monkeypatch.setattr(transport, "handle_async_request", noted)

    note(SourceTransport)
    note(BlobTransport)
    source.fault("/9/", Status(500))
    for path in (
        "library/nginx/manifests/1",
        "library/9/manifests/1",
        f"library/nginx/blobs/{Digest.of(b'x')}",
    ):
        assert (await registry.get(f"/v2/{path}")).status_code in {404, 502}
        assert (await registry.get(f"/v2/{path}")).status_code in {404, 502}
    # The step of the event loop that brought the last answer ends.
    await asyncio.sleep(0)
    gc.collect()
    assert len(answers) >= 3
    assert [answer() for answer in answers] == [None] * len(answers)


async def test_s24_unknown_tags_cost_little_memory_and_it_comes_back(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry, clock: Clock
) -> None:
    """It was 23 kB for each of the last 10,000 failures, and never given back."""
    count = 300

    async def used() -> int:
        source.requests.clear()
        await asyncio.sleep(0)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    for number in range(20):
        await registry.get(f"/v2/library/nginx/manifests/warm{number}")
    tracemalloc.start()
    try:
        before = await used()
        for number in range(count):
            assert (await registry.get(f"/v2/library/nginx/manifests/{number}")).status_code == 404
        remembered = await used()
        assert remembered - before < count * 4_000
        clock.now += engine.settings.negative_freshness
        engine.cache.drop_expired()
        assert remembered - await used() > count * 500
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("reference", ["9", str(Digest.of(b"x"))])
async def test_l14_a_failure_that_is_remembered_costs_no_question_to_the_catalog(
    method: str,
    reference: str,
    registry: httpx.AsyncClient,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert (
        await registry.request(method, f"/v2/library/nginx/manifests/{reference}")
    ).status_code == 404

    async def ask(*_: Any, **__: Any) -> Any:
        raise AssertionError("the catalog was asked")

    engine.cache.index.invalidate(Repository("library/nginx"))
    for name in ("lookup_tag", "lookup_manifest", "lookup_blob", "manifests_of", "source_of"):
        monkeypatch.setattr(engine.catalog, name, ask)
    for _ in range(2):
        assert (
            await registry.request(method, f"/v2/library/nginx/manifests/{reference}")
        ).status_code == 404


async def test_a_failure_is_forgotten_when_what_failed_comes_in_on_another_way(
    registry: httpx.AsyncClient, source: FakeRegistry
) -> None:
    assert (await registry.get("/v2/library/nginx/manifests/1")).status_code == 404
    content = untyped_image()
    digest = Digest.of(content)
    assert (await registry.get(f"/v2/library/nginx/manifests/{digest}")).status_code == 404
    source.add_manifest("library/nginx", Content.of(OCI_MANIFEST, content), "2")
    assert (await registry.get("/v2/library/nginx/manifests/2")).status_code == 200
    assert (await registry.get(f"/v2/library/nginx/manifests/{digest}")).status_code == 200


async def test_a_blob_that_is_not_there_is_no_manifest_that_is_not_there(
    registry: httpx.AsyncClient, source: FakeRegistry
) -> None:
    """Who asks for a manifest under the address of blobs must not make it unknown to others."""
    manifest = source.add_manifest("library/nginx", Content.of(OCI_MANIFEST, untyped_image()))
    assert (await registry.get(f"/v2/library/nginx/blobs/{manifest.digest}")).status_code == 404
    assert (await registry.get(f"/v2/library/nginx/manifests/{manifest.digest}")).status_code == 200


def image_with(**fields: Any) -> Content:
    layer = {
        "mediaType": "application/vnd.oci.image.layer.v1.tar",
        "digest": str(Digest.of(b"layer")),
        "size": 5,
    } | fields
    config = {
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": str(Digest.of(b"config")),
        "size": 6,
    }
    return Content.of(
        OCI_MANIFEST, json.dumps({"schemaVersion": 2, "config": config, "layers": [layer]}).encode()
    )


INVALID: dict[str, tuple[Content, Fault | None]] = {
    "a size beyond 63 bits": (image_with(size=2**63), None),
    "a size beyond 64 bits": (image_with(size=2**64), None),
    "a digest that is none": (image_with(digest="sha256:../../etc"), None),
    "no manifest": (Content.of(OCI_MANIFEST, b'{"schemaVersion": 1}'), None),
    "a web page": (image_with(), Html()),
}


@pytest.mark.parametrize("kind", INVALID)
async def test_f67_an_invalid_manifest_is_told_and_not_kept_and_not_fetched_for_each_request(
    kind: str, registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry, clock: Clock
) -> None:
    manifest, fault = INVALID[kind]
    source.add_manifest("library/nginx", manifest, "1")
    if fault is not None:
        source.fault("/manifests/", fault)
    for reference in ("1", manifest.digest):
        for _ in range(5):
            response = await registry.get(f"/v2/library/nginx/manifests/{reference}")
            assert response.status_code == 502
            assert "registry.example.com" in response.json()["errors"][0]["message"]
        assert source.count("GET", f"/manifests/{reference}") == 1
    assert await engine.catalog.tag(Repository("library/nginx"), Tag("1")) is None
    assert await engine.catalog.repository_names() == []
    clock.now += engine.settings.negative_freshness
    assert (await registry.get("/v2/library/nginx/manifests/1")).status_code == 502
    assert source.count("GET", "/manifests/1") == 2


@pytest.mark.parametrize("kind", INVALID)
async def test_f67_a_cached_tag_is_served_while_its_source_gives_an_invalid_manifest(
    kind: str, registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry, clock: Clock
) -> None:
    good = source.add_manifest("library/nginx", Content.of(OCI_MANIFEST, untyped_image()), "1")
    assert (await registry.get("/v2/library/nginx/manifests/1")).status_code == 200
    manifest, fault = INVALID[kind]
    source.add_manifest("library/nginx", manifest, "1")
    if fault is not None:
        source.fault("/manifests/", fault)
    clock.now += engine.settings.freshness
    source.requests.clear()
    for _ in range(5):
        response = await registry.get("/v2/library/nginx/manifests/1")
        assert (response.status_code, response.content, response.headers["entrepot-origin"]) == (
            200,
            good.content,
            "stale",
        )
        assert response.headers["warning"].startswith('299 - "')
    assert len(source.requests) <= 2


# Many at once


async def test_all_who_ask_for_a_tag_that_is_not_cached_share_one_head(
    registry: httpx.AsyncClient, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1")
    gate = source.hold("/manifests/", method="HEAD")
    waiting = [
        asyncio.create_task(registry.head("/v2/library/nginx/manifests/1")) for _ in range(20)
    ]
    await gate.reached
    gate.open()
    assert {each.status_code for each in await asyncio.gather(*waiting)} == {200}
    assert source.count("HEAD", "/manifests/") == 1


async def test_many_unknown_names_do_not_pile_up_while_their_source_is_slow(
    registry: httpx.AsyncClient,
    engine: Engine,
    source: FakeRegistry,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """S06, S24: a request goes on when its client has left. So what is under way is bounded, and a
    copy is served all the same."""
    cached = source.add_manifest("library/nginx", Content.of(OCI_MANIFEST, untyped_image()), "1")
    assert (await registry.get("/v2/library/nginx/manifests/1")).status_code == 200
    clock.now += engine.settings.freshness
    monkeypatch.setattr(engine.cache._manifests._fetches, "_group_limit", 3)
    gate = source.hold("/manifests/")
    asking = [
        asyncio.create_task(registry.get(f"/v2/library/nginx/manifests/u{number}"))
        for number in range(20)
    ]
    for refused in islice(asyncio.as_completed(asking), 17):
        response = await refused
        assert (response.status_code, "retry-after" in response.headers) == (503, True)
    assert len(engine.cache._manifests._fetches._flights) == 3
    stale = await registry.get("/v2/library/nginx/manifests/1")
    assert (stale.status_code, stale.content, stale.headers["entrepot-origin"]) == (
        200,
        cached.content,
        "stale",
    )
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    gate.open()
    async with asyncio.timeout(30):
        while engine.cache._manifests._fetches._flights:
            await asyncio.sleep(0)
    assert not engine.cache._manifests._fetches._groups
    # What was not even asked is not remembered as a failure.
    source.add_manifest("library/nginx", Content.of(OCI_MANIFEST, untyped_image()), "u19")
    assert (await registry.get("/v2/library/nginx/manifests/u19")).status_code == 200


async def test_a_tag_that_comes_while_the_catalog_is_asked_is_not_fetched_again(
    engine: Engine,
    registry: httpx.AsyncClient,
    source: FakeRegistry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One of fifty clients looked into the catalog before the manifest was there, and asked the
    source after it was."""
    source.add_image("library/app", "1")
    read, has_read, goes_on = engine.catalog.lookup_tag, asyncio.Event(), asyncio.Event()

    async def read_early(repository: Repository, tag: Tag) -> Lookup[TagTarget]:
        lookup = await read(repository, tag)
        monkeypatch.setattr(engine.catalog, "lookup_tag", read)
        has_read.set()
        await goes_on.wait()
        return lookup

    monkeypatch.setattr(engine.catalog, "lookup_tag", read_early)
    late = asyncio.create_task(registry.get("/v2/library/app/manifests/1"))
    await has_read.wait()
    # From a change on, no request shares a read that began before it.
    engine.cache.index.invalidate(Repository("library/other"))
    assert (await registry.get("/v2/library/app/manifests/1")).headers[
        "entrepot-origin"
    ] == "upstream"
    goes_on.set()
    response = await late
    assert (response.status_code, response.headers["entrepot-origin"]) == (200, "cache")
    assert [each.method for each in source.requests if "/manifests/" in each.path] == ["GET"]
