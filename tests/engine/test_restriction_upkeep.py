"""The readers of deleted rules go when nothing of those is cached any more."""

from __future__ import annotations

from entrepot.core.rules import RuleDraft
from entrepot.engine.engine import Engine
from entrepot.engine.restriction_upkeep import MIN_AGE
from tests.conftest import LOGIN_SERVER, Clock
from tests.fakes import FakeRegistry
from tests.server.cached_images import cache


async def test_readers_stay_as_long_as_something_is_cached_and_a_little_longer(
    engine: Engine, source: FakeRegistry, clock: Clock
) -> None:
    await engine.rules.create(
        RuleDraft("acme-private", f"{LOGIN_SERVER}/acme/*", "acme/*", readers=("ci",))
    )
    await cache(engine, source, "acme/app:1")
    await engine.rules.delete("acme-private")

    async def is_restricted_after(seconds: float) -> bool:
        clock.now += seconds
        await engine.bookkeeping.run_once()
        return engine.documents.access("acme/app").is_restricted

    assert await is_restricted_after(10 * MIN_AGE)
    await engine.repositories.delete("acme/app")
    assert await is_restricted_after(0)
    assert await is_restricted_after(MIN_AGE - 1)
    assert not await is_restricted_after(1)
