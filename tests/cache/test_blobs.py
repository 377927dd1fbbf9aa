"""For which repositories the copy of a blob opens (S20), and how large a blob is that no manifest
names (S16)."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator

import httpx
import pytest

from entrepot.cache import blobs as blobs_module
from entrepot.cache import proof as proof_module
from entrepot.cache.fill import Fill
from entrepot.cache.pull import PullProgress
from entrepot.config.directories import Directories
from entrepot.config.settings import Settings
from entrepot.core.credentials import CredentialSetDraft
from entrepot.core.reference import Digest, Repository
from entrepot.core.registries import DeclaredRegistry
from entrepot.core.rules import RuleDraft
from entrepot.core.states import PullState, SignIn
from entrepot.engine.engine import Engine
from entrepot.server.run import registry_app
from entrepot.store.records import BlobOrigin
from tests.cache.conftest import ScriptedCache
from tests.conftest import LOGIN_SERVER, Clock
from tests.fakes import BasicSignIn, FakeRegistry, FlipByte, Status
from tests.fakes.faults import Headers, IgnoreRange
from tests.fakes.images import Content
from tests.server.test_registry import error_of, pull_all

AMD64 = "linux/amd64"
OTHER = "other.example.com"
LARGE = 300_000


def registry_of(engine: Engine) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(registry_app(engine), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://entrepot", timeout=30)


async def pulled(engine: Engine, image: str) -> PullProgress:
    pull = engine.cache.pulls.get((await engine.pulls.start(image, AMD64, "test")).id)
    async with asyncio.timeout(30):
        await pull.finished.wait()
    return pull.progress()


async def fills_end(engine: Engine) -> None:
    for fill in list(engine.fills.under_way):
        await fill.finished.wait()


# Whose copy it is: S20


@pytest.fixture
async def other() -> AsyncIterator[FakeRegistry]:
    """A second source registry."""
    async with FakeRegistry() as other:
        yield other


@pytest.fixture
def settings(
    source: FakeRegistry, other: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    monkeypatch.setenv("SOURCE_USER", "ann")
    monkeypatch.setenv("SOURCE_PASSWORD", "s3cret")
    return Settings(
        listen="127.0.0.1:0",
        upstreams=(
            DeclaredRegistry(LOGIN_SERVER, "Example", SignIn.OPTIONAL, source.url),
            DeclaredRegistry(OTHER, "Other", SignIn.OPTIONAL, other.url),
        ),
    )


@pytest.fixture
async def private(engine: Engine, source: FakeRegistry) -> Content:
    """A layer that came through the credentials of its source registry; ``other/*`` comes from
    another."""
    source.sign_in = BasicSignIn({"ann": "s3cret"})
    await engine.credential_sets.create(
        CredentialSetDraft("example-set", LOGIN_SERVER, "env:SOURCE_USER", "env:SOURCE_PASSWORD")
    )
    await engine.rules.create(
        RuleDraft("example-private", f"{LOGIN_SERVER}/private/*", "private/*", "example-set")
    )
    await engine.rules.create(RuleDraft("example-other", f"{OTHER}/*", "other/*"))
    image = source.add_image("private/app", "1", layers=[os.urandom(LARGE)], platforms=[AMD64])
    assert (await pulled(engine, "private/app:1")).state is PullState.COMPLETED
    return image.platforms[AMD64].layers[0]


def path_of(blob: Content, repository: str = "other/app") -> str:
    return f"/v2/{repository}/blobs/{blob.digest}"


async def test_s20_a_source_that_only_says_that_it_has_a_blob_opens_no_copy_of_another(
    registry: httpx.AsyncClient, engine: Engine, other: FakeRegistry, private: Content
) -> None:
    other.add_blob("app", private)
    other.fault("/blobs/", FlipByte(), method="GET")
    head = await registry.head(path_of(private))
    assert (head.status_code, head.headers["entrepot-origin"]) == (200, "upstream")
    for _ in range(2):
        response = await registry.get(path_of(private))
        assert private.content not in response.content
        # What it sends itself is a wrong blob, which no client can finish.
        assert len(response.content) < LARGE
        await fills_end(engine)
    assert [each.headers.get("range") is not None for each in other.received("GET", "/blobs/")] == [
        True,
        False,
        False,
    ]
    assert (await registry.get(path_of(private, "private/app"))).content == private.content


async def test_s20_a_manifest_that_names_a_blob_opens_no_copy_of_another(
    registry: httpx.AsyncClient, engine: Engine, other: FakeRegistry, private: Content
) -> None:
    other.add_image("app", "1", layers=[private.content], platforms=[AMD64], index=False)
    other.fault(str(private.digest), Status(404))
    await registry.get("/v2/other/app/manifests/1")
    assert (await registry.head(path_of(private))).headers["entrepot-origin"] == "upstream"
    assert error_of(await registry.get(path_of(private)))[:2] == (404, "BLOB_UNKNOWN")
    assert (await registry.head(path_of(private))).status_code == 404
    progress = await pulled(engine, "other/app:1")
    assert (progress.state, progress.error_code) == (PullState.FAILED, "BlobUnknown")


async def test_s20_a_random_range_of_its_own_source_opens_a_copy_for_good(
    registry: httpx.AsyncClient,
    engine: Engine,
    directories: Directories,
    settings: Settings,
    other: FakeRegistry,
    private: Content,
    clock: Clock,
) -> None:
    other.add_image("app", "1", layers=[private.content], platforms=[AMD64])
    assert (await pulled(engine, "other/app:1")).state is PullState.COMPLETED
    response = await registry.get(path_of(private))
    assert (response.headers["entrepot-origin"], response.content == private.content) == (
        "cache",
        True,
    )
    [request] = other.received("GET", str(private.digest))
    assert request.headers["range"].startswith("bytes=")
    assert (
        0
        < int(request.headers["range"].removeprefix("bytes=").rstrip("-"))
        <= LARGE - proof_module.PROOF_SIZE
    )
    record = await engine.catalog.blob(private.digest)
    assert record is not None
    assert {(each.login_server, each.with_credentials) for each in record.origins} == {
        (LOGIN_SERVER, True),
        (OTHER, False),
    }
    await other.stop()
    engine.cache.copies.invalidate_all()
    assert (await registry.get(path_of(private))).content == private.content


@pytest.mark.parametrize(
    ("size", "proven"), [(1_000, True), (LARGE, True), (proof_module.WHOLE_SIZE + 1, False)]
)
async def test_s20_a_source_without_ranges_proves_a_small_blob_whole_and_sends_a_large_one_itself(
    size: int,
    proven: bool,
    registry: httpx.AsyncClient,
    engine: Engine,
    source: FakeRegistry,
    other: FakeRegistry,
    private: Content,
) -> None:
    image = source.add_image("private/sized", "1", layers=[os.urandom(size)], platforms=[AMD64])
    layer = image.platforms[AMD64].layers[0]
    await pulled(engine, "private/sized:1")
    other.add_blob("app", layer)
    other.fault("/blobs/", IgnoreRange())
    response = await registry.get(path_of(layer))
    assert (response.content == layer.content, response.headers["entrepot-origin"]) == (
        True,
        "cache" if proven else "upstream",
    )
    await fills_end(engine)
    assert (await registry.get(path_of(layer))).headers["entrepot-origin"] == "cache"
    assert (await engine.status.get()).blobs_size == await engine.catalog.blobs_size()


async def test_s20_a_source_that_is_down_proves_nothing(
    registry: httpx.AsyncClient, engine: Engine, other: FakeRegistry, private: Content
) -> None:
    other.add_image("app", "1", layers=[private.content], platforms=[AMD64], index=False)
    await registry.get("/v2/other/app/manifests/1")
    other.fault("/blobs/", Status(503))
    response = await registry.get(path_of(private))
    assert response.status_code == 502
    assert private.content not in response.content


async def test_s20_what_came_without_credentials_opens_for_everybody(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry, other: FakeRegistry
) -> None:
    await engine.rules.create(RuleDraft("example-other", f"{OTHER}/*", "other/*"))
    image = source.add_image("library/base", "1", platforms=[AMD64]).platforms[AMD64]
    await pulled(engine, "library/base:1")
    for blob in image.blobs:
        other.add_blob("app", blob)
        assert (await registry.get(path_of(blob))).headers["entrepot-origin"] == "cache"
    assert other.count("GET", "/blobs/") == 0


async def test_s20_a_repository_without_its_rule_keeps_what_it_cached_and_opens_nothing_else(
    registry: httpx.AsyncClient, engine: Engine, other: FakeRegistry, private: Content
) -> None:
    other.add_image("app", "1", layers=[private.content], platforms=[AMD64], index=False)
    await registry.get("/v2/other/app/manifests/1")
    for rule in ("example-other", "example-private"):
        await engine.rules.delete(rule)
    assert (await registry.get(path_of(private, "private/app"))).content == private.content
    for method in ("GET", "HEAD"):
        assert (await registry.request(method, path_of(private))).status_code == 404


async def test_s20_after_an_upgrade_with_the_source_down_everything_cached_is_served(
    directories: Directories, settings: Settings, source: FakeRegistry, clock: Clock
) -> None:
    image = source.add_image("library/nginx", "1", platforms=[AMD64])
    async with Engine.open(directories, settings, clock=clock) as engine:
        await engine.rules.create(
            RuleDraft("example-library", f"{LOGIN_SERVER}/library/*", "library/*")
        )
        await engine.cache.pulls.get(
            (await engine.pulls.start("library/nginx:1", AMD64, "test")).id
        ).finished.wait()
    with sqlite3.connect(directories.catalog) as connection:
        connection.executescript("DROP TABLE blob_origins; PRAGMA user_version = 3;")
    connection.close()
    await source.stop()
    async with (
        Engine.open(directories, settings, clock=clock) as engine,
        registry_of(engine) as registry,
    ):
        await pull_all(registry, image)


async def test_s20_a_proof_that_takes_too_long_is_none(
    registry: httpx.AsyncClient,
    engine: Engine,
    other: FakeRegistry,
    private: Content,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blobs_module, "PROOF_TIMEOUT", 0.05)
    other.add_blob("app", private)
    gate = other.hold(str(private.digest), method="GET")
    getting = asyncio.create_task(registry.get(path_of(private)))
    await gate.reached
    async with asyncio.timeout(30):
        while other.count("GET", str(private.digest)) < 2:
            await asyncio.sleep(0)
    gate.open()
    response = await getting
    assert (response.content == private.content, response.headers["entrepot-origin"]) == (
        True,
        "upstream",
    )


async def test_s20_a_source_that_failed_a_proof_is_asked_for_one_again_later(
    scripted: ScriptedCache,
) -> None:
    content = os.urandom(LARGE)
    digest = Digest.of(content)
    partial = await scripted.blobs.begin(digest, LARGE, OTHER)
    await scripted.blobs.append(partial, [content])
    await scripted.blobs.commit(partial)
    partial.release()
    await scripted.cache.copies.add(digest, LARGE, BlobOrigin(OTHER, True))
    scripted.client.blobs[digest] = bytes(LARGE)

    async def proof_requests() -> int:
        before = len(scripted.client.requests)
        fill = await scripted.cache.blob(Repository("library/nginx"), digest)
        requests = scripted.client.requests[before:]
        assert isinstance(fill, Fill)
        await fill.finished.wait()
        return sum("GET" in request and not request.endswith(" 0") for request in requests)

    assert await proof_requests() == 1
    scripted.clock.now += blobs_module.UNPROVEN_TTL - 1
    assert await proof_requests() == 0
    scripted.clock.now += 1
    assert await proof_requests() == 1


# A size that only a HEAD has told: S16

UNNAMED = b"a blob that no manifest names" * 100


async def test_s16_a_wrong_size_of_one_head_is_corrected_by_the_get(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    blob = source.add_blob("library/app", UNNAMED)
    source.fault("/blobs/", Headers({"Content-Length": "1234"}), method="HEAD")
    path = path_of(blob, "library/app")
    assert (await registry.head(path)).headers["content-length"] == "1234"
    response = await registry.get(path)
    assert (response.status_code, response.content) == (200, UNNAMED)
    await fills_end(engine)
    assert (await registry.head(path)).headers["content-length"] == str(len(UNNAMED))


async def test_s16_a_size_of_a_head_is_forgotten_when_the_fill_fails(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    blob = source.add_blob("library/app", UNNAMED)
    path = path_of(blob, "library/app")
    source.fault("/blobs/", FlipByte(), method="GET")
    assert (await registry.get(path)).status_code == 502
    await fills_end(engine)
    source.clear_faults()
    requests = source.count("HEAD", "/blobs/")
    assert (await registry.get(path)).content == UNNAMED
    assert source.count("HEAD", "/blobs/") == requests + 1


async def test_s16_a_blob_that_its_source_does_not_have_is_unknown_to_a_head_too(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    image = source.add_image("library/app", "1", layers=[b"layer" * 100], platforms=[AMD64])
    manifest = image.platforms[AMD64]
    await registry.get(f"/v2/library/app/manifests/{manifest.manifest.digest}")
    layer = manifest.layers[0]
    path = path_of(layer, "library/app")
    source.fault(f"/blobs/{layer.digest}", Status(404))
    for _ in range(2):
        response = await registry.get(path)
        assert error_of(response)[:2] == (404, "BLOB_UNKNOWN")
        assert (await registry.head(path)).status_code == 404
    await fills_end(engine)
    source.clear_faults()
    assert (await registry.get(path)).content == layer.content
    assert (await registry.head(path)).status_code == 200


async def test_s16_a_size_of_a_head_is_trusted_for_minutes(
    registry: httpx.AsyncClient, source: FakeRegistry, clock: Clock
) -> None:
    path = path_of(source.add_blob("library/app", UNNAMED), "library/app")
    for passed, heads in (
        (0.0, 1),
        (blobs_module.STATED_SIZE_TTL - 1, 1),
        (2.0, 2),
        (-10_000.0, 3),
    ):
        clock.now += passed
        await registry.head(path)
        assert source.count("HEAD", "/blobs/") == heads


async def test_s16_a_size_of_a_head_takes_no_copy_away(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    blob = source.add_blob("library/app", UNNAMED)
    path = path_of(blob, "library/app")
    await registry.get(path)
    await fills_end(engine)
    source.add_blob("library/liar", blob)
    source.fault("/library/liar/blobs/", Headers({"Content-Length": "7"}), method="HEAD")
    response = await registry.get(path_of(blob, "library/liar"))
    assert (response.content, response.headers["entrepot-origin"]) == (UNNAMED, "cache")
