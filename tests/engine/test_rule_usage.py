"""What came through each rule is counted, and shown while the catalog fails."""

from __future__ import annotations

import asyncio

import pytest

from entrepot.engine.engine import Engine
from entrepot.store.catalog import CatalogFailed


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
