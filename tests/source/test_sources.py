"""What all clients of a source registry share: its rate limit, its state, its connections."""

from __future__ import annotations

import asyncio

import pytest

from entrepot.core.reference import Tag
from entrepot.source.client import SourceClient
from entrepot.source.errors import (
    SourceBrokeOff,
    SourceError,
    SourceFailed,
    SourceNotFound,
    SourceRateLimited,
)
from entrepot.source.rate_limit import RateLimit
from entrepot.source.sources import Sources, SourceState
from tests.fakes import (
    DropAfter,
    FakeRegistry,
    Headers,
    Redirect,
    Status,
)
from tests.source.conftest import LATEST, NGINX, Clock, read, registry


async def test_the_allowance_is_told_in_the_state(
    client: SourceClient, sources: Sources, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "latest")
    assert sources.state("docker.io") == SourceState()
    source.fault(
        "/manifests/",
        Headers({"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "76;w=21600"}),
    )
    await client.head_manifest(NGINX, LATEST)
    assert sources.state("docker.io") == SourceState(
        reachable=True,
        problem=None,
        rate_limit=RateLimit(100, 76, None, 21_600),
    )


async def test_the_allowance_of_storage_behind_a_redirect_is_another(
    client: SourceClient, sources: Sources, source: FakeRegistry
) -> None:
    async with FakeRegistry() as storage:
        layer = source.add_image("library/nginx", "latest").platforms["linux/amd64"].layers[0]
        storage.files["/store/1"] = layer.content
        source.fault("/blobs/", Redirect(f"{storage.url}/store/1"))
        storage.fault("/store/", Headers({"RateLimit-Limit": "5", "RateLimit-Remaining": "1"}))
        async with client.blob(NGINX, layer.digest) as stream:
            await read(stream)
    assert sources.state("docker.io").rate_limit.limit is None


async def test_a_source_over_its_allowance_is_not_asked_again_before_its_time(
    client: SourceClient, sources: Sources, source: FakeRegistry, clock: Clock
) -> None:
    image = source.add_image("library/nginx", "latest")
    source.fault("/manifests/", Status(429, {"Retry-After": "60"}, times=1))
    with pytest.raises(SourceRateLimited) as raised:
        await client.manifest(NGINX, LATEST)
    assert raised.value.retry_after == 60.0
    clock.now += 20
    with pytest.raises(SourceRateLimited) as raised:
        await client.head_manifest(NGINX, LATEST)
    assert raised.value.retry_after == 40.0
    assert len(source.requests) == 1
    assert sources.state("docker.io").rate_limit.remaining == 0
    # What is counted are manifests: the layers of a manifest that we have still come.
    async with client.blob(NGINX, image.platforms["linux/amd64"].layers[0].digest) as stream:
        await read(stream)
    clock.now += 41
    assert (await client.manifest(NGINX, LATEST)).digest == image.digest


async def test_429_is_not_tried_again_by_itself(client: SourceClient, source: FakeRegistry) -> None:
    source.fault("/manifests/", Status(429))
    with pytest.raises(SourceRateLimited) as raised:
        await client.manifest(NGINX, LATEST)
    assert raised.value.retry_after is None
    assert len(source.requests) == 1


async def test_the_state_tells_the_last_problem_until_it_is_over(
    client: SourceClient, sources: Sources, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "latest")
    source.fault("/manifests/", Status(500))
    with pytest.raises(SourceFailed):
        await client.head_manifest(NGINX, LATEST)
    state = sources.state("docker.io")
    assert state.reachable is True
    assert state.problem is not None
    assert "status 500" in state.problem
    again = asyncio.Event()

    async def wait(_: float) -> None:
        await again.wait()

    sources.breakers.wait = wait
    await source.stop()
    with pytest.raises(SourceError):
        await client.head_manifest(NGINX, LATEST)
    assert sources.state("docker.io").reachable is False
    await source.start()
    source.clear_faults()
    again.set()
    async with asyncio.timeout(30):
        while sources.state("docker.io").unreachable_since is not None:
            await asyncio.sleep(0)
    await client.head_manifest(NGINX, LATEST)
    assert sources.state("docker.io") == SourceState(reachable=True)


async def test_a_blob_that_broke_off_is_a_problem_and_a_missing_tag_is_none(
    client: SourceClient, sources: Sources, source: FakeRegistry
) -> None:
    layer = source.add_image("library/nginx", "latest").platforms["linux/amd64"].layers[0]
    with pytest.raises(SourceNotFound):
        await client.head_manifest(NGINX, Tag("missing"))
    assert sources.state("docker.io") == SourceState(reachable=True)
    source.fault("/blobs/", DropAfter(100))
    with pytest.raises(SourceBrokeOff):
        async with client.blob(NGINX, layer.digest) as stream:
            await read(stream)
    assert "broke off" in (sources.state("docker.io").problem or "")


async def test_all_clients_of_a_login_server_share_its_connections(
    sources: Sources, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "latest")
    for _ in range(3):
        await sources.client(registry(source.url), None).head_manifest(NGINX, LATEST)
    assert len({each.connection for each in source.requests}) == 1
