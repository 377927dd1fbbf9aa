"""How often a source is asked, and what its bad day costs. The codes are those of the list of failures."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from entrepot.client import CacheClient
from entrepot.engine import Engine
from entrepot.rules import RuleDraft
from entrepot.server.run import management_app
from tests.conftest import LOGIN_SERVER, Clock
from tests.standin import StandIn, Status

AMD64 = "linux/amd64"
PATH = "/v2/library/nginx/manifests/1"


async def hold(registry: httpx.AsyncClient, source: StandIn) -> str:
    """Have the index and one image held; gives the digest of the index."""
    image = source.add_image("library/nginx", "1")
    (await registry.get(PATH)).raise_for_status()
    (await registry.get(f"/v2/library/nginx/manifests/{image.platforms[AMD64].digest}")).raise_for_status()
    source.requests.clear()
    return str(image.digest)


@pytest.mark.parametrize(("freshness", "after", "heads"), [("always", 0, 3), ("never", 10**8, 0), ("10 min", 599, 0), ("10 min", 601, 1)])
async def test_a_rule_says_how_long_its_tags_are_believed(
    freshness: str, after: float, heads: int, registry: httpx.AsyncClient, engine: Engine, source: StandIn, clock: Clock
) -> None:
    await engine.update_rule("example-library", freshness=freshness)
    await hold(registry, source)
    clock.now += after
    for _ in range(3):
        (await registry.get(PATH)).raise_for_status()
    assert [request.method for request in source.requests] == ["HEAD"] * heads


async def test_f28_an_index_whose_images_are_held_is_one_head(registry: httpx.AsyncClient, engine: Engine, source: StandIn, clock: Clock) -> None:
    platforms = [f"linux/p{number}" for number in range(10)]
    image = source.add_image("library/nginx", "1", platforms=platforms)
    for reference in ("1", *(str(each.digest) for each in image.platforms.values())):
        (await registry.get(f"/v2/library/nginx/manifests/{reference}")).raise_for_status()
    source.requests.clear()
    clock.now += engine.settings.freshness + 1
    answers = await asyncio.gather(*(registry.get(PATH) for _ in range(20)))
    assert {answer.content for answer in answers} == {image.manifest.content}
    assert [(request.method, request.path) for request in source.requests] == [("HEAD", PATH)]


async def test_a_tag_is_refreshed_on_purpose_and_its_old_digest_stays(registry: httpx.AsyncClient, engine: Engine, source: StandIn) -> None:
    before = await hold(registry, source)
    async with CacheClient.of_app(management_app(engine)) as client:
        same = await client.refresh("library/nginx:1")
        assert (same.digest, same.moved, same.problem) == (before, False, None)
        moved_to = str(source.add_image("library/nginx", "1", layers=[30_000]).digest)
        moved = await client.refresh("library/nginx:1")
        assert (moved.before, moved.digest, moved.moved) == (before, moved_to, True)
    source.requests.clear()
    assert (await registry.get(PATH)).headers["docker-content-digest"] == moved_to
    assert (await registry.get(f"/v2/library/nginx/manifests/{before}")).status_code == 200
    assert source.requests == []


async def test_f18_a_source_that_is_down_is_not_asked_again_and_used_when_it_is_back(
    registry: httpx.AsyncClient, engine: Engine, source: StandIn, clock: Clock
) -> None:
    digest = await hold(registry, source)
    tries: list[float] = []
    going_on = asyncio.Event()

    async def wait(seconds: float) -> None:
        tries.append(seconds)
        await going_on.wait()

    engine.sources.breakers.wait = wait
    port = source.port
    await source.stop()
    clock.now += engine.settings.freshness + 1
    stale = await registry.get(PATH)
    assert (stale.headers["docker-content-digest"], stale.headers["entrepot-origin"]) == (digest, "stale")
    [upstream] = [each for each in engine.upstream_snapshots() if each.login_server == LOGIN_SERVER]
    assert upstream.unreachable_since is not None
    assert engine.events.recent()[-1].kind == "source-unreachable"
    not_held = await registry.get("/v2/library/other/manifests/1")
    assert not_held.status_code in {502, 503, 504}
    assert int(not_held.headers["retry-after"]) >= 1
    assert "(cache rule example-library)" in not_held.json()["errors"][0]["message"]
    assert len(tries) == 1
    async with StandIn(port=port) as again:
        again.add_image("library/other", "1")
        going_on.set()
        async with asyncio.timeout(10):
            while engine.events.recent()[-1].kind != "source-reachable":
                await asyncio.sleep(0)
        assert (await registry.get("/v2/library/other/manifests/1")).status_code == 200


async def test_f27_a_repository_that_fails_does_not_speak_for_its_source(registry: httpx.AsyncClient, engine: Engine, source: StandIn) -> None:
    source.add_image("library/nginx", "1")
    source.fault("library/broken", Status(404))
    source.fault("library/failing", Status(500))
    for name in ("broken", "failing"):
        assert (await registry.get(f"/v2/library/{name}/manifests/1")).status_code >= 400
    assert (await registry.get(PATH)).status_code == 200
    [upstream] = [each for each in engine.upstream_snapshots() if each.login_server == LOGIN_SERVER]
    assert upstream.unreachable_since is None


async def test_f19_f20_over_its_allowance_a_source_is_left_alone_and_what_is_held_goes_out(
    registry: httpx.AsyncClient, engine: Engine, source: StandIn, clock: Clock
) -> None:
    digest = await hold(registry, source)
    source.fault("", Status(429, {"Retry-After": "60"}))
    clock.now += engine.settings.freshness + 1
    for _ in range(3):
        assert (await registry.get(PATH)).headers["docker-content-digest"] == digest
    assert len(source.requests) == 1
    refused = await registry.get("/v2/library/other/manifests/1")
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (429, "TOOMANYREQUESTS")
    assert 55 <= int(refused.headers["retry-after"]) <= 60 + 13
    assert len(source.requests) == 1


async def test_requests_made_and_saved_are_counted_for_each_rule(registry: httpx.AsyncClient, engine: Engine, source: StandIn) -> None:
    await hold(registry, source)
    for _ in range(5):
        (await registry.get(PATH)).raise_for_status()
    await engine.cache.ledger.write()
    [rule] = await engine.rule_snapshots()
    assert (rule.requests_made, rule.requests_saved) == (2, 5)


async def test_f47_what_came_through_one_rule_is_not_served_through_another(registry: httpx.AsyncClient, engine: Engine, source: StandIn) -> None:
    image = source.add_image("private/app", "1")
    await engine.create_rule(RuleDraft("example-private", f"{LOGIN_SERVER}/private/*", "private/*"))
    (await registry.get("/v2/private/app/manifests/1")).raise_for_status()
    wanted = image.platforms[AMD64]
    (await registry.get(f"/v2/private/app/manifests/{wanted.digest}")).raise_for_status()
    layer = wanted.layers[0]
    assert (await registry.get(f"/v2/private/app/blobs/{layer.digest}")).status_code == 200
    assert (await registry.get(f"/v2/library/app/blobs/{layer.digest}")).status_code == 404
    assert (await registry.get(f"/v2/library/app/manifests/{wanted.digest}")).status_code == 404
