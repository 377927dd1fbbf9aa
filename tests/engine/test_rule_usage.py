"""What came through each rule is counted, and shown while the catalog fails."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from entrepot.core.rules import RuleDraft
from entrepot.engine.engine import Engine
from entrepot.store.connections import CatalogFailed
from tests.conftest import LOGIN_SERVER
from tests.engine.waiting import ended
from tests.fakes import FakeRegistry


@pytest.mark.parametrize(
    "failure", [CatalogFailed("The catalog fails."), None], ids=["fails", "hangs"]
)
async def test_f79_while_the_catalog_fails_rules_are_listed_with_what_was_last_known(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, failure: CatalogFailed | None
) -> None:
    monkeypatch.setattr("entrepot.engine.etags.USAGE_INTERVAL", 0)
    [before] = await engine.rules.list()

    async def ask() -> dict[str, tuple[int, int]]:
        if failure is not None:
            raise failure
        await asyncio.Event().wait()
        return {}

    with monkeypatch.context() as patched:
        patched.setattr("entrepot.engine.rule_usage.COUNT_TIMEOUT", 0.01)
        patched.setattr(engine.catalog, "rule_requests", ask)
        revision = engine.revisions.rules
        assert await engine.rules.list() == [before]
        # A client that keeps this answer is not told later that nothing has changed.
        assert engine.revisions.rules != revision
    revision = engine.revisions.rules
    assert await engine.rules.list() == [before]
    assert engine.revisions.rules == revision


async def test_repositories_are_counted_again_only_after_a_change(
    engine: Engine, source: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.add_image("library/nginx", "1")
    counts = 0
    aggregate = engine.catalog.aggregate_usage

    async def count(*arguments: Any) -> Any:
        nonlocal counts
        counts += 1
        return await aggregate(*arguments)

    monkeypatch.setattr(engine.catalog, "aggregate_usage", count)
    for _ in range(2):
        assert (await engine.rules.list())[0].repositories == 0
    assert counts == 1
    await ended(engine, await engine.pulls.start("library/nginx:1", None, "cli"))
    assert (await engine.rules.list())[0].repositories == 1
    assert counts == 2


async def test_what_a_narrower_rule_answers_for_does_not_count_for_the_wider_one(
    engine: Engine, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1")
    await engine.rules.create(
        RuleDraft("only-nginx", f"{LOGIN_SERVER}/library/nginx", "library/nginx")
    )
    await ended(engine, await engine.pulls.start("library/nginx:1", None, "cli"))
    counts = {rule.name: rule.repositories for rule in await engine.rules.list()}
    assert counts == {"example-library": 0, "only-nginx": 1}
