"""F69, S14: the clock is set forward or back. A stored time in the future counts as never, and
spans within one run are monotonic."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from entrepot.config.directories import Directories
from entrepot.config.settings import Settings
from entrepot.core.rules import RuleDraft
from entrepot.engine.engine import Engine
from entrepot.server.run import registry_app
from tests.conftest import LOGIN_SERVER, Clock
from tests.fakes import FakeRegistry

TAG = "/v2/library/nginx/manifests/1.27"
DAY = 86_400.0


@pytest.fixture
def monotonic() -> Clock:
    return Clock()


@pytest.fixture
async def engine(
    directories: Directories, settings: Settings, clock: Clock, monotonic: Clock
) -> AsyncIterator[Engine]:
    async with Engine.open(directories, settings, clock=clock, monotonic=monotonic) as engine:
        await engine.rules.create(
            RuleDraft("example-library", f"{LOGIN_SERVER}/library/*", "library/*")
        )
        yield engine


def registry_of(engine: Engine) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(registry_app(engine), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://entrepot", timeout=30)


async def test_s14_a_tag_that_was_checked_in_the_future_is_checked_again(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry, clock: Clock
) -> None:
    source.add_image("library/nginx", "1.27", layers=[b"old"])
    clock.now += 30 * DAY
    await registry.get(TAG)
    new = source.add_image("library/nginx", "1.27", layers=[b"new"])
    clock.now -= 30 * DAY
    assert (await registry.get(TAG)).content == new.manifest.content
    source.requests.clear()
    # Now it was checked in the present, and is fresh as usual.
    clock.now += engine.settings.freshness - 1
    assert (await registry.get(TAG)).headers["entrepot-origin"] == "cache"
    assert source.requests == []


async def test_s14_a_tag_checked_in_the_future_is_checked_again_after_a_restart(
    directories: Directories, settings: Settings, source: FakeRegistry, clock: Clock
) -> None:
    source.add_image("library/nginx", "1.27", layers=[b"old"])
    clock.now += 30 * DAY
    async with (
        Engine.open(directories, settings, clock=clock) as engine,
        registry_of(engine) as registry,
    ):
        await engine.rules.create(
            RuleDraft("example-library", f"{LOGIN_SERVER}/library/*", "library/*")
        )
        await registry.get(TAG)
    new = source.add_image("library/nginx", "1.27", layers=[b"new"])
    clock.now -= 30 * DAY
    async with (
        Engine.open(directories, settings, clock=clock) as engine,
        registry_of(engine) as registry,
    ):
        assert (await registry.get(TAG)).content == new.manifest.content


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_s14_a_failure_ends_after_its_seconds_though_the_clock_was_set_back(
    method: str,
    registry: httpx.AsyncClient,
    engine: Engine,
    source: FakeRegistry,
    clock: Clock,
    monotonic: Clock,
) -> None:
    assert (await registry.request(method, TAG)).status_code == 404
    source.add_image("library/nginx", "1.27")
    clock.now -= 3_600
    assert (await registry.request(method, TAG)).status_code == 404
    monotonic.now += engine.settings.negative_freshness
    assert (await registry.request(method, TAG)).status_code == 200


async def test_s14_a_failure_does_not_end_early_though_the_clock_was_set_forward(
    registry: httpx.AsyncClient, source: FakeRegistry, clock: Clock
) -> None:
    assert (await registry.get(TAG)).status_code == 404
    clock.now += 3_600
    assert (await registry.get(TAG)).status_code == 404
    assert len(source.requests) == 1


async def test_s14_the_digest_of_a_head_is_trusted_for_its_time_whatever_the_clock(
    registry: httpx.AsyncClient,
    engine: Engine,
    source: FakeRegistry,
    clock: Clock,
    monotonic: Clock,
) -> None:
    source.add_image("library/nginx", "1.27")
    assert (await registry.head(TAG)).status_code == 200
    moved = source.add_image("library/nginx", "1.27", layers=[b"moved"])
    source.requests.clear()
    clock.now -= 30 * DAY
    assert (await registry.head(TAG)).headers["docker-content-digest"] != str(moved.digest)
    assert source.requests == []
    monotonic.now += engine.settings.freshness
    assert (await registry.head(TAG)).headers["docker-content-digest"] == str(moved.digest)
