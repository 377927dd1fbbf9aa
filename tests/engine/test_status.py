"""The engine in one look, and its source registries."""

from __future__ import annotations

import httpx
import pytest

from entrepot.engine.engine import Engine
from entrepot.store.connections import CatalogFailed
from tests.conftest import LOGIN_SERVER
from tests.engine.waiting import ended
from tests.fakes import FakeRegistry


async def test_the_sources_are_listed_with_their_rules(
    engine: Engine, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1")
    await ended(engine, await engine.pulls.start("library/nginx:1", None, "cli"))
    registries = {each.login_server: each for each in engine.status.source_registries()}
    assert (
        registries[LOGIN_SERVER].rules,
        registries[LOGIN_SERVER].declared,
        registries[LOGIN_SERVER].reachable,
    ) == (1, True, True)
    assert registries["docker.io"].reachable is None


async def test_where_the_catalog_fails_the_status_still_tells_it(
    engine: Engine,
    registry: httpx.AsyncClient,
    source: FakeRegistry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source.add_image("library/nginx", "1")
    await ended(engine, await engine.pulls.start("library/nginx:1", None, "cli"))
    assert (await engine.status.get()).repositories == 1

    async def fails(*_: object) -> int:
        raise CatalogFailed("The catalog fails: unable to open database file.")

    monkeypatch.setattr(engine.catalog, "repositories_count", fails)
    monkeypatch.setattr(engine.catalog, "probe", fails)
    await engine.health.check()
    status = await engine.status.get()
    assert status.notices == ("The catalog fails: unable to open database file.",)
    assert status.repositories == 1
    # Where a rule answers, the source is asked in its place (L02); where none does, nobody else
    # knows.
    monkeypatch.setattr(engine.catalog, "lookup_tag", fails)
    monkeypatch.setattr(engine.catalog, "source_of", fails)
    assert (await registry.get("/v2/library/nginx/manifests/2")).status_code == 404
    refused = await registry.get("/v2/other/nginx/manifests/2")
    assert refused.status_code == 503
    assert refused.json()["errors"][0]["message"].startswith(
        "The catalog fails: unable to open database file."
    )
